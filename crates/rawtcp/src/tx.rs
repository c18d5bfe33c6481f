//! From a connection's decisions to packets on the device.
//!
//! Sending happens under the connection's lock, so that the order on the wire is the order of the
//! decisions and the I/O vectors borrow the send buffer: at most [`HOLD`] packets, of which [`RUNS`] may be
//! segmentable, before the lock is given back.

use crate::conn_cell::{ConnCell, Inner};
use crate::device::{Lane, Open};
use crate::error;
use crate::host::Host;
use crate::stats::count;
use crate::sync::Arc;
use rawtcp_io::network::Mac;
use rawtcp_io::{SendError, TxChecksum, TxPacket};
use rawtcp_proto::stack::Reply;
use rawtcp_proto::wire::checksum;
use rawtcp_proto::wire::ip::IpMeta;
use rawtcp_proto::wire::tcp::{HeaderBuf, build};
use rawtcp_proto::{CloseReason, Connection, FourTuple, Instant, SeqNum, Transmit, TxLimits};
use smallvec::SmallVec;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

/// Packets sent in one hold of a connection's lock: a raw send costs 5.5–7 µs, so this bounds the wait
/// of whoever wants the lock at about 100 µs.
pub(crate) const HOLD: usize = 16;

/// How late a turn of the driver is, after its timer: to wait for less costs more than it spaces.
const TIMER_SLACK: Duration = Duration::from_micros(50);

/// Packets that a segmentable one counts as: what it costs to send.
const WHOLE: usize = 4;

/// Segmentable packets sent in one hold, some 50 µs. One system call for all of them takes less time than one each, and finds
/// the peer's reader awake more often. A write of 256 KiB with its tail is one hold.
const RUNS: usize = 5;

/// A tail of less than this waits for what is written next, where it is held: as a packet of its own it costs as much as a large
/// one, but for the copy.
const TAIL: usize = 32 << 10;

/// I/O vectors kept on the stack. A hold of full segments from a buffer in 64 KiB chunks needs about 35.
const VECTORS: usize = 48;

/// Payload of one segmentable send: what an IP packet holds beside its headers.
const LARGEST: usize = 65_535 - HeaderBuf::CAPACITY;

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Nothing is left that may be sent now.
    All,
    /// The hold is used up with this many packets: there may be more.
    More { packets: usize },
    /// The connection waits for the device.
    Blocked,
}

/// What the device said about packets that will not arrive, beside that they are lost.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// A packet of this many bytes was larger than the MTU.
    pub(crate) too_big: bool,
    /// No route or no neighbour, for the packet with this index: a soft error.
    unreachable: Option<(usize, CloseReason)>,
    /// The same, with the sequence number of the segment.
    pub(crate) soft: Option<(SeqNum, CloseReason)>,
}

