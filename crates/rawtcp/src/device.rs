//! The devices of a stack: how they are opened, which of them a peer is reached by, and how a port is
//! reserved on them.

use crate::error;
use crate::ports::{Bind, canonical};
use crate::sync::Arc;
use crate::tx_queue::TxQueue;
use rawtcp_io::mem::{self, LoopbackDevice, MemConfig, Receiver, Switch};
use rawtcp_io::{Guard, GuardRequest, IcmpV4, IcmpV6, PacketIo, PortSet, RawConfig, RawIpV4, RawIpV6, route};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a stack sends and receives by.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Device {
    /// Raw IP sockets on the host's interfaces, IPv4 and IPv6. Needs CAP_NET_RAW.
    #[default]
    Raw,
    /// A loopback inside this process, for 127.0.0.0/8 and ::1; everything else is unreachable. Needs nothing.
    Loopback,
    /// A device of the caller's, on which the stack owns these addresses by itself: an in-memory link, for instance.
    Own {
        /// The device.
        io: Arc<dyn PacketIo>,
        /// The stack's addresses on it, at most one of each family is used as a source.
        addresses: Vec<IpAddr>,
    },
}

/// What a port of a device carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    Tcp,
    IcmpV4,
    IcmpV6,
}

/// One open device with what waits for it.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) io: Arc<dyn PacketIo>,
    pub(crate) carries: Carries,
    pub(crate) queue: TxQueue,
}

impl Open {
    fn new(io: Arc<dyn PacketIo>, carries: Carries) -> Self {
        Open { io, carries, queue: TxQueue::default() }
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
}

/// The network namespace of the calling thread; `None` where that is not shown.
fn namespace() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/thread-self/ns/net").ok().map(|ns| ns.ino())
}

/// How a peer is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) source: IpAddr,
    pub(crate) scope: u32,
    /// The largest IP packet, in bytes.
    pub(crate) mtu: u32,
}

/// A reserved port; freed on drop.
#[derive(Debug)]
pub(crate) enum Reservation {
    Kernel(Guard),
    Switch(mem::Reservation),
    Own(SocketAddr),
}

impl Reservation {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        match self {
            Reservation::Kernel(guard) => guard.local_addr(),
            Reservation::Switch(port) => port.local_addr(),
            Reservation::Own(local) => *local,
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Reservation::Kernel(guard) if guard.is_shared())
    }
}

impl Reservation {
    /// Reserves a port without a stack, as a stack with this device would.
    pub(crate) fn without_stack(device: &Device, request: &Bind) -> io::Result<Self> {
        let &Bind { addr, v6only, device: ref device_name, .. } = request;
        match device {
            Device::Raw => {
                let guard = Guard::bind(&GuardRequest { addr, v6only, device: device_name.clone() })?;
                Ok(Reservation::Kernel(guard))
            }
            Device::Loopback => {
                let device = Switch::process().attach(MemConfig::loopback());
                Ok(Reservation::Switch(device.reserve(addr, v6only)?))
            }
            Device::Own { .. } => Ok(Reservation::Own(addr)),
        }
    }
}

/// Errors that mean "this host has no IPv6", not "something is wrong".
fn lacks_family(error: &io::Error) -> bool {
    const EPROTONOSUPPORT: i32 = 93;
    const EAFNOSUPPORT: i32 = 97;
    matches!(error.raw_os_error(), Some(EPROTONOSUPPORT | EAFNOSUPPORT))
}

impl Devices {
    pub(crate) fn open(device: &Device) -> io::Result<Self> {
        match device {
            Device::Raw => Self::open_raw(),
            Device::Loopback => {
                let io = Arc::new(Switch::process().attach(MemConfig::loopback()));
                Ok(Self::one(io.clone(), Addresses::Switch(io)))
            }
            Device::Own { io, addresses } => Ok(Self::one(io.clone(), Addresses::Own(addresses.clone()))),
        }
    }

    fn one(io: Arc<dyn PacketIo>, addresses: Addresses) -> Self {
        Devices { all: vec![Open::new(io, Carries::Tcp)], v4: Some(0), v6: Some(0), addresses, namespace: None }
    }

