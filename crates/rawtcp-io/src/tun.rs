//! TUN interfaces: to the kernel of this machine the stack is another host, behind a network interface that this device
//! is the other end of. Whole IP packets, with the offloads of a network card: packets of up to 64 KiB come and go as
//! one, with checksums that nobody has to compute.
//!
//! The stack's addresses are not the kernel's, so nothing has to keep the kernel quiet. A packet that is sent passes the
//! kernel's whole receive path inside the call: there is no queue that could be full. What comes waits in the interface's
//! own queue, a number of packets whatever their length.
//!
//! Fragments are received as they are, to be dropped and counted by whoever parses them.

mod addresses;

use std::fmt;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::batch::Portion;
use crate::network::rtnl::{Link, Rtnl};
use crate::network::{Interface, Network};
use crate::raw_ip::classify;
use crate::sys::{MAX_VECTORS, tun};
use crate::{Capabilities, Drained, PacketIo, PortSet, ReadySource, RxBatch, RxMeta, SendError, TxPacket, vnet};

/// Where the kernel hands out TUN interfaces.
const DEVICE: &str = "/dev/net/tun";

/// The name of an interface that nobody named; the kernel fills in the number.
const NAME: &str = "rawtcp%d";

/// Packets that may wait for us at an interface that we make: of 1,500 bytes as many as the receive queue of a raw
/// socket holds. The kernel's 500 are little more than a window.
const QUEUE: u32 = 4096;

/// I/O vectors of one packet, kept on the stack: a 64 KiB packet in 16 KiB pieces needs six.
const VECTORS: usize = 64;

/// How to open a TUN device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunConfig {
    /// The interface; `None`: a new one, `rawtcp` and a number. One that does not exist is made, which needs
    /// CAP_NET_ADMIN, and goes with the device. One that exists is used as it is.
    pub interface: Option<String>,
    /// The stack's addresses, each with the length of its network's prefix. Empty: those that
    /// [`TunDevice::addresses`] tells.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// One end of a TUN interface; the kernel has the other one.
#[derive(Debug)]
pub struct TunDevice {
    fd: OwnedFd,
    network: Arc<Network>,
    interface: Arc<Interface>,
    addresses: Vec<IpAddr>,
    recv_queue: usize,
    truncated: AtomicU64,
    /// What the interface had dropped before.
    dropped: u64,
    gone: AtomicBool,
    /// Packets to ask for at once.
    portion: Portion,
}

