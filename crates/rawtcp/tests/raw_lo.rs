//! Against the kernel's TCP on `lo`, over raw IP sockets. Needs CAP_NET_RAW: fails without.

#[path = "common/privilege.rs"]
mod privilege;

use rawtcp::Stack;
use rawtcp::net::{TcpListener, TcpStream};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net as kernel;
use tokio::time::timeout;

const BOTH: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), what).await.expect("hangs")
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

/// A stream of ours and the kernel's stream at its other end, opened from here.
async fn ours_to_kernel(addr: &str) -> (TcpStream, kernel::TcpStream) {
    let listener = kernel::TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (ours, theirs) = soon(async { tokio::join!(TcpStream::connect(addr), listener.accept()) }).await;
    (ours.unwrap(), theirs.unwrap().0)
}

/// The same, opened by the kernel.
async fn kernel_to_ours(addr: &str) -> (TcpStream, kernel::TcpStream) {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (theirs, ours) = soon(async { tokio::join!(kernel::TcpStream::connect(addr), listener.accept()) }).await;
    (ours.unwrap().0, theirs.unwrap())
}

async fn exchange(ours: TcpStream, theirs: kernel::TcpStream, len: usize) {
    let ((mut ro, mut wo), (mut rt, mut wt)) = (ours.into_split(), theirs.into_split());
    let (up, down) = (pattern(len, 1), pattern(len, 2));
    let (up2, down2) = (up.clone(), down.clone());
    let tasks = [
        tokio::spawn(async move {
            wo.write_all(&up).await.unwrap();
            wo.shutdown().await.unwrap();
        }),
        tokio::spawn(async move {
            wt.write_all(&down).await.unwrap();
            wt.shutdown().await.unwrap();
        }),
        tokio::spawn(async move {
            let mut got = Vec::new();
            rt.read_to_end(&mut got).await.unwrap();
            assert!(got == up2, "up: {} bytes", got.len());
        }),
        tokio::spawn(async move {
            let mut got = Vec::new();
            ro.read_to_end(&mut got).await.unwrap();
            assert!(got == down2, "down: {} bytes", got.len());
        }),
    ];
    for task in tasks {
        soon(task).await.unwrap();
    }
}

