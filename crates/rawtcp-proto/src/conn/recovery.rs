//! The episodes of loss recovery: how one begins and ends, and what may leave in it. Proportional rate reduction
//! (RFC 6937), the retransmission timeout (RFC 6298) and the answer to a tail loss probe (RFC 8985 §7.4).

use super::undo::{Episode, Frto, Reordering};
use super::validation::{NewCwv, Used};
use super::{Connection, Timer};
use crate::cc::Congestion;
use crate::cold::{Cold, Idle};
use crate::compact::Maybe;
use crate::recovery::rate::RateEstimator;
use crate::recovery::sent::RackView;
use crate::seq::Offset;
use crate::time::{Duration, Instant};
use crate::trace::{LossReason, WindowReason};
use crate::wire::Segment;

/// Doublings of the RTO that are counted: beyond, it is at any maximum.
const MOST_BACKOFF: u8 = 20;

/// Where the sender stands with its losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is thought lost.
    #[default]
    Open,
    /// Fast recovery, until `high` is acknowledged (RFC 6582 "recover").
    Recovery { high: Offset },
    /// After a retransmission timeout, until `high` is acknowledged.
    Loss { high: Offset },
}

/// Proportional rate reduction (RFC 6937 §3).
#[derive(Clone, Copy, Debug)]
pub(super) struct Prr {
    /// Bytes in flight when recovery began (RecoverFS).
    flight: u64,
    delivered: u64,
    out: u64,
    /// What may leave now.
    pub(super) budget: u64,
    /// The retransmission that opens recovery is still to leave.
    opens: bool,
}

impl Prr {
    const NONE: Prr = Prr { flight: 0, delivered: 0, out: 0, budget: 0, opens: false };
}

/// RACK.xmit_ts, RACK.end_seq, RACK.rtt (RFC 8985 §6.2), once something was delivered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rack {
    sent_at: Maybe<Instant>,
    end: Offset,
    rtt: Maybe<Duration>,
}

impl Rack {
    /// A segment was delivered, which ends here.
    pub(super) fn on_delivered(&mut self, sent_at: Instant, end: Offset, rtt: Duration) {
        if self.sent_at.get().is_none_or(|known| (known, self.end) < (sent_at, end)) {
            *self = Rack { sent_at: sent_at.into(), end, rtt: rtt.into() };
        }
    }

    pub(super) fn view(&self, reo_wnd: Duration) -> Option<RackView> {
        let newest_sent_at = self.sent_at.get()?;
        Some(RackView { newest_sent_at, newest_end: self.end, reo_wnd, rtt: self.rtt.get().unwrap_or_default() })
    }

    pub(super) fn forget(&mut self) {
        *self = Rack::default();
    }
}

/// The sender's view of losses.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    pub(super) phase: Phase,
    pub(super) dup_acks: u32,
    /// Bytes that duplicate ACKs say have left the network, where SACK can not say it: no more than are in flight.
    pub(super) dup_credit: u32,
    /// Consecutive timeouts: the exponent of the backoff (RFC 6298 §5.5).
    pub(super) backoff: u8,
    /// Timeouts since the last progress (R2).
    pub(super) retries: u32,
    pub(super) rack: Rack,
    /// The window, not the application, held the last transmission back (RFC 7661, growth only then).
    pub(super) cwnd_limited: bool,
    /// The largest flight of this round trip, which ends when `round_end` is acknowledged.
    pub(super) max_flight: u64,
    pub(super) round_end: Offset,
    pub(super) used: Used,
    /// When the RTO is due by itself, whatever comes before it: a tail loss probe, the user timeout. While nothing is in
    /// flight, likewise the next zero-window probe.
    pub(super) retry_at: Instant,
    /// The persist timer was set because of a window of nothing, not of too little.
    pub(super) persist_shut: bool,
    /// Delivery rate and round trips.
    pub(super) rate: RateEstimator,
    pub(super) rare: Cold<Rare>,
}

/// What there is to remember once something was lost, overtaken or sent twice; most connections never do.
#[derive(Debug)]
pub(super) struct Rare {
    pub(super) prr: Prr,
    pub(super) reordering: Reordering,
    /// Our timestamp clock when the first retransmission of this episode left: an ACK that echoes an
    /// older value proves the original arrived (RFC 3522).
    pub(super) first_retransmit_ts: Option<u32>,
    /// What the last episode sent again, until it is proven unfounded or another begins.
    pub(super) episode: Option<Box<Episode>>,
    pub(super) frto: Frto,
    /// F-RTO holds back what is thought lost until the next ACK.
    pub(super) frto_holds: bool,
    /// SND.NXT when the last tail loss probe left, while it is unanswered (RFC 8985 §7.3).
    pub(super) tlp_high: Option<Offset>,
    pub(super) tlp_was_retransmit: bool,
    /// Where the last probe ends that was a copy, until the peer says that it came twice.
    pub(super) tlp_copy: Option<Offset>,
    /// What the last reduction was for: that probe, which seemed to have repaired a loss.
    pub(super) tlp_reduced: bool,
    pub(super) cwv: Option<Box<NewCwv>>,
    /// When the timeout came that this recovery began with.
    loss_since: Instant,
    // For TcpInfo.
    pub(super) bytes_retrans: u64,
    pub(super) total_retrans: u64,
    pub(super) dsack_dups: u64,
    pub(super) reord_seen: u64,
    pub(super) rcv_ooopack: u64,
    pub(super) timeouts: u64,
    pub(super) rto_recoveries: u64,
    pub(super) rto_time: Duration,
}

