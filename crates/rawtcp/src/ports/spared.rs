//! Ports of which the kernel does not see what comes in by AF_PACKET: it would only drop it, at the guard.

use super::{Guarded, Inner, Ports};
use crate::device::Devices;
use rawtcp_io::ingress::{IngressDrop, MAX_ADDED};
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

mod teller;

use teller::Spared;
pub(super) use teller::Teller;

/// Who drops what comes in behind our sockets.
pub(crate) trait Ingress: Debug + Send + Sync {
    /// As [`IngressDrop::add`].
    fn add(&self, local: &[SocketAddr]) -> io::Result<()>;
    /// As [`IngressDrop::remove`].
    fn remove(&self, local: &[SocketAddr]);
    /// As [`IngressDrop::end`].
    fn end(&self);
    /// The name that an administrator sees.
    fn table(&self) -> &str;
}

impl Ingress for IngressDrop {
    fn add(&self, local: &[SocketAddr]) -> io::Result<()> {
        self.add(local)
    }
    fn remove(&self, local: &[SocketAddr]) {
        self.remove(local);
    }
    fn end(&self) {
        self.end();
    }
    fn table(&self) -> &str {
        self.table()
    }
}

/// Connections from one client port, some at once or one after the other, after which it is busy: they have some four packets each.
const CONNECTS_UNTIL_BUSY: u8 = 16;

/// What comes to these addresses is, or will soon be, dropped behind our sockets, for as long as this lives.
#[derive(Debug)]
pub(super) struct Sparing {
    /// There until the drop, which leaves it to the teller alone: whoever lets go of it last tells the kernel.
    spared: Option<Arc<Spared>>,
    teller: Teller,
}

impl Sparing {
    fn local(&self) -> &[SocketAddr] {
        self.spared.as_ref().map_or(&[], |spared| spared.local())
    }
}

impl Drop for Sparing {
    fn drop(&mut self) {
        if let Some(spared) = self.spared.take() {
            self.teller.release(spared);
        }
    }
}

impl Ports {
    /// Spares the kernel what comes to a busy port, if it lets us. Only has it told.
    pub(crate) fn spare_kernel(&self, devices: &Devices, local: SocketAddr) {
        let mut inner = self.lock();
        let Some(at) = inner.covering(local) else { return };
        if let Some(guarded) = inner.guards.get_mut(&at)
            && guarded.spared.is_none()
        {
            guarded.spare_kernel(devices, at, &self.teller);
        }
    }

    /// This host's addresses may have changed: one that is another host's by now may be forwarded to.
    pub(crate) fn renew_spared(&self, devices: &Devices) {
        let mut inner = self.lock();
        for (&at, guarded) in &mut inner.guards {
            // Of all that changes routes, hardly anything changes these.
            if guarded.spared.as_ref().is_some_and(|old| old.local() != guarded.addresses(devices, at)) {
                guarded.spared = None;
                guarded.spare_kernel(devices, at, &self.teller);
            }
        }
    }
}

impl Guarded {
    fn spare_kernel(&mut self, devices: &Devices, at: SocketAddr, teller: &Teller) {
        let Some(ingress) = devices.ingress().filter(|_| !teller.is_in_vain()) else { return };
        // Where the host forwards it may translate addresses, and take the same port for a connection of another host.
        if !self.reservation.is_wasted_on_kernel() || !self.listener && devices.forwards() {
            return;
        }
        let local = self.addresses(devices, at);
        if local.len() > MAX_ADDED {
            return;
        }
        let spared = Arc::new(Spared::new(ingress.clone(), local, self.reservation.clone()));
        teller.spare(spared.clone());
        self.spared = Some(Sparing { spared: Some(spared), teller: teller.clone() });
    }

    /// What the guard covers of this host's addresses.
    fn addresses(&self, devices: &Devices, at: SocketAddr) -> Vec<SocketAddr> {
        let Some(local) = devices.local() else { return Vec::new() };
        let covered = local.hosts().iter().filter(|&&ip| covers(at.ip(), self.v6only, ip));
        covered.map(|&ip| (ip, at.port()).into()).collect()
    }
}

