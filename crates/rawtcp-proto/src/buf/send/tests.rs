use super::*;
use proptest::prelude::*;

fn pattern(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(|i| (i % 251) as u8).collect()
}

fn collect(buffer: &SendBuffer, from: u64, to: u64) -> Vec<u8> {
    buffer.slices(Offset(from)..Offset(to), &[]).flatten().copied().collect()
}

fn check(buffer: &SendBuffer) {
    let mut at = buffer.queue.chunks.front().map_or(buffer.end, |chunk| chunk.start);
    if buffer.has_lent() {
        at = at.min(buffer.queue.lent.start);
    }
    assert!(at <= buffer.start || buffer.is_empty());
    for chunk in buffer.queue.chunks.iter() {
        if buffer.has_lent() && at == buffer.queue.lent.start {
            at = buffer.queue.lent.end;
        }
        assert_eq!(chunk.start, at);
        assert!(chunk.storage.len() > 0 && chunk.end() > buffer.start);
        at = chunk.end();
    }
    if buffer.has_lent() && at == buffer.queue.lent.start {
        at = buffer.queue.lent.end;
    }
    assert_eq!(at, buffer.end);
    if buffer.is_empty() {
        assert!(buffer.queue.chunks.capacity() <= FEW_CHUNKS);
        assert_eq!(buffer.charged(), 0);
    }
}

#[test]
fn offsets_begin_behind_the_syn() {
    let mut buffer = SendBuffer::new(10, ChunkPool::default());
    assert_eq!((buffer.start(), buffer.end(), buffer.free()), (Offset(1), Offset(1), 10));
    assert_eq!(buffer.write(&pattern(1, 4)), 4);
    assert_eq!(buffer.write(&pattern(5, 20)), 6);
    assert_eq!(buffer.write(b"x"), 0);
    assert_eq!((buffer.start(), buffer.end(), buffer.len()), (Offset(1), Offset(11), 10));
}

#[test]
fn ranges_are_clamped_to_what_is_kept() {
    let mut buffer = SendBuffer::new(1 << 20, ChunkPool::default());
    buffer.write(&pattern(1, 100));
    buffer.release_to(Offset(51));
    for (name, from, to, expected) in [
        ("all of it", 51, 101, 51..101),
        ("with the FIN", 91, 102, 91..101),
        ("the FIN only", 101, 102, 101..101),
        ("acknowledged bytes", 1, 60, 51..60),
        ("before everything", 1, 51, 51..51),
        ("empty", 60, 60, 60..60),
        ("reversed", 70, 60, 60..60),
    ] {
        assert_eq!(
            collect(&buffer, from, to),
            pattern(expected.start, (expected.end - expected.start) as usize),
            "{name}"
        );
    }
}

#[test]
fn a_release_beyond_the_end_or_backwards_is_harmless() {
    let mut buffer = SendBuffer::new(100, ChunkPool::default());
    buffer.write(&pattern(1, 10));
    buffer.release_to(Offset(5));
    buffer.release_to(Offset(2));
    assert_eq!((buffer.start(), buffer.len()), (Offset(5), 6));
    buffer.release_to(Offset(12));
    assert_eq!((buffer.start(), buffer.end()), (Offset(11), Offset(11)));
    check(&buffer);
}

#[test]
fn less_capacity_than_bytes_keeps_the_bytes() {
    let mut buffer = SendBuffer::new(100, ChunkPool::default());
    buffer.write(&pattern(1, 80));
    buffer.set_capacity(50);
    assert_eq!((buffer.capacity(), buffer.len(), buffer.free(), buffer.write(b"x")), (50, 80, 0, 0));
    buffer.release_to(Offset(41));
    assert_eq!(buffer.free(), 10);
}

#[test]
fn a_small_dialogue_reuses_one_chunk() {
    let mut buffer = SendBuffer::new(1 << 20, ChunkPool::default());
    let mut seen = None;
    for turn in 0..100u64 {
        buffer.write(&[turn as u8; 200]);
        let at = buffer.slices(buffer.start()..buffer.end(), &[]).next().unwrap().as_ptr();
        assert_eq!(*seen.get_or_insert(at), at);
        assert_eq!(buffer.charged(), FIRST_CHUNK);
        buffer.release_to(buffer.end());
    }
    assert_eq!(buffer.pool.free_bytes(), FIRST_CHUNK);
}

#[test]
fn a_bulk_transfer_recycles_its_chunks_and_sends_in_few_slices() {
    let mut buffer = SendBuffer::new(256 * 1024, ChunkPool::default());
    let mut pointers = std::collections::HashSet::new();
    for _ in 0..2_000 {
        buffer.write(&[7; 10_000]);
        if buffer.free() < 10_000 {
            let range = buffer.start()..buffer.start().add(65_536);
            assert!(buffer.slices(range, &[]).count() <= 3);
            // At most one chunk is let go at a time, and that one is kept: nothing depends on the allocator.
            buffer.release_to(buffer.start().add(60_000));
        }
        pointers.extend(buffer.queue.chunks.iter().map(|chunk| chunk.storage.as_slice().as_ptr()));
    }
    assert!(pointers.len() <= 8, "{} chunks were used for 20 MB", pointers.len());
}

