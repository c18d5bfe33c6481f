//! Of a busy port the kernel is spared what AF_PACKET sockets receive: how, for how long, and what it goes on seeing.

use crate::common::{
    Outcome, addr, assert_kernel_sent_no_reset, iproute2, kernel_listener, nft, nft_and_iproute2, soon,
};
use crate::tests;
use crate::transfer::exchange;
use rawtcp::net::{TcpListener, TcpStream};
use rawtcp::{Device, Stack};
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{CLIENT_V4, INTERFACE, Pair, SERVER_V4, SERVER_V6};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

tests!(
    the_kernel_does_not_see_a_busy_connection => nft,
    a_server_of_short_connections_is_busy_too => nft,
    a_port_is_the_kernels_again_afterwards => nft,
    other_ports_and_addresses_are_left_alone => nft,
    an_address_that_comes_and_one_that_goes => nft_and_iproute2,
    an_interface_that_goes_and_one_of_its_name => iproute2,
    a_port_is_given_back_without_the_privilege => nft,
    the_table_goes_while_somebody_has_copies_of_our_sockets => nft,
    fragments_reach_the_kernel_whole,
    client_ports_of_a_router_are_not_spared => nft_and_iproute2,
    switched_off => nft,
    without_the_privilege_the_guard_does_it,
);

pub(crate) const PORT: u16 = 4800;

/// Between two looks at what happens elsewhere.
const A_WHILE: Duration = Duration::from_millis(5);

const ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Addresses to connect to, and what the listener there is bound to.
const WHERE: [(IpAddr, IpAddr); 4] =
    [(SERVER_V4, SERVER_V4), (SERVER_V6, SERVER_V6), (SERVER_V4, ANY), (SERVER_V6, ANY)];

/// More exchanges than it takes to count as busy.
pub(crate) const ENOUGH: usize = 200;

pub(crate) fn packet() -> io::Result<Stack> {
    Stack::builder().device(Device::Packet { interface: None }).build()
}

/// Runs on `host`; its outcome is awaited without blocking the thread.
pub(crate) async fn there<F>(host: &Namespace, make: impl FnOnce() -> F + Send + 'static) -> Outcome
where
    F: Future<Output = Outcome> + 'static,
{
    let (said, hears) = oneshot::channel();
    let task = host.spawn_tokio(move || async move {
        // The test has failed already if nobody hears it.
        let _ = said.send(make().await);
    });
    let outcome = hears.await?;
    task.join();
    outcome
}

/// A kernel client that sends a byte and awaits one, so many times.
async fn asks(host: &Namespace, at: SocketAddr, times: usize) -> Outcome {
    there(host, move || async move {
        let mut stream = soon("connect", tokio::net::TcpStream::connect(at)).await?;
        ask(&mut stream, times).await
    })
    .await
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), times: usize) -> Outcome {
    for _ in 0..times {
        stream.write_all(b"?").await?;
        soon("an answer", stream.read_exact(&mut [0])).await?;
    }
    Ok(())
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), times: usize) -> Outcome {
    for _ in 0..times {
        soon("a question", stream.read_exact(&mut [0])).await?;
        stream.write_all(b"!").await?;
    }
    Ok(())
}

/// The kernel serves at an address of the calling thread's namespace, and is asked by a kernel client on `peer`.
async fn the_kernel_serves(at: SocketAddr, peer: &Namespace) -> Outcome {
    let listener = loop {
        match kernel_listener(at).await {
            // The guard goes once a thread has told the kernel.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => tokio::time::sleep(A_WHILE).await,
            listener => break listener?,
        }
    };
    let serving = async { exchange(&mut soon("accept", listener.accept()).await?.0).await };
    let asking =
        there(
            peer,
            move || async move { exchange(&mut soon("connect", tokio::net::TcpStream::connect(at)).await?).await },
        );
    let (served, asked) = futures::future::join(serving, asking).await;
    served.and(asked)
}

/// TCP segments that the kernel of the calling thread's namespace has received.
pub(crate) fn seen_by_the_kernel() -> io::Result<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = table.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (names, values) = (lines.next().into_iter().flatten(), lines.next().into_iter().flatten());
    let found = names.zip(values).find(|(name, _)| *name == "InSegs").and_then(|(_, value)| value.parse().ok());
    found.ok_or_else(|| io::Error::other("no InSegs"))
}

