//! Which ports are ours: the guards, who leans on them, and the choice of a client port.
//!
//! One guard per (local address, port) serves every peer. It lives until the last listener, connection
//! and TIME-WAIT record on it is gone; guards of client ports rest in a bounded pool after that. At most
//! one guard covers an address and port, so that whoever leaves needs only its address to find it.

mod avoided;
mod client;
mod spared;
mod stock;

use crate::device::{Devices, Reservation};
use crate::error;
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use avoided::Avoided;
use client::MAX_TRIES;
use rawtcp_io::PortSet;
use rawtcp_proto::FourTuple;
use rawtcp_proto::stack::PortChooser;
pub(crate) use spared::Ingress;
use spared::{Sparing, Teller};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use stock::Stock;

/// Guards of client ports kept without a user: the next connects need no new one.
const MAX_IDLE: usize = 64;

/// Ports which nobody uses any more may stay in the devices' filters until there are this many, or as many as are used.
const MAX_STALE: usize = 16;

/// The devices' filters are exact for so many ports. To give a socket another program takes the kernel the better part of
/// a millisecond, so of more ports they get a rough superset, which a new port seldom changes.
const MAX_EXACT: usize = 32;

/// Of more client ports than that all of Linux's range for them are let through, and outside of it whole blocks: the kernel gives them
/// out at random, and another block costs another program.
const ROUGH_BLOCK: u16 = 4096;

/// Ranges of a rough filter: what listens apart from the client ports shall not open all between.
const ROUGH_RANGES: usize = 8;

/// Client ports where the stack chooses by itself: as Linux's `ip_local_port_range` by default.
const OWN_RANGE: std::ops::Range<u16> = 32_768..61_000;

/// Whether a segment to an address and port is ours to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    NotOurs,
    Ours {
        /// Somebody listens there.
        listens: bool,
    },
    /// The kernel has connections on the port too.
    Shared,
}

#[derive(Debug)]
struct Guarded {
    /// Has the guard live until the kernel knows that what comes to the port is its own again.
    spared: Option<Sparing>,
    reservation: Arc<Reservation>,
    /// Listeners, connections and TIME-WAIT records.
    users: usize,
    listener: bool,
    /// Made for connects: may serve further connects.
    client: bool,
    /// Some socket on it was bound without SO_REUSEADDR.
    exclusive: bool,
    /// All sockets on it were bound with SO_REUSEPORT.
    reuseport: bool,
    v6only: bool,
    /// Connects from it as a client port, up to as many as make it busy.
    connects: u8,
}

/// What a socket allows others that are bound to its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reuse {
    /// SO_REUSEADDR: connections of a former listener, and sockets that do not listen.
    pub(crate) addr: bool,
    /// SO_REUSEPORT: everyone of this stack who has it too, and the same address.
    pub(crate) port: bool,
}

/// What to bind.
#[derive(Clone, Debug)]
pub(crate) struct Bind {
    pub(crate) addr: SocketAddr,
    pub(crate) v6only: bool,
    pub(crate) reuse: Reuse,
    /// Receive by this interface only.
    pub(crate) device: Option<String>,
}

/// The table of guards.
#[derive(Debug)]
pub(crate) struct Ports {
    inner: Mutex<Inner>,
    teller: Teller,
    stock: Stock,
}

#[derive(Debug)]
struct Inner {
    guards: HashMap<SocketAddr, Guarded>,
    /// The client ports of each address, in an order that changes only when one goes.
    clients: HashMap<SocketAddr, Vec<u16>>,
    idle: VecDeque<SocketAddr>,
    chooser: PortChooser,
    avoided: Avoided,
    /// Guards on each port, whatever their address.
    on_port: HashMap<u16, usize>,
    filter: PortSet,
    stale: usize,
    /// Guards that may exist at once.
    limit: usize,
    /// Client ports that the next connect looks at before it takes a new one.
    tries: usize,
}

/// The soft limit of open files, of which guards take at most three quarters: the program needs some too.
fn guard_limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(1024);
    soft / 4 * 3
}

fn with_port(addr: SocketAddr, port: u16) -> SocketAddr {
    let mut addr = addr;
    addr.set_port(port);
    addr
}

/// The address as segments show it: mapped IPv4 is IPv4, and only a link-local address has a scope. Guards are
/// known by it; the kernel is asked, and the user told, in the user's words.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip @ IpAddr::V4(_) => (ip, addr.port()).into(),
        IpAddr::V6(_) => FourTuple::new(addr, addr).local,
    }
}

