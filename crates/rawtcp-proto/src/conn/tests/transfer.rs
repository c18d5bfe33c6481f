use super::pair::{A, B, Pair};
use super::{ms, secs};
use crate::config::ConnConfig;
use crate::conn::{Connection, Path, State, TransmitKind, TxLimits};
use crate::error::UserError;
use crate::seq::SeqNum;
use crate::time::Duration;
use crate::wire::{Ecn, Segment};
use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn configs() -> Vec<ConnConfig> {
    let base = ConnConfig::default();
    vec![
        base.clone(),
        ConnConfig { sack: false, ..base.clone() },
        ConnConfig { timestamps: false, ..base.clone() },
        ConnConfig { sack: false, timestamps: false, window_scaling: false, ..base },
    ]
}

/// The timestamp clocks of both ends wrap while data is under way (RFC 7323 §5.4).
#[test]
fn timestamps_wrap_in_the_middle_of_a_transfer() {
    let config = ConnConfig { recv_buffer: 20_000, recv_buffer_max: 0, ..ConnConfig::default() };
    let mut p = Pair::new(config.clone(), config.clone());
    for (end, after) in [(A, 300), (B, 500)] {
        // The clock counts milliseconds, and this many are left to the wrap.
        let offset = u32::MAX - p.now.as_millis() as u32 - after;
        let tuple = *p.ends[end].tuple();
        p.ends[end] = Connection::connect(p.now, &config.clone().into(), tuple, SeqNum(77), offset, Path { mtu: 1500 });
    }
    let mut n = 0;
    p.pass = Box::new(move |_, _, _| {
        n += 1;
        n % 29 != 0
    });
    let (data, start) = (pattern(1_500_000), p.now);
    assert!(p.transfer(A, &data) == data);
    assert!(p.now.since(start) > ms(1000) && p.ends[A].info().total_retrans > 0);
}

/// More bytes than there are sequence numbers, with losses, by segments that are not built and parsed: that would take
/// most of the time.
#[test]
fn a_transfer_longer_than_the_sequence_space_keeps_every_byte() {
    const LEN: u64 = (1 << 32) + (1 << 28);
    let config = ConnConfig { recv_buffer: 4 << 20, send_buffer: 4 << 20, timestamps: false, ..ConnConfig::default() };
    let mut p = Pair::established(config.clone(), config);
    let block = Bytes::from(pattern(1 << 20));
    let limits = TxLimits { max_payload: 64_000, ..TxLimits::ONE_SEGMENT };
    let (mut written, mut read, mut n) = (0, 0, 0u64);
    while read < LEN {
        while written < LEN {
            let at = (written % block.len() as u64) as usize;
            let Ok(n) = p.ends[A].write_bytes(p.now, block.slice(at..)) else { break };
            written += n as u64;
        }
        let mut moved = false;
        for end in [A, B] {
            while let Some(t) = p.ends[end].poll_transmit(p.now, &limits) {
                moved = true;
                n += 1;
                if t.payload_len() > 0 && n.is_multiple_of(997) {
                    continue;
                }
                let payload: Vec<u8> = p.ends[end].payload(&t).collect::<Vec<_>>().concat();
                let owner = Bytes::from(payload);
                let gro_size = t.segment_size;
                let segment =
                    Segment { header: t.header, payload: &owner, owner: Some(&owner), ecn: Ecn::NotEct, gro_size };
                let _ = p.ends[1 - end].on_segment(p.now, &segment);
            }
        }
        while let Ok(Some(chunk)) = p.ends[B].read_chunk(p.now, usize::MAX) {
            let at = (read % block.len() as u64) as usize;
            let first = chunk.len().min(block.len() - at);
            assert!(chunk[..first] == block[at..at + first] && chunk[first..] == block[..chunk.len() - first]);
            read += chunk.len() as u64;
        }
        p.now = p.now + Duration::from_micros(10);
        if !moved && let Some(at) = p.ends.iter().filter_map(Connection::poll_timeout).min() {
            p.now = p.now.max(at);
        }
        p.ends.iter_mut().for_each(|c| c.on_timeout(p.now));
    }
    assert!(p.ends[A].info().total_retrans > 0);
    p.ends[A].check_invariants();
}

