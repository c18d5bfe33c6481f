//! Hosts joined by links, in virtual time.
//!
//! Time stands still while the test acts, and jumps to the next packet or timer when it is asked to go
//! on. Everything follows from the seed. When a test panics, its network says the seed and writes below
//! `target/rawtcp-sim/` the time–sequence pictures of its connections, what they did and why, and the last
//! packets of its links.

mod report;
mod sockets;

pub use sockets::{Listening, Socket};

use crate::craft;
use crate::host::{Host, HostConfig};
use crate::link::{Link, LinkConfig};
use crate::pcapng::Pcapng;
use crate::trace::{Record, Way};
use bytes::Bytes;
use rawtcp_proto::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;

/// Names a host of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub(crate) usize);

impl HostId {
    /// Its number: hosts count from 0 in the order in which they were added.
    pub fn index(self) -> usize {
        self.0
    }
}

/// Names one direction of a link of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(usize);

/// What a filter says about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes into the link.
    Pass,
    /// It is lost.
    Drop,
    /// It goes into the link so much later.
    Delay(Duration),
    /// These go into the link instead.
    Replace(Vec<Bytes>),
}

type Filter = Box<dyn FnMut(Instant, &Bytes) -> Verdict>;

struct Wire {
    from: HostId,
    to: HostId,
    link: Link,
    filter: Option<Filter>,
    capture: Option<Pcapng>,
    /// The last packets, for a report: into the link (0) or out of it (1).
    recent: VecDeque<(u32, Instant, Bytes)>,
    /// Their bytes.
    recent_bytes: usize,
    /// Who reports packets above the link's MTU; nobody: a black hole.
    router: Option<IpAddr>,
}

/// Bytes of the last packets of each direction that are kept for a report.
const RECENT: usize = 4 << 20;

/// The names of the two places where a link's packets are seen.
const PLACES: [&str; 2] = ["into the link", "out of the link"];

impl Wire {
    /// A packet passes: into the link (0) or out of it (1).
    fn see(&mut self, place: u32, now: Instant, packet: &Bytes, keep: bool) {
        if let Some(capture) = &mut self.capture {
            capture.packet(place, now, packet);
        }
        if keep {
            self.recent.push_back((place, now, packet.clone()));
            self.recent_bytes += packet.len();
            while self.recent_bytes > RECENT
                && let Some((_, _, oldest)) = self.recent.pop_front()
            {
                self.recent_bytes -= oldest.len();
            }
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("from", &self.from).field("to", &self.to).field("link", &self.link).finish()
    }
}

/// Where a packet is on its way without a link.
#[derive(Debug)]
enum Detour {
    /// To this host's interface.
    Host(HostId),
    /// Into this link, past its filter.
    Link(usize),
}

/// How long [`Network::run_until`] goes on: beyond this nothing is expected to happen any more.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Steps at one instant after which something goes round in circles.
const CIRCLES: u32 = 1_000_000;

/// Where the clock starts. Not zero, so that a time before the start can be told.
const START: Instant = Instant::from_secs(1000);

/// The default length of the trace.
const TRACE: usize = 100_000;

/// Hosts, links and a clock. See the [module](self).
#[derive(Debug)]
pub struct Network {
    seed: u64,
    now: Instant,
    hosts: Vec<Host>,
    wires: Vec<Wire>,
    /// Packets that come out of no link: injected, looped back, delayed, or from routers.
    detours: BTreeMap<(Instant, u64), (Detour, Bytes)>,
    detour: u64,
    trace: Vec<Record>,
    trace_limit: usize,
    circles: u32,
}

impl Network {
    /// An empty network.
    pub fn new(seed: u64) -> Self {
        Network {
            seed,
            now: START,
            hosts: Vec::new(),
            wires: Vec::new(),
            detours: BTreeMap::new(),
            detour: 0,
            trace: Vec::new(),
            trace_limit: TRACE,
            circles: 0,
        }
    }

    /// Two hosts, 10.0.0.1 with 2001:db8::1 and 10.0.0.2 with 2001:db8::2, joined by links of this kind.
    pub fn pair(seed: u64, link: LinkConfig) -> (Self, HostId, HostId) {
        let mut net = Network::new(seed);
        let [a, b] = [1, 2].map(|n| {
            let config = HostConfig::new([10, 0, 0, n].into(), seed.wrapping_add(u64::from(n)));
            net.add(config.with_address([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)].into()))
        });
        net.join(a, b, link, link);
        (net, a, b)
    }

