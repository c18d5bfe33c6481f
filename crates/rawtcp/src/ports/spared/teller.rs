//! Telling the kernel, which may take its time: while another program loads a large rule set, nf_tables is locked. So it is
//! told by a thread, which is there while there is something to tell.

use super::Ingress;
use crate::device::Reservation;
use rawtcp_io::ingress::MAX_ADDED;
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

impl Job {
    /// Whether it is a release, and how many addresses it is about.
    fn kind(&self) -> (bool, usize) {
        match self {
            Job::Spare(spared) => (false, spared.local.len()),
            Job::Release(spared) => (true, spared.local.len()),
        }
    }

    fn into_spared(self) -> Arc<Spared> {
        let (Job::Spare(spared) | Job::Release(spared)) = self;
        spared
    }
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

impl Queue {
    /// The first jobs: as many of one kind as the kernel is told by one message, which costs it more than what is in it. Says
    /// whether they are releases.
    fn take(&mut self) -> Option<(bool, Vec<Arc<Spared>>)> {
        let (release, mut addresses) = self.jobs.front()?.kind();
        let mut same = 1;
        while let Some((also, more)) = self.jobs.get(same).map(Job::kind)
            && also == release
            && addresses + more <= MAX_ADDED
        {
            (same, addresses) = (same + 1, addresses + more);
        }
        Some((release, self.jobs.drain(..same).map(Job::into_spared).collect()))
    }
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
            while let Some((release, all)) = queue.take() {
                drop(queue);
                let jobs = all.len() as u64;
                // Whoever waits for these jobs must not wait for ever.
                let _ = catch_unwind(AssertUnwindSafe(|| if release { self.release(all) } else { self.spare(&all) }));
                queue = self.lock();
                queue.done += jobs;
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

    fn spare(&self, all: &[Arc<Spared>]) {
        let wanted: Vec<&Arc<Spared>> = all.iter().filter(|spared| !spared.over.load(Ordering::Relaxed)).collect();
        let Some(first) = wanted.first().filter(|_| !self.in_vain.load(Ordering::Relaxed)) else { return };
        wanted.iter().for_each(|spared| spared.told.store(true, Ordering::Relaxed));
        let local: Vec<SocketAddr> = wanted.iter().flat_map(|spared| &spared.local).copied().collect();
        let table = first.ingress.table();
        match first.ingress.add(&local) {
            Ok(()) => tracing::debug!(?local, table, "the kernel is spared what comes to busy ports"),
            Err(error) => {
                // Not permitted, or not known to this kernel. Guards do without.
                self.in_vain.store(true, Ordering::Relaxed);
                tracing::debug!(%error, "the kernel drops what comes to busy ports at the guards");
            }
        }
    }

    fn release(&self, all: Vec<Arc<Spared>>) {
        // Of what somebody else still has, he sees to it.
        let mut gone: Vec<Spared> = all.into_iter().filter_map(Arc::into_inner).collect();
        let told = gone.iter().filter(|spared| spared.told.load(Ordering::Relaxed));
        let local: Vec<SocketAddr> = told.flat_map(|spared| &spared.local).copied().collect();
        if let Some(first) = gone.first().filter(|_| !local.is_empty()) {
            first.ingress.remove(&local);
            gone.iter_mut().for_each(|spared| *spared.told.get_mut() = false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::mpsc;

    const MANY: usize = MAX_ADDED + 44;
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A kernel that does nothing before it is let.
    #[derive(Debug)]
    struct Gate {
        begins: mpsc::Sender<()>,
        may: Mutex<mpsc::Receiver<()>>,
        told: Mutex<Vec<(&'static str, usize)>>,
    }

    impl Gate {
        fn pass(&self, what: &'static str, local: &[SocketAddr]) {
            // Where nobody hears it or lets it any more the test has failed.
            let _ = self.begins.send(());
            let _ = self.may.lock().unwrap().recv();
            self.told.lock().unwrap().push((what, local.len()));
        }
    }

    impl Ingress for Gate {
        fn add(&self, local: &[SocketAddr]) -> io::Result<()> {
            self.pass("add", local);
            Ok(())
        }
        fn remove(&self, local: &[SocketAddr]) {
            self.pass("remove", local);
        }
        fn end(&self) {}
        fn table(&self) -> &str {
            "gate"
        }
    }

    #[test]
    fn what_has_gathered_is_told_at_once() {
        let ((lets, may), (begins, has_begun)) = (mpsc::channel(), mpsc::channel());
        let gate = Arc::new(Gate { begins, may: Mutex::new(may), told: Mutex::default() });
        let teller = Teller::default();
        let spared = |port: usize| {
            let local = SocketAddr::from(([10, 0, 0, 1], port as u16));
            Arc::new(Spared::new(gate.clone(), vec![local], Arc::new(Reservation::Own(local))))
        };
        let all: Vec<_> = (0..=MANY).map(spared).collect();
        // Dropped before them: should this fail, they wait for nobody.
        let lets = lets;
        teller.spare(all[0].clone());
        has_begun.recv_timeout(PATIENCE).unwrap();
        all[1..].iter().for_each(|spared| teller.spare(spared.clone()));
        (0..3).for_each(|_| lets.send(()).unwrap());
        // Whether there is still something to wait for is chance.
        teller.settle();
        assert_eq!(*gate.told.lock().unwrap(), [("add", 1), ("add", MAX_ADDED), ("add", MANY - MAX_ADDED)]);
        gate.told.lock().unwrap().clear();
        // How many of them the thread finds at first is chance.
        all.into_iter().for_each(|spared| teller.release(spared));
        (0..3).for_each(|_| lets.send(()).unwrap());
        teller.settle();
        let told = gate.told.lock().unwrap().clone();
        assert!(told.len() <= 3 && told.iter().all(|&(what, _)| what == "remove"), "{told:?}");
        assert_eq!(told.iter().map(|(_, addresses)| addresses).sum::<usize>(), MANY + 1);
    }
}
