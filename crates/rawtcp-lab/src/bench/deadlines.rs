//! What is to be sent at a certain time: paced data, delayed ACKs, what follows a loss. When it was is seen on the wire.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use rawtcp_lab::capture::{Capture, CaptureOptions};
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::INTERFACE;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Place, plan::Setup};
use crate::measure::Metrics;
use crate::measure::control::Control;
use crate::measure::net::Net;

mod wire;

/// The sending end, which connects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Emit {
    pub(crate) to: SocketAddr,
    pub(crate) what: What,
    pub(crate) seconds: f64,
    /// Another stream at full speed on the same stack, to the port behind.
    pub(crate) beside_busy: bool,
}

/// The receiving end: reads everything, and answers a line with a byte.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Absorb {
    pub(crate) at: SocketAddr,
    /// Begins to read so many seconds after a connection was accepted.
    pub(crate) unread_for: f64,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum What {
    /// One stream with a bound, in bits a second.
    Paced { bits_per_second: u64 },
    /// Single bytes now and then on several connections, each of which waits for its ACK; and whether they are read.
    Lone { connections: usize, read: bool },
    /// Messages of so many segments on a connection each, some of which are lost.
    Losses { segments: usize, lost: Lost, mss: usize },
}

/// Which segments of a message are lost the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lost {
    First,
    LastTwo,
}

/// The first byte of a segment to be lost.
const MARK: u8 = 0xa5;

/// Bytes of one write of streams.
const CHUNK: usize = 64 * 1024;

/// Between two bytes on a connection: longer than the longest delay of an ACK, shorter than any RTO, behind which a receiver
/// acknowledges at once again.
const LONE_EVERY: Duration = Duration::from_millis(100);

/// Behind the faster ones: as long as the recorder wants, and still shorter than an RTO for all connections.
const LONE_FIRST: Duration = Duration::from_millis(70);

/// So many come faster before them, until a receiver stops to acknowledge at once.
const LONE_WARM_UP: usize = 40;

/// Between two messages with losses.
const PAUSE: Duration = Duration::from_millis(1);

fn behind(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip(), at.port() + 1)
}

pub(crate) async fn emit<N: Net>(work: &Emit, congestion: &str, control: &mut Control) -> io::Result<Metrics> {
    control.ready();
    control.next().await;
    let busy = match work.beside_busy {
        false => None,
        true => Some(tokio::spawn(flood::<N>(N::connect(behind(work.to), congestion).await?))),
    };
    match work.what {
        What::Paced { bits_per_second } => paced::<N>(work, congestion, bits_per_second).await?,
        What::Lone { connections, .. } => lone::<N>(work, congestion, connections).await?,
        What::Losses { segments, lost, mss } => losses::<N>(work, congestion, segments, lost, mss).await?,
    }
    if let Some(busy) = busy {
        busy.abort();
    }
    Ok(Metrics::new())
}

/// As much as goes, until the task is aborted.
async fn flood<N: Net>(mut stream: N::Stream) -> io::Result<()> {
    let block = vec![0x5a; CHUNK];
    loop {
        stream.write_all(&block).await?;
    }
}

/// As many bytes as the rate lets through in the time: what a stack may buffer takes no longer then.
async fn paced<N: Net>(work: &Emit, congestion: &str, bits_per_second: u64) -> io::Result<()> {
    let mut stream = N::connect(work.to, congestion).await?;
    N::set_max_pacing_rate(&stream, bits_per_second / 8)?;
    let mut left = (bits_per_second as f64 / 8.0 * work.seconds) as usize;
    let block = vec![0x5a; CHUNK];
    while left > 0 {
        let n = left.min(CHUNK);
        stream.write_all(&block[..n]).await?;
        left -= n;
    }
    end::<N>(stream).await
}

/// Until the other end has read everything.
async fn end<N: Net>(mut stream: N::Stream) -> io::Result<()> {
    stream.shutdown().await?;
    match stream.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("the receiver sent something")),
    }
}

