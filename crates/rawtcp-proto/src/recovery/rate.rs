//! How fast the path delivers: one rate sample for each acknowledgment, from counters that each segment
//! carries along since it left (draft-cardwell-ccwg-bbr §4.5.2, as Linux's `tcp_rate.c`).
//!
//! A sample is what was delivered between two acknowledgments a round trip apart, divided by the longer of
//! the time in which that was sent and the time in which it was acknowledged. Its cost does not depend on
//! how much is in flight.

use super::sent::{DeliverySnapshot, NewestDelivered};
use crate::time::{Duration, Instant};

/// What one acknowledgment says of the rate of delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateSample {
    /// Bytes delivered over `interval`.
    pub delivered: u64,
    /// The longer of the times in which they were sent and acknowledged; never zero.
    pub interval: Duration,
    /// The application, not the window, limited sending at some moment of it: the path may do better.
    pub app_limited: bool,
    /// Bytes that had been delivered when the newest of the segments delivered now was sent.
    pub prior_delivered: u64,
    /// Bytes in flight when that segment was sent, itself included.
    pub tx_in_flight: u64,
    /// Bytes taken for lost since then.
    pub lost: u64,
}

impl RateSample {
    /// Bytes per second.
    pub fn bytes_per_second(&self) -> u64 {
        let nanos = self.interval.as_nanos().max(1);
        u64::try_from(u128::from(self.delivered) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }
}

/// The counters of a connection from which samples are made.
#[derive(Clone, Debug, Default)]
pub struct RateEstimator {
    /// C.delivered and C.delivered_time.
    delivered: u64,
    delivered_at: Instant,
    /// C.first_sent_time.
    first_sent_at: Instant,
    /// C.app_limited: what is sent before so much is delivered gives application-limited samples.
    app_limited: u64,
    /// Bytes ever taken for lost.
    lost: u64,
    /// The round trip ends with the acknowledgment of something sent when so much was delivered.
    round_end: u64,
    round_start: bool,
    /// The last rate of delivery, and whether the application limited it.
    last: u64,
    last_app_limited: bool,
}

impl RateEstimator {
    /// Something leaves at `now`: what it has to carry along. `first`: nothing else is in flight.
    pub fn on_transmit(&mut self, now: Instant, first: bool) -> DeliverySnapshot {
        if first {
            // Whatever is acknowledged from here on was sent from here on.
            (self.first_sent_at, self.delivered_at) = (now, now);
        }
        DeliverySnapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            app_limited: self.app_limited > 0,
            lost: self.lost,
        }
    }

    /// There is nothing to send although more may be in flight than the `in_flight` bytes that are.
    pub fn on_app_limited(&mut self, in_flight: u64) {
        self.app_limited = self.delivered.saturating_add(in_flight).max(1);
    }

    /// So many bytes were taken for lost.
    pub fn on_lost(&mut self, bytes: u64) {
        self.lost = self.lost.saturating_add(bytes);
    }

    /// An acknowledgment reported `delivered` bytes; `newest` is the last-sent segment among them, if whole
    /// segments are. No sample comes from an interval shorter than any round trip: it was measured by a copy
    /// of which an earlier one arrived.
    pub fn on_ack(
        &mut self,
        now: Instant,
        delivered: u64,
        newest: Option<&NewestDelivered>,
        min_rtt: Option<Duration>,
    ) -> Option<RateSample> {
        self.round_start = false;
        if delivered > 0 {
            self.delivered = self.delivered.saturating_add(delivered);
            self.delivered_at = now;
        }
        if self.app_limited > 0 && self.delivered > self.app_limited {
            self.app_limited = 0;
        }
        let newest = newest?;
        let sent = &newest.snapshot;
        self.first_sent_at = newest.sent_at;
        if sent.delivered >= self.round_end {
            self.round_end = self.delivered;
            self.round_start = true;
        }
        let send_elapsed = newest.sent_at.since(sent.first_sent_at);
        let interval = send_elapsed.max(now.since(sent.delivered_at));
        if interval.is_zero() || min_rtt.is_some_and(|min| interval < min) {
            return None;
        }
        let sample = RateSample {
            delivered: self.delivered.saturating_sub(sent.delivered),
            interval,
            app_limited: sent.app_limited,
            prior_delivered: sent.delivered,
            tx_in_flight: newest.tx_in_flight,
            lost: self.lost.saturating_sub(sent.lost),
        };
        // As Linux: an application-limited one replaces another only if it is not slower.
        let rate = sample.bytes_per_second();
        if !sample.app_limited || rate >= self.last {
            (self.last, self.last_app_limited) = (rate, sample.app_limited);
        }
        Some(sample)
    }

    /// Whether the last acknowledgment was the first one of a round trip.
    pub fn is_round_start(&self) -> bool {
        self.round_start
    }

    /// Bytes delivered so far.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes ever taken for lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The last rate, in bytes per second, that the application did not limit, or the highest that it did; 0 before
    /// the first. And whether it did.
    pub fn last(&self) -> (u64, bool) {
        (self.last, self.last_app_limited)
    }
}

#[cfg(test)]
mod tests;
