//! The test guest on this host's own `/dev/kvm`, and on softkvm where it has been built: same output, same exits.
//!
//! It takes the place of the shim, because a `/dev/kvm` that emulates the guest's kernel mode (that of a nested PVM host)
//! knows too few instructions for the real one.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, have_kvm, stderr};

const TEXT: &str = "test guest: char by char\ntest guest: one string\n";

fn run_and_check(bench: &Bench, extra: &[&str]) -> serde_json::Value {
    let mut args =
        vec!["--plain", "--kernel", "guest.elf", "--shim", "guest.bin", "--memory", "64M"];
    args.extend(["--timeout", "60", "--report", "r.json"]);
    args.extend(extra);
    let output = bench.cvmm(&args);
    let report = bench.path("r.json");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}\n{:?}",
        stderr(&output),
        std::fs::read_to_string(report)
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), TEXT);
    bench.report("r.json")
}

fn count(report: &serde_json::Value, reason: &str) -> u64 {
    let rows = report["exits"]["by_reason"].as_array().unwrap();
    rows.iter().find(|r| r["reason"] == reason).map_or(0, |r| r["count"].as_u64().unwrap())
}

#[test]
fn the_test_guest_runs_on_a_bare_dev_kvm() {
    if !have_kvm() {
        eprintln!("skipped: this host has no /dev/kvm that may be opened");
        return;
    }
    let bench = Bench::new();
    let report = run_and_check(&bench, &[]);
    assert_eq!(report["outcome"]["kind"], "power_off");
    assert_eq!(report["platform"]["kind"], "kvm");
    assert_eq!(report["confidential"], false);
    assert_eq!(count(&report, "mmio_read"), 1);
    assert_eq!(count(&report, "mmio_write"), 2);
    let names: Vec<_> =
        report["marks"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names.first(), Some(&"init-entry"));
    assert_eq!(names.last(), Some(&"init-ready"));
    // What nobody answers is written down.
    let strays = report["stray_ports"].as_array().unwrap();
    assert!(strays.iter().any(|s| s["port"] == 0x5150 && s["reads"] == 1), "{strays:?}");

    let again = run_and_check(&bench, &[]);
    assert_eq!(again["exits"]["streams"], report["exits"]["streams"], "two runs, two exit streams");
}

#[test]
fn a_run_ends_at_the_mark_that_until_names() {
    if !have_kvm() {
        eprintln!("skipped: this host has no /dev/kvm that may be opened");
        return;
    }
    let bench = Bench::new();
    let output = bench.cvmm(&[
        "--plain",
        "--kernel",
        "guest.elf",
        "--shim",
        "guest.bin",
        "--memory",
        "64M",
        "--timeout",
        "60",
        "--until",
        "init-entry",
        "--report",
        "r.json",
        "--console",
        "none",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(bench.report("r.json")["outcome"]["kind"], "mark_reached");
}

#[test]
fn softkvm_gives_the_test_guest_the_exits_of_the_real_kvm() {
    if cvmm::emulate::find_library().is_err() {
        eprintln!("skipped: softkvm's library is not built (cargo build -p softkvm-preload)");
        return;
    }
    let bench = Bench::new();
    let soft = run_and_check(&bench, &["--emulate"]);
    assert_eq!(soft["platform"]["kind"], "softkvm");
    assert_eq!(soft["platform"]["guest_time"], "modelled");
    if !have_kvm() {
        eprintln!("not compared: this host has no /dev/kvm that may be opened");
        return;
    }
    let real = run_and_check(&bench, &[]);
    assert_eq!(soft["exits"]["streams"], real["exits"]["streams"]);
    for reason in ["port_in", "port_out", "mmio_read", "mmio_write"] {
        assert_eq!(count(&soft, reason), count(&real, reason), "{reason}");
    }
}

#[test]
fn the_shim_enters_the_test_guest_as_an_elf_kernel_on_softkvm() {
    if cvmm::emulate::find_library().is_err() {
        eprintln!("skipped: softkvm's library is not built (cargo build -p softkvm-preload)");
        return;
    }
    let bench = Bench::new();
    for load in ["hashed", "measured"] {
        let output = bench.cvmm(&[
            "--plain",
            "--kernel",
            "guest.elf",
            "--memory",
            "64M",
            "--timeout",
            "60",
            "--emulate",
            "--load",
            load,
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), TEXT);
        assert!(stderr(&output).contains("NOT confidential"), "{}", stderr(&output));
    }
}
