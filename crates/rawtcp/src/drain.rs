//! The end: what was written is delivered although nobody drives the stack any more.
//!
//! Kernel TCP goes on after a program has ended; this stack can not. So when its driver is dropped, it
//! goes on without a runtime, blocking, until everything is acknowledged or `exit_drain` is over: first
//! what streams left that were dropped or shut down, then what the others have written, which are closed as
//! the kernel closes the sockets of a process that ends. Who has not delivered then is reset: a peer learns
//! of the end in any case.

use crate::clock::real_now;
use crate::conn_cell::ConnCell;
use crate::engine::Engine;
use crate::host::{Host, Life};
use crate::sync::Arc;
use rawtcp_io::mem::Receiver;
use rawtcp_io::wait::{self, EventFd, Interest};
use rawtcp_io::{Drained, ReadySource};
use rawtcp_proto::FourTuple;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Batches taken from a device before everything else gets its turn.
const BATCHES: usize = 16;

/// How long to wait at most for something that cannot wake us: a stream dropped by another thread.
const LOOK: Duration = Duration::from_millis(20);

/// Inside the process it is known who does not take its packets: after this long, that is taken for a stack that
/// nobody drives. A peer may well be busy for a while, and one that takes its packets may read later.
const QUIET: Duration = Duration::from_secs(1);

/// How long resets may take to leave by a device that is full.
const FLUSH: Duration = Duration::from_millis(100);

/// Every operation fails from here on, and every stream is closed.
pub(crate) fn end_all(host: &Arc<Host>) {
    fail_all(host);
    close_all(host);
}

/// From here on nobody begins to wait, and nobody waits. Without any lock: a waker may drop streams.
fn fail_all(host: &Arc<Host>) {
    host.set_life(Life::Dead);
    host.connections().iter().for_each(ConnCell::wake_everyone);
    for listener in host.listeners() {
        listener.wake_everyone();
        // What was not accepted is reset, as if the listener had been dropped.
        listener.close(true);
    }
}

fn close_all(host: &Arc<Host>) {
    host.connections().iter().for_each(ConnCell::let_go);
}

/// The driver is gone: fails whoever waits, then delivers what is left to be delivered. An engine that is
/// `broken`, as the driver panicked at work, is not trusted with that; without a device there is no way to do it.
pub(crate) fn bury(engine: Engine, politely_waited: bool, broken: bool) {
    let host = engine.host().clone();
    fail_all(&host);
    if broken || host.is_cut_off() {
        drop(engine);
    } else {
        let patience = if politely_waited { Duration::ZERO } else { host.settings.exit_drain };
        let mut drain = Drain { engine, until: real_now() + patience };
        drain.deliver();
        close_all(&host);
        drain.deliver();
        drain.reset_rest();
    }
    for cell in host.connections() {
        cell.forget();
    }
    for open in host.devices.all() {
        open.queue.clear();
    }
    host.devices.all().iter().for_each(|open| open.io.release());
    // A segment that comes now finds nobody: the kernel says so.
    if let Some(ingress) = host.devices.ingress() {
        // At once instead of port by port.
        ingress.end();
    }
    host.ports.abandon();
    host.bury();
    host.posts.iter().for_each(|post| post.clear());
}

