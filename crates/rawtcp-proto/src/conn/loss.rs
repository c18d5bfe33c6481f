//! What an ACK says of the path and of loss: NewReno without SACK (RFC 6582), RACK with it (RFC 8985 §6). What
//! follows from a loss is in [`recovery`](super::recovery).

use super::recovery::Phase;
use super::undo::Reordering;
use super::{Connection, Timer};
use crate::cc::{AckSample, CongestionSample, LossSample};
use crate::recovery::rate::RateSample;
use crate::recovery::sent::{AckOutcome, LostSegment};
use crate::seq::Offset;
use crate::time::{Duration, Instant};
use crate::trace::{LossReason, WindowReason};
use crate::wire::{Flags, Segment};

/// Duplicate ACKs that stand for a loss where SACK is off (RFC 5681 §3.2).
const DUP_THRESH: u32 = 3;
/// What our timestamp clock can not tell apart (RFC 7323 §5.4).
const TIMESTAMP_TICK: Duration = Duration::from_millis(1);

impl Connection {
    /// Bytes thought to be in the network.
    pub(super) fn pipe(&self) -> u64 {
        self.sent.in_flight().saturating_sub(self.recovery.dup_credit.into())
    }

    /// How many bytes congestion control lets leave now.
    pub(super) fn cwnd_room(&self) -> u64 {
        match self.recovery.phase {
            _ if self.cc.controls_recovery() => self.cc.cwnd().saturating_sub(self.pipe()),
            Phase::Recovery { .. } => self.recovery.rare.prr.budget,
            Phase::Open if self.ecn.is_reducing() => self.recovery.rare.prr.budget,
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
        if let Some(rare) = self.recovery.rare.touched() {
            rare.frto_holds &= !(advanced || duplicate || outcome.delivered > 0);
        }
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
        self.stalled_since = (self.sent.outstanding() > 0).then_some(now).into();
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
            let before = u64::from(self.recovery.dup_credit);
            self.recovery.dup_credit = u32::try_from((before + mss).min(most.max(before))).unwrap_or(u32::MAX);
            return mss;
        }
        if advanced {
            // The segments that the duplicates stood for are now acknowledged for good; one was the hole.
            let credit = u64::from(self.recovery.dup_credit);
            let counted = credit.min(newly_acked.saturating_sub(mss));
            self.recovery.dup_credit -= counted as u32;
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
            let rare = self.recovery.rare.edit();
            rare.reordering.seen = true;
            rare.reord_seen += 1;
        }
        let Some(newest) = &outcome.newest else { return };
        // Step 2: an ACK too early for the retransmission is an original's.
        // But not a tail loss probe's: it left because nothing had come for two round trips, and what it finds has only the
        // RTO behind it. On a path of microseconds the least round trip is the one for which the process was awake.
        let is_probe = self.recovery.rare.tlp_copy == Some(newest.end);
        let too_early = !is_probe && self.rtt.min_rtt().is_some_and(|min| now.since(newest.sent_at) < min);
        let newest = if newest.retransmitted && too_early { outcome.newest_original.as_ref() } else { Some(newest) };
        let Some(newest) = newest else { return };
        self.recovery.rack.on_delivered(newest.sent_at, newest.end, now.since(newest.sent_at));
    }

    /// RFC 8985 §6.2 step 4: a quarter of the round trip, more after D-SACKs, none while no reordering was seen and
    /// there is evidence enough.
    pub(super) fn reordering_window(&self) -> Duration {
        let enough = self.sent.sacked_bytes() >= u64::from(DUP_THRESH) * u64::from(self.send_mss())
            || self.recovery.phase != Phase::Open;
        let Reordering { seen, quarters, .. } = self.recovery.rare.reordering;
        if !seen && enough {
            return Duration::ZERO;
        }
        let window = self.rtt.min_rtt().unwrap_or_default() / 4 * quarters;
        window.min(self.rtt.srtt().unwrap_or_default())
    }

    /// Finds what is lost and enters recovery for it.
    pub(super) fn detect_losses(&mut self, now: Instant, advanced: bool) {
        if self.negotiated.sack {
            if self.sent.outstanding() == 0 {
                return self.timers.clear(Timer::Reorder);
            }
            let Some(view) = self.recovery.rack.view(self.reordering_window()) else { return };
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

    /// Less than a segment waits to be sent, and more might be in flight: what the path could do is not seen
    /// (draft-cardwell-ccwg-bbr §4.5.2.3.4). To be asked before anything is written, acknowledged or timed out.
    pub(super) fn check_app_limited(&mut self) {
        self.check_app_limited_below(u64::from(self.send_mss()));
    }

    /// The same where less than so many bytes wait for more.
    pub(super) fn check_app_limited_below(&mut self, enough: u64) {
        let pipe = self.pipe();
        let unsent = self.send_buf.end().since(self.snd.nxt);
        if unsent < enough && pipe < self.cc.cwnd() && self.sent.lost_bytes() == 0 {
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
}
