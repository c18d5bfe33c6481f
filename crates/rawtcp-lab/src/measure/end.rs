//! An end of an experiment: a process of its own in a namespace, as its parent sees it.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rawtcp_lab::netns::{Namespace, Program};

use super::control::Word;
use super::cpu::Machine;
use super::net::Whose;
use super::{Metrics, of_both};
use crate::bench::tun;
use crate::role::Job;

/// How long an end may take beyond what it was asked to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// How our ends are started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    /// `RAWTCP_DEVICE`; `None`: the stack's default.
    pub(crate) device: Option<String>,
    /// Each end has a TUN interface with addresses of its own.
    pub(crate) tun: bool,
    /// Words in front of the command, such as a profiler.
    pub(crate) wrap: Vec<String>,
}

/// A process at one end.
#[derive(Debug)]
pub(crate) struct End {
    name: String,
    program: Program,
    stdin: ChildStdin,
    words: Receiver<io::Result<Word>>,
}

impl End {
    /// Starts the process and tells it its job.
    pub(crate) fn start(namespace: &Namespace, name: &str, job: &Job, launch: &Launch) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let mut command = match &launch.wrap[..] {
            [first, rest @ ..] if job.whose == Whose::Ours => {
                let mut command = Command::new(first);
                command.args(rest).arg(own);
                command
            }
            _ => Command::new(own),
        };
        command.arg("role").stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_remove("RAWTCP_DEVICE").env_remove("RAWTCP_CONGESTION").env_remove("RAWTCP_DRIVER");
        command.env("RAWTCP_DRIVERS", job.drivers.to_string());
        let tun = launch.tun.then(|| tun::device(name));
        if let Some(device) = tun.as_ref().or(launch.device.as_ref()) {
            command.env("RAWTCP_DEVICE", device);
        }
        let mut program = namespace.start(&mut command)?;
        let pipes = (program.child().stdin.take(), program.child().stdout.take());
        let (Some(mut stdin), Some(stdout)) = pipes else {
            return Err(io::Error::other("a child without pipes"));
        };
        let (to, words) = channel();
        thread::Builder::new().name("listener".into()).spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let word = line.and_then(|line| Ok(serde_json::from_str(&line)?));
                if to.send(word).is_err() {
                    return;
                }
            }
        })?;
        let mut line = serde_json::to_string(job)?;
        line.push('\n');
        stdin.write_all(line.as_bytes())?;
        Ok(Self { name: name.to_owned(), program, stdin, words })
    }

    /// Waits until it is ready.
    pub(crate) fn wait_ready(&mut self) -> io::Result<()> {
        match self.next(PATIENCE)? {
            Word::Ready => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Tells it to go on, or to come to an end.
    pub(crate) fn go(&mut self) -> io::Result<()> {
        self.stdin.write_all(b"go\n")
    }

    /// Waits for its result, which may take about this long.
    pub(crate) fn result(&mut self, about: Duration) -> io::Result<Metrics> {
        loop {
            match self.next(about + PATIENCE)? {
                Word::Done(metrics) => return Ok(metrics),
                Word::Note(text) => eprintln!("{}: {text}", self.name),
                Word::Ready => return Err(self.unexpected(&Word::Ready)),
                Word::Failed(error) => return Err(io::Error::other(format!("{}: {error}", self.name))),
            }
        }
    }

    /// Waits until the process has ended by itself, for a while; it is killed then.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.program.child().try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(io::Error::other(format!("{}: {status}", self.name))),
                None if Instant::now() > deadline => {
                    return Err(io::Error::other(format!("{} does not end", self.name)));
                }
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn next(&mut self, patience: Duration) -> io::Result<Word> {
        match self.words.recv_timeout(patience) {
            Ok(Ok(Word::Failed(error))) => Err(io::Error::other(format!("{}: {error}", self.name))),
            Ok(word) => word,
            Err(RecvTimeoutError::Timeout) => Err(io::Error::other(format!("{}: nothing for {patience:?}", self.name))),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.program.wait()?;
                Err(io::Error::other(format!("{} ended without a result: {status}", self.name)))
            }
        }
    }

    fn unexpected(&self, word: &Word) -> io::Error {
        io::Error::other(format!("{}: unexpected {word:?}", self.name))
    }
}

/// One run with an end in each of two namespaces: both started, led through it, and ended. The first is the client.
pub(crate) fn pair(
    at: [&Namespace; 2],
    [client, server]: [&Job; 2],
    launch: &Launch,
    length: Duration,
) -> io::Result<Metrics> {
    let mut server = End::start(at[1], "server", server, launch)?;
    server.wait_ready()?;
    let mut client = End::start(at[0], "client", client, launch)?;
    client.wait_ready()?;
    let (machine, start) = (Machine::now()?, Instant::now());
    client.go()?;
    let client_says = client.result(length)?;
    // A server that has no end of its own comes to it; to the others it is no news.
    server.go().ok();
    let server_says = server.result(Duration::ZERO)?;
    let mut metrics = of_both(&client_says, &server_says);
    machine_cost(&mut metrics, machine, start)?;
    client.finish()?;
    server.finish()?;
    Ok(metrics)
}

/// What the host took of the processors' time during a run.
pub(crate) const STOLEN: &str = "machine_stolen_share";

/// What the machine spent since then.
pub(crate) fn machine_cost(metrics: &mut Metrics, before: Machine, start: Instant) -> io::Result<()> {
    let spent = Machine::now()?.since(before);
    metrics.insert("machine_cpu_s".into(), spent.busy);
    metrics.insert("machine_stolen_s".into(), spent.stolen);
    let wall = start.elapsed().as_secs_f64();
    metrics.insert("wall_s".into(), wall);
    let processors = std::thread::available_parallelism().map_or(1.0, |number| number.get() as f64);
    metrics.insert(STOLEN.into(), spent.stolen / (wall * processors));
    Ok(())
}
