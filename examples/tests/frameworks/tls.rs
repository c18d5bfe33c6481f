//! tokio-rustls: bytes there and back. `RAWTCP_TLS_BYTES` says how many; 4 MiB if nobody does.

use super::{TcpListener, TcpStream};
use crate::Outcome;
use crate::frameworks::{End, Serving, certificate};
use rawtcp_examples::{Generated, generated};
use std::net::SocketAddr;
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn size() -> Result<u64, std::num::ParseIntError> {
    std::env::var("RAWTCP_TLS_BYTES").map_or(Ok(4 << 20), |bytes| bytes.parse())
}

pub(crate) async fn serve(at: SocketAddr, serving: Serving) -> Outcome {
    let listener = TcpListener::bind(at).await?;
    let end = serving.ready();
    let (stream, _) = listener.accept().await?;
    let stream = TlsAcceptor::from(certificate::server()?).accept(stream).await?;
    let (mut reader, mut writer) = io::split(stream);
    assert_eq!(io::copy(&mut reader, &mut writer).await?, size()?);
    writer.shutdown().await?;
    Ok(end.await?)
}

pub(crate) async fn call(at: SocketAddr, end: End) -> Outcome {
    let size = size()?;
    let stream = TcpStream::connect(at).await?;
    let connector = TlsConnector::from(certificate::client()?);
    let stream = connector.connect(ServerName::try_from(certificate::NAME)?, stream).await?;
    let (mut reader, mut writer) = io::split(stream);
    let send = async {
        for block in Generated::new(size) {
            writer.write_all(&block).await?;
        }
        writer.shutdown().await
    };
    let receive = async {
        let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
        // Without the peer's close_notify the end would be an error.
        loop {
            let length = reader.read(&mut buffer).await?;
            if length == 0 {
                return Ok(received);
            }
            assert!(
                buffer[..length] == generated(received, length as u64),
                "other bytes within {length} from {received} on"
            );
            received += length as u64;
        }
    };
    let ((), received) = tokio::try_join!(send, receive)?;
    assert_eq!(received, size);
    end.send(()).map_err(|()| "the server has gone".into())
}
