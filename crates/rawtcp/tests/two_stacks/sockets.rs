//! `TcpSocket`, and options.

use super::net::{TcpListener, TcpSocket, TcpStream};
use super::skip;
use super::support::soon;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

// Outside of a runtime.

#[test]
fn options_are_kept_without_a_runtime() {
    for socket in [TcpSocket::new_v4().unwrap(), TcpSocket::new_v6().unwrap()] {
        let v6 = socket.local_addr().unwrap().is_ipv6();
        let flags =
            || [socket.keepalive(), socket.reuseaddr(), socket.reuseport(), socket.nodelay()].map(|flag| flag.unwrap());
        assert_eq!(flags(), [false; 4]);
        for on in [true, false] {
            socket.set_keepalive(on).unwrap();
            socket.set_reuseaddr(on).unwrap();
            socket.set_reuseport(on).unwrap();
            socket.set_nodelay(on).unwrap();
            assert_eq!(flags(), [on; 4]);
        }
        assert_eq!(socket.linger().unwrap(), None);
        socket.set_zero_linger().unwrap();
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
        #[allow(deprecated)]
        {
            socket.set_linger(Some(Duration::from_millis(2500))).unwrap();
            assert_eq!(socket.linger().unwrap(), Some(Duration::from_secs(2)));
            socket.set_linger(None).unwrap();
            assert_eq!(socket.linger().unwrap(), None);
            socket.set_tos(8).unwrap();
            assert_eq!(socket.tos().unwrap(), 8);
        }
        socket.set_tos_v4(0x6b).unwrap();
        assert_eq!(socket.tos_v4().unwrap(), 0x68);
        socket.set_tos_v4(0x168).unwrap();
        assert_eq!(socket.tos_v4().unwrap(), 0x68);
        if v6 {
            assert_eq!(socket.tclass_v6().unwrap(), 0);
            socket.set_tclass_v6(0x6b).unwrap();
            assert_eq!(socket.tclass_v6().unwrap(), 0x68);
            assert_eq!(socket.set_tclass_v6(256).unwrap_err().raw_os_error(), Some(22));
        } else {
            assert_eq!(socket.tclass_v6().unwrap_err().raw_os_error(), Some(95));
            assert_eq!(socket.set_tclass_v6(0).unwrap_err().raw_os_error(), Some(92));
        }
        assert!(socket.take_error().unwrap().is_none());
        assert!(format!("{socket:?}").contains("Socket"));
    }
}

#[test]
fn buffer_sizes_are_doubled() {
    let socket = TcpSocket::new_v4().unwrap();
    for size in [10_000, 65_536, 100_000] {
        socket.set_send_buffer_size(size).unwrap();
        socket.set_recv_buffer_size(size).unwrap();
        assert_eq!((socket.send_buffer_size().unwrap(), socket.recv_buffer_size().unwrap()), (2 * size, 2 * size));
    }
    socket.set_send_buffer_size(1).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    assert_eq!((socket.send_buffer_size().unwrap(), socket.recv_buffer_size().unwrap()), (4608, 2304));
}

#[test]
fn devices() {
    // The kernel lets a socket be unbound from a device by CAP_NET_RAW only.
    if crate::privilege::missing() {
        return;
    }
    let socket = TcpSocket::new_v4().unwrap();
    assert_eq!(socket.device().unwrap(), None);
    assert_eq!(socket.bind_device(Some(b"no such thing")).unwrap_err().raw_os_error(), Some(19));
    socket.bind_device(Some(b"lo")).unwrap();
    assert_eq!(socket.device().unwrap().as_deref(), Some(&b"lo"[..]));
    socket.bind_device(None).unwrap();
    assert_eq!(socket.device().unwrap(), None);
}

