//! What can be set, each with its default and the reason for it.

use crate::buf::ChunkPool;
use crate::cc::Factory;
use crate::time::Duration;

/// Keep-alive values (RFC 9293 §3.8.4); off unless set [MUST-25].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe. Default 2 h [MUST-28].
    pub idle: Duration,
    /// Time between unanswered probes. Default 75 s, as Linux.
    pub interval: Duration,
    /// Unanswered probes after which the connection is dead. Default 9, as Linux [MUST-29].
    pub count: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Keepalive { idle: Duration::from_secs(7200), interval: Duration::from_secs(75), count: 9 }
    }
}

/// Whether congestion is signalled by marks instead of losses (RFC 3168); the values of Linux's `tcp_ecn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EcnMode {
    /// Neither ask nor agree (0).
    Off,
    /// Agree if the peer asks (2).
    #[default]
    Accept,
    /// Ask, and agree (1). A SYN that is sent again does not ask: boxes on some paths drop those that do
    /// (RFC 3168 §6.1.1.1).
    Request,
}

/// Whether segments of other sizes are tried to find the path MTU (RFC 4821); the values of Linux's
/// `tcp_mtu_probing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MtuProbing {
    /// Never: routers tell, or nobody (0).
    Off,
    /// When large segments vanish without a word (1): smaller ones are sent then, and larger ones tried again.
    #[default]
    BlackHole,
    /// From the start (2): segments begin small, and larger ones are tried.
    Always,
}

/// What becomes of a congestion window that the application does not use. In every case it grows only while
/// it is what limits sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CwndValidation {
    /// Half of it for each RTO of silence, and half of the unused part for each RTO in which some of it
    /// was not used; never below the initial window. RFC 2861, which RFC 7661 obsoletes, and Linux.
    #[default]
    Decay,
    /// It is kept for five minutes, in which data is paced; a loss reduces it to what was used, without what was
    /// lost of that. RFC 7661, which is experimental.
    NonValidated,
    /// The initial window after an RTO of silence (RFC 5681 §4.1).
    Restart,
    /// It stays: Linux with `tcp_slow_start_after_idle` off.
    Keep,
}

