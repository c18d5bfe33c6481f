use super::*;
use proptest::prelude::*;

const MSS: u64 = 1000;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn at_ms(n: u64) -> Instant {
    Instant::from_millis(n)
}

/// An ACK while the window is full, with a round trip of 100 ms.
fn ack(now: Instant, acked: u64) -> AckSample {
    AckSample {
        now,
        acked,
        in_flight: u64::MAX,
        cwnd_limited: true,
        srtt: Some(ms(100)),
        mss: MSS as u32,
        ..AckSample::default()
    }
}

fn lost(in_flight: u64) -> CongestionSample {
    CongestionSample { in_flight, mss: MSS as u32, ..CongestionSample::default() }
}

/// A window of that many segments in congestion avoidance without a past.
fn window_of(segments: u64) -> Cubic {
    let mut cubic = Cubic::new(MSS as u32, 10);
    cubic.import(Carried { cwnd: segments * MSS, ssthresh: segments * MSS, ..Carried::default() });
    cubic
}

/// After a loss at that many segments, all in flight.
fn after_loss(segments: u64) -> Cubic {
    let mut cubic = window_of(segments);
    cubic.on_congestion(Congestion::Loss, &lost(segments * MSS));
    cubic
}

/// A round trip of full windows: its ACKs come evenly from `start` on, one a segment.
fn round(cubic: &mut Cubic, start: Instant, rtt: Duration) {
    let n = cubic.cwnd() / MSS;
    for i in 0..n {
        let now = start + rtt * i as u32 / n as u32;
        cubic.on_ack(&AckSample { srtt: Some(rtt), ..ack(now, MSS) });
    }
}

fn rounds(cubic: &mut Cubic, from: Instant, rtt: Duration, n: u32) {
    (0..n).for_each(|i| round(cubic, from + rtt * i, rtt));
}

/// The variables that decide how it goes on.
fn state(c: &Cubic) -> (u64, u64, u64, u64, bool, Option<Box<Epoch>>) {
    (c.cwnd(), c.ssthresh, c.cwnd_prior, c.w_max, c.flat, c.epoch.clone())
}

fn assert_segments(cubic: &Cubic, expected: f64, tolerance: f64, what: &str) {
    let cwnd = cubic.cwnd() as f64 / MSS as f64;
    assert!((cwnd - expected).abs() <= tolerance, "{what}: {cwnd} instead of {expected}");
}

#[test]
fn cube_roots_are_exact() {
    for (n, root) in [(0, 0), (1, 1), (7, 1), (8, 2), (26, 2), (27, 3), (u128::MAX, 6_981_463_658_331)] {
        assert_eq!(cube_root(n), root, "{n}");
    }
}

#[test]
fn k_and_the_curve_are_those_of_the_formula() {
    // W_max = 100, cwnd = 70: K = ∛(30 / 0.4) = 4.217163 s.
    let mut cubic = after_loss(100);
    cubic.on_ack(&ack(at_ms(0), 1));
    let k = cubic.epoch.as_ref().unwrap().k;
    assert_eq!((cubic.w_max, k), (100_000, 4_217_163));
    // 100 + 0.4 · (t − K)³ by a pocket calculator.
    for (t, w) in [(0, 70.0), (1_000, 86.681), (2_000, 95.641), (3_000, 99.279), (4_217, 100.0), (6_000, 102.267)] {
        assert!((cubic.w_cubic(ms(t), k) as f64 / 1000.0 - w).abs() < 0.002, "W_cubic({t} ms)");
    }
}

#[test]
fn growth_after_a_loss_at_100_segments() {
    // Window by round trips of 100 ms, from a model in floating point and segments, written separately.
    // For comparison W_cubic: 86.68, 95.64, 99.28, 100.00, 100.19, and from 53 on Reno's line until the
    // curve overtakes it again at 80.
    let mut cubic = after_loss(100);
    for (i, expected) in [86.62, 95.61, 99.26, 99.99, 100.20, 102.80, 112.68, 122.59, 143.79, 177.36].iter().enumerate()
    {
        let start = i as u64 * 1000;
        rounds(&mut cubic, at_ms(start), ms(100), 10);
        assert_segments(&cubic, *expected, 0.1, &format!("after {} round trips", (i + 1) * 10));
    }
}

