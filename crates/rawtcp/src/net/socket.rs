//! [`TcpSocket`].

use super::{TcpListener, TcpStream};
use crate::cc::Factory;
use crate::connect::ConnectOptions;
use crate::device::Reservation;
use crate::host::{Hold, Host, ListenOptions};
use crate::ports::{Bind, Reuse};
use crate::stack::StackBuilder;
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::{ambient, congestion, error};
use rawtcp_proto::{ConnConfig, Keepalive};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::runtime::Handle;

/// Linux's SOCK_MIN_SNDBUF and SOCK_MIN_RCVBUF, as `getsockopt` shows them.
const MIN_SEND: u32 = 4608;
const MIN_RECV: u32 = 2304;

/// The largest backlog: Linux's `net.core.somaxconn`.
const MAX_BACKLOG: u32 = 4096;

/// The ECN bits of the traffic class, which are TCP's own.
const ECN: u32 = 3;

/// A socket that is neither connected nor listening yet, to set options before: `tokio::net::TcpSocket` on
/// this stack. It can be made outside of a runtime, and belongs to the stack of the one where it begins
/// to [`connect`](Self::connect) or [`listen`](Self::listen).
pub struct TcpSocket {
    v6: bool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// A stack of the caller's; otherwise the runtime's default stack.
    stack: Option<Arc<Host>>,
    bound: Bound,
    options: Options,
}

#[derive(Default)]
enum Bound {
    #[default]
    Not,
    /// In a stack.
    Held(Hold),
    /// Before there was a stack.
    Reserved(Bind, Reservation),
}

/// What was set; the rest is the stack's.
#[derive(Clone, Debug, Default)]
struct Options {
    keepalive: Option<Option<Keepalive>>,
    nodelay: Option<bool>,
    reuse: Reuse,
    /// In bytes, as `getsockopt` shows them: twice what was asked for.
    send_buffer: Option<u32>,
    recv_buffer: Option<u32>,
    linger: Option<Duration>,
    tos: Option<u8>,
    tclass: Option<u8>,
    device: Option<String>,
    user_timeout: Option<Duration>,
    congestion: Option<Factory>,
    /// Instead of the stack's settings.
    config: Option<Arc<ConnConfig>>,
}

impl Options {
    /// What the others are applied to.
    fn base(&self, host: &Host) -> Arc<ConnConfig> {
        self.config.as_ref().unwrap_or(&host.settings.conn).clone()
    }

    fn apply(&self, conn: &mut ConnConfig, v6: bool) {
        if let Some(keepalive) = self.keepalive {
            conn.keepalive = keepalive;
        }
        conn.nodelay = self.nodelay.unwrap_or(conn.nodelay);
        // Half of it is for the kernel's bookkeeping, which is not charged here.
        // A size that was asked for stays, as on Linux.
        if let Some(bytes) = self.send_buffer {
            conn.send_buffer = bytes as usize / 2;
            conn.send_buffer_max = conn.send_buffer;
        }
        if let Some(bytes) = self.recv_buffer {
            conn.recv_buffer = bytes as usize / 2;
            conn.recv_buffer_max = conn.recv_buffer;
        }
        conn.traffic_class = if v6 { self.tclass } else { self.tos }.unwrap_or(conn.traffic_class);
        conn.user_timeout = self.user_timeout.or(conn.user_timeout);
        if let Some(congestion) = &self.congestion {
            conn.congestion = congestion.clone();
        }
    }
}

/// Whole seconds, as `struct linger` has them.
pub(super) fn linger_seconds(linger: Option<Duration>) -> Option<Duration> {
    linger.map(|linger| Duration::from_secs(linger.as_secs()))
}

/// What `getsockopt` shows of a buffer of which `size` bytes were asked for.
fn doubled(size: u32, least: u32) -> u32 {
    (size.min(i32::MAX as u32 / 2) * 2).max(least)
}

fn shown(bytes: usize) -> u32 {
    u32::try_from(bytes.saturating_mul(2)).unwrap_or(u32::MAX)
}

impl TcpSocket {
    /// A socket for IPv4. May be called outside of a runtime.
    ///
    /// # Errors
    /// Never; tokio's may fail.
    pub fn new_v4() -> io::Result<TcpSocket> {
        Ok(TcpSocket { v6: false, inner: Mutex::default() })
    }

    /// A socket for IPv6, and IPv4 by mapped addresses. May be called outside of a runtime.
    ///
    /// # Errors
    /// Never; tokio's may fail.
    pub fn new_v6() -> io::Result<TcpSocket> {
        Ok(TcpSocket { v6: true, inner: Mutex::default() })
    }

