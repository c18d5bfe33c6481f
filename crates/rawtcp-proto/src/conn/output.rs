//! The one decision: what leaves next, if anything.

use super::{Connection, Pending, State};
use crate::seq::{Offset, OffsetRange, SeqNum, WireWindow};
use crate::time::{Duration, Instant};
use crate::wire::{Flags, Options, SackBlocks, TcpHeader, Timestamps};

/// What the device takes in one piece, and what the caller would rather not send yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxLimits {
    /// Payload bytes in one [`Transmit`]. Below two segments, every transmit is one segment.
    pub max_payload: usize,
    /// By how much later than asked for timers come: what pacing would hold back for less leaves at once.
    pub timer_slack: Duration,
    /// New data waits if there is less of it than so many bytes: the caller expects more to be written, and sees to it that it
    /// does not wait for long. Not with `nodelay`, before a FIN, what leaves as a probe, nor where one segment leaves at a time, as
    /// urgent data does. 0: nothing waits.
    pub tail: usize,
}

impl TxLimits {
    /// One segment at a time: a device without segmentation.
    pub const ONE_SEGMENT: TxLimits = TxLimits { max_payload: 0, timer_slack: Duration::ZERO, tail: 0 };
}

/// Why a segment leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitKind {
    /// SYN or SYN-ACK.
    Syn,
    /// New data, or the FIN.
    Data,
    /// Sent before.
    Retransmit,
    /// A zero-window, keep-alive or tail-loss probe.
    Probe,
    /// Nothing but an acknowledgment.
    Ack,
    /// RST.
    Reset,
}

/// A segment, or a run of equal segments, that has been decided on and counts as sent.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// The TCP header; for a run, that of its first segment (FIN and PSH belong to the last).
    pub header: TcpHeader,
    /// The payload, in the send buffer: see [`Connection::payload`].
    pub payload: OffsetRange,
    /// Payload bytes of each segment of a run; 0 when it is a single segment.
    pub segment_size: u16,
    /// Why it leaves.
    pub kind: TransmitKind,
    /// Hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Identification of the IPv4 packet.
    pub ip_id: u16,
}

impl Transmit {
    /// Payload bytes.
    pub fn payload_len(&self) -> usize {
        self.payload.end.since(self.payload.start) as usize
    }
}

const NO_PAYLOAD: OffsetRange = Offset(1)..Offset(1);

impl Connection {
    /// The next segment to send. Call until it answers `None`, or [`is_quiet`](Self::is_quiet) says that it would, then look at
    /// events and timers.
    pub fn poll_transmit(&mut self, now: Instant, limits: &TxLimits) -> Option<Transmit> {
        self.trace_now(now);
        let transmit = self.decide(now, limits);
        if transmit.is_none() {
            self.trace_changes();
        }
        transmit
    }

    /// Whether nothing waits to leave, as is most often so behind what was received or read: it takes less time to see than
    /// to find that [`poll_transmit`](Self::poll_transmit) has nothing, which then need not be called.
    pub fn is_quiet(&mut self, now: Instant) -> bool {
        let Pending { reset, refuse, syn_ack, probe, push: _, tlp } = self.pending;
        let asked = reset || refuse.is_some() || syn_ack || probe || tlp || self.ack.is_due();
        let quiet = self.state.is_synchronized()
            && !asked
            && !self.has_unsent()
            && self.sent.lost_bytes() == 0
            && self.trace.is_none();
        if quiet {
            self.note_limit(now);
        }
        quiet
    }

    fn decide(&mut self, now: Instant, limits: &TxLimits) -> Option<Transmit> {
        if let Some(seq) = self.pending.refuse.take() {
            return Some(self.bare_reset(seq));
        }
        if self.pending.reset {
            if self.ack.is_last_of_handshake() {
                // To a peer whose listener has not accepted yet a reset would say that there never was a connection.
                self.ack.now();
                return self.bare_ack(now);
            }
            self.pending.reset = false;
            return Some(self.reset(now));
        }
        // CWR and an urgent pointer are for one segment, not for all of a run.
        let single = self.ecn.is_cwr_due() || self.urgent.is_sending();
        let limits = if single { &TxLimits::ONE_SEGMENT } else { limits };
        match self.state {
            State::Closed => None,
            State::TimeWait => self.bare_ack(now),
            State::SynSent | State::SynReceived => self.poll_handshake(now),
            _ => {
                let data = self
                    .poll_retransmit(now, limits)
                    .or_else(|| self.poll_tail_probe(now))
                    .or_else(|| self.poll_new_data(now, limits));
                if data.is_none() {
                    self.note_limit(now);
                }
                data.or_else(|| self.poll_probe(now)).or_else(|| self.bare_ack(now))
            }
        }
    }