#[test]
fn small_windows_grow_as_reno_does() {
    // 10 segments, 10 ms: 9/17 of a segment a round trip up to the old window, then one.
    let mut cubic = after_loss(10);
    assert_eq!(cubic.cwnd(), 7_000);
    for (i, expected) in [9.40, 13.43, 18.18, 23.04, 27.84].iter().enumerate() {
        rounds(&mut cubic, at_ms(i as u64 * 50), ms(10), 5);
        assert_segments(&cubic, *expected, 0.1, &format!("after {} round trips", (i + 1) * 5));
    }
}

/// The average window in segments over the second half of so many losses, one after every `every` segments.
fn average_window(every: u64, losses: u32, from: u64) -> f64 {
    let mut cubic = window_of(from);
    let (mut seen, mut until_loss) = (0, every);
    let (mut trips, mut counted, mut sent) = (0u32, 0u64, 0u64);
    while seen < losses {
        let n = cubic.cwnd() / MSS;
        let start = Instant::ZERO + ms(100) * trips;
        for i in 0..n {
            cubic.on_ack(&ack(start + ms(100) * i as u32 / n as u32, MSS));
            until_loss -= 1;
            if until_loss == 0 {
                cubic.on_congestion(Congestion::Loss, &lost(cubic.cwnd()));
                (seen, until_loss) = (seen + 1, every);
            }
        }
        trips += 1;
        if seen >= losses / 2 {
            (counted, sent) = (counted + 1, sent + n);
        }
    }
    sent as f64 / counted as f64
}

#[test]
fn average_windows_are_those_of_the_rfc() {
    // RFC 9438 §5.1, table 1: C = 0.4, RTT = 100 ms. The model has no fast convergence and no segments.
    for (every, losses, expected) in [(100, 400, 12.0), (1_000, 200, 38.0), (10_000, 60, 187.0), (100_000, 16, 1054.0)]
    {
        let average = average_window(every, losses, expected as u64);
        assert!((average / expected - 1.0).abs() < 0.1, "a loss every {every}: {average}, not {expected}");
    }
}

#[test]
fn how_acknowledgments_are_cut_makes_no_difference() {
    let mut grown = Vec::new();
    for piece in [1, 7, 100, 1_000, 7_000] {
        let mut cubic = after_loss(100);
        for _ in 0..10 {
            for _ in 0..70_000 / piece {
                cubic.on_ack(&ack(at_ms(0), piece));
            }
        }
        grown.push(cubic.cwnd());
    }
    assert!(grown[0] > 70_000);
    assert!(grown.iter().all(|&cwnd| cwnd.abs_diff(grown[0]) <= grown[0] / 1000), "{grown:?}");
}

#[test]
fn the_window_follows_time_and_not_round_trips() {
    for rtt in [20, 50, 100, 200] {
        let mut cubic = after_loss(1_000); // K = 9.09 s
        rounds(&mut cubic, at_ms(0), ms(rtt), (5_000 / rtt) as u32);
        assert_segments(&cubic, 1000.0 - 0.4 * 4.0856f64.powi(3), 2.0, &format!("RTT {rtt} ms after 5 s"));
    }
}

#[test]
fn one_round_trip_never_adds_more_than_half() {
    let mut cubic = window_of(100);
    cubic.on_ack(&ack(at_ms(0), 1));
    // An hour later the curve is out of sight.
    cubic.on_ack(&ack(at_ms(3_600_000), u64::MAX));
    assert_eq!(cubic.cwnd(), 150_000);
}

#[test]
fn reductions_are_to_seven_tenths_of_the_flight() {
    for (name, in_flight, cwnd, ssthresh) in [
        ("the window", 10_000, 7_000, 7_000),
        ("less in flight", 6_000, 4_200, 4_200),
        ("the floor", 2_000, 2_000, 2_000),
        ("nothing in flight", 0, 2_000, 2_000),
        ("more than the window", 50_000, 10_000, 35_000),
    ] {
        let mut cubic = Cubic::new(MSS as u32, 10);
        cubic.on_congestion(Congestion::Loss, &lost(in_flight));
        assert_eq!((cubic.cwnd(), cubic.ssthresh(), cubic.w_max), (cwnd, ssthresh, 10_000), "{name}");
    }
}

