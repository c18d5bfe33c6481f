//! Classic BPF programs (see the kernel's `networking/filter.rst`) for raw sockets.
//!
//! They test destination ports only: a raw socket of protocol TCP is given TCP only, never fragments. User space checks
//! exactly what is ours, so a program may accept more than asked, never less.

use std::io;

use socket2::{SockFilter, Socket};

use crate::PortSet;

/// More ranges than this are coarsened. The kernel allows 4,096 instructions, but takes 1.2 ms to attach that many.
pub(crate) const MAX_RANGES: usize = 128;

/// The program's answer is how many bytes to keep.
const ACCEPT: Op = op(0x06, 0, 0, u32::MAX);
const DROP: Op = op(0x06, 0, 0, 0);

/// One instruction: `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    k: u32,
}

const fn op(code: u16, jump_true: u8, jump_false: u8, k: u32) -> Op {
    Op { code, jump_true, jump_false, k }
}

/// Gives a socket its program, or another one: packets meet either the old or the new one.
pub(crate) fn attach(socket: &Socket, program: &[Op]) -> io::Result<()> {
    let program: Vec<SockFilter> =
        program.iter().map(|op| SockFilter::new(op.code, op.jump_true, op.jump_false, op.k)).collect();
    socket.attach_filter(&program)
}

/// `X = 4 * (packet[0] & 15)`: the length of the IPv4 header.
const LOAD_IPV4_HEADER_LENGTH: Op = op(0xb1, 0, 0, 0);

/// With which header a packet begins for the socket's filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Raw IPv4 sockets.
    Ipv4,
    /// Raw IPv6 sockets.
    Transport,
    /// AF_PACKET sockets on an Ethernet.
    Ethernet,
}

/// What the kernel knows beside the bytes of a packet is loaded from here on (`SKF_AD_OFF` of `<linux/filter.h>`).
const fn beside(what: u32) -> u32 {
    (-0x1000_i32 as u32).wrapping_add(what)
}
const PROTOCOL: u32 = beside(0);
const PACKET_TYPE: u32 = beside(4);
const INTERFACE: u32 = beside(8);
const VLAN_TAG_PRESENT: u32 = beside(48);

/// A = the 32 bits there.
const fn load(at: u32) -> Op {
    op(0x20, 0, 0, at)
}

/// A = k? skip `yes` : skip `no`.
const fn is(k: u32, yes: u8, no: u8) -> Op {
    op(0x15, yes, no, k)
}

/// Accepts nothing.
pub(crate) fn drop_all() -> [Op; 1] {
    [DROP]
}

/// Accepts TCP segments to the given ports which did not come in by the interfaces in `except`.
pub(crate) fn destination_ports(start: Start, ports: &PortSet, except: &[u32]) -> Vec<Op> {
    if ports.is_empty() {
        return drop_all().to_vec();
    }
    let mut program = Vec::new();
    if !except.is_empty() {
        program.push(load(INTERFACE));
        program.extend(except.iter().flat_map(|&interface| [is(interface, 0, 1), DROP]));
    }
    match start {
        Start::Ethernet => ethernet(&mut program),
        _ if *ports == PortSet::all() => {
            program.push(ACCEPT);
            return program;
        }
        // A = the 16 bits at X + 2
        Start::Ipv4 => program.extend([LOAD_IPV4_HEADER_LENGTH, op(0x48, 0, 0, 2)]),
        // A = the 16 bits at 2
        Start::Transport => program.push(op(0x28, 0, 0, 2)),
    }
    let ranges: Vec<(u32, u32)> = ports
        .coarsened(MAX_RANGES)
        .ranges()
        .map(|range| (u32::from(*range.start()), u32::from(*range.end())))
        .collect();
    search(&ranges, &mut program);
    program
}

