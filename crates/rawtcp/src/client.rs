//! A connector for hyper-util's legacy client and for tonic's channels.

mod connecting;

use crate::net::TcpStream;
use crate::stack::Stack;
use crate::sync::Arc;
use connecting::Options;
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::TokioIo;
use rawtcp_proto::Keepalive;
use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// Opens connections for `http` URIs: `hyper_util::client::legacy::connect::HttpConnector` on this stack, with the same
/// settings.
///
/// A name is looked up by the resolver, the system's unless another is given. Where it has addresses of both families, the
/// family of the first is tried first; the other one follows when all of those failed, or in parallel after 300 ms (RFC
/// 8305 §5), and the first connection wins. Within a family addresses are tried in order.
///
/// ```
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use rawtcp::client::{HttpConnector, HttpInfo};
/// use rawtcp::{Device, Stack};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stack = Stack::builder().device(Device::Loopback).build()?; // stays inside the process
/// let listener = stack.bind("127.0.0.1:8080").await?;
/// tokio::spawn(async move {
///     let (mut stream, _) = listener.accept().await?;
///     stream.read(&mut [0; 1024]).await?; // the request
///     stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await
/// });
///
/// let mut connector = HttpConnector::new();
/// connector.set_stack(stack); // without it: the runtime's default stack
/// connector.set_nodelay(true);
/// let client: Client<_, String> = Client::builder(TokioExecutor::new()).build(connector);
///
/// let answer = client.get("http://127.0.0.1:8080/".parse()?).await?;
/// assert_eq!(answer.status(), 204);
/// let info = answer.extensions().get::<HttpInfo>().unwrap();
/// assert_eq!(info.remote_addr(), "127.0.0.1:8080".parse()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HttpConnector<R = GaiResolver> {
    options: Arc<Options>,
    resolver: R,
}

impl HttpConnector {
    /// A connector with the system's resolver.
    pub fn new() -> Self {
        HttpConnector::new_with_resolver(GaiResolver::new())
    }
}

impl Default for HttpConnector {
    fn default() -> Self {
        HttpConnector::new()
    }
}

impl<R> HttpConnector<R> {
    /// A connector with a resolver of one's own: a service from [`Name`] to an iterator of [`SocketAddr`].
    pub fn new_with_resolver(resolver: R) -> Self {
        HttpConnector { options: Arc::default(), resolver }
    }

    fn options(&mut self) -> &mut Options {
        Arc::make_mut(&mut self.options)
    }

    /// The stack that connects. Default: that of the runtime in which the connection is opened. Not in hyper-util.
    pub fn set_stack(&mut self, stack: Stack) {
        self.options().stack = Some(stack);
    }

    /// Whether other schemes than `http` are refused, as by default. A connector for TLS around this one wants it off.
    pub fn enforce_http(&mut self, is_enforced: bool) {
        self.options().enforce_http = is_enforced;
    }

    /// The idle time before the first keep-alive probe. Keep-alive is on when any of its three values is set; the others
    /// are 75 s between probes and 9 of them. Default: off.
    pub fn set_keepalive(&mut self, idle: Option<Duration>) {
        self.options().idle = idle;
    }

    /// The time between keep-alive probes.
    pub fn set_keepalive_interval(&mut self, interval: Option<Duration>) {
        self.options().interval = interval;
    }

    /// The unanswered keep-alive probes after which a connection is dead.
    pub fn set_keepalive_retries(&mut self, retries: Option<u32>) {
        self.options().retries = retries;
    }

    /// Switches Nagle's algorithm off. Default: it is on.
    pub fn set_nodelay(&mut self, nodelay: bool) {
        self.options().nodelay = nodelay;
    }

    /// The send buffer in bytes (SO_SNDBUF).
    pub fn set_send_buffer_size(&mut self, size: Option<usize>) {
        self.options().send_buffer = size;
    }

    /// The receive buffer in bytes (SO_RCVBUF).
    pub fn set_recv_buffer_size(&mut self, size: Option<usize>) {
        self.options().recv_buffer = size;
    }

    /// The address to connect from. Addresses of the other family are not tried then.
    pub fn set_local_address(&mut self, addr: Option<IpAddr>) {
        let options = self.options();
        (options.local_v4, options.local_v6) = match addr {
            Some(IpAddr::V4(ip)) => (Some(ip), None),
            Some(IpAddr::V6(ip)) => (None, Some(ip)),
            None => (None, None),
        };
    }

    /// The addresses to connect from, one for each family.
    pub fn set_local_addresses(&mut self, v4: Ipv4Addr, v6: Ipv6Addr) {
        let options = self.options();
        (options.local_v4, options.local_v6) = (Some(v4), Some(v6));
    }

    /// How long opening a connection may take; several addresses of a family get equal parts of it. Default: as long as the
    /// SYN is retried.
    pub fn set_connect_timeout(&mut self, most: Option<Duration>) {
        self.options().connect_timeout = most;
    }

