//! The retransmissions in the order they left; each points back by its range.

use super::DeliverySnapshot;
use crate::cold::Idle;
use crate::seq::OffsetRange;
use crate::time::Instant;
use std::collections::VecDeque;

/// One decision to send a range again.
#[derive(Clone, Debug)]
pub(super) struct Retransmission {
    /// Ascending from 1; the segments it was the last to send name it in [`super::run::Run::copies`].
    pub(super) id: u64,
    pub(super) range: OffsetRange,
    pub(super) sent_at: Instant,
    pub(super) snapshot: DeliverySnapshot,
    /// Bytes in flight once it had left.
    pub(super) in_flight: u64,
    /// How many segments were last sent by this one and are not delivered.
    pub(super) live: u32,
}

/// All retransmissions that some undelivered segment still needs.
#[derive(Clone, Debug)]
pub(super) struct Retransmissions {
    pub(super) queue: VecDeque<Retransmission>,
    /// Nothing before this index has a segment in flight that is not marked lost.
    pub(super) cursor: usize,
    /// Entries with `live == 0` that are still queued.
    dead: usize,
    last_id: u64,
}

impl Idle for Retransmissions {
    const BEGIN: Self = Retransmissions::new();

    fn idle() -> &'static Self {
        const { &Retransmissions::new() }
    }
}

impl Retransmissions {
    const fn new() -> Self {
        Retransmissions { queue: VecDeque::new(), cursor: 0, dead: 0, last_id: 0 }
    }

    /// The id of the next retransmission.
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn push(&mut self, entry: Retransmission) {
        self.queue.push_back(entry);
    }

    pub(super) fn get(&self, id: u64) -> Option<&Retransmission> {
        self.position(id).map(|at| &self.queue[at])
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.queue.binary_search_by_key(&id, |r| r.id).ok()
    }

    /// A segment of this retransmission became two.
    pub(super) fn duplicate(&mut self, id: u64) {
        if let Some(at) = self.position(id) {
            self.queue[at].live += 1;
        }
    }

    /// A segment of this retransmission was delivered or sent once more.
    pub(super) fn release(&mut self, id: u64) {
        let Some(at) = self.position(id) else { return };
        let entry = &mut self.queue[at];
        debug_assert!(entry.live > 0, "retransmission {id} released once too often");
        entry.live = entry.live.saturating_sub(1);
        self.dead += usize::from(entry.live == 0);
        while self.queue.front().is_some_and(|r| r.live == 0) {
            self.queue.pop_front();
            self.dead -= 1;
            self.cursor = self.cursor.saturating_sub(1);
        }
        // One old entry at the front must not keep any number of dead ones behind it: with this the queue
        // is at most about twice as long as what it is needed for, at constant cost on average.
        if self.dead > 16 && self.dead > self.queue.len() / 2 {
            self.purge();
        }
    }

    fn purge(&mut self) {
        let before = self.queue.iter().take(self.cursor).filter(|r| r.live == 0).count();
        self.cursor -= before;
        self.queue.retain(|r| r.live > 0);
        self.dead = 0;
    }

    /// Counts all live segments anew: `ids` are those their last retransmissions have.
    pub(super) fn recount(&mut self, ids: impl Iterator<Item = u64>) {
        for entry in &mut self.queue {
            entry.live = 0;
        }
        for id in ids {
            self.duplicate(id);
        }
        self.cursor = 0;
        self.purge();
    }
}
