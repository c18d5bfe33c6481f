//! Goodput on an emulated link, ours against the kernel's with the same congestion control and the same losses.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rawtcp_lab::emulator::{EmulatorConfig, EmulatorStats};
use rawtcp_lab::topology::{Emulated, INTERFACE, SERVER_V4, SERVER_V6};
use serde::{Deserialize, Serialize};

use crate::bench::{bulk, tun};
use crate::measure::end::{self, Launch};
use crate::measure::net::Whose;
use crate::measure::progress::Progress;
use crate::measure::{Metrics, cpu, drops, merge};
use crate::role::{Drive, Job, Work};

mod cell;
mod fairness;
mod report;

use cell::Cell;

/// Measure goodput over an emulated link, against the kernel's TCP with the same congestion control and losses.
///
/// One bulk transfer for each cell, seed and pair of ends. The receiver counts for so many seconds from the end of the
/// handshake. With one seed, the n-th packet of a direction meets the same fate whoever sends it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Goodput {
    /// What to measure, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [Part::Grid, Part::Queue, Part::Reorder])]
    part: Vec<Part>,
    /// Round-trip times of the grid in milliseconds, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 20.0, 100.0])]
    rtt: Vec<f64>,
    /// Losses of the grid in per cent, on the way of the data, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.1, 1.0, 3.0])]
    loss: Vec<f64>,
    /// The rate of the link in Mbit/s.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// The queue of the grid in bandwidth-delay products; at least 64 KiB.
    #[arg(long, default_value_t = 10.0)]
    queue: f64,
    /// Congestion controls, comma-separated.
    #[arg(long, value_delimiter = ',', default_value = "cubic,reno")]
    congestion: Vec<String>,
    /// Where ours is, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [Direction::Send, Direction::Receive])]
    direction: Vec<Direction>,
    /// How long the receiver counts. Of a fairness run: 60 s unless given.
    #[arg(long)]
    seconds: Option<f64>,
    /// Seeds 1 to this one are run. Of fairness: three unless given.
    #[arg(long)]
    seeds: Option<u64>,
    /// Runs at once. The emulator's lateness shows whether it is too many.
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// IP version.
    #[arg(long, default_value_t = 4)]
    family: u8,
    /// Our device, as `RAWTCP_DEVICE` names it.
    #[arg(long, default_value = "raw")]
    device: String,
    /// Write everything measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Go on from what the JSON file holds: the tables cover both.
    #[arg(long, requires = "json")]
    add: bool,
    /// Draw the ratios into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Write a capture (pcapng) of each run, at the sender's interface, into this directory.
    #[arg(long)]
    capture: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Round-trip times × losses.
    Grid,
    /// A queue of one bandwidth-delay product without loss, into which slow start overshoots.
    Queue,
    /// 3 % of the packets 5 ms late, without loss.
    Reorder,
    /// Two flows through one bottleneck for a minute.
    Fairness,
}

/// Where ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// Ours sends to the kernel.
    Send,
    /// The kernel sends to ours.
    Receive,
    /// Ours at both ends.
    Both,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

impl Direction {
    fn ends(self) -> Ends {
        match self {
            Direction::Send => Ends { name: "ours→kernel", sender: Whose::Ours, receiver: Whose::Kernel },
            Direction::Receive => Ends { name: "kernel→ours", sender: Whose::Kernel, receiver: Whose::Ours },
            Direction::Both => Ends { name: "ours→ours", sender: Whose::Ours, receiver: Whose::Ours },
        }
    }
}

/// Who sends and who receives.
#[derive(Clone, Copy, Debug)]
struct Ends {
    name: &'static str,
    sender: Whose,
    receiver: Whose,
}

const BASELINE: Ends = Ends { name: "kernel→kernel", sender: Whose::Kernel, receiver: Whose::Kernel };

/// One run and what it gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Run {
    cell: Cell,
    congestion: String,
    seed: u64,
    ends: String,
    metrics: Metrics,
}

/// Everything measured, as the JSON file has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Results {
    machine: String,
    /// The command lines, of which each added to it.
    commands: Vec<String>,
    runs: Vec<Run>,
    fairness: Vec<fairness::Run>,
}

