//! Bulk senders of one stack share its send budget.

use rawtcp::net::TcpStream;
use rawtcp::{Device, Stack, StackBuilder};
use rawtcp_proto::ConnConfig;
use rawtcp_sim::{LinkConfig, Star};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::sleep;

const CLIENTS: u8 = 8;
const SERVER: &str = "10.0.0.1:80";
const BUDGET: usize = 256 << 10;
/// What each begins with: a quarter of what a client's path holds.
const BEGIN: usize = 32 << 10;
const TIME: Duration = Duration::from_secs(8);

/// A host by whose link 10 Mbit/s go; 100 ms there and back.
fn builder(star: &Star, ip: [u8; 4], rate: u64) -> StackBuilder {
    let link = LinkConfig::default().with_rate(rate).with_delay(Duration::from_millis(25));
    let addresses = vec![IpAddr::from(ip)];
    let device = Device::Own { io: star.host(&addresses, link, link), addresses };
    Stack::builder().device(device).seed([ip[3]; 32]).exit_drain(Duration::ZERO)
}

/// Writes until it is told to stop; the stream stays open.
fn write(mut stream: TcpStream) -> JoinHandle<()> {
    tokio::spawn(async move {
        let block = vec![7; 64 << 10];
        while stream.write_all(&block).await.is_ok() {}
    })
}

fn read(mut stream: TcpStream) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let (mut total, mut block, end) = (0, vec![0; 64 << 10], tokio::time::Instant::now() + TIME);
        while let Ok(Ok(n @ 1..)) = tokio::time::timeout_at(end, stream.read(&mut block)).await {
            total += n as u64;
        }
        total
    })
}

/// The most by which the send buffers had grown, what each client read, and what is left of the growth once all is over.
async fn share(budget: Option<usize>) -> (usize, Vec<u64>, usize) {
    let star = Star::new(1);
    let config = ConnConfig { send_buffer: BEGIN, ..ConnConfig::default() };
    let server = builder(&star, [10, 0, 0, 1], 1_000_000_000).config(config);
    let server = budget.map_or(server.clone(), |bytes| server.send_budget(bytes)).build().expect("a stack");
    let listener = server.bind(SERVER).await.expect("bind");
    let (mut stacks, mut readers, mut writers) = (Vec::new(), Vec::new(), Vec::new());
    for i in 1..=CLIENTS {
        let stack = builder(&star, [10, 0, 1, i], 10_000_000).build().expect("a stack");
        let (client, accepted) = tokio::join!(stack.connect(SERVER), listener.accept());
        readers.push(read(client.expect("connect")));
        writers.push(write(accepted.expect("accept").0));
        stacks.push(stack);
    }
    let mut most = 0;
    while readers.iter().any(|reader| !reader.is_finished()) {
        most = most.max(server.stats().send_buffers_grown);
        sleep(Duration::from_millis(1)).await;
    }
    let mut got = Vec::new();
    for reader in readers {
        got.push(reader.await.expect("a reader"));
    }
    // The clients have let go with data unread: the peers are reset.
    for writer in writers {
        writer.await.expect("a writer");
    }
    (most, got, server.stats().send_buffers_grown)
}

#[tokio::test(start_paused = true)]
async fn many_senders_never_exceed_the_send_budget_and_none_starves() {
    let (most, got, left) = share(Some(BUDGET)).await;
    assert!(BUDGET / 2 < most && most <= BUDGET, "{most}");
    let mean = got.iter().sum::<u64>() / u64::from(CLIENTS);
    assert!(got.iter().all(|&bytes| bytes > mean * 2 / 3), "{got:?}");
    assert_eq!(left, 0, "it comes back");
    // It is the budget that held them back.
    let (more, faster, left) = share(None).await;
    assert!(more > 4 * BUDGET, "{more}");
    assert!(faster.iter().sum::<u64>() > got.iter().sum::<u64>() * 3 / 2, "{faster:?} {got:?}");
    assert_eq!(left, 0);
}

/// One sends much and then nothing: what its buffer has grown by is there for others a second later.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_gives_its_share_of_the_send_budget_back() {
    let star = Star::new(2);
    let server = builder(&star, [10, 0, 0, 1], 1_000_000_000).send_budget(4 << 20).build().expect("a stack");
    let client = builder(&star, [10, 0, 1, 1], 100_000_000).build().expect("a stack");
    let listener = server.bind(SERVER).await.expect("bind");
    let (connected, accepted) = tokio::join!(client.connect(SERVER), listener.accept());
    let (reader, mut stream) = (read(connected.expect("connect")), accepted.expect("accept").0);
    let mut most = 0;
    for _ in 0..16 {
        stream.write_all(&vec![7; 1 << 20]).await.expect("write");
        most = most.max(server.stats().send_buffers_grown);
    }
    assert!(most > 0);
    stream.acknowledged().await.expect("all is acknowledged");
    assert!(server.stats().send_buffers_grown > 0);
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(server.stats().send_buffers_grown, 0);
    // The connection is as good as before.
    stream.write_all(&vec![7; 1 << 20]).await.expect("write");
    drop(stream);
    assert_eq!(reader.await.expect("a reader"), 17 << 20);
}
