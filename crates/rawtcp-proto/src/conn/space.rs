//! The two sequence spaces, with the RFC's names (RFC 9293 §3.3.1).
//!
//! ```text
//!        una       nxt       una+wnd               nxt              adv
//!  ───────┼─────────┼───────────┼──────      ───────┼────────────────┼──────
//!   acked │ in flight│ may be sent│             read or │  what the peer  │ not
//!         │          │            │             readable│  may send       │ offered
//! ```

use crate::compact::Maybe;
use crate::seq::{Offset, SeqNum, WindowScale, WireWindow};
use crate::time::Instant;

/// The send side.
#[derive(Debug)]
pub(super) struct SendSpace {
    /// ISS.
    pub(super) iss: SeqNum,
    /// SND.UNA: the oldest unacknowledged offset.
    pub(super) una: Offset,
    /// SND.NXT: the next offset to send for the first time.
    pub(super) nxt: Offset,
    /// SND.WND in bytes: below 2³⁰ (RFC 7323 §2.3).
    pub(super) wnd: u32,
    /// The largest window ever offered (MAX.SND.WND of RFC 5961 §5; sender SWS avoidance).
    pub(super) max_wnd: u32,
    /// SND.WL1: the peer's offset of the segment that last updated the window.
    pub(super) wl1: Offset,
    /// SND.WL2: the ACK of that segment.
    pub(super) wl2: Offset,
    /// Where our FIN stands or will stand, once the application has closed.
    pub(super) fin: Maybe<Offset>,
    /// End of the last segment sent that was smaller than a full one (Minshall's Nagle).
    pub(super) small_until: Offset,
    /// The MSS the peer announced, or the default.
    pub(super) peer_mss: u16,
    /// This connection's timestamp offset.
    pub(super) ts_offset: u32,
}

impl SendSpace {
    pub(super) fn new(iss: SeqNum, ts_offset: u32, peer_mss: u16) -> Self {
        SendSpace {
            iss,
            una: Offset(0),
            nxt: Offset(0),
            wnd: 0,
            max_wnd: 0,
            wl1: Offset(0),
            wl2: Offset(0),
            fin: Maybe::NONE,
            small_until: Offset(0),
            peer_mss,
            ts_offset,
        }
    }

    /// The first window, from a segment with SYN: never scaled (RFC 7323 §2.2).
    pub(super) fn open(&mut self, wnd: u32) {
        self.wnd = wnd;
        self.max_wnd = wnd;
    }

    pub(super) fn wire(&self, offset: Offset) -> SeqNum {
        offset.on_wire(self.iss)
    }

    /// The right edge of the peer's window; negative windows after a shrink give `nxt` or less.
    pub(super) fn edge(&self) -> Offset {
        self.una.add(u64::from(self.wnd))
    }

    /// The FIN was sent.
    pub(super) fn fin_sent(&self) -> bool {
        self.fin.get().is_some_and(|fin| self.nxt > fin)
    }

    /// Bytes of the stream that were sent, each once.
    pub(super) fn stream_sent(&self) -> u64 {
        self.nxt.since(Offset(1)) - u64::from(self.fin_sent())
    }

    /// The FIN was acknowledged.
    pub(super) fn fin_acked(&self) -> bool {
        self.fin.get().is_some_and(|fin| self.una > fin)
    }
}

/// The receive side.
#[derive(Debug)]
pub(super) struct RecvSpace {
    /// IRS.
    pub(super) irs: SeqNum,
    /// RCV.NXT.
    pub(super) nxt: Offset,
    /// RCV.NXT + RCV.WND: the right edge offered, which never moves left (RFC 9293 §3.8.6 [SHLD-14]).
    pub(super) adv: Offset,
    /// The window field of the last segment sent.
    pub(super) last_field: WireWindow,
    /// Last.ACK.sent (RFC 7323 §4.3).
    pub(super) last_ack_sent: Offset,
    /// TS.Recent and when it was taken.
    pub(super) ts_recent: u32,
    pub(super) ts_recent_at: Instant,
    /// The peer's FIN was received, here.
    pub(super) fin: Maybe<Offset>,
    /// The window scale that our SYN offers.
    pub(super) scale: WindowScale,
    /// The MSS we announced.
    pub(super) adv_mss: u32,
    /// Payload of the largest segment seen, at most `adv_mss`: what "full-sized" means for delayed ACKs.
    pub(super) seen_mss: u32,
}

impl RecvSpace {
    pub(super) fn new(adv_mss: u32, scale: WindowScale) -> Self {
        RecvSpace {
            irs: SeqNum(0),
            nxt: Offset(0),
            adv: Offset(0),
            last_field: WireWindow(0),
            last_ack_sent: Offset(0),
            ts_recent: 0,
            ts_recent_at: Instant::ZERO,
            fin: Maybe::NONE,
            scale,
            adv_mss,
            seen_mss: 0,
        }
    }

    /// The peer's SYN has arrived, and `window` bytes were offered in the SYN or SYN-ACK we sent.
    pub(super) fn open(&mut self, irs: SeqNum, window: u32) {
        self.irs = irs;
        self.nxt = Offset(1);
        self.adv = Offset(1 + u64::from(window));
        self.last_ack_sent = Offset(1);
    }

    pub(super) fn wire(&self, offset: Offset) -> SeqNum {
        offset.on_wire(self.irs)
    }

    /// RCV.WND in bytes.
    pub(super) fn window(&self) -> u64 {
        self.adv.since(self.nxt)
    }
}
