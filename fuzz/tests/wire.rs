//! Two hosts and a wire that the input commands: whatever it does to packets, the bytes that arrive are those that were
//! sent, in order; and once it leaves them alone, all arrive.

use bolero::TypeGenerator;
use bytes::{Bytes, BytesMut};
use rawtcp_proto::stack::{StackConfig, SynCookies};
use rawtcp_proto::{ConnConfig, Duration, EcnMode, Instant, State};
use rawtcp_sim::{ConnId, Errno, Host, HostConfig, ListenerId, Shutdown};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// What the wire does to the next packet.
#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Fate {
    Pass,
    Lose,
    Twice,
    /// Behind so many others.
    Late(u8),
    /// One bit is flipped.
    Flip(u16),
    /// A packet from before comes again.
    Replay(u8),
    /// Only the first bytes arrive.
    Cut(u8),
    /// Time passes, in milliseconds.
    Wait(u16),
}

#[derive(Clone, Debug, TypeGenerator)]
struct Input {
    switches: u8,
    cookies: bool,
    lengths: [u16; 2],
    fates: Vec<Fate>,
}

struct End {
    host: Host,
    conn: Option<ConnId>,
    data: Vec<u8>,
    written: usize,
    got: Vec<u8>,
    ended: bool,
}

struct Wire {
    now: Instant,
    ends: [End; 2],
    listener: ListenerId,
    /// To whom, and what.
    flying: VecDeque<(usize, Bytes)>,
    seen: Vec<(usize, Bytes)>,
    fates: VecDeque<Fate>,
    cookies: bool,
}

fn pattern(end: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251 + end * 7) as u8).collect()
}

impl Wire {
    fn new(input: &Input) -> Wire {
        let on = |bit: u32| input.switches >> bit & 1 == 1;
        let stack = StackConfig {
            syn_cookies: if input.cookies { SynCookies::Always } else { SynCookies::WhenFull },
            ..StackConfig::default()
        };
        let config = ConnConfig {
            sack: on(0),
            timestamps: on(1),
            window_scaling: on(2),
            ecn: if on(3) { EcnMode::Request } else { EcnMode::Accept },
            recv_buffer: if on(4) { 3000 } else { 128 << 10 },
            nodelay: on(5),
            // The input may lose as many in a row as it likes.
            retries: 10_000,
            syn_retries: 10_000,
            synack_retries: 255,
            rto_max: Duration::from_secs(2),
            ..ConnConfig::default()
        };
        let now = Instant::from_secs(1000);
        let mut ends = [0, 1].map(|n| End {
            host: Host::new(
                HostConfig::new([10, 0, 0, n + 1].into(), n.into()).with_stack(stack.clone()).with_checks(true),
            ),
            conn: None,
            data: pattern(n.into(), usize::from(input.lengths[usize::from(n)]) % 20_000),
            written: 0,
            got: Vec::new(),
            ended: false,
        });
        let addr: SocketAddr = ([10, 0, 0, 2], 80).into();
        let listener = ends[1].host.listen(addr, &config).expect("the address is free");
        ends[0].conn = Some(ends[0].host.connect(now, addr, &config).expect("there is a port"));
        let fates = input.fates.iter().copied().collect();
        Wire { now, ends, listener, flying: VecDeque::new(), seen: Vec::new(), fates, cookies: input.cookies }
    }

    /// The applications write, read and end.
    fn act(&mut self) {
        let now = self.now;
        if self.ends[1].conn.is_none() {
            self.ends[1].conn = self.ends[1].host.accept(self.listener).ok();
        }
        for end in &mut self.ends {
            let Some(conn) = end.conn else { continue };
            match end.host.write(now, conn, &end.data[end.written..]) {
                Ok(n) => end.written += n,
                Err(Errno::EAGAIN | Errno::EPIPE) => {}
                Err(error) => panic!("{error}"),
            }
            if end.written == end.data.len() {
                end.host.shutdown(now, conn, Shutdown::Write).expect("it is there");
            }
            let mut buf = [0; 4096];
            loop {
                match end.host.read(now, conn, &mut buf) {
                    Ok(0) => break end.ended = true,
                    Ok(n) => end.got.extend_from_slice(&buf[..n]),
                    Err(Errno::EAGAIN) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn send(&mut self) {
        for from in [0, 1] {
            while let Some(packet) = self.ends[from].host.poll_transmit(self.now) {
                self.seen.push((1 - from, packet.clone()));
                let place = self.flying.len();
                // As long as a cookie is all that is known, a second segment that comes without the first is reset, as
                // on Linux: nothing tells it from one of nobody's.
                let fate = if self.cookies && self.ends[1].conn.is_none() { None } else { self.fates.pop_front() };
                match fate.unwrap_or(Fate::Pass) {
                    Fate::Pass => self.flying.push_back((1 - from, packet)),
                    Fate::Lose => {}
                    Fate::Twice => self.flying.extend([(1 - from, packet.clone()), (1 - from, packet)]),
                    Fate::Late(by) => self.flying.insert(place.saturating_sub(usize::from(by)), (1 - from, packet)),
                    Fate::Flip(at) => {
                        let mut copy = BytesMut::from(&packet[..]);
                        let at = usize::from(at) % (copy.len() * 8);
                        copy[at / 8] ^= 1 << (at % 8);
                        self.flying.push_back((1 - from, copy.freeze()));
                    }
                    Fate::Replay(n) => {
                        let old = self.seen[usize::from(n) % self.seen.len()].clone();
                        self.flying.extend([(1 - from, packet), old]);
                    }
                    Fate::Cut(n) => self.flying.push_back((1 - from, packet.slice(..usize::from(n).min(packet.len())))),
                    Fate::Wait(ms) => {
                        self.flying.push_back((1 - from, packet));
                        self.now = self.now + Duration::from_millis(u64::from(ms) % 3000);
                    }
                }
            }
        }
    }

    fn check(&self) {
        for end in 0..2 {
            let (got, sent) = (&self.ends[end].got, &self.ends[1 - end].data);
            assert!(got.len() <= sent.len() && got[..] == sent[..got.len()], "end {end} got what nobody sent");
        }
    }

    fn is_done(&self) -> bool {
        self.ends.iter().all(|end| end.ended)
    }

    fn run(input: &Input) {
        let mut wire = Wire::new(input);
        for step in 0.. {
            assert!(step < 200_000, "no end");
            wire.act();
            wire.send();
            wire.check();
            if wire.is_done() {
                break;
            }
            if let Some((to, packet)) = wire.flying.pop_front() {
                let _ = wire.ends[to].host.on_packet(wire.now, &packet);
                wire.now = wire.now + Duration::from_micros(100);
            } else {
                let next = wire.ends.iter().filter_map(|end| end.host.next_deadline()).min();
                wire.now = wire.now.max(next.expect("something is waited for"));
            }
            let now = wire.now;
            for end in &mut wire.ends {
                end.host.on_timeout(now);
            }
        }
        for (end, other) in [(0, 1), (1, 0)] {
            assert_eq!(wire.ends[end].got.len(), wire.ends[other].data.len(), "end {end} got all of it");
            let conn = wire.ends[end].conn.expect("there is a connection");
            assert_ne!(wire.ends[end].host.state(conn), State::Established);
        }
    }
}

#[test]
fn wire() {
    bolero::check!().with_type::<Input>().with_iterations(1_500).for_each(Wire::run);
}
