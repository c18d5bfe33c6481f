//! The stack as its caller sees it: segments in, dispositions out.

mod cookies;
mod handshakes;
mod syn_received;
mod time_wait;

use super::*;
use crate::config::ConnConfig;
use crate::seq::WindowScale;
use crate::wire::{Ecn, IcmpKind};
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

#[derive(Clone, Debug)]
struct Queue(Arc<AtomicBool>);

impl AcceptQueue for Queue {
    fn has_room(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// What came of a segment, in a form that compares.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Out {
    Conn(u32),
    Sends(Flags, u32, u32),
    Done,
    Drops(DropReason),
    Accepts,
    Unclaimed,
}
use Out::*;

const F: Flags = Flags::FIN;
const S: Flags = Flags::SYN;
const R: Flags = Flags::RST;
const A: Flags = Flags::ACK;
const NONE: Flags = Flags(0);
const SA: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);
const RA: Flags = Flags(Flags::RST.0 | Flags::ACK.0);
const FA: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);

struct Host {
    stack: Stack<u32, Queue>,
    now: Instant,
    room: Arc<AtomicBool>,
    last: Option<Reply>,
}

fn tuple(port: u16) -> FourTuple {
    FourTuple::new("10.0.0.1:80".parse().unwrap(), ([10, 0, 0, 2], port).into())
}

const LISTENING: &str = "0.0.0.0:80";

fn listen_config(conn: ConnConfig) -> ListenConfig {
    ListenConfig { v6only: false, shared: false, max_half_open: usize::MAX, mtu: 1500, conn: Arc::new(conn) }
}

impl Host {
    fn new(config: StackConfig) -> Host {
        let room = Arc::new(AtomicBool::new(true));
        Host { stack: Stack::new(config, [42; 32]), now: Instant::from_secs(100), room, last: None }
    }

    fn listening(config: StackConfig) -> Host {
        let mut host = Host::new(config);
        host.listen(listen_config(ConnConfig::default()));
        host
    }

    fn listen(&mut self, config: ListenConfig) {
        self.stack.listen(LISTENING.parse().unwrap(), Queue(self.room.clone()), config);
    }

    fn send(&mut self, tuple: &FourTuple, header: TcpHeader, payload: &[u8]) -> Out {
        let seg = Segment { header, payload, owner: None, ecn: Ecn::NotEct, gro_size: 0 };
        self.last = None;
        match self.stack.on_segment(self.now, tuple, &seg) {
            Disposition::Connection(c) => Conn(c),
            Disposition::Reply(reply) => self.reply(tuple, reply),
            Disposition::Done => Done,
            Disposition::Drop(reason) => Drops(reason),
            Disposition::Accept { .. } => Accepts,
            Disposition::Unclaimed => Unclaimed,
        }
    }

    fn reply(&mut self, tuple: &FourTuple, reply: Reply) -> Out {
        assert_eq!(reply.tuple, *tuple);
        assert_eq!((reply.header.src_port, reply.header.dst_port), (tuple.local.port(), tuple.remote.port()));
        self.last = Some(reply);
        Sends(reply.header.flags, reply.header.seq.0, reply.header.ack.0)
    }

    fn reset(&mut self, tuple: &FourTuple, header: TcpHeader, payload: &[u8]) -> Out {
        let seg = Segment { header, payload, owner: None, ecn: Ecn::NotEct, gro_size: 0 };
        match self.stack.reset_for(self.now, tuple, &seg) {
            Ok(reply) => self.reply(tuple, reply),
            Err(reason) => Drops(reason),
        }
    }

    /// Everything that is due now.
    fn timeouts(&mut self) -> (Vec<Reply>, Vec<FourTuple>) {
        let (mut replies, mut freed) = (Vec::new(), Vec::new());
        while self.stack.poll_timeout().is_some_and(|at| at <= self.now) {
            self.stack.on_timeout(self.now, &mut |r| replies.push(r), &mut |t| freed.push(t));
        }
        (replies, freed)
    }

