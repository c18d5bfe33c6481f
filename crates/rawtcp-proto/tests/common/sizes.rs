//! What connections and the records before and after them take of memory, counted at the allocator.

use allocation_counter::measure;
use rawtcp_proto::stack::{AcceptQueue, Disposition, ListenConfig, Stack, StackConfig, TimeWait};
use rawtcp_proto::{ConnConfig, Connection, Duration, FourTuple, Instant, Path, Segment, SeqNum, State, TxLimits};
use std::net::SocketAddr;
use std::sync::Arc;

const SERVER: ([u8; 4], u16) = ([10, 0, 0, 1], 80);
const SEED: [u8; 32] = [7; 32];
/// Records that are measured together: what a table takes ahead counts for each.
const MANY: usize = 10_000;

/// Bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes {
    /// Of the value itself.
    pub(crate) value: usize,
    /// Of what it keeps on the heap.
    pub(crate) heap: usize,
}

impl Bytes {
    /// Both.
    pub(crate) fn total(&self) -> usize {
        self.value + self.heap
    }
}

#[derive(Clone, Debug)]
struct Room;

impl AcceptQueue for Room {
    fn has_room(&self) -> bool {
        true
    }
}

/// Two connections, opened by a handshake with a listener.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) client: Connection,
    pub(crate) server: Connection,
}

fn server() -> SocketAddr {
    SERVER.into()
}

fn client(n: usize) -> SocketAddr {
    ([10, 1, (n >> 8) as u8, n as u8], 50_000).into()
}

fn listening(config: &Arc<ConnConfig>) -> Stack<usize, Room> {
    let limits = StackConfig { max_half_open: MANY, max_time_wait: MANY, ..StackConfig::default() };
    let mut stack = Stack::new(limits, SEED);
    let conn = config.clone();
    let listen = ListenConfig { v6only: false, shared: false, max_half_open: MANY, mtu: 1500, conn };
    stack.listen(server(), Room, listen);
    stack
}

/// The SYN of the `n`th client.
fn connect(now: Instant, config: &Arc<ConnConfig>, n: usize) -> Connection {
    Connection::connect(now, config, FourTuple::new(client(n), server()), SeqNum(n as u32), 77, Path { mtu: 1500 })
}

/// Everything that one end has to say, to the other.
fn carry(now: Instant, from: &mut Connection, to: &mut Connection) -> bool {
    let mut any = false;
    while let Some(transmit) = from.poll_transmit(now, &TxLimits::ONE_SEGMENT) {
        any = true;
        let mut packet = [0; 1500];
        let mut len = 0;
        for slice in from.payload(&transmit) {
            packet[len..len + slice.len()].copy_from_slice(slice);
            len += slice.len();
        }
        let segment = bare(transmit.header, &packet[..len]);
        let _ = to.on_segment(now, &segment);
    }
    let _ = from.take_events();
    any
}

fn bare(header: rawtcp_proto::wire::TcpHeader, payload: &[u8]) -> Segment<'_> {
    Segment { header, payload, owner: None, ecn: rawtcp_proto::wire::Ecn::NotEct, gro_size: 0 }
}

