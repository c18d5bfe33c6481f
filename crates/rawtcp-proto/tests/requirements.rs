//! Requirements of RFC 9293 and its companions that no other test pins, each on one connection against
//! segments made by hand. `docs/conformance.md` says which test stands for which requirement.

use rawtcp_proto::cc::Algorithm;
use rawtcp_proto::seq::WireWindow;
use rawtcp_proto::stack::{AcceptQueue, Disposition, ListenConfig, Stack, StackConfig};
use rawtcp_proto::wire::{Ecn, Flags, IcmpError, IcmpKind, Options, TcpHeader, Timestamps};
use rawtcp_proto::{
    CloseReason, ConnConfig, Connection, DropReason, Duration, Events, FourTuple, Instant, Keepalive, Path, Segment,
    SeqNum, State, Transmit, TransmitKind, TxLimits,
};
use std::sync::Arc;

/// Both wrap soon.
const ISS: SeqNum = SeqNum(u32::MAX - 100);
const IRS: SeqNum = SeqNum(u32::MAX - 5_000);
const ACK: Flags = Flags::ACK;
const SYN_ACK: Flags = Flags::SYN.with(Flags::ACK);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// No options, ACKs by the rules from the first segment on.
fn plain() -> ConnConfig {
    ConnConfig {
        timestamps: false,
        sack: false,
        window_scaling: false,
        quick_acks: 0,
        recv_buffer: 65_535,
        congestion: Algorithm::Reno.into(), // RFC 9293 §3.8.2 requires RFC 5681
        ..ConnConfig::default()
    }
}

fn tuple(v6: bool) -> FourTuple {
    let (local, remote) =
        if v6 { ("[2001:db8::1]:1000", "[2001:db8::2]:2000") } else { ("10.0.0.1:1000", "10.0.0.2:2000") };
    FourTuple::new(local.parse().unwrap(), remote.parse().unwrap())
}

struct Host {
    now: Instant,
    conn: Connection,
    /// The window field of the peer.
    window: u16,
}

impl Host {
    fn syn_sent_on(config: &ConnConfig, v6: bool, mtu: u32) -> Host {
        let now = Instant::from_secs(1000);
        let conn = Connection::connect(now, &config.clone().into(), tuple(v6), ISS, 77, Path { mtu });
        Host { now, conn, window: 60_000 }
    }

    /// SYN-SENT, with the SYN still to be sent.
    fn syn_sent(config: &ConnConfig) -> Host {
        Self::syn_sent_on(config, false, 1500)
    }

    /// ESTABLISHED; the SYN-ACK came 20 ms after the SYN and carried these options.
    fn established_with(config: &ConnConfig, options: Options) -> Host {
        let mut host = Self::syn_sent(config);
        host.establish(options);
        host
    }

    fn established(config: &ConnConfig) -> Host {
        Self::established_with(config, Options { mss: Some(1460), ..Options::default() })
    }

    fn establish(&mut self, options: Options) {
        self.drain();
        self.now = self.now + ms(20);
        let mut header = self.header(SYN_ACK, 0, 1);
        header.options = options;
        self.give(header, b"").unwrap();
        self.drain();
        assert_eq!(self.conn.state(), State::Established);
    }

    fn header(&self, flags: Flags, seq: u32, ack: u32) -> TcpHeader {
        let window = WireWindow(self.window);
        TcpHeader { flags, seq: IRS.add(seq), ack: ISS.add(ack), window, ..TcpHeader::default() }
    }

    fn give(&mut self, header: TcpHeader, payload: &[u8]) -> Result<(), DropReason> {
        let segment = Segment { header, payload, owner: None, ecn: Ecn::NotEct, gro_size: 0 };
        let result = self.conn.on_segment(self.now, &segment);
        self.conn.check_invariants();
        result
    }

    /// A segment with relative numbers, and what is answered.
    fn on(&mut self, flags: Flags, seq: u32, ack: u32, payload: &[u8]) -> Vec<Transmit> {
        let _ = self.give(self.header(flags, seq, ack), payload);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.conn.poll_transmit(self.now, &TxLimits::ONE_SEGMENT)).collect()
    }

    fn write(&mut self, len: usize) -> Vec<Transmit> {
        assert_eq!(self.conn.write(self.now, &vec![7; len]), Ok(len));
        self.drain()
    }

    fn read(&mut self, len: usize) -> Vec<Transmit> {
        assert_eq!(self.conn.read(self.now, &mut vec![0; len]), Ok(len));
        self.drain()
    }

    /// Lets the next timer run out; answers how long it took and what was sent.
    fn time_passes(&mut self) -> (Duration, Vec<Transmit>) {
        let start = self.now;
        self.now = self.now.max(self.conn.poll_timeout().expect("a timer is running"));
        self.conn.on_timeout(self.now);
        (self.now.since(start), self.drain())
    }

    fn icmp(&mut self, kind: IcmpKind, seq: u32) -> Result<(), DropReason> {
        let error = IcmpError { kind, tuple: *self.conn.tuple(), seq: ISS.add(seq), from: [10, 0, 0, 9].into() };
        let result = self.conn.on_icmp(self.now, &error);
        self.conn.check_invariants();
        result
    }
}

