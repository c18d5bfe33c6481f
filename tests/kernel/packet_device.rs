//! The AF_PACKET device alone: what comes by its receive ring and what by its queue.

use crate::common::{Outcome, PATIENCE, addr, iproute2, kernel_listener, once_told, send, soon};
use crate::ethernet::run;
use crate::tests;
use rawtcp::{Device, Stack};
use rawtcp_io::afpacket_raw::{PacketOptions, PacketSocket};
use rawtcp_io::network::{Interface, Mac, Network};
use rawtcp_io::wait::{Interest, poll};
use rawtcp_io::{
    Drained, PacketConfig, PacketDevice, PacketIo, PortSet, ReadySource, RxBatch, SendError, TxChecksum, TxPacket,
};
use rawtcp_lab::emulator::EmulatorConfig;
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{Emulated, INTERFACE, Pair, SERVER_V4};
use rawtcp_sim::LinkConfig;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

tests!(
    packets_of_all_sizes_come_in_order_by_the_ring,
    packets_of_all_sizes_come_in_order_without_a_ring,
    large_packets_come_a_few_at_a_time,
    losses_of_a_full_ring_are_counted_exactly,
    losses_of_a_full_queue_are_counted_exactly,
    another_device_takes_over_when_more_is_expected => large_queues,
    nothing_is_lost_while_another_device_takes_over => large_queues,
    a_peer_far_away_gets_a_window_larger_than_the_small_ring => large_queues,
    an_interface_that_goes_down_is_an_error_once,
    a_full_interface_says_when_there_is_room => iproute2,
);

const PORT: u16 = 4700;
/// Larger than a frame of the ring holds.
const LARGE: usize = 8000;

/// A device of the server, and a socket of the client that frames are sent by.
fn device(pair: &Pair, config: &PacketConfig) -> io::Result<(PacketDevice, Wire)> {
    pair.set_mtu(9000)?;
    let (device, mac) = pair.server.run(|| {
        let interface = interface()?;
        let device = PacketDevice::open(&interface, config)?;
        device.set_ports(&PortSet::from_iter([PORT]))?;
        io::Result::Ok((device, interface.mac()))
    })?;
    Ok((device, Wire::new(&pair.client, mac)?))
}

fn interface() -> io::Result<Arc<Interface>> {
    Network::open()?.interfaces().first().cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
}

struct Wire {
    socket: PacketSocket,
    to: Mac,
}

impl Wire {
    fn new(host: &Namespace, to: Mac) -> io::Result<Self> {
        let socket = host.run(|| PacketSocket::bind(interface()?.index(), PacketOptions::default()))?;
        Ok(Self { socket, to })
    }

    /// Sends a packet of this many bytes, of which nothing matters but its port and its number.
    fn send(&self, length: usize, number: u32) -> io::Result<()> {
        self.socket.send(&[&self.to[..], &[2, 0, 0, 0, 0, 1], &[8, 0], &packet(length, number)].concat())
    }
}

