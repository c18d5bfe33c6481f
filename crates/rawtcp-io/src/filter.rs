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

/// Where a packet begins for the socket's filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Raw IPv4 sockets.
    Ipv4Header,
    /// Raw IPv6 sockets.
    TransportHeader,
}

/// Accepts nothing.
pub(crate) fn drop_all() -> [Op; 1] {
    [DROP]
}

/// Accepts TCP segments to the given ports.
pub(crate) fn destination_ports(start: Start, ports: &PortSet) -> Vec<Op> {
    if ports.is_empty() {
        return drop_all().to_vec();
    }
    if *ports == PortSet::all() {
        return vec![ACCEPT];
    }
    let mut program = match start {
        // A = the 16 bits at X + 2
        Start::Ipv4Header => vec![LOAD_IPV4_HEADER_LENGTH, op(0x48, 0, 0, 2)],
        // A = the 16 bits at 2
        Start::TransportHeader => vec![op(0x28, 0, 0, 2)],
    };
    let ranges: Vec<(u32, u32)> = ports
        .coarsened(MAX_RANGES)
        .ranges()
        .map(|range| (u32::from(*range.start()), u32::from(*range.end())))
        .collect();
    search(&ranges, &mut program);
    program
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

    /// Runs a program as the kernel does: a load out of bounds drops the packet.
    fn run(program: &[Op], packet: &[u8]) -> bool {
        let (mut a, mut x, mut pc) = (0_u32, 0_usize, 0_usize);
        for _ in 0..program.len() {
            let Op { code, jump_true: jt, jump_false: jf, k } = program[pc];
            pc += 1;
            let half = |at: usize| packet.get(at..at + 2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])));
            let load = match code {
                0x06 => return k != 0,
                0xb1 => packet.first().map(|byte| (x = usize::from(byte & 15) * 4, a).1),
                0x48 => half(x + k as usize),
                0x28 => half(k as usize),
                0x50 => packet.get(x + k as usize).map(|&byte| u32::from(byte)),
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
            let v4 = destination_ports(Start::Ipv4Header, &set);
            let v6 = destination_ports(Start::TransportHeader, &set);
            assert!(v4.len() <= 4096);
            for port in (0..=u16::MAX).filter(|port| *port < 1500 || port % 97 == 0 || set.contains(*port)) {
                let packet = tcp_to(port, usize::from(port % 11) * 4);
                let header = packet.len() - 4;
                assert_eq!(run(&v4, &packet), set.contains(port), "{port} in {set:?}");
                assert_eq!(run(&v6, &packet[header..]), set.contains(port), "{port} in {set:?}");
            }
        }
    }

    #[test]
    fn too_many_ranges_accept_more_never_less() {
        let set: PortSet = (0..3000).map(|i| 1000 + 20 * i + (i % 7)).collect();
        let program = destination_ports(Start::TransportHeader, &set);
        assert!(program.len() <= 1 + 6 * MAX_RANGES);
        for port in set.ranges().flatten() {
            assert!(run(&program, &[0, 0, (port >> 8) as u8, port as u8]));
        }
    }

    #[test]
    fn short_packets_are_dropped() {
        let set: PortSet = [80].into_iter().collect();
        assert!(!run(&destination_ports(Start::Ipv4Header, &set), &tcp_to(80, 0)[..23]));
        assert!(!run(&destination_ports(Start::TransportHeader, &set), &[0, 0, 0]));
    }
}
