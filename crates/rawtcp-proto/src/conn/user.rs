//! What the application asks (RFC 9293 §3.10.1–3.10.5), with the answers Linux gives.

use super::{Connection, Events, State};
use crate::cc::{CongestionControl, Factory};
use crate::error::{CloseReason, UserError};
use crate::seq::Offset;
use crate::time::{Duration, Instant};
use crate::trace::{StateReason, WindowReason};
use bytes::Bytes;

impl Connection {
    /// Copies as much of `data` into the send buffer as there is room for; it leaves by
    /// [`poll_transmit`](Self::poll_transmit). A full buffer is [`UserError::WouldBlock`], and
    /// [`Events::WRITABLE`] follows when ACKs have freed enough.
    pub fn write(&mut self, now: Instant, data: &[u8]) -> Result<usize, UserError> {
        self.cork.more = false;
        self.write_with(now, data.len(), |conn| conn.send_buf.write(data))
    }

    /// As [`write`](Self::write), and more will follow: what does not fill a segment waits for it, but not for more
    /// than 200 ms (Linux's `MSG_MORE`).
    pub fn write_more(&mut self, now: Instant, data: &[u8]) -> Result<usize, UserError> {
        let written = self.write(now, data)?;
        self.hold_back();
        Ok(written)
    }

    /// What was written last, and does not fill a segment, waits for the next write, but not for more than 200 ms.
    pub fn hold_back(&mut self) {
        self.cork.more = true;
    }

    /// As [`write`](Self::write), without a copy: the bytes are kept by reference until acknowledged.
    pub fn write_bytes(&mut self, now: Instant, data: Bytes) -> Result<usize, UserError> {
        self.cork.more = false;
        self.write_with(now, data.len(), |conn| conn.send_buf.write_bytes(data))
    }

    /// As [`write`](Self::write) of so many bytes, which stay where they are at first: what is acknowledged before they are
    /// [kept](Self::keep) need not be copied at all. Nothing may be sent in between but by who has them and gives them to
    /// [`payload_with`](Self::payload_with). What is lent is to be kept before more can be.
    pub fn lend(&mut self, now: Instant, len: usize) -> Result<usize, UserError> {
        self.cork.more = false;
        self.write_with(now, len, |conn| conn.send_buf.lend(len))
    }

    /// Copies what was [lent](Self::lend), and is `lent` from its beginning, but for what is acknowledged by now; returns how
    /// much it copied.
    ///
    /// # Panics
    /// If `lent` is shorter than what was lent.
    pub fn keep(&mut self, lent: &[u8]) -> usize {
        self.send_buf.keep(lent)
    }

    fn write_with(
        &mut self,
        _now: Instant,
        len: usize,
        write: impl FnOnce(&mut Self) -> usize,
    ) -> Result<usize, UserError> {
        self.check_writable()?;
        if len == 0 {
            return Ok(0);
        }
        self.check_app_limited();
        let written = write(self);
        if written < len {
            self.write_blocked = true;
        }
        if written == 0 { Err(UserError::WouldBlock) } else { Ok(written) }
    }

    /// The error that a write would give now, or nothing if it may be tried.
    fn check_writable(&mut self) -> Result<(), UserError> {
        if let Some(error) = self.error.take() {
            return Err(UserError::Closed(error));
        }
        if self.state.may_send() && self.snd.fin.is_none() { Ok(()) } else { Err(UserError::BrokenPipe) }
    }

    /// A third of the send buffer is free, or all but four segments of a small one: enough to wake a writer.
    pub(super) fn has_writer_room(&self) -> bool {
        let capacity = self.send_buf.capacity();
        let free = self.send_buf.free();
        let small = capacity < 4 * self.send_mss() as usize;
        free > 0 && (small || free >= capacity / 3)
    }

    /// Copies received bytes out. `Ok(0)` is the end of the stream (or an empty `out`).
    ///
    /// Data that arrived before an error is read first; the error is reported once; after it the stream
    /// reads as ended, as on Linux.
    pub fn read(&mut self, now: Instant, out: &mut [u8]) -> Result<usize, UserError> {
        let most = self.before_urgent().min(out.len());
        if self.recv_buf.is_empty() && !out.is_empty() {
            return self.nothing_to_read();
        }
        let read = self.recv_buf.read(&mut out[..most]);
        self.after_read(now);
        Ok(read)
    }

