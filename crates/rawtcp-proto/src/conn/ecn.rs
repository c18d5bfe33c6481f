//! Explicit congestion notification (RFC 3168, as RFC 8311 left it): agreed on by the SYNs; then routers mark new
//! data instead of dropping it, the receiver echoes the mark, and the sender reduces its window once a round trip.
//!
//! Not here: AccECN (RFC 9768), and marks on anything but new data (RFC 8311 §4.3 leaves them to experiments).

use super::Connection;
use super::recovery::Phase;
use crate::cc::Congestion;
use crate::cold::{Cold, Idle};
use crate::config::EcnMode;
use crate::seq::Offset;
use crate::time::Instant;
use crate::trace::WindowReason;
use crate::wire::{Ecn as Codepoint, Flags, Segment};

/// ACKs that leave at once after the first mark, as on Linux: a sender that reduces may have little in flight.
const QUICK_AFTER_MARK: u32 = 2;

/// What the connection knows of congestion notification.
#[derive(Debug, Default)]
pub(super) struct EcnState {
    /// Our first SYN asked for it.
    asked: bool,
    /// A later one did not: RFC 3168 §6.1.1 forbids ECT from then on.
    fell_back: bool,
    /// Both sides agreed: marks are echoed.
    echoes: bool,
    /// New data is sent ECN-capable.
    capable: bool,
    /// A mark arrived, and the peer has not said yet that it reduced: every ACK has ECE.
    marked: bool,
    /// The window was reduced: the next new data says so.
    cwr_due: bool,
    pub(super) marks: Cold<Marks>,
}

/// What there is to say of marks, once there are any.
#[derive(Debug)]
pub(super) struct Marks {
    /// The window shrinks because of ECE, until something behind this is acknowledged.
    reducing: Option<Offset>,
    /// Segments that arrived marked.
    pub(super) ce_received: u64,
    /// Bytes that ACKs with ECE reported as delivered.
    pub(super) delivered_ce: u64,
}

impl Idle for Marks {
    const BEGIN: Self = Marks { reducing: None, ce_received: 0, delivered_ce: 0 };

    fn idle() -> &'static Self {
        const { &Marks::BEGIN }
    }
}

/// What a SYN or a SYN-ACK says of ECN (RFC 3168 §6.1.1).
pub(crate) fn is_ecn_setup(flags: Flags) -> bool {
    match flags.contains(Flags::ACK) {
        false => flags.contains(Flags::ECE | Flags::CWR),
        // Both: a peer that reflects reserved bits (§6.1.1.2).
        true => flags.contains(Flags::ECE) && !flags.contains(Flags::CWR),
    }
}

/// Whether a SYN that came in a packet with this codepoint is answered as ECN-setup. As Linux: one that is itself
/// ECN-capable, which RFC 3168 §6.1.1 forbids, has a box on its path that fills the field with something else.
pub(crate) fn accepts(mode: EcnMode, flags: Flags, codepoint: Codepoint) -> bool {
    mode != EcnMode::Off && is_ecn_setup(flags) && codepoint == Codepoint::NotEct
}

impl EcnState {
    /// After a passive open.
    pub(super) fn agreed(agreed: bool) -> Self {
        EcnState { echoes: agreed, capable: agreed, ..EcnState::default() }
    }

    pub(super) fn is_agreed(&self) -> bool {
        self.echoes
    }

    /// The flags of our SYN, or of the SYN-ACK in a simultaneous open.
    pub(super) fn syn_flags(&mut self, mode: EcnMode, first: bool, answers: bool) -> Flags {
        if answers {
            return if self.echoes { Flags::ECE } else { Flags::NONE };
        }
        if mode != EcnMode::Request {
            return Flags::NONE;
        }
        if first {
            self.asked = true;
            return Flags::ECE | Flags::CWR;
        }
        // RFC 3168 §6.1.1.1 [MAY]: it may have been dropped because it asked.
        self.fell_back = true;
        Flags::NONE
    }

