//! What all parts of one stack share: tables, devices, ports, timers, and the way to the drivers.
//!
//! Locks, in the order in which they may be taken: ports, then a shard. A connection's lock comes with
//! neither; under it only the leaves: a device's queue, the alarm, the lists of connections that are scheduled or late.

use crate::alarm::{Alarm, Due};
use crate::budget::{Budgets, Grant, SendBudget};
use crate::clock::Clock;
use crate::conn_cell::ConnCell;
use crate::device::{Device, Devices, Open, Reservation};
use crate::error;
use crate::listener_cell::{ListenerCell, ListenerRef};
use crate::path_cache::RecentWays;
use crate::ports::{Bind, Ports, Reuse, canonical};
use crate::post::Post;
use crate::stats::{Counters, StackStats};
use crate::sync::{Arc, AtomicBool, AtomicU8, AtomicUsize, Mutex, MutexGuard, Ordering, lock};
use crate::timers::TimerKey;
use crate::tx;
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

/// Drivers that a stack may have: beyond the parts of its table they would only wait for each other.
pub(crate) const MAX_DRIVERS: usize = SHARDS;

/// Half-open records that a listener may have in each shard, however small its backlog: the hash spreads
/// few handshakes unevenly.
const MIN_HALF_OPEN: usize = 64;

/// The backlog of listeners that do not say, as tokio's.
pub(crate) const BACKLOG: usize = 1024;

/// What the builder decided.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) device: Device,
    pub(crate) conn: Arc<ConnConfig>,
    pub(crate) stack: StackConfig,
    /// Bytes that send buffers may grow by, if not the default.
    pub(crate) send_budget: Option<usize>,
    pub(crate) exit_drain: Duration,
    /// The kernel may be told to drop what AF_PACKET sockets receive for us.
    pub(crate) ingress_drop: bool,
    pub(crate) seed: Option<[u8; 32]>,
    /// Each driver has a thread, and so a runtime, of its own.
    pub(crate) own_thread: bool,
    /// How many drivers there shall be, at most.
    pub(crate) drivers: usize,
}

/// What a listener's connections are like.
#[derive(Debug)]
pub(crate) struct ListenOptions {
    pub(crate) v6only: bool,
    pub(crate) backlog: usize,
    pub(crate) conn: Arc<ConnConfig>,
    pub(crate) linger: Option<Duration>,
    pub(crate) reuseport: bool,
}

/// An address and port that a socket has reserved; given back on drop.
#[derive(Debug)]
pub(crate) struct Hold {
    host: Arc<Host>,
    local: SocketAddr,
}

impl Hold {
    /// Takes over what was reserved without a stack.
    pub(crate) fn adopt(host: &Arc<Host>, request: &Bind, reservation: Reservation) -> io::Result<Self> {
        host.check_open()?;
        if !host.devices.takes(&reservation)? {
            drop(reservation);
            return host.bind(request);
        }
        host.ports.adopt(&host.devices, request, reservation)?;
        Ok(Hold { host: host.clone(), local: request.addr })
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Somebody else will give it back.
    fn keep(mut self) {
        // An address that no guard covers is nobody's to give back.
        self.local.set_port(0);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.local.port() != 0 {
            self.host.ports.release(&self.host.devices, self.local);
        }
    }
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
    /// The same, because the device has gone.
    CutOff = 3,
}

/// One stack.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) devices: Devices,
    pub(crate) clock: Clock,
    pub(crate) alarm: Alarm,
    pub(crate) counters: Counters,
    pub(crate) budget: Budgets,
    pub(crate) send_budget: SendBudget,
    pub(crate) ports: Ports,
    pub(crate) ways: RecentWays,
    pub(crate) settings: Settings,
    shards: Vec<Mutex<Shard>>,
    shard_timers: Vec<TimerKey>,
    close_timer: TimerKey,
    look_timer: TimerKey,
    hasher: TupleHasher,
    /// One for each driver.
    pub(crate) posts: Vec<Arc<Post>>,
    listeners: Mutex<Vec<Arc<ListenerCell>>>,
    life: AtomicU8,
    /// `Stack` handles; the default stack has none.
    handles: AtomicUsize,
    close_by: Mutex<Option<Instant>>,
    mourners: Mutex<Vec<Waker>>,
    buried: AtomicBool,
    warned_drops: AtomicBool,
    warned_unknown: AtomicBool,
}

