//! The driver: the task (or thread) that gives a stack's engine its turns.
//!
//! It waits for its devices, for the alarm, and for a kick from another thread; it takes bounded turns
//! and yields between them. Only `enable_io` is needed of the runtime; devices inside the process use
//! tokio's timer where there is one.

use crate::ambient;
use crate::conn_cell::ConnCell;
use crate::drain;
use crate::engine::Engine;
use crate::host::Host;
use crate::sync::Arc;
use rawtcp_io::{Drained, ReadySource};
use rawtcp_proto::Instant;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Handle};
use tokio::time::Sleep;

/// Rounds over all sources before the task yields: about a millisecond under full load.
const ROUNDS: usize = 8;

/// How one device is waited for.
#[derive(Debug)]
enum Source {
    Fd {
        readable: AsyncFd<OwnedFd>,
        /// Registered only while the device is full: the kernel reports "writable" after every packet
        /// sent, and would wake the reactor each time.
        writable: Option<AsyncFd<OwnedFd>>,
    },
    /// A waker's place in the device.
    Slot,
}

/// How the alarm is waited for.
#[derive(Debug)]
enum Timer {
    Fd(AsyncFd<OwnedFd>),
    /// tokio's clock, and what it is set to.
    Sleep(Option<(Instant, Pin<Box<Sleep>>)>),
}

/// The task that drives a stack. Dropping it ends the stack.
#[derive(Debug)]
pub(crate) struct Driver {
    /// Taken out by `drop`.
    engine: Option<Engine>,
    sources: Vec<Source>,
    timer: Timer,
    /// The runtime whose default stack this is.
    default_of: Option<runtime::Id>,
    waited: bool,
}

impl Driver {
    /// A driver that waits by the reactor of the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime, or in one without I/O: as tokio does.
    pub(crate) fn new(host: &Arc<Host>, default_of: Option<runtime::Id>) -> io::Result<Self> {
        let mut sources = Vec::new();
        for open in host.devices.all() {
            sources.push(match open.io.ready_source() {
                ReadySource::Fd(fd) => Source::Fd { readable: watch(fd, Interest::READABLE)?, writable: None },
                ReadySource::Waker(_) => Source::Slot,
            });
        }
        let timer = match host.alarm.fd() {
            Some(fd) => Timer::Fd(watch(fd.as_fd(), Interest::READABLE)?),
            None => Timer::Sleep(None),
        };
        let engine = Some(Engine::new(host.clone()));
        Ok(Driver { engine, sources, timer, default_of, waited: false })
    }

    /// Drives a stack by a task of this runtime.
    pub(crate) fn spawn(self, handle: &Handle) {
        handle.spawn(self);
    }

    /// Drives a stack by a thread of its own.
    pub(crate) fn spawn_thread(host: &Arc<Host>) -> io::Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let driver = {
            let _context = runtime.enter();
            Driver::new(host, None)?
        };
        std::thread::Builder::new().name("rawtcp".into()).spawn(move || runtime.block_on(driver))?;
        Ok(())
    }

    /// Takes what a device has received, one batch. Says whether there may be more to do.
    fn poll_readable(&mut self, at: usize, cx: &mut Context<'_>) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        match &self.sources[at] {
            Source::Fd { readable, .. } => {
                let Poll::Ready(Ok(mut guard)) = readable.poll_read_ready(cx) else { return false };
                match engine.receive(at) {
                    Ok(Drained::Maybe) => {}
                    // A short batch has drained the socket: no further call is needed to know.
                    Ok(Drained::Yes) => guard.clear_ready(),
                    Err(error) => {
                        // ENETDOWN and the like: reported once each by the kernel.
                        guard.clear_ready();
                        engine.host().warn_once_unknown("receive", &error);
                    }
                }
                true
            }
            Source::Slot => {
                let host = engine.host().clone();
                if let ReadySource::Waker(slot) = host.devices.get(at).io.ready_source() {
                    // Before looking, or a packet in between would wake nobody.
                    slot.register(cx.waker());
                }
                matches!(engine.receive(at), Ok(Drained::Maybe))
            }
        }
    }

    /// Sends what waits for a device. Says whether anything was done.
    fn poll_writable(&mut self, at: usize, cx: &mut Context<'_>) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        let busy = engine.host().devices.get(at).queue.is_busy();
        let Source::Fd { readable, writable } = &mut self.sources[at] else {
            return busy && engine.flush(at);
        };
        if !busy {
            *writable = None;
            return false;
        }
        let copied = match writable {
            Some(copied) => copied,
            None => match watch(readable.as_fd(), Interest::WRITABLE) {
                Ok(copied) => writable.insert(copied),
                // Out of descriptors: look again as soon as anything happens.
                Err(_) => return engine.flush(at),
            },
        };
        loop {
            let Poll::Ready(Ok(mut guard)) = copied.poll_write_ready(cx) else { return false };
            if engine.flush(at) {
                return true;
            }
            guard.clear_ready();
        }
    }

    /// Serves what is due. Says whether anything was.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        let host = engine.host().clone();
        match &mut self.timer {
            Timer::Fd(fd) => {
                let Poll::Ready(Ok(mut guard)) = fd.poll_read_ready(cx) else { return false };
                host.alarm.fired();
                guard.clear_ready();
                engine.timers();
                host.alarm.next();
                true
            }
            Timer::Sleep(sleep) => {
                let Some(at) = host.alarm.next() else {
                    *sleep = None;
                    return false;
                };
                if at <= host.clock.now() {
                    engine.timers();
                    return true;
                }
                let Some(until) = host.clock.to_tokio(at) else { return false };
                match sleep {
                    Some((set, _)) if *set == at => {}
                    Some((set, sleep)) => {
                        *set = at;
                        sleep.as_mut().reset(until);
                    }
                    None => *sleep = Some((at, Box::pin(tokio::time::sleep_until(until)))),
                }
                sleep.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready())
            }
        }
    }

    /// Whether it is time to end: the stack was closed and has delivered, or nobody can use it any more.
    fn is_over(&mut self) -> bool {
        let Some(engine) = &self.engine else { return true };
        let host = engine.host();
        if host.is_closing() {
            let patience_over = host.close_deadline_passed();
            self.waited = patience_over || !host.connections().iter().any(ConnCell::is_undelivered_orphan);
            return self.waited;
        }
        host.is_abandoned()
    }
}

/// Has the reactor watch a descriptor: a copy of it, which stays open for as long as it is watched.
fn watch(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    let copy = fd.try_clone_to_owned()?;
    #[expect(
        deprecated,
        reason = "the replacement is `unsafe` for the sake of descriptors that are not owned; this one is"
    )]
    AsyncFd::with_interest(copy, interest)
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Some(engine) = &this.engine {
            // Before anything is looked at: what comes later kicks again.
            engine.host().attend(cx.waker());
        }
        for _ in 0..ROUNDS {
            let mut busy = false;
            for at in 0..this.sources.len() {
                busy |= this.poll_readable(at, cx);
            }
            busy |= this.poll_timer(cx);
            busy |= this.engine.as_mut().is_some_and(Engine::scheduled);
            for at in 0..this.sources.len() {
                busy |= this.poll_writable(at, cx);
            }
            if this.is_over() {
                return Poll::Ready(());
            }
            if !busy {
                return Poll::Pending;
            }
        }
        // Others get their turn before the next rounds.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let Some(engine) = self.engine.take() else { return };
        if let Some(id) = self.default_of {
            ambient::forget(id, engine.host());
        }
        drain::bury(engine, self.waited);
    }
}
