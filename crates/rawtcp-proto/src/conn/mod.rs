//! One connection: the TCB of RFC 9293 §3.3.1, what arrives at it, what it sends, and its timers.
//!
//! This file holds the fields, the constructors and the getters; every protocol rule is in the file
//! that carries its name.

mod ack_policy;
mod autotune;
mod chrono;
pub(crate) mod ecn;
mod events;
mod icmp;
mod in_flight;
mod info;
mod input;
mod loss;
mod nagle;
mod output;
mod pacing;
mod pmtu;
mod recovery;
mod space;
mod state;
mod timeouts;
mod timers;
mod tracing;
mod undo;
mod urgent;
mod user;
mod validation;
mod window;

#[cfg(test)]
mod tests;

pub use events::Events;
pub use output::{Transmit, TransmitKind, TxLimits};
pub use state::State;

use ack_policy::AckPolicy;
use autotune::Demand;
use chrono::Chrono;
use ecn::EcnState;
use in_flight::InFlight;
use nagle::Cork;
use pacing::Pacer;
use pmtu::Pmtu;
use recovery::Recovery;
use space::{RecvSpace, SendSpace};
use timers::{Timer, Timers};
use urgent::Urgent;

use crate::buf::assembler::Assembler;
use crate::buf::recv::RecvBuffer;
use crate::buf::send::{SendBuffer, Slices};
use crate::cc::CongestionControl;
use crate::cold::Cold;
use crate::compact::Maybe;
use crate::config::{ConnConfig, MIN_MSS, ip_header_len};
use crate::error::CloseReason;
use crate::recovery::rtt::RttEstimator;
use crate::seq::{Offset, SeqNum, WindowScale};
use crate::stack::{HalfOpen, TimeWait};
use crate::time::{Duration, Instant};
use crate::trace::{StateReason, Trace, WindowReason};
use crate::wire::FourTuple;

use std::sync::Arc;

/// What the connection knows of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The largest IP packet, in bytes.
    pub mtu: u32,
}

/// What the SYN exchange agreed on.
#[derive(Clone, Copy, Debug)]
struct Negotiated {
    timestamps: bool,
    sack: bool,
    /// `None`: no scaling in either direction.
    scales: Option<Scales>,
}

#[derive(Clone, Copy, Debug)]
struct Scales {
    /// Applied to windows the peer sends.
    snd: WindowScale,
    /// Applied to windows we send.
    rcv: WindowScale,
}

/// Requests of one part of the connection to the output side.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    /// A RST with this header is due; the connection is closed behind it.
    reset: bool,
    /// An RST in answer to an unacceptable ACK in SYN-SENT or SYN-RECEIVED, with this sequence number.
    refuse: Option<SeqNum>,
    /// SYN-ACK to answer a simultaneous open.
    syn_ack: bool,
    /// A zero-window or keep-alive probe.
    probe: bool,
    /// The override timeout of silly-window avoidance: send what the window takes.
    push: bool,
    /// A tail loss probe.
    tlp: bool,
}

/// Counters for [`TcpInfo`], in segments. Bytes follow from the sequence numbers; what seldom happens is counted in
/// [`recovery::Rare`].
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    segs_out: u64,
    segs_in: u64,
    data_segs_out: u64,
    data_segs_in: u64,
}

/// One TCP connection.
#[derive(Debug)]
pub struct Connection {
    tuple: FourTuple,
    state: State,
    /// Those of others, too, until one of them is changed for this connection alone.
    config: Arc<ConnConfig>,
    /// What the application or the path have made of the setting.
    recv_buffer: usize,
    nodelay: bool,
    path: Path,
    pmtu: Cold<Pmtu>,
    /// What the first hop carries, in bytes of IP packet.
    first_hop_mtu: u32,
    negotiated: Negotiated,
    snd: SendSpace,
    rcv: RecvSpace,
    send_buf: SendBuffer,
    recv_buf: RecvBuffer,
    assembler: Cold<Assembler>,
    sent: InFlight,
    rtt: RttEstimator,
    cc: Box<dyn CongestionControl>,
    recovery: Recovery,
    pacer: Cold<Pacer>,
    ack: AckPolicy,
    ecn: EcnState,
    urgent: Cold<Urgent>,
    cork: Cork,
    demand: Demand,
    timers: Timers,
    pending: Pending,
    events: Events,
    /// Why the connection ended; `Graceful` until it fails.
    reason: Option<CloseReason>,
    /// The error that the application has not seen yet.
    error: Option<CloseReason>,
    /// The last ICMP soft error: the reason if the attempt times out (RFC 9293 §3.9.2.2 [MUST-56]).
    soft_error: Option<CloseReason>,
    /// The application has let go: data that arrives now is answered with RST (RFC 9293 §3.6.1 [SHLD-3]).
    orphan: bool,
    /// A write found no room: the writer waits for [`Events::WRITABLE`].
    write_blocked: bool,
    /// It is small for the window, and to grow is somebody else's to grant.
    send_short: bool,
    /// Nothing was acknowledged since then although something is outstanding or the window is zero.
    stalled_since: Maybe<Instant>,
    /// Probes sent without an answer: zero-window or keep-alive.
    probes: u32,
    last_heard: Instant,
    /// When data last left, when text last arrived.
    last_sent: Instant,
    last_text: Instant,
    chrono: Chrono,
    ip_id: u16,
    counters: Counters,
    trace: Option<Box<Trace>>,
}

