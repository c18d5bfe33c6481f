//! Explicit congestion notification (behaviour 33; RFC 3168).

use crate::common::{ms, transfer};
use crate::script::*;
use rawtcp_proto::stack::{StackConfig, SynCookies};
use rawtcp_proto::wire::{Ecn, Flags, Options};
use rawtcp_proto::{ConnConfig, Duration, EcnMode, SeqNum};
use rawtcp_sim::craft::{Parsed, segment_with_class};
use rawtcp_sim::{HostConfig, LinkConfig, Loss, Network, Queue, Verdict};
use std::cell::RefCell;
use std::rc::Rc;

const ECE: Flags = Flags::ECE;
const CWR: Flags = Flags::CWR;
const ECN_SYN: Flags = SYN.with(ECE).with(CWR);
const MSS: u32 = 1000;

fn asking() -> ConnConfig {
    ConnConfig { ecn: EcnMode::Request, ..plain() }
}

/// ESTABLISHED by a passive open to which the peer brought ECN; its codepoints are in `class`.
fn agreed(config: &ConnConfig) -> Script {
    let mut s = Script::listening(config);
    s.send_with(ECN_SYN, ISS, SeqNum(0), peer_options(), b"");
    let answer = s.next();
    assert_eq!(answer.tcp.flags, SYN_ACK | ECE);
    assert_eq!(answer.ip.ecn(), Ecn::NotEct);
    s.irs = answer.tcp.seq;
    s.now = s.now + ms(100);
    s.accept();
    s
}

/// A segment of the peer in a packet with this codepoint.
fn with_codepoint(s: &mut Script, flags: Flags, at: u32, ecn: Ecn, payload: &[u8]) {
    let packet = s.packet(flags, s.seq(at), s.ack(0), Options::default(), payload);
    let parsed = Parsed::new(&packet).unwrap();
    let packet = segment_with_class(s.peer, s.local, &parsed.tcp, payload, ecn.bits());
    s.host.on_packet(s.now, &packet).unwrap();
}

#[test]
fn it_is_agreed_on_only_if_one_asks_and_the_other_accepts() {
    use EcnMode::{Accept, Off, Request};
    for (client, server, agreed) in [
        (Request, Request, true),
        (Request, Accept, true),
        (Request, Off, false),
        (Accept, Accept, false),
        (Accept, Request, false),
        (Off, Request, false),
    ] {
        for cookies in [SynCookies::Never, SynCookies::Always] {
            let mut net = Network::new(5);
            let stack = StackConfig { syn_cookies: cookies, ..StackConfig::default() };
            let [a, b] = [1, 2].map(|n| net.add(HostConfig::new([10, 0, 0, n].into(), 3).with_stack(stack.clone())));
            let link = LinkConfig::default().with_delay(ms(5));
            net.join(a, b, link, link);
            let with = |ecn| ConnConfig { ecn, ..ConnConfig::default() };
            let (x, y) = net.connected_with(a, b, &with(client), &with(server));
            assert_eq!((net.info(x).ecn, net.info(y).ecn), (agreed, agreed), "{client:?} {server:?} {cookies:?}");
        }
    }
}

#[test]
fn a_syn_that_no_host_should_send_is_answered_without() {
    for (flags, ecn) in [
        (SYN | ECE, Ecn::NotEct),
        (SYN | CWR, Ecn::NotEct),
        (SYN, Ecn::NotEct),
        // RFC 3168 §6.1.1: a SYN is never ECN-capable. Somebody on the path writes what he likes there.
        (ECN_SYN, Ecn::Ect0),
        (ECN_SYN, Ecn::Ce),
    ] {
        let mut s = Script::listening(&plain());
        let packet = s.packet(flags, ISS, SeqNum(0), peer_options(), b"");
        let header = Parsed::new(&packet).unwrap().tcp;
        s.host.on_packet(s.now, &segment_with_class(s.peer, s.local, &header, b"", ecn.bits())).unwrap();
        assert_eq!(s.next().tcp.flags, SYN_ACK, "{flags} {ecn:?}");
    }
}

