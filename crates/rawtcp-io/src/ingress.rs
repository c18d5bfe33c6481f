//! Sparing the kernel the work on packets that AF_PACKET sockets have received for us: it drops them where they come in, behind
//! those sockets and before its own IP, TCP and firewall.
//!
//! An nf_tables table of the `netdev` family, owned by its netlink socket (`flags owner`, Linux 5.12): nobody else can change
//! it, and it vanishes with the socket. It needs CAP_NET_ADMIN; without it guards keep the kernel as silent, only at a cost of
//! about a microsecond for each packet.
//!
//! What is dropped are TCP segments to an exact address and port in frames to this host, by interfaces with these numbers. Left alone
//! are fragments, which the kernel would put together otherwise in vain; IPv6 extension headers; and frames with a VLAN tag, which
//! come a second time by the VLAN's interface.
//!
//! Whatever goes wrong once ends it for good: the socket is closed, which needs no privilege, and the table goes with it. So nothing is
//! dropped that nobody asks for any more.

mod nft;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::sys;
use nft::{Base, Batch, Kind, Meta};

/// How long the kernel may take to answer. It has answered before the question has been sent; this is against waiting for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// Addresses that may be added at once. Thousands on one host are known, and would be a long message for little.
pub const MAX_ADDED: usize = 256;

const NLMSG_ERROR: u16 = 2;
/// From `<linux/netlink.h>`: errors do not quote the message that they are about.
const SOL_NETLINK: libc::c_int = 270;
const NETLINK_CAP_ACK: libc::c_int = 10;

/// `NFT_TABLE_F_OWNER`: the table lives as long as the socket that made it.
const TABLE_OWNER: u32 = 2;
/// `NFT_SET_CONCAT`: an element is several values, each in registers of its own.
const SET_CONCAT: u32 = 0x80;
/// How the `nft` program shows elements: numbers of its own, six bits each, for `ipv4_addr . inet_service` …
const TYPE_V4: u32 = 7 << 6 | 13;
/// … and for `ipv6_addr . inet_service`.
const TYPE_V6: u32 = 8 << 6 | 13;
/// `NF_NETDEV_INGRESS`.
const HOOK_INGRESS: u32 = 0;
const POLICY_ACCEPT: u32 = 1;

/// The sets' names.
const SET_V4: &str = "ours4";
const SET_V6: &str = "ours6";

