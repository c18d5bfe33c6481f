//! Whole programs on the loopback inside the process: no privilege, no kernel.

use rawtcp::net::{TcpListener, TcpStream};
use rawtcp::{ConnConfig, Device, Stack};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::time::timeout;

fn stack() -> Stack {
    Stack::builder().device(Device::Loopback).build().unwrap()
}

async fn pair(stack: &Stack) -> (TcpStream, TcpStream) {
    pair_at(stack, "127.0.0.1:0").await
}

async fn pair_at(stack: &Stack, addr: &str) -> (TcpStream, TcpStream) {
    let listener = stack.bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(stack.connect(addr), listener.accept());
    let (client, server) = (client.unwrap(), accepted.unwrap().0);
    // An accepted stream is taken for readable until a look finds nothing.
    assert_eq!(server.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    (client, server)
}

/// Fails a test that hangs, instead of the whole run.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("hangs")
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

#[tokio::test]
async fn echo() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let stack = stack();
        let (mut a, mut b) = pair_at(&stack, addr).await;
        soon(async {
            a.write_all(b"hello").await.unwrap();
            let mut buf = [0; 5];
            b.read_exact(&mut buf).await.unwrap();
            assert_eq!(&buf, b"hello");
            b.write_all(b"world").await.unwrap();
            a.read_exact(&mut buf).await.unwrap();
            assert_eq!(&buf, b"world");
            assert_eq!(a.local_addr().unwrap(), b.peer_addr().unwrap());
            assert_eq!(b.local_addr().unwrap(), a.peer_addr().unwrap());
        })
        .await;
    }
}

/// With room for everything a long write never waits, and the runtime's other tasks, and the acknowledgments, have their
/// turn all the same. `write` is given 4 MiB.
async fn gives_way(write: impl AsyncFnOnce(&mut TcpStream, Vec<u8>)) {
    const LEN: usize = 4 << 20;
    let config = ConnConfig { send_buffer: LEN, send_buffer_max: LEN, ..ConnConfig::default() };
    let stack = Stack::builder().device(Device::Loopback).config(config).build().unwrap();
    let (mut a, mut b) = pair(&stack).await;
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let data = pattern(LEN, 9);
    soon(write(&mut a, data.clone())).await;
    // Once in 1 MiB.
    assert!(turns.load(Ordering::Relaxed) >= 3, "{turns:?}");
    other.abort();
    let mut got = vec![0; LEN];
    soon(b.read_exact(&mut got)).await.unwrap();
    assert!(got == data);
}

#[tokio::test]
async fn a_long_write_gives_way_though_there_is_room() {
    gives_way(async |stream, data| stream.write_all(&data).await.unwrap()).await;
}

#[tokio::test]
async fn many_attempts_to_write_give_way() {
    gives_way(async |stream, data| {
        let mut left = &data[..];
        while !left.is_empty() {
            let attempt = || stream.try_write(&left[..left.len().min(64 << 10)]);
            left = &left[stream.async_io(Interest::WRITABLE, attempt).await.unwrap()..];
        }
    })
    .await;
}

/// `try_write` and `writable` alone give way to nobody while there is room, as tokio's. But room ends, and the driver has its
/// turn.
#[tokio::test]
async fn a_loop_of_attempts_to_write_does_not_starve_the_driver() {
    const LEN: usize = 40 << 20;
    let stack = stack();
    let (a, mut b) = pair(&stack).await;
    let reader = tokio::spawn(async move {
        let (mut got, mut buf) = (0, vec![0; 256 << 10]);
        while got < LEN {
            got += b.read(&mut buf).await.unwrap();
        }
    });
    let data = pattern(64 << 10, 9);
    let (mut left, mut waits) = (LEN, 0);
    while left > 0 {
        soon(a.writable()).await.unwrap();
        match a.try_write(&data[..data.len().min(left)]) {
            Ok(n) => left -= n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                waits += 1;
            }
        }
    }
    assert!(waits >= 8, "{waits}");
    soon(reader).await.unwrap();
}

#[tokio::test]
async fn a_long_write_without_copies_gives_way() {
    gives_way(async |stream, data| {
        let data = bytes::Bytes::from(data);
        for at in (0..data.len()).step_by(64 << 10) {
            stream.write_bytes(data.slice(at..at + (64 << 10))).await.unwrap();
        }
    })
    .await;
}

