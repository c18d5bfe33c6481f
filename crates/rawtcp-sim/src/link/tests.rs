//! Exact times where nothing is left to chance, statistical bounds with fixed seeds where it is.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn packet(number: u32, size: usize) -> Bytes {
    let mut data = vec![0; size];
    data[..4].copy_from_slice(&number.to_be_bytes());
    data.into()
}

fn number(packet: &Bytes) -> u32 {
    u32::from_be_bytes(packet[..4].try_into().unwrap())
}

/// Pushes `count` packets of 100 B, one per `gap`; what arrives: (number, time in nanoseconds).
fn run(link: &mut Link, count: u32, gap: Duration) -> Vec<(u32, u64)> {
    let mut out = Vec::new();
    let mut now = Instant::ZERO;
    for n in 0..count {
        drain(link, now, &mut out);
        link.push(now, packet(n, 100));
        now = now + gap;
    }
    drain(link, Instant::from_secs(1_000_000), &mut out);
    out
}

fn drain(link: &mut Link, until: Instant, out: &mut Vec<(u32, u64)>) {
    while let Some(due) = link.next_due().filter(|due| *due <= until) {
        let packet = link.pop_due(due).expect("it is due");
        out.push((number(&packet), due.as_nanos()));
    }
}

fn assert_conserved(link: &Link) {
    let s = link.stats();
    assert_eq!(
        s.in_packets + s.duplicated,
        s.out_packets + s.lost + s.queue_drops + s.too_big + link.in_flight() as u64,
        "{s:?}"
    );
}

#[test]
fn default_passes_everything_at_once_and_in_order() {
    let mut link = Link::new(LinkConfig::default(), 7);
    for n in 0..5_000 {
        link.push(Instant::from_millis(1), packet(n, 1500));
    }
    for n in 0..5_000 {
        assert_eq!(number(&link.pop_due(Instant::from_millis(1)).unwrap()), n);
    }
    assert_eq!(link.next_due(), None);
    let s = link.stats();
    assert_eq!((s.out_packets, s.out_bytes), (5_000, 5_000 * 1500));
    assert_conserved(&link);
}

#[test]
fn rate_and_delay_are_exact() {
    // 3 Mbit/s: 1500 B take 4 ms; 1000 B take 2,666,666.67 ns, and the thirds are not lost.
    let config = LinkConfig::default().with_rate(3_000_000).with_delay(10 * MS);
    let mut link = Link::new(config, 1);
    link.push(Instant::from_millis(5), packet(0, 1500));
    assert_eq!(link.next_due(), Some(Instant::from_millis(5 + 4 + 10)));
    for n in 1..=3 {
        link.push(Instant::from_millis(5), packet(n, 1000));
    }
    let mut out = Vec::new();
    drain(&mut link, Instant::from_secs(1), &mut out);
    assert_eq!(out, [(0, 19_000_000), (1, 21_666_666), (2, 24_333_333), (3, 27_000_000)],);
}

#[test]
fn rate_holds_over_many_packets() {
    for rate in [56_000, 1_000_000, 97_000_001, 10_000_000_000] {
        let queue = Queue::Packets(usize::MAX);
        let mut link = Link::new(LinkConfig::default().with_rate(rate).with_queue(queue), 1);
        let out = run(&mut link, 10_000, Duration::ZERO);
        let expected = 10_000 * 100 * 8 * 1_000_000_000u128 / u128::from(rate);
        assert_eq!(u128::from(out.last().unwrap().1), expected, "{rate} bit/s");
    }
}

#[test]
fn an_idle_link_saves_up_nothing() {
    let mut link = Link::new(LinkConfig::default().with_rate(8_000), 1);
    link.push(Instant::ZERO, packet(0, 10));
    link.push(Instant::from_secs(60), packet(1, 10));
    link.push(Instant::from_secs(60), packet(2, 10));
    let mut out = Vec::new();
    drain(&mut link, Instant::from_secs(100), &mut out);
    assert_eq!(out.last().unwrap().1, Instant::from_millis(60_020).as_nanos());
}

#[test]
fn queue_is_drop_tail() {
    // 1000 B take 1 ms. One is being sent and three wait, by either way of counting.
    for queue in [Queue::Packets(3), Queue::Bytes(3_999)] {
        let config = LinkConfig::default().with_rate(8_000_000).with_queue(queue);
        let mut link = Link::new(config, 1);
        for n in 0..10 {
            link.push(Instant::ZERO, packet(n, 1000));
        }
        assert_eq!((link.stats().queue_drops, link.in_flight()), (6, 4), "{queue:?}");
        // At 1 ms the second is being sent, and so there is room for one.
        for n in 10..12 {
            link.push(Instant::from_millis(1), packet(n, 1000));
        }
        assert_eq!(link.stats().queue_drops, 7, "{queue:?}");
        let mut out = Vec::new();
        drain(&mut link, Instant::from_secs(1), &mut out);
        let numbers: Vec<u32> = out.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 10]);
        assert_conserved(&link);
    }
}

