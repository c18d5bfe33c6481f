//! When to acknowledge (RFC 9293 §3.8.6.3, RFC 5681 §4.2), and challenge ACKs (RFC 5961 §7).
//!
//! The caller processes a whole batch before it polls for output, so one ACK answers the batch
//! [MUST-58, MUST-59]; inside a batch at most the last of several due ACKs is sent.

use super::{Connection, State, Timer};
use crate::cold::{Cold, Idle};
use crate::seq::OffsetRange;
use crate::time::{Duration, Instant};
use crate::wire::Segment;

/// How often an out-of-window segment without text is answered: two stacks that each think the other
/// out of window must not answer each other for ever. As Linux's tcp_invalid_ratelimit.
const INVALID_INTERVAL: Duration = Duration::from_millis(500);

/// RFC 9293 §3.8.6.3 [MUST-40]: less than half a second, whatever was configured.
const LONGEST_DELAY: Duration = Duration::from_millis(499);

/// A segment of less is not full, whatever was seen before (RFC 9293 §3.7.1 [MUST-15]; Linux begins with the same).
const LEAST_FULL: u32 = 536;

/// What is owed to the peer.
#[derive(Debug)]
pub(super) struct AckPolicy {
    due: bool,
    /// Bytes of text received since the last ACK: within the window, so below 2³⁰.
    unacked: u32,
    /// Of that, something came in a segment that was not full: as far as the sender is concerned, it may be all.
    small: bool,
    /// Segments still to be acknowledged at once because the peer is in slow start.
    quick: u32,
    last_of_handshake: Last,
    /// The application answers what it reads: ACKs ride on its data, and are not hurried (Linux's "pingpong").
    answers: bool,
    last_text: Instant,
    last_sent: Instant,
    /// Duplicate ACKs owed beyond the one that is due. A peer without SACK counts them (RFC 5681 §3.2), so
    /// a batch of out-of-order segments may not shrink to one; more than three tell it nothing new.
    repeats: u8,
    pub(super) odd: Cold<Odd>,
}

/// The ACK that completes the handshake of an active open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// It is not due, or not it alone.
    No,
    Due,
    /// It waits for data to ride on.
    Held,
    /// It has waited.
    Released,
}

/// What only follows what should not happen.
#[derive(Debug)]
pub(super) struct Odd {
    /// The D-SACK block of the next ACK (RFC 2883).
    pub(super) duplicate: Option<OffsetRange>,
    last_invalid: Option<Instant>,
    challenge_window: Instant,
    challenges: u32,
}

impl Idle for Odd {
    const BEGIN: Self = Odd { duplicate: None, last_invalid: None, challenge_window: Instant::ZERO, challenges: 0 };

    fn idle() -> &'static Self {
        const { &Odd::BEGIN }
    }
}

impl AckPolicy {
    pub(super) fn new(quick: u32) -> Self {
        AckPolicy {
            due: false,
            unacked: 0,
            small: false,
            quick,
            last_of_handshake: Last::No,
            answers: false,
            last_text: Instant::ZERO,
            last_sent: Instant::ZERO,
            repeats: 0,
            odd: Cold::new(),
        }
    }

    pub(super) fn now(&mut self) {
        self.due = true;
        self.last_of_handshake = Last::No;
    }

    /// Our SYN was answered.
    pub(super) fn complete_handshake(&mut self) {
        self.due = true;
        self.last_of_handshake = Last::Due;
    }

    /// The peer does not know yet that its SYN has come.
    pub(super) fn is_last_of_handshake(&self) -> bool {
        self.last_of_handshake != Last::No
    }

    pub(super) fn is_due(&self) -> bool {
        self.due && self.last_of_handshake != Last::Held
    }

    /// When an ACK last left, alone or with data.
    pub(super) fn last_sent(&self) -> Instant {
        self.last_sent
    }

    /// Another out-of-order segment, and the peer counts duplicate ACKs.
    pub(super) fn repeat(&mut self) {
        self.repeats = if self.due { (self.repeats + 1).min(2) } else { 0 };
        self.due = true;
    }

    /// RCV.NXT moved: what is sent now is not a duplicate.
    pub(super) fn on_advance(&mut self) {
        self.repeats = 0;
    }

    /// A segment that carries the ACK left.
    pub(super) fn on_sent(&mut self, now: Instant) {
        self.last_sent = now;
        self.due = self.repeats > 0;
        self.last_of_handshake = Last::No;
        self.repeats = self.repeats.saturating_sub(1);
        self.unacked = 0;
        self.small = false;
        if let Some(odd) = self.odd.touched() {
            odd.duplicate = None;
        }
    }

