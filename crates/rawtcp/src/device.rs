//! The devices of a stack: how they are opened, which of them a peer is reached by, and how a port is
//! reserved on them.

mod choice;
mod lane;
mod open;
mod reservation;

use crate::ports::Ingress;
use crate::sync::Arc;
use crate::tx_queue::TxQueue;
use rawtcp_io::mem::{LoopbackDevice, Receiver};
use rawtcp_io::netns;
use rawtcp_io::network::{LocalAddresses, Network};
use rawtcp_io::{PacketIo, PortSet, ReadySource};
use std::io;
use std::net::{IpAddr, SocketAddr};

pub use choice::Device;
pub(crate) use lane::{Lane, Way};
pub(crate) use reservation::Reservation;

/// What a port of a device carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    Tcp,
    /// Whatever is sent to our addresses.
    Ip,
    IcmpV4,
    IcmpV6,
}

impl Carries {
    fn is_tcp(self) -> bool {
        matches!(self, Carries::Tcp | Carries::Ip)
    }
}

/// One open device with what waits for it.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) io: Arc<dyn PacketIo>,
    pub(crate) carries: Carries,
    /// What it receives may be for other hosts.
    pub(crate) sees_others: bool,
    /// A link by which large packets leave at once.
    pub(crate) takes_large: bool,
    pub(crate) queue: TxQueue,
    /// Which driver receives from it, and sends what waits for it.
    pub(crate) driver: usize,
    /// Its receive queue is made for peers that are near. The device behind it takes its place when more is expected.
    pub(crate) is_near: bool,
    /// The Ethernet interface. Its flows may be spread over several devices, which stand side by side.
    ethernet: Option<u32>,
}

impl Open {
    fn new(io: Arc<dyn PacketIo>, carries: Carries) -> Self {
        let sees_others = io.capabilities().frames;
        let takes_large = io.capabilities().max_segmentable > 0 && matches!(io.ready_source(), ReadySource::Fd(_));
        let queue = TxQueue::default();
        Open { sees_others, takes_large, io, carries, queue, driver: 0, is_near: false, ethernet: None }
    }
}

/// Whose addresses and ports they are.
#[derive(Debug)]
enum Addresses {
    /// The kernel's.
    Kernel,
    /// The process-wide switch's.
    Switch(Arc<LoopbackDevice>),
    /// Our own.
    Own(Vec<IpAddr>),
}

/// All devices of one stack.
#[derive(Debug)]
pub(crate) struct Devices {
    all: Vec<Open>,
    v4: Option<usize>,
    v6: Option<usize>,
    addresses: Addresses,
    /// Where the raw sockets are: the inode of their network namespace.
    namespace: Option<u64>,
    /// The same by the cookie of sockets.
    cookie: Option<u64>,
    /// What the kernel knows, where we send frames by ourselves.
    network: Option<Arc<Network>>,
    /// The first device of each Ethernet interface, by the number of that.
    ethernets: Vec<(u32, usize)>,
    /// Where the kernel can be spared what they receive.
    ingress: Option<Arc<dyn Ingress>>,
    /// The kernel forwarded packets when this was opened.
    forwards: bool,
    /// What is for ourselves, where we own addresses that others can reach: the loop that it takes.
    inner: Option<usize>,
}

fn elsewhere() -> io::Error {
    io::Error::other("this thread is in another network namespace than the sockets of its rawtcp stack")
}

impl Devices {
    /// What the kernel knows of the network, where frames are sent without it.
    pub(crate) fn network(&self) -> Option<&Network> {
        self.network.as_deref()
    }

    /// Where the kernel can be spared what comes to ports of ours.
    pub(crate) fn ingress(&self) -> Option<&Arc<dyn Ingress>> {
        self.ingress.as_ref()
    }

    /// Whether the kernel forwards packets, too.
    pub(crate) fn forwards(&self) -> bool {
        self.forwards
    }

    /// The kernel shall see everything.
    pub(crate) fn leave_ingress_alone(&mut self) {
        self.ingress = None;
    }

