use super::pair::{A, B, Pair, has};
use super::{ms, secs};
use crate::config::ConnConfig;
use crate::conn::{Events, State, TransmitKind};
use crate::error::{CloseReason, UserError};
use crate::wire::Flags;

fn pair() -> Pair {
    Pair::established(ConnConfig::default(), ConnConfig::default())
}

#[test]
fn four_way_close_walks_the_states() {
    let mut p = pair();
    p.ends[A].shutdown(p.now).unwrap();
    assert_eq!(p.ends[A].state(), State::FinWait1);
    p.run_until(|p| p.ends[A].state() == State::FinWait2);
    assert_eq!(p.ends[B].state(), State::CloseWait);
    assert_eq!(p.ends[B].read(p.now, &mut [0; 4]), Ok(0), "FIN reads as the end");
    p.write_all(B, b"still open");
    p.run_until(|p| p.ends[A].readable_len() == 10);
    p.ends[B].shutdown(p.now).unwrap();
    assert_eq!(p.ends[B].state(), State::LastAck);
    p.run_until(|p| p.ends[B].state() == State::Closed);
    assert_eq!(p.ends[A].state(), State::TimeWait);
    assert_eq!(p.ends[B].close_reason(), Some(CloseReason::Graceful));
    assert_eq!(p.read_all(A), b"still open");
    assert!(p.seen[A].contains(Events::TIME_WAIT));
    let record = p.ends[A].time_wait(p.now).unwrap();
    assert_eq!(record.deadline, p.now + secs(60));
}

/// What one end has sent.
fn answers(p: &Pair, end: usize) -> Vec<TransmitKind> {
    p.log.iter().filter(|(from, _)| *from == end).map(|(_, t)| t.kind).collect()
}

#[test]
fn the_ack_of_a_fin_rides_on_the_answer() {
    for shuts in [true, false] {
        let mut p = pair();
        p.ends[A].shutdown(p.now).unwrap();
        p.run_until(|p| p.ends[B].state() == State::CloseWait);
        assert_eq!(answers(&p, B), [], "it waits");
        let since = p.now;
        if shuts {
            p.ends[B].shutdown(p.now).unwrap();
            p.flush();
            assert_eq!(answers(&p, B), [TransmitKind::Data]);
            assert_eq!(
                p.ends[B].poll_timeout().map(|at| at.since(p.now) > ms(40)),
                Some(true),
                "nothing is owed any more"
            );
        } else {
            p.run_until(|p| !answers(p, B).is_empty());
            assert_eq!((answers(&p, B), p.now.since(since)), (vec![TransmitKind::Ack], ms(40)));
        }
    }
}

#[test]
fn the_ack_of_a_fin_does_not_wait_where_nothing_can_carry_it() {
    // We have finished first.
    let mut p = pair();
    p.ends[B].shutdown(p.now).unwrap();
    p.run_until(|p| p.ends[B].state() == State::FinWait2);
    p.log.clear();
    p.ends[A].shutdown(p.now).unwrap();
    p.run_until(|p| p.ends[B].state() == State::TimeWait);
    p.flush();
    assert_eq!(answers(&p, B), [TransmitKind::Ack]);
    // ACKs are not to be delayed.
    let config = ConnConfig { delayed_ack: ms(0), ..ConnConfig::default() };
    let mut p = Pair::established(ConnConfig::default(), config);
    p.ends[A].shutdown(p.now).unwrap();
    p.run_until(|p| p.ends[B].state() == State::CloseWait);
    p.flush();
    assert_eq!(answers(&p, B), [TransmitKind::Ack]);
}

#[test]
fn both_close_at_once() {
    let mut p = pair();
    p.ends[A].shutdown(p.now).unwrap();
    p.ends[B].shutdown(p.now).unwrap();
    p.run_until(|p| p.ends.iter().all(|c| c.state() == State::TimeWait));
}

