//! What one driver does when it is polled: bounded rounds over its devices, the alarm and what is scheduled.
//!
//! Only `enable_io` is needed of the runtime; devices inside the process use tokio's timer where there is one.

use crate::conn_cell::ConnCell;
use crate::drain;
use crate::engine::Engine;
use crate::host::{Host, Life};
use crate::post::{Calls, Post, SHARED_CALL, call};
use crate::sync::Arc;
use rawtcp_io::{Drained, ReadySource};
use rawtcp_proto::Instant;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::time::Sleep;

/// Rounds over all sources before the task yields.
const ROUNDS: usize = 8;

/// No further round is begun after this time, for the sake of the runtime's other tasks.
const TURN: Duration = Duration::from_millis(1);

/// Nor after so many bytes: whoever reads them finds them in the cache still.
const TURN_BYTES: u64 = 512 << 10;

/// How soon to look again at a device that cannot be waited for: there is no descriptor left.
const LOOK: Duration = Duration::from_millis(1);

/// Errors in a row after which a device is left alone until it has news. Packets may be queued behind an error,
/// and nothing would tell of them.
const ERRORS: u32 = 16;

/// Wakes a driver, and says what for.
#[derive(Debug)]
struct Bell {
    /// Not the stack itself: a device that it has may hold this.
    post: Arc<Post>,
    call: Calls,
    /// It is rung by the reactor, and nobody else.
    by_reactor: bool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match self.by_reactor {
            true => self.post.ring_from_reactor(self.call),
            false => self.post.ring(self.call),
        }
    }
}

/// The place of one thing that a driver waits for. It is looked at after it has called, and until it is asleep again: to ask
/// all of them takes longer than many a packet.
#[derive(Debug)]
struct Place {
    call: Calls,
    waker: Waker,
}

impl Place {
    /// The `i`th of a driver.
    fn new(host: &Arc<Host>, driver: usize, i: usize, by_reactor: bool) -> Self {
        let call = call(i);
        let bell = Bell { post: host.posts[driver].clone(), call, by_reactor };
        Place { call, waker: Arc::new(bell).into() }
    }

    /// Whether it is among those that have called.
    fn is_in(&self, called: Calls) -> bool {
        called & self.call != 0
    }

    /// It is asleep, and will call.
    fn sleeps(&self, called: &mut Calls) {
        // Whoever shares a call with others is asked always.
        if self.call != SHARED_CALL {
            *called &= !self.call;
        }
    }
}

/// A descriptor that a driver waits for.
#[derive(Debug)]
struct Watched {
    fd: AsyncFd<OwnedFd>,
    place: Place,
}

impl Watched {
    fn new(fd: BorrowedFd<'_>, place: Place) -> io::Result<Self> {
        Ok(Watched { fd: watch(fd, Interest::READABLE)?, place })
    }

    /// What there is to do, if the reactor has told of anything. Who takes it all clears it and asks again: whose answer is
    /// `None` will call.
    fn readable(&mut self, called: &mut Calls) -> Option<AsyncFdReadyGuard<'_, OwnedFd>> {
        if !self.place.is_in(*called) {
            return None;
        }
        match self.fd.poll_read_ready(&mut Context::from_waker(&self.place.waker)) {
            Poll::Ready(Ok(guard)) => Some(guard),
            _ => {
                self.place.sleeps(called);
                None
            }
        }
    }
}

/// How one device is waited for.
#[derive(Debug)]
enum Source {
    Fd {
        readable: Watched,
        /// Errors since the last batch.
        errors: u32,
        /// Registered only while the device is full: the kernel reports "writable" after every packet
        /// sent, and would wake the reactor each time.
        writable: Option<AsyncFd<OwnedFd>>,
    },
    /// A waker's place in the device.
    Slot(Place),
}

