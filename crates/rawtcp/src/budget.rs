//! How much more than they begin with the buffers of a stack may take together: a receive budget for each device, and one
//! for sending.
//!
//! The receive budget bounds what all windows promise.
//! Packets that find the device's receive queue full are lost, and that looks like loss on the path. So
//! the growth of receive buffers, which bound the windows, is kept below what the queue holds: each device
//! has a queue and so a budget of its own. What connections begin with is not counted: most of them never use it, and a
//! thousand that do nothing would leave a busy one without a window worth the name. Where another device can take the place of
//! one it is counted as soon as more is wanted. A grant lasts as long as the connection: the peer may use its window at any
//! time, and what was promised is not taken back (RFC 9293 §3.8.6 [SHLD-14]).
//!
//! The send budget bounds memory, as Linux's `tcp_mem` does. It comes back when a buffer has been empty for a while.

use crate::sync::{AtomicUsize, Ordering};

/// Every connection gets this much, budget or not: what one begins with by default. Many that are busy at once can
/// over-promise; the drops are counted.
const FREE: usize = 128 * 1024;

/// One connection takes at most a quarter of what is left, so that the next ones find something.
const SHARE: usize = 4;

/// With a window of so much a peer that is near has enough, be its packets large or not: 4 Gbit/s over a millisecond, and the
/// nearer the more.
const NEAR: usize = 512 * 1024;

/// What is left to be promised of one queue.
#[derive(Debug)]
struct Budget {
    left: AtomicUsize,
    /// Another device takes the place of this one when more is expected.
    is_near: bool,
}

impl Budget {
    /// What is taken, and how much of that a buffer may grow by, if it wants so much more.
    fn share(&self, left: usize, grant: &Grant, more: usize) -> Option<(usize, usize)> {
        if !self.is_near {
            let more = more.min(left / SHARE);
            return Some((more, more));
        }
        // It is busy, and what it began with is in use.
        let begun = if grant.taken == 0 { grant.bytes } else { 0 };
        let left = left.checked_sub(begun)?;
        let more = more.min(NEAR.saturating_sub(grant.bytes)).min(left);
        Some((begun + more, more))
    }
}

/// A connection's receive buffer, to be given back at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    /// What it may use.
    pub(crate) bytes: usize,
    /// What the budget had to give for that.
    taken: usize,
    /// By whose receive queue its packets come.
    pub(crate) device: usize,
}

/// The budgets of all devices.
#[derive(Debug)]
pub(crate) struct Budgets(Vec<Budget>);

impl Budgets {
    /// Budgets for queues of these sizes, by device, and whether those are for what is near only. The kernel charges a full
    /// packet with 1.6 times its length.
    pub(crate) fn new(queues: impl Iterator<Item = (usize, bool)>) -> Self {
        let budget = |(bytes, is_near)| Budget { left: AtomicUsize::new(bytes / 8 * 5), is_near };
        Budgets(queues.map(budget).collect())
    }

    /// Takes a receive buffer of at most `wanted` bytes.
    pub(crate) fn grant(&self, device: usize, wanted: usize) -> Grant {
        let mut grant = Grant { bytes: wanted.min(FREE), taken: 0, device };
        self.grow(&mut grant, wanted, true);
        grant
    }

    /// Enlarges a receive buffer towards `wanted` bytes, as far as the budget goes, for a peer that is near or not. Says whether
    /// the device that may take the place of this one would have more to give.
    pub(crate) fn grow(&self, grant: &mut Grant, wanted: usize, is_near: bool) -> bool {
        if wanted <= grant.bytes {
            return false;
        }
        let budget = &self.0[grant.device];
        let (mut taken, mut more) = (0, 0);
        let _ = budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (taken, more) = budget.share(left, grant, wanted - grant.bytes).unwrap_or_default();
            (taken > 0).then(|| left - taken)
        });
        grant.bytes += more;
        grant.taken += taken;
        budget.is_near && grant.bytes < wanted && !(is_near && grant.bytes >= NEAR)
    }

    /// The connection's packets come by another device than was thought. What it may use stays, although that device's
    /// budget may not have it all. Says whether it has.
    pub(crate) fn change(&self, grant: &mut Grant, device: usize) -> bool {
        self.0[grant.device].left.fetch_add(grant.taken, Ordering::Relaxed);
        let mut taken = 0;
        let _ = self.0[device].left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            taken = grant.taken.min(left);
            Some(left - taken)
        });
        let has_all = taken == grant.taken;
        (grant.taken, grant.device) = (taken, device);
        has_all
    }

    /// The connection is over.
    pub(crate) fn release(&self, grant: Grant) {
        self.0[grant.device].left.fetch_add(grant.taken, Ordering::Relaxed);
    }
}

