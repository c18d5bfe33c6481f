//! A segment arrives (RFC 9293 §3.10.7): the ladder of §3.10.7.4, one call a rung.

mod acceptable;
mod ack;
mod fin;
mod reset;
mod syn;
mod syn_sent;
mod text;

use super::{Connection, Events, State};
use crate::error::DropReason;
use crate::seq::Offset;
use crate::time::Instant;
use crate::trace::{StateReason, WindowReason};
use crate::wire::Segment;

impl Connection {
    /// Takes a segment that the demultiplexer found to be this connection's.
    ///
    /// An error says why it, or what was left of it, went no further; the answer it deserves, if any,
    /// is given by [`poll_transmit`](Self::poll_transmit).
    pub fn on_segment(&mut self, now: Instant, segment: &Segment<'_>) -> Result<(), DropReason> {
        let segments = self.segments_in(segment);
        self.counters.segs_in += segments;
        if !segment.payload.is_empty() {
            self.counters.data_segs_in += segments;
        }
        self.trace_now(now);
        let result = match self.state {
            State::Closed | State::TimeWait => Err(DropReason::Closed),
            State::SynSent => self.on_segment_in_syn_sent(now, segment),
            _ => self.on_segment_synchronized(now, segment),
        };
        self.trace_drop(result)
    }

    fn on_segment_synchronized(&mut self, now: Instant, segment: &Segment<'_>) -> Result<(), DropReason> {
        let start = self.check_acceptable(now, segment)?; // first: sequence number, PAWS
        self.check_reset(now, segment, start)?; // second
        // Third, security: no labelled networks here. Fourth, SYN: done with the first.
        self.check_ack(now, segment)?; // fifth
        self.last_heard = now;
        self.probes = 0;
        self.update_ts_recent(now, segment, start);
        self.check_urgent(segment, start); // sixth
        self.receive_text(now, segment, start); // seventh
        self.receive_fin(now, segment, start); // eighth
        Ok(())
    }

    /// How many wire segments a received packet stands for: receive offload merges them.
    pub(super) fn segments_in(&self, segment: &Segment<'_>) -> u64 {
        let unit = match segment.gro_size {
            0 => self.rcv.adv_mss.max(1) as usize,
            size => usize::from(size),
        };
        segment.payload.len().div_ceil(unit).max(1) as u64
    }

    /// Where the text or the FIN of this segment begins: a SYN takes one number.
    fn text_start(segment: &Segment<'_>, start: Offset) -> Offset {
        start.add(u64::from(segment.header.flags.contains(crate::wire::Flags::SYN)))
    }

    /// Leaves a state where the handshake was not complete.
    fn establish(&mut self, now: Instant) {
        self.transition(State::Established, StateReason::SynAcked);
        self.events.insert(Events::CONNECTED | Events::WRITABLE);
        self.start_mtu_search();
        self.cc = self.initial_control(self.recovery.rare.total_retrans);
        self.recovery.used.restart(now);
        if self.recovery.rare.timeouts > 0 {
            self.rtt.on_syn_timeout(); // RFC 6298 §5.7
            self.recovery.backoff = 0;
        }
        self.trace_window(WindowReason::Start);
        self.start_keepalive(now);
        // A close that was called before the handshake ended (RFC 9293 §3.10.4).
        if self.snd.fin.is_some() {
            self.transition(State::FinWait1, StateReason::LocalClose);
        }
    }
}
