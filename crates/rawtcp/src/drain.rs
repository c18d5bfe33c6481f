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
use rawtcp_io::wait::{self, EventFd, Interest};
use rawtcp_io::{Drained, ReadySource};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Batches taken from a device before everything else gets its turn.
const BATCHES: usize = 16;

/// How long to wait at most for something that cannot wake us: a stream dropped by another thread.
const LOOK: Duration = Duration::from_millis(20);

/// On links where packets cannot be lost, nobody answers any more who has not answered for this long: a stack
/// that nobody drives. A peer may well be busy for a while.
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
/// `broken`, as the driver panicked at work, is not trusted with that.
pub(crate) fn bury(engine: Engine, politely_waited: bool, broken: bool) {
    let host = engine.host().clone();
    fail_all(&host);
    if broken {
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
    // A segment that comes now finds nobody: the kernel says so.
    host.ports.abandon();
    host.bury();
    drop(host.take_scheduled(usize::MAX));
}

/// Waits, blocking, until a stack whose driver still runs has delivered what streams left.
pub(crate) fn wait_for_delivery(host: &Arc<Host>) {
    let until = real_now() + host.settings.exit_drain;
    while real_now() < until && !host.is_buried() && host.connections().iter().any(ConnCell::is_undelivered) {
        std::thread::sleep(Duration::from_millis(1));
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
        let lossless = self.engine.host().devices.are_lossless();
        let (mut received, mut last_sign) = (self.engine.received, real_now());
        let event = EventFd::new().map(Arc::new).ok();
        loop {
            if let Some(event) = &event {
                self.register(event);
            }
            let more = self.turn();
            let now = real_now();
            if now >= self.until || !self.engine.host().connections().iter().any(ConnCell::is_undelivered) {
                return;
            }
            if self.engine.received != received {
                (received, last_sign) = (self.engine.received, now);
            } else if lossless && self.engine.host().devices.drops() == 0 && now.duration_since(last_sign) > QUIET {
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
        more |= self.engine.scheduled();
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
                let both = open.queue.is_busy();
                interests.push(if both { Interest::both(fd) } else { Interest::readable(fd) });
            }
        }
        let next = host.alarm.next().map_or(LOOK, |at| at.since(host.clock.now()));
        if wait::poll(&mut interests, Some(most.min(next).min(LOOK))).is_err() {
            // Never spin, whatever is wrong.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
