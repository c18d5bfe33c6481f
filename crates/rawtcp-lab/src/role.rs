//! What a process at one end of an experiment does. Its parent is another process of this program.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use rawtcp::{Device, Driver, Stack, StackBuilder};
use rawtcp_io::mem::{self, MemConfig, MemDevice};
use rawtcp_lab::topology::{CLIENT_V4, SERVER_V4};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::bench::{bulk, connect, deadlines, idle, limit, rr};
use crate::measure::control::{Control, Word, say};
use crate::measure::net::{Kernel, Net, Ours, Whose};
use crate::measure::{Metrics, cpu, of_both};

/// One end's orders.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) whose: Whose,
    pub(crate) work: Work,
    /// The congestion control of its connections.
    pub(crate) congestion: String,
    /// Where to run; `None`: anywhere.
    pub(crate) processor: Option<usize>,
    /// Worker threads of the runtime; 0: a runtime of the current thread.
    pub(crate) workers: usize,
    pub(crate) drive: Drive,
    /// Drivers of our stack.
    pub(crate) drivers: usize,
}

/// What drives our stack.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Drive {
    /// A thread of its own instead of a task.
    pub(crate) thread: bool,
    /// Where the runtime's workers and that thread run, if not where the program does.
    pub(crate) processor: Option<usize>,
}

/// What there is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    Send(bulk::Send),
    Receive(bulk::Receive),
    Ask(rr::Ask),
    Answer(rr::Answer),
    Dial(connect::Dial),
    Greet(connect::Greet),
    Hold(idle::Hold),
    Keep(idle::Keep),
    Flood(limit::Flood),
    Silence(limit::Silence),
    Emit(deadlines::Emit),
    Absorb(deadlines::Absorb),
    /// Both ends in one process, each on a thread: the server, then the client.
    Both(Box<(Job, Job)>),
    /// Both of our ends by turns on one thread, with a link in memory between them: the server and the client.
    ByTurns(Box<(Job, Job)>),
}

impl Work {
    /// The address where the ends meet.
    fn meeting_place(&mut self) -> Option<&mut SocketAddr> {
        match self {
            Work::Send(bulk::Send { to: at, .. })
            | Work::Receive(bulk::Receive { at, .. })
            | Work::Ask(rr::Ask { to: at, .. })
            | Work::Answer(rr::Answer { at, .. })
            | Work::Dial(connect::Dial { to: at, .. })
            | Work::Greet(connect::Greet { at, .. })
            | Work::Hold(idle::Hold { to: at, .. })
            | Work::Keep(idle::Keep { at, .. })
            | Work::Flood(limit::Flood { to: at, .. })
            | Work::Silence(limit::Silence { at })
            | Work::Emit(deadlines::Emit { to: at, .. })
            | Work::Absorb(deadlines::Absorb { at, .. }) => Some(at),
            Work::Both(_) | Work::ByTurns(_) => None,
        }
    }

    /// The port where the ends meet.
    pub(crate) fn port(&self) -> Option<u16> {
        self.clone().meeting_place().map(|at| at.port())
    }

    /// The same work at another address.
    pub(crate) fn at_ip(mut self, ip: IpAddr) -> Self {
        if let Some(at) = self.meeting_place() {
            at.set_ip(ip);
        }
        self
    }

    /// The same work at another port.
    pub(crate) fn at_port(mut self, port: u16) -> Self {
        if let Some(at) = self.meeting_place() {
            at.set_port(port);
        }
        self
    }
}

/// The name by which the laboratory knows a link in memory, MTU 1500, with a stack at each end.
pub(crate) const MEMORY: &str = "memory";

