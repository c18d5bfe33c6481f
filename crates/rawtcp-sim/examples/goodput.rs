//! One flow over one link in virtual time, or two that share it: what each achieves, and what its sender did.
//!
//! ```text
//! cargo run --release -p rawtcp-sim --example goodput -- algo=cubic rtt=100 rate=100 loss=0.1 queue=1 mb=50 seeds=3
//! cargo run --release -p rawtcp-sim --example goodput -- algo=cubic algo2=bbr rtt=40 rate=50 secs=60
//! ```
//!
//! `rtt` in milliseconds, `rate` in Mbit/s, `loss` and `reorder` in per cent, `by` (how late what is reordered comes)
//! in milliseconds, `queue` in bandwidth-delay products, `buffer` in MB (0: as by default), `pacing`, `pacing2`,
//! `ts`, `sack`: 0 or 1; `every` prints how things stand each so many milliseconds.

use rawtcp_proto::cc::Algorithm;
use rawtcp_proto::{ConnConfig, Duration};
use rawtcp_sim::{HostConfig, HostId, LinkConfig, Loss, Network, Queue, Socket};
use std::collections::HashMap;

struct Args(HashMap<String, String>);

impl Args {
    fn number(&self, key: &str, default: f64) -> f64 {
        self.0.get(key).map_or(default, |value| value.parse().expect("a number"))
    }

    fn ms(&self, key: &str, default: f64) -> Duration {
        Duration::from_secs_f64(self.number(key, default) / 1e3)
    }

    fn algorithm(&self, key: &str) -> Algorithm {
        self.0.get(key).map_or("cubic", String::as_str).parse().expect("a congestion control")
    }

    /// The settings of the first or second flow.
    fn config(&self, second: &str) -> ConnConfig {
        let mut config = ConnConfig {
            congestion: self.algorithm(&format!("algo{second}")).into(),
            timestamps: self.number("ts", 1.0) != 0.0,
            sack: self.number("sack", 1.0) != 0.0,
            ..ConnConfig::default()
        };
        if let Some(pacing) = self.0.get(&format!("pacing{second}")) {
            config.pacing = pacing != "0";
        }
        let buffer = (self.number("buffer", 32.0) * 1e6) as usize;
        if buffer > 0 {
            (config.recv_buffer, config.send_buffer) = (buffer, buffer);
            (config.recv_buffer_max, config.send_buffer_max) = (buffer, buffer);
        }
        config
    }

    fn network(&self, seed: u64) -> (Network, HostId, HostId) {
        let (rate, rtt) = (self.number("rate", 100.0) * 1e6, self.ms("rtt", 100.0));
        let bdp = rate / 8.0 * rtt.as_secs_f64();
        let queue =
            Queue::Bytes(((self.number("queue", 1.0) * bdp) as usize).max(self.number("least", 65_536.0) as usize));
        let link = LinkConfig::default().with_rate(rate as u64).with_delay(rtt / 2).with_queue(queue);
        let mut there = link.with_loss(Loss::Uniform(self.number("loss", 0.0) / 100.0));
        if self.0.contains_key("reorder") {
            there = there.with_reorder(self.number("reorder", 0.0) / 100.0, self.ms("by", 5.0));
        }
        let mut net = Network::new(self.number("seed", 17.0) as u64 + seed);
        net.set_trace(0);
        let mut host = |n: u8| net.add(HostConfig::new([10, 0, 0, n].into(), u64::from(n) + seed).with_checks(false));
        let (a, b) = (host(1), host(2));
        net.join(a, b, there, link);
        (net, a, b)
    }
}

fn main() {
    let args = std::env::args().skip(1);
    let args = args.filter_map(|arg| arg.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())));
    let args = Args(args.collect());
    let seeds = args.number("seeds", 1.0) as u64;
    let mut shares: Vec<f64> =
        (0..seeds).map(|seed| if args.0.contains_key("algo2") { two(&args, seed) } else { one(&args, seed) }).collect();
    if seeds > 1 {
        shares.sort_by(f64::total_cmp);
        println!("median {:.3}, {:.3} to {:.3}", shares[shares.len() / 2], shares[0], shares[shares.len() - 1]);
    }
}

