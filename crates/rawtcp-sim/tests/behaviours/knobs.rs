//! Settings do what they say (behaviour 3). Those that have tests where their behaviour is are not here again:
//! docs/conformance.md names a test for each.

use crate::common::ms;
use crate::script::*;
use rawtcp_proto::stack::{Rate, StackConfig};
use rawtcp_proto::wire::{Options, Timestamps};
use rawtcp_proto::{ConnConfig, Duration, Keepalive, SeqNum, State};
use rawtcp_sim::{Errno, Host, HostConfig};

const MSS: u32 = 1000;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// When something is sent again, counted from now, and when the connection ends.
fn repetitions(s: &mut Script) -> (Vec<Duration>, Duration) {
    let (start, mut times) = (s.now, Vec::new());
    loop {
        while s.poll().is_some() {
            times.push(s.now.since(start));
        }
        if s.state() == State::Closed {
            return (times, s.now.since(start));
        }
        s.now = s.now.max(s.host.next_deadline().expect("a timer runs"));
        s.host.on_timeout(s.now);
    }
}

#[test]
fn the_initial_window_has_so_many_segments() {
    for segments in [1, 2, 3, 10, 30] {
        let mut s = Script::accepted(&ConnConfig { initial_window: segments, ..plain() });
        s.write(&text(60_000)).unwrap();
        assert_eq!(s.all().len(), segments as usize);
    }
}

#[test]
fn the_mss_is_bounded_both_ways() {
    for max in [88, 500, 536, 1460] {
        let mut s = Script::syn_sent(&ConnConfig { max_mss: Some(max), ..plain() });
        s.send_with(SYN_ACK, ISS, s.ack(0), Options { mss: Some(9000), ..peer_options() }, b"");
        s.all();
        s.write(&text(20_000)).unwrap();
        let sent = s.all();
        assert!(sent.iter().all(|p| p.payload.len() <= max.into()) && sent[0].payload.len() == usize::from(max));
        // What was announced.
        let mut s = Script::listening(&ConnConfig { max_mss: Some(max), ..plain() });
        s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
        assert_eq!(s.next().tcp.options.mss, Some(max));
    }
}

#[test]
fn jumbo_segments_and_tiny_ones() {
    for (mtu, peer_mss, expected) in
        [(9000, 8960, 8960), (65_535, 65_495, 65_495), (9000, 88, 88), (1500, 1, 88), (100, 1460, 88)]
    {
        let mut s = Script::listening_on_mtu(&ConnConfig { recv_buffer: 1 << 20, ..plain() }, mtu);
        s.send_with(SYN, ISS, SeqNum(0), Options { mss: Some(peer_mss), ..peer_options() }, b"");
        let answer = s.next();
        assert_eq!(answer.tcp.options.mss, Some((mtu as u16 - 40).max(88)));
        s.irs = answer.tcp.seq;
        s.accept();
        s.write(&text(200_000)).unwrap();
        assert_eq!(s.next().payload.len(), expected, "MTU {mtu}, MSS {peer_mss}");
        // And one of the size that was announced is taken.
        let size = answer.tcp.options.mss.unwrap();
        s.data(0, &text(size.into()));
        assert_eq!(s.read().unwrap().len(), usize::from(size));
    }
}

#[test]
fn the_timeout_starts_as_set_and_keeps_its_bounds() {
    // Before a measurement: the SYN.
    let mut s = Script::syn_sent(&ConnConfig { rto_initial: secs(3), syn_retries: 2, ..plain() });
    assert_eq!(repetitions(&mut s), (vec![secs(3), secs(9)], secs(21)));
    // The RFC's least: a second, on a path of 100 ms.
    let config = ConnConfig { rto_min: secs(1), rto_max: secs(3), retries: 4, sack: false, ..plain() };
    let mut s = Script::accepted(&config);
    s.write(&text(10)).unwrap();
    s.all();
    // As on Linux it is the least that is added to the smoothed round trip.
    assert_eq!(s.host.info(s.conn()).unwrap().rto, ms(1100));
    assert_eq!(repetitions(&mut s), ([1100, 3300, 6300, 9300].map(ms).to_vec(), ms(12_300)));
}

#[test]
fn attempts_end_after_so_many_repetitions() {
    let mut s = Script::syn_sent(&ConnConfig { syn_retries: 3, ..plain() });
    assert_eq!(repetitions(&mut s), ([1, 3, 7].map(secs).to_vec(), secs(15)));
    let conn = s.conn();
    assert_eq!(s.host.take_error(conn), Some(Errno::ETIMEDOUT));
    // RFC 9293 §3.8.3 [MUST-23]: three minutes of SYNs.
    let mut s = Script::syn_sent(&ConnConfig { syn_retries: 7, ..plain() });
    assert!(repetitions(&mut s).1 > secs(180));
    // Data, with somebody who waits and without.
    for (orphan, expected) in [(false, 3), (true, 1)] {
        let mut s = Script::accepted(&ConnConfig { retries: 3, orphan_retries: 1, sack: false, ..plain() });
        s.write(&text(10)).unwrap();
        if orphan {
            s.close();
        }
        s.all();
        let (mut times, _) = repetitions(&mut s);
        // Data and FIN may be sent again one by one.
        times.dedup();
        assert_eq!(times.len(), expected, "orphan: {orphan}");
    }
}

