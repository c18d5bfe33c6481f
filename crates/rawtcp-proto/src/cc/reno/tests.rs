use super::*;
use proptest::prelude::*;

const MSS: u64 = 1000;

fn ack(acked: u64) -> AckSample {
    AckSample { acked, cwnd_limited: true, mss: MSS as u32, ..AckSample::default() }
}

fn at(in_flight: u64) -> CongestionSample {
    CongestionSample { in_flight, mss: MSS as u32, ..CongestionSample::default() }
}

fn after_loss(in_flight: u64) -> Reno {
    let mut reno = Reno::new(MSS as u32, 10);
    reno.on_congestion(Congestion::Loss, &at(in_flight));
    reno
}

#[test]
fn slow_start_grows_by_what_was_acknowledged() {
    let mut reno = Reno::new(MSS as u32, 10);
    assert_eq!((reno.cwnd(), reno.ssthresh()), (10_000, u64::MAX));
    reno.on_ack(&ack(1));
    reno.on_ack(&ack(64_000));
    assert_eq!(reno.cwnd(), 74_001);
}

#[test]
fn slow_start_ends_at_the_threshold_and_the_rest_counts_for_avoidance() {
    let mut reno = after_loss(8_000);
    reno.on_rto(&at(8_000));
    assert_eq!((reno.cwnd(), reno.ssthresh()), (1_000, 4_000));
    reno.on_ack(&ack(3_500));
    assert_eq!(reno.cwnd(), 4_000);
    reno.on_ack(&ack(3_499));
    assert_eq!(reno.cwnd(), 4_000);
    reno.on_ack(&ack(1));
    assert_eq!(reno.cwnd(), 5_000);
}

#[test]
fn avoidance_adds_one_segment_per_window_however_it_is_cut() {
    for piece in [100, 1_000, 2_000, 10_000] {
        let mut reno = after_loss(20_000);
        assert_eq!(reno.cwnd(), 10_000);
        for _ in 0..10_000 / piece {
            reno.on_ack(&ack(piece));
        }
        assert_eq!(reno.cwnd(), 11_000, "acknowledged by {piece}");
    }
}

#[test]
fn a_window_of_three_and_a_half_segments_is_a_round_trip_of_three() {
    let mut reno = after_loss(7_000);
    assert_eq!(reno.cwnd(), 3_500);
    reno.on_ack(&ack(2_000));
    assert_eq!(reno.cwnd(), 3_500);
    reno.on_ack(&ack(1_000));
    assert_eq!(reno.cwnd(), 4_500);
    reno.on_ack(&ack(4_000));
    assert_eq!(reno.cwnd(), 5_500);
}

#[test]
fn nothing_grows_in_recovery_nor_while_the_application_is_the_limit() {
    let mut reno = Reno::new(MSS as u32, 10);
    reno.on_ack(&AckSample { in_recovery: true, ..ack(5_000) });
    reno.on_ack(&AckSample { cwnd_limited: false, ..ack(5_000) });
    assert_eq!(reno.cwnd(), 10_000);
}

#[test]
fn reductions_halve_the_flight_and_not_the_window() {
    for (name, in_flight, expected) in [
        ("half", 10_000, 5_000),
        ("less in flight than the window", 6_000, 3_000),
        ("the floor", 1_000, 2_000),
        ("nothing in flight", 0, 2_000),
    ] {
        for event in [Congestion::Loss, Congestion::Ecn] {
            let mut reno = Reno::new(MSS as u32, 10);
            reno.on_congestion(event, &at(in_flight));
            assert_eq!((reno.cwnd(), reno.ssthresh()), (expected, expected), "{name}, {event:?}");
        }
    }
}

#[test]
fn repeated_timeouts_hold_the_threshold() {
    let mut reno = Reno::new(MSS as u32, 20);
    reno.on_rto(&at(20_000));
    reno.on_rto(&at(1_000));
    reno.on_rto(&at(1_000));
    assert_eq!((reno.cwnd(), reno.ssthresh()), (1_000, 10_000));
    reno.on_spurious();
    assert_eq!((reno.cwnd(), reno.ssthresh()), (20_000, u64::MAX));
    reno.on_rto(&at(20_000));
    reno.on_ack(&ack(1_000));
    reno.on_rto(&at(2_000));
    assert_eq!((reno.cwnd(), reno.ssthresh()), (1_000, 2_000), "delivery in between makes it a new one");
}

