//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, as far as a TCP needs them.
//!
//! Not implemented: reassembly (a fragment is dropped with a reason of its own), IPv4 options (skipped),
//! jumbograms beyond what segmentation offload hands up, and ICMP answers to bad extension headers.

use super::checksum;
use crate::error::DropReason;
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;
use std::net::IpAddr;

/// ICMP, over IPv4 only.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// ICMPv6, over IPv6 only.
pub const ICMPV6: u8 = 58;

/// Length of an IPv4 header without options, in bytes.
pub(super) const V4_HEADER: usize = 20;
/// Length of an IPv6 header without extension headers, in bytes.
pub(super) const V6_HEADER: usize = 40;

/// IPv6 extension headers (RFC 8200 §4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Explicit congestion notification: the two low bits of the traffic class (RFC 3168 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotEct = 0b00,
    /// ECN-capable, codepoint 1 (L4S, RFC 9331).
    Ect1 = 0b01,
    /// ECN-capable, codepoint 0.
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// The codepoint in a traffic class (or IPv4 type of service).
    pub const fn of(traffic_class: u8) -> Ecn {
        match traffic_class & 0b11 {
            0b00 => Ecn::NotEct,
            0b01 => Ecn::Ect1,
            0b10 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }

    /// The two bits.
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// What is kept of a received IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Who sent the packet.
    pub src: IpAddr,
    /// To whom.
    pub dst: IpAddr,
    /// The transport, behind any extension headers: [`TCP`], [`ICMP`] or [`ICMPV6`].
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class: six bits of DSCP, two of ECN.
    pub traffic_class: u8,
}

impl IpHeader {
    /// The ECN codepoint.
    pub const fn ecn(&self) -> Ecn {
        Ecn::of(self.traffic_class)
    }
}

/// What the IP header of a packet to send says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpMeta {
    /// Our address.
    pub src: IpAddr,
    /// The peer's, of the same family.
    pub dst: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class, with the ECN bits.
    pub traffic_class: u8,
    /// Identification, IPv4 only; "don't fragment" is always set (RFC 6864 §4.1: any value will do).
    pub id: u16,
    /// Flow label, IPv6 only, 20 bits (RFC 6437).
    pub flow_label: u32,
}

/// Reads the IP header of a packet, v4 or v6, and gives it with the transport's bytes, trimmed to the
/// length that the header states.
///
/// A stated length of 0 in a longer packet is what segmentation offload leaves of packets over 64 KiB:
/// there the received length counts.
///
/// # Errors
/// [`DropReason::Truncated`], [`IpVersion`](DropReason::IpVersion), [`IpChecksum`](DropReason::IpChecksum),
/// [`IpFragment`](DropReason::IpFragment), or [`Protocol`](DropReason::Protocol) when the transport is
/// neither TCP nor this version's ICMP.
pub fn parse(packet: &[u8]) -> Result<(IpHeader, &[u8]), DropReason> {
    match packet.first().ok_or(DropReason::Truncated)? >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => Err(DropReason::IpVersion),
    }
}

fn parse_v4(packet: &[u8]) -> Result<(IpHeader, &[u8]), DropReason> {
    let ip = Ipv4Packet::new(packet).ok_or(DropReason::Truncated)?;
    let header_len = usize::from(ip.get_header_length()) * 4;
    if header_len < V4_HEADER {
        return Err(DropReason::Truncated);
    }
    let header = packet.get(..header_len).ok_or(DropReason::Truncated)?;
    if checksum::finish(checksum::sum(header)) != 0 {
        return Err(DropReason::IpChecksum);
    }
    let end = match usize::from(ip.get_total_length()) {
        0 => packet.len(),
        n => n,
    };
    let transport = packet.get(header_len..end).ok_or(DropReason::Truncated)?;
    const MORE_FRAGMENTS: u8 = 0b001;
    if ip.get_flags() & MORE_FRAGMENTS != 0 || ip.get_fragment_offset() != 0 {
        return Err(DropReason::IpFragment);
    }
    let protocol = ip.get_next_level_protocol().0;
    if protocol != TCP && protocol != ICMP {
        return Err(DropReason::Protocol);
    }
    let header = IpHeader {
        src: IpAddr::V4(ip.get_source()),
        dst: IpAddr::V4(ip.get_destination()),
        protocol,
        ttl: ip.get_ttl(),
        traffic_class: ip.get_dscp() << 2 | ip.get_ecn(),
    };
    Ok((header, transport))
}

fn parse_v6(packet: &[u8]) -> Result<(IpHeader, &[u8]), DropReason> {
    let ip = Ipv6Packet::new(packet).ok_or(DropReason::Truncated)?;
    let end = match usize::from(ip.get_payload_length()) {
        0 => packet.len(),
        n => V6_HEADER + n,
    };
    let payload = packet.get(V6_HEADER..end).ok_or(DropReason::Truncated)?;
    let (protocol, transport) = skip_extensions(ip.get_next_header().0, payload)?;
    let header = IpHeader {
        src: IpAddr::V6(ip.get_source()),
        dst: IpAddr::V6(ip.get_destination()),
        protocol,
        ttl: ip.get_hop_limit(),
        traffic_class: ip.get_traffic_class(),
    };
    Ok((header, transport))
}

/// Walks the extension headers that may stand before the transport (RFC 8200 §4).
fn skip_extensions(mut next: u8, mut bytes: &[u8]) -> Result<(u8, &[u8]), DropReason> {
    let mut first = true;
    loop {
        match next {
            TCP | ICMPV6 => return Ok((next, bytes)),
            FRAGMENT => return Err(DropReason::IpFragment),
            // RFC 8200 §4.1: hop-by-hop options stand directly behind the IPv6 header or nowhere.
            HOP_BY_HOP if first => {}
            ROUTING | DESTINATION_OPTIONS => {}
            _ => return Err(DropReason::Protocol),
        }
        let &[following, units, ..] = bytes else { return Err(DropReason::Truncated) };
        let len = (usize::from(units) + 1) * 8;
        let extension = bytes.get(..len).ok_or(DropReason::Truncated)?;
        if next == ROUTING {
            // RFC 8200 §4.4: with segments left this node is not the last one, whatever the type.
            if extension[3] != 0 {
                return Err(DropReason::Protocol);
            }
        } else {
            check_options(&extension[2..])?;
        }
        bytes = &bytes[len..];
        next = following;
        first = false;
    }
}

/// Looks for options in a hop-by-hop or destination options header that forbid going on.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    const PAD1: u8 = 0;
    /// RFC 2675; Linux puts it on packets over 64 KiB that never were on a wire.
    const JUMBO: u8 = 0xc2;
    while let Some(&kind) = options.first() {
        if kind == PAD1 {
            options = &options[1..];
            continue;
        }
        // RFC 8200 §4.2: the top two bits say what to do with an unknown option; only 00 is "skip".
        if kind >> 6 != 0 && kind != JUMBO {
            return Err(DropReason::Protocol);
        }
        let len = usize::from(*options.get(1).ok_or(DropReason::Truncated)?);
        options = options.get(2 + len..).ok_or(DropReason::Truncated)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
