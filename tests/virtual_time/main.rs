//! A hyper server and 64 clients over lossy links of 50 ms, for a virtual hour.

mod budget;
mod deadlines;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rawtcp::{Device, Stack};
use rawtcp_proto::FourTuple;
use rawtcp_sim::{LinkConfig, Loss, Record, Star};
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const CLIENTS: u8 = 64;
const HOUR: Duration = Duration::from_secs(3600);
const SERVER: &str = "10.0.0.1:80";

/// Of a connection's end: how many segments it sent and received, and a digest of them and their times.
type Traces = HashMap<(usize, FourTuple), (u64, u64)>;

/// A host 12.5 ms from the hub: 50 ms there and back between two.
fn stack(star: &Star, ip: [u8; 4], number: u8) -> Stack {
    let link = LinkConfig::default()
        .with_rate(50_000_000)
        .with_delay(Duration::from_micros(12_500))
        .with_loss(Loss::Uniform(0.005));
    let addresses = vec![IpAddr::from(ip)];
    let device = Device::Own { io: star.host(&addresses, link, link), addresses };
    Stack::builder().device(device).seed([number; 32]).exit_drain(Duration::ZERO).build().expect("a stack")
}

/// Answers with as many bytes as the path says.
async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let len = request.uri().path()[1..].parse().expect("a number");
    Ok(Response::new(Full::new(vec![b'x'; len].into())))
}

async fn serve(stack: Stack) {
    let listener = stack.bind(SERVER).await.expect("bind");
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        let connection = hyper::server::conn::http1::Builder::new();
        tokio::spawn(connection.serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn open(stack: &Stack) -> SendRequest<Empty<Bytes>> {
    let stream = stack.connect(SERVER).await.expect("connect");
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    sender
}

/// A user: thinks, asks, reads; takes a new connection every now and then. Says how often it was answered.
async fn browse(stack: Stack, mut chance: u64, time: Duration) -> u64 {
    let mut below = |n: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % n
    };
    let (start, mut answered) = (Instant::now(), 0);
    let mut sender = open(&stack).await;
    while start.elapsed() < time {
        sleep(Duration::from_millis(below(40_000))).await;
        if below(10) == 0 {
            sender = open(&stack).await;
        }
        let len = [100, 1_000, 10_000, 50_000][below(4) as usize];
        let request = Request::get(format!("/{len}")).header("host", "a").body(Empty::new()).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let body = response.into_body().collect().await.expect("all of it").to_bytes();
        assert_eq!(body.len(), len);
        answered += 1;
    }
    answered
}

async fn session(seed: u64, time: Duration) -> (u64, Traces) {
    let star = Star::new(seed);
    let traces: Arc<Mutex<Traces>> = Arc::default();
    star.watch({
        let traces = traces.clone();
        move |record: &Record| {
            let mut traces = traces.lock().expect("no panic");
            let (segments, digest) = traces.entry((record.host.index(), record.tuple)).or_default();
            let mut hasher = DefaultHasher::new();
            (*digest, format!("{record:?}")).hash(&mut hasher);
            (*segments, *digest) = (*segments + 1, hasher.finish());
        }
    });
    let start = Instant::now();
    let server = tokio::spawn(serve(stack(&star, [10, 0, 0, 1], 1)));
    let users: Vec<_> = (0..CLIENTS)
        .map(|i| {
            let stack = stack(&star, [10, 0, 1, i], 100 + i);
            tokio::spawn(browse(stack, seed ^ u64::from(i) << 32, time))
        })
        .collect();
    let mut answered = 0;
    for user in users {
        answered += user.await.expect("a user");
    }
    assert!(start.elapsed() >= time);
    server.abort();
    let _ = server.await;
    let traces = std::mem::take(&mut *traces.lock().expect("no panic"));
    (answered, traces)
}

fn run(seed: u64, time: Duration) -> (u64, Traces) {
    let real = std::time::Instant::now();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().expect("a runtime");
    let (answered, traces) = runtime.block_on(session(seed, time));
    let segments: u64 = traces.values().map(|(segments, _)| segments).sum();
    println!(
        "seed {seed}, {time:?}: {answered} answers, {} connection ends, {segments} segments, in {:?}",
        traces.len(),
        real.elapsed()
    );
    (answered, traces)
}

#[test]
fn an_hour_of_http_twice() {
    let (answered, traces) = run(7, HOUR);
    assert!(answered > 64 * 150, "only {answered} answers");
    assert!(run(7, HOUR) == (answered, traces), "the same seed, another course");
}

#[test]
fn another_seed_takes_another_course() {
    let runs = [1, 2].map(|seed| run(seed, HOUR / 20));
    assert!(runs[0].1 != runs[1].1);
}
