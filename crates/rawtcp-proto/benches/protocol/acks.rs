//! What an acknowledgment costs while so many segments are outstanding: the segments are those that a peer's window of
//! exactly that many lets out.

use crate::{Case, Load};
use bytes::Bytes;
use rawtcp_proto::seq::WireWindow;
use rawtcp_proto::wire::{Ecn, Flags, Options, SackBlocks, TcpHeader, Timestamps};
use rawtcp_proto::{ConnConfig, Connection, Duration, FourTuple, Instant, Path, Segment, SeqNum, State, TxLimits};

const MSS: u32 = 1000;
const ISS: SeqNum = SeqNum(1_000_000);
const IRS: SeqNum = SeqNum(5_000_000);
/// The shift of the peer's window.
const SCALE: u8 = 10;

pub(crate) const fn case(name: &'static str, build: fn() -> Box<dyn Load>) -> Case {
    Case { name, unit: "ACK", bytes: 0, round: 30_000, build }
}

/// Each acknowledges one segment more, and one more leaves.
pub(crate) fn in_order(n: u32) -> Box<dyn Load> {
    Box::new(InOrder(Sender::new(n)))
}

/// The first is lost, each reports one more of those behind it; when all were, the first arrives.
pub(crate) fn with_a_hole(n: u32) -> Box<dyn Load> {
    Box::new(Hole(Sender::new(n)))
}

/// A connection that always has something to send.
struct Sender {
    now: Instant,
    conn: Connection,
    block: Bytes,
    n: u32,
    /// What was acknowledged, in bytes.
    acked: u32,
    ts: u32,
}

impl Sender {
    fn new(n: u32) -> Sender {
        let now = Instant::from_secs(1000);
        let tuple = FourTuple::new(([10, 0, 0, 1], 1000).into(), ([10, 0, 0, 2], 2000).into());
        let config = ConnConfig {
            max_mss: Some(MSS as u16 + 12),
            send_buffer: 64 << 20,
            send_buffer_max: 0,
            initial_window: 2 * n,
            ..ConnConfig::default()
        };
        let mut conn = Connection::connect(now, &config.into(), tuple, ISS, 77, Path { mtu: 1500 });
        conn.poll_transmit(now, &TxLimits::ONE_SEGMENT).expect("the SYN");
        let mut sender = Sender { now, conn, block: Bytes::from(vec![7; 1 << 20]), n, acked: 0, ts: 1 };
        let options = Options {
            mss: Some(1460),
            window_scale: Some(SCALE),
            sack_permitted: true,
            timestamps: Some(Timestamps { value: 0, echo: sender.echo() }),
            ..Options::default()
        };
        sender.give(Flags::SYN | Flags::ACK, IRS, options);
        assert_eq!(sender.conn.state(), State::Established);
        while sender.conn.poll_transmit(sender.now, &TxLimits::ONE_SEGMENT).is_some() {}
        sender.refill();
        sender.ack(sender.echo(), SackBlocks::default());
        assert_eq!(sender.conn.info().unacked, u64::from(n * MSS));
        sender
    }

    fn echo(&self) -> u32 {
        (self.now.as_millis() as u32).wrapping_add(77)
    }

    fn refill(&mut self) {
        while self.conn.write_room() >= self.block.len() {
            self.conn.write_bytes(self.now, self.block.clone()).expect("there is room");
        }
    }

    /// A segment from the peer, and everything that a driver does about it. Says how much left.
    fn give(&mut self, flags: Flags, seq: SeqNum, options: Options) -> u32 {
        // Exactly `n` segments, rounded up to what the scale can state; less than one segment more.
        let window = (self.n * MSS).div_ceil(1 << SCALE) as u16;
        let ack = ISS.add(self.acked.wrapping_add(1));
        let header = TcpHeader {
            src_port: 2000,
            dst_port: 1000,
            seq,
            ack,
            flags,
            window: WireWindow(window),
            options,
            ..TcpHeader::default()
        };
        let segment = Segment { header, payload: &[], owner: None, ecn: Ecn::NotEct, gro_size: 0 };
        self.conn.on_segment(self.now, &segment).expect("it is acceptable");
        let mut left = 0;
        while let Some(transmit) = self.conn.poll_transmit(self.now, &TxLimits::ONE_SEGMENT) {
            left += transmit.payload_len() as u32;
        }
        let _ = (self.conn.take_events(), self.conn.poll_timeout());
        left
    }

    fn ack(&mut self, echo: u32, sack: SackBlocks) -> u32 {
        self.ts += 1;
        let timestamps = Some(Timestamps { value: self.ts, echo });
        self.now = self.now + Duration::from_micros(1);
        if self.conn.poll_timeout().is_some_and(|at| at <= self.now) {
            self.conn.on_timeout(self.now);
        }
        self.give(Flags::ACK, IRS.add(1), Options { timestamps, sack, ..Options::default() })
    }
}

struct InOrder(Sender);

impl Load for InOrder {
    fn run(&mut self, n: u64) -> u64 {
        let sender = &mut self.0;
        for _ in 0..n {
            sender.acked = sender.acked.wrapping_add(MSS);
            let left = sender.ack(sender.echo(), SackBlocks::default());
            assert_eq!(left, MSS, "as much leaves as was acknowledged");
            sender.refill();
        }
        n
    }
}

struct Hole(Sender);

/// ACKs of an episode that come slowly, so that the reordering window passes and the first is sent again.
const SLOW: u32 = 8;

impl Hole {
    /// Says how many ACKs it took.
    fn episode(&mut self) -> u64 {
        let sender = &mut self.0;
        let first = ISS.add(sender.acked.wrapping_add(1));
        let echo = sender.echo();
        for arrived in 2..=sender.n {
            sender.now = sender.now + Duration::from_millis(u64::from(arrived <= SLOW));
            let mut sack = SackBlocks::default();
            sack.push(first.add(MSS), first.add(arrived * MSS));
            sender.ack(sender.echo(), sack);
        }
        // It was only late, says the timestamp: what the loss did to the window is undone, and the next episode begins
        // as this one did (RFC 3522).
        sender.acked = sender.acked.wrapping_add(sender.n * MSS);
        sender.refill();
        sender.ack(echo, SackBlocks::default());
        assert_eq!(sender.conn.info().unacked, u64::from(sender.n * MSS));
        u64::from(sender.n)
    }
}

impl Load for Hole {
    fn run(&mut self, n: u64) -> u64 {
        let (mut done, mut episodes) = (0, 0);
        let before = self.0.conn.info().total_retrans;
        while done < n {
            done += self.episode();
            episodes += 1;
        }
        assert!(self.0.conn.info().total_retrans >= before + episodes, "each time the first was sent again");
        done
    }
}