/// The scope id of a destination, which only link-local addresses have.
pub(crate) fn scope(remote: &SocketAddr) -> u32 {
    match remote {
        SocketAddr::V6(addr) => addr.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// Sends what the connection wants to send, at most one hold. `lent` is what is lent to it, if the caller has it.
pub(crate) fn transmit(
    host: &Host,
    cell: &Arc<ConnCell>,
    inner: &mut Inner,
    now: Instant,
    lent: &[u8],
    trouble: &mut Trouble,
) -> Sent {
    if inner.blocked {
        return Sent::Blocked;
    }
    if lent.is_empty() && inner.conn.has_lent() {
        // Whoever has it will be back in a moment, and sends then.
        return Sent::All;
    }
    if let Some(mtu) = host.devices.renew(&mut inner.lane, cell.tuple())
        && mtu < inner.conn.path_mtu()
    {
        inner.conn.on_path_mtu(now, mtu);
    }
    let turn = std::mem::take(&mut inner.turn);
    if inner.conn.is_quiet(now) {
        return Sent::All;
    }
    transmit_now(host, cell, inner, (now, turn), lent, trouble)
}

/// The same where something may be to be sent. A function of its own, so that whoever has nothing does not pay for its arrays.
#[inline(never)]
fn transmit_now(
    host: &Host,
    cell: &Arc<ConnCell>,
    inner: &mut Inner,
    (now, turn): (Instant, bool),
    lent: &[u8],
    trouble: &mut Trouble,
) -> Sent {
    let (at, link) = inner.lane.choose(now);
    let open = host.devices.get(at);
    if open.queue.is_busy() && open.queue.join(cell, turn) {
        inner.blocked = true;
        return Sent::Blocked;
    }
    let device = open.io.capabilities();
    let segmentable = (device.max_segmentable as usize).min(LARGEST);
    let tail = if inner.tail_waits { TAIL } else { 0 };
    let limits = TxLimits { max_payload: segmentable, timer_slack: TIMER_SLACK, tail };

    let mut decided = SmallVec::<[Transmit; HOLD]>::new();
    let (mut runs, mut all) = (0, false);
    while !all && decided.len() < HOLD && runs < RUNS {
        let Some(transmit) = inner.conn.poll_transmit(now, &limits) else {
            all = true;
            break;
        };
        runs += usize::from(transmit.segment_size != 0);
        decided.push(transmit);
        all = inner.conn.is_quiet(now);
    }
    if decided.is_empty() {
        return Sent::All;
    }
    inner.blocked = send_all(&By { host, open, link }, cell, (&inner.conn, lent), &decided, trouble);
    match inner.blocked {
        true => Sent::Blocked,
        false if all => Sent::All,
        false if runs > 0 => Sent::More { packets: runs * WHOLE },
        false if decided.len() == HOLD => Sent::More { packets: HOLD },
        false => Sent::All,
    }
}

/// By what packets leave, and to whom.
struct By<'a> {
    host: &'a Host,
    open: &'a Open,
    link: Option<Mac>,
}

/// Builds the packets of these decisions and hands them to the device. Says whether the device is full.
fn send_all(
    by: &By<'_>,
    cell: &Arc<ConnCell>,
    (conn, lent): (&Connection, &[u8]),
    decided: &[Transmit],
    trouble: &mut Trouble,
) -> bool {
    let offload = by.open.io.capabilities().tx_checksum;
    let tuple = conn.tuple();
    let mut headers = SmallVec::<[HeaderBuf; HOLD]>::new();
    for transmit in decided {
        let ip = IpMeta {
            src: tuple.local.ip(),
            dst: tuple.remote.ip(),
            ttl: transmit.ttl,
            traffic_class: transmit.traffic_class,
            id: transmit.ip_id,
            flow_label: 0,
        };
        let sum = if offload { None } else { Some(sum(conn.payload_with(transmit, lent))) };
        headers.push(HeaderBuf::new());
        let Some(buf) = headers.last_mut() else { continue };
        build(buf, &ip, &transmit.header, transmit.payload_len(), sum);
    }
    let mut vectors = SmallVec::<[IoSlice<'_>; VECTORS]>::new();
    let mut bounds = [0; HOLD + 1];
    for (i, (buf, transmit)) in headers.iter().zip(decided).enumerate() {
        vectors.push(IoSlice::new(buf.as_slice()));
        vectors.extend(conn.payload_with(transmit, lent).map(IoSlice::new));
        bounds[i + 1] = vectors.len();
    }
    let mut packets = SmallVec::<[TxPacket<'_>; HOLD]>::new();
    for (i, (transmit, header)) in decided.iter().zip(&headers).enumerate() {
        packets.push(TxPacket {
            dst: tuple.remote.ip(),
            scope: scope(&tuple.remote),
            link: by.link,
            slices: &vectors[bounds[i]..bounds[i + 1]],
            segment_size: transmit.segment_size,
            checksum: if offload { partial(header) } else { TxChecksum::Complete },
        });
    }
    let left = send(by, &packets, trouble);
    if let Some((at, reason)) = trouble.unreachable.take() {
        trouble.soft = Some((decided[at].header.seq, reason));
    }
    if left.is_empty() {
        return false;
    }
    by.open.queue.keep(left, cell);
    by.host.kick_for(by.open);
    true
}

fn partial(header: &HeaderBuf) -> TxChecksum {
    TxChecksum::Partial { start: header.tcp_start() as u16, offset: HeaderBuf::checksum_offset() as u16 }
}

/// The checksum of a payload in pieces, of which some may have an odd length.
fn sum<'a>(payload: impl Iterator<Item = &'a [u8]>) -> u32 {
    let (mut total, mut odd) = (0, false);
    for slice in payload {
        total = checksum::combine(total, checksum::sum(slice), odd);
        odd ^= slice.len() % 2 == 1;
    }
    total
}

/// Sends packets; returns those for which the device had no room. What cannot be sent for another
/// reason counts as lost on the path.
fn send<'p, 'a>(by: &By<'_>, packets: &'p [TxPacket<'a>], trouble: &mut Trouble) -> &'p [TxPacket<'a>] {
    let By { host, open, .. } = *by;
    let mut left = packets;
    while !left.is_empty() {
        let (sent, error) = open.io.send(left);
        count(&host.counters.packets_sent, sent);
        left = &left[sent..];
        match error {
            None => break,
            Some(SendError::WouldBlock) => return left,
            Some(SendError::TooBig) => trouble.too_big = true,
            Some(SendError::Unreachable(error)) => {
                let net = error.raw_os_error() == Some(error::ENETUNREACH);
                let reason = if net { CloseReason::NetUnreachable } else { CloseReason::HostUnreachable };
                trouble.unreachable = Some((packets.len() - left.len(), reason));
            }
            Some(SendError::Lost(_)) => {}
            Some(SendError::Other(error)) => host.warn_once_unknown(open.io.name(), &error),
        }
        count(&host.counters.packets_lost, 1);
        left = left.get(1..).unwrap_or_default();
    }
    &[]
}

/// Sends answers that belong to no connection: each by the lane that `lane` knows for its peer, or else as the kernel does.
pub(crate) fn send_replies(host: &Host, replies: &[Reply], lane: impl Fn(&FourTuple) -> Option<Lane>) {
    if replies.is_empty() {
        return;
    }
    let now = host.clock.now();
    let way = |reply: &Reply| match lane(&reply.tuple) {
        Some(lane) => Ok(lane.choose(now)),
        None => host.devices.towards(reply.tuple.remote.ip()).map(|device| (device, None)),
    };
    for chunk in replies.chunks(HOLD) {
        let mut ways = [(0, None); HOLD];
        for (way_of, reply) in ways.iter_mut().zip(chunk) {
            // What can not be reached can not have asked.
            let Ok(way) = way(reply) else { return };
            *way_of = way;
        }
        let mut rest = chunk;
        for same in ways[..chunk.len()].chunk_by(|a, b| a == b) {
            let (group, others) = rest.split_at(same.len());
            let (at, link) = same[0];
            send_group(&By { host, open: host.devices.get(at), link }, group);
            rest = others;
        }
    }
}

fn send_group(by: &By<'_>, replies: &[Reply]) {
    let By { host, open, link } = *by;
    let offload = open.io.capabilities().tx_checksum;
    let mut headers = SmallVec::<[HeaderBuf; HOLD]>::new();
    for reply in replies {
        let ip = IpMeta {
            src: reply.tuple.local.ip(),
            dst: reply.tuple.remote.ip(),
            ttl: reply.ttl,
            traffic_class: reply.traffic_class,
            // With DF set an identification means nothing (RFC 6864 §4.1), but the kernel fills in 0.
            id: 0,
            flow_label: 0,
        };
        let mut buf = HeaderBuf::new();
        build(&mut buf, &ip, &reply.header, 0, (!offload).then_some(0));
        headers.push(buf);
    }
    let slices: SmallVec<[_; HOLD]> = headers.iter().map(|header| [IoSlice::new(header.as_slice())]).collect();
    let packets: SmallVec<[_; HOLD]> = replies
        .iter()
        .zip(&headers)
        .zip(&slices)
        .map(|((reply, header), slices)| TxPacket {
            dst: reply.tuple.remote.ip(),
            scope: scope(&reply.tuple.remote),
            link,
            slices,
            segment_size: 0,
            checksum: if offload { partial(header) } else { TxChecksum::Complete },
        })
        .collect();
    let packets = &packets[..];
    let left = if open.queue.is_busy() { packets } else { send(by, packets, &mut Trouble::default()) };
    if !left.is_empty() {
        open.queue.keep_replies(left, &host.counters);
        host.kick_for(open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_pieces_sum_like_the_whole() {
        let data: Vec<u8> = (0..=255).cycle().take(3001).collect();
        for cuts in [vec![1, 2, 3], vec![1001, 1002], vec![7, 1000, 1501, 2999], vec![]] {
            let mut pieces = Vec::new();
            let mut rest = &data[..];
            let mut from = 0;
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut - from);
                pieces.push(piece);
                (rest, from) = (tail, cut);
            }
            pieces.push(rest);
            let folded = checksum::finish(sum(pieces.into_iter()));
            assert_eq!(folded, checksum::finish(checksum::sum(&data)));
        }
    }
}
