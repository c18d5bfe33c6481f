//! Pictures and captures for whoever looks for the reason.

use super::{HostId, Network, Socket};
use crate::pcapng::Pcapng;
use crate::{qlog, svg};
use rawtcp_proto::FourTuple;
use rawtcp_proto::Traced;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Pictures written for one failed test.
const MAX_PICTURES: usize = 16;

impl Network {
    /// The time–sequence picture of what this end of a connection has sent, as SVG. `None`: there is
    /// nothing in the trace.
    pub fn picture(&self, socket: Socket) -> Option<String> {
        self.draw(socket.host, self.tuple(socket))
    }

    fn draw(&self, host: HostId, tuple: FourTuple) -> Option<String> {
        let records = self.trace.iter().filter(|r| r.host == host && r.tuple == tuple);
        let title = format!("{tuple:?}, seed {}", self.seed);
        svg::time_sequence(&title, records)
    }

    /// What a host has kept of this end's events, oldest first: what it did and why.
    pub fn events(&self, socket: Socket) -> Vec<Traced> {
        self.events_of(socket.host, self.tuple(socket))
    }

    fn events_of(&self, host: HostId, tuple: FourTuple) -> Vec<Traced> {
        self.host(host).events().filter(|(of, _)| *of == tuple).map(|(_, traced)| traced.clone()).collect()
    }

    /// Writes the pictures of all connections in the trace, their events as JSON text sequences and as CSV, and the
    /// packets of links that were captured or are the last, into a directory below `target/rawtcp-sim`, and says which one.
    ///
    /// # Errors
    /// Those of writing files.
    pub fn write_report(&self, name: &str) -> io::Result<PathBuf> {
        let directory = target().join("rawtcp-sim").join(file_name(name));
        fs::create_dir_all(&directory)?;
        let mut seen: Vec<(HostId, FourTuple)> = Vec::new();
        for record in self.trace.iter().filter(|r| r.is_sent() && r.len > 0) {
            let end = (record.host, record.tuple);
            if seen.contains(&end) || seen.len() == MAX_PICTURES {
                continue;
            }
            seen.push(end);
            let name = format!("host{}-{}", end.0.index(), file_name(&format!("{:?}", end.1)));
            if let Some(picture) = self.draw(end.0, end.1) {
                fs::write(directory.join(format!("{name}.svg")), picture)?;
            }
            let events = self.events_of(end.0, end.1);
            fs::write(directory.join(format!("{name}.sqlog")), qlog::json_seq(&name, super::START, &events))?;
            fs::write(directory.join(format!("{name}.csv")), qlog::csv(super::START, &events))?;
        }
        let lines: String = self.trace.iter().map(|record| format!("{record:?}\n")).collect();
        fs::write(directory.join("trace.txt"), lines)?;
        for (i, wire) in self.wires.iter().enumerate() {
            let last = || {
                let mut file = Pcapng::new(&super::PLACES);
                wire.recent.iter().for_each(|(place, at, packet)| file.packet(*place, *at, packet));
                file
            };
            let file = wire.capture.clone().unwrap_or_else(last);
            fs::write(directory.join(format!("link{i}.pcapng")), file.as_bytes())?;
        }
        Ok(directory)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("network");
        match self.write_report(name) {
            Ok(path) => eprintln!("network with seed {} at {:?}: see {}", self.seed, self.now, path.display()),
            Err(error) => eprintln!("network with seed {} at {:?}: no report: {error}", self.seed, self.now),
        }
    }
}

/// Cargo's target directory, of which the running test is a part.
fn target() -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    // target/debug/deps/test
    let deps = this.ancestors().find(|path| path.file_name().is_some_and(|name| name == "deps"));
    deps.and_then(Path::parent).and_then(Path::parent).map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' }).collect()
}
