//! What is tested.
#![allow(clippy::duplicate_mod, reason = "the same programs for two stacks: that is the point")]

pub(crate) use rawtcp::client::{HttpConnector, HttpInfo};
pub(crate) use rawtcp::net::{TcpListener, TcpStream};
pub(crate) use rawtcp::wrappers::TcpIncoming;

#[path = "axum.rs"]
pub(crate) mod axum;
#[path = "grpc.rs"]
pub(crate) mod grpc;
#[path = "http.rs"]
pub(crate) mod http;
#[path = "tls.rs"]
pub(crate) mod tls;
