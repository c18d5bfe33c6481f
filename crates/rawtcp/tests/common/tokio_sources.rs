//! Where the sources of the tokio are that this is compiled with. Also for the build script of `tests`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Their directory: in the registry, by the version in the Cargo.lock of the workspace that `within` is in. What only other
/// platforms need may not have been downloaded.
pub(crate) fn tokio(cargo: impl AsRef<std::ffi::OsStr>, within: &Path) -> PathBuf {
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--locked", "--filter-platform=host-tuple"])
        .current_dir(within)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let manifests = text.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let mut found = manifests.filter_map(|path| Path::new(path).parent()).filter(|dir| {
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix("tokio-").is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    });
    let told = String::from_utf8_lossy(&output.stderr);
    found.next().unwrap_or_else(|| panic!("tokio is not in the metadata: {told}")).to_owned()
}
