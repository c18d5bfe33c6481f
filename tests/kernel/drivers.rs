//! Several drivers of one stack: flows spread over the AF_PACKET sockets of a fan-out group, and every way to end.

use crate::common::{
    Failure, Outcome, PATIENCE, addr, assert_kernel_sent_no_reset, kernel_listener, once_told, receive, send, soon,
};
use crate::tests;
use crate::transfer::exchange_of;
use futures::task::ArcWake;
use rawtcp::net::TcpStream;
use rawtcp::{Device, Driver, Stack, StackBuilder, StackStats};
use rawtcp_io::afpacket_raw::{PacketOptions, PacketSocket};
use rawtcp_io::ethtool::Feature;
use rawtcp_io::network::Network;
use rawtcp_io::{PacketConfig, PacketDevice, PacketIo, PortSet, RxBatch};
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{CLIENT_V4, CLIENT_V6, INTERFACE, Pair, SERVER_V4, SERVER_V6};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net as kernel;
use tokio::task::JoinSet;

tests!(
    two_drivers,
    four_drivers,
    two_threads,
    four_drivers_on_one_worker,
    both_ends_are_ours,
    a_flow_comes_by_one_socket_in_order,
    nothing_is_reordered,
    ends_of_every_kind,
    close_delivers_what_is_left,
    the_end_of_the_runtime_delivers_what_is_left,
    the_last_handle_of_threads_delivers_what_is_left,
    a_driver_that_panics_ends_the_stack,
    turns_are_taken_on_the_spot,
    a_turn_on_the_spot_that_panics_ends_the_stack,
    what_has_one_queue_has_one_driver,
);

const PORT: u16 = 4900;

/// So many connections at once that each of four sockets gets some: that one gets none happens once in 10⁸ times.
const CONNECTIONS: usize = 64;

fn builder(drivers: usize) -> StackBuilder {
    Stack::builder().device(Device::Packet { interface: None }).drivers(drivers)
}

/// Waits for all, of which none may fail.
async fn all(mut tasks: JoinSet<Outcome>) -> Outcome {
    while let Some(outcome) = soon("a task", tasks.join_next()).await {
        outcome??;
    }
    Ok(())
}

/// Every driver had something to receive.
fn assert_spread(stats: &StackStats, drivers: usize) {
    assert_eq!(stats.received_by.len(), drivers, "{stats:?}");
    assert!(stats.received_by.iter().all(|&received| received > 0), "{:?}", stats.received_by);
    assert_eq!(stats.packets_received, stats.received_by.iter().sum::<u64>());
    assert_eq!(stats.broken, 0, "{stats:?}");
}

/// How many packet sockets there are in this thread's namespace.
fn packet_sockets() -> io::Result<usize> {
    Ok(std::fs::read_to_string("/proc/thread-self/net/packet")?.lines().count() - 1)
}

/// The sockets of a stack that has ended go once its last task has, and once what other tests begin has no copies of them.
async fn assert_no_packet_sockets() -> Outcome {
    let gone = async {
        while tokio::task::block_in_place(packet_sockets)? > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Outcome::Ok(())
    };
    soon("the end of the packet sockets", gone).await
}

/// Bytes each way of an exchange.
const BYTES: u64 = 1 << 20;

/// Makes so many connections at once; each carries its bytes both ways.
async fn exchange_with_all<S, F>(connect: impl Fn() -> F) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let connect = connect();
        tasks.spawn(async move { exchange_of(&mut soon("connect", connect).await?, BYTES).await });
    }
    all(tasks).await
}

/// The other end of [`exchange_with_all`].
async fn exchange_with_each<S>(mut accept: impl AsyncFnMut() -> io::Result<S>) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut stream = soon("accept", accept()).await?;
        tasks.spawn(async move { exchange_of(&mut stream, BYTES).await });
    }
    all(tasks).await
}

