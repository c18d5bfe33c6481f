//! A connection with its lock: the protocol's TCB, its readiness, and who waits for it.
//!
//! Whoever changes a connection, user or driver, does it in three steps: lock and act; `settle`, which
//! transmits, turns events into readiness and arms the timer; and, with the lock given back, `finish`,
//! which leaves the table and wakes. Under the lock only the leaves are taken: a device's queue, the
//! alarm, the lists of connections that are scheduled or late.

use crate::alarm::Due;
use crate::budget::Grant;
use crate::device::Lane;
use crate::events::{self, Ring};
use crate::host::Host;
use crate::readiness::{Bits, Readiness, WakeList};
use crate::stats::count;
use crate::sync::{Arc, AtomicU8, Mutex, MutexGuard, Ordering};
use crate::timers::TimerKey;
use crate::tx::{self, Sent, Trouble};
use rawtcp_proto::stack::TimeWait;
use rawtcp_proto::wire::{IcmpError, IcmpKind};
use rawtcp_proto::{CloseReason, Connection, Events, FourTuple, Instant, SeqNum, State};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tracing::Span;

/// Turns of the driver after which it is worth while to spare the kernel what a connection, or a listener with as many of
/// them, receives: to say so costs as much as some tens of packets.
pub(crate) const UNTIL_BUSY: u8 = 64;

/// Whether the peer is so near that a window of half a megabyte is enough.
fn is_near(conn: &Connection) -> bool {
    conn.min_rtt().is_some_and(|rtt| rtt < Duration::from_millis(1))
}

/// One connection of a stack.
pub(crate) struct ConnCell {
    tuple: FourTuple,
    /// Asserted: what a panic leaves behind in the host is guarded by its own locks.
    host: AssertUnwindSafe<Arc<Host>>,
    /// The driver that goes on with it: by whose device its packets come.
    driver: AtomicU8,
    inner: Mutex<Inner>,
}

/// What the lock protects.
pub(crate) struct Inner {
    pub(crate) conn: Connection,
    pub(crate) readiness: Readiness,
    /// By what it sends.
    pub(crate) lane: Lane,
    /// It stands in the device's list of blocked connections.
    pub(crate) blocked: bool,
    /// It has come to the head of that list: it may send before those who wait.
    pub(crate) turn: bool,
    /// It stands in the engine's list of connections to be settled.
    pub(crate) touched: bool,
    /// It stands in the host's list of connections that have more to send.
    pub(crate) scheduled: bool,
    /// Bytes that its writer has written without giving way.
    pub(crate) stretch: usize,
    /// The tail of what was written waits for what is written next, or for the driver.
    pub(crate) tail_waits: bool,
    /// `set_linger`, as set.
    pub(crate) linger: Option<Duration>,
    /// `set_quickack`, as set.
    pub(crate) quickack: bool,
    /// Somebody waits for acknowledgments: bytes acknowledged when they were last told.
    acked: Option<u64>,
    /// The table does not hold it any more.
    detached: bool,
    /// An operation panicked with the lock held.
    broken: bool,
    timer: Option<TimerKey>,
    /// The earliest deadline for which the alarm will ask.
    armed: Option<Instant>,
    /// It was given up before the peer answered, which it may do yet.
    gave_up: bool,
    /// It has a share of its port's guard, to be given back.
    pub(crate) holds_port: bool,
    /// Turns of the driver until it counts as busy; 0: it does.
    pub(crate) until_busy: u8,
    granted: Grant,
    /// Bytes of the send budget.
    send_granted: usize,
    /// For whoever listens to what the connection does.
    pub(crate) events: Ring,
    /// `tracing` wants to know it, too.
    pub(crate) shows_events: bool,
    state: State,
    /// If anybody looks at it: it is large.
    span: Option<Box<Span>>,
}

/// How a connection leaves the table.
#[derive(Debug)]
enum Leave {
    Closed { holds_port: bool, gave_up: bool },
    TimeWait(TimeWait),
}

