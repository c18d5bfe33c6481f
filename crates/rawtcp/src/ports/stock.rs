//! Guards made in advance, by a thread: a connect that waits for a new one spends a seventh of its time on it.
//!
//! Only who needs one new port after the other has some in stock, and when no more are needed they go, and so does the
//! thread. The kernel chooses their ports. They are nobody's yet: a bind of ours that wants one of these ports gets it.

use super::spared::{Made, Sparer};
use crate::device::Reservation;
use rawtcp_io::{Guard, GuardRequest};
use rawtcp_proto::Instant;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// New ports in a row for which no guards are made in advance.
const PATIENCE: u32 = 16;

/// Guards in stock for one local address, at most.
const MOST: usize = 256;

/// Guards of which the kernel is told at once: some 300 µs pass until the first is in stock.
const BATCH: usize = 32;

/// Local addresses with a stock.
const SOURCES: usize = 8;

/// A row ends when no new port was needed for so long.
const ROW: Duration = Duration::from_millis(100);

/// How long a stock is kept that nobody takes from.
const KEPT: Duration = Duration::from_secs(1);

/// New ports that were needed one soon after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    needed: u32,
    last: Option<Instant>,
}

impl Row {
    /// One more is needed.
    fn note(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now.since(last) >= ROW) {
            self.needed = 0;
        }
        self.last = Some(now);
        self.needed = self.needed.saturating_add(1);
    }

    /// More will be.
    fn is_long(&self) -> bool {
        self.needed > PATIENCE
    }
}

/// Of one local address.
#[derive(Debug, Default)]
struct Source {
    row: Row,
    ready: Vec<Made>,
    /// Guards yet to be made.
    ordered: usize,
    /// How the kernel is spared what comes to them.
    sparer: Option<Sparer>,
}

#[derive(Debug, Default)]
struct State {
    sources: HashMap<SocketAddr, Source>,
    /// New ports ever needed.
    needed: u64,
    /// Guards that the thread has in its hands.
    making: usize,
    /// How often it has put such away.
    batches: u64,
    /// Who waits for that.
    waiting: usize,
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
    /// A new port of this address is needed. Has guards made if more will be, as many as there is room for; the kernel will be
    /// spared what comes to them as `sparer` says.
    pub(super) fn take(
        &self,
        now: Instant,
        source: SocketAddr,
        room: usize,
        sparer: impl FnOnce() -> Option<Sparer>,
    ) -> Option<Made> {
        let mut state = self.0.lock();
        if state.over || state.sources.len() >= SOURCES && !state.sources.contains_key(&source) {
            return None;
        }
        state.needed += 1;
        let room = room.saturating_sub(state.len());
        let own = state.sources.entry(source).or_default();
        let (taken, orders) = own.take(now, room);
        if orders {
            own.sparer = sparer();
        }
        let begins = orders && !state.at_work;
        state.at_work |= orders;
        drop(state);
        if begins {
            self.begin();
        } else if orders {
            self.0.changed.notify_all();
        }
        taken
    }

    /// Gives up what is held of a port, for somebody who wants it. `false`: nothing was.
    pub(super) fn give_up(&self, port: u16) -> bool {
        let mut state = self.0.lock();
        let batch = state.batches;
        let found = loop {
            let found = state.take_port(port);
            // It may be in the thread's hands: those it has now, not all that it will ever have.
            if found.is_some() || state.making == 0 || state.batches != batch {
                break found;
            }
            state.waiting += 1;
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        };
        drop(state);
        found.is_some()
    }

    /// This host's addresses may have changed: how the kernel is spared what comes to each of them now.
    pub(super) fn renew(&self, sparer: impl Fn(SocketAddr) -> Option<Sparer>) {
        let mut gone = Vec::new();
        let mut state = self.0.lock();
        for (&addr, source) in &mut state.sources {
            if source.sparer.is_some() && sparer(addr).is_none() {
                source.sparer = None;
                gone.extend(source.ready.iter_mut().filter_map(|made| made.spared.take()));
            }
        }
        drop(state);
    }

