use super::super::ip;
use super::super::options::tests::any_options;
use super::super::options::{SackBlocks, Timestamps};
use super::checksum::tests::naive;
use super::*;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Computed by a separate program, straight from RFC 791, 8200 and 9293.
const V4_SYN: &str = "4502003cbeef400040068f8ec0000201c6336407c82201bb1234567800000000a002faf0cc3e0000\
    020405b40402080a00bc614e0000000001030307";
const V6_DATA: &str = "6b9abcde0025063920010db800000000000000000000000120010db8000000000000000000000002\
    01bbc822fffffffe12345679801801f5973200000101080a000003e8000007d068656c6c6f";
/// The pseudo header sums of the two.
const V4_SYN_PSEUDO: u16 = 0xec6a;
const V6_DATA_PSEUDO: u16 = 0x5ba0;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn v4_syn() -> (IpMeta, TcpHeader) {
    let ip = IpMeta {
        src: "192.0.2.1".parse().unwrap(),
        dst: "198.51.100.7".parse().unwrap(),
        ttl: 64,
        traffic_class: 2,
        id: 0xbeef,
        flow_label: 0,
    };
    let options = Options {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: 12_345_678, echo: 0 }),
        ..Options::default()
    };
    let header = TcpHeader {
        src_port: 51234,
        dst_port: 443,
        seq: SeqNum(0x1234_5678),
        flags: Flags::SYN,
        window: WireWindow(64240),
        options,
        ..TcpHeader::default()
    };
    (ip, header)
}

fn v6_data() -> (IpMeta, TcpHeader) {
    let ip = IpMeta {
        src: "2001:db8::1".parse().unwrap(),
        dst: "2001:db8::2".parse().unwrap(),
        ttl: 57,
        traffic_class: 0xb9,
        id: 0,
        flow_label: 0xfff_abcde,
    };
    let header = TcpHeader {
        src_port: 443,
        dst_port: 51234,
        seq: SeqNum(0xffff_fffe),
        ack: SeqNum(0x1234_5679),
        flags: Flags::PSH | Flags::ACK,
        window: WireWindow(501),
        urgent: 0,
        options: Options { timestamps: Some(Timestamps { value: 1000, echo: 2000 }), ..Options::default() },
    };
    (ip, header)
}

fn whole(ip: &IpMeta, header: &TcpHeader, payload: &[u8], finished: bool) -> Vec<u8> {
    let mut buf = HeaderBuf::new();
    build(&mut buf, ip, header, payload.len(), finished.then(|| checksum::sum(payload)));
    [buf.as_slice(), payload].concat()
}

type Parsed = Result<(TcpHeader, Vec<u8>, ChecksumVerdict), DropReason>;

fn parse_packet(packet: &[u8], state: ChecksumState, pseudo_too: bool) -> Parsed {
    let (ip, bytes) = ip::parse(packet)?;
    parse(&ip, bytes, state, pseudo_too).map(|(header, payload, verdict)| (header, payload.to_vec(), verdict))
}

#[test]
fn known_packets_both_ways() {
    for (name, text, (ip, header), payload) in
        [("v4 SYN", V4_SYN, v4_syn(), &b""[..]), ("v6 data", V6_DATA, v6_data(), b"hello")]
    {
        let bytes = hex(text);
        assert_eq!(whole(&ip, &header, payload, true), bytes, "{name}");
        let parsed = parse_packet(&bytes, ChecksumState::Unknown, false);
        assert_eq!(parsed, Ok((header, payload.to_vec(), ChecksumVerdict::Full)), "{name}");
    }
}