fn packet(length: usize, number: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((length as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(1_u16.to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend(number.to_be_bytes());
    packet.extend((packet.len()..length).map(|at| (at as u32 ^ number) as u8));
    packet
}

/// Waits until the device has something, or for long enough.
fn wait(device: &PacketDevice) -> io::Result<()> {
    device.expect_poll();
    let ReadySource::Fd(fd) = device.ready_source() else { unreachable!("a socket has a descriptor") };
    if poll(&mut [Interest::readable(fd)], Some(PATIENCE))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

fn packets_of_all_sizes_come_in_order_by_the_ring() -> Outcome {
    // The smallest ring, so that it is gone round many times.
    packets_of_all_sizes_come_in_order(&PacketConfig { ring_frames: 1, ..PacketConfig::default() })
}

fn packets_of_all_sizes_come_in_order_without_a_ring() -> Outcome {
    packets_of_all_sizes_come_in_order(&PacketConfig { ring_frames: 0, ..PacketConfig::default() })
}

fn packets_of_all_sizes_come_in_order(config: &PacketConfig) -> Outcome {
    /// Around what a frame of the ring holds, an MTU of 1500, and more large ones in a row than come at once.
    const SIZES: [usize; 24] = [
        40, 1500, LARGE, 40, 166, 1490, 1500, 1505, 1509, 1510, 1511, 1520, 1600, 2048, 9000, 9000, 9000, 9000, 9000,
        9000, 9000, 9000, 9000, 64,
    ];
    let pair = Pair::new()?;
    let (device, wire) = device(&pair, config)?;
    // Fewer than come at once, and as many as the drivers take.
    for capacity in [5, 32] {
        let mut batch = RxBatch::new(capacity);
        for round in 0..20 {
            let sent: Vec<_> =
                (0..31).map(|i| (SIZES[(round * 7 + i) % SIZES.len()], (round * 31 + i) as u32)).collect();
            sent.iter().try_for_each(|(length, number)| wire.send(*length, *number))?;
            let mut received = Vec::new();
            while received.len() < sent.len() {
                wait(&device)?;
                while device.recv(&mut batch)? == Drained::Maybe || !batch.is_empty() {
                    received.extend(batch.iter().map(|(_, packet)| packet.to_vec()));
                }
            }
            assert!(
                received.iter().map(Vec::as_slice).eq(sent.iter().map(|(length, number)| packet(*length, *number)))
            );
        }
    }
    assert_eq!((device.drops(), device.truncated()), (0, 0));
    Ok(())
}

/// What one receive brings is acknowledged as a whole, and invites the sender to send as much at once.
fn large_packets_come_a_few_at_a_time() -> Outcome {
    const HUGE: usize = 60_000;
    let pair = Pair::new()?;
    let (device, wire) = device(&pair, &PacketConfig::default())?;
    pair.set_mtu(HUGE as u32)?;
    let sizes: Vec<_> = [[HUGE; 5], [40; 5], [HUGE; 5], [HUGE; 5]].concat();
    (0..).zip(&sizes).try_for_each(|(number, length)| wire.send(*length, number))?;
    let mut batch = RxBatch::new(64);
    let mut receives = Vec::new();
    while receives.iter().sum::<usize>() < sizes.len() {
        // All have been sent, but the last may be on its way still.
        wait(&device)?;
        device.recv(&mut batch)?;
        receives.push(batch.len());
        assert!(batch.iter().filter(|(_, packet)| packet.len() == HUGE).count() <= 9, "{receives:?}");
    }
    assert_eq!(receives.iter().sum::<usize>(), sizes.len());
    Ok(())
}

fn losses_of_a_full_ring_are_counted_exactly() -> Outcome {
    let pair = Pair::new()?;
    let (device, wire) = device(&pair, &PacketConfig { ring_frames: 240, ..PacketConfig::default() })?;
    assert_eq!(device.recv_queue_bytes(), 480 << 10);
    let mut batch = RxBatch::new(300);
    for round in 0..2 {
        let first = round * 300;
        (first..first + 300).try_for_each(|number| wire.send(40, number))?;
        let until = Instant::now() + PATIENCE;
        let dropped = u64::from(round + 1) * 61;
        while device.drops() < dropped && Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!(device.drops(), dropped);
        assert_eq!(device.recv(&mut batch)?, Drained::Yes);
        // The first ones are kept, in all frames but one, and afterwards it is as good as new.
        let kept = batch.iter().map(|(_, packet)| packet.to_vec());
        assert!(kept.eq((first..first + 239).map(|number| packet(40, number))));
    }
    Ok(())
}

fn losses_of_a_full_queue_are_counted_exactly() -> Outcome {
    let pair = Pair::new()?;
    let (device, wire) = device(&pair, &PacketConfig { recv_buffer: 64 << 10, ..PacketConfig::default() })?;
    assert_eq!(device.recv_queue_bytes(), 64 << 10);
    let sizes = [[LARGE; 20], [40; 20], [LARGE; 20]].concat();
    (0..).zip(&sizes).try_for_each(|(number, length)| wire.send(*length, number))?;
    let (mut large, mut small, mut last) = (0, 0, None);
    let mut batch = RxBatch::new(32);
    while large + small + device.drops() < sizes.len() as u64 {
        wait(&device)?;
        device.recv(&mut batch)?;
        for (_, packet) in batch.iter() {
            *if packet.len() == LARGE { &mut large } else { &mut small } += 1;
            let number = packet[24..28].to_vec();
            assert!(last.replace(number.clone()).is_none_or(|before| before < number));
        }
    }
    assert_eq!((small, large + device.drops()), (20, 40));
    assert!((2..40).contains(&large), "{large} of 40");
    Ok(())
}

/// A queue larger than the small ring is of use, which a system may refuse.
fn large_queues() -> io::Result<()> {
    const SETTING: &str = "/proc/sys/net/core/rmem_max";
    let most: usize = std::fs::read_to_string(SETTING)?.trim().parse().map_err(io::Error::other)?;
    let enough = most >= 4 << 20;
    if enough { Ok(()) } else { Err(io::Error::other(format!("{SETTING} of 4194304 or more"))) }
}

/// Two devices of the server, of which the first has a ring of so many frames.
fn near_and_far(pair: &Pair, frames: usize) -> io::Result<(PacketDevice, Arc<PacketDevice>, Wire)> {
    let (near, far, mac) = pair.server.run(|| {
        let interface = interface()?;
        let (near, far) = PacketDevice::open_near_and_far(&interface, frames, &PacketConfig::default())?;
        let far = far.ok_or_else(|| io::Error::other("one device is enough"))?;
        // As stacks do: in this order.
        near.set_ports(&PortSet::from_iter([PORT]))?;
        far.set_ports(&PortSet::from_iter([PORT]))?;
        io::Result::Ok((near, far, interface.mac()))
    })?;
    assert!(near.recv_queue_bytes() < far.recv_queue_bytes());
    Ok((near, far, Wire::new(&pair.client, mac)?))
}

/// The numbers of the packets that a device has.
fn numbers(device: &PacketDevice) -> io::Result<Vec<u32>> {
    let (mut batch, mut numbers) = (RxBatch::new(64), Vec::new());
    loop {
        let drained = device.recv(&mut batch)?;
        numbers.extend(
            batch.iter().map(|(_, packet)| u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]])),
        );
        if drained == Drained::Yes {
            return Ok(numbers);
        }
    }
}

fn another_device_takes_over_when_more_is_expected() -> Outcome {
    let pair = Pair::new()?;
    let (near, far, wire) = near_and_far(&pair, 240)?;
    (0..100).try_for_each(|number| wire.send(1500, number))?;
    // Those may wait while the other one begins.
    near.expect_more()?;
    near.expect_more()?;
    (100..3000).try_for_each(|number| wire.send(1500, number))?;
    assert!(numbers(&near)?.into_iter().eq(0..100));
    let (mut received, until) = (Vec::new(), Instant::now() + PATIENCE);
    while received.len() < 2900 && Instant::now() < until {
        received.extend(numbers(&far)?);
    }
    assert!(received.into_iter().eq(100..3000));
    // Other ports are the other one's, too.
    for device in [&near, &*far] {
        device.set_ports(&PortSet::from_iter([PORT, PORT + 1]))?;
    }
    wire.send(1500, 3000)?;
    wait(&far)?;
    assert_eq!((numbers(&near)?, numbers(&far)?), (vec![], vec![3000]));
    assert_eq!((near.drops(), far.drops()), (0, 0));
    Ok(())
}

fn nothing_is_lost_while_another_device_takes_over() -> Outcome {
    /// The small ring holds all of them.
    const MOST: u32 = 1000;
    /// What is sent before, and behind it.
    const SOME: u32 = 100;
    for _ in 0..10 {
        let pair = Pair::new()?;
        let (near, far, wire) = near_and_far(&pair, 1200)?;
        let (sent, has_taken_over) = (AtomicU32::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| -> io::Result<()> {
                let mut left = SOME;
                while left > 0 {
                    let number = sent.load(Ordering::Relaxed);
                    if has_taken_over.load(Ordering::Acquire) {
                        left -= 1;
                    } else if number == MOST - SOME {
                        std::thread::yield_now();
                        continue;
                    }
                    wire.send(1500, number)?;
                    sent.store(number + 1, Ordering::Relaxed);
                }
                Ok(())
            });
            while sent.load(Ordering::Relaxed) < SOME && !sender.is_finished() {
                std::hint::spin_loop();
            }
            let outcome = near.expect_more();
            has_taken_over.store(true, Ordering::Release);
            sender.join().map_err(|_| io::Error::other("the sender panicked"))?.and(outcome)
        })?;
        let sent = sent.into_inner();
        let (mut first, mut second, until) = (Vec::new(), Vec::new(), Instant::now() + PATIENCE);
        while second.last() != Some(&(sent - 1)) && Instant::now() < until {
            first.extend(numbers(&near)?);
            second.extend(numbers(&far)?);
        }
        // All from the first on by the one, all up to the last one by the other, and maybe some by both.
        let (end, start) = (first.len() as u32, sent - second.len() as u32);
        assert!(start <= end && end <= sent - SOME, "{sent}: by one up to {end}, by the other from {start} on");
        assert!(first.into_iter().eq(0..end) && second.into_iter().eq(start..sent));
    }
    Ok(())
}

