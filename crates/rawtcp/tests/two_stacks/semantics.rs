//! What code relies on: results, errors and their order.

use super::net::tcp::ReuniteError;
use super::net::{TcpListener, TcpStream};
use super::skip;
use super::support::{pair, pair_at, soon};
use futures::task::noop_waker;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::sync::Notify;
use tokio::time::timeout;

/// An address where nobody listens.
async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn of(error: &io::Error) -> (ErrorKind, Option<i32>) {
    (error.kind(), error.raw_os_error())
}

const RESET: (ErrorKind, Option<i32>) = (ErrorKind::ConnectionReset, Some(104));
const PIPE: (ErrorKind, Option<i32>) = (ErrorKind::BrokenPipe, Some(32));

#[derive(Default)]
struct Count {
    wakes: AtomicUsize,
    first: Notify,
}

impl Count {
    /// Waits until it has been woken.
    async fn woken(&self) {
        soon(self.first.notified()).await;
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.first.notify_one();
    }
}

fn counter() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count::default());
    (count.clone(), Waker::from(count))
}

fn woken(count: &Count) -> usize {
    count.wakes.load(Ordering::SeqCst)
}

#[tokio::test]
async fn addresses() {
    if skip() {
        return;
    }
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let (a, b) = pair_at(at).await;
        assert_eq!(a.local_addr().unwrap(), b.peer_addr().unwrap());
        assert_eq!(b.local_addr().unwrap(), a.peer_addr().unwrap());
    }
    let listener = TcpListener::bind("[::]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for (to, shown) in [("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")] {
        let to: std::net::IpAddr = to.parse().unwrap();
        let connect = TcpStream::connect((to, port));
        let (client, accepted) = soon(async { tokio::join!(connect, listener.accept()) }).await;
        let (server, peer) = accepted.unwrap();
        assert_eq!(peer.ip(), shown.parse::<std::net::IpAddr>().unwrap());
        assert_eq!((server.peer_addr().unwrap(), client.unwrap().peer_addr().unwrap()), (peer, (to, port).into()));
    }
    // A mapped address is IPv4, and stays mapped to be seen.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = format!("[::ffff:127.0.0.1]:{}", listener.local_addr().unwrap().port());
    let client = soon(TcpStream::connect(&to)).await.unwrap();
    assert_eq!(client.peer_addr().unwrap().to_string(), to);
    // "Any" means this host.
    let to = SocketAddr::from(([0, 0, 0, 0], listener.local_addr().unwrap().port()));
    assert!(soon(TcpStream::connect(to)).await.unwrap().peer_addr().unwrap().ip().is_loopback());
}

#[tokio::test]
async fn several_addresses_are_tried_in_order_and_the_last_error_counts() {
    if skip() {
        return;
    }
    let (listener, bad) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), free().await);
    let good = listener.local_addr().unwrap();
    let stream = soon(TcpStream::connect(&[bad, good][..])).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), good);
    let error = soon(TcpStream::connect(&[bad, bad][..])).await.unwrap_err();
    assert_eq!(of(&error), (ErrorKind::ConnectionRefused, Some(111)));
    let bound = TcpListener::bind(&[good, "127.0.0.1:0".parse().unwrap()][..]).await.unwrap();
    assert_ne!(bound.local_addr().unwrap(), good);
    let none: &[SocketAddr] = &[];
    for error in [TcpStream::connect(none).await.unwrap_err(), TcpListener::bind(none).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), "could not resolve to any address");
    }
}

#[tokio::test]
async fn errors_of_bind_and_connect() {
    if skip() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    for at in [addr, ([0, 0, 0, 0], addr.port()).into()] {
        assert_eq!(of(&TcpListener::bind(at).await.unwrap_err()), (ErrorKind::AddrInUse, Some(98)));
    }
    let error = TcpListener::bind("192.0.2.1:0").await.unwrap_err();
    assert_eq!(of(&error), (ErrorKind::AddrNotAvailable, Some(99)));
    let error = soon(TcpStream::connect("255.255.255.255:9")).await.unwrap_err();
    assert_eq!(of(&error), (ErrorKind::NetworkUnreachable, Some(101)));
    let error = soon(TcpStream::connect("127.0.0.1:0")).await.unwrap_err();
    assert_eq!(of(&error), (ErrorKind::ConnectionRefused, Some(111)));
}

