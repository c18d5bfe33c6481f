//! rtnetlink, as far as sending frames by ourselves needs it: questions on one socket, news on another.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Mac;

/// What a message of the kernel takes at most: it builds dumps in pieces of this size.
const BUFFER: usize = 32 * 1024;

/// The news we want, from `<linux/rtnetlink.h>`: links, neighbours, addresses and routes of both families.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;

/// How long the kernel may take to answer a question. It does so at once; this is against waiting for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// A socket for questions. It asks of the network namespace in which it was opened, whoever uses it.
#[derive(Debug)]
pub(crate) struct Rtnl {
    socket: OwnedFd,
    sequence: u32,
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    /// Its packets can be had, and sent, by whole Ethernet frames: it resolves neighbours, and what it receives is
    /// not handed on to a bridge, bond or the like, where it would be seen a second time.
    pub(crate) is_ethernet: bool,
    pub(crate) is_up: bool,
    /// Packets that may wait to be sent.
    pub(crate) queue: u32,
}

/// An address of the kernel's on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    /// The other end, where the interface leads to just one.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) prefix: u8,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) index: u32,
    pub(crate) ip: IpAddr,
    /// `None`: not, or no longer, resolved.
    pub(crate) mac: Option<Mac>,
}

/// How packets to an address leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// By this interface to this neighbour.
    Neighbour { index: u32, ip: IpAddr },
    /// In a way that frames of ours can not go: to an own address, through a tunnel, nowhere.
    Other,
}

/// News from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A route or an address came or went.
    Routing,
    Link(Link),
    LinkGone(u32),
    Neighbour(Neighbour),
}

impl Rtnl {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(SocketFlags::CLOEXEC)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |message| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                links.extend(link(&message));
            }
        })?;
        Ok(links)
    }

    pub(crate) fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let mut neighbours = Vec::new();
        self.ask(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), NLM_F_DUMP, |message| {
            if let RouteNetlinkMessage::NewNeighbour(message) = message {
                neighbours.extend(neighbour(&message, false));
            }
        })?;
        Ok(neighbours)
    }

    /// The address ranges that are this host's own, each with the length of its prefix.
    pub(crate) fn local(&mut self) -> io::Result<Vec<(IpAddr, u8)>> {
        let mut local = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            self.ask(RouteNetlinkMessage::GetRoute(question), NLM_F_DUMP, |message| {
                let RouteNetlinkMessage::NewRoute(route) = message else { return };
                let destination = route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(address) => ip(address),
                    _ => None,
                });
                if let (RouteType::Local, Some(destination)) = (route.header.kind, destination) {
                    local.push((destination, route.header.destination_prefix_length));
                }
            })?;
        }
        Ok(local)
    }

    /// The addresses of an interface, in the kernel's order.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        let mut addresses = Vec::new();
        self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message
                && message.header.index == index
            {
                addresses.extend(address(&message));
            }
        })?;
        Ok(addresses)
    }

    /// Gives an interface an address, usable at once. Needs CAP_NET_ADMIN, as everything that changes something.
    pub(crate) fn add_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        (message.header.index, message.header.prefix_len) = (index, prefix);
        if ip.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, |_| {})
    }

    /// Switches an interface on, with room for so many packets that wait.
    pub(crate) fn set_up(&mut self, index: u32, queue: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        (message.header.flags, message.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
        message.attributes = vec![LinkAttribute::TxQueueLen(queue)];
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK, |_| {})
    }

    /// Packets that an interface dropped instead of sending them, ever.
    pub(crate) fn dropped(&mut self, index: u32) -> io::Result<u64> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        let mut dropped = 0;
        self.ask(RouteNetlinkMessage::GetLink(question), 0, |message| {
            let RouteNetlinkMessage::NewLink(message) = message else { return };
            for attribute in &message.attributes {
                if let LinkAttribute::Stats64(stats) = attribute {
                    dropped = stats.tx_dropped;
                }
            }
        })?;
        Ok(dropped)
    }

    /// How packets from `source` to `destination` leave; `by` is the interface, or 0.
    pub(crate) fn step(&mut self, destination: IpAddr, source: Option<IpAddr>, by: u32) -> io::Result<Step> {
        let mut question = towards(destination);
        if let Some(source) = source {
            question.header.source_prefix_length = question.header.destination_prefix_length;
            question.attributes.push(RouteAttribute::Source(source.into()));
        }
        if by != 0 {
            question.attributes.push(RouteAttribute::Oif(by));
        }
        let mut step = Step::Other;
        self.ask(RouteNetlinkMessage::GetRoute(question), 0, |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                step = step_of(&route, destination);
            }
        })?;
        Ok(step)
    }

    /// Whether an address stands for everybody on a link. An error where there is no route to it.
    pub(crate) fn is_broadcast(&mut self, destination: Ipv4Addr) -> io::Result<bool> {
        let mut is_broadcast = false;
        self.ask(RouteNetlinkMessage::GetRoute(towards(destination.into())), 0, |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                is_broadcast = route.header.kind == RouteType::Broadcast;
            }
        })?;
        Ok(is_broadcast)
    }

    /// Asks one question and takes all answers.
    fn ask(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
        mut answer: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::io::retry_on_intr(|| {
            rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
        })?;
        let mut buffer = vec![0; BUFFER];
        let more = flags & NLM_F_DUMP == NLM_F_DUMP;
        loop {
            let (_, received) =
                rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()))?;
            for message in messages(&buffer[..received.min(BUFFER)]) {
                // What is left of a question that was given up.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        answer(inner);
                        if !more {
                            return Ok(());
                        }
                    }
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

