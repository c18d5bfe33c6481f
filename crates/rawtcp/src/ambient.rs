//! The default stack of a runtime: made by the first `connect` or `bind` there, driven by tasks on it or by threads,
//! gone with it.

use crate::driver::{Driver, Reactor};
use crate::host::Host;
use crate::stack::StackBuilder;
use crate::sync::{Arc, Mutex, lock};
use std::collections::HashMap;
use std::io;
use std::sync::LazyLock;
use tokio::runtime::{Handle, Id};

static STACKS: LazyLock<Mutex<HashMap<Id, Arc<Host>>>> = LazyLock::new(Mutex::default);

/// The default stack of the current runtime.
///
/// # Panics
/// Outside of a runtime, with tokio's words.
pub(crate) fn current() -> io::Result<Arc<Host>> {
    let handle = Handle::current();
    let id = handle.id();
    let known = lock(&STACKS).get(&id).cloned();
    if let Some(host) = known {
        return Ok(host);
    }
    // Without the lock: this may take a while, fail, or panic.
    let host = Host::new(StackBuilder::from_env()?.into_settings())?;
    let drivers = if host.settings.own_thread {
        Drivers::Threads(Driver::all_apart(&host, Some(id))?)
    } else {
        Drivers::Tasks(Driver::all(&host, Some(id))?)
    };
    host.hold();
    let first = lock(&STACKS).entry(id).or_insert_with(|| host.clone()).clone();
    if !Arc::ptr_eq(&first, &host) {
        // Another thread was faster; this one's drivers go, and take only their own stack with them.
        return Ok(first);
    }
    // Without the lock: a runtime that is shutting down drops the drivers at once.
    match drivers {
        Drivers::Tasks(drivers) => Driver::spawn(drivers, &handle),
        Drivers::Threads(drivers) => {
            if let Some((_, driver)) = drivers.first() {
                handle.spawn(driver.end_with_runtime());
            }
            Driver::spawn_threads(drivers)?;
        }
    }
    Ok(host)
}

/// What has not begun yet.
enum Drivers {
    Tasks(Vec<Driver>),
    Threads(Vec<(Reactor, Driver)>),
}

/// The driver of this stack is gone.
pub(crate) fn forget(id: Id, host: &Arc<Host>) {
    let gone = {
        let mut stacks = lock(&STACKS);
        if stacks.get(&id).is_some_and(|known| Arc::ptr_eq(known, host)) { stacks.remove(&id) } else { None }
    };
    drop(gone);
}
