//! Sets of ports as sorted ranges.

use std::fmt;
use std::ops::RangeInclusive;

/// A set of destination ports, kept as sorted ranges that neither overlap nor touch.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct PortSet {
    /// First and last port of each range.
    ranges: Vec<(u16, u16)>,
}

impl PortSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Every port from 0 to 65535.
    pub fn all() -> Self {
        Self { ranges: vec![(0, u16::MAX)] }
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = RangeInclusive<u16>> + '_ {
        self.ranges.iter().map(|&(first, last)| first..=last)
    }

    /// Whether the port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= port);
        after > 0 && port <= self.ranges[after - 1].1
    }

    /// Adds a port; `false` if it was there.
    pub fn insert(&mut self, port: u16) -> bool {
        if self.contains(port) {
            return false;
        }
        self.insert_range(port..=port);
        true
    }

    /// Adds all ports of a range.
    pub fn insert_range(&mut self, ports: RangeInclusive<u16>) {
        if ports.is_empty() {
            return;
        }
        let (mut first, mut last) = ports.into_inner();
        // In u32, so that "touches" needs no care at 65535.
        let begin = self.ranges.partition_point(|range| u32::from(range.1) + 1 < u32::from(first));
        let end = self.ranges.partition_point(|range| u32::from(range.0) <= u32::from(last) + 1);
        if begin < end {
            first = first.min(self.ranges[begin].0);
            last = last.max(self.ranges[end - 1].1);
        }
        self.ranges.splice(begin..end, [(first, last)]);
    }

    /// Removes a port; `false` if it was not there.
    pub fn remove(&mut self, port: u16) -> bool {
        if !self.contains(port) {
            return false;
        }
        let at = self.ranges.partition_point(|&(first, _)| first <= port) - 1;
        let (first, last) = self.ranges[at];
        let left = (first < port).then(|| (first, port - 1));
        let right = (port < last).then(|| (port + 1, last));
        self.ranges.splice(at..=at, left.into_iter().chain(right));
        true
    }

    /// The smallest superset, by number of added ports, with at most `max` ranges: the narrowest gaps are filled.
    pub fn coarsened(&self, max: usize) -> Self {
        if self.ranges.len() <= max || max == 0 {
            return self.clone();
        }
        let mut gaps: Vec<(u16, usize)> =
            self.ranges.windows(2).enumerate().map(|(i, pair)| (pair[1].0 - pair[0].1, i + 1)).collect();
        gaps.sort_unstable_by(|a, b| b.cmp(a));
        let mut starts: Vec<usize> = gaps[..max - 1].iter().map(|&(_, start)| start).collect();
        starts.push(0);
        starts.sort_unstable();
        let ends = starts.iter().skip(1).copied().chain([self.ranges.len()]);
        let ranges = starts.iter().zip(ends).map(|(&from, to)| (self.ranges[from].0, self.ranges[to - 1].1));
        Self { ranges: ranges.collect() }
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<T: IntoIterator<Item = u16>>(ports: T) -> Self {
        let mut set = Self::new();
        set.extend(ports);
        set
    }
}

impl Extend<u16> for PortSet {
    fn extend<T: IntoIterator<Item = u16>>(&mut self, ports: T) {
        for port in ports {
            self.insert(port);
        }
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.ranges()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(set: &PortSet) -> Vec<(u16, u16)> {
        set.ranges().map(RangeInclusive::into_inner).collect()
    }

    #[test]
    fn neighbours_join_and_removal_splits() {
        let mut set: PortSet = [5, 7, 6, 65535, 0, 65534].into_iter().collect();
        assert_eq!(ranges(&set), [(0, 0), (5, 7), (65534, 65535)]);
        assert!(!set.insert(6));
        assert!(set.remove(6) && !set.remove(6));
        assert_eq!(ranges(&set), [(0, 0), (5, 5), (7, 7), (65534, 65535)]);
        set.insert_range(1..=65533);
        assert_eq!(set, PortSet::all());
    }

    #[test]
    fn agrees_with_a_bitmap() {
        let (mut set, mut bits, mut x) = (PortSet::new(), [false; 64], 12345_u32);
        for _ in 0..20_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (port, other) = ((x >> 26) as u16, (x >> 20 & 7) as u16);
            match x >> 16 & 3 {
                0 => assert_eq!(set.insert(port), !std::mem::replace(&mut bits[usize::from(port)], true)),
                1 | 2 => assert_eq!(set.remove(port), std::mem::replace(&mut bits[usize::from(port)], false)),
                _ => {
                    let last = (port + other).min(63);
                    set.insert_range(port..=last);
                    bits[usize::from(port)..=usize::from(last)].fill(true);
                }
            }
            assert!((0..64).all(|port| set.contains(port) == bits[usize::from(port)]));
            assert!(set.ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{set:?}");
        }
    }

    #[test]
    fn coarsening_fills_the_narrowest_gaps() {
        let set: PortSet = [10, 12, 20, 100, 103].into_iter().collect();
        assert_eq!(ranges(&set.coarsened(2)), [(10, 20), (100, 103)]);
        assert_eq!(ranges(&set.coarsened(3)), [(10, 12), (20, 20), (100, 103)]);
        assert_eq!(set.coarsened(5), set);
        assert_eq!(ranges(&set.coarsened(1)), [(10, 103)]);
    }
}
