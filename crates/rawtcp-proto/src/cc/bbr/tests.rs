use super::*;
use proptest::prelude::*;

const MSS: u64 = 1000;
/// A path of 10 MB/s and 100 ms: a megabyte.
const RATE: u64 = 10_000_000;
const RTT: Duration = Duration::from_millis(100);
const BDP: u64 = 1_000_000;

fn at(ms: u64) -> Instant {
    Instant::from_millis(1_000 + ms)
}

/// A sender that is acknowledged a tenth of a round trip at a time.
struct Flow {
    bbr: Bbr,
    now: u64,
    delivered: u64,
    /// What had been delivered when that was sent whose acknowledgment comes a round trip later.
    sent: std::collections::VecDeque<u64>,
    lost: u64,
    limited: bool,
    rtt: Duration,
}

impl Flow {
    fn new() -> Flow {
        let sent = std::iter::repeat_n(0, 10).collect();
        Flow { bbr: Bbr::new(MSS as u32, 10), now: 0, delivered: 0, sent, lost: 0, limited: false, rtt: RTT }
    }

    /// The next tenth of a round trip, in which so much is delivered at a rate.
    fn step(&mut self, rate: u64, pipe: u64) {
        self.now += 10;
        let acked = rate / 100;
        self.delivered += acked;
        let prior_delivered = self.sent.pop_front().unwrap();
        self.sent.push_back(self.delivered);
        let volume = self.delivered - prior_delivered;
        let sample = RateSample {
            delivered: volume,
            interval: Duration::from_nanos(volume * 1_000_000_000 / rate),
            app_limited: self.limited,
            prior_delivered,
            tx_in_flight: pipe,
            lost: self.lost,
        };
        self.bbr.on_ack(&AckSample {
            now: at(self.now),
            acked,
            rtt: Some(self.rtt),
            min_rtt: Some(self.rtt),
            srtt: Some(self.rtt),
            in_flight: pipe + acked,
            pipe,
            cwnd_limited: true,
            mss: MSS as u32,
            delivery_rate: Some(sample.bytes_per_second()),
            rate: Some(sample),
            ..AckSample::default()
        });
    }

    fn rounds(&mut self, rounds: u64, rate: u64, pipe: u64) {
        (0..rounds * 10).for_each(|_| self.step(rate, pipe));
    }

    /// In ProbeBW, with a model of the path.
    fn probing() -> Flow {
        let mut flow = Flow::new();
        flow.rounds(6, RATE, 2 * BDP);
        assert_eq!(flow.bbr.state, State::Drain);
        // What drains the queue is also little enough to cruise with.
        flow.step(RATE, BDP / 2);
        assert_eq!(flow.bbr.state, State::Cruise);
        flow
    }

    fn until(&mut self, state: State, rate: u64, pipe: u64) {
        for _ in 0..2_000 {
            if self.bbr.state == state {
                return;
            }
            self.step(rate, pipe);
        }
        panic!("never in {state:?}: {:?}", self.bbr);
    }
}

#[test]
fn it_begins_with_the_initial_window_at_almost_three_times_its_rate() {
    let bbr = Bbr::new(MSS as u32, 10);
    assert_eq!((bbr.cwnd(), bbr.ssthresh(), bbr.pacing_rate()), (10_000, u64::MAX, None));
    let mut flow = Flow::new();
    flow.step(100_000, 0);
    assert_eq!(flow.bbr.pacing_rate(), Some(277_000));
    assert_eq!(flow.bbr.state, State::Startup);
}

#[test]
fn startup_ends_after_three_rounds_without_a_quarter_more() {
    let mut flow = Flow::new();
    for n in 0..6 {
        flow.rounds(1, 1_000_000 << n, 0);
        assert_eq!(flow.bbr.state, State::Startup, "round {n}");
    }
    // 32 MB/s are all there is.
    flow.rounds(2, 32_000_000, 4 * BDP);
    assert_eq!(flow.bbr.state, State::Startup);
    flow.rounds(2, 32_000_000, 4 * BDP);
    assert_eq!(flow.bbr.state, State::Drain);
    // 0.35 of the rate, less a hundredth.
    assert_eq!(flow.bbr.pacing_rate(), Some(32_000_000 / 100 * 35 / 100 * 99));
    flow.step(32_000_000, 3 * BDP);
    assert_eq!(flow.bbr.state, State::Cruise);
    assert_eq!((flow.bbr.bw, flow.bbr.min_rtt), (32_000_000, Some(RTT)));
}