#[test]
fn a_mark_may_reduce_by_less_than_a_loss() {
    for (abe, event, share) in [
        (true, Congestion::Ecn, 85),
        (true, Congestion::Loss, 70),
        (false, Congestion::Ecn, 70),
        (false, Congestion::Loss, 70),
    ] {
        let mut cubic = Cubic::new(MSS as u32, 100);
        cubic.on_congestion(event, &CongestionSample { abe, ..lost(100 * MSS) });
        assert_eq!((cubic.cwnd(), cubic.ssthresh()), (share * MSS, share * MSS), "{abe} {event:?}");
    }
}

#[test]
fn marks_reduce_down_to_one_segment_and_are_never_unfounded() {
    let mut cubic = Cubic::new(MSS as u32, 10);
    for _ in 0..10 {
        cubic.on_congestion(Congestion::Ecn, &lost(cubic.cwnd()));
    }
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (1_000, 2_000));
    cubic.on_spurious();
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (1_000, 2_000));
}

#[test]
fn fast_convergence_lowers_the_plateau_of_a_window_that_did_not_reach_it() {
    let mut cubic = after_loss(100);
    assert_eq!((cubic.cwnd(), cubic.w_max), (70_000, 100_000));
    cubic.on_congestion(Congestion::Loss, &lost(70_000));
    assert_eq!((cubic.cwnd(), cubic.w_max, cubic.cwnd_prior), (49_000, 59_500, 70_000)); // 70 · 0.85
    cubic.on_ack(&ack(at_ms(0), 1));
    assert_eq!(cubic.epoch.as_ref().unwrap().k, 2_971_960); // ∛(10.5 / 0.4) = 2.971960… s

    // Beyond the plateau it is the window again.
    rounds(&mut cubic, at_ms(0), ms(100), 60);
    let cwnd = cubic.cwnd();
    assert!(cwnd > 59_500);
    cubic.on_congestion(Congestion::Loss, &lost(cwnd));
    assert_eq!(cubic.w_max, cwnd);
}

#[test]
fn nothing_grows_in_recovery_nor_while_the_application_is_the_limit() {
    for mut cubic in [Cubic::new(MSS as u32, 10), after_loss(100)] {
        let before = cubic.cwnd();
        for i in 0..100 {
            cubic.on_ack(&AckSample { in_recovery: true, ..ack(at_ms(i * 50), 5_000) });
            cubic.on_ack(&AckSample { cwnd_limited: false, ..ack(at_ms(i * 50), 5_000) });
        }
        assert_eq!(cubic.cwnd(), before);
    }
}

#[test]
fn time_when_the_window_was_not_the_limit_does_not_count() {
    let busy = |cubic: &mut Cubic, from| rounds(cubic, at_ms(from), ms(100), 10);
    let mut steady = after_loss(100);
    busy(&mut steady, 0);
    busy(&mut steady, 1_000);

    let mut limited = after_loss(100);
    busy(&mut limited, 0);
    let elapsed = limited.epoch.as_ref().unwrap().elapsed;
    for i in 10..600 {
        limited.on_ack(&AckSample { cwnd_limited: false, ..ack(at_ms(i * 100), MSS) });
    }
    busy(&mut limited, 60_000);
    assert!(limited.epoch.as_ref().unwrap().elapsed <= elapsed + ms(1_000));
    assert!(limited.cwnd() <= steady.cwnd() && limited.cwnd() + MSS > steady.cwnd());

    let mut idle = after_loss(100);
    busy(&mut idle, 0);
    idle.on_idle(at_ms(30_000), ms(150), ms(200));
    busy(&mut idle, 30_000);
    assert!(idle.epoch.as_ref().unwrap().elapsed <= elapsed + ms(1_000));

    // A pause that nobody told: the last ACK left nothing in flight.
    let mut drained = after_loss(100);
    busy(&mut drained, 0);
    drained.on_ack(&AckSample { in_flight: MSS, ..ack(at_ms(1_000), MSS) });
    let elapsed = drained.epoch.as_ref().unwrap().elapsed;
    drained.on_ack(&ack(at_ms(9_000), MSS));
    assert_eq!(drained.epoch.as_ref().unwrap().elapsed, elapsed + ms(100));
}

