//! A small HTTP/1.1 server on a codec: `/plaintext` and `/json`. Requests may be pipelined.

use std::env;
use std::error::Error;
use std::io::{self, ErrorKind};

use bytes::{Buf, BytesMut};
use futures::{SinkExt, StreamExt};
use rawtcp::net::{TcpListener, TcpStream};
use tokio_util::codec::{Decoder, Encoder, Framed};

/// A request's head, and all headers, may have so many bytes.
const MAX_HEAD: usize = 8192;

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&addr).await?;
    println!("listening on {}", listener.local_addr()?);

    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(stream).await {
                println!("failed to serve a connection: {error}");
            }
        });
    }
}

async fn serve(stream: TcpStream) -> io::Result<()> {
    let mut transport = Framed::new(stream, Http);
    while let Some(request) = transport.next().await {
        let (status, kind, body) = match request {
            Ok(path) if path == "/plaintext" => ("200 OK", "text/plain", "Hello, World!"),
            Ok(path) if path == "/json" => ("200 OK", "application/json", r#"{"message":"Hello, World!"}"#),
            Ok(_) => ("404 Not Found", "text/plain", ""),
            Err(error) => {
                transport.send(("400 Bad Request", "text/plain", "")).await?;
                return Err(error);
            }
        };
        transport.send((status, kind, body)).await?;
    }
    Ok(())
}

struct Http;

impl Encoder<(&'static str, &'static str, &'static str)> for Http {
    type Error = io::Error;

    fn encode(
        &mut self,
        (status, kind, body): (&'static str, &'static str, &'static str),
        into: &mut BytesMut,
    ) -> io::Result<()> {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        into.extend_from_slice(head.as_bytes());
        into.extend_from_slice(body.as_bytes());
        Ok(())
    }
}

impl Decoder for Http {
    /// The path. Bodies are not for so small a server.
    type Item = String;
    type Error = io::Error;

    fn decode(&mut self, from: &mut BytesMut) -> io::Result<Option<String>> {
        let invalid = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(from).map_err(|error| invalid(&error.to_string()))?;
        let httparse::Status::Complete(length) = parsed else {
            return if from.len() > MAX_HEAD { Err(invalid("the head is too long")) } else { Ok(None) };
        };
        if request.method != Some("GET") {
            return Err(invalid("not a GET"));
        }
        let path = request.path.unwrap_or_default().to_owned();
        from.advance(length);
        Ok(Some(path))
    }
}
