//! What the protocol costs by itself: two connections back to back in memory, and one connection with a peer that
//! only acknowledges.
//!
//! ```sh
//! cargo bench -p rawtcp-proto                        # everything
//! cargo bench -p rawtcp-proto -- acks                # the cases whose name contains "acks"
//! cargo bench -p rawtcp-proto -- --no-instructions   # times only
//! ```
//!
//! Times are the best of several rounds: whatever else the machine does only adds to them. Instructions are counted by
//! valgrind, where it is installed, in a run of its own for each case: processors that are shared, as virtual machines
//! are, often do not count any. Their number hardly changes from run to run, so it is what to compare by.

mod acks;
mod instructions;
mod transfer;

use std::time::{Duration, Instant};

/// Something that is repeated and counts what it did.
pub(crate) trait Load {
    /// Does about `n` operations and says how many.
    fn run(&mut self, n: u64) -> u64;
}

/// One line of the table.
struct Case {
    name: &'static str,
    /// What one operation is.
    unit: &'static str,
    /// Payload bytes of one operation, where a rate makes sense.
    bytes: u64,
    /// Operations of one round: some hundredths of a second.
    round: u64,
    build: fn() -> Box<dyn Load>,
}

const CASES: [Case; 10] = [
    transfer::case("segments, protocol alone", transfer::SEGMENT, 20_000, || transfer::load(false, false)),
    transfer::case("segments, as packets", transfer::SEGMENT, 20_000, || transfer::load(false, true)),
    transfer::case("runs of 64 KiB, protocol alone", transfer::RUN, 2_000, || transfer::load(true, false)),
    transfer::case("runs of 64 KiB, as packets", transfer::RUN, 2_000, || transfer::load(true, true)),
    acks::case("acks in order, 10 outstanding", || acks::in_order(10)),
    acks::case("acks in order, 1,000 outstanding", || acks::in_order(1_000)),
    acks::case("acks in order, 10,000 outstanding", || acks::in_order(10_000)),
    acks::case("acks with SACK, 10 outstanding", || acks::with_a_hole(10)),
    acks::case("acks with SACK, 1,000 outstanding", || acks::with_a_hole(1_000)),
    acks::case("acks with SACK, 10,000 outstanding", || acks::with_a_hole(10_000)),
];

/// Rounds of which the best counts.
const ROUNDS: usize = 15;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [flag, name, n] = &args[..]
        && flag == instructions::CHILD
    {
        let case = CASES.iter().find(|case| case.name == name).expect("the parent knows the names");
        (case.build)().run(n.parse().expect("the parent wrote a number"));
        return;
    }
    let count = !args.iter().any(|arg| arg == "--no-instructions") && instructions::available();
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    println!("{:36} {:>10} {:>12} {:>8} {:>13}", "", "ns", "a second", "Gbit/s", "instructions");
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        let best = measure(case);
        let rate = 1e9 / best;
        let gbits = if case.bytes > 0 { format!("{:.1}", rate * case.bytes as f64 * 8e-9) } else { String::new() };
        let instructions = match count {
            true => instructions::per_operation(case.name, case.round).map_or("?".into(), |n| format!("{n:.0}")),
            false => "not counted".into(),
        };
        println!("{:36} {best:>10.1} {rate:>12.0} {gbits:>8} {instructions:>13}  per {}", case.name, case.unit);
    }
}

/// Nanoseconds per operation.
fn measure(case: &Case) -> f64 {
    let mut load = (case.build)();
    load.run(case.round);
    let round = |_| {
        let start = Instant::now();
        let done = load.run(case.round);
        per(start.elapsed(), done)
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

fn per(time: Duration, operations: u64) -> f64 {
    time.as_nanos() as f64 / operations as f64
}
