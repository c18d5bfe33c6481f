//! ICMP errors (RFC 9293 §3.9.2.2, RFC 5461, RFC 5927).

use super::{Connection, Events, State};
use crate::error::{CloseReason, DropReason};
use crate::time::Instant;
use crate::wire::{IcmpError, IcmpKind};

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
        // [SHLD-26] and RFC 5461 §4.1: an attempt fails at once, so that the next address is tried. By the letter of
        // [MUST-56], which the setting goes back to, soft errors do not fail it.
        let hard =
            matches!(icmp.kind, IcmpKind::ProtocolUnreachable | IcmpKind::PortUnreachable | IcmpKind::Prohibited);
        if opening && (hard || self.config.icmp_fails_connect) {
            self.fail(reason);
        } else {
            // [MUST-56] and RFC 5927 §5.2: never the end of a synchronized connection.
            if self.soft_error.replace(reason) != Some(reason) {
                self.events.insert(Events::ERROR);
            }
        }
        Ok(())
    }
}
