//! Addresses to try, and in which order.

use super::{ConnectError, keepalive};
use crate::error;
use crate::net::{TcpSocket, TcpStream};
use crate::stack::Stack;
use futures::future::{Either, select};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;
use tokio::time;

/// Between families: hyper-util's. RFC 8305 §5 recommends 250 ms.
const HAPPY_EYEBALLS: Duration = Duration::from_millis(300);

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) stack: Option<Stack>,
    pub(super) enforce_http: bool,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) happy_eyeballs: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) interval: Option<Duration>,
    pub(super) retries: Option<u32>,
    pub(super) local_v4: Option<Ipv4Addr>,
    pub(super) local_v6: Option<Ipv6Addr>,
    pub(super) nodelay: bool,
    pub(super) reuse_address: bool,
    pub(super) send_buffer: Option<usize>,
    pub(super) recv_buffer: Option<usize>,
    pub(super) interface: Option<String>,
    pub(super) user_timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            stack: None,
            enforce_http: true,
            connect_timeout: None,
            happy_eyeballs: Some(HAPPY_EYEBALLS),
            idle: None,
            interval: None,
            retries: None,
            local_v4: None,
            local_v6: None,
            nodelay: false,
            reuse_address: false,
            send_buffer: None,
            recv_buffer: None,
            interface: None,
            user_timeout: None,
        }
    }
}

impl Options {
    /// The first connection that comes about.
    pub(super) async fn connect(&self, addresses: Vec<SocketAddr>) -> Result<TcpStream, ConnectError> {
        let (first, second) = self.by_family(addresses);
        let Some(delay) = self.happy_eyeballs.filter(|_| !second.is_empty()) else {
            return self.connect_in_order(&first).await;
        };
        let preferred = pin!(self.connect_in_order(&first));
        let error = match select(preferred, pin!(time::sleep(delay))).await {
            Either::Left((Ok(stream), _)) => return Ok(stream),
            // There is nothing left to wait for.
            Either::Left((Err(error), _)) => error,
            Either::Right(((), preferred)) => match select(preferred, pin!(self.connect_in_order(&second))).await {
                Either::Left((Ok(stream), _)) | Either::Right((Ok(stream), _)) => return Ok(stream),
                Either::Left((Err(error), other)) => return other.await.map_err(|_| error),
                Either::Right((Err(_), preferred)) => return preferred.await,
            },
        };
        self.connect_in_order(&second).await.map_err(|_| error)
    }

    /// The family of the first address, and the other one. An address to connect from rules a family out.
    fn by_family(&self, mut addresses: Vec<SocketAddr>) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        match (self.local_v4, self.local_v6) {
            (Some(_), None) => addresses.retain(SocketAddr::is_ipv4),
            (None, Some(_)) => addresses.retain(SocketAddr::is_ipv6),
            _ => {}
        }
        if self.happy_eyeballs.is_none() {
            return (addresses, Vec::new());
        }
        let v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
        addresses.into_iter().partition(|addr| addr.is_ipv6() == v6_first)
    }

    /// The error is the first address's: those that follow it are more often out of reach.
    async fn connect_in_order(&self, addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
        let share = self.connect_timeout.map(|most| most / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX));
        let mut first = None;
        for &addr in addresses {
            match self.connect_to(addr, share).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    tracing::debug!(%addr, %error, "not connected");
                    first.get_or_insert(error.at(addr));
                }
            }
        }
        Err(first.unwrap_or_else(|| ConnectError::new("tcp connect error", error::no_addresses())))
    }

    async fn connect_to(&self, addr: SocketAddr, most: Option<Duration>) -> Result<TcpStream, ConnectError> {
        let socket = self.socket(addr).map_err(|error| ConnectError::new("tcp open error", error))?;
        let local = match addr {
            SocketAddr::V4(_) => self.local_v4.map(|ip| SocketAddr::from((ip, 0))),
            SocketAddr::V6(_) => self.local_v6.map(|ip| SocketAddr::from((ip, 0))),
        };
        if let Some(local) = local {
            socket.bind(local).map_err(|error| ConnectError::new("tcp bind local error", error))?;
        }
        let connecting = socket.connect(addr);
        let result = match most {
            Some(most) => time::timeout(most, connecting)
                .await
                .unwrap_or_else(|elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, elapsed))),
            None => connecting.await,
        };
        result.map_err(|error| ConnectError::new("tcp connect error", error))
    }

    fn socket(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        let socket = match (&self.stack, to) {
            (Some(stack), SocketAddr::V4(_)) => stack.socket_v4(),
            (Some(stack), SocketAddr::V6(_)) => stack.socket_v6(),
            (None, SocketAddr::V4(_)) => TcpSocket::new_v4()?,
            (None, SocketAddr::V6(_)) => TcpSocket::new_v6()?,
        };
        socket.set_nodelay(self.nodelay)?;
        socket.set_reuseaddr(self.reuse_address)?;
        if let Some(keepalive) = keepalive(self.idle, self.interval, self.retries) {
            socket.set_keepalive_times(Some(keepalive))?;
        }
        if let Some(most) = self.user_timeout {
            socket.set_user_timeout(Some(most))?;
        }
        if let Some(size) = self.send_buffer {
            socket.set_send_buffer_size(u32::try_from(size).unwrap_or(u32::MAX))?;
        }
        if let Some(size) = self.recv_buffer {
            socket.set_recv_buffer_size(u32::try_from(size).unwrap_or(u32::MAX))?;
        }
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        Ok(socket)
    }
}