impl TunDevice {
    /// Opens the device in the network namespace of the calling thread.
    ///
    /// # Errors
    /// With a text that names the cure: `PermissionDenied` if /dev/net/tun may not be opened, or the interface not be
    /// made or used; `NotFound` without /dev/net/tun; `ResourceBusy` if another program uses the interface; `InvalidInput`
    /// if it is no TUN interface or the addresses do not fit; `NetworkDown` if it is switched off; `AddrNotAvailable`
    /// if it tells no address, or the kernel has the stack's itself.
    pub fn open(config: &TunConfig) -> io::Result<Self> {
        addresses::check(&config.addresses)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|errno| no_device(errno.into()))?;
        let mut rtnl = Rtnl::open()?;
        let named = config.interface.as_deref();
        let exists = rtnl.links()?.iter().any(|link| named == Some(&link.name));
        let name = tun::attach(fd.as_fd(), named.unwrap_or(NAME), libc::IFF_TUN)
            .map_err(|error| refused(error, named, exists))?;
        tun::set_header_length(fd.as_fd(), vnet::LENGTH)?;
        offload(fd.as_fd())?;
        let find = |rtnl: &mut Rtnl| {
            let link = rtnl.links()?.into_iter().find(|link| link.name == name);
            link.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
        };
        let mut link = find(&mut rtnl)?;
        let addresses = match exists {
            true => addresses::of_existing(&mut rtnl, &link, &config.addresses)?,
            false => {
                let addresses = addresses::configure(&mut rtnl, &link, &config.addresses)?;
                rtnl.set_up(link.index, QUEUE)?;
                link = find(&mut rtnl)?;
                addresses
            }
        };
        let network = Network::with(|other| other.index == link.index)?;
        addresses::check_foreign(&addresses, &network.local())?;
        let interface = network.interfaces().first().ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?.clone();
        Ok(Self {
            fd,
            dropped: network.dropped(link.index)?,
            network: Arc::new(network),
            interface,
            addresses,
            recv_queue: queue_bytes(&link),
            truncated: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            portion: Portion::new(),
        })
    }

    /// The interface.
    pub fn interface(&self) -> &Arc<Interface> {
        &self.interface
    }

    /// What the kernel knows of the interface: take its news, or nothing changes.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// The stack's addresses. Those that the configuration names; or else at an existing interface the other end of what
    /// the kernel has there, its peer's address or its neighbour's in the prefix; at a new one the second of the first
    /// free /30 in 10.114.97.0/24 and /64 in fd72:6177:7463::/48, of which the kernel gets the first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Sends one packet.
    fn send_one(&self, packet: &TxPacket<'_>) -> Result<(), SendError> {
        let headers = packet.slices.first().map_or(0, |headers| headers.len());
        let longest = if packet.segment_size == 0 { packet.len() } else { headers + usize::from(packet.segment_size) };
        // The kernel would take it: here it is a packet received, and those are not measured.
        if longest > self.interface.mtu() as usize {
            return Err(SendError::TooBig);
        }
        let prefix = vnet::build(packet, 0);
        let count = packet.slices.len() + 1;
        let mut few = [IoSlice::new(&[]); VECTORS];
        let mut many;
        let gathered;
        let vectors = if count <= VECTORS {
            &mut few[..count]
        } else if count <= MAX_VECTORS {
            many = vec![IoSlice::new(&[]); count];
            &mut many[..]
        } else {
            gathered = packet.slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>();
            few[1] = IoSlice::new(&gathered);
            &mut few[..2]
        };
        vectors[0] = IoSlice::new(&prefix);
        if count <= MAX_VECTORS {
            vectors[1..].copy_from_slice(packet.slices);
        }
        match rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, vectors)) {
            Ok(_) => Ok(()),
            Err(errno) => Err(self.classify(errno)),
        }
    }

    fn classify(&self, errno: Errno) -> SendError {
        match errno {
            // The interface is switched off, or was removed.
            Errno::IO | Errno::BADFD => {
                if errno == Errno::BADFD {
                    self.gone.store(true, Ordering::Relaxed);
                }
                SendError::Unreachable(Errno::NETDOWN.into())
            }
            other => classify(other.into()),
        }
    }
}

/// Asks the kernel to leave us as much as it can: an old one knows not all of it.
fn offload(fd: BorrowedFd<'_>) -> io::Result<()> {
    let segments = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    [segments | libc::TUN_F_TSO_ECN, segments, libc::TUN_F_CSUM]
        .into_iter()
        .map(|offload| tun::set_offload(fd, offload))
        .find(|result| !matches!(result, Err(error) if error.kind() == io::ErrorKind::InvalidInput))
        .unwrap_or(Ok(()))
}

/// What the queue is worth, as a socket would count it: a packet of the MTU for each place, charged with 1.6 times its
/// length.
fn queue_bytes(link: &Link) -> usize {
    link.queue.max(1) as usize * link.mtu as usize / 5 * 8
}

/// An error of this kind that says this.
fn error(kind: io::ErrorKind, text: impl fmt::Display) -> io::Error {
    io::Error::new(kind, text.to_string())
}

/// The program, for commands to copy.
fn program() -> String {
    std::env::current_exe().map_or_else(|_| "<program>".to_owned(), |path| path.display().to_string())
}

/// `/dev/net/tun` can not be opened.
fn no_device(cause: io::Error) -> io::Error {
    let text = match cause.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "{DEVICE} may not be opened ({cause}). Either let every user open it, which most systems do, and which gives no \
             right to any interface:\n  sudo chmod 666 {DEVICE}\nor run the program as root:\n  sudo {}",
            program()
        ),
        _ => format!(
            "there is no {DEVICE} ({cause}). Load the kernel's module:\n  sudo modprobe tun\nor, in a container, give it the \
             device:\n  --device {DEVICE}"
        ),
    };
    let kind = if cause.kind() == io::ErrorKind::PermissionDenied { cause.kind() } else { io::ErrorKind::NotFound };
    error(kind, text)
}