    fn poll_handshake(&mut self, now: Instant) -> Option<Transmit> {
        let first = self.snd.nxt == Offset(0);
        let again = self.sent.next_lost(1).is_some();
        if !first && !again && !core::mem::take(&mut self.pending.syn_ack) {
            return (self.state == State::SynReceived).then(|| self.bare_ack(now)).flatten();
        }
        self.pending.syn_ack = false;
        let snapshot = self.recovery.rate.on_transmit(now, first);
        if first {
            self.sent.on_send(Offset(0)..Offset(1), 1, now, snapshot);
            self.snd.nxt = Offset(1);
            self.stalled_since = now.into();
            self.arm_rto(now);
        } else if again {
            self.sent.on_retransmit(Offset(0)..Offset(1), now, snapshot);
            self.trace_retransmit(&(Offset(0)..Offset(1)), false);
            self.recovery.rare.edit().total_retrans += 1;
        }
        let answers = self.state == State::SynReceived;
        let flags = if answers { Flags::SYN | Flags::ACK } else { Flags::SYN };
        let flags = flags | self.ecn.syn_flags(self.config.ecn, first, answers);
        let mut header = self.header(now, self.snd.wire(Offset(0)), flags, self.syn_options(now, answers));
        header.window = WireWindow(self.syn_window() as u16);
        Some(self.transmit(now, header, NO_PAYLOAD, 0, TransmitKind::Syn))
    }

    /// What the SYN offers; a SYN-ACK answers only what was offered (RFC 7323 §2.2, §3.2; RFC 2018 §2).
    fn syn_options(&self, now: Instant, answers: bool) -> Options {
        let (timestamps, sack, scaling) = if answers {
            (self.negotiated.timestamps, self.negotiated.sack, self.negotiated.scales.is_some())
        } else {
            (self.config.timestamps, self.config.sack, self.config.window_scaling)
        };
        Options {
            mss: Some(self.rcv.adv_mss as u16),
            window_scale: scaling.then(|| self.rcv.scale.shift()),
            sack_permitted: sack,
            timestamps: timestamps
                .then(|| Timestamps { value: self.ts_now(now), echo: if answers { self.rcv.ts_recent } else { 0 } }),
            sack: SackBlocks::default(),
        }
    }

    /// Data that is thought lost, oldest first.
    fn poll_retransmit(&mut self, now: Instant, limits: &TxLimits) -> Option<Transmit> {
        if self.sent.lost_bytes() == 0 || self.recovery.rare.frto_holds {
            return None;
        }
        let options = self.segment_options(now);
        let mss = u64::from(self.mss_before_options()) - options.encoded_len() as u64;
        let room = self.cwnd_room();
        if room < mss && self.pipe() > 0 && !(room > 0 && self.sent.lost_bytes() <= room) {
            self.note_flight(now, true);
            return None;
        }
        let most = (room / mss * mss).min(limits.max_payload as u64 / mss * mss).max(mss);
        let mut range = self.sent.next_lost(most)?;
        // The copy of the head is what everything waits for.
        if range.start > self.snd.una {
            let len = range.end.since(range.start);
            range.end = range.start.add(self.pace(now, limits.timer_slack, len, mss)?);
        }
        Some(self.send_again(now, range, options, mss, TransmitKind::Retransmit))
    }

    fn send_again(
        &mut self,
        now: Instant,
        range: OffsetRange,
        options: Options,
        mss: u64,
        kind: TransmitKind,
    ) -> Transmit {
        let len = range.end.since(range.start);
        self.trace_retransmit(&range, kind == TransmitKind::Probe);
        self.note_mtu_retransmit(now, &range);
        if kind == TransmitKind::Retransmit {
            self.note_retransmit(self.ts_now(now), range.clone());
        }
        self.recovery.on_transmit(len);
        self.note_paced(now, len);
        self.recovery.rare.edit().total_retrans += len.div_ceil(mss);
        let snapshot = self.recovery.rate.on_transmit(now, false);
        self.sent.on_retransmit(range.clone(), now, snapshot);
        if range.start <= self.snd.una && kind == TransmitKind::Retransmit {
            // As Linux: the head's new copy gets a whole RTO, or a long path runs into the old one's.
            self.arm_rto(now);
        }
        self.arm_rto_if_unset(now);
        let fin = self.snd.fin.get().is_some_and(|fin| range.end > fin);
        let payload = range.start.min(self.send_buf.end())..range.end.min(self.send_buf.end());
        self.recovery.rare.edit().bytes_retrans += payload.end.since(payload.start);
        self.data_segment(now, payload, fin, options, mss, kind)
    }

