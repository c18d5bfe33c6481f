//! What was sent and is not acknowledged: the scoreboard of RFC 6675 and RFC 8985.
//!
//! A deque of runs in sequence order, and a smaller one of retransmissions in the order they left. First
//! transmissions leave in sequence order, so each deque is in send order by itself, and loss detection in time
//! looks at the heads only. Three indices keep what lies behind from being walked again and again:
//!
//! * `fresh` and the retransmissions' `cursor`: everything before them is delivered, lost or superseded. They
//!   only move on, but for the rare undo, so each run is passed once.
//! * `hop` in each run: how far the wholly sacked runs reach, compressed as it is followed. A peer repeats its
//!   SACK blocks in every segment; a block already known costs a few steps, however long it is.
//! * `lost_runs`: which runs hold lost segments.
//!
//! A segment counts as sacked only when all its unacknowledged bytes are reported in one block (RFC 2018 §4 has
//! the sender mark segments). Byte totals follow every change; [`SentQueue::check_invariants`] counts them anew.
//!
//! Only whole sweeps walk all runs: a retransmission timeout, an undo, reneging, a smaller path MTU.

mod detect;
mod marks;
mod resegment;
mod retransmit;
mod run;
#[cfg(test)]
mod tests;

pub use detect::{Detected, LostSegment, RackView};

use crate::cold::{Cold, Idle};
use crate::seq::{Offset, OffsetRange};
use crate::time::{Duration, Instant};
use retransmit::{Retransmission, Retransmissions};
use run::{MAX_SEGMENTS, Map, Run, Totals, each};
use std::collections::{BTreeSet, VecDeque};

/// The state of delivery at the moment a segment left, for the rate sample its acknowledgment gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliverySnapshot {
    /// Bytes delivered so far.
    pub delivered: u64,
    /// When that count last grew.
    pub delivered_at: Instant,
    /// When the first segment of the running send interval left.
    pub first_sent_at: Instant,
    /// Whether the application, not the window, limited sending.
    pub app_limited: bool,
    /// Bytes taken for lost so far.
    pub lost: u64,
}

/// A delivered segment, as RACK wants to know it (RFC 8985 §6.2, step 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestDelivered {
    /// Where it ends.
    pub end: Offset,
    /// When it was last sent.
    pub sent_at: Instant,
    /// Whether it was ever sent more than once: then the copy that arrived may not be the last.
    pub retransmitted: bool,
    /// The state of delivery when it was last sent.
    pub snapshot: DeliverySnapshot,
    /// Bytes in flight when it was last sent, itself included.
    pub tx_in_flight: u64,
}

/// What one acknowledgment, with all its SACK blocks, changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckOutcome {
    /// When it arrived.
    pub at: Instant,
    /// Bytes by which SND.UNA moved, sacked before or not.
    pub newly_acked: u64,
    /// Bytes newly sacked.
    pub newly_sacked: u64,
    /// Bytes now known to have arrived and not known before, by either way.
    pub delivered: u64,
    /// Of the segments delivered now, the one that was sent last (ties: the highest).
    pub newest: Option<NewestDelivered>,
    /// The same among those never retransmitted: what remains when `newest` has to be ignored because it may be
    /// the answer to an earlier copy (RFC 8985 §6.2, step 2).
    pub newest_original: Option<NewestDelivered>,
    /// When the last-sent of the segments delivered now that were never retransmitted was sent (Karn's rule,
    /// RFC 6298 §3).
    pub rtt_sent_at: Option<Instant>,
    /// Where the lowest segment ends that was delivered now and never retransmitted (F-RTO, RFC 5682 §3.1).
    pub lowest_original: Option<Offset>,
    /// Whether SND.UNA moved over bytes that had been retransmitted and not been sacked. Originals that it
    /// passed at the same time may have waited for that hole at the peer.
    pub any_retransmitted_acked: bool,
    /// Reordering (RFC 8985 §6.2, step 3): the start of the lowest segment, never retransmitted, that was
    /// delivered now although something above it had been delivered before.
    pub lowest_sacked_never_retransmitted: Option<Offset>,
    /// RACK.fack before this acknowledgment.
    fack: Offset,
}

