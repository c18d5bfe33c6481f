//! Calls the example `grpc_server` in the four ways of gRPC, tonic over rawtcp:
//! `cargo run --release --example grpc_client -- http://127.0.0.1:50051 three little words`

use clap::Parser;
use futures::TryStreamExt;
use futures::stream::iter;
use rawtcp::client::HttpConnector;
use service::words_client::WordsClient;
use service::{Number, Text};
use tonic::transport::{Endpoint, Uri};

#[path = "grpc/service.rs"]
mod service;

#[derive(Parser)]
struct Arguments {
    /// The server
    #[arg(default_value = "http://127.0.0.1:50051")]
    url: Uri,
    /// What to send
    #[arg(default_values = ["hello", "from", "rawtcp"])]
    words: Vec<String>,
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<()> {
    let Arguments { url, words } = Arguments::parse();
    rawtcp_examples::init_tracing();

    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let channel = Endpoint::from(url).connect_with_connector(connector).await?;
    let mut client = WordsClient::new(channel);

    let text = client.upper(Text::new(words.join(" "))).await?.into_inner().text;
    println!("upper: {text}");

    let count = client.count(Number { number: words.len() as u64 }).await?.into_inner();
    let numbers: Vec<u64> = count.map_ok(|message| message.number).try_collect().await?;
    println!("count: {numbers:?}");

    let texts: Vec<Text> = words.into_iter().map(Text::new).collect();
    let longest = client.longest(iter(texts.clone())).await?.into_inner().text;
    println!("longest: {longest}");

    let echo = client.echo(iter(texts)).await?.into_inner();
    let echoed: Vec<String> = echo.map_ok(|message| message.text).try_collect().await?;
    println!("echo: {}", echoed.join(" "));
    Ok(())
}
