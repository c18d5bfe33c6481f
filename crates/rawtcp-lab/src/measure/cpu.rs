//! What runs cost: processor time of the machine and of a process, memory.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Processor time of the whole machine since it started, all processors together, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    /// Work of any kind, interrupts included.
    pub(crate) busy: f64,
    /// What a hypervisor gave to others.
    pub(crate) stolen: f64,
}

impl Machine {
    pub(crate) fn now() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?).ok_or_else(|| io::Error::other("/proc/stat is not as expected"))
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
            return None;
        };
        let seconds = |ticks: u64| ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Some(Self { busy: seconds(user + nice + system + irq + softirq), stolen: seconds(steal) })
    }

    /// What was added since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { busy: self.busy - earlier.busy, stolen: self.stolen - earlier.stolen }
    }
}

/// Processor time of this process, all threads together.
pub(crate) fn process() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Resident memory of this process, in bytes.
pub(crate) fn resident() -> f64 {
    field("/proc/self/status", "VmRSS:")
}

/// Memory of the kernel's own objects, sockets among them, in bytes.
pub(crate) fn slab() -> f64 {
    field("/proc/meminfo", "Slab:")
}

/// A line of `name: 123 kB`, in bytes.
fn field(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kilobytes.map_or(f64::NAN, |kilobytes| kilobytes * 1024.0)
}

/// Binds this thread, and those it will start, to one processor.
pub(crate) fn pin(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets this process have so many descriptors, or as many as it may.
pub(crate) fn allow_descriptors(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    // Only root may raise the maximum.
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum.map(|maximum| maximum.max(wanted)) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        // What is missing then fails where it is missed.
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
    }
}

/// What the figures were measured on.
pub(crate) fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{processors} × {}, Linux {}", model.unwrap_or("unknown processor"), release.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_time_is_read() {
        let text = "cpu  100 10 200 9000 50 1 2 30 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let machine = Machine::parse(text).unwrap();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!((machine.busy * ticks, machine.stolen * ticks), (313.0, 30.0));
        assert!(Machine::parse("cpu 1 2\n").is_none() && Machine::parse("").is_none());
        assert!(Machine::now().unwrap().busy > 0.0);
    }

    #[test]
    fn memory_is_read() {
        assert!(resident() > 0.0 && slab() > 0.0);
        assert!(field("/proc/meminfo", "NoSuchThing:").is_nan());
    }
}
