//! The TUN device: a stack with addresses of its own, against the kernel of the same namespace and of others.

use crate::common::{Outcome, addr, iproute2, kernel_listener, once_told, receive, role, send, soon};
use crate::errors::drop_capabilities;
use crate::ethernet::run;
use crate::tests;
use crate::transfer::exchange;
use rawtcp::{Device, DropReason, Stack};
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{CLIENT_V4, CLIENT_V6, INTERFACE, Pair, SERVER_V4, SERVER_V6};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

tests!(
    bytes_both_ways,
    runs_cross_as_one_packet,
    every_own_address,
    resets,
    refused_by_either_side,
    a_router_without_a_route,
    a_router_with_a_narrow_link,
    the_mtu_shrinks_and_grows,
    switched_off_and_on,
    the_interface_goes_away => iproute2,
    strangers_are_counted => iproute2,
    a_full_queue_is_counted,
    two_stacks_behind_one_kernel,
    to_ourselves,
    interfaces_that_are_there => iproute2,
    interfaces_that_can_not_be_had => iproute2,
    without_any_privilege => iproute2,
);

const PORT: u16 = 5100;
/// The first interface of those that nobody names.
const IF: &str = "rawtcp0";
/// Its addresses: the kernel's, and ours.
const KERNEL: [IpAddr; 2] = [v4([10, 114, 97, 1]), v6(1)];
const OURS: [IpAddr; 2] = [v4([10, 114, 97, 2]), v6(2)];

const fn v4(bytes: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_octets(bytes))
}

const fn v6(host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd72, 0x6177, 0x7463, 0, 0, 0, 0, host))
}

fn tun(interface: Option<&str>, addresses: &[(IpAddr, u8)]) -> io::Result<Stack> {
    let device = Device::Tun { interface: interface.map(str::to_owned), addresses: addresses.to_vec() };
    Stack::builder().device(device).build()
}

/// The same where a stack has just left the interface: what other tests begin has copies of descriptors until it runs its
/// program.
async fn tun_once_left(interface: &str, addresses: &[(IpAddr, u8)]) -> io::Result<Stack> {
    loop {
        match tun(Some(interface), addresses) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => tokio::time::sleep(Duration::from_millis(5)).await,
            result => return result,
        }
    }
}

/// A namespace with nothing in it, and a test in there on a runtime with a thread to spare for the peer.
fn alone<F: Future<Output = Outcome>>(test: impl FnOnce(Namespace) -> F + Send + 'static) -> Outcome {
    let host = Namespace::new("host")?;
    let same = host.clone();
    host.spawn_tokio_threads(2, move || test(same)).join()
}

/// Kernel client to our server, our client to a kernel server, IPv4 and IPv6.
fn bytes_both_ways() -> Outcome {
    alone(|_| async {
        let stack = tun(None, &[])?;
        for (kernel, ours) in KERNEL.into_iter().zip(OURS) {
            let listener = stack.bind(addr(ours, PORT)).await?;
            let client =
                tokio::spawn(
                    async move { exchange(&mut tokio::net::TcpStream::connect(addr(ours, PORT)).await?).await },
                );
            let (mut stream, peer) = soon("accept", listener.accept()).await?;
            assert_eq!((peer.ip(), stream.local_addr()?), (kernel, addr(ours, PORT)));
            exchange(&mut stream).await?;
            client.await??;

            let listener = kernel_listener(addr(kernel, PORT)).await?;
            let server = tokio::spawn(async move { exchange(&mut listener.accept().await?.0).await });
            let mut stream = soon("connect", stack.connect(addr(kernel, PORT))).await?;
            assert_eq!(stream.local_addr()?.ip(), ours);
            exchange(&mut stream).await?;
            server.await??;
        }
        let stats = stack.stats();
        assert_eq!((stats.packets_lost, stats.drops(DropReason::Checksum)), (0, 0));
        stack.close().await;
        Ok(())
    })
}

/// Bytes and packets which the kernel received from us, and sent to us.
fn counts() -> Result<[[u64; 2]; 2], Box<dyn std::error::Error + Send + Sync>> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(IF)?.strip_prefix(':')).ok_or("no interface")?;
    let fields = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    Ok([[fields[0], fields[1]], [fields[8], fields[9]]])
}

