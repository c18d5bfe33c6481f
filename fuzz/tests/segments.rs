//! Segments that no peer would send, calls that no program would make, in any order, against one connection.

use bolero::TypeGenerator;
use rawtcp_proto::seq::WireWindow;
use rawtcp_proto::wire::{Ecn, Flags, IcmpError, IcmpKind, Options, SackBlocks, TcpHeader, Timestamps};
use rawtcp_proto::{
    ConnConfig, Connection, Duration, EcnMode, FourTuple, Instant, MtuProbing, Path, Segment, SeqNum, State, TxLimits,
};

/// A number near one that matters: most bits say near which and how near.
#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Near {
    /// The one that is expected, and a little.
    Expected(i8),
    /// Within a window of it.
    Window(i16),
    Anywhere(u32),
}

impl Near {
    fn to(self, at: SeqNum) -> SeqNum {
        match self {
            Near::Expected(by) => at.add(by as u32),
            Near::Window(by) => at.add(by as u32),
            Near::Anywhere(at) => SeqNum(at),
        }
    }
}

#[derive(Clone, Debug, TypeGenerator)]
struct Arriving {
    seq: Near,
    ack: Near,
    /// Flags that are not the usual ones.
    odd: Option<u8>,
    window: u16,
    urgent: u16,
    payload: u16,
    timestamps: Option<(Near, Near)>,
    sack: Vec<(Near, u16)>,
    ecn: u8,
    merged: bool,
}

#[derive(Clone, Debug, TypeGenerator)]
enum Step {
    Arrives(Arriving),
    Write(u16),
    WriteUrgent(u8),
    WriteMore(u8),
    Read(u16),
    Shutdown,
    Close,
    Abort,
    /// So many milliseconds later.
    Later(u16),
    /// At the next deadline.
    Due,
    TooBig(Near, u16),
    Unreachable(Near),
    Nodelay(bool),
    Cork(bool),
    SendBuffer(u32),
    RecvBuffer(u32),
    UserTimeout(Option<u16>),
}

#[derive(Clone, Debug, TypeGenerator)]
struct Input {
    switches: u16,
    recv_buffer: u32,
    peer_mss: Option<u16>,
    peer_scale: Option<u8>,
    steps: Vec<Step>,
}

impl Input {
    fn config(&self) -> ConnConfig {
        let on = |bit: u32| self.switches >> bit & 1 == 1;
        ConnConfig {
            recv_buffer: self.recv_buffer as usize % (4 << 20),
            sack: on(0),
            timestamps: on(1),
            window_scaling: on(2),
            nodelay: on(3),
            urgent_inline: on(4),
            ecn: if on(5) { EcnMode::Request } else { EcnMode::Off },
            ecn_abe: on(6),
            mtu_probing: [MtuProbing::Off, MtuProbing::BlackHole, MtuProbing::Always]
                [usize::from(self.switches >> 7) % 3],
            quick_acks: if on(9) { 0 } else { 16 },
            trace: if on(10) { 16 } else { 0 },
            icmp_fails_connect: on(11),
            ..ConnConfig::default()
        }
    }
}

const IRS: SeqNum = SeqNum(u32::MAX - 1000);

struct Peer {
    now: Instant,
    conn: Connection,
    /// What the connection expects next, and what it sent last, as its segments say.
    seq: SeqNum,
    ack: SeqNum,
    ts: u32,
}

impl Peer {
    fn run(input: &Input) {
        let now = Instant::from_secs(1000);
        let tuple = FourTuple::new(([10, 0, 0, 1], 1000).into(), ([10, 0, 0, 2], 2000).into());
        let conn =
            Connection::connect(now, &input.config().into(), tuple, SeqNum(u32::MAX - 5), 77, Path { mtu: 1500 });
        let mut peer = Peer { now, conn, seq: IRS, ack: SeqNum(0), ts: 1000 };
        peer.drain();
        if input.switches >> 12 & 1 == 1 {
            peer.handshake(input);
        }
        for step in &input.steps {
            peer.step(step);
            peer.conn.check_invariants();
            peer.drain();
            if peer.conn.is_closed() {
                break;
            }
        }
        while peer.conn.poll_trace().is_some() {}
    }

    fn handshake(&mut self, input: &Input) {
        let options = Options {
            mss: input.peer_mss,
            window_scale: input.peer_scale,
            sack_permitted: true,
            timestamps: Some(Timestamps { value: self.ts, echo: 0 }),
            sack: SackBlocks::default(),
        };
        let header = TcpHeader {
            seq: IRS,
            ack: self.ack,
            flags: Flags::SYN | Flags::ACK | Flags::ECE,
            window: WireWindow(60_000),
            options,
            ..TcpHeader::default()
        };
        self.give(&header, &[], Ecn::NotEct, 0);
        self.drain();
    }

