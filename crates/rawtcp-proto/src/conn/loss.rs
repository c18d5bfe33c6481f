//! What an ACK says of loss, and what follows: NewReno without SACK (RFC 6582), RACK with it
//! (RFC 8985 §6), proportional rate reduction in both (RFC 6937) and the RTO (RFC 6298).

use super::undo::{Episode, Frto, Reordering};
use super::validation::{NewCwv, Used};
use super::{Connection, Timer};
use crate::cc::{AckSample, Congestion, CongestionSample, LossSample};
use crate::recovery::rate::{RateEstimator, RateSample};
use crate::recovery::sent::{AckOutcome, LostSegment, RackView};
use crate::seq::Offset;
use crate::time::{Duration, Instant};
use crate::trace::{LossReason, WindowReason};
use crate::wire::{Flags, Segment};

/// Duplicate ACKs that stand for a loss where SACK is off (RFC 5681 §3.2).
const DUP_THRESH: u32 = 3;
/// What our timestamp clock can not tell apart (RFC 7323 §5.4).
const TIMESTAMP_TICK: Duration = Duration::from_millis(1);

/// Where the sender stands with its losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is thought lost.
    #[default]
    Open,
    /// Fast recovery, until `high` is acknowledged (RFC 6582 "recover").
    Recovery { high: Offset },
    /// After a retransmission timeout, until `high` is acknowledged.
    Loss { high: Offset },
}

/// Proportional rate reduction (RFC 6937 §3).
#[derive(Clone, Copy, Debug, Default)]
struct Prr {
    /// Bytes in flight when recovery began (RecoverFS).
    flight: u64,
    delivered: u64,
    out: u64,
    /// What may leave now.
    budget: u64,
    /// The retransmission that opens recovery is still to leave.
    opens: bool,
}

/// The sender's view of losses.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    pub(super) phase: Phase,
    prr: Prr,
    pub(super) dup_acks: u32,
    /// Bytes that duplicate ACKs say have left the network, where SACK can not say it.
    dup_credit: u64,
    /// Consecutive timeouts: the exponent of the backoff (RFC 6298 §5.5).
    pub(super) backoff: u32,
    /// Timeouts since the last progress (R2).
    pub(super) retries: u32,
    /// RACK.xmit_ts, RACK.end_seq, RACK.rtt.
    pub(super) rack: Option<RackView>,
    pub(super) reordering: Reordering,
    /// Our timestamp clock when the first retransmission of this episode left: an ACK that echoes an
    /// older value proves the original arrived (RFC 3522).
    pub(super) first_retransmit_ts: Option<u32>,
    /// What the last episode sent again, until it is proven unfounded or another begins.
    pub(super) episode: Option<Box<Episode>>,
    pub(super) frto: Frto,
    /// F-RTO holds back what is thought lost until the next ACK.
    pub(super) frto_holds: bool,
    /// SND.NXT when the last tail loss probe left, while it is unanswered (RFC 8985 §7.3).
    pub(super) tlp_high: Option<Offset>,
    pub(super) tlp_was_retransmit: bool,
    /// Where the last probe ends that was a copy, until the peer says that it came twice.
    pub(super) tlp_copy: Option<Offset>,
    /// What the last reduction was for: that probe, which seemed to have repaired a loss.
    pub(super) tlp_reduced: bool,
    /// The window, not the application, held the last transmission back (RFC 7661, growth only then).
    cwnd_limited: bool,
    /// The largest flight of this round trip, which ends when `round_end` is acknowledged.
    max_flight: u64,
    round_end: Offset,
    pub(super) used: Used,
    pub(super) cwv: Option<Box<NewCwv>>,
    /// When the timeout came that this recovery began with.
    loss_since: Instant,
    /// When the RTO is due by itself, whatever comes before it: a tail loss probe, the user timeout.
    pub(super) rto_at: Instant,
    /// Likewise the next zero-window probe.
    pub(super) persist_at: Instant,
    /// The persist timer was set because of a window of nothing, not of too little.
    pub(super) persist_shut: bool,
    /// Delivery rate and round trips.
    pub(super) rate: RateEstimator,
}

