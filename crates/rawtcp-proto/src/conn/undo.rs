//! Reductions that were unfounded, because nothing had been lost: found by timestamps (Eifel, RFC 3522), by
//! D-SACK (RFC 3708), and after a timeout by what arrives (F-RTO, RFC 5682), and undone (RFC 4015). And what
//! D-SACKs say about reordering (RFC 8985 §6.2, step 4).

use super::Connection;
use super::recovery::Phase;
use crate::buf::RangeSet;
use crate::recovery::sent::AckOutcome;
use crate::seq::{Offset, OffsetRange};
use crate::time::Instant;
use crate::trace::WindowReason;
use crate::wire::Segment;

/// Recoveries without a D-SACK after which the reordering window shrinks again (RFC 8985 §6.2, step 4).
const REO_WND_PERSIST: u32 = 16;

/// What one episode of recovery sent again, and of which of it the peer had the original.
#[derive(Debug, Default)]
pub(super) struct Episode {
    again: RangeSet,
    proven: RangeSet,
    /// Something was sent a third time: one D-SACK does not prove both copies unnecessary (RFC 3708 §2).
    twice: bool,
    /// It began with a timeout: late is not the same as overtaken.
    timeout: bool,
}

impl Episode {
    pub(super) fn on_retransmit(&mut self, range: OffsetRange) {
        let len = range.end.since(range.start);
        self.twice |= self.again.insert(range) < len;
    }

    pub(super) fn on_dsack(&mut self, mut range: OffsetRange) {
        while let Some(part) = self.again.first_overlap(&range) {
            range.start = part.end;
            self.proven.insert(part);
        }
    }

    /// Bytes of it, each once.
    pub(super) fn sent_again(&self) -> u64 {
        self.again.total()
    }

    pub(super) fn is_unfounded(&self) -> bool {
        !self.twice && !self.proven.is_empty() && self.proven.total() == self.again.total()
    }
}

/// How long segments that overtake each other are waited for (RFC 8985 §6.2, step 4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Reordering {
    /// RACK.reordering_seen.
    pub(super) seen: bool,
    /// RACK.reo_wnd_mult: quarters of a round trip.
    pub(super) quarters: u32,
    /// RACK.reo_wnd_persist.
    persist: u32,
    /// RACK.dsack_round: only the first D-SACK of a round trip counts.
    round: Option<Offset>,
}

impl Reordering {
    pub(super) const NONE: Self = Reordering { seen: false, quarters: 1, persist: REO_WND_PERSIST, round: None };

    fn on_dsack(&mut self, una: Offset, nxt: Offset) {
        self.round = self.round.filter(|&round| una < round);
        if self.round.is_none() {
            self.round = Some(nxt);
            self.quarters = self.quarters.saturating_add(1);
            self.persist = REO_WND_PERSIST;
        }
    }

    /// An episode ended.
    pub(super) fn on_recovery_exit(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.quarters = 1;
        }
    }
}

/// Where F-RTO stands after a timeout (RFC 5682 §3.1, in Linux's form).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Frto {
    /// The timeout is taken for what it says.
    #[default]
    Off,
    /// Step 1: the head was sent again, the first ACK is awaited.
    Head,
    /// Step 2b: instead of more of what is thought lost, new data leaves; the next ACK tells.
    NewData,
}

impl Connection {
    /// A new episode: nothing was sent again in it.
    pub(super) fn begin_episode(&mut self, timeout: bool) {
        self.forget_retransmit_ts();
        self.recovery.rare.edit().episode = Some(Box::new(Episode { timeout, ..Episode::default() }));
    }

    /// Retransmissions that an earlier episode left in flight echo older timestamps than this one's first, and
    /// prove nothing about it: as long as there are any, the oldest of them counts.
    pub(super) fn forget_retransmit_ts(&mut self) {
        if self.sent.retransmitted_out() == 0
            && let Some(rare) = self.recovery.rare.touched()
        {
            rare.first_retransmit_ts = None;
        }
    }

    /// Something leaves once more because it is thought lost.
    pub(super) fn note_retransmit(&mut self, ts_now: u32, range: OffsetRange) {
        let rare = self.recovery.rare.edit();
        rare.first_retransmit_ts.get_or_insert(ts_now);
        if self.recovery.phase != Phase::Open
            && let Some(episode) = &mut rare.episode
        {
            episode.on_retransmit(range);
        }
    }

