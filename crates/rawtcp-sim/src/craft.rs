//! Packets made by hand, and taken apart: for scripted peers, forged segments and routers.

use bytes::Bytes;
use rawtcp_proto::wire::ip::{self, ICMP, ICMPV6, IpMeta};
use rawtcp_proto::wire::tcp::{ChecksumState, HeaderBuf, build, parse};
use rawtcp_proto::wire::{IpHeader, TcpHeader, checksum};
use rawtcp_proto::{DropReason, FourTuple};
use std::net::{IpAddr, SocketAddr};

/// The IP packet of a segment from `src` to `dst`; the header's ports are overwritten. TTL 64, traffic
/// class 0.
pub fn segment(src: SocketAddr, dst: SocketAddr, header: &TcpHeader, payload: &[u8]) -> Bytes {
    segment_with_class(src, dst, header, payload, 0)
}

/// As [`segment`], with a traffic class: DSCP and ECN.
pub fn segment_with_class(src: SocketAddr, dst: SocketAddr, header: &TcpHeader, payload: &[u8], class: u8) -> Bytes {
    let header = TcpHeader { src_port: src.port(), dst_port: dst.port(), ..*header };
    let meta = IpMeta { src: src.ip(), dst: dst.ip(), ttl: 64, traffic_class: class, id: 0, flow_label: 0 };
    let mut buf = HeaderBuf::new();
    build(&mut buf, &meta, &header, payload.len(), Some(checksum::sum(payload)));
    [buf.as_slice(), payload].concat().into()
}

/// A segment taken out of its packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The IP header.
    pub ip: IpHeader,
    /// The TCP header.
    pub tcp: TcpHeader,
    /// The payload.
    pub payload: Bytes,
}

impl Parsed {
    /// Takes a TCP packet apart; every checksum is verified.
    ///
    /// # Errors
    /// Why it is not a valid TCP packet.
    pub fn new(packet: &Bytes) -> Result<Parsed, DropReason> {
        let (ip, transport) = ip::parse(packet)?;
        if ip.protocol != ip::TCP {
            return Err(DropReason::Protocol);
        }
        let (tcp, payload, _) = parse(&ip, transport, ChecksumState::Unknown, false)?;
        Ok(Parsed { ip, tcp, payload: packet.slice_ref(payload) })
    }

    /// Its two ends, seen from the sender.
    pub fn sender(&self) -> FourTuple {
        FourTuple::new(SocketAddr::new(self.ip.src, self.tcp.src_port), SocketAddr::new(self.ip.dst, self.tcp.dst_port))
    }
}

/// An ICMP error about `packet`, of its own family, from `from` to the packet's sender, with these three
/// fields of the header: type, code, and the 32 bits whose meaning depends on them.
///
/// `None`: `packet` or `from` is of no such family.
pub fn icmp_error(from: IpAddr, packet: &[u8], kind: u8, code: u8, rest: u32) -> Option<Bytes> {
    let v4 = packet.first()? >> 4 == 4;
    let (src, dst): (IpAddr, Option<IpAddr>) = if v4 {
        let octets: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
        (octets.into(), from.is_ipv4().then_some(from))
    } else {
        let octets: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
        (octets.into(), from.is_ipv6().then_some(from))
    };
    let from = dst?;
    // RFC 1812 §4.3.2.3 and RFC 4443 §2.4 (c): as much of the packet as fits in the smallest MTU.
    let quoted = &packet[..packet.len().min(if v4 { 548 } else { 1232 })];
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend_from_slice(quoted);
    let pseudo = if v4 { 0 } else { checksum::pseudo_header(from, src, ICMPV6, message.len() as u32) };
    let field = checksum::finish(checksum::combine(pseudo, checksum::sum(&message), false));
    message[2..4].copy_from_slice(&field.to_be_bytes());
    Some([ip_header(from, src, message.len()), message].concat().into())
}

fn ip_header(from: IpAddr, to: IpAddr, len: usize) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            header[2..4].copy_from_slice(&(20 + len as u16).to_be_bytes());
            let field = checksum::finish(checksum::sum(&header));
            header[10..12].copy_from_slice(&field.to_be_bytes());
            header
        }
        _ => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((len as u16).to_be_bytes());
            header.extend([ICMPV6, 64]);
            header.extend(octets(from));
            header.extend(octets(to));
            header
        }
    }
}

/// "Packet too big" with this MTU (RFC 1191, RFC 8201), as a router at `from` says it about `packet`.
pub fn too_big(from: IpAddr, packet: &[u8], mtu: u32) -> Option<Bytes> {
    let (kind, code) = if packet.first()? >> 4 == 4 { (3, 4) } else { (2, 0) };
    icmp_error(from, packet, kind, code, mtu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rawtcp_proto::wire::{IcmpKind, icmp};
    use rawtcp_proto::{SeqNum, wire::Flags};

    #[test]
    fn what_is_crafted_is_understood() {
        for (src, dst, router) in
            [("10.0.0.1:5", "10.0.0.2:6", "10.9.9.9"), ("[2001:db8::1]:5", "[2001:db8::2]:6", "2001:db8::9")]
        {
            let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            let router: IpAddr = router.parse().unwrap();
            let header = TcpHeader { seq: SeqNum(77), flags: Flags::SYN, ..TcpHeader::default() };
            let packet = segment(src, dst, &header, b"hello");
            let parsed = Parsed::new(&packet).unwrap();
            assert_eq!((parsed.tcp.seq, &parsed.payload[..]), (SeqNum(77), &b"hello"[..]));
            assert_eq!(parsed.sender(), FourTuple::new(src, dst));
            let error = too_big(router, &packet, 1280).unwrap();
            let (ip, message) = ip::parse(&error).unwrap();
            let read = if src.is_ipv4() { icmp::parse_v4(&ip, message) } else { icmp::parse_v6(&ip, message, true) };
            let read = read.unwrap();
            assert_eq!((read.kind, read.seq), (IcmpKind::PacketTooBig { mtu: 1280 }, SeqNum(77)));
            assert_eq!((read.tuple, read.from), (FourTuple::new(src, dst), router));
            assert_eq!(
                icmp_error(if src.is_ipv4() { "::1" } else { "10.0.0.1" }.parse().unwrap(), &packet, 3, 0, 0),
                None
            );
        }
    }
}
