//! The two stacks behind one trait, so that both run the very same program.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use rawtcp::{DropReason, Stack, StackStats};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Metrics;

/// Whose TCP an end speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Whose {
    Ours,
    Kernel,
}

/// As many waiting connections as Linux lets a listener have.
const BACKLOG: u32 = 4096;

/// A TCP with the surface of `tokio::net`.
pub(crate) trait Net: 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    type Listener: Send + Sync + 'static;

    /// A listener whose connections are under this congestion control.
    fn listen(at: SocketAddr, congestion: &str) -> io::Result<Self::Listener>;
    fn accept(listener: &Self::Listener) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    fn connect(to: SocketAddr, congestion: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    fn set_nodelay(stream: &Self::Stream, on: bool) -> io::Result<()>;
    /// Lets it send at no more than so many bytes a second.
    fn set_max_pacing_rate(stream: &Self::Stream, bytes_per_second: u64) -> io::Result<()>;
    /// Writes all of it, by reference where the stack can.
    fn write_bytes(stream: &mut Self::Stream, bytes: Bytes) -> impl Future<Output = io::Result<()>> + Send;
    /// Reads some of it, by reference where the stack can; empty at the end of the stream.
    fn read_chunk(stream: &mut Self::Stream, max: usize) -> impl Future<Output = io::Result<Bytes>> + Send;
    /// What the stack tells of a connection.
    fn info(stream: &Self::Stream) -> Metrics;
    /// What this process's stack has counted that should not happen unasked; call it inside the runtime.
    fn faults() -> io::Result<Metrics>;
}

/// rawtcp, with the device of `RAWTCP_DEVICE`, or on the stacks given to [`Ours::use_stacks`].
pub(crate) enum Ours {}

thread_local! {
    static STACKS: RefCell<Vec<Stack>> = const { RefCell::new(Vec::new()) };
}

impl Ours {
    /// Lets everything on this thread happen on these stacks from now on: the first one connects, the last one listens.
    pub(crate) fn use_stacks(stacks: Vec<Stack>) {
        STACKS.set(stacks);
    }

    fn counted(stats: &StackStats) -> [(&'static str, u64); 7] {
        [
            ("stack.packets_lost", stats.packets_lost),
            ("stack.receive_queue_drops", stats.receive_queue_drops),
            ("stack.packets_truncated", stats.packets_truncated),
            ("stack.broken", stats.broken),
            ("stack.wrong_checksum", stats.drops(DropReason::Checksum)),
            ("stack.accept_queue_full", stats.drops(DropReason::AcceptQueueFull)),
            ("stack.syn_queue_full", stats.drops(DropReason::SynQueueFull)),
        ]
    }

    fn socket(choose: fn(&[Stack]) -> Option<&Stack>, like: SocketAddr) -> io::Result<rawtcp::net::TcpSocket> {
        STACKS.with_borrow(|own| match (choose(own), like.is_ipv4()) {
            (Some(stack), true) => Ok(stack.socket_v4()),
            (Some(stack), false) => Ok(stack.socket_v6()),
            (None, true) => rawtcp::net::TcpSocket::new_v4(),
            (None, false) => rawtcp::net::TcpSocket::new_v6(),
        })
    }
}

/// `tokio::net`.
pub(crate) enum Kernel {}

impl Net for Ours {
    type Stream = rawtcp::net::TcpStream;
    type Listener = rawtcp::net::TcpListener;

    fn listen(at: SocketAddr, congestion: &str) -> io::Result<Self::Listener> {
        let socket = Self::socket(<[Stack]>::last, at)?;
        socket.set_reuseaddr(true)?;
        socket.set_congestion(congestion)?;
        socket.bind(at)?;
        socket.listen(BACKLOG)
    }

    async fn accept(listener: &Self::Listener) -> io::Result<Self::Stream> {
        Ok(listener.accept().await?.0)
    }

    async fn connect(to: SocketAddr, congestion: &str) -> io::Result<Self::Stream> {
        let socket = Self::socket(<[Stack]>::first, to)?;
        socket.set_congestion(congestion)?;
        socket.connect(to).await
    }

    fn set_nodelay(stream: &Self::Stream, on: bool) -> io::Result<()> {
        stream.set_nodelay(on)
    }

    fn set_max_pacing_rate(stream: &Self::Stream, bytes_per_second: u64) -> io::Result<()> {
        stream.set_max_pacing_rate(Some(bytes_per_second));
        Ok(())
    }

    async fn write_bytes(stream: &mut Self::Stream, bytes: Bytes) -> io::Result<()> {
        stream.write_bytes(bytes).await
    }

    async fn read_chunk(stream: &mut Self::Stream, max: usize) -> io::Result<Bytes> {
        Ok(stream.read_chunk(max).await?.unwrap_or_default())
    }

    fn info(stream: &Self::Stream) -> Metrics {
        let info = stream.tcp_info();
        let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        [
            ("rtt_ms", milliseconds(info.rtt)),
            ("min_rtt_ms", milliseconds(info.min_rtt)),
            ("cwnd", info.snd_cwnd as f64),
            ("ssthresh", info.snd_ssthresh as f64),
            ("snd_wnd", info.snd_wnd as f64),
            ("mss", f64::from(info.snd_mss)),
            ("segs_out", info.segs_out as f64),
            ("segs_in", info.segs_in as f64),
            ("retrans", info.total_retrans as f64),
            ("timeouts", info.timeouts as f64),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn faults() -> io::Result<Metrics> {
        let mut stacks = STACKS.with_borrow(Vec::clone);
        if stacks.is_empty() {
            stacks.push(Stack::current()?);
        }
        let mut faults = Metrics::new();
        for stats in stacks.iter().map(Stack::stats) {
            for (name, count) in Self::counted(&stats) {
                *faults.entry(name.to_owned()).or_default() += count as f64;
            }
        }
        Ok(faults)
    }
}

impl Net for Kernel {
    type Stream = tokio::net::TcpStream;
    type Listener = tokio::net::TcpListener;

    fn listen(at: SocketAddr, congestion: &str) -> io::Result<Self::Listener> {
        let socket = if at.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Accepted sockets inherit it.
        SockRef::from(&socket).set_tcp_congestion(congestion.as_bytes())?;
        socket.bind(at)?;
        socket.listen(BACKLOG)
    }

    async fn accept(listener: &Self::Listener) -> io::Result<Self::Stream> {
        Ok(listener.accept().await?.0)
    }

    async fn connect(to: SocketAddr, congestion: &str) -> io::Result<Self::Stream> {
        let socket = if to.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
        SockRef::from(&socket).set_tcp_congestion(congestion.as_bytes())?;
        socket.connect(to).await
    }

    fn set_nodelay(stream: &Self::Stream, on: bool) -> io::Result<()> {
        stream.set_nodelay(on)
    }

    fn set_max_pacing_rate(stream: &Self::Stream, bytes_per_second: u64) -> io::Result<()> {
        rawtcp_io::pacing::set_max_pacing_rate(stream, bytes_per_second)
    }

    async fn write_bytes(stream: &mut Self::Stream, bytes: Bytes) -> io::Result<()> {
        stream.write_all(&bytes).await
    }

    async fn read_chunk(stream: &mut Self::Stream, max: usize) -> io::Result<Bytes> {
        let mut buffer = BytesMut::with_capacity(max);
        stream.read_buf(&mut buffer).await?;
        Ok(buffer.freeze())
    }

    fn info(_: &Self::Stream) -> Metrics {
        Metrics::new()
    }

    fn faults() -> io::Result<Metrics> {
        // The kernel's are counted for each namespace.
        Ok(Metrics::new())
    }
}
