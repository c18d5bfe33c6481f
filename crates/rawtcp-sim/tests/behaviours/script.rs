//! A peer that follows a script: it sends single segments to a host and expects single answers.

use bytes::Bytes;
use rawtcp_proto::cc::Algorithm;
use rawtcp_proto::seq::WireWindow;
use rawtcp_proto::wire::{Flags, Options, TcpHeader};
use rawtcp_proto::{ConnConfig, DropReason, Duration, Instant, SeqNum, State};
use rawtcp_sim::craft::{Parsed, segment};
use rawtcp_sim::{ConnId, Errno, Host, HostConfig, ListenerId};
use std::net::SocketAddr;

pub const SYN: Flags = Flags::SYN;
pub const ACK: Flags = Flags::ACK;
pub const FIN: Flags = Flags::FIN;
pub const RST: Flags = Flags::RST;
pub const NONE: Flags = Flags::NONE;
pub const SYN_ACK: Flags = Flags::SYN.with(Flags::ACK);
pub const FIN_ACK: Flags = Flags::FIN.with(Flags::ACK);
pub const RST_ACK: Flags = Flags::RST.with(Flags::ACK);

/// The peer's initial sequence number: it wraps within the first data.
pub const ISS: SeqNum = SeqNum(u32::MAX - 2);

pub struct Script {
    pub host: Host,
    pub now: Instant,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub listener: Option<ListenerId>,
    conn: Option<ConnId>,
    /// The host's initial sequence number, once seen.
    pub irs: SeqNum,
    /// The window field that the peer sends.
    pub window: u16,
}

/// The settings of most scripts: every ACK at once, no timestamps.
pub fn plain() -> ConnConfig {
    ConnConfig {
        timestamps: false,
        window_scaling: false,
        recv_buffer: 65_535,
        nodelay: true,
        // The simplest sums, and all at once.
        congestion: Algorithm::Reno.into(),
        ..ConnConfig::default()
    }
}

/// What the peer's SYN says in most scripts.
pub fn peer_options() -> Options {
    Options { mss: Some(1000), sack_permitted: true, ..Options::default() }
}

impl Script {
    fn new() -> Self {
        Self::closed_with(HostConfig::new([10, 0, 0, 1].into(), 7))
    }

    /// Nothing listens on this host.
    pub fn closed_with(host: HostConfig) -> Self {
        Script {
            host: Host::new(host),
            now: Instant::from_secs(1000),
            local: "10.0.0.1:80".parse().unwrap(),
            peer: "10.0.0.2:4000".parse().unwrap(),
            listener: None,
            conn: None,
            irs: SeqNum(0),
            window: 65_535,
        }
    }

    /// Nothing listens.
    pub fn closed() -> Self {
        Self::new()
    }

    /// LISTEN.
    pub fn listening(config: &ConnConfig) -> Self {
        Self::listening_with(config, HostConfig::new([10, 0, 0, 1].into(), 7))
    }

    /// LISTEN, on an interface with this MTU.
    pub fn listening_on_mtu(config: &ConnConfig, mtu: u32) -> Self {
        Self::listening_with(config, HostConfig::new([10, 0, 0, 1].into(), 7).with_mtu(mtu))
    }

    /// LISTEN, on this host.
    pub fn listening_with(config: &ConnConfig, host: HostConfig) -> Self {
        let mut s = Self::closed_with(host);
        s.listener = Some(s.host.listen(s.local, config).unwrap());
        s
    }

    /// SYN-SENT; the SYN has been taken.
    pub fn syn_sent(config: &ConnConfig) -> Self {
        let mut s = Self::new();
        s.conn = Some(s.host.connect_from(s.now, s.local, s.peer, config).unwrap());
        let syn = s.next();
        assert_eq!(syn.tcp.flags, SYN);
        s.irs = syn.tcp.seq;
        s
    }

    /// SYN-SENT by a SYN that asks for ECN.
    pub fn asking(config: &ConnConfig) -> Self {
        let mut s = Self::new();
        s.conn = Some(s.host.connect_from(s.now, s.local, s.peer, config).unwrap());
        let syn = s.next();
        assert_eq!(syn.tcp.flags, SYN | Flags::ECE | Flags::CWR);
        s.irs = syn.tcp.seq;
        s
    }

    /// The end of a passive open's handshake.
    pub fn accept(&mut self) {
        self.send(ACK, self.seq(0), self.ack(0), b"");
        self.none();
        self.conn = Some(self.host.accept(self.listener.unwrap()).unwrap());
    }

    /// SYN-RECEIVED from LISTEN.
    pub fn syn_received(config: &ConnConfig, options: Options) -> Self {
        let mut s = Self::listening(config);
        s.send_with(SYN, ISS, SeqNum(0), options, b"");
        let answer = s.next();
        assert_eq!((answer.tcp.flags, answer.tcp.ack), (SYN_ACK, ISS.add(1)));
        s.irs = answer.tcp.seq;
        s
    }

    /// ESTABLISHED by a passive open.
    pub fn accepted_with(config: &ConnConfig, options: Options) -> Self {
        let mut s = Self::syn_received(config, options);
        // The RTT that the handshake measures.
        s.now = s.now + Duration::from_millis(100);
        // Timestamps once agreed on belong into every segment.
        let ts = options.timestamps.filter(|_| config.timestamps);
        s.send_with(ACK, s.seq(0), s.ack(0), Options { timestamps: ts, ..Options::default() }, b"");
        s.none();
        s.conn = Some(s.host.accept(s.listener.unwrap()).unwrap());
        assert_eq!(s.state(), State::Established);
        s
    }

