//! rawtcp against the kernel: the tests are in `kernel/`.