/// Nothing leaves.
#[track_caller]
fn silent(sent: &[Transmit]) {
    assert!(sent.is_empty(), "{sent:?}");
}

fn payloads(sent: &[Transmit]) -> Vec<usize> {
    sent.iter().map(Transmit::payload_len).collect()
}

fn sack(transmit: &Transmit) -> Vec<(u32, u32)> {
    let relative = |n: SeqNum| n.distance(IRS) as u32;
    transmit.header.options.sack.iter().map(|(a, b)| (relative(a), relative(b))).collect()
}

#[test]
fn send_mss_is_the_least_of_option_default_and_path_less_options() {
    let ts = Some(Timestamps { value: 1, echo: 0 });
    // IPv6, MTU, the peer's MSS option, timestamps, payload of a full segment.
    let table = [
        (false, 1500, None, false, 536),
        (true, 1500, None, false, 1220),
        (false, 1500, None, true, 524),
        (false, 1500, Some(1460), false, 1460),
        (false, 1500, Some(1000), false, 1000),
        (false, 1500, Some(9000), false, 1460),
        (true, 1500, Some(9000), true, 1428),
        (true, 1280, Some(1440), false, 1220),
    ];
    for (v6, mtu, mss, stamps, full) in table {
        let config = ConnConfig { timestamps: stamps, ..plain() };
        let mut host = Host::syn_sent_on(&config, v6, mtu);
        host.establish(Options { mss, timestamps: ts.filter(|_| stamps), ..Options::default() });
        let sent = host.write(3 * full);
        assert_eq!(payloads(&sent), [full; 3], "{v6} {mtu} {mss:?} {stamps}");
    }
}

#[test]
fn the_mss_option_stands_in_syns_only() {
    let mut host = Host::syn_sent(&ConnConfig::default());
    let syn = host.drain();
    assert_eq!(syn[0].header.options.mss, Some(1460));
    let mut host = Host::established(&plain());
    let mut sent = host.write(5000);
    sent.extend(host.on(ACK, 1, 1, &[0; 4000]));
    host.conn.shutdown(host.now).unwrap();
    sent.extend(host.drain());
    host.conn.abort(host.now);
    sent.extend(host.drain());
    assert!(sent.len() > 5 && sent.iter().all(|t| t.header.options.mss.is_none()));
}

#[test]
fn options_of_a_syn_in_other_segments_are_harmless() {
    let mut host = Host::established(&plain());
    let mut header = host.header(ACK, 1, 1);
    header.options = Options {
        mss: Some(100),
        window_scale: Some(14),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: 5, echo: 6 }),
        ..Options::default()
    };
    header.options.sack.push(ISS.add(1), ISS.add(50));
    host.give(header, b"text").unwrap();
    assert_eq!(host.conn.readable_len(), 4);
    let info = host.conn.info();
    assert_eq!((info.snd_mss, info.snd_wnd, info.timestamps, info.sack), (1460, 60_000, false, false));
}

#[test]
fn a_scaled_window_needs_more_than_16_bits() {
    let config = ConnConfig { window_scaling: true, ..plain() };
    for (shift, window) in [(7, 60_000 << 7), (14, 60_000 << 14), (255, 60_000 << 14)] {
        let options = Options { window_scale: Some(shift), mss: Some(1460), ..Options::default() };
        let mut host = Host::established_with(&config, options);
        assert_eq!(host.conn.info().snd_wnd, 60_000, "a SYN-ACK is never scaled");
        host.on(ACK, 1, 1, b"");
        assert_eq!(host.conn.info().snd_wnd, window);
    }
}

#[test]
fn psh_is_on_the_last_segment_of_what_is_buffered() {
    let mut host = Host::established(&plain());
    let pushed =
        |sent: &[Transmit]| -> Vec<bool> { sent.iter().map(|t| t.header.flags.contains(Flags::PSH)).collect() };
    assert_eq!(pushed(&host.write(3 * 1460 + 5)), [false, false, false, true]);
    // Two writes in one segment: one PSH.
    silent(&host.write(10));
    silent(&host.write(10));
    let sent = host.on(ACK, 1, 1 + 3 * 1460 + 5, b"");
    assert_eq!((payloads(&sent), pushed(&sent)), (vec![20], vec![true]));
}

#[test]
fn segments_are_as_large_as_they_can_be() {
    let mut host = Host::established(&plain());
    let sent = host.write(100_000);
    assert_eq!(payloads(&sent), [1460; 10], "the initial window of ten segments");
    // Beyond Nagle and windows only the last one is small.
    let sent = host.on(ACK, 1, 1 + 10 * 1460, b"");
    assert!(sent.iter().all(|t| t.payload_len() == 1460));
}

