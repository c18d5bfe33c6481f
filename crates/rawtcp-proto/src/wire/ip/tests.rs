use super::checksum::tests::naive;
use super::*;
use proptest::prelude::*;

/// An IPv4 packet with a right header checksum, made word by word.
fn v4(protocol: u8, options: &[u8], total: Option<u16>, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let total = total.unwrap_or((header_len + payload.len()) as u16).to_be_bytes();
    let fragment = fragment.to_be_bytes();
    let mut packet = vec![0x40 | (header_len / 4) as u8, 0xb9, total[0], total[1], 0, 7];
    packet.extend_from_slice(&[fragment[0], fragment[1], 61, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
    packet.extend_from_slice(options);
    let field = !(naive(&packet) as u16);
    packet[10..12].copy_from_slice(&field.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

fn v6(next: u8, len: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let len = len.unwrap_or(payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x6b, 0x9a, 0xbc, 0xde, len[0], len[1], next, 57];
    for last in [1, 2] {
        packet.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    packet.extend_from_slice(payload);
    packet
}

type Transport = Result<(u8, Vec<u8>), DropReason>;

fn transport(packet: &[u8]) -> Transport {
    parse(packet).map(|(ip, bytes)| (ip.protocol, bytes.to_vec()))
}

#[test]
fn v4_fields() {
    let packet = v4(TCP, &[], None, 0x4000, b"abc");
    let (ip, bytes) = parse(&packet).unwrap();
    let expected = IpHeader {
        src: "192.0.2.1".parse().unwrap(),
        dst: "198.51.100.7".parse().unwrap(),
        protocol: TCP,
        ttl: 61,
        traffic_class: 0xb9,
    };
    assert_eq!((ip, bytes), (expected, &b"abc"[..]));
    assert_eq!(ip.ecn(), Ecn::Ect1);
}

#[test]
fn v6_fields() {
    let packet = v6(ICMPV6, None, b"abc");
    let (ip, bytes) = parse(&packet).unwrap();
    let expected = IpHeader {
        src: "2001:db8::1".parse().unwrap(),
        dst: "2001:db8::2".parse().unwrap(),
        protocol: ICMPV6,
        ttl: 57,
        traffic_class: 0xb9,
    };
    assert_eq!((ip, bytes), (expected, &b"abc"[..]));
}

#[test]
fn v4_cases() {
    let ok = |bytes: &[u8]| Ok((TCP, bytes.to_vec()));
    let mut flipped = v4(TCP, &[], None, 0, b"abc");
    flipped[8] ^= 1;
    let mut zero = v4(TCP, &[], None, 0, b"abc");
    zero[10..12].fill(0);
    let mut short_header = v4(TCP, &[], None, 0, b"abc");
    short_header[0] = 0x44;
    let mut long_header = v4(TCP, &[], None, 0, b"abc");
    long_header[0] = 0x4f;
    let table = [
        ("options are skipped", v4(TCP, &[1, 1, 1, 0], None, 0, b"abc"), ok(b"abc")),
        ("bytes behind the total length go", v4(TCP, &[], Some(22), 0, b"abc"), ok(b"ab")),
        ("no payload", v4(TCP, &[], None, 0, b""), ok(b"")),
        ("total length 0: what came counts", v4(TCP, &[], Some(0), 0, &[7; 70_000]), ok(&[7; 70_000])),
        ("ICMP", v4(ICMP, &[], None, 0, b"x"), Ok((ICMP, b"x".to_vec()))),
        ("total length beyond the packet", v4(TCP, &[], Some(24), 0, b"abc"), Err(DropReason::Truncated)),
        ("total length within the header", v4(TCP, &[], Some(19), 0, b"abc"), Err(DropReason::Truncated)),
        ("header length 4", short_header, Err(DropReason::Truncated)),
        ("header beyond the packet", long_header, Err(DropReason::Truncated)),
        ("nothing", vec![], Err(DropReason::Truncated)),
        ("one byte", vec![0x45], Err(DropReason::Truncated)),
        ("version 5", vec![0x55; 40], Err(DropReason::IpVersion)),
        ("a bit flipped", flipped, Err(DropReason::IpChecksum)),
        ("checksum 0 is no excuse", zero, Err(DropReason::IpChecksum)),
        ("first fragment", v4(TCP, &[], None, 0x2000, b"abc"), Err(DropReason::IpFragment)),
        ("last fragment", v4(TCP, &[], None, 0x0001, b"abc"), Err(DropReason::IpFragment)),
        ("UDP", v4(17, &[], None, 0, b"abc"), Err(DropReason::Protocol)),
        ("ICMPv6 in IPv4", v4(ICMPV6, &[], None, 0, b"abc"), Err(DropReason::Protocol)),
    ];
    for (name, packet, expected) in table {
        assert_eq!(transport(&packet), expected, "{name}");
    }
}

#[test]
fn v6_cases() {
    let ok = Ok((TCP, b"abc".to_vec()));
    let table: &[(&str, u8, &[u8], Transport)] = &[
        ("plain", TCP, b"abc", ok.clone()),
        ("hop by hop, padded", 0, b"\x06\0\x01\x04\0\0\0\0abc", ok.clone()),
        ("router alert, Pad1", 0, b"\x06\0\x05\x02\0\0\0\0abc", ok.clone()),
        ("jumbo", 0, b"\x06\0\xc2\x04\0\0\0\x03abc", ok.clone()),
        ("unknown option to skip", 60, b"\x06\0\x1e\x04\0\0\0\0abc", ok.clone()),
        ("unknown option to discard", 60, b"\x06\0\x5e\x04\0\0\0\0abc", Err(DropReason::Protocol)),
        ("option beyond its header", 60, b"\x06\0\x1e\x05\0\0\0\0abc", Err(DropReason::Truncated)),
        ("routing, arrived", 43, b"\x06\0\x02\0\0\0\0\0abc", ok.clone()),
        ("routing, under way", 43, b"\x06\0\x02\x01\0\0\0\0abc", Err(DropReason::Protocol)),
        ("a chain", 0, b"\x3c\0\x01\x04\0\0\0\0\x2b\0\x01\x04\0\0\0\0\x06\0\x02\0\0\0\0\0abc", ok.clone()),
        ("a long one", 60, b"\x06\x01\x01\x0c\0\0\0\0\0\0\0\0\0\0\0\0abc", ok.clone()),
        ("hop by hop again", 60, b"\0\0\x01\x04\0\0\0\0\x06\0\x01\x04\0\0\0\0", Err(DropReason::Protocol)),
        ("fragment", 44, b"\x06\0\0\x01\0\0\0\0abc", Err(DropReason::IpFragment)),
        ("authentication", 51, b"\x06\0\0\0\0\0\0\0abc", Err(DropReason::Protocol)),
        ("no next header", 59, b"abc", Err(DropReason::Protocol)),
        ("UDP", 17, b"abc", Err(DropReason::Protocol)),
        ("ICMP in IPv6", ICMP, b"abc", Err(DropReason::Protocol)),
        ("extension cut", 60, b"\x06\x01\x01\x04\0\0\0\0abc", Err(DropReason::Truncated)),
        ("extension of one byte", 60, b"\x06", Err(DropReason::Truncated)),
    ];
    for (name, next, payload, expected) in table {
        assert_eq!(transport(&v6(*next, None, payload)), *expected, "{name}");
    }
    assert_eq!(transport(&v6(TCP, Some(2), b"abc")), Ok((TCP, b"ab".to_vec())), "trimmed");
    assert_eq!(transport(&v6(TCP, Some(4), b"abc")), Err(DropReason::Truncated), "too long");
    assert_eq!(transport(&v6(TCP, Some(0), b"abc")), ok, "length 0: what came counts");
    assert_eq!(transport(&v6(TCP, None, b"")), Ok((TCP, vec![])), "no payload");
    assert_eq!(transport(&v6(TCP, None, b"")[..39]), Err(DropReason::Truncated), "header cut");
}

#[test]
fn ecn_bits() {
    for bits in 0..4u8 {
        assert_eq!(Ecn::of(0xb8 | bits).bits(), bits);
    }
    assert_eq!([Ecn::of(1), Ecn::of(2), Ecn::of(3)], [Ecn::Ect1, Ecn::Ect0, Ecn::Ce]);
}

proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(
        mut packet in proptest::collection::vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(4u8), Just(6), any::<u8>()],
    ) {
        if let Some(first) = packet.first_mut() {
            *first = version << 4 | *first & 0xf;
        }
        let _ = parse(&packet);
    }

    #[test]
    fn mutated_packets_parse_or_are_refused(
        six: bool,
        next in prop_oneof![Just(0u8), Just(43), Just(60), Just(6)],
        payload in proptest::collection::vec(prop_oneof![Just(0u8), Just(60), Just(6), any::<u8>()], 0..120),
        hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut packet = if six { v6(next, None, &payload) } else { v4(6, &[], None, 0, &payload) };
        for (at, value) in hits {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        packet.truncate(cut.index(packet.len() + 1).max(packet.len() / 2));
        if let Ok((_, transport)) = parse(&packet) {
            prop_assert!(transport.len() <= packet.len() - 20);
        }
    }

    #[test]
    fn every_single_bit_error_of_a_v4_header_is_found(bit in 0usize..160) {
        let mut packet = v4(TCP, &[], None, 0x4000, b"abc");
        packet[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(parse(&packet).is_err());
    }
}