/// Our server and kernel clients at once, then our clients and a kernel server.
fn many_both_ways(made: StackBuilder, drivers: usize, workers: usize, [ours, theirs]: [IpAddr; 2]) -> Outcome {
    let pair = Pair::new()?;
    let (ready, is_ready) = mpsc::channel();
    let server = pair.server.spawn_tokio_threads(workers, move || async move {
        let stack = made.build()?;
        // Each receives by one and sends by the other.
        assert_eq!(tokio::task::block_in_place(packet_sockets)?, 2 * drivers);
        let listener = stack.bind(addr(ours, PORT)).await?;
        ready.send(())?;
        exchange_with_each(async || Ok(listener.accept().await?.0)).await?;
        assert_spread(&stack.stats(), drivers);
        let connect = || {
            let stack = stack.clone();
            async move { stack.connect(addr(theirs, PORT + 1)).await }
        };
        exchange_with_all(connect).await?;
        assert_spread(&stack.stats(), drivers);
        assert_kernel_sent_no_reset()?;
        drop(listener);
        soon("close", stack.close()).await;
        assert_no_packet_sockets().await
    });
    let server = once_told(&is_ready, server)?;
    let client = pair.client.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(theirs, PORT + 1)).await?;
        exchange_with_all(|| kernel::TcpStream::connect(addr(ours, PORT))).await?;
        exchange_with_each(async || Ok(listener.accept().await?.0)).await
    });
    client.join()?;
    server.join()
}

fn two_drivers() -> Outcome {
    many_both_ways(builder(2), 2, 2, [SERVER_V4, CLIENT_V4])
}

fn four_drivers() -> Outcome {
    many_both_ways(builder(4), 4, 4, [SERVER_V6, CLIENT_V6])
}

fn two_threads() -> Outcome {
    many_both_ways(builder(2).driver(Driver::Thread), 2, 1, [SERVER_V4, CLIENT_V4])
}

fn four_drivers_on_one_worker() -> Outcome {
    many_both_ways(builder(4), 4, 1, [SERVER_V4, CLIENT_V4])
}

