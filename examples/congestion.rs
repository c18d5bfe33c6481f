//! A congestion control of one's own: it keeps a few segments in the queue of the path and no more, as TCP Vegas did.
//! The transfer begins with CUBIC, and changes to it in the middle:
//! `RAWTCP_DEVICE=loopback cargo run --example congestion`

use rawtcp::cc::{AckSample, Carried, Congestion, CongestionControl, CongestionSample, Duration, Factory, Instant};
use rawtcp::net::{TcpListener, TcpStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Segments that are meant to wait in the queue.
const QUEUED: u64 = 4;

#[derive(Debug)]
struct Delay {
    mss: u64,
    cwnd: u64,
    ssthresh: u64,
    /// The window before the last reduction.
    before: u64,
}

impl CongestionControl for Delay {
    fn name(&self) -> &'static str {
        "delay"
    }
    fn on_ack(&mut self, sample: &AckSample) {
        let (Some(rtt), Some(min_rtt)) = (sample.rtt.or(sample.srtt), sample.min_rtt) else { return };
        if sample.in_recovery || sample.duplicate || !sample.round_start {
            return;
        }
        // Of the window, the share of the round trip that is waiting waits.
        let waiting = self.cwnd as f64 * (1.0 - min_rtt.as_secs_f64() / rtt.as_secs_f64().max(1e-9));
        if waiting > (QUEUED * self.mss) as f64 {
            self.ssthresh = self.ssthresh.min(self.cwnd);
            self.cwnd = self.cwnd.saturating_sub(self.mss).max(2 * self.mss);
        } else if sample.cwnd_limited {
            self.cwnd += if self.cwnd < self.ssthresh { self.cwnd } else { self.mss };
        }
    }
    fn on_congestion(&mut self, _event: Congestion, sample: &CongestionSample) {
        self.before = self.cwnd;
        self.ssthresh = (sample.in_flight / 2).max(2 * self.mss);
        self.cwnd = self.ssthresh;
    }
    fn on_rto(&mut self, sample: &CongestionSample) {
        self.on_congestion(Congestion::Loss, sample);
        self.cwnd = self.mss;
    }
    fn on_recovery_exit(&mut self, _now: Instant) {}
    fn on_spurious(&mut self) {
        self.cwnd = self.cwnd.max(self.before);
    }
    fn on_idle(&mut self, _now: Instant, _idle: Duration, _rto: Duration) {
        self.cwnd = self.cwnd.min(10 * self.mss);
    }
    fn on_mss(&mut self, mss: u32) {
        self.mss = u64::from(mss);
    }
    fn cwnd(&self) -> u64 {
        self.cwnd
    }
    fn ssthresh(&self) -> u64 {
        self.ssthresh
    }
    fn export(&self) -> Carried {
        Carried { cwnd: self.cwnd, ssthresh: self.ssthresh, ..Carried::default() }
    }
    fn import(&mut self, carried: Carried) {
        (self.cwnd, self.ssthresh) = (carried.cwnd, carried.ssthresh);
    }
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<()> {
    rawtcp::register_congestion(Factory::new("delay", |mss, segments| {
        let mss = u64::from(mss);
        let cwnd = mss * u64::from(segments);
        Box::new(Delay { mss, cwnd, ssthresh: u64::MAX, before: cwnd })
    }))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut sender = TcpStream::connect(listener.local_addr()?).await?;
    let (mut receiver, _) = listener.accept().await?;
    let reading = tokio::spawn(async move { receiver.read_to_end(&mut Vec::new()).await });
    for name in ["cubic", "delay"] {
        sender.set_congestion(name)?;
        sender.write_all(&vec![7; 8 << 20]).await?;
        let info = sender.tcp_info();
        println!("{}: a window of {} bytes, round trips of {:?}", info.congestion, info.snd_cwnd, info.rtt);
    }
    sender.shutdown().await?;
    println!("{} bytes arrived", reading.await??);
    Ok(())
}
