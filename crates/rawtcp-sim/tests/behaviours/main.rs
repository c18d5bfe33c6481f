//! The behaviours that the stack is accepted by, at the level of a host: a peer that follows a script
//! sends and expects single segments, or two hosts talk over a link.

#![allow(unreachable_pub)] // one crate, many modules

#[path = "../common/mod.rs"]
mod common;
mod script;

mod attacks;
mod closing;
mod ecn;
mod icmp;
mod info;
mod knobs;
mod opening;
mod pmtu;
mod rate;
mod receiving;
mod sending;
mod surface;
mod urgent;
mod validation;
