//! The filters of the model.

use super::{AckSample, volume};
use crate::time::Instant;

/// BBR.MaxBwFilter: the highest bandwidth of this ProbeBW cycle and the one before (§4.5.3).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MaxBw {
    before: u64,
    now: u64,
}

impl MaxBw {
    pub(super) fn get(&self) -> u64 {
        self.before.max(self.now)
    }

    pub(super) fn update(&mut self, bw: u64) {
        self.now = self.now.max(bw);
    }

    /// BBRAdvanceMaxBwFilter (§4.5.6); a cycle without a sample does not count.
    pub(super) fn advance(&mut self) {
        if self.now > 0 {
            (self.before, self.now) = (self.now, 0);
        }
    }
}

/// Whether sending faster still delivers faster (§4.3.1.2).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FullPipe {
    /// BBR.full_bw_reached: it once did not.
    pub(super) reached: bool,
    /// BBR.full_bw_now: it does not since this was last asked.
    pub(super) now: bool,
    bw: u64,
    count: u32,
}

impl FullPipe {
    /// BBRCheckFullBWReached: three rounds without a quarter more.
    pub(super) fn update(&mut self, bw: u64, limited: bool, round_start: bool) {
        if self.now || limited {
            return;
        }
        if u128::from(bw) * 4 >= u128::from(self.bw) * 5 {
            self.begin(bw);
        } else if round_start {
            self.count += 1;
            self.now = self.count >= 3;
            self.reached |= self.now;
        }
    }

    /// Asks anew, from this bandwidth on.
    pub(super) fn begin(&mut self, bw: u64) {
        (self.bw, self.count, self.now) = (bw, 0, false);
    }

    /// BBRResetFullBW.
    pub(super) fn restart(&mut self) {
        self.begin(0);
    }
}

/// BBR.extra_acked: how much more is acknowledged at once than the bandwidth explains (§4.5.9); the most of five
/// to ten round trips.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Aggregation {
    since: Instant,
    delivered: u64,
    most: [u64; 2],
    rounds: u32,
}

impl Aggregation {
    /// BBRUpdateACKAggregation.
    pub(super) fn update(&mut self, sample: &AckSample, bw: u64, cwnd: u64, round_start: bool, full: bool) {
        if round_start {
            self.rounds += 1;
            // In Startup, one round is remembered.
            if self.rounds >= if full { 5 } else { 1 } {
                self.rounds = 0;
                self.most = [0, self.most[0]];
            }
        }
        let mut expected = volume(bw, sample.now.since(self.since));
        if self.delivered <= expected {
            self.restart(sample.now);
            expected = 0;
        }
        self.delivered = self.delivered.saturating_add(sample.acked);
        let extra = self.delivered.saturating_sub(expected).min(cwnd);
        self.most[0] = self.most[0].max(extra);
    }

    pub(super) fn restart(&mut self, now: Instant) {
        (self.since, self.delivered) = (now, 0);
    }

    pub(super) fn extra(&self) -> u64 {
        self.most[0].max(self.most[1])
    }
}
