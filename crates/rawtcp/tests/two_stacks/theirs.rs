//! The oracle.

pub(crate) use tokio::net;

const FRESH_SHOWS_READABLE: bool = true;

#[path = "auto_traits.rs"]
pub(crate) mod auto_traits;
#[path = "semantics.rs"]
mod semantics;
#[path = "sockets.rs"]
mod sockets;
#[path = "sticky.rs"]
mod sticky;

fn skip() -> bool {
    false
}
