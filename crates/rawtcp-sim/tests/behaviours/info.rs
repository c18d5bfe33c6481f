//! TCP_INFO: what limits a connection, where it stands with its losses, and what it counts.

use crate::common::{fast_pair, ms, transfer};
use crate::script::*;
use rawtcp_proto::{CaState, ConnConfig, Duration};
use rawtcp_sim::{LinkConfig, Network, Queue, Socket, Verdict};

fn path() -> LinkConfig {
    LinkConfig::default().with_rate(10_000_000).with_delay(ms(50)).with_queue(Queue::Bytes(1 << 20))
}

fn pair(config: &ConnConfig) -> (Network, Socket, Socket) {
    let (mut net, a, b) = fast_pair(1, path(), LinkConfig::default().with_delay(ms(50)));
    let (from, to) = net.connected(a, b, config);
    (net, from, to)
}

#[test]
fn a_reader_that_does_not_read_limits_by_its_window() {
    let config = ConnConfig { recv_buffer: 50_000, recv_buffer_max: 50_000, ..ConnConfig::default() };
    let (mut net, from, _to) = pair(&config);
    net.run_for(ms(500));
    let before = net.info(from);
    assert_eq!((before.busy_time, before.rwnd_limited), (Duration::ZERO, Duration::ZERO), "nothing to do");
    net.write(from, &[1; 100_000]).unwrap();
    net.run_for(Duration::from_secs(10));
    let info = net.info(from);
    assert!(info.rwnd_limited > Duration::from_secs(9), "{info:?}");
    assert!(info.busy_time > info.rwnd_limited && info.busy_time <= Duration::from_secs(10), "{info:?}");
    assert_eq!(info.sndbuf_limited, Duration::ZERO);
}

#[test]
fn a_send_buffer_too_small_for_the_path_limits() {
    let config = ConnConfig { send_buffer: 14 * 1448, send_buffer_max: 14 * 1448, ..ConnConfig::default() };
    let (mut net, from, to) = pair(&config);
    transfer(&mut net, from, to, 2_000_000);
    let info = net.info(from);
    // Of each round trip of 100 ms, what fits the buffer leaves in 20.
    assert!(info.sndbuf_limited * 2 > info.busy_time && info.rwnd_limited.is_zero(), "{info:?}");
}

#[test]
fn a_path_that_is_full_is_busy_and_nothing_else() {
    let (mut net, from, to) = pair(&ConnConfig::default());
    let took = transfer(&mut net, from, to, 3_000_000).time;
    net.run_for(Duration::from_secs(5));
    let info = net.info(from);
    assert!(info.busy_time >= took - ms(100) && info.busy_time <= took + ms(200), "{took:?} {info:?}");
    assert!(info.rwnd_limited + info.sndbuf_limited < took / 10, "{info:?}");
}

#[test]
fn the_senders_state_is_that_of_its_losses() {
    let mut s = Script::accepted(&plain());
    let state = |s: &Script| s.host.info(s.conn()).unwrap().ca_state;
    s.write(&text(10_000)).unwrap();
    assert_eq!((s.all().len(), state(&s)), (10, CaState::Open));
    s.now = s.now + ms(100);
    s.sacks(0, &[(1000, 2000)]);
    assert_eq!(state(&s), CaState::Disorder);
    s.sacks(0, &[(1000, 4000)]);
    assert_eq!(state(&s), CaState::Recovery);
    let again = s.all().len();
    s.now = s.now + ms(100);
    s.acks(10_000);
    s.all();
    let info = s.host.info(s.conn()).unwrap();
    assert_eq!((info.ca_state, info.total_retrans as usize), (CaState::Open, again));
    s.write(&text(1000)).unwrap();
    s.all();
    let (_, probe) = s.next_within(Duration::from_secs(1));
    let (_, again) = s.next_within(Duration::from_secs(3));
    assert_eq!((probe.payload.len(), again.payload.len()), (1000, 1000));
    let info = s.host.info(s.conn()).unwrap();
    assert_eq!((info.ca_state, info.retransmits, info.backoff), (CaState::Loss, 1, 1));
    s.now = s.now + ms(300);
    s.acks(11_000);
    let info = s.host.info(s.conn()).unwrap();
    assert_eq!((info.ca_state, info.retransmits, info.timeouts, info.total_rto_recoveries), (CaState::Open, 0, 1, 1));
    assert!(info.total_rto_time >= ms(300) && info.total_rto_time < ms(400), "{info:?}");
}

#[test]
fn what_is_reordered_and_what_comes_twice_is_counted_at_both_ends() {
    let (mut net, from, to) = pair(&ConnConfig::default());
    let link = net.between(from.host, to.host);
    let mut number = 0;
    net.filter(link, move |_, packet| {
        number += usize::from(packet.len() > 1000);
        match number {
            // Overtaken by two: not taken for lost.
            8 if packet.len() > 1000 => Verdict::Delay(ms(1)),
            30 if packet.len() > 1000 => Verdict::Replace(vec![packet.clone(), packet.clone()]),
            _ => Verdict::Pass,
        }
    });
    transfer(&mut net, from, to, 100_000);
    net.run_for(ms(500));
    let (sent, got) = (net.info(from), net.info(to));
    assert_eq!((sent.reord_seen, sent.dsack_dups, sent.total_retrans), (1, 1, 0), "{sent:?}");
    assert!(got.rcv_ooopack >= 1 && got.data_segs_in == sent.data_segs_out + 1, "{sent:?} {got:?}");
    assert_eq!((sent.delivered, got.bytes_received), (100_000, 100_000));
    assert_eq!((sent.snd_mss, got.rcv_mss), (1448, 1448));
    assert_eq!(sent.window_scale, got.window_scale.map(|(snd, rcv)| (rcv, snd)));
}

#[test]
fn how_long_ago_something_happened_is_told() {
    let (mut net, from, to) = pair(&ConnConfig::default());
    net.write(from, &[1; 1000]).unwrap();
    net.run_for(Duration::from_secs(3));
    net.write(to, &[1; 1000]).unwrap();
    net.run_for(Duration::from_secs(2));
    let (a, b) = (net.info(from), net.info(to));
    assert_eq!(a.last_data_sent, Duration::from_secs(5));
    assert_eq!(b.last_data_sent, Duration::from_secs(2));
    assert!(a.last_data_recv > ms(1900) && a.last_data_recv < Duration::from_secs(2), "{a:?}");
    assert!(b.last_data_recv > ms(4900) && b.last_data_recv < Duration::from_secs(5), "{b:?}");
    // The acknowledgment of what B sent.
    assert!(b.last_ack_recv > ms(1800) && b.last_ack_recv < ms(1950), "{b:?}");
    assert!(a.last_ack_sent > ms(1800) && a.last_ack_sent < Duration::from_secs(2), "{a:?}");
}
