//! Packet capture: a pcapng writer and a tee around any device.
//!
//! Blocks are written in the machine's byte order, with one interface of link type RAW (packets begin with the IP
//! header) and nanosecond timestamps. See draft-ietf-opsawg-pcapng §4.

use std::io::{self, IoSlice, Write};
use std::net::Ipv6Addr;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Capabilities, Drained, PacketIo, PortSet, ReadySource, RxBatch, RxHeader, RxMeta, SendError, TxPacket};

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const BYTE_ORDER_MAGIC: u32 = 0x1A2B_3C4D;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const LINKTYPE_RAW: u16 = 101;
const IPV6_HEADER: usize = 40;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// Writes pcapng. Blocks are collected and handed to the writer by [`flush`](Self::flush), so that a file never ends
/// inside a block of an earlier flush.
#[derive(Debug)]
pub struct PcapngWriter<W> {
    writer: W,
    buffer: Vec<u8>,
    snap_length: u32,
}

impl<W: Write> PcapngWriter<W> {
    /// Starts a capture which keeps up to `snap_length` bytes of each packet (0: all), on an interface of that name.
    pub fn new(writer: W, interface: &str, snap_length: u32) -> io::Result<Self> {
        let mut this = Self { writer, buffer: Vec::with_capacity(4096), snap_length };
        this.block(SECTION_HEADER, |body| {
            body.extend_from_slice(&BYTE_ORDER_MAGIC.to_ne_bytes());
            body.extend_from_slice(&1_u16.to_ne_bytes()); // version 1.0
            body.extend_from_slice(&0_u16.to_ne_bytes());
            body.extend_from_slice(&(-1_i64).to_ne_bytes()); // section length: not told
        });
        this.block(INTERFACE_DESCRIPTION, |body| {
            body.extend_from_slice(&LINKTYPE_RAW.to_ne_bytes());
            body.extend_from_slice(&[0; 2]);
            body.extend_from_slice(&snap_length.to_ne_bytes());
            option(body, 2, interface.as_bytes()); // if_name
            option(body, 9, &[9]); // if_tsresol: 10^-9 s
            option(body, 0, &[]);
        });
        this.flush()?;
        Ok(this)
    }

    /// Adds a packet, given in pieces, at a time in nanoseconds since 1970.
    pub fn packet(&mut self, nanos: u64, direction: Direction, pieces: &[&[u8]]) {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let kept = if self.snap_length == 0 { length } else { length.min(self.snap_length as usize) };
        self.block(ENHANCED_PACKET, |body| {
            body.extend_from_slice(&0_u32.to_ne_bytes()); // the one interface
            body.extend_from_slice(&((nanos >> 32) as u32).to_ne_bytes());
            body.extend_from_slice(&(nanos as u32).to_ne_bytes());
            body.extend_from_slice(&(kept as u32).to_ne_bytes());
            body.extend_from_slice(&(length as u32).to_ne_bytes());
            let mut left = kept;
            for piece in pieces {
                let part = piece.len().min(left);
                body.extend_from_slice(&piece[..part]);
                left -= part;
            }
            pad(body);
            let flags: u32 = match direction {
                Direction::In => 1,
                Direction::Out => 2,
            };
            option(body, 2, &flags.to_ne_bytes()); // epb_flags
            option(body, 0, &[]);
        });
    }

    /// Hands everything collected to the writer, with one write where possible.
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.writer.write_all(&self.buffer).and_then(|()| self.writer.flush());
        self.buffer.clear();
        result
    }

    /// The writer; what was not flushed is lost.
    pub fn into_inner(self) -> W {
        self.writer
    }

    /// Type, length, body, length again. Bodies are multiples of four bytes.
    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        body(&mut self.buffer);
        let length = ((self.buffer.len() - start + 4) as u32).to_ne_bytes();
        self.buffer[start + 4..start + 8].copy_from_slice(&length);
        self.buffer.extend_from_slice(&length);
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend_from_slice(&code.to_ne_bytes());
    body.extend_from_slice(&(value.len() as u16).to_ne_bytes());
    body.extend_from_slice(value);
    pad(body);
}

