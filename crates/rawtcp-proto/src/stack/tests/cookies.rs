//! SYN cookies, segment by segment.

use super::*;

const LISTENER: &str = "10.0.0.1:80";

fn always() -> StackConfig {
    StackConfig { syn_cookies: SynCookies::Always, ..StackConfig::default() }
}

/// The same host at the same address, from anywhere.
fn spoofed(i: u32) -> FourTuple {
    FourTuple::new(LISTENER.parse().unwrap(), ((0x1400_0000 + i).to_be_bytes(), 1000).into())
}

impl Host {
    /// The connection that a segment makes.
    fn accepts(&mut self, tuple: &FourTuple, header: TcpHeader, payload: &[u8]) -> Connection {
        let seg = Segment { header, payload, owner: None, ecn: Ecn::NotEct, gro_size: 0 };
        match self.stack.on_segment(self.now, tuple, &seg) {
            Disposition::Accept { mut connection, .. } => {
                self.stack.insert(*tuple, 1);
                connection.on_segment(self.now, &seg).unwrap();
                *connection
            }
            other => panic!("{other:?}"),
        }
    }

    /// A SYN, and the ACK that the honest peer sends for the SYN-ACK.
    fn handshake(&mut self, tuple: &FourTuple, syn: TcpHeader) -> TcpHeader {
        let Sends(SA, iss, ack) = self.send(tuple, syn, b"") else { panic!("no SYN-ACK") };
        let mut answer = header(A, ack, iss.wrapping_add(1));
        answer.options.timestamps = self.last.and_then(|reply| reply.header.options.timestamps).map(|theirs| {
            let value = syn.options.timestamps.map_or(0, |ts| ts.value.wrapping_add(3));
            Timestamps { value, echo: theirs.value }
        });
        answer
    }
}

#[test]
fn a_flood_leaves_room_for_the_honest() {
    // However small the queue is, and wherever it is small.
    for (stack, listener) in [(4096, 2), (2, usize::MAX), (4096, usize::MAX), (0, 0)] {
        let mut host = Host::new(StackConfig { max_half_open: stack, ..StackConfig::default() });
        host.listen(ListenConfig { max_half_open: listener, ..listen_config(ConnConfig::default()) });
        for i in 0..4500 {
            assert!(matches!(host.send(&spoofed(i), full_syn(i, i), b""), Sends(SA, ..)));
            host.now = host.now + Duration::from_micros(100);
        }
        let bound = stack.min(listener);
        assert_eq!(host.counts(), (bound, 0, 0));
        for port in 1..=10 {
            let ack = host.handshake(&tuple(port), full_syn(77, 5));
            host.now = host.now + Duration::from_millis(300);
            let conn = host.accepts(&tuple(port), ack, b"GET /");
            assert_eq!(conn.readable_len(), 5);
        }
        let counters = host.stack.counters();
        assert_eq!((host.counts(), counters.cookies_accepted), ((bound, 10, 0), 10));
        assert_eq!(counters.cookies_sent, 4510 - bound as u64);
        assert_eq!(counters.drops, [0; DropReason::COUNT]);
    }
}

#[test]
fn when_full_is_only_when_full() {
    let mut host = Host::new(StackConfig::default());
    host.listen(ListenConfig { max_half_open: 1, ..listen_config(ConnConfig::default()) });
    let isn = |host: &Host, port| host.stack.isn(host.now, &tuple(port)).0;
    let first = host.handshake(&tuple(1), header(S, 10, 0));
    assert_eq!(first.ack.0, isn(&host, 1).wrapping_add(1));
    let second = host.handshake(&tuple(2), header(S, 10, 0));
    assert_ne!(second.ack.0, isn(&host, 2).wrapping_add(1));
    assert_eq!((host.counts(), host.stack.counters().cookies_sent), ((1, 0, 0), 1));
    host.accepts(&tuple(2), second, b"");
    host.accepts(&tuple(1), first, b"");
    let third = host.handshake(&tuple(3), header(S, 10, 0));
    assert_eq!((third.ack.0, host.counts().0), (isn(&host, 3).wrapping_add(1), 1));
}

