//! `cvmm check` as a user meets it: on this host whatever it is, and on softkvm with one thing wrong at a time.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::Output;

use common::{Bench, have_kvm, stderr};
use serde_json::Value;

/// `cvmm check --emulate` with a fault.
fn faulty(fault: &str, args: &[&str]) -> Output {
    let bench = Bench::new();
    bench.cvmm_with(&[("SOFTKVM_FAULT", fault)], &[&["check"], args].concat())
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}\n{}", stderr(output)))
}

fn findings(report: &Value) -> impl Iterator<Item = &Value> {
    let groups = report["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["findings"].as_array().unwrap())
}

fn finding<'a>(report: &'a Value, subject: &str) -> &'a Value {
    findings(report).find(|f| f["subject"] == subject).unwrap_or_else(|| panic!("no {subject}"))
}

/// Subjects that are missing, without those that follow from others.
fn roots(report: &Value) -> Vec<&str> {
    let missing = findings(report).filter(|f| f["verdict"] == "missing" && f["follows"].is_null());
    missing.map(|f| f["subject"].as_str().unwrap()).collect()
}

fn no_softkvm() -> bool {
    let missing = cvmm::emulate::find_library().is_err();
    if missing {
        eprintln!("skipped: softkvm's library is not built (cargo build -p softkvm-preload)");
    }
    missing
}

#[test]
fn a_sound_host_is_ready() {
    if no_softkvm() {
        return;
    }
    for (args, ready) in [
        (["--snp", "--emulate"].as_slice(), true),
        (&["--tdx", "--emulate"], true),
        (&["--plain", "--snp", "--emulate=epyc-genoa"], true),
        (&["--emulate"], true),
        (&["--emulate=xeon-emr"], true),
        (&["--tdx", "--emulate=epyc-milan"], false),
        (&["--plain", "--snp", "--tdx", "--emulate"], false),
    ] {
        let args = [args, &["--json"]].concat();
        let output = faulty("", &args);
        let report = json(&output);
        assert_eq!(report["ready"], ready, "{args:?}: {report:#}");
        assert_eq!(output.status.code(), Some(if ready { 0 } else { 3 }), "{args:?}");
        assert_eq!(report["schema"], "cvmm-check/1");
        assert_eq!(report["platform"], "softkvm");
    }
}

#[test]
fn every_fault_is_named_with_its_cure() {
    if no_softkvm() {
        return;
    }
    for (fault, flag, subject, found, cure) in [
        ("no-kvm", "--snp", "/dev/kvm", "does not exist", "modprobe kvm_amd"),
        ("no-kvm", "--tdx", "/dev/kvm", "does not exist", "modprobe kvm_intel"),
        ("kvm-eacces", "--plain", "/dev/kvm", "Permission denied", "usermod -aG kvm"),
        ("no-sev", "--snp", "/dev/sev", "does not exist", "modprobe ccp"),
        ("sev-eacces", "--snp", "/dev/sev", "Permission denied", "chmod g+rw /dev/sev"),
        ("snp-off", "--snp", "kvm_amd", "sev_snp=N", "modprobe kvm_amd sev=1 sev_es=1 sev_snp=1"),
        ("firmware=1.40", "--snp", "firmware", "1.40 build", "/lib/firmware/amd"),
        ("asids=0", "--snp", "ASIDs", "509 of 509 in use", "stop another confidential guest"),
        ("tdx-off", "--tdx", "kvm_intel", "tdx=N", "kvm_intel.tdx=1"),
        ("hkids=0", "--tdx", "key identifiers", "63 of 63 in use", "stop another"),
    ] {
        let output = faulty(fault, &[flag, "--emulate", "--json"]);
        let report = json(&output);
        assert_eq!(output.status.code(), Some(3), "{fault}: {report:#}");
        assert_eq!(roots(&report), [subject], "{fault}: {report:#}");
        let finding = finding(&report, subject);
        for (field, words) in [("found", found), ("cure", cure)] {
            let text = finding[field].as_str().unwrap();
            assert!(text.contains(words), "{fault}: {words:?} is not in {text:?}");
        }

        // The same for people, and who asks for something else is not kept.
        let output = faulty(fault, &[flag, "--emulate"]);
        let table = String::from_utf8_lossy(&output.stdout);
        let last = table.lines().last().unwrap();
        let name = flag.trim_start_matches('-');
        assert!(last.starts_with(&format!("{name}: not ready: ")), "{table}");
        assert!(last.ends_with(&format!("missing ({subject})")), "{table}");
        assert!(table.contains(cure), "{table}");
    }
}

#[test]
fn what_is_wrong_with_one_technology_leaves_the_others_alone() {
    if no_softkvm() {
        return;
    }
    let profile = "--emulate=xeon-spr";
    assert_eq!(faulty("tdx-off", &["--plain", profile]).status.code(), Some(0));
    assert_eq!(faulty("tdx-off", &[profile]).status.code(), Some(3), "nothing confidential");
    assert_eq!(faulty("asids=1", &["--snp", "--emulate"]).status.code(), Some(0), "one is enough");
}

#[test]
fn a_run_on_such_a_host_says_the_same() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    for (fault, flag, words) in [
        ("no-kvm", "--plain", "cannot open /dev/kvm"),
        ("sev-eacces", "--snp", "cannot open /dev/sev"),
        ("firmware=1.40", "--snp", "does not offer SEV-SNP guests"),
        ("asids=0", "--snp", "every ASID for confidential guests is in use"),
        ("tdx-off", "--tdx", "does not offer TDX guests"),
    ] {
        let args = [flag, "--kernel", "guest.elf", "--emulate", "--console", "none"];
        let output = bench.cvmm_with(&[("SOFTKVM_FAULT", fault)], &args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{fault}: {said}");
        assert!(said.contains(words), "{fault}: {words:?} is not in\n{said}");
    }
}

#[test]
fn a_fault_that_nobody_knows_is_refused() {
    if no_softkvm() {
        return;
    }
    let output = faulty("no-tpm", &["--plain", "--emulate"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("no-tpm"), "{}", stderr(&output));
}

/// Nothing is known of the host that runs this, but its CPUID and device nodes say what must come out.
#[test]
fn this_host_is_told_the_truth() {
    let bench = Bench::new();
    let output = bench.cvmm(&["check", "--json"]);
    let report = json(&output);
    assert_eq!(report["platform"], "kvm");
    let verdict = |subject| finding(&report, subject)["verdict"].as_str().unwrap().to_owned();
    assert_eq!(verdict("/dev/kvm") == "ok", have_kvm(), "{report:#}");
    let sev = std::fs::OpenOptions::new().read(true).write(true).open("/dev/sev").is_ok();
    assert_eq!(verdict("/dev/sev") == "ok", sev, "{report:#}");
    let groups = report["groups"].as_array().unwrap();
    let ready = |name: &str| groups.iter().any(|g| g["name"] == name && g["ready"] == true);
    assert!(!(ready("snp") && ready("tdx")), "no processor has both");
    for (name, flag) in [("plain", "--plain"), ("snp", "--snp"), ("tdx", "--tdx")] {
        let code = bench.cvmm(&["check", flag]).status.code();
        assert_eq!(code, Some(if ready(name) { 0 } else { 3 }), "{name}");
    }
    for finding in findings(&report) {
        let told = finding["cure"].is_string() || finding["follows"].is_string();
        assert_eq!(told, finding["verdict"] != "ok", "{finding:#}");
    }
}
