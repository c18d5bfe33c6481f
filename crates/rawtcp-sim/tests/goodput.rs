//! Goodput in virtual time: the grid of round-trip time, loss and rate per controller, compared exactly
//! with a committed snapshot, and single targets.
//!
//! After a change that is meant to change the figures: `RAWTCP_UPDATE_SNAPSHOTS=1 cargo test -p
//! rawtcp-sim --test goodput`, and look at the difference before committing it.

#![allow(unreachable_pub)]

mod common;

use common::{Transfer, fast_pair, large, ms, transfer};
use rawtcp_proto::cc::Algorithm;
use rawtcp_proto::{ConnConfig, Duration, TcpInfo};
use rawtcp_sim::{LinkConfig, LinkStats, Loss, Network, Queue, Socket, Verdict};
use std::fmt::Write;
use std::path::Path;

const RTTS: [u64; 5] = [1, 20, 66, 100, 300];
const LOSSES: [f64; 4] = [0.0, 0.001, 0.01, 0.03];
const RATES: [u64; 3] = [10, 100, 1000];

/// Bytes of one transfer.
const BYTES: u64 = 6_000_000;

/// A queue of one bandwidth-delay product, but at least of 64 KB: a millisecond's is two packets.
fn bdp(rate: u64, rtt: Duration) -> usize {
    ((rate as f64 / 8.0 * rtt.as_secs_f64()) as usize).max(65_536)
}

fn cell(algorithm: Algorithm, rtt: u64, loss: f64, rate: u64) -> Transfer {
    let (rate, rtt) = (rate * 1_000_000, ms(rtt));
    let link = LinkConfig::default().with_rate(rate).with_delay(rtt / 2).with_queue(Queue::Bytes(bdp(rate, rtt)));
    let (mut net, a, b) = fast_pair(17, link.with_loss(Loss::Uniform(loss)), link);
    let config = ConnConfig { congestion: algorithm.into(), ..large() };
    let (from, to) = net.connected(a, b, &config);
    transfer(&mut net, from, to, BYTES)
}

fn grid(algorithm: Algorithm) -> String {
    let mut out = format!(
        "Goodput of {algorithm} in Mbit/s: {} MB, one flow, a queue of one BDP, loss on the way of the data.\n",
        BYTES / 1_000_000
    );
    for rate in RATES {
        let _ = write!(out, "\n{rate:>4} Mbit/s |");
        LOSSES.iter().for_each(|loss| write!(out, "{:>9.1} %", loss * 100.0).unwrap_or_default());
        out.push('\n');
        for rtt in RTTS {
            let _ = write!(out, "{rtt:>8} ms |");
            for loss in LOSSES {
                let _ = write!(out, "{:>11.2}", cell(algorithm, rtt, loss, rate).goodput / 1e6);
            }
            out.push('\n');
        }
    }
    out
}

