//! How far a long measurement is, on standard error.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

/// How far it is.
pub(crate) struct Progress {
    done: usize,
    total: usize,
    start: Instant,
}

impl Progress {
    pub(crate) fn new(total: usize) -> Self {
        Self { done: 0, total, start: Instant::now() }
    }

    /// A run begins.
    pub(crate) fn step(&mut self, what: &str) {
        self.done += 1;
        let seconds = self.start.elapsed().as_secs();
        let text = format!("[{}/{}, {seconds} s] {what}", self.done, self.total);
        if io::stderr().is_terminal() {
            eprint!("\r\x1b[K{text}");
            io::stderr().flush().ok();
        } else {
            eprintln!("{text}");
        }
    }

    pub(crate) fn clear(&self) {
        if io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
