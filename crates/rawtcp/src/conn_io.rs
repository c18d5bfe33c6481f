//! The application's operations on a connection, with tokio's readiness rules.

use crate::conn_cell::{After, ConnCell, Inner};
use crate::error;
use crate::readiness::{Bits, Seen};
use crate::sync::{Arc, MutexGuard};
use bytes::{BufMut, Bytes};
use rawtcp_proto::{CloseReason, Connection, Instant, State, UserError};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::task::coop::poll_proceed;
use tokio::task::yield_now;

/// Packets that a writer sends by itself before the driver goes on, about as long as a task may run: four holds of single
/// packets, or 1.25 MiB in segmentable ones. A writer that leaves no backlog behind has the kernel copy what is in the cache
/// still, and wakes no driver.
const USER_PACKETS: usize = 64;

/// The most that one poll takes: what is written leaves while it is in the cache.
const PIECE: usize = 512 << 10;

/// A write of so many bytes is lent to the connection first, and copied when it has left: on a short path the peer has
/// acknowledged most of it by then. Of less it has not.
const LOAN: usize = 128 << 10;

/// A path whose least round trip is no longer: as long as it takes to send what one poll takes.
const SHORT_PATH: Duration = Duration::from_micros(200);

/// Bytes that a task may write before it gives way once: meanwhile acknowledgments are received, and the memory of what they
/// cover is written to again while it is in the cache.
const STRETCH: usize = 1 << 20;

/// So many lent bytes count as one: the connection's memory is not touched, and acknowledgments are taken by the writer. But the
/// driver has more to do than that.
const LENT_PER_COPIED: usize = 4;

/// What another connection counts as that a writer has served on the way: each may have sent a whole hold.
const OTHER: usize = STRETCH / 32;

/// A closing operation of one direction.
type Outcome<R> = Result<R, UserError>;

impl ConnCell {
    fn now(&self) -> Instant {
        self.host().clock.now()
    }

