//! Writing pcapng files of IP packets, as Wireshark and tcpdump read them.

use rawtcp_proto::Instant;

/// A pcapng file in memory: one section, in little-endian byte order, with times in nanoseconds since
/// the simulation's epoch.
#[derive(Clone, Debug)]
pub struct Pcapng {
    bytes: Vec<u8>,
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const OPT_IF_NAME: u16 = 2;
const OPT_IF_TSRESOL: u16 = 9;

/// Packets start with an IPv4 or IPv6 header.
const LINKTYPE_RAW: u16 = 101;

impl Pcapng {
    /// A file with an interface for each of these names.
    pub fn new(interfaces: &[&str]) -> Self {
        let mut file = Pcapng { bytes: Vec::new() };
        let mut body = 0x1a2b_3c4du32.to_le_bytes().to_vec();
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        // The length of the section: not stated.
        body.extend(u64::MAX.to_le_bytes());
        file.block(SECTION_HEADER, &body);
        for name in interfaces {
            let mut body = LINKTYPE_RAW.to_le_bytes().to_vec();
            body.extend([0; 6]);
            option(&mut body, OPT_IF_NAME, name.as_bytes());
            // Times count units of ten to the minus ninth.
            option(&mut body, OPT_IF_TSRESOL, &[9]);
            option(&mut body, 0, &[]);
            file.block(INTERFACE_DESCRIPTION, &body);
        }
        file
    }

    /// Adds a packet that passed this interface, by its index.
    pub fn packet(&mut self, interface: u32, at: Instant, packet: &[u8]) {
        let nanos = at.as_nanos();
        let mut body = Vec::with_capacity(24 + packet.len());
        let len = packet.len() as u32;
        for word in [interface, (nanos >> 32) as u32, nanos as u32, len, len] {
            body.extend(word.to_le_bytes());
        }
        body.extend_from_slice(packet);
        self.block(ENHANCED_PACKET, &body);
    }

    /// The file so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        let padded = body.len().next_multiple_of(4);
        let total = (padded as u32 + 12).to_le_bytes();
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(total);
        self.bytes.extend_from_slice(body);
        self.bytes.resize(self.bytes.len() + padded - body.len(), 0);
        self.bytes.extend(total);
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_state_their_length_at_both_ends() {
        let mut file = Pcapng::new(&["a to b", "b"]);
        file.packet(1, Instant::from_nanos(0x1_0000_0002), b"12345");
        let bytes = file.as_bytes();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < bytes.len() {
            let len = word(at + 4) as usize;
            assert_eq!((len % 4, word(at + len - 4) as usize), (0, len));
            kinds.push((word(at), at));
            at += len;
        }
        assert_eq!(kinds.iter().map(|k| k.0).collect::<Vec<_>>(), [SECTION_HEADER, 1, 1, ENHANCED_PACKET]);
        let packet = kinds[3].1;
        assert_eq!([word(packet + 8), word(packet + 12), word(packet + 16), word(packet + 20)], [1, 1, 2, 5]);
        assert_eq!(&bytes[packet + 28..packet + 33], b"12345");
    }
}
