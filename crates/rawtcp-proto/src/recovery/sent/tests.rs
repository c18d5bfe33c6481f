//! Named tables for the edges, operation sequences against the oracle, and the count of steps.

mod oracle;
mod steps;

use super::*;
use oracle::Oracle;
use proptest::prelude::*;

const SNAP: DeliverySnapshot = DeliverySnapshot {
    delivered: 0,
    delivered_at: Instant::ZERO,
    first_sent_at: Instant::ZERO,
    app_limited: false,
    lost: 0,
};

fn ms(n: u64) -> Instant {
    Instant::from_millis(n)
}

fn at(n: u64) -> Offset {
    Offset(n)
}

fn range(from: u64, to: u64) -> OffsetRange {
    Offset(from)..Offset(to)
}

/// Data from offset 0 to 1000 in segments of 100, one run, sent at 1 ms.
fn thousand() -> SentQueue {
    let mut q = SentQueue::new(at(0));
    q.on_send(range(0, 1000), 100, ms(1), SNAP);
    q
}

fn sack(q: &mut SentQueue, from: u64, to: u64) -> AckOutcome {
    let mut out = q.on_ack(q.una(), ms(50));
    q.on_sack(range(from, to), &mut out);
    q.check_invariants();
    out
}

fn rack(sent: u64, end: u64) -> RackView {
    let ten = Duration::from_millis(10);
    RackView { newest_sent_at: ms(sent), newest_end: at(end), reo_wnd: ten / 5, rtt: ten }
}

#[test]
fn sacked_is_what_is_wholly_covered() {
    // (block; sacked bytes)
    let table = [
        ((100, 200), 100),
        ((150, 250), 0),
        ((150, 300), 100),
        ((101, 399), 100),
        ((0, 100), 100),
        ((900, 1000), 100),
        ((950, 1000), 0),
        ((900, 1001), 0), // beyond SND.NXT: never sent
        ((500, 500), 0),
        ((600, 500), 0),
        ((2000, 3000), 0),
        ((0, u64::MAX), 0),
    ];
    for ((from, to), bytes) in table {
        let mut q = thousand();
        let out = sack(&mut q, from, to);
        assert_eq!((out.newly_sacked, out.delivered, q.sacked_bytes()), (bytes, bytes, bytes), "{from}..{to}");
        assert_eq!(q.in_flight(), 1000 - bytes);
        assert_eq!(sack(&mut q, from, to).newly_sacked, 0, "told twice");
    }
}

#[test]
fn blocks_below_una_do_nothing_and_straddling_ones_count_above_it() {
    let mut q = thousand();
    q.on_ack(at(250), ms(2));
    assert_eq!(sack(&mut q, 0, 200).newly_sacked, 0);
    assert_eq!(sack(&mut q, 100, 400).newly_sacked, 150, "the rest of a partly acknowledged segment, and one more");
}

#[test]
fn an_acknowledgment_inside_a_segment_takes_its_bytes_only() {
    let mut q = thousand();
    let out = q.on_ack(at(150), ms(11));
    q.check_invariants();
    assert_eq!((out.newly_acked, out.delivered, q.outstanding()), (150, 150, 850));
    assert_eq!(out.newest.unwrap().end, at(100), "half a segment is not a delivered segment");
    assert_eq!(out.rtt_sample(), Some(Duration::from_millis(10)));
    assert_eq!(q.mark_first_lost(), 50);
    assert_eq!(q.next_lost(1000), Some(range(150, 200)));
    q.on_retransmit(range(150, 200), ms(12), SNAP);
    assert_eq!((q.lost_bytes(), q.retransmitted_out(), q.in_flight()), (0, 50, 850));
    let out = q.on_ack(at(180), ms(20));
    q.check_invariants();
    assert_eq!((out.newest, out.any_retransmitted_acked, out.rtt_sample()), (None, true, None));
    assert_eq!(q.retransmitted_out(), 20);
    let out = q.on_ack(at(1000), ms(21));
    assert_eq!((q.outstanding(), q.in_flight(), q.retransmitted_out()), (0, 0, 0));
    let newest = out.newest.unwrap();
    assert_eq!((newest.end, newest.sent_at, newest.retransmitted), (at(200), ms(12), true));
    assert_eq!(out.newest_original.unwrap().end, at(1000));
}

