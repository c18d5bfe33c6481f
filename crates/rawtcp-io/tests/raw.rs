//! Raw sockets, guards and look-ups against the real kernel, in network namespaces made here. Needs root or
//! CAP_SYS_ADMIN; skips loudly without.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rawtcp_io::capture::{PcapngWriter, Tee};
use rawtcp_io::diag::{self, KernelOwner};
use rawtcp_io::wait::{Interest, poll};
use rawtcp_io::{
    Drained, Guard, GuardRequest, IcmpV4, IcmpV6, PacketIo, PortSet, RawConfig, RawIpV4, RawIpV6, ReadySource, RxBatch,
    RxChecksum, RxHeader, RxMeta, SendError, TxChecksum, TxPacket, netns, route,
};

/// Runs a test in a namespace of its own, or says that it can not.
fn isolated(name: &str, test: impl FnOnce() + Send) {
    match netns::run_in_new_namespace(test) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let text = format!("\n*** SKIPPED {name}: network namespaces need root or CAP_SYS_ADMIN ({error}) ***\n");
            // Not by eprintln!, which the test harness swallows.
            writeln!(io::stderr(), "{text}").ok();
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

fn fd(device: &dyn PacketIo) -> BorrowedFd<'_> {
    match device.ready_source() {
        ReadySource::Fd(fd) => fd,
        ReadySource::Waker(_) => panic!("a socket has a descriptor"),
    }
}

/// All packets that arrive until `wanted` are there or `patience` is over.
fn receive(device: &dyn PacketIo, wanted: usize, patience: Duration) -> Vec<(RxMeta, Vec<u8>)> {
    let (mut found, mut batch, deadline) = (Vec::new(), RxBatch::new(32), Instant::now() + patience);
    while found.len() < wanted {
        if device.recv(&mut batch).unwrap() == Drained::Yes && batch.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || poll(&mut [Interest::readable(fd(device))], Some(left)).unwrap() == 0 {
                break;
            }
        }
        found.extend(batch.iter().map(|(meta, data)| (*meta, data.to_vec())));
    }
    found
}

const SOON: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(5);

fn ports(ports: &[u16]) -> PortSet {
    ports.iter().copied().collect()
}

fn request(addr: &str) -> GuardRequest {
    GuardRequest { addr: addr.parse().unwrap(), v6only: false, device: None }
}

fn sum(data: &[u8]) -> u32 {
    data.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

/// A whole packet with a TCP segment of `flags`; `total` bytes long.
fn segment(src: SocketAddr, dst: SocketAddr, flags: u8, total: usize) -> Vec<u8> {
    let header = if dst.is_ipv4() { 20 } else { 40 };
    let mut packet = vec![0; total];
    let mut pseudo = Vec::new();
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet[0] = 0x45;
            packet[6] = 0x40;
            packet[8] = 64;
            packet[9] = 6;
            packet[12..16].copy_from_slice(&src.octets());
            packet[16..20].copy_from_slice(&dst.octets());
            pseudo.extend_from_slice(&packet[12..20]);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            packet[..2].copy_from_slice(&[0x60, 0x20]); // traffic class 2: ECT(0)
            packet[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
            packet[6] = 6;
            packet[7] = 61;
            packet[8..24].copy_from_slice(&src.octets());
            packet[24..40].copy_from_slice(&dst.octets());
            pseudo.extend_from_slice(&packet[8..40]);
        }
        _ => panic!("mixed families"),
    }
    let tcp = &mut packet[header..];
    tcp[..2].copy_from_slice(&src.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&dst.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&1000_u32.to_be_bytes());
    tcp[12] = 0x50;
    tcp[13] = flags;
    tcp[14..16].copy_from_slice(&1000_u16.to_be_bytes());
    pseudo.extend_from_slice(&[0, 6]);
    let mut total = sum(&pseudo) + sum(tcp) + (packet.len() - header) as u32;
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    packet[header + 16..header + 18].copy_from_slice(&(!(total as u16)).to_be_bytes());
    packet
}

