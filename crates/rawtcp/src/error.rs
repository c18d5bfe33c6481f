//! The only map from what the protocol says to `io::Error`: the errno that a kernel socket would give.

use rawtcp_proto::{CloseReason, UserError};
use std::io;

/// tokio's words for an operation whose runtime has gone; its `is_rt_shutdown_err` compares them.
pub(crate) const RUNTIME_SHUTDOWN: &str = "A Tokio 1.x context was found, but it is being shutdown.";

pub(crate) const EPERM: i32 = 1;
pub(crate) const ENOENT: i32 = 2;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const ENODEV: i32 = 19;
pub(crate) const EPIPE: i32 = 32;
pub(crate) const ENOPROTOOPT: i32 = 92;
pub(crate) const EOPNOTSUPP: i32 = 95;
pub(crate) const EAFNOSUPPORT: i32 = 97;
pub(crate) const ENOTCONN: i32 = 107;
pub(crate) const EADDRINUSE: i32 = 98;
pub(crate) const EADDRNOTAVAIL: i32 = 99;
pub(crate) const ENETDOWN: i32 = 100;
pub(crate) const ENETUNREACH: i32 = 101;
pub(crate) const ECONNREFUSED: i32 = 111;
pub(crate) const EINVAL: i32 = 22;

/// The error of an errno, with the kind that the standard library gives it.
pub(crate) fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// The error of a connection that ended for this reason.
pub(crate) fn from_reason(reason: CloseReason) -> io::Error {
    match reason.errno() {
        0 => os(ENOTCONN),
        errno => os(errno),
    }
}

/// The error of a call that was not carried out.
pub(crate) fn from_user(error: UserError) -> io::Error {
    match error {
        UserError::WouldBlock => io::ErrorKind::WouldBlock.into(),
        UserError::Closed(reason) => from_reason(reason),
        UserError::BrokenPipe => os(EPIPE),
        UserError::NotConnected => os(ENOTCONN),
        _ => os(EINVAL),
    }
}

/// The stack's driver has gone: nothing will ever happen on this stack again.
pub(crate) fn gone() -> io::Error {
    io::Error::other(RUNTIME_SHUTDOWN)
}

/// What tokio says when a host name has no address.
pub(crate) fn no_addresses() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "could not resolve to any address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_kind_and_errno_of_a_kernel_socket() {
        let table = [
            (CloseReason::Reset, 104, io::ErrorKind::ConnectionReset),
            (CloseReason::Refused, 111, io::ErrorKind::ConnectionRefused),
            (CloseReason::TimedOut, 110, io::ErrorKind::TimedOut),
            (CloseReason::NetUnreachable, 101, io::ErrorKind::NetworkUnreachable),
            (CloseReason::HostUnreachable, 113, io::ErrorKind::HostUnreachable),
            (CloseReason::Prohibited, 113, io::ErrorKind::HostUnreachable),
            (CloseReason::Aborted, 103, io::ErrorKind::ConnectionAborted),
            (CloseReason::Internal, 103, io::ErrorKind::ConnectionAborted),
        ];
        for (reason, errno, kind) in table {
            let error = from_user(UserError::Closed(reason));
            assert_eq!((error.raw_os_error(), error.kind()), (Some(errno), kind), "{reason:?}");
        }
        assert_eq!(from_user(UserError::BrokenPipe).kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(from_user(UserError::NotConnected).kind(), io::ErrorKind::NotConnected);
        assert_eq!(from_user(UserError::WouldBlock).kind(), io::ErrorKind::WouldBlock);
        assert_eq!(gone().to_string(), RUNTIME_SHUTDOWN);
    }
}
