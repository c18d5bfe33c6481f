//! Spurious retransmissions: found out by timestamps, D-SACK or F-RTO, and undone.

use super::pair::{A, B, Pair};
use super::{ms, secs};
use crate::config::ConnConfig;
use crate::conn::TransmitKind;
use crate::seq::Offset;
use crate::time::Duration;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// A pair with a window of more than twenty segments, and nothing outstanding.
fn warm(config: ConnConfig) -> Pair {
    let mut p = Pair::established(config.clone(), config);
    let mut sent = 0;
    let data = pattern(200_000);
    p.run_until(|p| {
        sent += p.write_all(A, &data[sent..(sent + 60_000).min(data.len())]);
        p.read_all(B);
        sent == data.len() && p.ends[A].is_all_acked()
    });
    p.settle();
    p.read_all(B);
    p.log.clear();
    p
}

fn without_timestamps() -> ConnConfig {
    ConnConfig { timestamps: false, ..ConnConfig::default() }
}

/// Sends `segments` full segments, of which those in `late` arrive so much later; answers how many were sent again.
fn send_with_late(p: &mut Pair, segments: usize, late: std::ops::Range<usize>, by: Duration) -> usize {
    let size = p.ends[A].info().snd_mss as usize;
    p.log.clear();
    let mut number = 0;
    // The jitter is asked for right after the packet was let through.
    let hit = std::rc::Rc::new(std::cell::Cell::new(false));
    let seen = hit.clone();
    p.pass = Box::new(move |end, _, t| {
        let data = end == A && t.payload_len() > 0;
        seen.set(data && late.contains(&number));
        number += usize::from(data);
        true
    });
    p.jitter = Box::new(move || if hit.take() { by } else { Duration::ZERO });
    p.write_all(A, &pattern(segments * size));
    p.run_until(|p| {
        p.read_all(B);
        p.ends[A].is_all_acked()
    });
    p.wait(secs(1));
    p.jitter = Box::new(|| Duration::ZERO);
    p.log.iter().filter(|(end, t)| *end == A && t.kind == TransmitKind::Retransmit).count()
}

#[test]
fn dsack_undoes_a_fast_retransmission_of_what_was_only_late() {
    let mut p = warm(without_timestamps());
    let before = p.ends[A].info();
    assert!(before.snd_cwnd > 20 * 1460 && before.snd_ssthresh == u64::MAX, "{before:?}");
    let again = send_with_late(&mut p, 15, 3..4, ms(4));
    let after = p.ends[A].info();
    assert_eq!((again, after.timeouts), (1, 0), "it was taken for lost");
    assert!(after.snd_cwnd >= before.snd_cwnd && after.snd_ssthresh == u64::MAX, "{after:?}");
    // And more is waited for the next time.
    assert_eq!(send_with_late(&mut p, 15, 3..4, ms(4)), 0);
    assert_eq!(p.ends[A].info().snd_ssthresh, u64::MAX);
}

/// RFC 8985 §6.2, step 4: with each D-SACK a quarter of a round trip more is waited for what is late; after sixteen
/// recoveries without one, a quarter again.
#[test]
fn the_reordering_window_grows_with_what_was_late_and_shrinks_when_nothing_is() {
    let mut p = warm(without_timestamps());
    // Later than a quarter of the round trip of 20 ms.
    assert_eq!(send_with_late(&mut p, 15, 3..4, ms(8)), 1);
    assert_eq!(send_with_late(&mut p, 15, 3..4, ms(8)), 0, "two quarters are waited for");
    for _ in 0..16 {
        let mut number = 0;
        p.pass = Box::new(move |end, _, t| {
            number += usize::from(end == A && t.payload_len() > 0);
            number != 2 || end == B
        });
        p.write_all(A, &pattern(8 * 1460));
        p.run_until(|p| {
            p.read_all(B);
            p.ends[A].is_all_acked()
        });
        p.wait(secs(1));
    }
    assert_eq!(send_with_late(&mut p, 15, 3..4, ms(8)), 1, "one quarter again");
}

#[test]
fn a_real_loss_is_not_undone() {
    let mut p = warm(without_timestamps());
    let before = p.ends[A].info().snd_cwnd;
    let mut number = 0;
    p.pass = Box::new(move |end, _, t| {
        number += usize::from(end == A && t.payload_len() > 0);
        number != 4 || end == B
    });
    p.write_all(A, &pattern(15 * 1460));
    p.run_until(|p| p.ends[A].is_all_acked());
    p.wait(secs(1));
    let info = p.ends[A].info();
    assert!(info.total_retrans == 1 && info.snd_ssthresh <= before / 2 + 1460, "{info:?}");
}

