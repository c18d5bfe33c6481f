use super::*;
use crate::seq::Offset;
use proptest::prelude::*;

fn ms(n: u64) -> Instant {
    Instant::from_millis(n)
}

/// A segment of 1000 bytes that was sent at a time.
#[derive(Clone, Debug)]
struct Sent {
    at: Instant,
    end: u64,
    snapshot: DeliverySnapshot,
}

/// A sender of segments of 1000 bytes.
#[derive(Default)]
struct Sender {
    rate: RateEstimator,
    sent: Vec<Sent>,
    end: u64,
}

impl Sender {
    fn send(&mut self, now: Instant, segments: u64) {
        for _ in 0..segments {
            self.end += 1000;
            let snapshot = self.rate.on_transmit(now, self.sent.is_empty());
            self.sent.push(Sent { at: now, end: self.end, snapshot });
        }
    }

    /// The first `segments` that are outstanding are delivered.
    fn ack(&mut self, now: Instant, segments: usize) -> Option<RateSample> {
        self.ack_these(now, (0..segments).collect(), None)
    }

    fn ack_these(&mut self, now: Instant, which: Vec<usize>, min_rtt: Option<Duration>) -> Option<RateSample> {
        let newest = which.iter().map(|&i| &self.sent[i]).max_by_key(|s| (s.at, s.end)).map(|s| NewestDelivered {
            end: Offset(s.end),
            sent_at: s.at,
            retransmitted: false,
            snapshot: s.snapshot,
            tx_in_flight: 7,
        });
        let delivered = which.len() as u64 * 1000;
        let mut at = 0;
        self.sent.retain(|_| {
            at += 1;
            !which.contains(&(at - 1))
        });
        self.rate.on_ack(now, delivered, newest.as_ref(), min_rtt)
    }
}

#[test]
fn a_flight_at_once_is_delivered_at_the_rate_of_its_acks() {
    let mut s = Sender::default();
    s.send(ms(0), 10);
    // The path takes 100 ms, and 10 ms for each segment.
    for n in 0..10 {
        let sample = s.ack(ms(100 + 10 * n), 1).unwrap();
        assert_eq!((sample.delivered, sample.interval), ((n + 1) * 1000, Duration::from_millis(100 + 10 * n)));
        assert_eq!((sample.prior_delivered, sample.tx_in_flight, sample.lost), (0, 7, 0));
        s.send(ms(100 + 10 * n), 1);
    }
    // The second round: a segment each 10 ms, and nothing else. The first of it was delivered 100 ms after the ACK
    // before it was sent.
    let sample = s.ack(ms(200), 1).unwrap();
    assert_eq!(sample.bytes_per_second(), 100_000);
    assert_eq!(s.rate.last(), (sample.bytes_per_second(), sample.app_limited));
}

#[test]
fn acks_that_come_all_at_once_are_not_faster_than_what_was_sent() {
    let mut s = Sender::default();
    for n in 0..10 {
        s.send(ms(10 * n), 1);
    }
    // Held up on their way, all ACKs arrive in one millisecond.
    let first = s.ack(ms(190), 1).unwrap();
    assert_eq!((first.delivered, first.interval), (1000, Duration::from_millis(190)));
    let last = s.ack(ms(191), 9).unwrap();
    assert_eq!((last.delivered, last.interval), (10_000, Duration::from_millis(191)));
    // Sent before that, but within 90 ms of each other: the send interval is what counts.
    let mut s = Sender::default();
    s.send(ms(0), 1);
    s.ack(ms(100), 1);
    s.send(ms(100), 1);
    for n in 1..=5 {
        s.send(ms(100 + 20 * n), 1);
    }
    s.ack(ms(201), 1);
    let sample = s.ack(ms(202), 5).unwrap();
    assert_eq!((sample.delivered, sample.interval), (6000, Duration::from_millis(102)));
}

#[test]
fn idleness_is_no_part_of_an_interval() {
    let mut s = Sender::default();
    s.send(ms(0), 1);
    s.ack(ms(50), 1);
    s.send(ms(10_000), 2);
    let sample = s.ack(ms(10_050), 2).unwrap();
    assert_eq!((sample.delivered, sample.interval), (2000, Duration::from_millis(50)));
}

#[test]
fn what_was_sent_while_the_application_had_nothing_more_is_marked() {
    let mut s = Sender::default();
    s.send(ms(0), 2);
    s.rate.on_app_limited(2000);
    s.send(ms(10), 1);
    assert!(!s.ack(ms(100), 2).unwrap().app_limited);
    // 2000 bytes delivered are not yet more than when it ran out.
    s.send(ms(101), 1);
    assert!(s.ack(ms(110), 1).unwrap().app_limited);
    s.send(ms(111), 1);
    assert!(s.ack(ms(201), 1).unwrap().app_limited);
    assert!(!s.ack(ms(211), 1).unwrap().app_limited);
}

#[test]
fn a_limited_sample_replaces_only_a_slower_one() {
    let mut s = Sender::default();
    s.send(ms(0), 10);
    let fast = s.ack(ms(10), 10).unwrap();
    s.rate.on_app_limited(0);
    s.send(ms(20), 5);
    let slow = s.ack(ms(30), 5).unwrap();
    assert!(slow.app_limited && slow.bytes_per_second() < fast.bytes_per_second());
    assert_eq!(s.rate.last(), (fast.bytes_per_second(), fast.app_limited));
    s.rate.on_app_limited(0);
    s.send(ms(40), 20);
    let faster = s.ack(ms(50), 20).unwrap();
    assert!(faster.app_limited);
    assert_eq!(s.rate.last(), (faster.bytes_per_second(), faster.app_limited));
    s.send(ms(60), 1);
    s.ack(ms(70), 1);
    s.send(ms(80), 1);
    let free = s.ack(ms(100), 1).unwrap();
    assert!(!free.app_limited && free.bytes_per_second() < fast.bytes_per_second());
    assert_eq!(s.rate.last(), (free.bytes_per_second(), free.app_limited));
}

