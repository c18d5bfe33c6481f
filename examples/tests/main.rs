//! The examples as processes, the nine programs on both stacks, and the frameworks against themselves and the kernel.

mod examples;
mod frameworks;
mod processes;
mod programs;

use std::process::ExitCode;

/// Names the program that a child process of the tests is.
const ROLE: &str = "RAWTCP_TEST_ROLE";

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        return examples::run(&role);
    }
    let mut tests = frameworks::tests();
    if !frameworks::only_loopback() {
        tests.extend(programs::tests());
        tests.extend(examples::tests());
    }
    rawtcp_lab::harness::run(tests)
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// No single wait of a test is longer: something that takes this long hangs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
