//! A proxy of ours between two peers of the kernel: ends are passed on, whoever finishes first.

use crate::common::{
    Outcome, addr, assert_kernel_sent_no_reset, kernel_listener, once_told, receive, send, soon, stack,
};
use crate::tests;
use rawtcp::net::{TcpListener, TcpStream};
use rawtcp_lab::emulator::EmulatorConfig;
use rawtcp_lab::topology::{CLIENT_V4, CLIENT_V6, Emulated, SERVER_V4, SERVER_V6};
use rawtcp_sim::{LinkConfig, Loss};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net as kernel;

tests!(no_loss_v4, no_loss_v6, loss_v4, loss_v6);

/// Where the proxy listens, and where it connects to.
const PROXY: u16 = 4700;
const ORIGIN: u16 = 4701;

const SIZES: [u64; 5] = [0, 1, 1460, 64 << 10, 10 << 20];

/// Bytes in each direction, and whether the client is the first to finish.
fn cases() -> Vec<(u64, bool)> {
    SIZES.into_iter().flat_map(|size| [(size, true), (size, false)]).collect()
}

fn no_loss_v4() -> Outcome {
    matrix(CLIENT_V4, SERVER_V4, Loss::None)
}

fn no_loss_v6() -> Outcome {
    matrix(CLIENT_V6, SERVER_V6, Loss::None)
}

fn loss_v4() -> Outcome {
    matrix(CLIENT_V4, SERVER_V4, Loss::Uniform(0.01))
}

fn loss_v6() -> Outcome {
    matrix(CLIENT_V6, SERVER_V6, Loss::Uniform(0.01))
}

/// One side of a connection: says everything and ends its direction, before or after it has heard everything.
async fn side(mut stream: kernel::TcpStream, size: u64, first: bool) -> Outcome {
    if first {
        send(&mut stream, size).await?;
        stream.shutdown().await?;
    }
    // To the end of the stream.
    assert_eq!(receive(&mut stream).await?, size);
    if !first {
        send(&mut stream, size).await?;
        stream.shutdown().await?;
    }
    Ok(())
}

/// A read that is given up beforehand; what it found goes where the rest will go.
async fn give_up_a_read(from: &mut TcpStream, to: &mut TcpStream) -> Result<u64, std::io::Error> {
    let mut buf = [0; 100];
    match tokio::time::timeout(Duration::from_millis(2), from.read(&mut buf)).await {
        Ok(n) => {
            let n = n?;
            to.write_all(&buf[..n]).await?;
            Ok(n as u64)
        }
        Err(_) => Ok(0),
    }
}

async fn proxy(listener: &TcpListener, stack: &rawtcp::Stack, origin: IpAddr, size: u64) -> Outcome {
    let (mut left, _) = listener.accept().await?;
    let mut right = stack.connect(addr(origin, ORIGIN)).await?;
    let up = give_up_a_read(&mut left, &mut right).await?;
    let down = give_up_a_read(&mut right, &mut left).await?;
    let (rest_up, rest_down) = tokio::io::copy_bidirectional(&mut left, &mut right).await?;
    assert_eq!((up + rest_up, down + rest_down), (size, size));
    Ok(())
}

/// Both legs of the proxy cross the same link.
fn matrix(ours: IpAddr, kernels: IpAddr, loss: Loss) -> Outcome {
    let link = LinkConfig::default().with_delay(Duration::from_millis(1)).with_loss(loss);
    let net = Emulated::new(EmulatorConfig::symmetric(link, 20_261_126))?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let proxied = net.client.spawn_tokio(move || async move {
        let stack = stack()?;
        let listener = stack.bind(addr(ours, PROXY)).await?;
        ready.send(())?;
        for (size, client_first) in cases() {
            let case = format!("{size} bytes, client first: {client_first}");
            soon(&case, proxy(&listener, &stack, kernels, size)).await.map_err(|error| format!("{case}: {error}"))?;
        }
        assert_kernel_sent_no_reset()?;
        drop(listener);
        stack.close().await;
        Outcome::Ok(())
    });
    let proxied = once_told(&is_ready, proxied)?;
    let peers = net.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(kernels, ORIGIN)).await?;
        for (size, client_first) in cases() {
            let client = async {
                let stream = kernel::TcpStream::connect(addr(ours, PROXY)).await?;
                side(stream, size, client_first).await
            };
            let origin = async {
                let (stream, _) = listener.accept().await?;
                side(stream, size, !client_first).await
            };
            let case = format!("{size} bytes, client first: {client_first}");
            soon(&case, async { tokio::try_join!(client, origin) })
                .await
                .map_err(|error| format!("{case}: {error}"))?;
        }
        Outcome::Ok(())
    });
    peers.join()?;
    proxied.join()?;
    let stats = net.emulator.stop()?;
    assert!(loss == Loss::None || stats.a_to_b.lost > 0 && stats.b_to_a.lost > 0, "{stats}");
    Ok(())
}
