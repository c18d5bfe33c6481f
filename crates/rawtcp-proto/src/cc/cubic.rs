//! CUBIC (RFC 9438) with HyStart++ (RFC 9406). After congestion the window grows with the time since
//! then and not with round trips: fast up to where congestion was met, hesitating there, and then
//! faster and faster.
//!
//! All is integers, so that it is the same on every machine: windows in 2⁻³² of a byte, times in
//! microseconds.

use super::hystart::HyStart;
use super::{AckSample, Carried, Congestion, CongestionControl, CongestionSample, decayed, unused_ssthresh};
use crate::time::{Duration, Instant};

/// No window grows beyond this, as in Reno.
const MAX_CWND: u64 = 1 << 40;

/// A byte is 2³² units of a [`Fixed`].
const FRACTION: u32 = 32;

/// Bytes with a fraction: the part of a byte that an ACK is worth must not be lost.
type Fixed = u128;

/// C = 0.4 segments/s³ (RFC 9438 §5.1), for times in microseconds: 2 / (5·10¹⁸).
const C: (u128, u128) = (2, 5_000_000_000_000_000_000);

/// β = 0.7 (RFC 9438 §4.6).
const BETA: (u64, u64) = (7, 10);
/// The same after a mark, by RFC 8511 §3.1.
const BETA_OF_MARK: (u64, u64) = (17, 20);

/// (1 + β) / 2 (RFC 9438 §4.7).
const FAST_CONVERGENCE: (u64, u64) = (17, 20);

/// α = 3 · (1 − β) / (1 + β): what makes a decrease by β as fair as Reno's (RFC 9438 §4.3).
const ALPHA: (u128, u128) = (9, 17);

const fn fixed(bytes: u64) -> Fixed {
    (bytes as u128) << FRACTION
}

/// The largest integer whose cube is at most `n`.
fn cube_root(n: u128) -> u64 {
    let mut root = 0u128;
    for bit in (0..43).rev() {
        let candidate = root | 1 << bit;
        if candidate.checked_pow(3).is_some_and(|cube| cube <= n) {
            root = candidate;
        }
    }
    root as u64 // below 2⁴³
}

/// A stage of congestion avoidance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Epoch {
    /// K in microseconds: when the window reaches W_max.
    k: u64,
    /// t: how long the stage has lasted, without the time when the window was not the limit.
    elapsed: Duration,
    /// Up to when that is counted; nothing as long as it is not.
    counted_to: Option<Instant>,
    /// Nothing was in flight then: there may have been nothing to send.
    drained: bool,
    /// W_est: the window that Reno would have.
    w_est: Fixed,
}

impl Epoch {
    fn advance(&mut self, sample: &AckSample) {
        if let Some(before) = self.counted_to {
            let passed = sample.now.since(before);
            // Of a pause too short for `on_idle`, only the round trip was spent on the window.
            let most = if self.drained { sample.srtt.unwrap_or_default() } else { Duration::MAX };
            self.elapsed = self.elapsed.saturating_add(passed.min(most));
        }
        self.counted_to = self.counted_to.max(Some(sample.now));
        self.drained = sample.in_flight <= sample.acked;
    }
}

/// A [`Fixed`] in twelve bytes: every connection has one.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed(4))]
struct Window {
    bytes: u64,
    fraction: u32,
}

impl Window {
    fn new(window: Fixed) -> Self {
        Window { bytes: (window >> FRACTION) as u64, fraction: window as u32 } // at most MAX_CWND
    }

    fn fixed(self) -> Fixed {
        fixed(self.bytes) | Fixed::from(self.fraction)
    }
}

/// What a reduction can be undone to (RFC 9438 §4.9.2).
#[derive(Clone, Debug)]
struct Before {
    window: Fixed,
    ssthresh: u64,
    cwnd_prior: u64,
    w_max: u64,
    flat: bool,
    epoch: Option<Box<Epoch>>,
}