    fn give(&mut self, header: &TcpHeader, payload: &[u8], ecn: Ecn, gro_size: u16) {
        let segment = Segment { header: *header, payload, owner: None, ecn, gro_size };
        let _ = self.conn.on_segment(self.now, &segment);
    }

    /// Takes what is to be sent, as a peer that sees all of it.
    fn drain(&mut self) {
        let limits =
            TxLimits { max_payload: if self.ts.is_multiple_of(2) { 0 } else { 64_000 }, ..TxLimits::ONE_SEGMENT };
        for sent in 0.. {
            let Some(transmit) = self.conn.poll_transmit(self.now, &limits) else { break };
            assert!(sent < 100_000, "no end of segments");
            assert!(transmit.header.options.encoded_len() <= 40);
            let len = transmit.payload_len();
            assert_eq!(self.conn.payload(&transmit).map(<[u8]>::len).sum::<usize>(), len);
            let flags = transmit.header.flags;
            let controls = u32::from(flags.contains(Flags::SYN)) + u32::from(flags.contains(Flags::FIN));
            self.ack = transmit.header.seq.add(len as u32 + controls);
            if flags.contains(Flags::ACK) {
                self.seq = transmit.header.ack;
            }
        }
        let _ = self.conn.take_events();
        assert_eq!(self.conn.is_closed(), self.conn.state() == State::Closed);
    }

    fn step(&mut self, step: &Step) {
        let now = self.now;
        let conn = &mut self.conn;
        match *step {
            Step::Arrives(ref arriving) => self.arrives(arriving),
            Step::Write(len) => _ = conn.write(now, &vec![1; len.into()]),
            Step::WriteUrgent(len) => _ = conn.write_urgent(now, &vec![2; len.into()]),
            Step::WriteMore(len) => _ = conn.write_more(now, &vec![3; len.into()]),
            Step::Read(len) => {
                let readable = conn.readable_len();
                if let Ok(n) = conn.read(now, &mut vec![0; len.into()]) {
                    assert!(n <= readable);
                }
                let _ = (conn.read_urgent(), conn.urgent_ahead());
            }
            Step::Shutdown => _ = conn.shutdown(now),
            Step::Close => conn.close(now),
            Step::Abort => conn.abort(now),
            Step::Later(ms) => {
                self.now = now + Duration::from_millis(ms.into());
                conn.on_timeout(self.now);
            }
            Step::Due => {
                if let Some(at) = conn.poll_timeout() {
                    self.now = now.max(at);
                    conn.on_timeout(self.now);
                    assert!(conn.poll_timeout().is_none_or(|at| at > self.now), "a deadline that is always due");
                }
            }
            Step::TooBig(seq, mtu) => self.icmp(seq, IcmpKind::PacketTooBig { mtu: mtu.into() }),
            Step::Unreachable(seq) => self.icmp(seq, IcmpKind::HostUnreachable),
            Step::Nodelay(on) => conn.set_nodelay(on),
            Step::Cork(on) => conn.set_cork(on),
            Step::SendBuffer(bytes) => conn.set_send_buffer(bytes as usize % (4 << 20)),
            Step::RecvBuffer(bytes) => conn.set_recv_buffer(bytes as usize % (4 << 20)),
            Step::UserTimeout(ms) => conn.set_user_timeout(ms.map(|ms| Duration::from_millis(ms.into()))),
        }
    }

    fn icmp(&mut self, seq: Near, kind: IcmpKind) {
        let tuple = *self.conn.tuple();
        let error = IcmpError { kind, tuple, seq: seq.to(self.ack.sub(1)), from: tuple.remote.ip() };
        let _ = self.conn.on_icmp(self.now, &error);
    }

    fn arrives(&mut self, a: &Arriving) {
        self.ts = self.ts.wrapping_add(1);
        let mut sack = SackBlocks::default();
        for (from, len) in a.sack.iter().take(4) {
            let from = from.to(self.ack);
            sack.push(from, from.add(u32::from(*len)));
        }
        let timestamps = a
            .timestamps
            .map(|(value, echo)| Timestamps { value: value.to(SeqNum(self.ts)).0, echo: echo.to(SeqNum(1_000_077)).0 });
        let header = TcpHeader {
            seq: a.seq.to(self.seq),
            ack: a.ack.to(self.ack),
            flags: Flags(a.odd.unwrap_or(Flags::ACK.0)),
            window: WireWindow(a.window),
            urgent: a.urgent,
            options: Options { timestamps, sack, ..Options::default() },
            ..TcpHeader::default()
        };
        let payload = vec![9; usize::from(a.payload) % if a.merged { 60_000 } else { 1461 }];
        self.give(&header, &payload, Ecn::of(a.ecn), if a.merged { 1448 } else { 0 });
    }
}

#[test]
fn segments() {
    bolero::check!().with_type::<Input>().with_iterations(4_000).for_each(Peer::run);
}