#[test]
fn an_application_that_sends_little_does_not_end_startup() {
    let mut flow = Flow::new();
    flow.limited = true;
    flow.rounds(30, 1_000_000, 0);
    assert_eq!(flow.bbr.state, State::Startup);
    assert_eq!(flow.bbr.bw, 1_000_000, "faster than what was known");
}

#[test]
fn losses_of_a_round_in_recovery_end_startup() {
    let mut flow = Flow::new();
    flow.rounds(2, RATE, BDP);
    let sample =
        CongestionSample { now: at(flow.now), in_flight: 2 * BDP, mss: MSS as u32, ..CongestionSample::default() };
    flow.bbr.on_congestion(Congestion::Loss, &sample);
    flow.lost = BDP / 10;
    let loss = LossSample { now: at(flow.now), lost: MSS, tx_in_flight: 2 * BDP, ..LossSample::default() };
    // The rate grows: by that alone, it would go on.
    let mut rate = RATE;
    for _ in 0..25 {
        flow.bbr.on_lost(&loss);
        rate += RATE / 20;
        flow.step(rate, 2 * BDP);
    }
    assert_ne!(flow.bbr.state, State::Startup);
    assert!(flow.bbr.inflight_hi < INFINITE);
}

#[test]
fn the_probes_follow_each_other() {
    let mut flow = Flow::probing();
    flow.until(State::Cruise, RATE, BDP / 2);
    let cruising = flow.now;
    flow.until(State::Refill, RATE, BDP);
    // Two to three seconds since the last probe, or 63 rounds.
    assert!((1_000..=3_100).contains(&(flow.now - cruising)), "{}", flow.now - cruising);
    assert_eq!(flow.bbr.pacing_rate(), Some(RATE / 100 * 99));
    flow.until(State::Up, RATE, BDP);
    assert_eq!(flow.bbr.pacing_rate(), Some(RATE * 125 / 100 / 100 * 99));
    assert!(flow.bbr.cwnd() > 2 * BDP);
    // No more comes of it.
    flow.until(State::Down, RATE, BDP);
    assert_eq!(flow.bbr.pacing_rate(), Some(RATE * 90 / 100 / 100 * 99));
}

#[test]
fn more_bandwidth_is_found_by_a_probe_and_less_after_two_cycles() {
    let mut flow = Flow::probing();
    flow.until(State::Up, RATE, BDP);
    flow.rounds(3, RATE * 5 / 4, BDP);
    assert_eq!(flow.bbr.bw, RATE * 5 / 4);
    for _ in 0..3 {
        flow.until(State::Up, RATE / 2, BDP / 4);
        flow.until(State::Down, RATE / 2, BDP / 4);
    }
    flow.rounds(2, RATE / 2, BDP / 4);
    assert_eq!(flow.bbr.bw, RATE / 2);
}

#[test]
fn losses_while_cruising_lower_the_bounds_until_the_next_probe() {
    let mut flow = Flow::probing();
    flow.until(State::Cruise, RATE, BDP / 2);
    flow.rounds(1, RATE, BDP);
    let loss = LossSample { now: at(flow.now), lost: MSS, tx_in_flight: BDP, lost_since: MSS, ..LossSample::default() };
    flow.bbr.on_lost(&loss);
    flow.rounds(2, RATE * 8 / 10, BDP);
    assert_eq!((flow.bbr.bw, flow.bbr.bw_lo), (RATE, RATE), "what was still delivered counts");
    flow.bbr.on_lost(&loss);
    flow.rounds(2, RATE * 8 / 10, BDP);
    assert_eq!(flow.bbr.bw, RATE * 8 / 10);
    for _ in 0..3 {
        flow.bbr.on_lost(&loss);
        flow.rounds(2, RATE / 10, BDP);
    }
    assert!(flow.bbr.bw >= RATE * 8 / 10 * 34 / 100, "0.7 a round: {}", flow.bbr.bw);
    flow.until(State::Refill, RATE / 10, BDP);
    assert_eq!((flow.bbr.bw_lo, flow.bbr.inflight_lo), (INFINITE, INFINITE));
}

