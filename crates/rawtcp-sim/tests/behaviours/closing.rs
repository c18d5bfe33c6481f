//! §4, closing (behaviours 36–40).

use crate::common::ms;
use crate::script::*;
use rawtcp_proto::wire::{Options, Timestamps};
use rawtcp_proto::{ConnConfig, Duration, State};
use rawtcp_sim::{Errno, LinkConfig, Network, Shutdown};

/// Shuts down or closes, and checks the FIN.
fn fin(s: &mut Script, drop: bool, acked: u32) {
    let conn = s.conn();
    if drop {
        s.host.close(s.now, conn);
    } else {
        s.host.shutdown(s.now, conn, Shutdown::Write).unwrap();
    }
    let fin = s.next();
    assert_eq!((fin.tcp.flags, fin.tcp.seq, fin.tcp.ack), (FIN_ACK, s.ack(0), s.seq(acked)));
}

#[test]
fn local_close_first() {
    for drop in [false, true] {
        let mut s = Script::accepted(&plain());
        fin(&mut s, drop, 0);
        assert_eq!(s.state(), State::FinWait1);
        s.acks(1);
        assert_eq!(s.state(), State::FinWait2);
        s.send(FIN_ACK, s.seq(0), s.ack(1), b"");
        s.expect_ack(1);
        s.none();
        assert_eq!((s.state(), s.host.counts().of(State::TimeWait)), (State::TimeWait, 1));
        s.quiet(Duration::from_secs(61));
        assert_eq!((s.state(), s.host.counts().of(State::TimeWait)), (State::Closed, 0));
    }
}

#[test]
fn remote_close_first() {
    for drop in [false, true] {
        let mut s = Script::accepted(&plain());
        s.send(FIN_ACK, s.seq(0), s.ack(0), b"");
        // The ACK rides on our FIN.
        s.none();
        assert_eq!((s.state(), s.read()), (State::CloseWait, Ok(vec![])));
        fin(&mut s, drop, 1);
        assert_eq!(s.state(), State::LastAck);
        s.send(ACK, s.seq(1), s.ack(1), b"");
        s.none();
        assert_eq!((s.state(), s.host.counts().open()), (State::Closed, 0));
    }
}

#[test]
fn a_fin_is_acknowledged_while_nobody_answers_it() {
    let mut s = Script::accepted(&plain());
    s.send(FIN_ACK, s.seq(0), s.ack(0), b"");
    let (after, answer) = s.next_within(Duration::from_secs(1));
    assert_eq!((after, answer.tcp.flags, answer.tcp.ack), (plain().delayed_ack, ACK, s.seq(1)));
    s.none();
    // Sent again, it is not made to wait again.
    s.send(FIN_ACK, s.seq(0), s.ack(0), b"");
    s.expect_ack(1);
}

#[test]
fn both_close_at_once() {
    for drop in [false, true] {
        let mut s = Script::accepted(&plain());
        fin(&mut s, drop, 0);
        s.send(FIN_ACK, s.seq(0), s.ack(0), b"");
        s.expect_ack(1);
        assert_eq!(s.state(), State::Closing);
        s.send(ACK, s.seq(1), s.ack(1), b"");
        s.none();
        assert_eq!(s.state(), State::TimeWait);
    }
}

#[test]
fn fin_wait_1_to_time_wait_by_a_fin_that_acknowledges_ours() {
    let mut s = Script::accepted(&plain());
    fin(&mut s, false, 0);
    s.send(FIN_ACK, s.seq(0), s.ack(1), b"");
    s.expect_ack(1);
    s.none();
    assert_eq!(s.state(), State::TimeWait);
}

#[test]
fn a_half_closed_connection_goes_on_the_other_way() {
    let (mut net, a, b) = Network::pair(1, LinkConfig::default().with_delay(ms(5)));
    let (x, y) = net.connected(a, b, &ConnConfig::default());
    net.write(x, b"request").unwrap();
    net.shutdown(x, Shutdown::Write).unwrap();
    assert_eq!(net.write(x, b"more"), Err(Errno::EPIPE));
    net.run_for(ms(20));
    let mut got = Vec::new();
    assert_eq!((net.read_all(y, &mut got), &got[..]), (Ok(true), &b"request"[..]));
    net.write(y, &vec![1; 100_000]).unwrap();
    net.shutdown(y, Shutdown::Write).unwrap();
    let (mut got, mut end) = (Vec::new(), false);
    assert!(net.run_until(|net| {
        end |= net.read_all(x, &mut got).unwrap();
        end
    }));
    assert_eq!(got.len(), 100_000);
}

