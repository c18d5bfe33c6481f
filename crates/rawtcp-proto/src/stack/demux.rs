//! Four-tuple → what is known of it, and the bounded, timed records behind the small entries.
//!
//! The hash is keyed (SipHash-1-3): a peer that chooses its addresses and ports can not choose its bucket.

use super::isn::derive;
use crate::time::Instant;
use crate::wire::FourTuple;
use siphasher::sip::SipHasher13;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::SocketAddr;

/// What identifies a connection, as bytes: one write instead of a dozen into the hash.
pub(super) struct TupleBytes {
    bytes: [u8; 44],
    len: usize,
}

impl TupleBytes {
    /// Unambiguous for tuples of one family: the two families differ in length, which SipHash covers.
    pub(super) fn of(tuple: &FourTuple) -> Self {
        let mut all = TupleBytes { bytes: [0; 44], len: 0 };
        all.end(&tuple.local);
        all.end(&tuple.remote);
        all
    }

    fn end(&mut self, end: &SocketAddr) {
        match end {
            SocketAddr::V4(a) => self.push(&a.ip().octets()),
            SocketAddr::V6(a) => {
                self.push(&a.ip().octets());
                self.push(&a.scope_id().to_be_bytes());
            }
        }
        self.push(&end.port().to_be_bytes());
    }

    fn push(&mut self, part: &[u8]) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A keyed hash of four-tuples, for callers that spread stacks over shards.
///
/// Its key is independent of the one inside a [`Stack`](super::Stack) with the same seed, so that the
/// connections of one shard still fill all the buckets of its table.
#[derive(Clone, Debug)]
pub struct TupleHasher {
    hasher: SipHasher13,
}

impl TupleHasher {
    /// A hash whose key is derived from the seed.
    pub fn new(seed: &[u8; 32]) -> Self {
        TupleHasher { hasher: keyed(seed, b"shard") }
    }

    /// The hash of a four-tuple.
    pub fn hash(&self, tuple: &FourTuple) -> u64 {
        self.hasher.hash(TupleBytes::of(tuple).as_slice())
    }
}

fn keyed(seed: &[u8; 32], label: &[u8]) -> SipHasher13 {
    let (k0, k1) = derive(seed, label);
    SipHasher13::new_with_keys(k0, k1)
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(FourTuple);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(TupleBytes::of(&self.0).as_slice());
    }
}

struct KeyedState(SipHasher13);

impl BuildHasher for KeyedState {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        self.0
    }
}

/// What stands behind a four-tuple.
pub(super) enum Entry<C> {
    /// SYN-RECEIVED, from LISTEN.
    Half(Slot),
    /// A connection that the caller keeps.
    Conn(C),
    /// TIME-WAIT.
    TimeWait(Slot),
}

/// The table of one shard.
pub(super) struct Table<C> {
    entries: HashMap<Key, Entry<C>, KeyedState>,
}

impl<C> Table<C> {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Table { entries: HashMap::with_hasher(KeyedState(keyed(seed, b"table"))) }
    }

    pub(super) fn get(&self, tuple: &FourTuple) -> Option<&Entry<C>> {
        self.entries.get(&Key(*tuple))
    }

    pub(super) fn insert(&mut self, tuple: FourTuple, entry: Entry<C>) -> Option<Entry<C>> {
        self.entries.insert(Key(tuple), entry)
    }

    pub(super) fn remove(&mut self, tuple: &FourTuple) -> Option<Entry<C>> {
        self.entries.remove(&Key(*tuple))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = (&FourTuple, &C)> {
        self.entries.iter().filter_map(|(key, entry)| match entry {
            Entry::Conn(c) => Some((&key.0, c)),
            _ => None,
        })
    }
}

/// The place of a record in its [`Records`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

/// A record with the tuple that leads to it and the time at which something is due.
pub(super) struct Record<T> {
    pub(super) tuple: FourTuple,
    deadline: Instant,
    pub(super) value: T,
}

/// Records in slots, ordered by deadline: every operation is O(log n) and exact, however often a peer
/// makes a record start its timer again.
pub(super) struct Records<T> {
    slots: Vec<Option<Record<T>>>,
    free: Vec<Slot>,
    due: BTreeSet<(Instant, Slot)>,
}