/// CUBIC: 0.7 of the window on congestion, then a cubic function of time.
#[derive(Clone, Debug)]
pub struct Cubic {
    mss: u32,
    initial_segments: u32,
    window: Window,
    ssthresh: u64,
    /// The window when `ssthresh` was last set.
    cwnd_prior: u64,
    /// Where the curve has its plateau; 0 as long as there was no congestion.
    w_max: u64,
    /// The next stage begins on the plateau: after a timeout (§4.8), and after a slow start that ended
    /// without loss (§4.10).
    flat: bool,
    /// The stage of congestion avoidance, if one has begun since the last reduction.
    epoch: Option<Box<Epoch>>,
    hystart: HyStart,
    before: Option<Box<Before>>,
    /// The timer has expired and nothing was delivered since.
    timed_out: bool,
    /// Neither growth nor reduction so far: the window still is the initial one.
    untouched: bool,
}

impl Cubic {
    /// For segments of `mss` bytes, beginning with a window of that many segments (at least one).
    pub fn new(mss: u32, initial_window_segments: u32) -> Self {
        let mut cubic = Cubic {
            mss: mss.max(1),
            initial_segments: initial_window_segments.max(1),
            window: Window::default(),
            ssthresh: u64::MAX,
            cwnd_prior: 0,
            w_max: 0,
            flat: true,
            epoch: None,
            hystart: HyStart::default(),
            before: None,
            timed_out: false,
            untouched: true,
        };
        cubic.window = Window::new(fixed(cubic.initial_window()));
        cubic
    }

    fn initial_window(&self) -> u64 {
        (u64::from(self.initial_segments) * self.mss()).min(MAX_CWND)
    }

    fn set_mss(&mut self, mss: u32) {
        self.mss = mss.max(1);
    }

    fn mss(&self) -> u64 {
        self.mss.into()
    }

    fn set_window(&mut self, window: Fixed) {
        self.window = Window::new(window.min(fixed(MAX_CWND)));
        self.untouched = false;
    }

    /// What is in flight, times β: RFC 9438 §4.6 takes the flight and not the window.
    fn reduced(&self, sample: &CongestionSample, beta: (u64, u64)) -> u64 {
        sample.in_flight.min(2 * MAX_CWND) * beta.0 / beta.1
    }

    fn reduce_to(&mut self, cwnd: u64, ssthresh: u64) {
        self.before = Some(Box::new(Before {
            window: self.window.fixed(),
            ssthresh: self.ssthresh,
            cwnd_prior: self.cwnd_prior,
            w_max: self.w_max,
            flat: self.flat,
            epoch: self.epoch.take(),
        }));
        self.cwnd_prior = self.cwnd();
        self.ssthresh = ssthresh.clamp(2 * self.mss(), MAX_CWND);
        self.set_window(fixed(cwnd));
        self.hystart.restart();
    }

    /// K (RFC 9438 §4.2, figure 2) in microseconds.
    fn k(&self) -> u64 {
        let distance = u128::from(self.w_max.saturating_sub(self.cwnd()));
        cube_root(distance * C.1 / (C.0 * u128::from(self.mss())))
    }

    /// W_cubic (RFC 9438 §4.2, figure 1) in bytes, at most [`MAX_CWND`].
    fn w_cubic(&self, t: Duration, k: u64) -> u64 {
        let t = t.as_micros();
        let k = u128::from(k);
        // What saturates here is larger than any window even after the division.
        let offset = t.abs_diff(k).saturating_pow(3).saturating_mul(C.0 * u128::from(self.mss())) / C.1;
        let offset = u64::try_from(offset).unwrap_or(u64::MAX);
        let w = if t < k { self.w_max.saturating_sub(offset) } else { self.w_max.saturating_add(offset) };
        w.min(MAX_CWND)
    }

    /// Answers how many of the bytes are left for congestion avoidance.
    fn slow_start(&mut self, sample: &AckSample) -> u64 {
        let mut left = 0;
        let first = self.ssthresh == u64::MAX;
        if sample.cwnd_limited {
            let room = self.ssthresh - self.cwnd();
            let growth = if first { self.hystart.growth(sample.acked) } else { sample.acked }.min(room);
            // Neither can overflow: nor does a u64 with its fraction come near the end of a u128.
            self.set_window(self.window.fixed() + fixed(growth));
            left = if first { 0 } else { sample.acked - growth };
        }
        // RFC 9406 §4.3: only in the first slow start; later ones know where to end [SHOULD].
        if first && self.hystart.on_ack(sample) {
            self.ssthresh = self.cwnd().max(2 * self.mss());
            self.cwnd_prior = self.cwnd();
            self.flat = true;
        }
        left
    }

