//! The benchmark command: that it measures both stacks and writes down what it found, not how fast they are.

use std::process::Command;

use serde_json::Value;

use super::Result;

fn bench(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rawtcp-lab"));
    command.arg("bench").args(arguments.split_whitespace());
    command
}

pub(crate) fn compares_both_stacks() -> Result {
    let base = std::env::temp_dir().join(format!("rawtcp-bench-{}", std::process::id()));
    let (json, svg) = (base.with_extension("json"), base.with_extension("svg"));
    let mut command =
        bench("--workload bulk,rr,connect --pairs 1 --seconds 0.05 --direction receive --offloads default");
    let output = command.arg("--json").arg(&json).arg("--svg").arg(&svg).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let picture = std::fs::read_to_string(&svg)?;
    std::fs::remove_file(json)?;
    std::fs::remove_file(svg)?;
    let lines = report["lines"].as_array().ok_or("no lines")?;
    for figure in ["throughput", "p50", "rate"] {
        let line = lines.iter().find(|line| line["figure"] == figure).ok_or(figure)?;
        for value in ["ours", "baseline", "ratio"] {
            assert!(line[value]["median"].as_f64().is_some_and(|value| value > 0.0), "{line}");
        }
        assert!(text.contains(figure), "{text}");
    }
    // Nine groups over each of two devices: a run of ours between two of the kernel's.
    let runs = report["runs"].as_array().ok_or("no runs")?;
    let of = |setup: &str| runs.iter().filter(|run| run["setup"] == setup).count();
    assert_eq!((of("kernel→ours"), of("kernel↔kernel")), (18, 36));
    assert!(picture.contains("throughput"), "{picture}");
    Ok(())
}

pub(crate) fn says_what_is_wrong() -> Result {
    let output = bench("--workload rr --device no-such-device --pairs 1 --seconds 0.05").output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("RAWTCP_DEVICE=no-such-device"), "{text}");
    Ok(())
}

/// By a host that forwards between its TUN interface and the other one's, and to the same host's kernel.
pub(crate) fn goes_over_tun() -> Result {
    for path in ["veth", "lo"] {
        let command = "--device tun --workload bulk --pairs 1 --seconds 0.05 --offloads default --family 4,6 --path";
        let output = bench(&format!("{command} {path}")).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{path}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
        for ends in ["ours→kernel", "kernel→ours", "ours↔ours"] {
            assert_eq!(text.matches(ends).count(), 2, "{path}: IPv4 and IPv6: {text}");
        }
    }
    let output = bench("--device tun --workload bulk --mtu 9000").output()?;
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--mtu 1500"));
    Ok(())
}

/// With a thread for each end, and both by turns on one.
pub(crate) fn stays_in_one_process() -> Result {
    let over_memory = "--device memory --workload bulk --pairs 1 --seconds 0.05";
    let scale = "--workload scale --scale 8 --pairs 1 --seconds 0.05";
    for (command, setup, figure) in
        [(over_memory, "ours↔ours", "throughput"), (scale, "8 connections", "CPU for 1448 B")]
    {
        let json = std::env::temp_dir().join(format!("rawtcp-bench-inside-{}", std::process::id()));
        let output = bench(command).arg("--json").arg(&json).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
        std::fs::remove_file(json)?;
        let mut lines = report["lines"].as_array().ok_or("no lines")?.iter();
        let line = lines.find(|line| line["setup"] == setup && line["figure"] == figure).ok_or(figure)?;
        for value in ["ours", "baseline", "ratio"] {
            assert!(line[value]["median"].as_f64().is_some_and(|value| value > 0.0), "{line}");
        }
    }
    Ok(())
}
