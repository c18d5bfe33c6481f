//! What the kernel knows of the network around us: which interfaces are Ethernets, which addresses are ours, by which
//! neighbour an address is reached. Asked of rtnetlink, and kept fresh by its news.
//!
//! Who sends Ethernet frames by itself needs the hardware address of the next hop. We let the kernel find it: the first
//! packet to a new neighbour leaves by a raw IP socket, for which the kernel resolves the neighbour; from its news we take
//! the address. From then on the kernel sees none of our packets and would let the entry go stale. So from time to time
//! one of them takes the kernel's way again ([`Hop::mac`]), which makes it ask the neighbour whether it is still there.

pub(crate) mod rtnl;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rtnl::{Change, Link, Rtnl, Step, Watch};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Next hops that nobody uses are forgotten beyond this many.
const MAX_IDLE_HOPS: usize = 1024;

/// How long packets may go past the kernel before one has to take its way: less than the 15 s for which it believes at
/// least what it knows of a neighbour.
const KERNEL_SEES_AFTER: Duration = Duration::from_secs(10);

/// Set in [`Hop::state`] where the lower 48 bits are an address.
const RESOLVED: u64 = 1 << 48;

/// An interface that we send by: an Ethernet, or a TUN interface. It may change under way.
#[derive(Debug)]
pub struct Interface {
    index: u32,
    name: String,
    /// It is used as long as it carries Ethernet frames.
    is_ethernet: bool,
    mac: AtomicU64,
    mtu: AtomicU32,
    up: AtomicBool,
    removed: AtomicBool,
}

impl Interface {
    fn new(link: &Link) -> Self {
        Self {
            index: link.index,
            name: link.name.clone(),
            is_ethernet: link.is_ethernet,
            mac: AtomicU64::new(number(link.mac)),
            mtu: AtomicU32::new(link.mtu),
            up: AtomicBool::new(link.is_up),
            removed: AtomicBool::new(false),
        }
    }

    /// The interface's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The name it had when it was found.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own Ethernet address; zeros where it has none.
    pub fn mac(&self) -> Mac {
        address(self.mac.load(Ordering::Relaxed))
    }

    /// The largest IP packet, in bytes.
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Whether it is switched on.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether it left the network namespace, most likely for good.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    fn remove(&self) {
        self.up.store(false, Ordering::Relaxed);
        self.removed.store(true, Ordering::Relaxed);
    }

    /// Says whether packets leave otherwise than before.
    fn update(&self, link: &Link) -> bool {
        self.mac.store(number(link.mac), Ordering::Relaxed);
        self.removed.store(false, Ordering::Relaxed);
        let mtu = self.mtu.swap(link.mtu, Ordering::Relaxed);
        let up = link.is_up && (link.is_ethernet || !self.is_ethernet);
        let was_up = self.up.swap(up, Ordering::Relaxed);
        (mtu, was_up) != (link.mtu, up)
    }
}

/// A neighbour that packets are handed to.
#[derive(Debug)]
pub struct Hop {
    interface: Arc<Interface>,
    /// The neighbour's Ethernet address and [`RESOLVED`], or 0.
    state: AtomicU64,
    /// When a packet last took the kernel's way, in nanoseconds of the caller's clock.
    kernel_saw: AtomicU64,
}

impl Hop {
    /// The interface it is behind.
    pub fn interface(&self) -> &Arc<Interface> {
        &self.interface
    }

    /// The neighbour's Ethernet address. `None`: this packet has to take the kernel's way, by a raw IP socket, because
    /// the neighbour is not resolved, the interface is down, or it is time for the kernel to look after the neighbour.
    /// `now` is any monotonic clock, always the same, in nanoseconds.
    pub fn mac(&self, now: u64) -> Option<Mac> {
        let state = self.state.load(Ordering::Relaxed);
        let seen = self.kernel_saw.load(Ordering::Relaxed);
        if state & RESOLVED == 0 || !self.interface.is_up() {
            // It is about to see one.
            self.kernel_saw.store(now, Ordering::Relaxed);
            return None;
        }
        if now.saturating_sub(seen) > KERNEL_SEES_AFTER.as_nanos() as u64
            && self.kernel_saw.compare_exchange(seen, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            return None;
        }
        Some(address(state))
    }

    fn learn(&self, mac: Option<Mac>) {
        self.state.store(mac.map_or(0, |mac| number(mac) | RESOLVED), Ordering::Relaxed);
    }
}

fn number([a, b, c, d, e, f]: Mac) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn address(number: u64) -> Mac {
    let [_, _, mac @ ..] = number.to_be_bytes();
    mac
}

/// The address ranges of this host, in both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    /// Sorted.
    hosts: Vec<IpAddr>,
    /// Ranges of more than one address, such as 127.0.0.0/8; few.
    ranges: Vec<(IpAddr, u8)>,
}

