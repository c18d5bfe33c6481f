//! Whether a segment that is not full may leave now: Nagle's rule (RFC 9293 §3.7.4, in Minshall's form),
//! the cork, and silly-window avoidance of the sender (§3.8.6.2.1 [MUST-38]).

use super::{Connection, Timer};
use crate::time::{Duration, Instant};

/// How long a cork holds something back, as Linux.
const LONGEST_CORK: Duration = Duration::from_millis(200);

/// Segments that are not full are held back at the application's wish.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cork {
    /// Until it says otherwise.
    pub(super) on: bool,
    /// Until it writes again.
    pub(super) more: bool,
}

impl Connection {
    /// All there is does not fill a segment, and only the cork holds it back.
    pub(super) fn is_held_by_cork(&self, mss: u64) -> bool {
        let data = self.send_buf.end().since(self.snd.nxt);
        let fits = data <= self.snd.edge().since(self.snd.nxt);
        (self.cork.on || self.cork.more) && self.snd.fin.is_none() && 0 < data && data < mss && fits
    }

    pub(super) fn ensure_cork_timer(&mut self, now: Instant) {
        if !self.timers.is_set(Timer::Cork) {
            self.timers.set(Timer::Cork, now + LONGEST_CORK);
        }
    }

    /// `len` bytes could leave: less than a full segment, limited by the data (`is_last`) or by the window.
    pub(super) fn may_send_small(&self, len: u64, is_last: bool) -> bool {
        if self.pending.push {
            return true; // (4): the override timeout has passed
        }
        if is_last {
            // (2) and (3) of §3.8.6.2.1: all there is, unless another small segment is on its way.
            let fin = self.snd.fin.is_some();
            if (self.cork.on || self.cork.more) && !fin {
                return false;
            }
            // As Linux: urgent data waits for nothing.
            let urgent = self.urgent.is_sending();
            return self.nodelay || fin || urgent || self.snd.small_until <= self.snd.una;
        }
        // The window cuts the segment: worth it from half the largest window seen.
        len * 2 >= u64::from(self.snd.max_wnd)
    }
}
