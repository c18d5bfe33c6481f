//! Whole async programs in virtual time: hosts around a hub, each with a link up to it and a link down from it.
//!
//! A [`Star`] makes devices for `rawtcp` stacks. What a stack sends goes through its host's link to the hub, and from
//! there through the link to the host that has the destination; what nobody has is gone. Links lose, delay and reorder as
//! they do everywhere in this crate. Time is tokio's: paused (`start_paused`), an hour passes in seconds, and the same
//! seed gives the same packets at the same times. tokio's timers step by a millisecond: a packet that is due in between
//! is delivered at the next step, in its order. (Between the links times are exact.)
//!
//! This is all that a test of a program needs; `rawtcp::Device` and `Stack` are in the `rawtcp` crate:
//!
//! ```
//! use rawtcp::{Device, Stack};
//! use rawtcp_sim::{LinkConfig, Loss, Star};
//! use std::net::IpAddr;
//! use std::time::Duration;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! fn host(star: &Star, ip: &str, number: u8) -> Stack {
//!     let link = LinkConfig::default().with_delay(Duration::from_millis(25)).with_loss(Loss::Uniform(0.05));
//!     let addresses: Vec<IpAddr> = vec![ip.parse().unwrap()];
//!     let device = Device::Own { io: star.host(&addresses, link, link), addresses };
//!     // A seed of its own: sequence numbers and ports follow from it. Nobody answers at the end of a test.
//!     Stack::builder().device(device).seed([number; 32]).exit_drain(Duration::ZERO).build().unwrap()
//! }
//!
//! #[tokio::main(flavor = "current_thread", start_paused = true)] // in a test: #[tokio::test(start_paused = true)]
//! async fn main() {
//!     let star = Star::new(42);
//!     let (server, client) = (host(&star, "10.0.0.1", 1), host(&star, "10.0.0.2", 2));
//!     let listener = server.bind("10.0.0.1:80").await.unwrap();
//!     tokio::spawn(async move {
//!         while let Ok((mut stream, _)) = listener.accept().await {
//!             tokio::spawn(async move {
//!                 let (mut reader, mut writer) = stream.split();
//!                 tokio::io::copy(&mut reader, &mut writer).await
//!             });
//!         }
//!     });
//!     let start = tokio::time::Instant::now();
//!     while start.elapsed() < Duration::from_secs(3600) {
//!         let mut stream = client.connect("10.0.0.1:80").await.unwrap();
//!         stream.write_all(b"ping").await.unwrap();
//!         stream.shutdown().await.unwrap();
//!         let mut answer = Vec::new();
//!         stream.read_to_end(&mut answer).await.unwrap();
//!         assert_eq!(answer, b"ping");
//!         tokio::time::sleep(Duration::from_secs(10)).await;
//!     }
//! }
//! ```

use crate::link::{Link, LinkConfig, LinkStats};
use crate::network::{HostId, destination};
use crate::trace::{Record, Way};
use bytes::{Bytes, BytesMut};
use rawtcp_io::{
    Capabilities, Drained, PacketIo, PortSet, ReadySource, RxBatch, RxMeta, SendError, TxChecksum, TxPacket, WakeSlot,
};
use rawtcp_proto::Instant;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;

/// The MTU of links that name none: Ethernet's.
const MTU: u32 = 1500;

/// What a host's receive queue holds, as the kernel counts: 512 bytes a packet beside its own.
const QUEUE: usize = 8 << 20;
const OVERHEAD: usize = 512;

/// Where the clock of the links starts: not at zero, so that a time before the start can be told.
const START: Instant = Instant::from_secs(1);

type Watcher = Box<dyn FnMut(&Record) + Send>;

/// Hosts around a hub. See the [module](self).
#[derive(Clone)]
pub struct Star {
    shared: Arc<Shared>,
    seed: u64,
}

struct Shared {
    inner: Mutex<Inner>,
    base: tokio::time::Instant,
    /// A packet is on its way that may be the next to arrive, or nobody is left.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    hosts: Vec<Host>,
    watcher: Option<Watcher>,
}