impl Inner {
    /// One connection more from a client port, which may become busy by that.
    pub(super) fn note_connect(&mut self, devices: &Devices, at: SocketAddr, teller: &Teller) {
        if devices.ingress().is_none() {
            return;
        }
        let Some(guarded) = self.guards.get_mut(&at).filter(|guarded| guarded.spared.is_none()) else { return };
        guarded.connects = guarded.connects.saturating_add(1);
        if guarded.connects == CONNECTS_UNTIL_BUSY {
            guarded.spare_kernel(devices, at, teller);
        }
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
    use crate::ports::{Bind, Reuse};
    use rawtcp_proto::Instant;
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::{Mutex, mpsc};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A kernel that does nothing before it is let, and looks whose the port is then.
    #[derive(Debug)]
    struct Slow {
        begins: mpsc::Sender<()>,
        may: Mutex<mpsc::Receiver<()>>,
        seen: Mutex<Vec<(&'static str, bool)>>,
        port: Mutex<u16>,
    }

    impl Slow {
        fn note(&self, what: &'static str) {
            // Where nobody hears it or lets it any more the test has failed.
            let _ = self.begins.send(());
            let _ = self.may.lock().unwrap().recv();
            let is_guarded = TcpListener::bind((Ipv4Addr::LOCALHOST, *self.port.lock().unwrap())).is_err();
            self.seen.lock().unwrap().push((what, is_guarded));
        }
    }

    impl Ingress for Slow {
        fn add(&self, _local: &[SocketAddr]) -> io::Result<()> {
            self.note("add");
            Ok(())
        }
        fn remove(&self, _local: &[SocketAddr]) {
            self.note("remove");
        }
        fn end(&self) {}
        fn table(&self) -> &str {
            "slow"
        }
    }

    /// Does this on another thread; it must not wait for anything.
    fn at_once<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || done.send(what()));
        is_done.recv_timeout(2 * PATIENCE).expect("it waits for the kernel")
    }

    /// A kernel that tells of what it `begins` and waits until it `may`, and a stack's ports above it.
    fn slow(may: mpsc::Receiver<()>, begins: mpsc::Sender<()>) -> (Arc<Slow>, Arc<Devices>, Arc<Ports>) {
        let slow = Arc::new(Slow { begins, may: Mutex::new(may), seen: Mutex::default(), port: Mutex::new(0) });
        let devices = Arc::new(Devices::with_ingress(slow.clone()));
        (slow, devices, Arc::new(Ports::new(&[1; 32])))
    }

    /// The driver gives back a port of which the kernel is just being told. Whatever `waits` for the port returns when it is free.
    fn the_port_is_waited_for(waits: impl FnOnce(&Ports, &Devices, &Bind) + Send + 'static) {
        let ((lets, may), (begins, has_begun)) = (mpsc::channel(), mpsc::channel());
        let (slow, devices, ports) = slow(may, begins);
        let reuse = Reuse { addr: true, port: false };
        let request = Bind { addr: (Ipv4Addr::LOCALHOST, 0).into(), v6only: false, reuse, device: None };
        let local = ports.bind(&devices, &request).unwrap();
        ports.begin_listen(local).unwrap();
        assert!(ports.retain(local), "a connection");
        *slow.port.lock().unwrap() = local.port();
        at_once({
            let (ports, devices) = (ports.clone(), devices.clone());
            move || {
                ports.spare_kernel(&devices, local);
                has_begun.recv_timeout(PATIENCE).expect("the kernel is told");
                // The table is free meanwhile, and the last user can go.
                ports.unlisten(&devices, local);
                ports.release(&devices, local);
                assert_eq!(ports.len(), 0);
            }
        });
        assert!(TcpListener::bind(local).is_err(), "an element may be there: the guard has to be, too");
        let (done, is_done) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            waits(&ports, &devices, &Bind { addr: local, ..request });
            let _ = done.send(());
            TcpListener::bind(local).unwrap();
        });
        assert_eq!(is_done.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
        (0..2).for_each(|_| lets.send(()).unwrap());
        waiting.join().unwrap();
        assert_eq!(*slow.seen.lock().unwrap(), [("add", true), ("remove", true)]);
    }

    #[test]
    fn nobody_waits_for_a_slow_kernel_but_who_wants_the_same_port_again() {
        the_port_is_waited_for(|ports, devices, request| {
            assert_eq!(ports.bind(devices, request).unwrap(), request.addr);
            ports.release(devices, request.addr);
        });
    }

    #[test]
    fn what_the_driver_has_given_back_is_free_when_the_stack_has_ended() {
        the_port_is_waited_for(|ports, _, _| ports.abandon());
    }

    #[test]
    fn a_client_port_is_busy_from_its_sixteenth_connection_on() {
        // This kernel waits for nobody.
        let (slow, devices, ports) = slow(mpsc::channel().1, mpsc::channel().0);
        let (source, peer) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv4Addr::LOCALHOST, 9).into());
        let connect = || ports.connect(&devices, Instant::ZERO, source, peer, |local| Some((local, false))).unwrap();
        let local = connect();
        *slow.port.lock().unwrap() = local.port();
        for _ in 2..CONNECTS_UNTIL_BUSY {
            assert_eq!(connect(), local);
        }
        assert!(!ports.teller.settle(), "the kernel is told of nothing yet");
        assert_eq!(connect(), local);
        ports.teller.settle();
        assert_eq!(*slow.seen.lock().unwrap(), [("add", true)]);
        for _ in 0..2 * CONNECTS_UNTIL_BUSY {
            assert_eq!(connect(), local);
        }
        assert!(!ports.teller.settle(), "it is told once");
        // What rests stays so.
        (0..3 * CONNECTS_UNTIL_BUSY).for_each(|_| ports.release(&devices, local));
        assert!(ports.has_no_users() && !ports.teller.settle());
        ports.abandon();
        assert_eq!(*slow.seen.lock().unwrap(), [("add", true), ("remove", true)]);
        TcpListener::bind(local).unwrap();
    }

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
