//! Sequence numbers and windows (RFC 9293 §3.4, §2.2 of RFC 7323).
//!
//! [`SeqNum`] is what the wire carries: 32 bits, modulo 2³², and therefore without `Ord`. Inside a
//! connection everything is counted in [`Offset`]: 64 bits since the initial sequence number, which
//! never wraps and is ordered. Offset 0 is the SYN, offset 1 the first byte of data, and the FIN takes
//! the offset behind the last byte. The two meet only where a segment is read or built.

use core::ops::Range;

/// A sequence number as it stands in a segment, modulo 2³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeqNum(pub u32);

impl SeqNum {
    /// The number `n` further on.
    #[must_use]
    pub const fn add(self, n: u32) -> SeqNum {
        SeqNum(self.0.wrapping_add(n))
    }

    /// The number `n` back.
    #[must_use]
    pub const fn sub(self, n: u32) -> SeqNum {
        SeqNum(self.0.wrapping_sub(n))
    }

    /// The signed distance from `earlier` to this number: positive when this one is later.
    pub const fn distance(self, earlier: SeqNum) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// Whether this number comes before `other` (within half the number space).
    pub const fn before(self, other: SeqNum) -> bool {
        self.distance(other) < 0
    }

    /// Whether this number is `other` or comes before it.
    pub const fn before_eq(self, other: SeqNum) -> bool {
        self.distance(other) <= 0
    }

    /// Whether this number comes after `other`.
    pub const fn after(self, other: SeqNum) -> bool {
        self.distance(other) > 0
    }

    /// Whether this number is `other` or comes after it.
    pub const fn after_eq(self, other: SeqNum) -> bool {
        self.distance(other) >= 0
    }

    /// The offset that this number stands for, given that it lies within 2³¹ of `near`.
    ///
    /// `None` when that would be before the initial sequence number.
    pub const fn unwrap(self, initial: SeqNum, near: Offset) -> Option<Offset> {
        let here = near.on_wire(initial);
        let offset = near.0 as i64 + self.distance(here) as i64;
        if offset < 0 { None } else { Some(Offset(offset as u64)) }
    }
}

/// A position in a connection's sequence space, counted from the initial sequence number; never wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The sequence number of this offset on the wire.
    pub const fn on_wire(self, initial: SeqNum) -> SeqNum {
        SeqNum(initial.0.wrapping_add(self.0 as u32))
    }

    /// The offset `n` further on.
    #[must_use]
    pub const fn add(self, n: u64) -> Offset {
        Offset(self.0 + n)
    }

    /// How far this is behind `earlier`; zero if it is not.
    pub const fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A half-open range of offsets.
pub type OffsetRange = Range<Offset>;

/// The window field as it stands in a segment: unsigned, scaled (RFC 9293 §3.1 [MUST-1]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireWindow(pub u16);

/// A shift count for windows, at most 14 (RFC 7323 §2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowScale(u8);

impl WindowScale {
    /// The largest shift that may be used.
    pub const MAX: WindowScale = WindowScale(14);
    /// No scaling.
    pub const NONE: WindowScale = WindowScale(0);

    /// The scale for a shift; anything above 14 is used as 14 (RFC 7323 §2.3).
    pub const fn new(shift: u8) -> Self {
        if shift > 14 { Self::MAX } else { WindowScale(shift) }
    }

    /// The smallest shift with which `bytes` fit the 16-bit field.
    pub fn for_window(bytes: u32) -> Self {
        let mut shift = 0;
        while shift < 14 && (bytes >> shift) > u32::from(u16::MAX) {
            shift += 1;
        }
        WindowScale(shift)
    }

    /// The shift count.
    pub const fn shift(self) -> u8 {
        self.0
    }

    /// The bytes that a window field stands for.
    pub const fn bytes(self, field: WireWindow) -> u32 {
        (field.0 as u32) << self.0
    }

    /// The field for a window of `bytes`, rounded down and capped at what the field holds.
    pub const fn field(self, bytes: u32) -> WireWindow {
        let scaled = bytes >> self.0;
        if scaled > u16::MAX as u32 { WireWindow(u16::MAX) } else { WireWindow(scaled as u16) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_survives_the_wrap(start: u32, n in 1u32..=i32::MAX as u32) {
            let (a, b) = (SeqNum(start), SeqNum(start).add(n));
            prop_assert!(a.before(b) && b.after(a) && !b.before(a));
            prop_assert_eq!(b.distance(a), n as i32);
            prop_assert_eq!(b.sub(n), a);
        }

        #[test]
        fn unwrap_is_the_inverse_of_on_wire(initial: u32, at in 0u64..1 << 40, near_by in -0x7fff_0000i64..0x7fff_0000) {
            let near = Offset((at as i64 + near_by).max(0) as u64);
            let initial = SeqNum(initial);
            prop_assert_eq!(Offset(at).on_wire(initial).unwrap(initial, near), Some(Offset(at)));
        }

        #[test]
        fn windows_round_down_and_never_grow(bytes in 0u32..1 << 30, shift in 0u8..=14) {
            let scale = WindowScale::new(shift);
            let back = scale.bytes(scale.field(bytes));
            prop_assert!(back <= bytes);
            prop_assert!(bytes - back < 1 << shift || scale.field(bytes).0 == u16::MAX);
        }

        #[test]
        fn smallest_scale_fits(bytes in 0u32..1 << 30) {
            let scale = WindowScale::for_window(bytes);
            prop_assert!(bytes >> scale.shift() <= 0xffff);
            prop_assert!(scale.shift() == 0 || bytes >> (scale.shift() - 1) > 0xffff);
        }
    }

    #[test]
    fn before_the_initial_number_there_is_no_offset() {
        assert_eq!(SeqNum(9).unwrap(SeqNum(10), Offset(0)), None);
        assert_eq!(SeqNum(9).unwrap(SeqNum(10), Offset(1 << 32)), Some(Offset((1 << 32) - 1)));
    }
}