    fn counts(&self) -> (usize, usize, usize) {
        let c = self.stack.counts();
        (c.half_open, c.connections, c.time_wait)
    }

    /// Moves the clock to where this tuple's next ISS has the given value.
    fn until_isn(&mut self, tuple: &FourTuple, isn: u32) {
        let ticks = isn.wrapping_sub(self.stack.isn(self.now, tuple).0);
        self.now = self.now + Duration::from_micros(4 * u64::from(ticks));
        assert_eq!(self.stack.isn(self.now, tuple), SeqNum(isn));
    }
}

fn header(flags: Flags, seq: u32, ack: u32) -> TcpHeader {
    TcpHeader {
        src_port: 9000,
        dst_port: 80,
        seq: SeqNum(seq),
        ack: SeqNum(ack),
        flags,
        window: WireWindow(5000),
        urgent: 0,
        options: Options::default(),
    }
}

fn stamped(mut header: TcpHeader, value: u32) -> TcpHeader {
    header.options.timestamps = Some(Timestamps { value, echo: 0 });
    header
}

fn full_syn(seq: u32, ts: u32) -> TcpHeader {
    let mut header = stamped(header(S, seq, 0), ts);
    header.options.mss = Some(1400);
    header.options.window_scale = Some(9);
    header.options.sack_permitted = true;
    header
}

#[test]
fn closed() {
    // RFC 9293 §3.10.7.1: flags, data, expected; SEG.SEQ 700, SEG.ACK 900.
    let table = [
        (A, "", Sends(R, 900, 0)),
        (FA, "", Sends(R, 900, 0)),
        (SA, "", Sends(R, 900, 0)),
        (A, "data", Sends(R, 900, 0)),
        (S, "", Sends(RA, 0, 701)),
        (S, "data", Sends(RA, 0, 705)),
        (S | F, "data", Sends(RA, 0, 706)),
        (F, "", Sends(RA, 0, 701)),
        (NONE, "", Sends(RA, 0, 700)),
        (NONE, "data", Sends(RA, 0, 704)),
        (R, "", Drops(DropReason::NoConnection)),
        (RA, "", Drops(DropReason::NoConnection)),
        (S | R, "", Drops(DropReason::NoConnection)),
    ];
    for (flags, data, expected) in table {
        let mut host = Host::new(StackConfig::default());
        let header = header(flags, 700, 900);
        assert_eq!(host.send(&tuple(9000), header, data.as_bytes()), Unclaimed);
        assert_eq!(host.reset(&tuple(9000), header, data.as_bytes()), expected, "{flags:?} {data}");
        assert_eq!(host.counts(), (0, 0, 0));
    }
    let mut host = Host::new(StackConfig::default());
    assert_eq!(host.reset(&tuple(9000), header(S, u32::MAX, 0), b"x"), Sends(RA, 0, 1), "wraps");
}

#[test]
fn listen() {
    // RFC 9293 §3.10.7.2. "SYN-ACK" stands for the ISS that can not be known.
    let table = [
        (R, "", Some(Drops(DropReason::NoConnection))),
        (RA, "", Some(Drops(DropReason::NoConnection))),
        (S | R, "", Some(Drops(DropReason::NoConnection))),
        (A, "", Some(Sends(R, 900, 0))),
        (SA, "", Some(Sends(R, 900, 0))),
        (FA, "data", Some(Sends(R, 900, 0))),
        (F, "", Some(Drops(DropReason::ListenNoSyn))),
        (NONE, "", Some(Drops(DropReason::ListenNoSyn))),
        (NONE, "data", Some(Drops(DropReason::ListenNoSyn))),
        (S, "", None),
        (S, "data is sent again", None),
        (S | F, "", None),
    ];
    for (flags, data, expected) in table {
        let mut host = Host::listening(StackConfig::default());
        let iss = host.stack.isn(host.now, &tuple(9000));
        let out = host.send(&tuple(9000), header(flags, 700, 900), data.as_bytes());
        assert_eq!(out, expected.unwrap_or(Sends(SA, iss.0, 701)), "{flags:?} {data}");
        assert_eq!(host.counts().0, usize::from(expected.is_none()));
        // Whatever came, the same peer can still connect (or its SYN is repeated, or challenged).
        let again = host.send(&tuple(9000), header(S, 700, 0), b"");
        assert_eq!(again, Sends(SA, iss.0, 701), "after {flags:?}");
        assert_eq!(host.send(&tuple(9000), header(A, 701, iss.0.wrapping_add(1)), b""), Accepts);
    }
}

