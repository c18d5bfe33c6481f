//! Reading, writing, waiting and giving up, from several threads.

use super::{Rig, block_on, join, pattern, spawn};
use crate::net::TcpStream;
use crate::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use crate::sync::{Arc, AtomicUsize, Ordering};
use futures::future::poll_immediate;
use std::io::ErrorKind;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};

async fn read_all(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut got = Vec::new();
    from.read_to_end(&mut got).await.expect("read");
    got
}

async fn write_and_close(mut to: impl AsyncWrite + Unpin, data: Vec<u8>) {
    to.write_all(&data).await.expect("write");
    to.shutdown().await.expect("shutdown");
}

/// More than the buffers hold: the writer waits for the reader, and the window opens again each time.
pub fn transfer() {
    let rig = Rig::new();
    let (mut a, b) = rig.pair();
    let data = pattern(10_000);
    let expected = data.clone();
    let reader = spawn(read_all(b));
    let writer = spawn(async move {
        a.write_all(&data).await.expect("write");
        drop(a);
    });
    join(writer);
    assert!(join(reader) == expected);
    rig.end();
}

/// Both directions of both ends in a thread of their own: the wakers of the directions do not meet.
pub fn both_ways() {
    let rig = Rig::new();
    let (a, b) = rig.pair();
    let (up, down) = (pattern(5000), pattern(4000));
    let ((ra, wa), (rb, wb)) = (a.into_split(), b.into_split());
    let writers = [spawn(write_and_close(wa, up.clone())), spawn(write_and_close(wb, down.clone()))];
    let readers = [spawn(read_all(ra)), spawn(read_all(rb))];
    writers.into_iter().for_each(join);
    let [got_down, got_up] = readers.map(join);
    assert!(got_up == up && got_down == down);
    rig.end();
}