/// What is left to do without the lock.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct After {
    pub(crate) wake: WakeList,
    /// Boxed: it comes once in the life of a connection, and this is handed about with each segment.
    leave: Option<Box<(Leave, Grant)>>,
    /// There is more to send than one hold.
    pub(crate) again: bool,
    /// Packets that the hold has sent, a segmentable one counted as several.
    pub(crate) spent: usize,
    /// The driver has to look at the alarm.
    pub(crate) kick: bool,
}

impl fmt::Debug for ConnCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnCell").field(&self.tuple).finish()
    }
}

impl ConnCell {
    pub(crate) fn new(
        host: &Arc<Host>,
        mut conn: Connection,
        lane: Lane,
        granted: Grant,
        linger: Option<Duration>,
    ) -> Arc<Self> {
        let tuple = *conn.tuple();
        let span = tracing::debug_span!("connection", local = %tuple.local, remote = %tuple.remote);
        let shows_events = tracing::enabled!(target: events::TARGET, tracing::Level::TRACE);
        if shows_events {
            conn.set_trace(events::KEPT);
        }
        let inner = Inner {
            state: conn.state(),
            conn,
            readiness: Readiness::default(),
            lane,
            blocked: false,
            turn: false,
            touched: false,
            scheduled: false,
            stretch: 0,
            tail_waits: false,
            linger,
            quickack: true,
            acked: None,
            detached: false,
            broken: false,
            timer: None,
            armed: None,
            gave_up: false,
            holds_port: true,
            until_busy: if host.devices.ingress().is_some() { UNTIL_BUSY } else { 0 },
            granted,
            send_granted: 0,
            events: Ring::default(),
            shows_events,
            span: (!span.is_disabled()).then(|| Box::new(span)),
        };
        let driver = AtomicU8::new(host.devices.get(granted.device).driver as u8);
        Arc::new(ConnCell { tuple, host: AssertUnwindSafe(host.clone()), driver, inner: Mutex::new(inner) })
    }

    pub(crate) fn tuple(&self) -> &FourTuple {
        &self.tuple
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Which driver goes on with it.
    pub(crate) fn driver(&self) -> usize {
        self.driver.load(Ordering::Relaxed).into()
    }

    /// Its packets come by this device, and so does whatever follows from that.
    pub(crate) fn comes_by(&self, inner: &mut Inner, device: usize) {
        if inner.granted.device != device {
            self.changes_device(inner, device);
        }
    }

    #[cold]
    fn changes_device(&self, inner: &mut Inner, device: usize) {
        if inner.detached {
            // What it was granted has been given back.
            return;
        }
        let devices = &self.host.devices;
        if !self.host.budget.change(&mut inner.granted, device) {
            self.host.expect_more(device);
        }
        devices.follow(&mut inner.lane, device);
        self.driver.store(devices.get(device).driver as u8, Ordering::Relaxed);
    }

    /// The one way in. A panic of whoever held the lock before resets this connection, and only this one.
    pub(crate) fn lock(self: &Arc<Self>) -> MutexGuard<'_, Inner> {
        match self.inner.lock() {
            Ok(inner) => inner,
            Err(poisoned) => self.recover(poisoned.into_inner()),
        }
    }