    /// The peer's SYN or SYN-ACK arrived in SYN-SENT.
    pub(super) fn on_peer_syn(&mut self, flags: Flags) {
        // RFC 3168 §6.1.1: who has asked once answers for marks, who has also not asked sends no ECT.
        self.echoes = self.asked && is_ecn_setup(flags);
        self.capable = self.echoes && !self.fell_back;
    }

    /// A segment that carries new data: the codepoint, and whether it says CWR.
    pub(super) fn on_new_data(&mut self) -> (Codepoint, Flags) {
        if !self.capable {
            return (Codepoint::NotEct, Flags::NONE);
        }
        // §6.1.2: ECT(0); CWR on the first new data after the reduction.
        let cwr = core::mem::take(&mut self.cwr_due);
        (Codepoint::Ect0, if cwr { Flags::CWR } else { Flags::NONE })
    }

    /// Whether the next new data has to be one segment: CWR is for a segment, not for all of a run.
    pub(super) fn is_cwr_due(&self) -> bool {
        self.capable && self.cwr_due
    }

    /// ECE, while the peer does not say that it has reduced (§6.1.3).
    pub(super) fn echo(&self) -> Flags {
        if self.marked { Flags::ECE } else { Flags::NONE }
    }

    /// The window was reduced, whatever for (§6.1.2).
    pub(super) fn on_reduction(&mut self) {
        self.cwr_due = self.capable;
        if let Some(marks) = self.marks.touched() {
            marks.reducing = None;
        }
    }

    /// The reduction was unfounded.
    pub(super) fn on_undo(&mut self) {
        self.cwr_due = false;
    }

    /// Whether the window shrinks because of a mark.
    pub(super) fn is_reducing(&self) -> bool {
        self.marks.reducing.is_some()
    }
}

impl Connection {
    /// Text, inside the window, came in a packet with this codepoint (§6.1.3, §6.1.5).
    pub(super) fn note_mark(&mut self, segment: &Segment<'_>) {
        if !self.ecn.echoes {
            return;
        }
        if segment.header.flags.contains(Flags::CWR) && self.ecn.marked {
            self.ecn.marked = false;
            // As Linux: its window may be a single segment now.
            self.ack.now();
        }
        if segment.ecn == Codepoint::Ce {
            self.ecn.marks.edit().ce_received += self.segments_in(segment);
            if !self.ecn.marked {
                self.ecn.marked = true;
                self.ack.hurry(QUICK_AFTER_MARK);
            }
        }
    }

    /// An ACK that says something new, or comes while something is outstanding, may carry ECE (§6.1.2).
    pub(super) fn note_echo(&mut self, now: Instant, segment: &Segment<'_>, ack: Offset, delivered: u64) {
        if self.ecn.marks.reducing.is_some_and(|high| ack > high) {
            // As Linux: only once the CWR behind `high` must have arrived, or its mark would count twice.
            self.ecn.marks.edit().reducing = None;
            self.cc.on_recovery_exit(now);
            self.trace_window(WindowReason::RecoveryEnd);
        }
        let echo = segment.header.flags.contains(Flags::ECE) && !segment.header.flags.contains(Flags::SYN);
        if !echo || !self.ecn.capable {
            return;
        }
        self.ecn.marks.edit().delivered_ce += delivered;
        // Once for a window of data: neither again nor beside what a loss has reduced.
        if !self.ecn.is_reducing() && self.recovery.phase == Phase::Open {
            self.reduce_for_mark(now);
        }
    }

    fn reduce_for_mark(&mut self, now: Instant) {
        let sample = self.congestion_sample(now);
        self.cc.on_congestion(Congestion::Ecn, &sample);
        self.on_congestion_in_validation(sample.in_flight, true);
        self.trace_window(WindowReason::Mark);
        self.ecn.on_reduction();
        self.ecn.marks.edit().reducing = Some(self.snd.nxt);
        // An older episode can not be undone any more: this reduction is the last.
        if let Some(rare) = self.recovery.rare.touched() {
            rare.episode = None;
            rare.tlp_reduced = false;
        }
        self.recovery.begin_rate_reduction(self.sent.outstanding());
    }
}
