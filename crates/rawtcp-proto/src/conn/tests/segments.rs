//! Single connections against segments made by hand, per state.

use super::pair::{A, B, Pair};
use super::{ms, secs};
use crate::config::ConnConfig;
use crate::conn::{Connection, Events, Path, State, Transmit, TransmitKind, TxLimits};
use crate::error::{CloseReason, DropReason};
use crate::seq::{SeqNum, WireWindow};
use crate::time::Instant;
use crate::wire::tcp::Segment;
use crate::wire::{Ecn, Flags, FourTuple, Options, TcpHeader, Timestamps};

pub(super) const ISS: SeqNum = SeqNum(u32::MAX - 100);
pub(super) const IRS: SeqNum = SeqNum(u32::MAX - 5_000);
const ACK: Flags = Flags::ACK;

/// A connection, and what a peer that does as it is told sends to it.
pub(super) struct Host {
    pub(super) now: Instant,
    pub(super) conn: Connection,
}

/// Options off and ACKs at once: what is seen is what is asked for.
pub(super) fn plain() -> ConnConfig {
    ConnConfig { timestamps: false, sack: false, window_scaling: false, recv_buffer: 65_535, ..ConnConfig::default() }
}

impl Host {
    pub(super) fn connecting(config: &ConnConfig) -> Host {
        let tuple = FourTuple::new("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:2000".parse().unwrap());
        let now = Instant::from_secs(1000);
        let mut host =
            Host { now, conn: Connection::connect(now, &config.clone().into(), tuple, ISS, 77, Path { mtu: 1500 }) };
        assert!(host.drain().len() == 1);
        host
    }

    pub(super) fn header(&self, flags: Flags, seq: u32, ack: u32) -> TcpHeader {
        TcpHeader { flags, seq: IRS.add(seq), ack: ISS.add(ack), window: WireWindow(60_000), ..TcpHeader::default() }
    }

    pub(super) fn give(&mut self, header: TcpHeader, payload: &[u8]) -> Result<(), DropReason> {
        let segment = Segment { header, payload, owner: None, ecn: Ecn::NotEct, gro_size: 0 };
        let result = self.conn.on_segment(self.now, &segment);
        self.conn.check_invariants();
        result
    }

    /// A segment with sequence numbers relative to the initial ones, and what is answered.
    pub(super) fn on(&mut self, flags: Flags, seq: u32, ack: u32, payload: &[u8]) -> Vec<Transmit> {
        let _ = self.give(self.header(flags, seq, ack), payload);
        self.drain()
    }

    pub(super) fn drain(&mut self) -> Vec<Transmit> {
        let mut all = Vec::new();
        loop {
            let quiet = self.conn.is_quiet(self.now);
            let Some(transmit) = self.conn.poll_transmit(self.now, &TxLimits::ONE_SEGMENT) else { return all };
            assert!(!quiet, "there was nothing to send: {transmit:?}");
            self.conn.check_invariants();
            all.push(transmit);
            assert!(all.len() < 10_000, "sends without end");
        }
    }

    /// Walks to a state; nothing is outstanding but our FIN where the state has one.
    pub(super) fn in_state(config: &ConnConfig, state: State) -> Host {
        let mut host = Self::connecting(config);
        if state == State::SynSent {
            return host;
        }
        if state == State::SynReceived {
            host.on(Flags::SYN, 0, 0, b"");
            return host;
        }
        host.on(Flags::SYN | ACK, 0, 1, b"");
        let ours_first = matches!(state, State::FinWait1 | State::FinWait2 | State::Closing);
        if ours_first {
            host.conn.shutdown(host.now).unwrap();
            host.drain();
        }
        match state {
            State::FinWait2 => _ = host.on(ACK, 1, 2, b""),
            State::Closing => _ = host.on(Flags::FIN | ACK, 1, 1, b""),
            State::CloseWait | State::LastAck => _ = host.on(Flags::FIN | ACK, 1, 1, b""),
            _ => {}
        }
        if state == State::LastAck {
            host.conn.shutdown(host.now).unwrap();
            host.drain();
        }
        assert_eq!(host.conn.state(), state);
        host.conn.take_events();
        host
    }

