//! Operations given up at random: no byte is lost, doubled or moved, and nothing is left behind.
//!
//! `RAWTCP_CANCELLATIONS` says how many of each of the 14 operations (10,000 unless said; over raw `lo` and over the link a
//! fifth of it), `RAWTCP_SEED` what chance draws from.

#[path = "common/privilege.rs"]
mod privilege;

use bytes::Bytes;
use rawtcp::net::{TcpListener, TcpStream};
use rawtcp::{ConnConfig, Device, Stack, StackBuilder};
use rawtcp_io::{PacketIo, mem};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::task::LocalSet;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// xorshift64*, by its author's constants.
struct Chance(Cell<u64>);

impl Chance {
    fn new(seed: u64) -> Self {
        Chance(Cell::new(seed | 1))
    }

    fn below(&self, n: usize) -> usize {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// A task's waker, counted by its references: what a stack keeps of it shows.
struct Tracked(Waker);

impl Wake for Tracked {
    fn wake(self: Arc<Self>) {
        self.0.wake_by_ref();
    }
}

/// What was given up so far, by operation, and the wakers that were lent for it.
struct Tally {
    chance: Chance,
    cancelled: std::cell::RefCell<BTreeMap<&'static str, u64>>,
    wakers: std::cell::RefCell<Vec<Arc<Tracked>>>,
}

impl Tally {
    fn new(seed: u64) -> Rc<Self> {
        Rc::new(Tally { chance: Chance::new(seed), cancelled: Default::default(), wakers: Default::default() })
    }

    fn of(&self, name: &str) -> u64 {
        self.cancelled.borrow().get(name).copied().unwrap_or_default()
    }

    /// Races an operation with a few turns of the scheduler; `None`: it lost, and was dropped.
    async fn race<T>(&self, name: &'static str, op: impl Future<Output = T>) -> Option<T> {
        let pending = Cell::new(false);
        let mut op = pin!(op);
        // Every now and then a waker of its own; the slots of the poll functions keep the last.
        let tracked = (self.chance.below(64) == 0).then(|| Cell::new(None::<Arc<Tracked>>));
        let watched = poll_fn(|cx| {
            let polled = match &tracked {
                None => op.as_mut().poll(cx),
                Some(slot) => {
                    let ours = slot.take().unwrap_or_else(|| {
                        let ours = Arc::new(Tracked(cx.waker().clone()));
                        self.wakers.borrow_mut().push(ours.clone());
                        ours
                    });
                    slot.set(Some(ours.clone()));
                    op.as_mut().poll(&mut Context::from_waker(&Waker::from(ours)))
                }
            };
            pending.set(polled.is_pending());
            polled
        });
        let mut turns = self.chance.below(3);
        let gives_up = poll_fn(|cx| {
            if turns == 0 {
                return Poll::Ready(());
            }
            turns -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        let result = if self.chance.below(8) == 0 {
            tokio::select! { biased; () = gives_up => None, result = watched => Some(result) }
        } else {
            tokio::select! { biased; result = watched => Some(result), () = gives_up => None }
        };
        if result.is_none() && pending.get() {
            *self.cancelled.borrow_mut().entry(name).or_default() += 1;
        }
        result
    }

    /// Nobody keeps a waker any more.
    fn check_wakers(&self) {
        let wakers = self.wakers.borrow();
        assert!(!wakers.is_empty());
        let kept = wakers.iter().filter(|waker| Arc::strong_count(waker) > 1).count();
        assert_eq!(kept, 0, "of {} wakers", wakers.len());
    }
}

/// The byte at a place of the stream.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn bytes(at: u64, len: usize) -> Vec<u8> {
    (at..at + len as u64).map(byte).collect()
}

const WRITES: [&str; 6] = ["write", "write_bytes", "writable", "ready to write", "acknowledged", "poll_write_ready"];
const READS: [&str; 6] = ["read", "read_chunk", "peek", "readable", "ready to read", "poll_read_ready"];

/// Bytes written so far, as the connection counts them.
fn written(stream: &TcpStream) -> u64 {
    let info = stream.tcp_info();
    info.bytes_acked + info.unacked + info.notsent_bytes
}

/// Writes the pattern until all has been given up often enough; says how much.
async fn send(mut to: TcpStream, tally: Rc<Tally>, enough: impl Fn() -> bool) -> u64 {
    let mut at = 0;
    while !enough() {
        let data = bytes(at, 1 + tally.chance.below(3000));
        match WRITES[tally.chance.below(WRITES.len())] {
            name @ "write" => at += tally.race(name, to.write(&data)).await.map_or(0, |n| n.unwrap() as u64),
            name @ "write_bytes" => {
                // Not cancel safe: how much of it was written, the connection knows.
                let _ = tally.race(name, to.write_bytes(Bytes::from(data))).await;
                at = written(&to);
            }
            name @ "writable" => drop(tally.race(name, to.writable()).await),
            name @ "ready to write" => drop(tally.race(name, to.ready(Interest::WRITABLE)).await),
            name @ "acknowledged" => drop(tally.race(name, to.acknowledged()).await),
            name => {
                // To be ready is worth nothing here: what pends is wanted.
                while to.try_write(&bytes(at, 1000)).map(|n| at += n as u64).is_ok() {}
                drop(tally.race(name, poll_fn(|cx| to.poll_write_ready(cx))).await);
            }
        }
        assert_eq!(at, written(&to));
    }
    to.shutdown().await.unwrap();
    to.acknowledged().await.unwrap();
    at
}

/// Reads the pattern to its end; says how much there was.
async fn receive(mut from: TcpStream, tally: Rc<Tally>) -> u64 {
    let (mut at, mut buf) = (0, [0; 4096]);
    let check = |at: u64, got: &[u8]| assert!(*got == *bytes(at, got.len()), "other bytes at {at}");
    loop {
        let room = 1 + tally.chance.below(buf.len());
        match READS[tally.chance.below(READS.len())] {
            name @ "read" => {
                if let Some(n) = tally.race(name, from.read(&mut buf[..room])).await {
                    let n = n.unwrap();
                    if n == 0 {
                        return at;
                    }
                    check(at, &buf[..n]);
                    at += n as u64;
                }
            }
            name @ "read_chunk" => {
                if let Some(chunk) = tally.race(name, from.read_chunk(room)).await {
                    let Some(chunk) = chunk.unwrap() else { return at };
                    check(at, &chunk);
                    at += chunk.len() as u64;
                }
            }
            name @ "peek" => {
                if let Some(n) = tally.race(name, from.peek(&mut buf[..room])).await {
                    check(at, &buf[..n.unwrap()]);
                }
            }
            name @ "readable" => drop(tally.race(name, from.readable()).await),
            name @ "ready to read" => drop(tally.race(name, from.ready(Interest::READABLE)).await),
            name => {
                if let Ok(n @ 1..) = from.try_read(&mut buf) {
                    check(at, &buf[..n]);
                    at += n as u64;
                }
                drop(tally.race(name, poll_fn(|cx| from.poll_read_ready(cx))).await);
            }
        }
    }
}

/// Two ends that may be of one stack.
struct Ends {
    client: Stack,
    server: Stack,
    at: SocketAddr,
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(300), what).await.expect("hangs")
}

async fn streams(ends: &Ends, tally: &Rc<Tally>, times: u64) {
    let listener = ends.server.bind(ends.at).await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (client, accepted) = soon(async { tokio::join!(ends.client.connect(at), listener.accept()) }).await;
        let (client, server) = (client.unwrap(), accepted.unwrap().0);
        let enough = {
            let tally = tally.clone();
            move || WRITES.iter().chain(&READS).all(|name| tally.of(name) >= times)
        };
        let sent = tokio::task::spawn_local(send(client, tally.clone(), enough));
        let received = tokio::task::spawn_local(receive(server, tally.clone()));
        tasks.push(async { (sent.await.unwrap(), received.await.unwrap()) });
    }
    let mut total = 0;
    for task in tasks {
        let (sent, received) = soon(task).await;
        assert_eq!(sent, received);
        total += sent;
    }
    assert!(total > times, "only {total} bytes");
}

/// Connections that came to be are served once each; those that were given up leave nothing.
async fn connections(ends: &Ends, tally: &Rc<Tally>, times: u64) {
    let listener = Rc::new(ends.server.bind(ends.at).await.unwrap());
    let at = listener.local_addr().unwrap();
    async fn serve(mut stream: TcpStream) -> Option<u64> {
        // Who gave up while we accepted is gone.
        let number = stream.read_u64().await.ok()?;
        stream.write_u64(number).await.ok()?;
        let _ = stream.read(&mut [0]).await;
        Some(number)
    }
    async fn accept(listener: Rc<TcpListener>, tally: Rc<Tally>, times: u64) {
        let mut served = BTreeSet::new();
        loop {
            let accepted = if tally.of("accept") < times {
                tally.race("accept", listener.accept()).await
            } else {
                Some(listener.accept().await)
            };
            if let Some(accepted) = accepted {
                let (stream, _) = accepted.unwrap();
                if let Some(number) = serve(stream).await {
                    assert!(served.insert(number), "{number} twice");
                }
            }
        }
    }
    let accepts: Vec<_> =
        (0..3).map(|_| tokio::task::spawn_local(accept(listener.clone(), tally.clone(), times))).collect();
    let mut connected = 0_u64;
    while tally.of("connect") < times || tally.of("accept") < times {
        // Mostly it is given up at once.
        if let Some(stream) = tally.race("connect", ends.client.connect(at)).await {
            connected += 1;
            exchange(stream.unwrap(), connected).await.unwrap();
        }
        if tally.chance.below(50) == 0 {
            let stream = soon(ends.client.connect(at)).await.unwrap();
            connected += 1;
            exchange(stream, connected).await.unwrap();
        }
    }
    assert!(connected > 0);
    for accept in accepts {
        accept.abort();
        let _ = accept.await;
    }
}

async fn exchange(mut stream: TcpStream, number: u64) -> io::Result<()> {
    stream.write_u64(number).await?;
    let answer = soon(stream.read_u64()).await?;
    if answer == number { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Nothing is left of all the connections.
async fn check_nothing_is_left(stack: &Stack) {
    let clean = async {
        loop {
            let stats = stack.stats();
            if stats.connections + stats.half_open + stats.time_wait == 0 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let stats = tokio::time::timeout(Duration::from_secs(20), clean).await;
    let stats = stats.unwrap_or_else(|_| panic!("{:?}", stack.stats()));
    // The guards of idle client ports rest in a pool of this size.
    assert!(stats.guards <= 64 && stats.broken == 0, "{stats:?}");
}

fn small(builder: StackBuilder) -> StackBuilder {
    let config = ConnConfig {
        // So small that writers wait as often as readers.
        send_buffer: 4096,
        send_buffer_max: 4096,
        recv_buffer: 4096,
        recv_buffer_max: 4096,
        nodelay: true,
        quick_acks: u32::MAX,
        time_wait: Duration::from_millis(20),
        fin_wait2: Duration::from_millis(200),
        ..ConnConfig::default()
    };
    builder.config(config)
}

/// The whole program on a runtime of its own, which ends before it is looked for what is left.
fn all_of_it(times: u64, make: impl FnOnce() -> Ends) {
    let seed = number("RAWTCP_SEED", 20_261_126);
    println!("seed {seed}, {times} of each operation");
    let tally = Tally::new(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let ends = make();
        streams(&ends, &tally, times).await;
        connections(&ends, &tally, times).await;
        check_nothing_is_left(&ends.client).await;
        check_nothing_is_left(&ends.server).await;
    });
    drop(runtime);
    tally.check_wakers();
    println!("given up: {:?}", tally.cancelled.borrow());
}

fn times() -> u64 {
    number("RAWTCP_CANCELLATIONS", 10_000)
}

fn one_stack(device: Device) -> Ends {
    let stack = small(Stack::builder().device(device)).build().unwrap();
    Ends { client: stack.clone(), server: stack, at: "127.0.0.1:0".parse().unwrap() }
}

#[test]
fn over_the_loopback_inside_the_process() {
    all_of_it(times(), || one_stack(Device::Loopback));
}

#[test]
fn over_raw_lo() {
    if privilege::missing() {
        return;
    }
    all_of_it(times() / 5, || one_stack(Device::Raw));
}

/// Here the device tells when the stacks are gone, and with them every connection, timer and waiter.
#[test]
fn over_a_link_whose_stacks_leave_nothing() {
    let (a, b) = mem::pair(mem::MemConfig::default());
    let devices: [Arc<dyn PacketIo>; 2] = [Arc::new(a), Arc::new(b)];
    all_of_it(times() / 5, || {
        let addresses: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let [client, server] = [0, 1].map(|i| {
            let device = Device::Own { io: devices[i].clone(), addresses: vec![addresses[i]] };
            small(Stack::builder().device(device)).exit_drain(Duration::ZERO).build().unwrap()
        });
        Ends { client, server, at: (addresses[1], 0).into() }
    });
    assert_eq!(devices.map(|device| Arc::strong_count(&device)), [1, 1], "something keeps a stack alive");
}

#[test]
fn all_of_it_in_a_user_namespace() {
    privilege::again_with_privilege();
}
