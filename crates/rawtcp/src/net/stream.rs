//! [`TcpStream`].

use super::listener::hop_limit;
use super::socket::linger_seconds;
use super::split::{ReadHalf, WriteHalf, split};
use super::split_owned::{OwnedReadHalf, OwnedWriteHalf, split_owned};
use crate::cc::CongestionControl;
use crate::conn_cell::ConnCell;
use crate::readiness::Bits;
use crate::sync::Arc;
use crate::{ambient, congestion, error, stack};
use bytes::{Buf, BufMut, Bytes};
use rawtcp_proto::{Keepalive, TcpInfo};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::ToSocketAddrs;

/// A connection: `tokio::net::TcpStream` on this stack.
///
/// Dropping it closes the connection in the background: everything written is still delivered, then the
/// FIN. If received data has not been read, or after [`set_zero_linger`](Self::set_zero_linger), the
/// connection is reset.
pub struct TcpStream {
    cell: Arc<ConnCell>,
    /// IPv4 behind an IPv6 socket: addresses show as `::ffff:a.b.c.d`.
    mapped: bool,
}

impl TcpStream {
    pub(crate) fn new(cell: Arc<ConnCell>, mapped: bool) -> Self {
        TcpStream { cell, mapped }
    }

    pub(crate) fn cell(&self) -> &Arc<ConnCell> {
        &self.cell
    }

    fn show(&self, addr: SocketAddr) -> SocketAddr {
        match addr.ip() {
            IpAddr::V4(ip) if self.mapped => (ip.to_ipv6_mapped(), addr.port()).into(),
            _ => addr,
        }
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.show(self.cell.tuple().remote)
    }

