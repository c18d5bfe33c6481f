//! The oracle.

pub(crate) use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
pub(crate) use tokio::net::{TcpListener, TcpStream};
pub(crate) use tonic::transport::server::TcpIncoming;

#[path = "axum.rs"]
pub(crate) mod axum;
#[path = "grpc.rs"]
pub(crate) mod grpc;
#[path = "http.rs"]
pub(crate) mod http;
#[path = "tls.rs"]
pub(crate) mod tls;
