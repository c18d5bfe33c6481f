//! Which addresses are tried, when, and with what options. A link whose other end has some of the addresses only.

use super::*;
use crate::Device;
use futures::future::{Ready, ready};
use rawtcp_io::mem;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use tokio::time::Instant;

const DELAY: Duration = Duration::from_millis(300);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn uri(text: &str) -> Uri {
    text.parse().unwrap()
}

/// A resolver that knows a few names.
#[derive(Clone, Default)]
struct Hosts(HashMap<&'static str, Vec<SocketAddr>>);

impl Service<Name> for Hosts {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let known = self.0.get(name.as_str()).cloned();
        ready(known.map(Vec::into_iter).ok_or(ErrorKind::NotFound.into()))
    }
}

/// Our end of a link, and the other one, where 10.0.0.2 and fd00::2 live and nobody else.
fn link() -> (Stack, Stack) {
    let (a, b) = mem::pair(mem::MemConfig::default());
    let stack = |io: mem::MemDevice, addresses: [&str; 2]| {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let device = Device::Own { io: Arc::new(io), addresses };
        Stack::builder().device(device).exit_drain(Duration::ZERO).build().unwrap()
    };
    (stack(a, ["10.0.0.1", "fd00::1"]), stack(b, ["10.0.0.2", "fd00::2"]))
}

/// Answers, silence, and an answer of the other kind.
const LIVES: [&str; 2] = ["10.0.0.2:80", "[fd00::2]:80"];
const SILENT: [&str; 2] = ["10.0.0.9:80", "[fd00::9]:80"];
const REFUSES: [&str; 2] = ["10.0.0.2:81", "[fd00::2]:81"];

fn connector(stack: &Stack, addresses: &[&str]) -> HttpConnector<Hosts> {
    let hosts = HashMap::from([("there", addresses.iter().map(|text| addr(text)).collect())]);
    let mut connector = HttpConnector::new_with_resolver(Hosts(hosts));
    connector.set_stack(stack.clone());
    connector
}

/// The peer's address or the error, and how long it took. Without a port in the URI the resolver's counts.
async fn connect(connector: &mut HttpConnector<Hosts>) -> (Result<SocketAddr, ConnectError>, Duration) {
    let start = Instant::now();
    let result = connector.call(uri("http://there/")).await;
    (result.map(|stream| stream.inner().peer_addr().unwrap()), start.elapsed())
}

fn kind(error: &ConnectError) -> Option<ErrorKind> {
    error.source()?.downcast_ref::<io::Error>().map(io::Error::kind)
}

