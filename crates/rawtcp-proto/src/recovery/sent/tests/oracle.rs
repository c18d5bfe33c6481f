//! The same rules, written one segment at a time and looking at every segment each time.

use super::*;

/// One operation; positions are thousandths of what is outstanding.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Send(u64, u32),
    Ack(u64, bool),
    Sack(u64, u64, bool),
    RetransmitLost(u64),
    Retransmit(u64, u64),
    Probe,
    MarkFirst,
    MarkAll,
    Unmark,
    Forget,
    Resegment(u32),
    Detect(u64, u64, u64),
    Wait(u64),
}

#[derive(Clone, Debug, PartialEq)]
struct Segment {
    start: Offset,
    end: Offset,
    sacked: bool,
    lost: bool,
    retransmitted: bool,
    /// Set while the time of the last transmission is known to be that of a retransmission: its order.
    copy: Option<u64>,
    sent_at: Instant,
    snapshot: DeliverySnapshot,
    first: (Instant, DeliverySnapshot),
    /// What was in flight in front of the stream's first byte, so to say, when this was first sent (wraps).
    before: u64,
    /// What was in flight when its last copy had left.
    copy_in_flight: u64,
}

impl Segment {
    fn tx_in_flight(&self) -> u64 {
        if self.copy.is_some() { self.copy_in_flight } else { self.before.wrapping_add(self.end.0) }
    }
}

#[derive(Debug)]
pub(super) struct Oracle {
    una: Offset,
    nxt: Offset,
    fack: Offset,
    segments: Vec<Segment>,
    now: Instant,
    order: u64,
}

impl Oracle {
    pub(super) fn new(start: Offset) -> Self {
        Oracle { una: start, nxt: start, fack: start, segments: Vec::new(), now: ms(1), order: 0 }
    }

    pub(super) fn run(&mut self, q: &mut SentQueue, op: &Op) {
        match *op {
            Op::Send(len, segment) => self.send(q, len, segment),
            Op::Ack(to, whole) => {
                let to = self.place(to, whole);
                let (mine, theirs) = (self.ack(to), q.on_ack(to, self.now));
                assert_eq!(mine, theirs);
            }
            Op::Sack(a, b, whole) => {
                let (a, b) = (self.place(a, whole), self.place(b, whole));
                let mut theirs = q.on_ack(self.una, self.now);
                let mut mine = AckOutcome::new(self.now, self.fack);
                q.on_sack(a.min(b)..a.max(b), &mut theirs);
                self.sack(a.min(b)..a.max(b), &mut mine);
                assert_eq!(mine, theirs);
            }
            Op::RetransmitLost(max) => {
                if let Some(range) = q.next_lost(max) {
                    self.retransmit(q, range);
                }
            }
            Op::Retransmit(a, b) => {
                let (a, b) = (self.place(a, false), self.place(b, false));
                self.retransmit(q, a.min(b)..a.max(b));
            }
            Op::Probe => {
                let last = self.segments.last().map(|s| s.start..s.end);
                assert_eq!(q.last_range(), last);
                last.into_iter().for_each(|range| self.retransmit(q, range));
            }
            Op::MarkFirst => {
                let first = self.segments.iter_mut().find(|s| !s.sacked);
                let new = first.filter(|s| !s.lost).map_or(0, |s| {
                    s.lost = true;
                    s.end.since(s.start)
                });
                assert_eq!(q.mark_first_lost(), new);
            }
            Op::MarkAll => {
                let before = self.count(|s| s.lost);
                self.segments.iter_mut().for_each(|s| s.lost = !s.sacked);
                assert_eq!(q.mark_all_lost(), self.count(|s| s.lost) - before);
            }
            Op::Unmark => {
                for s in &mut self.segments {
                    s.lost &= s.retransmitted && s.copy.is_none();
                }
                q.unmark_lost();
            }
            Op::Forget => {
                assert_eq!(q.forget_sacks(), self.count(|s| s.sacked));
                self.fack = self.una;
                for s in self.segments.iter_mut().filter(|s| s.sacked) {
                    (s.sacked, s.lost, s.copy) = (false, true, None);
                    (s.sent_at, s.snapshot) = s.first;
                }
            }
            Op::Resegment(mss) => self.resegment(q, mss),
            Op::Detect(a, b, wait) => self.detect(q, a, b, wait),
            Op::Wait(n) => self.now = self.now + Duration::from_millis(n),
        }
    }

