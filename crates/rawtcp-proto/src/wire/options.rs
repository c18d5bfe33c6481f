//! TCP options: maximum segment size (RFC 9293 §3.7.1), window scale and timestamps (RFC 7323), SACK
//! (RFC 2018). Any other option is skipped by its length [MUST-6].
//!
//! Values are what the wire says: clamping, and ignoring what belongs to a SYN only, is the connection's.

use crate::error::DropReason;
use crate::seq::SeqNum;
use core::fmt;

/// The most bytes of options a header holds: a data offset of 15 words, without the 5 of the fixed part.
pub const MAX_OPTIONS: usize = 40;

/// Option kinds (RFC 9293 §3.1, RFC 7323, RFC 2018).
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// Bytes that each takes when emitted, with the NOPs that align it to 4.
const MSS_SPACE: usize = 4;
const WINDOW_SCALE_SPACE: usize = 4;
const SACK_PERMITTED_SPACE: usize = 4;
const TIMESTAMPS_SPACE: usize = 12;
const SACK_SPACE: usize = 4;
const SACK_BLOCK: usize = 8;

/// The timestamps option (RFC 7323 §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timestamps {
    /// TSval, the sender's clock, in a unit of its own.
    pub value: u32,
    /// TSecr, the other side's TSval given back; meaningful with the ACK flag only.
    pub echo: u32,
}

/// The blocks of a SACK option (RFC 2018 §3): up to four ranges, each from its first sequence number
/// to the one behind its last, in the order of the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct SackBlocks {
    len: u8,
    // Slots from `len` on stay at their default, so that the derived equality is right.
    blocks: [(SeqNum, SeqNum); SackBlocks::MAX],
}

impl SackBlocks {
    /// The most blocks that fit a header; three beside timestamps (RFC 2018 §3).
    pub const MAX: usize = 4;

    /// Adds the block from `start` to before `end`; says `false`, and adds nothing, when there are four.
    pub fn push(&mut self, start: SeqNum, end: SeqNum) -> bool {
        let Some(slot) = self.blocks.get_mut(usize::from(self.len)) else { return false };
        *slot = (start, end);
        self.len += 1;
        true
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there is no block, and so no option.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The blocks, the first one first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (SeqNum, SeqNum)> + Clone + '_ {
        self.blocks[..self.len()].iter().copied()
    }
}

impl fmt::Debug for SackBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (start, end)) in self.iter().enumerate() {
            write!(f, "{}{}:{}", if i == 0 { "" } else { " " }, start.0, end.0)?;
        }
        f.write_str("}")
    }
}

/// The options of a segment.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size in bytes, as it stands there, even 0.
    pub mss: Option<u16>,
    /// Window scale, as it stands there, even above 14.
    pub window_scale: Option<u8>,
    /// SACK may be sent to this side.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks.
    pub sack: SackBlocks,
}

impl Options {
    /// Reads the bytes between the fixed header and the data.
    ///
    /// Options may come in any order and at any alignment [MUST-64]; of one that comes twice the last
    /// counts. A known option of a wrong length is skipped like an unknown one.
    ///
    /// # Errors
    /// [`DropReason::OptionLength`] when a length is 0 or 1, missing, or beyond the header [MUST-7].
    pub fn parse(bytes: &[u8]) -> Result<Options, DropReason> {
        let mut options = Options::default();
        let mut rest = bytes;
        while let [kind, tail @ ..] = rest {
            match *kind {
                // RFC 9293 §3.1: what follows the end of the list is padding, and is not looked at.
                END => break,
                NOP => {
                    rest = tail;
                    continue;
                }
                _ => {}
            }
            // RFC 9293 §3.1: survive an illegal option length. [MUST-7]
            let len = usize::from(*tail.first().ok_or(DropReason::OptionLength)?);
            if len < 2 {
                return Err(DropReason::OptionLength);
            }
            let body = rest.get(2..len).ok_or(DropReason::OptionLength)?;
            options.read(*kind, body);
            rest = &rest[len..];
        }
        Ok(options)
    }

