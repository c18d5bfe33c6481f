//! Errors as the numbers that a kernel socket gives.

use rawtcp_proto::{CloseReason, UserError};
use std::fmt;

/// An error number of Linux.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(pub i32);

macro_rules! numbers {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno($number);)*

            /// The name, where it is one of those that a [`Host`](crate::Host) gives.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Errno::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            const fn text(self) -> &'static str {
                match self {
                    $(Errno::$name => $text,)*
                    _ => "Unknown error.",
                }
            }
        }
    };
}

numbers! {
    EBADF = 9, "No such connection or listener.";
    EAGAIN = 11, "Nothing to read or accept, or no room to write: try again later.";
    EINVAL = 22, "Invalid argument.";
    EPIPE = 32, "This side can not send any more.";
    ENOPROTOOPT = 92, "The peer has no TCP.";
    EADDRINUSE = 98, "The address is in use.";
    EADDRNOTAVAIL = 99, "Not an address of this host, or no port is left.";
    ENETUNREACH = 101, "No way to this network.";
    ECONNABORTED = 103, "This side aborted the connection.";
    ECONNRESET = 104, "The peer reset the connection.";
    EISCONN = 106, "Already connected.";
    ENOTCONN = 107, "Not connected.";
    ETIMEDOUT = 110, "The peer did not answer in time.";
    ECONNREFUSED = 111, "The peer refused the connection.";
    EHOSTUNREACH = 113, "No way to this host.";
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}: {}", self.text())
    }
}

impl std::error::Error for Errno {}

impl From<CloseReason> for Errno {
    fn from(reason: CloseReason) -> Errno {
        match reason.errno() {
            0 => Errno::ENOTCONN,
            number => Errno(number),
        }
    }
}

impl From<UserError> for Errno {
    fn from(error: UserError) -> Errno {
        match error {
            UserError::WouldBlock => Errno::EAGAIN,
            UserError::Closed(reason) => reason.into(),
            UserError::BrokenPipe => Errno::EPIPE,
            UserError::NotConnected => Errno::ENOTCONN,
            _ => Errno::EINVAL,
        }
    }
}
