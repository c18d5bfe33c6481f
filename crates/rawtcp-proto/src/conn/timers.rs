//! The timers of a connection: a table of deadlines, of which the caller sees the earliest.

use crate::cold::{Cold, Idle};
use crate::time::Instant;

pub(crate) use crate::trace::TimerKind as Timer;

/// The deadline of a timer that is not set.
const NEVER: Instant = Instant::from_nanos(u64::MAX);

/// How many timers, the first of [`Timer::ALL`], every connection uses.
const USUAL: usize = Timer::DelayedAck as usize + 1;
const ALL: usize = Timer::ALL.len();

/// A deadline for each timer.
#[derive(Debug)]
pub(crate) struct Timers {
    usual: [Instant; USUAL],
    /// Those of settings that are off by default, and of orphans.
    others: Cold<Others>,
}

#[derive(Debug)]
struct Others([Instant; ALL - USUAL]);

impl Idle for Others {
    const BEGIN: Self = Others([NEVER; ALL - USUAL]);

    fn idle() -> &'static Self {
        const { &Others::BEGIN }
    }
}

impl Default for Timers {
    fn default() -> Self {
        Timers { usual: [NEVER; USUAL], others: Cold::new() }
    }
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        match (timer as usize).checked_sub(USUAL) {
            None => self.usual[timer as usize] = at,
            Some(other) => self.others.edit().0[other] = at,
        }
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        match (timer as usize).checked_sub(USUAL) {
            None => self.usual[timer as usize] = NEVER,
            Some(other) => _ = self.others.touched().map(|others| others.0[other] = NEVER),
        }
    }

    pub(crate) fn clear_all(&mut self) {
        *self = Self::default();
    }

    fn at(&self, timer: Timer) -> Instant {
        match (timer as usize).checked_sub(USUAL) {
            None => self.usual[timer as usize],
            Some(other) => self.others.if_touched().map_or(NEVER, |others| others.0[other]),
        }
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.at(timer) != NEVER
    }

    pub(crate) fn all(&self) -> [Option<Instant>; ALL] {
        Timer::ALL.map(|timer| Some(self.at(timer)).filter(|&at| at != NEVER))
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        let others = self.others.if_touched().map_or(NEVER, |others| others.0.into_iter().fold(NEVER, Instant::min));
        let first = self.usual.into_iter().fold(others, Instant::min);
        (first != NEVER).then_some(first)
    }

    /// Takes one timer that is due, if any.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let timer = Timer::ALL.into_iter().find(|&timer| self.at(timer) <= now && self.is_set(timer))?;
        self.clear(timer);
        Some(timer)
    }
}
