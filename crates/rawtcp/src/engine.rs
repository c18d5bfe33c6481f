//! The engine: what happens in one turn of a driver, without any runtime.
//!
//! A turn takes bounded batches from the devices and stamps `now` once for each; every segment goes to
//! its owner, and whoever was touched is settled once behind the batch. Timers, scheduled connections
//! and writable devices are other reasons to touch a connection.

use crate::alarm::Due;
use crate::conn_cell::{After, ConnCell, Inner};
use crate::device::{Carries, Lane};
use crate::host::Host;
use crate::listener_cell::ListenerRef;
use crate::path_cache::PathCache;
use crate::ports::Ownership;
use crate::readiness::WakeList;
use crate::stats::count;
use crate::sync::Arc;
use crate::tx;
use crate::tx_queue::Next;
use rawtcp_io::diag::{self, KernelOwner};
use rawtcp_io::network::{LocalAddresses, Network};
use rawtcp_io::{Drained, RxBatch, RxChecksum, RxHeader, RxMeta};
use rawtcp_proto::stack::{Disposition, Reply};
use rawtcp_proto::wire::ip::{self, ICMP, ICMPV6, TCP};
use rawtcp_proto::wire::tcp::{self, ChecksumState, ChecksumVerdict};
use rawtcp_proto::wire::{Flags, IcmpError, IpHeader, icmp};
use rawtcp_proto::{Connection, DropReason, FourTuple, Instant, Segment};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Packets of one batch: a turn with full ones takes some 100 µs.
const BATCH: usize = 64;

/// Deadlines served in one turn: most make one packet leave.
const TIMERS: usize = 64;

/// Connections served in one turn which have a whole hold to send: together some 700 µs.
const HOLDS: usize = 8;

/// Questions to the kernel a second, of 14 µs each, about strangers' segments on ports that it has too.
const QUESTIONS: u32 = 1000;

/// Batches between two looks at the devices' drop counters, which cost a system call each.
const LOOK_AT_DROPS: u32 = 64;

/// The state of a driver between turns.
#[derive(Debug)]
pub(crate) struct Engine {
    host: Arc<Host>,
    /// Whose it is.
    driver: usize,
    /// Taken out while it is worked through.
    batch: Option<RxBatch>,
    touched: Vec<Arc<ConnCell>>,
    /// Connections that were touched and settled, ever, by a batch or whatever else.
    served: usize,
    replies: Vec<Reply>,
    /// Connections whose handshake is complete: they are queued for `accept` last.
    accepted: Vec<(ListenerRef, Arc<ConnCell>)>,
    /// Addresses of ours that became busy.
    busy: Vec<SocketAddr>,
    /// Shards that were looked into: their timers may have changed. One bit each.
    shards: u64,
    wake: WakeList,
    due: Vec<Due>,
    paths: PathCache,
    /// This host's addresses, where a device sees packets to others, and the state of the routes they are of.
    local: (Option<Arc<LocalAddresses>>, u32),
    /// The one that the last packet was to.
    last_local: Option<IpAddr>,
    /// The connection that took the last segment: often it takes the next one, too. One that has ended meanwhile, by another
    /// thread's doing, stays here until there is another, without its buffers.
    last: Option<Arc<ConnCell>>,
    batches: u32,
    /// Questions to the kernel since then.
    asked: (u32, Instant),
    /// Bytes received, ever.
    pub(crate) received_bytes: u64,
    /// The last look at the clock.
    pub(crate) now: Instant,
}

impl Engine {
    pub(crate) fn new(host: Arc<Host>, driver: usize) -> Self {
        Engine {
            local: (host.devices.local(), host.devices.generation()),
            last_local: None,
            last: None,
            host,
            driver,
            batch: Some(RxBatch::new(BATCH)),
            touched: Vec::new(),
            served: 0,
            replies: Vec::new(),
            accepted: Vec::new(),
            busy: Vec::new(),
            shards: 0,
            wake: WakeList::default(),
            due: Vec::new(),
            paths: PathCache::new(driver),
            batches: 0,
            asked: (0, Instant::ZERO),
            received_bytes: 0,
            now: Instant::ZERO,
        }
    }

