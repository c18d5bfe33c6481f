//! Nine small programs in the manner of tokio's examples, each compiled twice from one source: with `use rawtcp::net::…` as
//! it stands here, and with `use tokio::net::…`. Nothing else differs.
//!
//! ```sh
//! cargo run --release --example tokio_style -- rawtcp echo 127.0.0.1:8080
//! cargo run --release --example tokio_style -- kernel connect 127.0.0.1:8080
//! ```

mod programs;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// What the program runs as when it has started itself anew, so that the arguments of the nine begin where they expect them.
const ROLE: &str = "RAWTCP_EXAMPLE_PROGRAM";

fn main() -> ExitCode {
    if let Ok(program) = std::env::var(ROLE) {
        return programs::run(&program);
    }
    let mut arguments = std::env::args_os().skip(1);
    let (Some(stack), Some(name)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: tokio_style rawtcp|kernel PROGRAM [ARGUMENTS]; programs: {}", programs::NAMES.join(", "));
        return ExitCode::FAILURE;
    };
    let program = format!("{}/{}", stack.to_string_lossy(), name.to_string_lossy());
    let error = Command::new("/proc/self/exe").args(arguments).env(ROLE, program).exec();
    eprintln!("can not start: {error}");
    ExitCode::FAILURE
}