#[test]
fn after_a_timeout_the_stage_begins_on_the_plateau() {
    let mut cubic = after_loss(100);
    rounds(&mut cubic, at_ms(0), ms(100), 10);
    let cwnd = cubic.cwnd();
    cubic.on_rto(&lost(80_000));
    assert_eq!((cubic.cwnd(), cubic.ssthresh(), cubic.cwnd_prior), (1_000, 56_000, cwnd));
    cubic.on_ack(&ack(at_ms(2_000), 55_000));
    assert_eq!((cubic.cwnd(), cubic.epoch.clone()), (56_000, None));
    cubic.on_ack(&ack(at_ms(2_100), 1));
    assert_eq!((cubic.w_max, cubic.epoch.as_ref().unwrap().k), (56_000, 0));
    // 56 + 9/17 each round trip is more than 56 + 0.4 t³ for the first seconds.
    rounds(&mut cubic, at_ms(2_100), ms(100), 20);
    assert_segments(&cubic, 56.0 + 20.0 * 9.0 / 17.0, 0.5, "two seconds later");
}

#[test]
fn slow_start_ends_at_the_threshold_and_the_rest_counts_for_avoidance() {
    let mut cubic = window_of(100);
    cubic.on_rto(&lost(100_000));
    cubic.on_ack(&ack(at_ms(0), 100_000));
    // 69,000 are slow start's. 31,000 of 70,000 are 31/70 of a round trip: W_cubic(100 ms) is less than a
    // byte above, and 9/17 · 31/70 of a segment are 234 bytes.
    assert_eq!(cubic.cwnd(), 70_234);
}

#[test]
fn repeated_timeouts_hold_the_threshold_and_are_undone_together() {
    let mut cubic = after_loss(100);
    rounds(&mut cubic, at_ms(0), ms(100), 5);
    let before = state(&cubic);
    cubic.on_rto(&lost(70_000));
    cubic.on_rto(&lost(1_000));
    cubic.on_rto(&lost(1_000));
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (1_000, 49_000));
    cubic.on_spurious();
    let elapsed = before.5.as_ref().unwrap().elapsed;
    assert_eq!((cubic.cwnd(), cubic.ssthresh(), cubic.w_max), (before.0, before.1, before.3));
    // A minute of silence is not time that the curve may use.
    cubic.on_ack(&ack(at_ms(60_000), 1));
    assert_eq!(cubic.epoch.as_ref().unwrap().elapsed, elapsed);

    cubic.on_rto(&lost(20_000));
    cubic.on_ack(&ack(at_ms(60_000), 1_000));
    cubic.on_rto(&lost(2_000));
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (1_000, 2_000), "delivery in between makes it a new one");
}

#[test]
fn an_unfounded_reduction_is_undone_as_if_it_had_never_been() {
    let (mut undone, mut untouched) = (after_loss(100), after_loss(100));
    for cubic in [&mut undone, &mut untouched] {
        rounds(cubic, at_ms(0), ms(100), 20);
    }
    let before = state(&undone);
    undone.on_congestion(Congestion::Loss, &lost(undone.cwnd()));
    assert_ne!(state(&undone), before);
    undone.on_spurious();
    assert_eq!(state(&undone), before);
    for cubic in [&mut undone, &mut untouched] {
        rounds(cubic, at_ms(2_000), ms(100), 20);
    }
    assert_eq!(state(&undone), state(&untouched));

    // Once, and with nothing to undo nothing happens.
    let now = state(&undone);
    undone.on_spurious();
    assert_eq!(state(&undone), now);
}

#[test]
fn what_turns_out_unfounded_after_the_window_has_grown_beyond_stays() {
    let mut cubic = after_loss(10);
    rounds(&mut cubic, at_ms(0), ms(10), 10);
    let now = state(&cubic);
    assert!(now.0 > 10_000);
    cubic.on_spurious();
    assert_eq!(state(&cubic), now);
}

