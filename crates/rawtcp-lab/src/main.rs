//! The command of the laboratory.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod goodput;
mod measure;
mod role;

use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use rawtcp_lab::capture::{Capture, CaptureOptions};
use rawtcp_lab::emulator::EmulatorConfig;
use rawtcp_lab::netns;
use rawtcp_lab::topology::{CLIENT_V4, CLIENT_V6, Emulated, INTERFACE, SERVER_V4, SERVER_V6};
use rawtcp_sim::{LinkConfig, Loss, Queue};

/// Experiments with TCP in network namespaces of their own, as root or as an ordinary user.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Show it at work: an HTTP server on rawtcp in one namespace, kernel clients in another, a short report.
    Demo,
    Bench(Box<bench::Bench>),
    Goodput(Box<goodput::Goodput>),
    /// One end of an experiment, led by its parent process.
    #[command(hide = true)]
    Role,
    /// Run a server and a client in two namespaces with an emulated link between them.
    ///
    /// Both commands are given to `sh -c`. They find the addresses in their environment: CLIENT, CLIENT6, SERVER,
    /// SERVER6. The server is ended when the client is done; the client's exit status is the command's.
    ///
    /// Example: rawtcp-lab emulate --delay 10ms --loss 1% --server 'iperf3 -s' --client 'iperf3 -c $SERVER'
    Emulate(Box<Emulate>),
}

/// The link, the same in both directions.
#[derive(Debug, Args)]
struct Emulate {
    /// The server's command.
    #[arg(long)]
    server: String,
    /// The client's command.
    #[arg(long)]
    client: String,
    /// How long the server gets before the client is started.
    #[arg(long, default_value = "500ms", value_parser = duration)]
    head_start: Duration,
    /// Bits per second, as in 100mbit; default: unlimited.
    #[arg(long, value_parser = rate)]
    rate: Option<u64>,
    /// Delay of each direction.
    #[arg(long, default_value = "0ms", value_parser = duration)]
    delay: Duration,
    /// By how much the delay varies to either side.
    #[arg(long, default_value = "0ms", value_parser = duration)]
    jitter: Duration,
    /// Packets that may queue where there is a rate.
    #[arg(long, default_value_t = 1000)]
    queue: usize,
    /// Share of packets lost, as in 1% or 0.01.
    #[arg(long, default_value = "0", value_parser = share)]
    loss: f64,
    /// Lose packets in bursts of this mean length.
    #[arg(long)]
    burst: Option<f64>,
    /// Share of packets held back so that others overtake them.
    #[arg(long, default_value = "0", value_parser = share)]
    reorder: f64,
    /// How much longer packets take that are held back.
    #[arg(long, default_value = "2ms", value_parser = duration)]
    reorder_delay: Duration,
    /// Share of packets that arrive twice.
    #[arg(long, default_value = "0", value_parser = share)]
    duplicate: f64,
    /// Share of packets with a flipped bit.
    #[arg(long, default_value = "0", value_parser = share)]
    corrupt: f64,
    /// The MTU of the hosts' interfaces.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// Seed of chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write what passes the client's interface to this pcapng file.
    #[arg(long)]
    capture: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before any thread is started, or the kernel refuses it.
    let result = netns::enter().and_then(|_| match cli.command {
        Subcommands::Demo => demo::run(),
        Subcommands::Bench(options) => options.run(),
        Subcommands::Goodput(options) => options.run(),
        Subcommands::Emulate(options) => options.run(),
        Subcommands::Role => Ok(role::play()),
    });
    result.unwrap_or_else(|error| {
        eprintln!("rawtcp-lab: {error}");
        ExitCode::FAILURE
    })
}

impl Emulate {
    fn link(&self) -> LinkConfig {
        let loss = match self.burst {
            Some(length) => Loss::bursts(self.loss, length),
            None => Loss::Uniform(self.loss),
        };
        let link = LinkConfig::default()
            .with_rate(self.rate.unwrap_or(0))
            .with_delay(self.delay)
            .with_jitter(self.jitter)
            .with_queue(Queue::Packets(self.queue))
            .with_loss(loss)
            .with_duplicate(self.duplicate)
            .with_corrupt(self.corrupt);
        if self.reorder > 0.0 { link.with_reorder(self.reorder, self.reorder_delay) } else { link }
    }

    fn run(&self) -> io::Result<ExitCode> {
        let config = EmulatorConfig { interface_mtu: self.mtu, ..EmulatorConfig::symmetric(self.link(), self.seed) };
        let net = Emulated::new(config)?;
        let capture = match &self.capture {
            None => None,
            Some(file) => {
                // Everything goes to the file, whole; nothing is needed in memory.
                let options = CaptureOptions { snap_length: 65_536, frames: 0, file: Some(file.clone()), port: None };
                Some(Capture::start_with(&net.client, INTERFACE, options)?)
            }
        };
        let mut server = net.server.start(&mut shell(&self.server))?;
        thread::sleep(self.head_start);
        if let Some(status) = server.child().try_wait()? {
            return Err(io::Error::other(format!("the server ended before the client was started: {status}")));
        }
        let status = net.client.start(&mut shell(&self.client))?.wait()?;
        server.terminate()?;
        let stats = net.emulator.stop()?;
        let missed = capture.map(Capture::stop).transpose()?.map_or(0, |recording| recording.drops);
        eprintln!("a: client, b: server, seed {}\n{stats}", self.seed);
        if stats.receive_drops > 0 || missed > 0 {
            eprintln!("warning: the emulator lost {} frames, the capture missed {missed}", stats.receive_drops);
        }
        // Ended by a signal: as a shell says it.
        let code = status.code().unwrap_or(128);
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }
}

fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command);
    for (name, address) in
        [("CLIENT", CLIENT_V4), ("CLIENT6", CLIENT_V6), ("SERVER", SERVER_V4), ("SERVER6", SERVER_V6)]
    {
        shell.env(name, address.to_string());
    }
    shell
}

/// Splits `10ms` into number and unit.
fn number_and_unit(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| format!("`{text}` does not begin with a number"))?;
    Ok((number, &text[end..]))
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(text)?;
    let seconds = match unit {
        "s" => number,
        "ms" => number / 1e3,
        "us" => number / 1e6,
        _ => return Err(format!("`{text}`: the unit must be s, ms or us")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit.trim_end_matches("bit") {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        _ => return Err(format!("`{text}`: the unit must be bit, kbit, mbit or gbit")),
    };
    Ok((number * factor) as u64)
}

fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = number_and_unit(text)?;
    let share = match unit {
        "" => number,
        "%" => number / 100.0,
        _ => return Err(format!("`{text}` is neither like 1% nor like 0.01")),
    };
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("`{text}` is more than all")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(duration("1.5ms"), Ok(Duration::from_micros(1500)));
        assert_eq!(duration("3us"), Ok(Duration::from_micros(3)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(rate("100mbit"), Ok(100_000_000));
        assert_eq!(rate("2.5g"), Ok(2_500_000_000));
        assert_eq!(rate("9600"), Ok(9600));
        assert_eq!(share("1%"), Ok(0.01));
        assert_eq!(share("0.25"), Ok(0.25));
        for wrong in ["", "ms", "-1ms", "5 parsecs"] {
            assert!(duration(wrong).is_err() && rate(wrong).is_err() && share(wrong).is_err(), "{wrong:?}");
        }
        assert!(share("101%").is_err());
    }

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
