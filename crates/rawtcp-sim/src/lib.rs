//! Seeded models for tests and experiments with the protocol.
//!
//! * [`link`] is one direction of a network link as a value: packets and the time go in, packets come
//!   out when they are due.
//! * [`host`] is a single-threaded host around the protocol: IP packets and the time go in, IP packets
//!   come out; above it are sockets.
//! * [`network`] joins hosts by links, in virtual time, with captures and pictures.
//! * `star` (with the feature `device`) joins whole `rawtcp` stacks by links, so that unchanged async programs run in
//!   virtual time.
//! * [`qlog`] writes what connections say of themselves as text.
//! * [`craft`] makes packets by hand, for peers that follow a script.
//!
//! Nothing here reads a clock or touches a socket, so the same seed and the same calls always give the
//! same packets at the same instants, in virtual time and in real time.
#![doc = ""]
#![doc = include_str!("../../../docs/driving-proto.md")]
#![forbid(unsafe_code)]

pub mod craft;
pub mod host;
pub mod link;
pub mod network;
pub mod pcapng;
pub mod qlog;
#[cfg(feature = "device")]
pub mod star;
pub mod svg;
pub mod trace;

pub use host::{ConnId, Errno, Host, HostConfig, ListenerId, Shutdown, StateCounts};
pub use link::{Link, LinkConfig, LinkStats, Loss, Queue, Reorder, StripOptions};
pub use network::{HostId, LinkId, Listening, Network, Socket, Verdict};
#[cfg(feature = "device")]
pub use star::Star;
pub use trace::{Record, Way};
