//! The demultiplexer: what a segment belongs to, and the answers of what is not a connection.
//!
//! A [`Stack`] is one shard: one table from four-tuples to half-open records, the caller's connection
//! handles and TIME-WAIT records, and a copy of the listeners. It answers by itself for
//!
//! * CLOSED: RFC 9293 §3.10.7.1 ([`Stack::reset_for`]), at a limited rate (RFC 5961 §7);
//! * LISTEN: §3.10.7.2;
//! * SYN-RECEIVED after a passive open: §3.10.7.4 and its SYN-ACK timer, §3.10.8, on records of about
//!   a hundred bytes (RFC 4987 §3.5), with RFC 5961 and PAWS (RFC 7323 §5); when there are too many, by
//!   SYN cookies (RFC 4987 §3.6, [`SynCookies`]);
//! * TIME-WAIT: §3.10.7.4 with RFC 1337 and RFC 6191.
//!
//! After any call that takes `now` or a tuple, [`poll_timeout`](Stack::poll_timeout) may have changed.
//! Nothing that a peer does makes the stack hold more than [`StackConfig`] says.
//!
//! Not here: data and FIN in a SYN are not kept (the peer sends them again; RFC 9293 §3.10.7.2 would
//! queue them); TCP Fast Open (RFC 7413).

mod cookies;
mod demux;
mod isn;
mod listener;
mod ports;
mod reset;
mod syn_queue;
mod time_wait;

#[cfg(test)]
mod tests;

pub use cookies::SynCookies;
pub use demux::TupleHasher;
pub use listener::{AcceptQueue, ListenConfig};
pub use ports::PortChooser;
pub use reset::Rate;
pub use syn_queue::HalfOpen;
pub use time_wait::TimeWait;

use crate::conn::Connection;
use crate::error::DropReason;
use crate::seq::{SeqNum, WireWindow};
use crate::time::{Duration, Instant};
use crate::wire::{Flags, FourTuple, IcmpError, Options, Segment, TcpHeader, Timestamps};
use cookies::Cookies;
use demux::{Entry, Records, Slot, Table};
use isn::Secrets;
use listener::Listeners;
use reset::Budget;
use std::net::SocketAddr;
use time_wait::Waiting;

/// The settings of a [`Stack`].
#[derive(Clone, Debug, PartialEq)]
pub struct StackConfig {
    /// Half-open records in this shard, all listeners together. Default 4096: under 1 MiB, and at the
    /// 63 s that a record may last, room for 65 lost handshakes a second.
    pub max_half_open: usize,
    /// When a SYN is answered with a cookie. Default when there is no room for a record, as Linux.
    pub syn_cookies: SynCookies,
    /// TIME-WAIT records in this shard; beyond it the oldest goes. Default 65,536: under 20 MiB, and
    /// 1,000 closed connections a second over 60 s.
    pub max_time_wait: usize,
    /// How many resets may answer what belongs to nothing. Default 1,000 at once and 1,000 a second:
    /// a scan of all ports is answered in about a minute, and a flood costs little to ignore.
    pub resets: Rate,
    /// How many answers to duplicates one half-open or TIME-WAIT record sends (RFC 5961 §7).
    /// Default one every 500 ms, as Linux, after 4 at once. Per record: a limit that connections
    /// shared would tell one peer about another's.
    pub challenge_acks: Rate,
    /// Whether a RST is ignored in TIME-WAIT (RFC 1337 §3, F1). Default yes: old duplicates would
    /// otherwise end the state that protects against them.
    pub rfc1337: bool,
    /// How long a tuple with timestamps rests in TIME-WAIT before an active open may take it
    /// (RFC 6191). Default 1 s, as Linux.
    pub time_wait_reuse: Duration,
    /// Hop limit of resets. Default 64 [MUST-49].
    pub ttl: u8,
    /// Traffic class of resets. Default 0.
    pub traffic_class: u8,
}

