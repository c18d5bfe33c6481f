//! Readiness that sticks: cleared only by an operation that found nothing.

use super::net::{TcpListener, TcpStream};
use super::skip;
use super::support::{pair, soon};
use std::cell::Cell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::time::timeout;

#[tokio::test]
async fn a_fresh_stream_has_room_and_nothing_to_read() {
    if skip() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = soon(async { tokio::join!(connect, listener.accept()) }).await;
    let both = [("client", client.unwrap()), ("server", accepted.unwrap().0)];
    // At once, without a wait for readiness.
    for (who, stream) in &both {
        assert_eq!(stream.try_write(b"").unwrap(), 0, "{who}");
    }
    for (who, stream) in &both {
        soon(stream.writable()).await.unwrap();
        let shows = futures::poll!(pin!(stream.readable())).is_ready();
        assert_eq!(shows, *who == "server", "an accepted stream is taken for readable until a look finds nothing");
        assert_eq!(stream.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(futures::poll!(pin!(stream.readable())).is_pending(), "{who}");
    }
    for (who, stream) in &both {
        assert_eq!(stream.try_write(b"x").unwrap(), 1, "{who}");
    }
}

#[tokio::test]
async fn readable_after_reading_exactly_what_was_there() {
    if skip() {
        return;
    }
    let (a, mut b) = pair().await;
    soon(async {
        a.writable().await.unwrap();
        assert_eq!(a.try_write(b"ping").unwrap(), 4);
        b.readable().await.unwrap();
        let mut buf = [0; 4];
        assert_eq!(b.read(&mut buf).await.unwrap(), 4);
        poll_fn(|cx| b.poll_read_ready(cx)).await.unwrap();
        assert_eq!(b.try_read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(futures::poll!(poll_fn(|cx| b.poll_read_ready(cx))).is_pending());
        assert!(futures::poll!(pin!(b.readable())).is_pending());
    })
    .await;
}

#[tokio::test]
async fn not_readable_after_a_short_read() {
    if skip() {
        return;
    }
    let (mut a, mut b) = pair().await;
    soon(async {
        a.write_all(b"abc").await.unwrap();
        b.readable().await.unwrap();
        assert_eq!(b.read(&mut [0; 10]).await.unwrap(), 3);
        assert!(futures::poll!(poll_fn(|cx| b.poll_read_ready(cx))).is_pending());
    })
    .await;
}

#[tokio::test]
async fn writable_until_an_operation_found_no_room() {
    if skip() {
        return;
    }
    let (a, b) = pair().await;
    soon(async {
        let data = vec![1; 8 << 20];
        let mut full = 0;
        loop {
            a.writable().await.unwrap();
            match a.try_write(&data) {
                Ok(_) => assert!(futures::poll!(pin!(a.writable())).is_ready()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    assert!(futures::poll!(pin!(a.writable())).is_pending());
                    full += 1;
                    if timeout(Duration::from_millis(300), a.writable()).await.is_err() {
                        break;
                    }
                }
            }
        }
        assert!(full > 0);
        let mut buf = vec![0; 1 << 20];
        loop {
            b.readable().await.unwrap();
            while b.try_read(&mut buf).is_ok() {}
            if timeout(Duration::from_millis(20), a.writable()).await.is_ok() {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_fin_arrives_within_a_hundred_yields() {
    if skip() {
        return;
    }
    let (a, b) = pair().await;
    drop(a);
    for _ in 0..100 {
        if soon(b.ready(Interest::READABLE)).await.unwrap().is_read_closed() {
            let mut buf = Vec::with_capacity(1);
            assert_eq!(b.try_read_buf(&mut buf).unwrap(), 0);
            // The end stays.
            assert_eq!(b.try_read(&mut [0]).unwrap(), 0);
            assert!(futures::poll!(pin!(b.readable())).is_ready());
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("no end of the stream");
}

#[tokio::test]
async fn ready_says_which() {
    if skip() {
        return;
    }
    let (mut a, b) = pair().await;
    soon(async {
        let ready = b.ready(Interest::READABLE | Interest::WRITABLE).await.unwrap();
        assert!(ready.is_writable() && !ready.is_readable() && !ready.is_read_closed());
        a.write_all(b"x").await.unwrap();
        assert!(b.ready(Interest::READABLE).await.unwrap().is_readable());
        // The rest of the handshake does not tell the other direction.
        assert!(b.ready(Interest::WRITABLE).await.unwrap().is_writable());
    })
    .await;
}

#[tokio::test]
async fn try_io_clears_what_the_callers_operation_did_not_find() {
    if skip() {
        return;
    }
    let (mut a, b) = pair().await;
    soon(async {
        assert_eq!(b.try_io(Interest::READABLE, || Ok(1)).unwrap_err().kind(), ErrorKind::WouldBlock);
        a.write_all(b"x").await.unwrap();
        b.readable().await.unwrap();
        assert_eq!(b.try_io(Interest::READABLE, || Ok(7)).unwrap(), 7);
        let nothing = b.try_io::<()>(Interest::READABLE, || Err(ErrorKind::WouldBlock.into()));
        assert_eq!(nothing.unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(futures::poll!(pin!(b.readable())).is_pending());
        let calls = Cell::new(0);
        let waits = b.async_io(Interest::READABLE, || {
            calls.set(calls.get() + 1);
            if calls.get() < 3 { Err(ErrorKind::WouldBlock.into()) } else { Ok(calls.get()) }
        });
        let feeds = async {
            for seen in 1..=3 {
                a.write_all(b"x").await.unwrap();
                while calls.get() < seen {
                    tokio::task::yield_now().await;
                }
            }
        };
        assert_eq!(tokio::join!(waits, feeds).0.unwrap(), 3);
    })
    .await;
}