    /// RCV.NXT and SND.NXT in this state, relative.
    pub(super) fn numbers(state: State) -> (u32, u32) {
        let rcv = match state {
            State::Closing | State::CloseWait | State::LastAck => 2,
            _ => 1,
        };
        let snd = match state {
            State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck => 2,
            _ => 1,
        };
        (rcv, snd)
    }

    /// Lets the next timer run out.
    pub(super) fn time_passes(&mut self) -> Vec<Transmit> {
        self.now = self.now.max(self.conn.poll_timeout().expect("a timer is running"));
        self.conn.on_timeout(self.now);
        self.conn.check_invariants();
        self.drain()
    }
}

pub(super) const STATES: [State; 7] = [
    State::SynReceived,
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
];

fn is_bare_ack(sent: &[Transmit], rcv: u32) -> bool {
    sent.len() == 1 && sent[0].kind == TransmitKind::Ack && sent[0].header.ack == IRS.add(rcv)
}

#[test]
fn reset_exactly_at_rcv_nxt_ends_every_state() {
    for flags in [Flags::RST, Flags::RST | ACK] {
        for state in STATES {
            for ack in [0, 1, 5_000] {
                let mut host = Host::in_state(&plain(), state);
                let (rcv, _) = Host::numbers(state);
                assert!(host.on(flags, rcv, ack, b"").is_empty(), "{state:?}: a RST is never answered");
                assert_eq!(host.conn.state(), State::Closed, "{state:?}");
                let reason = if state == State::CloseWait { CloseReason::ResetAfterEof } else { CloseReason::Reset };
                assert_eq!(host.conn.close_reason(), Some(reason), "{state:?}");
                assert_eq!(host.conn.poll_timeout(), None);
            }
        }
    }
}

#[test]
fn reset_elsewhere_is_challenged_in_the_window_and_ignored_outside() {
    // RFC 5961 §3.2.
    for state in STATES {
        let (rcv, _) = Host::numbers(state);
        for (seq, answered) in
            [(rcv + 1, true), (rcv + 1000, true), (rcv.wrapping_sub(1), false), (rcv + 70_000, false)]
        {
            let mut host = Host::in_state(&plain(), state);
            let sent = host.on(Flags::RST, seq, 0, b"");
            assert_eq!(is_bare_ack(&sent, rcv), answered, "{state:?} {seq}: {sent:?}");
            assert_eq!(host.conn.state(), state);
        }
    }
    // The right edge itself is outside.
    let mut host = Host::in_state(&plain(), State::Established);
    let edge = host.conn.info().rcv_wnd as u32 + 1;
    assert!(host.on(Flags::RST, edge, 0, b"").is_empty());
}

#[test]
fn syn_is_challenged_in_every_state_whatever_its_number() {
    // RFC 5961 §4.2.
    for state in STATES {
        let (rcv, _) = Host::numbers(state);
        let mut host = Host::in_state(&plain(), state);
        for seq in [rcv, rcv + 10, rcv.wrapping_sub(900), rcv + 100_000] {
            let sent = host.on(Flags::SYN, seq, 0, b"");
            assert!(is_bare_ack(&sent, rcv), "{state:?} {seq}: {sent:?}");
            assert_eq!(host.conn.state(), state);
        }
    }
}

#[test]
fn challenge_acks_are_limited() {
    // RFC 5961 §7.
    let mut host = Host::in_state(&plain(), State::Established);
    let answers: usize = (0..400).map(|i| host.on(Flags::RST, 2 + i, 0, b"").len()).sum();
    assert_eq!(answers, 10);
    host.now = host.now + secs(1);
    assert_eq!(host.on(Flags::SYN, 2, 0, b"").len(), 1);
}

