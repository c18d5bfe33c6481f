//! Bytes as they may come from a device: they are understood or dropped, and what is understood can be said again.

use rawtcp_proto::wire::ip::{self, IpMeta};
use rawtcp_proto::wire::tcp::{self, ChecksumState, HeaderBuf};
use rawtcp_proto::wire::{IpHeader, Options, checksum, icmp};

#[test]
fn packet() {
    bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
        let Ok((ip, transport)) = ip::parse(bytes) else { return };
        understand(&ip, transport);
    });
}

/// As [`packet`], behind a header that is right.
#[test]
fn transport() {
    bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let (src, dst) = (src.parse().expect("an address"), dst.parse().expect("an address"));
            for protocol in [ip::TCP, ip::ICMP, ip::ICMPV6] {
                understand(&IpHeader { src, dst, protocol, ttl: 64, traffic_class: 0 }, bytes);
            }
        }
    });
}

fn understand(ip: &IpHeader, transport: &[u8]) {
    // The error that is read is checked elsewhere; here it must not panic.
    let _ = icmp::parse_v4(ip, transport);
    let _ = icmp::parse_v6(ip, transport, true);
    let _ = icmp::parse_v6(ip, transport, false);
    for state in [ChecksumState::Unknown, ChecksumState::Valid, ChecksumState::Partial] {
        let Ok((header, payload, _)) = tcp::parse(ip, transport, state, true) else { continue };
        if ip.src.is_ipv4() != ip.dst.is_ipv4() {
            continue;
        }
        let meta = IpMeta { src: ip.src, dst: ip.dst, ttl: 1, traffic_class: ip.traffic_class, id: 0, flow_label: 0 };
        let mut buf = HeaderBuf::new();
        tcp::build(&mut buf, &meta, &header, payload.len(), Some(checksum::sum(payload)));
        let again = [buf.as_slice(), payload].concat();
        let (again_ip, transport) = ip::parse(&again).expect("what is built is understood");
        let (again, text, _) =
            tcp::parse(&again_ip, transport, ChecksumState::Unknown, false).expect("what is built is understood");
        assert_eq!((again, text), (header, payload));
        assert_eq!(again_ip.traffic_class, ip.traffic_class);
    }
}

#[test]
fn options() {
    bolero::check!().with_iterations(50_000).for_each(|bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(40)];
        let Ok(options) = Options::parse(bytes) else { return };
        let mut out = [0xff; 40];
        let len = options.encoded_len();
        assert!(len <= 40 && len.is_multiple_of(4));
        options.emit(&mut out[..len]);
        let again = Options::parse(&out[..len]).expect("what is written is understood");
        // Fewer SACK blocks may fit beside the padding that others get.
        assert_eq!(Options { sack: options.sack, ..again }, options);
        assert!(again.sack.iter().eq(options.sack.iter().take(again.sack.len())));
    });
}