/// Does what the parent process says.
pub(crate) fn play() -> ExitCode {
    let word = match Control::stdio().and_then(|(job, control)| run(serde_json::from_str(&job)?, control, None)) {
        Ok(metrics) => Word::Done(metrics),
        Err(error) => Word::Failed(error.to_string()),
    };
    let failed = matches!(word, Word::Failed(_));
    match say(&word) {
        Ok(()) if !failed => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The end of an in-memory link, and the address there.
type Memory = (MemDevice, IpAddr);

fn run(job: Job, control: Control, memory: Option<Memory>) -> io::Result<Metrics> {
    if let Some(processor) = job.processor {
        cpu::pin(processor)?;
    }
    match (&job.work, job.whose) {
        (Work::Both(pair), _) => both(pair.0.clone(), pair.1.clone(), control),
        (Work::ByTurns(pair), _) => by_turns(&pair.0, &pair.1, control),
        (_, Whose::Ours) => on_runtime::<Ours>(job, control, memory),
        (_, Whose::Kernel) => on_runtime::<Kernel>(job, control, None),
    }
}

fn stack_on((device, address): Memory) -> io::Result<Stack> {
    let device = Device::Own { io: Arc::new(device), addresses: vec![address] };
    Stack::builder().device(device).build()
}

/// The ends of a link in memory: the client's and the server's.
fn memory() -> [Memory; 2] {
    let (ours, theirs) = mem::pair(MemConfig::default());
    [(ours, CLIENT_V4), (theirs, SERVER_V4)]
}

fn on_runtime<N: Net>(job: Job, control: Control, memory: Option<Memory>) -> io::Result<Metrics> {
    let runtime = match job.workers {
        0 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        workers => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            if let Some(processor) = job.drive.processor {
                // Without leave they run where the program does.
                builder.on_thread_start(move || drop(cpu::pin(processor)));
            }
            builder.worker_threads(workers).enable_all().build()?
        }
    };
    runtime.block_on(async {
        if job.drive.thread && job.whose == Whose::Ours {
            // The thread stays where this one is when it starts it.
            job.drive.processor.map(cpu::pin).transpose()?;
            Ours::use_stacks(vec![StackBuilder::from_env()?.driver(Driver::Thread).build()?]);
            job.processor.map(cpu::pin).transpose()?;
        }
        if let Some(end) = memory {
            Ours::use_stacks(vec![stack_on(end)?]);
        }
        let mut metrics = work::<N>(&job, control).await?;
        for (name, count) in N::faults()? {
            // Some works have counted theirs earlier.
            metrics.entry(format!("drop.{name}")).or_insert(count);
        }
        Ok(metrics)
    })
}

async fn work<N: Net>(job: &Job, mut control: Control) -> io::Result<Metrics> {
    let (control, congestion) = (&mut control, job.congestion.as_str());
    match &job.work {
        Work::Send(work) => bulk::send::<N>(work, congestion, control).await,
        Work::Receive(work) => bulk::receive::<N>(work, congestion, control).await,
        Work::Ask(work) => rr::ask::<N>(work, congestion, control).await,
        Work::Answer(work) => rr::answer::<N>(work, congestion, control).await,
        Work::Dial(work) => connect::dial::<N>(work, congestion, control).await,
        Work::Greet(work) => connect::greet::<N>(work, congestion, control).await,
        Work::Hold(work) => idle::hold::<N>(work, congestion, control).await,
        Work::Keep(work) => idle::keep::<N>(work, congestion, control).await,
        Work::Flood(work) => limit::flood(work, control).await,
        Work::Silence(work) => limit::silence(work, control).await,
        Work::Emit(work) => deadlines::emit::<N>(work, congestion, control).await,
        Work::Absorb(work) => deadlines::absorb::<N>(work, congestion, control).await,
        Work::Both(_) | Work::ByTurns(_) => Err(io::Error::other("a pair inside a pair")),
    }
}

/// Runs both ends here, each on a thread and a runtime of its own.
fn both(server: Job, client: Job, control: Control) -> io::Result<Metrics> {
    let mut ends = [None, None];
    if std::env::var_os("RAWTCP_DEVICE").is_some_and(|device| device == MEMORY) {
        ends = memory().map(Some);
    }
    let [client_end, server_end] = ends;
    let (ready, is_ready) = channel();
    let (leash, inner) = Control::inside(move || {
        ready.send(()).ok();
    });
    let server = thread::Builder::new().name("server".into()).spawn(move || run(server, inner, server_end))?;
    let panicked = || io::Error::other("the server panicked");
    if is_ready.recv().is_err() {
        let error = server.join().map_err(|_| panicked())?.err();
        return Err(error.unwrap_or_else(|| io::Error::other("the server ended at once")));
    }
    let client = run(client, control, client_end)?;
    leash.send("stop".to_owned()).ok();
    let server = server.join().map_err(|_| panicked())??;
    Ok(of_both(&client, &server))
}

/// Runs both ends here, by turns on one runtime of this thread.
fn by_turns(server: &Job, client: &Job, control: Control) -> io::Result<Metrics> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (server, client) = runtime.block_on(async {
        let [client_end, server_end] = memory();
        Ours::use_stacks(vec![stack_on(client_end)?, stack_on(server_end)?]);
        let is_ready = Arc::new(Notify::new());
        let ready = is_ready.clone();
        let (leash, inner) = Control::inside(move || ready.notify_one());
        let lead = async {
            is_ready.notified().await;
            let metrics = work::<Ours>(client, control).await;
            leash.send("stop".to_owned()).ok();
            metrics
        };
        tokio::try_join!(work::<Ours>(server, inner), lead)
    })?;
    Ok(of_both(&client, &server))
}
