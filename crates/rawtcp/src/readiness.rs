//! tokio's readiness: bits that events set and that only an operation which found nothing clears.
//!
//! Readiness is not "is the buffer empty now". A bit is set by an event in a driver turn, and stays
//! until an operation returned WouldBlock (or a poll read or write came back short) *after* the last
//! event; the tick tells whether one came since the operation looked.

use std::task::Waker;
use tokio::io::{Interest, Ready};

/// A set of readiness bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits(u8);

impl Bits {
    pub(crate) const NONE: Bits = Bits(0);
    pub(crate) const READABLE: Bits = Bits(1);
    pub(crate) const WRITABLE: Bits = Bits(1 << 1);
    pub(crate) const READ_CLOSED: Bits = Bits(1 << 2);
    pub(crate) const WRITE_CLOSED: Bits = Bits(1 << 3);
    pub(crate) const ERROR: Bits = Bits(1 << 4);
    /// Never set: only wakes those who wait for acknowledgments.
    pub(crate) const ACKED: Bits = Bits(1 << 5);
    /// Everything that lets a reader go on.
    pub(crate) const READ: Bits = Bits(Self::READABLE.0 | Self::READ_CLOSED.0);
    /// Everything that lets a writer go on.
    pub(crate) const WRITE: Bits = Bits(Self::WRITABLE.0 | Self::WRITE_CLOSED.0);
    pub(crate) const ALL: Bits = Bits(Self::READ.0 | Self::WRITE.0 | Self::ERROR.0);

    /// The bits that satisfy an interest.
    pub(crate) fn of(interest: Interest) -> Bits {
        let mut bits = Bits::NONE;
        if interest.is_readable() {
            bits |= Bits::READ;
        }
        if interest.is_writable() {
            bits |= Bits::WRITE;
        }
        if interest.is_error() {
            bits |= Bits::ERROR;
        }
        bits
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn intersects(self, other: Bits) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn to_ready(self) -> Ready {
        let table = [
            (Bits::READABLE, Ready::READABLE),
            (Bits::WRITABLE, Ready::WRITABLE),
            (Bits::READ_CLOSED, Ready::READ_CLOSED),
            (Bits::WRITE_CLOSED, Ready::WRITE_CLOSED),
            (Bits::ERROR, Ready::ERROR),
        ];
        table.into_iter().filter(|(bit, _)| self.intersects(*bit)).fold(Ready::EMPTY, |all, (_, ready)| all | ready)
    }
}

impl std::ops::BitOr for Bits {
    type Output = Bits;
    fn bitor(self, other: Bits) -> Bits {
        Bits(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Bits {
    fn bitor_assign(&mut self, other: Bits) {
        self.0 |= other.0;
    }
}

impl std::ops::BitAnd for Bits {
    type Output = Bits;
    fn bitand(self, other: Bits) -> Bits {
        Bits(self.0 & other.0)
    }
}

/// The bits as an operation saw them, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) bits: Bits,
    tick: u32,
}

/// The bits and who waits for them.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    bits: Bits,
    tick: u32,
    /// The last waker of each direction's poll functions; tokio too keeps only the last.
    reader: Option<Waker>,
    writer: Option<Waker>,
    waiters: Waiters,
}

impl Readiness {
    /// What is set of these bits, with the time of looking.
    pub(crate) fn seen(&self, mask: Bits) -> Seen {
        Seen { bits: self.bits & mask, tick: self.tick }
    }

    pub(crate) fn has(&self, mask: Bits) -> bool {
        self.bits.intersects(mask)
    }

    /// An event: sets bits and takes out everyone who waits for one of them.
    pub(crate) fn set(&mut self, bits: Bits, wake: &mut WakeList) {
        self.bits |= bits;
        self.tick = self.tick.wrapping_add(1);
        self.wake(bits, wake);
    }

    /// Takes out everyone who waits for one of these bits, without setting any.
    pub(crate) fn wake(&mut self, bits: Bits, wake: &mut WakeList) {
        if bits.intersects(Bits::READ) {
            wake.extend(self.reader.take());
        }
        if bits.intersects(Bits::WRITE) {
            wake.extend(self.writer.take());
        }
        self.waiters.take_matching(bits, wake);
    }

    /// An operation found nothing: clears what it had seen, unless an event came since. The closed
    /// bits never go.
    pub(crate) fn clear(&mut self, seen: Seen) {
        if self.tick == seen.tick {
            let keep = Bits::READ_CLOSED | Bits::WRITE_CLOSED;
            self.bits = Bits(self.bits.0 & !(seen.bits.0 & !keep.0));
        }
    }

    /// Keeps the waker of a poll function, in place of the one before.
    pub(crate) fn register(&mut self, direction: Bits, waker: &Waker) {
        let slot = if direction.intersects(Bits::READ) { &mut self.reader } else { &mut self.writer };
        match slot {
            Some(known) => known.clone_from(waker),
            None => *slot = Some(waker.clone()),
        }
    }

