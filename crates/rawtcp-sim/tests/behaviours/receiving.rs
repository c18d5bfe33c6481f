//! §2, data, reassembly, acknowledgement (behaviours 18–24).

use crate::common::ms;
use crate::script::*;
use rawtcp_proto::wire::{Flags, Options, Timestamps};
use rawtcp_proto::{ConnConfig, DropReason, Duration, SeqNum, State};
use rawtcp_sim::Errno;

/// All orders of 0..n.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for order in orders(n - 1) {
        for at in 0..n {
            let mut next = order.clone();
            next.insert(at, n - 1);
            all.push(next);
        }
    }
    all
}

fn blocks(s: &Script, options: &Options) -> Vec<(u32, u32)> {
    let at = |n: SeqNum| n.0.wrapping_sub(s.seq(0).0);
    options.sack.iter().map(|(from, to)| (at(from), at(to))).collect()
}

type Pieces = &'static [(u32, u32)];

/// Segments of 1, 2, 4, 8 and 16 bytes: where each starts and ends.
const PIECES: [(u32, u32); 5] = [(0, 1), (1, 3), (3, 7), (7, 15), (15, 31)];

#[test]
fn any_order_of_arrival_is_delivered_once_and_in_order() {
    let data = text(31);
    for order in orders(5) {
        let mut s = Script::accepted(&plain());
        let mut have = [false; 31];
        for &piece in &order {
            let (from, to) = PIECES[piece];
            let before = have.iter().take_while(|h| **h).count();
            s.data(from, &data[from as usize..to as usize]);
            have[from as usize..to as usize].fill(true);
            let through = have.iter().take_while(|h| **h).count();
            // Out of order, or a hole filled: at once. Otherwise the quick acknowledgements of the start.
            let answer = s.expect_ack(through as u32);
            let beyond = have[through..].iter().any(|h| *h);
            let sack = blocks(&s, &answer.tcp.options);
            assert_eq!(!sack.is_empty(), beyond, "{order:?}");
            if before == through {
                // RFC 2018 §4: the first block holds what has just arrived.
                let (a, b) = sack[0];
                assert!(a <= from && to <= b, "{order:?}: {sack:?}");
            }
            for (a, b) in sack {
                assert!(a >= through as u32 && have[a as usize..b as usize].iter().all(|h| *h));
            }
        }
        assert_eq!(s.read(), Ok(data.clone()), "{order:?}");
        assert_eq!(s.read(), Err(Errno::EAGAIN));
    }
}

#[test]
fn at_most_four_blocks_or_three_with_timestamps() {
    for (with, most) in [(false, 4), (true, 3)] {
        let config = ConnConfig { timestamps: with, ..plain() };
        let ts = |value| with.then_some(Timestamps { value, echo: 0 });
        let mut s = Script::accepted_with(&config, Options { timestamps: ts(1), ..peer_options() });
        let mut last = Vec::new();
        for n in 1..=6u32 {
            let options = Options { timestamps: ts(1), ..Options::default() };
            s.send_with(ACK, s.seq(n * 10), s.ack(0), options, b"x");
            let answers = s.all();
            last = blocks(&s, &answers.last().unwrap().tcp.options);
        }
        let newest: Vec<_> = (1..=6u32).rev().take(most).map(|n| (n * 10, n * 10 + 1)).collect();
        assert_eq!(last, newest);
    }
}

#[test]
fn overlaps_of_every_kind_are_trimmed() {
    // Behind a hole at 0..10: first segments, then what overlaps them, then the hole is filled.
    let table: &[(&str, Pieces, Pieces)] = &[
        ("same", &[(10, 20)], &[(10, 20)]),
        ("left", &[(10, 20)], &[(5, 15)]),
        ("right", &[(10, 20)], &[(15, 25)]),
        ("covering", &[(10, 20)], &[(8, 22)]),
        ("contained", &[(10, 20)], &[(12, 18)]),
        ("several holes", &[(10, 12), (14, 16), (18, 20)], &[(9, 21)]),
        ("hole from both sides", &[(10, 12), (18, 20)], &[(11, 19)]),
        ("from before what is acknowledged", &[(10, 20)], &[(0, 12)]),
    ];
    let data = text(40);
    for (name, first, then) in table {
        let mut s = Script::accepted(&plain());
        for &(from, to) in first.iter().chain(*then).chain(&[(0, 10), (0, 30), (30, 40)]) {
            s.data(from, &data[from as usize..to as usize]);
        }
        s.all();
        assert_eq!(s.read(), Ok(data.clone()), "{name}");
        s.send(ACK, s.seq(40), s.ack(0), b"");
        assert_eq!(s.host.info(s.conn()).unwrap().bytes_received, 40, "{name}");
    }
}