#[test]
fn the_initial_window_is_ten_segments_of_any_size() {
    for (mss, segments) in [(536, 10), (1000, 10), (1460, 10)] {
        let mut host = Host::established_with(&plain(), Options { mss: Some(mss), ..Options::default() });
        assert_eq!(host.write(40_000).len(), segments);
    }
    let mut host = Host::established(&ConnConfig { initial_window: 3, ..plain() });
    assert_eq!(host.write(40_000).len(), 3);
}

#[test]
fn one_ack_answers_a_batch() {
    let mut host = Host::established(&plain());
    for i in 0..10 {
        host.give(host.header(ACK, 1 + i * 1460, 1), &[0; 1460]).unwrap();
    }
    let sent = host.drain();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header.ack, IRS.add(1 + 14_600));
}

#[test]
fn every_second_full_segment_is_acknowledged() {
    let mut host = Host::established(&plain());
    let answers: Vec<_> = (0..8).map(|i| host.on(ACK, 1 + i * 1460, 1, &[0; 1460]).len()).collect();
    assert_eq!(answers, [0, 1, 0, 1, 0, 1, 0, 1]);
}

#[test]
fn an_ack_is_never_held_back_for_half_a_second() {
    let mut host = Host::established(&ConnConfig { delayed_ack: secs(10), ..plain() });
    silent(&host.on(ACK, 1, 1, b"x"));
    let (after, sent) = host.time_passes();
    assert!(after < ms(500) && sent.len() == 1, "{after:?}");
}

#[test]
fn a_segment_out_of_order_is_kept_and_answered_at_once() {
    let mut host = Host::established(&plain());
    for seq in [101, 201] {
        let sent = host.on(ACK, seq, 1, &[2; 100]);
        assert!(sent.len() == 1 && sent[0].header.ack == IRS.add(1));
    }
    let sent = host.on(ACK, 1, 1, &[1; 100]);
    assert!(sent.len() == 1 && sent[0].header.ack == IRS.add(301), "filling a hole is answered at once too");
    assert_eq!(host.conn.readable_len(), 300);
}

#[test]
fn sack_names_the_newest_block_first_and_a_duplicate_before_it() {
    let options = Options { mss: Some(1460), sack_permitted: true, ..Options::default() };
    let mut host = Host::established_with(&ConnConfig { sack: true, ..plain() }, options);
    let mut at = |seq: u32, len: usize| sack(&host.on(ACK, seq, 1, &vec![0; len])[0]);
    assert_eq!(at(101, 10), [(101, 111)]);
    assert_eq!(at(301, 10), [(301, 311), (101, 111)]);
    assert_eq!(at(201, 10), [(201, 211), (301, 311), (101, 111)]);
    // RFC 2018 §4: the block that holds the segment, whole.
    assert_eq!(at(111, 10), [(101, 121), (201, 211), (301, 311)]);
    // RFC 2883 §4: a duplicate, then the block it lies in.
    assert_eq!(at(203, 5), [(203, 208), (201, 211), (101, 121), (301, 311)]);
    // Filled: what is acknowledged is named no more.
    assert_eq!(at(1, 100), [(201, 211), (301, 311)]);
    assert_eq!(at(50, 10), [(50, 60), (201, 211), (301, 311)]);
    // Old at the front, new at the back.
    assert_eq!(at(111, 20), [(111, 121), (201, 211), (301, 311)]);
    // Four blocks are what fits.
    assert_eq!(at(401, 1).len() + at(501, 1).len() + at(601, 1).len(), 3 + 4 + 4);
}

#[test]
fn three_blocks_fit_beside_timestamps() {
    let timestamps = Some(Timestamps { value: 1, echo: 0 });
    let options = Options { mss: Some(1460), sack_permitted: true, timestamps, ..Options::default() };
    let mut host = Host::established_with(&ConnConfig { sack: true, timestamps: true, ..plain() }, options);
    let blocks = (1..=6).map(|i| sack(&host.on(ACK, 100 * i, 1, b"x")[0]).len()).collect::<Vec<_>>();
    assert_eq!(blocks, [1, 2, 3, 3, 3, 3]);
}

#[test]
fn a_receiver_opens_its_window_in_steps() {
    // Buffer, step: half the buffer or a segment, whichever is less.
    for (buffer, step) in [(20_000, 1460), (1000, 500)] {
        let mut host = Host::established(&ConnConfig { recv_buffer: buffer, ..plain() });
        let mut last = None;
        let mut seq = 1;
        while host.conn.info().rcv_wnd > 0 {
            let len = host.conn.info().rcv_wnd.min(1460) as usize;
            last = host.on(ACK, seq, 1, &vec![0; len]).pop().or(last);
            seq += len as u32;
        }
        if last.as_ref().is_none_or(|t| t.header.ack != IRS.add(seq)) {
            last = host.time_passes().1.pop(); // the delayed ACK
        }
        assert_eq!(last.unwrap().header.window, WireWindow(0));
        for _ in 1..step {
            silent(&host.read(1));
        }
        let probed = host.on(ACK, seq, 1, b"x");
        assert_eq!(probed[0].header.window, WireWindow(0), "nor when asked");
        let mut updates = Vec::new();
        while updates.is_empty() {
            updates = host.read(1);
        }
        assert!(updates.len() == 1 && usize::from(updates[0].header.window.0) >= step, "{updates:?}");
    }
}

