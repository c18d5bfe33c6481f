//! The wake paths under shuttle, which runs each model many times with other interleavings of its threads.
//!
//! The models run the shell as it is: connections, readiness, waiters, listeners, the engine's turns, the kick
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
    acknowledgments, both_ways, cancelled, exact_reads, full_device, halves_dropped, peeks, reset, transfer, waiters,
};

use crate::device::Device;
use crate::drain;
use crate::engine::Engine;
use crate::host::Host;
use crate::listener_cell::ListenerCell;
use crate::net::{TcpListener, TcpStream};
use crate::stack::StackBuilder;
use crate::sync::{Arc, AtomicU8, Ordering};
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

/// Whether the driver's thread is to end its stack when it is kicked.
const GO_ON: u8 = 0;
const DIE: u8 = 1;

/// A stack's turns, as the driver takes them, without a runtime.
struct Turns {
    engine: Option<Engine>,
    order: Arc<AtomicU8>,
}

impl Future for Turns {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let order = self.order.clone();
        let Some(engine) = &mut self.engine else { return Poll::Ready(()) };
        let host = engine.host().clone();
        host.attend(cx.waker());
        let open = host.devices.get(0);
        loop {
            if let ReadySource::Waker(slot) = open.io.ready_source() {
                slot.register(cx.waker());
            }
            let mut busy = matches!(engine.receive(0), Ok(Drained::Maybe));
            busy |= engine.scheduled();
            busy |= open.queue.is_busy() && engine.flush(0);
            match order.load(Ordering::SeqCst) {
                DIE => {
                    // As the driver's `drop`, but for the delivery, which waits for the kernel.
                    self.engine.take().into_iter().for_each(|engine| drain::bury(engine, true, true));
                    return Poll::Ready(());
                }
                _ if !busy => return Poll::Pending,
                _ => {}
            }
        }
    }
}

/// A stack, and the thread that drives it.
pub(crate) struct Driven {
    host: Arc<Host>,
    order: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

impl Driven {
    fn new(io: impl PacketIo + 'static, ip: IpAddr) -> Self {
        let config = ConnConfig {
            send_buffer: BUFFER,
            send_buffer_max: BUFFER,
            recv_buffer: BUFFER,
            recv_buffer_max: BUFFER,
            nodelay: true,
            // A delayed ACK would wait for a timer.
            quick_acks: u32::MAX,
            ..ConnConfig::default()
        };
        let device = Device::Own { io: Arc::new(io), addresses: vec![ip] };
        let settings = StackBuilder::default().device(device).config(config).seed([7; 32]).into_settings();
        let host = Host::new(settings).expect("a timer");
        let order = Arc::new(AtomicU8::new(GO_ON));
        let turns = Turns { engine: Some(Engine::new(host.clone())), order: order.clone() };
        let thread = Some(thread::spawn(move || shuttle::future::block_on(turns)));
        Driven { host, order, thread }
    }

    /// Ends the stack.
    fn die(&mut self) {
        self.order.store(DIE, Ordering::SeqCst);
        self.host.kick();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the driver's thread");
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
        Self::over(a, b)
    }

    /// Over a link that takes few packets at a time.
    pub(crate) fn narrow() -> Self {
        let (a, b) = narrow::pair();
        Self::over(a, b)
    }

    fn over(a: impl PacketIo + 'static, b: impl PacketIo + 'static) -> Self {
        Rig { client: Driven::new(a, client()), server: Driven::new(b, server().ip()) }
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
