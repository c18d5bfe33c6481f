//! Buffers that grow with the path: the receive buffer by what the application reads in a round trip (dynamic
//! right-sizing, as Linux's `tcp_rcv_space_adjust`), the send buffer by the congestion window.

use super::Connection;
use crate::compact::Maybe;
use crate::seq::Offset;
use crate::time::{Duration, Instant};
use crate::wire::Segment;

/// How fast the application reads, and how long a round trip is for what arrives.
#[derive(Debug)]
pub(super) struct Demand {
    /// The round trip as the receiver sees it.
    rtt: Maybe<Duration>,
    /// One window was on offer up to `edge` at `edge_since`: a round trip at least passes until it is used.
    edge: Offset,
    edge_since: Instant,
    /// The last timestamp of ours that was measured by.
    echo: u32,
    /// Bytes read when this measurement began, and when that was.
    read_before: u64,
    since: Instant,
    /// The most that was read in one round trip.
    most: u64,
    /// The buffer that was asked for; 0: none.
    wanted: usize,
}

impl Demand {
    pub(super) fn new(now: Instant) -> Self {
        Demand {
            rtt: Maybe::NONE,
            edge: Offset(0),
            edge_since: now,
            echo: 0,
            read_before: 0,
            since: now,
            most: 0,
            wanted: 0,
        }
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.get()
    }

    /// The most that was read in one round trip, in bytes.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    fn on_sample(&mut self, sample: Duration) {
        self.rtt = self.rtt.get().map_or(sample, |rtt| rtt - rtt / 8 + sample / 8).into();
    }
}

impl Connection {
    /// The receive buffer that would fit the path, if it is larger than what there is and
    /// [`recv_buffer_on_request`](crate::ConnConfig::recv_buffer_on_request) has the caller decide. Ask after
    /// reads; answer with [`grant_recv_buffer`](Self::grant_recv_buffer) whenever there is something to give.
    pub fn wants_recv_buffer(&self) -> Option<usize> {
        // Behind the end nothing comes, however fast the rest is read.
        (self.state.may_receive() && self.demand.wanted > self.recv_buffer).then_some(self.demand.wanted)
    }

    /// The receive buffer is `bytes` large from now on, at most
    /// [`recv_buffer_max`](crate::ConnConfig::recv_buffer_max). May be less than before: what was offered to
    /// the peer is not taken back. Unlike [`set_recv_buffer`](Self::set_recv_buffer), it goes on growing.
    pub fn grant_recv_buffer(&mut self, bytes: usize) {
        let most = self.config.recv_buffer_max.max(self.recv_buffer);
        if most != self.config.recv_buffer_max {
            self.settings().recv_buffer_max = most;
        }
        self.resize_recv_buffer(bytes.min(most));
    }

    pub(super) fn resize_recv_buffer(&mut self, bytes: usize) {
        self.demand.wanted = 0;
        self.recv_buffer = bytes;
        if self.state.is_synchronized() && self.window_update_due() {
            self.ack.now();
        }
    }

    /// Text arrived: measures the round trip of the receiving direction.
    pub(super) fn measure_receive_rtt(&mut self, now: Instant, segment: &Segment<'_>) {
        let demand = &mut self.demand;
        if let Some(ts) = segment.header.options.timestamps.filter(|_| self.negotiated.timestamps) {
            let elapsed = (now.as_millis() as u32).wrapping_add(self.snd.ts_offset).wrapping_sub(ts.echo);
            let full = segment.payload.len() >= self.rcv.seen_mss as usize;
            if full && ts.echo != 0 && ts.echo != demand.echo && elapsed < 1 << 24 {
                demand.echo = ts.echo;
                // Below a tick of the timestamps the clock says nothing; what was measured otherwise does, and where a
                // round trip takes microseconds a buffer for a millisecond is only memory that falls out of the cache.
                let tick = Duration::from_millis(1);
                let sample = match elapsed {
                    0 | 1 => self.rtt.min_rtt().map_or(tick, |least| least.min(tick)),
                    _ => tick * elapsed,
                };
                demand.on_sample(sample);
            }
        } else if self.rcv.nxt >= demand.edge {
            // A whole window took at least a round trip: the least of these times is believed.
            if demand.edge > Offset(0) {
                let sample = now.since(demand.edge_since);
                demand.rtt = demand.rtt.get().map_or(sample, |rtt| rtt.min(sample)).into();
            }
            demand.edge = self.rcv.adv;
            demand.edge_since = now;
        }
    }

