//! What there is to know of a connection.

use super::recovery::Phase;
use super::{Connection, Timer};
use crate::info::{CaState, TcpInfo};
use crate::seq::Offset;
use crate::time::Instant;

impl Connection {
    /// Bytes of the stream that the peer has acknowledged.
    pub fn bytes_acked(&self) -> u64 {
        self.snd.una.since(Offset(1))
    }

    /// Bytes of the stream that have arrived in order.
    pub(super) fn bytes_received(&self) -> u64 {
        self.rcv.fin.get().unwrap_or(self.rcv.nxt).since(Offset(1))
    }

    /// The name of the congestion control.
    pub fn congestion(&self) -> &'static str {
        self.cc.name()
    }

    fn ca_state(&self) -> CaState {
        match self.recovery.phase {
            Phase::Recovery { .. } => CaState::Recovery,
            Phase::Loss { .. } => CaState::Loss,
            Phase::Open if self.ecn.is_reducing() => CaState::Cwr,
            Phase::Open if self.sent.sacked_bytes() > 0 || self.recovery.dup_acks > 0 => CaState::Disorder,
            Phase::Open => CaState::Open,
        }
    }

    /// The snapshot of Linux's TCP_INFO, as of the last time that something was heard or sent.
    pub fn info(&self) -> TcpInfo {
        self.info_at(self.last_heard.max(self.last_sent))
    }

    /// The snapshot of Linux's TCP_INFO at present.
    pub fn info_at(&self, now: Instant) -> TcpInfo {
        let (delivery_rate, delivery_rate_app_limited) = self.recovery.rate.last();
        let (busy_time, rwnd_limited, sndbuf_limited) = self.chrono.totals(now);
        // The persist timer counts its probes in the same place.
        let doubled = if self.timers.is_set(Timer::Persist) { 0 } else { self.recovery.backoff };
        let (counters, rare) = (&self.counters, &self.recovery.rare);
        TcpInfo {
            state: self.state,
            ca_state: self.ca_state(),
            retransmits: self.recovery.retries,
            probes: self.probes,
            backoff: self.recovery.backoff.into(),
            timestamps: self.negotiated.timestamps,
            sack: self.negotiated.sack,
            window_scale: self.negotiated.scales.map(|s| (s.snd.shift(), s.rcv.shift())),
            ecn: self.ecn.is_agreed(),
            rto: self.rtt.rto_backed_off(doubled.into()),
            ato: self.config.delayed_ack,
            snd_mss: self.send_mss(),
            rcv_mss: self.rcv.seen_mss,
            advmss: self.rcv.adv_mss,
            pmtu: self.path.mtu,
            unacked: self.sent.outstanding(),
            sacked: self.sent.sacked_bytes(),
            lost: self.sent.lost_bytes(),
            retrans: self.sent.retransmitted_out(),
            notsent_bytes: self.send_buf.end().since(self.snd.nxt),
            last_data_sent: now.since(self.last_sent),
            last_ack_sent: now.since(self.ack.last_sent()),
            last_data_recv: now.since(self.last_text),
            last_ack_recv: now.since(self.last_heard),
            rtt: self.rtt.srtt().unwrap_or_default(),
            rttvar: self.rtt.rttvar().unwrap_or_default(),
            min_rtt: self.rtt.min_rtt().unwrap_or_default(),
            rcv_rtt: self.demand.rtt().unwrap_or_default(),
            reo_wnd: self.reordering_window(),
            snd_cwnd: self.cc.cwnd(),
            snd_ssthresh: self.cc.ssthresh(),
            snd_wnd: self.snd.wnd.into(),
            rcv_wnd: self.rcv.window(),
            rcv_ssthresh: self.receive_limit(),
            rcv_space: self.demand.most(),
            pacing_rate: self.pacing_rate().or_else(|| self.rate_of_window()).unwrap_or(u64::MAX),
            max_pacing_rate: self.config.max_pacing_rate.unwrap_or(u64::MAX),
            delivery_rate,
            delivery_rate_app_limited,
            bytes_acked: self.bytes_acked(),
            bytes_received: self.bytes_received(),
            bytes_sent: self.snd.stream_sent() + rare.bytes_retrans,
            bytes_retrans: rare.bytes_retrans,
            segs_out: counters.segs_out,
            segs_in: counters.segs_in,
            data_segs_out: counters.data_segs_out,
            data_segs_in: counters.data_segs_in,
            total_retrans: rare.total_retrans,
            delivered: self.recovery.rate.delivered(),
            delivered_ce: self.ecn.marks.delivered_ce,
            ce_received: self.ecn.marks.ce_received,
            dsack_dups: rare.dsack_dups,
            reord_seen: rare.reord_seen,
            rcv_ooopack: rare.rcv_ooopack,
            busy_time,
            rwnd_limited,
            sndbuf_limited,
            timeouts: rare.timeouts,
            total_rto_recoveries: rare.rto_recoveries,
            total_rto_time: rare.rto_time + self.loss_time(now),
            congestion: self.cc.name(),
        }
    }
}
