//! How each of a stack's drivers is reached: a bell, and lists of its connections: those that have more to send, and those
//! whose deadline has come.

use crate::conn_cell::ConnCell;
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicWaker, Mutex, Ordering, lock};
use std::task::Waker;

/// One driver's.
#[derive(Debug, Default)]
pub(crate) struct Post {
    driver: AtomicWaker,
    kicked: AtomicBool,
    scheduled: Mutex<Vec<Arc<ConnCell>>>,
    due: Mutex<Vec<Arc<ConnCell>>>,
    /// Packets that it took from its devices.
    pub(crate) received: AtomicU64,
}

impl Post {
    /// Has the driver take a turn.
    pub(crate) fn kick(&self) {
        if !self.kicked.swap(true, Ordering::AcqRel) {
            self.driver.wake();
        }
    }

    /// The driver is at work: from here on a kick counts anew.
    pub(crate) fn attend(&self, waker: &Waker) {
        self.driver.register(waker);
        // Not just a store: what was done before the kicks that this one takes must be seen from here on.
        self.kicked.swap(false, Ordering::AcqRel);
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

    /// Takes the first of the connections that the driver is to go on with.
    pub(crate) fn take_scheduled(&self, most: usize) -> Vec<Arc<ConnCell>> {
        take(&self.scheduled, most)
    }
}

fn take(list: &Mutex<Vec<Arc<ConnCell>>>, most: usize) -> Vec<Arc<ConnCell>> {
    let mut list = lock(list);
    let most = most.min(list.len());
    list.drain(..most).collect()
}
