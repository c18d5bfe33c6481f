//! The socket-like surface of a host.

use super::{Backlog, Conn, ConnId, Errno, Host, Listener, ListenerId, StateCounts};
use rawtcp_proto::cc::Algorithm;
use rawtcp_proto::stack::{Claim, ListenConfig};
use rawtcp_proto::{
    CloseReason, ConnConfig, Connection, Duration, Events, FourTuple, Instant, Keepalive, Path, State, TcpInfo,
    UserError, is_unicast,
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The backlog of `listen` where none is given, as tokio's.
const BACKLOG: usize = 1024;

/// Which direction to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// A read that finds nothing says that the stream has ended.
    Read,
    /// A FIN goes out behind everything written.
    Write,
    /// Both.
    Both,
}

impl Host {
    /// Listens on an address of this host, or on a wildcard; port 0 means one that is free. Accepted
    /// connections have these settings. The backlog is 1024.
    ///
    /// # Errors
    /// EADDRNOTAVAIL (not an address of this host, or no port left), EADDRINUSE.
    pub fn listen(&mut self, addr: SocketAddr, config: &ConnConfig) -> Result<ListenerId, Errno> {
        self.listen_with_backlog(addr, config, BACKLOG)
    }

    /// As [`listen`](Self::listen), with this backlog: one connection more than it says may wait to be
    /// accepted, as on Linux.
    ///
    /// # Errors
    /// Those of `listen`.
    pub fn listen_with_backlog(
        &mut self,
        addr: SocketAddr,
        config: &ConnConfig,
        backlog: usize,
    ) -> Result<ListenerId, Errno> {
        if !addr.ip().is_unspecified() && !self.config.addresses.contains(&addr.ip()) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let taken = |addr: SocketAddr| self.listeners.values().any(|l| overlap(l.local, l.v6only, addr, false));
        let local = match addr.port() {
            0 => {
                let mut free = self.config.ports.clone().map(|port| SocketAddr::new(addr.ip(), port));
                free.find(|&local| !taken(local)).ok_or(Errno::EADDRNOTAVAIL)?
            }
            _ if taken(addr) => return Err(Errno::EADDRINUSE),
            _ => addr,
        };
        let id = ListenerId(self.next_id);
        self.next_id += 1;
        let queued = Arc::new(AtomicUsize::new(0));
        let handle = Backlog { id, queued: queued.clone(), limit: backlog };
        let config = ListenConfig {
            v6only: false,
            shared: false,
            max_half_open: backlog.max(128),
            mtu: self.config.mtu,
            conn: Arc::new(self.traced(config)),
        };
        self.stack.listen(local, handle, config);
        self.listeners.insert(id, Listener { local, v6only: false, queue: Default::default(), queued });
        Ok(id)
    }

    /// Where a listener listens.
    pub fn listener_addr(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.listeners.get(&listener).map(|l| l.local)
    }

    /// Stops listening. Half-open connections and those that nobody accepted are reset.
    pub fn close_listener(&mut self, now: Instant, listener: ListenerId) {
        let Some(gone) = self.listeners.remove(&listener) else { return };
        let resets = self.stack.unlisten(gone.local);
        self.replies.extend(resets);
        gone.queue.into_iter().for_each(|id| self.abort(now, id));
    }

    /// The oldest connection that waits to be accepted.
    ///
    /// # Errors
    /// EAGAIN (none does), EBADF.
    pub fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Errno> {
        let listener = self.listeners.get_mut(&listener).ok_or(Errno::EBADF)?;
        let id = listener.queue.pop_front().ok_or(Errno::EAGAIN)?;
        listener.queued.store(listener.queue.len(), Ordering::Relaxed);
        Ok(id)
    }

