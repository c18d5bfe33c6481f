//! Targets for a fuzzer, in `tests/`: what arrives from the network is anybody's choice.
//!
//! `cargo test -p rawtcp-fuzz` runs each a while on stable, with inputs that follow from a seed;
//! `cargo bolero test -p rawtcp-fuzz NAME` looks for inputs that reach further, for as long as one likes.
