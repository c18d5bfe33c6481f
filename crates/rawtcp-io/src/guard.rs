//! Keeping the kernel silent on a port that is ours, and other programs off it.
//!
//! A guard is a kernel socket which listens on the port behind a filter that drops everything: raw sockets still see
//! every segment, the kernel answers none, the port is reserved, and all of it vanishes with the process. It needs no
//! privilege and no firewall rule.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

use crate::filter;

/// What to reserve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardRequest {
    /// Address and port. Port 0: the kernel chooses one of its ephemeral range.
    pub addr: SocketAddr,
    /// For `[::]`: IPv6 only. `false` reserves the port for IPv4 as well.
    pub v6only: bool,
    /// Reserve it on this interface only.
    pub device: Option<String>,
}

/// A reserved port; freed on drop.
#[derive(Debug)]
pub struct Guard {
    /// Held for its existence only.
    _socket: Socket,
    local: SocketAddr,
    shared: bool,
}

impl Guard {
    /// Reserves a port in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Exactly what the kernel says: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` (privileged port) …
    pub fn bind(request: &GuardRequest) -> io::Result<Self> {
        let (socket, shared) = match bind(request, false) {
            // Port 0 with SO_REUSEADDR might give a port on which the kernel still has connections: no.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && request.addr.port() != 0 => {
                (bind(request, true)?, true)
            }
            result => (result?, false),
        };
        // Before `listen`, or the kernel would answer the first SYN.
        filter::attach(&socket, &filter::drop_all())?;
        // With SO_REUSEADDR two sockets may be bound to a port, but only one listens: this may be AddrInUse too.
        socket.listen(1)?;
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { _socket: socket, local, shared })
    }

    /// The reserved address, with the port the kernel chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The kernel had connections (or TIME-WAIT) on this port when it was reserved. They go on working, and our raw
    /// sockets see their segments: never reset what fits no connection of ours without asking
    /// [`diag::owner`](crate::diag::owner).
    pub fn is_shared(&self) -> bool {
        self.shared
    }
}

fn bind(request: &GuardRequest, reuse: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(request.addr), Type::STREAM, Some(Protocol::TCP))?;
    if request.addr.is_ipv6() {
        socket.set_only_v6(request.v6only)?;
    }
    if let Some(device) = &request.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if reuse {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&request.addr.into())?;
    Ok(socket)
}