    #[cold]
    fn recover<'a>(self: &'a Arc<Self>, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        self.inner.clear_poison();
        if !inner.broken {
            inner.broken = true;
            count(&self.host.counters.broken, 1);
            tracing::error!(connection = ?self.tuple, "an invariant was broken: the connection is reset");
            inner.conn.abort(self.host.clock.now());
            // Whoever waits is woken by the driver, which settles what is scheduled.
            inner.scheduled = true;
            self.host.schedule(self.clone());
        }
        inner
    }

    /// Transmits at most one hold, turns events into readiness, arms the timer, and notes what has to
    /// be done without the lock.
    pub(crate) fn settle(self: &Arc<Self>, inner: &mut Inner, now: Instant, after: &mut After) {
        self.settle_with(inner, now, &[], after);
    }

    /// The same by whoever has what is lent to the connection.
    pub(crate) fn settle_with(self: &Arc<Self>, inner: &mut Inner, now: Instant, lent: &[u8], after: &mut After) {
        self.size_buffers(inner);
        let mut trouble = Trouble::default();
        let mut sent = tx::transmit(&self.host, self, inner, now, lent, &mut trouble);
        if trouble.too_big || trouble.soft.is_some() {
            self.take_trouble(inner, now, &trouble);
            // With another MTU something may leave at once. More trouble waits for the next turn.
            sent = tx::transmit(&self.host, self, inner, now, lent, &mut Trouble::default());
        }
        if let Sent::More { packets } = sent {
            after.spent = packets;
            after.again |= !std::mem::replace(&mut inner.scheduled, true);
        }
        if inner.acked.is_some() {
            inner.tell_of_acks(after);
        }
        self.take_events(inner, after);
        if inner.detached {
            return;
        }
        // Whatever the events: what a connection owed at its end may have found the device full then.
        self.prepare_leave(inner, now, after);
        if inner.detached {
            return;
        }
        let at = match (inner.conn.poll_timeout(), inner.conn.rest_at()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if let Some(at) = at
            && inner.armed.is_none_or(|armed| at < armed)
        {
            inner.armed = Some(at);
            let key = *inner.timer.get_or_insert_with(|| self.host.alarm.insert(Due::Connection(self.clone())));
            after.kick |= self.host.alarm.arm(key, at);
        }
    }

    /// Buffers grow by what the budgets have, and give back what they do not use any more.
    fn size_buffers(&self, inner: &mut Inner) {
        if let Some(wanted) = inner.conn.wants_recv_buffer() {
            let before = inner.granted.bytes;
            let is_near = is_near(&inner.conn);
            if self.host.budget.grow(&mut inner.granted, wanted, is_near) {
                self.host.expect_more(inner.granted.device);
            }
            if inner.granted.bytes > before {
                inner.conn.grant_recv_buffer(inner.granted.bytes);
            }
        }
        let (budget, size) = (&self.host.send_budget, inner.conn.send_buffer());
        if let Some(wanted) = inner.conn.wants_send_buffer() {
            let more = budget.take(inner.send_granted, wanted - size);
            inner.send_granted += more;
            inner.conn.grant_send_buffer(size + more);
        }
        if inner.send_granted > 0 {
            let excess = budget.excess(inner.send_granted);
            if excess > 0 {
                inner.conn.grant_send_buffer(inner.conn.send_buffer().saturating_sub(excess));
            }
            let grown = inner.conn.send_buffer().saturating_sub(inner.conn.config().send_buffer);
            if grown < inner.send_granted {
                budget.release(inner.send_granted - grown);
                inner.send_granted = grown;
            }
        }
    }

    /// The alarm has taken the entry out of its heap, and so must be armed anew.
    pub(crate) fn on_alarm(inner: &mut Inner, now: Instant) {
        inner.armed = None;
        if inner.conn.poll_timeout().is_some_and(|at| at <= now) {
            inner.conn.on_timeout(now);
        }
        if inner.conn.rest_at().is_some_and(|at| at <= now) {
            inner.conn.rest();
        }
    }

    fn take_trouble(&self, inner: &mut Inner, now: Instant, trouble: &Trouble) {
        if let Some((seq, reason)) = trouble.soft {
            let _ = inner.conn.on_icmp(now, &local_error(&self.tuple, seq, reason));
        }
        if trouble.too_big {
            let known =
                self.host.devices.route(self.tuple.remote, Some(self.tuple.local.ip()), None).map(|way| way.mtu);
            let now_smaller = known.ok().filter(|&mtu| mtu < inner.conn.path_mtu());
            // 0: what the kernel says of the route did not help; step down.
            inner.conn.on_path_mtu(now, now_smaller.unwrap_or(0));
        }
    }

    /// Turns what happened since the last look into readiness.
    pub(crate) fn take_events(&self, inner: &mut Inner, after: &mut After) {
        if inner.conn.config().trace > 0 {
            inner.tell_events(after);
        }
        let events = inner.conn.take_events();
        if events.is_empty() {
            return;
        }
        if events.contains(Events::STATE) {
            self.trace_state(inner);
        }
        let bits = readiness_of(events, &inner.conn);
        if !bits.is_empty() {
            inner.readiness.set(bits, &mut after.wake);
        }
    }

    /// Takes the connection out of the alarm if it is over, and notes how it leaves the table.
    fn prepare_leave(&self, inner: &mut Inner, now: Instant, after: &mut After) {
        let leave = match inner.conn.time_wait(now) {
            Some(record) => Some(Leave::TimeWait(record)),
            None => {
                let &mut Inner { holds_port, gave_up, .. } = inner;
                inner.conn.is_closed().then_some(Leave::Closed { holds_port, gave_up })
            }
        };
        if let Some(leave) = leave {
            inner.detached = true;
            self.host.send_budget.release(std::mem::take(&mut inner.send_granted));
            if let Some(key) = inner.timer.take() {
                // Not the last reference: the caller has one.
                drop(self.host.alarm.remove(key));
            }
            after.leave = Some(Box::new((leave, inner.granted)));
        }
    }

    fn trace_state(&self, inner: &mut Inner) {
        let (from, to) = (inner.state, inner.conn.state());
        inner.state = to;
        if from != to {
            inner.in_span(|| tracing::debug!(from = from.name(), to = to.name(), "state"));
        }
    }

    /// What `settle` noted, with the lock given back.
    pub(crate) fn finish(self: &Arc<Self>, mut after: After) {
        self.leave(&mut after);
        if after.again {
            self.host.schedule(self.clone());
        }
        if after.kick {
            // The alarm is the first driver's, and the connection may be another's.
            self.host.kick();
        }
        after.wake.wake_all();
    }

    /// Gives its place in the table back, if it is over.
    pub(crate) fn leave(&self, after: &mut After) {
        let Some(leave) = after.leave.take() else { return };
        let (leave, granted) = *leave;
        match leave {
            Leave::Closed { holds_port, gave_up } => {
                if gave_up {
                    self.host.ports.avoid(self.host.clock.now(), self.tuple);
                }
                self.host.on_closed(self, holds_port);
            }
            Leave::TimeWait(record) => after.kick |= self.host.on_time_wait(self, record),
        }
        self.host.budget.release(granted);
    }

    /// It is over, and a segment has come that may belong to a new connection of the same four-tuple: has it leave the
    /// table at once, also in the place of another thread that is about to do that. Says whether it is out now.
    pub(crate) fn retire(self: &Arc<Self>, now: Instant) -> bool {
        let mut after = After::default();
        let mut inner = self.lock();
        self.settle(&mut inner, now, &mut after);
        let (over, record) = (inner.detached, inner.conn.time_wait(now));
        drop(inner);
        self.finish(after);
        match record {
            _ if !over => {}
            Some(record) if self.host.on_time_wait(self, record) => self.host.kick(),
            Some(_) => {}
            None => self.host.take_out(self),
        }
        over
    }

    /// Fails every operation that waits: the stack is dead, which they see when they look again.
    pub(crate) fn wake_everyone(self: &Arc<Self>) {
        let mut wake = WakeList::default();
        self.lock().readiness.wake(Bits::ALL | Bits::ACKED | Bits::PRIORITY | Bits::TRACED, &mut wake);
        wake.wake_all();
    }

    /// Lets go of everything that keeps this cell alive, whatever its state: the stack is dead.
    pub(crate) fn forget(self: &Arc<Self>) {
        let mut inner = self.lock();
        let timer = inner.timer.take();
        let detached = std::mem::replace(&mut inner.detached, true);
        let holds_port = inner.holds_port;
        drop(inner);
        if let Some(key) = timer {
            drop(self.host.alarm.remove(key));
        }
        if !detached {
            self.host.on_closed(self, holds_port);
        }
    }

    /// Whether the application has finished (the stream was dropped, or its write side shut down), but
    /// the peer has not acknowledged everything.
    pub(crate) fn is_undelivered(self: &Arc<Self>) -> bool {
        let inner = self.lock();
        let finished = inner.conn.is_orphan() || inner.conn.is_write_closed();
        finished && !inner.conn.is_closed() && !inner.conn.is_all_acked()
    }

    /// The application lets go, or the stack ends and the stream is closed as the kernel does it at the end
    /// of a process: FIN behind what was written, or RST if there is unread data or linger is zero.
    pub(crate) fn let_go(self: &Arc<Self>) {
        let unused = self.with(|inner, now| {
            inner.gave_up |= inner.conn.state() == State::SynSent;
            match inner.linger {
                _ if inner.conn.is_orphan() => {}
                Some(linger) if linger.is_zero() => inner.conn.abort(now),
                _ => inner.conn.close(now),
            }
            // Nobody polls any more, or everybody has been told of the end of the stack.
            inner.readiness.take_pollers()
        });
        drop(unused);
    }

    /// Whether there is no peer any more: what Linux's `getpeername` fails for.
    pub(crate) fn is_disconnected(self: &Arc<Self>) -> bool {
        matches!(self.lock().conn.state(), State::Closed | State::TimeWait) && !self.host.is_dead()
    }
}

