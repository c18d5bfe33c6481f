//! The round-trip time, what is deduced from it (RFC 6298), and its recent minimum.

use crate::time::{Duration, Instant};

/// G of RFC 6298 §2: no finer wait than this is trusted. Timers of real devices are finer, but a
/// paused runtime clock moves in steps of one millisecond.
const GRANULARITY: Nanos = 1_000_000;

/// How long a minimum is believed. Linux's default (`tcp_min_rtt_wlen`) as well: long enough to see the
/// empty path once, short enough to notice a longer one (RFC 8985 §6.2, step 1).
const MIN_RTT_WINDOW: u32 = 300;

/// The timeout after a lost SYN on a path without a measurement (RFC 6298 §5.7).
const AFTER_SYN_TIMEOUT: Duration = Duration::from_secs(3);

/// Durations as each connection keeps them: a third of a `Duration` and its tag. Longer ones are this long.
type Nanos = u64;
const NONE: Nanos = u64::MAX;
const LONGEST: Nanos = NONE - 1;

fn nanos(d: Duration) -> Nanos {
    Nanos::try_from(d.as_nanos()).map_or(LONGEST, |n| n.min(LONGEST))
}

/// Bounds as each connection keeps them: whole milliseconds, rounded up. What is longer than 49 days is that long.
type Millis = u32;

fn millis(d: Duration) -> Millis {
    Millis::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(Millis::MAX)
}

fn in_nanos(bound: Millis) -> Nanos {
    Nanos::from(bound) * 1_000_000
}

/// SRTT, RTTVAR, RTO and the windowed minimum of one path. All values are durations.
#[derive(Clone, Debug)]
pub struct RttEstimator {
    /// `NONE` before the first sample.
    srtt: Nanos,
    rttvar: Nanos,
    min: WindowedMin,
    initial_rto: Millis,
    min_rto: Millis,
    max_rto: Millis,
}

impl RttEstimator {
    /// An estimator without a sample: its RTO is `initial_rto` (RFC 6298 §2.1).
    ///
    /// `min_rto` bounds the variance term from below, and with it the RTO; `max_rto` bounds the RTO from
    /// above, with backoff and without (RFC 6298 §2.5), and wins if the two contradict. All three are taken to the
    /// millisecond, rounded up.
    pub fn new(initial_rto: Duration, min_rto: Duration, max_rto: Duration) -> Self {
        let [initial_rto, min_rto, max_rto] = [initial_rto, min_rto, max_rto].map(millis);
        RttEstimator { srtt: NONE, rttvar: 0, min: WindowedMin::default(), initial_rto, min_rto, max_rto }
    }

    /// Takes one measurement, made at `now`. The caller keeps Karn's rule: never of a retransmitted
    /// segment, unless timestamps tell which copy was answered (RFC 6298 §3).
    pub fn on_sample(&mut self, rtt: Duration, now: Instant) {
        let rtt = nanos(rtt);
        self.min.update(rtt, now);
        (self.srtt, self.rttvar) = match (self.srtt, self.rttvar) {
            // RFC 6298 §2.2: the first measurement.
            (NONE, _) => (rtt, rtt / 2),
            // RFC 6298 §2.3: RTTVAR first, from the old SRTT; beta = 1/4, alpha = 1/8.
            (srtt, rttvar) => (srtt - srtt / 8 + rtt / 8, rttvar - rttvar / 4 + srtt.abs_diff(rtt) / 4),
        };
    }

    /// The SYN timed out. Without any sample, the RTO is at least 3 s from now on (RFC 6298 §5.7).
    pub fn on_syn_timeout(&mut self) {
        self.initial_rto = self.initial_rto.max(millis(AFTER_SYN_TIMEOUT));
    }

    /// The smoothed round-trip time, once there is a sample.
    pub fn srtt(&self) -> Option<Duration> {
        (self.srtt != NONE).then(|| Duration::from_nanos(self.srtt))
    }

    /// The round-trip time variation, once there is a sample.
    pub fn rttvar(&self) -> Option<Duration> {
        (self.srtt != NONE).then(|| Duration::from_nanos(self.rttvar))
    }

