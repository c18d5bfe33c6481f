//! ProbeBW (§4.3.3) and ProbeRTT (§4.3.4): experiments with sending faster and with sending less.

use super::{AckSample, BETA, Bbr, INFINITE, RateSample, State, is_too_high, scaled};
use crate::time::{Duration, Instant};

/// MinRTTFilterLen, ProbeRTTInterval, ProbeRTTDuration (§2.14).
const MIN_RTT_FILTER: Duration = Duration::from_secs(10);
const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(5);
const PROBE_RTT_DURATION: Duration = Duration::from_millis(200);
/// The longest that is waited for, in round trips, so that Reno finds room to grow (§4.3.3.5).
const RENO_ROUNDS: u64 = 63;

/// BBR.ack_phase: to which part of an experiment the acknowledgments of now belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum AckPhase {
    #[default]
    Init,
    Refilling,
    Starting,
    Feedback,
    Stopping,
}

/// The state of ProbeBW.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probing {
    phase: AckPhase,
    /// BBR.bw_probe_samples: the next loss is one of what was sent to try more.
    pub(super) samples: bool,
    /// BBR.rounds_since_bw_probe.
    pub(super) rounds: u64,
    /// BBR.cycle_stamp and BBR.bw_probe_wait.
    since: Instant,
    wait: Duration,
    /// BBR.bw_probe_up_rounds, BBR.bw_probe_up_acks, BBR.probe_up_cnt: how fast `inflight_hi` rises.
    up_rounds: u32,
    up_acks: u64,
    up_each: u64,
    /// What random waits come from.
    chance: u64,
}

/// The state of ProbeRTT.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProbeRtt {
    /// BBR.probe_rtt_min_delay and BBR.probe_rtt_min_stamp.
    least: Option<Duration>,
    least_at: Instant,
    expired: bool,
    /// BBR.probe_rtt_done_stamp, once little enough is in flight.
    done_at: Option<Instant>,
    round_done: bool,
}

impl Bbr {
    /// Lets the times of acknowledgments decide on random waits.
    pub(super) fn stir(&mut self, sample: &AckSample) {
        let mut x = self.probing.chance ^ sample.now.as_nanos() ^ sample.acked.rotate_left(32);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.probing.chance = x ^ (x >> 31);
    }

    pub(super) fn enter_probe_bw(&mut self) {
        self.start_down();
    }

    /// BBRStartProbeBW_DOWN.
    fn start_down(&mut self) {
        self.reset_congestion_signals();
        self.probing.up_each = INFINITE;
        // BBRPickProbeWait: two to three seconds, or a number of rounds that is one more or less.
        self.probing.rounds = self.probing.chance & 1;
        self.probing.wait = Duration::from_secs(2) + Duration::from_micros((self.probing.chance >> 8) % 1_000_000);
        self.probing.since = self.now;
        self.probing.phase = AckPhase::Stopping;
        self.start_round();
        self.state = State::Down;
    }

    fn start_refill(&mut self) {
        self.reset_lower_bounds();
        (self.probing.up_rounds, self.probing.up_acks) = (0, 0);
        self.probing.phase = AckPhase::Refilling;
        self.start_round();
        self.state = State::Refill;
    }

    fn start_up(&mut self, rate: &RateSample) {
        self.probing.samples = true;
        self.probing.phase = AckPhase::Starting;
        self.start_round();
        self.full.begin(rate.bytes_per_second());
        self.state = State::Up;
        self.raise_slope();
    }

    /// BBRUpdateProbeBWCyclePhase.
    pub(super) fn update_probe_bw(&mut self, sample: &AckSample, rate: &RateSample) {
        if !self.full.reached {
            return;
        }
        self.adapt_upper_bounds(sample, rate);
        let full = self.state == State::Up && self.is_time_to_go_down(sample, rate);
        match self.state {
            State::Down if self.is_time_to_probe() => self.start_refill(),
            State::Down if self.is_time_to_cruise() => self.state = State::Cruise,
            State::Cruise if self.is_time_to_probe() => self.start_refill(),
            State::Refill if self.round_start => self.start_up(rate),
            State::Up if full => self.start_down(),
            _ => {}
        }
    }

    fn is_time_to_probe(&self) -> bool {
        let rounds = (self.target_inflight() / self.mss).min(RENO_ROUNDS);
        self.now > self.probing.since + self.probing.wait || self.probing.rounds >= rounds
    }

    fn is_time_to_cruise(&self) -> bool {
        self.pipe <= self.inflight_with_headroom() && self.pipe <= self.inflight(100)
    }

    fn is_time_to_go_down(&mut self, sample: &AckSample, rate: &RateSample) -> bool {
        if sample.cwnd_limited && self.cwnd >= self.inflight_hi {
            // The bound and not the path is the limit.
            self.full.begin(rate.bytes_per_second());
            return false;
        }
        self.full.now
    }

