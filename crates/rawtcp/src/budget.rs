//! The receive budget: how much more than they begin with all windows of a stack may promise together.
//!
//! Packets that find the device's receive queue full are lost, and that looks like loss on the path. So
//! the growth of receive buffers, which bound the windows, is kept below what the queue holds: each device
//! has a queue and so a budget of its own. What connections begin with is not counted: most of them never use it, and a
//! thousand that do nothing would leave a busy one without a window worth the name.

use crate::sync::{AtomicUsize, Ordering};

/// Every connection gets this much, budget or not: what one begins with by default. Many that are busy at once can
/// over-promise; the drops are counted.
const FREE: usize = 128 * 1024;

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
    /// What the budget had to give for that.
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
        let mut grant = Grant { bytes: wanted.min(FREE), taken: 0, device };
        self.grow(&mut grant, wanted);
        grant
    }

    /// Enlarges a receive buffer towards `wanted` bytes, as far as the budget goes.
    pub(crate) fn grow(&self, grant: &mut Grant, wanted: usize) {
        if wanted <= grant.bytes {
            return;
        }
        let mut more = 0;
        let _ = self.0[grant.device].left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            more = (wanted - grant.bytes).min(left / SHARE);
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
        assert_eq!(grants[0].bytes, FREE + total / 4);
        assert!(grants.windows(2).all(|pair| pair[0].bytes >= pair[1].bytes) && grants[99].bytes == FREE);
        // Another device's queue is another matter.
        assert_eq!(left(&budgets)[0], total);
        grants[60..].iter().for_each(|&grant| budgets.release(grant));
        let held: usize = grants[..60].iter().map(|grant| grant.bytes - FREE).sum();
        assert_eq!(left(&budgets)[1], total - held);
        grants[..60].iter().for_each(|&grant| budgets.release(grant));
        assert_eq!(left(&budgets), [total, total]);
        assert_eq!(budgets.grant(0, 4096).bytes, 4096);
    }

    /// Idle ones must not take the window of a busy one.
    #[test]
    fn what_connections_begin_with_is_not_counted() {
        let budgets = Budgets::new([1 << 20].into_iter());
        let begun = rawtcp_proto::ConnConfig::default().recv_buffer;
        for _ in 0..100_000 {
            assert_eq!(budgets.grant(0, begun).bytes, begun);
        }
        let mut busy = budgets.grant(0, begun);
        budgets.grow(&mut busy, usize::MAX);
        assert_eq!(busy.bytes, begun + (1 << 20) / 8 * 5 / SHARE);
    }

    #[test]
    fn a_buffer_grows_only_as_far_as_the_budget_goes() {
        let budgets = Budgets::new([1 << 20, 1 << 20].into_iter());
        let total = (1 << 20) / 8 * 5;
        let mut grant = budgets.grant(0, 100_000);
        budgets.grow(&mut grant, 150_000);
        assert_eq!((grant.bytes, left(&budgets)), (150_000, [total - 50_000, total]));
        budgets.grow(&mut grant, 150_000);
        budgets.grow(&mut grant, 4096);
        assert_eq!(grant.bytes, 150_000);
        budgets.grow(&mut grant, usize::MAX);
        assert_eq!(grant.bytes, 150_000 + (total - 50_000) / SHARE);
        let others: Vec<_> = (0..100).map(|_| budgets.grant(0, 1 << 20)).collect();
        let before = grant.bytes;
        budgets.grow(&mut grant, usize::MAX);
        assert!(grant.bytes - before < SHARE, "hardly anything is left");
        others.into_iter().for_each(|other| budgets.release(other));
        budgets.release(grant);
        assert_eq!(left(&budgets), [total, total]);
    }
}
