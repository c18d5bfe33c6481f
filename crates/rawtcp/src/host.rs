//! What all parts of one stack share: tables, devices, ports, timers, and the way to the driver.
//!
//! Locks, in the order in which they may be taken: ports, then a shard. A connection's lock comes with
//! neither; under it only the leaves: a device's queue, the alarm, the list of scheduled connections.

use crate::alarm::{Alarm, Due};
use crate::budget::Budget;
use crate::clock::Clock;
use crate::conn_cell::ConnCell;
use crate::device::{Device, Devices};
use crate::drain::Retired;
use crate::error;
use crate::listener_cell::{ListenerCell, ListenerRef};
use crate::ports::Ports;
use crate::stats::{Counters, StackStats};
use crate::sync::{Arc, AtomicBool, AtomicU8, AtomicUsize, Mutex, MutexGuard, Ordering, lock};
use crate::timers::TimerKey;
use futures::task::AtomicWaker;
use rawtcp_io::timer::TimerFd;
use rawtcp_proto::stack::{ListenConfig, Stack, StackConfig, TimeWait, TupleHasher};
use rawtcp_proto::{ConnConfig, FourTuple, Instant};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

/// One part of the table.
pub(crate) type Shard = Stack<Arc<ConnCell>, ListenerRef>;

/// Parts of the table: more than threads that could want one at once.
const SHARDS: usize = 16;

/// The backlog of listeners that do not say, as tokio's.
pub(crate) const BACKLOG: usize = 1024;

/// What the builder decided.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) device: Device,
    pub(crate) conn: ConnConfig,
    pub(crate) stack: StackConfig,
    pub(crate) exit_drain: Duration,
    pub(crate) seed: Option<[u8; 32]>,
    /// The driver has a thread, and so a runtime, of its own.
    pub(crate) own_thread: bool,
}

/// Where a stack is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Life {
    Running = 0,
    /// `close` was called: nothing new is begun.
    Closing = 1,
    /// The driver is gone: nothing will ever happen again.
    Dead = 2,
}

/// One stack.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) devices: Devices,
    pub(crate) clock: Clock,
    pub(crate) alarm: Alarm,
    pub(crate) counters: Counters,
    pub(crate) budget: Budget,
    pub(crate) budget_total: usize,
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    /// The engine of a dead stack, for those who still have something to deliver.
    pub(crate) retired: Mutex<Option<Retired>>,
    shards: Vec<Mutex<Shard>>,
    shard_timers: Vec<TimerKey>,
    hasher: TupleHasher,
    scheduled: Mutex<Vec<Arc<ConnCell>>>,
    listeners: Mutex<Vec<Arc<ListenerCell>>>,
    driver: AtomicWaker,
    kicked: AtomicBool,
    life: AtomicU8,
    /// `Stack` handles; the default stack has none.
    handles: AtomicUsize,
    close_by: Mutex<Option<Instant>>,
    mourners: Mutex<Vec<Waker>>,
    buried: AtomicBool,
    warned_drops: AtomicBool,
    warned_unknown: AtomicBool,
}

