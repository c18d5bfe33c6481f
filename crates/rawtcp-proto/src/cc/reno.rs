//! Slow start and congestion avoidance as in RFC 5681, counting bytes (RFC 3465) rather than
//! acknowledgments, so that neither delayed nor split acknowledgments change the pace.

use super::{AckSample, Carried, Congestion, CongestionControl, CongestionSample, decayed, unused_ssthresh};
use crate::time::{Duration, Instant};

/// No window grows beyond this: a thousand times what a peer can advertise, and far from overflow.
const MAX_CWND: u64 = 1 << 40;

/// Reno: one segment more per round trip, half on congestion.
#[derive(Clone, Debug)]
pub struct Reno {
    mss: u64,
    initial_segments: u64,
    cwnd: u64,
    ssthresh: u64,
    /// Bytes acknowledged in congestion avoidance since the window last grew.
    counted: u64,
    /// What [`CongestionControl::on_spurious`] goes back to: window and threshold before the last reduction.
    before: Option<(u64, u64)>,
    /// The timer has expired and nothing was delivered since.
    timed_out: bool,
    /// Neither growth nor reduction so far: the window still is the initial one.
    untouched: bool,
}

impl Reno {
    /// For segments of `mss` bytes, beginning with a window of that many segments (at least one).
    pub fn new(mss: u32, initial_window_segments: u32) -> Self {
        let mut reno = Reno {
            mss: u64::from(mss.max(1)),
            initial_segments: u64::from(initial_window_segments.max(1)),
            cwnd: 0,
            // RFC 5681 §3.1: the initial value of ssthresh SHOULD be set arbitrarily high.
            ssthresh: u64::MAX,
            counted: 0,
            before: None,
            timed_out: false,
            untouched: true,
        };
        reno.cwnd = reno.initial_window();
        reno
    }

    fn initial_window(&self) -> u64 {
        (self.initial_segments * self.mss).min(MAX_CWND)
    }

    /// RFC 5681 §3.1, equation 4.
    fn threshold(&self, sample: &CongestionSample) -> u64 {
        (sample.in_flight / 2).clamp(2 * self.mss, MAX_CWND)
    }

    /// The same for a mark by RFC 8511 §3.1: routers mark long before their queue is full.
    fn threshold_of_mark(&self, sample: &CongestionSample) -> u64 {
        (sample.in_flight.min(MAX_CWND) * 4 / 5).clamp(2 * self.mss, MAX_CWND)
    }

    fn reduce_to(&mut self, cwnd: u64, ssthresh: u64) {
        self.before = Some((self.cwnd, self.ssthresh));
        self.cwnd = cwnd;
        self.ssthresh = ssthresh;
        self.counted = 0;
        self.untouched = false;
    }

    fn set_mss(&mut self, mss: u32) {
        self.mss = u64::from(mss.max(1));
    }

    fn grow(&mut self, bytes: u64) {
        self.cwnd = self.cwnd.saturating_add(bytes).min(MAX_CWND);
        self.untouched = false;
    }
}