async fn lone<N: Net>(work: &Emit, congestion: &str, connections: usize) -> io::Result<()> {
    let mut tasks = Vec::new();
    for number in 0..connections {
        let mut stream = N::connect(work.to, congestion).await?;
        N::set_nodelay(&stream, true)?;
        let first = LONE_FIRST + LONE_EVERY.mul_f64(number as f64 / connections as f64);
        let rounds = (work.seconds / LONE_EVERY.as_secs_f64()).ceil() as usize;
        tasks.push(tokio::spawn(async move {
            for _ in 0..LONE_WARM_UP {
                stream.write_all(&[0x5a]).await?;
                sleep(Duration::from_millis(1)).await;
            }
            let mut at = Instant::now() + first;
            for _ in 0..rounds {
                sleep_until(at).await;
                stream.write_all(&[0x5a]).await?;
                at += LONE_EVERY;
            }
            // The last one's ACK, too, shall be its own.
            sleep_until(at).await;
            end::<N>(stream).await
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// On a connection each: what one loss does to windows and estimates is no matter of the next one's time.
async fn losses<N: Net>(work: &Emit, congestion: &str, segments: usize, lost: Lost, mss: usize) -> io::Result<()> {
    let mut message = vec![0x5a; segments * mss];
    let marked = if lost == Lost::First { 0..1 } else { segments - 2..segments };
    marked.for_each(|segment| message[segment * mss] = MARK);
    *message.last_mut().ok_or(io::ErrorKind::InvalidInput)? = b'\n';
    let until = Instant::now() + Duration::from_secs_f64(work.seconds);
    while Instant::now() < until {
        let mut stream = N::connect(work.to, congestion).await?;
        N::set_nodelay(&stream, true)?;
        // Some round trips that are known.
        for _ in 0..4 {
            stream.write_all(b"\n").await?;
            stream.read_u8().await?;
        }
        stream.write_all(&message).await?;
        stream.read_u8().await?;
        drop(stream);
        sleep(PAUSE).await;
    }
    Ok(())
}

pub(crate) async fn absorb<N: Net>(work: &Absorb, congestion: &str, control: &mut Control) -> io::Result<Metrics> {
    let listeners = [N::listen(work.at, congestion)?, N::listen(behind(work.at), congestion)?];
    control.ready();
    let unread_for = [work.unread_for, 0.0].map(Duration::from_secs_f64);
    let mut accepting = Vec::new();
    for (listener, unread_for) in listeners.into_iter().zip(unread_for) {
        accepting.push(tokio::spawn(accept_all::<N>(listener, unread_for)));
    }
    control.next().await;
    accepting.iter().for_each(|task| task.abort());
    Ok(Metrics::new())
}

async fn accept_all<N: Net>(listener: N::Listener, unread_for: Duration) -> io::Result<Infallible> {
    loop {
        tokio::spawn(read::<N>(N::accept(&listener).await?, unread_for));
    }
}

async fn read<N: Net>(mut stream: N::Stream, unread_for: Duration) -> io::Result<()> {
    N::set_nodelay(&stream, true)?;
    sleep(unread_for).await;
    let mut buffer = vec![0; 4 * CHUNK];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n if buffer[n - 1] == b'\n' => stream.write_all(b"!").await?,
            _ => {}
        }
    }
}

/// What is looked for on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Watch {
    /// At the sender: the gaps between departures.
    Pace { bits_per_second: u64 },
    /// At the receiver: how long ACKs take.
    Acks,
    /// At the sender: from the ACK that tells of a hole to the retransmission.
    Reorder,
    /// At the sender: from the last news to the probe.
    Tail,
}

impl Watch {
    /// What the hosts need for it.
    pub(super) fn prepare(self, place: &Place) -> io::Result<()> {
        match self {
            Watch::Pace { .. } | Watch::Acks => Ok(()),
            Watch::Reorder | Watch::Tail => lose_marked(&place.server),
        }
    }

    /// Records a run of this setup.
    pub(super) fn start(self, place: &Place, setup: &Setup) -> io::Result<Recorder> {
        let port = setup.client.work.port().ok_or(io::ErrorKind::InvalidInput)?;
        let host = if self == Watch::Acks { &place.server } else { &place.client };
        let options = CaptureOptions { snap_length: 128, port: Some(port), ..CaptureOptions::default() };
        Ok(Recorder { watch: self, port, capture: Capture::start_with(host, INTERFACE, options)? })
    }
}

/// The first time that a segment comes which begins with the mark, it is lost where it comes in. Segments have the timestamp
/// option and no other.
fn lose_marked(host: &Namespace) -> io::Result<()> {
    let rules = format!(
        "table netdev losses {{ \
           set known {{ typeof tcp sport . tcp sequence; flags dynamic,timeout; timeout 5s; size 65535; }}; \
           chain lose {{ tcp sport . tcp sequence @known accept; add @known {{ tcp sport . tcp sequence }} drop; }}; \
           chain in {{ type filter hook ingress device \"{INTERFACE}\" priority 0; \
             tcp doff 8 @th,256,8 {MARK} jump lose; }}; \
         }}"
    );
    let explain = |error| io::Error::other(format!("nft, which this needs, could not be run: {error}"));
    let output = host.output(Command::new("nft").arg(rules)).map_err(explain)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("nft: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}

/// A recording under way.
#[derive(Debug)]
pub(super) struct Recorder {
    watch: Watch,
    port: u16,
    capture: Capture,
}

impl Recorder {
    /// What was seen.
    pub(super) fn finish(self, metrics: &mut Metrics) -> io::Result<()> {
        let recording = self.capture.stop()?;
        metrics.insert("drop.recorder".into(), (recording.drops + recording.not_kept) as f64);
        let segments = recording.segments();
        metrics.extend(match self.watch {
            Watch::Pace { bits_per_second } => wire::pace(&segments, self.port, bits_per_second),
            Watch::Acks => wire::acks(&segments, self.port),
            Watch::Reorder => wire::repairs(&segments, self.port, true),
            Watch::Tail => wire::repairs(&segments, self.port, false),
        });
        Ok(())
    }
}
