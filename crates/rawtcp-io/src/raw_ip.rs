//! Raw IP sockets for TCP: the default device.
//!
//! IPv4 sockets receive packets with their IP header, IPv6 sockets without. Both send with a header made by us; the
//! kernel always fills in IPv4's total length and header checksum, and its identification where that is 0. A packet
//! larger than the MTU of the device it leaves by is refused, never fragmented.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

use crate::batch::{Portion, SMALL_BATCH};
use crate::broadcast::Broadcasts;
use crate::filter::{self, Op, Start};
use crate::sys::{self, Beside, Control};
use crate::{
    Capabilities, Drained, PacketIo, PortSet, ReadySource, RxBatch, RxChecksum, RxHeader, RxMeta, SendError, TxPacket,
    privileges,
};

/// How to open a raw socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawConfig {
    /// Memory of the receive queue to ask for, in bytes as the kernel charges them. What is really given is told by
    /// [`PacketIo::recv_queue_bytes`]: without CAP_NET_ADMIN no more than twice `net.core.rmem_max`.
    pub recv_buffer: usize,
    /// Only packets of this interface.
    pub device: Option<String>,
    /// No packets that came in by these interfaces: another device takes them. At most [`MAX_EXCEPT`] of them.
    pub except: Vec<u32>,
}

/// So many interfaces can be [excepted](RawConfig::except): a comparison each for every packet.
pub const MAX_EXCEPT: usize = 64;

impl Default for RawConfig {
    /// 8 MiB: enough to lose nothing at 130,000 packets/s or 10 Gbit/s.
    fn default() -> Self {
        Self { recv_buffer: 8 << 20, device: None, except: Vec::new() }
    }
}

/// A raw socket which has lost nothing and received nothing unwanted yet: the part all raw devices share.
#[derive(Debug)]
pub(crate) struct RawSocket {
    socket: Socket,
    beside: Beside,
    recv_buffer: usize,
    except: Vec<u32>,
    truncated: AtomicU64,
    portion: Portion,
}

impl RawSocket {
    pub(crate) fn open(domain: Domain, protocol: Protocol, config: &RawConfig) -> io::Result<Self> {
        let socket = socket(domain, protocol, config)?;
        let fd = socket.as_fd();
        if domain == Domain::IPV4 {
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1 as libc::c_int)?;
        } else {
            for option in [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS] {
                sys::set_option(fd, libc::IPPROTO_IPV6, option, 1 as libc::c_int)?;
            }
        }
        let recv_buffer = enlarge_receive_buffer(&socket, config.recv_buffer)?;
        let raw = Self {
            socket,
            beside: if domain == Domain::IPV4 { Beside::Control } else { Beside::Source },
            recv_buffer,
            except: config.except.clone(),
            truncated: AtomicU64::new(0),
            portion: Portion::new(),
        };
        drain(&raw.socket)?;
        Ok(raw)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn attach(&self, program: &[Op]) -> io::Result<()> {
        filter::attach(&self.socket, program)
    }

    /// Has the kernel tell nothing beside IPv4 packets any more.
    fn ask_nothing(&mut self) -> io::Result<()> {
        sys::set_option(self.fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 0 as libc::c_int)?;
        self.beside = Beside::Nothing;
        Ok(())
    }

    fn set_ports(&self, start: Start, ports: &PortSet) -> io::Result<()> {
        self.attach(&filter::destination_ports(start, ports, &self.except))
    }

    pub(crate) fn recv(
        &self,
        batch: &mut RxBatch,
        mut meta: impl FnMut(&Control, &[u8]) -> Option<RxMeta>,
    ) -> io::Result<Drained> {
        batch.clear();
        let most = self.portion.most();
        let outcome = if self.beside == Beside::Nothing && most <= SMALL_BATCH {
            let nothing = Control::default();
            sys::receive_singly(self.fd(), batch, most, |packet| meta(&nothing, packet))?
        } else {
            sys::receive(self.fd(), batch, most, self.beside, meta)?
        };
        self.portion.learn(batch);
        if outcome.truncated > 0 {
            self.truncated.fetch_add(outcome.truncated as u64, Ordering::Relaxed);
        }
        // Fewer than asked for means that the kernel found the queue empty.
        Ok(if outcome.received < outcome.asked { Drained::Yes } else { Drained::Maybe })
    }

