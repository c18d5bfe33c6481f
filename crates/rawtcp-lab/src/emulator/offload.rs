//! Finishing what an offload left to a device that is not there: checksums and TCP segmentation.

use rawtcp_io::afpacket_raw::{Offload, SegmentKind};

use super::LINK_HEADER;

/// What there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finished {
    /// Nothing.
    Whole,
    /// A checksum to complete.
    Checksummed,
    /// Several segments to make.
    Segmented,
    /// A large frame that is not TCP, or not what the kernel said it was. It was handed on as it is.
    Unknown,
}

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Hands on `frame`, or all the frames it stands for, as they would be on the wire.
pub(super) fn finish(frame: &mut [u8], offload: &Offload, mut out: impl FnMut(&[u8])) -> Finished {
    match offload.kind {
        SegmentKind::None => {
            let done = complete_checksum(frame, offload);
            out(frame);
            done
        }
        SegmentKind::TcpV4 | SegmentKind::TcpV6 => match Layout::of(frame, offload) {
            Some(layout) => {
                segment(frame, &layout, usize::from(offload.segment_size), out);
                Finished::Segmented
            }
            None => {
                out(frame);
                Finished::Unknown
            }
        },
        SegmentKind::Other(_) => {
            out(frame);
            Finished::Unknown
        }
    }
}

fn complete_checksum(frame: &mut [u8], offload: &Offload) -> Finished {
    let Some(offset) = offload.checksum_offset else {
        return Finished::Whole;
    };
    let start = usize::from(offload.checksum_start);
    let field = start + usize::from(offset);
    if field + 2 > frame.len() {
        return Finished::Unknown;
    }
    // The field holds the sum of the pseudo-header, and is summed with the rest.
    let mut checksum = !fold(sum(&frame[start..]));
    // Zero means "none" to UDP; in ones' complement 0xffff is the same number.
    const UDP_CHECKSUM_OFFSET: u16 = 6;
    if checksum == 0 && offset == UDP_CHECKSUM_OFFSET {
        checksum = 0xffff;
    }
    frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    Finished::Checksummed
}

/// Where the headers of a large TCP frame are.
struct Layout {
    v4: bool,
    tcp: usize,
    payload: usize,
}

impl Layout {
    fn of(frame: &[u8], offload: &Offload) -> Option<Self> {
        let tcp = usize::from(offload.checksum_start);
        let v4 = offload.kind == SegmentKind::TcpV4;
        let smallest = LINK_HEADER + if v4 { 20 } else { 40 };
        let words = usize::from(frame.get(tcp + 12)? >> 4);
        let payload = tcp + words * 4;
        let sound = tcp >= smallest && words >= 5 && payload < frame.len() && offload.segment_size > 0;
        sound.then_some(Self { v4, tcp, payload })
    }
}

fn segment(frame: &[u8], layout: &Layout, size: usize, mut out: impl FnMut(&[u8])) {
    let (headers, payload) = frame.split_at(layout.payload);
    let field16 = |at: usize| u16::from_be_bytes([headers[at], headers[at + 1]]);
    let tcp = layout.tcp;
    let seq = u32::from_be_bytes([headers[tcp + 4], headers[tcp + 5], headers[tcp + 6], headers[tcp + 7]]);
    let count = payload.len().div_ceil(size);
    let mut packet = Vec::with_capacity(headers.len() + size);
    for (number, data) in payload.chunks(size).enumerate() {
        packet.clear();
        packet.extend_from_slice(headers);
        packet.extend_from_slice(data);
        let ip_length = packet.len() - LINK_HEADER;
        if layout.v4 {
            let id = field16(LINK_HEADER + 4).wrapping_add(number as u16);
            put16(&mut packet, LINK_HEADER + 2, ip_length as u16);
            put16(&mut packet, LINK_HEADER + 4, id);
            put16(&mut packet, LINK_HEADER + 10, 0);
            let checksum = !fold(sum(&packet[LINK_HEADER..tcp]));
            put16(&mut packet, LINK_HEADER + 10, checksum);
        } else {
            put16(&mut packet, LINK_HEADER + 4, (ip_length - 40) as u16);
        }
        let seq = seq.wrapping_add((number * size) as u32);
        packet[tcp + 4..tcp + 8].copy_from_slice(&seq.to_be_bytes());
        if number > 0 {
            packet[tcp + 13] &= !CWR;
        }
        if number + 1 < count {
            packet[tcp + 13] &= !(FIN | PSH);
        }
        put16(&mut packet, tcp + 16, 0);
        let addresses = if layout.v4 { LINK_HEADER + 12..LINK_HEADER + 20 } else { LINK_HEADER + 8..LINK_HEADER + 40 };
        const TCP: u64 = 6;
        let pseudo = sum(&packet[addresses]) + TCP + (packet.len() - tcp) as u64;
        let checksum = !fold(pseudo + sum(&packet[tcp..]));
        put16(&mut packet, tcp + 16, checksum);
        out(&packet);
    }
}

