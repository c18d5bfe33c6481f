//! A pair of connections and the wire between them, in virtual time: everything that is sent is built
//! into bytes and parsed again.

use crate::config::ConnConfig;
use crate::conn::{Connection, Events, Path, State, Transmit, TxLimits};
use crate::error::UserError;
use crate::seq::SeqNum;
use crate::time::{Duration, Instant};
use crate::wire::tcp::{ChecksumState, HeaderBuf, IpMeta, Segment, build, parse};
use crate::wire::{Flags, FourTuple, ip};
use bytes::Bytes;
use std::collections::VecDeque;

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Which end.
pub(crate) type End = usize;
pub(crate) const A: End = 0;
pub(crate) const B: End = 1;

/// Decides on a packet of one end, by its running number: false loses it.
pub(crate) type Pass = Box<dyn FnMut(End, usize, &Transmit) -> bool>;

pub(crate) struct Packet {
    pub(crate) due: Instant,
    pub(crate) from: End,
    pub(crate) bytes: Bytes,
}

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) ends: [Connection; 2],
    pub(crate) wire: VecDeque<Packet>,
    pub(crate) delay: Duration,
    /// Added to the delay of each packet: packets with different delays overtake each other.
    pub(crate) jitter: Box<dyn FnMut() -> Duration>,
    /// How many copies of each packet arrive.
    pub(crate) copies: Box<dyn FnMut() -> usize>,
    pub(crate) limits: TxLimits,
    /// Called for every packet with its sender and running number: false loses it.
    pub(crate) pass: Pass,
    pub(crate) sent: usize,
    pub(crate) log: Vec<(End, Transmit)>,
    pub(crate) seen: [Events; 2],
}

impl Pair {
    /// Simultaneous open is the only way for two bare connections; a listener is [`crate::stack`]'s. So the
    /// second end is made by a half-open record's twin: a `Connection` that learns from the SYN.
    pub(crate) fn new(a: ConnConfig, b: ConnConfig) -> Pair {
        Self::with_iss(a, b, SeqNum(u32::MAX - 50_000), SeqNum(u32::MAX - 3))
    }

    pub(crate) fn with_iss(a: ConnConfig, b: ConnConfig, iss_a: SeqNum, iss_b: SeqNum) -> Pair {
        let now = Instant::from_secs(1000);
        let tuple = FourTuple::new("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:2000".parse().unwrap());
        let back = FourTuple::new(tuple.remote, tuple.local);
        let path = Path { mtu: 1500 };
        Pair {
            now,
            ends: [
                Connection::connect(now, &a.into(), tuple, iss_a, 77, path),
                Connection::connect(now, &b.into(), back, iss_b, 4_000_000_000, path),
            ],
            wire: VecDeque::new(),
            delay: ms(10),
            jitter: Box::new(|| Duration::ZERO),
            copies: Box::new(|| 1),
            limits: TxLimits::ONE_SEGMENT,
            pass: Box::new(|_, _, _| true),
            sent: 0,
            log: Vec::new(),
            seen: Default::default(),
        }
    }

    pub(crate) fn established(a: ConnConfig, b: ConnConfig) -> Pair {
        let mut pair = Pair::new(a, b);
        pair.run_until(|p| p.ends.iter().all(|c| c.state() == State::Established));
        pair.settle();
        pair.log.clear();
        pair
    }

    fn collect(&mut self, end: End) {
        loop {
            let quiet = self.ends[end].is_quiet(self.now);
            let Some(transmit) = self.ends[end].poll_transmit(self.now, &self.limits) else { break };
            assert!(!quiet, "there was nothing to send: {transmit:?}");
            self.ends[end].check_invariants();
            let number = self.sent;
            self.sent += 1;
            self.log.push((end, transmit.clone()));
            if (self.pass)(end, number, &transmit) {
                let bytes = encode(&self.ends[end], &transmit);
                for _ in 0..(self.copies)() {
                    let due = self.now + self.delay + (self.jitter)();
                    let at = self.wire.partition_point(|packet| packet.due <= due);
                    self.wire.insert(at, Packet { due, from: end, bytes: bytes.clone() });
                }
            }
        }
        let events = self.ends[end].take_events();
        self.seen[end] = self.seen[end] | events;
    }

    pub(crate) fn flush(&mut self) {
        self.collect(A);
        self.collect(B);
    }

