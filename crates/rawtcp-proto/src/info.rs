//! A snapshot of a connection, with the names of Linux's `struct tcp_info`.
//!
//! Units differ where ours are finer: windows and amounts are bytes and not segments (`unacked`, `sacked`, `lost`,
//! `retrans`, `snd_cwnd`, `snd_ssthresh`, `delivered`), times are [`Duration`]s. `fackets` and `reordering` have no
//! meaning where loss is found in time (RFC 8985); what takes their place is [`reo_wnd`](TcpInfo::reo_wnd).

use crate::conn::State;
use crate::time::Duration;

/// Where the sender stands with its losses: Linux's `ca_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CaState {
    /// Nothing is out of the ordinary.
    #[default]
    Open,
    /// Selective or duplicate acknowledgments have come, and nothing is thought lost yet.
    Disorder,
    /// The window was reduced although nothing was lost: the network marked packets.
    Cwr,
    /// Fast recovery.
    Recovery,
    /// After a retransmission timeout.
    Loss,
}

/// What a connection looks like at one moment. Cheap: a copy of counters.
///
/// Counters and totals start with the connection. Rates are bytes per second. Segments of a packet that the device
/// cuts or has merged count one by one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// The state (RFC 9293 §3.3.2).
    pub state: State,
    /// Where the sender stands with its losses.
    pub ca_state: CaState,
    /// Timeouts in a row without progress.
    pub retransmits: u32,
    /// Probes in a row, of a closed window or an idle peer, without an answer.
    pub probes: u32,
    /// How often the current timeout has been doubled.
    pub backoff: u32,
    /// Whether timestamps were negotiated.
    pub timestamps: bool,
    /// Whether selective acknowledgments were negotiated.
    pub sack: bool,
    /// The shift for windows we receive and send, if scaling was negotiated (`snd_wscale`, `rcv_wscale`).
    pub window_scale: Option<(u8, u8)>,
    /// Whether ECN was agreed on (RFC 3168 §6.1.1).
    pub ecn: bool,

    /// The retransmission timeout, with backoff.
    pub rto: Duration,
    /// How long an ACK may be delayed.
    pub ato: Duration,
    /// The segment size in use for sending, without options, in bytes.
    pub snd_mss: u32,
    /// The largest segment that the peer has sent, in bytes.
    pub rcv_mss: u32,
    /// The segment size announced to the peer, in bytes.
    pub advmss: u32,
    /// The path MTU in use, in bytes.
    pub pmtu: u32,

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

    /// How long ago data was last sent.
    pub last_data_sent: Duration,
    /// How long ago an acknowledgment was last sent, by itself or with data. (Linux does not tell.)
    pub last_ack_sent: Duration,
    /// How long ago data last arrived.
    pub last_data_recv: Duration,
    /// How long ago the peer was last heard of.
    pub last_ack_recv: Duration,

    /// The smoothed round-trip time; zero before the first measurement.
    pub rtt: Duration,
    /// The round-trip time's mean deviation.
    pub rttvar: Duration,
    /// The smallest round-trip time of the last minutes; zero before the first measurement.
    pub min_rtt: Duration,
    /// The round-trip time of the receiving direction, as far as it is known; else zero.
    pub rcv_rtt: Duration,
    /// How long after the last-sent segment that has arrived a segment sent before it may come without being
    /// taken for lost (RACK.reo_wnd, RFC 8985 §6.2).
    pub reo_wnd: Duration,

    /// Congestion window, in bytes.
    pub snd_cwnd: u64,
    /// Slow-start threshold, in bytes; `u64::MAX` before the first loss.
    pub snd_ssthresh: u64,
    /// The peer's window, in bytes.
    pub snd_wnd: u64,
    /// The window offered to the peer, in bytes.
    pub rcv_wnd: u64,
    /// The most that the window offered may be at present, in bytes: the receive buffer.
    pub rcv_ssthresh: u64,
    /// The most that the application has read in a round trip, in bytes: what the receive buffer follows.
    pub rcv_space: u64,

    /// The rate at which data leaves at most, if it is paced; else at which it would, as Linux tells it. `u64::MAX`
    /// before there is any.
    pub pacing_rate: u64,
    /// The bound that was set for it; `u64::MAX`: none.
    pub max_pacing_rate: u64,
    /// The last rate of delivery that was measured; 0 before the first. One measured while the application sent
    /// less than it might have replaces another only if it is not lower.
    pub delivery_rate: u64,
    /// Whether that was measured while the application, not the window, limited sending.
    pub delivery_rate_app_limited: bool,

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
    /// Segments with data sent, retransmissions included.
    pub data_segs_out: u64,
    /// Segments with data received, duplicates included.
    pub data_segs_in: u64,
    /// Segments sent again.
    pub total_retrans: u64,
    /// Bytes that have arrived at the peer, in order or not.
    pub delivered: u64,
    /// Bytes that the peer reported as delivered in acknowledgments with ECE: so much, at least, met congestion.
    pub delivered_ce: u64,
    /// Segments that arrived marked "congestion experienced".
    pub ce_received: u64,
    /// Segments that the peer says it received twice (RFC 2883).
    pub dsack_dups: u64,
    /// How often something sent once arrived behind something sent after it.
    pub reord_seen: u64,
    /// Segments received out of order.
    pub rcv_ooopack: u64,

    /// How long there was something to send or to be acknowledged.
    pub busy_time: Duration,
    /// Of that, how long the peer's window held data back.
    pub rwnd_limited: Duration,
    /// Of that, how long the send buffer kept the application from writing although more could be in flight.
    pub sndbuf_limited: Duration,

    /// Retransmission timeouts (`total_rto`).
    pub timeouts: u64,
    /// Recoveries that began with a timeout.
    pub total_rto_recoveries: u64,
    /// How long those took, together.
    pub total_rto_time: Duration,

    /// The name of the congestion control.
    pub congestion: &'static str,
}