#[test]
fn never_is_never() {
    let mut host = Host::new(StackConfig { syn_cookies: SynCookies::Never, ..StackConfig::default() });
    host.listen(ListenConfig { max_half_open: 1, ..listen_config(ConnConfig::default()) });
    assert!(matches!(host.send(&tuple(1), header(S, 10, 0), b""), Sends(SA, ..)));
    assert_eq!(host.send(&tuple(2), header(S, 10, 0), b""), Drops(DropReason::SynQueueFull));
}

/// All options, with the timestamps of each side across its wrap.
#[test]
fn timestamps_carry_the_options() {
    for scale in [None, Some(0), Some(7), Some(14), Some(15), Some(255)] {
        for sack in [false, true] {
            for mss in [Some(1460), Some(1452), Some(536), Some(100), None] {
                for theirs in [0, 5, u32::MAX - 1] {
                    let mut host = Host::listening(always());
                    // Where the clock plus the offset wraps between the SYN-ACK and the answer.
                    let offset = host.stack.ts_offset(&tuple(1));
                    host.now = Instant::from_millis(u64::from(0u32.wrapping_sub(offset)) - 100);
                    let mut syn = stamped(header(S, u32::MAX, 0), theirs);
                    syn.options = Options { mss, window_scale: scale, sack_permitted: sack, ..syn.options };
                    let ack = host.handshake(&tuple(1), syn);
                    let options = host.last.unwrap().header.options;
                    assert_eq!(options.timestamps.map(|ts| ts.echo), Some(theirs));
                    assert_eq!((options.mss, options.sack_permitted), (Some(1460), sack));
                    assert_eq!(options.window_scale, scale.map(|_| 7));
                    let sent = options.timestamps.unwrap().value;
                    let clock = (host.now.as_millis() as u32).wrapping_add(offset);
                    assert!(clock.wrapping_sub(sent) < 64, "{clock} {sent}");

                    host.now = host.now + Duration::from_millis(200);
                    let mut conn = host.accepts(&tuple(1), ack, b"text");
                    let info = conn.info();
                    assert_eq!((info.timestamps, info.sack), (true, sack));
                    assert_eq!(info.window_scale, scale.map(|shift| (shift.min(14), 7)));
                    assert_eq!(info.snd_wnd, 5000 << scale.map_or(0, |shift| shift.min(14)));
                    // Less 12 bytes of timestamps in each segment.
                    let carried = match mss {
                        Some(1460) => 1460,
                        Some(1452) => 1440,
                        Some(100) => 88,
                        _ => 536,
                    };
                    assert!([carried, carried - 12].contains(&info.snd_mss), "{} {mss:?}", info.snd_mss);
                    // Measured, up to 64 ms too long.
                    assert!((200..264).contains(&info.rtt.as_millis()), "{:?}", info.rtt);
                    // The timestamps go on from the SYN-ACK's.
                    conn.write(host.now, b"answer").unwrap();
                    let out = conn.poll_transmit(host.now, &crate::TxLimits::ONE_SEGMENT).unwrap();
                    let ts = out.header.options.timestamps.unwrap();
                    assert_eq!(ts.value, (host.now.as_millis() as u32).wrapping_add(offset));
                    assert!((200..264).contains(&ts.value.wrapping_sub(sent)));
                    assert_eq!(ts.echo, theirs.wrapping_add(3));
                    assert_eq!(out.header.ack.0, 4);
                }
            }
        }
    }
}

#[test]
fn without_timestamps_the_segment_size_is_all() {
    let wanted = full_syn(10, 5);
    let mut unstamped = wanted;
    unstamped.options.timestamps = None;
    let unwilling = ConnConfig { timestamps: false, ..ConnConfig::default() };
    for (conn, syn) in [(ConnConfig::default(), unstamped), (unwilling, wanted)] {
        let mut host = Host::new(always());
        host.listen(listen_config(conn));
        let mut ack = host.handshake(&tuple(1), syn);
        let options = host.last.unwrap().header.options;
        assert_eq!(options, Options { mss: Some(1460), ..Options::default() });
        // Timestamps that nobody agreed to mean nothing, even with an echo that could be ours.
        let clock = (host.now.as_millis() as u32).wrapping_add(host.stack.ts_offset(&tuple(1)));
        if syn.options.timestamps.is_some() {
            ack.options.timestamps = Some(Timestamps { value: 9, echo: clock });
        }
        let info = host.accepts(&tuple(1), ack, b"").info();
        assert_eq!((info.timestamps, info.sack, info.window_scale), (false, false, None));
        assert_eq!((info.snd_mss, info.snd_wnd), (1400, 5000));
        // Nothing was measured; the timeout is the careful one (RFC 6298 §5.7).
        assert_eq!((info.rtt, info.rto), (Duration::ZERO, Duration::from_secs(3)));
    }
}