/// The settings of one connection.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnConfig {
    /// Receive buffer in bytes at first: the largest window offered. Default 128 KiB, as Linux.
    pub recv_buffer: usize,
    /// How far the receive buffer grows by itself while the application keeps up with a faster path; no more
    /// than `recv_buffer`: not at all. Default 6 MiB, as Linux: fills 100 ms × 480 Mbit/s.
    pub recv_buffer_max: usize,
    /// The memory for receive buffers is somebody else's to give: beyond `recv_buffer` the connection asks
    /// with [`wants_recv_buffer`](crate::Connection::wants_recv_buffer) and takes what it is
    /// [granted](crate::Connection::grant_recv_buffer). Default off: it grows without asking.
    pub recv_buffer_on_request: bool,
    /// Send buffer in bytes at first, unsent and unacknowledged together. Default 256 KiB.
    pub send_buffer: usize,
    /// How far the send buffer grows by itself, to twice the congestion window; no more than `send_buffer`:
    /// not at all. Default 4 MiB, as Linux.
    pub send_buffer_max: usize,
    /// The memory for send buffers is somebody else's to give: beyond `send_buffer` the connection asks with
    /// [`wants_send_buffer`](crate::Connection::wants_send_buffer) and takes what it is
    /// [granted](crate::Connection::grant_send_buffer). Default off: it grows without asking.
    pub send_buffer_on_request: bool,
    /// Offer and accept window scaling (RFC 7323 §2). Default on.
    pub window_scaling: bool,
    /// The exact window-scale shift to offer; by default the smallest that fits the largest receive buffer.
    pub window_scale: Option<u8>,
    /// Offer and accept timestamps (RFC 7323 §3). Default on.
    pub timestamps: bool,
    /// Offer and accept selective acknowledgments (RFC 2018). Default on.
    pub sack: bool,
    /// An upper bound for the MSS that is announced and used; by default the MTU decides.
    pub max_mss: Option<u16>,
    /// Probing for the path MTU. Default: after three timeouts of large segments in a row; Linux's default is never.
    pub mtu_probing: MtuProbing,
    /// How long after the path MTU was found to be smaller a larger one is tried. Default 10 minutes (RFC 1191
    /// §6.3, RFC 8201 §4), as Linux.
    pub mtu_probe_interval: Duration,
    /// Whether the soft ICMP errors (network or host unreachable and the like) fail a connection that is being
    /// opened. Default yes, as Linux (RFC 5461 §4.1). Off: they are remembered, and are the reason if the attempt
    /// times out (RFC 9293 §3.9.2.2 [MUST-56]).
    pub icmp_fails_connect: bool,
    /// Send small segments at once instead of by Nagle's rule (RFC 9293 §3.7.4 [MUST-17]). Default off.
    pub nodelay: bool,
    /// Whether urgent data stays where it is in the stream (RFC 6093 §6, SO_OOBINLINE). Default yes. Off, as a kernel
    /// socket is at first: the last urgent byte is taken out of it, for
    /// [`read_urgent`](crate::Connection::read_urgent).
    pub urgent_inline: bool,
    /// How long an ACK may wait for company. Default 40 ms as Linux; below 500 ms [MUST-40].
    pub delayed_ack: Duration,
    /// How many segments at the start are acknowledged at once, while the peer is in slow start.
    /// Default 16, as Linux.
    pub quick_acks: u32,
    /// RTO before the first measurement. Default 1 s (RFC 6298 §2.1).
    pub rto_initial: Duration,
    /// Lower bound of the RTO. Default 200 ms, as Linux (RFC 6298 §2.4 would have 1 s).
    pub rto_min: Duration,
    /// Upper bound of the RTO, with backoff. Default 120 s, as Linux (RFC 6298 §2.5: at least 60 s).
    pub rto_max: Duration,
    /// SYN retransmissions before connect fails. Default 6, as Linux: 127 s with exponential backoff.
    pub syn_retries: u32,
    /// SYN-ACK retransmissions before a half-open record is dropped. Default 5, as Linux.
    pub synack_retries: u32,
    /// Retransmissions without progress before the connection times out (R2, RFC 9293 §3.8.3).
    /// Default 15, as Linux: about 15 minutes, more than 100 s [SHLD-11].
    pub retries: u32,
    /// Retransmissions for a connection that no stream holds any more. Default 8, as Linux.
    pub orphan_retries: u32,
    /// Time without progress after which the connection times out [MUST-21]; default none.
    pub user_timeout: Option<Duration>,
    /// Keep-alive; default off [MUST-25].
    pub keepalive: Option<Keepalive>,
    /// How long TIME-WAIT lasts: 2 MSL. Default 60 s, as Linux.
    pub time_wait: Duration,
    /// How long an orphan stays in FIN-WAIT-2. Default 60 s, as Linux.
    pub fin_wait2: Duration,
    /// Initial congestion window in segments. Default 10 (RFC 6928).
    pub initial_window: u32,
    /// Explicit congestion notification. Default: if the peer asks, as Linux.
    pub ecn: EcnMode,
    /// Whether a mark reduces the window by less than a loss does: to 80 % instead of 50 % with NewReno, to 85 %
    /// instead of 70 % with CUBIC (ABE, RFC 8511 §3.1). Default off: RFC 3168 has them equal, and so has Linux.
    pub ecn_abe: bool,
    /// Hop limit of everything sent. Default 64 [MUST-49].
    pub ttl: u8,
    /// The traffic class of everything sent: six bits of DSCP; the two bits of ECN are not looked at. Default 0
    /// [MUST-48].
    pub traffic_class: u8,
    /// Challenge ACKs a second and connection (RFC 5961 §7). Default 10.
    pub challenge_acks: u32,
    /// How many events a connection keeps for [`poll_trace`](crate::Connection::poll_trace): what it did and why.
    /// The oldest go first. Default 0: none, and none cost anything.
    pub trace: usize,
    /// The congestion control: one that is [built in](crate::cc::Algorithm), or one of the caller's. Default
    /// CUBIC, as Linux.
    pub congestion: Factory,
    /// What becomes of a congestion window that the application does not use. Default: what Linux does.
    pub cwnd_validation: CwndValidation,
    /// Spread what the window allows over the round trip, where the congestion control states no rate itself;
    /// one that does is always paced. Default off, as on Linux without the `fq` scheduler. On, a queue of a tenth of
    /// a bandwidth-delay product is filled to 0.8 instead of 0.5, for up to a timer each millisecond.
    pub pacing: bool,
    /// Data never leaves at more bytes per second than this (SO_MAX_PACING_RATE), nor in larger bursts than what
    /// the rate lets through in a millisecond or two segments. Default none.
    pub max_pacing_rate: Option<u64>,
    /// Where the memory of the buffers comes from, and goes back to; clones of a configuration share it. Default: a
    /// pool that keeps up to 8 MiB.
    pub pool: ChunkPool,
}