    /// The stack has ended: gives away what there is.
    pub(super) fn close(&self) -> impl Sized + use<> {
        let mut state = self.0.lock();
        state.over = true;
        let gone = std::mem::take(&mut state.sources);
        drop(state);
        self.0.changed.notify_all();
        gone
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
        state.sources.values().flat_map(|source| &source.ready).map(Made::port).collect()
    }
}

impl Source {
    /// Says also whether guards are ordered with this.
    fn take(&mut self, now: Instant, room: usize) -> (Option<Made>, bool) {
        self.row.note(now);
        let taken = self.ready.pop();
        let wanted = if self.row.is_long() { MOST.min(self.row.needed as usize) } else { 0 };
        let orders = self.ready.len() + self.ordered < wanted / 2 && room > 0;
        if orders {
            self.ordered = (wanted - self.ready.len()).min(self.ordered + room);
        }
        (taken, orders)
    }
}

impl State {
    fn len(&self) -> usize {
        self.making + self.sources.values().map(|source| source.ready.len() + source.ordered).sum::<usize>()
    }

    fn take_port(&mut self, port: u16) -> Option<Made> {
        self.sources.values_mut().find_map(|source| {
            let at = source.ready.iter().position(|made| made.port() == port)?;
            Some(source.ready.swap_remove(at))
        })
    }
}

