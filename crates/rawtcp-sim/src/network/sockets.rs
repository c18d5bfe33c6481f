//! The hosts' sockets, with the network's clock.

use super::{HostId, Network};
use crate::host::{ConnId, Errno, ListenerId, Shutdown};
use rawtcp_proto::{ConnConfig, Connection, FourTuple, State, TcpInfo};
use std::net::SocketAddr;

/// A connection of one host of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket {
    /// The host.
    pub host: HostId,
    /// The connection.
    pub conn: ConnId,
}

/// A listener of one host of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The host.
    pub host: HostId,
    /// The listener.
    pub id: ListenerId,
    /// Where it listens.
    pub addr: SocketAddr,
}

/// The calls of [`Host`](crate::Host), at the present time; what they cause to be sent leaves at once.
/// Errors are those of the host's calls.
#[allow(clippy::missing_errors_doc)]
impl Network {
    /// Listens on a host.
    pub fn listen(&mut self, host: HostId, addr: SocketAddr, config: &ConnConfig) -> Result<Listening, Errno> {
        let id = self.host_mut(host).listen(addr, config)?;
        let addr = self.host(host).listener_addr(id).unwrap_or(addr);
        Ok(Listening { host, id, addr })
    }

    /// Takes a connection that waits.
    pub fn accept(&mut self, listener: Listening) -> Result<Socket, Errno> {
        let conn = self.host_mut(listener.host).accept(listener.id)?;
        Ok(Socket { host: listener.host, conn })
    }

    /// Stops listening.
    pub fn close_listener(&mut self, listener: Listening) {
        let now = self.now();
        self.host_mut(listener.host).close_listener(now, listener.id);
        self.flush_host(listener.host);
    }

    /// Opens a connection.
    pub fn connect(&mut self, host: HostId, remote: SocketAddr, config: &ConnConfig) -> Result<Socket, Errno> {
        let now = self.now();
        let conn = self.host_mut(host).connect(now, remote, config)?;
        self.flush_host(host);
        Ok(Socket { host, conn })
    }

    /// A connection between two hosts, established: the opener's end and the listener's.
    ///
    /// # Panics
    /// If it does not come to be.
    pub fn connected(&mut self, from: HostId, to: HostId, config: &ConnConfig) -> (Socket, Socket) {
        self.connected_with(from, to, config, config)
    }

    /// As [`connected`](Self::connected), with different settings for the opener and the listener.
    ///
    /// # Panics
    /// If it does not come to be.
    pub fn connected_with(
        &mut self,
        from: HostId,
        to: HostId,
        opener: &ConnConfig,
        listener: &ConnConfig,
    ) -> (Socket, Socket) {
        let addr = SocketAddr::new(self.host(to).config().addresses[0], 0);
        let listening = self.listen(to, addr, listener).expect("an address of the host");
        let a = self.connect(from, listening.addr, opener).expect("a way to the host");
        let mut b = None;
        let made = self.run_until(|net| {
            b = b.or_else(|| net.accept(listening).ok());
            b.is_some() && net.state(a) != State::SynSent
        });
        let b = b.filter(|_| made && self.state(a) == State::Established);
        self.close_listener(listening);
        (a, b.expect("the connection is made"))
    }

    fn on<R>(&mut self, socket: Socket, call: impl FnOnce(&mut crate::Host, rawtcp_proto::Instant) -> R) -> R {
        let now = self.now();
        let result = call(self.host_mut(socket.host), now);
        self.flush_host(socket.host);
        result
    }

    /// Writes as much as there is room for.
    pub fn write(&mut self, socket: Socket, data: &[u8]) -> Result<usize, Errno> {
        self.on(socket, |host, now| host.write(now, socket.conn, data))
    }

    /// Reads what is there.
    pub fn read(&mut self, socket: Socket, out: &mut [u8]) -> Result<usize, Errno> {
        self.on(socket, |host, now| host.read(now, socket.conn, out))
    }

    /// Reads all that is there; says whether the stream ended behind it.
    pub fn read_all(&mut self, socket: Socket, out: &mut Vec<u8>) -> Result<bool, Errno> {
        let mut buf = [0; 16 * 1024];
        loop {
            match self.read(socket, &mut buf) {
                Ok(0) => return Ok(true),
                Ok(n) => out.extend_from_slice(&buf[..n]),
                Err(Errno::EAGAIN) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads without taking out.
    pub fn peek(&mut self, socket: Socket, out: &mut [u8]) -> Result<usize, Errno> {
        self.on(socket, |host, _| host.peek(socket.conn, out))
    }

    /// Shuts down.
    pub fn shutdown(&mut self, socket: Socket, how: Shutdown) -> Result<(), Errno> {
        self.on(socket, |host, now| host.shutdown(now, socket.conn, how))
    }

    /// Closes.
    pub fn close(&mut self, socket: Socket) {
        self.on(socket, |host, now| host.close(now, socket.conn));
    }

    /// Resets.
    pub fn abort(&mut self, socket: Socket) {
        self.on(socket, |host, now| host.abort(now, socket.conn));
    }

    /// Acts on the connection itself.
    pub fn with<R>(&mut self, socket: Socket, act: impl FnOnce(&mut Connection) -> R) -> Result<R, Errno> {
        self.on(socket, |host, _| host.with(socket.conn, act))
    }

    /// The state.
    pub fn state(&self, socket: Socket) -> State {
        self.host(socket.host).state(socket.conn)
    }

    /// TCP_INFO.
    ///
    /// # Panics
    /// If the connection is gone.
    pub fn info(&self, socket: Socket) -> TcpInfo {
        self.host(socket.host).info_at(self.now(), socket.conn).expect("the connection is there")
    }

    /// The ends.
    ///
    /// # Panics
    /// If the connection is gone.
    pub fn tuple(&self, socket: Socket) -> FourTuple {
        self.host(socket.host).tuple(socket.conn).expect("the connection is there")
    }
}
