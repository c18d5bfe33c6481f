//! ICMP errors in, by raw sockets with a type filter (RFC 792, RFC 4443).
//!
//! These sockets receive only, from all of the machine: whether an error is about one of our connections is for the
//! stack to decide (four-tuple and sequence number of the quoted segment, RFC 5927 §4).

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol};

use crate::raw_ip::{RawConfig, RawSocket, meta_v4, meta_v6};
use crate::{
    Capabilities, Drained, PacketIo, PortSet, ReadySource, RxBatch, RxChecksum, SendError, TxPacket, filter, sys,
};

/// Destination unreachable, source quench, time exceeded, parameter problem (RFC 792).
const ICMP_TYPES: [u32; 4] = [3, 4, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443 §2.1).
const ICMPV6_TYPES: [u32; 4] = [1, 2, 3, 4];

/// Errors are rare, and an attacker's flood of them must not cost much memory: 256 KiB hold some 300.
const RECV_BUFFER: usize = 256 << 10;

/// ICMP errors about IPv4 TCP segments. Packets begin with the IP header.
#[derive(Debug)]
pub struct IcmpV4(RawSocket);

/// ICMPv6 errors. Packets begin with the ICMPv6 header, their checksum is verified by the kernel.
#[derive(Debug)]
pub struct IcmpV6(RawSocket);

fn config() -> RawConfig {
    RawConfig { recv_buffer: RECV_BUFFER, ..RawConfig::default() }
}

impl IcmpV4 {
    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Without CAP_NET_RAW: `PermissionDenied` around a [`MissingPrivilege`](crate::MissingPrivilege).
    pub fn open() -> io::Result<Self> {
        let raw = RawSocket::open(Domain::IPV4, Protocol::ICMPV4, &config())?;
        // Bits set are types blocked.
        let blocked = ICMP_TYPES.iter().fold(u32::MAX, |mask, kind| mask & !(1 << kind));
        sys::set_option(raw.fd(), sys::SOL_RAW, sys::ICMP_FILTER, blocked)?;
        raw.attach(&filter::icmp_about_tcp())?;
        Ok(Self(raw))
    }
}

impl IcmpV6 {
    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Without CAP_NET_RAW: `PermissionDenied` around a [`MissingPrivilege`](crate::MissingPrivilege).
    pub fn open() -> io::Result<Self> {
        let raw = RawSocket::open(Domain::IPV6, Protocol::ICMPV6, &config())?;
        let mut blocked = [u32::MAX; 8];
        for kind in ICMPV6_TYPES {
            blocked[(kind / 32) as usize] &= !(1 << (kind % 32));
        }
        sys::set_option(raw.fd(), libc::IPPROTO_ICMPV6, sys::ICMPV6_FILTER, blocked)?;
        // The type filter is in place; the quoted packet may have extension headers, so nothing else is tested here.
        raw.attach(&filter::destination_ports(filter::Start::Transport, &PortSet::all(), &[]))?;
        Ok(Self(raw))
    }
}

const CAPABILITIES: Capabilities =
    Capabilities { mtu: 0, max_segmentable: 0, tx_checksum: false, max_batch: sys::BATCH, frames: false };

fn refuse(packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
    let error = || SendError::Other(io::Error::new(io::ErrorKind::Unsupported, "ICMP sockets only receive"));
    (0, (!packets.is_empty()).then(error))
}

impl PacketIo for IcmpV4 {
    fn name(&self) -> &str {
        "icmp4"
    }
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        self.0.recv(batch, |control, _| Some(meta_v4(control)))
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        refuse(packets)
    }
    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Fd(self.0.fd())
    }
    fn drops(&self) -> u64 {
        self.0.drops()
    }
    fn truncated(&self) -> u64 {
        self.0.truncated()
    }
    /// Does nothing: errors are about any port.
    fn set_ports(&self, _ports: &PortSet) -> io::Result<()> {
        Ok(())
    }
    fn recv_queue_bytes(&self) -> usize {
        self.0.recv_queue_bytes()
    }
}

impl PacketIo for IcmpV6 {
    fn name(&self) -> &str {
        "icmp6"
    }
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        self.0.recv(batch, |control, _| meta_v6(control, libc::IPPROTO_ICMPV6 as u8, RxChecksum::Valid))
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        refuse(packets)
    }
    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Fd(self.0.fd())
    }
    fn drops(&self) -> u64 {
        self.0.drops()
    }
    fn truncated(&self) -> u64 {
        self.0.truncated()
    }
    /// Does nothing: errors are about any port.
    fn set_ports(&self, _ports: &PortSet) -> io::Result<()> {
        Ok(())
    }
    fn recv_queue_bytes(&self) -> usize {
        self.0.recv_queue_bytes()
    }
}

impl AsRawFd for IcmpV4 {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd().as_raw_fd()
    }
}

impl AsRawFd for IcmpV6 {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd().as_raw_fd()
    }
}
