//! One direction of a link: a drop-tail queue, a serialiser, a wire.
//!
//! A packet passes through these stages, in this order:
//!
//! 1. **MTU**: a packet above it is dropped ([`LinkStats::too_big`]). Then TCP options are
//!    [stripped](LinkConfig::strip), as some middleboxes do.
//! 2. **Queue**: drop-tail, in front of the serialiser. Only packets that still wait for their turn
//!    count against its limit. Packets in flight do not: a long delay alone never drops anything.
//!    An ECN-capable packet that finds more than [a threshold](LinkConfig::mark) waiting is marked.
//! 3. **Rate**: packets leave the serialiser one after the other.
//! 4. **Wire**: loss, duplication, corruption, then delay, jitter and reordering. A packet lost
//!    here has used its share of the rate, as on a real wire.
//!
//! Every kind of chance draws from its own stream of the seeded generator, once per pushed packet
//! and whether or not it is switched on. What befalls the n-th packet therefore depends on the seed
//! and on n alone: switching duplication on leaves the pattern of losses as it was, and a change of
//! timing in the code under test does not shuffle it.
//!
//! ```
//! use bytes::Bytes;
//! use rawtcp_proto::time::{Duration, Instant};
//! use rawtcp_sim::{Link, LinkConfig, Loss};
//!
//! let config = LinkConfig::default()
//!     .with_rate(8_000_000)
//!     .with_delay(Duration::from_millis(10))
//!     .with_loss(Loss::Uniform(0.0));
//! let mut link = Link::new(config, 1);
//! link.push(Instant::ZERO, Bytes::from_static(&[0; 1000]));
//! // 1000 bytes at 1 MB/s, and then 10 ms of wire.
//! assert_eq!(link.next_due(), Some(Instant::from_millis(11)));
//! assert!(link.pop_due(Instant::from_millis(10)).is_none());
//! assert!(link.pop_due(Instant::from_millis(11)).is_some());
//! ```

mod middlebox;

pub use middlebox::StripOptions;

use std::collections::{BinaryHeap, VecDeque};

use bytes::{Bytes, BytesMut};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rawtcp_proto::time::{Duration, Instant};

/// The limit of the drop-tail queue in front of the serialiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// At most so many packets wait, the one being sent not counted.
    Packets(usize),
    /// At most so many bytes wait, the packet being sent not counted.
    Bytes(usize),
}

/// How packets get lost on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// None are.
    None,
    /// Each by itself with this probability.
    Uniform(f64),
    /// In bursts: the Gilbert–Elliott chain, which takes one step per packet, then loses the packet
    /// with the probability of the state it is in. It starts in the good state.
    GilbertElliott {
        /// Probability of the step from good to bad.
        to_bad: f64,
        /// Probability of the step from bad to good; bursts last `1 / to_good` packets on average.
        to_good: f64,
        /// Probability of losing a packet in the good state (0 in Gilbert's model).
        loss_good: f64,
        /// Probability of losing a packet in the bad state (1 in the simplest model).
        loss_bad: f64,
    },
}

impl Loss {
    /// Bursts of a mean length (in packets) which together lose `share` of all packets: in a burst
    /// every packet is lost, outside of it none. `share` is kept below 1, `length` at 1 or above.
    pub fn bursts(share: f64, length: f64) -> Self {
        let share = share.clamp(0.0, 0.99);
        let to_good = 1.0 / length.max(1.0);
        let to_bad = (to_good * share / (1.0 - share)).min(1.0);
        Loss::GilbertElliott { to_bad, to_good, loss_good: 0.0, loss_bad: 1.0 }
    }
}

/// Holding single packets back, so that later ones overtake them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reorder {
    /// The probability for a packet to be held back.
    pub probability: f64,
    /// How much longer than the others it takes.
    pub extra_delay: Duration,
}

