//! Paths that swallow large packets without a word, and paths that change (RFC 4821, 8899, 1191, 8201).

use crate::common::{byte, ms, transfer};
use crate::script::*;
use bytes::Bytes;
use rawtcp_proto::wire::Options;
use rawtcp_proto::{ConnConfig, Duration, MtuProbing};
use rawtcp_sim::craft::{Parsed, too_big};
use rawtcp_sim::{LinkConfig, LinkId, Network, Socket, Verdict};
use std::cell::RefCell;
use std::rc::Rc;

const V4: &str = "10.0.0.2:80";
const V6: &str = "[2001:db8::2]:80";

fn link() -> LinkConfig {
    LinkConfig::default().with_delay(ms(10))
}

/// A connection, its peer, and the link from one to the other.
fn connected(addr: &str, config: &ConnConfig) -> (Network, Socket, Socket, LinkId) {
    let (mut net, a, b) = Network::pair(1, link());
    let addr = addr.parse().unwrap();
    let listening = net.listen(b, addr, &ConnConfig::default()).unwrap();
    let x = net.connect(a, addr, config).unwrap();
    net.run_for(ms(50));
    let y = net.accept(listening).unwrap();
    let there = net.between(a, b);
    (net, x, y, there)
}

/// The lengths of the IP packets with data that go into a link.
fn lengths(net: &mut Network, link: LinkId) -> Rc<RefCell<Vec<usize>>> {
    let seen: Rc<RefCell<Vec<usize>>> = Rc::default();
    let lengths = seen.clone();
    net.filter(link, move |_, packet: &Bytes| {
        if Parsed::new(packet).is_ok_and(|p| !p.payload.is_empty()) {
            lengths.borrow_mut().push(packet.len());
        }
        Verdict::Pass
    });
    seen
}

#[test]
fn a_black_hole_is_found_within_seconds_and_what_passes_by_probing() {
    for (addr, mtu, config) in [
        (V4, 1280, ConnConfig::default()),
        (V6, 1280, ConnConfig::default()),
        (V4, 1400, ConnConfig { timestamps: false, ..ConnConfig::default() }),
        (V6, 1400, ConnConfig { sack: false, ..ConnConfig::default() }),
        // Below what is tried first.
        (V4, 700, ConnConfig::default()),
    ] {
        let (mut net, x, y, there) = connected(addr, &config);
        // Nobody reports what is too large.
        net.set_link(there, link().with_mtu(mtu));
        let start = net.now();
        let data: Vec<u8> = (0..100_000).map(byte).collect();
        assert_eq!(net.write(x, &data), Ok(data.len()));
        let mut got = Vec::new();
        assert!(net.run_until(|net| {
            net.read_all(y, &mut got).unwrap();
            !got.is_empty()
        }));
        let first = net.now().since(start);
        assert!(first < Duration::from_secs(10), "{addr} {mtu}: {first:?}");
        assert!(net.run_until(|net| {
            net.read_all(y, &mut got).unwrap();
            got.len() == data.len()
        }));
        assert!(got == data);
        // And it goes on at full speed, with segments that are nearly as large as they may be.
        let time = transfer(&mut net, x, y, 3_000_000).time;
        let info = net.info(x);
        if config.sack {
            assert!((mtu as u32 - 8..=mtu as u32).contains(&info.pmtu), "{addr} {mtu}: {}", info.pmtu);
        }
        assert!(time < Duration::from_secs(3), "{addr} {mtu}: {time:?}");
        let before = net.link(there).stats().too_big;
        transfer(&mut net, x, y, 1_000_000);
        assert_eq!(net.link(there).stats().too_big, before, "the search has an end");
    }
}

#[test]
fn a_silence_of_everything_costs_the_segment_size_only_for_a_while() {
    let (mut net, x, y, there) = connected(V4, &ConnConfig::default());
    transfer(&mut net, x, y, 100_000);
    net.filter(there, |_, _| Verdict::Drop);
    net.write(x, &[0; 50_000]).unwrap();
    net.run_for(Duration::from_secs(4));
    net.unfilter(there);
    assert_eq!(net.info(x).pmtu, 1064, "three timeouts were a suspicion");
    let mut read = 0;
    assert!(net.run_until(|net| {
        read += net.read(y, &mut [0; 65_536]).unwrap_or(0);
        read == 50_000
    }));
    transfer(&mut net, x, y, 1_000_000);
    assert!(net.info(x).pmtu > 1492, "{}", net.info(x).pmtu);
}

#[test]
fn timeouts_of_small_segments_raise_no_suspicion() {
    let (mut net, x, _, there) = connected(V4, &ConnConfig::default());
    net.filter(there, |_, _| Verdict::Drop);
    net.write(x, &[0; 400]).unwrap();
    net.run_for(Duration::from_secs(20));
    assert!(net.info(x).timeouts >= 5);
    assert_eq!(net.info(x).pmtu, 1500);
}

#[test]
fn without_probing_a_black_hole_stays_one() {
    let (mut net, x, y, there) = connected(V4, &ConnConfig { mtu_probing: MtuProbing::Off, ..ConnConfig::default() });
    net.set_link(there, link().with_mtu(1280));
    net.write(x, &[0; 50_000]).unwrap();
    net.run_for(Duration::from_secs(60));
    assert!(net.read(y, &mut [0; 1]).is_err());
    assert_eq!(net.info(x).pmtu, 1500);
}

