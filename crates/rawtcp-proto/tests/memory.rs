//! What a connection, and what comes before and after it, may take of memory.

#[path = "common/sizes.rs"]
mod sizes;

use allocation_counter::measure;
use rawtcp_proto::ConnConfig;
use rawtcp_proto::stack::{HalfOpen, TimeWait};
use sizes::Pair;
use std::sync::Arc;

/// Besides buffers, which are not there while nothing is in them.
const IDLE: usize = 1024;

#[test]
fn an_idle_connection_is_small_whatever_it_has_carried() {
    for bytes in [0, 1, 100_000, 3_000_000] {
        let size = sizes::idle(bytes);
        assert!(size.total() <= IDLE, "after {bytes} bytes each way: {size:?}, {} in all", size.total());
    }
}

#[test]
fn records_are_small() {
    // With their place in the table, the order of their deadlines, and what these have allocated ahead.
    assert!(size_of::<HalfOpen>() <= 128, "{}", size_of::<HalfOpen>());
    assert!(size_of::<TimeWait>() <= 64, "{}", size_of::<TimeWait>());
    let (half_open, time_wait) = (sizes::half_open(), sizes::time_wait());
    assert!(half_open <= 512, "{half_open}");
    assert!(time_wait <= 384, "{time_wait}");
}

/// Once its buffers have been there, a connection that talks allocates nothing.
#[test]
fn small_exchanges_allocate_nothing() {
    let config = Arc::new(ConnConfig::default());
    let mut pair = Pair::open(&config);
    for _ in 0..10 {
        pair.exchange(100);
    }
    let info = measure(|| (0..10_000).for_each(|_| pair.exchange(100)));
    assert_eq!(info.count_total, 0, "{info:?}");
    // What a rest has given back is taken again once.
    pair.rest();
    let info = measure(|| (0..10_000).for_each(|_| pair.exchange(100)));
    assert!(info.count_total <= 12, "{info:?}");
}
