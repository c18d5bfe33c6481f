//! The character device of TUN interfaces: its ioctls, and reads into a batch.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::interface_request;
use crate::{RX_SLOT_SIZE, RxBatch, RxMeta};

/// Attaches an open `/dev/net/tun` to the interface of this name, which is made if there is none; `%d` in it stands for a
/// number of the kernel's choice. Packets (`IFF_TUN`) or frames (`IFF_TAP`) then come and go behind a virtio-net header.
/// Says the name.
pub(crate) fn attach(fd: BorrowedFd<'_>, name: &str, kind: libc::c_int) -> io::Result<String> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call; its name ends with a 0.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(name_of(&request))
}

/// Whether the device still has its interface.
pub(crate) fn is_attached(fd: BorrowedFd<'_>) -> bool {
    let Ok(mut request) = interface_request("-") else { return true };
    // SAFETY: TUNGETIFF writes one ifreq, which lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EBADFD)
}

/// Has a descriptor stand for the same as another one from here on; what it stood for is closed.
pub(crate) fn replace(fd: BorrowedFd<'_>, by: BorrowedFd<'_>) {
    // SAFETY: no pointers. Both are open and stay so: the number `fd` goes on belonging to its owner, at no moment free for
    // others. It can only fail where `fd` is being closed meanwhile, which its borrow rules out.
    unsafe { libc::dup3(by.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) };
}

/// The length of the virtio-net header.
pub(crate) fn set_header_length(fd: BorrowedFd<'_>, length: usize) -> io::Result<()> {
    let length = length as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel may leave to us of what it sends: a set of `TUN_F_…`.
pub(crate) fn set_offload(fd: BorrowedFd<'_>, offload: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(offload)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0);
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

/// What some reads brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadOutcome {
    /// There was nothing more.
    pub(crate) drained: bool,
    /// Packets thrown away since they may have been cut off.
    pub(crate) truncated: usize,
}

/// Reads up to `most` packets into a cleared batch: the first `P` bytes of each are given to `meta`, the rest becomes
/// the packet. Never blocks if the descriptor does not.
pub(crate) fn receive<const P: usize>(
    fd: BorrowedFd<'_>,
    batch: &mut RxBatch,
    most: usize,
    meta: impl Fn(&[u8; P]) -> RxMeta,
) -> io::Result<ReadOutcome> {
    let mut outcome = ReadOutcome::default();
    for _ in 0..most.min(batch.capacity()) {
        let mut prefix = [0_u8; P];
        let next = batch.len();
        let buffer = batch.prepare(next);
        let vectors = [
            libc::iovec { iov_base: prefix.as_mut_ptr().cast(), iov_len: P },
            libc::iovec { iov_base: buffer.spare_capacity_mut().as_mut_ptr().cast(), iov_len: RX_SLOT_SIZE },
        ];
        // SAFETY: the two iovecs point to P bytes on this stack frame and to RX_SLOT_SIZE bytes of spare capacity of a
        // slot of `batch`, which is mutably borrowed and not touched until the call returns.
        let result = unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), 2) };
        let Ok(read) = usize::try_from(result) else {
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => {
                    outcome.drained = true;
                    break;
                }
                // What was read before it must not be lost; it comes again.
                _ if !batch.is_empty() => break,
                _ => return Err(error),
            }
        };
        let length = read.saturating_sub(P).min(RX_SLOT_SIZE);
        // The device does not say that it cut something off. No packet of the kernel's fills a slot.
        if length == RX_SLOT_SIZE {
            outcome.truncated += 1;
            continue;
        }
        // SAFETY: the kernel filled the P bytes of the prefix first and then wrote the rest of the bytes that it counted,
        // at most the RX_SLOT_SIZE offered, to the start of this slot's (empty) buffer, whose capacity is at least that.
        unsafe { batch.buffer(next).set_len(length) };
        batch.commit(meta(&prefix));
    }
    Ok(outcome)
}