#[test]
fn ends_that_are_not_one_host() {
    let table = [
        ("10.0.0.1:80", "224.0.0.1:9000", DropReason::Address),
        ("10.0.0.1:80", "255.255.255.255:9000", DropReason::Address),
        ("10.0.0.1:80", "0.0.0.0:9000", DropReason::Address),
        ("224.0.0.1:80", "10.0.0.2:9000", DropReason::Address),
        ("255.255.255.255:80", "10.0.0.2:9000", DropReason::Address),
        ("[2001:db8::1]:80", "[ff02::1]:9000", DropReason::Address),
        ("[2001:db8::1]:80", "[::]:9000", DropReason::Address),
        ("10.0.0.1:80", "10.0.0.1:80", DropReason::Address),
        ("10.0.0.1:80", "10.0.0.2:0", DropReason::PortZero),
    ];
    for (local, remote, reason) in table {
        let mut host = Host::listening(StackConfig::default());
        host.stack.listen("[::]:80".parse().unwrap(), Queue(host.room.clone()), listen_config(ConnConfig::default()));
        let tuple = FourTuple::new(local.parse().unwrap(), remote.parse().unwrap());
        assert_eq!(host.send(&tuple, header(S, 1, 0), b""), Drops(reason), "{tuple:?}");
        if tuple.local != tuple.remote {
            assert_eq!(host.send(&tuple, header(A, 1, 0), b""), Drops(reason), "{tuple:?}");
            assert_eq!(host.reset(&tuple, header(S, 1, 0), b""), Drops(reason), "{tuple:?}");
        }
    }
}

#[test]
fn on_a_shared_port_an_ack_may_be_the_kernels() {
    let mut host = Host::new(StackConfig::default());
    host.listen(ListenConfig { shared: true, ..listen_config(ConnConfig::default()) });
    assert_eq!(host.send(&tuple(9000), header(A, 1, 2), b""), Unclaimed);
    assert!(matches!(host.send(&tuple(9000), header(S, 1, 0), b""), Sends(..)));
}

#[test]
fn options_are_answered_only_if_offered_and_wanted() {
    let on = ConnConfig { traffic_class: 0x2b, ttl: 33, ..ConnConfig::default() };
    let off = ConnConfig { window_scaling: false, timestamps: false, sack: false, ..on.clone() };
    let small = ConnConfig { recv_buffer: 20_000, recv_buffer_max: 0, ..on.clone() };
    let ts = Some(7777);
    // (our settings, the SYN, window, window scale, SACK, TSecr)
    let table = [
        (&on, full_syn(1, 7777), 65_535, Some(7), true, ts),
        (&on, header(S, 1, 0), 65_535, None, false, None),
        (&off, full_syn(1, 7777), 65_535, None, false, None),
        (&small, full_syn(1, 7777), 20_000, Some(0), true, ts),
    ];
    for (conn, syn, window, scale, sack, echo) in table {
        let mut host = Host::new(StackConfig::default());
        host.listen(listen_config(conn.clone()));
        assert!(matches!(host.send(&tuple(9000), syn, b""), Sends(..)));
        let reply = host.last.unwrap();
        let options = reply.header.options;
        assert_eq!((options.mss, reply.header.window), (Some(1460), WireWindow(window)));
        assert_eq!((options.window_scale, options.sack_permitted), (scale, sack));
        assert_eq!(options.timestamps.map(|ts| ts.echo), echo);
        let value = 100_000u32.wrapping_add(host.stack.ts_offset(&tuple(9000)));
        assert!(options.timestamps.is_none_or(|ts| ts.value == value));
        // RFC 3168 §6.1.1: a SYN-ACK is not ECN-capable.
        assert_eq!((reply.ttl, reply.traffic_class), (33, 0x28));
        let half = host.half(&tuple(9000));
        assert_eq!((half.peer_mss, half.peer_window), (syn.options.mss, 5000));
        assert_eq!(half.peer_wscale, scale.map(|_| WindowScale::new(9)));
    }
}