impl Recovery {
    /// A retransmission of `len` bytes leaves, or new data during recovery.
    pub(super) fn on_transmit(&mut self, len: u64) {
        // Counted in vain where nothing is being reduced: whoever begins a reduction begins anew.
        self.prr.out += len;
        self.prr.budget = self.prr.budget.saturating_sub(len);
        self.prr.opens = false;
    }

    /// RFC 6937 §3, from a flight of so many bytes.
    pub(super) fn begin_rate_reduction(&mut self, flight: u64) {
        self.prr = Prr { flight: flight.max(1), ..Prr::default() };
    }
}

impl Connection {
    /// Bytes thought to be in the network.
    pub(super) fn pipe(&self) -> u64 {
        self.sent.in_flight().saturating_sub(self.recovery.dup_credit)
    }

    /// How many bytes congestion control lets leave now.
    pub(super) fn cwnd_room(&self) -> u64 {
        match self.recovery.phase {
            _ if self.cc.controls_recovery() => self.cc.cwnd().saturating_sub(self.pipe()),
            Phase::Recovery { .. } => self.recovery.prr.budget,
            Phase::Open if self.ecn.is_reducing() => self.recovery.prr.budget,
            _ => self.cc.cwnd().saturating_sub(self.pipe()),
        }
    }

    /// The acknowledgment part of an acceptable segment: `ack` lies in SND.UNA..=SND.NXT.
    pub(super) fn process_ack(&mut self, now: Instant, segment: &Segment<'_>, ack: Offset, window_changed: bool) {
        self.check_app_limited();
        let in_flight = self.pipe();
        let had_outstanding = self.sent.outstanding() > 0;
        let head_sent_at = self.sent.head_sent_at();
        let mut outcome = self.sent.on_ack(ack, now);
        self.apply_sack(segment, &mut outcome);
        let advanced = ack > self.snd.una;
        if advanced {
            self.counters.bytes_acked += ack.since(self.snd.una);
            self.snd.una = ack;
            self.send_buf.release_to(ack.min(self.send_buf.end()));
            if let Some(urgent) = self.urgent.touched() {
                urgent.on_acked(ack);
            }
            self.note_mtu_ack();
        }
        self.sample_rtt(now, segment, &outcome, head_sent_at);
        if advanced {
            self.on_progress(now);
        }
        let bare = segment.payload.is_empty() && !segment.header.flags.contains(Flags::FIN);
        let duplicate = !advanced && had_outstanding && bare && !window_changed;
        let credited = self.count_duplicate(duplicate, advanced, outcome.newly_acked);
        let delivered = if self.negotiated.sack { outcome.delivered } else { credited };
        let min_rtt = self.rtt.min_rtt();
        let rate = self.recovery.rate.on_ack(now, delivered, outcome.newest.as_ref(), min_rtt);
        // A window update is not what F-RTO waits for.
        self.recovery.frto_holds &= !(advanced || duplicate || outcome.delivered > 0);
        self.note_dsack(segment, ack);
        if self.try_undo(now, segment, advanced, duplicate, &outcome) {
            // The originals arrived: when the copies left says nothing of what else is in flight.
            outcome.newest = outcome.newest_original;
        }
        self.update_rack(now, &outcome);
        // Before losses are looked for: one that is found now belongs to a new episode.
        let left = self.leave_recovery(now, ack);
        let lost = self.recovery.rate.lost();
        self.detect_losses(now, advanced);
        if left && self.sent.lost_bytes() > 0 {
            self.enter_recovery(now); // lost behind what the old episode was about
        }
        if advanced || had_outstanding {
            self.note_echo(now, segment, ack, delivered);
        }
        self.answer_tlp(now, segment, ack, duplicate);
        let safe = advanced && self.recovery.rate.lost() == lost;
        self.tell_congestion_control(now, &outcome, in_flight, delivered, rate, safe);
        self.rearm_after_ack(now, advanced);
        self.pending.tlp &= !advanced;
    }

