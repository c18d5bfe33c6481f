//! Asking the kernel for a route: source address and MTU, by connecting an UDP socket, which sends nothing and needs no
//! privilege.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

/// How packets to a destination leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Our address: the given one, or the kernel's choice.
    pub source: IpAddr,
    /// Largest IP packet, in bytes, which the route takes, as far as the kernel knows; at most 65,535.
    pub mtu: u32,
    /// The destination is an address of this machine.
    pub is_local: bool,
    /// Interface index, for link-local IPv6 destinations; otherwise 0.
    pub scope: u32,
}

/// Looks a route up, in the network namespace of the calling thread. Destination `0.0.0.0` or `::` means loopback, an
/// unspecified source means none.
///
/// # Errors
/// What `connect` of a TCP socket would say: `NetworkUnreachable` (broadcast and multicast too), `HostUnreachable`,
/// `AddrNotAvailable` for a source which is not ours …
pub fn lookup(dst: SocketAddr, source: Option<IpAddr>, device: Option<&str>) -> io::Result<Route> {
    let dst = destination(dst);
    if dst.ip().is_multicast() {
        return Err(io::Error::from_raw_os_error(libc::ENETUNREACH));
    }
    let source = source.map(|source| source.to_canonical()).filter(|source| !source.is_unspecified());
    let socket = connected(dst, source, device)?;
    let fd = socket.as_fd();
    let [mtu] = match dst {
        SocketAddr::V4(_) => sys::get_option::<1>(fd, libc::IPPROTO_IP, libc::IP_MTU)?,
        SocketAddr::V6(_) => sys::get_option::<1>(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU)?,
    };
    let chosen = local_address(&socket)?;
    // The kernel talks to an own address from that address, unless told another source.
    let is_local = dst.ip().is_loopback()
        || chosen.ip() == dst.ip()
        || source.is_some()
            && connected(dst, None, None)
                .and_then(|socket| local_address(&socket))
                .is_ok_and(|local| local.ip() == dst.ip());
    Ok(Route { source: chosen.ip(), mtu: mtu.min(65_535), is_local, scope: scope(dst, chosen) })
}

fn destination(dst: SocketAddr) -> SocketAddr {
    // Any port will do, but 0 may mean "disconnect" to some.
    let port = dst.port().max(1);
    match dst.ip().to_canonical() {
        ip if ip.is_unspecified() && ip.is_ipv4() => (Ipv4Addr::LOCALHOST, port).into(),
        ip if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, port).into(),
        IpAddr::V4(ip) => (ip, port).into(),
        IpAddr::V6(ip) => {
            let scope = if let SocketAddr::V6(dst) = dst { dst.scope_id() } else { 0 };
            SocketAddrV6::new(ip, port, 0, scope).into()
        }
    }
}

fn connected(dst: SocketAddr, source: Option<IpAddr>, device: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(dst), Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(source) = source {
        let scope = if let SocketAddr::V6(dst) = dst { dst.scope_id() } else { 0 };
        let source: SocketAddr = match source {
            IpAddr::V4(ip) => (ip, 0).into(),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, 0, 0, scope).into(),
            IpAddr::V6(ip) => (ip, 0).into(),
        };
        socket.bind(&source.into())?;
    }
    match socket.connect(&dst.into()) {
        Ok(()) => Ok(socket),
        // Either a `prohibit` route, for which TCP says the same, or broadcast, for which it does not.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            socket.set_broadcast(true)?;
            match socket.connect(&dst.into()) {
                Ok(()) => Err(io::Error::from_raw_os_error(libc::ENETUNREACH)),
                Err(_) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn scope(dst: SocketAddr, local: SocketAddr) -> u32 {
    match (dst, local) {
        (SocketAddr::V6(dst), SocketAddr::V6(local)) if dst.ip().is_unicast_link_local() => {
            if dst.scope_id() != 0 {
                dst.scope_id()
            } else {
                local.scope_id()
            }
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(dst: &str) -> io::Result<Route> {
        lookup(dst.parse().unwrap(), None, None)
    }

    #[test]
    fn loopback() {
        for dst in ["127.0.0.1:80", "0.0.0.0:80", "127.0.0.1:0", "[::ffff:127.0.0.1]:80"] {
            let found = route(dst).unwrap();
            let expected = Route { source: Ipv4Addr::LOCALHOST.into(), mtu: found.mtu, is_local: true, scope: 0 };
            assert_eq!(found, expected, "{dst}");
            assert!((1500..=65_535).contains(&found.mtu));
        }
    }

    #[test]
    fn a_given_source_is_kept() {
        let source = "127.0.0.9".parse().unwrap();
        let found = lookup("127.0.0.1:80".parse().unwrap(), Some(source), None).unwrap();
        assert_eq!((found.source, found.is_local), (source, true));
        let foreign = Some("192.0.2.1".parse().unwrap());
        let error = lookup("127.0.0.1:80".parse().unwrap(), foreign, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn broadcast_and_multicast_are_unreachable() {
        for dst in ["255.255.255.255:80", "224.0.0.1:80", "[ff02::1]:80"] {
            assert_eq!(route(dst).unwrap_err().kind(), io::ErrorKind::NetworkUnreachable, "{dst}");
        }
    }
}
