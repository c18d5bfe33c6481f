//! Guards made in advance, by a thread: a connect that waits for a new one spends a seventh of its time on it.
//!
//! Only who needs one new port after the other has some in stock, and when no more are needed they go, and so does the
//! thread. The kernel chooses their ports. They are nobody's yet: a bind of ours that wants one of these ports gets it.

use crate::device::Reservation;
use rawtcp_io::{Guard, GuardRequest};
use rawtcp_proto::Instant;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// New ports in a row for which no guards are made in advance.
const PATIENCE: u32 = 16;

/// Guards in stock for one local address, at most.
const MOST: usize = 256;

/// Local addresses with a stock.
const SOURCES: usize = 8;

/// A row ends when no new port was needed for so long.
const ROW: Duration = Duration::from_millis(100);

/// How long a stock is kept that nobody takes from.
const KEPT: Duration = Duration::from_secs(1);

/// Of one local address.
#[derive(Debug)]
struct Source {
    /// New ports that were needed in a row.
    needed: u32,
    last: Instant,
    ready: Vec<Guard>,
    /// Guards yet to be made, and the one that is being made.
    ordered: usize,
}

#[derive(Debug, Default)]
struct State {
    sources: HashMap<SocketAddr, Source>,
    /// New ports ever needed.
    needed: u64,
    /// The thread is there.
    at_work: bool,
    /// The stack has ended.
    over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The guards in stock.
#[derive(Debug, Default)]
pub(super) struct Stock(Arc<Shared>);

impl Stock {
    /// A new port of this address is needed. Has guards made if more will be, as many as there is room for.
    pub(super) fn take(&self, now: Instant, source: SocketAddr, room: usize) -> Option<Reservation> {
        let mut state = self.0.lock();
        if state.over {
            return None;
        }
        if state.sources.len() >= SOURCES && !state.sources.contains_key(&source) {
            // Those whose row has ended, and which have nothing, make room.
            state.sources.retain(|_, other| other.is_wanted(now));
            if state.sources.len() >= SOURCES {
                return None;
            }
        }
        state.needed += 1;
        let room = room.saturating_sub(state.len());
        let own = state.sources.entry(source).or_insert_with(|| Source::new(now));
        let (taken, orders) = own.take(now, room);
        let begins = orders && !state.at_work;
        state.at_work |= orders;
        drop(state);
        if begins {
            self.begin();
        } else if orders {
            self.0.changed.notify_all();
        }
        taken.map(Reservation::Kernel)
    }

    /// Gives up what is held of a port, for somebody who wants it. `false`: nothing was.
    pub(super) fn give_up(&self, port: u16) -> bool {
        let mut state = self.0.lock();
        let found = state.sources.values_mut().find_map(|source| {
            let at = source.ready.iter().position(|guard| guard.local_addr().port() == port)?;
            Some(source.ready.swap_remove(at))
        });
        drop(state);
        found.is_some()
    }

    /// The stack has ended.
    pub(super) fn close(&self) {
        let mut state = self.0.lock();
        state.over = true;
        let gone = std::mem::take(&mut state.sources);
        drop(state);
        self.0.changed.notify_all();
        drop(gone);
    }

    /// Begins the thread, in the network namespace of the caller.
    fn begin(&self) {
        let shared = self.0.clone();
        let thread = thread::Builder::new().name("rawtcp-guards".into());
        if thread.spawn(move || shared.work()).is_err() {
            // Whoever connects makes its own.
            let mut state = self.0.lock();
            state.at_work = false;
            state.sources.values_mut().for_each(|source| source.ordered = 0);
        }
    }

    #[cfg(test)]
    fn ports(&self) -> Vec<u16> {
        let state = self.0.lock();
        state.sources.values().flat_map(|source| &source.ready).map(|guard| guard.local_addr().port()).collect()
    }
}

impl Source {
    fn new(now: Instant) -> Self {
        Source { needed: 0, last: now, ready: Vec::new(), ordered: 0 }
    }

    /// Whether there is, or will be, anything in stock, or the row goes on.
    fn is_wanted(&self, now: Instant) -> bool {
        !self.ready.is_empty() || self.ordered > 0 || now.since(self.last) < ROW
    }

