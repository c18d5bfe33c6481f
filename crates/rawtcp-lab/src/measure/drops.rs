//! What the kernel lost on the way, and sent again: a namespace's own counters.

use std::fs;
use std::io;

use rawtcp_lab::netns::Namespace;

use super::Metrics;

/// Counters of TCP (`/proc/net/snmp`, `/proc/net/netstat`) that tell of loss inside the host.
const TCP: [&str; 8] = [
    "InErrs",
    "ListenDrops",
    "TCPBacklogDrop",
    "TCPRcvQDrop",
    "TCPZeroWindowDrop",
    "TCPOFODrop",
    "RcvPruned",
    "OfoPruned",
];

/// And what tells why its kernel sent something again, and whether that was for nothing.
const WHY: [&str; 5] = ["TCPTimeouts", "TCPLossProbes", "TCPFastRetrans", "TCPDSACKRecv", "TCPSACKReneging"];

/// What a namespace has counted so far: `drop.` lost without being asked to, `retrans` segments its kernel sent again,
/// `tcp.` why.
pub(crate) fn count(namespace: &Namespace) -> io::Result<Metrics> {
    let read = |path: &'static str| namespace.run(move || fs::read_to_string(path));
    let mut found = Metrics::new();
    for text in [read("/proc/thread-self/net/snmp")?, read("/proc/thread-self/net/netstat")?] {
        for (name, value) in tables(&text) {
            if TCP.contains(&name) {
                found.insert(format!("drop.{name}"), value);
            } else if name == "RetransSegs" {
                found.insert("retrans".to_owned(), value);
            } else if WHY.contains(&name) {
                found.insert(format!("tcp.{name}"), value);
            }
        }
    }
    for (name, value) in interfaces(&read("/proc/thread-self/net/dev")?) {
        found.insert(format!("drop.{name}"), value);
    }
    Ok(found)
}

/// What the machine's per-processor queues lost between interfaces and protocols.
pub(crate) fn backlog() -> f64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = |line: &str| u32::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(dropped).map(f64::from).sum()
}

/// Pairs of lines: names, then values.
fn tables(text: &str) -> impl Iterator<Item = (&str, f64)> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs: Vec<_> = lines
        .chunks_exact(2)
        .filter(|pair| pair[0].starts_with("Tcp"))
        .flat_map(|pair| pair[0].split_whitespace().zip(pair[1].split_whitespace()))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    pairs.into_iter()
}

/// `/proc/net/dev`: drops of each interface, in and out.
fn interfaces(text: &str) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    for line in text.lines().skip(2) {
        let Some((name, values)) = line.split_once(':') else { continue };
        let values: Vec<f64> = values.split_whitespace().filter_map(|value| value.parse().ok()).collect();
        if let [_, _, _, rx, _, _, _, _, _, _, _, tx, ..] = values[..] {
            found.push((format!("{}.rx", name.trim()), rx));
            found.push((format!("{}.tx", name.trim()), tx));
        }
    }
    found
}

/// What was added between two counts, where anything was.
pub(crate) fn difference(after: &Metrics, before: &Metrics) -> Metrics {
    let grown = |(name, value): (&String, &f64)| {
        let more = value - before.get(name).copied().unwrap_or(0.0);
        (more != 0.0).then(|| (name.clone(), more))
    };
    after.iter().filter_map(grown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_interfaces_are_read() {
        let text = "Ip: A B\nIp: 1 2\nTcp: RetransSegs InErrs\nTcp: 3 -4\nTcpExt: RcvPruned\nTcpExt: 5\n";
        let found: Vec<_> = tables(text).collect();
        assert_eq!(found, [("RetransSegs", 3.0), ("InErrs", -4.0), ("RcvPruned", 5.0)]);
        let text = "Inter-|\n face |\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(interfaces(text), [("eth0.rx".to_owned(), 4.0), ("eth0.tx".to_owned(), 12.0)]);
    }

    #[test]
    fn only_growth_is_told() {
        let count = |pairs: &[(&str, f64)]| -> Metrics { pairs.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect() };
        let grown = difference(&count(&[("a", 3.0), ("b", 1.0), ("c", 2.0)]), &count(&[("a", 1.0), ("b", 1.0)]));
        assert_eq!(grown, count(&[("a", 2.0), ("c", 2.0)]));
    }
}
