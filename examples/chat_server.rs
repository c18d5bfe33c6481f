//! A chat for `nc`: `cargo run --release --example chat_server -- 127.0.0.1:6000`
//!
//! The first line is one's name; each further line goes to all others. Who reads too slowly to keep up loses lines, and is
//! told how many.

use std::sync::Arc;

use clap::Parser;
use rawtcp::net::{TcpListener, TcpStream};
use rawtcp_examples::Signals;
use tokio::io::{self, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender, channel};
use tokio_util::task::TaskTracker;

/// Lines that may wait for the slowest reader.
const BEHIND: usize = 256;

#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(default_value = "127.0.0.1:6000")]
    address: String,
}

/// A line, and whose it is.
#[derive(Clone)]
struct Line {
    from: u64,
    text: Arc<str>,
}

#[tokio::main]
pub(crate) async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    rawtcp_examples::init_tracing();
    let mut signals = Signals::new()?;

    let listener = TcpListener::bind(&arguments.address).await?;
    println!("listening on {}", listener.local_addr()?);

    let (room, _) = channel(BEHIND);
    let guests = TaskTracker::new();
    for guest in 0.. {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = signals.received() => break,
        };
        let room = room.clone();
        guests.spawn(async move {
            if let Err(error) = chat(stream, guest, room).await {
                tracing::info!(%peer, %error, "ended");
            }
        });
    }
    drop((listener, room));
    signals.finish(guests).await;
    Ok(())
}

async fn chat(stream: TcpStream, guest: u64, room: Sender<Line>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"Who are you?\n").await?;
    let Some(name) = lines.next_line().await? else { return Ok(()) };

    // Before the others hear of it, so that whoever answers at once is heard.
    let others = room.subscribe();
    let say = |text: String| {
        // Nobody else may be there.
        room.send(Line { from: guest, text: text.into() }).ok();
    };
    say(format!("* {name} is here\n"));
    let welcome = format!("* welcome, {name}\n");
    let listening = tokio::spawn(async move {
        writer.write_all(welcome.as_bytes()).await?;
        listen(writer, guest, others).await
    });
    let result = loop {
        match lines.next_line().await {
            Ok(Some(line)) => say(format!("{name}: {line}\n")),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    say(format!("* {name} has left\n"));
    // The other half is closed with its task: whoever said good-bye is not owed more lines.
    listening.abort();
    result
}

async fn listen(mut writer: rawtcp::net::tcp::OwnedWriteHalf, guest: u64, mut lines: Receiver<Line>) -> io::Result<()> {
    loop {
        match lines.recv().await {
            Ok(line) if line.from == guest => {}
            Ok(line) => writer.write_all(line.text.as_bytes()).await?,
            Err(RecvError::Lagged(lost)) => writer.write_all(format!("* {lost} lines lost\n").as_bytes()).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}
