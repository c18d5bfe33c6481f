//! What was found, for people.

use std::collections::BTreeMap;

use super::{BASELINE, Cell, Results, Run};
use crate::measure::stats::{Summary, geometric_mean, short};
use crate::measure::svg;

/// One cell of one controller: the kernel's runs, and those of another pair of ends with the same seeds.
struct Line<'a> {
    congestion: &'a str,
    cell: Cell,
    ends: &'a str,
    ours: Vec<&'a Run>,
    baseline: Vec<&'a Run>,
    ratio: Summary,
}

fn lines(results: &Results) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for run in results.runs.iter().filter(|run| run.ends != BASELINE.name) {
        let same =
            |line: &Line<'_>| line.congestion == run.congestion && line.cell == run.cell && line.ends == run.ends;
        if lines.iter().any(same) {
            continue;
        }
        let of = |ends: &str| -> BTreeMap<u64, &Run> {
            let is = |r: &&Run| r.ends == ends && r.cell == run.cell && r.congestion == run.congestion;
            results.runs.iter().filter(is).map(|run| (run.seed, run)).collect()
        };
        let (ours, mut baseline) = (of(&run.ends), of(BASELINE.name));
        baseline.retain(|seed, _| ours.contains_key(seed));
        let pairs = ours.iter().filter_map(|(seed, run)| Some((*run, *baseline.get(seed)?)));
        let ratios = pairs.map(|(ours, kernel)| ours.metrics["mbit_s"] / kernel.metrics["mbit_s"]);
        if let Some(ratio) = Summary::of(ratios) {
            let (ours, baseline) = (ours.into_values().collect(), baseline.into_values().collect());
            lines.push(Line { congestion: &run.congestion, cell: run.cell, ends: &run.ends, ours, baseline, ratio });
        }
    }
    // The order in which runs ended is chance.
    let key = |line: &Line<'_>| {
        let Cell { rtt_ms, loss, queue, reorder, .. } = line.cell;
        (reorder > 0.0, (-queue * 1e3) as i64, (rtt_ms * 1e3) as i64, (loss * 1e3) as i64)
    };
    lines.sort_by(|a, b| (a.congestion, a.ends, key(a)).cmp(&(b.congestion, b.ends, key(b))));
    lines
}

fn median(runs: &[&Run], metric: &str) -> f64 {
    Summary::of(runs.iter().map(|run| run.metrics.get(metric).copied().unwrap_or(f64::NAN)))
        .map_or(f64::NAN, |summary| summary.median)
}

fn faults(runs: &[&Run]) -> f64 {
    let of = |run: &&Run| -> f64 {
        run.metrics.iter().filter(|(name, _)| name.contains("drop.")).map(|(_, count)| *count).sum()
    };
    runs.iter().map(of).sum()
}

pub(super) fn print(results: &Results) {
    let mut last = (String::new(), String::new());
    let lines = lines(results);
    for line in &lines {
        let this = (line.congestion.to_owned(), line.ends.to_owned());
        if this != last {
            let of_these = lines.iter().filter(|l| (l.congestion, l.ends) == (line.congestion, line.ends));
            let mean = geometric_mean(of_these.map(|line| line.ratio.median)).unwrap_or(f64::NAN);
            println!("\n{}, {}: geometric mean {}", line.congestion, line.ends, short(mean));
            println!(
                "  {:<40} {:>8} {:>8}   {:>6}  {:<13} {:>8} {:>8}  {:>9} {:>9}",
                "Mbit/s", "ours", "kernel", "ratio", "range", "sent", "again", "late p99", "max, µs"
            );
            last = this;
        }
        let all: Vec<&Run> = line.ours.iter().chain(&line.baseline).copied().collect();
        let latest = all.iter().filter_map(|run| run.metrics.get("link.late_max_us")).copied().fold(0.0, f64::max);
        println!(
            "  {:<40} {:>8} {:>8}   {:>6}  {:<13} {:>8} {:>8}  {:>9} {:>9}",
            line.cell.to_string(),
            short(median(&line.ours, "mbit_s")),
            short(median(&line.baseline, "mbit_s")),
            short(line.ratio.median),
            format!("{}–{}", short(line.ratio.min), short(line.ratio.max)),
            again(&line.ours),
            again(&line.baseline),
            short(median(&all, "link.late_p99_us")),
            short(latest),
        );
        let (ours, kernel) = (faults(&line.ours), faults(&line.baseline));
        if ours + kernel > 0.0 {
            println!("  {:<40} lost unasked: {ours} with ours, {kernel} of the baseline", "");
        }
    }
    print_fairness(results);
}

/// Retransmissions, of what the link lost or dropped; where it lost nothing, of what it reordered.
fn again(runs: &[&Run]) -> String {
    let lost = median(runs, "link.lost") + median(runs, "link.queue_drops");
    let of = if lost > 0.0 { lost } else { median(runs, "link.reordered") };
    let again = Summary::of(runs.iter().map(|run| run.metrics.get("client.retrans").copied().unwrap_or(0.0)));
    format!("{}/{}", short(again.map_or(0.0, |summary| summary.median)), short(of))
}

fn print_fairness(results: &Results) {
    let mut groups: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for run in &results.fairness {
        groups.entry((&run.congestion, &run.senders)).or_default().push(run.share);
    }
    if groups.is_empty() {
        return;
    }
    println!("\nThe first sender's share of a bottleneck, each seed's over the whole time");
    for ((congestion, senders), shares) in groups {
        let summary = Summary::of(shares.iter().copied());
        let each: Vec<String> = shares.iter().map(|share| short(*share)).collect();
        let median = summary.map_or(f64::NAN, |summary| summary.median);
        println!("  {congestion:<8} {senders:<16} median {}  ({})", short(median), each.join(", "));
    }
}

pub(super) fn draw(results: &Results) -> String {
    let mut rows = Vec::new();
    let mut last = String::new();
    for line in lines(results) {
        let title = format!("{}, {}", line.congestion, line.ends);
        if title != last {
            rows.push(svg::Row::Title(title.clone()));
            last = title;
        }
        let (ours, kernel) = (median(&line.ours, "mbit_s"), median(&line.baseline, "mbit_s"));
        let text = format!("{} : {} Mbit/s", short(ours), short(kernel));
        rows.push(svg::Row::Bar { label: line.cell.to_string(), value: line.ratio, text });
    }
    svg::ratios("Goodput, rawtcp against the kernel", &results.machine, &rows)
}
