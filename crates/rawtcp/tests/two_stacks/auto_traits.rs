//! A table of types and futures with their auto traits.

use super::net::tcp::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, WriteHalf};
use super::net::{TcpListener, TcpSocket, TcpStream};
use crate::surface::*;
use std::net::SocketAddr;
use tokio::io::Interest;

type Row = (&'static str, Traits);
type Stream = &'static TcpStream;

macro_rules! table {
    (types: $($name:ty),*; futures: $($what:literal => $call:expr),* $(,)?) => {
        vec![
            $((stringify!($name), traits!(of_type::<$name>())),)*
            $(($what, traits!(of_result($call))),)*
        ]
    };
}

pub(crate) fn table() -> Vec<Row> {
    table!(
        types: TcpStream, TcpListener, TcpSocket, ReadHalf<'static>, WriteHalf<'static>, OwnedReadHalf,
            OwnedWriteHalf, ReuniteError;
        futures:
        "TcpStream::connect(&str)" => |addr: &'static str| TcpStream::connect(addr),
        "TcpStream::connect(SocketAddr)" => |addr: SocketAddr| TcpStream::connect(addr),
        "TcpStream::peek" => |(s, buf): (Stream, &'static mut [u8])| s.peek(buf),
        "TcpStream::ready" => |s: Stream| s.ready(Interest::READABLE),
        "TcpStream::readable" => |s: Stream| s.readable(),
        "TcpStream::writable" => |s: Stream| s.writable(),
        "TcpStream::async_io" => |s: Stream| s.async_io(Interest::READABLE, || Ok(1_u8)),
        "TcpStream::split" => |s: &'static mut TcpStream| s.split(),
        "TcpStream::try_read" => |s: Stream| s.try_read(&mut []),
        "TcpListener::bind(&str)" => |addr: &'static str| TcpListener::bind(addr),
        "TcpListener::bind(SocketAddr)" => |addr: SocketAddr| TcpListener::bind(addr),
        "TcpListener::accept" => |l: &'static TcpListener| l.accept(),
        "TcpSocket::connect" => |(s, addr): (TcpSocket, SocketAddr)| s.connect(addr),
        "TcpSocket::listen" => |s: TcpSocket| s.listen(1),
        "ReadHalf::peek" => |(r, buf): (&'static mut ReadHalf<'static>, &'static mut [u8])| r.peek(buf),
        "ReadHalf::ready" => |r: &'static ReadHalf<'static>| r.ready(Interest::READABLE),
        "ReadHalf::readable" => |r: &'static ReadHalf<'static>| r.readable(),
        "WriteHalf::ready" => |w: &'static WriteHalf<'static>| w.ready(Interest::WRITABLE),
        "WriteHalf::writable" => |w: &'static WriteHalf<'static>| w.writable(),
        "OwnedReadHalf::peek" => |(r, buf): (&'static mut OwnedReadHalf, &'static mut [u8])| r.peek(buf),
        "OwnedReadHalf::ready" => |r: &'static OwnedReadHalf| r.ready(Interest::READABLE),
        "OwnedReadHalf::readable" => |r: &'static OwnedReadHalf| r.readable(),
        "OwnedReadHalf::reunite" => |(r, w): (OwnedReadHalf, OwnedWriteHalf)| r.reunite(w),
        "OwnedWriteHalf::ready" => |w: &'static OwnedWriteHalf| w.ready(Interest::WRITABLE),
        "OwnedWriteHalf::writable" => |w: &'static OwnedWriteHalf| w.writable(),
        "OwnedWriteHalf::reunite" => |(r, w): (OwnedReadHalf, OwnedWriteHalf)| w.reunite(r),
    )
}
