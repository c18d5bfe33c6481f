//! AF_PACKET sockets: whole Ethernet frames, with the offloads of a network card. No more privilege than raw IP, and a
//! multiple of its speed: a packet of up to 64 KiB crosses the kernel as one and is cut into segments, and summed, where it
//! leaves; what arrives merged is received merged, and the kernel says what is known of its checksum.
//!
//! The kernel's own TCP/IP sees the same frames, behind this socket: guards keep it quiet as with raw IP sockets, while its
//! firewall does not apply to what is received here. Frames leave through the interface's queueing discipline.
//!
//! * **Receiving**: packets that fit into a frame of the receive [ring](PacketConfig::ring_frames) are taken from it
//!   without a system call; larger ones come by the socket's queue, straight into the buffer that is handed on.
//! * **Near and far**: a ring of few frames stays in the processor's caches, and peers that are near fill no more. One for the
//!   windows of peers far away does not. So there may be [two devices](PacketDevice::open_near_and_far), of which the
//!   second receives from when such a peer [appears](PacketIo::expect_more).
//! * **Fragments**: of IPv4, the kernel puts them together for this socket (`PACKET_FANOUT_FLAG_DEFRAG`). Those of IPv6
//!   are received as they are, to be dropped and counted by whoever parses them.
//! * **VLANs**: a tagged frame belongs to the VLAN's own interface, where it comes a second time, without the tag; the
//!   filter drops the first. A tag that the kernel has not stripped makes the frame no IP packet.
//! * **Frames for others** (forwarded by this host, say): [`RxMeta`] can not tell; the caller compares the destination
//!   with [`Network::local`](crate::network::Network::local).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Socket, Type};

use crate::batch::{LARGE_BATCH, Portion};
use crate::filter::{self, Start};
use crate::network::{Interface, Mac};
use crate::raw_ip::{classify, enlarge_receive_buffer};
use crate::sys::ring::{FRAME, Frame, Ring};
use crate::sys::{self, ReceiveOutcome, frames};
use crate::{
    Capabilities, Drained, PacketIo, PortSet, RX_SLOT_SIZE, ReadySource, RxBatch, RxMeta, SendError, TxPacket,
    privileges, vnet,
};

/// The length of an Ethernet header.
const ETHERNET: usize = 14;
/// What stands before an IP packet.
const PREFIX: usize = vnet::LENGTH + ETHERNET;

/// What the kernel charges the queue for a full packet at least.
const CHARGED: usize = 2048;

/// The protocol of a socket that receives nothing.
const NOTHING: libc::c_int = 0;

/// From `<linux/if_packet.h>`: all packets of a flow, in either direction, come to the same member.
const FANOUT_HASH: libc::c_int = 0;
/// Members take turns, which costs less than a hash where there is one.
const FANOUT_ROUND_ROBIN: libc::c_int = 1;
const FANOUT_FLAG_UNIQUE_ID: libc::c_int = 0x2000;
/// Older kernels (6.1) do not know it, nor do they tell: they have the filter look at all that is sent, which drops it.
const FANOUT_FLAG_IGNORE_OUTGOING: libc::c_int = 0x4000;
const FANOUT_FLAG_DEFRAG: libc::c_int = 0x8000;

/// How to open an AF_PACKET device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketConfig {
    /// Memory of the receive queue to ask for, in bytes as the kernel charges them; see
    /// [`RawConfig::recv_buffer`](crate::RawConfig::recv_buffer).
    pub recv_buffer: usize,
    /// Memory for frames that wait in the interface's queue, likewise. Without CAP_NET_ADMIN no more than twice
    /// `net.core.wmem_max` is given.
    pub send_buffer: usize,
    /// Frames of the receive ring, [`RING_FRAME`](Self::RING_FRAME) bytes each, which the kernel allocates at once, beside `recv_buffer`: each packet,
    /// of whatever length, takes one until it is received, and when none but the last is left, packets are dropped. A
    /// multiple of 40 at least as large is made. 0: no ring, and everything comes by the queue; as where the system
    /// refuses one.
    pub ring_frames: usize,
}

