//! The choice of a local port for an active open: RFC 6056 §3.3.4, Algorithm 4 (double hash).
//!
//! Successive connections to one peer walk through the ports one by one, so that a port is reused as
//! late as possible; where the walk starts, and how other peers move it, is unpredictable.

use super::isn::derive;
use siphasher::sip::SipHasher24;
use std::net::{IpAddr, SocketAddr};

/// Counters shared by all peers: an observer's own connections share a counter with one in 256 of the
/// connections to others, so that little is learnt from its steps (RFC 6056 §3.3.4). 1 KiB.
const TABLE: usize = 256;

/// The state of the choice. One for all shards of a stack.
pub struct PortChooser {
    offset: SipHasher24,
    index: SipHasher24,
    table: [u32; TABLE],
}

impl PortChooser {
    /// A choice that only the holder of the seed can predict.
    pub fn new(seed: &[u8; 32]) -> Self {
        let keyed = |label: &[u8]| {
            let (k0, k1) = derive(seed, label);
            SipHasher24::new_with_keys(k0, k1)
        };
        let start = keyed(b"port table");
        let table = core::array::from_fn(|i| start.hash(&(i as u64).to_le_bytes()) as u32);
        PortChooser { offset: keyed(b"port offset"), index: keyed(b"port index"), table }
    }

    /// Which of `candidates` ports (by index) to use from `local` to `remote`: the first that suits,
    /// each looked at once at most; `None` if none does.
    pub fn choose(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        candidates: usize,
        mut suits: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let input = input(local, remote);
        let offset = self.offset.hash(&input) as u32 as usize;
        let counter = &mut self.table[self.index.hash(&input) as usize % TABLE];
        for _ in 0..candidates {
            let choice = offset.wrapping_add(*counter as usize) % candidates;
            *counter = counter.wrapping_add(1);
            if suits(choice) {
                return Some(choice);
            }
        }
        None
    }

    /// The same over a list of ports, in an order that does not change between calls.
    pub fn choose_from(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        ports: &[u16],
        mut suits: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        self.choose(local, remote, ports.len(), |i| suits(ports[i])).map(|i| ports[i])
    }
}

impl core::fmt::Debug for PortChooser {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The table would tell which port is next.
        f.write_str("PortChooser")
    }
}

fn input(local: IpAddr, remote: SocketAddr) -> [u8; 34] {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    };
    let mut bytes = [0; 34];
    bytes[..16].copy_from_slice(&octets(local));
    bytes[16..32].copy_from_slice(&octets(remote.ip()));
    bytes[32..].copy_from_slice(&remote.port().to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn peer(n: u16) -> SocketAddr {
        ([10, 0, (n >> 8) as u8, n as u8], 443).into()
    }

    #[test]
    fn one_peer_sees_every_port_before_it_sees_one_again() {
        let mut chooser = PortChooser::new(&[3; 32]);
        let seen: BTreeSet<_> = (0..1000).filter_map(|_| chooser.choose(LOCAL, peer(1), 1000, |_| true)).collect();
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn all_candidates_are_tried_and_none_twice() {
        let mut chooser = PortChooser::new(&[3; 32]);
        let ports: Vec<u16> = (40_000..40_050).collect();
        assert_eq!(chooser.choose_from(LOCAL, peer(1), &ports, |port| port == 40_031), Some(40_031));
        let mut tried = Vec::new();
        let none = chooser.choose_from(LOCAL, peer(1), &ports, |port| {
            tried.push(port);
            false
        });
        assert_eq!((none, tried.len(), tried.iter().collect::<BTreeSet<_>>().len()), (None, 50, 50));
        assert_eq!(chooser.choose(LOCAL, peer(1), 0, |_| true), None);
    }

    #[test]
    fn peers_and_seeds_start_at_unrelated_ports() {
        let first = |seed: u8, n: u16| PortChooser::new(&[seed; 32]).choose(LOCAL, peer(n), 28_232, |_| true);
        let starts: BTreeSet<_> = (0..200).map(|n| first(3, n)).collect();
        assert!(starts.len() > 190, "{}", starts.len());
        assert_ne!(first(3, 1), first(4, 1));
        assert_eq!(first(3, 1), first(3, 1));
    }

    #[test]
    fn the_end_of_the_counter_is_not_the_end_of_the_ports() {
        let mut chooser = PortChooser::new(&[3; 32]);
        chooser.table = [u32::MAX - 5; TABLE];
        let seen: BTreeSet<_> = (0..64).filter_map(|_| chooser.choose(LOCAL, peer(1), 64, |_| true)).collect();
        assert_eq!(seen.len(), 64);
    }
}