impl Default for ConnConfig {
    fn default() -> Self {
        ConnConfig {
            recv_buffer: 128 << 10,
            recv_buffer_max: 6 << 20,
            recv_buffer_on_request: false,
            send_buffer: 256 << 10,
            send_buffer_max: 4 << 20,
            send_buffer_on_request: false,
            window_scaling: true,
            window_scale: None,
            timestamps: true,
            sack: true,
            max_mss: None,
            mtu_probing: MtuProbing::BlackHole,
            mtu_probe_interval: Duration::from_secs(600),
            icmp_fails_connect: true,
            nodelay: false,
            urgent_inline: true,
            delayed_ack: Duration::from_millis(40),
            quick_acks: 16,
            rto_initial: Duration::from_secs(1),
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            syn_retries: 6,
            synack_retries: 5,
            retries: 15,
            orphan_retries: 8,
            user_timeout: None,
            keepalive: None,
            time_wait: Duration::from_secs(60),
            fin_wait2: Duration::from_secs(60),
            initial_window: 10,
            ecn: EcnMode::Accept,
            ecn_abe: false,
            ttl: 64,
            traffic_class: 0,
            challenge_acks: 10,
            trace: 0,
            congestion: Factory::default(),
            cwnd_validation: CwndValidation::default(),
            pacing: false,
            max_pacing_rate: None,
            pool: ChunkPool::default(),
        }
    }
}

/// The length of an IP header without options.
pub(crate) const fn ip_header_len(v6: bool) -> u32 {
    if v6 { 40 } else { 20 }
}

impl ConnConfig {
    /// The MSS to announce on a path with this MTU: MTU less the fixed headers, options not subtracted
    /// (RFC 6691 §2; RFC 9293 §3.7.1 [MUST-67]), bounded by [`max_mss`](Self::max_mss).
    pub fn mss_for(&self, mtu: u32, v6: bool) -> u16 {
        let fits = mtu.saturating_sub(ip_header_len(v6) + 20).clamp(MIN_MSS as u32, u16::MAX as u32) as u16;
        self.max_mss.map_or(fits, |max| fits.min(max.max(MIN_MSS)))
    }

    /// The window-scale shift to offer.
    pub fn scale_to_offer(&self) -> crate::seq::WindowScale {
        use crate::seq::WindowScale;
        match self.window_scale {
            Some(shift) => WindowScale::new(shift),
            None => {
                let most = self.recv_buffer.max(self.recv_buffer_max);
                WindowScale::for_window(u32::try_from(most).unwrap_or(u32::MAX))
            }
        }
    }
}

/// The smallest segment size used, however small the peer's MSS option or a path MTU: an attacker's
/// MSS of 1 would otherwise cost a packet a byte. 88 is what Linux allows with its 48-byte floor and
/// 40 bytes of options.
pub const MIN_MSS: u16 = 88;
