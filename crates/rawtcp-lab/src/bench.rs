//! Benchmarks against the kernel's TCP: the same program on both, in turns, so that only ratios count.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{INTERFACE, Pair, SERVER_V4};
use serde::Serialize;

use crate::measure::cpu::Machine;
use crate::measure::end::{self, End, Launch};
use crate::measure::progress::Progress;
use crate::measure::stats::{Summary, short};
use crate::measure::{Metrics, cpu, drops, merge, svg};
use crate::role::{Job, Work};

pub(crate) mod bulk;
pub(crate) mod connect;
pub(crate) mod deadlines;
pub(crate) mod idle;
pub(crate) mod limit;
mod plan;
mod report;
pub(crate) mod rr;
pub(crate) mod tun;

use plan::{Figure, Group, Layout, Offloads, Path, Setup};

/// Measure rawtcp against the kernel's TCP, in network namespaces made for it.
///
/// Every line compares two setups that run in turns: ours, the kernel's, ours, … The ratio of each run to the mean of the
/// kernel's runs before and after it counts; shown are the median of the ratios and their range.
#[derive(Clone, Debug, Args)]
pub(crate) struct Bench {
    /// What to measure, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [Workload::Bulk, Workload::Rr, Workload::Connect, Workload::Streams, Workload::Limit])]
    workload: Vec<Workload>,
    /// Ratios of each line.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Length of one run.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Our devices, as `RAWTCP_DEVICE` names them, comma-separated; `memory` is a link in memory between two stacks of one
    /// process, `tun` an interface made for each end of ours, from and to which its host forwards.
    #[arg(long, value_delimiter = ',', default_value = "packet,raw")]
    device: Vec<String>,
    /// Streams of the workload `streams`.
    #[arg(long, default_value_t = 8)]
    streams: usize,
    /// Who sends to whom, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [Direction::Send, Direction::Receive, Direction::Both])]
    direction: Vec<Direction>,
    /// MTUs of the bulk workloads, comma-separated.
    #[arg(long, value_delimiter = ',', default_value = "1500")]
    mtu: Vec<u32>,
    /// Offloads of the bulk workloads, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [Offloads::Default, Offloads::None])]
    offloads: Vec<Offloads>,
    /// IP versions, comma-separated.
    #[arg(long, value_delimiter = ',', default_value = "4")]
    family: Vec<u8>,
    /// How bulk data is handed over, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [Api::Io])]
    api: Vec<Api>,
    /// The path: two namespaces joined by veth, or the loopback interface of one.
    #[arg(long, default_value_t = Path::Veth)]
    path: Path,
    /// Every MTU, offload, IP version and API, and all workloads.
    #[arg(long)]
    full: bool,
    /// The congestion control of both stacks.
    #[arg(long, default_value = "cubic")]
    congestion: String,
    /// Worker threads of each runtime; 0: everything on one thread.
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Drivers of each stack of ours, comma-separated: tasks of its runtime, for which there should be as many workers.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    drivers: Vec<usize>,
    /// Idle connections of the workload `idle`, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000])]
    connections: Vec<usize>,
    /// Connections of the workload `scale`, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000, 1_000_000])]
    scale: Vec<usize>,
    /// Connections at once of the workload `connect`, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64])]
    at_once: Vec<usize>,
    /// Who closes first in the workload `connect`, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [Closes::Client, Closes::Server])]
    closes: Vec<Closes>,
    /// Parts of the workload `deadlines`, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [Part::Pace, Part::Ack, Part::Reorder, Part::Tail, Part::Across])]
    part: Vec<Part>,
    /// What the stack does meanwhile, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [Beside::Nothing, Beside::Busy])]
    beside: Vec<Beside>,
    /// Bounds of the paced streams of the workload `deadlines`, in Mbit/s, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
    pace: Vec<u64>,
    /// A command in front of our processes, such as `perf record -g -o /tmp/perf.data`.
    #[arg(long)]
    wrap: Option<String>,
    /// Write everything measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw the ratios into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// One stream, as many bytes as go; processor time per gigabyte.
    Bulk,
    /// 64 bytes there and back.
    Rr,
    /// Connect, one byte, close.
    Connect,
    /// Several streams.
    Streams,
    /// Many connections that do nothing, and a busy one.
    Idle,
    /// Bulk on the raw device against bare `sendmmsg`.
    Limit,
    /// What is to happen at a certain time, seen on the wire: paced data, delayed ACKs, repairs of losses; and request and
    /// response with program and driver on two processors.
    Deadlines,
    /// Up to a million connections that do nothing, both ends in one process, and a busy one.
    Scale,
}

