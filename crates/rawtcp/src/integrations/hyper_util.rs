//! Our stream in hyper-util's legacy client.

use crate::client::HttpInfo;
use crate::net::TcpStream;
use hyper_util::client::legacy::connect::{Connected, Connection};

/// For hyper-util's legacy client: `TokioIo<TcpStream>` is a connection too, by hyper-util's own implementation. Responses
/// carry an [`HttpInfo`].
impl Connection for TcpStream {
    fn connected(&self) -> Connected {
        match (self.peer_addr(), self.local_addr()) {
            (Ok(remote), Ok(local)) => Connected::new().extra(HttpInfo::new(remote, local)),
            _ => Connected::new(),
        }
    }
}
