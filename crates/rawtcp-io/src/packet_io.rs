//! The device trait and what travels with each packet.

use std::fmt::{self, Debug};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use crate::network::Mac;
use crate::{PortSet, RxBatch, WakeSlot};

/// What a device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Largest IP packet, in bytes, which the device itself accepts. A route may have a smaller MTU.
    pub mtu: u32,
    /// Largest packet, in bytes, which the device cuts into segments by itself; 0: it never does.
    pub max_segmentable: u32,
    /// The device completes transport checksums ([`TxChecksum::Partial`]).
    pub tx_checksum: bool,
    /// Packets which one `recv` or `send` moves at most with one system call.
    pub max_batch: usize,
    /// The device sends link-layer frames: packets need a [next hop](TxPacket::link), and what it receives may be for
    /// other hosts.
    pub frames: bool,
}

/// How the data of a received packet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxHeader {
    /// Data begins with the IP header.
    Ip,
    /// Data begins with the transport header: raw IPv6 sockets strip the IPv6 header and tell its fields aside.
    Stripped {
        /// Source address.
        src: Ipv6Addr,
        /// Destination address.
        dst: Ipv6Addr,
        /// Protocol of the data: 6 for TCP, 58 for ICMPv6.
        next_header: u8,
        /// Hop limit as received.
        hop_limit: u8,
        /// Traffic class; the low two bits are ECN (RFC 3168 §5).
        traffic_class: u8,
    },
}

/// What the device knows about the transport checksum of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: verify it. Local senders may have left the pseudo-header sum only.
    Unknown,
    /// Already verified.
    Valid,
    /// The field holds the pseudo-header sum only; the packet never left the machine.
    Partial,
    /// Complete, so far as the device knows, and not verified: nothing but the right sum will do.
    Unverified,
}

/// What is known about a received packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxMeta {
    /// Where the data begins.
    pub header: RxHeader,
    /// State of the transport checksum.
    pub checksum: RxChecksum,
    /// Payload bytes of each merged segment, where the device tells; 0: one segment or unknown.
    pub segment_size: u16,
    /// Interface the packet came in by; 0: none or unknown. For link-local addresses this is the scope id.
    pub ifindex: u32,
    /// Addressed to broadcast or multicast. TCP drops such packets (RFC 9293 §3.9.2.3, MUST-57).
    pub to_other: bool,
}

impl RxMeta {
    /// A packet which begins with its IP header, and of which nothing more is known.
    pub const IP: Self =
        Self { header: RxHeader::Ip, checksum: RxChecksum::Unknown, segment_size: 0, ifindex: 0, to_other: false };
}

/// What is to be done with the transport checksum of a packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxChecksum {
    /// Nothing, it is complete.
    Complete,
    /// The device sums from `start` to the end and stores the result `offset` bytes behind `start`. The field holds the
    /// pseudo-header sum. Only for devices with [`Capabilities::tx_checksum`].
    Partial {
        /// First byte summed, counted from the IP header.
        start: u16,
        /// Place of the checksum field, counted from `start` (16 in TCP).
        offset: u16,
    },
}

/// A packet to be sent; it borrows everything.
#[derive(Clone, Copy, Debug)]
pub struct TxPacket<'a> {
    /// Destination address, the same as in the IP header.
    pub dst: IpAddr,
    /// Interface index for link-local IPv6 destinations; otherwise 0.
    pub scope: u32,
    /// The next hop's link-layer address, for devices that send frames ([`Capabilities::frames`]).
    pub link: Option<Mac>,
    /// The packet, IP header first; where the device segments or sums, the first slice is the headers and nothing else.
    pub slices: &'a [IoSlice<'a>],
    /// Payload bytes per segment where the device is to segment; 0: one packet.
    pub segment_size: u16,
    /// State of the transport checksum.
    pub checksum: TxChecksum,
}

impl TxPacket<'_> {
    /// Bytes of the packet, headers included.
    #[expect(clippy::len_without_is_empty, reason = "a packet has at least a header")]
    pub fn len(&self) -> usize {
        self.slices.iter().map(|slice| slice.len()).sum()
    }
}

/// Why sending stopped at a packet.
#[derive(Debug)]
pub enum SendError {
    /// The packet was not sent; try it again when the device is writable.
    WouldBlock,
    /// The packet is gone, as if lost on the path (ENOBUFS, EPERM of a firewall). Count it, go on with the next.
    Lost(io::Error),
    /// The packet was not sent: it is larger than the MTU of the device it would leave by (EMSGSIZE).
    TooBig,
    /// The packet was not sent: no route or no neighbour (ENETUNREACH, EHOSTUNREACH, ENETDOWN …). A soft error.
    Unreachable(io::Error),
    /// The packet was not sent for another reason. Count it, log it once.
    Other(io::Error),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => write!(f, "the device accepts no packet at the moment"),
            Self::Lost(error) => write!(f, "the packet was lost on this machine: {error}"),
            Self::TooBig => write!(f, "the packet is larger than the MTU of the device"),
            Self::Unreachable(error) => write!(f, "the destination is unreachable: {error}"),
            Self::Other(error) => write!(f, "the packet could not be sent: {error}"),
        }
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::WouldBlock | Self::TooBig => None,
            Self::Lost(error) | Self::Unreachable(error) | Self::Other(error) => Some(error),
        }
    }
}

