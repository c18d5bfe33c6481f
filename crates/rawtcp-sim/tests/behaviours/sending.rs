//! §3, sending, congestion, loss (behaviours 25–35).

use crate::common::{self, ms, transfer};
use crate::script::*;
use rawtcp_proto::wire::{Flags, Options, Timestamps};
use rawtcp_proto::{ConnConfig, Duration, State};
use rawtcp_sim::craft::Parsed;
use rawtcp_sim::{Errno, LinkConfig, Network, Verdict};

const MSS: u32 = 1000;

/// Byte offsets of the data segments among these.
fn starts(s: &Script, segments: &[Parsed]) -> Vec<u32> {
    let data = segments.iter().filter(|p| !p.payload.is_empty());
    data.map(|p| p.tcp.seq.0.wrapping_sub(s.ack(0).0)).collect()
}

fn range(from: u32, to: u32) -> Vec<u32> {
    (from..to).map(|n| n * MSS).collect()
}

/// ESTABLISHED, with so many segments of data written, and an RTT of 100 ms measured.
fn writing(config: &ConnConfig, segments: usize) -> Script {
    let mut s = Script::accepted(config);
    s.write(b"x").unwrap();
    assert_eq!(s.next().payload, "x");
    s.now = s.now + ms(100);
    s.acks(1);
    s.all();
    // From here on the first byte is number 0.
    s.irs = s.irs.add(1);
    assert_eq!(s.write(&text(segments * MSS as usize)), Ok(segments * MSS as usize));
    s
}

#[test]
fn the_initial_window_is_ten_segments() {
    let mut s = writing(&plain(), 30);
    let sent = s.all();
    assert_eq!(starts(&s, &sent), range(0, 10));
}

/// RFC 6928 §2: one SYN may be late, two are lost.
#[test]
fn after_two_lost_syns_it_is_one_segment() {
    for (lost, expected) in [(0, 10), (1, 10), (2, 1), (4, 1)] {
        let mut s = Script::syn_sent(&plain());
        for _ in 0..lost {
            assert_eq!(s.next_within(Duration::from_secs(100)).1.tcp.flags, SYN);
        }
        s.send_with(SYN_ACK, ISS, s.ack(0), peer_options(), b"");
        s.all();
        s.write(&text(30_000)).unwrap();
        assert_eq!(s.all().len(), expected, "{lost} SYNs lost");
        // The other side: a SYN-ACK.
        let mut s = Script::syn_received(&plain(), peer_options());
        for _ in 0..lost {
            assert_eq!(s.next_within(Duration::from_secs(100)).1.tcp.flags, SYN_ACK);
        }
        s.accept();
        s.write(&text(30_000)).unwrap();
        assert_eq!(s.all().len(), expected, "{lost} SYN-ACKs lost");
    }
}

#[test]
fn slow_start_grows_one_segment_per_segment_acknowledged() {
    let mut s = writing(&plain(), 40);
    assert_eq!(s.all().len(), 10);
    for n in 1..=10 {
        s.acks(n * MSS);
        assert_eq!(s.all().len(), 2, "after ACK {n}");
    }
}

#[test]
fn an_application_limited_flight_does_not_grow_the_window() {
    let mut s = Script::accepted(&plain());
    let before = s.host.info(s.conn()).unwrap().snd_cwnd;
    for n in 0..40 {
        s.write(&text(2000)).unwrap();
        assert_eq!(s.all().len(), 2);
        s.now = s.now + ms(10);
        s.acks((n + 1) * 2000);
    }
    assert_eq!(s.host.info(s.conn()).unwrap().snd_cwnd, before);
}

#[test]
fn three_segments_above_the_hole_retransmit_it() {
    let mut s = writing(&plain(), 4);
    assert_eq!(s.all().len(), 4);
    s.now = s.now + ms(100);
    for n in 1..=2 {
        s.sacks(0, &[(MSS, (n + 1) * MSS)]);
        s.none();
    }
    s.sacks(0, &[(MSS, 4 * MSS)]);
    let again = s.next();
    assert_eq!(starts(&s, &[again]), [0]);
    s.acks(4 * MSS);
    assert_eq!(s.host.info(s.conn()).unwrap().timeouts, 0);
}

