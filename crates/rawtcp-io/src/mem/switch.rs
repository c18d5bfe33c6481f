//! The loopback inside the process: stacks without privilege talk to each other, and to themselves.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use super::{MemConfig, Queue, gather};
use crate::{Capabilities, Drained, PacketIo, PortSet, ReadySource, RxBatch, SendError, TxPacket};

/// The ephemeral ports which Linux gives by default (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// Carries packets for 127.0.0.0/8 and ::1 between the devices attached to it, to the one that reserved the destination
/// port. There is one for the [process](Switch::process); tests may make their own.
#[derive(Clone, Debug, Default)]
pub struct Switch {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    /// By port; addresses under one port never overlap.
    ports: HashMap<u16, Vec<Entry>>,
    /// Ephemeral ports given so far.
    given: u32,
}

#[derive(Debug)]
struct Entry {
    ip: IpAddr,
    v6only: bool,
    queue: Weak<Queue>,
}

impl Entry {
    /// How well the entry fits a destination: exact address over wildcard over dual-stack wildcard.
    fn fits(&self, dst: IpAddr) -> u8 {
        match (self.ip, dst) {
            (ip, dst) if ip == dst => 3,
            (IpAddr::V4(ip), IpAddr::V4(_)) if ip.is_unspecified() => 2,
            (IpAddr::V6(ip), IpAddr::V6(_)) if ip.is_unspecified() => 2,
            (IpAddr::V6(ip), IpAddr::V4(_)) if ip.is_unspecified() && !self.v6only => 1,
            _ => 0,
        }
    }

    /// Whether both could be meant by one destination, so that they can not both be reserved.
    fn overlaps(&self, ip: IpAddr, v6only: bool) -> bool {
        let other = Self { ip, v6only, queue: Weak::new() };
        self.fits(ip) > 0 || other.fits(self.ip) > 0
    }
}

impl Switch {
    /// A switch of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// The switch which all stacks of this process share.
    pub fn process() -> &'static Self {
        static PROCESS: LazyLock<Switch> = LazyLock::new(Switch::default);
        &PROCESS
    }

    /// Attaches a device, detached again when the device and all its reservations are dropped.
    pub fn attach(&self, config: MemConfig) -> LoopbackDevice {
        LoopbackDevice { config, switch: self.clone(), inbound: Arc::new(Queue::new(config.queue_bytes)) }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue of whoever reserved the address.
    fn owner(&self, dst: SocketAddr) -> Option<Arc<Queue>> {
        let table = self.lock();
        let entry = table.ports.get(&dst.port())?.iter().max_by_key(|entry| entry.fits(dst.ip()))?;
        if entry.fits(dst.ip()) > 0 { entry.queue.upgrade() } else { None }
    }
}

impl Table {
    fn is_free(&self, ip: IpAddr, port: u16, v6only: bool) -> bool {
        self.ports.get(&port).is_none_or(|entries| !entries.iter().any(|entry| entry.overlaps(ip, v6only)))
    }

    fn ephemeral(&mut self, ip: IpAddr, v6only: bool) -> Option<u16> {
        let count = u32::from(EPHEMERAL.end() - EPHEMERAL.start()) + 1;
        for _ in 0..count {
            let port = EPHEMERAL.start() + (self.given % count) as u16;
            self.given = self.given.wrapping_add(1);
            if self.is_free(ip, port, v6only) {
                return Some(port);
            }
        }
        None
    }
}

/// A stack's end of the [`Switch`].
///
/// Packets to a port nobody reserved come back to the sender: there is no kernel here that would answer them, so the
/// stack that receives a segment fitting nothing answers it itself.
#[derive(Debug)]
pub struct LoopbackDevice {
    config: MemConfig,
    switch: Switch,
    inbound: Arc<Queue>,
}

/// Who receives what is sent to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// The sender itself.
    Own,
    /// Nobody: such packets come back.
    Nobody,
    /// Another device.
    Other {
        /// Packets that wait to be taken out of its queue.
        waiting: usize,
        /// Packets that were taken out of it, ever: who does is alive.
        taken: u64,
    },
}

impl LoopbackDevice {
    /// Who would receive a packet to this address.
    pub fn receiver(&self, dst: SocketAddr) -> Receiver {
        match self.switch.owner(SocketAddr::new(dst.ip().to_canonical(), dst.port())) {
            None => Receiver::Nobody,
            Some(queue) if Arc::ptr_eq(&queue, &self.inbound) => Receiver::Own,
            Some(queue) => {
                let pending = queue.lock();
                Receiver::Other { waiting: pending.packets.len(), taken: pending.taken }
            }
        }
    }

