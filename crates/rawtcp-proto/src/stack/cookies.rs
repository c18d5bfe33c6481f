//! SYN cookies (RFC 4987 §3.6, Appendix A): handshakes of which nothing is kept before the last ACK.
//!
//! # The sequence number
//!
//! Time is cut into steps of 64 s, which are 16,000,000 ticks of the clock in initial sequence numbers
//! (4 µs). The cookie of a step is the number that this clock has at the beginning of the step, plus
//!
//! ```text
//! 8 × (SipHash-2-4(key, tuple, IRS, step) mod 2,000,000) + index of the segment size
//! ```
//!
//! so it lies among the numbers of its own step: the initial numbers of one tuple go up from step to
//! step whether they are cookies or not (RFC 6528 §3). A cookie is good in its own step and the next.
//! Sixteen of 2³² numbers are good at any time: who cannot see our SYN-ACKs guesses one in 2²⁸.
//!
//! # The timestamp
//!
//! The segment size is rounded down to one of eight. The other options have no room in 32 bits; where both
//! sides use timestamps they travel in the TSval of the SYN-ACK, which the peer sends back, and are not
//! agreed to otherwise. Before the connection's offset is added, the low six bits of the clock are
//!
//! ```text
//!  bit   5     4     3..0
//!       ECN  SACK   window scale of the peer, 15 for none
//! ```
//!
//! and the others such that it is the last such number that is not in the future. So it lags by less
//! than 64 ms, and the connection, which goes on with the clock itself and the same offset, never steps
//! back. What the peer says came back is not authenticated: it can only harm its own connection.
//!
//! # What is lost
//!
//! The SYN-ACK is not sent again by us, and without timestamps the round trip is not measured. The first
//! segment to arrive must be the peer's first after its SYN: a later one is answered with RST, as by Linux. And a copy of that which arrives when the
//! connection is long gone may open it again, until the cookie is too old.

use super::demux::TupleBytes;
use super::isn::{Secrets, derive, timestamp};
use super::listener::{ListenConfig, ListenerId};
use super::syn_queue::{HalfOpen, Ours};
use super::{AcceptQueue, Disposition, MtuOf, Reply, Stack};
use crate::conn::Connection;
use crate::error::DropReason;
use crate::seq::{SeqNum, WindowScale};
use crate::time::{Duration, Instant};
use crate::wire::{Ecn, Flags, FourTuple, Options, Segment, TcpHeader, Timestamps};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// When a SYN is answered with a cookie instead of a half-open record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynCookies {
    /// Never: a SYN for which there is no room is dropped.
    Never,
    /// When the listener's or the stack's half-open records are at their limit.
    #[default]
    WhenFull,
    /// Always, except that the successor of a connection in TIME-WAIT gets a record: its sequence
    /// number must be above the old one's.
    Always,
}

/// How long a step lasts, in seconds.
const STEP: u64 = 64;
/// Steps in which a cookie is good: its own and the next.
const GOOD_FOR: u64 = 2;
/// A step in ticks of the initial sequence number's clock.
const STEP_TICKS: u32 = 16_000_000;
/// Segment sizes that a cookie can tell apart.
const SIZES: u32 = 8;
/// Cookies of one step, for one tuple, IRS and segment size, of which one is good.
const TAGS: u32 = STEP_TICKS / SIZES;

/// What peers announce, rounded down: the least that is used, the default without the option, tunnels,
/// Ethernet less a tunnel's or PPPoE's header, Ethernet, jumbo frames.
const SIZES_V4: [u16; SIZES as usize] = [88, 536, 1220, 1360, 1400, 1440, 1460, 8960];
/// The same for IPv6.
const SIZES_V6: [u16; SIZES as usize] = [88, 536, 1220, 1340, 1380, 1420, 1440, 8940];
/// Without the option (RFC 9293 §3.7.1 [MUST-15]): in both tables.
const DEFAULT_V4: u16 = 536;
const DEFAULT_V6: u16 = 1220;

/// The low bits of the clock that carry options.
const OPTION_MASK: u32 = 0x3f;
const SCALE_MASK: u32 = 0xf;
const NO_SCALE: u32 = 0xf;
const SACK_BIT: u32 = 1 << 4;
const ECN_BIT: u32 = 1 << 5;

const fn sizes(v6: bool) -> &'static [u16; SIZES as usize] {
    if v6 { &SIZES_V6 } else { &SIZES_V4 }
}

