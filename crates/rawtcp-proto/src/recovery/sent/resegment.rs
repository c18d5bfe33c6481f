//! Cutting runs anew: at a byte inside a segment, or everywhere to a smaller segment size.

use super::SentQueue;
use super::run::{MAX_SEGMENTS, Run, each};
use crate::seq::Offset;

impl SentQueue {
    /// The path takes segments of at most `mss` bytes only: cuts what is larger (RFC 1191 §6.4, RFC 8201 §5.4).
    ///
    /// Changes what is sent again, not what was: nothing is marked, times and totals stay. Walks the whole
    /// queue; a path MTU decrease is rare.
    pub fn resegment(&mut self, mss: u32) {
        let mss = mss.max(1);
        if self.runs.iter().all(|run| run.segment <= mss) {
            return;
        }
        let una = self.una;
        for mut run in core::mem::take(&mut self.runs) {
            if run.segment <= mss {
                run.hop = 0;
                self.runs.push_back(run);
                continue;
            }
            let (mut i, count) = (run.index(una.max(run.start)), run.count());
            while i < count {
                let next = (i + 1..count).find(|&k| !run.alike(i, k)).unwrap_or(count);
                let (mut at, end) = (run.range(i, una).start, run.boundary(next));
                while at < end {
                    let to = at.add(u64::from(mss) * u64::from(MAX_SEGMENTS)).min(end);
                    self.runs.push_back(run.recut(i, at..to, mss));
                    at = to;
                }
                i = next;
            }
        }
        self.fresh = 0;
        self.lost_runs = self.runs.iter().filter(|run| run.lost != 0).map(|run| run.start).collect();
        let runs = &self.runs;
        self.copies
            .edit()
            .recount(runs.iter().flat_map(|run| each(run.retransmitted & !run.sacked).map(|i| run.copy(i))));
    }

    /// Makes `at` a boundary between segments, unless it lies in a sacked one.
    pub(super) fn cut(&mut self, at: Offset) {
        if at <= self.una || at >= self.nxt {
            return;
        }
        let index = self.find(at);
        let Some(run) = self.runs.get(index) else { return };
        let i = run.index(at);
        let whole = run.range(i, self.una);
        if whole.start == at || run.sacked >> i & 1 == 1 {
            return;
        }
        let size = |from: Offset, to: Offset| to.since(from) as u32;
        let pieces = [
            run.slice(run.index(self.una.max(run.start)), i),
            run.recut(i, whole.start..at, size(whole.start, at)),
            run.recut(i, at..whole.end, size(at, whole.end)),
            run.slice(i + 1, run.count()),
        ];
        if run.retransmitted >> i & 1 == 1 {
            self.copies.edit().duplicate(run.copy(i));
        }
        self.replace(index, pieces);
    }

    /// Puts pieces in the place of the run they were cut from, which is not wholly sacked: no hop leads over it.
    /// `fresh` may be a few runs too early then, which is harmless.
    fn replace(&mut self, index: usize, pieces: [Run; 4]) {
        let old = self.runs.remove(index);
        if let Some(old) = old {
            self.lost_runs.remove(&old.start);
        }
        let pieces = pieces.into_iter().filter(|piece| piece.start < piece.end);
        for (at, piece) in (index..).zip(pieces) {
            if piece.lost != 0 {
                self.lost_runs.insert(piece.start);
            }
            self.runs.insert(at, piece);
        }
    }
}