    /// As [`read`](Self::read) without taking the bytes out.
    pub fn peek(&mut self, out: &mut [u8]) -> Result<usize, UserError> {
        let most = self.before_urgent().min(out.len());
        if self.recv_buf.is_empty() && !out.is_empty() {
            return self.nothing_to_read();
        }
        Ok(self.recv_buf.peek(&mut out[..most]))
    }

    /// Received bytes without a copy, at most `max`; `None` is the end of the stream.
    pub fn read_chunk(&mut self, now: Instant, max: usize) -> Result<Option<Bytes>, UserError> {
        let most = self.before_urgent().min(max);
        if self.recv_buf.is_empty() {
            return self.nothing_to_read().map(|_| None);
        }
        let chunk = self.recv_buf.read_chunk(most);
        self.after_read(now);
        Ok(chunk)
    }

    fn nothing_to_read(&mut self) -> Result<usize, UserError> {
        if self.rcv.fin.is_some() {
            return Ok(0);
        }
        if let Some(error) = self.error.take() {
            return Err(UserError::Closed(error));
        }
        if self.state.may_receive() { Err(UserError::WouldBlock) } else { Ok(0) }
    }

    /// Room was made: tell the peer, if it is worth a segment.
    fn after_read(&mut self, now: Instant) {
        self.pass_urgent();
        self.tune_recv_buffer(now);
        if self.recv_buf.is_empty() {
            self.ack.on_read_out();
        }
        if self.window_update_due() {
            self.ack.now();
        }
    }

    /// Closes the send direction: FIN behind everything written (RFC 9293 §3.10.4). Repeatable.
    pub fn shutdown(&mut self, now: Instant) -> Result<(), UserError> {
        match self.state {
            State::Closed | State::TimeWait if self.snd.fin.is_none() => Err(UserError::NotConnected),
            _ if self.snd.fin.is_some() => Ok(()),
            _ => {
                self.queue_fin(now);
                Ok(())
            }
        }
    }

    fn queue_fin(&mut self, _now: Instant) {
        self.snd.fin = self.send_buf.end().max(Offset(1)).into();
        self.events.insert(Events::WRITE_CLOSED);
        match self.state {
            State::Established => self.transition(State::FinWait1, StateReason::LocalClose),
            State::CloseWait => self.transition(State::LastAck, StateReason::LocalClose),
            // Queued until the handshake is complete (RFC 9293 §3.10.4).
            _ => {}
        }
    }

    /// The application lets go. Everything read: FIN behind the buffered data. Unread data: RST
    /// (RFC 9293 §3.6.1 [SHLD-3]; RFC 2525 §2.17).
    pub fn close(&mut self, now: Instant) {
        if self.orphan {
            return;
        }
        self.orphan = true;
        if !self.recv_buf.is_empty() && self.state != State::Closed {
            return self.reset_with(CloseReason::Aborted);
        }
        self.recv_buf.clear();
        match self.state {
            State::SynSent => self.fail(CloseReason::Aborted),
            State::Closed | State::TimeWait => {}
            _ => {
                if self.snd.fin.is_none() {
                    self.queue_fin(now);
                }
                self.start_fin_wait2(now);
            }
        }
    }

    /// RST, and nothing more (RFC 9293 §3.10.5): what `linger(0)` does on drop.
    pub fn abort(&mut self, _now: Instant) {
        self.orphan = true;
        self.reset_with(CloseReason::Aborted);
    }

    /// Closes with a RST to the peer, if there is one that knows of us.
    pub(super) fn reset_with(&mut self, reason: CloseReason) {
        self.pending = super::Pending { reset: self.owes_reset(), ..super::Pending::default() };
        if reason == CloseReason::Aborted {
            self.recv_buf.clear();
        }
        if self.state == State::TimeWait {
            self.transition(State::Closed, StateReason::Ended(reason));
        }
        self.fail(reason);
    }

    /// RFC 9293 §3.10.5: the states in which ABORT sends a RST. Once both FINs are through there is
    /// nothing left to reset.
    fn owes_reset(&self) -> bool {
        matches!(
            self.state,
            State::SynReceived
                | State::Established
                | State::FinWait1
                | State::FinWait2
                | State::CloseWait
                | State::Closing
                | State::LastAck
        )
    }

    /// The error the application has not seen yet (SO_ERROR): taking it clears it.
    pub fn take_error(&mut self) -> Option<CloseReason> {
        self.error.take().or_else(|| self.soft_error.take())
    }