/// A run to be made.
#[derive(Clone, Debug)]
struct Order {
    cell: Cell,
    congestion: String,
    seed: u64,
    ends: Ends,
}

const SECONDS: f64 = 8.0;
const SEEDS: u64 = 5;
const PORT: u16 = 7000;
const CHUNK: usize = 64 * 1024;

impl Goodput {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        if self.device.starts_with(tun::TUN) {
            let text = "--device tun: an emulated link leads to its hosts, not to stacks behind them";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut results = match (&self.json, self.add) {
            (Some(path), true) => serde_json::from_slice(&fs::read(path)?)?,
            _ => Results::default(),
        };
        results.machine = cpu::describe();
        results.commands.push(std::env::args().skip(1).collect::<Vec<_>>().join(" "));
        if let Some(directory) = &self.capture {
            fs::create_dir_all(directory)?;
        }
        println!("{}", results.machine);
        let orders = self.orders();
        let fair = if self.part.contains(&Part::Fairness) { self.fairness_orders() } else { Vec::new() };
        let progress = Mutex::new(Progress::new(orders.len() + fair.len()));
        results.runs.extend(self.all(&orders, &progress, |order| {
            let title = format!("{}, {}, {}, seed {}", order.congestion, order.cell, order.ends.name, order.seed);
            (title, self.measure(order))
        })?);
        results.fairness.extend(self.all(&fair, &progress, |order| (order.title(), self.share(order)))?);
        lock(&progress).clear();
        report::print(&results);
        if let Some(path) = &self.json {
            fs::write(path, serde_json::to_string_pretty(&results)?)?;
        }
        if let Some(path) = &self.svg {
            fs::write(path, report::draw(&results))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Does all orders, several at once, in about their order.
    fn all<O: Sync, R: Send>(
        &self,
        orders: &[O],
        progress: &Mutex<Progress>,
        make: impl Fn(&O) -> (String, io::Result<R>) + Sync,
    ) -> io::Result<Vec<R>> {
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while let Some(order) = orders.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let (title, result) = make(order);
                        let failed = result.is_err();
                        lock(progress).step(&title);
                        lock(&results).push(result.map_err(|error| io::Error::other(format!("{title}: {error}"))));
                        if failed {
                            next.store(orders.len(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_iter().collect()
    }

    /// Runs of the same seed are neighbours, so that they find the machine in the same mood.
    fn orders(&self) -> Vec<Order> {
        let mut orders = Vec::new();
        for congestion in &self.congestion {
            for cell in self.cells() {
                for seed in 1..=self.seeds.unwrap_or(SEEDS) {
                    let all = std::iter::once(BASELINE).chain(self.direction.iter().map(|direction| direction.ends()));
                    orders.extend(all.map(|ends| Order { cell, congestion: congestion.clone(), seed, ends }));
                }
            }
        }
        orders
    }

    fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for part in &self.part {
            match part {
                Part::Grid => cells.extend(self.rtt.iter().flat_map(|rtt| {
                    let plain = Cell::plain(self.rate, *rtt, self.queue);
                    self.loss.iter().map(move |loss| Cell { loss: *loss, ..plain })
                })),
                Part::Queue => cells.extend([20.0, 100.0].map(|rtt| Cell::plain(self.rate, rtt, 1.0))),
                Part::Reorder => {
                    cells.push(Cell { reorder: 3.0, reorder_ms: 5.0, ..Cell::plain(self.rate, 20.0, self.queue) });
                }
                Part::Fairness => {}
            }
        }
        cells
    }

    fn launch(&self) -> Launch {
        Launch { device: Some(self.device.clone()), tun: false, wrap: Vec::new() }
    }

    /// One transfer.
    fn measure(&self, order: &Order) -> io::Result<Run> {
        let seconds = self.seconds.unwrap_or(SECONDS);
        let net = order.cell.hosts(order.seed)?;
        let capture = match &self.capture {
            None => None,
            Some(directory) => Some(order.capture(&net, directory)?),
        };
        let server = if self.family == 6 { SERVER_V6 } else { SERVER_V4 };
        let at = (server, PORT).into();
        let sender = job(&order.congestion, order.ends.sender, Work::Send(sender(at, seconds)));
        let receiver = job(&order.congestion, order.ends.receiver, Work::Receive(receiver(at, seconds)));
        let before = [drops::count(&net.client)?, drops::count(&net.server)?];
        let length = Duration::from_secs_f64(seconds);
        let ends = [&net.client, &net.server];
        let mut metrics = end::pair(ends, [&sender, &receiver], &self.launch(), length)?;
        for ((name, host), before) in [("client.", &net.client), ("server.", &net.server)].into_iter().zip(before) {
            for (counter, more) in drops::difference(&drops::count(host)?, &before) {
                // Ours has told its own retransmissions.
                metrics.entry(format!("{name}{counter}")).or_insert(more);
            }
        }
        if let Some(capture) = capture {
            metrics.insert("drop.capture".into(), capture.stop()?.drops as f64);
        }
        let stats = net.emulator.stop()?;
        metrics.insert("mbit_s".into(), metrics["server.bytes"] * 8.0 / 1e6 / seconds);
        merge(&mut metrics, "link.", &link_metrics(&stats));
        Ok(Run {
            cell: order.cell,
            congestion: order.congestion.clone(),
            seed: order.seed,
            ends: order.ends.name.to_owned(),
            metrics,
        })
    }
}

/// One end of a transfer.
fn job(congestion: &str, whose: Whose, work: Work) -> Job {
    let congestion = congestion.to_owned();
    Job { whose, work, congestion, processor: None, workers: 0, drive: Drive::default(), drivers: 1 }
}

fn sender(to: std::net::SocketAddr, seconds: f64) -> bulk::Send {
    // It is the receiver that ends it.
    let seconds = seconds + 5.0;
    bulk::Send { to, streams: 1, seconds, chunk: CHUNK, by_reference: false, until_reset: true }
}

fn receiver(at: std::net::SocketAddr, seconds: f64) -> bulk::Receive {
    bulk::Receive { at, streams: 1, warm_up: 0.0, chunk: CHUNK, by_reference: false, stop_after: Some(seconds) }
}

impl Order {
    fn capture(&self, net: &Emulated, directory: &std::path::Path) -> io::Result<rawtcp_lab::capture::Capture> {
        use rawtcp_lab::capture::{Capture, CaptureOptions};
        let name = format!("{}-{}-{}-seed{}.pcapng", self.congestion, self.cell, self.ends.name, self.seed);
        let name = name.replace([' ', '/'], "_").replace(',', "");
        let options = CaptureOptions { snap_length: 128, frames: 0, file: Some(directory.join(name)), port: None };
        Capture::start_with(&net.client, INTERFACE, options)
    }
}

/// What the emulator has to say about itself and about what it did.
fn link_metrics(stats: &EmulatorStats) -> Metrics {
    let (there, back) = (&stats.a_to_b, &stats.b_to_a);
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    [
        ("packets", there.in_packets as f64),
        ("lost", there.lost as f64),
        ("queue_drops", there.queue_drops as f64),
        ("reordered", there.reordered as f64),
        ("acks", back.in_packets as f64),
        ("late_p50_us", microseconds(stats.lateness.p50)),
        ("late_p99_us", microseconds(stats.lateness.p99)),
        ("late_max_us", microseconds(stats.lateness.max)),
        ("cpu_s", stats.cpu.as_secs_f64()),
        ("drop.receive", stats.receive_drops as f64),
        ("drop.send", stats.send_errors as f64),
        ("segmented", stats.segmented as f64),
        ("drop.not_segmented", stats.not_segmented as f64),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// An emulator for runs beside others: it sleeps until a packet is due instead of spinning, and pays with lateness.
fn emulator(link: rawtcp_sim::LinkConfig, back: rawtcp_sim::LinkConfig, seed: u64) -> EmulatorConfig {
    EmulatorConfig { a_to_b: link, b_to_a: back, spin: Duration::ZERO, ..EmulatorConfig::symmetric(link, seed) }
}
