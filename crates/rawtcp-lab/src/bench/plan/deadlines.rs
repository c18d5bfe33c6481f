//! What is to happen at a certain time: ours under each kind of driver against the kernel.

use super::{Better, Conditions, Figure, Group, Offloads, Path, RR, figure};
use crate::bench::deadlines::{Absorb, Emit, Lost, Watch, What};
use crate::bench::rr;
use crate::bench::{Bench, Beside, Part};
use crate::measure::net::Whose;
use crate::role::{Drive, Job, Work};

const PACE: &[Figure] = &[
    figure("gap off by, p50", "seen.p50_us", "µs", Better::Lower),
    figure("p90", "seen.p90_us", "µs", Better::Lower),
    figure("p99", "seen.p99_us", "µs", Better::Lower),
    figure("p99.9", "seen.p999_us", "µs", Better::Lower),
    figure("rate, of what is asked", "seen.rate", "×", Better::Higher),
    figure("burst", "seen.burst_kib", "KiB", Better::Lower),
    figure("machine CPU", "machine_cpu_s", "s", Better::Lower),
];
const AFTER: &[Figure] = &[
    figure("after, p50", "seen.p50_us", "µs", Better::Lower),
    figure("p90", "seen.p90_us", "µs", Better::Lower),
    figure("p99", "seen.p99_us", "µs", Better::Lower),
    figure("p99.9", "seen.p999_us", "µs", Better::Lower),
    figure("samples", "seen.samples", "", Better::Higher),
];

/// What drives ours, and how the program runs: one thread, two workers, one thread and the driver's.
const DRIVERS: [(&str, usize, bool); 3] =
    [("one thread", 0, false), ("two workers", 2, false), ("Driver::Thread", 0, true)];

/// Connections on which single bytes are sent.
const LONE: usize = 50;

impl Bench {
    /// On the wire between two hosts only: it is there that things are seen.
    pub(super) fn deadlines(&self, conditions: &Conditions) -> Vec<Group> {
        if self.path(&conditions.device) != Path::Veth {
            return Vec::new();
        }
        let mss = if conditions.at.is_ipv4() { 1448 } else { 1428 };
        let mut groups = Vec::new();
        for beside in &self.beside {
            let beside_busy = *beside == Beside::Busy;
            let suffix = if beside_busy { ", beside a busy stream" } else { "" };
            let mut add = |part: Part, what: &str, watch, emitted| {
                if !self.part.contains(&part) {
                    return;
                }
                let ours = match part {
                    Part::Ack => [Whose::Kernel, Whose::Ours],
                    _ => [Whose::Ours, Whose::Kernel],
                };
                let title = format!("{what}{suffix}, {}", conditions.title);
                groups.push(self.seen(Conditions { title, ..conditions.clone() }, watch, emitted, beside_busy, ours));
            };
            for rate in &self.pace {
                let bits_per_second = rate * 1_000_000;
                let watch = Watch::Pace { bits_per_second };
                add(Part::Pace, &format!("paced at {rate} Mbit/s"), watch, What::Paced { bits_per_second });
            }
            add(Part::Ack, "ACK of a byte that is read", Watch::Acks, What::Lone { connections: LONE, read: true });
            add(
                Part::Ack,
                "ACK of a byte that is not read",
                Watch::Acks,
                What::Lone { connections: LONE, read: false },
            );
            let losses = |segments, lost| What::Losses { segments, lost, mss };
            add(Part::Reorder, "loss behind two SACKs", Watch::Reorder, losses(3, Lost::First));
            add(Part::Tail, "loss of the tail", Watch::Tail, losses(4, Lost::LastTwo));
        }
        if self.part.contains(&Part::Across) {
            groups.extend(self.across(conditions));
        }
        groups
    }

    fn seen(&self, conditions: Conditions, watch: Watch, what: What, beside_busy: bool, ours: [Whose; 2]) -> Group {
        // What is lost must be a segment, not a frame of many.
        let offloads = if matches!(what, What::Losses { .. }) { Offloads::None } else { Offloads::Default };
        let (to, seconds) = (conditions.at, self.seconds);
        // Longer than it all takes.
        let unread_for = if matches!(what, What::Lone { read: false, .. }) { seconds + 1.0 } else { 0.0 };
        let setup = |label: String, whose: [Whose; 2], workers, thread| {
            let emit = Work::Emit(Emit { to, what, seconds, beside_busy });
            let absorb = Work::Absorb(Absorb { at: to, unread_for });
            self.setup(&conditions, label, [(whose[0], emit), (whose[1], absorb)], |job| Job {
                workers: if job.whose == Whose::Ours { workers } else { 0 },
                drive: Drive { thread, processor: None },
                ..job
            })
        };
        let name = if ours[0] == Whose::Ours { "ours→kernel" } else { "kernel→ours" };
        let others = DRIVERS.map(|(driver, workers, thread)| setup(format!("{name}, {driver}"), ours, workers, thread));
        let baseline = setup("kernel↔kernel".to_owned(), [Whose::Kernel; 2], 0, false);
        let figures = if matches!(watch, Watch::Pace { .. }) { PACE } else { AFTER };
        let conditions = Conditions { offloads, figures, ..conditions };
        Group { watch: Some(watch), ..self.of(&conditions, baseline, others.into()) }
    }

    /// Request and response where program and driver run on two processors.
    fn across(&self, conditions: &Conditions) -> Vec<Group> {
        let message = rr::Message { size: 64, header: 0, nodelay: true };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let kinds = [
            ("two workers each", 2, false, None),
            ("a worker on the other CPU each", 1, false, Some(processors - 1)),
            ("Driver::Thread", 0, true, None),
            ("Driver::Thread on the other CPU", 0, true, Some(processors - 1)),
        ];
        let group = |(what, workers, thread, processor): (&str, usize, bool, Option<usize>)| {
            let title = format!("request/response 64 B, {what}, {}", conditions.title);
            let conditions = Conditions { title, figures: RR, processor: processor.map(|_| 0), ..conditions.clone() };
            let setup = |label: &str, whose: [Whose; 2]| {
                let drive = Drive { thread, processor };
                let ask = Work::Ask(rr::Ask { to: conditions.at, message, seconds: self.seconds });
                let answer = Work::Answer(rr::Answer { at: conditions.at, message });
                let ends = [(whose[0], ask), (whose[1], answer)];
                self.setup(&conditions, label, ends, |job| Job { workers, drive, ..job })
            };
            let ours = [
                setup("ours→kernel", [Whose::Ours, Whose::Kernel]),
                setup("kernel→ours", [Whose::Kernel, Whose::Ours]),
            ];
            self.of(&conditions, setup("kernel↔kernel", [Whose::Kernel; 2]), ours.into())
        };
        kinds.into_iter().map(group).collect()
    }
}