/// What is less than the caller wants to send at once waits, unless it must not.
#[test]
fn a_tail_waits_for_more() {
    let limits = TxLimits { max_payload: 5 * 1448, tail: 3000, ..TxLimits::ONE_SEGMENT };
    let config = ConnConfig::default();
    let held = |prepare: &dyn Fn(&mut Connection, crate::time::Instant)| {
        let mut p = Pair::established(config.clone(), config.clone());
        p.settle();
        let (now, conn) = (p.now, &mut p.ends[A]);
        prepare(conn, now);
        let mut sent = Vec::new();
        while let Some(t) = conn.poll_transmit(now, &limits) {
            sent.push(t.payload_len());
        }
        conn.check_invariants();
        assert!(conn.poll_transmit(now, &TxLimits::ONE_SEGMENT).is_some() || conn.info().notsent_bytes == 0);
        sent
    };
    let write = |conn: &mut Connection, now, len| assert_eq!(conn.write(now, &pattern(len)), Ok(len));
    assert_eq!(held(&|c, now| write(c, now, 2999)), []);
    assert_eq!(held(&|c, now| write(c, now, 3000)), [3000]);
    assert_eq!(held(&|c, now| write(c, now, 5 * 1448 + 2999)), [5 * 1448]);
    let nodelay = |c: &mut Connection, now| {
        c.set_nodelay(true);
        write(c, now, 2999);
    };
    assert_eq!(held(&nodelay), [2999]);
    let fin = |c: &mut Connection, now| {
        write(c, now, 2999);
        c.shutdown(now).unwrap();
    };
    assert_eq!(held(&fin), [2999]);
    let urgent = |c: &mut Connection, now| assert_eq!(c.write_urgent(now, b"!"), Ok(1));
    assert_eq!(held(&urgent), [1]);
}

/// Memory that is lent leaves from where it is. What was lost, and what there was no window for, leaves from the copy.
#[test]
fn what_is_lent_arrives_whole() {
    let config = ConnConfig { send_buffer: 1 << 20, ..ConnConfig::default() };
    let mut p = Pair::established(config.clone(), config);
    let limits = TxLimits { max_payload: 64_000, ..TxLimits::ONE_SEGMENT };
    let data = pattern(3_000_000);
    let (mut written, mut read, mut n) = (0, Vec::new(), 0);
    let mut copied = 0;
    while read.len() < data.len() {
        let mut lent = data[written..data.len().min(written + 200_000)].to_vec();
        written += p.ends[A].lend(p.now, lent.len()).unwrap_or(0);
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for end in [A, B] {
                while let Some(t) = p.ends[end].poll_transmit(p.now, &limits) {
                    (n, moved) = (n + 1, true);
                    if t.payload_len() > 0 && n % 23 == 0 {
                        continue;
                    }
                    let payload: Vec<u8> = p.ends[end].payload_with(&t, &lent).collect::<Vec<_>>().concat();
                    assert_eq!(payload.len(), t.payload_len());
                    let owner = Bytes::from(payload);
                    let gro_size = t.segment_size;
                    let segment =
                        Segment { header: t.header, payload: &owner, owner: Some(&owner), ecn: Ecn::NotEct, gro_size };
                    let _ = p.ends[1 - end].on_segment(p.now, &segment);
                }
            }
            read.extend(p.read_all(B));
        }
        copied += p.ends[A].keep(&lent);
        lent.fill(0);
        p.now = p.now + ms(1);
        p.ends.iter_mut().for_each(|c| c.on_timeout(p.now));
        p.ends[A].check_invariants();
    }
    assert!(read == data);
    assert!(p.ends[A].info().total_retrans > 0);
    assert!(0 < copied && copied < data.len() / 2, "{copied} bytes were copied");
}

#[test]
fn bulk_arrives_whole_and_in_order() {
    for config in configs() {
        let mut p = Pair::established(config.clone(), config);
        let data = pattern(1_000_000);
        assert_eq!(p.transfer(A, &data), data);
        assert!(p.log.iter().all(|(_, t)| t.kind != TransmitKind::Retransmit), "nothing was lost");
    }
}

#[test]
fn bulk_survives_loss_and_duplication_of_any_packet() {
    for (i, config) in configs().into_iter().enumerate() {
        for seed in 0..8 {
            let mut p = Pair::established(config.clone(), config.clone());
            let mut rng = ChaCha8Rng::seed_from_u64(seed * 10 + i as u64);
            p.pass = Box::new(move |_, _, _| rng.next_u32() % 100 >= 3);
            let data = pattern(300_000);
            assert_eq!(p.transfer(A, &data), data);
        }
    }
}

#[test]
fn one_loss_is_repaired_without_a_timeout() {
    for config in configs() {
        let mut p = Pair::established(config.clone(), config);
        let mut count = 0;
        p.pass = Box::new(move |end, _, t| {
            count += usize::from(end == A && t.payload_len() > 0);
            !(end == A && t.payload_len() > 0 && count == 20)
        });
        let data = pattern(200_000);
        assert_eq!(p.transfer(A, &data), data);
        let info = p.ends[A].info();
        assert_eq!(info.timeouts, 0, "{info:?}");
        assert_eq!(info.total_retrans, 1, "only what was lost is sent again");
    }
}