    fn apply_sack(&mut self, segment: &Segment<'_>, outcome: &mut AckOutcome) {
        if !self.negotiated.sack {
            return;
        }
        for (left, right) in segment.header.options.sack.iter() {
            let (left, right) = (left.unwrap(self.snd.iss, self.snd.una), right.unwrap(self.snd.iss, self.snd.una));
            // Blocks that are empty, turned round or beyond what was sent are not believed; those below
            // SND.UNA are D-SACKs.
            if let (Some(left), Some(right)) = (left, right)
                && left < right
                && right <= self.snd.nxt
                && right > self.snd.una
            {
                self.sent.on_sack(left..right, outcome);
            }
        }
    }

    /// One measurement, if this ACK gives one; `head_sent_at` is when what was the head before it last left.
    pub(super) fn sample_rtt(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        outcome: &AckOutcome,
        head_sent_at: Option<Instant>,
    ) {
        // Karn: only what was sent once (RFC 6298 §3 [MUST-18]).
        let sample = outcome.rtt_sample().or_else(|| self.rtt_by_timestamp(now, segment, outcome, head_sent_at));
        if let Some(rtt) = sample {
            self.rtt.on_sample(rtt, now);
            self.recovery.backoff = 0;
            self.trace_rtt();
        }
    }

    /// Timestamps tell which transmission was acknowledged (RFC 7323 §4).
    ///
    /// But not when an ACK was lost: a peer that has everything answers a second copy with the timestamp of
    /// the first, and the RTO between the two would be taken for the path's time, and feed on itself. So what
    /// is older than the head's last copy is believed only up to an RTO, which does not raise it; beyond
    /// it, Karn's rule holds: no measurement, and the backoff stays until there is one.
    fn rtt_by_timestamp(
        &self,
        now: Instant,
        segment: &Segment<'_>,
        outcome: &AckOutcome,
        head_sent_at: Option<Instant>,
    ) -> Option<Duration> {
        let ts = segment.header.options.timestamps.filter(|ts| self.negotiated.timestamps && ts.echo != 0)?;
        let elapsed = self.ts_now(now).wrapping_sub(ts.echo);
        if outcome.newly_acked == 0 || elapsed >= 1 << 24 {
            return None;
        }
        let rtt = Duration::from_millis(u64::from(elapsed.max(1)));
        let last_copy = head_sent_at.map_or(Duration::ZERO, |at| now.since(at)) + TIMESTAMP_TICK;
        (rtt <= last_copy.max(self.rtt.rto())).then_some(rtt)
    }

    /// SND.UNA moved: the peer is alive and the path works.
    pub(super) fn on_progress(&mut self, now: Instant) {
        self.recovery.retries = 0;
        self.stalled_since = (self.sent.outstanding() > 0).then_some(now);
        self.soft_error = None;
    }

    /// Without SACK, duplicate ACKs count segments that left the network (RFC 5681 §3.2, RFC 3042).
    /// Answers how many bytes this ACK says were delivered.
    fn count_duplicate(&mut self, duplicate: bool, advanced: bool, newly_acked: u64) -> u64 {
        let mss = u64::from(self.send_mss());
        if duplicate {
            self.recovery.dup_acks += 1;
            if self.negotiated.sack {
                return 0;
            }
            let most = self.sent.in_flight().saturating_sub(mss);
            let before = self.recovery.dup_credit;
            self.recovery.dup_credit = (before + mss).min(most.max(before));
            return mss;
        }
        if advanced {
            // The segments that the duplicates stood for are now acknowledged for good; one was the hole.
            let counted = self.recovery.dup_credit.min(newly_acked.saturating_sub(mss));
            self.recovery.dup_credit -= counted;
            if !matches!(self.recovery.phase, Phase::Recovery { .. }) {
                self.recovery.dup_credit = 0;
            }
            self.recovery.dup_acks = 0;
            return newly_acked - counted;
        }
        0
    }

