//! One run of segments sent in one decision, and sets of its segments as 64-bit maps.

use super::DeliverySnapshot;
use crate::seq::{Offset, OffsetRange};
use crate::time::Instant;

/// How many segments a run holds at most: the bits of a map.
pub(super) const MAX_SEGMENTS: u32 = 64;

/// A set of segments of one run: bit *i* stands for segment *i*.
pub(super) type Map = u64;

/// Segments sent in one decision: equal in size, but for the last, which may be shorter.
///
/// Only the front run of the queue can be partly acknowledged. It is not cut then: whoever asks for bytes or
/// live segments says where SND.UNA is. Bits of acknowledged segments are always clear.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) start: Offset,
    pub(super) end: Offset,
    /// Bytes per segment.
    pub(super) segment: u32,
    /// If not 0: this run and the `hop - 1` runs behind it are wholly sacked.
    pub(super) hop: u32,
    /// Reported by the peer as received.
    pub(super) sacked: Map,
    /// Taken for lost and not sent again since. Never sacked as well.
    pub(super) lost: Map,
    /// Sent more than once.
    pub(super) retransmitted: Map,
    /// When, and in which state, the first transmission left.
    pub(super) sent_at: Instant,
    pub(super) snapshot: DeliverySnapshot,
    /// Bytes in flight before its first segment left.
    pub(super) before: u64,
    /// For each segment the last retransmission (0: none known); empty while no segment was retransmitted.
    pub(super) copies: Box<[u64]>,
}

/// Byte counts which the queue keeps for all its runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) sacked: u64,
    pub(super) lost: u64,
    /// Retransmitted and, by what is known, still in flight.
    pub(super) copies: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: Totals) {
        self.sacked += other.sacked;
        self.lost += other.lost;
        self.copies += other.copies;
    }

    pub(super) fn sub(&mut self, other: Totals) {
        self.sacked -= other.sacked;
        self.lost -= other.lost;
        self.copies -= other.copies;
    }
}

/// The map of segments `from..to`; `to` at most 64.
pub(super) fn span(from: u32, to: u32) -> Map {
    if from >= to { 0 } else { (u64::MAX >> (64 - (to - from))) << from }
}

/// The segments of a map, ascending.
pub(super) fn each(mut map: Map) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        if map == 0 {
            return None;
        }
        let bit = map.trailing_zeros();
        map &= map - 1;
        Some(bit)
    })
}

impl Run {
    /// A run of new data; at most 64 segments.
    pub(super) fn new(range: OffsetRange, segment: u32, sent_at: Instant, snapshot: DeliverySnapshot) -> Run {
        Run {
            start: range.start,
            end: range.end,
            segment,
            hop: 0,
            sacked: 0,
            lost: 0,
            retransmitted: 0,
            sent_at,
            snapshot,
            before: 0,
            copies: Box::default(),
        }
    }

    /// Nothing ever happened to it, so that it may still grow.
    pub(super) fn is_untouched(&self) -> bool {
        self.sacked | self.lost | self.retransmitted == 0 && self.copies.is_empty()
    }

    /// How many segments it has.
    pub(super) fn count(&self) -> u32 {
        self.end.since(self.start).div_ceil(u64::from(self.segment)) as u32
    }

    /// The segment that holds `at`, which lies inside.
    pub(super) fn index(&self, at: Offset) -> u32 {
        (at.since(self.start) / u64::from(self.segment)) as u32
    }

    /// Where segment `i` starts, acknowledged or not; its end is where `i + 1` starts.
    pub(super) fn boundary(&self, i: u32) -> Offset {
        self.start.add(u64::from(i) * u64::from(self.segment)).min(self.end)
    }

    /// What was in flight when segment `i` had left for the first time.
    pub(super) fn tx_in_flight(&self, i: u32) -> u64 {
        self.before + self.boundary(i + 1).since(self.start)
    }

    /// What of segment `i` is not acknowledged.
    pub(super) fn range(&self, i: u32, una: Offset) -> OffsetRange {
        self.boundary(i).max(una)..self.boundary(i + 1)
    }

    /// The segments that are not wholly acknowledged.
    pub(super) fn live(&self, una: Offset) -> Map {
        if una >= self.end {
            return 0;
        }
        span(self.index(una.max(self.start)), self.count())
    }

    /// The segments whose first and only transmission is in flight.
    pub(super) fn fresh(&self, una: Offset) -> Map {
        self.live(una) & !(self.sacked | self.lost | self.retransmitted)
    }

    /// Whether all that is not acknowledged is sacked.
    pub(super) fn is_sacked(&self, una: Offset) -> bool {
        self.live(una) & !self.sacked == 0
    }

    /// The segments whose unacknowledged bytes all lie in `range`.
    pub(super) fn covered(&self, range: &OffsetRange, una: Offset) -> Map {
        let first = match range.start {
            at if at <= una.max(self.start) => 0,
            at => at.since(self.start).div_ceil(u64::from(self.segment)),
        };
        let last = match range.end {
            at if at >= self.end => self.count(),
            at => self.index(at),
        };
        // A range that starts behind this run may give any number: there is no segment then.
        span(u32::try_from(first).unwrap_or(u32::MAX), last) & self.live(una)
    }