fn both_ends_are_ours() -> Outcome {
    let pair = Pair::new()?;
    let (ready, is_ready) = mpsc::channel();
    let server = pair.server.spawn_tokio_threads(2, move || async move {
        let stack = builder(4).build()?;
        let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        exchange_with_each(async || Ok(listener.accept().await?.0)).await?;
        assert_spread(&stack.stats(), 4);
        soon("close", stack.close()).await;
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let client = pair.client.spawn_tokio_threads(2, move || async move {
        let stack = builder(2).build()?;
        let connect = || {
            let stack = stack.clone();
            async move { stack.connect(addr(SERVER_V4, PORT)).await }
        };
        exchange_with_all(connect).await?;
        assert_spread(&stack.stats(), 2);
        soon("close", stack.close()).await;
        Outcome::Ok(())
    });
    client.join()?;
    server.join()
}

/// A TCP segment of the client's, as a frame to the server: nothing of it but the flow and its number matters.
fn frame(to: [u8; 6], from_port: u16, number: u32) -> Vec<u8> {
    let mut frame = [&to[..], &[2, 0, 0, 0, 0, 1], &[8, 0]].concat();
    frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    for ip in [CLIENT_V4, SERVER_V4] {
        let IpAddr::V4(ip) = ip else { unreachable!("the pair's first addresses are IPv4") };
        frame.extend(ip.octets());
    }
    frame.extend(from_port.to_be_bytes());
    frame.extend(PORT.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

/// The sockets of one interface: every packet comes by one of them, those of a flow by the same, and in order.
fn a_flow_comes_by_one_socket_in_order() -> Outcome {
    /// No multiple of the sockets, or to take turns would look like a hash.
    const FLOWS: u16 = 63;
    const EACH: u32 = 40;
    let pair = Pair::new()?;
    let (sockets, mac) = pair.server.run(|| {
        let network = Network::open()?;
        let interface = network.interfaces().first().cloned().ok_or(io::ErrorKind::NotFound)?;
        let sockets = PacketDevice::open_several(&interface, &PacketConfig::default(), 4)?;
        sockets.iter().try_for_each(|socket| socket.set_ports(&PortSet::from_iter([PORT])))?;
        io::Result::Ok((sockets, interface.mac()))
    })?;
    pair.client.run(|| -> io::Result<()> {
        // Two processors would have a queue each.
        let mut one = CpuSet::new();
        one.set(0);
        sched_setaffinity(None, &one)?;
        let network = Network::open()?;
        let index = network.interfaces().first().map(|interface| interface.index()).unwrap_or_default();
        let wire = PacketSocket::bind(index, PacketOptions::default())?;
        for number in 0..EACH {
            for flow in 0..FLOWS {
                wire.send(&frame(mac, 40_000 + flow, number))?;
            }
        }
        Ok(())
    })?;
    let mut seen = HashMap::<u16, Vec<(usize, u32)>>::new();
    let (mut total, mut batch) = (0, RxBatch::new(64));
    let until = Instant::now() + PATIENCE;
    while total < usize::from(FLOWS) * EACH as usize && Instant::now() < until {
        for (i, socket) in sockets.iter().enumerate() {
            socket.recv(&mut batch)?;
            total += batch.len();
            for (_, packet) in batch.iter() {
                let field = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
                let number = u32::from(field(24)) << 16 | u32::from(field(26));
                seen.entry(field(20)).or_default().push((i, number));
            }
        }
    }
    assert_eq!(seen.len(), FLOWS.into());
    for (flow, packets) in &seen {
        let expected: Vec<_> = (0..EACH).map(|number| (packets[0].0, number)).collect();
        assert_eq!(*packets, expected, "flow {flow}");
    }
    let used: HashSet<_> = seen.values().map(|packets| packets[0].0).collect();
    assert_eq!(used.len(), sockets.len(), "sockets that received");
    Ok(())
}

/// Whatever the drivers do at the same time, no connection sees its segments in another order than they came in.
fn nothing_is_reordered() -> Outcome {
    const BYTES: u64 = 4 << 20;
    const STREAMS: usize = 8;
    // All windows together fit the veth's ring, so that nothing is lost.
    const WINDOW: usize = 32 << 10;
    let pair = Pair::new()?;
    // So a veth has a ring for what it receives, and else a queue for each processor, between which a sender that moves
    // overtakes itself.
    for host in [&pair.client, &pair.server] {
        for (feature, on) in [(Feature::Tso, false), (Feature::Gso, false), (Feature::Gro, true)] {
            host.set_offload(INTERFACE, feature, on)?;
        }
    }
    let (ready, is_ready) = mpsc::channel();
    let server = pair.server.spawn_tokio_threads(2, move || async move {
        let config =
            rawtcp::ConnConfig { recv_buffer: WINDOW, recv_buffer_max: WINDOW, ..rawtcp::ConnConfig::default() };
        let stack = builder(4).config(config).build()?;
        let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let mut tasks = JoinSet::new();
        for _ in 0..STREAMS {
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            tasks.spawn(async move {
                assert_eq!(soon("the stream", receive(&mut stream)).await?, BYTES);
                let info = stream.tcp_info();
                assert!(info.data_segs_in > 0);
                if info.rcv_ooopack > 0 {
                    return Err(format!("{} of {} out of order", info.rcv_ooopack, info.data_segs_in).into());
                }
                Outcome::Ok(())
            });
        }
        all(tasks).await?;
        assert_eq!(stack.stats().receive_queue_drops, 0);
        soon("close", stack.close()).await;
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let clients = pair.client.spawn_tokio_threads(2, move || async move {
        let mut tasks = JoinSet::new();
        for _ in 0..STREAMS {
            tasks.spawn(async move {
                let mut stream = kernel::TcpStream::connect(addr(SERVER_V4, PORT)).await?;
                send(&mut stream, BYTES).await?;
                stream.shutdown().await?;
                Outcome::Ok(())
            });
        }
        all(tasks).await
    });
    let sent = clients.join();
    server.join()?;
    sent
}

/// Waits until a count of the stack is what it has to become.
async fn until(what: &str, stack: &Stack, done: impl Fn(&StackStats) -> bool) {
    let wait = async {
        while !done(&stack.stats()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(what, wait).await;
}

/// Whoever closes first, by FIN or by RST, with data on the way or without: nothing stays behind, on any driver.
fn ends_of_every_kind() -> Outcome {
    const ROUNDS: usize = 8;
    let pair = Pair::new()?;
    let (ready, is_ready) = mpsc::channel();
    let server = pair.server.spawn_tokio_threads(2, move || async move {
        let stack = builder(4).build()?;
        let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let mut tasks = JoinSet::new();
        for _ in 0..ROUNDS * CONNECTIONS {
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            tasks.spawn(async move {
                match soon("the order", stream.read_u8()).await? {
                    // Whoever asked waits for our end, orderly or not.
                    b'f' => stream.write_all(b"x").await?,
                    b'r' => stream.set_zero_linger()?,
                    // With unread data, and much to send.
                    b'u' => {
                        stream.write_all(&[0; 100_000]).await?;
                        stream.readable().await?;
                    }
                    // They end it.
                    _ => {
                        let mut rest = Vec::new();
                        let _ = soon("their end", stream.read_to_end(&mut rest)).await;
                    }
                }
                Outcome::Ok(())
            });
        }
        all(tasks).await?;
        until("all to be over", &stack, |stats| stats.connections == 0 && stats.half_open == 0).await;
        let stats = stack.stats();
        assert_eq!((stats.broken, stats.accepts), (0, (ROUNDS * CONNECTIONS) as u64), "{stats:?}");
        assert!(stats.received_by.iter().all(|&received| received > 0), "{:?}", stats.received_by);
        soon("close", stack.close()).await;
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let clients = pair.client.spawn_tokio_threads(2, move || async move {
        for _ in 0..ROUNDS {
            let mut tasks = JoinSet::new();
            for i in 0..CONNECTIONS {
                tasks.spawn(async move {
                    let mut stream = soon("connect", kernel::TcpStream::connect(addr(SERVER_V4, PORT))).await?;
                    let mut rest = Vec::new();
                    match i % 5 {
                        0 => {
                            stream.write_all(b"f").await?;
                            soon("FIN", stream.read_to_end(&mut rest)).await?;
                            assert_eq!(rest, b"x");
                        }
                        1 => {
                            stream.write_all(b"r").await?;
                            soon("RST", stream.read_to_end(&mut rest)).await.expect_err("it is reset");
                        }
                        2 => {
                            stream.write_all(b"u").await?;
                            stream.write_all(&[0; 1000]).await?;
                            let _ = soon("RST", stream.read_to_end(&mut rest)).await;
                        }
                        3 => {
                            stream.write_all(b"?").await?;
                            stream.set_zero_linger()?;
                        }
                        _ => stream.write_all(b"?and more").await?,
                    }
                    Outcome::Ok(())
                });
            }
            all(tasks).await?;
        }
        Outcome::Ok(())
    });
    clients.join()?;
    server.join()
}

/// Kernel clients, each of which reads `BYTES` to the end; before that they wait until they are told.
const LEFT: u64 = 1 << 20;

fn readers(host: &Namespace, go: mpsc::Receiver<()>) -> rawtcp_lab::netns::Task<Outcome> {
    host.spawn_tokio_threads(2, move || async move {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            streams.push(soon("connect", kernel::TcpStream::connect(addr(SERVER_V4, PORT))).await?);
        }
        tokio::task::block_in_place(|| go.recv())?;
        let mut tasks = JoinSet::new();
        for mut stream in streams {
            tasks.spawn(async move {
                assert_eq!(soon("what was left", receive(&mut stream)).await?, LEFT);
                Outcome::Ok(())
            });
        }
        all(tasks).await
    })
}

/// Accepts all, writes to each, and drops the streams; the readers begin then.
async fn leave_much(stack: &Stack, ready: mpsc::Sender<()>, go: mpsc::Sender<()>) -> Result<(), Failure> {
    let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
    ready.send(())?;
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        tasks.spawn(async move {
            send(&mut stream, LEFT).await?;
            Outcome::Ok(())
        });
    }
    go.send(())?;
    all(tasks).await
}

fn leaver(drivers: usize) -> StackBuilder {
    // Room for all that is written, so that much of it is left when the writers go.
    let config = rawtcp::ConnConfig { send_buffer: LEFT as usize, ..rawtcp::ConnConfig::default() };
    builder(drivers).config(config).exit_drain(Duration::from_secs(60))
}

fn close_delivers_what_is_left() -> Outcome {
    let pair = Pair::new()?;
    let ((ready, is_ready), (go, may_go)) = (mpsc::channel(), mpsc::channel());
    let server = pair.server.spawn_tokio_threads(2, move || async move {
        let stack = leaver(4).build()?;
        leave_much(&stack, ready, go).await?;
        soon("close", stack.close()).await;
        assert_no_packet_sockets().await
    });
    let server = once_told(&is_ready, server)?;
    readers(&pair.client, may_go).join()?;
    server.join()
}

fn the_end_of_the_runtime_delivers_what_is_left() -> Outcome {
    let pair = Pair::new()?;
    let ((ready, is_ready), (go, may_go)) = (mpsc::channel(), mpsc::channel());
    let server = pair.server.spawn_tokio_threads(2, move || async move {
        // The runtime ends when this does, and takes its drivers with it in whatever order it likes.
        leave_much(&leaver(4).build()?, ready, go).await
    });
    let server = once_told(&is_ready, server)?;
    readers(&pair.client, may_go).join()?;
    server.join()?;
    pair.server.spawn_tokio_threads(1, assert_no_packet_sockets).join()
}

fn the_last_handle_of_threads_delivers_what_is_left() -> Outcome {
    let pair = Pair::new()?;
    let ((ready, is_ready), (go, may_go)) = (mpsc::channel(), mpsc::channel());
    let server = pair
        .server
        .spawn_tokio(move || async move { leave_much(&leaver(2).driver(Driver::Thread).build()?, ready, go).await });
    let server = once_told(&is_ready, server)?;
    readers(&pair.client, may_go).join()?;
    server.join()?;
    // The threads end when TIME-WAIT or the listener's last connection does; nobody waits for that.
    Ok(())
}

/// A waker that panics where it is woken: in the turn of a driver.
struct Panics;

impl ArcWake for Panics {
    fn wake_by_ref(_: &Arc<Self>) {
        panic!("a test's");
    }
}

/// Whichever driver it is, the first or another: everything fails, nothing hangs, and the other drivers end as well.
fn a_driver_that_panics_ends_the_stack() -> Outcome {
    for victim in [0, 1] {
        let pair = Pair::new()?;
        let (ready, is_ready) = mpsc::channel();
        let server = pair.server.spawn_tokio_threads(2, move || async move {
            let stack = builder(2).build()?;
            let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
            ready.send(())?;
            let mut streams = Vec::new();
            for _ in 0..CONNECTIONS {
                streams.push(soon("accept", listener.accept()).await?.0);
            }
            // One byte at a time: the driver that counts it is the connection's.
            let mut of_victim = None;
            for (i, stream) in streams.iter_mut().enumerate() {
                let before = stack.stats().received_by[victim];
                stream.write_all(b"?").await?;
                soon("an answer", stream.read_u8()).await?;
                if stack.stats().received_by[victim] > before {
                    of_victim = Some(i);
                }
            }
            let mut broken = streams.remove(of_victim.ok_or("no connection by this driver")?);
            assert!(futures::poll!(Box::pin(broken.read(&mut [0]))).is_pending());
            let waker = futures::task::waker(Arc::new(Panics));
            assert!(broken.poll_read_ready(&mut Context::from_waker(&waker)).is_pending());
            broken.try_write(b"?")?;
            for stream in &mut streams {
                soon("the end", stream.read(&mut [0])).await.expect_err("the stack has ended");
            }
            soon("the end", listener.accept()).await.expect_err("the stack has ended");
            soon("close", stack.close()).await;
            drop((broken, streams, listener));
            assert_no_packet_sockets().await
        });
        let server = once_told(&is_ready, server)?;
        let client = pair.client.spawn_tokio_threads(2, move || async move {
            let mut tasks = JoinSet::new();
            for _ in 0..CONNECTIONS {
                let mut stream = soon("connect", kernel::TcpStream::connect(addr(SERVER_V4, PORT))).await?;
                tasks.spawn(async move {
                    // Answers until the stack has gone.
                    while let Ok(byte) = stream.read_u8().await {
                        stream.write_all(&[byte]).await?;
                    }
                    Outcome::Ok(())
                });
            }
            tokio::task::spawn_blocking(move || server.join()).await?
        });
        client.join()?;
    }
    Ok(())
}

/// Counts by whom it is woken.
#[derive(Default)]
struct Woken {
    by_tasks: AtomicUsize,
    by_reactor: AtomicUsize,
}

impl ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        let count = if tokio::task::try_id().is_some() { &woken.by_tasks } else { &woken.by_reactor };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until something is read, without a waker.
async fn read_soon(stream: &TcpStream) -> Outcome {
    let read = async {
        while stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            tokio::task::yield_now().await;
        }
    };
    soon("an answer", read).await;
    Ok(())
}

/// Sends a byte to a peer that sends it back, and has this waker called for that.
async fn ask(stream: &mut TcpStream, waker: &Waker) -> Outcome {
    assert!(stream.try_read(&mut [0]).is_err());
    assert!(stream.poll_read_ready(&mut Context::from_waker(waker)).is_pending());
    stream.try_write(b"?")?;
    read_soon(stream).await
}

/// A stack on a runtime with one thread, or with two, serves a client that sends everything back.
fn with_an_echo<F>(workers: usize, serve: impl Fn(Stack, TcpStream) -> F + Send + 'static) -> Outcome
where
    F: Future<Output = Outcome> + Send,
{
    let pair = Pair::new()?;
    let (ready, is_ready) = mpsc::channel();
    let server = async move {
        let stack = builder(1).build()?;
        let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (stream, _) = soon("accept", listener.accept()).await?;
        serve(stack, stream).await
    };
    let server = match workers {
        1 => pair.server.spawn_tokio(|| server),
        workers => pair.server.spawn_tokio_threads(workers, || server),
    };
    let server = once_told(&is_ready, server)?;
    let client = pair.client.spawn_tokio(|| async {
        let mut stream = soon("connect", kernel::TcpStream::connect(addr(SERVER_V4, PORT))).await?;
        while let Ok(byte) = stream.read_u8().await {
            stream.write_all(&[byte]).await?;
        }
        Outcome::Ok(())
    });
    server.join()?;
    client.join()
}

/// Where the reactor is the only thing that runs, it need not wake a task for a packet. Elsewhere it would keep others waiting.
fn turns_are_taken_on_the_spot() -> Outcome {
    for workers in [1, 2] {
        with_an_echo(workers, move |stack, mut stream| async move {
            let woken = Arc::new(Woken::default());
            for _ in 0..100 {
                ask(&mut stream, &futures::task::waker(woken.clone())).await?;
            }
            let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
            let (by_reactor, by_tasks) = (count(&woken.by_reactor), count(&woken.by_tasks));
            assert_eq!(by_reactor + by_tasks, 100);
            // Now and then a task of the driver is awake when a packet comes.
            assert!(if workers == 1 { by_reactor > by_tasks } else { by_reactor == 0 }, "{by_reactor} of 100");
            drop(stream);
            soon("close", stack.close()).await;
            Ok(())
        })?;
    }
    Ok(())
}

fn a_turn_on_the_spot_that_panics_ends_the_stack() -> Outcome {
    with_an_echo(1, |stack, mut stream| async move {
        // The runtime goes on, and whoever waits is told.
        let listener = stack.bind(addr(SERVER_V4, PORT + 1)).await?;
        ask(&mut stream, &futures::task::waker(Arc::new(Panics))).await?;
        soon("the end", listener.accept()).await.expect_err("the stack has ended");
        soon("the end", stream.read(&mut [0])).await.expect_err("the stack has ended");
        soon("close", stack.close()).await;
        Ok(())
    })
}

fn what_has_one_queue_has_one_driver() -> Outcome {
    let host = Namespace::new("host")?;
    host.spawn_tokio_threads(2, || async {
        for device in [Device::Raw, Device::Auto, Device::Loopback] {
            let stack = Stack::builder().device(device).drivers(4).build()?;
            assert_eq!(stack.stats().received_by.len(), 1);
            let listener = stack.bind("127.0.0.1:0").await?;
            let (accepted, connected) =
                futures::future::join(listener.accept(), stack.connect(listener.local_addr()?)).await;
            let ((mut a, _), mut b) = (accepted?, connected?);
            let (a, b) = futures::future::join(exchange_of(&mut a, 1 << 20), exchange_of(&mut b, 1 << 20)).await;
            a.and(b)?;
            soon("close", stack.close()).await;
        }
        Outcome::Ok(())
    })
    .join()
}
