//! LISTEN (RFC 9293 §3.10.7.2), and which listener a segment comes to.

use super::demux::Entry;
use super::reset::check_addresses;
use super::syn_queue::{HalfOpen, Ours};
use super::{Disposition, MtuOf, Reply, Stack, SynCookies};
use crate::config::ConnConfig;
use crate::error::DropReason;
use crate::seq::SeqNum;
use crate::time::Instant;
use crate::wire::{Flags, FourTuple, Segment};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// The queue from which the application accepts, as far as the stack sees it.
pub trait AcceptQueue {
    /// Whether one more connection fits.
    fn has_room(&self) -> bool;
}

/// The settings of a listener.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// Whether a listener on `[::]` takes IPv6 only.
    pub v6only: bool,
    /// Whether the kernel has connections on this port: then an ACK in LISTEN may belong to one of
    /// them, and is [`Unclaimed`](Disposition::Unclaimed) instead of answered with a reset.
    pub shared: bool,
    /// Half-open connections of this listener, in this shard; `usize::MAX`: only the stack's own bound.
    pub max_half_open: usize,
    /// The MTU to announce a segment size for where the peer's path is unknown: the device's. Bytes of
    /// IP packet. [`Stack::on_segment_with_mtu`] asks for each peer's instead.
    pub mtu: u32,
    /// The settings of the connections.
    pub conn: Arc<ConnConfig>,
}

/// A listener's name: never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListenerId(u64);

pub(super) struct Listener<L> {
    pub(super) handle: L,
    pub(super) config: ListenConfig,
    pub(super) half_open: usize,
}

pub(super) struct Listeners<L> {
    by_address: BTreeMap<SocketAddr, ListenerId>,
    listeners: BTreeMap<ListenerId, Listener<L>>,
    next: u64,
}

impl<L> Listeners<L> {
    pub(super) fn new() -> Self {
        Listeners { by_address: BTreeMap::new(), listeners: BTreeMap::new(), next: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.listeners.len()
    }

    /// Half-open connections of all listeners.
    #[cfg(test)]
    pub(super) fn half_open(&self) -> usize {
        self.listeners.values().map(|l| l.half_open).sum()
    }

    pub(super) fn insert(&mut self, local: SocketAddr, handle: L, config: ListenConfig) {
        let id = ListenerId(self.next);
        self.next += 1;
        self.by_address.insert(canonical(local), id);
        self.listeners.insert(id, Listener { handle, config, half_open: 0 });
    }

    pub(super) fn remove(&mut self, local: SocketAddr) -> Option<ListenerId> {
        let id = self.by_address.remove(&canonical(local))?;
        self.listeners.remove(&id);
        Some(id)
    }

    pub(super) fn get(&self, id: ListenerId) -> Option<&Listener<L>> {
        self.listeners.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ListenerId) -> Option<&mut Listener<L>> {
        self.listeners.get_mut(&id)
    }

    /// The most specific listener for segments to this address.
    pub(super) fn find(&self, local: &SocketAddr) -> Option<ListenerId> {
        let at = |addr: SocketAddr| self.by_address.get(&addr).copied();
        let port = local.port();
        let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        at(*local).or_else(|| match local {
            SocketAddr::V4(_) => at((Ipv4Addr::UNSPECIFIED, port).into())
                .or_else(|| at(any_v6).filter(|id| self.get(*id).is_some_and(|l| !l.config.v6only))),
            SocketAddr::V6(a) => at((*a.ip(), port).into()).or_else(|| at(any_v6)),
        })
    }
}

/// As tuples have them, and IPv4 as IPv4.
fn canonical(local: SocketAddr) -> SocketAddr {
    let local = match local.ip().to_canonical() {
        v4 @ std::net::IpAddr::V4(_) => SocketAddr::new(v4, local.port()),
        std::net::IpAddr::V6(_) => local,
    };
    FourTuple::new(local, local).local
}

impl<C: Clone, L: Clone + AcceptQueue> Stack<C, L> {
    /// RFC 9293 §3.10.7.2, for a segment without an entry of its own.
    pub(super) fn in_listen(
        &mut self,
        now: Instant,
        tuple: &FourTuple,
        id: ListenerId,
        seg: &Segment<'_>,
        mtu_of: &mut MtuOf<'_>,
    ) -> Result<Disposition<C, L>, DropReason> {
        check_addresses(tuple)?;
        let flags = seg.header.flags;
        // RFC 9293 §3.10.7.2, first: a RST answers nothing that was sent from here.
        if flags.contains(Flags::RST) {
            return Err(DropReason::NoConnection);
        }
        // RFC 9293 §3.10.7.2, second: <SEQ=SEG.ACK><CTL=RST>, unless it ends a handshake that left no trace.
        if flags.contains(Flags::ACK) {
            if let Some(cookie) = self.find_cookie(now, tuple, seg) {
                return self.accept_cookie(now, tuple, id, seg, cookie, mtu_of);
            }
            if self.listeners.get(id).is_some_and(|l| l.config.shared) {
                return Ok(Disposition::Unclaimed);
            }
            return self.limited_reset(now, tuple, seg).map(Disposition::Reply);
        }
        // RFC 9293 §3.10.7.2, fourth.
        if !flags.contains(Flags::SYN) {
            return Err(DropReason::ListenNoSyn);
        }
        // A SYN with our own address on both sides would have the stack shake hands with itself.
        if tuple.local == tuple.remote {
            return Err(DropReason::Address);
        }
        let reply = if self.wants_cookie(id) {
            self.send_cookie(now, tuple, id, seg, mtu_of)
        } else {
            let iss = self.isn(now, tuple);
            self.open(now, tuple, id, seg, iss, mtu_of)
        };
        reply.map(Disposition::Reply)
    }

