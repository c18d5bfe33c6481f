//! The receive budget: what all windows of a stack may promise together.
//!
//! Packets that find the device's receive queue full are lost, and that looks like loss on the path. So
//! the sum of the receive buffers, which bound the windows, is kept below what the queue holds.

use crate::sync::{AtomicUsize, Ordering};

/// Every connection gets this much, budget or not: about eleven full segments, below which a
/// connection is crippled. Many of them can over-promise; the drops are counted.
const FLOOR: usize = 16 * 1024;

/// One connection takes at most a quarter of what is left, so that the next ones find something.
const SHARE: usize = 4;

/// What is left to be promised.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
}

impl Budget {
    /// A budget for queues of this many bytes together. The kernel charges a full packet with 1.6
    /// times its length.
    pub(crate) fn for_queues(bytes: usize) -> Self {
        Budget { left: AtomicUsize::new(bytes / 8 * 5) }
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes a receive buffer of at most `wanted` bytes.
    pub(crate) fn grant(&self, wanted: usize) -> usize {
        let mut granted = 0;
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            granted = wanted.min((left / SHARE).max(FLOOR));
            Some(left.saturating_sub(granted))
        });
        granted
    }

    /// The connection is over.
    pub(crate) fn release(&self, granted: usize, total: usize) {
        // Floors may have been granted beyond the end of the budget: never more comes back than was there.
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_add(granted).min(total)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_comes_back() {
        let budget = Budget::for_queues(1 << 20);
        let total = (1 << 20) / 8 * 5;
        let grants: Vec<_> = (0..100).map(|_| budget.grant(1 << 20)).collect();
        assert_eq!(grants[0], total / 4);
        assert!(grants.windows(2).all(|pair| pair[0] >= pair[1]) && grants[99] == FLOOR);
        grants.iter().for_each(|&granted| budget.release(granted, total));
        assert_eq!(budget.left(), total);
        assert_eq!(budget.grant(4096), 4096);
    }
}