fn put16(packet: &mut [u8], at: usize, value: u16) {
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The sum of 16-bit words (RFC 1071), not yet folded. `data` begins at an even position.
fn sum(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<2>();
    let odd = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
    words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + odd
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with `payload` bytes of TCP, checksum field as the kernel leaves it for the device.
    fn large(v4: bool, payload: usize, flags: u8) -> (Vec<u8>, Offload) {
        let mut frame = vec![0u8; LINK_HEADER];
        let tcp_length = 32 + payload;
        if v4 {
            frame.extend([0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            put16(&mut frame, LINK_HEADER + 2, (20 + tcp_length) as u16);
        } else {
            frame.extend([0x60, 0, 0, 0, 0, 0, 6, 64]);
            put16(&mut frame, LINK_HEADER + 4, tcp_length as u16);
            frame.extend([0xfd; 16]);
            frame.extend([0xfc; 16]);
        }
        let tcp = frame.len();
        frame.extend([0x30, 0x39, 0, 80, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 9, 0x80, flags, 1, 0, 0, 0, 0, 0]);
        frame.extend([1; 12]);
        frame.extend((0..payload).map(|n| n as u8));
        let addresses = if v4 { tcp - 8..tcp } else { tcp - 32..tcp };
        let pseudo = fold(sum(&frame[addresses]) + 6 + tcp_length as u64);
        put16(&mut frame, tcp + 16, pseudo);
        let kind = if v4 { SegmentKind::TcpV4 } else { SegmentKind::TcpV6 };
        let checksum_start = tcp as u16;
        (frame, Offload { checksum_start, checksum_offset: Some(16), segment_size: 1000, kind })
    }

    fn assert_sound(frame: &[u8], v4: bool) {
        let tcp = if v4 { 34 } else { 54 };
        let length = frame.len() - LINK_HEADER;
        if v4 {
            assert_eq!(fold(sum(&frame[LINK_HEADER..tcp])), 0xffff, "IP checksum");
            assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), length);
        } else {
            assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), length - 40);
        }
        let addresses = if v4 { tcp - 8..tcp } else { tcp - 32..tcp };
        let pseudo = sum(&frame[addresses]) + 6 + (frame.len() - tcp) as u64;
        assert_eq!(fold(pseudo + sum(&frame[tcp..])), 0xffff, "TCP checksum");
    }

    #[test]
    fn segments_carry_the_payload_and_sound_headers() {
        for v4 in [true, false] {
            let (mut frame, offload) = large(v4, 2_501, FIN | PSH | CWR | 0x10);
            let tcp = usize::from(offload.checksum_start);
            let mut out = Vec::new();
            let done = finish(&mut frame, &offload, |packet| out.push(packet.to_vec()));
            assert_eq!(done, Finished::Segmented);
            assert_eq!(out.len(), 3);
            let payload: Vec<u8> = out.iter().flat_map(|packet| packet[tcp + 32..].to_vec()).collect();
            assert_eq!(payload, frame[tcp + 32..]);
            let flags: Vec<u8> = out.iter().map(|packet| packet[tcp + 13]).collect();
            assert_eq!(flags, [0x10 | CWR, 0x10, 0x10 | FIN | PSH]);
            let seqs: Vec<u32> =
                out.iter().map(|p| u32::from_be_bytes(p[tcp + 4..tcp + 8].try_into().unwrap())).collect();
            assert_eq!(seqs, [0xffff_fff0, 984, 1984]);
            out.iter().for_each(|packet| assert_sound(packet, v4));
            if v4 {
                let ids: Vec<[u8; 2]> = out.iter().map(|p| [p[18], p[19]]).collect();
                assert_eq!(ids, [[0xff, 0xff], [0, 0], [0, 1]]);
            }
        }
    }

    #[test]
    fn checksum_is_completed() {
        for v4 in [true, false] {
            let (mut frame, offload) = large(v4, 333, 0x10);
            let offload = Offload { kind: SegmentKind::None, segment_size: 0, ..offload };
            // The IP checksum is never left to the device.
            if v4 {
                let checksum = !fold(sum(&frame[14..34]));
                put16(&mut frame, 24, checksum);
            }
            let mut out = Vec::new();
            assert_eq!(finish(&mut frame, &offload, |p| out.push(p.to_vec())), Finished::Checksummed);
            assert_sound(&out[0], v4);
        }
    }

    #[test]
    fn nothing_to_do_and_nonsense() {
        let (mut frame, offload) = large(true, 100, 0x10);
        let mut count = 0;
        assert_eq!(finish(&mut frame, &Offload::default(), |_| count += 1), Finished::Whole);
        for wrong in [
            Offload { segment_size: 0, ..offload },
            Offload { checksum_start: 0, ..offload },
            Offload { checksum_start: 9_999, ..offload },
            Offload { kind: SegmentKind::Other(5), ..offload },
            Offload { kind: SegmentKind::None, checksum_start: u16::MAX, ..offload },
        ] {
            assert_eq!(finish(&mut frame, &wrong, |_| count += 1), Finished::Unknown, "{wrong:?}");
        }
        assert_eq!(count, 6);
    }
}
