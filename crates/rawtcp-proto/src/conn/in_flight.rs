//! The list of what was sent and is not acknowledged, which is there only while there is something in it, or was a
//! moment ago.

use crate::cold::Cold;
use crate::recovery::sent::{AckOutcome, DeliverySnapshot, Detected, RackView, SentQueue};
use crate::seq::{Offset, OffsetRange};
use crate::time::Instant;
use core::ops::Deref;

/// A [`SentQueue`], empty where there is none. All that is asked of an empty one has the same answer wherever it stands,
/// but for SND.UNA and SND.NXT, which the connection knows itself.
///
/// What is asked all the time is kept beside it. Both are below 2³², as windows are below 2³⁰.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    queue: Cold<SentQueue>,
    outstanding: u32,
    /// Of these, sacked or lost.
    not_in_flight: u32,
}

impl Deref for InFlight {
    type Target = SentQueue;
    fn deref(&self) -> &SentQueue {
        &self.queue
    }
}

impl InFlight {
    /// As [`SentQueue::outstanding`].
    pub(super) fn outstanding(&self) -> u64 {
        self.outstanding.into()
    }

    /// As [`SentQueue::in_flight`].
    pub(super) fn in_flight(&self) -> u64 {
        (self.outstanding - self.not_in_flight).into()
    }

    /// As [`SentQueue::sacked_bytes`].
    pub(super) fn sacked_bytes(&self) -> u64 {
        if self.not_in_flight == 0 { 0 } else { self.queue.sacked_bytes() }
    }

    /// As [`SentQueue::lost_bytes`].
    pub(super) fn lost_bytes(&self) -> u64 {
        if self.not_in_flight == 0 { 0 } else { self.queue.lost_bytes() }
    }

    /// Changes the list, if there is one.
    fn change<T>(&mut self, change: impl FnOnce(&mut SentQueue) -> T) -> Option<T> {
        let queue = self.queue.touched()?;
        let result = change(queue);
        self.count();
        Some(result)
    }

    fn count(&mut self) {
        let bytes = |n| u32::try_from(n).unwrap_or(u32::MAX);
        self.outstanding = bytes(self.queue.outstanding());
        self.not_in_flight = bytes(self.queue.sacked_bytes() + self.queue.lost_bytes());
    }

    pub(super) fn on_send(&mut self, range: OffsetRange, segment: u32, now: Instant, snap: DeliverySnapshot) {
        if self.queue.touched().is_none() {
            *self.queue.edit() = SentQueue::new(range.start);
        }
        self.change(|sent| sent.on_send(range, segment, now, snap));
    }

    pub(super) fn on_retransmit(&mut self, range: OffsetRange, now: Instant, snap: DeliverySnapshot) {
        self.change(|sent| sent.on_retransmit(range, now, snap));
    }

    pub(super) fn on_ack(&mut self, una: Offset, now: Instant) -> AckOutcome {
        let Some(sent) = self.queue.touched() else { return AckOutcome::new(now, una) };
        let outcome = sent.on_ack(una, now);
        self.count();
        outcome
    }

    pub(super) fn on_sack(&mut self, range: OffsetRange, out: &mut AckOutcome) {
        self.change(|sent| sent.on_sack(range, out));
    }

    pub(super) fn detect_lost(&mut self, rack: &RackView, now: Instant) -> Detected {
        self.change(|sent| sent.detect_lost(rack, now)).unwrap_or_default()
    }

    pub(super) fn mark_first_lost(&mut self) -> u64 {
        self.change(SentQueue::mark_first_lost).unwrap_or(0)
    }

    pub(super) fn mark_all_lost(&mut self) -> u64 {
        self.change(SentQueue::mark_all_lost).unwrap_or(0)
    }

    pub(super) fn unmark_lost(&mut self) {
        self.change(SentQueue::unmark_lost);
    }

    pub(super) fn forget_sacks(&mut self) {
        self.change(SentQueue::forget_sacks);
    }

    pub(super) fn resegment(&mut self, mss: u32) {
        self.change(|sent| sent.resegment(mss));
    }

    /// The connection is over.
    pub(super) fn clear(&mut self) {
        *self = InFlight::default();
    }

    /// Whether there is memory to be given back.
    pub(super) fn may_rest(&self) -> bool {
        self.outstanding == 0 && self.queue.if_touched().is_some()
    }

    /// Gives its memory back, if nothing is in it.
    pub(super) fn rest(&mut self) {
        if self.may_rest() {
            self.queue.reset();
        }
    }

    /// Counts everything anew: it reaches from `una` to `nxt`.
    pub(super) fn check_invariants(&self, una: Option<Offset>, nxt: Offset) {
        assert_eq!((self.outstanding(), self.in_flight()), (self.queue.outstanding(), self.queue.in_flight()));
        let Some(sent) = self.queue.if_touched() else { return };
        assert_eq!(sent.nxt(), nxt, "sent queue ends at nxt");
        assert!(una.is_none_or(|una| sent.una() == una), "sent queue starts at una");
        sent.check_invariants();
    }
}