    /// The peer says what it has received twice (RFC 2883 §4): the first block, below the acknowledgment or
    /// inside the second.
    pub(super) fn note_dsack(&mut self, segment: &Segment<'_>, ack: Offset) {
        if !self.negotiated.sack {
            return;
        }
        let mut blocks = segment.header.options.sack.iter();
        let mut next = || {
            let (left, right) = blocks.next()?;
            Some(left.unwrap(self.snd.iss, self.snd.una)?..right.unwrap(self.snd.iss, self.snd.una)?)
        };
        let Some(first) = next().filter(|block| block.start < block.end && block.end <= self.snd.nxt) else { return };
        let inside = next().is_some_and(|second| second.start <= first.start && first.end <= second.end);
        if first.end > ack && !inside {
            return;
        }
        let segments = first.end.since(first.start).div_ceil(u64::from(self.send_mss()));
        let rare = self.recovery.rare.edit();
        rare.dsack_dups += segments;
        if rare.tlp_copy == Some(first.end) {
            // A tail loss probe is sent twice on suspicion; that says nothing of reordering.
            rare.tlp_copy = None;
            if core::mem::take(&mut rare.tlp_reduced) {
                // It was overtaken by what was sent after it: it repaired nothing.
                self.cc.on_spurious();
                self.trace_window(WindowReason::Undo);
            }
        } else {
            rare.reordering.on_dsack(self.snd.una, self.snd.nxt);
        }
        if let Some(episode) = &mut self.recovery.rare.edit().episode {
            episode.on_dsack(first);
        }
    }

    /// Looks whether this ACK proves that the last reduction was unfounded, and undoes it; answers whether.
    pub(super) fn try_undo(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        advanced: bool,
        duplicate: bool,
        outcome: &AckOutcome,
    ) -> bool {
        if self.recovery.rare.if_touched().is_none() {
            return false; // nothing was ever sent again
        }
        let eifel = advanced && self.is_older_than_first_retransmit(segment);
        let dsack = self.recovery.rare.episode.as_ref().is_some_and(|episode| episode.is_unfounded());
        let unfounded = eifel || dsack || self.is_spurious_timeout(advanced, duplicate, outcome);
        if unfounded {
            self.undo(now);
        }
        unfounded
    }

    fn undo(&mut self, now: Instant) {
        let rare = self.recovery.rare.edit();
        let episode = rare.episode.take();
        rare.reordering.seen |= episode.is_some_and(|episode| !episode.timeout);
        self.cc.on_spurious();
        self.ecn.on_undo();
        self.trace_window(WindowReason::Undo);
        if self.recovery.phase != Phase::Open {
            self.sent.unmark_lost();
            self.end_episode(now);
            if let Some(cwv) = self.recovery.cwv() {
                cwv.forget_loss();
            }
            // What copies seemed to say of the time that segments take was said by originals.
            self.recovery.rack.forget();
        }
    }

    /// Eifel (RFC 3522 §3.2): an ACK that echoes a timestamp from before the first retransmission was
    /// triggered by an original.
    fn is_older_than_first_retransmit(&self, segment: &Segment<'_>) -> bool {
        let echo = segment.header.options.timestamps.filter(|ts| self.negotiated.timestamps && ts.echo != 0);
        match (self.recovery.rare.first_retransmit_ts, echo) {
            (Some(sent), Some(ts)) => self.recovery.phase != Phase::Open && (ts.echo.wrapping_sub(sent) as i32) < 0,
            _ => false,
        }
    }

    /// F-RTO: a timeout was spurious if what was sent before it, and only once, arrives after all
    /// (RFC 5682 §3.1, step 3b).
    fn is_spurious_timeout(&mut self, advanced: bool, duplicate: bool, outcome: &AckOutcome) -> bool {
        let Phase::Loss { high } = self.recovery.phase else { return false };
        if self.recovery.rare.frto == Frto::Off {
            return false;
        }
        // Without SACK, what was sent once may have waited at the peer for the copy of the head.
        let telling = self.negotiated.sack || !outcome.any_retransmitted_acked;
        if telling && outcome.lowest_original.is_some_and(|end| end <= high) {
            return true;
        }
        match self.recovery.rare.frto {
            // Step 3a: new data arrived, what was before it did not.
            Frto::NewData if outcome.newly_sacked > 0 || duplicate => self.recovery.rare.edit().frto = Frto::Off,
            Frto::NewData => {}
            // Step 2b, if there is anything new that may leave.
            _ if advanced && self.snd.una < high => {
                let may_send = self.has_unsent() && self.snd.edge() > self.snd.nxt;
                let rare = self.recovery.rare.edit();
                rare.frto = if may_send { Frto::NewData } else { Frto::Off };
                rare.frto_holds = may_send;
                self.recovery.phase = Phase::Loss { high: self.snd.nxt };
            }
            // Step 2a: neither does a duplicate ACK say anything for it, nor an ACK of all.
            _ => {}
        }
        false
    }

    /// F-RTO waits for new data to leave, and none may (Nagle): sends again what is thought lost instead.
    pub(super) fn frto_is_stuck(&mut self) -> bool {
        let stuck = self.recovery.rare.frto_holds && self.recovery.phase == (Phase::Loss { high: self.snd.nxt });
        if stuck {
            let rare = self.recovery.rare.edit();
            rare.frto_holds = false;
            rare.frto = Frto::Off;
        }
        stuck
    }
}
