//! Connects that fail, with the errors that tokio's own give.

use crate::common::{Outcome, addr, builder, role, soon, stack};
use crate::tests;
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{Pair, Routed, SERVER_V4, SERVER_V6};
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

tests!(
    refused,
    no_route,
    unreachable_by_a_router,
    a_black_hole_times_out_by_the_user_timeout,
    bind_to_a_foreign_address,
    bind_in_use_by_the_kernel,
    bind_in_use_by_ourselves,
    connect_to_multicast,
    no_privilege,
);

fn look(error: &Error) -> (ErrorKind, Option<i32>) {
    (error.kind(), error.raw_os_error())
}

/// The same connect by the kernel and by us, in the same namespace.
fn both(host: &Namespace, to: SocketAddr) -> Result<[Error; 2], Box<dyn std::error::Error + Send + Sync>> {
    host.spawn_tokio(move || async move {
        let kernel = soon("the kernel's connect", tokio::net::TcpStream::connect(to)).await.err();
        let stack = stack()?;
        let start = Instant::now();
        let ours = soon("our connect", stack.connect(to)).await.err();
        assert!(start.elapsed() < Duration::from_secs(10), "at once, not by a time-out");
        Ok([kernel.ok_or("the kernel connected")?, ours.ok_or("we connected")?])
    })
    .join()
}

fn refused() -> Outcome {
    let pair = Pair::new()?;
    for ip in [SERVER_V4, SERVER_V6] {
        let [kernel, ours] = both(&pair.client, addr(ip, 4400))?;
        assert_eq!(look(&ours), (ErrorKind::ConnectionRefused, Some(111)));
        assert_eq!(look(&ours), look(&kernel));
    }
    Ok(())
}

fn no_route() -> Outcome {
    let pair = Pair::new()?;
    for ip in ["192.0.2.1", "2001:db8::1"] {
        let [kernel, ours] = both(&pair.client, addr(ip.parse()?, 4400))?;
        assert_eq!(look(&ours), look(&kernel));
        assert_eq!(ours.raw_os_error(), Some(101));
    }
    Ok(())
}

/// The router has no route and says so: ICMP.
fn unreachable_by_a_router() -> Outcome {
    let net = Routed::new()?;
    for ip in ["192.0.2.1", "2001:db8::1"] {
        let [kernel, ours] = both(&net.client, addr(ip.parse()?, 4400))?;
        assert_eq!(look(&ours), look(&kernel), "{ip}");
    }
    Ok(())
}

fn a_black_hole_times_out_by_the_user_timeout() -> Outcome {
    let pair = Pair::new()?;
    // A neighbour that does not exist: frames leave and nothing comes back.
    let IpAddr::V4(server) = SERVER_V4 else { unreachable!("the server's first address is IPv4") };
    let nobody = Ipv4Addr::from_bits(server.to_bits() + 77);
    pair.client.add_neighbour(rawtcp_lab::topology::INTERFACE, nobody.into(), [2, 0, 0, 0, 0, 99])?;
    pair.client
        .spawn_tokio(move || async move {
            let stack = builder().user_timeout(Some(Duration::from_millis(1500))).build()?;
            let start = Instant::now();
            let error = soon("the time-out", stack.connect(addr(nobody.into(), 4400))).await.expect_err("nobody there");
            assert_eq!(look(&error), (ErrorKind::TimedOut, Some(110)));
            assert!(start.elapsed() >= Duration::from_millis(1500));
            Outcome::Ok(())
        })
        .join()
}

fn bind_to_a_foreign_address() -> Outcome {
    let host = Namespace::new("host")?;
    host.spawn_tokio(|| async {
        let at = "192.0.2.7:4400";
        let kernel = tokio::net::TcpListener::bind(at).await.expect_err("not our address");
        let ours = stack()?.bind(at).await.expect_err("not our address");
        assert_eq!(look(&ours), look(&kernel));
        Outcome::Ok(())
    })
    .join()
}

fn bind_in_use_by_the_kernel() -> Outcome {
    let host = Namespace::new("host")?;
    host.spawn_tokio(|| async {
        let stack = stack()?;
        for at in ["127.0.0.1:4400", "[::1]:4400"] {
            let kernel = tokio::net::TcpListener::bind(at).await?;
            let error = stack.bind(at).await.expect_err("in use");
            assert_eq!(look(&error), (ErrorKind::AddrInUse, Some(98)));
            drop(kernel);
            let ours = stack.bind(at).await?;
            let error = tokio::net::TcpListener::bind(at).await.expect_err("in use");
            assert_eq!(look(&error), (ErrorKind::AddrInUse, Some(98)));
            drop(ours);
            // Free again as soon as the guard is gone.
            tokio::net::TcpListener::bind(at).await?;
        }
        Outcome::Ok(())
    })
    .join()
}

fn bind_in_use_by_ourselves() -> Outcome {
    let host = Namespace::new("host")?;
    host.spawn_tokio(|| async {
        let (one, two) = (stack()?, stack()?);
        let first = one.bind("127.0.0.1:4400").await?;
        for other in [&one, &two] {
            let error = other.bind("127.0.0.1:4400").await.expect_err("in use");
            assert_eq!(look(&error), (ErrorKind::AddrInUse, Some(98)));
        }
        // Another address with the same port is another matter.
        two.bind("127.0.0.2:4400").await?;
        drop(first);
        two.bind("127.0.0.1:4400").await?;
        Outcome::Ok(())
    })
    .join()
}

fn connect_to_multicast() -> Outcome {
    let pair = Pair::new()?;
    for ip in ["224.0.0.1", "255.255.255.255"] {
        let [kernel, ours] = both(&pair.client, addr(ip.parse()?, 4400))?;
        assert_eq!(look(&ours), look(&kernel), "{ip}");
    }
    Ok(())
}

/// Gives up all capabilities of this thread.
pub(crate) fn drop_capabilities() -> std::io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// The role of a child: drops CAP_NET_RAW and says what the first call answers.
pub(crate) fn without_privilege(at: &str) -> Outcome {
    drop_capabilities()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let error = runtime.block_on(rawtcp::net::TcpListener::bind(at)).expect_err("no privilege");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    println!("{error}");
    Ok(())
}

/// One error that names the capability, the commands, and the way without.
fn no_privilege() -> Outcome {
    let host = Namespace::new("host")?;
    let output = host.output(&mut role("without-privilege 127.0.0.1:4400")?)?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["CAP_NET_RAW", "setcap cap_net_raw+ep", "unshare", "RAWTCP_DEVICE=loopback"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    Ok(())
}
