//! First: the sequence number, and timestamps (RFC 9293 §3.10.7.4; RFC 7323 §5).

use super::Connection;
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
        // RFC 7323 §5.3 R1: before the sequence number, and never for a RST.
        if !is_reset && self.is_older_than_recent(now, segment) {
            self.ack_now_limited(now, segment);
            return Err(DropReason::Paws);
        }
        let Some(start) = start.filter(|&start| self.is_in_window(start, segment)) else {
            // RFC 9293 §3.10.7.4, first: not acceptable → an ACK in reply, unless RST.
            if !is_reset {
                self.ack_now_limited(now, segment);
                self.note_duplicate(segment);
            }
            return Err(DropReason::OutOfWindow);
        };
        self.update_ts_recent(now, segment, start);
        Ok(start)
    }

    /// The four cases of RFC 9293 §3.10.7.4 Table 6.
    ///
    /// Deviation: a segment without text is also taken at the right edge itself. A peer that has filled
    /// the window and lost some of it sends every pure ACK from there, and its acknowledgments are news.
    /// Text that begins at the edge of a zero window is not kept, but its ACK, URG and RST are looked at
    /// [MUST-66].
    fn is_in_window(&self, start: Offset, segment: &Segment<'_>) -> bool {
        let end = start.add(u64::from(segment.seq_len()));
        if start == end {
            return self.rcv.nxt <= start && start <= self.rcv.adv;
        }
        if self.rcv.adv == self.rcv.nxt {
            return start == self.rcv.nxt && segment.header.flags.contains(Flags::ACK);
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

    /// RFC 7323 §4.3 (2): a segment that spans Last.ACK.sent brings the timestamp to echo.
    fn update_ts_recent(&mut self, now: Instant, segment: &Segment<'_>, start: Offset) {
        if let Some(ts) = segment.header.options.timestamps.filter(|_| self.negotiated.timestamps)
            && start <= self.rcv.last_ack_sent
            && ts.value.wrapping_sub(self.rcv.ts_recent) as i32 >= 0
        {
            self.rcv.ts_recent = ts.value;
            self.rcv.ts_recent_at = now;
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
            self.ack.duplicate = Some(start..end);
        }
    }
}