/// What `nft` shows of the calling thread's namespace.
pub(crate) fn rules() -> io::Result<String> {
    let output = Command::new("nft").args(["list", "ruleset"]).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until `nft` shows, or does not show, that the kernel is spared what comes to this address and port: it is told by
/// another thread.
async fn spared(ip: IpAddr, port: u16, expected: bool) -> Outcome {
    let entry = format!("{ip} . {port}");
    soon("the kernel's rules", async {
        while rules()?.contains(&entry) != expected {
            tokio::time::sleep(A_WHILE).await;
        }
        Ok(())
    })
    .await
}

/// Waits until nothing is left. What another test begins, as `nft`, has copies of our descriptors until it runs.
pub(crate) async fn nothing_is_left() -> Outcome {
    soon("the end of the table", async {
        while !rules()?.is_empty() {
            tokio::time::sleep(A_WHILE).await;
        }
        Ok(())
    })
    .await
}

/// Runs a test on the server's host.
pub(crate) fn on_the_server<F>(test: impl FnOnce(Arc<Pair>) -> F + Send + 'static) -> Outcome
where
    F: Future<Output = Outcome> + 'static,
{
    let pair = Arc::new(Pair::new()?);
    let inside = pair.clone();
    pair.server.spawn_tokio(move || test(inside)).join()
}

/// A connection that has become busy.
async fn busy(stack: &Stack, bound: IpAddr, ip: IpAddr, client: &Namespace) -> io::Result<(TcpListener, TcpStream)> {
    let listener = stack.bind(addr(bound, PORT)).await?;
    let serving = async {
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        answer(&mut stream, ENOUGH).await.map(|()| stream)
    };
    let (stream, asked) = futures::future::join(serving, asks(client, addr(ip, PORT), ENOUGH)).await;
    asked.map_err(io::Error::other)?;
    let stream = stream.map_err(io::Error::other)?;
    Ok((listener, stream))
}

fn the_kernel_does_not_see_a_busy_connection() -> Outcome {
    for (ip, bound) in WHERE {
        on_the_server(move |pair| async move {
            let stack = packet()?;
            let listener = stack.bind(addr(bound, PORT)).await?;
            let serving = async {
                let (mut stream, _) = soon("accept", listener.accept()).await?;
                let before = seen_by_the_kernel()?;
                answer(&mut stream, ENOUGH).await?;
                spared(ip, PORT, true).await?;
                let between = seen_by_the_kernel()?;
                answer(&mut stream, 2 * ENOUGH).await?;
                Ok((between - before, seen_by_the_kernel()? - between))
            };
            let asking = asks(&pair.client, addr(ip, PORT), 3 * ENOUGH);
            let (served, asked): (Result<_, Box<dyn Error + Send + Sync>>, _) =
                futures::future::join(serving, asking).await;
            asked?;
            let (first, later) = served?;
            assert!(first > 20, "the kernel saw {first} before the port was busy");
            assert!(later < 10, "the kernel saw {later} afterwards");
            drop(listener);
            stack.close().await;
            nothing_is_left().await
        })?;
    }
    Ok(())
}

fn a_server_of_short_connections_is_busy_too() -> Outcome {
    on_the_server(|pair| async move {
        let stack = packet()?;
        let listener = stack.bind(addr(SERVER_V4, PORT)).await?;
        let serving = async {
            let mut seen = [0; 2];
            for seen in &mut seen {
                let before = seen_by_the_kernel()?;
                for _ in 0..ENOUGH {
                    answer(&mut soon("accept", listener.accept()).await?.0, 1).await?;
                }
                spared(SERVER_V4, PORT, true).await?;
                *seen = seen_by_the_kernel()? - before;
            }
            Ok(seen)
        };
        let asking = there(&pair.client, || async {
            for _ in 0..2 * ENOUGH {
                ask(&mut soon("connect", tokio::net::TcpStream::connect(addr(SERVER_V4, PORT))).await?, 1).await?;
            }
            Ok(())
        });
        let (served, asked): (Result<_, Box<dyn Error + Send + Sync>>, _) =
            futures::future::join(serving, asking).await;
        asked?;
        let [first, later] = served?;
        assert!(first > 20 && later < 10, "the kernel saw {first} and then {later}");
        Ok(())
    })
}

/// A client port's guard outlives its connection: it is the kernel's again once that goes, too.
fn a_port_is_the_kernels_again_afterwards() -> Outcome {
    on_the_server(|pair| async move {
        let stack = packet()?;
        let (listener, stream) = busy(&stack, SERVER_V4, SERVER_V4, &pair.client).await?;
        let other = stack.bind(addr(SERVER_V4, PORT + 1)).await?;
        spared(SERVER_V4, PORT, true).await?;
        stream.set_zero_linger()?;
        drop((stream, listener));
        the_kernel_serves(addr(SERVER_V4, PORT), &pair.client).await?;
        spared(SERVER_V4, PORT, false).await?;
        drop(other);
        Ok(())
    })
}

fn other_ports_and_addresses_are_left_alone() -> Outcome {
    on_the_server(|pair| async move {
        let second: IpAddr = "10.0.0.3".parse()?;
        pair.server.add_address(INTERFACE, second, 24)?;
        let stack = packet()?;
        let (_listener, _stream) = busy(&stack, SERVER_V4, SERVER_V4, &pair.client).await?;
        spared(SERVER_V4, PORT, true).await?;
        the_kernel_serves(addr(second, PORT), &pair.client).await?;
        the_kernel_serves(addr(SERVER_V4, PORT + 1), &pair.client).await?;
        the_kernel_serves(addr(SERVER_V6, PORT), &pair.client).await
    })
}

/// What a listener on all addresses is spared follows the host's addresses.
fn an_address_that_comes_and_one_that_goes() -> Outcome {
    on_the_server(|pair| async move {
        let second: IpAddr = "10.0.0.3".parse()?;
        let stack = packet()?;
        let (listener, _stream) = busy(&stack, ANY, SERVER_V4, &pair.client).await?;
        spared(SERVER_V4, PORT, true).await?;
        spared(second, PORT, false).await?;
        pair.server.add_address(INTERFACE, second, 24)?;
        let serving = async { answer(&mut soon("accept", listener.accept()).await?.0, 1).await };
        let (served, asked) = futures::future::join(serving, asks(&pair.client, addr(second, PORT), 1)).await;
        served.and(asked)?;
        spared(second, PORT, true).await?;
        spared(SERVER_V4, PORT, true).await?;
        let removed = Command::new("ip").args(["addr", "del", "10.0.0.3/24", "dev", INTERFACE]).status()?;
        assert!(removed.success());
        let serving = async { answer(&mut soon("accept", listener.accept()).await?.0, 1).await };
        let (served, asked) = futures::future::join(serving, asks(&pair.client, addr(SERVER_V4, PORT), 1)).await;
        served.and(asked)?;
        spared(second, PORT, false).await?;
        spared(SERVER_V4, PORT, true).await
    })
}

/// The stack's sockets are on the one that has gone. What comes in by the other is raw IP's.
fn an_interface_that_goes_and_one_of_its_name() -> Outcome {
    on_the_server(|pair| async move {
        let stack = packet()?;
        let (listener, _stream) = busy(&stack, SERVER_V4, SERVER_V4, &pair.client).await?;
        let removed = Command::new("ip").args(["link", "del", INTERFACE]).status()?;
        assert!(removed.success());
        rawtcp_lab::netns::veth(&pair.client, INTERFACE, &pair.server, INTERFACE)?;
        pair.client.add_address(INTERFACE, CLIENT_V4, 24)?;
        pair.server.add_address(INTERFACE, SERVER_V4, 24)?;
        let serving = async { answer(&mut soon("accept", listener.accept()).await?.0, 1).await };
        let (served, asked) = futures::future::join(serving, asks(&pair.client, addr(SERVER_V4, PORT), 1)).await;
        served.and(asked)
    })
}

/// The names of this process's threads in the network namespace of the calling one.
fn threads() -> io::Result<Vec<String>> {
    let here = std::fs::read_link("/proc/thread-self/ns/net")?;
    let tasks = std::fs::read_dir("/proc/self/task")?.flatten().map(|task| task.path());
    // One that ends meanwhile has neither.
    let name = |task: PathBuf| {
        let is_here = std::fs::read_link(task.join("ns/net")).ok()? == here;
        std::fs::read_to_string(task.join("comm")).ok().filter(|_| is_here)
    };
    Ok(tasks.filter_map(name).map(|name| name.trim().to_owned()).collect())
}

/// A program that lays down its privileges once it runs.
fn a_port_is_given_back_without_the_privilege() -> Outcome {
    on_the_server(|pair| async move {
        let stack = packet()?;
        let (listener, stream) = busy(&stack, SERVER_V4, SERVER_V4, &pair.client).await?;
        spared(SERVER_V4, PORT, true).await?;
        // The thread that has told the kernel has its privileges still, but not for long.
        soon("the end of a thread", async {
            while threads()?.iter().any(|name| name == "rawtcp-ingress") {
                tokio::time::sleep(A_WHILE).await;
            }
            Outcome::Ok(())
        })
        .await?;
        let all = capabilities(None)?;
        let least = CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN;
        set_capabilities(None, CapabilitySets { effective: least, ..capabilities(None)? })?;
        stream.set_zero_linger()?;
        drop((stream, listener));
        set_capabilities(None, all)?;
        nothing_is_left().await?;
        the_kernel_serves(addr(SERVER_V4, PORT), &pair.client).await
    })
}

/// Copies of this process's sockets to netfilter in the network namespace of the calling thread.
fn copies() -> io::Result<Vec<OwnedFd>> {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink")?;
    let netfilter = table.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        (columns.get(1) == Some(&"12")).then(|| PathBuf::from(format!("socket:[{}]", columns[columns.len() - 1])))
    });
    let (netfilter, own): (Vec<_>, _) = (netfilter.collect(), pidfd_open(getpid(), PidfdFlags::empty())?);
    let mut copies = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        // What another test closes meanwhile is none of these.
        if std::fs::read_link(entry.path()).is_ok_and(|target| netfilter.contains(&target)) {
            let number = entry.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
            copies.push(pidfd_getfd(&own, number, PidfdGetfdFlags::empty())?);
        }
    }
    Ok(copies)
}