/// Every block begins at a multiple of four, so the buffer's length tells.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The IPv6 header which a raw socket stripped, as far as it told.
fn ipv6_header(meta: &RxMeta, payload: usize) -> Option<[u8; IPV6_HEADER]> {
    let RxHeader::Stripped { src, dst, next_header, hop_limit, traffic_class } = meta.header else {
        return None;
    };
    let mut header = [0; IPV6_HEADER];
    header[0] = 0x60 | traffic_class >> 4;
    header[1] = traffic_class << 4;
    // 0 for more than 65,535 bytes, as the kernel does with its own large packets.
    header[4..6].copy_from_slice(&u16::try_from(payload).unwrap_or(0).to_be_bytes());
    header[6] = next_header;
    header[7] = hop_limit;
    let octets = |address: Ipv6Addr| address.octets();
    header[8..24].copy_from_slice(&octets(src));
    header[24..].copy_from_slice(&octets(dst));
    Some(header)
}

/// A device which writes down what passes through another one. Packets are recorded as the device takes and gives them:
/// merged ones in one piece, checksums possibly not yet complete, ICMP as well as TCP.
///
/// A failing writer ends the capture, never the traffic: see [`error`](Self::error).
#[derive(Debug)]
pub struct Tee<D, W> {
    device: D,
    capture: Mutex<Capture<W>>,
}

#[derive(Debug)]
struct Capture<W> {
    writer: PcapngWriter<W>,
    error: Option<io::Error>,
}

impl<D: PacketIo, W: Write + Send + std::fmt::Debug> Tee<D, W> {
    /// Records everything that passes through `device`.
    pub fn new(device: D, writer: PcapngWriter<W>) -> Self {
        Self { device, capture: Mutex::new(Capture { writer, error: None }) }
    }

    /// The device inside.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The error which ended the capture, if one did; told once.
    pub fn error(&self) -> Option<io::Error> {
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        let error = capture.error.take()?;
        capture.error = Some(error.kind().into());
        Some(error)
    }
}

fn wall_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

impl<W: Write> Capture<W> {
    fn flush(&mut self) {
        if let Err(error) = self.writer.flush() {
            self.error = Some(error);
        }
    }
}

impl<D: PacketIo, W: Write + Send + std::fmt::Debug> PacketIo for Tee<D, W> {
    fn name(&self) -> &str {
        self.device.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }
    fn recv(&self, batch: &mut RxBatch) -> io::Result<Drained> {
        let drained = self.device.recv(batch)?;
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        if !batch.is_empty() && capture.error.is_none() {
            let now = wall_nanos();
            for (meta, data) in batch.iter() {
                match ipv6_header(meta, data.len()) {
                    Some(header) => capture.writer.packet(now, Direction::In, &[&header, data]),
                    None => capture.writer.packet(now, Direction::In, &[data]),
                }
            }
            capture.flush();
        }
        Ok(drained)
    }
    fn send(&self, packets: &[TxPacket<'_>]) -> (usize, Option<SendError>) {
        // Locked through the send: the answer, received by another thread, must be recorded behind the question.
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        let now = wall_nanos();
        let (sent, error) = self.device.send(packets);
        if sent > 0 && capture.error.is_none() {
            let mut pieces: Vec<&[u8]> = Vec::new();
            for packet in &packets[..sent] {
                pieces.clear();
                pieces.extend(packet.slices.iter().map(|slice: &IoSlice<'_>| &**slice));
                capture.writer.packet(now, Direction::Out, &pieces);
            }
            capture.flush();
        }
        (sent, error)
    }
    fn ready_source(&self) -> ReadySource<'_> {
        self.device.ready_source()
    }
    fn writable_fd(&self) -> Option<BorrowedFd<'_>> {
        self.device.writable_fd()
    }
    fn drops(&self) -> u64 {
        self.device.drops()
    }
    fn truncated(&self) -> u64 {
        self.device.truncated()
    }
    fn is_gone(&self) -> bool {
        self.device.is_gone()
    }
    fn expect_poll(&self) {
        self.device.expect_poll();
    }
    fn expect_more(&self) -> io::Result<()> {
        self.device.expect_more()
    }
    fn release(&self) {
        self.device.release();
    }
    fn set_ports(&self, ports: &PortSet) -> io::Result<()> {
        self.device.set_ports(ports)
    }
    fn recv_queue_bytes(&self) -> usize {
        self.device.recv_queue_bytes()
    }
}

#[cfg(test)]
mod tests;
