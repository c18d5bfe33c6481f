//! One body, two stacks: the same tests compiled against `tokio::net` and against `rawtcp::net`; tokio is the
//! oracle. Ours runs over raw IP on `lo`, and once more, in a process of its own, over the loopback inside
//! the process.

mod ours;
#[path = "../common/privilege.rs"]
mod privilege;
mod surface;
mod theirs;

/// All of `ours` again, over `RAWTCP_DEVICE=loopback`: the variable is to be there before the process is.
#[test]
fn over_the_loopback_inside_the_process() {
    if ours::is_loopback() {
        return;
    }
    let output = std::process::Command::new("timeout")
        .arg("60")
        .arg(std::env::current_exe().unwrap())
        .args(["ours::", "--test-threads=2"])
        .env("RAWTCP_DEVICE", "loopback")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("test result: ok.") && !text.contains(" 0 passed"), "{text}");
}

#[test]
fn all_of_it_in_a_user_namespace() {
    privilege::again_with_privilege();
}
