//! SYN-RECEIVED from LISTEN: its rows, its timer, its bounds.

use super::*;

#[test]
fn syn_received() {
    const W: u32 = 65_535;
    // RFC 9293 §3.10.7.4: flags, SEQ - IRS, ACK - ISS, data; expected with the same bases, and whether
    // the record stays.
    let sa = Some((SA, 0, 1));
    let ack = Some((A, 1, 1));
    let table = [
        // The SYN again, with or without what may ride on it.
        (S, 0, 0, 0, sa, Done, true),
        (S, 0, 0, 5, sa, Done, true),
        (S | F, 0, 0, 0, sa, Done, true),
        // First: outside the window.
        (A, 0, 1, 0, ack, Done, true),
        (A, 1u32.wrapping_add(W), 1, 0, ack, Done, true),
        (A, 0u32.wrapping_sub(9), 1, 10, ack, Done, true),
        (FA, 0, 1, 0, ack, Done, true),
        (NONE, 0, 1, 0, ack, Done, true),
        (R, 0, 0, 0, None, Drops(DropReason::OutOfWindow), true),
        (RA, 1u32.wrapping_add(W), 1, 0, None, Drops(DropReason::OutOfWindow), true),
        // Second: RST.
        (R, 1, 0, 0, None, Done, false),
        (RA, 1, 1, 0, None, Done, false),
        (RA, 1, 77_777, 0, None, Done, false),
        (R | S, 1, 0, 0, None, Done, false),
        (R, 2, 0, 0, ack, Done, true),
        (RA, W, 1, 0, ack, Done, true),
        (RA, 2, 77_777, 0, ack, Done, true),
        // Fourth: another SYN.
        (S, 1, 0, 0, ack, Done, true),
        (S, 77, 0, 0, ack, Done, true),
        (S, 0x9000_0000, 0, 0, ack, Done, true),
        (SA, 0, 1, 0, ack, Done, true),
        (SA, 1, 1, 0, ack, Done, true),
        // Fifth: ACK.
        (NONE, 1, 0, 0, None, Drops(DropReason::NoAck), true),
        (F, 1, 1, 0, None, Drops(DropReason::NoAck), true),
        (A, 1, 0, 0, Some((R, 0, 0)), Done, true),
        (A, 1, 2, 0, Some((R, 2, 0)), Done, true),
        (A, 1, 0x8000_0000, 0, Some((R, 0x8000_0000, 0)), Done, true),
        (FA, 1, 2, 7, Some((R, 2, 0)), Done, true),
        (A, 1, 1, 0, None, Accepts, false),
        (A, 1, 1, 100, None, Accepts, false),
        (FA, 1, 1, 0, None, Accepts, false),
        (A, 2, 1, 100, None, Accepts, false),
        (A, 0, 1, 2, None, Accepts, false),
        (A, W, 1, 100, None, Accepts, false),
    ];
    for irs in [1000, u32::MAX - 1, u32::MAX] {
        for iss in [5_000_000, u32::MAX, 0x7fff_ffff] {
            for (flags, seq, ack, len, reply, out, stays) in table {
                let mut host = Host::listening(StackConfig::default());
                host.until_isn(&tuple(9000), iss);
                assert_eq!(host.send(&tuple(9000), header(S, irs, 0), b""), Sends(SA, iss, irs.wrapping_add(1)));
                let expected = match reply {
                    Some((f @ Flags::RST, s, _)) => Sends(f, iss.wrapping_add(s), 0),
                    Some((f, s, a)) => Sends(f, iss.wrapping_add(s), irs.wrapping_add(a)),
                    None => out,
                };
                let segment = header(flags, irs.wrapping_add(seq), iss.wrapping_add(ack));
                let got = host.send(&tuple(9000), segment, &vec![0; len]);
                assert_eq!(got, expected, "{segment:?} ({seq}, {ack}), {len} bytes; irs {irs} iss {iss}");
                assert_eq!(host.counts(), (usize::from(stays), 0, 0), "{segment:?}");
            }
        }
    }
}

