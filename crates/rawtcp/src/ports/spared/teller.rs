//! Telling the kernel, which may take its time: while another program loads a large rule set, nf_tables is locked. So it is
//! told by a thread, which is there while there is something to tell.

use super::Ingress;
use crate::device::Reservation;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the thread waits for more.
const LINGER: Duration = Duration::from_secs(1);

/// An element of the kernel's set, or one that it may become.
#[derive(Debug)]
pub(super) struct Spared {
    ingress: Arc<dyn Ingress>,
    local: Vec<SocketAddr>,
    /// Nobody wants it any more.
    over: AtomicBool,
    /// The kernel was told.
    told: AtomicBool,
    /// The guard. It goes last: what comes to the port is the kernel's again then.
    _guard: Arc<Reservation>,
}

impl Spared {
    pub(super) fn new(ingress: Arc<dyn Ingress>, local: Vec<SocketAddr>, guard: Arc<Reservation>) -> Self {
        Spared { ingress, local, over: AtomicBool::new(false), told: AtomicBool::new(false), _guard: guard }
    }

    pub(super) fn local(&self) -> &[SocketAddr] {
        &self.local
    }
}

impl Drop for Spared {
    fn drop(&mut self) {
        if *self.told.get_mut() {
            self.ingress.remove(&self.local);
        }
    }
}

#[derive(Debug)]
enum Job {
    Spare(Arc<Spared>),
    Release(Arc<Spared>),
}

/// What is to be told, in order. There are at most two jobs for each guard that was busy.
#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Jobs ever queued, and done.
    queued: u64,
    done: u64,
    /// Somebody is at it.
    at_work: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    in_vain: AtomicBool,
}

/// The way to the thread.
#[derive(Clone, Debug, Default)]
pub(in crate::ports) struct Teller(Arc<Shared>);

impl Teller {
    /// The kernel does not let us: it need not be asked again.
    pub(super) fn is_in_vain(&self) -> bool {
        self.0.in_vain.load(Ordering::Relaxed)
    }

    /// Has the kernel drop what comes there.
    pub(super) fn spare(&self, spared: Arc<Spared>) {
        self.push(Job::Spare(spared));
    }

    /// Has the kernel take it in again, and its guard go then.
    pub(super) fn release(&self, spared: Arc<Spared>) {
        spared.over.store(true, Ordering::Relaxed);
        self.push(Job::Release(spared));
    }

    /// Waits until all that was to be told has been told. `false`: there was nothing.
    pub(in crate::ports) fn settle(&self) -> bool {
        let mut queue = self.0.lock();
        let until = queue.queued;
        if queue.done >= until {
            return false;
        }
        while queue.done < until {
            queue = self.0.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    fn push(&self, job: Job) {
        let mut queue = self.0.lock();
        queue.jobs.push_back(job);
        queue.queued += 1;
        if std::mem::replace(&mut queue.at_work, true) {
            self.0.changed.notify_all();
            return;
        }
        drop(queue);
        let shared = self.0.clone();
        let thread = thread::Builder::new().name("rawtcp-ingress".into());
        if thread.spawn(move || shared.work(LINGER)).is_err() {
            // A guard must go, if need be on this thread.
            self.0.work(Duration::ZERO);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what there is to do, and what comes within this time.
    fn work(&self, linger: Duration) {
        let mut queue = self.lock();
        loop {
            while let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // Whoever waits for this job must not wait for ever.
                let _ = catch_unwind(AssertUnwindSafe(|| self.carry_out(job)));
                queue = self.lock();
                queue.done += 1;
                self.changed.notify_all();
            }
            let waited = self.changed.wait_timeout(queue, linger).unwrap_or_else(PoisonError::into_inner);
            queue = waited.0;
            if waited.1.timed_out() && queue.jobs.is_empty() {
                queue.at_work = false;
                return;
            }
        }
    }

    fn carry_out(&self, job: Job) {
        let spared = match job {
            Job::Spare(spared) => spared,
            Job::Release(spared) => return drop(spared),
        };
        if spared.over.load(Ordering::Relaxed) || self.in_vain.load(Ordering::Relaxed) {
            return;
        }
        spared.told.store(true, Ordering::Relaxed);
        let (local, table) = (&spared.local, spared.ingress.table());
        match spared.ingress.add(local) {
            Ok(()) => tracing::debug!(?local, table, "the kernel is spared what comes to a busy port"),
            Err(error) => {
                // Not permitted, or not known to this kernel. Guards do without.
                self.in_vain.store(true, Ordering::Relaxed);
                tracing::debug!(%error, "the kernel drops what comes to a busy port at the guard");
            }
        }
    }
}
