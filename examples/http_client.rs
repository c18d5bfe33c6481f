//! Fetches a URL, hyper over rawtcp: `cargo run --release --example http_client -- http://127.0.0.1:8080/`
//!
//! Prints the status, the length and the SHA-256 of the body. Ends with an error if the body was cut short or the status
//! is not a success.

use anyhow::{Context, ensure};
use clap::Parser;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rawtcp::net::TcpStream;
use sha2::{Digest, Sha256};

#[derive(Parser)]
struct Arguments {
    /// What to fetch
    #[arg(default_value = "http://127.0.0.1:8080/")]
    url: Uri,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { url } = Arguments::parse();
    rawtcp_examples::init_tracing();
    ensure!(url.scheme_str() == Some("http"), "only http:// URLs");
    let authority = url.authority().context("the URL names no host")?;

    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(&address).await.with_context(|| format!("can not connect to {address}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);

    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, authority.as_str()).body(Empty::<Bytes>::new())?;
    let mut answer = sender.send_request(request).await?;

    let mut length = 0;
    let mut digest = Sha256::new();
    while let Some(frame) = answer.frame().await {
        if let Ok(data) = frame?.into_data() {
            length += data.len();
            digest.update(&data);
        }
    }
    let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("status {}\nlength {length}\nsha256 {digest}", answer.status());
    ensure!(answer.status().is_success(), "the server refused");
    Ok(())
}
