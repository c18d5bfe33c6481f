//! Why a packet was dropped, why a connection ended, and why a call was refused.

/// Why a received packet went no further. Each is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum DropReason {
    /// Shorter than its own headers say.
    Truncated,
    /// The IP version is neither 4 nor 6, or not the one of its device.
    IpVersion,
    /// The IP header checksum is wrong.
    IpChecksum,
    /// A fragment: the device does not reassemble.
    IpFragment,
    /// Neither TCP nor ICMP, or an IPv6 extension header that hides the transport.
    Protocol,
    /// A data offset below 5 or beyond the segment (RFC 9293 §3.1).
    DataOffset,
    /// An option with length 0 or 1, or longer than the header (RFC 9293 §3.1 [MUST-7]).
    OptionLength,
    /// The TCP or ICMP checksum is wrong (RFC 9293 §3.1 [MUST-3]).
    Checksum,
    /// Source or destination is broadcast, multicast or unspecified (RFC 9293 §3.9.2.3 [MUST-57], [MUST-63]).
    Address,
    /// A port is zero.
    PortZero,
    /// The local address and port are not this stack's.
    NotOurs,
    /// No connection fits and the port is shared with the kernel, for itself or for another host whose addresses it
    /// translates: silence rather than a reset.
    SharedPort,
    /// No connection fits, and a reset may not be answered (RFC 9293 §3.10.7.1).
    NoConnection,
    /// A reset or challenge ACK was due but the rate limit was reached (RFC 5961 §7).
    RateLimited,
    /// The half-open table is full.
    SynQueueFull,
    /// The accept queue is full.
    AcceptQueueFull,
    /// In LISTEN, a segment that is neither SYN, ACK nor RST.
    ListenNoSyn,
    /// The sequence number is outside the receive window (RFC 9293 §3.10.7.4, first).
    OutOfWindow,
    /// The timestamp is older than the last one (PAWS, RFC 7323 §5).
    Paws,
    /// The ACK number is not acceptable (RFC 9293 §3.10.7.4, fifth; RFC 5961 §5).
    AckNumber,
    /// No ACK flag where one is required (RFC 9293 §3.10.7.4, fifth).
    NoAck,
    /// A RST that does not match RCV.NXT exactly (RFC 5961 §3).
    RstSequence,
    /// A SYN on a synchronized connection (RFC 5961 §4).
    UnexpectedSyn,
    /// The connection is already closed.
    Closed,
    /// The quoted packet of an ICMP error fits nothing in flight (RFC 5927 §4).
    IcmpSequence,
    /// An ICMP message that is not an error this stack acts on.
    IcmpIgnored,
}

impl DropReason {
    /// How many reasons there are: the length of a table of counters.
    pub const COUNT: usize = DropReason::IcmpIgnored as usize + 1;
}

/// Why a connection ended. It ends once, for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// Both directions were closed in order.
    Graceful,
    /// The peer reset it (ECONNRESET).
    Reset,
    /// The peer reset it after its own data had ended in order (EPIPE for writes, as on Linux).
    ResetAfterEof,
    /// The peer refused it: RST in answer to our SYN, or an ICMP port unreachable (ECONNREFUSED).
    Refused,
    /// Retransmissions, keep-alive probes or the user timeout ran out (ETIMEDOUT).
    TimedOut,
    /// ICMP: network unreachable (ENETUNREACH).
    NetUnreachable,
    /// ICMP: host unreachable or a soft error that outlived the attempt (EHOSTUNREACH).
    HostUnreachable,
    /// ICMP: administratively prohibited, or protocol unreachable (EACCES / ENOPROTOOPT on Linux).
    Prohibited,
    /// ICMP: protocol unreachable (ENOPROTOOPT).
    ProtocolUnreachable,
    /// This side aborted it: unread data at close, zero linger, or an explicit abort (ECONNABORTED).
    Aborted,
    /// An invariant of this stack was broken; only this connection pays.
    Internal,
}

impl CloseReason {
    /// A short name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            CloseReason::Graceful => "graceful",
            CloseReason::Reset => "reset",
            CloseReason::ResetAfterEof => "reset_after_eof",
            CloseReason::Refused => "refused",
            CloseReason::TimedOut => "timed_out",
            CloseReason::NetUnreachable => "net_unreachable",
            CloseReason::HostUnreachable => "host_unreachable",
            CloseReason::Prohibited => "prohibited",
            CloseReason::ProtocolUnreachable => "protocol_unreachable",
            CloseReason::Aborted => "aborted",
            CloseReason::Internal => "internal",
        }
    }

    /// The errno that the application sees on Linux; 0 for a graceful end.
    pub const fn errno(self) -> i32 {
        match self {
            CloseReason::Graceful => 0,
            CloseReason::Reset => 104,
            CloseReason::ResetAfterEof => 32,
            CloseReason::Refused => 111,
            CloseReason::TimedOut => 110,
            CloseReason::NetUnreachable => 101,
            CloseReason::HostUnreachable | CloseReason::Prohibited => 113,
            CloseReason::ProtocolUnreachable => 92,
            CloseReason::Aborted | CloseReason::Internal => 103,
        }
    }
}

/// Why a call of the user was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UserError {
    /// Nothing to read, or no room to write: wait for the event (EAGAIN).
    WouldBlock,
    /// The connection has ended for this reason, not reported before.
    Closed(CloseReason),
    /// This side has shut down writing, or the connection is gone and its error was reported (EPIPE).
    BrokenPipe,
    /// The connection never came to be (ENOTCONN).
    NotConnected,
    /// There is no urgent byte to be read by itself (EINVAL).
    NoUrgent,
}
