//! What becomes of a congestion window that is not used: RFC 2861 as Linux has it, RFC 5681's restart, or nothing.

use crate::common::{fast_pair, large, ms, transfer};
use rawtcp_proto::{ConnConfig, CwndValidation, Duration};
use rawtcp_sim::{LinkConfig, Network, Queue, Socket};

/// Two ends, and a window of more than 100 segments without a loss. Nothing is outstanding.
fn warm(validation: CwndValidation) -> (Network, Socket, Socket) {
    let link = LinkConfig::default().with_rate(100_000_000).with_delay(ms(10)).with_queue(Queue::Bytes(1 << 22));
    let (mut net, a, b) = fast_pair(1, link, link);
    let config = ConnConfig { cwnd_validation: validation, ..large() };
    let (from, to) = net.connected(a, b, &config);
    transfer(&mut net, from, to, 600_000);
    net.run_for(ms(100));
    let info = net.info(from);
    assert!(info.snd_cwnd > 200 * 1448 && info.unacked == 0, "{info:?}");
    (net, from, to)
}

/// Writes a little, each so often, for so long.
fn trickle(net: &mut Network, from: Socket, to: Socket, bytes: usize, each: Duration, times: usize) {
    let mut sink = Vec::new();
    for _ in 0..times {
        assert_eq!(net.write(from, &vec![1; bytes]), Ok(bytes));
        net.run_for(each);
        net.read_all(to, &mut sink).unwrap();
    }
}

#[test]
fn a_window_that_is_not_used_decays() {
    let (mut net, from, to) = warm(CwndValidation::Decay);
    let (before, rto) = (net.info(from).snd_cwnd, net.info(from).rto);
    // Twenty segments each 50 ms: never silent for an RTO. The window was last full 100 ms ago.
    trickle(&mut net, from, to, 20 * 1448, ms(50), 2);
    assert!(rto > ms(200) && net.info(from).snd_cwnd == before, "not before an RTO");
    trickle(&mut net, from, to, 20 * 1448, ms(50), 4);
    let once = net.info(from);
    assert_eq!(once.snd_cwnd, before.midpoint(20 * 1448), "{once:?}");
    assert!(once.snd_ssthresh >= before / 4 * 3);
    trickle(&mut net, from, to, 20 * 1448, ms(50), 100);
    let after = net.info(from).snd_cwnd;
    assert!((20 * 1448..=41 * 1448).contains(&after), "{after}: half of it was enough for slow start");
}

#[test]
fn silence_halves_it_for_each_timeout() {
    let (mut net, from, to) = warm(CwndValidation::Decay);
    let (before, rto) = (net.info(from).snd_cwnd, net.info(from).rto);
    net.run_for(rto * 5 / 2 - ms(100));
    trickle(&mut net, from, to, 1000, ms(1), 1);
    assert_eq!(net.info(from).snd_cwnd, before / 4);
    net.run_for(Duration::from_secs(60));
    trickle(&mut net, from, to, 1000, ms(1), 1);
    assert_eq!(net.info(from).snd_cwnd, 10 * 1448);
}

#[test]
fn the_rfcs_restart_is_a_knob() {
    let (mut net, from, to) = warm(CwndValidation::Restart);
    let (before, rto) = (net.info(from).snd_cwnd, net.info(from).rto);
    trickle(&mut net, from, to, 20 * 1448, ms(50), 20);
    assert_eq!(net.info(from).snd_cwnd, before, "it was used, if little");
    net.run_for(rto + ms(1));
    trickle(&mut net, from, to, 1000, ms(1), 1);
    assert_eq!(net.info(from).snd_cwnd, 10 * 1448);
}

#[test]
fn it_may_stay_for_ever_and_never_grows_unused() {
    let (mut net, from, to) = warm(CwndValidation::Keep);
    let before = net.info(from).snd_cwnd;
    trickle(&mut net, from, to, 20 * 1448, ms(50), 20);
    net.run_for(Duration::from_secs(600));
    trickle(&mut net, from, to, 20 * 1448, ms(50), 20);
    assert_eq!(net.info(from).snd_cwnd, before);
}
