use super::*;
use crate::config::ConnConfig;
use crate::conn::tests::pair::{A, B, Pair, ms};
use crate::conn::{TransmitKind, TxLimits};
use proptest::prelude::*;

const MSS: u64 = 1000;

/// Sends as much as it may, segment by segment; answers how many and when the next may leave.
fn burst(pacer: &mut Pacer, now: Instant, rate: &Rate) -> (u64, Instant) {
    let mut sent = 0;
    while pacer.allowance(now, Duration::ZERO, rate) >= MSS {
        pacer.on_send(now, MSS, rate);
        sent += 1;
        assert!(sent < 10_000, "no end");
    }
    (sent, pacer.close())
}

#[test]
fn a_burst_is_a_millisecond_of_the_rate_and_at_least_two_segments() {
    // (bytes per second; segments at once, microseconds until the next)
    let table = [(10_000, 2, 200_000), (1_000_000, 2, 2_000), (20_000_000, 20, 1_000), (1_000_000_000, 1000, 1_000)];
    for (bytes_per_second, segments, micros) in table {
        let rate = Rate::new(bytes_per_second, MSS);
        let (mut pacer, mut now) = (Pacer { paid: Instant::from_secs(5), ..Pacer::BEGIN }, Instant::from_secs(5));
        for _ in 0..5 {
            let (sent, next) = burst(&mut pacer, now, &rate);
            assert_eq!((sent, next.since(now)), (segments, Duration::from_micros(micros)), "{bytes_per_second}");
            // Before that, nothing.
            let before = next - Duration::from_nanos(1);
            assert_eq!(pacer.allowance(before, Duration::ZERO, &rate), 0);
            now = next;
        }
    }
}

#[test]
fn who_did_not_wait_makes_up_for_no_more_than_a_burst() {
    let rate = Rate::new(10_000_000, MSS);
    let (mut pacer, now) = (Pacer { paid: Instant::from_secs(5), ..Pacer::BEGIN }, Instant::from_secs(5));
    assert_eq!(burst(&mut pacer, now, &rate).0, 10);
    assert_eq!(burst(&mut pacer, now + Duration::from_micros(1500), &rate).0, 15);
    assert_eq!(burst(&mut pacer, now + Duration::from_secs(1), &rate).0, 20);
}

#[test]
fn a_late_timer_is_made_up_for_at_twice_the_rate_up_to_ten_milliseconds() {
    let rate = Rate::new(10_000_000, MSS);
    for (late_by, made_up) in [(1, 1), (5, 5), (11, 11), (40, 11)] {
        let (mut pacer, mut now) = (Pacer { paid: Instant::from_secs(5), ..Pacer::BEGIN }, Instant::from_secs(5));
        let (_, due) = burst(&mut pacer, now, &rate);
        now = due + ms(late_by);
        pacer.late(now, &rate);
        let mut sent = Vec::new();
        for _ in 0..20 {
            let (segments, next) = burst(&mut pacer, now, &rate);
            assert_eq!(next, now + ms(1));
            sent.push(segments);
            now = next;
            pacer.late(now, &rate);
        }
        assert_eq!(sent.iter().sum::<u64>(), 20 * 10 + made_up * 10, "{late_by} ms: {sent:?}");
        // Nobody sees more at once than that.
        assert!(sent.iter().all(|&n| n <= 30) && sent[1..].iter().all(|&n| n <= 20), "{late_by} ms: {sent:?}");
    }
}

#[test]
fn what_would_leave_within_the_slack_leaves_at_once() {
    let rate = Rate::new(10_000_000, MSS);
    let (mut pacer, now) = (Pacer { paid: Instant::from_secs(5), ..Pacer::BEGIN }, Instant::from_secs(5));
    let (_, next) = burst(&mut pacer, now, &rate);
    let slack = Duration::from_micros(50);
    assert_eq!(pacer.allowance(next - Duration::from_micros(51), slack, &rate), 0);
    assert!(pacer.allowance(next - slack, slack, &rate) >= 9 * MSS);
}

#[test]
fn a_higher_rate_does_not_wait_for_the_debt_of_a_lower_one() {
    let (slow, fast) = (Rate::new(1_000, MSS), Rate::new(1_000_000, MSS));
    let (mut pacer, now) = (Pacer::BEGIN, Instant::from_secs(5));
    let (_, next) = burst(&mut pacer, now, &slow);
    assert!(next.since(now) >= Duration::from_secs(2));
    assert_eq!(pacer.allowance(now, Duration::ZERO, &fast), 0);
    assert_eq!(pacer.close().since(now), Duration::from_millis(2));
}

