//! hyper, hyper-util's client, axum, tonic and tokio-rustls. One source for two stacks; every pairing of them over veth, IPv4
//! and IPv6; and ours with itself over the loopback inside the process.
#![allow(clippy::duplicate_mod, reason = "the service is part of two of the examples and of a test")]

mod certificate;
mod ours;
#[path = "../grpc/service.rs"]
mod service;
mod theirs;
#[path = "../grpc/words.rs"]
mod words;

use crate::{Outcome, PATIENCE};
use futures::future::LocalBoxFuture;
use rawtcp_lab::harness::Test;
use rawtcp_lab::netns::Namespace;
use rawtcp_lab::topology::{Pair, SERVER_V4, SERVER_V6};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use tokio::sync::oneshot;

const PORT: u16 = 4433;

/// A server says that it listens, and is told when to end.
struct Serving {
    ready: oneshot::Sender<()>,
    end: oneshot::Receiver<()>,
}

impl Serving {
    /// Says so; what is left becomes ready when the end has come.
    fn ready(self) -> oneshot::Receiver<()> {
        // The client may have given up.
        self.ready.send(()).ok();
        self.end
    }
}

/// With which a client ends the server.
type End = oneshot::Sender<()>;

type Serve = fn(SocketAddr, Serving) -> LocalBoxFuture<'static, Outcome>;
type Call = fn(SocketAddr, End) -> LocalBoxFuture<'static, Outcome>;

/// A server and a client, each on both stacks: ours first.
#[derive(Clone, Copy)]
struct App {
    name: &'static str,
    serve: [Serve; 2],
    call: [Call; 2],
}

macro_rules! app {
    ($name:literal: $module:ident, $serve:ident, $call:ident) => {
        App {
            name: $name,
            serve: [
                |at, serving| Box::pin(ours::$module::$serve(at, serving)),
                |at, serving| Box::pin(theirs::$module::$serve(at, serving)),
            ],
            call: [
                |at, end| Box::pin(ours::$module::$call(at, end)),
                |at, end| Box::pin(theirs::$module::$call(at, end)),
            ],
        }
    };
}

const APPS: [App; 6] = [
    app!("http1": http, serve_http1, call_http1),
    app!("http2": http, serve_http2, call_http2),
    app!("http_client": http, serve_http1, call_by_connector),
    app!("axum": axum, serve, call),
    app!("grpc": grpc, serve, call),
    app!("tls": tls, serve, call),
];

const STACKS: [&str; 2] = ["rawtcp", "kernel"];

/// The process is to use nothing but the loopback inside it.
pub(crate) fn only_loopback() -> bool {
    std::env::var_os("RAWTCP_DEVICE").is_some_and(|device| device == "loopback")
}

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for (port, app) in (PORT..).zip(APPS) {
        if only_loopback() {
            // All of them share the loopback of the process.
            tests.push(Test::new(format!("loopback::{}", app.name), move || with_itself(app, port)));
            continue;
        }
        for (server, client) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let name = format!("frameworks::{}::{}_serves_{}", app.name, STACKS[server], STACKS[client]);
            tests.push(Test::new(name, move || over_veth(app.serve[server], app.call[client])));
        }
    }
    if !only_loopback() {
        tests.push(Test::new("frameworks::over_the_loopback_inside_the_process", over_the_loopback));
    }
    tests
}

/// The variable has to be there before the process is.
fn over_the_loopback() -> Outcome {
    let output = Command::new(std::env::current_exe()?).arg("loopback::").env("RAWTCP_DEVICE", "loopback").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let all = format!("test result: ok. {} passed", APPS.len());
    if !output.status.success() || !text.contains(&all) {
        return Err(format!("{text}\n{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, future).await.map_err(|_| format!("{what}: nothing for {PATIENCE:?}"))
}

fn over_veth(serve: Serve, call: Call) -> Outcome {
    let pair = Pair::new()?;
    for ip in [SERVER_V4, SERVER_V6] {
        between(&pair.server, &pair.client, SocketAddr::new(ip, PORT), serve, call)?;
    }
    Ok(())
}

fn between(server: &Namespace, client: &Namespace, at: SocketAddr, serve: Serve, call: Call) -> Outcome {
    let (ready, is_ready) = oneshot::channel();
    let (end, ends) = oneshot::channel();
    let serving = Serving { ready, end: ends };
    let server = server.spawn_tokio(move || async move { soon("the server", serve(at, serving)).await? });
    let client = client.spawn_tokio(move || async move {
        soon("a server", is_ready).await??;
        soon("the client", call(at, end)).await?
    });
    let (called, served) = (client.join(), server.join());
    // The other side's error is often but a consequence.
    called.map_err(|error| format!("the client: {error}; the server: {served:?}"))?;
    served
}

fn with_itself(app: App, port: u16) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let at = SocketAddr::new(ip, port);
        let (ready, is_ready) = oneshot::channel();
        let (end, ends) = oneshot::channel();
        let serving = Serving { ready, end: ends };
        let both = async {
            let client = async {
                is_ready.await?;
                app.call[0](at, end).await
            };
            tokio::try_join!(app.serve[0](at, serving), client).map(drop)
        };
        runtime.block_on(soon("both", both))??;
    }
    Ok(())
}
