//! Two flows that share a bottleneck.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rawtcp_lab::topology::SERVER_V4;
use serde::{Deserialize, Serialize};

use super::{Cell, Goodput, PORT, job, link_metrics, receiver, sender};
use crate::measure::end::End;
use crate::measure::net::Whose;
use crate::measure::{Metrics, merge};
use crate::role::Work;

/// Who the two senders are. The receivers are the kernel's.
pub(super) const PAIRS: [(&str, [Whose; 2]); 3] = [
    ("ours, kernel", [Whose::Ours, Whose::Kernel]),
    ("ours, ours", [Whose::Ours, Whose::Ours]),
    ("kernel, kernel", [Whose::Kernel, Whose::Kernel]),
];

/// A run to be made.
#[derive(Clone, Debug)]
pub(super) struct Order {
    congestion: String,
    seed: u64,
    name: &'static str,
    senders: [Whose; 2],
}

/// One run and what it gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) congestion: String,
    pub(super) seed: u64,
    pub(super) senders: String,
    pub(super) cell: Cell,
    pub(super) seconds: f64,
    /// Of the first sender, of what both have delivered.
    pub(super) share: f64,
    pub(super) metrics: Metrics,
}

const SECONDS: f64 = 60.0;
const SEEDS: u64 = 3;

impl Order {
    pub(super) fn title(&self) -> String {
        format!("{}, {} share a bottleneck, seed {}", self.congestion, self.name, self.seed)
    }

    /// How long after the first sender the second one begins; with every other seed it is the other way round. Without
    /// losses there is no other chance in it.
    fn stagger(&self) -> (Duration, bool) {
        (Duration::from_millis(self.seed * 100), self.seed.is_multiple_of(2))
    }
}

impl Goodput {
    pub(super) fn fairness_orders(&self) -> Vec<Order> {
        let mut orders = Vec::new();
        for congestion in &self.congestion {
            for (name, senders) in PAIRS {
                let seeds = 1..=self.seeds.unwrap_or(SEEDS);
                orders.extend(seeds.map(|seed| Order { congestion: congestion.clone(), seed, name, senders }));
            }
        }
        orders
    }

    /// Two flows from one host to another, by a link of 20 ms with a queue of one product.
    pub(super) fn share(&self, order: &Order) -> io::Result<Run> {
        let seconds = self.seconds.unwrap_or(SECONDS);
        let cell = Cell::plain(self.rate, 20.0, 1.0);
        let net = cell.hosts(order.seed)?;
        let (stagger, swapped) = order.stagger();
        let mut ends = Vec::new();
        for (number, whose) in order.senders.into_iter().enumerate() {
            let at = (SERVER_V4, PORT + number as u16).into();
            let receives = job(&order.congestion, Whose::Kernel, Work::Receive(receiver(at, seconds)));
            let mut server = End::start(&net.server, "receiver", &receives, &self.launch())?;
            server.wait_ready()?;
            let sends = job(&order.congestion, whose, Work::Send(sender(at, seconds)));
            let mut client = End::start(&net.client, "sender", &sends, &self.launch())?;
            client.wait_ready()?;
            ends.push((client, server));
        }
        let start = Instant::now();
        let first = usize::from(swapped);
        ends[first].0.go()?;
        thread::sleep(stagger);
        ends[1 - first].0.go()?;
        let mut metrics = Metrics::new();
        let mut bytes = Vec::new();
        for (number, (mut client, mut server)) in ends.into_iter().enumerate() {
            let left = Duration::from_secs_f64(seconds).saturating_sub(start.elapsed());
            let received = server.result(left)?;
            bytes.push(received["bytes"]);
            merge(&mut metrics, &format!("{number}.receiver."), &received);
            merge(&mut metrics, &format!("{number}.sender."), &client.result(Duration::from_secs(1))?);
            client.finish()?;
            server.finish()?;
        }
        merge(&mut metrics, "link.", &link_metrics(&net.emulator.stop()?));
        metrics.insert("mbit_s".into(), bytes.iter().sum::<f64>() * 8.0 / 1e6 / seconds);
        Ok(Run {
            congestion: order.congestion.clone(),
            seed: order.seed,
            senders: order.name.to_owned(),
            cell,
            seconds,
            share: bytes[0] / bytes.iter().sum::<f64>(),
            metrics,
        })
    }
}
