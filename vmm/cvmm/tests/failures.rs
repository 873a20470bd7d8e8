//! Every call that cvmm makes to the host, failed at every place where it makes it: on softkvm, which can fail any.
//!
//! An undisturbed run tells which calls there are and how often. Then each is failed at each place, in a process of its own.
//! Whatever fails: the run ends in time, without a panic, with a documented code, leaves a whole report or none and nothing
//! else, and says three lines. Those lines are kept in `snapshots/`, to be read by people when they change;
//! `UPDATE_SNAPSHOTS=1` writes them anew. Nothing leaks: descriptors, threads and memory are counted over many failed launches
//! of one process.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use common::Bench;
use cvmm::cli::Cli;
use cvmm::config::Config;
use cvmm::device::output::Sink;
use cvmm::error::{Error, ExitCode};
use cvmm::launch::{Planning, launch, probe};
use cvmm::plan::{Inputs, Plan};
use cvmm::recorder::{Recorder, Started};
use cvmm::run::run;
use cvmm::sys::system::{Capability, System};
use cvmm::sys::vm::Msi;

/// What the kernel may answer to a call (Linux 7.2). The first is what a call is failed with at every place, all are what it is
/// failed with at the first.
const ERRNOS: &[(&str, &[&str])] = &[
    ("open(/dev/kvm)", &["ENOENT", "EACCES", "EBUSY", "EMFILE"]),
    ("open(/dev/sev)", &["ENOENT", "EACCES", "EMFILE"]),
    ("mmap(vcpu)", &["ENOMEM"]),
    ("fallocate(guest_memfd)", &["EINTR", "ENOMEM"]),
    ("KVM_GET_API_VERSION", &["ENOTTY"]),
    ("KVM_CHECK_EXTENSION", &["EIO"]),
    ("KVM_GET_SUPPORTED_CPUID", &["ENOMEM", "E2BIG"]),
    ("KVM_CREATE_VM", &["ENOMEM", "EINVAL", "EBUSY", "EIO", "EMFILE", "ENFILE"]),
    ("KVM_GET_VCPU_MMAP_SIZE", &["EINVAL"]),
    ("KVM_SET_TSS_ADDR", &["EINVAL", "ENOMEM"]),
    ("KVM_CREATE_IRQCHIP", &["ENOMEM", "EEXIST", "EINVAL", "ENODEV"]),
    ("KVM_ENABLE_CAP", &["EINVAL", "ENOMEM"]),
    ("KVM_IRQFD", &["EMFILE", "EINVAL", "EBUSY", "ENOMEM"]),
    ("KVM_SET_USER_MEMORY_REGION", &["EINVAL", "EEXIST", "ENOMEM"]),
    ("KVM_SET_USER_MEMORY_REGION2", &["EINVAL", "EEXIST", "ENOMEM"]),
    ("KVM_CREATE_GUEST_MEMFD", &["ENOMEM", "EINVAL", "EMFILE"]),
    ("KVM_SET_MEMORY_ATTRIBUTES", &["ENOMEM", "EINVAL"]),
    ("KVM_CREATE_VCPU", &["ENOMEM", "EINVAL", "EEXIST", "EMFILE", "EIO"]),
    ("KVM_GET_STATS_FD", &["ENOMEM", "EMFILE", "ENOTTY", "EINVAL"]),
    ("KVM_SET_CPUID2", &["EINVAL", "E2BIG", "ENOMEM", "EPERM"]),
    ("KVM_GET_SREGS", &["EINVAL"]),
    ("KVM_SET_SREGS", &["EINVAL"]),
    ("KVM_SET_REGS", &["EINVAL"]),
    ("KVM_SET_MP_STATE", &["EINVAL"]),
    ("KVM_PRE_FAULT_MEMORY", &["ENOMEM", "EOPNOTSUPP", "EINTR", "ENOENT", "EFAULT", "EIO"]),
    ("KVM_SET_MSRS", &["EINVAL", "E2BIG", "ENOMEM"]),
    ("KVM_GET_TSC_KHZ", &["EIO"]),
    ("KVM_SET_TSC_KHZ", &["EINVAL"]),
    ("KVM_RUN", &["EFAULT", "EINVAL", "ENOMEM", "EIO", "EHWPOISON", "EPERM"]),
    ("KVM_SEV_INIT2", &["EBUSY", "ENOTTY", "EINVAL", "ENOMEM"]),
    ("KVM_SEV_SNP_ENABLE_REQ_CERTS", &["EINVAL"]),
    ("KVM_SEV_SNP_LAUNCH_START", &["EIO", "ENOTTY", "EINVAL", "EBUSY"]),
    ("KVM_SEV_SNP_LAUNCH_UPDATE", &["EIO", "EINVAL", "EPERM", "EAGAIN"]),
    ("KVM_SEV_SNP_LAUNCH_FINISH", &["EIO", "EBUSY", "EINVAL", "ENOMEM"]),
    ("KVM_TDX_CAPABILITIES", &["EIO", "EINVAL"]),
    ("KVM_TDX_INIT_VM", &["EIO", "ENOSPC", "EBUSY", "EINVAL", "ENOMEM"]),
    ("KVM_TDX_INIT_VCPU", &["EIO", "EINVAL", "ENOMEM"]),
    ("KVM_TDX_INIT_MEM_REGION", &["EIO", "EINVAL", "EFAULT", "ENOMEM"]),
    ("KVM_TDX_GET_CPUID", &["EIO", "E2BIG"]),
    ("KVM_TDX_FINALIZE_VM", &["EIO", "EBUSY", "EINVAL"]),
    ("KVM_GET_CLOCK", &["EIO"]),
    ("KVM_GET_REGS", &["EINVAL"]),
    ("KVM_GET_MP_STATE", &["EINVAL"]),
];

