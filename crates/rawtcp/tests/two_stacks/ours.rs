//! What is tested.
#![allow(clippy::duplicate_mod, reason = "the same tests for two stacks: that is the point")]

pub(crate) use rawtcp::net;

#[path = "auto_traits.rs"]
pub(crate) mod auto_traits;
#[path = "edges.rs"]
mod edges;
#[path = "semantics.rs"]
mod semantics;
#[path = "sockets.rs"]
mod sockets;
#[path = "sticky.rs"]
mod sticky;
#[path = "support.rs"]
mod support;

pub(crate) fn is_loopback() -> bool {
    std::env::var_os("RAWTCP_DEVICE").is_some_and(|device| device == "loopback")
}

/// Without CAP_NET_RAW there is the loopback inside the process, which has a test of its own, and a namespace in
/// which everything is run again.
fn skip() -> bool {
    !is_loopback() && crate::privilege::missing()
}
