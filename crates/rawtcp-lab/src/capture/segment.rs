//! TCP segments in captured frames. Written apart from the stack's own parser: a test that asks what was on the wire
//! should not ask the code under test.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use bytes::Bytes;

use super::Frame;

/// The control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    const NAMES: [&'static str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

    /// No more data from the sender.
    pub fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    /// Synchronize.
    pub fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }

    /// Reset.
    pub fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// Push.
    pub fn psh(self) -> bool {
        self.0 & 0x08 != 0
    }

    /// The acknowledgment number counts.
    pub fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set: Vec<&str> =
            Self::NAMES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| *name).collect();
        if set.is_empty() { f.write_str("none") } else { f.write_str(&set.join("|")) }
    }
}

/// A TCP segment that was captured.
#[derive(Clone, Debug)]
pub struct TcpSegment {
    /// When it passed the interface.
    pub time: SystemTime,
    /// Sent by the host whose interface it is, as opposed to received.
    pub outgoing: bool,
    /// Where it comes from.
    pub src: SocketAddr,
    /// Where it goes.
    pub dst: SocketAddr,
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgment number.
    pub ack: u32,
    /// The control bits.
    pub flags: TcpFlags,
    /// The window as it stands in the header, not scaled.
    pub window: u16,
    /// The checksum as it stands in the header; where offloads are at work it may be unfinished.
    pub checksum: u16,
    /// The option bytes.
    pub options: Bytes,
    /// How many bytes of payload it had on the wire.
    pub payload_len: usize,
    /// The payload, as far as it was captured.
    pub payload: Bytes,
    /// The two bits of explicit congestion notification in the IP header (RFC 3168): 0 not capable, 3 experienced.
    pub ecn: u8,
    /// Hops left.
    pub ttl: u8,
}

impl TcpSegment {
    /// The segment in a frame; `None` if there is none, or its headers were not captured, or it is a fragment.
    pub fn parse(frame: &Frame) -> Option<Self> {
        const ETHERNET: usize = 14;
        let data = &frame.data;
        let ip = data.get(ETHERNET..)?;
        let kind = u16::from_be_bytes([data[12], data[13]]);
        let (src, dst, ecn, ttl, header, length): (IpAddr, IpAddr, u8, u8, usize, usize) = match kind {
            0x0800 => {
                let h = ip.first_chunk::<20>()?;
                let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x3fff;
                if h[0] >> 4 != 4 || h[9] != 6 || fragment != 0 {
                    return None;
                }
                let src: [u8; 4] = *h[12..].first_chunk()?;
                let dst: [u8; 4] = *h[16..].first_chunk()?;
                let length = usize::from(u16::from_be_bytes([h[2], h[3]]));
                let header = usize::from(h[0] & 15) * 4;
                (Ipv4Addr::from(src).into(), Ipv4Addr::from(dst).into(), h[1] & 3, h[8], header, length)
            }
            0x86dd => {
                let h = ip.first_chunk::<40>()?;
                // Segments behind extension headers are not looked for.
                if h[0] >> 4 != 6 || h[6] != 6 {
                    return None;
                }
                let src: [u8; 16] = *h[8..].first_chunk()?;
                let dst: [u8; 16] = *h[24..].first_chunk()?;
                let length = usize::from(u16::from_be_bytes([h[4], h[5]]));
                let length = if length == 0 { 0 } else { length + 40 };
                (Ipv6Addr::from(src).into(), Ipv6Addr::from(dst).into(), (h[1] >> 4) & 3, h[7], 40, length)
            }
            _ => return None,
        };
        // Frames above 64 KiB ("big TCP") leave the field at zero.
        let length = if length == 0 { frame.length - ETHERNET } else { length };
        let captured = &ip[..length.min(ip.len())];
        let tcp = captured.get(header..)?;
        let h = tcp.first_chunk::<20>()?;
        let offset = usize::from(h[12] >> 4) * 4;
        let start = ETHERNET + header;
        let port = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
        let number = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        tcp.get(20..offset)?;
        Some(Self {
            time: frame.time,
            outgoing: frame.outgoing,
            src: SocketAddr::new(src, port(0)),
            dst: SocketAddr::new(dst, port(2)),
            seq: number(4),
            ack: number(8),
            flags: TcpFlags(h[13]),
            window: port(14),
            checksum: port(16),
            options: data.slice(start + 20..start + offset),
            payload_len: length.checked_sub(header + offset)?,
            payload: data.slice(start + offset..ETHERNET + captured.len()),
            ecn,
            ttl,
        })
    }

    /// How much of the sequence space it takes: payload, SYN and FIN.
    pub fn seq_len(&self) -> u32 {
        self.payload_len as u32 + u32::from(self.flags.syn()) + u32::from(self.flags.fin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: [u8; 2], ip: &[u8], tcp: &[u8]) -> Frame {
        let data = [&[0; 12], &kind[..], ip, tcp].concat();
        Frame { time: SystemTime::UNIX_EPOCH, outgoing: false, length: data.len(), data: data.into() }
    }

    const TCP: [u8; 28] = [
        0x30, 0x39, 0, 80, 0, 0, 0, 7, 0, 0, 0, 9, 0x60, 0x12, 0xfa, 0xf0, 0xab, 0xcd, 0, 0, 2, 4, 5, 0xb4, 1, 2, 3, 4,
    ];

    #[test]
    fn both_families() {
        let v4 = [0x45, 3, 0, 48, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        // Ethernet pads short frames; the padding is no payload.
        let padded = [&TCP[..], &[0; 6]].concat();
        let segment = TcpSegment::parse(&frame([8, 0], &v4, &padded)).unwrap();
        assert_eq!(segment.src, "10.0.0.1:12345".parse().unwrap());
        assert_eq!(segment.dst, "10.0.0.2:80".parse().unwrap());
        assert_eq!((segment.seq, segment.ack, segment.window, segment.ecn), (7, 9, 0xfaf0, 3));
        assert_eq!(format!("{:?}", segment.flags), "SYN|ACK");
        assert_eq!((segment.payload_len, &segment.payload[..], segment.seq_len()), (4, &[1, 2, 3, 4][..], 5));
        assert_eq!(segment.options[..], [2, 4, 5, 0xb4]);

        let mut v6 = [0u8; 40];
        v6[..8].copy_from_slice(&[0x60, 0x20, 0, 0, 0, 28, 6, 63]);
        (v6[8], v6[23], v6[24], v6[39]) = (0xfd, 1, 0xfd, 2);
        let segment = TcpSegment::parse(&frame([0x86, 0xdd], &v6, &TCP)).unwrap();
        assert_eq!(segment.src, "[fd00::1]:12345".parse().unwrap());
        assert_eq!((segment.payload_len, segment.ecn, segment.ttl), (4, 2, 63));
    }

    #[test]
    fn cut_at_any_place_nothing_panics() {
        let v4 = [0x45, 3, 0, 48, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let whole = frame([8, 0], &v4, &TCP);
        for end in 0..whole.data.len() {
            let cut = Frame { data: whole.data.slice(..end), ..whole.clone() };
            let parsed = TcpSegment::parse(&cut);
            // Headers and options end at 58; of the payload less may have been captured.
            assert_eq!(parsed.is_some(), end >= 58, "{end}");
            assert!(parsed.is_none_or(|segment| segment.payload_len == 4));
        }
    }
}
