//! HyStart++ (RFC 9406): the end of slow start is found by the queue that it builds, before that queue
//! overflows. When round trips get longer, growth slows down for some rounds; if they get shorter
//! again it was a mistake, otherwise the window is large enough.

use super::AckSample;
use crate::compact::Maybe;
use crate::time::Duration;

/// The least and the most by which a round trip must be longer than before (RFC 9406 §4.3).
const MIN_RTT_THRESH: Duration = Duration::from_millis(4);
const MAX_RTT_THRESH: Duration = Duration::from_millis(16);
/// What the round trip is divided by in between (MIN_RTT_DIVISOR).
const RTT_DIVISOR: u32 = 8;
/// Samples without which a round tells nothing (N_RTT_SAMPLE).
const SAMPLES: u32 = 8;
/// By how much slower the window grows in conservative slow start (CSS_GROWTH_DIVISOR).
const GROWTH_DIVISOR: u64 = 4;
/// Rounds that conservative slow start lasts (CSS_ROUNDS).
const CSS_ROUNDS: u32 = 5;

/// Conservative slow start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Conservative {
    /// The shortest round trip when it began: a shorter one proves it unfounded.
    baseline: Duration,
    /// Rounds that have ended, the one in which it began included.
    rounds: u32,
    /// Acknowledged bytes that were too few for a byte of growth.
    carry: u64,
}

/// The search for the end of the first slow start.
#[derive(Clone, Debug, Default)]
pub(super) struct HyStart {
    last_min: Maybe<Duration>,
    min: Maybe<Duration>,
    samples: u32,
    /// Bytes in flight when the round began that are not yet delivered: with the last of them it ends.
    left: u64,
    /// The connection counts rounds itself, as it has said once.
    told: bool,
    conservative: Option<Box<Conservative>>,
}

impl HyStart {
    /// By how much the window grows for `acked` bytes. RFC 9406 §4.2 limits an ACK's effect to L segments
    /// unless sending is paced; why there is no limit here is said at Reno's slow start.
    pub(super) fn growth(&mut self, acked: u64) -> u64 {
        match &mut self.conservative {
            None => acked,
            Some(css) => {
                let counted = acked.saturating_add(css.carry);
                css.carry = counted % GROWTH_DIVISOR;
                counted / GROWTH_DIVISOR
            }
        }
    }

    /// Looks at an acknowledgment in the first slow start. Answers whether that is over.
    pub(super) fn on_ack(&mut self, sample: &AckSample) -> bool {
        self.told |= sample.round_start;
        if sample.round_start && self.next_round() {
            return true;
        }
        if let Some(rtt) = sample.rtt {
            self.min = self.min.get().map_or(rtt, |min| min.min(rtt)).into();
            self.samples = self.samples.saturating_add(1);
            self.judge(sample.cwnd_limited);
        }
        if self.told {
            return false;
        }
        // RFC 9406 §4.2 ends a round when what was SND.NXT at its beginning is acknowledged. Nothing is lost
        // in the first slow start, so that counting the bytes comes to the same.
        self.left = self.left.saturating_sub(sample.acked);
        if self.left > 0 {
            return false;
        }
        self.left = sample.in_flight.saturating_sub(sample.acked);
        self.next_round()
    }

    /// Forgets what was measured: there is another path, or the old one is empty.
    pub(super) fn restart(&mut self) {
        *self = HyStart { told: self.told, ..HyStart::default() };
    }

    fn next_round(&mut self) -> bool {
        self.last_min = core::mem::take(&mut self.min);
        self.samples = 0;
        let Some(css) = &mut self.conservative else { return false };
        css.rounds += 1;
        css.rounds >= CSS_ROUNDS
    }

    fn judge(&mut self, cwnd_limited: bool) {
        let Some(min) = self.min.get().filter(|_| self.samples >= SAMPLES) else { return };
        match &self.conservative {
            Some(css) if min < css.baseline => self.conservative = None,
            Some(_) => {}
            // A queue that this connection does not build is no reason to stop.
            None if !cwnd_limited => {}
            None => {
                let Some(last) = self.last_min.get() else { return };
                let threshold = (last / RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
                if min >= last.saturating_add(threshold) {
                    self.conservative = Some(Box::new(Conservative { baseline: min, rounds: 0, carry: 0 }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