impl AckOutcome {
    /// Nothing is outstanding, and `fack` the end of all that was.
    pub(crate) fn new(at: Instant, fack: Offset) -> Self {
        AckOutcome {
            at,
            newly_acked: 0,
            newly_sacked: 0,
            delivered: 0,
            newest: None,
            newest_original: None,
            rtt_sent_at: None,
            lowest_original: None,
            any_retransmitted_acked: false,
            lowest_sacked_never_retransmitted: None,
            fack,
        }
    }

    /// The round-trip time that may be measured without timestamps, if any (RFC 6298 §3).
    pub fn rtt_sample(&self) -> Option<Duration> {
        match self.any_retransmitted_acked {
            true => None,
            false => self.rtt_sent_at.map(|sent_at| self.at.since(sent_at)),
        }
    }

    fn consider(&mut self, segment: NewestDelivered) {
        let later =
            |than: &Option<NewestDelivered>| than.is_none_or(|t| (segment.sent_at, segment.end) > (t.sent_at, t.end));
        if later(&self.newest) {
            self.newest = Some(segment);
        }
        if !segment.retransmitted && later(&self.newest_original) {
            self.newest_original = Some(segment);
            self.rtt_sent_at = Some(segment.sent_at);
        }
    }
}

impl Idle for SentQueue {
    const BEGIN: Self = SentQueue::new(Offset(0));

    fn idle() -> &'static Self {
        static IDLE: SentQueue = SentQueue::BEGIN;
        &IDLE
    }
}

/// The list of runs keeps its memory while nothing is outstanding if it has room for no more than these.
const FEW_RUNS: usize = 1;

/// What was sent and is not cumulatively acknowledged. All counts are bytes; SYN and FIN count one each.
#[derive(Debug)]
pub struct SentQueue {
    una: Offset,
    nxt: Offset,
    /// RACK.fack: the highest offset known to have arrived (its end).
    fack: Offset,
    runs: VecDeque<Run>,
    copies: Cold<Retransmissions>,
    totals: Totals,
    /// No run before this index has a first transmission in flight.
    fresh: usize,
    /// The starts of the runs that hold lost segments.
    lost_runs: BTreeSet<Offset>,
    /// The last time anything was sent: both deques are in send order even if the caller's clock is not.
    latest: Instant,
    /// Runs and retransmissions looked at, to prove that work does not grow with the window.
    #[cfg(test)]
    steps: core::sync::atomic::AtomicU64,
}

impl SentQueue {
    /// An empty queue whose first byte to be sent is `start`: 0 for the SYN.
    pub const fn new(start: Offset) -> Self {
        SentQueue {
            una: start,
            nxt: start,
            fack: start,
            runs: VecDeque::new(),
            copies: Cold::new(),
            totals: Totals { sacked: 0, lost: 0, copies: 0 },
            fresh: 0,
            lost_runs: BTreeSet::new(),
            latest: Instant::ZERO,
            #[cfg(test)]
            steps: core::sync::atomic::AtomicU64::new(0),
        }
    }

    /// SND.UNA: the first byte that is not acknowledged.
    pub fn una(&self) -> Offset {
        self.una
    }

    /// SND.NXT: behind the last byte ever sent.
    pub fn nxt(&self) -> Offset {
        self.nxt
    }

    /// RACK.fack: behind the highest byte that is acknowledged or sacked (RFC 8985 §6.2, step 3).
    pub fn fack(&self) -> Offset {
        self.fack
    }

    /// FlightSize of RFC 5681: everything between SND.UNA and SND.NXT.
    pub fn outstanding(&self) -> u64 {
        self.nxt.since(self.una)
    }

    /// Pipe of RFC 6675 §4: outstanding and neither sacked nor lost. A lost segment counts again from its
    /// retransmission on; one that was sent again without being lost (a probe) counts once.
    pub fn in_flight(&self) -> u64 {
        self.outstanding() - self.totals.sacked - self.totals.lost
    }

