//! Sparing the kernel the work on packets that AF_PACKET sockets have received for us: it drops them where they come in, behind
//! those sockets and before its own IP, TCP and firewall.
//!
//! An nf_tables table of the `netdev` family, owned by its netlink socket (`flags owner`, Linux 5.12): nobody else can change
//! it, and it vanishes with the process. It needs CAP_NET_ADMIN; without it guards keep the kernel as silent, only at a cost of
//! about a microsecond for each packet.
//!
//! What is dropped are TCP segments to an exact address and port in frames to this host, so that what the host forwards, and other
//! ports, go on as before. Frames with a VLAN tag are left alone: they come a second time by the VLAN's interface.

mod nft;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use nft::{Base, Batch, Kind, Meta};

/// How long the kernel may take to answer. It has answered before the question has been sent; this is against waiting for ever.
const PATIENCE: Duration = Duration::from_secs(1);

const NLMSG_ERROR: u16 = 2;

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

/// The table's name has to be the only one of its kind in the network namespace.
static TABLES: AtomicU32 = AtomicU32::new(0);

/// The sets' names.
const SET_V4: &str = "ours4";
const SET_V6: &str = "ours6";

/// Has the kernel drop, at some interfaces, what is for given addresses and ports. All of it ends on drop.
#[derive(Debug)]
pub struct IngressDrop {
    interfaces: Vec<String>,
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    socket: OwnedFd,
    sequence: u32,
    /// The table has been made.
    stands: bool,
}

impl IngressDrop {
    /// For these interfaces of the calling thread's network namespace, which is the one that is meant later, whoever calls. Nothing
    /// is changed before the first address is [added](Self::add).
    ///
    /// # Errors
    /// There are no netlink sockets for netfilter.
    pub fn new<'a>(interfaces: impl IntoIterator<Item = &'a str>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        let name = format!("rawtcp-{}-{}", std::process::id(), TABLES.fetch_add(1, Ordering::Relaxed));
        Ok(Self {
            interfaces: interfaces.into_iter().map(str::to_owned).collect(),
            name,
            state: Mutex::new(State { socket, sequence: 0, stands: false }),
        })
    }

    /// The name of the table, as `nft list tables` shows it.
    pub fn table(&self) -> &str {
        &self.name
    }

    /// Drops from now on what is for these addresses and ports. One that is dropped already stays so.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN; `Unsupported` or others where the kernel has no nf_tables, or none with
    /// ownership. Nothing has changed then.
    pub fn add(&self, local: &[SocketAddr]) -> io::Result<()> {
        self.change(Kind::NewElements, local)
    }

    /// The kernel sees again what is for these addresses and ports.
    ///
    /// # Errors
    /// Those of netlink sockets; `NotFound` if one of them was not dropped.
    pub fn remove(&self, local: &[SocketAddr]) -> io::Result<()> {
        self.change(Kind::DeleteElements, local)
    }

    fn change(&self, kind: Kind, local: &[SocketAddr]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let mut batch = Batch::new(state.sequence);
        if !state.stands {
            self.build(&mut batch);
        }
        let mut any = false;
        for (set, v4) in [(SET_V4, true), (SET_V6, false)] {
            let keys: Vec<Vec<u8>> = local.iter().filter(|addr| addr.is_ipv4() == v4).map(key).collect();
            if keys.is_empty() {
                continue;
            }
            any = true;
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
        if any {
            state.carry_out(batch)?;
            state.stands = true;
        }
        Ok(())
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
        for (i, interface) in self.interfaces.iter().enumerate() {
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
            rule(batch, table, &chain, SET_V4, libc::ETH_P_IP as u16, (16, 4));
            rule(batch, table, &chain, SET_V6, libc::ETH_P_IPV6 as u16, (24, 16));
        }
    }
}

/// Drops what is in the set; `address` is where the destination stands, and its length.
fn rule(batch: &mut Batch, table: &str, chain: &str, set: &str, protocol: u16, address: (u32, u32)) {
    batch.add(Kind::NewRule, |message| {
        message.text(1, table);
        message.text(2, chain);
        message.nested(4, |rule| {
            // Of a frame with a VLAN tag this is the tag.
            rule.if_payload(Base::Link, 12, &protocol.to_be_bytes());
            rule.if_meta(Meta::TransportProtocol, &[libc::IPPROTO_TCP as u8]);
            rule.if_meta(Meta::PacketType, &[libc::PACKET_HOST]);
            rule.load(0, Base::Network, address.0, address.1);
            rule.load(address.1 / 4, Base::Transport, 2, 2);
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

impl State {
    fn carry_out(&mut self, batch: Batch) -> io::Result<()> {
        let (bytes, acknowledged) = batch.finish();
        self.sequence = acknowledged.wrapping_add(1);
        rustix::io::retry_on_intr(|| {
            rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
        })?;
        let mut answer = [0_u8; 4096];
        let mut outcome = None;
        while outcome.is_none() {
            let (_, received) =
                rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut answer[..], RecvFlags::empty()))?;
            outcome = interpret(&answer[..received.min(answer.len())], acknowledged);
        }
        // A batch that failed has an error for each of its messages: the next question begins without them.
        while rustix::net::recv(&self.socket, &mut answer[..], RecvFlags::DONTWAIT).is_ok() {}
        outcome.unwrap_or(Ok(()))
    }
}

/// What the kernel says to a batch whose last message has this number: the first error, or that all is well; `None` if it says
/// neither yet.
fn interpret(mut answer: &[u8], acknowledged: u32) -> Option<io::Result<()>> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    loop {
        let length = word(answer, 0)? as usize;
        let message = answer.get(..length).filter(|message| message.len() >= 16)?;
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (kind, sequence) = (u16::from_ne_bytes([message[4], message[5]]), word(message, 8)?);
        if kind != NLMSG_ERROR {
            continue;
        }
        match word(message, 16)? as i32 {
            0 if sequence == acknowledged => return Some(Ok(())),
            0 => {}
            code => return Some(Err(io::Error::from_raw_os_error(code.saturating_neg()))),
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
        assert!(matches!(interpret(&message(5, 0), 5), Some(Ok(()))));
        assert!(interpret(&message(4, 0), 5).is_none());
        let error = interpret(&[message(4, 0), message(3, -1)].concat(), 5).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(1));
        for cut in 0..36 {
            assert!(interpret(&message(5, 0)[..cut], 5).is_none(), "{cut}");
        }
    }
}
