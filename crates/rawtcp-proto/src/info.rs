//! A snapshot of a connection, with the names of Linux's `struct tcp_info`.

use crate::conn::State;
use crate::time::Duration;

/// What a connection looks like at one moment. Cheap: a copy of counters.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// The state (RFC 9293 §3.3.2).
    pub state: State,
    /// The smoothed round-trip time; zero before the first measurement.
    pub rtt: Duration,
    /// The round-trip time's mean deviation.
    pub rttvar: Duration,
    /// The smallest round-trip time of the last minutes; zero before the first measurement.
    pub min_rtt: Duration,
    /// The retransmission timeout, without backoff.
    pub rto: Duration,
    /// How often the current timeout has been doubled.
    pub backoff: u32,
    /// Congestion window, in bytes.
    pub snd_cwnd: u64,
    /// Slow-start threshold, in bytes; `u64::MAX` before the first loss.
    pub snd_ssthresh: u64,
    /// The segment size in use for sending, without options, in bytes.
    pub snd_mss: u32,
    /// The segment size announced to the peer, in bytes.
    pub advmss: u32,
    /// The path MTU in use, in bytes.
    pub pmtu: u32,
    /// The peer's window, in bytes.
    pub snd_wnd: u64,
    /// The window offered to the peer, in bytes.
    pub rcv_wnd: u64,
    /// Bytes sent and not acknowledged.
    pub unacked: u64,
    /// Of these, selectively acknowledged.
    pub sacked: u64,
    /// Of these, taken for lost and not sent again yet.
    pub lost: u64,
    /// Of these, sent again and not acknowledged.
    pub retrans: u64,
    /// Bytes that the application wrote and that were never sent.
    pub notsent_bytes: u64,
    /// Bytes acknowledged by the peer.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Bytes sent again.
    pub bytes_retrans: u64,
    /// Segments sent.
    pub segs_out: u64,
    /// Segments received.
    pub segs_in: u64,
    /// Segments sent again.
    pub total_retrans: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// The last rate of delivery that was measured, in bytes per second; 0 before the first. One measured
    /// while the application sent less than it might have replaces another only if it is not lower.
    pub delivery_rate: u64,
    /// Whether that was measured while the application, not the window, limited sending.
    pub delivery_rate_app_limited: bool,
    /// Whether timestamps were negotiated.
    pub timestamps: bool,
    /// Whether selective acknowledgments were negotiated.
    pub sack: bool,
    /// The shift for windows we send and receive, if scaling was negotiated.
    pub window_scale: Option<(u8, u8)>,
    /// Whether ECN was agreed on (RFC 3168 §6.1.1).
    pub ecn: bool,
    /// Bytes that the peer reported as delivered in acknowledgments with ECE: so much, at least, met congestion.
    pub delivered_ce: u64,
    /// Segments that arrived marked "congestion experienced".
    pub ce_received: u64,
    /// The name of the congestion control.
    pub congestion: &'static str,
}
