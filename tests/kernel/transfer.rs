//! Bytes both ways, IPv4 and IPv6, over `lo` and veth, whatever the offloads.

use crate::common::{Outcome, addr, kernel_listener, once_told, receive, send, soon, stack};
use crate::tests;
use rawtcp_io::ethtool::Feature;
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{CLIENT_V4, CLIENT_V6, INTERFACE, Pair, SERVER_V4, SERVER_V6};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::io::AsyncWriteExt;

tests!(
    lo_v4,
    lo_v6,
    veth_default_offloads,
    veth_no_segmentation_offloads,
    veth_no_checksum_offload,
    veth_jumbo,
    dual_stack_listener,
    ourselves_over_lo,
);

const SIZE: u64 = 32 << 20;
const PORT: u16 = 4000;

/// Our server, a kernel client; then the other way round. Each sends `SIZE` bytes and then its FIN.
fn both_ways(ours: &Namespace, our_ip: IpAddr, kernels: &Namespace, kernel_ip: IpAddr) -> Outcome {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = ours.spawn_tokio(move || async move {
        let stack = stack()?;
        let listener = stack.bind(addr(our_ip, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        exchange(&mut stream).await?;
        drop(stream);
        stack.close().await;
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let client = kernels.spawn_tokio(move || async move {
        let mut stream = tokio::net::TcpStream::connect(addr(our_ip, PORT)).await?;
        exchange(&mut stream).await
    });
    client.join()?;
    server.join()?;

    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = kernels.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(kernel_ip, PORT + 1)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        exchange(&mut stream).await
    });
    let server = once_told(&is_ready, server)?;
    let client = ours.spawn_tokio(move || async move {
        let stack = stack()?;
        let mut stream = stack.connect(addr(kernel_ip, PORT + 1)).await?;
        exchange(&mut stream).await?;
        drop(stream);
        stack.close().await;
        Outcome::Ok(())
    });
    client.join()?;
    server.join()
}

/// Both directions at once, to the end of the stream.
pub(crate) async fn exchange<S>(stream: &mut S) -> Outcome
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    exchange_of(stream, SIZE).await
}

/// As [`exchange`], with so many bytes each way.
pub(crate) async fn exchange_of<S>(stream: &mut S, size: u64) -> Outcome
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        send(&mut write, size).await?;
        write.shutdown().await
    };
    let (sent, received) = soon("exchange", futures::future::join(sending, receive(&mut read))).await;
    sent?;
    assert_eq!(received?, size);
    Ok(())
}

fn over_lo(ip: IpAddr) -> Outcome {
    let host = Namespace::new("host")?;
    both_ways(&host, ip, &host, ip)
}

fn lo_v4() -> Outcome {
    over_lo(Ipv4Addr::LOCALHOST.into())
}

fn lo_v6() -> Outcome {
    over_lo(Ipv6Addr::LOCALHOST.into())
}

fn over_veth(pair: &Pair) -> Outcome {
    both_ways(&pair.server, SERVER_V4, &pair.client, CLIENT_V4)?;
    both_ways(&pair.server, SERVER_V6, &pair.client, CLIENT_V6)
}

fn veth_default_offloads() -> Outcome {
    over_veth(&Pair::new()?)
}

fn segmentation_off(host: &Namespace) -> std::io::Result<()> {
    [Feature::Tso, Feature::Gso, Feature::Gro].into_iter().try_for_each(|f| host.set_offload(INTERFACE, f, false))
}

fn veth_no_segmentation_offloads() -> Outcome {
    let pair = Pair::new()?;
    for host in [&pair.client, &pair.server] {
        segmentation_off(host)?;
    }
    over_veth(&pair)
}

fn veth_no_checksum_offload() -> Outcome {
    let pair = Pair::new()?;
    for host in [&pair.client, &pair.server] {
        segmentation_off(host)?;
        host.set_offload(INTERFACE, Feature::TxChecksum, false)?;
    }
    over_veth(&pair)
}

fn veth_jumbo() -> Outcome {
    let pair = Pair::new()?;
    pair.set_mtu(9000)?;
    over_veth(&pair)
}

/// `[::]` takes IPv4 too; the peer shows as an IPv4-mapped address, as with tokio.
fn dual_stack_listener() -> Outcome {
    let pair = Pair::new()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = pair.server.spawn_tokio(move || async move {
        let stack = stack()?;
        let listener = stack.bind(addr(Ipv6Addr::UNSPECIFIED.into(), PORT)).await?;
        ready.send(())?;
        let mut peers = Vec::new();
        for _ in 0..2 {
            let (mut stream, peer) = soon("accept", listener.accept()).await?;
            assert_eq!(stream.peer_addr()?, peer);
            stream.write_all(b"hello").await?;
            peers.push(peer.ip());
        }
        stack.close().await;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(peers)
    });
    let server = once_told(&is_ready, server)?;
    pair.client
        .spawn_tokio(|| async {
            for ip in [SERVER_V4, SERVER_V6] {
                let mut stream = tokio::net::TcpStream::connect(addr(ip, PORT)).await?;
                let mut text = String::new();
                soon("read", tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text)).await?;
                assert_eq!(text, "hello");
            }
            Outcome::Ok(())
        })
        .join()?;
    let IpAddr::V4(client) = CLIENT_V4 else { unreachable!("the client's first address is IPv4") };
    assert_eq!(server.join()?, [IpAddr::V6(client.to_ipv6_mapped()), CLIENT_V6]);
    Ok(())
}

fn ourselves_over_lo() -> Outcome {
    let host = Namespace::new("host")?;
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        host.spawn_tokio(move || async move {
            let stack = stack()?;
            let listener = stack.bind(addr(ip, PORT)).await?;
            let server = async {
                let (mut stream, _) = listener.accept().await?;
                exchange(&mut stream).await
            };
            let client = async {
                let mut stream = stack.connect(addr(ip, PORT)).await?;
                exchange(&mut stream).await
            };
            let (server, client) = futures::future::join(server, client).await;
            server?;
            client
        })
        .join()?;
    }
    Ok(())
}
