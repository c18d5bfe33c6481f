//! Which ports are ours: the guards, who leans on them, and the choice of a client port.
//!
//! One guard per (local address, port) serves every peer. It lives until the last listener, connection
//! and TIME-WAIT record on it is gone; guards of client ports rest in a bounded pool after that. At most
//! one guard covers an address and port, so that whoever leaves needs only its address to find it.

use crate::device::{Devices, Reservation};
use crate::error;
use crate::sync::{Mutex, MutexGuard, lock};
use rawtcp_io::PortSet;
use rawtcp_proto::FourTuple;
use rawtcp_proto::stack::PortChooser;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Guards of client ports kept without a user: the next connects need no new one.
const MAX_IDLE: usize = 64;

/// Ports which nobody uses any more may stay in the devices' filters until there are this many.
const MAX_STALE: usize = 16;

/// Client ports where the stack chooses by itself: as Linux's `ip_local_port_range` by default.
const OWN_RANGE: std::ops::Range<u16> = 32_768..61_000;

/// Whether a segment to an address and port is ours to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    NotOurs,
    Ours,
    /// The kernel has connections on the port too.
    Shared,
}

#[derive(Debug)]
struct Guarded {
    reservation: Reservation,
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
}

#[derive(Debug)]
struct Inner {
    guards: HashMap<SocketAddr, Guarded>,
    /// The client ports of each address, in an order that changes only when one goes.
    clients: HashMap<SocketAddr, Vec<u16>>,
    idle: VecDeque<SocketAddr>,
    chooser: PortChooser,
    /// Guards on each port, whatever their address.
    on_port: HashMap<u16, usize>,
    filter: PortSet,
    stale: usize,
    /// Guards that may exist at once.
    limit: usize,
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
            on_port: HashMap::new(),
            filter: PortSet::new(),
            stale: 0,
            limit: usize::MAX,
        };
        Ports { inner: Mutex::new(inner) }
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
            Some(_) => Ownership::Ours,
        }
    }

    /// Reserves an address and port for a socket, which is a user of it from here on; says which port it is.
    pub(crate) fn bind(&self, devices: &Devices, request: &Bind) -> io::Result<SocketAddr> {
        let mut inner = self.lock();
        let mut request = request.clone();
        if request.addr.port() == 0 && !devices.chooses_ports() {
            let port = inner.free_port(request.addr).ok_or_else(|| error::os(error::EADDRNOTAVAIL))?;
            request.addr.set_port(port);
        }
        let addr = request.addr;
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
        drop(freed);
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

    /// A connection or TIME-WAIT record is gone.
    pub(crate) fn release(&self, devices: &Devices, local: SocketAddr) {
        let freed = self.lock().release(devices, local);
        drop(freed);
    }

    /// Finds a port from which `remote` can be reached. `claim` takes the four-tuple that a local
    /// address makes, or refuses it; `true` beside its result says that it took over the place of a
    /// TIME-WAIT record. A port that is guarded already is preferred; the filters hold a new one
    /// before this returns.
    pub(crate) fn connect<R>(
        &self,
        devices: &Devices,
        source: SocketAddr,
        remote: SocketAddr,
        mut claim: impl FnMut(SocketAddr) -> Option<(R, bool)>,
    ) -> io::Result<R> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if devices.guards_cost_descriptors() && inner.limit == usize::MAX {
            inner.limit = guard_limit();
        }
        let source = with_port(source, 0);
        let mut claimed = None;
        if let Some(ports) = inner.clients.get(&source) {
            let port = inner.chooser.choose_from(source.ip(), remote, ports, |port| {
                claimed = claim(with_port(source, port));
                claimed.is_some()
            });
            if let (Some(port), Some((result, took_over))) = (port, claimed.take()) {
                let at = with_port(source, port);
                inner.settle_idle(at);
                if let Some(guarded) = inner.guards.get_mut(&at) {
                    guarded.users += usize::from(!took_over);
                }
                return Ok(result);
            }
        }
        while inner.guards.len() >= inner.limit
            && let Some(other) = inner.idle.pop_front()
        {
            // What rests for other sources makes way. With the lock: seldom, and its descriptor is wanted now.
            drop(inner.take(other));
        }
        if inner.guards.len() >= inner.limit {
            return Err(error::os(error::EADDRNOTAVAIL));
        }
        let request = if devices.chooses_ports() {
            source
        } else {
            with_port(source, inner.free_port(source).ok_or_else(|| error::os(error::EADDRNOTAVAIL))?)
        };
        let reservation = devices.reserve(request, true, None)?;
        // Nobody else may listen there; the flags matter for sockets that were bound.
        let reuse = Reuse { addr: true, port: false };
        let at = inner.put(devices, &Bind { addr: request, v6only: true, reuse, device: None }, reservation, true)?;
        inner.clients.entry(source).or_default().push(at.port());
        match claim(at) {
            Some((result, _)) => {
                if let Some(guarded) = inner.guards.get_mut(&at) {
                    guarded.users += 1;
                }
                Ok(result)
            }
            None => {
                inner.idle.push_back(at);
                Err(error::os(error::EADDRNOTAVAIL))
            }
        }
    }
}