/// One flow; answers its share of the link.
fn one(args: &Args, seed: u64) -> f64 {
    let (mut net, a, b) = args.network(seed);
    let (from, to) = net.connected(a, b, &args.config(""));
    let bytes = (args.number("mb", 20.0) * 1e6) as u64;
    let start = net.now();
    let (mut flow, mut told, every) = (Flow { from, to, left: bytes, read: 0 }, start, args.ms("every", 0.0));
    let done = net.run_until(|net| {
        flow.turn(net);
        if !every.is_zero() && net.now() >= told + every {
            told = net.now();
            println!("{:>9.3} s {:>10} read, {}", told.since(start).as_secs_f64(), flow.read, state(net, from));
        }
        flow.read == bytes
    });
    assert!(done, "stuck after {} bytes: {:?}", flow.read, net.info(from));
    let time = net.now().since(start);
    let share = bytes as f64 * 8.0 / time.as_secs_f64() / (args.number("rate", 100.0) * 1e6);
    let stats = net.link(net.between(a, b)).stats();
    let info = net.info(from);
    println!(
        "{} {:.1} Mbit/s, {share:.3} of the link in {time:?}; lost {}, dropped {}, again {}, dsacks {}; {}",
        info.congestion,
        share * args.number("rate", 100.0),
        stats.lost,
        stats.queue_drops,
        info.total_retrans,
        info.dsack_dups,
        state(&net, from),
    );
    share
}

/// Two flows, the second beginning a second later; answers the first one's share of what both carried.
fn two(args: &Args, seed: u64) -> f64 {
    let (mut net, a, b) = args.network(seed);
    let mut flows = Vec::new();
    for second in ["", "2"] {
        let (from, to) = net.connected(a, b, &args.config(second));
        flows.push(Flow { from, to, left: u64::MAX, read: 0 });
        let end = net.now() + Duration::from_secs(1);
        let _ = net.run_until(|net| {
            flows.iter_mut().for_each(|flow| flow.turn(net));
            net.now() >= end
        });
    }
    flows.iter_mut().for_each(|flow| flow.read = 0);
    let end = net.now() + args.ms("secs", 60.0) * 1000;
    let _ = net.run_until(|net| {
        flows.iter_mut().for_each(|flow| flow.turn(net));
        net.now() >= end
    });
    let [first, second] = [flows[0].read, flows[1].read].map(|read| read as f64);
    let share = first / (first + second);
    let used = (first + second) * 8.0 / args.number("secs", 60.0) / (args.number("rate", 100.0) * 1e6);
    let names = [flows[0].from, flows[1].from].map(|socket| net.info(socket).congestion);
    println!("{} {:.3}, {} {:.3}; together {used:.3} of the link", names[0], share, names[1], 1.0 - share);
    share
}

/// A writer that always has something, and a reader that always reads.
struct Flow {
    from: Socket,
    to: Socket,
    left: u64,
    read: u64,
}

impl Flow {
    fn turn(&mut self, net: &mut Network) {
        let chunk = [1; 65_536];
        while self.left > 0 {
            let Ok(n) = net.write(self.from, &chunk[..chunk.len().min(self.left as usize)]) else { break };
            self.left -= n as u64;
        }
        let mut buf = [0; 65_536];
        while let Ok(n) = net.read(self.to, &mut buf) {
            self.read += n as u64;
        }
    }
}

/// How things stand at a sender, windows in segments.
fn state(net: &Network, socket: Socket) -> String {
    let info = net.info(socket);
    let mss = u64::from(info.snd_mss);
    let mbits = |rate: u64| if rate == u64::MAX { f64::INFINITY } else { rate as f64 * 8e-6 };
    format!(
        "{:?} cwnd {} ssthresh {} out {} sacked {} lost {} again {} srtt {:.1?} min {:.1?} rate {:.2} paced at {:.2} timeouts {} busy {:.2?} window {:.2?} buffer {:.2?}",
        info.ca_state,
        info.snd_cwnd / mss,
        if info.snd_ssthresh == u64::MAX { "none".to_owned() } else { (info.snd_ssthresh / mss).to_string() },
        info.unacked / mss,
        info.sacked / mss,
        info.lost / mss,
        info.total_retrans,
        info.rtt,
        info.min_rtt,
        mbits(info.delivery_rate),
        mbits(info.pacing_rate),
        info.timeouts,
        info.busy_time,
        info.rwnd_limited,
        info.sndbuf_limited,
    )
}