impl Made {
    fn port(&self) -> u16 {
        self.reservation.local_addr().port()
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
            let order = state.sources.iter_mut().find(|(_, source)| source.ordered > 0);
            if let Some((&addr, source)) = order {
                let sparer = source.sparer.clone();
                // One by one they are there sooner.
                let batch = if sparer.is_some() { BATCH.min(source.ordered) } else { 1 };
                source.ordered -= batch;
                state.making = batch;
                drop(state);
                // Who waits for them must not wait for ever.
                let made = catch_unwind(AssertUnwindSafe(|| make(addr, batch, sparer)));
                let made = made.unwrap_or_else(|_| (Vec::new(), Err(io::ErrorKind::Other.into())));
                state = self.store(addr, made);
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

    fn store(&self, addr: SocketAddr, (mut made, outcome): (Vec<Made>, io::Result<()>)) -> MutexGuard<'_, State> {
        let mut gone = Vec::new();
        let mut state = self.lock();
        match state.sources.get_mut(&addr) {
            Some(source) => {
                if source.sparer.is_none() {
                    // The address has gone meanwhile.
                    gone.extend(made.iter_mut().filter_map(|made| made.spared.take()));
                }
                source.ready.append(&mut made);
                if let Err(error) = outcome {
                    // Whoever connects is told of it.
                    source.ordered = 0;
                    tracing::debug!(%addr, %error, "no guards in advance");
                }
            }
            None => {
                drop(state);
                made.clear();
                state = self.lock();
            }
        }
        state.making = 0;
        state.batches += 1;
        if state.waiting > 0 {
            self.changed.notify_all();
        }
        if gone.is_empty() {
            return state;
        }
        drop(state);
        drop(gone);
        self.lock()
    }
}

/// Makes so many guards, and has the kernel spared what comes to them. With an error there are fewer.
fn make(addr: SocketAddr, batch: usize, sparer: Option<Sparer>) -> (Vec<Made>, io::Result<()>) {
    let request = GuardRequest { addr, v6only: true, device: None };
    let mut made = Vec::with_capacity(batch);
    let mut outcome = Ok(());
    while made.len() < batch && outcome.is_ok() {
        outcome = Guard::bind(&request).map(|guard| made.push(Made::from(Reservation::Kernel(guard))));
    }
    if let Some(sparer) = sparer {
        sparer.spare(&mut made);
    }
    (made, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Devices;
    use crate::ports::spared::{Ingress, Teller};
    use crate::ports::{Bind, Ports, Reuse};
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::mpsc;
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

    /// Remembers what it was told.
    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<(bool, Vec<SocketAddr>)>>);

    impl Told {
        /// Of how many addresses the kernel is spared, and by how many messages it was told so.
        fn counts(&self) -> (usize, usize) {
            let told = self.0.lock().unwrap();
            let mut spared = HashSet::new();
            for (is_added, local) in &*told {
                for addr in local {
                    assert!(if *is_added { spared.insert(*addr) } else { spared.remove(addr) }, "{addr} twice");
                }
            }
            (spared.len(), told.iter().filter(|(is_added, _)| *is_added).count())
        }
    }

    impl Ingress for Told {
        fn add(&self, local: &[SocketAddr]) -> io::Result<()> {
            self.0.lock().unwrap().push((true, local.to_vec()));
            Ok(())
        }
        fn remove(&self, local: &[SocketAddr]) {
            // The guard lives yet.
            assert!(local.iter().all(|addr| TcpListener::bind(addr).is_err()));
            self.0.lock().unwrap().push((false, local.to_vec()));
        }
        fn end(&self) {}
        fn table(&self) -> &str {
            "told"
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
    fn the_kernel_is_told_of_many_guards_at_once() {
        let (told, teller, stock) = (Arc::new(Told::default()), Teller::default(), Stock::default());
        let sparer = Sparer::new(told.clone(), &teller);
        let take = || stock.take(Instant::ZERO, SOURCE.into(), usize::MAX, || Some(sparer.clone()));
        let first = PATIENCE as usize + 1;
        assert!((0..first).all(|_| take().is_none()));
        until(|| stock.ports().len() == first);
        assert_eq!(told.counts(), (first, 1));
        // Gone with its guard, and before it.
        let taken = take().unwrap();
        let local = taken.reservation.local_addr();
        drop(taken);
        teller.settle();
        assert_eq!(told.counts().0, first - 1);
        TcpListener::bind(local).unwrap();
        let port = stock.ports()[0];
        assert!(stock.give_up(port));
        teller.settle();
        assert_eq!(told.counts().0, first - 2);
        // The address is not this host's any more; whoever is bound to it keeps its ports.
        stock.renew(|_| None);
        teller.settle();
        assert_eq!((told.counts().0, stock.ports().len()), (0, first - 2));
        assert!(stock.ports().iter().all(|&port| TcpListener::bind((SOURCE.0, port)).is_err()));
        let held = stock.ports();
        drop(stock.close());
        for port in held {
            TcpListener::bind((SOURCE.0, port)).unwrap();
        }
    }

    /// Who wants a port that the thread has in its hands waits for that.
    #[test]
    fn a_port_in_the_making_is_given_up_too() {
        #[derive(Debug)]
        struct Slow(mpsc::Sender<Vec<SocketAddr>>, Mutex<mpsc::Receiver<()>>);
        impl Ingress for Slow {
            fn add(&self, local: &[SocketAddr]) -> io::Result<()> {
                // Where nobody hears it or lets it any more the test has failed.
                let _ = self.0.send(local.to_vec());
                let _ = self.1.lock().unwrap().recv();
                Ok(())
            }
            fn remove(&self, _: &[SocketAddr]) {}
            fn end(&self) {}
            fn table(&self) -> &str {
                "slow"
            }
        }
        let ((begins, has_begun), (lets, may)) = (mpsc::channel(), mpsc::channel());
        let (teller, stock) = (Teller::default(), Arc::new(Stock::default()));
        let sparer = Sparer::new(Arc::new(Slow(begins, Mutex::new(may))), &teller);
        for _ in 0..=PATIENCE {
            assert!(stock.take(Instant::ZERO, SOURCE.into(), usize::MAX, || Some(sparer.clone())).is_none());
        }
        let making = has_begun.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(stock.ports().is_empty());
        let wants = thread::spawn({
            let (stock, port) = (stock.clone(), making[3].port());
            move || stock.give_up(port)
        });
        until(|| stock.0.lock().waiting == 1);
        lets.send(()).unwrap();
        assert!(wants.join().unwrap());
        teller.settle();
        TcpListener::bind(making[3]).unwrap();
        // What nobody has is not waited for.
        assert!(!stock.give_up(making[3].port()));
        drop(stock.close());
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
    fn descriptors_that_are_short_are_not_put_in_stock() {
        let mut source = Source::default();
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
