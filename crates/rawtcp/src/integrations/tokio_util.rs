//! tokio-util's trait of listeners.

use crate::net::{TcpListener, TcpStream};
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use tokio_util::net::Listener;

/// For what takes any listener, and for `tokio_util::either::Either`: of ours and one of tokio's, say.
///
/// ```
/// use rawtcp::{Device, Stack};
/// use tokio_util::either::Either;
/// use tokio_util::net::Listener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let stack = Stack::builder().device(Device::Loopback).build()?; // stays inside the process
/// let listener = stack.bind("127.0.0.1:7000").await?;
/// let client = stack.connect("127.0.0.1:7000").await?;
///
/// let mut either: Either<rawtcp::net::TcpListener, tokio::net::TcpListener> = Either::Left(listener);
/// let Either::Left((stream, peer)) = either.accept().await? else { unreachable!() };
/// assert_eq!((peer, stream.local_addr()?), (client.local_addr()?, client.peer_addr()?));
/// # Ok(())
/// # }
/// ```
impl Listener for TcpListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        TcpListener::poll_accept(self, cx)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}
