//! Boot times beside QEMU's TCG: the same kernels and initramfs, in one run, interleaved; and where softkvm's time goes.
//!
//! `cargo bench -p softkvm --bench boot [-- ROUNDS] [--json FILE]`. Wall time from process start to guest-init's ready line,
//! peak resident memory, and by phase of the boot the wall time that it took (medians). The micro kernel takes part
//! where `cargo xtask kernel micro` has built it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

const MARKER: &str = "cvmm-init: ready";
const FLAGS: [(&str, &str); 3] = [("plain", "--plain"), ("SNP", "--snp"), ("TDX", "--tdx")];
const MEMORY_MIB: u64 = 512;
/// Phases that take a software machine time, and what they are.
const PHASES: [(&str, &str); 5] = [
    ("H", "process, files, VM"),
    ("G2", "accept memory"),
    ("G4", "copy and verify"),
    ("K", "kernel"),
    ("U0", "user space"),
];

/// One command that is timed.
struct Row {
    kernel: &'static str,
    machine: String,
    command: Box<dyn Fn(&Path) -> Command>,
    runs: Vec<Measured>,
}

/// One boot.
struct Measured {
    seconds: f64,
    peak_mib: f64,
    /// Seconds by phase, in the order of [`PHASES`]; empty where nobody says.
    phases: Vec<f64>,
}

fn main() {
    let mut rounds = 3;
    let mut json_file = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json_file = words.next().map(PathBuf::from),
            _ => rounds = word.parse().unwrap_or(rounds),
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let status = cargo(&root)
        .args(["build", "--release", "--quiet", "-p", "cvmm", "-p", "softkvm-preload"])
        .status();
    assert!(status.is_ok_and(|status| status.success()), "cvmm does not build");
    let mut rows = self::rows(&root, &target, "6.12");
    if target.join("kernels/micro/ready").exists() {
        rows.extend(self::rows(&root, &target, "micro"));
    } else {
        println!("the micro kernel is not built (cargo xtask kernel micro): left out");
    }

    let scratch = tempfile::tempdir().expect("a temporary directory");
    let report = scratch.path().join("report.json");
    for _ in 0..rounds {
        for row in &mut rows {
            let _ = std::fs::remove_file(&report);
            match until_marker((row.command)(&report), &report) {
                Some(run) => row.runs.push(run),
                None => println!("{} {}: the marker never came", row.kernel, row.machine),
            }
        }
    }
    print(&rows, rounds);
    if let Some(file) = json_file {
        let value: Vec<Value> = rows.iter().map(Row::json).collect();
        std::fs::write(&file, format!("{:#}\n", Value::from(value))).expect("a writable file");
    }
}

fn rows(root: &Path, target: &Path, name: &'static str) -> Vec<Row> {
    let (kernel, initramfs) = (xtask(root, "kernel", name), xtask(root, "initramfs", name));
    let cvmm = target.join("release/cvmm");
    let mut rows = Vec::new();
    for (machine, flag) in FLAGS {
        let (cvmm, kernel, initramfs) = (cvmm.clone(), kernel.clone(), initramfs.clone());
        let command = move |report: &Path| {
            let mut command = Command::new(&cvmm);
            command.args([flag, "--emulate", "--memory", &format!("{MEMORY_MIB}M")]);
            command.arg("--kernel").arg(&kernel).arg("--initrd").arg(&initramfs);
            command.arg("--report").arg(report);
            command
        };
        let machine = format!("softkvm, {machine}");
        rows.push(Row { kernel: name, machine, command: Box::new(command), runs: Vec::new() });
    }
    if Command::new("qemu-system-x86_64").arg("--version").output().is_ok() {
        let command = move |_: &Path| {
            let mut command = Command::new("qemu-system-x86_64");
            command.args(["-accel", "tcg", "-machine", "q35", "-cpu", "EPYC", "-m", "512"]);
            command.args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
            command.arg("-kernel").arg(&kernel).arg("-initrd").arg(&initramfs);
            command.args(["-append", "console=ttyS0 panic=-1"]);
            command
        };
        let machine = "QEMU TCG, plain".to_owned();
        rows.push(Row { kernel: name, machine, command: Box::new(command), runs: Vec::new() });
    } else {
        println!("QEMU is missing (apt-get install qemu-system-x86): no comparison");
    }
    rows
}

