//! ICMP errors and the path MTU (behaviours 32, 51–54).

use crate::common::{ms, transfer};
use crate::script::*;
use bytes::Bytes;
use rawtcp_proto::{ConnConfig, Duration, State};
use rawtcp_sim::craft::{icmp_error, too_big};
use rawtcp_sim::{Errno, LinkConfig, Network};
use std::net::IpAddr;

const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 9, 9));

/// The packet of the host's byte `n`, as a router would quote it.
fn quoted(s: &Script, n: u32, len: usize) -> Bytes {
    use rawtcp_proto::wire::TcpHeader;
    let header = TcpHeader { seq: s.ack(n), ack: s.seq(0), flags: ACK, ..TcpHeader::default() };
    rawtcp_sim::craft::segment(s.local, s.peer, &header, &text(len))
}

#[test]
fn too_big_in_flight_lowers_the_segment_size_and_retransmits_at_once() {
    let mut s = Script::accepted_with(&plain(), rawtcp_proto::wire::Options { mss: Some(1460), ..peer_options() });
    s.write(&text(2920)).unwrap();
    assert_eq!(s.all().iter().map(|p| p.payload.len()).collect::<Vec<_>>(), [1460, 1460]);
    let message = too_big(ROUTER, &quoted(&s, 0, 1460), 1000).unwrap();
    s.host.on_packet(s.now, &message).unwrap();
    let again = s.all();
    assert!(again.iter().all(|p| p.payload.len() <= 960), "{:?}", again[0].payload.len());
    assert_eq!(again[0].tcp.seq, s.ack(0));
    assert_eq!(s.host.info(s.conn()).unwrap().snd_mss, 960);
}

#[test]
fn too_big_about_nothing_in_flight_is_ignored() {
    let mut s = Script::accepted(&plain());
    s.write(&text(1000)).unwrap();
    s.all();
    for n in [1000, 50_000, 0u32.wrapping_sub(1)] {
        let message = too_big(ROUTER, &quoted(&s, n, 1000), 600).unwrap();
        assert!(s.host.on_packet(s.now, &message).is_err());
        s.none();
    }
    assert_eq!(s.host.info(s.conn()).unwrap().snd_mss, 1000);
}

#[test]
fn a_transfer_finds_a_narrow_path_by_itself_over_v4_and_v6() {
    for (v6, router) in [(false, "10.9.9.9"), (true, "2001:db8::99")] {
        let link = LinkConfig::default().with_delay(ms(5));
        let (mut net, a, b) = Network::pair(1, link);
        let there = net.between(a, b);
        net.set_link(there, link.with_mtu(1300));
        net.set_router(there, Some(router.parse().unwrap()));
        let addr = if v6 { "[2001:db8::2]:80" } else { "10.0.0.2:80" }.parse().unwrap();
        let listening = net.listen(b, addr, &ConnConfig::default()).unwrap();
        let x = net.connect(a, addr, &ConnConfig::default()).unwrap();
        net.run_for(ms(20));
        let y = net.accept(listening).unwrap();
        let time = transfer(&mut net, x, y, 500_000).time;
        assert_eq!((net.info(x).pmtu, net.info(x).timeouts), (1300, 0));
        assert!(time < ms(500), "{time:?}");
    }
}

#[test]
fn errors_fail_an_attempt_and_only_one_that_quotes_its_syn() {
    let table = [
        (3, 0, Errno::ENETUNREACH),
        (3, 1, Errno::EHOSTUNREACH),
        (3, 2, Errno::ENOPROTOOPT),
        (3, 3, Errno::ECONNREFUSED),
        (11, 0, Errno::EHOSTUNREACH),
    ];
    for (kind, code, errno) in table {
        let mut s = Script::syn_sent(&plain());
        let forged = icmp_error(ROUTER, &quoted(&s, 5000, 0), kind, code, 0).unwrap();
        assert!(s.host.on_packet(s.now, &forged).is_err());
        assert_eq!(s.state(), State::SynSent);
        let genuine = icmp_error(ROUTER, &quoted(&s, 0u32.wrapping_sub(1), 0), kind, code, 0).unwrap();
        s.host.on_packet(s.now, &genuine).unwrap();
        s.none();
        let conn = s.conn();
        assert_eq!((s.state(), s.host.take_error(conn)), (State::Closed, Some(errno)), "{kind}/{code}");
    }
}

