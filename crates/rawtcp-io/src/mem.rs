//! Devices without a kernel: an in-memory pair, and the loopback switch inside the process.
//!
//! A send never delivers by itself: it appends to the receiver's bounded queue and wakes whoever drains it. A full
//! queue drops and counts, as a real one does.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::{
    Capabilities, Drained, OWNED_MIN, PacketIo, PortSet, RX_SLOT_SIZE, ReadySource, RxBatch, RxChecksum, RxMeta,
    SendError, TxChecksum, TxPacket, WakeSlot,
};

mod switch;

pub use switch::{LoopbackDevice, Receiver, Reservation, Switch};

/// What a queue charges for a packet beside its bytes; about what the kernel charges.
const PACKET_OVERHEAD: usize = 512;

/// Packets moved by one call; there is no system call to save, but a driver wants to be fair.
const MAX_BATCH: usize = 64;

/// How an in-memory device behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemConfig {
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Largest packet, in bytes, which is passed on unsegmented with its segment size, as veth does with its own
    /// kernel's packets; 0: none.
    pub max_segmentable: u32,
    /// Packets may come with the pseudo-header sum only, and are delivered as they are.
    pub tx_checksum: bool,
    /// Bytes of the receive queue of each side, 512 for each packet included.
    pub queue_bytes: usize,
}

impl Default for MemConfig {
    /// Like an Ethernet without offloads: MTU 1500, queues of 8 MiB.
    fn default() -> Self {
        Self { mtu: 1500, max_segmentable: 0, tx_checksum: false, queue_bytes: 8 << 20 }
    }
}

impl MemConfig {
    /// Like Linux' `lo`: packets up to 65,535 bytes, checksums left out.
    pub fn loopback() -> Self {
        Self { mtu: 65_535, max_segmentable: 65_535, tx_checksum: true, queue_bytes: 8 << 20 }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: self.mtu,
            max_segmentable: self.max_segmentable,
            tx_checksum: self.tx_checksum,
            max_batch: MAX_BATCH,
            frames: false,
        }
    }

    /// What the device thinks of a packet, before it takes it.
    fn check(&self, packet: &TxPacket<'_>) -> Result<(), SendError> {
        let (segmented, partial) = (packet.segment_size != 0, packet.checksum != TxChecksum::Complete);
        if (segmented && self.max_segmentable == 0) || (partial && !self.tx_checksum) {
            return Err(SendError::Other(io::ErrorKind::Unsupported.into()));
        }
        let limit = if segmented { self.max_segmentable } else { self.mtu };
        if packet.len() > RX_SLOT_SIZE.min(limit as usize) { Err(SendError::TooBig) } else { Ok(()) }
    }
}

#[derive(Debug, Default)]
struct Pending {
    packets: VecDeque<(RxMeta, Bytes)>,
    charged: usize,
    drops: u64,
    /// Packets taken out, ever.
    taken: u64,
}

/// A bounded queue of packets on their way to one receiver.
#[derive(Debug)]
struct Queue {
    pending: Mutex<Pending>,
    limit: usize,
    wake: WakeSlot,
}

impl Queue {
    fn new(limit: usize) -> Self {
        Self { pending: Mutex::default(), limit, wake: WakeSlot::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends, or drops and counts. Does not wake.
    fn push(&self, meta: RxMeta, packet: Bytes) {
        let mut pending = self.lock();
        let charge = packet.len() + PACKET_OVERHEAD;
        if pending.charged + charge > self.limit {
            pending.drops += 1;
            return;
        }
        pending.charged += charge;
        pending.packets.push_back((meta, packet));
    }

    fn recv(&self, batch: &mut RxBatch) -> Drained {
        batch.clear();
        let mut pending = self.lock();
        while !batch.is_full() {
            let Some((meta, packet)) = pending.packets.pop_front() else {
                return Drained::Yes;
            };
            pending.charged -= packet.len() + PACKET_OVERHEAD;
            pending.taken += 1;
            if packet.len() >= OWNED_MIN {
                batch.push_owned(meta, packet);
            } else {
                batch.push(meta, &packet);
            }
        }
        if pending.packets.is_empty() { Drained::Yes } else { Drained::Maybe }
    }

    fn drops(&self) -> u64 {
        self.lock().drops
    }
}

/// Gathers a packet's pieces, with the metadata its receiver will see.
fn gather(packet: &TxPacket<'_>) -> (RxMeta, Bytes) {
    let mut data = BytesMut::with_capacity(packet.len());
    for slice in packet.slices {
        data.extend_from_slice(slice);
    }
    let checksum = match packet.checksum {
        TxChecksum::Complete => RxChecksum::Unknown,
        TxChecksum::Partial { .. } => RxChecksum::Partial,
    };
    let to_other = match packet.dst {
        IpAddr::V4(dst) => dst.is_broadcast() || dst.is_multicast(),
        IpAddr::V6(dst) => dst.is_multicast(),
    };
    let meta = RxMeta { checksum, segment_size: packet.segment_size, ifindex: packet.scope, to_other, ..RxMeta::IP };
    (meta, data.freeze())
}

/// One side of an in-memory link. What one side sends, the other receives, whatever its destination.
#[derive(Debug)]
pub struct MemDevice {
    config: MemConfig,
    inbound: Arc<Queue>,
    outbound: Arc<Queue>,
}

/// A link of which both sides are the same: what is sent is received.
pub fn looped(config: MemConfig) -> MemDevice {
    let queue = Arc::new(Queue::new(config.queue_bytes));
    MemDevice { config, inbound: queue.clone(), outbound: queue }
}

/// The two sides of a link.
pub fn pair(config: MemConfig) -> (MemDevice, MemDevice) {
    let (a, b) = (Arc::new(Queue::new(config.queue_bytes)), Arc::new(Queue::new(config.queue_bytes)));
    let device = |inbound: &Arc<Queue>, outbound: &Arc<Queue>| MemDevice {
        config,
        inbound: inbound.clone(),
        outbound: outbound.clone(),
    };
    (device(&a, &b), device(&b, &a))
}

impl PacketIo for MemDevice {
    fn name(&self) -> &str {
        "mem"
    }
    fn capabilities(&self) -> Capabilities {
        self.config.capabilities()
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        Ok(self.inbound.recv(batch))
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        let mut result = (packets.len(), None);
        for (i, packet) in packets.iter().enumerate() {
            if let Err(error) = self.config.check(packet) {
                result = (i, Some(error));
                break;
            }
            let (meta, data) = gather(packet);
            self.outbound.push(meta, data);
        }
        if result.0 > 0 {
            self.outbound.wake.wake();
        }
        result
    }
    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Waker(&self.inbound.wake)
    }
    fn drops(&self) -> u64 {
        self.inbound.drops()
    }
    /// Does nothing: a link delivers everything.
    fn set_ports(&self, _ports: &PortSet) -> io::Result<()> {
        Ok(())
    }
    fn recv_queue_bytes(&self) -> usize {
        self.config.queue_bytes
    }
}

#[cfg(test)]
mod tests;
