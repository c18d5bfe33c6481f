use super::*;
use proptest::prelude::*;

fn blocks(list: &[(u32, u32)]) -> SackBlocks {
    let mut sack = SackBlocks::default();
    for &(start, end) in list {
        assert!(sack.push(SeqNum(start), SeqNum(end)));
    }
    sack
}

#[test]
fn parses() {
    let none = Options::default();
    let ts = |value, echo| Some(Timestamps { value, echo });
    let table: &[(&str, &[u8], Result<Options, DropReason>)] = &[
        ("nothing", &[], Ok(none)),
        ("only padding", &[1, 1, 1, 0], Ok(none)),
        ("MSS", &[2, 4, 0x05, 0xb4], Ok(Options { mss: Some(1460), ..none })),
        ("MSS of 0 is given as it is", &[2, 4, 0, 0], Ok(Options { mss: Some(0), ..none })),
        ("the last MSS counts", &[2, 4, 0, 1, 2, 4, 0, 2], Ok(Options { mss: Some(2), ..none })),
        ("MSS of length 3 is skipped", &[2, 3, 9, 3, 3, 7], Ok(Options { window_scale: Some(7), ..none })),
        ("window scale is not clamped", &[3, 3, 255], Ok(Options { window_scale: Some(255), ..none })),
        ("SACK permitted", &[4, 2], Ok(Options { sack_permitted: true, ..none })),
        ("SACK permitted of length 3", &[4, 3, 0, 4, 2], Ok(Options { sack_permitted: true, ..none })),
        ("timestamps, unaligned", &[1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], Ok(Options { timestamps: ts(1, 2), ..none })),
        ("timestamps of length 9", &[8, 9, 0, 0, 0, 1, 0, 0, 0], Ok(none)),
        ("unknown is skipped", &[254, 5, 1, 2, 3, 4, 2], Ok(Options { sack_permitted: true, ..none })),
        ("unknown without a body", &[30, 2, 4, 2], Ok(Options { sack_permitted: true, ..none })),
        ("behind the end nothing counts", &[0, 4, 2, 2, 0], Ok(none)),
        ("one SACK block", &[5, 10, 0, 0, 0, 5, 0, 0, 0, 9], Ok(Options { sack: blocks(&[(5, 9)]), ..none })),
        ("SACK without a block", &[5, 2], Ok(none)),
        ("SACK with half a block", &[5, 6, 0, 0, 0, 5], Ok(none)),
        ("length 0", &[8, 0, 1, 1], Err(DropReason::OptionLength)),
        ("length 1", &[254, 1, 1, 1], Err(DropReason::OptionLength)),
        ("length beyond the header", &[2, 5, 0, 0], Err(DropReason::OptionLength)),
        ("no length", &[1, 1, 1, 2], Err(DropReason::OptionLength)),
        ("a bad one behind a good one", &[4, 2, 3, 0], Err(DropReason::OptionLength)),
    ];
    for (name, bytes, expected) in table {
        assert_eq!(Options::parse(bytes), *expected, "{name}");
    }
}

#[test]
fn emits_as_linux_does() {
    let none = Options::default();
    let timestamps = Some(Timestamps { value: 0x01020304, echo: 0x05060708 });
    let sack = blocks(&[(1, 2), (3, 4), (5, 6), (7, 8)]);
    let table: &[(&str, Options, &[u8])] = &[
        ("nothing", none, &[]),
        (
            "a SYN with everything",
            Options { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps, ..none },
            &[2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7],
        ),
        (
            "a SYN without timestamps",
            Options { mss: Some(1460), window_scale: Some(0), sack_permitted: true, ..none },
            &[2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 0],
        ),
        ("data", Options { timestamps, ..none }, &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
        (
            "data with SACK",
            Options { timestamps, sack: blocks(&[(0x11, 0x22)]), ..none },
            &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 5, 10, 0, 0, 0, 0x11, 0, 0, 0, 0x22],
        ),
        (
            "four blocks alone",
            Options { sack, ..none },
            &[
                1, 1, 5, 34, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0,
                0, 8,
            ],
        ),
        (
            "three blocks fit beside timestamps",
            Options { timestamps, sack, ..none },
            &[
                1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 5, 26, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0,
                0, 5, 0, 0, 0, 6,
            ],
        ),
    ];
    for (name, options, expected) in table {
        let mut out = [0xee; 48];
        options.emit(&mut out);
        let len = options.encoded_len();
        assert_eq!(&out[..len], *expected, "{name}");
        assert!(out[len..].iter().all(|&b| b == 0), "{name}: padding is zero");
    }
}

#[test]
fn five_blocks_fit_no_header() {
    let mut bytes = vec![5, 42];
    bytes.extend_from_slice(&[7; 40]);
    assert_eq!(Options::parse(&bytes), Ok(Options::default()));
}

#[test]
fn a_fifth_block_is_refused() {
    let mut sack = blocks(&[(1, 2), (3, 4), (5, 6), (7, 8)]);
    let before = sack;
    assert!(!sack.push(SeqNum(9), SeqNum(10)));
    assert_eq!(sack, before);
    assert_eq!(sack.len(), 4);
}

#[test]
fn debug_reads_like_tcpdump() {
    let options = Options {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: 5, echo: 6 }),
        sack: blocks(&[(1, 2), (3, 4)]),
    };
    let expected = "mss 1460,sackOK,TS val 5 ecr 6,wscale 7,sack 2 {1:2 3:4}";
    assert_eq!(format!("{options:?}"), expected);
    assert_eq!(format!("{:?}", Options::default()), "");
}

prop_compose! {
    pub(in crate::wire) fn any_options()(
        mss: Option<u16>,
        window_scale: Option<u8>,
        sack_permitted: bool,
        timestamps: Option<(u32, u32)>,
        list in proptest::collection::vec(any::<(u32, u32)>(), 0..=4),
    ) -> Options {
        let timestamps = timestamps.map(|(value, echo)| Timestamps { value, echo });
        Options { mss, window_scale, sack_permitted, timestamps, sack: blocks(&list) }
    }
}

proptest! {
    #[test]
    fn round_trip(mut options in any_options()) {
        let len = options.encoded_len();
        prop_assert!(len % 4 == 0 && len <= MAX_OPTIONS);
        let mut out = vec![0xee; len];
        options.emit(&mut out);
        let back = Options::parse(&out).unwrap();
        // What had no room is left out from the end of the list of blocks.
        let kept: Vec<_> = options.sack.iter().take(back.sack.len()).map(|(a, b)| (a.0, b.0)).collect();
        if kept.len() < options.sack.len() {
            prop_assert!(len + SACK_BLOCK > MAX_OPTIONS);
        }
        options.sack = blocks(&kept);
        prop_assert_eq!(back, options);
        prop_assert_eq!(back.encoded_len(), len);
    }

    #[test]
    fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Options::parse(&bytes);
    }

    #[test]
    fn option_like_bytes_parse_or_are_refused(
        list in proptest::collection::vec((0u8..10, 0u8..12, any::<u64>()), 0..12),
    ) {
        let mut bytes = Vec::new();
        for (kind, len, body) in list {
            bytes.extend_from_slice(&[kind, len]);
            bytes.extend(body.to_be_bytes().iter().take(usize::from(len).saturating_sub(2)));
        }
        if let Ok(options) = Options::parse(&bytes) {
            let mut out = [0; MAX_OPTIONS];
            options.emit(&mut out);
        }
    }
}
