//! How connections end, read from the peer's capture.

use crate::common::{
    Outcome, addr, assert_kernel_sent_no_reset, builder, kernel_listener, of_port, once_told, receive, send, soon,
    stack,
};
use crate::tests;
use rawtcp::net::TcpStream;
use rawtcp::{ConnConfig, Driver};
use rawtcp_lab::capture::{Capture, TcpSegment};
use rawtcp_lab::emulator::EmulatorConfig;
use rawtcp_lab::topology::{CLIENT_V4, Emulated, INTERFACE, Pair, SERVER_V4};
use rawtcp_sim::{LinkConfig, Loss};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

tests!(
    drop_with_empty_receive_queue_sends_data_then_fin,
    drop_with_unread_data_resets,
    zero_linger_resets,
    half_close_then_answer,
    reset_of_the_peer_is_an_error_not_an_end,
    data_after_close_is_reset,
    server_side_drop_sends_fin,
    what_is_written_at_once_carries_the_last_ack_of_many_handshakes,
    the_ack_of_a_fin_rides_on_our_fin,
    closes_survive_loss_we_first,
    closes_survive_loss_the_kernel_first,
    closes_survive_loss_both_at_once,
);

const PORT: u16 = 4300;

/// A kernel server and our client; `server` gets the kernel's stream, `client` ours. Answers what the
/// server's interface saw of the connection.
fn converse<S, SF, C, CF>(server: S, client: C) -> Result<Vec<TcpSegment>, Box<dyn std::error::Error + Send + Sync>>
where
    S: FnOnce(tokio::net::TcpStream) -> SF + Send + 'static,
    SF: Future<Output = Outcome>,
    C: FnOnce(TcpStream) -> CF + Send + 'static,
    CF: Future<Output = Outcome>,
{
    let pair = Pair::new()?;
    let capture = Capture::start(&pair.server, INTERFACE)?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let kernel = pair.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (stream, _) = soon("accept", listener.accept()).await?;
        soon("the server", server(stream)).await
    });
    let kernel = once_told(&is_ready, kernel)?;
    let (ended, server_has_ended) = tokio::sync::oneshot::channel::<()>();
    let ours = pair.client.spawn_tokio(move || async move {
        let stack = stack()?;
        let stream = stack.connect(addr(SERVER_V4, PORT)).await?;
        soon("the client", client(stream)).await?;
        // Until the other side has closed, too: behind the end of the stack its FIN would be the kernel's to answer.
        soon("the server's end", server_has_ended).await?;
        soon("the close", async {
            while stack.stats().connections > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_kernel_sent_no_reset()?;
        stack.close().await;
        Outcome::Ok(())
    });
    kernel.join()?;
    // Nobody listens if the client has failed; its own error says more.
    let _ = ended.send(());
    ours.join()?;
    let recording = capture.stop()?;
    assert_eq!(recording.drops, 0, "the capture is complete");
    Ok(of_port(&recording, PORT))
}

/// Segments of ours, as the server's interface received them.
fn from_us(segments: &[TcpSegment]) -> impl Iterator<Item = &TcpSegment> {
    segments.iter().filter(|s| s.src.ip() == CLIENT_V4)
}

fn drop_with_empty_receive_queue_sends_data_then_fin() -> Outcome {
    let seen = converse(
        |mut stream| async move {
            assert_eq!(receive(&mut stream).await?, 300_000, "everything, then the end");
            Ok(())
        },
        |mut stream| async move {
            send(&mut stream, 300_000).await?;
            drop(stream);
            Ok(())
        },
    )?;
    assert!(from_us(&seen).all(|s| !s.flags.rst()));
    let fin = from_us(&seen).position(|s| s.flags.fin()).ok_or("a FIN")?;
    assert!(from_us(&seen).skip(fin + 1).all(|s| s.payload_len == 0), "nothing new behind the FIN");
    Ok(())
}

/// Who opens one connection after the other saves a segment of each. Of few the peer learns at once.
fn what_is_written_at_once_carries_the_last_ack_of_many_handshakes() -> Outcome {
    const MANY: usize = 64;
    // Of so many in a row the ACKs leave by themselves.
    const FEW: usize = 16;
    let pair = Pair::new()?;
    let capture = Capture::start(&pair.server, INTERFACE)?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let kernel = pair.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        for _ in 0..MANY {
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            assert_eq!(soon("the stream", receive(&mut stream)).await?, 5);
        }
        Outcome::Ok(())
    });
    let kernel = once_told(&is_ready, kernel)?;
    let ours = pair.client.spawn_tokio(move || async move {
        // Threads acknowledge at once (`conformance.md`).
        let stack = builder().driver(Driver::Task).build()?;
        let speak = || async { send(&mut stack.connect(addr(SERVER_V4, PORT)).await?, 5).await };
        soon("all of them", futures::future::try_join_all((0..MANY).map(|_| speak()))).await?;
        stack.close().await;
        Outcome::Ok(())
    });
    ours.join()?;
    kernel.join()?;
    let seen = of_port(&capture.stop()?, PORT);
    let mut seconds = HashMap::new();
    for segment in from_us(&seen).filter(|s| !s.flags.syn()) {
        seconds.entry(segment.src.port()).or_insert(segment.payload_len);
    }
    assert_eq!(seconds.len(), MANY);
    let carried = seconds.values().filter(|&&len| len == 5).count();
    assert!((1..=MANY - FEW).contains(&carried), "the ACKs of {carried} were carried");
    Ok(())
}

