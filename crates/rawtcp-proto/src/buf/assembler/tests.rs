use super::*;
use crate::buf::ChunkPool;
use proptest::prelude::*;

fn insert(assembler: &mut Assembler, at: u64, data: &[u8]) -> Inserted {
    assembler.insert(Offset(at), data, None, false, usize::MAX, usize::MAX)
}

fn range(start: u64, end: u64) -> OffsetRange {
    Offset(start)..Offset(end)
}

fn ranges(assembler: &Assembler) -> Vec<(u64, u64)> {
    assembler.sack_ranges().map(|r| (r.start.0, r.end.0)).collect()
}

fn taken(assembler: &mut Assembler, next: u64) -> (u64, Vec<u8>) {
    let mut buffer = RecvBuffer::new(ChunkPool::default());
    let end = assembler.take_ready(Offset(next), &mut buffer);
    (end.0, buffer.chunks().flatten().copied().collect())
}

fn check(assembler: &Assembler) {
    let mut covered = RangeSet::new();
    let mut charge = 0;
    for (&start, piece) in &assembler.pieces {
        let len = piece.len() as u64;
        assert!(len > 0);
        assert_eq!(covered.insert(start..start.add(len)), len, "pieces overlap");
        charge += piece.charge() + PIECE_OVERHEAD;
    }
    if let Some(fin) = assembler.fin_at.filter(|&fin| assembler.ranges.contains(fin)) {
        covered.insert(fin..fin.add(1));
    }
    assert_eq!(covered, assembler.ranges);
    assert_eq!(charge, assembler.charged);
    for (i, &start) in assembler.recent.as_slice().iter().enumerate() {
        assert_eq!(assembler.ranges.covering(start).map(|range| range.start), Some(start));
        assert!(!assembler.recent.as_slice()[..i].contains(&start));
    }
}

#[test]
fn the_bytes_that_came_first_stay() {
    use Inserted::{Duplicate, Stored};
    for (name, at, len, outcome, expected) in [
        ("apart", 2, 3, Stored, "bbb.....aaaa....aaaa"),
        ("touching on the left", 6, 4, Stored, "bbbbaaaa....aaaa"),
        ("touching on the right", 14, 3, Stored, "aaaabbb.aaaa"),
        ("overlapping on the left", 7, 5, Duplicate(range(10, 12)), "bbbaaaa....aaaa"),
        ("overlapping on the right", 12, 4, Duplicate(range(12, 14)), "aaaabb..aaaa"),
        ("contained", 11, 2, Duplicate(range(11, 13)), "aaaa....aaaa"),
        ("equal", 10, 4, Duplicate(range(10, 14)), "aaaa....aaaa"),
        ("covering", 8, 8, Duplicate(range(10, 14)), "bbaaaabb..aaaa"),
        ("exactly the gap", 14, 4, Stored, "aaaabbbbaaaa"),
        ("from one into the other", 13, 6, Duplicate(range(13, 14)), "aaaabbbbaaaa"),
        ("spanning both", 8, 16, Duplicate(range(10, 14)), "bbaaaabbbbaaaabb"),
        ("nothing", 16, 0, Stored, "aaaa....aaaa"),
    ] {
        let mut assembler = Assembler::new();
        insert(&mut assembler, 10, b"aaaa");
        insert(&mut assembler, 18, b"aaaa");
        assert_eq!(insert(&mut assembler, at, &vec![b'b'; len]), outcome, "{name}");
        check(&assembler);
        let first = assembler.first().unwrap().0;
        let mut text = String::new();
        while let Some(start) = assembler.first() {
            while (first + text.len() as u64) < start.0 {
                text.push('.');
            }
            text += &String::from_utf8(taken(&mut assembler, start.0).1).unwrap();
        }
        assert_eq!(text, expected, "{name}");
    }
}