    /// Sends what an operation made possible, and wakes whom it concerns.
    fn conclude<'a>(self: &'a Arc<Self>, mut inner: MutexGuard<'a, Inner>, now: Instant, after: After) {
        inner.tail_waits = false;
        self.conclude_with(inner, now, &[], after);
    }

    /// The same with what is lent to the connection.
    fn conclude_with<'a>(
        self: &'a Arc<Self>,
        mut inner: MutexGuard<'a, Inner>,
        now: Instant,
        lent: &[u8],
        mut after: After,
    ) {
        let mut left = USER_PACKETS;
        loop {
            self.settle_with(&mut inner, now, lent, &mut after);
            left = left.saturating_sub(after.spent);
            if !after.again || left == 0 {
                drop(inner);
                return self.finish(after);
            }
            // More than one hold: others get the lock in between, and this thread goes on.
            inner.scheduled = false;
            after.again = false;
            drop(inner);
            self.finish(std::mem::take(&mut after));
            inner = self.lock();
        }
    }

    /// Runs an operation of a direction if that is ready, and clears the readiness if there was nothing.
    fn attempt<R>(
        &self,
        inner: &mut Inner,
        mask: Bits,
        after: &mut After,
        op: impl FnOnce(&mut Connection) -> Outcome<R>,
    ) -> Outcome<R> {
        if !inner.readiness.has(mask) {
            return Err(UserError::WouldBlock);
        }
        let result = op(&mut inner.conn);
        if matches!(result, Err(UserError::WouldBlock)) {
            self.exhausted(inner, mask, after);
        }
        result
    }

    /// An operation took all there was: clears the readiness, also that of segments which the driver has
    /// delivered but not settled yet, as the operation has seen them.
    fn exhausted(&self, inner: &mut Inner, mask: Bits, after: &mut After) {
        self.take_events(inner, after);
        let seen = inner.readiness.seen(mask);
        inner.readiness.clear(seen);
    }

    /// An operation that never waits.
    fn try_op<R>(
        self: &Arc<Self>,
        mask: Bits,
        op: impl FnOnce(&mut Connection, Instant) -> Outcome<R>,
    ) -> io::Result<R> {
        let mut inner = self.lock();
        if self.host().is_dead() {
            return Err(self.host().gone());
        }
        let now = self.now();
        let mut after = After::default();
        let before = inner.conn.unacked_len();
        let result = self.attempt(&mut inner, mask, &mut after, |conn| op(conn, now));
        if result.is_ok() {
            inner.stretch += inner.conn.unacked_len().saturating_sub(before);
            self.conclude(inner, now, after);
        } else {
            drop(inner);
            self.finish(after);
        }
        result.map_err(error::from_user)
    }

    /// An operation that keeps the task's waker until it can be done. `short` says of a result that it
    /// took all there was, which clears the readiness as WouldBlock does.
    fn poll_op<R>(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        mask: Bits,
        op: impl FnMut(&mut Connection, Instant) -> Outcome<R>,
        short: impl FnOnce(&R) -> bool,
    ) -> Poll<io::Result<R>> {
        self.poll_op_with(cx, mask, &[], op, short)
    }

    /// The same with what the operation may lend to the connection.
    fn poll_op_with<R>(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        mask: Bits,
        lent: &[u8],
        mut op: impl FnMut(&mut Connection, Instant) -> Outcome<R>,
        short: impl FnOnce(&R) -> bool,
    ) -> Poll<io::Result<R>> {
        let coop = ready!(poll_proceed(cx));
        let mut inner = self.lock();
        if self.host().is_dead() {
            return Poll::Ready(Err(self.host().gone()));
        }
        if mask == Bits::WRITE && inner.has_stretched() {
            drop(inner);
            // Behind the runtime's reactor and the driver.
            return pin!(yield_now()).poll(cx).map(|()| Err(io::ErrorKind::WouldBlock.into()));
        }
        let mut after = After::default();
        let before = inner.conn.unacked_len();
        // Looked at when there is something to do, which half of all calls have not.
        let mut clock = None;
        // The second round is for readiness that outlived its cause.
        loop {
            if !inner.readiness.has(mask) {
                let replaced = inner.readiness.register(mask, cx.waker());
                drop(inner);
                self.finish(after);
                drop(replaced);
                return Poll::Pending;
            }
            let now = *clock.get_or_insert_with(|| self.now());
            match self.attempt(&mut inner, mask, &mut after, |conn| op(conn, now)) {
                Err(UserError::WouldBlock) => {}
                Err(error) => {
                    drop(inner);
                    self.finish(after);
                    coop.made_progress();
                    return Poll::Ready(Err(error::from_user(error)));
                }
                Ok(result) => {
                    if short(&result) {
                        self.exhausted(&mut inner, mask, &mut after);
                    }
                    let written = inner.conn.unacked_len().saturating_sub(before);
                    inner.stretch += if lent.is_empty() { written } else { written / LENT_PER_COPIED };
                    inner.tail_waits = !lent.is_empty() && !inner.conn.nodelay() && self.hold_tail(now);
                    self.conclude_with(inner, now, lent, after);
                    coop.made_progress();
                    return Poll::Ready(Ok(result));
                }
            }
        }
    }

    pub(crate) fn poll_read(self: &Arc<Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wanted = buf.remaining();
        let read = |conn: &mut Connection, now| read_into(conn, now, buf);
        self.poll_op(cx, Bits::READ, read, |&n| 0 < n && n < wanted).map_ok(drop)
    }

    pub(crate) fn poll_peek(self: &Arc<Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        self.poll_op(cx, Bits::READ, |conn, _| peek_into(conn, buf), |_| false)
    }

    pub(crate) fn poll_write(self: &Arc<Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let buf = &buf[..buf.len().min(PIECE)];
        if buf.len() >= LOAN
            && let Some(device) = self.catches_up()
        {
            return self.poll_lend(cx, &[], buf, device, |&n| n < buf.len());
        }
        let write = |conn: &mut Connection, now| conn.write(now, buf);
        self.poll_op(cx, Bits::WRITE, write, |&n| 0 < n && n < buf.len())
    }

    /// A write that copies `buf` at its end, and of it what the peer has not acknowledged by then; what is `before` it is copied
    /// first.
    fn poll_lend(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        before: &[IoSlice<'_>],
        buf: &[u8],
        device: usize,
        short: impl FnOnce(&usize) -> bool,
    ) -> Poll<io::Result<usize>> {
        let loan = Loan { cell: self, buf, made: Cell::new(false) };
        let first = before.iter().map(|buf| buf.len()).sum();
        // There is no loan yet: whoever writes like this has the stream for itself.
        let write = |conn: &mut Connection, now| {
            let copied = write_all_of(conn, now, before)?;
            if copied < first {
                return Ok(copied);
            }
            match conn.lend(now, buf.len()) {
                Ok(n) => {
                    loan.made.set(true);
                    Ok(copied + n)
                }
                Err(UserError::WouldBlock) if copied > 0 => Ok(copied),
                Err(error) => Err(error),
            }
        };
        let written = self.poll_op_with(cx, Bits::WRITE, buf, write, short);
        if loan.made.get() {
            let others = self.host().catch_up(device).saturating_sub(1);
            if others > 0 {
                self.lock().stretch += others * OTHER;
            }
        }
        written
    }

    /// The device by which its packets come, if acknowledgments are likely to be there before a writer returns, and it can
    /// take them.
    fn catches_up(self: &Arc<Self>) -> Option<usize> {
        let inner = self.lock();
        let is_short = inner.conn.min_rtt().is_some_and(|rtt| rtt <= SHORT_PATH);
        let device = inner.device();
        drop(inner);
        (is_short && self.host().catches_up(device)).then_some(device)
    }

    /// Whether the tail of a write waits for the next one, or else for the driver's next turn: for one of many in a row.
    fn hold_tail(self: &Arc<Self>, now: Instant) -> bool {
        let post = &self.host().posts[self.driver()];
        let held = post.late.hold_tail(now, self);
        if held {
            post.kick();
        }
        held
    }

    /// A short write of several buffers clears nothing, as tokio's.
    pub(crate) fn poll_write_vectored(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(large) = bufs.iter().position(|buf| buf.len() >= LOAN)
            && let Some(device) = self.catches_up()
        {
            // What is behind it comes with the next write.
            let buf = &bufs[large][..bufs[large].len().min(PIECE)];
            return self.poll_lend(cx, &bufs[..large], buf, device, |_| false);
        }
        self.poll_op(cx, Bits::WRITE, |conn, now| write_all_of(conn, now, bufs), |_| false)
    }

    pub(crate) fn try_read(self: &Arc<Self>, buf: &mut [u8]) -> io::Result<usize> {
        self.try_op(Bits::READ, |conn, now| if buf.is_empty() { look(conn) } else { conn.read(now, buf) })
    }

    pub(crate) fn try_read_vectored(self: &Arc<Self>, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.try_op(Bits::READ, |conn, now| {
            let mut total = 0;
            for buf in bufs.iter_mut().filter(|buf| !buf.is_empty()) {
                // Only the first may report the end or an error: those come once.
                if total > 0 && conn.readable_len() == 0 {
                    break;
                }
                let n = conn.read(now, buf)?;
                total += n;
                if n < buf.len() {
                    break;
                }
            }
            Ok(total)
        })
    }

    /// Reads as much as there is, and as the buffer takes.
    pub(crate) fn try_read_buf(self: &Arc<Self>, buf: &mut impl BufMut) -> io::Result<usize> {
        // As tokio: the room that is there now, not what the buffer could grow to.
        let room = if buf.has_remaining_mut() { buf.chunk_mut().len() } else { 0 };
        let mut chunks = Vec::new();
        let total = self.try_op(Bits::READ, |conn, now| {
            if room == 0 {
                return look(conn);
            }
            let mut total = 0;
            while total < room {
                // As in `try_read`: only the first may report the end or an error.
                if total > 0 && conn.readable_len() == 0 {
                    break;
                }
                let Some(chunk) = conn.read_chunk(now, room - total)? else { break };
                total += chunk.len();
                chunks.push(chunk);
            }
            Ok(total)
        })?;
        // With the lock given back: the buffer is code of the caller's.
        chunks.iter().for_each(|chunk| buf.put_slice(chunk));
        Ok(total)
    }

    pub(crate) fn try_peek(self: &Arc<Self>, buf: &mut [u8]) -> io::Result<usize> {
        self.try_op(Bits::READ, |conn, _| if buf.is_empty() { look(conn) } else { conn.peek(buf) })
    }

    pub(crate) fn try_write(self: &Arc<Self>, buf: &[u8]) -> io::Result<usize> {
        self.try_op(Bits::WRITE, |conn, now| conn.write(now, buf))
    }

    pub(crate) fn try_write_vectored(self: &Arc<Self>, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_op(Bits::WRITE, |conn, now| write_all_of(conn, now, bufs))
    }

    pub(crate) fn try_write_more(self: &Arc<Self>, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_op(Bits::WRITE, |conn, now| {
            let written = write_all_of(conn, now, bufs)?;
            conn.hold_back();
            Ok(written)
        })
    }

    pub(crate) fn try_write_urgent(self: &Arc<Self>, buf: &[u8]) -> io::Result<usize> {
        self.try_op(Bits::WRITE, |conn, now| conn.write_urgent(now, buf))
    }

    pub(crate) fn try_read_chunk(self: &Arc<Self>, max: usize) -> io::Result<Option<Bytes>> {
        self.try_op(Bits::READ, |conn, now| {
            if max == 0 {
                return Ok(Some(Bytes::new()));
            }
            conn.read_chunk(now, max)
        })
    }

    pub(crate) fn try_write_bytes(self: &Arc<Self>, bytes: Bytes) -> io::Result<usize> {
        self.try_op(Bits::WRITE, |conn, now| conn.write_bytes(now, bytes))
    }

    /// Waits until the peer has acknowledged what has been written by now.
    pub(crate) fn acknowledged(self: &Arc<Self>) -> Acknowledged<'_> {
        let inner = self.lock();
        let bytes = inner.acked_bytes() + inner.conn.unacked_len() as u64;
        let fin = inner.conn.is_write_closed();
        Acknowledged { cell: self, bytes, fin, key: None }
    }

    /// Runs an operation of the caller's if one of these bits is set.
    pub(crate) fn try_io<R>(self: &Arc<Self>, mask: Bits, op: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        let seen = self.lock().readiness.seen(mask);
        if seen.bits.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let result = op();
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.lock().readiness.clear(seen);
        }
        result
    }

    fn has_stretched(self: &Arc<Self>) -> bool {
        self.lock().has_stretched()
    }

    /// Runs an operation of the caller's until it finds something.
    pub(crate) async fn async_io<R>(
        self: &Arc<Self>,
        mask: Bits,
        mut op: impl FnMut() -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            let seen = self.ready(mask).await?;
            if mask == Bits::WRITE && self.has_stretched() {
                yield_now().await;
            }
            let coop = poll_fn(poll_proceed).await;
            match op() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.lock().readiness.clear(seen),
                result => {
                    coop.made_progress();
                    return result;
                }
            }
        }
    }

    /// `poll_read_ready` and `poll_write_ready`.
    pub(crate) fn poll_ready(self: &Arc<Self>, cx: &mut Context<'_>, mask: Bits) -> Poll<io::Result<()>> {
        let coop = ready!(poll_proceed(cx));
        let mut inner = self.lock();
        if self.host().is_dead() {
            return Poll::Ready(Err(self.host().gone()));
        }
        if inner.readiness.has(mask) {
            coop.made_progress();
            return Poll::Ready(Ok(()));
        }
        let replaced = inner.readiness.register(mask, cx.waker());
        drop(inner);
        drop(replaced);
        Poll::Pending
    }

    /// Waits until one of these bits is set; any number of tasks may.
    pub(crate) fn ready(self: &Arc<Self>, mask: Bits) -> ReadyFuture<'_> {
        ReadyFuture { cell: self, mask, key: None }
    }

    /// Waits for the end of the handshake.
    pub(crate) async fn connected(self: &Arc<Self>) -> io::Result<()> {
        loop {
            let seen = self.ready(Bits::WRITE | Bits::ERROR).await?;
            poll_fn(poll_proceed).await.made_progress();
            let mut inner = self.lock();
            if inner.is_opening() {
                inner.readiness.clear(seen);
                continue;
            }
            if inner.conn.state() != State::Closed {
                return Ok(());
            }
            let reason = inner.conn.take_error().or(inner.conn.close_reason());
            return Err(reason.map_or_else(|| self.host().gone(), error::from_reason));
        }
    }

    /// FIN behind what was written; returns at once.
    pub(crate) fn shutdown(self: &Arc<Self>) -> io::Result<()> {
        let mut inner = self.lock();
        if self.host().is_dead() {
            return Err(self.host().gone());
        }
        let now = self.now();
        let result = inner.conn.shutdown(now);
        self.conclude(inner, now, After::default());
        match result {
            Ok(()) | Err(UserError::NotConnected) => Ok(()),
            Err(error) => Err(error::from_user(error)),
        }
    }

    /// A wait is over, or was given up.
    fn stop_waiting(self: &Arc<Self>, key: &mut Option<usize>) {
        if key.is_some() {
            let left = self.lock().readiness.waiters().leave(key);
            // Without the lock: it may be the last that holds a task, and that a stream.
            drop(left);
        }
    }

    /// Looks at, or changes, the connection.
    pub(crate) fn with<R>(self: &Arc<Self>, op: impl FnOnce(&mut Inner, Instant) -> R) -> R {
        let mut inner = self.lock();
        let now = self.now();
        let result = op(&mut inner, now);
        self.conclude(inner, now, After::default());
        result
    }
}