/// Where ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    /// Ours sends, the kernel receives.
    Send,
    /// The kernel sends, ours receives.
    Receive,
    /// Ours at both ends.
    Both,
}

/// Who closes a connection first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Closes {
    /// Who has opened it.
    Client,
    /// Who was connected to.
    Server,
}

/// A part of the workload `deadlines`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Gaps and rates of paced streams.
    Pace,
    /// The delayed ACK.
    Ack,
    /// From the first SACK to the retransmission.
    Reorder,
    /// From the last news to the probe of the tail.
    Tail,
    /// Request and response with program and driver on two processors.
    Across,
}

/// What the same stack does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Beside {
    /// Nothing else.
    Nothing,
    /// A stream at full speed.
    Busy,
}

/// How an application hands over bulk data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Api {
    /// `AsyncRead`, `AsyncWrite`.
    Io,
    /// `read_chunk`, `write_bytes`.
    Bytes,
}

macro_rules! display_as_argument {
    ($($kind:ty),+) => {$(
        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
            }
        }
    )+};
}
display_as_argument!(Workload, Closes, Part, Beside, Direction, Api, Offloads, Path);

/// One line of the result: a setup against its baseline.
#[derive(Debug, Serialize)]
struct Line {
    group: String,
    setup: String,
    figure: String,
    unit: &'static str,
    better: plan::Better,
    ours: Summary,
    baseline: Summary,
    ratio: Summary,
    /// What was lost unasked in runs of ours, all together.
    faults: Vec<String>,
    /// The same of the baseline.
    baseline_faults: Vec<String>,
    /// What the host took of the processors' time in runs of ours.
    stolen: Option<Summary>,
    /// The same of the baseline.
    baseline_stolen: Option<Summary>,
}

/// Everything measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    machine: String,
    command: String,
    lines: Vec<Line>,
    /// All runs: group, setup, figures; in the order in which they were made.
    runs: Vec<Run>,
}

#[derive(Debug, Serialize)]
struct Run {
    group: String,
    setup: String,
    metrics: Metrics,
}

/// The two hosts of a group, as its conditions want them.
struct Place {
    client: Namespace,
    server: Namespace,
}