proptest! {
    #[test]
    fn no_interval_carries_more_than_the_rate_and_two_bursts(
        bytes_per_second in 1_000u64..2_000_000_000,
        free in 0u64..20_000,
        steps in prop::collection::vec((0u64..5_000_000, 1u64..100), 1..100),
    ) {
        let rate = Rate::new(bytes_per_second, MSS);
        let mut now = Instant::from_secs(1);
        let mut pacer = Pacer { paid: now, ..Pacer::BEGIN };
        pacer.free = free;
        let mut log: Vec<(Instant, u64)> = Vec::new();
        for (wait, segments) in steps {
            now = now + Duration::from_nanos(wait);
            for _ in 0..segments {
                if pacer.allowance(now, Duration::ZERO, &rate) < MSS {
                    let at = pacer.close();
                    prop_assert!(at > now, "a deadline that has passed would be asked for again and again");
                    prop_assert!(pacer.allowance(at, Duration::ZERO, &rate) >= rate.burst - 1);
                    break;
                }
                pacer.on_send(now, MSS, &rate);
                log.push((now, MSS));
            }
        }
        for first in 0..log.len() {
            let (mut sum, start) = (0, log[first].0);
            for &(at, len) in &log[first..] {
                sum += len;
                let most = free + 2 * rate.burst + MSS + rate.bytes(at.since(start) + ROUNDING * 100);
                prop_assert!(sum <= most, "{sum} bytes in {:?}, at most {most}", at.since(start));
            }
        }
    }
}

fn paced() -> ConnConfig {
    ConnConfig { pacing: true, ..ConnConfig::default() }
}

/// When which number of data segments left, from now on.
fn departures(p: &mut Pair, bytes: usize) -> Vec<(Instant, usize)> {
    let mut out: Vec<(Instant, usize)> = Vec::new();
    p.log.clear();
    let mut left = bytes;
    p.run_until(|p| {
        left -= p.write_all(A, &vec![7; left]);
        p.flush();
        p.read_all(B);
        let data = p.log.drain(..).filter(|(end, t)| *end == A && t.payload_len() > 0).count();
        if data > 0 {
            out.push((p.now, data));
        }
        left == 0 && p.ends[A].is_all_acked()
    });
    out
}

#[test]
fn the_initial_window_leaves_at_once_and_the_next_in_pairs() {
    let mut p = Pair::established(paced(), paced());
    // Nothing arrives at the same instant as something else.
    let mut later = Duration::ZERO;
    p.jitter = Box::new(move || {
        later += Duration::from_micros(20);
        later
    });
    let sent = departures(&mut p, 60_000);
    assert_eq!(sent[0].1, 10);
    let second: Vec<_> = sent[1..].iter().filter(|(at, _)| at.since(sent[0].0) < ms(38)).collect();
    // Twenty segments more over half of the round trip: at twice the window's rate.
    assert_eq!(second.iter().map(|s| s.1).sum::<usize>(), 20, "{sent:?}");
    assert!(second.iter().all(|s| s.1 <= 4), "{sent:?}");
    let took = second.last().unwrap().0.since(second[0].0);
    assert!(took >= ms(6) && took <= ms(12), "{took:?}: {sent:?}");
}

#[test]
fn without_pacing_and_on_short_paths_everything_leaves_at_once() {
    let mut p = Pair::established(ConnConfig::default(), ConnConfig::default());
    assert_eq!(departures(&mut p, 60_000).iter().map(|s| s.1).collect::<Vec<_>>(), [10, 20, 12]);
    let mut p = Pair::new(paced(), paced());
    p.delay = Duration::from_micros(200);
    p.run_until(|p| p.ends.iter().all(|c| c.state() == crate::State::Established));
    p.settle();
    assert_eq!(departures(&mut p, 60_000).iter().map(|s| s.1).collect::<Vec<_>>(), [10, 20, 12]);
}