impl LocalAddresses {
    pub(crate) fn new(local: Vec<(IpAddr, u8)>) -> Self {
        let is_host = |&(ip, prefix): &(IpAddr, u8)| prefix == if ip.is_ipv4() { 32 } else { 128 };
        let (hosts, ranges): (Vec<_>, Vec<_>) = local.into_iter().partition(is_host);
        let mut hosts: Vec<IpAddr> = hosts.into_iter().map(|(ip, _)| ip).collect();
        hosts.sort_unstable();
        hosts.dedup();
        Self { hosts, ranges }
    }

    /// The host's single addresses, in order: without ranges such as 127.0.0.0/8.
    pub fn hosts(&self) -> &[IpAddr] {
        &self.hosts
    }

    /// Whether packets to this address are for this host.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.hosts.binary_search(&ip).is_ok() || self.ranges.iter().any(|&(net, prefix)| is_within(ip, net, prefix))
    }
}

fn is_within(ip: IpAddr, net: IpAddr, prefix: u8) -> bool {
    match (ip, net) {
        (IpAddr::V4(ip), IpAddr::V4(net)) => {
            (ip.to_bits() ^ net.to_bits()).checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(net)) => {
            (ip.to_bits() ^ net.to_bits()).checked_shr(128 - u32::from(prefix)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// The network as the kernel of one namespace sees it.
#[derive(Debug)]
pub struct Network {
    rtnl: Mutex<Rtnl>,
    watch: Watch,
    interfaces: Vec<Arc<Interface>>,
    hops: Mutex<HashMap<(u32, IpAddr), Arc<Hop>>>,
    local: RwLock<Arc<LocalAddresses>>,
    generation: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Looks at the network namespace of the calling thread. Its Ethernet interfaces are those that are up now; one
    /// that comes later is left to the kernel.
    ///
    /// # Errors
    /// Those of netlink sockets.
    pub fn open() -> io::Result<Self> {
        Self::with(|link| link.is_ethernet && link.is_up)
    }

    /// As [`open`](Self::open), with these interfaces.
    pub(crate) fn with(wanted: impl Fn(&Link) -> bool) -> io::Result<Self> {
        // The watch first: nothing may change unseen between the question and the news.
        let watch = Watch::open()?;
        let mut rtnl = Rtnl::open()?;
        let links = rtnl.links()?;
        let interfaces = links.iter().filter(|link| wanted(link)).map(|link| Arc::new(Interface::new(link))).collect();
        let local = LocalAddresses::new(rtnl.local()?);
        Ok(Self {
            rtnl: Mutex::new(rtnl),
            watch,
            interfaces,
            hops: Mutex::default(),
            local: RwLock::new(Arc::new(local)),
            generation: AtomicU32::new(0),
        })
    }

    /// The interfaces that this was opened for.
    pub fn interfaces(&self) -> &[Arc<Interface>] {
        &self.interfaces
    }

    /// The neighbour by which packets from `source` to `destination` leave; `None` where no frame of ours can go. `by`
    /// is the interface's number, or 0: the kernel's choice.
    ///
    /// # Errors
    /// Those of netlink sockets, and the kernel's where there is no route.
    pub fn hop(&self, destination: IpAddr, source: Option<IpAddr>, by: u32) -> io::Result<Option<Arc<Hop>>> {
        let mut rtnl = lock(&self.rtnl);
        let Step::Neighbour { index, ip } = rtnl.step(destination, source, by)? else { return Ok(None) };
        let Some(interface) = self.interfaces.iter().find(|interface| interface.index == index) else {
            return Ok(None);
        };
        let mut hops = lock(&self.hops);
        if let Some(hop) = hops.get(&(index, ip)) {
            return Ok(Some(hop.clone()));
        }
        let known = rtnl.neighbours()?.into_iter().find(|known| (known.index, known.ip) == (index, ip));
        let hop = Hop { interface: interface.clone(), state: AtomicU64::new(0), kernel_saw: AtomicU64::new(0) };
        hop.learn(known.and_then(|known| known.mac));
        if hops.len() >= MAX_IDLE_HOPS {
            hops.retain(|_, hop| Arc::strong_count(hop) > 1);
        }
        let hop = Arc::new(hop);
        hops.insert((index, ip), hop.clone());
        Ok(Some(hop))
    }

    /// This host's addresses; another [`generation`](Self::generation) may have others.
    pub fn local(&self) -> Arc<LocalAddresses> {
        self.local.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Grows with every change of routes or addresses: what was learned from [`hop`](Self::hop) may be out of date.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Packets that an interface itself dropped instead of sending them, ever.
    pub(crate) fn dropped(&self, index: u32) -> io::Result<u64> {
        lock(&self.rtnl).dropped(index)
    }

    /// Readable when there is news.
    pub fn news(&self) -> BorrowedFd<'_> {
        self.watch.fd()
    }

    /// Takes the kernel's news.
    ///
    /// # Errors
    /// Those of netlink sockets. What was known before is kept then.
    pub fn update(&self) -> io::Result<()> {
        let mut routing = false;
        loop {
            match self.watch.next(|change| routing |= self.on_change(change)) {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    // Some news was lost.
                    self.ask_again()?;
                    routing = true;
                }
                Err(error) => return Err(error),
            }
        }
        if routing {
            let local = LocalAddresses::new(lock(&self.rtnl).local()?);
            *self.local.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(local);
            self.generation.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// Says whether routes may have changed.
    fn on_change(&self, change: Change) -> bool {
        let known = |index| self.interfaces.iter().find(move |interface| interface.index == index);
        match change {
            Change::Routing => return true,
            Change::Link(link) => return known(link.index).is_some_and(|interface| interface.update(&link)),
            Change::LinkGone(index) => {
                if let Some(interface) = known(index) {
                    interface.remove();
                }
                return true;
            }
            Change::Neighbour(neighbour) => {
                if let Some(hop) = lock(&self.hops).get(&(neighbour.index, neighbour.ip)) {
                    hop.learn(neighbour.mac);
                }
            }
        }
        false
    }

    fn ask_again(&self) -> io::Result<()> {
        let mut rtnl = lock(&self.rtnl);
        let (links, neighbours) = (rtnl.links()?, rtnl.neighbours()?);
        drop(rtnl);
        for interface in &self.interfaces {
            match links.iter().find(|link| link.index == interface.index) {
                Some(link) => _ = interface.update(link),
                None => interface.remove(),
            }
        }
        for (key, hop) in lock(&self.hops).iter() {
            let known = neighbours.iter().find(|known| (known.index, known.ip) == *key);
            hop.learn(known.and_then(|known| known.mac));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface() -> Arc<Interface> {
        Arc::new(Interface::new(&link()))
    }

    fn link() -> Link {
        Link {
            index: 7,
            name: "eth7".into(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            is_ethernet: true,
            is_up: true,
            queue: 0,
        }
    }

    #[test]
    fn an_interface_that_stops_to_be_an_ethernet_is_down_unless_it_never_was_one() {
        let changed = Link { is_ethernet: false, mtu: 1400, ..link() };
        let ethernet = interface();
        assert!(ethernet.update(&changed) && !ethernet.is_up());
        let tun = Interface::new(&Link { is_ethernet: false, ..link() });
        assert!(tun.update(&changed) && tun.is_up());
        assert_eq!((tun.mtu(), tun.update(&changed)), (1400, false));
        tun.remove();
        assert!(tun.is_removed() && !tun.is_up());
    }

    #[test]
    fn addresses_survive_their_number() {
        let mac = [0x02, 0x80, 0xff, 0x00, 0x7f, 0x01];
        assert_eq!(address(number(mac) | RESOLVED), mac);
    }

    #[test]
    fn a_hop_is_used_while_it_is_resolved_and_the_kernel_sees_a_packet_now_and_then() {
        let hop = Hop { interface: interface(), state: AtomicU64::new(0), kernel_saw: AtomicU64::new(0) };
        let second = 1_000_000_000;
        assert_eq!(hop.mac(5 * second), None);
        hop.learn(Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(hop.mac(6 * second), Some([2, 0, 0, 0, 0, 9]));
        let due = 16 * second;
        assert_eq!([hop.mac(due), hop.mac(due), hop.mac(due + 1)].map(|mac| mac.is_some()), [false, true, true]);
        hop.learn(None);
        assert_eq!(hop.mac(due + 2), None);
        hop.learn(Some([2, 0, 0, 0, 0, 9]));
        hop.interface.up.store(false, Ordering::Relaxed);
        assert_eq!(hop.mac(due + 3), None);
    }

    #[test]
    fn local_addresses_and_ranges() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let local =
            [("127.0.0.0", 8), ("10.0.0.2", 32), ("10.0.0.2", 32), ("fd00::2", 128), ("fd01::", 64), ("0.0.0.0", 0)];
        let some = LocalAddresses::new(local[..5].iter().map(|&(net, prefix)| (ip(net), prefix)).collect());
        for (address, is_local) in [
            ("127.3.2.1", true),
            ("126.0.0.1", false),
            ("10.0.0.2", true),
            ("10.0.0.3", false),
            ("fd00::2", true),
            ("fd00::3", false),
            ("fd01::ffff", true),
            ("fd01:0:0:1::", false),
        ] {
            assert_eq!(some.contains(ip(address)), is_local, "{address}");
        }
        let all = LocalAddresses::new(local.iter().map(|&(net, prefix)| (ip(net), prefix)).collect());
        assert!(all.contains(ip("203.0.113.9")) && !all.contains(ip("2001:db8::1")));
    }
}