#[test]
fn a_syn_ack_counts_only_with_ece_alone() {
    for (flags, agreed) in
        [(SYN_ACK | ECE, true), (SYN_ACK | ECE | CWR, false), (SYN_ACK | CWR, false), (SYN_ACK, false)]
    {
        let mut s = Script::asking(&asking());
        s.send_with(flags, ISS, s.ack(0), peer_options(), b"");
        assert_eq!(s.next().tcp.flags, ACK, "no flag of ECN on the ACK of {flags}");
        s.write(&text(100)).unwrap();
        let expected = if agreed { Ecn::Ect0 } else { Ecn::NotEct };
        assert_eq!((s.next().ip.ecn(), s.host.info(s.conn()).unwrap().ecn), (expected, agreed), "{flags}");
    }
}

#[test]
fn a_syn_that_is_sent_again_does_not_ask_and_nothing_is_marked_then() {
    let mut s = Script::asking(&asking());
    let (after, again) = s.next_within(Duration::from_secs(2));
    assert_eq!((after, again.tcp.flags), (Duration::from_secs(1), SYN));
    // The answer to the first one after all: RFC 3168 §6.1.1 forbids ECT, and wants marks answered.
    s.send_with(SYN_ACK | ECE, ISS, s.ack(0), peer_options(), b"");
    assert_eq!(s.next().tcp.flags, ACK);
    s.write(&text(100)).unwrap();
    assert_eq!(s.next().ip.ecn(), Ecn::NotEct);
    with_codepoint(&mut s, ACK, 0, Ecn::Ce, &text(500));
    assert_eq!(s.next().tcp.flags, ACK | ECE);
}

#[test]
fn a_listener_forgets_it_when_the_syn_comes_again_without() {
    let mut s = Script::listening(&plain());
    s.send_with(ECN_SYN, ISS, SeqNum(0), peer_options(), b"");
    assert_eq!(s.next().tcp.flags, SYN_ACK | ECE);
    s.send_with(SYN, ISS, SeqNum(0), peer_options(), b"");
    let answer = s.next();
    assert_eq!(answer.tcp.flags, SYN_ACK);
    s.irs = answer.tcp.seq;
    s.accept();
    s.write(&text(100)).unwrap();
    assert_eq!(s.next().ip.ecn(), Ecn::NotEct);
}

#[test]
fn only_new_data_is_ecn_capable() {
    let (mut net, a, b) = Network::pair(9, LinkConfig::default().with_delay(ms(10)).with_loss(Loss::Uniform(0.02)));
    let seen: Rc<RefCell<Vec<Parsed>>> = Rc::default();
    for (from, to) in [(a, b), (b, a)] {
        let (seen, link) = (seen.clone(), net.between(from, to));
        net.filter(link, move |_, packet| {
            seen.borrow_mut().push(Parsed::new(packet).unwrap());
            Verdict::Pass
        });
    }
    let config = ConnConfig { ecn: EcnMode::Request, traffic_class: 0x48 | 3, ..ConnConfig::default() };
    let (x, y) = net.connected(a, b, &config);
    transfer(&mut net, x, y, 300_000);
    net.close(x);
    net.close(y);
    net.run_for(Duration::from_secs(3));
    let (mut highest, mut new, mut again, mut empty, mut fins) = ([None; 2], 0, 0, 0, 0u64);
    for p in seen.borrow().iter() {
        let end = p.tcp.seq.add(p.payload.len() as u32);
        let highest = &mut highest[usize::from(p.ip.src == std::net::IpAddr::from([10, 0, 0, 1]))];
        let first = highest.is_none_or(|h| end.after(h));
        let expected = match (p.payload.is_empty(), first) {
            (true, _) => {
                empty += 1;
                let by_x = p.ip.src == std::net::IpAddr::from([10, 0, 0, 1]);
                fins += u64::from(by_x && p.tcp.flags.contains(FIN));
                Ecn::NotEct
            }
            (false, true) => {
                new += 1;
                Ecn::Ect0
            }
            (false, false) => {
                again += 1;
                Ecn::NotEct
            }
        };
        if !p.payload.is_empty() && first {
            *highest = Some(end);
        }
        assert_eq!((p.ip.ecn(), p.ip.traffic_class & !3), (expected, 0x48), "{p:?}");
    }
    assert!(new > 200 && again > 2 && empty > 50, "{new} new, {again} again, {empty} without data");
    // The FIN may have been lost too.
    assert_eq!(net.info(x).total_retrans, again + fins.saturating_sub(1));
}