/// Failures with a status of firmware or module, part of the way, or again and again.
const SNP_EXTRA: &[&str] = &[
    "KVM_SEV_INIT2#*=EINTR",
    "KVM_SEV_SNP_LAUNCH_START#1=EIO,fw=0x1",
    "KVM_SEV_SNP_LAUNCH_START#1=EIO,fw=0x7",
    "KVM_SEV_SNP_LAUNCH_START#1=EIO,fw=0x17",
    "KVM_SEV_SNP_LAUNCH_START#1=EIO,fw=0x99",
    "KVM_SEV_SNP_LAUNCH_START#1=EIO,fw=0xffffffff",
    "KVM_SEV_SNP_LAUNCH_UPDATE#5=EIO,pages=1",
    "KVM_SEV_SNP_LAUNCH_UPDATE#5=EIO,fw=0x1a,pages=2",
    "KVM_SEV_SNP_LAUNCH_UPDATE#*=EAGAIN",
    "KVM_SEV_SNP_LAUNCH_UPDATE#2=EIO,fw=0x16",
    "KVM_SEV_SNP_LAUNCH_FINISH#1=EIO,fw=0x13",
    "KVM_RUN#*=EINTR",
    "KVM_RUN#*=EAGAIN",
];
const TDX_EXTRA: &[&str] = &[
    "KVM_TDX_CAPABILITIES#*=E2BIG",
    "KVM_TDX_INIT_VM#1=EAGAIN",
    "KVM_TDX_INIT_VM#*=EAGAIN",
    "KVM_TDX_INIT_VM#1=EINVAL,fw=0xc000010000000040",
    "KVM_TDX_INIT_VM#1=EINVAL,fw=0xc000010000000045",
    "KVM_TDX_INIT_VM#1=EIO,fw=0x8000020300000000",
    "KVM_TDX_INIT_MEM_REGION#1=EINTR",
    "KVM_TDX_INIT_MEM_REGION#3=EINTR,pages=1",
    "KVM_TDX_INIT_MEM_REGION#3=EIO,pages=2",
    "KVM_TDX_INIT_MEM_REGION#*=EINTR",
    "KVM_TDX_FINALIZE_VM#1=EIO,fw=0xc000060900000000",
    "KVM_RUN#*=EINTR",
];

