//! Times of what was to happen at a certain time, from a recording.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use hdrhistogram::Histogram;
use rawtcp_lab::capture::TcpSegment;

use crate::measure::Metrics;

/// What comes faster than this behind other data is no lone segment, in nanoseconds.
const LONE_AFTER: u64 = 60_000_000;

/// Payload of a segment of a message, at least.
const LARGE: usize = 1000;

/// Nanoseconds.
fn time(segment: &TcpSegment) -> u64 {
    segment.time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Whether `a` is before `b` in sequence space.
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

fn end(segment: &TcpSegment) -> u32 {
    segment.seq.wrapping_add(segment.payload_len as u32)
}

/// Quantiles in microseconds.
fn quantiles(values: impl IntoIterator<Item = u64>) -> Metrics {
    // Four digits: of 40 ms some microseconds shall be seen.
    let Ok(mut times) = Histogram::<u64>::new_with_max(60_000_000_000, 4) else { return Metrics::new() };
    values.into_iter().for_each(|value| times.saturating_record(value));
    let of = |quantile| if times.is_empty() { f64::NAN } else { times.value_at_quantile(quantile) as f64 / 1e3 };
    [
        ("samples", times.len() as f64),
        ("p50_us", of(0.5)),
        ("p90_us", of(0.9)),
        ("p99_us", of(0.99)),
        ("p999_us", of(0.999)),
        ("max_us", of(1.0)),
    ]
    .map(|(name, value)| (format!("seen.{name}"), value))
    .into()
}

/// Data that left together.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Burst {
    /// When the first of it left, in nanoseconds.
    at: u64,
    bytes: u64,
}

/// By how much the time between two departures differs from what the first one's bytes take, and the rate.
pub(super) fn pace(segments: &[TcpSegment], port: u16, bits_per_second: u64) -> Metrics {
    let takes = |bytes: u64| (bytes as f64 * 8e9 / bits_per_second as f64) as u64;
    let mut bursts = Vec::<Burst>::new();
    let mut last = Burst { at: 0, bytes: 0 };
    let mut sent = None;
    for segment in segments.iter().filter(|s| s.outgoing && s.dst.port() == port && s.payload_len > 0) {
        let (at, bytes) = (time(segment), segment.payload_len as u64);
        if sent.is_some_and(|sent| before(segment.seq, sent)) {
            continue; // sent again: it is seldom, and belongs to no schedule
        }
        sent = Some(end(segment));
        match bursts.last_mut() {
            // The frame before it takes longer by far: it is the same burst.
            Some(burst) if at.saturating_sub(last.at) < takes(last.bytes) / 2 => burst.bytes += bytes,
            _ => bursts.push(Burst { at, bytes }),
        }
        last = Burst { at, bytes };
    }
    // The beginning is free, and the end no whole burst.
    let bursts = &bursts[bursts.len() / 10..bursts.len().saturating_sub(1)];
    let off = bursts.windows(2).map(|pair| (pair[1].at - pair[0].at).abs_diff(takes(pair[0].bytes)));
    let mut metrics = quantiles(off);
    if let [first, middle @ .., last] = bursts {
        let bytes = first.bytes + middle.iter().map(|burst| burst.bytes).sum::<u64>();
        let rate = bytes as f64 * 8e9 / (last.at - first.at) as f64;
        metrics.insert("seen.rate".into(), rate / bits_per_second as f64);
        metrics.insert("seen.burst_kib".into(), bytes as f64 / 1024.0 / (bursts.len() - 1) as f64);
    }
    metrics
}

/// How long a lone segment waits for its ACK.
pub(super) fn acks(segments: &[TcpSegment], port: u16) -> Metrics {
    struct Peer {
        last: u64,
        /// The end of what waits, and since when.
        waits: Option<(u32, u64)>,
    }
    let mut peers = HashMap::<SocketAddr, Peer>::new();
    let mut delays = Vec::new();
    for segment in segments {
        let at = time(segment);
        if !segment.outgoing && segment.dst.port() == port && segment.payload_len > 0 {
            let peer = peers.entry(segment.src).or_insert(Peer { last: at, waits: None });
            let lone = at.saturating_sub(peer.last) > LONE_AFTER;
            peer.waits = lone.then(|| (end(segment), at));
            peer.last = at;
        } else if segment.outgoing
            && segment.src.port() == port
            && let Some(peer) = peers.get_mut(&segment.dst)
            && let Some((end, since)) = peer.waits
            && !before(segment.ack, end)
        {
            delays.push(at.saturating_sub(since));
            peer.waits = None;
        }
    }
    quantiles(delays)
}

