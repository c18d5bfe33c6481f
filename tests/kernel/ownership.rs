//! Whose four-tuples are whose: the kernel's connections and listeners beside ours, ports after SIGKILL,
//! and a host that is left as it was found.

use crate::common::{
    Outcome, addr, assert_kernel_sent_no_reset, kernel_listener, nft_and_iproute2, of_port, once_told, receive, role,
    send, soon, stack,
};
use crate::tests;
use rawtcp_lab::capture::Capture;
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{CLIENT_V4, INTERFACE, Pair, SERVER_V4, SERVER_V6};
use socket2::SockRef;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

tests!(
    a_kernel_connection_on_our_port_survives,
    a_kernel_listener_on_another_address_is_untouched,
    the_kernel_sends_no_reset,
    ports_are_free_after_sigkill,
    the_host_is_left_as_it_was => nft_and_iproute2,
    a_forged_fragmentation_needed_leaves_the_host_alone => nft_and_iproute2,
    a_foreign_address_beside_our_wildcard_is_refused,
    a_socket_bound_in_another_namespace_is_refused,
);

const PORT: u16 = 4500;

/// A kernel server's established connection on port P lives through our binding, serving and leaving P.
fn a_kernel_connection_on_our_port_survives() -> Outcome {
    let pair = Pair::new()?;
    let (port_is_free, may_bind) = std::sync::mpsc::channel();
    let (left, may_finish) = tokio::sync::oneshot::channel();
    let (connected, may_go_on) = std::sync::mpsc::channel();
    let kernel_server = pair.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        connected.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        // Other tests begin programs, which have copies of this listener until they run: to drop it is not enough.
        SockRef::from(&listener).shutdown(Shutdown::Both)?;
        drop(listener);
        port_is_free.send(())?;
        // Busy all the while.
        let mut total = 0;
        let mut may_finish = std::pin::pin!(may_finish);
        loop {
            tokio::select! {
                biased;
                _ = &mut may_finish => break,
                sent = stream.write_all(crate::common::pattern(total, 10_000)) => {
                    sent?;
                    total += 10_000;
                }
            }
            tokio::task::yield_now().await;
        }
        stream.shutdown().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(total)
    });
    let kernel_server = once_told(&may_go_on, kernel_server)?;
    let kernel_client = pair.client.spawn_tokio(|| async {
        let mut stream = tokio::net::TcpStream::connect(addr(SERVER_V4, PORT)).await?;
        soon("the kernel's stream", receive(&mut stream)).await
    });
    let kernel_server = once_told(&may_bind, kernel_server)?;
    for _ in 0..3 {
        serve_one(&pair)?;
    }
    // At least one whole write was in progress meanwhile; a reset would have ended it in an error.
    left.send(()).map_err(|()| "the kernel's server has gone")?;
    let sent = kernel_server.join()?;
    let got = kernel_client.join()?;
    assert!(got >= sent, "{got} of {sent} bytes");
    Ok(())
}

/// Our server on `PORT` answers one kernel client and goes.
fn serve_one(pair: &Pair) -> Outcome {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let ours = pair.server.spawn_tokio(move || async move {
        let stack = stack()?;
        let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        send(&mut stream, 50_000).await?;
        stream.shutdown().await?;
        // The client's FIN, too: behind the end of the stack it would be the kernel's to answer.
        assert_eq!(soon("the client's end", stream.read(&mut [0; 8])).await?, 0);
        drop((stream, listener));
        stack.close().await;
        Outcome::Ok(())
    });
    let ours = once_told(&is_ready, ours)?;
    let client = pair.client.spawn_tokio(|| async {
        let mut stream = tokio::net::TcpStream::connect(addr(SERVER_V4, PORT)).await?;
        assert_eq!(soon("our stream", receive(&mut stream)).await?, 50_000);
        Outcome::Ok(())
    });
    client.join()?;
    ours.join()
}

fn a_kernel_listener_on_another_address_is_untouched() -> Outcome {
    let host = Namespace::new("host")?;
    host.spawn_tokio(|| async {
        let kernel = kernel_listener("127.0.0.2:4500".parse()?).await?;
        let stack = stack()?;
        let ours = stack.bind("127.0.0.1:4500").await?;
        for _ in 0..20 {
            let (accepted, connected) =
                futures::future::join(kernel.accept(), tokio::net::TcpStream::connect("127.0.0.2:4500")).await;
            let (mut a, mut b) = (accepted?.0, connected?);
            a.write_all(b"kernel").await?;
            drop(a);
            let mut text = String::new();
            soon("read", b.read_to_string(&mut text)).await?;
            assert_eq!(text, "kernel");
        }
        let (accepted, connected) =
            futures::future::join(ours.accept(), tokio::net::TcpStream::connect("127.0.0.1:4500")).await;
        accepted?;
        connected?;
        Outcome::Ok(())
    })
    .join()
}