impl Default for StackConfig {
    fn default() -> Self {
        StackConfig {
            max_half_open: 4096,
            syn_cookies: SynCookies::WhenFull,
            max_time_wait: 65_536,
            resets: Rate { interval: Duration::from_millis(1), burst: 1000 },
            challenge_acks: Rate { interval: Duration::from_millis(500), burst: 4 },
            rfc1337: true,
            time_wait_reuse: Duration::from_secs(1),
            ttl: 64,
            traffic_class: 0,
        }
    }
}

/// How many timers one call of [`Stack::on_timeout`] serves: so that the driver stays attentive to
/// its devices when a thousand records expire together.
const TIMERS_PER_CALL: usize = 256;

/// The MTU towards a peer, given the listener's. Bytes of IP packet.
type MtuOf<'a> = dyn FnMut(&FourTuple, u32) -> u32 + 'a;

/// What is to be done with a segment.
#[derive(Debug)]
pub enum Disposition<C, L> {
    /// It belongs to this connection: give it to [`Connection::on_segment`].
    Connection(C),
    /// Send this; the segment is done with.
    Reply(Reply),
    /// The segment is done with and nothing is to be sent.
    Done,
    /// Nothing is to be sent, for this reason; already counted in [`Counters::drops`].
    Drop(DropReason),
    /// The handshake is complete and the half-open record, if there was one, gone. The caller makes a handle,
    /// [`insert`](Stack::insert)s it, gives the connection this same segment and queues it for
    /// `accept`, in this order.
    Accept {
        /// The listener that it came to.
        listener: L,
        /// The connection, in ESTABLISHED.
        connection: Box<Connection>,
    },
    /// It belongs to nothing here. If its address and port are the caller's to answer for, the answer
    /// is [`Stack::reset_for`].
    Unclaimed,
}

/// A segment without payload that the stack sends by itself.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// Between whom: it goes from `local` to `remote`.
    pub tuple: FourTuple,
    /// The TCP header.
    pub header: TcpHeader,
    /// The hop limit.
    pub ttl: u8,
    /// DSCP; never ECN-capable (RFC 3168 §6.1.4).
    pub traffic_class: u8,
}

/// Whether an active open may take a four-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing is there.
    Free,
    /// It was in TIME-WAIT and may be taken again (RFC 6191). The record is removed, without a report
    /// to `freed`; the new connection starts at [`TimeWait::next_iss`].
    TimeWaitReuse(TimeWait),
    /// It is taken.
    InUse,
}

/// What a stack has counted since it was made.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Segments dropped, by `DropReason as usize`.
    pub drops: [u64; DropReason::COUNT],
    /// Resets sent: [`Stack::reset_for`] and for bad ACK numbers in SYN-RECEIVED.
    pub resets: u64,
    /// Challenge and duplicate ACKs sent for half-open and TIME-WAIT records.
    pub acks: u64,
    /// SYN-ACKs sent, retransmissions included.
    pub syn_acks: u64,
    /// SYN-ACKs sent again.
    pub syn_acks_retransmitted: u64,
    /// Handshakes completed.
    pub accepted: u64,
    /// SYN-ACKs whose sequence number is a cookie.
    pub cookies_sent: u64,
    /// Handshakes completed by a cookie.
    pub cookies_accepted: u64,
    /// ACKs to a listener, while cookies were about, that brought none back or one that is not good.
    pub cookies_rejected: u64,
    /// Half-open records given up after the last retransmission.
    pub half_open_expired: u64,
    /// TIME-WAIT records taken by a new connection (RFC 6191, or a higher sequence number).
    pub time_wait_reused: u64,
    /// TIME-WAIT records that went before their time because there were too many.
    pub time_wait_evicted: u64,
}

/// How many entries there are, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Listeners.
    pub listeners: usize,
    /// SYN-RECEIVED from LISTEN.
    pub half_open: usize,
    /// Connections the caller keeps.
    pub connections: usize,
    /// TIME-WAIT.
    pub time_wait: usize,
}

