//! What becomes of a congestion window that is not used: RFC 2861 as Linux has it, RFC 5681's restart, or RFC 7661.

use super::Connection;
use super::recovery::Phase;
use crate::config::CwndValidation;
use crate::seq::Offset;
use crate::time::{Duration, Instant};
use crate::trace::WindowReason;

/// The non-validated period (RFC 7661 §4.4: no more than five minutes).
const NVP: Duration = Duration::from_secs(300);
/// The least pipeACK sampling period (RFC 7661 §4.2).
const LEAST_PERIOD: Duration = Duration::from_secs(1);

/// How much of the window was used (RFC 2861 §3).
#[derive(Debug, Default)]
pub(super) struct Used {
    /// The largest flight since the window was last the limit, or this was last judged.
    most: u64,
    since: Instant,
}

impl Used {
    /// From here on it is counted.
    pub(super) fn restart(&mut self, now: Instant) {
        *self = Used { most: 0, since: now };
    }
}

/// The state of RFC 7661.
#[derive(Debug, Default)]
pub(super) struct NewCwv {
    /// What had been delivered when this round trip began.
    round: Option<u64>,
    /// The largest samples of this half of the sampling period and the one before: pipeACK is the larger one.
    samples: [Option<u64>; 2],
    half_since: Instant,
    /// Since when the window is non-validated.
    unused_since: Option<Instant>,
    /// Max(pipeACK, LossFlightSize) of the recovery that began in the non-validated phase.
    loss_flight: Option<u64>,
}

impl NewCwv {
    /// pipeACK; `None`: undefined.
    fn pipe_ack(&self) -> Option<u64> {
        self.samples[0].max(self.samples[1])
    }

    /// What a recovery began with was no loss.
    pub(super) fn forget_loss(&mut self) {
        self.loss_flight = None;
    }

    fn sample(&mut self, now: Instant, volume: u64, period: Duration) {
        let halves = now.since(self.half_since).as_nanos() / (period.as_nanos() / 2).max(1);
        if halves > 0 {
            self.samples = [None, self.samples[0].filter(|_| halves == 1)];
            self.half_since = now;
        }
        self.samples[0] = self.samples[0].max(Some(volume));
    }
}

impl Connection {
    /// Notes how much of the window is used (RFC 7661 §4.3): the most of each round trip, and whether the
    /// window held something back.
    pub(super) fn note_flight(&mut self, now: Instant, limited: bool) {
        let flight = self.pipe();
        let new_round = self.snd.una >= self.recovery.round_end;
        let more = !self.recovery.cwnd_limited && flight > self.recovery.max_flight;
        if new_round || limited || more {
            self.recovery.cwnd_limited = limited;
            self.recovery.max_flight = flight;
            self.recovery.round_end = self.snd.nxt;
        }
        if self.is_cwnd_limited() {
            return self.recovery.used.restart(now);
        }
        self.validate_window(now, flight);
    }

    /// Whether the window may grow. In slow start, as on Linux, a flight of more than half of it is enough:
    /// the next will be twice as large.
    pub(super) fn is_cwnd_limited(&self) -> bool {
        let slow_start = self.cc.cwnd() < self.cc.ssthresh();
        self.recovery.cwnd_limited || (slow_start && self.cc.cwnd() < self.recovery.max_flight.saturating_mul(2))
    }

    /// RFC 5681 §4.1: a window that has not been used for an RTO is not known to fit any more. Says whether it is another now.
    pub(super) fn restart_after_idle(&mut self, now: Instant) -> bool {
        let (idle, rto) = (now.since(self.last_sent), self.rtt.rto());
        let before = self.cc.cwnd();
        self.cc.on_restart(now);
        if idle <= rto || self.snd.nxt <= Offset(1) {
            return self.cc.cwnd() != before;
        }
        match self.config.cwnd_validation {
            CwndValidation::Decay => self.cc.on_idle(now, idle, rto),
            CwndValidation::Restart => self.cc.on_idle(now, Duration::MAX, rto),
            CwndValidation::NonValidated => self.keep_after_idle(now),
            CwndValidation::Keep => {}
        }
        self.trace_window(WindowReason::Idle);
        self.recovery.used.restart(now);
        self.cc.cwnd() != before
    }

    /// So much is in flight; a window that the application did not fill for as long as an RTO is not known to fit the
    /// path any more (RFC 2861 §3, as Linux does it).
    pub(super) fn validate_window(&mut self, now: Instant, flight: u64) {
        self.recovery.used.most = self.recovery.used.most.max(flight);
        if now.since(self.recovery.used.since) < self.rtt.rto() {
            return;
        }
        let used = self.recovery.used.most;
        self.recovery.used.restart(now);
        // A writer that waits for room is not short of data.
        let by_application = self.recovery.phase == Phase::Open && !self.write_blocked;
        if by_application && self.config.cwnd_validation == CwndValidation::Decay {
            self.cc.on_underuse(now, used);
            self.trace_window(WindowReason::Idle);
        }
    }