#[test]
fn an_echo_that_is_not_ours_agrees_to_nothing() {
    for echo in [0u32, 1_000_000, 0u32.wrapping_sub(130_000)] {
        let mut host = Host::listening(always());
        let mut ack = host.handshake(&tuple(1), header(S, 10, 0));
        let clock = (host.now.as_millis() as u32).wrapping_add(host.stack.ts_offset(&tuple(1)));
        let echo = if echo == 0 { 0 } else { clock.wrapping_add(echo) };
        ack.options.timestamps = Some(Timestamps { value: 9, echo });
        let info = host.accepts(&tuple(1), ack, b"").info();
        assert_eq!((info.timestamps, info.sack, info.window_scale), (false, false, None));
    }
}

#[test]
fn cookies_grow_old() {
    // Milliseconds into a step, life in milliseconds, whether it is good.
    for (born, age, good) in [
        (0, 127_999, true),
        (0, 128_000, false),
        (63_999, 64_000, true),
        (63_999, 64_001, false),
        (1, 0, true),
        // The same number of the clock, one turn later.
        (0, 17_179_869, false),
    ] {
        for ts in [false, true] {
            let mut host = Host::listening(always());
            host.now = Instant::from_millis(64_000 * 1000 + born);
            let syn = if ts { full_syn(10, 5) } else { header(S, 10, 0) };
            let ack = host.handshake(&tuple(1), syn);
            host.now = host.now + Duration::from_millis(age);
            // Others keep the listener in the mood.
            host.send(&tuple(2), header(S, 10, 0), b"");
            let out = host.send(&tuple(1), ack, b"");
            let expected = if good { Accepts } else { Sends(R, ack.ack.0, 0) };
            assert_eq!(out, expected, "{born} {age}");
            assert_eq!(host.stack.counters().cookies_rejected, u64::from(!good));
        }
    }
}

#[test]
fn what_is_not_a_cookie_is_reset() {
    let mut host = Host::listening(always());
    let ack = host.handshake(&tuple(1), header(S, 10, 0));
    let wrong = [
        (tuple(2), ack, "another port"),
        (FourTuple::new("10.0.0.9:80".parse().unwrap(), tuple(1).remote), ack, "another address"),
        (tuple(1), TcpHeader { seq: ack.seq.add(1), ..ack }, "another IRS"),
        (tuple(1), TcpHeader { ack: ack.ack.add(8), ..ack }, "another tag"),
        (tuple(1), TcpHeader { ack: ack.ack.add(16_000_000), ..ack }, "another step"),
        (tuple(1), TcpHeader { flags: SA, ..ack }, "a SYN-ACK"),
    ];
    for (tuple, header, what) in wrong {
        assert_eq!(host.send(&tuple, header, b""), Sends(R, header.ack.0, 0), "{what}");
    }
    assert_eq!(host.stack.counters().cookies_rejected, 5);
    assert_eq!(host.send(&tuple(1), TcpHeader { flags: RA, ..ack }, b""), Drops(DropReason::NoConnection));
    assert_eq!(host.counts(), (0, 0, 0));
    assert_eq!(host.send(&tuple(1), ack, b""), Accepts);
    // Another stack does not know it.
    let mut other = Host::new(always());
    other.stack = Stack::new(always(), [43; 32]);
    other.listen(listen_config(ConnConfig::default()));
    other.send(&tuple(1), header(S, 10, 0), b"");
    assert_eq!(other.send(&tuple(1), ack, b""), Sends(R, ack.ack.0, 0));
}