#[test]
fn a_half_open_connection_knows_old_timestamps() {
    let mut host = Host::listening(StackConfig::default());
    let t = tuple(9000);
    let Sends(SA, iss, _) = host.send(&t, full_syn(10, u32::MAX), b"") else { panic!() };
    let ack = header(A, 11, iss.wrapping_add(1));
    // Older than TS.Recent, across the wrap of the timestamp.
    assert_eq!(host.send(&t, stamped(ack, u32::MAX - 1), b""), Sends(A, iss.wrapping_add(1), 11));
    assert_eq!(host.last.unwrap().header.options.timestamps.map(|ts| ts.echo), Some(u32::MAX));
    // 65,535 bytes at our shift of 7.
    assert_eq!(host.last.unwrap().header.window, WireWindow(65_535 >> 7));
    assert_eq!(host.send(&t, full_syn(10, u32::MAX - 1), b""), Sends(A, iss.wrapping_add(1), 11));
    // The SYN again, later: what it says now is echoed.
    assert_eq!(host.send(&t, full_syn(10, 3), b""), Sends(SA, iss, 11));
    assert_eq!(host.last.unwrap().header.options.timestamps.map(|ts| ts.echo), Some(3));
    // A RST is exempt; and so is what has no timestamp.
    assert!(matches!(host.send(&t, stamped(header(R, 12, 0), 1), b""), Sends(A, ..)));
    assert_eq!(host.send(&t, ack, b""), Accepts);
}

#[test]
fn a_peer_that_starts_anew_gets_through() {
    let mut host = Host::listening(StackConfig::default());
    let t = tuple(9000);
    let Sends(SA, iss, 101) = host.send(&t, header(S, 100, 0), b"") else { panic!() };
    // Its new SYN is challenged; in SYN-SENT, the challenge is answered with a RST at SEG.ACK.
    assert_eq!(host.send(&t, header(S, 999_999, 0), b""), Sends(A, iss.wrapping_add(1), 101));
    assert_eq!(host.send(&t, header(R, 101, 0), b""), Done);
    assert!(matches!(host.send(&t, header(S, 999_999, 0), b""), Sends(SA, _, 1_000_000)));
}

#[test]
fn syn_ack_retransmission() {
    let mut host = Host::listening(StackConfig::default());
    let start = host.now;
    let Sends(SA, iss, ack) = host.send(&tuple(9000), full_syn(10, 5), b"") else { panic!() };
    // RFC 6298: after 1, 2, 4, 8, 16 s; then another 32 s of patience.
    for (n, at) in [1, 3, 7, 15, 31].into_iter().enumerate() {
        let due = start + Duration::from_secs(at);
        assert_eq!(host.stack.poll_timeout(), Some(due));
        host.now = due - Duration::from_nanos(1);
        let (mut sent, mut freed) = (0, 0);
        host.stack.on_timeout(host.now, &mut |_| sent += 1, &mut |_| freed += 1);
        assert_eq!((sent, freed), (0, 0));
        host.now = due;
        let (replies, freed) = host.timeouts();
        let header = replies[0].header;
        assert_eq!((replies.len(), freed.len()), (1, 0));
        assert_eq!((header.flags, header.seq.0, header.ack.0), (SA, iss, ack));
        // The timestamp is of now.
        let value = (due.as_millis() as u32).wrapping_add(host.stack.ts_offset(&tuple(9000)));
        assert_eq!(header.options.timestamps, Some(Timestamps { value, echo: 5 }));
        let half = host.half(&tuple(9000));
        assert_eq!((usize::from(half.retransmits), half.synack_sent_at), (n + 1, due));
    }
    assert_eq!(host.stack.poll_timeout(), Some(start + Duration::from_secs(63)));
    host.now = start + Duration::from_secs(63);
    assert_eq!(host.timeouts().0.len(), 0);
    assert_eq!((host.counts(), host.stack.poll_timeout()), ((0, 0, 0), None));
    assert_eq!(host.stack.counters().half_open_expired, 1);
}