/// Handshake, transfer, close, and segments that come after everything is over: no RST but our own.
fn the_kernel_sends_no_reset() -> Outcome {
    let pair = Pair::new()?;
    let capture = Capture::start(&pair.client, INTERFACE)?;
    for _ in 0..5 {
        serve_one(&pair)?;
    }
    let recording = capture.stop()?;
    assert_eq!(recording.drops, 0, "the capture is complete");
    let seen = of_port(&recording, PORT);
    assert!(seen.iter().filter(|s| s.flags.syn()).count() >= 10, "five handshakes were seen");
    if let Some(at) = seen.iter().position(|s| s.flags.rst()) {
        panic!("nobody had a reason to reset: {:#?}", &seen[at.saturating_sub(6)..=at]);
    }
    pair.server.run(assert_kernel_sent_no_reset)
}

/// The role of a child: our echo server, until it is killed.
pub(crate) fn serve_for_ever(at: &str) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = rawtcp::net::TcpListener::bind(at).await?;
        println!("ready");
        loop {
            let (mut stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    })
}

fn ports_are_free_after_sigkill() -> Outcome {
    let pair = Pair::new()?;
    let at = addr(SERVER_V4, PORT);
    let mut program = pair.server.start(role(&format!("serve {at}"))?.stdout(Stdio::piped()))?;
    let mut line = String::new();
    BufReader::new(program.child().stdout.take().ok_or("a pipe")?).read_line(&mut line)?;
    assert_eq!(line.trim(), "ready");
    let peer = pair.client.spawn_tokio(move || async move {
        let mut stream = tokio::net::TcpStream::connect(at).await?;
        stream.write_all(b"echo").await?;
        soon("the echo", stream.read_exact(&mut [0; 4])).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(stream.into_std()?)
    });
    let stream = peer.join()?;
    program.child().kill()?;
    program.wait()?;
    // The kernel has the port at once, and answers what is left of the connection.
    pair.server.run(|| std::net::TcpListener::bind(at))?;
    pair.client
        .spawn_tokio(move || async move {
            let mut stream = tokio::net::TcpStream::from_std(stream)?;
            stream.write_all(b"anyone there?").await?;
            let error = soon("the reset", stream.read(&mut [0; 8])).await.expect_err("gone");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            Outcome::Ok(())
        })
        .join()
}

/// What a run of ours must not change: firewall, addresses, routes with their caches, sysctls.
fn picture(host: &Namespace) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let mut all = String::new();
    for words in [
        "ip -details address",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip -4 route show cache",
        "ip -6 route show cache",
        "ip rule",
        "nft list ruleset",
        "sysctl -a --pattern ^net\\.",
    ] {
        let mut split = words.split(' ');
        let output = host.output(Command::new(split.next().unwrap_or_default()).args(split))?;
        all.push_str(&format!("# {words}\n{}", String::from_utf8_lossy(&output.stdout)));
    }
    // Counters and clocks move by themselves, and a new interface's link-local address is still settling.
    let moving = ["fe80:", "valid_lft", "file-nr", "conntrack_count", "random", "expires"];
    Ok(all.lines().filter(|line| !moving.iter().any(|m| line.contains(m))).collect::<Vec<_>>().join("\n"))
}