/// One shard of the demultiplexer; `C` is the caller's handle for a connection, `L` for a listener.
///
/// Four-tuples must be canonical: made by [`FourTuple::new`], IPv4 as `V4`.
pub struct Stack<C, L> {
    config: StackConfig,
    secrets: Secrets,
    table: Table<C>,
    listeners: Listeners<L>,
    cookies: Cookies,
    half_open: Records<HalfOpen>,
    time_wait: Records<Waiting>,
    /// TIME-WAIT records that went outside `on_timeout`, which is where `freed` hears of them.
    released: Vec<FourTuple>,
    resets: Budget,
    counters: Counters,
}

impl<C, L> core::fmt::Debug for Stack<C, L> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Stack").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl<C, L> Stack<C, L> {
    /// An empty shard. Hash keys, initial sequence numbers and timestamp offsets follow from the seed;
    /// the shards of one stack share it.
    pub fn new(config: StackConfig, seed: [u8; 32]) -> Self {
        Stack {
            config,
            secrets: Secrets::new(&seed),
            table: Table::new(&seed),
            listeners: Listeners::new(),
            cookies: Cookies::new(&seed),
            half_open: Records::new(),
            time_wait: Records::new(),
            released: Vec::new(),
            resets: Budget::default(),
            counters: Counters {
                drops: [0; DropReason::COUNT],
                resets: 0,
                acks: 0,
                syn_acks: 0,
                syn_acks_retransmitted: 0,
                accepted: 0,
                cookies_sent: 0,
                cookies_accepted: 0,
                cookies_rejected: 0,
                half_open_expired: 0,
                time_wait_reused: 0,
                time_wait_evicted: 0,
            },
        }
    }

    /// The settings.
    pub fn config(&self) -> &StackConfig {
        &self.config
    }

    /// The initial sequence number for a new connection at this time (RFC 6528 §3).
    pub fn isn(&self, now: Instant, tuple: &FourTuple) -> SeqNum {
        self.secrets.isn(now, tuple)
    }

    /// What connections of this tuple add to the timestamp clock (RFC 7323 §5.4, §7.1).
    pub fn ts_offset(&self, tuple: &FourTuple) -> u32 {
        self.secrets.ts_offset(tuple)
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many entries there are.
    pub fn counts(&self) -> Counts {
        let (half_open, time_wait) = (self.half_open.len(), self.time_wait.len());
        Counts {
            listeners: self.listeners.len(),
            half_open,
            connections: self.table.len() - half_open - time_wait,
            time_wait,
        }
    }

    /// All connections, in an order without meaning: decide nothing by it.
    pub fn connections(&self) -> impl Iterator<Item = (&FourTuple, &C)> {
        self.table.connections()
    }

    /// Puts a connection into the table, in the place of whatever was there.
    pub fn insert(&mut self, tuple: FourTuple, connection: C) {
        self.vacate(&tuple);
        self.table.insert(tuple, Entry::Conn(connection));
    }

    /// The connection of a four-tuple, if it is one by now and not a record.
    pub fn connection(&self, tuple: &FourTuple) -> Option<&C> {
        match self.table.get(tuple) {
            Some(Entry::Conn(connection)) => Some(connection),
            _ => None,
        }
    }

    /// Takes a connection out of the table. Half-open and TIME-WAIT records stay.
    pub fn remove(&mut self, tuple: &FourTuple) -> Option<C> {
        if !matches!(self.table.get(tuple), Some(Entry::Conn(_))) {
            return None;
        }
        match self.table.remove(tuple) {
            Some(Entry::Conn(c)) => Some(c),
            _ => None,
        }
    }

    /// Removes whatever is there, and tells `freed` of a TIME-WAIT record at the next `on_timeout`.
    fn vacate(&mut self, tuple: &FourTuple) {
        match self.table.remove(tuple) {
            Some(Entry::Half(slot)) => self.forget_half_open(slot),
            Some(Entry::TimeWait(slot)) => {
                self.time_wait.remove(slot);
                self.released.push(*tuple);
            }
            Some(Entry::Conn(_)) | None => {}
        }
    }

    /// RFC 9293 §3.10.7.1: the reset in answer to a segment that belongs to nothing, at a limited rate.
    ///
    /// # Errors
    /// The reason for silence, already counted: the segment is itself a RST, has an end that is not
    /// one host, or the limit is reached.
    pub fn reset_for(&mut self, now: Instant, tuple: &FourTuple, seg: &Segment<'_>) -> Result<Reply, DropReason> {
        let answer = self.limited_reset(now, tuple, seg);
        if let Err(reason) = answer {
            self.count(reason);
        }
        answer
    }

    fn limited_reset(&mut self, now: Instant, tuple: &FourTuple, seg: &Segment<'_>) -> Result<Reply, DropReason> {
        let reply = reset::reset(&self.config, tuple, seg)?;
        if !self.resets.take(now, self.config.resets) {
            return Err(DropReason::RateLimited);
        }
        self.counters.resets += 1;
        Ok(reply)
    }

    fn count(&mut self, reason: DropReason) {
        self.counters.drops[reason as usize] += 1;
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called: it may be in the past.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.released.is_empty() {
            return Some(Instant::ZERO);
        }
        let half_open = self.half_open.first().map(|(at, _)| at);
        let time_wait = self.time_wait.first().map(|(at, _)| at);
        [half_open, time_wait].into_iter().flatten().min()
    }

    /// RFC 9293 §3.10.8: serves the timers that are due, a bounded number; call again while
    /// [`poll_timeout`](Self::poll_timeout) is not in the future.
    ///
    /// `replies` takes SYN-ACKs to send again. `freed` hears of every TIME-WAIT record that is gone,
    /// once each, except by [`claim`](Self::claim): its end of the tuple needs no port any more.
    /// (Half-open records lean on their listener's port.)
    pub fn on_timeout(&mut self, now: Instant, replies: &mut impl FnMut(Reply), freed: &mut impl FnMut(FourTuple)) {
        core::mem::take(&mut self.released).into_iter().for_each(&mut *freed);
        for _ in 0..TIMERS_PER_CALL {
            let Some((at, slot)) = self.half_open.first() else { break };
            if at > now {
                break;
            }
            if let Some(reply) = self.syn_ack_timeout(now, slot) {
                replies(reply);
            }
        }
        for _ in 0..TIMERS_PER_CALL {
            let Some((at, slot)) = self.time_wait.first() else { break };
            if at > now {
                break;
            }
            // Time-wait timeout: delete the TCB, enter CLOSED.
            if let Some(record) = self.time_wait.remove(slot) {
                self.table.remove(&record.tuple);
                freed(record.tuple);
            }
        }
    }

    /// Stops listening. Half-open connections to this listener are forgotten; what still comes for
    /// them belongs to nothing. Returns their resets: the ACK of one may have come, and wait to be read, and
    /// its peer takes it for a connection.
    pub fn unlisten(&mut self, local: SocketAddr) -> Vec<Reply> {
        let Some(id) = self.listeners.remove(local) else { return Vec::new() };
        let mut replies = Vec::new();
        for slot in self.half_open.slots_where(|half| half.listener == id) {
            if let Some(record) = self.half_open.remove(slot) {
                self.table.remove(&record.tuple);
                replies.push(record.value.abort(&self.config, &record.tuple));
            }
        }
        self.counters.resets += replies.len() as u64;
        replies
    }

    fn forget_half_open(&mut self, slot: Slot) {
        let Some(record) = self.half_open.remove(slot) else { return };
        if let Some(listener) = self.listeners.get_mut(record.value.listener) {
            listener.half_open -= 1;
        }
    }
}