#[test]
fn two_duplicates_release_new_segments_and_the_third_the_lost_one() {
    for sack in [true, false] {
        let mut s = Script::accepted_with(&plain(), Options { sack_permitted: sack, ..peer_options() });
        s.write(&text(30_000)).unwrap();
        assert_eq!(s.all().len(), 10);
        s.now = s.now + ms(100);
        let mut new = Vec::new();
        for n in 1..=3u32 {
            if sack {
                s.sacks(0, &[(MSS, (n + 1) * MSS)]);
            } else {
                s.acks(0);
            }
            let sent = s.all();
            if n == 3 {
                assert_eq!(starts(&s, &sent[..1]), [0], "SACK {sack}");
            } else {
                assert!(!sent.is_empty(), "duplicate {n}, SACK {sack}");
                new.extend(starts(&s, &sent));
            }
        }
        assert_eq!(new, range(10, 10 + new.len() as u32), "SACK {sack}");
    }
}

/// Loses the first copies of these data segments, counted from 0, and checks that no timeout is needed.
fn without_timeout(segments: u64, lost: &[usize]) {
    let (mut net, a, b) = Network::pair(1, LinkConfig::default().with_delay(ms(20)));
    // A window that lets all of them go at once.
    let config = ConnConfig { initial_window: segments as u32, timestamps: false, ..ConnConfig::default() };
    let (from, to) = net.connected(a, b, &config);
    let there = net.between(a, b);
    let lost = lost.to_vec();
    let mut n = 0;
    net.filter(there, move |_, packet| {
        if packet.len() <= 60 {
            return Verdict::Pass;
        }
        n += 1;
        if lost.contains(&(n - 1)) { Verdict::Drop } else { Verdict::Pass }
    });
    transfer(&mut net, from, to, segments * 1460);
    let info = net.info(from);
    assert_eq!(info.timeouts, 0, "{info:?}");
}

#[test]
fn one_of_ten_is_repaired_without_a_timeout() {
    (0..10).for_each(|n| without_timeout(10, &[n]));
}

#[test]
fn ten_of_twenty_are_repaired_without_a_timeout() {
    without_timeout(20, &[0, 1, 2, 3, 8, 9, 10, 11, 12, 13]);
}

#[test]
fn the_last_segments_are_repaired_by_a_probe_before_the_timeout() {
    without_timeout(10, &[9]);
    without_timeout(10, &[8, 9]);
    without_timeout(10, &[5, 6, 7, 8, 9]);
}

#[test]
fn rack_repairs_when_only_the_last_segment_is_sacked() {
    let mut s = writing(&plain(), 6);
    assert_eq!(s.all().len(), 6);
    s.now = s.now + ms(100);
    s.sacks(0, &[(5 * MSS, 6 * MSS)]);
    // At most a reordering window later the first one goes again; PRR lets the others follow.
    let mut again = Vec::new();
    for n in 0..5 {
        while again.len() <= n {
            let (after, segment) = s.next_within(ms(200));
            assert!(after <= ms(30), "that was a timeout: {after:?}");
            again.push(segment);
        }
        again.extend(s.all());
        s.now = s.now + ms(100);
        s.sacks((n as u32 + 1) * MSS, if n < 4 { &[(5 * MSS, 6 * MSS)] } else { &[] });
    }
    assert_eq!(starts(&s, &again), range(0, 5));
    assert_eq!(s.host.info(s.conn()).unwrap().timeouts, 0);
}

#[test]
fn sack_blocks_in_any_order_leave_a_consistent_scoreboard() {
    let mut s = writing(&plain(), 10);
    assert_eq!(s.all().len(), 10);
    s.now = s.now + ms(100);
    let mut sacked = Vec::new();
    let mut again = Vec::new();
    for n in [2u32, 6, 8, 3, 9] {
        sacked.insert(0, (n * MSS, (n + 1) * MSS));
        sacked.truncate(4);
        s.sacks(0, &sacked);
        again.extend(s.all());
    }
    assert_eq!(s.host.info(s.conn()).unwrap().sacked, 5 * u64::from(MSS));
    for _ in 0..20 {
        let Some((_, segment)) = s.try_within(ms(50)) else { break };
        again.push(segment);
        again.extend(s.all());
    }
    // What arrived since recovery began pays for three; the next leave when those arrive (RFC 9937).
    assert_eq!(starts(&s, &again), [0, MSS, 4 * MSS]);
    s.sacks(5 * MSS, &sacked);
    let rest = s.all();
    assert_eq!(starts(&s, &rest), [5 * MSS, 7 * MSS]);
    s.acks(10 * MSS);
    let info = s.host.info(s.conn()).unwrap();
    assert_eq!((info.unacked, info.sacked, info.lost, info.retrans), (0, 0, 0, 0));
}

