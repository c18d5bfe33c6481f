//! What a [`TcpStream`] has beyond tokio's surface for urgent data and for holding segments back.

use super::TcpStream;
use crate::events::Events;
use crate::readiness::Bits;
use std::io::{self, IoSlice};

/// Urgent data (RFC 9293 §3.8.5). RFC 6093 advises new programs against it.
impl TcpStream {
    /// Writes as [`try_write`](Self::try_write); what was written up to its end is urgent: the peer's program is told
    /// that there is something to hurry for, at once and whatever waits before it (`send` with `MSG_OOB`). Not in tokio.
    ///
    /// # Errors
    /// `WouldBlock` if the stream is not ready.
    pub fn try_write_urgent(&self, buf: &[u8]) -> io::Result<usize> {
        self.cell().try_write_urgent(buf)
    }

    /// As [`try_write_urgent`](Self::try_write_urgent), all of the bytes. As `write_all` it is not cancel safe. Not in
    /// tokio.
    pub async fn write_urgent(&mut self, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let n = self.cell().async_io(Bits::WRITE, || self.try_write_urgent(buf)).await?;
            buf = &buf[n..];
        }
        Ok(())
    }

    /// How many bytes are to be read up to the end of the urgent data that the peer has announced, some of which may
    /// not have arrived; `None` when there is none, or it was read. Not in tokio.
    pub fn urgent_ahead(&self) -> Option<u64> {
        self.cell().lock().conn.urgent_ahead()
    }

    /// Waits until the peer announces urgent data, or more of it, and says how many bytes there are to be read up to
    /// its end; `None` at the end of the stream. The same news is [`Interest::PRIORITY`](tokio::io::Interest::PRIORITY)
    /// to [`ready`](Self::ready). Cancel safe. Not in tokio.
    pub async fn urgent(&self) -> io::Result<Option<u64>> {
        loop {
            let seen = self.cell().ready(Bits::PRIORITY | Bits::READ_CLOSED).await?;
            let mut inner = self.cell().lock();
            if !seen.bits.intersects(Bits::PRIORITY) {
                return Ok(inner.conn.urgent_ahead());
            }
            inner.readiness.clear(seen.only(Bits::PRIORITY));
            // What was announced may have been read meanwhile.
            if let Some(ahead) = inner.conn.urgent_ahead() {
                return Ok(Some(ahead));
            }
        }
    }

    /// The last urgent byte, where [`set_urgent_inline`](Self::set_urgent_inline) keeps it out of the stream (`recv`
    /// with `MSG_OOB`). Not in tokio.
    ///
    /// # Errors
    /// `WouldBlock` if it was announced and has not arrived; `InvalidInput` if there is none, it was read, or urgent
    /// data is in line.
    pub fn try_read_urgent(&self) -> io::Result<u8> {
        self.cell().lock().conn.read_urgent().map_err(crate::error::from_user)
    }

    /// Whether urgent data stays in the stream, as it does at first (SO_OOBINLINE; RFC 6093 §6). Otherwise its last byte
    /// is taken out, as from a kernel socket at first. Not in tokio.
    pub fn set_urgent_inline(&self, inline: bool) -> io::Result<()> {
        self.cell().lock().conn.set_urgent_inline(inline);
        Ok(())
    }
}

/// What the connection does.
impl TcpStream {
    /// Says from now on what the connection does and why: its changes of state, what it sends again, its congestion
    /// window, its timers. At most `capacity` events wait to be taken; the oldest go first. One can listen at a time:
    /// a later call takes the place of an earlier one. The same goes to `tracing`, as events of the level TRACE and the
    /// target `rawtcp::tcp`, where that is switched on when the connection begins. Not in tokio.
    pub fn events(&self, capacity: usize) -> Events {
        Events::listen(self.cell(), capacity)
    }
}

/// Holding back what does not fill a segment.
impl TcpStream {
    /// Sends full segments only, until it is switched off again, the stream is shut down, or what waits has waited
    /// for 200 ms (TCP_CORK). Not in tokio.
    pub fn set_cork(&self, cork: bool) -> io::Result<()> {
        self.cell().with(|inner, _| inner.conn.set_cork(cork));
        Ok(())
    }

    /// Whether full segments only are sent. Not in tokio.
    pub fn cork(&self) -> io::Result<bool> {
        Ok(self.cell().lock().conn.is_corked())
    }

    /// As [`try_write`](Self::try_write), and more will follow: what does not fill a segment waits for the next
    /// write, but not for more than 200 ms (`send` with `MSG_MORE`). Not in tokio.
    ///
    /// # Errors
    /// `WouldBlock` if the stream is not ready.
    pub fn try_write_more(&self, buf: &[u8]) -> io::Result<usize> {
        self.cell().try_write_more(&[IoSlice::new(buf)])
    }
}