    /// RFC 8985 §7.3: new data if the peer takes it, else the last segment again.
    fn poll_tail_probe(&mut self, now: Instant) -> Option<Transmit> {
        if !core::mem::take(&mut self.pending.tlp) || self.sent.outstanding() == 0 {
            return None;
        }
        let options = self.segment_options(now);
        let mss = u64::from(self.mss_before_options()) - options.encoded_len() as u64;
        let fresh = self.send_buf.end().min(self.snd.edge()).since(self.snd.nxt).min(mss);
        // Set before the probe leaves: what is armed behind it is the RTO, not another probe.
        let rare = self.recovery.rare.edit();
        rare.tlp_was_retransmit = fresh == 0;
        rare.tlp_high = Some(self.snd.nxt);
        if fresh > 0 {
            let transmit = self.send_new(now, fresh, options, mss, TransmitKind::Probe);
            self.recovery.rare.edit().tlp_high = Some(self.snd.nxt);
            return Some(transmit);
        }
        let last = self.sent.last_range()?;
        // The options may have grown since it was sent: never more than one segment.
        let start = last.start.max(Offset(last.end.0.saturating_sub(mss)));
        self.recovery.rare.edit().tlp_copy = Some(last.end);
        Some(self.send_again(now, start..last.end, options, mss, TransmitKind::Probe))
    }

    fn poll_new_data(&mut self, now: Instant, limits: &TxLimits) -> Option<Transmit> {
        if !self.has_unsent() {
            return None;
        }
        if self.is_tail(limits) {
            self.check_app_limited_below(limits.tail as u64);
            return None;
        }
        let from_nothing = self.sent.outstanding() == 0;
        if from_nothing {
            self.restart_pacing(now);
        }
        let options = self.segment_options(now);
        if let Some(probe) = self.poll_mtu_probe(now, &options) {
            return Some(probe);
        }
        let mss = u64::from(self.mss_before_options()) - options.encoded_len() as u64;
        match self.length_to_send(now, limits, mss) {
            Some(len) => {
                let mut len = self.pace(now, limits.timer_slack, len, mss)?;
                // Now that something leaves: once for a pause, and with all of it.
                if from_nothing && self.restart_after_idle(now) {
                    len = self.length_to_send(now, limits, mss).map_or(len, |less| less.min(len));
                }
                self.pending.push = false;
                Some(self.send_new(now, len, options, mss, TransmitKind::Data))
            }
            None => {
                self.pending.push = false;
                if self.is_held_by_cork(mss) {
                    self.timers.clear(super::Timer::Persist);
                    self.ensure_cork_timer(now);
                } else {
                    self.ensure_persist(now);
                }
                if self.frto_is_stuck() {
                    return self.poll_retransmit(now, limits);
                }
                None
            }
        }
    }

    /// Whether all there is waits for more, as the caller wants it.
    fn is_tail(&self, limits: &TxLimits) -> bool {
        let data = self.send_buf.end().since(self.snd.nxt);
        data < limits.tail as u64 && !self.nodelay && !self.pending.push && self.snd.fin.is_none()
    }

    /// How many bytes of new data leave now; `Some(0)` is the FIN alone.
    fn length_to_send(&mut self, now: Instant, limits: &TxLimits, mss: u64) -> Option<u64> {
        let data = self.send_buf.end().since(self.snd.nxt);
        let usable = self.snd.edge().since(self.snd.nxt);
        if data == 0 {
            return (usable > 0).then_some(0);
        }
        let wanted = data.min(usable);
        if wanted == 0 {
            return None;
        }
        let room = if self.pipe() == 0 { self.cwnd_room().max(mss) } else { self.cwnd_room() };
        if room < wanted.min(mss) {
            self.note_flight(now, true);
            return None;
        }
        let most = (limits.max_payload as u64 / mss).max(1) * mss;
        let mut len = wanted.min(most).min((room / mss * mss).max(mss.min(room)));
        let rest = len % mss;
        if rest > 0 && !self.may_send_small(rest, len == data) {
            len -= rest;
        }
        (len > 0).then_some(len)
    }