fn print(rows: &[Row], rounds: usize) {
    println!("to {MARKER:?}, 1 vCPU, {MEMORY_MIB} MiB, medians of {rounds}; seconds of wall time");
    print!("{:8} {:16} {:>7} {:>6} {:>10}", "kernel", "machine", "total", "x TCG", "peak MiB");
    PHASES.iter().for_each(|(_, what)| print!(" {what:>18}"));
    println!();
    for row in rows {
        let tcg = rows.iter().find(|r| r.kernel == row.kernel && r.machine.starts_with("QEMU"));
        let total = row.median(|run| run.seconds);
        let ratio = tcg.map_or(f64::NAN, |tcg| total / tcg.median(|run| run.seconds));
        print!("{:8} {:16} {total:7.2} {ratio:6.2}", row.kernel, row.machine);
        print!(" {:10.0}", row.median(|run| run.peak_mib));
        for phase in row.phases() {
            print!(" {phase:18.2}");
        }
        println!();
    }
}

impl Row {
    fn median(&self, of: impl Fn(&Measured) -> f64) -> f64 {
        let mut values: Vec<f64> = self.runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn phases(&self) -> Vec<f64> {
        let known = self.runs.iter().all(|run| run.phases.len() == PHASES.len());
        let count = if known { PHASES.len() } else { 0 };
        (0..count).map(|at| self.median(|run| run.phases[at])).collect()
    }

    fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "machine": self.machine,
            "wall_seconds": self.runs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
            "peak_mib": self.runs.iter().map(|run| run.peak_mib).collect::<Vec<_>>(),
            "phases": PHASES.iter().map(|(id, _)| *id).zip(self.phases()).collect::<Vec<_>>(),
        })
    }
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Asks xtask for a file; the first line it prints is the path.
fn xtask(root: &Path, verb: &str, kernel: &str) -> PathBuf {
    let output = cargo(root)
        .args(["xtask", verb, kernel])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo xtask {verb} {kernel} failed");
    let text = String::from_utf8_lossy(&output.stdout);
    PathBuf::from(text.lines().next().unwrap_or_default())
}

/// Boots until the marker stands on standard output.
fn until_marker(mut command: Command, report: &Path) -> Option<Measured> {
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let output = BufReader::new(child.stdout.take()?);
    let found = output
        .split(b'\n')
        .map_while(Result::ok)
        .any(|line| String::from_utf8_lossy(&line).contains(MARKER));
    let seconds = start.elapsed().as_secs_f64();
    let peak_mib = peak(&status).unwrap_or(f64::NAN);
    // The guest powers off, and cvmm then writes its report; QEMU has none to wait for.
    if !command.get_args().any(|word| word == "--report") {
        let _ = child.kill();
    }
    let _ = child.wait();
    found.then(|| Measured { seconds, peak_mib, phases: phases(report).unwrap_or_default() })
}

/// VmHWM of a live process, in MiB.
fn peak(status: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? / 1024.0)
}

fn phases(report: &Path) -> Option<Vec<f64>> {
    let report: Value = serde_json::from_slice(&std::fs::read(report).ok()?).ok()?;
    let rows = report["phases"].as_array()?;
    let seconds = |prefix: &str| {
        let of_phase =
            rows.iter().filter(|row| row["id"].as_str().is_some_and(|id| id.starts_with(prefix)));
        of_phase.filter_map(|row| row["wall_ns"].as_f64()).sum::<f64>() / 1e9
    };
    Some(PHASES.iter().map(|(id, _)| seconds(id)).collect())
}
