//! Sends every client its own bytes back.

use std::env;
use std::error::Error;

use rawtcp::net::TcpListener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&addr).await?;
    println!("listening on {}", listener.local_addr()?);

    loop {
        let (mut socket, peer) = listener.accept().await?;
        tokio::spawn(async move {
            let mut buf = vec![0; 1024];
            let mut total = 0;
            loop {
                match socket.read(&mut buf).await {
                    Ok(0) => break println!("{peer} sent {total} bytes"),
                    Ok(n) if socket.write_all(&buf[..n]).await.is_ok() => total += n,
                    Ok(_) => break println!("{peer} no longer reads"),
                    Err(error) => break println!("{peer} after {total} bytes: {:?}", error.kind()),
                }
            }
        });
    }
}