#[test]
fn one_loss_among_late_segments_is_enough_to_keep_the_reduction() {
    let mut p = warm(without_timestamps());
    let (mut number, hit) = (0, std::rc::Rc::new(std::cell::Cell::new(false)));
    let seen = hit.clone();
    p.pass = Box::new(move |end, _, t| {
        number += usize::from(end == A && t.payload_len() > 0);
        seen.set(number == 4 && end == A);
        number != 5 || end == B
    });
    p.jitter = Box::new(move || if hit.take() { ms(4) } else { Duration::ZERO });
    p.write_all(A, &pattern(15 * 1460));
    p.run_until(|p| p.ends[A].is_all_acked());
    p.wait(secs(1));
    let info = p.ends[A].info();
    assert_eq!((info.total_retrans, info.timeouts), (2, 0));
    assert!(info.snd_ssthresh < 20 * 1460, "{info:?}");
}

#[test]
fn f_rto_undoes_a_timeout_after_which_originals_arrive() {
    for (sack, timestamps) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut p = warm(ConnConfig { timestamps, sack, ..ConnConfig::default() });
        let before = p.ends[A].info();
        // All of a flight, and the probe, are late by longer than the RTO; there is more to send.
        let mss = before.snd_mss as usize;
        p.write_all(A, &pattern(200 * mss));
        p.delay = ms(290);
        let mut spread = Duration::ZERO;
        p.jitter = Box::new(move || {
            spread += Duration::from_micros(10);
            spread
        });
        // First in, first out: what leaves later waits less.
        for (time, delay) in [(30, 261), (20, 242), (150, 90), (80, 15), (9, 10)] {
            p.wait(ms(time));
            p.delay = ms(delay);
        }
        p.jitter = Box::new(|| Duration::ZERO);
        p.delay = ms(10);
        p.run_until(|p| {
            p.read_all(B);
            p.ends[A].is_all_acked()
        });
        p.wait(secs(1));
        let info = p.ends[A].info();
        assert!(info.timeouts > 0, "{info:?}");
        assert!(info.snd_cwnd >= before.snd_cwnd, "sack {sack} timestamps {timestamps}: {info:?}");
        assert_eq!(info.snd_ssthresh, u64::MAX, "sack {sack} timestamps {timestamps}: {info:?}");
        assert!(info.total_retrans <= 6, "not the whole window once more: {info:?}");
    }
}

#[test]
fn f_rto_does_not_undo_a_timeout_that_was_right() {
    for sack in [true, false] {
        let mut p = warm(ConnConfig { timestamps: false, sack, ..ConnConfig::default() });
        let mss = p.ends[A].info().snd_mss as usize;
        let data = pattern(100 * mss);
        // A whole flight and the probe behind it are lost.
        let until = p.now + ms(150);
        let written = p.write_all(A, &data);
        assert_eq!(written, data.len());
        p.pass = Box::new(|end, _, _| end == B);
        p.wait(until.since(p.now));
        p.pass = Box::new(|_, _, _| true);
        let mut got = Vec::new();
        p.run_until(|p| {
            got.extend(p.read_all(B));
            p.ends[A].is_all_acked()
        });
        got.extend(p.read_all(B));
        assert_eq!(got, data);
        let info = p.ends[A].info();
        assert!(info.timeouts == 1 && info.snd_ssthresh < u64::MAX, "{info:?}");
    }
}

#[test]
fn f_rto_without_anything_new_to_send_goes_on_as_usual() {
    for sack in [true, false] {
        let mut p = warm(ConnConfig { timestamps: false, sack, ..ConnConfig::default() });
        let mss = p.ends[A].info().snd_mss as usize;
        p.write_all(A, &pattern(8 * mss));
        p.pass = Box::new(|end, _, _| end == B);
        p.wait(ms(150));
        // What is new is small, and Nagle's rule holds it.
        p.write_all(A, &pattern(100));
        p.flush();
        p.write_all(A, &pattern(100));
        p.pass = Box::new(|_, _, _| true);
        let start = p.now;
        p.run_until(|p| {
            p.read_all(B);
            p.ends[A].is_all_acked()
        });
        assert!(p.now.since(start) < secs(1), "{:?}", p.now.since(start));
        assert_eq!(p.ends[A].info().timeouts, 1);
    }
}

#[test]
fn offsets_that_were_sent_a_third_time_prove_nothing() {
    let mut episode = crate::conn::undo::Episode::default();
    let at = |from: u64, to: u64| Offset(from)..Offset(to);
    episode.on_retransmit(at(100, 200));
    episode.on_retransmit(at(300, 400));
    episode.on_dsack(at(90, 210));
    assert!(!episode.is_unfounded());
    episode.on_dsack(at(300, 400));
    assert!(episode.is_unfounded());
    episode.on_retransmit(at(150, 200));
    assert!(!episode.is_unfounded());
}