    /// Switches Nagle's rule off or on (RFC 9293 §3.7.4 [MUST-17]). Switching it off lets go at once
    /// what it held back.
    pub fn set_nodelay(&mut self, nodelay: bool) {
        self.nodelay = nodelay;
        // As Linux: a cork does not hold back what is there already.
        self.pending.push |= nodelay && self.cork.on && self.has_unsent();
    }

    /// Whether Nagle's rule is switched off.
    pub fn nodelay(&self) -> bool {
        self.nodelay
    }

    /// Sends full segments only, until it is switched off again: what does not fill one waits, but not for more
    /// than 200 ms (Linux's TCP_CORK). The end of the stream is not held back.
    pub fn set_cork(&mut self, cork: bool) {
        self.cork.on = cork;
        self.cork.more &= cork;
    }

    /// Whether only full segments are sent.
    pub fn is_corked(&self) -> bool {
        self.cork.on
    }

    /// The hop limit of what is sent from now on [MUST-49].
    pub fn set_ttl(&mut self, ttl: u8) {
        if ttl != self.config.ttl {
            self.settings().ttl = ttl;
        }
    }

    /// The DSCP byte of what is sent from now on [MUST-48, SHLD-21].
    pub fn set_traffic_class(&mut self, traffic_class: u8) {
        self.settings().traffic_class = traffic_class;
    }

    /// Size of the send buffer, in bytes. From now on it neither grows nor shrinks by itself.
    pub fn set_send_buffer(&mut self, bytes: usize) {
        let settings = self.settings();
        (settings.send_buffer, settings.send_buffer_max) = (bytes, bytes);
        self.send_short = false;
        self.send_buf.set_capacity(bytes.max(1));
        self.wake_writer();
    }

    /// Size of the receive buffer, in bytes. From now on it does not grow by itself. A window already offered is not taken back, and the
    /// window scale was fixed by the handshake.
    pub fn set_recv_buffer(&mut self, bytes: usize) {
        self.settings().recv_buffer_max = bytes;
        self.resize_recv_buffer(bytes);
        if self.snd.nxt == Offset(0) {
            self.settings().recv_buffer = bytes;
            self.rcv.scale = self.config.scale_to_offer(); // the SYN has not left yet
        }
    }

    /// Time without progress after which the connection is given up [MUST-21]. Counts from the last
    /// progress, so that it may have passed already.
    pub fn set_user_timeout(&mut self, timeout: Option<Duration>) {
        self.settings().user_timeout = timeout;
        self.apply_user_timeout();
    }

    /// Switches keep-alive [MUST-24].
    pub fn set_keepalive(&mut self, now: Instant, keepalive: Option<crate::config::Keepalive>) {
        self.settings().keepalive = keepalive;
        self.start_keepalive(now);
    }

    /// Replaces the congestion control; the new one goes on from where the old one was.
    pub fn set_congestion(&mut self, factory: impl Into<Factory>) {
        let factory = factory.into();
        let next = factory.build(self.send_mss(), self.config.initial_window);
        self.settings().congestion = factory;
        self.set_congestion_control(next);
    }

    /// As [`set_congestion`](Self::set_congestion), with one that is there already. On a connection that is not
    /// established yet, the handshake's end replaces it by that of [the settings](crate::ConnConfig::congestion).
    pub fn set_congestion_control(&mut self, mut next: Box<dyn CongestionControl>) {
        let mut carried = self.cc.export();
        carried.min_rtt = carried.min_rtt.or(self.rtt.min_rtt());
        let (rate, app_limited) = self.recovery.rate.last();
        carried.bandwidth = carried.bandwidth.or((rate > 0 && !app_limited).then_some(rate));
        next.on_mss(self.send_mss());
        next.import(carried);
        self.cc = next;
        self.trace_window(WindowReason::Replaced);
    }

    /// The rate that data never exceeds, in bytes per second (SO_MAX_PACING_RATE).
    pub fn set_max_pacing_rate(&mut self, most: Option<u64>) {
        self.settings().max_pacing_rate = most;
    }

    /// Paces, or not, where the congestion control does not state a rate itself.
    pub fn set_pacing(&mut self, pacing: bool) {
        self.settings().pacing = pacing;
    }

    /// Acknowledge at once from now on, or go back to delayed ACKs; not sticky, as TCP_QUICKACK.
    pub fn set_quickack(&mut self, quick: bool) {
        self.ack.set_quick(quick, self.config.quick_acks);
    }
}
