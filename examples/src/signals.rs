//! The end of a server.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::TaskTracker;

/// How long connections may go on after the listener is gone.
const GRACE: Duration = Duration::from_secs(10);

/// SIGINT and SIGTERM, which no longer end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Listens from now on; to be called before a server says that it is ready.
    pub fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for either signal. Cancel safe.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Lets the connections of a server come to their end: 10 seconds at most, or until the next signal.
    pub async fn finish(&mut self, connections: TaskTracker) {
        connections.close();
        tokio::select! {
            () = connections.wait() => return,
            () = self.received() => {}
            () = tokio::time::sleep(GRACE) => {}
        }
        tracing::warn!(connections = connections.len(), "not waiting any longer");
    }
}
