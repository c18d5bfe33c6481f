//! What the tests have in common.

use super::net::{TcpListener, TcpStream};
use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), what).await.expect("hangs")
}

pub(super) async fn pair_at(addr: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (client, accepted) = soon(async { tokio::join!(TcpStream::connect(addr), listener.accept()) }).await;
    let (client, server) = (client.unwrap(), accepted.unwrap().0);
    // An accepted stream is taken for readable until a look finds nothing (see `sticky`). An event that comes during
    // the look keeps the readiness: then once more.
    for stream in [&client, &server] {
        while futures::poll!(pin!(stream.readable())).is_ready() {
            assert_eq!(stream.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    }
    (client, server)
}

pub(super) async fn pair() -> (TcpStream, TcpStream) {
    pair_at("127.0.0.1:0").await
}