struct Host {
    addresses: Vec<IpAddr>,
    up: Link,
    down: Link,
    arrived: VecDeque<Bytes>,
    charged: usize,
    drops: u64,
    slot: Arc<WakeSlot>,
}

impl Star {
    /// A hub without hosts. All chance follows from the seed.
    ///
    /// # Panics
    /// Outside of a tokio runtime: a task carries the packets.
    pub fn new(seed: u64) -> Self {
        let changed = Arc::new(Notify::new());
        let base = tokio::time::Instant::now();
        let shared = Arc::new(Shared { inner: Mutex::default(), base, changed: changed.clone() });
        tokio::spawn(carry(Arc::downgrade(&shared), changed, base));
        Star { shared, seed }
    }

    /// A host with these addresses, its link to the hub and its link from the hub: the device of a stack. The MTU
    /// is that of the link to the hub, 1500 if it has none.
    pub fn host(&self, addresses: &[IpAddr], up: LinkConfig, down: LinkConfig) -> Arc<dyn PacketIo> {
        let mut inner = self.shared.lock();
        let number = inner.hosts.len();
        let link = |config, way: u64| {
            let stream = 2 * number as u64 + way;
            Link::new(config, self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(stream))
        };
        let slot = Arc::new(WakeSlot::new());
        inner.hosts.push(Host {
            addresses: addresses.to_vec(),
            up: link(up, 0),
            down: link(down, 1),
            arrived: VecDeque::new(),
            charged: 0,
            drops: 0,
            slot: slot.clone(),
        });
        let mtu = up.mtu.map_or(MTU, |mtu| mtu as u32);
        Arc::new(Device { shared: self.shared.clone(), number, mtu, slot })
    }

    /// Has this told of every TCP segment that a host sends or receives, as it does. It may not call the star.
    pub fn watch(&self, watcher: impl FnMut(&Record) + Send + 'static) {
        self.shared.lock().watcher = Some(Box::new(watcher));
    }

    /// What happened so far on a host's links, to the hub and from it; hosts count from 0 as they were made.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn stats(&self, host: usize) -> (LinkStats, LinkStats) {
        let inner = self.shared.lock();
        (inner.hosts[host].up.stats(), inner.hosts[host].down.stats())
    }

    /// Changes what a host's links do to packets from now on.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn set_links(&self, host: usize, up: LinkConfig, down: LinkConfig) {
        let mut inner = self.shared.lock();
        inner.hosts[host].up.set_config(up);
        inner.hosts[host].down.set_config(down);
    }
}

