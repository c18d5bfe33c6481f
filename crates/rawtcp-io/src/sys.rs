//! System calls that no safe wrapper covers.
#![allow(unsafe_code)]

pub(crate) mod frames;
pub(crate) mod ring;
pub(crate) mod tun;

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::{RX_SLOT_SIZE, RxBatch, RxMeta, TxPacket};

/// Packets moved by one system call. The message headers are on the stack, about 200 bytes a packet.
pub(crate) const BATCH: usize = 32;

/// A packet of up to so many bytes is copied into one piece when it is sent alone: to have the kernel read a message header and
/// I/O vectors takes longer.
const SMALL: usize = 2048;

/// I/O vectors that the kernel takes for one message at most (`UIO_MAXIOV`).
pub(crate) const MAX_VECTORS: usize = 1024;

/// How everything is sent. One packet goes by `sendto` or `sendmsg`: between any two messages, and behind the last, `sendmmsg`
/// lets other tasks have the processor.
const SEND: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// From `<linux/in.h>` and `<linux/in6.h>`: use the device's MTU, never a path MTU learned from ICMP.
pub(crate) const PMTUDISC_INTERFACE: libc::c_int = 4;
/// From `<linux/in6.h>`, since Linux 4.5.
pub(crate) const IPV6_HDRINCL: libc::c_int = 36;
/// From `<asm-generic/socket.h>`.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// From `<linux/icmp.h>`: the only option at level `SOL_RAW`.
pub(crate) const ICMP_FILTER: libc::c_int = 1;
/// From `<linux/icmpv6.h>`.
pub(crate) const ICMPV6_FILTER: libc::c_int = 1;
/// `SOL_RAW` of `<linux/socket.h>`.
pub(crate) const SOL_RAW: libc::c_int = 255;
/// From `<linux/sock_diag.h>`: index of the drop counter in `SO_MEMINFO`.
const SK_MEMINFO_DROPS: usize = 8;

/// Sets a socket option whose value is plain data. `T` must have no padding; here it is `c_int`, arrays of `u32`,
/// or [`TcpMd5Sig`].
pub(crate) fn set_option<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which lives through the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), mem::size_of::<T>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What certain peers must sign their segments with (RFC 2385).
#[derive(Clone, Copy)]
pub(crate) struct SignatureKey<'a> {
    /// An address, of the socket's family, and the length of the prefix that counts; of mapped IPv4 addresses as with IPv4.
    pub(crate) peers: (IpAddr, u8),
    /// 1–80 bytes.
    pub(crate) secret: &'a [u8],
}

/// `struct tcp_md5sig` of `<linux/tcp.h>`.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpMd5Sig {
    /// `struct __kernel_sockaddr_storage`: family, port, and for IPv6 the flow label stand before the address.
    family: libc::sa_family_t,
    address: [u8; 126],
    flags: u8,
    prefix: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; 80],
}

const _: () = assert!(mem::size_of::<TcpMd5Sig>() == 216);

/// From `<linux/tcp.h>`, since Linux 4.13.
const TCP_MD5SIG_EXT: libc::c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;

/// Has a TCP socket of the kernel drop what these peers send without a signature.
pub(crate) fn set_signature_key(fd: BorrowedFd<'_>, key: &SignatureKey<'_>) -> io::Result<()> {
    let mut value = TcpMd5Sig {
        family: 0,
        address: [0; 126],
        flags: TCP_MD5SIG_FLAG_PREFIX,
        prefix: key.peers.1,
        key_length: 0,
        interface: 0,
        key: [0; 80],
    };
    match key.peers.0 {
        IpAddr::V4(ip) => {
            value.family = libc::AF_INET as libc::sa_family_t;
            value.address[2..6].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            value.family = libc::AF_INET6 as libc::sa_family_t;
            value.address[6..22].copy_from_slice(&ip.octets());
        }
    }
    let place = value.key.get_mut(..key.secret.len()).ok_or(io::ErrorKind::InvalidInput)?;
    place.copy_from_slice(key.secret);
    value.key_length = key.secret.len() as u16;
    set_option(fd, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, value)
}

