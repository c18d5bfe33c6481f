//! Keeping the kernel silent on a port that is ours, and other programs off it.
//!
//! A guard is a kernel socket which listens on the port and never takes a segment: raw sockets still see every one, the kernel
//! answers none, the port is reserved, and all of it vanishes with the process. It needs no privilege and no firewall rule.
//!
//! What makes it deaf is a key: the kernel drops in silence what is not signed with it (RFC 2385 §2.0), and nobody has the key.
//! Where the kernel knows no signatures a filter that drops everything does it instead. That takes it 7 µs longer, and from
//! Linux 6.18 on CAP_NET_ADMIN.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::rand::{GetRandomFlags, getrandom};
use socket2::{Domain, Protocol, Socket, Type};

use crate::filter;
use crate::sys::{self, SignatureKey};

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

/// A reserved port; freed on drop, also where a child process that has yet to run its program has copies of our descriptors.
#[derive(Debug)]
pub struct Guard {
    /// Held for its existence only.
    socket: Socket,
    local: SocketAddr,
    shared: bool,
    partial: bool,
    namespace: Option<u64>,
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
        if let Err(error) = demand_signatures(&socket, request) {
            // Say why the first way is barred: that is what can be mended.
            filter::attach(&socket, &filter::drop_all()).map_err(|_| error)?;
        }
        // With SO_REUSEADDR two sockets may be bound to a port, but only one listens: this may be AddrInUse too.
        socket.listen(1)?;
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        let namespace = sys::namespace_cookie(socket.as_fd());
        Ok(Self { socket, local, shared, partial: request.device.is_some(), namespace })
    }

    /// Asks the kernel whether a socket may be bound to an address, in the network namespace of the calling thread; no
    /// port is taken.
    ///
    /// # Errors
    /// What the kernel says: `AddrNotAvailable` if this host does not have it.
    pub fn check_address(addr: SocketAddr, device: Option<&str>) -> io::Result<()> {
        if addr.ip().is_unspecified() {
            return Ok(());
        }
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(device) = device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // Otherwise port 0 takes one, of which there may be none.
        sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1 as libc::c_int)?;
        let mut addr = addr;
        addr.set_port(0);
        socket.bind(&addr.into())
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

    /// The cookie of its network namespace, as of [`RawIpV4::namespace`](crate::RawIpV4::namespace).
    pub fn namespace(&self) -> Option<u64> {
        self.namespace
    }

    /// Nothing that comes to this address and port is the kernel's, by whichever interface: the port is not
    /// [shared](Self::is_shared), nor reserved on one interface only.
    pub fn is_whole(&self) -> bool {
        !self.shared && !self.partial
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A child that another thread begins has copies of all descriptors from fork to exec: closed by us alone, the socket would go
        // on listening there, deaf. So it stops to listen, for all who have it, and whoever sets SO_REUSEADDR, as servers do, may
        // bind to the port. A port of the kernel's choice is free altogether. Neither can fail with a socket that listens.
        let _ = self.socket.set_reuse_address(true);
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A key of this process, which is told to the kernel only.
fn secret() -> io::Result<[u8; 16]> {
    static SECRET: OnceLock<[u8; 16]> = OnceLock::new();
    if let Some(secret) = SECRET.get() {
        return Ok(*secret);
    }
    let mut secret = [0; 16];
    let given = rustix::io::retry_on_intr(|| getrandom(&mut secret, GetRandomFlags::empty()))?;
    if given < secret.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(*SECRET.get_or_init(|| secret))
}

/// Has the kernel drop whatever any peer sends unsigned. A peer's address decides over the key: for IPv4 peers of a dual-stack
/// socket it is asked for by their own family.
fn demand_signatures(socket: &Socket, request: &GuardRequest) -> io::Result<()> {
    let secret = secret()?;
    let of_all =
        |family: IpAddr| sys::set_signature_key(socket.as_fd(), &SignatureKey { peers: (family, 0), secret: &secret });
    if request.addr.is_ipv4() {
        return of_all(Ipv4Addr::UNSPECIFIED.into());
    }
    of_all(Ipv6Addr::UNSPECIFIED.into())?;
    if request.v6only { Ok(()) } else { of_all(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into()) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// The copy is what a child process has that another thread begins, from fork to exec.
    #[test]
    fn a_port_is_free_although_a_child_has_a_copy() {
        for wanted in ["127.0.0.1:0", "[::1]:0"] {
            let request = GuardRequest { addr: wanted.parse().unwrap(), v6only: false, device: None };
            let chosen = Guard::bind(&request).unwrap();
            let chosen_copy = chosen.socket.try_clone().unwrap();
            let addr = chosen.local_addr();
            drop(chosen);
            // Asked for by number, it is bound still, but not in the way of a server.
            let asked = Guard::bind(&GuardRequest { addr, ..request }).unwrap();
            let asked_copy = asked.socket.try_clone().unwrap();
            assert!(!asked.is_shared(), "{addr} was free altogether");
            assert_eq!(TcpListener::bind(addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(asked);
            let listener = TcpListener::bind(addr).unwrap();
            let client = TcpStream::connect(addr).unwrap();
            assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
            drop((chosen_copy, asked_copy));
        }
    }
}