/// What a panic leaves behind is guarded by locks of its own; futures that hold a stack are unwind safe, as
/// tokio's are.
impl std::panic::RefUnwindSafe for Host {}

/// What each shard gets of the limits and rates of a stack. Four-tuples are spread by a keyed hash, so
/// that nobody can fill one shard on purpose.
fn share_of(stack: &StackConfig) -> StackConfig {
    let mut share = stack.clone();
    share.max_half_open = part(stack.max_half_open);
    share.max_time_wait = part(stack.max_time_wait);
    share.resets.burst = stack.resets.burst.div_ceil(SHARDS as u32).max(1);
    share.resets.interval = stack.resets.interval * SHARDS as u32;
    share
}

/// A shard's part of a limit: at least one.
fn part(limit: usize) -> usize {
    limit.div_ceil(SHARDS).max(1)
}

/// Whether the table has this connection.
fn holds(shard: &Shard, cell: &ConnCell) -> bool {
    shard.connection(cell.tuple()).is_some_and(|known| std::ptr::eq(&**known, cell))
}

fn random_seed() -> io::Result<[u8; 32]> {
    use std::io::Read;
    let mut seed = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

impl Host {
    pub(crate) fn new(settings: Settings) -> io::Result<Arc<Self>> {
        if !(1..=MAX_DRIVERS).contains(&settings.drivers) {
            let text = format!("a stack has 1 to {MAX_DRIVERS} drivers, not {}", settings.drivers);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let devices = Devices::open(&settings.device, settings.drivers)?;
        Self::with(settings, devices)
    }

    /// A stack on devices that are open.
    pub(crate) fn with(mut settings: Settings, mut devices: Devices) -> io::Result<Arc<Self>> {
        // Buffers grow inside the budgets only.
        let conn = Arc::make_mut(&mut settings.conn);
        (conn.recv_buffer_on_request, conn.send_buffer_on_request) = (true, true);
        if !settings.ingress_drop {
            devices.leave_ingress_alone();
        }
        let seed = match settings.seed {
            Some(seed) => seed,
            None => random_seed()?,
        };
        let clock = if devices.are_virtual() && !settings.own_thread { Clock::tokio() } else { Clock::Monotonic };
        let alarm = Alarm::new(TimerFd::new()?, clock.is_real());
        let shard_timers = (0..SHARDS).map(|i| alarm.insert(Due::Shard(i))).collect();
        let (close_timer, look_timer) = (alarm.insert(Due::Driver), alarm.insert(Due::Driver));
        let share = share_of(&settings.stack);
        let shards = (0..SHARDS).map(|_| Mutex::new(Stack::new(share.clone(), seed))).collect();
        Ok(Arc::new(Host {
            budget: Budgets::new(devices.all().iter().map(|open| (open.io.recv_queue_bytes(), open.is_near))),
            send_budget: SendBudget::new(settings.send_budget),
            clock,
            alarm,
            counters: Counters::default(),
            ports: Ports::new(&seed),
            ways: RecentWays::default(),
            shards,
            shard_timers,
            close_timer,
            look_timer,
            hasher: TupleHasher::new(&seed),
            posts: (0..devices.drivers()).map(|_| Arc::default()).collect(),
            listeners: Mutex::default(),
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
        self.life.load(Ordering::Acquire) >= Life::Dead as u8
    }

    /// Whether the stack ended because its device has gone.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.life.load(Ordering::Acquire) == Life::CutOff as u8
    }

    /// The error of everything on a stack that has ended.
    pub(crate) fn gone(&self) -> io::Error {
        if self.is_cut_off() { error::os(error::ENETDOWN) } else { error::gone() }
    }

    /// A turn is due, if only to see that it is time to end.
    pub(crate) fn begin_close(&self) {
        let deadline = self.clock.now() + self.settings.exit_drain;
        lock(&self.close_by).get_or_insert(deadline);
        self.set_life(Life::Closing);
        let _ = self.alarm.arm(self.close_timer, deadline);
        self.kick();
    }

    /// Has the driver look at everything again in a while: there is something it cannot wait for.
    pub(crate) fn look_later(&self, after: Duration) {
        if self.alarm.arm(self.look_timer, self.clock.now() + after) {
            self.kick();
        }
    }

    /// Whether a stack that closes has waited long enough for what is not delivered.
    pub(crate) fn close_deadline_passed(&self) -> bool {
        lock(&self.close_by).is_some_and(|deadline| deadline <= self.clock.now())
    }

    /// Whom to wake when the driver is gone.
    pub(crate) fn on_death(&self, waker: &Waker) {
        let mut mourners = lock(&self.mourners);
        if !mourners.iter().any(|known| known.will_wake(waker)) {
            mourners.push(waker.clone());
        }
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
        if self.is_closing() { Err(self.gone()) } else { Ok(()) }
    }

    /// Has the first driver take a turn: it looks at the alarm, and whether it is time to end.
    pub(crate) fn kick(&self) {
        self.posts[0].kick();
    }

    /// Has the driver of a device take a turn.
    pub(crate) fn kick_for(&self, device: &Open) {
        self.posts[device.driver].kick();
    }

    /// Whether acknowledgments may come by this device while a writer sends, and [`catch_up`](Self::catch_up) takes them.
    pub(crate) fn catches_up(&self, device: usize) -> bool {
        let open = self.devices.get(device);
        open.takes_large && self.clock.is_real() && self.posts[open.driver].is_here()
    }

    /// Takes what a device has received, one batch, here and now. Says how many connections it was for.
    pub(crate) fn catch_up(&self, device: usize) -> usize {
        self.posts[self.devices.get(device).driver].catch_up(device)
    }

    /// More will be under way than this device's receive queue has room for.
    pub(crate) fn expect_more(&self, device: usize) {
        if let Err(error) = self.devices.get(device).io.expect_more() {
            self.warn_once_unknown("receive more", &error);
        }
    }

    /// Has all drivers but the first take a turn.
    pub(crate) fn kick_others(&self) {
        self.posts[1..].iter().for_each(|post| post.kick());
    }

    /// Has every driver take a turn.
    pub(crate) fn kick_all(&self) {
        self.posts.iter().for_each(|post| post.kick());
    }

    /// Has its driver go on with a connection.
    pub(crate) fn schedule(&self, cell: Arc<ConnCell>) {
        let post = &self.posts[cell.driver()];
        post.schedule(cell);
        if self.is_buried() {
            // Nobody comes any more, and the list must not keep the stack alive.
            drop(post.take_scheduled(usize::MAX));
        }
    }

    /// Takes a connection out of the table, unless its four-tuple is another's by now.
    pub(crate) fn take_out(&self, cell: &ConnCell) {
        let mut shard = self.shard(self.shard_of(cell.tuple()));
        let gone = if holds(&shard, cell) { shard.remove(cell.tuple()) } else { None };
        drop(shard);
        drop(gone);
    }

    /// A connection is over, without TIME-WAIT.
    pub(crate) fn on_closed(&self, cell: &ConnCell, holds_port: bool) {
        self.take_out(cell);
        if holds_port {
            self.ports.release(&self.devices, cell.tuple().local);
        }
        if self.handles.load(Ordering::Acquire) == 0 {
            // The driver may have waited for this one only.
            self.kick();
        }
    }

    /// A connection is over, but for TIME-WAIT. Says whether to kick the driver.
    pub(crate) fn on_time_wait(&self, cell: &ConnCell, record: TimeWait) -> bool {
        let at = self.shard_of(cell.tuple());
        let deadline = {
            let mut shard = self.shard(at);
            if !holds(&shard, cell) {
                return false;
            }
            shard.to_time_wait(self.clock.now(), *cell.tuple(), record);
            shard.poll_timeout()
        };
        self.arm_shard(at, deadline)
    }

    /// Grants a new connection its receive buffer.
    pub(crate) fn grant(&self, device: usize, mut config: Arc<ConnConfig>) -> (Arc<ConnConfig>, Grant) {
        let granted = self.budget.grant(device, config.recv_buffer);
        if granted.bytes != config.recv_buffer {
            Arc::make_mut(&mut config).recv_buffer = granted.bytes;
        }
        (config, granted)
    }

    /// Reserves an address and port; 0 means a port of the system's choice.
    pub(crate) fn bind(self: &Arc<Self>, request: &Bind) -> io::Result<Hold> {
        self.check_open()?;
        let local = self.ports.bind(&self.devices, request)?;
        Ok(Hold { host: self.clone(), local })
    }

    /// Listens on an address as `TcpListener::bind` does.
    pub(crate) fn listen(self: &Arc<Self>, addr: SocketAddr) -> io::Result<Arc<ListenerCell>> {
        let reuse = Reuse { addr: true, port: false };
        // `[::]` takes IPv4 as well, which is Linux's default.
        let hold = self.bind(&Bind { addr, v6only: false, reuse, device: None })?;
        let conn = self.settings.conn.clone();
        self.listen_at(hold, ListenOptions { v6only: false, backlog: BACKLOG, conn, linger: None, reuseport: false })
    }

    /// Listens on an address that is bound.
    pub(crate) fn listen_at(self: &Arc<Self>, hold: Hold, options: ListenOptions) -> io::Result<Arc<ListenerCell>> {
        self.check_open()?;
        let local = hold.local;
        let device =
            self.devices.towards(local.ip()).or_else(|_| self.devices.towards(Ipv6Addr::UNSPECIFIED.into()))?;
        let mtu = self.devices.get(device).io.capabilities().mtu;
        let mut listeners = lock(&self.listeners);
        let shared = self.ports.begin_listen(local)?;
        let same = |cell: &&Arc<ListenerCell>| canonical(cell.local()) == canonical(local);
        if let Some(cell) = listeners.iter().find(|cell| same(cell) && cell.share(options.reuseport)) {
            // The port stays reserved for the first.
            return Ok(cell.clone());
        }
        let cell = ListenerCell::new(self, local, &options);
        let ListenOptions { v6only, backlog, conn, .. } = options;
        let max_half_open = part(backlog).max(MIN_HALF_OPEN);
        let config = ListenConfig { v6only, shared, max_half_open, mtu, conn };
        for at in 0..SHARDS {
            self.shard(at).listen(canonical(local), ListenerRef(cell.clone()), config.clone());
        }
        listeners.push(cell.clone());
        drop(listeners);
        hold.keep();
        tracing::debug!(%local, "listening");
        if self.is_dead() {
            // The driver went meanwhile and may not have seen it.
            cell.close(true);
            return Err(self.gone());
        }
        Ok(cell)
    }

    /// One socket less listens here; says whether it was the last one.
    pub(crate) fn unlisten(&self, cell: &ListenerCell, all: bool) -> bool {
        // Locked throughout, so that nobody joins a listener that goes.
        let mut listeners = lock(&self.listeners);
        if !cell.leave(all) {
            return false;
        }
        let local = cell.local();
        let mut resets = Vec::new();
        for at in 0..SHARDS {
            resets.extend(self.shard(at).unlisten(canonical(local)));
        }
        let gone: Vec<_> = listeners.extract_if(.., |other| std::ptr::eq(&**other, cell)).collect();
        if !gone.is_empty() {
            self.ports.unlisten(&self.devices, local);
        }
        drop(listeners);
        tx::send_replies(self, &resets, |_| None);
        if self.handles.load(Ordering::Acquire) == 0 {
            // The driver may have waited for this one only.
            self.kick();
        }
        true
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

    /// One handle less; with the last one, which it says, the driver may end once nothing is left to do.
    pub(crate) fn let_go(&self) -> bool {
        let last = self.handles.fetch_sub(1, Ordering::AcqRel) == 1;
        if last {
            self.kick();
        }
        last
    }

    /// Whether nobody can begin anything and nothing is left.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 0 && self.ports.has_no_users()
    }

    pub(crate) fn stats(&self) -> StackStats {
        let load = |counter: &crate::sync::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let received_by: Vec<u64> = self.posts.iter().map(|post| load(&post.received)).collect();
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
            packets_received: received_by.iter().sum(),
            received_by,
            packets_sent: load(&counters.packets_sent),
            packets_lost: load(&counters.packets_lost),
            receive_queue_drops: self.devices.drops(),
            packets_truncated: self.devices.truncated(),
            pseudo_checksums: load(&counters.pseudo_checksums),
            resets_sent: resets,
            connects: load(&counters.connects),
            accepts: load(&counters.accepts),
            broken: load(&counters.broken),
            connections,
            half_open,
            time_wait,
            guards: self.ports.len(),
            send_buffers_grown: self.send_budget.used(),
            drops,
        }
    }

    /// Says once that the receive queue is too small, and what helps.
    pub(crate) fn warn_of_drops(&self) {
        let drops = self.devices.drops();
        if drops > 0 && !self.warned_drops.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                drops,
                "the receive queue of a raw socket overflowed, which looks like loss on the path; unless it was the ring of \
                 an AF_PACKET socket, raise it with `sysctl -w net.core.rmem_max=8388608`"
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