    pub(crate) fn drops(&self) -> u64 {
        sys::socket_drops(self.fd()).map_or(0, u64::from)
    }

    pub(crate) fn truncated(&self) -> u64 {
        self.truncated.load(Ordering::Relaxed)
    }

    pub(crate) fn recv_queue_bytes(&self) -> usize {
        self.recv_buffer
    }
}

/// A raw socket that lets nothing through yet.
fn socket(domain: Domain, protocol: Protocol, config: &RawConfig) -> io::Result<Socket> {
    // socket2 makes it close-on-exec.
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).map_err(privileges::explain)?;
    // Packets queue from the moment the socket exists: first stop that, then throw away what came meanwhile.
    filter::attach(&socket, &filter::drop_all())?;
    socket.set_nonblocking(true)?;
    if let Some(device) = &config.device {
        socket.bind_device(Some(device.as_bytes())).map_err(privileges::explain)?;
    }
    // Otherwise the kernel learns path MTUs on behalf of this socket, and one forged ICMP message lowers the
    // route's MTU to 576 for every program on the machine.
    let (level, name) = if domain == Domain::IPV4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    };
    sys::set_option(socket.as_fd(), level, name, sys::PMTUDISC_INTERFACE)?;
    Ok(socket)
}

/// Throws away what queued before the filter stood.
fn drain(socket: &Socket) -> io::Result<()> {
    let mut batch = RxBatch::new(sys::BATCH);
    loop {
        let outcome = sys::receive(socket.as_fd(), &mut batch, sys::BATCH, Beside::Nothing, |_, _| None)?;
        if outcome.received < outcome.asked {
            return Ok(());
        }
    }
}

/// A socket that only sends. Each packet that leaves a socket somebody waits for has the kernel look through who waits, to
/// tell them that there is room again: nobody waits for this one but while it is full.
fn sender(domain: Domain, config: &RawConfig) -> io::Result<Socket> {
    let socket = socket(domain, Protocol::TCP, config)?;
    drain(&socket)?;
    // Bound to a multicast address a raw socket is offered nothing, as TCP has no such packets, and sends as if it were
    // bound to none. Where a security module forbids that, the filter drops what it is offered.
    let nowhere: IpAddr = if domain == Domain::IPV4 {
        socket.set_header_included_v4(true)?;
        Ipv4Addr::new(224, 0, 0, 0).into()
    } else {
        sys::set_option(socket.as_fd(), libc::IPPROTO_IPV6, sys::IPV6_HDRINCL, 1 as libc::c_int)?;
        Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 0).into()
    };
    let _ = socket.bind(&SocketAddr::new(nowhere, 0).into());
    Ok(socket)
}

/// Asks for a receive queue of `wanted` bytes; returns what was given.
pub(crate) fn enlarge_receive_buffer(socket: &Socket, wanted: usize) -> io::Result<usize> {
    // The kernel doubles what it is asked for, and reads back the double.
    let half = libc::c_int::try_from(wanted / 2).unwrap_or(libc::c_int::MAX / 2);
    if sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, half).is_err() {
        // Refused with CAP_NET_RAW only and in user namespaces; this one is silently cut to rmem_max.
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, half)?;
    }
    socket.recv_buffer_size()
}

pub(crate) fn classify(error: io::Error) -> SendError {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => SendError::WouldBlock,
        Some(libc::ENOBUFS | libc::ENOMEM | libc::EPERM) => SendError::Lost(error),
        Some(libc::EMSGSIZE) => SendError::TooBig,
        // EACCES: a `prohibit` route, or broadcast without leave to.
        Some(
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::ENONET | libc::EACCES,
        ) => SendError::Unreachable(error),
        _ => SendError::Other(error),
    }
}

const CAPABILITIES: Capabilities =
    Capabilities { mtu: 65_535, max_segmentable: 0, tx_checksum: false, max_batch: sys::BATCH, frames: false };