#[test]
fn loss_in_a_probe_says_how_much_is_too_much() {
    let mut flow = Flow::probing();
    flow.until(State::Up, RATE, BDP);
    let now = at(flow.now);
    let loss =
        |lost_since| LossSample { now, lost: MSS, tx_in_flight: BDP * 5 / 4, lost_since, ..LossSample::default() };
    flow.bbr.on_lost(&loss(BDP / 50));
    assert_eq!((flow.bbr.state, flow.bbr.inflight_hi), (State::Up, INFINITE), "less than 2 %");
    flow.bbr.on_lost(&loss(BDP / 30));
    assert_eq!((flow.bbr.state, flow.bbr.inflight_hi), (State::Down, BDP * 5 / 4));
    // Once for each probe.
    flow.bbr.on_lost(&LossSample { tx_in_flight: 1, ..loss(BDP) });
    assert_eq!(flow.bbr.inflight_hi, BDP * 5 / 4);
    flow.until(State::Cruise, RATE, BDP / 2);
    flow.step(RATE, BDP);
    // 15 % are left to others.
    assert!(flow.bbr.cwnd() <= BDP * 5 / 4 * 85 / 100, "{}", flow.bbr.cwnd());
}

#[test]
fn a_round_trip_that_has_not_been_seen_for_five_seconds_is_looked_for() {
    let mut flow = Flow::probing();
    flow.rtt = RTT + Duration::from_millis(1);
    let since = flow.now;
    flow.until(State::ProbeRtt, RATE, BDP);
    assert!((4_300..=5_100).contains(&(flow.now - since)), "{}", flow.now - since);
    flow.step(RATE, BDP);
    assert_eq!(flow.bbr.cwnd(), flow.bbr.bdp(50));
    // Until little enough is in flight, then 200 ms and a round.
    let before = flow.now;
    flow.rounds(2, RATE, BDP * 4 / 10);
    assert_eq!(flow.bbr.state, State::ProbeRtt);
    flow.until(State::Cruise, RATE, BDP * 4 / 10);
    assert!(flow.now - before <= 400, "{}", flow.now - before);
    assert!(flow.bbr.cwnd() >= 2 * BDP, "the window is what it was");
}

#[test]
fn after_a_timeout_it_goes_back_to_the_window_that_was_good() {
    let mut flow = Flow::probing();
    flow.until(State::Cruise, RATE, BDP / 2);
    let cwnd = flow.bbr.cwnd();
    let sample = CongestionSample { now: at(flow.now), in_flight: BDP, mss: MSS as u32, ..CongestionSample::default() };
    flow.bbr.on_rto(&sample);
    assert_eq!(flow.bbr.cwnd(), MSS);
    flow.bbr.on_rto(&sample);
    flow.step(RATE / 100, MSS);
    assert!(flow.bbr.cwnd() < cwnd);
    flow.bbr.on_recovery_exit(at(flow.now));
    assert_eq!(flow.bbr.cwnd(), cwnd);
}

#[test]
fn what_a_predecessor_knew_is_where_the_model_begins() {
    let mut bbr = Bbr::new(MSS as u32, 10);
    bbr.import(Carried { cwnd: 500_000, ssthresh: 400_000, min_rtt: Some(RTT), bandwidth: Some(RATE) });
    assert_eq!((bbr.cwnd(), bbr.bw, bbr.pacing_rate()), (500_000, RATE, Some(RATE / 100 * 99)));
    let out = bbr.export();
    assert_eq!((out.cwnd, out.min_rtt, out.bandwidth), (500_000, Some(RTT), Some(RATE)));
}

#[test]
fn the_round_trip_of_a_predecessor_lasts_as_long_as_ones_own() {
    let mut flow = Flow { now: 60_000, rtt: RTT * 2, ..Flow::new() };
    flow.bbr.import(Carried { cwnd: BDP, ssthresh: BDP, min_rtt: Some(RTT), bandwidth: Some(RATE) });
    flow.rounds(90, RATE, BDP);
    assert_eq!(flow.bbr.export().min_rtt, Some(RTT), "nine seconds later");
    flow.rounds(15, RATE, BDP);
    assert_eq!(flow.bbr.export().min_rtt, Some(RTT * 2), "more than ten");
}

