//! The path MTU: what routers say of it (RFC 1191, RFC 8201), what silence says of it (black holes, RFC 2923 §2.1),
//! and the search for a larger one with segments of that size (RFC 4821, RFC 8899).
//!
//! [`Path::mtu`] is always a size that is believed to pass. The search lies above it, up to what the first hop, the
//! peer's MSS and [`max_mss`](crate::ConnConfig::max_mss) allow. A probe is new data, in one segment that is larger
//! than the others; whatever becomes of it is found out as for other data. That it is lost is no congestion (RFC
//! 4821 §7.6), and what it carried is sent again in segments of the usual size.

use super::recovery::Phase;
use super::{Connection, Path, TIMESTAMP_LEN, Transmit, TransmitKind};
use crate::cold::Idle;
use crate::config::{MIN_MSS, MtuProbing, ip_header_len};
use crate::seq::OffsetRange;
use crate::time::Instant;
use crate::trace::{LossReason, MtuReason, WindowReason};
use crate::wire::Options;

/// The smallest path MTU believed, so that a forged message can not shrink segments to nothing: Linux's
/// `min_pmtu` for IPv4, the protocol's minimum for IPv6 (RFC 8200 §5).
const MIN_MTU_V4: u32 = 552;
const MIN_MTU_V6: u32 = 1280;

/// What almost every path carries (RFC 8899 §5.1.2 BASE_PLPMTU has 1,200). IPv4: room for 1,024 bytes of data, as
/// Linux's `tcp_base_mss`. IPv6: no path carries less.
const BASE_MTU_V4: u32 = 1064;
const BASE_MTU_V6: u32 = MIN_MTU_V6;

/// Timeouts in a row after which large segments are suspected: R1 of RFC 9293 §3.8.3 [SHLD-10], Linux's
/// `tcp_retries1`. A lost flight is repaired before.
const SUSPICION: u32 = 3;
/// Further timeouts after which even the base is.
const SECOND_SUSPICION: u32 = 5;
/// Probes of one size that may be lost (RFC 8899 §5.1.2 MAX_PROBES).
const MAX_PROBES: u8 = 3;
/// The search ends when so few bytes are left to win, as Linux's `tcp_probe_threshold`.
const CLOSE_ENOUGH: u32 = 8;
/// Segments that follow a probe, whose ACKs tell what became of it (RFC 4821 §7.4).
const FOLLOWERS: u64 = 3;

/// What is known of sizes above [`Path::mtu`].
#[derive(Debug)]
pub(super) struct Pmtu {
    search: Option<Search>,
    probe: Option<Probe>,
    /// When a larger one is tried again, after one that was made smaller (RFC 1191 §6.3, RFC 8201 §4).
    raise_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Search {
    /// The largest that may pass.
    high: u32,
    /// The next probe has this size.
    next: u32,
    /// Probes of it that were lost.
    lost: u8,
}

#[derive(Clone, Debug)]
struct Probe {
    range: OffsetRange,
    mtu: u32,
}

impl Idle for Pmtu {
    const BEGIN: Self = Pmtu::new();

    fn idle() -> &'static Self {
        const { &Pmtu::new() }
    }
}

impl Pmtu {
    pub(super) const fn new() -> Self {
        Pmtu { search: None, probe: None, raise_at: None }
    }

    /// Something could be looked for.
    fn is_looking(&self, now: Instant) -> bool {
        self.search.is_some() || self.raise_at.is_some_and(|at| at <= now)
    }

    fn begin(&mut self, next: u32, high: u32) {
        self.search = Some(Search { high, next, lost: 0 });
        self.probe = None;
        self.raise_at = None;
    }
}

impl Connection {
    fn min_mtu(&self) -> u32 {
        if self.tuple.is_v6() { MIN_MTU_V6 } else { MIN_MTU_V4 }
    }

    fn base_mtu(&self) -> u32 {
        if self.tuple.is_v6() { BASE_MTU_V6 } else { BASE_MTU_V4 }
    }

    /// The MTU with which segments are as large as they may be.
    fn mtu_limit(&self) -> u32 {
        let max = self.config.max_mss.map_or(u32::MAX, |max| u32::from(max.max(MIN_MSS)));
        let mss = u32::from(self.snd.peer_mss).min(max);
        self.first_hop_mtu.min(mss.saturating_add(self.mtu_overhead()))
    }

