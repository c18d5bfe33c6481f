//! Forwards connections: `cargo run --release --example proxy -- 127.0.0.1:8081 127.0.0.1:8080`
//!
//! Either side may close its direction first; the other one goes on until it is closed too.

use clap::Parser;
use rawtcp::net::{TcpListener, TcpStream};
use rawtcp_examples::Signals;
use tokio::io;
use tokio_util::task::TaskTracker;

#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(default_value = "127.0.0.1:8081")]
    address: String,
    /// Where to forward to
    #[arg(default_value = "127.0.0.1:8080")]
    target: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { address, target } = Arguments::parse();
    rawtcp_examples::init_tracing();
    let mut signals = Signals::new()?;

    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);

    let connections = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = signals.received() => break,
        };
        let target = target.clone();
        connections.spawn(async move {
            match forward(stream, &target).await {
                Ok((sent, received)) => tracing::info!(%peer, sent, received, "forwarded"),
                Err(error) => tracing::info!(%peer, %error, "ended"),
            }
        });
    }
    drop(listener);
    signals.finish(connections).await;
    Ok(())
}

async fn forward(mut client: TcpStream, target: &str) -> io::Result<(u64, u64)> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    io::copy_bidirectional_with_sizes(&mut client, &mut server, 64 << 10, 64 << 10).await
}
