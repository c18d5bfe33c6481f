//! What the tests share: a byte pattern that says where it is, kernel peers, roles for child processes.

use rawtcp::{Stack, StackBuilder};
use rawtcp_lab::capture::{Recording, TcpSegment};
use rawtcp_lab::netns::Task;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, ExitCode};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(crate) type Failure = Box<dyn Error + Send + Sync>;
pub(crate) type Outcome = Result<(), Failure>;

/// No single wait of a test is longer: something that takes this long hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A prime, so that the pattern lines up with no buffer or segment size.
const PERIOD: usize = 65_521;
const BLOCK: usize = 128 * 1024;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    let period: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
    period.iter().copied().cycle().take(PERIOD + BLOCK).collect()
});

/// The bytes of the pattern at `offset`.
pub(crate) fn pattern(offset: u64, len: usize) -> &'static [u8] {
    let at = (offset % PERIOD as u64) as usize;
    &PATTERN[at..at + len.min(BLOCK)]
}

/// The bytes of the pattern from `from` to before `to`.
pub(crate) fn pattern_from(from: u64, to: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity((to - from) as usize);
    while from + (bytes.len() as u64) < to {
        let at = from + bytes.len() as u64;
        bytes.extend_from_slice(pattern(at, (to - at) as usize));
    }
    bytes
}

/// Writes the first `len` bytes of the pattern, from memory that is used anew once it is written.
pub(crate) async fn send<W: AsyncWrite + Unpin>(to: &mut W, len: u64) -> io::Result<()> {
    const MOST: usize = 2 * BLOCK;
    let (mut sent, mut block) = (0, Vec::with_capacity(MOST));
    while sent < len {
        block.clear();
        let end = len.min(sent + MOST as u64);
        while sent < end {
            let part = pattern(sent, (end - sent) as usize);
            block.extend_from_slice(part);
            sent += part.len() as u64;
        }
        to.write_all(&block).await?;
    }
    Ok(())
}

/// Reads to the end of the stream; every byte must be the pattern's. Answers how many there were.
pub(crate) async fn receive<R: AsyncRead + Unpin>(from: &mut R) -> io::Result<u64> {
    receive_up_to(from, u64::MAX).await
}

/// As [`receive`], but stops after `most` bytes.
pub(crate) async fn receive_up_to<R: AsyncRead + Unpin>(from: &mut R, most: u64) -> io::Result<u64> {
    let mut buf = vec![0; BLOCK];
    let mut got = 0;
    while got < most {
        let room = buf.len().min((most - got) as usize);
        let n = from.read(&mut buf[..room]).await?;
        if n == 0 {
            break;
        }
        if buf[..n] != *pattern(got, n) {
            let at = (0..n).find(|&i| buf[i] != pattern(got, n)[i]).unwrap_or(0);
            let text = format!("byte {} differs from what was sent", got + at as u64);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        got += n as u64;
    }
    Ok(got)
}

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing for {PATIENCE:?}"),
    }
}

/// Waits for what a task says. If it ends without a word, its own error is why.
pub(crate) fn hear<M, T, E: Into<Failure>>(
    from: &Receiver<M>,
    task: Task<Result<T, E>>,
) -> Result<(M, Task<Result<T, E>>), Failure> {
    loop {
        let is_over = task.is_finished();
        match from.recv_timeout(Duration::from_millis(10)) {
            Ok(message) => return Ok((message, task)),
            // Somebody else may have the channel's other end, too.
            Err(RecvTimeoutError::Timeout) if !is_over => {}
            Err(_) => return Err(task.join().map_or_else(Into::into, |_| "a task has ended without a word".into())),
        }
    }
}

/// The same, where only that it has spoken matters.
pub(crate) fn once_told<T, E: Into<Failure>>(
    from: &Receiver<()>,
    task: Task<Result<T, E>>,
) -> Result<Task<Result<T, E>>, Failure> {
    hear(from, task).map(|((), task)| task)
}

pub(crate) fn addr(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A kernel listener that says nothing of its backlog: std's 128.
pub(crate) async fn kernel_listener(at: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(at).await
}

/// A stack by the device that `RAWTCP_DEVICE` names: the whole suite runs over any of them.
pub(crate) fn stack() -> io::Result<Stack> {
    builder().build()
}

pub(crate) fn builder() -> StackBuilder {
    StackBuilder::from_env().expect("RAWTCP_DEVICE names a device")
}

/// Segments of one connection or port, seen from the interface where they were recorded.
pub(crate) fn of_port(recording: &Recording, port: u16) -> Vec<TcpSegment> {
    recording.segments().into_iter().filter(|s| s.src.port() == port || s.dst.port() == port).collect()
}

/// The kernel of this thread's namespace, in which only rawtcp talks TCP, has nothing to reset as long as the stack
/// is there. Its own count of RSTs sent does not contain ours: they leave by raw sockets.
pub(crate) fn assert_kernel_sent_no_reset() -> Outcome {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (names, values) = (lines.next().ok_or("no names")?, lines.next().ok_or("no values")?);
    let resets = names.zip(values).find(|(name, _)| *name == "OutRsts").ok_or("no OutRsts")?.1;
    assert_eq!(resets, "0", "RSTs sent by the kernel");
    Ok(())
}

/// What tests [need](rawtcp_lab::harness::Test::needing) that look at the firewall, or change it.
pub(crate) fn nft() -> io::Result<()> {
    program("nft", "--version", "nftables")
}

/// What tests need that change addresses and routes as an administrator does.
pub(crate) fn iproute2() -> io::Result<()> {
    program("ip", "-V", "iproute2")
}

/// Both.
pub(crate) fn nft_and_iproute2() -> io::Result<()> {
    nft().and_then(|()| iproute2())
}

fn program(name: &str, harmless: &str, package: &str) -> io::Result<()> {
    Command::new(name)
        .arg(harmless)
        .output()
        .map(drop)
        .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}; install {package}")))
}

/// This program again, in a role of its own.
pub(crate) fn role(name: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env("RAWTCP_TEST_ROLE", name);
    Ok(command)
}

/// As many descriptors as may be had: the kernel's ends of thousands of connections are in this process, too.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused only where it is not lower than before.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// What a child process does.
pub(crate) fn play(role: &str) -> ExitCode {
    let mut words = role.split(' ');
    let result = match (words.next(), words.next()) {
        (Some("serve"), Some(at)) => crate::ownership::serve_for_ever(at),
        (Some("send-and-return"), Some(at)) => crate::ending::send_and_return(at),
        (Some("fill"), Some(at)) => crate::back_pressure::fill(at),
        (Some("hold"), Some(at)) => crate::load::hold(at),
        (Some("reconnect"), Some(at)) => crate::churn::reconnect(at),
        (Some("without-privilege"), Some(at)) => crate::errors::without_privilege(at),
        (Some("tun-without-privilege"), Some(interface)) => crate::tun::without_privilege(interface),
        _ => Err(format!("no such role: {role}").into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{role}: {error}");
            ExitCode::FAILURE
        }
    }
}
