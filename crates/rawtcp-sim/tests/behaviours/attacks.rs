//! §5, blind attacks by state (behaviours 41–50).

use crate::common::ms;
use crate::script::*;
use rawtcp_proto::wire::{Options, Timestamps};
use rawtcp_proto::{ConnConfig, Duration, Instant, SeqNum, State};
use rawtcp_sim::craft::Parsed;
use rawtcp_sim::{Errno, Host, HostConfig, Shutdown};
use std::collections::BTreeSet;

const STATES: [State; 7] = [
    State::SynReceived,
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
];

/// A connection in this state; what the peer sends next has number 0, or 1 behind its FIN.
fn in_state(state: State) -> (Script, u32) {
    let mut s = match state {
        // The other origin, LISTEN, is a record of the stack's.
        State::SynReceived => {
            let mut s = Script::syn_sent(&plain());
            s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
            assert_eq!(s.next().tcp.flags, SYN_ACK);
            s
        }
        _ => Script::accepted(&plain()),
    };
    let conn = s.conn();
    let remote = matches!(state, State::CloseWait | State::LastAck | State::Closing);
    let local = !matches!(state, State::SynReceived | State::Established | State::CloseWait);
    if state == State::Closing {
        s.host.shutdown(s.now, conn, Shutdown::Write).unwrap();
        s.all();
    }
    if remote {
        s.send(FIN_ACK, s.seq(0), s.ack(0), b"");
        s.all();
    }
    if local && state != State::Closing {
        s.host.shutdown(s.now, conn, Shutdown::Write).unwrap();
        s.all();
    }
    if state == State::FinWait2 {
        s.acks(1);
        s.all();
    }
    assert_eq!(s.state(), state);
    (s, u32::from(remote))
}

#[test]
fn a_reset_aborts_only_at_rcv_nxt() {
    for state in STATES {
        for (flags, ack) in [(RST, 0), (RST_ACK, 0), (RST_ACK, 12_345)] {
            let (mut s, next) = in_state(state);
            s.now = s.now + Duration::from_secs(2);
            s.send(flags, s.seq(next + 100), s.ack(ack), b"");
            s.expect_ack(next);
            s.none();
            for outside in [next.wrapping_sub(1), next + 70_000, next + (1 << 31)] {
                s.send(flags, s.seq(outside), s.ack(ack), b"");
                s.none();
            }
            assert_eq!(s.state(), state, "{flags:?}");
            s.send(flags, s.seq(next), s.ack(ack), b"");
            s.none();
            assert_eq!(s.state(), State::Closed, "{state:?} {flags:?}");
        }
    }
}

#[test]
fn the_application_learns_of_a_reset() {
    let (mut s, next) = in_state(State::Established);
    s.send(RST, s.seq(next), SeqNum(0), b"");
    assert_eq!((s.read(), s.read()), (Err(Errno::ECONNRESET), Ok(vec![])));
    assert_eq!(s.write(b"x"), Err(Errno::EPIPE));
}

#[test]
fn a_half_open_record_obeys_the_same_rule() {
    for flags in [RST, RST_ACK] {
        let mut s = Script::syn_received(&plain(), peer_options());
        s.send(flags, s.seq(100), s.ack(99), b"");
        s.expect_ack(0);
        for outside in [0u32.wrapping_sub(1), 70_000] {
            s.send(flags, s.seq(outside), s.ack(99), b"");
            s.none();
        }
        assert_eq!(s.host.counts().of(State::SynReceived), 1);
        s.send(flags, s.seq(0), s.ack(99), b"");
        s.none();
        assert_eq!(s.host.counts().of(State::SynReceived), 0);
    }
}

#[test]
fn a_syn_is_challenged_whatever_its_number() {
    for state in STATES.into_iter().filter(|state| *state != State::SynReceived) {
        for offset in [0, 1, 100, 70_000, 1 << 31, 0u32.wrapping_sub(1)] {
            for flags in [SYN, SYN_ACK] {
                let (mut s, next) = in_state(state);
                s.send(flags, s.seq(next.wrapping_add(offset)), s.ack(0), b"");
                s.expect_ack(next);
                s.none();
                assert_eq!(s.state(), state, "{flags:?} at {offset}");
            }
        }
    }
}

#[test]
fn data_with_an_ack_number_from_elsewhere_is_dropped_and_answered() {
    for ack in [1, 5000, 0u32.wrapping_sub(70_000), 1 << 31] {
        let mut s = Script::accepted(&plain());
        s.send(ACK, s.seq(0), s.ack(ack), b"forged");
        s.expect_ack(0);
        assert_eq!((s.read(), s.state()), (Err(Errno::EAGAIN), State::Established), "{ack}");
    }
    // Within the largest window ever offered behind SND.UNA it is only old.
    let mut s = Script::accepted(&plain());
    s.write(&text(1000)).unwrap();
    s.all();
    s.acks(1000);
    s.send(ACK, s.seq(0), s.ack(500), b"late");
    assert_eq!(s.read(), Ok(b"late".to_vec()));
}

