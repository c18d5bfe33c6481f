//! The engine: what happens in one turn of the driver, without any runtime.
//!
//! A turn takes bounded batches from the devices and stamps `now` once for each; every segment goes to
//! its owner, and whoever was touched is settled once behind the batch. Timers, scheduled connections
//! and writable devices are other reasons to touch a connection.

use crate::alarm::Due;
use crate::conn_cell::{After, ConnCell, Inner};
use crate::device::Carries;
use crate::host::Host;
use crate::listener_cell::ListenerRef;
use crate::path_cache::PathCache;
use crate::ports::Ownership;
use crate::readiness::WakeList;
use crate::stats::count;
use crate::sync::Arc;
use crate::tx;
use rawtcp_io::diag::{self, KernelOwner};
use rawtcp_io::{Drained, RxBatch, RxChecksum, RxHeader, RxMeta};
use rawtcp_proto::stack::{Disposition, Reply};
use rawtcp_proto::wire::ip::{self, ICMP, ICMPV6, TCP};
use rawtcp_proto::wire::tcp::{self, ChecksumState, ChecksumVerdict};
use rawtcp_proto::wire::{Flags, IcmpError, IpHeader, icmp};
use rawtcp_proto::{Connection, DropReason, FourTuple, Instant, Segment};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Packets of one batch: a turn with full ones takes some 100 µs.
const BATCH: usize = 64;

/// Deadlines served in one turn.
const TIMERS: usize = 256;

/// Batches between two looks at the devices' drop counters, which cost a system call each.
const LOOK_AT_DROPS: u32 = 64;

/// The state of the driver between turns.
#[derive(Debug)]
pub(crate) struct Engine {
    host: Arc<Host>,
    /// Taken out while it is worked through.
    batch: Option<RxBatch>,
    touched: Vec<Arc<ConnCell>>,
    replies: Vec<Reply>,
    /// Connections whose handshake is complete: they are queued for `accept` last.
    accepted: Vec<(ListenerRef, Arc<ConnCell>)>,
    /// Shards that were looked into: their timers may have changed. One bit each.
    shards: u64,
    wake: WakeList,
    due: Vec<Due>,
    paths: PathCache,
    batches: u32,
    /// Packets received, ever: a sign of life for whoever drains.
    pub(crate) received: u64,
}