#[test]
fn ack_numbers_that_are_not_acceptable() {
    // RFC 9293 §3.10.7.4, fifth; RFC 5961 §5.
    for state in STATES {
        let (rcv, snd) = Host::numbers(state);
        for ack in [snd + 1, snd + 100_000, 0u32.wrapping_sub(70_000)] {
            let mut host = Host::in_state(&plain(), state);
            let sent = host.on(ACK, rcv, ack, b"data");
            assert_eq!(host.conn.readable_len(), 0);
            assert_eq!(host.conn.state(), state);
            if state == State::SynReceived {
                assert!(sent.len() == 1 && sent[0].header.flags == Flags::RST, "{sent:?}");
                assert_eq!(sent[0].header.seq, ISS.add(ack));
            } else {
                assert!(is_bare_ack(&sent, rcv), "{state:?} {ack}: {sent:?}");
            }
        }
    }
}

#[test]
fn text_outside_the_window_is_answered_and_not_kept() {
    for state in [State::Established, State::FinWait1, State::FinWait2] {
        let (rcv, snd) = Host::numbers(state);
        for seq in [rcv.wrapping_sub(4), rcv + 66_000] {
            let mut host = Host::in_state(&plain(), state);
            assert!(is_bare_ack(&host.on(ACK, seq, snd, b"text"), rcv), "{state:?} {seq}");
            assert_eq!(host.conn.readable_len(), 0);
        }
        let mut host = Host::in_state(&plain(), state);
        assert!(host.on(Flags::PSH, rcv, snd, b"text").is_empty(), "no ACK flag: silence");
        host.on(ACK, rcv, snd, b"text");
        assert!(is_bare_ack(&host.on(ACK, rcv + 2, snd, b"xtra"), rcv + 6), "trimmed on the left");
        let mut got = [0; 8];
        assert_eq!(host.conn.read(host.now, &mut got), Ok(6));
        assert_eq!(&got[..6], b"textra");
    }
}

#[test]
fn syn_sent_table() {
    // RFC 9293 §3.10.7.3: flags, ACK, state behind it, sequence number of a RST in answer.
    let fin = Flags::FIN | ACK;
    let table = [
        (Flags::SYN | ACK, 0, State::SynSent, Some(0)),
        (Flags::SYN | ACK, 2, State::SynSent, Some(2)),
        (ACK, 2, State::SynSent, Some(2)),
        (ACK, 1, State::SynSent, None),
        (fin, 0, State::SynSent, Some(0)),
        (fin, 1, State::SynSent, None),
        (Flags::FIN, 1, State::SynSent, None),
        (Flags::RST, 1, State::SynSent, None),
        (Flags::RST | ACK, 2, State::SynSent, None),
        (Flags::RST | ACK, 1, State::Closed, None),
        (Flags::SYN, 0, State::SynReceived, None),
        (Flags::SYN | ACK, 1, State::Established, None),
        (Flags::SYN | fin, 1, State::CloseWait, None),
    ];
    for (flags, ack, state, reset) in table {
        let mut host = Host::in_state(&plain(), State::SynSent);
        let deadline = host.conn.poll_timeout();
        let sent = host.on(flags, 0, ack, b"");
        assert_eq!(host.conn.state(), state, "{flags} {ack}");
        let answer = sent.iter().find(|t| t.kind == TransmitKind::Reset);
        assert_eq!(answer.map(|t| t.header.seq), reset.map(|n| ISS.add(n)), "{flags} {ack}");
        if state == State::SynSent {
            assert_eq!(host.conn.poll_timeout(), deadline, "the SYN keeps its time");
        }
    }
    let mut host = Host::in_state(&plain(), State::SynSent);
    host.on(Flags::RST | ACK, 0, 1, b"");
    assert_eq!(host.conn.take_error(), Some(CloseReason::Refused));
}

#[test]
fn a_syn_ack_completes_a_simultaneous_open() {
    // RFC 9293 §3.5, Figure 8.
    let mut host = Host::in_state(&plain(), State::SynReceived);
    host.on(Flags::SYN | ACK, 0, 1, b"");
    assert_eq!(host.conn.state(), State::Established);
    assert_eq!(host.conn.info().snd_wnd, 60_000);
    let sent = host.on(Flags::SYN | ACK, 0, 1, b"");
    assert!(is_bare_ack(&sent, 1), "once more: our ACK was lost");
}