    /// Opens a connection from this host's first address of the peer's family and a port that it
    /// chooses. The connection is made when its [state](Self::state) is ESTABLISHED, and has failed when
    /// that is CLOSED; [`take_error`](Self::take_error) says why.
    ///
    /// # Errors
    /// ENETUNREACH (not one host's address, or of a family without an address here), ECONNREFUSED (port
    /// 0), EADDRNOTAVAIL (no port is left).
    pub fn connect(&mut self, now: Instant, remote: SocketAddr, config: &ConnConfig) -> Result<ConnId, Errno> {
        let same = |address: &&IpAddr| address.is_ipv4() == remote.is_ipv4();
        let source = *self.config.addresses.iter().find(same).ok_or(Errno::ENETUNREACH)?;
        self.connect_from(now, SocketAddr::new(source, 0), remote, config)
    }

    /// As [`connect`](Self::connect), from this address; port 0 means one that the host chooses.
    ///
    /// # Errors
    /// Those of `connect`, and EADDRINUSE (the four-tuple is taken).
    pub fn connect_from(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        config: &ConnConfig,
    ) -> Result<ConnId, Errno> {
        if !is_unicast(remote.ip()) {
            // RFC 9293 §3.9.1.1 [MUST-46]: a local error.
            return Err(Errno::ENETUNREACH);
        }
        if remote.port() == 0 {
            return Err(Errno::ECONNREFUSED);
        }
        if !self.config.addresses.contains(&local.ip()) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if local.port() != 0 {
            return self.open(now, FourTuple::new(local, remote), config).ok_or(Errno::EADDRINUSE);
        }
        let first = *self.config.ports.start();
        let candidates = self.config.ports.len();
        // Taken out while it chooses, for it asks the host.
        let Some(mut chooser) = self.chooser.take() else { return Err(Errno::EADDRNOTAVAIL) };
        let mut opened = None;
        chooser.choose(local.ip(), remote, candidates, |i| {
            let local = SocketAddr::new(local.ip(), first + i as u16);
            opened = self.open(now, FourTuple::new(local, remote), config);
            opened.is_some()
        });
        self.chooser = Some(chooser);
        opened.ok_or(Errno::EADDRNOTAVAIL)
    }

    fn open(&mut self, now: Instant, tuple: FourTuple, config: &ConnConfig) -> Option<ConnId> {
        if self.listeners.values().any(|l| overlap(l.local, l.v6only, tuple.local, true)) {
            return None;
        }
        let isn = self.stack.isn(now, &tuple);
        let iss = match self.stack.claim(now, tuple) {
            Claim::Free => isn,
            Claim::TimeWaitReuse(record) => {
                self.expire(&tuple);
                record.next_iss(isn)
            }
            Claim::InUse => return None,
        };
        let ts_offset = self.stack.ts_offset(&tuple);
        let path = Path { mtu: self.config.mtu };
        let id = self.adopt(Connection::connect(now, &self.traced(config).into(), tuple, iss, ts_offset, path));
        self.stack.insert(tuple, id);
        self.act(id, |_| ());
        Some(id)
    }

    /// A connection that the application holds.
    fn held(&self, id: ConnId) -> Result<&Conn, Errno> {
        self.conns.get(&id).filter(|conn| conn.held).ok_or(Errno::EBADF)
    }

    fn call<R>(&mut self, id: ConnId, call: impl FnOnce(&mut Connection) -> R) -> Result<R, Errno> {
        self.held(id)?;
        self.act(id, call).ok_or(Errno::EBADF)
    }

    /// Queues as much as there is room for, and says how much that was.
    ///
    /// # Errors
    /// EAGAIN (no room), EPIPE (shut down), EBADF, or once the error that ended the connection.
    pub fn write(&mut self, now: Instant, id: ConnId, data: &[u8]) -> Result<usize, Errno> {
        Ok(self.call(id, |conn| conn.write(now, data))??)
    }

    /// Takes received bytes out; 0 is the end of the stream.
    ///
    /// # Errors
    /// EAGAIN (nothing there yet), EBADF, or once the error that ended the connection.
    pub fn read(&mut self, now: Instant, id: ConnId, out: &mut [u8]) -> Result<usize, Errno> {
        let read = self.call(id, |conn| conn.read(now, out))?;
        self.at_end(id, read)
    }