    /// After how long the other family is tried in parallel. `None`: never, and all addresses are tried in the order of the
    /// resolver. Default 300 ms.
    pub fn set_happy_eyeballs_timeout(&mut self, delay: Option<Duration>) {
        self.options().happy_eyeballs = delay;
    }

    /// SO_REUSEADDR for the local address. Default: off.
    pub fn set_reuse_address(&mut self, reuse: bool) -> &mut Self {
        self.options().reuse_address = reuse;
        self
    }

    /// The interface to connect by (SO_BINDTODEVICE), as [`TcpSocket::bind_device`](crate::net::TcpSocket::bind_device).
    pub fn set_interface<S: Into<String>>(&mut self, interface: S) -> &mut Self {
        self.options().interface = Some(interface.into());
        self
    }

    /// How long a connection may make no progress (TCP_USER_TIMEOUT).
    pub fn set_tcp_user_timeout(&mut self, most: Option<Duration>) {
        self.options().user_timeout = most;
    }
}

impl<R> fmt::Debug for HttpConnector<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConnector").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<R> Service<Uri> for HttpConnector<R>
where
    R: Service<Name> + Clone + Send + Sync + 'static,
    R::Response: Iterator<Item = SocketAddr>,
    R::Error: Into<BoxError>,
    R::Future: Send,
{
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Connecting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.resolver.poll_ready(cx).map_err(|error| ConnectError::new("dns error", error))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        // The service that was ready does the work; the clone stays.
        let clone = self.clone();
        let mut ready = std::mem::replace(self, clone);
        Connecting(Box::pin(async move {
            let (host, port) = target(&ready.options, &uri)?;
            let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
                Ok(ip) => vec![SocketAddr::new(ip, port)],
                Err(_) => {
                    let name: Name = host.parse().map_err(|error| ConnectError::new("dns error", error))?;
                    let found = ready.resolver.call(name).await;
                    let found = found.map_err(|error| ConnectError::new("dns error", error))?;
                    // A resolver may have a port of its own for a URI that says none.
                    let keeps = |addr: &SocketAddr| uri.port().is_none() && addr.port() != 0;
                    found.map(|addr| if keeps(&addr) { addr } else { with_port(addr, port) }).collect()
                }
            };
            Ok(TokioIo::new(ready.options.connect(addresses).await?))
        }))
    }
}

/// The scope of a link-local address stays.
fn with_port(mut addr: SocketAddr, port: u16) -> SocketAddr {
    addr.set_port(port);
    addr
}

/// The host, without the brackets of an IPv6 address, and the port.
fn target<'a>(options: &Options, uri: &'a Uri) -> Result<(&'a str, u16), ConnectError> {
    match uri.scheme() {
        None => return Err(ConnectError::invalid("the URI has no scheme")),
        Some(scheme) if options.enforce_http && *scheme != Scheme::HTTP => {
            return Err(ConnectError::invalid("the scheme of the URI is not http"));
        }
        Some(_) => {}
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(ConnectError::invalid("the URI has no host"))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    Ok((host, uri.port_u16().unwrap_or(default)))
}

/// Keep-alive is on when anything is said of it; the rest has its defaults.
pub(crate) fn keepalive(idle: Option<Duration>, interval: Option<Duration>, count: Option<u32>) -> Option<Keepalive> {
    if idle.is_none() && interval.is_none() && count.is_none() {
        return None;
    }
    let rest = Keepalive::default();
    Some(Keepalive {
        idle: idle.unwrap_or(rest.idle),
        interval: interval.unwrap_or(rest.interval),
        count: count.unwrap_or(rest.count),
    })
}

/// A connection being opened by an [`HttpConnector`]. Dropping it takes everything back.
#[must_use = "futures do nothing unless polled"]
pub struct Connecting(Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, ConnectError>> + Send>>);

impl Future for Connecting {
    type Output = Result<TokioIo<TcpStream>, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").finish_non_exhaustive()
    }
}

/// The two ends of the connection that a response came by; in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpInfo {
    remote: SocketAddr,
    local: SocketAddr,
}

impl HttpInfo {
    pub(crate) fn new(remote: SocketAddr, local: SocketAddr) -> Self {
        HttpInfo { remote, local }
    }

    /// The server's address.
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote
    }

    /// This end's address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

/// Why a connection could not be opened. The [`source`](Error::source) is the `io::Error` of the connection, or the error
/// of the resolver; there is none if the URI is at fault.
#[derive(Debug)]
pub struct ConnectError {
    what: &'static str,
    addr: Option<SocketAddr>,
    source: Option<BoxError>,
}

impl ConnectError {
    fn new(what: &'static str, source: impl Into<BoxError>) -> Self {
        ConnectError { what, addr: None, source: Some(source.into()) }
    }

    fn invalid(what: &'static str) -> Self {
        ConnectError { what, addr: None, source: None }
    }

    fn at(self, addr: SocketAddr) -> Self {
        ConnectError { addr: Some(addr), ..self }
    }

    /// The address that this is about, of those that were tried.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            Some(addr) => write!(f, "{} ({addr})", self.what),
            None => f.write_str(self.what),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests;
