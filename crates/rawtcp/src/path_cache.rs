//! What the path to a peer is like: asked once and remembered for a while.

use crate::device::{Devices, Lane, Way};
use crate::host::Host;
use crate::sync::{Mutex, lock};
use rawtcp_proto::{FourTuple, Instant};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Peers remembered. A flood of SYNs from everywhere only makes the cache useless.
const MAX: usize = 1024;

/// How long an answer holds: a device's MTU seldom changes, and a larger packet than fits is noticed.
const HOLDS: Duration = Duration::from_secs(30);

/// Questions a second: each costs some 10 µs, and a flood must not buy more than a hundredth of a core.
const QUESTIONS: u32 = 1000;

/// What is assumed when there were too many questions, or no answer: Ethernet's.
const ASSUMED: u32 = 1500;

#[derive(Debug)]
struct Known {
    mtu: u32,
    /// From one of our addresses; `None`: there was no answer.
    lane: Option<(IpAddr, Lane)>,
    at: Instant,
}

/// The paths towards recent peers. Only a driver uses it, and forgets it when routes change.
#[derive(Debug)]
pub(crate) struct PathCache {
    /// Whose it is: packets leave by the devices of this driver.
    driver: usize,
    known: HashMap<IpAddr, Known>,
    asked: u32,
    since: Instant,
}

impl PathCache {
    pub(crate) fn new(driver: usize) -> Self {
        PathCache { driver, known: HashMap::new(), asked: 0, since: Instant::ZERO }
    }

    /// The largest IP packet, in bytes, that leaves towards the peer.
    pub(crate) fn mtu(&mut self, host: &Host, now: Instant, tuple: &FourTuple) -> u32 {
        let peer = tuple.remote.ip();
        if let Some(known) = self.known.get(&peer)
            && now.since(known.at) < HOLDS
        {
            return known.mtu;
        }
        if now.since(self.since) >= Duration::from_secs(1) {
            (self.since, self.asked) = (now, 0);
        }
        self.asked += 1;
        if self.asked > QUESTIONS && !host.devices.own_addresses() {
            return ASSUMED;
        }
        let mut way = host.devices.route(tuple.remote, Some(tuple.local.ip()), None).ok();
        if let Some(way) = &mut way {
            host.devices.by_driver(&mut way.lane, self.driver);
        }
        let mtu = way.as_ref().map_or(ASSUMED, |way| way.mtu);
        if self.known.len() >= MAX {
            self.known.clear();
        }
        self.known.insert(peer, Known { mtu, lane: way.map(|way| (tuple.local.ip(), way.lane)), at: now });
        mtu
    }

    /// By what packets to the peer leave, if it was asked lately.
    pub(crate) fn lane(&self, tuple: &FourTuple) -> Option<Lane> {
        let (source, lane) = self.known.get(&tuple.remote.ip())?.lane.as_ref()?;
        // Another of our addresses may have another way.
        (*source == tuple.local.ip()).then(|| lane.clone())
    }
}

/// Answers kept for connects.
const MAX_WAYS: usize = 16;

/// How long a connect believes the answer that another had: an application that opens thousands of connections a second
/// asks ten times in it, and nobody can tell that a route changed a moment later.
const WAY_HOLDS: Duration = Duration::from_millis(100);

/// Whom a connect asked for: the peer's address without the port, and its own where it chose that.
type Question = (SocketAddr, Option<IpAddr>);

#[derive(Debug)]
struct Answer {
    question: Question,
    way: Way,
    generation: u32,
    at: Instant,
}

/// The ways to the peers that were connected to a moment ago.
#[derive(Debug, Default)]
pub(crate) struct RecentWays(Mutex<Vec<Answer>>);

impl RecentWays {
    /// [`Devices::route`], unless that was asked just now. Where the caller chose an interface it always is.
    pub(crate) fn route(
        &self,
        devices: &Devices,
        now: Instant,
        remote: SocketAddr,
        source: Option<IpAddr>,
        by: Option<&str>,
    ) -> io::Result<Way> {
        if by.is_some() || devices.own_addresses() {
            return devices.route(remote, source, by);
        }
        // An answer must not hide that the question comes from another namespace.
        devices.check_namespace()?;
        let mut peer = remote;
        peer.set_port(0);
        let question = (peer, source);
        self.remembered(now, devices.generation(), question, || devices.route(remote, source, by))
    }

    fn remembered(
        &self,
        now: Instant,
        generation: u32,
        question: Question,
        ask: impl FnOnce() -> io::Result<Way>,
    ) -> io::Result<Way> {
        let mut answers = lock(&self.0);
        answers.retain(|answer| now.since(answer.at) < WAY_HOLDS && answer.generation == generation);
        if let Some(known) = answers.iter().find(|answer| answer.question == question) {
            return Ok(known.way.clone());
        }
        drop(answers);
        let way = ask()?;
        let mut answers = lock(&self.0);
        if answers.len() >= MAX_WAYS {
            answers.remove(0);
        }
        answers.push(Answer { question, way: way.clone(), generation, at: now });
        Ok(way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use std::cell::Cell;

    #[test]
    fn an_answer_holds_for_a_moment_and_until_routes_change() {
        let devices = Devices::open(&Device::Loopback, 1).unwrap();
        let (ways, asked) = (RecentWays::default(), Cell::new(0));
        let ask = |ms, generation, peer: &str| {
            let peer: SocketAddr = peer.parse().unwrap();
            let answer = ways.remembered(Instant::ZERO + Duration::from_millis(ms), generation, (peer, None), || {
                asked.set(asked.get() + 1);
                devices.route(peer, None, None)
            });
            answer.unwrap();
            asked.get()
        };
        assert_eq!(ask(0, 0, "127.0.0.1:0"), 1);
        assert_eq!(ask(99, 0, "127.0.0.1:0"), 1);
        assert_eq!(ask(99, 0, "127.0.0.2:0"), 2);
        assert_eq!(ask(100, 0, "127.0.0.1:0"), 3);
        assert_eq!(ask(101, 1, "127.0.0.1:0"), 4);
        for i in 0..2 * MAX_WAYS {
            ask(101, 1, &format!("127.1.0.{i}:0"));
        }
        assert_eq!(lock(&ways.0).len(), MAX_WAYS);
        assert_eq!(ask(101, 1, "127.0.0.1:0"), 5 + 2 * MAX_WAYS);
    }

    #[test]
    fn an_error_is_not_remembered() {
        let devices = Devices::open(&Device::Loopback, 1).unwrap();
        let ways = RecentWays::default();
        let peer: SocketAddr = "192.0.2.1:0".parse().unwrap();
        let ask = |of: SocketAddr| ways.remembered(Instant::ZERO, 0, (peer, None), || devices.route(of, None, None));
        assert!(ask(peer).is_err());
        assert!(ask("127.0.0.1:0".parse().unwrap()).is_ok());
    }
}