/// The picture before anything is done: when the kernel has finished what a new IPv6 address brings.
fn first_picture(host: &Namespace) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let now = picture(host)?;
        if now.contains(&format!("local {SERVER_V6} dev {INTERFACE}")) {
            return Ok(now);
        }
        assert!(Instant::now() < deadline, "the address never comes up: {now}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says what differs, rather than showing a thousand lines twice.
fn assert_unchanged(before: &str, after: &str) {
    let gone: Vec<_> = before.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
    let new: Vec<_> = after.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
    assert!(before == after, "gone: {gone:#?}\nnew: {new:#?}");
}

fn the_host_is_left_as_it_was() -> Outcome {
    let pair = Pair::new()?;
    let before = first_picture(&pair.server)?;
    assert!(before.contains("eth0"), "the picture shows something");
    serve_one(&pair)?;
    assert_unchanged(&before, &picture(&pair.server)?);
    Ok(())
}

/// While we listen, an ICMP that lies about the path must not lower the kernel's own route MTU.
fn a_forged_fragmentation_needed_leaves_the_host_alone() -> Outcome {
    let pair = Pair::new()?;
    let (IpAddr::V4(client), IpAddr::V4(server)) = (CLIENT_V4, SERVER_V4) else {
        unreachable!("the first addresses are IPv4")
    };
    let before = first_picture(&pair.server)?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let ours = pair.server.spawn_tokio(move || async move {
        let stack = stack()?;
        let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        send(&mut stream, 1 << 20).await?;
        drop((stream, listener));
        stack.close().await;
        Outcome::Ok(())
    });
    let ours = once_told(&is_ready, ours)?;
    let forged = pair.client.spawn_tokio(move || async move {
        let mut stream = tokio::net::TcpStream::connect(addr(SERVER_V4, PORT)).await?;
        forge(client, server, stream.local_addr()?.port())?;
        assert_eq!(soon("our stream", receive(&mut stream)).await?, 1 << 20);
        Outcome::Ok(())
    });
    forged.join()?;
    ours.join()?;
    assert_unchanged(&before, &picture(&pair.server)?);
    Ok(())
}

/// "Fragmentation needed, MTU 576" for a segment that the server is said to have sent.
fn forge(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> std::io::Result<()> {
    let mut quoted = vec![0x45, 0, 0x05, 0xdc, 0, 1, 0x40, 0, 64, 6, 0, 0];
    quoted.extend(to.octets());
    quoted.extend(from.octets());
    quoted.extend(PORT.to_be_bytes());
    quoted.extend(port.to_be_bytes());
    quoted.extend([0; 16]);
    let mut message = vec![3, 4, 0, 0, 0, 0, 0x02, 0x40];
    message.extend(quoted);
    let sum = message.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum::<u32>();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4))?;
    socket.send_to(&message, &addr(to.into(), 0).into())?;
    Ok(())
}

/// Connections of a former listener on all addresses keep the port, which a socket on one of them may share: but not one
/// on an address that the host does not have.
fn a_foreign_address_beside_our_wildcard_is_refused() -> Outcome {
    let pair = Pair::new()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (done, is_done) = tokio::sync::oneshot::channel::<()>();
    let ours = pair.server.spawn_tokio(move || async move {
        let stack = stack()?;
        let listener = stack.bind(addr(Ipv4Addr::UNSPECIFIED.into(), PORT)).await?;
        let foreign = addr("192.0.2.1".parse()?, PORT);
        let kind = |result: std::io::Result<_>| result.err().map(|error: std::io::Error| error.kind());
        let bind = |at| {
            let socket = stack.socket_v4();
            socket.set_reuseaddr(true)?;
            socket.bind(at)?;
            socket.listen(16)
        };
        // The kernel looks at the address first.
        assert_eq!(kind(bind(foreign)), Some(std::io::ErrorKind::AddrNotAvailable));
        assert_eq!(kind(bind(addr(SERVER_V4, PORT))), Some(std::io::ErrorKind::AddrInUse));
        ready.send(())?;
        let (stream, _) = soon("accept", listener.accept()).await?;
        drop(listener);
        assert_eq!(kind(bind(foreign)), Some(std::io::ErrorKind::AddrNotAvailable));
        let narrower = bind(addr(SERVER_V4, PORT))?;
        drop((stream, narrower));
        let _ = done.send(());
        Outcome::Ok(())
    });
    let ours = once_told(&is_ready, ours)?;
    let client = pair.client.spawn_tokio(|| async {
        let _stream = tokio::net::TcpStream::connect(addr(SERVER_V4, PORT)).await?;
        // An error says the same: the server has ended.
        let _ = is_done.await;
        Outcome::Ok(())
    });
    ours.join()?;
    client.join()
}

/// A socket that was bound before it had a stack guards the port where it was bound, of which a stack elsewhere sees
/// nothing.
fn a_socket_bound_in_another_namespace_is_refused() -> Outcome {
    let pair = Pair::new()?;
    let bind = || {
        let socket = rawtcp::net::TcpSocket::new_v4()?;
        socket.bind(addr(Ipv4Addr::UNSPECIFIED.into(), PORT))?;
        std::io::Result::Ok(socket)
    };
    let (here, elsewhere) = (pair.server.run(bind)?, pair.client.run(bind)?);
    pair.server
        .spawn_tokio(move || async move {
            let refused = elsewhere.listen(16).err().ok_or("it listens elsewhere than it was bound")?;
            assert!(refused.to_string().contains("another network namespace"), "{refused}");
            let listener = here.listen(16)?;
            assert_eq!(listener.local_addr()?.port(), PORT);
            Outcome::Ok(())
        })
        .join()
}
