use super::pair::{A, B, Pair, has};
use super::{ms, secs};
use crate::config::ConnConfig;
use crate::conn::{Events, State, TransmitKind};
use crate::error::{CloseReason, UserError};
use crate::wire::Flags;

#[test]
fn simultaneous_open_reaches_established() {
    // RFC 9293 §3.5, Figure 8 [MUST-10].
    let mut pair = Pair::new(ConnConfig::default(), ConnConfig::default());
    pair.run_until(|p| p.ends.iter().all(|c| c.state() == State::Established));
    let syn_acks = pair.log.iter().filter(|(_, t)| has(t, Flags::SYN | Flags::ACK)).count();
    assert_eq!(syn_acks, 2, "each side answers the other's SYN");
    for info in pair.ends.iter().map(|c| c.info()) {
        assert!(info.timestamps && info.sack && info.window_scale.is_some());
    }
    assert!(pair.seen[A].contains(Events::CONNECTED) && pair.seen[B].contains(Events::CONNECTED));
}

#[test]
fn options_are_answered_only_if_offered() {
    let plain = ConnConfig { timestamps: false, sack: false, window_scaling: false, ..ConnConfig::default() };
    let mut pair = Pair::new(ConnConfig::default(), plain);
    pair.run_until(|p| p.ends.iter().all(|c| c.state() == State::Established));
    for info in pair.ends.iter().map(|c| c.info()) {
        assert!(!info.timestamps && !info.sack && info.window_scale.is_none());
    }
    let answer = pair.log.iter().find(|(end, t)| *end == A && has(t, Flags::SYN | Flags::ACK)).unwrap();
    let options = &answer.1.header.options;
    assert!(options.timestamps.is_none() && !options.sack_permitted && options.window_scale.is_none());
    assert_eq!(options.mss, Some(1460));
}

#[test]
fn a_blackholed_syn_is_sent_seven_times_in_127_seconds() {
    let mut pair = Pair::new(ConnConfig::default(), ConnConfig::default());
    pair.pass = Box::new(|_, _, _| false);
    let start = pair.now;
    pair.run_until(|p| p.ends[A].state() == State::Closed);
    let times = pair.log.iter().filter(|(end, t)| *end == A && t.kind == TransmitKind::Syn).count();
    assert_eq!(times, 7);
    assert_eq!(pair.now.since(start), secs(127));
    assert_eq!(pair.ends[A].take_error(), Some(CloseReason::TimedOut));
}

#[test]
fn a_user_timeout_ends_connect_on_time() {
    let config = ConnConfig { user_timeout: Some(ms(2500)), ..ConnConfig::default() };
    let mut pair = Pair::new(config, ConnConfig::default());
    pair.pass = Box::new(|_, _, _| false);
    let start = pair.now;
    pair.run_until(|p| p.ends[A].state() == State::Closed);
    assert_eq!(pair.now.since(start), ms(2500));
}

#[test]
fn a_lost_syn_is_sent_again_after_a_second() {
    let mut pair = Pair::new(ConnConfig::default(), ConnConfig::default());
    pair.pass = Box::new(|_, number, _| number > 1);
    let start = pair.now;
    pair.run_until(|p| p.ends.iter().all(|c| c.state() == State::Established));
    assert!(pair.now.since(start) >= secs(1) && pair.now.since(start) < ms(1100));
}

#[test]
fn data_written_before_the_handshake_follows_it() {
    let mut pair = Pair::new(ConnConfig::default(), ConnConfig::default());
    assert_eq!(pair.write_all(A, b"early"), 5);
    pair.run_until(|p| p.ends[B].readable_len() == 5);
    assert_eq!(pair.read_all(B), b"early");
}

#[test]
fn close_before_the_handshake_sends_the_fin_after_it() {
    let mut pair = Pair::new(ConnConfig::default(), ConnConfig::default());
    pair.write_all(A, b"x");
    pair.ends[A].shutdown(pair.now).unwrap();
    let now = pair.now;
    assert_eq!(pair.ends[A].write(now, b"y"), Err(UserError::BrokenPipe));
    pair.run_until(|p| p.ends[B].state() == State::CloseWait);
    assert_eq!(pair.read_all(B), b"x");
}