fn stamped(host: &Host, seq: u32, ack: u32, value: u32) -> TcpHeader {
    let options = Options { timestamps: Some(Timestamps { value, echo: 0 }), ..Options::default() };
    TcpHeader { options, ..host.header(ACK, seq, ack) }
}

fn with_timestamps() -> Host {
    let mut host = Host::connecting(&ConnConfig { timestamps: true, ..plain() });
    let header = TcpHeader { flags: Flags::SYN | ACK, ..stamped(&host, 0, 1, 1000) };
    host.give(header, b"").unwrap();
    host.drain();
    host
}

#[test]
fn paws_drops_the_past_and_acknowledges() {
    let mut host = with_timestamps();
    assert_eq!(host.give(stamped(&host, 1, 1, 999), b"old"), Err(DropReason::Paws));
    assert!(is_bare_ack(&host.drain(), 1));
    host.give(stamped(&host, 1, 1, 1001), b"new").unwrap();
    let answer = &host.drain()[0];
    assert_eq!(answer.header.options.timestamps.unwrap().echo, 1001);
}

#[test]
fn a_forged_ack_does_not_bring_a_timestamp() {
    let mut host = with_timestamps();
    let forged = stamped(&host, 1, 90_000, 1 << 30);
    assert_eq!(host.give(forged, b"forged"), Err(DropReason::AckNumber));
    host.drain();
    assert_eq!(host.give(stamped(&host, 1, 1, 1001), b"genuine"), Ok(()));
}

#[test]
fn a_timestamp_of_weeks_ago_is_replaced() {
    // RFC 7323 §5.5.
    let mut host = with_timestamps();
    host.now = host.now + secs(25 * 24 * 3600);
    let value = 1000u32.wrapping_add(1 << 31).wrapping_add(7);
    host.give(stamped(&host, 1, 1, value), b"x").unwrap();
    assert_eq!(host.drain()[0].header.options.timestamps.unwrap().echo, value);
}

#[test]
fn a_zero_window_takes_acks_and_resets_but_no_text() {
    let mut host = Host::in_state(&ConnConfig { recv_buffer: 100, ..plain() }, State::Established);
    host.on(ACK, 1, 1, &[0; 100]);
    assert_eq!(host.conn.info().rcv_wnd, 0);
    host.conn.write(host.now, b"hello").unwrap();
    host.drain();
    let sent = host.on(ACK, 101, 6, b"probe");
    assert!(is_bare_ack(&sent, 101) && sent[0].header.window == WireWindow(0), "{sent:?}");
    assert!(host.conn.is_all_acked(), "its ACK counts [MUST-66]");
    host.on(Flags::RST, 101, 0, b"");
    assert_eq!(host.conn.state(), State::Closed);
}

#[test]
fn a_fin_waits_for_the_window_and_is_not_forgotten() {
    let mut host = Host::in_state(&plain(), State::Established);
    let shut = TcpHeader { window: WireWindow(0), ..host.header(ACK, 1, 1) };
    host.give(shut, b"").unwrap();
    host.conn.shutdown(host.now).unwrap();
    assert!(host.drain().is_empty());
    for _ in 0..40 {
        let sent = host.time_passes();
        assert!(sent.len() == 1 && sent[0].kind == TransmitKind::Probe, "{sent:?}");
        host.give(shut, b"").unwrap();
    }
    let sent = host.on(ACK, 1, 1, b"");
    assert!(sent.len() == 1 && sent[0].header.flags.contains(Flags::FIN));
    assert!(host.conn.poll_timeout().unwrap() <= host.now + secs(1), "the probes' backoff is not the FIN's");
}

#[test]
fn a_talking_peer_does_not_hold_off_retransmission() {
    // RFC 6298 §5.3: only an ACK of new data restarts the timer.
    let mut host = Host::in_state(&plain(), State::Established);
    host.conn.write(host.now, b"lost").unwrap();
    host.drain();
    let start = host.now;
    for i in 0..100 {
        host.now = start + ms(50) * i;
        host.conn.on_timeout(host.now);
        host.on(ACK, 1 + i, 1, b".");
    }
    assert!(host.conn.info().timeouts >= 2);
}