/// What one direction of a link does to packets. The default does nothing at all.
///
/// Probabilities lie in 0..=1; values outside of it count as the nearer end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConfig {
    /// Bits per second, counting all bytes pushed; `None`: unlimited, and then nothing ever queues.
    pub rate: Option<u64>,
    /// The time between the last bit sent and the packet's arrival.
    pub delay: Duration,
    /// Each packet's delay varies uniformly within `delay ± jitter`, but **no packet overtakes
    /// another because of jitter** (that is what [`LinkConfig::reorder`] is for). A dense stream
    /// thus tends to the upper end.
    pub jitter: Duration,
    /// The queue in front of the serialiser.
    pub queue: Queue,
    /// Loss on the wire.
    pub loss: Loss,
    /// Reordering on the wire; `None`: packets keep their order.
    pub reorder: Option<Reorder>,
    /// The probability that a packet arrives twice, one right behind the other.
    pub duplicate: f64,
    /// The probability that one bit of a packet (behind `link_header`) is flipped.
    pub corrupt: f64,
    /// The largest packet, without its link header; `None`: any size.
    pub mtu: Option<usize>,
    /// How many bytes at the front of each packet belong to the link layer. They count for the rate
    /// but not for the MTU, and are never corrupted. 0 for IP packets, 14 for Ethernet frames.
    pub link_header: usize,
    /// ECN-capable packets (RFC 3168) that find so much waiting are marked "congestion experienced";
    /// `None`: none ever are.
    pub mark: Option<Queue>,
    /// TCP options that are overwritten with padding.
    pub strip: StripOptions,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            rate: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            // The usual length of an interface's transmit queue on Linux.
            queue: Queue::Packets(1000),
            loss: Loss::None,
            reorder: None,
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: None,
            link_header: 0,
            mark: None,
            strip: StripOptions::default(),
        }
    }
}

impl LinkConfig {
    /// Sets the rate, in bits per second. 0 stands for unlimited.
    pub fn with_rate(mut self, bits_per_second: u64) -> Self {
        self.rate = (bits_per_second > 0).then_some(bits_per_second);
        self
    }

    /// Sets the delay of the wire.
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets by how much the delay varies, to either side.
    pub fn with_jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Sets the limit of the queue.
    pub fn with_queue(mut self, queue: Queue) -> Self {
        self.queue = queue;
        self
    }

    /// Sets the kind and amount of loss.
    pub fn with_loss(mut self, loss: Loss) -> Self {
        self.loss = loss;
        self
    }

    /// Holds packets back with `probability`, for `extra_delay`.
    pub fn with_reorder(mut self, probability: f64, extra_delay: Duration) -> Self {
        self.reorder = Some(Reorder { probability, extra_delay });
        self
    }

    /// Sets the probability of duplication.
    pub fn with_duplicate(mut self, probability: f64) -> Self {
        self.duplicate = probability;
        self
    }

    /// Sets the probability of a flipped bit.
    pub fn with_corrupt(mut self, probability: f64) -> Self {
        self.corrupt = probability;
        self
    }

    /// Sets the largest packet, in bytes without its link header.
    pub fn with_mtu(mut self, mtu: usize) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Marks ECN-capable packets that find at least so much waiting.
    pub fn with_mark(mut self, threshold: Queue) -> Self {
        self.mark = Some(threshold);
        self
    }

    /// Overwrites these TCP options with padding.
    pub fn with_strip(mut self, strip: StripOptions) -> Self {
        self.strip = strip;
        self
    }
}

/// What happened so far. `in_packets + duplicated` is always the sum of `out_packets`, `lost`,
/// `queue_drops`, `too_big` and what is [in flight](Link::in_flight).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets pushed.
    pub in_packets: u64,
    /// Bytes pushed.
    pub in_bytes: u64,
    /// Packets popped.
    pub out_packets: u64,
    /// Bytes popped.
    pub out_bytes: u64,
    /// Packets lost on the wire.
    pub lost: u64,
    /// Packets dropped because the queue was full.
    pub queue_drops: u64,
    /// Packets dropped because they were larger than the MTU.
    pub too_big: u64,
    /// Packets that came out behind one that had gone in later.
    pub reordered: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Packets (copies counted singly) with a flipped bit.
    pub corrupted: u64,
    /// Packets marked "congestion experienced".
    pub marked: u64,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    chance: Chance,
    serialiser: Serialiser,
    flying: BinaryHeap<Flying>,
    /// Arrival of the latest packet that was not held back: the others may not come before it.
    latest: Instant,
    /// Number of the next packet pushed.
    next_number: u64,
    /// The highest number popped so far, plus one.
    popped: u64,
    stats: LinkStats,
}

