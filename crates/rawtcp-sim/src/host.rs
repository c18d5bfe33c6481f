//! A single-threaded host around the protocol: IP packets and the time go in, IP packets come out.
//!
//! This is the smallest complete driver of `rawtcp-proto`: one [`Stack`] that finds what a packet
//! belongs to, the connections it belongs to, and a socket-like surface above. `docs/driving-proto.md`
//! walks through it. Nothing here reads a clock or draws a random number: the same seed, calls and
//! times always give the same packets.
//!
//! ```
//! use rawtcp_proto::{ConnConfig, Instant};
//! use rawtcp_sim::{Errno, Host, HostConfig};
//!
//! let mut host = Host::new(HostConfig::new("10.0.0.1".parse().unwrap(), 7));
//! let now = Instant::from_secs(1);
//! let conn = host.connect(now, "10.0.0.2:80".parse().unwrap(), &ConnConfig::default()).unwrap();
//! let syn = host.poll_transmit(now).expect("a SYN");
//! assert_eq!((syn.len(), syn[20 + 13]), (60, 0x02));
//! assert_eq!(host.poll_transmit(now), None);
//! assert_eq!(host.next_deadline(), Some(Instant::from_secs(2)));
//! assert_eq!(host.read(now, conn, &mut [0; 1]), Err(Errno::EAGAIN));
//! ```

mod counts;
mod errno;
mod sockets;

pub use counts::StateCounts;
pub use errno::Errno;
pub use sockets::Shutdown;

use bytes::{Bytes, BytesMut};
use rawtcp_proto::stack::{AcceptQueue, Counters, Disposition, PortChooser, Reply, Stack, StackConfig, TupleHasher};
use rawtcp_proto::wire::ip::{self, ICMP, IpMeta, TCP};
use rawtcp_proto::wire::tcp::{self, ChecksumState, HeaderBuf, build};
use rawtcp_proto::wire::{IpHeader, checksum, icmp};
use rawtcp_proto::{
    ConnConfig, Connection, DropReason, Events, FourTuple, Instant, Segment, State, Traced, Transmit, TxLimits,
    is_unicast,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a host is made of.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Its addresses; an active open starts from the first one of the peer's family.
    pub addresses: Vec<IpAddr>,
    /// MTU of its interface, in bytes. Default 1500.
    pub mtu: u32,
    /// Where initial sequence numbers, timestamp offsets, ports and hash keys come from.
    pub seed: [u8; 32],
    /// The settings of everything that is not a connection.
    pub stack: StackConfig,
    /// Ports for active opens and for `listen` on port 0. Default 32768–60999, as Linux.
    pub ports: RangeInclusive<u16>,
    /// How many events of its connections the host keeps ([`Host::events`]). Default 20,000.
    pub events: usize,
    /// Check each connection's invariants after every call; panics where one is broken. Costly with many
    /// segments in flight. Default: in debug builds.
    pub check_invariants: bool,
}

impl HostConfig {
    /// The defaults, for a host with this address.
    pub fn new(address: IpAddr, seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        HostConfig {
            addresses: vec![address],
            mtu: 1500,
            seed: bytes,
            stack: StackConfig::default(),
            ports: 32_768..=60_999,
            events: 20_000,
            check_invariants: cfg!(debug_assertions),
        }
    }

    /// Adds an address.
    pub fn with_address(mut self, address: IpAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Sets the MTU of the interface, in bytes.
    pub fn with_mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Sets what holds for everything that is not a connection.
    pub fn with_stack(mut self, stack: StackConfig) -> Self {
        self.stack = stack;
        self
    }

    /// Sets the ports for active opens.
    pub fn with_ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.ports = ports;
        self
    }

    /// Sets how many events of its connections the host keeps.
    pub fn with_events(mut self, events: usize) -> Self {
        self.events = events;
        self
    }

    /// Switches the check of invariants on or off.
    pub fn with_checks(mut self, check: bool) -> Self {
        self.check_invariants = check;
        self
    }
}

/// Names a connection of one host; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

/// Names a listener of one host; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(u64);

/// The table's handle for a listener: it may ask whether there is room without asking the host.
#[derive(Clone, Debug)]
struct Backlog {
    id: ListenerId,
    queued: Arc<AtomicUsize>,
    limit: usize,
}