impl Pair {
    pub(crate) fn open(config: &Arc<ConnConfig>) -> Pair {
        let mut now = Instant::from_secs(1000);
        let mut stack = listening(config);
        let mut client = connect(now, config, 1);
        let tuple = FourTuple::new(server(), client.tuple().local);
        loop {
            let transmit = client.poll_transmit(now, &TxLimits::ONE_SEGMENT).expect("a SYN, then an ACK");
            let segment = bare(transmit.header, &[]);
            now = now + Duration::from_millis(10);
            match stack.on_segment(now, &tuple, &segment) {
                Disposition::Reply(reply) => client.on_segment(now, &bare(reply.header, &[])).expect("a SYN-ACK"),
                Disposition::Accept { mut connection, .. } => {
                    connection.on_segment(now, &segment).expect("an ACK");
                    let mut pair = Pair { now, client, server: *connection };
                    pair.settle();
                    return pair;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Until neither has anything to say, delayed ACKs included.
    pub(crate) fn settle(&mut self) {
        loop {
            let any = carry(self.now, &mut self.client, &mut self.server)
                | carry(self.now, &mut self.server, &mut self.client);
            self.now = self.now + Duration::from_millis(if any { 10 } else { 50 });
            self.client.on_timeout(self.now);
            self.server.on_timeout(self.now);
            let busy = [&self.client, &self.server].iter().any(|end| end.unacked_len() > 0);
            if !any && !busy {
                return;
            }
        }
    }

    /// So many bytes each way, read at the other end.
    pub(crate) fn exchange(&mut self, bytes: usize) {
        let mut left = [bytes; 2];
        let mut buf = [0; 4096];
        loop {
            for (end, left) in [&mut self.client, &mut self.server].into_iter().zip(&mut left) {
                *left -= end.write(self.now, &buf[..(*left).min(4096)]).unwrap_or(0);
                while end.read(self.now, &mut buf).is_ok_and(|n| n > 0) {}
            }
            self.settle();
            if left == [0; 2] && self.client.readable_len() + self.server.readable_len() == 0 {
                return;
            }
        }
    }

    /// Both have had nothing to do for a while.
    pub(crate) fn rest(&mut self) {
        self.client.rest();
        self.server.rest();
    }

    /// The client closes, then the server; the client's record.
    fn close(mut self) -> TimeWait {
        self.client.shutdown(self.now).expect("it is open");
        self.settle();
        self.server.shutdown(self.now).expect("it is open");
        self.settle();
        assert_eq!(self.client.state(), State::TimeWait);
        self.client.time_wait(self.now).expect("it is in TIME-WAIT")
    }
}

/// What is allocated behind what `make` makes.
fn kept<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let mut made = None;
    let info = measure(|| made = Some(make()));
    (made.expect("it was made"), usize::try_from(info.bytes_current).expect("nothing else is freed"))
}

/// An idle connection that has sent and received `bytes`, with the settings of its stack: the larger of the two ends.
pub(crate) fn idle(bytes: usize) -> Bytes {
    let config = Arc::new(ConnConfig::default());
    // What the buffers gave back to the pool stays there for others.
    Pair::open(&config).exchange(bytes);
    let (pair, both) = kept(|| {
        let mut pair = Pair::open(&config);
        pair.exchange(bytes);
        pair.rest();
        pair
    });
    // The server's end alone is what goes with it.
    let Pair { client, server, .. } = pair;
    let freed = measure(|| drop(server));
    let of_server = usize::try_from(-freed.bytes_current).expect("only freed");
    drop(client);
    Bytes { value: size_of::<Connection>(), heap: of_server.max(both - of_server) }
}

/// One record of a half-open connection, with its share of the table and the timers.
pub(crate) fn half_open() -> usize {
    let config = Arc::new(ConnConfig::default());
    let now = Instant::from_secs(1000);
    let mut stack = listening(&config);
    let syns: Vec<_> = (0..MANY)
        .map(|n| {
            let mut conn = connect(now, &config, n);
            let transmit = conn.poll_transmit(now, &TxLimits::ONE_SEGMENT).expect("a SYN");
            (FourTuple::new(server(), conn.tuple().local), transmit.header)
        })
        .collect();
    let ((), bytes) = kept(|| {
        for (tuple, header) in &syns {
            stack.on_segment(now, tuple, &bare(*header, &[]));
        }
    });
    assert_eq!(stack.counts().half_open, MANY);
    bytes / MANY
}

/// One record of a connection in TIME-WAIT, with its share of the table and the timers.
pub(crate) fn time_wait() -> usize {
    let config = Arc::new(ConnConfig::default());
    let record = Pair::open(&config).close();
    let mut stack = listening(&config);
    let ((), bytes) = kept(|| {
        for n in 0..MANY {
            stack.to_time_wait(Instant::from_secs(1000), FourTuple::new(server(), client(n)), record);
        }
    });
    assert_eq!(stack.counts().time_wait, MANY);
    bytes / MANY
}
