use super::super::checksum::tests::naive;
use super::super::options::Options;
use super::super::tcp::{self, Flags, HeaderBuf, IpMeta, TcpHeader};
use super::*;
use proptest::prelude::*;

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The headers of a segment of ours, as a router would quote it.
fn ours(six: bool) -> Vec<u8> {
    let (src, dst) = if six { ("2001:db8::1", "2001:db8::2") } else { ("192.0.2.1", "198.51.100.7") };
    let ip = IpMeta { src: addr(src), dst: addr(dst), ttl: 3, traffic_class: 0, id: 9, flow_label: 0 };
    let header = TcpHeader {
        src_port: 51234,
        dst_port: 443,
        seq: SeqNum(0xdead_beef),
        flags: Flags::SYN,
        options: Options { mss: Some(1460), ..Options::default() },
        ..TcpHeader::default()
    };
    let mut buf = HeaderBuf::new();
    tcp::build(&mut buf, &ip, &header, 0, Some(0));
    buf.as_slice().to_vec()
}

fn outer(six: bool) -> IpHeader {
    let (src, dst) = if six { ("2001:db8::ffff", "2001:db8::1") } else { ("203.0.113.5", "192.0.2.1") };
    let protocol = if six { ip::ICMPV6 } else { ip::ICMP };
    IpHeader { src: addr(src), dst: addr(dst), protocol, ttl: 60, traffic_class: 0 }
}

/// An ICMP message with a right checksum, made by the naive sum.
fn message(six: bool, kind: u8, code: u8, rest: u32, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend_from_slice(&rest.to_be_bytes());
    bytes.extend_from_slice(quoted);
    let mut covered = Vec::new();
    if six {
        let ip = outer(true);
        for end in [ip.src, ip.dst] {
            covered.extend_from_slice(&checksum::mapped(end));
        }
        covered.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        covered.extend_from_slice(&[0, 0, 0, 58]);
    }
    covered.extend_from_slice(&bytes);
    let field = !(naive(&covered) as u16);
    bytes[2..4].copy_from_slice(&field.to_be_bytes());
    bytes
}

fn parse(six: bool, bytes: &[u8]) -> Result<IcmpError, DropReason> {
    if six { parse_v6(&outer(true), bytes, true) } else { parse_v4(&outer(false), bytes) }
}

#[test]
fn all_that_is_known_of_a_message() {
    for six in [false, true] {
        let parsed = parse(six, &message(six, if six { 1 } else { 3 }, if six { 4 } else { 3 }, 0, &ours(six)));
        let (src, dst) = if six { ("2001:db8::1", "2001:db8::2") } else { ("192.0.2.1", "198.51.100.7") };
        let expected = IcmpError {
            kind: IcmpKind::PortUnreachable,
            tuple: FourTuple::new(SocketAddr::new(addr(src), 51234), SocketAddr::new(addr(dst), 443)),
            seq: SeqNum(0xdead_beef),
            from: outer(six).src,
        };
        assert_eq!(parsed, Ok(expected));
    }
}

#[test]
fn kinds_of_v4() {
    use IcmpKind::*;
    let table = [
        (3, &[0, 6, 9, 11][..], Some(NetUnreachable)),
        (3, &[1, 7, 8, 12], Some(HostUnreachable)),
        (3, &[2], Some(ProtocolUnreachable)),
        (3, &[3], Some(PortUnreachable)),
        (3, &[4], Some(PacketTooBig { mtu: 1400 })),
        (3, &[5], Some(SourceRouteFailed)),
        (3, &[10, 13, 14, 15], Some(Prohibited)),
        (3, &[16, 255], None),
        (4, &[0], Some(SourceQuench)),
        (11, &[0, 1], Some(TimeExceeded)),
        (12, &[0, 1, 2], Some(ParameterProblem)),
        (0, &[0], None),
        (5, &[0, 1], None),
        (8, &[0], None),
        (255, &[0], None),
    ];
    for (kind, codes, expected) in table {
        for &code in codes {
            // The upper half is unused, or an RFC 4884 length: not part of the MTU.
            let parsed = parse(false, &message(false, kind, code, 0x0011_0000 | 1400, &ours(false)));
            let expected = expected.ok_or(DropReason::IcmpIgnored);
            assert_eq!(parsed.map(|e| e.kind), expected, "type {kind} code {code}");
        }
    }
}

