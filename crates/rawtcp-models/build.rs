//! Exchanges the primitives of rawtcp's `sync` module in this package, and in this one only. rawtcp's features are not
//! this package's: none of them is on.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=rawtcp_models");
    println!("cargo::rustc-check-cfg=cfg(feature, values(any()))");
}
