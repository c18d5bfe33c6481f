use super::avoided::{AVOID, MAX_AVOIDED};
use super::client::MIN_TRIES;
use super::*;
use crate::device::Device;
use crate::sync::{Arc, Mutex, lock};
use rawtcp_io::PacketIo;
use rawtcp_proto::Instant;

fn devices() -> Devices {
    let (io, _) = rawtcp_io::mem::pair(rawtcp_io::mem::MemConfig::default());
    let addresses = ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|ip| ip.parse().unwrap()).to_vec();
    Devices::open(&Device::Own { io: Arc::new(io), addresses }, 1).unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const ADDR: Reuse = Reuse { addr: true, port: false };

fn request(addr: SocketAddr, v6only: bool, reuse: Reuse) -> Bind {
    Bind { addr, v6only, reuse, device: None }
}

impl Ports {
    fn listen(&self, devices: &Devices, addr: SocketAddr, v6only: bool) -> io::Result<SocketAddr> {
        let local = self.bind(devices, &request(addr, v6only, ADDR))?;
        self.begin_listen(local)?;
        Ok(local)
    }
}

#[test]
fn listeners_that_overlap_exclude_each_other() {
    let table = [
        ("10.0.0.1:80", false, "10.0.0.1:80", false, false),
        ("10.0.0.1:80", false, "10.0.0.2:80", false, true),
        ("10.0.0.1:80", false, "10.0.0.1:81", false, true),
        ("10.0.0.1:80", false, "0.0.0.0:80", false, false),
        ("0.0.0.0:80", false, "10.0.0.1:80", false, false),
        ("0.0.0.0:80", false, "[::]:80", false, false),
        ("0.0.0.0:80", false, "[::]:80", true, true),
        ("[::]:80", false, "10.0.0.1:80", false, false),
        ("[::]:80", true, "10.0.0.1:80", false, true),
        ("[::]:80", true, "[fd00::1]:80", true, false),
    ];
    for (first, first_v6only, second, second_v6only, fits) in table {
        let (ports, devices) = (Ports::new(&[1; 32]), devices());
        ports.listen(&devices, addr(first), first_v6only).unwrap();
        let result = ports.listen(&devices, addr(second), second_v6only);
        assert_eq!(result.is_ok(), fits, "{first} {second}");
        ports.unlisten(&devices, addr(first));
        if !fits {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::AddrInUse);
            ports.listen(&devices, addr(second), second_v6only).unwrap();
        }
    }
}

#[test]
fn sockets_share_a_port_as_their_options_say() {
    let none = Reuse::default();
    let port = Reuse { addr: false, port: true };
    // First socket, whether it listens, second socket; whether that may be bound, and may listen.
    let table = [
        (none, false, none, false, false),
        (none, false, ADDR, false, false),
        (ADDR, false, none, false, false),
        (ADDR, false, ADDR, true, true),
        (ADDR, true, ADDR, false, false),
        (port, false, port, true, true),
        (port, true, port, true, true),
        (port, true, ADDR, false, false),
        (port, true, none, false, false),
    ];
    for (first, listens, second, may_bind, may_listen) in table {
        let case = format!("{first:?} {listens} {second:?}");
        let (ports, devices, at) = (Ports::new(&[1; 32]), devices(), addr("10.0.0.1:80"));
        ports.bind(&devices, &request(at, false, first)).unwrap();
        if listens {
            ports.begin_listen(at).unwrap();
        }
        let bound = ports.bind(&devices, &request(at, false, second));
        assert_eq!(bound.is_ok(), may_bind, "{case}");
        if may_bind {
            assert_eq!(ports.begin_listen(at).is_ok(), may_listen, "{case}");
            ports.release(&devices, at);
        }
        ports.release(&devices, at);
        assert_eq!(ports.len(), 0, "{case}");
    }
}