/// Whether a call of [`PacketIo::recv`] took all there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// The queue is empty: wait for the device to become readable.
    Yes,
    /// There may be more: call again without waiting.
    Maybe,
}

/// How to wait for a device.
#[derive(Debug)]
pub enum ReadySource<'a> {
    /// A descriptor for edge-triggered epoll, or, with [`PacketIo::expect_poll`], for poll; readable and, unless there is a
    /// [`PacketIo::writable_fd`], writable mean what they say.
    Fd(BorrowedFd<'a>),
    /// Register a waker, then call `recv`, and only then wait. Always writable.
    Waker(&'a WakeSlot),
}

/// A device: something which takes and gives whole IP packets.
///
/// No method ever blocks. `send` may be called from many threads at once; `recv` is meant for one driver, but calling
/// it from several does no harm beyond sharing the packets out among them.
pub trait PacketIo: Send + Sync + Debug {
    /// A short name for logs and statistics, such as `raw4` or `loopback`.
    fn name(&self) -> &str;

    /// What the device can do. It may change over time (MTU).
    fn capabilities(&self) -> Capabilities;

    /// Clears the batch and receives packets into it, as many as are there and fit.
    ///
    /// An empty batch with [`Drained::Yes`] is what other interfaces call "would block"; errors are real errors.
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained>;

    /// Sends packets in order. Returns how many were sent, and if not all, why it stopped: the error belongs to the
    /// packet with that index.
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>);

    /// How to wait for the device.
    fn ready_source(&self) -> ReadySource<'_>;

    /// The descriptor that is writable when packets can be sent, where it is not that of the [ready source](Self::ready_source).
    /// It is asked for beside a [`ReadySource::Fd`] only.
    fn writable_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Packets lost at the full receive queue since the device was opened; exact.
    fn drops(&self) -> u64;

    /// Packets thrown away since they did not fit into a receive slot of [`RX_SLOT_SIZE`](crate::RX_SLOT_SIZE) bytes.
    fn truncated(&self) -> u64 {
        0
    }

    /// Whether what the device was for has gone, and it will never carry a packet again.
    fn is_gone(&self) -> bool {
        false
    }

    /// To be called before each wait by poll or level-triggered epoll. Without it the device's descriptor may be readable
    /// all the time, and tells by edges that there is something new.
    fn expect_poll(&self) {}

    /// Gives back to the system what others may be waiting for. The device is not used any more.
    fn release(&self) {}

    /// More will wait in the receive queue than [`recv_queue_bytes`](Self::recv_queue_bytes), because peers far away want larger
    /// windows. A device that is one of two has the other one receive instead, for good; what it has received itself stays to
    /// be taken. Said more than once it costs next to nothing.
    ///
    /// # Errors
    /// The other one can not receive, or not everything. It is not tried again.
    fn expect_more(&self) -> io::Result<()> {
        Ok(())
    }

    /// Sets which destination ports the device is to deliver. A device may deliver more, never less. A newly opened
    /// socket delivers none.
    fn set_ports(&self, ports: &PortSet) -> io::Result<()>;

    /// Memory of the receive queue in bytes, as really given. The kernel charges a packet with more than its length:
    /// 832 bytes for a 60-byte packet, about 1.6 times its length for a full one. A ring bounds the number of packets beside that.
    fn recv_queue_bytes(&self) -> usize;
}

impl<D: PacketIo + ?Sized> PacketIo for std::sync::Arc<D> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        (**self).recv(batch)
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        (**self).send(packets)
    }
    fn ready_source(&self) -> ReadySource<'_> {
        (**self).ready_source()
    }
    fn writable_fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).writable_fd()
    }
    fn drops(&self) -> u64 {
        (**self).drops()
    }
    fn truncated(&self) -> u64 {
        (**self).truncated()
    }
    fn is_gone(&self) -> bool {
        (**self).is_gone()
    }
    fn expect_poll(&self) {
        (**self).expect_poll();
    }
    fn expect_more(&self) -> io::Result<()> {
        (**self).expect_more()
    }
    fn release(&self) {
        (**self).release();
    }
    fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
        (**self).set_ports(ports)
    }
    fn recv_queue_bytes(&self) -> usize {
        (**self).recv_queue_bytes()
    }
}
