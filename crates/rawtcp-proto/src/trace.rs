//! What a connection did and why: its changes of state, what it sent again, its window, its timers.
//!
//! A connection keeps the last [`ConnConfig::trace`](crate::ConnConfig::trace) of them, for
//! [`Connection::poll_trace`](crate::Connection::poll_trace). Where nobody asks for any, each costs one comparison.

use crate::conn::State;
use crate::error::{CloseReason, DropReason};
use crate::seq::OffsetRange;
use crate::time::{Duration, Instant};
use core::fmt;
use std::collections::VecDeque;

/// One thing that happened, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// When.
    pub at: Instant,
    /// What.
    pub event: TraceEvent,
}

/// What happened. Windows are bytes, unscaled; ranges count from the initial sequence number.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TraceEvent {
    /// The state changed (RFC 9293 §3.3.2).
    State {
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// Why.
        why: StateReason,
    },
    /// Something left once more.
    Retransmitted {
        /// What.
        range: OffsetRange,
        /// Why.
        why: RetransmitReason,
    },
    /// Something is taken for lost from now on.
    Lost {
        /// How many bytes.
        bytes: u64,
        /// By which sign.
        why: LossReason,
    },
    /// Recovery begins, goes over into another kind, or ends.
    Recovery {
        /// Before.
        from: RecoveryPhase,
        /// Now.
        to: RecoveryPhase,
    },
    /// The congestion window or the slow start threshold changed.
    Window {
        /// The congestion window.
        cwnd: u64,
        /// The threshold; `u64::MAX` before the first congestion.
        ssthresh: u64,
        /// Bytes thought to be in the network.
        in_flight: u64,
        /// Why.
        why: WindowReason,
    },
    /// The round trip was measured (RFC 6298 §2).
    Rtt {
        /// The smoothed round trip.
        srtt: Duration,
        /// Its mean deviation.
        rttvar: Duration,
        /// The timeout that follows, without backoff.
        rto: Duration,
    },
    /// A timer was set, or set anew.
    TimerSet {
        /// Which.
        timer: TimerKind,
        /// When it is due.
        due: Instant,
    },
    /// A timer was stopped, or what it was for has happened.
    TimerStopped {
        /// Which.
        timer: TimerKind,
    },
    /// A timer ran out.
    TimerExpired {
        /// Which.
        timer: TimerKind,
        /// How often in a row that has happened without an answer, this time included; for timers that count.
        count: u32,
    },
    /// The path MTU in use changed.
    PathMtu {
        /// Before, in bytes.
        from: u32,
        /// Now, in bytes.
        to: u32,
        /// Why.
        why: MtuReason,
    },
    /// The peer's window closed, or opened again.
    PeerWindow {
        /// How large it is.
        bytes: u64,
    },
    /// A segment of the peer went no further.
    Dropped {
        /// Why.
        why: DropReason,
    },
}

/// Why the state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StateReason {
    /// A connection was opened actively.
    ActiveOpen,
    /// A handshake that a listener answered is complete.
    PassiveOpen,
    /// A SYN arrived while ours was on its way: a simultaneous open (RFC 9293 §3.5).
    CrossingSyn,
    /// Our SYN was acknowledged.
    SynAcked,
    /// The application has closed its direction.
    LocalClose,
    /// The peer's FIN arrived.
    RemoteClose,
    /// Our FIN was acknowledged.
    FinAcked,
    /// It ended, for this reason.
    Ended(CloseReason),
}

/// Why something left once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetransmitReason {
    /// Acknowledgments say that it is lost (RFC 8985 §6, RFC 5681 §3.2).
    FastRetransmit,
    /// The retransmission timer ran out (RFC 6298 §5.4).
    Timeout,
    /// Nothing was heard of the last segment, and the probe asks for it (RFC 8985 §7.3).
    TailProbe,
    /// It did not fit the path, or was a probe for the path MTU.
    PathMtu,
}

