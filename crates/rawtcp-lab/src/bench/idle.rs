//! Many connections that do nothing, and a busy stream beside them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, Notify};

use crate::measure::control::{Control, Word, say};
use crate::measure::cpu::Machine;
use crate::measure::net::Net;
use crate::measure::{Metrics, cpu, merge};

/// The client: a busy stream alone (one more before it is not counted), all the connections, nothing for a while, a busy stream
/// beside them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hold {
    /// Where the busy streams go; the idle connections go to the ports behind it.
    pub(crate) to: SocketAddr,
    pub(crate) ports: u16,
    pub(crate) connections: usize,
    /// Length of each phase.
    pub(crate) seconds: f64,
    /// Bytes of one write.
    pub(crate) chunk: usize,
}

/// The server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Keep {
    pub(crate) at: SocketAddr,
    pub(crate) ports: u16,
    pub(crate) connections: usize,
    pub(crate) chunk: usize,
}

/// Bytes of a full segment at an MTU of 1500, with timestamps.
const MSS: f64 = 1448.0;

/// Connections opened at once.
const OPENERS: usize = 32;

/// From the last handshake to the time when nothing is left to be done.
const REST: Duration = Duration::from_secs(3);

fn behind(at: SocketAddr, number: u16) -> SocketAddr {
    SocketAddr::new(at.ip(), at.port() + number)
}

pub(crate) async fn hold<N: Net>(work: &Hold, congestion: &str, control: &mut Control) -> io::Result<Metrics> {
    cpu::allow_descriptors(work.connections as u64 + 10_000);
    control.ready();
    control.next().await;
    // The first stream of a process finds memory that nobody has touched yet.
    busy::<N>(work, congestion, "", &mut Metrics::new()).await?;
    let mut metrics = Metrics::new();
    busy::<N>(work, congestion, "alone_", &mut metrics).await?;
    let (resident, slab) = (cpu::resident(), cpu::slab());
    let opening = Instant::now();
    let idle = open::<N>(work, congestion).await?;
    let each = work.connections as f64;
    metrics.insert("open_per_s".into(), each / opening.elapsed().as_secs_f64());
    // Timers of the handshakes and deferred frees come to rest: ours give memory back a second behind the last segment, one after
    // the other, which is not over then.
    let before = cpu::process();
    tokio::time::sleep(REST).await;
    metrics.insert("rest_us_each".into(), (cpu::process() - before).as_secs_f64() * 1e6 / each);
    metrics.insert("bytes_each".into(), (cpu::resident() - resident) / each);
    metrics.insert("slab_each".into(), (cpu::slab() - slab) / each);
    let (machine, spent) = (Machine::now()?, cpu::process());
    // The machine's time is counted in hundredths of a second.
    let seconds = work.seconds.max(3.0);
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    metrics.insert("idle_machine_share".into(), Machine::now()?.since(machine).busy / seconds);
    metrics.insert("idle_share".into(), (cpu::process() - spent).as_secs_f64() / seconds);
    busy::<N>(work, congestion, "", &mut metrics).await?;
    metrics.insert("kept".into(), metrics["gbit_s"] / metrics["alone_gbit_s"]);
    metrics.insert("cost".into(), metrics["cpu_s_per_gb"] / metrics["alone_cpu_s_per_gb"]);
    // They end with the process: what is lost when so many close at once is no matter of these figures.
    std::mem::forget(idle);
    Ok(metrics)
}

