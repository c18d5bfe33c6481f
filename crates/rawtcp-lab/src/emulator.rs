//! A link between two namespaces, emulated in real time by two [`Link`]s of `rawtcp-sim`.
//!
//! A thread takes every frame that leaves an interface of one host, lets it pass through a [`Link`], and puts it onto
//! the other host's interface when it is due. It is made not to lie, and to say so where it could not help it:
//!
//! - **Offloads.** The hosts' interfaces have theirs switched off, so a packet is a packet: it fits the MTU and its
//!   checksum is complete before a bit of it is flipped. With [`Offloads::Keep`] (or if a host switches them on again)
//!   checksums are completed and large frames segmented on arrival, and counted.
//! - **Time.** A frame's journey starts at the kernel's own time stamp, so the thread's wake-up latency does not add to
//!   the delay. What could not be made up for is the [`Lateness`]: how long after it was due each frame left.
//! - **Drops.** A frame that found the receive queue full is lost by accident; [`EmulatorStats::receive_drops`] counts
//!   them exactly. An experiment in which it is not zero measured the emulator.
//!
//! Chance is seeded; but the order in which packets come is the host's, so a run on a real kernel repeats its pattern of
//! losses packet by packet, not its course.
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! use std::time::Duration;
//! use rawtcp_lab::emulator::EmulatorConfig;
//! use rawtcp_lab::topology::{Emulated, SERVER_V4};
//! use rawtcp_sim::{LinkConfig, Loss};
//!
//! let link = LinkConfig::default().with_delay(Duration::from_millis(10)).with_loss(Loss::Uniform(0.01));
//! let net = Emulated::new(EmulatorConfig::symmetric(link, 42))?;
//! let server = net.server.spawn(|| std::net::TcpListener::bind((SERVER_V4, 80))?.accept());
//! net.client.run(|| std::net::TcpStream::connect((SERVER_V4, 80)))?;
//! server.join()?;
//! println!("{}", net.emulator.stop()?);
//! # Ok(()) }
//! ```

use std::fmt;
use std::io::{self, PipeWriter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;
use rawtcp_io::afpacket_raw::{PacketOptions, PacketSocket};
use rawtcp_sim::{Link, LinkConfig, LinkStats};

use crate::netns::{Mac, Namespace, veth};

mod offload;
mod run;

/// The Ethernet header in front of each packet.
const LINK_HEADER: usize = 14;

/// What to do about the offloads of the hosts' interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offloads {
    /// Switch them off.
    #[default]
    Disable,
    /// Leave them as they are, and finish at the emulator what they left undone: bursts of segments then arrive at the
    /// link at one instant.
    Keep,
}

/// What an [`Emulator`] does.
#[derive(Clone, Copy, Debug)]
pub struct EmulatorConfig {
    /// The direction from the first namespace to the second.
    pub a_to_b: LinkConfig,
    /// The direction from the second namespace to the first.
    pub b_to_a: LinkConfig,
    /// The seed of chance. The two directions draw from different streams.
    pub seed: u64,
    /// The MTU of the hosts' interfaces, in bytes of IP packet.
    pub interface_mtu: u32,
    /// Offloads of the hosts' interfaces.
    pub offloads: Offloads,
    /// A wait shorter than this is spent looking: going to sleep and waking up takes about as long. It costs up to a whole
    /// processor; zero is for several links at once whose lateness may be some tens of microseconds.
    pub spin: Duration,
}

impl EmulatorConfig {
    /// The same link in both directions, with an MTU of 1500, offloads disabled, and 50 µs of looking.
    pub fn symmetric(link: LinkConfig, seed: u64) -> Self {
        let spin = Duration::from_micros(50);
        Self { a_to_b: link, b_to_a: link, seed, interface_mtu: 1500, offloads: Offloads::Disable, spin }
    }
}

/// How long after they were due frames left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// How many frames that is about.
    pub frames: u64,
    /// Half of them were no later than this.
    pub p50: Duration,
    /// 99 of a hundred were no later than this.
    pub p99: Duration,
    /// The latest of all.
    pub max: Duration,
}

/// What an [`Emulator`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmulatorStats {
    /// The direction from the first namespace to the second. Bytes include the Ethernet header.
    pub a_to_b: LinkStats,
    /// The direction from the second namespace to the first.
    pub b_to_a: LinkStats,
    /// How late frames left. It can only be honest about frames which it received.
    pub lateness: Lateness,
    /// Frames lost because the emulator did not keep up. **Should be zero.**
    pub receive_drops: u64,
    /// Frames which the kernel refused to send (an interface was switched off).
    pub send_errors: u64,
    /// Large frames segmented before they entered the link.
    pub segmented: u64,
    /// Frames whose checksum was completed before they entered the link; segments are not counted here.
    pub checksummed: u64,
    /// Large frames that could not be segmented (not TCP) and entered the link as they were. **Should be zero.**
    pub not_segmented: u64,
    /// Processor time of the emulator's thread; known when it has stopped.
    pub cpu: Duration,
}

impl fmt::Display for EmulatorStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, s) in [("a to b", &self.a_to_b), ("b to a", &self.b_to_a)] {
            writeln!(
                f,
                "{name}: {} packets in ({} bytes), {} out; lost {}, queue drops {}, too big {}, reordered {}, \
                 duplicated {}, corrupted {}",
                s.in_packets,
                s.in_bytes,
                s.out_packets,
                s.lost,
                s.queue_drops,
                s.too_big,
                s.reordered,
                s.duplicated,
                s.corrupted
            )?;
        }
        let l = &self.lateness;
        write!(
            f,
            "emulator: late by p50 {:?}, p99 {:?}, max {:?}; receive drops {}, send errors {}, segmented {}, \
             checksums completed {}, not segmented {}; processor time {:?}",
            l.p50,
            l.p99,
            l.max,
            self.receive_drops,
            self.send_errors,
            self.segmented,
            self.checksummed,
            self.not_segmented,
            self.cpu
        )
    }
}

