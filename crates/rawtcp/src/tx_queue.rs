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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{TcpListener, TcpStream};
    use crate::{Device, Stack};
    use rawtcp_io::{Capabilities, Drained, PortSet, ReadySource, RxBatch, WakeSlot};
    use std::io;
    use std::net::Ipv4Addr;
    use tokio::io::AsyncReadExt;

    /// A device that takes packets while it is open.
    #[derive(Debug, Default)]
    struct Gate {
        open: AtomicBool,
        sent: Mutex<Vec<u8>>,
        slot: WakeSlot,
    }

    impl PacketIo for Gate {
        fn name(&self) -> &str {
            "gate"
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities { mtu: 1500, max_segmentable: 0, tx_checksum: false, max_batch: 1, frames: false }
        }
        fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
            batch.clear();
            Ok(Drained::Yes)
        }
        fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
            if !self.open.load(Ordering::Relaxed) {
                return (0, Some(SendError::WouldBlock));
            }
            lock(&self.sent).push(packets[0].slices[0][0]);
            (1, None)
        }
        fn ready_source(&self) -> ReadySource<'_> {
            ReadySource::Waker(&self.slot)
        }
        fn drops(&self) -> u64 {
            0
        }
        fn set_ports(&self, _ports: &PortSet) -> io::Result<()> {
            Ok(())
        }
        fn recv_queue_bytes(&self) -> usize {
            0
        }
    }

    fn with_packet<R>(number: u8, act: impl FnOnce(TxPacket<'_>) -> R) -> R {
        act(TxPacket {
            dst: Ipv4Addr::LOCALHOST.into(),
            scope: 0,
            link: None,
            slices: &[IoSlice::new(&[number])],
            segment_size: 0,
            checksum: TxChecksum::Complete,
        })
    }

    /// A stack, and connections to itself: all of their ends.
    async fn connections(many: usize) -> (Stack, TcpListener, Vec<(TcpStream, TcpStream)>) {
        let stack = Stack::builder().device(Device::Loopback).build().unwrap();
        let listener = stack.bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut pairs = Vec::new();
        for _ in 0..many {
            let (stream, accepted) =
                tokio::try_join!(stack.connect(listener.local_addr().unwrap()), listener.accept()).unwrap();
            pairs.push((stream, accepted.0));
        }
        (stack, listener, pairs)
    }

    fn serves(next: Next, cell: &Arc<ConnCell>) -> bool {
        matches!(next, Next::Serve(other) if Arc::ptr_eq(&other, cell))
    }

    #[tokio::test]
    async fn it_is_busy_until_the_last_who_waits_has_had_its_turn() {
        let (_stack, _listener, pairs) = connections(3).await;
        let [a, b, c] = [0, 1, 2].map(|i| pairs[i].0.cell());
        let (gate, queue, counters) = (Gate::default(), TxQueue::default(), Counters::default());
        assert!(!queue.is_busy() && !queue.join(a, false), "nobody waits");
        with_packet(1, |packet| queue.keep(&[packet], a));
        assert!(queue.is_busy());
        assert!(queue.join(b, false) && queue.join(c, false), "behind the first");
        assert!(matches!(queue.next(&gate, &counters), Next::Full));
        assert!(queue.is_busy());
        gate.open.store(true, Ordering::Relaxed);
        assert!(serves(queue.next(&gate, &counters), a));
        assert!(!queue.join(a, true), "it is its turn");
        assert!(queue.is_busy() && queue.join(a, false), "the others wait still, and it has had its turn");
        with_packet(2, |packet| queue.keep_replies(&[packet], &counters));
        for cell in [b, c] {
            assert!(serves(queue.next(&gate, &counters), cell));
            assert!(queue.is_busy());
        }
        assert!(serves(queue.next(&gate, &counters), a));
        assert!(!queue.is_busy());
        with_packet(3, |packet| queue.keep_replies(&[packet], &counters));
        assert!(queue.is_busy());
        assert!(matches!(queue.next(&gate, &counters), Next::Idle));
        assert!(!queue.is_busy());
        assert_eq!(*lock(&gate.sent), [1, 2, 3]);
    }

    /// A device has room again, but somebody waits for it: whoever comes now goes behind.
    #[tokio::test]
    async fn nobody_sends_past_those_who_wait() {
        let (_stack, _listener, mut pairs) = connections(2).await;
        let [a, b] = [0, 1].map(|i| pairs[i].0.cell().clone());
        let host = a.host();
        let open = host.devices.get(b.lock().lane.choose(host.clock.now()).0);
        with_packet(0, |packet| open.queue.keep(&[packet], &a));
        // The driver gets its turn where this task waits.
        pairs[1].0.try_write(b"x").unwrap();
        assert!(b.lock().blocked);
        host.kick();
        assert_eq!(pairs[1].1.read_u8().await.unwrap(), b'x');
        assert!(!b.lock().blocked && !open.queue.is_busy());
    }
}
