//! §1, opening (behaviours 6–17).

use crate::common::ms;
use crate::script::*;
use rawtcp_proto::seq::WireWindow;
use rawtcp_proto::wire::{Options, TcpHeader, Timestamps};
use rawtcp_proto::{ConnConfig, Duration, Instant, SeqNum, State};
use rawtcp_sim::craft::{Parsed, segment};
use rawtcp_sim::{Errno, Host, HostConfig, LinkConfig, Network, Verdict};
use std::net::SocketAddr;

#[test]
fn syn_carries_each_option_unless_it_is_switched_off() {
    let all = ConnConfig::default();
    for (name, config) in [
        ("all", all.clone()),
        ("no timestamps", ConnConfig { timestamps: false, ..all.clone() }),
        ("no sack", ConnConfig { sack: false, ..all.clone() }),
        ("no scaling", ConnConfig { window_scaling: false, ..all.clone() }),
    ] {
        let mut host = Host::new(HostConfig::new([10, 0, 0, 1].into(), 1));
        let now = Instant::from_secs(5);
        host.connect(now, "10.0.0.2:80".parse().unwrap(), &config).unwrap();
        let syn = Parsed::new(&host.poll_transmit(now).unwrap()).unwrap();
        let o = syn.tcp.options;
        assert_eq!(o.mss, Some(1460), "{name}");
        assert_eq!(o.timestamps.is_some(), config.timestamps, "{name}");
        assert_eq!(o.sack_permitted, config.sack, "{name}");
        assert_eq!(o.window_scale.is_some(), config.window_scaling, "{name}");
        assert_eq!((syn.tcp.flags, o.timestamps.map_or(0, |t| t.echo)), (SYN, 0));
    }
}

#[test]
fn mss_follows_the_mtu_of_the_interface() {
    for (mtu, v6, mss) in [(1280, true, 1220), (1500, false, 1460), (1500, true, 1440), (65_535, false, 65_495)] {
        let address = if v6 { "2001:db8::1" } else { "10.0.0.1" }.parse().unwrap();
        let remote: SocketAddr = if v6 { "[2001:db8::2]:80" } else { "10.0.0.2:80" }.parse().unwrap();
        let mut host = Host::new(HostConfig::new(address, 1).with_mtu(mtu));
        host.connect(Instant::ZERO, remote, &ConnConfig::default()).unwrap();
        let syn = Parsed::new(&host.poll_transmit(Instant::ZERO).unwrap()).unwrap();
        assert_eq!(syn.tcp.options.mss, Some(mss), "MTU {mtu}");
        // A SYN-ACK says the same.
        let local = SocketAddr::new(address, 80);
        host.listen(local, &ConnConfig::default()).unwrap();
        let header = TcpHeader { seq: ISS, flags: SYN, window: WireWindow(1000), ..TcpHeader::default() };
        host.on_packet(Instant::ZERO, &segment(remote, local, &header, b"")).unwrap();
        let answer = Parsed::new(&host.poll_transmit(Instant::ZERO).unwrap()).unwrap();
        assert_eq!((answer.tcp.flags, answer.tcp.options.mss), (SYN_ACK, Some(mss)), "MTU {mtu}");
    }
}

#[test]
fn syn_ack_answers_an_option_only_if_the_syn_had_it() {
    let ts = Some(Timestamps { value: 77, echo: 0 });
    let table = [
        Options::default(),
        Options { mss: Some(1460), ..Options::default() },
        Options { timestamps: ts, ..Options::default() },
        Options { sack_permitted: true, ..Options::default() },
        Options { window_scale: Some(3), ..Options::default() },
        Options { mss: Some(1460), timestamps: ts, sack_permitted: true, window_scale: Some(7), ..Options::default() },
    ];
    for options in table {
        let mut s = Script::listening(&ConnConfig::default());
        s.send_with(SYN, ISS, SeqNum(0), options, b"");
        let o = s.next().tcp.options;
        assert_eq!(o.timestamps.is_some(), options.timestamps.is_some(), "{options:?}");
        assert_eq!(o.sack_permitted, options.sack_permitted, "{options:?}");
        assert_eq!(o.window_scale.is_some(), options.window_scale.is_some(), "{options:?}");
        assert!(o.mss.is_some());
        if let Some(ts) = o.timestamps {
            assert_eq!(ts.echo, 77);
        }
    }
}