impl Bench {
    pub(crate) fn run(mut self) -> io::Result<ExitCode> {
        if self.full {
            self.workload = Workload::value_variants().to_vec();
            (self.mtu, self.family) = (vec![1500, 9000], vec![4, 6]);
            self.offloads = Offloads::value_variants().to_vec();
            self.api = vec![Api::Io, Api::Bytes];
        }
        let groups = self.plan()?;
        let total = groups.iter().map(|group| group.others.len() * self.pairs * 2 + 1).sum();
        let mut progress = Progress::new(total);
        let mut report = Report {
            machine: cpu::describe(),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            ..Report::default()
        };
        println!("{}", report.machine);
        for group in &groups {
            let at = report.lines.len();
            self.measure(group, &mut progress, &mut report)?;
            progress.clear();
            report::print(&group.title, &report.lines[at..]);
            // What is there is not lost if the next group fails.
            report.write(self.json.as_deref(), self.svg.as_deref())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn launch(&self, device: &str) -> Launch {
        let wrap = self.wrap.as_deref().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        Launch { device: Some(device.to_owned()), tun: device == tun::TUN, wrap }
    }

    /// Runs a group: baseline, ours, baseline, ours, …, baseline.
    fn measure(&self, group: &Group, progress: &mut Progress, report: &mut Report) -> io::Result<()> {
        let place = Place::new(group)?;
        let launch = self.launch(&group.device);
        let mut number = 0;
        let mut one = |setup: &Setup, report: &mut Report| -> io::Result<Metrics> {
            progress.step(&format!("{}: {}", group.title, setup.label));
            let setup = setup.in_run(number);
            let recorder = group.watch.map(|watch| watch.start(&place, &setup)).transpose()?;
            let mut metrics = place.run(&setup, &launch, group.length)?;
            if let Some(recorder) = recorder {
                recorder.finish(&mut metrics)?;
            }
            number += 1;
            let run = Run { group: group.title.clone(), setup: setup.label.clone(), metrics: metrics.clone() };
            report.runs.push(run);
            Ok(metrics)
        };
        let mut found: Vec<Vec<[Metrics; 3]>> = group.others.iter().map(|_| Vec::new()).collect();
        let mut before = one(&group.baseline, report)?;
        for _ in 0..self.pairs {
            for (setup, found) in group.others.iter().zip(&mut found) {
                let ours = one(setup, report)?;
                let after = one(&group.baseline, report)?;
                found.push([before, ours, after.clone()]);
                before = after;
            }
        }
        for (setup, found) in group.others.iter().zip(&found) {
            report.lines.extend(group.figures.iter().filter_map(|figure| line(group, setup, figure, found)));
        }
        Ok(())
    }
}

/// What the runs of one setup say about one figure.
fn line(group: &Group, setup: &Setup, figure: &Figure, found: &[[Metrics; 3]]) -> Option<Line> {
    let value = |metrics: &Metrics| metrics.get(figure.metric).copied().unwrap_or(f64::NAN);
    let ratio = |[before, ours, after]: &[Metrics; 3]| value(ours) / ((value(before) + value(after)) / 2.0);
    Some(Line {
        group: group.title.clone(),
        setup: setup.label.clone(),
        figure: figure.name.to_owned(),
        unit: figure.unit,
        better: figure.better,
        ours: Summary::of(found.iter().map(|[_, ours, _]| value(ours)))?,
        baseline: Summary::of(found.iter().map(|[_, _, after]| value(after)))?,
        ratio: Summary::of(found.iter().map(ratio))?,
        faults: faults(found.iter().map(|[_, ours, _]| ours)),
        baseline_faults: faults(found.iter().map(|[_, _, after]| after)),
        stolen: stolen(found.iter().map(|[_, ours, _]| ours)),
        baseline_stolen: stolen(found.iter().map(|[_, _, after]| after)),
    })
}

/// What was lost unasked, by name.
fn faults<'a>(runs: impl Iterator<Item = &'a Metrics>) -> Vec<String> {
    let mut faults = BTreeMap::<&str, f64>::new();
    for (name, count) in runs.flatten().filter(|(name, count)| name.contains("drop.") && **count > 0.0) {
        *faults.entry(name).or_default() += count;
    }
    faults.into_iter().map(|(name, count)| format!("{name} {count}")).collect()
}

/// What the host took of the processors' time.
fn stolen<'a>(runs: impl Iterator<Item = &'a Metrics>) -> Option<Summary> {
    Summary::of(runs.filter_map(|metrics| metrics.get(end::STOLEN).copied()))
}

