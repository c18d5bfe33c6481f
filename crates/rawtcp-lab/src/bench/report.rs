//! What was found, for people and for programs.

use std::fs;
use std::io;
use std::path::Path;

use super::{Line, Report, short, svg};
use crate::bench::plan::Better;

/// The lines of one group, as a table.
pub(super) fn print(title: &str, lines: &[Line]) {
    println!("\n{title}");
    println!("  {:<22} {:<20} {:>10} {:>10}   {:>6}  {:<13}", "", "", "ours", "baseline", "ratio", "range");
    let mut last = "";
    for line in lines {
        let setup = if line.setup == last { "" } else { &line.setup };
        last = &line.setup;
        println!(
            "  {:<22} {:<20} {:>10} {:>10}   {:>6}  {:<13} {}{}",
            setup,
            line.figure,
            short(line.ours.median),
            short(line.baseline.median),
            short(line.ratio.median),
            format!("{}–{}", short(line.ratio.min), short(line.ratio.max)),
            line.unit,
            if line.better == Better::Lower { "  (less is better)" } else { "" },
        );
        for (whose, faults) in [("ours", &line.faults), ("baseline", &line.baseline_faults)] {
            if setup == line.setup && !faults.is_empty() {
                println!("  {:<22} lost unasked, {whose}: {}", "", faults.join(", "));
            }
        }
    }
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
                Better::Lower => crate::measure::stats::Summary {
                    median: 1.0 / line.ratio.median,
                    min: 1.0 / line.ratio.max,
                    max: 1.0 / line.ratio.min,
                },
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
