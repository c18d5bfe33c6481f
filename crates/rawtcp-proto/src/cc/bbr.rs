//! BBR, version 3 (draft-cardwell-ccwg-bbr): a model of the path, its bandwidth and its round trip, says how fast
//! and how much to send; loss corrects the model and does not govern by itself.
//!
//! The names are the draft's, section numbers are its too. Bandwidths are bytes per second, volumes bytes, gains
//! hundredths. Random waits come from a generator that the times of acknowledgments stir: nothing here draws
//! a random number.
//!
//! What is left out: a response of its own to ECN, of which the draft says nothing (a mark counts as too much loss); the exact prefix of a lost packet at which the
//! loss rate was exceeded (§4.5.10.2: the segment that was found lost last stands for it); departure times in
//! RTT samples (segments are stamped when they really leave). After idleness an initial window leaves
//! unpaced, as with every other control here.

mod model;
mod probe;
#[cfg(test)]
mod tests;

use super::{AckSample, Carried, Congestion, CongestionControl, CongestionSample, LossSample, RateSample};
use crate::time::{Duration, Instant};
use model::{Aggregation, FullPipe, MaxBw};

/// "Infinity".
const INFINITE: u64 = u64::MAX;
/// No window grows beyond this, as in Reno.
const MAX_CWND: u64 = 1 << 40;
/// BBRStartupPacingGain, BBRDrainPacingGain, BBRDefaultCwndGain, in hundredths (§4.3.1, §4.3.2).
const STARTUP_PACING_GAIN: u64 = 277;
const DRAIN_PACING_GAIN: u64 = 35;
const CWND_GAIN: u64 = 200;
/// BBRPacingMarginPercent (§4.6.2).
const PACING_MARGIN: u64 = 1;
/// BBRLossThresh (§2.8), in hundredths.
const LOSS_THRESH: u64 = 2;
/// BBRStartupFullLossCnt (§4.3.1.3).
const STARTUP_LOSSES: u32 = 6;
/// BBRBeta and 1 - BBRHeadroom (§2.8), in hundredths.
const BETA: u64 = 70;
const WITHOUT_HEADROOM: u64 = 85;
/// BBRMinPipeCwnd in segments (§2.8).
const MIN_PIPE: u64 = 4;

/// `value` times a gain in hundredths.
fn scaled(value: u64, gain: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(gain) / 100).unwrap_or(INFINITE)
}

/// The volume that a rate fills in a time.
fn volume(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(INFINITE)
}

/// The state machine of §4.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Startup,
    Drain,
    Down,
    Cruise,
    Refill,
    Up,
    ProbeRtt,
}

impl State {
    fn is_probe_bw(self) -> bool {
        matches!(self, State::Down | State::Cruise | State::Refill | State::Up)
    }

    /// The table of §4.6.1.
    fn pacing_gain(self) -> u64 {
        match self {
            State::Startup => STARTUP_PACING_GAIN,
            State::Drain => DRAIN_PACING_GAIN,
            State::Down => 90,
            State::Cruise | State::Refill | State::ProbeRtt => 100,
            State::Up => 125,
        }
    }

    fn cwnd_gain(self) -> u64 {
        match self {
            State::Up => 225,
            State::ProbeRtt => 50,
            _ => CWND_GAIN,
        }
    }
}

/// What an undone recovery goes back to.
#[derive(Clone, Copy, Debug)]
struct Before {
    bw_lo: u64,
    inflight_lo: u64,
    inflight_hi: u64,
}

/// BBR: see the [module](self).
#[derive(Clone, Debug)]
pub struct Bbr {
    mss: u64,
    initial_segments: u64,
    cwnd: u64,
    /// BBR.pacing_rate; none before the first measurement.
    pacing_rate: Option<u64>,
    state: State,
    /// C.delivered, as the connection counts it.
    delivered: u64,
    now: Instant,
    pipe: u64,

    // Rounds (§4.5.1).
    next_round_delivered: u64,
    round_start: bool,

