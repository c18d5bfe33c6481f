use super::*;
use crate::mem::{MemConfig, pair};
use crate::{RxChecksum, TxChecksum};

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}

/// Kinds and bodies of all blocks; checks lengths and alignment on the way.
fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut found = Vec::new();
    while !file.is_empty() {
        let length = word(file, 4) as usize;
        assert!(length >= 12 && length.is_multiple_of(4) && length <= file.len());
        assert_eq!(word(file, length - 4) as usize, length);
        found.push((word(file, 0), file[8..length - 4].to_vec()));
        file = &file[length..];
    }
    found
}

/// Codes and values of all options, up to the end option.
fn options(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    loop {
        let (code, length) = (half(bytes, 0), usize::from(half(bytes, 2)));
        if code == 0 {
            assert_eq!((length, bytes.len()), (0, 4));
            return found;
        }
        found.push((code, bytes[4..4 + length].to_vec()));
        bytes = &bytes[4 + length.next_multiple_of(4)..];
    }
}

#[test]
fn headers_and_packets_have_the_structure_of_pcapng() {
    let mut writer = PcapngWriter::new(Vec::new(), "raw4", 0).unwrap();
    writer.packet(0x1234_5678_9abc_def0, Direction::Out, &[&[0x45, 1], &[2, 3, 4]]);
    writer.flush().unwrap();
    let blocks = blocks(&writer.into_inner());
    assert_eq!(blocks.iter().map(|block| block.0).collect::<Vec<_>>(), [0x0A0D_0D0A, 1, 6]);

    let section = &blocks[0].1;
    assert_eq!(word(section, 0), 0x1A2B_3C4D);
    assert_eq!((half(section, 4), half(section, 6)), (1, 0));
    assert_eq!(section[8..], [0xff; 8]);

    let interface = &blocks[1].1;
    assert_eq!((half(interface, 0), word(interface, 4)), (101, 0));
    assert_eq!(options(&interface[8..]), [(2, b"raw4".to_vec()), (9, vec![9])]);

    let packet = &blocks[2].1;
    assert_eq!((word(packet, 4), word(packet, 8)), (0x1234_5678, 0x9abc_def0));
    assert_eq!((word(packet, 12), word(packet, 16)), (5, 5));
    assert_eq!(packet[20..28], [0x45, 1, 2, 3, 4, 0, 0, 0]);
    assert_eq!(options(&packet[28..]), [(2, 2_u32.to_ne_bytes().to_vec())]);
}

#[test]
fn long_packets_are_cut() {
    let mut writer = PcapngWriter::new(Vec::new(), "x", 4).unwrap();
    writer.packet(0, Direction::In, &[&[1, 2, 3], &[4, 5], &[6]]);
    writer.flush().unwrap();
    let packet = &blocks(&writer.into_inner())[2].1;
    assert_eq!((word(packet, 12), word(packet, 16)), (4, 6));
    assert_eq!(packet[20..24], [1, 2, 3, 4]);
    assert_eq!(options(&packet[24..]), [(2, 1_u32.to_ne_bytes().to_vec())]);
}

#[test]
fn a_stripped_header_is_put_back() {
    let meta = RxMeta {
        header: RxHeader::Stripped {
            src: "2001:db8::1".parse().unwrap(),
            dst: "2001:db8::2".parse().unwrap(),
            next_header: 6,
            hop_limit: 63,
            traffic_class: 0x03,
        },
        checksum: RxChecksum::Unknown,
        ..RxMeta::IP
    };
    let header = ipv6_header(&meta, 0x1234).unwrap();
    assert_eq!(header[..8], [0x60, 0x30, 0, 0, 0x12, 0x34, 6, 63]);
    assert_eq!((header[8], header[23], header[24], header[39]), (0x20, 1, 0x20, 2));
    assert!(ipv6_header(&RxMeta::IP, 0).is_none());
}

#[test]
fn a_tee_records_both_directions() {
    let (ours, theirs) = pair(MemConfig::default());
    let tee = Tee::new(ours, PcapngWriter::new(Vec::new(), "mem", 0).unwrap());
    let send = |device: &dyn PacketIo, data: &[u8]| {
        let slices = [IoSlice::new(data)];
        let dst = "10.0.0.1".parse().unwrap();
        let packet =
            TxPacket { dst, scope: 0, link: None, slices: &slices, segment_size: 0, checksum: TxChecksum::Complete };
        assert!(matches!(device.send(&[packet]), (1, None)));
    };
    send(&tee, &[0x45, 0, 1]);
    send(&theirs, &[0x45, 0, 2]);
    let mut batch = RxBatch::new(4);
    assert_eq!(tee.recv(&mut batch).unwrap(), Drained::Yes);
    let file = tee.capture.into_inner().unwrap().writer.into_inner();
    let packets: Vec<(u8, u8)> = blocks(&file)[2..]
        .iter()
        .map(|(_, body)| (body[22], options(&body[24..])[0].1.iter().copied().max().unwrap()))
        .collect();
    assert_eq!(packets, [(1, 2), (2, 1)]);
}

#[test]
fn a_failing_writer_ends_the_capture_not_the_traffic() {
    #[derive(Debug)]
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 1 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(data.len()) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (ours, theirs) = pair(MemConfig::default());
    let tee = Tee::new(ours, PcapngWriter::new(Full(0), "mem", 0).unwrap());
    for _ in 0..3 {
        let slices = [IoSlice::new(&[0x45, 0])];
        let dst = "10.0.0.1".parse().unwrap();
        let packet =
            TxPacket { dst, scope: 0, link: None, slices: &slices, segment_size: 0, checksum: TxChecksum::Complete };
        assert!(matches!(tee.send(&[packet]), (1, None)));
    }
    let mut batch = RxBatch::new(8);
    theirs.recv(&mut batch).unwrap();
    assert_eq!(batch.len(), 3);
    assert_eq!(tee.error().unwrap().kind(), io::ErrorKind::StorageFull);
}

/// What a stack has to know of a device whose interface was removed, and has to tell it at its end.
#[test]
fn a_captured_device_is_gone_and_released_with_the_one_inside() {
    #[derive(Debug, Default)]
    struct Gone {
        slot: crate::WakeSlot,
        released: std::sync::atomic::AtomicBool,
    }
    impl PacketIo for Gone {
        fn name(&self) -> &str {
            "gone"
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities { mtu: 1500, max_segmentable: 0, tx_checksum: false, max_batch: 1, frames: false }
        }
        fn recv(&self, _: &mut RxBatch) -> io::Result<Drained> {
            Ok(Drained::Yes)
        }
        fn send(&self, _: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
            (0, None)
        }
        fn ready_source(&self) -> ReadySource<'_> {
            ReadySource::Waker(&self.slot)
        }
        fn drops(&self) -> u64 {
            0
        }
        fn is_gone(&self) -> bool {
            true
        }
        fn release(&self) {
            self.released.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        fn set_ports(&self, _: &PortSet) -> io::Result<()> {
            Ok(())
        }
        fn recv_queue_bytes(&self) -> usize {
            0
        }
    }
    let device = Tee::new(Gone::default(), PcapngWriter::new(Vec::new(), "gone", 0).unwrap());
    assert!(device.is_gone());
    device.release();
    assert!(device.device().released.load(std::sync::atomic::Ordering::Relaxed));
}