/// The largest segment size of the table that the peer takes. One below the least is used as the least by
/// every connection.
fn size_index(peer_mss: Option<u16>, v6: bool) -> u32 {
    let mss = peer_mss.unwrap_or(if v6 { DEFAULT_V6 } else { DEFAULT_V4 });
    (sizes(v6).partition_point(|&size| size <= mss) as u32).saturating_sub(1)
}

const fn step_of(now: Instant) -> u64 {
    now.as_millis() / 1000 / STEP
}

/// The clock with options in its low bits: the last such value that is not after `clock`.
const fn stamp(clock: u32, options: u32) -> u32 {
    let value = clock & !OPTION_MASK | options;
    // Both are in the same block of 64: the order is that of numbers.
    if value > clock { value.wrapping_sub(OPTION_MASK + 1) } else { value }
}

/// The options that were agreed on, as the low bits of the clock.
fn option_bits(half: &HalfOpen) -> u32 {
    let scale = half.peer_wscale.map_or(NO_SCALE, |scale| u32::from(scale.shift()));
    scale | if half.sack { SACK_BIT } else { 0 } | if half.ecn { ECN_BIT } else { 0 }
}

/// The key, and whether there are cookies about.
pub(super) struct Cookies {
    mac: SipHasher24,
    /// When the last cookie is too old: an ACK cannot be of one from then on, and is not looked at.
    until: Instant,
}

/// What came back in a good cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cookie {
    peer_mss: u16,
    stamp: Option<Stamp>,
}

/// What came back in its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bits: u32,
    /// When the SYN-ACK was sent, or up to 64 ms before.
    sent_at: Instant,
}

impl Cookies {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        let (k0, k1) = derive(seed, b"syn cookie");
        Cookies { mac: SipHasher24::new_with_keys(k0, k1), until: Instant::ZERO }
    }

    fn tag(&self, tuple: &FourTuple, irs: SeqNum, step: u64) -> u32 {
        let mut mac = self.mac;
        mac.write(TupleBytes::of(tuple).as_slice());
        mac.write(&irs.0.to_be_bytes());
        mac.write(&step.to_be_bytes());
        (mac.finish() % u64::from(TAGS)) as u32
    }

    /// Where the cookies of a step begin.
    fn base(secrets: &Secrets, tuple: &FourTuple, step: u64) -> SeqNum {
        secrets.isn(Instant::from_secs(step * STEP), tuple)
    }

    /// The initial sequence number in answer to this SYN.
    fn make(&mut self, now: Instant, secrets: &Secrets, tuple: &FourTuple, syn: &TcpHeader) -> SeqNum {
        let step = step_of(now);
        self.until = Instant::from_secs((step + GOOD_FOR) * STEP);
        let index = size_index(syn.options.mss, tuple.is_v6());
        Self::base(secrets, tuple, step).add(self.tag(tuple, syn.seq, step) * SIZES + index)
    }

    /// Whether any cookie is still good.
    fn any(&self, now: Instant) -> bool {
        now < self.until
    }

    /// What a segment's ACK says, if that is a cookie, and a good one.
    pub(super) fn read(&self, now: Instant, secrets: &Secrets, tuple: &FourTuple, ack: &TcpHeader) -> Option<Cookie> {
        if !self.any(now) {
            return None;
        }
        let (irs, iss) = (ack.seq.sub(1), ack.ack.sub(1));
        let newest = step_of(now);
        let index = (newest.saturating_sub(GOOD_FOR - 1)..=newest).rev().find_map(|step| {
            let above = iss.0.wrapping_sub(Self::base(secrets, tuple, step).0);
            let good = above < STEP_TICKS && above / SIZES == self.tag(tuple, irs, step);
            good.then_some(above % SIZES)
        })?;
        Some(Cookie {
            peer_mss: sizes(tuple.is_v6())[index as usize],
            stamp: ack.options.timestamps.and_then(|ts| Stamp::read(now, secrets.ts_offset(tuple), ts)),
        })
    }
}

impl Stamp {
    /// `None` if it is not ours: too old, or of the future. The peer then did not mean to use timestamps.
    fn read(now: Instant, ts_offset: u32, ts: Timestamps) -> Option<Stamp> {
        let value = ts.echo.wrapping_sub(ts_offset);
        let age = Duration::from_millis(timestamp(now, 0).wrapping_sub(value).into());
        let oldest = Duration::from_millis(GOOD_FOR * STEP * 1000 + u64::from(OPTION_MASK));
        (age <= oldest).then_some(Stamp { bits: value & OPTION_MASK, sent_at: now - age })
    }
}