impl Inner {
    /// Whether the writer's task should give way, which it does once.
    fn has_stretched(&mut self) -> bool {
        let over = self.stretch >= STRETCH;
        if over {
            self.stretch = 0;
        }
        over
    }
}

/// What reading nothing finds: the kernel looks at the connection all the same.
fn look(conn: &mut Connection) -> Outcome<usize> {
    conn.peek(&mut [0]).map(|_| 0)
}

/// Copies what there is into a `ReadBuf`, of which no more is initialised than is filled.
fn read_into(conn: &mut Connection, now: Instant, buf: &mut ReadBuf<'_>) -> Outcome<usize> {
    if buf.remaining() == 0 {
        return look(conn);
    }
    let n = match buf.remaining().min(conn.readable_len()) {
        0 => conn.read(now, &mut [0])?,
        n => conn.read(now, buf.initialize_unfilled_to(n))?,
    };
    buf.advance(n);
    Ok(n)
}

fn peek_into(conn: &mut Connection, buf: &mut ReadBuf<'_>) -> Outcome<usize> {
    if buf.remaining() == 0 {
        return look(conn);
    }
    let n = match buf.remaining().min(conn.readable_len()) {
        0 => conn.peek(&mut [0])?,
        n => conn.peek(buf.initialize_unfilled_to(n))?,
    };
    buf.advance(n);
    Ok(n)
}

