//! The host and the network themselves: errors, names, captures, pictures.

use crate::common::{byte, ms, transfer};
use crate::script::*;
use rawtcp_proto::trace::{RecoveryPhase, TraceEvent};
use rawtcp_proto::{ConnConfig, Duration, Instant, State};
use rawtcp_sim::{Errno, Host, HostConfig, LinkConfig, Loss, Network, Queue, Shutdown, StripOptions};

#[test]
fn errors_are_those_of_a_kernel_socket() {
    let mut host = Host::new(HostConfig::new([10, 0, 0, 1].into(), 1).with_ports(50_000..=50_001));
    let (now, config) = (Instant::from_secs(1), ConnConfig::default());
    let addr = "10.0.0.1:80".parse().unwrap();
    let listener = host.listen(addr, &config).unwrap();
    assert_eq!(host.accept(listener), Err(Errno::EAGAIN));
    assert_eq!(host.listen(addr, &config), Err(Errno::EADDRINUSE));
    assert_eq!(host.listen("0.0.0.0:80".parse().unwrap(), &config), Err(Errno::EADDRINUSE));
    assert_eq!(host.listen("10.0.0.9:80".parse().unwrap(), &config), Err(Errno::EADDRNOTAVAIL));
    host.close_listener(now, listener);
    assert_eq!(host.accept(listener), Err(Errno::EBADF));
    assert!(host.listen(addr, &config).is_ok());

    let remote = "10.0.0.2:80".parse().unwrap();
    let first = host.connect(now, remote, &config).unwrap();
    host.connect(now, remote, &config).unwrap();
    assert_eq!(host.connect(now, remote, &config), Err(Errno::EADDRNOTAVAIL));
    assert!(host.connect(now, "10.0.0.3:80".parse().unwrap(), &config).is_ok());
    assert_eq!(host.connect(now, "[::1]:80".parse().unwrap(), &config), Err(Errno::ENETUNREACH));
    assert_eq!(host.connect(now, "10.0.0.2:0".parse().unwrap(), &config), Err(Errno::ECONNREFUSED));
    let taken = host.tuple(first).unwrap();
    assert_eq!(host.connect_from(now, taken.local, remote, &config), Err(Errno::EADDRINUSE));
    assert_eq!(host.counts().of(State::SynSent), 3);
    assert_eq!(host.read(now, first, &mut [0; 1]), Err(Errno::EAGAIN));
    host.close(now, first);
    assert_eq!(host.read(now, first, &mut [0; 1]), Err(Errno::EBADF));
    assert_eq!((Errno::EPIPE.0, format!("{:?}", Errno::ECONNRESET)), (32, "ECONNRESET".to_string()));
}

#[test]
fn what_was_peeked_is_read() {
    let mut s = Script::accepted(&plain());
    let conn = s.conn();
    let mut buf = [0; 3];
    assert_eq!(s.host.peek(conn, &mut buf), Err(Errno::EAGAIN));
    s.data(0, b"hello");
    assert_eq!((s.host.peek(conn, &mut buf), &buf), (Ok(3), b"hel"));
    assert_eq!(s.read(), Ok(b"hello".to_vec()));
    s.host.shutdown(s.now, conn, Shutdown::Both).unwrap();
    assert_eq!((s.host.peek(conn, &mut buf), s.write(b"x")), (Ok(0), Err(Errno::EPIPE)));
}

#[test]
fn the_state_walk_is_visible() {
    let mut s = Script::syn_received(&plain(), peer_options());
    let counts = s.host.counts();
    assert_eq!((counts.listen, counts.of(State::SynReceived), counts.open()), (1, 1, 1));
    s.send(ACK, s.seq(0), s.ack(0), b"");
    assert_eq!((s.host.counts().of(State::Established), s.host.counts().open()), (1, 1));
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    let run = |seed| {
        let link = LinkConfig::default().with_delay(ms(7)).with_loss(Loss::Uniform(0.05)).with_reorder(0.1, ms(3));
        let (mut net, a, b) = Network::pair(seed, link);
        let there = net.between(a, b);
        net.capture(there);
        let (x, y) = net.connected(a, b, &ConnConfig::default());
        transfer(&mut net, x, y, 300_000);
        (net.now(), net.captured(there).unwrap().to_vec())
    };
    assert!(run(1) == run(1));
    assert!(run(1) != run(2));
}

