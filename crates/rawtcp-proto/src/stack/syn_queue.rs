//! SYN-RECEIVED after a passive open, as a small record (RFC 9293 §3.10.7.4; RFC 4987 §3.5).
//!
//! The other SYN-RECEIVED, after a simultaneous open, is a [`Connection`].

use super::demux::Slot;
use super::isn::timestamp;
use super::listener::{ListenConfig, ListenerId};
use super::reset::{Budget, reset_header};
use super::{AcceptQueue, Disposition, MtuOf, Reply, Stack, StackConfig, acceptable, ack_header};
use crate::config::ConnConfig;
use crate::conn::{Connection, ecn};
use crate::error::DropReason;
use crate::seq::{SeqNum, WindowScale, WireWindow};
use crate::time::{Duration, Instant};
use crate::wire::{Ecn, Flags, FourTuple, Options, Segment, TcpHeader, Timestamps};

/// What is remembered between a SYN and the ACK of our SYN-ACK.
#[derive(Clone, Debug)]
pub struct HalfOpen {
    pub(crate) irs: SeqNum,
    pub(crate) iss: SeqNum,
    /// The peer's MSS option, as received.
    pub(crate) peer_mss: Option<u16>,
    /// The MSS that we announced.
    pub(crate) our_mss: u16,
    /// `Some` if both sides scale windows (RFC 7323 §2.2).
    pub(crate) peer_wscale: Option<WindowScale>,
    /// Our shift; 0 unless both sides scale.
    pub(crate) our_wscale: WindowScale,
    /// The window in the SYN, which is never scaled (RFC 7323 §2.2).
    pub(crate) peer_window: u32,
    /// TS.Recent, if both sides use timestamps.
    pub(crate) timestamps: Option<u32>,
    pub(crate) ts_offset: u32,
    pub(crate) sack: bool,
    /// Whether both sides asked for ECN.
    pub(crate) ecn: bool,
    /// SYN-ACKs sent after the first, for whatever reason: with any, no RTT sample is certain (Karn).
    pub(crate) retransmits: u8,
    /// When the last SYN-ACK was sent.
    pub(crate) synack_sent_at: Instant,
    /// The MTU behind `our_mss`, bytes of IP packet.
    pub(crate) mtu: u32,
    /// SYN-ACKs sent because the timer ran out: the exponent of the backoff.
    pub(crate) timeouts: u8,
    challenges: Budget,
    pub(super) listener: ListenerId,
}

// RFC 4987 §3.5: small records are what makes a flood of SYNs bearable.
const _: () = assert!(size_of::<HalfOpen>() <= 128);

/// What this side brings to a new half-open connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours {
    pub(super) iss: SeqNum,
    pub(super) ts_offset: u32,
    /// Bytes of IP packet, towards this peer.
    pub(super) mtu: u32,
}

/// What a segment means to a half-open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The peer's SYN again: so is our SYN-ACK, at a limited rate.
    SynAck,
    /// Answered with an ACK, at a limited rate.
    Challenge,
    /// Answered with <SEQ=SEG.ACK><CTL=RST>.
    Reset,
    /// Back to LISTEN.
    Remove,
    /// Our SYN is acknowledged.
    Complete,
    /// Dropped in silence.
    Drop(DropReason),
}

impl HalfOpen {
    /// From an acceptable SYN (RFC 9293 §3.10.7.2, third). Options are answered only if offered.
    pub(super) fn new(
        now: Instant,
        tuple: &FourTuple,
        (syn, codepoint): (&TcpHeader, Ecn),
        listener: ListenerId,
        config: &ListenConfig,
        ours: Ours,
    ) -> Self {
        let (conn, options) = (&config.conn, &syn.options);
        // RFC 7323 §2.2: scaling is on only if both SYNs carry the option.
        let peer_wscale = options.window_scale.filter(|_| conn.window_scaling).map(WindowScale::new);
        HalfOpen {
            irs: syn.seq,
            iss: ours.iss,
            peer_mss: options.mss,
            our_mss: conn.mss_for(ours.mtu, tuple.is_v6()),
            peer_wscale,
            our_wscale: peer_wscale.map_or(WindowScale::NONE, |_| conn.scale_to_offer()),
            peer_window: u32::from(syn.window.0),
            timestamps: options.timestamps.filter(|_| conn.timestamps).map(|ts| ts.value),
            ts_offset: ours.ts_offset,
            sack: conn.sack && options.sack_permitted,
            ecn: ecn::accepts(conn.ecn, syn.flags, codepoint),
            retransmits: 0,
            synack_sent_at: now,
            mtu: ours.mtu,
            timeouts: 0,
            challenges: Budget::default(),
            listener,
        }
    }

    /// Agrees to none of the options that a cookie without timestamps cannot keep.
    pub(super) fn forget_options(&mut self) {
        self.peer_wscale = None;
        self.our_wscale = WindowScale::NONE;
        self.sack = false;
        self.ecn = false;
    }

    /// RCV.WND: as many bytes as the SYN-ACK, which is never scaled, can offer (RFC 7323 §2.2).
    pub(crate) fn our_window(&self, config: &ConnConfig) -> u32 {
        config.recv_buffer.min(usize::from(u16::MAX)) as u32
    }