/// Writes as much of the buffers as there is room for. Only the first write can fail: nothing happens
/// to the connection in between.
fn write_all_of(conn: &mut Connection, now: Instant, bufs: &[IoSlice<'_>]) -> Outcome<usize> {
    let mut total = 0;
    for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
        match conn.write(now, buf) {
            Ok(n) => {
                total += n;
                if n < buf.len() {
                    return Ok(total);
                }
            }
            Err(UserError::WouldBlock) if total > 0 => return Ok(total),
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// What a writer has lent to a connection, which keeps its own copy of the rest behind it.
struct Loan<'a> {
    cell: &'a Arc<ConnCell>,
    buf: &'a [u8],
    made: Cell<bool>,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if !self.made.get() {
            return;
        }
        let mut inner = self.cell.lock();
        inner.stretch += inner.conn.keep(self.buf);
        // What others found to send meanwhile they have left to us.
        if !std::thread::panicking() {
            self.cell.conclude_with(inner, self.cell.now(), &[], After::default());
        } else if !std::mem::replace(&mut inner.scheduled, true) {
            drop(inner);
            self.cell.host().schedule(self.cell.clone());
        }
    }
}

/// A task's wait for readiness; leaves no trace when dropped. It takes none of the task's budget, as tokio's.
#[derive(Debug)]
pub(crate) struct ReadyFuture<'a> {
    cell: &'a Arc<ConnCell>,
    mask: Bits,
    key: Option<usize>,
}

