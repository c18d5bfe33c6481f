//! The window offered to the peer: as much as there is room for, never taken back, moved in steps
//! worth moving (RFC 9293 §3.8.6, §3.8.6.2.2 [MUST-39, SHLD-14]).

use super::Connection;
use crate::seq::{WindowScale, WireWindow};

impl Connection {
    /// Room for more text. What is buffered counts as its bytes, but never less than what its memory
    /// leaves of twice the buffer: many small pieces of large packets can not hold more.
    fn receive_room(&self) -> u64 {
        let by_len = self.config.recv_buffer.saturating_sub(self.recv_buf.len());
        let charged = self.recv_buf.charged() + self.assembler.charged();
        let by_memory = self.config.recv_buffer.saturating_mul(2).saturating_sub(charged);
        by_len.min(by_memory) as u64
    }

    /// The step below which the right edge stays where it is [MUST-39].
    fn window_step(&self) -> u64 {
        (self.config.recv_buffer as u64 / 2).min(u64::from(self.rcv.seen_mss.max(self.rcv.adv_mss.min(1460))))
    }

    /// The window of a SYN: unscaled, so at most 65,535 (RFC 7323 §2.2).
    pub(super) fn syn_window(&self) -> u32 {
        self.config.recv_buffer.min(usize::from(u16::MAX)) as u32
    }

    /// Decides on the window field of the segment that leaves now, and remembers the edge.
    pub(super) fn select_window(&mut self) -> WireWindow {
        let scale = self.negotiated.scales.map_or(WindowScale::NONE, |s| s.rcv);
        let unit = 1u64 << scale.shift();
        let most = u64::from(u16::MAX) << scale.shift();
        let room = self.receive_room().min(most);
        let wanted = self.rcv.nxt.add(room / unit * unit);
        let window = if wanted.since(self.rcv.adv) >= self.window_step() {
            wanted.since(self.rcv.nxt)
        } else {
            // Hold the edge: rounded up, or scaling alone would take some of it back.
            self.rcv.window().div_ceil(unit).saturating_mul(unit).min(most)
        };
        self.rcv.adv = self.rcv.adv.max(self.rcv.nxt.add(window));
        self.rcv.last_field = scale.field(window as u32);
        self.rcv.last_field
    }

    /// After a read: whether the peer should hear of the new room by itself.
    pub(super) fn window_update_due(&self) -> bool {
        let most = u64::from(u16::MAX) << self.negotiated.scales.map_or(0, |s| s.rcv.shift());
        let edge = self.rcv.nxt.add(self.receive_room().min(most));
        let step = (self.config.recv_buffer as u64 / 2).min(2 * u64::from(self.rcv.seen_mss.max(536)));
        // While half the buffer is still on offer, ordinary ACKs carry the news.
        self.state.may_receive()
            && self.rcv.window() <= self.config.recv_buffer as u64 / 2
            && edge.since(self.rcv.adv) >= step.max(1)
    }
}
