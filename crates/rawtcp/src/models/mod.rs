//! The wake paths under shuttle, which runs each model many times with other interleavings of its threads.
//!
//! The models run the shell as it is: connections, readiness, waiters, listeners, the engines' turns, the kicks
//! and the device queue, between two stacks on an in-memory link. Only the primitives of `sync` are shuttle's, and time
//! stands still: a wake-up that is lost is a deadlock, which shuttle reports. (loom would have to try all interleavings
//! of whole connections, of which there are too many; it knows of memory orderings, which shuttle does not.)

mod ends;
mod listeners;
mod narrow;
mod streams;

pub use ends::{death, kicked, scheduled};
pub use listeners::{accepts, listener_dropped};
pub use streams::{
    acknowledgments, both_ways, cancelled, exact_reads, full_device, halves_dropped, peeks, reset, several_drivers,
    transfer, waiters,
};

use crate::device::Devices;
use crate::drain;
use crate::engine::Engine;
use crate::host::Host;
use crate::listener_cell::ListenerCell;
use crate::net::{TcpListener, TcpStream};
use crate::stack::StackBuilder;
use crate::sync::{Arc, AtomicUsize, Ordering};
use rawtcp_io::{Drained, PacketIo, ReadySource, mem};
use rawtcp_proto::ConnConfig;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread::{self, JoinHandle};
use shuttle::{Config, FailurePersistence, Runner};
use std::fmt::Debug;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Interleavings tried of each model and by each scheduler, unless `RAWTCP_MODEL_ITERATIONS` says otherwise.
const ITERATIONS: usize = 1000;

/// The seed, unless `RAWTCP_MODEL_SEED` says otherwise.
const SEED: u64 = 20_261_126;

/// Points at which the scheduler by priorities changes its mind: as many as make most bugs of this kind show.
const DEPTH: usize = 3;

/// Bytes of a connection's buffers: less than what is sent.
const BUFFER: usize = 2048;

fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Runs a model with many interleavings: at random, and by random priorities, which finds what takes one thread to be
/// late for long. Panics, with the seed and the schedule, where it deadlocks or an assertion fails.
pub fn check(name: &str, model: fn()) {
    let iterations = number("RAWTCP_MODEL_ITERATIONS", ITERATIONS);
    let seed = number("RAWTCP_MODEL_SEED", SEED);
    println!("{name}: seed {seed}, {iterations} interleavings by each scheduler");
    run(RandomScheduler::new_from_seed(seed, iterations), model);
    run(PctScheduler::new_from_seed(seed, DEPTH, iterations), model);
}

fn run(scheduler: impl Scheduler + 'static, model: fn()) {
    let mut config = Config::new();
    // In debug builds the engine's frames are large.
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    config.failure_persistence = FailurePersistence::None;
    Runner::new(scheduler, config).run(model);
}

/// A driver's turns, as it takes them, without a runtime.
struct Turns {
    engine: Option<Engine>,
    driver: usize,
    /// Drivers that go on: the last end first.
    alive: Arc<AtomicUsize>,
}

impl Future for Turns {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (alive, driver) = (self.alive.clone(), self.driver);
        let Some(engine) = &mut self.engine else { return Poll::Ready(()) };
        let host = engine.host().clone();
        let _ = host.posts[driver].attend(cx.waker());
        // One device each.
        let open = host.devices.get(driver);
        loop {
            if let ReadySource::Waker(slot) = open.io.ready_source() {
                slot.register(cx.waker());
            }
            let mut busy = matches!(engine.receive(driver), Ok(Drained::Maybe));
            busy |= engine.scheduled();
            busy |= open.queue.is_busy() && engine.flush(driver);
            busy |= engine.late();
            if driver >= alive.load(Ordering::SeqCst) {
                // As the drivers' `drop`, but for the delivery, which waits for the kernel.
                let engine = self.engine.take().filter(|_| driver == 0);
                engine.into_iter().for_each(|engine| drain::bury(engine, true, true));
                return Poll::Ready(());
            }
            if !busy {
                return Poll::Pending;
            }
        }
    }
}