/// Segmentation and checksums are left to whoever needs them, in both directions.
fn runs_cross_as_one_packet() -> Outcome {
    const SIZE: u64 = 16 << 20;
    alone(|_| async {
        let stack = tun(None, &[])?;
        for (kernel, ours) in KERNEL.into_iter().zip(OURS) {
            let mean = |before: [u64; 2], after: [u64; 2]| (after[0] - before[0]) / (after[1] - before[1]);
            let listener = kernel_listener(addr(kernel, PORT)).await?;
            let server = tokio::spawn(async move { receive(&mut listener.accept().await?.0).await });
            let before = counts()?;
            let mut stream = soon("connect", stack.connect(addr(kernel, PORT))).await?;
            send(&mut stream, SIZE).await?;
            stream.shutdown().await?;
            assert_eq!(soon("the server", server).await??, SIZE);
            let sent = mean(before[0], counts()?[0]);
            assert!(sent > 10_000, "packets of ours have {sent} bytes on average");

            let listener = stack.bind(addr(ours, PORT)).await?;
            let before = counts()?;
            let client = tokio::spawn(async move {
                let mut stream = tokio::net::TcpStream::connect(addr(ours, PORT)).await?;
                send(&mut stream, SIZE).await?;
                stream.shutdown().await
            });
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            assert_eq!(soon("the client", receive(&mut stream)).await?, SIZE);
            client.await??;
            let got = mean(before[1], counts()?[1]);
            assert!(got > 10_000, "packets of the kernel's have {got} bytes on average");
        }
        stack.close().await;
        Ok(())
    })
}

/// A wildcard listener is reached by both addresses, and says which one it was.
fn every_own_address() -> Outcome {
    alone(|_| async {
        let stack = tun(None, &[])?;
        let listener = stack.bind(addr(Ipv6Addr::UNSPECIFIED.into(), PORT)).await?;
        for ours in OURS {
            let client = tokio::spawn(async move {
                let mut stream = tokio::net::TcpStream::connect(addr(ours, PORT)).await?;
                stream.write_all(b"x").await?;
                stream.read_u8().await
            });
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            assert_eq!(stream.local_addr()?.ip().to_canonical(), ours);
            let byte = stream.read_u8().await?;
            stream.write_all(&[byte]).await?;
            assert_eq!(soon("the echo", client).await??, b'x');
        }
        drop(listener);
        let any = stack.bind("0.0.0.0:0").await?;
        assert!((32_768..61_000).contains(&any.local_addr()?.port()), "{}", any.local_addr()?);
        // Without an address of its own IPv6 has nowhere to go, and a listener for both families has IPv4.
        let narrow = tun(Some("narrow0"), &[(v4([10, 7, 0, 2]), 30)])?;
        narrow.bind(addr(Ipv6Addr::UNSPECIFIED.into(), PORT)).await?;
        let error = narrow.connect(addr(KERNEL[1], PORT)).await.expect_err("no IPv6");
        assert_eq!(error.raw_os_error(), Some(101));
        for foreign in [KERNEL[0], KERNEL[1], v4([192, 0, 2, 7])] {
            let error = stack.bind(addr(foreign, PORT)).await.expect_err("not ours");
            assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::AddrNotAvailable, Some(99)));
        }
        // The kernel does not know of our ports.
        let both = stack.bind(addr(OURS[0], PORT)).await?;
        kernel_listener(addr(KERNEL[0], PORT)).await?;
        let error = stack.bind(both.local_addr()?).await.expect_err("taken");
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::AddrInUse, Some(98)));
        Ok(())
    })
}

/// Each side resets, with zero linger and by leaving something unread.
fn resets() -> Outcome {
    alone(|_| async {
        let stack = tun(None, &[])?;
        for (kernel, ours) in KERNEL.into_iter().zip(OURS) {
            let listener = stack.bind(addr(ours, PORT)).await?;
            let theirs = tokio::spawn(tokio::net::TcpStream::connect(addr(ours, PORT)));
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            let theirs = theirs.await??;
            socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO))?;
            drop(theirs);
            let error = soon("their reset", stream.read(&mut [0])).await.expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);

            let listener = kernel_listener(addr(kernel, PORT)).await?;
            let stream = soon("connect", stack.connect(addr(kernel, PORT))).await?;
            let (mut theirs, _) = listener.accept().await?;
            theirs.write_all(b"unread").await?;
            soon("what is not read", stream.readable()).await?;
            drop(stream);
            let error = soon("our reset", theirs.read(&mut [0])).await.expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        Ok(())
    })
}

