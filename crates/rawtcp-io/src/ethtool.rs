//! Offload switches of an interface, as `ethtool -K` sets them.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

/// An offload which can be switched on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// The device completes the checksums of what is sent.
    TxChecksum,
    /// The device verifies the checksums of what is received.
    RxChecksum,
    /// Scatter-gather: sends from several buffers. Segmentation needs it.
    ScatterGather,
    /// TCP segmentation by the device.
    Tso,
    /// Segmentation by the kernel, just before the device.
    Gso,
    /// Joining of segments on receive, by the kernel.
    Gro,
}

impl Feature {
    /// All of them, in an order in which they can be switched off.
    pub const ALL: [Feature; 6] =
        [Feature::Gro, Feature::Tso, Feature::Gso, Feature::ScatterGather, Feature::TxChecksum, Feature::RxChecksum];

    // From linux/ethtool.h: the commands that read; the one that writes follows each.
    fn read_command(self) -> u32 {
        match self {
            Feature::RxChecksum => 0x14,
            Feature::TxChecksum => 0x16,
            Feature::ScatterGather => 0x18,
            Feature::Tso => 0x1e,
            Feature::Gso => 0x23,
            Feature::Gro => 0x2b,
        }
    }
}

/// Whether `feature` is on for `interface` in the calling thread's network namespace.
pub fn is_on(interface: &str, feature: Feature) -> io::Result<bool> {
    call(interface, feature.read_command(), 0).map(|value| value != 0)
}

/// Switches `feature` of `interface` in the calling thread's network namespace. Needs `CAP_NET_ADMIN`.
pub fn set(interface: &str, feature: Feature, on: bool) -> io::Result<()> {
    call(interface, feature.read_command() + 1, u32::from(on)).map(drop)
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

fn call(interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = EthtoolValue { command, data };
    // SAFETY: a plain C structure for which all zero is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() || interface.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names an interface with a terminating zero and points to an ethtool_value, which is all that
    // the commands of `Feature` read and write; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_interfaces_are_refused() {
        for name in ["no-such-device", "name-much-longer-than-sixteen", "nul\0"] {
            let error = is_on(name, Feature::Tso).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name:?}");
        }
    }

    #[test]
    fn loopback_can_be_asked() {
        assert!(is_on("lo", Feature::TxChecksum).is_ok());
    }
}
