//! Interfaces, addresses and routes, through rtnetlink.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use rawtcp_io::ethtool::{self, Feature};
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, State};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use super::{Namespace, next_number};

/// A hardware address.
pub type Mac = [u8; 6];

/// Joins two namespaces by a pair of virtual Ethernet interfaces, both up, with the default MTU of 1500 and the kernel's
/// default offloads. Returns the hardware addresses of the two ends.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// use rawtcp_lab::netns::{Namespace, veth};
/// let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
/// veth(&left, "eth0", &right, "eth0")?;
/// left.add_address("eth0", "10.0.0.1".parse().unwrap(), 24)?;
/// # Ok(()) }
/// ```
pub fn veth(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str) -> io::Result<(Mac, Mac)> {
    let (a_mac, b_mac) = (next_mac(), next_mac());
    // Both ends are born in their namespaces, so that equal names do not meet.
    let b_end = LinkUnspec::new_with_name(b_name).setns_by_fd(b.as_fd().as_raw_fd()).address(b_mac.to_vec()).build();
    let link = LinkVeth::new(a_name, b_name)
        .address(a_mac.to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(b_end)))
        .build();
    a.netlink(async |handle| handle.link().add(link).execute().await)
        .map_err(|error| context(error, format_args!("can not make veth {a_name}")))?;
    b.set_link_up(b_name, true)?;
    a.set_link_up(a_name, true)?;
    b.wait_until_running(b_name)?;
    a.wait_until_running(a_name)?;
    Ok((a_mac, b_mac))
}

/// Locally administered, unicast, and readable.
fn next_mac() -> Mac {
    let [a, b, c, d] = next_number().to_be_bytes();
    [0x02, 0x1a, a, b, c, d]
}

impl Namespace {
    /// Switches an interface on or off.
    pub fn set_link_up(&self, interface: &str, up: bool) -> io::Result<()> {
        let link = LinkUnspec::new_with_name(interface);
        let link = if up { link.up() } else { link.down() };
        self.netlink(async |handle| handle.link().set(link.build()).execute().await)
            .map_err(|error| context(error, format_args!("can not switch {interface}")))
    }

    /// Waits until an interface that was switched on carries packets. The kernel gives a new one its queue up to a
    /// second later, and drops without a word what is sent before.
    fn wait_until_running(&self, interface: &str) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let is_running = || {
            self.netlink(async |handle| {
                let link = handle.link().get().match_name(interface.to_owned()).execute().try_next().await?;
                let is_up = |attribute: &LinkAttribute| *attribute == LinkAttribute::OperState(State::Up);
                Ok(link.is_some_and(|link| link.attributes.iter().any(is_up)))
            })
        };
        while !is_running()? {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{interface} does not come up")));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Sets the MTU of an interface.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> io::Result<()> {
        let link = LinkUnspec::new_with_name(interface).mtu(mtu).build();
        self.netlink(async |handle| handle.link().set(link).execute().await)
            .map_err(|error| context(error, format_args!("can not set the MTU of {interface} to {mtu}")))
    }

    /// Gives an interface an address, usable at once if the interface is up.
    pub fn add_address(&self, interface: &str, address: IpAddr, prefix: u8) -> io::Result<()> {
        let index = self.interface_index(interface)?;
        self.netlink(async |handle| {
            let mut request = handle.address().add(index, address, prefix);
            if address.is_ipv6() {
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            request.execute().await
        })
        .and_then(
            |()| if address.is_ipv6() && self.is_up(interface)? { self.wait_for_address(address) } else { Ok(()) },
        )
        .map_err(|error| context(error, format_args!("can not add {address}/{prefix} to {interface}")))
    }

    fn is_up(&self, interface: &str) -> io::Result<bool> {
        self.netlink(async |handle| {
            let link = handle.link().get().match_name(interface.to_owned()).execute().try_next().await?;
            Ok(link.is_some_and(|link| link.header.flags.contains(LinkFlags::Up)))
        })
    }

    /// Waits until what is sent to this address of the namespace's own arrives: the kernel takes up one of IPv6 a moment after it
    /// was told of it.
    fn wait_for_address(&self, address: IpAddr) -> io::Result<()> {
        const MOST: Duration = Duration::from_secs(10);
        let any: IpAddr = if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        self.run(|| {
            let begin = Instant::now();
            loop {
                // Sends nothing, but has to find a route.
                match UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, 9))) {
                    Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable && begin.elapsed() < MOST => {
                        thread::sleep(Duration::from_millis(1));
                    }
                    outcome => return outcome,
                }
            }
        })
    }

    /// Routes packets for `destination/prefix` through `gateway`.
    pub fn add_route(&self, destination: IpAddr, prefix: u8, gateway: IpAddr) -> io::Result<()> {
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination, prefix)
            .and_then(|route| route.gateway(gateway))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?
            .build();
        self.netlink(async |handle| handle.route().add(route).execute().await)
            .map_err(|error| context(error, format_args!("can not route {destination}/{prefix} via {gateway}")))
    }

    /// Makes known once and for all which hardware address has `address`, so that nobody has to ask on the wire.
    pub fn add_neighbour(&self, interface: &str, address: IpAddr, mac: Mac) -> io::Result<()> {
        let index = self.interface_index(interface)?;
        // A neighbour is permanent unless said otherwise.
        self.netlink(async |handle| handle.neighbours().add(index, address).link_layer_address(&mac).execute().await)
            .map_err(|error| context(error, format_args!("can not add neighbour {address} on {interface}")))
    }

    /// The number of an interface in this namespace.
    pub fn interface_index(&self, interface: &str) -> io::Result<u32> {
        self.run(|| {
            let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
            netdevice::name_to_index(socket, interface)
        })
        .map_err(|errno| context(errno.into(), format_args!("no interface {interface} in {}", self.name())))
    }

    /// Switches an offload of an interface.
    pub fn set_offload(&self, interface: &str, feature: Feature, on: bool) -> io::Result<()> {
        self.run(|| ethtool::set(interface, feature, on))
            .map_err(|error| context(error, format_args!("can not set {feature:?} of {interface} to {on}")))
    }

    /// Whether an offload of an interface is on.
    pub fn offload(&self, interface: &str, feature: Feature) -> io::Result<bool> {
        self.run(|| ethtool::is_on(interface, feature))
            .map_err(|error| context(error, format_args!("can not read {feature:?} of {interface}")))
    }

    /// Switches all [offloads](Feature::ALL) of an interface off: what leaves it is what is on the wire.
    pub fn disable_offloads(&self, interface: &str) -> io::Result<()> {
        Feature::ALL.into_iter().try_for_each(|feature| match self.set_offload(interface, feature, false) {
            // A feature that can not be switched at all is not in the way if it is off.
            Err(_) if matches!(self.offload(interface, feature), Ok(false)) => Ok(()),
            result => result,
        })
    }

    /// Lets this namespace forward packets between its interfaces, IPv4 and IPv6.
    pub fn enable_forwarding(&self) -> io::Result<()> {
        self.set_sysctl("net.ipv4.ip_forward", "1")?;
        self.set_sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// Runs one conversation with the kernel's routing tables in this namespace.
    fn netlink<F, T>(&self, talk: impl FnOnce(Handle) -> F + Send) -> io::Result<T>
    where
        F: Future<Output = Result<T, rtnetlink::Error>>,
        T: Send,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                talk(handle).await.map_err(|error| match error {
                    rtnetlink::Error::NetlinkError(message) => message.to_io(),
                    other => io::Error::other(other.to_string()),
                })
            })
        })
    }
}

fn context(error: io::Error, what: std::fmt::Arguments<'_>) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
