//! The examples of the frameworks and the larger servers, as processes in a namespace.
#![allow(clippy::duplicate_mod, reason = "the service is part of two of the examples and of a test")]

use crate::Outcome;
use crate::processes::{Client, Running, Server, nowhere};
use crate::programs;
use rawtcp_lab::harness::Test;
use rawtcp_lab::netns::Namespace;
use rustix::process::Signal;
use std::net::SocketAddr;
use std::process::{ExitCode, Termination};

#[path = "../axum_server.rs"]
mod axum_server;
#[path = "../chat_server.rs"]
mod chat_server;
#[path = "../congestion.rs"]
mod congestion;
#[path = "../grpc_client.rs"]
mod grpc_client;
#[path = "../grpc_server.rs"]
mod grpc_server;
#[path = "../port_forwarder.rs"]
mod port_forwarder;
#[path = "../tls_client.rs"]
mod tls_client;
#[path = "../tls_server.rs"]
mod tls_server;

const ANY: &str = "127.0.0.1:0";

/// What a child process of the tests does.
pub(crate) fn run(role: &str) -> ExitCode {
    match role {
        "axum_server" => axum_server::main().report(),
        "chat_server" => chat_server::main().report(),
        "congestion" => congestion::main().report(),
        "grpc_client" => grpc_client::main().report(),
        "grpc_server" => grpc_server::main().report(),
        "port_forwarder" => port_forwarder::main().report(),
        "tls_client" => tls_client::main().report(),
        "tls_server" => tls_server::main().report(),
        program => programs::run(program),
    }
}

/// Runs in the namespace, as the programs that it starts do.
type Script = fn(&Namespace) -> Outcome;

pub(crate) fn tests() -> Vec<Test> {
    let all: [(&str, Script); 6] = [
        ("axum", axum),
        ("chat", chat),
        ("congestion", own_congestion),
        ("grpc", grpc),
        ("port_forwarder", forwarder),
        ("tls", tls),
    ];
    let test = |(name, test): (&str, Script)| {
        Test::new(format!("examples::{name}"), move || {
            let host = Namespace::new("host")?;
            host.run(|| test(&host))
        })
    };
    all.map(test).into()
}

/// A client's whole run: what it printed.
fn output(host: &Namespace, role: &str, arguments: &[&str]) -> Result<Vec<String>, std::io::Error> {
    let (lines, errors, code) = Running::start(host, role, arguments)?.end()?;
    assert_eq!((errors.as_str(), code), ("", Some(0)), "{role}");
    Ok(lines)
}

fn axum(host: &Namespace) -> Outcome {
    let (server, at) = Running::serve(host, "axum_server", &[ANY])?;
    let mut client = Client::connect(at)?;
    let me = client.local_addr()?;
    for (request, answer) in [
        ("GET / HTTP/1.1\r\n\r\n", "hello from axum on rawtcp\n".to_owned()),
        ("GET /peer HTTP/1.1\r\n\r\n", format!("{me}\n")),
        ("POST /echo HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", "body".to_owned()),
    ] {
        client.say(request)?;
        let status = client.line()?;
        assert_eq!(status, "HTTP/1.1 200 OK", "{request:?}");
        while !client.line()?.is_empty() {}
        assert_eq!(client.take(answer.len())?, answer, "{request:?}");
    }
    // An idle connection does not keep the server; it is closed.
    server.stop(Signal::TERM)?;
    assert_eq!(client.rest()?, "");
    Ok(())
}

fn own_congestion(host: &Namespace) -> Outcome {
    let lines = output(host, "congestion", &[])?;
    assert!(lines.len() == 3 && lines[0].starts_with("cubic: ") && lines[1].starts_with("delay: "), "{lines:?}");
    assert_eq!(lines[2], "16777216 bytes arrived");
    Ok(())
}

fn grpc(host: &Namespace) -> Outcome {
    let (server, at) = Running::serve(host, "grpc_server", &[ANY])?;
    let lines = output(host, "grpc_client", &[&format!("http://{at}"), "three", "little", "words"])?;
    let expected = ["upper: THREE LITTLE WORDS", "count: [1, 2, 3]", "longest: little", "echo: three little words"];
    assert_eq!(lines, expected);
    server.stop(Signal::TERM)?;

    let (lines, errors, code) = Running::start(host, "grpc_client", &[&format!("http://{at}")])?.end()?;
    assert!(lines.is_empty() && code == Some(1), "{lines:?} {code:?}");
    assert!(errors.contains("Connection refused"), "{errors}");
    Ok(())
}