/// Whoever reads the peer's end and ends, too, acknowledges it by that.
fn the_ack_of_a_fin_rides_on_our_fin() -> Outcome {
    // Less than the 200 ms behind which the kernel sends its FIN again.
    const DELAY: Duration = Duration::from_millis(150);
    let pair = Pair::new()?;
    let capture = Capture::start(&pair.server, INTERFACE)?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let kernel = pair.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        for answers in [true, false] {
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            stream.shutdown().await?;
            assert_eq!(soon("our end", receive(&mut stream)).await?, 0, "answers: {answers}");
        }
        Outcome::Ok(())
    });
    let kernel = once_told(&is_ready, kernel)?;
    let ours = pair.client.spawn_tokio(move || async move {
        let stack = builder().config(ConnConfig { delayed_ack: DELAY, ..ConnConfig::default() }).build()?;
        for answers in [true, false] {
            let mut stream = stack.connect(addr(SERVER_V4, PORT)).await?;
            assert_eq!(soon("the end", receive(&mut stream)).await?, 0);
            if !answers {
                tokio::time::sleep(2 * DELAY).await;
            }
        }
        stack.close().await;
        Outcome::Ok(())
    });
    ours.join()?;
    kernel.join()?;
    let seen = of_port(&capture.stop()?, PORT);
    // One connection after the other, perhaps by the same port: what came after the kernel's FIN, and whether that was ours.
    let mut connections = Vec::<(Option<SystemTime>, Vec<(Duration, bool)>)>::new();
    for segment in &seen {
        let ours = segment.src.ip() == CLIENT_V4;
        if ours && segment.flags.syn() {
            connections.push((None, Vec::new()));
        }
        let Some((end, answers)) = connections.last_mut() else { continue };
        match *end {
            None if !ours && segment.flags.fin() => *end = Some(segment.time),
            Some(end) if ours => {
                answers.push((segment.time.duration_since(end).unwrap_or_default(), segment.flags.fin()))
            }
            _ => {}
        }
    }
    let [(_, answered), (_, waited)] = &connections[..] else { return Err(format!("not two: {connections:?}").into()) };
    // A program that was kept from running for so long has made the timer come first.
    let rode = |answers: &[(Duration, bool)]| answers.first().is_some_and(|&(after, fin)| fin || after >= DELAY);
    assert!(rode(answered), "our FIN, and nothing before it: {answered:?}");
    assert!(!waited[0].1 && waited[0].0 >= DELAY - DELAY / 10, "the ACK when nothing carried it: {waited:?}");
    Ok(())
}

fn drop_with_unread_data_resets() -> Outcome {
    let seen = converse(
        |mut stream| async move {
            stream.write_all(b"nobody will read this").await?;
            let error = stream.read(&mut [0; 8]).await.expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            Ok(())
        },
        |stream| async move {
            stream.peek(&mut [0]).await?;
            drop(stream);
            Ok(())
        },
    )?;
    assert!(from_us(&seen).any(|s| s.flags.rst()));
    assert!(from_us(&seen).all(|s| !s.flags.fin()));
    Ok(())
}

fn zero_linger_resets() -> Outcome {
    let seen = converse(
        |mut stream| async move {
            let error = receive(&mut stream).await.expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            Ok(())
        },
        |mut stream| async move {
            stream.set_zero_linger()?;
            stream.write_all(b"").await?;
            drop(stream);
            Ok(())
        },
    )?;
    assert!(from_us(&seen).any(|s| s.flags.rst()));
    Ok(())
}

fn half_close_then_answer() -> Outcome {
    let seen = converse(
        |mut stream| async move {
            let asked = receive(&mut stream).await?;
            assert_eq!(asked, 1000);
            send(&mut stream, 200_000).await?;
            Ok(())
        },
        |mut stream| async move {
            send(&mut stream, 1000).await?;
            stream.shutdown().await?;
            stream.shutdown().await?; // again: nothing happens
            let error = stream.write(b"more").await.expect_err("shut down");
            assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::BrokenPipe, Some(32)));
            assert_eq!(receive(&mut stream).await?, 200_000);
            assert_eq!(stream.read(&mut [0; 8]).await?, 0, "the end stays the end");
            Ok(())
        },
    )?;
    assert!(seen.iter().all(|s| !s.flags.rst()));
    Ok(())
}