#[test]
fn queue_of_zero_takes_only_what_can_be_sent_at_once() {
    for queue in [Queue::Packets(0), Queue::Bytes(0)] {
        let config = LinkConfig::default().with_rate(8_000_000).with_queue(queue);
        let mut link = Link::new(config, 1);
        link.push(Instant::ZERO, packet(0, 1000));
        link.push(Instant::ZERO, packet(1, 1000));
        link.push(Instant::from_millis(1), packet(2, 1000));
        assert_eq!((link.stats().queue_drops, link.in_flight()), (1, 2), "{queue:?}");
    }
}

#[test]
fn delay_alone_never_fills_the_queue() {
    let config = LinkConfig::default().with_delay(1000 * MS).with_queue(Queue::Packets(1));
    let mut link = Link::new(config, 1);
    assert_eq!(run(&mut link, 5_000, Duration::ZERO).len(), 5_000);
}

#[test]
fn uniform_loss_within_bounds() {
    for (seed, p) in [(1, 0.001), (2, 0.01), (3, 0.2), (4, 1.0), (5, 0.0)] {
        let mut link = Link::new(LinkConfig::default().with_loss(Loss::Uniform(p)), seed);
        let arrived = run(&mut link, 100_000, Duration::from_micros(1)).len();
        let lost = link.stats().lost as f64;
        // Five standard deviations of the binomial distribution.
        let bound = 5.0 * (100_000.0 * p * (1.0 - p)).sqrt();
        assert!((lost - 100_000.0 * p).abs() <= bound, "p {p}: lost {lost}");
        assert_eq!(arrived as u64 + link.stats().lost, 100_000);
    }
}

#[test]
fn bursts_have_the_asked_share_and_length() {
    let mut link = Link::new(LinkConfig::default().with_loss(Loss::bursts(0.02, 5.0)), 11);
    let out = run(&mut link, 400_000, Duration::from_micros(1));
    let share = link.stats().lost as f64 / 400_000.0;
    assert!((0.018..0.022).contains(&share), "share {share}");
    let bursts = out.windows(2).filter(|w| w[1].0 - w[0].0 > 1).count() as f64;
    let length = link.stats().lost as f64 / bursts;
    assert!((4.5..5.5).contains(&length), "length {length}");
}

#[test]
fn gilbert_elliott_loses_in_both_states() {
    let loss = Loss::GilbertElliott { to_bad: 0.01, to_good: 0.04, loss_good: 0.01, loss_bad: 0.5 };
    let mut link = Link::new(LinkConfig::default().with_loss(loss), 3);
    run(&mut link, 400_000, Duration::from_micros(1));
    // A fifth of the time in the bad state: 0.8 * 0.01 + 0.2 * 0.5.
    let share = link.stats().lost as f64 / 400_000.0;
    assert!((0.10..0.116).contains(&share), "share {share}");
}

#[test]
fn jitter_spreads_and_keeps_the_order() {
    let config = LinkConfig::default().with_delay(20 * MS).with_jitter(5 * MS);
    let mut link = Link::new(config, 5);
    // Sparse: no packet is held by the one before.
    let out = run(&mut link, 10_000, 20 * MS);
    let delays: Vec<f64> = out.iter().map(|(n, at)| *at as f64 / 1e6 - f64::from(*n) * 20.0).collect();
    assert!(delays.iter().all(|d| (15.0..=25.0).contains(d)));
    let mean = delays.iter().sum::<f64>() / delays.len() as f64;
    assert!((19.8..20.2).contains(&mean), "mean {mean}");
    assert!(delays.iter().any(|d| *d < 15.1) && delays.iter().any(|d| *d > 24.9));
    // Dense: order is kept.
    let mut link = Link::new(config, 6);
    let out = run(&mut link, 10_000, Duration::from_micros(10));
    assert!(out.windows(2).all(|w| w[0].0 < w[1].0));
    assert_eq!(link.stats().reordered, 0);
}

#[test]
fn jitter_above_the_delay_is_cut_at_zero() {
    let mut link = Link::new(LinkConfig::default().with_delay(MS).with_jitter(5 * MS), 5);
    let out = run(&mut link, 1_000, 20 * MS);
    assert!(out.iter().all(|(n, at)| *at >= u64::from(*n) * 20_000_000));
}