    /// The application has read everything. It may have taken what there will be, and a sender under Nagle's rule waits for
    /// this ACK: unless an answer is likely to carry it, it leaves now (Linux's tcp_cleanup_rbuf).
    pub(super) fn on_read_out(&mut self) {
        self.due |= self.small && !self.answers;
    }

    /// TCP_QUICKACK: at once until the application answers again, or delayed from now on.
    pub(super) fn set_quick(&mut self, quick: bool, at_start: u32) {
        self.answers = !quick;
        if quick {
            self.quick = at_start.max(1);
            self.due |= self.unacked > 0;
        }
    }

    /// At once, now and for the next segments.
    pub(super) fn hurry(&mut self, segments: u32) {
        self.quick = self.quick.max(segments);
        self.answers = false;
        self.due = true;
    }

    /// The peer has finished: whoever reads that will most likely finish, too.
    fn on_fin(&mut self) {
        self.answers = true;
    }

    /// Data leaves: soon after some has arrived, it is an answer.
    pub(super) fn on_reply(&mut self, now: Instant, soon: Duration) {
        self.answers |= self.last_text != Instant::ZERO && now.since(self.last_text) < soon;
    }
}

impl Connection {
    /// Has the ACK that completes the handshake wait for data to ride on, if it is due and nothing else is; says so.
    /// Whoever asks for it calls [`release_handshake_ack`](Self::release_handshake_ack) as soon as the application has had
    /// its turn.
    pub fn hold_handshake_ack(&mut self) -> bool {
        let due = self.ack.last_of_handshake == Last::Due;
        if due {
            self.ack.last_of_handshake = Last::Held;
        }
        due
    }

    /// The ACK leaves by itself, if nothing has carried it.
    pub fn release_handshake_ack(&mut self) {
        if self.ack.last_of_handshake == Last::Held {
            self.ack.last_of_handshake = Last::Released;
        }
    }

    /// In-order text arrived: an ACK at once for every second full segment, or by the timer.
    pub(super) fn ack_text(&mut self, now: Instant, len: usize, gro_size: u16) {
        let unit = match gro_size {
            0 => self.rcv.seen_mss.max(1),
            size => u32::from(size),
        };
        // Silence for longer than an RTO: the peer starts slowly again.
        if now.since(self.ack.last_text) > self.rtt.rto() && self.ack.last_text != Instant::ZERO {
            self.ack.quick = self.config.quick_acks;
        }
        self.ack.last_text = now;
        self.ack.unacked = self.ack.unacked.saturating_add(len as u32);
        self.ack.small |= gro_size == 0 && (len as u32) < unit.max(LEAST_FULL);
        if self.ack.quick > 0 && !self.ack.answers {
            self.ack.quick -= (len as u32).div_ceil(unit).min(self.ack.quick);
            self.ack.now();
        } else if self.ack.unacked > unit {
            // More than one full segment: at least every second one is acknowledged [SHLD-19].
            self.ack.now();
        } else if self.config.delayed_ack.is_zero() {
            self.ack.now();
        } else {
            self.ack_later(now);
        }
    }

    fn ack_later(&mut self, now: Instant) {
        if !self.timers.is_set(Timer::DelayedAck) {
            self.timers.set(Timer::DelayedAck, now + self.config.delayed_ack.min(LONGEST_DELAY));
        }
    }

    /// A FIN arrived in order. Its ACK may wait for our own FIN (RFC 9293 §3.8.6.3 [SHLD-18], and Linux's choice), unless we
    /// have sent that: nothing follows it.
    pub(super) fn ack_fin(&mut self, now: Instant) {
        if self.state == State::Established && !self.config.delayed_ack.is_zero() {
            self.ack.on_fin();
            self.ack_later(now);
        } else {
            self.ack.now();
        }
    }

    /// A segment that is not acceptable deserves an ACK; one without text only so often.
    pub(super) fn ack_now_limited(&mut self, now: Instant, segment: &Segment<'_>) {
        if segment.payload.is_empty() {
            let odd = self.ack.odd.edit();
            if odd.last_invalid.is_some_and(|at| now.since(at) < INVALID_INTERVAL) {
                return;
            }
            odd.last_invalid = Some(now);
        } else {
            // As Linux: our ACKs get lost, or the peer would not send it again.
            self.ack.hurry(self.config.quick_acks);
        }
        self.ack.now();
    }

    /// RFC 5961 §7: limited to so many a second on each connection.
    pub(super) fn challenge_ack(&mut self, now: Instant) {
        let odd = self.ack.odd.edit();
        if now.since(odd.challenge_window) >= Duration::from_secs(1) {
            odd.challenge_window = now;
            odd.challenges = 0;
        }
        if odd.challenges < self.config.challenge_acks {
            odd.challenges += 1;
            self.ack.now();
        }
    }
}