/// TCP over one version of IP: a socket that receives, and one that sends.
#[derive(Debug)]
struct RawTcp {
    receiver: RawSocket,
    sender: Socket,
}

impl RawTcp {
    fn open(domain: Domain, config: &RawConfig) -> io::Result<Self> {
        Ok(Self { receiver: RawSocket::open(domain, Protocol::TCP, config)?, sender: sender(domain, config)? })
    }

    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        // This device neither segments nor sums; a packet that relies on it must not leave.
        let able =
            |packet: &TxPacket<'_>| packet.segment_size == 0 && matches!(packet.checksum, crate::TxChecksum::Complete);
        let fit = packets.iter().position(|packet| !able(packet)).unwrap_or(packets.len());
        match sys::send(self.sender.as_fd(), &packets[..fit]) {
            (sent, Some(error)) => (sent, Some(classify(error))),
            (sent, None) if sent < packets.len() => (sent, Some(SendError::Other(io::ErrorKind::Unsupported.into()))),
            (sent, None) => (sent, None),
        }
    }
}

/// TCP over IPv4 by raw sockets.
#[derive(Debug)]
pub struct RawIpV4 {
    sockets: RawTcp,
    /// `None`: the kernel tells with each packet.
    broadcasts: Option<Broadcasts>,
}

/// TCP over IPv6 by raw sockets. Received packets come without IPv6 header ([`RxHeader::Stripped`]) and without
/// extension headers.
#[derive(Debug)]
pub struct RawIpV6(RawTcp);

impl RawIpV4 {
    /// Opens the sockets in the network namespace of the calling thread. They deliver nothing until
    /// [`PacketIo::set_ports`] is called.
    ///
    /// # Errors
    /// Without CAP_NET_RAW: `PermissionDenied` around a [`MissingPrivilege`](crate::MissingPrivilege).
    pub fn open(config: &RawConfig) -> io::Result<Self> {
        let mut sockets = RawTcp::open(Domain::IPV4, config)?;
        let broadcasts = Broadcasts::open().ok();
        if broadcasts.is_some() {
            sockets.receiver.ask_nothing()?;
        }
        Ok(Self { sockets, broadcasts })
    }

    /// The cookie of the socket's network namespace, which no other has; `None` before Linux 5.14.
    pub fn namespace(&self) -> Option<u64> {
        sys::namespace_cookie(self.sockets.receiver.fd())
    }
}

impl RawIpV6 {
    /// Opens the sockets in the network namespace of the calling thread. They deliver nothing until
    /// [`PacketIo::set_ports`] is called.
    ///
    /// # Errors
    /// Without CAP_NET_RAW: `PermissionDenied` around a [`MissingPrivilege`](crate::MissingPrivilege).
    pub fn open(config: &RawConfig) -> io::Result<Self> {
        RawTcp::open(Domain::IPV6, config).map(Self)
    }
}

/// The destination in an IPv4 header.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    packet.get(16..)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes))
}

/// Metadata of a packet from a raw IPv4 socket that is told of the destination.
pub(crate) fn meta_v4(control: &Control) -> RxMeta {
    // For broadcast and multicast the kernel names an own address of the interface instead.
    let to_other = match (control.local, control.destination) {
        (Some(local), Some(IpAddr::V4(destination))) => local != destination,
        _ => false,
    };
    RxMeta { ifindex: control.ifindex, to_other, ..RxMeta::IP }
}

/// Metadata of a packet from a raw IPv6 socket; none if the kernel did not tell the addresses.
pub(crate) fn meta_v6(control: &Control, next_header: u8, checksum: RxChecksum) -> Option<RxMeta> {
    let (Some(src), Some(IpAddr::V6(dst))) = (control.source, control.destination) else {
        return None;
    };
    let Control { hop_limit, traffic_class, ifindex, .. } = *control;
    Some(RxMeta {
        header: RxHeader::Stripped { src, dst, next_header, hop_limit, traffic_class },
        checksum,
        segment_size: 0,
        ifindex,
        to_other: dst.is_multicast(),
    })
}