    fn rcv_nxt(&self) -> SeqNum {
        self.irs.add(1)
    }

    fn snd_nxt(&self) -> SeqNum {
        self.iss.add(1)
    }

    /// RFC 9293 §3.10.5 for a connection that nobody will have: <SEQ=SND.NXT><ACK=RCV.NXT><CTL=RST,ACK>, good for
    /// a peer that has our SYN-ACK and for one that has not.
    pub(super) fn abort(&self, config: &StackConfig, tuple: &FourTuple) -> Reply {
        let mut header = ack_header(tuple, self.snd_nxt(), self.rcv_nxt(), WireWindow(0), None);
        header.flags = Flags::RST | Flags::ACK;
        Reply { tuple: *tuple, header, ttl: config.ttl, traffic_class: config.traffic_class & !0b11 }
    }

    /// How long to wait for an answer to the last SYN-ACK (RFC 6298 §2.1, §5.5).
    pub(super) fn rto(&self, config: &ConnConfig) -> Duration {
        let backed_off = config.rto_initial.saturating_mul(1 << self.timeouts.min(31));
        // Never zero, whatever is configured: a timer must end after the call that serves it.
        backed_off.min(config.rto_max).max(Duration::from_millis(1))
    }

    /// RFC 9293 §3.10.7.4 for SYN-RECEIVED from LISTEN: changes nothing, only decides.
    pub(super) fn judge(&self, rcv_wnd: u32, seg: &Segment<'_>) -> Verdict {
        let header = &seg.header;
        let rst = header.flags.contains(Flags::RST);
        let syn = header.flags.contains(Flags::SYN);
        let ack = header.flags.contains(Flags::ACK);
        // The peer did not get our SYN-ACK; it lies left of the window by nature.
        if syn && !ack && !rst && header.seq == self.irs && !self.is_old(&header.options) {
            return Verdict::SynAck;
        }
        // RFC 7323 §5.3, R1: an old timestamp makes a segment unacceptable; a RST is exempt [§5.2].
        if !rst && self.is_old(&header.options) {
            return Verdict::Challenge;
        }
        // RFC 9293 §3.10.7.4, first: check sequence number.
        if !acceptable(self.rcv_nxt(), rcv_wnd, header.seq, seg.seq_len()) {
            return if rst { Verdict::Drop(DropReason::OutOfWindow) } else { Verdict::Challenge };
        }
        // RFC 9293 §3.10.7.4, second; RFC 5961 §3.2: only the exact number resets, whatever its ACK says;
        // a passive open then returns to LISTEN and the user hears nothing [MUST-11].
        if rst {
            return if header.seq == self.rcv_nxt() { Verdict::Remove } else { Verdict::Challenge };
        }
        // RFC 9293 §3.10.7.4, fourth. Deviation: a passive open may return to LISTEN here; we challenge as
        // in the synchronized states (RFC 5961 §4.2), because a forged SYN would otherwise end the handshake.
        // A peer that means it answers the challenge with the exact RST.
        if syn {
            return Verdict::Challenge;
        }
        // RFC 9293 §3.10.7.4, fifth.
        if !ack {
            return Verdict::Drop(DropReason::NoAck);
        }
        // SND.UNA < SEG.ACK =< SND.NXT holds for one number. Deviation [MAY-12]: RFC 5961 §5 would answer some
        // of the others with an ACK; SYN-RECEIVED's own rule, a reset, is what Linux does with all of them.
        if header.ack == self.snd_nxt() { Verdict::Complete } else { Verdict::Reset }
    }

    /// PAWS (RFC 7323 §5.2). A segment without timestamps passes: middleboxes strip options, and
    /// the connection is as safe as one that never had them (RFC 7323 §3.2 allows either).
    fn is_old(&self, options: &Options) -> bool {
        match (self.timestamps, options.timestamps) {
            (Some(recent), Some(ts)) => SeqNum(ts.value).before(SeqNum(recent)),
            _ => false,
        }
    }

    fn timestamps_now(&self, now: Instant) -> Option<Timestamps> {
        self.timestamps.map(|recent| Timestamps { value: timestamp(now, self.ts_offset), echo: recent })
    }

    /// <SEQ=ISS><ACK=RCV.NXT><CTL=SYN,ACK>.
    pub(super) fn syn_ack(&self, now: Instant, tuple: &FourTuple, config: &ConnConfig) -> Reply {
        // RFC 7323 §2.2: the window in a SYN is never scaled.
        let window = WindowScale::NONE.field(self.our_window(config));
        let mut header = ack_header(tuple, self.iss, self.rcv_nxt(), window, self.timestamps_now(now));
        // RFC 3168 §6.1.1: ECE without CWR agrees to ECN.
        header.flags = if self.ecn { Flags::SYN | Flags::ACK | Flags::ECE } else { Flags::SYN | Flags::ACK };
        header.options.mss = Some(self.our_mss);
        header.options.window_scale = self.peer_wscale.map(|_| self.our_wscale.shift());
        header.options.sack_permitted = self.sack;
        self.reply(tuple, config, header)
    }