/// How a run is started.
struct Kind {
    name: &'static str,
    /// softkvm's profile; `{odd-tsc}` is that of an Intel part whose TSC is no multiple of 25 MHz.
    profile: &'static str,
    args: &'static [&'static str],
    extra: &'static [&'static str],
}

const KINDS: [Kind; 4] = [
    Kind { name: "plain", profile: "xeon-spr", args: &["--plain"], extra: &["KVM_RUN#*=EINTR"] },
    // Measured, for else it has no launch region of several pages.
    Kind {
        name: "snp",
        profile: "epyc-milan",
        args: &["--snp=certs=../certs", "--load=measured"],
        extra: SNP_EXTRA,
    },
    Kind { name: "tdx", profile: "{odd-tsc}", args: &["--tdx"], extra: TDX_EXTRA },
    Kind {
        name: "prefault",
        profile: "epyc-milan",
        args: &["--snp", "--accept=prefault"],
        extra: &["KVM_PRE_FAULT_MEMORY#*=EAGAIN", "fallocate(guest_memfd)#*=ENOMEM"],
    },
];

/// How many KVM_RUNs are failed one by one: with them both vCPUs are in the shim.
const RUNS: u64 = 8;

/// Longer than any run takes: those that never get anywhere end by `--timeout`.
const PATIENCE: Duration = Duration::from_secs(60);

struct Ended {
    code: i32,
    said: String,
}

/// Runs cvmm once in a directory of its own within `bench`.
fn cvmm(bench: &Bench, kind: &Kind, at: usize, variables: &[(&str, &str)]) -> Ended {
    let dir = bench.path(&format!("run{at}"));
    std::fs::create_dir(&dir).unwrap();
    let profile = match kind.profile {
        "{odd-tsc}" => bench.path("odd-tsc.toml").to_str().unwrap().to_owned(),
        name => name.to_owned(),
    };
    let common = [
        "--kernel=../guest.elf",
        "--initrd=../initrd",
        "--memory=64M",
        "--cpus=2",
        "--until=kernel-entry",
        "--console=none",
        "--report=report.json",
    ];
    // A run whose KVM_RUN is always interrupted goes on for ever.
    let endless = variables.iter().any(|(_, value)| value.starts_with("KVM_RUN#*"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_cvmm"))
        .args(kind.args)
        .args(common)
        .args(["--timeout", if endless { "1" } else { "30" }])
        .arg(format!("--emulate={profile}"))
        .envs(variables.iter().copied())
        .env_remove("LD_PRELOAD")
        .env_remove("CVMM_SOFTKVM")
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It says less than a pipe holds.
    let patience = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > patience => {
                child.kill().unwrap();
                panic!("{variables:?}: the run hangs");
            }
            None => std::thread::sleep(Duration::from_millis(3)),
        }
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let code = status.code().unwrap_or_else(|| panic!("{variables:?}: {status}\n{said}"));
    Ended { code, said }
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.file("initrd", &[0x5a; 70_000]);
    bench.file("certs", &[7; 100]);
    let profile =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/softkvm/profiles/xeon-spr.toml");
    let text = std::fs::read_to_string(profile).unwrap();
    assert!(text.contains("tsc_khz = 2_000_000"));
    bench.file(
        "odd-tsc.toml",
        text.replace("tsc_khz = 2_000_000", "tsc_khz = 2_000_001").as_bytes(),
    );
    bench
}

/// How often an undisturbed run makes each call.
fn calls(bench: &Bench, kind: &Kind, at: usize) -> BTreeMap<String, u64> {
    let file = bench.path("calls.json");
    let run = cvmm(bench, kind, at, &[("SOFTKVM_STATS", file.to_str().unwrap())]);
    assert_eq!(run.code, 0, "{}", run.said);
    let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    serde_json::from_value(stats["calls"].clone()).unwrap()
}

/// Every failure to try.
fn failures(kind: &Kind, calls: &BTreeMap<String, u64>) -> Vec<String> {
    let mut all = Vec::new();
    for (call, count) in calls {
        let known = ERRNOS.iter().find(|(name, _)| name == call);
        let (_, errnos) = known.unwrap_or_else(|| panic!("what does {call} answer when it fails?"));
        all.extend(errnos.iter().map(|errno| format!("{call}#1={errno}")));
        // The monitor kicks its threads at the end, so that the last KVM_RUNs are not the same in every run.
        let places = if call == "KVM_RUN" { (*count).min(RUNS) } else { *count };
        all.extend((2..=places).map(|place| format!("{call}#{place}={}", errnos[0])));
    }
    all.extend(kind.extra.iter().map(|failure| (*failure).to_owned()));
    all
}

/// One failure, as the snapshot tells it.
fn judge(bench: &Bench, kind: &Kind, at: usize, failure: &str) -> String {
    let Ended { code, said } = cvmm(bench, kind, at, &[("SOFTKVM_FAIL", failure)]);
    assert!(!said.contains("panicked"), "{failure}: {said}");
    assert!(ExitCode::ALL.iter().any(|known| *known as i32 == code), "{failure}: code {code}");
    assert_ne!(code, ExitCode::Internal as i32, "{failure}: {said}");
    assert_ne!(code, ExitCode::Usage as i32, "{failure}: {said}");
    let lines: Vec<&str> = said
        .lines()
        .filter(|l| ["error: ", "cause: ", "try:   "].iter().any(|begin| l.starts_with(begin)))
        .collect();
    let expected = if code == 0 { 0 } else { 3 };
    assert_eq!(lines.len(), expected, "{failure}: {said}");
    for entry in std::fs::read_dir(bench.path(&format!("run{at}"))).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.file_name(), "report.json", "{failure} leaves something behind");
        let report: serde_json::Value =
            serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap();
        assert_eq!(report["outcome"]["exit_code"], code, "{failure}");
    }
    let mut text = format!("exit code {code}\n");
    for line in lines {
        // Which vCPU makes the n-th KVM_RUN is up to the host's scheduler.
        let line = match failure.starts_with("KVM_RUN") {
            true => line.replace("vCPU 1", "vCPU N").replace("vCPU 0", "vCPU N"),
            false => line.to_owned(),
        };
        writeln!(text, "  {line}").unwrap();
    }
    text
}

