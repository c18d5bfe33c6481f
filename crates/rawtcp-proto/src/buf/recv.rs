//! Bytes that arrived in order and that the application has not read yet.

use super::{ChunkPool, LARGE, Storage};
use crate::cold::Cold;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;

/// The first chunk: room for two full segments.
const FIRST_CHUNK: usize = 4 * 1024;
/// The chunks behind a full one. What a chunk leaves unused is charged, and so is taken from the
/// window: therefore no larger.
const NEXT_CHUNK: usize = 16 * 1024;
/// The largest chunk, for large payloads that could not be referenced.
const MAX_CHUNK: usize = 64 * 1024;
/// The list of chunks keeps its memory while the buffer is empty if it has room for no more than these.
const FEW_CHUNKS: usize = 1;

/// The receive queue. Its bound is the window that the connection offers.
#[derive(Debug)]
pub struct RecvBuffer {
    /// In order, none of them empty.
    chunks: Cold<VecDeque<Storage>>,
    /// Bytes of the first chunk that were read already.
    consumed: usize,
    pool: ChunkPool,
    len: usize,
    charged: usize,
}

impl RecvBuffer {
    /// An empty buffer, with memory from `pool`.
    pub fn new(pool: ChunkPool) -> Self {
        RecvBuffer { chunks: Cold::new(), consumed: 0, pool, len: 0, charged: 0 }
    }

    /// The bytes that can be read.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of memory that the unread data keeps: zero when empty.
    pub fn charged(&self) -> usize {
        self.charged
    }

    /// Adds `data` at the end. A large payload that fills at least half of its `owner` is referenced,
    /// and charged with the length of the owner; anything else is copied.
    pub fn append(&mut self, data: &[u8], owner: Option<&Bytes>) {
        match Storage::reference(data, owner) {
            Some(storage) => self.push(storage),
            None => self.copy(data),
        }
    }

    /// Adds a piece of storage at the end, less its first `skip` bytes.
    pub(super) fn append_storage(&mut self, storage: Storage, skip: usize) {
        let rest = storage.len().saturating_sub(skip);
        if rest < LARGE || rest < storage.charge() / 2 {
            self.copy(&storage.as_slice()[skip.min(storage.len())..]);
        } else if skip == 0 {
            self.push(storage);
        } else {
            let pinned = storage.charge();
            let mut bytes = into_bytes(storage);
            bytes.advance(skip);
            self.push(Storage::Shared { bytes, pinned });
        }
    }

    /// Moves the first bytes to `out`; returns how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut done = 0;
        while done < out.len()
            && let Some(front) = self.front()
        {
            let n = front.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&front[..n]);
            self.consume(n);
            done += n;
        }
        done
    }

    /// Copies the first bytes to `out` and keeps them; returns how many.
    pub fn peek(&self, out: &mut [u8]) -> usize {
        self.peek_at(0, out)
    }

    /// As [`peek`](Self::peek), behind the first `skip` bytes.
    pub fn peek_at(&self, mut skip: usize, out: &mut [u8]) -> usize {
        let mut done = 0;
        for chunk in self.chunks() {
            let part = chunk.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(chunk.len());
            let n = part.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&part[..n]);
            done += n;
            if done == out.len() {
                break;
            }
        }
        done
    }

    /// Takes out up to `max` bytes, without a copy unless that would hand out a large chunk for a few
    /// bytes. `None` if there are none, or if `max` is zero.
    pub fn read_chunk(&mut self, max: usize) -> Option<Bytes> {
        let front = self.front().filter(|_| max > 0)?;
        let n = front.len().min(max);
        if let Some(Storage::Own(vec)) = self.chunks.front()
            && n < vec.capacity() / 4
        {
            let bytes = Bytes::copy_from_slice(&front[..n]);
            self.consume(n);
            return Some(bytes);
        }
        let storage = self.chunks.edit().pop_front()?;
        let pinned = storage.charge();
        let mut bytes = into_bytes(storage);
        bytes.advance(self.consumed);
        self.consumed = 0;
        self.len -= n;
        if n == bytes.len() {
            self.charged -= pinned;
            self.relax();
            return Some(bytes);
        }
        let taken = bytes.split_to(n);
        self.chunks.edit().push_front(Storage::Shared { bytes, pinned });
        Some(taken)
    }

    /// The unread bytes as slices, in order.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let skips = std::iter::once(self.consumed).chain(std::iter::repeat(0));
        self.chunks.iter().zip(skips).map(|(chunk, skip)| &chunk.as_slice()[skip..])
    }

    /// Throws everything away, memory included.
    pub fn clear(&mut self) {
        for chunk in self.chunks.touched().into_iter().flat_map(std::mem::take) {
            retire(&self.pool, chunk);
        }
        self.chunks.reset();
        (self.consumed, self.len, self.charged) = (0, 0, 0);
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

    fn front(&self) -> Option<&[u8]> {
        self.chunks.front().map(|chunk| &chunk.as_slice()[self.consumed..])
    }

    /// Drops `n` bytes, all of them in the first chunk.
    fn consume(&mut self, n: usize) {
        self.consumed += n;
        self.len -= n;
        let consumed = self.consumed;
        let Some(chunks) = self.chunks.touched() else { return };
        let Some(chunk) = chunks.pop_front_if(|chunk| chunk.len() == consumed) else { return };
        self.consumed = 0;
        self.charged -= chunk.charge();
        retire(&self.pool, chunk);
        self.relax();
    }

    /// With nothing in it, gives back the memory that much took.
    fn relax(&mut self) {
        if let Some(chunks) = self.chunks.touched()
            && chunks.is_empty()
            && chunks.capacity() > FEW_CHUNKS
        {
            *chunks = VecDeque::new();
        }
    }

    fn push(&mut self, storage: Storage) {
        self.len += storage.len();
        self.charged += storage.charge();
        let chunks = self.chunks.edit();
        if chunks.capacity() == 0 {
            // Who is read at once needs one.
            chunks.reserve_exact(1);
        }
        chunks.push_back(storage);
    }

    fn copy(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let filled = self.chunks.edit().back_mut().map_or(0, |tail| tail.fill(data));
            if filled == 0 {
                self.open_chunk(data.len());
            }
            self.len += filled;
            data = &data[filled..];
        }
    }

    fn open_chunk(&mut self, needed: usize) {
        let usual = match self.chunks.back() {
            Some(Storage::Own(_)) => NEXT_CHUNK,
            _ => FIRST_CHUNK,
        };
        let wanted = needed.clamp(usual, MAX_CHUNK);
        self.push(Storage::Own(self.pool.take(wanted)));
    }
}

impl Drop for RecvBuffer {
    fn drop(&mut self) {
        self.clear();
    }
}

fn retire(pool: &ChunkPool, storage: Storage) {
    if let Storage::Own(chunk) = storage {
        pool.give(chunk);
    }
}

fn into_bytes(storage: Storage) -> Bytes {
    match storage {
        Storage::Own(vec) => Bytes::from(vec),
        Storage::Shared { bytes, .. } => bytes,
    }
}

#[cfg(test)]
mod tests;
