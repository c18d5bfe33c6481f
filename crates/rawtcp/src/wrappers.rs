//! Connections as a [`Stream`], as `tokio_stream::wrappers` has them for tokio's listener.

#[cfg(feature = "tonic")]
mod incoming;

#[cfg(feature = "tonic")]
pub use incoming::TcpIncoming;

use crate::net::{TcpListener, TcpStream};
use futures::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The connections that a [`TcpListener`] accepts: `tokio_stream::wrappers::TcpListenerStream` on this stack. It
/// never ends; an error does not end it either.
///
/// ```
/// use futures::{StreamExt, TryStreamExt};
/// use rawtcp::wrappers::TcpListenerStream;
/// use rawtcp::{Device, Stack};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let stack = Stack::builder().device(Device::Loopback).build()?; // stays inside the process
/// let listener = stack.bind("127.0.0.1:7000").await?;
/// let clients = [stack.connect("127.0.0.1:7000").await?, stack.connect("127.0.0.1:7000").await?];
///
/// let two: Vec<_> = TcpListenerStream::new(listener).take(2).try_collect().await?;
/// assert_eq!(two[1].peer_addr()?, clients[1].local_addr()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TcpListenerStream {
    inner: TcpListener,
}

impl TcpListenerStream {
    /// The connections of `listener`.
    pub fn new(listener: TcpListener) -> Self {
        TcpListenerStream { inner: listener }
    }

    /// The listener again.
    pub fn into_inner(self) -> TcpListener {
        self.inner
    }
}

impl Stream for TcpListenerStream {
    type Item = io::Result<TcpStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_accept(cx).map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    }
}

impl AsRef<TcpListener> for TcpListenerStream {
    fn as_ref(&self) -> &TcpListener {
        &self.inner
    }
}

impl AsMut<TcpListener> for TcpListenerStream {
    fn as_mut(&mut self) -> &mut TcpListener {
        &mut self.inner
    }
}