#[test]
fn a_port_is_ours_until_its_last_user_is_gone() {
    let (ports, devices) = (Ports::new(&[1; 32]), devices());
    let at = addr("10.0.0.1:80");
    ports.listen(&devices, addr("0.0.0.0:80"), false).unwrap();
    assert!(ports.retain(at));
    ports.unlisten(&devices, addr("0.0.0.0:80"));
    assert_eq!(ports.ownership(at), Ownership::Ours { listens: false });
    // Only a connection is left: a new listener takes over the guard, narrower or not.
    ports.listen(&devices, at, false).unwrap();
    assert_eq!(ports.listen(&devices, at, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    ports.release(&devices, at);
    ports.unlisten(&devices, at);
    assert_eq!((ports.ownership(at), ports.len()), (Ownership::NotOurs, 0));
    assert!(ports.has_no_users());
    // A connection whose listener has just gone has no share of anything.
    assert!(!ports.retain(at));
    assert_eq!(ports.len(), 0);
}

#[test]
fn an_address_is_the_same_in_whatever_words() {
    let table = [
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ("[::ffff:0.0.0.0]:80", "10.0.0.2:80"),
        ("[fd00::1%7]:80", "[fd00::1]:80"),
    ];
    for (words, meant) in table {
        let (ports, devices) = (Ports::new(&[1; 32]), devices());
        let local = ports.listen(&devices, addr(words), false).unwrap();
        assert_eq!((local, ports.ownership(addr(meant))), (addr(words), Ownership::Ours { listens: true }), "{words}");
        assert!(ports.listen(&devices, addr(meant), false).is_err(), "{words}");
        assert!(ports.retain(addr(meant)));
        ports.unlisten(&devices, local);
        ports.release(&devices, addr(meant));
        assert_eq!(ports.len(), 0, "{words}");
    }
}

#[test]
fn a_guard_for_ipv6_only_does_not_serve_a_listener_for_both() {
    for (first, second, fits) in [(true, false, false), (false, true, true), (true, true, true)] {
        let (ports, devices) = (Ports::new(&[1; 32]), devices());
        ports.listen(&devices, addr("[::]:80"), first).unwrap();
        assert!(ports.retain(addr("[fd00::1]:80")));
        ports.unlisten(&devices, addr("[::]:80"));
        assert_eq!(ports.listen(&devices, addr("[::]:80"), second).is_ok(), fits, "{first} {second}");
    }
}

#[test]
fn a_filter_that_could_not_be_set_is_set_again() {
    #[derive(Debug)]
    struct Refuses(std::sync::atomic::AtomicBool, Mutex<PortSet>, std::os::unix::net::UnixDatagram);
    impl rawtcp_io::PacketIo for Refuses {
        fn name(&self) -> &str {
            "refuses"
        }
        fn capabilities(&self) -> rawtcp_io::Capabilities {
            rawtcp_io::Capabilities { mtu: 1500, max_segmentable: 0, tx_checksum: false, max_batch: 1, frames: false }
        }
        fn recv(&self, _: &mut rawtcp_io::RxBatch) -> io::Result<rawtcp_io::Drained> {
            Ok(rawtcp_io::Drained::Yes)
        }
        fn send(&self, packets: &[rawtcp_io::TxPacket<'_>]) -> (usize, Option<rawtcp_io::SendError>) {
            (packets.len(), None)
        }
        fn ready_source(&self) -> rawtcp_io::ReadySource<'_> {
            rawtcp_io::ReadySource::Fd(std::os::fd::AsFd::as_fd(&self.2))
        }
        fn drops(&self) -> u64 {
            0
        }
        fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
            if self.0.swap(false, std::sync::atomic::Ordering::SeqCst) {
                return Err(error::os(error::EINVAL));
            }
            *lock(&self.1) = ports.clone();
            Ok(())
        }
        fn recv_queue_bytes(&self) -> usize {
            0
        }
    }
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let io = Arc::new(Refuses(true.into(), Mutex::default(), socket));
    let addresses = vec!["10.0.0.1".parse().unwrap()];
    let devices = Devices::open(&Device::Own { io: io.clone(), addresses }, 1).unwrap();
    let ports = Ports::new(&[1; 32]);
    assert!(ports.listen(&devices, addr("10.0.0.1:80"), false).is_err());
    assert_eq!(ports.len(), 0);
    ports.listen(&devices, addr("10.0.0.1:80"), false).unwrap();
    assert!(lock(&io.1).contains(80));
}

#[test]
fn connects_share_ports_and_leave_them_to_rest() {
    let (ports, devices) = (Ports::new(&[1; 32]), devices());
    let source = addr("10.0.0.1:0");
    let taken = std::cell::RefCell::new(std::collections::HashSet::new());
    let connect = |peer: SocketAddr| {
        ports.connect(&devices, Instant::ZERO, source, peer, |local| {
            taken.borrow_mut().insert((local, peer)).then_some((local, false))
        })
    };
    let peers: Vec<_> = (1..=20).map(|port| SocketAddr::from(([10, 9, 9, 9], port))).collect();
    let mut locals = Vec::new();
    for _ in 0..5 {
        locals.extend(peers.iter().map(|peer| connect(*peer).unwrap()));
    }
    assert!(ports.len() <= 10, "{}", ports.len());
    // A listener may not have a port in use, but one that rests.
    assert!(ports.listen(&devices, locals[0], false).is_err());
    locals.iter().for_each(|local| ports.release(&devices, *local));
    assert!(ports.has_no_users() && ports.len() > 0);
    ports.listen(&devices, locals[0], false).unwrap();
    ports.unlisten(&devices, locals[0]);
    // A TIME-WAIT record's place is taken over with its share of the guard.
    let local = ports.connect(&devices, Instant::ZERO, source, peers[0], |local| Some((local, false))).unwrap();
    ports.release(&devices, local);
    assert!(ports.has_no_users());
}

#[test]
fn idle_guards_are_bounded() {
    let (ports, devices) = (Ports::new(&[1; 32]), devices());
    let peer = addr("10.9.9.9:1");
    let mut used = std::collections::HashSet::new();
    let mut locals = Vec::new();
    for _ in 0..200 {
        let claim = |local| used.insert(local).then_some((local, false));
        locals.push(ports.connect(&devices, Instant::ZERO, addr("10.0.0.2:0"), peer, claim).unwrap());
    }
    assert_eq!(ports.len(), 200);
    locals.iter().for_each(|local| ports.release(&devices, *local));
    assert_eq!(ports.len(), MAX_IDLE);
}

#[test]
fn a_connect_looks_at_a_bounded_number_of_ports_unless_there_is_no_other() {
    const CONNECTIONS: usize = 3000;
    let (ports, devices) = (Ports::new(&[1; 32]), devices());
    let (source, peer) = (addr("10.0.0.1:0"), addr("10.9.9.9:1"));
    let mut used = std::collections::HashSet::new();
    let mut connect = |free: &[SocketAddr]| {
        free.iter().for_each(|local| assert!(used.remove(local)));
        let mut here = 0;
        let local = ports.connect(&devices, Instant::ZERO, source, peer, |local| {
            here += 1;
            used.insert(local).then_some((local, false))
        });
        (local, here)
    };
    let locals: Vec<_> = (0..CONNECTIONS).map(|_| connect(&[]).0.unwrap()).collect();
    // Where others have found none, few are looked at; more again once one was found, be it for another peer.
    assert_eq!((connect(&[]).1, ports.len()), (MIN_TRIES + 1, CONNECTIONS + 1));
    let other = |local| Some((local, false));
    ports.connect(&devices, Instant::ZERO, source, addr("10.9.9.9:2"), other).unwrap();
    assert_eq!((connect(&[]).1, ports.len()), (MAX_TRIES + 1, CONNECTIONS + 2));
    // Where no port is left, all are looked at.
    ports.lock().limit = ports.len();
    assert_eq!(connect(&[]).0.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    ports.release(&devices, locals[700]);
    assert_eq!(connect(&[locals[700]]).0.unwrap(), locals[700]);
}

/// Delivers nothing, and remembers its filters.
#[derive(Debug)]
struct Filtered {
    inner: rawtcp_io::mem::MemDevice,
    filters: Mutex<Vec<PortSet>>,
}

impl PacketIo for Filtered {
    fn name(&self) -> &str {
        "filtered"
    }
    fn capabilities(&self) -> rawtcp_io::Capabilities {
        self.inner.capabilities()
    }
    fn recv(&self, batch: &mut rawtcp_io::RxBatch) -> io::Result<rawtcp_io::Drained> {
        self.inner.recv(batch)
    }
    fn send(&self, packets: &[rawtcp_io::TxPacket<'_>]) -> (usize, Option<rawtcp_io::SendError>) {
        self.inner.send(packets)
    }
    fn ready_source(&self) -> rawtcp_io::ReadySource<'_> {
        self.inner.ready_source()
    }
    fn drops(&self) -> u64 {
        0
    }
    fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
        lock(&self.filters).push(ports.clone());
        Ok(())
    }
    fn recv_queue_bytes(&self) -> usize {
        self.inner.recv_queue_bytes()
    }
}

/// What a connection costs must not grow with those that there are.
#[test]
fn thousands_of_client_ports_change_the_filters_seldom() {
    const CONNECTIONS: usize = 5000;
    let (inner, _) = rawtcp_io::mem::pair(rawtcp_io::mem::MemConfig::default());
    let device = Arc::new(Filtered { inner, filters: Mutex::default() });
    let addresses = vec!["10.0.0.1".parse().unwrap()];
    let devices = Devices::open(&Device::Own { io: device.clone(), addresses }, 1).unwrap();
    let ports = Ports::new(&[1; 32]);
    ports.listen(&devices, addr("10.0.0.1:80"), false).unwrap();
    let mut used = std::collections::HashSet::new();
    let mut locals = Vec::new();
    for _ in 0..CONNECTIONS {
        let claim = |local| used.insert(local).then_some((local, false));
        let local = ports.connect(&devices, Instant::ZERO, addr("10.0.0.1:0"), addr("10.9.9.9:1"), claim).unwrap();
        locals.push(local);
        let filters = lock(&device.filters);
        let filter = filters.last().unwrap();
        assert!(filter.contains(80) && filter.contains(local.port()));
        // Exact where it is short, and never open between listeners and client ports.
        assert!(!filter.contains(81) && !filter.contains(20_000));
        assert!(locals.len() >= MAX_EXACT || filters.len() == locals.len() + 1);
    }
    let grown = lock(&device.filters).len();
    assert!(locals.iter().all(|local| lock(&device.filters)[grown - 1].contains(local.port())));
    locals.iter().for_each(|local| ports.release(&devices, *local));
    let all = lock(&device.filters).len();
    assert_eq!(grown, MAX_EXACT + 1);
    assert!(all - grown < 100, "{} filters on the way down", all - grown);
    // What rests is in it, and the listener.
    let filters = lock(&device.filters);
    let open: usize = filters[all - 1].ranges().map(|range| range.len()).sum();
    assert!(open > MAX_IDLE && filters[all - 1].contains(80), "{open}");
}

#[test]
fn a_four_tuple_that_was_given_up_is_not_taken_again_at_once() {
    let (ports, devices) = (Ports::new(&[1; 32]), devices());
    let (source, peer) = (addr("10.0.0.1:0"), addr("10.9.9.9:1"));
    let start = Instant::from_secs(100);
    let connect = |now, peer| {
        let local = ports.connect(&devices, now, source, peer, |local| Some((local, false))).unwrap();
        ports.release(&devices, local);
        local
    };
    let first = connect(start, peer);
    ports.avoid(start, FourTuple::new(first, peer));
    // To other peers, and when the time is over, it is as good as any.
    assert_eq!(connect(start, addr("10.9.9.9:2")), first);
    let second = connect(start + AVOID - std::time::Duration::from_millis(1), peer);
    assert_ne!(second, first);
    assert!([first, second].contains(&connect(start + AVOID, peer)));
    assert_eq!(ports.len(), 2);
    // The memory is bounded.
    (0..2 * MAX_AVOIDED as u16)
        .for_each(|port| ports.avoid(start, FourTuple::new(first, addr(&format!("10.9.9.9:{port}")))));
    assert_eq!(ports.lock().avoided.len(), MAX_AVOIDED);
}