    /// Whether an address can be bound to.
    ///
    /// # Errors
    /// `AddrNotAvailable` for all but loopback and unspecified addresses.
    pub fn check_address(addr: SocketAddr) -> io::Result<()> {
        let ip = addr.ip().to_canonical();
        if ip.is_loopback() || ip.is_unspecified() {
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
    }

    /// Reserves a port for this device, as a [`Guard`](crate::Guard) does with the kernel. Port 0: the switch chooses.
    ///
    /// # Errors
    /// `AddrInUse` if the port is reserved on an overlapping address or the ephemeral ports have run out;
    /// `AddrNotAvailable` if the address is neither loopback nor a wildcard.
    pub fn reserve(&self, addr: SocketAddr, v6only: bool) -> io::Result<Reservation> {
        Self::check_address(addr)?;
        let ip = addr.ip().to_canonical();
        let in_use = || io::Error::from_raw_os_error(libc::EADDRINUSE);
        let mut table = self.switch.lock();
        let port = match addr.port() {
            0 => table.ephemeral(ip, v6only).ok_or_else(in_use)?,
            port if table.is_free(ip, port, v6only) => port,
            _ => return Err(in_use()),
        };
        let entry = Entry { ip, v6only, queue: Arc::downgrade(&self.inbound) };
        table.ports.entry(port).or_default().push(entry);
        let local = SocketAddr::new(addr.ip(), port);
        Ok(Reservation { switch: self.switch.clone(), local, _queue: self.inbound.clone() })
    }

    fn send_one(&self, packet: &TxPacket<'_>) -> Result<Arc<Queue>, SendError> {
        self.config.check(packet)?;
        let dst = packet.dst.to_canonical();
        if !dst.is_loopback() {
            return Err(SendError::Unreachable(io::Error::from_raw_os_error(libc::ENETUNREACH)));
        }
        let (meta, data) = gather(packet);
        let queue = destination_port(&data)
            .and_then(|port| self.switch.owner(SocketAddr::new(dst, port)))
            .unwrap_or_else(|| self.inbound.clone());
        queue.push(meta, data);
        Ok(queue)
    }
}

/// Destination port of a TCP packet without IPv6 extension headers.
fn destination_port(packet: &[u8]) -> Option<u16> {
    let (protocol, header) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, usize::from(packet[0] & 15) * 4),
        6 => (*packet.get(6)?, 40),
        _ => return None,
    };
    let port = packet.get(header + 2..header + 4)?;
    (protocol == libc::IPPROTO_TCP as u8).then(|| u16::from_be_bytes([port[0], port[1]]))
}

impl PacketIo for LoopbackDevice {
    fn name(&self) -> &str {
        "loopback"
    }
    fn capabilities(&self) -> Capabilities {
        self.config.capabilities()
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        Ok(self.inbound.recv(batch))
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        let mut result = (packets.len(), None);
        // Woken once per run of packets to the same receiver.
        let mut last: Option<Arc<Queue>> = None;
        for (i, packet) in packets.iter().enumerate() {
            match self.send_one(packet) {
                Ok(queue) => {
                    if last.as_ref().is_some_and(|last| !Arc::ptr_eq(last, &queue)) {
                        last.iter().for_each(|last| last.wake.wake());
                    }
                    last = Some(queue);
                }
                Err(error) => {
                    result = (i, Some(error));
                    break;
                }
            }
        }
        last.iter().for_each(|last| last.wake.wake());
        result
    }
    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Waker(&self.inbound.wake)
    }
    fn drops(&self) -> u64 {
        self.inbound.drops()
    }
    /// Does nothing: reservations decide.
    fn set_ports(&self, _ports: &PortSet) -> io::Result<()> {
        Ok(())
    }
    fn recv_queue_bytes(&self) -> usize {
        self.config.queue_bytes
    }
}

/// A port reserved on a [`Switch`]; freed on drop.
#[derive(Debug)]
pub struct Reservation {
    switch: Switch,
    local: SocketAddr,
    /// Keeps the device's queue, and so the answer to "whose port is it", until the port is free.
    _queue: Arc<Queue>,
}

impl Reservation {
    /// The reserved address, with the port the switch chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut table = self.switch.lock();
        let (ip, port) = (self.local.ip().to_canonical(), self.local.port());
        if let Some(entries) = table.ports.get_mut(&port) {
            // Addresses under one port do not overlap, so at most one entry has this one.
            entries.retain(|entry| entry.ip != ip);
            if entries.is_empty() {
                table.ports.remove(&port);
            }
        }
    }
}