/// Reads a socket option of up to `N` 32-bit words; words the kernel did not write are 0.
pub(crate) fn get_option<const N: usize>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<[u32; N]> {
    let mut value = [0_u32; N];
    let mut len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which lives through the call; every bit pattern is a valid u32.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// What tells the network namespace of a socket from all others, since Linux 5.14.
pub(crate) fn namespace_cookie(fd: BorrowedFd<'_>) -> Option<u64> {
    let [a, b] = get_option::<2>(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE).ok()?;
    Some(u64::from(a) << 32 | u64::from(b))
}

/// Packets the socket lost at its full receive queue.
pub(crate) fn socket_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(get_option::<{ SK_MEMINFO_DROPS + 1 }>(fd, libc::SOL_SOCKET, libc::SO_MEMINFO)?[SK_MEMINFO_DROPS])
}

/// What the kernel tells beside a received packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Control {
    /// Sender, where the socket is IPv6.
    pub(crate) source: Option<Ipv6Addr>,
    /// Destination in the IP header.
    pub(crate) destination: Option<IpAddr>,
    /// IPv4: our address for this packet; differs from the destination for broadcast and multicast.
    pub(crate) local: Option<Ipv4Addr>,
    pub(crate) ifindex: u32,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
}

/// Room for the control data we ask for: IPv6 packet info (20 bytes), hop limit and traffic class (4 each), a 16-byte
/// header before each on 64-bit machines, all padded: 88 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ControlBuffer([MaybeUninit<u8>; 128]);

/// What a receive brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReceiveOutcome {
    /// Packets the kernel handed over.
    pub(crate) received: usize,
    /// Packets asked for.
    pub(crate) asked: usize,
    /// Packets thrown away since they were cut off.
    pub(crate) truncated: usize,
}

/// Receives into these messages; 0 if there is nothing. Never blocks.
///
/// # Safety
/// Whatever the messages point to is valid for writes of the lengths that they give, and nobody else looks at it before
/// this returns.
unsafe fn receive_messages(fd: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    loop {
        // SAFETY: the messages are as many as said, and the caller vouches for what they point to.
        let result = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        if let Ok(received) = usize::try_from(result) {
            return Ok(received);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(0),
            _ => return Err(error),
        }
    }
}

/// A message without anything. Written for each packet: to clear a whole array costs as much as some packets' copies.
fn empty_message() -> libc::mmsghdr {
    // SAFETY: all-zero is a valid mmsghdr: null pointers, zero lengths, and on musl zeroed padding.
    unsafe { mem::zeroed() }
}

/// Receives up to `most` packets into a cleared batch, a call for each: cheaper than [`receive`] for one or two. `meta` may
/// refuse a packet. Never blocks.
pub(crate) fn receive_singly(
    fd: BorrowedFd<'_>,
    batch: &mut RxBatch,
    most: usize,
    mut meta: impl FnMut(&[u8]) -> Option<RxMeta>,
) -> io::Result<ReceiveOutcome> {
    let asked = (batch.capacity() - batch.len()).min(most);
    let (mut received, mut truncated) = (0, 0);
    while received < asked {
        let at = batch.len();
        let base = batch.prepare(at).spare_capacity_mut().as_mut_ptr().cast();
        // SAFETY: the kernel writes at most RX_SLOT_SIZE bytes, for which a prepared buffer has room, and only during the
        // call, while the batch is mutably borrowed.
        let result = unsafe { libc::recv(fd.as_raw_fd(), base, RX_SLOT_SIZE, libc::MSG_DONTWAIT | libc::MSG_TRUNC) };
        let Ok(length) = usize::try_from(result) else {
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => break,
                _ if received == 0 => return Err(error),
                // First what came before it.
                _ => return Ok(ReceiveOutcome { received, asked: received, truncated }),
            }
        };
        received += 1;
        // With MSG_TRUNC the kernel tells the packet's length, whatever of it there was room for.
        if length > RX_SLOT_SIZE {
            truncated += 1;
            continue;
        }
        // SAFETY: the kernel wrote `length` bytes, at most the RX_SLOT_SIZE offered, to the start of this empty buffer.
        unsafe { batch.buffer(at).set_len(length) };
        if let Some(meta) = meta(batch.buffer(at)) {
            batch.commit(meta);
        }
    }
    Ok(ReceiveOutcome { received, asked, truncated })
}