impl Future for ReadyFuture<'_> {
    type Output = io::Result<Seen>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Seen>> {
        let this = self.get_mut();
        let mut inner = this.cell.lock();
        if this.cell.host().is_dead() {
            return Poll::Ready(Err(this.cell.host().gone()));
        }
        let seen = inner.readiness.seen(this.mask);
        // Whoever was woken is done, even if another task was faster and nothing is left: as tokio has it.
        let done = !seen.bits.is_empty() || inner.readiness.waiters().was_woken(this.key);
        let waiters = inner.readiness.waiters();
        let replaced =
            if done { waiters.leave(&mut this.key) } else { waiters.wait(&mut this.key, this.mask, cx.waker()) };
        drop(inner);
        drop(replaced);
        if done { Poll::Ready(Ok(seen)) } else { Poll::Pending }
    }
}

impl Drop for ReadyFuture<'_> {
    fn drop(&mut self) {
        self.cell.stop_waiting(&mut self.key);
    }
}

/// A task's wait for acknowledgments; leaves no trace when dropped.
#[derive(Debug)]
pub(crate) struct Acknowledged<'a> {
    cell: &'a Arc<ConnCell>,
    bytes: u64,
    fin: bool,
    key: Option<usize>,
}

impl Future for Acknowledged<'_> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let coop = ready!(poll_proceed(cx));
        let this = self.get_mut();
        let mut inner = this.cell.lock();
        let failed = inner.conn.close_reason().filter(|&reason| reason != CloseReason::Graceful);
        let result =
            if inner.acked_bytes() >= this.bytes && (!this.fin || inner.conn.is_all_acked() && failed.is_none()) {
                Ok(())
            } else if let Some(reason) = failed {
                Err(error::from_reason(reason))
            } else if this.cell.host().is_dead() || inner.conn.state() == State::Closed {
                Err(this.cell.host().gone())
            } else {
                inner.watch_acks();
                let replaced = inner.readiness.waiters().wait(&mut this.key, Bits::ACKED, cx.waker());
                drop(inner);
                drop(replaced);
                return Poll::Pending;
            };
        drop(inner);
        this.cell.stop_waiting(&mut this.key);
        coop.made_progress();
        Poll::Ready(result)
    }
}

impl Drop for Acknowledged<'_> {
    fn drop(&mut self) {
        self.cell.stop_waiting(&mut self.key);
    }
}
