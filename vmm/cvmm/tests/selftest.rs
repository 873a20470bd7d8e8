//! `cvmm selftest` with its built-in guest: the ladder on softkvm, what its archive holds, and how it fails and stops.
//!
//! UNSAFETY: kill on a process of this test.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, elf, have_kvm, stderr};
use serde_json::Value;

fn no_softkvm() -> bool {
    let missing = cvmm::emulate::find_library().is_err();
    if missing {
        eprintln!("skipped: softkvm's library is not built (cargo build -p softkvm-preload)");
    }
    missing
}

/// The archive's files by name.
fn unpacked(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name.strip_prefix("cvmm-selftest/").unwrap().to_owned(), bytes)
    });
    entries.collect()
}

fn summary(files: &BTreeMap<String, Vec<u8>>) -> Value {
    serde_json::from_slice(&files["selftest.json"]).unwrap()
}

/// Names of the rungs with this outcome.
fn rungs<'a>(summary: &'a Value, outcome: &str) -> Vec<&'a str> {
    let rungs = summary["rungs"].as_array().unwrap().iter();
    rungs.filter(|r| r["outcome"] == outcome).map(|r| r["name"].as_str().unwrap()).collect()
}

#[test]
fn the_whole_ladder_passes_on_softkvm_without_a_kernel() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    let output = bench.cvmm(&["selftest", "--emulate", "--out", "all.tar"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let files = unpacked(&bench.path("all.tar"));
    let summary = summary(&files);
    assert_eq!(summary["schema"], "cvmm-selftest/1");
    assert_eq!(rungs(&summary, "skipped"), ["snp-attest", "tdx-attest"]);
    let passed = rungs(&summary, "passed");
    assert_eq!(passed.len(), 13, "{summary:#}");
    for name in passed {
        let report: Value = serde_json::from_slice(&files[&format!("{name}/report.json")]).unwrap();
        let technology = name.split('-').next().unwrap();
        assert_eq!(report["technology"], technology);
        assert_eq!(report["outcome"]["kind"], "power_off");
        assert_eq!(report["console_bytes"], 20);
        let marks = report["marks"].as_array().unwrap();
        assert_eq!(marks.last().unwrap()["name"], "init-ready", "{name}");
        assert_eq!(report["guest"]["vcpus"], if name.ends_with('4') { 4 } else { 1 });
        let command = String::from_utf8_lossy(&files[&format!("{name}/command.txt")]);
        assert!(command.starts_with(&format!("cvmm --{technology} --kernel ")), "{command}");
    }
    for technology in ["plain", "snp", "tdx"] {
        let check: Value =
            serde_json::from_slice(&files[&format!("check-{technology}.json")]).unwrap();
        assert_eq!((&check["schema"], &check["ready"]), (&"cvmm-check/1".into(), &true.into()));
    }
    let said = b"cvmm selftest guest";
    assert!(
        !files.values().any(|bytes| bytes.windows(said.len()).any(|part| part == said)),
        "bytes of a guest are in the archive"
    );
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("selftest: 13 passed, 0 failed, 2 skipped"), "{table}");
}

#[test]
fn the_console_is_there_if_asked_for() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    let args = ["selftest", "--emulate", "--only", "snp-hashed-1", "--with-console"];
    let output = bench.cvmm(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let files = unpacked(&bench.path("cvmm-selftest.tar"));
    assert_eq!(files["snp-hashed-1/console.txt"], b"cvmm selftest guest\n");
}

#[test]
fn this_host_runs_what_it_can() {
    let bench = Bench::new();
    let output = bench.cvmm(&["selftest", "--only", "plain-exits", "--timeout", "60"]);
    let summary = summary(&unpacked(&bench.path("cvmm-selftest.tar")));
    let (code, outcome) = if have_kvm() { (0, "passed") } else { (3, "skipped") };
    assert_eq!(output.status.code(), Some(code), "{summary:#}\n{}", stderr(&output));
    assert_eq!(rungs(&summary, outcome), ["plain-exits"]);
}

