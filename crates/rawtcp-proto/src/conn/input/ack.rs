//! Fifth: the ACK field (RFC 9293 §3.10.7.4, fifth).

use super::{Connection, Events, State};
use crate::error::{CloseReason, DropReason};
use crate::seq::Offset;
use crate::time::Instant;
use crate::trace::StateReason;
use crate::wire::{Flags, Segment};

impl Connection {
    pub(super) fn check_ack(&mut self, now: Instant, segment: &Segment<'_>) -> Result<(), DropReason> {
        if !segment.header.flags.contains(Flags::ACK) {
            return Err(DropReason::NoAck);
        }
        if self.state == State::SynReceived {
            let ack = segment.header.ack.unwrap(self.snd.iss, self.snd.una);
            return self.check_ack_in_syn_received(now, segment, ack);
        }
        let Some(ack) = self.believable_ack(segment) else {
            self.challenge_ack(now);
            return Err(DropReason::AckNumber);
        };
        if ack >= self.snd.una {
            // The window first: a window update is not a duplicate ACK.
            let updated = self.update_window(segment, ack);
            self.process_ack(now, segment, ack, updated);
            self.after_ack(now);
        }
        Ok(())
    }

    /// RFC 5961 §5 [MAY-12]: SND.UNA - MAX.SND.WND ≤ SEG.ACK ≤ SND.NXT.
    pub(super) fn believable_ack(&self, segment: &Segment<'_>) -> Option<Offset> {
        let oldest = Offset(self.snd.una.0.saturating_sub(u64::from(self.snd.max_wnd.max(1))));
        let ack = segment.header.ack.unwrap(self.snd.iss, self.snd.una);
        ack.filter(|&ack| oldest <= ack && ack <= self.snd.nxt)
    }

    /// RFC 9293 §3.10.7.4, fifth, SYN-RECEIVED: an unacceptable ACK is answered with a RST.
    fn check_ack_in_syn_received(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        ack: Option<Offset>,
    ) -> Result<(), DropReason> {
        let Some(ack) = ack.filter(|&ack| ack > self.snd.una && ack <= self.snd.nxt) else {
            self.pending.refuse = Some(segment.header.ack);
            return Err(DropReason::AckNumber);
        };
        self.pending.syn_ack = false;
        self.establish(now);
        self.update_window(segment, ack);
        self.process_ack(now, segment, ack, true);
        self.after_ack(now);
        Ok(())
    }

    /// SND.WND, SND.WL1, SND.WL2; answers whether the window changed.
    pub(super) fn update_window(&mut self, segment: &Segment<'_>, ack: Offset) -> bool {
        let Some(seq) = segment.header.seq.unwrap(self.rcv.irs, self.rcv.nxt) else { return false };
        if !(self.snd.wl1 < seq || (self.snd.wl1 == seq && self.snd.wl2 <= ack)) {
            return false;
        }
        // RFC 7323 §2.2: never scaled in a segment with SYN.
        let scaled = self.negotiated.scales.filter(|_| !segment.header.flags.contains(Flags::SYN));
        let scale = scaled.map_or(crate::seq::WindowScale::NONE, |s| s.snd);
        let wnd = scale.bytes(segment.header.window);
        let changed = wnd != self.snd.wnd;
        self.snd.wnd = wnd;
        self.snd.max_wnd = self.snd.max_wnd.max(wnd);
        self.snd.wl1 = seq;
        self.snd.wl2 = ack;
        changed
    }

    /// What an acknowledged FIN moves (RFC 9293 §3.10.7.4, fifth, the closing states).
    pub(super) fn after_ack(&mut self, now: Instant) {
        if self.snd.fin_acked() {
            match self.state {
                State::FinWait1 => {
                    self.transition(State::FinWait2, StateReason::FinAcked);
                    self.start_fin_wait2(now);
                }
                State::Closing => self.transition(State::TimeWait, StateReason::FinAcked),
                State::LastAck => self.fail(CloseReason::Graceful),
                _ => {}
            }
        }
        self.wake_writer();
    }

    pub(in crate::conn) fn wake_writer(&mut self) {
        if self.write_blocked {
            self.tune_send_buffer();
        }
        if self.write_blocked && self.state.may_send() && self.has_writer_room() {
            self.write_blocked = false;
            self.events.insert(Events::WRITABLE);
        }
    }
}
