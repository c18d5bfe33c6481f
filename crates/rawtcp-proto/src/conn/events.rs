//! What a connection tells its caller.

use core::fmt;

/// What happened since the caller last looked: a set of bits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Events(u16);

impl Events {
    /// The handshake is complete.
    pub const CONNECTED: Events = Events(1);
    /// In-order data arrived.
    pub const READABLE: Events = Events(1 << 1);
    /// Enough room in the send buffer to wake a writer.
    pub const WRITABLE: Events = Events(1 << 2);
    /// The peer's FIN arrived, or nothing can arrive any more.
    pub const READ_CLOSED: Events = Events(1 << 3);
    /// Nothing can be written any more.
    pub const WRITE_CLOSED: Events = Events(1 << 4);
    /// The connection ended with an error, or a soft error was noted.
    pub const ERROR: Events = Events(1 << 5);
    /// Entered TIME-WAIT: [`Connection::time_wait`](super::Connection::time_wait) is the record that takes the connection's place.
    pub const TIME_WAIT: Events = Events(1 << 6);
    /// Closed: nothing more arrives or leaves after `poll_transmit` is drained.
    pub const CLOSED: Events = Events(1 << 7);
    /// The state changed (for tracing).
    pub const STATE: Events = Events(1 << 8);
    /// The peer has announced urgent data, or more of it (RFC 9293 §3.8.5 [MUST-32]):
    /// [`Connection::urgent_ahead`](super::Connection::urgent_ahead) says how much there is to be read up to its end.
    pub const URGENT: Events = Events(1 << 9);

    /// Whether all of `other`'s bits are set.
    pub const fn contains(self, other: Events) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other`'s bits is set.
    pub const fn intersects(self, other: Events) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing happened.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn insert(&mut self, other: Events) {
        self.0 |= other.0;
    }
}

impl core::ops::BitOr for Events {
    type Output = Events;
    fn bitor(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 10] = [
            "CONNECTED",
            "READABLE",
            "WRITABLE",
            "READ_CLOSED",
            "WRITE_CLOSED",
            "ERROR",
            "TIME_WAIT",
            "CLOSED",
            "STATE",
            "URGENT",
        ];
        let set = NAMES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| name);
        f.debug_set().entries(set).finish()
    }
}