#[test]
fn the_send_buffer_takes_so_much() {
    let mut s = Script::accepted(&ConnConfig { send_buffer: 12_345, send_buffer_max: 0, ..plain() });
    s.window = 0;
    s.acks(0);
    assert_eq!(s.write(&text(20_000)), Ok(12_345));
    assert_eq!(s.write(b"x"), Err(Errno::EAGAIN));
}

#[test]
fn the_receive_buffer_is_the_window_to_the_byte_and_the_scale_is_the_one_that_was_set() {
    for (bytes, scale, in_syn, later) in [
        // 65,535 in SYN-RECEIVED and 65,700 in ESTABLISHED.
        (65_700, 2, 65_535, 65_700),
        (65_535, 0, 65_535, 65_535),
        (3000, 0, 3000, 3000),
        (1 << 20, 14, 65_535, 1 << 20),
        (100_000, 3, 65_535, 100_000),
    ] {
        let config = ConnConfig {
            recv_buffer: bytes,
            recv_buffer_max: 0,
            window_scale: Some(scale),
            window_scaling: true,
            ..plain()
        };
        let mut s = Script::listening(&config);
        s.send_with(SYN, ISS, SeqNum(0), Options { window_scale: Some(0), ..peer_options() }, b"");
        let answer = s.next();
        assert_eq!((answer.tcp.window.0, answer.tcp.options.window_scale), (in_syn, Some(scale)));
        s.irs = answer.tcp.seq;
        s.accept();
        s.write(b"x").unwrap();
        assert_eq!(usize::from(s.next().tcp.window.0) << scale, later, "{bytes}");
    }
}

#[test]
fn no_quick_ack_at_all_is_possible_and_any_delay() {
    for delay in [0, 1, 100, 499] {
        let mut s = Script::accepted(&ConnConfig { quick_acks: 0, delayed_ack: ms(delay), ..plain() });
        s.data(0, &text(1000));
        s.data(1000, &text(1000));
        s.all();
        s.data(2000, &text(10));
        let (after, _) = s.next_within(secs(1));
        assert_eq!(after, ms(delay));
    }
    // RFC 9293 §3.8.6.3 [MUST-40]: never half a second.
    let mut s = Script::accepted(&ConnConfig { quick_acks: 0, delayed_ack: secs(5), ..plain() });
    s.data(0, &text(10));
    assert!(s.next_within(secs(1)).0 < ms(500));
}

#[test]
fn keepalive_has_its_three_times() {
    let keepalive = Keepalive { idle: secs(30), interval: secs(5), count: 3 };
    let mut s = Script::accepted(&ConnConfig { keepalive: Some(keepalive), ..plain() });
    let start = s.now;
    let mut probes = Vec::new();
    while s.state() == State::Established {
        let Some((_, probe)) = s.try_within(secs(60)) else { break };
        assert_eq!(probe.payload.len(), 0);
        probes.push(s.now.since(start));
    }
    // Three probes, and then the reset that tells the peer.
    assert_eq!(probes, [30, 35, 40, 45].map(secs));
    assert_eq!(s.state(), State::Closed);
}

#[test]
fn time_wait_and_fin_wait_2_last_as_set() {
    for seconds in [1, 60, 240] {
        let config = ConnConfig { time_wait: secs(seconds), fin_wait2: secs(2 * seconds), ..plain() };
        let mut s = Script::accepted(&config);
        s.close();
        s.next();
        s.send(ACK, s.seq(0), s.ack(1), b"");
        assert_eq!(s.state(), State::FinWait2);
        s.quiet(secs(2 * seconds) - ms(1));
        assert_eq!(s.host.counts().open(), 1);
        s.quiet(ms(1));
        assert_eq!(s.host.counts().open(), 0, "FIN-WAIT-2");
        let mut s = Script::accepted(&config);
        s.close();
        s.next();
        s.send(FIN_ACK, s.seq(0), s.ack(1), b"");
        s.next();
        s.quiet(secs(seconds) - ms(1));
        assert_eq!(s.host.counts().of(State::TimeWait), 1);
        s.quiet(ms(1));
        assert_eq!(s.host.counts().of(State::TimeWait), 0, "TIME-WAIT");
    }
}