    // The model: rates (§2.9.1) and volumes (§2.9.2).
    max_bw: MaxBw,
    bw_lo: u64,
    bw: u64,
    min_rtt: Option<Duration>,
    /// None for one that a predecessor measured, as long as nothing was heard since.
    min_rtt_at: Option<Instant>,
    aggregation: Aggregation,
    inflight_hi: u64,
    inflight_lo: u64,
    full: FullPipe,
    /// The predecessor's threshold, for a successor that comes before the path is full.
    carried_ssthresh: u64,

    // Congestion signals (§2.10, §4.5.10.3).
    bw_latest: u64,
    inflight_latest: u64,
    loss_round_delivered: u64,
    loss_round_start: bool,
    loss_in_round: bool,
    losses_in_round: u32,
    /// Delivered when fast recovery began, while it lasts.
    recovery: Option<u64>,
    prior_cwnd: u64,
    before: Option<Before>,

    probing: probe::Probing,
    probe_rtt: probe::ProbeRtt,
    idle_restart: bool,
    /// Samples of what was sent before so much was delivered are not the path's (§4.3.4.4, MarkConnectionAppLimited).
    limited_until: Option<u64>,
    untouched: bool,
}

impl Bbr {
    /// For segments of `mss` bytes, beginning with a window of that many segments (at least one).
    pub fn new(mss: u32, initial_window_segments: u32) -> Self {
        let mut bbr = Bbr {
            mss: u64::from(mss.max(1)),
            initial_segments: u64::from(initial_window_segments.max(1)),
            cwnd: 0,
            pacing_rate: None,
            state: State::Startup,
            delivered: 0,
            now: Instant::ZERO,
            pipe: 0,
            next_round_delivered: 0,
            round_start: false,
            max_bw: MaxBw::default(),
            bw_lo: INFINITE,
            bw: 0,
            min_rtt: None,
            min_rtt_at: None,
            aggregation: Aggregation::default(),
            inflight_hi: INFINITE,
            inflight_lo: INFINITE,
            full: FullPipe::default(),
            carried_ssthresh: INFINITE,
            bw_latest: 0,
            inflight_latest: 0,
            loss_round_delivered: 0,
            loss_round_start: false,
            loss_in_round: false,
            losses_in_round: 0,
            recovery: None,
            prior_cwnd: 0,
            before: None,
            probing: probe::Probing::default(),
            probe_rtt: probe::ProbeRtt::default(),
            idle_restart: false,
            limited_until: None,
            untouched: true,
        };
        bbr.cwnd = bbr.initial_window();
        bbr
    }

    fn initial_window(&self) -> u64 {
        (self.initial_segments * self.mss).min(MAX_CWND)
    }

    fn min_pipe(&self) -> u64 {
        MIN_PIPE * self.mss
    }

    /// BBRUpdateRound (§4.5.1).
    fn update_round(&mut self, rate: &RateSample) {
        self.round_start = rate.prior_delivered >= self.next_round_delivered;
        if self.round_start {
            self.start_round();
            self.probing.rounds += 1;
        }
    }

    fn start_round(&mut self) {
        self.next_round_delivered = self.delivered;
    }

    /// A sample that shows less than the path can do.
    fn is_limited(&self, rate: &RateSample) -> bool {
        rate.app_limited || self.limited_until.is_some_and(|until| rate.prior_delivered <= until)
    }

    /// BBRUpdateLatestDeliverySignals and BBRUpdateCongestionSignals (§4.5.10.3).
    fn update_congestion_signals(&mut self, rate: &RateSample) {
        self.bw_latest = self.bw_latest.max(rate.bytes_per_second());
        self.inflight_latest = self.inflight_latest.max(rate.delivered);
        self.loss_round_start = rate.prior_delivered >= self.loss_round_delivered;
        if self.loss_round_start {
            self.loss_round_delivered = self.delivered;
        }
        self.update_round(rate);
        let bw = rate.bytes_per_second();
        if bw >= self.max_bw.get() || !self.is_limited(rate) {
            self.max_bw.update(bw);
        }
        if !self.loss_round_start {
            return;
        }
        if self.loss_in_round && !self.is_probing_bw() {
            self.adapt_lower_bounds();
        }
        self.loss_in_round = false;
    }

    /// BBRIsProbingBW: what is lost while more is tried says nothing of less.
    fn is_probing_bw(&self) -> bool {
        matches!(self.state, State::Startup | State::Refill | State::Up)
    }

