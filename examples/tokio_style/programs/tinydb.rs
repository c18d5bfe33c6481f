//! A key-value store with a line protocol: `GET key`, `SET key value`.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::sync::{Arc, Mutex};

use futures::{SinkExt, StreamExt};
use rawtcp::net::TcpListener;
use tokio_util::codec::{Framed, LinesCodec};

type Database = Arc<Mutex<HashMap<String, String>>>;

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&addr).await?;
    println!("listening on {}", listener.local_addr()?);

    let database = Database::default();
    database.lock().unwrap().insert("foo".to_owned(), "bar".to_owned());
    loop {
        let (stream, _) = listener.accept().await?;
        let database = database.clone();
        tokio::spawn(async move {
            let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(1024));
            while let Some(line) = lines.next().await {
                let answer = match line {
                    Ok(line) => answer(&database, &line),
                    Err(error) => format!("error: {error}"),
                };
                if lines.send(answer).await.is_err() {
                    break;
                }
            }
            println!("a client has left");
        });
    }
}

fn answer(database: &Database, line: &str) -> String {
    let mut database = database.lock().unwrap();
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("GET"), Some(key), None) => match database.get(key) {
            Some(value) => format!("{key} = {value}"),
            None => format!("error: no key {key}"),
        },
        (Some("SET"), Some(key), Some(value)) => match database.insert(key.to_owned(), value.to_owned()) {
            Some(before) => format!("{key} := {value}, was {before}"),
            None => format!("{key} := {value}"),
        },
        (Some("GET" | "SET"), ..) => "error: GET key, or SET key value".to_owned(),
        (command, ..) => format!("error: unknown command {}", command.unwrap_or_default()),
    }
}