    fn begin_epoch(&mut self, now: Instant) -> Epoch {
        if self.flat || self.w_max < self.cwnd() {
            self.w_max = self.cwnd();
            self.flat = false;
        }
        let w_est = fixed(self.cwnd());
        Epoch { k: self.k(), elapsed: Duration::ZERO, counted_to: Some(now), drained: false, w_est }
    }

    fn avoid_congestion(&mut self, acked: u64, sample: &AckSample) {
        if !sample.cwnd_limited {
            // RFC 9438 §4.2: t MUST NOT include this time.
            self.stop_clock();
            return;
        }
        let mut epoch = match self.epoch.take() {
            Some(epoch) => epoch,
            None => Box::new(self.begin_epoch(sample.now)),
        };
        epoch.advance(sample);
        let cwnd = self.cwnd();
        // One ACK of several windows is worth one round trip, not several.
        let acked = u128::from(acked.min(cwnd));
        let alpha = if epoch.w_est >= fixed(self.cwnd_prior) { (1, 1) } else { ALPHA };
        let reno = ((alpha.0 * u128::from(self.mss()) * acked) << FRACTION) / (alpha.1 * u128::from(cwnd));
        epoch.w_est = (epoch.w_est + reno).min(fixed(MAX_CWND));
        if fixed(self.w_cubic(epoch.elapsed, epoch.k)) < epoch.w_est {
            // §4.3: the Reno-friendly region. The window aims a round trip ahead and may be larger already.
            self.set_window(self.window.fixed().max(epoch.w_est));
        } else {
            // §4.4 and §4.5: the concave and the convex region.
            let next = epoch.elapsed.saturating_add(sample.srtt.unwrap_or_default());
            let target = self.w_cubic(next, epoch.k).clamp(cwnd, cwnd + cwnd / 2);
            let growth = ((u128::from(target - cwnd) * acked) << FRACTION) / u128::from(cwnd);
            self.set_window(self.window.fixed() + growth);
        }
        self.epoch = Some(epoch);
    }

    /// The window becomes smaller without congestion: another stage leads from there to the old plateau.
    fn shrink_unused(&mut self, cwnd: u64) {
        self.ssthresh = unused_ssthresh(self.cwnd(), self.ssthresh);
        if cwnd < self.cwnd() {
            self.window = Window::new(fixed(cwnd));
            self.epoch = None;
        }
    }

    fn stop_clock(&mut self) {
        if let Some(epoch) = &mut self.epoch {
            epoch.counted_to = None;
        }
    }
}

