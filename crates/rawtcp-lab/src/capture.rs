//! What was on the wire: a recorder on an interface, its frames as parsed TCP segments and as pcapng.
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! use rawtcp_lab::capture::Capture;
//! use rawtcp_lab::topology::{INTERFACE, Pair};
//!
//! let pair = Pair::new()?;
//! let capture = Capture::start(&pair.server, INTERFACE)?;
//! // … traffic …
//! let recording = capture.stop()?;
//! assert_eq!(recording.drops, 0, "the capture is complete");
//! assert!(!recording.segments().iter().any(|segment| segment.flags.rst()));
//! # Ok(()) }
//! ```

use std::fs::File;
use std::io::{self, BufWriter, PipeReader, PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rawtcp_io::afpacket_raw::{PacketOptions, PacketSocket};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{SockFilter, SockRef};

use crate::netns::Namespace;

pub mod pcapng;
mod segment;

pub use segment::{TcpFlags, TcpSegment};

/// How to record.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// Bytes kept of each frame. The default of 256 holds all headers.
    pub snap_length: usize,
    /// Frames kept in memory; later ones only go to the file, and are counted. The default is 1,000,000.
    pub frames: usize,
    /// Also write everything to this pcapng file, as it comes.
    pub file: Option<PathBuf>,
    /// Only TCP from or to this port; the kernel sorts out the rest.
    pub port: Option<u16>,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self { snap_length: 256, frames: 1_000_000, file: None, port: None }
    }
}

/// An Ethernet frame that passed the interface.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When, by the kernel's wall clock.
    pub time: SystemTime,
    /// Sent by the host whose interface it is, as opposed to received.
    pub outgoing: bool,
    /// Its length on the wire; above the MTU where offloads are at work.
    pub length: usize,
    /// Its first bytes.
    pub data: Bytes,
}

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The frames, in order.
    pub frames: Vec<Frame>,
    /// Frames which the recorder missed, because it did not keep up. **Should be zero.**
    pub drops: u64,
    /// Frames which did not fit into memory any more.
    pub not_kept: u64,
}

impl Recording {
    /// The TCP segments among the frames; anything else is left out, and so are fragments.
    pub fn segments(&self) -> Vec<TcpSegment> {
        self.frames.iter().filter_map(TcpSegment::parse).collect()
    }

    /// Writes all of it to a pcapng file.
    pub fn write_pcapng(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let mut writer = pcapng::Writer::new(BufWriter::new(File::create(path)?))?;
        self.frames.iter().try_for_each(|frame| writer.frame(frame))?;
        writer.finish(self.drops)?.flush()
    }
}

/// A recorder at work. Dropping it ends it, too.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    /// Its end stops the thread.
    alive: Option<PipeWriter>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    recording: Mutex<Recording>,
    more: Condvar,
}

impl Capture {
    /// Records what passes `interface` of `namespace`, with the default options.
    pub fn start(namespace: &Namespace, interface: &str) -> io::Result<Self> {
        Self::start_with(namespace, interface, CaptureOptions::default())
    }

    /// Records what passes `interface` of `namespace`. What is sent after this returned is in the recording.
    pub fn start_with(namespace: &Namespace, interface: &str, options: CaptureOptions) -> io::Result<Self> {
        let index = namespace.interface_index(interface)?;
        let socket = namespace.run(|| {
            let receive_buffer = 64 << 20;
            let options = PacketOptions { outgoing: true, timestamps: true, receive_buffer, ..Default::default() };
            PacketSocket::bind(index, options)
        })?;
        if let Some(port) = options.port {
            SockRef::from(&socket).attach_filter(&only(port))?;
            // What came before the filter was there.
            while next_frame(&socket, &mut [])?.is_some() {}
        }
        let file = match &options.file {
            None => None,
            Some(path) => Some(pcapng::Writer::new(BufWriter::new(File::create(path)?))?),
        };
        let shared = Arc::new(Shared::default());
        let (stop, alive) = io::pipe()?;
        let thread = thread::Builder::new().name("capture".into()).spawn({
            let shared = shared.clone();
            move || record(&shared, &socket, stop, &options, file)
        })?;
        Ok(Self { shared, alive: Some(alive), thread: Some(thread) })
    }

