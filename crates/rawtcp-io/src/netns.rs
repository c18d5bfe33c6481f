//! Namespaces, for tests and laboratories: see user_namespaces(7) and network_namespaces(7).
//!
//! A network namespace belongs to a thread. An anonymous one dies with its last thread, socket and descriptor, so there
//! is nothing to clean up.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat_raw};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};

use crate::sys::{self, Namespace};

/// Moves the process into a new user namespace, where it is root, and a new mount namespace. This gives all
/// capabilities over namespaces made afterwards, and none outside.
///
/// # Errors
/// `InvalidInput` if the process has more than one thread: call it first in `main`. `PermissionDenied` or
/// `StorageFull` where user namespaces are switched off.
pub fn unshare_user_namespace() -> io::Result<()> {
    // Both numbers as seen from outside, before they become "nobody".
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    sys::unshare(&[Namespace::User, Namespace::Mount])?;
    // Without giving up setgroups(2) first, an unprivileged process may not map a group.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Moves this thread into a new mount namespace.
///
/// # Errors
/// `PermissionDenied` without CAP_SYS_ADMIN.
pub fn unshare_mount_namespace() -> io::Result<()> {
    sys::unshare(&[Namespace::Mount])
}

const OWN_LINK: &CStr = c"/proc/thread-self/ns/net";

thread_local! {
    /// The link that names this thread's network namespace, whichever that is: to walk there takes the kernel longer than to say where
    /// it leads. It keeps no namespace alive.
    static LINK: Option<OwnedFd> = openat(CWD, OWN_LINK, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok();
}

/// The number of the calling thread's network namespace; `None` where /proc does not show it.
///
/// The name of the link says it: to follow it to the namespace takes the kernel more than twice as long. A thread that has asked
/// keeps a descriptor until it ends.
pub fn current_number() -> Option<u64> {
    let mut buffer = [0; 32];
    let known = LINK.try_with(|link| link.as_ref().and_then(|link| readlinkat_raw(link, c"", &mut buffer).ok()));
    let length = match known {
        Ok(Some(length)) => length,
        // The thread is about to end, or there was no descriptor left.
        _ => readlinkat_raw(CWD, OWN_LINK, &mut buffer).ok()?,
    };
    let name = std::str::from_utf8(buffer.get(..length)?).ok()?;
    name.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Moves this thread into a new network namespace: no interfaces but `lo`, which is down.
///
/// # Errors
/// `PermissionDenied` without CAP_SYS_ADMIN.
pub fn new_net_namespace() -> io::Result<()> {
    sys::unshare(&[Namespace::Network])
}

/// This thread's network namespace, to be entered by other threads or given to netlink.
///
/// # Errors
/// Without `/proc`.
pub fn current_net_namespace() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Moves this thread into the given network namespace.
///
/// # Errors
/// `PermissionDenied` without CAP_SYS_ADMIN; `InvalidInput` if the descriptor is something else.
pub fn set_net_namespace(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

/// Brings an interface of this thread's network namespace up.
///
/// # Errors
/// `PermissionDenied` without CAP_NET_ADMIN, ENODEV if there is no such interface.
pub fn bring_up(interface: &str) -> io::Result<()> {
    let socket =
        Socket::new(Domain::UNIX, Type::DGRAM, None).or_else(|_| Socket::new(Domain::IPV4, Type::DGRAM, None))?;
    sys::set_interface_up(socket.as_fd(), interface)
}

/// Runs `f` on a thread of its own, in a new network namespace with `lo` up, and waits for it. Threads which `f` starts
/// are in that namespace too. A panic of `f` goes on in the caller.
///
/// # Errors
/// Those of [`new_net_namespace`] and [`bring_up`]; `f` is not run then.
pub fn run_in_new_namespace<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = move || {
            new_net_namespace()?;
            bring_up("lo")?;
            Ok(f())
        };
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, inside)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_number_of_a_namespace_is_that_of_its_file() {
        let number = || fs::metadata("/proc/thread-self/ns/net").map(|file| file.ino()).ok();
        assert!(current_number().is_some());
        assert_eq!(current_number(), number());
        // As root only.
        let elsewhere = thread::spawn(move || {
            // One that has asked before it goes elsewhere.
            let here = current_number();
            new_net_namespace().ok().map(|()| (here, current_number(), number()))
        });
        if let Some((before, found, expected)) = elsewhere.join().unwrap() {
            assert_eq!(before, current_number());
            assert_eq!(found, expected);
            assert_ne!(found, current_number());
        }
    }
}
