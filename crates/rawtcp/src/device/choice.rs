//! The choice of a device, and its name in the environment.

use crate::sync::Arc;
use rawtcp_io::PacketIo;
use std::net::IpAddr;

/// What a stack sends and receives by.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Device {
    /// Raw IP sockets on the host's interfaces, IPv4 and IPv6. Needs CAP_NET_RAW.
    #[default]
    Raw,
    /// AF_PACKET sockets on Ethernet interfaces, with segmentation and checksum offload: one interface, or all that are
    /// up when the stack is made. Raw IP sockets for everything else: `lo` and the host's own addresses, tunnels,
    /// interfaces that come later. Needs CAP_NET_RAW. The host's firewall does not see what is received in this way.
    Packet {
        /// The name of the interface; `None`: all.
        interface: Option<String>,
    },
    /// As [`Packet`](Self::Packet) with all interfaces, and where there is no Ethernet as [`Raw`](Self::Raw).
    Auto,
    /// A TUN interface: the stack is a host of its own behind it, with addresses that the kernel of this machine does not
    /// have, and that kernel is its first router. Needs CAP_NET_ADMIN where the interface is to be made, and nothing but
    /// /dev/net/tun where it was made for this user (`ip tuntap add … user …`).
    Tun {
        /// The name of the interface; one that does not exist is made, and goes with the stack. `None`: a new one.
        interface: Option<String>,
        /// The stack's addresses, each with the length of its network's prefix; a new interface gets the address beside
        /// each for the kernel. Empty: at an existing interface the other end of what the kernel has there; at a new one
        /// the second host of the first free /30 in 10.114.97.0/24 and /64 in fd72:6177:7463::/48, of which the kernel gets
        /// the first.
        addresses: Vec<(IpAddr, u8)>,
    },
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

impl Device {
    /// What [`parse`](Self::parse) understands.
    pub(crate) const NAMES: &str = "raw, packet[:INTERFACE], auto, tun[:INTERFACE[:ADDRESS/PREFIX,…]], loopback";

    /// The device of this name in the environment.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = split(text);
        let interface = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Some(match (kind, rest) {
            ("raw", None) => Device::Raw,
            ("auto", None) => Device::Auto,
            ("loopback", None) => Device::Loopback,
            ("packet", None) => Device::Packet { interface: None },
            ("packet", Some(name)) => Device::Packet { interface: Some(interface(name)?) },
            ("tun", None) => Device::Tun { interface: None, addresses: Vec::new() },
            ("tun", Some(rest)) => {
                let (name, list) = split(rest);
                let addresses = match list {
                    Some(list) => list.split(',').map(address).collect::<Option<_>>()?,
                    None => Vec::new(),
                };
                Device::Tun { interface: Some(interface(name)?), addresses }
            }
            _ => return None,
        })
    }
}

/// What stands before and behind the first colon.
fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once(':').map_or((text, None), |(before, behind)| (before, Some(behind)))
}

/// `ADDRESS/PREFIX`.
fn address(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, prefix) = text.split_once('/')?;
    Some((ip.parse().ok()?, prefix.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_whole_or_not_at_all() {
        let name = |text: &str| Device::parse(text).map(|device| format!("{device:?}"));
        let known = |device: Device| Some(format!("{device:?}"));
        assert_eq!(name("raw"), known(Device::Raw));
        assert_eq!(name("auto"), known(Device::Auto));
        assert_eq!(name("loopback"), known(Device::Loopback));
        assert_eq!(name("packet"), known(Device::Packet { interface: None }));
        assert_eq!(name("packet:eth0"), known(Device::Packet { interface: Some("eth0".to_owned()) }));
        let (interface, addresses) = (Some("vpn1".to_owned()), Vec::new());
        assert_eq!(name("tun"), known(Device::Tun { interface: None, addresses: Vec::new() }));
        assert_eq!(name("tun:vpn1"), known(Device::Tun { interface: interface.clone(), addresses }));
        let addresses = vec![("10.0.0.2".parse().unwrap(), 30), ("fd00::2".parse().unwrap(), 64)];
        assert_eq!(name("tun:vpn1:10.0.0.2/30,fd00::2/64"), known(Device::Tun { interface, addresses }));
        for nonsense in [
            "",
            "raw:eth0",
            "auto:",
            "packet:",
            "tun:",
            "tun::10.0.0.2/30",
            "tun:vpn1:",
            "tun:vpn1:10.0.0.2",
            "tun:vpn1:10.0.0.2/30,",
            "tun:vpn1:10.0.0.2/x",
            "tun:vpn1:10.0.0/8",
        ] {
            assert_eq!(name(nonsense), None, "{nonsense}");
        }
    }
}
