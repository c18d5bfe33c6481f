//! Buffers that grow with the path, and those that do not.

use super::ms;
use super::pair::{A, B, Pair};
use crate::config::ConnConfig;

/// A sends without end, B reads all at once; the buffers of both after some round trips.
fn flow(p: &mut Pair, rounds: u64) -> (usize, usize) {
    let data = vec![7; 64 << 10];
    let end = p.now + p.delay * 2 * rounds as u32;
    p.run_until(|p| {
        while p.write_all(A, &data) > 0 {}
        p.read_all(B);
        p.now >= end
    });
    (p.ends[A].send_buffer(), p.ends[B].recv_buffer())
}

fn pair(sender: ConnConfig, receiver: ConnConfig) -> Pair {
    let mut p = Pair::new(sender, receiver);
    p.delay = ms(50);
    p.run_until(|p| p.ends.iter().all(|c| c.state() == crate::State::Established));
    p
}

#[test]
fn both_buffers_grow_to_what_the_path_needs_and_no_further_than_allowed() {
    for timestamps in [true, false] {
        let config =
            ConnConfig { timestamps, recv_buffer_max: 3 << 20, send_buffer_max: 2 << 20, ..ConnConfig::default() };
        let mut p = pair(config.clone(), config);
        assert_eq!(flow(&mut p, 30), (2 << 20, 3 << 20), "timestamps {timestamps}");
        assert!(p.ends[A].info().bytes_acked > 25 << 20, "{:?}", p.ends[A].info());
    }
}

#[test]
fn a_slow_reader_keeps_its_buffer() {
    let mut p = pair(ConnConfig::default(), ConnConfig::default());
    let end = p.now + ms(5000);
    p.run_until(|p| {
        p.write_all(A, &[7; 10_000]);
        let now = p.now;
        let _ = p.ends[B].read(now, &mut [0; 100]);
        p.now >= end
    });
    assert_eq!(p.ends[B].recv_buffer(), ConnConfig::default().recv_buffer);
}

#[test]
fn an_explicit_size_stays() {
    let mut p = pair(ConnConfig::default(), ConnConfig::default());
    p.ends[A].set_send_buffer(100_000);
    p.ends[B].set_recv_buffer(50_000);
    assert_eq!(flow(&mut p, 20), (100_000, 50_000));
    let fixed = ConnConfig { recv_buffer: 65_535, recv_buffer_max: 65_535, ..ConnConfig::default() };
    let mut p = pair(ConnConfig::default(), fixed);
    assert_eq!(p.ends[B].info().window_scale.map(|(_, ours)| ours), Some(0));
    assert_eq!(p.ends[B].info().rcv_wnd, 65_535);
    assert_eq!(flow(&mut p, 20).1, 65_535);
}

#[test]
fn growth_on_request_waits_for_the_grant() {
    let config = ConnConfig { recv_buffer_on_request: true, ..ConnConfig::default() };
    let mut p = pair(ConnConfig::default(), config);
    let initial = ConnConfig::default().recv_buffer;
    assert_eq!(flow(&mut p, 20).1, initial);
    let wanted = p.ends[B].wants_recv_buffer().expect("more would help");
    assert!(wanted > initial && wanted <= 6 << 20);
    p.ends[B].grant_recv_buffer(300_000);
    assert_eq!(p.ends[B].wants_recv_buffer(), None);
    assert_eq!(flow(&mut p, 1).1, 300_000);
    flow(&mut p, 10);
    assert!(p.ends[B].wants_recv_buffer().is_some(), "and more again");
    p.ends[B].grant_recv_buffer(100 << 20);
    assert_eq!(p.ends[B].recv_buffer(), 6 << 20);
}

/// What is granted to a connection that has left the table would never come back.
#[test]
fn behind_the_end_nobody_wants_a_larger_buffer() {
    let config = ConnConfig { recv_buffer_on_request: true, ..ConnConfig::default() };
    let mut p = pair(ConnConfig::default(), config);
    flow(&mut p, 20);
    assert!(p.ends[B].wants_recv_buffer().is_some());
    let now = p.now;
    p.ends[A].shutdown(now).unwrap();
    p.run_until(|p| {
        p.read_all(B);
        p.ends[B].state() == crate::State::CloseWait
    });
    assert_eq!(p.ends[B].wants_recv_buffer(), None);
}

#[test]
fn a_size_set_while_the_syn_is_on_its_way_does_not_change_the_scale_it_offered() {
    let mut p = Pair::new(ConnConfig::default(), ConnConfig::default());
    p.flush();
    p.ends[A].set_recv_buffer(10_000);
    p.run_until(|p| p.ends.iter().all(|c| c.state() == crate::State::Established));
    let scales = |end: usize| p.ends[end].info().window_scale.unwrap();
    assert_eq!((scales(A), scales(B)), ((7, 7), (7, 7)));
}

#[test]
fn a_send_buffer_grows_on_request_by_what_is_granted() {
    let config = ConnConfig { send_buffer_on_request: true, ..ConnConfig::default() };
    let mut p = pair(config, ConnConfig::default());
    let initial = ConnConfig::default().send_buffer;
    assert_eq!(flow(&mut p, 20).0, initial);
    let wanted = p.ends[A].wants_send_buffer().expect("a writer waits, and the window has grown");
    assert!(wanted > initial && wanted <= 4 << 20);
    let before = p.ends[A].write_room();
    p.ends[A].grant_send_buffer(initial + 100_000);
    assert_eq!((p.ends[A].send_buffer(), p.ends[A].write_room()), (initial + 100_000, before + 100_000));
    flow(&mut p, 2);
    assert!(p.ends[A].wants_send_buffer().is_some(), "and more again");
    p.ends[A].grant_send_buffer(100 << 20);
    assert_eq!(p.ends[A].send_buffer(), 4 << 20);
    assert_eq!(p.ends[A].wants_send_buffer(), None);
    // Less: never less than what is in it, or than it was at first.
    let held = p.ends[A].unacked_len();
    assert!(held > initial);
    p.ends[A].grant_send_buffer(0);
    assert_eq!(p.ends[A].send_buffer(), held);
    let end = p.now + ms(3000);
    p.run_until(|p| {
        p.read_all(B);
        p.now >= end || p.ends[A].unacked_len() == 0
    });
    p.ends[A].grant_send_buffer(0);
    assert_eq!(p.ends[A].send_buffer(), initial);
}

#[test]
fn a_grown_send_buffer_shrinks_once_it_has_been_empty_for_a_while() {
    let mut p = pair(ConnConfig::default(), ConnConfig::default());
    let (grown, _) = flow(&mut p, 20);
    let initial = ConnConfig::default().send_buffer;
    assert!(grown > initial);
    p.ends[A].rest();
    assert_eq!(p.ends[A].send_buffer(), grown, "there is something in it");
    let end = p.now + ms(3000);
    p.run_until(|p| {
        p.read_all(B);
        p.now >= end || p.ends[A].unacked_len() == 0
    });
    let at = p.ends[A].rest_at().expect("there is something to give back");
    assert!(p.now < at && at <= p.now + ms(1000));
    p.ends[A].rest();
    assert_eq!((p.ends[A].send_buffer(), p.ends[A].rest_at()), (initial, None));
    // It is not that it can not grow any more; and a size that was asked for stays.
    assert!(flow(&mut p, 20).0 > initial);
    p.ends[A].set_send_buffer(1 << 20);
    p.run_until(|p| {
        p.read_all(B);
        p.ends[A].unacked_len() == 0
    });
    p.ends[A].rest();
    assert_eq!(p.ends[A].send_buffer(), 1 << 20);
}