    /// Grows when routes change.
    pub(crate) fn generation(&self) -> u32 {
        self.network().map_or(0, Network::generation)
    }

    /// This host's addresses, where a device sees packets to others.
    pub(crate) fn local(&self) -> Option<Arc<LocalAddresses>> {
        self.network().map(Network::local)
    }

    /// How many drivers have something to do.
    pub(crate) fn drivers(&self) -> usize {
        self.all.iter().map(|open| open.driver + 1).max().unwrap_or(1)
    }

    pub(crate) fn all(&self) -> &[Open] {
        &self.all
    }

    /// Refuses what would be asked of another network namespace's kernel than that of the raw sockets: the
    /// answers would be wrong, and guards would guard nothing.
    pub(crate) fn check_namespace(&self) -> io::Result<()> {
        if self.is_here() {
            return Ok(());
        }
        Err(elsewhere())
    }

    /// Whether the calling thread is in the raw sockets' network namespace, as far as can be known.
    pub(crate) fn is_here(&self) -> bool {
        self.namespace.is_none() || netns::current_number().is_none_or(|here| Some(here) == self.namespace)
    }

    /// Whether time inside the process is the devices' time.
    pub(crate) fn are_virtual(&self) -> bool {
        self.own_addresses() && self.network.is_none()
    }

    /// Whether no kernel has our addresses.
    pub(crate) fn own_addresses(&self) -> bool {
        !matches!(self.addresses, Addresses::Kernel)
    }

    /// Whether an address to which a device received something may be ours; on the kernel's devices the kernel has looked at
    /// that.
    pub(crate) fn may_own(&self, at: usize, ip: IpAddr) -> bool {
        match &self.addresses {
            Addresses::Kernel => true,
            Addresses::Switch(_) => ip.is_loopback(),
            Addresses::Own(own) => own.contains(&ip) || self.inner == Some(at),
        }
    }

    /// Whether what a device received can not have come by it, because this address does not leave the host (RFC 1122
    /// §3.2.1.3).
    pub(crate) fn is_inside(&self, at: usize, ip: IpAddr) -> bool {
        self.inner.is_some_and(|inner| inner != at) && self.is_ours(ip)
    }

    /// Whether packets to this address go round the loop.
    fn is_ours(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || matches!(&self.addresses, Addresses::Own(own) if own.contains(&ip))
    }

    /// The device without which the stack can do nothing any more.
    pub(crate) fn gone(&self) -> Option<&str> {
        self.all.iter().find(|open| open.io.is_gone()).map(|open| open.io.name())
    }

    /// Who receives what is sent to this peer, where nothing but memory lies in between; `None` where that is not known.
    pub(crate) fn receiver(&self, remote: SocketAddr) -> Option<Receiver> {
        if let Addresses::Switch(device) = &self.addresses { Some(device.receiver(remote)) } else { None }
    }

    /// Whether each guard costs a descriptor.
    pub(crate) fn guards_cost_descriptors(&self) -> bool {
        matches!(self.addresses, Addresses::Kernel)
    }

    pub(crate) fn get(&self, at: usize) -> &Open {
        &self.all[at]
    }

    /// Whether port 0 means a port of the kernel's or the switch's choice.
    pub(crate) fn chooses_ports(&self) -> bool {
        !matches!(self.addresses, Addresses::Own(_))
    }

    /// Makes the devices deliver these ports.
    pub(crate) fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
        self.all.iter().filter(|open| open.carries.is_tcp()).try_for_each(|open| open.io.set_ports(ports))
    }

    /// Packets dropped as they were larger than the buffers for them.
    pub(crate) fn truncated(&self) -> u64 {
        self.all.iter().map(|open| open.io.truncated()).sum()
    }

    /// Segments lost at full receive queues.
    pub(crate) fn drops(&self) -> u64 {
        self.all.iter().filter(|open| open.carries.is_tcp()).map(|open| open.io.drops()).sum()
    }
}