    /// One step: deliver what is due, or jump to the next thing that happens. False when nothing ever will.
    pub(crate) fn step(&mut self) -> bool {
        self.flush();
        let timers = self.ends.iter().filter_map(Connection::poll_timeout).min();
        let packet = self.wire.front().map(|p| p.due);
        let Some(next) = [timers, packet].into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        while self.wire.front().is_some_and(|p| p.due <= self.now) {
            let packet = self.wire.pop_front().unwrap();
            self.deliver(1 - packet.from, &packet.bytes);
        }
        for end in [A, B] {
            self.ends[end].on_timeout(self.now);
            self.ends[end].check_invariants();
        }
        self.flush();
        true
    }

    pub(crate) fn deliver(&mut self, to: End, bytes: &Bytes) {
        let (ip, transport) = ip::parse(bytes).expect("we build valid packets");
        let (header, payload, _) = parse(&ip, transport, ChecksumState::Unknown, false).expect("valid segment");
        let segment = Segment { header, payload, owner: Some(bytes), ecn: ip.ecn(), gro_size: 0 };
        let _ = self.ends[to].on_segment(self.now, &segment);
        self.ends[to].check_invariants();
    }

    pub(crate) fn run_until(&mut self, mut done: impl FnMut(&mut Pair) -> bool) {
        for _ in 0..2_000_000 {
            if done(self) {
                return;
            }
            if !self.step() {
                break;
            }
        }
        assert!(done(self), "stuck at {:?}: {:?} / {:?}", self.now, self.ends[0].info(), self.ends[1].info());
    }

    /// Until nothing is on the wire and nothing is due within a second.
    pub(crate) fn settle(&mut self) {
        loop {
            self.flush();
            let next = self.ends.iter().filter_map(Connection::poll_timeout).min();
            if self.wire.is_empty() && next.is_none_or(|at| at > self.now + secs(1)) {
                return;
            }
            if !self.step() {
                return;
            }
        }
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.flush();
            let timers = self.ends.iter().filter_map(Connection::poll_timeout).min();
            let next = [timers, self.wire.front().map(|p| p.due)].into_iter().flatten().min();
            if next.is_none_or(|at| at > end) {
                self.now = end;
                return;
            }
            self.step();
        }
    }

    pub(crate) fn read_all(&mut self, end: End) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buf = [0; 8192];
        while let Ok(n) = self.ends[end].read(self.now, &mut buf) {
            if n == 0 {
                break;
            }
            all.extend_from_slice(&buf[..n]);
        }
        all
    }

    pub(crate) fn write_all(&mut self, end: End, data: &[u8]) -> usize {
        match self.ends[end].write(self.now, data) {
            Ok(n) => n,
            Err(UserError::WouldBlock) => 0,
            Err(e) => panic!("write: {e:?}"),
        }
    }

    /// Sends `data` from one end to the other, closes, and answers what arrived before EOF.
    pub(crate) fn transfer(&mut self, from: End, data: &[u8]) -> Vec<u8> {
        let (mut written, mut got) = (0, Vec::new());
        let mut closed = false;
        let to = 1 - from;
        self.run_until(|p| {
            if written < data.len() {
                written += p.write_all(from, &data[written..]);
            } else if !closed {
                p.ends[from].shutdown(p.now).unwrap();
                closed = true;
            }
            got.extend(p.read_all(to));
            closed && p.ends[to].read(p.now, &mut [0; 1]) == Ok(0)
        });
        got
    }
}

pub(crate) fn encode(conn: &Connection, transmit: &Transmit) -> Bytes {
    let mut buf = HeaderBuf::default();
    let payload: Vec<u8> = conn.payload(transmit).flatten().copied().collect();
    let tuple = conn.tuple();
    let meta = IpMeta {
        src: tuple.local.ip(),
        dst: tuple.remote.ip(),
        ttl: transmit.ttl,
        traffic_class: transmit.traffic_class,
        id: transmit.ip_id,
        flow_label: 0,
    };
    build(&mut buf, &meta, &transmit.header, payload.len(), Some(crate::wire::checksum::sum(&payload)));
    let mut bytes = buf.as_slice().to_vec();
    bytes.extend_from_slice(&payload);
    bytes.into()
}

/// Whether a decision carries all of these flags.
pub(crate) fn has(transmit: &Transmit, flags: Flags) -> bool {
    transmit.header.flags.contains(flags)
}