#[test]
fn kinds_of_v6() {
    use IcmpKind::*;
    let table = [
        (1, &[0][..], Some(NetUnreachable)),
        (1, &[2, 3], Some(HostUnreachable)),
        (1, &[4], Some(PortUnreachable)),
        (1, &[1, 5, 6], Some(Prohibited)),
        (1, &[7], Some(SourceRouteFailed)),
        (1, &[8, 255], None),
        (2, &[0, 9], Some(PacketTooBig { mtu: 0x0001_0578 })),
        (3, &[0, 1], Some(TimeExceeded)),
        (4, &[0, 1, 2], Some(ParameterProblem)),
        (0, &[0], None),
        (128, &[0], None),
        (135, &[0], None),
    ];
    for (kind, codes, expected) in table {
        for &code in codes {
            let parsed = parse(true, &message(true, kind, code, 0x0001_0578, &ours(true)));
            let expected = expected.ok_or(DropReason::IcmpIgnored);
            assert_eq!(parsed.map(|e| e.kind), expected, "type {kind} code {code}");
        }
    }
}

#[test]
fn eight_bytes_of_the_segment_are_enough() {
    for (six, header) in [(false, 20), (true, 40)] {
        let kind = if six { 1 } else { 3 };
        let quoted = ours(six);
        for (keep, expected) in [
            (header + 8, Ok(SeqNum(0xdead_beef))),
            (header + 7, Err(DropReason::Truncated)),
            (header, Err(DropReason::Truncated)),
            (header - 1, Err(DropReason::Truncated)),
            (0, Err(DropReason::Truncated)),
        ] {
            let parsed = parse(six, &message(six, kind, 0, 0, &quoted[..keep]));
            assert_eq!(parsed.map(|e| e.seq), expected, "v6 {six}, {keep} bytes quoted");
        }
    }
    for six in [false, true] {
        assert_eq!(parse(six, &[3, 0, 0, 0, 0, 0, 0]), Err(DropReason::Truncated));
    }
}

#[test]
fn quoted_headers_are_taken_leniently() {
    let change = |at: usize, value: u8| {
        let mut quoted = ours(false);
        quoted[at] = value;
        parse(false, &message(false, 3, 1, 0, &quoted)).map(|e| e.seq.0)
    };
    let ours_seq = Ok(0xdead_beef);
    let ignored = Err(DropReason::IcmpIgnored);
    let table = [
        ("a TTL that routers counted down", change(8, 0), ours_seq),
        ("a checksum not brought up to date", change(10, 0), ours_seq),
        ("a length in the other byte order", change(2, 0x2c), ours_seq),
        ("don't-fragment cleared", change(6, 0), ours_seq),
        ("a later fragment", change(7, 1), ignored),
        ("not TCP", change(9, 17), ignored),
        ("not IPv4", change(0, 0x65), ignored),
        ("a header of 4 words", change(0, 0x44), ignored),
        ("a header beyond the quote", change(0, 0x4f), Err(DropReason::Truncated)),
    ];
    for (name, parsed, expected) in table {
        assert_eq!(parsed, expected, "{name}");
    }

    let mut with_options = ours(false);
    with_options[0] = 0x46;
    with_options.splice(20..20, [1, 1, 1, 0]);
    let parsed = parse(false, &message(false, 3, 1, 0, &with_options));
    assert_eq!(parsed.map(|e| e.seq.0), ours_seq, "options are skipped");

    for (name, at, value) in [("not IPv6", 0, 0x45), ("not TCP", 6, 17), ("extension headers", 6, 60)] {
        let mut quoted = ours(true);
        quoted[at] = value;
        assert_eq!(parse(true, &message(true, 1, 0, 0, &quoted)).map(|e| e.seq.0), ignored, "{name}");
    }
}

#[test]
fn checksums_are_verified() {
    let mut bytes = message(false, 3, 1, 0, &ours(false));
    bytes[7] ^= 1;
    assert_eq!(parse_v4(&outer(false), &bytes), Err(DropReason::Checksum));
    let mut bytes = message(true, 1, 0, 0, &ours(true));
    bytes[7] ^= 1;
    assert_eq!(parse_v6(&outer(true), &bytes, true), Err(DropReason::Checksum));
    assert!(parse_v6(&outer(true), &bytes, false).is_ok());
    // With the pseudo header left out, as IPv4 has it.
    let mut bytes = message(true, 1, 0, 0, &ours(true));
    bytes[2..4].fill(0);
    let field = checksum::finish(checksum::sum(&bytes));
    bytes[2..4].copy_from_slice(&field.to_be_bytes());
    assert_eq!(parse_v6(&outer(true), &bytes, true), Err(DropReason::Checksum));
}

proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = parse_v4(&outer(false), &bytes);
        let _ = parse_v6(&outer(true), &bytes, false);
    }

    #[test]
    fn mutated_messages_parse_or_are_refused(
        six: bool,
        kind in 0u8..14,
        code in 0u8..18,
        hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut quoted = ours(six);
        for (at, value) in hits {
            let at = at.index(quoted.len());
            quoted[at] = value;
        }
        quoted.truncate(cut.index(quoted.len() + 1));
        let _ = parse(six, &message(six, kind, code, 1280, &quoted));
    }
}