#[test]
fn data_is_acknowledged_behind_a_shutdown_of_reading() {
    let mut s = Script::accepted(&plain());
    let conn = s.conn();
    s.host.shutdown(s.now, conn, Shutdown::Read).unwrap();
    s.none();
    assert_eq!(s.read(), Ok(vec![]));
    s.data(0, b"hello");
    s.expect_ack(5);
    assert_eq!(s.state(), State::Established);
}

#[test]
fn dropping_with_unread_data_resets() {
    let mut s = Script::accepted(&plain());
    s.data(0, b"hello");
    s.all();
    s.close();
    let rst = s.next();
    assert!(rst.tcp.flags.contains(RST) && rst.tcp.seq == s.ack(0), "{rst:?}");
    s.none();
    assert_eq!(s.host.counts().open(), 0);
}

#[test]
fn dropping_after_everything_was_read_ends_in_order() {
    let mut s = Script::accepted(&plain());
    s.data(0, b"hello");
    s.all();
    s.read().unwrap();
    fin(&mut s, true, 5);
    // A duplicate of what was read comes with the FIN: no reason to reset.
    s.send(FIN_ACK, s.seq(0), s.ack(1), b"hello");
    let answers = s.all();
    assert!(answers.iter().all(|p| p.tcp.flags == ACK && p.tcp.ack == s.seq(6)), "{answers:?}");
    assert_eq!(s.state(), State::TimeWait);
}

#[test]
fn data_for_an_orphan_resets() {
    let mut s = Script::accepted(&plain());
    fin(&mut s, true, 0);
    s.acks(1);
    s.send(ACK, s.seq(0), s.ack(1), b"late");
    assert!(s.next().tcp.flags.contains(RST));
    assert_eq!(s.host.counts().open(), 0);
}

#[test]
fn closing_during_the_handshake_leaves_nothing_behind() {
    let mut s = Script::syn_sent(&plain());
    s.close();
    s.all();
    assert_eq!(s.host.counts().open(), 0);
    // Simultaneous open, then close: the FIN goes out, nobody answers.
    let mut s = Script::syn_sent(&plain());
    s.send_with(SYN, ISS, rawtcp_proto::SeqNum(0), peer_options(), b"");
    s.all();
    s.close();
    s.all();
    while s.try_within(Duration::from_secs(600)).is_some() {}
    assert_eq!((s.host.counts().open(), s.host.next_deadline()), (0, None));
    // A half-open record.
    let mut s = Script::syn_received(&plain(), peer_options());
    assert_eq!(s.host.counts().of(State::SynReceived), 1);
    while s.try_within(Duration::from_secs(600)).is_some() {}
    assert_eq!((s.host.counts().open(), s.host.next_deadline()), (0, None));
}

#[test]
fn an_orphan_leaves_fin_wait_2_after_its_time() {
    let mut s = Script::accepted(&plain());
    fin(&mut s, true, 0);
    s.acks(1);
    s.quiet(Duration::from_secs(59));
    assert_eq!(s.host.counts().of(State::FinWait2), 1);
    s.quiet(Duration::from_secs(2));
    assert_eq!(s.host.counts().open(), 0);
}

/// TIME-WAIT: the host closed first.
fn time_wait(config: &ConnConfig, options: Options) -> Script {
    let mut s = Script::accepted_with(config, options);
    let ts = options.timestamps.filter(|_| config.timestamps);
    let options = Options { timestamps: ts, ..Options::default() };
    let conn = s.conn();
    s.host.shutdown(s.now, conn, Shutdown::Write).unwrap();
    assert!(s.next().tcp.flags.contains(FIN));
    s.send_with(FIN_ACK, s.seq(0), s.ack(1), options, b"");
    s.next();
    s.none();
    assert_eq!(s.state(), State::TimeWait);
    s
}