#[test]
fn announced_segment_size_follows_the_mtu() {
    for (mtu, v4, v6) in [(1500, 1460, 1440), (1280, 1240, 1220), (65_535, 65_495, 65_475)] {
        let mut host = Host::new(StackConfig::default());
        let config = ListenConfig { mtu, ..listen_config(ConnConfig::default()) };
        host.stack.listen("[::]:80".parse().unwrap(), Queue(host.room.clone()), config);
        host.send(&tuple(9000), header(S, 1, 0), b"");
        assert_eq!(host.last.unwrap().header.options.mss, Some(v4));
        let six = FourTuple::new("[2001:db8::1]:80".parse().unwrap(), "[2001:db8::2]:9000".parse().unwrap());
        host.send(&six, header(S, 1, 0), b"");
        assert_eq!(host.last.unwrap().header.options.mss, Some(v6));
    }
}

impl Host {
    fn half(&mut self, tuple: &FourTuple) -> HalfOpen {
        match self.stack.table.get(tuple) {
            Some(&Entry::Half(slot)) => self.stack.half_open.get_mut(slot).unwrap().value.clone(),
            _ => panic!("not half-open"),
        }
    }
}

#[test]
fn connections() {
    let mut host = Host::listening(StackConfig::default());
    host.send(&tuple(1), header(S, 10, 0), b"");
    assert_eq!((host.stack.get(&tuple(1)), host.stack.remove(&tuple(1))), (None, None));
    host.stack.insert(tuple(1), 5);
    assert_eq!(host.counts(), (0, 1, 0), "a connection replaces a half-open record");
    assert_eq!(host.stack.claim(host.now, tuple(1)), Claim::InUse);
    assert_eq!(host.stack.claim(host.now, tuple(2)), Claim::Free);
    assert_eq!(host.stack.connections().collect::<Vec<_>>(), [(&tuple(1), &5)]);
    assert_eq!((host.stack.get(&tuple(1)), host.send(&tuple(1), header(R, 0, 0), b"")), (Some(5), Conn(5)));
    let error = |port| IcmpError {
        kind: IcmpKind::PortUnreachable,
        tuple: tuple(port),
        seq: SeqNum(0),
        from: IpAddr::from([10, 0, 0, 9]),
    };
    host.send(&tuple(3), header(S, 10, 0), b"");
    assert_eq!(host.stack.on_icmp(host.now, &error(1)), Some(5));
    assert_eq!(host.stack.on_icmp(host.now, &error(2)), None);
    assert_eq!(host.stack.on_icmp(host.now, &error(3)), None);
    assert_eq!(host.counts(), (1, 1, 0));
    assert_eq!((host.stack.remove(&tuple(1)), host.stack.remove(&tuple(1))), (Some(5), None));
}

const LENGTH: Duration = Duration::from_secs(60);

fn time_wait(now: Instant, rcv_nxt: u32, snd_nxt: u32, ts_recent: Option<u32>) -> TimeWait {
    TimeWait {
        rcv_nxt: SeqNum(rcv_nxt),
        snd_nxt: SeqNum(snd_nxt),
        window: WireWindow(512),
        ts_recent,
        ts_offset: 1000,
        since: now,
        deadline: now + LENGTH,
        ttl: 64,
        traffic_class: 0,
    }
}