/// A socket that is told what changes.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes the next piece of news; `None` when there is no more.
    ///
    /// # Errors
    /// `ENOBUFS`: some were lost, and everything has to be asked anew.
    pub(crate) fn next(&self, mut change: impl FnMut(Change)) -> io::Result<Option<()>> {
        let mut buffer = vec![0; BUFFER];
        let received =
            match rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT)) {
                Ok((_, received)) => received,
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
        for message in messages(&buffer[..received.min(BUFFER)]) {
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            match message {
                RouteNetlinkMessage::NewLink(message) => link(&message).map(Change::Link),
                RouteNetlinkMessage::DelLink(message) => Some(Change::LinkGone(message.header.index)),
                RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message, false).map(Change::Neighbour),
                RouteNetlinkMessage::DelNeighbour(message) => neighbour(&message, true).map(Change::Neighbour),
                _ => Some(Change::Routing),
            }
            .into_iter()
            .for_each(&mut change);
        }
        Ok(Some(()))
    }
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    // No protocol is number 0, which is NETLINK_ROUTE.
    Ok(rustix::net::socket_with(rustix::net::AddressFamily::NETLINK, SocketType::RAW, flags, None)?)
}

/// The messages of one datagram; what can not be read ends them.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> + '_ {
    std::iter::from_fn(move || {
        loop {
            let length = bytes.first_chunk::<4>().map(|length| u32::from_ne_bytes(*length) as usize)?;
            let message = bytes.get(..length).filter(|message| message.len() >= 16)?;
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            // A kind of message that the library does not know is not for us.
            if let Ok(message) = NetlinkMessage::deserialize(message) {
                return Some(message);
            }
        }
    })
}

/// The question for the route to an address.
fn towards(destination: IpAddr) -> RouteMessage {
    let (family, length) = if destination.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    let mut question = RouteMessage::default();
    question.header.address_family = family;
    question.header.destination_prefix_length = length;
    question.attributes.push(RouteAttribute::Destination(destination.into()));
    question
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match *address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn step_of(route: &RouteMessage, destination: IpAddr) -> Step {
    let mut index = None;
    let mut next = Some(destination);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(gateway) => next = ip(gateway),
            // An IPv4 route by an IPv6 router, or something wrapped round the packet.
            RouteAttribute::Via(_) | RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => next = None,
            _ => {}
        }
    }
    match (route.header.kind, index, next) {
        (RouteType::Unicast, Some(index), Some(ip)) => Step::Neighbour { index, ip },
        _ => Step::Other,
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        is_ethernet: message.header.link_layer_type == LinkLayerType::Ether
            && !flags.intersects(LinkFlags::Noarp | LinkFlags::Loopback | LinkFlags::Pointopoint),
        is_up: flags.contains(LinkFlags::Up),
        queue: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::TxQueueLen(queue) => link.queue = *queue,
            LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().unwrap_or(link.mac),
            LinkAttribute::Controller(controller) if *controller != 0 => link.is_ethernet = false,
            _ => {}
        }
    }
    // Messages of a bridge about its ports carry no more than that.
    (link.mtu > 0).then_some(link)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            _ => {}
        }
    }
    // IPv6 says its own address in the second attribute, unless there is a peer.
    let ip = local.or(other)?;
    Some(Address { ip, peer: other.filter(|peer| *peer != ip), prefix: message.header.prefix_len })
}

fn neighbour(message: &NeighbourMessage, gone: bool) -> Option<Neighbour> {
    let mut found = Neighbour { index: message.header.ifindex, ip: IpAddr::from([0; 4]), mac: None };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => found.ip = (*ip).into(),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => found.ip = (*ip).into(),
            NeighbourAttribute::LinkLayerAddress(address) => found.mac = address.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let unknown = matches!(
        message.header.state,
        NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None | NeighbourState::Noarp
    );
    if gone || unknown {
        found.mac = None;
    }
    (!found.ip.is_unspecified()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there_and_no_ethernet() {
        let links = Rtnl::open().unwrap().links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(!lo.is_ethernet && lo.mtu >= 1500);
    }

    #[test]
    fn own_addresses_are_local_and_no_step_leads_to_them() {
        let mut rtnl = Rtnl::open().unwrap();
        let home: IpAddr = [127, 0, 0, 1].into();
        let local = rtnl.local().unwrap();
        assert!(local.contains(&([127, 0, 0, 0].into(), 8)) || local.contains(&(home, 32)), "{local:?}");
        assert_eq!(rtnl.step(home, None, 0).unwrap(), Step::Other);
    }

    #[test]
    fn a_question_without_an_answer_is_an_error() {
        let error = Rtnl::open().unwrap().step([192, 0, 2, 1].into(), None, 0x7fff_fff0).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
    }

    #[test]
    fn broken_datagrams_end_and_do_not_panic() {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let mut whole = NetlinkMessage::new(header, RouteNetlinkMessage::GetLink(LinkMessage::default()).into());
        whole.finalize();
        let mut bytes = vec![0; whole.buffer_len()];
        whole.serialize(&mut bytes);
        assert_eq!(messages(&bytes).count(), 1);
        for cut in 0..bytes.len() {
            assert_eq!(messages(&bytes[..cut]).count(), 0, "{cut}");
        }
        bytes[0] = 3;
        assert_eq!(messages(&bytes).count(), 0);
    }
}
