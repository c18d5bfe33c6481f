//! Writing pcapng files of Ethernet frames, as Wireshark and tcpdump read them.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Frame;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// Writes one section with one Ethernet interface, in the byte order of the host.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Starts the file.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out, block: Vec::new() };
        writer.begin(SECTION_HEADER);
        writer.put32(0x1a2b_3c4d);
        writer.put16(1);
        writer.put16(0);
        // Length of the section: not known yet.
        writer.block.extend(u64::MAX.to_ne_bytes());
        writer.end()?;
        writer.begin(INTERFACE_DESCRIPTION);
        const ETHERNET: u16 = 1;
        writer.put16(ETHERNET);
        writer.put16(0);
        // No limit on the length of frames.
        writer.put32(0);
        // Time stamps count units of ten to the minus ninth.
        const TIME_RESOLUTION: u16 = 9;
        writer.option(TIME_RESOLUTION, &[9]);
        writer.option(0, &[]);
        writer.end()?;
        Ok(writer)
    }

    /// Adds a frame.
    pub fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        self.begin(ENHANCED_PACKET);
        self.put32(0);
        self.time(frame.time);
        self.put32(frame.data.len() as u32);
        self.put32(frame.length as u32);
        self.block.extend_from_slice(&frame.data);
        self.pad();
        const FLAGS: u16 = 2;
        let direction: u32 = if frame.outgoing { 2 } else { 1 };
        self.option(FLAGS, &direction.to_ne_bytes());
        self.option(0, &[]);
        self.end()
    }

    /// Ends the file with the number of frames missed, and gives back what it was written to, not flushed.
    pub fn finish(mut self, drops: u64) -> io::Result<W> {
        self.begin(INTERFACE_STATISTICS);
        self.put32(0);
        self.time(SystemTime::now());
        const DROPPED_BY_INTERFACE: u16 = 5;
        self.option(DROPPED_BY_INTERFACE, &drops.to_ne_bytes());
        self.option(0, &[]);
        self.end()?;
        Ok(self.out)
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.put32(kind);
        // The length, when it is known.
        self.put32(0);
    }

    fn end(&mut self) -> io::Result<()> {
        let length = self.block.len() as u32 + 4;
        self.block[4..8].copy_from_slice(&length.to_ne_bytes());
        self.put32(length);
        self.out.write_all(&self.block)
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.put16(code);
        self.put16(value.len() as u16);
        self.block.extend_from_slice(value);
        self.pad();
    }

    fn time(&mut self, time: SystemTime) {
        let nanos = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        self.put32((nanos >> 32) as u32);
        self.put32(nanos as u32);
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn put16(&mut self, value: u16) {
        self.block.extend(value.to_ne_bytes());
    }

    fn put32(&mut self, value: u32) {
        self.block.extend(value.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn blocks_are_well_formed() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let time = UNIX_EPOCH + Duration::from_nanos((7 << 32) + 9);
        let data = vec![0xab; 61].into();
        writer.frame(&Frame { time, outgoing: true, length: 1514, data }).unwrap();
        let file = writer.finish(3).unwrap();
        let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
        let mut at = 0;
        let mut kinds = Vec::new();
        while at < file.len() {
            let length = word(at + 4) as usize;
            assert_eq!(word(at + length - 4) as usize, length, "the length stands at both ends");
            assert_eq!(length % 4, 0);
            if word(at) == ENHANCED_PACKET {
                let head: Vec<u32> = (2..7).map(|n| word(at + n * 4)).collect();
                assert_eq!(head, [0, 7, 9, 61, 1514]);
                assert_eq!(file[at + 28..at + 28 + 61], [0xab; 61]);
            }
            kinds.push(word(at));
            at += length;
        }
        assert_eq!(kinds, [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET, INTERFACE_STATISTICS]);
    }
}
