//! Somebody else's launch digest.

use std::path::Path;
use std::process::Command;

use crate::input;

/// The digest of a guest that starts in OVMF, by sev-snp-measure itself: `words` are its options.
pub fn ovmf_launch_digest(words: &[&str]) -> String {
    run(Command::new(input("CVMM_PYTHON"))
        .args(["-m", "sevsnpmeasure.cli", "--mode", "snp", "--vmm-type", "QEMU"])
        .args(["--guest-features", "0x1"])
        .args(words))
}

/// MRTD of a TD that starts in a firmware image, from the image alone.
pub fn tdvf_mrtd(image: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles/mrtd.py");
    run(Command::new(input("CVMM_PYTHON")).arg(script).arg(image))
}

/// The digest of a `--dump-pages` file by sev-snp-measure (PyPI).
pub fn launch_digest(dump: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles/launch_digest.py");
    run(Command::new(input("CVMM_PYTHON")).arg(script).arg("check").arg(dump))
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the oracle starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text.trim().to_owned()
}
