//! Marking by rule rather than by time: NewReno, the retransmission timeout, undo, reneging. And the recount.

use super::SentQueue;
use super::run::{Totals, each};
use crate::seq::Offset;

impl SentQueue {
    /// Marks the first segment that is not sacked: fast retransmit and NewReno's partial acknowledgments
    /// (RFC 6582 §3.2), or the head alone after a timeout. Returns the bytes newly marked; a segment already
    /// sent again is marked anew.
    pub fn mark_first_lost(&mut self) -> u64 {
        let at = self.skip_sacked(0);
        let Some(run) = self.runs.get(at) else { return 0 };
        let open = run.live(self.una) & !run.sacked;
        let lost = self.totals.lost;
        self.edit(at, |run| run.lost |= open & open.wrapping_neg());
        self.totals.lost - lost
    }

    /// Marks everything that is not sacked (RFC 6675 §5.1, RFC 8985 §6.3): the retransmission timeout. What was
    /// sacked stays so; see [`SentQueue::forget_sacks`]. Returns the bytes newly marked.
    pub fn mark_all_lost(&mut self) -> u64 {
        let lost = self.totals.lost;
        let una = self.una;
        for at in 0..self.runs.len() {
            self.edit(at, |run| run.lost = run.live(una) & !run.sacked);
        }
        self.fresh = self.runs.len();
        if let Some(copies) = self.copies.touched() {
            copies.cursor = copies.queue.len();
        }
        self.totals.lost - lost
    }

    /// Undo: what was marked and not sent again is in flight after all, and loss detection looks at it again.
    ///
    /// A retransmitted segment that was sacked and then forgotten stays lost: its sending time is gone, and loss
    /// detection would never reach it.
    pub fn unmark_lost(&mut self) {
        let starts: Vec<Offset> = self.lost_runs.iter().copied().collect();
        for start in starts {
            let at = self.find(start);
            self.edit(at, |run| {
                let gone = each(run.lost & run.retransmitted).filter(|&i| run.copy(i) == 0);
                run.lost = gone.fold(0, |map, i| map | 1 << i);
            });
        }
        self.fresh = 0;
        if let Some(copies) = self.copies.touched() {
            copies.cursor = 0;
        }
    }

    /// The peer has dropped what it had reported (reneging, RFC 2018 §8): nothing counts as sacked any more, and
    /// what did is lost. Returns those bytes.
    pub fn forget_sacks(&mut self) -> u64 {
        let bytes = self.totals.sacked;
        for at in 0..self.runs.len() {
            self.edit(at, |run| {
                // Their retransmissions ended with the delivery.
                for i in each(run.sacked & run.retransmitted) {
                    run.copies[i as usize] = 0;
                }
                run.lost |= run.sacked;
                run.sacked = 0;
                run.hop = 0;
            });
        }
        self.fack = self.una;
        bytes
    }

    /// Counts everything anew and panics where it differs. Walks the whole queue: for tests and debug builds.
    pub fn check_invariants(&self) {
        let (mut at, mut totals, mut sent_at) = (self.una, Totals::default(), None);
        let mut live = std::collections::BTreeMap::new();
        for (index, run) in self.runs.iter().enumerate() {
            assert!(run.start <= at && at < run.end, "runs cover [una, nxt) without a gap");
            assert!(run.start == at || index == 0, "only the first run is partly acknowledged");
            assert!((1..=super::MAX_SEGMENTS).contains(&run.count()));
            assert!(sent_at <= Some(run.sent_at), "runs are in send order");
            assert_eq!(run.sacked & run.lost, 0);
            let bits = run.sacked | run.lost | run.retransmitted;
            assert_eq!(bits & !run.live(self.una), 0, "no bits without a live segment");
            assert_eq!(run.lost != 0, self.lost_runs.contains(&run.start));
            assert!(index >= self.fresh || run.fresh(self.una) == 0, "nothing fresh before the cursor");
            let hop = self.runs.range(index..).take(run.hop as usize);
            assert!(hop.clone().all(|run| run.is_sacked(self.una)) && hop.len() == run.hop as usize);
            for i in each(run.retransmitted & !run.sacked) {
                assert!(run.copy(i) != 0 || run.lost >> i & 1 == 1, "in flight, but sent by nothing");
                *live.entry(run.copy(i)).or_insert(0) += 1;
            }
            totals.add(run.totals(self.una));
            (at, sent_at) = (run.end, Some(run.sent_at));
        }
        assert_eq!((at, totals), (self.nxt, self.totals));
        let with_lost = self.runs.iter().filter(|run| run.lost != 0).count();
        assert_eq!(self.lost_runs.len(), with_lost);
        live.remove(&0);
        let mut last = None;
        for (index, copy) in self.copies.queue.iter().enumerate() {
            assert!(last < Some((copy.sent_at, copy.id)), "retransmissions are in send order");
            assert_eq!(live.remove(&copy.id).unwrap_or(0), copy.live);
            let pending = self.runs.iter().any(|run| run.in_flight_by(copy.id, &copy.range, self.una) != 0);
            assert!(index >= self.copies.cursor || !pending, "nothing in flight before the cursor");
            last = Some((copy.sent_at, copy.id));
        }
        assert!(live.is_empty(), "every retransmission of an undelivered segment is known");
    }
}