#[test]
fn offloaded_checksums_hold_the_pseudo_sum() {
    for ((ip, header), payload, expected) in
        [(v4_syn(), &b""[..], V4_SYN_PSEUDO), (v6_data(), b"hello", V6_DATA_PSEUDO)]
    {
        let mut buf = HeaderBuf::new();
        build(&mut buf, &ip, &header, payload.len(), None);
        let at = buf.tcp_start() + HeaderBuf::checksum_offset();
        assert_eq!(buf.as_slice()[at..at + 2], expected.to_be_bytes());

        // What a device then does: sum from the TCP header on, field included, and complement.
        let mut packet = [buf.as_slice(), payload].concat();
        let field = checksum::finish(checksum::sum(&packet[buf.tcp_start()..]));
        packet[at..at + 2].copy_from_slice(&field.to_be_bytes());
        assert_eq!(packet, whole(&ip, &header, payload, true));
    }
}

#[test]
fn checksum_verdicts() {
    use ChecksumState::{Partial, Unknown, Valid};
    use ChecksumVerdict::{Full, PseudoOnly};
    let (ip, header) = v6_data();
    let full = whole(&ip, &header, b"hello", true);
    let pseudo = whole(&ip, &header, b"hello", false);
    let mut wrong = full.clone();
    *wrong.last_mut().unwrap() ^= 0x10;
    let table = [
        ("right", &full, Unknown, false, Ok(Full)),
        ("right, pseudo also accepted", &full, Unknown, true, Ok(Full)),
        ("pseudo only, accepted", &pseudo, Unknown, true, Ok(PseudoOnly)),
        ("pseudo only, not accepted", &pseudo, Unknown, false, Err(DropReason::Checksum)),
        ("pseudo only, by the device's word", &pseudo, Partial, false, Ok(PseudoOnly)),
        ("wrong", &wrong, Unknown, true, Err(DropReason::Checksum)),
        ("wrong, but the device knows better", &wrong, Valid, false, Ok(Full)),
    ];
    for (name, packet, state, accept, expected) in table {
        assert_eq!(parse_packet(packet, state, accept).map(|(_, _, verdict)| verdict), expected, "{name}");
    }
}

/// Both zeros of ones-complement arithmetic are right, wherever one of them is.
#[test]
fn the_two_zeros_are_one() {
    let (ip, mut header) = v4_syn();
    // The urgent pointer is free here: choose it so that the checksum comes out as zero.
    let mut packet = whole(&ip, &header, b"", true);
    header.urgent = u16::from_be_bytes([packet[36], packet[37]]);
    packet = whole(&ip, &header, b"", true);
    assert_eq!(packet[36..38], [0, 0]);
    assert!(parse_packet(&packet, ChecksumState::Unknown, false).is_ok());
    packet[36..38].fill(0xff);
    assert!(parse_packet(&packet, ChecksumState::Unknown, false).is_ok());

    // And a pseudo header that sums to zero: its protocol and length are 46, so the addresses give the rest.
    let ip = IpHeader {
        src: Ipv4Addr::new(0, 0, 0xff, 0xff).into(),
        dst: Ipv4Addr::new(0, 0, 0xff, 0xff - 46).into(),
        protocol: TCP,
        ttl: 1,
        traffic_class: 0,
    };
    let mut bytes = packet[20..].to_vec();
    for (field, expected) in [
        (0x0000u16, Ok(ChecksumVerdict::PseudoOnly)),
        (0xffff, Ok(ChecksumVerdict::PseudoOnly)),
        (0x0001, Err(DropReason::Checksum)),
        (0xfffe, Err(DropReason::Checksum)),
    ] {
        bytes[16..18].copy_from_slice(&field.to_be_bytes());
        let parsed = parse(&ip, &bytes, ChecksumState::Unknown, true);
        assert_eq!(parsed.map(|(_, _, verdict)| verdict), expected, "{field:04x}");
    }
}