/// How the alarm is waited for.
#[derive(Debug)]
enum Timer {
    Fd(Watched),
    /// tokio's clock, and what it is set to.
    Sleep(Option<(Instant, Pin<Box<Sleep>>)>),
    /// The first driver waits for it.
    Elsewhere,
}

/// By what time a driver looks whether a deadline has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Now.
    Clock,
    /// When the last batch was taken.
    Stamp,
}

/// A driver's engine, and what it waits for.
#[derive(Debug)]
pub(crate) struct Rounds {
    pub(crate) engine: Engine,
    /// Whose they are. The alarm, the news and the end are the matter of the first, whose number is 0.
    driver: usize,
    /// Its devices, and how each is waited for.
    sources: Vec<(usize, Source)>,
    /// Those that are to be looked at. At first all: who has never been asked calls nobody.
    called: Calls,
    timer: Timer,
    /// News of the network around us.
    news: Option<Watched>,
    /// Rounds in which deadlines have waited for what came before them.
    held_up: usize,
    /// `close` was called and its first part is over: every stream has been closed.
    pub(crate) ending: bool,
    /// It is in a turn. Found like this by another, it has panicked there.
    pub(crate) at_work: bool,
    /// The task that takes the turns, once it has taken one.
    pub(crate) task: Option<Waker>,
    /// Where that ran last.
    pub(crate) thread: Option<ThreadId>,
    /// Its turn is taken by the reactor instead.
    pub(crate) on_the_spot: bool,
    pub(crate) left: Left,
}

/// What a turn on the spot has left to the task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Left {
    #[default]
    Nothing,
    /// The next turn, behind whatever else is ready.
    Rest,
    /// The end of the stack.
    End,
}

impl Rounds {
    /// The rounds of a driver that waits by the reactor of the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime, or in one without I/O: as tokio does.
    pub(crate) fn new(host: &Arc<Host>, driver: usize) -> io::Result<Self> {
        let mut places = 0;
        let mut place = |by_reactor| {
            places += 1;
            Place::new(host, driver, places - 1, by_reactor)
        };
        let mut sources = Vec::new();
        for (at, open) in host.devices.all().iter().enumerate().filter(|(_, open)| open.driver == driver) {
            let source = match open.io.ready_source() {
                ReadySource::Fd(fd) => {
                    Source::Fd { readable: Watched::new(fd, place(true))?, errors: 0, writable: None }
                }
                ReadySource::Waker(_) => Source::Slot(place(false)),
            };
            sources.push((at, source));
        }
        let first = driver == 0;
        let timer = match host.alarm.fd() {
            _ if !first => Timer::Elsewhere,
            Some(fd) => Timer::Fd(Watched::new(fd.as_fd(), place(true))?),
            None => Timer::Sleep(None),
        };
        let network = host.devices.network().filter(|_| first);
        let news = network.map(|network| Watched::new(network.news(), place(true))).transpose()?;
        let engine = Engine::new(host.clone(), driver);
        Ok(Rounds {
            engine,
            driver,
            sources,
            called: Calls::MAX,
            timer,
            news,
            held_up: 0,
            ending: false,
            at_work: false,
            task: None,
            thread: None,
            on_the_spot: false,
            left: Left::Nothing,
        })
    }

    /// Whether they can be worked on outside of a turn, by this thread.
    pub(crate) fn are_here(&self) -> bool {
        self.left != Left::End && self.thread == Some(thread::current().id())
    }