/// A stack, and the threads that drive it.
pub(crate) struct Driven {
    host: Arc<Host>,
    alive: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Driven {
    /// A driver for each of these.
    fn new(ios: Vec<Arc<dyn PacketIo>>, ip: IpAddr) -> Self {
        let config = ConnConfig {
            send_buffer: BUFFER,
            send_buffer_max: BUFFER,
            recv_buffer: BUFFER,
            recv_buffer_max: BUFFER,
            nodelay: true,
            // A delayed ACK would wait for a timer.
            delayed_ack: Duration::ZERO,
            ..ConnConfig::default()
        };
        let settings = StackBuilder::default().config(config).seed([7; 32]).into_settings();
        let host = Host::with(settings, Devices::several(ios, vec![ip])).expect("a timer");
        let alive = Arc::new(AtomicUsize::new(host.posts.len()));
        let drive = |driver| {
            let turns = Turns { engine: Some(Engine::new(host.clone(), driver)), driver, alive: alive.clone() };
            thread::spawn(move || shuttle::future::block_on(turns))
        };
        let threads = (0..host.posts.len()).map(drive).collect();
        Driven { host, alive, threads }
    }

    /// Ends the stack.
    fn die(&mut self) {
        // The first driver buries what nobody touches any more.
        while let Some(last) = self.threads.pop() {
            self.alive.store(self.threads.len(), Ordering::SeqCst);
            self.host.kick_all();
            last.join().expect("a driver's thread");
        }
    }

    fn listen(&self) -> TcpListener {
        let cell: Arc<ListenerCell> = self.host.listen(server()).expect("listen");
        TcpListener::new(cell)
    }
}

/// Two stacks, joined by a link.
pub(crate) struct Rig {
    client: Driven,
    server: Driven,
}

fn client() -> IpAddr {
    [10, 0, 0, 1].into()
}

fn server() -> SocketAddr {
    ([10, 0, 0, 2], 80).into()
}

impl Rig {
    pub(crate) fn new() -> Self {
        let (a, b) = mem::pair(mem::MemConfig::default());
        Self::over(a, vec![Arc::new(b)])
    }

    /// Over a link that takes few packets at a time.
    pub(crate) fn narrow() -> Self {
        Self::fanned(1)
    }

    /// Over such a link, to a server that has a driver for each of several queues.
    pub(crate) fn fanned(queues: usize) -> Self {
        let (a, b) = narrow::link(queues);
        Self::over(a, b.into_iter().map(|queue| Arc::new(queue) as _).collect())
    }

    fn over(a: impl PacketIo + 'static, b: Vec<Arc<dyn PacketIo>>) -> Self {
        Rig { client: Driven::new(vec![Arc::new(a)], client()), server: Driven::new(b, server().ip()) }
    }

    /// A connection, its client's end first.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        let listener = self.server.listen();
        let accepted = spawn(async move { listener.accept().await });
        let stream = block_on(self.connect()).expect("connect");
        (stream, accepted.join().expect("thread").expect("accept").0)
    }

    pub(crate) fn connect(&self) -> impl Future<Output = std::io::Result<TcpStream>> + Send + 'static {
        let host = self.client.host.clone();
        async move { host.connect(server(), host.connect_options()).await }
    }

    /// Ends both stacks, of which nothing is left.
    pub(crate) fn end(self) {
        for mut side in [self.client, self.server] {
            side.die();
            assert_eq!(side.host.stats().broken, 0);
            assert_eq!(Arc::strong_count(&side.host), 1, "something keeps the stack alive");
        }
    }
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    shuttle::future::block_on(what)
}

/// A thread that does this and nothing else.
fn spawn<T: Send + 'static>(what: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    thread::spawn(move || block_on(what))
}

fn join<T: Debug>(thread: JoinHandle<T>) -> T {
    thread.join().expect("a thread of the model")
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}