    pub(super) fn send_new(
        &mut self,
        now: Instant,
        len: u64,
        options: Options,
        mss: u64,
        kind: TransmitKind,
    ) -> Transmit {
        let start = self.snd.nxt;
        let end = start.add(len);
        let was_idle = self.sent.outstanding() == 0;
        let snapshot = self.recovery.rate.on_transmit(now, was_idle);
        if len > 0 {
            self.sent.on_send(start..end, mss as u32, now, snapshot);
            if !len.is_multiple_of(mss) {
                self.snd.small_until = end;
            }
        }
        // The FIN rides on the last data, if the window takes it.
        let fin = self.snd.fin.get() == Some(end) && self.snd.edge() > end;
        self.snd.nxt = end;
        if fin {
            self.sent.on_send(end..end.add(1), 1, now, snapshot);
            self.snd.nxt = end.add(1);
        }
        self.recovery.on_transmit(len);
        self.note_paced(now, len);
        if was_idle {
            self.stalled_since = now.into();
            self.recovery.retries = 0;
        }
        if self.timers.is_set(super::Timer::Persist) {
            self.recovery.backoff = 0; // it counted probes, not timeouts
            self.timers.clear(super::Timer::Persist);
        }
        if self.timers.is_set(super::Timer::Cork) && !self.has_unsent() {
            self.timers.clear(super::Timer::Cork);
        }
        self.note_flight(now, false);
        self.arm_rto_if_unset(now);
        self.arm_tlp(now);
        let mut transmit = self.data_segment(now, start..end, fin, options, mss, kind);
        if len > 0 {
            // RFC 3168 §6.1.2, §6.1.4, §6.1.5: new data only.
            let (codepoint, cwr) = self.ecn.on_new_data();
            transmit.traffic_class |= codepoint.bits();
            transmit.header.flags |= cwr;
        }
        transmit
    }

    fn arm_rto_if_unset(&mut self, now: Instant) {
        if !self.timers.is_set(super::Timer::Rto) && !self.timers.is_set(super::Timer::Tlp) {
            self.arm_rto(now);
        }
    }

    fn data_segment(
        &mut self,
        now: Instant,
        payload: OffsetRange,
        fin: bool,
        options: Options,
        mss: u64,
        kind: TransmitKind,
    ) -> Transmit {
        let len = payload.end.since(payload.start);
        let mut flags = Flags::ACK;
        if fin {
            flags |= Flags::FIN;
        }
        // RFC 9293 §3.9.1.2 [MUST-61]: PSH on the last buffered segment.
        if len > 0 && payload.end == self.send_buf.end() {
            flags |= Flags::PSH;
        }
        let seq = match (len, self.snd.fin.get()) {
            (0, Some(at)) => self.snd.wire(at),
            _ => self.snd.wire(payload.start),
        };
        let segment_size = if len > mss { mss as u16 } else { 0 };
        if len > 0 {
            self.ack.on_reply(now, self.config.delayed_ack);
        }
        let header = self.header(now, seq, flags, options);
        self.transmit(now, header, payload, segment_size, kind)
    }

    /// A probe repeats the number before SND.UNA, without text: outside any window, it must be answered.
    ///
    /// Deviation [RFC 9293 §3.8.6.1: "at least one octet of new data"]: as Linux, FreeBSD and others we
    /// send none, so that a window that stays closed costs nothing to take back.
    fn poll_probe(&mut self, now: Instant) -> Option<Transmit> {
        if !core::mem::take(&mut self.pending.probe) {
            return None;
        }
        let options = self.segment_options(now);
        let seq = self.snd.wire(Offset(self.snd.una.0)).sub(1);
        let header = self.header(now, seq, Flags::ACK, options);
        Some(self.transmit(now, header, NO_PAYLOAD, 0, TransmitKind::Probe))
    }

    fn bare_ack(&mut self, now: Instant) -> Option<Transmit> {
        if !self.ack.is_due() {
            return None;
        }
        let options = self.segment_options(now);
        let header = self.header(now, self.acceptable_seq(), Flags::ACK, options);
        Some(self.transmit(now, header, NO_PAYLOAD, 0, TransmitKind::Ack))
    }

