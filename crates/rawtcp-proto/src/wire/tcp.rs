//! The TCP header (RFC 9293 §3.1): read from a packet, and built into one.
//!
//! The four reserved bits are ignored when read and zero when built.

use super::checksum;
use super::ip::{Ecn, IpHeader, TCP, V4_HEADER, V6_HEADER};
use super::options::{MAX_OPTIONS, Options};
use crate::error::DropReason;
use crate::seq::{SeqNum, WireWindow};
use bytes::Bytes;
use core::fmt;
use core::ops::{BitOr, BitOrAssign};
use pnet_packet::tcp::TcpPacket;
use std::net::IpAddr;

pub use super::ip::IpMeta;

/// Length of a TCP header without options, in bytes.
const TCP_HEADER: usize = 20;
/// Where the checksum stands in the TCP header, in bytes.
const CHECKSUM_AT: usize = 16;

/// The control bits of a segment (RFC 9293 §3.1).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag at all.
    pub const NONE: Flags = Flags(0);
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push function.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgment field counts.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168 §6.1).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168 §6.1).
    pub const CWR: Flags = Flags(0x80);

    /// Whether every flag of `other` is set here.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any flag of `other` is set here.
    pub const fn intersects(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// These flags and those of `other`; what `|` does, for constants.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// These flags without those of `other`.
    #[must_use]
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

impl BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        self.with(other)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Flags) {
        *self = self.with(other);
    }
}

/// `SYN|ACK`, in the order of the bits, or `none`.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        if self.0 == 0 {
            return f.write_str("none");
        }
        let mut bar = "";
        for (bit, name) in NAMES.iter().enumerate() {
            if self.0 & 1 << bit != 0 {
                write!(f, "{bar}{name}")?;
                bar = "|";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A TCP header, in host byte order.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpHeader {
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
    /// Sequence number of the first byte, or of the SYN.
    pub seq: SeqNum,
    /// The next sequence number expected; meaningful with [`Flags::ACK`] only.
    pub ack: SeqNum,
    /// Control bits.
    pub flags: Flags,
    /// The window as it stands there, scaled.
    pub window: WireWindow,
    /// Urgent pointer, relative to `seq`; meaningful with [`Flags::URG`] only.
    pub urgent: u16,
    /// Options.
    pub options: Options,
}

impl TcpHeader {
    /// The length of this header with its options when built, in bytes.
    pub fn encoded_len(&self) -> usize {
        TCP_HEADER + self.options.encoded_len()
    }
}

/// One line much as tcpdump's: `443 > 50000 [SYN|ACK] seq 1 ack 2 win 65535 <mss 1460,sackOK>`.
impl fmt::Debug for TcpHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} [{}] seq {}", self.src_port, self.dst_port, self.flags, self.seq.0)?;
        if self.flags.contains(Flags::ACK) {
            write!(f, " ack {}", self.ack.0)?;
        }
        write!(f, " win {}", self.window.0)?;
        if self.flags.contains(Flags::URG) {
            write!(f, " urg {}", self.urgent)?;
        }
        if self.options != Options::default() {
            write!(f, " <{:?}>", self.options)?;
        }
        Ok(())
    }
}

/// What the device says of a received packet's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumState {
    /// Nothing: verify it in full.
    #[default]
    Unknown,
    /// The device has verified it.
    Valid,
    /// The packet never was on a wire; the field holds the sum of the pseudo header only.
    Partial,
}

/// How a packet's checksum was found to be acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumVerdict {
    /// It covers the whole segment.
    Full,
    /// It covers the pseudo header only: the sender left the rest to a device that never had to do it.
    PseudoOnly,
}

/// Which checksums are acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumPolicy {
    /// Whether a field that holds just the pseudo header's sum will do, where the device gives no word
    /// on it (raw sockets): so come packets from kernels on the same host.
    pub accept_pseudo_only: bool,
}