    /// Copies received bytes without taking them out.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn peek(&mut self, id: ConnId, out: &mut [u8]) -> Result<usize, Errno> {
        let peeked = self.call(id, |conn| conn.peek(out))?;
        self.at_end(id, peeked)
    }

    /// Behind `shutdown(Read)` nothing there is the end.
    fn at_end(&self, id: ConnId, read: Result<usize, UserError>) -> Result<usize, Errno> {
        match read {
            Err(UserError::WouldBlock) if self.held(id)?.read_shut => Ok(0),
            read => Ok(read?),
        }
    }

    /// Shuts one or both directions down. As on Linux, shutting down reading puts nothing on the wire:
    /// what arrives is still acknowledged and can be read, and where there is nothing, the stream ends.
    ///
    /// # Errors
    /// ENOTCONN, EBADF.
    pub fn shutdown(&mut self, now: Instant, id: ConnId, how: Shutdown) -> Result<(), Errno> {
        if how != Shutdown::Read {
            self.call(id, |conn| conn.shutdown(now))??;
        }
        let conn = self.conns.get_mut(&id).filter(|conn| conn.held).ok_or(Errno::EBADF)?;
        conn.read_shut |= how != Shutdown::Write;
        Ok(())
    }

    /// Lets go of a connection. Unread data: it is reset; otherwise it ends in order, without the
    /// application.
    pub fn close(&mut self, now: Instant, id: ConnId) {
        if self.call(id, |conn| conn.close(now)).is_ok() {
            self.let_go(id);
        }
    }

    /// Lets go of a connection with a reset.
    pub fn abort(&mut self, now: Instant, id: ConnId) {
        if self.call(id, |conn| conn.abort(now)).is_ok() {
            self.let_go(id);
        }
    }

    fn let_go(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.held = false;
        }
    }

    /// The state of a connection, also after the application has let go of it; CLOSED once it is gone.
    pub fn state(&self, id: ConnId) -> State {
        match self.conns.get(&id) {
            Some(conn) if !conn.expired => conn.connection.state(),
            _ => State::Closed,
        }
    }

    /// Linux's TCP_INFO, as of the last time that something happened; `None` once the connection is gone.
    pub fn info(&self, id: ConnId) -> Option<TcpInfo> {
        let mut info = self.conns.get(&id)?.connection.info();
        info.state = self.state(id);
        Some(info)
    }

    /// Linux's TCP_INFO at present.
    pub fn info_at(&self, now: Instant, id: ConnId) -> Option<TcpInfo> {
        let mut info = self.conns.get(&id)?.connection.info_at(now);
        info.state = self.state(id);
        Some(info)
    }

    /// The two ends of a connection.
    pub fn tuple(&self, id: ConnId) -> Option<FourTuple> {
        self.conns.get(&id).map(|conn| *conn.connection.tuple())
    }

    /// What happened to a connection since the last call. Events are collected by
    /// [`poll_transmit`](Self::poll_transmit).
    pub fn take_events(&mut self, id: ConnId) -> Events {
        self.conns.get_mut(&id).map(|conn| std::mem::take(&mut conn.events)).unwrap_or_default()
    }

    /// SO_ERROR: the error that the application has not seen yet. Asking clears it.
    pub fn take_error(&mut self, id: ConnId) -> Option<Errno> {
        self.call(id, Connection::take_error).ok().flatten().map(Errno::from)
    }

    /// Why a connection ended, if it has.
    pub fn close_reason(&self, id: ConnId) -> Option<CloseReason> {
        self.conns.get(&id)?.connection.close_reason()
    }

    /// The connection itself, to look at.
    pub fn connection(&self, id: ConnId) -> Option<&Connection> {
        self.conns.get(&id).map(|conn| &conn.connection)
    }

    /// The connection itself, to act upon: for what has no method here.
    ///
    /// # Errors
    /// EBADF.
    pub fn with<R>(&mut self, id: ConnId, act: impl FnOnce(&mut Connection) -> R) -> Result<R, Errno> {
        self.call(id, act)
    }

    /// All connections in the order in which they were made, with their states.
    pub fn connections(&self) -> impl Iterator<Item = (ConnId, FourTuple, State)> {
        self.conns.iter().map(|(&id, conn)| (id, *conn.connection.tuple(), self.state(id)))
    }

    /// How many connections are in which state.
    pub fn counts(&self) -> StateCounts {
        let table = self.stack.counts();
        let mut counts = StateCounts::default();
        counts.listen = self.listeners.len();
        counts.add(State::SynReceived, table.half_open);
        counts.add(State::TimeWait, table.time_wait);
        for conn in self.conns.values() {
            match conn.connection.state() {
                State::TimeWait => counts.add(State::Closed, usize::from(conn.expired)),
                state => counts.add(state, 1),
            }
        }
        counts
    }
}