/// A blind guess is right once in 2²⁸.
#[test]
fn forged_acks_are_rejected() {
    use rand_chacha::rand_core::{RngCore, SeedableRng};
    let mut chance = rand_chacha::ChaCha8Rng::seed_from_u64(4987);
    let unlimited = Rate { interval: Duration::ZERO, burst: 1 };
    let mut host = Host::listening(StackConfig { resets: unlimited, ..always() });
    let real = host.handshake(&tuple(1), header(S, 10, 0));
    for i in 0..200_000u32 {
        let (tuple, seq, ack) = match i % 4 {
            0 => (tuple(1), 11, chance.next_u32()),
            // Near the real one: only its seven neighbours, which mean another segment size, are good.
            1 => (tuple(1), 11, real.ack.0.wrapping_add(8 + i)),
            2 => (tuple(1), chance.next_u32(), real.ack.0),
            _ => (spoofed(i), chance.next_u32(), chance.next_u32()),
        };
        assert_eq!(host.send(&tuple, header(A, seq, ack), b""), Sends(R, ack, 0));
    }
    assert_eq!(host.stack.counters().cookies_rejected, 200_000);
    assert_eq!(host.counts(), (0, 0, 0));
}

#[test]
fn nobody_looks_for_cookies_that_were_never_sent() {
    let mut host = Host::listening(StackConfig::default());
    let mut twin = Host::listening(always());
    let ack = twin.handshake(&tuple(1), header(S, 10, 0));
    // It would be good: the twin has the same seed.
    assert_eq!(host.send(&tuple(1), ack, b""), Sends(R, ack.ack.0, 0));
    assert_eq!(host.stack.counters().cookies_rejected, 0);
}

#[test]
fn cookies_and_the_accept_queue() {
    let mut host = Host::listening(always());
    let ack = host.handshake(&tuple(1), header(S, 10, 0));
    host.room.store(false, Relaxed);
    assert_eq!(host.send(&tuple(2), header(S, 10, 0), b""), Drops(DropReason::AcceptQueueFull));
    assert_eq!(host.send(&tuple(1), ack, b""), Drops(DropReason::AcceptQueueFull));
    host.room.store(true, Relaxed);
    assert_eq!(host.send(&tuple(1), ack, b"sent again"), Accepts);
}

#[test]
fn cookies_on_a_shared_port() {
    let mut host = Host::new(always());
    host.listen(ListenConfig { shared: true, ..listen_config(ConnConfig::default()) });
    let ack = host.handshake(&tuple(1), header(S, 10, 0));
    assert_eq!(host.send(&tuple(2), ack, b""), Unclaimed);
    assert_eq!(host.send(&tuple(1), ack, b""), Accepts);
}

#[test]
fn a_cookie_outlives_no_listener() {
    let mut host = Host::listening(always());
    let ack = host.handshake(&tuple(1), header(S, 10, 0));
    host.stack.unlisten(LISTENING.parse().unwrap());
    assert_eq!(host.send(&tuple(1), ack, b""), Unclaimed);
}

#[test]
fn the_answer_to_a_cookie_finds_a_record_of_the_repeated_syn() {
    let mut host = Host::new(StackConfig::default());
    host.listen(ListenConfig { max_half_open: 1, ..listen_config(ConnConfig::default()) });
    host.send(&tuple(9), header(S, 1, 0), b"");
    let cookie = host.handshake(&tuple(1), full_syn(10, 5));
    // Now there is room, and the SYN comes again.
    host.send(&tuple(9), header(R, 2, 0), b"");
    let record = host.handshake(&tuple(1), full_syn(10, 5));
    assert_eq!((host.counts().0, cookie.ack == record.ack), (1, false));
    // Whichever SYN-ACK the peer got first is the one that counts to it.
    host.accepts(&tuple(1), cookie, b"");
    assert_eq!((host.counts(), host.stack.poll_timeout()), ((0, 1, 0), None));
}