#[test]
fn a_path_that_became_wider_is_used_after_ten_minutes() {
    for (addr, router) in [(V4, "10.9.9.9"), (V6, "2001:db8::99")] {
        for wider in [false, true] {
            let (mut net, x, y, there) = connected(addr, &ConnConfig::default());
            net.set_router(there, Some(router.parse().unwrap()));
            net.set_link(there, link().with_mtu(1300));
            transfer(&mut net, x, y, 100_000);
            assert_eq!((net.info(x).pmtu, net.info(x).timeouts), (1300, 0));
            if wider {
                net.set_link(there, link());
            } else {
                net.set_router(there, None);
            }
            net.run_for(Duration::from_secs(590));
            transfer(&mut net, x, y, 100_000);
            assert_eq!(net.info(x).pmtu, 1300, "not before");
            net.run_for(Duration::from_secs(10));
            let (before, dropped) = (net.info(x), net.link(there).stats().too_big);
            transfer(&mut net, x, y, 2_000_000);
            let after = net.info(x);
            let expected = if wider { 1500 } else { 1300 };
            assert!((expected..expected + 8).contains(&after.pmtu), "{addr} {wider}: {}", after.pmtu);
            assert_eq!((after.timeouts, after.snd_ssthresh), (0, before.snd_ssthresh), "a lost probe is no congestion");
            let probes = net.link(there).stats().too_big - dropped;
            assert!(if wider { probes == 0 } else { (1..40).contains(&probes) }, "{probes}");
        }
    }
}

#[test]
fn without_probing_the_larger_size_is_just_used_again() {
    let config = ConnConfig {
        mtu_probing: MtuProbing::Off,
        mtu_probe_interval: Duration::from_secs(30),
        ..ConnConfig::default()
    };
    let (mut net, x, y, there) = connected(V4, &config);
    net.set_router(there, Some("10.9.9.9".parse().unwrap()));
    net.set_link(there, link().with_mtu(1300));
    transfer(&mut net, x, y, 100_000);
    assert_eq!(net.info(x).pmtu, 1300);
    net.set_link(there, link().with_mtu(1400));
    net.run_for(Duration::from_secs(31));
    transfer(&mut net, x, y, 100_000);
    assert_eq!((net.info(x).pmtu, net.info(x).timeouts), (1400, 0));
}

#[test]
fn searching_from_the_start_begins_small_and_ends_large() {
    for (addr, base) in [(V4, 1064), (V6, 1280)] {
        let (mut net, x, y, there) =
            connected(addr, &ConnConfig { mtu_probing: MtuProbing::Always, ..ConnConfig::default() });
        assert_eq!(net.info(x).pmtu, base);
        let seen = lengths(&mut net, there);
        transfer(&mut net, x, y, 500_000);
        assert_eq!((net.info(x).pmtu, net.info(x).total_retrans), (1500, 0));
        let seen = seen.borrow();
        // The first is a probe at once: there is enough to send.
        assert_eq!((seen[0], seen[1], *seen.iter().max().unwrap()), (1500, base as usize, 1500));
    }
}

#[test]
fn the_device_refuses_a_probe_and_nothing_else_changes() {
    // What a raw socket says when the interface's MTU is smaller than it was.
    let (mut net, x, y, _) = connected(V4, &ConnConfig { mtu_probing: MtuProbing::Always, ..ConnConfig::default() });
    let limit = Rc::new(RefCell::new(0));
    let there = net.between(x.host, y.host);
    let noted = limit.clone();
    net.filter(there, move |_, packet: &Bytes| match packet.len() {
        1201.. => {
            *noted.borrow_mut() += 1;
            Verdict::Drop
        }
        _ => Verdict::Pass,
    });
    let mut told = 0;
    let data = [7; 60_000];
    let (mut written, mut read) = (0, 0);
    assert!(net.run_until(|net| {
        while written < 3_000_000 {
            let Ok(n) = net.write(x, &data) else { break };
            written += n;
        }
        if *limit.borrow() > told {
            told = *limit.borrow();
            let now = net.now();
            net.with(x, |conn| conn.on_path_mtu(now, 0)).unwrap();
        }
        while let Ok(n) = net.read(y, &mut [0; 100_000]) {
            read += n;
        }
        read == written && written >= 3_000_000
    }));
    let info = net.info(x);
    assert!((1192..=1200).contains(&info.pmtu), "{}", info.pmtu);
    assert_eq!((info.timeouts, info.snd_ssthresh), (0, u64::MAX));
}

#[test]
fn a_forged_message_is_undone_in_time() {
    let mut s = Script::accepted_with(
        &ConnConfig { mtu_probe_interval: Duration::from_secs(30), ..plain() },
        Options { mss: Some(1460), ..peer_options() },
    );
    s.write(&text(1460)).unwrap();
    let sent = s.next();
    let quoted = rawtcp_sim::craft::segment(s.local, s.peer, &sent.tcp, &sent.payload);
    // An attacker who sees the connection: 5927 can not help, ten minutes can.
    s.host.on_packet(s.now, &too_big("10.9.9.9".parse().unwrap(), &quoted, 600).unwrap()).unwrap();
    assert_eq!(s.host.info(s.conn()).unwrap().pmtu, 600);
    let mut acked = 0;
    for _ in 0..400 {
        let _ = s.write(&text(20_000));
        let sent = s.all();
        s.now = s.now + ms(100);
        for p in sent {
            acked = acked.max(p.tcp.seq.distance(s.ack(0)) as u32 + p.payload.len() as u32);
        }
        s.acks(acked);
    }
    assert_eq!(s.host.info(s.conn()).unwrap().pmtu, 1500);
}