#[test]
fn a_talking_peer_does_not_hold_off_the_override_of_silly_windows() {
    // RFC 9293 §3.8.6.2.1 (4).
    let mut host = Host::in_state(&plain(), State::Established);
    let narrow = TcpHeader { window: WireWindow(100), ..host.header(ACK, 1, 1) };
    host.give(narrow, b"").unwrap();
    host.conn.write(host.now, &[1; 1000]).unwrap();
    assert!(host.drain().is_empty(), "not worth a segment");
    let start = host.now;
    let mut sent = Vec::new();
    for i in 0..20 {
        host.now = start + ms(50) * i;
        host.conn.on_timeout(host.now);
        host.give(TcpHeader { seq: IRS.add(1 + i), ..narrow }, b".").unwrap();
        sent.extend(host.drain().into_iter().filter(|t| t.payload_len() > 0));
    }
    assert_eq!(sent.first().map(Transmit::payload_len), Some(100));
}

#[test]
fn small_segments_do_not_move_the_edge_without_end() {
    // With a unit of 32 KiB every ACK rounds the window up.
    let config = ConnConfig { window_scaling: true, window_scale: Some(10), recv_buffer: 50_000, ..plain() };
    let mut host = Host::connecting(&config);
    let mut header = host.header(Flags::SYN | ACK, 0, 1);
    header.options.window_scale = Some(0);
    host.give(header, b"").unwrap();
    let mut seq = 1;
    for _ in 0..1000 {
        host.on(ACK, seq, 1, &[0; 200]);
        seq += 200;
    }
    let kept = host.conn.readable_len();
    assert!((50_000..60_000).contains(&kept), "{kept}");
    while host.conn.read(host.now, &mut [0; 4096]).is_ok() {}
    assert!(host.drain()[0].header.window.0 > 40, "it opens again");
}

#[test]
fn a_scale_too_large_for_the_buffer_still_lets_data_in() {
    let config = ConnConfig { window_scale: Some(14), recv_buffer: 1000, ..ConnConfig::default() };
    let mut p = Pair::established(ConnConfig::default(), config);
    let data = vec![9; 300_000];
    assert_eq!(p.transfer(A, &data), data);
}

#[test]
fn buffers_of_one_byte_carry_everything() {
    let config = ConnConfig { send_buffer: 0, recv_buffer: 1, delayed_ack: ms(0), quick_acks: 0, ..plain() };
    let mut p = Pair::established(config.clone(), config);
    let data: Vec<u8> = (0..50).collect();
    assert_eq!(p.transfer(A, &data), data);
    assert_eq!(p.transfer(B, &data), data);
}

#[test]
fn timers_of_zero_do_not_spin() {
    let zero = ms(0);
    let keepalive = Some(crate::Keepalive { idle: zero, interval: zero, count: 3 });
    let config = ConnConfig { rto_initial: zero, rto_min: zero, rto_max: zero, keepalive, ..plain() };
    let mut host = Host::in_state(&config, State::Established);
    host.conn.write(host.now, b"x").unwrap();
    host.drain();
    for _ in 0..100 {
        if host.conn.poll_timeout().is_some() {
            host.time_passes();
        }
    }
    assert_eq!(host.conn.state(), State::Closed);
}

#[test]
fn a_user_timeout_shorter_than_the_rto_is_exact() {
    for sack in [false, true] {
        let config = ConnConfig { sack, user_timeout: Some(ms(50)), ..ConnConfig::default() };
        let mut p = Pair::established(config, ConnConfig::default());
        p.pass = Box::new(|_, _, _| false);
        let start = p.now;
        p.write_all(A, b"x");
        p.run_until(|p| p.ends[A].state() == State::Closed);
        assert_eq!(p.now.since(start), ms(50));
    }
}

#[test]
fn small_writes_do_not_push_the_first_timeout_away() {
    let config = ConnConfig { nodelay: true, ..ConnConfig::default() };
    let mut p = Pair::established(config, ConnConfig::default());
    p.pass = Box::new(|_, _, _| false);
    for _ in 0..100 {
        p.write_all(A, b"x");
        p.wait(ms(10));
    }
    assert!(p.ends[A].info().timeouts > 0);
}

