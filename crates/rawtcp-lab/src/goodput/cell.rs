//! One kind of link.

use std::fmt;
use std::io;
use std::time::Duration;

use rawtcp_lab::emulator::EmulatorConfig;
use rawtcp_lab::topology::Emulated;
use rawtcp_sim::{LinkConfig, Loss, Queue};
use serde::{Deserialize, Serialize};

/// A link of the table.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    /// Mbit/s.
    pub(super) rate: f64,
    pub(super) rtt_ms: f64,
    /// In bandwidth-delay products.
    pub(super) queue: f64,
    /// Per cent, on the way of the data.
    pub(super) loss: f64,
    /// Per cent of the packets that come late.
    pub(super) reorder: f64,
    pub(super) reorder_ms: f64,
}

/// The queue of a millisecond's product would be eight packets.
const LEAST_QUEUE: f64 = 65_536.0;

impl Cell {
    /// Without loss and reordering.
    pub(super) fn plain(rate: f64, rtt_ms: f64, queue: f64) -> Self {
        Self { rate, rtt_ms, queue, loss: 0.0, reorder: 0.0, reorder_ms: 0.0 }
    }

    /// Bytes of the queue in front of the link.
    pub(super) fn queue_bytes(&self) -> usize {
        (self.rate * 1e6 / 8.0 * self.rtt_ms / 1e3 * self.queue).max(LEAST_QUEUE) as usize
    }

    /// Two hosts at the ends of such a link, which learn nothing from one connection for the next.
    pub(super) fn hosts(&self, seed: u64) -> io::Result<Emulated> {
        let net = Emulated::new(self.emulator(seed))?;
        for host in [&net.client, &net.server] {
            host.set_sysctl("net.ipv4.tcp_no_metrics_save", "1")?;
        }
        Ok(net)
    }

    /// The link as the emulator makes it: loss and reordering on the way there, plain on the way back.
    pub(super) fn emulator(&self, seed: u64) -> EmulatorConfig {
        let plain = LinkConfig::default()
            .with_rate((self.rate * 1e6) as u64)
            .with_delay(Duration::from_secs_f64(self.rtt_ms / 2e3))
            .with_queue(Queue::Bytes(self.queue_bytes()));
        let mut there = plain;
        if self.loss > 0.0 {
            there = there.with_loss(Loss::Uniform(self.loss / 100.0));
        }
        if self.reorder > 0.0 {
            there = there.with_reorder(self.reorder / 100.0, Duration::from_secs_f64(self.reorder_ms / 1e3));
        }
        super::emulator(there, plain, seed)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms, loss {} %, queue {} BDP", self.rtt_ms, self.loss, self.queue)?;
        if self.reorder > 0.0 {
            write!(f, ", {} % by {} ms", self.reorder, self.reorder_ms)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_a_number_of_products_and_never_tiny() {
        assert_eq!(Cell::plain(100.0, 100.0, 1.0).queue_bytes(), 1_250_000);
        assert_eq!(Cell::plain(100.0, 20.0, 10.0).queue_bytes(), 2_500_000);
        assert_eq!(Cell::plain(100.0, 1.0, 1.0).queue_bytes(), 65_536);
    }

    #[test]
    fn only_the_way_of_the_data_is_lossy() {
        let cell = Cell { loss: 1.0, reorder: 3.0, reorder_ms: 5.0, ..Cell::plain(100.0, 20.0, 1.0) };
        let config = cell.emulator(7);
        assert_eq!((config.a_to_b.loss, config.b_to_a.loss), (Loss::Uniform(0.01), Loss::None));
        assert!(config.a_to_b.reorder.is_some() && config.b_to_a.reorder.is_none());
        assert_eq!(config.a_to_b.delay, Duration::from_millis(10));
    }
}