/// As a child process has them until it runs its program.
fn the_table_goes_while_somebody_has_copies_of_our_sockets() -> Outcome {
    on_the_server(|pair| async move {
        let stack = packet()?;
        let (listener, stream) = busy(&stack, SERVER_V4, SERVER_V4, &pair.client).await?;
        spared(SERVER_V4, PORT, true).await?;
        let copies = copies()?;
        assert_eq!(copies.len(), 1, "the stack has one such socket");
        stream.set_zero_linger()?;
        drop((stream, listener));
        stack.close().await;
        nothing_is_left().await
    })
}

/// Or it would keep what follows the first for half a minute, and soon have no memory for other fragments.
fn fragments_reach_the_kernel_whole() -> Outcome {
    on_the_server(|pair| async move {
        let stack = packet()?;
        let (_listener, _stream) = busy(&stack, SERVER_V4, SERVER_V4, &pair.client).await?;
        let incomplete = || -> io::Result<String> {
            let all = std::fs::read_to_string("/proc/thread-self/net/sockstat")?;
            all.lines().find(|line| line.starts_with("FRAG:")).map(str::to_owned).ok_or(io::ErrorKind::NotFound.into())
        };
        there(&pair.client, || async {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::TCP))?;
            let to = socket2::SockAddr::from(addr(SERVER_V4, 0));
            let mut segment = vec![0; 4000];
            segment[2..4].copy_from_slice(&PORT.to_be_bytes());
            segment[12] = 5 << 4;
            for _ in 0..20 {
                socket.send_to(&segment, &to)?;
            }
            Ok(())
        })
        .await?;
        let before = seen_by_the_kernel()?;
        asks(&pair.client, addr(SERVER_V6, PORT + 1), 0).await.unwrap_err();
        assert!(seen_by_the_kernel()? > before, "what was sent later has come");
        assert_eq!(incomplete()?, "FRAG: inuse 0 memory 0");
        Ok(())
    })
}

