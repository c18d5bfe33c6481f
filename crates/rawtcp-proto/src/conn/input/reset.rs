//! Second: RST (RFC 9293 §3.10.7.4, second; RFC 5961 §3).

use super::{Connection, State};
use crate::error::{CloseReason, DropReason};
use crate::seq::Offset;
use crate::time::Instant;
use crate::wire::{Flags, Segment};

impl Connection {
    pub(super) fn check_reset(&mut self, now: Instant, segment: &Segment<'_>, start: Offset) -> Result<(), DropReason> {
        if !segment.header.flags.contains(Flags::RST) {
            return Ok(());
        }
        if start != self.rcv.nxt {
            // RFC 5961 §3.2, 3: in the window but not exact → challenge ACK.
            self.challenge_ack(now);
            return Err(DropReason::RstSequence);
        }
        let reason = match self.state {
            // The peer's data was complete: reads still end in EOF, writes in EPIPE, as on Linux.
            State::CloseWait => CloseReason::ResetAfterEof,
            _ => CloseReason::Reset,
        };
        self.fail(reason);
        Err(DropReason::Closed)
    }
}