fn tls(host: &Namespace) -> Outcome {
    let certificate = std::env::temp_dir().join(format!("rawtcp-examples-{}.der", std::process::id()));
    let path = certificate.to_str().ok_or("the directory for temporary files is not UTF-8")?;
    let (server, at) = Running::serve(host, "tls_server", &[ANY, "--certificate", path])?;
    let at = at.to_string();
    let arguments = [at.as_str(), "--certificate", path, "--bytes", "3000000"];
    assert_eq!(output(host, "tls_client", &arguments)?, ["3000000 bytes came back unchanged"]);

    // The certificate is for another name.
    let arguments = [at.as_str(), "--certificate", path, "--name", "example.org"];
    let (_, errors, code) = Running::start(host, "tls_client", &arguments)?.end()?;
    assert!(code == Some(1) && errors.contains("certificate"), "{errors}");
    server.stop(Signal::INT)?;
    Ok(std::fs::remove_file(certificate)?)
}

fn chat(host: &Namespace) -> Outcome {
    let (server, at) = Running::serve(host, "chat_server", &[ANY])?;
    let join = |name: &str| -> std::io::Result<Client> {
        let mut client = Client::connect(at)?;
        assert_eq!(client.line()?, "Who are you?");
        client.say(&format!("{name}\n"))?;
        assert_eq!(client.line()?, format!("* welcome, {name}"));
        Ok(client)
    };
    let mut alice = join("Alice")?;
    let mut bob = join("Bob")?;
    assert_eq!(alice.line()?, "* Bob is here");
    alice.say("hello\n")?;
    assert_eq!(bob.line()?, "Alice: hello");
    let mut carol = join("Carol")?;
    for client in [&mut alice, &mut bob] {
        assert_eq!(client.line()?, "* Carol is here");
    }
    carol.say("first\nsecond\n")?;
    for client in [&mut alice, &mut bob] {
        assert_eq!((client.line()?, client.line()?), ("Carol: first".to_owned(), "Carol: second".to_owned()));
    }
    // Whoever has said good-bye sees the end.
    bob.finish()?;
    assert_eq!(bob.rest()?, "");
    for client in [&mut alice, &mut carol] {
        assert_eq!(client.line()?, "* Bob has left");
    }
    carol.reset()?;
    assert_eq!(alice.line()?, "* Carol has left");
    drop(alice);
    server.stop(Signal::TERM)?;
    Ok(())
}

fn forwarder(host: &Namespace) -> Outcome {
    let targets = (Server::bind()?, Server::bind()?);
    let nowhere = nowhere()?;
    let rule = |target: &str| format!("{ANY}={target}");
    let rules = [rule(&targets.0.at()), rule(&targets.1.at()), rule(&nowhere)];

    for kernel in [false, true] {
        let mut arguments: Vec<&str> = rules.iter().map(String::as_str).collect();
        arguments.extend(kernel.then_some("--kernel"));
        let forwarder = Running::start(host, "port_forwarder", &arguments)?;
        let listening = |target: &str| -> Option<SocketAddr> {
            let line = forwarder.line();
            line.strip_suffix(&format!(" goes to {target}"))?.parse().ok()
        };
        let first = listening(&targets.0.at()).ok_or("the first rule")?;
        let second = listening(&targets.1.at()).ok_or("the second rule")?;
        let third = listening(&nowhere).ok_or("the third rule")?;
        assert_eq!(forwarder.line(), "ready");

        for (at, target) in [(first, &targets.0), (second, &targets.1)] {
            let mut client = Client::connect(at)?;
            client.say("question")?;
            client.finish()?;
            let mut server = target.accept()?;
            assert_eq!(server.rest()?, "question");
            server.say("answer")?;
            drop(server);
            assert_eq!(client.rest()?, "answer");
        }
        // The reset may come before the client has looked at its connect.
        let error = Client::connect(third).and_then(|mut client| client.rest()).expect_err("nobody is there");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        let (_, _, code) = {
            let mut forwarder = forwarder;
            forwarder.signal(Signal::TERM)?;
            forwarder.end()?
        };
        assert_eq!(code, Some(0));
    }
    Ok(())
}
