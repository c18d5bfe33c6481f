//! A web server, axum over rawtcp: `cargo run --release --example axum_server -- 127.0.0.1:8080`
//!
//! `GET /` greets, `GET /peer` tells who asks, `POST /echo` answers with what it was sent.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use clap::Parser;
use rawtcp::net::TcpListener;
use rawtcp_examples::Signals;

#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(default_value = "127.0.0.1:8080")]
    address: String,
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    rawtcp_examples::init_tracing();
    let mut signals = Signals::new()?;

    let app = Router::new()
        .route("/", get(|| async { "hello from axum on rawtcp\n" }))
        .route("/peer", get(peer))
        .route("/echo", post(|body: Bytes| async { body }))
        .into_make_service_with_connect_info::<SocketAddr>();

    let listener = TcpListener::bind(&arguments.address).await?;
    println!("listening on {}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::warn!(%error, "can not switch Nagle's algorithm off");
        }
    });

    // Whoever is being answered gets the rest, but an idle client may not keep the server for ever.
    axum::serve(listener, app).with_graceful_shutdown(async move { signals.received().await }).await?;
    Ok(())
}

async fn peer(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    format!("{peer}\n")
}
