//! Test targets whose tests run in namespaces.
//!
//! A target with `harness = false` gets its `main` from [`privileged_tests!`](crate::privileged_tests):
//!
//! ```no_run
//! fn answers() -> Result<(), Box<dyn std::error::Error>> {
//!     let pair = rawtcp_lab::topology::Pair::new()?;
//!     assert_eq!(pair.client.run(|| 40 + 2), 42);
//!     Ok(())
//! }
//!
//! rawtcp_lab::privileged_tests!(answers);
//! # // The macro made a `main`, which would take the arguments of this example's own.
//! ```
//!
//! `main` enters a user and mount namespace while the process still has a single thread (as root it need not), and runs
//! the tests as libtest does, with its arguments, each on a thread of its own. Where namespaces can not be had, every
//! test is announced as SKIPPED, loudly, with the reason; if the environment says `CI=true` it fails instead.

use std::fmt::Display;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::netns::{self, Privilege};

/// What a test function may return.
pub trait Outcome {
    /// The reason of failure, if it failed. (Failing by panic is as good.)
    fn into_result(self) -> Result<(), String>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Display> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// A named test.
pub struct Test {
    name: String,
    needs: Vec<fn() -> std::io::Result<()>>,
    run: Box<dyn FnOnce() -> Result<(), String> + Send>,
}

impl std::fmt::Debug for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Test").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Test {
    /// A test called `name`.
    pub fn new<R: Outcome>(name: impl Into<String>, run: impl FnOnce() -> R + Send + 'static) -> Self {
        Self { name: name.into(), needs: Vec::new(), run: Box::new(|| run().into_result()) }
    }

    /// The same, of a test that needs more than namespaces: it is skipped, as loudly, with the error of `needs`. May be called
    /// for each of several things.
    #[must_use]
    pub fn needing(mut self, needs: fn() -> std::io::Result<()>) -> Self {
        self.needs.push(needs);
        self
    }

    fn into_trial_if_possible(self) -> Trial {
        match self.needs.iter().try_for_each(|needs| needs()) {
            Ok(()) => self.into_trial(),
            Err(error) => skipped(self.name, &error),
        }
    }

    fn into_trial(self) -> Trial {
        Trial::test(self.name, || (self.run)().map_err(Failed::from))
    }
}

/// Runs `tests` as libtest would. Must be called before any thread is started, first thing in `main`.
pub fn run(tests: Vec<Test>) -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list {
        return finish(&arguments, tests.into_iter().map(Test::into_trial).collect());
    }
    let trials = match prepare() {
        Ok(privilege) => {
            if privilege == Privilege::UserNamespace && !arguments.quiet {
                eprintln!("not root: running in a user namespace");
            }
            tests.into_iter().map(Test::into_trial_if_possible).collect()
        }
        Err(error) => tests.into_iter().map(|test| skipped(test.name, &error)).collect(),
    };
    finish(&arguments, trials)
}

/// The privilege is tried out, too: a container may give capabilities and still forbid namespaces.
fn prepare() -> std::io::Result<Privilege> {
    let privilege = netns::enter()?;
    netns::Namespace::new("trial")?;
    Ok(privilege)
}

fn skipped(name: String, reason: &std::io::Error) -> Trial {
    let message = format!("SKIPPED {name}: {reason}");
    let on_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    if !on_ci {
        eprintln!("{message}");
    }
    // As ignored it shows in the summary, too.
    Trial::test(name, move || Err(Failed::from(message))).with_ignored_flag(!on_ci)
}

fn finish(arguments: &Arguments, trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(arguments, trials).exit_code()
}

/// What tests [need](Test::needing) that make TUN interfaces: that /dev/net/tun can be opened. In a user namespace it can not
/// where only root may.
pub fn tun_device() -> std::io::Result<()> {
    std::fs::File::options().read(true).write(true).open("/dev/net/tun").map(drop).map_err(|error| {
        std::io::Error::new(error.kind(), format!("/dev/net/tun: {error}; run as root, with the module tun loaded"))
    })
}

/// The `main` of a test target with `harness = false`: runs the functions named, see [`harness`](crate::harness). One that
/// [needs](Test::needing) more says so: `test => what_tells`.
#[macro_export]
macro_rules! privileged_tests {
    ($($test:path $(=> $needs:path)?),+ $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::harness::run(vec![
                $($crate::harness::Test::new(stringify!($test), $test)$(.needing($needs))?),+
            ])
        }
    };
}