    /// Opens a connection by the runtime's default stack. Several addresses are tried in order.
    ///
    /// # Errors
    /// Those of the last address: `ConnectionRefused`, `TimedOut`, `NetworkUnreachable`,
    /// `HostUnreachable`; `PermissionDenied` without CAP_NET_RAW; `InvalidInput` if there is no address.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub async fn connect<A: ToSocketAddrs>(addr: A) -> io::Result<TcpStream> {
        let host = ambient::current()?;
        stack::connect(&host, addr).await
    }

    /// This end's address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.show(self.cell.tuple().local))
    }

    /// The peer's address.
    ///
    /// # Errors
    /// `NotConnected` once the connection is over, as Linux has it: after a reset, and when both directions have ended.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        if self.cell.is_disconnected() { Err(error::os(error::ENOTCONN)) } else { Ok(self.peer()) }
    }

    /// The error of the connection that no call has reported yet (SO_ERROR); taking it clears it.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.cell.lock().conn.take_error().map(error::from_reason))
    }

    /// Looks at received data without taking it; only the waker of the last call is kept.
    pub fn poll_peek(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        self.cell.poll_peek(cx, buf)
    }

    /// Looks at received data without taking it. Any number of tasks may; cancel safe.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.cell.async_io(Bits::READ, || self.cell.try_peek(buf)).await
    }

    /// Waits for any of the requested states. May be spurious; stays ready until an operation found
    /// nothing. Any number of tasks may; cancel safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        Ok(self.cell.ready(Bits::of(interest)).await?.bits.to_ready())
    }

    /// Waits until reading is worth a try: `ready(Interest::READABLE)`.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until writing is worth a try: `ready(Interest::WRITABLE)`. As tokio's it gives way to no other task while there is
    /// room.
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(drop)
    }

    /// As [`readable`](Self::readable); only the waker of the last call is kept.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cell.poll_ready(cx, Bits::READ)
    }

    /// As [`writable`](Self::writable); only the waker of the last call is kept.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cell.poll_ready(cx, Bits::WRITE)
    }

    /// Reads what is there; never waits. `Ok(0)` is the end of the stream, or an empty buffer.
    ///
    /// # Errors
    /// `WouldBlock` if the stream is not ready.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.cell.try_read(buf)
    }

    /// As [`try_read`](Self::try_read), into several buffers.
    pub fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.cell.try_read_vectored(bufs)
    }

    /// As [`try_read`](Self::try_read), into a growing buffer.
    pub fn try_read_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
        self.cell.try_read_buf(buf)
    }

    /// Writes as much as there is room for; never waits.
    ///
    /// # Errors
    /// `WouldBlock` if the stream is not ready.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.cell.try_write(buf)
    }

    /// As [`try_write`](Self::try_write), from several buffers.
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.cell.try_write_vectored(bufs)
    }

    /// Runs `f` if the stream is ready; `f` says `WouldBlock` if it found it was not, which clears the
    /// readiness. As with tokio, several interests at once are never ready here.
    pub fn try_io<R>(&self, interest: Interest, f: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.cell.try_io(Bits::direction(interest), f)
    }

    /// Runs `f` whenever the stream is ready, until it says something else than `WouldBlock`.
    pub async fn async_io<R>(&self, interest: Interest, f: impl FnMut() -> io::Result<R>) -> io::Result<R> {
        self.cell.async_io(Bits::of(interest), f).await
    }

    /// Whether small segments are sent at once.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.cell.lock().conn.nodelay())
    }

    /// Sends small segments at once, instead of waiting for company while something is unacknowledged
    /// (Nagle; RFC 9293 §3.7.4).
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.cell.with(|inner, _| inner.conn.set_nodelay(nodelay));
        Ok(())
    }

    /// The linger time, as set.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        Ok(self.cell.lock().linger)
    }

    /// Sets the linger time, in whole seconds. Zero makes `drop` reset the connection; other values are
    /// stored, and do not block `drop`.
    #[deprecated = "`SO_LINGER` causes the socket to block the thread on drop"]
    pub fn set_linger(&self, dur: Option<Duration>) -> io::Result<()> {
        self.cell.lock().linger = linger_seconds(dur);
        Ok(())
    }

    /// Makes `drop` reset the connection: buffered data is discarded, and there is no TIME-WAIT.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        self.cell.lock().linger = Some(Duration::ZERO);
        Ok(())
    }

    /// The hop limit.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.cell.lock().conn.config().ttl.into())
    }

    /// Sets the hop limit: 1 to 255.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = hop_limit(ttl)?;
        self.cell.lock().conn.set_ttl(ttl);
        Ok(())
    }

    /// Whether ACKs are sent at once rather than delayed, as last set.
    pub fn quickack(&self) -> io::Result<bool> {
        Ok(self.cell.lock().quickack)
    }

    /// Sends ACKs at once, or delays them so that they find company. Not for good: the stack goes back to what it
    /// thinks best, as Linux does.
    pub fn set_quickack(&self, quickack: bool) -> io::Result<()> {
        self.cell.with(|inner, _| {
            inner.quickack = quickack;
            inner.conn.set_quickack(quickack);
        });
        Ok(())
    }

    /// A snapshot of the connection, as Linux's TCP_INFO. Not in tokio.
    pub fn tcp_info(&self) -> TcpInfo {
        self.cell.with(|inner, now| inner.conn.info_at(now))
    }

    /// The name of the congestion control. Not in tokio.
    pub fn congestion(&self) -> io::Result<&'static str> {
        Ok(self.cell.lock().conn.congestion())
    }

    /// Replaces the congestion control, by name (TCP_CONGESTION); it goes on from where the old one was. Not in
    /// tokio.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name.
    pub fn set_congestion(&self, name: &str) -> io::Result<()> {
        let factory = congestion::by_name(name)?;
        self.cell.with(|inner, _| inner.conn.set_congestion(factory));
        Ok(())
    }

    /// As [`set_congestion`](Self::set_congestion), with one of the caller's: it is told the segment size and
    /// [imports](CongestionControl::import) where the old one was. Not in tokio.
    pub fn set_congestion_control(&self, control: Box<dyn CongestionControl>) {
        self.cell.with(|inner, _| inner.conn.set_congestion_control(control));
    }

    /// Whether what the congestion window allows is spread over the round trip, if the congestion control states no
    /// rate itself; one that does is always paced (SO_MAX_PACING_RATE's side effect on Linux, or its `fq` scheduler).
    /// Off unless it is set. Not in tokio.
    pub fn set_pacing(&self, pacing: bool) {
        self.cell.with(|inner, _| inner.conn.set_pacing(pacing));
    }

    /// Data leaves at no more than so many bytes per second (SO_MAX_PACING_RATE); `None`: as the windows and the
    /// congestion control allow. Not in tokio.
    pub fn set_max_pacing_rate(&self, most: Option<u64>) {
        self.cell.with(|inner, _| inner.conn.set_max_pacing_rate(most));
    }

    /// The keep-alive times; `None`: it is off. Not in tokio.
    pub fn keepalive(&self) -> io::Result<Option<Keepalive>> {
        Ok(self.cell.lock().conn.config().keepalive)
    }

    /// Switches keep-alive (SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT). Not in tokio.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        self.cell.with(|inner, now| inner.conn.set_keepalive(now, keepalive));
        Ok(())
    }

    /// How long the connection may make no progress before it times out. Not in tokio.
    pub fn user_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.cell.lock().conn.config().user_timeout)
    }

    /// Sets how long the connection may make no progress before it times out (TCP_USER_TIMEOUT); `None`: as long as
    /// the retransmissions last. Not in tokio.
    pub fn set_user_timeout(&self, most: Option<Duration>) -> io::Result<()> {
        self.cell.with(|inner, _| inner.conn.set_user_timeout(most));
        Ok(())
    }

    /// Reads at most `max` bytes without a copy; `None` is the end of the stream. Cancel safe. Not in tokio.
    pub async fn read_chunk(&mut self, max: usize) -> io::Result<Option<Bytes>> {
        self.cell.async_io(Bits::READ, || self.cell.try_read_chunk(max)).await
    }

    /// Writes all of the bytes without a copy: they are kept by reference until the peer has acknowledged them.
    /// As `write_all` it is not cancel safe. Not in tokio.
    pub async fn write_bytes(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            self.cell.async_io(Bits::WRITE, || self.try_write_bytes(&mut bytes)).await?;
        }
        Ok(())
    }

    /// As [`try_write`](Self::try_write), without a copy; what was taken is cut off in front. Not in tokio.
    ///
    /// # Errors
    /// `WouldBlock` if the stream is not ready.
    pub fn try_write_bytes(&self, bytes: &mut Bytes) -> io::Result<usize> {
        let n = self.cell.try_write_bytes(bytes.clone())?;
        bytes.advance(n);
        Ok(n)
    }

    /// Waits until the peer's TCP has acknowledged everything that has been written by now, and the FIN if the
    /// stream was shut down. Whether the peer's program has read it is another matter. Any number of tasks may;
    /// cancel safe. Not in tokio.
    ///
    /// # Errors
    /// That with which the connection ended before.
    pub async fn acknowledged(&self) -> io::Result<()> {
        self.cell.acknowledged().await
    }

    /// Splits the stream into halves that borrow it. Dropping them closes nothing.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        split(self)
    }

    /// Splits the stream into halves that own it together. Dropping the writing half closes the send
    /// direction.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        split_owned(self)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.cell.poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.cell.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.cell.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing to do: what is written leaves by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Queues the FIN behind what was written, and returns at once.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.cell.shutdown())
    }
}

impl AsRef<Self> for TcpStream {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.show(self.cell.tuple().local);
        f.debug_struct("TcpStream").field("addr", &local).field("peer", &self.peer()).finish()
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.cell.let_go();
    }
}
