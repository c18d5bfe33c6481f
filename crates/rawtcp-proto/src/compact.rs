//! Optional values in eight bytes instead of sixteen or more: each connection keeps many, and what can not occur as a
//! value stands for none.

use crate::seq::Offset;
use crate::time::{Duration, Instant};
use core::fmt;
use core::marker::PhantomData;

/// A value that is at most `u64::MAX - 1` as a number.
pub(crate) trait Compact: Copy {
    fn to_bits(self) -> u64;
    fn from_bits(bits: u64) -> Self;
}

impl Compact for Offset {
    fn to_bits(self) -> u64 {
        self.0
    }

    fn from_bits(bits: u64) -> Self {
        Offset(bits)
    }
}

impl Compact for Instant {
    fn to_bits(self) -> u64 {
        self.as_nanos()
    }

    fn from_bits(bits: u64) -> Self {
        Instant::from_nanos(bits)
    }
}

/// To the nanosecond; what is longer than 584 years is that long.
impl Compact for Duration {
    fn to_bits(self) -> u64 {
        self.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(self.subsec_nanos()))
    }

    fn from_bits(bits: u64) -> Self {
        Duration::from_nanos(bits)
    }
}

const NONE: u64 = u64::MAX;

/// An `Option<T>`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Maybe<T>(u64, PhantomData<T>);

impl<T: Compact> Maybe<T> {
    pub(crate) const NONE: Self = Maybe(NONE, PhantomData);

    pub(crate) fn get(self) -> Option<T> {
        (self.0 != NONE).then(|| T::from_bits(self.0))
    }

    pub(crate) fn is_some(self) -> bool {
        self.0 != NONE
    }

    pub(crate) fn is_none(self) -> bool {
        self.0 == NONE
    }
}

impl<T: Compact> From<T> for Maybe<T> {
    fn from(value: T) -> Self {
        Maybe(value.to_bits().min(NONE - 1), PhantomData)
    }
}

impl<T: Compact> From<Option<T>> for Maybe<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::NONE, Self::from)
    }
}

impl<T: Compact> Default for Maybe<T> {
    fn default() -> Self {
        Self::NONE
    }
}

impl<T: Compact + fmt::Debug> fmt::Debug for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        for nanos in [0, 1, u64::MAX - 1] {
            assert_eq!(Maybe::from(Instant::from_nanos(nanos)).get(), Some(Instant::from_nanos(nanos)));
            assert_eq!(Maybe::from(Some(Offset(nanos))).get(), Some(Offset(nanos)));
            assert_eq!(Maybe::from(Duration::from_nanos(nanos)).get(), Some(Duration::from_nanos(nanos)));
        }
        assert_eq!(Maybe::from(Duration::MAX).get(), Some(Duration::from_nanos(u64::MAX - 1)));
        assert!(Maybe::<Offset>::default().is_none() && Maybe::<Offset>::from(None).get().is_none());
        assert_eq!(size_of::<Maybe<Duration>>(), 8);
    }
}