    /// Outstanding bytes that the peer reported out of order.
    pub fn sacked_bytes(&self) -> u64 {
        self.totals.sacked
    }

    /// Bytes taken for lost and not sent again since.
    pub fn lost_bytes(&self) -> u64 {
        self.totals.lost
    }

    /// Bytes sent again which are neither sacked nor taken for lost once more.
    pub fn retransmitted_out(&self) -> u64 {
        self.totals.copies
    }

    /// Records new data, which starts at SND.NXT, in segments of `segment` bytes (the last may be shorter).
    pub fn on_send(&mut self, range: OffsetRange, segment: u32, now: Instant, snap: DeliverySnapshot) {
        debug_assert_eq!(range.start, self.nxt, "new data follows what was sent");
        let now = self.stamp(now);
        let segment = segment.max(1);
        let mut at = self.nxt;
        let in_flight = self.in_flight();
        if self.runs.capacity() == 0 {
            // What answers or asks now and then needs no more.
            self.runs.reserve_exact(1);
        }
        if let Some(tail) = self.runs.back_mut() {
            let room = u64::from(MAX_SEGMENTS - tail.count()) * u64::from(segment);
            let same = tail.segment == segment && tail.sent_at == now && tail.snapshot == snap;
            let same = same && tail.before + tail.end.since(tail.start) == in_flight;
            let full = tail.end.since(tail.start) % u64::from(segment) == 0;
            if same && full && tail.is_untouched() {
                at = tail.end.add(room).min(range.end).max(at);
                tail.end = at;
            }
        }
        while at < range.end {
            let to = at.add(u64::from(segment) * u64::from(MAX_SEGMENTS)).min(range.end);
            let mut run = Run::new(at..to, segment, now, snap);
            run.before = in_flight + at.since(self.nxt);
            self.runs.push_back(run);
            at = to;
        }
        self.nxt = at;
    }

    /// Records that a range was sent again. What of it is sacked or acknowledged stays as it is; a boundary
    /// inside a segment cuts that segment.
    pub fn on_retransmit(&mut self, range: OffsetRange, now: Instant, snap: DeliverySnapshot) {
        let range = range.start.max(self.una)..range.end.min(self.nxt);
        if range.start >= range.end {
            return;
        }
        let now = self.stamp(now);
        self.cut(range.start);
        self.cut(range.end);
        let id = self.copies.edit().next_id();
        let mut live = 0;
        let mut at = self.find(range.start);
        while let Some(run) = self.runs.get(at).filter(|run| run.start < range.end) {
            let map = run.covered(&range, self.una) & !run.sacked;
            for i in each(map & run.retransmitted) {
                self.copies.edit().release(run.copy(i));
            }
            live += map.count_ones();
            self.edit(at, |run| run.retransmit(map, id));
            at += 1;
        }
        if live > 0 {
            let in_flight = self.in_flight();
            self.copies.edit().push(Retransmission { id, range, sent_at: now, snapshot: snap, in_flight, live });
        }
    }

    /// Takes the cumulative acknowledgment up to `una`, which arrived at `now`. Anything beyond SND.NXT is cut off.
    pub fn on_ack(&mut self, una: Offset, now: Instant) -> AckOutcome {
        let mut out = AckOutcome::new(now, self.fack);
        let (old, una) = (self.una, una.min(self.nxt));
        if una <= old {
            return out;
        }
        let sacked = self.totals.sacked;
        while let Some(run) = self.runs.front().filter(|run| run.start < una) {
            self.step();
            let before = run.totals(old);
            let gone = run.live(old) & !run.live(una);
            if run.retransmitted != 0 {
                let touched = run.overlapping(&(old..una), old) & !run.sacked;
                out.any_retransmitted_acked |= touched & run.retransmitted != 0;
            }
            let delivered = gone & !run.sacked;
            self.deliver(0, delivered, &mut out);
            self.totals.sub(before);
            let run = &mut self.runs[0];
            run.sacked &= !gone;
            run.lost &= !gone;
            run.retransmitted &= !gone;
            self.totals.add(run.totals(una));
            if run.lost == 0 && !self.lost_runs.is_empty() {
                self.lost_runs.remove(&run.start);
            }
            if run.end > una {
                break;
            }
            self.runs.pop_front();
            self.fresh = self.fresh.saturating_sub(1);
        }
        if self.runs.is_empty() {
            self.rest();
        }
        self.una = una;
        self.fack = self.fack.max(una);
        out.newly_acked = una.since(old);
        out.delivered = out.newly_acked - (sacked - self.totals.sacked);
        out
    }