impl PacketConfig {
    /// Bytes of a frame of the receive ring: an IP packet of up to 1510 bytes, and what the kernel says of it.
    pub const RING_FRAME: usize = FRAME;
}

impl Default for PacketConfig {
    /// 8 MiB for what is received, a ring of 6.4 MiB, and 4 MiB, some sixty of the largest packets, for what is sent.
    fn default() -> Self {
        Self { recv_buffer: 8 << 20, send_buffer: 4 << 20, ring_frames: 4080 }
    }
}

/// The ring, and whether it is alive.
#[derive(Debug)]
struct Receiver {
    ring: Ring,
    /// There was something in it since it was last found empty.
    taken: bool,
    /// It was found empty, with new drops and nothing taken, the last time.
    suspected: bool,
    /// [`PacketDevice::drops`] then.
    drops: u64,
}

/// AF_PACKET sockets on one Ethernet interface: one that receives, and one that sends.
#[derive(Debug)]
pub struct PacketDevice {
    /// Receives. It is waited for, and each packet that leaves such a socket has the kernel look through who waits, to tell
    /// them that there is room again.
    socket: Socket,
    /// Sends. Only while it is full anybody waits for it.
    sender: Socket,
    interface: Arc<Interface>,
    recv_buffer: usize,
    /// Locked for the length of a receive.
    ring: Mutex<Option<Receiver>>,
    truncated: AtomicU64,
    drops: AtomicU64,
    /// Frames to ask for at once, without a ring.
    portion: Portion,
    /// Takes its place when more is expected.
    far: Option<Far>,
}

/// Who receives instead of a device when more is expected.
#[derive(Debug)]
struct Far {
    device: Arc<PacketDevice>,
    /// More was expected.
    was_asked: AtomicBool,
    /// It does receive. Locked while the other one's filter is changed, which no receive waits for.
    receives: Mutex<bool>,
}

impl Far {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.receives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PacketDevice {
    /// Opens the sockets in the network namespace of the calling thread, which must be the interface's. They deliver
    /// nothing until [`PacketIo::set_ports`] is called.
    ///
    /// # Errors
    /// Without CAP_NET_RAW: `PermissionDenied` around a [`MissingPrivilege`](crate::MissingPrivilege).
    pub fn open(interface: &Arc<Interface>, config: &PacketConfig) -> io::Result<Self> {
        let device = Self::make(interface, config)?;
        device.start(FANOUT_ROUND_ROBIN, None)?;
        Ok(device)
    }

    /// Opens a device with a ring of `near_frames`, and another one that receives instead from the first
    /// [`PacketIo::expect_more`] of the first one on, and nothing before. Both need the same [ports](PacketIo::set_ports). Around
    /// that moment packets may come by both, and those of the second are newer than what the first has still.
    ///
    /// Where the system gives a queue so small that a larger ring is of no use, there is only one, as `config` says.
    ///
    /// # Errors
    /// As [`PacketDevice::open`].
    pub fn open_near_and_far(
        interface: &Arc<Interface>,
        near_frames: usize,
        config: &PacketConfig,
    ) -> io::Result<(Self, Option<Arc<Self>>)> {
        // When an interface comes up again the kernel registers sockets in the order in which they were made, and the latest
        // sees packets first, among them what it has put together from fragments.
        let near = Self::make(interface, &PacketConfig { ring_frames: near_frames, ..config.clone() })?;
        let far = Self::make(interface, config)?;
        if far.recv_queue_bytes() <= near.recv_queue_bytes() {
            drop(near);
            far.start(FANOUT_ROUND_ROBIN, None)?;
            return Ok((far, None));
        }
        near.start(FANOUT_ROUND_ROBIN, None)?;
        let far = Arc::new(far);
        let known = Far { device: far.clone(), was_asked: AtomicBool::new(false), receives: Mutex::new(false) };
        Ok((Self { far: Some(known), ..near }, Some(far)))
    }