async fn exchange(a: TcpStream, b: TcpStream, len: usize) {
    async fn push(mut half: impl tokio::io::AsyncWrite + Unpin, data: Vec<u8>) {
        half.write_all(&data).await.unwrap();
        half.shutdown().await.unwrap();
    }
    async fn pull(mut half: impl tokio::io::AsyncRead + Unpin, expected: Vec<u8>) {
        let mut got = Vec::new();
        half.read_to_end(&mut got).await.unwrap();
        assert!(got == expected, "{} of {} bytes, or others", got.len(), expected.len());
    }
    let ((ra, wa), (rb, wb)) = (a.into_split(), b.into_split());
    let (to_b, to_a) = (pattern(len, 1), pattern(len, 2));
    let tasks = [
        tokio::spawn(push(wa, to_b.clone())),
        tokio::spawn(push(wb, to_a.clone())),
        tokio::spawn(pull(ra, to_a)),
        tokio::spawn(pull(rb, to_b)),
    ];
    for task in tasks {
        soon(task).await.unwrap();
    }
}

#[tokio::test]
async fn ten_megabytes_both_ways() {
    let stack = stack();
    let (a, b) = pair(&stack).await;
    exchange(a, b, 10 << 20).await;
    assert_eq!(stack.stats().broken, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_both_ways_on_two_threads() {
    let stack = stack();
    let (a, b) = pair(&stack).await;
    exchange(a, b, 10 << 20).await;
}

#[tokio::test]
async fn half_close_then_answer() {
    let stack = stack();
    let (mut a, mut b) = pair(&stack).await;
    soon(async {
        a.write_all(b"question").await.unwrap();
        a.shutdown().await.unwrap();
        a.shutdown().await.unwrap();
        let mut got = Vec::new();
        b.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"question");
        b.write_all(b"answer").await.unwrap();
        drop(b);
        got.clear();
        a.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"answer");
        assert_eq!(a.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    })
    .await;
}

#[tokio::test]
async fn drop_with_unread_data_resets_and_the_reset_is_reported_once() {
    let stack = stack();
    let (mut a, mut b) = pair(&stack).await;
    soon(async {
        a.write_all(b"unread").await.unwrap();
        assert_eq!(b.peek(&mut [0]).await.unwrap(), 1);
        drop(b);
        let error = a.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::ConnectionReset, Some(104)));
        assert_eq!(a.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(a.write(b"x").await.unwrap_err().raw_os_error(), Some(32));
        b = pair(&stack).await.0;
        b.shutdown().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn zero_linger_resets() {
    let stack = stack();
    let (a, mut b) = pair(&stack).await;
    a.set_zero_linger().unwrap();
    assert_eq!(a.linger().unwrap(), Some(Duration::ZERO));
    drop(a);
    assert_eq!(soon(b.read(&mut [0; 1])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_drop_delivers_what_was_written() {
    let stack = stack();
    let (mut a, mut b) = pair(&stack).await;
    let data = pattern(300_000, 9);
    soon(a.write_all(&data)).await.unwrap();
    drop(a);
    let mut got = Vec::new();
    soon(b.read_to_end(&mut got)).await.unwrap();
    assert!(got == data);
}

#[tokio::test]
async fn nobody_listens() {
    let stack = stack();
    let free = stack.bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = soon(stack.connect(free)).await.unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::ConnectionRefused, Some(111)));
    let error = soon(stack.connect("192.0.2.1:80")).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(101));
    let error = soon(stack.connect(&[][..] as &[std::net::SocketAddr])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(error.to_string(), "could not resolve to any address");
}

#[tokio::test]
async fn addresses_are_tried_in_order() {
    let stack = stack();
    let listener = stack.bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap();
    let bad = { stack.bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
    let stream = soon(stack.connect(&[bad, good][..])).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), good);
}

#[tokio::test]
async fn a_port_has_one_listener() {
    let (one, two) = (stack(), stack());
    let listener = one.bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    for stack in [&one, &two] {
        for at in [addr, ([0, 0, 0, 0], addr.port()).into()] {
            assert_eq!(stack.bind(at).await.unwrap_err().kind(), ErrorKind::AddrInUse, "{at}");
        }
    }
    drop(listener);
    drop(two.bind(addr).await.unwrap());
    // With a connection in TIME-WAIT on it the port may be bound again, by the same stack.
    let listener = one.bind(addr).await.unwrap();
    let (client, accepted) = tokio::join!(one.connect(addr), listener.accept());
    let (mut client, (server, _)) = (client.unwrap(), accepted.unwrap());
    drop((server, listener));
    assert_eq!(soon(client.read(&mut [0; 1])).await.unwrap(), 0);
    drop(client);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(one.stats().time_wait, 1);
    drop(one.bind(addr).await.unwrap());
}

#[tokio::test]
async fn a_dual_stack_listener_takes_both() {
    let stack = stack();
    let listener = stack.bind("[::]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for (to, shown) in [("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")] {
        let to: std::net::IpAddr = to.parse().unwrap();
        let (client, accepted) = soon(async { tokio::join!(stack.connect((to, port)), listener.accept()) }).await;
        let (stream, peer) = accepted.unwrap();
        assert_eq!(peer.ip(), shown.parse::<std::net::IpAddr>().unwrap());
        assert_eq!(stream.peer_addr().unwrap(), peer);
        assert_eq!(client.unwrap().peer_addr().unwrap(), (to, port).into());
    }
}

#[tokio::test]
async fn every_task_in_accept_is_woken() {
    const TASKS: usize = 50;
    let stack = stack();
    let listener = Arc::new(stack.bind("127.0.0.1:0").await.unwrap());
    let addr = listener.local_addr().unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let listener = listener.clone();
            tokio::spawn(async move { listener.accept().await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    let mut clients = Vec::new();
    for _ in 0..TASKS {
        clients.push(soon(stack.connect(addr)).await.unwrap());
    }
    for task in tasks {
        soon(task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_dropped_accept_has_accepted_nothing() {
    let stack = stack();
    let listener = stack.bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    for _ in 0..3 {
        assert!(timeout(Duration::from_millis(5), listener.accept()).await.is_err());
    }
    let _client = soon(stack.connect(addr)).await.unwrap();
    soon(listener.accept()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_connect_leaves_nothing() {
    let stack = stack();
    let listener = stack.bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    for _ in 0..100 {
        let connect = stack.connect(addr);
        tokio::pin!(connect);
        assert!(futures::poll!(connect).is_pending());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stats = stack.stats();
    assert_eq!(stats.connections, 0, "{stats:?}");
    assert!(stats.guards <= 101);
}

#[tokio::test]
async fn a_writer_pends_when_the_buffers_are_full_and_goes_on_when_they_are_read() {
    let stack = stack();
    let (mut a, mut b) = pair(&stack).await;
    let chunk = vec![7; 64 << 10];
    let mut written = 0;
    while let Ok(n) = timeout(Duration::from_millis(100), a.write(&chunk)).await {
        written += n.unwrap();
        assert!(written < 16 << 20, "no end");
    }
    let mut left = written;
    let writer = tokio::spawn(async move { a.write_all(&[8; 1 << 20]).await });
    let mut buf = vec![0; 64 << 10];
    while left > 0 {
        let most = left.min(buf.len());
        left -= soon(b.read(&mut buf[..most])).await.unwrap();
    }
    let mut got = Vec::new();
    soon(b.read_to_end(&mut got)).await.unwrap();
    assert!(got == [8; 1 << 20]);
    soon(writer).await.unwrap().unwrap();
}

// users of tokio rely on readiness that sticks: four cases.

#[tokio::test]
async fn readable_after_reading_exactly_what_was_there() {
    let stack = stack();
    let (a, mut b) = pair(&stack).await;
    soon(async {
        a.writable().await.unwrap();
        assert_eq!(a.try_write(b"ping").unwrap(), 4);
        assert_eq!(b.peek(&mut [0; 4]).await.unwrap(), 4);
        let mut buf = [0; 4];
        assert_eq!(b.read(&mut buf).await.unwrap(), 4);
        // The buffer was filled, so nobody knows yet that nothing is left.
        std::future::poll_fn(|cx| b.poll_read_ready(cx)).await.unwrap();
        assert_eq!(b.try_read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(futures::poll!(std::future::poll_fn(|cx| b.poll_read_ready(cx))).is_pending());
    })
    .await;
}

#[tokio::test]
async fn writable_until_an_operation_found_no_room() {
    let stack = stack();
    let (a, b) = pair(&stack).await;
    soon(async {
        let data = vec![1; 3 << 20];
        loop {
            a.writable().await.unwrap();
            match a.try_write(&data) {
                Ok(_) => {
                    // Whole or in part: still ready.
                    assert!(futures::poll!(std::pin::pin!(a.writable())).is_ready());
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    // No driver turn has come in between: not ready now.
                    assert!(futures::poll!(std::pin::pin!(a.writable())).is_pending());
                    if timeout(Duration::from_millis(200), a.writable()).await.is_err() {
                        break;
                    }
                }
            }
        }
        let mut buf = vec![0; 1 << 20];
        loop {
            b.readable().await.unwrap();
            while b.try_read(&mut buf).is_ok() {}
            if timeout(Duration::from_millis(20), a.writable()).await.is_ok() {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_fin_arrives_within_a_hundred_yields() {
    let stack = stack();
    let (a, b) = pair(&stack).await;
    drop(a);
    for _ in 0..100 {
        if b.ready(Interest::READABLE).await.unwrap().is_read_closed() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("no end of the stream");
}

#[tokio::test]
async fn peeks_are_equal_and_take_nothing() {
    let stack = stack();
    let (mut a, mut b) = pair(&stack).await;
    a.write_all(b"peekaboo").await.unwrap();
    soon(async {
        let mut buf = [0; 4];
        for _ in 0..3 {
            assert_eq!(b.peek(&mut buf).await.unwrap(), 4);
            assert_eq!(&buf, b"peek");
        }
        let mut all = Vec::new();
        drop(a);
        b.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"peekaboo");
    })
    .await;
}

#[tokio::test]
async fn halves() {
    let stack = stack();
    let (a, b) = pair(&stack).await;
    let ((ra, wa), (mut rb, wb)) = (a.into_split(), b.into_split());
    let error = ra.reunite(wb).unwrap_err();
    assert_eq!(error.to_string(), "tried to reunite halves that are not from the same socket");
    let (ra, wb) = (error.0, error.1);
    let mut a = ra.reunite(wa).unwrap();
    soon(async {
        a.write_all(b"1").await.unwrap();
        assert_eq!(rb.read_u8().await.unwrap(), b'1');
        wb.forget();
        assert!(timeout(Duration::from_millis(20), a.read_u8()).await.is_err());
        {
            let (_read, mut write) = a.split();
            write.write_all(b"2").await.unwrap();
        }
        assert_eq!(rb.read_u8().await.unwrap(), b'2');
        let (_ra, wa) = a.into_split();
        drop(wa);
        assert_eq!(rb.read_u8().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    })
    .await;
}

#[tokio::test]
async fn options_are_kept() {
    let stack = stack();
    let (a, _b) = pair(&stack).await;
    a.set_nodelay(true).unwrap();
    a.set_ttl(99).unwrap();
    assert!(a.nodelay().unwrap() && a.ttl().unwrap() == 99 && a.linger().unwrap().is_none());
    assert_eq!(a.set_ttl(256).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(a.take_error().unwrap().is_none());
    assert_eq!(a.tcp_info().state, rawtcp::State::Established);
}

#[test]
fn the_end_of_the_runtime_fails_what_waits_and_what_comes_later() {
    const TEXT: &str = "A Tokio 1.x context was found, but it is being shutdown.";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stack, listener, a, b) = runtime.block_on(async {
        let stack = stack();
        let listener = stack.bind("127.0.0.1:0").await.unwrap();
        let (a, b) = pair(&stack).await;
        (stack, listener, a, b)
    });
    let b = Arc::new(b);
    let waiting = std::thread::spawn({
        let b = b.clone();
        move || futures::executor::block_on(async { b.readable().await.unwrap_err() })
    });
    let accepting = std::thread::spawn(move || futures::executor::block_on(listener.accept()).map(drop).unwrap_err());
    std::thread::sleep(Duration::from_millis(100));
    drop(runtime);
    let errors = [
        waiting.join().unwrap(),
        accepting.join().unwrap(),
        a.try_write(b"x").unwrap_err(),
        b.try_read(&mut [0]).unwrap_err(),
        futures::executor::block_on(a.writable()).unwrap_err(),
        futures::executor::block_on(stack.connect("127.0.0.1:1")).unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Other, TEXT));
    }
}

#[test]
fn what_was_written_outlives_the_runtime() {
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = other.block_on(async { stack().bind("127.0.0.1:0").await.unwrap() });
    let addr = listener.local_addr().unwrap();
    let reader = other.spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await?;
        io::Result::Ok(got)
    });
    let data = pattern(900_000, 3);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stream = stack().connect(addr).await.unwrap();
        stream.write_all(&data).await.unwrap();
    });
    drop(runtime);
    let got = other.block_on(soon(reader)).unwrap().unwrap();
    assert!(got == data, "{} bytes", got.len());
}

/// A peer whose program does not read for a while is not a dead one: zero-window probes are all that happens meanwhile.
#[test]
fn what_was_written_waits_for_a_peer_that_reads_later() {
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = other.block_on(async { stack().bind("127.0.0.1:0").await.unwrap() });
    let addr = listener.local_addr().unwrap();
    let reader = other.spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        tokio::time::sleep(Duration::from_millis(3500)).await;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await?;
        io::Result::Ok(got)
    });
    let data = pattern(900_000, 4);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stack = Stack::builder().device(Device::Loopback).exit_drain(Duration::from_secs(15)).build().unwrap();
        let mut stream = stack.connect(addr).await.unwrap();
        stream.write_all(&data).await.unwrap();
    });
    drop(runtime);
    let got = other.block_on(soon(reader)).unwrap().unwrap();
    assert!(got == data, "{} bytes", got.len());
}

#[test]
fn runtimes_one_after_the_other_and_a_driver_with_a_thread() {
    for own_thread in [false, true] {
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut builder = Stack::builder().device(Device::Loopback);
                if own_thread {
                    builder = builder.driver(rawtcp::Driver::Thread);
                }
                let stack = builder.build().unwrap();
                let (a, b) = pair(&stack).await;
                exchange(a, b, 100_000).await;
            });
        }
    }
}

#[tokio::test]
async fn close_is_polite() {
    let stack = stack();
    let (mut a, mut b) = pair(&stack).await;
    let reader = tokio::spawn(async move {
        let mut got = Vec::new();
        b.read_to_end(&mut got).await.map(|_| got.len())
    });
    a.write_all(&[1; 500_000]).await.unwrap();
    drop(a);
    let other = stack.clone();
    soon(stack.close()).await;
    assert!(other.bind("127.0.0.1:0").await.is_err());
    // Everything was acknowledged before the stack ended; whether it was read is the reader's affair.
    let _ = reader.await.unwrap();
}

#[test]
fn streams_cross_threads_and_unwind() {
    fn check<T: Send + Sync + Unpin + std::panic::UnwindSafe + std::panic::RefUnwindSafe + 'static>() {}
    check::<TcpStream>();
    check::<TcpListener>();
    check::<rawtcp::net::tcp::OwnedReadHalf>();
    check::<rawtcp::net::tcp::OwnedWriteHalf>();
    fn send<T: Send>(_: T) {}
    send(TcpStream::connect("127.0.0.1:1"));
    send(TcpListener::bind("127.0.0.1:1"));
}

#[test]
#[should_panic(expected = "there is no reactor running, must be called from the context of a Tokio 1.x runtime")]
fn outside_of_a_runtime() {
    let _ = futures::executor::block_on(TcpStream::connect("127.0.0.1:1"));
}

#[tokio::test(start_paused = true)]
async fn time_may_stand_still() {
    let stack = stack();
    let (mut a, b) = pair(&stack).await;
    let before = tokio::time::Instant::now();
    // Nobody reads: the window closes, and probes go on in virtual time.
    let _ = timeout(Duration::from_secs(3600), a.write_all(&vec![0; 8 << 20])).await.unwrap_err();
    assert!(before.elapsed() >= Duration::from_secs(3600));
    drop(b);
    assert_eq!(soon(a.write_all(&[0; 1 << 20])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn many_connections_to_few_ports_share_guards() {
    const PORTS: usize = 20;
    const EACH: usize = 25;
    let stack = stack();
    let mut listeners = Vec::new();
    for _ in 0..PORTS {
        listeners.push(stack.bind("127.0.0.1:0").await.unwrap());
    }
    let mut clients = Vec::new();
    for _ in 0..EACH {
        for listener in &listeners {
            clients.push(soon(stack.connect(listener.local_addr().unwrap())).await.unwrap());
        }
    }
    let stats = stack.stats();
    assert!(stats.guards <= PORTS + 2 * EACH, "{} guards", stats.guards);
}
