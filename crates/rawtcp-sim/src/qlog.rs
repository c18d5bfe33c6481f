//! A connection's events as text: qlog's JSON text sequences, and CSV.
//!
//! The first is what tools for qlog read (draft-ietf-quic-qlog-main-schema, RFC 7464): the events that TCP shares with
//! QUIC have the names and fields of `recovery`, so that viewers draw windows and round trips; the others are in
//! a namespace `tcp` of their own. The second opens in any spreadsheet, one event a line.

use rawtcp_proto::time::{Duration, Instant};
use rawtcp_proto::trace::{TraceEvent, Traced};
use std::fmt::{self, Write};

/// Between records of a JSON text sequence (RFC 7464 §2.2).
const RECORD: char = '\u{1e}';

/// The events as JSON text sequences; times are milliseconds since `start`.
pub fn json_seq<'a>(title: &str, start: Instant, events: impl IntoIterator<Item = &'a Traced>) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{RECORD}{{\"file_schema\":\"urn:ietf:params:qlog:file:sequential\",\
         \"serialization_format\":\"application/qlog+json-seq\",\"title\":{},\
         \"trace\":{{\"vantage_point\":{{\"type\":\"unknown\"}},\"event_schemas\":[]}}}}",
        Quoted(title)
    );
    for traced in events {
        let (name, data) = json(&traced.event, start);
        let time = millis(traced.at.since(start));
        let _ = writeln!(out, "{RECORD}{{\"time\":{time},\"name\":\"{name}\",\"data\":{{{data}}}}}");
    }
    out
}

/// Milliseconds with all their digits.
fn millis(time: Duration) -> String {
    format!("{}.{:06}", time.as_millis(), time.as_nanos() % 1_000_000)
}

fn json(event: &TraceEvent, start: Instant) -> (&'static str, String) {
    match event {
        TraceEvent::State { from, to, why } => (
            "tcp:state_updated",
            format!("\"old\":\"{}\",\"new\":\"{}\",\"trigger\":\"{}\"", from.name(), to.name(), why.name()),
        ),
        TraceEvent::Retransmitted { range, why } => (
            "tcp:retransmitted",
            format!("\"from\":{},\"to\":{},\"trigger\":\"{}\"", range.start.0, range.end.0, why.name()),
        ),
        TraceEvent::Lost { bytes, why } => {
            ("recovery:packet_lost", format!("\"bytes\":{bytes},\"trigger\":\"{}\"", why.name()))
        }
        TraceEvent::Recovery { from, to } => {
            ("recovery:congestion_state_updated", format!("\"old\":\"{}\",\"new\":\"{}\"", from.name(), to.name()))
        }
        TraceEvent::Window { cwnd, ssthresh, in_flight, why } => {
            let mut data = format!("\"congestion_window\":{cwnd},\"bytes_in_flight\":{in_flight}");
            if *ssthresh != u64::MAX {
                let _ = write!(data, ",\"ssthresh\":{ssthresh}");
            }
            let _ = write!(data, ",\"trigger\":\"{}\"", why.name());
            ("recovery:metrics_updated", data)
        }
        TraceEvent::Rtt { srtt, rttvar, rto } => (
            "recovery:metrics_updated",
            format!("\"smoothed_rtt\":{},\"rtt_variance\":{},\"rto\":{}", millis(*srtt), millis(*rttvar), millis(*rto)),
        ),
        TraceEvent::TimerSet { timer, due } => (
            "recovery:loss_timer_updated",
            format!(
                "\"event_type\":\"set\",\"timer_type\":\"{}\",\"delta\":{}",
                timer.name(),
                millis(due.since(start))
            ),
        ),
        TraceEvent::TimerStopped { timer } => {
            ("recovery:loss_timer_updated", format!("\"event_type\":\"cancelled\",\"timer_type\":\"{}\"", timer.name()))
        }
        TraceEvent::TimerExpired { timer, count } => (
            "recovery:loss_timer_updated",
            format!("\"event_type\":\"expired\",\"timer_type\":\"{}\",\"count\":{count}", timer.name()),
        ),
        TraceEvent::PathMtu { from, to, why } => {
            ("recovery:mtu_updated", format!("\"old\":{from},\"new\":{to},\"trigger\":\"{}\"", why.name()))
        }
        TraceEvent::PeerWindow { bytes } => ("tcp:peer_window", format!("\"bytes\":{bytes}")),
        TraceEvent::Dropped { why } => ("tcp:dropped", format!("\"trigger\":\"{why:?}\"")),
        other => ("tcp:other", format!("\"text\":{}", Quoted(&other.to_string()))),
    }
}