#[test]
fn taking_trims_what_came_by_another_way() {
    for (name, next, end, expected) in [
        ("before the gap is filled", 9, 9, ""),
        ("exactly", 10, 14, "abcd"),
        ("into the middle", 12, 14, "cd"),
        ("to the end", 14, 14, ""),
        ("beyond the first", 16, 16, ""),
        ("into the second", 19, 22, "fgh"),
        ("beyond everything", 30, 30, ""),
    ] {
        let mut assembler = Assembler::new();
        insert(&mut assembler, 18, b"efgh");
        insert(&mut assembler, 10, b"abcd");
        assert_eq!(taken(&mut assembler, next), (end, expected.as_bytes().to_vec()), "{name}");
        check(&assembler);
        assert_eq!(assembler.is_empty(), end >= 22, "{name}");
    }
}

#[test]
fn the_range_that_changed_last_comes_first() {
    let mut assembler = Assembler::new();
    for at in [10, 30, 20, 50, 40] {
        insert(&mut assembler, at, b"xx");
    }
    assert_eq!(ranges(&assembler), [(40, 42), (50, 52), (20, 22), (30, 32), (10, 12)]);
    insert(&mut assembler, 32, b"x");
    assert_eq!(ranges(&assembler), [(30, 33), (40, 42), (50, 52), (20, 22), (10, 12)]);
    insert(&mut assembler, 50, b"x");
    assert_eq!(ranges(&assembler)[0], (50, 52), "a duplicate counts: it caused the ACK");
    insert(&mut assembler, 22, &[0; 8]);
    assert_eq!(ranges(&assembler), [(20, 33), (50, 52), (40, 42), (10, 12)], "merged ranges are one");
    taken(&mut assembler, 10);
    assert_eq!(ranges(&assembler), [(20, 33), (50, 52), (40, 42)]);
}

#[test]
fn more_ranges_than_are_remembered_are_listed_all_the_same() {
    let mut assembler = Assembler::new();
    for at in 0..20 {
        insert(&mut assembler, 100 + 10 * at, b"x");
    }
    let all = ranges(&assembler);
    let recent: Vec<_> = (12..20).rev().map(|i| (100 + 10 * i, 101 + 10 * i)).collect();
    assert_eq!((all.len(), &all[..RECENT]), (20, &recent[..]));
    assert_eq!(all[RECENT], (100, 101));
}

#[test]
fn a_fin_is_remembered_and_reported() {
    let mut assembler = Assembler::new();
    let put = |assembler: &mut Assembler, at, data: &[u8], fin| {
        let inserted = assembler.insert(Offset(at), data, None, fin, 100, 10_000);
        check(assembler);
        inserted
    };
    assert_eq!(put(&mut assembler, 10, b"abc", true), Inserted::Stored);
    assert_eq!((assembler.fin_at(), ranges(&assembler)), (Some(Offset(13)), vec![(10, 14)]));
    assert_eq!(put(&mut assembler, 13, b"", true), Inserted::Duplicate(range(13, 14)));
    assert_eq!(put(&mut assembler, 14, b"x", false), Inserted::Refused, "behind the FIN");
    assert_eq!(put(&mut assembler, 13, b"x", false), Inserted::Refused, "in place of the FIN");
    assert_eq!(put(&mut assembler, 8, b"xyzzzzz", false), Inserted::Duplicate(range(10, 13)));
    assert_eq!(put(&mut assembler, 5, b"x", true), Inserted::Stored);
    assert_eq!(assembler.fin_at(), Some(Offset(13)), "there is one FIN");
    assert_eq!(taken(&mut assembler, 8), (13, b"xyabc".to_vec()));
    assert!(assembler.is_empty() && assembler.fin_at() == Some(Offset(13)) && assembler.charged() == 0);
}

#[test]
fn a_fin_before_data_is_not_believed() {
    let mut assembler = Assembler::new();
    insert(&mut assembler, 20, b"x");
    assert_eq!(assembler.insert(Offset(10), b"x", None, true, 9, 9_999), Inserted::Stored);
    assert_eq!((assembler.fin_at(), ranges(&assembler)), (None, vec![(10, 11), (20, 21)]));
}