    fn read(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift),
            (SACK_PERMITTED, []) => self.sack_permitted = true,
            (TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                let (value, echo) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
                self.timestamps = Some(Timestamps { value, echo });
            }
            (SACK, blocks) => {
                let (blocks, odd) = blocks.as_chunks::<SACK_BLOCK>();
                if !odd.is_empty() || blocks.len() > SackBlocks::MAX {
                    return;
                }
                self.sack = SackBlocks::default();
                for &[a, b, c, d, e, f, g, h] in blocks {
                    let start = SeqNum(u32::from_be_bytes([a, b, c, d]));
                    self.sack.push(start, SeqNum(u32::from_be_bytes([e, f, g, h])));
                }
            }
            // RFC 9293 §3.1: any unknown option is ignored. [MUST-6]
            _ => {}
        }
    }

    /// The bytes that [`emit`](Self::emit) writes: a multiple of 4, at most [`MAX_OPTIONS`].
    pub fn encoded_len(&self) -> usize {
        let fixed = self.fixed_len();
        match self.sack_that_fits() {
            0 => fixed,
            n => fixed + SACK_SPACE + n * SACK_BLOCK,
        }
    }

    /// Bytes of everything but SACK; at most 20.
    fn fixed_len(&self) -> usize {
        let mut len = 0;
        if self.mss.is_some() {
            len += MSS_SPACE;
        }
        if self.timestamps.is_some() {
            // "SACK permitted" takes the place of the two NOPs here.
            len += TIMESTAMPS_SPACE;
        } else if self.sack_permitted {
            len += SACK_PERMITTED_SPACE;
        }
        if self.window_scale.is_some() {
            len += WINDOW_SCALE_SPACE;
        }
        len
    }

    /// How many SACK blocks the other options leave room for: the first ones, which matter most
    /// (RFC 2018 §4).
    fn sack_that_fits(&self) -> usize {
        self.sack.len().min((MAX_OPTIONS - self.fixed_len() - SACK_SPACE) / SACK_BLOCK)
    }

    /// Writes the options to the head of `out`, in the order and alignment that Linux uses, and fills
    /// the rest of `out` with zeros [MUST-69].
    ///
    /// # Panics
    /// If `out` is shorter than [`encoded_len`](Self::encoded_len).
    pub fn emit(&self, out: &mut [u8]) {
        let mut out = Writer { out, at: 0 };
        if let Some(mss) = self.mss {
            out.put(&[MSS, 4]);
            out.put(&mss.to_be_bytes());
        }
        if let Some(timestamps) = self.timestamps {
            out.put(if self.sack_permitted { &[SACK_PERMITTED, 2] } else { &[NOP, NOP] });
            out.put(&[TIMESTAMPS, 10]);
            out.put(&timestamps.value.to_be_bytes());
            out.put(&timestamps.echo.to_be_bytes());
        } else if self.sack_permitted {
            out.put(&[NOP, NOP, SACK_PERMITTED, 2]);
        }
        if let Some(shift) = self.window_scale {
            out.put(&[NOP, WINDOW_SCALE, 3, shift]);
        }
        let blocks = self.sack_that_fits();
        if blocks > 0 {
            out.put(&[NOP, NOP, SACK, (2 + blocks * SACK_BLOCK) as u8]);
            for (start, end) in self.sack.iter().take(blocks) {
                out.put(&start.0.to_be_bytes());
                out.put(&end.0.to_be_bytes());
            }
        }
        let Writer { out, at } = out;
        out[at..].fill(END);
    }
}

/// As tcpdump writes them: `mss 1460,sackOK,TS val 7 ecr 0,wscale 7`; nothing when there are none.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let mut next = || core::mem::replace(&mut comma, ",");
        if let Some(mss) = self.mss {
            write!(f, "{}mss {mss}", next())?;
        }
        if self.sack_permitted {
            write!(f, "{}sackOK", next())?;
        }
        if let Some(ts) = self.timestamps {
            write!(f, "{}TS val {} ecr {}", next(), ts.value, ts.echo)?;
        }
        if let Some(shift) = self.window_scale {
            write!(f, "{}wscale {shift}", next())?;
        }
        if !self.sack.is_empty() {
            write!(f, "{}sack {} {:?}", next(), self.sack.len(), self.sack)?;
        }
        Ok(())
    }
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

#[cfg(test)]
pub(super) mod tests;