#[test]
fn a_mark_is_echoed_until_the_sender_says_that_it_has_reduced() {
    let mut s = agreed(&ConnConfig { quick_acks: 0, ..plain() });
    // The second full segment is acknowledged at once, a single one waits.
    with_codepoint(&mut s, ACK, 0, Ecn::Ect0, &text(1000));
    s.none();
    with_codepoint(&mut s, ACK, 1000, Ecn::Ce, &text(1000));
    assert_eq!(s.next().tcp.flags, ACK | ECE);
    // At once, too, for a while: the sender may have little in flight.
    with_codepoint(&mut s, ACK, 2000, Ecn::Ect0, &text(1000));
    assert_eq!(s.next().tcp.flags, ACK | ECE);
    // Data of ours says it as well.
    s.write(b"x").unwrap();
    assert_eq!(s.next().tcp.flags, ACK | Flags::PSH | ECE);
    // CWR ends it, and is acknowledged at once.
    with_codepoint(&mut s, ACK | CWR, 3000, Ecn::Ect0, &text(500));
    assert_eq!(s.next().tcp.flags, ACK);
    // A segment that says CWR and is itself marked begins anew.
    with_codepoint(&mut s, ACK, 3500, Ecn::Ce, &text(500));
    assert_eq!(s.next().tcp.flags, ACK | ECE);
    with_codepoint(&mut s, ACK | CWR, 4000, Ecn::Ce, &text(500));
    assert_eq!(s.next().tcp.flags, ACK | ECE);
    assert_eq!(s.host.info(s.conn()).unwrap().ce_received, 3);
}

#[test]
fn a_mark_outside_the_window_or_without_data_says_nothing() {
    let mut s = agreed(&plain());
    for (at, payload) in [(0u32.wrapping_sub(1000), &text(500)[..]), (70_000, &text(500)[..]), (0, &[][..])] {
        let packet = s.packet(ACK, s.seq(at), s.ack(0), Options::default(), payload);
        let header = Parsed::new(&packet).unwrap().tcp;
        let _ = s.host.on_packet(s.now, &segment_with_class(s.peer, s.local, &header, payload, Ecn::Ce.bits()));
        assert!(s.all().iter().all(|p| !p.tcp.flags.contains(ECE)), "{at}");
    }
    // A window probe or old data is answered, without ECE.
    with_codepoint(&mut s, ACK, 0, Ecn::Ect0, &text(500));
    assert_eq!(s.next().tcp.flags, ACK);
}

/// Acknowledges byte `n` of the host with ECE.
fn echo(s: &mut Script, n: u32) {
    s.send(ACK | ECE, s.seq(0), s.ack(n), b"");
}

#[test]
fn one_reduction_for_a_window_however_many_echoes_and_cwr_once() {
    for (abe, share) in [(false, (1, 2)), (true, (4, 5))] {
        let mut s = agreed(&ConnConfig { ecn_abe: abe, ..plain() });
        s.write(&text(40_000)).unwrap();
        let first = s.all();
        assert!(first.len() == 10 && first.iter().all(|p| p.ip.ecn() == Ecn::Ect0 && !p.tcp.flags.contains(CWR)));
        s.now = s.now + ms(100);
        let (mut sent, mut reduced) = (Vec::new(), None);
        for n in 1..=10 {
            echo(&mut s, n * MSS);
            sent.extend(s.all());
            let info = s.host.info(s.conn()).unwrap();
            // Of what was in flight when the first echo came.
            reduced.get_or_insert(info.snd_cwnd);
            assert_eq!(info.snd_ssthresh, u64::from(9 * MSS * share.0 / share.1), "{abe}");
            assert_eq!(Some(info.snd_cwnd), reduced, "no growth, no second reduction");
        }
        // In proportion, not in a burst and not after a silence: about so many for the ten that arrived.
        let expected = (9 * share.0 / share.1) as usize;
        assert!((expected..=expected + 1).contains(&sent.len()), "{} {abe}", sent.len());
        let with_cwr: Vec<bool> = sent.iter().map(|p| p.tcp.flags.contains(CWR)).collect();
        assert_eq!(with_cwr.iter().position(|&cwr| cwr), Some(0));
        assert_eq!(with_cwr.iter().filter(|&&cwr| cwr).count(), 1);
        // Behind the segment with CWR, ECE means a new mark.
        echo(&mut s, 11 * MSS);
        assert!(s.host.info(s.conn()).unwrap().snd_ssthresh < u64::from(9 * MSS * share.0 / share.1));
        let with_cwr = (12..20).position(|n| {
            s.acks(n * MSS);
            s.all().iter().any(|p| p.tcp.flags.contains(CWR))
        });
        assert!(with_cwr.is_some());
        assert_eq!(s.host.info(s.conn()).unwrap().delivered_ce, u64::from(11 * MSS));
    }
}

