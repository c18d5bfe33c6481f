//! Pictures of results.

use std::fmt::Write;

use super::stats::{Summary, short};

/// A row of [`ratios`].
pub(crate) enum Row {
    Title(String),
    Bar { label: String, value: Summary, text: String },
}

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 330.0;
const RIGHT: f64 = 230.0;
const ROW: f64 = 20.0;
const TOP: f64 = 70.0;
/// Ends of the scale, which is logarithmic.
const LEAST: f64 = 1.0 / 32.0;
const MOST: f64 = 4.0;

/// Text that can stand in XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn x(value: f64) -> f64 {
    let value = if value.is_finite() { value.clamp(LEAST, MOST) } else { LEAST };
    LEFT + (WIDTH - LEFT - RIGHT) * (value / LEAST).ln() / (MOST / LEAST).ln()
}

/// Ratios as bars from 1, with their ranges: to the right is better, to the left is worse.
pub(crate) fn ratios(title: &str, subtitle: &str, rows: &[Row]) -> String {
    let height = TOP + ROW * rows.len() as f64 + 20.0;
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"22\" \
         font-size=\"16\">{}</text>\n<text x=\"10\" y=\"40\" fill=\"#555\">{}</text>\n",
        escape(title),
        escape(subtitle)
    );
    for tick in [1.0 / 16.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0] {
        let (at, color) = (x(tick), if tick == 1.0 { "black" } else { "#ddd" });
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"{color}\"/><text x=\"{at:.1}\" \
             y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{}</text>",
            height - 10.0,
            TOP - 6.0,
            short(tick)
        );
    }
    for (number, row) in rows.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        match row {
            Row::Title(text) => {
                let _ =
                    writeln!(out, "<text x=\"10\" y=\"{:.1}\" font-weight=\"bold\">{}</text>", y + 15.0, escape(text));
            }
            Row::Bar { label, value, text } => {
                let (one, median) = (x(1.0), x(value.median));
                let color = if value.median >= 1.0 { "#4a9d5b" } else { "#c8604a" };
                let _ = writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect x=\"{:.1}\" y=\"{:.1}\" \
                     width=\"{:.1}\" height=\"10\" fill=\"{color}\"/><line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" \
                     y2=\"{:.1}\" stroke=\"#333\"/><text x=\"{:.1}\" y=\"{:.1}\">{} ({})</text>",
                    LEFT - 8.0,
                    y + 14.0,
                    escape(label),
                    one.min(median),
                    y + 5.0,
                    (one - median).abs(),
                    x(value.min),
                    x(value.max),
                    y + 10.0,
                    y + 10.0,
                    WIDTH - RIGHT + 8.0,
                    y + 14.0,
                    short(value.median),
                    escape(text)
                );
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_bounded_and_text_is_escaped() {
        assert!(x(1e9) <= WIDTH - RIGHT + 0.1 && x(f64::NAN) == LEFT && x(1.0) > x(0.5));
        let value = Summary { median: 0.5, min: 0.4, max: 1.2 };
        let rows = [Row::Title("a<b".into()), Row::Bar { label: "c".into(), value, text: "1 & 2".into() }];
        let picture = ratios("t", "s", &rows);
        assert!(picture.contains("a&lt;b") && picture.contains("1 &amp; 2") && picture.ends_with("</svg>\n"));
    }
}
