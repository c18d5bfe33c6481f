//! Congestion control: how much may be in flight. What is sent, and when something counts as lost, is
//! decided elsewhere; an algorithm sees bytes and times only, neither sequence numbers nor queues.
//!
//! # An algorithm of your own
//! Implement [`CongestionControl`], and give [`ConnConfig::congestion`](crate::ConnConfig::congestion) a
//! [`Factory`] that makes one, or a live connection a boxed one
//! ([`Connection::set_congestion_control`](crate::Connection::set_congestion_control)). Everything is
//! counted in bytes. Until it is told otherwise an algorithm offers its initial window; every call may
//! change [`cwnd`](CongestionControl::cwnd), which is asked for again before anything is sent.

pub mod bbr;
pub mod cubic;
mod factory;
mod hystart;
pub mod reno;

pub use bbr::Bbr;
pub use cubic::Cubic;
pub use factory::Factory;
pub use reno::Reno;

pub use crate::recovery::rate::RateSample;

pub use crate::time::{Duration, Instant};

use std::fmt::{self, Debug, Display};
use std::str::FromStr;

/// What an acknowledgment says about the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckSample {
    /// When it arrived.
    pub now: Instant,
    /// Bytes that it newly reported as delivered, cumulatively or selectively.
    pub acked: u64,
    /// It did so selectively only: outside of recovery, the window must not grow by it (RFC 5681 §3.2,
    /// RFC 3042).
    pub duplicate: bool,
    /// The round trip time that it measured, if it measured one.
    pub rtt: Option<Duration>,
    /// The smallest round trip time in memory.
    pub min_rtt: Option<Duration>,
    /// The smoothed round trip time (RFC 6298 §2).
    pub srtt: Option<Duration>,
    /// Bytes in flight before it arrived.
    pub in_flight: u64,
    /// Bytes in flight now, what it showed to be lost not counted.
    pub pipe: u64,
    /// Whether the congestion window was what limited sending; otherwise it proves nothing, and must not
    /// grow.
    pub cwnd_limited: bool,
    /// Whether the connection is in fast recovery, where PRR (RFC 6937) governs sending. After a timeout
    /// it is not: slow start is how that is recovered from.
    pub in_recovery: bool,
    /// The sender's maximum segment size in bytes (SMSS).
    pub mss: u32,
    /// Bytes per second delivered over the last round trip, if measured.
    pub delivery_rate: Option<u64>,
    /// What that was calculated from.
    pub rate: Option<RateSample>,
    /// Whether this is the first acknowledgment of a new round trip.
    pub round_start: bool,
}

/// What signalled congestion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Congestion {
    /// A segment was lost and detected as such by acknowledgments.
    Loss,
    /// The network marked a packet (RFC 3168 §6.1.2).
    Ecn,
}

/// The state of the connection when congestion was detected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CongestionSample {
    /// When it was detected.
    pub now: Instant,
    /// FlightSize in bytes (RFC 5681 §2): sent and not yet cumulatively acknowledged.
    pub in_flight: u64,
    /// The sender's maximum segment size in bytes (SMSS).
    pub mss: u32,
    /// Whether a mark is to reduce by less than a loss (RFC 8511 §3.1).
    pub abe: bool,
}

/// Something was found to be lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossSample {
    /// When it was found.
    pub now: Instant,
    /// Bytes newly taken for lost.
    pub lost: u64,
    /// Bytes in flight when the last-sent of them had left.
    pub tx_in_flight: u64,
    /// Bytes taken for lost since that left, these included.
    pub lost_since: u64,
    /// Whether that was sent while the application, not the window, was the limit.
    pub app_limited: bool,
    /// The sender's maximum segment size in bytes (SMSS).
    pub mss: u32,
}

/// What one algorithm hands to another when it is replaced on a live connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The congestion window in bytes.
    pub cwnd: u64,
    /// The slow start threshold in bytes; `u64::MAX` as long as there was no congestion.
    pub ssthresh: u64,
    /// The smallest round trip time in memory. What an algorithm does not know, the connection fills in.
    pub min_rtt: Option<Duration>,
    /// The rate that the path is believed to carry, in bytes per second. What an algorithm does not know,
    /// the connection fills in with the rate of delivery, if the application did not limit it.
    pub bandwidth: Option<u64>,
}

