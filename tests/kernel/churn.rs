//! Many short connections: no wake is lost, no port is leaked.

use crate::common::{Outcome, addr, assert_kernel_sent_no_reset, builder, once_told, role, soon};
use crate::tests;
use rawtcp::Stack;
use rawtcp_lab::netns::{Namespace, Task};
use rawtcp_lab::topology::{Pair, SERVER_V4};
use rawtcp_proto::ConnConfig;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

tests!(
    ping_pong_with_ourselves_one_worker,
    ping_pong_with_ourselves_two_workers,
    ping_pong_with_the_kernel_one_worker,
    ping_pong_with_the_kernel_two_workers,
    the_first_connection_of_many_stacks,
    connects_to_one_port_reuse_time_wait,
    connections_to_many_ports_share_guards,
);

const PORT: u16 = 4600;
const ROUNDS: u16 = 10_000;

/// Ports of a server: what to one of them is in TIME-WAIT may be taken for another. With one port each connection had a guard of its
/// own, until a TIME-WAIT is a second old, and those of all tests of a process together may be more than it may have open.
const PORTS: u16 = 50;

/// Guards that one client needs for `ROUNDS` connections to `PORTS` ports.
const MOST_GUARDS: usize = 1000;

/// A lost wakeup would be hidden by any timer that fires soon: all of them are made to wait.
fn patient_stack() -> std::io::Result<Stack> {
    let minute = Duration::from_secs(60);
    let config = ConnConfig {
        nodelay: true,
        delayed_ack: Duration::from_millis(499),
        rto_initial: minute,
        rto_min: minute,
        ..ConnConfig::default()
    };
    builder().config(config).build()
}

async fn one_byte_each_way<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    stream.write_all(b"?").await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    assert_eq!(answer, *b"!");
    Ok(())
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    let mut question = [0];
    stream.read_exact(&mut question).await?;
    stream.write_all(b"!").await?;
    // The client closes first.
    stream.read(&mut question).await.map(drop)
}

/// `ROUNDS` connections, none of which takes a second.
async fn ping(stack: Stack, to: IpAddr) -> Outcome {
    for round in 0..ROUNDS {
        let start = Instant::now();
        let stream = soon("connect", stack.connect((to, PORT + round % PORTS))).await?;
        soon("the exchange", one_byte_each_way(stream)).await?;
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "round {round} took {took:?}: a lost wakeup; {:?}", stack.stats());
    }
    let guards = stack.stats().guards;
    assert!(guards <= MOST_GUARDS, "{guards} guards");
    Ok(())
}

fn with_ourselves(workers: usize) -> Outcome {
    let host = Namespace::new("host")?;
    let task: Task<Outcome> = host.spawn_tokio_threads(workers, || async {
        let stack = patient_stack()?;
        let mut servers = tokio::task::JoinSet::new();
        for i in 0..PORTS {
            let listener = stack.bind(("127.0.0.1", PORT + i)).await?;
            servers.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream));
                }
            });
        }
        tokio::spawn(ping(stack.clone(), [127, 0, 0, 1].into())).await?
    });
    task.join()
}

fn with_the_kernel(workers: usize) -> Outcome {
    against_the_kernel(workers, PORTS, || async {
        let stack = patient_stack()?;
        tokio::spawn(ping(stack.clone(), SERVER_V4)).await??;
        assert_kernel_sent_no_reset()
    })
}

/// A stack is most fragile when it is new: filters are attached, devices registered, the driver spawned, and the
/// first answer is already on its way.
fn the_first_connection_of_many_stacks() -> Outcome {
    against_the_kernel(2, 1, || async {
        for round in 0..300 {
            let stack = patient_stack()?;
            let start = Instant::now();
            let connected = tokio::spawn({
                let stack = stack.clone();
                async move { one_byte_each_way(stack.connect(addr(SERVER_V4, PORT)).await?).await }
            });
            soon("the exchange", connected).await??;
            let took = start.elapsed();
            assert!(took < Duration::from_secs(1), "stack {round} took {took:?}: a lost wakeup; {:?}", stack.stats());
            stack.close().await;
        }
        Ok(())
    })
}

