//! The end: what was written is delivered although nobody drives the stack any more.
//!
//! Kernel TCP goes on after a program has ended; this stack can not. So when its driver is dropped, it
//! goes on without a runtime, blocking, until everything that dropped streams left behind is
//! acknowledged or `exit_drain` is over. A stream dropped still later does the same for itself in what
//! is left of that time.

use crate::clock::real_now;
use crate::conn_cell::ConnCell;
use crate::engine::Engine;
use crate::host::{Host, Life};
use crate::sync::{Arc, lock};
use rawtcp_io::wait::{self, EventFd, Interest};
use rawtcp_io::{Drained, ReadySource};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Batches taken from a device before everything else gets its turn.
const BATCHES: usize = 16;

/// How long to wait at most for something that cannot wake us: a stream dropped by another thread.
const LOOK: Duration = Duration::from_millis(20);

/// Where packets cannot be lost, nobody answers who has not answered for this long.
const QUIET: Duration = Duration::from_millis(100);

/// The engine of a dead stack.
#[derive(Debug)]
pub(crate) struct Retired {
    engine: Engine,
    until: Instant,
}

/// The driver is gone: fails whoever waits, then delivers what is left to be delivered.
pub(crate) fn bury(engine: Engine, politely_waited: bool) {
    let host = engine.host().clone();
    host.set_life(Life::Dead);
    // From here on nobody begins to wait. Without any lock: a waker may drop streams.
    host.connections().iter().for_each(ConnCell::wake_everyone);
    host.listeners().iter().for_each(|listener| listener.wake_everyone());
    let patience = if politely_waited { Duration::ZERO } else { host.settings.exit_drain };
    let mut retired = Retired { engine, until: real_now() + patience };
    {
        let mut place = lock(&host.retired);
        // Under the lock: whoever drops a stream meanwhile waits here, and then delivers by itself.
        let orphans: Vec<_> = host.connections().into_iter().filter(ConnCell::is_undelivered_orphan).collect();
        retired.deliver(orphans);
        for cell in host.connections() {
            if cell.lock().conn.is_orphan() {
                cell.forget();
            }
        }
        *place = Some(retired);
    }
    clear_if_empty(&host);
    host.bury();
}

/// A stream was dropped on a dead stack.
pub(crate) fn late(cell: &Arc<ConnCell>) {
    let host = cell.host();
    {
        let mut place = lock(&host.retired);
        // Nothing there yet: the driver is about to begin, and will find this orphan in the table.
        let Some(retired) = place.as_mut() else { return };
        retired.deliver(vec![cell.clone()]);
        cell.forget();
    }
    clear_if_empty(host);
}

/// The last stream is gone: so are the engine and with it the last reference of the stack to itself.
fn clear_if_empty(host: &Arc<Host>) {
    if host.connections().is_empty() {
        let gone = lock(&host.retired).take();
        for open in host.devices.all() {
            open.queue.clear();
        }
        drop(host.take_scheduled());
        drop(gone);
    }
}

/// Waits, blocking, until a stack whose driver still runs has delivered what dropped streams left.
pub(crate) fn wait_for_orphans(host: &Arc<Host>) {
    let until = real_now() + host.settings.exit_drain;
    while real_now() < until && !host.is_dead() && host.connections().iter().any(ConnCell::is_undelivered_orphan) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Retired {
    /// Drives the stack until these have delivered, or time is over.
    fn deliver(&mut self, mut waiting: Vec<Arc<ConnCell>>) {
        let lossless = self.engine.host().devices.are_lossless();
        let (mut received, mut last_sign) = (self.engine.received, real_now());
        let event = EventFd::new().map(Arc::new).ok();
        loop {
            if let Some(event) = &event {
                self.register(event);
            }
            self.turn();
            waiting.retain(ConnCell::is_undelivered_orphan);
            let now = real_now();
            if waiting.is_empty() || now >= self.until {
                return;
            }
            if self.engine.received != received {
                (received, last_sign) = (self.engine.received, now);
            } else if lossless && now.duration_since(last_sign) > QUIET {
                return;
            }
            self.wait(event.as_deref(), self.until - now);
        }
    }

    /// One turn, as the driver's, without readiness.
    fn turn(&mut self) {
        let devices = self.engine.host().devices.all().len();
        for at in 0..devices {
            for _ in 0..BATCHES {
                if !matches!(self.engine.receive(at), Ok(Drained::Maybe)) {
                    break;
                }
            }
        }
        while self.engine.timers() {}
        self.engine.scheduled();
        for at in 0..devices {
            if self.engine.host().devices.get(at).queue.is_busy() {
                self.engine.flush(at);
            }
        }
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