fn refused_by_either_side() -> Outcome {
    alone(|_| async {
        let stack = tun(None, &[])?;
        for (kernel, ours) in KERNEL.into_iter().zip(OURS) {
            let theirs = soon("the kernel's", stack.connect(addr(kernel, PORT))).await.expect_err("nobody listens");
            let ours = tokio::net::TcpStream::connect(addr(ours, PORT));
            let ours = soon("ours", ours).await.expect_err("nobody listens");
            for error in [theirs, ours] {
                assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::ConnectionRefused, Some(111)));
            }
        }
        assert_eq!(stack.stats().resets_sent, 2);
        Ok(())
    })
}

/// The kernel is our router, and says by ICMP that it knows no way.
fn a_router_without_a_route() -> Outcome {
    alone(|host| async move {
        host.enable_forwarding()?;
        let stack = tun(None, &[])?;
        let start = Instant::now();
        for nowhere in ["192.0.2.1", "2001:db8::1"] {
            let error = soon("connect", stack.connect(addr(nowhere.parse()?, PORT))).await.expect_err("no route");
            assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::NetworkUnreachable, Some(101)), "{nowhere}");
        }
        assert!(start.elapsed() < Duration::from_secs(10), "at once, not by a time-out");
        Ok(())
    })
}

/// The kernel of our namespace forwards to another host by a link on which less fits than our interface takes.
fn a_router_with_a_narrow_link() -> Outcome {
    const SIZE: u64 = 4 << 20;
    const NARROW: u32 = 1280;
    let pair = Pair::new()?;
    pair.server.enable_forwarding()?;
    pair.server.set_mtu(INTERFACE, NARROW)?;
    for (network, prefix, by) in [(v4([10, 114, 97, 0]), 30, SERVER_V4), (v6(0), 64, SERVER_V6)] {
        pair.client.add_route(network, prefix, by)?;
    }
    for (i, at) in [CLIENT_V4, CLIENT_V6].into_iter().enumerate() {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let theirs = pair.client.spawn_tokio(move || async move {
            let listener = kernel_listener(addr(at, PORT)).await?;
            ready.send(())?;
            let (mut stream, peer) = soon("accept", listener.accept()).await?;
            assert_eq!(peer.ip(), OURS[i]);
            assert_eq!(soon("the stream", receive(&mut stream)).await?, SIZE);
            Outcome::Ok(())
        });
        let theirs = once_told(&is_ready, theirs)?;
        let ours = pair.server.spawn_tokio(move || async move {
            let stack = tun(None, &[])?;
            let mut stream = soon("connect", stack.connect(addr(at, PORT))).await?;
            assert_eq!(stream.tcp_info().pmtu, 1500);
            soon("the upload", send(&mut stream, SIZE)).await?;
            stream.shutdown().await?;
            soon("the last acknowledgment", stream.acknowledged()).await?;
            assert_eq!(stream.tcp_info().pmtu, NARROW, "as the router said");
            drop(stream);
            stack.close().await;
            Outcome::Ok(())
        });
        ours.join()?;
        theirs.join()?;
    }
    Ok(())
}