/// And loses nothing by that.
fn a_peer_far_away_gets_a_window_larger_than_the_small_ring() -> Outcome {
    const LARGE_WINDOW: u64 = 2 << 20;
    const MOST: u64 = 256 << 20;
    let link = LinkConfig::default().with_delay(Duration::from_millis(20));
    let net = Emulated::new(EmulatorConfig::symmetric(link, 7))?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = net.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        // Until the other end has seen enough.
        let end = send(&mut stream, MOST).await;
        assert!(end.is_err(), "no large window in {MOST} bytes");
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let client = net.client.spawn_tokio(move || async move {
        let stack = Stack::builder().device(Device::Auto).build()?;
        let mut stream = soon("connect", stack.connect(addr(SERVER_V4, PORT))).await?;
        let mut bytes = vec![0; 64 << 10];
        while stream.tcp_info().rcv_wnd < LARGE_WINDOW {
            assert_ne!(soon("bytes", stream.read(&mut bytes)).await?, 0);
        }
        assert_eq!(stack.stats().receive_queue_drops, 0);
        drop(stream);
        stack.close().await;
        Outcome::Ok(())
    });
    client.join()?;
    server.join()
}

/// Nobody asks the queue of a socket with a ring, which the kernel would have told.
fn an_interface_that_goes_down_is_an_error_once() -> Outcome {
    let pair = Pair::new()?;
    for ring_frames in [0, 32] {
        let (device, wire) = device(&pair, &PacketConfig { ring_frames, ..PacketConfig::default() })?;
        let mut batch = RxBatch::new(8);
        pair.server.set_link_up(INTERFACE, false)?;
        wait(&device)?;
        let error = device.recv(&mut batch).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NetworkDown);
        assert_eq!((device.recv(&mut batch)?, batch.len()), (Drained::Yes, 0));
        pair.server.set_link_up(INTERFACE, true)?;
        let until = Instant::now() + PATIENCE;
        while batch.is_empty() {
            assert!(Instant::now() < until, "it carries nothing");
            // Refused, or lost, until both ends are up.
            let _ = wire.send(40, 1);
            device.recv(&mut batch)?;
        }
        assert_eq!(batch.packet(0).1, packet(40, 1));
    }
    Ok(())
}