/// By which sign something was taken for lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// What was sent after it arrived, and the reordering window is over (RFC 8985 §6.2).
    Rack,
    /// Three duplicate acknowledgments, where SACK is off (RFC 5681 §3.2).
    DuplicateAcks,
    /// An acknowledgment of less than all, where SACK is off (RFC 6582 §3.2).
    PartialAck,
    /// The retransmission timer ran out.
    Timeout,
    /// A probe for the path MTU, and nothing else: no congestion (RFC 4821 §7.6).
    MtuProbe,
    /// Larger than the path's MTU.
    PathMtu,
}

/// What recovery is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecoveryPhase {
    /// Nothing is thought lost.
    #[default]
    Open,
    /// The window shrinks because of a mark (RFC 3168 §6.1.2).
    Marked,
    /// Fast recovery (RFC 6937).
    Fast,
    /// After a timeout.
    Timeout,
}

/// Why the congestion window changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WindowReason {
    /// It is the initial one.
    Start,
    /// Data was delivered.
    Ack,
    /// Something was lost.
    Loss,
    /// The network marked something.
    Mark,
    /// The retransmission timer ran out.
    Timeout,
    /// Recovery is over.
    RecoveryEnd,
    /// The reduction was unfounded (RFC 4015).
    Undo,
    /// Nothing was sent for long, or less than it allows (RFC 5681 §4.1, RFC 2861).
    Idle,
    /// The segment size changed.
    SegmentSize,
    /// Another congestion control took over.
    Replaced,
}

/// Why the path MTU changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MtuReason {
    /// A router, or the device, said so.
    Told,
    /// Large segments vanish.
    BlackHole,
    /// A probe arrived.
    ProbeArrived,
    /// It is time to try a larger one (RFC 1191 §6.3).
    Aged,
    /// The search begins from below.
    Searching,
}

/// The timers of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimerKind {
    /// Retransmission timeout (RFC 6298).
    Rto,
    /// Tail loss probe (RFC 8985 §7).
    Tlp,
    /// RACK's reordering window (RFC 8985 §6.3).
    Reorder,
    /// Zero-window probe, and the override of sender silly-window avoidance (RFC 9293 §3.8.6.1).
    Persist,
    /// Delayed ACK (RFC 9293 §3.8.6.3).
    DelayedAck,
    /// Keep-alive (RFC 9293 §3.8.4).
    Keepalive,
    /// An orphan's stay in FIN-WAIT-2.
    FinWait2,
    /// The longest that a cork holds something back.
    Cork,
    /// What pacing holds back may leave.
    Pace,
}

impl TimerKind {
    /// All of them.
    pub const ALL: [TimerKind; 9] = [
        TimerKind::Rto,
        TimerKind::Tlp,
        TimerKind::Reorder,
        TimerKind::Persist,
        TimerKind::DelayedAck,
        TimerKind::Keepalive,
        TimerKind::FinWait2,
        TimerKind::Cork,
        TimerKind::Pace,
    ];

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            TimerKind::Rto => "rto",
            TimerKind::Tlp => "tlp",
            TimerKind::Reorder => "reorder",
            TimerKind::Persist => "persist",
            TimerKind::DelayedAck => "delayed_ack",
            TimerKind::Keepalive => "keepalive",
            TimerKind::FinWait2 => "fin_wait_2",
            TimerKind::Cork => "cork",
            TimerKind::Pace => "pace",
        }
    }
}

macro_rules! names {
    ($($type:ident { $($variant:ident = $name:literal),* $(,)? })*) => {
        $(impl $type {
            /// A short name, in lower case.
            pub const fn name(self) -> &'static str {
                match self { $($type::$variant => $name),* }
            }
        })*
    };
}

