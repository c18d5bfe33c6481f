//! The end of a stack whose streams are still held, seen by a kernel peer on `lo`: never silence. Needs
//! CAP_NET_RAW: fails without.

#[path = "common/privilege.rs"]
mod privilege;

use rawtcp::net::TcpStream;
use rawtcp::{Driver, Stack};
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net as kernel;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

const GONE: &str = "A Tokio 1.x context was found, but it is being shutdown.";

/// More than what the peer's and our buffers hold: it needs a driver to be delivered.
const LOAD: usize = 800_000;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), what).await.expect("hangs")
}

/// Looks again and again.
async fn until(it_is_so: impl Fn() -> bool) {
    while !it_is_so() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn kernels() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn ours() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// What the peer sees, from when it begins to read.
type Seen = tokio::task::JoinHandle<io::Result<usize>>;

/// A connection from ours to the kernel, whose end reads after a while, in its own runtime.
async fn connected(stack: &Stack, kernels: &Runtime, greets: bool, pause: Duration) -> (TcpStream, Seen) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let seen = kernels.spawn(async move {
        let (mut stream, _) = kernel::TcpListener::from_std(listener)?.accept().await?;
        if greets {
            stream.write_all(b"never read").await?;
        }
        tokio::time::sleep(pause).await;
        let mut got = Vec::new();
        timeout(Duration::from_secs(20), stream.read_to_end(&mut got)).await.expect("silence")?;
        Ok(got.len())
    });
    let stream = soon(stack.connect(addr)).await.unwrap();
    if greets {
        soon(stream.readable()).await.unwrap();
    }
    (stream, seen)
}

fn stack(drain: Duration, driver: Driver) -> Stack {
    Stack::builder().exit_drain(drain).driver(driver).build().unwrap()
}

/// How the stack of a held stream ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Close,
    CloseThread,
    Runtime,
}

fn end(how: End, shut: bool, greets: bool, pause: Duration, drain: Duration) -> io::Result<usize> {
    let (kernels, ours) = (kernels(), ours());
    let driver = if how == End::CloseThread { Driver::Thread } else { Driver::Task };
    let (mut stream, seen, stack) = ours.block_on(async {
        let stack = stack(drain, driver);
        let (mut stream, seen) = connected(&stack, &kernels, greets, pause).await;
        soon(stream.write_all(&vec![7; LOAD])).await.unwrap();
        if shut {
            stream.shutdown().await.unwrap();
        }
        (stream, seen, stack)
    });
    if how == End::Runtime {
        drop((ours, stack));
    } else {
        ours.block_on(soon(stack.close()));
    }
    let error = kernels.block_on(stream.write(b"late")).unwrap_err();
    assert_eq!(error.to_string(), GONE);
    let error = kernels.block_on(stream.read(&mut [0])).unwrap_err();
    assert_eq!(error.to_string(), GONE);
    let seen = kernels.block_on(soon(seen)).unwrap();
    drop(stream);
    seen
}

#[test]
fn held_streams_are_closed_and_delivered() {
    if privilege::missing() {
        return;
    }
    for how in [End::Close, End::CloseThread, End::Runtime] {
        for shut in [true, false] {
            let seen = end(how, shut, false, Duration::from_millis(200), Duration::from_secs(10));
            assert_eq!(seen.unwrap(), LOAD, "{how:?} {shut}");
        }
    }
}