#[test]
fn acknowledgments_of_nothing_and_of_more_than_was_sent() {
    let mut q = thousand();
    assert_eq!(q.on_ack(at(0), ms(2)), AckOutcome::new(ms(2), at(0)));
    assert_eq!(q.on_ack(at(5000), ms(2)).newly_acked, 1000);
    assert_eq!((q.una(), q.nxt(), q.outstanding()), (at(1000), at(1000), 0));
    assert_eq!((q.first_range(10), q.last_range(), q.next_lost(10), q.head_sent_at()), (None, None, None, None));
    assert_eq!(q.mark_first_lost() + q.mark_all_lost() + q.forget_sacks(), 0);
    assert_eq!(q.detect_lost(&rack(9, 0), ms(99)), Detected::default());
    q.on_retransmit(range(0, 1000), ms(2), SNAP);
    q.check_invariants();
}

#[test]
fn runs_coalesce_only_when_nothing_tells_them_apart() {
    let other = DeliverySnapshot { delivered: 1, ..SNAP };
    // (second send: length, segment, time, snapshot; runs afterwards)
    let table = [
        ((100, 100, 1, SNAP), 1),
        ((150, 100, 1, SNAP), 1),
        ((6_000, 100, 1, SNAP), 2),
        ((13_000, 100, 1, SNAP), 3),
        ((100, 99, 1, SNAP), 2),
        ((100, 100, 2, SNAP), 2),
        ((100, 100, 1, other), 2),
    ];
    for ((len, segment, time, snap), runs) in table {
        let mut q = thousand();
        q.on_send(range(1000, 1000 + len), segment, ms(time), snap);
        q.check_invariants();
        assert_eq!((q.runs.len(), q.outstanding()), (runs, 1000 + len), "{len} {segment} {time}");
    }
    let mut q = thousand();
    q.on_send(range(1000, 1050), 100, ms(1), SNAP);
    q.on_send(range(1050, 1150), 100, ms(1), SNAP);
    assert_eq!(q.runs.len(), 2, "nothing follows a short segment");
    let mut q = thousand();
    q.on_retransmit(range(0, 100), ms(1), SNAP);
    q.on_ack(at(100), ms(1));
    q.on_send(range(1000, 1100), 100, ms(1), SNAP);
    q.mark_all_lost();
    q.on_retransmit(range(100, 1100), ms(1), SNAP);
    q.check_invariants();
}

#[test]
fn syn_and_fin_count_one() {
    let mut q = SentQueue::new(at(0));
    q.on_send(range(0, 1), 1, ms(1), SNAP);
    assert_eq!((q.in_flight(), q.last_range()), (1, Some(range(0, 1))));
    assert_eq!(q.on_ack(at(1), ms(3)).rtt_sent_at, Some(ms(1)));
    q.on_send(range(1, 102), 100, ms(4), SNAP);
    assert_eq!((q.in_flight(), q.last_range()), (101, Some(range(101, 102))));
    assert_eq!(q.on_ack(at(102), ms(5)).newly_acked, 101);
}

#[test]
fn next_lost_gives_whole_segments_or_a_piece_of_one() {
    let mut q = thousand();
    q.on_ack(at(30), ms(2));
    sack(&mut q, 300, 400);
    q.mark_all_lost();
    let table = [(0, None), (1, Some(31)), (69, Some(99)), (70, Some(100)), (169, Some(100)), (170, Some(200))];
    for (max, end) in table.into_iter().chain([(300, Some(300)), (u64::MAX, Some(300))]) {
        assert_eq!(q.next_lost(max), end.map(|end| range(30, end)), "at most {max}");
        assert_eq!(q.first_range(max), q.next_lost(max));
    }
    q.on_retransmit(range(30, 300), ms(3), SNAP);
    assert_eq!(q.next_lost(u64::MAX), Some(range(400, 1000)));
    assert_eq!(q.first_range(u64::MAX), Some(range(30, 300)));
    assert_eq!(q.head_sent_at(), Some(ms(3)));
    q.check_invariants();
}

