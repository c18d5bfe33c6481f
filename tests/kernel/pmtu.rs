//! Paths with a smaller MTU: a router that must not say so, a router that says so, an interface that changes.

use crate::common::{Failure, Outcome, addr, kernel_listener, nft, once_told, receive, send, soon, stack};
use crate::tests;
use rawtcp_lab::topology::{INTERFACE, Pair, ROUTED_SERVER_V4, ROUTED_SERVER_V6, Routed, SERVER_V4, SERVER_V6};
use rawtcp_proto::TcpInfo;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

tests!(
    a_black_hole_v4 => nft,
    a_black_hole_v6 => nft,
    a_router_that_tells_v4,
    a_router_that_tells_v6,
    a_lower_interface_mtu_v4,
    a_lower_interface_mtu_v6,
);

const SIZE: u64 = 4 << 20;
const PORT: u16 = 4800;
const NARROW: u32 = 1280;

/// A kernel server that reads all and says "!" at the first byte.
fn server(host: &rawtcp_lab::netns::Namespace, ip: IpAddr) -> Result<rawtcp_lab::netns::Task<Outcome>, Failure> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let task = host.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(ip, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        soon("the first byte", stream.readable()).await?;
        stream.write_all(b"!").await?;
        assert_eq!(soon("the rest", receive(&mut stream)).await?, SIZE);
        Outcome::Ok(())
    });
    once_told(&is_ready, task)
}

/// Our client sends `SIZE` bytes through a router to whose other side only `NARROW` bytes fit.
fn narrow_router(ip: IpAddr, silent: bool) -> Result<TcpInfo, Box<dyn std::error::Error + Send + Sync>> {
    let net = Routed::new()?;
    net.router.set_mtu("server", NARROW)?;
    if silent {
        let rules = "table inet filter { chain out { type filter hook output priority 0; \
                     icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }";
        let output = net.router.output(Command::new("nft").arg(rules))?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let server = server(&net.server, ip)?;
    let client = net.client.spawn_tokio(move || async move {
        let stack = stack()?;
        let mut stream = stack.connect(addr(ip, PORT)).await?;
        let start = Instant::now();
        let (mut reader, mut writer) = stream.split();
        let wait = async {
            let mut byte = [0];
            tokio::io::AsyncReadExt::read_exact(&mut reader, &mut byte).await?;
            Ok::<_, std::io::Error>(start.elapsed())
        };
        let write = async {
            soon("the upload", send(&mut writer, SIZE)).await?;
            writer.shutdown().await
        };
        let (first, written) = tokio::join!(soon("the first answer", wait), write);
        written?;
        assert!(first? < Duration::from_secs(10), "progress within ten seconds");
        soon("the last acknowledgment", stream.acknowledged()).await?;
        let info = stream.tcp_info();
        drop(stream);
        stack.close().await;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(info)
    });
    let info = client.join()?;
    server.join()?;
    assert!((NARROW - 8..=NARROW).contains(&info.pmtu), "{info:?}");
    Ok(info)
}

fn a_black_hole_v4() -> Outcome {
    let info = narrow_router(ROUTED_SERVER_V4, true)?;
    assert!(info.timeouts >= 3, "{info:?}");
    Ok(())
}

fn a_black_hole_v6() -> Outcome {
    let info = narrow_router(ROUTED_SERVER_V6, true)?;
    assert!(info.timeouts >= 3, "{info:?}");
    Ok(())
}

fn a_router_that_tells_v4() -> Outcome {
    let info = narrow_router(ROUTED_SERVER_V4, false)?;
    // Found out before three timeouts were a suspicion.
    assert_eq!(info.pmtu, NARROW);
    assert!(info.timeouts < 3, "{info:?}");
    Ok(())
}

fn a_router_that_tells_v6() -> Outcome {
    let info = narrow_router(ROUTED_SERVER_V6, false)?;
    // Found out before three timeouts were a suspicion.
    assert_eq!(info.pmtu, NARROW);
    assert!(info.timeouts < 3, "{info:?}");
    Ok(())
}

/// The interface takes less from one moment to the next: the device says so, and what was too large is sent again.
fn lower(ip: IpAddr) -> Outcome {
    let pair = Pair::new()?;
    let server = server(&pair.server, ip)?;
    let (half, is_half) = tokio::sync::oneshot::channel();
    let (lowered, is_lowered) = tokio::sync::oneshot::channel();
    let client = pair.client.spawn_tokio(move || async move {
        let stack = stack()?;
        let mut stream = stack.connect(addr(ip, PORT)).await?;
        soon("the first half", send(&mut stream, SIZE / 2)).await?;
        half.send(()).map_err(|()| "nobody waits")?;
        is_lowered.await?;
        let rest = crate::common::pattern_from(SIZE / 2, SIZE);
        soon("the second half", stream.write_all(&rest)).await?;
        stream.shutdown().await?;
        soon("the last acknowledgment", stream.acknowledged()).await?;
        assert_eq!(stream.tcp_info().pmtu, NARROW);
        drop(stream);
        stack.close().await;
        Outcome::Ok(())
    });
    is_half.blocking_recv()?;
    pair.client.set_mtu(INTERFACE, NARROW)?;
    lowered.send(()).map_err(|()| "nobody waits")?;
    client.join()?;
    server.join()
}

fn a_lower_interface_mtu_v4() -> Outcome {
    lower(SERVER_V4)
}

fn a_lower_interface_mtu_v6() -> Outcome {
    lower(SERVER_V6)
}
