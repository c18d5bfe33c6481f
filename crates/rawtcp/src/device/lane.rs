//! By which device, and which neighbour, a peer is reached.

use super::{Addresses, Devices};
use crate::error;
use crate::sync::Arc;
use rawtcp_io::network::{Hop, Mac};
use rawtcp_io::route;
use rawtcp_proto::{FourTuple, Instant};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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

/// How a peer is reached.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) source: IpAddr,
    pub(crate) scope: u32,
    /// The largest IP packet, in bytes.
    pub(crate) mtu: u32,
    pub(crate) lane: Lane,
}

impl Devices {
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

    /// The device that packets to this address leave by.
    pub(crate) fn towards(&self, remote: IpAddr) -> io::Result<usize> {
        let at = match self.inner {
            Some(inner) if self.is_ours(remote) => Some(inner),
            _ if remote.is_ipv4() => self.v4,
            _ => self.v6,
        };
        at.ok_or_else(|| error::os(error::ENETUNREACH))
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
}
