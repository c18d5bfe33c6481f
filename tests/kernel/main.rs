//! rawtcp against the kernel's TCP, in network namespaces of their own.

mod back_pressure;
mod churn;
mod close_table;
mod common;
mod congestion;
mod cookies;
mod drivers;
mod ecn;
mod ending;
mod errors;
mod ethernet;
mod half_close;
mod impaired;
mod info;
mod ingress;
mod load;
mod ownership;
mod packet_device;
mod pmtu;
mod raw_device;
mod short_clients;
mod transfer;
mod tun;
mod urgent;

use rawtcp_lab::harness::{run, tun_device};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(role) = std::env::var_os("RAWTCP_TEST_ROLE") {
        return common::play(&role.to_string_lossy());
    }
    common::raise_descriptor_limit();
    let mut tests = Vec::new();
    tests.extend(transfer::tests());
    tests.extend(impaired::tests());
    tests.extend(back_pressure::tests());
    tests.extend(close_table::tests());
    tests.extend(errors::tests());
    tests.extend(congestion::tests());
    tests.extend(cookies::tests());
    tests.extend(info::tests());
    tests.extend(ingress::tests());
    tests.extend(short_clients::tests());
    tests.extend(ecn::tests());
    tests.extend(pmtu::tests());
    tests.extend(urgent::tests());
    tests.extend(ethernet::tests());
    tests.extend(packet_device::tests());
    tests.extend(raw_device::tests());
    tests.extend(drivers::tests());
    tests.extend(ownership::tests());
    tests.extend(churn::tests());
    tests.extend(half_close::tests());
    tests.extend(load::tests());
    tests.extend(ending::tests());
    tests.extend(tun::tests().into_iter().map(|test| test.needing(tun_device)));
    run(tests)
}

/// Tests, named by module and function. One that [needs](rawtcp_lab::harness::Test::needing) more says so: `test => what_tells`.
#[macro_export]
macro_rules! tests {
    ($($test:ident $(=> $needs:path)?),+ $(,)?) => {
        pub(crate) fn tests() -> Vec<rawtcp_lab::harness::Test> {
            let module = module_path!().rsplit("::").next().unwrap_or_default();
            vec![
                $(rawtcp_lab::harness::Test::new(format!("{module}::{}", stringify!($test)), $test)$(.needing($needs))?),+
            ]
        }
    };
}
