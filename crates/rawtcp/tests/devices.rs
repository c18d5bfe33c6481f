//! Devices that are full, refuse packets, or are links inside the process.

use rawtcp::net::TcpStream;
use rawtcp::{Device, Stack};
use rawtcp_io::{
    Capabilities, Drained, PacketIo, PortSet, ReadySource, RxBatch, RxMeta, SendError, TxChecksum, TxPacket, mem,
};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

/// A link over a pair of datagram sockets, which take about ten packets before they are full.
#[derive(Debug)]
struct Narrow {
    socket: UnixDatagram,
    /// Sends, if that is not the one that receives.
    sender: Option<UnixDatagram>,
    /// Largest packet that is taken, whatever the capabilities say.
    takes: usize,
    /// How often the link was full.
    full: AtomicUsize,
    /// An errno that every send gives; 0: none.
    refuses: AtomicI32,
    /// So many sends find it full, although it is not.
    busy: AtomicUsize,
    /// The destination port of every full packet that was taken.
    ports: Mutex<Vec<[u8; 2]>>,
}

fn narrow_pair(takes: usize) -> (Arc<Narrow>, Arc<Narrow>) {
    let (a, b) = UnixDatagram::pair().unwrap();
    narrow([(a, None), (b, None)], takes)
}

/// The same with a socket for each direction.
fn narrow_pair_of_four(takes: usize) -> (Arc<Narrow>, Arc<Narrow>) {
    let [(a, to_a), (b, to_b)] = [(); 2].map(|()| UnixDatagram::pair().unwrap());
    narrow([(a, Some(to_b)), (b, Some(to_a))], takes)
}

fn narrow(ends: [(UnixDatagram, Option<UnixDatagram>); 2], takes: usize) -> (Arc<Narrow>, Arc<Narrow>) {
    let [a, b] = ends.map(|(socket, sender)| {
        for socket in [&socket].into_iter().chain(&sender) {
            socket.set_nonblocking(true).unwrap();
        }
        Arc::new(Narrow {
            socket,
            sender,
            takes,
            full: AtomicUsize::new(0),
            refuses: AtomicI32::new(0),
            busy: AtomicUsize::new(0),
            ports: Mutex::default(),
        })
    });
    (a, b)
}

impl PacketIo for Narrow {
    fn name(&self) -> &str {
        "narrow"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { mtu: 1500, max_segmentable: 0, tx_checksum: false, max_batch: 16, frames: false }
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        batch.clear();
        let mut buf = [0; 2048];
        while !batch.is_full() {
            match self.socket.recv(&mut buf) {
                Ok(n) => assert!(batch.push(RxMeta::IP, &buf[..n])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Drained::Yes),
                Err(error) => return Err(error),
            }
        }
        Ok(Drained::Maybe)
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        for (i, packet) in packets.iter().enumerate() {
            assert_eq!(packet.checksum, TxChecksum::Complete);
            let once_less = |busy: usize| busy.checked_sub(1);
            if self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, once_less).is_ok() {
                return (i, Some(SendError::WouldBlock));
            }
            let refuses = self.refuses.load(Ordering::SeqCst);
            if refuses != 0 {
                return (i, Some(SendError::Unreachable(io::Error::from_raw_os_error(refuses))));
            }
            if packet.len() > self.takes {
                return (i, Some(SendError::TooBig));
            }
            let bytes: Vec<u8> = packet.slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            match self.sender.as_ref().unwrap_or(&self.socket).send(&bytes) {
                Ok(n) if n == 1500 && bytes[0] == 0x45 => {
                    self.ports.lock().unwrap().push([bytes[22], bytes[23]]);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.full.fetch_add(1, Ordering::SeqCst);
                    return (i, Some(SendError::WouldBlock));
                }
                Err(error) => return (i, Some(SendError::Lost(error))),
            }
        }
        (packets.len(), None)
    }
    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Fd(self.socket.as_fd())
    }
    fn writable_fd(&self) -> Option<BorrowedFd<'_>> {
        self.sender.as_ref().map(AsFd::as_fd)
    }
    fn drops(&self) -> u64 {
        0
    }
    fn set_ports(&self, _ports: &PortSet) -> io::Result<()> {
        Ok(())
    }
    fn recv_queue_bytes(&self) -> usize {
        8 << 20
    }
}

