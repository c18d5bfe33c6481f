//! tokio's own tests of TCP, out of the sources of the tokio that this is compiled with, as tests of rawtcp: only the import
//! is another one. Nothing of them is kept here.

#[path = "../crates/rawtcp/tests/common/tokio_sources.rs"]
mod tokio_sources;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Which tests of a file are taken.
enum Take {
    All,
    /// What has to do with TCP, in a file about something else.
    Only(&'static [&'static str]),
}
use Take::{All, Only};

/// tokio's files. Not among them are `tcp_into_std` and `tcp_peek`, whose streams come of descriptors, and `tcp_accept_ready`, which
/// waits for bytes at a stream's descriptor without giving way: `two_stacks` has tests of the same. `buffered` blocks its only thread
/// until the peer has everything, of which a part may still wait for an acknowledgment that only this thread could take.
const FILES: [(&str, Take); 15] = [
    ("io_copy_bidirectional", All),
    ("net_quickack", All),
    ("no_rt", Only(&["panics_when_no_reactor"])),
    ("rt_busy_tick", Only(&["multi_thread_busy_tick", "current_thread_busy_tick"])),
    (
        "rt_common",
        Only(&[
            "block_on_socket",
            "client_server_block_on",
            "io_driver_called_when_under_load",
            "local_set_block_on_socket",
            "local_set_client_server_block_on",
            "socket_from_blocking",
        ]),
    ),
    ("rt_shutdown_err", Only(&["test_is_rt_shutdown_err"])),
    ("rt_threaded", Only(&["spawn_shutdown"])),
    ("tcp_accept", All),
    ("tcp_connect", All),
    ("tcp_echo", All),
    ("tcp_into_split", All),
    ("tcp_shutdown", All),
    ("tcp_socket", All),
    ("tcp_split", All),
    ("tcp_stream", All),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../crates/rawtcp/tests/common/tokio_sources.rs");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    let from = tokio_sources::tokio(env::var_os("CARGO").unwrap(), Path::new(".")).join("tests");
    let modules: Vec<_> = FILES.iter().map(|(name, take)| module(&from, name, take)).collect();
    let to = PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("tokio_own.rs");
    fs::write(to, modules.concat()).unwrap();
}

/// Whether this attribute makes a function a test.
fn is_test(line: &str) -> bool {
    ["#[test]", "#[tokio::test"].iter().any(|attribute| line.trim_start().starts_with(attribute))
}

/// A file as a module. Where the tests may not open raw sockets, they end at once.
fn module(from: &Path, name: &str, take: &Take) -> String {
    let path = from.join(format!("{name}.rs"));
    let mut text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (theirs, ours) in [
        ("#![warn(rust_2018_idioms)]", ""),
        ("//!", "//"),
        ("tokio::net::TcpListener::from_std", "tokio_net::TcpListener::from_std"),
        ("tokio::net::Tcp", "rawtcp::net::Tcp"),
        ("tokio::net::{Tcp", "rawtcp::net::{Tcp"),
        ("tokio_net::", "tokio::net::"),
    ] {
        text = text.replace(theirs, ours);
    }
    for feature in ["full", "io-util", "macros", "net", "rt"] {
        text = text.replace(&format!("feature = \"{feature}\""), "unix");
    }
    let (mut names, only): (BTreeSet<_>, _) = match take {
        All => (BTreeSet::new(), false),
        Only(names) => (names.iter().copied().collect(), true),
    };
    let mut out = format!("#[allow(warnings, clippy::all)]\nmod {name} {{\n");
    // From a test's attribute to the line that begins its body.
    let mut head = String::new();
    for line in text.lines() {
        if head.is_empty()
            && !line.trim_start().starts_with("#[test]")
            && !line.trim_start().starts_with("#[tokio::test")
        {
            out += &format!("{line}\n");
            continue;
        }
        head += &format!("{line}\n");
        let Some((_, from_name)) = head.split_once("fn ") else { continue };
        if !line.ends_with('{') {
            continue;
        }
        let test = from_name.split('(').next().unwrap_or_default();
        if !only || names.remove(test) {
            out += &head;
            out += "if crate::privilege::missing() { return crate::Skipped::skipped(); }\n";
        } else {
            let plain = head.lines().filter(|line| !is_test(line));
            plain.for_each(|line| out += &format!("{line}\n"));
        }
        head.clear();
    }
    assert!(names.is_empty(), "{name}: tokio has no such tests any more: {names:?}");
    out + "}\n"
}
