//! 16 MiB each way, byte-exact, over links that lose, reorder, duplicate and corrupt; `RAWTCP_IMPAIRED_MIB` in the
//! environment sets another size.

use crate::common::{
    Outcome, PATIENCE, addr, assert_kernel_sent_no_reset, kernel_listener, once_told, receive, send, soon, stack,
};
use crate::tests;
use rawtcp_lab::emulator::EmulatorConfig;
use rawtcp_lab::topology::{Emulated, SERVER_V4, SERVER_V6};
use rawtcp_sim::{LinkConfig, Loss};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

tests!(
    loss_v4,
    loss_v6,
    loss_on_a_short_path_v4,
    loss_on_a_short_path_v6,
    reordering_v4,
    reordering_v6,
    duplication_v4,
    duplication_v6,
    corruption_v4,
    corruption_v6,
    all_together_v4,
    all_together_v6,
);

/// Bytes in each direction.
fn size() -> u64 {
    let wanted = std::env::var("RAWTCP_IMPAIRED_MIB").ok().map(|text| text.parse::<u64>());
    wanted.map_or(16, |mib| mib.expect("RAWTCP_IMPAIRED_MIB is a number")) << 20
}

/// A direction's patience: that of a single wait, for each 16 MiB.
async fn in_time<F: Future>(what: &str, size: u64, future: F) -> F::Output {
    let patience = PATIENCE * size.div_ceil(16 << 20) as u32;
    match tokio::time::timeout(patience, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not done in {patience:?}"),
    }
}

fn link() -> LinkConfig {
    LinkConfig::default().with_delay(Duration::from_millis(10))
}

fn lossy(link: LinkConfig) -> LinkConfig {
    link.with_loss(Loss::Uniform(0.01))
}

fn reordering(link: LinkConfig) -> LinkConfig {
    link.with_reorder(0.05, Duration::from_millis(2))
}

fn duplicating(link: LinkConfig) -> LinkConfig {
    link.with_duplicate(0.01)
}

fn corrupting(link: LinkConfig) -> LinkConfig {
    link.with_corrupt(0.001)
}

/// Our client and a kernel server: so many bytes up, then as many down, then both close.
fn transfer(ip: IpAddr, link: LinkConfig) -> Outcome {
    let size = size();
    let net = Emulated::new(EmulatorConfig::symmetric(link, 20_261_122))?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = net.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(ip, 4100)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        assert_eq!(in_time("upload", size, receive(&mut stream)).await?, size);
        in_time("download", size, send(&mut stream, size)).await?;
        stream.shutdown().await?;
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let client = net.client.spawn_tokio(move || async move {
        let stack = stack()?;
        let mut stream = stack.connect(addr(ip, 4100)).await?;
        in_time("upload", size, send(&mut stream, size)).await?;
        stream.shutdown().await?;
        assert_eq!(in_time("download", size, receive(&mut stream)).await?, size);
        drop(stream);
        assert_kernel_sent_no_reset()?;
        stack.close().await;
        Outcome::Ok(())
    });
    client.join()?;
    server.join()?;
    let stats = net.emulator.stop()?;
    assert_eq!(stats.not_segmented, 0, "{stats}");
    let wanted = [
        (link.loss != Loss::None, stats.a_to_b.lost + stats.b_to_a.lost),
        (link.reorder.is_some(), stats.a_to_b.reordered),
        (link.duplicate > 0.0, stats.a_to_b.duplicated),
        (link.corrupt > 0.0, stats.a_to_b.corrupted + stats.b_to_a.corrupted),
    ];
    for (asked, happened) in wanted {
        assert_eq!(asked, happened > 0, "the link did what was asked of it: {stats}");
    }
    Ok(())
}

fn loss_v4() -> Outcome {
    transfer(SERVER_V4, lossy(link()))
}

fn loss_v6() -> Outcome {
    transfer(SERVER_V6, lossy(link()))
}

/// What is written is lent to the connection there, and copied when it has left.
fn loss_on_a_short_path_v4() -> Outcome {
    transfer(SERVER_V4, lossy(LinkConfig::default()))
}

fn loss_on_a_short_path_v6() -> Outcome {
    transfer(SERVER_V6, lossy(LinkConfig::default()))
}

fn reordering_v4() -> Outcome {
    transfer(SERVER_V4, reordering(link()))
}

fn reordering_v6() -> Outcome {
    transfer(SERVER_V6, reordering(link()))
}

fn duplication_v4() -> Outcome {
    transfer(SERVER_V4, duplicating(link()))
}

fn duplication_v6() -> Outcome {
    transfer(SERVER_V6, duplicating(link()))
}

fn corruption_v4() -> Outcome {
    transfer(SERVER_V4, corrupting(link()))
}

fn corruption_v6() -> Outcome {
    transfer(SERVER_V6, corrupting(link()))
}

fn all_together_v4() -> Outcome {
    transfer(SERVER_V4, corrupting(duplicating(reordering(lossy(link())))))
}

fn all_together_v6() -> Outcome {
    transfer(SERVER_V6, corrupting(duplicating(reordering(lossy(link())))))
}