#[test]
fn hosts_and_ports_of_uris() {
    let strict = Options::default();
    let any = Options { enforce_http: false, ..Options::default() };
    for (text, options, expected) in [
        ("http://there/a?b", &strict, Ok(("there", 80))),
        ("http://there:8080", &strict, Ok(("there", 8080))),
        ("http://[fd00::1]:8080/", &strict, Ok(("fd00::1", 8080))),
        ("http://10.0.0.1/", &strict, Ok(("10.0.0.1", 80))),
        ("https://there/", &strict, Err("the scheme of the URI is not http")),
        ("https://there/", &any, Ok(("there", 443))),
        ("grpc://there/", &any, Ok(("there", 80))),
        ("/path", &any, Err("the URI has no scheme")),
        ("there:80", &strict, Err("the URI has no scheme")),
    ] {
        let uri = uri(text);
        let got = target(options, &uri).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_are_tried_in_order_and_families_in_parallel() {
    let (ours, theirs) = link();
    let _listeners = (theirs.bind(LIVES[0]).await.unwrap(), theirs.bind(LIVES[1]).await.unwrap());
    // What the resolver says, who answers, and whether the delay between families has passed by then.
    for (addresses, wins, late) in [
        (vec![LIVES[0], LIVES[1]], LIVES[0], false),
        (vec![LIVES[1], LIVES[0]], LIVES[1], false),
        (vec![REFUSES[0], LIVES[0]], LIVES[0], false),
        (vec![SILENT[1], LIVES[0]], LIVES[0], true),
        (vec![SILENT[0], LIVES[1]], LIVES[1], true),
        // A family that has failed as a whole does not make the other one wait.
        (vec![REFUSES[1], REFUSES[1], LIVES[0]], LIVES[0], false),
        // Within the other family there is an order again.
        (vec![SILENT[1], REFUSES[0], SILENT[1], LIVES[0]], LIVES[0], true),
    ] {
        let (peer, took) = connect(&mut connector(&ours, &addresses)).await;
        assert_eq!(peer.unwrap(), addr(wins), "{addresses:?}");
        assert!(took < Duration::from_secs(1) && (took >= DELAY) == late, "{addresses:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_happy_eyeballs_the_order_is_the_resolvers() {
    let (ours, theirs) = link();
    let _listener = theirs.bind(LIVES[0]).await.unwrap();
    let mut connector = connector(&ours, &[SILENT[1], LIVES[0]]);
    connector.set_happy_eyeballs_timeout(None);
    connector.set_connect_timeout(Some(Duration::from_secs(8)));
    let (peer, took) = connect(&mut connector).await;
    assert_eq!(peer.unwrap(), addr(LIVES[0]));
    // Its half of the time.
    assert_eq!(took.as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_error_is_that_of_the_first_address() {
    let (ours, theirs) = link();
    let (peer, _) = connect(&mut connector(&ours, &[REFUSES[1], REFUSES[0]])).await;
    let error = peer.unwrap_err();
    assert_eq!((error.addr(), kind(&error)), (Some(addr(REFUSES[1])), Some(ErrorKind::ConnectionRefused)));
    assert_eq!(error.to_string(), "tcp connect error ([fd00::2]:81)");

    // The first family is silent until its time is over, and is what is told of, although the other one has failed long since.
    let mut silent = connector(&ours, &[SILENT[1], REFUSES[0]]);
    silent.set_connect_timeout(Some(Duration::from_secs(2)));
    let (peer, took) = connect(&mut silent).await;
    let error = peer.unwrap_err();
    assert_eq!((error.addr(), kind(&error)), (Some(addr(SILENT[1])), Some(ErrorKind::TimedOut)));
    assert_eq!(took.as_secs(), 2);

    let (peer, _) = connect(&mut connector(&ours, &[])).await;
    assert_eq!(kind(&peer.unwrap_err()), Some(ErrorKind::InvalidInput));

    let unknown = connector(&ours, &[]).call(uri("http://elsewhere/")).await.unwrap_err();
    assert_eq!((unknown.to_string().as_str(), kind(&unknown)), ("dns error", Some(ErrorKind::NotFound)));
    drop(theirs);
}

#[tokio::test(start_paused = true)]
async fn a_local_address_rules_the_other_family_out() {
    let (ours, theirs) = link();
    let _listeners = (theirs.bind(LIVES[0]).await.unwrap(), theirs.bind(LIVES[1]).await.unwrap());
    let mut both = connector(&ours, &[LIVES[1], LIVES[0]]);
    for (local, wins) in [("10.0.0.1", LIVES[0]), ("fd00::1", LIVES[1])] {
        both.set_local_address(Some(local.parse().unwrap()));
        let (peer, _) = connect(&mut both).await;
        assert_eq!(peer.unwrap(), addr(wins));
    }
    both.set_local_address(Some("10.0.0.7".parse().unwrap()));
    let error = connect(&mut both).await.0.unwrap_err();
    assert_eq!((error.what, kind(&error)), ("tcp bind local error", Some(ErrorKind::AddrNotAvailable)));
    both.set_local_addresses("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
    assert_eq!(connect(&mut both).await.0.unwrap(), addr(LIVES[1]));
}

#[tokio::test(start_paused = true)]
async fn ports_come_from_the_uri_or_else_from_the_resolver_or_the_scheme() {
    let (ours, theirs) = link();
    let _listeners = (theirs.bind(LIVES[0]).await.unwrap(), theirs.bind("10.0.0.2:443").await.unwrap());
    for (known, text, wins) in [
        ("10.0.0.2:0", "http://there/", 80),
        ("10.0.0.2:0", "https://there/", 443),
        ("10.0.0.2:443", "http://there/", 443),
        ("10.0.0.2:443", "http://there:80/", 80),
    ] {
        let mut connector = connector(&ours, &[known]);
        connector.enforce_http(false);
        let stream = connector.call(uri(text)).await.unwrap();
        assert_eq!(stream.inner().peer_addr().unwrap().port(), wins, "{known} {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn options_reach_the_connection() {
    let (ours, theirs) = link();
    let _listener = theirs.bind(LIVES[0]).await.unwrap();
    let mut connector = connector(&ours, &[LIVES[0]]);
    let plain = connector.call(uri("http://there/")).await.unwrap().into_inner();
    assert_eq!((plain.nodelay().unwrap(), plain.keepalive().unwrap()), (false, None));

    connector.set_nodelay(true);
    connector.set_keepalive_interval(Some(Duration::from_secs(7)));
    connector.set_tcp_user_timeout(Some(Duration::from_secs(9)));
    let earlier = connector.clone();
    connector.set_nodelay(false);
    connector.set_keepalive(Some(Duration::from_secs(60)));
    connector.set_keepalive_retries(Some(3));

    let stream = connector.call(uri("http://there/")).await.unwrap().into_inner();
    let keepalive = Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(7), count: 3 };
    assert_eq!((stream.nodelay().unwrap(), stream.keepalive().unwrap()), (false, Some(keepalive)));
    assert_eq!(stream.user_timeout().unwrap(), Some(Duration::from_secs(9)));

    // A clone keeps what it was made with; what is not said of keep-alive has its default.
    let stream = earlier.clone().call(uri("http://there/")).await.unwrap().into_inner();
    let keepalive = Keepalive { interval: Duration::from_secs(7), ..Keepalive::default() };
    assert_eq!((stream.nodelay().unwrap(), stream.keepalive().unwrap()), (true, Some(keepalive)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_connect_leaves_nothing_behind() {
    let (ours, _theirs) = link();
    let mut connector = connector(&ours, &[SILENT[1], SILENT[0]]);
    let pending = tokio::time::timeout(Duration::from_secs(1), connector.call(uri("http://there/")));
    assert!(pending.await.is_err(), "nobody answers");
    assert_eq!(ours.stats().connections, 0);
}

#[test]
fn futures_may_be_sent_and_moved() {
    fn check<T: Send + Unpin + 'static>() {}
    check::<Connecting>();
    check::<ConnectError>();
    fn shared<T: Send + Sync + Clone>() {}
    shared::<HttpConnector>();
}
