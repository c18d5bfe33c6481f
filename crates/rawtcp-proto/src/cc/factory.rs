//! How a connection comes by its congestion control.

use super::{Algorithm, CongestionControl};
use core::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

type Build = dyn Fn(u32, u32) -> Box<dyn CongestionControl> + Send + Sync;

/// Makes a congestion control for each connection: one that is built in, or one of the caller's.
///
/// ```
/// use rawtcp_proto::ConnConfig;
/// use rawtcp_proto::cc::{Algorithm, Factory, Reno};
///
/// let built_in = ConnConfig { congestion: Algorithm::Reno.into(), ..ConnConfig::default() };
/// let own = Factory::new("mine", |mss, _initial_window| Box::new(Reno::new(mss, 2)));
/// let own = ConnConfig { congestion: own, ..ConnConfig::default() };
/// assert_eq!((built_in.congestion.name(), own.congestion.name()), ("reno", "mine"));
/// ```
#[derive(Clone)]
pub struct Factory(Kind);

#[derive(Clone)]
enum Kind {
    BuiltIn(Algorithm),
    /// Asserted: a panic in there leaves nothing of ours behind.
    Own {
        name: &'static str,
        build: Arc<AssertUnwindSafe<Box<Build>>>,
    },
}

impl Factory {
    /// Calls `build` for each connection, with the size of its segments in bytes and the initial window in
    /// segments. The name is that by which it is chosen, in lower case.
    pub fn new(
        name: &'static str,
        build: impl Fn(u32, u32) -> Box<dyn CongestionControl> + Send + Sync + 'static,
    ) -> Self {
        Factory(Kind::Own { name, build: Arc::new(AssertUnwindSafe(Box::new(build))) })
    }

    /// The name by which it is chosen.
    pub fn name(&self) -> &'static str {
        match &self.0 {
            Kind::BuiltIn(algorithm) => algorithm.name(),
            Kind::Own { name, .. } => name,
        }
    }

    /// A new instance for segments of `mss` bytes, with an initial window of that many segments.
    pub fn build(&self, mss: u32, initial_window_segments: u32) -> Box<dyn CongestionControl> {
        match &self.0 {
            Kind::BuiltIn(algorithm) => algorithm.build(mss, initial_window_segments),
            Kind::Own { build, .. } => build(mss, initial_window_segments),
        }
    }
}

impl From<Algorithm> for Factory {
    fn from(algorithm: Algorithm) -> Self {
        Factory(Kind::BuiltIn(algorithm))
    }
}

impl Default for Factory {
    fn default() -> Self {
        Algorithm::default().into()
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Factory").field(&self.name()).finish()
    }
}

/// Two are equal if they are the same algorithm, or clones of each other.
impl PartialEq for Factory {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::BuiltIn(a), Kind::BuiltIn(b)) => a == b,
            (Kind::Own { build: a, .. }, Kind::Own { build: b, .. }) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
