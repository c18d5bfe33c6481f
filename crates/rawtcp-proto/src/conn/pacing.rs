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

/// What the timer was late by is made up for within this. A process may have to wait so long for a processor.
const MOST_LATE: Duration = Duration::from_millis(10);

/// Whole segments must not fail for the nanoseconds by which times are rounded up.
const ROUNDING: Duration = Duration::from_nanos(4);

/// The state of the spacing.
#[derive(Debug)]
pub(super) struct Pacer {
    /// When all that has left is paid off.
    paid: Instant,
    /// A whole burst has left: nothing more until `paid`.
    closed: bool,
    /// With what leaves next, less than a segment is left of the burst.
    closing: bool,
    /// Bytes that may leave at once: there was nothing in flight that they could catch up with, or the timer was late.
    free: u64,
    /// Bytes that a late timer has kept back beyond that; with each burst another one of them leaves.
    owed: u64,
}

impl Idle for Pacer {
    const BEGIN: Self = Pacer { paid: Instant::ZERO, closed: false, closing: false, free: 0, owed: 0 };

    fn idle() -> &'static Self {
        const { &Pacer::BEGIN }
    }
}

impl Pacer {
    /// Nothing is in flight: up to an initial window may leave at once (RFC 9002 §7.7 has the same), as far as the
    /// time without sending pays for it.
    fn restart(&mut self, now: Instant, window: u64, rate: &Rate) {
        // On a short path everything has been acknowledged before the next burst. But what waits for the rate is not idle.
        if self.closed {
            return;
        }
        self.owed = 0;
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
        if self.closed && self.paid <= now + slack {
            self.closed = false;
            let more = self.owed.min(rate.burst);
            self.owed -= more;
            self.free += more;
        }
        if self.closed {
            return self.free;
        }
        // Who comes late makes up for it, but for no more than a burst.
        let paid = self.paid.max(now - burst);
        self.free.saturating_add(rate.bytes((now + burst).since(paid) + ROUNDING))
    }

    /// What waits could have left at `paid`, and would have, if the timer had been on time: the rate is not to suffer from that.
    /// What was due in the meantime leaves at twice the rate, so that never more has left than at the rate without a pause.
    fn late(&mut self, now: Instant, rate: &Rate) {
        let forgiven = now - rate.time(rate.burst);
        if self.closed && forgiven > self.paid {
            self.owed = (self.owed + rate.bytes(forgiven.since(self.paid))).min(rate.bytes(MOST_LATE));
            self.paid = forgiven;
        }
    }

    /// Less than a segment is left of the burst: it is over.
    fn close(&mut self) -> Instant {
        self.closed = true;
        self.paid
    }

    /// Says until when nothing more may leave, if the burst is over by this.
    fn on_send(&mut self, now: Instant, len: u64, rate: &Rate) -> Option<Instant> {
        let free = self.free.min(len);
        self.free -= free;
        self.paid = self.paid.max(now - rate.time(rate.burst)) + rate.time(len - free);
        core::mem::take(&mut self.closing).then(|| self.close())
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
        if self.timers.is_set(Timer::Pace) {
            self.pacer.edit().late(now, &rate);
        }
        // A slack of more than a burst would be no pacing.
        let allowance = self.pacer.edit().allowance(now, slack.min(BURST / 2), &rate);
        if len <= allowance {
            return Some(len);
        }
        let whole = allowance / mss * mss;
        if whole > 0 {
            // Asked again a little later, there would be another one by then, to leave by itself and with a timer of its own.
            self.pacer.edit().closing = true;
            return Some(whole);
        }
        let at = self.pacer.edit().close();
        if self.timers.is_set(Timer::Rto) && self.recovery.retry_at <= at {
            return Some(len.min(mss));
        }
        self.timers.set(Timer::Pace, at);
        None
    }

    /// What waited for the rate may leave, if the window lets it.
    pub(super) fn on_pace_timer(&mut self, now: Instant) {
        if let Some(rate) = self.paced() {
            self.pacer.edit().late(now, &rate);
        }
    }

    /// So many bytes of data leave.
    pub(super) fn note_paced(&mut self, now: Instant, len: u64) {
        let over = self.paced().and_then(|rate| self.pacer.edit().on_send(now, len, &rate));
        match over {
            Some(until) => self.timers.set(Timer::Pace, until),
            None => self.timers.clear(Timer::Pace),
        }
    }
}

#[cfg(test)]
mod tests;
