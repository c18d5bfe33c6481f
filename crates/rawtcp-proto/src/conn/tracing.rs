//! The places where a connection says what it does; see [`crate::trace`].

use super::recovery::Phase;
use super::timers::Timer;
use super::{Connection, State};
use crate::error::DropReason;
use crate::seq::OffsetRange;
use crate::time::Instant;
use crate::trace::{
    LossReason, MtuReason, RecoveryPhase, RetransmitReason, StateReason, Trace, TraceEvent, Traced, WindowReason,
};

impl Connection {
    /// From now on the last `capacity` events are kept for [`poll_trace`](Self::poll_trace); 0: none.
    pub fn set_trace(&mut self, capacity: usize) {
        self.settings().trace = capacity;
        match (&mut self.trace, capacity) {
            (trace, 0) => *trace = None,
            (Some(trace), _) => trace.set_capacity(capacity),
            (None, _) => self.start_trace(self.last_heard.max(self.last_sent)),
        }
    }

    pub(super) fn start_trace(&mut self, now: Instant) {
        if self.config.trace > 0 {
            let mut trace = Trace::new(self.config.trace, now);
            trace.window = (self.cc.cwnd(), self.cc.ssthresh());
            trace.timers = self.timers.all();
            trace.phase = self.recovery_phase();
            self.trace = Some(Box::new(trace));
        }
    }

    /// The oldest event that was kept and not taken yet.
    pub fn poll_trace(&mut self) -> Option<Traced> {
        self.trace.as_mut()?.pop()
    }

    /// How many events there was no room for.
    pub fn trace_lost(&self) -> u64 {
        self.trace.as_ref().map_or(0, |trace| trace.lost())
    }

    /// A call has come at this time.
    pub(super) fn trace_now(&mut self, now: Instant) {
        if let Some(trace) = &mut self.trace {
            // A batch's time may be before that of a call of the application's.
            trace.now = trace.now.max(now);
        }
    }

    pub(super) fn trace_state(&mut self, from: State, to: State, why: StateReason) {
        if let Some(trace) = &mut self.trace {
            trace.push(TraceEvent::State { from, to, why });
        }
    }

    pub(super) fn trace_window(&mut self, why: WindowReason) {
        if self.trace.is_none() {
            return;
        }
        let in_flight = self.pipe();
        let (cwnd, ssthresh) = (self.cc.cwnd(), self.cc.ssthresh());
        if let Some(trace) = &mut self.trace
            && (trace.window != (cwnd, ssthresh) || why == WindowReason::Start)
        {
            trace.window = (cwnd, ssthresh);
            trace.push(TraceEvent::Window { cwnd, ssthresh, in_flight, why });
        }
    }

    pub(super) fn trace_retransmit(&mut self, range: &OffsetRange, probe: bool) {
        if let Some(trace) = &mut self.trace {
            let why = match self.recovery.phase {
                _ if probe => RetransmitReason::TailProbe,
                Phase::Recovery { .. } => RetransmitReason::FastRetransmit,
                Phase::Loss { .. } => RetransmitReason::Timeout,
                // A SYN is in no phase.
                Phase::Open if range.start.0 == 0 => RetransmitReason::Timeout,
                Phase::Open => RetransmitReason::PathMtu,
            };
            trace.push(TraceEvent::Retransmitted { range: range.clone(), why });
        }
    }

    /// So much is taken for lost from now on.
    pub(super) fn tell_lost(&mut self, bytes: u64, why: LossReason) {
        if let Some(trace) = &mut self.trace
            && bytes > 0
        {
            trace.push(TraceEvent::Lost { bytes, why });
        }
    }

    pub(super) fn trace_rtt(&mut self) {
        if let Some(trace) = &mut self.trace {
            let (srtt, rttvar) = (self.rtt.srtt().unwrap_or_default(), self.rtt.rttvar().unwrap_or_default());
            trace.push(TraceEvent::Rtt { srtt, rttvar, rto: self.rtt.rto() });
        }
    }

    pub(super) fn trace_expiry(&mut self, timer: Timer) {
        if let Some(trace) = &mut self.trace {
            let count = match timer {
                Timer::Rto => self.recovery.retries + 1,
                Timer::Persist | Timer::Keepalive => self.probes + 1,
                _ => 0,
            };
            trace.timers[timer as usize] = None;
            trace.push(TraceEvent::TimerExpired { timer, count });
        }
    }

    pub(super) fn trace_mtu(&mut self, from: u32, to: u32, why: MtuReason) {
        if let Some(trace) = &mut self.trace {
            trace.push(TraceEvent::PathMtu { from, to, why });
        }
    }

    pub(super) fn trace_drop(&mut self, result: Result<(), DropReason>) -> Result<(), DropReason> {
        if let (Some(trace), Err(why)) = (&mut self.trace, result) {
            trace.push(TraceEvent::Dropped { why });
        }
        result
    }

    fn recovery_phase(&self) -> RecoveryPhase {
        match self.recovery.phase {
            Phase::Open if self.ecn.is_reducing() => RecoveryPhase::Marked,
            Phase::Open => RecoveryPhase::Open,
            Phase::Recovery { .. } => RecoveryPhase::Fast,
            Phase::Loss { .. } => RecoveryPhase::Timeout,
        }
    }

    /// Behind a call: what is told once, however often it changed meanwhile.
    pub(super) fn trace_changes(&mut self) {
        if self.trace.is_some() {
            self.tell_changes();
        }
    }

    #[cold]
    fn tell_changes(&mut self) {
        let phase = self.recovery_phase();
        let (now_set, wnd) = (self.timers.all(), u64::from(self.snd.wnd));
        let synchronized = self.state.is_synchronized();
        let Some(trace) = &mut self.trace else { return };
        let from = core::mem::replace(&mut trace.phase, phase);
        if from != phase {
            trace.push(TraceEvent::Recovery { from, to: phase });
        }
        if synchronized && trace.shut != (wnd == 0) {
            trace.shut = wnd == 0;
            trace.push(TraceEvent::PeerWindow { bytes: wnd });
        }
        for timer in Timer::ALL {
            let (before, due) = (trace.timers[timer as usize], now_set[timer as usize]);
            match due {
                _ if before == due => {}
                Some(due) => trace.push(TraceEvent::TimerSet { timer, due }),
                None => trace.push(TraceEvent::TimerStopped { timer }),
            }
            trace.timers[timer as usize] = due;
        }
    }
}