#[tokio::test]
async fn a_port_can_be_bound_again_at_once() {
    if skip() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (client, accepted) = soon(async { tokio::join!(TcpStream::connect(addr), listener.accept()) }).await;
    drop((accepted.unwrap(), listener));
    let mut client = client.unwrap();
    assert_eq!(soon(client.read(&mut [0])).await.unwrap(), 0);
    drop(client);
    drop(TcpListener::bind(addr).await.unwrap());
}

#[tokio::test]
async fn every_waiter_of_accept_is_served() {
    const TASKS: usize = 50;
    if skip() {
        return;
    }
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let addr = listener.local_addr().unwrap();
    let accept = |_| {
        let listener = listener.clone();
        tokio::spawn(async move { listener.accept().await.map(drop) })
    };
    let tasks: Vec<_> = (0..TASKS).map(accept).collect();
    tokio::task::yield_now().await;
    let mut clients = Vec::new();
    for _ in 0..TASKS {
        clients.push(soon(TcpStream::connect(addr)).await.unwrap());
    }
    for task in tasks {
        soon(task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_dropped_accept_has_accepted_nothing() {
    if skip() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..3 {
        assert!(timeout(Duration::from_millis(5), listener.accept()).await.is_err());
    }
    let _client = soon(TcpStream::connect(listener.local_addr().unwrap())).await.unwrap();
    soon(listener.accept()).await.unwrap();
}

#[tokio::test]
async fn poll_accept_keeps_the_last_waker() {
    if skip() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ((first, one), (second, two)) = (counter(), counter());
    assert!(listener.poll_accept(&mut Context::from_waker(&one)).is_pending());
    assert!(listener.poll_accept(&mut Context::from_waker(&two)).is_pending());
    let _client = soon(TcpStream::connect(listener.local_addr().unwrap())).await.unwrap();
    second.woken().await;
    soon(poll_fn(|cx| listener.poll_accept(cx))).await.unwrap();
    assert_eq!(woken(&first), 0);
}

#[tokio::test]
async fn a_listener_that_goes_resets_whom_it_did_not_accept() {
    if skip() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    // The first one is in the queue by now. What the second one's handshake lacks may still be on its way.
    let mut clients = [soon(TcpStream::connect(addr)).await.unwrap(), soon(TcpStream::connect(addr)).await.unwrap()];
    drop(listener);
    for client in &mut clients {
        assert_eq!(of(&soon(client.read(&mut [0])).await.unwrap_err()), RESET);
    }
    let error = soon(TcpStream::connect(addr)).await.unwrap_err();
    assert_eq!(of(&error), (ErrorKind::ConnectionRefused, Some(111)));
}

#[tokio::test]
async fn wakers_of_both_directions_are_independent_and_the_last_counts() {
    if skip() {
        return;
    }
    let (mut a, mut b) = pair().await;
    let ((old, old_waker), (new, new_waker)) = (counter(), counter());
    let mut bytes = [0; 8];
    for waker in [&old_waker, &new_waker] {
        let mut buf = ReadBuf::new(&mut bytes);
        assert!(Pin::new(&mut b).poll_read(&mut Context::from_waker(waker), &mut buf).is_pending());
    }
    // Writing does not take the reader's place.
    let (writer, writer_waker) = counter();
    let wrote = Pin::new(&mut b).poll_write(&mut Context::from_waker(&writer_waker), b"x");
    assert!(matches!(wrote, Poll::Ready(Ok(1))));
    soon(a.write_all(b"y")).await.unwrap();
    new.woken().await;
    assert_eq!((woken(&old), woken(&writer)), (0, 0));
    let mut buf = ReadBuf::new(&mut bytes);
    assert!(Pin::new(&mut b).poll_read(&mut Context::from_waker(&noop_waker()), &mut buf).is_ready());
    assert_eq!(buf.filled(), b"y");
}

const TIMES: usize = 2000;

/// Does something `TIMES` times that is always ready; says how often another task came to run in between.
async fn others_ran(mut op: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>) -> usize {
    let ran = Arc::new(AtomicUsize::new(0));
    let counts = ran.clone();
    let other = tokio::spawn(async move {
        loop {
            counts.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    });
    // It runs, and this task's budget is whole.
    while ran.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let before = ran.load(Ordering::SeqCst);
    for _ in 0..TIMES {
        poll_fn(&mut op).await.unwrap();
    }
    let ran = ran.load(Ordering::SeqCst) - before;
    other.abort();
    ran
}

/// On a runtime of one thread, by tokio's cooperative budget: 128 operations a turn.
#[tokio::test]
async fn a_busy_stream_lets_others_run() {
    if skip() {
        return;
    }
    let (mut a, mut b) = pair().await;
    let (mut c, mut d) = pair().await;
    tokio::spawn(async move { tokio::io::copy(&mut d, &mut tokio::io::sink()).await });
    soon(a.write_all(&[1; 2 * TIMES + 1])).await.unwrap();
    soon(async { while b.peek(&mut [0; 2 * TIMES + 1]).await.unwrap() <= 2 * TIMES {} }).await;
    macro_rules! ran {
        ($what:literal, $budget:expr, $op:expr) => {{
            let ran = soon(others_ran($op)).await;
            assert_eq!(ran >= TIMES / 128, $budget, concat!($what, ": others ran {} times"), ran);
            // Without a budget they never do: nothing here ever had to wait for anything else.
            let ran = soon(tokio::task::unconstrained(others_ran($op))).await;
            assert_eq!(ran, 0, concat!($what, " without a budget"));
        }};
    }
    fn done<T>(polled: Poll<io::Result<T>>) -> Poll<io::Result<()>> {
        polled.map_ok(drop)
    }
    let mut byte = [0];
    ran!("peek", true, |cx| done(pin!(b.peek(&mut byte)).poll(cx)));
    ran!("poll_peek", true, |cx| done(b.poll_peek(cx, &mut ReadBuf::new(&mut byte))));
    ran!("poll_read_ready", true, |cx| b.poll_read_ready(cx));
    ran!("poll_write_ready", true, |cx| b.poll_write_ready(cx));
    ran!("async_io", true, |cx| pin!(b.async_io(Interest::READABLE, || Ok(()))).poll(cx));
    // What only waits takes nothing, nor does what never waits.
    ran!("readable", false, |cx| pin!(b.readable()).poll(cx));
    ran!("writable", false, |cx| pin!(b.writable()).poll(cx));
    ran!("ready", false, |cx| done(pin!(b.ready(Interest::READABLE)).poll(cx)));
    ran!("try_io", false, |_| Poll::Ready(b.try_io(Interest::READABLE, || Ok(()))));
    ran!("read", true, |cx| Pin::new(&mut b).poll_read(cx, &mut ReadBuf::new(&mut byte)));
    ran!("write", true, |cx| done(Pin::new(&mut c).poll_write(cx, b"x")));
    assert_eq!(soon(b.read_u8()).await.unwrap(), 1);
}

#[tokio::test]
async fn any_number_of_tasks_may_wait() {
    if skip() {
        return;
    }
    let (mut a, b) = pair().await;
    let b = Arc::new(b);
    let tasks: Vec<_> = (0..20)
        .map(|i| {
            let b = b.clone();
            tokio::spawn(async move {
                match i % 3 {
                    0 => b.readable().await,
                    1 => b.ready(Interest::READABLE).await.map(drop),
                    _ => b.peek(&mut [0; 4]).await.map(|n| assert_eq!(n, 4)),
                }
            })
        })
        .collect();
    // Some who gave up do not matter.
    for _ in 0..5 {
        assert!(timeout(Duration::from_millis(2), b.readable()).await.is_err());
    }
    a.write_all(b"ping").await.unwrap();
    for task in tasks {
        soon(task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn try_operations_never_wait() {
    if skip() {
        return;
    }
    let (a, b) = pair().await;
    let mut buf = [0; 8];
    assert_eq!(b.try_read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(b.try_read_vectored(&mut [IoSliceMut::new(&mut buf)]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(b.try_read_buf(&mut Vec::with_capacity(4)).unwrap_err().kind(), ErrorKind::WouldBlock);
    soon(a.writable()).await.unwrap();
    let n = a.try_write_vectored(&[IoSlice::new(b"he"), IoSlice::new(b""), IoSlice::new(b"llo ")]).unwrap();
    assert_eq!(n + a.try_write(b"world").unwrap(), 11);
    soon(async { while b.peek(&mut [0; 16]).await.unwrap() < 11 {} }).await;
    assert_eq!(b.try_read(&mut []).unwrap(), 0);
    let (mut one, mut two) = ([0; 3], [0; 4]);
    assert_eq!(b.try_read_vectored(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)]).unwrap(), 7);
    assert_eq!((&one, &two), (b"hel", b"lo w"));
    let mut rest = Vec::with_capacity(64);
    assert_eq!(b.try_read_buf(&mut rest).unwrap(), 4);
    assert_eq!(rest, b"orld");
    drop(a);
    soon(async {
        while !b.ready(Interest::READABLE).await.unwrap().is_read_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(b.try_read(&mut buf).unwrap(), 0);
}

#[tokio::test]
async fn peeks_are_equal_and_take_nothing() {
    if skip() {
        return;
    }
    let (mut a, mut b) = pair().await;
    let mut buf = [7; 4];
    assert!(timeout(Duration::from_millis(5), b.peek(&mut buf)).await.is_err());
    assert_eq!(buf, [7; 4]);
    a.write_all(b"peekaboo").await.unwrap();
    soon(async {
        for _ in 0..3 {
            assert_eq!(b.peek(&mut buf).await.unwrap(), 4);
            assert_eq!(&buf, b"peek");
            let mut bytes = [0; 6];
            let mut filled = ReadBuf::new(&mut bytes);
            assert_eq!(poll_fn(|cx| b.poll_peek(cx, &mut filled)).await.unwrap(), 6);
            assert_eq!(filled.filled(), b"peekab");
        }
        drop(a);
        let mut all = Vec::new();
        b.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"peekaboo");
        assert_eq!(b.peek(&mut buf).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn shutdown_is_repeatable_and_half() {
    if skip() {
        return;
    }
    let (mut a, mut b) = pair().await;
    soon(async {
        assert!(a.is_write_vectored());
        a.write_all(b"question").await.unwrap();
        a.flush().await.unwrap();
        a.shutdown().await.unwrap();
        a.shutdown().await.unwrap();
        assert_eq!(of(&a.write(b"x").await.unwrap_err()), PIPE);
        let mut got = Vec::new();
        b.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"question");
        b.write_all(b"answer").await.unwrap();
        b.shutdown().await.unwrap();
        got.clear();
        a.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"answer");
        a.shutdown().await.unwrap();
        assert_eq!(a.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn unread_data_resets_and_the_reset_is_told_once() {
    if skip() {
        return;
    }
    let (mut a, b) = pair().await;
    soon(async {
        a.write_all(b"unread").await.unwrap();
        b.readable().await.unwrap();
        drop(b);
        assert_eq!(of(&a.read(&mut [0]).await.unwrap_err()), RESET);
        assert_eq!(a.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(of(&a.write(b"x").await.unwrap_err()), PIPE);
        // tokio maps NotConnected to success.
        a.shutdown().await.unwrap();
        assert!(a.take_error().unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn take_error_takes() {
    if skip() {
        return;
    }
    let (a, b) = pair().await;
    a.set_zero_linger().unwrap();
    drop(a);
    soon(async {
        b.readable().await.unwrap();
        assert_eq!(of(&b.take_error().unwrap().unwrap()), RESET);
        assert!(b.take_error().unwrap().is_none());
        assert_eq!(b.try_read(&mut [0]).unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn what_arrived_before_a_reset_is_read_before_it() {
    if skip() {
        return;
    }
    let (mut a, mut b) = pair().await;
    soon(async {
        a.write_all(b"first").await.unwrap();
        b.readable().await.unwrap();
        a.set_zero_linger().unwrap();
        drop(a);
        b.ready(Interest::ERROR).await.unwrap();
        let mut buf = [0; 5];
        b.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"first");
        assert_eq!(of(&b.read(&mut buf).await.unwrap_err()), RESET);
    })
    .await;
}

#[tokio::test]
async fn a_write_to_a_dropped_stream_is_answered_by_a_reset() {
    if skip() {
        return;
    }
    let (mut a, b) = pair().await;
    drop(b);
    soon(async {
        assert_eq!(a.read(&mut [0]).await.unwrap(), 0);
        a.write_all(b"anybody?").await.unwrap();
        a.ready(Interest::ERROR).await.unwrap();
        // The stream had ended in order: EPIPE rather than ECONNRESET.
        assert_eq!(of(&a.write(b"x").await.unwrap_err()), PIPE);
    })
    .await;
}

#[tokio::test]
async fn empty_operations() {
    if skip() {
        return;
    }
    let (mut a, mut b) = pair().await;
    soon(async {
        assert_eq!(a.write(b"").await.unwrap(), 0);
        a.write_all(b"x").await.unwrap();
        b.readable().await.unwrap();
        assert_eq!(b.read(&mut []).await.unwrap(), 0);
        assert_eq!(b.read_u8().await.unwrap(), b'x');
    })
    .await;
}

#[tokio::test]
async fn owned_halves() {
    if skip() {
        return;
    }
    let ((a, b), (c, _d)) = (pair().await, pair().await);
    let ((ra, wa), (mut rb, wb)) = (a.into_split(), b.into_split());
    let (rc, wc) = c.into_split();
    let ReuniteError(ra, wc) = ra.reunite(wc).unwrap_err();
    let error = wa.reunite(rc).unwrap_err();
    assert_eq!(error.to_string(), "tried to reunite halves that are not from the same socket");
    let ReuniteError(rc, wa) = error;
    rc.reunite(wc).unwrap();
    assert_eq!(ra.local_addr().unwrap(), wa.local_addr().unwrap());
    let mut a = wa.reunite(ra).unwrap();
    soon(async {
        a.write_all(b"1").await.unwrap();
        assert_eq!(rb.read_u8().await.unwrap(), b'1');
        // Forgotten: the direction stays open.
        wb.forget();
        assert!(timeout(Duration::from_millis(20), a.read_u8()).await.is_err());
        {
            let (_read, mut write) = a.split();
            write.write_all(b"2").await.unwrap();
        }
        // A borrowed half closes nothing.
        assert_eq!(rb.read_u8().await.unwrap(), b'2');
        assert!(timeout(Duration::from_millis(20), rb.read_u8()).await.is_err());
        let (mut ra, wa) = a.into_split();
        drop(wa);
        assert_eq!(rb.read(&mut [0]).await.unwrap(), 0);
        drop(rb);
        assert_eq!(ra.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn bytes_survive_cancelled_operations() {
    const LEN: usize = 200_000;
    if skip() {
        return;
    }
    let (mut a, mut b) = pair().await;
    let data: Vec<u8> = (0..LEN as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = data.clone();
    let writer = tokio::spawn(async move {
        let (mut sent, mut i) = (0, 0_u32);
        while sent < data.len() {
            i = i.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let end = data.len().min(sent + 1 + (i >> 20) as usize % 3000);
            tokio::select! {
                biased;
                () = tokio::task::yield_now(), if i >> 30 == 0 => {}
                n = a.write(&data[sent..end]) => sent += n.unwrap(),
            }
        }
    });
    let (mut got, mut i) = (Vec::new(), 1_u32);
    soon(async {
        loop {
            i = i.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut buf = vec![0; 1 + (i >> 20) as usize % 3000];
            if i >> 30 == 1 {
                let _ = timeout(Duration::ZERO, b.peek(&mut buf)).await;
            }
            tokio::select! {
                biased;
                () = tokio::task::yield_now(), if i >> 30 == 0 => {}
                n = b.read(&mut buf) => match n.unwrap() {
                    0 => break,
                    n => got.extend_from_slice(&buf[..n]),
                },
            }
        }
    })
    .await;
    soon(writer).await.unwrap();
    assert!(got == expected, "{} of {LEN} bytes, or others", got.len());
}

#[tokio::test]
async fn a_proxy_passes_ends_on() {
    if skip() {
        return;
    }
    for (up, down) in [(0, 0), (1, 65_536), (1460, 0), (0, 1460), (300_000, 300_000)] {
        let (mut client, mut left) = pair().await;
        let (mut right, mut server) = pair().await;
        let proxy = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut left, &mut right).await });
        let serve = tokio::spawn(async move {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            server.write_all(&vec![2; down]).await.unwrap();
            got.len()
        });
        soon(async {
            client.write_all(&vec![1; up]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got.len(), down);
            assert_eq!(serve.await.unwrap(), up);
            assert_eq!(proxy.await.unwrap().unwrap(), (up as u64, down as u64));
        })
        .await;
    }
}

/// Tells whenever the future waits.
async fn told<T>(what: impl Future<Output = T>, waits: &std::sync::mpsc::Sender<()>) -> T {
    let mut what = pin!(what);
    poll_fn(|cx| {
        let polled = what.as_mut().poll(cx);
        if polled.is_pending() {
            let _ = waits.send(());
        }
        polled
    })
    .await
}

#[test]
fn the_end_of_the_runtime_fails_what_waits() {
    const TEXT: &str = "A Tokio 1.x context was found, but it is being shutdown.";
    if skip() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (listener, a, b) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (a, b) = pair().await;
        (listener, a, b)
    });
    let (waits, waiters) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn({
        let waits = waits.clone();
        move || futures::executor::block_on(told(b.readable(), &waits)).unwrap_err()
    });
    let accepting =
        std::thread::spawn(move || futures::executor::block_on(told(listener.accept(), &waits)).map(drop).unwrap_err());
    for _ in 0..2 {
        waiters.recv_timeout(Duration::from_secs(10)).expect("nobody waits");
    }
    drop(runtime);
    for error in [waiting.join().unwrap(), accepting.join().unwrap()] {
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Other, TEXT));
    }
    drop(a);
}

#[test]
#[should_panic(expected = "there is no reactor running, must be called from the context of a Tokio 1.x runtime")]
fn connect_outside_of_a_runtime() {
    let _ = futures::executor::block_on(TcpStream::connect("127.0.0.1:1"));
}

#[test]
#[should_panic(expected = "there is no reactor running, must be called from the context of a Tokio 1.x runtime")]
fn bind_outside_of_a_runtime() {
    let _ = futures::executor::block_on(TcpListener::bind("127.0.0.1:0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_on_other_threads_and_inside_of_a_waker() {
    if skip() {
        return;
    }
    struct Holds(std::sync::Mutex<Option<TcpStream>>);
    impl Wake for Holds {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let (mut a, b) = pair().await;
    let (mut c, d) = pair().await;
    let holds = Arc::new(Holds(std::sync::Mutex::new(Some(d))));
    let waker = Waker::from(holds.clone());
    assert!(b.poll_read_ready(&mut Context::from_waker(&waker)).is_pending());
    soon(async {
        a.write_all(b"wake").await.unwrap();
        // The waker dropped the other stream.
        assert_eq!(c.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
    std::thread::spawn(move || drop((b, holds))).join().unwrap();
    assert_eq!(of(&soon(a.read(&mut [0])).await.unwrap_err()), RESET);
    // A runtime that blocks in place, and a task set of one thread.
    let (mut e, mut f) = pair().await;
    tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(20)));
    tokio::task::LocalSet::new()
        .run_until(async {
            tokio::task::spawn_local(async move { e.write_all(b"local").await.unwrap() });
            let mut buf = [0; 5];
            soon(f.read_exact(&mut buf)).await.unwrap();
        })
        .await;
}