    /// RFC 8985 §6.2, steps 1 to 4.
    fn update_rack(&mut self, now: Instant, outcome: &AckOutcome) {
        if outcome.lowest_sacked_never_retransmitted.is_some() {
            self.recovery.reordering.seen = true;
            self.counters.reord_seen += 1;
        }
        let Some(newest) = &outcome.newest else { return };
        // Step 2: an ACK too early for the retransmission is an original's.
        let too_early = self.rtt.min_rtt().is_some_and(|min| now.since(newest.sent_at) < min);
        let newest = if newest.retransmitted && too_early { outcome.newest_original.as_ref() } else { Some(newest) };
        let Some(newest) = newest else { return };
        let rtt = now.since(newest.sent_at);
        let newer =
            self.recovery.rack.as_ref().is_none_or(|r| (r.newest_sent_at, r.newest_end) < (newest.sent_at, newest.end));
        if newer {
            self.recovery.rack =
                Some(RackView { newest_sent_at: newest.sent_at, newest_end: newest.end, reo_wnd: Duration::ZERO, rtt });
        }
    }

    /// RFC 8985 §6.2 step 4: a quarter of the round trip, more after D-SACKs, none while no reordering was seen and
    /// there is evidence enough.
    pub(super) fn reordering_window(&self) -> Duration {
        let enough = self.sent.sacked_bytes() >= u64::from(DUP_THRESH) * u64::from(self.send_mss())
            || self.recovery.phase != Phase::Open;
        let Reordering { seen, quarters, .. } = self.recovery.reordering;
        if !seen && enough {
            return Duration::ZERO;
        }
        let window = self.rtt.min_rtt().unwrap_or_default() / 4 * quarters;
        window.min(self.rtt.srtt().unwrap_or_default())
    }

    /// Finds what is lost and enters recovery for it.
    pub(super) fn detect_losses(&mut self, now: Instant, advanced: bool) {
        if self.negotiated.sack {
            let Some(mut view) = self.recovery.rack else { return };
            if self.sent.outstanding() == 0 {
                return self.timers.clear(Timer::Reorder);
            }
            view.reo_wnd = self.reordering_window();
            let detected = self.sent.detect_lost(&view, now);
            match detected.next_deadline {
                Some(at) => self.timers.set(Timer::Reorder, at),
                None => self.timers.clear(Timer::Reorder),
            }
            let only_probe = self.is_only_probe_lost(detected.lost);
            self.tell_lost(detected.lost, if only_probe { LossReason::MtuProbe } else { LossReason::Rack });
            if detected.lost > 0 && !only_probe {
                self.note_lost(now, detected.lost, detected.newest);
                self.enter_recovery(now);
            }
            return;
        }
        match self.recovery.phase {
            Phase::Open if self.recovery.dup_acks >= DUP_THRESH => {
                let lost = self.sent.mark_first_lost();
                self.tell_lost(lost, LossReason::DuplicateAcks);
                self.note_lost(now, lost, None);
                self.enter_recovery(now);
            }
            // RFC 6582 §3.2 step 3: a partial ACK means the next segment is lost too.
            Phase::Recovery { high } if advanced && self.snd.una < high => {
                let lost = self.sent.mark_first_lost();
                self.tell_lost(lost, LossReason::PartialAck);
                self.note_lost(now, lost, None);
            }
            _ => {}
        }
    }

    /// Without SACK nobody knows how things were when the lost segment left: about as they are.
    fn note_lost(&mut self, now: Instant, lost: u64, newest: Option<LostSegment>) {
        self.recovery.rate.on_lost(lost);
        let since = newest.map_or(0, |newest| newest.snapshot.lost);
        let sample = LossSample {
            now,
            lost,
            tx_in_flight: newest.map_or_else(|| self.pipe() + lost, |newest| newest.tx_in_flight),
            lost_since: if newest.is_some() { self.recovery.rate.lost() - since } else { lost },
            app_limited: newest.is_some_and(|newest| newest.snapshot.app_limited),
            mss: self.send_mss(),
        };
        self.cc.on_lost(&sample);
    }

    pub(super) fn congestion_sample(&self, now: Instant) -> CongestionSample {
        // What was selectively acknowledged or lost is still outstanding, and can be more than the window.
        let in_flight = self.flight_at_loss(self.sent.outstanding()).min(self.cc.cwnd());
        CongestionSample { now, in_flight, mss: self.send_mss(), abe: self.config.ecn_abe }
    }