#[test]
fn the_timeout_backs_off_exponentially_up_to_its_cap() {
    let config = ConnConfig { rto_max: Duration::from_secs(8), sack: false, ..plain() };
    let mut s = Script::accepted(&config);
    s.now = s.now + ms(1);
    s.write(&text(500)).unwrap();
    s.next();
    let mut waits = Vec::new();
    for _ in 0..8 {
        let (after, again) = s.next_within(Duration::from_secs(60));
        assert_eq!(starts(&s, &[again]), [0]);
        waits.push(after);
    }
    for pair in waits.windows(2) {
        let expected = (pair[0] * 2).min(Duration::from_secs(8));
        assert_eq!(pair[1], expected, "{waits:?}");
    }
    assert!(waits[0] >= ms(200), "{waits:?}");
}

#[test]
fn karn_a_retransmission_without_timestamps_measures_nothing() {
    let mut s = writing(&ConnConfig { sack: false, ..plain() }, 1);
    s.all();
    let before = s.host.info(s.conn()).unwrap().rtt;
    s.next_within(Duration::from_secs(5));
    s.now = s.now + ms(700);
    s.acks(MSS);
    assert_eq!(s.host.info(s.conn()).unwrap().rtt, before);
}

#[test]
fn nagle_holds_back_a_small_segment_unless_switched_off() {
    for nodelay in [false, true] {
        let mut s = Script::accepted(&ConnConfig { nodelay, ..plain() });
        s.write(b"a").unwrap();
        assert_eq!(s.next().payload, "a");
        s.write(b"b").unwrap();
        s.write(b"c").unwrap();
        let sent = s.all();
        if nodelay {
            assert_eq!(sent.iter().map(|p| p.payload.len()).sum::<usize>(), 2);
        } else {
            assert!(sent.is_empty());
            s.acks(1);
            assert_eq!(s.next().payload, "bc");
        }
    }
}

#[test]
fn the_last_segment_of_a_write_has_psh() {
    let mut s = writing(&plain(), 3);
    let sent = s.all();
    let psh: Vec<_> = sent.iter().map(|p| p.tcp.flags.contains(Flags::PSH)).collect();
    assert_eq!(psh, [false, false, true]);
}

#[test]
fn zero_window_probes_start_after_one_rto_back_off_and_never_give_up_while_answered() {
    let mut s = Script::accepted(&plain());
    s.now = s.now + ms(10);
    s.window = 0;
    s.acks(0);
    s.write(b"hello").unwrap();
    s.none();
    let rto = s.host.info(s.conn()).unwrap().rto;
    let (mut waits, mut total) = (Vec::new(), Duration::ZERO);
    for _ in 0..40 {
        let (after, probe) = s.next_within(Duration::from_secs(300));
        assert!(probe.payload.len() <= 1, "{probe:?}");
        waits.push(after);
        total += after;
        s.acks(0);
        s.none();
    }
    assert_eq!(waits[0], rto, "{waits:?}");
    assert!(waits[1] >= waits[0] * 2 && waits.windows(2).all(|w| w[1] >= w[0]), "{waits:?}");
    assert!(total > Duration::from_secs(3600));
    assert_eq!(s.state(), State::Established);
    s.window = 1000;
    s.acks(0);
    let sent = s.all();
    assert_eq!(sent.iter().map(|p| p.payload.len()).max(), Some(5));
}