#[test]
fn idleness_halves_the_window_for_each_timeout_down_to_the_initial_one() {
    let mut cubic = after_loss(100);
    rounds(&mut cubic, at_ms(0), ms(100), 10);
    let cwnd = cubic.cwnd();
    cubic.on_idle(at_ms(5_000), ms(200), ms(200));
    assert_eq!(cubic.cwnd(), cwnd);
    let mut halved = cubic.clone();
    halved.on_idle(at_ms(5_000), ms(201), ms(200));
    assert_eq!((halved.cwnd(), halved.ssthresh(), halved.epoch.clone()), (cwnd / 2, 70_000, None));
    cubic.on_idle(at_ms(5_000), ms(1_000), ms(200));
    assert_eq!((cubic.cwnd(), cubic.ssthresh(), cubic.epoch.clone()), (10_000, 70_000, None));
    // Slow start to the threshold, then a new curve to the old plateau.
    cubic.on_ack(&ack(at_ms(5_100), 60_000));
    cubic.on_ack(&ack(at_ms(5_200), 1));
    assert_eq!((cubic.cwnd(), cubic.w_max, cubic.epoch.as_ref().unwrap().k), (70_000, 100_000, 4_217_163));

    let mut small = after_loss(6);
    small.on_idle(at_ms(0), ms(201), ms(200));
    assert_eq!(small.cwnd(), 4_200, "never upwards");
    let mut one = Cubic::new(MSS as u32, 1);
    one.on_ack(&ack(at_ms(0), 5_000));
    one.on_idle(at_ms(0), ms(201), ms(200));
    assert_eq!(one.cwnd(), 3_000);
    one.on_idle(at_ms(0), ms(1_000), ms(200));
    assert_eq!(one.cwnd(), 2_000, "one segment is not paid twice");
}

#[test]
fn half_of_what_is_not_used_goes() {
    let mut cubic = after_loss(100);
    rounds(&mut cubic, at_ms(0), ms(100), 3);
    let cwnd = cubic.cwnd();
    cubic.on_underuse(at_ms(0), cwnd);
    assert!(cubic.cwnd() == cwnd && cubic.epoch.is_some());
    cubic.on_underuse(at_ms(0), 30_000);
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (cwnd.midpoint(30_000), 70_000));
    assert_eq!((cubic.epoch.clone(), cubic.w_max), (None, 100_000));
    for _ in 0..40 {
        cubic.on_underuse(at_ms(0), 1);
    }
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (10_000, 70_000));
}

#[test]
fn a_new_segment_size_moves_what_is_counted_in_segments() {
    let mut cubic = Cubic::new(MSS as u32, 10);
    cubic.on_mss(500);
    assert_eq!(cubic.cwnd(), 5_000, "the initial window");
    cubic.on_ack(&ack(at_ms(0), 1_000));
    cubic.on_mss(1_400);
    assert_eq!(cubic.cwnd(), 6_000, "a window in bytes");
    cubic.on_rto(&CongestionSample { mss: 1_400, ..lost(0) });
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (1_400, 2_800));
    cubic.on_mss(9_000);
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (9_000, 18_000));

    let mut cubic = after_loss(100);
    rounds(&mut cubic, at_ms(0), ms(100), 20);
    let cwnd = cubic.cwnd();
    cubic.on_mss(500);
    assert_eq!((cubic.cwnd(), cubic.w_max, cubic.epoch.clone()), (cwnd, 100_000, None));
}

#[test]
fn a_successor_goes_on_from_where_it_was() {
    let mut cubic = Cubic::new(MSS as u32, 10);
    let carried = Carried { cwnd: 80_000, ssthresh: 40_000, ..Carried::default() };
    cubic.import(carried);
    assert_eq!(cubic.export(), carried);
    // No curve comes along: this window is the plateau.
    cubic.on_ack(&ack(at_ms(0), 1));
    assert_eq!((cubic.w_max, cubic.epoch.as_ref().unwrap().k), (80_000, 0));
    // What was to be undone, a predecessor has done.
    cubic.on_congestion(Congestion::Loss, &lost(80_000));
    cubic.import(cubic.export());
    cubic.on_spurious();
    assert_eq!(cubic.cwnd(), 56_000);
    assert_eq!(cubic.initial_window(), 10_000);
}

/// One round of slow start in which all is acknowledged with this round trip.
fn slow_start_round(cubic: &mut Cubic, rtt: Duration) {
    let mut flight = cubic.cwnd();
    for _ in 0..flight / MSS {
        cubic.on_ack(&AckSample { in_flight: flight, rtt: Some(rtt), ..ack(at_ms(0), MSS) });
        flight = cubic.cwnd();
    }
}

