//! The usual arrangements of namespaces. The interface of a host is always called `eth0`.
//!
//! | | client | router | server |
//! |---|---|---|---|
//! | [`Pair`], [`Emulated`] | [`CLIENT_V4`], [`CLIENT_V6`] | | [`SERVER_V4`], [`SERVER_V6`] |
//! | [`Routed`] | the same | `10.0.0.254`, `fd00::fe` and `10.0.1.254`, `fd00:0:0:1::fe` | [`ROUTED_SERVER_V4`], [`ROUTED_SERVER_V6`] |

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::emulator::{Emulator, EmulatorConfig};
use crate::netns::{Mac, Namespace, veth};

/// The client's IPv4 address, everywhere.
pub const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// The client's IPv6 address, everywhere.
pub const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
/// The server's IPv4 address in [`Pair`] and [`Emulated`].
pub const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
/// The server's IPv6 address in [`Pair`] and [`Emulated`].
pub const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
/// The server's IPv4 address in [`Routed`].
pub const ROUTED_SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 2));
/// The server's IPv6 address in [`Routed`].
pub const ROUTED_SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2));

const ROUTER_CLIENT_SIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 254)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe))];
const ROUTER_SERVER_SIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 1, 254)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0xfe))];

/// The name of a host's interface.
pub const INTERFACE: &str = "eth0";

/// Two hosts, joined by a veth with the kernel's default offloads.
#[derive(Debug)]
pub struct Pair {
    /// [`CLIENT_V4`], [`CLIENT_V6`] on `eth0`.
    pub client: Namespace,
    /// [`SERVER_V4`], [`SERVER_V6`] on `eth0`.
    pub server: Namespace,
}

impl Pair {
    /// Makes and joins the two.
    pub fn new() -> io::Result<Self> {
        let (client, server) = (Namespace::new("client")?, Namespace::new("server")?);
        let macs = veth(&client, INTERFACE, &server, INTERFACE)?;
        address(&client, &server, macs)?;
        Ok(Self { client, server })
    }

    /// Sets the MTU of both ends.
    pub fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        self.client.set_mtu(INTERFACE, mtu)?;
        self.server.set_mtu(INTERFACE, mtu)
    }
}

/// Two hosts with an emulated link between them.
#[derive(Debug)]
pub struct Emulated {
    /// [`CLIENT_V4`], [`CLIENT_V6`] on `eth0`.
    pub client: Namespace,
    /// [`SERVER_V4`], [`SERVER_V6`] on `eth0`.
    pub server: Namespace,
    /// The link. Its direction "a to b" is the one from the client to the server.
    pub emulator: Emulator,
}

impl Emulated {
    /// Makes the hosts and the link. Hosts know each other's hardware address, so that the link carries no address
    /// resolution which it could lose.
    pub fn new(config: EmulatorConfig) -> io::Result<Self> {
        let (client, server) = (Namespace::new("client")?, Namespace::new("server")?);
        let (emulator, macs) = Emulator::connect(&client, INTERFACE, &server, INTERFACE, config)?;
        address(&client, &server, macs)?;
        Ok(Self { client, server, emulator })
    }
}

/// Two hosts in two networks, and a router between them.
#[derive(Debug)]
pub struct Routed {
    /// [`CLIENT_V4`], [`CLIENT_V6`] on `eth0`.
    pub client: Namespace,
    /// Interfaces `client` and `server`.
    pub router: Namespace,
    /// [`ROUTED_SERVER_V4`], [`ROUTED_SERVER_V6`] on `eth0`.
    pub server: Namespace,
}

impl Routed {
    /// Makes and joins the three. Default routes lead to the router.
    pub fn new() -> io::Result<Self> {
        let (client, router, server) =
            (Namespace::new("client")?, Namespace::new("router")?, Namespace::new("server")?);
        veth(&client, INTERFACE, &router, "client")?;
        veth(&server, INTERFACE, &router, "server")?;
        for at in [CLIENT_V4, CLIENT_V6] {
            client.add_address(INTERFACE, at, network(at))?;
        }
        for at in [ROUTED_SERVER_V4, ROUTED_SERVER_V6] {
            server.add_address(INTERFACE, at, network(at))?;
        }
        for at in ROUTER_CLIENT_SIDE {
            router.add_address("client", at, network(at))?;
            client.add_route(unspecified(at), 0, at)?;
        }
        for at in ROUTER_SERVER_SIDE {
            router.add_address("server", at, network(at))?;
            server.add_route(unspecified(at), 0, at)?;
        }
        router.enable_forwarding()?;
        Ok(Self { client, router, server })
    }
}

fn address(client: &Namespace, server: &Namespace, (client_mac, server_mac): (Mac, Mac)) -> io::Result<()> {
    for (from, to) in [(CLIENT_V4, SERVER_V4), (CLIENT_V6, SERVER_V6)] {
        client.add_address(INTERFACE, from, network(from))?;
        client.add_neighbour(INTERFACE, to, server_mac)?;
        server.add_address(INTERFACE, to, network(to))?;
        server.add_neighbour(INTERFACE, from, client_mac)?;
    }
    Ok(())
}

fn network(address: IpAddr) -> u8 {
    if address.is_ipv4() { 24 } else { 64 }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
