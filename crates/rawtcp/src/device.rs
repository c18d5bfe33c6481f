//! The devices of a stack: how they are opened, which of them a peer is reached by, and how a port is
//! reserved on them.

mod choice;

use crate::error;
use crate::ports::{Bind, Ingress, canonical};
use crate::sync::Arc;
use crate::tx_queue::TxQueue;
use rawtcp_io::ingress::IngressDrop;
use rawtcp_io::mem::{self, LoopbackDevice, MemConfig, Receiver, Switch};
use rawtcp_io::netns;
use rawtcp_io::network::{Hop, Interface, LocalAddresses, Mac, Network};
use rawtcp_io::{
    Guard, GuardRequest, IcmpV4, IcmpV6, MAX_EXCEPT, PacketConfig, PacketDevice, PacketIo, PortSet, RawConfig, RawIpV4,
    RawIpV6, TunConfig, TunDevice, route,
};
use rawtcp_proto::{FourTuple, Instant};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use choice::Device;

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
    pub(crate) queue: TxQueue,
    /// Which driver receives from it, and sends what waits for it.
    pub(crate) driver: usize,
    /// The Ethernet interface. Its flows may be spread over several devices, which stand side by side.
    ethernet: Option<u32>,
}

impl Open {
    fn new(io: Arc<dyn PacketIo>, carries: Carries) -> Self {
        let sees_others = io.capabilities().frames;
        Open { sees_others, io, carries, queue: TxQueue::default(), driver: 0, ethernet: None }
    }
}

/// A way past the kernel's routing: an Ethernet device, and the neighbour that packets are handed to.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) device: usize,
    hop: Arc<Hop>,
}

/// By what the packets to one peer leave: the kernel's way, which is always open, and perhaps a faster one.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    kernel: usize,
    link: Option<Link>,
    /// The state of the routes that this was learned from.
    generation: u32,
}

impl Lane {
    /// The device for what leaves now, and the neighbour's address where that device wants it.
    pub(crate) fn choose(&self, now: Instant) -> (usize, Option<Mac>) {
        if let Some(link) = &self.link
            && let Some(mac) = link.hop.mac(now.as_nanos())
        {
            return (link.device, Some(mac));
        }
        (self.kernel, None)
    }

