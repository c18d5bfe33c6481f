//! What a stream says of its connection, and to whom.

use rawtcp::events::Events;
use rawtcp::net::TcpStream;
use rawtcp::trace::StateReason;
use rawtcp::{Device, Stack, State, TraceEvent, Traced};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("hangs")
}

async fn pair(stack: &Stack) -> (TcpStream, TcpStream) {
    let listener = stack.bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(stack.connect(addr), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

fn stack() -> Stack {
    Stack::builder().device(Device::Loopback).build().unwrap()
}

/// All events to the end of the connection.
async fn rest(mut events: Events) -> Vec<Traced> {
    let mut all = Vec::new();
    while let Some(traced) = soon(events.next()).await {
        all.push(traced);
    }
    all
}

#[tokio::test]
async fn a_listener_hears_everything_to_the_end() {
    let stack = stack();
    let (mut a, mut b) = pair(&stack).await;
    let events = a.events(100_000);
    let listening = tokio::spawn(rest(events));
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        b.read_to_end(&mut all).await.unwrap();
        all.len()
    });
    soon(a.write_all(&vec![7; 1_000_000])).await.unwrap();
    soon(a.shutdown()).await.unwrap();
    assert_eq!(soon(a.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(soon(reader).await.unwrap(), 1_000_000);
    let all = soon(listening).await.unwrap();
    let states: Vec<_> = all
        .iter()
        .filter_map(|t| match t.event {
            TraceEvent::State { to, why, .. } => Some((to, why)),
            _ => None,
        })
        .collect();
    assert_eq!(
        states,
        [
            (State::FinWait1, StateReason::LocalClose),
            (State::FinWait2, StateReason::FinAcked),
            (State::TimeWait, StateReason::RemoteClose),
        ]
    );
    assert!(all.iter().any(|t| matches!(t.event, TraceEvent::Rtt { .. })), "{all:?}");
    assert!(all.is_sorted_by_key(|t| t.at), "{all:?}");
}

#[tokio::test]
async fn who_is_slow_loses_the_oldest_and_a_later_listener_takes_over() {
    let stack = stack();
    let (mut a, mut b) = pair(&stack).await;
    let mut events = a.events(4);
    for _ in 0..50 {
        soon(a.write_all(b"x")).await.unwrap();
        soon(b.read_u8()).await.unwrap();
    }
    assert!(events.lost() > 0);
    for _ in 0..4 {
        assert!(soon(events.next()).await.is_some());
    }
    let mut later = a.events(1000);
    assert!(soon(events.next()).await.is_none(), "it is the later one's");
    // The end of the earlier one takes nothing away.
    drop(events);
    soon(a.write_all(b"x")).await.unwrap();
    assert!(soon(later.next()).await.is_some());
    assert_eq!(later.lost(), 0);
    // A wait that is given up leaves nothing behind.
    while timeout(Duration::from_millis(1), later.next()).await.is_ok() {}
    drop(later);
    soon(a.write_all(b"x")).await.unwrap();
    drop((a, b));
}

/// Settings of one socket: of a connection, and of what a listener accepts.
#[tokio::test]
async fn a_socket_may_have_settings_of_its_own() {
    let stack = stack();
    let config = |max_mss| rawtcp::ConnConfig { max_mss: Some(max_mss), ..rawtcp::ConnConfig::default() };
    let socket = stack.socket_v4();
    socket.set_config(config(700));
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(8).unwrap();
    let addr = listener.local_addr().unwrap();
    let socket = stack.socket_v4();
    socket.set_config(config(500));
    let (a, accepted) = tokio::join!(socket.connect(addr), listener.accept());
    let (a, b) = (a.unwrap(), accepted.unwrap().0);
    assert_eq!((a.tcp_info().advmss, b.tcp_info().advmss), (500, 700));
    // Others have the stack's.
    let (c, accepted) = tokio::join!(stack.connect(addr), listener.accept());
    assert!(c.unwrap().tcp_info().advmss > 700 && accepted.unwrap().0.tcp_info().advmss == 700);
}