    /// Looks at the clock.
    fn stamp(&mut self) -> Instant {
        self.now = self.host.clock.now();
        self.now
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
            self.renew();
            let now = self.stamp();
            self.received_bytes += batch.iter().map(|(_, packet)| packet.len() as u64).sum::<u64>();
            host.posts[self.driver].take_note(batch.len());
            for i in 0..batch.len() {
                let outcome = match open.carries {
                    Carries::Tcp | Carries::Ip => self.on_packet(&host, now, &batch, i, at),
                    Carries::IcmpV4 | Carries::IcmpV6 => self.on_icmp(&host, now, &batch, i, false),
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

    /// Takes one batch from a device outside of a turn. Says how many connections it was for.
    pub(crate) fn catch_up(&mut self, at: usize) -> usize {
        let before = self.served;
        if let Err(error) = self.receive(at) {
            self.host.warn_once_unknown("receive", &error);
        }
        self.served.wrapping_sub(before)
    }

    /// Learns what changed in the network around us.
    fn renew(&mut self) {
        let generation = self.host.devices.generation();
        if self.local.1 != generation {
            self.local = (self.host.devices.local(), generation);
            self.last_local = None;
            self.host.ports.renew_spared(&self.host.devices);
            self.paths = PathCache::new(self.driver);
        }
    }

    /// There is news of the network around us.
    pub(crate) fn on_news(&mut self) {
        if let Some(Err(error)) = self.host.devices.network().map(Network::update) {
            self.host.warn_once_unknown("netlink", &error);
        }
        self.renew();
    }

    fn on_packet(
        &mut self,
        host: &Arc<Host>,
        now: Instant,
        batch: &RxBatch,
        i: usize,
        at: usize,
    ) -> Result<(), DropReason> {
        let (meta, data) = batch.packet(i);
        let (ip, transport) = ip_layer(meta, data)?;
        let is_whole = host.devices.get(at).carries == Carries::Ip;
        if ip.protocol != TCP && !is_whole {
            return Err(DropReason::Protocol);
        }
        // RFC 9293 §3.9.2.3 [MUST-57]: a unicast address that the interface has as broadcast.
        if meta.to_other {
            return Err(DropReason::Address);
        }
        if !host.devices.may_own(at, ip.dst) {
            return Err(DropReason::NotOurs);
        }
        if host.devices.is_inside(at, ip.src) {
            return Err(DropReason::Address);
        }
        if ip.protocol != TCP {
            return self.on_icmp(host, now, batch, i, true);
        }
        if host.devices.get(at).sees_others && !self.is_local(ip.dst) {
            return Err(DropReason::NotOurs);
        }
        let state = match meta.checksum {
            RxChecksum::Unknown | RxChecksum::Unverified => ChecksumState::Unknown,
            RxChecksum::Valid => ChecksumState::Valid,
            RxChecksum::Partial => ChecksumState::Partial,
        };
        let (header, payload, verdict) = tcp::parse(&ip, transport, state, meta.checksum == RxChecksum::Unknown)?;
        if verdict == ChecksumVerdict::PseudoOnly {
            count(&host.counters.pseudo_checksums, 1);
        }
        let local = endpoint(ip.dst, header.dst_port, meta.ifindex);
        let remote = endpoint(ip.src, header.src_port, meta.ifindex);
        let tuple = FourTuple::new(local, remote);
        let segment = Segment { header, payload, owner: batch.owner(i), ecn: ip.ecn(), gro_size: meta.segment_size };
        self.on_segment(host, now, &tuple, &segment, at)
    }

    /// Whether this host has the address.
    fn is_local(&mut self, ip: IpAddr) -> bool {
        if self.last_local == Some(ip) {
            return true;
        }
        let is_local = self.local.0.as_ref().is_some_and(|local| local.contains(ip));
        if is_local {
            self.last_local = Some(ip);
        }
        is_local
    }

    fn on_segment(
        &mut self,
        host: &Arc<Host>,
        now: Instant,
        tuple: &FourTuple,
        segment: &Segment<'_>,
        device: usize,
    ) -> Result<(), DropReason> {
        if let Some(cell) = self.last.take_if(|cell| cell.tuple() == tuple)
            && let Some(outcome) = self.give(now, cell, segment, device)
        {
            return outcome;
        }
        let at = host.shard_of(tuple);
        if segment.header.flags.contains(Flags::SYN) && !segment.header.flags.contains(Flags::ACK) {
            // The table will want to know: the system call that it takes comes before the lock.
            self.paths.mtu(host, now, tuple);
        }
        let paths = &mut self.paths;
        let mut shard = host.shard(at);
        match shard.on_segment_with_mtu(now, tuple, segment, |tuple| paths.mtu(host, now, tuple)) {
            Disposition::Connection(cell) => {
                drop(shard);
                return match self.give(now, cell, segment, device) {
                    Some(outcome) => outcome,
                    None => self.on_segment(host, now, tuple, segment, device),
                };
            }
            Disposition::Accept { listener, connection } => {
                // The entry is replaced before the shard's lock is given back, and no cell is locked
                // meanwhile: nobody else can know this one.
                let lane = match paths.lane(tuple) {
                    Some(lane) => lane,
                    // Routes have changed since the SYN, say.
                    None => host.devices.lane_not_asked_for(tuple.remote.ip()).map_err(|_| DropReason::NotOurs)?,
                };
                let cell = new_connection(host, device, lane, &listener, *connection);
                shard.insert(*tuple, cell.clone());
                // The next handshake of this batch finds the queue that much fuller.
                listener.0.reserve();
                drop(shard);
                self.shards |= 1 << at;
                if !host.ports.retain(tuple.local) {
                    // The listener was dropped meanwhile, and with it the port.
                    listener.0.unreserve();
                    return self.deliver(&cell, |inner| {
                        inner.holds_port = false;
                        inner.conn.abort(now);
                        Ok(())
                    });
                }
                count(&host.counters.accepts, 1);
                let outcome = self.deliver(&cell, |inner| inner.conn.on_segment(now, segment));
                self.accepted.push((listener, cell));
                return outcome;
            }
            Disposition::Reply(reply) => self.replies.push(reply),
            // Counted by the shard.
            Disposition::Done | Disposition::Drop(_) => {}
            Disposition::Unclaimed => {
                drop(shard);
                return self.on_unclaimed(host, now, tuple, segment, device);
            }
        }
        self.shards |= 1 << at;
        Ok(())
    }

    /// Gives a connection its segment. `None`: it has ended, by this or earlier or on another thread, and is out of the
    /// table now. The peer may know: a SYN that were dropped here would come again after a second only.
    fn give(
        &mut self,
        now: Instant,
        cell: Arc<ConnCell>,
        segment: &Segment<'_>,
        device: usize,
    ) -> Option<Result<(), DropReason>> {
        let outcome = self.deliver(&cell, |inner| {
            cell.comes_by(inner, device);
            inner.conn.on_segment(now, segment)
        });
        if matches!(outcome, Err(DropReason::Closed)) && cell.retire(now) {
            return None;
        }
        self.last = Some(cell);
        Some(outcome)
    }

    /// Nothing of ours fits. A reset is due if the port is ours, and nobody else's.
    fn on_unclaimed(
        &mut self,
        host: &Host,
        now: Instant,
        tuple: &FourTuple,
        segment: &Segment<'_>,
        device: usize,
    ) -> Result<(), DropReason> {
        match host.ports.ownership(tuple.local) {
            Ownership::NotOurs if host.devices.own_addresses() => {
                // Where no kernel has the address, nobody else could answer. The switch sends back what
                // is for a port that no stack has.
            }
            Ownership::NotOurs => return Err(DropReason::NotOurs),
            // RFC 9293 §3.10.7.1 wants a reset. But a device that sees frames sees them before the kernel translates
            // addresses, and that takes ports without asking sockets: it may be another host's connection.
            Ownership::Ours { listens: false } if host.devices.get(device).sees_others && host.devices.forwards() => {
                return Err(DropReason::SharedPort);
            }
            Ownership::Ours { .. } => {}
            // A reset of ours would kill a connection of the kernel's. When in doubt: silence.
            // A reset is never answered, and so not worth the question.
            Ownership::Shared if segment.header.flags.contains(Flags::RST) => return Err(DropReason::SharedPort),
            Ownership::Shared if !host.devices.is_here() => return Err(DropReason::SharedPort),
            Ownership::Shared if !self.may_ask(now) => return Err(DropReason::RateLimited),
            Ownership::Shared => match diag::owner(tuple.local, tuple.remote) {
                Ok(KernelOwner::Nobody) => {}
                Ok(KernelOwner::Connection) | Err(_) => return Err(DropReason::SharedPort),
            },
        }
        // Refusals are counted by the shard.
        if let Ok(reply) = host.shard(host.shard_of(tuple)).reset_for(now, tuple, segment) {
            self.replies.push(reply);
        }
        Ok(())
    }

    /// Whether one more question to the kernel is within the limit.
    fn may_ask(&mut self, now: Instant) -> bool {
        let (asked, since) = &mut self.asked;
        if now.since(*since) >= Duration::from_secs(1) {
            (*asked, *since) = (0, now);
        }
        *asked += 1;
        *asked <= QUESTIONS.div_ceil(self.host.posts.len() as u32)
    }

    /// Takes an ICMP error. For a raw ICMPv6 socket the kernel has verified the checksum.
    fn on_icmp(
        &mut self,
        host: &Host,
        now: Instant,
        batch: &RxBatch,
        i: usize,
        verify_v6: bool,
    ) -> Result<(), DropReason> {
        let (meta, data) = batch.packet(i);
        let (ip, message) = ip_layer(meta, data)?;
        let mut error: IcmpError = match ip.protocol {
            ICMP => icmp::parse_v4(&ip, message)?,
            ICMPV6 => icmp::parse_v6(&ip, message, verify_v6)?,
            _ => return Err(DropReason::Protocol),
        };
        let with_scope = |addr: SocketAddr| endpoint(addr.ip(), addr.port(), meta.ifindex);
        error.tuple = FourTuple::new(with_scope(error.tuple.local), with_scope(error.tuple.remote));
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
        let now = self.stamp();
        let mut due = std::mem::take(&mut self.due);
        self.host.alarm.pop_due(now, TIMERS, &mut due);
        let more = due.len() == TIMERS;
        if !due.is_empty() {
            for due in due.drain(..) {
                match due {
                    Due::Connection(cell) => match cell.driver() {
                        driver if driver == self.driver => self.on_alarm(now, &cell),
                        // An acknowledgment may wait in that driver's queue.
                        driver => self.host.posts[driver].hand_over(cell),
                    },
                    Due::Shard(at) => self.shard_timers(now, at),
                    // Each looks for itself.
                    Due::Driver => self.host.kick_others(),
                }
            }
            self.finish(now);
        }
        self.due = due;
        more
    }

    /// Serves deadlines of a driver's connections that were handed over to it, a bounded number. Says whether there were any.
    pub(crate) fn due_for(&mut self, driver: usize) -> bool {
        let due = self.host.posts[driver].take_due(TIMERS);
        let now = self.stamp();
        due.iter().for_each(|cell| self.on_alarm(now, cell));
        if !due.is_empty() {
            self.finish(now);
        }
        !due.is_empty()
    }

    fn on_alarm(&mut self, now: Instant, cell: &Arc<ConnCell>) {
        let _ = self.deliver(cell, |inner| {
            ConnCell::on_alarm(inner, now);
            Ok(())
        });
    }

    fn shard_timers(&mut self, now: Instant, at: usize) {
        let host = self.host.clone();
        let replies = &mut self.replies;
        let mut freed = Vec::new();
        host.shard(at).on_timeout(now, &mut |reply| replies.push(reply), &mut |tuple| freed.push(tuple));
        for tuple in freed {
            host.ports.release(&host.devices, tuple.local);
        }
        self.shards |= 1 << at;
    }

    /// Goes on with connections that have more to send than one hold, a bounded number. Says whether there
    /// were any.
    pub(crate) fn scheduled(&mut self) -> bool {
        self.scheduled_for(self.driver)
    }

    /// The same, in the place of another driver.
    pub(crate) fn scheduled_for(&mut self, driver: usize) -> bool {
        let cells = self.host.posts[driver].take_scheduled(HOLDS);
        let any = !cells.is_empty();
        for cell in cells {
            let _ = self.deliver(&cell, |inner| {
                inner.scheduled = false;
                Ok(())
            });
        }
        if any {
            let now = self.stamp();
            self.finish(now);
        }
        any
    }

    /// Whether anything waits for the application, which is to have its turn now, and the driver the next.
    pub(crate) fn has_late(&self) -> bool {
        self.host.posts[self.driver].late.any()
    }

    /// Sends what has waited for the application since the last turn, and what it wrote has not carried. Says whether anything
    /// waited.
    pub(crate) fn late(&mut self) -> bool {
        self.has_late() && self.late_for(self.driver)
    }

    /// The same, in the place of another driver. All of them: there are no more than one turn and what the tasks wrote behind it
    /// have left, and who took fewer might never get to the end.
    pub(crate) fn late_for(&mut self, driver: usize) -> bool {
        let late = self.host.posts[driver].late.take();
        for cell in &late {
            let _ = self.deliver(cell, |inner| {
                inner.release();
                Ok(())
            });
        }
        if !late.is_empty() {
            let now = self.stamp();
            self.finish(now);
        }
        !late.is_empty()
    }

    /// Sends what a device has queued, and serves the connections that waited for it, each in turn and a bounded
    /// number. `false`: the device is full.
    pub(crate) fn flush(&mut self, at: usize) -> bool {
        let host = self.host.clone();
        let open = host.devices.get(at);
        for _ in 0..HOLDS {
            let cell = match open.queue.next(&*open.io, &host.counters) {
                Next::Full => return false,
                Next::Idle => return true,
                Next::Serve(cell) => cell,
            };
            let _ = self.deliver(&cell, |inner| {
                (inner.blocked, inner.turn) = (false, true);
                Ok(())
            });
            let now = self.stamp();
            self.finish(now);
        }
        true
    }

    /// Behind a batch: answers leave, touched connections transmit, timers are armed, connections are
    /// queued for `accept`, and whoever waits is woken.
    fn finish(&mut self, now: Instant) {
        let host = self.host.clone();
        let paths = &self.paths;
        tx::send_replies(&host, &self.replies, |tuple| paths.lane(tuple));
        self.replies.clear();
        let late = &host.posts[self.driver].late;
        let mut touched = std::mem::take(&mut self.touched);
        self.served = self.served.wrapping_add(touched.len());
        for cell in touched.drain(..) {
            let settled = catch_unwind(AssertUnwindSafe(|| {
                let mut after = After::default();
                let mut inner = cell.lock();
                inner.touched = false;
                // A driver with a thread of its own would only wait for other threads.
                let held = !host.settings.own_thread && inner.conn.hold_handshake_ack();
                // Nobody would see to it in time where the clock may stand still.
                if held && !(host.clock.is_real() && late.hold_ack(now, &cell)) {
                    inner.conn.release_handshake_ack();
                }
                let becomes_busy = inner.until_busy == 1;
                inner.until_busy = inner.until_busy.saturating_sub(1);
                cell.settle(&mut inner, now, &mut after);
                let left = inner.has_left();
                drop(inner);
                (after, becomes_busy, left)
            }));
            match settled {
                Ok((after, becomes_busy, left)) => {
                    if becomes_busy {
                        self.busy.push(cell.tuple().local);
                    }
                    if left {
                        self.last.take_if(|last| Arc::ptr_eq(last, &cell));
                    }
                    cell.finish(after);
                }
                // Poisoned: the next one to lock it resets it. Have that be soon.
                Err(_) => host.schedule(cell),
            }
        }
        self.touched = touched;
        // Last, so that whoever accepts finds the connection as it is behind the batch.
        for (listener, cell) in std::mem::take(&mut self.accepted) {
            if listener.0.becomes_busy() {
                self.busy.push(listener.0.local());
            }
            if let Err(cell) = listener.0.push(cell, &mut self.wake) {
                // The listener was dropped meanwhile.
                cell.with(|inner, now| inner.conn.abort(now));
            }
        }
        while self.shards != 0 {
            let at = self.shards.trailing_zeros() as usize;
            self.shards &= self.shards - 1;
            let deadline = host.shard(at).poll_timeout();
            // The first driver looks at the alarm before it sleeps: no kick.
            if host.arm_shard(at, deadline) && self.driver > 0 {
                host.kick();
            }
        }
        self.wake.wake_all();
        for local in self.busy.drain(..) {
            host.ports.spare_kernel(&host.devices, local);
        }
    }
}

/// The cell of a connection that came to a listener.
fn new_connection(
    host: &Arc<Host>,
    device: usize,
    lane: Lane,
    listener: &ListenerRef,
    mut conn: Connection,
) -> Arc<ConnCell> {
    let granted = host.budget.grant(device, conn.recv_buffer());
    conn.grant_recv_buffer(granted.bytes);
    conn.set_ttl(listener.0.ttl());
    ConnCell::new(host, conn, lane, granted, listener.0.linger())
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