fn stacks(a: Arc<dyn PacketIo>, b: Arc<dyn PacketIo>) -> (Stack, Stack) {
    let stack = |io, addresses: [&str; 2]| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        // Both stacks end with one runtime: nobody could answer the other's last words.
        Stack::builder().device(Device::Own { io, addresses }).exit_drain(Duration::ZERO).build().unwrap()
    };
    (stack(a, ["10.0.0.1", "fd00::1"]), stack(b, ["10.0.0.2", "fd00::2"]))
}

async fn connect(a: &Stack, b: &Stack, addr: &str) -> (TcpStream, TcpStream) {
    let listener = b.bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let both = async { tokio::join!(a.connect(addr), listener.accept()) };
    let (client, accepted) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("hangs");
    (client.unwrap(), accepted.unwrap().0)
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

async fn exchange(a: TcpStream, b: TcpStream, len: usize) {
    let halves = [a.into_split(), b.into_split()];
    let [(ra, wa), (rb, wb)] = halves;
    let mut tasks = Vec::new();
    for (seed, mut write, mut read) in [(1, wa, rb), (2, wb, ra)] {
        tasks.push(tokio::spawn(async move {
            write.write_all(&pattern(len, seed)).await.unwrap();
            write.shutdown().await.unwrap();
        }));
        tasks.push(tokio::spawn(async move {
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            assert!(got == pattern(len, seed), "{} bytes", got.len());
        }));
    }
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task).await.expect("hangs").unwrap();
    }
}

#[tokio::test]
async fn a_full_device_holds_connections_up_and_loses_nothing() {
    is_held_up_and_loses_nothing(narrow_pair(1500)).await;
}

#[tokio::test]
async fn a_full_device_that_sends_by_another_descriptor() {
    is_held_up_and_loses_nothing(narrow_pair_of_four(1500)).await;
}

