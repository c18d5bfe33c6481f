//! Urgent data (RFC 9293 §3.8.5, RFC 6093), and what a cork holds back.

use crate::common::ms;
use crate::script::*;
use rawtcp_proto::wire::{Flags, TcpHeader};
use rawtcp_proto::{ConnConfig, Events, UserError};
use rawtcp_sim::craft::segment;
use rawtcp_sim::{LinkConfig, Network};

const URG: Flags = Flags::URG;

fn out_of_line() -> ConnConfig {
    ConnConfig { urgent_inline: false, ..plain() }
}

/// Text of the peer from byte `at` on, with an urgent pointer.
fn urgent(s: &mut Script, at: u32, pointer: u16, payload: &[u8]) {
    let packet = s.packet(ACK | URG, s.seq(at), s.ack(0), Default::default(), payload);
    let header = rawtcp_sim::craft::Parsed::new(&packet).unwrap().tcp;
    let packet = segment(s.peer, s.local, &TcpHeader { urgent: pointer, ..header }, payload);
    s.host.on_packet(s.now, &packet).unwrap();
    s.all();
}

fn ahead(s: &Script) -> Option<u64> {
    s.host.connection(s.conn()).unwrap().urgent_ahead()
}

/// Whether there was news of urgent data since the last look.
fn told(s: &mut Script) -> bool {
    s.all();
    let conn = s.conn();
    s.host.take_events(conn).contains(Events::URGENT)
}

fn read_urgent(s: &mut Script) -> Result<u8, UserError> {
    let conn = s.conn();
    s.host.with(conn, |conn| conn.read_urgent()).unwrap()
}

#[test]
fn the_application_is_told_of_urgent_data_and_how_much_is_before_its_end() {
    let mut s = Script::accepted(&plain());
    assert_eq!((told(&mut s), ahead(&s)), (false, None));
    // Announced before it arrives: 10 of 500.
    urgent(&mut s, 0, 500, &text(10));
    assert_eq!((told(&mut s), ahead(&s)), (true, Some(500)));
    assert_eq!(s.read().unwrap().len(), 10);
    assert_eq!(ahead(&s), Some(490));
    // The same mark again, or one before it, is no news.
    urgent(&mut s, 10, 490, &text(10));
    urgent(&mut s, 20, 100, &text(10));
    assert_eq!((told(&mut s), ahead(&s)), (false, Some(490)));
    // One behind it is.
    urgent(&mut s, 30, 600, &text(10));
    assert_eq!((told(&mut s), ahead(&s)), (true, Some(620)));
    s.data(40, &text(590));
    s.all();
    // In line: nothing is missing, and reading ends at no mark.
    assert_eq!(s.read().unwrap().len(), 620);
    assert_eq!((told(&mut s), ahead(&s)), (false, None), "back to normal");
    assert_eq!(read_urgent(&mut s), Err(UserError::NoUrgent));
    // A mark in what was read, or at its end, means nothing.
    urgent(&mut s, 630, 0, &text(10));
    assert_eq!((told(&mut s), ahead(&s)), (false, None));
}

#[test]
fn an_urgent_pointer_counts_at_a_window_of_zero() {
    let mut s = Script::accepted(&ConnConfig { recv_buffer: 2000, recv_buffer_max: 0, ..plain() });
    s.data(0, &text(2000));
    s.all();
    urgent(&mut s, 2000, 7, b"");
    assert_eq!((told(&mut s), ahead(&s)), (true, Some(2007)));
}

#[test]
fn out_of_line_the_last_urgent_byte_is_read_by_itself() {
    let mut s = Script::accepted(&out_of_line());
    // "abcXdef", where X is urgent.
    urgent(&mut s, 0, 4, b"abcXdef");
    assert!(told(&mut s));
    assert_eq!(s.host.connection(s.conn()).unwrap().readable_len(), 6);
    // Reads do not cross the mark.
    assert_eq!(s.read().unwrap(), b"abc");
    assert_eq!(s.read().unwrap(), b"def");
    assert_eq!(read_urgent(&mut s), Ok(b'X'));
    assert_eq!(read_urgent(&mut s), Err(UserError::NoUrgent));
    // Announced, not there; then there, and read before what stands before it.
    urgent(&mut s, 7, 4, b"gh");
    assert_eq!(read_urgent(&mut s), Err(UserError::WouldBlock));
    s.data(9, b"iYj");
    assert_eq!(read_urgent(&mut s), Ok(b'Y'));
    assert_eq!(read_urgent(&mut s), Err(UserError::NoUrgent));
    assert_eq!(s.read().unwrap(), b"ghi");
    assert_eq!(s.read().unwrap(), b"j");
    // An urgent byte alone is nothing to read.
    urgent(&mut s, 12, 1, b"Z");
    assert_eq!(s.read(), Err(rawtcp_sim::Errno::EAGAIN));
    assert_eq!(read_urgent(&mut s), Ok(b'Z'));
}

#[test]
fn the_urgent_pointer_stands_behind_the_urgent_data_in_every_segment_before_it() {
    let mut s = Script::accepted(&plain());
    let now = s.now;
    s.write(&text(2500)).unwrap();
    let conn = s.conn();
    assert_eq!(s.host.with(conn, |c| c.write_urgent(now, b"!")).unwrap(), Ok(1));
    let pointers: Vec<_> = s.all().iter().map(|p| (p.tcp.flags.contains(URG), p.tcp.urgent)).collect();
    // Urgent data does not wait for company, and the mark is the number behind it [MUST-62].
    assert_eq!(pointers, [(true, 2501), (true, 1501), (true, 501)]);
    // What is written behind it is not urgent, and neither is what is sent when it is acknowledged.
    s.write(b"later").unwrap();
    let later = s.next();
    assert_eq!((later.payload.len(), later.tcp.flags.contains(URG)), (5, false));
    s.acks(2506);
    s.data(0, &text(1000));
    s.data(1000, &text(1000));
    assert!(!s.next().tcp.flags.contains(URG));
}