    /// Nothing is outstanding: gives back the memory that a busy time needed.
    fn rest(&mut self) {
        if self.runs.capacity() > FEW_RUNS {
            self.runs = VecDeque::new();
        }
        if self.copies.touched().is_some() {
            self.copies.reset();
            self.lost_runs = BTreeSet::new();
        }
    }

    /// Takes one SACK block of the segment whose cumulative acknowledgment gave `out`.
    ///
    /// What lies below SND.UNA (an old block, or the D-SACK of RFC 2883) is not looked at, and a block that
    /// reaches beyond SND.NXT reports what was never sent: it is ignored.
    pub fn on_sack(&mut self, range: OffsetRange, out: &mut AckOutcome) {
        let range = range.start.max(self.una)..range.end;
        if range.start >= range.end || range.end > self.nxt {
            return;
        }
        let sacked = self.totals.sacked;
        let mut at = self.find(range.start);
        while let Some(run) = self.runs.get(at).filter(|run| run.start < range.end) {
            self.step();
            if run.is_sacked(self.una) {
                at = self.skip_sacked(at);
                continue;
            }
            let new = run.covered(&range, self.una) & !run.sacked;
            if new != 0 {
                let end = run.boundary(new.ilog2() + 1);
                self.deliver(at, new, out);
                self.fack = self.fack.max(end);
                self.edit(at, |run| {
                    run.sacked |= new;
                    run.lost &= !new;
                });
            }
            at += 1;
        }
        let new = self.totals.sacked - sacked;
        out.newly_sacked += new;
        out.delivered += new;
    }

    /// Whether the segment at SND.UNA is sacked: a sign of reneging (RFC 2018 §8), because a receiver that
    /// kept it would have acknowledged it.
    pub fn is_head_sacked(&self) -> bool {
        self.runs.front().is_some_and(|run| {
            let live = run.live(self.una);
            live & live.wrapping_neg() & run.sacked != 0
        })
    }

    /// The bytes of the first segment that is not sacked.
    pub fn head_len(&self) -> Option<u64> {
        let mut at = 0;
        loop {
            let run = self.runs.get(at)?;
            let map = run.live(self.una) & !run.sacked;
            if map != 0 {
                let range = run.range(map.trailing_zeros(), self.una);
                return Some(range.end.since(range.start));
            }
            at += run.hop.max(1) as usize;
        }
    }

    /// Whether the segment that holds `at` is taken for lost and was not sent again since.
    pub fn is_lost(&self, at: Offset) -> bool {
        let inside = |run: &&Run| self.una <= at && run.start <= at;
        self.runs.get(self.find(at)).filter(inside).is_some_and(|run| run.lost >> run.index(at) & 1 == 1)
    }

    /// Forgets everything outstanding: the connection is over.
    pub fn clear(&mut self) {
        *self = SentQueue::new(self.nxt);
    }

    /// When the segment at SND.UNA was last sent: what the retransmission timer counts from.
    pub fn head_sent_at(&self) -> Option<Instant> {
        let run = self.runs.front()?;
        let i = run.index(self.una.max(run.start));
        Some(self.copy_of(run, i).map_or(run.sent_at, |copy| copy.sent_at))
    }

    /// The highest segment sent: what a tail loss probe sends again (RFC 8985 §7.3).
    pub fn last_range(&self) -> Option<OffsetRange> {
        let run = self.runs.back()?;
        Some(run.range(run.count() - 1, self.una))
    }

