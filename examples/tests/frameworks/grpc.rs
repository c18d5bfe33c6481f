//! tonic: the four kinds of calls, errors, large messages, and who the peer is.

use super::{HttpConnector, TcpIncoming};
use crate::Outcome;
use crate::frameworks::{End, Serving, service, words};
use futures::stream::iter;
use futures::{StreamExt, TryStreamExt};
use service::words_client::WordsClient;
use service::words_server::WordsServer;
use service::{Number, Text};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Status};

/// More than a flow-control window of HTTP/2.
const LARGE: usize = 1 << 20;

pub(crate) async fn serve(at: SocketAddr, serving: Serving) -> Outcome {
    let incoming = TcpIncoming::bind(at)?.with_nodelay(Some(true)).with_keepalive(Some(Duration::from_secs(60)));
    assert_eq!(incoming.local_addr()?, at);
    let end = serving.ready();
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = peers.clone();
    let check = move |request: Request<()>| {
        let (Some(peer), Some(local)) = (request.remote_addr(), request.local_addr()) else {
            return Err(Status::internal("no addresses"));
        };
        seen.lock().expect("not poisoned").push((peer, local));
        Ok(request)
    };
    let service = WordsServer::with_interceptor(words::WordsService, check);
    let ended = async { end.await.unwrap_or_default() };
    Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, ended).await?;

    let peers = peers.lock().expect("not poisoned");
    let (peer, _) = *peers.first().ok_or("no calls")?;
    assert!(peers.len() >= 5 && peers.iter().all(|seen| *seen == (peer, at)), "{peers:?}");
    Ok(())
}

pub(crate) async fn call(at: SocketAddr, end: End) -> Outcome {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let endpoint = Endpoint::from_shared(format!("http://{at}"))?.connect_timeout(Duration::from_secs(20));
    let mut client = WordsClient::new(endpoint.connect_with_connector(connector).await?);

    let upper = client.upper(Text::new("a word")).await?.into_inner();
    assert_eq!(upper.text, "A WORD");
    let status = client.upper(Text::default()).await.expect_err("no text");
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "no text"));
    let large = "x".repeat(LARGE);
    assert_eq!(client.upper(Text::new(&large)).await?.into_inner().text, large.to_uppercase());

    let count = client.count(Number { number: 10_000 }).await?.into_inner();
    let numbers: Vec<u64> = count.map_ok(|message| message.number).try_collect().await?;
    assert_eq!(numbers, (1..=10_000).collect::<Vec<_>>());
    // A stream that nobody reads to its end.
    let mut endless = client.count(Number { number: u64::MAX }).await?.into_inner();
    assert_eq!(endless.try_next().await?.map(|message| message.number), Some(1));
    drop(endless);

    let texts = || iter((0..1000).map(|i| Text::new("y".repeat(i))));
    assert_eq!(client.longest(texts()).await?.into_inner().text.len(), 999);

    // Each answer is waited for before the next word is said.
    let (words, said) = tokio::sync::mpsc::channel(1);
    let said = futures::stream::unfold(said, async |mut said| said.recv().await.map(|text| (text, said)));
    words.send(Text::new("word 0")).await?;
    let mut echo = client.echo(said.boxed()).await?.into_inner();
    for i in 0..100 {
        let text = echo.try_next().await?.ok_or("the stream has ended")?;
        assert_eq!(text.text, format!("word {i}"));
        words.send(Text::new(format!("word {}", i + 1))).await?;
    }
    drop(words);
    assert_eq!(echo.map_ok(|text| text.text).try_collect::<Vec<_>>().await?, ["word 100"]);
    end.send(()).map_err(|()| "the server has gone".into())
}
