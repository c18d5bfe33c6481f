//! Chance against the connection: segments no peer would send, and a wire that loses, repeats and reorders.

use super::pair::{A, B, End, Pair};
use super::segments::{Host, STATES, plain};
use super::{ms, secs};
use crate::config::ConnConfig;
use crate::conn::{State, TxLimits};
use crate::error::UserError;
use crate::seq::WireWindow;
use crate::time::Duration;
use crate::wire::{Flags, Options, SackBlocks, TcpHeader, Timestamps};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

struct Chance(ChaCha8Rng);

impl Chance {
    fn new(seed: u64) -> Self {
        Chance(ChaCha8Rng::seed_from_u64(seed))
    }

    fn below(&mut self, n: u32) -> u32 {
        self.0.next_u32() % n
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// Near what is interesting, mostly.
    fn near(&mut self, at: u32) -> u32 {
        match self.below(8) {
            0..=3 => at,
            4 => at.wrapping_add(self.below(4)).wrapping_sub(2),
            5 => at.wrapping_add(self.below(3000)).wrapping_sub(1500),
            6 => at.wrapping_add(self.below(200_000)).wrapping_sub(100_000),
            _ => self.0.next_u32(),
        }
    }
}

fn options(chance: &mut Chance, header: &TcpHeader) -> Options {
    let mut options = Options::default();
    if chance.one_in(2) {
        options.timestamps = Some(Timestamps { value: chance.near(1000), echo: chance.near(1_000_077) });
    }
    if chance.one_in(2) {
        let mut sack = SackBlocks::default();
        for _ in 0..chance.below(5) {
            let left = header.ack.add(chance.near(1000));
            sack.push(left, left.add(chance.near(1448)));
        }
        options.sack = sack;
    }
    if header.flags.contains(Flags::SYN) {
        options.mss = chance.one_in(2).then(|| chance.below(2000) as u16);
        options.window_scale = chance.one_in(2).then(|| chance.below(20) as u8);
        options.sack_permitted = chance.one_in(2);
    }
    options
}

fn user_acts(host: &mut Host, chance: &mut Chance) {
    let now = host.now;
    match chance.below(500) {
        0..=40 => _ = host.conn.write(now, &vec![7; chance.below(20_000) as usize]),
        41..=80 => _ = host.conn.read(now, &mut vec![0; chance.below(5000) as usize]),
        81 => _ = host.conn.shutdown(now),
        82 if chance.one_in(3) => host.conn.close(now),
        83 if chance.one_in(5) => host.conn.abort(now),
        84 => host.conn.set_recv_buffer(chance.near(5000) as usize),
        85 => host.conn.set_send_buffer(chance.below(100_000) as usize),
        86 => host.conn.set_nodelay(chance.one_in(2)),
        87 => host.conn.on_path_mtu(now, chance.below(1600)),
        89 => _ = host.conn.write_urgent(now, &vec![9; chance.below(3000) as usize]),
        90 => host.conn.set_cork(chance.one_in(2)),
        91 => _ = host.conn.write_more(now, &vec![8; chance.below(3000) as usize]),
        92 => host.conn.set_urgent_inline(chance.one_in(2)),
        93 => _ = host.conn.read_urgent(),
        88 => host.conn.set_user_timeout(chance.one_in(2).then(|| ms(chance.below(5000).into()))),
        _ => {}
    }
    host.conn.check_invariants();
}

#[test]
fn any_segments_in_any_state_break_nothing() {
    let states = [State::SynSent].into_iter().chain(STATES);
    for (number, state) in states.enumerate() {
        for seed in 0..100 {
            let mut chance = Chance::new(seed * 100 + number as u64);
            let bit = |n: u64| seed >> n & 1 == 1;
            let mut config = ConnConfig { sack: bit(0), timestamps: bit(1), window_scaling: bit(2), ..plain() };
            config.recv_buffer = [0, 1, 3000, 65_535, 1 << 20][seed as usize % 5];
            let mut host = Host::connecting(&config);
            if state != State::SynSent && config.recv_buffer > 0 && !bit(3) {
                host = Host::in_state(&config, state);
            } else {
                let flags = if state == State::SynReceived { Flags::SYN } else { Flags::SYN | Flags::ACK };
                let mut syn = host.header(flags, 0, 1);
                syn.options = Options {
                    mss: Some([0, 1, 536, 1460][seed as usize % 4]),
                    window_scale: Some(7),
                    sack_permitted: true,
                    timestamps: Some(Timestamps { value: 1000, echo: 1_000_077 }),
                    ..Options::default()
                };
                let _ = host.give(syn, b"");
            }
            assault(&mut host, &mut chance);
        }
    }
}

fn assault(host: &mut Host, chance: &mut Chance) {
    // The forger guesses well: it sees what is sent.
    let (mut seq, mut ack) = (1, 1u32);
    for _ in 0..1000 {
        if host.conn.is_closed() {
            break;
        }
        let mut flags = Flags(chance.0.next_u32() as u8);
        if !chance.one_in(10) {
            flags = flags.without(Flags::SYN) | Flags::ACK;
        }
        if !chance.one_in(200) {
            flags = flags.without(Flags::RST);
        }
        if !chance.one_in(200) {
            flags = flags.without(Flags::FIN);
        }
        let mut header = host.header(flags, chance.near(seq), chance.near(ack));
        header.window = WireWindow(if chance.one_in(4) { chance.below(3) as u16 } else { chance.0.next_u32() as u16 });
        header.options = options(chance, &header);
        header.urgent = chance.below(1 << 16) as u16;
        let payload = vec![1; if chance.one_in(2) { 0 } else { chance.below(1500) as usize }];
        let _ = host.give(header, &payload);
        user_acts(host, chance);
        if chance.one_in(3) {
            host.now = host.now + ms(chance.below(50).into());
            if let Some(at) = host.conn.poll_timeout().filter(|_| chance.one_in(4)) {
                host.now = host.now.max(at);
            }
            host.conn.on_timeout(host.now);
            host.conn.check_invariants();
        }
        for transmit in host.drain() {
            let header = transmit.header;
            assert!(header.options.encoded_len() <= 40);
            let end = header.seq.add(transmit.payload_len() as u32).distance(super::segments::ISS) as u32;
            ack = if chance.one_in(2) { end } else { ack };
            if header.flags.contains(Flags::ACK) {
                seq = header.ack.distance(super::segments::IRS) as u32;
            }
        }
    }
    host.conn.take_events();
}

fn pattern(end: End, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251 + end * 7) as u8).collect()
}

