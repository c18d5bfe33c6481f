//! Urgent data between us and the kernel, both ways.

use crate::common::{Outcome, addr, kernel_listener, once_told, soon, stack};
use crate::tests;
use rawtcp_lab::topology::{Pair, SERVER_V4, SERVER_V6};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io::ErrorKind;
use std::net::IpAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

tests!(both_ways_v4, both_ways_v6);

const PORT: u16 = 4900;

fn both_ways(ip: IpAddr) -> Outcome {
    let pair = Pair::new()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = pair.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(ip, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        // The last byte of what was urgent is read by itself here: the kernel takes it out of the stream.
        let mut text = [0; 6];
        soon("up to the mark", stream.read_exact(&mut text)).await?;
        assert_eq!(&text, b"beforx");
        let mut byte = [0];
        recv(&stream, &mut byte, RecvFlags::OOB)?;
        assert_eq!(byte, *b"!");
        let mut text = [0; 3];
        soon("behind the mark", stream.read_exact(&mut text)).await?;
        assert_eq!(&text, b"aft");
        // The other way round, told before it is read.
        stream.write_all(b"12345").await?;
        assert_eq!(send(&stream, b"678!", SendFlags::OOB)?, 4);
        stream.write_all(b"90").await?;
        stream.shutdown().await?;
        assert_eq!(soon("the end", stream.read(&mut text)).await?, 0);
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let client = pair.client.spawn_tokio(move || async move {
        let stack = stack()?;
        let mut stream = stack.connect(addr(ip, PORT)).await?;
        assert_eq!(stream.urgent_ahead(), None);
        stream.write_all(b"befor").await?;
        stream.write_urgent(b"x!").await?;
        stream.write_all(b"aft").await?;
        let ready = soon("the news", stream.ready(Interest::PRIORITY)).await?;
        assert!(ready.is_priority());
        let ahead = soon("the news", stream.urgent()).await?.ok_or("no urgent data")?;
        assert_eq!(ahead, 9);
        let mut text = Vec::new();
        soon("the stream", stream.read_to_end(&mut text)).await?;
        assert_eq!(text, b"12345678!90", "in line");
        assert_eq!(stream.urgent_ahead(), None);
        assert_eq!(stream.try_read_urgent().map_err(|error| error.kind()), Err(ErrorKind::InvalidInput));
        drop(stream);
        stack.close().await;
        Outcome::Ok(())
    });
    client.join()?;
    server.join()
}

fn both_ways_v4() -> Outcome {
    both_ways(SERVER_V4)
}

fn both_ways_v6() -> Outcome {
    both_ways(SERVER_V6)
}