/// A window of segments and the tail loss probe behind it, all late; what is written then overtakes the probe.
fn probe_overtaken(config: ConnConfig) -> (Pair, crate::TcpInfo) {
    let mut p = warm(config);
    let before = p.ends[A].info();
    // Late by more than the probe's timeout, and the probe by more still.
    p.delay = ms(60);
    p.write_all(A, &pattern(2 * before.snd_mss as usize));
    p.flush();
    p.delay = ms(120);
    p.run_until(|p| p.log.iter().any(|(end, t)| *end == A && t.kind == TransmitKind::Probe));
    p.delay = ms(10);
    // The flight is acknowledged, and more is written and acknowledged, before the probe arrives.
    p.run_until(|p| p.ends[A].is_all_acked());
    p.write_all(A, &pattern(10 * before.snd_mss as usize));
    p.run_until(|p| p.ends[A].is_all_acked());
    (p, before)
}

#[test]
fn a_probe_that_was_overtaken_by_later_data_has_repaired_nothing() {
    for timestamps in [true, false] {
        let (mut p, before) = probe_overtaken(ConnConfig { timestamps, ..ConnConfig::default() });
        let reduced = p.ends[A].info();
        assert!(reduced.snd_ssthresh < u64::MAX, "so far it seems to have: {reduced:?}");
        p.wait(secs(1));
        let info = p.ends[A].info();
        // The peer says that the segment came twice, also where its timestamp is an old one.
        assert_eq!((info.dsack_dups, info.snd_ssthresh), (1, u64::MAX), "timestamps {timestamps}: {info:?}");
        assert!(info.snd_cwnd >= before.snd_cwnd && info.reord_seen == 0, "{info:?}");
    }
}

#[test]
fn an_original_behind_its_own_copy_undoes_the_reduction_with_timestamps_too() {
    let mut p = warm(ConnConfig::default());
    let before = p.ends[A].info();
    // Late by more than a round trip: the copy comes first, and brings a newer timestamp.
    let again = send_with_late(&mut p, 15, 3..4, ms(35));
    let info = p.ends[A].info();
    assert_eq!((again, info.timeouts, info.dsack_dups), (1, 0, 1), "{info:?}");
    assert!(info.snd_cwnd >= before.snd_cwnd && info.snd_ssthresh == u64::MAX, "{info:?}");
}

#[test]
fn one_loss_that_a_probe_uncovers_is_one_reduction() {
    let mut p = warm(ConnConfig::default());
    let mss = p.ends[A].info().snd_mss as usize;
    let mut number = 0;
    p.pass = Box::new(move |end, _, t| {
        number += usize::from(end == A && t.payload_len() > 0);
        !(end == A && t.payload_len() > 0 && (8..=10).contains(&number))
    });
    p.write_all(A, &pattern(10 * mss));
    p.run_until(|p| p.ends[A].is_all_acked());
    let once = p.ends[A].info();
    assert!(once.snd_ssthresh < u64::MAX && once.timeouts == 0, "{once:?}");
    p.write_all(A, &pattern(2 * mss));
    p.run_until(|p| p.ends[A].is_all_acked());
    assert_eq!(p.ends[A].info().snd_ssthresh, once.snd_ssthresh);
}

/// One data segment after another is late, by anything up to a few round trips, and nothing is ever lost: whatever
/// was concluded from it is taken back. (Of two reductions in a row only the last can be.)
#[test]
fn what_one_late_segment_reduced_is_taken_back() {
    for (timestamps, seed) in [true, false].into_iter().flat_map(|t| (0..60).map(move |seed| (t, seed))) {
        // HyStart++ would end slow start for the longer round trips.
        let congestion = crate::cc::Algorithm::Reno.into();
        let mut p = warm(ConnConfig { timestamps, congestion, ..ConnConfig::default() });
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut number = |below: u64| rng.next_u64() % below;
        for round in 0..6 {
            let segments = 1 + number(40) as usize;
            let (late, by) = (number(segments as u64) as usize, ms(1 + number(150)));
            let again = send_with_late(&mut p, segments, late..late + 1, by);
            let info = p.ends[A].info();
            assert_eq!(
                (info.snd_ssthresh, info.timeouts),
                (u64::MAX, 0),
                "seed {seed}, timestamps {timestamps}, round {round}: {late} of {segments} late by {by:?}, {again} again: {info:?}"
            );
        }
    }
}