#[test]
fn answers_are_limited() {
    let mut host = Host::listening(StackConfig::default());
    let t = tuple(1);
    host.send(&t, header(S, 10, 0), b"");
    host.stack.to_time_wait(host.now, tuple(2), time_wait(host.now, 500, 800, None));
    for (tuple, forged) in [(t, header(R, 100, 0)), (t, header(S, 100, 0)), (tuple(2), header(A, 1, 1))] {
        let answers = (0..400).filter(|_| matches!(host.send(&tuple, forged, b""), Sends(A, ..))).count();
        assert!(answers <= 4, "{forged:?}: {answers}");
    }
    // Two ends in TIME-WAIT: each answer is a duplicate ACK to the other.
    let mut rounds = 0;
    while matches!(host.send(&tuple(2), header(A, 500, 800), b""), Sends(..)) {
        host.now = host.now + Duration::from_millis(100);
        rounds += 1;
        assert!(rounds < 20);
    }
    // A repeated FIN is always answered.
    assert_eq!(host.send(&tuple(2), header(FA, 499, 800), b""), Sends(A, 800, 500));

    let resets = Rate { interval: Duration::from_millis(1), burst: 1000 };
    let mut host = Host::listening(StackConfig { resets, ..StackConfig::default() });
    let sent = |host: &mut Host| (0..5000).filter(|_| host.reset(&tuple(3), header(A, 1, 1), b"") != LIMITED).count();
    const LIMITED: Out = Drops(DropReason::RateLimited);
    assert_eq!(sent(&mut host), 1000);
    host.now = host.now + Duration::from_millis(20);
    assert_eq!(sent(&mut host), 20);
    assert_eq!(host.send(&tuple(4), header(A, 1, 1), b""), LIMITED, "in LISTEN too");
    assert_eq!(host.stack.counters().resets, 1020);
}

#[test]
fn all_flags_in_all_states() {
    for bits in 0..=255u8 {
        let flags = Flags(bits);
        for (data, seq) in [("", 11), ("x", 11), ("", 10), ("x", 10), ("", 0x7777_7777)] {
            let mut host = Host::listening(StackConfig::default());
            let (half, waiting, closed) = (tuple(1), tuple(2), tuple(3));
            let Sends(SA, iss, _) = host.send(&half, header(S, 10, 0), b"") else { panic!() };
            host.stack.to_time_wait(host.now, waiting, time_wait(host.now, 11, 900, None));
            let elsewhere = FourTuple::new("10.0.0.1:81".parse().unwrap(), closed.remote);
            for (tuple, ack) in [(half, iss.wrapping_add(1)), (waiting, 900), (closed, 77), (elsewhere, 77)] {
                let segment = header(flags, seq, ack);
                let mut out = host.send(&tuple, segment, data.as_bytes());
                if out == Unclaimed {
                    out = host.reset(&tuple, segment, data.as_bytes());
                }
                if let Sends(answer, ..) = out {
                    let to_reset = flags.contains(R) && answer.contains(R);
                    assert!(!to_reset, "a reset in answer to {segment:?}");
                    // Only LISTEN, and TIME-WAIT for a new connection, answer a SYN with a SYN.
                    assert!(!answer.contains(S) || flags.contains(S), "{segment:?}");
                }
                assert_eq!(out == Accepts, tuple == half && accepts(flags, seq, data), "{segment:?} {data}");
            }
            // The service goes on.
            let Sends(SA, iss, _) = host.send(&tuple(9), header(S, 10, 0), b"") else { panic!() };
            assert_eq!(host.send(&tuple(9), header(A, 11, iss.wrapping_add(1)), b""), Accepts);
        }
    }
}

fn accepts(flags: Flags, seq: u32, data: &str) -> bool {
    let len = data.len() + usize::from(flags.contains(F));
    let in_window = seq == 11 || (seq == 10 && len > 1);
    flags.contains(A) && !flags.contains(S) && !flags.contains(R) && in_window
}