impl CongestionControl for Reno {
    fn name(&self) -> &'static str {
        "reno"
    }

    fn on_ack(&mut self, sample: &AckSample) {
        if sample.acked == 0 || (sample.duplicate && !sample.in_recovery) {
            return;
        }
        self.timed_out = false;
        if sample.in_recovery || !sample.cwnd_limited {
            return;
        }
        let mut acked = sample.acked;
        // RFC 5681 §3.1: slow start while cwnd < ssthresh; either one where they are equal.
        if self.cwnd < self.ssthresh {
            // RFC 3465 §2.2 limits the growth per acknowledgment to two segments against bursts. Receive
            // offload makes one acknowledgment of dozens of segments normal, and pacing takes the bursts
            // away, so there is no such limit here (as in RFC 9002 §7.3.1).
            let growth = acked.min(self.ssthresh - self.cwnd);
            self.grow(growth);
            acked -= growth;
        }
        if acked > 0 {
            // RFC 5681 §3.1: one SMSS when a whole window was acknowledged [recommended way].
            // Only whole segments leave: the half one that a reduction may have left is no part of a round trip, and
            // of a window of three it would be a sixth.
            let window = (self.cwnd - self.cwnd % self.mss).max(self.mss);
            self.counted = self.counted.saturating_add(acked);
            if self.counted >= window {
                self.counted = (self.counted - window).min(window);
                self.grow(self.mss);
            }
        }
    }

    fn on_congestion(&mut self, event: Congestion, sample: &CongestionSample) {
        self.set_mss(sample.mss);
        let marked = event == Congestion::Ecn;
        let ssthresh = if marked && sample.abe { self.threshold_of_mark(sample) } else { self.threshold(sample) };
        // RFC 5681 §3.2, step 2; RFC 3168 §6.1.2 asks for the same after a mark. How the flight shrinks to
        // it is recovery's affair. A window smaller than that, after a timeout, stays.
        self.reduce_to(ssthresh.min(self.cwnd.max(2 * self.mss)), ssthresh);
        if marked {
            self.before = None; // a mark is never unfounded
        }
    }

    fn on_rto(&mut self, sample: &CongestionSample) {
        self.set_mss(sample.mss);
        if self.timed_out {
            // RFC 5681 §3.1: on repeated timeouts of the same segment ssthresh is held constant.
            self.cwnd = self.mss;
            return;
        }
        // RFC 5681 §3.1, equations 4 and 5: the loss window is one full-sized segment [MUST].
        self.reduce_to(self.mss, self.threshold(sample));
        self.timed_out = true;
    }

    fn on_recovery_exit(&mut self, _now: Instant) {
        // RFC 5681 §3.2, step 6 deflates to ssthresh; the window was never inflated beyond it here.
        self.counted = 0;
    }

    fn on_spurious(&mut self) {
        if let Some((cwnd, ssthresh)) = self.before.take() {
            self.cwnd = self.cwnd.max(cwnd);
            self.ssthresh = ssthresh.max(2 * self.mss);
            self.counted = 0;
            self.timed_out = false;
        }
    }

    fn on_idle(&mut self, _now: Instant, idle: Duration, rto: Duration) {
        if idle <= rto {
            return;
        }
        self.ssthresh = unused_ssthresh(self.cwnd, self.ssthresh);
        // RFC 5681 §4.1: RW = min(IW, cwnd). An initial window of one segment was the price of a lost SYN,
        // which is not to be paid twice.
        self.cwnd = decayed(self.cwnd, self.initial_window().max(2 * self.mss), idle, rto);
        self.counted = 0;
    }

    fn on_limit(&mut self, cwnd: u64) {
        (self.cwnd, self.ssthresh) = (self.cwnd.min(cwnd), self.ssthresh.min(cwnd));
    }

    fn on_underuse(&mut self, _now: Instant, used: u64) {
        let used = used.max(self.initial_window());
        if used < self.cwnd {
            self.ssthresh = unused_ssthresh(self.cwnd, self.ssthresh);
            self.cwnd = self.cwnd.midpoint(used);
            self.counted = 0;
        }
    }

    fn on_mss(&mut self, mss: u32) {
        let was_loss_window = self.cwnd <= self.mss;
        self.set_mss(mss);
        self.cwnd = match (self.untouched, was_loss_window) {
            // Nothing was sent by it yet, or it is counted in segments.
            (true, _) => self.initial_window(),
            (false, true) => self.mss,
            // What the path holds in bytes does not depend on how they are cut.
            (false, false) => self.cwnd.max(2 * self.mss),
        };
        self.ssthresh = self.ssthresh.max(2 * self.mss);
    }

    fn cwnd(&self) -> u64 {
        self.cwnd
    }

    fn ssthresh(&self) -> u64 {
        self.ssthresh
    }

    fn export(&self) -> Carried {
        Carried { cwnd: self.cwnd, ssthresh: self.ssthresh, ..Carried::default() }
    }

    fn import(&mut self, carried: Carried) {
        self.cwnd = carried.cwnd.clamp(self.mss, MAX_CWND);
        self.ssthresh = carried.ssthresh.max(2 * self.mss);
        self.counted = 0;
        self.before = None;
        self.timed_out = false;
        self.untouched = false;
    }
}

#[cfg(test)]
mod tests;