impl fmt::Debug for Star {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.shared.lock().hosts.len();
        f.debug_struct("Star").field("seed", &self.seed).field("hosts", &hosts).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Instant {
        START + tokio::time::Instant::now().saturating_duration_since(self.base)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// Moves packets along whenever one is due, until the last device is gone.
async fn carry(shared: Weak<Shared>, changed: Arc<Notify>, base: tokio::time::Instant) {
    loop {
        let Some((next, woken)) = shared.upgrade().map(|shared| {
            let now = shared.now();
            shared.lock().carry(now)
        }) else {
            return;
        };
        woken.iter().for_each(|slot| slot.wake());
        match next {
            None => changed.notified().await,
            Some(at) => {
                let sleep = tokio::time::sleep_until(base + at.since(START));
                tokio::select! { biased; () = changed.notified() => {} () = sleep => {} }
            }
        }
    }
}

impl Inner {
    fn record(&mut self, at: Instant, host: usize, way: Way, packet: &Bytes) {
        if let Some(watcher) = &mut self.watcher
            && let Some(record) = Record::new(at, HostId(host), way, packet)
        {
            watcher(&record);
        }
    }

    fn send(&mut self, now: Instant, from: usize, packet: Bytes) {
        let lost = |link: &Link| link.stats().lost + link.stats().queue_drops + link.stats().too_big;
        let link = &mut self.hosts[from].up;
        let before = lost(link);
        link.push(now, packet.clone());
        let way = if lost(link) > before { Way::SentLost } else { Way::Sent };
        self.record(now, from, way, &packet);
    }

    /// Takes what has come to the hub to the links down, and what has come out of those to its host, in the order of
    /// time. Says when something is due next, and whom to wake.
    fn carry(&mut self, now: Instant) -> (Option<Instant>, Vec<Arc<WakeSlot>>) {
        let mut woken = Vec::new();
        loop {
            let ups = self.hosts.iter().enumerate().filter_map(|(at, host)| Some((host.up.next_due()?, 0, at)));
            let downs = self.hosts.iter().enumerate().filter_map(|(at, host)| Some((host.down.next_due()?, 1, at)));
            // At one instant first to the hub, then the hosts in their order.
            let Some((due, way, at)) = ups.chain(downs).min() else { return (None, woken) };
            if due > now {
                return (Some(due), woken);
            }
            let host = &mut self.hosts[at];
            let link = if way == 0 { &mut host.up } else { &mut host.down };
            let Some(packet) = link.pop_due(due) else { return (None, woken) };
            if way == 1 {
                self.arrive(now, at, packet, &mut woken);
            } else if let Some(to) = destination(&packet)
                && let Some(to) = self.hosts.iter_mut().find(|host| host.addresses.contains(&to))
            {
                to.down.push(due, packet);
            }
        }
    }

    fn arrive(&mut self, now: Instant, at: usize, packet: Bytes, woken: &mut Vec<Arc<WakeSlot>>) {
        let host = &mut self.hosts[at];
        let charge = packet.len() + OVERHEAD;
        if host.charged + charge > QUEUE {
            host.drops += 1;
            return;
        }
        host.charged += charge;
        host.arrived.push_back(packet.clone());
        if !woken.iter().any(|slot| Arc::ptr_eq(slot, &host.slot)) {
            woken.push(host.slot.clone());
        }
        self.record(now, at, Way::Received, &packet);
    }
}

/// A host's interface.
struct Device {
    shared: Arc<Shared>,
    number: usize,
    mtu: u32,
    slot: Arc<WakeSlot>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("host", &self.number).finish_non_exhaustive()
    }
}

impl PacketIo for Device {
    fn name(&self) -> &str {
        "star"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { mtu: self.mtu, max_segmentable: 0, tx_checksum: false, max_batch: 64, frames: false }
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        batch.clear();
        let mut inner = self.shared.lock();
        let host = &mut inner.hosts[self.number];
        while !batch.is_full() {
            let Some(packet) = host.arrived.pop_front() else { return Ok(Drained::Yes) };
            host.charged -= packet.len() + OVERHEAD;
            batch.push(RxMeta::IP, &packet);
        }
        Ok(if host.arrived.is_empty() { Drained::Yes } else { Drained::Maybe })
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        let now = self.shared.now();
        let mut inner = self.shared.lock();
        let mut sent = (packets.len(), None);
        for (i, packet) in packets.iter().enumerate() {
            if packet.len() > self.mtu as usize {
                sent = (i, Some(SendError::TooBig));
                break;
            }
            if packet.segment_size != 0 || packet.checksum != TxChecksum::Complete {
                sent = (i, Some(SendError::Other(io::ErrorKind::Unsupported.into())));
                break;
            }
            let mut bytes = BytesMut::with_capacity(packet.len());
            packet.slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
            inner.send(now, self.number, bytes.freeze());
        }
        drop(inner);
        self.shared.changed.notify_one();
        sent
    }
    fn ready_source(&self) -> ReadySource<'_> {
        ReadySource::Waker(&self.slot)
    }
    fn drops(&self) -> u64 {
        self.shared.lock().hosts[self.number].drops
    }
    /// Does nothing: a link delivers everything.
    fn set_ports(&self, _ports: &PortSet) -> io::Result<()> {
        Ok(())
    }
    fn recv_queue_bytes(&self) -> usize {
        QUEUE
    }
}