/// Reads a segment: its header, its payload, and how its checksum was found to be right.
///
/// `bytes` begin with the TCP header and end with the payload. Ports and addresses are not judged.
///
/// # Errors
/// [`DropReason::Truncated`], [`Checksum`](DropReason::Checksum),
/// [`DataOffset`](DropReason::DataOffset) or [`OptionLength`](DropReason::OptionLength).
pub fn parse<'a>(
    ip: &IpHeader,
    bytes: &'a [u8],
    state: ChecksumState,
    accept_pseudo_only: bool,
) -> Result<(TcpHeader, &'a [u8], ChecksumVerdict), DropReason> {
    let tcp = TcpPacket::new(bytes).ok_or(DropReason::Truncated)?;
    // First of all, so that damage on the way is counted as such, wherever it struck.
    let verdict = match state {
        ChecksumState::Valid => ChecksumVerdict::Full,
        ChecksumState::Partial => ChecksumVerdict::PseudoOnly,
        ChecksumState::Unknown => verify(ip, bytes, tcp.get_checksum(), accept_pseudo_only)?,
    };
    // RFC 9293 §3.1: the data offset counts 32-bit words and includes the five of the fixed part.
    let header_len = usize::from(tcp.get_data_offset()) * 4;
    if header_len < TCP_HEADER || header_len > bytes.len() {
        return Err(DropReason::DataOffset);
    }
    let header = TcpHeader {
        src_port: tcp.get_source(),
        dst_port: tcp.get_destination(),
        seq: SeqNum(tcp.get_sequence()),
        ack: SeqNum(tcp.get_acknowledgement()),
        flags: Flags(tcp.get_flags()),
        window: WireWindow(tcp.get_window()),
        urgent: tcp.get_urgent_ptr(),
        options: Options::parse(&bytes[TCP_HEADER..header_len])?,
    };
    Ok((header, &bytes[header_len..], verdict))
}

/// RFC 9293 §3.1: the receiver checks the checksum. [MUST-3]
fn verify(ip: &IpHeader, bytes: &[u8], field: u16, accept_pseudo_only: bool) -> Result<ChecksumVerdict, DropReason> {
    let pseudo = checksum::pseudo_header(ip.src, ip.dst, TCP, bytes.len() as u32);
    if checksum::finish(checksum::combine(pseudo, checksum::sum(bytes), false)) == 0 {
        return Ok(ChecksumVerdict::Full);
    }
    // Equal as ones-complement numbers, where 0x0000 and 0xffff are the same: `a - b` is a zero.
    let difference = checksum::finish(checksum::combine(pseudo, u32::from(!field), false));
    if accept_pseudo_only && difference == 0 {
        return Ok(ChecksumVerdict::PseudoOnly);
    }
    Err(DropReason::Checksum)
}

/// A received segment, on its way to a connection.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The header.
    pub header: TcpHeader,
    /// The data.
    pub payload: &'a [u8],
    /// The buffer that `payload` lies in, if it may be kept: `owner.slice_ref(payload)`.
    pub owner: Option<&'a Bytes>,
    /// The congestion codepoint of the packet it came in.
    pub ecn: Ecn,
    /// The payload size, in bytes, of the segments that the device merged into this one; 0: not merged.
    pub gro_size: u16,
}

impl Segment<'_> {
    /// SEG.LEN: the sequence numbers that the segment takes, SYN and FIN included (RFC 9293 §3.4).
    pub fn seq_len(&self) -> u32 {
        let flags = self.header.flags;
        let controls = u32::from(flags.contains(Flags::SYN)) + u32::from(flags.contains(Flags::FIN));
        self.payload.len() as u32 + controls
    }
}

/// Room for the IP and TCP headers of one packet.
#[derive(Clone, Copy)]
pub struct HeaderBuf {
    bytes: [u8; HeaderBuf::CAPACITY],
    tcp: u8,
    len: u8,
}

impl HeaderBuf {
    /// Bytes of room: more than the longest, which is IPv6 with a full set of TCP options.
    pub const CAPACITY: usize = 120;

    /// An empty one.
    pub const fn new() -> Self {
        HeaderBuf { bytes: [0; Self::CAPACITY], tcp: 0, len: 0 }
    }

    /// The headers, as they go on the wire.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    /// The length of both headers, in bytes.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether nothing was built yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the TCP header begins: what a device that finishes the checksum starts from.
    pub fn tcp_start(&self) -> usize {
        usize::from(self.tcp)
    }

    /// Where the checksum field stands, counted from [`tcp_start`](Self::tcp_start).
    pub const fn checksum_offset() -> usize {
        CHECKSUM_AT
    }
}

const _: () = assert!(V6_HEADER + TCP_HEADER + MAX_OPTIONS <= HeaderBuf::CAPACITY);