#[test]
fn an_ack_stays_inside_a_window_that_was_taken_back() {
    let mut host = Host::in_state(&plain(), State::Established);
    host.conn.write(host.now, &[1; 1000]).unwrap();
    host.drain();
    let shrunk = TcpHeader { window: WireWindow(100), ..host.header(ACK, 1, 1) };
    host.give(shrunk, b"").unwrap();
    assert_eq!(host.on(Flags::SYN, 1, 1, b"")[0].header.seq, ISS.add(101));
}

#[test]
fn a_peer_that_shrinks_to_nothing_but_answers_is_not_given_up() {
    // RFC 9293 §3.8.6.1 [MUST-37].
    let mut host = Host::in_state(&plain(), State::Established);
    host.conn.write(host.now, &[1; 1000]).unwrap();
    host.drain();
    let shut = TcpHeader { window: WireWindow(0), ..host.header(ACK, 1, 1) };
    for _ in 0..60 {
        host.give(shut, b"").unwrap();
        host.time_passes();
    }
    assert_eq!(host.conn.state(), State::Established);
}

#[test]
fn an_orphan_at_a_zero_window_does_not_stay_for_ever() {
    let mut host = Host::in_state(&plain(), State::Established);
    let shut = TcpHeader { window: WireWindow(0), ..host.header(ACK, 1, 1) };
    host.give(shut, b"").unwrap();
    host.conn.write(host.now, &[1; 1000]).unwrap();
    host.conn.close(host.now);
    let start = host.now;
    host.drain();
    while host.conn.state() != State::Closed {
        host.time_passes();
        let _ = host.give(shut, b"");
        assert!(host.now.since(start) < secs(600));
    }
}

#[test]
fn the_syns_deadline_is_not_the_datas() {
    let mut host = Host::connecting(&plain());
    host.now = host.now + ms(900);
    host.on(Flags::SYN | ACK, 0, 1, b"");
    host.conn.write(host.now, b"x").unwrap();
    host.drain();
    assert!(host.conn.poll_timeout().unwrap() > host.now + ms(900));
}

#[test]
fn slow_start_grows_from_a_full_initial_window() {
    let mut host = Host::in_state(&plain(), State::Established);
    let mss = host.conn.info().snd_mss;
    host.conn.write(host.now, &vec![0; 10 * mss as usize]).unwrap();
    assert_eq!(host.drain().len(), 10);
    for i in 1..=10 {
        host.on(ACK, 1, 1 + i * mss, b"");
    }
    assert_eq!(host.conn.info().snd_cwnd, 20 * u64::from(mss));
    // Less than half of it proves nothing.
    host.conn.write(host.now, &vec![0; 5 * mss as usize]).unwrap();
    host.drain();
    host.on(ACK, 1, 1 + 15 * mss, b"");
    assert_eq!(host.conn.info().snd_cwnd, 20 * u64::from(mss));
}

#[test]
fn recovery_from_a_timeout_grows_though_nothing_new_waits() {
    let config = ConnConfig { initial_window: 100, ..plain() };
    let mut p = Pair::established(config, ConnConfig::default());
    let data = vec![3; 50 * 1460];
    p.write_all(A, &data[..44 * 1460]);
    p.pass = Box::new(|_, _, _| false);
    p.flush();
    p.pass = Box::new(|_, _, _| true);
    let start = p.now;
    p.run_until(|p| p.ends[A].is_all_acked());
    assert!(p.now.since(start) < secs(1), "{:?}", p.now.since(start));
}

#[test]
fn a_larger_send_buffer_wakes_a_blocked_writer() {
    let config = ConnConfig { send_buffer: 1000, ..plain() };
    let mut host = Host::in_state(&config, State::Established);
    assert_eq!(host.conn.write(host.now, &[0; 2000]), Ok(1000));
    host.conn.set_send_buffer(100_000);
    assert!(host.conn.take_events().contains(Events::WRITABLE));
}

