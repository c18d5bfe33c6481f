//! The only place that reads a clock.
//!
//! Clock and timer come with the device. Real devices use CLOCK_MONOTONIC, as the kernel's timer does.
//! Devices inside the process use tokio's clock, so that a test's paused time works; they fall back to
//! the real one in a runtime without timers.

use rawtcp_proto::Instant;

/// What a stack calls "now".
#[derive(Debug)]
pub(crate) enum Clock {
    /// CLOCK_MONOTONIC.
    Monotonic,
    /// tokio's clock, counted from the making of the stack.
    Tokio(tokio::time::Instant),
}

impl Clock {
    /// tokio's clock, if this runtime has timers.
    pub(crate) fn tokio() -> Clock {
        // There is no way to ask but to try. In a runtime without timers the panic hook runs once.
        let timers = std::panic::catch_unwind(|| drop(tokio::time::sleep(std::time::Duration::ZERO)));
        match timers {
            Ok(()) => Clock::Tokio(tokio::time::Instant::now()),
            Err(_) => Clock::Monotonic,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        match self {
            Clock::Monotonic => Instant::from_nanos(rawtcp_io::timer::monotonic_nanos()),
            // Never zero: a timestamp of 0 is not worth a special case anywhere.
            Clock::Tokio(base) => Instant::from_secs(1) + tokio::time::Instant::now().saturating_duration_since(*base),
        }
    }

    /// When tokio's timer has to fire for a deadline of this clock.
    pub(crate) fn to_tokio(&self, at: Instant) -> Option<tokio::time::Instant> {
        match self {
            Clock::Monotonic => None,
            Clock::Tokio(base) => Some(*base + at.since(Instant::from_secs(1))),
        }
    }
}

/// Real time, for what has to end even if virtual time stands still.
pub(crate) fn real_now() -> std::time::Instant {
    std::time::Instant::now()
}
