//! The drivers: the tasks (or threads) that give a stack's engines their turns.
//!
//! A driver waits for its devices, and for a kick from another thread; it takes bounded turns and yields between them.
//! The first one also sees to the alarm, to news of the network, and to the end of the stack. The end is everybody's: with
//! the first driver that is dropped the stack ends, and whoever that is takes all engines away from the others.

use crate::ambient;
use crate::drain;
use crate::host::{Host, Life};
use crate::post::OnTheSpot;
use crate::rounds::{Left, Rounds};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, lock};
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{TryLockError, Weak};
use std::task::{Context, Poll, Waker};
use std::thread;
use tokio::runtime::{self, EnterGuard, Handle, Runtime, RuntimeFlavor};

/// What the drivers of a stack share.
#[derive(Debug)]
struct Crew {
    host: Arc<Host>,
    /// Locked for the length of a turn; empty once the stack ends.
    rounds: Vec<Mutex<Option<Rounds>>>,
    /// The runtime whose default stack this is.
    default_of: Option<runtime::Id>,
    /// One of the drivers was dropped.
    over: AtomicBool,
}

/// One of the tasks that drive a stack. Dropping it ends the stack.
#[derive(Debug)]
pub(crate) struct Driver {
    crew: Arc<Crew>,
    number: usize,
    /// It takes no turns, and is there for its end only.
    keeps: bool,
}

/// A runtime to wait by in a thread. Those of tokio panic where they are dropped inside of another one.
#[derive(Debug)]
pub(crate) struct Reactor(Option<Runtime>);

impl Reactor {
    fn new() -> io::Result<Self> {
        Ok(Reactor(Some(runtime::Builder::new_current_thread().enable_io().build()?)))
    }

    fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }

    fn run(self, driver: Driver) {
        if let Some(runtime) = &self.0 {
            runtime.block_on(driver);
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Driver {
    /// The drivers of a stack, which wait by the reactor of the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime, or in one without I/O: as tokio does.
    pub(crate) fn all(host: &Arc<Host>, default_of: Option<runtime::Id>) -> io::Result<Vec<Self>> {
        let rounds = (0..host.posts.len()).map(|driver| Rounds::new(host, driver));
        Ok(Self::crew(host, rounds.collect::<io::Result<_>>()?, default_of))
    }

    fn crew(host: &Arc<Host>, rounds: Vec<Rounds>, default_of: Option<runtime::Id>) -> Vec<Self> {
        let rounds: Vec<_> = rounds.into_iter().map(|rounds| Mutex::new(Some(rounds))).collect();
        let crew = Arc::new(Crew { host: host.clone(), rounds, default_of, over: AtomicBool::new(false) });
        (0..crew.rounds.len()).map(|number| Driver { crew: crew.clone(), number, keeps: false }).collect()
    }

    /// Drives a stack by tasks of this runtime.
    pub(crate) fn spawn(drivers: Vec<Self>, handle: &Handle) {
        for driver in drivers {
            if handle.runtime_flavor() == RuntimeFlavor::CurrentThread {
                let crew: Weak<Crew> = Arc::downgrade(&driver.crew);
                driver.crew.host.posts[driver.number].take_turns_on_the_spot(crew, driver.number);
            }
            // Whoever counts its polls would have its wakers called by others than the reactor; its turns are bounded.
            handle.spawn(tokio::task::unconstrained(driver));
        }
    }

    /// The drivers of a stack, each with a runtime to wait by in a thread of its own.
    pub(crate) fn all_apart(host: &Arc<Host>, default_of: Option<runtime::Id>) -> io::Result<Vec<(Reactor, Self)>> {
        let (mut reactors, mut rounds) = (Vec::<Reactor>::new(), Vec::new());
        for driver in 0..host.posts.len() {
            let reactor = Reactor::new()?;
            let context = reactor.enter();
            rounds.push(Rounds::new(host, driver)?);
            drop(context);
            reactors.push(reactor);
        }
        Ok(reactors.into_iter().zip(Self::crew(host, rounds, default_of)).collect())
    }

    /// Drives a stack by threads.
    ///
    /// # Errors
    /// There are not threads enough: the stack ends with the first driver that has none.
    pub(crate) fn spawn_threads(drivers: Vec<(Reactor, Self)>) -> io::Result<()> {
        for (reactor, driver) in drivers {
            thread::Builder::new().name("rawtcp".into()).spawn(move || reactor.run(driver))?;
        }
        Ok(())
    }

    /// Has the stack end with this runtime, although threads drive it: to be spawned there.
    pub(crate) fn end_with_runtime(&self) -> impl Future<Output = ()> + Send + use<> {
        let keeper = Driver { crew: self.crew.clone(), number: self.number, keeps: true };
        poll_fn(move |cx| {
            // It may end by itself, and is not to be kept then.
            let host = &keeper.crew.host;
            host.on_death(cx.waker());
            if host.is_buried() { Poll::Ready(()) } else { Poll::Pending }
        })
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut rounds = lock(&self.crew.rounds[self.number]);
        // Another one has ended the stack.
        let Some(rounds) = &mut *rounds else { return Poll::Ready(()) };
        // Before anything is looked at: what comes later kicks again.
        let calls = self.crew.host.posts[self.number].attend(cx.waker());
        match std::mem::take(&mut rounds.left) {
            Left::Nothing => {}
            Left::Rest => return rounds.rest(cx, calls),
            Left::End => return Poll::Ready(()),
        }
        if !rounds.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            rounds.task = Some(cx.waker().clone());
        }
        rounds.thread = Some(thread::current().id());
        rounds.at_work = true;
        let outcome = rounds.poll(cx, calls);
        rounds.at_work = false;
        outcome
    }
}

impl OnTheSpot for Crew {
    fn take_turn(&self, driver: usize) -> bool {
        let mut rounds = match self.rounds[driver].try_lock() {
            Ok(rounds) => rounds,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Its turn is about to end, and may have looked for calls for the last time.
            Err(TryLockError::WouldBlock) => return false,
        };
        // The stack has ended.
        let Some(rounds) = &mut *rounds else { return true };
        // Its task has been woken, or will take its first turn.
        if rounds.left != Left::Nothing {
            return false;
        }
        let Some(task) = rounds.task.take() else { return false };
        let calls = self.host.posts[driver].answer();
        rounds.on_the_spot = true;
        let outcome = guarded(rounds, &task, |rounds| rounds.poll(&mut Context::from_waker(&task), calls));
        rounds.on_the_spot = false;
        if outcome == Some(Poll::Ready(())) {
            rounds.left = Left::End;
            task.wake_by_ref();
        }
        rounds.task = Some(task);
        true
    }

    fn is_here(&self, driver: usize) -> bool {
        self.rounds[driver].try_lock().is_ok_and(|rounds| rounds.as_ref().is_some_and(Rounds::are_here))
    }

    fn catch_up(&self, driver: usize, device: usize) -> usize {
        let Ok(mut rounds) = self.rounds[driver].try_lock() else { return 0 };
        // Its own thread must not have to wait for another one's.
        let Some(rounds) = rounds.as_mut().filter(|rounds| rounds.are_here()) else { return 0 };
        let Some(task) = rounds.task.take() else { return 0 };
        let served = guarded(rounds, &task, |rounds| rounds.engine.catch_up(device));
        rounds.task = Some(task);
        served.unwrap_or(0)
    }
}

/// Works in somebody else's place, whom a panic must not reach: the task ends the stack then.
fn guarded<R>(rounds: &mut Rounds, task: &Waker, work: impl FnOnce(&mut Rounds) -> R) -> Option<R> {
    rounds.at_work = true;
    let outcome = catch_unwind(AssertUnwindSafe(|| work(rounds))).ok();
    rounds.at_work = outcome.is_none();
    if outcome.is_none() {
        rounds.left = Left::End;
        task.wake_by_ref();
    }
    outcome
}

impl Drop for Driver {
    fn drop(&mut self) {
        let Crew { host, rounds, default_of, over } = &*self.crew;
        if over.swap(true, Ordering::AcqRel) {
            if self.keeps {
                drain::wait_for_burial(host);
            }
            return;
        }
        if let Some(id) = *default_of {
            ambient::forget(id, host);
        }
        // Whoever is in a turn ends it first; turns never wait. From here on nobody else touches a device.
        let all: Vec<Rounds> = rounds.iter().filter_map(|rounds| lock(rounds).take()).collect();
        let politely_waited = all.iter().any(|rounds| rounds.ending);
        let broken = all.iter().any(|rounds| rounds.at_work);
        // What they wait by goes first: copies of the devices' descriptors, which would stay open.
        let engine = all.into_iter().map(|rounds| rounds.engine).next();
        host.kick_all();
        // It may be dropped while a panic of somebody else's unwinds: one of ours must not end the process then.
        let buried = catch_unwind(AssertUnwindSafe(|| {
            if let Some(engine) = engine {
                drain::bury(engine, politely_waited, broken);
            }
        }));
        if buried.is_err() {
            // Nobody waits for ever in any case.
            host.set_life(Life::Dead);
            host.bury();
        }
    }
}
