//! Waiting without a runtime: poll(2), and an eventfd to be woken by other threads.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::io::Errno;

use crate::timer::monotonic_nanos;

/// One descriptor to wait for, and what [`poll`] found out about it.
#[derive(Clone, Debug)]
pub struct Interest<'fd> {
    fd: PollFd<'fd>,
}

impl<'fd> Interest<'fd> {
    /// Waits until reading would not block.
    pub fn readable(fd: BorrowedFd<'fd>) -> Self {
        Self { fd: PollFd::from_borrowed_fd(fd, PollFlags::IN) }
    }

    /// Waits until writing would not block.
    pub fn writable(fd: BorrowedFd<'fd>) -> Self {
        Self { fd: PollFd::from_borrowed_fd(fd, PollFlags::OUT) }
    }

    /// Whether anything was found, errors included.
    pub fn is_ready(&self) -> bool {
        !self.fd.revents().is_empty()
    }

    /// Whether reading would not block; an error counts as readable, since reading tells it.
    pub fn is_readable(&self) -> bool {
        self.fd.revents().intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP)
    }

    /// Whether writing would not block.
    pub fn is_writable(&self) -> bool {
        self.fd.revents().intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP)
    }
}

/// Waits until at least one descriptor is ready or the time is over (`None`: forever). Returns how many are ready.
/// Signals do not end the wait.
pub fn poll(interests: &mut [Interest<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let deadline =
        timeout.map(|timeout| monotonic_nanos().saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)));
    let mut fds: Vec<PollFd<'_>> = interests.iter().map(|interest| interest.fd.clone()).collect();
    loop {
        let left = deadline.map(|deadline| {
            let nanos = deadline.saturating_sub(monotonic_nanos());
            // No kernel takes more seconds than fit an i64 of nanoseconds.
            let nanos = nanos.min(i64::MAX as u64);
            Timespec { tv_sec: (nanos / 1_000_000_000) as _, tv_nsec: (nanos % 1_000_000_000) as _ }
        });
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(ready) => {
                for (interest, fd) in interests.iter_mut().zip(fds) {
                    interest.fd = fd;
                }
                return Ok(ready);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A descriptor that other threads make readable. As a [`Wake`] it turns a waiting thread into a
/// [`Waker`](std::task::Waker): `Waker::from(Arc::new(EventFd::new()?))`.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Not readable at first.
    ///
    /// # Errors
    /// Descriptors or memory have run out.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes the descriptor readable.
    pub fn notify(&self) {
        // The only possible error is a full counter, and then it is readable already.
        let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.0, &1_u64.to_ne_bytes()));
    }

    /// Makes the descriptor unreadable. Returns whether it was readable.
    pub fn clear(&self) -> bool {
        rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut [0_u8; 8])).is_ok()
    }
}

impl Wake for EventFd {
    fn wake(self: Arc<Self>) {
        self.notify();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn another_thread_wakes_a_poll() {
        let event = Arc::new(EventFd::new().unwrap());
        let waker = Waker::from(event.clone());
        let thread = std::thread::spawn(move || waker.wake());
        let mut interests = [Interest::readable(event.as_fd())];
        assert_eq!(poll(&mut interests, Some(Duration::from_secs(10))).unwrap(), 1);
        assert!(interests[0].is_readable() && !interests[0].is_writable());
        thread.join().unwrap();
        assert!(event.clear() && !event.clear());
        assert_eq!(poll(&mut interests, Some(Duration::ZERO)).unwrap(), 0);
        assert!(!interests[0].is_ready());
    }

    #[test]
    fn a_poll_ends_in_time() {
        let event = EventFd::new().unwrap();
        let start = monotonic_nanos();
        assert_eq!(poll(&mut [Interest::readable(event.as_fd())], Some(Duration::from_millis(3))).unwrap(), 0);
        assert!(monotonic_nanos() - start >= 3_000_000);
    }
}
