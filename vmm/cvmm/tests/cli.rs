//! Bad input, as a user meets it: one clear error with cause and cure, the documented exit code, no panic.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, have_kvm, stderr};

/// The three lines, and no panic.
fn complains(bench: &Bench, args: &[&str], code: i32, words: &str) {
    let output = bench.cvmm(args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    for line in ["error: ", "cause: ", "try:   "] {
        assert_eq!(
            said.lines().filter(|l| l.starts_with(line)).count(),
            1,
            "{args:?}: no single {line:?} in\n{said}"
        );
    }
    assert!(said.contains(words), "{args:?}: {words:?} is not in\n{said}");
}

#[test]
fn unusable_command_lines() {
    let bench = Bench::new();
    complains(&bench, &[], 2, "exactly one");
    complains(&bench, &["--plain"], 2, "no kernel");
    complains(&bench, &["--tdx", "--snp", "-k", "guest.elf"], 2, "exactly one");
    complains(&bench, &["--tdx=attributes=1", "-k", "guest.elf"], 2, "bit 28");
    complains(&bench, &["--tdx=quote=nowhere", "-k", "guest.elf"], 2, "unix:PATH");
    complains(&bench, &["--snp", "--plain", "-k", "guest.elf"], 2, "exactly one");
    complains(&bench, &["--snp=policy=1", "-k", "guest.elf"], 2, "bit 17");
    complains(&bench, &["measure", "--plain", "-k", "guest.elf"], 2, "not measured");
    complains(&bench, &["explain", "soup"], 2, "not a number");
    for bad in [["--cpus", "0"], ["--cpus", "256"], ["--memory", "0"], ["--memory", "99999999999G"]]
    {
        let output = bench.cvmm(&[["--plain", "-k", "guest.elf"].as_slice(), &bad].concat());
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
        assert!(stderr(&output).starts_with("error: "), "{bad:?}");
    }
}

#[test]
fn unusable_files() {
    let bench = Bench::new();
    complains(&bench, &["--plain", "-k", "missing"], 5, "No such file");
    complains(&bench, &["--plain", "-k", "."], 5, "kernel");
    complains(&bench, &["--plain", "-k", "guest.elf", "-i", "missing"], 5, "initrd");
    complains(&bench, &["--plain", "-k", "guest.elf", "-c", "@missing"], 5, "command line");
    complains(&bench, &["--plain", "-k", "guest.elf", "--report", "no/such/dir/r"], 5, "report");
    complains(&bench, &["--plain", "-k", "guest.elf", "--report", "."], 5, "report");
    complains(&bench, &["--plain", "-k", "guest.elf", "--dump-pages", "no/p"], 5, "page list");
    complains(&bench, &["--plain", "-k", "guest.elf", "--console", "file=no/c"], 5, "console");
    bench.file("empty", b"");
    bench.file("script", b"#!/bin/sh\n");
    let guest = std::fs::read(bench.path("guest.elf")).unwrap();
    bench.file("half", &guest[..guest.len() / 2]);
    let mut arm = guest.clone();
    arm[18] = 40;
    bench.file("arm", &arm);
    complains(&bench, &["--plain", "-k", "empty"], 2, "empty");
    complains(&bench, &["--plain", "-k", "script"], 2, "neither a bzImage");
    complains(&bench, &["measure", "--snp", "-k", "half"], 2, "truncated");
    complains(&bench, &["measure", "--snp", "-k", "arm"], 2, "another machine");
    bench.file("id", &[0; 95]);
    bench.file("auth", &[0; 4096]);
    complains(&bench, &["--snp=id-block=id,id-auth=auth", "-k", "guest.elf"], 2, "95 bytes");
}

#[test]
fn a_report_that_cannot_be_written_is_found_before_the_run_and_leaves_nothing() {
    let bench = Bench::new();
    let before = std::fs::read_dir(bench.path(".")).unwrap().count();
    complains(&bench, &["--plain", "-k", "guest.elf", "--report", "no/such/r.json"], 5, "report");
    assert_eq!(std::fs::read_dir(bench.path(".")).unwrap().count(), before);
}

#[test]
fn too_little_memory_names_the_amount() {
    let bench = Bench::new();
    bench.file("initrd", &vec![1; 20 << 20]);
    complains(
        &bench,
        &["measure", "--snp", "-k", "guest.elf", "-i", "initrd", "-m", "16M"],
        2,
        "--memory",
    );
}

#[test]
fn a_host_without_the_protection_says_so_and_names_the_flag() {
    if !have_kvm() {
        eprintln!("skipped: this host has no /dev/kvm that may be opened");
        return;
    }
    if std::path::Path::new("/dev/sev").exists() {
        eprintln!("skipped: this host has /dev/sev");
        return;
    }
    let bench = Bench::new();
    complains(&bench, &["--snp", "-k", "guest.elf"], 3, "--emulate");
}

#[test]
fn a_host_without_tdx_says_what_makes_it_appear() {
    if !have_kvm() {
        eprintln!("skipped: this host has no /dev/kvm that may be opened");
        return;
    }
    if std::fs::read("/sys/module/kvm_intel/parameters/tdx").is_ok_and(|tdx| tdx.starts_with(b"Y"))
    {
        eprintln!("skipped: this host has TDX");
        return;
    }
    let bench = Bench::new();
    complains(&bench, &["--tdx", "-k", "guest.elf"], 3, "kvm_intel.tdx=1");
    complains(&bench, &["--tdx", "-k", "guest.elf"], 3, "--emulate");
}

#[test]
fn emulation_without_the_library_says_where_it_looked() {
    let bench = Bench::new();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cvmm"))
        .args(["--snp", "-k", "guest.elf", "--emulate"])
        .current_dir(bench.path("."))
        .env("CVMM_SOFTKVM", "/no/such/library.so")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("/no/such/library.so"), "{}", stderr(&output));
}