#[test]
fn a_picture_shows_what_happened() {
    let link = LinkConfig::default().with_delay(ms(7)).with_rate(10_000_000).with_loss(Loss::Uniform(0.02));
    let (mut net, a, b) = Network::pair(4, link);
    let (x, y) = net.connected(a, b, &ConnConfig::default());
    transfer(&mut net, x, y, 300_000);
    let picture = net.picture(x).unwrap();
    assert!(net.info(x).total_retrans > 0 && picture.contains("#d22"), "retransmissions are red");
    assert!(picture.starts_with("<svg") && picture.contains("class=\"ack\"") && picture.contains("class=\"window\""));
    let directory = net.write_report("a_picture_shows_what_happened").unwrap();
    // Pictures, events and captures, which nobody had asked for.
    let files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let read = |end: &str| {
        let path = files.iter().find(|path| path.to_string_lossy().ends_with(end));
        std::fs::read(path.unwrap_or_else(|| panic!("{end} of {files:?}"))).unwrap()
    };
    assert!(read(".svg").starts_with(b"<svg"));
    assert!(String::from_utf8(read(".sqlog")).unwrap().contains("\"trigger\":\"fast_retransmit\""));
    assert!(String::from_utf8(read(".csv")).unwrap().lines().count() > 100);
    assert!(read("link0.pcapng").len() > 300_000 && read("link1.pcapng").len() > 1000);
    let events = net.events(x);
    assert!(events.iter().any(|t| matches!(t.event, TraceEvent::Recovery { to: RecoveryPhase::Fast, .. })));
}

#[test]
fn every_impairment_together_leaves_every_byte_in_place() {
    for seed in 0..4 {
        let link = LinkConfig::default()
            .with_rate(50_000_000)
            .with_delay(ms(10))
            .with_jitter(ms(2))
            .with_queue(Queue::Packets(200))
            .with_loss(Loss::bursts(0.01, 3.0))
            .with_reorder(0.02, ms(5))
            .with_duplicate(0.01)
            .with_corrupt(0.005);
        let (mut net, a, b) = Network::pair(seed, link);
        net.set_trace(0);
        let (x, y) = net.connected(a, b, &ConnConfig::default());
        transfer(&mut net, x, y, 1_000_000);
        transfer(&mut net, y, x, 1_000_000);
    }
}

#[test]
fn stripped_options_only_cost_speed() {
    for strip in [
        StripOptions::ALL,
        StripOptions { sack_permitted: true, ..StripOptions::default() },
        StripOptions { timestamps: true, ..StripOptions::default() },
        StripOptions { window_scale: true, ..StripOptions::default() },
        StripOptions { sack: true, ..StripOptions::default() },
    ] {
        let link = LinkConfig::default().with_delay(ms(5)).with_loss(Loss::Uniform(0.01)).with_strip(strip);
        let (mut net, a, b) = Network::pair(5, link);
        net.set_trace(0);
        let (x, y) = net.connected(a, b, &ConnConfig::default());
        transfer(&mut net, x, y, 500_000);
    }
}

#[test]
fn a_host_talks_to_itself() {
    let (mut net, a, _) = Network::pair(5, LinkConfig::default());
    let (x, y) = net.connected(a, a, &ConnConfig::default());
    transfer(&mut net, x, y, 100_000);
    net.close(x);
    net.close(y);
    net.run_for(Duration::from_secs(61));
    assert_eq!(net.host(a).counts().open(), 0);
    assert_ne!(byte(1), byte(2));
}
