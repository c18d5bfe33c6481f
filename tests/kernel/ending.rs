//! The end of a runtime and of a program.

use crate::common::{Outcome, addr, kernel_listener, once_told, receive, role, send, soon};
use crate::tests;
use rawtcp::net::{TcpListener, TcpStream};
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{Pair, SERVER_V4};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

tests!(
    what_was_written_arrives_after_the_program_returned,
    two_runtimes_one_after_the_other,
    two_runtimes_at_once,
    a_runtime_with_io_only,
    a_stream_outlives_its_runtime,
);

const PORT: u16 = 4700;
const LOAD: u64 = 3_000_000;

/// The role of a child: writes, drops the stream and returns.
pub(crate) fn send_and_return(to: &str) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stream = TcpStream::connect(to).await?;
        send(&mut stream, LOAD).await?;
        Outcome::Ok(())
    })
}

/// The kernel's peer starts to read a second after the connection was made.
fn what_was_written_arrives_after_the_program_returned() -> Outcome {
    let pair = Pair::new()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = pair.server.spawn_tokio(move || async move {
        let listener = kernel_listener(addr(SERVER_V4, PORT)).await?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        // The second is what is tested: the writer is to be gone before anything is read.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(soon("all of it", receive(&mut stream)).await?, LOAD);
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let status = pair.client.start(&mut role(&format!("send-and-return {}", addr(SERVER_V4, PORT)))?)?.wait()?;
    assert!(status.success());
    server.join()
}

async fn talk_to_oneself(port: u16) -> Outcome {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let client = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        assert_eq!(text, "hello");
        Outcome::Ok(())
    };
    let server = async {
        let (mut stream, _) = listener.accept().await?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await?;
        write.shutdown().await?;
        Outcome::Ok(())
    };
    let (client, server) = soon("echo", futures::future::join(client, server)).await;
    client?;
    server
}

fn two_runtimes_one_after_the_other() -> Outcome {
    let host = Namespace::new("host")?;
    host.run(|| {
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            // The same port each time: the stack of the runtime before has let it go.
            runtime.block_on(talk_to_oneself(PORT))?;
        }
        Ok(())
    })
}

fn two_runtimes_at_once() -> Outcome {
    let host = Namespace::new("host")?;
    let tasks: Vec<_> = (0..2).map(|i| host.spawn_tokio_threads(2, move || talk_to_oneself(PORT + i))).collect();
    tasks.into_iter().try_for_each(|task| task.join())
}

fn a_runtime_with_io_only() -> Outcome {
    let host = Namespace::new("host")?;
    host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", PORT)).await?;
            let (accepted, connected) =
                futures::future::join(listener.accept(), TcpStream::connect(("127.0.0.1", PORT))).await;
            let (mut a, mut b) = (accepted?.0, connected?);
            // Long enough for delayed ACKs to matter.
            for _ in 0..100 {
                a.write_all(b"ping").await?;
                b.read_exact(&mut [0; 4]).await?;
            }
            Outcome::Ok(())
        })
    })
}

fn a_stream_outlives_its_runtime() -> Outcome {
    let host = Namespace::new("host")?;
    host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut stream, peer) = runtime.block_on(async {
            let listener = TcpListener::bind(("127.0.0.1", PORT)).await?;
            let (accepted, connected) =
                futures::future::join(listener.accept(), TcpStream::connect(("127.0.0.1", PORT))).await;
            std::io::Result::Ok((connected?, accepted?.0))
        })?;
        drop(runtime);
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let error = other.block_on(stream.read(&mut [0; 8])).expect_err("its runtime has gone");
        assert_eq!(error.to_string(), "A Tokio 1.x context was found, but it is being shutdown.");
        drop(peer);
        Ok(())
    })
}
