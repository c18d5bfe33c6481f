//! A listener's accept queue, and who waits for it.

use crate::conn_cell::ConnCell;
use crate::error;
use crate::host::Host;
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
use tokio::task::coop::poll_proceed;

/// A listener, as the shards' tables hold it.
pub(crate) struct ListenerCell {
    local: SocketAddr,
    host: AssertUnwindSafe<Arc<Host>>,
    backlog: usize,
    /// Connections in the queue, readable without its lock: a shard asks while it is locked.
    len: AtomicUsize,
    /// Hop limit of accepted connections.
    ttl: AtomicU8,
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
    pub(crate) fn new(host: &Arc<Host>, local: SocketAddr, backlog: usize, ttl: u8) -> Arc<Self> {
        Arc::new(ListenerCell {
            local,
            host: AssertUnwindSafe(host.clone()),
            backlog,
            len: AtomicUsize::new(0),
            ttl: AtomicU8::new(ttl),
            queue: Mutex::default(),
        })
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn ttl(&self) -> u8 {
        self.ttl.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ttl(&self, ttl: u8) {
        self.ttl.store(ttl, Ordering::Relaxed);
    }

    /// Queues a connection and takes out everyone who waits: tokio too wakes them all. Refused when
    /// the listener has been dropped meanwhile.
    pub(crate) fn push(&self, cell: Arc<ConnCell>, wake: &mut WakeList) -> Result<(), Arc<ConnCell>> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err(cell);
        }
        queue.ready.push_back(cell);
        self.len.store(queue.ready.len(), Ordering::Release);
        queue.waiting.wake(Bits::READ, wake);
        Ok(())
    }

    fn pop(&self, queue: &mut Queue) -> Option<io::Result<Arc<ConnCell>>> {
        if self.host.is_dead() {
            return Some(Err(error::gone()));
        }
        let cell = queue.ready.pop_front()?;
        self.len.store(queue.ready.len(), Ordering::Release);
        Some(Ok(cell))
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Arc<ConnCell>>> {
        let coop = ready!(poll_proceed(cx));
        let mut queue = lock(&self.queue);
        match self.pop(&mut queue) {
            Some(result) => {
                coop.made_progress();
                Poll::Ready(result)
            }
            None => {
                queue.waiting.register(Bits::READ, cx.waker());
                Poll::Pending
            }
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

    /// The listener is dropped: what was not accepted is reset, as Linux does.
    pub(crate) fn close(&self) {
        self.host.unlisten(self.local);
        let refused = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            std::mem::take(&mut queue.ready)
        };
        for cell in refused {
            cell.with(|inner, now| inner.conn.abort(now));
            if self.host.is_dead() {
                crate::drain::late(&cell);
            }
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
        let coop = ready!(poll_proceed(cx));
        let this = self.get_mut();
        let mut queue = lock(&this.cell.queue);
        match this.cell.pop(&mut queue) {
            Some(result) => {
                queue.waiting.waiters().leave(&mut this.key);
                coop.made_progress();
                Poll::Ready(result)
            }
            None => {
                queue.waiting.waiters().wait(&mut this.key, Bits::READ, cx.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for Accept<'_> {
    fn drop(&mut self) {
        if self.key.is_some() {
            lock(&self.cell.queue).waiting.waiters().leave(&mut self.key);
        }
    }
}