    /// RFC 7661: the window is kept although it is not used.
    pub(super) fn is_non_validated(&self) -> bool {
        self.config.cwnd_validation == CwndValidation::NonValidated
            && self.recovery.rare.cwv.as_ref().is_some_and(|cwv| cwv.unused_since.is_some())
    }

    /// RFC 7661 §4.2, §4.3: `delivered` bytes more have arrived; once a round trip this is a sample. To be called
    /// before the window grows by them.
    pub(super) fn note_delivered(&mut self, now: Instant, delivered: u64) {
        // §4.4.1: not during loss recovery.
        if self.config.cwnd_validation != CwndValidation::NonValidated || self.recovery.phase != Phase::Open {
            return;
        }
        let (round_start, before) = (self.recovery.rate.is_round_start(), self.recovery.rate.delivered() - delivered);
        let period = (self.rtt.srtt().unwrap_or_default() * 3).max(LEAST_PERIOD);
        let cwv = self.recovery.rare.edit().cwv.get_or_insert_default();
        if !round_start {
            return;
        }
        if let Some(began) = cwv.round.replace(before) {
            cwv.sample(now, before - began, period);
            if cwv.pipe_ack().is_some_and(|pipe| pipe < self.cc.cwnd() / 2) {
                cwv.unused_since.get_or_insert(now);
            } else {
                self.leave_non_validated(now);
            }
        }
        self.end_non_validated_period(now);
    }

    /// The phase is over. If it has lasted long, so is the window (RFC 7661 §4.4.3).
    fn leave_non_validated(&mut self, now: Instant) {
        self.end_non_validated_period(now);
        if let Some(cwv) = self.recovery.cwv() {
            cwv.unused_since = None;
        }
    }

    /// RFC 7661 §4.4.3: after five minutes, and after each five more, half of it goes.
    fn end_non_validated_period(&mut self, now: Instant) {
        if let Some(cwv) = self.recovery.cwv()
            && let Some(since) = &mut cwv.unused_since
            && now.since(*since) > NVP
        {
            self.cc.on_idle(now, now.since(*since), NVP);
            *since = now;
            self.trace_window(WindowReason::Idle);
        }
    }

    /// Nothing was sent since then: the window is not validated, but stays for five minutes.
    fn keep_after_idle(&mut self, now: Instant) {
        let period = (self.rtt.srtt().unwrap_or_default() * 3).max(LEAST_PERIOD);
        let last_sent = self.last_sent;
        let cwv = self.recovery.rare.edit().cwv.get_or_insert_default();
        cwv.round = None;
        if now.since(last_sent) > period {
            cwv.samples = [Some(0), None];
            cwv.half_since = now;
            cwv.unused_since.get_or_insert(last_sent);
        }
        self.end_non_validated_period(now);
    }

    /// What a loss reduces: Max(pipeACK, LossFlightSize) in the non-validated phase (RFC 7661 §4.4.1), else what is
    /// in flight.
    pub(super) fn flight_at_loss(&self, flight: u64) -> u64 {
        let pipe_ack =
            self.recovery.rare.cwv.as_ref().filter(|cwv| cwv.unused_since.is_some()).and_then(|cwv| cwv.pipe_ack());
        flight.max(pipe_ack.unwrap_or(0))
    }

    /// RFC 7661 §4.4: an indication of congestion ends the non-validated phase. `over`: no fast recovery follows, at
    /// the end of which there is more to do.
    pub(super) fn on_congestion_in_validation(&mut self, flight: u64, over: bool) {
        let non_validated = self.is_non_validated();
        if let Some(cwv) = self.recovery.cwv() {
            *cwv = NewCwv { loss_flight: (non_validated && !over).then_some(flight), ..NewCwv::default() };
        }
    }

    /// RFC 7661 §4.4.1: at the end of recovery the window is that of a flight without what was lost of it.
    pub(super) fn on_recovery_exit_in_validation(&mut self) {
        let Some(flight) = self.recovery.cwv().and_then(|cwv| cwv.loss_flight.take()) else { return };
        let again = self.recovery.rare.episode.as_ref().map_or(0, |episode| episode.sent_again());
        let ssthresh =
            u128::from(self.cc.ssthresh()) * u128::from(flight.saturating_sub(again)) / u128::from(flight.max(1));
        self.cc.on_limit(u64::try_from(ssthresh).unwrap_or(u64::MAX).max(u64::from(self.send_mss())));
    }
}