impl Connection {
    /// An active open: SYN-SENT; the SYN leaves by [`poll_transmit`](Self::poll_transmit)
    /// (RFC 9293 §3.10.1).
    pub fn connect(
        now: Instant,
        config: &Arc<ConnConfig>,
        tuple: FourTuple,
        iss: SeqNum,
        ts_offset: u32,
        path: Path,
    ) -> Self {
        let mut conn = Self::blank(now, config, tuple, iss, ts_offset, path);
        conn.state = State::SynSent;
        conn.start_trace(now);
        conn.trace_state(State::Closed, State::SynSent, StateReason::ActiveOpen);
        conn
    }

    /// A passive open whose handshake is complete: ESTABLISHED from a half-open record. The segment
    /// that completed it is given to [`on_segment`](Self::on_segment) next.
    pub fn accept(now: Instant, config: &Arc<ConnConfig>, tuple: FourTuple, half: &HalfOpen) -> Self {
        let mut conn = Self::blank(now, config, tuple, half.iss, half.ts_offset, Path { mtu: half.mtu });
        conn.state = State::Established;
        conn.negotiated = Negotiated {
            timestamps: half.timestamps.is_some(),
            sack: half.sack,
            scales: half.peer_wscale.map(|snd| Scales { snd, rcv: half.our_wscale }),
        };
        conn.ecn = EcnState::agreed(half.ecn);
        conn.snd.una = Offset(1);
        conn.snd.nxt = Offset(1);
        conn.snd.open(half.peer_window);
        conn.snd.peer_mss = half.peer_mss.unwrap_or(default_mss(tuple.is_v6()));
        conn.rcv.open(half.irs, half.our_window(config));
        conn.rcv.ts_recent = half.timestamps.unwrap_or(0);
        conn.rcv.ts_recent_at = now;
        if half.retransmits == 0 {
            conn.rtt.on_sample(now.since(half.synack_sent_at), now);
        } else {
            conn.rtt.on_syn_timeout(); // RFC 6298 §5.7
        }
        conn.start_mtu_search();
        conn.cc = conn.initial_control(half.timeouts.into());
        conn.recovery.used.restart(now);
        conn.events.insert(Events::CONNECTED | Events::STATE);
        conn.start_keepalive(now);
        conn.start_trace(now);
        conn.trace_state(State::SynReceived, State::Established, StateReason::PassiveOpen);
        conn.trace_window(WindowReason::Start);
        conn
    }

    fn blank(
        now: Instant,
        config: &Arc<ConnConfig>,
        tuple: FourTuple,
        iss: SeqNum,
        ts_offset: u32,
        path: Path,
    ) -> Self {
        let config = config.clone();
        let mss = u32::from(config.mss_for(path.mtu, tuple.is_v6()));
        Connection {
            tuple,
            state: State::Closed,
            recv_buffer: config.recv_buffer,
            nodelay: config.nodelay,
            pmtu: Cold::new(),
            first_hop_mtu: path.mtu,
            path,
            negotiated: Negotiated { timestamps: config.timestamps, sack: config.sack, scales: None },
            snd: SendSpace::new(iss, ts_offset, default_mss(tuple.is_v6())),
            rcv: RecvSpace::new(mss, config.scale_to_offer()),
            send_buf: SendBuffer::new(config.send_buffer.max(1), config.pool.clone()),
            recv_buf: RecvBuffer::new(config.pool.clone()),
            assembler: Cold::new(),
            sent: InFlight::default(),
            rtt: RttEstimator::new(config.rto_initial, config.rto_min, config.rto_max),
            cc: config.congestion.build(mss, config.initial_window),
            recovery: Recovery::default(),
            pacer: Cold::new(),
            ack: AckPolicy::new(config.quick_acks),
            ecn: EcnState::default(),
            urgent: Cold::new(),
            cork: Cork::default(),
            demand: Demand::new(now),
            timers: Timers::default(),
            pending: Pending::default(),
            events: Events::default(),
            reason: None,
            error: None,
            soft_error: None,
            orphan: false,
            write_blocked: false,
            send_short: false,
            stalled_since: Maybe::NONE,
            probes: 0,
            last_heard: now,
            last_sent: now,
            last_text: now,
            chrono: Chrono::default(),
            ip_id: iss.0 as u16,
            counters: Counters::default(),
            trace: None,
            config,
        }
    }

