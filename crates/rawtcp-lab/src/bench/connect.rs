//! Connections that carry one byte and close.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::measure::control::Control;
use crate::measure::net::Net;
use crate::measure::{Metrics, cpu};

/// The client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Dial {
    pub(crate) to: SocketAddr,
    pub(crate) seconds: f64,
    /// Connections at once.
    pub(crate) in_flight: usize,
    /// The client closes first, and keeps TIME-WAIT; otherwise the server does.
    pub(crate) client_closes: bool,
}

/// The server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Greet {
    pub(crate) at: SocketAddr,
    pub(crate) client_closes: bool,
}

pub(crate) async fn dial<N: Net>(work: &Dial, congestion: &str, control: &mut Control) -> io::Result<Metrics> {
    control.ready();
    control.next().await;
    let spent = cpu::process();
    let start = Instant::now();
    let until = start + Duration::from_secs_f64(work.seconds);
    let tasks: Vec<_> =
        (0..work.in_flight).map(|_| tokio::spawn(dial_on::<N>(work.clone(), congestion.to_owned(), until))).collect();
    let mut times = histogram()?;
    for task in tasks {
        times.add(task.await??).map_err(io::Error::other)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let microseconds = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    Ok([
        ("connections", times.len() as f64),
        ("per_s", times.len() as f64 / seconds),
        ("p50_us", microseconds(0.5)),
        ("p99_us", microseconds(0.99)),
        ("max_us", times.max() as f64 / 1e3),
        ("cpu_s", (cpu::process() - spent).as_secs_f64()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into())
}

/// One connection after the other.
async fn dial_on<N: Net>(work: Dial, congestion: String, until: Instant) -> io::Result<Histogram<u64>> {
    let mut times = histogram()?;
    loop {
        let before = Instant::now();
        if before >= until {
            return Ok(times);
        }
        let mut stream = N::connect(work.to, &congestion).await?;
        stream.write_all(b"x").await?;
        if work.client_closes {
            stream.shutdown().await?;
        }
        if stream.read(&mut [0]).await? != 0 {
            return Err(io::Error::other("the server sent something"));
        }
        drop(stream);
        times.saturating_record(before.elapsed().as_nanos() as u64);
    }
}

fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_max(60_000_000_000, 3).map_err(io::Error::other)
}

pub(crate) async fn greet<N: Net>(work: &Greet, congestion: &str, control: &mut Control) -> io::Result<Metrics> {
    let listener = N::listen(work.at, congestion)?;
    control.ready();
    let spent = cpu::process();
    let failed = Arc::new(AtomicU64::new(0));
    let mut accepted = 0u64;
    let serve = async {
        loop {
            let stream = N::accept(&listener).await?;
            accepted += 1;
            let failed = failed.clone();
            let client_closes = work.client_closes;
            tokio::spawn(async move {
                if greet_one::<N>(stream, client_closes).await.is_err() {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    };
    let ended: io::Result<()> = tokio::select! {
        error = serve => error,
        () = control.next() => Ok(()),
    };
    ended?;
    let failed = failed.load(Ordering::Relaxed);
    if failed > 0 {
        return Err(io::Error::other(format!("{failed} of {accepted} connections failed")));
    }
    let cpu_s = (cpu::process() - spent).as_secs_f64();
    Ok([("connections".to_owned(), accepted as f64), ("cpu_s".to_owned(), cpu_s)].into())
}

async fn greet_one<N: Net>(mut stream: N::Stream, client_closes: bool) -> io::Result<()> {
    let mut byte = [0];
    if stream.read(&mut byte).await? != 1 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !client_closes {
        stream.shutdown().await?;
    }
    match stream.read(&mut byte).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than a byte")),
    }
}
