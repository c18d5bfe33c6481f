//! The demonstration: an HTTP server on rawtcp, and clients on the kernel's TCP that can not tell.

mod client;
mod server;

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rawtcp_lab::capture::{Capture, Recording};
use rawtcp_lab::emulator::EmulatorConfig;
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{CLIENT_V4, Emulated, INTERFACE, Pair, SERVER_V4, SERVER_V6};
use rawtcp_sim::{LinkConfig, Loss};

const PORT: u16 = 8080;
/// Large enough to see the speed, small enough for a slow machine.
const BULK: u64 = 256 << 20;
const BULK_LOSSY: u64 = 4 << 20;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Runs all of it; the exit status tells whether everything was as it should be.
pub(crate) fn run() -> io::Result<ExitCode> {
    println!("An HTTP server on rawtcp in one network namespace; its clients, on the kernel's TCP, in another.");
    let mut report = Report::default();
    report.section("veth, MTU 1500, offloads as they come");
    let pair = Pair::new()?;
    report.scene(&pair.client, &pair.server, |report, client| {
        for ip in [SERVER_V4, SERVER_V6] {
            everything(report, client, ip);
        }
    })?;
    report.section("emulated link: 20 ms round trip, 1 % loss");
    let link = LinkConfig::default().with_delay(Duration::from_millis(10)).with_loss(Loss::Uniform(0.01));
    let net = Emulated::new(EmulatorConfig::symmetric(link, 7))?;
    report.scene(&net.client, &net.server, |report, client| {
        let at = SocketAddr::new(SERVER_V4, PORT);
        report.step("GET  /bytes", SERVER_V4, client, move || client::download(at, BULK_LOSSY));
        report.step("POST /upload", SERVER_V4, client, move || client::upload(at, BULK_LOSSY));
    })?;
    let stats = net.emulator.stop()?;
    println!("  the link lost {} packets", stats.a_to_b.lost + stats.b_to_a.lost);
    Ok(report.verdict())
}

fn everything(report: &mut Report, client: &Namespace, ip: IpAddr) {
    let at = SocketAddr::new(ip, PORT);
    report.step("GET  /", ip, client, move || client::greet(at));
    report.step("GET  /bytes", ip, client, move || client::download(at, BULK));
    report.step("POST /upload", ip, client, move || client::upload(at, BULK));
    report.step("2,000 requests, kept alive", ip, client, move || client::requests(at, 16, 125, true));
    report.step("400 requests, connection each", ip, client, move || client::requests(at, 16, 25, false));
}

/// What a step has to say when it went well.
struct Done {
    text: String,
    bytes: u64,
}

#[derive(Default)]
struct Report {
    failures: u32,
}

impl Report {
    fn section(&self, title: &str) {
        println!("\n{title}");
    }

    /// A server on rawtcp in `server`, `steps` against it, and a look at what was on the server's wire.
    fn scene(
        &mut self,
        client: &Namespace,
        server: &Namespace,
        steps: impl FnOnce(&mut Self, &Namespace),
    ) -> io::Result<()> {
        let capture = Capture::start(server, INTERFACE)?;
        let running = server::Running::start(server, PORT)?;
        steps(self, client);
        running.stop()?;
        let recording = capture.stop()?;
        self.wire(&recording);
        Ok(())
    }

    /// Runs one step on the clients' side, with a sign of life while it runs.
    fn step<F>(&mut self, what: &str, ip: IpAddr, client: &Namespace, make: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = Result<Done, Error>>,
    {
        let version = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let start = Instant::now();
        let task = client.spawn_tokio(move || async move {
            tokio::time::timeout(Duration::from_secs(60), make()).await.map_err(|_| "nothing for a minute")?
        });
        while !task.is_finished() {
            if io::stderr().is_terminal() {
                eprint!("\r  {what:<30} {version}  {:.0} s ", start.elapsed().as_secs_f64());
                io::stderr().flush().ok();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        let seconds = start.elapsed().as_secs_f64();
        match task.join() {
            Ok(Done { text, bytes }) => {
                let speed = match bytes {
                    0 => String::new(),
                    _ => format!("  {:.2} Gbit/s", bytes as f64 * 8.0 / seconds / 1e9),
                };
                println!("  {what:<30} {version}  ok  {seconds:>6.2} s{speed}  {text}");
            }
            Err(error) => {
                self.failures += 1;
                println!("  {what:<30} {version}  FAILED: {error}");
            }
        }
    }

    /// Segments, retransmissions and resets, from the capture on the server's interface.
    fn wire(&mut self, recording: &Recording) {
        let segments = recording.segments();
        let resets = segments.iter().filter(|s| s.flags.rst()).count();
        let mut highest = std::collections::HashMap::new();
        let (mut sent, mut again) = (0u64, 0u64);
        for s in segments.iter().filter(|s| s.outgoing && s.payload_len > 0) {
            sent += 1;
            let end = s.seq.wrapping_add(s.payload_len as u32);
            let high = highest.entry((s.src, s.dst)).or_insert(s.seq);
            // A connection that takes an old one's ports starts above it.
            if (end.wrapping_sub(*high) as i32) > 0 {
                *high = end;
            } else {
                again += 1;
            }
        }
        let from_clients = segments.iter().filter(|s| s.src.ip() == CLIENT_V4 || !s.outgoing).count();
        println!(
            "  on the wire: {sent} data segments from rawtcp, {again} of them retransmissions; {from_clients} segments from \
             the kernel's clients; {resets} RSTs"
        );
        if recording.drops > 0 {
            println!("  (the capture missed {} frames)", recording.drops);
        }
        if resets > 0 {
            self.failures += 1;
            println!("  FAILED: a RST appeared; nobody had a reason to send one");
        }
    }

    fn verdict(&self) -> ExitCode {
        match self.failures {
            0 => {
                println!("\nEverything arrived, byte for byte, and no RST appeared: the kernel could not tell.");
                ExitCode::SUCCESS
            }
            n => {
                println!("\n{n} of the steps FAILED.");
                ExitCode::FAILURE
            }
        }
    }
}
