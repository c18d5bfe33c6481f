//! What only the AF_PACKET device has to know: neighbours, segmentation, VLANs, bridges, frames for others, fragments.

use crate::common::{
    Outcome, addr, hear, iproute2, kernel_listener, nft_and_iproute2, of_port, once_told, pattern_from, receive, send,
    soon,
};
use crate::tests;
use crate::transfer::exchange;
use rawtcp::{Device, DropReason, Stack};
use rawtcp_lab::capture::Capture;
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{
    CLIENT_V4, CLIENT_V6, INTERFACE, Pair, ROUTED_SERVER_V4, ROUTED_SERVER_V6, Routed, SERVER_V4, SERVER_V6,
};
use std::error::Error;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

tests!(
    runs_leave_as_one_packet,
    runs_leave_as_one_packet_where_routes_changed_in_the_handshake => nft_and_iproute2,
    a_neighbour_is_resolved_and_found_again_at_another_address => iproute2,
    the_way_through_a_router_changes => iproute2,
    frames_for_others_are_left_alone,
    connections_that_our_router_translates_are_left_alone => nft_and_iproute2,
    fragments_are_put_together,
    a_bridge => iproute2,
    the_mtu_shrinks_and_grows,
    one_interface_of_two,
    auto_without_an_ethernet_is_raw_ip,
    there_is_no_such_interface,
    a_tail_leaves_while_the_program_blocks,
    large_writes_of_several_buffers,
);

const PORT: u16 = 4700;

fn packet(interface: Option<&str>) -> io::Result<Stack> {
    Stack::builder().device(Device::Packet { interface: interface.map(str::to_owned) }).build()
}

/// Runs a program in a namespace; it must succeed.
pub(crate) fn run(host: &Namespace, line: &str) -> Outcome {
    let mut words = line.split_whitespace();
    let output = host.output(Command::new(words.next().ok_or("a program")?).args(words))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// A stack on `host` serves one exchange at `at` to a kernel client on `peer`, and then makes one with a kernel server
/// there.
fn both_ways(host: &Namespace, at: IpAddr, peer: &Namespace, peer_at: IpAddr) -> Outcome {
    let (ready, is_ready) = mpsc::channel();
    let ours = host.spawn_tokio(move || async move {
        let stack = packet(None)?;
        let listener = stack.bind(addr(at, PORT)).await?;
        ready.send(())?;
        exchange(&mut soon("accept", listener.accept()).await?.0).await?;
        exchange(&mut soon("connect", stack.connect(addr(peer_at, PORT + 1))).await?).await?;
        stack.close().await;
        Outcome::Ok(())
    });
    let ours = once_told(&is_ready, ours)?;
    let theirs = peer.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(peer_at, PORT + 1)).await?;
        exchange(&mut soon("connect", tokio::net::TcpStream::connect(addr(at, PORT))).await?).await?;
        exchange(&mut soon("accept", listener.accept()).await?.0).await
    });
    theirs.join()?;
    ours.join()
}

fn runs_leave_as_one_packet() -> Outcome {
    for (ours, theirs) in [(SERVER_V4, CLIENT_V4), (SERVER_V6, CLIENT_V6)] {
        let pair = Pair::new()?;
        let capture = Capture::start(&pair.client, INTERFACE)?;
        both_ways(&pair.server, ours, &pair.client, theirs)?;
        let seen = of_port(&capture.stop()?, PORT);
        let most = |from| seen.iter().filter(|s| s.src.ip() == from).map(|s| s.payload_len).max().unwrap_or(0);
        assert!(most(ours) > 10_000, "the largest packet of ours has {} bytes", most(ours));
        assert!(most(theirs) > 10_000, "the largest packet of the kernel's has {} bytes", most(theirs));
        assert!(!seen.iter().any(|s| s.flags.rst()), "nobody had a reason to reset");
    }
    Ok(())
}

