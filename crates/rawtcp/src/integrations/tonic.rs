//! What a tonic server tells of a connection.

use crate::net::TcpStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// For tonic servers: [`TcpIncoming`](crate::wrappers::TcpIncoming) gives their `serve_with_incoming` our streams. The
/// information is of tonic's own type, so that `Request::remote_addr` and `local_addr` find it, behind tonic's TLS too.
///
/// ```
/// use futures::StreamExt;
/// use rawtcp::wrappers::TcpIncoming;
/// use rawtcp::{Device, Stack};
/// use tonic::transport::server::Connected;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let stack = Stack::builder().device(Device::Loopback).build()?; // stays inside the process
/// let listener = stack.bind("127.0.0.1:50051").await?;
/// let client = stack.connect("127.0.0.1:50051").await?;
///
/// // A server: Server::builder().add_service(…).serve_with_incoming(incoming).await?
/// let mut incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
/// let stream = incoming.next().await.unwrap()?;
/// assert!(stream.nodelay()?);
/// assert_eq!(stream.connect_info().remote_addr(), Some(client.local_addr()?));
/// # Ok(())
/// # }
/// ```
impl Connected for TcpStream {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.local_addr().ok(), remote_addr: self.peer_addr().ok() }
    }
}
