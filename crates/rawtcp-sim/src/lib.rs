//! Seeded models for tests and experiments with the protocol.
//!
//! [`link`] is one direction of a network link as a value: packets and the time go in, packets come
//! out when they are due. Nothing here reads a clock or touches a socket, so the same seed and the
//! same pushes always give the same losses at the same instants, in virtual time and in real time.
#![forbid(unsafe_code)]

pub mod link;

pub use link::{Link, LinkConfig, LinkStats, Loss, Queue, Reorder};
