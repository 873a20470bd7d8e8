//! A guest without a kernel (ports, string I/O, MMIO, an interrupt that ends a HLT, power-off) on this
//! host's own `/dev/kvm` and on softkvm: the monitor sees the same exits in the same order.

#[path = "../../vmm/cvmm/tests/common/test_guest.rs"]
mod test_guest;

use cvmm_tests::{Cvmm, Ended};
use serde_json::Value;

const TEXT: &str = "test guest: char by char\ntest guest: one string\n";

fn run(dir: &std::path::Path, emulate: bool) -> Ended {
    let (kernel, shim) = (dir.join("guest.elf"), dir.join("guest.bin"));
    std::fs::write(&kernel, test_guest::test_guest()).expect("a temporary file");
    std::fs::write(&shim, test_guest::test_guest_code()).expect("a temporary file");
    // The guest takes the shim's place: what emulates kernel mode on a nested host is slow, and
    // knows too few instructions for the real one.
    let run = Cvmm::new(["--plain", "--memory", "64M", "--timeout", "20", "--kernel"]);
    let run = run.arg(&kernel).arg("--shim").arg(&shim).reported();
    let ended = if emulate { run.arg("--emulate") } else { run }.run();
    ended.expect_code(0);
    assert_eq!(ended.console, TEXT);
    assert_eq!(ended.report()["outcome"]["kind"], "power_off");
    assert_eq!(ended.report()["platform"]["kind"], if emulate { "softkvm" } else { "kvm" });
    ended
}

/// Exits of each reason. How often KVM_RUN is interrupted is the host's affair.
fn counts(ended: &Ended) -> Vec<(String, u64)> {
    let rows = ended.report()["exits"]["by_reason"].as_array().expect("exits");
    let count = |row: &Value| {
        let reason = row["reason"].as_str().expect("a reason").to_owned();
        (reason, row["count"].as_u64().expect("a count"))
    };
    rows.iter().map(count).filter(|(reason, _)| reason != "interrupted").collect()
}

#[test]
fn the_test_guest_makes_the_same_exits_on_a_bare_dev_kvm_and_on_softkvm() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let emulated = run(dir.path(), true);
    println!("softkvm: {:?}", counts(&emulated));
    assert!(counts(&emulated).iter().any(|(reason, _)| reason == "mmio_read"));

    let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = kvm {
        println!("skipped on a bare /dev/kvm: {error}");
        return;
    }
    let bare = run(dir.path(), false);
    println!("kvm: {:?}", counts(&bare));
    assert_eq!(counts(&bare), counts(&emulated));
    assert_eq!(bare.report()["exits"]["streams"], emulated.report()["exits"]["streams"]);
}
