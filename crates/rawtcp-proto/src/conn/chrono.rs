//! How long the connection was busy, and what held it up: Linux's `tcp_chrono`.

use super::Connection;
use crate::time::{Duration, Instant};

/// What keeps data from leaving, if there is any. One that stands further down hides those above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Limit {
    /// Nothing is to be sent, nothing outstanding.
    #[default]
    Idle,
    /// Neither of the following: the network.
    Busy,
    /// The peer's window.
    RecvWindow,
    /// The send buffer is full, and all of it sent.
    SendBuffer,
}

/// One stopwatch for each kind of limit.
#[derive(Debug, Default)]
pub(super) struct Chrono {
    limit: Limit,
    since: Instant,
    /// Nanoseconds of all but [`Limit::Idle`].
    totals: [u64; 3],
}

impl Chrono {
    fn set(&mut self, now: Instant, limit: Limit) {
        if self.limit != limit {
            if let Some(total) = (self.limit as usize).checked_sub(1) {
                self.totals[total] += (now - self.since).as_nanos() as u64;
            }
            (self.limit, self.since) = (limit, now);
        }
    }

    fn total(&self, now: Instant, limit: Limit) -> Duration {
        let running = if self.limit == limit { now.since(self.since) } else { Duration::ZERO };
        let ended = (limit as usize).checked_sub(1).map_or(0, |total| self.totals[total]);
        Duration::from_nanos(ended) + running
    }

    /// Busy in any way, limited by the peer's window, by the send buffer.
    pub(super) fn totals(&self, now: Instant) -> (Duration, Duration, Duration) {
        let [busy, window, buffer] =
            [Limit::Busy, Limit::RecvWindow, Limit::SendBuffer].map(|limit| self.total(now, limit));
        (busy + window + buffer, window, buffer)
    }
}

impl Connection {
    /// Nothing more leaves at present: why.
    pub(super) fn note_limit(&mut self, now: Instant) {
        let limit = if !self.state.is_synchronized() {
            Limit::Idle
        } else if self.has_unsent() {
            let unsent = self.send_buf.end().since(self.snd.nxt);
            let usable = self.snd.edge().since(self.snd.nxt);
            let fits = usable >= unsent.min(u64::from(self.send_mss()));
            if fits || self.cwnd_room() == 0 { Limit::Busy } else { Limit::RecvWindow }
        } else if self.write_blocked && self.pipe() < self.cc.cwnd() {
            Limit::SendBuffer
        } else if self.sent.outstanding() > 0 {
            Limit::Busy
        } else {
            Limit::Idle
        };
        self.chrono.set(now, limit);
    }
}
