//! Keeps `docs/conformance.md` honest: every requirement is there once, whatever is called met has a test, and
//! whatever is cited is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, iter};

/// Requirement labels of RFC 9293, and how many there are of each.
const LABELS: [(&str, usize); 4] = [("MUST", 69), ("SHLD", 31), ("MAY", 18), ("REC", 1)];
const BEHAVIOURS: usize = 56;
const FEATURES: usize = 55;
/// Statuses that need a test, and those that need a reason.
const DONE: [&str; 2] = ["met", "in"];
const REASONED: [&str; 7] = ["untested", "departed", "not yet", "not applicable", "open", "partly", "not in"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn document() -> String {
    fs::read_to_string(root().join("docs/conformance.md")).expect("docs/conformance.md")
}

/// Every file of the tree that people write, with its path from the root.
fn files() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if path.is_dir() && !path.is_symlink() {
                if name != "target" && !name.starts_with('.') {
                    walk(&path, found);
                }
            } else if [".rs", ".md", ".sh", ".toml"].iter().any(|end| name.ends_with(end)) {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    let name = |path: &Path| path.strip_prefix(&root).unwrap_or(path).to_string_lossy().into_owned();
    found.iter().filter_map(|path| Some((name(path), fs::read_to_string(path).ok()?))).collect()
}

/// The cells of each table row under a heading of the second level.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let section = document.split("\n## ").find(|part| part.starts_with(heading)).expect(heading);
    let lines = section.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The rows of the table of labels.
fn requirements(document: &str) -> Vec<Vec<String>> {
    rows(document, "RFC 9293").into_iter().filter(|row| labels(&row[0]).len() == 1).collect()
}

/// Rows with a status, from all tables, and the column it stands in.
fn judged(document: &str) -> Vec<(Vec<String>, usize)> {
    let others = rows(document, "Other RFCs").into_iter().skip(1);
    let counted = ["Behaviours", "Features"].map(|heading| rows(document, heading).into_iter().skip(1));
    let all = requirements(document).into_iter().chain(others).chain(counted.into_iter().flatten());
    all.map(|row| (row, 2)).collect()
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Labels in a text: a name of the list, a hyphen and a number, not within a longer word.
fn labels(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, _) in LABELS {
        for (at, _) in text.match_indices(name) {
            let rest = text[at + name.len()..].strip_prefix('-').unwrap_or_default();
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let alone = !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_');
            if alone && !number.is_empty() {
                found.insert(format!("{name}-{number}"));
            }
        }
    }
    found
}

/// A test function.
struct Test {
    /// The parts of the path of its file, without the extension.
    path: Vec<String>,
    ignored: bool,
}

/// All tests of the tree by name: functions with a test attribute, and those named in the lists of targets
/// that have their own `main`.
fn tests() -> BTreeMap<String, Vec<Test>> {
    let mut all: BTreeMap<String, Vec<Test>> = BTreeMap::new();
    for (path, text) in files().into_iter().filter(|(path, _)| path.ends_with(".rs")) {
        let parts: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        let mut add = |name: &str, ignored| {
            all.entry(name.to_owned()).or_default().push(Test { path: parts.clone(), ignored });
        };
        let (mut is_test, mut ignored) = (false, false);
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                ignored |= line.starts_with("#[ignore");
            } else if let Some(name) = line.split_once("fn ").map(|(_, rest)| rest) {
                if is_test {
                    add(name.split(['(', '<']).next().unwrap_or_default(), ignored);
                }
                (is_test, ignored) = (false, false);
            }
        }
        for list in text.split("tests!(").skip(1) {
            let tests = list.split(')').next().unwrap_or_default().split(',');
            // What it needs may stand behind it.
            let names = tests.map(|test| test.split("=>").next().unwrap_or_default().trim());
            names.filter(|name| !name.is_empty() && text.contains(&format!("fn {name}("))).for_each(|n| add(n, false));
        }
    }
    all
}

/// The tests that `file::function` may mean.
fn meant<'a>(all: &'a BTreeMap<String, Vec<Test>>, name: &str) -> Vec<&'a Test> {
    let mut parts: Vec<&str> = name.split("::").collect();
    let function = parts.pop().unwrap_or_default();
    let within = |test: &&Test| parts.iter().all(|part| test.path.iter().any(|p| p == part));
    all.get(function).into_iter().flatten().filter(within).collect()
}

#[test]
fn every_label_is_listed_once() {
    let mut listed: BTreeMap<String, usize> = BTreeMap::new();
    for row in requirements(&document()) {
        *listed.entry(row[0].clone()).or_default() += 1;
    }
    for (name, count) in LABELS {
        for n in 1..=count {
            let times = listed.remove(&format!("{name}-{n}")).unwrap_or(0);
            assert_eq!(times, 1, "{name}-{n} is listed {times} times");
        }
    }
    assert!(listed.is_empty(), "no such labels: {listed:?}");
}

