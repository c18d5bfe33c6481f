//! Both ends behind TUN interfaces: their addresses, and how the others find them.
//!
//! Ours makes its interface itself, for one run. To whoever else takes part it is a host behind the one that it runs on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{CLIENT_V4, CLIENT_V6, SERVER_V4, SERVER_V6};

use super::{Place, plan::Path};

/// The device's name in `--device`.
pub(crate) const TUN: &str = "tun";

/// The MTU of an interface that our stack makes.
pub(super) const MTU: u32 = 1500;

/// The networks of the two ends' interfaces: the second host of each is ours.
const CLIENT: [(IpAddr, u8); 2] = networks(1);
const SERVER: [(IpAddr, u8); 2] = networks(2);

const fn networks(number: u8) -> [(IpAddr, u8); 2] {
    let v4 = Ipv4Addr::new(10, 78, number, 2);
    let v6 = Ipv6Addr::new(0xfd78, 0, 0, number as u16, 0, 0, 0, 2);
    [(IpAddr::V4(v4), 30), (IpAddr::V6(v6), 64)]
}

/// The address of our server.
pub(super) fn server(like: IpAddr) -> IpAddr {
    SERVER[usize::from(like.is_ipv6())].0
}

/// What `RAWTCP_DEVICE` says at this end.
pub(crate) fn device(end: &str) -> String {
    let addresses = if end == "client" { CLIENT } else { SERVER };
    let list = addresses.map(|(ip, prefix)| format!("{ip}/{prefix}")).join(",");
    format!("tun:rawtcp-{end}:{list}")
}

/// Lets the hosts forward to and from the interfaces that come, and tells each the way to the other's.
pub(super) fn prepare(place: &Place, path: Path) -> io::Result<()> {
    place.client.enable_forwarding()?;
    place.server.enable_forwarding()?;
    if path == Path::Lo {
        // The kernel's server, which must not be at an address that the client's stack believes to be its own.
        return place.server.add_address("lo", SERVER_V6, 128);
    }
    let ways = |host: &Namespace, networks: [(IpAddr, u8); 2], by: [IpAddr; 2]| {
        networks.into_iter().zip(by).try_for_each(|((ip, prefix), by)| host.add_route(base(ip), prefix, by))
    };
    ways(&place.client, SERVER, [SERVER_V4, SERVER_V6])?;
    ways(&place.server, CLIENT, [CLIENT_V4, CLIENT_V6])
}

/// The network of the second host.
fn base(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() - 2).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() - 2).into(),
    }
}
