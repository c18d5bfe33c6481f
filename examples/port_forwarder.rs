//! Forwards ports, as `ssh -L` does without the encryption:
//! `cargo run --release --example port_forwarder -- 127.0.0.1:8081=example.org:80 [::1]:2222=10.0.0.5:22`
//!
//! Clients speak to rawtcp. Targets are reached by rawtcp, or with `--kernel` by the kernel's TCP: both are streams, and
//! nothing else changes. Names are looked up for each connection.

use std::io::ErrorKind;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use rawtcp::net::{TcpListener, TcpStream};
use rawtcp_examples::Signals;
use tokio::io::{self, AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

#[derive(Parser)]
struct Arguments {
    /// What to forward: LISTEN=TARGET, both address:port
    #[arg(required = true)]
    rules: Vec<Rule>,
    /// Reach the targets by the kernel's TCP
    #[arg(long)]
    kernel: bool,
    /// Seconds that a target may take to answer
    #[arg(long, default_value_t = 10)]
    patience: u64,
}

#[derive(Clone, Debug)]
struct Rule {
    listen: String,
    target: String,
}

impl FromStr for Rule {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (listen, target) = text.split_once('=').ok_or("not LISTEN=TARGET")?;
        Ok(Rule { listen: listen.to_owned(), target: target.to_owned() })
    }
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<()> {
    let Arguments { rules, kernel, patience } = Arguments::parse();
    rawtcp_examples::init_tracing();
    let mut signals = Signals::new()?;

    let connections = TaskTracker::new();
    let mut listeners = JoinSet::new();
    for Rule { listen, target } in rules {
        let listener = TcpListener::bind(&listen).await.with_context(|| format!("can not listen on {listen}"))?;
        println!("{} goes to {target}", listener.local_addr()?);
        listeners.spawn(serve(listener, target, kernel, Duration::from_secs(patience), connections.clone()));
    }
    println!("ready");

    tokio::select! {
        () = signals.received() => {}
        Some(ended) = listeners.join_next() => ended??,
    }
    listeners.shutdown().await;
    signals.finish(connections).await;
    Ok(())
}

async fn serve(
    listener: TcpListener,
    target: String,
    kernel: bool,
    patience: Duration,
    connections: TaskTracker,
) -> io::Result<()> {
    loop {
        let (client, peer) = listener.accept().await?;
        client.set_nodelay(true)?;
        let target = target.clone();
        connections.spawn(async move {
            let result = if kernel {
                forward(client, tokio::net::TcpStream::connect(&target), patience).await
            } else {
                forward(client, TcpStream::connect(&target), patience).await
            };
            match result {
                Ok((sent, received)) => tracing::info!(%peer, target, sent, received, "forwarded"),
                Err(error) => tracing::warn!(%peer, target, %error, "ended"),
            }
        });
    }
}

/// Either side may close its direction first. A client whose target can not be reached is reset, not left to think that it
/// said nothing.
async fn forward<S>(
    mut client: TcpStream,
    target: impl Future<Output = io::Result<S>>,
    patience: Duration,
) -> io::Result<(u64, u64)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let reached = timeout(patience, target).await.unwrap_or(Err(ErrorKind::TimedOut.into()));
    match reached {
        Ok(mut target) => io::copy_bidirectional(&mut client, &mut target).await,
        Err(error) => {
            client.set_zero_linger()?;
            Err(error)
        }
    }
}