    /// The segments of which any unacknowledged byte lies in `range`.
    pub(super) fn overlapping(&self, range: &OffsetRange, una: Offset) -> Map {
        let (start, end) = (range.start.max(self.start), range.end.min(self.end));
        if start >= end {
            return 0;
        }
        span(self.index(start), self.index(Offset(end.0 - 1)) + 1) & self.live(una)
    }

    /// The segments that end before `limit`.
    pub(super) fn ending_before(&self, limit: Offset) -> Map {
        if limit > self.end {
            return span(0, self.count());
        }
        // Segment i ends before `limit` when the byte in front of `limit` belongs to a later one; the last,
        // shorter one ends at `self.end`, which is not before `limit` here.
        match limit.since(self.start) {
            0 => 0,
            n => span(0, ((n - 1) / u64::from(self.segment)) as u32),
        }
    }

    /// The unacknowledged bytes of these segments.
    pub(super) fn bytes(&self, map: Map, una: Offset) -> u64 {
        // Most runs are neither sacked nor lost nor sent again.
        let map = if map == 0 { 0 } else { map & self.live(una) };
        if map == 0 {
            return 0;
        }
        let mut bytes = u64::from(map.count_ones()) * u64::from(self.segment);
        let last = self.count() - 1;
        if map >> last & 1 == 1 {
            bytes -= u64::from(self.segment) - self.end.since(self.boundary(last));
        }
        let first = self.index(una.max(self.start));
        if map >> first & 1 == 1 {
            bytes -= una.since(self.boundary(first));
        }
        bytes
    }

    /// What this run contributes to the totals of the queue.
    pub(super) fn totals(&self, una: Offset) -> Totals {
        Totals {
            sacked: self.bytes(self.sacked, una),
            lost: self.bytes(self.lost, una),
            copies: self.bytes(self.retransmitted & !self.sacked & !self.lost, una),
        }
    }

    /// The last retransmission of segment `i`; 0 if there is none or it is forgotten.
    pub(super) fn copy(&self, i: u32) -> u64 {
        self.copies.get(i as usize).copied().unwrap_or(0)
    }

    /// The segments in `range` which were last sent by retransmission `id` and are in flight.
    pub(super) fn in_flight_by(&self, id: u64, range: &OffsetRange, una: Offset) -> Map {
        let may = self.overlapping(range, una) & self.retransmitted & !self.sacked & !self.lost;
        each(may).filter(|&i| self.copy(i) == id).fold(0, |map, i| map | 1 << i)
    }

    /// These segments were sent again, by retransmission `id`.
    pub(super) fn retransmit(&mut self, map: Map, id: u64) {
        if map != 0 && self.copies.is_empty() {
            self.copies = vec![0; self.count() as usize].into();
        }
        for i in each(map) {
            self.copies[i as usize] = id;
        }
        self.retransmitted |= map;
        self.lost &= !map;
    }

    /// The first stretch of segments in `map`: whole ones up to `max` bytes, or `max` bytes of the first if
    /// it is larger than that.
    pub(super) fn stretch(&self, map: Map, una: Offset, max: u64) -> Option<OffsetRange> {
        if map == 0 || max == 0 {
            return None;
        }
        let first = map.trailing_zeros();
        let start = self.range(first, una).start;
        let end = self.boundary(first + (map >> first).trailing_ones());
        let limit = Offset(start.0.saturating_add(max));
        if end <= limit {
            return Some(start..end);
        }
        let whole = self.boundary(self.index(limit));
        Some(start..if whole > start { whole } else { limit })
    }

    /// The segments `from..to` as a run of their own.
    pub(super) fn slice(&self, from: u32, to: u32) -> Run {
        let part = |map: Map| (map & span(from, to)).checked_shr(from).unwrap_or(0);
        Run {
            start: self.boundary(from),
            end: self.boundary(to),
            before: self.before + self.boundary(from).since(self.start),
            hop: 0,
            sacked: part(self.sacked),
            lost: part(self.lost),
            retransmitted: part(self.retransmitted),
            copies: self.copies.get(from as usize..to as usize).map(Box::from).unwrap_or_default(),
            ..*self
        }
    }

    /// `range`, cut anew into at most 64 segments of `segment` bytes which all share the state of segment `i`.
    pub(super) fn recut(&self, i: u32, range: OffsetRange, segment: u32) -> Run {
        let before = self.before + range.start.since(self.start);
        let mut run = Run::new(range, segment, self.sent_at, self.snapshot);
        run.before = before;
        let all = span(0, run.count());
        let spread = |map: Map| if map >> i & 1 == 1 { all } else { 0 };
        run.sacked = spread(self.sacked);
        run.lost = spread(self.lost);
        run.retransmitted = spread(self.retransmitted);
        if run.retransmitted != 0 {
            run.copies = vec![self.copy(i); run.count() as usize].into();
        }
        run
    }

    /// Whether two segments are in the same state.
    pub(super) fn alike(&self, a: u32, b: u32) -> bool {
        let same = |map: Map| map >> a & 1 == map >> b & 1;
        same(self.sacked) && same(self.lost) && same(self.retransmitted) && self.copy(a) == self.copy(b)
    }
}