impl AcceptQueue for Backlog {
    fn has_room(&self) -> bool {
        // As Linux: the backlog is exceeded by one.
        self.queued.load(Ordering::Relaxed) <= self.limit
    }
}

#[derive(Debug)]
struct Listener {
    local: SocketAddr,
    v6only: bool,
    queue: VecDeque<ConnId>,
    queued: Arc<AtomicUsize>,
}

/// A connection, and what the host has to know of it.
#[derive(Debug)]
struct Conn {
    connection: Connection,
    /// It is in the list of those that may have something to send.
    touched: bool,
    /// Its deadline in the host's list.
    armed: Option<Instant>,
    /// It is not in the stack's table any more: closed, or replaced by a TIME-WAIT record.
    detached: bool,
    /// The record that took its place has gone too.
    expired: bool,
    /// The application, or an accept queue, holds it.
    held: bool,
    /// Its reading direction was shut down.
    read_shut: bool,
    /// What happened and the application has not asked for.
    events: Events,
}

/// Hashes four-tuples with a key of the host's, so that maps are the same in every run.
#[derive(Debug, Default)]
struct Fixed;

impl BuildHasher for Fixed {
    type Hasher = std::hash::DefaultHasher;
    fn build_hasher(&self) -> Self::Hasher {
        std::hash::DefaultHasher::new()
    }
}

/// A host. See the [module](self).
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    stack: Stack<ConnId, Backlog>,
    chooser: Option<PortChooser>,
    flow: TupleHasher,
    listeners: BTreeMap<ListenerId, Listener>,
    conns: BTreeMap<ConnId, Conn>,
    /// Connections that a TIME-WAIT record has taken the place of. For look-ups only.
    waiting: HashMap<FourTuple, ConnId, Fixed>,
    touched: VecDeque<ConnId>,
    replies: VecDeque<Reply>,
    deadlines: BTreeSet<(Instant, ConnId)>,
    next_id: u64,
    reply_id: u16,
    drops: [u64; DropReason::COUNT],
    events: VecDeque<(FourTuple, Traced)>,
}

impl Host {
    /// A host without listeners and connections.
    pub fn new(config: HostConfig) -> Self {
        Host {
            stack: Stack::new(config.stack.clone(), config.seed),
            chooser: Some(PortChooser::new(&config.seed)),
            flow: TupleHasher::new(&config.seed),
            config,
            listeners: BTreeMap::new(),
            conns: BTreeMap::new(),
            waiting: HashMap::default(),
            touched: VecDeque::new(),
            replies: VecDeque::new(),
            deadlines: BTreeSet::new(),
            next_id: 0,
            reply_id: 0,
            drops: [0; DropReason::COUNT],
            events: VecDeque::new(),
        }
    }

    /// The settings.
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// Takes an IP packet, TCP or ICMP, that arrived at this host.
    ///
    /// Poll afterwards: [`poll_transmit`](Self::poll_transmit) until `None`, then
    /// [`next_deadline`](Self::next_deadline).
    ///
    /// # Errors
    /// Why the packet went no further, or was only answered. It has been counted; nothing is to be done.
    pub fn on_packet(&mut self, now: Instant, packet: &Bytes) -> Result<(), DropReason> {
        let outcome = self.take_packet(now, packet);
        if let Err(reason) = outcome {
            self.drops[reason as usize] += 1;
        }
        outcome
    }

    fn take_packet(&mut self, now: Instant, packet: &Bytes) -> Result<(), DropReason> {
        let (ip, transport) = ip::parse(packet)?;
        if !is_unicast(ip.dst) {
            return Err(DropReason::Address);
        }
        if !self.config.addresses.contains(&ip.dst) {
            return Err(DropReason::NotOurs);
        }
        if ip.protocol != TCP {
            return self.take_icmp(now, &ip, transport);
        }
        let (header, payload, _) = tcp::parse(&ip, transport, ChecksumState::Unknown, false)?;
        let tuple = FourTuple::new(SocketAddr::new(ip.dst, header.dst_port), SocketAddr::new(ip.src, header.src_port));
        let segment = Segment { header, payload, owner: Some(packet), ecn: ip.ecn(), gro_size: 0 };
        self.take_segment(now, &tuple, &segment)
    }

