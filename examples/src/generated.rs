//! Bytes made up on the spot, so that a gigabyte needs neither a file nor memory.

use std::sync::LazyLock;

use bytes::Bytes;

/// A prime: segments, pages and buffers never hold a whole number of periods, so that bytes which arrive in the wrong
/// place differ from those expected there.
const PERIOD: usize = 251;

/// One block serves all streams: 251 KiB, a whole number of periods.
static BLOCK: LazyLock<Bytes> = LazyLock::new(|| (0..PERIOD * 1024).map(|i| (i % PERIOD) as u8).collect());

/// Up to `max` bytes of the stream whose byte number `i` is `i % 251`, from `position` on. At least one if `max` allows,
/// at most 251 KiB; 250 KiB are never cut. Costs no copy.
pub fn generated(position: u64, max: u64) -> Bytes {
    let from = (position % PERIOD as u64) as usize;
    let len = usize::try_from(max).unwrap_or(usize::MAX).min(BLOCK.len() - from);
    BLOCK.slice(from..from + len)
}

/// The first bytes of that stream, block by block.
#[derive(Clone, Debug)]
pub struct Generated {
    position: u64,
    end: u64,
}

impl Generated {
    /// The first `len` bytes.
    pub fn new(len: u64) -> Self {
        Self { position: 0, end: len }
    }

    /// How many bytes are still to come.
    pub fn remaining(&self) -> u64 {
        self.end - self.position
    }
}

impl Iterator for Generated {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let block = generated(self.position, self.remaining());
        self.position += block.len() as u64;
        (!block.is_empty()).then_some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_follows_from_its_position() {
        for len in [0, 1, 250, 251, 252, 257_023, 257_024, 257_025, 1_000_000] {
            let stream: Vec<u8> = Generated::new(len).flatten().collect();
            assert_eq!(stream.len() as u64, len);
            assert!(stream.iter().enumerate().all(|(i, &byte)| byte == (i % 251) as u8));
        }
        assert_eq!(
            generated(u64::MAX - 3, 300)[..],
            Generated::new(1000).flatten().skip(((u64::MAX - 3) % 251) as usize).take(300).collect::<Vec<_>>()[..]
        );
        assert!((0..251).all(|position| generated(position, 250 << 10).len() == 250 << 10));
    }
}
