//! A laboratory in network namespaces: real kernels, real interfaces, and nothing of the host is touched.
//!
//! - [`netns`]: anonymous network namespaces, code and programs that run in them, interfaces, addresses, routes.
//! - [`topology`]: the usual arrangements of them, ready made.
//! - [`emulator`]: a seeded link between two namespaces, in real time, that reports its own faults.
//! - [`capture`]: what was on the wire, as pcapng and as parsed TCP segments.
//! - [`harness`]: test targets whose tests run in namespaces, as root or as an ordinary user.
//!
//! Everything here dies with the process: namespaces have no name and are held by descriptors only. It needs root, or a
//! system where ordinary users may make user namespaces; see [`netns::enter`].
#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("rawtcp-lab runs on Linux only: it is made of network namespaces");

pub mod capture;
pub mod emulator;
pub mod harness;
pub mod netns;
pub mod topology;
