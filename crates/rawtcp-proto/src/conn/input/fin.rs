//! Eighth: FIN (RFC 9293 §3.10.7.4, eighth).

use super::{Connection, Events, State};
use crate::seq::Offset;
use crate::time::Instant;
use crate::trace::StateReason;
use crate::wire::{Flags, Segment};

impl Connection {
    /// Notes a FIN that this segment carries and acts on it once everything before it has arrived.
    pub(super) fn receive_fin(&mut self, now: Instant, segment: &Segment<'_>, start: Offset) {
        if segment.header.flags.contains(Flags::FIN) && self.state != State::SynReceived {
            let at = Self::text_start(segment, start).add(segment.payload.len() as u64);
            if at == self.rcv.nxt && self.rcv.fin.is_none() {
                self.ack_fin(now);
                return self.on_fin(at);
            }
            if at < self.rcv.nxt {
                // A FIN that was sent again: acknowledge it again.
                self.ack.now();
            }
        }
        if let Some(at) = self.assembler.fin_at().filter(|&at| at == self.rcv.nxt && self.rcv.fin.is_none()) {
            self.ack.now();
            self.on_fin(at);
        }
    }

    fn on_fin(&mut self, at: Offset) {
        self.rcv.fin = at.into();
        self.rcv.nxt = at.add(1);
        self.rcv.adv = self.rcv.adv.max(self.rcv.nxt);
        self.assembler.reset();
        self.events.insert(Events::READ_CLOSED | Events::READABLE);
        match self.state {
            State::SynReceived | State::Established => self.transition(State::CloseWait, StateReason::RemoteClose),
            State::FinWait1 => self.transition(State::Closing, StateReason::RemoteClose),
            State::FinWait2 => self.transition(State::TimeWait, StateReason::RemoteClose),
            _ => {}
        }
    }
}