impl Ports {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let inner = Inner {
            guards: HashMap::new(),
            clients: HashMap::new(),
            idle: VecDeque::new(),
            chooser: PortChooser::new(seed),
            avoided: Avoided::default(),
            on_port: HashMap::new(),
            filter: PortSet::new(),
            stale: 0,
            limit: usize::MAX,
            tries: MAX_TRIES,
        };
        Ports { inner: Mutex::new(inner), teller: Teller::default(), stock: Stock::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// How many guards there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().guards.len()
    }

    /// Whether no listener, connection or TIME-WAIT record is left.
    pub(crate) fn has_no_users(&self) -> bool {
        self.lock().guards.values().all(|guarded| guarded.users == 0)
    }

    /// Whether a segment to this address and port is ours to answer.
    pub(crate) fn ownership(&self, local: SocketAddr) -> Ownership {
        let inner = self.lock();
        match inner.covering(local).and_then(|at| inner.guards.get(&at)) {
            None => Ownership::NotOurs,
            Some(guarded) if guarded.reservation.is_shared() => Ownership::Shared,
            Some(guarded) => Ownership::Ours { listens: guarded.listener },
        }
    }

    /// Reserves an address and port for a socket, which is a user of it from here on; says which port it is.
    pub(crate) fn bind(&self, devices: &Devices, request: &Bind) -> io::Result<SocketAddr> {
        match self.try_bind(devices, request) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && self.makes_way(request.addr.port()) => {
                self.try_bind(devices, request)
            }
            result => result,
        }
    }

    /// Whether a guard of ours has gone that nobody used: one made in advance, or one that waited for the kernel to be told
    /// of its end.
    fn makes_way(&self, port: u16) -> bool {
        let in_stock = self.stock.give_up(port);
        self.teller.settle() || in_stock
    }

    fn try_bind(&self, devices: &Devices, request: &Bind) -> io::Result<SocketAddr> {
        // What connections hold of a wider address may be shared, but not by others than its owner.
        devices.check_address(request.addr)?;
        let mut inner = self.lock();
        let mut request = request.clone();
        if request.addr.port() == 0 && !devices.chooses_ports() {
            let port = inner.free_port(request.addr).ok_or_else(|| error::os(error::EADDRNOTAVAIL))?;
            request.addr.set_port(port);
        }
        let addr = request.addr;
        if inner.on_port.contains_key(&addr.port()) {
            // If nothing has to be reserved, nobody else says that the address is not there.
            devices.check_shared_address(&request)?;
        }
        let at = match inner.join(&request)? {
            Some(at) => at,
            None => {
                let reservation = devices.reserve(addr, request.v6only, request.device.as_deref())?;
                inner.put(devices, &request, reservation, false)?
            }
        };
        inner.add_user(at);
        Ok(with_port(addr, at.port()))
    }

    /// Takes over what a socket reserved before it had a stack.
    pub(crate) fn adopt(&self, devices: &Devices, request: &Bind, reservation: Reservation) -> io::Result<()> {
        let mut inner = self.lock();
        let at = match inner.join(request)? {
            Some(at) => at,
            None => inner.put(devices, request, reservation, false)?,
        };
        inner.add_user(at);
        Ok(())
    }

    /// A bound socket begins to listen; says whether the port is shared with the kernel. Where several do,
    /// all of them have SO_REUSEPORT.
    pub(crate) fn begin_listen(&self, local: SocketAddr) -> io::Result<bool> {
        let mut inner = self.lock();
        let at = inner.covering(local).ok_or_else(|| error::os(error::EINVAL))?;
        let guarded = inner.guards.get_mut(&at).ok_or_else(|| error::os(error::EINVAL))?;
        if guarded.listener && !guarded.reuseport {
            return Err(error::os(error::EADDRINUSE));
        }
        guarded.listener = true;
        Ok(guarded.reservation.is_shared())
    }

    /// A bound socket connects: `claim` as for [`connect`](Self::connect).
    pub(crate) fn connect_bound<R>(
        &self,
        local: SocketAddr,
        claim: impl FnOnce(SocketAddr) -> Option<(R, bool)>,
    ) -> io::Result<R> {
        let mut inner = self.lock();
        let at = inner.covering(local).ok_or_else(|| error::os(error::EINVAL))?;
        // What the kernel says of a four-tuple that is taken.
        let (result, took_over) = claim(local).ok_or_else(|| error::os(error::EADDRNOTAVAIL))?;
        if !took_over {
            inner.add_user(at);
        }
        Ok(result)
    }

    /// The listener is gone.
    pub(crate) fn unlisten(&self, devices: &Devices, local: SocketAddr) {
        let freed = {
            let mut inner = self.lock();
            if let Some(guarded) = inner.covering(local).and_then(|at| inner.guards.get_mut(&at)) {
                guarded.listener = false;
            }
            inner.release(devices, local)
        };
        let spared = freed.as_ref().is_some_and(|guarded| guarded.spared.is_some());
        drop(freed);
        if spared {
            // The port is anybody's when this returns.
            self.teller.settle();
        }
    }

    /// A connection came to a listener's port. `false`: the port is not ours any more, and there is nothing to
    /// be given back.
    #[must_use]
    pub(crate) fn retain(&self, local: SocketAddr) -> bool {
        let mut inner = self.lock();
        let at = inner.covering(local);
        if let Some(at) = at {
            inner.add_user(at);
        }
        at.is_some()
    }

    /// A connection or TIME-WAIT record is gone. Its port, if it was busy, may be free a little later only: this is the
    /// driver, which does not wait for the kernel.
    pub(crate) fn release(&self, devices: &Devices, local: SocketAddr) {
        let freed = self.lock().release(devices, local);
        drop(freed);
    }

    /// The stack has ended: the kernel answers for all ports again.
    pub(crate) fn abandon(&self) {
        self.stock.close();
        let mut inner = self.lock();
        let gone = std::mem::take(&mut inner.guards);
        inner.clients.clear();
        inner.idle.clear();
        inner.on_port.clear();
        drop(inner);
        drop(gone);
        // Waits also for what the driver has given back.
        self.teller.settle();
    }
}

