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

/// How long it holds that a destination is one host's.
const HOLDS: Duration = Duration::from_secs(30);

/// How long it holds that it is a broadcast address: it may become ours, and is not to be dropped for long then.
const BROADCAST_HOLDS: Duration = Duration::from_secs(1);

/// Questions a second: each costs some 10 µs. Beyond that a destination is taken for one host's, as nearly all are:
/// nothing is dropped, and no flood buys more than a hundredth of a core.
const QUESTIONS: u32 = 1000;

/// Set in [`Broadcasts::last`] where the lower 32 bits are an address.
const KNOWN: u64 = 1 << 32;

/// Asks the kernel of each destination once, which is cheaper than to be told with each packet (`IP_PKTINFO`). A VRF's broadcast
/// addresses are not known: its routes are in a table of its own.
#[derive(Debug)]
pub(crate) struct Broadcasts {
    /// The destination that came last, if it was one host's. It is believed until another one comes.
    last: AtomicU64,
    asked: Mutex<Asked>,
}

#[derive(Debug)]
struct Asked {
    /// `None`: the kernel has failed to answer, and is not waited for again.
    rtnl: Option<Rtnl>,
    known: HashMap<Ipv4Addr, (bool, Instant)>,
    questions: u32,
    since: Instant,
}

impl Broadcasts {
    /// Those of the network namespace of the calling thread, whoever asks later.
    ///
    /// # Errors
    /// The kernel does not answer such questions.
    pub(crate) fn open() -> io::Result<Self> {
        let mut rtnl = Rtnl::open()?;
        ask(&mut rtnl, Ipv4Addr::LOCALHOST)?;
        let asked = Asked { rtnl: Some(rtnl), known: HashMap::new(), questions: 0, since: Instant::now() };
        Ok(Self { last: AtomicU64::new(0), asked: Mutex::new(asked) })
    }

    /// Whether a packet to this address is for more than one host.
    pub(crate) fn contain(&self, destination: Ipv4Addr) -> bool {
        let number = u64::from(destination.to_bits()) | KNOWN;
        if self.last.load(Ordering::Relaxed) == number {
            return false;
        }
        if destination.is_broadcast() || destination.is_multicast() {
            return true;
        }
        let answer = self.asked.lock().unwrap_or_else(PoisonError::into_inner).answer(destination, Instant::now());
        if answer == Some(false) {
            self.last.store(number, Ordering::Relaxed);
        }
        answer == Some(true)
    }
}

impl Asked {
    /// Whether it is a broadcast address; `None` where that is not known.
    fn answer(&mut self, destination: Ipv4Addr, now: Instant) -> Option<bool> {
        if let Some(&(is_broadcast, at)) = self.known.get(&destination)
            && now.duration_since(at) < if is_broadcast { BROADCAST_HOLDS } else { HOLDS }
        {
            return Some(is_broadcast);
        }
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.questions) = (now, 0);
        }
        self.questions += 1;
        if self.questions > QUESTIONS {
            return None;
        }
        let Ok(is_broadcast) = ask(self.rtnl.as_mut()?, destination) else {
            self.rtnl = None;
            return None;
        };
        if self.known.len() >= MAX {
            self.known.clear();
        }
        self.known.insert(destination, (is_broadcast, now));
        Some(is_broadcast)
    }
}

/// What has no route is no broadcast address.
fn ask(rtnl: &mut Rtnl, destination: Ipv4Addr) -> io::Result<bool> {
    rtnl.is_broadcast(destination).or_else(|error| match error.raw_os_error() {
        // No route, or one of the kinds "unreachable", "prohibit" and "blackhole".
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => Ok(false),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const ALL: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);

    #[test]
    fn an_own_address_is_asked_for_once_and_what_tells_by_itself_is_not() {
        let broadcasts = Broadcasts::open().unwrap();
        let answers = [HOME, ALL, HOME, HOME, ALL].map(|ip| broadcasts.contain(ip));
        assert_eq!(answers, [false, true, false, false, true]);
        assert!(broadcasts.contain(Ipv4Addr::BROADCAST) && broadcasts.contain(Ipv4Addr::new(224, 0, 0, 1)));
        assert_eq!(broadcasts.asked.lock().unwrap().questions, 2);
    }

    #[test]
    fn what_is_not_known_is_not_remembered() {
        let broadcasts = Broadcasts::open().unwrap();
        broadcasts.asked.lock().unwrap().rtnl = None;
        assert!(!broadcasts.contain(ALL));
        broadcasts.asked.lock().unwrap().rtnl = Some(Rtnl::open().unwrap());
        assert!(broadcasts.contain(ALL));
    }

    #[test]
    fn an_answer_holds_for_a_while_and_questions_are_bounded() {
        let mut asked = Broadcasts::open().unwrap().asked.into_inner().unwrap();
        let start = asked.since;
        let mut ask = |ip, seconds| {
            let answer = asked.answer(ip, start + Duration::from_secs(seconds));
            (answer, asked.questions, asked.known.len())
        };
        assert_eq!(ask(HOME, 0), (Some(false), 1, 1));
        assert_eq!([0, 0, 1].map(|seconds| ask(ALL, seconds).1), [2, 2, 1], "a question in a new second");
        assert_eq!(ask(HOME, 29), (Some(false), 1, 2));
        assert_eq!(ask(HOME, 30), (Some(false), 1, 2), "a question in a new second");
        assert_eq!(ask(ALL, 30), (Some(true), 2, 2));
        for i in 2..QUESTIONS {
            assert_eq!(ask(Ipv4Addr::from_bits(0x7f00_0001 + i), 30).1, 1 + i);
        }
        let unasked = ask(Ipv4Addr::new(127, 9, 9, 9), 30);
        assert_eq!(unasked, (None, QUESTIONS + 1, QUESTIONS as usize), "not asked, and not remembered");
        assert_eq!(ask(ALL, 30).0, Some(true), "remembered");
        for i in 0..=MAX as u32 {
            ask(Ipv4Addr::from_bits(0x7f01_0000 + i), 31 + u64::from(i / 1000));
        }
        assert!(asked.known.len() <= MAX);
    }
}
