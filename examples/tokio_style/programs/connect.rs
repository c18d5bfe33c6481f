//! Connects standard input and output to a server, as `nc` does.

use std::env;
use std::error::Error;

use rawtcp::net::TcpStream;
use tokio::io::{AsyncWriteExt, copy, stdin, stdout};

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1).ok_or("usage: connect ADDRESS")?;
    let mut stream = TcpStream::connect(&addr).await?;
    let (mut reader, mut writer) = stream.split();

    let upload = async {
        copy(&mut stdin(), &mut writer).await?;
        // The end of the input is the end of what we say; the server may still have an answer.
        writer.shutdown().await
    };
    let download = async {
        let mut stdout = stdout();
        copy(&mut reader, &mut stdout).await?;
        stdout.flush().await
    };
    tokio::try_join!(upload, download)?;
    Ok(())
}