#[test]
fn a_lost_fin_is_sent_again_in_every_closing_state() {
    for (first, second) in [(A, B), (B, A)] {
        for lose in 0..2 {
            let mut p = pair();
            let mut fins = 0;
            p.pass = Box::new(move |_, _, t| {
                let fin = has(t, Flags::FIN);
                fins += usize::from(fin);
                !(fin && fins == lose + 1)
            });
            p.ends[first].shutdown(p.now).unwrap();
            p.run_until(|p| p.ends[second].state() == State::CloseWait);
            p.ends[second].shutdown(p.now).unwrap();
            p.run_until(|p| p.ends[second].state() == State::Closed && p.ends[first].state() == State::TimeWait);
        }
    }
}

#[test]
fn close_with_everything_read_sends_data_then_fin() {
    let mut p = pair();
    let data = vec![7; 100_000];
    assert_eq!(p.write_all(A, &data), data.len());
    p.ends[A].close(p.now);
    let mut got = Vec::new();
    p.run_until(|p| {
        got.extend(p.read_all(B));
        p.ends[B].state() == State::CloseWait
    });
    assert_eq!(got.len(), data.len());
    assert!(p.log.iter().all(|(_, t)| t.kind != TransmitKind::Reset));
}

#[test]
fn close_with_unread_data_resets() {
    let mut p = pair();
    p.write_all(B, b"unread");
    p.run_until(|p| p.ends[A].readable_len() == 6);
    p.ends[A].close(p.now);
    p.run_until(|p| p.ends[B].state() == State::Closed);
    let now = p.now;
    assert_eq!(p.ends[B].read(now, &mut [0; 4]), Err(UserError::Closed(CloseReason::Reset)));
    assert_eq!(p.ends[B].read(now, &mut [0; 4]), Ok(0), "an error is told once");
    assert_eq!(p.ends[B].write(now, b"x"), Err(UserError::BrokenPipe));
}

#[test]
fn data_after_close_resets() {
    let mut p = pair();
    p.ends[A].close(p.now);
    p.run_until(|p| p.ends[B].state() == State::CloseWait);
    p.write_all(B, b"too late");
    p.run_until(|p| p.ends[B].state() == State::Closed);
    assert!(p.log.iter().any(|(end, t)| *end == A && t.kind == TransmitKind::Reset));
    let now = p.now;
    assert_eq!(p.ends[B].read(now, &mut [0; 4]), Ok(0), "the FIN came first");
    assert_eq!(p.ends[B].write(now, b"x"), Err(UserError::Closed(CloseReason::ResetAfterEof)));
}

#[test]
fn abort_resets_and_discards() {
    let mut p = pair();
    p.write_all(A, &[1; 1000]);
    p.ends[A].abort(p.now);
    p.run_until(|p| p.ends[B].state() == State::Closed);
    assert!(p.ends[A].is_closed());
    assert_eq!(p.ends[B].take_error(), Some(CloseReason::Reset));
}

#[test]
fn data_before_a_reset_is_read_before_the_error() {
    let mut p = pair();
    p.write_all(A, b"last words");
    p.run_until(|p| p.ends[B].readable_len() == 10);
    p.ends[A].abort(p.now);
    p.run_until(|p| p.ends[B].state() == State::Closed);
    let mut buf = [0; 16];
    let now = p.now;
    assert_eq!(p.ends[B].read(now, &mut buf), Ok(10));
    assert_eq!(p.ends[B].read(now, &mut buf), Err(UserError::Closed(CloseReason::Reset)));
}

#[test]
fn an_orphan_leaves_fin_wait_2_by_itself() {
    let mut p = pair();
    p.ends[A].close(p.now);
    p.run_until(|p| p.ends[A].state() == State::FinWait2);
    let start = p.now;
    p.run_until(|p| p.ends[A].state() == State::Closed);
    assert_eq!(p.now.since(start), secs(60));
}

#[test]
fn a_vanished_peer_is_given_up_after_r2() {
    let mut p = pair();
    p.write_all(A, b"anyone there?");
    p.pass = Box::new(|_, _, _| false);
    let start = p.now;
    p.run_until(|p| p.ends[A].state() == State::Closed);
    assert_eq!(p.ends[A].take_error(), Some(CloseReason::TimedOut));
    let took = p.now.since(start);
    assert!(took > secs(800) && took < secs(1100), "{took:?}");
}
