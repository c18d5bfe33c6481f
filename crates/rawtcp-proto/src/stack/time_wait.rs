//! TIME-WAIT (RFC 9293 §3.6.1, §3.10.7.4) as a small record, with RFC 1337 and RFC 6191.

use super::demux::{Entry, Slot};
use super::isn::timestamp;
use super::reset::Budget;
use super::{AcceptQueue, Claim, Disposition, MtuOf, Reply, Stack, StackConfig, acceptable, ack_header};
use crate::error::DropReason;
use crate::seq::{SeqNum, WireWindow};
use crate::time::Instant;
use crate::wire::{Flags, FourTuple, Options, Segment, Timestamps};

/// What is remembered of a connection in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWait {
    /// RCV.NXT: behind the peer's FIN.
    pub rcv_nxt: SeqNum,
    /// SND.NXT: behind our FIN.
    pub snd_nxt: SeqNum,
    /// The window field of answers: as last sent.
    pub window: WireWindow,
    /// TS.Recent, if the connection used timestamps (RFC 7323 §4.3).
    pub ts_recent: Option<u32>,
    /// What the connection added to the timestamp clock.
    pub ts_offset: u32,
    /// When 2 MSL last began.
    pub since: Instant,
    /// When they end.
    pub deadline: Instant,
    /// The hop limit of answers.
    pub ttl: u8,
    /// The traffic class of answers; never ECN-capable.
    pub traffic_class: u8,
}

/// A [`TimeWait`] in its place.
pub(super) struct Waiting {
    state: TimeWait,
    acks: Budget,
}

// A server that closes first keeps one for each connection of the last minute.
const _: () = assert!(size_of::<Waiting>() <= 64);

/// How far a new incarnation's first sequence number is above the old one's last: more than any
/// segment of the old one that still travels could fill (as Linux; RFC 1122 §4.2.2.13 (b)).
const ISS_GAP: u32 = 65_537;

impl TimeWait {
    /// The initial sequence number for a connection that takes the tuple: the stack's own choice
    /// where that is well above everything the old connection sent (RFC 1122 §4.2.2.13; RFC 6191 §2).
    pub fn next_iss(&self, isn: SeqNum) -> SeqNum {
        // Measured from SND.NXT: almost half the number space behind it is not ahead of SND.NXT + gap.
        if isn.distance(self.snd_nxt) > ISS_GAP as i32 { isn } else { self.snd_nxt.add(ISS_GAP) }
    }

    /// PAWS (RFC 7323 §5.2).
    fn is_old(&self, options: &Options) -> bool {
        match (self.ts_recent, options.timestamps) {
            (Some(recent), Some(ts)) => SeqNum(ts.value).before(SeqNum(recent)),
            _ => false,
        }
    }

    fn is_newer(&self, options: &Options) -> bool {
        match (self.ts_recent, options.timestamps) {
            (Some(recent), Some(ts)) => SeqNum(ts.value).after(SeqNum(recent)),
            _ => false,
        }
    }

    /// RFC 9293 §3.10.7.4 for TIME-WAIT: changes nothing, only decides.
    fn judge(&self, config: &StackConfig, seg: &Segment<'_>) -> Verdict {
        let header = &seg.header;
        if header.flags.contains(Flags::RST) {
            return self.judge_reset(config, seg);
        }
        if header.flags.contains(Flags::SYN) {
            return self.judge_syn(seg);
        }
        // RFC 9293 §3.10.7.4, fifth. Before the sequence number, unlike the RFC: nothing this connection's
        // peer sends lacks the flag, so there is nobody to answer.
        if !header.flags.contains(Flags::ACK) {
            return Verdict::Drop(DropReason::NoAck);
        }
        let end = header.seq.add(seg.seq_len());
        // RFC 9293 §3.10.7.4, eighth: the peer's FIN again: our ACK was lost.
        if header.flags.contains(Flags::FIN)
            && end == self.rcv_nxt
            && header.ack.before_eq(self.snd_nxt)
            && !self.is_old(&header.options)
        {
            return Verdict::RepeatedFin;
        }
        // What the peer answered to a FIN of ours that came twice, before it had our ACK: there is nothing to say, and a peer that
        // has ended meanwhile would answer with a RST. Silence as of Linux; the RFC knows of no such segment.
        if header.seq == self.rcv_nxt
            && seg.seq_len() == 0
            && header.ack.before_eq(self.snd_nxt)
            && !self.is_old(&header.options)
        {
            return Verdict::Ignore;
        }
        // Everything else is old, or a duplicate, or nothing that the peer could mean.
        Verdict::Acknowledge
    }

    fn judge_reset(&self, config: &StackConfig, seg: &Segment<'_>) -> Verdict {
        // RFC 1337 §3 (F1): ignored, else an old duplicate would end the state (TIME-WAIT assassination).
        if config.rfc1337 {
            return Verdict::Drop(DropReason::Closed);
        }
        // RFC 5961 §3.2 otherwise. The window is taken unscaled: with less of it, fewer are challenged.
        if seg.header.seq == self.rcv_nxt {
            Verdict::Remove
        } else if acceptable(self.rcv_nxt, u32::from(self.window.0), seg.header.seq, seg.seq_len()) {
            Verdict::Acknowledge
        } else {
            Verdict::Drop(DropReason::OutOfWindow)
        }
    }

    /// RFC 9293 §3.6.1 [MAY-2], RFC 6191 §2: a newer timestamp or a sequence number above RCV.NXT
    /// tells a new connection from an old segment; everything else is challenged (RFC 5961 §4.2).
    fn judge_syn(&self, seg: &Segment<'_>) -> Verdict {
        let header = &seg.header;
        let new = header.seq.after(self.rcv_nxt) || self.is_newer(&header.options);
        if new && !header.flags.contains(Flags::ACK) && !self.is_old(&header.options) {
            Verdict::NewIncarnation
        } else {
            Verdict::Acknowledge
        }
    }

