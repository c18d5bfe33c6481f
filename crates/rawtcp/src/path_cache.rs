//! What the path to a peer carries, for passive opens: asked once and remembered for a while.

use crate::host::Host;
use rawtcp_proto::{FourTuple, Instant};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Peers remembered. A flood of SYNs from everywhere only makes the cache useless.
const MAX: usize = 1024;

/// How long an answer holds: a device's MTU seldom changes, and a larger packet than fits is noticed.
const HOLDS: Duration = Duration::from_secs(30);

/// Questions a second: each costs some 10 µs, and a flood must not buy more than a hundredth of a core.
const QUESTIONS: u32 = 1000;

/// What is assumed when there were too many questions, or no answer: Ethernet's.
const ASSUMED: u32 = 1500;

/// The MTU towards recent peers. Only the driver uses it.
#[derive(Debug, Default)]
pub(crate) struct PathCache {
    known: HashMap<IpAddr, (u32, Instant)>,
    asked: u32,
    since: Instant,
}

impl PathCache {
    /// The largest IP packet, in bytes, that leaves towards the peer.
    pub(crate) fn mtu(&mut self, host: &Host, now: Instant, tuple: &FourTuple) -> u32 {
        let peer = tuple.remote.ip();
        if let Some(&(mtu, at)) = self.known.get(&peer)
            && now.since(at) < HOLDS
        {
            return mtu;
        }
        if now.since(self.since) >= Duration::from_secs(1) {
            (self.since, self.asked) = (now, 0);
        }
        self.asked += 1;
        if self.asked > QUESTIONS && !host.devices.are_virtual() {
            return ASSUMED;
        }
        let mtu = host.devices.route(tuple.remote, Some(tuple.local.ip()), None).map_or(ASSUMED, |way| way.mtu);
        if self.known.len() >= MAX {
            self.known.clear();
        }
        self.known.insert(peer, (mtu, now));
        mtu
    }
}
