//! Pacing: what the window allows leaves spread over the round trip instead of at once, so that it does not
//! stand in a queue that has room for less (as Linux does it without the help of a packet scheduler).
//!
//! A burst leaves, then nothing until it is paid off at the pacing rate. A burst is what the rate lets through
//! in a millisecond, and at least two segments: fast senders go on in large pieces and need few timers, slow
//! ones send pairs. On a path shorter than a millisecond that is the whole window, so it is not paced at all.

use super::{Connection, Timer};
use crate::cold::Idle;
use crate::time::{Duration, Instant};

/// How long a burst takes at the pacing rate: Linux's `sk_pacing_shift`.
const BURST: Duration = Duration::from_millis(1);
/// The least burst, in segments: the peer acknowledges every second one.
const LEAST: u64 = 2;

/// Whole segments must not fail for the nanoseconds by which times are rounded up.
const ROUNDING: Duration = Duration::from_nanos(4);

/// The state of the spacing.
#[derive(Debug)]
pub(super) struct Pacer {
    /// When all that has left is paid off.
    paid: Instant,
    /// A whole burst has left: nothing more until `paid`.
    closed: bool,
    /// Bytes that may leave at once: there was nothing in flight that they could catch up with.
    free: u64,
}

impl Idle for Pacer {
    const BEGIN: Self = Pacer { paid: Instant::ZERO, closed: false, free: 0 };

    fn idle() -> &'static Self {
        const { &Pacer::BEGIN }
    }
}

impl Pacer {
    /// Nothing is in flight: up to an initial window may leave at once (RFC 9002 §7.7 has the same), as far as the
    /// time without sending pays for it.
    fn restart(&mut self, now: Instant, window: u64, rate: &Rate) {
        let saved = rate.bytes(now.since(self.paid));
        if saved > self.free {
            self.free = saved.min(window);
            self.paid = self.paid.max(now);
        }
    }

    /// How many bytes may leave now.
    fn allowance(&mut self, now: Instant, slack: Duration, rate: &Rate) -> u64 {
        let burst = rate.time(rate.burst);
        // The debt of a slower time is forgiven.
        self.paid = self.paid.min(now + burst);
        self.closed &= self.paid > now + slack;
        if self.closed {
            return self.free;
        }
        // Who comes late, because the timer did, makes up for it, but for no more than a burst.
        let paid = self.paid.max(now - burst);
        self.free.saturating_add(rate.bytes((now + burst).since(paid) + ROUNDING))
    }

    /// Less than a segment is left of the burst: it is over.
    fn close(&mut self) -> Instant {
        self.closed = true;
        self.paid
    }

    fn on_send(&mut self, now: Instant, len: u64, rate: &Rate) {
        let free = self.free.min(len);
        self.free -= free;
        self.paid = self.paid.max(now - rate.time(rate.burst)) + rate.time(len - free);
    }
}

/// A rate, and what may leave at once at it.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Bytes per second; not zero.
    bytes_per_second: u64,
    /// Bytes.
    burst: u64,
}

impl Rate {
    fn new(bytes_per_second: u64, mss: u64) -> Rate {
        let rate = Rate { bytes_per_second: bytes_per_second.max(1), burst: 0 };
        Rate { burst: rate.bytes(BURST).max(LEAST * mss), ..rate }
    }

    fn time(&self, bytes: u64) -> Duration {
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.bytes_per_second));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn bytes(&self, time: Duration) -> u64 {
        let bytes = time.as_nanos() * u128::from(self.bytes_per_second) / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl Connection {
    /// Bytes per second at which data leaves; `None`: as fast as the window allows.
    ///
    /// What the congestion control says counts first. Otherwise it is Linux's: twice the window in a round trip in
    /// slow start, where the window doubles in one, and a fifth more than the window behind it, so that it is
    /// not the pacing that limits.
    pub(super) fn pacing_rate(&self) -> Option<u64> {
        let most = self.config.max_pacing_rate;
        // RFC 7661 §4.4.2: nor does a window that has not been used for long leave at once.
        let asked = || if self.config.pacing || self.is_non_validated() { self.rate_of_window() } else { None };
        let rate = self.cc.pacing_rate().or_else(asked);
        match (rate, most) {
            (Some(rate), Some(most)) => Some(rate.min(most)),
            (rate, most) => rate.or(most),
        }
    }

    pub(super) fn rate_of_window(&self) -> Option<u64> {
        let srtt = self.rtt.srtt()?.as_nanos().max(1);
        let (cwnd, ssthresh) = (self.cc.cwnd(), self.cc.ssthresh());
        let percent = if cwnd < ssthresh / 2 { 200 } else { 120 };
        let window = u128::from(cwnd.max(self.pipe()));
        u64::try_from(window * percent * 10_000_000 / srtt).ok()
    }

    fn paced(&self) -> Option<Rate> {
        self.pacing_rate().map(|rate| Rate::new(rate, u64::from(self.send_mss())))
    }

    /// There is nothing in flight, and something leaves.
    pub(super) fn restart_pacing(&mut self, now: Instant) {
        if let Some(rate) = self.paced() {
            let window = u64::from(self.config.initial_window) * u64::from(self.send_mss());
            self.pacer.edit().restart(now, window, &rate);
        }
    }

    /// How much of `len` bytes may leave now, in whole segments if not all of it; `None`: nothing, until a timer says so.
    ///
    /// Nothing waits for longer than until the retransmission timer expires.
    pub(super) fn pace(&mut self, now: Instant, slack: Duration, len: u64, mss: u64) -> Option<u64> {
        let Some(rate) = self.paced() else { return Some(len) };
        // A slack of more than a burst would be no pacing.
        let allowance = self.pacer.edit().allowance(now, slack.min(BURST / 2), &rate);
        if len <= allowance {
            return Some(len);
        }
        let whole = allowance / mss * mss;
        if whole > 0 {
            return Some(whole);
        }
        let at = self.pacer.edit().close();
        if self.timers.is_set(Timer::Rto) && self.recovery.retry_at <= at {
            return Some(len.min(mss));
        }
        self.timers.set(Timer::Pace, at);
        None
    }

    /// So many bytes of data leave.
    pub(super) fn note_paced(&mut self, now: Instant, len: u64) {
        if let Some(rate) = self.paced() {
            self.pacer.edit().on_send(now, len, &rate);
        }
        self.timers.clear(Timer::Pace);
    }
}

#[cfg(test)]
mod tests;