impl<T> Records<T> {
    pub(super) const fn new() -> Self {
        Records { slots: Vec::new(), free: Vec::new(), due: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    pub(super) fn insert(&mut self, tuple: FourTuple, deadline: Instant, value: T) -> Slot {
        let record = Some(Record { tuple, deadline, value });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot.0 as usize] = record;
                slot
            }
            None => {
                self.slots.push(record);
                Slot((self.slots.len() - 1) as u32)
            }
        };
        self.due.insert((deadline, slot));
        slot
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Record<T>> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Record<T>> {
        let record = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.due.remove(&(record.deadline, slot));
        if self.due.is_empty() {
            // A flood is over: give its memory back.
            self.slots = Vec::new();
            self.free = Vec::new();
        } else {
            self.free.push(slot);
        }
        Some(record)
    }

    pub(super) fn reschedule(&mut self, slot: Slot, deadline: Instant) {
        if let Some(Some(record)) = self.slots.get_mut(slot.0 as usize) {
            self.due.remove(&(record.deadline, slot));
            record.deadline = deadline;
            self.due.insert((deadline, slot));
        }
    }

    /// The record whose deadline is next.
    pub(super) fn first(&self) -> Option<(Instant, Slot)> {
        self.due.first().copied()
    }

    /// The slots of the records that the predicate picks, in order of their deadlines.
    pub(super) fn slots_where(&self, mut pick: impl FnMut(&T) -> bool) -> Vec<Slot> {
        let picked = |slot: &Slot| self.slots[slot.0 as usize].as_ref().is_some_and(|r| pick(&r.value));
        self.due.iter().map(|(_, slot)| *slot).filter(picked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use proptest::prelude::*;

    fn tuple(local: &str, remote: &str) -> FourTuple {
        FourTuple::new(local.parse().unwrap(), remote.parse().unwrap())
    }

    #[test]
    fn every_part_of_a_tuple_counts() {
        let hasher = TupleHasher::new(&[7; 32]);
        let tuples = [
            tuple("10.0.0.1:80", "10.0.0.2:9000"),
            tuple("10.0.0.2:80", "10.0.0.1:9000"),
            tuple("10.0.0.1:9000", "10.0.0.2:80"),
            tuple("10.0.0.1:80", "10.0.0.2:9001"),
            tuple("10.0.0.1:80", "10.0.0.3:9000"),
            tuple("[fe80::1%1]:80", "[fe80::2%1]:9000"),
            tuple("[fe80::1%2]:80", "[fe80::2%2]:9000"),
        ];
        for (i, a) in tuples.iter().enumerate() {
            for b in &tuples[..i] {
                assert_ne!(hasher.hash(a), hasher.hash(b), "{a:?} {b:?}");
            }
        }
        assert_ne!(hasher.hash(&tuples[0]), TupleHasher::new(&[8; 32]).hash(&tuples[0]));
    }

    #[test]
    fn an_empty_set_of_records_holds_no_memory() {
        let mut records = Records::new();
        let slots: Vec<_> =
            (0..100).map(|i| records.insert(tuple("1.1.1.1:1", "2.2.2.2:2"), Instant::from_secs(i), ())).collect();
        assert!(slots.into_iter().all(|slot| records.remove(slot).is_some()));
        assert_eq!((records.slots.capacity(), records.free.capacity(), records.len()), (0, 0, 0));
    }

    proptest! {
        #[test]
        fn records_keep_the_order_of_deadlines(ops in proptest::collection::vec((0u8..3, 0u64..50, 0usize..8), 1..200)) {
            let mut records = Records::new();
            let mut model: Vec<(Instant, Slot, u64)> = Vec::new();
            let t = tuple("1.1.1.1:1", "2.2.2.2:2");
            for (n, (op, at, which)) in ops.into_iter().enumerate() {
                let at = Instant::ZERO + Duration::from_secs(at);
                match (op, model.len()) {
                    (0, _) | (_, 0) => model.push((at, records.insert(t, at, n as u64), n as u64)),
                    (1, len) => {
                        let (_, slot, value) = model.swap_remove(which % len);
                        prop_assert_eq!(records.remove(slot).map(|r| r.value), Some(value));
                    }
                    (_, len) => {
                        model[which % len].0 = at;
                        records.reschedule(model[which % len].1, at);
                    }
                }
                prop_assert_eq!(records.len(), model.len());
                prop_assert_eq!(records.first().map(|f| f.0), model.iter().map(|m| m.0).min());
                for (_, slot, value) in &model {
                    prop_assert_eq!(records.get_mut(*slot).map(|r| r.value), Some(*value));
                }
            }
        }
    }
}
