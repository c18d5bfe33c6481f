//! The nine programs: what can be seen of each is the same on both stacks.
//!
//! A script drives the program and writes down what it sees. It runs twice, each time in a new namespace, with the kernel's
//! TCP on its own side.

#[path = "../tokio_style/programs.rs"]
mod nine;

use crate::processes::{Client, Running, Server, nowhere, until_refused};
use rawtcp_lab::harness::Test;
use rawtcp_lab::netns::Namespace;
use rustix::process::Signal;
use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;

pub(crate) use nine::run;

const ANY: &str = "127.0.0.1:0";

type Seen = Result<Vec<String>, Box<dyn Error + Send + Sync>>;

/// A namespace and which of the twins is looked at.
struct Scene {
    host: Namespace,
    stack: &'static str,
}

impl Scene {
    fn serve(&self, name: &str, arguments: &[&str]) -> std::io::Result<(Running, SocketAddr)> {
        Running::serve(&self.host, &format!("{}/{name}", self.stack), arguments)
    }

    fn start(&self, name: &str, arguments: &[&str]) -> std::io::Result<Running> {
        Running::start(&self.host, &format!("{}/{name}", self.stack), arguments)
    }
}

type Script = fn(&Scene) -> Seen;

const SCRIPTS: [(&str, Script); 9] = [
    ("chat", chat),
    ("connect", connect),
    ("echo", echo),
    ("graceful_shutdown", graceful_shutdown),
    ("hello_world", hello_world),
    ("print_each_packet", print_each_packet),
    ("proxy", proxy),
    ("tinydb", tinydb),
    ("tinyhttp", tinyhttp),
];

pub(crate) fn tests() -> Vec<Test> {
    let named: Vec<&str> = SCRIPTS.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, nine::NAMES, "each program has its script");
    SCRIPTS.map(|(name, script)| Test::new(format!("programs::{name}"), move || same_on_both(script))).into()
}

fn same_on_both(script: Script) -> Result<(), Box<dyn Error + Send + Sync>> {
    let see = |stack| {
        let scene = Scene { host: Namespace::new("host")?, stack };
        scene.host.run(|| script(&scene))
    };
    let (kernel, ours) = (see("kernel")?, see("rawtcp")?);
    assert!(kernel.len() > 2, "there is too little to see: {kernel:?}");
    assert_eq!(ours, kernel, "ours, and the kernel's");
    Ok(())
}

