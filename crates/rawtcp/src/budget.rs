//! The receive budget: what all windows of a stack may promise together.
//!
//! Packets that find the device's receive queue full are lost, and that looks like loss on the path. So
//! the sum of the receive buffers, which bound the windows, is kept below what the queue holds: each device
//! has a queue and so a budget of its own.

use crate::sync::{AtomicUsize, Ordering};

/// Every connection gets this much, budget or not: about eleven full segments, below which a
/// connection is crippled. Many of them can over-promise; the drops are counted.
const FLOOR: usize = 16 * 1024;

/// One connection takes at most a quarter of what is left, so that the next ones find something.
const SHARE: usize = 4;

/// What is left to be promised of one queue.
#[derive(Debug)]
struct Budget {
    left: AtomicUsize,
}

/// A connection's receive buffer, to be given back at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    /// What it may use.
    pub(crate) bytes: usize,
    /// What the budget had of that: less, where the floor was granted beyond its end.
    taken: usize,
    device: usize,
}

/// The budgets of all devices.
#[derive(Debug)]
pub(crate) struct Budgets(Vec<Budget>);

impl Budgets {
    /// Budgets for queues of these sizes, by device. The kernel charges a full packet with 1.6 times its length.
    pub(crate) fn new(queues: impl Iterator<Item = usize>) -> Self {
        Budgets(queues.map(|bytes| Budget { left: AtomicUsize::new(bytes / 8 * 5) }).collect())
    }

    /// Takes a receive buffer of at most `wanted` bytes.
    pub(crate) fn grant(&self, device: usize, wanted: usize) -> Grant {
        let mut grant = Grant { bytes: 0, taken: 0, device };
        let _ = self.0[device].left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            grant.bytes = wanted.min((left / SHARE).max(FLOOR));
            grant.taken = grant.bytes.min(left);
            Some(left - grant.taken)
        });
        grant
    }

    /// Enlarges a receive buffer towards `wanted` bytes, as far as the budget goes: there is no floor for more.
    pub(crate) fn grow(&self, grant: &mut Grant, wanted: usize) {
        let mut more = 0;
        let _ = self.0[grant.device].left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            more = wanted.saturating_sub(grant.bytes).min(left / SHARE);
            Some(left - more)
        });
        grant.bytes += more;
        grant.taken += more;
    }

    /// The connection is over.
    pub(crate) fn release(&self, grant: Grant) {
        self.0[grant.device].left.fetch_add(grant.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(budgets: &Budgets) -> [usize; 2] {
        [0, 1].map(|device| budgets.0[device].left.load(Ordering::Relaxed))
    }

    #[test]
    fn the_budget_is_shared_and_comes_back() {
        let budgets = Budgets::new([1 << 20, 1 << 20].into_iter());
        let total = (1 << 20) / 8 * 5;
        let grants: Vec<_> = (0..100).map(|_| budgets.grant(1, 1 << 20)).collect();
        assert_eq!(grants[0].bytes, total / 4);
        assert!(grants.windows(2).all(|pair| pair[0].bytes >= pair[1].bytes) && grants[99].bytes == FLOOR);
        // Another device's queue is another matter.
        assert_eq!(left(&budgets), [total, 0]);
        // Floors beyond the end of the budget bring nothing back while the others still hold theirs.
        grants[60..].iter().for_each(|&grant| budgets.release(grant));
        let held: usize = grants[..60].iter().map(|grant| grant.bytes).sum();
        assert_eq!(left(&budgets)[1], total.saturating_sub(held));
        grants[..60].iter().for_each(|&grant| budgets.release(grant));
        assert_eq!(left(&budgets), [total, total]);
        assert_eq!(budgets.grant(0, 4096).bytes, 4096);
    }

    #[test]
    fn a_buffer_grows_only_as_far_as_the_budget_goes() {
        let budgets = Budgets::new([1 << 20, 1 << 20].into_iter());
        let total = (1 << 20) / 8 * 5;
        let mut grant = budgets.grant(0, 100_000);
        budgets.grow(&mut grant, 150_000);
        assert_eq!(grant.bytes, 150_000);
        budgets.grow(&mut grant, usize::MAX);
        assert_eq!(grant.bytes, 150_000 + (total - 150_000) / SHARE);
        let others: Vec<_> = (0..100).map(|_| budgets.grant(0, 1 << 20)).collect();
        let before = grant.bytes;
        budgets.grow(&mut grant, usize::MAX);
        assert_eq!(grant.bytes, before, "nothing is left, and there is no floor for more");
        others.into_iter().for_each(|other| budgets.release(other));
        budgets.release(grant);
        assert_eq!(left(&budgets), [total, total]);
    }
}
