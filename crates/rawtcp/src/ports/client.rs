//! The choice of a client port: one that is guarded already, or a new one.

use super::{Bind, Inner, OWN_RANGE, Ports, Reuse, guard_limit, with_port};
use crate::device::{Devices, Reservation};
use crate::error;
use rawtcp_proto::{FourTuple, Instant};
use std::io;
use std::net::SocketAddr;

/// Client ports that a connect looks at before it takes a new one, where it may have one: who has tens of thousands of
/// connections to one peer would look at as many for every further one.
pub(super) const MAX_TRIES: usize = 64;

/// So many after others have found none: where each connection leaves its port in TIME-WAIT, hardly one is free.
pub(super) const MIN_TRIES: usize = 1;

impl Ports {
    /// Finds a port from which `remote` can be reached. `claim` takes the four-tuple that a local
    /// address makes, or refuses it; `true` beside its result says that it took over the place of a
    /// TIME-WAIT record. A port that is guarded already is preferred; the filters hold a new one
    /// before this returns.
    pub(crate) fn connect<R>(
        &self,
        devices: &Devices,
        now: Instant,
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
        inner.avoided.expire(now);
        if let Some((result, at)) = inner.share(source, remote, inner.tries, &mut claim) {
            inner.tries = MAX_TRIES;
            inner.note_connect(devices, at, &self.teller);
            return Ok(result);
        }
        inner.tries = (inner.tries / 2).max(MIN_TRIES);
        if inner.guards.len() >= inner.limit {
            if let Some((result, _)) = inner.share(source, remote, usize::MAX, &mut claim) {
                return Ok(result);
            }
            while inner.guards.len() >= inner.limit {
                // What rests for other sources makes way. With the lock: seldom, and its descriptor is wanted now.
                let Some(other) = inner.idle.pop_front() else { return Err(error::os(error::EADDRNOTAVAIL)) };
                drop(inner.take(other));
            }
        }
        let request = if devices.chooses_ports() {
            source
        } else {
            match inner.free_port(source) {
                Some(port) => with_port(source, port),
                None => {
                    let shared = inner.share(source, remote, usize::MAX, &mut claim);
                    return shared.map(|(result, _)| result).ok_or_else(|| error::os(error::EADDRNOTAVAIL));
                }
            }
        };
        let reservation = match self.in_stock(inner, devices, now, request) {
            Some(reservation) => reservation,
            None => devices.reserve(request, true, None)?,
        };
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

    /// A guard for a new port, if one was made in advance.
    fn in_stock(&self, inner: &Inner, devices: &Devices, now: Instant, source: SocketAddr) -> Option<Reservation> {
        if !devices.guards_cost_descriptors() {
            return None;
        }
        let room = inner.limit.saturating_sub(inner.guards.len());
        let reservation = self.stock.take(now, source, room)?;
        // Whoever began the thread may have been elsewhere.
        devices.takes(&reservation).is_ok_and(|takes| takes).then_some(reservation)
    }

    /// A connect was given up: its four-tuple is left alone for a while.
    pub(crate) fn avoid(&self, now: Instant, tuple: FourTuple) {
        self.lock().avoided.add(now, tuple);
    }
}

impl Inner {
    /// Takes a four-tuple on a client port that is guarded already, of which at most so many are tried: in the order in
    /// which this peer's were taken, so that the first is the likeliest to be free again. Says also which it is.
    fn share<R>(
        &mut self,
        source: SocketAddr,
        remote: SocketAddr,
        most: usize,
        claim: &mut impl FnMut(SocketAddr) -> Option<(R, bool)>,
    ) -> Option<(R, SocketAddr)> {
        let ports = self.clients.get(&source)?;
        let (mut claimed, mut tries) = (None, 0);
        let port = self.chooser.choose_from(source.ip(), remote, ports, |port| {
            tries += 1;
            let local = with_port(source, port);
            claimed = if self.avoided.has(&FourTuple::new(local, remote)) { None } else { claim(local) };
            claimed.is_some() || tries == most
        })?;
        let (result, took_over) = claimed?;
        let at = with_port(source, port);
        self.settle_idle(at);
        if let Some(guarded) = self.guards.get_mut(&at) {
            guarded.users += usize::from(!took_over);
        }
        Some((result, at))
    }

    /// A port that no guard has, where nobody else knows of ports.
    pub(super) fn free_port(&mut self, addr: SocketAddr) -> Option<u16> {
        let (chooser, on_port) = (&mut self.chooser, &self.on_port);
        let free = |at: usize| !on_port.contains_key(&(OWN_RANGE.start + at as u16));
        chooser.choose(addr.ip(), addr, OWN_RANGE.len(), free).map(|at| OWN_RANGE.start + at as u16)
    }
}
