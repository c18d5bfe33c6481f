//! Passes each connection on to another server.

use std::env;
use std::error::Error;

use rawtcp::net::{TcpListener, TcpStream};
use tokio::io::copy_bidirectional;

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let listen = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8081".to_owned());
    let server = env::args().nth(2).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&listen).await?;
    println!("listening on {}", listener.local_addr()?);
    println!("proxying to {server}");

    while let Ok((mut inbound, _)) = listener.accept().await {
        let server = server.clone();
        tokio::spawn(async move {
            let result = async {
                let mut outbound = TcpStream::connect(server).await?;
                copy_bidirectional(&mut inbound, &mut outbound).await
            };
            match result.await {
                Ok((up, down)) => println!("{up} bytes up, {down} down"),
                Err(error) => println!("failed: {:?}", error.kind()),
            }
        });
    }
    Ok(())
}