#[test]
fn reordering_happens_as_often_as_asked() {
    let config = LinkConfig::default().with_delay(10 * MS).with_reorder(0.05, 2 * MS);
    let mut link = Link::new(config, 9);
    let out = run(&mut link, 100_000, Duration::from_micros(100));
    let reordered = link.stats().reordered;
    assert!((4_600..5_400).contains(&reordered), "{reordered}");
    let late = out.iter().filter(|(n, at)| at - u64::from(*n) * 100_000 == 12_000_000).count();
    assert_eq!(late as u64, reordered);
    // Nothing overtakes where the packets are further apart than the extra delay.
    let mut link = Link::new(config, 9);
    run(&mut link, 1_000, 5 * MS);
    assert_eq!(link.stats().reordered, 0);
}

#[test]
fn duplicates_follow_their_original() {
    let mut link = Link::new(LinkConfig::default().with_duplicate(0.01), 2);
    let out = run(&mut link, 100_000, Duration::from_micros(1));
    let duplicated = link.stats().duplicated;
    assert!((850..1_150).contains(&duplicated), "{duplicated}");
    assert_eq!(out.windows(2).filter(|w| w[0].0 == w[1].0).count() as u64, duplicated);
    assert_eq!(link.stats().reordered, 0);
    assert_conserved(&link);
}

#[test]
fn corruption_flips_exactly_one_bit_behind_the_header() {
    let config = LinkConfig { link_header: 14, ..LinkConfig::default().with_corrupt(0.1) };
    let mut link = Link::new(config, 4);
    let original = packet(1, 64);
    let mut hit = [false; 64];
    for _ in 0..50_000 {
        link.push(Instant::ZERO, original.clone());
        let arrived = link.pop_due(Instant::ZERO).unwrap();
        let flipped: u32 = original.iter().zip(&arrived).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert!(flipped <= 1);
        for (at, (a, b)) in original.iter().zip(&arrived).enumerate() {
            hit[at] |= a != b;
        }
    }
    let corrupted = link.stats().corrupted;
    assert!((4_700..5_300).contains(&corrupted), "{corrupted}");
    assert!(!hit[..14].contains(&true) && hit[14..].iter().all(|h| *h));
}

#[test]
fn corruption_of_nothing_is_none() {
    let mut link = Link::new(LinkConfig::default().with_corrupt(1.0), 4);
    link.push(Instant::ZERO, Bytes::new());
    assert_eq!(link.pop_due(Instant::ZERO), Some(Bytes::new()));
    assert_eq!(link.stats().corrupted, 0);
}

#[test]
fn mtu_does_not_count_the_link_header() {
    let config = LinkConfig { link_header: 14, ..LinkConfig::default().with_mtu(1500) };
    let mut link = Link::new(config, 4);
    link.push(Instant::ZERO, packet(0, 1514));
    link.push(Instant::ZERO, packet(1, 1515));
    assert_eq!((link.in_flight(), link.stats().too_big), (1, 1));
}

#[test]
fn same_seed_same_fate_and_kinds_do_not_disturb_each_other() {
    let base = LinkConfig::default().with_delay(5 * MS).with_loss(Loss::Uniform(0.05));
    let all =
        base.with_jitter(MS).with_reorder(0.05, MS).with_duplicate(0.05).with_corrupt(0.0).with_rate(1_000_000_000);
    let gap = Duration::from_micros(50);
    let run_all = |seed| run(&mut Link::new(all, seed), 20_000, gap);
    assert_eq!(run_all(1), run_all(1));
    assert_ne!(run_all(1), run_all(2));
    let arrived = |out: Vec<(u32, u64)>| {
        let mut numbers: Vec<u32> = out.into_iter().map(|(n, _)| n).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    assert_eq!(arrived(run_all(1)), arrived(run(&mut Link::new(base, 1), 20_000, gap)));
}

#[test]
fn configuration_changes_on_the_way() {
    let mut link = Link::new(LinkConfig::default().with_delay(10 * MS), 1);
    link.push(Instant::ZERO, packet(0, 10));
    link.set_config(LinkConfig::default().with_delay(2 * MS));
    link.push(Instant::from_millis(1), packet(1, 10));
    link.push(Instant::from_millis(20), packet(2, 10));
    let mut out = Vec::new();
    drain(&mut link, Instant::from_secs(1), &mut out);
    assert_eq!(out, [(0, 10_000_000), (1, 10_000_000), (2, 22_000_000)]);
}