names! {
    RetransmitReason { FastRetransmit = "fast_retransmit", Timeout = "timeout", TailProbe = "tail_probe", PathMtu = "path_mtu" }
    LossReason {
        Rack = "rack", DuplicateAcks = "duplicate_acks", PartialAck = "partial_ack", Timeout = "timeout",
        MtuProbe = "mtu_probe", PathMtu = "path_mtu",
    }
    RecoveryPhase { Open = "open", Marked = "marked", Fast = "fast_recovery", Timeout = "timeout_recovery" }
    WindowReason {
        Start = "start", Ack = "ack", Loss = "loss", Mark = "mark", Timeout = "timeout", RecoveryEnd = "recovery_end",
        Undo = "undo", Idle = "idle", SegmentSize = "segment_size", Replaced = "replaced",
    }
    MtuReason {
        Told = "told", BlackHole = "black_hole", ProbeArrived = "probe_arrived", Aged = "aged", Searching = "searching",
    }
}

impl StateReason {
    /// A short name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            StateReason::ActiveOpen => "active_open",
            StateReason::PassiveOpen => "passive_open",
            StateReason::CrossingSyn => "crossing_syn",
            StateReason::SynAcked => "syn_acked",
            StateReason::LocalClose => "local_close",
            StateReason::RemoteClose => "remote_close",
            StateReason::FinAcked => "fin_acked",
            StateReason::Ended(reason) => reason.name(),
        }
    }
}

/// One line: `Established to FinWait1: local_close`.
impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TraceEvent::State { from, to, why } => write!(f, "{} to {}: {}", from.name(), to.name(), why.name()),
            TraceEvent::Retransmitted { range, why } => {
                write!(f, "retransmitted {}..{}: {}", range.start.0, range.end.0, why.name())
            }
            TraceEvent::Lost { bytes, why } => write!(f, "lost {bytes} bytes: {}", why.name()),
            TraceEvent::Recovery { from, to } => write!(f, "recovery {} to {}", from.name(), to.name()),
            TraceEvent::Window { cwnd, ssthresh, in_flight, why } => match *ssthresh {
                u64::MAX => write!(f, "cwnd {cwnd}, {in_flight} in flight: {}", why.name()),
                ssthresh => write!(f, "cwnd {cwnd} ssthresh {ssthresh}, {in_flight} in flight: {}", why.name()),
            },
            TraceEvent::Rtt { srtt, rttvar, rto } => write!(f, "srtt {srtt:?} rttvar {rttvar:?} rto {rto:?}"),
            TraceEvent::TimerSet { timer, due } => write!(f, "timer {} due at {:?}", timer.name(), due),
            TraceEvent::TimerStopped { timer } => write!(f, "timer {} stopped", timer.name()),
            TraceEvent::TimerExpired { timer, count: 0 } => write!(f, "timer {} expired", timer.name()),
            TraceEvent::TimerExpired { timer, count } => write!(f, "timer {} expired, number {count}", timer.name()),
            TraceEvent::PathMtu { from, to, why } => write!(f, "path MTU {from} to {to}: {}", why.name()),
            TraceEvent::PeerWindow { bytes: 0 } => f.write_str("the peer's window is closed"),
            TraceEvent::PeerWindow { bytes } => write!(f, "the peer's window is open again: {bytes}"),
            TraceEvent::Dropped { why } => write!(f, "dropped a segment: {why:?}"),
        }
    }
}

/// The last events of a connection.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    events: VecDeque<Traced>,
    capacity: usize,
    lost: u64,
    /// The time of the last call.
    pub(crate) now: Instant,
    /// What was told last.
    pub(crate) window: (u64, u64),
    pub(crate) phase: RecoveryPhase,
    pub(crate) timers: [Option<Instant>; TimerKind::ALL.len()],
    pub(crate) shut: bool,
}

impl Trace {
    pub(crate) fn new(capacity: usize, now: Instant) -> Self {
        Trace { capacity, now, ..Trace::default() }
    }

    pub(crate) fn push(&mut self, event: TraceEvent) {
        if self.events.len() >= self.capacity {
            self.events.pop_front();
            self.lost += 1;
        }
        self.events.push_back(Traced { at: self.now, event });
    }

    pub(crate) fn pop(&mut self) -> Option<Traced> {
        self.events.pop_front()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        while self.events.len() > capacity {
            self.events.pop_front();
            self.lost += 1;
        }
    }
}