impl Cookie {
    /// The SYN as it must have been, as far as it matters, from the segment that brought the cookie back.
    fn syn(&self, ack: &TcpHeader) -> TcpHeader {
        let mut options = Options { mss: Some(self.peer_mss), ..Options::default() };
        let mut flags = Flags::SYN;
        if let Some(Stamp { bits, .. }) = self.stamp {
            let scale = bits & SCALE_MASK;
            options.window_scale = (scale != NO_SCALE).then_some(scale as u8);
            options.sack_permitted = bits & SACK_BIT != 0;
            options.timestamps = ack.options.timestamps;
            // RFC 3168 §6.1.1: an ECN-setup SYN has both.
            flags = if bits & ECN_BIT != 0 { flags | Flags::ECE | Flags::CWR } else { flags };
        }
        TcpHeader { seq: ack.seq.sub(1), ack: SeqNum(0), flags, options, ..*ack }
    }
}

/// What is agreed on with a cookie: without timestamps, nothing but the segment size.
fn half_open(
    now: Instant,
    tuple: &FourTuple,
    syn: (&TcpHeader, Ecn),
    id: ListenerId,
    config: &ListenConfig,
    ours: Ours,
) -> HalfOpen {
    let mut half = HalfOpen::new(now, tuple, syn, id, config, ours);
    if half.timestamps.is_none() {
        half.forget_options();
    }
    half
}

impl<C: Clone, L: Clone + AcceptQueue> Stack<C, L> {
    /// RFC 9293 §3.10.7.2, third, without a record: the SYN-ACK is all that there is.
    pub(super) fn send_cookie(
        &mut self,
        now: Instant,
        tuple: &FourTuple,
        id: ListenerId,
        seg: &Segment<'_>,
        mtu_of: &mut MtuOf<'_>,
    ) -> Result<Reply, DropReason> {
        let listener = self.listeners.get(id).ok_or(DropReason::NoConnection)?;
        if !listener.handle.has_room() {
            return Err(DropReason::AcceptQueueFull);
        }
        let iss = self.cookies.make(now, &self.secrets, tuple, &seg.header);
        let ours = Ours { iss, ts_offset: self.secrets.ts_offset(tuple), mtu: mtu_of(tuple, listener.config.mtu) };
        let half = half_open(now, tuple, (&seg.header, seg.ecn), id, &listener.config, ours);
        let mut reply = half.syn_ack(now, tuple, &listener.config.conn);
        if let Some(ts) = &mut reply.header.options.timestamps {
            ts.value = stamp(timestamp(now, 0), option_bits(&half)).wrapping_add(half.ts_offset);
        }
        self.counters.syn_acks += 1;
        self.counters.cookies_sent += 1;
        Ok(reply)
    }

    /// The cookie that an ACK brings back, in LISTEN.
    pub(super) fn find_cookie(&mut self, now: Instant, tuple: &FourTuple, seg: &Segment<'_>) -> Option<Cookie> {
        // A SYN-ACK answers nothing that a listener sends.
        if seg.header.flags.contains(Flags::SYN) || !self.cookies.any(now) {
            return None;
        }
        let cookie = self.cookies.read(now, &self.secrets, tuple, &seg.header);
        self.counters.cookies_rejected += u64::from(cookie.is_none());
        cookie
    }

