//! A link that is full after two packets.

use rawtcp_io::{
    Capabilities, Drained, PacketIo, PortSet, ReadySource, RxBatch, RxMeta, SendError, TxPacket, WakeSlot,
};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const ROOM: usize = 2;

/// One direction. Its lock is std's: nothing happens under it at which shuttle could switch.
#[derive(Debug, Default)]
struct Pipe {
    packets: Mutex<VecDeque<Vec<u8>>>,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end, or one of several queues of an end.
#[derive(Debug)]
pub(super) struct Narrow {
    inbound: Arc<Pipe>,
    mine: Arc<WakeSlot>,
    /// Who sends to this one, and may do so again when there is room.
    sender: Arc<WakeSlot>,
    /// The queues of the other end, and whom to tell of a packet.
    outbound: Vec<(Arc<Pipe>, Arc<WakeSlot>)>,
    /// Source ports that have been seen, each with the queue of its turn.
    flows: Mutex<Vec<[u8; 2]>>,
}

impl Narrow {
    /// Which queue of the other end a packet comes to: that of its flow, of which the first comes to the last queue.
    fn queue(&self, packet: &[u8]) -> usize {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let port = [packet[20], packet[21]];
        let at = flows.iter().position(|&known| known == port).unwrap_or_else(|| {
            flows.push(port);
            flows.len() - 1
        });
        self.outbound.len() - 1 - at % self.outbound.len()
    }
}

/// A link between an end with one queue, and one with so many, which sends by the first of them.
pub(super) fn link(queues: usize) -> (Narrow, Vec<Narrow>) {
    let pipe = || (Arc::new(Pipe::default()), Arc::new(WakeSlot::new()));
    let back = pipe();
    let there: Vec<_> = (0..queues).map(|_| pipe()).collect();
    let end = |of: &(Arc<Pipe>, Arc<WakeSlot>), sender: &Arc<WakeSlot>, outbound| Narrow {
        inbound: of.0.clone(),
        mine: of.1.clone(),
        sender: sender.clone(),
        outbound,
        flows: Mutex::default(),
    };
    let one = end(&back, &there[0].1, there.clone());
    let several = there.iter().map(|of| end(of, &back.1, vec![back.clone()])).collect();
    (one, several)
}

impl PacketIo for Narrow {
    fn name(&self) -> &str {
        "narrow"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { mtu: 600, max_segmentable: 0, tx_checksum: false, max_batch: 16, frames: false }
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        batch.clear();
        let taken: Vec<_> = self.inbound.lock().drain(..).collect();
        for packet in &taken {
            batch.push(RxMeta::IP, packet);
        }
        if !taken.is_empty() {
            // There is room again.
            self.sender.wake();
        }
        Ok(Drained::Yes)
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        let mut sent = 0;
        for packet in packets {
            let bytes: Vec<u8> = packet.slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let (pipe, peer) = &self.outbound[self.queue(&bytes)];
            let mut queue = pipe.lock();
            if queue.len() >= ROOM {
                break;
            }
            queue.push_back(bytes);
            drop(queue);
            peer.wake();
            sent += 1;
        }
        (sent, (sent < packets.len()).then_some(SendError::WouldBlock))
    }
    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Waker(&self.mine)
    }
    fn drops(&self) -> u64 {
        0
    }
    fn set_ports(&self, _ports: &PortSet) -> io::Result<()> {
        Ok(())
    }
    fn recv_queue_bytes(&self) -> usize {
        8 << 20
    }
}