async fn is_held_up_and_loses_nothing((a, b): (Arc<Narrow>, Arc<Narrow>)) {
    let (one, two) = stacks(a.clone(), b.clone());
    for addr in ["10.0.0.2:0", "[fd00::2]:0"] {
        let pairs =
            [connect(&one, &two, addr).await, connect(&one, &two, addr).await, connect(&two, &one, "10.0.0.1:0").await];
        let exchanges = pairs.into_iter().map(|(x, y)| exchange(x, y, 2 << 20));
        futures::future::join_all(exchanges).await;
    }
    assert!(a.full.load(Ordering::SeqCst) > 0 && b.full.load(Ordering::SeqCst) > 0, "never full: nothing was tested");
    assert_eq!((one.stats().packets_lost, two.stats().packets_lost), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_device_on_two_threads() {
    let (a, b) = narrow_pair(1500);
    let (one, two) = stacks(a, b);
    let pairs = [connect(&one, &two, "10.0.0.2:0").await, connect(&two, &one, "[fd00::1]:0").await];
    futures::future::join_all(pairs.into_iter().map(|(x, y)| exchange(x, y, 4 << 20))).await;
}

#[tokio::test]
async fn a_device_that_takes_less_than_it_says_lowers_the_path_mtu() {
    let (a, b) = narrow_pair(1300);
    let (one, two) = stacks(a, b);
    let (x, y) = connect(&one, &two, "10.0.0.2:0").await;
    let before = x.tcp_info().pmtu;
    let (mut x, mut y) = (x, y);
    let writer = tokio::spawn(async move {
        x.write_all(&pattern(100_000, 1)).await.unwrap();
        x
    });
    let mut got = vec![0; 100_000];
    tokio::time::timeout(Duration::from_secs(5), y.read_exact(&mut got)).await.expect("hangs").unwrap();
    assert!(got == pattern(100_000, 1));
    let after = writer.await.unwrap().tcp_info().pmtu;
    assert!(before == 1500 && after <= 1300, "{before} {after}");
}

#[tokio::test]
async fn a_device_without_a_route_fails_a_connect_at_once_and_spares_a_connection() {
    for (errno, kind) in [(101, ErrorKind::NetworkUnreachable), (113, ErrorKind::HostUnreachable)] {
        let (a, b) = narrow_pair(1500);
        let (one, two) = stacks(a.clone(), b);
        let (mut x, mut y) = connect(&one, &two, "10.0.0.2:0").await;
        a.refuses.store(errno, Ordering::SeqCst);
        let error = one.connect("10.0.0.2:1").await.unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (kind, Some(errno)));
        x.write_all(b"later").await.unwrap();
        a.refuses.store(0, Ordering::SeqCst);
        let mut got = [0; 5];
        tokio::time::timeout(Duration::from_secs(10), y.read_exact(&mut got)).await.expect("hangs").unwrap();
        assert_eq!(&got, b"later");
    }
}

#[tokio::test(start_paused = true)]
async fn an_in_memory_link_in_virtual_time() {
    let (a, b) = mem::pair(mem::MemConfig::default());
    let (one, two) = stacks(Arc::new(a), Arc::new(b));
    for addr in ["10.0.0.2:0", "[fd00::2]:0"] {
        let (x, y) = connect(&one, &two, addr).await;
        exchange(x, y, 1 << 20).await;
    }
    let error = one.connect("192.0.2.1:80").await;
    // The link has no other host: the SYN is nobody's, and the attempt times out on schedule.
    assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
}

/// A RST and the SYN of the next connection from the same port, in one batch: the SYN finds no ended connection in its
/// way, behind which it would have to be sent again.
#[tokio::test(start_paused = true)]
async fn a_connection_may_follow_a_reset_at_once() {
    let (a, b) = mem::pair(mem::MemConfig::default());
    let (one, two) = stacks(Arc::new(a), Arc::new(b));
    let listener = two.bind("10.0.0.2:80").await.unwrap();
    let from = || {
        let socket = one.socket_v4();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("10.0.0.1:4000".parse().unwrap()).unwrap();
        socket
    };
    let to = "10.0.0.2:80".parse().unwrap();
    let before = tokio::time::Instant::now();
    for _ in 0..3 {
        let (client, accepted) = tokio::join!(from().connect(to), listener.accept());
        let (client, accepted) = (client.unwrap(), accepted.unwrap().0);
        client.set_zero_linger().unwrap();
        drop(client);
        // Nothing has been taken from the link yet.
        let (again, accepted_again) = tokio::join!(from().connect(to), listener.accept());
        drop((again.unwrap(), accepted_again.unwrap(), accepted));
        // Out of TIME-WAIT, too.
        tokio::time::sleep(Duration::from_secs(120)).await;
    }
    assert!(before.elapsed() < Duration::from_secs(361), "{:?}", before.elapsed());
}

/// A device that always has more packets.
#[derive(Debug)]
struct Flood {
    /// One of a pair; what the other one sent makes it readable for ever.
    socket: UnixDatagram,
    batches: AtomicUsize,
}

impl PacketIo for Flood {
    fn name(&self) -> &str {
        "flood"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { mtu: 1500, max_segmentable: 0, tx_checksum: false, max_batch: 64, frames: false }
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        batch.clear();
        // A segment to 10.0.0.1:80 whose checksum is wrong.
        let mut packet = [0; 40];
        packet[..4].copy_from_slice(&[0x45, 0, 0, 40]);
        packet[8..12].copy_from_slice(&[64, 6, 0x5d, 0xbe]);
        packet[12..20].copy_from_slice(&[10, 9, 9, 9, 10, 0, 0, 1]);
        packet[20..24].copy_from_slice(&[4, 0, 0, 80]);
        packet[32..36].copy_from_slice(&[0x50, 2, 255, 255]);
        while batch.push(RxMeta::IP, &packet) {}
        self.batches.fetch_add(1, Ordering::SeqCst);
        Ok(Drained::Maybe)
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        (packets.len(), None)
    }
    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Fd(self.socket.as_fd())
    }
    fn drops(&self) -> u64 {
        0
    }
    fn set_ports(&self, _ports: &PortSet) -> io::Result<()> {
        Ok(())
    }
    fn recv_queue_bytes(&self) -> usize {
        8 << 20
    }
}