#[derive(Clone, Debug)]
enum Call {
    Ack { acked: u64, pipe: u64, after: u64, rtt: Option<u64>, rate: Option<(u64, u64, u64, u64)>, flags: u8 },
    Congestion(bool),
    Lost(u64, u64, bool),
    Rto,
    Exit,
    Spurious,
    Restart,
    Mss(u32),
    Import(u64, Option<u64>, Option<u64>),
}

fn calls() -> impl Strategy<Value = Call> {
    let bytes = || prop_oneof![0..3_000_000u64, any::<u64>()];
    let time = || prop_oneof![0..200_000_000u64, any::<u64>()];
    let rate = proptest::option::of((bytes(), time(), bytes(), bytes()));
    let ack = (bytes(), bytes(), time(), proptest::option::of(time()), rate, any::<u8>());
    prop_oneof![
        12 => ack.prop_map(|(acked, pipe, after, rtt, rate, flags)| Call::Ack { acked, pipe, after, rtt, rate, flags }),
        1 => any::<bool>().prop_map(Call::Congestion),
        2 => (bytes(), bytes(), any::<bool>()).prop_map(|(a, b, c)| Call::Lost(a, b, c)),
        1 => Just(Call::Rto),
        1 => Just(Call::Exit),
        1 => Just(Call::Spurious),
        1 => Just(Call::Restart),
        1 => any::<u32>().prop_map(Call::Mss),
        1 => (bytes(), proptest::option::of(bytes()), proptest::option::of(time()))
            .prop_map(|(c, b, t)| Call::Import(c, b, t)),
    ]
}

proptest! {
    #[test]
    fn windows_stay_within_bounds_and_rates_are_not_zero(calls in prop::collection::vec(calls(), 1..150)) {
        let mut bbr = Bbr::new(MSS as u32, 10);
        let (mut mss, mut now, mut delivered) = (MSS, Instant::ZERO, 0u64);
        for call in calls {
            let sample = CongestionSample { now, in_flight: 0, mss: mss as u32, ..CongestionSample::default() };
            match call {
                Call::Ack { acked, pipe, after, rtt, rate, flags } => {
                    now = now + Duration::from_nanos(after);
                    delivered = delivered.saturating_add(acked);
                    let rate = rate.map(|(volume, interval, lost, tx_in_flight)| RateSample {
                        delivered: volume.min(delivered),
                        interval: Duration::from_nanos(interval.max(1)),
                        app_limited: flags & 1 == 1,
                        prior_delivered: delivered - volume.min(delivered),
                        tx_in_flight,
                        lost,
                    });
                    let rtt = rtt.map(Duration::from_nanos);
                    bbr.on_ack(&AckSample {
                        now, acked, pipe, rtt, rate, srtt: rtt, cwnd_limited: flags & 2 == 2, mss: mss as u32,
                        ..AckSample::default()
                    });
                }
                Call::Congestion(ecn) =>
                    bbr.on_congestion(if ecn { Congestion::Ecn } else { Congestion::Loss }, &sample),
                Call::Lost(lost, tx_in_flight, app_limited) => bbr.on_lost(&LossSample {
                    now, lost, tx_in_flight, lost_since: lost, app_limited, mss: mss as u32,
                }),
                Call::Rto => bbr.on_rto(&sample),
                Call::Exit => bbr.on_recovery_exit(now),
                Call::Spurious => bbr.on_spurious(),
                Call::Restart => bbr.on_restart(now),
                Call::Mss(new) => {
                    mss = u64::from(new.max(1));
                    bbr.on_mss(new);
                }
                Call::Import(cwnd, bandwidth, rtt) => bbr.import(Carried {
                    cwnd, ssthresh: u64::MAX, min_rtt: rtt.map(Duration::from_nanos), bandwidth,
                }),
            }
            prop_assert!(bbr.cwnd() >= mss.min(MSS).min(bbr.mss) && bbr.cwnd() <= MAX_CWND.max(4 * bbr.mss), "{}", bbr.cwnd());
            prop_assert!(bbr.pacing_rate() != Some(0));
        }
    }
}