    /// The TCP segments so far.
    pub fn segments(&self) -> Vec<TcpSegment> {
        self.shared.lock().segments()
    }

    /// Waits until a segment was recorded that `is_it` accepts, and returns the first such; `None` after `timeout`.
    pub fn wait_for(&self, timeout: Duration, mut is_it: impl FnMut(&TcpSegment) -> bool) -> Option<TcpSegment> {
        let deadline = Instant::now() + timeout;
        let mut looked = 0;
        let mut recording = self.shared.lock();
        loop {
            let found = recording.frames[looked..].iter().filter_map(TcpSegment::parse).find(&mut is_it);
            if found.is_some() {
                return found;
            }
            looked = recording.frames.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.shared.more.wait_timeout(recording, left);
            recording = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the recording. Everything that passed before is in it.
    pub fn stop(mut self) -> io::Result<Recording> {
        self.end()?;
        Ok(std::mem::take(&mut *self.shared.lock()))
    }

    fn end(&mut self) -> io::Result<()> {
        self.alive = None;
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the recorder's thread panicked")),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("capture: {error}");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Recording> {
        // Frames are pushed whole, so that a recording is sound even after a panic.
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The recorder's thread.
fn record(
    shared: &Shared,
    socket: &PacketSocket,
    stop: PipeReader,
    options: &CaptureOptions,
    mut file: Option<pcapng::Writer<BufWriter<File>>>,
) -> io::Result<()> {
    let mut buffer = vec![0; options.snap_length];
    let mut stopping = false;
    loop {
        // What came before the end is in the queue by then, so it is looked at once more after the end was seen.
        while let Some(frame) = next_frame(socket, &mut buffer)? {
            if let Some(file) = &mut file {
                file.frame(&frame)?;
            }
            let mut recording = shared.lock();
            if recording.frames.len() < options.frames {
                recording.frames.push(frame);
            } else {
                recording.not_kept += 1;
            }
            drop(recording);
            shared.more.notify_all();
        }
        if stopping {
            break;
        }
        let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(&stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => stopping = !fds[1].revents().is_empty(),
            Err(errno) => return Err(errno.into()),
        }
    }
    let drops = socket.drops()?;
    shared.lock().drops = drops;
    match file {
        Some(file) => file.finish(drops)?.flush(),
        None => Ok(()),
    }
}

/// Classic BPF that lets TCP from or to a port pass, by IPv4 or by IPv6 without extension headers.
fn only(port: u16) -> [SockFilter; 18] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_BEHIND: u16 = 0x48;
    const LOAD_BYTE: u16 = 0x30;
    const SKIP_IPV4: u16 = 0xb1;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let port = u32::from(port);
    [
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(EQUAL, 0, 7, 0x0800),
        SockFilter::new(LOAD_BYTE, 0, 0, 23),
        SockFilter::new(EQUAL, 0, 13, 6),
        SockFilter::new(SKIP_IPV4, 0, 0, 14),
        SockFilter::new(LOAD_HALF_BEHIND, 0, 0, 14),
        SockFilter::new(EQUAL, 9, 0, port),
        SockFilter::new(LOAD_HALF_BEHIND, 0, 0, 16),
        SockFilter::new(EQUAL, 7, 8, port),
        SockFilter::new(EQUAL, 0, 7, 0x86dd),
        SockFilter::new(LOAD_BYTE, 0, 0, 20),
        SockFilter::new(EQUAL, 0, 5, 6),
        SockFilter::new(LOAD_HALF, 0, 0, 54),
        SockFilter::new(EQUAL, 2, 0, port),
        SockFilter::new(LOAD_HALF, 0, 0, 56),
        SockFilter::new(EQUAL, 0, 1, port),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

fn next_frame(socket: &PacketSocket, buffer: &mut [u8]) -> io::Result<Option<Frame>> {
    match socket.recv(buffer) {
        Ok(received) => Ok(Some(Frame {
            time: received.time.unwrap_or_else(SystemTime::now),
            outgoing: received.outgoing,
            length: received.length,
            data: Bytes::copy_from_slice(&buffer[..received.length.min(buffer.len())]),
        })),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        // An interface that goes down says so once.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NETDOWN.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}