#[test]
fn bad_headers() {
    let packet = hex(V4_SYN);
    let (ip, tcp) = ip::parse(&packet).unwrap();
    let change = |at: usize, value: u8| {
        let mut bytes = tcp.to_vec();
        bytes[at] = value;
        bytes
    };
    let table = [
        ("nothing", vec![], DropReason::Truncated),
        ("19 bytes", tcp[..19].to_vec(), DropReason::Truncated),
        ("data offset 0", change(12, 0x00), DropReason::DataOffset),
        ("data offset 4", change(12, 0x40), DropReason::DataOffset),
        ("data offset beyond the segment", change(12, 0xb0), DropReason::DataOffset),
        ("MSS of length 0", change(21, 0), DropReason::OptionLength),
        ("MSS of length 1", change(21, 1), DropReason::OptionLength),
        ("options overrun", change(21, 41), DropReason::OptionLength),
    ];
    for (name, bytes, expected) in table {
        assert_eq!(parse(&ip, &bytes, ChecksumState::Valid, false), Err(expected), "{name}");
    }
    let reserved = change(12, 0xaf);
    assert!(parse(&ip, &reserved, ChecksumState::Valid, false).is_ok(), "reserved bits are ignored");
}

#[test]
fn lengths_beyond_the_ip_header_are_written_as_zero() {
    for (ip, header) in [v4_syn(), v6_data()] {
        let payload = vec![0x5a; 100_001];
        let packet = whole(&ip, &header, &payload, true);
        let at = if ip.src.is_ipv4() { 2 } else { 4 };
        assert_eq!(packet[at..at + 2], [0, 0]);
        let parsed = parse_packet(&packet, ChecksumState::Unknown, false);
        assert_eq!(parsed, Ok((header, payload, ChecksumVerdict::Full)));
    }
}

#[test]
fn sequence_length_counts_syn_and_fin() {
    let mut segment = Segment { header: v6_data().1, payload: b"hello", owner: None, ecn: Ecn::NotEct, gro_size: 0 };
    for (flags, expected) in [
        (Flags::ACK, 5),
        (Flags::SYN, 6),
        (Flags::FIN | Flags::ACK, 6),
        (Flags::SYN | Flags::FIN, 7),
        (Flags::RST | Flags::PSH | Flags::URG, 5),
    ] {
        segment.header.flags = flags;
        assert_eq!(segment.seq_len(), expected, "{flags}");
    }
}

#[test]
fn texts() {
    assert_eq!(format!("{}", Flags::ACK | Flags::SYN), "SYN|ACK");
    assert_eq!(format!("{:?}", Flags(0xff)), "FIN|SYN|RST|PSH|ACK|URG|ECE|CWR");
    assert_eq!(format!("{}", Flags::NONE), "none");
    let syn = "51234 > 443 [SYN] seq 305419896 win 64240 <mss 1460,sackOK,TS val 12345678 ecr 0,wscale 7>";
    assert_eq!(format!("{:?}", v4_syn().1), syn);
    let header = TcpHeader { flags: Flags::ACK | Flags::URG, urgent: 3, ..TcpHeader::default() };
    assert_eq!(format!("{header:?}"), "0 > 0 [ACK|URG] seq 0 ack 0 win 0 urg 3");
}

#[test]
fn flag_sets() {
    let syn_ack = Flags::SYN | Flags::ACK;
    assert!(syn_ack.contains(Flags::SYN) && syn_ack.contains(syn_ack) && syn_ack.contains(Flags::NONE));
    assert!(!Flags::SYN.contains(syn_ack) && Flags::SYN.intersects(syn_ack));
    assert!(!Flags::RST.intersects(syn_ack) && !Flags::NONE.intersects(Flags(0xff)));
    assert_eq!(syn_ack.without(Flags::ACK | Flags::FIN), Flags::SYN);
    let mut flags = Flags::NONE;
    flags |= Flags::FIN;
    assert_eq!(flags, Flags::FIN);
}

