//! What a stack counts.

use crate::sync::{AtomicU64, Ordering};
use rawtcp_proto::DropReason;

/// Counters of a running stack; relaxed, each exact by itself.
#[derive(Debug)]
pub(crate) struct Counters {
    drops: [AtomicU64; DropReason::COUNT],
    pub(crate) packets_sent: AtomicU64,
    pub(crate) packets_lost: AtomicU64,
    pub(crate) pseudo_checksums: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) accepts: AtomicU64,
    pub(crate) broken: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            drops: [const { AtomicU64::new(0) }; DropReason::COUNT],
            packets_sent: AtomicU64::new(0),
            packets_lost: AtomicU64::new(0),
            pseudo_checksums: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            accepts: AtomicU64::new(0),
            broken: AtomicU64::new(0),
        }
    }
}

impl Counters {
    pub(crate) fn dropped(&self, reason: DropReason) {
        count(&self.drops[reason as usize], 1);
    }

    /// By `DropReason as usize`.
    pub(crate) fn drops(&self) -> Vec<u64> {
        self.drops.iter().map(|counter| counter.load(Ordering::Relaxed)).collect()
    }
}

pub(crate) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

/// A snapshot of what a stack has counted since it was made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StackStats {
    /// Packets taken from the devices.
    pub packets_received: u64,
    /// The same, by the [driver](crate::StackBuilder::drivers) that took them: as many as the stack has.
    pub received_by: Vec<u64>,
    /// Packets that the devices took.
    pub packets_sent: u64,
    /// Packets lost on the way out (ENOBUFS, EPERM, no room) or given up for an error.
    pub packets_lost: u64,
    /// Packets lost at full receive queues: the cure is `sysctl net.core.rmem_max`.
    pub receive_queue_drops: u64,
    /// Packets dropped as they were larger than the buffers for them.
    pub packets_truncated: u64,
    /// Segments that came with the pseudo header's checksum only, from a sender on this machine.
    pub pseudo_checksums: u64,
    /// Resets sent for segments that belong to nothing.
    pub resets_sent: u64,
    /// Active opens that were begun.
    pub connects: u64,
    /// Connections that completed a listener's handshake.
    pub accepts: u64,
    /// Connections reset since an invariant of this stack broke. Zero, or there is a bug.
    pub broken: u64,
    /// Open connections, those included whose stream has been dropped.
    pub connections: usize,
    /// Half-open connections.
    pub half_open: usize,
    /// TIME-WAIT records.
    pub time_wait: usize,
    /// Ports held, with one kernel socket each on devices that need it; not those that are held in advance, for connects to come.
    pub guards: usize,
    /// Bytes by which send buffers have grown, all together: within the
    /// [send budget](crate::StackBuilder::send_budget).
    pub send_buffers_grown: usize,
    pub(crate) drops: Vec<u64>,
}

impl StackStats {
    /// Received segments dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or(0)
    }
}
