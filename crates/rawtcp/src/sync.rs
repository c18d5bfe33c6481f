//! The synchronisation primitives in use, at one place so that a model checker can take their place.

use std::sync::PoisonError;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};

/// Locks a structure which is consistent between any two statements that change it, so that a panic
/// elsewhere says nothing about it. Connections are locked by `ConnCell::lock` instead.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
