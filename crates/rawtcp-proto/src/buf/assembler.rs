//! Data that arrived out of order, until the gap before it is filled.

use super::{RangeSet, RecvBuffer, Storage};
use crate::cold::Idle;
use crate::seq::{Offset, OffsetRange};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What one piece costs beside its bytes: its node, its range, and what the allocator adds.
const PIECE_OVERHEAD: usize = 128;
/// Pieces are allocated in multiples of this.
const PIECE_UNIT: usize = 64;
/// A run that goes on arriving gets pieces of twice the last size, up to this.
const MAX_PIECE: usize = 16 * 1024;
/// How many ranges the order of change is known for; a segment reports four at most (RFC 2018 §3).
const RECENT: usize = 8;

/// What became of a segment's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// All of it was new, and is kept.
    Stored,
    /// Some of it, or all, was here before; what was new is kept. This is the first such range, for a
    /// duplicate SACK (RFC 2883 §4).
    Duplicate(OffsetRange),
    /// It would have exceeded a limit, or lies behind the peer's own FIN. Nothing changed.
    Refused,
}

/// The reassembly queue: disjoint ranges of sequence space with their bytes. Where segments overlap,
/// the bytes that arrived first stay.
///
/// While it is not empty, let in-order segments pass through it too ([`Assembler::insert`] and then
/// [`Assembler::take_ready`]): else their bytes would win over those that came before them.
#[derive(Debug)]
pub struct Assembler {
    /// The bytes: disjoint pieces; a range may consist of many.
    pieces: BTreeMap<Offset, Storage>,
    /// The sequence space that is here, a FIN included.
    ranges: RangeSet,
    /// Starts of the ranges that changed last, the last one first.
    recent: Recent,
    fin_at: Option<Offset>,
    charged: usize,
}

impl Idle for Assembler {
    const BEGIN: Self = Assembler::new();

    fn idle() -> &'static Self {
        const { &Assembler::new() }
    }
}

impl Default for Assembler {
    fn default() -> Self {
        Self::new()
    }
}

impl Assembler {
    /// An empty queue without memory.
    pub const fn new() -> Self {
        Assembler {
            pieces: BTreeMap::new(),
            ranges: RangeSet::new(),
            recent: Recent { starts: [Offset(0); RECENT], len: 0 },
            fin_at: None,
            charged: 0,
        }
    }

    /// Whether nothing is out of order.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The bytes of memory that are held, with an allowance for each piece.
    pub fn charged(&self) -> usize {
        self.charged
    }

    /// How many ranges there are.
    pub fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// The first offset that is here: what arrives before it is new.
    pub fn first(&self) -> Option<Offset> {
        self.ranges.first().map(|range| range.start)
    }

    /// The offset of the FIN, if one went through here. It stays known when the data before it is
    /// taken: the stream has ended once RCV.NXT reaches it.
    pub fn fin_at(&self) -> Option<Offset> {
        self.fin_at
    }

    /// Keeps `data`, which begins at `at`, and with `fin` the FIN behind it, as far as they are not here
    /// yet. `owner` is what `data` lies in, if it may be kept alive.
    ///
    /// At most `limit_ranges` ranges and `limit_charge` bytes of memory are held. What would exceed them
    /// is refused as a whole; what is here stays, because a SACK may have told the peer so.
    pub fn insert(
        &mut self,
        at: Offset,
        data: &[u8],
        owner: Option<&Bytes>,
        fin: bool,
        limit_ranges: usize,
        limit_charge: usize,
    ) -> Inserted {
        let Some((data, fin)) = self.before_fin(at, data, fin) else { return Inserted::Refused };
        let fin_at = at.add(data.len() as u64);
        let range = at..fin_at.add(u64::from(fin));
        if range.is_empty() {
            return Inserted::Stored;
        }
        let text = Text { at, data, owner };
        let cost: usize = self.ranges.gaps(range.clone()).map(|gap| text.cost(&self.pieces, &gap)).sum();
        let room = self.ranges.len() < limit_ranges || self.ranges.touches(&range);
        if !room || (cost > 0 && self.charged.saturating_add(cost) > limit_charge) {
            return Inserted::Refused;
        }
        let duplicate = self.ranges.first_overlap(&range);
        for gap in self.ranges.gaps(range.clone()) {
            self.charged += text.store(&mut self.pieces, &gap);
        }
        self.ranges.insert(range);
        if fin {
            self.fin_at = Some(fin_at);
        }
        if let Some(whole) = self.ranges.covering(at) {
            self.recent.changed(whole);
        }
        duplicate.map_or(Inserted::Stored, Inserted::Duplicate)
    }

    /// Moves what continues at `next` (RCV.NXT) to the end of `into`, and drops what lies before it.
    /// Returns the new RCV.NXT, which does not count a FIN: see [`Assembler::fin_at`].
    pub fn take_ready(&mut self, next: Offset, into: &mut RecvBuffer) -> Offset {
        let mut end = next;
        while let Some(range) = self.ranges.pop_first_from(end) {
            let behind = match self.fin_at {
                Some(fin) if range.end > fin => fin,
                _ => range.end,
            };
            end = end.max(behind);
        }
        while let Some(piece) = self.pieces.first_entry().filter(|piece| *piece.key() < end) {
            let (start, storage) = piece.remove_entry();
            self.charged -= storage.charge() + PIECE_OVERHEAD;
            let skip = next.since(start) as usize;
            if skip < storage.len() {
                into.append_storage(storage, skip);
            }
        }
        self.recent.remove_below(end);
        end
    }