#[test]
fn a_window_offered_is_never_taken_back() {
    let mut host = Host::established(&ConnConfig { recv_buffer: 20_000, ..plain() });
    let (mut seq, mut edge) = (1, 0);
    for i in 0..200u32 {
        let len = (i * 37 % 1400).min(host.conn.info().rcv_wnd as u32) as usize;
        let mut sent = host.on(ACK, seq, 1, &vec![0; len]);
        seq += len as u32;
        if i == 100 {
            host.conn.set_recv_buffer(5000);
        }
        if i % 7 == 0 && host.conn.readable_len() > 3000 {
            sent.extend(host.read(3000));
        }
        for transmit in sent {
            let right = transmit.header.ack.add(u32::from(transmit.header.window.0)).distance(IRS);
            assert!(right >= edge, "step {i}: {right} after {edge}");
            edge = right;
        }
    }
    assert!(edge > 20_000);
}

#[test]
fn a_shrunk_window_stops_new_data_and_not_the_old() {
    let mut host = Host::established(&ConnConfig { nodelay: true, ..plain() });
    assert_eq!(host.write(3000).len(), 3);
    // The right edge moves left of SND.NXT.
    host.window = 1000;
    silent(&host.on(ACK, 1, 1, b""));
    silent(&host.write(1000));
    let (_, sent) = host.time_passes();
    let seqs: Vec<_> = sent.iter().map(|t| (t.header.seq.distance(ISS), t.kind)).collect();
    assert_eq!(seqs.first(), Some(&(1, TransmitKind::Retransmit)), "the old is sent again");
    host.window = 60_000;
    let sent = host.on(ACK, 1, 3001, b"");
    assert_eq!(payloads(&sent), [1000], "and goes on when the window is back");
}

#[test]
fn the_first_probe_comes_after_one_rto_and_the_next_ever_later() {
    let mut host = Host::established(&plain());
    host.window = 0;
    host.on(ACK, 1, 1, b"");
    let rto = host.conn.info().rto;
    silent(&host.write(1000));
    for n in 0..6 {
        let (after, sent) = host.time_passes();
        assert_eq!(after, rto * (1 << n));
        assert!(sent.len() == 1 && sent[0].kind == TransmitKind::Probe);
        host.on(ACK, 1, 1, b"");
    }
    host.window = 60_000;
    assert_eq!(payloads(&host.on(ACK, 1, 1, b"")), [1000], "a window that opens ends the wait");
}

#[test]
fn keepalive_is_off_until_it_is_switched_on_and_has_the_rfcs_patience() {
    let mut host = Host::established(&plain());
    assert_eq!(host.conn.poll_timeout(), None, "an idle connection has no timer");
    host.conn.set_keepalive(host.now, Some(Keepalive::default()));
    let (after, sent) = host.time_passes();
    assert_eq!(after, secs(7200));
    // No data, and one before what is expected: it must be answered.
    assert!(sent.len() == 1 && sent[0].payload_len() == 0 && sent[0].header.seq == ISS);
    // One without an answer is not the end.
    let (after, sent) = host.time_passes();
    assert_eq!((after, sent.len(), host.conn.state()), (secs(75), 1, State::Established));
    host.on(ACK, 1, 1, b"");
    host.conn.set_keepalive(host.now, None);
    assert_eq!(host.conn.poll_timeout(), None);
}

#[test]
fn keepalive_waits_while_anything_is_outstanding() {
    let keepalive = Some(Keepalive { idle: secs(1), interval: secs(1), count: 1 });
    let mut host = Host::established(&ConnConfig { keepalive, ..plain() });
    host.write(100);
    let mut kinds = Vec::new();
    while host.now < Instant::from_secs(1100) {
        kinds.extend(host.time_passes().1.iter().map(|t| t.kind));
    }
    assert!(!kinds.is_empty() && kinds.iter().all(|&k| k == TransmitKind::Retransmit), "{kinds:?}");
}

#[test]
fn seven_syn_retries_are_more_than_three_minutes() {
    let mut host = Host::syn_sent(&ConnConfig { syn_retries: 7, ..plain() });
    let start = host.now;
    host.drain();
    while host.conn.state() == State::SynSent {
        host.time_passes();
    }
    assert!(host.now.since(start) >= secs(180), "{:?}", host.now.since(start));
    assert_eq!(host.conn.take_error(), Some(CloseReason::TimedOut));
}