impl Idle for Rare {
    const BEGIN: Self = Rare {
        prr: Prr::NONE,
        reordering: Reordering::NONE,
        first_retransmit_ts: None,
        episode: None,
        frto: Frto::Off,
        frto_holds: false,
        tlp_high: None,
        tlp_was_retransmit: false,
        tlp_copy: None,
        tlp_reduced: false,
        cwv: None,
        loss_since: Instant::ZERO,
        bytes_retrans: 0,
        total_retrans: 0,
        dsack_dups: 0,
        reord_seen: 0,
        rcv_ooopack: 0,
        timeouts: 0,
        rto_recoveries: 0,
        rto_time: Duration::ZERO,
    };

    fn idle() -> &'static Self {
        const { &Rare::BEGIN }
    }
}

impl Recovery {
    /// A retransmission of `len` bytes leaves, or new data.
    pub(super) fn on_transmit(&mut self, len: u64) {
        let Some(rare) = self.rare.touched() else { return };
        // Counted in vain where nothing is being reduced: whoever begins a reduction begins anew.
        rare.prr.out += len;
        rare.prr.budget = rare.prr.budget.saturating_sub(len);
        rare.prr.opens = false;
    }

    /// RFC 6937 §3, from a flight of so many bytes.
    pub(super) fn begin_rate_reduction(&mut self, flight: u64) {
        self.rare.edit().prr = Prr { flight: flight.max(1), ..Prr::NONE };
    }

    /// The state of RFC 7661, if there is any.
    pub(super) fn cwv(&mut self) -> Option<&mut NewCwv> {
        self.rare.touched()?.cwv.as_deref_mut()
    }

    /// A probe is the affair of its time only.
    fn forget_tail_probe(&mut self) {
        if let Some(rare) = self.rare.touched() {
            rare.tlp_high = None;
            rare.tlp_reduced = false;
        }
    }
}

impl Connection {
    pub(super) fn enter_recovery(&mut self, now: Instant) {
        if self.recovery.phase != Phase::Open {
            return;
        }
        // RFC 3168 §6.1.2: no second reduction for what a mark in the same window has reduced already.
        if !self.ecn.is_reducing() {
            let sample = self.congestion_sample(now);
            self.cc.on_congestion(Congestion::Loss, &sample);
            self.on_congestion_in_validation(sample.in_flight, false);
            self.trace_window(WindowReason::Loss);
            self.recovery.begin_rate_reduction(self.sent.outstanding());
        }
        let mss = u64::from(self.send_mss());
        let prr = &mut self.recovery.rare.edit().prr;
        prr.opens = true;
        prr.budget = prr.budget.max(mss);
        self.ecn.on_reduction();
        self.recovery.phase = Phase::Recovery { high: self.snd.nxt };
        self.begin_episode(false);
        // RFC 8985 §7.1: and this loss is counted once.
        self.recovery.forget_tail_probe();
        self.timers.clear(Timer::Tlp);
    }

    /// RFC 6937 §3.1: what may leave on this ACK. `safe`: it moved SND.UNA and showed no further loss.
    pub(super) fn update_prr(&mut self, delivered: u64, safe: bool) {
        let mss = u64::from(self.send_mss());
        let (pipe, ssthresh) = (self.pipe(), self.cc.ssthresh());
        let prr = &mut self.recovery.rare.edit().prr;
        prr.delivered += delivered;
        let send = if pipe > ssthresh {
            let due = (u128::from(prr.delivered) * u128::from(ssthresh)).div_ceil(u128::from(prr.flight));
            u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(prr.out)
        } else {
            // The slow-start reduction bound only when the ACK shows progress, as RFC 9937 and Linux: else
            // retransmissions that are lost again would be followed by ever more of them.
            let limit = prr.delivered.saturating_sub(prr.out).max(delivered) + if safe { mss } else { 0 };
            ssthresh.saturating_sub(pipe).min(limit)
        };
        // The retransmission that opens recovery must leave whatever the sums say.
        prr.budget = if prr.opens { send.max(mss) } else { send };
    }

