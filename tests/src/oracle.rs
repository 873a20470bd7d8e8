//! Somebody else's launch digest.

use std::path::Path;
use std::process::Command;

use crate::input;

/// The digest of a `--dump-pages` file by sev-snp-measure (PyPI).
pub fn launch_digest(dump: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles/launch_digest.py");
    let output = Command::new(input("CVMM_PYTHON"))
        .arg(script)
        .arg("check")
        .arg(dump)
        .output()
        .expect("the oracle starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text.trim().to_owned()
}