#[test]
fn time_wait_gives_way_to_records_only() {
    for (max_half_open, expected) in [(4096, true), (0, false)] {
        let mut host = Host::listening(StackConfig { max_half_open, ..always() });
        host.stack.to_time_wait(host.now, tuple(1), time_wait(host.now, 500, 800, None));
        let out = host.send(&tuple(1), header(S, 600, 0), b"");
        assert_eq!(matches!(out, Sends(SA, ..)), expected, "{out:?}");
        assert_eq!(host.counts(), (usize::from(expected), 0, usize::from(!expected)));
        assert_eq!(host.stack.counters().cookies_sent, 0);
    }
}

#[test]
fn cookies_for_ipv6_and_each_scope() {
    let mut host = Host::new(always());
    host.stack.listen("[::]:80".parse().unwrap(), Queue(host.room.clone()), listen_config(ConnConfig::default()));
    let scoped = |scope| {
        let end = |addr: &str| format!("[{addr}%{scope}]:80").parse().unwrap();
        FourTuple::new(end("fe80::1"), end("fe80::2"))
    };
    let mut replies = Vec::new();
    for scope in [1, 2] {
        let Sends(SA, iss, _) = host.send_any(&scoped(scope), full_syn(10, 5)) else { panic!() };
        replies.push(iss);
        assert_eq!(
            host.send_any(&scoped(3 - scope), header(A, 11, iss.wrapping_add(1))),
            Sends(R, iss.wrapping_add(1), 0)
        );
        assert_eq!(host.send_any(&scoped(scope), header(A, 11, iss.wrapping_add(1))), Accepts);
    }
    assert_ne!(replies[0], replies[1]);
}

impl Host {
    fn send_any(&mut self, tuple: &FourTuple, header: TcpHeader) -> Out {
        self.send(tuple, header, b"")
    }
}

#[test]
fn the_mtu_of_a_peer() {
    // Cookies or not, the MTU of the listener or of the peer, what is announced and what the connection has.
    for config in [StackConfig::default(), always()] {
        for (mtu, mss) in [(None, 1460), (Some(1400), 1360), (Some(9000), 8960), (Some(0), 88)] {
            let mut host = Host::listening(config.clone());
            let mut asked = Vec::new();
            let mut give = |host: &mut Host, header| {
                let seg = Segment { header, payload: b"", owner: None, ecn: Ecn::NotEct, gro_size: 0 };
                match mtu {
                    None => host.stack.on_segment(host.now, &tuple(1), &seg),
                    Some(mtu) => host.stack.on_segment_with_mtu(host.now, &tuple(1), &seg, |tuple| {
                        asked.push(*tuple);
                        mtu
                    }),
                }
            };
            let Disposition::Reply(reply) = give(&mut host, full_syn(10, 5)) else { panic!() };
            assert_eq!(reply.header.options.mss, Some(mss));
            // Neither what is not for it nor a SYN that came before needs to know.
            give(&mut host, header(NONE, 10, 0));
            let mut ack = header(A, 11, reply.header.seq.0.wrapping_add(1));
            ack.options.timestamps =
                Some(Timestamps { value: 5, echo: reply.header.options.timestamps.unwrap().value });
            let Disposition::Accept { connection, .. } = give(&mut host, ack) else { panic!() };
            assert_eq!(connection.info().pmtu, mtu.unwrap_or(1500));
            let times = if config.syn_cookies == SynCookies::Always { 2 } else { 1 };
            assert_eq!(asked, vec![tuple(1); if mtu.is_some() { times } else { 0 }]);
        }
    }
}

#[test]
fn a_repeated_syn_is_answered_with_what_was_announced_first() {
    let mut host = Host::listening(StackConfig::default());
    let mut mtu = 1400;
    for _ in 0..2 {
        let seg = Segment { header: full_syn(10, 5), payload: b"", owner: None, ecn: Ecn::NotEct, gro_size: 0 };
        let out = host.stack.on_segment_with_mtu(host.now, &tuple(1), &seg, |_| mtu);
        let Disposition::Reply(reply) = out else { panic!() };
        assert_eq!(reply.header.options.mss, Some(1360));
        mtu = 9000;
    }
    host.now = host.now + Duration::from_secs(1);
    assert_eq!(host.timeouts().0[0].header.options.mss, Some(1360));
}
