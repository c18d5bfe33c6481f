//! Initial sequence numbers (RFC 6528 §3) and timestamp offsets (RFC 7323 §5.4, §7.1).
//!
//! Both are functions of a secret and the four-tuple. Nobody without the secret can tell one tuple's
//! value from another's, while on one tuple the numbers of successive connections only go up.

use super::demux::TupleBytes;
use crate::seq::SeqNum;
use crate::time::Instant;
use crate::wire::FourTuple;
use siphasher::sip::SipHasher24;
use siphasher::sip128::{self, Hasher128};
use std::hash::Hasher;

/// The tick of M, the clock in the sequence number: 4 µs (RFC 9293 §3.4.1 [MUST-8]).
const ISN_TICK_NANOS: u64 = 4_000;

/// An independent 128-bit key for one purpose.
pub(super) fn derive(seed: &[u8; 32], label: &[u8]) -> (u64, u64) {
    let (key, rest) = seed.split_at(16);
    let mut half = [0; 16];
    half.copy_from_slice(key);
    let mut hasher = sip128::SipHasher24::new_with_key(&half);
    hasher.write(rest);
    hasher.write(label);
    hasher.finish128().as_u64()
}

/// The timestamp clock: milliseconds since the caller's epoch, plus the connection's offset
/// (RFC 7323 §5.4: between 1 ms and 1 s a tick).
pub(super) const fn timestamp(now: Instant, offset: u32) -> u32 {
    (now.as_millis() as u32).wrapping_add(offset)
}

/// The secrets behind initial sequence numbers and timestamp offsets.
#[derive(Clone)]
pub(super) struct Secrets {
    isn: SipHasher24,
    timestamps: SipHasher24,
}

impl Secrets {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        let keyed = |label: &[u8]| {
            let (k0, k1) = derive(seed, label);
            SipHasher24::new_with_keys(k0, k1)
        };
        Secrets { isn: keyed(b"isn"), timestamps: keyed(b"timestamp") }
    }

    /// ISN = M + F(tuple, secret) (RFC 6528 §3; RFC 9293 §3.4.1 [MUST-8], [SHLD-1]).
    pub(super) fn isn(&self, now: Instant, tuple: &FourTuple) -> SeqNum {
        let m = (now.as_nanos() / ISN_TICK_NANOS) as u32;
        SeqNum(self.isn.hash(TupleBytes::of(tuple).as_slice()) as u32).add(m)
    }

    pub(super) fn ts_offset(&self, tuple: &FourTuple) -> u32 {
        self.timestamps.hash(TupleBytes::of(tuple).as_slice()) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn tuple(port: u16) -> FourTuple {
        FourTuple::new("10.0.0.1:80".parse().unwrap(), ([10, 0, 0, 2], port).into())
    }

    #[test]
    fn one_tuple_counts_four_microseconds_at_a_time() {
        let secrets = Secrets::new(&[1; 32]);
        let now = Instant::from_secs(5);
        let first = secrets.isn(now, &tuple(1));
        assert_eq!(secrets.isn(now + Duration::from_micros(3), &tuple(1)), first);
        assert_eq!(secrets.isn(now + Duration::from_micros(4), &tuple(1)), first.add(1));
        assert_eq!(secrets.isn(now + Duration::from_secs(1), &tuple(1)), first.add(250_000));
        // A whole turn of the number space.
        let turn = Duration::from_micros(4 << 32);
        assert_eq!(secrets.isn(now + turn, &tuple(1)), first);
    }

    #[test]
    fn tuples_and_seeds_and_purposes_are_independent() {
        let (a, b) = (Secrets::new(&[1; 32]), Secrets::new(&[2; 32]));
        let now = Instant::from_secs(5);
        let mut seen = std::collections::BTreeSet::new();
        for port in 1..=500 {
            for value in [a.isn(now, &tuple(port)).0, b.isn(now, &tuple(port)).0] {
                assert!(seen.insert(value));
            }
            assert_ne!(a.ts_offset(&tuple(port)), a.isn(Instant::ZERO, &tuple(port)).0);
            assert_eq!(a.ts_offset(&tuple(port)), Secrets::new(&[1; 32]).ts_offset(&tuple(port)));
        }
        // Every byte of the seed matters.
        for i in 0..32 {
            let mut seed = [1; 32];
            seed[i] ^= 0x80;
            assert_ne!(derive(&seed, b"isn"), derive(&[1; 32], b"isn"), "byte {i}");
        }
    }

    #[test]
    fn the_timestamp_clock_ticks_milliseconds_and_wraps() {
        assert_eq!(timestamp(Instant::from_millis(7), 10), 17);
        assert_eq!(timestamp(Instant::from_millis(7), u32::MAX), 6);
    }
}
