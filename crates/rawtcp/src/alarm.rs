//! The stack's one timer: the heap of deadlines and what wakes the driver for the first of them.

use crate::conn_cell::ConnCell;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, lock};
use crate::timers::{TimerKey, Timers};
use rawtcp_io::timer::TimerFd;
use rawtcp_proto::Instant;

/// What a deadline is for.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    Connection(Arc<ConnCell>),
    /// Half-open and TIME-WAIT records of a shard.
    Shard(usize),
    /// The driver has something to look at: the end of its patience, or a device that could not be waited for.
    Driver,
}

/// The heap, and the deadline for which the driver will be woken.
#[derive(Debug)]
pub(crate) struct Alarm {
    inner: Mutex<Inner>,
    fd: TimerFd,
    /// The driver sleeps by tokio's clock instead, and must be told of an earlier deadline.
    asleep: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    timers: Timers<Due>,
    armed: Option<Instant>,
}

impl Alarm {
    /// `real`: deadlines come when the kernel's timer says so.
    pub(crate) fn new(fd: TimerFd, real: bool) -> Self {
        let inner = Mutex::new(Inner { timers: Timers::new(), armed: None });
        Alarm { inner, fd, asleep: AtomicBool::new(!real) }
    }

    /// The descriptor that becomes readable when the first deadline comes; `None`: sleep until then.
    pub(crate) fn fd(&self) -> Option<&TimerFd> {
        if self.asleep.load(Ordering::Acquire) { None } else { Some(&self.fd) }
    }

    /// Time has left the kernel's: from now on the driver sleeps.
    pub(crate) fn leave_real_time(&self) {
        self.asleep.store(true, Ordering::Release);
        // Whoever arms from here on wakes the driver.
        lock(&self.inner).armed = None;
    }

    pub(crate) fn insert(&self, due: Due) -> TimerKey {
        lock(&self.inner).timers.insert(due)
    }

    /// Gives back what the entry kept alive, to be dropped outside of any lock.
    pub(crate) fn remove(&self, key: TimerKey) -> Option<Due> {
        lock(&self.inner).timers.remove(key)
    }

    /// Makes the entry due no later than `at`. Says whether the driver has to be woken for it.
    #[must_use]
    pub(crate) fn arm(&self, key: TimerKey, at: Instant) -> bool {
        let mut inner = lock(&self.inner);
        inner.timers.arm(key, at);
        if inner.armed.is_some_and(|armed| armed <= at) {
            return false;
        }
        inner.armed = Some(at);
        match self.fd() {
            Some(fd) => {
                set(fd, at);
                false
            }
            None => true,
        }
    }

    /// Takes out what is due, at most `max`.
    pub(crate) fn pop_due(&self, now: Instant, max: usize, out: &mut Vec<Due>) {
        let mut inner = lock(&self.inner);
        while out.len() < max {
            let Some(due) = inner.timers.pop_due(now) else { return };
            out.push(due);
        }
    }

    /// The first deadline; the descriptor is set to it.
    pub(crate) fn next(&self) -> Option<Instant> {
        let mut inner = lock(&self.inner);
        let next = inner.timers.next();
        if next != inner.armed {
            inner.armed = next;
            match (self.fd(), next) {
                (Some(fd), Some(at)) => set(fd, at),
                (Some(fd), None) => drop(fd.disarm()),
                (None, _) => {}
            }
        }
        next
    }

    /// The descriptor has fired: whatever it was set to is over.
    pub(crate) fn fired(&self) {
        let mut inner = lock(&self.inner);
        inner.armed = None;
        // Only what it was armed for is lost by this, and `next` arms it again.
        let _ = self.fd.clear();
    }
}

fn set(fd: &TimerFd, at: Instant) {
    if let Err(error) = fd.arm(at.as_nanos()) {
        // Cannot happen with a valid descriptor and time; the driver's housekeeping turn is the net.
        tracing::error!(%error, "the stack's timer could not be set");
    }
}