    pub(crate) fn of_stack(v6: bool, host: &Arc<Host>) -> TcpSocket {
        TcpSocket { v6, inner: Mutex::new(Inner { stack: Some(host.clone()), ..Inner::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Looks at an option that was set, or at the stack's setting.
    fn option<R>(&self, look: impl FnOnce(&Options, &ConnConfig) -> R) -> io::Result<R> {
        let inner = self.lock();
        Ok(match &inner.stack {
            Some(host) => look(&inner.options, &host.settings.conn),
            None => look(&inner.options, &ConnConfig::default()),
        })
    }

    fn set(&self, change: impl FnOnce(&mut Options)) -> io::Result<()> {
        change(&mut self.lock().options);
        Ok(())
    }

    /// Every setting of the connection, or of all that the listener accepts, instead of the stack's. What is set one by
    /// one on this socket takes precedence. Not in tokio.
    pub fn set_config(&self, config: ConnConfig) {
        // Buffers grow inside the stack's budgets only.
        let config = ConnConfig { recv_buffer_on_request: true, send_buffer_on_request: true, ..config };
        self.lock().options.config = Some(Arc::new(config));
    }

    /// Switches keep-alive (SO_KEEPALIVE), with the times of the stack's settings or of Linux.
    pub fn set_keepalive(&self, keepalive: bool) -> io::Result<()> {
        self.set(|options| options.keepalive = Some(keepalive.then(Keepalive::default)))
    }

    /// Whether keep-alive is on.
    pub fn keepalive(&self) -> io::Result<bool> {
        self.option(|options, conn| options.keepalive.unwrap_or(conn.keepalive).is_some())
    }

    /// Allows to bind a port on which connections of a former listener are left (SO_REUSEADDR).
    pub fn set_reuseaddr(&self, reuseaddr: bool) -> io::Result<()> {
        self.set(|options| options.reuse.addr = reuseaddr)
    }

    /// The value of SO_REUSEADDR.
    pub fn reuseaddr(&self) -> io::Result<bool> {
        self.option(|options, _| options.reuse.addr)
    }

    /// Lets several sockets listen on one address (SO_REUSEPORT): those of one stack, which share their connections.
    /// With other stacks, processes and the kernel an address is not shared: `AddrInUse`.
    pub fn set_reuseport(&self, reuseport: bool) -> io::Result<()> {
        self.set(|options| options.reuse.port = reuseport)
    }

    /// The value of SO_REUSEPORT.
    pub fn reuseport(&self) -> io::Result<bool> {
        self.option(|options, _| options.reuse.port)
    }

    /// Size of the send buffer (SO_SNDBUF). As with Linux, the getter shows twice the value.
    pub fn set_send_buffer_size(&self, size: u32) -> io::Result<()> {
        self.set(|options| options.send_buffer = Some(doubled(size, MIN_SEND)))
    }

    /// Twice the size of the send buffer.
    pub fn send_buffer_size(&self) -> io::Result<u32> {
        self.option(|options, conn| options.send_buffer.unwrap_or(shown(conn.send_buffer)))
    }

    /// Size of the receive buffer (SO_RCVBUF): the largest window. As with Linux, the getter shows twice the value.
    pub fn set_recv_buffer_size(&self, size: u32) -> io::Result<()> {
        self.set(|options| options.recv_buffer = Some(doubled(size, MIN_RECV)))
    }

    /// Twice the size of the receive buffer.
    pub fn recv_buffer_size(&self) -> io::Result<u32> {
        self.option(|options, conn| options.recv_buffer.unwrap_or(shown(conn.recv_buffer)))
    }

    /// Sets the linger time, in whole seconds. Zero makes `drop` reset the connection; other values are stored,
    /// and do not block `drop`.
    #[deprecated = "`SO_LINGER` causes the socket to block the thread on drop"]
    pub fn set_linger(&self, dur: Option<Duration>) -> io::Result<()> {
        self.set(|options| options.linger = linger_seconds(dur))
    }

    /// Makes `drop` of the stream reset the connection.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        self.set(|options| options.linger = Some(Duration::ZERO))
    }

    /// The linger time.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        self.option(|options, _| options.linger)
    }

    /// Sends small segments at once (TCP_NODELAY).
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.set(|options| options.nodelay = Some(nodelay))
    }

    /// Whether small segments are sent at once.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.option(|options, conn| options.nodelay.unwrap_or(conn.nodelay))
    }