    /// Opens several devices between which the kernel spreads what the interface receives (`PACKET_FANOUT_HASH`): all
    /// packets of a connection come by the same one, in their order, but nobody knows beforehand by which. So all of
    /// them need the same [ports](PacketIo::set_ports), and each has a receive queue of its own. They may be read by
    /// several threads, and any of them sends to anybody. The spread holds for as long as all of them are open. None at
    /// all for a number of 0.
    ///
    /// # Errors
    /// As [`PacketDevice::open`].
    pub fn open_several(interface: &Arc<Interface>, config: &PacketConfig, number: usize) -> io::Result<Vec<Self>> {
        if number == 1 {
            return Ok(vec![Self::open(interface, config)?]);
        }
        let devices = (0..number).map(|_| Self::make(interface, config)).collect::<io::Result<Vec<_>>>()?;
        let mut group = None;
        for device in &devices {
            group = Some(device.start(FANOUT_HASH, group)?);
        }
        Ok(devices)
    }

    /// A socket that is bound to nothing, and so receives nothing before its filter stands.
    fn socket() -> io::Result<Socket> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).map_err(privileges::explain)?;
        socket.set_nonblocking(true)?;
        sys::set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1 as libc::c_int)?;
        Ok(socket)
    }

    /// A device that receives nothing yet.
    fn make(interface: &Arc<Interface>, config: &PacketConfig) -> io::Result<Self> {
        let (socket, sender) = (Self::socket()?, Self::socket()?);
        enlarge_send_buffer(&sender, config.send_buffer)?;
        frames::bind(sender.as_fd(), interface.index(), NOTHING)?;
        filter::attach(&socket, &filter::drop_all())?;
        let fd = socket.as_fd();
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1 as libc::c_int)?;
        let recv_buffer = enlarge_receive_buffer(&socket, config.recv_buffer)?;
        // Without one everything comes by the queue.
        let ring = if config.ring_frames > 0 { Ring::map(fd, config.ring_frames)? } else { None };
        Ok(Self {
            interface: interface.clone(),
            recv_buffer: ring.as_ref().map_or(recv_buffer, |ring| recv_buffer.min(ring.frames() * CHARGED)),
            ring: Mutex::new(ring.map(|ring| Receiver { ring, taken: false, suspected: false, drops: 0 })),
            socket,
            sender,
            truncated: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            portion: Portion::new(),
            far: None,
        })
    }

    /// Receives from here on, see [`join`](Self::join).
    fn start(&self, kind: libc::c_int, group: Option<u16>) -> io::Result<u16> {
        self.bind()?;
        self.join(kind, group)
    }

    fn bind(&self) -> io::Result<()> {
        frames::bind(self.fd(), self.interface.index(), libc::ETH_P_ALL)
    }

    /// Joins a fan-out group, or begins one, with an identity that no other of the namespace has. Says which it is.
    fn join(&self, kind: libc::c_int, group: Option<u16>) -> io::Result<u16> {
        let unique = if group.is_none() { FANOUT_FLAG_UNIQUE_ID } else { 0 };
        let flags = kind | unique | FANOUT_FLAG_IGNORE_OUTGOING | FANOUT_FLAG_DEFRAG;
        let value = flags << 16 | libc::c_int::from(group.unwrap_or(0));
        sys::set_option(self.fd(), libc::SOL_PACKET, libc::PACKET_FANOUT, value)?;
        let [joined] = sys::get_option::<1>(self.fd(), libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        Ok(joined as u16)
    }

    /// The interface.
    pub fn interface(&self) -> &Arc<Interface> {
        &self.interface
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn lock_ring(&self) -> MutexGuard<'_, Option<Receiver>> {
        // What a panic left behind is whole: a frame is given back after it was taken.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the virtio-net header says of a packet.
    fn meta(&self, prefix: &[u8; PREFIX]) -> Option<RxMeta> {
        let (offload, _) = prefix.split_first_chunk::<{ vnet::LENGTH }>()?;
        let (checksum, segment_size) = vnet::parse(offload);
        Some(RxMeta { checksum, segment_size, ifindex: self.interface.index(), ..RxMeta::IP })
    }

    /// Receives up to `most` packets from the socket's queue, behind those that the batch holds.
    fn receive(&self, batch: &mut RxBatch, most: usize) -> io::Result<ReceiveOutcome> {
        let outcome = frames::receive(self.fd(), batch, most, |prefix| self.meta(prefix))?;
        if outcome.truncated > 0 {
            self.truncated.fetch_add(outcome.truncated as u64, Ordering::Relaxed);
        }
        Ok(outcome)
    }

    /// Whether nothing will ever come by an empty ring again. A kernel that fails to describe a packet by a virtio-net
    /// header (one merged from something else than TCP, which a virtual machine may make up) never uses that frame of the
    /// ring again, and drops all that comes behind it.
    fn is_dead(&self, receiver: &mut Receiver) -> bool {
        let drops = self.drops();
        let silent = drops > receiver.drops && !receiver.taken && receiver.ring.frame(0).is_none();
        // Twice, with nothing taken in between: another thread may have fetched older drops from the kernel, and be about to
        // add them up.
        let suspected = receiver.suspected && !receiver.taken;
        (receiver.taken, receiver.suspected, receiver.drops) = (false, silent || suspected, drops);
        silent && suspected
    }

    /// Has everything come by the queue from here on.
    fn end(&self, ring: &mut Option<Receiver>) {
        *ring = ring.take().and_then(|receiver| {
            let ring = receiver.ring.end(self.fd()).err().flatten()?;
            Some(Receiver { ring, ..receiver })
        });
    }

    /// Receives what the ring has, in order, and of large packets as many as without a ring.
    fn take(&self, receiver: &mut Receiver, batch: &mut RxBatch) -> io::Result<Drained> {
        let ring = &mut receiver.ring;
        let mut room = LARGE_BATCH * RX_SLOT_SIZE;
        while !batch.is_full() && room > 0 {
            let (mut taken, mut lost) = (1, 0);
            match ring.frame(0) {
                Some(Frame::Whole(frame)) => match frame.split_first_chunk::<PREFIX>() {
                    Some((prefix, packet)) => {
                        if let Some(meta) = self.meta(prefix) {
                            batch.push(meta, packet);
                        }
                    }
                    None => lost = 1,
                },
                Some(Frame::Queued(bytes)) => {
                    room = room.saturating_sub(bytes);
                    let mut most = 1;
                    while let Some(Frame::Queued(bytes)) = ring.frame(most)
                        && bytes <= room
                        && most < sys::BATCH
                    {
                        room -= bytes;
                        most += 1;
                    }
                    taken = match self.receive(batch, most) {
                        Ok(outcome) => outcome.received,
                        Err(error) if batch.is_empty() => return Err(error),
                        // What was received must not be lost for an error that says nothing of it.
                        Err(_) => return Ok(Drained::Maybe),
                    };
                    if taken == 0 {
                        (taken, lost) = (1, 1);
                    }
                }
                Some(Frame::Lost) => lost = 1,
                None if batch.is_empty() => {
                    // Nobody asks the queue, which would have told that the interface is down.
                    return self.socket.take_error()?.map_or(Ok(Drained::Yes), Err);
                }
                None => return Ok(Drained::Yes),
            }
            ring.release(taken);
            receiver.taken = true;
            if lost > 0 {
                self.drops.fetch_add(lost, Ordering::Relaxed);
            }
        }
        Ok(Drained::Maybe)
    }

    /// The virtio-net header and the Ethernet header.
    fn prefix(&self, packet: &TxPacket<'_>, to: Mac) -> [u8; PREFIX] {
        let mut prefix = [0; PREFIX];
        let protocol = if packet.dst.is_ipv4() { libc::ETH_P_IP } else { libc::ETH_P_IPV6 } as u16;
        let (offload, ethernet) = prefix.split_at_mut(vnet::LENGTH);
        offload.copy_from_slice(&vnet::build(packet, ETHERNET as u16));
        ethernet[..6].copy_from_slice(&to);
        ethernet[6..12].copy_from_slice(&self.interface.mac());
        ethernet[12..].copy_from_slice(&protocol.to_be_bytes());
        prefix
    }
}

/// Asks for memory for what is sent; what is not given is done without.
fn enlarge_send_buffer(socket: &Socket, wanted: usize) -> io::Result<()> {
    let half = libc::c_int::try_from(wanted / 2).unwrap_or(libc::c_int::MAX / 2);
    if sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, half).is_err() {
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, half)?;
    }
    Ok(())
}

