//! The time–sequence picture of one direction of a connection, seen at its sender.
//!
//! Time goes to the right, sequence numbers up. Black bars are segments sent, red ones segments sent
//! again, a cross marks those that the link dropped; the green line is what is acknowledged, the blue
//! one the edge of the peer's window, violet ticks are what SACK reports.

use crate::trace::{Record, Way};
use rawtcp_proto::wire::Flags;
use rawtcp_proto::{Instant, SeqNum};
use std::fmt::Write;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 700.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 50.0;

struct Bar {
    at: Instant,
    from: f64,
    to: f64,
    again: bool,
    lost: bool,
}

struct Picture {
    bars: Vec<Bar>,
    acks: Vec<(Instant, f64)>,
    windows: Vec<(Instant, f64)>,
    sacks: Vec<(Instant, f64, f64)>,
}

/// Draws what `records`, all of one connection at one host, say of the data that this host sent.
/// `None`: there is nothing to draw.
pub fn time_sequence<'a>(title: &str, records: impl Iterator<Item = &'a Record> + Clone) -> Option<String> {
    let picture = collect(records)?;
    Some(draw(title, &picture))
}

fn collect<'a>(records: impl Iterator<Item = &'a Record> + Clone) -> Option<Picture> {
    let first = records.clone().find(|r| r.is_sent())?;
    let base = first.tcp.seq;
    let relative = |seq: SeqNum| f64::from(seq.distance(base));
    let scale = |sent: bool| {
        let syn = |r: &&Record| r.is_sent() == sent && r.tcp.flags.contains(Flags::SYN);
        records.clone().find(syn).and_then(|r| r.tcp.options.window_scale)
    };
    // Scaling counts where both SYNs have it (RFC 7323 §2.2).
    let shift = scale(true).and(scale(false)).unwrap_or(0).min(14);
    let mut picture = Picture { bars: Vec::new(), acks: Vec::new(), windows: Vec::new(), sacks: Vec::new() };
    let mut highest = base;
    for record in records.clone() {
        let tcp = &record.tcp;
        if record.is_sent() {
            let end = tcp.seq.add(record.seq_len());
            if end == tcp.seq {
                continue;
            }
            let again = tcp.seq.before(highest);
            if end.after(highest) {
                highest = end;
            }
            let lost = record.way == Way::SentLost;
            picture.bars.push(Bar { at: record.at, from: relative(tcp.seq), to: relative(end), again, lost });
        } else if tcp.flags.contains(Flags::ACK) && !tcp.flags.contains(Flags::RST) {
            let shift = if tcp.flags.contains(Flags::SYN) { 0 } else { shift };
            let ack = relative(tcp.ack);
            picture.acks.push((record.at, ack));
            picture.windows.push((record.at, ack + f64::from(u32::from(tcp.window.0) << shift)));
            let blocks = tcp.options.sack.iter().map(|(from, to)| (record.at, relative(from), relative(to)));
            picture.sacks.extend(blocks);
        }
    }
    (!picture.bars.is_empty()).then_some(picture)
}

fn draw(title: &str, picture: &Picture) -> String {
    let times = picture.bars.iter().map(|b| b.at).chain(picture.acks.iter().map(|a| a.0));
    let start = times.clone().min().unwrap_or(Instant::ZERO);
    let end = times.max().unwrap_or(start);
    let span = (end.since(start).as_nanos() as f64).max(1.0);
    // The window may reach far beyond what was sent: it is cut off above.
    let top = picture.bars.iter().map(|b| b.to).fold(1.0, f64::max) * 1.1;
    let x = |at: Instant| LEFT + at.since(start).as_nanos() as f64 / span * (WIDTH - LEFT - RIGHT);
    let y = |seq: f64| HEIGHT - BOTTOM - (seq / top).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM);

    let mut out = String::new();
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{title}</text>"
    );
    legend(&mut out);
    axes(&mut out, start, span, top);
    for (name, color, points) in [("window", "#36c", &picture.windows), ("ack", "#2a2", &picture.acks)] {
        let mut path = String::new();
        for (i, &(at, seq)) in points.iter().enumerate() {
            let _ = match i {
                0 => write!(path, "M{:.1} {:.1}", x(at), y(seq)),
                _ => write!(path, "H{:.1}V{:.1}", x(at), y(seq)),
            };
        }
        let _ = writeln!(out, "<path class=\"{name}\" d=\"{path}\" fill=\"none\" stroke=\"{color}\"/>");
    }
    for &(at, from, to) in &picture.sacks {
        line(&mut out, x(at), y(from), y(to), "#a3c", 1.0);
    }
    for bar in &picture.bars {
        let color = if bar.again { "#d22" } else { "black" };
        // A single segment of a long transfer must be seen, too.
        let (from, to) = (y(bar.from), y(bar.to));
        let to = if bar.again { to.min(from - 5.0) } else { to.min(from - 1.0) };
        line(&mut out, x(bar.at), from, to, color, if bar.again { 2.5 } else { 1.5 });
        if bar.lost {
            let (x, y) = (x(bar.at), y(bar.to));
            let _ = writeln!(
                out,
                "<path d=\"M{:.1} {:.1}l8 8m0 -8l-8 8\" stroke=\"#d80\" stroke-width=\"1.5\"/>",
                x - 4.0,
                y - 4.0
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

fn line(out: &mut String, x: f64, from: f64, to: f64, color: &str, width: f64) {
    let _ = writeln!(
        out,
        "<line x1=\"{x:.1}\" y1=\"{from:.1}\" x2=\"{x:.1}\" y2=\"{to:.1}\" stroke=\"{color}\" stroke-width=\"{width}\"/>"
    );
}

fn legend(out: &mut String) {
    let names = [
        ("sent", "black"),
        ("sent again", "#d22"),
        ("dropped", "#d80"),
        ("acknowledged", "#2a2"),
        ("window", "#36c"),
        ("SACK", "#a3c"),
    ];
    for (i, (name, color)) in names.into_iter().enumerate() {
        let x = LEFT + 120.0 * i as f64;
        let _ = writeln!(out, "<text x=\"{x}\" y=\"42\" fill=\"{color}\">■ {name}</text>");
    }
}

fn axes(out: &mut String, start: Instant, span: f64, top: f64) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let _ = writeln!(
        out,
        "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#888\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">milliseconds since {:.3} s</text>",
        (LEFT + right) / 2.0,
        HEIGHT - 10.0,
        start.as_nanos() as f64 / 1e9
    );
    const STEPS: u32 = 8;
    for i in 0..=STEPS {
        let part = f64::from(i) / f64::from(STEPS);
        let (x, y) = (LEFT + part * (right - LEFT), bottom - part * (bottom - TOP));
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{:.1}</text>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{:.0}</text>\n\
             <path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#eee\"/>",
            bottom + 18.0,
            part * span / 1e6,
            LEFT - 6.0,
            y + 4.0,
            part * top
        );
    }
}
