//! Whether a segment that is not full may leave now: Nagle's rule (RFC 9293 §3.7.4, in Minshall's form)
//! and silly-window avoidance of the sender (§3.8.6.2.1 [MUST-38]).

use super::Connection;

impl Connection {
    /// `len` bytes could leave: less than a full segment, limited by the data (`is_last`) or by the window.
    pub(super) fn may_send_small(&self, len: u64, is_last: bool) -> bool {
        if self.pending.push {
            return true; // (4): the override timeout has passed
        }
        if is_last {
            // (2) and (3) of §3.8.6.2.1: all there is, unless another small segment is on its way.
            let fin = self.snd.fin.is_some();
            return self.config.nodelay || fin || self.snd.small_until <= self.snd.una;
        }
        // The window cuts the segment: worth it from half the largest window seen.
        len * 2 >= self.snd.max_wnd
    }
}
