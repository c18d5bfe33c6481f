//! Numbers the lines of its clients. At an interrupt it takes no more clients, says good-bye to those that are there, and
//! ends when the last of them has gone.

use std::env;
use std::error::Error;
use std::io;

use rawtcp::net::{TcpListener, TcpStream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let (shutdown, ending) = watch::channel(false);
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let listener = TcpListener::bind(&addr).await?;
    println!("listening on {}", listener.local_addr()?);

    let mut clients = JoinSet::new();
    let mut lines = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                clients.spawn(serve(stream, ending.clone()));
            }
            Some(client) = clients.join_next() => lines += gone(client?),
            _ = interrupt.recv() => break,
        }
    }
    drop(listener);
    println!("shutting down");
    shutdown.send(true)?;

    while let Some(client) = clients.join_next().await {
        lines += gone(client?);
    }
    println!("{lines} lines in all");
    Ok(())
}

fn gone(client: io::Result<u32>) -> u32 {
    client.unwrap_or_else(|error| {
        println!("a client was lost: {:?}", error.kind());
        0
    })
}

async fn serve(mut stream: TcpStream, mut ending: watch::Receiver<bool>) -> io::Result<u32> {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    let mut count = 0;
    let mut open = true;
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(count) };
                count += 1;
                if open {
                    writer.write_all(format!("{count} {line}\n").as_bytes()).await?;
                }
            }
            _ = ending.changed(), if open => {
                writer.write_all(b"good-bye\n").await?;
                writer.shutdown().await?;
                open = false;
            }
        }
    }
}
