//! Connects, and says hello.

use std::env;
use std::error::Error;

use rawtcp::net::TcpStream;
use tokio::io::AsyncWriteExt;

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6142".to_owned());
    let mut stream = TcpStream::connect(&addr).await?;
    println!("connected to {}", stream.peer_addr()?);

    stream.write_all(b"hello world\n").await?;
    println!("said hello");
    Ok(())
}
