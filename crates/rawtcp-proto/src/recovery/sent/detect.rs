//! Loss detection in time: RFC 8985 §6.2, step 5.

use super::run::Map;
use super::{DeliverySnapshot, SentQueue};
use crate::seq::Offset;
use crate::time::{Duration, Instant};

/// RACK's state, as far as finding lost segments needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RackView {
    /// RACK.xmit_ts: when the last-sent delivered segment was sent.
    pub newest_sent_at: Instant,
    /// RACK.end_seq: where that segment ends.
    pub newest_end: Offset,
    /// RACK.reo_wnd: how much later than expected a segment may come.
    pub reo_wnd: Duration,
    /// RACK.rtt.
    pub rtt: Duration,
}

impl RackView {
    /// Of the segments sent at `sent_at`, those that end before this were sent before RACK.segment.
    fn limit(&self, sent_at: Instant) -> Offset {
        match sent_at.cmp(&self.newest_sent_at) {
            core::cmp::Ordering::Less => Offset(u64::MAX),
            core::cmp::Ordering::Equal => self.newest_end,
            core::cmp::Ordering::Greater => Offset(0),
        }
    }
}

/// A lost segment, as it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostSegment {
    /// When it was last sent.
    pub sent_at: Instant,
    /// The state of delivery then.
    pub snapshot: DeliverySnapshot,
    /// Bytes in flight when it had left.
    pub tx_in_flight: u64,
}

/// What loss detection found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detected {
    /// Bytes newly marked as lost.
    pub lost: u64,
    /// The last-sent of the segments newly marked.
    pub newest: Option<LostSegment>,
    /// When the next segment will be, if nothing is heard of it: the reordering timer.
    pub next_deadline: Option<Instant>,
}

impl SentQueue {
    /// Marks what was sent before a delivered segment and has not arrived within the reordering window.
    ///
    /// Both deques are walked from where first something can be in flight to the first segment that is too recent.
    /// Retransmissions that left at the same instant count as sent in the order they were recorded.
    ///
    /// RFC 8985 arms its timer for the last segment that is waiting, this gives the first: each is marked when its
    /// time has come, and finding the last would mean walking all that wait.
    pub fn detect_lost(&mut self, rack: &RackView, now: Instant) -> Detected {
        let mut found = Detected::default();
        while let Some(run) = self.runs.get(self.fresh) {
            self.step();
            let (fresh, sent_at) = (run.fresh(self.una), run.sent_at);
            if !self.judge(self.fresh, fresh, sent_at, None, rack, now, &mut found) {
                break;
            }
            self.fresh += 1;
        }
        while self.detect_lost_again(rack, now, &mut found) {
            self.copies.edit().cursor += 1;
        }
        found
    }

    /// Looks at the first retransmission that may be in flight; false if the search ends with it.
    fn detect_lost_again(&mut self, rack: &RackView, now: Instant, found: &mut Detected) -> bool {
        let Some(copy) = self.copies.queue.get(self.copies.cursor) else { return false };
        let (id, sent_at, state) = (copy.id, copy.sent_at, (copy.snapshot, copy.in_flight));
        let range = copy.range.start.max(self.una)..copy.range.end;
        self.step();
        if copy.live == 0 {
            return true;
        }
        let mut at = self.find(range.start);
        while let Some(run) = self.runs.get(at).filter(|run| run.start < range.end) {
            self.step();
            let map = run.in_flight_by(id, &range, self.una);
            if !self.judge(at, map, sent_at, Some(state), rack, now, found) {
                return false;
            }
            at += 1;
        }
        true
    }

    /// Marks those segments of `map`, sent at `sent_at`, whose time has come; false if one is too recent. `copy`
    /// is how things were when they were sent again, if they were.
    #[allow(clippy::too_many_arguments)]
    fn judge(
        &mut self,
        at: usize,
        map: Map,
        sent_at: Instant,
        copy: Option<(DeliverySnapshot, u64)>,
        rack: &RackView,
        now: Instant,
        found: &mut Detected,
    ) -> bool {
        if map == 0 {
            return true;
        }
        let earlier = map & self.runs[at].ending_before(rack.limit(sent_at));
        if earlier == 0 {
            return false;
        }
        let deadline = sent_at + rack.rtt + rack.reo_wnd;
        if now < deadline {
            found.next_deadline = Some(found.next_deadline.map_or(deadline, |d| d.min(deadline)));
            return false;
        }
        let lost = self.totals.lost;
        self.edit(at, |run| run.lost |= earlier);
        found.lost += self.totals.lost - lost;
        if found.newest.is_none_or(|newest| newest.sent_at <= sent_at) {
            let run = &self.runs[at];
            let (snapshot, tx_in_flight) = copy.unwrap_or_else(|| (run.snapshot, run.tx_in_flight(earlier.ilog2())));
            found.newest = Some(LostSegment { sent_at, snapshot, tx_in_flight });
        }
        earlier == map
    }
}
