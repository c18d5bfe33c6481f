//! Which runs are compared with which.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;
use rawtcp_lab::topology::{SERVER_V4, SERVER_V6};
use serde::Serialize;

use super::{Api, Bench, Closes, Direction, Workload, bulk, connect, deadlines::Watch, idle, limit, rr, tun};
use crate::measure::net::Whose;
use crate::role::{Drive, Job, MEMORY, Work};

mod deadlines;

/// Offloads of the two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Offloads {
    /// As veth has them: packets of 64 KiB, unfinished checksums.
    Default,
    /// Off at both: real frames of the MTU.
    None,
    /// Off at the sender's only.
    SenderOff,
    /// Off at the receiver's only.
    ReceiverOff,
}

/// What lies between the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Path {
    /// Two namespaces, joined by veth.
    Veth,
    /// The loopback interface of one namespace.
    Lo,
}

/// Which way a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    Higher,
    Lower,
}

/// A figure that is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) metric: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
}

const fn figure(name: &'static str, metric: &'static str, unit: &'static str, better: Better) -> Figure {
    Figure { name, metric, unit, better }
}

const BULK: &[Figure] = &[
    figure("throughput", "gbit_s", "Gbit/s", Better::Higher),
    figure("machine CPU", "cpu_s_per_gb", "s/GB", Better::Lower),
];
const STREAMS: &[Figure] = &[
    figure("throughput", "gbit_s", "Gbit/s", Better::Higher),
    figure("machine CPU", "cpu_s_per_gb", "s/GB", Better::Lower),
    figure("least/most", "server.least_share", "", Better::Higher),
];
const RR: &[Figure] = &[
    figure("p50", "client.p50_us", "µs", Better::Lower),
    figure("p90", "client.p90_us", "µs", Better::Lower),
    figure("p99", "client.p99_us", "µs", Better::Lower),
    figure("p99.9", "client.p999_us", "µs", Better::Lower),
    figure("rate", "client.per_s", "/s", Better::Higher),
    figure("machine CPU", "cpu_us_per_exchange", "µs/exch.", Better::Lower),
];
const CONNECT: &[Figure] = &[
    figure("rate", "client.per_s", "/s", Better::Higher),
    figure("p99", "client.p99_us", "µs", Better::Lower),
    figure("machine CPU", "cpu_us_per_connection", "µs/conn.", Better::Lower),
];
const IDLE: &[Figure] = &[
    figure("client's memory each", "client.bytes_each", "B", Better::Lower),
    figure("server's memory each", "server.bytes_each", "B", Better::Lower),
    figure("kernel's memory each", "client.slab_each", "B", Better::Lower),
    figure("both ends, all told", "memory_each", "B", Better::Lower),
    figure("machine CPU, idle", "client.idle_machine_share", "cores", Better::Lower),
    figure("client CPU, idle", "client.idle_share", "cores", Better::Lower),
    figure("opened", "client.open_per_s", "/s", Better::Higher),
    figure("busy stream", "client.gbit_s", "Gbit/s", Better::Higher),
    figure("of its speed alone", "client.kept", "×", Better::Higher),
    figure("of its cost alone", "client.cost", "×", Better::Lower),
];
const SCALE: &[Figure] = &[
    figure("memory of both ends each", "client.bytes_each", "B", Better::Lower),
    figure("CPU to come to rest, each", "client.rest_us_each", "µs", Better::Lower),
    figure("process CPU, idle", "client.idle_share", "cores", Better::Lower),
    figure("opened", "client.open_per_s", "/s", Better::Higher),
    figure("busy stream", "client.gbit_s", "Gbit/s", Better::Higher),
    figure("of its speed alone", "client.kept", "×", Better::Higher),
    figure("CPU for 1448 B", "client.cpu_us_per_segment", "µs", Better::Lower),
];
const LIMIT: &[Figure] = &[figure("payload", "gbit_s", "Gbit/s", Better::Higher)];

/// Where two ends run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each in a process.
    Processes,
    /// In one process, each on a thread.
    Threads,
    /// In one process, by turns on one thread.
    OneThread,
}

/// Two ends.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) label: String,
    pub(super) client: Job,
    pub(super) server: Job,
    pub(super) layout: Layout,
}

impl Setup {
    /// The same for this run of a group: at a port where no run before it has left anything.
    pub(super) fn in_run(&self, number: usize) -> Self {
        let port = PORT + (number % 400) as u16 * (IDLE_PORTS + 1);
        let moved = |job: &Job| Job { work: job.work.clone().at_port(port), ..job.clone() };
        Self { client: moved(&self.client), server: moved(&self.server), ..self.clone() }
    }
}

