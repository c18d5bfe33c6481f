//! Programs that run as processes in a namespace, and clients that watch them.

use crate::{PATIENCE, ROLE};
use rawtcp_lab::netns::{Namespace, Program};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Instant;

/// A program of ours, its output line by line.
pub(crate) struct Running {
    program: Program,
    stdout: Receiver<String>,
    stderr: JoinHandle<io::Result<String>>,
}

impl Running {
    /// Starts one of the programs that this test program can be.
    pub(crate) fn start(host: &Namespace, role: &str, arguments: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).env(ROLE, role);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = host.start(&mut command)?;
        let missing = || io::Error::other("no pipe");
        let out = program.child().stdout.take().ok_or_else(missing)?;
        let mut err = program.child().stderr.take().ok_or_else(missing)?;
        let (sender, stdout) = channel();
        std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            err.read_to_string(&mut text).map(|_| text)
        });
        Ok(Running { program, stdout, stderr })
    }

    /// Starts a server, and waits until it says where it listens.
    pub(crate) fn serve(host: &Namespace, role: &str, arguments: &[&str]) -> io::Result<(Self, SocketAddr)> {
        let server = Running::start(host, role, arguments)?;
        let line = server.line();
        let at = line.strip_prefix("listening on ").and_then(|at| at.parse().ok());
        Ok((server, at.unwrap_or_else(|| panic!("{role} says {line}"))))
    }

    /// The next line that it prints.
    pub(crate) fn line(&self) -> String {
        match self.stdout.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!("no line of the program: {error}"),
        }
    }

    /// Its standard input.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.program.child().stdin.take().expect("taken once")
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        let pid = Pid::from_child(self.program.child());
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for its end: what it printed that was not asked for yet, what went to standard error, and its exit code.
    pub(crate) fn end(mut self) -> io::Result<(Vec<String>, String, Option<i32>)> {
        drop(self.program.child().stdin.take());
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        // Both pipes are closed when it has ended.
        while let Ok(line) = self.stdout.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            lines.push(line);
        }
        assert!(Instant::now() < deadline, "the program does not end");
        let errors = self.stderr.join().expect("the reader does not panic")?;
        Ok((lines, errors, self.program.wait()?.code()))
    }

    /// Asks it to end by `signal`, which it has to do without a complaint.
    pub(crate) fn stop(mut self, signal: Signal) -> io::Result<Vec<String>> {
        self.signal(signal)?;
        let (lines, errors, code) = self.end()?;
        assert_eq!((errors.as_str(), code), ("", Some(0)));
        Ok(lines)
    }
}

/// A client on the kernel's TCP that never waits longer than [`PATIENCE`].
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(to: SocketAddr) -> io::Result<Self> {
        Client::of(TcpStream::connect_timeout(&to, PATIENCE)?)
    }

    fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub(crate) fn say(&mut self, text: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(text.as_bytes())
    }

    /// The next so many bytes.
    pub(crate) fn take(&mut self, length: usize) -> io::Result<String> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The next line, without its end.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        assert!(line.ends_with('\n'), "the stream has ended after {line:?}");
        Ok(line.trim_end().to_owned())
    }

    /// Ends our direction.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)
    }

    /// Everything up to the end of the stream.
    pub(crate) fn rest(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.stream.read_to_string(&mut text).map(|_| text)
    }

    /// Closes with a RST.
    pub(crate) fn reset(self) -> io::Result<()> {
        socket2::SockRef::from(self.stream.get_ref()).set_linger(Some(std::time::Duration::ZERO))
    }
}

/// A server on the kernel's TCP for one client after the other.
pub(crate) struct Server {
    listener: TcpListener,
}

impl Server {
    pub(crate) fn bind() -> io::Result<Self> {
        Ok(Server { listener: TcpListener::bind("127.0.0.1:0")? })
    }

    pub(crate) fn at(&self) -> String {
        self.listener.local_addr().expect("a listener has an address").to_string()
    }

    pub(crate) fn accept(&self) -> io::Result<Client> {
        // A timeout for accept, too.
        socket2::SockRef::from(&self.listener).set_read_timeout(Some(PATIENCE))?;
        Client::of(self.listener.accept()?.0)
    }
}

/// Waits until nobody listens there any more. A listener that was closed lives on for a moment in any child process that
/// another thread is just starting, and takes connections which it then resets.
pub(crate) fn until_refused(at: &str) -> io::Result<()> {
    loop {
        match TcpStream::connect(at) {
            Ok(stream) => drop(Client::of(stream).and_then(|mut client| client.rest())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// An address where nobody listens.
pub(crate) fn nowhere() -> io::Result<String> {
    let at = Server::bind()?.at();
    until_refused(&at)?;
    Ok(at)
}
