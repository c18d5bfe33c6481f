//! What nf_tables (`<linux/netfilter/nf_tables.h>`) is told by netlink: attributes in attributes, many messages in a batch that
//! takes effect as a whole or not at all.

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;

const NFPROTO_UNSPEC: u8 = 0;
/// Tables whose chains stand at interfaces.
const NFPROTO_NETDEV: u8 = 5;

/// The members of lists are attributes of this kind.
const LIST_ELEMENT: u16 = 1;
/// A value, where it is not a verdict.
const DATA_VALUE: u16 = 1;

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    NewTable = 0,
    DeleteTable = 2,
    NewChain = 3,
    NewRule = 6,
    NewSet = 9,
    NewElements = 12,
    DeleteElements = 14,
}

/// Messages that take effect together.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where the last message begins.
    last: usize,
}

impl Batch {
    /// The messages get the numbers behind `sequence`.
    pub(super) fn new(sequence: u32) -> Self {
        let mut batch = Batch { bytes: Vec::with_capacity(2048), sequence, last: 0 };
        batch.message(BATCH_BEGIN, 0, NFPROTO_UNSPEC, SUBSYSTEM, |_| ());
        batch
    }

    /// One message more.
    pub(super) fn add(&mut self, kind: Kind, attributes: impl FnOnce(&mut Attributes<'_>)) {
        let flags = match kind {
            Kind::NewTable | Kind::NewChain | Kind::NewSet | Kind::NewElements => NLM_F_CREATE,
            Kind::NewRule => NLM_F_CREATE | NLM_F_APPEND,
            Kind::DeleteTable | Kind::DeleteElements => 0,
        };
        self.message(SUBSYSTEM << 8 | kind as u16, flags, NFPROTO_NETDEV, 0, attributes);
    }

    /// The bytes, and the number of the message that is acknowledged when all is well: the last one.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let acknowledged = self.sequence;
        let flags = &mut self.bytes[self.last + 6..self.last + 8];
        let with_ack = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
        flags.copy_from_slice(&with_ack.to_ne_bytes());
        self.message(BATCH_END, 0, NFPROTO_UNSPEC, SUBSYSTEM, |_| ());
        (self.bytes, acknowledged)
    }