/// A = the destination port of a TCP segment in a frame to this host, and not from it. What stands behind IPv6 extension
/// headers is accepted whatever the port, as are IPv6 fragments, to be counted.
fn ethernet(program: &mut Vec<Op>) {
    const ETHERNET: u32 = 14;
    const TCP: u32 = libc::IPPROTO_TCP as u32;
    program.extend([
        load(PACKET_TYPE),
        is(libc::PACKET_HOST as u32, 1, 0),
        DROP,
        // A frame of a VLAN comes a second time, by the VLAN's own interface.
        load(VLAN_TAG_PRESENT),
        is(0, 1, 0),
        DROP,
        load(PROTOCOL),
        is(libc::ETH_P_IPV6 as u32, 8, 0),
        is(libc::ETH_P_IP as u32, 1, 0),
        DROP,
        // IPv4. Fragments were put together before (see `packet.rs`).
        op(0x30, 0, 0, ETHERNET + 9), // A = the byte there: protocol
        is(TCP, 1, 0),
        DROP,
        op(0xb1, 0, 0, ETHERNET),     // X = the header's length
        op(0x48, 0, 0, ETHERNET + 2), // A = the 16 bits at X + 16
        op(0x05, 0, 0, 9),
        // IPv6.
        op(0x30, 0, 0, ETHERNET + 6), // A = the byte there: next header
        is(TCP, 6, 0),
        is(0, 4, 0),  // hop-by-hop options
        is(43, 3, 0), // routing
        is(44, 2, 0), // fragment
        is(60, 1, 0), // destination options
        DROP,
        ACCEPT,
        op(0x28, 0, 0, ETHERNET + 40 + 2), // A = the 16 bits there
    ]);
}

/// A binary search for A among sorted ranges. Conditional jumps reach 255 instructions only, so the way to the right
/// half is an unconditional one.
fn search(ranges: &[(u32, u32)], program: &mut Vec<Op>) {
    let [(first, last)] = *ranges else {
        let (left, right) = ranges.split_at(ranges.len() / 2);
        program.push(op(0x35, 0, 1, right[0].0)); // A >= first of the right half? next : skip one
        let jump = program.len();
        program.push(DROP);
        search(left, program);
        program[jump] = op(0x05, 0, 0, (program.len() - jump - 1) as u32);
        search(right, program);
        return;
    };
    program.extend([
        op(0x35, 0, 2, first), // A >= first? next : drop
        op(0x25, 1, 0, last),  // A > last? drop : accept
        ACCEPT,
        DROP,
    ]);
}