    /// The end of a handshake of which nothing was kept.
    pub(super) fn accept_cookie(
        &mut self,
        now: Instant,
        tuple: &FourTuple,
        id: ListenerId,
        seg: &Segment<'_>,
        cookie: Cookie,
        mtu_of: &mut MtuOf<'_>,
    ) -> Result<Disposition<C, L>, DropReason> {
        let listener = self.listeners.get(id).ok_or(DropReason::NoConnection)?;
        // As with a record, but nothing is sent again: the peer's next segment may find room.
        if !listener.handle.has_room() {
            return Err(DropReason::AcceptQueueFull);
        }
        let ours = Ours {
            iss: seg.header.ack.sub(1),
            ts_offset: self.secrets.ts_offset(tuple),
            mtu: mtu_of(tuple, listener.config.mtu),
        };
        let mut half = half_open(now, tuple, (&cookie.syn(&seg.header), Ecn::NotEct), id, &listener.config, ours);
        // RFC 7323 §2.3: this is no SYN, its window is scaled.
        half.peer_window = half.peer_wscale.unwrap_or(WindowScale::NONE).bytes(seg.header.window);
        match cookie.stamp {
            // The echo tells which SYN-ACK was answered (RFC 7323 §4.1).
            Some(stamp) if half.timestamps.is_some() => half.synack_sent_at = stamp.sent_at,
            // Nobody knows when, nor how often, a SYN-ACK was sent (Karn).
            _ => half.retransmits = 1,
        }
        let disposition = Disposition::Accept {
            listener: listener.handle.clone(),
            connection: Box::new(Connection::accept(now, &listener.config.conn, *tuple, &half)),
        };
        // A SYN that came again may have got a record meanwhile.
        self.vacate(tuple);
        self.counters.accepted += 1;
        self.counters.cookies_accepted += 1;
        Ok(disposition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn segment_sizes_are_rounded_down() {
        for (mss, v4, v6) in [
            (None, 536, 1220),
            (Some(0), 88, 88),
            (Some(88), 88, 88),
            (Some(535), 88, 88),
            (Some(1220), 1220, 1220),
            (Some(1439), 1400, 1420),
            (Some(1452), 1440, 1440),
            (Some(1460), 1460, 1440),
            (Some(u16::MAX), 8960, 8940),
        ] {
            for (v6, size) in [(false, v4), (true, v6)] {
                assert_eq!(sizes(v6)[size_index(mss, v6) as usize], size, "{mss:?} {v6}");
            }
        }
        for table in [SIZES_V4, SIZES_V6] {
            assert!(table.is_sorted() && table[0] == crate::config::MIN_MSS);
        }
    }

    proptest! {
        #[test]
        fn a_stamp_is_recent_and_never_goes_back(clock: u32, bits in 0..=OPTION_MASK, later in 0u32..200) {
            let first = stamp(clock, bits);
            prop_assert_eq!(first & OPTION_MASK, bits);
            prop_assert!(clock.wrapping_sub(first) <= OPTION_MASK);
            let second = stamp(clock.wrapping_add(later), bits);
            prop_assert!(second.wrapping_sub(first) <= later + OPTION_MASK);
        }
    }

    /// Every combination of options comes back as it was sent.
    #[test]
    fn a_stamp_brings_the_syn_back() {
        let (now, ts_offset) = (Instant::from_millis(123_456), 0xffff_fff0);
        for bits in 0..=OPTION_MASK {
            let ts = Timestamps { value: 9, echo: stamp(timestamp(now, 0), bits).wrapping_add(ts_offset) };
            let later = now + Duration::from_millis(70);
            let cookie = Cookie { peer_mss: 1440, stamp: Stamp::read(later, ts_offset, ts) };
            let options = Options { timestamps: Some(ts), ..Options::default() };
            let syn = cookie.syn(&TcpHeader { seq: SeqNum(0), options, ..TcpHeader::default() });
            assert_eq!((syn.seq, syn.options.mss, syn.options.timestamps), (SeqNum(u32::MAX), Some(1440), Some(ts)));
            assert_eq!(syn.options.window_scale, (bits & 15 != 15).then_some((bits & 15) as u8));
            assert_eq!(syn.options.sack_permitted, bits & 16 != 0);
            let ecn = if bits & 32 != 0 { Flags::ECE | Flags::CWR } else { Flags::NONE };
            assert_eq!(syn.flags, Flags::SYN | ecn);
            let age = later.since(cookie.stamp.unwrap().sent_at).as_millis();
            assert!((70..134).contains(&age), "{age}");
        }
    }

    #[test]
    fn cookies_lie_among_the_numbers_of_their_step() {
        let secrets = Secrets::new(&[1; 32]);
        let mut cookies = Cookies::new(&[1; 32]);
        let tuple = FourTuple::new("10.0.0.1:80".parse().unwrap(), "10.0.0.2:1".parse().unwrap());
        for step in [0, 1, 268, 269, 1 << 28] {
            let begin = Instant::from_secs(step * STEP);
            let now = begin + Duration::from_millis(63_999);
            let syn = TcpHeader { seq: SeqNum(9), ..TcpHeader::default() };
            let iss = cookies.make(now, &secrets, &tuple, &syn);
            let above = iss.0.wrapping_sub(secrets.isn(begin, &tuple).0);
            let end = begin + Duration::from_secs(STEP);
            assert_eq!(secrets.isn(end, &tuple), secrets.isn(begin, &tuple).add(STEP_TICKS));
            assert!(above < STEP_TICKS, "{step}");
        }
    }
}
