//! Whole handshakes: real connections as clients, a stack with its accept queue as the server, and a
//! wire between them in virtual time.

use super::*;
use crate::TxLimits;
use crate::conn::{Path, State};
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

/// An accept queue as the shell's: full when more than the backlog waits.
#[derive(Clone, Debug)]
struct Backlog {
    waiting: Arc<AtomicUsize>,
    limit: usize,
}

impl AcceptQueue for Backlog {
    fn has_room(&self) -> bool {
        self.waiting.load(Relaxed) < self.limit
    }
}

#[derive(Clone, Debug)]
struct Packet {
    due: Instant,
    to_server: bool,
    client: usize,
    header: TcpHeader,
    payload: Vec<u8>,
}

/// Whether a packet arrives.
type Pass = Box<dyn FnMut(&Packet) -> bool>;

struct World {
    now: Instant,
    stack: Stack<usize, Backlog>,
    /// By client; the server's end once there is one.
    clients: Vec<Connection>,
    servers: Vec<Option<Connection>>,
    accepted: VecDeque<usize>,
    waiting: Arc<AtomicUsize>,
    wire: VecDeque<Packet>,
    pass: Pass,
    /// SYN-ACKs that the server sent, by client.
    syn_acks: Vec<usize>,
}

const DELAY: Duration = Duration::from_millis(20);

impl World {
    fn new(config: StackConfig, listener: ConnConfig, backlog: usize) -> World {
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut stack = Stack::new(config, [7; 32]);
        let handle = Backlog { waiting: waiting.clone(), limit: backlog };
        stack.listen("10.0.0.1:80".parse().unwrap(), handle, listen_config(listener));
        World {
            now: Instant::from_secs(1000),
            stack,
            clients: Vec::new(),
            servers: Vec::new(),
            accepted: VecDeque::new(),
            waiting,
            wire: VecDeque::new(),
            pass: Box::new(|_| true),
            syn_acks: Vec::new(),
        }
    }

    fn connect(&mut self, config: &ConnConfig) -> usize {
        let client = self.clients.len();
        let tuple = self.tuple(client);
        let tuple = FourTuple::new(tuple.remote, tuple.local);
        let iss = SeqNum(u32::MAX - client as u32);
        self.clients.push(Connection::connect(
            self.now,
            &config.clone().into(),
            tuple,
            iss,
            0xffff_0000,
            Path { mtu: 1500 },
        ));
        self.servers.push(None);
        self.syn_acks.push(0);
        client
    }

    fn tuple(&self, client: usize) -> FourTuple {
        tuple(1000 + client as u16)
    }

    fn send(&mut self, to_server: bool, client: usize, header: TcpHeader, payload: Vec<u8>) {
        let packet = Packet { due: self.now + DELAY, to_server, client, header, payload };
        self.syn_acks[client] += usize::from(!to_server && header.flags.contains(SA));
        if (self.pass)(&packet) {
            self.wire.push_back(packet);
        }
    }

    fn reply(&mut self, reply: Reply) {
        let client = usize::from(reply.tuple.remote.port()) - 1000;
        self.send(false, client, reply.header, Vec::new());
    }

    fn flush(&mut self) {
        for client in 0..self.clients.len() {
            for to_server in [true, false] {
                let mut out = Vec::new();
                let end = if to_server { self.clients.get_mut(client) } else { self.servers[client].as_mut() };
                let Some(end) = end else { continue };
                while let Some(transmit) = end.poll_transmit(self.now, &TxLimits::ONE_SEGMENT) {
                    out.push((transmit.header, end.payload(&transmit).flatten().copied().collect()));
                }
                end.take_events();
                out.into_iter().for_each(|(header, payload)| self.send(to_server, client, header, payload));
            }
        }
    }

    fn deliver(&mut self, packet: &Packet) {
        let &Packet { header, client, .. } = packet;
        let seg = Segment { header, payload: &packet.payload, owner: None, ecn: Ecn::NotEct, gro_size: 0 };
        if !packet.to_server {
            let _ = self.clients[client].on_segment(self.now, &seg);
            return;
        }
        let tuple = self.tuple(client);
        match self.stack.on_segment(self.now, &tuple, &seg) {
            Disposition::Connection(which) => drop(self.servers[which].as_mut().unwrap().on_segment(self.now, &seg)),
            Disposition::Accept { mut connection, .. } => {
                self.stack.insert(tuple, client);
                connection.on_segment(self.now, &seg).unwrap();
                self.servers[client] = Some(*connection);
                self.accepted.push_back(client);
                self.waiting.store(self.accepted.len(), Relaxed);
            }
            Disposition::Reply(reply) => self.reply(reply),
            Disposition::Done | Disposition::Drop(_) => {}
            Disposition::Unclaimed => {
                if let Ok(reply) = self.stack.reset_for(self.now, &tuple, &seg) {
                    self.reply(reply);
                }
            }
        }
    }

    fn accept(&mut self) -> Option<usize> {
        let client = self.accepted.pop_front();
        self.waiting.store(self.accepted.len(), Relaxed);
        client
    }

