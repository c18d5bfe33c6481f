//! Tests that need raw sockets, run by somebody who may not open any: all of them once more, in a user and
//! network namespace of their own.

use std::io::{self, ErrorKind, Write};
use std::process::Command;

/// Whether raw sockets are not to be had here. In CI nothing may be skipped.
pub(crate) fn missing() -> bool {
    let opened = rawtcp_io::RawIpV4::open(&rawtcp_io::RawConfig::default());
    opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Runs this test program again, in namespaces where it has the privilege. What it skips here it does there.
pub(crate) fn again_with_privilege() {
    if !missing() {
        return;
    }
    // Thousands of connections of the kernel need their descriptors.
    let script = "ip link set lo up && ulimit -n $(ulimit -Hn) && exec \"$@\"";
    let program = std::env::current_exe().expect("this program has a path");
    let status = Command::new("unshare").args(["-Urn", "sh", "-c", script, "sh"]).arg(program).status();
    let refused = match status {
        Ok(status) if status.success() => return,
        // What unshare(1) ends with when it is refused; libtest ends with 101.
        Ok(status) => status.code() == Some(1),
        Err(error) => panic!("unshare: {error}"),
    };
    assert!(refused && std::env::var_os("CI").is_none(), "the tests failed in a user namespace");
    // Not by eprintln!, which the test harness swallows.
    writeln!(io::stderr(), "\n*** SKIPPED: raw sockets need CAP_NET_RAW, and user namespaces are forbidden ***\n").ok();
}
