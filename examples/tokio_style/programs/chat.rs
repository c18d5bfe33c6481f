//! A room where every line goes to all the others.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::{SinkExt, StreamExt};
use rawtcp::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_util::codec::{Framed, LinesCodec};

type Room = Arc<Mutex<HashMap<SocketAddr, UnboundedSender<String>>>>;

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6142".to_owned());
    let listener = TcpListener::bind(&addr).await?;
    println!("listening on {}", listener.local_addr()?);

    let room = Room::default();
    loop {
        let (stream, addr) = listener.accept().await?;
        let room = room.clone();
        tokio::spawn(async move {
            if let Err(error) = process(&room, stream, addr).await {
                println!("a guest was lost: {error}");
            }
        });
    }
}

fn broadcast(room: &Room, sender: SocketAddr, text: &str) {
    for (_, guest) in room.lock().unwrap().iter().filter(|(addr, _)| **addr != sender) {
        guest.send(text.to_owned()).ok();
    }
    println!("{text}");
}

async fn process(room: &Room, stream: TcpStream, addr: SocketAddr) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut lines = Framed::new(stream, LinesCodec::new());
    lines.send("Please enter your username:").await?;
    let Some(Ok(name)) = lines.next().await else {
        println!("somebody did not say who they are");
        return Ok(());
    };

    let (sender, mut messages) = unbounded_channel();
    room.lock().unwrap().insert(addr, sender);
    broadcast(room, addr, &format!("{name} has joined the chat"));
    let result = loop {
        tokio::select! {
            Some(text) = messages.recv() => lines.send(text).await?,
            line = lines.next() => match line {
                Some(Ok(line)) => broadcast(room, addr, &format!("{name}: {line}")),
                Some(Err(error)) => break Err(error.into()),
                None => break Ok(()),
            },
        }
    };
    room.lock().unwrap().remove(&addr);
    broadcast(room, addr, &format!("{name} has left the chat"));
    result
}
