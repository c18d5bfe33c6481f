//! ICMP (RFC 792) and ICMPv6 (RFC 4443) error messages about our own segments.
//!
//! Whether the quoted segment fits a connection (RFC 5927 §4), and what the error does to it (RFC 9293
//! §3.9.2.2), is decided there. Echo, neighbour discovery and other informational messages are ignored,
//! and so are the extensions of RFC 4884 behind the quoted packet.

use super::ip::{self, IpHeader, V4_HEADER, V6_HEADER};
use super::{FourTuple, checksum};
use crate::error::DropReason;
use crate::seq::SeqNum;
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;
use std::net::{IpAddr, SocketAddr};

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpKind {
    /// No route to the network.
    NetUnreachable,
    /// No way to the host.
    HostUnreachable,
    /// The host has no TCP (IPv4 only).
    ProtocolUnreachable,
    /// The host, or something before it, has nobody on the port.
    PortUnreachable,
    /// The packet was too big to be forwarded.
    PacketTooBig {
        /// MTU of the next hop, in bytes, IP header included; 0 from routers older than RFC 1191.
        mtu: u32,
    },
    /// The route that the packet prescribed failed.
    SourceRouteFailed,
    /// Forbidden by a policy on the path.
    Prohibited,
    /// The hop limit, or the time for reassembly, ran out.
    TimeExceeded,
    /// A field of the header was not understood.
    ParameterProblem,
    /// An obsolete request to slow down, to be ignored (RFC 6633, RFC 9293 §3.9.2.2 [MUST-55]).
    SourceQuench,
}

/// An ICMP error about a TCP segment that this host sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// What it says.
    pub kind: IcmpKind,
    /// The connection, from the quoted packet: local is what sent it. Scope ids are 0: the caller, who
    /// knows the interface, adds that of a link-local address.
    pub tuple: FourTuple,
    /// The quoted sequence number.
    pub seq: SeqNum,
    /// Who reports it.
    pub from: IpAddr,
}

/// Length of the ICMP header before the quoted packet, in bytes.
const ICMP_HEADER: usize = 8;
/// Bytes of the quoted TCP header that are always there (RFC 792): ports and sequence number.
const QUOTED: usize = 8;

/// Reads an ICMP message that came over IPv4; its checksum is verified.
///
/// # Errors
/// [`DropReason::Truncated`], [`Checksum`](DropReason::Checksum), or
/// [`IcmpIgnored`](DropReason::IcmpIgnored) for whatever is not an error about a TCP segment.
pub fn parse_v4(ip: &IpHeader, bytes: &[u8]) -> Result<IcmpError, DropReason> {
    let (head, quoted) = bytes.split_first_chunk::<ICMP_HEADER>().ok_or(DropReason::Truncated)?;
    if checksum::finish(checksum::sum(bytes)) != 0 {
        return Err(DropReason::Checksum);
    }
    let kind = kind_v4(head).ok_or(DropReason::IcmpIgnored)?;

    let packet = Ipv4Packet::new(quoted).ok_or(DropReason::Truncated)?;
    let header_len = usize::from(packet.get_header_length()) * 4;
    // Neither the quoted checksum nor the quoted length is looked at: routers on the way changed the
    // one, and some stacks quote the other in their own byte order.
    if packet.get_version() != 4 || header_len < V4_HEADER {
        return Err(DropReason::IcmpIgnored);
    }
    if packet.get_next_level_protocol().0 != ip::TCP || packet.get_fragment_offset() != 0 {
        return Err(DropReason::IcmpIgnored);
    }
    let transport = quoted.get(header_len..).ok_or(DropReason::Truncated)?;
    let (src, dst) = (packet.get_source().into(), packet.get_destination().into());
    quoted_segment(kind, ip.src, src, dst, transport)
}