impl Inner {
    /// What has waited for the application leaves with whatever is sent next.
    pub(crate) fn release(&mut self) {
        self.conn.release_handshake_ack();
        self.tail_waits = false;
    }

    /// The device by which its packets come.
    pub(crate) fn device(&self) -> usize {
        self.granted.device
    }

    /// It is over, and has left the table or is about to.
    pub(crate) fn has_left(&self) -> bool {
        self.detached
    }

    /// Bytes of the stream that the peer has acknowledged since the connection was opened.
    pub(crate) fn acked_bytes(&self) -> u64 {
        self.conn.bytes_acked()
    }

    /// From here on acknowledgments wake whoever waits for them.
    pub(crate) fn watch_acks(&mut self) {
        self.acked = Some(self.acked_bytes());
    }

    fn tell_of_acks(&mut self, after: &mut After) {
        let acked = self.acked_bytes();
        if self.acked != Some(acked) || self.conn.is_all_acked() || self.conn.state() == State::Closed {
            // Who is not content watches again.
            self.acked = None;
            self.readiness.wake(Bits::ACKED, &mut after.wake);
        }
    }

    #[cold]
    fn tell_events(&mut self, after: &mut After) {
        if self.pass_events_on() && self.events.is_listened_to() {
            self.readiness.wake(Bits::TRACED, &mut after.wake);
        }
    }

