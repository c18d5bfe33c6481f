//! What was found, for people and for programs.

use std::fs;
use std::io;
use std::path::Path;

use super::{Line, Report, short, svg};
use crate::bench::plan::Better;
use crate::measure::stats::Summary;

/// A run of which the host took more than this has measured the host, too.
const MUCH_STOLEN: f64 = 0.03;

/// The lines of one group, as a table.
pub(super) fn print(title: &str, lines: &[Line]) {
    println!("\n{title}");
    println!("  {:<22} {:<20} {:>10} {:>10}   {:>6}  {:<13}", "", "", "ours", "baseline", "ratio", "range");
    for of_setup in lines.chunk_by(|a, b| a.setup == b.setup) {
        for (i, line) in of_setup.iter().enumerate() {
            println!(
                "  {:<22} {:<20} {:>10} {:>10}   {:>6}  {:<13} {}{}",
                if i == 0 { &line.setup } else { "" },
                line.figure,
                short(line.ours.median),
                short(line.baseline.median),
                short(line.ratio.median),
                format!("{}–{}", short(line.ratio.min), short(line.ratio.max)),
                line.unit,
                if line.better == Better::Lower { "  (less is better)" } else { "" },
            );
        }
        // They are the runs', and so the same for all figures.
        remarks(&of_setup[0]).iter().for_each(|remark| println!("  {:<22} {remark}", ""));
    }
}

/// What has to be known of the runs to judge their figures.
fn remarks(line: &Line) -> Vec<String> {
    let mut remarks = Vec::new();
    for (whose, faults) in [("ours", &line.faults), ("baseline", &line.baseline_faults)] {
        if !faults.is_empty() {
            remarks.push(format!("lost unasked, {whose}: {}", faults.join(", ")));
        }
    }
    for (whose, stolen) in [("ours", line.stolen), ("baseline", line.baseline_stolen)] {
        if let Some(Summary { median, max, .. }) = stolen.filter(|stolen| stolen.max > MUCH_STOLEN) {
            let (median, max) = (median * 100.0, max * 100.0);
            remarks
                .push(format!("of the processors the host took, {whose}: {median:.0} %, {max:.0} % in the worst run"));
        }
    }
    remarks
}

impl Report {
    pub(super) fn write(&self, json: Option<&Path>, picture: Option<&Path>) -> io::Result<()> {
        if let Some(path) = json {
            fs::write(path, serde_json::to_string_pretty(self)?)?;
        }
        if let Some(path) = picture {
            fs::write(path, self.draw())?;
        }
        Ok(())
    }

    fn draw(&self) -> String {
        let mut bars = Vec::new();
        let mut last = "";
        for line in &self.lines {
            if line.group != last {
                bars.push(svg::Row::Title(line.group.clone()));
                last = &line.group;
            }
            // To the right is good.
            let ratio = match line.better {
                Better::Higher => line.ratio,
                Better::Lower => {
                    Summary { median: 1.0 / line.ratio.median, min: 1.0 / line.ratio.max, max: 1.0 / line.ratio.min }
                }
            };
            bars.push(svg::Row::Bar {
                label: format!("{}, {}", line.setup, line.figure),
                value: ratio,
                text: format!("{} : {} {}", short(line.ours.median), short(line.baseline.median), line.unit),
            });
        }
        svg::ratios("rawtcp against its baseline", &self.machine, &bars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_and_what_was_stolen_is_said() {
        let one = Summary { median: 1.0, min: 1.0, max: 1.0 };
        let stolen = |max| Some(Summary { median: 0.01, min: 0.0, max });
        let mut line = Line {
            group: "bulk".to_owned(),
            setup: "ours".to_owned(),
            figure: "throughput".to_owned(),
            unit: "Gbit/s",
            better: Better::Higher,
            ours: one,
            baseline: one,
            ratio: one,
            faults: vec!["client.drop.queue 3".to_owned()],
            baseline_faults: Vec::new(),
            stolen: stolen(0.34),
            baseline_stolen: stolen(0.02),
        };
        let lost = "lost unasked, ours: client.drop.queue 3";
        assert_eq!(remarks(&line), [lost, "of the processors the host took, ours: 1 %, 34 % in the worst run"]);
        (line.stolen, line.baseline_stolen) = (None, stolen(0.05));
        line.faults.clear();
        assert_eq!(remarks(&line), ["of the processors the host took, baseline: 1 %, 5 % in the worst run"]);
    }
}