/// Waits, blocking, until a stack whose driver still runs has delivered what streams left.
pub(crate) fn wait_for_delivery(host: &Arc<Host>) {
    let until = real_now() + host.settings.exit_drain;
    while real_now() < until && !host.is_buried() && host.connections().iter().any(ConnCell::is_undelivered) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits, blocking, until whoever is at it has ended a stack.
pub(crate) fn wait_for_burial(host: &Host) {
    let until = real_now() + host.settings.exit_drain + FLUSH;
    while real_now() < until && !host.is_buried() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Signs of life of the peers inside the process: what they had done when they last did something, and when that was seen.
#[derive(Debug, Default)]
struct Signs(HashMap<FourTuple, (u64, Instant)>);

impl Signs {
    /// Whether this connection's peer may still answer, for all that is known.
    fn may_answer(&mut self, host: &Host, cell: &Arc<ConnCell>, now: Instant) -> bool {
        let done = match host.devices.receiver(cell.tuple().remote) {
            // Who takes everything is alive, even if its program does not read just now.
            None | Some(Receiver::Other { waiting: 0, .. }) => return true,
            Some(Receiver::Nobody) => return false,
            Some(Receiver::Other { taken, .. }) => taken,
            // Both ends are here. Nobody will read any more: it goes on as long as there is room.
            Some(Receiver::Own) => cell.lock().acked_bytes(),
        };
        let sign = self.0.entry(*cell.tuple()).or_insert((done, now));
        if sign.0 != done {
            *sign = (done, now);
        }
        now.duration_since(sign.1) <= QUIET
    }
}

/// An engine without a driver.
#[derive(Debug)]
struct Drain {
    engine: Engine,
    until: Instant,
}

impl Drain {
    /// Drives the stack until what was finished is delivered, or time is over. At least one turn.
    fn deliver(&mut self) {
        let mut signs = Signs::default();
        let event = EventFd::new().map(Arc::new).ok();
        loop {
            if let Some(event) = &event {
                self.register(event);
            }
            let more = self.turn();
            let now = real_now();
            let host = self.engine.host();
            let mut left = host.connections();
            left.retain(ConnCell::is_undelivered);
            if now >= self.until || !left.iter().any(|cell| signs.may_answer(host, cell, now)) {
                return;
            }
            if !more {
                self.wait(event.as_deref(), self.until - now);
            }
        }
    }

    /// Resets the connections that have not delivered.
    fn reset_rest(&mut self) {
        let host = self.engine.host().clone();
        let rest: Vec<_> = host.connections().into_iter().filter(ConnCell::is_undelivered).collect();
        if rest.is_empty() {
            return;
        }
        for cell in &rest {
            tracing::debug!(connection = ?cell.tuple(), "not delivered before the end of the stack: reset");
            cell.with(|inner, now| inner.conn.abort(now));
        }
        let until = real_now() + FLUSH;
        loop {
            let more = self.turn();
            let now = real_now();
            if now >= until || !more && !host.devices.all().iter().any(|open| open.queue.is_busy()) {
                return;
            }
            if !more {
                self.wait(None, until - now);
            }
        }
    }

    /// One turn, as the driver's, without readiness. Says whether there is more to do without waiting.
    fn turn(&mut self) -> bool {
        let devices = self.engine.host().devices.all().len();
        for at in 0..devices {
            for _ in 0..BATCHES {
                if !matches!(self.engine.receive(at), Ok(Drained::Maybe)) {
                    break;
                }
            }
        }
        let mut more = self.engine.timers();
        for driver in 0..self.engine.host().posts.len() {
            more |= self.engine.late_for(driver);
            more |= self.engine.due_for(driver);
            more |= self.engine.scheduled_for(driver);
        }
        for at in 0..devices {
            if self.engine.host().devices.get(at).queue.is_busy() {
                more |= self.engine.flush(at);
            }
        }
        more
    }

    fn register(&self, event: &Arc<EventFd>) {
        event.clear();
        for open in self.engine.host().devices.all() {
            if let ReadySource::Waker(slot) = open.io.ready_source() {
                slot.register(&event.clone().into());
            }
        }
    }

    fn wait(&self, event: Option<&EventFd>, most: Duration) {
        let host = self.engine.host();
        let mut interests: Vec<_> = event.iter().map(|event| Interest::readable(event.as_fd())).collect();
        for open in host.devices.all() {
            if let ReadySource::Fd(fd) = open.io.ready_source() {
                open.io.expect_poll();
                interests.push(Interest::readable(fd));
                if open.queue.is_busy() {
                    interests.push(Interest::writable(open.io.writable_fd().unwrap_or(fd)));
                }
            }
        }
        let next = host.alarm.next().map_or(LOOK, |at| at.since(host.clock.now()));
        if wait::poll(&mut interests, Some(most.min(next).min(LOOK))).is_err() {
            // Never spin, whatever is wrong.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