    /// The first bytes that are not sacked, in whole segments up to `max` bytes, or `max` bytes of the first
    /// segment if it is larger.
    pub fn first_range(&self, max: u64) -> Option<OffsetRange> {
        let mut at = 0;
        loop {
            let run = self.runs.get(at)?;
            self.step();
            match run.live(self.una) & !run.sacked {
                0 => at += run.hop.max(1) as usize,
                map => return run.stretch(map, self.una, max),
            }
        }
    }

    /// The lowest bytes that are lost and were not sent again: a stretch of whole segments of one run, up to `max`
    /// bytes, or `max` bytes of the first segment if it is larger (RFC 6675 §4, NextSeg rule 1).
    pub fn next_lost(&self, max: u64) -> Option<OffsetRange> {
        let run = self.runs.get(self.find(*self.lost_runs.first()?))?;
        run.stretch(run.lost, self.una, max)
    }

    /// These segments of a run are delivered: their news for the outcome, and the end of their retransmissions.
    fn deliver(&mut self, at: usize, new: Map, out: &mut AckOutcome) {
        let Some(run) = self.runs.get(at).filter(|_| new != 0) else { return };
        let original = |i: u32, retransmitted| NewestDelivered {
            end: run.boundary(i + 1),
            sent_at: run.sent_at,
            retransmitted,
            snapshot: run.snapshot,
            tx_in_flight: run.tx_in_flight(i),
        };
        let originals = new & !run.retransmitted;
        if originals != 0 {
            out.consider(original(originals.ilog2(), false));
            let lowest = originals.trailing_zeros();
            let end = run.boundary(lowest + 1);
            out.lowest_original = Some(out.lowest_original.map_or(end, |known| known.min(end)));
            // RFC 8985 §6.2, step 3: below something that an earlier acknowledgment reported.
            if end < out.fack {
                let start = run.range(lowest, self.una).start;
                let known = out.lowest_sacked_never_retransmitted;
                out.lowest_sacked_never_retransmitted = Some(known.map_or(start, |k| k.min(start)));
            }
        }
        for i in each(new & run.retransmitted) {
            let id = run.copy(i);
            let first = original(i, true);
            out.consider(match self.copies.get(id) {
                Some(copy) => NewestDelivered {
                    sent_at: copy.sent_at,
                    snapshot: copy.snapshot,
                    tx_in_flight: copy.in_flight,
                    ..first
                },
                None => first,
            });
            self.copies.edit().release(id);
        }
    }

    /// The last retransmission of a segment, if it was retransmitted.
    fn copy_of(&self, run: &Run, i: u32) -> Option<&Retransmission> {
        match run.retransmitted >> i & 1 {
            0 => None,
            _ => self.copies.get(run.copy(i)),
        }
    }

    /// The index of the run that holds `at`.
    fn find(&self, at: Offset) -> usize {
        self.runs.partition_point(|run| {
            self.step();
            run.end <= at
        })
    }

    /// Changes one run and keeps totals and index in step.
    fn edit(&mut self, at: usize, change: impl FnOnce(&mut Run)) {
        let run = &mut self.runs[at];
        let had_lost = run.lost != 0;
        self.totals.sub(run.totals(self.una));
        change(run);
        self.totals.add(run.totals(self.una));
        match (had_lost, run.lost != 0) {
            (false, true) => _ = self.lost_runs.insert(run.start),
            (true, false) => _ = self.lost_runs.remove(&run.start),
            _ => {}
        }
    }

    /// The first run from `at` on that is not wholly sacked; shortens the way for the next time.
    fn skip_sacked(&mut self, at: usize) -> usize {
        let mut end = at;
        while let Some(run) = self.runs.get(end).filter(|run| run.is_sacked(self.una)) {
            self.step();
            end += run.hop.max(1) as usize;
        }
        let mut i = at;
        while i < end {
            let hop = core::mem::replace(&mut self.runs[i].hop, (end - i) as u32);
            i += hop.max(1) as usize;
        }
        end
    }

    fn stamp(&mut self, now: Instant) -> Instant {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn step(&self) {
        #[cfg(test)]
        self.steps.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    }
}