    pub(crate) fn waiters(&mut self) -> &mut Waiters {
        &mut self.waiters
    }
}

/// The tasks in `ready()`, `readable()`, `writable()`, `peek()` or `accept()`: any number, each with a
/// slot from its first poll until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    slots: Vec<Slot>,
    /// How many slots are not free: the memory goes when the last one does.
    used: usize,
}

#[derive(Debug)]
enum Slot {
    Free,
    Waiting(Bits, Waker),
    Woken,
}

impl Waiters {
    /// Stores a waker under the waiter's key, or a new one.
    pub(crate) fn wait(&mut self, key: &mut Option<usize>, mask: Bits, waker: &Waker) {
        let at = *key.get_or_insert_with(|| {
            self.used += 1;
            match self.slots.iter().position(|slot| matches!(slot, Slot::Free)) {
                Some(free) => free,
                None => {
                    self.slots.push(Slot::Free);
                    self.slots.len() - 1
                }
            }
        });
        match &mut self.slots[at] {
            Slot::Waiting(bits, known) => {
                *bits = mask;
                known.clone_from(waker);
            }
            slot => *slot = Slot::Waiting(mask, waker.clone()),
        }
    }

    /// The waiter is done or dropped.
    pub(crate) fn leave(&mut self, key: &mut Option<usize>) {
        if let Some(at) = key.take() {
            self.slots[at] = Slot::Free;
            self.used -= 1;
            if self.used == 0 {
                self.slots = Vec::new();
            }
        }
    }

    /// Takes the wakers of all who wait for one of these bits.
    pub(crate) fn take_matching(&mut self, bits: Bits, wake: &mut WakeList) {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Waiting(mask, _) if mask.intersects(bits))
                && let Slot::Waiting(_, waker) = std::mem::replace(slot, Slot::Woken)
            {
                wake.extend(Some(waker));
            }
        }
    }
}

/// Wakers to be woken once every lock has been given back. The first few need no allocation.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct WakeList {
    first: [Option<Waker>; 3],
    more: Vec<Waker>,
}

impl WakeList {
    pub(crate) fn extend(&mut self, waker: Option<Waker>) {
        let Some(waker) = waker else { return };
        match self.first.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(waker),
            None => self.more.push(waker),
        }
    }

    /// Wakes them all; the list is empty then and may be used again.
    pub(crate) fn wake_all(&mut self) {
        for slot in &mut self.first {
            match slot.take() {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
        for waker in self.more.drain(..) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn counter() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (count.clone(), Waker::from(count))
    }
    fn woken(count: &Count) -> usize {
        count.0.load(Ordering::SeqCst)
    }

    #[test]
    fn an_event_after_the_look_survives_the_clear() {
        let (mut r, mut wake) = (Readiness::default(), WakeList::default());
        r.set(Bits::READABLE, &mut wake);
        let before = r.seen(Bits::READ);
        r.set(Bits::READABLE, &mut wake);
        r.clear(before);
        assert!(r.has(Bits::READ));
        r.clear(r.seen(Bits::READ));
        assert!(!r.has(Bits::READ));
    }

    #[test]
    fn closed_bits_are_never_cleared_and_other_bits_are_left_alone() {
        let (mut r, mut wake) = (Readiness::default(), WakeList::default());
        r.set(Bits::ALL, &mut wake);
        r.clear(r.seen(Bits::READ));
        assert_eq!(r.seen(Bits::ALL).bits, Bits::WRITE | Bits::READ_CLOSED | Bits::ERROR);
    }

    #[test]
    fn directions_have_wakers_of_their_own_and_keep_the_last() {
        let (mut r, mut wake) = (Readiness::default(), WakeList::default());
        let ((a, wa), (b, wb), (c, wc)) = (counter(), counter(), counter());
        r.register(Bits::READ, &wa);
        r.register(Bits::READ, &wb);
        r.register(Bits::WRITE, &wc);
        r.set(Bits::READABLE, &mut wake);
        wake.wake_all();
        assert_eq!((woken(&a), woken(&b), woken(&c)), (0, 1, 0));
        r.set(Bits::WRITE_CLOSED, &mut wake);
        wake.wake_all();
        assert_eq!((woken(&a), woken(&b), woken(&c)), (0, 1, 1));
    }

    #[test]
    fn all_waiters_of_a_direction_are_woken_and_slots_come_back() {
        let (mut r, mut wake) = (Readiness::default(), WakeList::default());
        let mut keys = vec![None; 50];
        let (count, waker) = counter();
        for key in &mut keys {
            r.waiters().wait(key, Bits::READ, &waker);
        }
        let mut writer = None;
        let (other, other_waker) = counter();
        r.waiters().wait(&mut writer, Bits::WRITE, &other_waker);
        r.waiters().leave(&mut keys[7]);
        r.set(Bits::READABLE, &mut wake);
        wake.wake_all();
        assert_eq!((woken(&count), woken(&other)), (49, 0));
        let slots = r.waiters().slots.len();
        r.waiters().wait(&mut keys[7], Bits::READ, &waker);
        assert_eq!(r.waiters().slots.len(), slots);
        for key in keys.iter_mut().chain([&mut writer]) {
            r.waiters().leave(key);
        }
        assert_eq!(r.waiters().slots.capacity(), 0);
    }

    #[test]
    fn bits_become_tokios() {
        assert_eq!(Bits::of(Interest::READABLE).to_ready(), Ready::READABLE | Ready::READ_CLOSED);
        assert_eq!(Bits::of(Interest::WRITABLE).to_ready(), Ready::WRITABLE | Ready::WRITE_CLOSED);
        assert_eq!(Bits::NONE.to_ready(), Ready::EMPTY);
    }
}
