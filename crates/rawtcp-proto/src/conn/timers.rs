//! The timers of a connection: a table of deadlines, of which the caller sees the earliest.

use crate::time::Instant;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Retransmission timeout (RFC 6298).
    Rto,
    /// Tail loss probe (RFC 8985 §7).
    Tlp,
    /// RACK's reordering window (RFC 8985 §6.3).
    Reorder,
    /// Zero-window probe, and the override of sender silly-window avoidance (RFC 9293 §3.8.6.1).
    Persist,
    /// Delayed ACK (RFC 9293 §3.8.6.3).
    DelayedAck,
    /// Keep-alive (RFC 9293 §3.8.4).
    Keepalive,
    /// An orphan's stay in FIN-WAIT-2.
    FinWait2,
    /// The longest that a cork holds something back.
    Cork,
    /// What pacing holds back may leave.
    Pace,
}

impl Timer {
    pub(crate) const ALL: [Timer; 9] = [
        Timer::Rto,
        Timer::Tlp,
        Timer::Reorder,
        Timer::Persist,
        Timer::DelayedAck,
        Timer::Keepalive,
        Timer::FinWait2,
        Timer::Cork,
        Timer::Pace,
    ];
}

/// A deadline, or none, for each timer.
#[derive(Debug, Default)]
pub(crate) struct Timers([Option<Instant>; Timer::ALL.len()]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn clear_all(&mut self) {
        self.0 = Default::default();
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes one timer that is due, if any.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        Timer::ALL.into_iter().find(|&t| {
            let slot = &mut self.0[t as usize];
            slot.is_some_and(|at| at <= now) && slot.take().is_some()
        })
    }
}
