//! Two connections on a virtual wire, and single connections against segments made by hand.

mod adversary;
mod close;
mod open;
mod pair;
mod segments;
mod transfer;

pub(super) use pair::{ms, secs};