/// A client against a kernel server that listens on so many ports and answers each connection.
fn beside_the_kernel(ports: u16, client: impl FnOnce(&Pair) -> Outcome) -> Outcome {
    let pair = Pair::new()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (done, is_done) = tokio::sync::oneshot::channel::<()>();
    let server = pair.server.spawn_tokio(move || async move {
        let mut servers = tokio::task::JoinSet::new();
        for i in 0..ports {
            let listener = crate::common::kernel_listener(addr(SERVER_V4, PORT + i)).await?;
            servers.spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await?;
                    tokio::spawn(answer(stream));
                }
            });
        }
        ready.send(())?;
        tokio::select! {
            Some(result) = servers.join_next() => result?,
            _ = is_done => Outcome::Ok(()),
        }
    });
    let server = once_told(&is_ready, server)?;
    let result = client(&pair);
    let _ = done.send(());
    server.join()?;
    result
}

fn against_the_kernel<F>(workers: usize, ports: u16, client: impl FnOnce() -> F + Send + 'static) -> Outcome
where
    F: Future<Output = Outcome>,
{
    beside_the_kernel(ports, |pair| pair.client.spawn_tokio_threads(workers, client).join())
}

fn ping_pong_with_ourselves_one_worker() -> Outcome {
    with_ourselves(1)
}

fn ping_pong_with_ourselves_two_workers() -> Outcome {
    with_ourselves(2)
}

fn ping_pong_with_the_kernel_one_worker() -> Outcome {
    with_the_kernel(1)
}

fn ping_pong_with_the_kernel_two_workers() -> Outcome {
    with_the_kernel(2)
}

/// 10,000 connects to one address and port at 500 a second, we close first, 1,024 descriptors.
fn connects_to_one_port_reuse_time_wait() -> Outcome {
    beside_the_kernel(1, |pair| {
        // In a process of its own: the limit of descriptors is the process's.
        let mut client = pair.client.start(&mut role(&format!("reconnect {}", addr(SERVER_V4, PORT)))?)?;
        assert!(client.wait()?.success());
        Ok(())
    })
}

/// The role of a child: 10,000 connects at 500 a second, with 1,024 descriptors.
pub(crate) fn reconnect(to: &str) -> Outcome {
    let nofile = rustix::process::Resource::Nofile;
    let limit = rustix::process::Rlimit { current: Some(1024), ..rustix::process::getrlimit(nofile) };
    rustix::process::setrlimit(nofile, limit)?;
    let to: SocketAddr = to.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stack = builder().build()?;
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        for round in 0..10_000 {
            ticks.tick().await;
            let stream =
                soon("connect", stack.connect(to)).await.map_err(|error| format!("connect number {round}: {error}"))?;
            one_byte_each_way(stream).await?;
        }
        assert_kernel_sent_no_reset()?;
        stack.close().await;
        Ok(())
    })
}

/// 5,000 connections at once to 100 ports of one peer need at most 200 guards.
fn connections_to_many_ports_share_guards() -> Outcome {
    const PORTS: u16 = 100;
    const EACH: usize = 50;
    against_the_kernel(1, PORTS, || async {
        let stack = builder().build()?;
        let ip: IpAddr = SERVER_V4;
        let mut streams = Vec::new();
        for _ in 0..EACH {
            let connects = (0..PORTS).map(|i| stack.connect(addr(ip, PORT + i)));
            streams.extend(soon("connects", futures::future::try_join_all(connects)).await?);
        }
        assert_eq!(streams.len(), EACH * usize::from(PORTS));
        let guards = stack.stats().guards;
        assert!(guards <= 200, "{guards} guards for {} connections", streams.len());
        soon("exchanges", futures::future::try_join_all(streams.into_iter().map(one_byte_each_way))).await?;
        Ok(())
    })
}
