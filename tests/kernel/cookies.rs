//! What a handshake of which nothing was kept can not bear: the same on Linux and here.

use crate::common::{Outcome, addr, builder, kernel_listener, nft, once_told, soon};
use crate::tests;
use rawtcp_lab::topology::{ROUTED_SERVER_V4, Routed};
use rawtcp_proto::stack::{StackConfig, SynCookies};
use std::io::{self, ErrorKind};
use std::process::Command;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

tests!(the_first_segment_behind_a_cookie_arrives, the_first_segments_behind_a_cookie_are_lost => nft);

const PORT: u16 = 4850;
/// What the client writes: the first is short enough for the router to know it by. Linux's cookie is one of four next
/// to each other: if it is three bytes or less that are lost, it takes the cookie for one of another segment size, and the
/// stream begins without them. Ours has the number in the hash.
const FIRST: usize = 20;
const SECOND: usize = 1000;

/// Reads both and says "!".
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.read_exact(&mut [0; FIRST + SECOND]).await?;
    stream.write_all(b"!").await?;
    stream.read_exact(&mut [0]).await.map(drop).or_else(|end| match end.kind() {
        ErrorKind::UnexpectedEof => Ok(()),
        _ => Err(end),
    })
}

/// SYN cookies that this thread's namespace has had back: good ones and others.
fn kernels_cookies() -> Result<[String; 2], Box<dyn std::error::Error + Send + Sync>> {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (lines.next().ok_or("no names")?, lines.next().ok_or("no values")?);
    let all: Vec<_> = names.zip(values).collect();
    let find = |name| all.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
    Ok([find("SyncookiesRecv").ok_or("no counter")?, find("SyncookiesFailed").ok_or("no counter")?])
}

/// A kernel client connects to a server that answers each SYN with a cookie, and writes twice. What it reads.
fn client_reads(ours: bool, lost: bool) -> Result<io::Result<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let net = Routed::new()?;
    net.server.set_sysctl("net.ipv4.tcp_syncookies", "2")?;
    if lost {
        let rules = format!(
            "table inet filter {{ chain through {{ type filter hook forward priority 0; \
             tcp dport {PORT} tcp flags & syn == 0 ip length < 100 drop; }}; }}"
        );
        let output = net.router.output(Command::new("nft").arg(rules))?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let at = addr(ROUTED_SERVER_V4, PORT);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (done, is_done) = oneshot::channel::<()>();
    let server = net.server.spawn_tokio(move || async move {
        // One byte that came back wrong, one right: accepted or reset.
        let expected = if lost { ["0", "1"] } else { ["1", "0"] };
        if ours {
            let config = StackConfig { syn_cookies: SynCookies::Always, ..StackConfig::default() };
            let stack = builder().stack_config(config).build()?;
            let listener = stack.bind(at).await?;
            ready.send(())?;
            tokio::select! {
                accepted = listener.accept() => answer(accepted?.0).await?,
                _ = is_done => {}
            }
            let stats = stack.stats();
            assert_eq!([stats.accepts.to_string(), stats.resets_sent.to_string()], expected, "{stats:?}");
        } else {
            let listener = kernel_listener(at).await?;
            ready.send(())?;
            tokio::select! {
                accepted = listener.accept() => answer(accepted?.0).await?,
                _ = is_done => {}
            }
            assert_eq!(kernels_cookies()?, expected);
        }
        Outcome::Ok(())
    });
    let server = once_told(&is_ready, server)?;
    let client = net.client.spawn_tokio(move || async move {
        let mut stream = soon("connect", tokio::net::TcpStream::connect(at)).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&[1; FIRST]).await?;
        stream.write_all(&[2; SECOND]).await?;
        let what = format!("the answer, ours: {ours}");
        let read = soon(&what, stream.read_u8()).await;
        let _ = done.send(());
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(read)
    });
    let read = client.join()?;
    server.join()?;
    Ok(read)
}

fn the_first_segment_behind_a_cookie_arrives() -> Outcome {
    for ours in [false, true] {
        assert_eq!(client_reads(ours, false)??, b'!', "ours: {ours}");
    }
    Ok(())
}

/// The number that the cookie was made of is one below that of the first segment: of a later one nothing can be told,
/// and the answer to what is no cookie is a RST.
fn the_first_segments_behind_a_cookie_are_lost() -> Outcome {
    for ours in [false, true] {
        let error = client_reads(ours, true)?.err().ok_or("there was an answer")?;
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "ours: {ours}");
    }
    Ok(())
}