#[test]
fn a_minute_of_zero_window_ends_when_the_reader_reads_on() {
    let (mut net, a, b) = Network::pair(1, LinkConfig::default().with_delay(ms(10)));
    let config = ConnConfig { recv_buffer: 20_000, recv_buffer_max: 20_000, ..ConnConfig::default() };
    let (from, to) = net.connected(a, b, &config);
    assert_eq!(net.write(from, common::bytes(0, 60_000)), Ok(60_000));
    net.run_for(Duration::from_secs(1));
    let before = net.info(from);
    assert_eq!(before.snd_wnd, 0);
    net.run_for(Duration::from_secs(60));
    let stalled = net.info(from);
    let probes = stalled.segs_out - before.segs_out;
    assert_eq!((stalled.bytes_sent, stalled.timeouts), (before.bytes_sent, 0));
    let (start, mut got) = (net.now(), Vec::new());
    let done = net.run_until(|net| {
        let _ = net.read_all(to, &mut got);
        got.len() == 60_000
    });
    let took = net.now().since(start);
    println!("a minute of zero window: {probes} probes, the rest within {took:?}");
    // Each twice as long after the last as that one: the reader's update ends it, not the next of them.
    assert!((5..=9).contains(&probes), "{probes} probes");
    assert!(done && took < ms(300) && got == common::bytes(0, 60_000), "{took:?}");
}

#[test]
fn a_lost_window_update_is_found_by_a_probe() {
    let (mut net, a, b) = Network::pair(1, LinkConfig::default().with_delay(ms(10)));
    let config = ConnConfig { recv_buffer: 20_000, ..ConnConfig::default() };
    let (from, to) = net.connected(a, b, &config);
    net.write(from, &vec![7; 60_000]).unwrap();
    net.run_for(Duration::from_secs(60));
    assert_eq!(net.info(from).snd_wnd, 0);
    let back = net.between(b, a);
    let mut lost = false;
    net.filter(back, move |_, _| if std::mem::replace(&mut lost, true) { Verdict::Pass } else { Verdict::Drop });
    let mut got = Vec::new();
    net.read_all(to, &mut got).unwrap();
    let done = net.run_until(|net| {
        let _ = net.read_all(to, &mut got);
        got.len() == 60_000
    });
    assert!(done && net.state(from) == State::Established);
}

#[test]
fn timestamps_of_every_segment_are_current_and_echo_the_peers() {
    let config = ConnConfig { timestamps: true, ..plain() };
    let with = |value| Options { timestamps: Some(Timestamps { value, echo: 0 }), ..peer_options() };
    let mut s = Script::accepted_with(&config, with(100));
    let first = {
        s.write(b"x").unwrap();
        s.next().tcp.options.timestamps.unwrap()
    };
    assert_eq!(first.echo, 100);
    s.now = s.now + ms(70);
    let ts = |value| Options { timestamps: Some(Timestamps { value, echo: first.value }), ..Options::default() };
    s.send_with(ACK, s.seq(0), s.ack(1), ts(150), b"abc");
    s.all();
    assert_eq!(s.read(), Ok(b"abc".to_vec()));
    s.host.shutdown(s.now, s.conn(), rawtcp_sim::Shutdown::Write).unwrap();
    let fin = s.next();
    let found = fin.tcp.options.timestamps.unwrap();
    assert_eq!((found.value.wrapping_sub(first.value), found.echo), (70, 150));
    assert!(fin.tcp.flags.contains(FIN));
    s.now = s.now + ms(30);
    s.host.abort(s.now, s.conn());
    let rst = s.next();
    assert!(rst.tcp.flags.contains(RST));
    let found = rst.tcp.options.timestamps.unwrap();
    assert_eq!(found.value.wrapping_sub(first.value), 100);
}

#[test]
fn the_users_timeout_closes_at_its_time() {
    let config = ConnConfig { user_timeout: Some(Duration::from_secs(7)), ..plain() };
    let mut s = Script::accepted(&config);
    let start = s.now;
    s.write(b"hello").unwrap();
    assert_eq!(s.all().len(), 1);
    while s.state() != State::Closed {
        s.now = s.host.next_deadline().expect("a timer");
        s.host.on_timeout(s.now);
        s.all();
    }
    assert_eq!(s.now.since(start), Duration::from_secs(7));
    assert_eq!(s.read(), Err(Errno::ETIMEDOUT));
}

