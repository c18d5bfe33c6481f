//! What a connection does and why, as it happens.

use crate::conn_cell::ConnCell;
use crate::readiness::Bits;
use crate::sync::Arc;
use rawtcp_proto::{State, Traced};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Events that the connection itself keeps between two turns, which take them out.
pub(crate) const KEPT: usize = 256;

/// Where `tracing` finds the events.
pub(crate) const TARGET: &str = "rawtcp::tcp";

/// The events for whoever listens.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    kept: Option<Box<Kept>>,
    /// Which of the listeners it is for: a later one takes its place.
    generation: u64,
}

#[derive(Debug)]
struct Kept {
    queue: VecDeque<Traced>,
    capacity: usize,
    lost: u64,
}

impl Ring {
    pub(crate) fn push(&mut self, traced: Traced) {
        let Some(kept) = &mut self.kept else { return };
        if kept.queue.len() >= kept.capacity {
            kept.queue.pop_front();
            kept.lost += 1;
        }
        kept.queue.push_back(traced);
    }

    fn pop(&mut self) -> Option<Traced> {
        self.kept.as_mut()?.queue.pop_front()
    }

    fn lost(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.lost)
    }

    pub(crate) fn is_listened_to(&self) -> bool {
        self.kept.is_some()
    }
}

/// The events of one connection: its changes of state, retransmissions, changes of the congestion window and timers,
/// each with its reason. Made by [`TcpStream::events`](crate::net::TcpStream::events).
///
/// It holds a bounded number of them. Who listens too slowly loses the oldest, and [`lost`](Self::lost) counts them.
/// Times are those of the stack's clock.
pub struct Events {
    cell: Arc<ConnCell>,
    generation: u64,
}

impl Events {
    pub(crate) fn listen(cell: &Arc<ConnCell>, capacity: usize) -> Events {
        let mut inner = cell.lock();
        let generation = inner.events.generation + 1;
        let kept = Kept { queue: VecDeque::new(), capacity: capacity.max(1), lost: 0 };
        inner.events = Ring { kept: Some(Box::new(kept)), generation };
        if inner.conn.config().trace == 0 {
            inner.conn.set_trace(KEPT);
        }
        let mut wake = crate::readiness::WakeList::default();
        inner.readiness.wake(Bits::TRACED, &mut wake);
        drop(inner);
        wake.wake_all();
        Events { cell: cell.clone(), generation }
    }

    /// The next event. `None`: the connection is over, or somebody else listens now. Cancel safe.
    pub async fn next(&mut self) -> Option<Traced> {
        Next { events: self, key: None }.await
    }

    /// How many events there was no room for.
    pub fn lost(&self) -> u64 {
        let inner = self.cell.lock();
        let mine = inner.events.generation == self.generation;
        if mine { inner.events.lost() + inner.conn.trace_lost() } else { 0 }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Events").field(&self.cell).finish()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut inner = self.cell.lock();
        if inner.events.generation == self.generation {
            inner.events = Ring { generation: self.generation, ..Ring::default() };
            if !inner.shows_events {
                inner.conn.set_trace(0);
            }
        }
    }
}

/// A task's wait for an event; leaves no trace when dropped.
struct Next<'a> {
    events: &'a Events,
    key: Option<usize>,
}

impl Future for Next<'_> {
    type Output = Option<Traced>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Traced>> {
        let this = self.get_mut();
        let mut inner = this.events.cell.lock();
        let mine = inner.events.generation == this.events.generation;
        if mine {
            // The last words of one that has ended and is not settled yet are still with itself.
            inner.pass_events_on();
        }
        let next = if mine { inner.events.pop() } else { None };
        let over = matches!(inner.conn.state(), State::Closed | State::TimeWait) || this.events.cell.host().is_dead();
        if next.is_none() && mine && !over {
            let replaced = inner.readiness.waiters().wait(&mut this.key, Bits::TRACED, cx.waker());
            // A waker is code of the caller's: it is dropped without the lock.
            drop(inner);
            drop(replaced);
            return Poll::Pending;
        }
        let left = inner.readiness.waiters().leave(&mut this.key);
        drop(inner);
        drop(left);
        Poll::Ready(next)
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        if self.key.is_some() {
            let left = self.events.cell.lock().readiness.waiters().leave(&mut self.key);
            drop(left);
        }
    }
}