    fn wants_cookie(&self, id: ListenerId) -> bool {
        match self.config.syn_cookies {
            SynCookies::Never => false,
            SynCookies::WhenFull => self.is_syn_queue_full(id),
            SynCookies::Always => true,
        }
    }

    fn is_syn_queue_full(&self, id: ListenerId) -> bool {
        let full = |listener: &Listener<L>| listener.half_open >= listener.config.max_half_open;
        self.half_open.len() >= self.config.max_half_open || self.listeners.get(id).is_some_and(full)
    }

    /// RFC 9293 §3.10.7.2, third: a SYN becomes a half-open record and a SYN-ACK.
    pub(super) fn open(
        &mut self,
        now: Instant,
        tuple: &FourTuple,
        id: ListenerId,
        seg: &Segment<'_>,
        iss: SeqNum,
        mtu_of: &mut MtuOf<'_>,
    ) -> Result<Reply, DropReason> {
        let listener = self.listeners.get(id).ok_or(DropReason::NoConnection)?;
        // As Linux: a handshake that could not be accepted is better begun later.
        if !listener.handle.has_room() {
            return Err(DropReason::AcceptQueueFull);
        }
        if self.is_syn_queue_full(id) {
            return Err(DropReason::SynQueueFull);
        }
        let ours = Ours { iss, ts_offset: self.ts_offset(tuple), mtu: mtu_of(tuple, listener.config.mtu) };
        let half = HalfOpen::new(now, tuple, (&seg.header, seg.ecn), id, &listener.config, ours);
        let reply = half.syn_ack(now, tuple, &listener.config.conn);
        let deadline = now + half.rto(&listener.config.conn);
        self.vacate(tuple);
        let slot = self.half_open.insert(*tuple, deadline, half);
        self.table.insert(*tuple, Entry::Half(slot));
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.half_open += 1;
        }
        self.counters.syn_acks += 1;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(v6only: bool) -> ListenConfig {
        ListenConfig { v6only, shared: false, max_half_open: 10, mtu: 1500, conn: Arc::new(ConnConfig::default()) }
    }

    #[test]
    fn the_most_specific_listener_is_found() {
        let mut all = Listeners::new();
        let listeners = [
            ("10.0.0.1:80", false),
            ("0.0.0.0:80", false),
            ("[::]:80", false),
            ("[2001:db8::1]:80", false),
            ("[::]:81", false),
            ("[::]:82", true),
            ("[fe80::1%3]:83", false),
            ("[fe80::1]:84", false),
            ("[::ffff:10.0.0.9]:85", false),
        ];
        for (addr, v6only) in listeners {
            all.insert(addr.parse().unwrap(), addr, config(v6only));
        }
        let table = [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("10.0.0.2:80", Some("0.0.0.0:80")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]:80")),
            ("[2001:db8::2]:80", Some("[::]:80")),
            ("10.0.0.1:81", Some("[::]:81")),
            ("10.0.0.1:82", None),
            ("[2001:db8::2]:82", Some("[::]:82")),
            ("[fe80::1%3]:83", Some("[fe80::1%3]:83")),
            ("[fe80::1%4]:83", None),
            ("[fe80::1%4]:84", Some("[fe80::1]:84")),
            ("10.0.0.9:85", Some("[::ffff:10.0.0.9]:85")),
            ("10.0.0.1:86", None),
        ];
        for (local, expected) in table {
            let found = all.find(&local.parse().unwrap()).and_then(|id| all.get(id)).map(|l| l.handle);
            assert_eq!(found, expected, "{local}");
        }
        assert!(all.remove("0.0.0.0:80".parse().unwrap()).is_some());
        let found = all.find(&"10.0.0.2:80".parse().unwrap()).and_then(|id| all.get(id)).map(|l| l.handle);
        assert_eq!(found, Some("[::]:80"));
    }
}
