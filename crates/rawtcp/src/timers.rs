//! One deadline per connection and per shard, in a heap that knows where each entry stands.
//!
//! Deadlines are re-armed lazily: arming only ever moves an entry *forward* in time. A connection whose
//! deadline moved back (every ACK does that to the RTO) is left alone; when the old deadline comes, the
//! connection is asked again. So the common case touches nothing here.

use rawtcp_proto::Instant;

/// Names an entry until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey(u32);

#[derive(Debug)]
struct Slot<T> {
    /// Where the entry stands in the heap, or `IDLE`.
    at: u32,
    deadline: Instant,
    /// `None`: the slot is free.
    target: Option<T>,
}

const IDLE: u32 = u32::MAX;

/// The heap. The target is what to do when the time has come.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    heap: Vec<u32>,
}

impl<T: Clone> Timers<T> {
    pub(crate) const fn new() -> Self {
        Timers { slots: Vec::new(), free: Vec::new(), heap: Vec::new() }
    }

    /// A new entry without a deadline.
    pub(crate) fn insert(&mut self, target: T) -> TimerKey {
        let slot = Slot { at: IDLE, deadline: Instant::ZERO, target: Some(target) };
        match self.free.pop() {
            Some(free) => {
                self.slots[free as usize] = slot;
                TimerKey(free)
            }
            None => {
                self.slots.push(slot);
                TimerKey((self.slots.len() - 1) as u32)
            }
        }
    }

    /// Takes an entry out, wherever it stands.
    pub(crate) fn remove(&mut self, key: TimerKey) -> Option<T> {
        let slot = self.slots.get_mut(key.0 as usize)?;
        let target = slot.target.take()?;
        let at = slot.at;
        if at != IDLE {
            self.take(at as usize);
        }
        self.free.push(key.0);
        Some(target)
    }

    /// Makes the entry due at `deadline`, unless it is due before that.
    pub(crate) fn arm(&mut self, key: TimerKey, deadline: Instant) {
        let Some(slot) = self.slots.get_mut(key.0 as usize).filter(|slot| slot.target.is_some()) else { return };
        if slot.at == IDLE {
            slot.at = self.heap.len() as u32;
            slot.deadline = deadline;
            self.heap.push(key.0);
        } else if deadline < slot.deadline {
            slot.deadline = deadline;
        } else {
            return;
        }
        self.up(self.slots[key.0 as usize].at as usize);
    }

    /// The first deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|&slot| self.slots[slot as usize].deadline)
    }

    /// An entry whose deadline has come; it has none then.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<T> {
        let first = *self.heap.first()?;
        if self.slots[first as usize].deadline > now {
            return None;
        }
        self.take(0);
        self.slots[first as usize].target.clone()
    }

    /// Takes the entry at a place out of the heap.
    fn take(&mut self, at: usize) {
        let gone = self.heap.swap_remove(at);
        self.slots[gone as usize].at = IDLE;
        if at < self.heap.len() {
            self.slots[self.heap[at] as usize].at = at as u32;
            self.down(at);
            self.up(at);
        }
    }

    fn deadline(&self, at: usize) -> Instant {
        self.slots[self.heap[at] as usize].deadline
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.slots[self.heap[a] as usize].at = a as u32;
        self.slots[self.heap[b] as usize].at = b as u32;
    }

    fn up(&mut self, mut at: usize) {
        while at > 0 && self.deadline(at) < self.deadline((at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn down(&mut self, mut at: usize) {
        loop {
            let children = 2 * at + 1..(2 * at + 3).min(self.heap.len());
            let Some(child) = children.min_by_key(|&child| self.deadline(child)) else { return };
            if self.deadline(at) <= self.deadline(child) {
                return;
            }
            self.swap(at, child);
            at = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn arming_later_changes_nothing_and_arming_earlier_does() {
        let mut timers = Timers::new();
        let key = timers.insert('a');
        timers.arm(key, Instant::from_secs(5));
        timers.arm(key, Instant::from_secs(9));
        assert_eq!(timers.next(), Some(Instant::from_secs(5)));
        timers.arm(key, Instant::from_secs(2));
        assert_eq!(timers.pop_due(Instant::from_secs(1)), None);
        assert_eq!(timers.pop_due(Instant::from_secs(2)), Some('a'));
        assert_eq!((timers.next(), timers.pop_due(Instant::from_secs(99))), (None, None));
        assert_eq!(timers.remove(key), Some('a'));
        timers.arm(key, Instant::ZERO);
        assert_eq!((timers.remove(key), timers.next()), (None, None));
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(ops in proptest::collection::vec((0u8..4, 0usize..20, 0u64..1000), 1..400)) {
            let mut timers = Timers::new();
            let mut keys: Vec<(TimerKey, usize)> = Vec::new();
            let mut model: HashMap<usize, Option<u64>> = HashMap::new();
            let mut named = 0;
            for (op, pick, at) in ops {
                match op {
                    0 => {
                        keys.push((timers.insert(named), named));
                        model.insert(named, None);
                        named += 1;
                    }
                    1 if !keys.is_empty() => {
                        let (key, name) = keys[pick % keys.len()];
                        timers.arm(key, Instant::from_nanos(at));
                        let entry = model.get_mut(&name).unwrap();
                        *entry = Some(entry.map_or(at, |old| old.min(at)));
                    }
                    2 if !keys.is_empty() => {
                        let (key, name) = keys.swap_remove(pick % keys.len());
                        prop_assert_eq!(timers.remove(key), Some(name));
                        model.remove(&name);
                    }
                    3 => while let Some(name) = timers.pop_due(Instant::from_nanos(at)) {
                        let due = model.get_mut(&name).unwrap().take().unwrap();
                        prop_assert!(due <= at && model.values().flatten().all(|&other| other >= due));
                    },
                    _ => {}
                }
                prop_assert_eq!(timers.next(), model.values().flatten().min().map(|&n| Instant::from_nanos(n)));
            }
        }
    }
}