/// What the driver knew of the way to the peer is forgotten between the SYN and the ACK, and asked for again.
fn runs_leave_as_one_packet_where_routes_changed_in_the_handshake() -> Outcome {
    let pair = Pair::new()?;
    run(&pair.client, "nft add table ip hold")?;
    run(&pair.client, "nft add chain ip hold out { type filter hook output priority 0 ; }")?;
    run(&pair.client, &format!("nft add rule ip hold out tcp dport {PORT} tcp flags & (syn | ack) == ack drop"))?;
    let capture = Capture::start(&pair.client, INTERFACE)?;
    let (said, hears) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let ours = pair.server.spawn_tokio({
        let said = said.clone();
        move || async move {
            let stack = packet(None)?;
            let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
            said.send(())?;
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            soon("a byte", stream.read_exact(&mut [0])).await?;
            send(&mut stream, 1 << 20).await?;
            stack.close().await;
            Outcome::Ok(())
        }
    });
    let ours = once_told(&hears, ours)?;
    let theirs = pair.client.spawn_tokio(move || async move {
        let mut stream = tokio::net::TcpStream::connect(addr(SERVER_V4, PORT)).await?;
        said.send(())?;
        may_go_on.recv()?;
        // With the ACK that was held back.
        stream.write_all(b"x").await?;
        assert_eq!(soon("what is sent", crate::common::receive_up_to(&mut stream, 1 << 20)).await?, 1 << 20);
        Outcome::Ok(())
    });
    let theirs = once_told(&hears, theirs)?;
    run(&pair.server, &format!("ip address add 10.9.9.9/32 dev {INTERFACE}"))?;
    run(&pair.client, "nft delete table ip hold")?;
    go_on.send(())?;
    theirs.join()?;
    ours.join()?;
    let seen = of_port(&capture.stop()?, PORT);
    let most = seen.iter().filter(|s| s.src.ip() == SERVER_V4).map(|s| s.payload_len).max();
    assert!(most > Some(10_000), "the largest packet of ours: {most:?}");
    Ok(())
}

/// One connection lives on while its neighbour has no entry, gets another hardware address, and is asked for anew.
fn a_neighbour_is_resolved_and_found_again_at_another_address() -> Outcome {
    let (client, server) = (Namespace::new("client")?, Namespace::new("server")?);
    rawtcp_lab::netns::veth(&client, INTERFACE, &server, INTERFACE)?;
    client.add_address(INTERFACE, CLIENT_V4, 24)?;
    server.add_address(INTERFACE, SERVER_V4, 24)?;
    let (said, hears) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let ours = server.spawn_tokio_threads(1, move || async move {
        let stack = packet(None)?;
        let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
        said.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        for _ in 0..3 {
            send(&mut stream, 1 << 20).await?;
            soon("the answer", stream.read_exact(&mut [0; 4])).await?;
            said.send(())?;
            tokio::task::block_in_place(|| may_go_on.recv())?;
        }
        stack.close().await;
        Outcome::Ok(())
    });
    let ours = once_told(&hears, ours)?;
    let theirs = client.spawn_tokio(|| async {
        let mut stream = tokio::net::TcpStream::connect(addr(SERVER_V4, PORT)).await?;
        for _ in 0..3 {
            assert_eq!(soon("a round", crate::common::receive_up_to(&mut stream, 1 << 20)).await?, 1 << 20);
            stream.write_all(b"more").await?;
        }
        Outcome::Ok(())
    });
    let ours = once_told(&hears, ours)?;
    run(&server, &format!("ip neigh flush dev {INTERFACE}"))?;
    go_on.send(())?;
    let ours = once_told(&hears, ours)?;
    run(&client, &format!("ip link set {INTERFACE} address 02:00:00:00:00:77"))?;
    run(&server, &format!("ip neigh flush dev {INTERFACE}"))?;
    run(&client, &format!("ip neigh flush dev {INTERFACE}"))?;
    go_on.send(())?;
    let ours = once_told(&hears, ours)?;
    go_on.send(())?;
    theirs.join()?;
    ours.join()
}

/// The server's packets first go by the router, then by another address of it, and the connection lives on.
fn the_way_through_a_router_changes() -> Outcome {
    let net = Routed::new()?;
    net.router.add_address("server", "10.0.1.253".parse()?, 24)?;
    // Or the second address would go with the first.
    net.router.set_sysctl("net.ipv4.conf.all.promote_secondaries", "1")?;
    let (said, hears) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let ours = net.server.spawn_tokio_threads(1, move || async move {
        let stack = packet(None)?;
        let listener = stack.bind(addr(ROUTED_SERVER_V4, PORT)).await?;
        said.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        for _ in 0..2 {
            send(&mut stream, 1 << 20).await?;
            soon("the answer", stream.read_exact(&mut [0; 4])).await?;
            said.send(())?;
            tokio::task::block_in_place(|| may_go_on.recv())?;
        }
        stack.close().await;
        Outcome::Ok(())
    });
    let ours = once_told(&hears, ours)?;
    let theirs = net.client.spawn_tokio(|| async {
        let mut stream = tokio::net::TcpStream::connect(addr(ROUTED_SERVER_V4, PORT)).await?;
        for _ in 0..2 {
            assert_eq!(soon("a round", crate::common::receive_up_to(&mut stream, 1 << 20)).await?, 1 << 20);
            stream.write_all(b"more").await?;
        }
        Outcome::Ok(())
    });
    let ours = once_told(&hears, ours)?;
    run(&net.server, "ip route replace default via 10.0.1.253")?;
    // The first way is barred from now on.
    run(&net.router, "ip addr del 10.0.1.254/24 dev server")?;
    go_on.send(())?;
    let ours = once_told(&hears, ours)?;
    go_on.send(())?;
    theirs.join()?;
    ours.join()
}

