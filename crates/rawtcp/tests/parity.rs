//! `docs/drop-in.md` against the sources: every public item of tokio's TCP is in its table, and what the table says
//! is so. Fails when tokio gains an item that we neither have nor list.

#[path = "common/tokio_sources.rs"]
mod tokio_sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The types, under the names by which the table and both sources know them.
const TYPES: [&str; 8] = [
    "TcpStream",
    "TcpListener",
    "TcpSocket",
    "ReadHalf",
    "WriteHalf",
    "OwnedReadHalf",
    "OwnedWriteHalf",
    "ReuniteError",
];

/// What cannot exist on Linux, or needs a feature that nobody has.
const ELSEWHERE: [&str; 6] = ["AsRawSocket", "AsSocket", "FromRawSocket", "IntoRawSocket", "RawSocket", "Socket"];

fn tokio() -> PathBuf {
    tokio_sources::tokio(env!("CARGO"), Path::new(env!("CARGO_MANIFEST_DIR")))
}

/// The type that an `impl` is for, and the trait: `impl Trait for Type<'_> {`.
fn header(line: &str) -> Option<(String, Option<String>)> {
    let rest = line.strip_prefix("impl")?.trim_end_matches(['{', '}', ' ']);
    let rest = if rest.starts_with('<') { rest.split_once("> ")?.1 } else { rest.strip_prefix(' ')? };
    let name = |text: &str| {
        let text = text.trim();
        let end = text.find('<').unwrap_or(text.len());
        text[..end].rsplit("::").next().unwrap_or_default().to_owned()
    };
    match rest.split_once(" for ") {
        Some((of, to)) => {
            // Conversions are told apart by what they convert from.
            let of = if of.starts_with("TryFrom") { "TryFrom".to_owned() } else { name(of) };
            Some((name(to), Some(of)))
        }
        None => Some((name(rest), None)),
    }
}

/// The name of a public function.
fn function(line: &str) -> Option<&str> {
    let mut rest = line.strip_prefix("pub ")?;
    for word in ["const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let rest = rest.strip_prefix("fn ")?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// The public items of the types in these files: `Type::function`, and `Type: Trait`.
fn scan(files: &[PathBuf]) -> BTreeSet<String> {
    let mut items = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let (mut current, mut derived) = (String::new(), Vec::new());
        for line in text.lines() {
            let indent = line.len() - line.trim_start().len();
            let line = line.trim();
            if line.starts_with("//") {
                continue;
            }
            if let Some((to, of)) = header(line).filter(|_| indent <= 8) {
                if let Some(of) = of.filter(|of| TYPES.contains(&&*to) && !ELSEWHERE.contains(&&**of)) {
                    items.insert(format!("{to}: {of}"));
                }
                current = to;
            } else if let Some(name) = function(line)
                && TYPES.contains(&&*current)
            {
                items.insert(format!("{current}::{name}"));
            } else if let Some(list) = line.strip_prefix("#[derive(") {
                derived = list.trim_end_matches(")]").split(", ").map(str::to_owned).collect();
            } else if let Some(rest) = line.strip_prefix("pub struct ") {
                let to = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                if TYPES.contains(&to) {
                    items.extend(derived.iter().map(|of| format!("{to}: {of}")));
                }
                derived.clear();
            }
        }
    }
    items
}

fn sources(dir: &Path, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| dir.join(name)).collect()
}

/// Our items: the macros of the halves are expanded by hand.
fn ours() -> BTreeSet<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/net");
    let files = ["stream.rs", "listener.rs", "socket.rs", "split.rs", "split_owned.rs"];
    let mut items = scan(&sources(&dir, &files));
    let text = fs::read_to_string(dir.join("split.rs")).unwrap();
    for (start, types) in [
        ("macro_rules! reading", ["ReadHalf", "OwnedReadHalf"]),
        ("macro_rules! writing", ["WriteHalf", "OwnedWriteHalf"]),
    ] {
        let from = text.find(start).unwrap();
        let body = text[from..].split("\n}\n").next().unwrap();
        for name in body.lines().filter_map(|line| function(line.trim())) {
            items.extend(types.map(|to| format!("{to}::{name}")));
        }
    }
    items
}

fn theirs() -> BTreeSet<String> {
    let files = ["stream.rs", "listener.rs", "socket.rs", "split.rs", "split_owned.rs"];
    scan(&sources(&tokio().join("src/net/tcp"), &files))
}

/// The rows of the table: item → same, differs or missing.
fn listed() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/drop-in.md");
    let text = fs::read_to_string(path).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [item, verdict @ ("same" | "differs" | "missing"), why] = cells[..] {
            assert!(verdict == "same" || !why.is_empty(), "{item}: {verdict}, but why?");
            for item in item.split(" · ") {
                let again = rows.insert(item.trim_matches('`').to_owned(), verdict.to_owned());
                assert!(again.is_none(), "{item} is listed twice");
            }
        }
    }
    rows
}

#[test]
fn every_item_of_tokio_is_listed_as_it_is() {
    let (theirs, ours, listed) = (theirs(), ours(), listed());
    assert!(theirs.len() > 120, "only {} items found: the scanner is blind", theirs.len());
    let mut wrong = Vec::new();
    for item in &theirs {
        match (listed.get(item).map(String::as_str), ours.contains(item)) {
            (None, _) => wrong.push(format!("tokio has it, docs/drop-in.md does not list it: {item}")),
            (Some("missing"), true) => wrong.push(format!("listed as missing, but there: {item}")),
            (Some("same" | "differs"), false) => wrong.push(format!("listed as there, but missing: {item}")),
            _ => {}
        }
    }
    for item in listed.keys().filter(|item| !theirs.contains(*item)) {
        wrong.push(format!("listed, but not tokio's: {item}"));
    }
    let count = |verdict| listed.values().filter(|listed| *listed == verdict).count();
    println!("same {}, differs {}, missing {}", count("same"), count("differs"), count("missing"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What other names `tokio::net` has: one more is one more to think about.
#[test]
fn tokio_net_has_the_modules_and_functions_that_are_known() {
    let text = fs::read_to_string(tokio().join("src/net/mod.rs")).unwrap();
    let names: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub use ").or_else(|| line.trim().strip_prefix("pub mod ")))
        .map(|rest| rest.trim_end_matches(';').rsplit("::").next().unwrap())
        .collect();
    let known = [
        "TcpListener",
        "TcpSocket",
        "TcpStream",
        "ToSocketAddrs",
        "UdpSocket",
        "UnixDatagram",
        "UnixListener",
        "UnixSocket",
        "UnixStream",
        "lookup_host",
        "tcp",
        "unix",
        "windows",
    ];
    assert_eq!(names, known.into_iter().collect());
}
