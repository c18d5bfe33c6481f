//! Bytes that the application wrote and the peer has not acknowledged yet.

use super::{ChunkPool, LARGE, Storage};
use crate::cold::{Cold, Idle};
use crate::seq::{Offset, OffsetRange};
use bytes::Bytes;
use std::collections::{VecDeque, vec_deque};
use std::iter::FusedIterator;

/// The first chunk of a buffer: a connection with little to say stays small.
const FIRST_CHUNK: usize = 16 * 1024;
/// The chunks after it: a send of 64 KiB touches two of them.
const NEXT_CHUNK: usize = 64 * 1024;
/// The chunk behind a referenced payload, as for the frame header between two bodies: it may well
/// hold a few bytes only, and there may be one per payload.
const WEDGE_CHUNK: usize = 4 * 1024;
/// The list of chunks keeps its memory while the buffer is empty if it has room for no more than these.
const FEW_CHUNKS: usize = 1;

/// The send queue: every byte from the first unacknowledged one to the last written one.
#[derive(Debug)]
pub struct SendBuffer {
    queue: Cold<Queue>,
    pool: ChunkPool,
    start: Offset,
    end: Offset,
    capacity: usize,
}

#[derive(Debug)]
struct Queue {
    /// In order, none of them empty, and contiguous but for what is lent.
    chunks: VecDeque<Chunk>,
    /// What somebody else has the bytes of. Nothing is lent where this is empty.
    lent: OffsetRange,
}

const NOTHING: OffsetRange = Offset(0)..Offset(0);

impl Idle for Queue {
    const BEGIN: Self = Queue { chunks: VecDeque::new(), lent: NOTHING };

    fn idle() -> &'static Self {
        const { &Self::BEGIN }
    }
}

#[derive(Debug)]
struct Chunk {
    start: Offset,
    storage: Storage,
}

impl Chunk {
    fn end(&self) -> Offset {
        self.start.add(self.storage.len() as u64)
    }
}

impl SendBuffer {
    /// An empty buffer for `capacity` bytes with memory from `pool`. Its first byte will be `Offset(1)`: the SYN is 0.
    pub fn new(capacity: usize, pool: ChunkPool) -> Self {
        SendBuffer { queue: Cold::new(), pool, start: Offset(1), end: Offset(1), capacity }
    }

    /// The most bytes that the buffer takes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes the capacity. Nothing is thrown away: with less capacity than bytes, nothing can be
    /// written until enough of them are acknowledged.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// The bytes in the buffer, sent or not.
    pub fn len(&self) -> usize {
        self.end.since(self.start) as usize
    }

    /// Whether every byte written was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes a write takes now.
    pub fn free(&self) -> usize {
        self.capacity.saturating_sub(self.len())
    }

    /// The bytes of memory behind the queue; counts them.
    pub fn charged(&self) -> usize {
        self.queue.chunks.iter().map(|chunk| chunk.storage.charge()).sum()
    }

