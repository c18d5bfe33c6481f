//! TCP in user space, with the API of `tokio::net`.
//!
//! ```no_run
//! use rawtcp::net::TcpListener; // instead of tokio::net::TcpListener
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let listener = TcpListener::bind("127.0.0.1:7000").await?;
//!     loop {
//!         let (mut stream, _) = listener.accept().await?;
//!         tokio::spawn(async move {
//!             let mut buf = [0; 4096];
//!             while let Ok(n @ 1..) = stream.read(&mut buf).await {
//!                 stream.write_all(&buf[..n]).await?;
//!             }
//!             std::io::Result::Ok(())
//!         });
//!     }
//! }
//! ```
//!
//! Segments travel by raw IP sockets, which needs CAP_NET_RAW; `RAWTCP_DEVICE` chooses other devices, of which `loopback`,
//! inside the process, needs nothing. A [`Stack`] of one's own has other devices and
//! settings; without one, each runtime has a default stack.
//!
//! # Features
//! None is on by default; each makes this crate's types fit into one library. What takes any `AsyncRead + AsyncWrite` (hyper,
//! tokio-rustls, …) needs none.
//!
//! - `hyper-util`: [`net::TcpStream`] is a `Connection` of the legacy client; `client::HttpConnector` is its connector, and
//!   tonic's.
//! - `axum`: [`net::TcpListener`] is a `Listener` for `axum::serve`.
//! - `tonic`: [`net::TcpStream`] is `Connected`; `wrappers::TcpIncoming` is for `serve_with_incoming`. Brings `hyper-util`.
//! - `tokio-util`: [`net::TcpListener`] is a `tokio_util::net::Listener`.
//!
//! The protocol itself is in [`rawtcp_proto`]: this crate is the shell of locks, wakers, sockets and
//! timers around it.
#![forbid(unsafe_code)]

mod alarm;
mod ambient;
mod budget;
#[cfg(feature = "hyper-util")]
pub mod client;
mod clock;
mod congestion;
mod conn_cell;
mod conn_io;
mod connect;
mod device;
mod drain;
mod driver;
mod engine;
mod error;
pub mod events;
mod host;
mod integrations;
mod late;
mod listener_cell;
#[cfg(rawtcp_models)]
pub mod models;
pub mod net;
mod path_cache;
mod ports;
mod post;
mod readiness;
mod rounds;
mod stack;
mod stats;
mod sync;
mod timers;
mod tx;
mod tx_queue;
pub mod wrappers;

pub use congestion::register_congestion;
pub use device::Device;
pub use rawtcp_proto::cc::{self, Algorithm};
pub use rawtcp_proto::stack::StackConfig;
pub use rawtcp_proto::{
    CaState, ConnConfig, DropReason, EcnMode, Keepalive, MtuProbing, State, TcpInfo, TraceEvent, Traced, trace,
};
pub use stack::{Driver, Stack, StackBuilder};
pub use stats::StackStats;