#[test]
fn slow_start_ends_when_round_trips_get_longer() {
    let mut cubic = Cubic::new(MSS as u32, 10);
    slow_start_round(&mut cubic, ms(50));
    slow_start_round(&mut cubic, ms(50));
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (40_000, u64::MAX));
    // By 10 ms ≥ 50 / 8. A round ends with what was sent before its first ACK was answered, so that the first
    // one here still has round trips of 50 ms in it.
    slow_start_round(&mut cubic, ms(60));
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (80_000, u64::MAX));
    let mut windows = vec![cubic.cwnd()];
    while cubic.ssthresh() == u64::MAX {
        slow_start_round(&mut cubic, ms(60));
        windows.push(cubic.cwnd());
    }
    // Eight ACKs at the old pace, then a quarter for each of five rounds.
    assert_eq!(windows.len(), 6, "{windows:?}");
    assert!(windows.windows(2).all(|w| w[1] <= w[0] * 5 / 4 + 6 * MSS), "{windows:?}");
    assert!((windows[4]..=windows[5]).contains(&cubic.ssthresh()), "{windows:?}");
    assert_eq!(cubic.cwnd_prior, cubic.ssthresh());
    // §4.10: nothing was lost, so the curve begins on its plateau.
    assert_eq!((cubic.w_max, cubic.epoch.as_ref().unwrap().k), (cubic.ssthresh(), 0));
}

#[test]
fn slow_start_resumes_when_round_trips_get_shorter_again() {
    let mut cubic = Cubic::new(MSS as u32, 10);
    slow_start_round(&mut cubic, ms(50));
    slow_start_round(&mut cubic, ms(50));
    slow_start_round(&mut cubic, ms(60));
    let full = cubic.cwnd();
    slow_start_round(&mut cubic, ms(60));
    let slowed = cubic.cwnd();
    assert!(slowed < full * 4 / 3, "{full}, {slowed}");
    slow_start_round(&mut cubic, ms(55));
    let resumed = cubic.cwnd();
    slow_start_round(&mut cubic, ms(55));
    assert_eq!((cubic.cwnd(), cubic.ssthresh()), (resumed + resumed / MSS * MSS, u64::MAX));
}

#[test]
fn slow_start_after_a_loss_does_not_search() {
    let mut cubic = window_of(100);
    cubic.on_rto(&lost(100_000));
    for (round, rtt) in [50, 50, 50, 50, 90, 130].into_iter().enumerate() {
        slow_start_round(&mut cubic, ms(rtt));
        assert_eq!(cubic.cwnd(), 2_000 << round);
    }
}

#[derive(Clone, Debug)]
enum Call {
    Ack { acked: u64, in_flight: u64, limited: bool, in_recovery: bool, srtt: u64, after: u64, round: bool },
    Congestion(u64, bool),
    Rto(u64),
    Exit,
    Spurious,
    Idle(u64),
    Mss(u32),
    Import(u64, u64),
}

fn calls() -> impl Strategy<Value = Call> {
    let bytes = prop_oneof![3 => 0..100_000u64, 1 => any::<u64>(), 1 => Just(u64::MAX)];
    let nanos = prop_oneof![3 => 0..400_000_000u64, 1 => any::<u64>()];
    let ack = (bytes.clone(), bytes.clone(), prop::bool::weighted(0.8), prop::bool::weighted(0.1))
        .prop_flat_map(move |ack| (Just(ack), nanos.clone(), nanos.clone(), any::<bool>()))
        .prop_map(|((acked, in_flight, limited, in_recovery), srtt, after, round)| Call::Ack {
            acked,
            in_flight,
            limited,
            in_recovery,
            srtt,
            after,
            round,
        });
    prop_oneof![
        20 => ack,
        1 => (bytes.clone(), any::<bool>()).prop_map(|(n, ecn)| Call::Congestion(n, ecn)),
        1 => bytes.clone().prop_map(Call::Rto),
        1 => Just(Call::Exit),
        1 => Just(Call::Spurious),
        1 => any::<u64>().prop_map(Call::Idle),
        1 => prop_oneof![Just(0), 1..9_000u32, any::<u32>()].prop_map(Call::Mss),
        1 => (bytes.clone(), bytes).prop_map(|(c, s)| Call::Import(c, s)),
    ]
}