    fn enter_recovery(&mut self, now: Instant) {
        if self.recovery.phase != Phase::Open {
            return;
        }
        // RFC 3168 §6.1.2: no second reduction for what a mark in the same window has reduced already.
        if !self.ecn.is_reducing() {
            let sample = self.congestion_sample(now);
            self.cc.on_congestion(Congestion::Loss, &sample);
            self.on_congestion_in_validation(sample.in_flight, false);
            self.trace_window(WindowReason::Loss);
            self.recovery.begin_rate_reduction(self.sent.outstanding());
        }
        self.recovery.prr.opens = true;
        self.recovery.prr.budget = self.recovery.prr.budget.max(u64::from(self.send_mss()));
        self.ecn.on_reduction();
        self.recovery.phase = Phase::Recovery { high: self.snd.nxt };
        self.begin_episode(false);
        // RFC 8985 §7.1: a probe is the affair of its time only, and this loss is counted once.
        self.recovery.tlp_high = None;
        self.recovery.tlp_reduced = false;
        self.timers.clear(Timer::Tlp);
    }

    /// RFC 6937 §3.1: what may leave on this ACK. `safe`: it moved SND.UNA and showed no further loss.
    fn update_prr(&mut self, delivered: u64, safe: bool) {
        let mss = u64::from(self.send_mss());
        let (pipe, ssthresh) = (self.pipe(), self.cc.ssthresh());
        let prr = &mut self.recovery.prr;
        prr.delivered += delivered;
        let send = if pipe > ssthresh {
            let due = (u128::from(prr.delivered) * u128::from(ssthresh)).div_ceil(u128::from(prr.flight));
            u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(prr.out)
        } else {
            // The slow-start reduction bound only when the ACK shows progress, as RFC 9937 and Linux: else
            // retransmissions that are lost again would be followed by ever more of them.
            let limit = prr.delivered.saturating_sub(prr.out).max(delivered) + if safe { mss } else { 0 };
            ssthresh.saturating_sub(pipe).min(limit)
        };
        // The retransmission that opens recovery must leave whatever the sums say.
        prr.budget = if prr.opens { send.max(mss) } else { send };
    }

    /// Answers whether the episode ended.
    fn leave_recovery(&mut self, now: Instant, ack: Offset) -> bool {
        let high = match self.recovery.phase {
            Phase::Open => return false,
            Phase::Recovery { high } | Phase::Loss { high } => high,
        };
        if ack < high {
            return false;
        }
        self.cc.on_recovery_exit(now);
        self.on_recovery_exit_in_validation();
        self.trace_window(WindowReason::RecoveryEnd);
        self.recovery.reordering.on_recovery_exit();
        self.end_episode(now);
        true
    }

    /// How long the recovery that began with a timeout has lasted; nothing if there is none.
    pub(super) fn loss_time(&self, now: Instant) -> Duration {
        match self.recovery.phase {
            Phase::Loss { .. } => now.since(self.recovery.loss_since),
            _ => Duration::ZERO,
        }
    }

    pub(super) fn end_episode(&mut self, now: Instant) {
        self.counters.rto_time += self.loss_time(now);
        self.recovery.phase = Phase::Open;
        self.recovery.frto = Frto::Off;
        self.recovery.dup_credit = 0;
        self.recovery.dup_acks = 0;
        self.forget_retransmit_ts();
    }

    /// RFC 8985 §7.4.2: the probe's answer came. ACKs of a probe that was a retransmission leave open whether
    /// it repaired a loss; what comes behind them tells.
    fn answer_tlp(&mut self, now: Instant, segment: &Segment<'_>, ack: Offset, duplicate: bool) {
        let Some(high) = self.recovery.tlp_high.filter(|&high| ack >= high) else { return };
        let first_block = segment.header.options.sack.iter().next();
        let twice = first_block.is_some_and(|(_, right)| right == self.snd.wire(high));
        let arrived_twice = twice || (duplicate && first_block.is_none());
        if self.recovery.tlp_was_retransmit && !arrived_twice && ack == high {
            return;
        }
        self.recovery.tlp_high = None;
        let repaired = self.recovery.tlp_was_retransmit && !arrived_twice;
        if repaired && self.recovery.phase == Phase::Open {
            let sample = self.congestion_sample(now);
            self.cc.on_congestion(Congestion::Loss, &sample);
            self.on_congestion_in_validation(sample.in_flight, true);
            self.cc.on_recovery_exit(now);
            self.trace_window(WindowReason::Loss);
            self.ecn.on_reduction();
            self.recovery.tlp_reduced = true;
        }
    }

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
    fn is_cwnd_limited(&self) -> bool {
        let slow_start = self.cc.cwnd() < self.cc.ssthresh();
        self.recovery.cwnd_limited || (slow_start && self.cc.cwnd() < self.recovery.max_flight.saturating_mul(2))
    }

