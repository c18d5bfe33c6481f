//! What reviews and long runs against chance brought to light.

use super::pair::{A, B, Pair};
use super::segments::{Host, plain};
use super::{ms, secs};
use crate::config::ConnConfig;
use crate::conn::{Events, State};
use crate::error::CloseReason;
use crate::seq::WireWindow;
use crate::wire::{Flags, IcmpError, IcmpKind, Options, TcpHeader, Timestamps};

const ACK: Flags = Flags::ACK;

#[test]
fn an_ack_from_before_the_window_is_heard_if_it_is_news() {
    let mut host = Host::in_state(&plain(), State::Established);
    host.on(ACK, 1, 1, &[0; 3000]);
    host.conn.write(host.now, &[7; 500]).unwrap();
    host.drain();
    // The peer thinks that we have taken our window back, and repeats what we have.
    let sent = host.on(ACK, 2000, 501, &[0; 500]);
    assert!(host.conn.is_all_acked());
    assert!(sent.len() == 1 && sent[0].header.ack == host.header(ACK, 3001, 0).seq, "{sent:?}");
    // From too far away it is not believed.
    host.conn.write(host.now, &[7; 500]).unwrap();
    host.drain();
    host.on(ACK, 3001u32.wrapping_sub(70_000), 1001, b"old");
    assert!(!host.conn.is_all_acked());
}

#[test]
fn lost_acks_do_not_inflate_the_round_trip_time() {
    // The peer has everything, each time its first ACKs are lost, and what it answers to the copies echoes the
    // timestamp of the original.
    let mut host = Host::connecting(&ConnConfig { timestamps: true, ..plain() });
    let stamp = |value, echo| Options { timestamps: Some(Timestamps { value, echo }), ..Options::default() };
    let clock = |host: &Host| host.now.as_millis() as u32 + 77;
    host.now = host.now + ms(20);
    let syn = TcpHeader { options: stamp(1, clock(&host) - 20), ..host.header(Flags::SYN | ACK, 0, 1) };
    let _ = host.give(syn, b"");
    host.drain();
    let mut acked = 1;
    for i in 0..10 {
        host.conn.write(host.now, &[7; 100]).unwrap();
        let original = clock(&host);
        assert_eq!(host.drain().len(), 1);
        for _ in 0..3 {
            host.time_passes();
        }
        host.now = host.now + ms(20);
        acked += 100;
        let header = TcpHeader { options: stamp(2 + i, original), ..host.header(ACK, 1, acked) };
        let _ = host.give(header, b"");
        assert!(host.conn.is_all_acked());
        let info = host.conn.info();
        assert!(info.rtt < ms(50) && info.rto / (1 << info.backoff) < ms(500), "{info:?}");
        assert!(info.backoff > 0, "Karn: kept until there is a measurement");
    }
    // An echo of the last copy is a measurement.
    host.conn.write(host.now, &[7; 100]).unwrap();
    host.drain();
    host.time_passes();
    let copy = clock(&host);
    host.now = host.now + ms(20);
    let header = TcpHeader { options: stamp(90, copy), ..host.header(ACK, 1, acked + 100) };
    let _ = host.give(header, b"");
    assert_eq!(host.conn.info().backoff, 0);
}

#[test]
fn a_soft_error_is_an_event_once() {
    let mut host = Host::in_state(&plain(), State::Established);
    host.conn.write(host.now, b"x").unwrap();
    host.drain();
    host.conn.take_events();
    let seq = host.header(ACK, 0, 1).ack;
    let icmp = IcmpError {
        kind: IcmpKind::HostUnreachable,
        tuple: *host.conn.tuple(),
        seq,
        from: host.conn.tuple().remote.ip(),
    };
    for expected in [true, false] {
        host.conn.on_icmp(host.now, &icmp).unwrap();
        assert_eq!(host.conn.take_events().contains(Events::ERROR), expected);
    }
    assert_eq!(host.conn.take_error(), Some(CloseReason::HostUnreachable));
    assert_eq!(host.conn.state(), State::Established);
}

#[test]
fn a_user_timeout_set_meanwhile_counts_from_the_last_progress() {
    let wait = |sets: &[(u64, Option<u64>)]| {
        let mut p = Pair::established(ConnConfig::default(), ConnConfig::default());
        p.pass = Box::new(|_, _, _| false);
        let start = p.now;
        p.write_all(A, b"x");
        p.flush();
        for &(at, timeout) in sets {
            p.wait(ms(at) - p.now.since(start));
            p.ends[A].set_user_timeout(timeout.map(secs));
        }
        p.run_until(|p| p.ends[A].state() == State::Closed);
        (p.now.since(start), p.ends[A].info().timeouts)
    };
    assert_eq!(wait(&[(3000, Some(5))]).0, secs(5));
    assert_eq!(wait(&[(100, Some(5))]).0, secs(5));
    assert_eq!(wait(&[(8000, Some(5))]).0, secs(8));
    // Taking it off again leaves no early timeout behind.
    let (time, timeouts) = wait(&[]);
    assert_eq!(wait(&[(3000, Some(4)), (3001, None)]), (time, timeouts));
}

#[test]
fn a_user_timeout_set_meanwhile_ends_the_probing_of_a_shut_window() {
    let mut host = Host::in_state(&plain(), State::Established);
    let _ = host.give(TcpHeader { window: WireWindow(0), ..host.header(ACK, 1, 1) }, b"");
    host.conn.write(host.now, b"x").unwrap();
    let start = host.now;
    host.drain();
    for _ in 0..5 {
        host.time_passes();
    }
    host.conn.set_user_timeout(Some(secs(10)));
    host.time_passes();
    assert_eq!((host.conn.state(), host.now.since(start)), (State::Closed, secs(10)));
}

#[test]
fn a_receive_buffer_of_nothing_still_lets_data_in() {
    let mut p =
        Pair::established(ConnConfig::default(), ConnConfig { recv_buffer: 0, window_scaling: false, ..plain() });
    p.write_all(A, b"hello");
    let mut got = Vec::new();
    p.run_until(|p| {
        got.extend(p.read_all(B));
        got.len() == 5
    });
    assert_eq!(got, b"hello");
}