    fn take_segment(&mut self, now: Instant, tuple: &FourTuple, segment: &Segment<'_>) -> Result<(), DropReason> {
        match self.stack.on_segment(now, tuple, segment) {
            Disposition::Connection(id) => self.deliver(id, |conn| conn.on_segment(now, segment)),
            Disposition::Accept { listener, connection } => {
                // In this order: into the table, then the segment, then the queue.
                let id = self.adopt(*connection);
                self.stack.insert(*tuple, id);
                let outcome = self.deliver(id, |conn| conn.on_segment(now, segment));
                if let Some(listener) = self.listeners.get_mut(&listener.id) {
                    listener.queue.push_back(id);
                    listener.queued.store(listener.queue.len(), Ordering::Relaxed);
                }
                outcome
            }
            Disposition::Reply(reply) => {
                self.replies.push_back(reply);
                Ok(())
            }
            Disposition::Done => Ok(()),
            Disposition::Drop(reason) => Err(reason),
            // All addresses of this host are its own alone.
            Disposition::Unclaimed => {
                let reply = self.stack.reset_for(now, tuple, segment)?;
                self.replies.push_back(reply);
                Err(DropReason::NoConnection)
            }
        }
    }

    fn take_icmp(&mut self, now: Instant, ip: &IpHeader, message: &[u8]) -> Result<(), DropReason> {
        let error = if ip.protocol == ICMP { icmp::parse_v4(ip, message)? } else { icmp::parse_v6(ip, message, true)? };
        let id = self.stack.on_icmp(now, &error).ok_or(DropReason::IcmpIgnored)?;
        self.deliver(id, |conn| conn.on_icmp(now, &error))
    }

    /// Takes a new connection in.
    fn adopt(&mut self, connection: Connection) -> ConnId {
        let id = ConnId(self.next_id);
        self.next_id += 1;
        let conn = Conn {
            connection,
            touched: false,
            armed: None,
            detached: false,
            expired: false,
            held: true,
            read_shut: false,
            events: Events::default(),
        };
        self.conns.insert(id, conn);
        id
    }

    /// Acts on a connection, which is then polled.
    fn deliver<R>(
        &mut self,
        id: ConnId,
        act: impl FnOnce(&mut Connection) -> Result<R, DropReason>,
    ) -> Result<R, DropReason> {
        self.act(id, act).unwrap_or(Err(DropReason::Closed))
    }

    fn act<R>(&mut self, id: ConnId, act: impl FnOnce(&mut Connection) -> R) -> Option<R> {
        let conn = self.conns.get_mut(&id)?;
        let result = act(&mut conn.connection);
        if self.config.check_invariants {
            conn.connection.check_invariants();
        }
        if !conn.touched {
            conn.touched = true;
            self.touched.push_back(id);
        }
        Some(result)
    }

