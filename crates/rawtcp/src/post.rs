//! How each of a stack's drivers is reached: a bell, and lists of its connections: those that have more to send, and those
//! whose deadline has come.

use crate::conn_cell::ConnCell;
use crate::late::Late;
use crate::stats::count;
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicWaker, Mutex, Ordering, lock};
use std::fmt;
use std::sync::{OnceLock, Weak};
use std::task::Waker;

/// Who has something for a driver: a bit for each thing that it waits for.
pub(crate) type Calls = u64;

/// The call of whoever wants a turn to be taken, whatever it is for.
const KICK: Calls = 1 << 63;

/// The call of the `i`th thing that a driver waits for. There are seldom more than ten; the last is for all beyond.
pub(crate) fn call(i: usize) -> Calls {
    1 << i.min(SHARED_CALL.trailing_zeros() as usize)
}

/// What [`call`] gives more than one.
pub(crate) const SHARED_CALL: Calls = KICK >> 1;

/// Drivers that work where they are called, on a runtime with one thread.
pub(crate) trait OnTheSpot: fmt::Debug + Send + Sync {
    /// Has a driver take a turn here and now: the reactor calls, and nothing else runs meanwhile. `false`: it is to be woken
    /// for that.
    fn take_turn(&self, driver: usize) -> bool;

    /// Whether a driver is not at work, and this is its thread.
    fn is_here(&self, driver: usize) -> bool;

    /// Has a driver take what one of its devices has received, one batch, if it [is here](Self::is_here). Says how many
    /// connections it was for.
    fn catch_up(&self, driver: usize, device: usize) -> usize;
}

/// One driver's.
#[derive(Debug, Default)]
pub(crate) struct Post {
    driver: AtomicWaker,
    /// Who takes turns on the spot, and which driver this is.
    on_the_spot: OnceLock<(Weak<dyn OnTheSpot>, usize)>,
    /// More than one packet came at once: let the tasks have their turn before the next, and there will be more.
    crowded: AtomicBool,
    /// Who has called since they were taken last.
    calls: AtomicU64,
    scheduled: Mutex<Vec<Arc<ConnCell>>>,
    due: Mutex<Vec<Arc<ConnCell>>>,
    pub(crate) late: Late,
    /// Packets that it took from its devices.
    pub(crate) received: AtomicU64,
}

impl Post {
    /// Has the driver take a turn.
    pub(crate) fn kick(&self) {
        self.ring(KICK);
    }

    /// Has the driver take a turn, in which it knows who called.
    pub(crate) fn ring(&self, call: Calls) {
        // Who is not the first has seen that the driver is awake, or will be.
        if self.calls.fetch_or(call, Ordering::AcqRel) == 0 {
            self.driver.wake();
        }
    }

    /// The same, called by the reactor: the turn may be over when this returns.
    pub(crate) fn ring_from_reactor(&self, call: Calls) {
        if self.calls.fetch_or(call, Ordering::AcqRel) == 0 {
            let taken = !self.crowded.load(Ordering::Relaxed)
                && self.drivers().is_some_and(|(drivers, number)| drivers.take_turn(number));
            if !taken {
                self.driver.wake();
            }
        }
    }

    fn drivers(&self) -> Option<(Arc<dyn OnTheSpot>, usize)> {
        self.on_the_spot.get().and_then(|(drivers, number)| Some((drivers.upgrade()?, *number)))
    }

    /// Whether the driver works on the spot, and this is its thread.
    pub(crate) fn is_here(&self) -> bool {
        self.drivers().is_some_and(|(drivers, number)| drivers.is_here(number))
    }

    /// Has such a driver take what one of its devices has received, one batch. Says how many connections it was for.
    pub(crate) fn catch_up(&self, device: usize) -> usize {
        let served = self.drivers().map_or(0, |(drivers, number)| drivers.catch_up(number, device));
        if served > 0 {
            // There is more to a turn than that, and the device may not tell of it again.
            self.kick();
        }
        served
    }

    /// So many packets have come at once.
    pub(crate) fn take_note(&self, packets: usize) {
        count(&self.received, packets);
        self.crowded.store(packets > 1, Ordering::Relaxed);
    }

    /// From here on the reactor's calls are turns.
    pub(crate) fn take_turns_on_the_spot(&self, drivers: Weak<dyn OnTheSpot>, number: usize) {
        // Once in the life of a stack.
        let _ = self.on_the_spot.set((drivers, number));
    }

    /// The driver is at work: takes the calls, and from here on a call counts anew.
    pub(crate) fn attend(&self, waker: &Waker) -> Calls {
        self.driver.register(waker);
        self.answer()
    }

    /// Takes the calls that came while the driver was at work. It is woken for them all the same.
    pub(crate) fn answer(&self) -> Calls {
        // Not just a store: what was done before the calls that this one takes must be seen from here on.
        self.calls.swap(0, Ordering::AcqRel)
    }

    /// Has the driver go on with a connection.
    pub(crate) fn schedule(&self, cell: Arc<ConnCell>) {
        lock(&self.scheduled).push(cell);
        self.kick();
    }

    /// Has the driver see to a connection's deadline, which has come.
    pub(crate) fn hand_over(&self, due: Arc<ConnCell>) {
        lock(&self.due).push(due);
        self.kick();
    }

    pub(crate) fn has_due(&self) -> bool {
        !lock(&self.due).is_empty()
    }

    /// Takes the first of the connections whose deadline has come.
    pub(crate) fn take_due(&self, most: usize) -> Vec<Arc<ConnCell>> {
        take(&self.due, most)
    }

    /// Nobody comes any more, and no list must keep the stack alive.
    pub(crate) fn clear(&self) {
        drop((self.take_scheduled(usize::MAX), self.take_due(usize::MAX), self.late.take()));
    }

    /// Takes the first of the connections that the driver is to go on with.
    pub(crate) fn take_scheduled(&self, most: usize) -> Vec<Arc<ConnCell>> {
        take(&self.scheduled, most)
    }
}

fn take(list: &Mutex<Vec<Arc<ConnCell>>>, most: usize) -> Vec<Arc<ConnCell>> {
    let mut list = lock(list);
    if list.is_empty() {
        return Vec::new();
    }
    let most = most.min(list.len());
    list.drain(..most).collect()
}