#[test]
fn segmentable_runs_carry_the_same_bytes() {
    let mut p = Pair::established(ConnConfig::default(), ConnConfig::default());
    p.limits = TxLimits { max_payload: 65_000, ..TxLimits::ONE_SEGMENT };
    // The wire of these tests takes runs as one large packet, as a kernel peer's receive offload would.
    let data = pattern(400_000);
    assert_eq!(p.transfer(A, &data), data);
    assert!(p.log.iter().any(|(_, t)| t.payload_len() > 10_000));
    assert!(p.log.iter().all(|(_, t)| t.segment_size == 0 || t.segment_size == 1448));
}

#[test]
fn a_full_window_stops_the_writer_and_a_read_lets_it_go_on() {
    let small = ConnConfig { recv_buffer: 20_000, recv_buffer_max: 20_000, ..ConnConfig::default() };
    let sender = ConnConfig { send_buffer: 30_000, send_buffer_max: 30_000, ..ConnConfig::default() };
    let mut p = Pair::established(sender, small);
    let data = pattern(200_000);
    let mut written = p.write_all(A, &data);
    p.wait(secs(10));
    written += p.write_all(A, &data[written..]);
    assert!(written <= 30_000 + 20_000 + 1448, "{written} bytes were accepted");
    let now = p.now;
    assert_eq!(p.ends[A].write(now, b"x"), Err(UserError::WouldBlock));
    // Probed, not given up, for as long as the peer answers [MUST-37].
    p.log.clear();
    p.wait(secs(4000));
    let probes = p.log.iter().filter(|(e, t)| *e == A && t.kind == TransmitKind::Probe).count();
    assert!((20..60).contains(&probes), "{probes} probes");
    assert_eq!(p.ends[A].state(), State::Established);
    let mut got = Vec::new();
    p.run_until(|p| {
        written += p.write_all(A, &data[written..]);
        got.extend(p.read_all(B));
        got.len() == data.len()
    });
    assert_eq!(got, data);
}

#[test]
fn a_lost_window_update_is_found_by_probing() {
    let small = ConnConfig { recv_buffer: 20_000, recv_buffer_max: 20_000, ..ConnConfig::default() };
    let mut p = Pair::established(ConnConfig::default(), small);
    let data = pattern(100_000);
    p.write_all(A, &data);
    p.wait(secs(2));
    let mut lose = true;
    p.pass = Box::new(move |end, _, _| !(end == B && std::mem::take(&mut lose)));
    let mut got = p.read_all(B);
    p.run_until(|p| {
        got.extend(p.read_all(B));
        got.len() == data.len()
    });
    assert_eq!(got, data);
}

#[test]
fn one_byte_writes_and_reads_do_not_shrink_the_window() {
    let tiny = ConnConfig { recv_buffer: 3000, nodelay: true, ..ConnConfig::default() };
    let mut p = Pair::established(tiny.clone(), tiny);
    let data = pattern(20_000);
    let (mut sent, mut got) = (0, Vec::new());
    p.run_until(|p| {
        if sent < data.len() {
            sent += p.write_all(A, &data[sent..sent + 1]);
        }
        let mut byte = [0];
        let now = p.now;
        if p.ends[B].read(now, &mut byte) == Ok(1) {
            got.push(byte[0]);
        }
        got.len() == data.len()
    });
    assert_eq!(got, data);
}

#[test]
fn nagle_holds_the_second_small_write_and_nodelay_does_not() {
    for nodelay in [false, true] {
        let config = ConnConfig { nodelay, ..ConnConfig::default() };
        let mut p = Pair::established(config.clone(), config);
        p.write_all(A, b"header");
        p.flush();
        p.write_all(A, b"body");
        p.flush();
        let data = p.log.iter().filter(|(e, t)| *e == A && t.payload_len() > 0).count();
        assert_eq!(data, if nodelay { 2 } else { 1 });
    }
}

#[test]
fn an_ack_waits_at_most_the_delay_and_rides_on_a_reply() {
    let config = ConnConfig { quick_acks: 0, ..ConnConfig::default() };
    let mut p = Pair::established(config.clone(), config);
    p.write_all(A, b"ping");
    p.run_until(|p| p.ends[B].readable_len() == 4);
    assert!(!p.log.iter().any(|(e, _)| *e == B), "nothing yet");
    p.read_all(B);
    p.write_all(B, b"pong");
    p.flush();
    let answers: Vec<_> = p.log.iter().filter(|(e, _)| *e == B).collect();
    assert_eq!(answers.len(), 1);
    p.settle();
    p.log.clear();
    p.write_all(A, b"ping");
    let start = p.now;
    p.run_until(|p| p.log.iter().any(|(e, _)| *e == B));
    assert_eq!(p.now.since(start), ms(50), "10 ms of path and 40 ms of delay");
}