#[test]
fn a_shrunk_window_is_tolerated() {
    let mut s = writing(&plain(), 10);
    assert_eq!(s.all().len(), 10);
    s.window = 500;
    s.acks(2 * MSS);
    s.none();
    let (_, again) = s.next_within(Duration::from_secs(5));
    assert_eq!(starts(&s, &[again])[0] % MSS, 0);
    s.window = 65_535;
    s.acks(10 * MSS);
    assert_eq!(s.host.info(s.conn()).unwrap().unacked, 0);
    assert_eq!(s.state(), State::Established);
}

#[test]
fn no_window_scale_and_no_odd_buffer_loses_a_byte() {
    for shift in 0..=14 {
        for buffer in [4096, 4097, 65_535, 65_537, 100_003, 300_001] {
            let (mut net, a, b) = Network::pair(1, LinkConfig::default().with_delay(ms(5)));
            net.set_trace(0);
            let config = ConnConfig {
                recv_buffer: buffer,
                send_buffer: buffer,
                window_scale: Some(shift),
                ..Default::default()
            };
            let (from, to) = net.connected(a, b, &config);
            // 14 bits less than a window that small can not be said.
            if buffer >> shift == 0 {
                continue;
            }
            transfer(&mut net, from, to, 150_000);
        }
    }
}

#[test]
fn one_byte_writers_and_readers_get_through() {
    let (mut net, a, b) = Network::pair(1, LinkConfig::default().with_delay(ms(1)));
    net.set_trace(0);
    let config = ConnConfig { recv_buffer: 3000, send_buffer: 2000, ..ConnConfig::default() };
    let (from, to) = net.connected(a, b, &config);
    let (mut written, mut read, mut buf) = (0, 0, [0]);
    for _ in 0..20_000 {
        net.run_for(ms(1));
        for _ in 0..50 {
            if written < 20_000 && net.write(from, &[common::byte(written)]) == Ok(1) {
                written += 1;
            }
        }
        for _ in 0..7 {
            if net.read(to, &mut buf) == Ok(1) {
                assert_eq!(buf[0], common::byte(read));
                read += 1;
            }
        }
    }
    assert_eq!(read, 20_000);
}

#[test]
fn sequence_numbers_wrap() {
    // The peer of all scripts starts three below the wrap.
    let mut s = Script::accepted(&plain());
    s.data(0, &text(500));
    s.all();
    assert_eq!(s.read().unwrap().len(), 500);
}

#[test]
fn a_dsack_for_a_spurious_retransmission_undoes_the_reduction() {
    let mut s = writing(&plain(), 10);
    let before = s.host.info(s.conn()).unwrap().snd_cwnd;
    assert_eq!(s.all().len(), 10);
    s.now = s.now + ms(100);
    s.sacks(0, &[(MSS, 4 * MSS)]);
    let again = s.all();
    assert_eq!(starts(&s, &again), [0]);
    s.now = s.now + ms(5);
    s.acks(10 * MSS); // the first copy had only been late
    s.now = s.now + ms(95);
    s.sacks(10 * MSS, &[(0, MSS)]); // and here is the second one
    let info = s.host.info(s.conn()).unwrap();
    assert!(info.snd_cwnd >= before, "{} < {before}", info.snd_cwnd);
}

#[test]
fn limited_transmit_sends_a_new_segment_for_each_of_two_duplicates() {
    for sack in [true, false] {
        let mut s = Script::accepted_with(&plain(), Options { sack_permitted: sack, ..peer_options() });
        s.write(&text(30_000)).unwrap();
        assert_eq!(s.all().len(), 10);
        s.now = s.now + ms(100);
        for n in 1..=2u32 {
            if sack {
                s.sacks(0, &[(MSS, (n + 1) * MSS)]);
            } else {
                s.acks(0);
            }
            let sent = s.all();
            assert_eq!(starts(&s, &sent), [(9 + n) * MSS], "duplicate {n}, SACK {sack}");
        }
        if sack {
            s.sacks(0, &[(MSS, 4 * MSS)]);
        } else {
            s.acks(0);
        }
        let again = s.next();
        assert_eq!(starts(&s, &[again]), [0], "SACK {sack}");
    }
}
