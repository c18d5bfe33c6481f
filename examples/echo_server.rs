//! Sends back what it receives: `cargo run --release --example echo_server -- 127.0.0.1:7000`
//!
//! Try it with `nc 127.0.0.1 7000`.

use clap::Parser;
use rawtcp::net::{TcpListener, TcpStream};
use rawtcp_examples::Signals;
use tokio::io::{self, AsyncWriteExt, BufReader};
use tokio_util::task::TaskTracker;

#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(default_value = "127.0.0.1:7000")]
    address: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    rawtcp_examples::init_tracing();
    let mut signals = Signals::new()?;

    let listener = TcpListener::bind(&arguments.address).await?;
    println!("listening on {}", listener.local_addr()?);

    let connections = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = signals.received() => break,
        };
        connections.spawn(async move {
            match echo(stream).await {
                Ok(bytes) => tracing::info!(%peer, bytes, "echoed"),
                Err(error) => tracing::info!(%peer, %error, "ended"),
            }
        });
    }
    drop(listener);
    signals.finish(connections).await;
    Ok(())
}

async fn echo(mut stream: TcpStream) -> io::Result<u64> {
    let (reader, mut writer) = stream.split();
    let bytes = io::copy_buf(&mut BufReader::with_capacity(64 << 10, reader), &mut writer).await?;
    writer.shutdown().await?;
    Ok(bytes)
}