#[test]
fn retransmitting_a_piece_cuts_the_segment() {
    let mut q = thousand();
    q.mark_all_lost();
    q.on_retransmit(range(220, 250), ms(2), SNAP);
    q.check_invariants();
    assert_eq!((q.retransmitted_out(), q.lost_bytes()), (30, 970));
    q.on_retransmit(range(240, 450), ms(3), SNAP);
    q.check_invariants();
    assert_eq!((q.retransmitted_out(), q.lost_bytes()), (230, 770));
    assert_eq!(q.next_lost(u64::MAX), Some(range(0, 200)));
    let out = sack(&mut q, 220, 240);
    assert_eq!((out.newly_sacked, out.newest.unwrap().sent_at), (20, ms(2)));
    assert_eq!(q.on_ack(at(1000), ms(9)).newest.unwrap().sent_at, ms(3));
    q.check_invariants();
}

#[test]
fn reordering_is_an_original_below_what_was_known_before() {
    let mut q = thousand();
    assert_eq!(sack(&mut q, 500, 600).lowest_sacked_never_retransmitted, None);
    assert_eq!(sack(&mut q, 600, 700).lowest_sacked_never_retransmitted, None);
    let mut out = q.on_ack(at(100), ms(50));
    q.on_sack(range(800, 900), &mut out);
    q.on_sack(range(300, 400), &mut out);
    assert_eq!(out.lowest_sacked_never_retransmitted, Some(at(0)), "SND.UNA counts too");
    q.on_retransmit(range(100, 200), ms(51), SNAP);
    let out = sack(&mut q, 100, 200);
    assert_eq!(out.lowest_sacked_never_retransmitted, None, "a retransmission may come late");
    assert_eq!(q.fack(), at(900));
}

/// What was found, the last-sent lost segment by when it left and what was in flight then.
fn found(lost: u64, newest: Option<(u64, u64)>, next_deadline: Option<Instant>) -> Detected {
    let newest = newest.map(|(sent, tx_in_flight)| LostSegment { sent_at: ms(sent), snapshot: SNAP, tx_in_flight });
    Detected { lost, newest, next_deadline }
}

#[test]
fn detection_follows_send_order_and_breaks_ties_by_sequence() {
    let mut q = thousand();
    q.on_send(range(1000, 1200), 100, ms(3), SNAP);
    // RACK.segment is the one that ends at 500, of the same instant: those before it only.
    assert_eq!(q.detect_lost(&rack(1, 500), ms(12)).next_deadline, Some(ms(13)));
    assert_eq!(q.detect_lost(&rack(1, 500), ms(13)), found(400, Some((1, 400)), None));
    // One sent later was delivered: the rest of the first run at once, the second has to wait.
    sack(&mut q, 1100, 1200);
    assert_eq!(q.detect_lost(&rack(3, 1200), ms(14)), found(600, Some((1, 1000)), Some(ms(15))));
    q.on_retransmit(range(0, 200), ms(15), SNAP);
    assert_eq!(q.detect_lost(&rack(3, 1200), ms(15)), found(100, Some((3, 1100)), None));
    // The retransmission itself is lost, once something sent after it was delivered.
    q.on_retransmit(range(200, 300), ms(16), SNAP);
    sack(&mut q, 200, 300);
    assert_eq!(q.detect_lost(&rack(16, 300), ms(26)), found(0, None, Some(ms(27))));
    assert_eq!(q.detect_lost(&rack(16, 300), ms(27)), found(200, Some((15, 300)), None));
    assert_eq!((q.next_lost(u64::MAX), q.retransmitted_out()), (Some(range(0, 200)), 0));
    q.check_invariants();
}

