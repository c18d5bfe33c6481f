//! Work per acknowledgment is the same with ten segments outstanding and with ten thousand.

use super::*;

const SIZES: [u64; 3] = [10, 1_000, 10_000];

/// `n` segments of 100 bytes, each a run of its own (sent one per microsecond): the worst case.
fn spread(n: u64) -> SentQueue {
    let mut q = SentQueue::new(at(0));
    for i in 0..n {
        q.on_send(range(i * 100, i * 100 + 100), 100, Instant::from_micros(i), SNAP);
    }
    q
}

/// The most steps that any one acknowledgment of a series took.
fn worst(q: &mut SentQueue, n: u64, mut one: impl FnMut(&mut SentQueue, u64)) -> u64 {
    let steps = (0..n).map(|i| {
        let before = q.steps.load(core::sync::atomic::Ordering::Relaxed);
        one(q, i);
        q.steps.load(core::sync::atomic::Ordering::Relaxed) - before
    });
    steps.max().unwrap_or(0)
}

/// What an acknowledgment may take: a few runs, and a few binary searches.
fn flat(n: u64) -> u64 {
    12 + 4 * u64::from(n.next_power_of_two().ilog2())
}

/// A block of the peer for segments `from..to`, and loss detection after it, RACK.segment being the highest.
fn take(q: &mut SentQueue, una: u64, from: u64, to: u64, reo_wnd: Duration) -> Detected {
    let now = Instant::from_secs(1);
    let mut out = q.on_ack(at(una * 100), now);
    q.on_sack(range(from * 100, to * 100), &mut out);
    let newest_sent_at = Instant::from_micros(to.saturating_sub(1));
    let rack = RackView { newest_sent_at, newest_end: at(to * 100), reo_wnd, rtt: Duration::ZERO };
    q.detect_lost(&rack, now)
}

#[test]
fn in_order() {
    for n in SIZES {
        let mut q = spread(n);
        let worst = worst(&mut q, n, |q, i| _ = take(q, i + 1, 0, i + 1, Duration::ZERO));
        assert!(worst <= flat(n), "{n}: {worst}");
    }
}

#[test]
fn one_hole_and_a_growing_block() {
    for n in SIZES {
        let mut q = spread(n);
        let worst = worst(&mut q, n - 1, |q, i| {
            take(q, 0, 1, i + 2, Duration::ZERO);
            if let Some(range) = q.next_lost(100) {
                q.on_retransmit(range, Instant::from_secs(2), SNAP);
            }
        });
        assert_eq!(q.sacked_bytes(), (n - 1) * 100);
        assert!(worst <= flat(n), "{n}: {worst}");
    }
}

#[test]
fn reordered_while_thousands_stay_sacked() {
    // Every second segment arrives early and the reordering window is wide: nothing is lost, much is waiting.
    let wide = Duration::from_secs(10);
    for n in SIZES {
        let mut q = spread(n);
        let early = worst(&mut q, n / 2, |q, i| _ = take(q, 0, 2 * i + 1, 2 * i + 2, wide));
        let late = worst(&mut q, n / 2 - 1, |q, i| _ = take(q, 0, 1, 2 * i + 3, wide));
        assert_eq!((q.lost_bytes(), q.sacked_bytes()), (0, (n - 1) * 100));
        assert!(early <= flat(n) && late <= flat(n), "{n}: {early} {late}");
    }
}

#[test]
fn retransmissions_wait_behind_each_other() {
    for n in SIZES {
        let mut q = spread(n);
        q.mark_all_lost();
        let mut sent = 0;
        while let Some(range) = q.next_lost(100) {
            sent += 1;
            q.on_retransmit(range, Instant::from_secs(1) + Duration::from_micros(sent), SNAP);
        }
        // The first stays away; the others come back by SACK, one by one.
        let found = worst(&mut q, n - 1, |q, i| {
            let now = Instant::from_secs(2);
            let mut out = q.on_ack(at(0), now);
            q.on_sack(range(100, i * 100 + 200), &mut out);
            let newest = out.newest.unwrap();
            let rack = RackView {
                newest_sent_at: newest.sent_at,
                newest_end: newest.end,
                reo_wnd: Duration::from_secs(10),
                rtt: Duration::ZERO,
            };
            assert!(q.detect_lost(&rack, now).next_deadline.is_some());
        });
        assert!(found <= flat(n), "{n}: {found}");
        q.check_invariants();
    }
}

#[test]
fn a_hostile_peer_moves_the_left_edge() {
    // One of these may walk all runs, once: it shortens the way for all others. So this is a mean.
    for n in SIZES {
        let mut q = spread(n);
        let total = |q: &mut SentQueue, left: &dyn Fn(u64) -> u64| {
            let before = q.steps.load(core::sync::atomic::Ordering::Relaxed);
            for i in 1..n {
                let mut out = q.on_ack(at(0), ms(9));
                q.on_sack(range(left(i) * 100, n * 100), &mut out);
            }
            q.steps.load(core::sync::atomic::Ordering::Relaxed) - before
        };
        let sum = total(&mut q, &|i| n - i) + total(&mut q, &|i| i) + total(&mut q, &|i| i * 7919 % n);
        assert!(sum / (3 * n) <= flat(n), "{n}: {sum}");
    }
}
