//! A reusable batch of received packets.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

use crate::{RxMeta, sys};

/// Bytes of a receive slot: the largest IP packet, and the largest that a kernel peer on this machine sends merged.
pub const RX_SLOT_SIZE: usize = 65_536;

/// Packets of at least this many bytes hand their buffer on ([`RxBatch::owner`]). A frozen buffer holds
/// [`RX_SLOT_SIZE`] bytes of memory whatever the packet's length, so this bounds the waste at a factor of four; below
/// it, copying is cheaper than what is pinned.
pub const OWNED_MIN: usize = RX_SLOT_SIZE / 4;

/// Handed-on buffers which are looked at for reuse.
const POOL: usize = 64;

/// Packets asked for at once while they are large: what one turn brings is read while it is in the cache.
pub(crate) const LARGE_BATCH: usize = 8;

/// The fewest asked for while they are small: twice as many as came last, up to all that one call can bring.
pub(crate) const SMALL_BATCH: usize = 4;

/// How many packets a device is to ask the kernel for: fewer while they are large.
#[derive(Debug)]
pub(crate) struct Portion(AtomicUsize);

impl Portion {
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(LARGE_BATCH))
    }

    pub(crate) fn most(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Learns from a batch how large they are.
    pub(crate) fn learn(&self, batch: &RxBatch) {
        let bytes: usize = batch.iter().map(|(_, packet)| packet.len()).sum();
        if let Some(average) = bytes.checked_div(batch.len()) {
            // To ask for more than comes costs time, too.
            let small = (2 * batch.len()).clamp(SMALL_BATCH, sys::BATCH);
            self.0.store(if average >= OWNED_MIN { LARGE_BATCH } else { small }, Ordering::Relaxed);
        }
    }
}

/// Packets of one `recv`, in slots which are used again and again.
///
/// Small packets stay in their slot and must be copied out before the next `recv`. Large ones come with an
/// [owner](Self::owner), from which slices can be kept without a copy.
pub struct RxBatch {
    slots: Vec<Slot>,
    len: usize,
    /// Buffers handed on, the latest last.
    pool: Vec<Bytes>,
}

struct Slot {
    meta: RxMeta,
    /// Where a packet is received; holds it while `owned` is empty.
    buffer: BytesMut,
    owned: Option<Bytes>,
    /// `owned` is one of our own slots' buffers (not a packet handed in), so it may come back.
    recycle: bool,
}

impl RxBatch {
    /// A batch for up to `capacity` packets (at least one). Buffers are allocated when first used.
    pub fn new(capacity: usize) -> Self {
        let slot = || Slot { meta: RxMeta::IP, buffer: BytesMut::new(), owned: None, recycle: false };
        Self { slots: std::iter::repeat_with(slot).take(capacity.max(1)).collect(), len: 0, pool: Vec::new() }
    }

    /// Packets in the batch.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no packet in the batch.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Packets the batch has room for.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no room for a further packet.
    pub fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    /// The packet with index `i`.
    ///
    /// # Panics
    /// If `i` is not less than [`len`](Self::len).
    pub fn packet(&self, i: usize) -> (&RxMeta, &[u8]) {
        let slot = &self.slots[..self.len][i];
        (&slot.meta, slot.owned.as_deref().unwrap_or(&slot.buffer))
    }

    /// The owner of the bytes of packet `i`, if it has one: use [`Bytes::slice_ref`] to keep part of it.
    ///
    /// # Panics
    /// If `i` is not less than [`len`](Self::len).
    pub fn owner(&self, i: usize) -> Option<&Bytes> {
        self.slots[..self.len][i].owned.as_ref()
    }