#[test]
fn a_lone_fin_needs_no_memory() {
    let mut assembler = Assembler::new();
    assert_eq!(assembler.insert(Offset(10), b"", None, true, 1, 0), Inserted::Stored);
    assert_eq!((ranges(&assembler), assembler.charged()), (vec![(10, 11)], 0));
    assert_eq!(taken(&mut assembler, 10), (10, vec![]));
    assert!(assembler.is_empty());
    assert_eq!(taken(&mut assembler, 11), (11, vec![]));
}

#[test]
fn a_refusal_changes_nothing() {
    let mut assembler = Assembler::new();
    insert(&mut assembler, 10, b"x");
    insert(&mut assembler, 20, b"x");
    let (before, charged) = (ranges(&assembler), assembler.charged());
    for (at, limit_ranges, limit_charge) in [(30, 2, usize::MAX), (30, 9, charged), (5, 2, usize::MAX)] {
        let inserted = assembler.insert(Offset(at), b"xx", None, true, limit_ranges, limit_charge);
        assert_eq!(inserted, Inserted::Refused);
        assert_eq!((ranges(&assembler), assembler.charged(), assembler.fin_at()), (before.clone(), charged, None));
    }
    let joined = assembler.insert(Offset(11), &[0; 9], None, false, 2, charged);
    assert_eq!(joined, Inserted::Stored, "it makes no range more and fits the last piece");
    assert_eq!(ranges(&assembler), [(10, 21)]);
}

#[test]
fn a_run_is_extended_in_place() {
    let mut assembler = Assembler::new();
    for i in 0..1_000 {
        insert(&mut assembler, 100 + 1_448 * i, &[i as u8; 1_448]);
    }
    assert!(assembler.pieces.len() <= 1_448_000 / MAX_PIECE + 6, "{} pieces", assembler.pieces.len());
    assert!(assembler.charged() <= 1_448_000 * 11 / 10);
    check(&assembler);
}

#[test]
fn eight_thousand_single_bytes_are_bounded() {
    // Where byte `i` of 8,000 goes: first + step * (i * shuffle modulo 8,000).
    for (name, first, step, shuffle) in [
        ("every other one", 10, 2, 1),
        ("every other one, backwards", 20_000, -2, 1),
        ("adjacent, backwards", 20_000, -1, 1),
        ("scattered", 10, 2, 4_801),
    ] {
        let place = |i: i64| (first + step * (i * shuffle % 8_000)) as u64;
        let mut assembler = Assembler::new();
        let mut refused = 0;
        let owner = Bytes::from(vec![7; 65_536]);
        for i in 0..8_000 {
            let inserted = assembler.insert(Offset(place(i)), &owner[..1], Some(&owner), false, 1_000, 256 * 1024);
            refused += usize::from(inserted == Inserted::Refused);
            assert_eq!(assembler.sack_ranges().take(4).count(), assembler.ranges().min(4));
        }
        check(&assembler);
        assert!(refused > 6_000, "{name}: {refused}");
        assert!(assembler.charged() <= 256 * 1024 && assembler.ranges() <= 1_000, "{name}");
        assert!(assembler.pieces.len() <= 256 * 1024 / PIECE_OVERHEAD, "{name}: every piece is paid for");
        let all = insert(&mut assembler, 10, &vec![8; 20_000]);
        assert!(matches!(all, Inserted::Duplicate(_)));
        let (end, bytes) = taken(&mut assembler, 10);
        assert_eq!((end, bytes.len()), (20_010.max(end), end as usize - 10), "{name}");
    }
}

