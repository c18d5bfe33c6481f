//! TIME-WAIT: its rows, its length, its bound, and what may take its place.

use super::*;

#[test]
fn time_wait_rows() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Then {
        Ack,
        /// ... and 2 MSL begin again.
        Restart,
        Opens,
        Drop(DropReason),
        Nothing,
        Ends,
    }
    use Then::*;
    let below = 0u32.wrapping_sub(1);
    // rfc1337, timestamps, flags, SEQ - RCV.NXT, ACK - SND.NXT, data, TSval - TS.Recent, expected.
    let table = [
        // Old and duplicate ACKs and data.
        (true, false, A, below, 0, 0, None, Ack),
        (true, false, A, 0, 5, 0, None, Ack),
        (true, false, A, 0u32.wrapping_sub(100), 0, 50, None, Ack),
        (true, false, A, 0, 0, 50, None, Ack),
        (true, false, A, 0x8000_0000, 0, 0, None, Ack),
        (true, true, A, 0, 0, 0, Some(below), Ack),
        // An answer to our FIN that came twice.
        (true, false, A, 0, 0, 0, None, Nothing),
        (true, false, A, 0, below, 0, None, Nothing),
        (true, true, A, 0, 0, 0, Some(9), Nothing),
        (true, false, NONE, 0, 0, 0, None, Drop(DropReason::NoAck)),
        (true, false, F, below, 0, 0, None, Drop(DropReason::NoAck)),
        (true, false, F, 0, 0, 0, None, Drop(DropReason::NoAck)),
        // The FIN again, alone or behind its data.
        (true, false, FA, below, 0, 0, None, Restart),
        (true, false, FA, below, below, 0, None, Restart),
        (true, false, FA, 0u32.wrapping_sub(11), 0, 10, None, Restart),
        (true, true, FA, below, 0, 0, Some(0), Restart),
        (true, true, FA, below, 0, 0, Some(9), Restart),
        (true, true, FA, below, 0, 0, Some(below), Ack),
        // Not that FIN.
        (true, false, FA, 0, 0, 0, None, Ack),
        (true, false, FA, below, 1, 0, None, Ack),
        (true, false, FA, 0u32.wrapping_sub(2), 0, 0, None, Ack),
        // RST.
        (true, false, R, 0, 0, 0, None, Drop(DropReason::Closed)),
        (true, false, RA, 0, 0, 0, None, Drop(DropReason::Closed)),
        (true, false, R, below, 0, 0, None, Drop(DropReason::Closed)),
        (true, false, R | S, 5, 0, 0, None, Drop(DropReason::Closed)),
        (false, false, R, 0, 0, 0, None, Ends),
        (false, false, RA, 0, 0, 0, None, Ends),
        (false, false, RA, 5, 0, 0, None, Ack),
        (false, false, R, below, 0, 0, None, Drop(DropReason::OutOfWindow)),
        // SYN.
        (true, false, S, below, 0, 0, None, Ack),
        (true, false, S, 0, 0, 0, None, Ack),
        (true, false, S, 1, 0, 0, None, Opens),
        (true, false, S | F, 1, 0, 0, None, Opens),
        (true, false, S | F, below, 0, 0, None, Ack),
        (true, false, S, 0x7fff_ffff, 0, 0, None, Opens),
        (true, false, S, 0x8000_0001, 0, 0, None, Ack),
        (true, false, SA, 1, 0, 0, None, Ack),
        (true, false, S, below, 0, 0, Some(9), Ack),
        (true, true, S, below, 0, 0, Some(1), Opens),
        (true, true, S, below, 0, 0, Some(0), Ack),
        (true, true, S, 1, 0, 0, Some(0), Opens),
        (true, true, S, 1, 0, 0, Some(below), Ack),
        (true, true, S, 1, 0, 0, None, Opens),
    ];
    for (rcv, snd, recent) in [(7000, 9000, 100), (0, 0, 0), (u32::MAX, u32::MAX, u32::MAX), (1, 1, 1 << 31)] {
        for (rfc1337, stamps, flags, seq, ack, len, ts, then) in table {
            let mut host = Host::listening(StackConfig { rfc1337, ..StackConfig::default() });
            let start = host.now;
            host.stack.insert(tuple(9000), 1);
            let record = time_wait(start, rcv, snd, stamps.then_some(recent));
            host.stack.to_time_wait(start, tuple(9000), record);
            host.now = start + Duration::from_secs(10);
            let mut segment = header(flags, rcv.wrapping_add(seq), snd.wrapping_add(ack));
            if let Some(ts) = ts {
                segment = stamped(segment, recent.wrapping_add(ts));
            }
            let iss = record.next_iss(host.stack.isn(host.now, &tuple(9000)));
            let expected = match then {
                Ack | Restart => Sends(A, snd, rcv),
                Opens => Sends(SA, iss.0, rcv.wrapping_add(seq).wrapping_add(1)),
                Drop(reason) => Drops(reason),
                Nothing | Ends => Done,
            };
            let what = format!("{segment:?} ({seq}, {ack}), {len} bytes, {rfc1337} {stamps}; {record:?}");
            assert_eq!(host.send(&tuple(9000), segment, &vec![0; len]), expected, "{what}");
            let stays = !matches!(then, Opens | Ends);
            assert_eq!(host.counts(), (usize::from(then == Opens), 0, usize::from(stays)), "{what}");
            if matches!(then, Ack | Restart) {
                let echo = host.last.unwrap().header.options.timestamps.map(|ts| (ts.value, ts.echo));
                let newest = if then == Restart { ts.unwrap_or(0) } else { 0 };
                assert_eq!(echo, stamps.then_some((111_000, recent.wrapping_add(newest))), "{what}");
            }
            if stays {
                let end = if then == Restart { host.now } else { start } + LENGTH;
                assert_eq!(host.stack.poll_timeout(), Some(end), "{what}");
                host.now = end;
            }
            assert_eq!(host.timeouts().1, [tuple(9000)], "{what}");
        }
    }
}

