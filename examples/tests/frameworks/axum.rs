//! axum: who the peer is, and a graceful shutdown with an answer half given.

use super::{TcpListener, TcpStream};
use crate::Outcome;
use crate::frameworks::{End, Serving};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::routing::get;
use axum::serve::ListenerExt;
use futures::stream::{self, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) async fn serve(at: SocketAddr, serving: Serving) -> Outcome {
    let (shutdown, ending) = watch::channel(false);
    // The second half comes when the end of the server has begun.
    let slow = move || {
        let mut ending = ending.clone();
        let end = async move {
            ending.wait_for(|ending| *ending).await.ok();
            Ok(Bytes::from("end"))
        };
        let begin = stream::iter([Ok::<_, Infallible>(Bytes::from("begin "))]);
        async { Body::from_stream(begin.chain(stream::once(end))) }
    };
    let app = Router::new()
        .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
        .route("/slow", get(slow))
        .into_make_service_with_connect_info::<SocketAddr>();

    let listener = TcpListener::bind(at).await?;
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("it is open"));
    let end = serving.ready();
    let ended = async move {
        end.await.ok();
        shutdown.send_replace(true);
    };
    Ok(axum::serve(listener, app).with_graceful_shutdown(ended).await?)
}

type Sender = SendRequest<Empty<Bytes>>;

async fn connect(at: SocketAddr) -> Result<(Sender, SocketAddr, JoinHandle<hyper::Result<()>>), hyper::Error> {
    let stream = TcpStream::connect(at).await.expect("the server listens");
    let local = stream.local_addr().expect("it is open");
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    Ok((sender, local, tokio::spawn(connection)))
}

fn get_request(path: &str) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    Request::get(path).header("host", "server").body(Empty::new())
}

pub(crate) async fn call(at: SocketAddr, end: End) -> Outcome {
    let (mut idle, local, idle_ended) = connect(at).await?;
    for _ in 0..3 {
        let answer = idle.send_request(get_request("/peer")?).await?;
        assert_eq!(answer.into_body().collect().await?.to_bytes(), local.to_string());
    }

    let (mut sender, _, ended) = connect(at).await?;
    let mut body = sender.send_request(get_request("/slow")?).await?.into_body();
    let begin = body.frame().await.ok_or("no body")??;
    assert_eq!(begin.into_data().ok(), Some(Bytes::from("begin ")));

    end.send(()).map_err(|()| "the server has gone")?;
    assert_eq!(body.collect().await?.to_bytes(), "end");
    // Both connections end without an error: the one that was served when it is, the other one at once.
    ended.await??;
    idle_ended.await??;
    // axum lets go of the listener at the same time; whoever comes just before that sees the end, too.
    let late = loop {
        match TcpStream::connect(at).await {
            Ok(mut stream) => drop(stream.read(&mut [0]).await),
            // Reset before we looked whether the handshake was done.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => break error,
        }
    };
    assert_eq!(late.kind(), ErrorKind::ConnectionRefused);
    Ok(())
}