/// A host with these settings that has an end of a connection in TIME-WAIT.
fn time_wait(stack: StackConfig) -> Script {
    let mut s = Script::listening_with(&plain(), HostConfig::new([10, 0, 0, 1].into(), 7).with_stack(stack));
    s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
    s.irs = s.next().tcp.seq;
    s.accept();
    s.close();
    s.next();
    s.send(FIN_ACK, s.seq(0), s.ack(1), b"");
    s.all();
    assert_eq!(s.host.counts().of(State::TimeWait), 1);
    s
}

#[test]
fn rfc_1337_is_a_choice() {
    for rfc1337 in [true, false] {
        let mut s = time_wait(StackConfig { rfc1337, ..StackConfig::default() });
        s.send(RST, s.seq(1), SeqNum(0), b"");
        assert_eq!(s.host.counts().of(State::TimeWait), usize::from(rfc1337));
    }
}

#[test]
fn answers_of_the_stack_are_limited_as_set() {
    let stack = StackConfig {
        resets: Rate { interval: secs(1), burst: 5 },
        challenge_acks: Rate { interval: secs(1), burst: 2 },
        ttl: 9,
        traffic_class: 0x20,
        ..StackConfig::default()
    };
    let mut s = Script::closed_with(HostConfig::new([10, 0, 0, 1].into(), 7).with_stack(stack.clone()));
    for _ in 0..20 {
        s.send(ACK, s.seq(0), s.ack(0), b"");
    }
    let resets = s.all();
    assert_eq!(resets.len(), 5);
    assert_eq!((resets[0].ip.ttl, resets[0].ip.traffic_class), (9, 0x20));
    let mut s = time_wait(stack);
    s.now = s.now + secs(10);
    for _ in 0..20 {
        s.send(ACK, s.seq(0), s.ack(0), b"");
    }
    assert_eq!(s.all().len(), 2);
}

#[test]
fn records_are_bounded_as_set() {
    let stack = StackConfig { max_half_open: 3, max_time_wait: 2, ..StackConfig::default() };
    let mut s = Script::listening_with(&plain(), HostConfig::new([10, 0, 0, 1].into(), 7).with_stack(stack));
    for port in 0..10u16 {
        s.peer.set_port(4000 + port);
        s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
        while s.host.poll_transmit(s.now).is_some() {}
    }
    // The others were answered with cookies.
    assert_eq!(s.host.counts().of(State::SynReceived), 3);
    // TIME-WAIT: the oldest makes room.
    let stack = StackConfig { max_time_wait: 2, ..StackConfig::default() };
    let mut s = time_wait(stack);
    for port in 1..4u16 {
        s.peer.set_port(4000 + port);
        s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
        s.irs = s.next().tcp.seq;
        s.accept();
        s.close();
        s.next();
        s.send(FIN_ACK, s.seq(0), s.ack(1), b"");
        s.all();
    }
    assert_eq!(s.host.counts().of(State::TimeWait), 2);
}

#[test]
fn a_tuple_rests_as_long_as_set() {
    for reuse in [1, 5] {
        let stack = StackConfig { time_wait_reuse: secs(reuse), ..StackConfig::default() };
        let host = HostConfig::new([10, 0, 0, 1].into(), 7).with_stack(stack);
        let config = ConnConfig { timestamps: true, ..plain() };
        let options = Options { timestamps: Some(Timestamps { value: 5, echo: 0 }), ..Options::default() };
        let mut s = Script::closed_with(host);
        let conn = s.host.connect_from(s.now, s.local, s.peer, &config).unwrap();
        s.irs = s.next().tcp.seq;
        s.send_with(SYN_ACK, ISS, s.ack(0), Options { mss: Some(MSS as u16), ..options }, b"");
        s.next();
        s.host.close(s.now, conn);
        s.next();
        s.send_with(FIN_ACK, s.seq(0), s.ack(1), options, b"");
        s.all();
        assert_eq!(s.host.counts().of(State::TimeWait), 1);
        s.now = s.now + secs(reuse) - ms(1);
        assert_eq!(s.host.connect_from(s.now, s.local, s.peer, &config), Err(Errno::EADDRINUSE));
        s.now = s.now + ms(2);
        assert!(s.host.connect_from(s.now, s.local, s.peer, &config).is_ok());
    }
}

#[test]
fn hosts_with_one_seed_are_alike() {
    let syn = |seed| {
        let mut host = Host::new(HostConfig::new([10, 0, 0, 1].into(), seed));
        let now = rawtcp_proto::Instant::from_secs(1);
        host.connect(now, "10.0.0.2:80".parse().unwrap(), &ConnConfig::default()).unwrap();
        host.poll_transmit(now).unwrap()
    };
    assert_eq!(syn(1), syn(1));
    assert_ne!(syn(1), syn(2));
}
