//! TCP_INFO of both ends of one connection: what we count is what the kernel counts.

use crate::common::{
    Outcome, addr, builder, hear, iproute2, kernel_listener, once_told, receive, receive_up_to, send, soon,
};
use crate::tests;
use rawtcp::{Algorithm, TcpInfo};
use rawtcp_lab::emulator::EmulatorConfig;
use rawtcp_lab::topology::{Emulated, SERVER_V4};
use rawtcp_sim::{LinkConfig, Queue};
use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

tests!(both_ends_say_the_same => iproute2, both_ends_say_the_same_with_bbr => iproute2);

const SIZE: u64 = 4 << 20;
const PORT: u16 = 4800;
const RTT: Duration = Duration::from_millis(20);
/// How long `SIZE` takes at least at 100 Mbit/s.
const BUSY: Duration = Duration::from_millis(330);

/// What `ss -ti` says of the kernel's end: `key:value` pairs, and single words without a value.
fn kernel_info(net: &Emulated) -> std::io::Result<HashMap<String, String>> {
    let output = net
        .server
        .output(Command::new("ss").args(["-tionH", "state", "established"]).arg(format!("( sport = :{PORT} )")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pair = |word: &str| {
        let (key, value) = word.split_once(':').unwrap_or((word, ""));
        (key.to_owned(), value.to_owned())
    };
    Ok(text.split_whitespace().map(pair).collect())
}

fn number(info: &HashMap<String, String>, key: &str) -> Option<u64> {
    info.get(key)?.trim_end_matches("ms").parse().ok()
}

/// The two ends at rest. The kernel's is asked again until its last ACK has left.
fn compare(net: &Emulated, ours: &TcpInfo) -> Outcome {
    let mut kernel = kernel_info(net)?;
    for _ in 0..100 {
        if number(&kernel, "bytes_received") == Some(SIZE) && number(&kernel, "bytes_acked").is_some_and(|n| n >= SIZE)
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        kernel = kernel_info(net)?;
    }
    let get = |key: &str| number(&kernel, key).ok_or_else(|| format!("no {key} in {kernel:?}"));
    // Nothing is lost on this path, so that what one end sends the other receives.
    assert_eq!((ours.bytes_sent - ours.bytes_retrans, ours.bytes_received), (SIZE, SIZE), "{ours:?}");
    assert_eq!((get("bytes_received")?, ours.bytes_acked), (SIZE, SIZE), "{kernel:?}");
    assert_eq!(get("bytes_acked")?, ours.bytes_received);
    let close = |a: u64, b: u64| a.abs_diff(b) * 50 <= a.max(b);
    assert!(close(ours.data_segs_out, get("data_segs_in")?), "{ours:?} {kernel:?}");
    assert!(close(ours.data_segs_in, get("data_segs_out")?), "{ours:?} {kernel:?}");
    assert_eq!((u64::from(ours.snd_mss), u64::from(ours.pmtu)), (get("mss")?, get("pmtu")?));
    assert_eq!(u64::from(ours.snd_mss), get("rcvmss")?);
    let (snd, rcv) = ours.window_scale.expect("scaling was negotiated");
    assert_eq!(kernel["wscale"], format!("{rcv},{snd}"), "each end's own scale is the other's for receiving");
    assert!(ours.timestamps && ours.sack && kernel.contains_key("ts") && kernel.contains_key("sack"), "{kernel:?}");
    // A round trip is no shorter than the path, at both ends.
    let min_rtt: f64 = kernel["minrtt"].parse()?;
    assert!(ours.min_rtt >= RTT && ours.rtt >= ours.min_rtt && min_rtt >= 20.0, "{ours:?} {kernel:?}");
    assert!(ours.busy_time >= BUSY && get("busy")? >= BUSY.as_millis() as u64, "{ours:?} {kernel:?}");
    assert!(ours.delivery_rate > 0 && ours.rto >= ours.rtt);
    assert_eq!((ours.unacked, ours.notsent_bytes, ours.timeouts), (0, 0, 0));
    assert!(ours.pacing_rate < u64::MAX, "{ours:?}");
    // Older `ss` do not tell the windows.
    if let Some(window) = number(&kernel, "rcv_wnd") {
        assert_eq!(ours.snd_wnd, window, "{ours:?} {kernel:?}");
    }
    Ok(())
}

fn both_ends_say_the_same() -> Outcome {
    run(Algorithm::Cubic)
}

/// And pacing by its own rate, on a real clock.
fn both_ends_say_the_same_with_bbr() -> Outcome {
    run(Algorithm::Bbr)
}

fn run(congestion: Algorithm) -> Outcome {
    let link = LinkConfig::default().with_delay(RTT / 2).with_rate(100_000_000).with_queue(Queue::Packets(2000));
    let net = Emulated::new(EmulatorConfig::symmetric(link, 7))?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = net.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        assert_eq!(soon("upload", receive_up_to(&mut stream, SIZE)).await?, SIZE);
        soon("download", send(&mut stream, SIZE)).await?;
        assert_eq!(soon("the end", receive(&mut stream)).await?, 0);
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let (tell, told) = std::sync::mpsc::channel::<TcpInfo>();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let client = net.client.spawn_tokio(move || async move {
        let stack = builder().congestion(congestion).build()?;
        let mut stream = stack.connect(addr(SERVER_V4, PORT)).await?;
        soon("upload", send(&mut stream, SIZE)).await?;
        assert_eq!(soon("download", receive_up_to(&mut stream, SIZE)).await?, SIZE);
        tell.send(stream.tcp_info())?;
        let _ = gone.await;
        stream.shutdown().await?;
        drop(stream);
        stack.close().await;
        Outcome::Ok(())
    });
    let (ours, client) = hear(&told, client)?;
    let outcome = compare(&net, &ours);
    let _ = go.send(());
    client.join()?;
    server.join()?;
    outcome
}
