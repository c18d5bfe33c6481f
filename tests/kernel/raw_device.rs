//! The raw IP device alone, on an Ethernet.

use crate::common::{Outcome, PATIENCE, iproute2};
use crate::ethernet::run;
use crate::packet_device::says_when_there_is_room;
use crate::tests;
use rawtcp_io::afpacket_raw::{PacketOptions, PacketSocket};
use rawtcp_io::network::Network;
use rawtcp_io::wait::{Interest, poll};
use rawtcp_io::{PacketIo, PortSet, RawConfig, RawIpV4, RawIpV6, ReadySource, RxBatch, TxChecksum, TxPacket};
use rawtcp_lab::topology::{CLIENT_V4, CLIENT_V6, INTERFACE, Pair, SERVER_V4};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

tests!(
    broadcast_in_a_frame_for_one_host_is_told_apart,
    a_full_interface_says_when_there_is_room => iproute2,
);

const PORT: u16 = 4700;

/// A segment without payload, from the client to the port.
fn v4(destination: Ipv4Addr) -> Vec<u8> {
    let mut packet = [&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1], &destination.octets()[..]].concat();
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    packet.extend([&1_u16.to_be_bytes()[..], &PORT.to_be_bytes(), &[0; 16]].concat());
    packet
}

/// A router that knows no better, or an attacker, sends it so (RFC 1812 §5.3.5): the link does not tell.
fn broadcast_in_a_frame_for_one_host_is_told_apart() -> Outcome {
    let pair = Pair::new()?;
    let (device, mac) = pair.server.run(|| {
        let device = RawIpV4::open(&RawConfig::default())?;
        device.set_ports(&PortSet::from_iter([PORT]))?;
        let interface = Network::open()?.interfaces().first().cloned().ok_or(io::ErrorKind::NotFound)?;
        io::Result::Ok((device, interface.mac()))
    })?;
    let wire = pair.client.run(|| {
        let interface = Network::open()?.interfaces().first().cloned().ok_or(io::ErrorKind::NotFound)?;
        PacketSocket::bind(interface.index(), PacketOptions::default())
    })?;
    let IpAddr::V4(server) = SERVER_V4 else { unreachable!("an IPv4 address") };
    let everybody = Ipv4Addr::new(10, 0, 0, 255);
    let sent = [server, everybody, server, everybody, everybody, server];
    for destination in sent {
        wire.send(&[&mac[..], &[2, 0, 0, 0, 0, 1], &[8, 0], &v4(destination)].concat())?;
    }
    let ReadySource::Fd(fd) = device.ready_source() else { unreachable!("a socket has a descriptor") };
    let (mut seen, mut batch) = (Vec::new(), RxBatch::new(8));
    while seen.len() < sent.len() {
        assert_eq!(poll(&mut [Interest::readable(fd)], Some(PATIENCE))?, 1, "{seen:?}");
        device.recv(&mut batch)?;
        seen.extend(batch.iter().map(|(meta, packet)| (packet[19], meta.to_other)));
    }
    assert_eq!(seen, sent.map(|destination| (destination.octets()[3], destination == everybody)));
    let sender = device.writable_fd().ok_or("a descriptor")?;
    assert_eq!(poll(&mut [Interest::readable(sender)], Some(Duration::ZERO))?, 0, "a socket that only sends");
    Ok(())
}

/// It sends by a socket that nobody waits for otherwise.
fn a_full_interface_says_when_there_is_room() -> Outcome {
    let pair = Pair::new()?;
    run(&pair.server, &format!("tc qdisc add dev {INTERFACE} root tbf rate 20mbit burst 10kb limit 4mb"))?;
    let v6 = [&[0x60, 0, 0, 0, 5, 0xb4 - 0x28, 6, 64], &[0; 32][..], &[0; 1420]].concat();
    let mut v4 = v4(Ipv4Addr::new(10, 0, 0, 1));
    v4.resize(1460, 0);
    let (device4, device6) = pair
        .server
        .run(|| io::Result::Ok((RawIpV4::open(&RawConfig::default())?, RawIpV6::open(&RawConfig::default())?)))?;
    for (device, dst, packet) in [(&device4 as &dyn PacketIo, CLIENT_V4, v4), (&device6, CLIENT_V6, v6)] {
        let slices = [IoSlice::new(&packet)];
        let full =
            TxPacket { dst, scope: 0, link: None, slices: &slices, segment_size: 0, checksum: TxChecksum::Complete };
        says_when_there_is_room(device, full)?;
    }
    Ok(())
}
