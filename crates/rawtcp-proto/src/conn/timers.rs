//! The timers of a connection: a table of deadlines, of which the caller sees the earliest.

use crate::time::Instant;

pub(crate) use crate::trace::TimerKind as Timer;

/// The deadline of a timer that is not set.
const NEVER: Instant = Instant::from_nanos(u64::MAX);

/// A deadline for each timer.
#[derive(Debug)]
pub(crate) struct Timers([Instant; Timer::ALL.len()]);

impl Default for Timers {
    fn default() -> Self {
        Timers([NEVER; Timer::ALL.len()])
    }
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = at;
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        self.0[timer as usize] = NEVER;
    }

    pub(crate) fn clear_all(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize] != NEVER
    }

    pub(crate) fn all(&self) -> [Option<Instant>; Timer::ALL.len()] {
        self.0.map(|at| (at != NEVER).then_some(at))
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        let first = self.0.into_iter().min()?;
        (first != NEVER).then_some(first)
    }

    /// Takes one timer that is due, if any.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let timer = Timer::ALL.into_iter().find(|&t| self.0[t as usize] <= now && self.is_set(t))?;
        self.clear(timer);
        Some(timer)
    }
}
