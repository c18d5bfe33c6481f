//! A set of offsets, kept as ranges that neither overlap nor touch.

use crate::seq::{Offset, OffsetRange};
use std::collections::{BTreeMap, btree_map};
use std::ops::Bound::{Excluded, Included};

/// A set of [`Offset`]s as maximal ranges in order: looked up in O(log n), n the number of ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start → end.
    runs: BTreeMap<Offset, Offset>,
    total: u64,
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        RangeSet { runs: BTreeMap::new(), total: 0 }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The number of ranges.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// The number of offsets in the set.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The ranges in ascending order; there is a gap between any two.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = OffsetRange> + '_ {
        self.runs.iter().map(|(&start, &end)| start..end)
    }

    /// The lowest range.
    pub fn first(&self) -> Option<OffsetRange> {
        self.runs.first_key_value().map(|(&start, &end)| start..end)
    }

    /// The highest range.
    pub fn last(&self) -> Option<OffsetRange> {
        self.runs.last_key_value().map(|(&start, &end)| start..end)
    }

    /// Whether `at` is in the set.
    pub fn contains(&self, at: Offset) -> bool {
        self.covering(at).is_some()
    }

    /// The whole range that `at` is in.
    pub fn covering(&self, at: Offset) -> Option<OffsetRange> {
        let (&start, &end) = self.runs.range(..=at).next_back()?;
        (at < end).then_some(start..end)
    }

    /// Whether the set holds an offset of `range` or one right beside it, so that inserting `range`
    /// would not make one range more.
    pub fn touches(&self, range: &OffsetRange) -> bool {
        self.runs.range(..=range.end).next_back().is_some_and(|(_, &end)| end >= range.start)
    }

    /// The lowest part of `range` that is in the set.
    pub fn first_overlap(&self, range: &OffsetRange) -> Option<OffsetRange> {
        if range.is_empty() {
            return None;
        }
        let start = match self.covering(range.start) {
            Some(_) => range.start,
            None => *self.runs.range(range.start..range.end).next()?.0,
        };
        let end = self.covering(start)?.end.min(range.end);
        Some(start..end)
    }

    /// The parts of `within` that are not in the set, in ascending order.
    pub fn gaps(&self, within: OffsetRange) -> Gaps<'_> {
        let end = within.end.max(within.start);
        let start = self.covering(within.start).map_or(within.start, |run| run.end.min(end));
        Gaps { runs: self.runs.range(start..end), at: start, end }
    }

    /// Adds `range`; returns how many of its offsets were not in the set before.
    pub fn insert(&mut self, range: OffsetRange) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let mut merged = range.clone();
        let mut held = 0;
        if let Some((&start, &end)) = self.runs.range(..=range.start).next_back()
            && end >= range.start
        {
            if end >= range.end {
                return 0;
            }
            merged.start = start;
            held += end.since(start);
        }
        while let Some((&start, &end)) = self.runs.range((Excluded(merged.start), Included(range.end))).next() {
            self.runs.remove(&start);
            held += end.since(start);
            merged.end = merged.end.max(end);
        }
        let added = merged.end.since(merged.start) - held;
        self.runs.insert(merged.start, merged.end);
        self.total += added;
        added
    }

    /// Takes everything before `at` out of the set.
    pub fn remove_below(&mut self, at: Offset) {
        while let Some(entry) = self.runs.first_entry() {
            let start = *entry.key();
            if start >= at {
                break;
            }
            let end = entry.remove();
            self.total -= at.min(end).since(start);
            if end > at {
                self.runs.insert(at, end);
            }
        }
    }

    /// Takes the lowest range out of the set if it begins at or before `at`.
    pub fn pop_first_from(&mut self, at: Offset) -> Option<OffsetRange> {
        let entry = self.runs.first_entry().filter(|entry| *entry.key() <= at)?;
        let (start, end) = entry.remove_entry();
        self.total -= end.since(start);
        Some(start..end)
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        *self = RangeSet::new();
    }
}

/// The gaps of a [`RangeSet`] within a range: [`RangeSet::gaps`].
#[derive(Clone, Debug)]
pub struct Gaps<'a> {
    runs: btree_map::Range<'a, Offset, Offset>,
    at: Offset,
    end: Offset,
}

