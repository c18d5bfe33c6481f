//! Corners that a reading of tokio's and Linux's source brought up: each as the oracle has it.

use super::net::{TcpListener, TcpStream};
use super::skip;
use super::support::{pair, soon};
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};

fn errno(error: io::Error) -> Option<i32> {
    error.raw_os_error()
}

/// A waker that is counted by its references.
struct Counted;
impl Wake for Counted {
    fn wake(self: Arc<Self>) {}
}

#[tokio::test]
async fn a_dropped_stream_lets_go_of_the_wakers_it_kept() {
    if skip() {
        return;
    }
    let (mut a, b) = pair().await;
    let counted = Arc::new(Counted);
    let waker = Waker::from(counted.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(Pin::new(&mut a).poll_read(&mut cx, &mut ReadBuf::new(&mut [0])).is_pending());
    {
        let mut readable = pin!(a.readable());
        assert!(readable.as_mut().poll(&mut cx).is_pending());
    }
    drop(waker);
    assert_eq!(Arc::strong_count(&counted), 2, "the last waker is kept");
    drop(a);
    assert_eq!(Arc::strong_count(&counted), 1);
    drop(b);
}

/// Whoever was woken is not kept waiting because another task was faster: what it waited for did happen.
#[tokio::test]
async fn all_who_were_woken_go_on_even_if_the_first_takes_everything() {
    if skip() {
        return;
    }
    let (mut a, b) = pair().await;
    let mut waits: Vec<_> = (0..3).map(|_| Box::pin(b.readable())).collect();
    for wait in &mut waits {
        assert!(futures::poll!(wait).is_pending());
    }
    soon(a.write_all(b"x")).await.unwrap();
    soon(&mut waits[0]).await.unwrap();
    assert_eq!(b.try_read(&mut [0; 8]).unwrap(), 1);
    assert_eq!(b.try_read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(futures::poll!(pin!(b.readable())).is_pending(), "who comes new waits");
    for wait in &mut waits[1..] {
        assert!(futures::poll!(wait).is_ready());
    }
    // `ready` may come back with nothing.
    let mut wait = Box::pin(b.ready(Interest::READABLE));
    assert!(futures::poll!(&mut wait).is_pending());
    soon(a.write_all(b"y")).await.unwrap();
    soon(b.readable()).await.unwrap();
    while b.try_read(&mut [0; 8]).is_ok() {}
    assert!(soon(wait).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_peers_address_is_known_as_long_as_there_is_a_peer() {
    if skip() {
        return;
    }
    // A reset, seen or not yet read.
    let (a, b) = pair().await;
    let (local, peer) = (b.local_addr().unwrap(), b.peer_addr().unwrap());
    a.set_zero_linger().unwrap();
    drop(a);
    soon(b.ready(Interest::ERROR)).await.unwrap();
    assert_eq!(b.peer_addr().map_err(errno), Err(Some(107)));
    assert_eq!(b.local_addr().unwrap(), local);
    assert!(peer.ip().is_loopback());
    // One side's end leaves everything as it is.
    let (mut a, mut b) = pair().await;
    let addresses = (a.local_addr().unwrap(), b.local_addr().unwrap());
    a.shutdown().await.unwrap();
    assert_eq!(soon(b.read(&mut [0])).await.unwrap(), 0);
    assert_eq!((a.peer_addr().unwrap(), b.peer_addr().unwrap()), (addresses.1, addresses.0));
    // The first to close goes to TIME-WAIT, the other one is closed when the last ACK has come.
    b.shutdown().await.unwrap();
    assert_eq!(soon(a.read(&mut [0])).await.unwrap(), 0);
    soon(async {
        while a.peer_addr().is_ok() || b.peer_addr().is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((a.peer_addr().map_err(errno), b.peer_addr().map_err(errno)), (Err(Some(107)), Err(Some(107))));
    assert_eq!((a.local_addr().unwrap(), b.local_addr().unwrap()), addresses);
    // Options go on.
    a.set_nodelay(true).unwrap();
    a.set_ttl(7).unwrap();
    assert_eq!((a.nodelay().unwrap(), a.ttl().unwrap(), a.linger().unwrap()), (true, 7, None));
    a.set_zero_linger().unwrap();
    a.shutdown().await.unwrap();
    assert!(a.take_error().unwrap().is_none());
}

#[tokio::test]
async fn a_short_vectored_write_leaves_the_stream_writable() {
    if skip() {
        return;
    }
    let data = vec![0; 16 << 20];
    for vectored in [true, false] {
        let (mut a, _b) = pair().await;
        soon(a.writable()).await.unwrap();
        let n = soon(poll_fn(|cx| {
            if vectored {
                Pin::new(&mut a).poll_write_vectored(cx, &[IoSlice::new(&data[..5]), IoSlice::new(&data[5..])])
            } else {
                Pin::new(&mut a).poll_write(cx, &data)
            }
        }))
        .await
        .unwrap();
        assert!(n < data.len());
        let shows = futures::poll!(poll_fn(|cx| a.poll_write_ready(cx))).is_ready();
        assert_eq!(shows, vectored);
    }
}

#[tokio::test]
async fn an_empty_buffer_looks_as_well() {
    if skip() {
        return;
    }
    let (mut a, b) = pair().await;
    soon(a.write_all(b"ping")).await.unwrap();
    soon(b.readable()).await.unwrap();
    assert_eq!(b.try_read(&mut []).unwrap(), 0);
    assert_eq!(b.try_read(&mut [0; 4]).unwrap(), 4);
    // Still taken for readable: there is nothing, and that is what it finds, but not if it is a list of buffers.
    assert_eq!(b.try_read_vectored(&mut []).unwrap(), 0);
    assert_eq!(b.try_read_vectored(&mut [IoSliceMut::new(&mut [])]).unwrap(), 0);
    assert!(futures::poll!(pin!(b.readable())).is_ready());
    assert_eq!(b.try_read(&mut []).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(futures::poll!(pin!(b.readable())).is_pending());
    assert!(futures::poll!(pin!(b.peek(&mut []))).is_pending());
    // The end.
    soon(a.shutdown()).await.unwrap();
    soon(b.readable()).await.unwrap();
    assert_eq!((b.try_read(&mut []).unwrap(), soon(b.peek(&mut [])).await.unwrap()), (0, 0));
    // Written, it says whether writing is over; a list of buffers does not.
    assert_eq!(errno(a.try_write(b"").unwrap_err()), Some(32));
    assert_eq!(a.try_write_vectored(&[]).unwrap(), 0);
    assert_eq!(a.try_write_vectored(&[IoSlice::new(b"")]).unwrap(), 0);
    // An error is told once, by whoever looks first.
    let (a, b) = pair().await;
    a.set_zero_linger().unwrap();
    drop(a);
    soon(b.ready(Interest::ERROR)).await.unwrap();
    assert_eq!(errno(b.try_read(&mut []).unwrap_err()), Some(104));
    assert_eq!(b.try_read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn a_reset_is_an_error_of_whoever_looks_first() {
    async fn reset() -> TcpStream {
        let (a, b) = pair().await;
        a.set_zero_linger().unwrap();
        drop(a);
        soon(b.ready(Interest::ERROR)).await.unwrap();
        b
    }
    if skip() {
        return;
    }
    let mut b = reset().await;
    assert_eq!(errno(soon(b.write(b"x")).await.unwrap_err()), Some(104));
    assert_eq!(errno(soon(b.write(b"x")).await.unwrap_err()), Some(32));
    assert_eq!(soon(b.read(&mut [0])).await.unwrap(), 0);
    let b = reset().await;
    assert_eq!(errno(soon(b.peek(&mut [0])).await.unwrap_err()), Some(104));
    assert_eq!(soon(b.peek(&mut [0])).await.unwrap(), 0);
    let b = reset().await;
    let ready = soon(b.ready(Interest::READABLE | Interest::WRITABLE | Interest::ERROR)).await.unwrap();
    assert!(ready.is_readable() && ready.is_writable() && ready.is_error());
    assert!(ready.is_read_closed() && ready.is_write_closed());
    // Taking it does not make the stream other than ready.
    assert_eq!(b.take_error().unwrap().and_then(errno), Some(104));
    assert!(futures::poll!(pin!(b.ready(Interest::ERROR))).is_ready());
    assert_eq!(errno(b.try_write(b"x").unwrap_err()), Some(32));
    let mut b = reset().await;
    b.shutdown().await.unwrap();
    assert_eq!(errno(soon(b.read(&mut [0])).await.unwrap_err()), Some(104));
}

#[tokio::test]
async fn several_interests_at_once() {
    if skip() {
        return;
    }
    let (mut a, b) = pair().await;
    soon(a.write_all(b"x")).await.unwrap();
    soon(b.readable()).await.unwrap();
    let both = Interest::READABLE | Interest::WRITABLE;
    let mut calls = 0;
    let result = b.try_io(both, || {
        calls += 1;
        Ok(())
    });
    assert_eq!((result.map_err(|error| error.kind()), calls), (Err(ErrorKind::WouldBlock), 0));
    soon(b.async_io(both, || Ok(()))).await.unwrap();
    // Nothing urgent comes, but the end of the stream does.
    assert!(futures::poll!(pin!(b.ready(Interest::PRIORITY))).is_pending());
    soon(a.shutdown()).await.unwrap();
    assert!(soon(b.ready(Interest::PRIORITY)).await.unwrap().is_read_closed());
    // Who waits for an error only is not told of the end.
    assert!(futures::poll!(pin!(b.ready(Interest::ERROR))).is_pending());
}

#[tokio::test]
async fn a_connect_that_is_given_up_does_not_hold_up_the_next() {
    if skip() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    // A SYN that has to come again takes a second.
    soon(async {
        for _ in 0..50 {
            assert!(futures::poll!(pin!(TcpStream::connect(addr))).is_pending());
            TcpStream::connect(addr).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn try_read_buf_takes_the_room_that_is_there() {
    if skip() {
        return;
    }
    let (mut a, b) = pair().await;
    soon(a.write_all(&[7; 300])).await.unwrap();
    soon(async { while b.peek(&mut [0; 300]).await.unwrap() < 300 {} }).await;
    // A vector without room makes some.
    let mut buf = Vec::new();
    let n = b.try_read_buf(&mut buf).unwrap();
    assert!((1..300).contains(&n) && buf.len() == n && buf.iter().all(|byte| *byte == 7), "{n}");
    let mut buf = Vec::with_capacity(100);
    assert_eq!(b.try_read_buf(&mut buf).unwrap(), 100);
    let mut some = [0; 10];
    assert_eq!(b.try_read_buf(&mut &mut some[..]).unwrap(), 10);
    assert_eq!(b.try_read_buf::<&mut [u8]>(&mut &mut [][..]).unwrap(), 0);
    let mut rest = Vec::with_capacity(1000);
    assert_eq!(b.try_read_buf(&mut rest).unwrap(), 300 - n - 110);
}