impl Default for HeaderBuf {
    fn default() -> Self {
        HeaderBuf::new()
    }
}

impl fmt::Debug for HeaderBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeaderBuf").field(&self.as_slice()).finish()
    }
}

/// Builds the IP and TCP headers of a segment that carries `payload_len` bytes.
///
/// `payload_sum` is [`checksum::sum`] over the payload, folded or not. With `None` the checksum field
/// holds the pseudo header's sum, uncomplemented, for a device that adds the rest. A length that the IP
/// header can not state is written as 0, as Linux does on its way to a segmenting device.
/// IPv4 and IPv6 addresses together, which is a mistake of the caller's, give IPv6 with the other mapped.
pub fn build(buf: &mut HeaderBuf, ip: &IpMeta, header: &TcpHeader, payload_len: usize, payload_sum: Option<u32>) {
    let tcp_len = header.encoded_len();
    let transport_len = tcp_len + payload_len;
    let start = match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = u16::try_from(V4_HEADER + transport_len).unwrap_or(0);
            build_v4(&mut buf.bytes, ip, src.octets(), dst.octets(), total);
            V4_HEADER
        }
        _ => {
            build_v6(&mut buf.bytes, ip, u16::try_from(transport_len).unwrap_or(0));
            V6_HEADER
        }
    };
    let tcp = &mut buf.bytes[start..start + tcp_len];
    tcp[0..2].copy_from_slice(&header.src_port.to_be_bytes());
    tcp[2..4].copy_from_slice(&header.dst_port.to_be_bytes());
    tcp[4..8].copy_from_slice(&header.seq.0.to_be_bytes());
    tcp[8..12].copy_from_slice(&header.ack.0.to_be_bytes());
    tcp[12] = (tcp_len as u8 / 4) << 4;
    tcp[13] = header.flags.0;
    tcp[14..16].copy_from_slice(&header.window.0.to_be_bytes());
    tcp[CHECKSUM_AT..18].fill(0);
    tcp[18..20].copy_from_slice(&header.urgent.to_be_bytes());
    header.options.emit(&mut tcp[TCP_HEADER..]);

    // RFC 9293 §3.1: the sender makes the checksum. [MUST-2]
    let pseudo = checksum::pseudo_header(ip.src, ip.dst, TCP, transport_len as u32);
    let field = match payload_sum {
        Some(payload) => {
            let headers = checksum::combine(pseudo, checksum::sum(tcp), false);
            checksum::finish(checksum::combine(headers, payload, false))
        }
        None => pseudo as u16,
    };
    tcp[CHECKSUM_AT..18].copy_from_slice(&field.to_be_bytes());
    buf.tcp = start as u8;
    buf.len = (start + tcp_len) as u8;
}

fn build_v4(out: &mut [u8], ip: &IpMeta, src: [u8; 4], dst: [u8; 4], total: u16) {
    const DONT_FRAGMENT: u8 = 0x40;
    out[0] = 0x45;
    out[1] = ip.traffic_class;
    out[2..4].copy_from_slice(&total.to_be_bytes());
    out[4..6].copy_from_slice(&ip.id.to_be_bytes());
    out[6..8].copy_from_slice(&[DONT_FRAGMENT, 0]);
    out[8] = ip.ttl;
    out[9] = TCP;
    out[10..12].fill(0);
    out[12..16].copy_from_slice(&src);
    out[16..20].copy_from_slice(&dst);
    let field = checksum::finish(checksum::sum(&out[..V4_HEADER]));
    out[10..12].copy_from_slice(&field.to_be_bytes());
}

fn build_v6(out: &mut [u8], ip: &IpMeta, payload_len: u16) {
    const VERSION: u32 = 6 << 28;
    const FLOW_LABEL: u32 = (1 << 20) - 1;
    let head = VERSION | u32::from(ip.traffic_class) << 20 | ip.flow_label & FLOW_LABEL;
    out[0..4].copy_from_slice(&head.to_be_bytes());
    out[4..6].copy_from_slice(&payload_len.to_be_bytes());
    out[6] = TCP;
    out[7] = ip.ttl;
    out[8..24].copy_from_slice(&checksum::mapped(ip.src));
    out[24..40].copy_from_slice(&checksum::mapped(ip.dst));
}

#[cfg(test)]
mod tests;