#[test]
fn what_was_sent_again_gives_no_sample_without_timestamps() {
    // Karn's rule, and the backoff that stays until there is a sample (RFC 6298 §3, §5.7).
    let mut host = Host::established(&plain());
    let before = host.conn.info();
    host.write(100);
    let (rto, sent) = host.time_passes();
    assert!(rto == before.rto && sent[0].kind == TransmitKind::Retransmit);
    host.now = host.now + ms(7);
    host.on(ACK, 1, 101, b"");
    let after = host.conn.info();
    assert_eq!((after.rtt, after.rttvar, after.backoff), (before.rtt, before.rttvar, 1));
    host.write(100);
    host.now = host.now + ms(7);
    host.on(ACK, 1, 201, b"");
    assert!(host.conn.info().rtt < before.rtt && host.conn.info().backoff == 0);
}

#[test]
fn timeouts_double() {
    let mut host = Host::established(&plain());
    host.write(100);
    let waits: Vec<_> = (0..6).map(|_| host.time_passes().0).collect();
    for pair in waits.windows(2) {
        assert_eq!(pair[1], pair[0] * 2);
    }
    assert_eq!(host.conn.info().snd_cwnd, 1460, "one segment after a timeout");
}

#[test]
fn hop_limit_and_traffic_class_are_those_that_were_set() {
    let mut host = Host::established(&ConnConfig { ttl: 33, traffic_class: 0x28, ..plain() });
    let sent = host.write(10);
    assert_eq!((sent[0].ttl, sent[0].traffic_class), (33, 0x28));
    host.conn.set_ttl(34);
    host.conn.set_traffic_class(0xb8);
    let sent = host.on(ACK, 2000, 11, b"x");
    assert_eq!((sent[0].ttl, sent[0].traffic_class), (34, 0xb8), "and may change on the way");
    host.conn.abort(host.now);
    let sent = host.drain();
    assert_eq!((sent[0].kind, sent[0].ttl, sent[0].traffic_class), (TransmitKind::Reset, 34, 0xb8));
}

#[test]
fn a_reset_may_contain_data() {
    let mut host = Host::established(&plain());
    silent(&host.on(Flags::RST | ACK, 1, 1, b"because of this"));
    assert_eq!((host.conn.state(), host.conn.readable_len()), (State::Closed, 0));
    assert_eq!(host.conn.take_error(), Some(CloseReason::Reset));
}

const SOFT: [(IcmpKind, CloseReason); 8] = [
    (IcmpKind::NetUnreachable, CloseReason::NetUnreachable),
    (IcmpKind::HostUnreachable, CloseReason::HostUnreachable),
    (IcmpKind::SourceRouteFailed, CloseReason::HostUnreachable),
    (IcmpKind::TimeExceeded, CloseReason::HostUnreachable),
    (IcmpKind::ParameterProblem, CloseReason::ProtocolUnreachable),
    (IcmpKind::ProtocolUnreachable, CloseReason::ProtocolUnreachable),
    (IcmpKind::PortUnreachable, CloseReason::Refused),
    (IcmpKind::Prohibited, CloseReason::Prohibited),
];

#[test]
fn icmp_errors_are_soft_once_the_connection_is_synchronized() {
    for (kind, reason) in SOFT {
        let mut host = Host::established(&plain());
        host.write(100);
        assert_eq!(host.icmp(kind, 1), Ok(()));
        assert_eq!(host.conn.state(), State::Established);
        assert_eq!(host.conn.take_error(), Some(reason), "the application can ask");
        assert_eq!(host.conn.take_error(), None);
        // It goes on; if it ends by a timeout, that is the reason that is told.
        assert_eq!(host.icmp(kind, 1), Ok(()));
        while host.conn.state() != State::Closed {
            host.time_passes();
        }
        assert_eq!(host.conn.close_reason(), Some(reason));
    }
}

#[test]
fn icmp_errors_end_an_attempt_to_connect() {
    for (kind, reason) in SOFT {
        let mut host = Host::syn_sent(&plain());
        host.drain();
        assert_eq!(host.icmp(kind, 7), Err(DropReason::IcmpSequence));
        assert_eq!(host.conn.state(), State::SynSent);
        assert_eq!(host.icmp(kind, 0), Ok(()));
        assert_eq!((host.conn.state(), host.conn.take_error()), (State::Closed, Some(reason)));
        assert!(host.conn.take_events().contains(Events::ERROR));
    }
}

#[test]
fn icmp_must_quote_what_is_in_flight() {
    let mut host = Host::established(&plain());
    host.write(1000);
    host.on(ACK, 1, 501, b"");
    for (seq, believed) in [(0, false), (500, false), (501, true), (1000, true), (1001, false), (90_000, false)] {
        let result = host.icmp(IcmpKind::HostUnreachable, seq);
        assert_eq!(result.is_ok(), believed, "{seq}");
        assert_eq!(host.conn.take_error().is_some(), believed, "{seq}");
    }
    let before = host.conn.info();
    assert_eq!(host.icmp(IcmpKind::PacketTooBig { mtu: 600 }, 500), Err(DropReason::IcmpSequence));
    assert_eq!(host.conn.info(), before);
}

