//! How the devices of a stack are opened.

use super::{Addresses, Carries, Device, Devices, Open};
use crate::ports::Ingress;
use crate::sync::Arc;
use rawtcp_io::ingress::IngressDrop;
use rawtcp_io::mem::{self, MemConfig, Switch};
use rawtcp_io::netns;
use rawtcp_io::network::{Interface, Network};
use rawtcp_io::{
    IcmpV4, IcmpV6, MAX_EXCEPT, PacketConfig, PacketDevice, PacketIo, RawConfig, RawIpV4, RawIpV6, TunConfig, TunDevice,
};
use std::io;

/// Frames of all receive rings of a stack: 64 MiB.
const RING_FRAMES: usize = (64 << 20) / PacketConfig::RING_FRAME;

/// A ring of fewer would lose more than a queue does.
const LEAST_RING_FRAMES: usize = 1024;

/// Frames of the ring for peers that are near: a processor's caches should hold them.
const NEAR_RING_FRAMES: usize = 1200;

/// Frames of the ring of each AF_PACKET device, and whether there is memory for one with a small ring beside each.
fn ring_frames(interfaces: usize, drivers: usize) -> (usize, bool) {
    let wanted = PacketConfig::default().ring_frames;
    let share = RING_FRAMES / (interfaces * drivers).max(1);
    // Between several drivers the kernel spreads what comes.
    let may_have_near = drivers == 1 && share >= wanted + NEAR_RING_FRAMES;
    (if share < LEAST_RING_FRAMES { 0 } else { share.min(wanted) }, may_have_near)
}

/// Opens the AF_PACKET devices on one of so many interfaces.
fn open_ethernet(interface: &Arc<Interface>, interfaces: usize, drivers: usize) -> io::Result<Vec<Open>> {
    let (ring_frames, may_have_near) = ring_frames(interfaces, drivers);
    let config = PacketConfig { ring_frames, ..PacketConfig::default() };
    let open = |device: Arc<PacketDevice>, driver, is_near| {
        let ethernet = Some(interface.index());
        Open { driver, is_near, ethernet, ..Open::new(device, Carries::Tcp) }
    };
    if may_have_near {
        let (first, far) = PacketDevice::open_near_and_far(interface, NEAR_RING_FRAMES, &config)?;
        let first = open(Arc::new(first), 0, far.is_some());
        return Ok([first].into_iter().chain(far.map(|far| open(far, 0, false))).collect());
    }
    let devices = PacketDevice::open_several(interface, &config, drivers)?;
    Ok(devices.into_iter().enumerate().map(|(driver, device)| open(Arc::new(device), driver, false)).collect())
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
    pub(crate) fn several(ios: Vec<Arc<dyn PacketIo>>, addresses: Vec<std::net::IpAddr>) -> Self {
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
            all.extend(open_ethernet(interface, ethernets.len(), drivers)?);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_of_many_interfaces_take_no_more_memory_than_ten() {
        let frames = |(interfaces, drivers)| ring_frames(interfaces, drivers);
        assert_eq!([(1, 1), (7, 1)].map(frames), [(4080, true); 2]);
        assert_eq!([(8, 1), (10, 1), (1, 2), (5, 2)].map(frames), [(4080, false); 4]);
        assert_eq!([(11, 1), (20, 2), (41, 1)].map(frames), [(3813, false), (1048, false), (0, false)]);
    }
}