/// One stream at full speed.
async fn busy<N: Net>(work: &Hold, congestion: &str, prefix: &str, metrics: &mut Metrics) -> io::Result<()> {
    let mut stream = N::connect(work.to, congestion).await?;
    let block = vec![0x5a; work.chunk];
    // The windows open.
    let warm = Instant::now() + Duration::from_millis(200);
    while Instant::now() < warm {
        stream.write_all(&block).await?;
    }
    let (start, machine, process) = (Instant::now(), Machine::now()?, cpu::process());
    let mut sent = 0;
    while start.elapsed().as_secs_f64() < work.seconds {
        stream.write_all(&block).await?;
        sent += block.len();
    }
    let (seconds, machine) = (start.elapsed().as_secs_f64(), Machine::now()?.since(machine));
    let process = (cpu::process() - process).as_secs_f64();
    stream.shutdown().await?;
    if stream.read(&mut [0]).await? != 0 {
        return Err(io::Error::other("the server sent something"));
    }
    metrics.insert(format!("{prefix}gbit_s"), sent as f64 * 8.0 / 1e9 / seconds);
    metrics.insert(format!("{prefix}cpu_s_per_gb"), machine.busy / (sent as f64 / 1e9));
    // Of both ends where this process is both.
    metrics.insert(format!("{prefix}cpu_us_per_segment"), process * 1e6 / (sent as f64 / MSS));
    Ok(())
}

async fn open<N: Net>(work: &Hold, congestion: &str) -> io::Result<Vec<N::Stream>> {
    let idle = Arc::new(Mutex::new(Vec::with_capacity(work.connections)));
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..OPENERS.min(work.connections) {
        let (work, congestion) = (work.clone(), congestion.to_owned());
        let (idle, next) = (idle.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= work.connections {
                    return io::Result::Ok(());
                }
                let to = behind(work.to, 1 + (number % usize::from(work.ports)) as u16);
                let stream = N::connect(to, &congestion).await.map_err(|error| explain(error, number))?;
                idle.lock().await.push(stream);
                if (number + 1) % 20_000 == 0 {
                    say(&Word::Note(format!("{} connections", number + 1)))?;
                }
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    let mut idle = idle.lock().await;
    Ok(std::mem::take(&mut *idle))
}

/// What a machine may have to be given first.
fn explain(error: io::Error, connections: usize) -> io::Error {
    match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::MFILE.raw_os_error() => io::Error::other(format!(
            "{error} after {connections} connections: those of the kernel need one descriptor each (`ulimit -Hn`)"
        )),
        _ => error,
    }
}

pub(crate) async fn keep<N: Net>(work: &Keep, congestion: &str, control: &mut Control) -> io::Result<Metrics> {
    cpu::allow_descriptors(work.connections as u64 + 10_000);
    let listener = N::listen(work.at, congestion)?;
    let lost = Arc::new(Mutex::new(N::faults()?));
    let busy = tokio::spawn(drain::<N>(listener, work.chunk, lost.clone()));
    let idle = Arc::new(Mutex::new(Vec::with_capacity(work.connections)));
    let all = Arc::new(Notify::new());
    let resident = Arc::new(Mutex::new(None));
    for number in 1..=work.ports {
        let listener = N::listen(behind(work.at, number), congestion)?;
        let (idle, all, wanted, resident) = (idle.clone(), all.clone(), work.connections, resident.clone());
        tokio::spawn(async move {
            while let Ok(stream) = N::accept(&listener).await {
                resident.lock().await.get_or_insert_with(cpu::resident);
                let mut idle = idle.lock().await;
                idle.push(stream);
                if idle.len() == wanted {
                    all.notify_one();
                }
            }
        });
    }
    control.ready();
    let mut metrics = Metrics::new();
    tokio::select! {
        () = all.notified() => {}
        () = control.next() => return Err(io::Error::other("not all connections came")),
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = resident.lock().await.unwrap_or(f64::NAN);
    metrics.insert("bytes_each".into(), (cpu::resident() - before) / work.connections as f64);
    control.next().await;
    busy.abort();
    merge(&mut metrics, "drop.", &*lost.lock().await);
    Ok(metrics)
}

/// Reads one stream after the other to its end, and notes what was lost until then: behind the last one all the idle
/// connections close at once, which overflows any queue.
async fn drain<N: Net>(listener: N::Listener, chunk: usize, lost: Arc<Mutex<Metrics>>) -> io::Result<()> {
    let mut buffer = vec![0; chunk];
    loop {
        let mut stream = N::accept(&listener).await?;
        while stream.read(&mut buffer).await? > 0 {}
        *lost.lock().await = N::faults()?;
    }
}