    /// ESTABLISHED by a passive open, MSS 1000, SACK, no timestamps, no scaling.
    pub fn accepted(config: &ConnConfig) -> Self {
        Self::accepted_with(config, peer_options())
    }

    pub fn conn(&self) -> ConnId {
        self.conn.expect("there is a connection")
    }

    pub fn state(&self) -> State {
        self.host.state(self.conn())
    }

    /// The peer's sequence number of byte `n`.
    pub fn seq(&self, n: u32) -> SeqNum {
        ISS.add(1).add(n)
    }

    /// The host's sequence number of byte `n`: what the peer acknowledges.
    pub fn ack(&self, n: u32) -> SeqNum {
        self.irs.add(1).add(n)
    }

    pub fn packet(&self, flags: Flags, seq: SeqNum, ack: SeqNum, options: Options, payload: &[u8]) -> Bytes {
        let header = TcpHeader { seq, ack, flags, window: WireWindow(self.window), options, ..TcpHeader::default() };
        segment(self.peer, self.local, &header, payload)
    }

    pub fn send_with(
        &mut self,
        flags: Flags,
        seq: SeqNum,
        ack: SeqNum,
        options: Options,
        payload: &[u8],
    ) -> Option<DropReason> {
        let packet = self.packet(flags, seq, ack, options, payload);
        self.host.on_packet(self.now, &packet).err()
    }

    /// A segment without options. Answers why it was dropped, if it was.
    pub fn send(&mut self, flags: Flags, seq: SeqNum, ack: SeqNum, payload: &[u8]) -> Option<DropReason> {
        self.send_with(flags, seq, ack, Options::default(), payload)
    }

    /// Data of the peer from byte `at` on, acknowledging what is not ours: nothing.
    pub fn data(&mut self, at: u32, payload: &[u8]) {
        self.send(ACK, self.seq(at), self.ack(0), payload);
    }

    /// An ACK of everything up to byte `n` of the host.
    pub fn acks(&mut self, n: u32) {
        self.send(ACK, self.seq(0), self.ack(n), b"");
    }

    /// An ACK with SACK blocks, in bytes of the host's.
    pub fn sacks(&mut self, n: u32, blocks: &[(u32, u32)]) {
        let mut options = Options::default();
        for &(from, to) in blocks {
            options.sack.push(self.ack(from), self.ack(to));
        }
        self.send_with(ACK, self.seq(0), self.ack(n), options, b"");
    }

    pub fn poll(&mut self) -> Option<Parsed> {
        let packet = self.host.poll_transmit(self.now)?;
        let parsed = Parsed::new(&packet).expect("the host sends valid segments");
        assert_eq!(parsed.sender().local, self.local);
        assert_eq!(parsed.sender().remote, self.peer);
        Some(parsed)
    }

    /// The next segment, which leaves now.
    #[track_caller]
    pub fn next(&mut self) -> Parsed {
        self.poll().expect("a segment")
    }

    /// The next segment, an ACK without data of the peer's bytes up to `n`.
    #[track_caller]
    pub fn expect_ack(&mut self, n: u32) -> Parsed {
        let answer = self.next();
        assert_eq!((answer.tcp.flags, answer.tcp.ack, answer.payload.len()), (ACK, self.seq(n), 0));
        answer
    }

    /// All segments that leave now.
    pub fn all(&mut self) -> Vec<Parsed> {
        std::iter::from_fn(|| self.poll()).collect()
    }

    /// Nothing leaves now.
    #[track_caller]
    pub fn none(&mut self) {
        let found = self.poll();
        assert!(found.is_none(), "unexpected {found:?}");
    }

    /// Goes on to the next segment that a timer causes, at most for this long. Answers after how long.
    #[track_caller]
    pub fn next_within(&mut self, time: Duration) -> (Duration, Parsed) {
        let start = self.now;
        self.try_within(time).unwrap_or_else(|| panic!("nothing within {time:?} after {start:?}"))
    }

    pub fn try_within(&mut self, time: Duration) -> Option<(Duration, Parsed)> {
        let start = self.now;
        loop {
            if let Some(segment) = self.poll() {
                return Some((self.now.since(start), segment));
            }
            match self.host.next_deadline() {
                Some(at) if at <= start + time => self.now = self.now.max(at),
                _ => {
                    self.now = start + time;
                    return None;
                }
            }
            self.host.on_timeout(self.now);
        }
    }

    /// Nothing leaves for this long.
    #[track_caller]
    pub fn quiet(&mut self, time: Duration) {
        let found = self.try_within(time);
        assert!(found.is_none(), "unexpected {found:?}");
    }

    pub fn write(&mut self, data: &[u8]) -> Result<usize, Errno> {
        self.host.write(self.now, self.conn(), data)
    }

    pub fn read(&mut self) -> Result<Vec<u8>, Errno> {
        let mut buf = vec![0; 1 << 20];
        let n = self.host.read(self.now, self.conn(), &mut buf)?;
        buf.truncate(n);
        Ok(buf)
    }

    pub fn close(&mut self) {
        self.host.close(self.now, self.conn());
    }
}

/// Payload of `n` bytes.
pub fn text(n: usize) -> Vec<u8> {
    (0..n).map(|i| i as u8).collect()
}