/// The letter of RFC 1122: the soft ones do not fail an attempt; they are what it failed of when it times out.
#[test]
fn soft_errors_do_not_fail_an_attempt_if_so_set() {
    let config = ConnConfig { icmp_fails_connect: false, syn_retries: 1, ..plain() };
    for (kind, code, fails, errno) in [
        (3, 0, false, Errno::ENETUNREACH),
        (3, 1, false, Errno::EHOSTUNREACH),
        (3, 5, false, Errno::EHOSTUNREACH),
        (11, 0, false, Errno::EHOSTUNREACH),
        (3, 2, true, Errno::ENOPROTOOPT),
        (3, 3, true, Errno::ECONNREFUSED),
        (3, 10, true, Errno::EHOSTUNREACH),
    ] {
        let mut s = Script::syn_sent(&config);
        let message = icmp_error(ROUTER, &quoted(&s, 0u32.wrapping_sub(1), 0), kind, code, 0).unwrap();
        s.host.on_packet(s.now, &message).unwrap();
        let conn = s.conn();
        if !fails {
            assert_eq!(s.state(), State::SynSent, "{kind}/{code}");
            // The SYN again after a second, and after two more it is over.
            s.next_within(Duration::from_secs(1));
            s.quiet(Duration::from_secs(2));
        }
        assert_eq!((s.state(), s.host.take_error(conn)), (State::Closed, Some(errno)), "{kind}/{code}");
    }
}

#[test]
fn errors_never_abort_a_synchronized_connection() {
    for (kind, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 9), (3, 13), (11, 0), (12, 0)] {
        let mut s = Script::accepted(&plain());
        s.write(&text(100)).unwrap();
        s.all();
        let message = icmp_error(ROUTER, &quoted(&s, 0, 100), kind, code, 0).unwrap();
        s.host.on_packet(s.now, &message).unwrap();
        s.none();
        assert_eq!(s.state(), State::Established);
        let conn = s.conn();
        assert!(s.host.take_error(conn).is_some(), "{kind}/{code} is a soft error");
        s.acks(100);
        assert_eq!(s.host.info(s.conn()).unwrap().unacked, 0);
    }
    // Source quench.
    let mut s = Script::accepted(&plain());
    s.write(&text(100)).unwrap();
    s.all();
    let message = icmp_error(ROUTER, &quoted(&s, 0, 100), 4, 0, 0).unwrap();
    assert!(s.host.on_packet(s.now, &message).is_err());
    let conn = s.conn();
    assert_eq!(s.host.take_error(conn), None);
}

#[test]
fn what_is_not_one_hosts_address_is_dropped_and_not_connected_to() {
    for peer in ["255.255.255.255:9", "224.0.0.1:9", "0.0.0.0:9"] {
        let mut s = Script::listening(&plain());
        s.peer = peer.parse().unwrap();
        s.send_with(SYN, ISS, rawtcp_proto::SeqNum(0), peer_options(), b"");
        assert!(s.host.poll_transmit(s.now).is_none(), "{peer}");
        assert_eq!(s.host.counts().open(), 0);
    }
    let mut s = Script::closed();
    for to in ["255.255.255.255:9", "224.0.0.1:9"] {
        assert_eq!(s.host.connect(s.now, to.parse().unwrap(), &plain()), Err(Errno::ENETUNREACH));
    }
}

#[test]
fn hop_limit_and_class_are_seen_on_the_wire() {
    let mut s = Script::accepted(&ConnConfig { ttl: 33, traffic_class: 0x48, ..plain() });
    s.write(b"a").unwrap();
    let sent = s.next();
    assert_eq!((sent.ip.ttl, sent.ip.traffic_class & !3), (33, 0x48));
    let conn = s.conn();
    s.host.set_ttl(conn, 7).unwrap();
    s.host.set_traffic_class(conn, 0x20).unwrap();
    s.write(b"b").unwrap();
    let sent = s.next();
    assert_eq!((sent.ip.ttl, sent.ip.traffic_class & !3), (7, 0x20));
    s.quiet(Duration::ZERO);
}