/// Has the kernel drop, at some interfaces, what is for given addresses and ports. All of it ends on drop.
#[derive(Debug)]
pub struct IngressDrop {
    /// Number and name.
    interfaces: Vec<(u32, String)>,
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None`: it has ended.
    socket: Option<OwnedFd>,
    sequence: u32,
    /// The table has been made.
    stands: bool,
}

impl IngressDrop {
    /// For these interfaces, each with its number, of the calling thread's network namespace, which is the one that is meant later,
    /// whoever calls. Nothing is changed before the first address is [added](Self::add).
    ///
    /// # Errors
    /// There are no netlink sockets for netfilter.
    pub fn new<'a>(interfaces: impl IntoIterator<Item = (u32, &'a str)>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        sys::set_option(socket.as_fd(), SOL_NETLINK, NETLINK_CAP_ACK, 1 as libc::c_int)?;
        // Process numbers repeat where containers share a network.
        let mut random = [0; 8];
        rustix::io::retry_on_intr(|| getrandom(&mut random, GetRandomFlags::empty()))?;
        let name = format!("rawtcp-{}-{:016x}", std::process::id(), u64::from_ne_bytes(random));
        Ok(Self {
            interfaces: interfaces.into_iter().map(|(index, name)| (index, name.to_owned())).collect(),
            name,
            state: Mutex::new(State { socket: Some(socket), sequence: 0, stands: false }),
        })
    }

    /// The name of the table, as `nft list tables` shows it.
    pub fn table(&self) -> &str {
        &self.name
    }

    /// Drops from now on what is for these addresses and ports, at most [`MAX_ADDED`]. One that is dropped already stays so.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN; others where the kernel has no nf_tables, or none with ownership; `InvalidInput` for too
    /// many. But for the last, the kernel sees everything again from there on, and `Unsupported` is the answer to all that follows.
    pub fn add(&self, local: &[SocketAddr]) -> io::Result<()> {
        if local.len() > MAX_ADDED {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.change(Kind::NewElements, local)
    }

    /// The kernel sees again what is for these addresses and ports, which were added. It does so in any case, if need be by seeing
    /// everything again.
    pub fn remove(&self, local: &[SocketAddr]) {
        // An error has ended everything.
        let _ = self.change(Kind::DeleteElements, local);
    }

    /// The kernel sees everything again, for good.
    pub fn end(&self) {
        let mut state = self.lock();
        let socket = state.socket.take();
        let (first, stands) = (state.sequence, state.stands);
        drop(state);
        let Some(socket) = socket.filter(|_| stands) else { return };
        // A child process that is about to run its program has a copy of the socket, and with it the table would stay. Refused,
        // it goes with the socket.
        let mut batch = Batch::new(first);
        batch.add(Kind::DeleteTable, |message| message.text(1, &self.name));
        let (bytes, last) = batch.finish();
        let _ = carry_out(&socket, &bytes, first, last);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, kind: Kind, local: &[SocketAddr]) -> io::Result<()> {
        if local.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let State { socket: Some(socket), sequence, stands } = &mut *state else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let first = *sequence;
        let mut batch = Batch::new(first);
        if !*stands {
            self.build(&mut batch);
        }
        for (set, v4) in [(SET_V4, true), (SET_V6, false)] {
            let keys: Vec<Vec<u8>> = local.iter().filter(|addr| addr.is_ipv4() == v4).map(key).collect();
            if keys.is_empty() {
                continue;
            }
            batch.add(kind, |elements| {
                elements.text(1, &self.name);
                elements.text(2, set);
                elements.nested(3, |list| {
                    for key in &keys {
                        list.element(|element| element.value(1, key));
                    }
                });
            });
        }
        let (bytes, last) = batch.finish();
        *sequence = last.wrapping_add(1);
        *stands = true;
        let outcome = carry_out(socket, &bytes, first, last);
        if outcome.is_err() {
            state.socket = None;
        }
        outcome
    }

    /// The table, its sets, and a chain for each interface.
    fn build(&self, batch: &mut Batch) {
        let table = &self.name;
        batch.add(Kind::NewTable, |message| {
            message.text(1, table);
            message.number(2, TABLE_OWNER);
        });
        let sets: [(&str, u32, u32, &[u32]); 2] = [(SET_V4, TYPE_V4, 1, &[4, 2]), (SET_V6, TYPE_V6, 2, &[16, 2])];
        for (set, kind, id, fields) in sets {
            batch.add(Kind::NewSet, |message| {
                message.text(1, table);
                message.text(2, set);
                message.number(3, SET_CONCAT);
                message.number(4, kind);
                message.number(5, fields.iter().map(|length| length.next_multiple_of(4)).sum());
                message.nested(9, |description| {
                    description.nested(2, |concatenation| {
                        for &length in fields {
                            concatenation.element(|field| field.number(1, length));
                        }
                    });
                });
                message.number(10, id);
            });
        }
        for (i, (index, interface)) in self.interfaces.iter().enumerate() {
            let chain = format!("ingress{i}");
            batch.add(Kind::NewChain, |message| {
                message.text(1, table);
                message.text(3, &chain);
                message.nested(4, |hook| {
                    hook.number(1, HOOK_INGRESS);
                    hook.number(2, 0);
                    hook.text(3, interface);
                });
                message.number(5, POLICY_ACCEPT);
                message.text(7, "filter");
            });
            for v4 in [true, false] {
                rule(batch, table, &chain, *index, v4);
            }
        }
    }
}

impl Drop for IngressDrop {
    fn drop(&mut self) {
        self.end();
    }
}

/// Drops what is in the family's set.
fn rule(batch: &mut Batch, table: &str, chain: &str, interface: u32, v4: bool) {
    const TCP: u8 = libc::IPPROTO_TCP as u8;
    let (protocol, set) = if v4 { (libc::ETH_P_IP, SET_V4) } else { (libc::ETH_P_IPV6, SET_V6) };
    batch.add(Kind::NewRule, |message| {
        message.text(1, table);
        message.text(2, chain);
        message.nested(4, |rule| {
            // The chain goes over to an interface that gets the name of one that has gone; our socket does not.
            rule.if_meta(Meta::InputIndex, &interface.to_ne_bytes());
            // Of a frame with a VLAN tag this is the tag.
            rule.if_payload(Base::Link, 12, &(protocol as u16).to_be_bytes());
            rule.if_meta(Meta::PacketType, &[libc::PACKET_HOST]);
            if v4 {
                rule.if_meta(Meta::TransportProtocol, &[TCP]);
                // Neither "more fragments" nor an offset.
                rule.if_masked_payload(Base::Network, 6, &[0x3f, 0xff], &[0, 0]);
                rule.load(0, Base::Network, 16, 4);
                rule.load(1, Base::Transport, 2, 2);
            } else {
                // Directly behind the IPv6 header, so that it is no fragment either.
                rule.if_payload(Base::Network, 6, &[TCP]);
                rule.load(0, Base::Network, 24, 16);
                rule.load(4, Base::Transport, 2, 2);
            }
            rule.if_in_set(set);
            rule.drop_packet();
        });
    });
}

/// Address and port as the registers hold them.
fn key(addr: &SocketAddr) -> Vec<u8> {
    let mut key = match addr.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    key.extend(addr.port().to_be_bytes());
    key.extend([0; 2]);
    key
}

/// Sends a batch, whose messages have the numbers behind `first` up to `last`, and hears what comes of it.
fn carry_out(socket: &OwnedFd, bytes: &[u8], first: u32, last: u32) -> io::Result<()> {
    rustix::io::retry_on_intr(|| {
        rustix::net::sendto(socket, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
    })?;
    let mut answer = [0_u8; 4096];
    loop {
        let (_, received) =
            rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut answer[..], RecvFlags::empty()))?;
        if let Some(outcome) = interpret(&answer[..received.min(answer.len())], first, last) {
            return outcome;
        }
    }
}

/// What the kernel says to the messages with the numbers behind `first` up to `last`: the first error, or that all is well with the last
/// one; `None` if it says neither yet.
fn interpret(mut answer: &[u8], first: u32, last: u32) -> Option<io::Result<()>> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    loop {
        let length = word(answer, 0)? as usize;
        let message = answer.get(..length).filter(|message| message.len() >= 16)?;
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (kind, sequence) = (u16::from_ne_bytes([message[4], message[5]]), word(message, 8)?);
        let is_of_this_batch = sequence.wrapping_sub(first).wrapping_sub(1) < last.wrapping_sub(first);
        if kind != NLMSG_ERROR || !is_of_this_batch {
            continue;
        }
        match word(message, 16)? as i32 {
            0 if sequence == last => return Some(Ok(())),
            0 => {}
            code => return Some(Err(Errno::from_raw_os_error(code.saturating_neg()).into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_registers_hold_them() {
        assert_eq!(key(&"1.2.3.4:258".parse().unwrap()), [1, 2, 3, 4, 1, 2, 0, 0]);
        let v6 = key(&"[102:304::]:258".parse().unwrap());
        assert_eq!((v6.len(), &v6[..4], &v6[16..]), (20, &[1, 2, 3, 4][..], &[1, 2, 0, 0][..]));
    }

    #[test]
    fn answers_are_told_apart_and_broken_ones_do_not_panic() {
        let message = |sequence: u32, code: i32| {
            let mut bytes = Vec::new();
            bytes.extend(36_u32.to_ne_bytes());
            bytes.extend(NLMSG_ERROR.to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(code.to_ne_bytes());
            bytes.extend([0; 16]);
            bytes
        };
        assert!(matches!(interpret(&message(5, 0), 2, 5), Some(Ok(()))));
        assert!(interpret(&message(4, 0), 2, 5).is_none());
        let error = interpret(&[message(4, 0), message(3, -1)].concat(), 2, 5).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(1));
        // What is left of an earlier batch, or of one around the end of the numbers.
        assert!(interpret(&[message(2, -1), message(6, -1)].concat(), 2, 5).is_none());
        assert!(matches!(interpret(&message(0, -1), u32::MAX - 1, 1), Some(Err(_))));
        for cut in 0..36 {
            assert!(interpret(&message(5, 0)[..cut], 2, 5).is_none(), "{cut}");
        }
    }
}