#[test]
fn simultaneous_open_answers_timestamps_only_if_the_syn_had_them() {
    for with in [false, true] {
        let mut s = Script::syn_sent(&ConnConfig::default());
        let timestamps = with.then_some(Timestamps { value: 9, echo: 0 });
        s.send_with(SYN, ISS, SeqNum(0), Options { mss: Some(1000), timestamps, ..Options::default() }, b"");
        let answer = s.next();
        assert_eq!((answer.tcp.flags, answer.tcp.ack, answer.tcp.seq), (SYN_ACK, ISS.add(1), s.irs));
        assert_eq!(answer.tcp.options.timestamps.map(|t| t.echo), with.then_some(9));
        assert_eq!(s.state(), State::SynReceived);
        let options = Options { timestamps: with.then_some(Timestamps { value: 10, echo: 0 }), ..Options::default() };
        s.send_with(ACK, s.seq(0), s.ack(0), options, b"");
        assert_eq!(s.state(), State::Established);
    }
}

#[test]
fn syn_is_retransmitted_after_one_second_with_backoff_and_then_times_out() {
    let mut s = Script::syn_sent(&ConnConfig::default());
    let start = s.now;
    for seconds in [1, 2, 4, 8, 16, 32] {
        let (after, syn) = s.next_within(Duration::from_secs(100));
        assert_eq!((after.as_secs(), syn.tcp.flags, syn.tcp.seq), (seconds, SYN, s.irs));
    }
    s.quiet(Duration::from_secs(600));
    assert_eq!(s.host.take_error(s.conn()), Some(Errno::ETIMEDOUT));
    assert_eq!(s.state(), State::Closed);
    assert!(start + Duration::from_secs(127) < s.now);
}

#[test]
fn two_hosts_may_open_towards_each_other() {
    let (mut net, a, b) = Network::pair(1, LinkConfig::default().with_delay(ms(10)));
    let (left, right): (SocketAddr, SocketAddr) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:2000".parse().unwrap());
    let now = net.now();
    let x = net.host_mut(a).connect_from(now, left, right, &ConnConfig::default()).unwrap();
    let y = net.host_mut(b).connect_from(now, right, left, &ConnConfig::default()).unwrap();
    net.run_for(ms(15));
    assert_eq!(net.host(a).state(x), State::SynReceived);
    net.run_for(ms(10));
    assert_eq!((net.host(a).state(x), net.host(b).state(y)), (State::Established, State::Established));
    let now = net.now();
    assert_eq!(net.host_mut(a).write(now, x, b"hello"), Ok(5));
    net.run_for(ms(20));
    let mut buf = [0; 10];
    let now = net.now();
    assert_eq!(net.host_mut(b).read(now, y, &mut buf), Ok(5));
}

#[test]
fn data_in_the_syn_ack_is_kept_and_acknowledged() {
    let mut s = Script::syn_sent(&plain());
    s.send_with(SYN_ACK, ISS, s.ack(0), peer_options(), b"hello");
    assert_eq!(s.state(), State::Established);
    s.expect_ack(5);
    assert_eq!(s.read(), Ok(b"hello".to_vec()));
}

#[test]
fn an_unacceptable_ack_in_syn_sent_is_reset_and_changes_nothing() {
    for off in [0u32, 2] {
        for flags in [SYN_ACK, ACK, FIN_ACK] {
            let mut s = Script::syn_sent(&plain());
            let wrong = s.irs.add(off);
            s.send(flags, ISS, wrong, b"");
            let answer = s.next();
            assert_eq!((answer.tcp.flags.contains(RST), answer.tcp.seq), (true, wrong), "{flags:?}");
            s.none();
            assert_eq!(s.state(), State::SynSent);
            let (after, syn) = s.next_within(Duration::from_secs(5));
            assert_eq!((after.as_millis(), syn.tcp.flags), (1000, SYN), "{flags:?}");
        }
    }
}