/// Accepts ICMP messages that quote an IPv4 packet of protocol TCP.
pub(crate) fn icmp_about_tcp() -> [Op; 5] {
    [
        LOAD_IPV4_HEADER_LENGTH,
        op(0x50, 0, 0, 8 + 9), // A = the byte at X + 17: protocol of the packet behind the ICMP header
        op(0x15, 0, 1, libc::IPPROTO_TCP as u32),
        ACCEPT,
        DROP,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel knows of a packet beside its bytes.
    #[derive(Clone, Copy, Default)]
    struct Beside {
        protocol: libc::c_int,
        packet_type: u32,
        interface: u32,
        vlan: u32,
    }

    fn run(program: &[Op], packet: &[u8]) -> bool {
        run_with(program, packet, Beside::default())
    }

    /// Runs a program as the kernel does: a load out of bounds drops the packet.
    fn run_with(program: &[Op], packet: &[u8], beside: Beside) -> bool {
        let (mut a, mut x, mut pc) = (0_u32, 0_usize, 0_usize);
        for _ in 0..program.len() {
            let Op { code, jump_true: jt, jump_false: jf, k } = program[pc];
            pc += 1;
            let half = |at: usize| packet.get(at..at + 2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])));
            let load = match code {
                0x06 => return k != 0,
                0xb1 => packet.get(k as usize).map(|byte| (x = usize::from(byte & 15) * 4, a).1),
                0x48 => half(x + k as usize),
                0x28 => half(k as usize),
                0x50 => packet.get(x + k as usize).map(|&byte| u32::from(byte)),
                0x30 => packet.get(k as usize).map(|&byte| u32::from(byte)),
                0x20 => match k {
                    PROTOCOL => Some(beside.protocol as u32),
                    PACKET_TYPE => Some(beside.packet_type),
                    INTERFACE => Some(beside.interface),
                    VLAN_TAG_PRESENT => Some(beside.vlan),
                    _ => panic!("nothing is known at {k:#x}"),
                },
                0x05 => (pc += k as usize, Some(a)).1,
                0x35 => (pc += usize::from(if a >= k { jt } else { jf }), Some(a)).1,
                0x25 => (pc += usize::from(if a > k { jt } else { jf }), Some(a)).1,
                0x15 => (pc += usize::from(if a == k { jt } else { jf }), Some(a)).1,
                _ => panic!("unknown instruction {code:#x}"),
            };
            match load {
                Some(value) => a = value,
                None => return false,
            }
        }
        panic!("the program does not end");
    }

    fn tcp_to(port: u16, options: usize) -> Vec<u8> {
        let mut packet = vec![0; 20 + options];
        packet[0] = 0x45 + (options / 4) as u8;
        packet.extend_from_slice(&[0x99, 0x99]);
        packet.extend_from_slice(&port.to_be_bytes());
        packet
    }

    #[test]
    fn every_port_is_judged_as_the_set_does() {
        let sets: [PortSet; 5] = [
            PortSet::new(),
            PortSet::all(),
            [80].into_iter().collect(),
            [0, 22, 23, 24, 80, 8080, 65535].into_iter().collect(),
            (0..MAX_RANGES as u16).map(|i| 1000 + 3 * i).collect(),
        ];
        for set in sets {
            let v4 = destination_ports(Start::Ipv4, &set, &[]);
            let v6 = destination_ports(Start::Transport, &set, &[]);
            assert!(v4.len() <= 4096);
            for port in (0..=u16::MAX).filter(|port| *port < 1500 || port % 97 == 0 || set.contains(*port)) {
                let packet = tcp_to(port, usize::from(port % 11) * 4);
                let header = packet.len() - 4;
                assert_eq!(run(&v4, &packet), set.contains(port), "{port} in {set:?}");
                assert_eq!(run(&v6, &packet[header..]), set.contains(port), "{port} in {set:?}");
            }
        }
    }

    fn frame(ip: &[u8]) -> Vec<u8> {
        [&[0; 14], ip].concat()
    }

    #[test]
    fn frames_are_judged_by_their_kind_and_port() {
        let (v4, v6) = (libc::ETH_P_IP, libc::ETH_P_IPV6);
        let mut tcp_v4 = tcp_to(443, 8);
        tcp_v4[9] = 6;
        let mut udp_v4 = tcp_v4.clone();
        udp_v4[9] = 17;
        let v6_with = |next: u8| {
            let mut packet = [0x60; 40];
            packet[6] = next;
            [&packet[..], &[0x99, 0x99, 443_u16.to_be_bytes()[0], 443_u16.to_be_bytes()[1]]].concat()
        };
        for set in [[443].into_iter().collect(), (400..500).collect::<PortSet>(), PortSet::all()] {
            let program = destination_ports(Start::Ethernet, &set, &[]);
            let judge = |ip: &[u8], protocol, packet_type, vlan| {
                run_with(&program, &frame(ip), Beside { protocol, packet_type, interface: 3, vlan })
            };
            assert!(judge(&tcp_v4, v4, 0, 0) && judge(&v6_with(6), v6, 0, 0));
            assert!(!judge(&udp_v4, v4, 0, 0) && !judge(&v6_with(17), v6, 0, 0));
            assert!(!judge(&tcp_v4, libc::ETH_P_ARP, 0, 0), "not IP");
            for other in 1..=4 {
                assert!(!judge(&tcp_v4, v4, other, 0), "broadcast, multicast, for others, outgoing");
            }
            assert!(!judge(&tcp_v4, v4, 0, 1), "tagged");
            assert!([0, 43, 44, 60].iter().all(|&next| judge(&v6_with(next), v6, 0, 0)), "left to user space");
        }
        let other: PortSet = [444].into_iter().collect();
        let program = destination_ports(Start::Ethernet, &other, &[]);
        let beside = Beside { protocol: v4, ..Beside::default() };
        assert!(!run_with(&program, &frame(&tcp_v4), beside));
        assert!(!run_with(&program, &frame(&v6_with(6)), Beside { protocol: v6, ..beside }));
    }

    #[test]
    fn packets_of_excepted_interfaces_are_dropped() {
        let ports: PortSet = [80].into_iter().collect();
        for (start, ports) in [(Start::Ipv4, &ports), (Start::Transport, &PortSet::all())] {
            let program = destination_ports(start, ports, &[2, 5]);
            for interface in 1..7 {
                let packet = if start == Start::Ipv4 { tcp_to(80, 0) } else { vec![0, 0, 0, 80] };
                let accepted = run_with(&program, &packet, Beside { interface, ..Beside::default() });
                assert_eq!(accepted, ![2, 5].contains(&interface), "{interface}");
            }
        }
    }

    #[test]
    fn too_many_ranges_accept_more_never_less() {
        let set: PortSet = (0..3000).map(|i| 1000 + 20 * i + (i % 7)).collect();
        let program = destination_ports(Start::Transport, &set, &[]);
        assert!(program.len() <= 1 + 6 * MAX_RANGES);
        for port in set.ranges().flatten() {
            assert!(run(&program, &[0, 0, (port >> 8) as u8, port as u8]));
        }
    }

    #[test]
    fn short_packets_are_dropped() {
        let set: PortSet = [80].into_iter().collect();
        assert!(!run(&destination_ports(Start::Ipv4, &set, &[]), &tcp_to(80, 0)[..23]));
        assert!(!run(&destination_ports(Start::Transport, &set, &[]), &[0, 0, 0]));
    }
}
