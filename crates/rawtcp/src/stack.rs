//! [`Stack`]: one TCP/IP stack, made to order.

use crate::cc::Factory;
use crate::device::Device;
use crate::driver::Driver as Task;
use crate::error;
use crate::host::{Host, MAX_DRIVERS, Settings};
use crate::net::{TcpListener, TcpSocket, TcpStream};
use crate::stats::StackStats;
use crate::sync::Arc;
use crate::{ambient, congestion, drain};
use rawtcp_proto::ConnConfig;
use rawtcp_proto::stack::StackConfig;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{ToSocketAddrs, lookup_host};
use tokio::runtime::Handle;

/// What drives a stack: one of these, or [several](StackBuilder::drivers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Driver {
    /// A task of the runtime in which the stack is made. While a current-thread runtime blocks, nothing
    /// is received or acknowledged.
    #[default]
    Task,
    /// A thread of its own: the stack goes on while the program computes, at the price of a thread
    /// switch for each wake-up.
    Thread,
}

/// One TCP/IP stack: devices, ports, connections, and what drives them.
///
/// Most programs never see one: [`TcpStream::connect`] and [`TcpListener::bind`] use the default stack of
/// their runtime. Handles are cheap to clone. When the last one and all its sockets are gone, the
/// stack ends; with its runtime it ends in any case.
#[derive(Debug)]
pub struct Stack {
    host: Arc<Host>,
}

impl Clone for Stack {
    fn clone(&self) -> Self {
        self.host.hold();
        Stack { host: self.host.clone() }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.host.let_go() && self.host.settings.own_thread {
            // Nobody's runtime waits for the thread when the program ends: so we do.
            drain::wait_for_delivery(&self.host);
        }
    }
}