#[test]
fn fin_ack_in_syn_sent_is_no_transition() {
    let mut s = Script::syn_sent(&plain());
    s.send(FIN_ACK, ISS, s.ack(0), b"");
    assert_eq!(s.state(), State::SynSent);
}

#[test]
fn rst_in_syn_sent_needs_an_acceptable_ack() {
    let mut s = Script::syn_sent(&plain());
    s.send(RST, ISS, SeqNum(0), b"");
    s.send(RST_ACK, ISS, s.irs, b"");
    s.send(RST_ACK, ISS, s.ack(1), b"");
    s.none();
    assert_eq!(s.state(), State::SynSent);
    s.send(RST_ACK, SeqNum(0), s.ack(0), b"");
    s.none();
    assert_eq!((s.state(), s.read()), (State::Closed, Err(Errno::ECONNREFUSED)));
}

#[test]
fn listen_answers_what_the_rfc_says_and_goes_on() {
    let mut s = Script::listening(&plain());
    s.send(ACK, SeqNum(5), SeqNum(1234), b"");
    let answer = s.next();
    assert_eq!((answer.tcp.flags, answer.tcp.seq), (RST, SeqNum(1234)));
    for flags in [FIN, RST_ACK, RST] {
        s.send(flags, SeqNum(5), SeqNum(1234), b"");
        s.none();
    }
    s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
    let answer = s.next();
    s.irs = answer.tcp.seq;
    s.send(ACK, s.seq(0), s.ack(0), b"");
    s.none();
    assert!(s.host.accept(s.listener.unwrap()).is_ok());
}

#[test]
fn closed_resets_everything_but_resets() {
    let mut s = Script::closed();
    for flags in [ACK, FIN_ACK] {
        s.send(flags, SeqNum(5), SeqNum(1234), b"");
        let answer = s.next();
        assert_eq!((answer.tcp.flags, answer.tcp.seq), (RST, SeqNum(1234)), "{flags:?}");
    }
    for (flags, data, len) in [(SYN, &b""[..], 1), (SYN, b"abc", 4), (SYN.with(FIN), b"", 2)] {
        s.send(flags, SeqNum(5), SeqNum(0), data);
        let answer = s.next();
        assert_eq!((answer.tcp.flags, answer.tcp.seq, answer.tcp.ack), (RST_ACK, SeqNum(0), SeqNum(5 + len)));
    }
    for flags in [RST, RST_ACK] {
        s.send(flags, SeqNum(5), SeqNum(1234), b"");
        s.none();
    }
}

#[test]
fn a_full_backlog_drops_without_harm_to_others() {
    let mut s = Script::closed();
    let listener = s.host.listen_with_backlog(s.local, &plain(), 2).unwrap();
    let mut made = Vec::new();
    for port in 1..=6 {
        s.peer.set_port(4000 + port);
        s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
        if let Some(answer) = s.poll() {
            s.irs = answer.tcp.seq;
            s.send(ACK, s.seq(0), s.ack(0), b"");
            s.none();
            made.push(port);
        }
    }
    // As on Linux one more than the backlog says.
    assert_eq!(made, [1, 2, 3]);
    for _ in 0..3 {
        let conn = s.host.accept(listener).unwrap();
        assert_eq!(s.host.state(conn), State::Established);
    }
    assert_eq!(s.host.accept(listener), Err(Errno::EAGAIN));
}

/// As on Linux without Fast Open: the text of a SYN is not kept, and not acknowledged, so that it comes again.
#[test]
fn text_in_a_syn_is_taken_when_it_comes_again() {
    for flags in [SYN, SYN | FIN] {
        let mut s = Script::listening(&plain());
        s.send_with(flags, ISS, SeqNum(0), peer_options(), b"early");
        let answer = s.next();
        assert_eq!((answer.tcp.flags, answer.tcp.ack), (SYN_ACK, ISS.add(1)));
        s.irs = answer.tcp.seq;
        s.accept();
        assert_eq!(s.read(), Err(Errno::EAGAIN));
        s.data(0, b"early");
        s.all();
        assert_eq!(s.read().unwrap(), b"early");
    }
}