/// Address translation takes ports without asking sockets: answers to others may come to ours.
fn client_ports_of_a_router_are_not_spared() -> Outcome {
    for (forwards, expected) in [("0", true), ("1", false)] {
        on_the_server(move |pair| async move {
            pair.server.set_sysctl("net.ipv4.ip_forward", forwards)?;
            pair.server.set_sysctl("net.ipv6.conf.all.forwarding", "0")?;
            let stack = packet()?;
            let (ready, is_ready) = oneshot::channel();
            let serving = there(&pair.client, || async move {
                let listener = kernel_listener(addr(CLIENT_V4, PORT)).await?;
                let _ = ready.send(());
                answer(&mut soon("accept", listener.accept()).await?.0, ENOUGH).await
            });
            let asking = async {
                is_ready.await?;
                let mut stream = soon("connect", stack.connect(addr(CLIENT_V4, PORT))).await?;
                ask(&mut stream, ENOUGH).await?;
                let local = stream.local_addr()?;
                spared(local.ip(), local.port(), expected).await
            };
            let (served, asked) = futures::future::join(serving, asking).await;
            served.and(asked)
        })?;
    }
    Ok(())
}

fn switched_off() -> Outcome {
    on_the_server(|pair| async move {
        let stack = Stack::builder().device(Device::Auto).ingress_drop(false).build()?;
        let before = seen_by_the_kernel()?;
        let _busy = busy(&stack, SERVER_V4, SERVER_V4, &pair.client).await?;
        let seen = seen_by_the_kernel()? - before;
        assert!(seen > ENOUGH as u64 / 2, "the kernel was spared all but {seen}");
        assert_eq!(rules()?, "");
        Ok(())
    })
}

/// CAP_NET_RAW is all that a stack needs. (CAP_SYS_ADMIN is for the test, which goes to another namespace.)
fn without_the_privilege_the_guard_does_it() -> Outcome {
    on_the_server(|pair| async move {
        let least = CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN;
        set_capabilities(None, CapabilitySets { effective: least, permitted: least, ..capabilities(None)? })?;
        for (ip, bound) in WHERE {
            let stack = packet()?;
            let before = seen_by_the_kernel()?;
            let (listener, stream) = busy(&stack, bound, ip, &pair.client).await?;
            let seen = seen_by_the_kernel()? - before;
            assert!(seen > ENOUGH as u64 / 2, "the kernel was spared all but {seen}");
            assert_kernel_sent_no_reset()?;
            drop((stream, listener));
            stack.close().await;
        }
        Ok(())
    })
}
