//! Waking whoever waits for a device without a descriptor.

use std::sync::{Mutex, PoisonError};
use std::task::Waker;

/// More registered wakers than this, and the oldest is woken to make room: a stale waker must not hold memory, and a
/// live one just looks again.
const SLOTS: usize = 8;

/// The wakers of those who wait for a device to become readable.
///
/// Waking takes all of them out; whoever wants to be woken again registers again **before** looking at the device.
#[derive(Debug, Default)]
pub struct WakeSlot {
    wakers: Mutex<Vec<Waker>>,
}

impl WakeSlot {
    /// An empty slot.
    pub const fn new() -> Self {
        Self { wakers: Mutex::new(Vec::new()) }
    }

    /// Adds a waker, unless it is there already.
    pub fn register(&self, waker: &Waker) {
        let evicted = {
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            if wakers.iter().any(|known| known.will_wake(waker)) {
                return;
            }
            let evicted = (wakers.len() >= SLOTS).then(|| wakers.remove(0));
            wakers.push(waker.clone());
            evicted
        };
        if let Some(waker) = evicted {
            waker.wake();
        }
    }

    /// Wakes all registered wakers; they run after the lock is given back.
    pub fn wake(&self) {
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in wakers {
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

    #[test]
    fn one_waker_is_woken_once_however_often_registered() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let slot = WakeSlot::new();
        slot.register(&waker);
        slot.register(&waker);
        slot.wake();
        slot.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn too_many_wakers_wake_the_oldest() {
        let slot = WakeSlot::new();
        let counts: Vec<_> = (0..SLOTS + 1).map(|_| Arc::new(Count::default())).collect();
        for count in &counts {
            slot.register(&Waker::from(count.clone()));
        }
        assert_eq!(counts[0].0.load(Ordering::SeqCst), 1);
        slot.wake();
        assert!(counts.iter().all(|count| count.0.load(Ordering::SeqCst) == 1));
    }
}