    fn target_inflight(&self) -> u64 {
        self.bdp(100).min(self.cwnd)
    }

    /// BBRRaiseInflightHiSlope: one segment more in the first round, then twice as many in each.
    fn raise_slope(&mut self) {
        let growth = self.mss << self.probing.up_rounds;
        self.probing.up_rounds = (self.probing.up_rounds + 1).min(30);
        self.probing.up_each = (self.cwnd / growth).max(1);
    }

    /// BBRProbeInflightHiUpward.
    fn raise_inflight_hi(&mut self, sample: &AckSample) {
        if !sample.cwnd_limited || self.cwnd < self.inflight_hi {
            return;
        }
        self.probing.up_acks = self.probing.up_acks.saturating_add(sample.acked);
        let more = self.probing.up_acks / self.probing.up_each;
        self.probing.up_acks -= more * self.probing.up_each;
        self.inflight_hi = self.inflight_hi.saturating_add(more);
        if self.round_start {
            self.raise_slope();
        }
    }

    /// BBRAdaptUpperBounds.
    fn adapt_upper_bounds(&mut self, sample: &AckSample, rate: &RateSample) {
        if self.probing.phase == AckPhase::Starting && self.round_start {
            self.probing.phase = AckPhase::Feedback;
        }
        if self.probing.phase == AckPhase::Stopping && self.round_start {
            self.probing.samples = false;
            self.probing.phase = AckPhase::Init;
            if self.state.is_probe_bw() && !self.is_limited(rate) {
                self.max_bw.advance();
            }
        }
        if is_too_high(rate.lost, rate.tx_in_flight) {
            if self.probing.samples {
                self.inflight_too_high(rate.tx_in_flight, self.is_limited(rate));
            }
            return;
        }
        if self.inflight_hi == INFINITE {
            return;
        }
        self.inflight_hi = self.inflight_hi.max(rate.tx_in_flight);
        if self.state == State::Up {
            self.raise_inflight_hi(sample);
        }
    }

    /// BBRHandleInflightTooHigh (§4.5.10.2): once for each experiment.
    pub(super) fn inflight_too_high(&mut self, tx_in_flight: u64, limited: bool) {
        self.probing.samples = false;
        if !limited {
            self.inflight_hi = tx_in_flight.max(scaled(self.target_inflight(), BETA));
        }
        if self.state == State::Up {
            self.start_down();
        }
    }

    /// BBRUpdateMinRTT (§4.3.4.4).
    pub(super) fn update_min_rtt(&mut self, sample: &AckSample) {
        let probe = &mut self.probe_rtt;
        probe.expired = probe.least.is_some() && self.now > probe.least_at + PROBE_RTT_INTERVAL;
        if let Some(rtt) = sample.rtt
            && (probe.expired || probe.least.is_none_or(|least| rtt < least))
        {
            (probe.least, probe.least_at) = (Some(rtt), self.now);
        }
        let expired = self.now > *self.min_rtt_at.get_or_insert(self.now) + MIN_RTT_FILTER;
        let Some(least) = probe.least else { return };
        if expired || self.min_rtt.is_none_or(|min| least < min) {
            (self.min_rtt, self.min_rtt_at) = (Some(least), Some(probe.least_at));
        }
    }

    /// BBRCheckProbeRTT.
    pub(super) fn check_probe_rtt(&mut self) {
        if self.state != State::ProbeRtt && self.probe_rtt.expired && !self.idle_restart {
            self.save_cwnd();
            self.state = State::ProbeRtt;
            self.probe_rtt.done_at = None;
            self.probing.phase = AckPhase::Stopping;
            self.start_round();
        }
        if self.state == State::ProbeRtt {
            self.handle_probe_rtt();
        }
        self.idle_restart = false;
    }

    fn handle_probe_rtt(&mut self) {
        self.limited_until = Some(self.delivered.saturating_add(self.pipe));
        if self.probe_rtt.done_at.is_none() {
            if self.pipe <= self.bdp(State::ProbeRtt.cwnd_gain()).max(self.min_pipe()) {
                self.probe_rtt.done_at = Some(self.now + PROBE_RTT_DURATION);
                self.probe_rtt.round_done = false;
                self.start_round();
            }
            return;
        }
        self.probe_rtt.round_done |= self.round_start;
        if self.probe_rtt.round_done {
            self.check_probe_rtt_done();
        }
    }

    /// BBRCheckProbeRTTDone and BBRExitProbeRTT (§4.3.4.5).
    pub(super) fn check_probe_rtt_done(&mut self) {
        if self.probe_rtt.done_at.is_none_or(|at| self.now <= at) {
            return;
        }
        self.probe_rtt.least_at = self.now;
        self.restore_cwnd();
        self.reset_lower_bounds();
        if self.full.reached {
            self.start_down();
            self.state = State::Cruise;
        } else {
            self.state = State::Startup;
        }
    }
}