    /// The first byte that is still kept.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// Behind the last byte written: where the next one, or the FIN, goes.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Copies as much of `data` as there is room for; returns how much.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.free());
        self.append(&data[..taken]);
        taken
    }

    /// Takes as much of `len` bytes as there is room for, and leaves them where they are for now; returns how much. Until they
    /// are [kept](Self::keep), [`slices`](Self::slices) is to be given them.
    pub fn lend(&mut self, len: usize) -> usize {
        debug_assert!(!self.has_lent(), "one at a time");
        let taken = if self.has_lent() { 0 } else { len.min(self.free()) };
        if taken > 0 {
            let begin = self.end;
            self.end = begin.add(taken as u64);
            self.queue.edit().lent = begin..self.end;
        }
        taken
    }

    /// Whether bytes are lent that are not acknowledged.
    pub fn has_lent(&self) -> bool {
        !self.queue.lent.is_empty()
    }

    /// Copies what was lent, and is `lent` from its beginning, but for what is acknowledged by now; returns how much it copied.
    pub fn keep(&mut self, lent: &[u8]) -> usize {
        if !self.has_lent() {
            return 0;
        }
        let Queue { chunks, lent: range } = self.queue.edit();
        let OffsetRange { start, end } = std::mem::replace(range, NOTHING);
        let from = self.start.max(start);
        let kept = &lent[from.since(start) as usize..end.since(start) as usize];
        // What was written behind it meanwhile stays there.
        let behind = chunks.split_off(chunks.partition_point(|chunk| chunk.start < from));
        let last = std::mem::replace(&mut self.end, from);
        self.append(kept);
        self.queue.edit().chunks.extend(behind);
        self.end = last;
        kept.len()
    }

    /// Copies `data` behind the end.
    fn append(&mut self, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() {
            let end = self.end;
            // Behind what is lent a chunk begins.
            let tail = self.queue.edit().chunks.back_mut().filter(|tail| tail.end() == end);
            let filled = tail.map_or(0, |tail| tail.storage.fill(rest));
            if filled == 0 {
                self.open_chunk();
            }
            self.end = end.add(filled as u64);
            rest = &rest[filled..];
        }
    }

    /// Takes as much of `data` as there is room for, by reference if that is large; returns how much.
    pub fn write_bytes(&mut self, mut data: Bytes) -> usize {
        let taken = data.len().min(self.free());
        if taken < LARGE {
            return self.write(&data[..taken]);
        }
        data.truncate(taken);
        self.push(Storage::Shared { bytes: data, pinned: taken });
        self.end = self.end.add(taken as u64);
        taken
    }

    /// Forgets everything before `offset`: it is acknowledged. An offset beyond the end (an
    /// acknowledged FIN) is the end.
    pub fn release_to(&mut self, offset: Offset) {
        let offset = offset.min(self.end);
        if offset <= self.start {
            return;
        }
        self.start = offset;
        let Some(Queue { chunks, lent }) = self.queue.touched() else { return };
        if lent.end <= offset {
            *lent = NOTHING;
        }
        while let Some(chunk) = chunks.pop_front_if(|chunk| chunk.end() <= offset) {
            if let Storage::Own(chunk) = chunk.storage {
                self.pool.give(chunk);
            }
        }
        if chunks.is_empty() && chunks.capacity() > FEW_CHUNKS {
            *chunks = VecDeque::new();
        }
    }

    /// The bytes of `range` as slices, in order. What is not in the buffer is left out, so that a range
    /// may include the FIN. `lent` is what was [lent](Self::lend).
    ///
    /// # Panics
    /// If that is shorter than what was lent.
    pub fn slices<'a>(&'a self, range: OffsetRange, lent: &'a [u8]) -> Slices<'a> {
        let (from, to) = (range.start.max(self.start), range.end.min(self.end));
        let Queue { chunks, lent: range } = &*self.queue;
        let lent = &lent[..range.end.since(range.start) as usize];
        let first = if from < to { holder(chunks, from) } else { chunks.len() };
        Slices { chunks: chunks.range(first..), lent: (range.start, lent), from, to }
    }

    /// Throws everything away, memory included. Offsets go on where they were.
    pub fn clear(&mut self) {
        self.release_to(self.end);
        self.queue.reset();
    }

    /// Whether there is nothing in it and memory all the same: that of the list of chunks.
    pub fn may_rest(&self) -> bool {
        self.queue.if_touched().is_some_and(|queue| queue.chunks.is_empty() && queue.lent.is_empty())
    }

    /// With nothing in it, gives back the memory of the list of chunks, too.
    pub fn rest(&mut self) {
        if self.may_rest() {
            self.queue.reset();
        }
    }

    fn open_chunk(&mut self) {
        let wanted = match self.queue.chunks.back().map(|tail| &tail.storage) {
            None => FIRST_CHUNK,
            Some(Storage::Own(_)) => NEXT_CHUNK,
            Some(Storage::Shared { .. }) => WEDGE_CHUNK,
        };
        self.push(Storage::Own(self.pool.take(wanted)));
    }

    fn push(&mut self, storage: Storage) {
        let chunks = &mut self.queue.edit().chunks;
        if chunks.capacity() == 0 {
            // Who has little to say needs one.
            chunks.reserve_exact(1);
        }
        chunks.push_back(Chunk { start: self.end, storage });
    }
}

impl Drop for SendBuffer {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The index of the first chunk that does not end before `at`.
fn holder(chunks: &VecDeque<Chunk>, at: Offset) -> usize {
    // Mostly all behind the first have the same length, and a search is some branches that nobody can predict.
    let first = chunks.front().map_or(at, Chunk::end);
    let guess = if at < first { 0 } else { 1 + at.since(first) as usize / NEXT_CHUNK };
    match chunks.get(guess) {
        Some(chunk) if chunk.start <= at && at < chunk.end() => guess,
        _ => chunks.partition_point(|chunk| chunk.end() <= at),
    }
}

/// The bytes of a range of a [`SendBuffer`], slice by slice.
#[derive(Clone, Debug)]
pub struct Slices<'a> {
    chunks: vec_deque::Iter<'a, Chunk>,
    /// What is lent, from its offset.
    lent: (Offset, &'a [u8]),
    from: Offset,
    to: Offset,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.from >= self.to {
            return None;
        }
        let (lent, data) = self.lent;
        if lent <= self.from && self.from < lent.add(data.len() as u64) {
            let begin = self.from.since(lent) as usize;
            let end = (self.to.since(lent) as usize).min(data.len());
            self.from = lent.add(end as u64);
            return Some(&data[begin..end]);
        }
        let chunk = self.chunks.next()?;
        let skip = self.from.since(chunk.start) as usize;
        let end = (self.to.since(chunk.start) as usize).min(chunk.storage.len());
        self.from = chunk.end();
        Some(&chunk.storage.as_slice()[skip..end])
    }
}

impl FusedIterator for Slices<'_> {}

#[cfg(test)]
mod tests;