/// What is to be told beside received packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// What the socket's options ask for.
    Control,
    /// And the sender: of IPv6 packets, whose header does not come with them.
    Source,
}

/// Receives up to `most` packets into a cleared batch; `meta` may refuse a packet. Never blocks.
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    batch: &mut RxBatch,
    most: usize,
    beside: Beside,
    mut meta: impl FnMut(&Control, &[u8]) -> Option<RxMeta>,
) -> io::Result<ReceiveOutcome> {
    let asked = (batch.capacity() - batch.len()).min(BATCH).min(most);
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
    let mut names = [const { MaybeUninit::<libc::sockaddr_in6>::uninit() }; BATCH];
    let mut controls = [ControlBuffer([MaybeUninit::uninit(); 128]); BATCH];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];

    for (i, buffer) in batch.prepare_next(asked).enumerate() {
        let base = buffer.spare_capacity_mut().as_mut_ptr().cast();
        let header = &mut messages[i].write(empty_message()).msg_hdr;
        header.msg_iov = vectors[i].write(libc::iovec { iov_base: base, iov_len: RX_SLOT_SIZE });
        header.msg_iovlen = 1;
        if beside == Beside::Source {
            // SAFETY: all-zero is a valid sockaddr_in6, which is made of integers.
            let name = names[i].write(unsafe { mem::zeroed() });
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        }
        if beside != Beside::Nothing {
            header.msg_control = controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = mem::size_of::<ControlBuffer>() as _;
        }
    }
    // SAFETY: the loop above has initialized the first `asked` messages, as the batch has as many slots.
    let messages = unsafe { messages[..asked].assume_init_mut() };
    // SAFETY: the messages point to one iovec, and at most one control buffer and one name each, all alive on this stack
    // frame, and each iovec to RX_SLOT_SIZE bytes of spare capacity of a distinct slot of `batch`, which is mutably
    // borrowed and not touched until the call returns.
    let received = unsafe { receive_messages(fd, messages)? };

    let mut truncated = 0;
    for (i, message) in messages[..received.min(asked)].iter().enumerate() {
        let length = (message.msg_len as usize).min(RX_SLOT_SIZE);
        // SAFETY: the kernel wrote `msg_len` bytes, at most the RX_SLOT_SIZE offered, to the start of this slot's
        // (empty) buffer, whose capacity is at least RX_SLOT_SIZE.
        unsafe { batch.buffer(i).set_len(length) };
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            truncated += 1;
            continue;
        }
        let mut control = read_control(&message.msg_hdr);
        if beside == Beside::Source {
            // SAFETY: `names[i]` was zeroed and possibly overwritten by the kernel: it is initialized either way.
            let name = unsafe { names[i].assume_init_ref() };
            if libc::c_int::from(name.sin6_family) == libc::AF_INET6 {
                control.source = Some(Ipv6Addr::from(name.sin6_addr.s6_addr));
            }
        }
        if let Some(meta) = meta(&control, batch.buffer(i)) {
            batch.swap_unused(i);
            batch.commit(meta);
        }
    }
    Ok(ReceiveOutcome { received, asked, truncated })
}

