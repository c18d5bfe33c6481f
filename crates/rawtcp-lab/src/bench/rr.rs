//! A small request, a small response, one after the other.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::measure::control::Control;
use crate::measure::net::Net;
use crate::measure::{Metrics, cpu};

/// What both ends agree on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    /// Bytes of a request and of a response.
    pub(crate) size: usize,
    /// Bytes which are written first, as a header, and the rest by a second write; 0: all at once.
    pub(crate) header: usize,
    pub(crate) nodelay: bool,
}

/// The client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) to: SocketAddr,
    pub(crate) message: Message,
    pub(crate) seconds: f64,
}

/// The server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) at: SocketAddr,
    pub(crate) message: Message,
}

/// The first exchanges are not counted: caches fill, windows open.
const WARM_UP: u32 = 200;

async fn write<N: Net>(stream: &mut N::Stream, message: Message, data: &[u8]) -> io::Result<()> {
    if message.header > 0 {
        stream.write_all(&data[..message.header]).await?;
    }
    stream.write_all(&data[message.header..]).await
}

pub(crate) async fn ask<N: Net>(work: &Ask, congestion: &str, control: &mut Control) -> io::Result<Metrics> {
    let message = work.message;
    control.ready();
    control.next().await;
    let mut stream = N::connect(work.to, congestion).await?;
    N::set_nodelay(&stream, message.nodelay)?;
    let mut data = vec![0x5a; message.size];
    // As far as a retransmission timeout could go.
    let mut times = Histogram::<u64>::new_with_max(60_000_000_000, 3).map_err(io::Error::other)?;
    let start = Instant::now();
    let mut spent = cpu::process();
    let mut counted = start;
    for number in 0.. {
        let before = Instant::now();
        // A path on which each exchange takes 40 ms shall be counted, too.
        let warm = number >= WARM_UP || (before - start).as_secs_f64() > work.seconds / 4.0;
        if !warm {
            (spent, counted) = (cpu::process(), before);
        }
        write::<N>(&mut stream, message, &data).await?;
        stream.read_exact(&mut data).await?;
        let after = Instant::now();
        if warm {
            times.saturating_record((after - before).as_nanos() as u64);
        }
        if after - start >= Duration::from_secs_f64(work.seconds) {
            break;
        }
    }
    let seconds = counted.elapsed().as_secs_f64();
    let microseconds = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    let mut metrics: Metrics = [
        ("exchanges", times.len() as f64),
        ("per_s", times.len() as f64 / seconds),
        ("p50_us", microseconds(0.5)),
        ("p90_us", microseconds(0.9)),
        ("p99_us", microseconds(0.99)),
        ("p999_us", microseconds(0.999)),
        ("max_us", times.max() as f64 / 1e3),
        ("cpu_s", (cpu::process() - spent).as_secs_f64()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    metrics.extend(N::info(&stream));
    Ok(metrics)
}

pub(crate) async fn answer<N: Net>(work: &Answer, congestion: &str, control: &mut Control) -> io::Result<Metrics> {
    let message = work.message;
    let listener = N::listen(work.at, congestion)?;
    control.ready();
    let mut stream = N::accept(&listener).await?;
    N::set_nodelay(&stream, message.nodelay)?;
    let spent = cpu::process();
    let mut data = vec![0; message.size];
    let mut exchanges = 0u64;
    loop {
        match stream.read_exact(&mut data).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
        write::<N>(&mut stream, message, &data).await?;
        exchanges += 1;
    }
    let cpu_s = (cpu::process() - spent).as_secs_f64();
    Ok([("exchanges".to_owned(), exchanges as f64), ("cpu_s".to_owned(), cpu_s)].into())
}