fn every_call_failed(kind: &Kind) {
    if !emulator() {
        return;
    }
    let bench = bench();
    let calls = calls(&bench, kind, usize::MAX);
    let failures = failures(kind, &calls);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(failure) = failures.get(at) else { break };
                    let text = judge(&bench, kind, at, failure);
                    results.lock().unwrap().insert(at, text);
                }
            });
        }
    });
    let results: Vec<String> = results.into_inner().unwrap().into_values().collect();
    assert_eq!(results.len(), failures.len());
    snapshot(&format!("failures-{}.txt", kind.name), &story(&failures, &results));
}

/// All of it, with the places of a call at which the same is said told together.
fn story(failures: &[String], results: &[String]) -> String {
    let place = |failure: &str| {
        let (call, rest) = failure.split_once('#').unwrap();
        let (place, how) = rest.split_once('=').unwrap();
        (call.to_owned(), place.to_owned(), how.to_owned())
    };
    let mut groups: Vec<(String, String, String, String, &str)> = Vec::new();
    for (failure, result) in failures.iter().zip(results) {
        let (call, at, how) = place(failure);
        match groups.last_mut() {
            Some((c, _, last, h, said)) if *c == call && *h == how && said == result => *last = at,
            _ => groups.push((call, at.clone(), at, how, result)),
        }
    }
    let mut text = String::new();
    for (call, first, last, how, said) in groups {
        let places = if first == last { first } else { format!("{first} to {last}") };
        writeln!(text, "{call}#{places}={how}: {said}").unwrap();
    }
    text
}

