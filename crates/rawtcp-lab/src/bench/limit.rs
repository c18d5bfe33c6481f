//! What the packet path itself can carry: full segments by bare `sendmmsg`, with no TCP behind them.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rawtcp_io::{Guard, GuardRequest, PacketIo, RawConfig, RawIpV4, RawIpV6, SendError, TxChecksum, TxPacket, route};
use serde::{Deserialize, Serialize};

use crate::measure::control::Control;
use crate::measure::{Metrics, cpu};

/// The sender of segments that belong to no connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Flood {
    pub(crate) to: SocketAddr,
    /// Bytes of an IP packet.
    pub(crate) mtu: usize,
    pub(crate) seconds: f64,
}

/// Keeps the kernel from answering them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Silence {
    pub(crate) at: SocketAddr,
}

/// TCP's header with timestamps.
const TCP_HEADER: usize = 32;

/// Packets of one system call.
const BATCH: usize = 64;

pub(crate) async fn silence(work: &Silence, control: &mut Control) -> io::Result<Metrics> {
    let _guard = Guard::bind(&GuardRequest { addr: work.at, v6only: true, device: None })?;
    control.ready();
    control.next().await;
    Ok(Metrics::new())
}

pub(crate) async fn flood(work: &Flood, control: &mut Control) -> io::Result<Metrics> {
    let socket: Box<dyn PacketIo> = match work.to {
        SocketAddr::V4(_) => Box::new(RawIpV4::open(&RawConfig::default())?),
        SocketAddr::V6(_) => Box::new(RawIpV6::open(&RawConfig::default())?),
    };
    let source = route::lookup(work.to, None, None)?.source;
    let header = header(source, work.to, work.mtu)?;
    let payload = vec![0x5a; work.mtu - header.len()];
    let slices = [IoSlice::new(&header), IoSlice::new(&payload)];
    let packet = TxPacket {
        dst: work.to.ip(),
        scope: 0,
        link: None,
        slices: &slices,
        segment_size: 0,
        checksum: TxChecksum::Complete,
    };
    let packets = [packet; BATCH];
    control.ready();
    control.next().await;
    let (spent, start) = (cpu::process(), Instant::now());
    let (mut sent, mut lost) = (0u64, 0u64);
    while start.elapsed() < Duration::from_secs_f64(work.seconds) {
        match socket.send(&packets) {
            (done, None | Some(SendError::WouldBlock)) => sent += done as u64,
            (done, Some(SendError::Lost(_))) => (sent, lost) = (sent + done as u64, lost + 1),
            (_, Some(error)) => return Err(io::Error::other(error.to_string())),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let bytes = (sent as usize * payload.len()) as f64;
    Ok([
        ("bytes", bytes),
        ("seconds", seconds),
        ("gbit_s", bytes * 8.0 / 1e9 / seconds),
        ("packets_per_s", sent as f64 / seconds),
        ("drop.socket", lost as f64),
        ("cpu_s", (cpu::process() - spent).as_secs_f64()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into())
}

/// IP and TCP headers of a bare ACK segment with data; its checksum does not matter to who drops it unseen.
fn header(from: IpAddr, to: SocketAddr, mtu: usize) -> io::Result<Vec<u8>> {
    let mut packet = match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0];
            ip[2..4].copy_from_slice(&(mtu as u16).to_be_bytes());
            ip.extend(from.octets());
            ip.extend(to.octets());
            ip
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
            ip[4..6].copy_from_slice(&((mtu - 40) as u16).to_be_bytes());
            ip.extend(from.octets());
            ip.extend(to.octets());
            ip
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut tcp = [0; TCP_HEADER];
    tcp[..2].copy_from_slice(&1u16.to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    // Data offset, ACK, a window; the options are padding.
    tcp[12..16].copy_from_slice(&[0x80, 0x10, 0xff, 0xff]);
    tcp[20..].fill(1);
    packet.extend(tcp);
    Ok(packet)
}
