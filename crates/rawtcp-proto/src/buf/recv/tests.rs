use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

fn check(buffer: &RecvBuffer) {
    let held: usize = buffer.chunks.iter().map(Storage::len).sum();
    assert_eq!(held - buffer.consumed, buffer.len);
    assert!(buffer.chunks.iter().all(|chunk| chunk.len() > 0));
    assert!(buffer.chunks.front().map_or(buffer.consumed == 0, |front| buffer.consumed < front.len()));
    assert_eq!(buffer.charged, buffer.chunks.iter().map(Storage::charge).sum::<usize>());
    assert!(!buffer.chunks.is_empty() || buffer.chunks.capacity() <= FEW_CHUNKS);
}

#[test]
fn segments_that_are_read_at_once_reuse_one_chunk() {
    let mut buffer = RecvBuffer::new(ChunkPool::default());
    let (mut out, mut seen) = ([0; 2_000], None);
    for turn in 0..100 {
        buffer.append(&[turn; 1_448], None);
        let at = buffer.chunks().next().unwrap().as_ptr();
        assert_eq!(*seen.get_or_insert(at), at);
        assert_eq!(buffer.charged(), FIRST_CHUNK);
        assert_eq!(buffer.read(&mut out), 1_448);
        assert_eq!((out[0], out[1_447], buffer.charged()), (turn, turn, 0));
    }
    assert_eq!(buffer.pool.free_bytes(), FIRST_CHUNK);
}

#[test]
fn small_segments_share_chunks() {
    let mut buffer = RecvBuffer::new(ChunkPool::default());
    for _ in 0..100_000 {
        buffer.append(b"x", None);
    }
    assert!(buffer.charged() <= 100_000 + NEXT_CHUNK);
    assert!(buffer.chunks().count() <= 8);
}

#[test]
fn who_is_referenced() {
    let owner = Bytes::from(vec![5; 20_000]);
    for (name, range, shared) in [
        ("all of it", 0..20_000, true),
        ("all but the headers", 52..20_000, true),
        ("half of it", 10_000..20_000, true),
        ("a large slice of a much larger owner", 0..9_000, false),
        ("a small slice", 0..LARGE - 1, false),
    ] {
        let mut buffer = RecvBuffer::new(ChunkPool::default());
        buffer.append(&owner[range.clone()], Some(&owner));
        let same = buffer.chunks().next().unwrap().as_ptr() == owner[range.clone()].as_ptr();
        assert_eq!(same, shared, "{name}");
        assert_eq!(buffer.charged() == owner.len(), shared, "{name}");
        check(&buffer);
    }
    let mut buffer = RecvBuffer::new(ChunkPool::default());
    let foreign = vec![9; 20_000];
    buffer.append(&foreign, Some(&owner));
    assert!(buffer.chunks().flatten().all(|&byte| byte == 9));
}

#[test]
fn a_reference_is_charged_until_its_last_byte_is_read() {
    let owner = Bytes::from(vec![5; 10_000]);
    let mut buffer = RecvBuffer::new(ChunkPool::default());
    buffer.append(&owner, Some(&owner));
    buffer.read(&mut [0; 9_999]);
    assert_eq!((buffer.len(), buffer.charged()), (1, 10_000));
    buffer.read(&mut [0; 9_999]);
    assert_eq!((buffer.len(), buffer.charged()), (0, 0));
}

#[test]
fn chunks_are_handed_out_without_a_copy() {
    let owner = Bytes::from((0..10_000u32).map(|i| i as u8).collect::<Vec<_>>());
    let mut buffer = RecvBuffer::new(ChunkPool::default());
    buffer.append(&owner, Some(&owner));
    assert_eq!(buffer.read_chunk(0), None);
    let first = buffer.read_chunk(6_000).unwrap();
    assert_eq!((first.as_ptr(), first.len(), buffer.charged()), (owner.as_ptr(), 6_000, 10_000));
    let rest = buffer.read_chunk(usize::MAX).unwrap();
    assert_eq!((&rest[..], buffer.charged()), (&owner[6_000..], 0));
    assert_eq!(buffer.read_chunk(1), None);

    buffer.append(&[1; 3_000], None);
    let at = buffer.chunks().next().unwrap().as_ptr();
    assert_eq!(buffer.read_chunk(usize::MAX).unwrap().as_ptr(), at);
    buffer.append(&[1; 30], None);
    let at = buffer.chunks().next().unwrap().as_ptr();
    assert_ne!(buffer.read_chunk(usize::MAX).unwrap().as_ptr(), at, "4 KiB are not given away for 30 bytes");
    assert!(buffer.is_empty() && buffer.pool.free_bytes() == FIRST_CHUNK);
}

#[test]
fn clear_keeps_no_memory() {
    let mut buffer = RecvBuffer::new(ChunkPool::default());
    buffer.append(&[0; 100_000], None);
    buffer.read(&mut [0; 5_000]);
    buffer.clear();
    assert_eq!((buffer.len(), buffer.charged(), buffer.chunks().count()), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agrees_with_a_queue_of_bytes(
        steps in prop::collection::vec(
            (0..8u8, prop_oneof![0..50usize, 0..3_000usize, 0..40_000usize], 0..30_000usize),
            1..80,
        ),
    ) {
        let mut buffer = RecvBuffer::new(ChunkPool::default());
        let mut model: VecDeque<u8> = VecDeque::new();
        let mut next = 0u8;
        for (what, n, extra) in steps {
            match what {
                0..=3 => {
                    let owner: Bytes = (0..n + extra).map(|i| next.wrapping_add((i % 253) as u8)).collect();
                    next = next.wrapping_add(101);
                    let data = &owner[extra..];
                    match what {
                        0 => buffer.append(data, None),
                        1 | 2 => buffer.append(data, Some(&owner)),
                        _ => {
                            let mut vec = Vec::with_capacity(n + extra);
                            vec.extend_from_slice(&owner[..]);
                            buffer.append_storage(Storage::Own(vec), extra);
                        }
                    }
                    model.extend(data);
                }
                4 | 5 => {
                    let mut out = vec![0; n];
                    let expected = n.min(model.len());
                    prop_assert_eq!(buffer.peek(&mut out), expected);
                    prop_assert!(model.iter().take(expected).eq(&out[..expected]));
                    out.fill(0);
                    prop_assert_eq!(buffer.read(&mut out), expected);
                    prop_assert!(model.drain(..expected).eq(out[..expected].iter().copied()));
                }
                6 => match buffer.read_chunk(n) {
                    None => prop_assert!(n == 0 || model.is_empty()),
                    Some(bytes) => {
                        prop_assert!(!bytes.is_empty() && bytes.len() <= n);
                        prop_assert!(model.drain(..bytes.len()).eq(bytes));
                    }
                },
                _ => {
                    buffer.clear();
                    model.clear();
                }
            }
            check(&buffer);
            prop_assert_eq!(buffer.len(), model.len());
            prop_assert!(buffer.charged() <= 2 * buffer.len() + 128 * 1024);
        }
        prop_assert!(buffer.chunks().flatten().eq(model.iter()));
    }
}