#[test]
fn the_bound_of_the_user_holds_whatever_the_window() {
    let config = ConnConfig { max_pacing_rate: Some(100_000), ..ConnConfig::default() };
    let mut p = Pair::established(config.clone(), config);
    let start = p.now;
    let bytes = 200_000;
    departures(&mut p, bytes);
    let took = p.now.since(start).as_secs_f64();
    // All but the initial window is paid for.
    let rate = (bytes as f64 - 14_480.0) / took;
    assert!((90_000.0..=101_000.0).contains(&rate), "{rate} B/s");
    let info = p.ends[A].info();
    assert_eq!((info.pacing_rate, info.max_pacing_rate), (100_000, 100_000));
}

#[test]
fn the_bound_of_the_user_is_reached_whenever_the_timer_comes() {
    // (bytes per second, microseconds by which everything is late now and then)
    for (most, late) in [(10_000_000, 6_000), (125_000_000, 600)] {
        let config = ConnConfig { max_pacing_rate: Some(most), recv_buffer: 1 << 20, ..ConnConfig::default() };
        let mut p = Pair::new(config.clone(), config);
        p.delay = Duration::from_micros(50);
        p.run_until(|p| p.ends.iter().all(|c| c.state() == crate::State::Established));
        p.settle();
        // The windows open.
        departures(&mut p, 2_000_000);
        let bytes = most as usize / 5;
        let (start, mut left) = (p.now, bytes);
        let mut steps = 0..;
        while left > 0 || !p.ends[A].is_all_acked() {
            left -= p.write_all(A, &vec![7; left.min(1 << 20)]);
            p.flush();
            p.read_all(B);
            let is_late = steps.next().is_some_and(|n| n % 20 == 0);
            p.now = p.now + Duration::from_micros(if is_late { late } else { 0 });
            assert!(p.step());
        }
        let share = bytes as f64 / p.now.since(start).as_secs_f64() / most as f64;
        assert!((0.98..=1.02).contains(&share), "{share} of {most}");
    }
}

#[test]
fn a_burst_that_leaves_as_one_packet_is_over_with_it() {
    let config = ConnConfig { max_pacing_rate: Some(12_500_000), ..ConnConfig::default() };
    let mut p = Pair::established(config.clone(), config);
    // The window opens.
    departures(&mut p, 300_000);
    let limits = TxLimits { max_payload: 60_000, timer_slack: Duration::from_micros(50), ..TxLimits::ONE_SEGMENT };
    p.write_all(A, &[7; 100_000]);
    let mut left = 0;
    for _ in 0..5 {
        let burst = p.ends[A].poll_transmit(p.now, &limits).unwrap();
        assert!(burst.payload_len() >= 8 * 1448, "{burst:?}");
        left += burst.payload_len();
        // The timer is set with it, and nothing leaves before: neither at once nor when a segment more is paid for.
        let next = p.ends[A].poll_timeout().unwrap();
        assert!(next > p.now + Duration::from_micros(900), "{:?}", next.since(p.now));
        for micros in [0, 130, 400] {
            assert!(p.ends[A].poll_transmit(p.now + Duration::from_micros(micros), &limits).is_none());
            assert_eq!(p.ends[A].poll_timeout(), Some(next));
        }
        p.now = next;
        p.ends[A].on_timeout(next);
    }
    assert!(left < 100_000);
}

#[test]
fn losses_are_repaired_without_a_timeout_on_a_slow_path_too() {
    // Slower than a segment in a round trip.
    let config = ConnConfig { max_pacing_rate: Some(20_000), ..paced() };
    let mut p = Pair::established(config.clone(), config);
    let mut number = 0;
    p.pass = Box::new(move |end, _, t| {
        number += usize::from(end == A && t.payload_len() > 0);
        !(end == A && t.payload_len() > 0 && [4, 5, 6, 20, 21, 40].contains(&number))
    });
    departures(&mut p, 120_000);
    let info = p.ends[A].info();
    assert_eq!((info.timeouts, info.total_retrans), (0, 6), "{info:?}");
}

#[test]
fn waiting_for_the_rate_is_not_waiting_for_an_acknowledgment() {
    let config = ConnConfig { max_pacing_rate: Some(100), ..paced() };
    let mut p = Pair::established(config.clone(), config);
    p.write_all(A, &[1; 40_000]);
    p.flush();
    p.log.clear();
    p.wait(ms(3_000));
    let data = p.log.iter().filter(|(end, t)| *end == A && t.kind == TransmitKind::Data).count();
    assert!(data <= 3, "{data} segments in 3 s at 100 bytes a second");
    assert_eq!(p.ends[A].info().timeouts, 0);
}
