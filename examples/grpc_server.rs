//! A gRPC server, tonic over rawtcp: `cargo run --release --example grpc_server -- 127.0.0.1:50051`
//!
//! Try it with the example `grpc_client`.

use std::net::SocketAddr;

use clap::Parser;
use rawtcp::wrappers::TcpIncoming;
use rawtcp_examples::Signals;
use tonic::transport::Server;

#[path = "grpc/service.rs"]
mod service;
#[path = "grpc/words.rs"]
mod words;

#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(default_value = "127.0.0.1:50051")]
    address: SocketAddr,
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<()> {
    let Arguments { address } = Arguments::parse();
    rawtcp_examples::init_tracing();
    let mut signals = Signals::new()?;

    let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
    println!("listening on {}", incoming.local_addr()?);

    let words = service::words_server::WordsServer::new(words::WordsService);
    Server::builder().add_service(words).serve_with_incoming_shutdown(incoming, signals.received()).await?;
    Ok(())
}
