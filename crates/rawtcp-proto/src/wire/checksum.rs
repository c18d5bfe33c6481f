//! The Internet checksum (RFC 1071), which IP, ICMP and TCP share.
//!
//! A sum here is a ones-complement sum of big-endian 16-bit words, folded to 16 bits and not yet
//! complemented, in a `u32`. Sums of parts are put together with [`combine`]; [`finish`] makes the
//! field. Ones-complement has two zeros: a folded sum is 0 only when everything summed was zero, and
//! otherwise the zero shows as 0xffff.

use std::net::IpAddr;

/// Bytes per round of the main loop: eight words of 32 bits, each with an accumulator of its own.
const BLOCK: usize = 32;

/// The ones-complement sum of `data`, taken to begin at an even position; folded to 16 bits, not
/// complemented. An odd last byte counts as the high half of a word (RFC 1071 §4.1).
pub fn sum(data: &[u8]) -> u32 {
    // RFC 1071 §2 (B) and (C): the sum does not depend on the byte order or the width of the words,
    // as long as the carries come round. So the words are 32 bits in the machine's order, and 64-bit
    // accumulators collect the carries: even their total could overflow only beyond 2^32 words.
    let (blocks, tail) = data.as_chunks::<BLOCK>();
    let mut lanes = [0u64; BLOCK / 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, rest) = tail.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0u8; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(last));
    u32::from(u16::from_be(fold(total)))
}

/// The sum of two pieces that follow each other: `a`, then `b`, where `b_at_odd` says that `b` begins
/// at an odd position, which swaps its bytes (RFC 1071 §2 (B)). Either may be unfolded.
pub fn combine(a: u32, b: u32, b_at_odd: bool) -> u32 {
    let b = fold(u64::from(b));
    let b = if b_at_odd { b.swap_bytes() } else { b };
    u32::from(fold(u64::from(a) + u64::from(b)))
}

/// The value of the checksum field for a sum: folded and complemented.
///
/// A receiver that sums everything including the field gets 0 from this when the packet is intact.
pub fn finish(sum: u32) -> u16 {
    !fold(u64::from(sum))
}

/// The sum of the pseudo header of TCP and ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1); `len` is that of
/// the transport header with its payload, in bytes.
///
/// Over IPv4 the length has 16 bits; the upper half of a longer one, which only segmentation offload
/// makes, is added in the same way as over IPv6. Should the families differ, which no packet can, both
/// addresses count as IPv6 with IPv4 ones mapped.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, proto: u8, len: u32) -> u32 {
    let addresses = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => u64::from(src.to_bits()) + u64::from(dst.to_bits()),
        _ => u64::from(combine(sum(&mapped(src)), sum(&mapped(dst)), false)),
    };
    u32::from(fold(addresses + u64::from(proto) + u64::from(len)))
}

/// The octets of an address as IPv6.
pub(super) fn mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

