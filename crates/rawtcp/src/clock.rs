//! The only place that reads a clock.
//!
//! Clock and timer come with the device. Real devices use CLOCK_MONOTONIC, as the kernel's timer does.
//! Devices inside the process use tokio's clock, so that a test's paused time works. While that runs with
//! real time (or the runtime has no timers, and tokio's clock is the real one), the driver is woken by the
//! kernel's timer all the same; from the moment it is found paused, by tokio's.

use crate::sync::{AtomicU64, Ordering};
use rawtcp_proto::Instant;
use std::time::Instant as Real;
use tokio::time::Instant as Virtual;

/// What a stack calls "now".
#[derive(Debug)]
pub(crate) enum Clock {
    /// CLOCK_MONOTONIC.
    Monotonic,
    /// tokio's clock.
    Tokio {
        /// What it showed when the stack was made, and what the stack called that.
        base: Virtual,
        start: Instant,
        /// The last answer, in nanoseconds: threads that do not belong to a paused runtime see real time there,
        /// but the stack's time never goes back.
        last: AtomicU64,
    },
}

impl Clock {
    /// tokio's clock. As long as it is not paused it shows the same as CLOCK_MONOTONIC, so that deadlines
    /// fit the kernel's timer; in paused time it begins at the same point in every run.
    pub(crate) fn tokio() -> Clock {
        if cfg!(rawtcp_models) {
            return Clock::Monotonic;
        }
        let base = Virtual::now();
        // Never zero: a timestamp of 0 is not worth a special case anywhere.
        let start = if tokio_is_real() { monotonic_now() } else { Instant::from_secs(1) };
        Clock::Tokio { base, start, last: AtomicU64::new(0) }
    }

    pub(crate) fn now(&self) -> Instant {
        match self {
            Clock::Monotonic => monotonic_now(),
            Clock::Tokio { base, start, last } => {
                let now = (*start + Virtual::now().saturating_duration_since(*base)).as_nanos();
                Instant::from_nanos(last.fetch_max(now, Ordering::Relaxed).max(now))
            }
        }
    }

    /// Whether deadlines of this clock come when the kernel's timer says so.
    pub(crate) fn is_real(&self) -> bool {
        matches!(self, Clock::Monotonic) || tokio_is_real()
    }

    /// When tokio's timer has to fire for a deadline of this clock.
    pub(crate) fn to_tokio(&self, at: Instant) -> Option<Virtual> {
        match self {
            Clock::Monotonic => None,
            Clock::Tokio { base, start, .. } => Some(*base + at.since(*start)),
        }
    }
}

fn monotonic_now() -> Instant {
    if cfg!(rawtcp_models) {
        // Time stands still in a model: no timer hides a wake-up that was lost.
        return Instant::from_secs(1);
    }
    Instant::from_nanos(rawtcp_io::timer::monotonic_nanos())
}

/// Whether tokio's clock shows real time here: then it is not before an earlier, nor behind a later look at
/// the real one. A paused clock stands still at some other time; only a runtime with timers can have one.
fn tokio_is_real() -> bool {
    let before = Virtual::now().into_std();
    let real = Real::now();
    let after = Virtual::now().into_std();
    before <= real && real <= after
}

/// Real time, for what has to end even if virtual time stands still.
pub(crate) fn real_now() -> Real {
    Real::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn real_time_needs_no_runtime_and_no_timers() {
        assert!(tokio_is_real());
        let clock = Clock::tokio();
        assert!(clock.now().since(monotonic_now()) < Duration::from_secs(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        assert!(runtime.block_on(async { Clock::tokio().is_real() }));
    }

    #[tokio::test]
    async fn a_pause_is_noticed_at_once_or_later() {
        let clock = Clock::tokio();
        assert!(clock.is_real());
        let before = clock.now();
        tokio::time::pause();
        std::thread::sleep(Duration::from_millis(1));
        assert!(!clock.is_real() && !Clock::tokio().is_real());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(clock.now().since(before) >= Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn paused_time_begins_at_one_second() {
        assert_eq!(Clock::tokio().now(), Instant::from_secs(1));
    }
}
