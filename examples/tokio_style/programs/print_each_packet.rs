//! Prints what comes in, in the pieces in which it comes.

use std::env;
use std::error::Error;

use futures::StreamExt;
use rawtcp::net::TcpListener;
use tokio_util::codec::{BytesCodec, Decoder};

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&addr).await?;
    println!("listening on {}", listener.local_addr()?);

    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut pieces = BytesCodec::new().framed(stream);
            while let Some(piece) = pieces.next().await {
                match piece {
                    Ok(bytes) => println!("received: {bytes:?}"),
                    Err(error) => println!("ended with an error: {:?}", error.kind()),
                }
            }
            println!("the client has closed the connection");
        });
    }
}
