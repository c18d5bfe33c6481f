//! The stack's one timer: the heap of deadlines and what wakes the driver for the first of them.

use crate::conn_cell::ConnCell;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, lock};
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
    /// `armed` in nanoseconds, to be looked at without the lock.
    first: AtomicU64,
}

/// `armed` while deadlines are served: whatever else is armed meanwhile, `next` is called behind it.
const SERVED: Instant = Instant::ZERO;

/// `first` where nothing is armed.
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
struct Inner {
    timers: Timers<Due>,
    armed: Option<Instant>,
}

impl Alarm {
    /// `real`: deadlines come when the kernel's timer says so.
    pub(crate) fn new(fd: TimerFd, real: bool) -> Self {
        let inner = Mutex::new(Inner { timers: Timers::new(), armed: None });
        Alarm { inner, fd, asleep: AtomicBool::new(!real), first: AtomicU64::new(NEVER) }
    }

    fn set_armed(&self, inner: &mut MutexGuard<'_, Inner>, at: Option<Instant>) {
        inner.armed = at;
        self.first.store(at.map_or(NEVER, Instant::as_nanos), Ordering::Relaxed);
    }

    /// Whether anything is armed, and, if so, whether that time has come.
    pub(crate) fn is_due(&self, now: impl FnOnce() -> Instant) -> bool {
        let first = self.first.load(Ordering::Relaxed);
        first != NEVER && first <= now().as_nanos()
    }

    /// The descriptor that becomes readable when the first deadline comes; `None`: sleep until then.
    pub(crate) fn fd(&self) -> Option<&TimerFd> {
        if self.asleep.load(Ordering::Acquire) { None } else { Some(&self.fd) }
    }

    /// Time has left the kernel's: from now on the driver sleeps.
    pub(crate) fn leave_real_time(&self) {
        self.asleep.store(true, Ordering::Release);
        // Whoever arms from here on wakes the driver.
        self.set_armed(&mut lock(&self.inner), None);
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
        self.set_armed(&mut inner, Some(at));
        match self.fd() {
            Some(fd) => {
                set(fd, at);
                false
            }
            None => true,
        }
    }

    /// Takes out what is due, at most `max`. What was armed is over by that: [`next`](Self::next) has to follow.
    pub(crate) fn pop_due(&self, now: Instant, max: usize, out: &mut Vec<Due>) {
        let mut inner = lock(&self.inner);
        // Most of what is served is armed again, each for another time: the descriptor is set once, behind all of them.
        self.set_armed(&mut inner, Some(SERVED));
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
            self.set_armed(&mut inner, next);
            match (self.fd(), next) {
                (Some(fd), Some(at)) => set(fd, at),
                (Some(fd), None) => drop(fd.disarm()),
                (None, _) => {}
            }
        }
        next
    }
}

fn set(fd: &TimerFd, at: Instant) {
    if let Err(error) = fd.arm(at.as_nanos()) {
        // Cannot happen with a valid descriptor and time; the driver's housekeeping turn is the net.
        tracing::error!(%error, "the stack's timer could not be set");
    }
}

#[cfg(all(test, not(rawtcp_models)))]
mod tests {
    use super::*;
    use rawtcp_io::wait::{Interest, poll};
    use std::os::fd::AsFd;
    use std::time::Duration;

    fn rings(alarm: &Alarm) -> bool {
        let mut entries = [Interest::readable(alarm.fd().unwrap().as_fd())];
        poll(&mut entries, Some(Duration::ZERO)).unwrap();
        entries[0].is_ready()
    }

    #[test]
    fn what_is_served_and_armed_again_for_the_same_time_rings_again() {
        let alarm = Alarm::new(TimerFd::new().unwrap(), true);
        let (first, second) = (alarm.insert(Due::Driver), alarm.insert(Due::Shard(1)));
        let (past, now, future) = (Instant::from_nanos(5), Instant::from_nanos(9), Instant::from_nanos(u64::MAX / 2));
        assert!(!alarm.is_due(|| unreachable!("nothing is armed")));
        assert!(!alarm.arm(first, past) && !alarm.arm(second, future));
        assert!(alarm.is_due(|| now) && !alarm.is_due(|| Instant::from_nanos(4)) && rings(&alarm));
        let mut due = Vec::new();
        alarm.pop_due(now, 8, &mut due);
        assert!(matches!(due[..], [Due::Driver]));
        // While it is served nobody else sets the descriptor; `next` does, for whatever comes first then.
        assert!(!alarm.arm(first, past));
        assert_eq!(alarm.next(), Some(past));
        assert!(rings(&alarm) && alarm.is_due(|| now));
        alarm.pop_due(now, 8, &mut due);
        assert_eq!(alarm.next(), Some(future));
        assert!(!rings(&alarm) && !alarm.is_due(|| now));
        alarm.remove(second);
        assert_eq!(alarm.next(), None);
        assert!(!alarm.is_due(|| unreachable!("nothing is armed")));
    }
}
