//! The receive ring of an AF_PACKET socket (`PACKET_RX_RING`, TPACKET_V2): memory shared with the kernel, which puts each
//! packet into the next frame, where it is found without a system call.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use super::set_option;
use crate::vnet;

/// Bytes of a frame, the kernel's header in front included: an IP packet of up to 1510 bytes fits.
pub(crate) const FRAME: usize = 1600;
/// What the kernel allocates in one piece. A multiple of any page's size.
const BLOCK: usize = 64 << 10;
/// Frames of a block; none reaches into the next.
const FRAMES: usize = BLOCK / FRAME;

/// What a frame of the ring holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// The virtio-net header and all of the packet, link-layer header first.
    Whole(&'a [u8]),
    /// The packet, of so many bytes, is too large for a frame: it is the next one of the socket's queue.
    Queued(usize),
    /// It would have been in the socket's queue, but that was full.
    Lost,
}

/// The ring. It belongs to the socket as well, which stays open for as long as this is mapped.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: NonNull<u8>,
    frames: usize,
    /// The oldest frame that was not looked at.
    next: usize,
    /// The one before it has not been given back yet.
    held: bool,
}

// SAFETY: the memory is reached through this value only, and by the kernel, whose turn each frame's status tells by
// atomic loads and stores; a mapping may be used and unmapped by any thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Has the kernel put what this socket receives into a ring of at least `frames`, at least one block of them; `None`
    /// where it refuses one. The socket has `PACKET_VNET_HDR` set, is bound to nothing yet, and has no ring.
    ///
    /// # Errors
    /// The socket is of no use any more: what it receives goes to a ring that nobody sees.
    pub(crate) fn map(fd: BorrowedFd<'_>, frames: usize) -> io::Result<Option<Self>> {
        let blocks = frames.div_ceil(FRAMES).max(1);
        let frames = blocks.saturating_mul(FRAMES);
        let [Ok(block_size), Ok(blocks), Ok(frame_size), Ok(frame_count)] =
            [BLOCK, blocks, FRAME, frames].map(u32::try_from)
        else {
            return Ok(None);
        };
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        let made = set_option(fd, libc::SOL_PACKET, libc::PACKET_VERSION, version)
            // Larger ones go to the queue, instead of being cut off.
            .and_then(|()| set_option(fd, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, 1 as libc::c_int))
            // `struct tpacket_req`.
            .and_then(|()| set_ring(fd, [block_size, blocks, frame_size, frame_count]));
        if made.is_err() {
            return Ok(None);
        }
        match view(fd, frames) {
            Ok(memory) => {
                let ring = Self { memory, frames, next: 0, held: true };
                let (_, status) = ring.place(frames - 1);
                // As if it had been looked at, and not been given back yet.
                status.store(libc::TP_STATUS_USER, Ordering::Release);
                Ok(Some(ring))
            }
            Err(_) => set_ring(fd, [0; 4]).map(|()| None),
        }
    }

    /// Has everything come by the queue from here on. What is in the ring is lost. Where the kernel refuses, as while a
    /// process forked from this one has the ring as well, it stays.
    pub(crate) fn end(self, fd: BorrowedFd<'_>) -> Result<(), Option<Self>> {
        let Self { frames, next, held, .. } = self;
        // First: the kernel frees no memory that is in use.
        drop(self);
        if set_ring(fd, [0; 4]).is_ok() {
            return Ok(());
        }
        Err(view(fd, frames).ok().map(|memory| Self { memory, frames, next, held }))
    }

    /// How many packets it holds at most, and one.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// The frame `ahead` behind the oldest one that was not looked at, if the kernel has filled it.
    pub(crate) fn frame(&self, ahead: usize) -> Option<Frame<'_>> {
        if ahead >= self.frames - usize::from(self.held) {
            return None;
        }
        let (start, status) = self.place(ahead);
        // What the kernel has written before it handed the frame over is seen behind this.
        let status = status.load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the header stands at the start of each frame, all of whose bytes are mapped, aligned to 64 bytes, and are
        // written by nobody until it is given back, which takes `&mut self`; every bit pattern is a valid header.
        let header = unsafe { start.cast::<libc::tpacket2_hdr>().as_ref() };
        if status & libc::TP_STATUS_COPY != 0 {
            return Some(Frame::Queued(header.tp_len as usize));
        }
        let from = usize::from(header.tp_mac).saturating_sub(vnet::LENGTH);
        let length = header.tp_snaplen as usize + vnet::LENGTH;
        let fits = from >= mem::size_of::<libc::tpacket2_hdr>() && from + length <= FRAME;
        if !fits || header.tp_snaplen != header.tp_len {
            return Some(Frame::Lost);
        }
        // SAFETY: as above; these bytes are within the frame, behind its header, and the kernel has initialized them: it
        // writes the virtio-net header right before the packet. The ring's memory began as zeros.
        Some(Frame::Whole(unsafe { std::slice::from_raw_parts(start.as_ptr().add(from), length) }))
    }

    /// These frames have been looked at. All are given back but the last: as long as the kernel finds that filled, the
    /// socket counts as readable, and any packet, also one that is dropped, makes an edge for epoll.
    pub(crate) fn release(&mut self, count: usize) {
        for _ in 0..count {
            self.give_back();
            (self.next, self.held) = (self.after(self.next, 1), true);
        }
    }

    /// Gives the last frame back, too: the socket is readable when there is something to look at.
    pub(crate) fn give_back(&mut self) {
        if std::mem::take(&mut self.held) {
            let (_, status) = self.place(self.frames - 1);
            // All that was read of it has been read.
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
    }

    /// The index of the frame so many, at most all, behind another.
    fn after(&self, at: usize, ahead: usize) -> usize {
        let at = at + ahead;
        if at < self.frames { at } else { at - self.frames }
    }

    /// Where a frame begins, and its status, which the kernel looks at and changes at any time.
    fn place(&self, ahead: usize) -> (NonNull<u8>, &AtomicU32) {
        let at = self.after(self.next, ahead);
        // SAFETY: `next` and `ahead` are less than the number of frames, so `at` is the index of one that is mapped.
        let start = unsafe { self.memory.add(at / FRAMES * BLOCK + at % FRAMES * FRAME) };
        // SAFETY: the status is the header's first field, 32 bits and aligned, and is only used as an atomic.
        (start, unsafe { AtomicU32::from_ptr(start.cast().as_ptr()) })
    }
}

fn set_ring(fd: BorrowedFd<'_>, request: [u32; 4]) -> io::Result<()> {
    set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, request)
}

/// Bytes of a ring of so many frames, whole blocks of them.
fn bytes(frames: usize) -> usize {
    frames / FRAMES * BLOCK
}

/// Maps the ring of a socket, which has so many frames.
fn view(fd: BorrowedFd<'_>, frames: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, where the system likes it; the kernel refuses any that is not as long as the ring.
    let memory = unsafe { libc::mmap(ptr::null_mut(), bytes(frames), protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
    let memory = NonNull::new(memory).filter(|memory| memory.as_ptr() != libc::MAP_FAILED);
    memory.map(NonNull::cast).ok_or_else(io::Error::last_os_error)
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `view` made, and nothing borrows from it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), bytes(self.frames)) };
    }
}
