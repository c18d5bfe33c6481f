//! tokio's readiness: bits that events set and that only an operation which found nothing clears.
//!
//! Readiness is not "is the buffer empty now". A bit is set by an event in a driver turn, and stays
//! until an operation returned WouldBlock (or a poll read or write came back short) *after* the last
//! event; the tick tells whether one came since the operation looked.

use smallvec::SmallVec;
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
    /// Urgent data was announced.
    pub(crate) const PRIORITY: Bits = Bits(1 << 6);
    /// Never set: only wakes those who wait for events.
    pub(crate) const TRACED: Bits = Bits(1 << 7);
    /// Everything that lets a reader go on.
    pub(crate) const READ: Bits = Bits(Self::READABLE.0 | Self::READ_CLOSED.0);
    /// Everything that lets a writer go on.
    pub(crate) const WRITE: Bits = Bits(Self::WRITABLE.0 | Self::WRITE_CLOSED.0);
    pub(crate) const ALL: Bits = Bits(Self::READ.0 | Self::WRITE.0 | Self::ERROR.0);

    /// The bits with which an operation of one direction may be tried. Several interests at once stand for no
    /// direction, and so for nothing: tokio's `try_io` has it so.
    pub(crate) fn direction(interest: Interest) -> Bits {
        match interest {
            Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY | Interest::ERROR => Bits::of(interest),
            _ => Bits::NONE,
        }
    }

    /// The bits that satisfy an interest.
    pub(crate) fn of(interest: Interest) -> Bits {
        let mut bits = Bits::NONE;
        if interest.is_readable() {
            bits |= Bits::READ;
        }
        if interest.is_writable() {
            bits |= Bits::WRITE;
        }
        if interest.is_priority() {
            // As tokio: or the end of the stream.
            bits |= Bits::PRIORITY | Bits::READ_CLOSED;
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
            (Bits::PRIORITY, Ready::PRIORITY),
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

impl Seen {
    /// Only these of the bits.
    pub(crate) fn only(self, mask: Bits) -> Seen {
        Seen { bits: self.bits & mask, ..self }
    }
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

    /// Sets bits without an event: an operation that finds otherwise clears them.
    pub(crate) fn assume(&mut self, bits: Bits) {
        self.bits |= bits;
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

    /// Keeps the waker of a poll function, in place of the one before, which is to be dropped without the lock:
    /// it may be the last that holds a task, and that a stream.
    #[must_use]
    pub(crate) fn register(&mut self, direction: Bits, waker: &Waker) -> Option<Waker> {
        let slot = if direction.intersects(Bits::READ) { &mut self.reader } else { &mut self.writer };
        replace(slot, waker)
    }

    /// Nobody polls any more. What was kept is to be dropped without the lock.
    #[must_use]
    pub(crate) fn take_pollers(&mut self) -> [Option<Waker>; 2] {
        [self.reader.take(), self.writer.take()]
    }

    pub(crate) fn waiters(&mut self) -> &mut Waiters {
        &mut self.waiters
    }
}

/// Puts a waker into a place, unless it is there already; gives the one before.
fn replace(slot: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match slot {
        Some(known) if known.will_wake(waker) => None,
        _ => slot.replace(waker.clone()),
    }
}

/// The tasks in `ready()`, `readable()`, `writable()`, `peek()` or `accept()`: any number, each with a
/// slot from its first poll until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug)]
enum Slot {
    Free,
    Waiting(Bits, Waker),
    Woken,
}

impl Waiters {
    /// Stores a waker under the waiter's key, or a new one. The waker that it replaces is to be dropped
    /// without the lock.
    #[must_use]
    pub(crate) fn wait(&mut self, key: &mut Option<usize>, mask: Bits, waker: &Waker) -> Option<Waker> {
        let at = *key.get_or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.slots.push(Slot::Free);
                self.slots.len() - 1
            })
        });
        match &mut self.slots[at] {
            Slot::Waiting(bits, known) if known.will_wake(waker) => {
                *bits = mask;
                None
            }
            slot => std::mem::replace(slot, Slot::Waiting(mask, waker.clone())).into_waker(),
        }
    }

    /// Whether what the waiter waited for has happened. It may be over by now.
    pub(crate) fn was_woken(&self, key: Option<usize>) -> bool {
        key.is_some_and(|at| matches!(self.slots[at], Slot::Woken))
    }

    /// The waiter is done or dropped. Its waker is to be dropped without the lock.
    #[must_use]
    pub(crate) fn leave(&mut self, key: &mut Option<usize>) -> Option<Waker> {
        let at = key.take()?;
        let left = std::mem::replace(&mut self.slots[at], Slot::Free);
        self.free.push(at);
        if self.free.len() == self.slots.len() {
            // The memory goes with the last one.
            *self = Waiters::default();
        }
        left.into_waker()
    }

    /// Takes the wakers of all who wait for one of these bits.
    pub(crate) fn take_matching(&mut self, bits: Bits, wake: &mut WakeList) {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Waiting(mask, _) if mask.intersects(bits)) {
                wake.extend(std::mem::replace(slot, Slot::Woken).into_waker());
            }
        }
    }
}

