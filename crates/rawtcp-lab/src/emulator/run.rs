//! The emulator's thread: receive, send what is due, wait.

use std::io::{self, PipeReader};
use std::num::NonZeroU64;
use std::sync::Mutex;
use std::time::SystemTime;

use bytes::Bytes;
use rawtcp_io::afpacket_raw::PacketSocket;
use rawtcp_proto::time::{Duration, Instant};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::{Core, lock, offload};

/// Frames moved in one direction before the other one gets its turn. A send takes several microseconds, because it runs
/// the receiving host's side of the kernel; a receive queue must not overflow meanwhile.
const BATCH: usize = 32;

/// The longest frame the kernel makes (IPv6 with "big TCP").
const LONGEST_FRAME: usize = 512 * 1024;

/// Moves frames until the other end of `stop` is closed.
pub(super) fn run(core: &Mutex<Core>, sockets: &[PacketSocket; 2], stop: PipeReader, spin: Duration) -> io::Result<()> {
    // By default the kernel lets threads wake up to 50 µs late.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let mut buffer = vec![0; LONGEST_FRAME];
    let mut newest = [Instant::ZERO; 2];
    loop {
        let (idle, next) = {
            let mut core = lock(core);
            let mut moved = 0;
            for (from, socket) in sockets.iter().enumerate() {
                moved += receive(&mut core, from, socket, &mut buffer, &mut newest[from])?;
                moved += send_due(&mut core, from, &sockets[1 - from])?;
            }
            (moved == 0, core.links.iter().filter_map(|link| link.next_due()).min())
        };
        if idle && wait(sockets, &stop, next, spin)? {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            lock(core).cpu = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
            return Ok(());
        }
    }
}

/// Takes what has come from one host into its link.
fn receive(
    core: &mut Core,
    from: usize,
    socket: &PacketSocket,
    buffer: &mut [u8],
    newest: &mut Instant,
) -> io::Result<usize> {
    for count in 0..BATCH {
        let received = match socket.recv(buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
            // An interface that goes down says so once; frames come again when it is up.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NETDOWN.raw_os_error()) => return Ok(count),
            Err(error) => return Err(error),
        };
        let Some(frame) = buffer.get_mut(..received.length) else {
            core.not_segmented += 1;
            continue;
        };
        // The link must not see time run backwards, and the wall clock may jump.
        *newest = arrival(received.time).max(*newest);
        let link = &mut core.links[from];
        match offload::finish(frame, &received.offload, |frame| link.push(*newest, Bytes::copy_from_slice(frame))) {
            offload::Finished::Whole => {}
            offload::Finished::Checksummed => core.checksummed += 1,
            offload::Finished::Segmented => core.segmented += 1,
            offload::Finished::Unknown => core.not_segmented += 1,
        }
    }
    Ok(BATCH)
}

/// Puts what is due onto the other host's interface.
fn send_due(core: &mut Core, from: usize, to: &PacketSocket) -> io::Result<usize> {
    for count in 0..BATCH {
        let now = now();
        let Some(due) = core.links[from].next_due().filter(|due| *due <= now) else {
            return Ok(count);
        };
        let Some(frame) = core.links[from].pop_due(now) else {
            return Ok(count);
        };
        core.lateness.saturating_record(now.since(due).as_nanos() as u64);
        if to.send(&frame).is_err() {
            core.send_errors += 1;
        }
    }
    Ok(BATCH)
}

/// Waits for a frame or until `next` is (nearly) due; whether it is time to stop.
fn wait(sockets: &[PacketSocket; 2], stop: &PipeReader, next: Option<Instant>, spin: Duration) -> io::Result<bool> {
    let timeout = match next.map(|next| next.since(now())) {
        None => None,
        Some(left) if left <= spin => {
            std::hint::spin_loop();
            return Ok(false);
        }
        Some(left) => Some(Timespec::try_from(left - spin).map_err(io::Error::other)?),
    };
    let mut fds = [
        PollFd::new(&sockets[0], PollFlags::IN),
        PollFd::new(&sockets[1], PollFlags::IN),
        PollFd::new(stop, PollFlags::IN),
    ];
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!fds[2].revents().is_empty()),
        Err(errno) => Err(errno.into()),
    }
}

/// The monotonic clock.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_secs(time.tv_sec as u64) + Duration::from_nanos(time.tv_nsec as u64)
}

/// When a frame came, by the monotonic clock. The kernel stamps by the wall clock, so what counts is its age; an age that
/// can not be is the wall clock's jump, and none.
fn arrival(stamp: Option<SystemTime>) -> Instant {
    let age = stamp.and_then(|stamp| SystemTime::now().duration_since(stamp).ok()).unwrap_or_default();
    let age = if age < Duration::from_secs(1) { age } else { Duration::ZERO };
    now() - age
}
