//! A peer that stops reading stops the writer, and nothing grows meanwhile.

use crate::common::{Outcome, addr, assert_kernel_sent_no_reset, once_told, receive, role, soon, stack};
use crate::tests;
use rawtcp_lab::topology::{Pair, SERVER_V4, SERVER_V6};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

tests!(writer_pends_v4, writer_pends_v6);

const PORT: u16 = 4200;

/// The peer's receive buffer as Linux counts it: twice what was asked for.
const PEER_BUFFER: usize = 64 * 1024;

fn writer_pends_v4() -> Outcome {
    writer_pends(SERVER_V4)
}

fn writer_pends_v6() -> Outcome {
    writer_pends(SERVER_V6)
}

/// Resident memory of this process, in bytes.
fn resident() -> io::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or(io::ErrorKind::InvalidData)?;
    let kib = line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok());
    Ok(kib.ok_or(io::ErrorKind::InvalidData)? * 1024)
}

fn writer_pends(ip: IpAddr) -> Outcome {
    let pair = Pair::new()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (go, may_read) = tokio::sync::oneshot::channel();
    let server = pair.server.spawn_tokio(move || async move {
        let socket = if ip.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
        socket.set_recv_buffer_size(PEER_BUFFER as u32)?;
        socket.bind(addr(ip, PORT))?;
        let listener = socket.listen(8)?;
        ready.send(())?;
        let (mut stream, _) = soon("accept", listener.accept()).await?;
        may_read.await?;
        let got = soon("reading at last", receive(&mut stream)).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(got)
    });
    let server = once_told(&is_ready, server)?;
    let mut client = pair.client.start(role(&format!("fill {}", addr(ip, PORT)))?.stdout(Stdio::piped()))?;
    let mut told = BufReader::new(client.child().stdout.take().ok_or("a pipe")?);
    let mut line = String::new();
    told.read_line(&mut line)?;
    assert_eq!(line.trim(), "pends", "the client says why");
    go.send(()).map_err(|()| "the server has gone")?;
    line.clear();
    told.read_line(&mut line)?;
    assert!(client.wait()?.success(), "the client says why");
    assert_eq!(server.join()?, line.trim().parse::<u64>()?);
    pair.client.run(assert_kernel_sent_no_reset)
}

/// What the client does, in a process of its own whose memory nothing else makes grow: it writes until the peer takes no more
/// and says so; then, as it will read at last, 8 MiB more, and says how much that was.
pub(crate) fn fill(at: &str) -> Outcome {
    let at: SocketAddr = at.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stack = stack()?;
        let mut stream = stack.connect(at).await?;
        let send_buffer = rawtcp_proto::ConnConfig::default().send_buffer_max;
        let mut written = 0;
        // Full when the peer has offered nothing new for this long: its window is shut, not just slow.
        let stuck = Duration::from_secs(3);
        while let Ok(n) = tokio::time::timeout(stuck, write_some(&mut stream, written)).await {
            written += n?;
        }
        assert!(written <= (send_buffer + 2 * PEER_BUFFER) as u64, "{written} bytes were accepted");
        let before = resident()?;
        let pending = tokio::time::timeout(stuck, write_some(&mut stream, written)).await;
        assert!(pending.is_err(), "the window is shut, and so is the buffer");
        let grown = resident()?.saturating_sub(before);
        assert!(grown < 1 << 20, "grew by {grown} bytes while it waited");
        println!("pends");
        let most = written + (8 << 20);
        while written < most {
            written += soon("writing on", write_some(&mut stream, written)).await?;
        }
        stream.shutdown().await?;
        drop(stream);
        stack.close().await;
        println!("{written}");
        Ok(())
    })
}

/// One write of the pattern at `offset`.
async fn write_some(stream: &mut rawtcp::net::TcpStream, offset: u64) -> io::Result<u64> {
    Ok(stream.write(crate::common::pattern(offset, 64 * 1024)).await? as u64)
}