    /// `struct nlmsghdr`, `struct nfgenmsg`, attributes.
    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        self.last = self.bytes.len();
        let begin = self.last;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]); // port id: the kernel fills it in
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        attributes(&mut Attributes(&mut self.bytes));
        let length = (self.bytes.len() - begin) as u32;
        self.bytes[begin..begin + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The attributes of a message, or of an attribute.
#[derive(Debug)]
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// A 32-bit number, which nf_tables wants in network byte order.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let value: Vec<u8> = value.bytes().chain([0]).collect();
        self.bytes(kind, &value);
    }

    pub(super) fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Attributes<'_>)) {
        let begin = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NLA_F_NESTED).to_ne_bytes());
        inside(&mut Attributes(self.0));
        debug_assert!(self.0.len() - begin <= usize::from(u16::MAX), "an attribute's length has 16 bits");
        let length = (self.0.len() - begin) as u16;
        self.0[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// A member of a list.
    pub(super) fn element(&mut self, inside: impl FnOnce(&mut Attributes<'_>)) {
        self.nested(LIST_ELEMENT, inside);
    }

    /// A value.
    pub(super) fn value(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |data| data.bytes(DATA_VALUE, value));
    }

    fn expression(&mut self, name: &str, inside: impl FnOnce(&mut Attributes<'_>)) {
        self.element(|expression| {
            expression.text(1, name);
            expression.nested(2, inside);
        });
    }
}

/// The registers of a rule are 4 bytes each; what does not fit in one takes the next, too.
const FIRST_REGISTER: u32 = 8;
const VERDICT: u32 = 0;
const NF_DROP: u32 = 0;

/// What is known of a packet beside its bytes (`NFT_META_…`).
#[derive(Clone, Copy, Debug)]
pub(super) enum Meta {
    InputIndex = 4,
    TransportProtocol = 16,
    PacketType = 19,
}

/// Where in a packet (`NFT_PAYLOAD_…`).
#[derive(Clone, Copy, Debug)]
pub(super) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// Expressions: what a rule does, one after the other, until one does not match.
impl Attributes<'_> {
    pub(super) fn if_meta(&mut self, what: Meta, equals: &[u8]) {
        self.expression("meta", |meta| {
            meta.number(1, FIRST_REGISTER);
            meta.number(2, what as u32);
        });
        self.compare(equals);
    }

    pub(super) fn if_payload(&mut self, base: Base, offset: u32, equals: &[u8]) {
        self.load(0, base, offset, equals.len() as u32);
        self.compare(equals);
    }

    /// Compares only the bits of the mask.
    pub(super) fn if_masked_payload(&mut self, base: Base, offset: u32, mask: &[u8], equals: &[u8]) {
        self.load(0, base, offset, mask.len() as u32);
        self.expression("bitwise", |bitwise| {
            bitwise.number(1, FIRST_REGISTER);
            bitwise.number(2, FIRST_REGISTER);
            bitwise.number(3, mask.len() as u32);
            bitwise.value(4, mask);
            bitwise.value(5, &vec![0; mask.len()]);
        });
        self.compare(equals);
    }

    /// Loads bytes of the packet into a register and those behind it.
    pub(super) fn load(&mut self, register: u32, base: Base, offset: u32, length: u32) {
        self.expression("payload", |payload| {
            payload.number(1, FIRST_REGISTER + register);
            payload.number(2, base as u32);
            payload.number(3, offset);
            payload.number(4, length);
        });
    }

    fn compare(&mut self, equals: &[u8]) {
        self.expression("cmp", |compare| {
            compare.number(1, FIRST_REGISTER);
            compare.number(2, 0);
            compare.value(3, equals);
        });
    }

    /// Goes on if the set has what stands in the registers.
    pub(super) fn if_in_set(&mut self, set: &str) {
        self.expression("lookup", |lookup| {
            lookup.text(1, set);
            lookup.number(2, FIRST_REGISTER);
        });
    }

    pub(super) fn drop_packet(&mut self) {
        self.expression("immediate", |immediate| {
            immediate.number(1, VERDICT);
            immediate.nested(2, |data| data.nested(2, |verdict| verdict.number(1, NF_DROP)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_what_is_inside_and_padding_is_not_counted() {
        let mut bytes = Vec::new();
        Attributes(&mut bytes).nested(2, |inside| inside.text(1, "abcd"));
        assert_eq!(bytes.len(), 4 + 4 + 8);
        assert_eq!(bytes[..4], [16_u16.to_ne_bytes(), 0x8002_u16.to_ne_bytes()].concat()[..]);
        assert_eq!(bytes[4..8], [9_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat()[..]);
        assert_eq!(&bytes[8..], b"abcd\0\0\0\0");
    }

    #[test]
    fn a_batch_asks_for_one_acknowledgment_of_its_last_message() {
        let mut batch = Batch::new(7);
        batch.add(Kind::NewTable, |table| table.text(1, "t"));
        batch.add(Kind::NewSet, |set| set.text(1, "t"));
        let (bytes, acknowledged) = batch.finish();
        let mut at = 0;
        let mut seen = Vec::new();
        while at < bytes.len() {
            let word = |from: usize| u32::from_ne_bytes(bytes[from..from + 4].try_into().unwrap());
            let half = |from: usize| u16::from_ne_bytes(bytes[from..from + 2].try_into().unwrap());
            seen.push((half(at + 4), half(at + 6) & NLM_F_ACK != 0, word(at + 8)));
            at += word(at) as usize;
        }
        assert_eq!(at, bytes.len());
        assert_eq!(
            seen,
            [(BATCH_BEGIN, false, 8), (0xa00, false, 9), (0xa09, true, 10), (BATCH_END, false, 11)],
            "{acknowledged}"
        );
        assert_eq!(acknowledged, 10);
    }
}
