//! What a connection, and what comes before and after it, takes of memory.

#[path = "../tests/common/sizes.rs"]
mod sizes;

use rawtcp_proto::stack::{HalfOpen, TimeWait};

fn main() {
    println!("{:52} {:>8} {:>8} {:>8}", "", "itself", "heap", "bytes");
    for (name, bytes) in [("just opened", 0), ("after 100 kB each way", 100_000), ("after 3 MB each way", 3_000_000)] {
        let size = sizes::idle(bytes);
        let name = format!("an idle connection, {name}");
        println!("{name:52} {:>8} {:>8} {:>8}", size.value, size.heap, size.total());
    }
    let records = [
        ("a half-open record", size_of::<HalfOpen>(), sizes::half_open()),
        ("a TIME-WAIT record", size_of::<TimeWait>(), sizes::time_wait()),
    ];
    for (name, value, all) in records {
        println!("{name:52} {value:>8} {:>8} {all:>8}", all - value);
    }
}