impl Inner {
    /// The guard that covers an address and port: there is at most one.
    fn covering(&self, local: SocketAddr) -> Option<SocketAddr> {
        let local = canonical(local);
        let port = local.port();
        let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let has = |at: SocketAddr| self.guards.contains_key(&at).then_some(at);
        let dual = || has(any_v6).filter(|at| !self.guards[at].v6only);
        match local {
            SocketAddr::V4(_) => has(local).or_else(|| has(any_v4)).or_else(dual),
            SocketAddr::V6(a) => has(local).or_else(|| has(SocketAddr::from((*a.ip(), port)))).or_else(|| has(any_v6)),
        }
    }

    /// Whether a new guard would overlap this one. Canonical addresses.
    fn overlaps(addr: SocketAddr, v6only: bool, other: SocketAddr, guarded: &Guarded) -> bool {
        let any = |addr: SocketAddr| addr.ip().is_unspecified();
        addr.port() == other.port()
            && match (addr.is_ipv4(), other.is_ipv4()) {
                (true, true) | (false, false) => addr.ip() == other.ip() || any(addr) || any(other),
                (false, true) => any(addr) && !v6only,
                (true, false) => any(other) && !guarded.v6only,
            }
    }

    /// Finds the guard that a socket may share, or makes way for a new one: idle client guards go.
    /// Refuses where the kernel would.
    fn join(&mut self, request: &Bind) -> io::Result<Option<SocketAddr>> {
        let &Bind { addr, v6only, reuse, .. } = request;
        let addr = canonical(addr);
        if addr.port() == 0 {
            return Ok(None);
        }
        let covering = self.covering(addr);
        let mut idle = Vec::new();
        for (&other, guarded) in &self.guards {
            if !Self::overlaps(addr, v6only, other, guarded) {
                continue;
            }
            if guarded.users == 0 {
                idle.push(other);
                continue;
            }
            if reuse.port && guarded.reuseport && other == addr {
                continue;
            }
            let refused = guarded.listener || guarded.client || guarded.exclusive || !reuse.addr;
            // A narrower guard with connections of a former listener: the kernel would refuse too. And what a
            // guard for IPv6 only lets the kernel answer cannot be had from it.
            let narrower = covering != Some(other) || guarded.v6only && !v6only && addr == other;
            if refused || narrower {
                return Err(error::os(error::EADDRINUSE));
            }
        }
        for at in idle {
            self.settle_idle(at);
            // With the lock: the kernel would refuse the port while the idle guard of it lives.
            drop(self.take(at));
        }
        let found = self.covering(addr);
        if let Some(guarded) = found.and_then(|at| self.guards.get_mut(&at)) {
            guarded.exclusive |= !reuse.addr;
            guarded.reuseport &= reuse.port;
        }
        Ok(found)
    }

    fn add_user(&mut self, at: SocketAddr) {
        self.settle_idle(at);
        if let Some(guarded) = self.guards.get_mut(&at) {
            guarded.users += 1;
        }
    }

