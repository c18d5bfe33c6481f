//! What a connection says of itself.

use super::pair::{A, B, Pair};
use super::{ms, secs};
use crate::config::ConnConfig;
use crate::conn::State;
use crate::error::CloseReason;
use crate::trace::{
    LossReason, MtuReason, RecoveryPhase, RetransmitReason, StateReason, TimerKind, TraceEvent, Traced, WindowReason,
};

fn traced(capacity: usize) -> ConnConfig {
    ConnConfig { trace: capacity, ..ConnConfig::default() }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn take(p: &mut Pair, end: usize) -> Vec<Traced> {
    std::iter::from_fn(|| p.ends[end].poll_trace()).collect()
}

/// What happened, less the timers and measurements.
fn essence(events: &[Traced]) -> Vec<&TraceEvent> {
    let rare = |e: &&TraceEvent| {
        !matches!(e, TraceEvent::TimerSet { .. } | TraceEvent::TimerStopped { .. } | TraceEvent::Rtt { .. })
    };
    events.iter().map(|t| &t.event).filter(rare).collect()
}

#[test]
fn nobody_asked_and_nothing_is_kept() {
    let mut p = Pair::established(ConnConfig::default(), ConnConfig::default());
    let data = pattern(50_000);
    assert_eq!(p.transfer(A, &data), data);
    assert_eq!((p.ends[A].poll_trace(), p.ends[A].trace_lost()), (None, 0));
}

#[test]
fn every_change_of_state_has_its_reason() {
    let mut p = Pair::new(traced(1000), traced(1000));
    p.run_until(|p| p.ends.iter().all(|c| c.state() == State::Established));
    p.ends[A].shutdown(p.now).unwrap();
    p.wait(ms(100));
    p.ends[B].shutdown(p.now).unwrap();
    p.wait(ms(100));
    let states = |events: &[Traced]| -> Vec<(State, State, StateReason)> {
        let of = |t: &Traced| match t.event {
            TraceEvent::State { from, to, why } => Some((from, to, why)),
            _ => None,
        };
        events.iter().filter_map(of).collect()
    };
    use State::*;
    let opening = [
        (Closed, SynSent, StateReason::ActiveOpen),
        (SynSent, SynReceived, StateReason::CrossingSyn),
        (SynReceived, Established, StateReason::SynAcked),
    ];
    let (a, b) = (take(&mut p, A), take(&mut p, B));
    let (first, last) = (states(&a), states(&b));
    assert_eq!(first[..3], opening);
    assert_eq!(
        first[3..],
        [
            (Established, FinWait1, StateReason::LocalClose),
            (FinWait1, FinWait2, StateReason::FinAcked),
            (FinWait2, TimeWait, StateReason::RemoteClose),
        ]
    );
    assert_eq!(last[..3], opening);
    assert_eq!(
        last[3..],
        [
            (Established, CloseWait, StateReason::RemoteClose),
            (CloseWait, LastAck, StateReason::LocalClose),
            (LastAck, Closed, StateReason::Ended(CloseReason::Graceful)),
        ]
    );
    assert!(a.is_sorted_by_key(|t| t.at) && b.is_sorted_by_key(|t| t.at));
}

#[test]
fn a_loss_is_told_from_its_sign_to_the_end_of_recovery() {
    let mut p = Pair::established(traced(10_000), ConnConfig::default());
    take(&mut p, A);
    let mut n = 0;
    p.pass = Box::new(move |end, _, t| {
        n += usize::from(end == A && t.payload_len() > 0);
        n != 3 || end == B
    });
    let before = p.ends[A].info();
    p.write_all(A, &pattern(8 * before.snd_mss as usize));
    p.run_until(|p| p.ends[A].is_all_acked());
    let events = take(&mut p, A);
    let told = essence(&events);
    let at = |wanted: &dyn Fn(&TraceEvent) -> bool| {
        told.iter().position(|e| wanted(e)).unwrap_or_else(|| panic!("not in {told:#?}"))
    };
    let mss = u64::from(before.snd_mss);
    let lost = at(&|e| *e == TraceEvent::Lost { bytes: mss, why: LossReason::Rack });
    let reduced =
        at(&|e| matches!(e, TraceEvent::Window { why: WindowReason::Loss, ssthresh, .. } if *ssthresh < u64::MAX));
    let again = at(&|e| {
        matches!(e, TraceEvent::Retransmitted { range, why: RetransmitReason::FastRetransmit }
        if range.end.since(range.start) == mss)
    });
    let begun = at(&|e| *e == TraceEvent::Recovery { from: RecoveryPhase::Open, to: RecoveryPhase::Fast });
    let over = at(&|e| *e == TraceEvent::Recovery { from: RecoveryPhase::Fast, to: RecoveryPhase::Open });
    assert!(lost < reduced && reduced < again && again <= begun && begun < over, "{told:#?}");
    assert!(events.iter().any(|t| matches!(t.event, TraceEvent::Rtt { srtt, .. } if srtt >= ms(20))));
    // The window that was told last is the one that there is.
    let info = p.ends[A].info();
    let last = told.iter().rev().find_map(|e| match e {
        TraceEvent::Window { cwnd, ssthresh, .. } => Some((*cwnd, *ssthresh)),
        _ => None,
    });
    assert_eq!(last, Some((info.snd_cwnd, info.snd_ssthresh)));
}

#[test]
fn timers_are_told_when_they_are_set_and_when_they_run_out() {
    let mut p = Pair::established(traced(10_000), ConnConfig::default());
    p.write_all(A, &pattern(3000));
    p.run_until(|p| p.ends[A].is_all_acked());
    p.settle();
    take(&mut p, A);
    p.pass = Box::new(|end, _, _| end == B);
    p.write_all(A, &pattern(9_000));
    p.wait(secs(3));
    let events = take(&mut p, A);
    // A deadline that ran out had been told before, and was then.
    let mut due = [None; TimerKind::ALL.len()];
    let mut expired = Vec::new();
    for t in &events {
        match t.event {
            TraceEvent::TimerSet { timer, due: at } => due[timer as usize] = Some(at),
            TraceEvent::TimerStopped { timer } => due[timer as usize] = None,
            TraceEvent::TimerExpired { timer, count } => {
                assert_eq!(due[timer as usize].take(), Some(t.at), "{timer:?}");
                expired.push((timer, count));
            }
            _ => {}
        }
    }
    let rtos = (1..).take(expired.len() - 1).map(|n| (TimerKind::Rto, n));
    assert!(expired.len() >= 4, "{expired:?}");
    assert_eq!(expired, std::iter::once((TimerKind::Tlp, 0)).chain(rtos).collect::<Vec<_>>());
    let told = essence(&events);
    let wanted: [fn(&TraceEvent) -> bool; 6] = [
        |e| matches!(e, TraceEvent::Retransmitted { why: RetransmitReason::TailProbe, .. }),
        |e| matches!(e, TraceEvent::Retransmitted { why: RetransmitReason::Timeout, .. }),
        |e| matches!(e, TraceEvent::Lost { why: LossReason::Timeout, .. }),
        |e| matches!(e, TraceEvent::Window { why: WindowReason::Timeout, .. }),
        |e| matches!(e, TraceEvent::Recovery { to: RecoveryPhase::Timeout, .. }),
        |e| matches!(e, TraceEvent::PathMtu { from: 1500, to: 1064, why: MtuReason::BlackHole }),
    ];
    for wanted in wanted {
        assert!(told.iter().any(|e| wanted(e)), "{told:#?}");
    }
    // Every event has a line of text.
    assert!(events.iter().all(|t| !t.event.to_string().is_empty()));
}

#[test]
fn the_peers_window_and_what_is_dropped_are_told() {
    let small = ConnConfig { recv_buffer: 3000, recv_buffer_max: 0, ..ConnConfig::default() };
    let mut p = Pair::established(traced(10_000), small);
    p.write_all(A, &pattern(10_000));
    p.wait(secs(1));
    p.read_all(B);
    p.wait(secs(1));
    let events = take(&mut p, A);
    let windows = events.iter().filter_map(|t| match t.event {
        TraceEvent::PeerWindow { bytes } => Some(bytes > 0),
        _ => None,
    });
    assert_eq!(windows.take(2).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn only_the_last_events_are_kept_and_the_others_counted() {
    let run = |capacity| {
        let mut p = Pair::established(traced(capacity), ConnConfig::default());
        let data = pattern(100_000);
        assert_eq!(p.transfer(A, &data), data);
        p.wait(secs(1));
        p
    };
    let (mut all, mut p) = (run(10_000), run(8));
    let (all, kept) = (take(&mut all, A), take(&mut p, A));
    assert_eq!(kept, all[all.len() - 8..]);
    assert_eq!(p.ends[A].trace_lost(), all.len() as u64 - 8);
    // Fewer from now on, and then none.
    p.ends[A].set_trace(1);
    p.ends[A].set_trace(0);
    assert_eq!(p.ends[A].poll_trace(), None);
}
