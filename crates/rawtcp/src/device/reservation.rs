//! How a port is reserved, by whoever owns the addresses.

use super::{Addresses, Device, Devices, elsewhere};
use crate::error;
use crate::ports::{Bind, canonical};
use rawtcp_io::mem::{self, LoopbackDevice, MemConfig, Switch};
use rawtcp_io::{Guard, GuardRequest};
use std::io;
use std::net::SocketAddr;

/// A reserved port; freed on drop.
#[derive(Debug)]
pub(crate) enum Reservation {
    Kernel(Guard),
    Switch(mem::Reservation),
    Own(SocketAddr),
}

impl Reservation {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        match self {
            Reservation::Kernel(guard) => guard.local_addr(),
            Reservation::Switch(port) => port.local_addr(),
            Reservation::Own(local) => *local,
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Reservation::Kernel(guard) if guard.is_shared())
    }

    /// The kernel would see what comes to it, and has no use for any of it.
    pub(crate) fn is_wasted_on_kernel(&self) -> bool {
        matches!(self, Reservation::Kernel(guard) if guard.is_whole())
    }

    /// Reserves a port without a stack, as a stack with this device would.
    pub(crate) fn without_stack(device: &Device, request: &Bind) -> io::Result<Self> {
        let &Bind { addr, v6only, device: ref device_name, .. } = request;
        match device {
            Device::Raw | Device::Packet { .. } | Device::Auto => {
                let guard = Guard::bind(&GuardRequest { addr, v6only, device: device_name.clone() })?;
                Ok(Reservation::Kernel(guard))
            }
            Device::Loopback => {
                let device = Switch::process().attach(MemConfig::loopback());
                Ok(Reservation::Switch(device.reserve(addr, v6only)?))
            }
            Device::Tun { .. } | Device::Own { .. } => Ok(Reservation::Own(addr)),
        }
    }
}

impl Devices {
    /// Whether a reservation that was made without a stack is good here.
    ///
    /// # Errors
    /// It was made in another network namespace, of which these devices see nothing.
    pub(crate) fn takes(&self, reservation: &Reservation) -> io::Result<bool> {
        match (&self.addresses, reservation) {
            (Addresses::Kernel, Reservation::Kernel(guard)) => self.check_guard(guard).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Refuses a guard of another network namespace.
    fn check_guard(&self, guard: &Guard) -> io::Result<()> {
        // The cookies are cheaper than to look where this thread is.
        match (guard.namespace(), self.cookie) {
            (Some(here), Some(there)) if here == there => Ok(()),
            (Some(_), Some(_)) => Err(elsewhere()),
            _ => self.check_namespace(),
        }
    }

    /// Reserves a port, which must be given where we own the addresses.
    pub(crate) fn reserve(&self, addr: SocketAddr, v6only: bool, device: Option<&str>) -> io::Result<Reservation> {
        match &self.addresses {
            Addresses::Kernel => {
                let device = device.map(str::to_owned);
                let guard = match Guard::bind(&GuardRequest { addr, v6only, device }) {
                    Ok(guard) => guard,
                    // Where this thread is explains it better.
                    Err(error) => return self.check_namespace().and(Err(error)),
                };
                self.check_guard(&guard)?;
                Ok(Reservation::Kernel(guard))
            }
            Addresses::Switch(device) => Ok(Reservation::Switch(device.reserve(canonical(addr), v6only)?)),
            Addresses::Own(_) => {
                self.check_address(addr)?;
                Ok(Reservation::Own(canonical(addr)))
            }
        }
    }

    /// Asks whoever owns the addresses about one that is to share a port which is reserved already, so that nothing has to
    /// be reserved: a wider guard says nothing of it.
    pub(crate) fn check_shared_address(&self, request: &Bind) -> io::Result<()> {
        match &self.addresses {
            Addresses::Kernel => {
                let checked = Guard::check_address(request.addr, request.device.as_deref());
                // Where this thread is explains it better.
                self.check_namespace().and(checked)
            }
            Addresses::Switch(_) => LoopbackDevice::check_address(request.addr),
            Addresses::Own(_) => Ok(()),
        }
    }

    /// Refuses addresses that are not ours, where we own them; others refuse them by themselves.
    pub(crate) fn check_address(&self, addr: SocketAddr) -> io::Result<()> {
        let Addresses::Own(own) = &self.addresses else { return Ok(()) };
        let ip = addr.ip().to_canonical();
        let inside = self.inner.is_some() && ip.is_loopback();
        if ip.is_unspecified() || own.contains(&ip) || inside {
            return Ok(());
        }
        Err(error::os(error::EADDRNOTAVAIL))
    }
}