    /// Takes what a device has received, one batch, if it has called. Says whether there may be more of it.
    fn poll_readable(&mut self, i: usize) -> bool {
        let engine = &mut self.engine;
        let (at, source) = &mut self.sources[i];
        let at = *at;
        match source {
            Source::Fd { readable, errors, .. } => {
                let Some(mut guard) = readable.readable(&mut self.called) else { return false };
                let result = engine.receive(at);
                *errors = if result.is_ok() { 0 } else { *errors + 1 };
                match result {
                    Ok(Drained::Maybe) => {}
                    // A short batch has drained the socket: no further call is needed to know.
                    Ok(Drained::Yes) => guard.clear_ready(),
                    Err(error) => {
                        // ENETDOWN and the like: reported once each by the kernel.
                        engine.host().warn_once_unknown("receive", &error);
                        if *errors >= ERRORS {
                            *errors = 0;
                            guard.clear_ready();
                        }
                    }
                }
                readable.readable(&mut self.called).is_some()
            }
            Source::Slot(place) => {
                if !place.is_in(self.called) {
                    return false;
                }
                if let ReadySource::Waker(slot) = engine.host().devices.get(at).io.ready_source() {
                    // Before looking, or a packet in between would wake nobody.
                    slot.register(&place.waker);
                }
                let more = matches!(engine.receive(at), Ok(Drained::Maybe));
                if !more {
                    place.sleeps(&mut self.called);
                }
                more
            }
        }
    }

