//! What the path to a peer is like, for passive opens: asked once and remembered for a while.

use crate::device::Lane;
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

#[derive(Debug)]
struct Known {
    mtu: u32,
    /// From one of our addresses; `None`: there was no answer.
    lane: Option<(IpAddr, Lane)>,
    at: Instant,
}

/// The paths towards recent peers. Only the driver uses it, and forgets it when routes change.
#[derive(Debug, Default)]
pub(crate) struct PathCache {
    known: HashMap<IpAddr, Known>,
    asked: u32,
    since: Instant,
}

impl PathCache {
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
        if self.asked > QUESTIONS && !host.devices.are_virtual() {
            return ASSUMED;
        }
        let way = host.devices.route(tuple.remote, Some(tuple.local.ip()), None).ok();
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
