//! [`TcpIncoming`].

use super::TcpListenerStream;
use crate::client::keepalive;
use crate::net::{TcpListener, TcpSocket, TcpStream};
use futures::Stream;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// tokio's, for listeners of which nobody says more.
const BACKLOG: u32 = 1024;

/// Connections for a tonic server's `serve_with_incoming`, with socket options: `tonic::transport::server::TcpIncoming`
/// on this stack.
///
/// The `tcp_nodelay` and `tcp_keepalive` of tonic's `Server` hold for the sockets that tonic binds by itself, and are
/// off in whatever comes in by another way: small messages want [`with_nodelay`](Self::with_nodelay).
#[derive(Debug)]
pub struct TcpIncoming {
    inner: TcpListenerStream,
    nodelay: Option<bool>,
    idle: Option<Duration>,
    interval: Option<Duration>,
    retries: Option<u32>,
}

impl TcpIncoming {
    /// Listens on an address of the runtime's default stack.
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = if addr.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Ok(socket.listen(BACKLOG)?.into())
    }

    /// Switches Nagle's algorithm off, or on, for each connection accepted. `None`: as the listener has it.
    pub fn with_nodelay(mut self, nodelay: Option<bool>) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Switches keep-alive on for each connection accepted, with this idle time before the first probe.
    pub fn with_keepalive(mut self, idle: Option<Duration>) -> Self {
        self.idle = idle;
        self
    }

    /// Switches keep-alive on for each connection accepted, with this time between probes.
    pub fn with_keepalive_interval(mut self, interval: Option<Duration>) -> Self {
        self.interval = interval;
        self
    }

    /// Switches keep-alive on for each connection accepted, with this number of unanswered probes.
    pub fn with_keepalive_retries(mut self, retries: Option<u32>) -> Self {
        self.retries = retries;
        self
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.as_ref().local_addr()
    }

    /// A connection may have ended before it is accepted; its reader finds out.
    fn set_options(&self, stream: &TcpStream) {
        if let Some(nodelay) = self.nodelay {
            stream.set_nodelay(nodelay).ok();
        }
        if let Some(keepalive) = keepalive(self.idle, self.interval, self.retries) {
            stream.set_keepalive(Some(keepalive)).ok();
        }
    }
}

impl From<TcpListener> for TcpIncoming {
    fn from(listener: TcpListener) -> Self {
        let inner = TcpListenerStream::new(listener);
        TcpIncoming { inner, nodelay: None, idle: None, interval: None, retries: None }
    }
}

impl Stream for TcpIncoming {
    type Item = io::Result<TcpStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.inner).poll_next(cx);
        if let Poll::Ready(Some(Ok(stream))) = &polled {
            self.set_options(stream);
        }
        polled
    }
}