/// Reads the control data of a message which `recvmmsg` has filled in.
fn read_control(header: &libc::msghdr) -> Control {
    let mut control = Control::default();
    // SAFETY: `msg_control` points to `msg_controllen` bytes that the kernel wrote, if any; the macro checks the length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: the macros return null or a pointer to a whole header inside the control buffer, which is aligned.
    while let Some(message) = unsafe { next.as_ref() } {
        match (message.cmsg_level, message.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let Some(info) = control_data::<libc::in_pktinfo>(message) {
                    control.ifindex = info.ipi_ifindex as u32;
                    control.local = Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()));
                    control.destination = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some(info) = control_data::<libc::in6_pktinfo>(message) {
                    control.ifindex = info.ipi6_ifindex;
                    control.destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                control.hop_limit = control_data::<libc::c_int>(message).unwrap_or(0) as u8;
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                control.traffic_class = control_data::<libc::c_int>(message).unwrap_or(0) as u8;
            }
            _ => {}
        }
        // SAFETY: `message` came from these macros over the same unchanged `header`.
        next = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    control
}

/// Types of plain integers, of which every bit pattern is valid.
trait Plain: Copy {}
impl Plain for libc::c_int {}
impl Plain for libc::in_pktinfo {}
impl Plain for libc::in6_pktinfo {}

/// The data behind a control message's header, if the message is long enough.
fn control_data<T: Plain>(message: &libc::cmsghdr) -> Option<T> {
    // SAFETY: pure arithmetic on the size.
    let needed = unsafe { libc::CMSG_LEN(mem::size_of::<T>() as libc::c_uint) } as usize;
    #[allow(clippy::unnecessary_cast, reason = "it is 32 bits wide on musl")]
    let length = message.cmsg_len as usize;
    if length < needed {
        return None;
    }
    // SAFETY: the kernel wrote `cmsg_len` bytes from the start of the header on, which covers a T behind it; T is
    // plain data, read without demands on alignment.
    Some(unsafe { libc::CMSG_DATA(message).cast::<T>().read_unaligned() })
}

/// A destination in the form the kernel wants; IPv4 fits into the room of IPv6.
#[derive(Clone, Copy)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    fn new(dst: IpAddr, scope: u32) -> (Self, libc::socklen_t) {
        // SAFETY: all-zero is valid for both variants, which are made of integers.
        let mut name: Self = unsafe { mem::zeroed() };
        // The port stays 0: raw IPv6 sockets take any other value for a protocol number.
        match dst {
            IpAddr::V4(dst) => {
                // SAFETY: as above; a C struct of integers written field by field.
                let v4 = unsafe { &mut name.v4 };
                v4.sin_family = libc::AF_INET as libc::sa_family_t;
                v4.sin_addr.s_addr = u32::from_ne_bytes(dst.octets());
                (name, mem::size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            IpAddr::V6(dst) => {
                // SAFETY: as above.
                let v6 = unsafe { &mut name.v6 };
                v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                v6.sin6_addr.s6_addr = dst.octets();
                v6.sin6_scope_id = scope;
                (name, mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }
}

/// Sends packets in order, never blocking. Returns how many were sent and, if not all, the error of the next one.
pub(crate) fn send(fd: BorrowedFd<'_>, packets: &[TxPacket<'_>]) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < packets.len() {
        let next = &packets[done..packets.len().min(done + BATCH)];
        let outcome = match next.iter().position(|packet| packet.slices.len() > MAX_VECTORS) {
            Some(0) => with_few_slices(&next[0], |packet| send_chunk(fd, &[packet])),
            Some(several) => send_chunk(fd, &next[..several]),
            None => send_chunk(fd, next),
        };
        match outcome {
            // Fewer than asked: the next call tells the error of the packet it stopped at.
            Ok(sent) => done += sent,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

/// Copies a packet of more slices than the kernel takes: its headers, and all behind them in one piece.
fn with_few_slices<R>(packet: &TxPacket<'_>, send: impl FnOnce(TxPacket<'_>) -> R) -> R {
    let [headers, payload @ ..] = packet.slices else { return send(*packet) };
    let payload: Vec<u8> = payload.iter().flat_map(|slice| slice.iter().copied()).collect();
    send(TxPacket { slices: &[*headers, IoSlice::new(&payload)], ..*packet })
}

/// Copies what is to be sent into one piece, if it fits.
fn gather<'b, 'a>(room: &'b mut [MaybeUninit<u8>; SMALL], parts: impl Iterator<Item = &'a [u8]>) -> Option<&'b [u8]> {
    let mut length = 0;
    for part in parts {
        room.get_mut(length..length + part.len())?.write_copy_of_slice(part);
        length += part.len();
    }
    // SAFETY: the loop has written these bytes, one part behind the other.
    Some(unsafe { room[..length].assume_init_ref() })
}

/// What a call says that sends one packet.
fn one(result: libc::ssize_t) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(1) }
}

