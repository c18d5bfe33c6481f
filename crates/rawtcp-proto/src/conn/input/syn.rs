//! Fourth, but looked at with the first: SYN on a connection that has had one (RFC 9293 §3.10.7.4, fourth; RFC 5961 §4).

use super::Connection;
use crate::error::DropReason;
use crate::time::Instant;
use crate::wire::{Flags, Segment};

impl Connection {
    /// Whatever its sequence number, a SYN gets a challenge ACK and changes nothing.
    pub(super) fn check_syn(&mut self, now: Instant, segment: &Segment<'_>) -> Result<(), DropReason> {
        if segment.header.flags.contains(Flags::SYN) {
            self.challenge_ack(now);
            return Err(DropReason::UnexpectedSyn);
        }
        Ok(())
    }
}