/// An algorithm that decides how many bytes may be in flight.
///
/// Calls come in the order in which things happen. At most one [`on_congestion`] is made per window of
/// data; [`on_recovery_exit`] follows it, or a timeout, once everything sent before it is acknowledged.
///
/// [`on_congestion`]: CongestionControl::on_congestion
/// [`on_recovery_exit`]: CongestionControl::on_recovery_exit
pub trait CongestionControl: Debug + Send + 'static {
    /// The name by which the algorithm is chosen and reported, in lower case.
    fn name(&self) -> &'static str;

    /// An acknowledgment reported delivery of new data.
    fn on_ack(&mut self, sample: &AckSample);

    /// Congestion was detected: reduce.
    fn on_congestion(&mut self, event: Congestion, sample: &CongestionSample);

    /// The retransmission timer expired: everything in flight is taken for lost.
    fn on_rto(&mut self, sample: &CongestionSample);

    /// Everything that was in flight when recovery began, by a loss or by a timeout, is acknowledged.
    fn on_recovery_exit(&mut self, now: Instant);

    /// The last reduction was unfounded, because nothing had been lost: undo it.
    fn on_spurious(&mut self);

    /// Sending resumes after nothing was sent for `idle`, longer than `rto`, the current timeout. The
    /// window is halved for each timeout that has passed, down to the initial one (RFC 2861 §3, as Linux);
    /// `Duration::MAX` has it begin anew (RFC 5681 §4.1).
    fn on_idle(&mut self, now: Instant, idle: Duration, rto: Duration);

    /// Sending resumes with nothing in flight, after a pause however short.
    fn on_restart(&mut self, now: Instant) {
        let _ = now;
    }

    /// For as long as a timeout the application kept no more than `used` bytes in flight: what the window
    /// is larger by is not known to fit the path any more.
    fn on_underuse(&mut self, now: Instant, used: u64) {
        let _ = (now, used);
    }

    /// The window and the threshold become no larger than this: recovery from a loss in a window of which little had
    /// been used is over (RFC 7661 §4.4.1).
    fn on_limit(&mut self, cwnd: u64) {
        let _ = cwnd;
    }

    /// Segments were found to be lost; whether that is congestion, [`on_congestion`] says behind it.
    ///
    /// [`on_congestion`]: CongestionControl::on_congestion
    fn on_lost(&mut self, sample: &LossSample) {
        let _ = sample;
    }

    /// Whether the window itself, and not PRR (RFC 6937), says how much may be in flight in recovery.
    fn controls_recovery(&self) -> bool {
        false
    }

    /// The maximum segment size changed.
    fn on_mss(&mut self, mss: u32);

    /// The congestion window in bytes: as much may be in flight.
    fn cwnd(&self) -> u64;

    /// The slow start threshold in bytes; `u64::MAX` as long as there was no congestion.
    fn ssthresh(&self) -> u64;

    /// Bytes per second at which to pace; `None` leaves it to the connection.
    fn pacing_rate(&self) -> Option<u64> {
        None
    }

    /// What a successor needs to go on from here.
    fn export(&self) -> Carried;

    /// Goes on from where a predecessor was.
    fn import(&mut self, carried: Carried);
}

/// What is left of a window after so much idleness, but no less than `restart`: a half for each timeout.
fn decayed(cwnd: u64, restart: u64, idle: Duration, rto: Duration) -> u64 {
    let timeouts = idle.as_nanos() / rto.as_nanos().max(1);
    let left = u32::try_from(timeouts).ok().and_then(|n| cwnd.checked_shr(n)).unwrap_or(0);
    left.max(restart.min(cwnd))
}

/// The threshold of a window that was not used: three quarters of it were fine once (RFC 2861 §3).
fn unused_ssthresh(cwnd: u64, ssthresh: u64) -> u64 {
    ssthresh.max(cwnd / 4 * 3)
}

/// The algorithms that are built in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// RFC 5681.
    Reno,
    /// RFC 9438, with the slow start of RFC 9406.
    #[default]
    Cubic,
    /// Version 3, draft-cardwell-ccwg-bbr.
    Bbr,
}

impl Algorithm {
    /// Every algorithm that is built in.
    pub const ALL: &'static [Algorithm] = &[Algorithm::Cubic, Algorithm::Reno, Algorithm::Bbr];

    /// The name: what `FromStr` reads and `Display` writes.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Reno => "reno",
            Algorithm::Cubic => "cubic",
            Algorithm::Bbr => "bbr",
        }
    }

    /// A new instance for segments of `mss` bytes, with an initial window of that many segments
    /// (RFC 6928 allows ten; one after a lost SYN).
    pub fn build(self, mss: u32, initial_window_segments: u32) -> Box<dyn CongestionControl> {
        match self {
            Algorithm::Reno => Box::new(Reno::new(mss, initial_window_segments)),
            Algorithm::Cubic => Box::new(Cubic::new(mss, initial_window_segments)),
            Algorithm::Bbr => Box::new(Bbr::new(mss, initial_window_segments)),
        }
    }
}

impl Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no algorithm of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownAlgorithm;

impl Display for UnknownAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown congestion control algorithm; there are: ")?;
        for (i, algorithm) in Algorithm::ALL.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{algorithm}")?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownAlgorithm {}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        Algorithm::ALL.iter().copied().find(|algorithm| algorithm.name() == name).ok_or(UnknownAlgorithm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for &algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
            assert_eq!(algorithm.build(1460, 10).name(), algorithm.name());
        }
        assert_eq!("vegas".parse::<Algorithm>(), Err(UnknownAlgorithm));
        assert_eq!(UnknownAlgorithm.to_string(), "unknown congestion control algorithm; there are: cubic, reno, bbr");
    }

    #[test]
    fn state_survives_a_replacement() {
        for &(from, reduced) in &[(Algorithm::Reno, 5_000), (Algorithm::Cubic, 7_000)] {
            for &to in Algorithm::ALL {
                let mut old = from.build(1000, 10);
                let sample = CongestionSample { in_flight: 10_000, mss: 1000, ..Default::default() };
                old.on_congestion(Congestion::Loss, &sample);
                let mut new = to.build(1000, 10);
                new.import(old.export());
                assert_eq!(new.cwnd(), reduced, "{from} to {to}");
                // BBR finds out by itself where the path ends.
                let ssthresh = if to == Algorithm::Bbr { u64::MAX } else { reduced };
                assert_eq!(new.ssthresh(), ssthresh, "{from} to {to}");
                // And if there was no time for that, its successor has what its predecessor knew.
                let mut next = from.build(1000, 10);
                next.import(new.export());
                assert_eq!((next.cwnd(), next.ssthresh()), (reduced, reduced), "{from} to {to} and back");
            }
        }
    }
}
