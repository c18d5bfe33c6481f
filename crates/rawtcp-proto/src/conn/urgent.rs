//! Urgent data (RFC 9293 §3.8.5, RFC 6093): bytes of the stream like others, up to a mark that is announced ahead.
//!
//! RFC 6093 §3.2 and §6: the mark is the number behind the last urgent byte, the data stays in line, and the
//! application is told. With [`urgent_inline`](crate::ConnConfig::urgent_inline) off it is as a kernel socket
//! without `SO_OOBINLINE` has it: the last urgent byte is taken out of the stream, and read by itself.

use super::{Connection, Events};
use crate::cold::Idle;
use crate::error::UserError;
use crate::seq::{Offset, SeqNum};
use crate::time::Instant;
use crate::wire::{Flags, Segment};

/// How far a pointer of 16 bits reaches.
const FARTHEST: u64 = u16::MAX as u64;

/// Both directions' marks.
#[derive(Debug)]
pub(super) struct Urgent {
    /// SND.UP, while it is not acknowledged.
    snd: Option<Offset>,
    /// RCV.UP, while the application has not read up to it.
    rcv: Option<Offset>,
    /// The byte that was taken out of the stream, until it is read by itself.
    taken: Option<u8>,
    /// The byte before `rcv` has been read by itself; it is still in the stream.
    was_read: bool,
}

impl Idle for Urgent {
    const BEGIN: Self = Urgent::new();

    fn idle() -> &'static Self {
        const { &Urgent::new() }
    }
}

impl Urgent {
    pub(super) const fn new() -> Self {
        Urgent { snd: None, rcv: None, taken: None, was_read: false }
    }

    /// The peer is to know of urgent data.
    pub(super) fn is_sending(&self) -> bool {
        self.snd.is_some()
    }

    pub(super) fn on_acked(&mut self, una: Offset) {
        self.snd = self.snd.filter(|&up| up > una);
    }
}

impl Connection {
    /// As [`write`](Self::write); what was written up to its end is urgent (RFC 9293 §3.9.1.2). Waits in line
    /// behind what was written before, but the peer is told of it at once. New applications should not use it
    /// [SHLD-13].
    pub fn write_urgent(&mut self, now: Instant, data: &[u8]) -> Result<usize, UserError> {
        let written = self.write(now, data)?;
        if written > 0 {
            self.urgent.edit().snd = Some(self.send_buf.end());
            // Where nothing can leave, an ACK tells of it (RFC 9293 §3.8.6: URG counts at a window of zero).
            if self.state.is_synchronized() {
                self.ack.now();
            }
        }
        Ok(written)
    }

    /// How many bytes are to be read up to the end of the urgent data [MUST-33], some of which may not have
    /// arrived; `None`: none is pending. [`Events::URGENT`] says when there is more of it [MUST-32].
    pub fn urgent_ahead(&self) -> Option<u64> {
        // Nothing is ahead once the buffer was thrown away.
        self.urgent.rcv.map(|up| up.since(self.read_at())).filter(|&ahead| ahead > 0)
    }

    /// The last urgent byte, where it is kept out of the stream (`recv` with `MSG_OOB`).
    ///
    /// # Errors
    /// [`UserError::WouldBlock`] while it was announced and has not arrived; [`UserError::NoUrgent`] if there is
    /// none, or it was read, or urgent data is in line.
    pub fn read_urgent(&mut self) -> Result<u8, UserError> {
        if let Some(byte) = self.urgent.touched().and_then(|urgent| urgent.taken.take()) {
            return Ok(byte);
        }
        let Some(ahead) = self.urgent_ahead().filter(|_| !self.config.urgent_inline && !self.urgent.was_read) else {
            return Err(UserError::NoUrgent);
        };
        let mut byte = [0];
        let before = ahead.saturating_sub(1) as usize;
        if self.recv_buf.peek_at(before, &mut byte) == 0 {
            return Err(UserError::WouldBlock);
        }
        self.urgent.edit().was_read = true;
        Ok(byte[0])
    }

    /// Whether urgent data stays in line; see [`urgent_inline`](crate::ConnConfig::urgent_inline).
    pub fn set_urgent_inline(&mut self, inline: bool) {
        self.settings().urgent_inline = inline;
    }

    /// Where the application reads next.
    fn read_at(&self) -> Offset {
        Offset(1 + self.bytes_received() - self.recv_buf.len() as u64)
    }

    /// RFC 9293 §3.10.7.4, sixth: RCV.UP only moves on, and tells the application when it does [MUST-32]. A value
    /// that points to what was read means nothing.
    pub(super) fn check_urgent(&mut self, segment: &Segment<'_>, start: Offset) {
        if !segment.header.flags.contains(Flags::URG) || !self.state.may_receive() {
            return;
        }
        let up = start.add(u64::from(segment.header.urgent));
        if up > self.read_at() && self.urgent.rcv.is_none_or(|known| known < up) {
            let urgent = self.urgent.edit();
            (urgent.rcv, urgent.was_read, urgent.taken) = (Some(up), false, None);
            self.events.insert(Events::URGENT);
        }
    }

    /// How many bytes may be read before the one that is not in line, which is taken out if it is next.
    pub(super) fn before_urgent(&mut self) -> usize {
        let Some(ahead) = self.urgent_ahead().filter(|_| !self.config.urgent_inline) else { return usize::MAX };
        if ahead > 1 {
            return usize::try_from(ahead - 1).unwrap_or(usize::MAX);
        }
        let mut byte = [0];
        if self.recv_buf.read(&mut byte) == 1 {
            let urgent = self.urgent.edit();
            urgent.taken = (!urgent.was_read).then_some(byte[0]);
            urgent.rcv = None;
            return usize::MAX;
        }
        0
    }

    /// Bytes in the receive buffer that are not in line: the urgent one.
    pub(super) fn urgent_buffered(&self) -> usize {
        let arrived = |&ahead: &u64| ahead <= self.recv_buf.len() as u64;
        usize::from(!self.config.urgent_inline && self.urgent_ahead().as_ref().is_some_and(arrived))
    }

    /// The application has read: at the mark it goes back to normal mode.
    pub(super) fn pass_urgent(&mut self) {
        if self.urgent.rcv.is_some_and(|up| up <= self.read_at()) {
            self.urgent.edit().rcv = None;
        }
    }

    /// URG and the pointer of a segment that begins at `seq`.
    ///
    /// A mark that is too far for the field is not told yet, unless what has been sent ends before the farthest
    /// that can be said: as Linux, or peers that take a byte out of line would take one for each segment.
    pub(super) fn urgent_field(&self, seq: SeqNum) -> Option<u16> {
        let up = self.urgent.snd?;
        let at = seq.unwrap(self.snd.iss, self.snd.una)?;
        match up.since(at) {
            0 => None,
            distance @ 1..=FARTHEST => Some(distance as u16),
            _ if at.add(FARTHEST) > self.snd.nxt => Some(u16::MAX),
            _ => None,
        }
    }
}
