//! Boot times beside QEMU's TCG: the same kernel and initramfs, in one run, interleaved.
//!
//! `cargo bench -p softkvm --bench boot [-- ROUNDS]`. Prints medians of wall time from process start
//! to guest-init's ready line, and the ratio to TCG.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A name, and what makes its command.
type Row = (&'static str, Box<dyn Fn() -> Command>);

const MARKER: &str = "cvmm-init: ready";

fn main() {
    let rounds = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(3_usize);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (kernel, initramfs) = (xtask(&root, "kernel", "6.12"), xtask(&root, "initramfs", "6.12"));
    let status = cargo(&root)
        .args(["build", "--release", "--quiet", "-p", "cvmm", "-p", "softkvm-preload"])
        .status();
    assert!(status.is_ok_and(|status| status.success()), "cvmm does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let cvmm = target.join("release/cvmm");

    let mut rows: Vec<Row> = Vec::new();
    for (name, flag) in
        [("softkvm, plain", "--plain"), ("softkvm, SNP", "--snp"), ("softkvm, TDX", "--tdx")]
    {
        let (cvmm, kernel, initramfs) = (cvmm.clone(), kernel.clone(), initramfs.clone());
        rows.push((
            name,
            Box::new(move || {
                let mut command = Command::new(&cvmm);
                command.args([flag, "--emulate", "--memory", "512M"]);
                command.arg("--kernel").arg(&kernel).arg("--initrd").arg(&initramfs);
                command
            }),
        ));
    }
    if Command::new("qemu-system-x86_64").arg("--version").output().is_ok() {
        rows.push((
            "QEMU TCG, plain",
            Box::new(move || {
                let mut command = Command::new("qemu-system-x86_64");
                command.args(["-accel", "tcg", "-machine", "q35", "-cpu", "EPYC", "-m", "512"]);
                command.args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
                command.arg("-kernel").arg(&kernel).arg("-initrd").arg(&initramfs);
                command.args(["-append", "console=ttyS0 panic=-1"]);
                command
            }),
        ));
    } else {
        println!("QEMU is missing (apt-get install qemu-system-x86): no comparison");
    }

    let mut times: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    for _ in 0..rounds {
        for (index, (name, command)) in rows.iter().enumerate() {
            match until_marker(command()) {
                Some(time) => times[index].push(time.as_secs_f64()),
                None => println!("{name}: the marker never came"),
            }
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    println!("Debian 6.12 cloud to {MARKER:?}, 1 vCPU, 512 MiB, median of {rounds}");
    for (index, (name, _)) in rows.iter().enumerate() {
        let ratio = medians
            .get(3)
            .map_or(String::new(), |tcg| format!("{:6.2} x TCG", medians[index] / tcg));
        println!("{name:18} {:7.2} s {ratio}", medians[index]);
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

/// Time until the marker stands on standard output.
fn until_marker(mut command: Command) -> Option<Duration> {
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let output = BufReader::new(child.stdout.take()?);
    let found = output
        .split(b'\n')
        .map_while(Result::ok)
        .any(|line| String::from_utf8_lossy(&line).contains(MARKER));
    let took = start.elapsed();
    let _ = child.kill();
    let _ = child.wait();
    found.then_some(took)
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