/// A stack on the router listens on every address; what is forwarded to the same port of the server is none of its
/// business.
fn frames_for_others_are_left_alone() -> Outcome {
    let net = Routed::new()?;
    let (ready, is_ready) = mpsc::channel();
    let (over, is_over) = tokio::sync::oneshot::channel();
    let router = net.router.spawn_tokio(move || async move {
        let stack = packet(None)?;
        let listener = stack.bind(addr("::".parse()?, PORT)).await?;
        ready.send(())?;
        let nobody = tokio::select! {
            accepted = listener.accept() => Err(format!("{:?} was not for us", accepted?.1)),
            _ = is_over => Ok(()),
        };
        nobody?;
        let stats = stack.stats();
        assert!(stats.packets_received > 0, "they did pass by");
        assert_eq!((stats.resets_sent, stats.packets_sent), (0, 0));
        Outcome::Ok(())
    });
    let router = once_told(&is_ready, router)?;
    for ip in [ROUTED_SERVER_V4, ROUTED_SERVER_V6] {
        let (ready, is_ready) = mpsc::channel();
        let server = net.server.spawn_tokio(move || async move {
            let listener = kernel_listener(addr(ip, PORT)).await?;
            ready.send(())?;
            exchange(&mut soon("accept", listener.accept()).await?.0).await
        });
        let server = once_told(&is_ready, server)?;
        let client = net.client.spawn_tokio(move || async move {
            exchange(&mut soon("connect", tokio::net::TcpStream::connect(addr(ip, PORT))).await?).await
        });
        client.join()?;
        server.join()?;
    }
    over.send(()).map_err(|()| "the router's stack has gone")?;
    router.join()
}

/// A router with a connection of ours at a client port, which translates a client's connection to its own address and the
/// same port: it asks no sockets. What the server answers comes by our device before it is translated back.
fn connections_that_our_router_translates_are_left_alone() -> Outcome {
    let routed = Routed::new()?;
    run(&routed.router, "nft add table ip nat")?;
    run(&routed.router, "nft add chain ip nat post { type nat hook postrouting priority 100 ; }")?;
    run(&routed.router, "nft add rule ip nat post oifname server masquerade")?;
    let (listens, server_listens) = mpsc::channel();
    let server = routed.server.spawn_tokio(move || async move {
        let own = kernel_listener(addr(ROUTED_SERVER_V4, PORT)).await?;
        let others = kernel_listener(addr(ROUTED_SERVER_V4, PORT + 1)).await?;
        listens.send(())?;
        let (_routers, router) = soon("the router's connection", own.accept()).await?;
        let (mut stream, from) = soon("the client's connection", others.accept()).await?;
        assert_eq!(from, router, "the client's comes from the router's address and port, too");
        exchange(&mut stream).await
    });
    let server = once_told(&server_listens, server)?;
    let (says, port) = mpsc::channel();
    let (end, ends) = tokio::sync::oneshot::channel::<()>();
    let router = routed.router.spawn_tokio(move || async move {
        let stack = packet(Some("server"))?;
        let stream = soon("connect", stack.connect(addr(ROUTED_SERVER_V4, PORT))).await?;
        says.send(stream.local_addr()?.port())?;
        // An error says the same: the test has ended.
        let _ = ends.await;
        Ok::<_, Box<dyn Error + Send + Sync>>(stack.stats().drops(DropReason::SharedPort))
    });
    let (port, router) = hear(&port, router)?;
    let client = routed.client.spawn_tokio(move || async move {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(addr(CLIENT_V4, port))?;
        exchange(&mut soon("connect", socket.connect(addr(ROUTED_SERVER_V4, PORT + 1))).await?).await
    });
    client.join()?;
    server.join()?;
    drop(end);
    assert!(router.join()? > 0, "the server's segments came by our device");
    Ok(())
}

