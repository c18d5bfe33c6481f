//! `axum::serve` on our listener.

use crate::net::{TcpListener, TcpStream};
use axum::serve::Listener;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

/// How long after an error of the listener itself: whatever ran out may be there again by then. axum's own.
const PAUSE: Duration = Duration::from_secs(1);

/// For `axum::serve`. Errors are logged and accepting goes on, as with tokio's listener.
///
/// ```
/// use axum::extract::ConnectInfo;
/// use axum::routing::get;
/// use axum::serve::ListenerExt;
/// use rawtcp::{Device, Stack};
/// use std::net::SocketAddr;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// async fn who(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
///     format!("you are {peer}")
/// }
///
/// let stack = Stack::builder().device(Device::Loopback).build()?; // stays inside the process
/// let listener = stack.bind("127.0.0.1:80").await?.tap_io(|stream| {
///     stream.set_nodelay(true).ok();
/// });
/// let app = axum::Router::new().route("/", get(who)).into_make_service_with_connect_info::<SocketAddr>();
/// tokio::spawn(async { axum::serve(listener, app).await });
///
/// let mut client = stack.connect("127.0.0.1:80").await?;
/// client.write_all(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").await?;
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).await?;
/// assert!(answer.ends_with(&format!("you are {}", client.local_addr()?)));
/// # Ok(())
/// # }
/// ```
///
/// `ConnectInfo<SocketAddr>` needs the `tap_io`, be it empty: without it axum allows it for tokio's own listener only.
impl Listener for TcpListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match TcpListener::accept(self).await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!("accept error: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}

/// The next connection has nothing to do with it.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}