#[test]
fn large_payloads_are_referenced_and_small_ones_are_not() {
    let mut buffer = SendBuffer::new(10_000, ChunkPool::default());
    let large = Bytes::from(pattern(1, LARGE));
    assert_eq!(buffer.write_bytes(large.clone()), LARGE);
    assert_eq!(buffer.slices(Offset(1)..Offset(2), &[]).next().unwrap().as_ptr(), large.as_ptr());
    let small = Bytes::from(pattern(0, 100));
    assert_eq!(buffer.write_bytes(small), 100);
    assert_eq!(buffer.charged(), LARGE + WEDGE_CHUNK);
    let long = Bytes::from(vec![1; 10_000]);
    assert_eq!(buffer.write_bytes(long.clone()), 10_000 - LARGE - 100);
    assert_eq!((buffer.free(), buffer.write_bytes(long)), (0, 0));
    check(&buffer);
}

#[test]
fn clear_keeps_the_place_and_no_memory() {
    let mut buffer = SendBuffer::new(1 << 20, ChunkPool::default());
    buffer.write(&[0; 100_000]);
    buffer.clear();
    assert_eq!((buffer.len(), buffer.start(), buffer.charged()), (0, Offset(100_001), 0));
    buffer.write(b"abc");
    assert_eq!(collect(&buffer, 100_001, 100_004), b"abc");
}

#[test]
fn what_is_lent_is_kept_but_for_what_is_acknowledged() {
    let mut buffer = SendBuffer::new(300_000, ChunkPool::default());
    buffer.write(&pattern(1, 100));
    let data = pattern(101, 400_000);
    assert_eq!(buffer.lend(data.len()), 299_900);
    assert_eq!((buffer.free(), buffer.charged()), (0, FIRST_CHUNK), "it has its room, and no memory");
    let slices: Vec<_> = buffer.slices(Offset(51)..Offset(200_001), &data).collect();
    assert_eq!(slices.concat(), pattern(51, 199_950));
    assert_eq!(slices[1].as_ptr(), data.as_ptr(), "from where it is");
    buffer.release_to(Offset(250_001));
    assert_eq!(buffer.write(&pattern(300_001, 1_000)), 1_000);
    check(&buffer);
    assert_eq!(buffer.slices(Offset(250_001)..Offset(301_001), &data).flatten().count(), 51_000);
    assert_eq!(buffer.keep(&data), 50_000);
    check(&buffer);
    assert_eq!(collect(&buffer, 1, 301_001), pattern(250_001, 51_000));
    assert_eq!(buffer.keep(&[]), 0, "once");
}

#[test]
fn what_is_lent_and_acknowledged_is_not_copied() {
    let mut buffer = SendBuffer::new(300_000, ChunkPool::default());
    for end in [Some(Offset(200_001)), None] {
        let data = pattern(buffer.end().0, 200_000);
        assert_eq!(buffer.lend(data.len()), 200_000);
        match end {
            Some(end) => buffer.release_to(end),
            None => buffer.clear(),
        }
        assert!(!buffer.has_lent());
        assert_eq!((buffer.keep(&data), buffer.len(), buffer.charged()), (0, 0, 0));
        check(&buffer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agrees_with_a_vector(
        capacity in 1..300_000usize,
        steps in prop::collection::vec((0..8u8, prop_oneof![0..200usize, 0..90_000usize], any::<bool>()), 1..60),
    ) {
        let mut buffer = SendBuffer::new(capacity, ChunkPool::default());
        let (mut all, mut start, mut capacity) = (vec![0u8], 1usize, capacity);
        let mut lent = Vec::new();
        for (what, n, flag) in steps {
            match what {
                0..=2 => {
                    let data = pattern(all.len() as u64 * 7, n);
                    let expected = n.min(capacity.saturating_sub(all.len() - start));
                    let taken = if flag { buffer.write(&data) } else { buffer.write_bytes(Bytes::from(data.clone())) };
                    prop_assert_eq!(taken, expected);
                    all.extend_from_slice(&data[..taken]);
                }
                3 => {
                    start = (start + n).min(all.len());
                    buffer.release_to(Offset(start as u64));
                }
                4 => {
                    capacity = 1 + n;
                    buffer.set_capacity(capacity);
                }
                5 if buffer.has_lent() => {
                    buffer.keep(&lent);
                }
                5 => {
                    lent = pattern(all.len() as u64 * 3, n);
                    let taken = buffer.lend(n);
                    prop_assert_eq!(taken, n.min(capacity.saturating_sub(all.len() - start)));
                    all.extend_from_slice(&lent[..taken]);
                }
                _ => {
                    let from = start + (n % (all.len() - start + 1));
                    let to = if flag { all.len() } else { (from + 3_000).min(all.len()) };
                    let slices = buffer.slices(Offset(from as u64)..Offset(to as u64), &lent);
                    prop_assert!(slices.clone().all(|slice| !slice.is_empty()));
                    prop_assert!(slices.flatten().eq(&all[from..to]));
                }
            }
            check(&buffer);
            prop_assert_eq!((buffer.start().0, buffer.end().0), (start as u64, all.len() as u64));
            prop_assert_eq!(buffer.len(), all.len() - start);
        }
        buffer.keep(&lent);
        prop_assert!(buffer.slices(Offset(0)..Offset(u64::MAX), &[]).flatten().eq(&all[start..]));
    }
}