#[test]
fn unread_data_is_answered_by_a_reset() {
    if privilege::missing() {
        return;
    }
    for how in [End::Close, End::CloseThread, End::Runtime] {
        let start = Instant::now();
        let seen = end(how, false, true, Duration::ZERO, Duration::from_secs(10));
        assert_eq!(seen.unwrap_err().kind(), ErrorKind::ConnectionReset, "{how:?}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn what_is_not_delivered_in_time_is_reset() {
    if privilege::missing() {
        return;
    }
    for how in [End::Close, End::CloseThread, End::Runtime] {
        for shut in [true, false] {
            // More than the peer takes before it reads, and less patience than it has.
            let (kernels, ours) = (kernels(), ours());
            let driver = if how == End::CloseThread { Driver::Thread } else { Driver::Task };
            let drain = Duration::from_millis(300);
            let start = Instant::now();
            let (stream, seen, stack) = ours.block_on(async {
                let stack = stack(drain, driver);
                let (mut stream, seen) = connected(&stack, &kernels, false, Duration::from_secs(3)).await;
                let data = vec![7; 64 << 10];
                while let Ok(written) = timeout(Duration::from_millis(200), stream.write_all(&data)).await {
                    written.unwrap();
                }
                if shut {
                    stream.shutdown().await.unwrap();
                }
                (stream, seen, stack)
            });
            let before = Instant::now();
            if how == End::Runtime {
                drop((ours, stack));
            } else {
                ours.block_on(soon(stack.close()));
            }
            assert!(before.elapsed() >= drain && start.elapsed() < Duration::from_secs(3), "{how:?} {shut}");
            let seen = kernels.block_on(soon(seen)).unwrap();
            assert_eq!(seen.unwrap_err().kind(), ErrorKind::ConnectionReset, "{how:?} {shut}");
            drop(stream);
        }
    }
}

#[test]
fn zero_linger_resets_at_the_end_too() {
    if privilege::missing() {
        return;
    }
    let (kernels, ours) = (kernels(), ours());
    let (stream, seen) = ours.block_on(async {
        let stack = Stack::builder().build().unwrap();
        let (mut stream, seen) = connected(&stack, &kernels, false, Duration::ZERO).await;
        stream.set_zero_linger().unwrap();
        stream.write_all(b"x").await.unwrap();
        soon(stack.close()).await;
        (stream, seen)
    });
    assert_eq!(kernels.block_on(soon(seen)).unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop(stream);
}

#[test]
fn a_peer_that_never_wrote_and_one_that_was_never_accepted_hear_of_the_end() {
    if privilege::missing() {
        return;
    }
    let (kernels, ours) = (kernels(), ours());
    let (listener, held, seen) = ours.block_on(async {
        let stack = Stack::builder().build().unwrap();
        let listener = stack.bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut seen = Vec::new();
        let mut held = None;
        for accept in [true, false] {
            let client = kernels.spawn(kernel::TcpStream::connect(addr));
            let mut client = soon(client).await.unwrap().unwrap();
            if accept {
                held = Some(soon(listener.accept()).await.unwrap());
            }
            seen.push(kernels.spawn(async move { soon(client.read(&mut [0])).await }));
        }
        // What was not accepted has come as well.
        soon(until(|| stack.stats().accepts == 2)).await;
        soon(stack.close()).await;
        (listener, held, seen)
    });
    let [accepted, waiting] = seen.try_into().unwrap();
    assert_eq!(kernels.block_on(accepted).unwrap().unwrap(), 0);
    assert_eq!(kernels.block_on(waiting).unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(kernels.block_on(listener.accept()).unwrap_err().to_string(), GONE);
    drop(held);
}

#[test]
fn after_the_end_the_kernel_answers_for_the_ports() {
    if privilege::missing() {
        return;
    }
    let (kernels, ours) = (kernels(), ours());
    let (stream, client) = ours.block_on(async {
        let stack = Stack::builder().build().unwrap();
        let listener = stack.bind("127.0.0.1:0").await.unwrap();
        let client = kernels.spawn(kernel::TcpStream::connect(listener.local_addr().unwrap()));
        let (stream, _) = soon(listener.accept()).await.unwrap();
        let client = soon(client).await.unwrap().unwrap();
        soon(stack.close()).await;
        (stream, client)
    });
    kernels.block_on(async move {
        // The stream is half-closed now: FIN, and nobody behind it.
        let mut client = client;
        assert_eq!(soon(client.read(&mut [0])).await.unwrap(), 0);
        client.write_all(b"anybody?").await.unwrap();
        let end = soon(async {
            loop {
                if let Err(error) = client.write_all(b"still?").await {
                    return error.kind();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(matches!(end.await, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
    });
    drop(stream);
}

/// How many threads drive stacks in this process.
fn drivers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "rawtcp\n")).count()
}

/// Runs a test of default stacks in processes of its own, where the variable is there from the first: once with tasks, once
/// with threads, as it is told.
fn alone(name: &str, test: impl FnOnce(bool)) {
    const ALONE: &str = "RAWTCP_TEST_ALONE";
    if privilege::missing() {
        return;
    }
    if std::env::var_os(ALONE).is_some() {
        return test(std::env::var_os("RAWTCP_DRIVER").is_some_and(|driver| driver == "thread"));
    }
    for driver in ["task", "thread"] {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let output = again.args(["--exact", name]).env("RAWTCP_DRIVER", driver).env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(" 1 passed"), "{driver}: {text}");
    }
}

#[test]
fn the_default_stack_ends_with_its_runtime() {
    alone("the_default_stack_ends_with_its_runtime", |by_threads| {
        let (kernels, ours) = (kernels(), ours());
        let (mut stream, seen) = ours.block_on(async {
            let stack = Stack::current().unwrap();
            let (mut stream, seen) = connected(&stack, &kernels, false, Duration::from_millis(200)).await;
            soon(stream.write_all(&vec![7; LOAD])).await.unwrap();
            (stream, seen)
        });
        assert_eq!(drivers() > 0, by_threads);
        drop(ours);
        assert_eq!(kernels.block_on(stream.write(b"late")).unwrap_err().to_string(), GONE);
        assert_eq!(kernels.block_on(soon(seen)).unwrap().unwrap(), LOAD);
        kernels.block_on(soon(until(|| drivers() == 0)));
    });
}

/// Who comes second has made one as well, and lets it go, on a thread of the runtime.
#[test]
fn tasks_that_want_the_default_stack_at_once_get_the_same() {
    alone("tasks_that_want_the_default_stack_at_once_get_the_same", |_| {
        for _ in 0..10 {
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let barrier = std::sync::Arc::new(std::sync::Barrier::new(2));
                let one = || {
                    let barrier = barrier.clone();
                    tokio::spawn(async move {
                        barrier.wait();
                        Stack::current().map(|stack| stack.stats().received_by.len())
                    })
                };
                for task in [one(), one()] {
                    assert!(soon(task).await.unwrap().unwrap() > 0);
                }
            });
        }
    });
}

#[test]
fn a_default_stack_that_was_closed_leaves_nothing_behind() {
    alone("a_default_stack_that_was_closed_leaves_nothing_behind", |_| {
        let is_socket = |link: std::path::PathBuf| link.to_string_lossy().starts_with("socket:");
        let sockets = || {
            let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            descriptors.filter(|descriptor| std::fs::read_link(descriptor.path()).is_ok_and(is_socket)).count()
        };
        ours().block_on(async {
            let before = sockets();
            for _ in 0..3 {
                let stack = Stack::current().unwrap();
                assert!(sockets() > before);
                soon(stack.close()).await;
                soon(until(|| sockets() == before)).await;
            }
        });
    });
}

#[test]
fn all_of_it_in_a_user_namespace() {
    privilege::again_with_privilege();
}