fn send(device: &dyn PacketIo, dst: IpAddr, packet: &[u8]) -> (usize, Option<SendError>) {
    let (head, tail) = packet.split_at(20);
    let slices = [IoSlice::new(head), IoSlice::new(tail)];
    device.send(&[TxPacket {
        dst,
        scope: 0,
        link: None,
        slices: &slices,
        segment_size: 0,
        checksum: TxChecksum::Complete,
    }])
}

const SYN: u8 = 2;
const RST: u8 = 4;

/// A kernel connect to a guarded port: the raw socket sees the SYN, the kernel says nothing; without the guard it resets.
fn guard_silences(device: &dyn PacketIo, addr: &str, header: usize) {
    let guard = Guard::bind(&request(addr)).unwrap();
    assert!(!guard.is_shared());
    let local = guard.local_addr();
    device.set_ports(&ports(&[local.port()])).unwrap();
    let error = TcpStream::connect_timeout(&local, Duration::from_millis(150)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    let seen = receive(device, 1, LONG);
    assert_eq!(seen[0].1[header + 13], SYN);
    assert!(!seen[0].0.to_other);
    // IPv4 has no addresses that need it.
    assert!(header > 0 || seen[0].0.ifindex > 0);

    // We answer in the kernel's stead, and it believes us.
    device.set_ports(&ports(&[local.port()])).unwrap();
    let client = std::thread::scope(|scope| {
        let client = scope.spawn(|| TcpStream::connect_timeout(&local, LONG).unwrap_err());
        let syn = loop {
            let (_, data) = receive(device, 1, LONG).pop().expect("a SYN");
            // Retransmissions of the first SYN come from another port, of a socket already closed.
            if data[header..header + 2] != seen[0].1[header..header + 2] {
                break data;
            }
        };
        let peer = SocketAddr::new(local.ip(), u16::from_be_bytes([syn[header], syn[header + 1]]));
        let mut reset = segment(local, peer, RST | 0x10, if local.is_ipv4() { 40 } else { 60 });
        let at = reset.len() - 20;
        let ack = u32::from_be_bytes(syn[header + 4..header + 8].try_into().unwrap()).wrapping_add(1);
        reset[at + 8..at + 12].copy_from_slice(&ack.to_be_bytes());
        let mut total = u32::from(!u16::from_be_bytes([reset[at + 16], reset[at + 17]])) + (ack >> 16) + (ack & 0xffff);
        while total > 0xffff {
            total = (total >> 16) + (total & 0xffff);
        }
        reset[at + 16..at + 18].copy_from_slice(&(!(total as u16)).to_be_bytes());
        assert!(matches!(send(device, peer.ip(), &reset), (1, None)));
        client.join().unwrap()
    });
    assert_eq!(client.kind(), io::ErrorKind::ConnectionRefused);

    drop(guard);
    let start = Instant::now();
    assert_eq!(TcpStream::connect_timeout(&local, LONG).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn the_kernel_is_silent_behind_a_guard() {
    isolated("the_kernel_is_silent_behind_a_guard", || {
        guard_silences(&RawIpV4::open(&RawConfig::default()).unwrap(), "127.0.0.1:0", 20);
    });
}

#[test]
fn the_kernel_is_silent_behind_a_guard_over_ipv6() {
    isolated("the_kernel_is_silent_behind_a_guard_over_ipv6", || {
        guard_silences(&RawIpV6::open(&RawConfig::default()).unwrap(), "[::1]:0", 0);
    });
}

#[test]
fn guards_reserve_and_free_their_ports() {
    isolated("guards_reserve_and_free_their_ports", || {
        let guard = Guard::bind(&request("127.0.0.1:8080")).unwrap();
        assert_eq!(guard.local_addr(), "127.0.0.1:8080".parse().unwrap());
        for taken in ["127.0.0.1:8080", "0.0.0.0:8080", "[::]:8080"] {
            assert_eq!(Guard::bind(&request(taken)).unwrap_err().kind(), io::ErrorKind::AddrInUse, "{taken}");
        }
        assert_eq!(TcpListener::bind("127.0.0.1:8080").unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // Another address, or IPv6 only, is free.
        Guard::bind(&request("127.0.0.2:8080")).unwrap();
        Guard::bind(&GuardRequest { v6only: true, ..request("[::]:8080") }).unwrap();
        drop(guard);
        drop(TcpListener::bind("127.0.0.1:8080").unwrap());
        let again = Guard::bind(&request("127.0.0.1:8080")).unwrap();
        assert!(!again.is_shared());

        let foreign = Guard::bind(&request("192.0.2.1:80")).unwrap_err();
        assert_eq!(foreign.kind(), io::ErrorKind::AddrNotAvailable);
        // A dual-stack guard holds IPv4 too.
        let dual = Guard::bind(&request("[::]:9090")).unwrap();
        assert_eq!(TcpListener::bind("127.0.0.1:9090").unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(dual.local_addr().ip(), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    });
}

#[test]
fn a_guard_beside_live_kernel_connections_is_shared() {
    isolated("a_guard_beside_live_kernel_connections_is_shared", || {
        let listener = TcpListener::bind("127.0.0.1:7070").unwrap();
        let mut client = TcpStream::connect("127.0.0.1:7070").unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(Guard::bind(&request("127.0.0.1:7070")).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let guard = Guard::bind(&request("127.0.0.1:7070")).unwrap();
        assert!(guard.is_shared());
        // The connection goes on, and the kernel is known to own it.
        client.write_all(b"still here").unwrap();
        let mut data = [0; 10];
        server.read_exact(&mut data).unwrap();
        assert_eq!(&data, b"still here");
        let ours = guard.local_addr();
        assert_eq!(diag::owner(ours, peer).unwrap(), KernelOwner::Connection);
        let stranger = SocketAddr::new(peer.ip(), peer.port() ^ 1);
        assert_eq!(diag::owner(ours, stranger).unwrap(), KernelOwner::Nobody);
    });
}

#[test]
fn filters_let_exactly_their_ports_through() {
    isolated("filters_let_exactly_their_ports_through", || {
        let v4 = RawIpV4::open(&RawConfig::default()).unwrap();
        let v6 = RawIpV6::open(&RawConfig::default()).unwrap();
        let many: PortSet = (0..100).map(|i| 1000 + 10 * i).collect();
        for (device, ip, total) in [
            (&v4 as &dyn PacketIo, IpAddr::V4(Ipv4Addr::LOCALHOST), 40),
            (&v6 as &dyn PacketIo, IpAddr::V6(Ipv6Addr::LOCALHOST), 60),
        ] {
            for set in [PortSet::new(), ports(&[5000, 5001, 5002, 6000]), many.clone(), PortSet::all()] {
                device.set_ports(&set).unwrap();
                let tried = [999, 1000, 1001, 1500, 1990, 1991, 4999, 5000, 5002, 5003, 6000, 65535];
                for port in tried {
                    let packet = segment(SocketAddr::new(ip, 1), SocketAddr::new(ip, port), RST, total);
                    assert!(matches!(send(device, ip, &packet), (1, None)));
                }
                let wanted: Vec<u16> = tried.into_iter().filter(|port| set.contains(*port)).collect();
                let header = if ip.is_ipv4() { 20 } else { 0 };
                let seen: Vec<u16> = receive(device, wanted.len() + 1, SOON)
                    .iter()
                    .map(|(_, data)| u16::from_be_bytes([data[header + 2], data[header + 3]]))
                    .collect();
                assert_eq!(seen, wanted, "{set:?}");
            }
            assert_eq!((device.drops(), device.truncated()), (0, 0), "what a filter drops is not lost");
        }
    });
}

#[test]
fn ipv6_metadata_comes_as_control_data() {
    isolated("ipv6_metadata_comes_as_control_data", || {
        let device = RawIpV6::open(&RawConfig::default()).unwrap();
        device.set_ports(&ports(&[77])).unwrap();
        let (src, dst): (SocketAddr, SocketAddr) = ("[::1]:76".parse().unwrap(), "[::1]:77".parse().unwrap());
        let packet = segment(src, dst, RST, 60);
        assert!(matches!(send(&device, dst.ip(), &packet), (1, None)));
        let (meta, data) = receive(&device, 1, LONG).pop().unwrap();
        let localhost = Ipv6Addr::LOCALHOST;
        let header =
            RxHeader::Stripped { src: localhost, dst: localhost, next_header: 6, hop_limit: 61, traffic_class: 2 };
        assert_eq!((meta.header, meta.checksum, data), (header, RxChecksum::Unknown, packet[40..].to_vec()));
    });
}

#[test]
fn the_largest_packets_pass_lo_whole_and_larger_ones_are_too_big() {
    isolated("the_largest_packets_pass_lo_whole_and_larger_ones_are_too_big", || {
        let v4 = RawIpV4::open(&RawConfig::default()).unwrap();
        let v6 = RawIpV6::open(&RawConfig::default()).unwrap();
        for (device, ip) in
            [(&v4 as &dyn PacketIo, IpAddr::V4(Ipv4Addr::LOCALHOST)), (&v6, IpAddr::V6(Ipv6Addr::LOCALHOST))]
        {
            device.set_ports(&ports(&[77])).unwrap();
            let mut packet = segment(SocketAddr::new(ip, 1), SocketAddr::new(ip, 77), RST, 65_535);
            assert!(matches!(send(device, ip, &packet), (1, None)), "{ip}");
            let mut batch = RxBatch::new(4);
            poll(&mut [Interest::readable(fd(device))], Some(LONG)).unwrap();
            assert_eq!(device.recv(&mut batch).unwrap(), Drained::Yes);
            let owner = batch.owner(0).expect("large packets have an owner");
            let stripped = if ip.is_ipv4() { 0 } else { 40 };
            assert_eq!((owner.len(), batch.packet(0).1.len()), (65_535 - stripped, 65_535 - stripped));
            packet.resize(65_600, 0);
            assert!(matches!(send(device, ip, &packet), (0, Some(SendError::TooBig))), "{ip}");
        }
    });
}

/// The kernel takes 1,024 pieces at most.
#[test]
fn packets_in_thousands_of_pieces_leave_between_others() {
    isolated("packets_in_thousands_of_pieces_leave_between_others", || {
        let device = RawIpV4::open(&RawConfig::default()).unwrap();
        device.set_ports(&ports(&[77])).unwrap();
        let localhost = Ipv4Addr::LOCALHOST;
        let packets: Vec<Vec<u8>> = [1, 2, 3, 4]
            .map(|from| {
                segment((localhost, from).into(), (localhost, 77).into(), RST, if from % 2 == 0 { 9000 } else { 50 })
            })
            .to_vec();
        let pieces: Vec<Vec<IoSlice<'_>>> = packets
            .iter()
            .map(|packet| {
                let (headers, payload) = packet.split_at(40);
                [headers].into_iter().chain(payload.chunks(1)).map(IoSlice::new).collect()
            })
            .collect();
        let all: Vec<TxPacket<'_>> = pieces
            .iter()
            .map(|slices| TxPacket {
                dst: localhost.into(),
                scope: 0,
                link: None,
                slices,
                segment_size: 0,
                checksum: TxChecksum::Complete,
            })
            .collect();
        let (sent, error) = device.send(&all);
        assert_eq!((sent, error.map(|error| error.to_string())), (4, None));
        let received = receive(&device, 4, LONG);
        let behind_ip = |packet: &[u8]| packet[20..].to_vec();
        let received: Vec<_> = received.iter().map(|(_, data)| behind_ip(data)).collect();
        assert_eq!(received, packets.iter().map(|packet| behind_ip(packet)).collect::<Vec<_>>());
    });
}

#[test]
fn a_batch_goes_out_in_order_up_to_the_packet_that_fails() {
    isolated("a_batch_goes_out_in_order_up_to_the_packet_that_fails", || {
        let device = RawIpV4::open(&RawConfig::default()).unwrap();
        device.set_ports(&PortSet::all()).unwrap();
        let localhost = Ipv4Addr::LOCALHOST;
        let packets: Vec<Vec<u8>> =
            (1..=100).map(|port| segment((localhost, 1).into(), (localhost, port).into(), RST, 40)).collect();
        let slices: Vec<[IoSlice<'_>; 1]> = packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
        let transmit = |i: usize, dst: Ipv4Addr| TxPacket {
            dst: dst.into(),
            scope: 0,
            link: None,
            slices: &slices[i],
            segment_size: 0,
            checksum: TxChecksum::Complete,
        };
        let mut all: Vec<TxPacket<'_>> = (0..100).map(|i| transmit(i, localhost)).collect();
        all[70] = transmit(70, Ipv4Addr::new(192, 0, 2, 1)); // no route here
        let (sent, error) = device.send(&all);
        assert!(matches!(error, Some(SendError::Unreachable(_))), "{error:?}");
        assert_eq!(sent, 70);
        assert!(matches!(device.send(&all[71..]), (29, None)));
        let seen: Vec<u16> =
            receive(&device, 99, LONG).iter().map(|(_, data)| u16::from_be_bytes([data[22], data[23]])).collect();
        assert_eq!(seen, (1..=100).filter(|port| *port != 71).collect::<Vec<u16>>());
    });
}

#[test]
fn losses_of_a_full_queue_are_counted_exactly() {
    isolated("losses_of_a_full_queue_are_counted_exactly", || {
        let device = RawIpV4::open(&RawConfig { recv_buffer: 64 << 10, device: None, ..RawConfig::default() }).unwrap();
        assert_eq!(device.recv_queue_bytes(), 64 << 10);
        device.set_ports(&ports(&[77])).unwrap();
        let localhost = Ipv4Addr::LOCALHOST;
        let packet = segment((localhost, 1).into(), (localhost, 77).into(), RST, 1500);
        for _ in 0..200 {
            assert!(matches!(send(&device, localhost.into(), &packet), (1, None)));
        }
        let kept = receive(&device, 200, SOON).len();
        assert!(kept < 200);
        assert_eq!(device.drops(), 200 - kept as u64);
    });
}

/// What one receive brings is acknowledged as a whole, and invites the sender to send as much at once.
#[test]
fn large_packets_come_a_few_at_a_time() {
    isolated("large_packets_come_a_few_at_a_time", || {
        let device = RawIpV4::open(&RawConfig::default()).unwrap();
        device.set_ports(&ports(&[77])).unwrap();
        let localhost = Ipv4Addr::LOCALHOST;
        let mut batch = RxBatch::new(64);
        let mut receives = |length: usize, packets: usize| -> Vec<usize> {
            let packet = segment((localhost, 1).into(), (localhost, 77).into(), RST, length);
            for _ in 0..packets {
                assert!(matches!(send(&device, localhost.into(), &packet), (1, None)));
            }
            std::iter::from_fn(|| {
                device.recv(&mut batch).unwrap();
                Some(batch.len()).filter(|&len| len > 0)
            })
            .collect()
        };
        assert_eq!(receives(65_000, 20), [8, 8, 4]);
        assert_eq!(receives(100, 40), [8, 16, 16]);
        assert_eq!(receives(65_000, 40), [32, 8]);
    });
}

#[test]
fn broadcast_is_told_apart_and_not_sent() {
    isolated("broadcast_is_told_apart_and_not_sent", || {
        let device = RawIpV4::open(&RawConfig::default()).unwrap();
        device.set_ports(&ports(&[77])).unwrap();
        let localhost = Ipv4Addr::LOCALHOST;
        let broadcast = Ipv4Addr::new(127, 255, 255, 255);
        let packet = segment((localhost, 1).into(), (broadcast, 77).into(), SYN, 40);
        // Without SO_BROADCAST the kernel refuses to send it, which is what a TCP wants.
        assert!(matches!(send(&device, broadcast.into(), &packet), (0, Some(SendError::Unreachable(_)))));

        let raw = socket2::Type::RAW;
        let sender = socket2::Socket::new(socket2::Domain::IPV4, raw, Some(socket2::Protocol::TCP)).unwrap();
        sender.set_header_included_v4(true).unwrap();
        sender.set_broadcast(true).unwrap();
        sender.send_to(&packet, &SocketAddr::new(broadcast.into(), 0).into()).unwrap();
        let other = segment((localhost, 1).into(), ([127, 0, 0, 9], 77).into(), SYN, 40);
        assert!(matches!(send(&device, [127, 0, 0, 9].into(), &other), (1, None)));
        let to_other: Vec<bool> = receive(&device, 2, LONG).iter().map(|(meta, _)| meta.to_other).collect();
        assert_eq!(to_other, [true, false]);
    });
}

#[test]
fn icmp_errors_about_tcp_arrive_and_others_do_not() {
    isolated("icmp_errors_about_tcp_arrive_and_others_do_not", || {
        let errors = IcmpV4::open().unwrap();
        let errors6 = IcmpV6::open().unwrap();
        // The kernel answers UDP to a closed port with an ICMP error about UDP: not ours on IPv4.
        for target in ["127.0.0.1:9", "[::1]:9"] {
            let any = if target.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
            std::net::UdpSocket::bind(any).unwrap().send_to(b"x", target).unwrap();
        }
        let about_udp = receive(&errors6, 1, LONG);
        assert_eq!(about_udp[0].1[..2], [1, 4], "ICMPv6 port unreachable, header stripped");
        assert_eq!(about_udp[0].0.checksum, RxChecksum::Valid);
        assert!(receive(&errors, 1, SOON).is_empty());

        let sender =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4)).unwrap();
        let localhost = Ipv4Addr::LOCALHOST;
        let quoted = segment((localhost, 1).into(), (localhost, 77).into(), SYN, 40);
        for (kind, protocol) in [(3, 6), (3, 17), (8, 6), (11, 6), (0, 6)] {
            let mut message = vec![kind, 1, 0, 0, 0, 0, 0, 0];
            message.extend_from_slice(&quoted[..28]);
            message[8 + 9] = protocol;
            let mut total = sum(&message);
            while total > 0xffff {
                total = (total >> 16) + (total & 0xffff);
            }
            message[2..4].copy_from_slice(&(!(total as u16)).to_be_bytes());
            sender.send_to(&message, &SocketAddr::new(localhost.into(), 0).into()).unwrap();
        }
        let kinds: Vec<u8> = receive(&errors, 3, SOON).iter().map(|(_, data)| data[20]).collect();
        assert_eq!(kinds, [3, 11]);
    });
}

#[test]
fn routes_are_looked_up_in_the_threads_namespace() {
    isolated("routes_are_looked_up_in_the_threads_namespace", || {
        let look = |dst: &str| route::lookup(dst.parse().unwrap(), None, None);
        for (dst, mtu) in [("127.0.0.2:80", 65_535), ("[::1]:80", 65_535), ("[::]:80", 65_535)] {
            let found = look(dst).unwrap();
            assert_eq!((found.mtu, found.is_local, found.source.is_loopback()), (mtu, true, true), "{dst}");
        }
        // Only lo is up.
        assert_eq!(look("192.0.2.1:80").unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
        assert_eq!(look("127.255.255.255:80").unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
        assert!(look("[2001:db8::1]:80").is_err());
        let on_lo = route::lookup("127.0.0.1:80".parse().unwrap(), None, Some("lo")).unwrap();
        assert!(on_lo.is_local);
        assert!(route::lookup("127.0.0.1:80".parse().unwrap(), None, Some("nonsense")).is_err());
    });
}

#[test]
fn a_tee_records_raw_traffic_with_ipv6_headers() {
    isolated("a_tee_records_raw_traffic_with_ipv6_headers", || {
        let path = std::env::temp_dir().join(format!("rawtcp-io-{}.pcapng", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let device =
            Tee::new(RawIpV6::open(&RawConfig::default()).unwrap(), PcapngWriter::new(file, "raw6", 0).unwrap());
        device.set_ports(&ports(&[77])).unwrap();
        let (src, dst): (SocketAddr, SocketAddr) = ("[::1]:76".parse().unwrap(), "[::1]:77".parse().unwrap());
        let packet = segment(src, dst, RST, 60);
        send(&device, dst.ip(), &packet);
        assert_eq!(receive(&device, 1, LONG).len(), 1);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        // Sent and received packet are the same 60 bytes, header put back.
        assert_eq!(bytes.windows(60).filter(|window| *window == packet).count(), 2);
        assert!(device.error().is_none());
    });
}

#[test]
fn namespaces_can_be_entered_by_other_threads() {
    isolated("namespaces_can_be_entered_by_other_threads", || {
        let guard = Guard::bind(&request("127.0.0.1:4242")).unwrap();
        let here = netns::current_net_namespace().unwrap();
        netns::run_in_new_namespace(|| {
            Guard::bind(&request("127.0.0.1:4242")).expect("free in another namespace");
            netns::set_net_namespace(std::os::fd::AsFd::as_fd(&here)).unwrap();
            assert_eq!(Guard::bind(&request("127.0.0.1:4242")).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        })
        .unwrap();
        drop(guard);
    });
}

#[test]
fn wrong_checksums_reach_user_space() {
    isolated("wrong_checksums_reach_user_space", || {
        let v4 = RawIpV4::open(&RawConfig::default()).unwrap();
        let v6 = RawIpV6::open(&RawConfig::default()).unwrap();
        for (device, ip, total) in [
            (&v4 as &dyn PacketIo, IpAddr::V4(Ipv4Addr::LOCALHOST), 40),
            (&v6 as &dyn PacketIo, IpAddr::V6(Ipv6Addr::LOCALHOST), 60),
        ] {
            device.set_ports(&ports(&[77])).unwrap();
            let mut packet = segment(SocketAddr::new(ip, 1), SocketAddr::new(ip, 77), RST, total);
            let checksum = packet.len() - 4;
            packet[checksum] ^= 0x55;
            assert!(matches!(send(device, ip, &packet), (1, None)));
            let seen = receive(device, 1, SOON);
            assert_eq!((seen.len(), device.drops()), (1, 0), "{ip}");
            assert_eq!(seen[0].0.checksum, RxChecksum::Unknown);
        }
    });
}

#[test]
fn many_threads_send_at_once() {
    isolated("many_threads_send_at_once", || {
        let device = RawIpV4::open(&RawConfig::default()).unwrap();
        device.set_ports(&ports(&[77])).unwrap();
        let localhost = Ipv4Addr::LOCALHOST;
        std::thread::scope(|scope| {
            for thread in 0..4_u16 {
                let device = &device;
                scope.spawn(move || {
                    for i in 0..250 {
                        let src = (localhost, 1000 * thread + i).into();
                        let packet = segment(src, (localhost, 77).into(), RST, 100);
                        assert!(matches!(send(device, localhost.into(), &packet), (1, None)));
                    }
                });
            }
        });
        let mut sources: Vec<u16> =
            receive(&device, 1000, LONG).iter().map(|(_, data)| u16::from_be_bytes([data[20], data[21]])).collect();
        // Each thread's packets are in order.
        sources.sort_by_key(|port| port / 1000);
        let expected: Vec<u16> = (0..4).flat_map(|thread| (0..250).map(move |i| 1000 * thread + i)).collect();
        assert_eq!(sources, expected);
    });
}
