use super::*;

const MSS: u64 = 1000;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// One ACK of a segment out of `in_flight`.
fn ack(hystart: &mut HyStart, in_flight: u64, rtt: Duration) -> bool {
    hystart.on_ack(&AckSample {
        acked: MSS,
        in_flight: in_flight * MSS,
        rtt: Some(rtt),
        cwnd_limited: true,
        ..AckSample::default()
    })
}

/// A round of `n` ACKs that leaves as many segments in flight; answers whether slow start is over.
fn round(hystart: &mut HyStart, n: u64, rtt: Duration) -> bool {
    // Each ACK but the last lets two segments leave; what is in flight at the last is the next round.
    (1..=n).fold(false, |over, _| ack(hystart, n + 1, rtt) || over)
}

/// After the handshake: the first ACK only begins a round.
fn begun(n: u64, rtt: Duration) -> HyStart {
    let mut hystart = HyStart::default();
    assert!(!ack(&mut hystart, n + 1, rtt));
    hystart
}

#[test]
fn rounds_are_found_by_the_bytes_in_flight_when_they_begin() {
    let mut hystart = begun(10, ms(50));
    assert_eq!((hystart.left, hystart.last_min.get(), hystart.samples), (10 * MSS, Some(ms(50)), 0));
    for n in 1..10 {
        ack(&mut hystart, 20, ms(60));
        assert_eq!((hystart.left, hystart.samples), ((10 - n) * MSS, n as u32));
    }
    ack(&mut hystart, 21, ms(61));
    assert_eq!((hystart.left, hystart.last_min.get(), hystart.samples), (20 * MSS, Some(ms(60)), 0));
}

#[test]
fn a_connection_that_tells_rounds_is_believed() {
    let mut hystart = HyStart::default();
    let sample = AckSample { acked: MSS, in_flight: MSS, rtt: Some(ms(50)), ..AckSample::default() };
    hystart.on_ack(&AckSample { round_start: true, ..sample });
    for _ in 0..20 {
        hystart.on_ack(&sample);
    }
    assert_eq!((hystart.last_min.get(), hystart.samples), (None, 21));
    hystart.on_ack(&AckSample { round_start: true, rtt: Some(ms(70)), ..sample });
    assert_eq!((hystart.last_min.get(), hystart.min.get(), hystart.samples), (Some(ms(50)), Some(ms(70)), 1));
}

#[test]
fn the_threshold_is_an_eighth_of_the_round_trip_within_4_and_16_ms() {
    for (before, after, slows) in [
        (8, 11_999, false),
        (8, 12_000, true),
        (80, 89_999, false),
        (80, 90_000, true),
        (400, 415_999, false),
        (400, 416_000, true),
    ] {
        let mut hystart = begun(10, ms(before));
        round(&mut hystart, 10, Duration::from_micros(after));
        assert_eq!(hystart.conservative.is_some(), slows, "{before} ms to {after} µs");
    }
}

#[test]
fn fewer_than_eight_samples_prove_nothing() {
    let mut hystart = begun(10, ms(50));
    for _ in 0..7 {
        ack(&mut hystart, 11, ms(90));
        assert_eq!(hystart.conservative, None);
    }
    ack(&mut hystart, 11, ms(90));
    assert_eq!(hystart.conservative, Some(Box::new(Conservative { baseline: ms(90), rounds: 0, carry: 0 })));

    // A single short round trip is the minimum of its round.
    let mut hystart = begun(10, ms(50));
    ack(&mut hystart, 11, ms(50));
    round(&mut hystart, 9, ms(90));
    assert_eq!(hystart.conservative, None);
}

#[test]
fn round_trips_that_an_application_limited_flow_sees_are_not_its_own_queue() {
    let mut hystart = begun(10, ms(50));
    for _ in 0..9 {
        let sample = AckSample { acked: MSS, in_flight: 11 * MSS, rtt: Some(ms(90)), ..AckSample::default() };
        hystart.on_ack(&sample);
    }
    assert_eq!(hystart.conservative, None);
}

#[test]
fn conservative_growth_is_a_quarter_and_loses_no_byte() {
    let mut hystart = begun(10, ms(50));
    assert_eq!(hystart.growth(999), 999);
    round(&mut hystart, 10, ms(90));
    assert_eq!((1..=1000).map(|_| hystart.growth(3)).sum::<u64>(), 750);
    assert_eq!(hystart.growth(u64::MAX), u64::MAX / 4);
}

#[test]
fn five_rounds_end_it_and_the_one_it_began_in_is_the_first() {
    let mut hystart = begun(10, ms(50));
    let over: Vec<_> = (0..5).map(|_| round(&mut hystart, 10, ms(90))).collect();
    assert_eq!(over, [false, false, false, false, true]);
}

#[test]
fn shorter_round_trips_resume_slow_start_and_the_search() {
    let mut hystart = begun(10, ms(50));
    round(&mut hystart, 10, ms(90));
    round(&mut hystart, 10, ms(90));
    assert!(hystart.conservative.is_some());
    assert!(!round(&mut hystart, 10, ms(89)));
    assert_eq!(hystart.conservative, None);
    assert_eq!(hystart.growth(1000), 1000);
    // Later it is found again, with all five rounds.
    let over: Vec<_> = (0..5).map(|_| round(&mut hystart, 10, ms(120))).collect();
    assert_eq!(over, [false, false, false, false, true]);
}
