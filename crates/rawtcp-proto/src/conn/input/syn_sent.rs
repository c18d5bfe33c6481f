//! SYN-SENT (RFC 9293 §3.10.7.3).

use super::{Connection, State};
use crate::conn::{Negotiated, Scales};
use crate::error::{CloseReason, DropReason};
use crate::seq::{Offset, WindowScale};
use crate::time::Instant;
use crate::trace::StateReason;
use crate::wire::{Flags, Segment};

impl Connection {
    pub(super) fn on_segment_in_syn_sent(&mut self, now: Instant, segment: &Segment<'_>) -> Result<(), DropReason> {
        let flags = segment.header.flags;
        let acks_our_syn = segment.header.ack == self.snd.wire(Offset(1)) && self.snd.nxt >= Offset(1);
        // First: the ACK. One too low or too high is refused, and our SYN goes on being retransmitted.
        if flags.contains(Flags::ACK) && !acks_our_syn {
            if !flags.contains(Flags::RST) {
                self.pending.refuse = Some(segment.header.ack);
            }
            return Err(DropReason::AckNumber);
        }
        // Second: RST counts only with an acceptable ACK.
        if flags.contains(Flags::RST) {
            if flags.contains(Flags::ACK) {
                self.fail(CloseReason::Refused);
            }
            return Err(DropReason::Closed);
        }
        // Fourth: SYN. Anything else is dropped (fifth).
        if !flags.contains(Flags::SYN) {
            return Err(DropReason::ListenNoSyn);
        }
        self.learn_from_syn(now, segment);
        if flags.contains(Flags::ACK) {
            self.on_syn_acked(now, segment);
            self.establish(now);
            self.ack.complete_handshake();
        } else {
            // Simultaneous open (RFC 9293 §3.5 [MUST-10]): our SYN goes again, with the ACK.
            self.transition(State::SynReceived, StateReason::CrossingSyn);
            self.pending.syn_ack = true;
        }
        let text = Self::text_start(segment, Offset(0));
        if flags.contains(Flags::ACK) {
            self.receive_text_at(now, segment, text);
            self.receive_fin(now, segment, Offset(0));
        }
        Ok(())
    }

    /// The peer's initial sequence number, window and options.
    fn learn_from_syn(&mut self, now: Instant, segment: &Segment<'_>) {
        let options = &segment.header.options;
        self.rcv.open(segment.header.seq, self.syn_window());
        self.snd.open(segment.header.window.0.into());
        self.snd.wl1 = Offset(0);
        self.snd.wl2 = Offset(0);
        // RFC 9293 §3.7.1 [MUST-15]: without the option, the default.
        if let Some(mss) = options.mss {
            self.snd.peer_mss = mss;
        }
        self.negotiated = Negotiated {
            timestamps: self.config.timestamps && options.timestamps.is_some(),
            sack: self.config.sack && options.sack_permitted,
            scales: options
                .window_scale
                .filter(|_| self.config.window_scaling)
                .map(|shift| Scales { snd: WindowScale::new(shift), rcv: self.rcv.scale }),
        };
        self.ecn.on_peer_syn(segment.header.flags);
        if let Some(ts) = options.timestamps.filter(|_| self.negotiated.timestamps) {
            self.rcv.ts_recent = ts.value;
            self.rcv.ts_recent_at = now;
        }
        self.last_heard = now;
    }

    fn on_syn_acked(&mut self, now: Instant, segment: &Segment<'_>) {
        let head_sent_at = self.sent.head_sent_at();
        let outcome = self.sent.on_ack(Offset(1), now);
        self.snd.una = Offset(1);
        // A SYN that was sent again is measured by its timestamp (RFC 7323 §4).
        self.sample_rtt(now, segment, &outcome, head_sent_at);
        self.on_progress(now);
        self.arm_rto(now); // the SYN's deadline is not that of the data behind it
    }
}
