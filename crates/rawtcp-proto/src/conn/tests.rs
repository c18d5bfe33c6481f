//! Two connections on a virtual wire, and single connections against segments made by hand.

mod adversary;
mod autotune;
mod close;
mod open;
pub(super) mod pair;
mod robust;
mod segments;
mod trace;
mod transfer;
mod undo;

pub(super) use pair::{ms, secs};