/// The kernel does not give us the interface.
fn refused(cause: io::Error, named: Option<&str>, exists: bool) -> io::Error {
    let name = named.unwrap_or("rawtcp0");
    let make = format!(
        "  sudo ip tuntap add dev {name} mode tun user $(id -un)\n  sudo ip addr add 10.114.97.1/30 dev {name}\n  \
         sudo ip link set {name} up"
    );
    match (cause.raw_os_error(), exists) {
        (Some(libc::EPERM | libc::EACCES), false) => {
            let program = program();
            let text = format!(
                "making a TUN interface needs the capability CAP_NET_ADMIN. Either make it once for this user, and choose it \
                 by its name, tun:{name}:\n{make}\nor give the capability to the program:\n  sudo setcap cap_net_admin+ep {program}\n\
                 or run it as root:\n  sudo {program}"
            );
            error(io::ErrorKind::PermissionDenied, text)
        }
        (Some(libc::EPERM | libc::EACCES), true) => {
            let text = format!(
                "the TUN interface {name} belongs to another user. Make it anew for this one:\n  \
                 sudo ip tuntap del dev {name} mode tun\n{make}\nor run the program as root:\n  sudo {}",
                program()
            );
            error(io::ErrorKind::PermissionDenied, text)
        }
        (Some(libc::EBUSY), _) => {
            let text =
                format!("another program uses the TUN interface {name}. End it, or choose another interface: tun:NAME");
            error(io::ErrorKind::ResourceBusy, text)
        }
        (Some(libc::EINVAL), true) => {
            let text = format!(
                "{name} is no TUN interface, or one with several queues. Choose another, or make one:\n  \
                 sudo ip tuntap add dev NAME mode tun user $(id -un)"
            );
            error(io::ErrorKind::InvalidInput, text)
        }
        _ => error(cause.kind(), format!("{name}: {cause}")),
    }
}

impl PacketIo for TunDevice {
    fn name(&self) -> &str {
        self.interface.name()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            mtu: self.interface.mtu(),
            max_segmentable: 65_535,
            tx_checksum: true,
            max_batch: 1,
            frames: false,
        }
    }

    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        batch.clear();
        let ifindex = self.interface.index();
        let most = self.portion.most();
        let meta = |header: &[u8; vnet::LENGTH]| {
            let (checksum, segment_size) = vnet::parse(header);
            RxMeta { checksum, segment_size, ifindex, ..RxMeta::IP }
        };
        let outcome = match tun::receive(self.fd.as_fd(), batch, most, meta) {
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                self.gone.store(true, Ordering::Relaxed);
                return Ok(Drained::Yes);
            }
            outcome => outcome?,
        };
        self.portion.learn(batch);
        if outcome.truncated > 0 {
            self.truncated.fetch_add(outcome.truncated as u64, Ordering::Relaxed);
        }
        Ok(if outcome.drained { Drained::Yes } else { Drained::Maybe })
    }

    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        for (sent, packet) in packets.iter().enumerate() {
            if let Err(error) = self.send_one(packet) {
                return (sent, Some(error));
            }
        }
        (packets.len(), None)
    }

    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Fd(self.fd.as_fd())
    }

    fn drops(&self) -> u64 {
        self.network.dropped(self.interface.index()).map_or(0, |dropped| dropped.saturating_sub(self.dropped))
    }

    fn truncated(&self) -> u64 {
        self.truncated.load(Ordering::Relaxed)
    }

    /// An interface that only left the namespace goes on working.
    fn is_gone(&self) -> bool {
        if !self.interface.is_removed() && !self.gone.load(Ordering::Relaxed) {
            return false;
        }
        !tun::is_attached(self.fd.as_fd())
    }

    /// Leaves the interface, which goes if it was made for this device.
    fn release(&self) {
        // Without /dev/null it is left when the device is dropped.
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            tun::replace(self.fd.as_fd(), null.as_fd());
        }
    }

    /// Does nothing: all that comes is for the stack.
    fn set_ports(&self, _ports: &PortSet) -> io::Result<()> {
        Ok(())
    }

    fn recv_queue_bytes(&self) -> usize {
        self.recv_queue
    }
}

