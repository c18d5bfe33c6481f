//! Shared by the test programs.
#![allow(dead_code)] // each program uses its part

use std::sync::OnceLock;

use rawtcp_proto::{ConnConfig, Duration};
use rawtcp_sim::{HostConfig, HostId, LinkConfig, Network, Shutdown, Socket};

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Two hosts without checks and trace, for transfers of many segments.
pub fn fast_pair(seed: u64, there: LinkConfig, back: LinkConfig) -> (Network, HostId, HostId) {
    let mut net = Network::new(seed);
    net.set_trace(0);
    let [a, b] = [1u8, 2].map(|n| {
        net.add(
            HostConfig::new([10, 0, 0, n].into(), seed.wrapping_add(u64::from(n))).with_checks(false).with_events(0),
        )
    });
    net.join(a, b, there, back);
    (net, a, b)
}

/// Settings that no window limits.
pub fn large() -> ConnConfig {
    ConnConfig { recv_buffer: 32 << 20, send_buffer: 32 << 20, ..ConnConfig::default() }
}

/// What a transfer took.
pub struct Transfer {
    /// From the first write to the last byte read.
    pub time: Duration,
    /// Bits of payload per second.
    pub goodput: f64,
}

/// After so many bytes every test stream begins anew: a prime, so that no boundary of anything falls on it.
const PERIOD: u64 = 1_048_573;

/// Bytes `at` to `at + len` of every test stream; at most a megabyte.
pub fn bytes(at: u64, len: usize) -> &'static [u8] {
    static STREAM: OnceLock<Vec<u8>> = OnceLock::new();
    let byte = |n: u64| (n % PERIOD).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0];
    let stream = STREAM.get_or_init(|| (0..2 * PERIOD).map(byte).collect());
    let from = (at % PERIOD) as usize;
    &stream[from..from + len]
}

/// Byte number `at` of every test stream.
pub fn byte(at: u64) -> u8 {
    bytes(at, 1)[0]
}

/// Sends bytes from one end to the other and checks each.
pub fn transfer(net: &mut Network, from: Socket, to: Socket, total: u64) -> Transfer {
    let start = net.now();
    let (mut written, mut read) = (0, 0);
    let mut buf = vec![0; 256 * 1024];
    let done = net.run_until(|net| {
        while written < total {
            let Ok(n) = net.write(from, bytes(written, (total - written).min(65_536) as usize)) else { break };
            written += n as u64;
        }
        while let Ok(n) = net.read(to, &mut buf) {
            assert!(n > 0, "the stream ended after {read} bytes");
            assert!(buf[..n] == *bytes(read, n), "wrong bytes behind {read}");
            read += n as u64;
        }
        read == total
    });
    assert!(done, "stuck after {read} of {total} bytes: {:?}", net.info(from));
    let time = net.now().since(start);
    Transfer { time, goodput: total as f64 * 8.0 / time.as_secs_f64() }
}

/// Ends both directions in order.
pub fn finish(net: &mut Network, a: Socket, b: Socket) {
    for socket in [a, b] {
        let _ = net.shutdown(socket, Shutdown::Write);
    }
    net.run_for(Duration::from_secs(2));
}
