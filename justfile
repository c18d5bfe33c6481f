# `just` without arguments lists these.
_list:
    @just --list --unsorted

# Two namespaces, an HTTP server on rawtcp in one, kernel clients in the other
demo:
    cargo run --release -p rawtcp-lab -- demo

# Against the kernel's TCP, in turns: `just bench --workload bulk`
bench *arguments:
    cargo run --release -p rawtcp-lab -- bench {{arguments}}

# Everything, privileged tests included
test:
    cargo test --workspace

# The protocol alone: fast, needs no privilege
test-proto:
    cargo test -p rawtcp-proto -p rawtcp-sim

# What CI says of the code, without running it
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# What CI does
ci:
    .ci/run

# An example, with its arguments: `just example http_server 127.0.0.1:8080`
example name *arguments:
    cargo run --release --example {{name}} -- {{arguments}}