/// Reads an ICMPv6 message. `verify` says whether its checksum is to be verified here: the kernel has
/// done so for raw ICMPv6 sockets (RFC 3542 §3.1).
///
/// # Errors
/// As for [`parse_v4`].
pub fn parse_v6(ip: &IpHeader, bytes: &[u8], verify: bool) -> Result<IcmpError, DropReason> {
    let (head, quoted) = bytes.split_first_chunk::<ICMP_HEADER>().ok_or(DropReason::Truncated)?;
    if verify {
        // RFC 4443 §2.3: unlike over IPv4, the pseudo header is part of the sum.
        let pseudo = checksum::pseudo_header(ip.src, ip.dst, ip::ICMPV6, bytes.len() as u32);
        if checksum::finish(checksum::combine(pseudo, checksum::sum(bytes), false)) != 0 {
            return Err(DropReason::Checksum);
        }
    }
    let kind = kind_v6(head).ok_or(DropReason::IcmpIgnored)?;

    let packet = Ipv6Packet::new(quoted).ok_or(DropReason::Truncated)?;
    // We send no extension headers, so a quoted packet with some is not ours.
    if packet.get_version() != 6 || packet.get_next_header().0 != ip::TCP {
        return Err(DropReason::IcmpIgnored);
    }
    let transport = quoted.get(V6_HEADER..).ok_or(DropReason::Truncated)?;
    let (src, dst) = (packet.get_source().into(), packet.get_destination().into());
    quoted_segment(kind, ip.src, src, dst, transport)
}

/// Types and codes of RFC 792, with RFC 1122 §3.2.2.1 and RFC 1812 §5.2.7.1. Where a code has no kind of
/// its own, it has the one that leads to the same errno as in Linux.
fn kind_v4(head: &[u8; ICMP_HEADER]) -> Option<IcmpKind> {
    let &[kind, code, .., mtu_high, mtu_low] = head;
    Some(match (kind, code) {
        // 6: network unknown, 9: network prohibited, 11: network unreachable for this type of service.
        (3, 0 | 6 | 9 | 11) => IcmpKind::NetUnreachable,
        // 7: host unknown, 8: source isolated, 12: host unreachable for this type of service.
        (3, 1 | 7 | 8 | 12) => IcmpKind::HostUnreachable,
        (3, 2) => IcmpKind::ProtocolUnreachable,
        (3, 3) => IcmpKind::PortUnreachable,
        // RFC 1191 §4: the next hop's MTU is in the low half of what RFC 792 left unused.
        (3, 4) => IcmpKind::PacketTooBig { mtu: u32::from(u16::from_be_bytes([mtu_high, mtu_low])) },
        (3, 5) => IcmpKind::SourceRouteFailed,
        // 10: host prohibited, 13: by filtering, 14 and 15: by precedence.
        (3, 10 | 13..=15) => IcmpKind::Prohibited,
        (4, _) => IcmpKind::SourceQuench,
        (11, _) => IcmpKind::TimeExceeded,
        (12, _) => IcmpKind::ParameterProblem,
        _ => return None,
    })
}

/// Types and codes of RFC 4443 §3.
fn kind_v6(head: &[u8; ICMP_HEADER]) -> Option<IcmpKind> {
    let &[kind, code, _, _, a, b, c, d] = head;
    Some(match (kind, code) {
        (1, 0) => IcmpKind::NetUnreachable,
        // 2: beyond the scope of the source address, 3: address unreachable.
        (1, 2 | 3) => IcmpKind::HostUnreachable,
        (1, 4) => IcmpKind::PortUnreachable,
        // 1: by policy, 5: source address failed policy, 6: reject route.
        (1, 1 | 5 | 6) => IcmpKind::Prohibited,
        // RFC 6554 §7.2.
        (1, 7) => IcmpKind::SourceRouteFailed,
        // RFC 4443 §3.2: the code is ignored by the receiver.
        (2, _) => IcmpKind::PacketTooBig { mtu: u32::from_be_bytes([a, b, c, d]) },
        (3, _) => IcmpKind::TimeExceeded,
        (4, _) => IcmpKind::ParameterProblem,
        _ => return None,
    })
}

fn quoted_segment(
    kind: IcmpKind,
    from: IpAddr,
    src: IpAddr,
    dst: IpAddr,
    transport: &[u8],
) -> Result<IcmpError, DropReason> {
    let &[a, b, c, d, e, f, g, h] = transport.first_chunk::<QUOTED>().ok_or(DropReason::Truncated)?;
    let local = SocketAddr::new(src, u16::from_be_bytes([a, b]));
    let remote = SocketAddr::new(dst, u16::from_be_bytes([c, d]));
    let seq = SeqNum(u32::from_be_bytes([e, f, g, h]));
    Ok(IcmpError { kind, tuple: FourTuple::new(local, remote), seq, from })
}

#[cfg(test)]
mod tests;
