//! What passed a host's interface, packet by packet.

use crate::craft::Parsed;
use crate::network::HostId;
use bytes::Bytes;
use rawtcp_proto::wire::{Flags, TcpHeader};
use rawtcp_proto::{FourTuple, Instant};
use std::fmt;

/// Which way a packet passed a host's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The host sent it, and it was not lost at once: it may still be lost on the way.
    Sent,
    /// The host sent it, and the link or a filter dropped it.
    SentLost,
    /// It arrived at the host.
    Received,
}

/// One segment at one host.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub at: Instant,
    /// At which host.
    pub host: HostId,
    /// Which way.
    pub way: Way,
    /// The ends, seen from **the host**.
    pub tuple: FourTuple,
    /// The TCP header.
    pub tcp: TcpHeader,
    /// Payload bytes.
    pub len: u32,
}

impl Record {
    pub(crate) fn new(at: Instant, host: HostId, way: Way, packet: &Bytes) -> Option<Record> {
        let parsed = Parsed::new(packet).ok()?;
        let sender = parsed.sender();
        let tuple =
            if way == Way::Received { FourTuple { local: sender.remote, remote: sender.local } } else { sender };
        Some(Record { at, host, way, tuple, tcp: parsed.tcp, len: parsed.payload.len() as u32 })
    }

    /// Whether the host sent it.
    pub fn is_sent(&self) -> bool {
        self.way != Way::Received
    }

    /// Sequence numbers that it takes.
    pub fn seq_len(&self) -> u32 {
        let flags = self.tcp.flags;
        self.len + u32::from(flags.contains(Flags::SYN)) + u32::from(flags.contains(Flags::FIN))
    }
}

/// One line: time, way, segment.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Sent => "->",
            Way::SentLost => "-x",
            Way::Received => "<-",
        };
        let millis = self.at.as_nanos() as f64 / 1e6;
        write!(f, "{millis:.3} ms host {} {way} {:?} len {}", self.host.index(), self.tcp, self.len)
    }
}