/// Takes what there is whenever it is told so, until the end.
async fn take(from: Arc<TcpStream>, taken: Arc<AtomicUsize>) {
    loop {
        from.readable().await.expect("readable");
        match from.try_read(&mut [0; 300]) {
            Ok(0) => return,
            Ok(n) => drop(taken.fetch_add(n, Ordering::SeqCst)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// Several threads wait for one stream, and each of them sees the end.
pub fn waiters() {
    let rig = Rig::new();
    let (mut a, b) = rig.pair();
    let (b, taken) = (Arc::new(b), Arc::new(AtomicUsize::new(0)));
    let takers: Vec<_> = (0..3).map(|_| spawn(take(b.clone(), taken.clone()))).collect();
    for _ in 0..4 {
        block_on(a.write_all(&[1; 250])).expect("write");
    }
    drop(a);
    takers.into_iter().for_each(join);
    assert_eq!(taken.load(Ordering::SeqCst), 1000);
    drop(b);
    rig.end();
}

/// One looks, another takes away what is seen: whoever finds nothing waits for the next bytes, not for ever.
pub fn peeks() {
    let rig = Rig::new();
    let (mut a, b) = rig.pair();
    let (b, taken) = (Arc::new(b), Arc::new(AtomicUsize::new(0)));
    let peeker = spawn({
        let b = b.clone();
        async move {
            while b.peek(&mut [0; 8]).await.expect("peek") > 0 {
                // A schedule by priorities would have it look for ever.
                shuttle::future::yield_now().await;
            }
        }
    });
    let taker = spawn(take(b, taken.clone()));
    for _ in 0..3 {
        block_on(a.write_all(&[1; 8])).expect("write");
    }
    drop(a);
    join(peeker);
    join(taker);
    assert_eq!(taken.load(Ordering::SeqCst), 24);
    rig.end();
}

/// Reads that leave it open whether there is more, and find out later: what comes while they look is not overlooked.
pub fn exact_reads() {
    let rig = Rig::new();
    let (mut a, b) = rig.pair();
    let writer = spawn(async move {
        for _ in 0..4 {
            a.write_all(&[2; 8]).await.expect("write");
        }
        // No end of the stream that would wake whoever waits.
        a
    });
    let mut got = 0;
    while got < 32 {
        let mut buf = [0; 8];
        got += block_on(b.async_io(Interest::READABLE, || b.try_read(&mut buf))).expect("read");
    }
    drop((join(writer), b));
    rig.end();
}

/// Waits that are given up take nothing, and nobody else's wake-up, with them.
pub fn cancelled() {
    let rig = Rig::new();
    let (mut a, mut b) = rig.pair();
    let writer = spawn(async move {
        for _ in 0..3 {
            a.write_all(&[9; 10]).await.expect("write");
        }
        a
    });
    let mut got = 0;
    block_on(async {
        while got < 30 {
            let mut buf = [0; 4];
            got += poll_immediate(b.read(&mut buf)).await.map_or(0, |n| n.expect("read"));
            let _ = poll_immediate(b.peek(&mut buf)).await;
            let _ = poll_immediate(b.ready(Interest::READABLE | Interest::WRITABLE)).await;
            if got < 30 {
                got += b.read(&mut buf).await.expect("read");
            }
        }
    });
    let a = Arc::new(join(writer));
    // One waits for good, others come and go.
    let waits = spawn({
        let a = a.clone();
        async move { a.readable().await.expect("readable") }
    });
    let others = spawn({
        let a = a.clone();
        async move {
            for _ in 0..3 {
                let _ = poll_immediate(a.readable()).await;
                let _ = poll_immediate(a.peek(&mut [0])).await;
            }
        }
    });
    block_on(b.write_all(b"x")).expect("write");
    join(waits);
    join(others);
    drop((a, b));
    rig.end();
}

/// A half that is dropped ends its direction only, from whatever thread.
pub fn halves_dropped() {
    let rig = Rig::new();
    let (a, mut b) = rig.pair();
    let (reads, writes): (OwnedReadHalf, OwnedWriteHalf) = a.into_split();
    let answers = spawn(async move {
        assert_eq!(b.read(&mut [0]).await.expect("end"), 0);
        b.write_all(&pattern(3000)).await.expect("answer");
    });
    let reader = spawn(read_all(reads));
    drop(writes);
    join(answers);
    assert!(join(reader) == pattern(3000));
    rig.end();
}

/// A reset ends every wait there is: for data, for room, for readiness, for acknowledgments.
pub fn reset() {
    let rig = Rig::new();
    let (a, b) = rig.pair();
    let b = Arc::new(b);
    let full = spawn({
        let b = b.clone();
        async move {
            loop {
                b.writable().await.expect("writable");
                match b.try_write(&[5; 4096]) {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return error.kind(),
                    _ => {}
                }
            }
        }
    });
    let reads = spawn({
        let b = b.clone();
        async move { b.peek(&mut [0]).await.map_err(|error| error.kind()) }
    });
    let acked = spawn({
        let b = b.clone();
        async move { b.acknowledged().await.map_err(|error| error.kind()) }
    });
    let error = spawn({
        let b = b.clone();
        async move { b.ready(Interest::ERROR).await.expect("ready").is_error() }
    });
    a.set_zero_linger().expect("linger");
    drop(a);
    // The error is told once, to whoever looks first.
    let (full, reads) = (join(full), join(reads));
    match full {
        ErrorKind::ConnectionReset => assert_eq!(reads, Ok(0)),
        ErrorKind::BrokenPipe => assert_eq!(reads, Err(ErrorKind::ConnectionReset)),
        other => panic!("{other}"),
    }
    assert!(matches!(join(acked), Ok(()) | Err(ErrorKind::ConnectionReset)));
    assert!(join(error));
    drop(b);
    rig.end();
}

/// Everyone who waits for acknowledgments is told, whenever they began to.
pub fn acknowledgments() {
    let rig = Rig::new();
    let (a, b) = rig.pair();
    let reader = spawn(read_all(b));
    let a = Arc::new(a);
    let waits = |a: &Arc<TcpStream>| {
        let a = a.clone();
        spawn(async move { a.acknowledged().await.expect("acknowledged") })
    };
    let mut threads = Vec::new();
    for _ in 0..3 {
        block_on(a.writable()).expect("writable");
        assert_eq!(a.try_write(&[3; 100]).expect("room"), 100);
        threads.push(waits(&a));
    }
    // One that is given up changes nothing for the others.
    block_on(async { drop(poll_immediate(a.acknowledged()).await) });
    threads.drain(..).for_each(join);
    a.cell().shutdown().expect("shutdown");
    threads.push(waits(&a));
    threads.into_iter().for_each(join);
    assert_eq!(join(reader), [3; 300]);
    drop(a);
    rig.end();
}

/// Connections take turns at a device that is full most of the time.
pub fn full_device() {
    two_at_once(Rig::narrow());
}

/// The same where the server has two drivers: each receives one of the connections, and the first sends what waits for the
/// device of both.
pub fn several_drivers() {
    two_at_once(Rig::fanned(2));
}

fn two_at_once(rig: Rig) {
    let listener = rig.server.listen();
    let connecting = [rig.connect(), rig.connect()];
    let accepted = spawn(async move {
        let first = listener.accept().await.expect("accept").0;
        (first, listener.accept().await.expect("accept").0)
    });
    let [one, other] = connecting.map(|connect| block_on(connect).expect("connect"));
    let accepted = join(accepted);
    let mut threads = Vec::new();
    for (a, b) in [(one, accepted.0), (other, accepted.1)] {
        let (ra, wa) = a.into_split();
        let (rb, wb) = b.into_split();
        threads.push(spawn(write_and_close(wa, pattern(3000))));
        threads.push(spawn(write_and_close(wb, pattern(1500))));
        threads.push(spawn(async move { assert!(read_all(ra).await == pattern(1500)) }));
        threads.push(spawn(async move { assert!(read_all(rb).await == pattern(3000)) }));
    }
    threads.into_iter().for_each(join);
    assert!(rig.server.host.stats().received_by.iter().all(|&received| received > 0));
    rig.end();
}