impl PacketIo for PacketDevice {
    fn name(&self) -> &str {
        self.interface.name()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: self.interface.mtu(),
            max_segmentable: 65_535,
            tx_checksum: true,
            max_batch: sys::BATCH,
            frames: true,
        }
    }

    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        batch.clear();
        let mut ring = self.lock_ring();
        if let Some(receiver) = &mut *ring {
            let drained = self.take(receiver, batch);
            if batch.is_empty() && self.is_dead(receiver) {
                self.end(&mut ring);
            }
            return drained;
        }
        let outcome = self.receive(batch, self.portion.most())?;
        self.portion.learn(batch);
        // Fewer than asked for means that the kernel found the queue empty.
        Ok(if outcome.received < outcome.asked { Drained::Yes } else { Drained::Maybe })
    }

    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        // Without a next hop a packet is not for this device.
        let fit = packets.iter().position(|packet| packet.link.is_none()).unwrap_or(packets.len());
        let prefix = |packet: &TxPacket<'_>| self.prefix(packet, packet.link.unwrap_or_default());
        match frames::send(self.sender.as_fd(), &packets[..fit], prefix) {
            (sent, Some(error)) => (sent, Some(classify(error))),
            (sent, None) if sent < packets.len() => (sent, Some(SendError::Other(io::ErrorKind::Unsupported.into()))),
            (sent, None) => (sent, None),
        }
    }

    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Fd(self.fd())
    }

    fn writable_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.sender.as_fd())
    }

    fn drops(&self) -> u64 {
        // `struct tpacket_stats`: packets and drops, which begin at zero again with every look.
        let new = sys::get_option::<2>(self.fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS).map_or(0, |[_, new]| new);
        self.drops.fetch_add(u64::from(new), Ordering::Relaxed) + u64::from(new)
    }

    fn truncated(&self) -> u64 {
        self.truncated.load(Ordering::Relaxed)
    }

    fn expect_poll(&self) {
        if let Some(receiver) = &mut *self.lock_ring() {
            receiver.ring.give_back();
        }
    }

    fn expect_more(&self) -> io::Result<()> {
        let Some(far) = &self.far else { return Ok(()) };
        if far.was_asked.load(Ordering::Relaxed) || far.was_asked.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        far.device.bind()?;
        // It receives, even if that fails; what it does not get then is fragments.
        let joined = far.device.join(FANOUT_ROUND_ROBIN, None);
        let mut receives = far.lock();
        *receives = true;
        // Before, packets come twice.
        filter::attach(&self.socket, &filter::drop_all())?;
        joined.map(drop)
    }

    fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
        let far_receives = self.far.as_ref().map(Far::lock);
        let program = match far_receives.as_deref() {
            Some(true) => filter::drop_all().to_vec(),
            _ => filter::destination_ports(Start::Ethernet, ports, &[]),
        };
        filter::attach(&self.socket, &program)
    }

    fn recv_queue_bytes(&self) -> usize {
        self.recv_buffer
    }
}

