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

/// One end.
#[derive(Debug)]
pub(super) struct Narrow {
    inbound: Arc<Pipe>,
    outbound: Arc<Pipe>,
    mine: Arc<WakeSlot>,
    peers: Arc<WakeSlot>,
}

pub(super) fn pair() -> (Narrow, Narrow) {
    let (there, back) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
    let (a, b) = (Arc::new(WakeSlot::new()), Arc::new(WakeSlot::new()));
    let end = |inbound: &Arc<Pipe>, outbound: &Arc<Pipe>, mine: &Arc<WakeSlot>, peers: &Arc<WakeSlot>| Narrow {
        inbound: inbound.clone(),
        outbound: outbound.clone(),
        mine: mine.clone(),
        peers: peers.clone(),
    };
    (end(&back, &there, &a, &b), end(&there, &back, &b, &a))
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
            self.peers.wake();
        }
        Ok(Drained::Yes)
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        let mut sent = 0;
        {
            let mut queue = self.outbound.lock();
            for packet in packets.iter().take(ROOM.saturating_sub(queue.len())) {
                queue.push_back(packet.slices.iter().flat_map(|slice| slice.iter().copied()).collect());
                sent += 1;
            }
        }
        if sent > 0 {
            self.peers.wake();
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