    /// Says also whether guards are ordered with this.
    fn take(&mut self, now: Instant, room: usize) -> (Option<Guard>, bool) {
        if now.since(self.last) >= ROW {
            self.needed = 0;
        }
        self.last = now;
        self.needed = self.needed.saturating_add(1);
        let taken = self.ready.pop();
        let wanted = if self.needed > PATIENCE { MOST.min(self.needed as usize) } else { 0 };
        let orders = self.ready.len() + self.ordered < wanted / 2 && room > 0;
        if orders {
            self.ordered = (wanted - self.ready.len()).min(self.ordered + room);
        }
        (taken, orders)
    }
}

impl State {
    fn len(&self) -> usize {
        self.sources.values().map(|source| source.ready.len() + source.ordered).sum()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what is ordered, until nobody has needed anything for a while.
    fn work(&self) {
        let mut state = self.lock();
        let mut seen = state.needed;
        loop {
            let order = state.sources.iter().find(|(_, source)| source.ordered > 0);
            if let Some((&addr, _)) = order {
                drop(state);
                let made = Guard::bind(&GuardRequest { addr, v6only: true, device: None });
                state = self.lock();
                state = self.store(state, addr, made);
                continue;
            }
            if !state.over {
                let waited = self.changed.wait_timeout(state, KEPT).unwrap_or_else(PoisonError::into_inner);
                state = waited.0;
                if !waited.1.timed_out() || std::mem::replace(&mut seen, state.needed) != state.needed {
                    continue;
                }
            }
            state.at_work = false;
            let gone = std::mem::take(&mut state.sources);
            drop(state);
            return drop(gone);
        }
    }

    fn store<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        addr: SocketAddr,
        made: io::Result<Guard>,
    ) -> MutexGuard<'a, State> {
        match (state.sources.get_mut(&addr), made) {
            (Some(source), Ok(guard)) => {
                source.ordered -= 1;
                source.ready.push(guard);
            }
            (Some(source), Err(error)) => {
                // Whoever connects is told of it.
                source.ordered = 0;
                tracing::debug!(%addr, %error, "no guards in advance");
            }
            (None, Ok(guard)) => {
                drop(state);
                drop(guard);
                state = self.lock();
            }
            (None, Err(_)) => {}
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Devices;
    use crate::ports::spared::Ingress;
    use crate::ports::{Bind, Ports, Reuse};
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Instant as RealInstant;

    #[derive(Debug)]
    struct Unused;

    impl Ingress for Unused {
        fn add(&self, _: &[SocketAddr]) -> io::Result<()> {
            Ok(())
        }
        fn remove(&self, _: &[SocketAddr]) {}
        fn end(&self) {}
        fn table(&self) -> &str {
            "unused"
        }
    }

    const SOURCE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

    fn connect(ports: &Ports, devices: &Devices, ms: u64, taken: &mut Vec<SocketAddr>) -> SocketAddr {
        let (now, peer) = (Instant::ZERO + Duration::from_millis(ms), (Ipv4Addr::LOCALHOST, 9).into());
        let claim = |local| (!taken.contains(&local)).then_some((local, false));
        let local = ports.connect(devices, now, SOURCE.into(), peer, claim).unwrap();
        taken.push(local);
        local
    }

    /// Waits until this is so.
    fn until(mut so: impl FnMut() -> bool) {
        let begin = RealInstant::now();
        while !so() {
            assert!(begin.elapsed() < Duration::from_secs(30), "it never comes about");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn who_needs_one_new_port_after_the_other_finds_guards_made() {
        let (ports, devices) = (Ports::new(&[1; 32]), Devices::with_ingress(Arc::new(Unused)));
        let mut taken = Vec::new();
        // Seldom, one is made when it is needed.
        for i in 0..2 * u64::from(PATIENCE) {
            connect(&ports, &devices, 100 * i, &mut taken);
        }
        assert!(ports.stock.ports().is_empty());
        for _ in 0..=PATIENCE {
            connect(&ports, &devices, 5000, &mut taken);
        }
        // As many as were needed.
        until(|| ports.stock.ports().len() == PATIENCE as usize + 1);
        let ready = ports.stock.ports();
        let local = connect(&ports, &devices, 5000, &mut taken);
        assert!(ready.contains(&local.port()), "{local} was made in advance");
        // They keep other programs off, but not us.
        let held = *ports.stock.ports().first().unwrap();
        let held = SocketAddr::from((Ipv4Addr::LOCALHOST, held));
        assert!(TcpListener::bind(held).is_err());
        let reuse = Reuse { addr: true, port: false };
        let request = Bind { addr: held, v6only: false, reuse, device: None };
        assert_eq!(ports.bind(&devices, &request).unwrap(), held);
        // Nobody needs any more: they go, without a word of ours.
        until(|| ports.stock.ports().is_empty());
        until(|| !ports.stock.0.lock().at_work);
    }

    #[test]
    fn the_end_of_the_stack_frees_what_is_in_stock() {
        let (ports, devices) = (Ports::new(&[1; 32]), Devices::with_ingress(Arc::new(Unused)));
        let mut taken = Vec::new();
        until(|| {
            connect(&ports, &devices, 0, &mut taken);
            !ports.stock.ports().is_empty()
        });
        let held = ports.stock.ports();
        ports.abandon();
        for port in held {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
        // And the thread, and what it may just have made.
        until(|| !ports.stock.0.lock().at_work && ports.stock.ports().is_empty());
    }

    #[test]
    fn addresses_that_needed_one_port_once_make_room() {
        let stock = Stock::default();
        let source = |i| SocketAddr::from((Ipv4Addr::new(127, 0, 0, i), 0));
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        for i in 0..SOURCES as u8 {
            stock.take(at(u64::from(i)), source(i), 9);
        }
        stock.take(at(50), source(99), 9);
        assert!(!stock.0.lock().sources.contains_key(&source(99)), "all the others may need more");
        stock.take(at(ROW.as_millis() as u64), source(99), 9);
        let state = stock.0.lock();
        assert!(state.sources.contains_key(&source(99)) && !state.sources.contains_key(&source(0)));
        assert_eq!(state.sources.len(), SOURCES);
    }

    #[test]
    fn descriptors_that_are_short_are_not_put_in_stock() {
        let mut source = Source::new(Instant::ZERO);
        for _ in 0..=PATIENCE {
            assert_eq!(source.ordered, 0);
            source.take(Instant::ZERO, 3);
        }
        assert_eq!(source.ordered, 3);
        source.ordered = 0;
        assert!(!source.take(Instant::ZERO, 0).1);
        assert_eq!(source.ordered, 0);
    }
}