fn the_mtu_shrinks_and_grows() -> Outcome {
    alone(|host| async move {
        let stack = tun(None, &[])?;
        for kernel in KERNEL {
            tokio::task::block_in_place(|| host.set_mtu(IF, 1500))?;
            let listener = kernel_listener(addr(kernel, PORT)).await?;
            let server = tokio::spawn(async move {
                let mut streams = Vec::new();
                loop {
                    let (mut stream, _) = listener.accept().await?;
                    streams.push(tokio::spawn(async move { receive(&mut stream).await }));
                    if streams.len() > 1000 {
                        return io::Result::Ok(streams);
                    }
                }
            });
            let path = async |mtu: u32| {
                // The kernel's news come a moment later.
                loop {
                    let stream = soon("connect", stack.connect(addr(kernel, PORT))).await?;
                    if stream.tcp_info().pmtu == mtu {
                        return io::Result::Ok(stream);
                    }
                    tokio::task::yield_now().await;
                }
            };
            let mut stream = soon("1500", path(1500)).await?;
            soon("the first part", send(&mut stream, 1 << 20)).await?;
            tokio::task::block_in_place(|| host.set_mtu(IF, 1280))?;
            let second = crate::common::pattern_from(1 << 20, 2 << 20);
            soon("the second part", stream.write_all(&second)).await?;
            soon("the acknowledgments", stream.acknowledged()).await?;
            assert_eq!(stream.tcp_info().pmtu, 1280);
            tokio::task::block_in_place(|| host.set_mtu(IF, 9000))?;
            let mut grown = soon("9000", path(9000)).await?;
            soon("the last part", send(&mut grown, 1 << 20)).await?;
            soon("the acknowledgments", grown.acknowledged()).await?;
            server.abort();
        }
        Ok(())
    })
}

/// What is lost meanwhile is sent again.
fn switched_off_and_on() -> Outcome {
    alone(|host| async move {
        let stack = tun(None, &[])?;
        let listener = stack.bind(addr(OURS[0], PORT)).await?;
        let client = tokio::spawn(async {
            let mut stream = tokio::net::TcpStream::connect(addr(OURS[0], PORT)).await?;
            receive(&mut stream).await
        });
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        soon("the first part", send(&mut stream, 100_000)).await?;
        soon("its acknowledgment", stream.acknowledged()).await?;
        tokio::task::block_in_place(|| host.set_link_up(IF, false))?;
        let lost = stack.stats().packets_lost;
        stream.write_all(&crate::common::pattern_from(100_000, 200_000)).await?;
        assert!(stack.stats().packets_lost > lost, "nothing leaves");
        tokio::task::block_in_place(|| host.set_link_up(IF, true))?;
        stream.shutdown().await?;
        assert_eq!(soon("all of it", client).await??, 200_000);
        Ok(())
    })
}

/// Whoever waits is told, nothing hangs, and a new stack makes a new interface.
fn the_interface_goes_away() -> Outcome {
    alone(|host| async move {
        let stack = tun(None, &[])?;
        let listener = stack.bind(addr(OURS[0], PORT)).await?;
        let theirs = tokio::spawn(tokio::net::TcpStream::connect(addr(OURS[0], PORT)));
        let (stream, _) = soon("accept", listener.accept()).await?;
        let _theirs = theirs.await??;
        let (mut reader, mut writer) = stream.into_split();
        let accepting = tokio::spawn(async move { listener.accept().await.map(drop) });
        let reading = tokio::spawn(async move { reader.read(&mut [0]).await.map(drop) });
        // More than the peer, which does not read, and our buffer take together.
        let writing = tokio::spawn(async move { send(&mut writer, 64 << 20).await });
        let connecting = {
            let stack = stack.clone();
            // The kernel forwards nothing: nobody answers.
            tokio::spawn(async move { stack.connect("192.0.2.1:80").await.map(drop) })
        };
        while stack.stats().connects == 0 {
            tokio::task::yield_now().await;
        }
        tokio::task::block_in_place(|| run(&host, &format!("ip link del {IF}")))?;
        for (what, waiting) in [("accept", accepting), ("read", reading), ("write", writing), ("connect", connecting)] {
            let error = soon(what, waiting).await?.expect_err(what);
            assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::NetworkDown, Some(100)), "{what}: {error}");
        }
        for error in [
            stack.bind(addr(OURS[0], PORT)).await.expect_err("no interface"),
            stack.connect(addr(KERNEL[0], PORT)).await.expect_err("no interface"),
        ] {
            assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::NetworkDown, Some(100)));
        }
        soon("close", stack.close()).await;
        let again = tun(None, &[])?;
        again.bind(addr(OURS[0], PORT)).await?;
        Ok(())
    })
}