    /// All packets, in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (&RxMeta, &[u8])> {
        (0..self.len).map(|i| self.packet(i))
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        for slot in &mut self.slots[..self.len] {
            slot.buffer.clear();
            if let Some(owned) = slot.owned.take()
                && slot.recycle
            {
                if self.pool.len() == POOL {
                    self.pool.swap_remove(0);
                }
                self.pool.push(owned);
            }
        }
        self.len = 0;
    }

    /// Adds a packet by copying it; `false` if the batch is full or the packet is longer than [`RX_SLOT_SIZE`].
    pub fn push(&mut self, meta: RxMeta, packet: &[u8]) -> bool {
        if self.is_full() || packet.len() > RX_SLOT_SIZE {
            return false;
        }
        self.prepare(self.len).extend_from_slice(packet);
        self.commit(meta);
        true
    }

    /// Adds a packet with its owner; `false` if the batch is full.
    pub fn push_owned(&mut self, meta: RxMeta, packet: Bytes) -> bool {
        if self.is_full() {
            return false;
        }
        let slot = &mut self.slots[self.len];
        slot.meta = meta;
        slot.owned = Some(packet);
        slot.recycle = false;
        self.len += 1;
        true
    }

    /// The buffer of slot `i`.
    pub(crate) fn buffer(&mut self, i: usize) -> &mut BytesMut {
        &mut self.slots[i].buffer
    }

    /// The empty buffer of slot `i`, with room for [`RX_SLOT_SIZE`] bytes.
    pub(crate) fn prepare(&mut self, i: usize) -> &mut BytesMut {
        let buffer = &mut self.slots[i].buffer;
        buffer.clear();
        if buffer.capacity() < RX_SLOT_SIZE {
            *buffer = recycled(&mut self.pool).unwrap_or_else(|| BytesMut::with_capacity(RX_SLOT_SIZE));
        }
        buffer
    }

    /// The buffers of the next `n` slots, or of as many as there are, prepared.
    pub(crate) fn prepare_next(&mut self, n: usize) -> impl Iterator<Item = &mut BytesMut> {
        let end = self.slots.len().min(self.len + n);
        for i in self.len..end {
            self.prepare(i);
        }
        self.slots[self.len..end].iter_mut().map(|slot| &mut slot.buffer)
    }

    /// Makes the next slot's buffer a packet of the batch. Slots in between that are not wanted must be swapped away
    /// with [`swap_unused`](Self::swap_unused).
    pub(crate) fn commit(&mut self, meta: RxMeta) {
        let slot = &mut self.slots[self.len];
        slot.meta = meta;
        slot.owned = None;
        slot.recycle = false;
        if slot.buffer.len() >= OWNED_MIN {
            // Taken whole: a `split` would leave a second reference here, and the buffer could never come back.
            slot.owned = Some(std::mem::take(&mut slot.buffer).freeze());
            slot.recycle = true;
        }
        self.len += 1;
    }

    /// Moves the received but not yet committed buffer of slot `i` into the next free slot.
    pub(crate) fn swap_unused(&mut self, i: usize) {
        self.slots.swap(self.len, i);
    }
}

/// A buffer which everyone else has let go, the latest first: a reader that keeps up has just copied out of it, and it is
/// in the cache still. Only a few are looked at: if those are held, the reader is slow, and searching on would cost more
/// than an allocation.
fn recycled(pool: &mut Vec<Bytes>) -> Option<BytesMut> {
    const LOOK_AT: usize = 16;
    let free = pool.iter().rev().take(LOOK_AT).position(Bytes::is_unique)?;
    let mut buffer = pool.remove(pool.len() - 1 - free).try_into_mut().ok()?;
    buffer.clear();
    (buffer.capacity() >= RX_SLOT_SIZE).then_some(buffer)
}

impl fmt::Debug for RxBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxBatch").field("len", &self.len).field("capacity", &self.slots.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_packets_stay_in_their_slot_and_large_ones_have_an_owner() {
        let mut batch = RxBatch::new(2);
        assert!(batch.push(RxMeta::IP, &[1; 100]));
        assert!(batch.push(RxMeta::IP, &[2; OWNED_MIN]));
        assert!(batch.is_full() && !batch.push(RxMeta::IP, &[3]));
        assert_eq!(batch.packet(0).1, [1; 100]);
        assert!(batch.owner(0).is_none());
        assert_eq!(batch.owner(1).unwrap().slice_ref(&batch.packet(1).1[5..7]), [2, 2][..]);
    }

    #[test]
    fn a_buffer_let_go_is_used_again_and_a_held_one_is_not() {
        let mut batch = RxBatch::new(1);
        batch.push(RxMeta::IP, &[7; OWNED_MIN]);
        let held = batch.owner(0).unwrap().clone();
        let place = held.as_ptr();
        batch.clear();
        batch.push(RxMeta::IP, &[8; OWNED_MIN]);
        assert_ne!(batch.packet(0).1.as_ptr(), place);
        assert_eq!(held, [7; OWNED_MIN][..]);
        let second = batch.owner(0).unwrap().clone();
        drop(held);
        batch.clear();
        batch.push(RxMeta::IP, &[9; OWNED_MIN]);
        assert_eq!(batch.packet(0).1.as_ptr(), place);
        assert_eq!(second, [8; OWNED_MIN][..]);
    }

    #[test]
    fn a_slot_of_a_dropped_packet_is_passed_over() {
        let mut batch = RxBatch::new(3);
        for (i, buffer) in batch.prepare_next(3).enumerate() {
            buffer.extend_from_slice(&[i as u8; 10]);
        }
        for i in [0, 2] {
            batch.swap_unused(i);
            batch.commit(RxMeta::IP);
        }
        assert_eq!(batch.iter().map(|(_, data)| data[0]).collect::<Vec<_>>(), [0, 2]);
    }
}