/// The socket that receives; for the one that sends see [`PacketIo::writable_fd`].
impl AsRawFd for PacketDevice {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns;
    use crate::network::Network;
    use rustix::event::{Timespec, epoll};
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::mem::MaybeUninit;
    use std::os::unix::fs::OpenOptionsExt;

    const PORT: u16 = 4700;
    const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

    /// A frame to this port behind a virtio-net header; `kind` says from what it was merged.
    fn frame(to: Mac, kind: u8, number: u8) -> Vec<u8> {
        let mut frame = vec![0; PREFIX + 200];
        if kind != 0 {
            // An unfinished checksum, and segments of 100 bytes behind 54 of headers.
            frame[..2].copy_from_slice(&[1, kind]);
            for (at, value) in [(2, 54_u16), (4, 100), (6, 34), (8, 6)] {
                frame[at..at + 2].copy_from_slice(&value.to_ne_bytes());
            }
        }
        let ethernet = &mut frame[vnet::LENGTH..];
        ethernet[..6].copy_from_slice(&to);
        ethernet[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 8, 0]);
        ethernet[14..24].copy_from_slice(&[0x45, 0, 0, 200, 0, 0, 0x40, 0, 64, 6]);
        ethernet[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        ethernet[36..38].copy_from_slice(&PORT.to_be_bytes());
        ethernet[213] = number;
        frame
    }