impl Link {
    /// A link that behaves as `config` says, with chance drawn from `seed`.
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            chance: Chance::new(seed),
            serialiser: Serialiser::default(),
            flying: BinaryHeap::new(),
            latest: Instant::ZERO,
            next_number: 0,
            popped: 0,
            stats: LinkStats::default(),
        }
    }

    /// What the link does at present.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Changes what the link does to packets pushed from now on. Those under way arrive as they
    /// were meant to, and a shorter delay does not let new packets overtake them.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.config = config;
    }

    /// Puts a packet into the link. `now` must not run backwards between calls.
    pub fn push(&mut self, now: Instant, mut packet: Bytes) {
        let fate = self.chance.draw(&self.config);
        let number = self.next_number;
        self.next_number += 1;
        self.stats.in_packets += 1;
        self.stats.in_bytes += packet.len() as u64;

        let payload = packet.len().saturating_sub(self.config.link_header);
        if self.config.mtu.is_some_and(|mtu| payload > mtu) {
            self.stats.too_big += 1;
            return;
        }
        if self.config.strip.any() {
            packet = middlebox::strip(packet, self.config.link_header, self.config.strip);
        }
        let congested = self.config.mark.is_some_and(|threshold| self.serialiser.holds(now, threshold));
        let Some(sent) = self.serialiser.enqueue(now, packet.len(), self.config.rate, self.config.queue) else {
            self.stats.queue_drops += 1;
            return;
        };
        if congested && let Some(marked) = middlebox::mark(&packet, self.config.link_header) {
            self.stats.marked += 1;
            packet = marked;
        }
        if fate.lost {
            self.stats.lost += 1;
            return;
        }
        let due = self.arrival(sent, &fate);
        if fate.duplicated {
            self.stats.duplicated += 1;
            self.fly(due, number, 1, packet.clone(), fate.corrupted[1]);
        }
        self.fly(due, number, 0, packet, fate.corrupted[0]);
    }

    /// Takes the next packet that has arrived by `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<Bytes> {
        if self.next_due()? > now {
            return None;
        }
        let arrived = self.flying.pop()?;
        self.stats.out_packets += 1;
        self.stats.out_bytes += arrived.packet.len() as u64;
        if arrived.number + 1 < self.popped && arrived.copy == 0 {
            self.stats.reordered += 1;
        }
        self.popped = self.popped.max(arrived.number + 1);
        Some(arrived.packet)
    }

    /// When the next packet arrives; `None` while the link is empty.
    pub fn next_due(&self) -> Option<Instant> {
        self.flying.peek().map(|first| first.due)
    }

    /// How many packets are on their way, waiting or flying.
    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    /// What happened so far.
    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    fn arrival(&mut self, sent: Instant, fate: &Fate) -> Instant {
        let spread = self.config.jitter.mul_f64(fate.jitter.abs());
        let delayed = if fate.jitter < 0.0 {
            sent + self.config.delay.saturating_sub(spread)
        } else {
            sent + self.config.delay + spread
        };
        let due = delayed.max(self.latest);
        match self.config.reorder {
            Some(reorder) if fate.held_back => due + reorder.extra_delay,
            _ => {
                self.latest = due;
                due
            }
        }
    }

    fn fly(&mut self, due: Instant, number: u64, copy: u8, packet: Bytes, flip: Option<u64>) {
        let packet = match flip.and_then(|at| flip_bit(&packet, self.config.link_header, at)) {
            Some(corrupted) => {
                self.stats.corrupted += 1;
                corrupted
            }
            None => packet,
        };
        self.flying.push(Flying { due, number, copy, packet });
    }
}

/// A copy of `packet` with the `at`-th bit (modulo what there is) behind `skip` bytes flipped.
fn flip_bit(packet: &Bytes, skip: usize, at: u64) -> Option<Bytes> {
    let bits = (packet.len().saturating_sub(skip) as u64) * 8;
    if bits == 0 {
        return None;
    }
    let bit = at % bits;
    let mut copy = BytesMut::from(&packet[..]);
    copy[skip + (bit / 8) as usize] ^= 1 << (bit % 8);
    Some(copy.freeze())
}

/// A packet between its push and its pop.
#[derive(Debug)]
struct Flying {
    due: Instant,
    number: u64,
    copy: u8,
    packet: Bytes,
}

impl Flying {
    fn key(&self) -> (Instant, u64, u8) {
        (self.due, self.number, self.copy)
    }
}

impl PartialEq for Flying {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Flying {}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flying {
    // Reversed, because the heap keeps its greatest on top and we want the earliest there.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.key().cmp(&self.key())
    }
}

