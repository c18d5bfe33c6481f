//! Whose address is which at the two ends of a TUN interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error;
use crate::network::LocalAddresses;
use crate::network::rtnl::{Address, Link, Rtnl};

/// Networks that interfaces of ours choose from where nobody says addresses: as many as /30s in 10.114.97.0/24.
const NETWORKS: u32 = 64;

/// Refuses addresses that no host can have, or that leave no room for the kernel's.
pub(super) fn check(addresses: &[(IpAddr, u8)]) -> io::Result<()> {
    for &(ip, prefix) in addresses {
        // A link-local address means something only together with the interface.
        let is_plain = ip.to_canonical() == ip && !is_link_local(ip);
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || !is_plain || neighbour(ip, prefix).is_none()
        {
            let text =
                format!("{ip}/{prefix} can not be the stack's address: one of a network with room for two hosts is");
            return Err(error(io::ErrorKind::InvalidInput, text));
        }
    }
    Ok(())
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The stack's address, or the kernel's, at the other end of an interface where the other one has this: the address before
/// or behind it in its network, or on its other side where there is none. `None` where the network has no other.
fn other(ip: IpAddr, prefix: u8, behind: bool) -> Option<IpAddr> {
    let (bits, width) = match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32_u8),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let (first, last) = hosts(bits, width.checked_sub(prefix)?, ip.is_ipv4())?;
    if !(first..=last).contains(&bits) {
        return None;
    }
    let (before, after) = ((bits > first).then(|| bits - 1), (bits < last).then(|| bits + 1));
    let found = if behind { after.or(before) } else { before.or(after) }?;
    Some(match ip {
        IpAddr::V4(_) => Ipv4Addr::from_bits(found as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(found).into(),
    })
}

/// The kernel's address where the stack has this.
fn neighbour(ip: IpAddr, prefix: u8) -> Option<IpAddr> {
    other(ip, prefix, false)
}

/// The stack's address where the kernel has this.
fn opposite(kernel: &Address) -> Option<IpAddr> {
    kernel.peer.or_else(|| other(kernel.ip, kernel.prefix, true))
}

/// The first and last host of a network with so many host bits. The first address is the network's own (IPv6: any
/// router's, RFC 4291 §2.6.1), the last one IPv4's broadcast; with one bit both are hosts (RFC 3021, RFC 6164).
fn hosts(ip: u128, bits: u8, has_broadcast: bool) -> Option<(u128, u128)> {
    let mask = 1_u128.checked_shl(bits.into()).map_or(u128::MAX, |end| end - 1);
    let (first, last) = (ip & !mask, ip | mask);
    match bits {
        0 => None,
        1 => Some((first, last)),
        _ => Some((first + 1, last - u128::from(has_broadcast))),
    }
}

/// The kernel's and the stack's address of each family in the network with this number.
fn network(number: u32) -> [(IpAddr, IpAddr, u8); 2] {
    let v4 = |host: u32| Ipv4Addr::from_bits(u32::from_be_bytes([10, 114, 97, 0]) + 4 * number + host).into();
    // "rawtc" in ASCII, as the random part of a unique local prefix (RFC 4193 §3.1).
    let v6 = |host| Ipv6Addr::new(0xfd72, 0x6177, 0x7463, number as u16, 0, 0, 0, host).into();
    [(v4(1), v4(2), 30), (v6(1), v6(2), 64)]
}

/// The number at the end of a name.
fn number_of(name: &str) -> u32 {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[name.len() - digits..].parse().unwrap_or(0)
}

/// Gives a new interface the kernel's addresses; answers the stack's.
pub(super) fn configure(rtnl: &mut Rtnl, link: &Link, wanted: &[(IpAddr, u8)]) -> io::Result<Vec<IpAddr>> {
    let explain = |cause: io::Error, ip: IpAddr, prefix: u8| {
        error(cause.kind(), format!("{}: the kernel does not take the address {ip}/{prefix}: {cause}", link.name))
    };
    let mut own = Vec::new();
    for &(ip, prefix) in wanted {
        let Some(kernel) = neighbour(ip, prefix) else { continue };
        rtnl.add_address(link.index, kernel, prefix).map_err(|cause| explain(cause, kernel, prefix))?;
        own.push(ip);
    }
    if !wanted.is_empty() {
        return Ok(own);
    }
    let local = LocalAddresses::new(rtnl.local()?);
    let first = number_of(&link.name);
    let is_free = |number: &u32| network(*number).iter().all(|(kernel, ..)| !local.contains(*kernel));
    let number = (0..NETWORKS).map(|i| first.wrapping_add(i) % NETWORKS).find(is_free).ok_or_else(|| {
        let text = "all of 10.114.97.0/24 is taken: say the stack's address, as in tun:NAME:10.0.0.2/30";
        error(io::ErrorKind::AddrNotAvailable, text)
    })?;
    for (kernel, stack, prefix) in network(number) {
        match rtnl.add_address(link.index, kernel, prefix) {
            Ok(()) => own.push(stack),
            // This host does without IPv6.
            Err(_) if kernel.is_ipv6() => {}
            Err(cause) => return Err(explain(cause, kernel, prefix)),
        }
    }
    Ok(own)
}

/// The stack's addresses at an interface that somebody else made.
pub(super) fn of_existing(rtnl: &mut Rtnl, link: &Link, wanted: &[(IpAddr, u8)]) -> io::Result<Vec<IpAddr>> {
    let name = &link.name;
    if !link.is_up {
        let text = format!("the TUN interface {name} is switched off. Switch it on:\n  sudo ip link set {name} up");
        return Err(error(io::ErrorKind::NetworkDown, text));
    }
    if !wanted.is_empty() {
        return Ok(wanted.iter().map(|&(ip, _)| ip).collect());
    }
    let kernel = rtnl.addresses(link.index)?;
    let of_family = |v4: bool| {
        kernel.iter().filter(|known| known.ip.is_ipv4() == v4 && !is_link_local(known.ip)).find_map(opposite)
    };
    let own: Vec<IpAddr> = [of_family(true), of_family(false)].into_iter().flatten().collect();
    if own.is_empty() {
        let text = format!(
            "the TUN interface {name} has no address from which the stack's would follow. Give the kernel one:\n  \
             sudo ip addr add 10.114.97.1/30 dev {name}\nor say the stack's: tun:{name}:10.114.97.2/30"
        );
        return Err(error(io::ErrorKind::AddrNotAvailable, text));
    }
    Ok(own)
}

/// Refuses addresses that the kernel has: it would keep their packets to itself.
pub(super) fn check_foreign(own: &[IpAddr], kernel: &LocalAddresses) -> io::Result<()> {
    match own.iter().find(|ip| kernel.contains(**ip)) {
        None => Ok(()),
        Some(ip) => {
            let text = format!(
                "{ip} is the kernel's own address: the stack needs another one, which the kernel does not have"
            );
            Err(error(io::ErrorKind::AddrNotAvailable, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_ends_follow_from_each_other() {
        for (stack, prefix, kernel) in [
            ("10.0.0.2", 30, Some("10.0.0.1")),
            ("10.0.0.1", 30, Some("10.0.0.2")),
            ("10.0.0.0", 30, None),
            ("10.0.0.3", 30, None),
            ("10.0.0.1", 24, Some("10.0.0.2")),
            ("10.0.0.77", 24, Some("10.0.0.76")),
            ("10.0.0.0", 31, Some("10.0.0.1")),
            ("10.0.0.1", 31, Some("10.0.0.0")),
            ("10.0.0.1", 32, None),
            ("10.0.0.1", 33, None),
            ("10.0.0.1", 0, Some("10.0.0.0")),
            ("fd00::2", 64, Some("fd00::1")),
            ("fd00::1", 64, Some("fd00::2")),
            ("fd00::", 64, None),
            ("fd00::ffff:ffff:ffff:ffff", 64, Some("fd00::ffff:ffff:ffff:fffe")),
            ("fd00::", 127, Some("fd00::1")),
            ("fd00::1", 128, None),
            ("fd00::1", 200, None),
        ] {
            assert_eq!(neighbour(ip(stack), prefix), kernel.map(ip), "{stack}/{prefix}");
        }
        let other =
            |kernel, peer: Option<&str>, prefix| opposite(&Address { ip: ip(kernel), peer: peer.map(ip), prefix });
        for (kernel, peer, prefix, stack) in [
            ("10.0.0.1", None, 30, Some("10.0.0.2")),
            ("10.0.0.2", None, 30, Some("10.0.0.1")),
            ("10.0.0.1", None, 24, Some("10.0.0.2")),
            ("10.0.0.254", None, 24, Some("10.0.0.253")),
            ("10.0.0.1", None, 32, None),
            ("10.0.0.1", Some("10.9.9.9"), 32, Some("10.9.9.9")),
            ("fd00::1", None, 64, Some("fd00::2")),
            ("fd00::1", None, 127, Some("fd00::")),
            ("fd00::1", Some("fd00::77"), 128, Some("fd00::77")),
            ("fd00::1", None, 128, None),
        ] {
            assert_eq!(other(kernel, peer, prefix), stack.map(ip), "{kernel}/{prefix}");
        }
    }

    #[test]
    fn every_number_has_a_network_of_its_own() {
        let [(kernel, stack, 30), (kernel6, stack6, 64)] = network(0) else { panic!() };
        assert_eq!([kernel, stack], [ip("10.114.97.1"), ip("10.114.97.2")]);
        assert_eq!([kernel6, stack6], [ip("fd72:6177:7463::1"), ip("fd72:6177:7463::2")]);
        let [(last, ..), (last6, ..)] = network(NETWORKS - 1);
        assert_eq!([last, last6], [ip("10.114.97.253"), ip("fd72:6177:7463:3f::1")]);
        for number in 0..NETWORKS {
            for (kernel, stack, prefix) in network(number) {
                assert_eq!(neighbour(stack, prefix), Some(kernel));
            }
        }
        assert_eq!(["rawtcp7", "tun", "vpn12", "9", ""].map(number_of), [7, 0, 12, 9, 0]);
    }

    #[test]
    fn addresses_that_no_stack_can_have_are_refused() {
        for (address, prefix) in [
            ("0.0.0.0", 24),
            ("224.0.0.1", 24),
            ("127.0.0.1", 8),
            ("10.0.0.1", 32),
            ("10.0.0.255", 24),
            ("::1", 64),
            ("ff02::1", 64),
            ("fe80::2", 64),
            ("::ffff:10.0.0.1", 120),
        ] {
            let error = check(&[(ip(address), prefix)]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{address}/{prefix}");
        }
        assert!(check(&[(ip("10.0.0.2"), 30), (ip("fd00::2"), 64)]).is_ok());
        let kernel = LocalAddresses::new(vec![(ip("10.0.0.1"), 32)]);
        assert!(check_foreign(&[ip("10.0.0.2")], &kernel).is_ok());
        let error = check_foreign(&[ip("10.0.0.2"), ip("10.0.0.1")], &kernel).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