    /// The ranges, a FIN included, for SACK blocks: the one that changed last first (RFC 2018 §4). The
    /// order of change is known for the first eight; the rest, if any, ascend.
    pub fn sack_ranges(&self) -> impl Iterator<Item = OffsetRange> {
        let recent = self.recent.as_slice();
        let first = recent.iter().filter_map(|&start| self.ranges.covering(start));
        first.chain(self.ranges.iter().filter(|range| !recent.contains(&range.start)))
    }

    /// The part of a segment that does not contradict what is known about the end of the stream: nothing
    /// lies behind a FIN, and what arrived first holds. `None` if all of it does.
    fn before_fin<'a>(&self, at: Offset, data: &'a [u8], fin: bool) -> Option<(&'a [u8], bool)> {
        let end = at.add(data.len() as u64);
        match self.fin_at {
            Some(known) if at > known || (at == known && !data.is_empty()) => None,
            Some(known) => {
                let keep = data.len().min(known.since(at) as usize);
                Some((&data[..keep], fin && end == known))
            }
            None => Some((data, fin && self.ranges.last().is_none_or(|last| last.end <= end))),
        }
    }
}

/// The text of a segment, and where the bytes of its gaps go.
struct Text<'a> {
    at: Offset,
    data: &'a [u8],
    owner: Option<&'a Bytes>,
}

impl Text<'_> {
    /// The bytes of `gap`: none where it is the FIN.
    fn slice(&self, gap: &OffsetRange) -> &[u8] {
        let (from, to) = (gap.start.since(self.at) as usize, gap.end.since(self.at) as usize);
        let len = self.data.len();
        &self.data[from.min(len)..to.min(len)]
    }

    /// What storing `gap` will be charged.
    fn cost(&self, pieces: &BTreeMap<Offset, Storage>, gap: &OffsetRange) -> usize {
        let data = self.slice(gap);
        if let Some(owner) = self.owner.filter(|owner| super::worth_sharing(data, owner)) {
            return owner.len() + PIECE_OVERHEAD;
        }
        let before = pieces.range(..gap.start).next_back();
        let before = before.filter(|(start, piece)| start.add(piece.len() as u64) == gap.start);
        let rest = data.len() - before.map_or(0, |(_, piece)| piece.room().min(data.len()));
        if rest == 0 { 0 } else { piece_size(rest, before.map(|(_, piece)| piece)) + PIECE_OVERHEAD }
    }

    /// Stores `gap`; returns what it is charged.
    fn store(&self, pieces: &mut BTreeMap<Offset, Storage>, gap: &OffsetRange) -> usize {
        let mut data = self.slice(gap);
        if let Some(storage) = Storage::reference(data, self.owner) {
            let charge = storage.charge();
            pieces.insert(gap.start, storage);
            return charge + PIECE_OVERHEAD;
        }
        let before = pieces.range_mut(..gap.start).next_back();
        let mut before = before.filter(|(start, piece)| start.add(piece.len() as u64) == gap.start);
        let filled = before.as_mut().map_or(0, |(_, piece)| piece.fill(data));
        data = &data[filled..];
        if data.is_empty() {
            return 0;
        }
        let mut piece = Storage::with_room(piece_size(data.len(), before.map(|(_, piece)| &*piece)));
        piece.fill(data);
        let charge = piece.charge();
        pieces.insert(gap.start.add(filled as u64), piece);
        charge + PIECE_OVERHEAD
    }
}

/// The size of a new piece for `len` bytes behind `before`. A run that is being extended is likely to be
/// extended again; a lone segment gets what it needs.
fn piece_size(len: usize, before: Option<&Storage>) -> usize {
    let grown = match before {
        Some(Storage::Own(vec)) => (vec.capacity() * 2).min(MAX_PIECE),
        _ => 0,
    };
    len.next_multiple_of(PIECE_UNIT).max(grown)
}

/// A short list of starts of ranges, without duplicates, the most recent one first.
#[derive(Debug)]
struct Recent {
    starts: [Offset; RECENT],
    len: usize,
}

impl Recent {
    fn as_slice(&self) -> &[Offset] {
        &self.starts[..self.len]
    }

    /// `whole` is a range that changed just now; ranges that it has swallowed go.
    fn changed(&mut self, whole: OffsetRange) {
        self.retain(|start| !whole.contains(&start));
        self.len = (self.len + 1).min(RECENT);
        self.starts[..self.len].rotate_right(1);
        self.starts[0] = whole.start;
    }

    fn remove_below(&mut self, at: Offset) {
        self.retain(|start| start >= at);
    }

    fn retain(&mut self, keep: impl Fn(Offset) -> bool) {
        let mut kept = 0;
        for i in 0..self.len {
            if keep(self.starts[i]) {
                self.starts[kept] = self.starts[i];
                kept += 1;
            }
        }
        self.len = kept;
    }
}

#[cfg(test)]
mod tests;