#[test]
fn a_duplicate_is_answered_with_a_dsack_block() {
    let mut s = Script::accepted(&plain());
    s.data(0, &text(20));
    s.all();
    s.data(0, &text(10));
    let answer = s.expect_ack(20);
    assert_eq!(blocks(&s, &answer.tcp.options), [(0, 10)]);
    // Above a hole: the duplicate first, then the block that it is part of (RFC 2883 §4.1.2).
    s.data(30, &text(10));
    s.expect_ack(20);
    s.data(32, &text(4));
    let answer = s.expect_ack(20);
    assert_eq!(blocks(&s, &answer.tcp.options), [(32, 36), (30, 40)]);
}

#[test]
fn filling_a_hole_acknowledges_everything_and_drops_its_blocks() {
    let mut s = Script::accepted(&plain());
    s.data(10, &text(10));
    s.expect_ack(0);
    s.data(30, &text(10));
    s.expect_ack(0);
    s.data(0, &text(10));
    let answer = s.expect_ack(20);
    assert_eq!(blocks(&s, &answer.tcp.options), [(30, 40)]);
    s.data(20, &text(10));
    let answer = s.expect_ack(40);
    assert!(answer.tcp.options.sack.is_empty());
}

#[test]
fn acks_are_delayed_until_the_second_full_segment_or_the_timer() {
    let mut s = Script::accepted(&ConnConfig { quick_acks: 0, ..plain() });
    s.data(0, &text(1000));
    s.none();
    s.data(1000, &text(1000));
    s.expect_ack(2000);
    s.data(2000, &text(1000));
    let (after, ack) = s.next_within(ms(500));
    assert_eq!((after, ack.tcp.ack), (ms(40), s.seq(3000)));
    // A hole: at once.
    s.data(4000, &text(1000));
    s.expect_ack(3000);
    s.data(3000, &text(1000));
    s.expect_ack(5000);
}

#[test]
fn the_delay_and_the_quick_acks_are_knobs() {
    let mut s = Script::accepted(&ConnConfig { quick_acks: 2, delayed_ack: ms(100), ..plain() });
    for n in 0..2 {
        s.data(n * 1000, &text(1000));
        s.expect_ack((n + 1) * 1000);
    }
    s.data(2000, &text(1000));
    let (after, _) = s.next_within(ms(500));
    assert_eq!(after, ms(100));
}

#[test]
fn what_is_outside_the_window_is_answered_and_not_kept() {
    for at in [70_000u32, 0u32.wrapping_sub(5000), 1 << 31] {
        let mut s = Script::accepted(&plain());
        s.data(at, &text(100));
        s.expect_ack(0);
        assert_eq!((s.state(), s.read()), (State::Established, Err(Errno::EAGAIN)));
    }
}

#[test]
fn a_segment_without_ack_is_dropped_in_silence() {
    let mut s = Script::accepted(&plain());
    assert_eq!(s.send(NONE, s.seq(0), SeqNum(0), b"hello"), Some(DropReason::NoAck));
    s.none();
    s.quiet(ms(500));
    assert_eq!((s.state(), s.read()), (State::Established, Err(Errno::EAGAIN)));
}