fn fold(sum: u64) -> u16 {
    // The first step leaves at most 2 * (2^32 - 1): not all of its 33 bits are ones, nor are then the
    // 17 bits that the second step leaves, and so the third has nothing left to carry.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word, sharing nothing with the code under test.
    pub(in crate::wire) fn naive(data: &[u8]) -> u32 {
        let mut total = 0u32;
        for (i, &byte) in data.iter().enumerate() {
            total += if i % 2 == 0 { u32::from(byte) << 8 } else { u32::from(byte) };
            if total > 0xffff {
                total -= 0xffff;
            }
        }
        total
    }

    #[test]
    fn known_sums() {
        let long = vec![0xffu8; 65_536];
        let table: &[(&str, &[u8], u32)] = &[
            ("nothing", &[], 0),
            ("RFC 1071 §3", &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0xddf2),
            ("one byte is a high half", &[0xab], 0xab00),
            ("odd tail", &[0x00, 0x01, 0xf2], 0xf201),
            ("three bytes behind a word", &[0, 1, 0, 2, 0, 3, 4], 0x0406),
            ("carry comes round", &[0xff, 0xff, 0x00, 0x01], 0x0001),
            ("zeros sum to zero", &[0; 100], 0x0000),
            ("the other zero stays 0xffff", &[0xff, 0xff, 0xff, 0xff], 0xffff),
            ("64 KiB of ones", &long, 0xffff),
        ];
        for (name, data, expected) in table {
            assert_eq!(sum(data), *expected, "{name}");
        }
    }

    #[test]
    fn rfc_1071_byte_swapped_example_combines() {
        // RFC 1071 §3, "Break up": 00 | 01 f2 03 f4 f5 | f6 f7, the second part at an odd position.
        let (a, b, c) = (sum(&[0x00]), sum(&[0x01, 0xf2, 0x03, 0xf4, 0xf5]), sum(&[0xf6, 0xf7]));
        assert_eq!(combine(combine(a, b, true), c, false), 0xddf2);
    }

    #[test]
    fn ipv4_header_checks_to_zero() {
        let mut header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(finish(sum(&header)), 0xb861);
        header[10..12].copy_from_slice(&0xb861u16.to_be_bytes());
        assert_eq!(finish(sum(&header)), 0);
    }

    #[test]
    fn pseudo_headers() {
        let v4 = |s: &str| s.parse::<IpAddr>().unwrap();
        let naive4 = naive(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0, 20]);
        assert_eq!(pseudo_header(v4("10.0.0.1"), v4("10.0.0.2"), 6, 20), naive4);
        let (src, dst) = ("2001:db8::1".parse().unwrap(), "fe80::ffff:1".parse().unwrap());
        let mut bytes = Vec::new();
        for addr in [src, dst] {
            bytes.extend_from_slice(&mapped(addr));
        }
        bytes.extend_from_slice(&[0, 1, 2, 3, 0, 0, 0, 58]);
        assert_eq!(pseudo_header(src, dst, 58, 0x0001_0203), naive(&bytes));
    }

    #[test]
    fn unfolded_sums_are_welcome() {
        assert_eq!(finish(0xffff_ffff), 0);
        assert_eq!(finish(0x0001_fffe), 0);
        assert_eq!(combine(0xffff_ffff, 0xffff_ffff, true), 0xffff);
        assert_eq!(combine(0x0001_0001, 0x0002_0100, true), combine(2, 0x0102, true));
    }

    proptest! {
        #[test]
        fn folding_keeps_the_value(
            sum in prop_oneof![any::<u64>(), u64::MAX - 0xffff.., 0u64..0x4_0000],
            bit in 0..64,
        ) {
            for sum in [sum, sum | (1u64 << bit), u64::MAX << bit, u64::MAX >> bit] {
                let folded = u64::from(fold(sum));
                prop_assert_eq!(folded % 0xffff, sum % 0xffff);
                prop_assert_eq!(folded == 0, sum == 0);
            }
        }

        #[test]
        fn equals_the_naive_sum_at_any_alignment(
            data in proptest::collection::vec(any::<u8>(), 0..700),
            skip in 0usize..40,
        ) {
            let data = &data[skip.min(data.len())..];
            prop_assert_eq!(sum(data), naive(data));
        }

        #[test]
        fn any_cut_combines_to_the_whole(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in (0usize..300, 0usize..300),
        ) {
            let (x, y) = (cuts.0.min(data.len()), cuts.1.min(data.len()));
            let (x, y) = (x.min(y), x.max(y));
            let first = combine(sum(&data[..x]), sum(&data[x..y]), x % 2 == 1);
            prop_assert_eq!(combine(first, sum(&data[y..]), y % 2 == 1), sum(&data));
        }

        #[test]
        fn the_field_makes_the_whole_zero(mut data in proptest::collection::vec(any::<u8>(), 2..100)) {
            data[..2].fill(0);
            let field = finish(sum(&data));
            data[..2].copy_from_slice(&field.to_be_bytes());
            prop_assert_eq!(finish(sum(&data)), 0);
        }
    }
}
