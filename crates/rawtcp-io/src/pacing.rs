//! Pacing of the kernel's TCP, for comparisons with it.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

/// Lets a kernel socket send at no more than so many bytes a second (SO_MAX_PACING_RATE); from then on its TCP paces.
pub fn set_max_pacing_rate(socket: impl AsFd, bytes_per_second: u64) -> io::Result<()> {
    // SAFETY: the option's value is a live u64, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const bytes_per_second).cast(),
            mem::size_of::<u64>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcp_socket_takes_a_rate_and_a_pipe_does_not() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        set_max_pacing_rate(&socket, 1_250_000).unwrap();
        let (pipe, _other) = io::pipe().unwrap();
        assert_eq!(set_max_pacing_rate(&pipe, 1).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}
