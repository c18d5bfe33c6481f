//! Deadlines pass (RFC 9293 §3.10.8), and how they are set.

use super::{Connection, State, Timer};
use crate::error::CloseReason;
use crate::seq::Offset;
use crate::time::{Duration, Instant};

/// The longest a receiver is expected to hold back an ACK (RFC 8985 §7.2 WCDelAckT).
const WORST_DELAYED_ACK: Duration = Duration::from_millis(200);
/// The longest time between two probes of a zero window, as Linux's TCP_RTO_MAX.
const MAX_PROBE_BACKOFF: u8 = 16;
/// No timer is set for less: a setting of zero must not make a deadline that is always due.
const SHORTEST: Duration = Duration::from_millis(1);

impl Connection {
    /// Acts on every deadline that has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        self.check_app_limited();
        self.trace_now(now);
        while let Some(timer) = self.timers.take_due(now) {
            self.trace_expiry(timer);
            match timer {
                Timer::Rto => self.on_rto_timer(now),
                Timer::Tlp => self.on_tlp_timer(now),
                Timer::Reorder => {
                    self.detect_losses(now, false);
                    self.keep_rto(now);
                }
                Timer::Persist => self.on_persist_timer(now),
                Timer::DelayedAck => self.ack.now(),
                Timer::Keepalive => self.on_keepalive_timer(now),
                Timer::Cork => self.pending.push |= self.has_unsent(),
                Timer::Pace => self.on_pace_timer(now),
                Timer::FinWait2 => {
                    if self.state == State::FinWait2 {
                        self.fail(CloseReason::Graceful);
                    }
                }
            }
        }
    }

    /// R2 by count or by the user timeout (RFC 9293 §3.8.3 [MUST-20, MUST-21]).
    fn is_given_up(&self, now: Instant) -> bool {
        if let (Some(limit), Some(since)) = (self.config.user_timeout, self.stalled_since.get())
            && now.since(since) >= limit
        {
            return true;
        }
        let most = match self.state {
            State::SynSent | State::SynReceived => self.config.syn_retries,
            _ if self.orphan => self.config.orphan_retries.min(self.config.retries),
            _ => self.config.retries,
        };
        // A peer that took its window back but answers is alive (RFC 9293 §3.8.6.1 [MUST-37]; Linux's
        // tcp_rtx_probe0_timed_out).
        let shut = self.snd.wnd == 0 && self.state.is_synchronized() && !self.orphan;
        if shut && now.since(self.last_heard) <= self.config.rto_max.saturating_mul(2) {
            return false;
        }
        // A user timeout takes the place of the count, as on Linux.
        (self.config.user_timeout.is_none() || self.orphan) && self.recovery.retries >= most
    }

    fn time_out(&mut self) {
        // RFC 9293 §3.9.2.2: what ICMP said meanwhile explains it better than "timed out".
        let reason = self.soft_error.take().unwrap_or(CloseReason::TimedOut);
        self.fail(reason);
    }

    fn on_rto_timer(&mut self, now: Instant) {
        if self.sent.outstanding() == 0 {
            return;
        }
        if self.is_given_up(now) {
            return self.time_out();
        }
        self.suspect_black_hole();
        self.on_rto(now);
    }

    /// RFC 8985 §7.3: one probe, new data if there is any.
    fn on_tlp_timer(&mut self, now: Instant) {
        if self.sent.outstanding() > 0 && self.recovery.rare.tlp_high.is_none() {
            self.pending.tlp = true;
        }
        self.arm_rto(now);
    }

    fn on_persist_timer(&mut self, now: Instant) {
        if !self.has_unsent() || self.sent.outstanding() > 0 {
            self.probes = 0;
            return;
        }
        if let (Some(limit), Some(since)) = (self.config.user_timeout, self.stalled_since.get())
            && now.since(since) >= limit
        {
            return self.time_out();
        }
        // RFC 9293 §3.8.6.1 [MUST-37]: a peer that answers is never given up; `probes` counts only
        // those without an answer.
        let most = if self.orphan { self.config.orphan_retries } else { self.config.retries };
        // Of an orphan nobody waits for the end: as Linux, it goes once the probes are at their slowest,
        // or a peer could pin its buffer for ever (RFC 6429 §4).
        let slowest = self.rtt.rto_backed_off(self.recovery.backoff.into()) >= self.config.rto_max;
        if self.probes >= most || (self.orphan && slowest) {
            return self.time_out();
        }
        self.probes += 1;
        self.recovery.backoff = (self.recovery.backoff + 1).min(MAX_PROBE_BACKOFF);
        if self.snd.edge() > self.snd.nxt {
            self.pending.push = true; // RFC 9293 §3.8.6.2.1 (4): the override timeout
        } else {
            self.pending.probe = true;
        }
        self.arm_persist(now);
    }

    /// Bytes, or a FIN, wait that were never sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.send_buf.end() > self.snd.nxt.max(Offset(1)) || (self.snd.fin.is_some() && !self.snd.fin_sent())
    }

    /// When the user timeout ends the wait, if there is one.
    fn user_deadline(&self) -> Option<Instant> {
        self.config.user_timeout.zip(self.stalled_since.get()).map(|(limit, since)| since + limit)
    }

    fn next_rto(&self) -> Duration {
        self.rtt.rto_backed_off(self.recovery.backoff.into()).max(SHORTEST)
    }

    /// Starts, or starts anew, the retransmission timer (RFC 6298 §5.1, §5.3).
    pub(super) fn arm_rto(&mut self, now: Instant) {
        self.timers.clear(Timer::Tlp);
        if self.sent.outstanding() == 0 {
            return self.timers.clear(Timer::Rto);
        }
        self.recovery.retry_at = now + self.next_rto();
        self.set_rto();
    }

    /// The timer runs out at the RTO, or at the end of the user timeout before it.
    fn set_rto(&mut self) {
        let at = self.recovery.retry_at;
        self.timers.set(Timer::Rto, self.user_deadline().map_or(at, |deadline| at.min(deadline)));
    }

    fn set_persist(&mut self) {
        let at = self.recovery.retry_at;
        self.timers.set(Timer::Persist, self.user_deadline().map_or(at, |deadline| at.min(deadline)));
    }

    /// The user timeout was changed: what is running runs out accordingly.
    pub(super) fn apply_user_timeout(&mut self) {
        if self.timers.is_set(Timer::Rto) || (self.timers.is_set(Timer::Tlp) && self.user_deadline().is_some()) {
            // The probe after this one may come first again; giving up on time matters more.
            self.timers.clear(Timer::Tlp);
            self.set_rto();
        }
        if self.timers.is_set(Timer::Persist) {
            self.set_persist();
        }
    }

    /// Nothing that restarts the timer has happened (RFC 6298 §5.3: only an ACK of new data does, or a
    /// peer that goes on talking could hold it off for ever); but one of RTO and probe must be running.
    pub(super) fn keep_rto(&mut self, now: Instant) {
        if self.sent.outstanding() == 0 {
            return self.arm_rto(now);
        }
        if self.timers.is_set(Timer::Tlp) && !self.wants_tlp() {
            self.timers.clear(Timer::Tlp);
        }
        if !self.timers.is_set(Timer::Tlp) && !self.timers.is_set(Timer::Rto) {
            self.set_rto();
        }
    }

    /// RFC 8985 §7.2: no probe in recovery, while one is out, or when SACK already tells of a hole.
    fn wants_tlp(&self) -> bool {
        self.negotiated.sack
            && self.recovery.phase == super::recovery::Phase::Open
            && self.recovery.rare.tlp_high.is_none()
            && self.sent.outstanding() > 0
            && self.sent.sacked_bytes() == 0
            && self.state.is_synchronized()
    }

    /// RFC 8985 §7.2: the probe timeout. It takes the place of the RTO that [`arm_rto`](Self::arm_rto) has
    /// set and never comes after it: new data moves the probe, but not the end of waiting for the old.
    pub(super) fn arm_tlp(&mut self, now: Instant) {
        let Some(srtt) = self.rtt.srtt().filter(|_| self.wants_tlp()) else {
            return self.keep_rto(now);
        };
        let mut timeout = srtt.saturating_mul(2);
        timeout += if self.sent.outstanding() <= u64::from(self.send_mss()) {
            WORST_DELAYED_ACK
        } else {
            // Two clock ticks, so that the probe does not race the ACK.
            Duration::from_millis(2)
        };
        let at = (now + timeout).min(self.recovery.retry_at);
        if self.user_deadline().is_some_and(|deadline| deadline <= at) {
            return self.keep_rto(now); // the user timeout is the RTO's affair
        }
        // One timer at a time; the RTO is armed anew behind the probe.
        self.timers.clear(Timer::Rto);
        self.timers.set(Timer::Tlp, at);
    }

    /// RFC 9293 §3.8.6.1 [SHLD-29, SHLD-30]: the first probe after one RTO, then exponentially.
    fn arm_persist(&mut self, now: Instant) {
        self.recovery.retry_at = now + self.next_rto();
        self.set_persist();
    }

    /// The timers of the send side after an ACK was processed.
    pub(super) fn rearm_after_ack(&mut self, now: Instant, advanced: bool) {
        if advanced {
            self.arm_rto(now);
            self.arm_tlp(now);
        } else {
            self.keep_rto(now);
        }
    }

    /// Something waits that neither window nor silly-window avoidance lets go, and nothing is in
    /// flight whose ACK would open the window: only the persist timer keeps the connection alive.
    ///
    /// ACKs that change nothing leave it alone. A window that opens too little to send starts it anew: what
    /// runs out next is the override of silly-window avoidance, not the next of many probes.
    pub(super) fn ensure_persist(&mut self, now: Instant) {
        if self.sent.outstanding() > 0 || !self.has_unsent() || !self.state.is_synchronized() {
            return self.timers.clear(Timer::Persist);
        }
        if self.stalled_since.is_none() {
            self.stalled_since = now.into();
        }
        let shut = self.snd.edge() <= self.snd.nxt;
        if !self.timers.is_set(Timer::Persist) || shut != self.recovery.persist_shut {
            self.recovery.persist_shut = shut;
            self.recovery.backoff = 0;
            self.arm_persist(now);
        }
    }

    pub(super) fn start_keepalive(&mut self, now: Instant) {
        match self.config.keepalive {
            Some(k) if self.state.is_synchronized() => self.timers.set(Timer::Keepalive, now + k.idle.max(SHORTEST)),
            _ => self.timers.clear(Timer::Keepalive),
        }
    }

    /// RFC 9293 §3.8.4: a probe only when idle and with nothing outstanding [MUST-26].
    fn on_keepalive_timer(&mut self, now: Instant) {
        let Some(k) = self.config.keepalive else { return };
        let idle = now.since(self.last_heard);
        if self.sent.outstanding() > 0 || self.has_unsent() {
            return self.timers.set(Timer::Keepalive, now + k.idle.max(SHORTEST));
        }
        if idle < k.idle && self.probes == 0 {
            return self.timers.set(Timer::Keepalive, self.last_heard + k.idle);
        }
        let over = match self.config.user_timeout {
            Some(limit) => idle >= limit && self.probes > 0,
            None => self.probes >= k.count,
        };
        if over {
            // The peer may be alive after all: tell it (as Linux does).
            return self.reset_with(self.soft_error.unwrap_or(CloseReason::TimedOut));
        }
        self.probes += 1;
        self.pending.probe = true;
        self.timers.set(Timer::Keepalive, now + k.interval.max(SHORTEST));
    }

    /// An orphan does not wait for ever for a FIN that may never come.
    pub(super) fn start_fin_wait2(&mut self, now: Instant) {
        if self.orphan && self.state == State::FinWait2 {
            self.timers.set(Timer::FinWait2, now + self.config.fin_wait2);
        }
    }
}