impl AsRawFd for TunDevice {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_names_the_cure() {
        let text = |errno, named, exists| {
            let error = refused(io::Error::from_raw_os_error(errno), named, exists);
            (error.kind(), error.to_string())
        };
        let (kind, new) = text(libc::EPERM, None, false);
        assert_eq!(kind, io::ErrorKind::PermissionDenied);
        let own = std::env::current_exe().unwrap();
        for needle in [
            "CAP_NET_ADMIN".to_owned(),
            "sudo ip tuntap add dev rawtcp0 mode tun user $(id -un)".to_owned(),
            "sudo ip addr add 10.114.97.1/30 dev rawtcp0".to_owned(),
            "sudo ip link set rawtcp0 up".to_owned(),
            "tun:rawtcp0".to_owned(),
            format!("sudo setcap cap_net_admin+ep {}", own.display()),
        ] {
            assert!(new.contains(&needle), "{needle} in {new}");
        }
        let (kind, others) = text(libc::EPERM, Some("vpn1"), true);
        assert_eq!(kind, io::ErrorKind::PermissionDenied);
        assert!(
            others.contains("vpn1 belongs to another user") && others.contains("ip tuntap del dev vpn1"),
            "{others}"
        );
        assert_eq!(text(libc::EBUSY, Some("vpn1"), true).0, io::ErrorKind::ResourceBusy);
        assert_eq!(text(libc::EINVAL, Some("eth0"), true).0, io::ErrorKind::InvalidInput);
        let closed = no_device(io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(closed.kind(), io::ErrorKind::PermissionDenied);
        assert!(closed.to_string().contains("sudo chmod 666 /dev/net/tun"), "{closed}");
        for errno in [libc::ENOENT, libc::ENODEV, libc::ENXIO] {
            let none = no_device(io::Error::from_raw_os_error(errno));
            assert_eq!(none.kind(), io::ErrorKind::NotFound);
            assert!(none.to_string().contains("sudo modprobe tun"), "{none}");
        }
    }

    /// A pair of sockets that keeps messages apart, as the device does.
    #[test]
    fn packets_are_read_behind_their_headers_until_there_is_none() {
        use crate::OWNED_MIN;
        use crate::RxChecksum::{Partial, Unverified, Valid};
        use std::os::unix::net::UnixDatagram;
        let (kernel, ours) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut batch = RxBatch::new(4);
        let read = |batch: &mut RxBatch, most| {
            batch.clear();
            let meta = |header: &[u8; vnet::LENGTH]| {
                let (checksum, segment_size) = vnet::parse(header);
                RxMeta { checksum, segment_size, ..RxMeta::IP }
            };
            tun::receive(ours.as_fd(), batch, most, meta).unwrap()
        };
        let seen = |batch: &RxBatch| -> Vec<_> {
            batch.iter().map(|(meta, data)| (meta.checksum, meta.segment_size, data.len())).collect()
        };
        assert!(read(&mut batch, 4).drained && batch.is_empty());
        let header = |flags, kind, size: u16| {
            let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
            header[4..6].copy_from_slice(&size.to_ne_bytes());
            header
        };
        let large = vec![7; OWNED_MIN];
        for (header, packet) in [(header(1, 1, 1448), &large[..]), (header(2, 0, 0), b"small"), (header(0, 0, 0), b"")]
        {
            kernel.send(&[&header, packet].concat()).unwrap();
        }
        assert!(!read(&mut batch, 2).drained);
        assert_eq!(seen(&batch), [(Partial, 1448, OWNED_MIN), (Valid, 0, 5)]);
        assert!(batch.owner(0).is_some() && batch.owner(1).is_none());
        // Shorter than a header, which the device never is: an empty packet, for whoever parses it to drop.
        kernel.send(&[0; 3]).unwrap();
        assert!(read(&mut batch, 4).drained);
        assert_eq!(seen(&batch), [(Unverified, 0, 0), (Unverified, 0, 0)]);
        // As many as a slot holds may have been more.
        kernel.send(&vec![0; vnet::LENGTH + crate::RX_SLOT_SIZE + 1]).unwrap();
        assert_eq!((read(&mut batch, 4).truncated, batch.len()), (1, 0));
    }

    #[test]
    fn a_queue_is_worth_its_packets() {
        let mut link = Link {
            index: 1,
            name: "tun0".into(),
            mac: [0; 6],
            mtu: 1500,
            is_ethernet: false,
            is_up: true,
            queue: QUEUE,
        };
        assert!((8 << 20..12 << 20).contains(&queue_bytes(&link)));
        link.queue = 500;
        assert_eq!(queue_bytes(&link), 1_200_000);
    }
}