impl Stack {
    /// A builder with the defaults: raw IP sockets, driven by a task of the runtime.
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// The default stack of the current runtime, which is made if there is none: from `RAWTCP_DEVICE`
    /// (`raw`, `packet[:INTERFACE]`, `auto`, `tun[:INTERFACE[:ADDRESS/PREFIX,…]]` or `loopback`), `RAWTCP_CONGESTION`
    /// (`cubic`, `reno`, `bbr`), `RAWTCP_DRIVER` (`task` or `thread`) and `RAWTCP_DRIVERS` (1 to 16).
    ///
    /// # Errors
    /// Without the privilege that the device needs, and for values of the variables that mean nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn current() -> io::Result<Stack> {
        let host = ambient::current()?;
        host.hold();
        Ok(Stack { host })
    }

    /// As [`TcpStream::connect`], on this stack.
    pub async fn connect<A: ToSocketAddrs>(&self, addr: A) -> io::Result<TcpStream> {
        connect(&self.host, addr).await
    }

    /// As [`TcpSocket::new_v4`], for this stack.
    pub fn socket_v4(&self) -> TcpSocket {
        TcpSocket::of_stack(false, &self.host)
    }

    /// As [`TcpSocket::new_v6`], for this stack.
    pub fn socket_v6(&self) -> TcpSocket {
        TcpSocket::of_stack(true, &self.host)
    }

    /// As [`TcpListener::bind`], on this stack.
    pub async fn bind<A: ToSocketAddrs>(&self, addr: A) -> io::Result<TcpListener> {
        bind(&self.host, addr).await
    }

    /// Ends the stack politely: nothing new is begun; what streams have left that were dropped or shut down is
    /// delivered; then whatever still uses the stack fails, and every stream still held is closed as the
    /// kernel would at the end of the process: FIN behind what was written, RST if there is unread data. All
    /// that takes at most the stack's exit drain; a connection that has not delivered then is reset.
    pub async fn close(self) {
        self.host.begin_close();
        poll_fn(|cx| {
            self.host.on_death(cx.waker());
            if self.host.is_buried() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// What the stack has counted so far.
    pub fn stats(&self) -> StackStats {
        self.host.stats()
    }
}

pub(crate) async fn connect<A: ToSocketAddrs>(host: &Arc<Host>, addr: A) -> io::Result<TcpStream> {
    let mut last = None;
    for addr in lookup_host(addr).await? {
        match host.connect(addr, host.connect_options()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(error::no_addresses))
}

pub(crate) async fn bind<A: ToSocketAddrs>(host: &Arc<Host>, addr: A) -> io::Result<TcpListener> {
    let addresses = lookup_host(addr).await?;
    // Not before: an error is not unwind safe, and tokio's future is.
    let mut last = None;
    for addr in addresses {
        match host.listen(addr) {
            Ok(cell) => return Ok(TcpListener::new(cell)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(error::no_addresses))
}

/// Makes a [`Stack`].
#[derive(Clone, Debug)]
pub struct StackBuilder {
    settings: Settings,
}

impl Default for StackBuilder {
    fn default() -> Self {
        StackBuilder {
            settings: Settings {
                device: Device::default(),
                conn: Arc::default(),
                stack: StackConfig::default(),
                send_budget: None,
                exit_drain: Duration::from_secs(3),
                ingress_drop: true,
                seed: None,
                own_thread: false,
                drivers: 1,
            },
        }
    }
}

impl StackBuilder {
    /// The builder of a runtime's default stack: as [`Stack::builder`], with what `RAWTCP_DEVICE`, `RAWTCP_CONGESTION`,
    /// `RAWTCP_DRIVER` and `RAWTCP_DRIVERS` say.
    ///
    /// # Errors
    /// `InvalidInput` for values that mean nothing.
    pub fn from_env() -> io::Result<Self> {
        Self::from_values(|name| std::env::var(name).ok())
    }

    fn from_values(value: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        let invalid = |name: &str, value: &str, allowed: &str| {
            let text = format!("{name}={value}: not one of {allowed}");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        let mut builder = StackBuilder::default();
        if let Some(device) = value("RAWTCP_DEVICE").filter(|value| !value.is_empty()) {
            let chosen = Device::parse(&device).ok_or_else(|| invalid("RAWTCP_DEVICE", &device, Device::NAMES))?;
            builder = builder.device(chosen);
        }
        if let Some(name) = value("RAWTCP_CONGESTION").filter(|value| !value.is_empty()) {
            let factory = congestion::by_name(&name)
                .map_err(|_| invalid("RAWTCP_CONGESTION", &name, &congestion::names().join(", ")))?;
            builder = builder.congestion(factory);
        }
        if let Some(name) = value("RAWTCP_DRIVER").filter(|value| !value.is_empty()) {
            let driver = match &*name {
                "task" => Driver::Task,
                "thread" => Driver::Thread,
                _ => return Err(invalid("RAWTCP_DRIVER", &name, "task, thread")),
            };
            builder = builder.driver(driver);
        }
        if let Some(number) = value("RAWTCP_DRIVERS").filter(|value| !value.is_empty()) {
            let drivers = number.parse().ok().filter(|drivers| (1..=MAX_DRIVERS).contains(drivers));
            let drivers = drivers.ok_or_else(|| invalid("RAWTCP_DRIVERS", &number, &format!("1 to {MAX_DRIVERS}")))?;
            builder = builder.drivers(drivers);
        }
        Ok(builder)
    }

    pub(crate) fn into_settings(self) -> Settings {
        self.settings
    }

    /// What the stack sends and receives by. Default: raw IP sockets.
    pub fn device(mut self, device: Device) -> Self {
        self.settings.device = device;
        self
    }

    /// Whether the kernel is told, with CAP_NET_ADMIN, to drop what AF_PACKET sockets receive for busy ports of the stack, instead
    /// of having it travel to their guards: an nf_tables table of the stack's own, which goes with it. Default: yes.
    pub fn ingress_drop(mut self, on: bool) -> Self {
        self.settings.ingress_drop = on;
        self
    }

    /// What drives it. Default: a task of the runtime in which it is built.
    pub fn driver(mut self, driver: Driver) -> Self {
        self.settings.own_thread = driver == Driver::Thread;
        self
    }

    /// How many drivers receive at the same time, each a task or a thread of its own as [`driver`](Self::driver) says:
    /// 1 to 16. Default: 1. No more are made than the devices can feed. On an Ethernet interface each has its own
    /// AF_PACKET sockets, between which the kernel spreads the connections (`PACKET_FANOUT_HASH`); raw IP sockets, TUN
    /// interfaces, the loopback and devices of one's own are the first driver's. More than one is worth it where
    /// several cores are idle while that of the driver is not: tasks need a multi-thread runtime for it.
    pub fn drivers(mut self, most: usize) -> Self {
        self.settings.drivers = most;
        self
    }

    /// How long the end of the stack waits, blocking, until what was written is acknowledged. What is not
    /// acknowledged then is given up with a RST. Default 3 s; zero: not at all.
    pub fn exit_drain(mut self, most: Duration) -> Self {
        self.settings.exit_drain = most;
        self
    }

    /// The settings of every connection. Default: [`ConnConfig::default`].
    pub fn config(mut self, config: ConnConfig) -> Self {
        self.settings.conn = Arc::new(config);
        self
    }

    /// The settings of the stack's own answers and tables. Default: [`StackConfig::default`].
    pub fn stack_config(mut self, config: StackConfig) -> Self {
        self.settings.stack = config;
        self
    }

    /// How many bytes the send buffers of all connections may grow by together, beyond what each begins with
    /// ([`ConnConfig::send_buffer`]) or was given by name. Default: a sixteenth of the memory. What is taken is in
    /// [`StackStats::send_buffers_grown`].
    pub fn send_budget(mut self, bytes: usize) -> Self {
        self.settings.send_budget = Some(bytes);
        self
    }

    /// The congestion control of every connection, built in or one of the caller's. Default: CUBIC.
    pub fn congestion(mut self, congestion: impl Into<Factory>) -> Self {
        Arc::make_mut(&mut self.settings.conn).congestion = congestion.into();
        self
    }

    /// How long a connection may make no progress before it times out (RFC 9293 §3.9.1 [MUST-21]). Default: as long as
    /// the retransmissions last.
    pub fn user_timeout(mut self, most: Option<Duration>) -> Self {
        Arc::make_mut(&mut self.settings.conn).user_timeout = most;
        self
    }

    /// Makes sequence numbers, ports and hash keys follow from a seed, for tests. Default: the
    /// system's random numbers. A known seed takes away every protection against blind attacks.
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// Makes the stack.
    ///
    /// # Errors
    /// `PermissionDenied` without the privilege that the device needs; `InvalidInput` for a number of
    /// [drivers](Self::drivers) that can not be; what opening sockets gives; for a TUN interface
    /// those of [`rawtcp_io::TunDevice::open`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without I/O where the device needs it; not if the driver
    /// is a thread.
    pub fn build(self) -> io::Result<Stack> {
        let own_thread = self.settings.own_thread;
        // Before anything is opened, so that a missing runtime is the first thing to be told.
        let handle = (!own_thread).then(Handle::current);
        let host = Host::new(self.settings)?;
        host.hold();
        let stack = Stack { host };
        match handle {
            Some(handle) => Task::spawn(Task::all(&stack.host, None)?, &handle),
            None => Task::spawn_threads(Task::all_apart(&stack.host, None)?)?,
        }
        Ok(stack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(device: Option<&str>, congestion: Option<&str>) -> io::Result<StackBuilder> {
        let value = |name: &str| match name {
            "RAWTCP_DEVICE" => device,
            "RAWTCP_CONGESTION" => congestion,
            _ => None,
        };
        StackBuilder::from_values(|name| value(name).map(str::to_owned))
    }

    #[tokio::test]
    async fn there_are_from_1_to_16_drivers_and_no_more_than_are_needed() {
        for (drivers, good) in [(0, false), (1, true), (16, true), (17, false), (usize::MAX, false)] {
            let value = |name: &str| (name == "RAWTCP_DRIVERS").then(|| drivers.to_string());
            let text = "RAWTCP_DRIVERS=";
            match StackBuilder::from_values(value) {
                Ok(builder) => assert_eq!((builder.settings.drivers, good), (drivers, true)),
                Err(error) => assert!(!good && error.to_string().starts_with(text), "{error}"),
            }
            match Stack::builder().device(Device::Loopback).drivers(drivers).build() {
                Ok(stack) => assert_eq!((stack.stats().received_by, good), (vec![0], true)),
                Err(error) => assert_eq!((error.kind(), good), (io::ErrorKind::InvalidInput, false), "{error}"),
            }
        }
        assert!(StackBuilder::from_values(|name| (name == "RAWTCP_DRIVERS").then(|| "two".to_owned())).is_err());
    }

    #[test]
    fn tasks_or_threads_drive_the_default_stack() {
        let from =
            |driver: &str| StackBuilder::from_values(|name| (name == "RAWTCP_DRIVER").then(|| driver.to_owned()));
        let own_thread = |driver| from(driver).unwrap().settings.own_thread;
        assert_eq!(["", "task", "thread"].map(own_thread), [false, false, true]);
        assert_eq!(from("threads").unwrap_err().to_string(), "RAWTCP_DRIVER=threads: not one of task, thread");
    }

    #[test]
    fn the_environment_chooses_and_nonsense_is_refused_by_name() {
        assert!(matches!(from(None, None).unwrap().settings.device, Device::Raw));
        assert!(matches!(from(Some(""), None).unwrap().settings.device, Device::Raw));
        assert!(matches!(from(Some("auto"), None).unwrap().settings.device, Device::Auto));
        assert!(matches!(from(Some("loopback"), Some("reno")).unwrap().settings.device, Device::Loopback));
        for (device, congestion, text) in [
            (Some("ether"), None, "RAWTCP_DEVICE=ether: not one of raw, packet[:INTERFACE], auto, tun[:INTERFACE["),
            (None, Some("vegas"), "RAWTCP_CONGESTION=vegas: not one of "),
        ] {
            let error = from(device, congestion).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