    fn challenge(&self, now: Instant, tuple: &FourTuple, config: &ConnConfig) -> Reply {
        let window: WireWindow = self.our_wscale.field(self.our_window(config));
        let header = ack_header(tuple, self.snd_nxt(), self.rcv_nxt(), window, self.timestamps_now(now));
        self.reply(tuple, config, header)
    }

    fn reply(&self, tuple: &FourTuple, config: &ConnConfig, header: TcpHeader) -> Reply {
        Reply { tuple: *tuple, header, ttl: config.ttl, traffic_class: config.traffic_class & !0b11 }
    }
}

/// How often the SYN-ACK is sent again, as far as a record can count.
fn retries_of(config: &ConnConfig) -> u8 {
    u8::try_from(config.synack_retries).unwrap_or(u8::MAX)
}

impl<C: Clone, L: Clone + AcceptQueue> Stack<C, L> {
    /// RFC 9293 §3.10.7.4 for a half-open record.
    pub(super) fn in_syn_received(
        &mut self,
        now: Instant,
        tuple: &FourTuple,
        slot: Slot,
        seg: &Segment<'_>,
        mtu_of: &mut MtuOf<'_>,
    ) -> Result<Disposition<C, L>, DropReason> {
        let record = self.half_open.get_mut(slot).ok_or(DropReason::NoConnection)?;
        let half = &mut record.value;
        let listener = self.listeners.get(half.listener).ok_or(DropReason::NoConnection)?;
        let conn = &listener.config.conn;
        match half.judge(half.our_window(conn), seg) {
            Verdict::SynAck => {
                // The timer sends it as well, so a limit costs an honest peer nothing.
                if !half.challenges.take(now, self.config.challenge_acks) {
                    return Err(DropReason::RateLimited);
                }
                // RFC 7323 §4.3 (2): the SYN is left of Last.ACK.sent and not older than TS.Recent.
                if let (Some(recent), Some(ts)) = (&mut half.timestamps, seg.header.options.timestamps) {
                    *recent = ts.value;
                }
                // RFC 3168 §6.1.1.1 (4): the peer does not ask any more.
                half.ecn &= ecn::is_ecn_setup(seg.header.flags);
                half.retransmits = half.retransmits.saturating_add(1);
                half.synack_sent_at = now;
                self.counters.syn_acks += 1;
                self.counters.syn_acks_retransmitted += 1;
                Ok(Disposition::Reply(half.syn_ack(now, tuple, conn)))
            }
            Verdict::Challenge => {
                if !half.challenges.take(now, self.config.challenge_acks) {
                    return Err(DropReason::RateLimited);
                }
                self.counters.acks += 1;
                Ok(Disposition::Reply(half.challenge(now, tuple, conn)))
            }
            Verdict::Reset => {
                // The first SYN may have got a cookie, before there was room for a record.
                if let Some(cookie) = self.cookies.read(now, &self.secrets, tuple, &seg.header) {
                    let id = half.listener;
                    return self.accept_cookie(now, tuple, id, seg, cookie, mtu_of);
                }
                if !self.resets.take(now, self.config.resets) {
                    return Err(DropReason::RateLimited);
                }
                self.counters.resets += 1;
                Ok(Disposition::Reply(half.reply(tuple, conn, reset_header(tuple, seg))))
            }
            Verdict::Remove => {
                self.vacate(tuple);
                Ok(Disposition::Done)
            }
            Verdict::Complete => {
                // As Linux: the peer, already in ESTABLISHED, sends again; and so does our SYN-ACK timer.
                if !listener.handle.has_room() {
                    return Err(DropReason::AcceptQueueFull);
                }
                let listener_handle = listener.handle.clone();
                let connection = Box::new(Connection::accept(now, conn, *tuple, half));
                self.vacate(tuple);
                self.counters.accepted += 1;
                Ok(Disposition::Accept { listener: listener_handle, connection })
            }
            Verdict::Drop(reason) => Err(reason),
        }
    }
}

impl<C, L> Stack<C, L> {
    /// RFC 9293 §3.10.8: the SYN-ACK again (RFC 6298 §5.4–5.6), or the end of the record.
    pub(super) fn syn_ack_timeout(&mut self, now: Instant, slot: Slot) -> Option<Reply> {
        let record = self.half_open.get_mut(slot)?;
        let (tuple, half) = (record.tuple, &mut record.value);
        let conn = match self.listeners.get(half.listener) {
            Some(listener) if half.timeouts < retries_of(&listener.config.conn) => &listener.config.conn,
            _ => {
                self.vacate(&tuple);
                self.counters.half_open_expired += 1;
                return None;
            }
        };
        half.timeouts = half.timeouts.saturating_add(1);
        half.retransmits = half.retransmits.saturating_add(1);
        half.synack_sent_at = now;
        let (reply, deadline) = (half.syn_ack(now, &tuple, conn), now + half.rto(conn));
        self.half_open.reschedule(slot, deadline);
        self.counters.syn_acks += 1;
        self.counters.syn_acks_retransmitted += 1;
        Some(reply)
    }
}
