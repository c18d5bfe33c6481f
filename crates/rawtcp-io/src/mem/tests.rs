use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use super::*;

#[derive(Default)]
struct Count(AtomicUsize);
impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn send(device: &dyn PacketIo, dst: IpAddr, data: &[u8], segment_size: u16) -> (usize, Option<SendError>) {
    // In two pieces, to see them joined.
    let (head, tail) = data.split_at(data.len() / 2);
    let slices = [IoSlice::new(head), IoSlice::new(tail)];
    let checksum = TxChecksum::Complete;
    device.send(&[TxPacket { dst, scope: 0, link: None, slices: &slices, segment_size, checksum }])
}

fn received(device: &dyn PacketIo) -> Vec<Vec<u8>> {
    let mut batch = RxBatch::new(64);
    assert_eq!(device.recv(&mut batch).unwrap(), Drained::Yes);
    batch.iter().map(|(_, data)| data.to_vec()).collect()
}

fn tcp_packet(dst: SocketAddr, mark: u8) -> Vec<u8> {
    let mut packet = match dst.ip() {
        IpAddr::V4(_) => vec![0; 20],
        IpAddr::V6(_) => vec![0; 40],
    };
    packet[0] = if dst.is_ipv4() { 0x45 } else { 0x60 };
    packet[if dst.is_ipv4() { 9 } else { 6 }] = 6;
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(&dst.port().to_be_bytes());
    packet.push(mark);
    packet
}

const ANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

#[test]
fn a_pair_carries_packets_in_order_and_wakes() {
    let (a, b) = pair(MemConfig::default());
    let count = Arc::new(Count::default());
    let ReadySource::Waker(slot) = b.ready_source() else { panic!() };
    slot.register(&Waker::from(count.clone()));
    for mark in 0..3 {
        assert!(matches!(send(&a, ANY, &[mark; 1500], 0), (1, None)));
    }
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(received(&b), [0, 1, 2].map(|mark| vec![mark; 1500]));
    assert!(received(&a).is_empty());
}

#[test]
fn a_full_queue_drops_and_counts() {
    let (a, b) = pair(MemConfig { queue_bytes: 2 * (100 + PACKET_OVERHEAD), ..MemConfig::default() });
    for mark in 0..5 {
        assert!(matches!(send(&a, ANY, &[mark; 100], 0), (1, None)));
    }
    assert_eq!((b.drops(), a.drops()), (3, 0));
    assert_eq!(received(&b), [vec![0; 100], vec![1; 100]]);
    assert!(matches!(send(&a, ANY, &[9; 100], 0), (1, None)));
    assert_eq!(received(&b), [vec![9; 100]]);
}

#[test]
fn sizes_and_offloads_are_checked() {
    let (a, _b) = pair(MemConfig::default());
    assert!(matches!(send(&a, ANY, &[0; 1501], 0), (0, Some(SendError::TooBig))));
    assert!(matches!(send(&a, ANY, &[0; 1500], 1460), (0, Some(SendError::Other(_)))));
    let (a, b) = pair(MemConfig { mtu: 1500, ..MemConfig::loopback() });
    assert!(matches!(send(&a, ANY, &[7; 60_000], 1460), (1, None)));
    let mut batch = RxBatch::new(1);
    b.recv(&mut batch).unwrap();
    assert_eq!((batch.packet(0).0.segment_size, batch.packet(0).1.len()), (1460, 60_000));
    assert!(batch.owner(0).is_some());
}

#[test]
fn a_batch_smaller_than_the_queue_is_not_the_end() {
    let (a, b) = pair(MemConfig::default());
    for mark in 0..3 {
        send(&a, ANY, &[mark; 10], 0);
    }
    let mut batch = RxBatch::new(2);
    assert_eq!((b.recv(&mut batch).unwrap(), batch.len()), (Drained::Maybe, 2));
    assert_eq!((b.recv(&mut batch).unwrap(), batch.len()), (Drained::Yes, 1));
}

