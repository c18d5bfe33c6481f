//! The leash of an end: words of its parent in, its own out. Where the parent is gone, the end goes, too.

use std::io::{self, BufRead, Write};
use std::thread;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Metrics;

/// What an end says, each as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Word {
    /// It listens, or could begin at once.
    Ready,
    /// What it has to say to people meanwhile.
    Note(String),
    /// It is done.
    Done(Metrics),
    /// It failed.
    Failed(String),
}

/// Says something to the parent.
pub(crate) fn say(word: &Word) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, word)?;
    writeln!(out)?;
    out.flush()
}

/// How an end is led.
pub(crate) struct Control {
    lines: mpsc::UnboundedReceiver<String>,
    ready: Box<dyn FnMut() + Send>,
}

impl Control {
    /// Led by the parent process. The first line, which it has to say at once, is returned.
    pub(crate) fn stdio() -> io::Result<(String, Self)> {
        let mut first = String::new();
        if io::stdin().read_line(&mut first)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (to, lines) = mpsc::unbounded_channel();
        thread::Builder::new().name("control".into()).spawn(move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                to.send(line).ok();
            }
            std::process::exit(1);
        })?;
        let ready = || {
            // Its end shows on standard input.
            say(&Word::Ready).ok();
        };
        Ok((first, Self { lines, ready: Box::new(ready) }))
    }

    /// Led by another thread: what it sends are the lines, and `ready` is called where a parent would be told.
    pub(crate) fn inside(ready: impl FnMut() + Send + 'static) -> (mpsc::UnboundedSender<String>, Self) {
        let (to, lines) = mpsc::unbounded_channel();
        (to, Self { lines, ready: Box::new(ready) })
    }

    /// Tells that the end is ready.
    pub(crate) fn ready(&mut self) {
        (self.ready)();
    }

    /// Waits for the next word of whoever leads: to begin, or to come to an end.
    pub(crate) async fn next(&mut self) {
        self.lines.recv().await;
    }
}
