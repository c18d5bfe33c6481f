//! The header that the kernel's virtual network devices put before each packet: what was left to the device
//! (`struct virtio_net_hdr`, in the byte order of the host).

use crate::{RxChecksum, TxChecksum, TxPacket};

/// Its length.
pub(crate) const LENGTH: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_VALID: u8 = 2;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
/// Set beside the kind where the first segment only is to carry CWR (RFC 3168 §6.1.2).
const ECN: u8 = 0x80;

/// What the kernel says of a received packet: the state of its checksum, and the payload of the segments it was merged
/// from (0: a single one).
pub(crate) fn parse(header: &[u8; LENGTH]) -> (RxChecksum, u16) {
    let checksum = match header[0] {
        flags if flags & NEEDS_CHECKSUM != 0 => RxChecksum::Partial,
        flags if flags & CHECKSUM_VALID != 0 => RxChecksum::Valid,
        _ => RxChecksum::Unverified,
    };
    let merged = matches!(header[1] & !ECN, TCP_V4 | TCP_V6);
    (checksum, if merged { u16::from_ne_bytes([header[4], header[5]]) } else { 0 })
}

/// Where the flags stand in a TCP header, and the one for "congestion window reduced".
const TCP_FLAGS: usize = 13;
const CWR: u8 = 0x80;

/// What the kernel has to do to a packet that begins `before` bytes into the frame. Its first slice is the headers.
pub(crate) fn build(packet: &TxPacket<'_>, before: u16) -> [u8; LENGTH] {
    let headers = packet.slices.first().map_or(&[][..], |headers| headers);
    let mut header = [0; LENGTH];
    let mut put = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    let (mut flags, mut reduced) = ([0; 2], false);
    if let TxChecksum::Partial { start, offset } = packet.checksum {
        flags[0] = NEEDS_CHECKSUM;
        put(6, before + start);
        put(8, offset);
        reduced = headers.get(usize::from(start) + TCP_FLAGS).is_some_and(|flags| flags & CWR != 0);
    }
    if packet.segment_size != 0 {
        flags[1] = if packet.dst.is_ipv4() { TCP_V4 } else { TCP_V6 } | if reduced { ECN } else { 0 };
        put(2, before + headers.len() as u16);
        put(4, packet.segment_size);
    }
    header[..2].copy_from_slice(&flags);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSlice;
    use std::net::IpAddr;

    #[test]
    fn what_is_built_for_a_segmentable_packet() {
        let headers = [0; 52];
        let checksum = TxChecksum::Partial { start: 20, offset: 16 };
        let (dst, v6) = (IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().unwrap());
        let slices = [IoSlice::new(&headers), IoSlice::new(&[0; 3000])];
        let packet = TxPacket { dst, scope: 0, link: None, slices: &slices, segment_size: 1448, checksum };
        let mut expected = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, value) in [(2, 66_u16), (4, 1448), (6, 34), (8, 16)] {
            expected[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        assert_eq!(build(&packet, 14), expected);
        assert_eq!(parse(&expected), (RxChecksum::Partial, 1448));
        let single = TxPacket { segment_size: 0, checksum: TxChecksum::Complete, ..packet };
        assert_eq!(build(&single, 14), [0; LENGTH]);
        let mut reduced = headers;
        reduced[20 + TCP_FLAGS] = CWR;
        let slices = [IoSlice::new(&reduced)];
        assert_eq!(build(&TxPacket { dst: v6, slices: &slices, ..packet }, 14)[1], TCP_V6 | ECN);
    }

    #[test]
    fn the_state_of_a_checksum_is_told() {
        let state = |flags| parse(&[flags, 0, 0, 0, 9, 9, 0, 0, 0, 0]);
        assert_eq!(state(0), (RxChecksum::Unverified, 0));
        assert_eq!(state(2), (RxChecksum::Valid, 0));
        assert_eq!(state(3), (RxChecksum::Partial, 0));
    }
}
