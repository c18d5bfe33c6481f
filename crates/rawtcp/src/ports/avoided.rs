//! Four-tuples that are left alone for a while.

use rawtcp_proto::{FourTuple, Instant};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// How long a four-tuple is left alone on which a connect was given up: the peer may have a half-open connection there until
/// our reset comes, and would not understand the next SYN, which then had to come again after a second. Longer than
/// most round trips, and than one retransmission of its SYN-ACK.
pub(super) const AVOID: Duration = Duration::from_secs(2);

/// Such four-tuples remembered. Who gives up more of them in that time has the oldest forgotten.
pub(super) const MAX_AVOIDED: usize = 4096;

/// Four-tuples on which a connect was given up, and when.
#[derive(Debug, Default)]
pub(super) struct Avoided {
    order: VecDeque<(Instant, FourTuple)>,
    all: HashSet<FourTuple>,
}

impl Avoided {
    pub(super) fn add(&mut self, now: Instant, tuple: FourTuple) {
        if self.all.insert(tuple) {
            self.order.push_back((now, tuple));
        }
        if self.order.len() > MAX_AVOIDED {
            self.forget_first();
        }
    }

    pub(super) fn has(&self, tuple: &FourTuple) -> bool {
        self.all.contains(tuple)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn forget_first(&mut self) {
        if let Some((_, tuple)) = self.order.pop_front() {
            self.all.remove(&tuple);
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|&(since, _)| now.since(since) >= AVOID) {
            self.forget_first();
        }
    }
}