fn reset_of_the_peer_is_an_error_not_an_end() -> Outcome {
    converse(
        |mut stream| async move {
            // A reset that comes sooner may be the error of connect.
            stream.read_exact(&mut [0]).await?;
            stream.set_zero_linger()?;
            drop(stream);
            Ok(())
        },
        |mut stream| async move {
            stream.write_all(b"x").await?;
            let error = stream.read(&mut [0; 8]).await.expect_err("a reset");
            assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::ConnectionReset, Some(104)));
            let error = stream.write(b"x").await.expect_err("over");
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            assert_eq!(stream.read(&mut [0; 8]).await?, 0, "the error is told once");
            Ok(())
        },
    )?;
    Ok(())
}

fn data_after_close_is_reset() -> Outcome {
    let seen = converse(
        |mut stream| async move {
            assert_eq!(stream.read(&mut [0; 8]).await?, 0, "our FIN");
            stream.write_all(b"too late").await?;
            // The reset comes back; until then writes succeed.
            loop {
                if let Err(error) = stream.write_all(b"and more").await {
                    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
                    return Ok(());
                }
                tokio::task::yield_now().await;
            }
        },
        |stream| async move {
            drop(stream);
            Ok(())
        },
    )?;
    assert!(from_us(&seen).any(|s| s.flags.fin()));
    assert!(from_us(&seen).any(|s| s.flags.rst()));
    Ok(())
}

/// Our server drops after its answer; the kernel's client reads the answer and the end.
fn server_side_drop_sends_fin() -> Outcome {
    let pair = Pair::new()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = pair.server.spawn_tokio(move || async move {
        let stack = stack()?;
        let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        stream.read_exact(&mut [0; 4]).await?;
        send(&mut stream, 100_000).await?;
        drop(stream);
        stack.close().await;
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let client = pair.client.spawn_tokio(|| async {
        let mut stream = tokio::net::TcpStream::connect(addr(SERVER_V4, PORT)).await?;
        stream.write_all(b"ping").await?;
        assert_eq!(soon("the answer", receive(&mut stream)).await?, 100_000);
        Outcome::Ok(())
    });
    client.join()?;
    server.join()
}

/// Who closes first, on a link that loses a fifth of everything: FINs, their ACKs, and the last of them.
#[derive(Clone, Copy, PartialEq)]
enum First {
    We,
    TheKernel,
    Both,
}

fn closes_survive_loss_we_first() -> Outcome {
    closes_survive_loss(First::We)
}

fn closes_survive_loss_the_kernel_first() -> Outcome {
    closes_survive_loss(First::TheKernel)
}

fn closes_survive_loss_both_at_once() -> Outcome {
    closes_survive_loss(First::Both)
}

/// Every stream reads the other's bytes and its end, and no connection stays behind in a closing state: neither in
/// our stack nor in the kernel.
fn closes_survive_loss(first: First) -> Outcome {
    const CONNECTIONS: usize = 60;
    let clean = LinkConfig::default().with_delay(Duration::from_millis(2));
    let net = Emulated::new(EmulatorConfig::symmetric(clean, 99))?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (all_open, may_close) = tokio::sync::watch::channel(false);
    let kernel_may_close = may_close.clone();
    let kernel = net.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let mut tasks = Vec::new();
        for _ in 0..CONNECTIONS {
            let (stream, _) = soon("accept", listener.accept()).await?;
            tasks.push(part(stream, first != First::We, kernel_may_close.clone()));
        }
        futures::future::try_join_all(tasks).await.map(drop)
    });
    let kernel = once_told(&is_ready, kernel)?;
    let link = &net.emulator;
    let (opened, are_open) = std::sync::mpsc::channel();
    let ours = net.client.spawn_tokio(move || async move {
        let stack = stack()?;
        let connects = (0..CONNECTIONS).map(|_| stack.connect(addr(SERVER_V4, PORT)));
        let streams = futures::future::try_join_all(connects).await?;
        opened.send(())?;
        let parts = streams.into_iter().map(|stream| part(stream, first != First::TheKernel, may_close.clone()));
        soon("the closes", futures::future::try_join_all(parts)).await?;
        // What dropped streams left behind ends by itself.
        soon("the last acknowledgments", async {
            while stack.stats().connections > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        stack.close().await;
        Outcome::Ok(())
    });
    let ours = once_told(&are_open, ours)?;
    let lossy = clean.with_loss(Loss::Uniform(0.2));
    link.set_links(lossy, lossy);
    all_open.send(true)?;
    ours.join()?;
    kernel.join()?;
    let stats = net.emulator.stop()?;
    assert!(stats.a_to_b.lost > 20 && stats.b_to_a.lost > 20, "{stats}");
    Ok(())
}

/// One end of a close: `first` shuts down before it reads, the other behind the end.
async fn part<S>(mut stream: S, first: bool, mut may_close: tokio::sync::watch::Receiver<bool>) -> Outcome
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    may_close.wait_for(|&all_open| all_open).await?;
    send(&mut stream, 3000).await?;
    if first {
        stream.shutdown().await?;
    }
    assert_eq!(soon("the end", receive(&mut stream)).await?, 3000);
    if !first {
        stream.shutdown().await?;
    }
    Ok(())
}
