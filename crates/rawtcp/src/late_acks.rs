//! Last ACKs of active opens' handshakes that wait for what the application will write, and who sees to it that they do not
//! wait for long.
//!
//! They leave with the driver's next turn. But a program may compute for long before it gives way, or wait for what happens
//! outside of its runtime, and meanwhile its peer has no connection to accept. Linux sends this ACK at once, and so do we;
//! but for whoever opens one connection after the other a packet less counts. There a thread sends what the driver has not come
//! back for.

use crate::conn_cell::ConnCell;
use rawtcp_proto::Instant;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Handshakes in a row whose ACKs do not wait.
const PATIENCE: u32 = 16;

/// A row ends when there was none for so long.
const ROW: Duration = Duration::from_millis(10);

/// What has waited for this long, and at most twice as long, has waited long enough.
const TICK: Duration = Duration::from_millis(1);

/// Ticks without a handshake, behind which the thread ends.
const KEPT: u32 = 100;

#[derive(Debug, Default)]
struct State {
    /// Handshakes in a row.
    row: u32,
    last: Instant,
    waiting: Vec<Arc<ConnCell>>,
    /// How often they were taken.
    turn: u64,
    /// The thread is there.
    at_work: bool,
}

/// Those of one driver.
#[derive(Debug, Default)]
pub(crate) struct LateAcks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

impl LateAcks {
    /// Whether the ACK of a handshake that is complete now waits. The connection is locked.
    pub(crate) fn hold(&self, now: Instant, cell: &Arc<ConnCell>) -> bool {
        let mut state = self.0.lock();
        // In a model no time passes, and there is no thread that it does not know.
        if !cfg!(rawtcp_models) && !self.may_wait(&mut state, now) {
            return false;
        }
        state.waiting.push(cell.clone());
        true
    }

    fn may_wait(&self, state: &mut State, now: Instant) -> bool {
        if !state.counts(now) {
            return false;
        }
        if !state.at_work {
            let shared = self.0.clone();
            let thread = thread::Builder::new().name("rawtcp-acks".into());
            state.at_work = thread.spawn(move || shared.work()).is_ok();
        }
        state.at_work
    }

    /// The driver has come back: takes those that wait.
    pub(crate) fn take(&self) -> Vec<Arc<ConnCell>> {
        self.0.lock().take()
    }
}

impl State {
    /// Whether this handshake is one of many.
    fn counts(&mut self, now: Instant) -> bool {
        if now.since(self.last) >= ROW {
            self.row = 0;
        }
        self.last = now;
        self.row = self.row.saturating_add(1);
        self.row > PATIENCE
    }

    fn take(&mut self) -> Vec<Arc<ConnCell>> {
        self.turn += 1;
        std::mem::take(&mut self.waiting)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what has waited long enough, until there was nothing to wait for a while.
    fn work(&self) {
        let (mut quiet, mut last, mut seen) = (0, Instant::ZERO, None);
        loop {
            thread::sleep(TICK);
            let mut state = self.lock();
            quiet = if std::mem::replace(&mut last, state.last) == state.last { quiet + 1 } else { 0 };
            if state.waiting.is_empty() {
                if quiet >= KEPT {
                    state.at_work = false;
                    return;
                }
                seen = None;
            } else if seen.replace(state.turn) == Some(state.turn) {
                let overdue = state.take();
                drop(state);
                for cell in overdue {
                    cell.with(|inner, _| inner.conn.release_handshake_ack());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_opens_one_connection_after_the_other_has_acks_wait() {
        let mut state = State::default();
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        for seldom in 0..100 {
            assert!(!state.counts(at(1000 + 10 * seldom)), "{seldom}");
        }
        for often in 1..100 {
            assert_eq!(state.counts(at(2000 + often)), often > 16, "{often}");
        }
        assert!(!state.counts(at(3000)));
    }
}