    fn open_raw() -> io::Result<Self> {
        let config = RawConfig::default();
        let mut all = vec![
            Open::new(Arc::new(RawIpV4::open(&config)?), Carries::Tcp),
            Open::new(Arc::new(IcmpV4::open()?), Carries::IcmpV4),
        ];
        let v6 = match RawIpV6::open(&config).and_then(|tcp| Ok((tcp, IcmpV6::open()?))) {
            Ok((tcp, icmp)) => {
                all.push(Open::new(Arc::new(tcp), Carries::Tcp));
                all.push(Open::new(Arc::new(icmp), Carries::IcmpV6));
                Some(2)
            }
            Err(error) if lacks_family(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Devices { all, v4: Some(0), v6, addresses: Addresses::Kernel, namespace: namespace() })
    }

    pub(crate) fn all(&self) -> &[Open] {
        &self.all
    }

    /// Refuses what would be asked of another network namespace's kernel than that of the raw sockets: the
    /// answers would be wrong, and guards would guard nothing.
    fn check_namespace(&self) -> io::Result<()> {
        if self.is_here() {
            return Ok(());
        }
        Err(io::Error::other("this thread is in another network namespace than the sockets of its rawtcp stack"))
    }

    /// Whether the calling thread is in the raw sockets' network namespace, as far as can be known.
    pub(crate) fn is_here(&self) -> bool {
        self.namespace.is_none() || namespace().is_none_or(|here| Some(here) == self.namespace)
    }

    /// Whether time inside the process is the devices' time.
    pub(crate) fn are_virtual(&self) -> bool {
        !matches!(self.addresses, Addresses::Kernel)
    }

    /// Whether this address may be ours; on the kernel's devices the kernel has looked at that.
    pub(crate) fn may_own(&self, ip: IpAddr) -> bool {
        match &self.addresses {
            Addresses::Kernel => true,
            Addresses::Switch(_) => ip.is_loopback(),
            Addresses::Own(own) => own.contains(&ip),
        }
    }

    /// Who receives what is sent to this peer, where nothing but memory lies in between; `None` where that is not known.
    pub(crate) fn receiver(&self, remote: SocketAddr) -> Option<Receiver> {
        if let Addresses::Switch(device) = &self.addresses { Some(device.receiver(remote)) } else { None }
    }

    /// Whether a reservation that was made without a stack is good here.
    pub(crate) fn takes(&self, reservation: &Reservation) -> bool {
        matches!((&self.addresses, reservation), (Addresses::Kernel, Reservation::Kernel(_)))
    }

    /// Whether each guard costs a descriptor.
    pub(crate) fn guards_cost_descriptors(&self) -> bool {
        matches!(self.addresses, Addresses::Kernel)
    }

    /// The device that packets to this address leave by.
    pub(crate) fn towards(&self, remote: IpAddr) -> io::Result<usize> {
        let at = if remote.is_ipv4() { self.v4 } else { self.v6 };
        at.ok_or_else(|| error::os(error::ENETUNREACH))
    }

    pub(crate) fn get(&self, at: usize) -> &Open {
        &self.all[at]
    }

    /// How a peer is reached, from an address and by an interface of the caller's choice or the system's.
    pub(crate) fn route(&self, remote: SocketAddr, source: Option<IpAddr>, by: Option<&str>) -> io::Result<Way> {
        let device = self.towards(remote.ip())?;
        let mtu = self.all[device].io.capabilities().mtu;
        match &self.addresses {
            Addresses::Kernel => {
                self.check_namespace()?;
                let route = route::lookup(remote, source, by)?;
                Ok(Way { source: route.source, scope: route.scope, mtu: route.mtu.min(mtu) })
            }
            Addresses::Switch(_) => {
                if !remote.ip().is_loopback() {
                    return Err(error::os(error::ENETUNREACH));
                }
                let home = if remote.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
                Ok(Way { source: source.unwrap_or(home), scope: 0, mtu })
            }
            Addresses::Own(own) => {
                let fits =
                    |ip: &&IpAddr| ip.is_ipv4() == remote.is_ipv4() && source.is_none_or(|source| source == **ip);
                let source = own.iter().find(fits).ok_or_else(|| error::os(error::ENETUNREACH))?;
                Ok(Way { source: *source, scope: 0, mtu })
            }
        }
    }

    /// Reserves a port, which must be given where we own the addresses.
    pub(crate) fn reserve(&self, addr: SocketAddr, v6only: bool, device: Option<&str>) -> io::Result<Reservation> {
        match &self.addresses {
            Addresses::Kernel => {
                self.check_namespace()?;
                let device = device.map(str::to_owned);
                Ok(Reservation::Kernel(Guard::bind(&GuardRequest { addr, v6only, device })?))
            }
            Addresses::Switch(device) => Ok(Reservation::Switch(device.reserve(canonical(addr), v6only)?)),
            Addresses::Own(own) => {
                let addr = canonical(addr);
                if !(addr.ip().is_unspecified() || own.contains(&addr.ip())) {
                    return Err(error::os(error::EADDRNOTAVAIL));
                }
                Ok(Reservation::Own(addr))
            }
        }
    }

    /// Whether port 0 means a port of the kernel's or the switch's choice.
    pub(crate) fn chooses_ports(&self) -> bool {
        !matches!(self.addresses, Addresses::Own(_))
    }

    /// Makes the devices deliver these ports.
    pub(crate) fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
        self.all.iter().filter(|open| open.carries == Carries::Tcp).try_for_each(|open| open.io.set_ports(ports))
    }

    /// Packets dropped as they were larger than the buffers for them.
    pub(crate) fn truncated(&self) -> u64 {
        self.all.iter().map(|open| open.io.truncated()).sum()
    }

    /// Segments lost at full receive queues.
    pub(crate) fn drops(&self) -> u64 {
        self.all.iter().filter(|open| open.carries == Carries::Tcp).map(|open| open.io.drops()).sum()
    }
}