#[test]
fn challenges_are_limited() {
    for (flags, offset) in [(RST, 100), (SYN, 100), (SYN, 70_000)] {
        let mut s = Script::accepted(&plain());
        let mut answers = 0;
        for n in 0..400 {
            s.send(flags, s.seq(offset + n), SeqNum(0), b"");
            answers += s.all().len();
        }
        assert!((1..=20).contains(&answers), "{answers} answers to 400 times {flags:?}");
        assert_eq!(s.state(), State::Established);
    }
    let mut s = Script::accepted(&ConnConfig { challenge_acks: 3, ..plain() });
    let answers: usize = (0..50)
        .map(|n| {
            s.send(RST, s.seq(100 + n), SeqNum(0), b"");
            s.all().len()
        })
        .sum();
    assert_eq!(answers, 3);
}

#[test]
fn an_ack_for_what_was_never_sent_releases_nothing() {
    let mut s = Script::accepted(&plain());
    s.write(&text(30_000)).unwrap();
    let sent = s.all().len();
    s.acks(25_000);
    let answers = s.all();
    assert!(answers.iter().all(|p| p.payload.is_empty()) && answers.len() == 1, "{answers:?}");
    let info = s.host.info(s.conn()).unwrap();
    assert_eq!((sent, info.unacked), (10, 10_000));
}

#[test]
fn an_older_timestamp_is_dropped_and_acknowledged() {
    let ts = |value| Options { timestamps: Some(Timestamps { value, echo: 0 }), ..peer_options() };
    let mut s = Script::accepted_with(&ConnConfig { timestamps: true, ..plain() }, ts(1000));
    s.send_with(ACK, s.seq(0), s.ack(0), ts(1010), b"a");
    s.all();
    s.send_with(ACK, s.seq(1), s.ack(0), ts(1009), b"old");
    s.expect_ack(1);
    assert_eq!(s.read(), Ok(b"a".to_vec()));
    s.send_with(ACK, s.seq(1), s.ack(0), ts(1010), b"b");
    s.all();
    assert_eq!(s.read(), Ok(b"b".to_vec()));
}

#[test]
fn initial_numbers_are_unpredictable_across_tuples_and_rise_on_one() {
    let isn = |seed, now, port| {
        let mut host = Host::new(HostConfig::new([10, 0, 0, 1].into(), seed));
        let local = ([10, 0, 0, 1], port).into();
        host.connect_from(now, local, "10.0.0.2:80".parse().unwrap(), &plain()).unwrap();
        Parsed::new(&host.poll_transmit(now).unwrap()).unwrap().tcp.seq
    };
    let now = Instant::from_secs(50);
    let all: BTreeSet<_> = (1..=200).map(|port| isn(1, now, port).0 >> 16).collect();
    assert!(all.len() > 190);
    let steps: BTreeSet<_> = (1..=100).map(|port| isn(1, now, port + 1).0.wrapping_sub(isn(1, now, port).0)).collect();
    assert!(steps.len() > 95);
    let mut last = isn(1, now, 7);
    for n in 1..10 {
        let next = isn(1, now + ms(n), 7);
        assert!(next.after(last));
        last = next;
    }
    assert_ne!(isn(1, now, 7), isn(2, now, 7));
}

#[test]
fn thousands_of_tiny_out_of_order_segments_hurt_nobody() {
    let mut s = Script::accepted(&plain());
    let victim = s.conn();
    for n in 0..8000 {
        s.data(2 * n + 1, b"x");
        assert!(s.all().len() <= 1);
    }
    // The hole is filled: only what was kept is acknowledged, the stream goes on from there.
    s.data(0, b"y");
    let through = s.all().last().unwrap().tcp.ack;
    assert!(through.after_eq(s.seq(2)));
    let peer = s.peer;
    s.peer.set_port(4001);
    s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
    s.irs = s.next().tcp.seq;
    s.send(ACK, s.seq(0), s.ack(0), b"hello");
    assert!(s.host.accept(s.listener.unwrap()).is_ok());
    s.peer = peer;
    assert_eq!(s.host.state(victim), State::Established);
}

#[test]
fn fifty_connections_with_zero_window_do_not_stop_service() {
    let mut s = Script::listening(&plain());
    let listener = s.listener.unwrap();
    let first = s.peer;
    for n in 0..51 {
        s.peer.set_port(first.port() + n);
        s.window = if n < 50 { 0 } else { 65_535 };
        s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
        s.irs = s.next().tcp.seq;
        s.send(ACK, s.seq(0), s.ack(0), b"");
        s.none();
        let conn = s.host.accept(listener).unwrap();
        let mut room = 0;
        while let Ok(n) = s.host.write(s.now, conn, &[0; 65_536]) {
            room += n;
        }
        assert!(room <= 2 << 20, "{room} bytes buffered");
        if n == 50 {
            assert_eq!(s.all().len(), 10);
        }
    }
}

#[test]
fn forged_duplicate_acks_do_not_push_the_flight_over_the_window() {
    for sack in [true, false] {
        let mut s = Script::accepted_with(&plain(), Options { sack_permitted: sack, ..peer_options() });
        s.window = 12_000;
        s.acks(0);
        s.write(&text(60_000)).unwrap();
        let mut highest = s.all().len() as u32 * 1000;
        for _ in 0..100 {
            s.acks(0);
            for sent in s.all() {
                let end = sent.tcp.seq.add(sent.payload.len() as u32);
                highest = highest.max(end.0.wrapping_sub(s.ack(0).0));
            }
        }
        assert!(highest <= 12_000, "{highest}, SACK {sack}");
    }
}