/// The least that is worth growing by: a chunk of a send buffer.
const LEAST: usize = 16 * 1024;

/// Where the system does not say how much memory it has.
const UNKNOWN_MEMORY: usize = 1 << 30;

/// What is left for send buffers to grow by.
#[derive(Debug)]
pub(crate) struct SendBudget {
    bytes: usize,
    left: AtomicUsize,
}

impl SendBudget {
    /// A budget of so many bytes; by default a sixteenth of the memory, where Linux's growth ends.
    pub(crate) fn new(bytes: Option<usize>) -> Self {
        let bytes = bytes.unwrap_or_else(|| memory().unwrap_or(UNKNOWN_MEMORY) / 16);
        SendBudget { bytes, left: AtomicUsize::new(bytes) }
    }

    /// Who has `held` bytes takes up to so many more, and is told how many: nobody has more than what is left, so that
    /// as many as there are have about the same, and the next one finds something.
    pub(crate) fn take(&self, held: usize, wanted: usize) -> usize {
        let mut taken = 0;
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            taken = wanted.min(left.saturating_sub(held) / 2);
            // A wish that is not granted costs the others nothing, not even the cache line.
            (taken >= LEAST.min(wanted)).then(|| left - taken)
        });
        if taken >= LEAST.min(wanted) { taken } else { 0 }
    }

    /// What who has `held` bytes should give back to others, who are short.
    pub(crate) fn excess(&self, held: usize) -> usize {
        let excess = held.saturating_sub(self.left.load(Ordering::Relaxed)) / 2;
        if excess >= LEAST { excess } else { 0 }
    }

    /// Gives back.
    pub(crate) fn release(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What is taken now.
    pub(crate) fn used(&self) -> usize {
        self.bytes - self.left.load(Ordering::Relaxed)
    }
}

