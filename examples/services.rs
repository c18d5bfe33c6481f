//! Four simple services on four ports, to try things against:
//! `cargo run --release --example services -- 127.0.0.1 --base-port 7000`
//!
//! - base + 0 sends back what it receives;
//! - base + 1 accepts and never reads: its window closes;
//! - base + 2 sends for ever, byte number `i` being `i % 251`, and never reads;
//! - base + 3 reads everything and says nothing.

use std::net::{IpAddr, Ipv4Addr};

use clap::Parser;
use rawtcp::net::{TcpListener, TcpStream};
use rawtcp_examples::{Generated, Signals};
use tokio::io::{self, AsyncWriteExt, BufReader, Interest};
use tokio::task::JoinSet;

#[derive(Parser)]
struct Arguments {
    /// The address to listen on
    #[arg(default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// The first of the four ports; with 0 all four are chosen by the system
    #[arg(long, default_value_t = 7000, value_parser = clap::value_parser!(u16).range(..=i64::from(u16::MAX - 3)))]
    base_port: u16,
}

#[derive(Clone, Copy, Debug)]
enum Service {
    Echo,
    NeverReads,
    Source,
    Discard,
}

const SERVICES: [Service; 4] = [Service::Echo, Service::NeverReads, Service::Source, Service::Discard];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { address, base_port } = Arguments::parse();
    rawtcp_examples::init_tracing();
    let mut signals = Signals::new()?;

    let mut listeners = JoinSet::new();
    let mut names = Vec::new();
    for (port, service) in (base_port..).zip(SERVICES) {
        let port = if base_port == 0 { 0 } else { port };
        let listener = TcpListener::bind((address, port)).await?;
        names.push(format!("{} ({service:?})", listener.local_addr()?));
        listeners.spawn(serve(listener, service));
    }
    println!("listening on {}", names.join(", "));

    tokio::select! {
        // Some of the services never end by themselves. The connections end with the runtime, which goes next.
        () = signals.received() => Ok(()),
        Some(ended) = listeners.join_next() => Ok(ended??),
    }
}

async fn serve(listener: TcpListener, service: Service) -> io::Result<()> {
    loop {
        let (stream, peer) = listener.accept().await?;
        tokio::spawn(async move {
            let result = service.run(stream).await;
            tracing::info!(%peer, ?service, ?result, "ended");
        });
    }
}

impl Service {
    async fn run(self, mut stream: TcpStream) -> io::Result<()> {
        match self {
            Service::Echo => {
                let (reader, mut writer) = stream.split();
                io::copy_buf(&mut BufReader::with_capacity(64 << 10, reader), &mut writer).await?;
            }
            Service::NeverReads => {
                stream.ready(Interest::ERROR).await?;
            }
            Service::Source => {
                for block in Generated::new(u64::MAX) {
                    stream.write_all(&block).await?;
                }
            }
            Service::Discard => {
                io::copy_buf(&mut BufReader::with_capacity(64 << 10, stream), &mut io::sink()).await?;
            }
        }
        Ok(())
    }
}