    /// The next IP packet to send. It counts as sent.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return Some(self.encode_reply(&reply));
            }
            let &id = self.touched.front()?;
            if let Some(conn) = self.conns.get_mut(&id) {
                let quiet = self.config.check_invariants && conn.connection.is_quiet(now);
                if let Some(transmit) = conn.connection.poll_transmit(now, &TxLimits::ONE_SEGMENT) {
                    if self.config.check_invariants {
                        assert!(!quiet, "there was nothing to send: {transmit:?}");
                        conn.connection.check_invariants();
                    }
                    let flow_label = self.flow.hash(conn.connection.tuple()) as u32;
                    return Some(encode(&conn.connection, &transmit, flow_label));
                }
                conn.touched = false;
            }
            self.touched.pop_front();
            self.settle(now, id);
        }
    }

    /// After a connection has nothing to send: its events and its deadline.
    fn settle(&mut self, now: Instant, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let events = conn.connection.take_events();
        conn.events = conn.events | events;
        let tuple = *conn.connection.tuple();
        while let Some(traced) = conn.connection.poll_trace() {
            if self.events.len() >= self.config.events {
                self.events.pop_front();
            }
            self.events.push_back((tuple, traced));
        }
        if !conn.detached {
            if let Some(record) = conn.connection.time_wait(now) {
                conn.detached = true;
                self.stack.to_time_wait(now, tuple, record);
                self.waiting.insert(tuple, id);
            } else if conn.connection.is_closed() {
                conn.detached = true;
                self.stack.remove(&tuple);
            }
        }
        let deadline = if conn.detached { None } else { conn.connection.poll_timeout() };
        if deadline != conn.armed {
            if let Some(at) = conn.armed {
                self.deadlines.remove(&(at, id));
            }
            if let Some(at) = deadline {
                self.deadlines.insert((at, id));
            }
            conn.armed = deadline;
        }
        self.bury(id);
    }

    /// What the connections did and why, oldest first, each with the two ends of its connection.
    pub fn events(&self) -> impl Iterator<Item = &(FourTuple, Traced)> {
        self.events.iter()
    }

    /// The settings of a new connection: it says what it does.
    fn traced(&self, config: &ConnConfig) -> ConnConfig {
        let most = self.config.events.min(1000);
        ConnConfig { trace: config.trace.max(most), ..config.clone() }
    }

    /// Forgets a connection that nobody holds and that is over.
    fn bury(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else { return };
        let over = conn.expired || conn.detached && conn.connection.state() == State::Closed;
        if over && !conn.held && !conn.touched {
            self.conns.remove(&id);
        }
    }

    /// The TIME-WAIT record of this tuple has gone.
    fn expire(&mut self, tuple: &FourTuple) {
        if let Some(id) = self.waiting.remove(tuple) {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.expired = true;
            }
            self.bury(id);
        }
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called; it may be in the past. Ask after
    /// [`poll_transmit`](Self::poll_transmit) has answered `None`.
    pub fn next_deadline(&self) -> Option<Instant> {
        let connection = self.deadlines.first().map(|&(at, _)| at);
        [connection, self.stack.poll_timeout()].into_iter().flatten().min()
    }

    /// Serves everything whose time has come. Poll afterwards.
    pub fn on_timeout(&mut self, now: Instant) {
        while self.stack.poll_timeout().is_some_and(|at| at <= now) {
            let (replies, mut freed) = (&mut self.replies, Vec::new());
            self.stack.on_timeout(now, &mut |reply| replies.push_back(reply), &mut |tuple| freed.push(tuple));
            freed.iter().for_each(|tuple| self.expire(tuple));
        }
        while let Some(&(at, id)) = self.deadlines.first().filter(|&&(at, _)| at <= now) {
            self.deadlines.remove(&(at, id));
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.armed = None;
            }
            self.act(id, |conn| conn.on_timeout(now));
        }
    }

    fn encode_reply(&mut self, reply: &Reply) -> Bytes {
        self.reply_id = self.reply_id.wrapping_add(1);
        let meta = IpMeta {
            src: reply.tuple.local.ip(),
            dst: reply.tuple.remote.ip(),
            ttl: reply.ttl,
            traffic_class: reply.traffic_class,
            id: self.reply_id,
            flow_label: self.flow.hash(&reply.tuple) as u32,
        };
        let mut buf = HeaderBuf::new();
        build(&mut buf, &meta, &reply.header, 0, Some(0));
        Bytes::copy_from_slice(buf.as_slice())
    }

    /// Packets dropped, by `DropReason as usize`, and those answered with a reset under
    /// [`DropReason::NoConnection`].
    pub fn drops(&self) -> &[u64; DropReason::COUNT] {
        &self.drops
    }

    /// What the table has counted: resets, SYN-ACKs, accepted and expired handshakes.
    pub fn counters(&self) -> &Counters {
        self.stack.counters()
    }
}

/// The packet of a decision.
fn encode(conn: &Connection, transmit: &Transmit, flow_label: u32) -> Bytes {
    let tuple = conn.tuple();
    let meta = IpMeta {
        src: tuple.local.ip(),
        dst: tuple.remote.ip(),
        ttl: transmit.ttl,
        traffic_class: transmit.traffic_class,
        id: transmit.ip_id,
        flow_label,
    };
    let len = transmit.payload_len();
    let mut packet = BytesMut::with_capacity(HeaderBuf::CAPACITY + len);
    // The header's length is known once it is built, and its checksum needs the payload's sum.
    let (mut sum, mut odd) = (0, false);
    for slice in conn.payload(transmit) {
        sum = checksum::combine(sum, checksum::sum(slice), odd);
        odd ^= slice.len() % 2 == 1;
    }
    let mut buf = HeaderBuf::new();
    build(&mut buf, &meta, &transmit.header, len, Some(sum));
    packet.extend_from_slice(buf.as_slice());
    conn.payload(transmit).for_each(|slice| packet.extend_from_slice(slice));
    packet.freeze()
}