    /// Less than a segment waits to be sent, and more might be in flight: what the path could do is not seen
    /// (draft-cardwell-ccwg-bbr §4.5.2.3.4). To be asked before anything is written, acknowledged or timed out.
    pub(super) fn check_app_limited(&mut self) {
        let pipe = self.pipe();
        let unsent = self.send_buf.end().since(self.snd.nxt);
        if unsent < u64::from(self.send_mss()) && pipe < self.cc.cwnd() && self.sent.lost_bytes() == 0 {
            self.recovery.rate.on_app_limited(pipe);
        }
    }

    fn tell_congestion_control(
        &mut self,
        now: Instant,
        outcome: &AckOutcome,
        in_flight: u64,
        delivered: u64,
        rate: Option<RateSample>,
        safe: bool,
    ) {
        let marked = self.recovery.phase == Phase::Open && self.ecn.is_reducing();
        let in_recovery = marked || matches!(self.recovery.phase, Phase::Recovery { .. });
        if in_recovery {
            self.update_prr(delivered, safe);
        }
        if delivered == 0 {
            return;
        }
        self.note_delivered(now, delivered);
        self.cc.on_ack(&AckSample {
            now,
            acked: delivered,
            duplicate: outcome.newly_acked == 0,
            rtt: outcome.rtt_sample(),
            min_rtt: self.rtt.min_rtt(),
            srtt: self.rtt.srtt(),
            in_flight,
            pipe: self.pipe(),
            cwnd_limited: self.is_cwnd_limited(),
            in_recovery,
            mss: self.send_mss(),
            delivery_rate: rate.as_ref().map(RateSample::bytes_per_second),
            rate,
            round_start: self.recovery.rate.is_round_start(),
        });
        self.trace_window(WindowReason::Ack);
    }

    /// The retransmission timer fired (RFC 6298 §5.4–5.7).
    pub(super) fn on_rto(&mut self, now: Instant) {
        self.counters.timeouts += 1;
        self.recovery.retries += 1;
        self.recovery.backoff = (self.recovery.backoff + 1).min(20);
        if self.sent.is_head_sacked() {
            // RFC 2018 §8: the peer has dropped what it had acknowledged selectively.
            self.sent.forget_sacks();
        }
        let first_of_episode = !matches!(self.recovery.phase, Phase::Loss { .. });
        // As Linux: not when fast recovery has sent things again already.
        let may_be_spurious = self.recovery.phase == Phase::Open || self.recovery.retries > 1;
        self.recovery.frto_holds = false;
        let sample = self.congestion_sample(now);
        let lost = self.sent.mark_all_lost();
        self.recovery.rate.on_lost(lost);
        self.tell_lost(lost, LossReason::Timeout);
        if self.snd.una > Offset(0) {
            // A lost SYN says nothing of the window, but for RFC 5681's one segment after it.
            // RFC 5681 §3.1: the controller holds ssthresh for a segment that was sent again before.
            self.cc.on_rto(&sample);
            self.on_congestion_in_validation(sample.in_flight, true);
            self.trace_window(WindowReason::Timeout);
            self.ecn.on_reduction();
            if first_of_episode {
                self.begin_episode(true);
                self.counters.rto_recoveries += 1;
                self.recovery.loss_since = now;
            }
            self.recovery.frto = if may_be_spurious { Frto::Head } else { Frto::Off };
            self.recovery.phase = Phase::Loss { high: self.snd.nxt };
        }
        self.recovery.dup_acks = 0;
        self.recovery.dup_credit = 0;
        self.recovery.tlp_high = None;
        self.recovery.tlp_reduced = false;
        self.timers.clear(Timer::Tlp);
        self.timers.clear(Timer::Reorder);
        self.arm_rto(now);
    }
}