    /// Headers without options.
    fn mtu_overhead(&self) -> u32 {
        ip_header_len(self.tuple.is_v6()) + 20
    }

    /// The device or a router says that packets larger than `mtu` bytes do not pass; 0 when it does not
    /// say how large they may be. What was too large is sent again at once, smaller.
    pub fn on_path_mtu(&mut self, now: Instant, mtu: u32) {
        if let Some(probe) = &self.pmtu.probe
            && (mtu == 0 || (self.path.mtu <= mtu && mtu < probe.mtu))
        {
            // It is the probe that was too large. Loss detection sends again what it carried.
            let (high, next) = match mtu {
                0 => (probe.mtu - 1, middle(self.path.mtu, probe.mtu - 1)),
                mtu => (mtu, mtu),
            };
            return self.narrow_search(now, high, next);
        }
        let mtu = if mtu == 0 { next_plateau(self.path.mtu) } else { mtu }.max(self.min_mtu());
        if mtu >= self.path.mtu {
            if self.pmtu.search.is_some_and(|search| mtu < search.high) {
                self.narrow_search(now, mtu, mtu); // about a probe that was given up
            }
            return;
        }
        let raise_at = Some(now + self.config.mtu_probe_interval);
        *self.pmtu.edit() = Pmtu { raise_at, ..Pmtu::new() };
        self.set_mtu(mtu, MtuReason::Told);
        self.sent.resegment(self.send_mss());
        if self.state.is_synchronized() && self.sent.outstanding() > 0 {
            // Not congestion: the window is left alone (RFC 1191 §6.5).
            let lost = self.sent.mark_all_lost();
            self.recovery.rate.on_lost(lost);
            self.tell_lost(lost, LossReason::PathMtu);
            self.recovery.backoff = 0;
            self.arm_rto(now);
        }
    }

    fn set_mtu(&mut self, mtu: u32, why: MtuReason) {
        let from = core::mem::replace(&mut self.path, Path { mtu }).mtu;
        self.trace_mtu(from, mtu, why);
        self.cc.on_mss(self.send_mss());
        self.trace_window(WindowReason::SegmentSize);
    }

    /// The handshake is complete: the peer's MSS is known.
    pub(super) fn start_mtu_search(&mut self) {
        if self.config.mtu_probing == MtuProbing::Always {
            let (base, limit) = (self.base_mtu(), self.mtu_limit());
            if base < limit {
                let from = core::mem::replace(&mut self.path, Path { mtu: base }).mtu;
                self.trace_mtu(from, base, MtuReason::Searching);
                // What the first hop carries, the path most often carries.
                self.pmtu.edit().begin(limit, limit);
            }
        }
    }

    /// The retransmission timer is about to act. Several times in a row, while something large is outstanding and
    /// nothing was heard: perhaps there is a hole into which everything large falls, and a filter that has eaten
    /// the router's word about it.
    pub(super) fn suspect_black_hole(&mut self) {
        let timeouts = self.recovery.retries + 1;
        let Some(head) = self.sent.head_len() else { return };
        if self.config.mtu_probing == MtuProbing::Off || !self.state.is_synchronized() || self.snd.wnd == 0 {
            return;
        }
        let to = match timeouts {
            SUSPICION => self.base_mtu(),
            SECOND_SUSPICION => self.min_mtu(),
            _ => return,
        };
        let overhead = self.mtu_overhead() + if self.negotiated.timestamps { TIMESTAMP_LEN } else { 0 };
        if to >= self.path.mtu || head <= u64::from(to - overhead) {
            return;
        }
        // It may have been a silence of the whole path: what was believed before may still be right.
        let high = self.pmtu.search.map_or(self.path.mtu, |search| search.high).min(self.mtu_limit());
        self.set_mtu(to, MtuReason::BlackHole);
        self.sent.resegment(self.send_mss());
        self.pmtu.edit().begin(middle(to, high), high);
    }