    /// Answers whether the episode ended.
    pub(super) fn leave_recovery(&mut self, now: Instant, ack: Offset) -> bool {
        let high = match self.recovery.phase {
            Phase::Open => return false,
            Phase::Recovery { high } | Phase::Loss { high } => high,
        };
        if ack < high {
            return false;
        }
        self.cc.on_recovery_exit(now);
        self.on_recovery_exit_in_validation();
        self.trace_window(WindowReason::RecoveryEnd);
        self.recovery.rare.edit().reordering.on_recovery_exit();
        self.end_episode(now);
        true
    }

    /// How long the recovery that began with a timeout has lasted; nothing if there is none.
    pub(super) fn loss_time(&self, now: Instant) -> Duration {
        match self.recovery.phase {
            Phase::Loss { .. } => now.since(self.recovery.rare.loss_since),
            _ => Duration::ZERO,
        }
    }

    pub(super) fn end_episode(&mut self, now: Instant) {
        let lasted = self.loss_time(now);
        self.recovery.phase = Phase::Open;
        self.recovery.dup_acks = 0;
        self.recovery.dup_credit = 0;
        let rare = self.recovery.rare.edit();
        rare.rto_time += lasted;
        rare.frto = Frto::Off;
        self.forget_retransmit_ts();
    }

    /// RFC 8985 §7.4.2: the probe's answer came. ACKs of a probe that was a retransmission leave open whether
    /// it repaired a loss; what comes behind them tells.
    pub(super) fn answer_tlp(&mut self, now: Instant, segment: &Segment<'_>, ack: Offset, duplicate: bool) {
        let high = self.recovery.rare.if_touched().and_then(|rare| rare.tlp_high);
        let Some(high) = high.filter(|&high| ack >= high) else { return };
        let first_block = segment.header.options.sack.iter().next();
        let twice = first_block.is_some_and(|(_, right)| right == self.snd.wire(high));
        let arrived_twice = twice || (duplicate && first_block.is_none());
        if self.recovery.rare.tlp_was_retransmit && !arrived_twice && ack == high {
            return;
        }
        self.recovery.rare.edit().tlp_high = None;
        let repaired = self.recovery.rare.tlp_was_retransmit && !arrived_twice;
        if repaired && self.recovery.phase == Phase::Open {
            let sample = self.congestion_sample(now);
            self.cc.on_congestion(Congestion::Loss, &sample);
            self.on_congestion_in_validation(sample.in_flight, true);
            self.cc.on_recovery_exit(now);
            self.trace_window(WindowReason::Loss);
            self.ecn.on_reduction();
            self.recovery.rare.edit().tlp_reduced = true;
        }
    }

    /// The retransmission timer fired (RFC 6298 §5.4–5.7).
    pub(super) fn on_rto(&mut self, now: Instant) {
        self.recovery.retries += 1;
        self.recovery.backoff = (self.recovery.backoff + 1).min(MOST_BACKOFF);
        if self.sent.is_head_sacked() {
            // RFC 2018 §8: the peer has dropped what it had acknowledged selectively.
            self.sent.forget_sacks();
        }
        let first_of_episode = !matches!(self.recovery.phase, Phase::Loss { .. });
        // As Linux: not when fast recovery has sent things again already.
        let may_be_spurious = self.recovery.phase == Phase::Open || self.recovery.retries > 1;
        let sample = self.congestion_sample(now);
        let lost = self.sent.mark_all_lost();
        self.recovery.rate.on_lost(lost);
        self.tell_lost(lost, LossReason::Timeout);
        let rare = self.recovery.rare.edit();
        rare.timeouts += 1;
        rare.frto_holds = false;
        if self.snd.una > Offset(0) {
            // A lost SYN says nothing of the window, but for RFC 5681's one segment after it.
            // RFC 5681 §3.1: the controller holds ssthresh for a segment that was sent again before.
            self.cc.on_rto(&sample);
            self.on_congestion_in_validation(sample.in_flight, true);
            self.trace_window(WindowReason::Timeout);
            self.ecn.on_reduction();
            if first_of_episode {
                self.begin_episode(true);
                let rare = self.recovery.rare.edit();
                rare.rto_recoveries += 1;
                rare.loss_since = now;
            }
            self.recovery.rare.edit().frto = if may_be_spurious { Frto::Head } else { Frto::Off };
            self.recovery.phase = Phase::Loss { high: self.snd.nxt };
        }
        self.recovery.dup_acks = 0;
        self.recovery.dup_credit = 0;
        self.recovery.forget_tail_probe();
        self.timers.clear(Timer::Tlp);
        self.timers.clear(Timer::Reorder);
        self.arm_rto(now);
    }
}
