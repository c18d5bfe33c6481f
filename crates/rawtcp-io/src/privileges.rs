//! One clear error when opening a raw socket is not permitted.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Opening a raw socket was refused; the text names the cures. It is found inside an [`io::Error`] of kind
/// `PermissionDenied`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPrivilege {
    executable: PathBuf,
}

impl fmt::Display for MissingPrivilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let executable = self.executable.display();
        write!(
            f,
            "opening a raw IP socket needs the capability CAP_NET_RAW. Either give it to the program once:\n  \
             sudo setcap cap_net_raw+ep {executable}\n\
             or run it as root:\n  \
             sudo {executable}\n\
             or, without any privilege, in network and user namespaces of its own (no outside network there):\n  \
             unshare -Urn sh -c 'ip link set lo up; exec {executable}'\n\
             or without the kernel, on a loopback inside the process: set RAWTCP_DEVICE=loopback"
        )
    }
}

impl std::error::Error for MissingPrivilege {}

/// Turns a refusal into [`MissingPrivilege`]; leaves other errors alone.
pub(crate) fn explain(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let executable = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("<program>"));
    io::Error::new(io::ErrorKind::PermissionDenied, MissingPrivilege { executable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_cures() {
        let error = explain(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let text = error.to_string();
        let exe = std::env::current_exe().unwrap();
        for needle in [
            "CAP_NET_RAW".to_owned(),
            format!("sudo setcap cap_net_raw+ep {}", exe.display()),
            format!("sudo {}", exe.display()),
            "unshare -Urn".to_owned(),
            "RAWTCP_DEVICE=loopback".to_owned(),
        ] {
            assert!(text.contains(&needle), "{needle} in {text}");
        }
        assert!(error.get_ref().is_some_and(|inner| inner.is::<MissingPrivilege>()));
    }

    #[test]
    fn other_errors_pass() {
        let error = explain(io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    }
}