    /// The IPv6 traffic class (IPV6_TCLASS).
    ///
    /// # Errors
    /// EOPNOTSUPP on an IPv4 socket.
    pub fn tclass_v6(&self) -> io::Result<u32> {
        if !self.v6 {
            return Err(error::os(error::EOPNOTSUPP));
        }
        self.option(|options, conn| options.tclass.unwrap_or(conn.traffic_class).into())
    }

    /// Sets the IPv6 traffic class. The two ECN bits are TCP's own and stay as they are.
    ///
    /// # Errors
    /// ENOPROTOOPT on an IPv4 socket; EINVAL for more than 255.
    pub fn set_tclass_v6(&self, tclass: u32) -> io::Result<()> {
        if !self.v6 {
            return Err(error::os(error::ENOPROTOOPT));
        }
        let tclass = u8::try_from(tclass).map_err(|_| error::os(error::EINVAL))?;
        self.set(|options| options.tclass = Some(tclass & !(ECN as u8)))
    }

    /// The type of service of IPv4 (IP_TOS).
    pub fn tos_v4(&self) -> io::Result<u32> {
        self.option(|options, conn| options.tos.unwrap_or(conn.traffic_class).into())
    }

    /// The old name of [`tos_v4`](Self::tos_v4).
    #[deprecated(note = "`tos` related methods have been renamed `tos_v4` since they are IPv4-specific.")]
    #[doc(hidden)]
    pub fn tos(&self) -> io::Result<u32> {
        self.tos_v4()
    }

    /// Sets the type of service of IPv4. The two ECN bits are TCP's own and stay as they are.
    pub fn set_tos_v4(&self, tos: u32) -> io::Result<()> {
        self.set(|options| options.tos = Some((tos & 0xff & !ECN) as u8))
    }

    /// The old name of [`set_tos_v4`](Self::set_tos_v4).
    #[deprecated(note = "`tos` related methods have been renamed `tos_v4` since they are IPv4-specific.")]
    #[doc(hidden)]
    pub fn set_tos(&self, tos: u32) -> io::Result<()> {
        self.set_tos_v4(tos)
    }

    /// The interface the socket is bound to (SO_BINDTODEVICE).
    pub fn device(&self) -> io::Result<Option<Vec<u8>>> {
        self.option(|options, _| options.device.clone().map(String::into_bytes))
    }

    /// Binds the socket to an interface: its port is reserved, and its route looked up, on this one only. Packets
    /// leave by the host's routes.
    ///
    /// # Errors
    /// ENODEV if there is no such interface.
    pub fn bind_device(&self, interface: Option<&[u8]>) -> io::Result<()> {
        let Some(name) = interface.filter(|name| !name.is_empty()) else {
            return self.set(|options| options.device = None);
        };
        let name = String::from_utf8(name.to_vec()).map_err(|_| error::os(error::ENODEV))?;
        // The question is only whether the name can be bound to.
        let probe = rawtcp_io::route::lookup((Ipv4Addr::LOCALHOST, 1).into(), None, Some(&name));
        if let Err(error) = probe
            && matches!(error.raw_os_error(), Some(error::ENODEV | error::EPERM))
        {
            return Err(error);
        }
        self.set(|options| options.device = Some(name))
    }

    /// Switches keep-alive with times of the caller's (TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT). Not in tokio.
    pub fn set_keepalive_times(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        self.set(|options| options.keepalive = Some(keepalive))
    }

    /// How long the connection may make no progress before it times out (TCP_USER_TIMEOUT); `None`: as the stack is
    /// set. Not in tokio.
    pub fn set_user_timeout(&self, most: Option<Duration>) -> io::Result<()> {
        self.set(|options| options.user_timeout = most)
    }

    /// The congestion control, by name (TCP_CONGESTION). Not in tokio.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name.
    pub fn set_congestion(&self, name: &str) -> io::Result<()> {
        let factory = congestion::by_name(name)?;
        self.set(|options| options.congestion = Some(factory))
    }

    /// The congestion control, which may be one of the caller's. Not in tokio.
    pub fn set_congestion_control(&self, factory: impl Into<Factory>) -> io::Result<()> {
        let factory = factory.into();
        self.set(|options| options.congestion = Some(factory))
    }