#[test]
fn a_full_window_does_not_hold_the_news_back_and_any_length_is_urgent() {
    let mut s = Script::accepted(&ConnConfig { send_buffer: 1 << 20, ..plain() });
    s.window = 0;
    s.acks(0);
    s.write(&text(100_000)).unwrap();
    s.none();
    let (conn, now) = (s.conn(), s.now);
    assert_eq!(s.host.with(conn, |c| c.write_urgent(now, &text(100_000))).unwrap(), Ok(100_000));
    let news = s.next();
    assert_eq!((news.payload.len(), news.tcp.flags, news.tcp.urgent), (0, ACK | URG, 65_535));
    s.none();
    // As the end comes nearer it is told exactly.
    s.window = 65_535;
    let mut acked = 0;
    s.acks(0);
    while acked < 200_000 {
        for p in s.all() {
            let at = p.tcp.seq.distance(s.ack(0)) as u32;
            assert!(p.tcp.flags.contains(URG), "all before the mark");
            assert_eq!(u32::from(p.tcp.urgent), (200_000 - at).min(65_535));
            acked = at + p.payload.len() as u32;
        }
        s.now = s.now + ms(10);
        s.acks(acked);
    }
}

#[test]
fn two_hosts_agree_on_what_is_urgent() {
    let (mut net, a, b) = Network::pair(3, LinkConfig::default().with_delay(ms(5)));
    let (x, y) = net.connected(a, b, &ConnConfig::default());
    net.write(x, &text(5000)).unwrap();
    let now = net.now();
    net.with(x, |c| c.write_urgent(now, b"now!")).unwrap().unwrap();
    net.write(x, &text(5000)).unwrap();
    net.run_for(ms(7));
    assert_eq!(net.with(y, |c| c.urgent_ahead()).unwrap(), Some(5004));
    let mut all = Vec::new();
    assert!(net.run_until(|net| {
        net.read_all(y, &mut all).unwrap();
        all.len() == 10_004
    }));
    assert_eq!(&all[5000..5004], b"now!");
    assert_eq!(net.with(y, |c| c.urgent_ahead()).unwrap(), None);
}

#[test]
fn a_cork_holds_back_what_does_not_fill_a_segment_for_200_ms() {
    for more in [false, true] {
        let mut s = Script::accepted(&plain());
        let conn = s.conn();
        let put = |s: &mut Script, data: &[u8]| {
            let now = s.now;
            s.host.with(conn, |c| if more { c.write_more(now, data) } else { c.write(now, data) }).unwrap().unwrap();
        };
        s.host.with(conn, |c| c.set_cork(!more)).unwrap();
        put(&mut s, &text(300));
        s.none();
        put(&mut s, &text(800));
        assert_eq!(s.next().payload.len(), 1000, "a full one leaves");
        s.none();
        // The rest waits, also for the ACK of the first, until its time is over.
        s.now = s.now + ms(50);
        s.acks(1000);
        let (after, rest) = s.next_within(ms(500));
        assert_eq!((after, rest.payload.len()), (ms(150), 100), "{more}");
        s.acks(1100);
        // Or until the cork is drawn, or something is written without "more".
        put(&mut s, &text(10));
        s.none();
        if more {
            s.write(&text(1)).unwrap();
            assert_eq!(s.next().payload.len(), 11);
        } else {
            s.host.with(conn, |c| c.set_cork(false)).unwrap();
            assert_eq!(s.next().payload.len(), 10);
        }
        // The end of the stream does not wait.
        s.acks(if more { 1111 } else { 1110 });
        s.host.with(conn, |c| c.set_cork(!more)).unwrap();
        put(&mut s, &text(10));
        s.none();
        s.close();
        assert_eq!(s.next().tcp.flags, FIN_ACK | Flags::PSH);
    }
}

#[test]
fn nodelay_lets_go_what_a_cork_holds_back() {
    let mut s = Script::accepted(&ConnConfig { nodelay: false, ..plain() });
    let conn = s.conn();
    s.host.with(conn, |c| c.set_cork(true)).unwrap();
    s.write(&text(10)).unwrap();
    s.none();
    s.host.set_nodelay(conn, true).unwrap();
    assert_eq!(s.next().payload.len(), 10);
    s.write(&text(10)).unwrap();
    s.none();
}

#[test]
fn a_quick_ack_that_is_asked_for_leaves_at_once_and_answers_end_it() {
    let mut s = Script::accepted(&ConnConfig { quick_acks: 0, ..plain() });
    let conn = s.conn();
    // The first tells how large a full segment is.
    s.data(0, &text(1000));
    s.data(1000, &text(1000));
    s.all();
    s.data(2000, &text(1000));
    s.none();
    s.host.set_quickack(conn, true).unwrap();
    s.expect_ack(3000);
    s.data(3000, &text(1000));
    s.expect_ack(4000);
    // Whoever answers soon has his ACKs ride on the answers.
    s.host.set_quickack(conn, true).unwrap();
    s.data(4000, &text(1000));
    s.write(b"answer").unwrap();
    assert!(s.all().iter().any(|p| p.payload.len() == 6));
    s.data(5000, &text(1000));
    s.none();
}