impl CongestionControl for Cubic {
    fn name(&self) -> &'static str {
        "cubic"
    }

    fn on_ack(&mut self, sample: &AckSample) {
        if sample.acked == 0 || (sample.duplicate && !sample.in_recovery) {
            return;
        }
        self.timed_out = false;
        if sample.in_recovery {
            return;
        }
        let mut acked = sample.acked;
        if self.cwnd() < self.ssthresh {
            acked = self.slow_start(sample);
        }
        if acked > 0 && self.cwnd() >= self.ssthresh {
            self.avoid_congestion(acked, sample);
        }
    }

    fn on_congestion(&mut self, event: Congestion, sample: &CongestionSample) {
        self.set_mss(sample.mss);
        let marked = event == Congestion::Ecn;
        let reduced = self.reduced(sample, if marked && sample.abe { BETA_OF_MARK } else { BETA });
        let cwnd = self.cwnd();
        // §4.6: after a loss the window is at least two segments, after a mark one. One that was smaller,
        // after a timeout, stays.
        let floor = if marked { self.mss() } else { 2 * self.mss() };
        self.reduce_to(reduced.clamp(floor, cwnd.max(floor)), reduced);
        // §4.7: a window that did not reach the last plateau makes room for others.
        self.w_max = if cwnd < self.w_max { cwnd * FAST_CONVERGENCE.0 / FAST_CONVERGENCE.1 } else { cwnd };
        self.flat = false;
        if marked {
            self.before = None; // a mark is never unfounded
        }
    }

    fn on_rto(&mut self, sample: &CongestionSample) {
        self.set_mss(sample.mss);
        if self.timed_out {
            // RFC 5681 §3.1: on repeated timeouts of the same segment ssthresh is held constant.
            self.set_window(fixed(self.mss()));
            return;
        }
        // The silence before the timer expired is no time to grow in, should it be undone.
        self.stop_clock();
        self.reduce_to(self.mss(), self.reduced(sample, BETA));
        self.flat = true;
        self.timed_out = true;
    }

    fn on_recovery_exit(&mut self, _now: Instant) {
        // The next stage begins with the first ACK that the window may grow by.
    }

    fn on_spurious(&mut self) {
        let Some(before) = self.before.take() else { return };
        self.timed_out = false;
        // §4.9.2: found out so late that the window has grown beyond, what is known now is better.
        if self.cwnd() > self.cwnd_prior {
            return;
        }
        self.set_window(self.window.fixed().max(before.window));
        self.ssthresh = before.ssthresh.max(2 * self.mss());
        self.cwnd_prior = before.cwnd_prior;
        self.w_max = before.w_max;
        self.flat = before.flat;
        self.epoch = before.epoch;
    }

    fn on_idle(&mut self, _now: Instant, idle: Duration, rto: Duration) {
        self.stop_clock();
        if idle <= rto {
            return;
        }
        // RFC 5681 §4.1: RW = min(IW, cwnd); as with Reno, never the one segment of a lost SYN.
        self.hystart.restart();
        self.before = None;
        let restart = self.initial_window().max(2 * self.mss());
        self.shrink_unused(decayed(self.cwnd(), restart, idle, rto));
    }

    fn on_limit(&mut self, cwnd: u64) {
        self.ssthresh = self.ssthresh.min(cwnd);
        if cwnd < self.cwnd() {
            self.window = Window::new(fixed(cwnd));
            self.epoch = None;
        }
    }

    fn on_underuse(&mut self, _now: Instant, used: u64) {
        let used = used.max(self.initial_window());
        if used < self.cwnd() {
            self.shrink_unused(self.cwnd().midpoint(used));
        }
    }

    fn on_mss(&mut self, mss: u32) {
        let was_loss_window = self.cwnd() <= self.mss();
        self.set_mss(mss);
        let window = match (self.untouched, was_loss_window) {
            // Nothing was sent by it yet, or it is counted in segments.
            (true, _) => fixed(self.initial_window()),
            (false, true) => fixed(self.mss()),
            // What the path holds in bytes does not depend on how they are cut.
            (false, false) => self.window.fixed().max(fixed(2 * self.mss())),
        };
        self.window = Window::new(window);
        self.ssthresh = self.ssthresh.max(2 * self.mss());
        // The curve is counted in segments: a new one leads from here to the old plateau.
        self.epoch = None;
        if let Some(before) = &mut self.before {
            before.epoch = None;
        }
    }

    fn cwnd(&self) -> u64 {
        self.window.bytes
    }

    fn ssthresh(&self) -> u64 {
        self.ssthresh
    }

    fn export(&self) -> Carried {
        Carried { cwnd: self.cwnd(), ssthresh: self.ssthresh, ..Carried::default() }
    }

    fn import(&mut self, carried: Carried) {
        let fresh = Cubic::new(self.mss, 1);
        let cwnd = carried.cwnd.clamp(self.mss(), MAX_CWND);
        *self = Cubic {
            initial_segments: self.initial_segments,
            window: Window::new(fixed(cwnd)),
            ssthresh: carried.ssthresh.max(2 * self.mss()),
            cwnd_prior: cwnd,
            untouched: false,
            ..fresh
        };
    }
}

#[cfg(test)]
mod tests;
