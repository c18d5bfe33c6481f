//! `tokio::net` for TCP, on this stack: the same names, signatures and meaning.

mod beyond;
mod listener;
mod socket;
mod split;
mod split_owned;
mod stream;

pub use listener::TcpListener;
pub use socket::TcpSocket;
pub use stream::TcpStream;
pub use tokio::net::{ToSocketAddrs, lookup_host};

/// The halves of a stream.
pub mod tcp {
    pub use super::split::{ReadHalf, WriteHalf};
    pub use super::split_owned::{OwnedReadHalf, OwnedWriteHalf, ReuniteError};
}