    /// The application has read: once in a round trip, looks whether it keeps up with more than it is offered.
    pub(super) fn tune_recv_buffer(&mut self, now: Instant) {
        if self.config.recv_buffer_max <= self.recv_buffer {
            return;
        }
        let Some(rtt) = self.demand.rtt().or(self.rtt.srtt()) else { return };
        if now.since(self.demand.since) < rtt {
            return;
        }
        let read = self.bytes_received() - self.recv_buf.len() as u64;
        let copied = read - self.demand.read_before;
        let least = u64::from(self.config.initial_window.max(1)) * u64::from(self.rcv.adv_mss);
        let most = self.demand.most.max(least);
        self.demand.read_before = read;
        self.demand.since = now;
        if copied <= most {
            return;
        }
        self.demand.most = copied;
        // Twice as much for a sender that doubles, and more where the rate grows faster than that.
        let window = 2 * copied + 16 * u64::from(self.rcv.adv_mss);
        let window = u128::from(window) + 2 * u128::from(window) * u128::from(copied - most) / u128::from(most.max(1));
        let target = usize::try_from(window).unwrap_or(usize::MAX).min(self.config.recv_buffer_max);
        if target <= self.recv_buffer {
            return;
        }
        match self.config.recv_buffer_on_request {
            true => self.demand.wanted = target,
            false => self.resize_recv_buffer(target),
        }
    }

    /// The send buffer that would fit the path, if a writer waits for room, it is larger than what there is, and
    /// [`send_buffer_on_request`](crate::ConnConfig::send_buffer_on_request) has the caller decide. Ask after
    /// segments; answer with [`grant_send_buffer`](Self::grant_send_buffer) whenever there is something to give.
    pub fn wants_send_buffer(&self) -> Option<usize> {
        if !self.send_short || !self.state.may_send() {
            return None;
        }
        Some(self.fitting_send_buffer()).filter(|&wanted| wanted > self.send_buf.capacity())
    }

    /// The send buffer is `bytes` large from now on, until the connection [rests](Self::rest): then it is as large as at
    /// first. At most [`send_buffer_max`](crate::ConnConfig::send_buffer_max), at least what it was at first, and what is
    /// in it.
    pub fn grant_send_buffer(&mut self, bytes: usize) {
        self.send_short = false;
        let before = self.send_buf.capacity();
        let least = self.config.send_buffer.max(1).max(self.send_buf.len());
        self.send_buf.set_capacity(bytes.min(self.config.send_buffer_max).max(least));
        if self.send_buf.capacity() > before {
            self.wake_writer();
        }
    }

    /// Room for twice what may be in flight, so that a writer refills while a window is on its way.
    fn fitting_send_buffer(&self) -> usize {
        usize::try_from(self.cc.cwnd().saturating_mul(2)).unwrap_or(usize::MAX).min(self.config.send_buffer_max)
    }

    /// A writer waits.
    pub(super) fn tune_send_buffer(&mut self) {
        let wanted = self.fitting_send_buffer();
        if wanted > self.send_buf.capacity() {
            match self.config.send_buffer_on_request {
                true => self.send_short = true,
                false => self.send_buf.set_capacity(wanted),
            }
        }
    }

    /// The send buffer has grown, and nothing is in it.
    pub(super) fn may_shrink_send_buffer(&self) -> bool {
        self.send_buf.capacity() > self.config.send_buffer.max(1) && self.send_buf.is_empty()
    }
}