fn random_seed() -> io::Result<[u8; 32]> {
    use std::io::Read;
    let mut seed = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

impl Host {
    pub(crate) fn new(settings: Settings) -> io::Result<Arc<Self>> {
        let devices = Devices::open(&settings.device)?;
        let seed = match settings.seed {
            Some(seed) => seed,
            None => random_seed()?,
        };
        let clock = if devices.are_virtual() && !settings.own_thread { Clock::tokio() } else { Clock::Monotonic };
        let alarm = Alarm::new(match clock {
            Clock::Monotonic => Some(TimerFd::new()?),
            Clock::Tokio(_) => None,
        });
        let shard_timers = (0..SHARDS).map(|i| alarm.insert(Due::Shard(i))).collect();
        let stack = &settings.stack;
        let shards = (0..SHARDS).map(|_| Mutex::new(Stack::new(stack.clone(), seed))).collect();
        let budget = Budget::for_queues(devices.receive_memory());
        Ok(Arc::new(Host {
            budget_total: budget.left(),
            budget,
            clock,
            alarm,
            counters: Counters::default(),
            ports: Ports::new(&seed),
            retired: Mutex::new(None),
            shards,
            shard_timers,
            hasher: TupleHasher::new(&seed),
            scheduled: Mutex::default(),
            listeners: Mutex::default(),
            driver: AtomicWaker::new(),
            kicked: AtomicBool::new(false),
            life: AtomicU8::new(Life::Running as u8),
            handles: AtomicUsize::new(0),
            close_by: Mutex::default(),
            mourners: Mutex::default(),
            buried: AtomicBool::new(false),
            warned_drops: AtomicBool::new(false),
            warned_unknown: AtomicBool::new(false),
            devices,
            settings,
        }))
    }

    /// The part of the table that a four-tuple is in.
    pub(crate) fn shard_of(&self, tuple: &FourTuple) -> usize {
        self.hasher.hash(tuple) as usize % SHARDS
    }

    pub(crate) fn shard(&self, at: usize) -> MutexGuard<'_, Shard> {
        lock(&self.shards[at])
    }

    /// Has the driver look at a shard's timers when they want it. Says whether to kick it.
    #[must_use]
    pub(crate) fn arm_shard(&self, at: usize, deadline: Option<Instant>) -> bool {
        deadline.is_some_and(|deadline| self.alarm.arm(self.shard_timers[at], deadline))
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.life.load(Ordering::Acquire) == Life::Dead as u8
    }

    /// A turn is due, if only to see that it is time to end.
    pub(crate) fn begin_close(&self) {
        let deadline = self.clock.now() + self.settings.exit_drain;
        lock(&self.close_by).get_or_insert(deadline);
        self.set_life(Life::Closing);
        let _ = self.arm_shard(0, Some(deadline));
        self.kick();
    }

    /// Whether a stack that closes has waited long enough for what is not delivered.
    pub(crate) fn close_deadline_passed(&self) -> bool {
        lock(&self.close_by).is_some_and(|deadline| deadline <= self.clock.now())
    }

    /// Whom to wake when the driver is gone.
    pub(crate) fn on_death(&self, waker: &Waker) {
        lock(&self.mourners).push(waker.clone());
    }

    /// The driver is gone, and has delivered what could be delivered.
    pub(crate) fn is_buried(&self) -> bool {
        self.buried.load(Ordering::Acquire)
    }

    /// Tells everyone who waits for the end of the stack.
    pub(crate) fn bury(&self) {
        self.buried.store(true, Ordering::Release);
        let mourners = std::mem::take(&mut *lock(&self.mourners));
        mourners.into_iter().for_each(Waker::wake);
    }

    /// Moves on to a later stage of life.
    pub(crate) fn set_life(&self, life: Life) {
        self.life.fetch_max(life as u8, Ordering::AcqRel);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.life.load(Ordering::Acquire) >= Life::Closing as u8
    }

    /// Refuses to begin anything new on a stack that is going.
    pub(crate) fn check_open(&self) -> io::Result<()> {
        if self.is_closing() { Err(error::gone()) } else { Ok(()) }
    }

    /// Has the driver take a turn.
    pub(crate) fn kick(&self) {
        if !self.kicked.swap(true, Ordering::AcqRel) {
            self.driver.wake();
        }
    }

    /// The driver is at work: from here on a kick counts anew.
    pub(crate) fn attend(&self, waker: &Waker) {
        self.driver.register(waker);
        self.kicked.store(false, Ordering::Release);
    }

    /// Has the driver go on with a connection.
    pub(crate) fn schedule(&self, cell: Arc<ConnCell>) {
        lock(&self.scheduled).push(cell);
        self.kick();
    }

    /// Takes the connections that the driver is to go on with.
    pub(crate) fn take_scheduled(&self) -> Vec<Arc<ConnCell>> {
        std::mem::take(&mut *lock(&self.scheduled))
    }

    /// A connection is over, without TIME-WAIT.
    pub(crate) fn on_closed(&self, tuple: &FourTuple) {
        let gone = self.shard(self.shard_of(tuple)).remove(tuple);
        drop(gone);
        self.ports.release(&self.devices, tuple.local);
        if self.handles.load(Ordering::Acquire) == 0 {
            // The driver may have waited for this one only.
            self.kick();
        }
    }

    /// A connection is over, but for TIME-WAIT. Says whether to kick the driver.
    pub(crate) fn on_time_wait(&self, tuple: &FourTuple, record: TimeWait) -> bool {
        let at = self.shard_of(tuple);
        let deadline = {
            let mut shard = self.shard(at);
            shard.to_time_wait(self.clock.now(), *tuple, record);
            shard.poll_timeout()
        };
        self.arm_shard(at, deadline)
    }

    /// The settings of a new connection, its receive buffer granted by the budget.
    pub(crate) fn conn_config(&self) -> (ConnConfig, usize) {
        let mut config = self.settings.conn.clone();
        let granted = self.budget.grant(config.recv_buffer);
        config.recv_buffer = granted;
        (config, granted)
    }

    /// Listens on an address; port 0 means one of the system's choice.
    pub(crate) fn listen(
        self: &Arc<Self>,
        addr: SocketAddr,
        v6only: bool,
        backlog: usize,
    ) -> io::Result<Arc<ListenerCell>> {
        self.check_open()?;
        let (local, shared) = self.ports.listen(&self.devices, addr, v6only)?;
        let conn = Arc::new(self.settings.conn.clone());
        let device =
            self.devices.towards(local.ip()).or_else(|_| self.devices.towards(Ipv6Addr::UNSPECIFIED.into()))?;
        let mtu = self.devices.get(device).io.capabilities().mtu;
        let cell = ListenerCell::new(self, local, backlog, conn.ttl);
        let config = ListenConfig { v6only, shared, max_half_open: backlog.max(128), mtu, conn };
        for at in 0..SHARDS {
            self.shard(at).listen(local, ListenerRef(cell.clone()), config.clone());
        }
        lock(&self.listeners).push(cell.clone());
        tracing::debug!(%local, "listening");
        if self.is_dead() {
            // The driver went meanwhile and may not have seen it.
            cell.close();
            return Err(error::gone());
        }
        Ok(cell)
    }

    /// The listener on this address is gone.
    pub(crate) fn unlisten(&self, local: SocketAddr) {
        for at in 0..SHARDS {
            self.shard(at).unlisten(local);
        }
        let gone: Vec<_> = lock(&self.listeners).extract_if(.., |cell| cell.local() == local).collect();
        if !gone.is_empty() {
            self.ports.unlisten(&self.devices, local);
        }
        drop(gone);
    }

    /// All connections of the table.
    pub(crate) fn connections(&self) -> Vec<Arc<ConnCell>> {
        let mut all = Vec::new();
        for at in 0..SHARDS {
            all.extend(self.shard(at).connections().map(|(_, cell)| cell.clone()));
        }
        all
    }

    pub(crate) fn listeners(&self) -> Vec<Arc<ListenerCell>> {
        lock(&self.listeners).clone()
    }

    /// One `Stack` handle more.
    pub(crate) fn hold(&self) {
        self.handles.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether there is one handle only.
    pub(crate) fn is_last_handle(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 1
    }

    /// One handle less; with the last one the driver may end once nothing is left to do.
    pub(crate) fn let_go(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.kick();
        }
    }

    /// Whether nobody can begin anything and nothing is left.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 0 && self.ports.has_no_users()
    }

    pub(crate) fn stats(&self) -> StackStats {
        let load = |counter: &crate::sync::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let mut drops = counters.drops();
        let (mut connections, mut half_open, mut time_wait, mut resets) = (0, 0, 0, 0);
        for at in 0..SHARDS {
            let shard = self.shard(at);
            let counts = shard.counts();
            connections += counts.connections;
            half_open += counts.half_open;
            time_wait += counts.time_wait;
            resets += shard.counters().resets;
            drops.iter_mut().zip(shard.counters().drops).for_each(|(sum, n)| *sum += n);
        }
        StackStats {
            packets_received: load(&counters.packets_received),
            packets_sent: load(&counters.packets_sent),
            packets_lost: load(&counters.packets_lost),
            receive_queue_drops: self.devices.drops(),
            pseudo_checksums: load(&counters.pseudo_checksums),
            resets_sent: resets,
            connects: load(&counters.connects),
            accepts: load(&counters.accepts),
            broken: load(&counters.broken),
            connections,
            half_open,
            time_wait,
            guards: self.ports.len(),
            drops,
        }
    }

    /// Says once that the receive queue is too small, and what helps.
    pub(crate) fn warn_of_drops(&self) {
        let drops = self.devices.drops();
        if drops > 0 && !self.warned_drops.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                drops,
                "the receive queue of a raw socket overflowed, which looks like loss on the path; \
                 raise it with `sysctl -w net.core.rmem_max=8388608`"
            );
        }
    }

    /// Says once that a device gives an error that has no meaning here.
    pub(crate) fn warn_once_unknown(&self, device: &str, error: &io::Error) {
        if !self.warned_unknown.swap(true, Ordering::Relaxed) {
            tracing::warn!(device, %error, "a device refuses packets; further errors are only counted");
        }
    }
}