#[test]
fn a_new_incarnation_starts_well_above_the_old_one() {
    let mut host = Host::listening(StackConfig::default());
    let t = tuple(9000);
    let isn = host.stack.isn(host.now, &t);
    // The clock's own number where it is higher, by less than half the space; the old one plus a gap otherwise.
    for (snd_nxt, expected) in [
        (isn.sub(1_000_000), isn),
        (isn.sub(65_538), isn),
        (isn.sub(65_537), isn),
        (isn.sub(10), isn.sub(10).add(65_537)),
        (isn, isn.add(65_537)),
        (isn.add(1 << 30), isn.add((1 << 30) + 65_537)),
        (isn.add(u32::MAX / 2), isn.add(u32::MAX / 2 + 65_537)),
    ] {
        host.stack.to_time_wait(host.now, t, time_wait(host.now, 500, snd_nxt.0, None));
        assert_eq!(host.send(&t, header(S, 600, 0), b""), Sends(SA, expected.0, 601));
        host.stack.insert(t, 0);
        host.stack.remove(&t);
    }
}

#[test]
fn no_new_incarnation_without_a_listener_with_room() {
    let mut host = Host::new(StackConfig::default());
    let t = tuple(9000);
    host.stack.to_time_wait(host.now, t, time_wait(host.now, 500, 800, None));
    // Refused as on a port where nobody is; an old SYN is still answered with an ACK.
    assert_eq!(host.send(&t, header(S, 600, 0), b""), Sends(RA, 0, 601));
    assert_eq!(host.send(&t, header(S, 400, 0), b""), Sends(A, 800, 500));
    host.listen(listen_config(ConnConfig::default()));
    host.room.store(false, Relaxed);
    assert_eq!(host.send(&t, header(S, 600, 0), b""), Drops(DropReason::AcceptQueueFull));
    assert_eq!(host.counts(), (0, 0, 1));
    host.room.store(true, Relaxed);
    assert!(matches!(host.send(&t, header(S, 600, 0), b""), Sends(SA, ..)));
}

#[test]
fn time_wait_is_bounded_and_the_oldest_goes() {
    let mut host = Host::new(StackConfig { max_time_wait: 3, ..StackConfig::default() });
    for port in 1..=5 {
        host.now = host.now + Duration::from_secs(1);
        host.stack.to_time_wait(host.now, tuple(port), time_wait(host.now, 1, 1, None));
    }
    assert_eq!((host.counts(), host.stack.counters().time_wait_evicted), ((0, 0, 3), 2));
    assert_eq!(host.timeouts().1, [tuple(1), tuple(2)]);
    host.now = host.now + LENGTH;
    assert_eq!(host.timeouts().1, [tuple(3), tuple(4), tuple(5)]);
    assert_eq!((host.counts(), host.stack.poll_timeout()), ((0, 0, 0), None));

    let mut host = Host::new(StackConfig { max_time_wait: 0, ..StackConfig::default() });
    host.stack.insert(tuple(1), 1);
    host.stack.to_time_wait(host.now, tuple(1), time_wait(host.now, 1, 1, None));
    assert_eq!((host.counts(), host.timeouts().1), ((0, 0, 0), vec![tuple(1)]));
}

#[test]
fn an_active_open_may_take_a_rested_tuple() {
    let second = Duration::from_secs(1);
    // Timestamps, seconds in TIME-WAIT, whether it may be taken.
    for (ts, rest, expected) in [(Some(5), 0, false), (Some(5), 1, true), (None, 1, false), (None, 59, false)] {
        let mut host = Host::new(StackConfig::default());
        let record = time_wait(host.now, 1, 900, ts);
        host.stack.to_time_wait(host.now, tuple(1), record);
        host.now = host.now + second * rest;
        let claim = host.stack.claim(host.now, tuple(1));
        assert_eq!(claim, if expected { Claim::TimeWaitReuse(record) } else { Claim::InUse }, "{ts:?} {rest}");
        assert_eq!(host.counts().2, usize::from(!expected));
        assert!(!expected || host.timeouts().1.is_empty(), "claimed, not freed");
    }
    let mut host = Host::listening(StackConfig::default());
    host.send(&tuple(1), header(S, 10, 0), b"");
    assert_eq!(host.stack.claim(host.now + second, tuple(1)), Claim::InUse);
}