#[test]
fn undo_puts_segments_before_loss_detection_again() {
    let mut q = thousand();
    assert_eq!(q.detect_lost(&rack(5, 0), ms(20)).lost, 1000);
    q.on_retransmit(range(0, 100), ms(21), SNAP);
    q.unmark_lost();
    q.check_invariants();
    assert_eq!((q.lost_bytes(), q.in_flight(), q.next_lost(9)), (0, 1000, None));
    assert_eq!(q.detect_lost(&rack(30, 0), ms(40)).lost, 1000, "originals and the retransmission");
}

#[test]
fn reneging_makes_sacked_segments_lost() {
    let mut q = thousand();
    q.on_retransmit(range(500, 600), ms(3), SNAP);
    sack(&mut q, 400, 700);
    assert_eq!(q.forget_sacks(), 300);
    q.check_invariants();
    assert_eq!((q.sacked_bytes(), q.lost_bytes(), q.fack()), (0, 300, at(0)));
    q.unmark_lost();
    q.check_invariants();
    assert_eq!(q.next_lost(u64::MAX), Some(range(500, 600)), "nobody knows any more when it was sent");
    let newest = sack(&mut q, 500, 600).newest.unwrap();
    assert!(newest.retransmitted && newest.sent_at == ms(1));
}

#[test]
fn a_smaller_path_cuts_what_is_alike_together() {
    let mut q = thousand();
    q.on_ack(at(50), ms(2));
    sack(&mut q, 300, 500);
    q.mark_all_lost();
    q.on_retransmit(range(50, 200), ms(3), SNAP);
    let before = (q.in_flight(), q.sacked_bytes(), q.lost_bytes(), q.retransmitted_out());
    q.resegment(60);
    q.check_invariants();
    assert_eq!((q.in_flight(), q.sacked_bytes(), q.lost_bytes(), q.retransmitted_out()), before);
    assert_eq!(q.next_lost(60), Some(range(200, 260)));
    q.on_retransmit(range(200, 260), ms(4), SNAP);
    assert_eq!(q.next_lost(60), Some(range(260, 300)));
    assert_eq!(sack(&mut q, 50, 110).newest.unwrap().sent_at, ms(3));
    q.resegment(100);
    assert_eq!(q.last_range(), Some(range(980, 1000)), "never larger again");
}

#[test]
fn a_lost_burst_of_retransmissions_leaves_no_rubbish() {
    let mut q = thousand();
    for n in 0..1000 {
        q.mark_all_lost();
        let range = q.next_lost(if n == 0 { 100 } else { 1000 }).unwrap();
        q.on_retransmit(if n == 0 { range } else { at(100)..at(1000) }, ms(n), SNAP);
        q.check_invariants();
        assert!(q.copies.queue.len() <= 40, "{}", q.copies.queue.len());
    }
}

fn operation() -> impl Strategy<Value = oracle::Op> {
    use oracle::Op::*;
    let pick = || 0u64..=1000;
    prop_oneof![
        6 => (1u64..3000, prop_oneof![Just(100u32), Just(100), Just(37), Just(7)]).prop_map(|(len, seg)| Send(len, seg)),
        3 => (pick(), any::<bool>()).prop_map(|(to, whole)| Ack(to, whole)),
        8 => (pick(), pick(), any::<bool>()).prop_map(|(a, b, whole)| Sack(a, b, whole)),
        8 => (1u64..1000).prop_map(RetransmitLost),
        2 => (pick(), pick()).prop_map(|(a, b)| Retransmit(a, b)),
        2 => Just(Probe),
        2 => Just(MarkFirst),
        1 => Just(MarkAll),
        1 => Just(Unmark),
        1 => Just(Forget),
        1 => (20u32..120).prop_map(Resegment),
        8 => (pick(), pick(), 0u64..12).prop_map(|(a, b, wait)| Detect(a, b, wait)),
        6 => (0u64..6).prop_map(Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_oracle(ops in prop::collection::vec(operation(), 1..120)) {
        let mut q = SentQueue::new(at(1));
        let mut oracle = Oracle::new(at(1));
        for op in ops {
            oracle.run(&mut q, &op);
            q.check_invariants();
            oracle.compare(&q);
        }
    }
}