    /// Puts a new guard into the tables, without a user yet.
    fn put(
        &mut self,
        devices: &Devices,
        request: &Bind,
        reservation: Reservation,
        client: bool,
    ) -> io::Result<SocketAddr> {
        let &Bind { addr, v6only, reuse, .. } = request;
        if reservation.is_shared() && !reuse.addr {
            // The kernel still has connections there.
            return Err(error::os(error::EADDRINUSE));
        }
        let at = canonical(with_port(addr, reservation.local_addr().port()));
        let (exclusive, reuseport) = (!reuse.addr, reuse.port);
        let guarded = Guarded {
            spared: None,
            reservation: Arc::new(reservation),
            users: 0,
            listener: false,
            client,
            exclusive,
            reuseport,
            v6only,
            connects: u8::from(client),
        };
        *self.on_port.entry(at.port()).or_default() += 1;
        let replaced = self.guards.insert(at, guarded);
        debug_assert!(replaced.is_none(), "two guards on {at}");
        if let Err(error) = self.filter(devices, at.port()) {
            drop(self.take(at));
            return Err(error);
        }
        Ok(at)
    }

    /// Lets segments to a new port through, and no more to those that went.
    fn filter(&mut self, devices: &Devices, port: u16) -> io::Result<()> {
        if self.filter.contains(port) {
            return Ok(());
        }
        self.refilter(devices)
    }

    fn refilter(&mut self, devices: &Devices) -> io::Result<()> {
        let mut filter = PortSet::new();
        let is_rough = self.on_port.len() > MAX_EXACT;
        if is_rough {
            for &port in self.clients.values().flatten().filter(|port| !OWN_RANGE.contains(port)) {
                // Below, servers of other programs would be in it.
                let within = if port < OWN_RANGE.start { 0xff } else { ROUGH_BLOCK - 1 };
                filter.insert_range(port & !within..=port | within);
            }
            if self.clients.values().flatten().any(|port| OWN_RANGE.contains(port)) {
                filter.insert_range(OWN_RANGE.start..=OWN_RANGE.end - 1);
            }
        }
        let mut ports: Vec<u16> = self.on_port.keys().copied().collect();
        // A set takes them best in their order.
        ports.sort_unstable();
        filter.extend(ports);
        if is_rough {
            filter = filter.coarsened(ROUGH_RANGES);
        }
        // Until it is known to be so everywhere, every new port is reason to try again.
        self.filter = PortSet::new();
        devices.set_ports(&filter)?;
        self.filter = filter;
        self.stale = 0;
        Ok(())
    }

    /// Takes a guard out of all tables.
    fn take(&mut self, at: SocketAddr) -> Option<Guarded> {
        let guarded = self.guards.remove(&at)?;
        if let Some(count) = self.on_port.get_mut(&at.port()) {
            *count -= 1;
            if *count == 0 {
                self.on_port.remove(&at.port());
                self.stale += 1;
            }
        }
        let source = with_port(at, 0);
        if let Some(ports) = self.clients.get_mut(&source) {
            ports.retain(|&port| port != at.port());
            if ports.is_empty() {
                self.clients.remove(&source);
            }
        }
        Some(guarded)
    }

    /// The guard has a user again, or is about to go.
    fn settle_idle(&mut self, at: SocketAddr) {
        if self.guards.get(&at).is_some_and(|guarded| guarded.users == 0) {
            self.idle.retain(|&other| other != at);
        }
    }

    /// One user less. What is freed is to be dropped without the lock: that closes a socket.
    fn release(&mut self, devices: &Devices, local: SocketAddr) -> Option<Guarded> {
        let at = self.covering(local)?;
        let guarded = self.guards.get_mut(&at)?;
        debug_assert!(guarded.users > 0, "{local} released too often");
        guarded.users = guarded.users.saturating_sub(1);
        if guarded.users > 0 {
            return None;
        }
        let out = if guarded.client {
            self.idle.push_back(at);
            if self.idle.len() <= MAX_IDLE {
                return None;
            }
            self.idle.pop_front()?
        } else {
            at
        };
        let freed = self.take(out);
        if (self.stale >= MAX_STALE.max(self.on_port.len()) || self.guards.is_empty())
            && let Err(error) = self.refilter(devices)
        {
            // The filter lets more through than it need: that costs time, not correctness.
            tracing::debug!(%error, "a port could not be taken out of the filter");
        }
        freed
    }
}

#[cfg(test)]
mod tests;