    /// SND.NXT, unless the peer has taken its window back: beyond the right edge it would not look at the
    /// ACK (as Linux's tcp_acceptable_seq). Less than a unit of the window field is only its rounding.
    fn acceptable_seq(&self) -> SeqNum {
        let unit = self.negotiated.scales.map_or(1, |s| 1 << s.snd.shift());
        let beyond = self.snd.nxt.since(self.snd.edge());
        self.snd.wire(if beyond < unit { self.snd.nxt } else { self.snd.edge() })
    }

    fn reset(&mut self, now: Instant) -> Transmit {
        let options = Options { sack: SackBlocks::default(), ..self.segment_options(now) };
        let header = self.header(now, self.acceptable_seq(), Flags::RST | Flags::ACK, options);
        self.transmit(now, header, NO_PAYLOAD, 0, TransmitKind::Reset)
    }

    /// <SEQ=SEG.ACK><CTL=RST> (RFC 9293 §3.10.7.3, §3.10.7.4).
    fn bare_reset(&mut self, seq: SeqNum) -> Transmit {
        let header = TcpHeader {
            src_port: self.tuple.local.port(),
            dst_port: self.tuple.remote.port(),
            seq,
            ack: SeqNum(0),
            flags: Flags::RST,
            window: WireWindow(0),
            urgent: 0,
            options: Options::default(),
        };
        self.wrap(header, NO_PAYLOAD, 0, TransmitKind::Reset)
    }

    /// The options of every segment after the handshake: timestamps, and what was received out of order,
    /// a duplicate first (RFC 2018 §4, RFC 2883 §4), as far as there is room.
    pub(super) fn segment_options(&self, now: Instant) -> Options {
        let timestamps =
            self.negotiated.timestamps.then(|| Timestamps { value: self.ts_now(now), echo: self.rcv.ts_recent });
        let mut sack = SackBlocks::default();
        if self.negotiated.sack {
            let most = if timestamps.is_some() { 3 } else { 4 };
            let duplicate = self.ack.odd.if_touched().and_then(|odd| odd.duplicate.clone());
            for range in duplicate.into_iter().chain(self.assembler.sack_ranges()).take(most) {
                sack.push(self.rcv.wire(range.start), self.rcv.wire(range.end));
            }
        }
        Options { timestamps, sack, ..Options::default() }
    }

    /// The header of a segment; one with ACK settles what was owed.
    fn header(&mut self, now: Instant, seq: SeqNum, flags: Flags, options: Options) -> TcpHeader {
        let acks = flags.contains(Flags::ACK);
        let window = if acks { self.select_window() } else { WireWindow(0) };
        if acks {
            self.ack.on_sent(now);
            self.timers.clear(super::Timer::DelayedAck);
            self.rcv.last_ack_sent = self.rcv.nxt;
        }
        let mut flags = flags;
        let mut urgent = 0;
        if !flags.intersects(Flags::SYN | Flags::RST) {
            flags |= self.ecn.echo();
            if let Some(field) = self.urgent_field(seq) {
                (flags, urgent) = (flags | Flags::URG, field);
            }
        }
        TcpHeader {
            src_port: self.tuple.local.port(),
            dst_port: self.tuple.remote.port(),
            seq,
            ack: if acks { self.rcv.wire(self.rcv.nxt) } else { SeqNum(0) },
            flags,
            window,
            urgent,
            options,
        }
    }

    fn transmit(
        &mut self,
        now: Instant,
        header: TcpHeader,
        payload: OffsetRange,
        segment_size: u16,
        kind: TransmitKind,
    ) -> Transmit {
        if matches!(kind, TransmitKind::Data | TransmitKind::Retransmit) {
            self.last_sent = now; // RFC 5681 §4.1 counts from data; an ACK proves nothing of the window
        }
        self.wrap(header, payload, segment_size, kind)
    }

    fn wrap(&mut self, header: TcpHeader, payload: OffsetRange, segment_size: u16, kind: TransmitKind) -> Transmit {
        let len = payload.end.since(payload.start);
        let segments = if segment_size == 0 { 1 } else { len.div_ceil(u64::from(segment_size)) };
        let ip_id = self.ip_id;
        self.ip_id = self.ip_id.wrapping_add(segments as u16);
        self.counters.segs_out += segments;
        if len > 0 {
            self.counters.data_segs_out += segments;
        }
        Transmit {
            header,
            payload,
            segment_size,
            kind,
            ttl: self.config.ttl,
            traffic_class: self.config.traffic_class & !0b11,
            ip_id,
        }
    }
}