#[test]
fn an_interval_shorter_than_any_round_trip_is_no_sample() {
    let min = Some(Duration::from_millis(50));
    let mut s = Sender::default();
    s.send(ms(0), 2);
    assert_eq!(s.ack_these(ms(49), vec![0], min), None);
    assert!(s.rate.is_round_start() && s.rate.last() == (0, false));
    assert_eq!(s.rate.delivered(), 1000);
    assert!(s.ack_these(ms(50), vec![0], min).is_some());
    // Nor is one of no time at all.
    let mut s = Sender::default();
    s.send(ms(0), 1);
    assert_eq!(s.ack(ms(0), 1), None);
}

#[test]
fn rounds_are_counted_by_what_was_sent_in_them() {
    let mut s = Sender::default();
    s.send(ms(0), 4);
    let mut starts = Vec::new();
    for n in 0..12 {
        s.ack(ms(100 + n), 1);
        starts.push(s.rate.is_round_start());
        s.send(ms(100 + n), 1);
    }
    let found: Vec<_> = (0..12).filter(|&n| starts[n]).collect();
    assert_eq!(found, [0, 4, 8]);
    // An acknowledgment of nothing starts none.
    s.rate.on_ack(ms(200), 0, None, None);
    assert!(!s.rate.is_round_start());
}

#[test]
fn losses_since_the_segment_left_are_counted() {
    let mut s = Sender::default();
    s.rate.on_lost(5000);
    s.send(ms(0), 2);
    s.rate.on_lost(3000);
    assert_eq!(s.ack(ms(10), 1).unwrap().lost, 3000);
    assert_eq!(s.rate.lost(), 8000);
}

#[derive(Clone, Debug)]
enum Step {
    Send(u64),
    /// These of what is outstanding, as a bit set.
    Ack(u32),
    Wait(u64),
    Limited,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1u64..5).prop_map(Step::Send),
        any::<u32>().prop_map(Step::Ack),
        (0u64..30).prop_map(Step::Wait),
        Just(Step::Limited),
    ];
    prop::collection::vec(step, 1..150)
}

/// The draft's steps, written for one packet at a time and with a whole history instead of counters.
#[derive(Default)]
struct Model {
    /// (when, bytes) of every delivery.
    deliveries: Vec<(Instant, u64)>,
    /// When each packet left, and the total and the time of delivery then, and the start of its send interval.
    packets: Vec<(Instant, u64, Instant, Instant, bool)>,
    first_sent: Instant,
    limited_until: u64,
    idle_start: Instant,
}

impl Model {
    fn total(&self) -> u64 {
        self.deliveries.iter().map(|d| d.1).sum()
    }

    fn send(&mut self, now: Instant, nothing_out: bool) {
        if nothing_out {
            (self.first_sent, self.idle_start) = (now, now);
        }
        let last = self.deliveries.last().map_or(Instant::ZERO, |d| d.0).max(self.idle_start);
        self.packets.push((now, self.total(), last, self.first_sent, self.limited_until > 0));
    }

    fn ack(&mut self, now: Instant, which: &[usize]) -> Option<(u64, Duration, bool)> {
        if which.is_empty() {
            return None;
        }
        self.deliveries.push((now, which.len() as u64 * 1000));
        if self.limited_until > 0 && self.total() > self.limited_until {
            self.limited_until = 0;
        }
        let newest = *which.iter().max_by_key(|&&i| (self.packets[i].0, i))?;
        let (sent, total, delivered_at, first_sent, limited) = self.packets[newest];
        self.first_sent = sent;
        let mut gone = which.to_vec();
        gone.sort_unstable();
        gone.iter().rev().for_each(|&i| _ = self.packets.remove(i));
        let interval = (sent - first_sent).max(now - delivered_at);
        (!interval.is_zero()).then(|| (self.total() - total, interval, limited))
    }
}

proptest! {
    #[test]
    fn agrees_with_the_draft_packet_by_packet(steps in steps()) {
        let (mut s, mut model, mut now) = (Sender::default(), Model::default(), ms(1));
        for step in steps {
            match step {
                Step::Send(n) => {
                    for _ in 0..n {
                        model.send(now, s.sent.is_empty());
                        s.send(now, 1);
                    }
                }
                Step::Ack(set) => {
                    let which: Vec<_> = (0..s.sent.len().min(32)).filter(|i| set >> i & 1 == 1).collect();
                    let expected = model.ack(now, &which);
                    let found = s.ack_these(now, which, None);
                    prop_assert_eq!(found.map(|f| (f.delivered, f.interval, f.app_limited)), expected);
                }
                Step::Wait(n) => now = now + Duration::from_millis(n),
                Step::Limited => {
                    let out = s.sent.len() as u64 * 1000;
                    s.rate.on_app_limited(out);
                    model.limited_until = (model.total() + out).max(1);
                }
            }
            prop_assert_eq!(s.rate.delivered(), model.total());
        }
    }
}