    fn adapt_lower_bounds(&mut self) {
        if self.bw_lo == INFINITE {
            self.bw_lo = self.max_bw.get();
        }
        if self.inflight_lo == INFINITE {
            self.inflight_lo = self.cwnd;
        }
        self.bw_lo = self.bw_latest.max(scaled(self.bw_lo, BETA));
        self.inflight_lo = self.inflight_latest.max(scaled(self.inflight_lo, BETA));
    }

    fn reset_lower_bounds(&mut self) {
        (self.bw_lo, self.inflight_lo) = (INFINITE, INFINITE);
    }

    fn reset_congestion_signals(&mut self) {
        self.loss_in_round = false;
        (self.bw_latest, self.inflight_latest) = (0, 0);
    }

    /// BBRCheckStartupDone and BBRCheckDrainDone (§4.3.1, §4.3.2).
    fn check_startup_and_drain(&mut self, rate: &RateSample) {
        if self.state == State::Startup {
            self.check_startup_loss(rate);
            if self.full.reached {
                self.state = State::Drain;
            }
        }
        if self.state == State::Drain && self.pipe <= self.inflight(100) {
            self.enter_probe_bw();
        }
    }

    /// BBRCheckStartupHighLoss (§4.3.1.3). What Linux counts as losses are acknowledgments that found some.
    fn check_startup_loss(&mut self, rate: &RateSample) {
        let whole_round = self.recovery.is_some_and(|began| rate.prior_delivered >= began);
        if self.loss_round_start {
            if whole_round && self.losses_in_round >= STARTUP_LOSSES && is_too_high(rate.lost, rate.tx_in_flight) {
                self.full.reached = true;
                self.inflight_hi = self.bdp(100).max(self.inflight_latest);
            }
            self.losses_in_round = 0;
        }
    }

    /// BBRBDPMultiple (§4.6.4.2).
    fn bdp(&self, gain: u64) -> u64 {
        match self.min_rtt {
            Some(min_rtt) if self.bw > 0 => scaled(volume(self.bw, min_rtt), gain),
            _ => self.initial_window(),
        }
    }

    /// BBRSetSendQuantum (§4.6.3): what the connection's pacing lets through at once.
    fn send_quantum(&self) -> u64 {
        volume(self.pacing_rate.unwrap_or(0), Duration::from_millis(1)).min(65_536).max(2 * self.mss)
    }

    /// BBRQuantizationBudget (§4.6.4.2).
    fn quantised(&self, inflight: u64) -> u64 {
        let inflight = inflight.max(3 * self.send_quantum()).max(self.min_pipe());
        if self.state == State::Up { inflight.saturating_add(2 * self.mss) } else { inflight }
    }

    /// BBRInflight (§4.6.4.2).
    fn inflight(&self, gain: u64) -> u64 {
        self.quantised(self.bdp(gain))
    }

    fn max_inflight(&self) -> u64 {
        self.quantised(self.bdp(self.state.cwnd_gain()).saturating_add(self.aggregation.extra()))
    }

    /// BBRInflightWithHeadroom (§4.3.3.6).
    fn inflight_with_headroom(&self) -> u64 {
        if self.inflight_hi == INFINITE {
            return INFINITE;
        }
        let less = self.inflight_hi.saturating_sub(self.mss).min(scaled(self.inflight_hi, WITHOUT_HEADROOM));
        less.max(self.min_pipe())
    }

    /// BBRSetPacingRateWithGain (§4.6.2).
    fn set_pacing_rate(&mut self, gain: u64) {
        let rate = scaled(self.bw, gain) / 100 * (100 - PACING_MARGIN);
        if rate > 0 && (self.full.reached || self.pacing_rate.is_none_or(|known| rate > known)) {
            self.pacing_rate = Some(rate);
        }
    }

