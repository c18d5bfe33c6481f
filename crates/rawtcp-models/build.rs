//! Exchanges the primitives of rawtcp's `sync` module in this package, and in this one only.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=rawtcp_models");
}