#[test]
fn time_wait_answers_and_stays() {
    let mut s = time_wait(&plain(), peer_options());
    for (flags, seq) in [(FIN_ACK, 0), (ACK, 0u32.wrapping_sub(10))] {
        s.now = s.now + Duration::from_secs(1);
        s.send(flags, s.seq(seq), s.ack(1), if flags == ACK { b"old" } else { b"" });
        s.expect_ack(1);
        assert_eq!(s.state(), State::TimeWait, "{flags:?}");
    }
    // The answer to a FIN of ours that came twice; a FIN without ACK; a reset (RFC 1337).
    for (flags, seq) in [(ACK, 1), (FIN, 1), (RST, 1), (RST_ACK, 1), (RST, 100)] {
        s.send(flags, s.seq(seq), s.ack(1), b"");
        s.none();
        assert_eq!(s.state(), State::TimeWait, "{flags:?}");
    }
}

#[test]
fn a_late_fin_restarts_time_wait() {
    let mut s = time_wait(&plain(), peer_options());
    s.quiet(Duration::from_secs(50));
    s.send(FIN_ACK, s.seq(0), s.ack(1), b"");
    s.expect_ack(1);
    s.quiet(Duration::from_secs(50));
    assert_eq!(s.state(), State::TimeWait);
    s.quiet(Duration::from_secs(11));
    assert_eq!(s.state(), State::Closed);
}

#[test]
fn time_wait_lasts_as_configured() {
    let mut s = time_wait(&ConnConfig { time_wait: Duration::from_secs(5), ..plain() }, peer_options());
    s.quiet(ms(4999));
    assert_eq!(s.host.counts().of(State::TimeWait), 1);
    s.quiet(ms(1));
    assert_eq!(s.host.counts().of(State::TimeWait), 0);
}

#[test]
fn a_syn_in_time_wait_is_challenged_unless_it_is_above() {
    for (offset, opens) in [(0u32.wrapping_sub(100), false), (1, false), (1000, true)] {
        let mut s = time_wait(&plain(), peer_options());
        s.now = s.now + Duration::from_secs(2);
        let seq = s.seq(offset);
        s.send_with(SYN, seq, rawtcp_proto::SeqNum(0), peer_options(), b"");
        let answer = s.next();
        if opens {
            assert_eq!((answer.tcp.flags, answer.tcp.ack), (SYN_ACK, seq.add(1)));
            assert!(answer.tcp.seq.after(s.ack(1)), "a number beyond the old connection's");
        } else {
            assert_eq!((answer.tcp.flags, answer.tcp.ack), (ACK, s.seq(1)), "{offset}");
            assert_eq!(s.state(), State::TimeWait);
        }
    }
}

#[test]
fn a_tuple_in_time_wait_is_taken_again_only_with_timestamps_and_rest() {
    let ts = Options { timestamps: Some(Timestamps { value: 5, echo: 0 }), ..peer_options() };
    for (config, options, reused) in
        [(plain(), peer_options(), false), (ConnConfig { timestamps: true, ..plain() }, ts, true)]
    {
        let mut s = time_wait(&config, options);
        s.host.close_listener(s.now, s.listener.unwrap());
        let again = |s: &mut Script| s.host.connect_from(s.now, s.local, s.peer, &config);
        assert_eq!(again(&mut s), Err(Errno::EADDRINUSE));
        s.now = s.now + Duration::from_secs(2);
        assert_eq!(again(&mut s).is_ok(), reused);
        if reused {
            let syn = s.next();
            assert!(syn.tcp.flags == SYN && syn.tcp.seq.after(s.ack(1)));
        }
    }
}

#[test]
fn abort_sends_one_reset_and_the_peer_learns_of_it() {
    let (mut net, a, b) = Network::pair(1, LinkConfig::default().with_delay(ms(5)));
    let (x, y) = net.connected(a, b, &ConnConfig::default());
    net.abort(x);
    net.run_for(ms(10));
    assert_eq!(net.read(y, &mut [0; 1]), Err(Errno::ECONNRESET));
    assert_eq!(net.read(y, &mut [0; 1]), Ok(0));
    assert_eq!(net.write(y, b"x"), Err(Errno::EPIPE));
    assert_eq!((net.host(a).counts().open(), net.host(b).counts().open()), (0, 0));
}