#[test]
fn large_payloads_are_referenced_all_the_way() {
    let mut assembler = Assembler::new();
    let owner = Bytes::from((0..30_000u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    assembler.insert(Offset(1_000), &owner[52..], Some(&owner), false, 9, usize::MAX);
    assert_eq!(assembler.charged(), owner.len() + PIECE_OVERHEAD);
    let mut buffer = RecvBuffer::new(ChunkPool::default());
    assert_eq!(assembler.take_ready(Offset(1_010), &mut buffer), Offset(1_000 + 29_948));
    assert_eq!(buffer.chunks().next().unwrap().as_ptr(), owner[62..].as_ptr());
    assert_eq!((buffer.charged(), assembler.charged()), (owner.len(), 0));
}

const SPACE: usize = 60_000;

/// What is at each place: a byte, the FIN, or nothing.
#[derive(Clone)]
struct Model {
    bytes: Vec<Option<u8>>,
    fin: Option<usize>,
}

impl Model {
    fn here(&self, at: usize) -> bool {
        self.bytes[at].is_some() || self.fin == Some(at)
    }

    fn ranges(&self, from: usize, to: usize) -> Vec<OffsetRange> {
        let mut set = RangeSet::new();
        for at in (from..to).filter(|&at| self.here(at)) {
            set.insert(range(at as u64, at as u64 + 1));
        }
        set.iter().collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn agrees_with_a_map_of_bytes(
        places in prop::collection::vec(
            (
                0..SPACE / 2,
                prop_oneof![1..40usize, 1..2_000usize, 4_000..20_000usize],
                any::<bool>(),
                0..6_000usize,
                0..12u8,
            ),
            1..40,
        ),
        fin in prop::option::of(0..40usize),
    ) {
        let mut assembler = Assembler::new();
        let mut model = Model { bytes: vec![None; SPACE + 1], fin: None };
        let (mut next, mut buffer) = (0usize, RecvBuffer::new(ChunkPool::default()));
        for (i, (at, len, owned, extra, take)) in places.into_iter().enumerate() {
            let owner: Bytes = (0..len + extra).map(|k| (i * 37 + k) as u8).collect();
            let data = &owner[extra..];
            let fin = fin == Some(i);
            let before = model.clone();
            let outcome = assembler.insert(Offset(at as u64), data, owned.then_some(&owner), fin, 12, 150_000);
            check(&assembler);
            prop_assert!(assembler.charged() <= 150_000 && assembler.ranges() <= 12);
            if outcome != Inserted::Refused {
                let end = before.fin.map_or(at + len, |known| known.min(at + len));
                let beyond = (at + len..=SPACE).any(|k| before.here(k));
                let fin = fin && before.fin.map_or(!beyond, |known| known == at + len);
                for k in at..end {
                    model.bytes[k].get_or_insert(data[k - at]);
                }
                if fin {
                    model.fin = Some(at + len);
                }
                let duplicate = before.ranges(at, end + usize::from(fin)).into_iter().next();
                prop_assert_eq!(outcome, duplicate.map_or(Inserted::Stored, Inserted::Duplicate));
                let at_first = assembler.sack_ranges().next().unwrap();
                prop_assert!(at_first.contains(&Offset(at as u64)));
            }
            let mut sack: Vec<_> = assembler.sack_ranges().collect();
            sack.sort_by_key(|r| r.start);
            prop_assert_eq!(sack, model.ranges(0, SPACE));
            if take == 0 {
                next = (next + len).min(SPACE);
                let end = assembler.take_ready(Offset(next as u64), &mut buffer).0 as usize;
                prop_assert!(model.bytes[next..end].iter().all(|b| b.is_some()));
                prop_assert!(model.bytes[end].is_none());
                let mut out = vec![0; end - next];
                prop_assert_eq!(buffer.read(&mut out), end - next);
                prop_assert!(out.iter().copied().eq(model.bytes[next..end].iter().flatten().copied()));
                prop_assert!(buffer.is_empty());
                model.bytes[..end].fill(None);
                next = end;
                check(&assembler);
                if model.fin.is_some_and(|f| f <= end) { break; }
            }
        }
    }
}
