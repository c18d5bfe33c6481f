//! Sends bytes to an echo server and checks that the same bytes come back:
//! `cargo run --release --example echo_client -- 127.0.0.1:7000`

use std::time::Instant;

use anyhow::ensure;
use clap::Parser;
use rawtcp::net::TcpStream;
use rawtcp_examples::{Generated, generated};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Parser)]
struct Arguments {
    /// The echo server
    #[arg(default_value = "127.0.0.1:7000")]
    address: String,
    /// How many bytes to send
    #[arg(long, default_value_t = 1 << 20)]
    bytes: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { address, bytes } = Arguments::parse();
    rawtcp_examples::init_tracing();

    let started = Instant::now();
    let mut stream = TcpStream::connect(&address).await?;
    let (mut reader, mut writer) = stream.split();

    let send = async {
        for block in Generated::new(bytes) {
            writer.write_all(&block).await?;
        }
        writer.shutdown().await?;
        anyhow::Ok(())
    };
    let receive = async {
        let mut received = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = reader.read(&mut buffer).await?;
            if length == 0 {
                return Ok(received);
            }
            let same = buffer[..length] == generated(received, length as u64);
            ensure!(same, "other bytes came back within the {length} from {received} on");
            received += length as u64;
        }
    };
    let ((), received) = tokio::try_join!(send, receive)?;

    ensure!(received == bytes, "{received} of {bytes} bytes came back");
    println!("{bytes} bytes came back unchanged in {:?}", started.elapsed());
    Ok(())
}