#[test]
fn explain_knows_the_tables() {
    let bench = Bench::new();
    let said = |code: &str| String::from_utf8(bench.cvmm(&["explain", code]).stdout).unwrap();
    assert!(said("7").contains("POLICY_FAILURE"));
    assert!(said("7").contains("exit code 7"));
    assert!(said("0x16").contains("INVALID_PARAM"));
    assert!(said("124").contains("--timeout"));
    assert!(said("1:2").contains("PVALIDATE"));
    assert!(said("0x10c100").contains("kernel"));
    assert!(said("0xC000010000000045").contains("TDX_OPERAND_INVALID (CPUID_CONFIG)"));
    assert!(said("0xC000060900000000").contains("NO_VCPUS"));
    assert!(said("0xB0A00000000").contains("PAGE_ALREADY_ACCEPTED"));
    assert!(said("0x8000000000000003").contains("SUBFUNC_UNSUPPORTED"));
    assert!(said("0x40c100").contains("did not accept"), "R12 of a TD's shim");
}

#[test]
fn measure_prints_one_digest_or_a_table_or_json() {
    let bench = Bench::new();
    let measure = |args: &[&str]| {
        let output = bench.cvmm(&[&["measure", "--snp", "-k", "guest.elf"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let one = measure(&[]);
    assert_eq!(one.trim().len(), 96);
    let table = measure(&["--cpus", "1..4"]);
    assert_eq!(table.lines().count(), 4);
    assert!(table.lines().next().unwrap().ends_with(one.trim()));
    let json: serde_json::Value = serde_json::from_str(&measure(&["--json"])).unwrap();
    assert_eq!(json["digests"][0]["digest"], one.trim());
    measure(&["--dump-pages", "pages"]);
    let pages = std::fs::read_to_string(bench.path("pages")).unwrap();
    let pages = pages.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    // Behind the launch pages stands what is measured by its hash.
    let last = pages.rev().find(|page| page["type"].is_number()).unwrap();
    assert_eq!((&last["type"], &last["gpa"]), (&2.into(), &0xffff_ffff_f000u64.into()));
}

#[test]
fn measure_prints_mrtd_and_what_it_covers() {
    let bench = Bench::new();
    let measure = |args: &[&str]| {
        let output = bench.cvmm(&[&["measure", "-k", "guest.elf"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = measure(&["--tdx"]);
    let one = said.lines().next().unwrap();
    assert_eq!(one.len(), 96);
    let zeros = "0".repeat(96);
    for at in 0..4 {
        assert!(said.contains(&format!("# RTMR{at} {zeros}")), "{said}");
    }
    assert!(said.contains("command line"), "{said}");
    assert_ne!(measure(&["--snp"]).trim(), one);
    // Whatever a report shows apart from MRTD is not in it.
    let with_id = format!("--tdx=mrowner={}", "11".repeat(48));
    assert_eq!(measure(&[&with_id]).lines().next(), Some(one));
    let table = measure(&["--tdx", "--cpus", "1..3"]);
    let rows: Vec<&str> = table.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(rows.len(), 3);
    assert!(rows[0].ends_with(one) && !rows[1].ends_with(one));
    let json: serde_json::Value = serde_json::from_str(&measure(&["--tdx", "--json"])).unwrap();
    assert_eq!(json["digests"][0]["digest"], one);
    assert_eq!((&json["technology"], &json["rtmr"][3]), (&"tdx".into(), &zeros.into()));
    measure(&["--tdx", "--dump-pages", "pages"]);
    let pages = std::fs::read_to_string(bench.path("pages")).unwrap();
    let first: serde_json::Value = serde_json::from_str(pages.lines().next().unwrap()).unwrap();
    assert_eq!((&first["measured"], &first["gpa"]), (&true.into(), &0xffff_f000u64.into()));
    assert!(first["contents"].as_str().unwrap().len() == 8192);
}

#[test]
fn help_documents_the_exit_codes() {
    let help = String::from_utf8(Bench::new().cvmm(&["--help"]).stdout).unwrap();
    for code in cvmm::error::ExitCode::ALL {
        let row = format!("{:>5}  {}", code as u8, code.meaning());
        assert!(help.contains(&row), "{row:?} is not in --help");
    }
}