#[test]
fn the_last_reduction_is_undone_once() {
    let mut reno = Reno::new(MSS as u32, 10);
    reno.on_congestion(Congestion::Loss, &at(10_000));
    reno.on_recovery_exit(Instant::ZERO);
    reno.on_spurious();
    assert_eq!((reno.cwnd(), reno.ssthresh()), (10_000, u64::MAX));
    reno.on_ack(&ack(2_000));
    reno.on_spurious();
    assert_eq!((reno.cwnd(), reno.ssthresh()), (12_000, u64::MAX));
}

#[test]
fn idleness_halves_the_window_for_each_timeout_down_to_the_initial_one() {
    let (ms, now) = (Duration::from_millis, Instant::ZERO);
    // (idle; window afterwards), from 40,000 with an RTO of 200 ms
    let table = [
        (ms(200), 40_000),
        (ms(201), 20_000),
        (ms(399), 20_000),
        (ms(401), 10_000),
        (ms(60_000), 10_000),
        (Duration::MAX, 10_000),
    ];
    for (idle, cwnd) in table {
        let mut reno = Reno::new(MSS as u32, 10);
        reno.on_ack(&ack(30_000));
        reno.on_idle(now, idle, ms(200));
        assert_eq!((reno.cwnd(), reno.ssthresh()), (cwnd, u64::MAX), "{idle:?}");
    }
    let mut reno = Reno::new(MSS as u32, 10);
    reno.on_congestion(Congestion::Loss, &at(6_000));
    reno.on_idle(now, ms(201), ms(200));
    assert_eq!((reno.cwnd(), reno.ssthresh()), (3_000, 3_000), "never upwards");
    // Three quarters of what fitted once are gone back to by slow start.
    reno.on_ack(&ack(200_000));
    let cwnd = reno.cwnd();
    reno.import(Carried { cwnd: 40_000, ssthresh: 20_000, ..Carried::default() });
    reno.on_idle(now, ms(900), ms(200));
    assert_eq!((cwnd, reno.cwnd(), reno.ssthresh()), (4_000, 10_000, 30_000));
}

#[test]
fn half_of_what_is_not_used_goes() {
    let mut reno = Reno::new(MSS as u32, 10);
    reno.on_ack(&ack(30_000));
    reno.on_underuse(Instant::ZERO, 40_000);
    assert_eq!((reno.cwnd(), reno.ssthresh()), (40_000, u64::MAX));
    reno.import(Carried { cwnd: 40_000, ssthresh: 8_000, ..Carried::default() });
    reno.on_underuse(Instant::ZERO, 20_000);
    assert_eq!((reno.cwnd(), reno.ssthresh()), (30_000, 30_000));
    // What the initial window allows counts as used.
    for _ in 0..40 {
        reno.on_underuse(Instant::ZERO, 1);
    }
    assert_eq!((reno.cwnd(), reno.ssthresh()), (10_000, 30_000));
}

#[test]
fn a_new_segment_size_moves_what_is_counted_in_segments() {
    let mut reno = Reno::new(MSS as u32, 10);
    reno.on_mss(500);
    assert_eq!(reno.cwnd(), 5_000, "the initial window");
    reno.on_ack(&ack(1_000));
    reno.on_mss(1_400);
    assert_eq!(reno.cwnd(), 6_000, "a window in bytes");
    reno.on_rto(&CongestionSample { mss: 1_400, ..at(0) });
    assert_eq!((reno.cwnd(), reno.ssthresh()), (1_400, 2_800));
    reno.on_mss(500);
    assert_eq!(reno.cwnd(), 500, "the loss window");
    reno.on_mss(9_000);
    assert_eq!((reno.cwnd(), reno.ssthresh()), (9_000, 18_000));
}

