//! What was sent and is not acknowledged, and what the acknowledgments say about it.
//!
//! Recovery says *what* was delivered or lost and *when*; how much may be in flight is congestion
//! control's business ([`crate::cc`]). [`SentQueue`] is the scoreboard, [`RttEstimator`] the clock.

pub mod rate;
pub mod rtt;
pub mod sent;

pub use rate::{RateEstimator, RateSample};
pub use rtt::RttEstimator;
pub use sent::{AckOutcome, DeliverySnapshot, Detected, LostSegment, NewestDelivered, RackView, SentQueue};