/// The columns of [`csv`].
const COLUMNS: &str = "seconds,event,cwnd,ssthresh,in_flight,srtt_ms,rto_ms,text";

/// The events as CSV, with a line of names; times are seconds since `start`.
pub fn csv<'a>(start: Instant, events: impl IntoIterator<Item = &'a Traced>) -> String {
    let mut out = format!("{COLUMNS}\n");
    for Traced { at, event } in events {
        let nanos = at.since(start).as_nanos();
        let (name, _) = json(event, start);
        let _ = write!(out, "{}.{:09},{name},", nanos / 1_000_000_000, nanos % 1_000_000_000);
        match event {
            TraceEvent::Window { cwnd, ssthresh, in_flight, .. } => {
                let ssthresh = if *ssthresh == u64::MAX { String::new() } else { ssthresh.to_string() };
                let _ = write!(out, "{cwnd},{ssthresh},{in_flight},,,");
            }
            TraceEvent::Rtt { srtt, rto, .. } => {
                let _ = write!(out, ",,,{},{},", millis(*srtt), millis(*rto));
            }
            _ => out.push_str(",,,,,"),
        }
        // RFC 4180 §2: quotes are doubled.
        let _ = writeln!(out, "\"{}\"", event.to_string().replace('"', "\"\""));
    }
    out
}

/// A JSON string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rawtcp_proto::State;
    use rawtcp_proto::trace::{StateReason, TimerKind, WindowReason};

    fn events() -> Vec<Traced> {
        let at = |n: u64| Instant::from_millis(1000 + n);
        let why = StateReason::SynAcked;
        vec![
            Traced { at: at(1), event: TraceEvent::State { from: State::SynSent, to: State::Established, why } },
            Traced {
                at: at(2),
                event: TraceEvent::Window { cwnd: 14_480, ssthresh: u64::MAX, in_flight: 7, why: WindowReason::Start },
            },
            Traced { at: at(3), event: TraceEvent::TimerSet { timer: TimerKind::Rto, due: at(203) } },
        ]
    }

    #[test]
    fn a_record_a_line_with_its_mark_in_front() {
        let text = json_seq("a \"b\"\n", Instant::from_millis(1000), &events());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.starts_with("\u{1e}{") && line.ends_with('}')));
        assert!(lines[0].contains(r#""title":"a \"b\"\u000a""#));
        assert_eq!(
            lines[1],
            "\u{1e}{\"time\":1.000000,\"name\":\"tcp:state_updated\",\"data\":{\"old\":\"SYN-SENT\",\
             \"new\":\"ESTABLISHED\",\"trigger\":\"syn_acked\"}}"
        );
        assert!(lines[2].contains("\"congestion_window\":14480,\"bytes_in_flight\":7,\"trigger\":\"start\""));
        assert!(lines[3].contains("\"timer_type\":\"rto\",\"delta\":203.000000"));
    }

    #[test]
    fn every_line_of_the_table_has_all_columns() {
        let text = csv(Instant::from_millis(1000), &events());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], COLUMNS);
        for line in &lines[1..] {
            let (before, text) = line.split_once('"').unwrap();
            assert_eq!(before.matches(',').count(), COLUMNS.matches(',').count(), "{line}");
            assert!(text.ends_with('"'));
        }
        assert!(lines[2].starts_with("0.002000000,recovery:metrics_updated,14480,,7,,,"));
    }
}
