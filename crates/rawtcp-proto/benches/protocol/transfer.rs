//! One connection sends as fast as the other takes it.

use crate::{Case, Load};
use bytes::{Bytes, BytesMut};
use rawtcp_proto::wire::ip::{self, IpMeta};
use rawtcp_proto::wire::tcp::{ChecksumState, HeaderBuf, build, parse};
use rawtcp_proto::wire::{Ecn, checksum};
use rawtcp_proto::{
    ConnConfig, Connection, Duration, FourTuple, Instant, Path, Segment, SeqNum, State, Transmit, TxLimits,
};
use std::sync::Arc;

/// The payload of a full segment in packets of 1,500 bytes, with timestamps.
pub(crate) const SEGMENT: u64 = 1448;
/// As many segments as fit 64 KiB.
pub(crate) const RUN: u64 = 45 * SEGMENT;

/// Packets that a driver takes in before it answers.
const BATCH: usize = 64;

pub(crate) const fn case(name: &'static str, bytes: u64, round: u64, build: fn() -> Box<dyn Load>) -> Case {
    let unit = if bytes == SEGMENT { "segment of 1,448 bytes" } else { "run of 65,160 bytes" };
    Case { name, unit, bytes, round, build }
}

pub(crate) fn load(runs: bool, packets: bool) -> Box<dyn Load> {
    let mut pair = Pair::new(runs, packets);
    pair.open();
    Box::new(pair)
}

struct Pair {
    now: Instant,
    ends: [Connection; 2],
    limits: TxLimits,
    /// Headers are built and parsed, and checksums summed and checked.
    packets: bool,
    /// What the application writes, by reference.
    block: Bytes,
    packet: BytesMut,
    /// Full-sized operations that have arrived.
    done: u64,
}

impl Pair {
    fn new(runs: bool, packets: bool) -> Pair {
        let now = Instant::from_secs(1000);
        let tuple = FourTuple::new(([10, 0, 0, 1], 1000).into(), ([10, 0, 0, 2], 2000).into());
        let back = FourTuple::new(tuple.remote, tuple.local);
        let buffer = 1 << 20;
        let config = ConnConfig {
            recv_buffer: buffer,
            recv_buffer_max: 0,
            send_buffer: 2 * buffer,
            send_buffer_max: 0,
            initial_window: 700,
            ..ConnConfig::default()
        };
        let config = Arc::new(config);
        let path = Path { mtu: 1500 };
        let open = |tuple, iss| Connection::connect(now, &config, tuple, SeqNum(iss), 77, path);
        Pair {
            now,
            ends: [open(tuple, 1), open(back, 2)],
            limits: TxLimits { max_payload: if runs { RUN as usize } else { 0 }, ..TxLimits::ONE_SEGMENT },
            packets,
            block: Bytes::from(vec![0x5a; buffer]),
            packet: BytesMut::new(),
            done: 0,
        }
    }

    fn open(&mut self) {
        while !self.ends.iter().all(|end| end.state() == State::Established) {
            // Both at once: what is on its way crosses.
            let syns = [0, 1].map(|end| self.ends[end].poll_transmit(self.now, &TxLimits::ONE_SEGMENT));
            for (from, transmit) in syns.into_iter().enumerate() {
                if let Some(transmit) = transmit {
                    self.carry(from, &transmit);
                }
            }
        }
    }

    /// The payload is copied once, as into a packet.
    fn carry(&mut self, from: usize, transmit: &Transmit) {
        let end = &self.ends[from];
        let len = transmit.payload_len();
        self.packet.clear();
        self.packet.reserve(HeaderBuf::CAPACITY + len);
        if self.packets {
            let mut buf = HeaderBuf::new();
            headers(end, transmit, &mut buf);
            self.packet.extend_from_slice(buf.as_slice());
        }
        for slice in end.payload(transmit) {
            self.packet.extend_from_slice(slice);
        }
        let packet = self.packet.split().freeze();
        let gro_size = transmit.segment_size;
        let to = &mut self.ends[1 - from];
        let refused = if self.packets {
            let (ip, rest) = ip::parse(&packet).expect("it was built a moment ago");
            let (header, payload, _) = parse(&ip, rest, ChecksumState::Unknown, false).expect("its sum is right");
            let segment = Segment { header, payload, owner: Some(&packet), ecn: ip.ecn(), gro_size };
            to.on_segment(self.now, &segment)
        } else {
            let header = transmit.header;
            let segment = Segment { header, payload: &packet, owner: Some(&packet), ecn: Ecn::NotEct, gro_size };
            to.on_segment(self.now, &segment)
        };
        refused.expect("nothing is wrong with it");
    }

    /// The sender sends a batch, the receiver reads it, and what it answers comes back.
    fn turn(&mut self) {
        let len = self.block.len();
        while self.ends[0].write_room() >= len {
            self.ends[0].write_bytes(self.now, self.block.clone()).expect("there is room");
        }
        for _ in 0..BATCH {
            let Some(transmit) = self.ends[0].poll_transmit(self.now, &self.limits) else { break };
            self.carry(0, &transmit);
            let size = if self.limits.max_payload > 0 { RUN } else { SEGMENT };
            self.done += u64::from(transmit.payload_len() as u64 == size);
        }
        while let Ok(Some(chunk)) = self.ends[1].read_chunk(self.now, usize::MAX) {
            drop(chunk);
        }
        self.settle(1);
        while let Some(transmit) = self.ends[1].poll_transmit(self.now, &self.limits) {
            self.carry(1, &transmit);
        }
        self.settle(0);
        self.now = self.now + Duration::from_micros(100);
    }

    fn settle(&mut self, end: usize) {
        let end = &mut self.ends[end];
        if end.poll_timeout().is_some_and(|at| at <= self.now) {
            end.on_timeout(self.now);
        }
        let _ = end.take_events();
    }
}

impl Load for Pair {
    fn run(&mut self, n: u64) -> u64 {
        let before = self.done;
        while self.done < before + n {
            self.turn();
        }
        assert_eq!(self.ends[0].info().total_retrans, 0, "nothing is ever lost here");
        self.done - before
    }
}

fn headers(end: &Connection, transmit: &Transmit, buf: &mut HeaderBuf) {
    let tuple = end.tuple();
    let meta = IpMeta {
        src: tuple.local.ip(),
        dst: tuple.remote.ip(),
        ttl: transmit.ttl,
        traffic_class: transmit.traffic_class,
        id: transmit.ip_id,
        flow_label: 0,
    };
    let (mut sum, mut odd) = (0, false);
    for slice in end.payload(transmit) {
        sum = checksum::combine(sum, checksum::sum(slice), odd);
        odd ^= slice.len() % 2 == 1;
    }
    build(buf, &meta, &transmit.header, transmit.payload_len(), Some(sum));
}