/// Setups under the same conditions.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) title: String,
    pub(super) path: Path,
    pub(super) mtu: u32,
    pub(super) offloads: Offloads,
    pub(super) device: String,
    pub(super) baseline: Setup,
    pub(super) others: Vec<Setup>,
    pub(super) figures: &'static [Figure],
    /// About how long a run takes.
    pub(super) length: Duration,
    /// What is looked for on the wire.
    pub(super) watch: Option<Watch>,
}

/// The ends' conditions that are the same in all setups of a group.
#[derive(Clone, Debug)]
struct Conditions {
    title: String,
    mtu: u32,
    offloads: Offloads,
    device: String,
    at: SocketAddr,
    /// Both ends on this processor.
    processor: Option<usize>,
    figures: &'static [Figure],
    seconds: f64,
}

/// Where servers listen in the first run; see [`Setup::in_run`].
const PORT: u16 = 7000;

/// Bytes of one write or read of bulk data.
const CHUNK: usize = 256 * 1024;

/// Ports over which idle connections are spread: the ports of one pair of addresses would not suffice.
const IDLE_PORTS: u16 = 100;

const WARM_UP: f64 = 0.2;

/// Devices that stay inside a process.
fn is_in_process(device: &str) -> bool {
    matches!(device, "loopback" | MEMORY)
}