    /// What a virtual machine behind a bridge, say, may send: the kernel does not find a header for it, and the frame of
    /// the ring that it was for is lost to both sides.
    fn a_packet_that_kills_the_ring() -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut tap: File = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        sys::tun::attach(tap.as_fd(), "tap0", libc::IFF_TAP)?;
        netns::bring_up("tap0")?;
        let network = Network::open()?;
        let interface = network.interfaces()[0].clone();
        let device = PacketDevice::open(&interface, &PacketConfig { ring_frames: 32, ..PacketConfig::default() })?;
        device.set_ports(&PortSet::from_iter([PORT]))?;
        // As drivers wait: by edges, of which there is one although the ring was and is empty.
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, device.fd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        let mut batch = RxBatch::new(8);
        let mut receive = || -> io::Result<Vec<u8>> {
            let edges = epoll::wait(&epoll, &mut [MaybeUninit::uninit()], Some(&PATIENCE))?.0.len();
            assert_eq!(edges, 1, "nobody was woken");
            let mut seen = Vec::new();
            loop {
                let drained = device.recv(&mut batch)?;
                seen.extend(batch.iter().map(|(_, packet)| packet[199]));
                if drained == Drained::Yes {
                    return Ok(seen);
                }
            }
        };
        let mac = interface.mac();
        let mut exchange = |kind, number| {
            tap.write_all(&frame(mac, kind, number))?;
            receive()
        };
        for number in 1..50 {
            // The first edge may be that of the empty ring.
            let seen = exchange(0, number)?;
            assert!(seen == [number] || number == 1 && seen.is_empty(), "{number}: {seen:?}");
        }
        assert_eq!(exchange(3, 50)?, []);
        // What finds the ring dead is lost; a kernel that does not lose the frame goes on.
        let found = [exchange(0, 51)?, exchange(0, 52)?].concat();
        assert!(found.is_empty() || found == [51, 52], "{found:?}");
        for number in 53..100 {
            assert_eq!(exchange(0, number)?, [number]);
        }
        assert_eq!(device.drops(), 3 - found.len() as u64);
        Ok(())
    }

    #[test]
    fn a_dead_ring_is_given_up() {
        match netns::run_in_new_namespace(a_packet_that_kills_the_ring) {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) =>
            {
                let text =
                    format!("\n*** SKIPPED a_dead_ring_is_given_up: it needs root and /dev/net/tun ({error}) ***\n");
                // Not by eprintln!, which the test harness swallows.
                writeln!(io::stderr(), "{text}").ok();
            }
            Ok(Err(error)) | Err(error) => panic!("{error}"),
        }
    }
}