#[test]
fn urgent_data_is_read_in_line() {
    let mut host = Host::in_state(&plain(), State::Established);
    let header = TcpHeader { urgent: 60_000, ..host.header(ACK | Flags::URG, 1, 1) };
    host.give(header, b"abc").unwrap();
    assert_eq!(host.conn.readable_len(), 3);
}

#[test]
fn forged_duplicate_acks_do_not_push_the_flight_over_the_window() {
    let mut host = Host::in_state(&plain(), State::Established);
    host.conn.write(host.now, &[0; 300_000]).unwrap();
    host.drain();
    for _ in 0..200 {
        host.on(ACK, 1, 1, b"");
        assert!(host.conn.info().unacked <= 60_000);
    }
}

#[test]
fn a_probe_that_repaired_a_loss_reduces_and_one_in_vain_does_not() {
    // RFC 8985 §7.4.2: the ACK of the probed segment alone proves nothing; what follows it does.
    for in_vain in [false, true] {
        let mut host = Host::connecting(&ConnConfig { sack: true, ..plain() });
        let mut syn = host.header(Flags::SYN | ACK, 0, 1);
        syn.options.sack_permitted = true;
        host.now = host.now + ms(20);
        host.give(syn, b"").unwrap();
        host.conn.write(host.now, b"tail").unwrap();
        host.drain();
        let probe = host.time_passes();
        assert!(probe.len() == 1 && probe[0].kind == TransmitKind::Probe && probe[0].payload_len() == 4);
        host.on(ACK, 1, 5, b"");
        assert_eq!(host.conn.info().snd_ssthresh, u64::MAX);
        if in_vain {
            let mut twice = host.header(ACK, 1, 5);
            twice.options.sack.push(ISS.add(1), ISS.add(5));
            host.give(twice, b"").unwrap();
        }
        host.conn.write(host.now, b"more").unwrap();
        host.drain();
        host.on(ACK, 1, 9, b"");
        assert_eq!(host.conn.info().snd_ssthresh == u64::MAX, in_vain);
    }
}

#[test]
fn the_last_segment_once_more_is_echoed_with_its_own_timestamp() {
    let mut host = with_timestamps();
    for (value, ack, echo) in [(1001, 1, 1001), (9000, 1, 9000), (9500, 90_000, 9000)] {
        let _ = host.give(stamped(&host, 1, ack, value), b"abc");
        assert_eq!(host.drain()[0].header.options.timestamps.unwrap().echo, echo);
    }
}

#[test]
fn the_last_ack_of_a_handshake_may_wait_for_data() {
    let begin = || {
        let mut host = Host::connecting(&plain());
        host.give(host.header(Flags::SYN | ACK, 0, 1), b"").unwrap();
        assert!(host.conn.hold_handshake_ack());
        assert!(host.drain().is_empty(), "it waits");
        assert!(!host.conn.hold_handshake_ack(), "once");
        host
    };
    let kinds = |sent: Vec<Transmit>| sent.iter().map(|t| t.kind).collect::<Vec<_>>();
    // Data carries it.
    let mut host = begin();
    assert_eq!(host.conn.write(host.now, b"hello"), Ok(5));
    let sent = host.drain();
    assert_eq!((sent[0].header.ack, sent[0].payload_len()), (IRS.add(1), 5));
    host.conn.release_handshake_ack();
    assert_eq!((kinds(sent), kinds(host.drain())), (vec![TransmitKind::Data], vec![]));
    // There was none.
    let mut host = begin();
    host.conn.release_handshake_ack();
    assert_eq!(kinds(host.drain()), [TransmitKind::Ack]);
    // Something else is to be acknowledged.
    let mut host = begin();
    assert_eq!(kinds(host.on(ACK, 1, 1, b"welcome")), [TransmitKind::Ack]);
    assert!(!host.conn.hold_handshake_ack());
    // Whoever resets at once has had a connection.
    let mut host = begin();
    host.conn.abort(host.now);
    assert_eq!(kinds(host.drain()), [TransmitKind::Ack, TransmitKind::Reset]);
}