    /// Sends what waits for a device. Says whether anything was done.
    fn poll_writable(&mut self, i: usize, cx: &mut Context<'_>) -> bool {
        let engine = &mut self.engine;
        let (at, source) = &mut self.sources[i];
        let at = *at;
        let open = engine.host().devices.get(at);
        let busy = open.queue.is_busy();
        let Source::Fd { readable, writable, .. } = source else {
            return busy && engine.flush(at);
        };
        if !busy {
            *writable = None;
            return false;
        }
        let copied = match writable {
            Some(copied) => copied,
            None => match watch(open.io.writable_fd().unwrap_or(readable.fd.as_fd()), Interest::WRITABLE) {
                Ok(copied) => writable.insert(copied),
                Err(_) => {
                    let flushed = engine.flush(at);
                    if !flushed {
                        engine.host().look_later(LOOK);
                    }
                    return flushed;
                }
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

    /// Takes news of the network. Says whether there was any.
    fn poll_news(&mut self) -> bool {
        let Some(mut guard) = self.news.as_mut().and_then(|news| news.readable(&mut self.called)) else { return false };
        self.engine.on_news();
        guard.clear_ready();
        true
    }

    /// Whether deadlines may be served: once all that came before them has been taken, also if the reactor has not told of it yet.
    /// An acknowledgment counts before the probe that would ask for it. A queue that is never empty holds them up for some rounds
    /// only.
    fn has_caught_up(&mut self) -> bool {
        let mut all = true;
        for (at, _) in &self.sources {
            // An error is met again by whoever waits for the device.
            all &= !matches!(self.engine.receive(*at), Ok(Drained::Maybe));
        }
        self.held_up = if all || self.held_up == ROUNDS { 0 } else { self.held_up + 1 };
        self.held_up == 0
    }

    /// Serves what is due. Says whether anything was.
    ///
    /// `look`: also if the reactor has not told of it yet. It is not asked while tasks are ready to run, and one that sends all
    /// the time is.
    fn poll_timer(&mut self, cx: &mut Context<'_>, look: Option<Look>) -> bool {
        let engine = &mut self.engine;
        if matches!(self.timer, Timer::Fd(_)) && !engine.host().clock.is_real() {
            // Somebody paused tokio's clock.
            engine.host().alarm.leave_real_time();
            self.timer = Timer::Sleep(None);
        }
        match &mut self.timer {
            Timer::Fd(fd) => {
                let mut rang = false;
                if let Some(mut guard) = fd.readable(&mut self.called) {
                    // The reactor tells of each time that it expires, and it is set anew below: nothing need be read.
                    guard.clear_ready();
                    rang = true;
                }
                let host = engine.host();
                let serve = rang
                    || look.is_some_and(|look| {
                        host.alarm.is_due(|| if look == Look::Stamp { engine.now } else { host.clock.now() })
                    });
                if serve && self.has_caught_up() {
                    self.engine.timers();
                    self.engine.host().alarm.next();
                }
                serve
            }
            Timer::Sleep(sleep) => {
                let Some(at) = engine.host().alarm.next() else {
                    *sleep = None;
                    return false;
                };
                if at <= engine.host().clock.now() {
                    if self.has_caught_up() {
                        self.engine.timers();
                    }
                    return true;
                }
                let Some(until) = engine.host().clock.to_tokio(at) else { return false };
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
            Timer::Elsewhere => false,
        }
    }

    /// Serves deadlines that the first driver has handed over. Says whether there were any.
    fn poll_due(&mut self) -> bool {
        let driver = self.driver;
        if driver == 0 || !self.engine.host().posts[driver].has_due() {
            return false;
        }
        if self.has_caught_up() {
            self.engine.due_for(driver);
        }
        true
    }

    /// Whether it is time to end: nobody can use the stack any more, or it was closed. In that case first what
    /// was finished is delivered, and what is not is still in use; then the rest is closed and delivered.
    fn is_over(&mut self) -> bool {
        let host = self.engine.host();
        if let Some(device) = host.devices.gone() {
            tracing::warn!(device, "the network interface was removed, and the stack ends");
            host.set_life(Life::CutOff);
            return true;
        }
        if !host.is_closing() {
            return host.is_abandoned();
        }
        let patience_over = host.close_deadline_passed();
        let wait = |host: &Host| !patience_over && host.connections().iter().any(ConnCell::is_undelivered);
        if !self.ending {
            if wait(host) {
                return false;
            }
            drain::end_all(host);
            self.ending = true;
        }
        !wait(host)
    }

    /// Takes a turn: of what it waits for, those that have called have something. Ready: the stack is to end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut calls: Calls) -> Poll<()> {
        let before = self.engine.received_bytes;
        self.engine.late();
        let mut begin = None;
        for round in 0..ROUNDS {
            self.called |= calls;
            let taken = self.engine.received_bytes;
            let mut more = self.poll_news();
            let mut is_behind = false;
            for i in 0..self.sources.len() {
                let left = !is_behind && self.poll_readable(i);
                // What the device has that takes its place is newer than all of what is left.
                is_behind = left && self.engine.host().devices.get(self.sources[i].0).is_near;
                more |= left;
            }
            let received = self.engine.received_bytes > taken;
            let look = match received {
                true => Some(Look::Stamp),
                // Deadlines that were held up have rung already.
                false => (round == 0 || self.held_up > 0).then_some(Look::Clock),
            };
            more |= self.poll_timer(cx, look);
            more |= self.poll_due();
            more |= self.engine.scheduled();
            for i in 0..self.sources.len() {
                more |= self.poll_writable(i, cx);
            }
            if self.driver == 0 {
                if self.is_over() {
                    return Poll::Ready(());
                }
            } else if (received || more) && self.engine.host().is_closing() {
                // The first driver may have waited for this.
                self.engine.host().kick();
            }
            calls = self.engine.host().posts[self.driver].answer();
            if !more && calls == 0 {
                if self.engine.has_late() {
                    break;
                }
                return Poll::Pending;
            }
            // In virtual time nobody waits, and a run must not depend on how fast the machine is.
            let worked = self.engine.now.since(*begin.get_or_insert(self.engine.now));
            let late = !matches!(self.timer, Timer::Sleep(_)) && worked >= TURN;
            if late || self.engine.received_bytes - before >= TURN_BYTES {
                break;
            }
        }
        if self.on_the_spot {
            // Were it to yield here, it would be in front of what it has woken.
            self.called |= calls;
            self.left = Left::Rest;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.rest(cx, calls)
    }

    /// Others get their turn before the next rounds, and so do the runtime's timers and reactor: woken at once, this task
    /// would run sixty times before those are looked at.
    pub(crate) fn rest(&mut self, cx: &mut Context<'_>, calls: Calls) -> Poll<()> {
        self.called |= calls;
        std::pin::pin!(tokio::task::yield_now()).poll(cx)
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
