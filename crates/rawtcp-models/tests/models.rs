//! Every model of the wake paths, with many interleavings.

use rawtcp_models::models;

macro_rules! models {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            models::check(stringify!($name), models::$name);
        })+
    };
}

models!(
    accepts,
    acknowledgments,
    both_ways,
    cancelled,
    death,
    exact_reads,
    full_device,
    halves_dropped,
    kicked,
    listener_dropped,
    peeks,
    reset,
    scheduled,
    several_drivers,
    transfer,
    waiters,
);
