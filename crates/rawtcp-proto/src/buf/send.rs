//! Bytes that the application wrote and the peer has not acknowledged yet.

use super::{ChunkPool, LARGE, Storage};
use crate::cold::Cold;
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
    /// Contiguous, in order, none of them empty.
    chunks: Cold<VecDeque<Chunk>>,
    pool: ChunkPool,
    start: Offset,
    end: Offset,
    capacity: usize,
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
        SendBuffer { chunks: Cold::new(), pool, start: Offset(1), end: Offset(1), capacity }
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
        self.chunks.iter().map(|chunk| chunk.storage.charge()).sum()
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
        let mut rest = &data[..taken];
        while !rest.is_empty() {
            let filled = self.chunks.edit().back_mut().map_or(0, |tail| tail.storage.fill(rest));
            if filled == 0 {
                self.open_chunk();
            }
            self.end = self.end.add(filled as u64);
            rest = &rest[filled..];
        }
        taken
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
        let Some(chunks) = self.chunks.touched() else { return };
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
    /// may include the FIN.
    pub fn slices(&self, range: OffsetRange) -> Slices<'_> {
        let (from, to) = (range.start.max(self.start), range.end.min(self.end));
        let first =
            if from < to { self.chunks.partition_point(|chunk| chunk.end() <= from) } else { self.chunks.len() };
        Slices { chunks: self.chunks.range(first..), from, to }
    }

    /// Throws everything away, memory included. Offsets go on where they were.
    pub fn clear(&mut self) {
        self.release_to(self.end);
        self.chunks.reset();
    }

    /// Whether there is nothing in it and memory all the same: that of the list of chunks.
    pub fn may_rest(&self) -> bool {
        self.chunks.if_touched().is_some_and(|chunks| chunks.is_empty())
    }

    /// With nothing in it, gives back the memory of the list of chunks, too.
    pub fn rest(&mut self) {
        if self.may_rest() {
            self.chunks.reset();
        }
    }

    fn open_chunk(&mut self) {
        let wanted = match self.chunks.back().map(|tail| &tail.storage) {
            None => FIRST_CHUNK,
            Some(Storage::Own(_)) => NEXT_CHUNK,
            Some(Storage::Shared { .. }) => WEDGE_CHUNK,
        };
        self.push(Storage::Own(self.pool.take(wanted)));
    }

    fn push(&mut self, storage: Storage) {
        let chunks = self.chunks.edit();
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

/// The bytes of a range of a [`SendBuffer`], slice by slice.
#[derive(Clone, Debug)]
pub struct Slices<'a> {
    chunks: vec_deque::Iter<'a, Chunk>,
    from: Offset,
    to: Offset,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.from >= self.to {
            return None;
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
