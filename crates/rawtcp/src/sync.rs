//! The synchronisation primitives in use, at one place so that a model checker can take their place: the package
//! `rawtcp-models` compiles this crate with those of shuttle.

#[cfg(rawtcp_models)]
use shuttle::sync;
#[cfg(not(rawtcp_models))]
use std::sync;

#[cfg(not(rawtcp_models))]
pub(crate) use futures::task::AtomicWaker;
pub(crate) use std::sync::Arc;
use std::sync::PoisonError;
pub(crate) use sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use sync::{Mutex, MutexGuard};

/// Locks a structure which is consistent between any two statements that change it, so that a panic
/// elsewhere says nothing about it. Connections are locked by `ConnCell::lock` instead.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place for one waker, with points at which shuttle may switch, which the real one has not.
#[cfg(rawtcp_models)]
#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(Mutex<Option<std::task::Waker>>);

#[cfg(rawtcp_models)]
impl AtomicWaker {
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        *lock(&self.0) = Some(waker.clone());
    }

    pub(crate) fn wake(&self) {
        let waker = lock(&self.0).take();
        waker.into_iter().for_each(std::task::Waker::wake);
    }
}
