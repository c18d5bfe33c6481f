//! Ports of which the kernel does not see what comes in by AF_PACKET: it would only drop it, at the guard.

use super::{Guarded, Ports};
use crate::device::Devices;
use crate::sync::Arc;
use rawtcp_io::ingress::{IngressDrop, MAX_ADDED};
use std::net::{IpAddr, SocketAddr};

/// What comes to these addresses is dropped behind our sockets, until this goes.
#[derive(Debug)]
pub(super) struct Spared {
    ingress: Arc<IngressDrop>,
    local: Vec<SocketAddr>,
}

impl Drop for Spared {
    fn drop(&mut self) {
        self.ingress.remove(&self.local);
    }
}

impl Ports {
    /// Spares the kernel what comes to a busy port, if it lets us.
    pub(crate) fn spare_kernel(&self, devices: &Devices, local: SocketAddr) {
        let mut inner = self.lock();
        let Some(at) = inner.covering(local) else { return };
        if let Some(guarded) = inner.guards.get_mut(&at)
            && guarded.spared.is_none()
        {
            guarded.spare_kernel(devices, at);
        }
    }

    /// This host's addresses may have changed: one that is another host's by now may be forwarded to.
    pub(crate) fn renew_spared(&self, devices: &Devices) {
        let mut inner = self.lock();
        for (&at, guarded) in &mut inner.guards {
            // Of all that changes routes, hardly anything changes these.
            if guarded.spared.as_ref().is_some_and(|spared| spared.local != guarded.addresses(devices, at)) {
                guarded.spared = None;
                guarded.spare_kernel(devices, at);
            }
        }
    }
}

impl Guarded {
    fn spare_kernel(&mut self, devices: &Devices, at: SocketAddr) {
        let Some(ingress) = devices.ingress() else { return };
        // Where the host forwards it may translate addresses, and take the same port for a connection of another host.
        if !self.reservation.is_wasted_on_kernel() || self.client && devices.forwards() {
            return;
        }
        let local = self.addresses(devices, at);
        if local.len() > MAX_ADDED {
            return;
        }
        match ingress.add(&local) {
            Ok(()) => {
                tracing::debug!(?local, table = ingress.table(), "the kernel is spared what comes to a busy port");
                self.spared = Some(Spared { ingress: ingress.clone(), local });
            }
            // Not permitted, or not known to this kernel. Guards do without.
            Err(error) => tracing::debug!(%error, "the kernel drops what comes to a busy port at the guard"),
        }
    }

    /// What the guard covers of this host's addresses.
    fn addresses(&self, devices: &Devices, at: SocketAddr) -> Vec<SocketAddr> {
        let Some(local) = devices.local() else { return Vec::new() };
        let covered = local.hosts().iter().filter(|&&ip| covers(at.ip(), self.v6only, ip));
        covered.map(|&ip| (ip, at.port()).into()).collect()
    }
}

/// Whether a guard on `guarded` has what comes in by an Ethernet to this address of the host.
fn covers(guarded: IpAddr, v6only: bool, ip: IpAddr) -> bool {
    // A link-local address may be another's on another interface.
    let is_link_local = |ip| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    if ip.is_loopback() || is_link_local(ip) {
        return false;
    }
    match (guarded, ip) {
        (IpAddr::V6(guarded), IpAddr::V4(_)) => guarded.is_unspecified() && !v6only,
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
        _ => guarded == ip || guarded.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guard_covers() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        for (guarded, v6only, address, expected) in [
            ("10.0.0.1", false, "10.0.0.1", true),
            ("10.0.0.1", false, "10.0.0.2", false),
            ("0.0.0.0", false, "10.0.0.2", true),
            ("0.0.0.0", false, "127.0.0.1", false),
            ("0.0.0.0", false, "fd00::1", false),
            ("::", false, "10.0.0.2", true),
            ("::", true, "10.0.0.2", false),
            ("::", true, "fd00::1", true),
            ("::", true, "fe80::1", false),
            ("fd00::1", false, "fd00::1", true),
            ("fd00::1", false, "10.0.0.2", false),
        ] {
            assert_eq!(covers(ip(guarded), v6only, ip(address)), expected, "{guarded} {v6only} {address}");
        }
    }
}