#[test]
fn a_loss_in_the_same_window_does_not_reduce_again_and_a_retransmission_says_nothing() {
    let mut s = agreed(&plain());
    s.write(&text(40_000)).unwrap();
    assert_eq!(s.all().len(), 10);
    s.now = s.now + ms(100);
    echo(&mut s, MSS);
    let reduced = s.host.info(s.conn()).unwrap().snd_ssthresh;
    assert_eq!(reduced, u64::from(9 * MSS / 2));
    let _ = s.all();
    // The second segment was lost: the others above it are sacked.
    s.sacks(MSS, &[(2 * MSS, 6 * MSS)]);
    let sent = s.all();
    let again: Vec<_> = sent.iter().filter(|p| p.tcp.seq == s.ack(MSS)).collect();
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].ip.ecn(), again[0].tcp.flags.contains(CWR)), (Ecn::NotEct, false));
    assert_eq!(s.host.info(s.conn()).unwrap().snd_ssthresh, reduced);
}

#[test]
fn who_did_not_agree_does_not_listen_to_echoes_nor_give_any() {
    let mut s = Script::accepted(&plain());
    s.write(&text(40_000)).unwrap();
    assert!(s.all().iter().all(|p| p.ip.ecn() == Ecn::NotEct));
    let before = s.host.info(s.conn()).unwrap();
    echo(&mut s, MSS);
    let after = s.host.info(s.conn()).unwrap();
    assert!(after.snd_cwnd >= before.snd_cwnd && after.snd_ssthresh == u64::MAX);
    s.all();
    with_codepoint(&mut s, ACK, 0, Ecn::Ce, &text(500));
    assert!(!s.next_within(ms(40)).1.tcp.flags.contains(ECE));
}

#[test]
fn a_queue_that_marks_is_filled_without_a_loss() {
    for v6 in [false, true] {
        let back = LinkConfig::default().with_delay(ms(10));
        let there = back.with_rate(20_000_000).with_queue(Queue::Packets(100)).with_mark(Queue::Packets(20));
        let (mut net, a, b) = Network::pair(4, back);
        let link = net.between(a, b);
        net.set_link(link, there);
        let addr = if v6 { "[2001:db8::2]:80" } else { "10.0.0.2:80" }.parse().unwrap();
        let config = ConnConfig { ecn: EcnMode::Request, ..ConnConfig::default() };
        let listening = net.listen(b, addr, &ConnConfig::default()).unwrap();
        let x = net.connect(a, addr, &config).unwrap();
        net.run_for(ms(40));
        let y = net.accept(listening).unwrap();
        let done = transfer(&mut net, x, y, 10_000_000);
        let (info, stats) = (net.info(x), net.link(link).stats());
        assert_eq!((stats.queue_drops, info.total_retrans, info.timeouts), (0, 0, 0), "{stats:?}");
        assert!(stats.marked > 10 && info.delivered_ce > 0 && net.info(y).ce_received == stats.marked, "{stats:?}");
        assert!(info.snd_ssthresh < u64::MAX);
        assert!(done.goodput > 0.85 * 20e6, "{}", done.goodput);
    }
}
