//! Of client ports that serve many connections the kernel is spared what comes, although each connection is short.

use crate::common::{Outcome, addr, kernel_listener, nft, soon};
use crate::ingress::there;
use crate::ingress::{ENOUGH, PORT, nothing_is_left, on_the_server, packet, rules, seen_by_the_kernel};
use crate::tests;
use rawtcp::Stack;
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{CLIENT_V4, Pair, SERVER_V4};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

tests!(a_client_port_of_many_connections_is_busy_too => nft);

/// The kernel serves on the peer until that is over: of each connection a byte and the end of it, and it closes first.
async fn serves_short_ones(peer: &Namespace, ready: oneshot::Sender<()>, mut over: oneshot::Receiver<()>) -> Outcome {
    there(peer, move || async move {
        let listener = kernel_listener(addr(CLIENT_V4, PORT)).await?;
        let _ = ready.send(());
        loop {
            let (mut stream, _) = tokio::select! {
                accepted = listener.accept() => accepted?,
                _ = &mut over => return Ok(()),
            };
            tokio::spawn(async move {
                stream.read_exact(&mut [0]).await?;
                stream.shutdown().await?;
                stream.read(&mut [0]).await
            });
        }
    })
    .await
}

/// A connection with a byte; says from where it was.
async fn short_one(stack: &Stack) -> io::Result<SocketAddr> {
    let mut stream = soon("connect", stack.connect(addr(CLIENT_V4, PORT))).await?;
    stream.write_all(b"?").await?;
    assert_eq!(soon("the end", stream.read(&mut [0])).await?, 0);
    stream.local_addr()
}

/// Does this against a kernel that serves short connections.
async fn against_short_ones(pair: &Pair, test: impl AsyncFnOnce(&Stack) -> Outcome) -> Outcome {
    // Ports of a host that forwards are not spared.
    pair.server.set_sysctl("net.ipv4.ip_forward", "0")?;
    pair.server.set_sysctl("net.ipv6.conf.all.forwarding", "0")?;
    let stack = packet()?;
    let ((ready, is_ready), (ends, over)) = (oneshot::channel(), oneshot::channel());
    let asking = async {
        is_ready.await?;
        let asked = test(&stack).await;
        drop(ends);
        asked
    };
    let (served, asked) = futures::future::join(serves_short_ones(&pair.client, ready, over), asking).await;
    asked.and(served)?;
    stack.close().await;
    nothing_is_left().await
}

/// Each of its connections is too short to count.
fn a_client_port_of_many_connections_is_busy_too() -> Outcome {
    on_the_server(|pair| async move {
        against_short_ones(&pair, async |stack| {
            soon("a busy port", async {
                for i in 1.. {
                    // More than one takes part where an end of a connection is late.
                    let port = short_one(stack).await?.port();
                    if i % ENOUGH == 0 && spared_ports(SERVER_V4)?.contains(&port) {
                        break;
                    }
                }
                Outcome::Ok(())
            })
            .await?;
            let before = seen_by_the_kernel()?;
            let mut ports = Vec::new();
            for _ in 0..ENOUGH {
                ports.push(short_one(stack).await?.port());
            }
            let seen = seen_by_the_kernel()? - before;
            let spared = spared_ports(SERVER_V4)?;
            let others = ports.iter().filter(|port| !spared.contains(port)).count();
            // Of those that have become busy meanwhile it has seen the first ones.
            assert!(seen < 200 + 10 * others as u64, "the kernel saw {seen}, and {others} were from other ports");
            Ok(())
        })
        .await
    })
}

/// The ports of this host of which the kernel is spared what comes.
fn spared_ports(ip: IpAddr) -> io::Result<HashSet<u16>> {
    let (rules, entry) = (rules()?, format!("{ip} . "));
    let ports = rules.split(&entry).skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    Ok(ports.flatten().filter_map(|port| port.parse().ok()).collect())
}