/// Compares with what people have read and found good.
fn snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    if kept == text {
        return;
    }
    let differs = kept.lines().zip(text.lines()).position(|(a, b)| a != b);
    let at = differs.unwrap_or_else(|| kept.lines().count().min(text.lines().count()));
    let around =
        |text: &str| text.lines().skip(at.saturating_sub(3)).take(8).collect::<Vec<_>>().join("\n");
    panic!(
        "{name} differs from line {} on; if it is right, run again with UPDATE_SNAPSHOTS=1 and review the \
         change\n--- kept\n{}\n--- now\n{}",
        at + 1,
        around(&kept),
        around(text)
    );
}

fn emulator() -> bool {
    let there = cvmm::emulate::find_library().is_ok();
    if !there {
        eprintln!("skipped: softkvm's library is not built (cargo build -p softkvm-preload)");
    }
    there
}

#[test]
fn every_call_of_a_plain_launch_and_run_failed() {
    every_call_failed(&KINDS[0]);
}

#[test]
fn every_call_of_an_snp_launch_and_run_failed() {
    every_call_failed(&KINDS[1]);
}

#[test]
fn every_call_of_a_tdx_launch_and_run_failed() {
    every_call_failed(&KINDS[2]);
}

#[test]
fn every_call_of_a_launch_with_prefaulted_memory_failed() {
    every_call_failed(&KINDS[3]);
}

/// Runs the test of this name in a process of its own with softkvm and these variables.
fn emulated_with(profile: &str, name: &str, variables: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", cvmm::emulate::find_library().unwrap())
        .env(cvmm::emulate::PROFILE_VARIABLE, profile)
        // One heap for all threads: how many there are is chance, and each takes address space.
        .env("MALLOC_ARENA_MAX", "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{variables:?}:\n{text}\n{errors}");
    text
}

/// Descriptors, threads, and KiB of address space and of memory of this process.
fn held() -> [u64; 4] {
    let entries = |path| std::fs::read_dir(path).unwrap().count() as u64;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = |key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    [entries("/proc/self/fd"), entries("/proc/self/task"), kib("VmSize:"), kib("VmRSS:")]
}

/// [`held`], once the threads that have given their results have gone as well: nobody joins them.
fn settled() -> [u64; 4] {
    for _ in 0..500 {
        // The harness's two.
        if held()[1] <= 2 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    held()
}

/// Launches and runs, in this process.
fn boot(config: &Config, inputs: &Inputs) -> Result<(), Error> {
    let mut recorder = Recorder::new(Started::now(), true);
    let system = System::open(&mut recorder)?;
    let host = probe(config, &system, &mut recorder)?;
    let plan = Plan::build(&config.guest, inputs, config.cpus, &host)?;
    let (guest, _) = launch(config, Planning::ready(plan), &system, &mut recorder)?;
    run(guest, config, Sink::Nowhere, &mut recorder).map(drop)
}

/// What to launch in a child, and what is called and failed there.
const LEAK_VARIABLE: &str = "CVMM_TEST_LEAK";

fn leak_args(name: &str) -> &'static [&'static str] {
    KINDS.iter().find(|kind| kind.name == name).unwrap().args
}

/// In the child: the same failure again and again holds no more at the end than at the beginning.
fn hold_no_more(name: &str) {
    let bench = bench();
    std::fs::create_dir(bench.path("run")).unwrap();
    std::env::set_current_dir(bench.path("run")).unwrap();
    let args = ["--kernel=../guest.elf", "--initrd=../initrd", "--memory=64M", "--cpus=2"];
    let flags: Vec<&str> = ["cvmm"]
        .iter()
        .chain(leak_args(name))
        .chain(&args)
        .chain(&["--until=kernel-entry", "--console=none", "--timeout=30"])
        .copied()
        .collect();
    let config = Config::parse(&Cli::try_parse_from(flags).unwrap().flags).unwrap();
    let inputs = Inputs::read(&config.guest).unwrap();
    let repeat = |count| (0..count).for_each(|_| drop(boot(&config, &inputs)));
    // What is made once is made.
    repeat(4);
    let before = settled();
    repeat(12);
    let after = settled();
    assert_eq!(after[..2], before[..2], "descriptors, threads");
    // The memory of one guest is 64 MiB. The heap takes some time to settle, and the C library keeps the stacks of some ended
    // threads, 2 MiB of address space each.
    let [space, memory] = [2, 3].map(|of| after[of].saturating_sub(before[of]));
    assert!(space < 8 << 10 && memory < 2 << 10, "KiB: {before:?}, {after:?}");
}