    /// The least sample of the last 300 s before the last sample (RACK.min_RTT, RFC 8985 §6.2, step 1).
    pub fn min_rtt(&self) -> Option<Duration> {
        let rtt = self.min.best[0].rtt;
        (rtt != NEVER).then(|| Duration::from_micros(rtt.into()))
    }

    /// The retransmission timeout without backoff.
    ///
    /// RFC 6298 §2.3 with the lower bound on the variance term rather than on the sum, as Linux has it:
    /// on a long steady path RTTVAR goes to nothing, and a bound on the sum would let the timer run into
    /// every delayed acknowledgment. This replaces the 1 s of §2.4, a SHOULD.
    pub fn rto(&self) -> Duration {
        Duration::from_nanos(self.rto_nanos())
    }

    fn rto_nanos(&self) -> Nanos {
        let rto = match self.srtt {
            NONE => in_nanos(self.initial_rto),
            srtt => srtt.saturating_add(self.rttvar.saturating_mul(4).max(in_nanos(self.min_rto)).max(GRANULARITY)),
        };
        rto.min(in_nanos(self.max_rto))
    }

    /// The retransmission timeout after `n` expiries in a row: doubled each time (RFC 6298 §5.5), at most
    /// the maximum.
    pub fn rto_backed_off(&self, n: u32) -> Duration {
        // 2^31 times any useful RTO is beyond any useful maximum: a larger shift changes nothing.
        Duration::from_nanos(self.rto_nanos().saturating_mul(1 << n.min(31)).min(in_nanos(self.max_rto)))
    }
}

/// A minimum over a sliding window in constant memory, after Kathleen Nichols' algorithm.
///
/// Kept are the minimum of the window, the minimum of what came after it, and the minimum of what came after
/// that. Of round trips whole microseconds count, of times whole seconds. When the first grows too old, the second takes its place. The choice is forced to be spread over
/// the window (after a quarter and after half of it), so that a successor is never itself about to expire.
/// Never below the true minimum of the window, never above the latest sample.
#[derive(Clone, Copy, Debug)]
struct WindowedMin {
    best: [Sample; 3],
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Microseconds, rounded down; 71 minutes at most.
    rtt: u32,
    /// Seconds.
    at: u32,
}

/// The round trip of no sample.
const NEVER: u32 = u32::MAX;

impl Sample {
    fn new(rtt: Nanos, at: Instant) -> Self {
        let rtt = u32::try_from(rtt / 1_000).map_or(NEVER - 1, |micros| micros.min(NEVER - 1));
        Sample { rtt, at: u32::try_from(at.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX) }
    }

    fn later_than(self, earlier: Sample) -> u32 {
        self.at.saturating_sub(earlier.at)
    }
}

impl Default for WindowedMin {
    /// The first sample is less.
    fn default() -> Self {
        WindowedMin { best: [Sample { rtt: NEVER, at: 0 }; 3] }
    }
}

impl WindowedMin {
    fn update(&mut self, rtt: Nanos, now: Instant) {
        let new = Sample::new(rtt, now);
        let [first, second, third] = self.best;
        if new.rtt <= first.rtt || new.later_than(third) > MIN_RTT_WINDOW {
            self.best = [new; 3];
            return;
        }
        if new.rtt <= second.rtt {
            self.best = [first, new, new];
        } else if new.rtt <= third.rtt {
            self.best[2] = new;
        }
        self.age(new);
    }