#[tokio::test]
async fn a_flood_of_packets_lets_other_tasks_run() {
    const TURNS: usize = 500;
    let (socket, other) = UnixDatagram::pair().unwrap();
    other.send(b"x").unwrap();
    let flood = Arc::new(Flood { socket, batches: AtomicUsize::new(0) });
    let device = Device::Own { io: flood.clone(), addresses: vec![[10, 0, 0, 1].into()] };
    let stack = Stack::builder().device(device).exit_drain(Duration::ZERO).build().unwrap();
    let _listener = stack.bind("10.0.0.1:80").await.unwrap();
    let start = flood.batches.load(Ordering::SeqCst);
    let counts = flood.clone();
    let other = tokio::spawn(async move {
        let mut most = 0;
        for _ in 0..TURNS {
            let before = counts.batches.load(Ordering::SeqCst);
            tokio::task::yield_now().await;
            most = most.max(counts.batches.load(Ordering::SeqCst) - before);
        }
        most
    });
    let most = other.await.unwrap();
    // 8 rounds make a turn, and tokio wakes who yielded in no particular order: at most two turns come between.
    assert!(most <= 16, "{most} batches of 64 packets between two turns of another task");
    let batches = flood.batches.load(Ordering::SeqCst) - start;
    assert!(batches > TURNS / 2, "only {batches} batches: no flood");
    assert!(stack.stats().drops(rawtcp::DropReason::Checksum) as usize >= 64 * (batches - 8));
}