impl Place {
    fn new(group: &Group) -> io::Result<Self> {
        let place = match group.path {
            Path::Veth => {
                let pair = Pair::new()?;
                pair.set_mtu(group.mtu)?;
                Self { client: pair.client, server: pair.server }
            }
            Path::Lo => {
                let host = Namespace::new("host")?;
                // The kernel's ends meet where ours on a link in memory do.
                host.add_address("lo", SERVER_V4, 32)?;
                Self { client: host.clone(), server: host }
            }
        };
        if group.path == Path::Veth {
            let (client, server) = match group.offloads {
                Offloads::Default => (false, false),
                Offloads::None => (true, true),
                Offloads::SenderOff => (true, false),
                Offloads::ReceiverOff => (false, true),
            };
            for (off, host) in [(client, &place.client), (server, &place.server)] {
                if off {
                    host.disable_offloads(INTERFACE)?;
                }
            }
        }
        if let Some(watch) = group.watch {
            watch.prepare(&place)?;
        }
        if group.device == tun::TUN {
            tun::prepare(&place, group.path)?;
        }
        for host in [&place.client, &place.server] {
            // No run shall begin with what the one before had learned of the path.
            host.set_sysctl("net.ipv4.tcp_no_metrics_save", "1")?;
            // Both stacks may take a connection's ports again a second after it closed.
            host.set_sysctl("net.ipv4.tcp_tw_reuse", "1")?;
            // On one host they must keep off the servers' ports.
            let ports = if group.path == Path::Lo { "48000 65535" } else { "1024 65535" };
            host.set_sysctl("net.ipv4.ip_local_port_range", ports)?;
        }
        Ok(place)
    }

    /// One run: both ends started, led through it, and ended.
    fn run(&self, setup: &Setup, launch: &Launch, length: Duration) -> io::Result<Metrics> {
        let before = [drops::count(&self.client)?, drops::count(&self.server)?];
        let backlog = drops::backlog();
        let pair = || Box::new((setup.server.clone(), setup.client.clone()));
        let mut metrics = match setup.layout {
            Layout::Processes => {
                end::pair([&self.client, &self.server], [&setup.client, &setup.server], launch, length)?
            }
            Layout::Threads => self.run_together(Work::Both(pair()), &setup.client, launch, length)?,
            Layout::OneThread => self.run_together(Work::ByTurns(pair()), &setup.client, launch, length)?,
        };
        derive(&mut metrics);
        for ((name, host), before) in [("client.", &self.client), ("server.", &self.server)].into_iter().zip(before) {
            merge(&mut metrics, name, &drops::difference(&drops::count(host)?, &before));
        }
        metrics.insert("drop.backlog".into(), drops::backlog() - backlog);
        Ok(metrics)
    }

    /// Both ends in one process, which runs under the client's conditions.
    fn run_together(&self, work: Work, client: &Job, launch: &Launch, length: Duration) -> io::Result<Metrics> {
        let job = Job { work, ..client.clone() };
        let mut both = End::start(&self.client, "both", &job, launch)?;
        both.wait_ready()?;
        let (machine, start) = (Machine::now()?, Instant::now());
        both.go()?;
        let mut metrics = both.result(length)?;
        end::machine_cost(&mut metrics, machine, start)?;
        both.finish()?;
        Ok(metrics)
    }
}

/// What follows from what both ends said.
fn derive(metrics: &mut Metrics) {
    let get = |name: &str| metrics.get(name).copied();
    let bytes = get("server.bytes").or_else(|| get("client.bytes"));
    let machine = get("machine_cpu_s");
    let memory = [get("client.bytes_each"), get("server.bytes_each"), get("client.slab_each")];
    let derived = [
        ("memory_each", memory.into_iter().sum::<Option<f64>>()),
        ("gbit_s", get("server.gbit_s").or_else(|| get("client.gbit_s"))),
        ("cpu_s_per_gb", machine.zip(bytes).map(|(machine, bytes)| machine / (bytes / 1e9))),
        ("cpu_us_per_exchange", machine.zip(get("client.exchanges")).map(|(m, n)| m * 1e6 / n)),
        ("cpu_us_per_connection", machine.zip(get("client.connections")).map(|(m, n)| m * 1e6 / n)),
    ];
    for (name, value) in derived {
        if let Some(value) = value {
            metrics.insert(name.to_owned(), value);
        }
    }
}