    /// The congestion control of a connection whose SYN or SYN-ACK was sent again so many times. RFC 6928 §2: more
    /// than once, and it begins with one segment; the first may be the fault of a long path (RFC 6298).
    fn initial_control(&self, lost_syns: u64) -> Box<dyn CongestionControl> {
        let segments = if lost_syns > 1 { 1 } else { self.config.initial_window };
        self.config.congestion.build(self.send_mss(), segments)
    }

    /// The two ends.
    pub fn tuple(&self) -> &FourTuple {
        &self.tuple
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The largest IP packet, in bytes, that the path is taken to carry.
    pub fn path_mtu(&self) -> u32 {
        self.path.mtu
    }

    /// The settings. [`nodelay`](Self::nodelay) and the sizes of buffers are what they were at first.
    pub fn config(&self) -> &ConnConfig {
        &self.config
    }

    /// To change a setting of this connection alone.
    fn settings(&mut self) -> &mut ConnConfig {
        Arc::make_mut(&mut self.config)
    }

    /// The receive buffer, in bytes: the largest window offered.
    pub fn recv_buffer(&self) -> usize {
        self.recv_buffer
    }

    /// The send buffer, in bytes.
    pub fn send_buffer(&self) -> usize {
        self.send_buf.capacity()
    }

    /// Whether nothing more will arrive or leave: the connection can be taken out of the table.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed && !self.pending.reset && self.pending.refuse.is_none()
    }