    /// Begins 2 MSL at `now`.
    fn restart(&mut self, now: Instant) {
        self.deadline = now + self.deadline.since(self.since);
        self.since = now;
    }

    /// <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>.
    fn ack(&self, now: Instant, tuple: &FourTuple) -> Reply {
        let ts = self.ts_recent.map(|echo| Timestamps { value: timestamp(now, self.ts_offset), echo });
        Reply {
            tuple: *tuple,
            header: ack_header(tuple, self.snd_nxt, self.rcv_nxt, self.window, ts),
            ttl: self.ttl,
            traffic_class: self.traffic_class & !0b11,
        }
    }
}

/// What a segment means to a connection in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Dropped in silence.
    Drop(DropReason),
    /// Well, and no news.
    Ignore,
    /// Answered with an ACK, at a limited rate: two ends in TIME-WAIT must not answer each other's ACKs
    /// for ever.
    Acknowledge,
    /// Acknowledged, and 2 MSL begin again.
    RepeatedFin,
    /// A SYN that may begin a new connection.
    NewIncarnation,
    /// Ended by a RST.
    Remove,
}

impl<C: Clone, L: Clone + AcceptQueue> Stack<C, L> {
    /// RFC 9293 §3.10.7.4 for a TIME-WAIT record.
    pub(super) fn in_time_wait(
        &mut self,
        now: Instant,
        tuple: &FourTuple,
        slot: Slot,
        seg: &Segment<'_>,
        mtu_of: &mut MtuOf<'_>,
    ) -> Result<Disposition<C, L>, DropReason> {
        let record = self.time_wait.get_mut(slot).ok_or(DropReason::NoConnection)?;
        let waiting = &mut record.value;
        match waiting.state.judge(&self.config, seg) {
            Verdict::Drop(reason) => return Err(reason),
            Verdict::Ignore => return Ok(Disposition::Done),
            Verdict::Remove => {
                self.vacate(tuple);
                return Ok(Disposition::Done);
            }
            Verdict::RepeatedFin => {
                // RFC 7323 §4.3 (2): it is not newer than Last.ACK.sent and passed PAWS.
                if let (Some(recent), Some(ts)) = (&mut waiting.state.ts_recent, seg.header.options.timestamps) {
                    *recent = ts.value;
                }
                waiting.state.restart(now);
                let (reply, deadline) = (waiting.state.ack(now, tuple), waiting.state.deadline);
                self.time_wait.reschedule(slot, deadline);
                self.counters.acks += 1;
                return Ok(Disposition::Reply(reply));
            }
            Verdict::NewIncarnation => {
                if let Some(id) = self.listeners.find(&tuple.local) {
                    let iss = waiting.state.next_iss(self.secrets.isn(now, tuple));
                    // Never a cookie: it could not promise a number above the old connection's.
                    let reply = self.open(now, tuple, id, seg, iss, mtu_of)?;
                    self.counters.time_wait_reused += 1;
                    return Ok(Disposition::Reply(reply));
                }
                // Refused at once, and the record stays. An ACK, as Linux sends, would have the peer answer with
                // the very RST that RFC 1337 ignores: it would try in vain for 2 MSL.
                return self.limited_reset(now, tuple, seg).map(Disposition::Reply);
            }
            Verdict::Acknowledge => {}
        }
        if !waiting.acks.take(now, self.config.challenge_acks) {
            return Err(DropReason::RateLimited);
        }
        self.counters.acks += 1;
        Ok(Disposition::Reply(waiting.state.ack(now, tuple)))
    }
}

impl<C, L> Stack<C, L> {
    /// Replaces a connection by its TIME-WAIT record; from now on its 2 MSL count [MUST-13].
    ///
    /// When there are too many, the one that would end first goes; `freed` hears of it as of any other.
    pub fn to_time_wait(&mut self, now: Instant, tuple: FourTuple, mut state: TimeWait) {
        state.restart(now);
        self.vacate(&tuple);
        if self.config.max_time_wait == 0 {
            self.counters.time_wait_evicted += 1;
            self.released.push(tuple);
            return;
        }
        while self.time_wait.len() >= self.config.max_time_wait {
            let Some(record) = self.time_wait.first().and_then(|(_, slot)| self.time_wait.remove(slot)) else { break };
            self.table.remove(&record.tuple);
            self.released.push(record.tuple);
            self.counters.time_wait_evicted += 1;
        }
        let waiting = Waiting { state, acks: Budget::default() };
        let slot = self.time_wait.insert(tuple, state.deadline, waiting);
        self.table.insert(tuple, Entry::TimeWait(slot));
    }

    /// Whether an active open may take this four-tuple. A TIME-WAIT record with timestamps may be taken
    /// after [`StackConfig::time_wait_reuse`]: PAWS then keeps old segments out (RFC 6191, [MAY-2]).
    pub fn claim(&mut self, now: Instant, tuple: FourTuple) -> Claim {
        let slot = match self.table.get(&tuple) {
            None => return Claim::Free,
            Some(&Entry::TimeWait(slot)) => slot,
            Some(_) => return Claim::InUse,
        };
        let rested =
            |w: &Waiting| w.state.ts_recent.is_some() && now.since(w.state.since) >= self.config.time_wait_reuse;
        if !self.time_wait.get_mut(slot).is_some_and(|record| rested(&record.value)) {
            return Claim::InUse;
        }
        let Some(record) = self.time_wait.remove(slot) else { return Claim::InUse };
        self.table.remove(&tuple);
        self.counters.time_wait_reused += 1;
        Claim::TimeWaitReuse(record.value.state)
    }
}