#[test]
fn retransmission_settings() {
    let conn = ConnConfig {
        synack_retries: 3,
        rto_initial: Duration::from_secs(3),
        rto_max: Duration::from_secs(5),
        ..ConnConfig::default()
    };
    let none = ConnConfig { synack_retries: 0, ..conn.clone() };
    let zero = ConnConfig { rto_initial: Duration::ZERO, ..conn.clone() };
    for (conn, times) in [(conn, vec![3000, 8000, 13_000, 18_000]), (none, vec![3000]), (zero, vec![1, 2, 3, 4])] {
        let mut host = Host::new(StackConfig::default());
        host.listen(listen_config(conn));
        let start = host.now;
        host.send(&tuple(9000), header(S, 10, 0), b"");
        for at in times {
            let due = start + Duration::from_millis(at);
            assert_eq!(host.stack.poll_timeout(), Some(due));
            host.now = due;
            host.timeouts();
        }
        assert_eq!(host.counts(), (0, 0, 0));
    }
}

#[test]
fn repeated_syns_are_answered_at_a_limited_rate_and_keep_nothing_alive() {
    let mut host = Host::listening(StackConfig::default());
    let start = host.now;
    let mut answers = 0;
    while host.counts().0 > 0 || host.now == start {
        answers += usize::from(matches!(host.send(&tuple(1), full_syn(10, 5), b""), Sends(SA, ..)));
        assert!(host.stack.poll_timeout() > Some(host.now), "nothing is overdue");
        host.now = host.now + Duration::from_millis(10);
        host.timeouts();
    }
    // As without them: after 63 s. Two a second, and some at once.
    assert_eq!(host.now, start + Duration::from_secs(63));
    assert!((120..=135).contains(&answers), "{answers}");
    assert_eq!(host.stack.poll_timeout(), None);
}

#[test]
fn a_repeated_syn_does_not_move_the_timer() {
    let mut host = Host::listening(StackConfig::default());
    host.send(&tuple(1), header(S, 10, 0), b"");
    let due = host.stack.poll_timeout();
    host.now = host.now + Duration::from_millis(700);
    // With data, with a FIN, across the wrap or not: the same number is the same SYN.
    for (flags, data) in [(S, "x"), (S | F, ""), (S | F, "text")] {
        assert!(matches!(host.send(&tuple(1), header(flags, 10, 0), data.as_bytes()), Sends(SA, ..)));
        assert_eq!(host.stack.poll_timeout(), due);
    }
    assert_eq!(host.half(&tuple(1)).retransmits, 3);
}

#[test]
fn however_many_retries_are_configured_a_record_ends() {
    let conn = ConnConfig { synack_retries: u32::MAX, rto_max: Duration::from_secs(1), ..ConnConfig::default() };
    let mut host = Host::new(StackConfig::default());
    host.listen(listen_config(conn));
    host.send(&tuple(1), header(S, 10, 0), b"");
    for _ in 0..256 {
        host.now = host.now + Duration::from_secs(1);
        host.timeouts();
    }
    assert_eq!((host.counts(), host.stack.counters().syn_acks), ((0, 0, 0), 256));
}

#[test]
fn full_accept_queue() {
    let mut host = Host::listening(StackConfig::default());
    let Sends(SA, iss, _) = host.send(&tuple(1), header(S, 10, 0), b"") else { panic!() };
    host.room.store(false, Relaxed);
    let ack = header(A, 11, iss.wrapping_add(1));
    assert_eq!(host.send(&tuple(1), ack, b""), Drops(DropReason::AcceptQueueFull));
    assert_eq!(host.send(&tuple(2), header(S, 10, 0), b""), Drops(DropReason::AcceptQueueFull));
    assert_eq!(host.counts(), (1, 0, 0));
    // Our SYN-ACK makes the peer say it again.
    host.now = host.now + Duration::from_secs(1);
    assert_eq!(host.timeouts().0.len(), 1);
    host.room.store(true, Relaxed);
    assert_eq!(host.send(&tuple(1), ack, b""), Accepts);
    assert!(matches!(host.send(&tuple(2), header(S, 10, 0), b""), Sends(SA, ..)));
    assert_eq!(host.stack.counters().drops[DropReason::AcceptQueueFull as usize], 2);
}