impl Slot {
    fn into_waker(self) -> Option<Waker> {
        if let Slot::Waiting(_, waker) = self { Some(waker) } else { None }
    }
}

/// Wakers to be woken once every lock has been given back. The first few need no allocation.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct WakeList(SmallVec<[Waker; 3]>);

impl WakeList {
    pub(crate) fn extend(&mut self, waker: Option<Waker>) {
        self.0.extend(waker);
    }

    /// Wakes them all; the list is empty then and may be used again.
    pub(crate) fn wake_all(&mut self) {
        if !self.0.is_empty() {
            self.0.drain(..).for_each(Waker::wake);
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
        assert!(r.register(Bits::READ, &wa).is_none());
        assert!(r.register(Bits::READ, &wb).is_some_and(|old| old.will_wake(&wa)));
        assert!(r.register(Bits::READ, &wb).is_none() && r.register(Bits::WRITE, &wc).is_none());
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
            assert!(r.waiters().wait(key, Bits::READ, &waker).is_none());
        }
        let mut writer = None;
        let (other, other_waker) = counter();
        assert!(r.waiters().wait(&mut writer, Bits::WRITE, &other_waker).is_none());
        assert!(r.waiters().leave(&mut keys[7]).is_some());
        r.set(Bits::READABLE, &mut wake);
        wake.wake_all();
        assert_eq!((woken(&count), woken(&other)), (49, 0));
        let slots = r.waiters().slots.len();
        assert!(r.waiters().wait(&mut keys[7], Bits::READ, &waker).is_none());
        assert_eq!(r.waiters().slots.len(), slots);
        assert!(r.waiters().was_woken(keys[8]) && !r.waiters().was_woken(keys[7]) && !r.waiters().was_woken(writer));
        for key in keys.iter_mut().chain([&mut writer]) {
            let _ = r.waiters().leave(key);
        }
        assert_eq!(r.waiters().slots.capacity(), 0);
    }

    #[test]
    fn bits_become_tokios() {
        assert_eq!(Bits::of(Interest::READABLE).to_ready(), Ready::READABLE | Ready::READ_CLOSED);
        assert_eq!(Bits::of(Interest::WRITABLE).to_ready(), Ready::WRITABLE | Ready::WRITE_CLOSED);
        assert_eq!(Bits::of(Interest::PRIORITY).to_ready(), Ready::PRIORITY | Ready::READ_CLOSED);
        assert_eq!(Bits::direction(Interest::ERROR), Bits::ERROR);
        assert_eq!(Bits::direction(Interest::READABLE | Interest::WRITABLE), Bits::NONE);
        assert_eq!(Bits::NONE.to_ready(), Ready::EMPTY);
    }
}