#[test]
fn the_switch_delivers_to_whoever_reserved_the_port() {
    let switch = Switch::new();
    let (a, b) = (switch.attach(MemConfig::loopback()), switch.attach(MemConfig::loopback()));
    let exact = a.reserve("127.0.0.1:80".parse().unwrap(), true).unwrap();
    let dual = b.reserve("[::]:81".parse().unwrap(), false).unwrap();
    let go = |text: &str, mark| {
        let dst: SocketAddr = text.parse().unwrap();
        assert!(matches!(send(&a, dst.ip(), &tcp_packet(dst, mark), 0), (1, None)));
    };
    go("127.0.0.1:80", 1);
    go("127.0.0.1:81", 2);
    go("[::1]:81", 3);
    go("127.0.0.2:80", 4);
    go("[::1]:80", 5);
    let marks = |device| received(device).iter().map(|data| *data.last().unwrap()).collect::<Vec<_>>();
    assert_eq!(marks(&b), [2, 3]);
    // 4 and 5 are for nobody: back to the sender.
    assert_eq!(marks(&a), [1, 4, 5]);
    drop((exact, dual));
    go("127.0.0.1:81", 6);
    assert_eq!(marks(&a), [6]);
}

#[test]
fn other_destinations_are_unreachable() {
    let device = Switch::new().attach(MemConfig::loopback());
    let dst: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let (sent, error) = send(&device, dst.ip(), &tcp_packet(dst, 0), 0);
    let Some(SendError::Unreachable(error)) = error else { panic!("{error:?}") };
    assert_eq!((sent, error.raw_os_error()), (0, Some(libc::ENETUNREACH)));
}

#[test]
fn overlapping_reservations_are_in_use() {
    let cases = [
        ("127.0.0.1:80", true, "127.0.0.1:80", true, false),
        ("127.0.0.1:80", true, "127.0.0.2:80", true, true),
        ("127.0.0.1:80", true, "0.0.0.0:80", true, false),
        ("0.0.0.0:80", true, "[::]:80", false, false),
        ("0.0.0.0:80", true, "[::]:80", true, true),
        ("[::]:80", false, "127.0.0.1:80", true, false),
        ("[::]:80", false, "[::1]:80", true, false),
        ("[::1]:80", true, "127.0.0.1:80", true, true),
        ("[::]:80", true, "[::]:80", false, false),
        ("[::]:80", false, "[::]:81", false, true),
    ];
    for (first, first_only, second, second_only, fits) in cases {
        let switch = Switch::new();
        let (a, b) = (switch.attach(MemConfig::loopback()), switch.attach(MemConfig::loopback()));
        let held = a.reserve(first.parse().unwrap(), first_only).unwrap();
        let result = b.reserve(second.parse().unwrap(), second_only);
        match &result {
            Ok(_) => assert!(fits, "{first} {second}"),
            Err(error) => {
                assert!(!fits, "{first} {second}");
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            }
        }
        drop((held, result));
        b.reserve(second.parse().unwrap(), second_only).unwrap();
    }
}

#[test]
fn ephemeral_ports_differ_and_run_out() {
    let switch = Switch::new();
    let device = switch.attach(MemConfig::loopback());
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut held: Vec<Reservation> = (32_768..=60_999).map(|_| device.reserve(any, true).unwrap()).collect();
    let ports: std::collections::HashSet<u16> = held.iter().map(|held| held.local_addr().port()).collect();
    assert_eq!(ports.len(), held.len());
    assert_eq!(device.reserve(any, true).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let freed = held.swap_remove(100).local_addr();
    assert_eq!(device.reserve(any, true).unwrap().local_addr(), freed);
    let foreign = device.reserve("192.0.2.1:0".parse().unwrap(), true).unwrap_err();
    assert_eq!(foreign.kind(), io::ErrorKind::AddrNotAvailable);
}
