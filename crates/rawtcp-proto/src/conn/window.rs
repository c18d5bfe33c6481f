//! The window offered to the peer: as much as there is room for, never taken back, moved in steps
//! worth moving (RFC 9293 §3.8.6, §3.8.6.2.2 [MUST-39, SHLD-14]).

use super::Connection;
use crate::seq::{Offset, WindowScale, WireWindow};

/// Memory allowed beyond twice the buffer: the chunks of a buffer smaller than a chunk.
const CHUNK_ALLOWANCE: usize = 32 * 1024;

impl Connection {
    /// The most memory that received data may hold, in order or not.
    pub(super) fn memory_limit(&self) -> usize {
        self.recv_buffer.saturating_mul(2).saturating_add(CHUNK_ALLOWANCE)
    }

    fn receive_scale(&self) -> WindowScale {
        self.negotiated.scales.map_or(WindowScale::NONE, |s| s.rcv)
    }

    /// The receive buffer in bytes: not less than what the window field can say, or nothing could ever arrive.
    pub(super) fn receive_limit(&self) -> u64 {
        (self.recv_buffer as u64).max(1 << self.receive_scale().shift())
    }

    /// The window there is room for, in units of the field. What is buffered counts as its bytes, but never
    /// less than what its memory leaves: many small pieces of large packets can not hold more.
    fn receive_room(&self) -> u64 {
        let shift = self.receive_scale().shift();
        let by_len = self.receive_limit().saturating_sub(self.recv_buf.len() as u64);
        let charged = self.recv_buf.charged() + self.assembler.charged();
        let by_memory = self.memory_limit().saturating_sub(charged) as u64;
        by_len.min(by_memory).min(u64::from(u16::MAX) << shift) >> shift << shift
    }

    /// The step below which the right edge stays where it is [MUST-39].
    fn window_step(&self) -> u64 {
        let segment = u64::from(self.rcv.seen_mss.max(self.rcv.adv_mss.min(1460)));
        (self.receive_limit() / 2).min(segment).max(1)
    }

    /// The window of a SYN: unscaled, so at most 65,535 (RFC 7323 §2.2).
    pub(super) fn syn_window(&self) -> u32 {
        self.recv_buffer.min(usize::from(u16::MAX)) as u32
    }

    /// Decides on the window field of the segment that leaves now, and remembers the edge.
    pub(super) fn select_window(&mut self) -> WireWindow {
        let room = self.receive_room();
        let gain = self.rcv.nxt.add(room).since(self.rcv.adv);
        // A SYN's window is clipped to 16 bits: what it held back is offered at the first chance.
        let opens = gain >= self.window_step() || (gain > 0 && self.rcv.nxt == Offset(1));
        let window = if opens { room } else { self.held_window() };
        self.rcv.adv = self.rcv.adv.max(self.rcv.nxt.add(window));
        self.rcv.last_field = self.receive_scale().field(window as u32);
        self.rcv.last_field
    }

    /// The window that holds the edge: rounded up, or scaling alone would take some of it back.
    ///
    /// Each rounding moves the edge a little, so that many small segments could move it without end. An
    /// eighth of the buffer is let go that way, then it is rounded down: the field says up to a unit less
    /// than was offered (RFC 7323 §2.4 has senders bear with that), and what was offered is still taken.
    fn held_window(&self) -> u64 {
        let unit = 1u64 << self.receive_scale().shift();
        let rest = self.rcv.window();
        let up = rest.div_ceil(unit).saturating_mul(unit).min(u64::from(u16::MAX) * unit);
        let limit = self.receive_limit();
        let most = limit + limit / 8 + unit;
        if up <= rest || self.recv_buf.len() as u64 + up <= most { up } else { rest / unit * unit }
    }

    /// After a read: whether the peer should hear of the new room by itself.
    pub(super) fn window_update_due(&self) -> bool {
        let room = self.receive_room();
        let limit = self.receive_limit();
        let step = (limit / 2).min(2 * u64::from(self.rcv.seen_mss.max(536))).max(self.window_step());
        let opens = self.rcv.nxt.add(room).since(self.rcv.adv) >= step;
        // While half the buffer is still on offer, ordinary ACKs carry the news.
        let needed = self.rcv.window() <= limit / 2;
        // What was held may have been rounded down to nothing.
        let shut = self.rcv.last_field == WireWindow(0) && room >= step;
        self.state.may_receive() && ((needed && opens) || shut)
    }
}