/// The sender's side: one packet at a time leaves at the rate, the others wait.
#[derive(Debug, Default)]
struct Serialiser {
    /// When the last packet accepted is sent completely.
    busy_until: Instant,
    /// Parts of a nanosecond owed, as a numerator over the rate, so that rates are exact.
    residue: u128,
    /// Accepted packets: when their sending starts, and their size.
    waiting: VecDeque<(Instant, usize)>,
    waiting_bytes: usize,
}

impl Serialiser {
    /// Whether at least so much waits.
    fn holds(&mut self, now: Instant, threshold: Queue) -> bool {
        self.advance(now);
        match threshold {
            Queue::Packets(limit) => self.waiting.len() >= limit,
            Queue::Bytes(limit) => self.waiting_bytes >= limit,
        }
    }

    /// Lets go of what does not wait any more.
    fn advance(&mut self, now: Instant) {
        while let Some(&(_, size)) = self.waiting.front().filter(|(starts, _)| *starts <= now) {
            self.waiting_bytes -= size;
            self.waiting.pop_front();
        }
    }

    /// When the packet will have been sent, or `None` where the queue is full.
    fn enqueue(&mut self, now: Instant, size: usize, rate: Option<u64>, queue: Queue) -> Option<Instant> {
        self.advance(now);
        let idle = self.busy_until <= now;
        let full = match queue {
            Queue::Packets(limit) => self.waiting.len() >= limit,
            Queue::Bytes(limit) => self.waiting_bytes + size > limit,
        };
        if !idle && full {
            return None;
        }
        let starts = if idle {
            self.residue = 0;
            now
        } else {
            self.waiting.push_back((self.busy_until, size));
            self.waiting_bytes += size;
            self.busy_until
        };
        self.busy_until = match rate {
            None => starts,
            Some(rate) => {
                let rate = u128::from(rate.max(1));
                let work = size as u128 * 8 * 1_000_000_000 + self.residue;
                self.residue = work % rate;
                starts + Duration::from_nanos(u64::try_from(work / rate).unwrap_or(u64::MAX))
            }
        };
        Some(self.busy_until)
    }
}

/// What chance has in store for one packet.
struct Fate {
    lost: bool,
    held_back: bool,
    duplicated: bool,
    /// For the packet and for its copy: the bit to flip.
    corrupted: [Option<u64>; 2],
    /// In -1..1.
    jitter: f64,
}

/// The seeded generator, one stream for each kind of chance.
#[derive(Debug)]
struct Chance {
    loss: ChaCha12Rng,
    reorder: ChaCha12Rng,
    duplicate: ChaCha12Rng,
    corrupt: ChaCha12Rng,
    jitter: ChaCha12Rng,
    /// The state of the Gilbert–Elliott chain.
    bad: bool,
}

impl Chance {
    fn new(seed: u64) -> Self {
        let stream = |number| {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            rng.set_stream(number);
            rng
        };
        Self {
            loss: stream(0),
            reorder: stream(1),
            duplicate: stream(2),
            corrupt: stream(3),
            jitter: stream(4),
            bad: false,
        }
    }

    /// Always draws the same number of values, whatever is switched on.
    fn draw(&mut self, config: &LinkConfig) -> Fate {
        let (step, loss) = (unit(&mut self.loss), unit(&mut self.loss));
        let lost = match config.loss {
            Loss::None => false,
            Loss::Uniform(p) => loss < p,
            Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
                if step < if self.bad { to_good } else { to_bad } {
                    self.bad = !self.bad;
                }
                loss < if self.bad { loss_bad } else { loss_good }
            }
        };
        let reorder = unit(&mut self.reorder);
        let duplicated = unit(&mut self.duplicate) < config.duplicate;
        let mut flip = || {
            let hit = unit(&mut self.corrupt) < config.corrupt;
            let at = self.corrupt.next_u64();
            hit.then_some(at)
        };
        Fate {
            lost,
            held_back: config.reorder.is_some_and(|r| reorder < r.probability),
            duplicated,
            corrupted: [flip(), flip()],
            jitter: unit(&mut self.jitter) * 2.0 - 1.0,
        }
    }
}

/// A number in 0..1, uniformly.
fn unit(rng: &mut ChaCha12Rng) -> f64 {
    // 53 bits are what a double holds exactly.
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
