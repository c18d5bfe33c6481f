//! Auto traits of types, and of the futures of their methods: the same as tokio's.

use std::marker::PhantomData;

/// Tells, by the choice of the method, which auto traits a type has.
pub(crate) struct Probe<T>(PhantomData<T>);

pub(crate) fn of_type<T>() -> Probe<T> {
    Probe(PhantomData)
}

/// Of what a function would return.
pub(crate) fn of_result<A, R>(_: impl FnOnce(A) -> R) -> Probe<R> {
    Probe(PhantomData)
}

macro_rules! auto_trait {
    ($yes:ident, $no:ident, $method:ident, $bound:path) => {
        pub(crate) trait $yes {
            fn $method(&self) -> bool {
                true
            }
        }
        impl<T: $bound> $yes for Probe<T> {}
        pub(crate) trait $no {
            fn $method(&self) -> bool {
                false
            }
        }
        impl<T> $no for &Probe<T> {}
    };
}

auto_trait!(IsSend, NotSend, is_send, Send);
auto_trait!(IsSync, NotSync, is_sync, Sync);
auto_trait!(IsUnpin, NotUnpin, is_unpin, Unpin);
auto_trait!(IsUnwindSafe, NotUnwindSafe, is_unwind_safe, std::panic::UnwindSafe);
auto_trait!(IsRefUnwindSafe, NotRefUnwindSafe, is_ref_unwind_safe, std::panic::RefUnwindSafe);

/// Send, Sync, Unpin, UnwindSafe and RefUnwindSafe.
pub(crate) type Traits = [bool; 5];

macro_rules! traits {
    ($probe:expr) => {{
        let probe = &$probe;
        [probe.is_send(), probe.is_sync(), probe.is_unpin(), probe.is_unwind_safe(), probe.is_ref_unwind_safe()]
    }};
}
pub(crate) use traits;

#[test]
fn the_probe_tells() {
    assert_eq!(traits!(of_type::<u8>()), [true; 5]);
    assert_eq!(traits!(of_type::<std::rc::Rc<std::cell::Cell<u8>>>()), [false, false, true, false, false]);
    assert_eq!(traits!(of_result(|_: ()| async {})), [true, true, false, true, true]);
}

#[test]
fn types_and_futures_have_tokios_auto_traits() {
    let (ours, theirs) = (crate::ours::auto_traits::table(), crate::theirs::auto_traits::table());
    assert!(ours.len() == theirs.len() && ours.len() > 30);
    let mut wrong = Vec::new();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let ((name, ours), (_, theirs)) = (ours, theirs);
        // Futures of tokio's that wait for readiness are not unwind safe, by the cell of their waker; ours are.
        // Everything else is equal.
        let is_future = name.contains("::");
        let keeps = ours.iter().zip(theirs).all(|(ours, theirs)| *ours || !theirs);
        if ours != theirs && !(is_future && keeps && ours[..3] == theirs[..3]) {
            wrong.push(format!("{name}: {ours:?}, tokio {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