/// From the ACK that first tells of a hole (`holes`), or else from the last departure or acknowledgment of data, to what is
/// sent again first, on each connection.
pub(super) fn repairs(segments: &[TcpSegment], port: u16, holes: bool) -> Metrics {
    #[derive(Default)]
    struct Flow {
        sent: Option<u32>,
        acked: Option<u32>,
        since: Option<u64>,
        over: bool,
    }
    let mut flows = HashMap::<SocketAddr, Flow>::new();
    let mut times = Vec::new();
    for segment in segments {
        let at = time(segment);
        if segment.outgoing && segment.dst.port() == port && segment.payload_len >= LARGE {
            let flow = flows.entry(segment.src).or_default();
            if flow.sent.is_some_and(|sent| before(segment.seq, sent)) {
                if !std::mem::replace(&mut flow.over, true) {
                    times.extend(flow.since.map(|since| at.saturating_sub(since)));
                }
                continue;
            }
            flow.sent = Some(end(segment));
            if !holes {
                flow.since = Some(at);
            }
        } else if !segment.outgoing
            && segment.src.port() == port
            && let Some(flow) = flows.get_mut(&segment.dst)
        {
            let news = match holes {
                true => flow.since.is_none() && has_sack(&segment.options),
                false => flow.acked.is_none_or(|acked| before(acked, segment.ack)),
            };
            flow.acked = Some(segment.ack);
            if news {
                flow.since = Some(at);
            }
        }
    }
    let mut metrics = quantiles(times);
    metrics.insert("seen.connections".into(), flows.len() as f64);
    metrics
}

/// Whether there are SACK blocks among the options (RFC 2018 §3).
fn has_sack(mut options: &[u8]) -> bool {
    loop {
        match *options {
            [5, ..] => return true,
            [1, ref rest @ ..] => options = rest,
            [0, ..] | [] | [_] => return false,
            [_, length, ..] => match options.get(usize::from(length.max(2))..) {
                Some(rest) => options = rest,
                None => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rawtcp_lab::capture::TcpFlags;

    use super::*;

    const PORT: u16 = 7000;

    /// At so many microseconds; with data from the client, else from the server.
    fn segment(outgoing: bool, at: u64, seq: u32, payload_len: usize, ack: u32) -> TcpSegment {
        let (client, server) = ("10.0.0.1:5000".parse().unwrap(), SocketAddr::from(([10, 0, 0, 2], PORT)));
        let (src, dst) = if payload_len > 0 { (client, server) } else { (server, client) };
        TcpSegment {
            time: UNIX_EPOCH + Duration::from_micros(at),
            outgoing,
            src,
            dst,
            seq,
            ack,
            flags: TcpFlags(0x10),
            window: 0,
            checksum: 0,
            options: Default::default(),
            payload_len,
            payload: Default::default(),
            ecn: 0,
            ttl: 64,
        }
    }

    #[test]
    fn bursts_are_told_apart_and_gaps_compared_with_what_they_take() {
        // 8 Mbit/s: a byte takes a microsecond. Each burst is two segments of 1,000, and comes 100 µs late.
        let sent: Vec<_> = (0..40)
            .flat_map(|n| [0, 1].map(|half| segment(true, n * 2100 + half * 3, (n * 2 + half) as u32 * 1000, 1000, 0)))
            .collect();
        let metrics = pace(&sent, PORT, 8_000_000);
        assert_eq!((metrics["seen.p50_us"].round(), metrics["seen.max_us"].round()), (100.0, 100.0));
        assert!((metrics["seen.rate"] - 2000.0 / 2100.0).abs() < 1e-6, "{metrics:?}");
        assert!((metrics["seen.burst_kib"] - 2000.0 / 1024.0).abs() < 1e-6);
        // A copy of what was sent is none of it.
        let mut again = sent.clone();
        again.insert(20, segment(true, 19_000, 2000, 1000, 0));
        assert_eq!(pace(&again, PORT, 8_000_000), metrics);
        assert!(pace(&[], PORT, 1)["seen.p50_us"].is_nan());
    }

    #[test]
    fn an_acks_delay_counts_behind_silence_only() {
        let seen = [
            segment(false, 0, 100, 1, 0),
            segment(true, 10, 0, 0, 101),
            segment(false, 1000, 101, 1, 0),
            segment(true, 1010, 0, 0, 102),
            segment(false, 101_000, 102, 1, 0),
            // A window update does not acknowledge it.
            segment(true, 102_000, 0, 0, 102),
            segment(true, 141_060, 0, 0, 103),
        ];
        let metrics = acks(&seen, PORT);
        assert_eq!(metrics["seen.samples"], 1.0);
        assert!((metrics["seen.p50_us"] - 40_060.0).abs() < 4.1, "{metrics:?}");
    }

    #[test]
    fn the_first_copy_counts_from_the_hole_or_from_the_last_news() {
        let sack = |at, ack| TcpSegment {
            options: [&[1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 10][..], &[0; 8]].concat().into(),
            ..segment(false, at, 0, 0, ack)
        };
        let seen = [
            segment(true, 0, u32::MAX - 999, 1448, 0),
            segment(true, 1, 448, 1448, 0),
            segment(true, 2, 1896, 1448, 0),
            segment(false, 30, 0, 0, u32::MAX - 999),
            sack(50, u32::MAX - 999),
            sack(51, u32::MAX - 999),
            segment(true, 120, u32::MAX - 999, 1448, 0),
            segment(true, 130, 448, 1448, 0),
        ];
        assert_eq!(repairs(&seen, PORT, true)["seen.max_us"].round(), 70.0);
        assert_eq!(repairs(&seen, PORT, true)["seen.samples"], 1.0);
        // The first ACK is news, because nothing was known before; the duplicates behind it are not.
        assert_eq!(repairs(&seen, PORT, false)["seen.max_us"].round(), 90.0);
        assert!(has_sack(&seen[4].options) && !has_sack(&[8, 10, 1]) && !has_sack(&[3]));
    }
}
