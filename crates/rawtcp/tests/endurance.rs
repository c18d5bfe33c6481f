//! Many connections over raw sockets on `lo`: lost wake-ups, ports, descriptors. Needs CAP_NET_RAW.
//!
//! `RAWTCP_ENDURANCE=10` does ten times as much as usual.

#[path = "common/privilege.rs"]
mod privilege;

use rawtcp::net::{TcpListener, TcpStream};
use rawtcp::{ConnConfig, Stack};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net as kernel;

fn times() -> usize {
    std::env::var("RAWTCP_ENDURANCE").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Settings under which a wake-up that is lost stays lost: no timer of the protocol's comes to help.
fn no_helping_timers() -> ConnConfig {
    let minute = Duration::from_secs(60);
    ConnConfig { nodelay: true, delayed_ack: minute, rto_initial: minute, rto_min: minute, ..ConnConfig::default() }
}

async fn ping_pong(stack: &Stack, addr: SocketAddr, rounds: usize) -> Duration {
    let mut longest = Duration::ZERO;
    let mut note = |start: Instant| longest = longest.max(start.elapsed());
    for i in 0..rounds {
        let start = Instant::now();
        let mut stream = stack.connect(addr).await.unwrap();
        note(start);
        let start = Instant::now();
        stream.write_u8(i as u8).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), i as u8);
        note(start);
        let start = Instant::now();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        note(start);
    }
    longest
}

async fn no_wake_is_lost() {
    let rounds = 1000 * times();
    let stack = Stack::builder().config(no_helping_timers()).build().unwrap();
    let theirs = kernel::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = stack.bind("127.0.0.1:0").await.unwrap();
    let targets = [theirs.local_addr().unwrap(), ours.local_addr().unwrap()];
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = theirs.accept().await.unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = ours.accept().await.unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte).await.unwrap();
        }
    });
    for addr in targets {
        let longest = tokio::time::timeout(Duration::from_secs(300), ping_pong(&stack, addr, rounds)).await;
        let longest = longest.unwrap_or_else(|_| panic!("hangs: {:?}", stack.stats()));
        assert!(longest < Duration::from_secs(1), "{longest:?}");
    }
}

#[tokio::test]
async fn no_wake_is_lost_on_one_thread() {
    if privilege::missing() {
        return;
    }
    no_wake_is_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_is_lost_on_two_threads() {
    if privilege::missing() {
        return;
    }
    no_wake_is_lost().await;
}

#[tokio::test]
async fn connections_to_many_ports_share_guards() {
    if privilege::missing() {
        return;
    }
    const PORTS: usize = 100;
    let each = 10 * times().min(5);
    let stack = Stack::builder().build().unwrap();
    let mut listeners = Vec::new();
    for _ in 0..PORTS {
        listeners.push(kernel::TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let addrs: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    for listener in listeners {
        tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                kept.push(listener.accept().await.unwrap());
            }
        });
    }
    let connects = (0..each).flat_map(|_| addrs.iter().map(|addr| stack.connect(*addr)));
    let streams = futures::future::join_all(connects).await;
    let opened = streams.iter().filter(|stream| stream.is_ok()).count();
    let failed = streams.iter().find_map(|stream| stream.as_ref().err());
    assert_eq!(opened, PORTS * each, "{failed:?}");
    let guards = stack.stats().guards;
    assert!(guards <= (2 * each).max(20), "{guards} guards for {opened} connections");
}

#[tokio::test]
async fn one_address_again_and_again() {
    if privilege::missing() {
        return;
    }
    let rounds = 1500 * times();
    let listener = kernel::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move { stream.read(&mut [0]).await });
        }
    });
    let stack = Stack::builder().build().unwrap();
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    for i in 0..rounds {
        pace.tick().await;
        // We close first: the TIME-WAIT is ours.
        let stream = stack.connect(addr).await;
        drop(stream.unwrap_or_else(|error| panic!("connection {i}: {error}: {:?}", stack.stats())));
    }
    let stats = stack.stats();
    assert!(stats.guards < 700, "{stats:?}");
}

#[tokio::test]
async fn a_connection_of_the_kernel_on_our_port_lives_on() {
    if privilege::missing() {
        return;
    }
    let theirs = kernel::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = theirs.local_addr().unwrap();
    let (client, accepted) = tokio::join!(kernel::TcpStream::connect(addr), theirs.accept());
    let (mut client, mut server) = (client.unwrap(), accepted.unwrap().0);
    drop(theirs);
    let check = async |client: &mut kernel::TcpStream, server: &mut kernel::TcpStream| {
        client.write_all(&[1; 100_000]).await.unwrap();
        let mut got = vec![0; 100_000];
        server.read_exact(&mut got).await.unwrap();
        server.write_all(&got).await.unwrap();
        client.read_exact(&mut got).await.unwrap();
    };
    check(&mut client, &mut server).await;
    let ours = TcpListener::bind(addr).await.unwrap();
    check(&mut client, &mut server).await;
    let (a, b) = tokio::join!(kernel::TcpStream::connect(addr), ours.accept());
    check(&mut client, &mut server).await;
    drop((a.unwrap(), b.unwrap()));
    check(&mut client, &mut server).await;
    drop(ours);
    check(&mut client, &mut server).await;
    // Now nobody is there; a new connection is refused.
    assert!(TcpStream::connect(addr).await.is_err());
    check(&mut client, &mut server).await;
}

#[test]
fn all_of_it_in_a_user_namespace() {
    privilege::again_with_privilege();
}