#[test]
fn after_the_listener_is_closed_its_half_open_connections_are_reset() {
    let mut s = Script::syn_received(&plain(), peer_options());
    s.host.close_listener(s.now, s.listener.unwrap());
    // At once: the ACK of our SYN-ACK may be on its way, and its sender believes in a connection.
    let reset = s.next();
    assert_eq!((reset.tcp.flags, reset.tcp.seq, reset.tcp.ack), (RST_ACK, s.ack(0), s.seq(0)));
    s.send(ACK, s.seq(0), s.ack(0), b"");
    let answer = s.next();
    assert_eq!((answer.tcp.flags, answer.tcp.seq), (RST, s.ack(0)));
}

#[test]
fn a_syn_flood_below_the_backlog_leaves_honest_connects_working() {
    let (mut net, a, b) = Network::pair(3, LinkConfig::default().with_delay(ms(5)));
    let addr: SocketAddr = "10.0.0.2:80".parse().unwrap();
    let listener = net.host_mut(b).listen_with_backlog(addr, &ConnConfig::default(), 4096).unwrap();
    for n in 0..4000u32 {
        let from = SocketAddr::from(([172, 16, (n >> 8) as u8, n as u8], 1000));
        let header = TcpHeader {
            seq: SeqNum(n),
            flags: SYN,
            window: WireWindow(1000),
            options: peer_options(),
            ..Default::default()
        };
        net.inject(b, segment(from, addr, &header, b""));
    }
    net.run_for(ms(1));
    let honest: Vec<_> = (0..10).map(|_| net.connect(a, addr, &ConnConfig::default()).unwrap()).collect();
    net.run_for(Duration::from_secs(4));
    let made = honest.iter().filter(|&&c| net.state(c) == State::Established).count();
    let accepted = std::iter::from_fn(|| net.host_mut(b).accept(listener).ok()).count();
    assert_eq!((made, accepted), (10, 10), "{:?}", net.host(b).counters());
}

#[test]
fn data_written_in_syn_sent_waits_for_the_handshake() {
    let mut s = Script::syn_sent(&plain());
    assert_eq!(s.write(b"early"), Ok(5));
    assert_eq!(s.read(), Err(Errno::EAGAIN));
    s.none();
    s.send_with(SYN_ACK, ISS, s.ack(0), peer_options(), b"");
    let sent = s.all();
    assert_eq!(sent.last().unwrap().payload, "early");
    let mut s = Script::syn_sent(&plain());
    assert_eq!(s.write(b"early"), Ok(5));
    s.send(RST_ACK, SeqNum(0), s.ack(0), b"");
    assert_eq!(s.write(b"more"), Err(Errno::ECONNREFUSED));
}

#[test]
fn a_duplicate_syn_is_answered_with_the_same_syn_ack() {
    let mut s = Script::syn_received(&plain(), peer_options());
    s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
    let again = s.next();
    assert_eq!(again.tcp.ack, s.seq(0));
    assert!(again.tcp.flags == SYN_ACK && again.tcp.seq == s.irs || again.tcp.flags == ACK);
    s.send(ACK, s.seq(0), s.ack(0), b"");
    assert!(s.host.accept(s.listener.unwrap()).is_ok());
}

#[test]
fn a_lost_handshake_ack_costs_nothing_when_data_follows() {
    let (mut net, a, b) = Network::pair(3, LinkConfig::default().with_delay(ms(5)));
    let listening = net.listen(b, "10.0.0.2:80".parse().unwrap(), &ConnConfig::default()).unwrap();
    let there = net.between(a, b);
    let mut n = 0;
    net.filter(there, move |_, _| {
        n += 1;
        if n == 2 { Verdict::Drop } else { Verdict::Pass }
    });
    let c = net.connect(a, listening.addr, &ConnConfig::default()).unwrap();
    net.run_for(ms(20));
    net.write(c, b"hello").unwrap();
    net.run_for(ms(10));
    let peer = net.accept(listening).unwrap();
    let mut got = Vec::new();
    net.read_all(peer, &mut got).unwrap();
    assert_eq!(got, b"hello");
}

