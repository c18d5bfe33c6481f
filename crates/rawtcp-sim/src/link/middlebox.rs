//! What boxes on the path change in packets: the ECN field, and TCP options.

use bytes::{Bytes, BytesMut};
use rawtcp_proto::wire::{Ecn, checksum, ip};
use std::ops::Range;

/// Which TCP options a link overwrites with padding (NOP). The default: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StripOptions {
    /// Maximum segment size.
    pub mss: bool,
    /// Window scale.
    pub window_scale: bool,
    /// "SACK permitted", in SYNs.
    pub sack_permitted: bool,
    /// SACK blocks.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
}

impl StripOptions {
    /// All of them.
    pub const ALL: StripOptions =
        StripOptions { mss: true, window_scale: true, sack_permitted: true, sack: true, timestamps: true };

    pub(super) fn any(self) -> bool {
        self != StripOptions::default()
    }

    fn takes(self, kind: u8) -> bool {
        match kind {
            2 => self.mss,
            3 => self.window_scale,
            4 => self.sack_permitted,
            5 => self.sack,
            8 => self.timestamps,
            _ => false,
        }
    }
}

/// Where the TCP segment starts in a packet without extension headers.
fn tcp_start(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&ip::TCP) => Some(usize::from(packet[0] & 0xf) * 4),
        6 if packet.get(6) == Some(&ip::TCP) => Some(40),
        _ => None,
    }
}

/// The TCP options of a packet: kind, and where it stands.
fn options(packet: &[u8]) -> Vec<(u8, Range<usize>)> {
    let mut found = Vec::new();
    let Some(tcp) = tcp_start(packet) else { return found };
    let Some(&offset) = packet.get(tcp + 12) else { return found };
    let end = (tcp + usize::from(offset >> 4) * 4).min(packet.len());
    let mut at = tcp + 20;
    while at < end {
        let len = match packet[at] {
            0 => break,
            1 => 1,
            _ if at + 1 < end => usize::from(packet[at + 1]).max(2),
            _ => break,
        };
        if at + len > end {
            break;
        }
        found.push((packet[at], at..at + len));
        at += len;
    }
    found
}

/// The packet with these options overwritten, its checksum kept right (or as wrong as it was).
pub(super) fn strip(packet: Bytes, link_header: usize, what: StripOptions) -> Bytes {
    let Some(inner) = packet.get(link_header..) else { return packet };
    let found: Vec<_> = options(inner).into_iter().filter(|(kind, _)| what.takes(*kind)).collect();
    let Some(tcp) = tcp_start(inner).filter(|_| !found.is_empty()) else { return packet };
    let header = tcp..tcp + usize::from(inner[tcp + 12] >> 4) * 4;
    let before = checksum::sum(&inner[header.clone()]);
    let mut copy = BytesMut::from(&packet[..]);
    let inner = &mut copy[link_header..];
    for (_, range) in found {
        inner[range].fill(1);
    }
    // RFC 1624: the new field follows from the old one and what changed.
    let after = checksum::sum(&inner[header]);
    let at = tcp + 16;
    let old = u16::from_be_bytes([inner[at], inner[at + 1]]);
    let change = checksum::combine(after, u32::from(checksum::finish(before)), false);
    let field = checksum::finish(checksum::combine(u32::from(!old), change, false));
    inner[at..at + 2].copy_from_slice(&field.to_be_bytes());
    copy.freeze()
}

/// The packet marked "congestion experienced", if it is ECN-capable.
pub(super) fn mark(packet: &Bytes, link_header: usize) -> Option<Bytes> {
    let inner = packet.get(link_header..)?;
    let v4 = inner.first()? >> 4 == 4;
    let class = if v4 { *inner.get(1)? } else { *inner.first()? << 4 | *inner.get(1)? >> 4 };
    if !matches!(Ecn::of(class), Ecn::Ect0 | Ecn::Ect1) || inner.len() < 20 {
        return None;
    }
    let mut copy = BytesMut::from(&packet[..]);
    let inner = &mut copy[link_header..];
    if v4 {
        inner[1] |= 0b11;
        let len = usize::from(inner[0] & 0xf) * 4;
        inner[10..12].fill(0);
        let field = checksum::finish(checksum::sum(inner.get(..len)?));
        inner[10..12].copy_from_slice(&field.to_be_bytes());
    } else {
        inner[1] |= 0b11 << 4;
    }
    Some(copy.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rawtcp_proto::seq::{SeqNum, WireWindow};
    use rawtcp_proto::wire::tcp::{ChecksumState, HeaderBuf, IpMeta, build, parse};
    use rawtcp_proto::wire::{Flags, Options, SackBlocks, TcpHeader, Timestamps};

    fn packet(v6: bool, traffic_class: u8) -> Bytes {
        let (src, dst) = if v6 { ("2001:db8::1", "2001:db8::2") } else { ("10.0.0.1", "10.0.0.2") };
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let meta = IpMeta { src, dst, ttl: 64, traffic_class, id: 1, flow_label: 7 };
        let options = Options {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { value: 1234, echo: 0 }),
            sack: SackBlocks::default(),
        };
        let header = TcpHeader {
            src_port: 1,
            dst_port: 2,
            seq: SeqNum(99),
            ack: SeqNum(0),
            flags: Flags::SYN,
            window: WireWindow(500),
            urgent: 0,
            options,
        };
        let mut buf = HeaderBuf::new();
        build(&mut buf, &meta, &header, 3, Some(checksum::sum(b"abc")));
        let mut bytes = vec![0xee; 14];
        bytes.extend_from_slice(buf.as_slice());
        bytes.extend_from_slice(b"abc");
        bytes.into()
    }

    fn header(packet: &Bytes) -> (u8, TcpHeader) {
        let (ip, transport) = ip::parse(&packet[14..]).unwrap();
        let (header, text, _) = parse(&ip, transport, ChecksumState::Unknown, false).unwrap();
        assert_eq!(text, b"abc");
        (ip.traffic_class, header)
    }

    #[test]
    fn stripped_options_are_gone_and_the_checksum_is_right() {
        for v6 in [false, true] {
            let all = strip(packet(v6, 0), 14, StripOptions::ALL);
            assert_eq!(header(&all).1.options, Options::default());
            let some = StripOptions { timestamps: true, window_scale: true, ..StripOptions::default() };
            let left = header(&strip(packet(v6, 0), 14, some)).1.options;
            assert_eq!(left, Options { mss: Some(1460), sack_permitted: true, ..Options::default() });
        }
    }

    #[test]
    fn only_what_is_capable_is_marked() {
        for v6 in [false, true] {
            for (class, marked) in [(0, None), (0xb8, None), (0xba, Some(0xbb)), (0x01, Some(0x03)), (3, None)] {
                let found = mark(&packet(v6, class), 14).map(|packet| header(&packet).0);
                assert_eq!(found, marked, "{class:x}");
            }
        }
        assert_eq!(mark(&Bytes::from_static(b"x"), 0), None);
    }
}
