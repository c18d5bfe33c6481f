//! Deadlines: what counts before them, and that who does nothing has none.

use rawtcp::net::TcpStream;
use rawtcp::{Device, Stack};
use rawtcp_io::{Capabilities, Drained, PacketIo, PortSet, ReadySource, RxBatch, SendError, TxPacket, mem};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

/// A link that gives a few packets at a time, as a socket of which many come in portions, and counts how often it is asked.
#[derive(Debug)]
struct Portions {
    link: mem::MemDevice,
    portion: Mutex<RxBatch>,
    asked: AtomicUsize,
}

impl Portions {
    fn new(link: mem::MemDevice, packets: usize) -> Arc<Self> {
        Arc::new(Portions { link, portion: Mutex::new(RxBatch::new(packets)), asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl PacketIo for Portions {
    fn name(&self) -> &str {
        "portions"
    }
    fn capabilities(&self) -> Capabilities {
        self.link.capabilities()
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut portion = self.portion.lock().expect("no test panics with it");
        let drained = self.link.recv(&mut portion);
        batch.clear();
        for (meta, packet) in portion.iter() {
            assert!(batch.push(*meta, packet));
        }
        drained
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        self.link.send(packets)
    }
    fn ready_source(&self) -> ReadySource<'_> {
        self.link.ready_source()
    }
    fn drops(&self) -> u64 {
        self.link.drops()
    }
    fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
        self.link.set_ports(ports)
    }
    fn recv_queue_bytes(&self) -> usize {
        self.link.recv_queue_bytes()
    }
}

fn stack(io: Arc<dyn PacketIo>, ip: [u8; 4]) -> Stack {
    let device = Device::Own { io, addresses: vec![IpAddr::from(ip)] };
    Stack::builder().device(device).seed([ip[3]; 32]).exit_drain(Duration::ZERO).build().expect("a stack")
}

async fn connect(client: &Stack, server: &Stack, at: &str) -> (TcpStream, TcpStream) {
    let listener = server.bind(at).await.expect("bind");
    let (client, accepted) = tokio::join!(client.connect(at), listener.accept());
    let (client, accepted) = (client.expect("connect"), accepted.expect("accept").0);
    // An accepted stream is taken for readable until a look finds nothing.
    assert_eq!(accepted.try_read(&mut [0]).expect_err("nothing was sent").kind(), io::ErrorKind::WouldBlock);
    (client, accepted)
}

/// The driver comes late: what it is to do has been due for long, and behind other packets lies the acknowledgment that makes
/// it needless.
#[tokio::test(start_paused = true)]
async fn what_has_come_counts_before_deadlines_that_have_passed() {
    let (a, b) = mem::pair(mem::MemConfig::default());
    let (a, b) = (stack(Portions::new(a, 1), [10, 0, 0, 1]), stack(Arc::new(b), [10, 0, 0, 2]));
    let (mut asks, answers) = connect(&a, &b, "10.0.0.2:80").await;
    let (_idle, talks) = connect(&a, &b, "10.0.0.2:81").await;
    talks.set_nodelay(true).expect("nodelay");
    answers.set_quickack(false).expect("a delayed acknowledgment");
    asks.write_all(b"?").await.expect("a question");
    answers.readable().await.expect("it is there");
    assert_eq!(asks.tcp_info().unacked, 1, "a probe is due soon");
    // All of this without giving way: the other driver has no turn before the end of it.
    for _ in 0..5 {
        assert_eq!(talks.try_write(b"other packets").expect("room"), 13);
    }
    assert_eq!(answers.try_read(&mut [0]).expect("the question"), 1);
    // It carries the acknowledgment.
    assert_eq!(answers.try_write(b"!").expect("room"), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(asks.read_u8().await.expect("the answer"), b'!');
    let info = asks.tcp_info();
    assert_eq!((info.total_retrans, info.timeouts), (0, 0), "{info:?}");
}

/// A queue that is never empty holds deadlines up, but not for ever: a peer that floods can not stop our timers.
#[tokio::test(start_paused = true)]
async fn deadlines_are_served_beside_a_queue_that_is_never_empty() {
    let ((a, flood), lost) = (mem::pair(mem::MemConfig::default()), Duration::from_secs(2));
    let a = stack(Portions::new(a, 1), [10, 0, 0, 1]);
    // Nobody answers: there is a SYN to be sent again and again.
    let dials = a.connect("10.0.0.2:80");
    tokio::pin!(dials);
    assert!(futures::poll!(&mut dials).is_pending());
    // No TCP, and not ours.
    let junk = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3];
    let more_than_enough = 1000;
    for _ in 0..more_than_enough {
        let packet = TxPacket {
            dst: IpAddr::from([10, 0, 0, 1]),
            scope: 0,
            link: None,
            slices: &[io::IoSlice::new(&junk)],
            segment_size: 0,
            checksum: rawtcp_io::TxChecksum::Complete,
        };
        assert_eq!(flood.send(&[packet]).0, 1);
    }
    let mut seen = RxBatch::new(64);
    flood.recv(&mut seen).expect("a link");
    assert_eq!(seen.len(), 1, "the first SYN");
    tokio::time::advance(lost).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let left = more_than_enough as u64 - a.stats().packets_received;
    assert!(left > 0, "the queue is not empty yet");
    flood.recv(&mut seen).expect("a link");
    assert_eq!(seen.len(), 1, "the second");
}

/// Connections that do nothing have no deadline: once they are at rest their driver sleeps.
#[tokio::test(start_paused = true)]
async fn idle_connections_wake_nobody() {
    let (a, b) = mem::pair(mem::MemConfig::default());
    let devices = [Portions::new(a, 64), Portions::new(b, 64)];
    let (a, b) = (stack(devices[0].clone(), [10, 0, 0, 1]), stack(devices[1].clone(), [10, 0, 0, 2]));
    let mut pairs = Vec::new();
    for port in 80..180 {
        let (mut client, mut server) = connect(&a, &b, &format!("10.0.0.2:{port}")).await;
        // Some have never sent, some only received, some have read all and some nothing.
        match port % 4 {
            0 => {}
            1 => client.write_all(&[7; 10_000]).await.expect("room"),
            2 => {
                client.write_all(b"?").await.expect("room");
                server.read_u8().await.expect("a question");
            }
            _ => {
                client.write_all(b"?").await.expect("room");
                server.read_u8().await.expect("a question");
                server.write_all(b"!").await.expect("room");
                client.read_u8().await.expect("an answer");
            }
        }
        pairs.push((client, server));
    }
    let asked = || devices.each_ref().map(|device| device.asked());
    // A second behind the last segment they give memory back.
    sleep(Duration::from_secs(2)).await;
    let at_rest = asked();
    sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(asked(), at_rest);
    for (client, server) in &mut pairs {
        server.write_all(b"still there").await.expect("room");
        client.read_exact(&mut [0; 11]).await.expect("it is");
    }
    assert!(asked() > at_rest, "who is asked nothing receives nothing");
}