impl<C: Clone, L: Clone + AcceptQueue> Stack<C, L> {
    /// Finds what a segment belongs to, and acts for what is not a connection.
    pub fn on_segment(&mut self, now: Instant, tuple: &FourTuple, seg: &Segment<'_>) -> Disposition<C, L> {
        self.dispatch(now, tuple, seg, &mut |_, listener| listener)
    }

    /// As [`on_segment`](Self::on_segment); handshakes with a peer go by the MTU that `mtu_of` tells for it,
    /// in bytes of IP packet, instead of [`ListenConfig::mtu`]: the MSS that is announced, and the
    /// [`Path`](crate::Path) of the connection.
    ///
    /// It is asked once for a SYN that is answered, unless that came before, and once for a cookie that comes
    /// back. It may be asked for any address of which somebody sends a SYN, and must be quick.
    pub fn on_segment_with_mtu(
        &mut self,
        now: Instant,
        tuple: &FourTuple,
        seg: &Segment<'_>,
        mut mtu_of: impl FnMut(&FourTuple) -> u32,
    ) -> Disposition<C, L> {
        self.dispatch(now, tuple, seg, &mut |tuple, _| mtu_of(tuple))
    }

    fn dispatch(
        &mut self,
        now: Instant,
        tuple: &FourTuple,
        seg: &Segment<'_>,
        mtu_of: &mut MtuOf<'_>,
    ) -> Disposition<C, L> {
        let result = match self.table.get(tuple) {
            Some(Entry::Conn(c)) => return Disposition::Connection(c.clone()),
            Some(&Entry::Half(slot)) => self.in_syn_received(now, tuple, slot, seg, mtu_of),
            Some(&Entry::TimeWait(slot)) => self.in_time_wait(now, tuple, slot, seg, mtu_of),
            None => match self.listeners.find(&tuple.local) {
                Some(id) => self.in_listen(now, tuple, id, seg, mtu_of),
                None => Ok(Disposition::Unclaimed),
            },
        };
        result.unwrap_or_else(|reason| {
            self.count(reason);
            Disposition::Drop(reason)
        })
    }