impl Engine {
    pub(crate) fn new(host: Arc<Host>) -> Self {
        Engine {
            host,
            batch: Some(RxBatch::new(BATCH)),
            touched: Vec::new(),
            replies: Vec::new(),
            accepted: Vec::new(),
            shards: 0,
            wake: WakeList::default(),
            due: Vec::new(),
            paths: PathCache::default(),
            batches: 0,
            received: 0,
        }
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Takes one batch from a device and works it through. `Maybe`: call again without waiting.
    pub(crate) fn receive(&mut self, at: usize) -> io::Result<Drained> {
        let Some(mut batch) = self.batch.take() else { return Ok(Drained::Yes) };
        let host = self.host.clone();
        let open = host.devices.get(at);
        let result = open.io.recv(&mut batch);
        if !batch.is_empty() {
            let now = host.clock.now();
            self.received += batch.len() as u64;
            count(&host.counters.packets_received, batch.len());
            for i in 0..batch.len() {
                let outcome = match open.carries {
                    Carries::Tcp => self.on_packet(now, &batch, i),
                    Carries::IcmpV4 | Carries::IcmpV6 => self.on_icmp(now, &batch, i),
                };
                if let Err(reason) = outcome {
                    host.counters.dropped(reason);
                }
            }
            self.batches = self.batches.wrapping_add(1);
            if self.batches.is_multiple_of(LOOK_AT_DROPS) {
                host.warn_of_drops();
            }
            self.finish(now);
        }
        self.batch = Some(batch);
        result
    }

    fn on_packet(&mut self, now: Instant, batch: &RxBatch, i: usize) -> Result<(), DropReason> {
        let (meta, data) = batch.packet(i);
        let (ip, transport) = ip_layer(meta, data)?;
        if ip.protocol != TCP {
            return Err(DropReason::Protocol);
        }
        // RFC 9293 §3.9.2.3 [MUST-57]: a unicast address that the interface has as broadcast.
        if meta.to_other {
            return Err(DropReason::Address);
        }
        if !self.host.devices.may_own(ip.dst) {
            return Err(DropReason::NotOurs);
        }
        let state = match meta.checksum {
            RxChecksum::Unknown => ChecksumState::Unknown,
            RxChecksum::Valid => ChecksumState::Valid,
            RxChecksum::Partial => ChecksumState::Partial,
        };
        let (header, payload, verdict) = tcp::parse(&ip, transport, state, true)?;
        if verdict == ChecksumVerdict::PseudoOnly {
            count(&self.host.counters.pseudo_checksums, 1);
        }
        let local = endpoint(ip.dst, header.dst_port, meta.ifindex);
        let remote = endpoint(ip.src, header.src_port, meta.ifindex);
        let tuple = FourTuple::new(local, remote);
        let segment = Segment { header, payload, owner: batch.owner(i), ecn: ip.ecn(), gro_size: meta.segment_size };
        self.on_segment(now, &tuple, &segment)
    }

    fn on_segment(&mut self, now: Instant, tuple: &FourTuple, segment: &Segment<'_>) -> Result<(), DropReason> {
        let host = self.host.clone();
        let at = host.shard_of(tuple);
        let mut shard = host.shard(at);
        match shard.on_segment(now, tuple, segment) {
            Disposition::Connection(cell) => {
                drop(shard);
                return self.deliver(&cell, |inner| inner.conn.on_segment(now, segment));
            }
            Disposition::Accept { listener, connection } => {
                // The entry is replaced before the shard's lock is given back, and no cell is locked
                // meanwhile: nobody else can know this one.
                let cell = self.new_connection(tuple, &listener, *connection)?;
                shard.insert(*tuple, cell.clone());
                drop(shard);
                host.ports.retain(tuple.local);
                count(&host.counters.accepts, 1);
                let outcome = self.deliver(&cell, |inner| inner.conn.on_segment(now, segment));
                self.accepted.push((listener, cell));
                self.shards |= 1 << at;
                return outcome;
            }
            Disposition::Reply(reply) => self.reply(now, reply),
            // Counted by the shard.
            Disposition::Done | Disposition::Drop(_) => {}
            Disposition::Unclaimed => {
                drop(shard);
                return self.on_unclaimed(now, tuple, segment);
            }
        }
        self.shards |= 1 << at;
        Ok(())
    }

    fn new_connection(
        &mut self,
        tuple: &FourTuple,
        listener: &ListenerRef,
        mut conn: Connection,
    ) -> Result<Arc<ConnCell>, DropReason> {
        let host = self.host.clone();
        let device = host.devices.towards(tuple.remote.ip()).map_err(|_| DropReason::NotOurs)?;
        let granted = host.budget.grant(conn.config().recv_buffer);
        conn.set_recv_buffer(granted);
        conn.set_ttl(listener.0.ttl());
        let now = host.clock.now();
        conn.on_path_mtu(now, self.paths.mtu(&host, now, tuple));
        Ok(ConnCell::new(&host, conn, device, granted))
    }

    /// Nothing of ours fits. A reset is due if the port is ours, and nobody else's.
    fn on_unclaimed(&mut self, now: Instant, tuple: &FourTuple, segment: &Segment<'_>) -> Result<(), DropReason> {
        match self.host.ports.ownership(tuple.local) {
            Ownership::NotOurs if self.host.devices.are_virtual() => {
                // Where no kernel has the address, nobody else could answer. The switch sends back what
                // is for a port that no stack has.
            }
            Ownership::NotOurs => return Err(DropReason::NotOurs),
            Ownership::Ours => {}
            // A reset of ours would kill a connection of the kernel's. When in doubt: silence.
            Ownership::Shared => match diag::owner(tuple.local, tuple.remote) {
                Ok(KernelOwner::Nobody) => {}
                Ok(KernelOwner::Connection) | Err(_) => return Err(DropReason::SharedPort),
            },
        }
        let host = self.host.clone();
        // Refusals are counted by the shard.
        if let Ok(reply) = host.shard(host.shard_of(tuple)).reset_for(now, tuple, segment) {
            self.replies.push(reply);
        }
        Ok(())
    }

    /// Queues an answer of the table's. A SYN-ACK announces what this peer's path carries: the table
    /// knows only the device.
    fn reply(&mut self, now: Instant, mut reply: Reply) {
        if reply.header.flags.contains(Flags::SYN)
            && let Some(mss) = reply.header.options.mss
        {
            let headers = if reply.tuple.is_v6() { 60 } else { 40 };
            let carried = self.paths.mtu(&self.host, now, &reply.tuple).saturating_sub(headers);
            reply.header.options.mss = Some(mss.min(u16::try_from(carried).unwrap_or(u16::MAX)));
        }
        self.replies.push(reply);
    }

    fn on_icmp(&mut self, now: Instant, batch: &RxBatch, i: usize) -> Result<(), DropReason> {
        let (meta, data) = batch.packet(i);
        let (ip, message) = ip_layer(meta, data)?;
        let mut error: IcmpError = match ip.protocol {
            ICMP => icmp::parse_v4(&ip, message)?,
            // The kernel has verified the checksum.
            ICMPV6 => icmp::parse_v6(&ip, message, false)?,
            _ => return Err(DropReason::Protocol),
        };
        let with_scope = |addr: SocketAddr| endpoint(addr.ip(), addr.port(), meta.ifindex);
        error.tuple = FourTuple::new(with_scope(error.tuple.local), with_scope(error.tuple.remote));
        let host = self.host.clone();
        let found = host.shard(host.shard_of(&error.tuple)).on_icmp(now, &error);
        // Counted by the shard.
        let Some(cell) = found else { return Ok(()) };
        self.deliver(&cell, |inner| inner.conn.on_icmp(now, &error))
    }

    /// Acts on a connection, which will be settled behind the batch. A panic ends this connection only.
    fn deliver<R>(
        &mut self,
        cell: &Arc<ConnCell>,
        act: impl FnOnce(&mut Inner) -> Result<R, DropReason>,
    ) -> Result<R, DropReason> {
        let acted = catch_unwind(AssertUnwindSafe(|| {
            let mut inner = cell.lock();
            let result = act(&mut inner);
            (result, std::mem::replace(&mut inner.touched, true))
        }));
        match acted {
            Ok((result, touched)) => {
                if !touched {
                    self.touched.push(cell.clone());
                }
                result
            }
            Err(_) => {
                // The lock is poisoned now: whoever takes it resets the connection.
                self.touched.push(cell.clone());
                Err(DropReason::Closed)
            }
        }
    }

    /// Serves the deadlines that have come, a bounded number. Says whether there are more.
    pub(crate) fn timers(&mut self) -> bool {
        let now = self.host.clock.now();
        let mut due = std::mem::take(&mut self.due);
        self.host.alarm.pop_due(now, TIMERS, &mut due);
        let more = due.len() == TIMERS;
        if !due.is_empty() {
            for due in due.drain(..) {
                match due {
                    Due::Connection(cell) => {
                        let _ = self.deliver(&cell, |inner| {
                            ConnCell::on_alarm(inner, now);
                            Ok(())
                        });
                    }
                    Due::Shard(at) => self.shard_timers(now, at),
                }
            }
            self.finish(now);
        }
        self.due = due;
        more
    }

    fn shard_timers(&mut self, now: Instant, at: usize) {
        let host = self.host.clone();
        let (mut replies, mut freed) = (Vec::new(), Vec::new());
        host.shard(at).on_timeout(now, &mut |reply| replies.push(reply), &mut |tuple| freed.push(tuple));
        for reply in replies {
            self.reply(now, reply);
        }
        for tuple in freed {
            host.ports.release(&host.devices, tuple.local);
        }
        self.shards |= 1 << at;
    }

    /// Goes on with connections that have more to send than one hold. Says whether there were any.
    pub(crate) fn scheduled(&mut self) -> bool {
        let cells = self.host.take_scheduled();
        let any = !cells.is_empty();
        for cell in cells {
            let _ = self.deliver(&cell, |inner| {
                inner.scheduled = false;
                Ok(())
            });
        }
        if any {
            self.finish(self.host.clock.now());
        }
        any
    }

    /// Sends what a device has queued, and serves the connections that waited for it, each in turn.
    /// `false`: the device is full.
    pub(crate) fn flush(&mut self, at: usize) -> bool {
        let host = self.host.clone();
        let open = host.devices.get(at);
        let Some(waited) = open.queue.flush(&*open.io, &host.counters) else { return false };
        for cell in &waited {
            let _ = self.deliver(cell, |inner| {
                inner.blocked = false;
                Ok(())
            });
        }
        if !waited.is_empty() {
            self.finish(host.clock.now());
        }
        true
    }

    /// Behind a batch: answers leave, touched connections transmit, timers are armed, connections are
    /// queued for `accept`, and whoever waits is woken.
    fn finish(&mut self, now: Instant) {
        let host = self.host.clone();
        tx::send_replies(&host, &self.replies);
        self.replies.clear();
        let mut touched = std::mem::take(&mut self.touched);
        for cell in touched.drain(..) {
            let settled = catch_unwind(AssertUnwindSafe(|| {
                let mut after = After::default();
                let mut inner = cell.lock();
                inner.touched = false;
                cell.settle(&mut inner, now, &mut after);
                drop(inner);
                after
            }));
            match settled {
                Ok(after) => cell.finish(after),
                // Poisoned: the next one to lock it resets it. Have that be soon.
                Err(_) => host.schedule(cell),
            }
        }
        self.touched = touched;
        // Last, so that whoever accepts finds the connection as it is behind the batch.
        for (listener, cell) in std::mem::take(&mut self.accepted) {
            if let Err(cell) = listener.0.push(cell, &mut self.wake) {
                // The listener was dropped meanwhile.
                cell.with(|inner, now| inner.conn.abort(now));
            }
        }
        while self.shards != 0 {
            let at = self.shards.trailing_zeros() as usize;
            self.shards &= self.shards - 1;
            let deadline = host.shard(at).poll_timeout();
            // The driver looks at the alarm before it sleeps: no kick.
            let _ = host.arm_shard(at, deadline);
        }
        self.wake.wake_all();
    }
}

/// The IP header, and the bytes behind it.
fn ip_layer<'a>(meta: &RxMeta, data: &'a [u8]) -> Result<(IpHeader, &'a [u8]), DropReason> {
    match meta.header {
        RxHeader::Ip => ip::parse(data),
        RxHeader::Stripped { src, dst, next_header, hop_limit, traffic_class } => {
            let header = IpHeader {
                src: IpAddr::V6(src),
                dst: IpAddr::V6(dst),
                protocol: next_header,
                ttl: hop_limit,
                traffic_class,
            };
            Ok((header, data))
        }
    }
}

/// One end of a connection; the interface counts for link-local addresses only, which `FourTuple` sees to.
fn endpoint(ip: IpAddr, port: u16, ifindex: u32) -> SocketAddr {
    match ip {
        IpAddr::V4(ip) => (ip, port).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, ifindex).into(),
    }
}