    /// The device that the peer's packets come in by, as far as is known: its receive queue bounds the windows.
    pub(crate) fn receives(&self) -> usize {
        self.link.as_ref().map_or(self.kernel, |link| link.device)
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

/// How a peer is reached.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) source: IpAddr,
    pub(crate) scope: u32,
    /// The largest IP packet, in bytes.
    pub(crate) mtu: u32,
    pub(crate) lane: Lane,
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

    /// The kernel would see what comes to it, and has no use for any of it.
    pub(crate) fn is_wasted_on_kernel(&self) -> bool {
        matches!(self, Reservation::Kernel(guard) if guard.is_whole())
    }
}

impl Reservation {
    /// Reserves a port without a stack, as a stack with this device would.
    pub(crate) fn without_stack(device: &Device, request: &Bind) -> io::Result<Self> {
        let &Bind { addr, v6only, device: ref device_name, .. } = request;
        match device {
            Device::Raw | Device::Packet { .. } | Device::Auto => {
                let guard = Guard::bind(&GuardRequest { addr, v6only, device: device_name.clone() })?;
                Ok(Reservation::Kernel(guard))
            }
            Device::Loopback => {
                let device = Switch::process().attach(MemConfig::loopback());
                Ok(Reservation::Switch(device.reserve(addr, v6only)?))
            }
            Device::Tun { .. } | Device::Own { .. } => Ok(Reservation::Own(addr)),
        }
    }
}

/// Whether the kernel of the calling thread's network namespace forwards packets. What cannot be read is taken for yes.
fn forwards() -> bool {
    ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].iter().any(|setting| {
        match std::fs::read_to_string(format!("/proc/sys/net/{setting}")) {
            Ok(value) => value.trim() != "0",
            // Without IPv6.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    })
}

/// Where the kernel can be spared what these interfaces receive for us.
fn ingress(ethernets: &[Arc<Interface>]) -> Option<Arc<dyn Ingress>> {
    if ethernets.is_empty() {
        return None;
    }
    let ingress = IngressDrop::new(ethernets.iter().map(|interface| (interface.index(), interface.name()))).ok()?;
    Some(Arc::new(ingress))
}

/// Errors that mean "this host has no IPv6", not "something is wrong".
fn lacks_family(error: &io::Error) -> bool {
    const EPROTONOSUPPORT: i32 = 93;
    const EAFNOSUPPORT: i32 = 97;
    matches!(error.raw_os_error(), Some(EPROTONOSUPPORT | EAFNOSUPPORT))
}

impl Devices {
    /// Opens the devices of a stack that may have so many drivers.
    pub(crate) fn open(device: &Device, drivers: usize) -> io::Result<Self> {
        match device {
            Device::Raw => Self::open_raw(None, &[], drivers),
            Device::Packet { interface } => Self::open_packet(interface.as_deref(), true, drivers),
            Device::Auto => Self::open_packet(None, false, drivers),
            Device::Tun { interface, addresses } => {
                Self::open_tun(&TunConfig { interface: interface.clone(), addresses: addresses.clone() })
            }
            Device::Loopback => {
                let io = Arc::new(Switch::process().attach(MemConfig::loopback()));
                Ok(Self::one(io.clone(), Addresses::Switch(io)))
            }
            Device::Own { io, addresses } => Ok(Self::one(io.clone(), Addresses::Own(addresses.clone()))),
        }
    }

    fn one(io: Arc<dyn PacketIo>, addresses: Addresses) -> Self {
        Devices {
            all: vec![Open::new(io, Carries::Tcp)],
            v4: Some(0),
            v6: Some(0),
            addresses,
            namespace: None,
            cookie: None,
            network: None,
            ethernets: Vec::new(),
            ingress: None,
            forwards: false,
            inner: None,
        }
    }

    /// The kernel's addresses without its devices.
    #[cfg(test)]
    pub(crate) fn with_ingress(ingress: Arc<dyn Ingress>) -> Self {
        let io = Arc::new(mem::pair(MemConfig::default()).0);
        Devices { ingress: Some(ingress), ..Self::one(io, Addresses::Kernel) }
    }

    /// Devices of which each has a driver, and of which the first sends.
    #[cfg(rawtcp_models)]
    pub(crate) fn several(ios: Vec<Arc<dyn PacketIo>>, addresses: Vec<IpAddr>) -> Self {
        let open = |(driver, io)| Open { driver, ..Open::new(io, Carries::Tcp) };
        let all: Vec<_> = ios.into_iter().enumerate().map(open).collect();
        let first = all[0].io.clone();
        Devices { all, ..Self::one(first, Addresses::Own(addresses)) }
    }

    /// A TUN interface, and a loop for what must not leave by it.
    fn open_tun(config: &TunConfig) -> io::Result<Self> {
        let tun = TunDevice::open(config)?;
        let (network, own) = (tun.network().clone(), tun.addresses().to_vec());
        tracing::info!(interface = tun.name(), addresses = ?own, "a host of its own behind a TUN interface");
        Ok(Devices {
            // Without an address of the family there is no source for it.
            v4: Some(0),
            v6: Some(0),
            all: vec![
                Open::new(Arc::new(tun), Carries::Ip),
                Open::new(Arc::new(mem::looped(MemConfig::loopback())), Carries::Tcp),
            ],
            addresses: Addresses::Own(own),
            namespace: None,
            cookie: None,
            network: Some(network),
            ethernets: Vec::new(),
            ingress: None,
            forwards: false,
            inner: Some(1),
        })
    }

    /// AF_PACKET sockets on one interface or all, and raw IP sockets for what does not come in by those.
    fn open_packet(name: Option<&str>, required: bool, drivers: usize) -> io::Result<Self> {
        let network = Arc::new(Network::open()?);
        let chosen: Vec<Arc<Interface>> = network
            .interfaces()
            .iter()
            .filter(|interface| name.is_none_or(|name| name == interface.name()))
            .take(MAX_EXCEPT)
            .cloned()
            .collect();
        if chosen.is_empty() && required {
            let what = name.map_or_else(|| "no interface".to_owned(), |name| format!("{name}: no such interface"));
            let text = format!("{what} that is an Ethernet, up, and no port of a bridge or bond");
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        let names: Vec<&str> = chosen.iter().map(|interface| interface.name()).collect();
        tracing::info!(interfaces = ?names, "AF_PACKET on these interfaces, raw IP for everything else");
        Self::open_raw(Some(network), &chosen, drivers)
    }

    fn open_raw(network: Option<Arc<Network>>, ethernets: &[Arc<Interface>], drivers: usize) -> io::Result<Self> {
        let config =
            RawConfig { except: ethernets.iter().map(|interface| interface.index()).collect(), ..RawConfig::default() };
        let v4 = RawIpV4::open(&config)?;
        let cookie = v4.namespace();
        let mut all =
            vec![Open::new(Arc::new(v4), Carries::Tcp), Open::new(Arc::new(IcmpV4::open()?), Carries::IcmpV4)];
        let v6 = match RawIpV6::open(&config).and_then(|tcp| Ok((tcp, IcmpV6::open()?))) {
            Ok((tcp, icmp)) => {
                all.push(Open::new(Arc::new(tcp), Carries::Tcp));
                all.push(Open::new(Arc::new(icmp), Carries::IcmpV6));
                Some(2)
            }
            Err(error) if lacks_family(&error) => None,
            Err(error) => return Err(error),
        };
        let mut by_interface = Vec::new();
        for interface in ethernets {
            by_interface.push((interface.index(), all.len()));
            let sockets = PacketDevice::open_several(interface, &PacketConfig::default(), drivers)?;
            for (driver, socket) in sockets.into_iter().enumerate() {
                let open = Open::new(Arc::new(socket), Carries::Tcp);
                all.push(Open { driver, ethernet: Some(interface.index()), ..open });
            }
        }
        Ok(Devices {
            all,
            v4: Some(0),
            v6,
            addresses: Addresses::Kernel,
            namespace: netns::current_number(),
            cookie,
            network,
            ingress: ingress(ethernets),
            forwards: !ethernets.is_empty() && forwards(),
            ethernets: by_interface,
            inner: None,
        })
    }

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

    /// The kernel's way to a peer, until the connection asks for its own, which it does with its first packet.
    pub(crate) fn lane_not_asked_for(&self, remote: IpAddr) -> io::Result<Lane> {
        Ok(Lane { kernel: self.towards(remote)?, link: None, generation: self.generation().wrapping_sub(1) })
    }

    /// Looks again, if routes have changed, how a connection's packets leave. Says the MTU of the new way, if it is one.
    pub(crate) fn renew(&self, lane: &mut Lane, tuple: &FourTuple) -> Option<u32> {
        if lane.generation == self.generation() {
            return None;
        }
        let before = lane.receives();
        match self.route(tuple.remote, Some(tuple.local.ip()), None) {
            Ok(way) => {
                *lane = way.lane;
                self.follow(lane, before);
                Some(way.mtu)
            }
            Err(_) => {
                // The kernel will say what is wrong when it is given a packet.
                (lane.link, lane.generation) = (None, self.generation());
                None
            }
        }
    }

    /// Packets come by this device: they leave by it as well, if it is of the same interface, so that one driver sees to both.
    pub(crate) fn follow(&self, lane: &mut Lane, device: usize) {
        if let Some(link) = &mut lane.link
            && self.all[device].ethernet == self.all[link.device].ethernet
        {
            link.device = device;
        }
    }

    /// Has a lane's packets leave by the device that a driver receives from.
    pub(crate) fn by_driver(&self, lane: &mut Lane, driver: usize) {
        if let Some(link) = &mut lane.link {
            let first = self.all[link.device].driver;
            self.follow(lane, lane.receives() + driver - first);
        }
    }

    /// How many drivers have something to do.
    pub(crate) fn drivers(&self) -> usize {
        self.all.iter().map(|open| open.driver + 1).max().unwrap_or(1)
    }

    fn link(&self, remote: SocketAddr, source: IpAddr, scope: u32, by: Option<&str>) -> Option<Link> {
        let network = self.network()?;
        let by = match by {
            Some(name) => network.interfaces().iter().find(|interface| interface.name() == name)?.index(),
            None => scope,
        };
        // Without an answer the kernel's way is open still.
        let hop = network.hop(remote.ip(), Some(source), by).ok()??;
        let (_, device) = *self.ethernets.iter().find(|(index, _)| *index == hop.interface().index())?;
        Some(Link { device, hop })
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

    /// Whether a reservation that was made without a stack is good here.
    ///
    /// # Errors
    /// It was made in another network namespace, of which these devices see nothing.
    pub(crate) fn takes(&self, reservation: &Reservation) -> io::Result<bool> {
        match (&self.addresses, reservation) {
            (Addresses::Kernel, Reservation::Kernel(guard)) => self.check_guard(guard).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Refuses a guard of another network namespace.
    fn check_guard(&self, guard: &Guard) -> io::Result<()> {
        // The cookies are cheaper than to look where this thread is.
        match (guard.namespace(), self.cookie) {
            (Some(here), Some(there)) if here == there => Ok(()),
            (Some(_), Some(_)) => Err(elsewhere()),
            _ => self.check_namespace(),
        }
    }

    /// Whether each guard costs a descriptor.
    pub(crate) fn guards_cost_descriptors(&self) -> bool {
        matches!(self.addresses, Addresses::Kernel)
    }

    /// The device that packets to this address leave by.
    pub(crate) fn towards(&self, remote: IpAddr) -> io::Result<usize> {
        let at = match self.inner {
            Some(inner) if self.is_ours(remote) => Some(inner),
            _ if remote.is_ipv4() => self.v4,
            _ => self.v6,
        };
        at.ok_or_else(|| error::os(error::ENETUNREACH))
    }

    pub(crate) fn get(&self, at: usize) -> &Open {
        &self.all[at]
    }

    /// How a peer is reached, from an address and by an interface of the caller's choice or the system's.
    pub(crate) fn route(&self, remote: SocketAddr, source: Option<IpAddr>, by: Option<&str>) -> io::Result<Way> {
        let device = self.towards(remote.ip())?;
        let mtu = self.all[device].io.capabilities().mtu;
        let generation = self.generation();
        let lane = Lane { kernel: device, link: None, generation };
        match &self.addresses {
            Addresses::Kernel => {
                self.check_namespace()?;
                let route = route::lookup(remote, source, by)?;
                let link = if route.is_local { None } else { self.link(remote, route.source, route.scope, by) };
                let lane = Lane { kernel: device, link, generation };
                Ok(Way { source: route.source, scope: route.scope, mtu: route.mtu.min(mtu), lane })
            }
            Addresses::Switch(_) => {
                if !remote.ip().is_loopback() {
                    return Err(error::os(error::ENETUNREACH));
                }
                let home = if remote.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
                Ok(Way { source: source.unwrap_or(home), scope: 0, mtu, lane })
            }
            Addresses::Own(own) => {
                let fits =
                    |ip: &&IpAddr| ip.is_ipv4() == remote.is_ipv4() && source.is_none_or(|source| source == **ip);
                let source = match own.iter().find(fits) {
                    _ if self.inner == Some(device) => source.unwrap_or(remote.ip()),
                    Some(source) => *source,
                    None => return Err(error::os(error::ENETUNREACH)),
                };
                Ok(Way { source, scope: 0, mtu, lane })
            }
        }
    }

    /// Reserves a port, which must be given where we own the addresses.
    pub(crate) fn reserve(&self, addr: SocketAddr, v6only: bool, device: Option<&str>) -> io::Result<Reservation> {
        match &self.addresses {
            Addresses::Kernel => {
                let device = device.map(str::to_owned);
                let guard = match Guard::bind(&GuardRequest { addr, v6only, device }) {
                    Ok(guard) => guard,
                    // Where this thread is explains it better.
                    Err(error) => return self.check_namespace().and(Err(error)),
                };
                self.check_guard(&guard)?;
                Ok(Reservation::Kernel(guard))
            }
            Addresses::Switch(device) => Ok(Reservation::Switch(device.reserve(canonical(addr), v6only)?)),
            Addresses::Own(_) => {
                self.check_address(addr)?;
                Ok(Reservation::Own(canonical(addr)))
            }
        }
    }

    /// Asks whoever owns the addresses about one that is to share a port which is reserved already, so that nothing has to
    /// be reserved: a wider guard says nothing of it.
    pub(crate) fn check_shared_address(&self, request: &Bind) -> io::Result<()> {
        match &self.addresses {
            Addresses::Kernel => {
                let checked = Guard::check_address(request.addr, request.device.as_deref());
                // Where this thread is explains it better.
                self.check_namespace().and(checked)
            }
            Addresses::Switch(_) => LoopbackDevice::check_address(request.addr),
            Addresses::Own(_) => Ok(()),
        }
    }

    /// Refuses addresses that are not ours, where we own them; others refuse them by themselves.
    pub(crate) fn check_address(&self, addr: SocketAddr) -> io::Result<()> {
        let Addresses::Own(own) = &self.addresses else { return Ok(()) };
        let ip = addr.ip().to_canonical();
        let inside = self.inner.is_some() && ip.is_loopback();
        if ip.is_unspecified() || own.contains(&ip) || inside {
            return Ok(());
        }
        Err(error::os(error::EADDRNOTAVAIL))
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
