//! The congestion control of a live connection is replaced, again and again, while the kernel at the other end
//! receives: no byte is lost, and the connection goes on from about the window it had.

use crate::common::{Outcome, addr, builder, kernel_listener, once_told, pattern, receive, soon};
use crate::tests;
use rawtcp::Algorithm;
use rawtcp::cc::Reno;
use rawtcp_lab::emulator::EmulatorConfig;
use rawtcp_lab::topology::{Emulated, SERVER_V4};
use rawtcp_sim::{LinkConfig, Loss};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

tests!(replaced_on_a_clean_path, replaced_on_a_lossy_path);

const SIZE: u64 = 8 << 20;
/// So much is written between two replacements: about a round trip's.
const EACH: u64 = 128 << 10;
const PORT: u16 = 4810;

fn replaced_on_a_clean_path() -> Outcome {
    run(None)
}

/// Also in the middle of recoveries.
fn replaced_on_a_lossy_path() -> Outcome {
    run(Some(0.005))
}

fn run(loss: Option<f64>) -> Outcome {
    let link = LinkConfig::default().with_delay(Duration::from_millis(10)).with_rate(100_000_000);
    let there = loss.map_or(link, |share| link.with_loss(Loss::Uniform(share)));
    let net = Emulated::new(EmulatorConfig::symmetric(there, 11))?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = net.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        assert_eq!(soon("upload", receive(&mut stream)).await?, SIZE);
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let client = net.client.spawn_tokio(move || async move {
        let stack = builder().congestion(Algorithm::Cubic).build()?;
        let mut stream = stack.connect(addr(SERVER_V4, PORT)).await?;
        let (mut sent, mut replaced, mut recovering) = (0, 0, 0);
        while sent < SIZE {
            let before = stream.tcp_info();
            // A new one each time, of the three that are built in and one that is handed over.
            match replaced % 4 {
                0 => stream.set_congestion("bbr")?,
                1 => stream.set_congestion("reno")?,
                2 => stream.set_congestion("cubic")?,
                _ => stream.set_congestion_control(Box::new(Reno::new(1, 1))),
            }
            let info = stream.tcp_info();
            assert_eq!(info.congestion, ["bbr", "reno", "cubic", "reno"][replaced % 4]);
            // Not from an initial window; between the two looks at most one loss was found.
            let kept = info.snd_cwnd >= before.snd_cwnd / 4 || info.timeouts > before.timeouts;
            assert!(kept, "{before:?}\n{info:?}");
            recovering += usize::from(info.ca_state != rawtcp::CaState::Open);
            replaced += 1;
            let until = (sent + EACH).min(SIZE);
            while sent < until {
                let block = pattern(sent, (until - sent) as usize);
                soon("a write", stream.write_all(block)).await?;
                sent += block.len() as u64;
            }
        }
        stream.shutdown().await?;
        let info = stream.tcp_info();
        println!("{replaced} replacements, {recovering} of them in recovery; {info:?}");
        assert_eq!(replaced as u64, SIZE / EACH);
        if loss.is_some() {
            assert!(info.total_retrans > 0 && recovering > 0, "{recovering} in recovery; {info:?}");
        }
        drop(stream);
        stack.close().await;
        Outcome::Ok(())
    });
    client.join()?;
    server.join()?;
    Ok(())
}