    /// RFC 4821 §7.4: a segment larger than those that are known to pass, if there is enough behind it to tell what
    /// became of it, and nothing else is the matter.
    pub(super) fn poll_mtu_probe(&mut self, now: Instant, options: &Options) -> Option<Transmit> {
        if self.pmtu.probe.is_some() || !self.pmtu.is_looking(now) {
            return None;
        }
        if self.pmtu.raise_at.is_some_and(|at| at <= now) {
            self.raise_mtu();
        }
        let search = self.pmtu.search?;
        if search.high < self.path.mtu + CLOSE_ENOUGH {
            self.end_mtu_search(now);
            return None;
        }
        let calm = self.recovery.phase == Phase::Open && !self.ecn.is_reducing();
        if !calm || self.sent.sacked_bytes() + self.sent.lost_bytes() > 0 || !options.sack.is_empty() {
            return None;
        }
        let overhead = u64::from(self.mtu_overhead()) + options.encoded_len() as u64;
        let size = u64::from(search.next).saturating_sub(overhead);
        let usual = u64::from(self.path.mtu).saturating_sub(overhead);
        let needed = size + FOLLOWERS * usual;
        let data = self.send_buf.end().min(self.snd.edge()).since(self.snd.nxt);
        if data < needed || self.cwnd_room() < size || self.cc.cwnd() < needed {
            return None;
        }
        let range = self.snd.nxt..self.snd.nxt.add(size);
        self.pmtu.edit().probe = Some(Probe { range, mtu: search.next });
        Some(self.send_new(now, size, *options, size, TransmitKind::Data))
    }

    /// After ten minutes what has become smaller may be larger again.
    fn raise_mtu(&mut self) {
        self.pmtu.edit().raise_at = None;
        let limit = self.mtu_limit();
        if limit <= self.path.mtu {
            return;
        }
        match self.config.mtu_probing {
            // Without probes the next ICMP message tells, as on Linux.
            MtuProbing::Off => self.set_mtu(limit, MtuReason::Aged),
            _ => self.pmtu.edit().begin(limit, limit),
        }
    }

    fn end_mtu_search(&mut self, now: Instant) {
        self.pmtu.edit().search = None;
        if self.path.mtu + CLOSE_ENOUGH < self.mtu_limit() {
            self.pmtu.edit().raise_at = Some(now + self.config.mtu_probe_interval);
        }
    }

    /// Something was acknowledged: perhaps the probe.
    pub(super) fn note_mtu_ack(&mut self) {
        let una = self.snd.una;
        let arrived = |pmtu: &mut Pmtu| pmtu.probe.take_if(|probe| probe.range.end <= una);
        let Some(probe) = self.pmtu.touched().and_then(arrived) else { return };
        self.set_mtu(probe.mtu, MtuReason::ProbeArrived);
        if let Some(search) = &mut self.pmtu.edit().search {
            search.lost = 0;
            search.next = middle(probe.mtu, search.high);
        }
    }

    /// A range is sent again. If it holds something of the probe, that has failed.
    pub(super) fn note_mtu_retransmit(&mut self, now: Instant, range: &OffsetRange) {
        let hit = |probe: &mut Probe| range.start < probe.range.end && probe.range.start < range.end;
        let Some(pmtu) = self.pmtu.touched() else { return };
        let Some(probe) = pmtu.probe.take_if(hit) else { return };
        let Some(search) = &mut pmtu.search else { return };
        if search.high < probe.mtu {
            return; // a router has said so already
        }
        search.lost += 1;
        if search.lost >= MAX_PROBES {
            let high = probe.mtu - 1;
            self.narrow_search(now, high, middle(self.path.mtu, high));
        }
    }

    fn narrow_search(&mut self, now: Instant, high: u32, next: u32) {
        match &mut self.pmtu.edit().search {
            Some(search) if self.path.mtu < high => *search = Search { high, next, lost: 0 },
            _ => self.end_mtu_search(now),
        }
    }

    /// Whether what was found lost, `lost` bytes, is the probe and nothing else: then it is not congestion. (Without
    /// SACK nothing tells, and it counts as every loss.)
    pub(super) fn is_only_probe_lost(&self, lost: u64) -> bool {
        self.pmtu.probe.as_ref().is_some_and(|probe| {
            probe.range.end.since(probe.range.start) == lost && self.sent.is_lost(probe.range.start)
        })
    }
}

fn middle(low: u32, high: u32) -> u32 {
    low + high.saturating_sub(low).div_ceil(2)
}

/// A guess for routers that do not tell (RFC 1191 §7.1).
fn next_plateau(mtu: u32) -> u32 {
    const PLATEAUS: [u32; 9] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 552, 296];
    PLATEAUS.into_iter().find(|&p| p < mtu).unwrap_or(296)
}
