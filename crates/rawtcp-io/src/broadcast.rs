//! Which destinations of received IPv4 packets are broadcast addresses.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::network::rtnl::Rtnl;

/// Destinations remembered. Who receives for more of them asks again and again.
const MAX: usize = 1024;

/// How long an answer holds.
const HOLDS: Duration = Duration::from_secs(30);

/// Questions a second: each costs some 10 µs. Beyond that a destination is taken for one host's, as nearly all are:
/// nothing is dropped, and no flood buys more than a hundredth of a core.
const QUESTIONS: u32 = 1000;

/// Set in [`Broadcasts::last`] where the lower 32 bits are an address.
const KNOWN: u64 = 1 << 32;

/// Asks the kernel of each destination once, which is cheaper than to be told with each packet (`IP_PKTINFO`).
#[derive(Debug)]
pub(crate) struct Broadcasts {
    /// The destination that came last, if it was one host's. It is believed until another one comes.
    last: AtomicU64,
    asked: Mutex<Asked>,
}

#[derive(Debug)]
struct Asked {
    rtnl: Rtnl,
    known: HashMap<Ipv4Addr, (bool, Instant)>,
    questions: u32,
    since: Instant,
}

impl Broadcasts {
    /// Those of the network namespace of the calling thread, whoever asks later.
    pub(crate) fn open() -> io::Result<Self> {
        let asked = Asked { rtnl: Rtnl::open()?, known: HashMap::new(), questions: 0, since: Instant::now() };
        Ok(Self { last: AtomicU64::new(0), asked: Mutex::new(asked) })
    }

    /// Whether a packet to this address is for everybody on a link. Multicast is not asked for: the address tells.
    pub(crate) fn contain(&self, destination: Ipv4Addr) -> bool {
        let number = u64::from(destination.to_bits()) | KNOWN;
        if self.last.load(Ordering::Relaxed) == number {
            return false;
        }
        let is_broadcast =
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).is_broadcast(destination, Instant::now());
        if !is_broadcast {
            self.last.store(number, Ordering::Relaxed);
        }
        is_broadcast
    }
}

impl Asked {
    fn is_broadcast(&mut self, destination: Ipv4Addr, now: Instant) -> bool {
        if let Some(&(is_broadcast, at)) = self.known.get(&destination)
            && now.duration_since(at) < HOLDS
        {
            return is_broadcast;
        }
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.questions) = (now, 0);
        }
        self.questions += 1;
        if self.questions > QUESTIONS {
            return false;
        }
        // Without a route there it is no broadcast.
        let is_broadcast = self.rtnl.is_broadcast(destination).unwrap_or(false);
        if self.known.len() >= MAX {
            self.known.clear();
        }
        self.known.insert(destination, (is_broadcast, now));
        is_broadcast
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;

    #[test]
    fn the_limited_broadcast_is_one_and_the_own_address_is_not() {
        let broadcasts = Broadcasts::open().unwrap();
        let answers = [HOME, Ipv4Addr::BROADCAST, HOME, HOME, Ipv4Addr::BROADCAST].map(|ip| broadcasts.contain(ip));
        assert_eq!(answers, [false, true, false, false, true]);
        assert_eq!(broadcasts.asked.lock().unwrap().questions, 2);
    }

    #[test]
    fn an_answer_holds_for_a_while_and_questions_are_bounded() {
        let mut asked = Broadcasts::open().unwrap().asked.into_inner().unwrap();
        let start = asked.since;
        let mut ask = |ip, seconds| {
            let is_broadcast = asked.is_broadcast(ip, start + Duration::from_secs(seconds));
            (is_broadcast, asked.questions, asked.known.len())
        };
        assert_eq!(ask(Ipv4Addr::BROADCAST, 0), (true, 1, 1));
        assert_eq!(ask(Ipv4Addr::BROADCAST, 29), (true, 1, 1));
        assert_eq!(ask(Ipv4Addr::BROADCAST, 30), (true, 1, 1), "a question in a new second");
        for i in 1..QUESTIONS {
            assert_eq!(ask(Ipv4Addr::from_bits(0x7f00_0001 + i), 30).1, 1 + i);
        }
        let unasked = ask(Ipv4Addr::new(127, 9, 9, 9), 30);
        assert_eq!(unasked, (false, QUESTIONS + 1, QUESTIONS as usize), "not asked, and not remembered");
        assert!(ask(Ipv4Addr::BROADCAST, 30).0, "remembered");
        for i in 0..=MAX as u32 {
            ask(Ipv4Addr::from_bits(0x7f01_0000 + i), 31 + u64::from(i / 1000));
        }
        assert!(asked.known.len() <= MAX);
    }
}