/// A kernel sender that allows fragmentation, and a router with a small MTU on our side.
fn fragments_are_put_together() -> Outcome {
    let net = Routed::new()?;
    net.router.set_mtu("server", 700)?;
    net.client.set_sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;
    let (ready, is_ready) = mpsc::channel();
    let ours = net.server.spawn_tokio(move || async move {
        let stack = packet(None)?;
        let listener = stack.bind(addr(ROUTED_SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        let got = soon("the stream", receive(&mut stream)).await?;
        stack.close().await;
        Ok::<_, Box<dyn Error + Send + Sync>>(got)
    });
    let ours = once_told(&is_ready, ours)?;
    net.client
        .spawn_tokio(|| async {
            let mut stream = tokio::net::TcpStream::connect(addr(ROUTED_SERVER_V4, PORT)).await?;
            send(&mut stream, 1 << 20).await?;
            stream.shutdown().await?;
            Outcome::Ok(())
        })
        .join()?;
    assert_eq!(ours.join()?, 1 << 20);
    let made = net.router.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let mut lines = made.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
    let (names, values) = (lines.next().ok_or("no names")?, lines.next().ok_or("no values")?);
    let (_, fragments) = names.zip(values).find(|(name, _)| *name == "FragCreates").ok_or("no FragCreates")?;
    assert_ne!(fragments, "0", "the router fragmented");
    Ok(())
}

/// The host's address is on a bridge; its port is no interface of ours, or each packet would be seen twice.
fn a_bridge() -> Outcome {
    let pair = Pair::new()?;
    run(&pair.server, "ip link add br0 type bridge")?;
    run(&pair.server, &format!("ip addr flush dev {INTERFACE}"))?;
    run(&pair.server, &format!("ip link set {INTERFACE} master br0"))?;
    run(&pair.server, "ip addr add 10.0.0.2/24 dev br0")?;
    run(&pair.server, "ip link set br0 up")?;
    run(&pair.client, &format!("ip neigh del 10.0.0.2 dev {INTERFACE}"))?;
    both_ways(&pair.server, SERVER_V4, &pair.client, CLIENT_V4)
}

fn the_mtu_shrinks_and_grows() -> Outcome {
    let pair = Pair::new()?;
    let (said, hears) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let ours = pair.server.spawn_tokio_threads(1, move || async move {
        let stack = packet(None)?;
        let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
        said.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        for _ in 0..3 {
            send(&mut stream, 1 << 20).await?;
            soon("the answer", stream.read_exact(&mut [0; 4])).await?;
            said.send(())?;
            tokio::task::block_in_place(|| may_go_on.recv())?;
        }
        stack.close().await;
        Outcome::Ok(())
    });
    let mut ours = once_told(&hears, ours)?;
    let theirs = pair.client.spawn_tokio(|| async {
        let mut stream = tokio::net::TcpStream::connect(addr(SERVER_V4, PORT)).await?;
        for _ in 0..3 {
            assert_eq!(soon("a round", crate::common::receive_up_to(&mut stream, 1 << 20)).await?, 1 << 20);
            stream.write_all(b"more").await?;
        }
        Outcome::Ok(())
    });
    for mtu in [1280, 1500] {
        ours = once_told(&hears, ours)?;
        pair.set_mtu(mtu)?;
        go_on.send(())?;
    }
    let ours = once_told(&hears, ours)?;
    go_on.send(())?;
    theirs.join()?;
    ours.join()
}

/// Only one of two interfaces is an AF_PACKET device; the other's packets come, once, by the raw IP socket.
fn one_interface_of_two() -> Outcome {
    let pair = Pair::new()?;
    rawtcp_lab::netns::veth(&pair.client, "eth1", &pair.server, "eth1")?;
    pair.client.add_address("eth1", "10.1.0.1".parse()?, 24)?;
    pair.server.add_address("eth1", "10.1.0.2".parse()?, 24)?;
    let (ready, is_ready) = mpsc::channel();
    let ours = pair.server.spawn_tokio(move || async move {
        let stack = packet(Some("eth1"))?;
        let listener = stack.bind(addr("0.0.0.0".parse()?, PORT)).await?;
        ready.send(())?;
        for _ in 0..2 {
            exchange(&mut soon("accept", listener.accept()).await?.0).await?;
        }
        stack.close().await;
        Outcome::Ok(())
    });
    let ours = once_told(&is_ready, ours)?;
    let capture = Capture::start(&pair.client, INTERFACE)?;
    for at in ["10.1.0.2".parse()?, SERVER_V4] {
        let client = pair.client.spawn_tokio(move || async move {
            exchange(&mut tokio::net::TcpStream::connect(addr(at, PORT)).await?).await
        });
        client.join()?;
    }
    ours.join()?;
    let seen = of_port(&capture.stop()?, PORT);
    let ours = seen.iter().filter(|s| s.src.ip() == SERVER_V4).map(|s| s.payload_len).max();
    assert!(ours.is_some_and(|most| (1000..=1460).contains(&most)), "raw IP sends no more than {ours:?}");
    Ok(())
}

fn auto_without_an_ethernet_is_raw_ip() -> Outcome {
    let host = Namespace::new("host")?;
    host.spawn_tokio(|| async {
        let stack = Stack::builder().device(Device::Auto).build()?;
        let listener = stack.bind("127.0.0.1:0").await?;
        let (accepted, connected) =
            futures::future::join(listener.accept(), tokio::net::TcpStream::connect(listener.local_addr()?)).await;
        let ((mut accepted, _), mut connected) = (accepted?, connected?);
        let (a, b) = futures::future::join(exchange(&mut accepted), exchange(&mut connected)).await;
        a.and(b)
    })
    .join()
}

fn there_is_no_such_interface() -> Outcome {
    let host = Namespace::new("host")?;
    host.spawn_tokio(|| async {
        for interface in [None, Some("lo"), Some("eth9")] {
            let error = packet(interface).err().ok_or("an error")?;
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        }
        Outcome::Ok(())
    })
    .join()
}

/// The tail of the last of many large writes leaves although the program's only thread does not come back from it.
fn a_tail_leaves_while_the_program_blocks() -> Outcome {
    /// Two packets of 45 full segments, and a tail of one and a bit, which waits for the next write if there were many.
    const BLOCK: usize = 132_000;
    const ATTEMPTS: usize = 5;
    const IN_A_ROW: usize = 20;
    const BLOCKED: Duration = Duration::from_secs(1);
    let pair = Pair::new()?;
    let (ready, is_ready) = mpsc::channel();
    let (told, arrivals) = mpsc::channel();
    let server = pair.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        let mut block = vec![0; BLOCK];
        for number in 0..ATTEMPTS * IN_A_ROW {
            soon("a block", stream.read_exact(&mut block)).await?;
            told.send(number)?;
            stream.write_all(b"!").await?;
        }
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let client = pair.client.spawn_tokio(move || async move {
        let stack = packet(None)?;
        let mut stream = stack.connect(addr(SERVER_V4, PORT)).await?;
        let block = vec![0x5a; BLOCK];
        let mut arrived = 0;
        for number in 0..ATTEMPTS * IN_A_ROW {
            soon("room", stream.write_all(&block)).await?;
            if number % IN_A_ROW == IN_A_ROW - 1 {
                // Nobody sees to what the peer's window had no room for meanwhile: one of the attempts is enough.
                let mut told = std::iter::from_fn(|| arrivals.recv_timeout(BLOCKED).ok());
                arrived += usize::from(told.any(|told| told == number));
            }
            soon("the answer", stream.read_exact(&mut [0])).await?;
        }
        assert!(arrived > 0, "none of {ATTEMPTS} tails left");
        drop(stream);
        stack.close().await;
        Outcome::Ok(())
    });
    client.join()?;
    server.join()
}

/// A head, a large body, and what is behind it, in one write as of an HTTP server; all of it is written to again behind it.
fn large_writes_of_several_buffers() -> Outcome {
    const PARTS: [usize; 4] = [300, 200_000, 7, 150_000];
    const WRITES: u64 = 100;
    let size = PARTS.iter().sum::<usize>() as u64;
    let pair = Pair::new()?;
    let (ready, is_ready) = mpsc::channel();
    let server = pair.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        assert_eq!(soon("all of it", receive(&mut stream)).await?, WRITES * size);
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let client = pair.client.spawn_tokio(move || async move {
        let stack = packet(None)?;
        let mut stream = stack.connect(addr(SERVER_V4, PORT)).await?;
        let mut memory = Vec::new();
        for number in 0..WRITES {
            memory.clear();
            memory.extend_from_slice(&pattern_from(number * size, (number + 1) * size));
            let mut rest = &memory[..];
            let mut parts = PARTS.map(|len| IoSlice::new(rest.split_off(..len).unwrap_or_default()));
            let mut parts = &mut parts[..];
            while !parts.is_empty() {
                let n = soon("room", stream.write_vectored(parts)).await?;
                IoSlice::advance_slices(&mut parts, n);
            }
        }
        drop(stream);
        stack.close().await;
        Outcome::Ok(())
    });
    client.join()?;
    server.join()
}
