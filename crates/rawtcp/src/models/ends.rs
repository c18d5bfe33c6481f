//! The driver's kick, and its end.

use super::{Rig, block_on, join, spawn};
use crate::sync::{Arc, AtomicUsize, Ordering};
use futures::future::poll_fn;
use std::task::Poll;
use tokio::io::AsyncReadExt;

/// Whatever was done before a kick is seen by the turn that follows.
pub fn kicked() {
    let Rig { client, mut server } = Rig::new();
    // From here on this thread is the server's driver, with nothing to do but to be kicked.
    server.die();
    let bell = server.host.clone();
    let done = Arc::new(AtomicUsize::new(0));
    let ringers: Vec<_> = (0..3)
        .map(|_| {
            let (bell, done) = (bell.clone(), done.clone());
            spawn(async move {
                done.fetch_add(1, Ordering::SeqCst);
                bell.kick();
            })
        })
        .collect();
    block_on(poll_fn(|cx| {
        let _ = bell.posts[0].attend(cx.waker());
        if done.load(Ordering::SeqCst) == 3 { Poll::Ready(()) } else { Poll::Pending }
    }));
    ringers.into_iter().for_each(join);
    drop(bell);
    Rig { client, server }.end();
}

/// A connection that is handed to the driver is gone on with, even if nothing else happens.
pub fn scheduled() {
    let rig = Rig::new();
    let (a, mut b) = rig.pair();
    let (cell, host) = (a.cell().clone(), rig.client.host.clone());
    let writer = spawn(async move {
        {
            // As a writer leaves it that has spent its turn. The other end has nothing to answer: it wakes nobody.
            let mut inner = cell.lock();
            inner.conn.write(host.clock.now(), b"x").expect("room");
            inner.scheduled = true;
        }
        host.schedule(cell);
    });
    let reader = spawn(async move {
        assert_eq!(b.read_u8().await.expect("a byte"), b'x');
        b
    });
    join(writer);
    let b = join(reader);
    drop((a, b));
    rig.end();
}

/// A stack whose driver goes fails everyone who waits, and whoever begins to.
pub fn death() {
    let mut rig = Rig::new();
    let (a, b) = rig.pair();
    let a = Arc::new(a);
    let mut threads = vec![
        spawn({
            let a = a.clone();
            async move { a.readable().await.is_err() }
        }),
        spawn({
            let a = a.clone();
            async move { a.peek(&mut [0]).await.is_err() }
        }),
        spawn({
            let a = a.clone();
            async move {
                loop {
                    // Until there is no room, and then until there is no stack.
                    if a.writable().await.is_err() {
                        return true;
                    }
                    let _ = a.try_write(&[1; 4096]);
                }
            }
        }),
        spawn({
            let a = a.clone();
            async move {
                let _ = a.try_write(b"x");
                let _ = a.acknowledged().await;
                true
            }
        }),
    ];
    let listener = {
        let cell = rig.client.host.listen(([10, 0, 0, 1], 80).into()).expect("listen");
        crate::net::TcpListener::new(cell)
    };
    threads.push(spawn(async move { listener.accept().await.is_err() }));
    let connect = rig.connect();
    threads.push(spawn(async move {
        // Refused by a stack that lives, or failed by one that does not.
        connect.await.is_err()
    }));
    rig.client.die();
    assert!(threads.into_iter().all(join));
    drop((a, b));
    assert!(rig.client.host.is_buried() && rig.client.host.connections().is_empty());
    rig.end();
}
