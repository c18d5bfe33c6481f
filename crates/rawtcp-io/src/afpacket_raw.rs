//! AF_PACKET sockets for tools: whole frames as they pass an interface, one at a time.
//!
//! This is for capturing and for emulating links, where exact counts, time stamps and the state of offloads matter
//! more than speed. No [`PacketIo`](crate::PacketIo) device is made of it.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use socket2::{Domain, Socket, Type};

/// The length of the virtio-net header in front of each frame when [`PacketOptions::offload_header`] is set.
const VNET_HEADER: usize = 10;

/// What a [`PacketSocket`] shall see and tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct PacketOptions {
    /// Also see what this host itself sends through the interface.
    pub outgoing: bool,
    /// Have the kernel stamp each frame with the wall-clock time.
    pub timestamps: bool,
    /// Learn of (and hand over) unfinished checksums and segmentation.
    pub offload_header: bool,
    /// Receive queue to ask for, in bytes as the kernel charges them; 0: the system's default. Without privilege over
    /// the host the kernel gives no more than `net.core.rmem_max`.
    pub receive_buffer: usize,
}

/// What the device was to do to a frame, or already did: the virtio-net header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum still has to be summed from this byte of the frame on…
    pub checksum_start: u16,
    /// …and stored so many bytes behind that one. `None`: the checksum is complete, or was verified.
    pub checksum_offset: Option<u16>,
    /// Payload bytes of each segment that this frame stands for; 0: it is a single segment.
    pub segment_size: u16,
    /// How to segment.
    pub kind: SegmentKind,
}

/// What kind of large frame it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SegmentKind {
    /// Not a large frame.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// Something else (UDP), with the kernel's number for it.
    Other(u8),
}

/// A frame received.
#[derive(Clone, Copy, Debug)]
pub struct PacketReceived {
    /// Length of the frame on the wire; the buffer holds at most its own length of it.
    pub length: usize,
    /// Sent by this host, as opposed to received.
    pub outgoing: bool,
    /// When, if [`PacketOptions::timestamps`] was set.
    pub time: Option<SystemTime>,
    /// State of offloads, if [`PacketOptions::offload_header`] was set; else all finished.
    pub offload: Offload,
}

/// A non-blocking AF_PACKET socket bound to one interface.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    offload_header: bool,
    drops: AtomicU64,
}

