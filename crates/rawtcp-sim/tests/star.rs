//! Whole stacks around a hub, in paused time.

use rawtcp::net::TcpStream;
use rawtcp::{Device, Stack};
use rawtcp_sim::{LinkConfig, Loss, Record, Star, Way};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

fn stack(star: &Star, ip: &str, number: u8, link: LinkConfig) -> Stack {
    let addresses: Vec<IpAddr> = vec![ip.parse().unwrap()];
    let device = Device::Own { io: star.host(&addresses, link, link), addresses };
    Stack::builder().device(device).seed([number; 32]).exit_drain(Duration::ZERO).build().unwrap()
}

async fn connect(client: &Stack, server: &Stack, at: &str) -> (TcpStream, TcpStream) {
    let listener = server.bind(at).await.unwrap();
    let (stream, accepted) = tokio::join!(client.connect(at), listener.accept());
    (stream.unwrap(), accepted.unwrap().0)
}

#[tokio::test(start_paused = true)]
async fn a_handshake_takes_a_round_trip_and_a_refusal_too() {
    let star = Star::new(1);
    let link = LinkConfig::default().with_delay(Duration::from_millis(10));
    let (server, client) = (stack(&star, "10.0.0.1", 1, link), stack(&star, "fd00::2", 2, link));
    // Four links there and back, of the same family only.
    assert_eq!(client.connect("10.0.0.1:80").await.unwrap_err().raw_os_error(), Some(101));
    let other = stack(&star, "10.0.0.3", 3, link);
    let start = Instant::now();
    drop(connect(&other, &server, "10.0.0.1:80").await);
    assert_eq!(start.elapsed(), Duration::from_millis(60), "the last ACK is on its way for another half");
    let start = Instant::now();
    assert_eq!(other.connect("10.0.0.1:81").await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(start.elapsed(), Duration::from_millis(40));
    // Nobody has the address: the SYNs go nowhere, on schedule.
    let start = Instant::now();
    assert_eq!(other.connect("10.0.0.9:80").await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!((126..=128).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

async fn transfer(seed: u64) -> (Vec<Record>, Duration) {
    let star = Star::new(seed);
    let records = Arc::new(Mutex::new(Vec::new()));
    star.watch({
        let records = records.clone();
        move |record| records.lock().unwrap().push(record.clone())
    });
    let link = LinkConfig::default()
        .with_rate(20_000_000)
        .with_delay(Duration::from_micros(12_345))
        .with_loss(Loss::Uniform(0.01));
    let (server, client) = (stack(&star, "10.0.0.1", 1, link), stack(&star, "10.0.0.2", 2, link));
    let start = Instant::now();
    let (mut a, mut b) = connect(&client, &server, "10.0.0.1:80").await;
    let sends = tokio::spawn(async move {
        a.write_all(&vec![7; 1 << 20]).await.unwrap();
        a.shutdown().await.unwrap();
        a.read(&mut [0]).await.unwrap()
    });
    let mut got = Vec::new();
    b.read_to_end(&mut got).await.unwrap();
    assert!(got == vec![7; 1 << 20]);
    drop(b);
    assert_eq!(sends.await.unwrap(), 0);
    let took = start.elapsed();
    let (up, down) = star.stats(1);
    assert!(up.lost > 0 && down.in_packets > 0, "{up:?} {down:?}");
    let records = std::mem::take(&mut *records.lock().unwrap());
    assert!(records.iter().any(|record| record.way == Way::SentLost));
    (records, took)
}

#[test]
fn the_same_seed_gives_the_same_segments_at_the_same_times() {
    let run = |seed| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap().block_on(transfer(seed))
    };
    let (first, again, other) = (run(5), run(5), run(6));
    assert!(first.0.len() > 1500, "{}", first.0.len());
    assert!(first == again, "the same seed, other segments");
    assert!(first != other, "another seed, the same segments");
}