#[test]
fn whatever_is_cited_is_listed() {
    let listed: BTreeSet<String> = requirements(&document()).into_iter().map(|row| row[0].clone()).collect();
    let mut cited = 0;
    for (path, text) in files() {
        for (number, line) in text.lines().enumerate() {
            let found = labels(line);
            cited += found.len();
            let unknown: Vec<_> = found.difference(&listed).collect();
            assert!(unknown.is_empty(), "{path}:{}: {unknown:?} is not in docs/conformance.md", number + 1);
        }
    }
    assert!(cited > 200, "only {cited} labels found: is this the whole tree?");
}

#[test]
fn behaviours_and_features_are_numbered_without_gap() {
    for (heading, count) in [("Behaviours", BEHAVIOURS), ("Features", FEATURES)] {
        let numbers: Vec<usize> =
            rows(&document(), heading).iter().skip(1).map(|row| row[0].parse().expect("a number")).collect();
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "{heading}");
    }
}

#[test]
fn what_is_met_names_a_test() {
    let tests = tests();
    assert!(tests.len() > 300, "only {} tests found", tests.len());
    let mut wrong = Vec::new();
    for (row, column) in judged(&document()) {
        let (status, what) = (&row[column], &row[..2]);
        let (kind, reason) = status.split_once(": ").unwrap_or((status, ""));
        match (DONE.contains(&kind), REASONED.contains(&kind)) {
            (true, _) => {
                let named = row.last().map(|cell| quoted(cell)).unwrap_or_default();
                if named.is_empty() {
                    wrong.push(format!("{what:?} names no test"));
                }
                for name in named {
                    let found = meant(&tests, name);
                    if found.iter().all(|test| test.ignored) {
                        wrong.push(format!("{what:?}: no test {name} that runs"));
                    }
                }
            }
            (_, true) if reason.is_empty() => wrong.push(format!("{what:?}: {kind} without a reason")),
            (_, true) => {}
            _ => wrong.push(format!("{what:?}: unknown status {status:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_and_file_that_is_named_exists() {
    let tests = tests();
    let mut wrong = Vec::new();
    for (row, column) in judged(&document()) {
        let last = row.len() - 1;
        for name in quoted(&row[last]) {
            if meant(&tests, name).is_empty() {
                wrong.push(format!("{}: no test {name}", row[0]));
            }
        }
        for path in row[column + 1..last].iter().flat_map(|cell| quoted(cell)) {
            let at = if path.starts_with("crates/") { root() } else { root().join("crates/rawtcp-proto/src") };
            if !at.join(path).is_file() {
                wrong.push(format!("{}: no file {path}", row[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sums_are_right() {
    let document = document();
    let rows = requirements(&document);
    let kinds = ["met", "untested", "departed", "not yet", "not applicable"];
    let line = |name: &str, count: &dyn Fn(&str) -> usize| {
        let counts: Vec<String> = kinds.iter().map(|kind| count(kind).to_string()).collect();
        format!("| {name} | {} |", counts.join(" | "))
    };
    let of = |name: &str, kind: &str| {
        let is = |row: &&Vec<String>| row[0].starts_with(name) && row[2].split(": ").next() == Some(kind);
        rows.iter().filter(is).count()
    };
    let lines = LABELS.iter().map(|(name, _)| line(name, &|kind| of(&format!("{name}-"), kind)));
    for expected in lines.chain(iter::once(line("All", &|kind| of("", kind)))) {
        assert!(document.contains(&expected), "the sums should say\n{expected}");
    }
}

/// The fields of a struct of settings.
fn fields(file: &str, name: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("crates/rawtcp-proto/src").join(file)).expect(file);
    let body = text.split(&format!("pub struct {name} {{")).nth(1).and_then(|rest| rest.split("\n}").next());
    let lines = body.expect(name).lines().filter_map(|line| line.trim().strip_prefix("pub "));
    lines.filter_map(|line| line.split_once(':')).map(|(field, _)| field.to_owned()).collect()
}

/// Every setting is there once with a test that exists, and its default is documented.
#[test]
fn every_setting_has_a_test_and_a_documented_default() {
    let (document, tests) = (document(), tests());
    let defaults = fs::read_to_string(root().join("docs/defaults.md")).expect("docs/defaults.md");
    let mut wrong = Vec::new();
    for (name, file) in [("ConnConfig", "config.rs"), ("StackConfig", "stack/mod.rs")] {
        let mut expected = fields(file, name);
        assert!(expected.len() > 5, "{name}: {expected:?}");
        for row in rows(&document, "Settings").iter().filter(|row| row[0] == format!("`{name}`")) {
            let field = row[1].trim_matches('`');
            if !expected.remove(field) {
                wrong.push(format!("{name}::{field} is listed twice, or is not there"));
            }
            let runs = |test: &&str| meant(&tests, test).iter().any(|test| !test.ignored);
            if quoted(&row[2]).is_empty() || !quoted(&row[2]).iter().all(runs) {
                wrong.push(format!("{name}::{field} names no test, or one that is not there: {}", row[2]));
            }
        }
        wrong.extend(expected.iter().map(|field| format!("{name}::{field} is not listed")));
        let undocumented = fields(file, name).into_iter().filter(|field| !defaults.contains(&format!("`{field}`")));
        wrong.extend(undocumented.map(|field| format!("{name}::{field} is not in docs/defaults.md")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
