//! ICMP errors (RFC 9293 §3.9.2.2, RFC 5461, RFC 5927) and the path MTU (RFC 1191, RFC 8201).

use super::{Connection, Events, Path, State};
use crate::error::{CloseReason, DropReason};
use crate::time::Instant;
use crate::wire::{IcmpError, IcmpKind};

/// The smallest path MTU believed, so that a forged message can not shrink segments to nothing: Linux's
/// `min_pmtu` for IPv4, the protocol's minimum for IPv6 (RFC 8200 §5).
const MIN_MTU_V4: u32 = 552;
const MIN_MTU_V6: u32 = 1280;

impl Connection {
    /// Takes an ICMP error that quotes a segment of this connection.
    pub fn on_icmp(&mut self, now: Instant, icmp: &IcmpError) -> Result<(), DropReason> {
        // RFC 5927 §4.1: the quoted sequence number must be one that is in flight.
        let quoted = icmp.seq.unwrap(self.snd.iss, self.snd.una);
        if !quoted.is_some_and(|at| self.snd.una <= at && at < self.snd.nxt.max(self.snd.una.add(1))) {
            return Err(DropReason::IcmpSequence);
        }
        if matches!(self.state, State::Closed | State::TimeWait) {
            return Err(DropReason::Closed);
        }
        let opening = matches!(self.state, State::SynSent | State::SynReceived);
        let reason = match icmp.kind {
            // RFC 9293 §3.9.2.2 [MUST-55].
            IcmpKind::SourceQuench => return Err(DropReason::IcmpIgnored),
            IcmpKind::PacketTooBig { mtu } => {
                self.on_path_mtu(now, mtu);
                return Ok(());
            }
            IcmpKind::PortUnreachable => CloseReason::Refused,
            IcmpKind::ProtocolUnreachable => CloseReason::ProtocolUnreachable,
            IcmpKind::NetUnreachable => CloseReason::NetUnreachable,
            IcmpKind::HostUnreachable | IcmpKind::TimeExceeded => CloseReason::HostUnreachable,
            IcmpKind::Prohibited => CloseReason::Prohibited,
            IcmpKind::SourceRouteFailed => CloseReason::HostUnreachable,
            IcmpKind::ParameterProblem => CloseReason::ProtocolUnreachable,
        };
        if opening {
            // Linux's choice, RFC 5461 §4: an attempt fails at once, so that the next address is tried.
            self.fail(reason);
        } else {
            // [MUST-56] and RFC 5927 §5.2: never the end of a synchronized connection.
            if self.soft_error.replace(reason) != Some(reason) {
                self.events.insert(Events::ERROR);
            }
        }
        Ok(())
    }

    /// The device or a router says that packets larger than `mtu` bytes do not pass; 0 when it does not
    /// say how large they may be. What was too large is sent again at once, smaller.
    pub fn on_path_mtu(&mut self, now: Instant, mtu: u32) {
        let floor = if self.tuple.is_v6() { MIN_MTU_V6 } else { MIN_MTU_V4 };
        let mtu = if mtu == 0 { next_plateau(self.path.mtu) } else { mtu }.max(floor);
        if mtu >= self.path.mtu {
            return;
        }
        self.path = Path { mtu };
        let mss = self.send_mss();
        self.cc.on_mss(mss);
        self.sent.resegment(mss);
        if self.state.is_synchronized() && self.sent.outstanding() > 0 {
            // Not congestion: the window is left alone (RFC 1191 §6.5).
            self.sent.mark_all_lost();
            self.recovery.backoff = 0;
            self.arm_rto(now);
        }
    }
}

/// A guess for routers that do not tell (RFC 1191 §7.1).
fn next_plateau(mtu: u32) -> u32 {
    const PLATEAUS: [u32; 9] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 552, 296];
    PLATEAUS.into_iter().find(|&p| p < mtu).unwrap_or(296)
}
