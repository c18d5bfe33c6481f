//! [`TcpListener`].

use super::TcpStream;
use crate::conn_cell::ConnCell;
use crate::listener_cell::ListenerCell;
use crate::readiness::Bits;
use crate::sync::{Arc, Mutex, lock};
use crate::{ambient, error, stack};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use tokio::net::ToSocketAddrs;

/// A socket that waits for connections: `tokio::net::TcpListener` on this stack.
pub struct TcpListener {
    cell: Arc<ListenerCell>,
    /// Where the waker of the last `poll_accept` is.
    polled: Mutex<Option<usize>>,
}

impl TcpListener {
    pub(crate) fn new(cell: Arc<ListenerCell>) -> Self {
        TcpListener { cell, polled: Mutex::default() }
    }

    /// Listens on an address of the runtime's default stack. Port 0 is replaced by a free one, which
    /// [`local_addr`](Self::local_addr) tells. Several addresses are tried in order until one works.
    ///
    /// `[::]` accepts IPv4 too; such peers show as `::ffff:a.b.c.d`.
    ///
    /// # Errors
    /// Those of the last address: `AddrInUse` where the kernel or a stack of ours has the port,
    /// `PermissionDenied` for a privileged one or without CAP_NET_RAW.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub async fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<TcpListener> {
        let host = ambient::current()?;
        stack::bind(&host, addr).await
    }

    fn stream(&self, cell: Arc<ConnCell>) -> (TcpStream, SocketAddr) {
        let mapped = self.cell.local().is_ipv6() && cell.tuple().local.is_ipv4();
        // As tokio: an accepted stream is taken for readable until a look finds nothing.
        cell.lock().readiness.assume(Bits::READABLE);
        let stream = TcpStream::new(cell, mapped);
        let peer = stream.peer();
        (stream, peer)
    }

    /// Waits for a connection. Any number of tasks may; a dropped wait has accepted nothing.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let cell = self.cell.accept().await?;
        Ok(self.stream(cell))
    }

    /// As [`accept`](Self::accept); only the waker of the last call is kept.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        self.cell.poll_accept(cx, &mut lock(&self.polled)).map_ok(|cell| self.stream(cell))
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.cell.local())
    }

    /// The hop limit of connections accepted from now on.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.cell.ttl().into())
    }

    /// Sets the hop limit of connections accepted from now on: 1 to 255.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.cell.set_ttl(hop_limit(ttl)?);
        Ok(())
    }
}

/// A hop limit that Linux would take.
pub(super) fn hop_limit(ttl: u32) -> io::Result<u8> {
    u8::try_from(ttl).ok().filter(|&ttl| ttl > 0).ok_or_else(|| error::os(error::EINVAL))
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("addr", &self.cell.local()).finish()
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.cell.stop_waiting(&mut lock(&self.polled));
        self.cell.close(false);
    }
}
