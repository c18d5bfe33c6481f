//! What benchmarks and experiments share: the two stacks behind one trait, ends in processes of their own, and figures.

pub(crate) mod control;
pub(crate) mod cpu;
pub(crate) mod drops;
pub(crate) mod end;
pub(crate) mod net;
pub(crate) mod progress;
pub(crate) mod stats;
pub(crate) mod svg;

use std::collections::BTreeMap;

/// Named figures of one run.
pub(crate) type Metrics = BTreeMap<String, f64>;

/// Adds all of `other`, each name with `prefix` in front.
pub(crate) fn merge(into: &mut Metrics, prefix: &str, other: &Metrics) {
    into.extend(other.iter().map(|(name, value)| (format!("{prefix}{name}"), *value)));
}

/// What both ends said, each name with its end in front.
pub(crate) fn of_both(client: &Metrics, server: &Metrics) -> Metrics {
    let mut metrics = Metrics::new();
    merge(&mut metrics, "client.", client);
    merge(&mut metrics, "server.", server);
    metrics
}