#[test]
fn source_quench_is_ignored() {
    for mut host in [Host::established(&plain()), Host::syn_sent(&plain())] {
        host.drain();
        let open = host.conn.state();
        if open == State::Established {
            host.write(100);
        }
        let before = host.conn.info();
        let quoted = u32::from(open == State::Established);
        assert_eq!(host.icmp(IcmpKind::SourceQuench, quoted), Err(DropReason::IcmpIgnored));
        assert_eq!((host.conn.info(), host.conn.take_error()), (before, None));
    }
}

#[test]
fn a_smaller_path_sends_again_at_once_and_smaller() {
    for (mtu, segment) in [(1280, 1240), (1492, 1452), (100, 512), (0, 1452)] {
        let mut host = Host::established(&plain());
        let cwnd = host.conn.info().snd_cwnd;
        assert_eq!(payloads(&host.write(2920)), [1460, 1460]);
        assert_eq!(host.icmp(IcmpKind::PacketTooBig { mtu }, 1), Ok(()));
        let sent = host.drain();
        assert!(!sent.is_empty() && sent.iter().all(|t| t.payload_len() <= segment), "{mtu}: {:?}", payloads(&sent));
        assert_eq!((sent[0].header.seq, sent[0].payload_len()), (ISS.add(1), segment), "{mtu}");
        assert_eq!((host.conn.info().snd_mss, host.conn.info().timeouts), (segment as u32, 0));
        assert!(host.conn.info().snd_cwnd + 1460 > cwnd.min(10 * segment as u64), "not congestion");
        // A message never raises it.
        assert_eq!(host.icmp(IcmpKind::PacketTooBig { mtu: 9000 }, 1), Ok(()));
        assert_eq!(host.conn.info().snd_mss, segment as u32);
    }
    let mut host = Host::syn_sent_on(&plain(), true, 1500);
    host.establish(Options { mss: Some(1440), ..Options::default() });
    host.write(2000);
    host.icmp(IcmpKind::PacketTooBig { mtu: 296 }, 1).unwrap();
    assert_eq!(host.conn.info().pmtu, 1280, "IPv6 has a minimum");
}

#[derive(Clone, Debug)]
struct Room;

impl AcceptQueue for Room {
    fn has_room(&self) -> bool {
        true
    }
}

#[test]
fn a_listener_leaves_connections_on_its_port_alone() {
    let now = Instant::from_secs(9);
    let mut stack: Stack<u32, Room> = Stack::new(StackConfig::default(), [1; 32]);
    // One that is being opened from the same local port, and one that is open.
    let local = "10.0.0.1:80".parse().unwrap();
    let tuples = [1000, 2000].map(|port| FourTuple::new(local, ([10, 0, 0, 2], port).into()));
    for (n, tuple) in tuples.into_iter().enumerate() {
        stack.insert(tuple, n as u32);
    }
    let conn = Arc::new(ConnConfig::default());
    let config = ListenConfig { v6only: false, shared: false, max_half_open: 9, mtu: 1500, conn };
    stack.listen("0.0.0.0:80".parse().unwrap(), Room, config);
    let header = TcpHeader { flags: Flags::SYN, ..TcpHeader::default() };
    let segment = Segment { header, payload: b"", owner: None, ecn: Ecn::NotEct, gro_size: 0 };
    for (n, tuple) in tuples.into_iter().enumerate() {
        let found = stack.on_segment(now, &tuple, &segment);
        assert!(matches!(found, Disposition::Connection(c) if c == n as u32), "{found:?}");
    }
    let other = FourTuple::new(local, "10.0.0.2:3000".parse().unwrap());
    assert!(matches!(stack.on_segment(now, &other, &segment), Disposition::Reply(r) if r.header.flags == SYN_ACK));
}

#[test]
fn every_segment_has_a_timestamp_once_agreed_the_reset_too() {
    let timestamps = Some(Timestamps { value: 1000, echo: 0 });
    let options = Options { mss: Some(1460), timestamps, ..Options::default() };
    let mut host = Host::established_with(&ConnConfig { timestamps: true, ..plain() }, options);
    let mut sent = host.write(100);
    host.now = host.now + ms(50);
    host.conn.shutdown(host.now).unwrap();
    sent.extend(host.drain());
    let fin = sent.last().unwrap();
    assert!(fin.header.flags.contains(Flags::FIN));
    let value = |t: &Transmit| t.header.options.timestamps.map(|ts| (ts.value, ts.echo));
    assert_eq!(value(fin), Some((1_000_070 + 77, 1000)), "the time is now, the offset the connection's");
    host.now = host.now + ms(50);
    host.conn.abort(host.now);
    assert_eq!(value(&host.drain()[0]), Some((1_000_120 + 77, 1000)));
    assert!(sent.iter().all(|t| value(t).is_some()));
}