    fn in_span(&self, tell: impl FnOnce()) {
        match &self.span {
            Some(span) => span.in_scope(tell),
            None => tell(),
        }
    }

    /// Passes on what the connection says of itself. Was there anything?
    pub(crate) fn pass_events_on(&mut self) -> bool {
        let mut any = false;
        while let Some(traced) = self.conn.poll_trace() {
            any = true;
            if self.shows_events {
                let (at, event) = (traced.at.as_nanos(), &traced.event);
                self.in_span(|| tracing::trace!(target: events::TARGET, at, %event));
            }
            if self.events.is_listened_to() {
                self.events.push(traced);
            }
        }
        any
    }

    /// Whether the connection is still on its way to be one.
    pub(crate) fn is_opening(&self) -> bool {
        matches!(self.conn.state(), State::SynSent | State::SynReceived)
    }
}

/// The bits that epoll and mio would show for these events.
fn readiness_of(events: Events, conn: &Connection) -> Bits {
    let closed = conn.state() == State::Closed;
    let mut bits = Bits::NONE;
    if events.contains(Events::READABLE) {
        bits |= Bits::READABLE;
    }
    if events.intersects(Events::CONNECTED | Events::WRITABLE | Events::WRITE_CLOSED) {
        bits |= Bits::WRITABLE;
    }
    if events.contains(Events::READ_CLOSED) {
        bits |= Bits::READ;
    }
    if events.contains(Events::URGENT) {
        bits |= Bits::PRIORITY;
    }
    if events.contains(Events::ERROR) {
        bits |= Bits::ERROR;
    }
    // EPOLLHUP: both directions are over. A FIN of our own alone shows as writable only.
    let both = conn.is_read_closed() && conn.is_write_closed();
    if closed || both && events.intersects(Events::READ_CLOSED | Events::WRITE_CLOSED | Events::TIME_WAIT) {
        bits |= Bits::READ | Bits::WRITE;
    }
    bits
}

