//! `cvmm selftest` with a kernel and an initramfs of users: the rungs that no built-in guest can show, and that a host which
//! changes what is launched is found by the attestation.

use std::path::Path;

use abi::shim;
use cvmm_tests::{Cvmm, bzimage, in_parallel, initramfs};

const MISMATCH: i32 = 7;

fn selftest(dir: &Path, only: &str) -> Cvmm {
    Cvmm::new(["selftest", "--emulate", "--memory", "256M", "--only", only, "--out"])
        .arg(dir.join("selftest.tar"))
        .arg("--kernel")
        .arg(bzimage("6.12"))
        .arg("--initrd")
        .arg(initramfs("6.12"))
}

#[test]
fn attestation_is_compared_with_the_prediction() {
    // A word of the boot page that is no entry: nobody looks at it, but it is measured.
    let changed = format!("flip-launch={:#x}.1", shim::snp::BOOT_PAGE_GPA + 8);
    let jobs = [
        ("honest", ("snp-attest,tdx-attest", "", 0, "selftest: 2 passed, 0 failed, 0 skipped")),
        ("changed", ("snp-attest", &*changed, MISMATCH, "but cvmm measure predicts")),
    ];
    in_parallel(jobs.map(|(name, job)| (name.to_owned(), job)).to_vec(), |_, job| {
        let (only, deed, code, words) = job;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ended = selftest(dir.path(), only).env("SOFTKVM_HOSTILE", deed).run();
        ended.expect_code(code).expect_console(words);
        assert!(dir.path().join("selftest.tar").is_file(), "an archive is left in either case");
    });
}