fn send_chunk(fd: BorrowedFd<'_>, chunk: &[TxPacket<'_>]) -> io::Result<usize> {
    let mut room = [const { MaybeUninit::uninit() }; SMALL];
    if let [packet] = chunk
        && packet.len() <= SMALL
        && let Some(bytes) = gather(&mut room, packet.slices.iter().map(|slice| &slice[..]))
    {
        let (name, length) = Name::new(packet.dst, packet.scope);
        // SAFETY: the kernel only reads these bytes, and so many of the name's, all of which live through the call.
        let result = unsafe {
            let name = (&raw const name).cast();
            libc::sendto(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), SEND, name, length)
        };
        return one(result);
    }
    let mut names = [const { MaybeUninit::<Name>::uninit() }; BATCH];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    for ((packet, name), message) in chunk.iter().zip(&mut names).zip(&mut messages) {
        let (value, length) = Name::new(packet.dst, packet.scope);
        let header = &mut message.write(empty_message()).msg_hdr;
        header.msg_name = ptr::from_mut(name.write(value)).cast();
        header.msg_namelen = length;
        // IoSlice is guaranteed to have the layout of iovec; sendmsg does not write through it.
        header.msg_iov = packet.slices.as_ptr().cast::<libc::iovec>().cast_mut();
        header.msg_iovlen = packet.slices.len() as _;
    }
    if chunk.len() == 1 {
        // SAFETY: the first message is initialized, see below; the kernel only reads it.
        let result = unsafe { libc::sendmsg(fd.as_raw_fd(), &messages[0].assume_init_ref().msg_hdr, SEND) };
        return one(result);
    }
    // SAFETY: the first `chunk.len()` (at most BATCH) messages are initialized and point to names on this stack frame
    // and to the packets' slices, which are borrowed through the call; the kernel only reads names and data.
    let result =
        unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr().cast(), chunk.len() as libc::c_uint, SEND as _) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Namespaces that can be left behind without breaking any promise Rust's types make.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Namespace {
    User,
    Mount,
    Network,
}

/// Moves this thread (the whole process, for a user namespace) into new namespaces.
pub(crate) fn unshare(namespaces: &[Namespace]) -> io::Result<()> {
    let flags = namespaces.iter().fold(0, |flags, namespace| {
        flags
            | match namespace {
                Namespace::User => libc::CLONE_NEWUSER,
                Namespace::Mount => libc::CLONE_NEWNS,
                Namespace::Network => libc::CLONE_NEWNET,
            }
    });
    // SAFETY: no pointers. These flags leave memory and descriptors shared (no CLONE_FILES, no CLONE_VM).
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A request about the interface of this name; everything else in it is 0.
fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid ifreq: an array of characters and a union of plain data.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.bytes().any(|byte| byte == 0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} can not be the name of an interface"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Sets the IFF_UP flag of an interface, through any socket of its namespace.
pub(crate) fn set_interface_up(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut request = interface_request(name)?;
    // SAFETY: SIOCGIFFLAGS reads and writes one ifreq, which lives through the call; the name ends with a 0.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just stored the flags variant; every bit pattern of it is valid.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives through the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
