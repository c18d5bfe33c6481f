//! A listener's accept queue, and who waits for it.

use crate::conn_cell::{ConnCell, UNTIL_BUSY};
use crate::host::{Host, ListenOptions};
use crate::readiness::{Bits, Readiness, WakeList};
use crate::sync::{Arc, AtomicU8, AtomicUsize, Mutex, Ordering, lock};
use rawtcp_proto::stack::AcceptQueue;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::coop::poll_proceed;

/// A listener, as the shards' tables hold it.
pub(crate) struct ListenerCell {
    local: SocketAddr,
    host: AssertUnwindSafe<Arc<Host>>,
    backlog: usize,
    /// Connections in the queue, and on their way to it; readable without its lock: a shard asks while it is
    /// locked.
    len: AtomicUsize,
    /// Hop limit of accepted connections.
    ttl: AtomicU8,
    /// Connections until it counts as busy; 0: it does.
    until_busy: AtomicU8,
    /// Linger time of accepted connections.
    linger: Option<Duration>,
    /// Sockets that listen here: more than one if all of them have SO_REUSEPORT. They share the queue.
    sockets: AtomicUsize,
    reuseport: bool,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Arc<ConnCell>>,
    /// Used for its wakers only: whether there is something to accept is in `ready`.
    waiting: Readiness,
    closed: bool,
}

impl fmt::Debug for ListenerCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListenerCell").field(&self.local).finish()
    }
}

/// The table's handle for a listener.
#[derive(Clone, Debug)]
pub(crate) struct ListenerRef(pub(crate) Arc<ListenerCell>);

impl AcceptQueue for ListenerRef {
    fn has_room(&self) -> bool {
        // As Linux: the backlog is exceeded by one.
        self.0.len.load(Ordering::Acquire) <= self.0.backlog
    }
}

impl ListenerCell {
    pub(crate) fn new(host: &Arc<Host>, local: SocketAddr, options: &ListenOptions) -> Arc<Self> {
        let &ListenOptions { backlog, linger, reuseport, .. } = options;
        let ttl = options.conn.ttl;
        Arc::new(ListenerCell {
            linger,
            reuseport,
            sockets: AtomicUsize::new(1),
            local,
            host: AssertUnwindSafe(host.clone()),
            backlog,
            len: AtomicUsize::new(0),
            ttl: AtomicU8::new(ttl),
            until_busy: AtomicU8::new(if host.devices.ingress().is_some() { UNTIL_BUSY } else { 0 }),
            queue: Mutex::default(),
        })
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn ttl(&self) -> u8 {
        self.ttl.load(Ordering::Relaxed)
    }

    /// A driver has accepted a connection; says whether this is the one that makes it busy.
    pub(crate) fn becomes_busy(&self) -> bool {
        let one_less = |left: u8| left.checked_sub(1);
        self.until_busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) == Ok(1)
    }

    pub(crate) fn linger(&self) -> Option<Duration> {
        self.linger
    }

    /// Another socket wants to listen here too. Refused if it, or who listens, does not want to share.
    pub(crate) fn share(&self, reuseport: bool) -> bool {
        let one_more = |sockets: usize| (sockets > 0).then_some(sockets + 1);
        reuseport && self.reuseport && self.sockets.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    /// One socket less listens here, or none any more; says whether this was the end of it.
    pub(crate) fn leave(&self, all: bool) -> bool {
        let left = |sockets: usize| Some(if all { 0 } else { sockets.saturating_sub(1) });
        let before = self.sockets.fetch_update(Ordering::AcqRel, Ordering::Acquire, left);
        matches!(before, Ok(before) if before > 0 && (all || before == 1))
    }

    pub(crate) fn set_ttl(&self, ttl: u8) {
        self.ttl.store(ttl, Ordering::Relaxed);
    }

    /// A connection is on its way to the queue.
    pub(crate) fn reserve(&self) {
        self.len.fetch_add(1, Ordering::AcqRel);
    }

    /// One connection less is in the queue, or on its way there.
    pub(crate) fn unreserve(&self) {
        self.len.fetch_sub(1, Ordering::AcqRel);
    }

    /// Queues a connection that has reserved its place, and takes out everyone who waits: tokio too wakes them all. Refused when
    /// the listener has been dropped meanwhile.
    pub(crate) fn push(&self, cell: Arc<ConnCell>, wake: &mut WakeList) -> Result<(), Arc<ConnCell>> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            self.unreserve();
            return Err(cell);
        }
        queue.ready.push_back(cell);
        queue.waiting.wake(Bits::READ, wake);
        Ok(())
    }

    fn pop(&self, queue: &mut Queue) -> Option<io::Result<Arc<ConnCell>>> {
        if self.host.is_dead() {
            return Some(Err(self.host.gone()));
        }
        let cell = queue.ready.pop_front()?;
        self.unreserve();
        Some(Ok(cell))
    }

    /// `key` is that of the socket's last poll, whose waker is replaced.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>, key: &mut Option<usize>) -> Poll<io::Result<Arc<ConnCell>>> {
        let coop = ready!(poll_proceed(cx));
        let mut queue = lock(&self.queue);
        match self.pop(&mut queue) {
            Some(result) => {
                let left = queue.waiting.waiters().leave(key);
                drop(queue);
                drop(left);
                coop.made_progress();
                Poll::Ready(result)
            }
            None => {
                let replaced = queue.waiting.waiters().wait(key, Bits::READ, cx.waker());
                drop(queue);
                drop(replaced);
                Poll::Pending
            }
        }
    }

    /// A wait is over, or was given up.
    pub(crate) fn stop_waiting(&self, key: &mut Option<usize>) {
        if key.is_some() {
            let left = lock(&self.queue).waiting.waiters().leave(key);
            // Without the lock: it may be the last that holds a task, and that a stream.
            drop(left);
        }
    }

    /// Waits for a connection; any number of tasks may, and a dropped wait has accepted nothing.
    pub(crate) fn accept(&self) -> Accept<'_> {
        Accept { cell: self, key: None }
    }

    pub(crate) fn wake_everyone(&self) {
        let mut wake = WakeList::default();
        lock(&self.queue).waiting.wake(Bits::READ, &mut wake);
        wake.wake_all();
    }

    /// A socket that listened here is gone, or the stack ends. With the last one, what was not accepted is
    /// reset, as Linux does.
    pub(crate) fn close(&self, all: bool) {
        if !self.host.unlisten(self, all) {
            return;
        }
        let refused = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            std::mem::take(&mut queue.ready)
        };
        for cell in refused {
            cell.with(|inner, now| inner.conn.abort(now));
        }
    }
}

/// A task's wait in `accept`.
#[derive(Debug)]
pub(crate) struct Accept<'a> {
    cell: &'a ListenerCell,
    key: Option<usize>,
}

impl Future for Accept<'_> {
    type Output = io::Result<Arc<ConnCell>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.cell.poll_accept(cx, &mut this.key)
    }
}

impl Drop for Accept<'_> {
    fn drop(&mut self) {
        self.cell.stop_waiting(&mut self.key);
    }
}
