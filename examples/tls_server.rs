//! Sends back what it receives, over TLS: tokio-rustls over rawtcp.
//! `cargo run --release --example tls_server -- 127.0.0.1:7443 --certificate /tmp/echo.der`
//!
//! Makes a key and a certificate for `localhost` at each start, and writes the certificate for the example `tls_client` to
//! trust.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use rawtcp::net::{TcpListener, TcpStream};
use rawtcp_examples::Signals;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{self, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_util::task::TaskTracker;

#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(default_value = "127.0.0.1:7443")]
    address: String,
    /// Where to write the certificate
    #[arg(long, default_value = "echo.der")]
    certificate: PathBuf,
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<()> {
    let Arguments { address, certificate } = Arguments::parse();
    rawtcp_examples::init_tracing();
    let mut signals = Signals::new()?;

    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(certificate, cert.der())?;
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.into()], key.into())?;
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);

    let connections = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = signals.received() => break,
        };
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            match echo(acceptor, stream).await {
                Ok(bytes) => tracing::info!(%peer, bytes, "echoed"),
                Err(error) => tracing::info!(%peer, %error, "ended"),
            }
        });
    }
    drop(listener);
    signals.finish(connections).await;
    Ok(())
}

async fn echo(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<u64> {
    let (mut reader, mut writer) = io::split(acceptor.accept(stream).await?);
    let bytes = io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await?;
    Ok(bytes)
}
