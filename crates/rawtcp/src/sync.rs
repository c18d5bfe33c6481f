//! The synchronisation primitives in use, at one place so that a model checker can take their place: the package
//! `rawtcp-models` compiles this crate with those of shuttle.

#[cfg(rawtcp_models)]
use shuttle::sync;
#[cfg(not(rawtcp_models))]
use std::sync;

pub(crate) use std::sync::Arc;
use std::sync::PoisonError;
pub(crate) use sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use sync::{Mutex, MutexGuard};

/// Locks a structure which is consistent between any two statements that change it, so that a panic
/// elsewhere says nothing about it. Connections are locked by `ConnCell::lock` instead.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
