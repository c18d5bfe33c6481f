//! Frames of AF_PACKET sockets: what the kernel puts before each packet, and the packet, in two buffers.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{
    BATCH, MAX_VECTORS, ReceiveOutcome, SEND, SMALL, empty_message, gather, one, receive_messages, with_few_slices,
};
use crate::{RX_SLOT_SIZE, RxBatch, RxMeta, TxPacket};

/// I/O vectors of one `sendmmsg`, kept on the stack: a 64 KiB packet in 16 KiB pieces needs six.
const VECTORS: usize = 128;

/// The address of an interface for `bind`.
pub(crate) fn bind(fd: BorrowedFd<'_>, ifindex: u32, protocol: libc::c_int) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: libc::c_int::try_from(ifindex).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a whole sockaddr_ll that lives through the call, and `length` is its size.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives up to `most` frames behind those that the batch holds: the first `P` bytes of each are given to `meta`, which may refuse
/// it, the rest becomes the packet. Never blocks.
pub(crate) fn receive<const P: usize>(
    fd: BorrowedFd<'_>,
    batch: &mut RxBatch,
    most: usize,
    mut meta: impl FnMut(&[u8; P]) -> Option<RxMeta>,
) -> io::Result<ReceiveOutcome> {
    let first = batch.len();
    let asked = (batch.capacity() - first).min(BATCH).min(most);
    // Only as many as are asked for are written to: this is done for each batch, and most are small.
    let mut prefixes = [const { MaybeUninit::<[u8; P]>::uninit() }; BATCH];
    let mut vectors = [const { MaybeUninit::<[libc::iovec; 2]>::uninit() }; BATCH];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    let places = prefixes.iter_mut().zip(&mut vectors).zip(&mut messages);
    for (((prefix, vectors), message), buffer) in places.zip(batch.prepare_next(asked)) {
        let vectors = vectors.write([
            libc::iovec { iov_base: prefix.as_mut_ptr().cast(), iov_len: P },
            libc::iovec { iov_base: buffer.spare_capacity_mut().as_mut_ptr().cast(), iov_len: RX_SLOT_SIZE },
        ]);
        let header = &mut message.write(empty_message()).msg_hdr;
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = 2;
    }
    // SAFETY: the loop above has initialized the first `asked` messages, as the batch has as many slots.
    let messages = unsafe { messages[..asked].assume_init_mut() };
    // SAFETY: these messages point to two iovecs each, and these to P bytes on this stack frame and to
    // RX_SLOT_SIZE bytes of spare capacity of a distinct slot of `batch`, which is mutably borrowed and not touched
    // until the call returns.
    let received = unsafe { receive_messages(fd, messages)? };
    let mut truncated = 0;
    for (i, message) in messages[..received.min(asked)].iter().enumerate() {
        let length = (message.msg_len as usize).saturating_sub(P).min(RX_SLOT_SIZE);
        // SAFETY: the kernel filled the P bytes of the prefix first and then wrote the rest of `msg_len` bytes, at most
        // the RX_SLOT_SIZE offered, to the start of this slot's (empty) buffer, whose capacity is at least RX_SLOT_SIZE.
        unsafe { batch.buffer(first + i).set_len(length) };
        let cut = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        if cut || (message.msg_len as usize) < P {
            truncated += 1;
            continue;
        }
        // SAFETY: the kernel has filled the P bytes of the prefix, which come first.
        if let Some(meta) = meta(unsafe { prefixes[i].assume_init_ref() }) {
            batch.swap_unused(first + i);
            batch.commit(meta);
        }
    }
    Ok(ReceiveOutcome { received, asked, truncated })
}

/// Sends packets in order, each behind the `P` bytes that `prefix` makes for it. Never blocks. Returns how many were sent
/// and, if not all, the error of the next one.
pub(crate) fn send<const P: usize>(
    fd: BorrowedFd<'_>,
    packets: &[TxPacket<'_>],
    mut prefix: impl FnMut(&TxPacket<'_>) -> [u8; P],
) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < packets.len() {
        let next = &packets[done..];
        let outcome = match next[0].slices.len() < MAX_VECTORS {
            true => send_some(fd, next, &mut prefix),
            false => with_few_slices(&next[0], |packet| send_some(fd, &[packet], &mut prefix)),
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

/// One `sendmmsg` of as many packets as there are vectors for, and at least one.
fn send_some<const P: usize>(
    fd: BorrowedFd<'_>,
    packets: &[TxPacket<'_>],
    prefix: &mut impl FnMut(&TxPacket<'_>) -> [u8; P],
) -> io::Result<usize> {
    let mut room = [const { MaybeUninit::uninit() }; SMALL];
    if let [packet] = packets
        && P + packet.len() <= SMALL
    {
        let prefix = prefix(packet);
        let parts = [&prefix[..]].into_iter().chain(packet.slices.iter().map(|slice| &slice[..]));
        if let Some(bytes) = gather(&mut room, parts) {
            // SAFETY: the kernel only reads these bytes, which live through the call.
            let result = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), SEND) };
            return one(result);
        }
    }
    let mut few = [const { MaybeUninit::<libc::iovec>::uninit() }; VECTORS];
    let mut many = Vec::new();
    let needed = packets[0].slices.len() + 1;
    let vectors = if needed <= VECTORS {
        &mut few[..]
    } else {
        many.resize_with(needed, MaybeUninit::uninit);
        &mut many[..]
    };
    let mut prefixes = [const { MaybeUninit::<[u8; P]>::uninit() }; BATCH];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    let (mut used, mut count) = (0, 0);
    for ((packet, bytes), message) in packets.iter().zip(&mut prefixes).zip(&mut messages) {
        let needed = packet.slices.len() + 1;
        if used + needed > vectors.len() {
            break;
        }
        let bytes = bytes.write(prefix(packet));
        let own = &mut vectors[used..used + needed];
        own[0].write(libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: P });
        for (vector, slice) in own[1..].iter_mut().zip(packet.slices) {
            vector.write(libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() });
        }
        let header = &mut message.write(empty_message()).msg_hdr;
        header.msg_iov = own.as_mut_ptr().cast();
        header.msg_iovlen = needed as _;
        used += needed;
        count += 1;
    }
    if count == 1 {
        // SAFETY: the first message is initialized, see below; the kernel only reads it.
        let result = unsafe { libc::sendmsg(fd.as_raw_fd(), &messages[0].assume_init_ref().msg_hdr, SEND) };
        return one(result);
    }
    // SAFETY: the first `count` (at most BATCH) messages point to `needed` initialized iovecs each, and these to a prefix
    // on this stack frame and to the packet's slices, which are borrowed through the call; the kernel only reads them.
    let result =
        unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr().cast(), count as libc::c_uint, SEND as _) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TxChecksum;
    use std::io::IoSlice;
    use std::net::Ipv4Addr;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    /// A pair of sockets that keeps messages apart, as AF_PACKET does. The kernel takes 1,024 pieces at most.
    #[test]
    fn packets_in_thousands_of_pieces_leave_between_others() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let bytes: Vec<u8> = (0..60_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let headers = [7; 54];
        let counts = [0, 3, MAX_VECTORS - 3, MAX_VECTORS - 2, MAX_VECTORS - 1, 5, bytes.len()];
        let pieces = counts.map(|count| {
            [&headers[..]].into_iter().chain(bytes[..count].chunks(1)).map(IoSlice::new).collect::<Vec<_>>()
        });
        let packets = pieces.each_ref().map(|slices| TxPacket {
            dst: Ipv4Addr::LOCALHOST.into(),
            scope: 0,
            link: None,
            slices,
            segment_size: 1448,
            checksum: TxChecksum::Partial { start: 34, offset: 16 },
        });
        let (sent, error) = send(ours.as_fd(), &packets, |packet| packet.slices[0].len().to_le_bytes());
        assert_eq!((sent, error.map(|error| error.to_string())), (counts.len(), None));
        for count in counts {
            let mut got = vec![0; 1 << 17];
            let length = theirs.recv(&mut got).unwrap();
            assert_eq!(
                got[..length],
                [&headers.len().to_le_bytes(), &headers[..], &bytes[..count]].concat(),
                "{count}"
            );
        }
    }
}