/// Other protocols and fragments are dropped under their names, and packets to others not answered.
fn strangers_are_counted() -> Outcome {
    alone(|host| async move {
        let stack = tun(None, &[])?;
        let udp = tokio::net::UdpSocket::bind("0.0.0.0:0").await?;
        let counts = || {
            let stats = stack.stats();
            [DropReason::Protocol, DropReason::IpFragment, DropReason::NotOurs].map(|reason| stats.drops(reason))
        };
        let grown = async |before: [u64; 3], at: usize, by: u64| {
            while counts()[at] < before[at] + by {
                tokio::task::yield_now().await;
            }
        };
        let before = counts();
        udp.send_to(b"udp", addr(OURS[0], PORT)).await?;
        soon("UDP", grown(before, 0, 1)).await;
        udp.send_to(&[0; 4000], addr(OURS[0], PORT)).await?;
        soon("fragments", grown(before, 1, 3)).await;
        // Somebody else's address, which the kernel believes to be behind the interface.
        tokio::task::block_in_place(|| run(&host, &format!("ip route add 192.0.2.0/24 dev {IF}")))?;
        // The kernel's own news to all routers, a few, count there, too.
        let connecting: Vec<_> =
            (0..30).map(|_| tokio::spawn(tokio::net::TcpStream::connect("192.0.2.1:80"))).collect();
        soon("SYNs for others", grown(before, 2, 30)).await;
        connecting.iter().for_each(|connecting| connecting.abort());
        assert_eq!(stack.stats().resets_sent, 0);
        Ok(())
    })
}

/// While nobody takes packets out of the interface, it drops what does not fit.
fn a_full_queue_is_counted() -> Outcome {
    let host = Namespace::new("host")?;
    host.spawn_tokio(|| async {
        let stack = tun(None, &[])?;
        let udp = std::net::UdpSocket::bind("0.0.0.0:0")?;
        // Without an await: the driver, on the same thread, does not run.
        for _ in 0..6000 {
            match udp.send_to(b"x", addr(OURS[0], PORT)) {
                Err(error) if error.raw_os_error() != Some(105) => return Err(error.into()),
                _ => {}
            }
        }
        let drops = stack.stats().receive_queue_drops;
        assert!((1..6000).contains(&drops), "{drops}");
        Outcome::Ok(())
    })
    .join()
}

/// Each interface has a network of its own, and the kernel forwards between them.
fn two_stacks_behind_one_kernel() -> Outcome {
    alone(|host| async move {
        host.enable_forwarding()?;
        let (one, two) = (tun(None, &[])?, tun(None, &[])?);
        let second = [v4([10, 114, 97, 6]), "fd72:6177:7463:1::2".parse()?];
        for (first, second) in OURS.into_iter().zip(second) {
            let listener = two.bind(addr(second, PORT)).await?;
            let client = {
                let one = one.clone();
                tokio::spawn(async move { exchange(&mut one.connect(addr(second, PORT)).await?).await })
            };
            let (mut stream, peer) = soon("accept", listener.accept()).await?;
            assert_eq!(peer.ip(), first);
            exchange(&mut stream).await?;
            client.await??;
        }
        Ok(())
    })
}