    /// The name of the congestion control. Not in tokio.
    pub fn congestion(&self) -> io::Result<&'static str> {
        self.option(|options, conn| options.congestion.as_ref().unwrap_or(&conn.congestion).name())
    }

    /// The address the socket is bound to; unspecified and port 0 before that.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(match &self.lock().bound {
            Bound::Not => self.any(),
            Bound::Held(hold) => hold.local(),
            Bound::Reserved(request, _) => request.addr,
        })
    }

    /// No error can be pending before the socket is connected.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }

    fn any(&self) -> SocketAddr {
        if self.v6 { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() }
    }

    /// What the kernel says of an address of the other family.
    fn check_family(&self, addr: SocketAddr) -> io::Result<()> {
        match (self.v6, addr) {
            (false, SocketAddr::V6(_)) => Err(error::os(error::EAFNOSUPPORT)),
            (true, SocketAddr::V4(_)) => Err(error::os(error::EINVAL)),
            _ => Ok(()),
        }
    }

    /// Reserves an address and port; 0 means a port of the system's choice. May be called outside of a runtime; then
    /// no other socket shares the address before this one listens.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` for a privileged port; EINVAL if the socket is bound.
    pub fn bind(&self, addr: SocketAddr) -> io::Result<()> {
        self.check_family(addr)?;
        let mut inner = self.lock();
        if !matches!(inner.bound, Bound::Not) {
            return Err(error::os(error::EINVAL));
        }
        let Options { reuse, device, .. } = inner.options.clone();
        let mut request = Bind { addr, v6only: false, reuse, device };
        let host = match inner.stack.clone() {
            // Where there is a runtime, its stack knows who shares an address with whom.
            None if Handle::try_current().is_ok() => Some(ambient::current()?),
            host => host,
        };
        inner.bound = match host {
            Some(host) => Bound::Held(host.bind(&request)?),
            None => {
                let device = StackBuilder::from_env()?.into_settings().device;
                let reservation = Reservation::without_stack(&device, &request)?;
                if reservation.is_shared() && !reuse.addr {
                    return Err(error::os(error::EADDRINUSE));
                }
                request.addr.set_port(reservation.local_addr().port());
                Bound::Reserved(request, reservation)
            }
        };
        Ok(())
    }

    /// The stack, what is reserved in it, and the options.
    fn into_stack(self) -> io::Result<(Arc<Host>, Option<Hold>, Options)> {
        let Inner { stack, bound, options } = self.inner.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let host = match (stack, &bound) {
            (Some(host), _) => host,
            // A kernel socket too stays with what it was bound in.
            (None, Bound::Held(hold)) => hold.host().clone(),
            (None, _) => ambient::current()?,
        };
        let hold = match bound {
            Bound::Not => None,
            Bound::Held(hold) => Some(hold),
            Bound::Reserved(request, reservation) => Some(Hold::adopt(&host, &request, reservation)?),
        };
        Ok((host, hold, options))
    }

    /// Opens a connection, from the bound address if there is one. Dropping the future takes everything back.
    ///
    /// # Errors
    /// As [`TcpStream::connect`]; EAFNOSUPPORT or EINVAL for an address of the other family.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub async fn connect(self, addr: SocketAddr) -> io::Result<TcpStream> {
        self.check_family(addr)?;
        let (host, bound, options) = self.into_stack()?;
        let mut conn = options.base(&host);
        options.apply(Arc::make_mut(&mut conn), addr.ip().to_canonical().is_ipv6());
        let options = ConnectOptions { conn, linger: options.linger, bound, device: options.device };
        host.connect(addr, options).await
    }

    /// Listens on the bound address, or on a port of the system's choice. `backlog` connections may wait for `accept`,
    /// at most 4096. Accepted streams inherit the options.
    ///
    /// # Errors
    /// `AddrInUse` if another socket listens there.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn listen(self, backlog: u32) -> io::Result<TcpListener> {
        let (v6, any) = (self.v6, self.any());
        let (host, bound, options) = self.into_stack()?;
        let Options { reuse, linger, ref device, .. } = options;
        let hold = match bound {
            Some(hold) => hold,
            None => host.bind(&Bind { addr: any, v6only: false, reuse, device: device.clone() })?,
        };
        let mut conn = options.base(&host);
        options.apply(Arc::make_mut(&mut conn), v6);
        let backlog = backlog.min(MAX_BACKLOG) as usize;
        let listen = ListenOptions { v6only: false, backlog, conn, linger, reuseport: reuse.port };
        Ok(TcpListener::new(host.listen_at(hold, listen)?))
    }
}

impl fmt::Debug for TcpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        let mut shown = f.debug_struct("TcpSocket");
        shown.field("family", &if self.v6 { "IPv6" } else { "IPv4" });
        match &inner.bound {
            Bound::Not => {}
            Bound::Held(hold) => drop(shown.field("addr", &hold.local())),
            Bound::Reserved(request, _) => drop(shown.field("addr", &request.addr)),
        }
        shown.field("options", &inner.options).finish()
    }
}