/// Options of a live connection. Everything else is decided by [`ConnConfig`] when it begins.
impl Host {
    /// TCP_NODELAY: on switches Nagle's rule off.
    ///
    /// # Errors
    /// EBADF, as all of these.
    pub fn set_nodelay(&mut self, id: ConnId, nodelay: bool) -> Result<(), Errno> {
        self.call(id, |conn| conn.set_nodelay(nodelay))
    }

    /// TCP_QUICKACK.
    pub fn set_quickack(&mut self, id: ConnId, quick: bool) -> Result<(), Errno> {
        self.call(id, |conn| conn.set_quickack(quick))
    }

    /// IP_TTL, or the hop limit.
    pub fn set_ttl(&mut self, id: ConnId, ttl: u8) -> Result<(), Errno> {
        self.call(id, |conn| conn.set_ttl(ttl))
    }

    /// IP_TOS, or the traffic class.
    pub fn set_traffic_class(&mut self, id: ConnId, traffic_class: u8) -> Result<(), Errno> {
        self.call(id, |conn| conn.set_traffic_class(traffic_class))
    }

    /// SO_SNDBUF, in bytes.
    pub fn set_send_buffer(&mut self, id: ConnId, bytes: usize) -> Result<(), Errno> {
        self.call(id, |conn| conn.set_send_buffer(bytes))
    }

    /// SO_RCVBUF, in bytes.
    pub fn set_recv_buffer(&mut self, id: ConnId, bytes: usize) -> Result<(), Errno> {
        self.call(id, |conn| conn.set_recv_buffer(bytes))
    }

    /// TCP_USER_TIMEOUT.
    pub fn set_user_timeout(&mut self, id: ConnId, timeout: Option<Duration>) -> Result<(), Errno> {
        self.call(id, |conn| conn.set_user_timeout(timeout))
    }

    /// SO_KEEPALIVE with its times.
    pub fn set_keepalive(&mut self, now: Instant, id: ConnId, keepalive: Option<Keepalive>) -> Result<(), Errno> {
        self.call(id, |conn| conn.set_keepalive(now, keepalive))
    }

    /// The congestion control that connections with these settings get, by name.
    pub fn congestion_controls() -> impl Iterator<Item = Algorithm> {
        Algorithm::ALL.iter().copied()
    }
}

/// Whether a listener on `a` takes what comes to `b`. `exact`: `b` is one end of a connection.
fn overlap(a: SocketAddr, a_v6only: bool, b: SocketAddr, exact: bool) -> bool {
    if a.port() != b.port() {
        return false;
    }
    let wild = |addr: SocketAddr| addr.ip().is_unspecified();
    if a.is_ipv4() == b.is_ipv4() {
        return a.ip() == b.ip() || wild(a) || (!exact && wild(b));
    }
    // A dual-stack wildcard takes the other family's packets too.
    (a.is_ipv6() && wild(a) && !a_v6only) || (!exact && b.is_ipv6() && wild(b))
}