#[test]
fn the_window_of_a_syn_ack_is_unscaled() {
    let config = ConnConfig { recv_buffer: 65_700, window_scale: Some(2), ..ConnConfig::default() };
    let mut s = Script::listening(&config);
    s.send_with(SYN, ISS, SeqNum(0), Options { window_scale: Some(0), ..peer_options() }, b"");
    assert_eq!(s.next().tcp.window.0, 65_535);
}

/// 65,535 while the handshake lasts, as no SYN's window is scaled, and 65,700 = 45 · 1460 behind it.
#[test]
fn exact_windows_can_be_had() {
    let config = ConnConfig { recv_buffer: 65_700, window_scale: Some(2), ..ConnConfig::default() };
    let options = Options { window_scale: Some(0), ..peer_options() };
    let mut s = Script::listening(&config);
    s.send_with(SYN, ISS, SeqNum(0), options, b"");
    assert_eq!(s.next().tcp.window.0, 65_535);
    let mut s = Script::syn_sent(&config);
    s.send_with(SYN_ACK, ISS, s.ack(0), options, b"");
    assert_eq!(u32::from(s.next().tcp.window.0) << 2, 65_700);
}
#[test]
fn a_syn_flood_leaves_honest_connects_working() {
    let (mut net, a, b) = Network::pair(3, LinkConfig::default().with_delay(ms(5)));
    let addr: SocketAddr = "10.0.0.2:80".parse().unwrap();
    let listening = net.listen(b, addr, &ConnConfig::default()).unwrap();
    for n in 0..4000u32 {
        let from = SocketAddr::from(([172, 16, (n >> 8) as u8, n as u8], 1000));
        let header = TcpHeader {
            seq: SeqNum(n),
            flags: SYN,
            window: WireWindow(1000),
            options: peer_options(),
            ..Default::default()
        };
        net.inject(b, segment(from, addr, &header, b""));
    }
    net.run_for(ms(1));
    let honest: Vec<_> = (0..10).map(|_| net.connect(a, addr, &ConnConfig::default()).unwrap()).collect();
    net.run_for(Duration::from_secs(4));
    let made = honest.iter().filter(|&&c| net.state(c) == State::Established).count();
    let accepted = std::iter::from_fn(|| net.accept(listening).ok()).count();
    assert_eq!((made, accepted), (10, 10), "{:?}", net.host(b).counters());
}

/// The windows of both ends, in segments, after all SYNs, or SYN-ACKs, were lost for so long.
fn windows_after_lost_syns(lost: Duration, syn_acks: bool) -> [u64; 2] {
    let (mut net, a, b) = Network::pair(1, LinkConfig::default().with_delay(ms(10)));
    let link = if syn_acks { net.between(b, a) } else { net.between(a, b) };
    let until = net.now() + lost;
    net.filter(link, move |now, _| if now < until { Verdict::Drop } else { Verdict::Pass });
    let listening = net.listen(b, "10.0.0.2:80".parse().unwrap(), &ConnConfig::default()).unwrap();
    let from = net.connect(a, "10.0.0.2:80".parse().unwrap(), &ConnConfig::default()).unwrap();
    net.run_for(Duration::from_secs(20));
    let to = net.accept(listening).unwrap();
    [from, to].map(|socket| net.info(socket).snd_cwnd / 1448)
}

#[test]
fn more_than_one_lost_syn_leaves_one_segment_of_the_initial_window() {
    // They leave at 0, 1 and 3 s.
    assert_eq!(windows_after_lost_syns(ms(500), false), [10, 10]);
    assert_eq!(windows_after_lost_syns(ms(1500), false), [1, 10], "the listener saw one SYN only");
    assert_eq!(windows_after_lost_syns(ms(500), true), [10, 10]);
    assert_eq!(windows_after_lost_syns(ms(1500), true), [1, 1]);
}
