//! How many instructions an operation takes, as valgrind counts them.

use std::env;
use std::process::{Command, Stdio};

/// The argument by which the program knows that it is to run one case and nothing else.
pub(crate) const CHILD: &str = "--run-one";

pub(crate) fn available() -> bool {
    let found = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// Two runs of different lengths: the difference is free of everything that is done once.
pub(crate) fn per_operation(name: &str, operations: u64) -> Option<f64> {
    let (few, many) = (operations, operations * 3);
    Some((total(name, many)? as f64 - total(name, few)? as f64) / (many - few) as f64)
}

fn total(name: &str, operations: u64) -> Option<u64> {
    let out = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(env::current_exe().ok()?)
        .args([CHILD, name, &operations.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stderr);
    let count = text.lines().find_map(|line| line.split_once("refs:"))?.1;
    count.trim().replace(',', "").parse().ok()
}
