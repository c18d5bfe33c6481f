//! Namespaces, interfaces, topologies.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rawtcp_lab::netns::{Feature, Namespace};
use rawtcp_lab::topology::{
    CLIENT_V4, INTERFACE, Pair, ROUTED_SERVER_V4, ROUTED_SERVER_V6, Routed, SERVER_V4, SERVER_V6,
};

use super::{Result, echo};

fn current() -> std::io::Result<std::path::PathBuf> {
    fs::read_link("/proc/thread-self/ns/net")
}

pub(crate) fn are_separate() -> Result {
    let outside = current()?;
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    let (in_a, in_b) = (a.run(current)?, b.run(current)?);
    assert!(in_a != in_b && in_a != outside && in_b != outside);
    assert_eq!(current()?, outside, "the caller stays where it was");
    // The same port in each, and loopback works.
    let listen = || TcpListener::bind("127.0.0.1:7");
    let _listeners = (a.run(listen)?, b.run(listen)?);
    a.run(|| std::net::TcpStream::connect("127.0.0.1:7"))?;
    // Sysctls are per namespace.
    a.set_sysctl("net.ipv4.ip_forward", "1")?;
    assert_eq!((a.sysctl("net.ipv4.ip_forward")?, b.sysctl("net.ipv4.ip_forward")?), ("1".into(), "0".into()));
    assert!(a.set_sysctl("net.ipv4.no_such_thing", "1").is_err());
    Ok(())
}

pub(crate) fn tasks_and_programs_run_inside() -> Result {
    let namespace = Namespace::new("inside")?;
    let expected = namespace.run(current)?;
    assert_eq!(namespace.spawn(current).join()?, expected);
    assert_eq!(namespace.spawn_tokio(async || current()).join()?, expected);
    let everywhere = namespace.spawn_tokio_threads(2, async || -> Result<_> {
        let worker = tokio::spawn(async { current() }).await??;
        let blocking = tokio::task::spawn_blocking(current).await??;
        Ok([worker, blocking])
    });
    assert_eq!(everywhere.join()?, [expected.clone(), expected.clone()]);
    let output = namespace.output(Command::new("readlink").arg("/proc/self/ns/net"))?;
    assert_eq!(String::from_utf8(output.stdout)?.trim(), expected.to_str().ok_or("not text")?);
    // A panic inside goes on outside.
    let panicked = std::panic::catch_unwind(|| namespace.run(|| std::panic::resume_unwind(Box::new(7))));
    assert!(panicked.is_err());
    let mut program = namespace.start(Command::new("sleep").arg("1000"))?;
    assert!(program.child().try_wait()?.is_none());
    assert!(!program.terminate()?.success());
    Ok(())
}

pub(crate) fn vanish_with_their_last_user() -> Result {
    let pair = Pair::new()?;
    let (client, server) = (pair.client.clone(), pair.server);
    drop(pair.client);
    server.interface_index(INTERFACE)?;
    assert!(client.as_fd().try_clone_to_owned().is_ok());
    drop(client);
    // With the namespace goes its end of the pair, and with that the other; the kernel takes its time.
    for _ in 0..600 {
        if server.interface_index(INTERFACE).is_err() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err("the interface is still there".into())
}

pub(crate) fn pair_talks_both_families() -> Result {
    let pair = Pair::new()?;
    for to in [SERVER_V4, SERVER_V6] {
        assert!(echo(&pair.client, &pair.server, to, 1 << 20)?, "{to}");
    }
    assert!(echo(&pair.server, &pair.client, CLIENT_V4, 1000)?);
    Ok(())
}

pub(crate) fn routed_hosts_talk_through_the_router() -> Result {
    let routed = Routed::new()?;
    for to in [ROUTED_SERVER_V4, ROUTED_SERVER_V6] {
        assert!(echo(&routed.client, &routed.server, to, 100_000)?, "{to}");
    }
    routed.router.set_link_up("server", false)?;
    assert!(routed.client.run(|| std::net::TcpStream::connect((ROUTED_SERVER_V4, 9))).is_err());
    Ok(())
}

pub(crate) fn offloads_and_mtu_can_be_set() -> Result {
    let pair = Pair::new()?;
    assert!(pair.client.offload(INTERFACE, Feature::Tso)?, "veth segments by default");
    pair.client.set_offload(INTERFACE, Feature::Tso, false)?;
    assert!(!pair.client.offload(INTERFACE, Feature::Tso)? && pair.client.offload(INTERFACE, Feature::TxChecksum)?);
    pair.client.disable_offloads(INTERFACE)?;
    for feature in Feature::ALL {
        assert!(!pair.client.offload(INTERFACE, feature)?, "{feature:?}");
    }
    pair.set_mtu(1280)?;
    assert!(echo(&pair.client, &pair.server, SERVER_V6, 100_000)?);
    assert!(pair.client.set_mtu("eth7", 1280).is_err());
    Ok(())
}
