//! First: the sequence number, and timestamps (RFC 9293 §3.10.7.4; RFC 7323 §5).

use super::{Connection, State};
use crate::error::DropReason;
use crate::seq::Offset;
use crate::time::{Duration, Instant};
use crate::wire::{Flags, Segment};

/// A TS.Recent older than this no longer rejects anything (RFC 7323 §5.5).
const TS_RECENT_LIFETIME: Duration = Duration::from_secs(24 * 24 * 3600);

impl Connection {
    /// Where the segment starts, if it may be looked at further.
    pub(super) fn check_acceptable(&mut self, now: Instant, segment: &Segment<'_>) -> Result<Offset, DropReason> {
        let start = segment.header.seq.unwrap(self.rcv.irs, self.rcv.nxt);
        let is_reset = segment.header.flags.contains(Flags::RST);
        if self.is_crossing_syn_ack(segment) {
            return Ok(Offset(0));
        }
        // RFC 5961 §4.2: a SYN is challenged whatever its sequence number, so before it is looked at.
        if !is_reset {
            self.check_syn(now, segment)?;
        }
        // RFC 7323 §5.3 R1: before the sequence number, and never for a RST.
        if !is_reset && self.is_older_than_recent(now, segment) {
            self.ack_now_limited(now, segment);
            // An original that its own copy has overtaken: the sender waits to hear that (RFC 2883 §4), and
            // as Linux says it.
            self.note_duplicate(segment);
            return Err(DropReason::Paws);
        }
        let Some(start) = start.filter(|&start| self.is_in_window(start, segment)) else {
            // RFC 9293 §3.10.7.4, first: not acceptable → an ACK in reply, unless RST.
            if !is_reset {
                self.ack_now_limited(now, segment);
                self.note_duplicate(segment);
                self.echo_last_again(now, segment);
                self.take_old_ack(now, segment);
            }
            return Err(DropReason::OutOfWindow);
        };
        Ok(start)
    }

    /// The answer to our SYN in a simultaneous open (RFC 9293 §3.5, Figure 8): it begins at IRS, before the
    /// window, but its ACK completes the handshake.
    fn is_crossing_syn_ack(&self, segment: &Segment<'_>) -> bool {
        self.state == State::SynReceived
            && segment.header.flags.contains(Flags::SYN | Flags::ACK)
            && !segment.header.flags.contains(Flags::RST)
            && segment.header.seq == self.rcv.irs
            && segment.header.ack == self.snd.wire(self.snd.nxt)
    }

    /// The four cases of RFC 9293 §3.10.7.4 Table 6.
    ///
    /// Deviation: a segment without text is also taken at the right edge itself. A peer that has filled
    /// the window and lost some of it sends every pure ACK from there, and its acknowledgments are news.
    /// Text that begins at the edge of a zero window is not kept, but its ACK, URG and RST are looked at
    /// [MUST-66].
    fn is_in_window(&self, start: Offset, segment: &Segment<'_>) -> bool {
        let end = start.add(u64::from(segment.seq_len()));
        if segment.header.flags.contains(Flags::RST) {
            // RFC 5961 §3.2: exactly RCV.NXT, or below the edge; a RST outside gets silence.
            return start == self.rcv.nxt || (self.rcv.nxt < start && start < self.rcv.adv);
        }
        if start == end {
            return self.rcv.nxt <= start && start <= self.rcv.adv;
        }
        if self.rcv.adv == self.rcv.nxt {
            return start <= self.rcv.nxt && end > self.rcv.nxt && segment.header.flags.contains(Flags::ACK);
        }
        start < self.rcv.adv && end > self.rcv.nxt
    }

    fn is_older_than_recent(&self, now: Instant, segment: &Segment<'_>) -> bool {
        let Some(ts) = segment.header.options.timestamps.filter(|_| self.negotiated.timestamps) else {
            // Deviation [RFC 7323 §3.2, SHOULD drop]: a segment without the option is accepted, as by
            // Linux; boxes on the path strip options from some segments.
            return false;
        };
        let age = ts.value.wrapping_sub(self.rcv.ts_recent) as i32;
        age < 0 && now.since(self.rcv.ts_recent_at) < TS_RECENT_LIFETIME
    }

    /// RFC 7323 §4.3 (2): a segment that spans Last.ACK.sent brings the timestamp to echo. Only once its ACK
    /// was believed: a forged timestamp would make PAWS drop all that is genuine.
    pub(super) fn update_ts_recent(&mut self, now: Instant, segment: &Segment<'_>, start: Offset) {
        if let Some(ts) = segment.header.options.timestamps.filter(|_| self.negotiated.timestamps)
            && start <= self.rcv.last_ack_sent
            && !self.is_older_than_recent(now, segment)
        {
            self.rcv.ts_recent = ts.value;
            self.rcv.ts_recent_at = now;
        }
    }

    /// The last segment once more: our ACK was lost. As Linux, its timestamp is echoed though it lies before
    /// the window, or the peer measures the time since the first copy, and its RTO feeds on itself. Only with an
    /// ACK that is believed: see [`update_ts_recent`](Self::update_ts_recent).
    fn echo_last_again(&mut self, now: Instant, segment: &Segment<'_>) {
        let start = segment.header.seq.unwrap(self.rcv.irs, self.rcv.nxt);
        let ends_here = |start: &Offset| start.add(u64::from(segment.seq_len())) == self.rcv.nxt;
        if let Some(start) = start.filter(ends_here)
            && segment.seq_len() > 0
            && segment.header.flags.contains(Flags::ACK)
            && self.believable_ack(segment).is_some()
        {
            self.update_ts_recent(now, segment, start);
        }
    }

    /// What lies before the window may still acknowledge something new.
    ///
    /// Deviation [RFC 9293 §3.10.7.4, first: such a segment is dropped]. Two ends that each believe that the other
    /// has taken its window back (an old window field overtook a newer one) send everything from before the
    /// other's RCV.NXT, and without this would never hear each other again. Linux takes what ends exactly at
    /// RCV.NXT for the same reason; here it is what begins no further before it than the window reaches behind
    /// it, so that a blind forger has to guess as well as before (RFC 5961 §5), but for a factor of two.
    fn take_old_ack(&mut self, now: Instant, segment: &Segment<'_>) {
        let reach = self.receive_limit().max(u64::from(u16::MAX));
        let start = segment.header.seq.unwrap(self.rcv.irs, self.rcv.nxt);
        let near = start.is_some_and(|start| start < self.rcv.nxt && self.rcv.nxt.since(start) <= reach);
        if near
            && self.state.is_synchronized()
            && segment.header.flags.contains(Flags::ACK)
            && let Some(ack) = self.believable_ack(segment).filter(|&ack| ack > self.snd.una)
        {
            self.last_heard = now;
            let updated = self.update_window(segment, ack);
            self.process_ack(now, segment, ack, updated);
            self.after_ack(now);
        }
    }

    /// Remembers text that was received before, for the D-SACK of the answer (RFC 2883 §4).
    fn note_duplicate(&mut self, segment: &Segment<'_>) {
        if segment.payload.is_empty() || !self.negotiated.sack {
            return;
        }
        let Some(start) = segment.header.seq.unwrap(self.rcv.irs, self.rcv.nxt) else { return };
        let end = start.add(segment.payload.len() as u64).min(self.rcv.nxt);
        if start < end {
            self.ack.odd.edit().duplicate = Some(start..end);
        }
    }
}