    fn age(&mut self, new: Sample) {
        let [first, second, third] = self.best;
        let age = new.later_than(first);
        if age > MIN_RTT_WINDOW {
            self.best = [second, third, new];
            // The second may have been almost as old: its successor is not, or `update` had started anew.
            if new.later_than(second) > MIN_RTT_WINDOW {
                self.best = [third, new, new];
            }
        } else if second.at == first.at && age > MIN_RTT_WINDOW / 4 {
            self.best = [first, new, new];
        } else if third.at == second.at && age > MIN_RTT_WINDOW / 2 {
            self.best[2] = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn estimator() -> RttEstimator {
        RttEstimator::new(MS * 1000, MS * 200, MS * 120_000)
    }

    fn min_of(samples: &[(u64, u32)]) -> Duration {
        let mut e = estimator();
        for &(secs, ms) in samples {
            e.on_sample(MS * ms, Instant::from_secs(secs));
        }
        e.min_rtt().unwrap()
    }

    #[test]
    fn smoothing_table() {
        // (samples in ms; srtt, rttvar, rto in µs afterwards), by hand from RFC 6298 §2
        let table: &[(&[u32], u64, u64, u64)] = &[
            (&[100], 100_000, 50_000, 300_000),
            (&[400], 400_000, 200_000, 1_200_000),
            (&[100, 100], 100_000, 37_500, 300_000),
            (&[100, 900], 200_000, 237_500, 1_150_000),
            (&[0], 0, 0, 200_000),
            (&[100_000], 100_000_000, 50_000_000, 120_000_000),
        ];
        for &(samples, srtt, rttvar, rto) in table {
            let mut e = estimator();
            for &ms in samples {
                e.on_sample(MS * ms, Instant::ZERO);
            }
            assert_eq!(e.srtt(), Some(Duration::from_micros(srtt)), "{samples:?}");
            assert_eq!(e.rttvar(), Some(Duration::from_micros(rttvar)), "{samples:?}");
            assert_eq!(e.rto(), Duration::from_micros(rto), "{samples:?}");
        }
    }

    #[test]
    fn without_a_sample() {
        let mut e = estimator();
        assert_eq!((e.srtt(), e.rttvar(), e.min_rtt()), (None, None, None));
        assert_eq!(e.rto(), MS * 1000);
        e.on_syn_timeout();
        assert_eq!(e.rto(), MS * 3000);
        e.on_sample(MS * 10, Instant::ZERO);
        assert_eq!(e.rto(), MS * 210);
    }

    #[test]
    fn backoff_doubles_up_to_the_maximum() {
        let e = estimator();
        let table = [(0, 1), (1, 2), (2, 4), (6, 64), (7, 120), (31, 120), (32, 120), (u32::MAX, 120)];
        for (n, secs) in table {
            assert_eq!(e.rto_backed_off(n), Duration::from_secs(secs), "{n} expiries");
        }
        // The granularity is the last resort when the caller allows any RTO.
        let mut e = RttEstimator::new(MS, Duration::ZERO, Duration::MAX);
        e.on_sample(Duration::ZERO, Instant::ZERO);
        assert_eq!(e.rto(), Duration::from_nanos(GRANULARITY));
        e.on_sample(Duration::MAX, Instant::ZERO);
        assert_eq!(e.rto_backed_off(u32::MAX), MS * u32::MAX);
    }

    #[test]
    fn minimum_table() {
        let table: &[(&[(u64, u32)], u32)] = &[
            (&[(0, 50), (1, 40), (2, 60)], 40),
            (&[(0, 10), (200, 30), (300, 50)], 10),
            (&[(0, 10), (200, 30), (301, 50)], 30),
            (&[(0, 10), (400, 50)], 50),
            (&[(0, 10), (100, 20), (200, 30), (301, 40), (401, 50)], 30),
        ];
        for &(samples, ms) in table {
            assert_eq!(min_of(samples), MS * ms, "{samples:?}");
        }
    }

    proptest! {
        #[test]
        fn minimum_stays_between_the_window_and_the_last_sample(
            steps in prop::collection::vec((0u64..120, 1u32..1000), 1..200),
        ) {
            let mut e = estimator();
            let (mut now, mut all) = (0, Vec::new());
            for (step, ms) in steps {
                now += step;
                all.push((now, MS * ms));
                e.on_sample(MS * ms, Instant::from_secs(now));
                let exact = all.iter().filter(|s| s.0 + 300 >= now).map(|s| s.1).min().unwrap();
                let found = e.min_rtt().unwrap();
                prop_assert!(exact <= found && found <= MS * ms, "{exact:?} {found:?}");
            }
        }

        #[test]
        fn rto_is_never_outside_its_bounds(samples in prop::collection::vec(any::<u32>(), 1..50), n: u32) {
            let mut e = estimator();
            for micros in samples {
                e.on_sample(Duration::from_micros(micros.into()), Instant::ZERO);
                prop_assert!(e.rto() >= MS * 200 && e.rto_backed_off(n) <= MS * 120_000);
                prop_assert!(e.rto() >= e.srtt().unwrap().min(MS * 120_000));
            }
        }
    }
}
