//! The accept queue.

use super::{Rig, join, spawn};
use crate::net::{TcpListener, TcpStream};
use crate::sync::Arc;
use futures::future::poll_immediate;
use std::io::{self, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// As many accept as connect, beside one who gives up again and again: everyone is served.
pub fn accepts() {
    async fn serve(listener: Arc<TcpListener>) -> TcpStream {
        let mut stream = listener.accept().await.expect("accept").0;
        stream.write_all(b"x").await.expect("write");
        // Kept open: time stands still, and so the four-tuple of a TIME-WAIT would never be free again.
        stream
    }
    async fn ask(connect: impl Future<Output = io::Result<TcpStream>>) -> TcpStream {
        let mut stream = connect.await.expect("connect");
        assert_eq!(stream.read_u8().await.expect("a byte"), b'x');
        stream
    }
    let rig = Rig::new();
    let listener = Arc::new(rig.server.listen());
    let mut threads: Vec<_> = (0..2).map(|_| spawn(serve(listener.clone()))).collect();
    let quits = spawn(async move {
        for _ in 0..3 {
            // Whom it accepts by chance, it serves.
            if let Some(accepted) = poll_immediate(listener.accept()).await {
                let mut stream = accepted.expect("accept").0;
                stream.write_all(b"x").await.expect("write");
                return Some(stream);
            }
        }
        None
    });
    threads.extend((0..2).map(|_| spawn(ask(rig.connect()))));
    let served = join(quits);
    if served.is_some() {
        // One of the others waits for the next.
        threads.push(spawn(ask(rig.connect())));
    }
    let streams: Vec<_> = threads.into_iter().map(join).collect();
    drop((streams, served));
    rig.end();
}

/// A listener that goes while others connect: each is refused, or reset, or was never there, but nobody hangs.
pub fn listener_dropped() {
    let rig = Rig::new();
    let listener = rig.server.listen();
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let connect = rig.connect();
            spawn(async move {
                match connect.await {
                    Ok(mut stream) => stream.read(&mut [0]).await.map_err(|error| error.kind()),
                    Err(error) => Err(error.kind()),
                }
            })
        })
        .collect();
    let drops = spawn(async move { drop(listener) });
    join(drops);
    for client in clients {
        assert!(matches!(join(client), Err(ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)));
    }
    rig.end();
}