/// The bytes of memory of this machine.
fn memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For queues of these sizes, whose place none takes.
    fn budgets<const N: usize>(queues: [usize; N]) -> Budgets {
        Budgets::new(queues.map(|bytes| (bytes, false)).into_iter())
    }

    fn left(budgets: &Budgets) -> [usize; 2] {
        [0, 1].map(|device| budgets.0[device].left.load(Ordering::Relaxed))
    }

    #[test]
    fn the_budget_is_shared_and_comes_back() {
        let budgets = budgets([1 << 20, 1 << 20]);
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
        let budgets = budgets([1 << 20]);
        let begun = rawtcp_proto::ConnConfig::default().recv_buffer;
        for _ in 0..100_000 {
            assert_eq!(budgets.grant(0, begun).bytes, begun);
        }
        let mut busy = budgets.grant(0, begun);
        budgets.grow(&mut busy, usize::MAX, true);
        assert_eq!(busy.bytes, begun + (1 << 20) / 8 * 5 / SHARE);
    }

    #[test]
    fn a_buffer_grows_only_as_far_as_the_budget_goes() {
        let budgets = budgets([1 << 20, 1 << 20]);
        let total = (1 << 20) / 8 * 5;
        let mut grant = budgets.grant(0, 100_000);
        budgets.grow(&mut grant, 150_000, true);
        assert_eq!((grant.bytes, left(&budgets)), (150_000, [total - 50_000, total]));
        budgets.grow(&mut grant, 150_000, true);
        budgets.grow(&mut grant, 4096, true);
        assert_eq!(grant.bytes, 150_000);
        budgets.grow(&mut grant, usize::MAX, true);
        assert_eq!(grant.bytes, 150_000 + (total - 50_000) / SHARE);
        let others: Vec<_> = (0..100).map(|_| budgets.grant(0, 1 << 20)).collect();
        let before = grant.bytes;
        budgets.grow(&mut grant, usize::MAX, true);
        assert!(grant.bytes - before < SHARE, "hardly anything is left");
        others.into_iter().for_each(|other| budgets.release(other));
        budgets.release(grant);
        assert_eq!(left(&budgets), [total, total]);
    }

    /// The packets of all of them wait in a ring that others do not help out.
    #[test]
    fn where_another_takes_over_what_busy_ones_began_with_is_counted() {
        const QUEUE: usize = 2_400_000;
        let total = QUEUE / 8 * 5;
        let budgets = Budgets::new([(QUEUE, true), (1 << 23, false)].into_iter());
        let mut grants: Vec<_> = (0..20).map(|_| budgets.grant(0, FREE)).collect();
        assert_eq!(left(&budgets)[0], total);
        // Each that is near has enough, as long as there is; one far away wants more.
        let enough = total / NEAR;
        for grant in &mut grants[..enough] {
            assert!(!budgets.grow(grant, 2 * FREE, true) && !budgets.grow(grant, 2 * FREE, false));
            assert!(!budgets.grow(grant, usize::MAX, true) && budgets.grow(grant, usize::MAX, false));
            assert_eq!((grant.bytes, grant.taken), (NEAR, NEAR));
        }
        assert_eq!(left(&budgets)[0], total - enough * NEAR);
        // The next ones find what they began with, or not even that.
        let rest = left(&budgets)[0] / FREE;
        for grant in &mut grants[enough..=enough + rest] {
            assert!(budgets.grow(grant, usize::MAX, true));
        }
        let promised: usize = grants.iter().map(|grant| grant.taken).sum();
        assert_eq!(left(&budgets)[0], total - promised);
        assert_eq!((grants[enough + rest].bytes, grants[enough + rest].taken), (FREE, 0));
        // They have what they had where there is room for it.
        assert!(grants.iter_mut().all(|grant| budgets.change(grant, 1)));
        assert_eq!(left(&budgets), [total, (1 << 23) / 8 * 5 - promised]);
        grants.into_iter().for_each(|grant| budgets.release(grant));
        assert_eq!(left(&budgets), [total, (1 << 23) / 8 * 5]);
    }

    #[test]
    fn a_grant_follows_its_connection_to_another_queue() {
        let budgets = budgets([1 << 20, 1 << 20]);
        let total = (1 << 20) / 8 * 5;
        let mut grant = budgets.grant(0, FREE + 1000);
        assert!(budgets.change(&mut grant, 1));
        assert_eq!((grant.bytes, grant.device, left(&budgets)), (FREE + 1000, 1, [total, total - 1000]));
        // Where hardly anything is left, no more is given back at the end than was there to take.
        let mut others = budgets.grant(0, FREE);
        while left(&budgets)[0] >= SHARE {
            budgets.grow(&mut others, usize::MAX, true);
        }
        let poor = left(&budgets)[0];
        assert!(!budgets.change(&mut grant, 0));
        assert_eq!((grant.bytes, left(&budgets)), (FREE + 1000, [0, total]));
        budgets.release(grant);
        budgets.release(others);
        assert_eq!(left(&budgets), [total, total], "{poor} were left");
    }

    #[test]
    fn the_send_budget_is_never_exceeded_and_comes_back() {
        let budget = SendBudget::new(Some(1 << 20));
        let mut held = [0; 7];
        for _ in 0..20 {
            for held in &mut held {
                *held += budget.take(*held, 4 << 20);
                let excess = budget.excess(*held);
                *held -= excess;
                budget.release(excess);
            }
            assert_eq!(budget.used(), held.iter().sum::<usize>());
            assert!(budget.used() <= 1 << 20);
        }
        // An eighth is left for the next.
        let fair = (1 << 20) / 8;
        assert!(held.iter().all(|held| held.abs_diff(fair) <= 2 * LEAST), "{held:?}");
        budget.release(held.iter().sum());
        // Who wants less than the least gets it.
        assert_eq!((budget.used(), budget.take(0, 100), budget.used()), (0, 100, 100));
        assert_eq!(SendBudget::new(Some(0)).take(0, 1 << 20), 0);
    }

    #[test]
    fn the_default_follows_the_memory() {
        let bytes = memory().expect("Linux says");
        assert!(bytes > 16 << 20);
        assert_eq!(SendBudget::new(None).bytes, bytes / 16);
    }
}