    /// BBRSetCwnd (§4.6.4.6), with the bounds of §4.6.4.5 and §4.6.4.7.
    fn set_cwnd(&mut self, acked: u64) {
        let most = self.max_inflight();
        let grown = self.cwnd.saturating_add(acked);
        if self.full.reached {
            self.cwnd = grown.min(most);
        } else if self.cwnd < most || self.delivered < self.initial_window() {
            self.cwnd = grown;
        }
        self.cwnd = self.cwnd.max(self.min_pipe());
        if self.state == State::ProbeRtt {
            self.cwnd = self.cwnd.min(self.bdp(self.state.cwnd_gain()).max(self.min_pipe()));
        }
        let cap = match self.state {
            State::Cruise | State::ProbeRtt => self.inflight_with_headroom(),
            State::Startup | State::Drain => INFINITE,
            _ => self.inflight_hi,
        };
        let cap = cap.min(self.inflight_lo).max(self.min_pipe());
        self.cwnd = self.cwnd.min(cap).min(MAX_CWND);
        self.untouched = false;
    }

    /// BBRSaveCwnd (§4.6.4.4).
    fn save_cwnd(&mut self) {
        let good = self.recovery.is_none() && self.state != State::ProbeRtt;
        self.prior_cwnd = if good { self.cwnd } else { self.prior_cwnd.max(self.cwnd) };
    }

    fn restore_cwnd(&mut self) {
        self.cwnd = self.cwnd.max(self.prior_cwnd);
    }

    /// BBRNoteLoss (§4.5.10.2).
    fn note_loss(&mut self) {
        if !self.loss_in_round {
            self.loss_round_delivered = self.delivered;
        }
        self.loss_in_round = true;
    }

    /// In recovery, of either kind, from here on.
    fn enter_recovery(&mut self) {
        self.save_cwnd();
        self.recovery = Some(self.delivered);
        let Bbr { bw_lo, inflight_lo, inflight_hi, .. } = *self;
        self.before = Some(Before { bw_lo, inflight_lo, inflight_hi });
    }

    /// The first measurement (§4.6.2, BBRInitPacingRate).
    fn init_pacing_rate(&mut self, sample: &AckSample) {
        let srtt = sample.srtt.filter(|srtt| !srtt.is_zero()).unwrap_or(Duration::from_millis(1));
        let nominal = u128::from(self.initial_window()) * 1_000_000_000 / srtt.as_nanos().max(1);
        let rate = scaled(u64::try_from(nominal).unwrap_or(INFINITE), STARTUP_PACING_GAIN);
        self.pacing_rate = Some(rate.max(1));
    }
}

/// IsInflightTooHigh (§4.5.10.2).
fn is_too_high(lost: u64, tx_in_flight: u64) -> bool {
    lost > scaled(tx_in_flight, LOSS_THRESH)
}