#[test]
fn syn_flood() {
    let no_cookies = StackConfig { syn_cookies: SynCookies::Never, ..StackConfig::default() };
    let mut host = Host::listening(StackConfig { max_half_open: 4096, ..no_cookies });
    let spoofed = |i: u32| FourTuple::new("10.0.0.1:80".parse().unwrap(), (i.to_be_bytes(), 1000).into());
    for i in 0..4000 {
        assert!(matches!(host.send(&spoofed(0x1400_0000 + i), header(S, i, 0), b""), Sends(SA, ..)));
    }
    for port in 1..=10 {
        let Sends(SA, iss, _) = host.send(&tuple(port), header(S, 10, 0), b"") else { panic!("{port}") };
        assert_eq!(host.send(&tuple(port), header(A, 11, iss.wrapping_add(1)), b""), Accepts);
    }
    let mut refused = 0;
    for i in 4000..20_000 {
        refused +=
            usize::from(host.send(&spoofed(0x1400_0000 + i), header(S, i, 0), b"") == Drops(DropReason::SynQueueFull));
    }
    assert_eq!((host.counts().0, refused), (4096, 20_000 - 4096));
    // All expire together, a bounded number a call.
    host.now = host.now + Duration::from_secs(1);
    let mut sent = 0;
    host.stack.on_timeout(host.now, &mut |_| sent += 1, &mut |_| ());
    assert_eq!(sent, TIMERS_PER_CALL);
    for _ in 0..8 {
        host.now = host.now + Duration::from_secs(30);
        host.timeouts();
    }
    assert_eq!(host.counts(), (0, 0, 0));
}

#[test]
fn each_listener_has_its_share() {
    let mut host = Host::new(StackConfig { syn_cookies: SynCookies::Never, ..StackConfig::default() });
    host.listen(ListenConfig { max_half_open: 2, ..listen_config(ConnConfig::default()) });
    let Sends(SA, iss, _) = host.send(&tuple(1), header(S, 10, 0), b"") else { panic!() };
    assert!(matches!(host.send(&tuple(2), header(S, 10, 0), b""), Sends(SA, ..)));
    assert_eq!(host.send(&tuple(3), header(S, 10, 0), b""), Drops(DropReason::SynQueueFull));
    assert_eq!(host.send(&tuple(1), header(A, 11, iss.wrapping_add(1)), b""), Accepts);
    assert_eq!(host.send(&tuple(2), header(R, 11, 0), b""), Done);
    assert!(matches!(host.send(&tuple(3), header(S, 10, 0), b""), Sends(SA, ..)));
    assert!(matches!(host.send(&tuple(4), header(S, 10, 0), b""), Sends(SA, ..)));
    assert_eq!(host.send(&tuple(5), header(S, 10, 0), b""), Drops(DropReason::SynQueueFull));
}

#[test]
fn after_unlisten_half_open_connections_are_gone() {
    let mut host = Host::listening(StackConfig::default());
    let other = FourTuple::new("10.0.0.1:81".parse().unwrap(), "10.0.0.2:1".parse().unwrap());
    host.stack.listen(other.local, Queue(host.room.clone()), listen_config(ConnConfig::default()));
    let Sends(SA, iss, _) = host.send(&tuple(1), header(S, 10, 0), b"") else { panic!() };
    host.send(&other, header(S, 10, 0), b"");
    host.stack.insert(tuple(2), 7);
    let resets = host.stack.unlisten(LISTENING.parse().unwrap());
    let reset = resets.iter().map(|r| (r.tuple, r.header.flags, r.header.seq.0, r.header.ack.0)).collect::<Vec<_>>();
    assert_eq!(reset, [(tuple(1), RA, iss.wrapping_add(1), 11)]);
    assert_eq!(host.counts(), (1, 1, 0), "other listeners and connections stay");
    let ack = header(A, 11, iss.wrapping_add(1));
    assert_eq!(host.send(&tuple(1), ack, b""), Unclaimed);
    assert_eq!(host.reset(&tuple(1), ack, b""), Sends(R, iss.wrapping_add(1), 0));
    assert_eq!(host.send(&tuple(2), ack, b""), Conn(7));
    host.stack.unlisten(LISTENING.parse().unwrap());
    // The same address again is a new listener.
    host.listen(listen_config(ConnConfig::default()));
    assert!(matches!(host.send(&tuple(1), header(S, 10, 0), b""), Sends(SA, ..)));
}