#[test]
fn three_duplicate_acks_and_partial_acks_retransmit_without_sack() {
    // RFC 5681 §3.2, RFC 6582 §3.2.
    let mut host = Host::established(&plain());
    assert_eq!(host.write(10 * 1460).len(), 10);
    silent(&host.on(ACK, 1, 1, b""));
    silent(&host.on(ACK, 1, 1, b""));
    let sent = host.on(ACK, 1, 1, b"");
    assert_eq!((sent.len(), sent[0].kind, sent[0].header.seq), (1, TransmitKind::Retransmit, ISS.add(1)));
    assert_eq!(host.conn.info().snd_ssthresh, 5 * 1460);
    // A partial ACK: the next hole at once, in the same episode.
    let sent = host.on(ACK, 1, 1 + 6 * 1460, b"");
    assert_eq!((sent.len(), sent[0].kind, sent[0].header.seq), (1, TransmitKind::Retransmit, ISS.add(1 + 6 * 1460)));
    silent(&host.on(ACK, 1, 1 + 10 * 1460, b""));
    let info = host.conn.info();
    assert_eq!((info.snd_ssthresh, info.snd_cwnd, info.timeouts), (5 * 1460, 5 * 1460, 0));
}

#[test]
fn the_first_two_duplicates_send_one_new_segment_each() {
    // RFC 3042 §2: limited transmit leaves cwnd alone.
    for with_sack in [false, true] {
        let options = Options { mss: Some(1000), sack_permitted: with_sack, ..Options::default() };
        let mut host = Host::established_with(&ConnConfig { sack: with_sack, ..plain() }, options);
        assert_eq!(host.write(30_000).len(), 10);
        host.now = host.now + ms(20);
        let cwnd = host.conn.info().snd_cwnd;
        for n in 0..2 {
            let block = (1, 2 + n);
            let sent = sacks(&mut host, 0, if with_sack { std::slice::from_ref(&block) } else { &[] });
            assert_eq!(sent, [(TransmitKind::Data, 10 + n)]);
        }
        assert_eq!(host.conn.info().snd_cwnd, cwnd);
    }
}

fn with_sack() -> Host {
    let options = Options { mss: Some(1000), sack_permitted: true, ..Options::default() };
    Host::established_with(&ConnConfig { sack: true, ..plain() }, options)
}

/// An ACK of the first `ack` segments of 1000 bytes, with SACK blocks in segments.
fn sacks(host: &mut Host, ack: u32, blocks: &[(u32, u32)]) -> Vec<(TransmitKind, u32)> {
    let mut header = host.header(ACK, 1, 1 + ack * 1000);
    for &(from, to) in blocks {
        header.options.sack.push(ISS.add(1 + from * 1000), ISS.add(1 + to * 1000));
    }
    host.give(header, b"").unwrap();
    host.drain().iter().map(|t| (t.kind, t.header.seq.distance(ISS.add(1)) as u32 / 1000)).collect()
}

#[test]
fn the_third_sacked_segment_above_a_hole_retransmits_it() {
    let mut host = with_sack();
    assert_eq!(host.write(4000).len(), 4);
    host.now = host.now + ms(20);
    assert_eq!(sacks(&mut host, 0, &[(1, 2)]), []);
    assert_eq!(sacks(&mut host, 0, &[(1, 3)]), []);
    assert_eq!(sacks(&mut host, 0, &[(1, 4)]), [(TransmitKind::Retransmit, 0)]);
    assert_eq!(host.conn.info().timeouts, 0);
}

#[test]
fn ten_of_twenty_lost_are_repaired_without_a_timeout() {
    let mut host = Host::established_with(
        &ConnConfig { sack: true, initial_window: 20, ..plain() },
        Options { mss: Some(1000), sack_permitted: true, ..Options::default() },
    );
    assert_eq!(host.write(20_000).len(), 20);
    let lost = |n: u32| n < 4 || (8..14).contains(&n);
    let (mut have, mut wire): (Vec<u32>, Vec<u32>) = ((0..20).filter(|&n| !lost(n)).collect(), Vec::new());
    let mut news = have.clone();
    let mut known: Vec<u32> = Vec::new();
    for _round in 0..40 {
        host.now = host.now + ms(20);
        for n in std::mem::take(&mut news) {
            known.push(n);
            let ack = (0..20).find(|i| !known.contains(i)).unwrap_or(20);
            let mut from = n;
            while from > ack && known.contains(&(from - 1)) {
                from -= 1;
            }
            let mut to = n + 1;
            while known.contains(&to) {
                to += 1;
            }
            let blocks = if n >= ack { vec![(from, to)] } else { vec![] };
            wire.extend(sacks(&mut host, ack, &blocks).iter().map(|&(_, n)| n));
        }
        for n in std::mem::take(&mut wire) {
            assert!(!have.contains(&n), "{n} was not lost");
            have.push(n);
            news.push(n);
        }
        if host.conn.is_all_acked() {
            break;
        }
    }
    let info = host.conn.info();
    assert!(host.conn.is_all_acked(), "{info:?}");
    assert_eq!((info.timeouts, info.total_retrans), (0, 10));
}