#[test]
fn the_window_closes_reopens_late_and_never_shrinks() {
    let mut s = Script::accepted(&ConnConfig { recv_buffer: 8000, ..plain() });
    let (mut at, mut edge) = (0, s.seq(8000));
    for _ in 0..8 {
        s.data(at, &text(1000));
        at += 1000;
        for ack in s.all() {
            let new = ack.tcp.ack.add(u32::from(ack.tcp.window.0));
            assert!(!new.before(edge), "the window shrinks");
            edge = new;
        }
    }
    assert_eq!(edge, s.seq(8000));
    // Beyond the window: answered, not kept.
    s.data(8000, &text(1));
    let refused = s.expect_ack(8000);
    assert_eq!(refused.tcp.window.0, 0);
    // RFC 9293 §3.8.6.2.2: not for less than a segment, but at the latest when half the buffer is free.
    let (mut buf, mut freed) = ([0; 100], 0);
    let conn = s.conn();
    let update = loop {
        assert_eq!(s.host.read(s.now, conn, &mut buf), Ok(100));
        freed += 100;
        if let Some(update) = s.poll() {
            break update;
        }
    };
    assert!((1000..=4000).contains(&freed) && u32::from(update.tcp.window.0) == freed, "{freed}: {update:?}");
    // A reset is obeyed at window zero too.
    s.data(8000, &text(usize::from(update.tcp.window.0)));
    s.all();
    let next = 8000 + u32::from(update.tcp.window.0);
    s.send(RST, s.seq(next), SeqNum(0), b"");
    assert_eq!(s.state(), State::Closed);
}

#[test]
fn damaged_headers_never_change_a_connection() {
    let mut s = Script::accepted(&plain());
    let good = s.packet(RST, s.seq(0), SeqNum(0), Options { mss: Some(1), ..Options::default() }, b"");
    let fix = |packet: &mut Vec<u8>| {
        use rawtcp_proto::wire::checksum;
        packet[36..38].fill(0);
        let (src, dst) = ([10, 0, 0, 2].into(), [10, 0, 0, 1].into());
        let pseudo = checksum::pseudo_header(src, dst, 6, (packet.len() - 20) as u32);
        let field = checksum::finish(checksum::combine(pseudo, checksum::sum(&packet[20..]), false));
        packet[36..38].copy_from_slice(&field.to_be_bytes());
    };
    let mut bad: Vec<(DropReason, Vec<u8>)> = Vec::new();
    let mut packet = good.to_vec();
    packet[37] ^= 1;
    bad.push((DropReason::Checksum, packet));
    for offset in [0u8, 4, 7, 15] {
        let mut packet = good.to_vec();
        packet[32] = offset << 4;
        fix(&mut packet);
        bad.push((DropReason::DataOffset, packet));
    }
    for len in [0u8, 1, 5, 255] {
        let mut packet = good.to_vec();
        packet[41] = len;
        fix(&mut packet);
        bad.push((DropReason::OptionLength, packet));
    }
    for (reason, packet) in bad {
        assert_eq!(s.host.on_packet(s.now, &packet.into()), Err(reason));
        s.none();
        assert_eq!(s.state(), State::Established, "{reason:?}");
    }
}

#[test]
fn all_flag_combinations_to_open_and_closed_ports_leave_the_service_working() {
    let mut s = Script::listening(&plain());
    for flags in 0..=255u8 {
        for port in [80, 81] {
            for (seq, ack) in [(0, 0), (1000, 2000)] {
                s.local.set_port(port);
                s.peer.set_port(5000 + u16::from(flags));
                s.send(Flags(flags), SeqNum(seq), SeqNum(ack), &text(usize::from(flags % 3)));
                let answers = s.all();
                assert!(answers.len() <= 1, "{:?}: {answers:?}", Flags(flags));
                let reset = Flags(flags).contains(RST);
                assert!(!reset || answers.is_empty(), "an answer to a reset: {answers:?}");
            }
        }
    }
    s.local.set_port(80);
    s.peer.set_port(4000);
    s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
    s.irs = s.next().tcp.seq;
    s.send(ACK, s.seq(0), s.ack(0), b"");
    let listener = s.listener.unwrap();
    let made = std::iter::from_fn(|| s.host.accept(listener).ok()).last().unwrap();
    assert_eq!(s.host.state(made), State::Established);
}

#[test]
fn fin_out_of_order_waits_for_the_data_before_it() {
    let mut s = Script::accepted(&plain());
    s.send(FIN_ACK, s.seq(5), s.ack(0), b"world");
    s.expect_ack(0);
    assert_eq!(s.state(), State::Established);
    s.data(0, b"hello");
    let answer = s.next();
    assert_eq!((answer.tcp.ack, s.state()), (s.seq(11), State::CloseWait));
    assert_eq!((s.read(), s.read()), (Ok(b"helloworld".to_vec()), Ok(vec![])));
    s.quiet(Duration::from_secs(1));
}