impl PacketSocket {
    /// Opens a socket on interface `ifindex` of the calling thread's network namespace. Needs `CAP_NET_RAW`.
    pub fn bind(ifindex: u32, options: PacketOptions) -> io::Result<Self> {
        // Protocol 0 receives nothing: no frame of another interface gets in before `bind`.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        let fd = OwnedFd::from(socket);
        if options.receive_buffer > 0 {
            let bytes = libc::c_int::try_from(options.receive_buffer).unwrap_or(libc::c_int::MAX);
            if set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
                set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
            }
        }
        if !options.outgoing {
            set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        }
        if options.timestamps {
            set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        }
        if options.offload_header {
            set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        }
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: libc::c_int::try_from(ifindex).map_err(io::Error::other)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: `address` is a whole sockaddr_ll, and its size is what is said to be there.
        let result = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        check(result as isize)?;
        Ok(Self { fd, offload_header: options.offload_header, drops: AtomicU64::new(0) })
    }

    /// Takes the next frame into `buffer`; `WouldBlock` if there is none.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<PacketReceived> {
        let mut header = [0u8; VNET_HEADER];
        let mut slices = [
            libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: VNET_HEADER },
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() },
        ];
        let used = if self.offload_header { &mut slices[..] } else { &mut slices[1..] };
        // u64 for the alignment that control messages need.
        let mut control = [0u64; 8];
        // SAFETY: both are plain C structures for which all zero is a valid value.
        let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = used.as_mut_ptr();
        message.msg_iovlen = used.len() as _;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control) as _;
        // SAFETY: every pointer in `message` is to a live local or to `buffer`, with its true length.
        let result = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &mut message, libc::MSG_TRUNC | libc::MSG_DONTWAIT) };
        let length = check(result)?;
        let length = if self.offload_header { length.saturating_sub(VNET_HEADER) } else { length };
        Ok(PacketReceived {
            length,
            outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
            time: timestamp(&message),
            offload: if self.offload_header { parse_offload(&header) } else { Offload::default() },
        })
    }

    /// Sends one finished frame, link header included, through the interface. A full device is an error, and the frame
    /// is then lost.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let header = [0u8; VNET_HEADER];
        let mut slices = [
            libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: VNET_HEADER },
            libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() },
        ];
        let used = if self.offload_header { &mut slices[..] } else { &mut slices[1..] };
        // SAFETY: a plain C structure for which all zero is a valid value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = used.as_mut_ptr();
        message.msg_iovlen = used.len() as _;
        // SAFETY: the slices are live, have their true lengths, and are only read by the kernel.
        check(unsafe { libc::sendmsg(self.fd.as_raw_fd(), &message, libc::MSG_DONTWAIT) }).map(drop)
    }

    /// How many frames the kernel dropped since `bind` because the receive queue was full: exact.
    pub fn drops(&self) -> io::Result<u64> {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = mem::size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: `stats` is a live tpacket_stats and `length` is its size.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &mut length,
            )
        };
        check(result as isize)?;
        // The kernel starts again at zero with every look.
        let new = u64::from(stats.tp_drops);
        Ok(self.drops.fetch_add(new, Ordering::Relaxed) + new)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn set_option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is a live c_int, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result as isize).map(drop)
}

fn timestamp(message: &libc::msghdr) -> Option<SystemTime> {
    // SAFETY: `message` was filled by recvmsg and its control buffer is live; CMSG_* walk within msg_controllen, and the
    // kernel wrote a struct timespec behind this header: two longs, read without assuming alignment.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(message);
        while !control.is_null() {
            let found = (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_TIMESTAMPNS;
            if found {
                let data: *const libc::c_long = libc::CMSG_DATA(control).cast();
                let (seconds, nanos) = (data.read_unaligned(), data.add(1).read_unaligned());
                let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
                return Some(SystemTime::UNIX_EPOCH + since);
            }
            control = libc::CMSG_NXTHDR(message, control);
        }
    }
    None
}

/// The layout of `struct virtio_net_hdr`, in the byte order of the host.
fn parse_offload(header: &[u8; VNET_HEADER]) -> Offload {
    const NEEDS_CHECKSUM: u8 = 1;
    // Set together with the kind when a segment carries a congestion mark.
    const ECN: u8 = 0x80;
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let kind = match header[1] & !ECN {
        0 => SegmentKind::None,
        1 => SegmentKind::TcpV4,
        4 => SegmentKind::TcpV6,
        other => SegmentKind::Other(other),
    };
    Offload {
        checksum_start: field(6),
        checksum_offset: (header[0] & NEEDS_CHECKSUM != 0).then(|| field(8)),
        segment_size: if kind == SegmentKind::None { 0 } else { field(4) },
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offload_header_fields() {
        let mut header = [0u8; VNET_HEADER];
        assert_eq!(parse_offload(&header), Offload::default());
        header[0] = 1;
        header[1] = 0x81;
        header[4..6].copy_from_slice(&1448u16.to_ne_bytes());
        header[6..8].copy_from_slice(&34u16.to_ne_bytes());
        header[8..10].copy_from_slice(&16u16.to_ne_bytes());
        let expected =
            Offload { checksum_start: 34, checksum_offset: Some(16), segment_size: 1448, kind: SegmentKind::TcpV4 };
        assert_eq!(parse_offload(&header), expected);
        header[1] = 5;
        assert_eq!(parse_offload(&header).kind, SegmentKind::Other(5));
    }
}