    /// Everything that happens within this time.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.flush();
            let conns = self.clients.iter().chain(self.servers.iter().flatten());
            let timers = conns.filter_map(Connection::poll_timeout).min();
            let next = [timers, self.stack.poll_timeout(), self.wire.front().map(|p| p.due)];
            let Some(next) = next.into_iter().flatten().min().filter(|&at| at <= end) else { break };
            self.now = self.now.max(next);
            while let Some(packet) = self.wire.pop_front_if(|p| p.due <= self.now) {
                self.deliver(&packet);
            }
            let mut replies = Vec::new();
            self.stack.on_timeout(self.now, &mut |reply| replies.push(reply), &mut |_| ());
            replies.into_iter().for_each(|reply| self.reply(reply));
            self.clients.iter_mut().chain(self.servers.iter_mut().flatten()).for_each(|c| c.on_timeout(self.now));
        }
        self.now = end;
    }

    fn states(&self, client: usize) -> (State, Option<State>) {
        (self.clients[client].state(), self.servers[client].as_ref().map(Connection::state))
    }

    /// Whether bytes pass both ways between a client and the server's end.
    fn exchange(&mut self, client: usize, len: usize) {
        let data: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
        let (mut to_server, mut to_client) = (Ends::default(), Ends::default());
        for _ in 0..10_000 {
            if to_server.got.len() == len && to_client.got.len() == len {
                break;
            }
            let server = self.servers[client].as_mut().unwrap();
            to_server.step(self.now, &mut self.clients[client], server, &data);
            to_client.step(self.now, server, &mut self.clients[client], &data);
            self.run(Duration::from_millis(10));
        }
        assert!(to_server.got == data && to_client.got == data, "{:?}", self.states(client));
    }
}

#[derive(Default)]
struct Ends {
    written: usize,
    got: Vec<u8>,
}

impl Ends {
    fn step(&mut self, now: Instant, from: &mut Connection, to: &mut Connection, data: &[u8]) {
        self.written += from.write(now, &data[self.written..]).unwrap_or(0);
        let mut buf = [0; 65_536];
        while let Ok(n @ 1..) = to.read(now, &mut buf) {
            self.got.extend_from_slice(&buf[..n]);
        }
    }
}

fn with(syn_cookies: SynCookies) -> StackConfig {
    StackConfig { syn_cookies, ..StackConfig::default() }
}

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

const ESTABLISHED: (State, Option<State>) = (State::Established, Some(State::Established));

#[test]
fn real_connections_by_records_and_by_cookies() {
    let on = ConnConfig::default();
    let bare = ConnConfig { timestamps: false, ..on.clone() };
    let plain = ConnConfig { window_scaling: false, sack: false, ..on.clone() };
    for cookies in [SynCookies::Never, SynCookies::Always] {
        for client in [&on, &bare, &plain] {
            for server in [&on, &bare, &plain] {
                let mut world = World::new(with(cookies), server.clone(), 10);
                let id = world.connect(client);
                world.run(second(1));
                assert_eq!(world.states(id), ESTABLISHED);
                world.exchange(id, 300_000);
                let (here, there) = (world.clients[id].info(), world.servers[id].as_ref().unwrap().info());
                assert_eq!((here.timestamps, here.sack), (there.timestamps, there.sack));
                assert_eq!(here.window_scale, there.window_scale.map(|(snd, rcv)| (rcv, snd)));
                let stamps = client.timestamps && server.timestamps;
                assert_eq!(here.timestamps, stamps);
                // With timestamps, a cookie costs no option.
                let options = stamps || cookies == SynCookies::Never;
                assert_eq!(here.sack, options && client.sack && server.sack);
                let scaling = options && client.window_scaling && server.window_scaling;
                assert_eq!(here.window_scale.is_some(), scaling);
                assert_eq!((here.retrans, there.total_retrans), (0, 0));
                let counted = world.stack.counters().cookies_accepted;
                assert_eq!(counted, u64::from(cookies == SynCookies::Always));
            }
        }
    }
}

#[test]
fn cookies_on_a_lossy_path() {
    for lost in 0..6 {
        let mut world = World::new(with(SynCookies::Always), ConnConfig::default(), 10);
        let mut number = 0;
        world.pass = Box::new(move |_| {
            number += 1;
            number != lost + 1
        });
        let id = world.connect(&ConnConfig::default());
        world.run(second(5));
        // The ACK alone was lost: only what the client writes tells.
        world.clients[id].write(world.now, b"x").unwrap();
        world.run(second(5));
        assert_eq!(world.states(id), ESTABLISHED, "packet {lost} lost");
        assert_eq!(world.servers[id].as_mut().unwrap().read(world.now, &mut [0; 9]), Ok(1));
        world.exchange(id, 10_000);
        assert_eq!(world.stack.counts().half_open, 0);
    }
}

