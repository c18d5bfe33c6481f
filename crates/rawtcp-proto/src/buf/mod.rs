//! Bytes on their way: written and not yet acknowledged ([`SendBuffer`]), received in order and not
//! yet read ([`RecvBuffer`]), received out of order ([`Assembler`]), and sets of offsets ([`RangeSet`]).
//!
//! Two rules hold in all of them. A small payload is copied once, into a chunk that is already there;
//! a large one is never copied but referenced. And memory is charged by what is allocated or kept
//! alive, not by what is used, so that a peer which sends single bytes can not pin large buffers.

pub mod assembler;
pub mod pool;
pub mod ranges;
pub mod recv;
pub mod send;

pub use assembler::{Assembler, Inserted};
pub use pool::ChunkPool;
pub use ranges::RangeSet;
pub use recv::RecvBuffer;
pub use send::{SendBuffer, Slices};

use bytes::Bytes;

/// From this many bytes on, a payload is referenced rather than copied: below it a copy costs less
/// than the bookkeeping of one more owner.
pub const LARGE: usize = 4 * 1024;

/// A piece of contiguous bytes: memory of our own, or part of somebody else's.
#[derive(Debug)]
enum Storage {
    /// Filled up to `len`, may be filled further up to `capacity`, and is never reallocated.
    Own(Vec<u8>),
    /// A view; `pinned` is the size of what it keeps alive.
    Shared { bytes: Bytes, pinned: usize },
}

impl Storage {
    fn with_room(capacity: usize) -> Self {
        Storage::Own(Vec::with_capacity(capacity))
    }

    /// References `data` within `owner`; `None` when it is better copied.
    fn reference(data: &[u8], owner: Option<&Bytes>) -> Option<Self> {
        let owner = owner.filter(|owner| worth_sharing(data, owner))?;
        Some(Storage::Shared { bytes: owner.slice_ref(data), pinned: owner.len() })
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Storage::Own(vec) => vec,
            Storage::Shared { bytes, .. } => bytes,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// The memory that this keeps from being freed.
    fn charge(&self) -> usize {
        match self {
            Storage::Own(vec) => vec.capacity(),
            Storage::Shared { pinned, .. } => *pinned,
        }
    }

    /// How many more bytes [`Storage::fill`] takes.
    fn room(&self) -> usize {
        match self {
            Storage::Own(vec) => vec.capacity() - vec.len(),
            Storage::Shared { .. } => 0,
        }
    }

    /// Copies as much of `data` as there is room for, and says how much.
    fn fill(&mut self, data: &[u8]) -> usize {
        let n = self.room().min(data.len());
        if let Storage::Own(vec) = self {
            vec.extend_from_slice(&data[..n]);
        }
        n
    }
}

/// Whether keeping `owner` alive for the sake of `data` is cheaper than a copy. Less than half of the
/// owner is not worth it: what is charged then stays within twice what is used.
fn worth_sharing(data: &[u8], owner: &Bytes) -> bool {
    if data.len() < LARGE || data.len() < owner.len() / 2 {
        return false;
    }
    // `slice_ref` panics on a foreign slice; a caller's mistake costs a copy instead.
    let (inner, outer) = (data.as_ptr_range(), owner.as_ptr_range());
    outer.start <= inner.start && inner.end <= outer.end
}
