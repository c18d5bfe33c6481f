//! What most connections never need, or only while they do something, lies on the heap from when it is first written
//! to: a connection that does nothing is to be small.

use core::ops::Deref;
use std::collections::VecDeque;

/// A value that can be had without memory while it is what it began as.
pub(crate) trait Idle: Sized + 'static {
    /// What it began as.
    const BEGIN: Self;
    /// To be looked at.
    fn idle() -> &'static Self;
}

impl<T: 'static> Idle for VecDeque<T> {
    const BEGIN: Self = VecDeque::new();

    fn idle() -> &'static Self {
        const { &VecDeque::new() }
    }
}

/// A value that is read in its place, and takes memory once it is [edited](Self::edit).
#[derive(Clone, Debug)]
pub(crate) struct Cold<T>(Option<Box<T>>);

impl<T: Idle> Cold<T> {
    pub(crate) const fn new() -> Self {
        Cold(None)
    }

    /// To change it.
    pub(crate) fn edit(&mut self) -> &mut T {
        self.0.get_or_insert_with(Self::begin)
    }

    #[cold]
    fn begin() -> Box<T> {
        Box::new(T::BEGIN)
    }

    /// The value, if it was ever changed, to be looked at.
    pub(crate) fn if_touched(&self) -> Option<&T> {
        self.0.as_deref()
    }

    /// The value, if it was ever changed.
    pub(crate) fn touched(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Back to what it began as; gives the memory back.
    pub(crate) fn reset(&mut self) {
        self.0 = None;
    }
}

impl<T: Idle> Default for Cold<T> {
    fn default() -> Self {
        Cold::new()
    }
}

impl<T: Idle> Deref for Cold<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match &self.0 {
            Some(value) => value,
            None => T::idle(),
        }
    }
}