#[test]
fn bind_without_a_runtime() {
    if skip() {
        return;
    }
    for addr in [any(), "[::1]:0".parse().unwrap()] {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        let before = socket.local_addr().unwrap();
        assert!(before.ip().is_unspecified() && before.port() == 0);
        socket.bind(addr).unwrap();
        let local = socket.local_addr().unwrap();
        assert!(local.ip() == addr.ip() && local.port() != 0);
        assert_eq!(socket.bind(addr).unwrap_err().raw_os_error(), Some(22));
        // The port is taken from here on.
        let other = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        assert_eq!(other.bind(local).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(socket);
        other.bind(local).unwrap();
    }
}

#[test]
fn addresses_of_the_other_family() {
    let (v4, v6) = (TcpSocket::new_v4().unwrap(), TcpSocket::new_v6().unwrap());
    assert_eq!(v4.bind("[::1]:0".parse().unwrap()).unwrap_err().raw_os_error(), Some(97));
    assert_eq!(v6.bind(any()).unwrap_err().raw_os_error(), Some(22));
    assert_eq!(v4.bind("192.0.2.1:0".parse().unwrap()).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
}

const NO_REACTOR: &str = "there is no reactor running, must be called from the context of a Tokio 1.x runtime";

#[test]
#[should_panic(expected = "there is no reactor running, must be called from the context of a Tokio 1.x runtime")]
fn listen_without_a_runtime() {
    if skip() {
        panic!("{NO_REACTOR} (skipped)");
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(any()).unwrap();
    let _ = socket.listen(8);
}

#[test]
fn bound_before_the_runtime_and_used_in_it() {
    if skip() {
        return;
    }
    let (server, client) = (TcpSocket::new_v4().unwrap(), TcpSocket::new_v4().unwrap());
    server.bind(any()).unwrap();
    client.bind(any()).unwrap();
    let (to, from) = (server.local_addr().unwrap(), client.local_addr().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = server.listen(8).unwrap();
        assert_eq!(listener.local_addr().unwrap(), to);
        let (mut stream, accepted) =
            soon(async { tokio::try_join!(client.connect(to), listener.accept()) }).await.unwrap();
        assert_eq!((stream.local_addr().unwrap(), accepted.1), (from, from));
        stream.write_all(b"x").await.unwrap();
        let mut accepted = accepted.0;
        assert_eq!(soon(accepted.read_u8()).await.unwrap(), b'x');
    });
}

// In a runtime.

#[tokio::test]
async fn listen_and_connect() {
    if skip() {
        return;
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(any()).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_keepalive(true).unwrap();
    socket.set_send_buffer_size(50_000).unwrap();
    let listener = socket.listen(128).unwrap();
    let addr = listener.local_addr().unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_nodelay(true).unwrap();
    let (client, accepted) = soon(async { tokio::join!(client.connect(addr), listener.accept()) }).await;
    let (client, (server, peer)) = (client.unwrap(), accepted.unwrap());
    assert_eq!((client.local_addr().unwrap(), client.peer_addr().unwrap()), (peer, addr));
    // Options go with the connection; accepted ones inherit them.
    assert!(client.nodelay().unwrap() && server.nodelay().unwrap());
}

#[tokio::test]
async fn listen_without_bind() {
    if skip() {
        return;
    }
    let listener = TcpSocket::new_v4().unwrap().listen(8).unwrap();
    let local = listener.local_addr().unwrap();
    assert!(local.ip().is_unspecified() && local.port() != 0);
    let to = SocketAddr::from(([127, 0, 0, 1], local.port()));
    let (client, accepted) = soon(async { tokio::join!(TcpStream::connect(to), listener.accept()) }).await;
    drop((client.unwrap(), accepted.unwrap()));
}

#[tokio::test]
async fn connect_to_the_other_family() {
    if skip() {
        return;
    }
    let error = TcpSocket::new_v4().unwrap().connect("[::1]:9".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(97));
    let error = TcpSocket::new_v6().unwrap().connect("127.0.0.1:9".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(22));
}

#[tokio::test]
async fn zero_linger_goes_with_the_connection() {
    if skip() {
        return;
    }
    let listener = TcpListener::bind(any()).await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_zero_linger().unwrap();
    let connect = socket.connect(listener.local_addr().unwrap());
    let (client, accepted) = soon(async { tokio::join!(connect, listener.accept()) }).await;
    let mut server = accepted.unwrap().0;
    let client = client.unwrap();
    assert_eq!(client.linger().unwrap(), Some(Duration::ZERO));
    drop(client);
    assert_eq!(soon(server.read(&mut [0])).await.unwrap_err().raw_os_error(), Some(104));
}

fn bound(addr: SocketAddr, reuseaddr: bool, reuseport: bool) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(reuseaddr).unwrap();
    socket.set_reuseport(reuseport).unwrap();
    socket.bind(addr).map(|()| socket)
}

#[tokio::test]
async fn who_may_share_an_address() {
    if skip() {
        return;
    }
    // A stack that is there, and so knows both sockets.
    let _other = TcpListener::bind(any()).await.unwrap();
    for (first, second, may_bind) in [
        ((false, false), (false, false), false),
        ((false, false), (true, false), false),
        ((true, false), (false, false), false),
        ((true, false), (true, false), true),
        ((false, true), (false, true), true),
        ((false, true), (false, false), false),
    ] {
        let one = bound(any(), first.0, first.1).unwrap();
        let local = one.local_addr().unwrap();
        let two = bound(local, second.0, second.1);
        assert_eq!(
            two.as_ref().map(|_| ()).map_err(|error| error.kind()).err(),
            (!may_bind).then_some(ErrorKind::AddrInUse)
        );
        let Ok(two) = two else { continue };
        let listener = one.listen(8).unwrap();
        let other = two.listen(8);
        // SO_REUSEADDR shares a port among those who do not listen; SO_REUSEPORT among listeners too.
        assert_eq!(other.is_ok(), first.1, "{first:?}");
        if let Err(error) = other {
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
        }
        drop(listener);
    }
}

#[tokio::test]
async fn listeners_with_reuseport_serve_together() {
    if skip() {
        return;
    }
    let one = bound(any(), false, true).unwrap();
    let addr = one.local_addr().unwrap();
    let two = bound(addr, false, true).unwrap();
    let (one, two) = (one.listen(64).unwrap(), two.listen(64).unwrap());
    let serve = |listener: TcpListener| async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"x").await.unwrap();
        }
    };
    let first = tokio::spawn(serve(one));
    let second = tokio::spawn(serve(two));
    for _ in 0..50 {
        let mut stream = soon(TcpStream::connect(addr)).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), b'x');
    }
    // One goes: the other goes on.
    first.abort();
    let _ = first.await;
    for _ in 0..10 {
        let mut stream = soon(TcpStream::connect(addr)).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), b'x');
    }
    second.abort();
    let _ = second.await;
    assert_eq!(soon(TcpStream::connect(addr)).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_small_receive_buffer_holds_the_sender_up() {
    if skip() {
        return;
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(20_000).unwrap();
    socket.bind(any()).unwrap();
    let listener = socket.listen(8).unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_send_buffer_size(20_000).unwrap();
    let connect = client.connect(listener.local_addr().unwrap());
    let (client, accepted) = soon(async { tokio::join!(connect, listener.accept()) }).await;
    let (mut client, (mut server, _)) = (client.unwrap(), accepted.unwrap());
    let mut written = 0;
    while let Ok(n) = timeout(Duration::from_millis(300), client.write(&[1; 4096])).await {
        written += n.unwrap();
    }
    assert!((4096..200_000).contains(&written), "{written}");
    let reader = tokio::spawn(async move {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.map(|_| got.len())
    });
    soon(client.write_all(&[1; 100_000])).await.unwrap();
    drop(client);
    assert_eq!(soon(reader).await.unwrap().unwrap(), written + 100_000);
}

#[tokio::test]
async fn options_of_streams_and_listeners() {
    if skip() {
        return;
    }
    let listener = TcpListener::bind(any()).await.unwrap();
    assert_eq!(listener.ttl().unwrap(), 64);
    listener.set_ttl(77).unwrap();
    assert_eq!(listener.ttl().unwrap(), 77);
    assert_eq!(listener.set_ttl(0).unwrap_err().raw_os_error(), Some(22));
    let connect = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = soon(async { tokio::join!(connect, listener.accept()) }).await;
    let (a, b) = (client.unwrap(), accepted.unwrap().0);
    assert_eq!((a.ttl().unwrap(), b.ttl().unwrap()), (64, 77));
    for ttl in [0, 256] {
        assert_eq!(a.set_ttl(ttl).unwrap_err().raw_os_error(), Some(22), "{ttl}");
    }
    a.set_ttl(255).unwrap();
    assert_eq!(a.ttl().unwrap(), 255);
    assert!(!a.nodelay().unwrap());
    a.set_nodelay(true).unwrap();
    assert!(a.nodelay().unwrap());
    assert!(a.quickack().unwrap());
    a.set_quickack(false).unwrap();
    assert!(!a.quickack().unwrap());
    a.set_quickack(true).unwrap();
    assert!(a.quickack().unwrap());
    assert_eq!(a.linger().unwrap(), None);
    #[allow(deprecated)]
    a.set_linger(Some(Duration::from_millis(1900))).unwrap();
    assert_eq!(a.linger().unwrap(), Some(Duration::from_secs(1)));
    a.set_zero_linger().unwrap();
    assert_eq!(a.linger().unwrap(), Some(Duration::ZERO));
    assert!(a.take_error().unwrap().is_none());
}