    /// A place between SND.UNA and SND.NXT, at a boundary if asked for.
    fn place(&self, thousandths: u64, whole: bool) -> Offset {
        let exact = self.una.add(self.nxt.since(self.una) * thousandths / 1000);
        match self.segments.iter().find(|s| s.start <= exact && exact < s.end) {
            Some(s) if whole => s.start,
            _ => exact,
        }
    }

    fn count(&self, which: impl Fn(&Segment) -> bool) -> u64 {
        self.segments.iter().filter(|s| which(s)).map(|s| s.end.since(s.start)).sum()
    }

    fn send(&mut self, q: &mut SentQueue, len: u64, segment: u32) {
        let snapshot = DeliverySnapshot { delivered: self.una.0, ..SNAP };
        let end = self.nxt.add(len);
        let before = self.count(|s| !s.sacked && !s.lost).wrapping_sub(self.nxt.0);
        q.on_send(self.nxt..end, segment, self.now, snapshot);
        while self.nxt < end {
            let to = self.nxt.add(segment.into()).min(end);
            self.segments.push(Segment {
                start: self.nxt,
                end: to,
                sacked: false,
                lost: false,
                retransmitted: false,
                copy: None,
                sent_at: self.now,
                snapshot,
                first: (self.now, snapshot),
                before,
                copy_in_flight: 0,
            });
            self.nxt = to;
        }
    }

    fn deliver(fack: Offset, s: &Segment, out: &mut AckOutcome) {
        out.consider(NewestDelivered {
            end: s.end,
            sent_at: s.sent_at,
            retransmitted: s.retransmitted,
            snapshot: s.snapshot,
            tx_in_flight: s.tx_in_flight(),
        });
        if !s.retransmitted {
            out.lowest_original = Some(out.lowest_original.map_or(s.end, |end| end.min(s.end)));
        }
        if !s.retransmitted && s.end < fack {
            let lowest = &mut out.lowest_sacked_never_retransmitted;
            *lowest = Some(lowest.map_or(s.start, |l| l.min(s.start)));
        }
    }

    fn ack(&mut self, to: Offset) -> AckOutcome {
        let mut out = AckOutcome::new(self.now, self.fack);
        out.newly_acked = to.since(self.una);
        for s in self.segments.iter_mut().filter(|s| s.start < to) {
            if !s.sacked {
                out.delivered += s.end.min(to).since(s.start);
                out.any_retransmitted_acked |= s.retransmitted;
                if s.end <= to {
                    Self::deliver(self.fack, s, &mut out);
                }
            }
            s.start = to;
        }
        self.segments.retain(|s| s.end > to);
        self.una = to;
        self.fack = self.fack.max(to);
        out
    }

    fn sack(&mut self, block: OffsetRange, out: &mut AckOutcome) {
        for s in &mut self.segments {
            if block.start <= s.start && s.end <= block.end && !s.sacked {
                out.newly_sacked += s.end.since(s.start);
                out.delivered += s.end.since(s.start);
                Self::deliver(out.fack, s, out);
                (s.sacked, s.lost) = (true, false);
                self.fack = self.fack.max(s.end);
            }
        }
    }

    fn retransmit(&mut self, q: &mut SentQueue, range: OffsetRange) {
        let snapshot = DeliverySnapshot { delivered: self.una.0, app_limited: true, ..SNAP };
        q.on_retransmit(range.clone(), self.now, snapshot);
        let cuts = [range.start, range.end];
        for at in cuts.into_iter().filter(|_| range.start < range.end) {
            let inside = |s: &Segment| s.start < at && at < s.end && !s.sacked;
            if let Some(i) = self.segments.iter().position(inside) {
                let second = Segment { start: at, ..self.segments[i].clone() };
                self.segments[i].end = at;
                self.segments.insert(i + 1, second);
            }
        }
        self.order += 1;
        for s in &mut self.segments {
            if range.start <= s.start && s.end <= range.end && !s.sacked {
                (s.lost, s.retransmitted, s.copy) = (false, true, Some(self.order));
                (s.sent_at, s.snapshot) = (self.now, snapshot);
            }
        }
        let (order, in_flight) = (self.order, self.count(|s| !s.sacked && !s.lost));
        self.segments.iter_mut().filter(|s| s.copy == Some(order)).for_each(|s| s.copy_in_flight = in_flight);
    }