/// Ports of clients are chosen by chance.
fn without_port(line: &str) -> String {
    match line.split_once("127.0.0.1:") {
        Some((before, after)) => format!("{before}ADDR{}", after.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => line.to_owned(),
    }
}

/// Stops a server that has no other way to end.
fn kill(server: Running, mut seen: Vec<String>) -> Seen {
    let mut server = server;
    server.signal(Signal::KILL)?;
    let (lines, errors, code) = server.end()?;
    seen.extend(lines.iter().map(|line| without_port(line)));
    seen.push(format!("{errors}, {code:?}"));
    Ok(seen)
}

fn echo(scene: &Scene) -> Seen {
    let (server, at) = scene.serve("echo", &[ANY])?;
    let mut seen = Vec::new();

    let mut client = Client::connect(at)?;
    client.say("hello")?;
    seen.push(client.take(5)?);
    client.finish()?;
    seen.push(client.rest()?);
    seen.push(without_port(&server.line()));

    let big: String = (0..300_000).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
    let mut client = Client::connect(at)?;
    let mut writer = client.stream().try_clone()?;
    let sent = big.clone();
    let writing = std::thread::spawn(move || writer.write_all(sent.as_bytes()));
    assert!(client.take(big.len())? == big, "other bytes came back");
    writing.join().expect("no panic")?;
    drop(client);
    seen.push(without_port(&server.line()));

    let mut client = Client::connect(at)?;
    client.say("bye")?;
    seen.push(client.take(3)?);
    client.reset()?;
    seen.push(without_port(&server.line()));
    kill(server, seen)
}

fn hello_world(scene: &Scene) -> Seen {
    let server = Server::bind()?;
    let program = scene.start("hello_world", &[&server.at()])?;
    let mut client = server.accept()?;
    let mut seen = vec![client.rest()?];
    let (lines, errors, code) = program.end()?;
    seen.extend(lines.iter().map(|line| without_port(line)));
    seen.push(format!("{errors}, {code:?}"));

    for (what, at) in [("nobody there", nowhere()?), ("no such place", "127.0.0.1:port".to_owned())] {
        let (lines, errors, code) = scene.start("hello_world", &[&at])?.end()?;
        seen.push(format!("{what}: {lines:?}, {errors}, {code:?}"));
    }
    Ok(seen)
}

fn connect(scene: &Scene) -> Seen {
    let server = Server::bind()?;
    let mut program = scene.start("connect", &[&server.at()])?;
    let mut client = server.accept()?;
    let mut seen = Vec::new();

    client.say("welcome\n")?;
    seen.push(program.line());
    let mut stdin = program.stdin();
    stdin.write_all(b"one line\n")?;
    seen.push(client.line()?);
    // More than any buffer, and then the end of the input: the answer comes after it.
    let text = "0123456789abcde\n".repeat(100_000);
    let sending = std::thread::spawn({
        let text = text.clone();
        move || stdin.write_all(text.as_bytes())
    });
    assert!(client.rest()? == text, "the input is not what arrived");
    sending.join().expect("no panic")?;
    client.say("that was all\n")?;
    drop(client);
    let (lines, errors, code) = program.end()?;
    seen.push(format!("{lines:?}, {errors}, {code:?}"));

    let program = scene.start("connect", &[&server.at()])?;
    server.accept()?.reset()?;
    let (lines, errors, code) = program.end()?;
    seen.push(format!("reset: {lines:?}, {errors}, {code:?}"));

    let (lines, errors, code) = scene.start("connect", &[&nowhere()?])?.end()?;
    seen.push(format!("nobody there: {lines:?}, {errors}, {code:?}"));
    Ok(seen)
}

fn proxy(scene: &Scene) -> Seen {
    let backend = Server::bind()?;
    let (program, at) = scene.serve("proxy", &[ANY, &backend.at()])?;
    let mut seen = vec![without_port(&program.line())];

    for client_first in [true, false] {
        let mut client = Client::connect(at)?;
        let mut server = backend.accept()?;
        client.say("question")?;
        seen.push(server.take(8)?);
        server.say("answer")?;
        seen.push(client.take(6)?);
        let (first, second) = if client_first { (&mut client, &mut server) } else { (&mut server, &mut client) };
        first.finish()?;
        seen.push(format!("then the end: {:?}", second.rest()?));
        second.say("last words")?;
        second.finish()?;
        seen.push(first.rest()?);
        seen.push(program.line());
    }

    let gone = backend.at();
    drop(backend);
    until_refused(&gone)?;
    let mut client = Client::connect(at)?;
    seen.push(format!("no backend: {:?}", client.rest()?));
    seen.push(program.line());

    // The other way round: the proxy in front of one of the nine.
    let (echo, behind) = scene.serve("echo", &[ANY])?;
    let (second, at) = scene.serve("proxy", &[ANY, &behind.to_string()])?;
    seen.push(without_port(&second.line()));
    let mut client = Client::connect(at)?;
    client.say("through both")?;
    seen.push(client.take(12)?);
    client.finish()?;
    seen.push(client.rest()?);
    seen.extend([without_port(&echo.line()), second.line()]);
    let seen = kill(second, seen)?;
    let seen = kill(echo, seen)?;
    kill(program, seen)
}

fn chat(scene: &Scene) -> Seen {
    let (server, at) = scene.serve("chat", &[ANY])?;
    let mut seen = Vec::new();
    let (mut alice, mut bob) = (Client::connect(at)?, Client::connect(at)?);
    seen.extend([alice.line()?, bob.line()?]);
    alice.say("Alice\r\n")?;
    seen.push(server.line());
    bob.say("Bob\n")?;
    seen.extend([server.line(), alice.line()?]);

    bob.say("hello, ")?;
    bob.say("Alice\nand")?;
    seen.extend([server.line(), alice.line()?]);
    bob.say(" so on\n")?;
    seen.extend([server.line(), alice.line()?]);
    alice.say("hello\n")?;
    seen.extend([server.line(), bob.line()?]);

    // Somebody who goes before they said who they are.
    let mut nobody = Client::connect(at)?;
    seen.push(nobody.line()?);
    nobody.finish()?;
    seen.push(format!("to nobody: {:?}", nobody.rest()?));
    seen.push(server.line());

    bob.finish()?;
    seen.push(format!("to Bob: {:?}", bob.rest()?));
    seen.extend([server.line(), alice.line()?]);
    alice.reset()?;
    seen.extend([server.line(), server.line()]);
    kill(server, seen)
}

fn tinydb(scene: &Scene) -> Seen {
    let (server, at) = scene.serve("tinydb", &[ANY])?;
    let mut seen = Vec::new();
    let (mut one, mut two) = (Client::connect(at)?, Client::connect(at)?);
    for (client, line) in [
        (0, "GET foo"),
        (1, "SET foo a value with spaces"),
        (0, "GET foo"),
        (0, "GET bar"),
        (0, "SET bar"),
        (1, "SET bar 1"),
        (1, "get bar"),
        (0, ""),
    ] {
        let client = if client == 0 { &mut one } else { &mut two };
        client.say(&format!("{line}\n"))?;
        seen.push(client.line()?);
    }
    // Three at once, and no end of the last line.
    one.say("GET foo\r\nGET bar\r\nGET b")?;
    seen.extend([one.line()?, one.line()?]);
    one.finish()?;
    seen.push(one.rest()?);
    seen.push(server.line());
    two.say(&"x".repeat(5000))?;
    seen.push(two.line()?);
    drop(two);
    seen.push(server.line());
    kill(server, seen)
}

fn tinyhttp(scene: &Scene) -> Seen {
    let (server, at) = scene.serve("tinyhttp", &[ANY])?;
    let mut seen = Vec::new();
    let answer = |client: &mut Client| -> std::io::Result<String> {
        let mut head = Vec::new();
        loop {
            match client.line()? {
                line if line.is_empty() => break,
                line => head.push(line),
            }
        }
        let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        Ok(format!("{head:?} {}", client.take(length.expect("a length"))?))
    };

    let mut client = Client::connect(at)?;
    client.say("GET /plaintext HTTP/1.1\r\nHost: here\r\n\r\n")?;
    seen.push(answer(&mut client)?);
    client.say("GET /js")?;
    client.say("on HTTP/1.1\r\nHost: here\r\n\r\nGET /plaintext HTTP/1.1\r\n\r\nGET /nothing HTTP/1.1\r\n\r\n")?;
    for _ in 0..3 {
        seen.push(answer(&mut client)?);
    }
    client.finish()?;
    seen.push(client.rest()?);

    for nonsense in ["POST / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nno header\r\n\r\n"] {
        let mut client = Client::connect(at)?;
        client.say(nonsense)?;
        seen.push(answer(&mut client)?);
        seen.push(format!("then the end: {:?}", client.rest()?));
        seen.push(server.line());
    }
    kill(server, seen)
}

fn graceful_shutdown(scene: &Scene) -> Seen {
    let (mut server, at) = scene.serve("graceful_shutdown", &[ANY])?;
    let mut seen = Vec::new();
    let (mut one, mut two, mut lost) = (Client::connect(at)?, Client::connect(at)?, Client::connect(at)?);
    for text in ["a\n", "b\n"] {
        one.say(text)?;
        seen.push(one.line()?);
    }
    two.say("c\n")?;
    seen.push(two.line()?);
    lost.say("d\n")?;
    seen.push(lost.line()?);
    lost.reset()?;
    seen.push(server.line());

    server.signal(Signal::INT)?;
    seen.extend([server.line(), one.line()?, two.line()?]);
    let late = Client::connect(at).map(drop).map_err(|error| error.kind());
    seen.push(format!("too late: {late:?}"));
    seen.push(format!("to one: {:?}", one.rest()?));
    one.say("e\n")?;
    drop(one);
    two.finish()?;
    seen.push(format!("to two: {:?}", two.rest()?));
    let (lines, errors, code) = server.end()?;
    seen.push(format!("{lines:?}, {errors}, {code:?}"));
    Ok(seen)
}

fn print_each_packet(scene: &Scene) -> Seen {
    let (server, at) = scene.serve("print_each_packet", &[ANY])?;
    let mut seen = Vec::new();
    let mut client = Client::connect(at)?;
    for piece in ["one", "two\n", "\u{1}\u{2}\u{3}"] {
        client.say(piece)?;
        seen.push(server.line());
    }
    drop(client);
    seen.push(server.line());
    let mut client = Client::connect(at)?;
    client.say("four")?;
    seen.push(server.line());
    client.reset()?;
    seen.push(server.line());
    seen.push(server.line());

    // One of the other programs as the client, on the same stack.
    let hello = scene.start("hello_world", &[&at.to_string()])?;
    seen.extend([server.line(), server.line()]);
    let (lines, errors, code) = hello.end()?;
    seen.push(format!("{}, {errors}, {code:?}", lines.iter().map(|line| without_port(line)).collect::<String>()));

    kill(server, seen)
}