#[test]
fn what_a_host_lacks_is_skipped_with_the_reason() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    let args = ["selftest", "--emulate", "--only", "plain-hashed-1,snp"];
    let output = bench.cvmm_with(&[("SOFTKVM_FAULT", "asids=0")], &args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let summary = summary(&unpacked(&bench.path("cvmm-selftest.tar")));
    assert_eq!(rungs(&summary, "passed"), ["plain-hashed-1"]);
    assert_eq!(rungs(&summary, "skipped").len(), 5);
    let reason = summary["rungs"][1]["reason"].as_str().unwrap();
    assert!(reason.starts_with("ASIDs: 509 of 509 in use"), "{reason}");

    let args = ["selftest", "--emulate", "--only", "snp"];
    let output = bench.cvmm_with(&[("SOFTKVM_FAULT", "asids=0")], &args);
    assert_eq!(output.status.code(), Some(3), "nothing ran");
}

#[test]
fn a_rung_that_fails_is_told_and_leaves_its_report() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    // Sixteen bytes for other processors, then UD2, for which there is no handler.
    let mut crash = vec![0x90; 18];
    crash[16..].copy_from_slice(&[0x0f, 0x0b]);
    bench.file("crash.elf", &elf(&crash));
    let args =
        ["selftest", "--emulate", "--kernel", "crash.elf", "--only", "plain-exits,snp-hashed-1"];
    let output = bench.cvmm(&args);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    let files = unpacked(&bench.path("cvmm-selftest.tar"));
    let summary = summary(&files);
    assert_eq!(rungs(&summary, "failed"), ["snp-hashed-1"]);
    assert_eq!(rungs(&summary, "passed"), ["plain-exits"], "it needs no kernel");
    let reason = summary["rungs"][1]["reason"].as_str().unwrap();
    assert!(reason.contains("triple fault"), "{reason}");
    assert!(files.contains_key("snp-hashed-1/report.json"));
    assert!(stderr(&output).contains(reason));
}

#[test]
fn a_signal_stops_it_and_nothing_is_left() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    let mut spin = vec![0x90; 18];
    spin[16..].copy_from_slice(&[0xeb, 0xfe]);
    bench.file("spin.elf", &elf(&spin));
    std::fs::create_dir(bench.path("tmp")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cvmm"))
        .args(["selftest", "--emulate", "--kernel", "spin.elf", "--only", "plain-hashed-1"])
        .current_dir(bench.path("."))
        .env("TMPDIR", bench.path("tmp"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The guest's run has begun when its console's file is there.
    let began = Instant::now();
    let console = loop {
        assert!(began.elapsed() < Duration::from_secs(60), "the rung does not start");
        let scratch = std::fs::read_dir(bench.path("tmp")).unwrap().flatten().next();
        let console = scratch.map(|entry| entry.path().join("plain-hashed-1.console.txt"));
        match console.filter(|path| path.exists()) {
            Some(path) => break path.display().to_string(),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    // SAFETY: a process of ours that was not waited for.
    unsafe { libc::kill(child.id().try_into().unwrap(), libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(bench.path("tmp")).unwrap().count(), 0);
    assert!(!bench.path("cvmm-selftest.tar").exists());
    let running = std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&console)
    });
    assert!(!running, "the child still runs");
}

#[test]
fn unusable_flags() {
    let bench = Bench::new();
    for (args, code, words) in [
        (["--only", "snp-hashed-2"].as_slice(), 2, "there is no rung 'snp-hashed-2'"),
        (&["--initrd", "x"], 2, "--kernel"),
        (&["--kernel", "missing"], 5, "cannot read the kernel missing"),
        (&["--out", "no/such/dir.tar"], 5, "cannot write the archive"),
        (&["--timeout", "0"], 2, "--timeout"),
    ] {
        let output = bench.cvmm(&[&["selftest"], args].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
    }
    assert!(!bench.path("cvmm-selftest.tar").exists());
}
