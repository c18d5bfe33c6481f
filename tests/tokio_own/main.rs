//! tokio's own tests of TCP, with rawtcp's types in the place of tokio's, over raw IP on `lo`. `build.rs` takes them from the
//! sources of the tokio that this is compiled with, and says which, and which not.

#[path = "../../crates/rawtcp/tests/common/privilege.rs"]
mod privilege;

include!(concat!(env!("OUT_DIR"), "/tokio_own.rs"));

/// What a test returns that has nothing to say.
trait Skipped {
    fn skipped() -> Self;
}

impl Skipped for () {
    fn skipped() {}
}

impl<E> Skipped for Result<(), E> {
    fn skipped() -> Self {
        Ok(())
    }
}

#[test]
fn all_of_it_in_a_user_namespace() {
    privilege::again_with_privilege();
}