/// Waits until a stack has so many connections.
async fn until_connections(stack: &Stack, n: usize) {
    let all = async {
        while stack.stats().connections != n {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all).await.unwrap_or_else(|_| panic!("{:?}", stack.stats()));
}

#[tokio::test]
async fn a_connection_whose_reset_waited_for_the_device_is_gone_after_it() {
    let (a, b) = narrow_pair(1500);
    let (one, two) = stacks(a.clone(), b);
    let (x, y) = connect(&one, &two, "10.0.0.2:0").await;
    let (mut z, w) = connect(&one, &two, "10.0.0.2:0").await;
    until_connections(&one, 2).await;
    // One packet is kept by the full device; the reset comes behind it.
    a.busy.store(1, Ordering::SeqCst);
    assert_eq!(x.try_write(b"kept").unwrap(), 4);
    z.set_zero_linger().unwrap();
    z.write_all(b"given up").await.unwrap();
    drop(z);
    assert_eq!(a.busy.load(Ordering::SeqCst), 0);
    until_connections(&one, 1).await;
    w.ready(Interest::ERROR).await.unwrap();
    assert_eq!(w.try_read(&mut [0; 9]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut got = [0; 4];
    assert_eq!(y.peek(&mut got).await.unwrap(), 4);
    assert_eq!((y.try_read(&mut got).unwrap(), &got), (4, b"kept"));
}

#[tokio::test]
async fn connections_share_a_full_device() {
    const EACH: usize = 1 << 20;
    let (a, b) = narrow_pair(1500);
    let (one, two) = stacks(a.clone(), b);
    let got: Arc<Vec<AtomicUsize>> = Arc::new((0..6).map(|_| AtomicUsize::new(0)).collect());
    let mut readers = Vec::new();
    let mut pairs = Vec::new();
    for _ in 0..got.len() {
        pairs.push(connect(&one, &two, "10.0.0.2:0").await);
    }
    for (i, (mut x, mut y)) in pairs.into_iter().enumerate() {
        tokio::spawn(async move {
            x.write_all(&pattern(EACH, 1)).await.unwrap();
            x
        });
        let got = got.clone();
        readers.push(tokio::spawn(async move {
            let mut buf = vec![0; 16 << 10];
            while got[i].load(Ordering::SeqCst) < EACH {
                let n = y.read(&mut buf).await.unwrap();
                assert!(n > 0);
                got[i].fetch_add(n, Ordering::SeqCst);
            }
            // What the others have had by the time the first is done.
            got.iter().map(|got| got.load(Ordering::SeqCst)).min().unwrap()
        }));
    }
    let (least, _, _) =
        tokio::time::timeout(Duration::from_secs(60), futures::future::select_all(readers)).await.expect("hangs");
    assert!(a.full.load(Ordering::SeqCst) > 0, "never full: nothing was tested");
    assert!(least.unwrap() > EACH / 8, "starved: {got:?}");
    // Each sends one hold of 16 packets, and the next one follows.
    let ports = a.ports.lock().unwrap();
    let runs: Vec<_> = ports.chunk_by(|a, b| a == b).map(<[_]>::len).collect();
    let long: usize = runs.iter().filter(|&&run| run > 32).sum();
    assert!(long < ports.len() / 4, "{long} of {} packets in long runs: {runs:?}", ports.len());
}

#[tokio::test]
async fn a_burst_of_handshakes_does_not_overrun_the_backlog() {
    let (a, b) = narrow_pair(1500);
    let (one, two) = stacks(a, b);
    let socket = two.socket_v4();
    socket.bind("10.0.0.2:0".parse().unwrap()).unwrap();
    let listener = socket.listen(2).unwrap();
    let addr = listener.local_addr().unwrap();
    let clients = futures::future::join_all((0..8).map(|_| one.connect(addr)));
    let clients = tokio::time::timeout(Duration::from_secs(5), clients).await.expect("hangs");
    // All eight know of the SYN-ACK; the last parts of their handshakes come in one batch.
    assert!(clients.iter().all(Result::is_ok));
    // A turn takes all of a batch.
    let all = async {
        while two.stats().packets_received < 2 * 8 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all).await.expect("hangs");
    // As Linux: one more than the backlog.
    assert_eq!(two.stats().accepts, 3);
}

#[test]
fn the_end_of_a_runtime_delivers_what_many_streams_hold() {
    const STREAMS: usize = 60;
    const EACH: usize = 100_000;
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (theirs, ours) = (runtime(), runtime());
    let (a, b) = narrow_pair(1500);
    let build = |io: Arc<Narrow>, ip: &str| {
        Stack::builder().device(Device::Own { io, addresses: vec![ip.parse().unwrap()] }).build().unwrap()
    };
    let two = theirs.block_on(async { build(b, "10.0.0.2") });
    let listener = theirs.block_on(two.bind("10.0.0.2:0")).unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = theirs.spawn(async move {
        let mut readers = Vec::new();
        for _ in 0..STREAMS {
            let (mut stream, _) = listener.accept().await.unwrap();
            readers.push(tokio::spawn(async move {
                // Nobody reads before everything is written, so that the end of the runtime has to deliver.
                tokio::time::sleep(Duration::from_millis(500)).await;
                let mut got = Vec::new();
                stream.read_to_end(&mut got).await.map(|_| got.len())
            }));
        }
        futures::future::join_all(readers).await
    });
    let (held, one) = ours.block_on(async {
        let one = build(a, "10.0.0.1");
        let mut held = Vec::new();
        for _ in 0..STREAMS {
            let mut stream = one.connect(addr).await.unwrap();
            stream.write_all(&pattern(EACH, 3)).await.unwrap();
            held.push(stream);
        }
        (held, one)
    });
    let begin = std::time::Instant::now();
    drop(ours);
    let took = begin.elapsed();
    for result in theirs.block_on(seen).unwrap() {
        assert_eq!(result.unwrap().unwrap(), EACH);
    }
    assert!(took < Duration::from_millis(2500), "{took:?}");
    drop((held, one));
}
