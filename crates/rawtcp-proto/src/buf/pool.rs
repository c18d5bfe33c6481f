//! Memory for chunks that comes back to be used again: warm in the cache, and without the page faults of memory that
//! goes back to the system between two bursts.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sizes that are kept; any other is allocated and freed.
const SIZES: [usize; 3] = [4 * 1024, 16 * 1024, 64 * 1024];

/// Free chunks, shared by all connections that were made from one configuration. The lock is taken once a chunk, not
/// once a segment.
#[derive(Clone)]
pub struct ChunkPool(Arc<Shared>);

struct Shared {
    most: usize,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    bytes: usize,
    /// Last in, first out: the warmest.
    chunks: [Vec<Vec<u8>>; SIZES.len()],
}

impl ChunkPool {
    /// A pool that keeps at most so many bytes of free memory.
    pub fn new(most: usize) -> Self {
        ChunkPool(Arc::new(Shared { most, free: Mutex::default() }))
    }

    /// Bytes of free memory that are kept now.
    pub fn free_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// An empty chunk with room for `size` bytes.
    pub(super) fn take(&self, size: usize) -> Vec<u8> {
        let chunk = class(size).and_then(|class| {
            let mut free = self.lock();
            let chunk = free.chunks[class].pop()?;
            free.bytes -= size;
            Some(chunk)
        });
        chunk.unwrap_or_else(|| Vec::with_capacity(size))
    }

    /// A chunk that is not needed any more.
    pub(super) fn give(&self, mut chunk: Vec<u8>) {
        let size = chunk.capacity();
        let Some(class) = class(size) else { return };
        chunk.clear();
        let mut free = self.lock();
        if free.bytes + size <= self.0.most {
            free.bytes += size;
            free.chunks[class].push(chunk);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        // Nothing in here can panic half-way.
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn class(size: usize) -> Option<usize> {
    SIZES.iter().position(|&known| known == size)
}

impl Default for ChunkPool {
    /// Keeps up to 8 MiB: two send buffers that have grown to their maximum.
    fn default() -> Self {
        ChunkPool::new(8 << 20)
    }
}

impl fmt::Debug for ChunkPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkPool").field("free_bytes", &self.free_bytes()).field("most", &self.0.most).finish()
    }
}

impl PartialEq for ChunkPool {
    /// Where memory comes from makes no difference to what a connection does.
    fn eq(&self, _: &ChunkPool) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_chunk_given_is_the_first_taken() {
        let pool = ChunkPool::new(1 << 20);
        let chunks = [4096, 4096].map(|size| pool.take(size));
        let places = [chunks[0].as_ptr(), chunks[1].as_ptr()];
        chunks.into_iter().for_each(|mut chunk| {
            chunk.push(1);
            pool.give(chunk);
        });
        assert_eq!(pool.free_bytes(), 8192);
        let first = pool.take(4096);
        assert_eq!((first.as_ptr(), first.len(), first.capacity()), (places[1], 0, 4096));
        let second = pool.take(4096);
        assert_eq!(second.as_ptr(), places[0]);
        assert_eq!(pool.free_bytes(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_odd_sizes_are_not_kept() {
        let pool = ChunkPool::new(100_000);
        for _ in 0..3 {
            let (large, odd) = (Vec::with_capacity(64 * 1024), Vec::with_capacity(5000));
            pool.give(large);
            pool.give(odd);
        }
        assert_eq!(pool.free_bytes(), 64 * 1024);
        assert!(pool.take(5000).capacity() >= 5000);
        assert_eq!(pool.free_bytes(), 64 * 1024);
        pool.clone().take(64 * 1024);
        assert_eq!(pool.free_bytes(), 0, "clones share");
    }
}
