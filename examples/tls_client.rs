//! Sends bytes to the example `tls_server` and checks that the same bytes come back: tokio-rustls over rawtcp.
//! `cargo run --release --example tls_client -- 127.0.0.1:7443 --certificate /tmp/echo.der`

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use clap::Parser;
use rawtcp::net::TcpStream;
use rawtcp_examples::{Generated, generated};
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

#[derive(Parser)]
struct Arguments {
    /// The server
    #[arg(default_value = "127.0.0.1:7443")]
    address: String,
    /// The certificate to trust
    #[arg(long, default_value = "echo.der")]
    certificate: PathBuf,
    /// The name that the certificate has to be for
    #[arg(long, default_value = "localhost")]
    name: String,
    /// How many bytes to send
    #[arg(long, default_value_t = 1 << 20)]
    bytes: u64,
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<()> {
    let Arguments { address, certificate, name, bytes } = Arguments::parse();
    rawtcp_examples::init_tracing();

    let mut roots = RootCertStore::empty();
    roots.add(std::fs::read(certificate)?.into())?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));

    let stream = TcpStream::connect(&address).await?;
    let stream = connector.connect(ServerName::try_from(name)?, stream).await?;
    let (mut reader, mut writer) = io::split(stream);

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
    println!("{bytes} bytes came back unchanged");
    Ok(())
}