    /// Why the connection ended, if it has.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.reason
    }

    /// Whether the application has let go of it.
    pub fn is_orphan(&self) -> bool {
        self.orphan
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Events {
        core::mem::take(&mut self.events)
    }

    /// When it is time for a [`rest`](Self::rest), if that would give memory back: a second behind the last segment. No
    /// deadline of the protocol: who does not care has larger connections.
    pub fn rest_at(&self) -> Option<Instant> {
        let may = self.sent.may_rest()
            || self.send_buf.may_rest()
            || self.recv_buf.may_rest()
            || self.may_shrink_send_buffer();
        may.then(|| self.last_heard.max(self.last_sent) + REST_AFTER)
    }

    /// Gives memory back that is needed only while something is on its way or waits to be read, and is kept for a
    /// connection that goes on; what comes next takes it again. A send buffer that has grown and is empty is as large as
    /// at first. (A receive buffer is not: its window is promised, RFC 9293 §3.8.6 [SHLD-14].)
    pub fn rest(&mut self) {
        self.sent.rest();
        if self.may_shrink_send_buffer() {
            self.send_buf.set_capacity(self.config.send_buffer.max(1));
        }
        self.send_short = false;
        self.send_buf.rest();
        self.recv_buf.rest();
    }

    /// The earliest deadline, at which [`on_timeout`](Self::on_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Bytes that can be read now.
    pub fn readable_len(&self) -> usize {
        self.recv_buf.len() - self.urgent_buffered()
    }

    /// Whether the peer's direction has ended: a read that finds no data says EOF or an error.
    pub fn is_read_closed(&self) -> bool {
        !self.state.may_receive()
    }

    /// Whether this side's direction has been closed or has ended.
    pub fn is_write_closed(&self) -> bool {
        !self.state.may_send()
    }

    /// Room in the send buffer, in bytes.
    pub fn write_room(&self) -> usize {
        self.send_buf.free()
    }

    /// Bytes written by the application and not acknowledged by the peer, sent or not.
    pub fn unacked_len(&self) -> usize {
        self.send_buf.len()
    }

    /// The least round-trip time of the last minutes, once there is a sample.
    pub fn min_rtt(&self) -> Option<Duration> {
        self.rtt.min_rtt()
    }

    /// Whether the peer has acknowledged everything, the FIN included if one was queued.
    pub fn is_all_acked(&self) -> bool {
        self.send_buf.is_empty() && self.snd.fin.get().is_none_or(|fin| self.snd.una > fin)
    }

    /// The payload bytes of a decision, as slices of the send buffer.
    pub fn payload(&self, transmit: &Transmit) -> Slices<'_> {
        self.payload_with(transmit, &[])
    }

    /// The same while something is [lent](Self::lend): this is.
    ///
    /// # Panics
    /// If `lent` is shorter than what was lent.
    pub fn payload_with<'a>(&'a self, transmit: &Transmit, lent: &'a [u8]) -> Slices<'a> {
        self.send_buf.slices(transmit.payload.clone(), lent)
    }

    /// Whether bytes are [lent](Self::lend) that the peer has not acknowledged.
    pub fn has_lent(&self) -> bool {
        self.send_buf.has_lent()
    }

    /// The record that takes this connection's place in TIME-WAIT (RFC 9293 §3.6.1 [MUST-13]).
    pub fn time_wait(&self, now: Instant) -> Option<TimeWait> {
        (self.state == State::TimeWait).then(|| TimeWait {
            rcv_nxt: self.rcv.wire(self.rcv.nxt),
            snd_nxt: self.snd.wire(self.snd.nxt),
            window: self.rcv.last_field,
            ts_recent: self.negotiated.timestamps.then_some(self.rcv.ts_recent),
            ts_offset: self.snd.ts_offset,
            since: now,
            deadline: now + self.config.time_wait,
            ttl: self.config.ttl,
            traffic_class: self.config.traffic_class,
        })
    }

    /// Moves to another state; ends everything that goes with being open when that is CLOSED.
    fn transition(&mut self, next: State, why: StateReason) {
        debug_assert!(self.state.may_become(next), "{} -> {}", self.state.name(), next.name());
        let from = core::mem::replace(&mut self.state, next);
        self.trace_state(from, next, why);
        self.events.insert(Events::STATE);
        match next {
            State::TimeWait => {
                self.timers.clear_all();
                self.reason = Some(CloseReason::Graceful);
                self.events.insert(Events::TIME_WAIT);
            }
            State::Closed => {
                self.timers.clear_all();
                self.events.insert(Events::CLOSED | Events::READ_CLOSED | Events::WRITE_CLOSED);
            }
            _ => {}
        }
    }

    /// Ends the connection for a reason, which the application learns once.
    fn fail(&mut self, reason: CloseReason) {
        if self.state == State::Closed {
            return;
        }
        self.reason = Some(reason);
        if reason != CloseReason::Graceful {
            self.error = Some(reason);
            self.events.insert(Events::ERROR);
        }
        self.send_buf.clear();
        self.assembler.reset();
        self.sent.clear();
        self.transition(State::Closed, StateReason::Ended(reason));
    }

    /// The largest payload of one segment before options are taken off: what the peer takes and the
    /// path carries (RFC 9293 §3.7.1 [MUST-16]).
    fn mss_before_options(&self) -> u32 {
        let path = self.path.mtu.saturating_sub(ip_header_len(self.tuple.is_v6()) + 20);
        let max = self.config.max_mss.map_or(u32::MAX, u32::from);
        u32::from(self.snd.peer_mss).min(path).min(max).max(u32::from(MIN_MSS))
    }

    /// The payload of a full segment with the options that every segment carries (RFC 6691 §2).
    fn send_mss(&self) -> u32 {
        self.mss_before_options() - if self.negotiated.timestamps { TIMESTAMP_LEN } else { 0 }
    }

    /// The value of our timestamp clock: milliseconds, with this connection's own offset
    /// (RFC 7323 §5.4, §7.1).
    fn ts_now(&self, now: Instant) -> u32 {
        (now.as_millis() as u32).wrapping_add(self.snd.ts_offset)
    }

    /// Checks what must always hold; for tests and debug builds.
    pub fn check_invariants(&self) {
        assert!(self.snd.una <= self.snd.nxt, "una behind nxt");
        assert!(self.send_buf.start() <= self.send_buf.end());
        if self.state != State::Closed {
            let kept = self.snd.una.max(Offset(1)).min(self.send_buf.end());
            assert_eq!(self.send_buf.start(), kept, "the send buffer starts at una");
            assert!(self.rcv.nxt <= self.rcv.adv || self.state == State::SynSent || self.rcv.fin.is_some());
        }
        if self.sent.outstanding() > 0 && !self.is_closed() {
            // Or nothing would ever move what is in flight.
            assert!(self.timers.is_set(Timer::Rto) || self.timers.is_set(Timer::Tlp), "no timer for what is in flight");
        }
        let una = (self.state != State::Closed).then_some(self.snd.una);
        self.sent.check_invariants(una, self.snd.nxt);
        assert!(self.sent.outstanding() > 0 || self.snd.una == self.snd.nxt || self.state == State::Closed);
    }
}

/// How long memory is kept for a connection that does nothing: longer than an RTO, so that one that sends now and then
/// does not allocate for each segment.
const REST_AFTER: Duration = Duration::from_secs(1);

/// The bytes that a timestamp option takes in every segment, padding included.
const TIMESTAMP_LEN: u32 = 12;

/// What to assume of a peer that announces no MSS (RFC 9293 §3.7.1 [MUST-15]).
const fn default_mss(v6: bool) -> u16 {
    if v6 { 1220 } else { 536 }
}