impl Iterator for Gaps<'_> {
    type Item = OffsetRange;

    fn next(&mut self) -> Option<OffsetRange> {
        if self.at >= self.end {
            return None;
        }
        let from = self.at;
        match self.runs.next() {
            Some((&start, &end)) => {
                self.at = end;
                Some(from..start)
            }
            None => {
                self.at = self.end;
                Some(from..self.end)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::Range;

    const SPACE: usize = 96;

    fn range(start: u64, end: u64) -> OffsetRange {
        Offset(start)..Offset(end)
    }

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        let mut set = RangeSet::new();
        for &(start, end) in ranges {
            set.insert(range(start, end));
        }
        set
    }

    fn list(set: &RangeSet) -> Vec<(u64, u64)> {
        set.iter().map(|r| (r.start.0, r.end.0)).collect()
    }

    /// The maximal ranges of `want` in a bitmap.
    fn ranges_of(bits: &[bool], want: bool, from: usize, to: usize) -> Vec<OffsetRange> {
        let mut out: Vec<OffsetRange> = Vec::new();
        for i in (from..to).filter(|&i| bits[i] == want) {
            match out.last_mut() {
                Some(last) if last.end.0 == i as u64 => last.end = Offset(i as u64 + 1),
                _ => out.push(range(i as u64, i as u64 + 1)),
            }
        }
        out
    }

    #[test]
    fn insertion_edges() {
        let held = [(10, 20), (30, 40)];
        for (name, new, added, expected) in [
            ("apart on the left", (2, 5), 3, vec![(2, 5), (10, 20), (30, 40)]),
            ("touching on the left", (5, 10), 5, vec![(5, 20), (30, 40)]),
            ("overlapping on the left", (5, 15), 5, vec![(5, 20), (30, 40)]),
            ("touching on the right", (20, 25), 5, vec![(10, 25), (30, 40)]),
            ("overlapping on the right", (15, 25), 5, vec![(10, 25), (30, 40)]),
            ("contained", (12, 18), 0, vec![(10, 20), (30, 40)]),
            ("equal", (10, 20), 0, vec![(10, 20), (30, 40)]),
            ("covering", (5, 25), 10, vec![(5, 25), (30, 40)]),
            ("exactly the gap", (20, 30), 10, vec![(10, 40)]),
            ("inside the gap", (23, 27), 4, vec![(10, 20), (23, 27), (30, 40)]),
            ("spanning both", (5, 50), 25, vec![(5, 50)]),
            ("from one into the other", (15, 35), 10, vec![(10, 40)]),
            ("same start, longer", (10, 25), 5, vec![(10, 25), (30, 40)]),
            ("empty", (25, 25), 0, vec![(10, 20), (30, 40)]),
        ] {
            let mut set = set(&held);
            assert_eq!(set.insert(range(new.0, new.1)), added, "{name}");
            assert_eq!(list(&set), expected, "{name}");
        }
    }

    #[test]
    fn empty_and_reversed_ranges_have_no_gaps() {
        let set = set(&[(10, 20)]);
        assert_eq!(set.gaps(range(12, 12)).count(), 0);
        assert_eq!(set.gaps(range(25, 25)).count(), 0);
        assert_eq!(set.gaps(Range { start: Offset(25), end: Offset(5) }).count(), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(
            steps in prop::collection::vec((0..SPACE, 0..24usize, 0..10u8), 1..60),
            probe in (0..SPACE, 0..SPACE),
        ) {
            let mut set = RangeSet::new();
            let mut bits = [false; SPACE];
            for (start, len, what) in steps {
                let end = (start + len).min(SPACE);
                match what {
                    0 => {
                        set.remove_below(Offset(start as u64));
                        bits[..start].fill(false);
                    }
                    1 => {
                        let popped = set.pop_first_from(Offset(start as u64));
                        let expected = ranges_of(&bits, true, 0, SPACE).into_iter().next()
                            .filter(|r| r.start.0 <= start as u64);
                        prop_assert_eq!(&popped, &expected);
                        if let Some(r) = popped {
                            bits[r.start.0 as usize..r.end.0 as usize].fill(false);
                        }
                    }
                    _ => {
                        let new = bits[start..end].iter().filter(|&&b| !b).count() as u64;
                        let r = range(start as u64, end as u64);
                        let before = set.len();
                        let touches = set.touches(&r);
                        prop_assert_eq!(set.first_overlap(&r), ranges_of(&bits, true, start, end).into_iter().next());
                        prop_assert_eq!(set.insert(r), new);
                        prop_assert!(len == 0 || touches == (set.len() <= before));
                        bits[start..end].fill(true);
                    }
                }
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), ranges_of(&bits, true, 0, SPACE));
                prop_assert_eq!(set.total(), bits.iter().filter(|&&b| b).count() as u64);
                prop_assert_eq!(set.first(), set.iter().next());
                prop_assert_eq!(set.last(), set.iter().next_back());
            }
            for (i, &bit) in bits.iter().enumerate() {
                prop_assert_eq!(set.contains(Offset(i as u64)), bit);
            }
            let (from, to) = (probe.0.min(probe.1), probe.0.max(probe.1));
            let gaps: Vec<_> = set.gaps(range(from as u64, to as u64)).collect();
            prop_assert_eq!(gaps, ranges_of(&bits, false, from, to));
        }
    }
}