#[derive(Clone, Debug)]
enum Op {
    Segment {
        port: u16,
        flags: u8,
        seq: u32,
        ack: u32,
        ts: Option<u32>,
    },
    /// The right answer to whatever was sent last.
    Answer,
    Wait(u64),
    Insert(u16),
    Remove(u16),
    TimeWait {
        port: u16,
        rcv_nxt: u32,
        ts: Option<u32>,
    },
    Claim(u16),
    Listen,
    Unlisten,
    Room(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let port = 1u16..6;
    let ts = proptest::option::of(0u32..4);
    prop_oneof![
        8 => (port.clone(), 0u8..32, 0u32..5, 0u32..3, ts.clone())
            .prop_map(|(port, flags, seq, ack, ts)| Op::Segment { port, flags, seq, ack, ts }),
        3 => Just(Op::Answer),
        3 => (0u64..20_000).prop_map(Op::Wait),
        2 => port.clone().prop_map(Op::Insert),
        2 => port.clone().prop_map(Op::Remove),
        3 => (port.clone(), 0u32..5, ts).prop_map(|(port, rcv_nxt, ts)| Op::TimeWait { port, rcv_nxt, ts }),
        1 => port.prop_map(Op::Claim),
        1 => Just(Op::Listen),
        1 => Just(Op::Unlisten),
        1 => any::<bool>().prop_map(Op::Room),
    ]
}

proptest! {
    /// Whatever happens: entries and records agree, bounds hold, every TIME-WAIT record that went in
    /// comes out once, and in the end nothing is left but what the caller keeps.
    #[test]
    fn the_books_balance(
        ops in proptest::collection::vec(op(), 1..150),
        syn_cookies in prop_oneof![Just(SynCookies::Never), Just(SynCookies::WhenFull), Just(SynCookies::Always)],
    ) {
        let bounds = StackConfig { max_half_open: 3, max_time_wait: 3, ..StackConfig::default() };
        let mut host = Host::listening(StackConfig { syn_cookies, ..bounds });
        let (mut waited, mut freed) = (0, 0);
        for op in ops {
            match op {
                Op::Segment { port, flags, seq, ack, ts } => {
                    let ack = host.stack.isn(host.now, &tuple(port)).0.wrapping_add(ack);
                    let mut header = header(Flags(flags), seq, ack);
                    header.options.timestamps = ts.map(|value| Timestamps { value, echo: 0 });
                    if host.send(&tuple(port), header, b"") == Accepts {
                        host.stack.insert(tuple(port), 0);
                    }
                }
                Op::Answer => {
                    let Some(Reply { tuple, header: last, .. }) = host.last else { continue };
                    if host.send(&tuple, header(A, last.ack.0, last.seq.0.wrapping_add(1)), b"") == Accepts {
                        host.stack.insert(tuple, 0);
                    }
                }
                Op::Wait(ms) => host.now = host.now + Duration::from_millis(ms),
                Op::Insert(port) => host.stack.insert(tuple(port), 0),
                Op::Remove(port) => drop(host.stack.remove(&tuple(port))),
                Op::TimeWait { port, rcv_nxt, ts } => {
                    waited += 1;
                    host.stack.to_time_wait(host.now, tuple(port), time_wait(host.now, rcv_nxt, 1, ts));
                }
                Op::Claim(port) => {
                    freed += usize::from(matches!(host.stack.claim(host.now, tuple(port)), Claim::TimeWaitReuse(_)));
                }
                Op::Listen => host.listen(listen_config(ConnConfig::default())),
                Op::Unlisten => drop(host.stack.unlisten(LISTENING.parse().unwrap())),
                Op::Room(room) => host.room.store(room, Relaxed),
            }
            freed += host.timeouts().1.len();
            let (half, _, waiting) = host.counts();
            prop_assert!(half <= 3 && waiting <= 3);
            prop_assert_eq!(waited, freed + waiting);
            prop_assert_eq!(host.stack.listeners.half_open(), half);
            prop_assert_eq!(host.stack.connections().count(), host.counts().1);
        }
        host.now = host.now + Duration::from_secs(60);
        for _ in 0..10 {
            freed += host.timeouts().1.len();
            host.now = host.now + Duration::from_secs(60);
        }
        let (half, _, waiting) = host.counts();
        prop_assert_eq!((half, waiting, freed, host.stack.poll_timeout()), (0, 0, waited, None));
    }
}