impl PacketIo for RawIpV4 {
    fn name(&self) -> &str {
        "raw4"
    }
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        self.sockets.receiver.recv(batch, |control, packet| {
            let Some(broadcasts) = &self.broadcasts else { return Some(meta_v4(control)) };
            let to_other = destination(packet).is_some_and(|destination| broadcasts.contain(destination));
            Some(RxMeta { to_other, ..RxMeta::IP })
        })
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        self.sockets.send(packets)
    }
    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Fd(self.sockets.receiver.fd())
    }
    fn writable_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.sockets.sender.as_fd())
    }
    fn drops(&self) -> u64 {
        self.sockets.receiver.drops()
    }
    fn truncated(&self) -> u64 {
        self.sockets.receiver.truncated()
    }
    fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
        self.sockets.receiver.set_ports(Start::Ipv4, ports)
    }
    fn recv_queue_bytes(&self) -> usize {
        self.sockets.receiver.recv_queue_bytes()
    }
}

impl PacketIo for RawIpV6 {
    fn name(&self) -> &str {
        "raw6"
    }
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        self.0.receiver.recv(batch, |control, _| meta_v6(control, libc::IPPROTO_TCP as u8, RxChecksum::Unknown))
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        self.0.send(packets)
    }
    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Fd(self.0.receiver.fd())
    }
    fn writable_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.sender.as_fd())
    }
    fn drops(&self) -> u64 {
        self.0.receiver.drops()
    }
    fn truncated(&self) -> u64 {
        self.0.receiver.truncated()
    }
    fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
        self.0.receiver.set_ports(Start::Transport, ports)
    }
    fn recv_queue_bytes(&self) -> usize {
        self.0.receiver.recv_queue_bytes()
    }
}

/// The socket that receives; for the one that sends see [`PacketIo::writable_fd`].
impl AsRawFd for RawIpV4 {
    fn as_raw_fd(&self) -> RawFd {
        self.sockets.receiver.socket.as_raw_fd()
    }
}

/// The socket that receives; for the one that sends see [`PacketIo::writable_fd`].
impl AsRawFd for RawIpV6 {
    fn as_raw_fd(&self) -> RawFd {
        self.0.receiver.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_as_the_design_demands() {
        let sockets = [
            (Domain::IPV4, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            (Domain::IPV6, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        ];
        for (domain, level, name) in sockets {
            let raw = match RawSocket::open(domain, Protocol::TCP, &RawConfig::default()) {
                Ok(raw) => raw,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    eprintln!("\n*** SKIPPED options_are_as_the_design_demands: {error} ***\n");
                    return;
                }
                Err(error) => panic!("{error}"),
            };
            let sender = sender(domain, &RawConfig::default()).unwrap();
            for socket in [&raw.socket, &sender] {
                let [discover] = sys::get_option::<1>(socket.as_fd(), level, name).unwrap();
                assert_eq!(discover, sys::PMTUDISC_INTERFACE as u32);
                assert!(socket.nonblocking().unwrap());
                let flags = rustix::io::fcntl_getfd(socket).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            }
            let to = sender.local_addr().unwrap().as_socket().unwrap();
            assert!(to.ip().is_multicast(), "{to}");
        }
    }

    #[test]
    fn errors_fall_into_their_classes() {
        let class = |errno| match classify(io::Error::from_raw_os_error(errno)) {
            SendError::WouldBlock => "would block",
            SendError::Lost(_) => "lost",
            SendError::TooBig => "too big",
            SendError::Unreachable(_) => "unreachable",
            SendError::Other(_) => "other",
        };
        for (errno, expected) in [
            (libc::EAGAIN, "would block"),
            (libc::ENOBUFS, "lost"),
            (libc::EPERM, "lost"),
            (libc::EMSGSIZE, "too big"),
            (libc::ENETUNREACH, "unreachable"),
            (libc::EHOSTUNREACH, "unreachable"),
            (libc::ENETDOWN, "unreachable"),
            (libc::EINVAL, "other"),
        ] {
            assert_eq!(class(errno), expected, "{errno}");
        }
    }
}