#[test]
fn sack_blocks_in_any_order_count_once() {
    let mut host = with_sack();
    assert_eq!(host.write(10_000).len(), 10);
    host.now = host.now + ms(20);
    let mut sent = Vec::new();
    for n in [2, 6, 8, 3, 9] {
        sent.extend(sacks(&mut host, 0, &[(n, n + 1)]));
    }
    let info = host.conn.info();
    assert_eq!((info.sacked, info.unacked), (5000, 10_000));
    // Blocks that lie about what was sent are not believed.
    sent.extend(sacks(&mut host, 0, &[(9, 40), (50, 60)]));
    assert_eq!(host.conn.info().sacked, 5000);
    assert!(
        sent.iter().all(|&(kind, n)| kind == TransmitKind::Retransmit && ![2, 3, 6, 8, 9].contains(&n)),
        "{sent:?}"
    );
}

#[test]
fn an_echo_from_before_the_retransmission_undoes_the_reduction() {
    // RFC 3522 (Eifel): the original had only been late.
    let timestamps = Some(Timestamps { value: 1000, echo: 0 });
    let options = Options { mss: Some(1460), timestamps, sack_permitted: true, ..Options::default() };
    let mut host = Host::established_with(&ConnConfig { timestamps: true, sack: true, ..plain() }, options);
    let before = host.conn.info().snd_cwnd;
    let sent = host.write(5 * 1448);
    let stamp = sent[0].header.options.timestamps.unwrap().value;
    host.now = host.now + secs(1);
    host.conn.on_timeout(host.now);
    host.drain();
    while host.conn.info().timeouts == 0 {
        host.time_passes();
    }
    assert!(host.conn.info().snd_cwnd < before);
    let mut header = host.header(ACK, 1, 1 + 1448);
    header.options.timestamps = Some(Timestamps { value: 2000, echo: stamp });
    host.give(header, b"").unwrap();
    assert!(host.conn.info().snd_cwnd >= before, "{:?}", host.conn.info());
}

#[test]
fn recovery_sends_in_proportion_to_what_arrives() {
    // RFC 6937 §3.1: one segment for two that arrived.
    let mut host = Host::established_with(
        &ConnConfig { sack: true, initial_window: 40, ..plain() },
        Options { mss: Some(1000), sack_permitted: true, ..Options::default() },
    );
    assert_eq!(host.write(40_000).len(), 40);
    host.now = host.now + ms(20);
    let mut left = sacks(&mut host, 0, &[(1, 4)]).len();
    assert_eq!((left, host.conn.info().snd_ssthresh), (1, 20_000));
    silent(&host.write(40_000));
    for n in 5..=40 {
        left += sacks(&mut host, 0, &[(1, n)]).len();
        let arrived = n as usize - 1;
        assert!(left <= arrived / 2 + 2, "{left} left for {arrived}");
    }
    assert!((18..=21).contains(&left), "{left} left for 39 that arrived");
}

#[test]
fn recovery_catches_up_only_on_acks_that_show_progress() {
    // RFC 9937: below ssthresh as many leave as arrived, and one more only if SND.UNA moved without a loss.
    let mut host = Host::established_with(
        &ConnConfig { sack: true, initial_window: 40, ..plain() },
        Options { mss: Some(1000), sack_permitted: true, ..Options::default() },
    );
    assert_eq!(host.write(40_000).len(), 40);
    host.now = host.now + ms(20);
    // Thirty are lost: seven are in flight, twenty may be.
    assert_eq!(sacks(&mut host, 0, &[(30, 33)]).len(), 3);
    assert_eq!(sacks(&mut host, 0, &[(30, 34)]).len(), 1);
    assert_eq!(sacks(&mut host, 0, &[(30, 40)]).len(), 6);
    assert_eq!(sacks(&mut host, 0, &[(30, 40)]).len(), 0, "nothing arrived");
    host.now = host.now + ms(20);
    assert_eq!(sacks(&mut host, 1, &[(30, 40)]).len(), 2);
    assert_eq!(sacks(&mut host, 2, &[(30, 40)]).len(), 2);
}

#[test]
fn congestion_control_is_replaced_on_a_live_connection() {
    let mut host = Host::established(&plain());
    host.write(14_600);
    host.on(ACK, 1, 14_601, b"");
    let before = host.conn.info();
    assert_eq!((before.congestion, before.snd_cwnd), ("reno", 29_200));
    host.conn.set_congestion(Algorithm::Cubic);
    let after = host.conn.info();
    assert_eq!((after.congestion, after.snd_cwnd, after.snd_ssthresh), ("cubic", 29_200, before.snd_ssthresh));
    assert_eq!(host.write(50_000).len(), 20);
}
