//! Which ports are ours: the guards, who leans on them, and the choice of a client port.
//!
//! One guard per (local address, port) serves every peer. It lives until the last listener, connection
//! and TIME-WAIT record on it is gone; guards of client ports rest in a bounded pool after that. At most
//! one guard covers an address and port, so that whoever leaves needs only its address to find it.

use crate::device::{Devices, Reservation};
use crate::error;
use crate::sync::{Mutex, MutexGuard, lock};
use rawtcp_io::PortSet;
use rawtcp_proto::stack::PortChooser;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

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
    v6only: bool,
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

    /// Reserves an address and port for a listener; says which port it is and whether it is shared with
    /// the kernel.
    pub(crate) fn listen(&self, devices: &Devices, addr: SocketAddr, v6only: bool) -> io::Result<(SocketAddr, bool)> {
        let mut freed = Vec::new();
        let mut inner = self.lock();
        let addr = if addr.port() == 0 && !devices.chooses_ports() {
            with_port(addr, inner.free_port(addr).ok_or_else(|| error::os(error::EADDRNOTAVAIL))?)
        } else {
            addr
        };
        inner.make_way(addr, v6only, &mut freed)?;
        // The kernel would refuse the port while the idle guard of it lives.
        drop(freed);
        let at = match inner.covering(addr).filter(|_| addr.port() != 0) {
            Some(at) => at,
            None => inner.add(devices, addr, v6only, false)?,
        };
        inner.settle_idle(at);
        let guarded = inner.guards.get_mut(&at).ok_or_else(|| error::os(error::EINVAL))?;
        guarded.users += 1;
        guarded.listener = true;
        guarded.client = false;
        Ok((with_port(addr, at.port()), guarded.reservation.is_shared()))
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

    /// A connection came to a listener's port.
    pub(crate) fn retain(&self, local: SocketAddr) {
        let mut inner = self.lock();
        if let Some(guarded) = inner.covering(local).and_then(|at| inner.guards.get_mut(&at)) {
            guarded.users += 1;
        }
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
        if inner.guards.len() >= inner.limit {
            return Err(error::os(error::EADDRNOTAVAIL));
        }
        let request = if devices.chooses_ports() {
            source
        } else {
            with_port(source, inner.free_port(source).ok_or_else(|| error::os(error::EADDRNOTAVAIL))?)
        };
        let at = inner.add(devices, request, true, true)?;
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

impl Inner {
    /// The guard that covers an address and port: there is at most one.
    fn covering(&self, local: SocketAddr) -> Option<SocketAddr> {
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

    /// Whether a new guard would overlap this one.
    fn overlaps(addr: SocketAddr, v6only: bool, other: SocketAddr, guarded: &Guarded) -> bool {
        let any = |addr: SocketAddr| addr.ip().is_unspecified();
        addr.port() == other.port()
            && match (addr.is_ipv4(), other.is_ipv4()) {
                (true, true) | (false, false) => addr.ip() == other.ip() || any(addr) || any(other),
                (false, true) => any(addr) && !v6only,
                (true, false) => any(other) && !guarded.v6only,
            }
    }

    /// Refuses a listener where another listens or a connect has taken the port; takes out idle client
    /// guards that are in its way.
    fn make_way(&mut self, addr: SocketAddr, v6only: bool, freed: &mut Vec<Guarded>) -> io::Result<()> {
        if addr.port() == 0 {
            return Ok(());
        }
        let covering = self.covering(addr);
        let mut idle = Vec::new();
        for (&other, guarded) in &self.guards {
            if !Self::overlaps(addr, v6only, other, guarded) {
                continue;
            }
            if guarded.listener || guarded.client && guarded.users > 0 {
                return Err(error::os(error::EADDRINUSE));
            }
            if guarded.users == 0 {
                idle.push(other);
            } else if covering != Some(other) {
                // A narrower guard with connections of a former listener: the kernel would refuse too.
                return Err(error::os(error::EADDRINUSE));
            }
        }
        for at in idle {
            self.settle_idle(at);
            freed.extend(self.take(at));
        }
        Ok(())
    }

    /// A port that no guard has, where nobody else knows of ports.
    fn free_port(&mut self, addr: SocketAddr) -> Option<u16> {
        let (chooser, guards) = (&mut self.chooser, &self.guards);
        let taken = |port: u16| guards.keys().any(|at| at.port() == port);
        let free = |at: usize| !taken(OWN_RANGE.start + at as u16);
        chooser.choose(addr.ip(), addr, OWN_RANGE.len(), free).map(|at| OWN_RANGE.start + at as u16)
    }

    fn add(&mut self, devices: &Devices, addr: SocketAddr, v6only: bool, client: bool) -> io::Result<SocketAddr> {
        let reservation = devices.reserve(addr, v6only)?;
        let at = with_port(addr, reservation.local_addr().port());
        let guarded = Guarded { reservation, users: 0, listener: false, client, v6only };
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
        self.filter = self.on_port.keys().copied().collect();
        self.stale = 0;
        devices.set_ports(&self.filter)
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
    fn a_port_is_ours_until_its_last_user_is_gone() {
        let (ports, devices) = (Ports::new(&[1; 32]), devices());
        let at = addr("10.0.0.1:80");
        ports.listen(&devices, addr("0.0.0.0:80"), false).unwrap();
        ports.retain(at);
        ports.unlisten(&devices, addr("0.0.0.0:80"));
        assert_eq!(ports.ownership(at), Ownership::Ours);
        // Only a connection is left: a new listener takes over the guard, narrower or not.
        ports.listen(&devices, at, false).unwrap();
        assert_eq!(ports.listen(&devices, at, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        ports.release(&devices, at);
        ports.unlisten(&devices, at);
        assert_eq!((ports.ownership(at), ports.len()), (Ownership::NotOurs, 0));
        assert!(ports.has_no_users());
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
