//! Many at once, and many that do nothing.

use crate::common::{Outcome, addr, assert_kernel_sent_no_reset, builder, once_told, role, soon};
use crate::tests;
use rawtcp_lab::topology::{Pair, SERVER_V4};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net as kernel;

tests!(a_thousand_clients_on_a_backlog_of_128, a_thousand_idle_connections_cost_nothing);

const PORT: u16 = 4800;
const CLIENTS: usize = 1000;
const BACKLOG: u32 = 128;

/// Asks, and reads the answer and the end.
async fn ask(connect: impl Future<Output = std::io::Result<kernel::TcpStream>>) -> std::io::Result<()> {
    let mut stream = connect.await?;
    stream.write_all(b"?").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    assert_eq!(answer, b"!");
    Ok(())
}

/// Nobody is accepted before all have knocked. Whose SYN or last ACK finds the queue full comes again; nobody is reset.
fn a_thousand_clients_on_a_backlog_of_128() -> Outcome {
    let pair = Pair::new()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (knocked, all_knocked) = tokio::sync::oneshot::channel();
    let server = pair.server.spawn_tokio(move || async move {
        let stack = builder().build()?;
        let socket = stack.socket_v4();
        socket.bind(addr(SERVER_V4, PORT))?;
        let listener = socket.listen(BACKLOG)?;
        ready.send(())?;
        all_knocked.await?;
        // The queue is full, and someone was turned away: no earlier is anybody accepted.
        let overflow = async {
            while stack.stats().drops(rawtcp::DropReason::AcceptQueueFull) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon("a full queue", overflow).await;
        let mut served = Vec::new();
        for _ in 0..CLIENTS {
            let (mut stream, _) = soon("accept", listener.accept()).await?;
            served.push(tokio::spawn(async move {
                assert_eq!(stream.read_u8().await?, b'?');
                stream.write_all(b"!").await
            }));
        }
        for task in served {
            soon("an answer", task).await??;
        }
        let stats = stack.stats();
        assert_eq!(stats.resets_sent, 0, "{stats:?}");
        drop(listener);
        assert_kernel_sent_no_reset()?;
        stack.close().await;
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let clients = pair.client.spawn_tokio(move || async move {
        let mut asked = Vec::new();
        for _ in 0..CLIENTS {
            let mut connect = Box::pin(kernel::TcpStream::connect(addr(SERVER_V4, PORT)));
            // The SYN leaves.
            let first = futures::poll!(&mut connect);
            assert!(first.is_pending());
            asked.push(tokio::spawn(ask(connect)));
        }
        let _ = knocked.send(());
        for task in asked {
            soon("a client", task).await??;
        }
        Outcome::Ok(())
    });
    clients.join()?;
    server.join()
}

/// Accepts and greets, and then does nothing at all.
pub(crate) fn hold(at: &str) -> Outcome {
    let at: SocketAddr = at.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stack = builder().build()?;
        let listener = stack.bind(at).await?;
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(b"!").await?;
            held.push(stream);
        }
    })
}

/// How often threads of a process have been given the processor: who never is makes no system call.
fn switches(pid: u32) -> std::io::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        sum += counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}

fn a_thousand_idle_connections_cost_nothing() -> Outcome {
    const IDLE: Duration = Duration::from_secs(10);
    let pair = Pair::new()?;
    let mut server = pair.server.start(&mut role(&format!("hold {}", addr(SERVER_V4, PORT)))?)?;
    let pid = server.child().id();
    let clients = pair.client.spawn_tokio(move || async move {
        let mut streams = Vec::new();
        while streams.len() < CLIENTS {
            match kernel::TcpStream::connect(addr(SERVER_V4, PORT)).await {
                Ok(mut stream) => {
                    assert_eq!(soon("the greeting", stream.read_u8()).await?, b'!');
                    streams.push(stream);
                }
                // It does not listen yet.
                Err(error) if streams.is_empty() && error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // The last timers run out: delayed ACKs, retransmissions that turn out not to be needed.
        let quiet = async {
            let mut before = switches(pid)?;
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let now = switches(pid)?;
                if now == before {
                    return std::io::Result::Ok(());
                }
                before = now;
            }
        };
        soon("quiet", quiet).await?;
        let before = switches(pid)?;
        tokio::time::sleep(IDLE).await;
        assert_eq!(switches(pid)?, before, "woken in {IDLE:?} without anything to do");
        // They are all alive.
        for stream in &mut streams {
            stream.write_all(b"?").await?;
        }
        Outcome::Ok(())
    });
    clients.join()?;
    server.child().kill()?;
    server.wait()?;
    Ok(())
}