proptest! {
    #[test]
    fn windows_stay_within_bounds(
        first_mss in prop_oneof![1..9_000u32, Just(0), Just(u32::MAX)],
        segments in prop_oneof![1..20u32, Just(u32::MAX)],
        calls in prop::collection::vec(calls(), 1..120),
    ) {
        let mut cubic = Cubic::new(first_mss, segments);
        let mut mss = first_mss;
        let mut now = Instant::ZERO;
        for call in calls {
            let unit = u64::from(mss.max(1));
            let (cwnd, ssthresh) = (cubic.cwnd(), cubic.ssthresh());
            let sample = |in_flight| CongestionSample { in_flight, mss, now, abe: false };
            match call {
                Call::Ack { acked, in_flight, limited, in_recovery, srtt, after, round } => {
                    now = now + Duration::from_nanos(after);
                    let rtt = Some(Duration::from_nanos(srtt));
                    cubic.on_ack(&AckSample {
                        now, acked, rtt, min_rtt: rtt, srtt: rtt, in_flight, cwnd_limited: limited, in_recovery, mss,
                        round_start: round, ..AckSample::default()
                    });
                    prop_assert!(cubic.cwnd() >= cwnd);
                    prop_assert!(cubic.ssthresh() == ssthresh || ssthresh == u64::MAX);
                    prop_assert!(cubic.cwnd() - cwnd <= acked.saturating_add(2 * unit));
                    prop_assert!((limited && !in_recovery) || cubic.cwnd() == cwnd);
                }
                Call::Congestion(n, ecn) => {
                    let event = if ecn { Congestion::Ecn } else { Congestion::Loss };
                    cubic.on_congestion(event, &sample(n));
                    prop_assert!(cubic.cwnd() <= cwnd.max(2 * unit) && cubic.cwnd() <= cubic.ssthresh());
                    prop_assert!(ecn || cubic.cwnd() >= 2 * unit);
                }
                Call::Rto(n) => {
                    cubic.on_rto(&sample(n));
                    prop_assert_eq!(cubic.cwnd(), unit);
                }
                Call::Exit => {
                    cubic.on_recovery_exit(now);
                    prop_assert_eq!(cubic.cwnd(), cwnd);
                }
                Call::Spurious => {
                    cubic.on_spurious();
                    prop_assert!(cubic.cwnd() >= cwnd);
                }
                Call::Idle(ms) => {
                    cubic.on_idle(now, Duration::from_millis(ms), Duration::from_secs(1));
                    prop_assert!(cubic.cwnd() <= cwnd);
                }
                Call::Mss(new) => {
                    mss = new;
                    cubic.on_mss(mss);
                }
                Call::Import(cwnd, ssthresh) => cubic.import(Carried { cwnd, ssthresh, ..Carried::default() }),
            }
            let unit = u64::from(mss.max(1));
            prop_assert!(cubic.cwnd() >= unit && cubic.cwnd() <= MAX_CWND);
            prop_assert!(cubic.ssthresh() >= 2 * unit);
        }
    }

    #[test]
    fn the_curve_is_monotonous_and_never_overflows(
        w_max in any::<u64>(), cwnd in any::<u64>(), mss in any::<u32>(), a in any::<u64>(), b in any::<u64>(),
    ) {
        let mut cubic = Cubic::new(mss, 10);
        cubic.w_max = w_max.min(MAX_CWND);
        cubic.set_window(fixed(cwnd));
        let k = cubic.k();
        let at = |n: u64| cubic.w_cubic(Duration::from_nanos(n), k);
        prop_assert!(at(a.min(b)) <= at(a.max(b)));
        prop_assert!(cubic.w_cubic(Duration::MAX, k) <= MAX_CWND);
        // At 0 it is where the stage begins, but for K in whole microseconds.
        let error = (cubic.mss as f64) * 1.2e-6 * (k as f64 / 1e6).powi(2) + 2.0;
        prop_assert!((at(0) as f64 - cubic.cwnd().min(cubic.w_max) as f64).abs() <= error);
    }

    #[test]
    fn cube_roots_are_the_largest_that_fit(n in any::<u128>()) {
        let root = u128::from(cube_root(n));
        prop_assert!(root.pow(3) <= n);
        prop_assert!((root + 1).checked_pow(3).is_none_or(|cube| cube > n));
    }
}
