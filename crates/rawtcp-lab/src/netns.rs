//! Anonymous network namespaces, and running things in them.
//!
//! A [`Namespace`] is a descriptor and nothing else: no name under `/run`, nothing to clean up. When its last clone is
//! dropped and nothing runs or listens in it any more, the kernel removes it with all its interfaces.

use std::fs;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic;
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use rawtcp_io::netns as sys;
use rustix::thread::{CapabilitySet, capabilities};

mod wire;

pub use rawtcp_io::ethtool::Feature;
pub use wire::{Mac, veth};

/// What [`enter`] found or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// The process may make network namespaces as it is, usually because it is root.
    Host,
    /// The process was moved into a user namespace of its own, where it is root. `SO_RCVBUFFORCE`, `/dev/net/tun` and
    /// everything that concerns the host stay out of reach.
    UserNamespace,
}

/// Makes sure that this process may make network namespaces: does nothing if it may already, else calls
/// [`enter_user_namespace`]. Like that one it must be called first in `main`, before any thread is started.
pub fn enter() -> io::Result<Privilege> {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    if capabilities(None)?.effective.contains(needed) {
        return Ok(Privilege::Host);
    }
    enter_user_namespace()?;
    Ok(Privilege::UserNamespace)
}

/// Moves the whole process into a new user and mount namespace, as root of it. Must be called before any thread is
/// started: the kernel refuses it to a process with threads (EINVAL).
pub fn enter_user_namespace() -> io::Result<()> {
    sys::unshare_user_namespace().map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::InvalidInput => "the process already has threads",
            io::ErrorKind::PermissionDenied | io::ErrorKind::StorageFull => {
                "not allowed here: see the sysctls user.max_user_namespaces, kernel.unprivileged_userns_clone and \
                 kernel.apparmor_restrict_unprivileged_userns, or run as root"
            }
            _ => "unexpected",
        };
        io::Error::new(error.kind(), format!("can not make a user namespace: {error} ({hint})"))
    })
}

/// A network namespace. Clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    name: String,
}

impl Namespace {
    /// A new namespace with its loopback interface up. Addresses in it are usable at once: IPv6 duplicate address
    /// detection, router solicitations and router advertisements are off.
    ///
    /// `name` is for people only: threads in the namespace are called so.
    pub fn new(name: &str) -> io::Result<Self> {
        // Only the helper thread changes its namespace; the descriptor keeps the new one when the thread ends.
        let fd = on_new_thread(name, || {
            sys::new_net_namespace()
                .map_err(|error| io::Error::new(error.kind(), format!("can not make a network namespace: {error}")))?;
            sys::current_net_namespace()
        })?;
        let namespace = Self { inner: Arc::new(Inner { fd, name: name.to_owned() }) };
        for (key, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")] {
            // All of them are absent where the kernel has no IPv6.
            let result = namespace.set_sysctl(&format!("net.ipv6.conf.default.{key}"), value);
            result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        }
        namespace.set_link_up("lo", true)?;
        Ok(namespace)
    }

    /// The name given at birth.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Moves the calling thread into this namespace, for good. The threads and child processes that it starts from
    /// now on are in it too.
    pub fn enter(&self) -> io::Result<()> {
        sys::set_net_namespace(self.inner.fd.as_fd())
    }

    /// Runs `f` on a fresh thread in this namespace and waits for it. A panic of `f` goes on in the caller.
    ///
    /// # Panics
    /// If no thread can be started, or if the kernel refuses the namespace, which is a bug.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        on_new_thread(&self.inner.name, || {
            self.must_enter();
            f()
        })
    }

    /// Runs `f` on a fresh thread in this namespace, without waiting.
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        let namespace = self.clone();
        let thread = thread::Builder::new().name(self.inner.name.clone()).spawn(move || {
            namespace.must_enter();
            f()
        });
        Task { thread: thread.expect("a thread can be started") }
    }

    /// Runs the future that `make` gives on a current-thread tokio runtime of its own in this namespace, without
    /// waiting.
    ///
    /// # Panics
    /// If no thread can be started; the task panics if there can be no runtime.
    pub fn spawn_tokio<F, T>(&self, make: impl FnOnce() -> F + Send + 'static) -> Task<T>
    where
        F: Future<Output = T>,
        T: Send + 'static,
    {
        self.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(make())
        })
    }

    /// As [`Namespace::spawn_tokio`], on a runtime with so many worker threads, all of them in this namespace.
    ///
    /// # Panics
    /// As [`Namespace::spawn_tokio`].
    pub fn spawn_tokio_threads<F, T>(&self, workers: usize, make: impl FnOnce() -> F + Send + 'static) -> Task<T>
    where
        F: Future<Output = T>,
        T: Send + 'static,
    {
        let namespace = self.clone();
        self.spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(workers)
                // Workers inherit the namespace. Blocking threads may be started by a thread from outside.
                .on_thread_start(move || namespace.must_enter())
                .enable_all()
                .build();
            runtime.expect("a runtime can be built").block_on(make())
        })
    }

    /// Starts a program in this namespace. It is killed when the returned value is dropped.
    pub fn start(&self, command: &mut Command) -> io::Result<Program> {
        // A child inherits the namespace of the thread that starts it.
        self.run(|| command.spawn()).map(|child| Program { child })
    }

    /// Runs a program in this namespace to its end and collects what it prints.
    pub fn output(&self, command: &mut Command) -> io::Result<Output> {
        self.run(|| command.output())
    }

    /// Sets a sysctl of this namespace; `key` as in `net.ipv4.ip_forward`. (A dot inside an interface's name is written
    /// as a slash, as for the `sysctl` program.)
    pub fn set_sysctl(&self, key: &str, value: &str) -> io::Result<()> {
        let path = sysctl_path(key);
        self.run(|| fs::write(&path, value))
            .map_err(|error| io::Error::new(error.kind(), format!("can not set {key}={value}: {error}")))
    }

    /// Reads a sysctl of this namespace, without the white space around it.
    pub fn sysctl(&self, key: &str) -> io::Result<String> {
        let path = sysctl_path(key);
        let text = self
            .run(|| fs::read_to_string(&path))
            .map_err(|error| io::Error::new(error.kind(), format!("can not read {key}: {error}")))?;
        Ok(text.trim().to_owned())
    }

    fn must_enter(&self) {
        self.enter().unwrap_or_else(|error| panic!("can not enter namespace {}: {error}", self.inner.name));
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}

fn sysctl_path(key: &str) -> String {
    let path: String = key
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    format!("/proc/sys/{path}")
}

/// Runs `f` on a thread of its own and waits for it.
fn on_new_thread<T: Send>(name: &str, f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, f);
        thread.expect("a thread can be started").join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// Something that runs on a thread of its own. Dropping it lets it run on.
#[derive(Debug)]
#[must_use = "join it, or what it panics with is lost"]
pub struct Task<T> {
    thread: JoinHandle<T>,
}

impl<T> Task<T> {
    /// Waits for the end. A panic in there goes on here.
    pub fn join(self) -> T {
        self.thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// A child process which is killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Program {
    /// The process itself: its pipes, its id.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Asks it to end (SIGTERM) and waits for it.
    pub fn terminate(&mut self) -> io::Result<ExitStatus> {
        if let (None, Some(pid)) = (self.child.try_wait()?, rustix::process::Pid::from_raw(self.child.id() as i32)) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        self.child.wait()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Either fails only if it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number no other interface of this process has, for hardware addresses.
fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