#[test]
fn who_only_reads_holds_nobody_up_who_waits_under_nagles_rule() {
    let config = ConnConfig { quick_acks: 0, ..ConnConfig::default() };
    let mut p = Pair::established(config.clone(), config);
    let start = p.now;
    for part in [&b"one"[..], b"two", b"three"] {
        p.write_all(A, part);
        p.flush();
    }
    let mut got = 0;
    p.run_until(|p| {
        got += p.read_all(B).len();
        got == 11
    });
    // The first, its ACK, the rest.
    assert_eq!(p.now.since(start), ms(30));
    // What has been read in part only, full segments, and what was just answered: by the timer.
    p.settle();
    let full = pattern(1448);
    p.write_all(A, &full);
    p.run_until(|p| p.ends[B].readable_len() == full.len());
    p.log.clear();
    p.read_all(B);
    p.flush();
    assert!(p.log.is_empty(), "{:?}", p.log);
    p.settle();
    p.write_all(A, b"four");
    p.run_until(|p| p.ends[B].readable_len() == 4);
    p.log.clear();
    assert_eq!(p.ends[B].read(p.now, &mut [0; 2]), Ok(2));
    p.flush();
    assert!(p.log.is_empty(), "{:?}", p.log);
    p.read_all(B);
    p.flush();
    assert_eq!(p.log.len(), 1);
    p.write_all(B, b"an answer");
    p.settle();
    p.write_all(A, b"five");
    p.run_until(|p| p.ends[B].readable_len() == 4);
    p.log.clear();
    p.read_all(B);
    p.flush();
    assert!(p.log.is_empty(), "{:?}", p.log);
}

#[test]
fn a_probe_that_is_answered_faster_than_anything_before_counts() {
    let mut p = Pair::established(ConnConfig::default(), ConnConfig::default());
    p.write_all(A, &pattern(50_000));
    p.settle();
    p.read_all(B);
    let mut count = 0;
    p.pass = Box::new(move |end, _, t| {
        count += usize::from(end == A && t.payload_len() > 0);
        !(end == A && t.payload_len() > 0 && [3, 4].contains(&count))
    });
    p.write_all(A, &pattern(4 * 1448));
    let (start, acked) = (p.now, p.ends[A].bytes_acked());
    p.run_until(|p| p.ends[A].bytes_acked() == acked + 2 * 1448);
    p.delay = ms(2);
    p.run_until(|p| p.ends[B].readable_len() == 4 * 1448);
    assert!(p.now.since(start) < ms(100), "{:?}", p.now.since(start));
    assert_eq!(p.ends[A].info().timeouts, 0);
}

#[test]
fn a_lost_tail_is_repaired_by_a_probe() {
    let mut p = Pair::established(ConnConfig::default(), ConnConfig::default());
    p.delay = ms(1);
    let warm = pattern(50_000);
    p.write_all(A, &warm);
    p.settle();
    p.read_all(B);
    let mut count = 0;
    p.pass = Box::new(move |end, _, t| {
        count += usize::from(end == A && t.payload_len() > 0);
        !(end == A && t.payload_len() > 0 && count == 5)
    });
    p.write_all(A, &pattern(5 * 1448));
    let start = p.now;
    p.run_until(|p| p.ends[B].readable_len() == 5 * 1448);
    assert!(p.now.since(start) < ms(300), "{:?}", p.now.since(start));
    assert_eq!(p.ends[A].info().timeouts, 0);
}

#[test]
fn keepalive_probes_an_idle_peer_and_gives_up_a_dead_one() {
    let keepalive = Some(crate::Keepalive { idle: secs(10), interval: secs(2), count: 3 });
    let config = ConnConfig { keepalive, ..ConnConfig::default() };
    let mut p = Pair::established(config, ConnConfig::default());
    p.wait(secs(100));
    assert_eq!(p.ends[A].state(), State::Established);
    let probes = p.log.iter().filter(|(e, t)| *e == A && t.kind == TransmitKind::Probe).count();
    assert!((8..=10).contains(&probes), "{probes} probes");
    p.pass = Box::new(|_, _, _| false);
    p.wait(secs(30));
    assert_eq!(p.ends[A].state(), State::Closed);
    assert_eq!(p.ends[A].take_error(), Some(crate::CloseReason::TimedOut));
}