/// An emulated link, which works until it is stopped or dropped.
#[derive(Debug)]
pub struct Emulator {
    core: Arc<Mutex<Core>>,
    /// Its end stops the thread.
    alive: Option<PipeWriter>,
    thread: Option<JoinHandle<io::Result<()>>>,
    sockets: Arc<[PacketSocket; 2]>,
}

/// What the thread and the handle share.
#[derive(Debug)]
struct Core {
    /// From the first host, and from the second.
    links: [Link; 2],
    /// In nanoseconds.
    lateness: Histogram<u64>,
    send_errors: u64,
    segmented: u64,
    checksummed: u64,
    not_segmented: u64,
    cpu: Duration,
}

impl Emulator {
    /// Makes an interface `a_name` in `a` and `b_name` in `b`, both up and without addresses, and the link between
    /// them. Also returns the interfaces' hardware addresses.
    pub fn connect(
        a: &Namespace,
        a_name: &str,
        b: &Namespace,
        b_name: &str,
        config: EmulatorConfig,
    ) -> io::Result<(Self, (Mac, Mac))> {
        let middle = Namespace::new("emulator")?;
        // The emulator's own ends must not say anything on the wire.
        let quiet = middle.set_sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        quiet.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        let mut macs = [[0; 6]; 2];
        for (mac, (host, name, own)) in macs.iter_mut().zip([(a, a_name, "a"), (b, b_name, "b")]) {
            *mac = veth(host, name, &middle, own)?.0;
            host.set_mtu(name, config.interface_mtu)?;
            middle.set_mtu(own, config.interface_mtu)?;
            middle.disable_offloads(own)?;
            if config.offloads == Offloads::Disable {
                host.disable_offloads(name)?;
            }
        }
        let open = |own: &str| -> io::Result<PacketSocket> {
            let index = middle.interface_index(own)?;
            let options = PacketOptions {
                timestamps: true,
                offload_header: true,
                // About 30,000 full packets; less where the kernel does not let us.
                receive_buffer: 64 << 20,
                ..PacketOptions::default()
            };
            middle.run(|| PacketSocket::bind(index, options))
        };
        let sockets = Arc::new([open("a")?, open("b")?]);
        let core = Arc::new(Mutex::new(Core::new(&config)));
        let (stop, alive) = io::pipe()?;
        let thread = thread::Builder::new().name("emulator".into()).spawn({
            let (core, sockets) = (core.clone(), sockets.clone());
            // The namespace lives as long as its sockets do; interfaces need no more.
            move || run::run(&core, &sockets, stop, config.spin)
        })?;
        let emulator = Self { core, alive: Some(alive), thread: Some(thread), sockets };
        Ok((emulator, (macs[0], macs[1])))
    }

    /// What happened so far.
    pub fn stats(&self) -> io::Result<EmulatorStats> {
        let receive_drops = self.sockets[0].drops()? + self.sockets[1].drops()?;
        let core = lock(&self.core);
        let quantile = |q| Duration::from_nanos(core.lateness.value_at_quantile(q));
        let lateness = Lateness {
            frames: core.lateness.len(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: Duration::from_nanos(core.lateness.max()),
        };
        Ok(EmulatorStats {
            a_to_b: core.links[0].stats(),
            b_to_a: core.links[1].stats(),
            lateness,
            receive_drops,
            send_errors: core.send_errors,
            segmented: core.segmented,
            checksummed: core.checksummed,
            not_segmented: core.not_segmented,
            cpu: core.cpu,
        })
    }

    /// Changes what the link does to packets that enter it from now on.
    pub fn set_links(&self, a_to_b: LinkConfig, b_to_a: LinkConfig) {
        let mut core = lock(&self.core);
        for (link, config) in core.links.iter_mut().zip([a_to_b, b_to_a]) {
            link.set_config(on_ethernet(config));
        }
    }

    /// Stops the link: what is in flight is lost, and so is everything sent later. Reports what happened, or the error
    /// that ended the emulator before.
    pub fn stop(mut self) -> io::Result<EmulatorStats> {
        self.end()?;
        self.stats()
    }

    fn end(&mut self) -> io::Result<()> {
        self.alive = None;
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the emulator's thread panicked")),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("link emulator: {error}");
        }
    }
}

impl Core {
    fn new(config: &EmulatorConfig) -> Self {
        // A frame that is later than a minute counts as a minute late.
        let lateness = Histogram::new_with_max(60_000_000_000, 2).expect("these bounds are allowed");
        Self {
            links: [
                Link::new(on_ethernet(config.a_to_b), config.seed),
                // Any other seed, as long as it is always the same.
                Link::new(on_ethernet(config.b_to_a), config.seed ^ 0x5eed_0b2a_5eed_0b2a),
            ],
            lateness,
            send_errors: 0,
            segmented: 0,
            checksummed: 0,
            not_segmented: 0,
            cpu: Duration::ZERO,
        }
    }
}

/// The link's packets are Ethernet frames here.
fn on_ethernet(config: LinkConfig) -> LinkConfig {
    LinkConfig { link_header: LINK_HEADER, ..config }
}

fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    // The counters stay readable after a panic of the thread, which `stop` reports.
    core.lock().unwrap_or_else(PoisonError::into_inner)
}