/// An error of a send, in the form in which the same news comes from a router.
fn local_error(tuple: &FourTuple, seq: SeqNum, reason: CloseReason) -> IcmpError {
    let kind = if reason == CloseReason::NetUnreachable { IcmpKind::NetUnreachable } else { IcmpKind::HostUnreachable };
    IcmpError { kind, tuple: *tuple, seq, from: tuple.local.ip() }
}

#[cfg(test)]
mod tests {
    use crate::{Device, Stack};
    use std::io::ErrorKind;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What a million of them take is mostly this. The bound on a connection's own memory is in `rawtcp-proto`.
    #[test]
    fn a_cell_is_small() {
        let shell = size_of::<super::ConnCell>() - size_of::<rawtcp_proto::Connection>();
        assert!(shell <= 384, "{shell}");
    }

    /// A driver remembers who took the last segment.
    #[tokio::test]
    async fn a_cell_goes_with_its_connection() {
        let stack = Stack::builder().device(Device::Loopback).build().unwrap();
        let listener = stack.bind("127.0.0.1:0").await.unwrap();
        for closes in [0, 1] {
            let (a, b) = tokio::join!(stack.connect(listener.local_addr().unwrap()), listener.accept());
            let mut ends = [a.unwrap(), b.unwrap().0];
            let cells = ends.each_ref().map(|end| std::sync::Arc::downgrade(end.cell()));
            ends[closes].shutdown().await.unwrap();
            assert_eq!(ends[1 - closes].read(&mut [0]).await.unwrap(), 0);
            drop(ends);
            let gone = async {
                while cells.iter().any(|cell| cell.strong_count() > 0) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.expect("both are gone");
        }
    }

    #[tokio::test]
    async fn a_panic_under_the_lock_resets_this_connection_and_no_other() {
        let stack = Stack::builder().device(Device::Loopback).build().unwrap();
        let listener = stack.bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut pairs = Vec::new();
        for _ in 0..2 {
            let (a, b) = tokio::join!(stack.connect(addr), listener.accept());
            pairs.push((a.unwrap(), b.unwrap().0));
        }
        let cell = pairs[0].0.cell().clone();
        let reader = tokio::spawn({
            let cell = cell.clone();
            async move { cell.ready(super::Bits::READ).await.map(drop) }
        });
        tokio::task::yield_now().await;
        let panicked = catch_unwind(AssertUnwindSafe(|| cell.with(|_, _| panic!("a test's"))));
        assert!(panicked.is_err());
        let (mut broken, mut peer) = pairs.swap_remove(0);
        assert_eq!(broken.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(peer.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        reader.await.unwrap().unwrap();
        let (mut a, mut b) = pairs.swap_remove(0);
        a.write_all(b"x").await.unwrap();
        assert_eq!(b.read_u8().await.unwrap(), b'x');
        assert_eq!(stack.stats().broken, 1);
    }
}