    /// Adds a host.
    pub fn add(&mut self, config: HostConfig) -> HostId {
        self.hosts.push(Host::new(config));
        HostId(self.hosts.len() - 1)
    }

    /// Joins two hosts by a link each way; the names are in the order of the arguments. Packets go from
    /// a host to where their destination is by the first link between the two; there is no forwarding.
    pub fn join(&mut self, a: HostId, b: HostId, there: LinkConfig, back: LinkConfig) -> (LinkId, LinkId) {
        (self.wire(a, b, there), self.wire(b, a, back))
    }

    fn wire(&mut self, from: HostId, to: HostId, config: LinkConfig) -> LinkId {
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.wires.len() as u64);
        let link = Link::new(config, seed);
        self.wires.push(Wire {
            from,
            to,
            link,
            filter: None,
            capture: None,
            recent: VecDeque::new(),
            recent_bytes: 0,
            router: None,
        });
        LinkId(self.wires.len() - 1)
    }

    /// The link from one host to another.
    ///
    /// # Panics
    /// If there is none.
    pub fn between(&self, from: HostId, to: HostId) -> LinkId {
        LinkId(self.route(from, to).expect("the hosts are joined"))
    }

    fn route(&self, from: HostId, to: HostId) -> Option<usize> {
        self.wires.iter().position(|wire| (wire.from, wire.to) == (from, to))
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A host.
    pub fn host(&self, host: HostId) -> &Host {
        &self.hosts[host.0]
    }

    /// A host, to act upon. What it wants to send leaves with the next step.
    pub fn host_mut(&mut self, host: HostId) -> &mut Host {
        &mut self.hosts[host.0]
    }

    /// One direction of a link.
    pub fn link(&self, link: LinkId) -> &Link {
        &self.wires[link.0].link
    }

    /// Changes what a link does to packets from now on.
    pub fn set_link(&mut self, link: LinkId, config: LinkConfig) {
        self.wires[link.0].link.set_config(config);
    }

    /// Has a router at this address report packets above the link's MTU, as long after they were sent as
    /// the link's delay; `None`, as at first: they vanish in a black hole.
    pub fn set_router(&mut self, link: LinkId, router: Option<IpAddr>) {
        self.wires[link.0].router = router;
    }

    /// Has every packet judged before it goes into the link. Replaces the filter before it.
    pub fn filter(&mut self, link: LinkId, filter: impl FnMut(Instant, &Bytes) -> Verdict + 'static) {
        self.wires[link.0].filter = Some(Box::new(filter));
    }

    /// Removes a link's filter.
    pub fn unfilter(&mut self, link: LinkId) {
        self.wires[link.0].filter = None;
    }

    /// Captures what goes into and comes out of a link from now on.
    pub fn capture(&mut self, link: LinkId) {
        self.wires[link.0].capture = Some(Pcapng::new(&PLACES));
    }

    /// What was captured, as a pcapng file.
    pub fn captured(&self, link: LinkId) -> Option<&[u8]> {
        self.wires[link.0].capture.as_ref().map(Pcapng::as_bytes)
    }

    /// What passed the hosts' interfaces, oldest first.
    pub fn trace(&self) -> &[Record] {
        &self.trace
    }

    /// Forgets the trace, and keeps so many records from now on. Default 100,000; 0 switches it off, and the last
    /// packets of links are not kept either.
    pub fn set_trace(&mut self, records: usize) {
        self.trace.clear();
        self.trace_limit = records;
    }

    /// Puts a packet onto a host's interface, as if it had arrived now.
    pub fn inject(&mut self, to: HostId, packet: Bytes) {
        self.send_off(self.now, Detour::Host(to), packet);
    }

    fn send_off(&mut self, at: Instant, to: Detour, packet: Bytes) {
        self.detour += 1;
        self.detours.insert((at, self.detour), (to, packet));
    }

    /// Sends everything that hosts want to send now.
    pub fn flush(&mut self) {
        (0..self.hosts.len()).for_each(|host| self.flush_host(HostId(host)));
    }

    fn flush_host(&mut self, host: HostId) {
        while let Some(packet) = self.hosts[host.0].poll_transmit(self.now) {
            self.transmit(host, packet);
        }
    }

    fn transmit(&mut self, from: HostId, packet: Bytes) {
        let to = destination(&packet)
            .and_then(|dst| self.hosts.iter().position(|host| host.config().addresses.contains(&dst)));
        let wire = match to {
            Some(to) if to == from.0 => {
                self.record(from, Way::Sent, &packet);
                return self.send_off(self.now, Detour::Host(from), packet);
            }
            Some(to) => self.route(from, HostId(to)),
            // Where nobody is: as if there had been somebody, so that the link can be seen.
            None => self.wires.iter().position(|wire| wire.from == from),
        };
        let Some(wire) = wire else { return self.record(from, Way::SentLost, &packet) };
        let verdict = match &mut self.wires[wire].filter {
            Some(filter) => filter(self.now, &packet),
            None => Verdict::Pass,
        };
        match verdict {
            Verdict::Pass => self.push(wire, packet),
            Verdict::Drop => self.record(from, Way::SentLost, &packet),
            Verdict::Delay(by) => {
                self.record(from, Way::Sent, &packet);
                self.send_off(self.now + by, Detour::Link(wire), packet);
            }
            Verdict::Replace(packets) => packets.into_iter().for_each(|packet| self.push(wire, packet)),
        }
    }

    /// Puts a packet into a link.
    fn push(&mut self, at: usize, packet: Bytes) {
        let now = self.now;
        let wire = &mut self.wires[at];
        let from = wire.from;
        wire.see(0, now, &packet, self.trace_limit > 0);
        let lost = |link: &Link| link.stats().lost + link.stats().queue_drops + link.stats().too_big;
        let (before, too_big) = (lost(&wire.link), wire.link.stats().too_big);
        wire.link.push(now, packet.clone());
        let way = if lost(&wire.link) > before { Way::SentLost } else { Way::Sent };
        let config = wire.link.config();
        if wire.link.stats().too_big > too_big
            && let (Some(router), Some(mtu)) = (wire.router, config.mtu)
            && let Some(error) = craft::too_big(router, &packet, mtu as u32)
        {
            let at = now + config.delay;
            self.send_off(at, Detour::Host(from), error);
        }
        self.record(from, way, &packet);
    }

    fn record(&mut self, host: HostId, way: Way, packet: &Bytes) {
        if self.trace.len() < self.trace_limit {
            self.trace.extend(Record::new(self.now, host, way, packet));
        }
    }

    /// When something happens next, if ever.
    pub fn next_event(&self) -> Option<Instant> {
        let hosts = self.hosts.iter().filter_map(Host::next_deadline);
        let links = self.wires.iter().filter_map(|wire| wire.link.next_due());
        let detours = self.detours.keys().next().map(|&(at, _)| at);
        hosts.chain(links).chain(detours).min().map(|at| at.max(self.now))
    }

    /// Goes to the next thing that happens, and has it happen. `false`: nothing ever will.
    pub fn step(&mut self) -> bool {
        self.flush();
        let Some(next) = self.next_event() else { return false };
        self.circles = if next > self.now { 0 } else { self.circles + 1 };
        assert!(self.circles < CIRCLES, "no end of events at {:?}", self.now);
        self.now = next;
        for wire in 0..self.wires.len() {
            let to = self.wires[wire].to;
            while let Some(packet) = self.wires[wire].link.pop_due(next) {
                self.wires[wire].see(1, next, &packet, self.trace_limit > 0);
                self.arrive(to, packet);
            }
        }
        while let Some(entry) = self.detours.first_entry().filter(|entry| entry.key().0 <= next) {
            match entry.remove() {
                (Detour::Host(to), packet) => self.arrive(to, packet),
                (Detour::Link(wire), packet) => self.wires[wire].link.push(next, packet),
            }
        }
        for host in 0..self.hosts.len() {
            if self.hosts[host].next_deadline().is_some_and(|at| at <= next) {
                self.hosts[host].on_timeout(next);
                self.flush_host(HostId(host));
            }
        }
        true
    }

    fn arrive(&mut self, to: HostId, packet: Bytes) {
        self.record(to, Way::Received, &packet);
        // Why it went no further, if so, is in the host's counters.
        let _ = self.hosts[to.0].on_packet(self.now, &packet);
        self.flush_host(to);
    }

    /// Goes on until `done` says so; it is asked before every step, and may act. `false`: nothing will
    /// ever happen again, or a day has passed.
    #[must_use]
    pub fn run_until(&mut self, mut done: impl FnMut(&mut Network) -> bool) -> bool {
        let end = self.now + PATIENCE;
        loop {
            if done(self) {
                self.flush();
                return true;
            }
            self.flush();
            if self.next_event().is_none_or(|at| at > end) {
                return false;
            }
            self.step();
        }
    }

    /// Goes on for this long, exactly.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.flush();
        while self.next_event().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
    }
}

/// Where an IP packet wants to go.
pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into()),
        6 => Some(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into()),
        _ => None,
    }
}
