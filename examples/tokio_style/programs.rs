//! The nine, and their twins on the kernel's TCP.
#![allow(unreachable_pub, reason = "each is a whole program with a public main, as tokio's examples are")]

use std::process::{ExitCode, Termination};

#[path = "programs/chat.rs"]
mod chat;
#[path = "programs/connect.rs"]
mod connect;
#[path = "programs/echo.rs"]
mod echo;
#[path = "programs/graceful_shutdown.rs"]
mod graceful_shutdown;
#[path = "programs/hello_world.rs"]
mod hello_world;
#[path = "programs/print_each_packet.rs"]
mod print_each_packet;
#[path = "programs/proxy.rs"]
mod proxy;
#[path = "programs/tinydb.rs"]
mod tinydb;
#[path = "programs/tinyhttp.rs"]
mod tinyhttp;

macro_rules! programs {
    ($($name:ident),+ $(,)?) => {
        /// The same files, with the import changed by `build.rs`.
        mod kernel {
            $(pub(super) mod $name {
                include!(concat!(env!("OUT_DIR"), "/kernel/", stringify!($name), ".rs"));
            })+
        }

        /// Their names.
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),+];

        /// Runs `rawtcp/NAME` or `kernel/NAME`.
        pub(crate) fn run(program: &str) -> ExitCode {
            match program {
                $(
                    concat!("rawtcp/", stringify!($name)) => $name::main().report(),
                    concat!("kernel/", stringify!($name)) => kernel::$name::main().report(),
                )+
                _ => {
                    eprintln!("no such program: {program}");
                    ExitCode::FAILURE
                }
            }
        }
    };
}

programs!(chat, connect, echo, graceful_shutdown, hello_world, print_each_packet, proxy, tinydb, tinyhttp);