#[tokio::test]
async fn both_directions_opened_from_both_sides() {
    if privilege::missing() {
        return;
    }
    for addr in BOTH {
        let (ours, theirs) = ours_to_kernel(addr).await;
        assert_eq!(ours.local_addr().unwrap(), theirs.peer_addr().unwrap());
        assert_eq!(ours.peer_addr().unwrap(), theirs.local_addr().unwrap());
        exchange(ours, theirs, 20 << 20).await;
        let (ours, theirs) = kernel_to_ours(addr).await;
        assert_eq!(ours.peer_addr().unwrap(), theirs.local_addr().unwrap());
        exchange(ours, theirs, 20 << 20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_two_threads() {
    if privilege::missing() {
        return;
    }
    for addr in BOTH {
        let (ours, theirs) = kernel_to_ours(addr).await;
        exchange(ours, theirs, 20 << 20).await;
    }
}

#[tokio::test]
async fn against_itself() {
    if privilege::missing() {
        return;
    }
    for addr in BOTH {
        let listener = TcpListener::bind(addr).await.unwrap();
        let to = listener.local_addr().unwrap();
        let (a, b) = soon(async { tokio::join!(TcpStream::connect(to), listener.accept()) }).await;
        let (mut a, mut b) = (a.unwrap(), b.unwrap().0);
        let data = pattern(5 << 20, 3);
        let expected = data.clone();
        let writer = tokio::spawn(async move { a.write_all(&data).await });
        let mut got = Vec::new();
        soon(b.read_to_end(&mut got)).await.unwrap();
        assert!(got == expected);
        soon(writer).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn refused_reset_and_end() {
    if privilege::missing() {
        return;
    }
    for addr in BOTH {
        let free = std::net::TcpListener::bind(addr).unwrap().local_addr().unwrap();
        let error = soon(TcpStream::connect(free)).await.unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::ConnectionRefused, Some(111)));

        // The kernel refuses us; we refuse the kernel, on a port that we had and gave up.
        let (mut ours, theirs) = ours_to_kernel(addr).await;
        socket2_linger(&theirs);
        drop(theirs);
        assert_eq!(soon(ours.read(&mut [0])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(soon(ours.read(&mut [0])).await.unwrap(), 0);
        assert_eq!(soon(ours.write(&[0])).await.unwrap_err().kind(), ErrorKind::BrokenPipe);

        let (ours, mut theirs) = kernel_to_ours(addr).await;
        theirs.write_all(b"unread").await.unwrap();
        assert_eq!(ours.peek(&mut [0]).await.unwrap(), 1);
        drop(ours);
        assert_eq!(soon(theirs.read(&mut [0])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);

        let (mut ours, mut theirs) = kernel_to_ours(addr).await;
        ours.write_all(b"last words").await.unwrap();
        drop(ours);
        let mut got = Vec::new();
        soon(theirs.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, b"last words");
    }
}

#[expect(deprecated, reason = "zero never blocks")]
fn socket2_linger(stream: &kernel::TcpStream) {
    stream.set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn ports_are_the_kernels_and_ours() {
    if privilege::missing() {
        return;
    }
    for addr in BOTH {
        let theirs = kernel::TcpListener::bind(addr).await.unwrap();
        let at = theirs.local_addr().unwrap();
        assert_eq!(TcpListener::bind(at).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(theirs);
        let ours = TcpListener::bind(at).await.unwrap();
        assert_eq!(kernel::TcpListener::bind(at).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(TcpListener::bind(at).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        let other = Stack::builder().build().unwrap();
        assert_eq!(other.bind(at).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(ours);
        drop(kernel::TcpListener::bind(at).await.unwrap());
    }
}

#[tokio::test]
async fn a_dual_stack_listener() {
    if privilege::missing() {
        return;
    }
    let listener = TcpListener::bind("[::]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for (to, shown) in [("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")] {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        let (client, accepted) = soon(async { tokio::join!(kernel::TcpStream::connect(to), listener.accept()) }).await;
        let (mut client, (mut stream, peer)) = (client.unwrap(), accepted.unwrap());
        assert_eq!(peer.ip(), shown.parse::<std::net::IpAddr>().unwrap());
        stream.write_all(b"x").await.unwrap();
        assert_eq!(soon(client.read_u8()).await.unwrap(), b'x');
    }
}

#[test]
fn io_alone_is_enough_and_what_was_written_outlives_the_runtime() {
    if privilege::missing() {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got
    });
    let data = pattern(3 << 20, 5);
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(&data).await.unwrap();
        });
    }
    assert!(reader.join().unwrap() == data);
}

#[test]
fn two_runtimes_at_once() {
    if privilege::missing() {
        return;
    }
    let threads: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (ours, theirs) = ours_to_kernel("127.0.0.1:0").await;
                    exchange(ours, theirs, 1 << 20).await;
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_driver_with_a_thread_goes_on_while_the_runtime_blocks() {
    if privilege::missing() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stack = Stack::builder().driver(rawtcp::Driver::Thread).build().unwrap();
        let listener = stack.bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let client = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            stream.write_all(&[1; 100_000]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            stream.read(&mut [0]).unwrap()
        });
        std::thread::sleep(Duration::from_millis(300));
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        let mut got = Vec::new();
        soon(stream.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got.len(), 100_000);
        drop(stream);
        assert_eq!(client.join().unwrap(), 0);
    });
}

/// As with the kernel: the peer has the connection, whatever the program does next. It may open many, one after the other.
#[tokio::test]
async fn a_program_may_block_behind_connect() {
    if privilege::missing() {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    for i in 0..100 {
        let _stream = soon(TcpStream::connect(addr)).await.unwrap();
        // Nothing else runs here meanwhile, not even our answer to a SYN-ACK that comes again.
        let since = Instant::now();
        while listener.accept().is_err() {
            assert!(since.elapsed() < Duration::from_secs(10), "connection {i} is not there");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// The sockets, timers and the like that a child finds open.
fn inherited() -> Vec<String> {
    let listed = std::process::Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains("pipe:"), "its standard output: {listed}");
    let target = |line: &str| line.split(" -> ").nth(1).map(str::to_owned);
    let mut found: Vec<_> = listed.lines().filter_map(target).collect();
    found.retain(|target| target.starts_with("socket:") || target.starts_with("anon_inode:"));
    found.sort();
    found
}

/// A child that is forked and executes something has none of a stack's descriptors, and the connection does not notice.
#[tokio::test]
async fn a_child_process_inherits_nothing() {
    if privilege::missing() {
        return;
    }
    let before = inherited();
    let stack = Stack::builder().build().unwrap();
    let listener = kernel::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (ours, theirs) = soon(async { tokio::join!(stack.connect(addr), listener.accept()) }).await;
    assert_eq!(inherited(), before);
    exchange(ours.unwrap(), theirs.unwrap().0, 100_000).await;
}

#[tokio::test]
async fn a_thousand_short_connections_one_after_the_other() {
    if privilege::missing() {
        return;
    }
    let listener = kernel::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let echo = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte).await.unwrap();
        }
    });
    let mut longest = Duration::ZERO;
    for i in 0..1000 {
        let start = Instant::now();
        let mut stream = soon(TcpStream::connect(addr)).await.unwrap();
        stream.write_u8(i as u8).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), i as u8);
        longest = longest.max(start.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    echo.abort();
}

#[test]
fn all_of_it_in_a_user_namespace() {
    privilege::again_with_privilege();
}
