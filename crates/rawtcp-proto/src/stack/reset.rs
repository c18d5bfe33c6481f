//! Answers to segments that belong to nothing (RFC 9293 §3.10.7.1), and how many answers there may be.

use super::{Reply, StackConfig};
use crate::error::DropReason;
use crate::seq::{SeqNum, WireWindow};
use crate::time::{Duration, Instant};
use crate::wire::{Flags, FourTuple, Options, Segment, TcpHeader, is_unicast};

/// How often something may be done: `burst` times at once, and once more every `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Time after which one more is allowed. Zero: no limit.
    pub interval: Duration,
    /// How many are allowed at once after a long rest. Zero: never any.
    pub burst: u32,
}

/// The state of one rate limit: the time at which its bucket is full again. 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Budget {
    full_at: Instant,
}

impl Budget {
    /// Takes one token, if there is one.
    pub(super) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let owed = self.full_at.since(now);
        if rate.burst == 0 || owed > rate.interval.saturating_mul(rate.burst - 1) {
            return false;
        }
        self.full_at = self.full_at.max(now) + rate.interval;
        true
    }
}

/// Whether both ends of a segment may take part in a connection.
///
/// RFC 9293 §3.9.2.3: what comes from, or goes to, many hosts is dropped in silence [MUST-57], [MUST-63].
pub(super) fn check_addresses(tuple: &FourTuple) -> Result<(), DropReason> {
    if !is_unicast(tuple.local.ip()) || !is_unicast(tuple.remote.ip()) {
        return Err(DropReason::Address);
    }
    if tuple.local.port() == 0 || tuple.remote.port() == 0 {
        return Err(DropReason::PortZero);
    }
    Ok(())
}

/// RFC 9293 §3.10.7.1: the reset that the sender of this segment will take for its own connection's.
///
/// The segment must not be a RST.
pub(super) fn reset_header(tuple: &FourTuple, seg: &Segment<'_>) -> TcpHeader {
    let (seq, ack, flags) = if seg.header.flags.contains(Flags::ACK) {
        (seg.header.ack, SeqNum(0), Flags::RST)
    } else {
        (SeqNum(0), seg.header.seq.add(seg.seq_len()), Flags::RST | Flags::ACK)
    };
    TcpHeader {
        src_port: tuple.local.port(),
        dst_port: tuple.remote.port(),
        seq,
        ack,
        flags,
        window: WireWindow(0),
        urgent: 0,
        options: Options::default(),
    }
}

/// The answer of a port where nothing is, if one is due (RFC 9293 §3.10.7.1).
pub(super) fn reset(config: &StackConfig, tuple: &FourTuple, seg: &Segment<'_>) -> Result<Reply, DropReason> {
    check_addresses(tuple)?;
    // §3.10.7.1: a segment containing a RST is discarded, or two hosts would reset each other for ever.
    if seg.header.flags.contains(Flags::RST) {
        return Err(DropReason::NoConnection);
    }
    Ok(Reply {
        tuple: *tuple,
        header: reset_header(tuple, seg),
        ttl: config.ttl,
        traffic_class: config.traffic_class & !0b11,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_allows_its_burst_and_then_its_rate() {
        let rate = Rate { interval: Duration::from_millis(500), burst: 3 };
        let mut budget = Budget::default();
        let start = Instant::from_secs(9);
        let taken = |budget: &mut Budget, at: Instant| (0..10).filter(|_| budget.take(at, rate)).count();
        assert_eq!(taken(&mut budget, start), 3);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(499)), 0);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(500)), 1);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(1500)), 2);
        assert_eq!(taken(&mut budget, start + Duration::from_secs(60)), 3);
    }

    #[test]
    fn the_ends_of_the_scale() {
        let mut budget = Budget::default();
        assert!(!budget.take(Instant::from_secs(1), Rate { interval: Duration::from_millis(1), burst: 0 }));
        let free = Rate { interval: Duration::ZERO, burst: 1 };
        assert!((0..1000).all(|_| budget.take(Instant::from_secs(1), free)));
    }
}
