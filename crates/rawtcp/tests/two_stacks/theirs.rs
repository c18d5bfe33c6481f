//! The oracle.

pub(crate) use tokio::net;

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

fn skip() -> bool {
    false
}