/// Compares with the committed snapshot of this name, or writes it anew.
fn compare(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("RAWTCP_UPDATE_SNAPSHOTS").is_some() {
        return std::fs::write(&path, found).expect("the snapshot can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{} differs; RAWTCP_UPDATE_SNAPSHOTS=1 writes it anew.\nexpected:\n{expected}\nfound:\n{found}",
        path.display()
    );
}

#[test]
fn the_grid_is_as_committed() {
    for &algorithm in Algorithm::ALL {
        compare(&format!("goodput-{algorithm}.txt"), &grid(algorithm));
    }
}

/// One flow over a queue of `queue` bandwidth-delay products without loss: its share of the link, and what happened.
fn fill(config: ConnConfig, rate: u64, rtt: u64, queue: f64, bytes: u64) -> (f64, TcpInfo, LinkStats) {
    let (bits, delay) = (rate * 1_000_000, ms(rtt));
    let waiting = (bdp(bits, delay) as f64 * queue) as usize;
    let link = LinkConfig::default().with_rate(bits).with_delay(delay / 2).with_queue(Queue::Bytes(waiting));
    let (mut net, a, b) = fast_pair(3, link, link);
    let (from, to) = net.connected(a, b, &config);
    let share = transfer(&mut net, from, to, bytes).goodput / bits as f64;
    (share, net.info(from), net.link(net.between(a, b)).stats())
}

/// Slow start overshoots, and hundreds of segments of one window are lost at once.
#[test]
fn a_queue_of_one_bdp_without_loss_is_filled_to_nine_tenths() {
    // (Mbit/s, ms, seconds of the link): slow start is a part of them, and takes a second and more with the last ones.
    let mut paths = vec![(10, 20, 5), (10, 66, 10), (10, 100, 10), (100, 20, 3), (100, 66, 7), (100, 100, 10)];
    paths.extend([(200, 100, 10), (1000, 20, 3)]);
    if std::env::var_os("RAWTCP_LONG").is_some() {
        paths.extend([(1000, 66, 15), (1000, 100, 20)]);
    }
    for &algorithm in Algorithm::ALL {
        for &(rate, rtt, seconds) in &paths {
            let config = ConnConfig { congestion: algorithm.into(), ..large() };
            // BBR drains the queue that slow start left, and again for each look at the empty path.
            let seconds = if algorithm == Algorithm::Bbr { 2 * seconds } else { seconds };
            let (share, info, stats) = fill(config, rate, rtt, 1.0, rate * 1_000_000 / 8 * seconds);
            println!(
                "{algorithm} {rate} Mbit/s {rtt} ms: {share:.3}, {} dropped, {} again",
                stats.queue_drops, info.total_retrans
            );
            assert!(share >= 0.9, "{algorithm}, {rate} Mbit/s, {rtt} ms: {share:.3} of the link; {info:?}");
            assert_eq!((info.total_retrans, info.timeouts), (stats.queue_drops, 0), "what was lost and nothing else");
        }
    }
}

#[test]
fn pacing_fills_a_queue_of_a_tenth_of_the_bdp() {
    for algorithm in [Algorithm::Cubic, Algorithm::Reno] {
        let [paced, at_once] = [true, false].map(|pacing| {
            let config = ConnConfig { congestion: algorithm.into(), pacing, ..large() };
            fill(config, 100, 100, 0.1, 60_000_000).0
        });
        println!("{algorithm}: {paced:.3} of the link paced, {at_once:.3} not");
        assert!(paced > 0.65 && paced > 1.3 * at_once, "{algorithm}: {paced:.3} {at_once:.3}");
    }
}

#[test]
fn reordering_without_loss_makes_few_spurious_retransmissions() {
    for &algorithm in Algorithm::ALL {
        // The window keeps below what the queue holds.
        let link = LinkConfig::default().with_rate(100_000_000).with_delay(ms(10)).with_queue(Queue::Bytes(1 << 21));
        let (mut net, a, b) = fast_pair(5, link.with_reorder(0.03, ms(5)), link);
        let config = ConnConfig {
            congestion: algorithm.into(),
            recv_buffer: 1 << 20,
            recv_buffer_max: 1 << 20,
            ..ConnConfig::default()
        };
        let (from, to) = net.connected(a, b, &config);
        let sent = transfer(&mut net, from, to, 20_000_000);
        let (info, link) = (net.info(from), net.link(net.between(a, b)).stats());
        let mbits = sent.goodput / 1e6;
        println!("{algorithm}: {} sent again, {} reordered, {mbits:.1} Mbit/s", info.total_retrans, link.reordered);
        // Nothing is ever lost here: every retransmission is spurious.
        assert_eq!((link.lost, link.queue_drops), (0, 0));
        assert!(info.total_retrans * 10 < link.reordered, "{} sent again; {info:?}", info.total_retrans);
        assert!(mbits > 80.0, "{mbits} Mbit/s; {info:?}");
    }
}

/// A retransmission is spurious if its original arrived; the peer says so of each (RFC 2883).
#[test]
fn of_the_retransmissions_where_packets_are_lost_and_reordered_few_are_spurious() {
    for &algorithm in Algorithm::ALL {
        let (rate, rtt) = (50_000_000, ms(40));
        let link = LinkConfig::default().with_rate(rate).with_delay(rtt / 2).with_queue(Queue::Bytes(bdp(rate, rtt)));
        let lossy = link.with_reorder(0.03, ms(5)).with_loss(Loss::Uniform(0.002));
        let (mut net, a, b) = fast_pair(5, lossy, link);
        let (from, to) = net.connected(a, b, &ConnConfig { congestion: algorithm.into(), ..large() });
        transfer(&mut net, from, to, 30_000_000);
        net.run_for(Duration::from_secs(1));
        let (info, link) = (net.info(from), net.link(net.between(a, b)).stats());
        let needed = link.lost + link.queue_drops;
        println!("{algorithm}: {} again, {} spurious, {needed} needed", info.total_retrans, info.dsack_dups);
        assert!(info.dsack_dups * 10 < info.total_retrans && info.total_retrans >= needed, "{needed} needed; {info:?}");
    }
}

/// A filter that loses data segments by their number (from 0), first transmissions and others alike.
fn lose(net: &mut Network, from: Socket, to: Socket, mut lost: impl FnMut(usize) -> bool + 'static) {
    let link = net.between(from.host, to.host);
    let mut number = 0;
    net.filter(link, move |_, packet| {
        if packet.len() <= 52 {
            return Verdict::Pass;
        }
        number += 1;
        if lost(number - 1) { Verdict::Drop } else { Verdict::Pass }
    });
}

#[test]
fn a_lost_tail_is_repaired_within_300_ms_on_a_path_of_1_ms() {
    let bytes = 100_000;
    let segments = 100_000usize.div_ceil(1448);
    for (name, first_lost) in [("the last segment", segments - 1), ("the last 10", segments - 10), ("a flight", 40)] {
        let link = LinkConfig::default().with_delay(Duration::from_micros(500));
        let (mut net, a, b) = Network::pair(1, link);
        let (from, to) = net.connected(a, b, &ConnConfig::default());
        lose(&mut net, from, to, move |n| (first_lost..segments).contains(&n));
        let time = transfer(&mut net, from, to, bytes).time;
        let info = net.info(from);
        println!("{name}: {time:?}, {} timeouts", info.timeouts);
        assert!(time < ms(300), "{name}: {time:?}; {info:?}");
    }
}

#[test]
fn a_lost_retransmission_is_repaired_without_a_timeout() {
    let (mut net, a, b) = Network::pair(1, LinkConfig::default().with_delay(ms(10)));
    let (from, to) = net.connected(a, b, &ConnConfig::default());
    let link = net.between(a, b);
    let (mut number, mut victim, mut losses) = (0, None, 0);
    net.filter(link, move |_, packet| {
        let Ok(parsed) = rawtcp_sim::craft::Parsed::new(packet) else { return Verdict::Pass };
        if parsed.payload.is_empty() {
            return Verdict::Pass;
        }
        number += 1;
        if number == 20 {
            victim = Some(parsed.tcp.seq);
        }
        if Some(parsed.tcp.seq) == victim && losses < 2 {
            losses += 1;
            return Verdict::Drop;
        }
        Verdict::Pass
    });
    transfer(&mut net, from, to, 400_000);
    let info = net.info(from);
    assert_eq!((info.timeouts, info.total_retrans), (0, 2), "{info:?}");
}

#[test]
fn the_defaults_fill_100_ms_at_200_mbits() {
    let (share, info, _) = fill(ConnConfig::default(), 200, 100, 1.0, 250_000_000);
    assert!(share >= 0.9, "{share:.3} of the link; {info:?}");
}

#[test]
fn a_flow_alone_settles_below_bdp_and_queue() {
    for &algorithm in Algorithm::ALL {
        let link = LinkConfig::default().with_rate(50_000_000).with_delay(ms(20)).with_queue(Queue::Bytes(250_000));
        let (mut net, a, b) = fast_pair(9, link, LinkConfig::default().with_delay(ms(20)));
        let (from, to) = net.connected(a, b, &ConnConfig { congestion: algorithm.into(), ..large() });
        transfer(&mut net, from, to, 30_000_000);
        let drops = net.link(net.between(a, b)).stats().queue_drops;
        assert!(drops < 2000, "{algorithm}: {drops} drops; {:?}", net.info(from));
    }
}