prop_compose! {
    fn any_header()(
        ports: (u16, u16), seq: u32, ack: u32, flags: u8, window: u16, urgent: u16, options in any_options(),
    ) -> TcpHeader {
        // The blocks for which there is no room do not come back.
        let mut fitting = options;
        let mut encoded = vec![0; options.encoded_len()];
        options.emit(&mut encoded);
        let kept = Options::parse(&encoded).unwrap().sack.len();
        fitting.sack = SackBlocks::default();
        options.sack.iter().take(kept).for_each(|(start, end)| assert!(fitting.sack.push(start, end)));
        TcpHeader {
            src_port: ports.0,
            dst_port: ports.1,
            seq: SeqNum(seq),
            ack: SeqNum(ack),
            flags: Flags(flags),
            window: WireWindow(window),
            urgent,
            options: fitting,
        }
    }
}

prop_compose! {
    fn any_ip()(six: bool, src: u128, dst: u128, ttl: u8, traffic_class: u8, id: u16, flow_label: u32) -> IpMeta {
        let address = |bits: u128| -> IpAddr {
            if six { Ipv6Addr::from(bits).into() } else { Ipv4Addr::from(bits as u32).into() }
        };
        IpMeta { src: address(src), dst: address(dst), ttl, traffic_class, id, flow_label }
    }
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

proptest! {
    #[test]
    fn round_trip(
        ip in any_ip(),
        header in any_header(),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        finished: bool,
    ) {
        let packet = whole(&ip, &header, &payload, finished);
        let (back, bytes) = ip::parse(&packet).unwrap();
        let expected =
            IpHeader { src: ip.src, dst: ip.dst, protocol: TCP, ttl: ip.ttl, traffic_class: ip.traffic_class };
        prop_assert_eq!(back, expected);
        let (parsed, data, verdict) = parse(&back, bytes, ChecksumState::Unknown, !finished).unwrap();
        prop_assert_eq!((parsed, data), (header, &payload[..]));
        if finished {
            prop_assert_eq!(verdict, ChecksumVerdict::Full);
            let mut all = [octets(ip.src), octets(ip.dst)].concat();
            all.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            all.extend_from_slice(&[0, 0, 0, TCP]);
            all.extend_from_slice(bytes);
            prop_assert_eq!(naive(&all), 0xffff);
        }
    }

    #[test]
    fn every_single_bit_error_is_found(
        ip in any_ip(),
        header in any_header(),
        payload in proptest::collection::vec(any::<u8>(), 0..100),
        bit in any::<prop::sample::Index>(),
    ) {
        let packet = whole(&ip, &header, &payload, true);
        let (ip, tcp) = ip::parse(&packet).unwrap();
        let mut tcp = tcp.to_vec();
        let bit = bit.index(tcp.len() * 8);
        tcp[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(parse(&ip, &tcp, ChecksumState::Unknown, false), Err(DropReason::Checksum));
    }

    #[test]
    fn any_bytes_parse_or_are_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        state in prop_oneof![
            Just(ChecksumState::Unknown), Just(ChecksumState::Valid), Just(ChecksumState::Partial)
        ],
        accept: bool,
    ) {
        let packet = hex(V4_SYN);
        let (ip, _) = ip::parse(&packet).unwrap();
        let _ = parse(&ip, &bytes, state, accept);
    }

    #[test]
    fn mutated_packets_parse_or_are_refused(
        ip in any_ip(),
        header in any_header(),
        hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut packet = whole(&ip, &header, b"payload", true);
        for (at, value) in hits {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        packet.truncate(cut.index(packet.len() + 1).max(packet.len() * 3 / 4));
        let _ = parse_packet(&packet, ChecksumState::Unknown, true);
        let skip = if ip.src.is_ipv4() { 20 } else { 40 };
        let ip = IpHeader { src: ip.src, dst: ip.dst, protocol: TCP, ttl: 1, traffic_class: 0 };
        if let Ok((header, _, _)) = parse(&ip, packet.get(skip..).unwrap_or(&[]), ChecksumState::Valid, false) {
            let _ = format!("{header:?}");
        }
    }
}
