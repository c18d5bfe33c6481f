//! As many bytes as go: one stream or several, in one direction.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::measure::control::Control;
use crate::measure::net::Net;
use crate::measure::{Metrics, cpu};

/// The sending end, which connects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Send {
    pub(crate) to: SocketAddr,
    pub(crate) streams: usize,
    pub(crate) seconds: f64,
    /// Bytes of one write.
    pub(crate) chunk: usize,
    /// Through `write_bytes` instead of `AsyncWrite`.
    pub(crate) by_reference: bool,
    /// That the other end resets the connection is the regular end.
    pub(crate) until_reset: bool,
}

/// The receiving end, which listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Receive {
    pub(crate) at: SocketAddr,
    pub(crate) streams: usize,
    /// What comes in the first seconds does not count for the rate.
    pub(crate) warm_up: f64,
    /// Bytes of one read, at most.
    pub(crate) chunk: usize,
    /// Through `read_chunk` instead of `AsyncRead`.
    pub(crate) by_reference: bool,
    /// Drops each connection so long after it was accepted. `None`: reads to its end.
    pub(crate) stop_after: Option<f64>,
}

pub(crate) async fn send<N: Net>(work: &Send, congestion: &str, control: &mut Control) -> io::Result<Metrics> {
    control.ready();
    control.next().await;
    let spent = cpu::process();
    let mut streams = Vec::new();
    for _ in 0..work.streams {
        streams.push(N::connect(work.to, congestion).await?);
    }
    let until = Instant::now() + Duration::from_secs_f64(work.seconds);
    let tasks: Vec<_> =
        streams.into_iter().map(|stream| tokio::spawn(send_one::<N>(stream, work.clone(), until))).collect();
    let mut metrics = Metrics::new();
    let mut sent = 0;
    for task in tasks {
        let (bytes, info) = task.await??;
        sent += bytes;
        for (name, value) in info {
            // Of several streams, the counts together and the last one's state.
            let sum = matches!(&name[..], "segs_out" | "segs_in" | "retrans" | "timeouts");
            let entry = metrics.entry(name).or_insert(0.0);
            *entry = if sum { *entry + value } else { value };
        }
    }
    metrics.insert("bytes".into(), sent as f64);
    metrics.insert("cpu_s".into(), (cpu::process() - spent).as_secs_f64());
    Ok(metrics)
}

async fn send_one<N: Net>(mut stream: N::Stream, work: Send, until: Instant) -> io::Result<(u64, Metrics)> {
    let block = Bytes::from(vec![0x5a; work.chunk]);
    let mut sent = 0;
    while Instant::now() < until {
        let result = match work.by_reference {
            true => N::write_bytes(&mut stream, block.clone()).await,
            false => stream.write_all(&block).await,
        };
        match result {
            Ok(()) => sent += block.len() as u64,
            Err(error) if work.until_reset && is_end(&error) => return Ok((sent, N::info(&stream))),
            Err(error) => return Err(error),
        }
    }
    let info = N::info(&stream);
    let end = async {
        stream.shutdown().await?;
        // The other end closes when it has read everything.
        stream.read(&mut [0]).await
    };
    match end.await {
        Ok(0) => Ok((sent, info)),
        Ok(_) => Err(io::Error::other("the receiver sent something")),
        Err(error) if work.until_reset && is_end(&error) => Ok((sent, info)),
        Err(error) => Err(error),
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

pub(crate) async fn receive<N: Net>(work: &Receive, congestion: &str, control: &mut Control) -> io::Result<Metrics> {
    let listener = N::listen(work.at, congestion)?;
    control.ready();
    let spent = cpu::process();
    let meter = Arc::new(Meter::new(work.warm_up));
    let mut tasks = Vec::new();
    for _ in 0..work.streams {
        let stream = N::accept(&listener).await?;
        tasks.push(tokio::spawn(receive_one::<N>(stream, work.clone(), meter.clone())));
    }
    let mut each = Vec::new();
    for task in tasks {
        each.push(task.await?? as f64);
    }
    let mut metrics = meter.metrics();
    metrics.insert("cpu_s".into(), (cpu::process() - spent).as_secs_f64());
    if each.len() > 1 {
        let least = each.iter().copied().fold(f64::INFINITY, f64::min);
        let most = each.iter().copied().fold(0.0, f64::max);
        metrics.insert("least_share".into(), least / most);
    }
    Ok(metrics)
}

async fn receive_one<N: Net>(mut stream: N::Stream, work: Receive, meter: Arc<Meter>) -> io::Result<u64> {
    let mut buffer = vec![0; if work.by_reference { 0 } else { work.chunk }];
    let mut got = 0;
    let deadline = work.stop_after.map(|seconds| tokio::time::Instant::now() + Duration::from_secs_f64(seconds));
    loop {
        let read = async {
            match work.by_reference {
                true => N::read_chunk(&mut stream, work.chunk).await.map(|bytes| bytes.len()),
                false => stream.read(&mut buffer).await,
            }
        };
        let n = match deadline {
            None => read.await?,
            Some(deadline) => match tokio::time::timeout_at(deadline, read).await {
                Ok(n) => n?,
                Err(_) => break,
            },
        };
        if n == 0 {
            break;
        }
        meter.add(n as u64);
        got += n as u64;
    }
    Ok(got)
}

/// Counts what arrives on all streams together. Without a lock: a read is a few microseconds' work at full speed.
struct Meter {
    born: Instant,
    warm_up: u64,
    bytes: AtomicU64,
    /// Nanoseconds since birth, plus one; 0: not yet.
    first: AtomicU64,
    from: AtomicU64,
    from_bytes: AtomicU64,
    last: AtomicU64,
}

impl Meter {
    fn new(warm_up: f64) -> Self {
        Self {
            born: Instant::now(),
            warm_up: (warm_up * 1e9) as u64,
            bytes: AtomicU64::new(0),
            first: AtomicU64::new(0),
            from: AtomicU64::new(0),
            from_bytes: AtomicU64::new(0),
            last: AtomicU64::new(0),
        }
    }

    fn add(&self, bytes: u64) {
        let now = self.born.elapsed().as_nanos() as u64 + 1;
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.last.store(now, Ordering::Relaxed);
        if self.from.load(Ordering::Relaxed) != 0 {
            return;
        }
        // What comes with the first read was under way before.
        let once = |value: &AtomicU64| value.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        once(&self.first);
        if now - self.first.load(Ordering::Relaxed).min(now) >= self.warm_up && once(&self.from) {
            self.from_bytes.store(total, Ordering::Relaxed);
        }
    }

    fn metrics(&self) -> Metrics {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        let seconds = (load(&self.last) - load(&self.from)) / 1e9;
        let gigabits = (load(&self.bytes) - load(&self.from_bytes)) * 8.0 / 1e9;
        [("bytes", load(&self.bytes)), ("seconds", seconds), ("gbit_s", gigabits / seconds)]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }
}