#[test]
fn an_initial_window_of_one_segment_is_not_paid_twice() {
    let mut reno = Reno::new(MSS as u32, 1);
    assert_eq!(reno.cwnd(), 1_000);
    reno.on_ack(&ack(5_000));
    reno.on_idle(Instant::ZERO, Duration::from_secs(2), Duration::from_secs(1));
    assert_eq!(reno.cwnd(), 2_000);
}

#[derive(Clone, Debug)]
enum Call {
    Ack(u64, bool, bool),
    Congestion(u64),
    Rto(u64),
    Underuse(u64),
    Exit,
    Spurious,
    Idle(u64),
    Import(u64, u64),
}

fn calls() -> impl Strategy<Value = Call> {
    let bytes = prop_oneof![0..100_000u64, any::<u64>(), Just(u64::MAX)];
    prop_oneof![
        6 => (bytes.clone(), any::<bool>(), any::<bool>()).prop_map(|(n, a, b)| Call::Ack(n, a, b)),
        1 => bytes.clone().prop_map(Call::Congestion),
        1 => bytes.clone().prop_map(Call::Rto),
        1 => Just(Call::Exit),
        1 => Just(Call::Spurious),
        1 => any::<u64>().prop_map(Call::Idle),
        1 => any::<u64>().prop_map(Call::Underuse),
        1 => (bytes.clone(), bytes).prop_map(|(c, s)| Call::Import(c, s)),
    ]
}

proptest! {
    #[test]
    fn windows_stay_within_bounds(
        mss in prop_oneof![1..9_000u32, Just(0), Just(u32::MAX)],
        segments in prop_oneof![2..20u32, Just(u32::MAX)],
        calls in prop::collection::vec(calls(), 1..80),
    ) {
        let mut reno = Reno::new(mss, segments);
        let unit = u64::from(mss.max(1));
        let mut after_rto = false;
        for call in calls {
            let (cwnd, ssthresh) = (reno.cwnd(), reno.ssthresh());
            let sample = |in_flight| CongestionSample { in_flight, mss, ..CongestionSample::default() };
            match call {
                Call::Ack(acked, cwnd_limited, in_recovery) => {
                    reno.on_ack(&AckSample { acked, cwnd_limited, in_recovery, mss, ..AckSample::default() });
                    prop_assert!(reno.cwnd() >= cwnd && reno.ssthresh() == ssthresh);
                    prop_assert!(reno.cwnd() - cwnd <= acked.max(unit));
                }
                Call::Congestion(n) => {
                    reno.on_congestion(Congestion::Loss, &sample(n));
                    prop_assert!(reno.cwnd() <= cwnd.max(2 * unit) && reno.cwnd() <= reno.ssthresh());
                    after_rto = false;
                }
                Call::Rto(n) => {
                    reno.on_rto(&sample(n));
                    prop_assert_eq!(reno.cwnd(), unit);
                    after_rto = true;
                }
                Call::Exit => {
                    reno.on_recovery_exit(Instant::ZERO);
                    prop_assert_eq!(reno.cwnd(), cwnd);
                }
                Call::Spurious => {
                    reno.on_spurious();
                    prop_assert!(reno.cwnd() >= cwnd && reno.ssthresh() >= ssthresh.min(2 * unit));
                }
                Call::Idle(ms) => {
                    reno.on_idle(Instant::ZERO, Duration::from_millis(ms), Duration::from_secs(1));
                    prop_assert!(reno.cwnd() <= cwnd);
                }
                Call::Underuse(used) => {
                    reno.on_underuse(Instant::ZERO, used);
                    prop_assert!(reno.cwnd() <= cwnd && reno.cwnd() >= cwnd / 2);
                }
                Call::Import(cwnd, ssthresh) => {
                    reno.import(Carried { cwnd, ssthresh, ..Carried::default() });
                    after_rto |= cwnd < 2 * unit;
                }
            }
            after_rto &= reno.cwnd() < 2 * unit;
            let floor = if after_rto { unit } else { 2 * unit };
            prop_assert!(reno.cwnd() >= floor);
            prop_assert!(reno.cwnd() <= MAX_CWND && reno.ssthresh() >= 2 * unit);
        }
    }
}