#[test]
fn a_flood_does_not_keep_real_connections_out() {
    let mut world = World::new(StackConfig::default(), ConnConfig::default(), 100);
    for i in 0..5000u32 {
        let from = FourTuple::new("10.0.0.1:80".parse().unwrap(), ((0x1400_0000 + i).to_be_bytes(), 99).into());
        let seg = Segment { header: full_syn(i, i), payload: b"", owner: None, ecn: Ecn::NotEct, gro_size: 0 };
        assert!(matches!(world.stack.on_segment(world.now, &from, &seg), Disposition::Reply(_)));
    }
    // Nobody hears of the flood's own SYN-ACKs.
    let ids: Vec<_> = (0..10).map(|_| world.connect(&ConnConfig::default())).collect();
    world.run(Duration::from_millis(500));
    for id in ids {
        assert_eq!(world.states(id), ESTABLISHED);
        world.servers[id].as_mut().unwrap().write(world.now, b"hello").unwrap();
    }
    assert_eq!(world.stack.counters().cookies_accepted, 10);
}

/// As Linux: the final ACK is dropped, the record stays, and its timer makes the peer say it again.
#[test]
fn a_full_accept_queue_delays_and_loses_nothing() {
    let mut world = World::new(StackConfig::default(), ConnConfig::default(), 1);
    let ids: Vec<_> = (0..3).map(|_| world.connect(&ConnConfig::default())).collect();
    world.run(Duration::from_millis(500));
    // All clients believe; the server took one.
    assert!(ids.iter().all(|&id| world.clients[id].state() == State::Established));
    assert_eq!((world.accepted.len(), world.stack.counts().half_open), (1, 2));
    assert_eq!(world.stack.counters().drops[DropReason::AcceptQueueFull as usize], 2);
    // A newcomer's SYN is not even answered, and what comes for the others is dropped.
    let late = world.connect(&ConnConfig::default());
    world.clients[ids[1]].write(world.now, b"early words").unwrap();
    world.run(Duration::from_millis(100));
    assert_eq!((world.syn_acks[late], world.clients[late].state()), (0, State::SynSent));
    assert_eq!(world.stack.counts().half_open, 2);
    // Nobody accepts: SYN-ACKs go out at 1 and 3 s, and each answer is dropped.
    world.run(second(4));
    assert_eq!((world.syn_acks[ids[2]], world.stack.counts().half_open), (3, 2));
    // One after another finds its way, and the early words are there.
    let mut served = Vec::new();
    for _ in 0..40 {
        served.extend(world.accept());
        world.run(second(1));
    }
    served.sort_unstable();
    assert_eq!(served, [ids[0], ids[1], ids[2], late]);
    let mut buf = [0; 20];
    assert_eq!(world.servers[ids[1]].as_mut().unwrap().read(world.now, &mut buf), Ok(11));
    for id in served {
        world.exchange(id, 5000);
    }
}

#[test]
fn who_is_never_accepted_is_told_in_the_end() {
    let mut world = World::new(StackConfig::default(), ConnConfig::default(), 0);
    world.waiting.store(1, Relaxed);
    let id = world.connect(&ConnConfig::default());
    world.run(second(1));
    assert_eq!(world.states(id), (State::SynSent, None), "no room: no answer");
    // Room for a moment: the SYN gets through, the rest does not.
    let mut world = World::new(StackConfig::default(), ConnConfig::default(), 1);
    let id = world.connect(&ConnConfig::default());
    world.run(DELAY);
    world.waiting.store(1, Relaxed);
    world.run(second(62));
    assert_eq!((world.states(id), world.stack.counts().half_open), ((State::Established, None), 1));
    assert_eq!(world.syn_acks[id], 6);
    world.run(second(2));
    assert_eq!((world.stack.counts().half_open, world.stack.counters().half_open_expired), (0, 1));
    world.clients[id].write(world.now, b"x").unwrap();
    world.run(second(1));
    assert_eq!(world.clients[id].state(), State::Closed, "reset");
}

#[test]
fn a_listener_that_goes_resets_what_comes_for_its_half_open_connections() {
    let mut world = World::new(StackConfig::default(), ConnConfig::default(), 1);
    let id = world.connect(&ConnConfig::default());
    world.run(DELAY);
    assert_eq!(world.stack.counts().half_open, 1);
    world.stack.unlisten("10.0.0.1:80".parse().unwrap());
    assert_eq!(world.stack.poll_timeout(), None);
    world.run(second(1));
    assert_eq!(world.states(id), (State::Closed, None));
}

#[test]
fn every_wrap_of_the_handshake() {
    // The client's number wraps in the SYN, the server's at its own; the clock of timestamps on the way.
    for cookies in [SynCookies::Never, SynCookies::Always] {
        for at in [u32::MAX - 1, u32::MAX, 0, 0x7fff_ffff, 0x8000_0000] {
            let mut world = World::new(with(cookies), ConnConfig::default(), 1);
            let offset = world.stack.ts_offset(&tuple(1000));
            world.now = Instant::from_millis((1 << 32) + u64::from(at.wrapping_sub(offset)));
            let id = world.connect(&ConnConfig::default());
            world.run(second(1));
            world.exchange(id, 50_000);
        }
    }
}