/// What is for the stack itself never leaves it.
fn to_ourselves() -> Outcome {
    alone(|_| async {
        let stack = tun(None, &[])?;
        let listener = stack.bind(addr(Ipv6Addr::UNSPECIFIED.into(), PORT)).await?;
        let before = counts()?[0][1];
        for (to, from) in [
            (OURS[0], OURS[0]),
            (OURS[1], OURS[1]),
            (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()),
            (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
            (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        ] {
            let client = {
                let stack = stack.clone();
                tokio::spawn(async move { exchange(&mut stack.connect(addr(to, PORT)).await?).await })
            };
            let (mut stream, peer) = soon("accept", listener.accept()).await?;
            assert_eq!(peer.ip().to_canonical(), from);
            exchange(&mut stream).await?;
            client.await??;
        }
        let refused = stack.connect(addr(OURS[0], PORT + 1)).await.expect_err("nobody there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert!(counts()?[0][1] - before < 100, "nothing of it passed the kernel");
        Ok(())
    })
}

/// What somebody made is used as it is: the address that the kernel has there says which one is ours.
fn interfaces_that_are_there() -> Outcome {
    alone(|host| async move {
        let host = |line: String| tokio::task::block_in_place(|| run(&host, &line));
        for (i, (address, kernel, ours)) in [
            ("10.7.0.1/24", "10.7.0.1", "10.7.0.2"),
            ("10.7.1.1 peer 10.99.0.9/32", "10.7.1.1", "10.99.0.9"),
            ("fd07::1/64", "fd07::1", "fd07::2"),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("made{i}");
            host(format!("ip tuntap add dev {name} mode tun"))?;
            host(format!("ip addr add {address} dev {name}"))?;
            host(format!("ip link set {name} mtu 1400 up"))?;
            let (kernel, ours): (IpAddr, IpAddr) = (kernel.parse()?, ours.parse()?);
            let both = [(PORT, &[][..]), (PORT + 1, &[(ours, if ours.is_ipv4() { 24 } else { 64 })])];
            for (port, addresses) in both {
                let stack = soon("the interface", tun_once_left(&name, addresses)).await?;
                let listener = kernel_listener(addr(kernel, port)).await?;
                let server = tokio::spawn(async move { exchange(&mut listener.accept().await?.0).await });
                let mut stream = soon("connect", stack.connect(addr(kernel, port))).await?;
                assert_eq!((stream.local_addr()?.ip(), stream.tcp_info().pmtu), (ours, 1400));
                exchange(&mut stream).await?;
                server.await??;
                drop(stream);
                stack.close().await;
            }
        }
        Ok(())
    })
}

fn interfaces_that_can_not_be_had() -> Outcome {
    alone(|host| async move {
        let host = |line: &str| tokio::task::block_in_place(|| run(&host, line));
        let _first = tun(Some("busy0"), &[])?;
        host("ip link add veth0 type veth peer name veth1")?;
        host("ip tuntap add dev down0 mode tun")?;
        host("ip tuntap add dev bare0 mode tun")?;
        host("ip link set bare0 up")?;
        let (kernel, long) = (KERNEL[0], "a-name-of-more-than-fifteen");
        for (name, addresses, kind, text) in [
            ("busy0", &[][..], ErrorKind::ResourceBusy, "another program uses the TUN interface busy0"),
            ("veth0", &[], ErrorKind::InvalidInput, "veth0 is no TUN interface"),
            ("down0", &[], ErrorKind::NetworkDown, "sudo ip link set down0 up"),
            ("bare0", &[], ErrorKind::AddrNotAvailable, "sudo ip addr add 10.114.97.1/30 dev bare0"),
            ("bare0", &[(kernel, 30)], ErrorKind::AddrNotAvailable, "10.114.97.1 is the kernel's own address"),
            ("new0", &[(v4([10, 7, 0, 1]), 32)], ErrorKind::InvalidInput, "10.7.0.1/32 can not be the stack's address"),
            (long, &[], ErrorKind::InvalidInput, "can not be the name of an interface"),
        ] {
            let error = tun(Some(name), addresses).err().ok_or(text)?;
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
        Ok(())
    })
}

/// The role of a child: gives up all privileges, uses the first interface, which was made for it, and no other.
pub(crate) fn without_privilege(interfaces: &str) -> Outcome {
    drop_capabilities()?;
    let (interface, other) = interfaces.split_once(',').map_or((interfaces, None), |(own, other)| (own, Some(other)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let not_ours = other.map(|name| (Some(name), "belongs to another user"));
        let refused = [(None, "making a TUN interface needs the capability CAP_NET_ADMIN")];
        for (name, text) in refused.into_iter().chain(not_ours) {
            let error = tun(name, &[]).err().ok_or(text)?;
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
        let stack = tun(Some(interface), &[])?;
        let listener = kernel_listener(addr(KERNEL[0], PORT)).await?;
        let server = tokio::spawn(async move { exchange(&mut listener.accept().await?.0).await });
        exchange(&mut soon("connect", stack.connect(addr(KERNEL[0], PORT))).await?).await?;
        server.await??;
        stack.close().await;
        Ok(())
    })
}

fn without_any_privilege() -> Outcome {
    let host = Namespace::new("host")?;
    run(&host, "ip tuntap add dev mine mode tun user 0")?;
    run(&host, "ip addr add 10.114.97.1/30 dev mine")?;
    run(&host, "ip link set mine up")?;
    // A user namespace may have no second user.
    let other = run(&host, "ip tuntap add dev other mode tun user 65534").map_or("", |()| ",other");
    let output = host.output(&mut role(&format!("tun-without-privilege mine{other}"))?)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
