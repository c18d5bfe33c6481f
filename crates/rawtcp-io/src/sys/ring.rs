//! The receive ring of an AF_PACKET socket (`PACKET_RX_RING`, TPACKET_V2): memory shared with the kernel, which puts each
//! packet into the next frame, where it is found without a system call.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use super::set_option;
use crate::vnet;

/// Bytes of a frame, the kernel's header in front included: a packet of an Ethernet's 1500 bytes fits.
const FRAME: usize = 2048;
/// What the kernel allocates in one piece. A multiple of any page's size.
const BLOCK: usize = 64 << 10;

/// What a frame of the ring holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// The virtio-net header and all of the packet, link-layer header first.
    Whole(&'a [u8]),
    /// The packet is too large for a frame: it is the next one of the socket's queue.
    Queued,
    /// It would have been in the socket's queue, but that was full.
    Lost,
}

/// The ring. It belongs to the socket as well, which stays open for as long as this is mapped.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: NonNull<u8>,
    frames: usize,
    /// The oldest frame that was not given back.
    next: usize,
}

// SAFETY: the memory is reached through this value only, and by the kernel, whose turn each frame's status tells by
// atomic loads and stores; a mapping may be used and unmapped by any thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Has the kernel put what this socket receives into a ring of at least `frames`, at least one block of them. The
    /// socket has `PACKET_VNET_HDR` set, is bound to nothing yet, and has no ring.
    pub(crate) fn map(fd: BorrowedFd<'_>, frames: usize) -> io::Result<Self> {
        set_option(fd, libc::SOL_PACKET, libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as libc::c_int)?;
        // Larger ones go to the queue, instead of being cut off.
        set_option(fd, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, 1 as libc::c_int)?;
        let blocks = frames.div_ceil(BLOCK / FRAME).max(1);
        let frames = blocks * (BLOCK / FRAME);
        let number = |value: usize| u32::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let request = [BLOCK, blocks, FRAME, frames].map(number);
        let [block_size, block_nr, frame_size, frame_nr] = request;
        // `struct tpacket_req`: these four numbers.
        set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, [block_size?, block_nr?, frame_size?, frame_nr?])?;
        // SAFETY: a new mapping, where the system likes it; the kernel checks that it is as long as the ring.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                frames * FRAME,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        let memory = NonNull::new(memory).filter(|memory| memory.as_ptr() != libc::MAP_FAILED);
        let Some(memory) = memory else {
            let error = io::Error::last_os_error();
            // A ring that nobody sees would swallow everything.
            set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, [0_u32; 4])?;
            return Err(error);
        };
        Ok(Self { memory: memory.cast(), frames, next: 0 })
    }

    /// Bytes of all frames.
    pub(crate) fn bytes(&self) -> usize {
        self.frames * FRAME
    }

    /// The frame `ahead` behind the oldest one, if the kernel has filled it and all before it have been looked at.
    pub(crate) fn frame(&self, ahead: usize) -> Option<Frame<'_>> {
        if ahead >= self.frames {
            return None;
        }
        let (start, status) = self.place(ahead);
        // What the kernel has written before it handed the frame over is seen behind this.
        let status = status.load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        if status & libc::TP_STATUS_COPY != 0 {
            return Some(Frame::Queued);
        }
        // SAFETY: the header stands at the start of each frame, all of whose bytes are mapped, aligned to FRAME, and are
        // written by nobody until it is given back, which takes `&mut self`; every bit pattern is a valid header.
        let header = unsafe { start.cast::<libc::tpacket2_hdr>().as_ref() };
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

    /// Gives the oldest frames back, all of which have been looked at.
    pub(crate) fn release(&mut self, count: usize) {
        for _ in 0..count {
            let (_, status) = self.place(0);
            // All that was read of it has been read.
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = if self.next + 1 == self.frames { 0 } else { self.next + 1 };
        }
    }

    /// Where a frame begins, and its status, which the kernel looks at and changes at any time.
    fn place(&self, ahead: usize) -> (NonNull<u8>, &AtomicU32) {
        let at = self.next + ahead;
        let at = if at < self.frames { at } else { at - self.frames };
        // SAFETY: `next` and `ahead` are less than the number of frames, so `at` is the index of one that is mapped.
        let start = unsafe { self.memory.add(at * FRAME) };
        // SAFETY: the status is the header's first field, 32 bits and aligned, and is only used as an atomic.
        (start, unsafe { AtomicU32::from_ptr(start.cast().as_ptr()) })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and nothing borrows from it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes()) };
    }
}
