//! The TCP protocol as deterministic values: no clock, no socket, no randomness of its own.
//!
//! # How to drive it
//!
//! Three kinds of values do all the work; the caller owns them and decides what locks them.
//!
//! * [`stack::Stack`] finds what a segment belongs to and answers by itself for what is not yet, or
//!   no longer, a connection: half-open records, TIME-WAIT records, nothing at all.
//! * [`Connection`] is one TCB (RFC 9293 §3.3.1).
//! * [`wire`] turns bytes into segments and back.
//!
//! One turn of a host looks like this, in this order:
//!
//! ```text
//! for packet in received {
//!     let (ip, bytes)  = wire::ip::parse(packet)?;                    // total: bytes or a DropReason
//!     let (tcp, text, _) = wire::tcp::parse(&ip, bytes, ..)?;
//!     match stack.on_segment(now, &tuple, &segment) {
//!         Connection(c)   => c.on_segment(now, &segment),
//!         Accept { .. }   => insert, give it the segment, queue for accept,
//!         Reply(r)        => send it,
//!         Unclaimed       => stack.reset_for(..) if the address and port are ours,
//!         Done            => it was taken and deserves no answer,
//!         Drop(_)         => the stack has counted it,
//!     }
//! }
//! // timers: those whose deadline has passed
//! stack.on_timeout(now, ..);  connection.on_timeout(now);
//! // then, once for every connection that was touched:
//! while let Some(t) = connection.poll_transmit(now, &limits) { build and send it }
//! connection.take_events();       // whom to wake
//! connection.poll_timeout();      // when to come back
//! ```
//!
//! After **any** call that takes `now`, poll in this order: `poll_transmit` until `None`, then
//! `take_events`, then `poll_timeout`. A [`Transmit`] is a decision already taken: it counts as sent.
//!
//! # What is not here
//!
//! See `docs/conformance.md` in the repository for every requirement of RFC 9293 and where it is met.

#![forbid(unsafe_code)]

pub mod buf;
pub mod cc;
mod cold;
mod compact;
pub mod config;
pub mod conn;
mod error;
mod info;
pub mod recovery;
pub mod seq;
pub mod stack;
pub mod time;
pub mod trace;
pub mod wire;

pub use config::{ConnConfig, CwndValidation, EcnMode, Keepalive, MtuProbing};
pub use conn::{Connection, Events, Path, State, Transmit, TransmitKind, TxLimits};
pub use error::{CloseReason, DropReason, UserError};
pub use info::{CaState, TcpInfo};
pub use seq::{Offset, OffsetRange, SeqNum};
pub use time::{Duration, Instant};
pub use trace::{TraceEvent, Traced};
pub use wire::{FourTuple, Segment, is_unicast};
