//! What waits for what the application will write next, and who sees to it that it does not wait for long: last ACKs of active
//! opens' handshakes, and the tails of large writes.
//!
//! They leave with the driver's next turn. But a program may compute for long before it gives way, or wait for what happens
//! outside of its runtime, and meanwhile its peer has no connection to accept, or half a message. Linux sends both at once, and
//! so do we; but for whoever opens one connection after the other, or writes without a pause, a packet less counts. There a
//! thread sends what the driver has not come back for.

use crate::conn_cell::ConnCell;
use rawtcp_proto::Instant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The first so many of a row do not wait.
const PATIENCE: u32 = 16;

/// A row ends when there was none for so long.
const ROW: Duration = Duration::from_millis(10);

/// Nothing waits for longer than two of these.
const TICK: Duration = Duration::from_millis(1);

/// Ticks with nothing new, behind which the thread ends.
const KEPT: u32 = 100;

/// Handshakes, or large writes, one after the other.
#[derive(Debug, Default)]
struct Row {
    length: u32,
    last: Instant,
}

impl Row {
    /// Whether this is one of many.
    fn counts(&mut self, now: Instant) -> bool {
        if now.since(self.last) >= ROW {
            self.length = 0;
        }
        self.last = now;
        self.length = self.length.saturating_add(1);
        self.length > PATIENCE
    }
}

#[derive(Debug, Default)]
struct State {
    handshakes: Row,
    writes: Row,
    waiting: Vec<Arc<ConnCell>>,
    /// How often they were taken.
    turn: u64,
    /// The thread is there.
    at_work: bool,
}

/// Those of one driver.
#[derive(Debug, Default)]
pub(crate) struct Late(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Some wait.
    any: AtomicBool,
}

impl Late {
    /// Whether the ACK of a handshake that is complete now waits. The connection is locked.
    pub(crate) fn hold_ack(&self, now: Instant, cell: &Arc<ConnCell>) -> bool {
        // In a model no time passes, and there is no thread that it does not know.
        self.hold(cell, |state| cfg!(rawtcp_models) || state.handshakes.counts(now))
    }

    /// Whether the tail of a large write waits. The connection is locked, and the driver is to be kicked.
    pub(crate) fn hold_tail(&self, now: Instant, cell: &Arc<ConnCell>) -> bool {
        self.hold(cell, |state| state.writes.counts(now))
    }

    fn hold(&self, cell: &Arc<ConnCell>, counts: impl FnOnce(&mut State) -> bool) -> bool {
        let mut state = self.0.lock();
        if !counts(&mut state) || !self.sends(&mut state) {
            return false;
        }
        if !state.waiting.last().is_some_and(|last| Arc::ptr_eq(last, cell)) {
            state.waiting.push(cell.clone());
        }
        self.0.any.store(true, Ordering::Release);
        true
    }

    /// Whether there is the thread.
    fn sends(&self, state: &mut State) -> bool {
        if !state.at_work && !cfg!(rawtcp_models) {
            let shared = self.0.clone();
            let thread = thread::Builder::new().name("rawtcp-late".into());
            state.at_work = thread.spawn(move || shared.work()).is_ok();
        }
        state.at_work || cfg!(rawtcp_models)
    }

    /// Whether any wait.
    pub(crate) fn any(&self) -> bool {
        self.0.any.load(Ordering::Acquire)
    }

    /// The driver has come back: takes those that wait.
    pub(crate) fn take(&self) -> Vec<Arc<ConnCell>> {
        self.0.take(&mut self.0.lock())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, state: &mut State) -> Vec<Arc<ConnCell>> {
        state.turn += 1;
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut state.waiting)
    }

    /// Sends what has waited long enough, until there was nothing to wait for a while.
    fn work(&self) {
        let (mut quiet, mut last, mut seen) = (0, [Instant::ZERO; 2], None);
        loop {
            thread::sleep(TICK);
            let mut state = self.lock();
            let latest = [state.handshakes.last, state.writes.last];
            quiet = if std::mem::replace(&mut last, latest) == latest { quiet + 1 } else { 0 };
            if state.waiting.is_empty() {
                if quiet >= KEPT {
                    state.at_work = false;
                    return;
                }
                seen = None;
            } else if seen.replace(state.turn) == Some(state.turn) {
                let overdue = self.take(&mut state);
                drop(state);
                for cell in overdue {
                    // Poisoned: the next one to lock it resets it. Have that be soon.
                    if catch_unwind(AssertUnwindSafe(|| cell.with(|inner, _| inner.release()))).is_err() {
                        cell.host().schedule(cell.clone());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_of_many_waits() {
        let mut row = Row::default();
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        for seldom in 0..100 {
            assert!(!row.counts(at(1000 + 10 * seldom)), "{seldom}");
        }
        for often in 1..100 {
            assert_eq!(row.counts(at(2000 + often)), often > 16, "{often}");
        }
        assert!(!row.counts(at(3000)));
    }
}