    /// Listens on an address, wildcard or not. A listener that is already there is replaced.
    ///
    /// For one segment the most specific listener counts: the address itself, then the wildcard of its
    /// family, then for IPv4 a `[::]` that is not `v6only`.
    pub fn listen(&mut self, local: SocketAddr, handle: L, config: ListenConfig) {
        self.unlisten(local);
        self.listeners.insert(local, handle, config);
    }

    /// The connection with this tuple.
    pub fn get(&self, tuple: &FourTuple) -> Option<C> {
        match self.table.get(tuple) {
            Some(Entry::Conn(c)) => Some(c.clone()),
            _ => None,
        }
    }

    /// Which connection an ICMP error is for. Half-open and TIME-WAIT records ignore them: the SYN-ACK
    /// timer decides about the first (RFC 5461 §2.2), and nothing is in flight in the second.
    pub fn on_icmp(&mut self, _now: Instant, error: &IcmpError) -> Option<C> {
        let connection = self.get(&error.tuple);
        if connection.is_none() {
            self.count(DropReason::IcmpIgnored);
        }
        connection
    }
}

/// Whether a segment has a place in the receive window (RFC 9293 §3.10.7.4, first; table 6).
fn acceptable(rcv_nxt: SeqNum, rcv_wnd: u32, seq: SeqNum, len: u32) -> bool {
    let within = |n: SeqNum| n.0.wrapping_sub(rcv_nxt.0) < rcv_wnd;
    match (len, rcv_wnd) {
        (0, 0) => seq == rcv_nxt,
        (0, _) => within(seq),
        (_, 0) => false,
        (len, _) => within(seq) || within(seq.add(len - 1)),
    }
}

/// <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>, with the timestamps of a connection that has them.
fn ack_header(tuple: &FourTuple, seq: SeqNum, ack: SeqNum, window: WireWindow, ts: Option<Timestamps>) -> TcpHeader {
    TcpHeader {
        src_port: tuple.local.port(),
        dst_port: tuple.remote.port(),
        seq,
        ack,
        flags: Flags::ACK,
        window,
        urgent: 0,
        options: Options { timestamps: ts, ..Options::default() },
    }
}