impl Ports {
    /// The stack has ended: the kernel answers for all ports again.
    pub(crate) fn abandon(&self) {
        let mut inner = self.lock();
        let gone = std::mem::take(&mut inner.guards);
        inner.clients.clear();
        inner.idle.clear();
        inner.on_port.clear();
        drop(inner);
        drop(gone);
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

    /// A port that no guard has, where nobody else knows of ports.
    fn free_port(&mut self, addr: SocketAddr) -> Option<u16> {
        let (chooser, guards) = (&mut self.chooser, &self.guards);
        let taken = |port: u16| guards.keys().any(|at| at.port() == port);
        let free = |at: usize| !taken(OWN_RANGE.start + at as u16);
        chooser.choose(addr.ip(), addr, OWN_RANGE.len(), free).map(|at| OWN_RANGE.start + at as u16)
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
        let guarded = Guarded { reservation, users: 0, listener: false, client, exclusive, reuseport, v6only };
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
        let filter: PortSet = self.on_port.keys().copied().collect();
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
        if (self.stale >= MAX_STALE || self.guards.is_empty())
            && let Err(error) = self.refilter(devices)
        {
            // The filter lets more through than it need: that costs time, not correctness.
            tracing::debug!(%error, "a port could not be taken out of the filter");
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::sync::Arc;

    fn devices() -> Devices {
        let (io, _) = rawtcp_io::mem::pair(rawtcp_io::mem::MemConfig::default());
        let addresses = ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|ip| ip.parse().unwrap()).to_vec();
        Devices::open(&Device::Own { io: Arc::new(io), addresses }).unwrap()
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const ADDR: Reuse = Reuse { addr: true, port: false };

    fn request(addr: SocketAddr, v6only: bool, reuse: Reuse) -> Bind {
        Bind { addr, v6only, reuse, device: None }
    }

    impl Ports {
        fn listen(&self, devices: &Devices, addr: SocketAddr, v6only: bool) -> io::Result<SocketAddr> {
            let local = self.bind(devices, &request(addr, v6only, ADDR))?;
            self.begin_listen(local)?;
            Ok(local)
        }
    }

    #[test]
    fn listeners_that_overlap_exclude_each_other() {
        let table = [
            ("10.0.0.1:80", false, "10.0.0.1:80", false, false),
            ("10.0.0.1:80", false, "10.0.0.2:80", false, true),
            ("10.0.0.1:80", false, "10.0.0.1:81", false, true),
            ("10.0.0.1:80", false, "0.0.0.0:80", false, false),
            ("0.0.0.0:80", false, "10.0.0.1:80", false, false),
            ("0.0.0.0:80", false, "[::]:80", false, false),
            ("0.0.0.0:80", false, "[::]:80", true, true),
            ("[::]:80", false, "10.0.0.1:80", false, false),
            ("[::]:80", true, "10.0.0.1:80", false, true),
            ("[::]:80", true, "[fd00::1]:80", true, false),
        ];
        for (first, first_v6only, second, second_v6only, fits) in table {
            let (ports, devices) = (Ports::new(&[1; 32]), devices());
            ports.listen(&devices, addr(first), first_v6only).unwrap();
            let result = ports.listen(&devices, addr(second), second_v6only);
            assert_eq!(result.is_ok(), fits, "{first} {second}");
            ports.unlisten(&devices, addr(first));
            if !fits {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::AddrInUse);
                ports.listen(&devices, addr(second), second_v6only).unwrap();
            }
        }
    }

    #[test]
    fn sockets_share_a_port_as_their_options_say() {
        let none = Reuse::default();
        let port = Reuse { addr: false, port: true };
        // First socket, whether it listens, second socket; whether that may be bound, and may listen.
        let table = [
            (none, false, none, false, false),
            (none, false, ADDR, false, false),
            (ADDR, false, none, false, false),
            (ADDR, false, ADDR, true, true),
            (ADDR, true, ADDR, false, false),
            (port, false, port, true, true),
            (port, true, port, true, true),
            (port, true, ADDR, false, false),
            (port, true, none, false, false),
        ];
        for (first, listens, second, may_bind, may_listen) in table {
            let case = format!("{first:?} {listens} {second:?}");
            let (ports, devices, at) = (Ports::new(&[1; 32]), devices(), addr("10.0.0.1:80"));
            ports.bind(&devices, &request(at, false, first)).unwrap();
            if listens {
                ports.begin_listen(at).unwrap();
            }
            let bound = ports.bind(&devices, &request(at, false, second));
            assert_eq!(bound.is_ok(), may_bind, "{case}");
            if may_bind {
                assert_eq!(ports.begin_listen(at).is_ok(), may_listen, "{case}");
                ports.release(&devices, at);
            }
            ports.release(&devices, at);
            assert_eq!(ports.len(), 0, "{case}");
        }
    }

    #[test]
    fn a_port_is_ours_until_its_last_user_is_gone() {
        let (ports, devices) = (Ports::new(&[1; 32]), devices());
        let at = addr("10.0.0.1:80");
        ports.listen(&devices, addr("0.0.0.0:80"), false).unwrap();
        assert!(ports.retain(at));
        ports.unlisten(&devices, addr("0.0.0.0:80"));
        assert_eq!(ports.ownership(at), Ownership::Ours);
        // Only a connection is left: a new listener takes over the guard, narrower or not.
        ports.listen(&devices, at, false).unwrap();
        assert_eq!(ports.listen(&devices, at, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        ports.release(&devices, at);
        ports.unlisten(&devices, at);
        assert_eq!((ports.ownership(at), ports.len()), (Ownership::NotOurs, 0));
        assert!(ports.has_no_users());
        // A connection whose listener has just gone has no share of anything.
        assert!(!ports.retain(at));
        assert_eq!(ports.len(), 0);
    }

    #[test]
    fn an_address_is_the_same_in_whatever_words() {
        let table = [
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("[::ffff:0.0.0.0]:80", "10.0.0.2:80"),
            ("[fd00::1%7]:80", "[fd00::1]:80"),
        ];
        for (words, meant) in table {
            let (ports, devices) = (Ports::new(&[1; 32]), devices());
            let local = ports.listen(&devices, addr(words), false).unwrap();
            assert_eq!((local, ports.ownership(addr(meant))), (addr(words), Ownership::Ours), "{words}");
            assert!(ports.listen(&devices, addr(meant), false).is_err(), "{words}");
            assert!(ports.retain(addr(meant)));
            ports.unlisten(&devices, local);
            ports.release(&devices, addr(meant));
            assert_eq!(ports.len(), 0, "{words}");
        }
    }

    #[test]
    fn a_guard_for_ipv6_only_does_not_serve_a_listener_for_both() {
        for (first, second, fits) in [(true, false, false), (false, true, true), (true, true, true)] {
            let (ports, devices) = (Ports::new(&[1; 32]), devices());
            ports.listen(&devices, addr("[::]:80"), first).unwrap();
            assert!(ports.retain(addr("[fd00::1]:80")));
            ports.unlisten(&devices, addr("[::]:80"));
            assert_eq!(ports.listen(&devices, addr("[::]:80"), second).is_ok(), fits, "{first} {second}");
        }
    }

    #[test]
    fn a_filter_that_could_not_be_set_is_set_again() {
        #[derive(Debug)]
        struct Refuses(std::sync::atomic::AtomicBool, Mutex<PortSet>, std::os::unix::net::UnixDatagram);
        impl rawtcp_io::PacketIo for Refuses {
            fn name(&self) -> &str {
                "refuses"
            }
            fn capabilities(&self) -> rawtcp_io::Capabilities {
                rawtcp_io::Capabilities { mtu: 1500, max_segmentable: 0, tx_checksum: false, max_batch: 1 }
            }
            fn recv(&self, _: &mut rawtcp_io::RxBatch) -> io::Result<rawtcp_io::Drained> {
                Ok(rawtcp_io::Drained::Yes)
            }
            fn send(&self, packets: &[rawtcp_io::TxPacket<'_>]) -> (usize, Option<rawtcp_io::SendError>) {
                (packets.len(), None)
            }
            fn ready_source(&self) -> rawtcp_io::ReadySource<'_> {
                rawtcp_io::ReadySource::Fd(std::os::fd::AsFd::as_fd(&self.2))
            }
            fn drops(&self) -> u64 {
                0
            }
            fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
                if self.0.swap(false, std::sync::atomic::Ordering::SeqCst) {
                    return Err(error::os(error::EINVAL));
                }
                *lock(&self.1) = ports.clone();
                Ok(())
            }
            fn recv_queue_bytes(&self) -> usize {
                0
            }
        }
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let io = Arc::new(Refuses(true.into(), Mutex::default(), socket));
        let addresses = vec!["10.0.0.1".parse().unwrap()];
        let devices = Devices::open(&Device::Own { io: io.clone(), addresses }).unwrap();
        let ports = Ports::new(&[1; 32]);
        assert!(ports.listen(&devices, addr("10.0.0.1:80"), false).is_err());
        assert_eq!(ports.len(), 0);
        ports.listen(&devices, addr("10.0.0.1:80"), false).unwrap();
        assert!(lock(&io.1).contains(80));
    }

    #[test]
    fn connects_share_ports_and_leave_them_to_rest() {
        let (ports, devices) = (Ports::new(&[1; 32]), devices());
        let source = addr("10.0.0.1:0");
        let taken = std::cell::RefCell::new(std::collections::HashSet::new());
        let connect = |peer: SocketAddr| {
            ports.connect(&devices, source, peer, |local| {
                taken.borrow_mut().insert((local, peer)).then_some((local, false))
            })
        };
        let peers: Vec<_> = (1..=20).map(|port| SocketAddr::from(([10, 9, 9, 9], port))).collect();
        let mut locals = Vec::new();
        for _ in 0..5 {
            locals.extend(peers.iter().map(|peer| connect(*peer).unwrap()));
        }
        assert!(ports.len() <= 10, "{}", ports.len());
        // A listener may not have a port in use, but one that rests.
        assert!(ports.listen(&devices, locals[0], false).is_err());
        locals.iter().for_each(|local| ports.release(&devices, *local));
        assert!(ports.has_no_users() && ports.len() > 0);
        ports.listen(&devices, locals[0], false).unwrap();
        ports.unlisten(&devices, locals[0]);
        // A TIME-WAIT record's place is taken over with its share of the guard.
        let local = ports.connect(&devices, source, peers[0], |local| Some((local, false))).unwrap();
        ports.release(&devices, local);
        assert!(ports.has_no_users());
    }

    #[test]
    fn idle_guards_are_bounded() {
        let (ports, devices) = (Ports::new(&[1; 32]), devices());
        let peer = addr("10.9.9.9:1");
        let mut used = std::collections::HashSet::new();
        let mut locals = Vec::new();
        for _ in 0..200 {
            let claim = |local| used.insert(local).then_some((local, false));
            locals.push(ports.connect(&devices, addr("10.0.0.2:0"), peer, claim).unwrap());
        }
        assert_eq!(ports.len(), 200);
        locals.iter().for_each(|local| ports.release(&devices, *local));
        assert_eq!(ports.len(), MAX_IDLE);
    }
}
