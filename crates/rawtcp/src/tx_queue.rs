//! What a device did not take: whole packets first, then the connections that wait for their turn.

use crate::conn_cell::ConnCell;
use crate::stats::{Counters, count};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, lock};
use rawtcp_io::network::Mac;
use rawtcp_io::{PacketIo, SendError, TxChecksum, TxPacket};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::IpAddr;

/// Packets that answer segments of strangers are dropped beyond this many: they can be had for free.
/// A connection adds at most one hold's packets before it has to wait, so its own bound is implied.
const MAX_REPLIES: usize = 256;

/// A packet with its bytes.
#[derive(Debug)]
struct Owned {
    dst: IpAddr,
    scope: u32,
    link: Option<Mac>,
    bytes: Vec<u8>,
    /// Bytes of the first slice, the headers.
    headers: usize,
    segment_size: u16,
    checksum: TxChecksum,
}

impl Owned {
    fn of(packet: &TxPacket<'_>) -> Self {
        let mut bytes = Vec::with_capacity(packet.len());
        packet.slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        Owned {
            dst: packet.dst,
            scope: packet.scope,
            link: packet.link,
            bytes,
            headers: packet.slices.first().map_or(0, |headers| headers.len()),
            segment_size: packet.segment_size,
            checksum: packet.checksum,
        }
    }
}

/// The device's bounded FIFO and its list of blocked connections.
#[derive(Debug, Default)]
pub(crate) struct TxQueue {
    /// Something is queued: look before sending past it.
    busy: AtomicBool,
    inner: Mutex<Inner>,
}

/// Whose turn it is.
#[derive(Debug)]
pub(crate) enum Next {
    /// The device is full.
    Full,
    /// Nobody waits.
    Idle,
    /// This connection's.
    Serve(Arc<ConnCell>),
}

#[derive(Debug, Default)]
struct Inner {
    fifo: VecDeque<Owned>,
    blocked: VecDeque<Arc<ConnCell>>,
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.fifo.is_empty() && self.blocked.is_empty()
    }
}

impl TxQueue {
    /// Whether the driver has to wait for the device to become writable.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Queues a connection behind those that already wait; `false` if it may send at once, as nobody waits
    /// any more or it is its `turn`.
    pub(crate) fn join(&self, cell: &Arc<ConnCell>, turn: bool) -> bool {
        let mut inner = lock(&self.inner);
        match (inner.fifo.is_empty(), turn) {
            (true, true) => return false,
            // Somebody's answers came between: it is still the first.
            (false, true) => inner.blocked.push_front(cell.clone()),
            (true, false) if inner.blocked.is_empty() => return false,
            (_, false) => inner.blocked.push_back(cell.clone()),
        }
        true
    }

    /// Keeps copies of packets that a connection has counted as sent; the connection waits behind them.
    pub(crate) fn keep(&self, packets: &[TxPacket<'_>], cell: &Arc<ConnCell>) {
        let mut inner = lock(&self.inner);
        inner.fifo.extend(packets.iter().map(Owned::of));
        inner.blocked.push_back(cell.clone());
        self.busy.store(true, Ordering::Release);
    }

    /// Keeps copies of answers that belong to no connection, as far as there is room.
    pub(crate) fn keep_replies(&self, packets: &[TxPacket<'_>], counters: &Counters) {
        let mut inner = lock(&self.inner);
        let room = MAX_REPLIES.saturating_sub(inner.fifo.len()).min(packets.len());
        inner.fifo.extend(packets[..room].iter().map(Owned::of));
        count(&counters.packets_lost, packets.len() - room);
        if !inner.is_empty() {
            self.busy.store(true, Ordering::Release);
        }
    }

    /// Sends what is queued. Once the last packet *was sent*, the connection that has waited longest is handed
    /// over: one at a time, so that the next ones keep their place if that one fills the device again.
    pub(crate) fn next(&self, io: &dyn PacketIo, counters: &Counters) -> Next {
        let mut inner = lock(&self.inner);
        while let Some(packet) = inner.fifo.front() {
            let (headers, payload) = packet.bytes.split_at(packet.headers);
            let slices = [IoSlice::new(headers), IoSlice::new(payload)];
            let one = TxPacket {
                dst: packet.dst,
                scope: packet.scope,
                link: packet.link,
                slices: &slices,
                segment_size: packet.segment_size,
                checksum: packet.checksum,
            };
            match io.send(&[one]) {
                (1.., _) => count(&counters.packets_sent, 1),
                (0, Some(SendError::WouldBlock)) => return Next::Full,
                // Nobody is left to be told: to its connection the packet is sent, and so it is lost.
                (0, _) => count(&counters.packets_lost, 1),
            }
            inner.fifo.pop_front();
        }
        let first = inner.blocked.pop_front();
        self.busy.store(!inner.blocked.is_empty(), Ordering::Release);
        first.map_or(Next::Idle, Next::Serve)
    }

    /// Lets go of everything.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *lock(&self.inner));
        self.busy.store(false, Ordering::Release);
        drop(gone);
    }
}