    /// Takes the boundaries from the queue, and checks that they change no state of any byte.
    fn resegment(&mut self, q: &mut SentQueue, mss: u32) {
        q.resegment(mss);
        let old = core::mem::take(&mut self.segments);
        for run in &q.runs {
            for i in (0..run.count()).filter(|i| run.live(q.una) >> i & 1 == 1) {
                let r = run.range(i, q.una);
                assert!(r.end.since(r.start) <= mss.into());
                let from = old.iter().find(|s| s.start <= r.start && r.start < s.end).unwrap();
                for s in old.iter().filter(|s| s.start < r.end && r.start < s.end) {
                    let same =
                        |s: &Segment| (s.sacked, s.lost, s.retransmitted, s.sent_at, s.snapshot, s.first, s.before);
                    assert_eq!(same(s), same(from));
                }
                self.segments.push(Segment { start: r.start, end: r.end, ..from.clone() });
            }
        }
    }

    fn detect(&mut self, q: &mut SentQueue, a: u64, b: u64, wait: u64) {
        let (Some(newest), Some(end)) = (
            self.segments.iter().find(|s| s.end > self.place(a, false)).cloned(),
            self.segments.iter().find(|s| s.end > self.place(b, false)).map(|s| s.end),
        ) else {
            return;
        };
        let rack = RackView {
            newest_sent_at: newest.sent_at,
            newest_end: end,
            reo_wnd: Duration::from_millis(wait / 2),
            rtt: Duration::from_millis(wait - wait / 2),
        };
        let mut mine = Detected::default();
        let mut stopped = [false; 2];
        // First transmissions in sequence order, retransmissions in the order they were recorded.
        self.segments.sort_by_key(|s| (s.copy, s.start));
        for s in self.segments.iter_mut().filter(|s| !s.sacked && !s.lost) {
            let stopped = &mut stopped[usize::from(s.copy.is_some())];
            if *stopped {
                continue;
            }
            let deadline = s.sent_at + rack.rtt + rack.reo_wnd;
            if (rack.newest_sent_at, rack.newest_end) <= (s.sent_at, s.end) {
                *stopped = true;
            } else if self.now < deadline {
                *stopped = true;
                mine.next_deadline = Some(mine.next_deadline.map_or(deadline, |d| d.min(deadline)));
            } else {
                s.lost = true;
                mine.lost += s.end.since(s.start);
                if mine.newest.is_none_or(|newest| newest.sent_at <= s.sent_at) {
                    let (sent_at, snapshot, tx_in_flight) = (s.sent_at, s.snapshot, s.tx_in_flight());
                    mine.newest = Some(LostSegment { sent_at, snapshot, tx_in_flight });
                }
            }
        }
        self.segments.sort_by_key(|s| s.start);
        assert_eq!(q.detect_lost(&rack, self.now), mine);
    }

    pub(super) fn compare(&self, q: &SentQueue) {
        assert_eq!((q.una(), q.nxt(), q.fack()), (self.una, self.nxt, self.fack));
        assert_eq!(q.outstanding(), self.count(|_| true));
        assert_eq!(q.sacked_bytes(), self.count(|s| s.sacked));
        assert_eq!(q.lost_bytes(), self.count(|s| s.lost));
        assert_eq!(q.in_flight(), self.count(|s| !s.sacked && !s.lost));
        assert_eq!(q.retransmitted_out(), self.count(|s| s.retransmitted && !s.sacked && !s.lost));
        assert_eq!(
            q.head_sent_at(),
            self.segments.first().filter(|s| !s.sacked).map(|s| s.sent_at).or(
                // Of a sacked head the queue may have forgotten the retransmission.
                q.head_sent_at(),
            )
        );
        assert_eq!(q.last_range(), self.segments.last().map(|s| s.start..s.end));
        for max in [1, 99, 100, 350, u64::MAX] {
            self.compare_stretch(q, q.next_lost(max), max, |s| s.lost);
            self.compare_stretch(q, q.first_range(max), max, |s| !s.sacked);
        }
    }

    /// A stretch starts at the first of its kind and ends with a segment, as far on as size and run allow.
    fn compare_stretch(&self, q: &SentQueue, found: Option<OffsetRange>, max: u64, kind: impl Fn(&Segment) -> bool) {
        let first = self.segments.iter().position(&kind);
        assert_eq!(found.as_ref().map(|r| r.start), first.map(|i| self.segments[i].start));
        let (Some(found), Some(first)) = (found, first) else { return };
        let mut end = self.segments[first].end.min(Offset(found.start.0.saturating_add(max)));
        for s in self.segments[first + 1..].iter().take_while(|s| kind(s)) {
            let new_run = q.runs.iter().any(|run| run.start == s.start);
            if new_run || s.start != end || s.end.since(found.start) > max {
                break;
            }
            end = s.end;
        }
        assert_eq!(found.end, end);
    }
}
