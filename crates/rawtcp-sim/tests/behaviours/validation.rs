//! What becomes of a congestion window that is not used: RFC 2861 as Linux has it, RFC 5681's restart, RFC 7661, or nothing.

use crate::common::{fast_pair, large, ms, transfer};
use rawtcp_proto::cc::Algorithm;
use rawtcp_proto::{ConnConfig, CwndValidation, Duration};
use rawtcp_sim::{LinkConfig, Network, Queue, Socket, Verdict};

/// Two ends, and a window of more than 100 segments without a loss. Nothing is outstanding.
fn warm(validation: CwndValidation) -> (Network, Socket, Socket) {
    warm_with(validation, Algorithm::Cubic)
}

fn warm_with(validation: CwndValidation, algorithm: Algorithm) -> (Network, Socket, Socket) {
    let link = LinkConfig::default().with_rate(100_000_000).with_delay(ms(10)).with_queue(Queue::Bytes(1 << 22));
    let (mut net, a, b) = fast_pair(1, link, link);
    let config = ConnConfig { cwnd_validation: validation, congestion: algorithm.into(), ..large() };
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

#[test]
fn by_rfc_7661_it_is_kept_for_five_minutes() {
    let (mut net, from, to) = warm(CwndValidation::NonValidated);
    let before = net.info(from).snd_cwnd;
    // A little each ten seconds, then nothing.
    trickle(&mut net, from, to, 5 * 1448, Duration::from_secs(10), 15);
    net.run_for(Duration::from_secs(140));
    trickle(&mut net, from, to, 1000, ms(50), 1);
    assert_eq!(net.info(from).snd_cwnd, before);
    net.run_for(Duration::from_secs(20));
    trickle(&mut net, from, to, 1000, ms(50), 1);
    let after = net.info(from);
    assert_eq!(after.snd_cwnd, before / 2, "{after:?}");
    assert!(after.snd_ssthresh >= before / 4 * 3, "{after:?}");
}

/// How many segments leave in the first millisecond of 150, after so long without any.
fn burst(validation: CwndValidation, idle: Duration) -> u64 {
    let (mut net, from, _) = warm(validation);
    net.run_for(idle);
    let before = net.info(from).data_segs_out;
    assert_eq!(net.write(from, &vec![1; 150 * 1448]), Ok(150 * 1448));
    net.run_for(ms(1));
    net.info(from).data_segs_out - before
}

#[test]
fn by_rfc_7661_what_is_kept_does_not_leave_at_once() {
    let minute = Duration::from_secs(60);
    assert_eq!(burst(CwndValidation::Keep, minute), 150);
    let paced = burst(CwndValidation::NonValidated, minute);
    // An initial window, and twice what a millisecond of the rate is worth.
    assert!((10..=100).contains(&paced), "{paced}");
    assert_eq!(burst(CwndValidation::NonValidated, ms(500)), 150, "it was full a moment ago");
}

/// Loses the data segment that is number `lost` from now on.
fn lose(net: &mut Network, from: Socket, to: Socket, lost: usize) {
    let (link, mut number) = (net.between(from.host, to.host), 0);
    net.filter(link, move |_, packet| {
        number += usize::from(packet.len() > 60);
        if packet.len() > 60 && number == lost { Verdict::Drop } else { Verdict::Pass }
    });
}

#[test]
fn by_rfc_7661_a_loss_reduces_to_what_was_used() {
    // (segments of the burst that is lost from; of the largest one in the last second): the window in half segments.
    for (validation, flight, used, halves) in [
        (CwndValidation::NonValidated, 20, 20, 19),
        (CwndValidation::NonValidated, 20, 60, 59),
        (CwndValidation::Keep, 20, 60, 18), // two have arrived when the loss is found
    ] {
        let (mut net, from, to) = warm_with(validation, Algorithm::Reno);
        net.run_for(Duration::from_secs(5));
        trickle(&mut net, from, to, 60 * 1448, ms(100), 2);
        if used < 60 {
            trickle(&mut net, from, to, used * 1448, ms(100), 20);
        }
        lose(&mut net, from, to, 3);
        trickle(&mut net, from, to, flight * 1448, ms(200), 1);
        let info = net.info(from);
        assert_eq!((info.total_retrans, info.timeouts, info.unacked), (1, 0, 0), "{info:?}");
        assert_eq!(info.snd_ssthresh * 2, halves * 1448, "{validation:?} {flight} {used}: {info:?}");
    }
}