impl CongestionControl for Bbr {
    fn name(&self) -> &'static str {
        "bbr"
    }

    /// BBRUpdateOnACK (§4.2.3).
    fn on_ack(&mut self, sample: &AckSample) {
        if sample.acked == 0 {
            return;
        }
        if self.pacing_rate.is_none() {
            self.init_pacing_rate(sample);
        }
        (self.now, self.pipe) = (sample.now, sample.pipe);
        self.stir(sample);
        self.delivered = match &sample.rate {
            Some(rate) => rate.prior_delivered.saturating_add(rate.delivered),
            None => self.delivered.saturating_add(sample.acked),
        };
        let rate = sample.rate.unwrap_or_default();
        self.round_start = false;
        self.loss_round_start = false;
        if sample.rate.is_some() {
            self.update_congestion_signals(&rate);
        }
        self.aggregation.update(sample, self.bw, self.cwnd, self.round_start, self.full.reached);
        if sample.rate.is_some() {
            let limited = self.is_limited(&rate);
            self.full.update(rate.bytes_per_second(), limited, self.round_start);
            self.check_startup_and_drain(&rate);
            self.update_probe_bw(sample, &rate);
        }
        self.update_min_rtt(sample);
        self.check_probe_rtt();
        if self.loss_round_start {
            (self.bw_latest, self.inflight_latest) = (rate.bytes_per_second(), rate.delivered);
        }
        self.bw = self.max_bw.get().min(self.bw_lo);
        self.set_pacing_rate(self.state.pacing_gain());
        self.set_cwnd(sample.acked);
    }

    fn on_congestion(&mut self, event: Congestion, sample: &CongestionSample) {
        self.mss = u64::from(sample.mss.max(1));
        match event {
            Congestion::Loss => self.enter_recovery(),
            // RFC 3168 §6.1.2: as a loss, of more than is tolerated.
            Congestion::Ecn => {
                self.note_loss();
                if self.probing.samples {
                    self.now = sample.now;
                    self.inflight_too_high(sample.in_flight, false);
                }
            }
        }
    }

    /// BBRHandleLostPacket (§4.5.10.2).
    fn on_lost(&mut self, sample: &LossSample) {
        self.note_loss();
        self.losses_in_round = self.losses_in_round.saturating_add(1);
        if self.probing.samples && is_too_high(sample.lost_since, sample.tx_in_flight) {
            self.now = sample.now;
            self.inflight_too_high(sample.tx_in_flight, sample.app_limited);
        }
    }

    fn on_rto(&mut self, sample: &CongestionSample) {
        self.mss = u64::from(sample.mss.max(1));
        self.enter_recovery();
        self.loss_in_round = true;
        // Everything is taken for lost: what is in flight is nothing.
        self.cwnd = self.mss;
    }

    fn on_recovery_exit(&mut self, _now: Instant) {
        self.recovery = None;
        self.restore_cwnd();
    }

    fn on_spurious(&mut self) {
        self.recovery = None;
        // Nothing was lost: nothing is learned from it at the end of the round either.
        self.loss_in_round = false;
        self.losses_in_round = 0;
        self.restore_cwnd();
        self.full.restart();
        if let Some(before) = self.before.take() {
            self.bw_lo = self.bw_lo.max(before.bw_lo);
            self.inflight_lo = self.inflight_lo.max(before.inflight_lo);
            self.inflight_hi = self.inflight_hi.max(before.inflight_hi);
        }
    }

    fn on_idle(&mut self, _now: Instant, _idle: Duration, _rto: Duration) {
        // §4.4.2: the model holds; what is sent after idleness is paced.
    }

    /// BBRHandleRestartFromIdle (§4.4.1).
    fn on_restart(&mut self, now: Instant) {
        if self.untouched {
            return;
        }
        (self.now, self.pipe) = (now, 0);
        self.idle_restart = true;
        self.aggregation.restart(now);
        if self.state.is_probe_bw() {
            self.set_pacing_rate(100);
        } else if self.state == State::ProbeRtt {
            self.check_probe_rtt_done();
        }
    }

    fn on_mss(&mut self, mss: u32) {
        self.mss = u64::from(mss.max(1));
        self.cwnd = if self.untouched { self.initial_window() } else { self.cwnd.max(self.mss) };
    }

    fn controls_recovery(&self) -> bool {
        true
    }

    fn cwnd(&self) -> u64 {
        self.cwnd
    }

    /// None while the path is searched; then what it holds.
    fn ssthresh(&self) -> u64 {
        if self.full.reached { self.bdp(100).min(self.cwnd) } else { INFINITE }
    }

    fn pacing_rate(&self) -> Option<u64> {
        self.pacing_rate
    }

    fn export(&self) -> Carried {
        let bandwidth = Some(self.bw).filter(|&bw| bw > 0);
        let ssthresh = if self.full.reached { self.bdp(100) } else { self.carried_ssthresh };
        Carried { cwnd: self.cwnd.max(self.prior_cwnd), ssthresh, min_rtt: self.min_rtt, bandwidth }
    }

    /// What the predecessor knew of the path is the model's start; whether the path is full is found out anew.
    fn import(&mut self, carried: Carried) {
        let mss = u32::try_from(self.mss).unwrap_or(u32::MAX);
        let segments = u32::try_from(self.initial_segments).unwrap_or(u32::MAX);
        *self = Bbr::new(mss, segments);
        self.cwnd = carried.cwnd.clamp(self.mss, MAX_CWND);
        self.untouched = false;
        self.carried_ssthresh = carried.ssthresh;
        self.min_rtt = carried.min_rtt;
        if let Some(bandwidth) = carried.bandwidth {
            self.max_bw.update(bandwidth);
            self.bw = bandwidth;
            self.set_pacing_rate(100);
        }
    }
}
