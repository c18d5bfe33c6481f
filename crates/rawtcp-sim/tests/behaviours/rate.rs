//! The measured rate of delivery: right on a path of known rate, and marked where the application was the limit.

use crate::common::{fast_pair, large, ms, transfer};
use rawtcp_proto::ConnConfig;
use rawtcp_sim::{LinkConfig, Queue};

#[test]
fn the_rate_of_the_bottleneck_is_measured() {
    for (rate, rtt) in [(1_000_000, 100), (10_000_000, 20), (100_000_000, 20), (1_000_000_000, 5)] {
        let bdp = (rate / 8 * rtt / 1000) as usize;
        let link = LinkConfig::default().with_rate(rate).with_delay(ms(rtt / 2)).with_queue(Queue::Bytes(4 * bdp));
        let (mut net, a, b) = fast_pair(1, link, LinkConfig::default().with_delay(ms(rtt / 2)));
        // The peer's window fills the path and half of the queue: nothing is lost.
        let config = ConnConfig { recv_buffer: 3 * bdp, recv_buffer_max: 3 * bdp, ..large() };
        let (from, to) = net.connected(a, b, &config);
        assert_eq!(net.info(from).delivery_rate, 0);
        transfer(&mut net, from, to, 30 * bdp as u64);
        let info = net.info(from);
        // Of each packet of 1500 bytes on the wire, 1448 are counted.
        let found = info.delivery_rate as f64 * 8.0 / (rate as f64 * 1448.0 / 1500.0);
        assert!((0.97..=1.01).contains(&found), "{rate} bit/s: measured {found:.3} of it; {info:?}");
    }
}

#[test]
fn a_slow_writer_gives_samples_that_say_so_and_do_not_lower_the_rate() {
    let link = LinkConfig::default().with_rate(10_000_000).with_delay(ms(10)).with_queue(Queue::Bytes(1 << 20));
    let (mut net, a, b) = fast_pair(1, link, link);
    let (from, to) = net.connected(a, b, &large());
    transfer(&mut net, from, to, 1_000_000);
    net.run_for(ms(200));
    let full = net.info(from).delivery_rate;
    let mut sink = Vec::new();
    for _ in 0..20 {
        net.run_for(ms(50));
        net.write(from, &[1; 2000]).unwrap();
        net.read_all(to, &mut sink).unwrap();
    }
    let info = net.info(from);
    assert_eq!(info.delivery_rate, full, "{info:?}");
    // From the start, there is nothing else to show.
    let (from, _to) = net.connected(a, b, &large());
    for _ in 0..5 {
        net.write(from, &[1; 2000]).unwrap();
        net.run_for(ms(50));
    }
    let info = net.info(from);
    assert!(info.delivery_rate_app_limited && info.delivery_rate < full, "{info:?}");
}
