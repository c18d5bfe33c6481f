//! Explicit congestion notification with the kernel: negotiation both ways, and a queue that marks.

use crate::common::{Outcome, addr, builder, kernel_listener, of_port, once_told, receive, send, soon};
use crate::tests;
use rawtcp_lab::capture::{Capture, TcpSegment};
use rawtcp_lab::emulator::EmulatorConfig;
use rawtcp_lab::topology::{Emulated, INTERFACE, SERVER_V4, SERVER_V6};
use rawtcp_proto::{ConnConfig, EcnMode, TcpInfo};
use rawtcp_sim::{LinkConfig, Queue};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

tests!(we_ask_v4, we_ask_v6, the_kernel_asks_v4, the_kernel_asks_v6, a_kernel_that_will_not);

const SIZE: u64 = 2 << 20;
const PORT: u16 = 4700;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// 20 Mbit/s with a queue that marks long before it is full: already a burst of slow start, so that nobody has to send as fast as the
/// link all the time. Of a round trip that no tail loss probe mistakes a wait for a processor for.
fn marking() -> LinkConfig {
    LinkConfig::default()
        .with_delay(Duration::from_millis(20))
        .with_rate(20_000_000)
        .with_queue(Queue::Packets(1000))
        .with_mark(Queue::Packets(8))
}

fn asking() -> ConnConfig {
    ConnConfig { ecn: EcnMode::Request, ..ConnConfig::default() }
}

/// `SIZE` bytes from the client, then as many back; each end closes.
macro_rules! exchange {
    (client: $stream:expr) => {{
        soon("upload", send(&mut $stream, SIZE)).await?;
        assert_eq!(soon("download", receive(&mut $stream)).await?, SIZE);
        $stream.shutdown().await?;
    }};
    (server: $stream:expr) => {{
        assert_eq!(soon("upload", crate::common::receive_up_to(&mut $stream, SIZE)).await?, SIZE);
        soon("download", send(&mut $stream, SIZE)).await?;
        $stream.shutdown().await?;
        assert_eq!(soon("the end", receive(&mut $stream)).await?, 0);
    }};
}

/// What was sent by one host and what the other way, as our host saw it.
struct Seen {
    ours: Vec<TcpSegment>,
    kernels: Vec<TcpSegment>,
    info: TcpInfo,
}

/// Runs the exchange; we are the client of a kernel server, or its server.
fn run(ip: IpAddr, we_ask: bool, kernel_mode: &str) -> Result<Seen, Box<dyn std::error::Error + Send + Sync>> {
    let net = Emulated::new(EmulatorConfig::symmetric(marking(), 7))?;
    let (ours, kernel) = if we_ask { (&net.client, &net.server) } else { (&net.server, &net.client) };
    kernel.set_sysctl("net.ipv4.tcp_ecn", kernel_mode)?;
    let capture = Capture::start(ours, INTERFACE)?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let info = if we_ask {
        let server = kernel.spawn_tokio(move || async move {
            let listener = kernel_listener(addr(ip, PORT)).await?;
            ready.send(())?;
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            exchange!(server: stream);
            Outcome::Ok(())
        });
        let server = once_told(&is_ready, server)?;
        let client = ours.spawn_tokio(move || async move {
            let stack = builder().config(asking()).build()?;
            let mut stream = stack.connect(addr(ip, PORT)).await?;
            exchange!(client: stream);
            let info = stream.tcp_info();
            drop(stream);
            stack.close().await;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(info)
        });
        let info = client.join()?;
        server.join()?;
        info
    } else {
        let server = ours.spawn_tokio(move || async move {
            // With the defaults: who is asked, agrees.
            let stack = builder().build()?;
            let listener = stack.bind(addr(ip, PORT)).await?;
            ready.send(())?;
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            exchange!(server: stream);
            let info = stream.tcp_info();
            drop(stream);
            stack.close().await;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(info)
        });
        let server = once_told(&is_ready, server)?;
        let client = kernel.spawn_tokio(move || async move {
            let mut stream = tokio::net::TcpStream::connect(addr(ip, PORT)).await?;
            exchange!(client: stream);
            Outcome::Ok(())
        });
        client.join()?;
        server.join()?
    };
    let recording = capture.stop()?;
    assert_eq!(recording.drops, 0, "the capture is complete");
    let (ours, kernels) = of_port(&recording, PORT).into_iter().partition(|s| s.outgoing);
    Ok(Seen { ours, kernels, info })
}

/// Whether two segments have some of their text in common.
fn overlap(one: &TcpSegment, other: &TcpSegment) -> bool {
    let begins_in = |a: &TcpSegment, b: &TcpSegment| (a.seq.wrapping_sub(b.seq) as usize) < b.payload_len;
    one.payload_len > 0 && other.payload_len > 0 && (begins_in(one, other) || begins_in(other, one))
}

fn both_reduce(ip: IpAddr, we_ask: bool) -> Outcome {
    let Seen { ours, kernels, info } = run(ip, we_ask, "1")?;
    let has = |s: &TcpSegment, flag: u8| s.flags.0 & flag != 0;
    assert!(info.ecn && info.delivered_ce > 0 && info.ce_received > 0, "{info:?}");
    // Marks took the place of losses.
    assert_eq!((info.total_retrans, info.timeouts), (0, 0), "{info:?}");
    for (who, sent) in [("we", &ours), ("the kernel", &kernels)] {
        let mut seen: Vec<&TcpSegment> = Vec::new();
        for s in sent {
            // RFC 3168 §6.1.5: nor is what is sent again, as the kernel's probes are on a machine that is kept from running. What
            // another processor has sent may overtake, so that it is not enough to begin before the end of something else.
            let again = seen.iter().any(|before| overlap(before, s));
            let expected = if s.flags.syn() || s.payload_len == 0 || again { 0..=0 } else { 2..=3 };
            assert!(expected.contains(&s.ecn), "{who}: {s:?}");
            seen.push(s);
        }
        // Each was told of marks, said that it had reduced, and told the other of the other's.
        let cwr = sent.iter().filter(|s| !s.flags.syn() && has(s, CWR)).count();
        let ece = sent.iter().filter(|s| !s.flags.syn() && has(s, ECE)).count();
        assert!(cwr > 0 && ece > 0, "{who}: {cwr} CWR, {ece} ECE");
    }
    Ok(())
}

fn we_ask_v4() -> Outcome {
    both_reduce(SERVER_V4, true)
}

fn we_ask_v6() -> Outcome {
    both_reduce(SERVER_V6, true)
}

fn the_kernel_asks_v4() -> Outcome {
    both_reduce(SERVER_V4, false)
}

fn the_kernel_asks_v6() -> Outcome {
    both_reduce(SERVER_V6, false)
}

fn a_kernel_that_will_not() -> Outcome {
    let Seen { ours, kernels, info } = run(SERVER_V4, true, "0")?;
    assert!(!info.ecn && info.delivered_ce == 0 && info.ce_received == 0);
    assert!(ours.iter().chain(&kernels).all(|s| s.ecn == 0 && (s.flags.syn() || s.flags.0 & (ECE | CWR) == 0)));
    Ok(())
}