/// Every combination of the switches, with sizes that vary along.
fn config(bits: u32) -> ConnConfig {
    let on = |n: u32| bits >> n & 1 == 1;
    ConnConfig {
        sack: on(0),
        timestamps: on(1),
        window_scaling: on(2),
        nodelay: on(3),
        delayed_ack: if on(4) { ms(0) } else { ms(40) },
        quick_acks: if on(3) { 0 } else { 16 },
        recv_buffer: [1 << 20, 6000, 200_000, 1500][(bits / 3) as usize % 4],
        send_buffer: [1 << 20, 2000, 100_000, 10_000][(bits / 5) as usize % 4],
        // With a third of all packets lost, the usual number of attempts is sometimes not enough.
        retries: 100,
        syn_retries: 100,
        ..ConnConfig::default()
    }
}

/// What one application does: writes, reads, and closes its direction at the end.
struct App {
    data: Vec<u8>,
    written: usize,
    got: Vec<u8>,
    ended: bool,
}

impl App {
    fn act(&mut self, p: &mut Pair, end: End, chance: &mut Chance) {
        if self.written < self.data.len() && !chance.one_in(3) {
            let most = (1 + chance.below(8000) as usize).min(self.data.len() - self.written);
            self.written += p.write_all(end, &self.data[self.written..self.written + most]);
            if self.written == self.data.len() {
                p.ends[end].shutdown(p.now).unwrap();
            }
        }
        if !chance.one_in(3) {
            let mut buf = vec![0; 1 + chance.below(6000) as usize];
            match p.ends[end].read(p.now, &mut buf) {
                Ok(0) => self.ended = true,
                Ok(n) => self.got.extend(&buf[..n]),
                Err(UserError::WouldBlock) => {}
                Err(e) => panic!("read: {e:?}"),
            }
        }
    }
}

/// A wire that loses, repeats and reorders, by the seed; it heals at the end, so that the last ACK arrives.
fn rough(p: &mut Pair, seed: u64, loss: u32) {
    let mut chance = Chance::new(seed);
    p.pass = Box::new(move |_, _, _| chance.below(1000) >= loss);
    let mut chance = Chance::new(seed + 1);
    p.jitter = Box::new(move || if chance.one_in(4) { ms(chance.below(30).into()) } else { Duration::ZERO });
    let mut chance = Chance::new(seed + 2);
    p.copies = Box::new(move || if chance.one_in(20) { 2 } else { 1 });
}

#[test]
fn everything_arrives_both_ways_over_a_rough_wire() {
    for bits in 0..32 {
        for seed in 0..40 {
            let mut p = Pair::new(config(bits), config(bits.rotate_left(3) % 29 + seed as u32));
            let mut chance = Chance::new(seed * 1000 + u64::from(bits));
            rough(&mut p, seed * 777 + u64::from(bits), [0, 10, 50, 150, 300][seed as usize % 5]);
            p.limits = TxLimits { max_payload: [0, 20_000][seed as usize % 2], ..TxLimits::ONE_SEGMENT };
            let size = |chance: &mut Chance| 1 + chance.below(100_000) as usize;
            let mut apps = [A, B].map(|end| App {
                data: pattern(end, size(&mut chance)),
                written: 0,
                got: Vec::new(),
                ended: false,
            });
            let start = p.now;
            let context = format!("bits {bits} seed {seed}");
            let mut steps = 0;
            while !apps.iter().all(|app| app.ended) {
                for (end, app) in apps.iter_mut().enumerate() {
                    app.act(&mut p, end, &mut chance);
                }
                p.flush();
                // Applications may act later than anything of the protocol does.
                if !p.step() {
                    p.now = p.now + ms(1);
                }
                steps += 1;
                assert!(steps < 1_000_000 && p.now.since(start) < secs(50_000), "{context}: stuck");
            }
            assert!(apps[A].got == apps[B].data && apps[B].got == apps[A].data, "{context}: bytes differ");
            p.run_until(|p| p.ends.iter().all(|c| matches!(c.state(), State::Closed | State::TimeWait)));
        }
    }
}
