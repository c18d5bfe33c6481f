//! Clock and timer of real devices: CLOCK_MONOTONIC, and a timerfd on it with microsecond precision.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// CLOCK_MONOTONIC in nanoseconds. `std::time::Instant` counts the same clock.
pub fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * NANOS_PER_SECOND + now.tv_nsec as u64
}

/// A timer that makes its descriptor readable at a point in time.
#[derive(Debug)]
pub struct TimerFd(OwnedFd);

impl TimerFd {
    /// A disarmed timer.
    ///
    /// # Errors
    /// Descriptors or memory have run out.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Arms the timer for `at` nanoseconds of [`monotonic_nanos`]; a time in the past fires at once. It replaces the
    /// time set before, and makes the descriptor unreadable until the new time has come.
    pub fn arm(&self, at: u64) -> io::Result<()> {
        // Zero would disarm it.
        self.set(at.max(1))
    }

    /// Takes back what was armed; the descriptor is not readable any more.
    pub fn disarm(&self) -> io::Result<()> {
        self.set(0)
    }

    fn set(&self, at: u64) -> io::Result<()> {
        // The kernel takes no more seconds than an i64 of nanoseconds holds: 292 years.
        let at = at.min(i64::MAX as u64);
        let value = Timespec { tv_sec: (at / NANOS_PER_SECOND) as _, tv_nsec: (at % NANOS_PER_SECOND) as _ };
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let time = Itimerspec { it_interval: interval, it_value: value };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &time)?;
        Ok(())
    }

    /// Makes the descriptor unreadable after it fired. Returns whether it had.
    pub fn clear(&self) -> io::Result<bool> {
        let mut count = [0; 8];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut count)) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for TimerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for TimerFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{Interest, poll};
    use std::time::Duration;

    fn readable(timer: &TimerFd, timeout: Duration) -> bool {
        let mut entries = [Interest::readable(timer.as_fd())];
        poll(&mut entries, Some(timeout)).unwrap();
        entries[0].is_ready()
    }

    #[test]
    fn fires_at_its_time_and_not_before() {
        let timer = TimerFd::new().unwrap();
        let start = monotonic_nanos();
        timer.arm(start + 2_000_000).unwrap();
        assert!(!timer.clear().unwrap());
        assert!(readable(&timer, Duration::from_secs(10)));
        assert!(monotonic_nanos() >= start + 2_000_000);
        assert!(timer.clear().unwrap() && !timer.clear().unwrap());
    }

    #[test]
    fn the_past_fires_at_once_and_disarm_takes_it_back() {
        let timer = TimerFd::new().unwrap();
        timer.arm(0).unwrap();
        assert!(readable(&timer, Duration::from_secs(10)));
        timer.disarm().unwrap();
        assert!(!readable(&timer, Duration::ZERO));
        timer.arm(u64::MAX).unwrap();
        assert!(!readable(&timer, Duration::ZERO));
    }
}