impl Bench {
    pub(super) fn plan(&self) -> io::Result<Vec<Group>> {
        if self.device.iter().any(|device| device == tun::TUN) && self.mtu != [tun::MTU] {
            let text = format!("the TUN interfaces have an MTU of {}: --mtu {}", tun::MTU, tun::MTU);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut groups = Vec::new();
        for workload in &self.workload {
            for device in &self.device {
                for family in &self.family {
                    let ip = self.server(device, *family)?;
                    let conditions = Conditions {
                        title: format!("IPv{family}, {device}"),
                        mtu: 1500,
                        offloads: Offloads::Default,
                        device: device.clone(),
                        at: SocketAddr::new(ip, PORT),
                        processor: None,
                        figures: BULK,
                        seconds: self.seconds,
                    };
                    match workload {
                        Workload::Bulk => groups.extend(self.bulk(&conditions, 1)),
                        Workload::Streams => groups.extend(self.bulk(&conditions, self.streams)),
                        Workload::Rr => groups.extend(self.rr(&conditions)),
                        Workload::Connect => groups.extend(self.connect(&conditions)),
                        Workload::Idle => groups.extend(self.idle(&conditions)),
                        Workload::Limit => groups.extend(self.limit(&conditions)),
                        Workload::Deadlines => groups.extend(self.deadlines(&conditions)),
                        // On a link of its own, once.
                        Workload::Scale => {}
                    }
                }
            }
        }
        if self.workload.contains(&Workload::Scale) {
            groups.push(self.scale());
        }
        Ok(groups)
    }

    /// Whether the path is inside a host: the device's or the caller's choice.
    fn path(&self, device: &str) -> Path {
        if is_in_process(device) { Path::Lo } else { self.path }
    }

    fn server(&self, device: &str, family: u8) -> io::Result<IpAddr> {
        if device == MEMORY {
            return Ok(SERVER_V4);
        }
        match (self.path(device), family) {
            // Its own loopback addresses are not the host's.
            (Path::Lo, 4) if device == tun::TUN => Ok(SERVER_V4),
            (Path::Lo, 6) if device == tun::TUN => Ok(SERVER_V6),
            (Path::Veth, 4) => Ok(SERVER_V4),
            (Path::Veth, 6) => Ok(SERVER_V6),
            (Path::Lo, 4) => Ok(Ipv4Addr::LOCALHOST.into()),
            (Path::Lo, 6) => Ok(Ipv6Addr::LOCALHOST.into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no IPv{family}"))),
        }
    }

    fn job(&self, whose: Whose, work: Work, conditions: &Conditions) -> Job {
        let (congestion, workers) = (self.congestion.clone(), self.workers);
        Job { whose, work, congestion, processor: conditions.processor, workers, drive: Drive::default(), drivers: 1 }
    }

    /// Two ends, each with what it does; `adapt` says how their programs run.
    fn setup(
        &self,
        conditions: &Conditions,
        label: impl Into<String>,
        ends: [(Whose, Work); 2],
        adapt: impl Fn(Job) -> Job,
    ) -> Setup {
        let [client, server] = ends.map(|(whose, work)| adapt(self.job(whose, work, conditions)));
        let layout = if is_in_process(&conditions.device) { Layout::Threads } else { Layout::Processes };
        Setup { label: label.into(), client, server, layout }
    }

    /// The kernel at both ends, and ours where `directions` say; the client is the sender.
    fn group(
        &self,
        conditions: &Conditions,
        directions: &[Direction],
        client: impl Fn(Api) -> Work,
        server: impl Fn(Api) -> Work,
        apis: &[Api],
    ) -> Group {
        let setup = |label: String, whose: [Whose; 2], api: [Api; 2], drivers: usize| {
            let (mut client, mut server) = (client(api[0]), server(api[1]));
            if conditions.device == tun::TUN && whose[1] == Whose::Ours {
                let at = tun::server(conditions.at.ip());
                (client, server) = (client.at_ip(at), server.at_ip(at));
            }
            self.setup(conditions, label, [(whose[0], client), (whose[1], server)], |job| Job { drivers, ..job })
        };
        let mut others = Vec::new();
        for direction in directions {
            let (name, whose) = match direction {
                Direction::Send => ("ours→kernel", [Whose::Ours, Whose::Kernel]),
                Direction::Receive => ("kernel→ours", [Whose::Kernel, Whose::Ours]),
                Direction::Both => ("ours↔ours", [Whose::Ours, Whose::Ours]),
            };
            if is_in_process(&conditions.device) && *direction != Direction::Both {
                continue;
            }
            for (api, &drivers) in apis.iter().flat_map(|api| self.drivers.iter().map(move |drivers| (api, drivers))) {
                let mut label = if *api == Api::Bytes { format!("{name}, Bytes") } else { name.to_owned() };
                if drivers != 1 {
                    label += &format!(", {drivers} drivers");
                }
                let apis = whose.map(|whose| if whose == Whose::Ours { *api } else { Api::Io });
                others.push(setup(label, whose, apis, drivers));
            }
        }
        let baseline = setup("kernel↔kernel".to_owned(), [Whose::Kernel; 2], [Api::Io; 2], 1);
        self.of(conditions, baseline, others)
    }

    /// A group under these conditions.
    fn of(&self, conditions: &Conditions, baseline: Setup, others: Vec<Setup>) -> Group {
        Group {
            title: conditions.title.clone(),
            path: self.path(&conditions.device),
            mtu: conditions.mtu,
            offloads: conditions.offloads,
            device: conditions.device.clone(),
            baseline,
            others,
            figures: conditions.figures,
            length: Duration::from_secs_f64(conditions.seconds),
            watch: None,
        }
    }

    fn bulk(&self, conditions: &Conditions, streams: usize) -> Vec<Group> {
        let mut groups = Vec::new();
        let what = if streams == 1 { "bulk".to_owned() } else { format!("bulk, {streams} streams") };
        let on_veth = self.path(&conditions.device) == Path::Veth;
        let mtus = if on_veth { &self.mtu[..] } else { &[65_536] };
        let offloads = if on_veth { &self.offloads[..] } else { &[Offloads::Default] };
        for mtu in mtus {
            for offloads in offloads {
                let conditions = Conditions {
                    title: format!("{what}, {}, MTU {mtu}, offloads {offloads}", conditions.title),
                    mtu: *mtu,
                    offloads: *offloads,
                    figures: if streams == 1 { BULK } else { STREAMS },
                    ..conditions.clone()
                };
                let client = |api| {
                    Work::Send(bulk::Send {
                        to: conditions.at,
                        streams,
                        seconds: self.seconds,
                        chunk: CHUNK,
                        by_reference: api == Api::Bytes,
                        until_reset: false,
                    })
                };
                let server = |api| {
                    Work::Receive(bulk::Receive {
                        at: conditions.at,
                        streams,
                        warm_up: WARM_UP.min(self.seconds / 4.0),
                        chunk: CHUNK,
                        by_reference: api == Api::Bytes,
                        stop_after: None,
                    })
                };
                let apis = if streams == 1 { &self.api[..] } else { &[Api::Io] };
                groups.push(self.group(&conditions, &self.direction, client, server, apis));
            }
        }
        groups
    }

    fn rr(&self, conditions: &Conditions) -> Vec<Group> {
        let message = rr::Message { size: 64, header: 0, nodelay: true };
        let split = rr::Message { header: 8, ..message };
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        let kinds = [
            ("request/response 64 B, one CPU", message, Some(last)),
            ("request/response 64 B, any CPU", message, None),
            ("header, then body, one CPU", split, Some(last)),
            ("header, then body, Nagle, one CPU", rr::Message { nodelay: false, ..split }, Some(last)),
        ];
        let group = |(what, message, processor)| {
            let title = format!("{what}, {}", conditions.title);
            let conditions = Conditions { title, figures: RR, processor, ..conditions.clone() };
            let client = |_| Work::Ask(rr::Ask { to: conditions.at, message, seconds: self.seconds });
            let server = |_| Work::Answer(rr::Answer { at: conditions.at, message });
            // The client is the one who is timed; on the other side ours answers.
            self.group(&conditions, &self.direction, client, server, &[Api::Io])
        };
        kinds.into_iter().map(group).collect()
    }

    fn connect(&self, conditions: &Conditions) -> Vec<Group> {
        let group = |(closes, in_flight): (Closes, usize)| {
            let client_closes = closes == Closes::Client;
            let title = format!("connect + 1 B + close, {in_flight} at once, {closes} closes, {}", conditions.title);
            let conditions = Conditions { title, figures: CONNECT, ..conditions.clone() };
            let client = |_| {
                let (to, seconds) = (conditions.at, self.seconds);
                Work::Dial(connect::Dial { to, seconds, in_flight, client_closes })
            };
            let server = |_| Work::Greet(connect::Greet { at: conditions.at, client_closes });
            self.group(&conditions, &self.direction, client, server, &[Api::Io])
        };
        let each = self.closes.iter().flat_map(|closes| self.at_once.iter().map(|at_once| (*closes, *at_once)));
        each.map(group).collect()
    }

    fn idle(&self, conditions: &Conditions) -> Vec<Group> {
        let group = |connections: &usize| {
            let title = format!("{connections} idle connections, {}", conditions.title);
            // Phases, and time to open them.
            let seconds = self.seconds * 4.0 + *connections as f64 / 2_000.0;
            let conditions = Conditions { title, figures: IDLE, seconds, ..conditions.clone() };
            let (at, connections, ports, chunk) = (conditions.at, *connections, IDLE_PORTS, CHUNK);
            let seconds = self.seconds;
            let client = |_| Work::Hold(idle::Hold { to: at, ports, connections, seconds, chunk });
            let server = |_| Work::Keep(idle::Keep { at, ports, connections, chunk });
            self.group(&conditions, &self.direction, client, server, &[Api::Io])
        };
        self.connections.iter().map(group).collect()
    }

    /// Ours in one process with many idle connections, against the same with one.
    fn scale(&self) -> Group {
        let at = SocketAddr::new(SERVER_V4, PORT);
        let (ports, chunk, seconds) = (IDLE_PORTS, CHUNK, self.seconds);
        let conditions = Conditions {
            title: "idle connections in one process, in memory, MTU 1500".to_owned(),
            mtu: 65_536,
            offloads: Offloads::Default,
            device: MEMORY.to_owned(),
            at,
            processor: None,
            figures: SCALE,
            seconds,
        };
        let setup = |connections: usize| {
            let client = Work::Hold(idle::Hold { to: at, ports, connections, seconds, chunk });
            let server = Work::Keep(idle::Keep { at, ports, connections, chunk });
            let ends = [client, server].map(|work| (Whose::Ours, work));
            let setup = self.setup(&conditions, format!("{connections} connections"), ends, |job| job);
            // What passes between two processors would vary more than what is measured.
            Setup { layout: Layout::OneThread, ..setup }
        };
        let most = self.scale.iter().copied().max().unwrap_or(1);
        let others = self.scale.iter().map(|connections| setup(*connections)).collect();
        let length = Duration::from_secs_f64(seconds * 4.0 + most as f64 / 2_000.0);
        Group { path: Path::Lo, length, ..self.of(&conditions, setup(1), others) }
    }

    /// Ours against the bare packet path.
    fn limit(&self, conditions: &Conditions) -> Option<Group> {
        if conditions.device != "raw" || self.path == Path::Lo {
            return None;
        }
        let conditions = Conditions {
            title: format!("bulk against bare sendmmsg, {}, MTU 1500, offloads none", conditions.title),
            offloads: Offloads::None,
            figures: LIMIT,
            ..conditions.clone()
        };
        let alone =
            Bench { mtu: vec![1500], offloads: vec![Offloads::None], direction: vec![Direction::Send], ..self.clone() };
        let ours = alone.bulk(&conditions, 1).pop()?;
        let flood = Work::Flood(limit::Flood { to: conditions.at, mtu: 1500, seconds: self.seconds });
        let silence = Work::Silence(limit::Silence { at: conditions.at });
        let ends = [flood, silence].map(|work| (Whose::Ours, work));
        let baseline = self.setup(&conditions, "bare sendmmsg", ends, |job| job);
        Some(Group { title: conditions.title, baseline, figures: LIMIT, ..ours })
    }
}
