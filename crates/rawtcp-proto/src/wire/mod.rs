//! What travels: IP and TCP headers, options, ICMP errors, checksums.
//!
//! Every parser here is total: any bytes give a value or a [`DropReason`](crate::DropReason), never a panic.

pub mod checksum;
pub mod icmp;
pub mod ip;
pub mod options;
pub mod tcp;

pub use icmp::{IcmpError, IcmpKind};
pub use ip::{Ecn, IpHeader};
pub use options::{Options, SackBlocks, Timestamps};
pub use tcp::{ChecksumState, Flags, HeaderBuf, Segment, TcpHeader};

use core::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// The two ends of a connection, seen from this host.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FourTuple {
    /// Our address and port. For link-local IPv6 the scope id is part of the identity.
    pub local: SocketAddr,
    /// The peer's address and port; scope id 0 except for link-local addresses, flow info always 0.
    pub remote: SocketAddr,
}

impl FourTuple {
    /// The tuple of two ends, with flow labels and meaningless scope ids removed.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        FourTuple { local: canonical(local), remote: canonical(remote) }
    }

    /// Whether this is an IPv6 connection on the wire.
    pub fn is_v6(&self) -> bool {
        self.remote.is_ipv6()
    }
}

impl fmt::Debug for FourTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <> {}", self.local, self.remote)
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        SocketAddr::V6(a) => {
            let link_local = (a.ip().segments()[0] & 0xffc0) == 0xfe80;
            let scope = if link_local { a.scope_id() } else { 0 };
            SocketAddr::V6(SocketAddrV6::new(*a.ip(), a.port(), 0, scope))
        }
    }
}

/// Whether a segment may come from, or a connection may go to, this address: neither unspecified,
/// multicast nor the limited broadcast (RFC 9293 §3.9.1.1 [MUST-46], §3.9.2.3 [MUST-63]).
pub fn is_unicast(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => !(a.is_unspecified() || a.is_multicast() || a.is_broadcast()),
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_multicast()),
    }
}
