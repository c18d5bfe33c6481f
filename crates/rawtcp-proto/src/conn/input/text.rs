//! Seventh: segment text (RFC 9293 §3.10.7.4, seventh).

use super::{Connection, Events};
use crate::buf::assembler::Inserted;
use crate::error::CloseReason;
use crate::seq::Offset;
use crate::time::Instant;
use crate::wire::{Flags, Segment};

/// Separate out-of-order ranges are kept up to one for so many bytes of the receive buffer, and at least so many.
/// A peer that sends every second byte gets no more. It is more than a window of full segments of which
/// every second was lost, as when slow start overshoots a queue, has.
const BYTES_PER_RANGE: usize = 1024;
const LEAST_RANGES: usize = 512;

impl Connection {
    pub(super) fn receive_text(&mut self, now: Instant, segment: &Segment<'_>, start: Offset) {
        self.receive_text_at(now, segment, Self::text_start(segment, start));
    }

    pub(super) fn receive_text_at(&mut self, now: Instant, segment: &Segment<'_>, start: Offset) {
        if segment.payload.is_empty() && !segment.header.flags.contains(Flags::FIN) {
            return;
        }
        if !self.state.may_receive() {
            // After the peer's FIN there is no text (RFC 9293 §3.10.7.4: "should not occur").
            return;
        }
        let end = start.add(segment.payload.len() as u64);
        if self.orphan && end > self.rcv.nxt && !segment.payload.is_empty() {
            // RFC 9293 §3.6.1 [SHLD-3]: data after close that nobody will read → RST.
            self.reset_with(CloseReason::Aborted);
            return;
        }
        self.note_segment_size(segment);
        if !segment.payload.is_empty() {
            self.note_mark(segment);
        }
        self.last_text = now;
        // What lies before RCV.NXT was received before, what lies beyond the window was not offered.
        let (from, to) = (start.max(self.rcv.nxt), end.min(self.rcv.adv));
        if start < self.rcv.nxt && !segment.payload.is_empty() && self.negotiated.sack {
            self.ack.odd.edit().duplicate = Some(start..end.min(self.rcv.nxt));
        }
        let skip = from.since(start) as usize;
        let cut = end.since(to) as usize;
        let text = match segment.payload.len().checked_sub(skip + cut) {
            Some(len) => &segment.payload[skip..skip + len],
            None => &[],
        };
        let fin = segment.header.flags.contains(Flags::FIN) && cut == 0 && from <= end;
        if from == self.rcv.nxt {
            self.receive_in_order(now, segment, text, cut > 0);
        } else if from > self.rcv.nxt {
            self.receive_out_of_order(from, segment, text, fin);
        }
    }

    fn receive_in_order(&mut self, now: Instant, segment: &Segment<'_>, text: &[u8], cut: bool) {
        if text.is_empty() {
            if !segment.payload.is_empty() {
                // All of it old, or none of it offered: say where we are.
                self.ack.now();
            }
            return;
        }
        self.recv_buf.append(text, segment.owner);
        self.rcv.nxt = self.rcv.nxt.add(text.len() as u64);
        self.measure_receive_rtt(now, segment);
        self.ack.on_advance();
        let had_hole = !self.assembler.is_empty();
        if had_hole {
            self.rcv.nxt = self.assembler.edit().take_ready(self.rcv.nxt, &mut self.recv_buf);
            if self.assembler.is_empty() && self.assembler.fin_at().is_none() {
                self.assembler.reset();
            }
        }
        self.events.insert(Events::READABLE);
        // RFC 5681 §4.2: at once when a hole exists or was filled.
        if had_hole || cut || self.ack.odd.duplicate.is_some() {
            self.ack.now();
        } else {
            self.ack_text(now, text.len(), segment.gro_size);
        }
    }

    fn receive_out_of_order(&mut self, at: Offset, segment: &Segment<'_>, text: &[u8], fin: bool) {
        self.recovery.rare.edit().rcv_ooopack += self.segments_in(segment);
        // RFC 9293 §3.10.7.4 [SHLD-31]: queued, within twice the receive buffer of memory.
        let limit = self.memory_limit().saturating_sub(self.recv_buf.charged());
        let ranges = (self.recv_buffer / BYTES_PER_RANGE).max(LEAST_RANGES);
        match self.assembler.edit().insert(at, text, segment.owner, fin, ranges, limit) {
            Inserted::Duplicate(range) if self.negotiated.sack => self.ack.odd.edit().duplicate = Some(range),
            _ => {}
        }
        // RFC 5681 §4.2, RFC 9293 [MAY-13]: a hole is answered at once.
        if self.negotiated.sack { self.ack.now() } else { self.ack.repeat() }
    }

    /// Learns how large a full segment of this peer is, for the delayed ACK.
    fn note_segment_size(&mut self, segment: &Segment<'_>) {
        let size = match segment.gro_size {
            0 => segment.payload.len().min(self.rcv.adv_mss as usize) as u32,
            size => u32::from(size),
        };
        self.rcv.seen_mss = self.rcv.seen_mss.max(size);
    }
}