/// It sends by a socket that nobody waits for otherwise.
fn a_full_interface_says_when_there_is_room() -> Outcome {
    let pair = Pair::new()?;
    let slow = format!("tc qdisc add dev {INTERFACE} root tbf rate 20mbit burst 10kb limit 4mb");
    run(&pair.server, &slow)?;
    let (device, wire) = device(&pair, &PacketConfig { send_buffer: 64 << 10, ..PacketConfig::default() })?;
    let bytes = packet(1500, 1);
    let full = TxPacket {
        dst: [10, 0, 0, 1].into(),
        scope: 0,
        link: Some([2, 0, 0, 0, 0, 1]),
        slices: &[IoSlice::new(&bytes)],
        segment_size: 0,
        checksum: TxChecksum::Complete,
    };
    says_when_there_is_room(&device, full)?;
    // What waits for that receives all the same.
    wire.send(40, 7)?;
    wait(&device)?;
    let mut batch = RxBatch::new(1);
    device.recv(&mut batch)?;
    assert_eq!(batch.packet(0).1, packet(40, 7));
    Ok(())
}

/// Fills a device with a packet, again and again, and has it say each time that there is room.
pub(crate) fn says_when_there_is_room(device: &dyn PacketIo, packet: TxPacket<'_>) -> Outcome {
    for _ in 0..3 {
        let mut sent = 0;
        loop {
            match device.send(&[packet]) {
                (1, None) => sent += 1,
                (0, Some(SendError::WouldBlock)) => break,
                other => panic!("{}: {other:?}", device.name()),
            }
            assert!(sent < 1000, "{}: it is never full", device.name());
        }
        assert!(sent > 0, "{}: there was no room", device.name());
        let writable = device.writable_fd().ok_or("a descriptor")?;
        let ready = poll(&mut [Interest::writable(writable)], Some(PATIENCE))?;
        assert_eq!(ready, 1, "{}: nobody says that there is room", device.name());
    }
    Ok(())
}