#[test]
fn nothing_leaks_whatever_fails() {
    const NAME: &str = "nothing_leaks_whatever_fails";
    if let Ok(kind) = std::env::var(LEAK_VARIABLE) {
        return hold_no_more(&kind);
    }
    if !emulator() {
        return;
    }
    let bench = bench();
    let mut jobs = Vec::new();
    for (at, kind) in KINDS.iter().enumerate() {
        jobs.extend(calls(&bench, kind, at).into_keys().map(|name| (kind, name)));
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            scope.spawn(|| {
                while let Some((kind, call)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let errnos = ERRNOS.iter().find(|(name, _)| name == call).unwrap().1;
                    let fail = format!("{call}#*={}", errnos[0]);
                    let profile = bench.path("odd-tsc.toml");
                    let profile = match kind.profile {
                        "{odd-tsc}" => profile.to_str().unwrap(),
                        name => name,
                    };
                    emulated_with(
                        profile,
                        NAME,
                        &[(LEAK_VARIABLE, kind.name), ("SOFTKVM_FAIL", &fail)],
                    );
                }
            });
        }
    });
}

/// Limits of the process, set for real.
#[test]
fn limits_of_the_process_are_named() {
    if !emulator() {
        return;
    }
    let bench = bench();
    for (limit, said) in [("-v 700000", "(ulimit -v)"), ("-n 6", "(ulimit -n)")] {
        let command = format!(
            "ulimit {limit} && exec {} --plain --kernel guest.elf --memory 1G --emulate --timeout 5",
            env!("CARGO_BIN_EXE_cvmm")
        );
        let output = Command::new("sh")
            .args(["-c", &command])
            .current_dir(bench.path("."))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = common::stderr(&output);
        assert_eq!(output.status.code(), Some(ExitCode::Io as i32), "{text}");
        let cure = text.lines().find(|line| line.starts_with("try:")).unwrap_or_default();
        assert!(cure.contains(said), "{text}");
    }
}

/// Calls that only a kernel in a TD brings about: when it programs the interrupt controller, and when its quote is there.
#[test]
fn calls_for_interrupts_of_a_td_say_what_they_were_about() {
    const NAME: &str = "calls_for_interrupts_of_a_td_say_what_they_were_about";
    if cvmm::emulate::profile_in_use().is_none() {
        if emulator() {
            let fail =
                "KVM_SET_GSI_ROUTING#1=EINVAL;KVM_SET_GSI_ROUTING#2=ENOMEM;KVM_SIGNAL_MSI#1=EINVAL";
            emulated_with("xeon-spr", NAME, &[("SOFTKVM_FAIL", fail)]);
        }
        return;
    }
    let mut recorder = Recorder::new(Started::now(), false);
    let system = System::open(&mut recorder).unwrap();
    assert!(system.check(&mut recorder, Capability::SPLIT_IRQCHIP).unwrap() > 0);
    let vm = system.create_vm(&mut recorder, 0).unwrap();
    vm.split_irqchip(&mut recorder, 24).unwrap();
    let msi = Msi { address: 0xfee0_0000, data: 0x30 };
    let complaints = [
        vm.route(&[(4, msi), (9, msi)]).unwrap_err(),
        vm.route(&[(4, msi)]).unwrap_err(),
        vm.signal(msi).unwrap_err(),
    ]
    .map(|error| error.complaint().to_string());
    vm.route(&[(4, msi)]).unwrap();
    snapshot("failures-interrupts.txt", &(complaints.join("\n\n") + "\n"));
}
