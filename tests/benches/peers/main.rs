//! cvmm beside its peers on this host's own `/dev/kvm`: the same tiny guest under cvmm, under QEMU's microvm, under alioth
//! where it is installed, and under a bare loop around KVM_RUN as the limit.
//!
//! `cargo bench -p cvmm-tests --bench peers [-- ROUNDS] [--json FILE] [--softkvm]`
//!
//! cvmm as a static program is a peer too, once it is built:
//! `cargo build --profile dist -p cvmm --target x86_64-unknown-linux-musl`
//!
//! The guest says by line ends on its console where it is, and they are timed where they come out of the monitor's standard
//! output, alike for all. Runs are interleaved; what is printed are medians and their ratios. `--softkvm` shows that the
//! benchmark works where there is no `/dev/kvm`; its figures mean nothing.

mod bare;
mod guest;
mod terminal;
#[path = "../../../vmm/cvmm/tests/common/test_guest.rs"]
mod test_guest;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

/// The guest's memory, in bytes; no allocator makes mappings of this size.
pub const GUEST_MEMORY: usize = 96 << 20;
/// The same, as the monitors want it.
const MEMORY: &str = "96M";
/// A run that takes longer is stuck; a signal ends any KVM_RUN.
const LIMIT: Duration = Duration::from_secs(30);
/// What Debian calls QEMU.
const QEMU: &str = "qemu-system-x86_64";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, image] = words.as_slice()
        && word == "bare"
    {
        return match bare::run(image == "reset") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bare loop: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(30_usize);
    let softkvm = words.iter().any(|word| word == "--softkvm");
    let file = words.iter().skip_while(|word| *word != "--json").nth(1);
    if let (false, Err(error)) = (softkvm, open_kvm()) {
        println!(
            "not run: /dev/kvm cannot be opened ({error}); --softkvm shows the benchmark at work"
        );
        return ExitCode::SUCCESS;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let peers = peers(dir.path(), softkvm);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); peers.len()];
    for _ in 0..rounds {
        for (peer, samples) in peers.iter().zip(&mut samples) {
            match measure((peer.command)()) {
                Ok(sample) => samples.push(sample),
                Err(problem) => println!("{}: {problem}", peer.name),
            }
        }
    }
    let rows: Vec<(&str, Sample)> =
        peers.iter().zip(&samples).filter_map(|(peer, s)| Some((peer.name, median(s)?))).collect();
    print(&rows, rounds);
    if !softkvm {
        judge(&rows);
    }
    if let Some(file) = file {
        let rows: Vec<_> = rows.iter().map(|(name, sample)| sample.json(name)).collect();
        let result = json!({ "schema": "cvmm-peers/1", "softkvm": softkvm, "rounds": rounds, "medians": rows });
        std::fs::write(file, format!("{result:#}\n")).expect("the result can be written");
    }
    ExitCode::SUCCESS
}

fn open_kvm() -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm")
}

/// A monitor with the guest.
struct Peer {
    name: &'static str,
    command: Box<dyn Fn() -> Command>,
}

const CVMM: &str = "cvmm";
const STATIC: &str = "cvmm, static";
const BARE: &str = "bare loop";
const MICROVM: &str = "QEMU microvm";
const ALIOTH: &str = "alioth";

fn peers(dir: &Path, softkvm: bool) -> Vec<Peer> {
    let release = cvmm_tests::build();
    let (flat, rom, elf) = (dir.join("guest.flat"), dir.join("guest.rom"), dir.join("guest.elf"));
    std::fs::write(&flat, guest::flat()).expect("a temporary file");
    std::fs::write(&rom, guest::rom()).expect("a temporary file");
    std::fs::write(&elf, test_guest::elf(guest::flat())).expect("a temporary file");
    let bare = |image: &'static str| {
        let exe = std::env::current_exe().expect("this program has a path");
        let preload = softkvm.then(|| release.join("libsoftkvm_preload.so"));
        move || {
            let mut command = Command::new(&exe);
            command
                .stdin(Stdio::null())
                .args(["bare", image])
                .envs(preload.iter().map(|path| ("LD_PRELOAD", path)));
            command
        }
    };
    let with_cvmm = |cvmm: PathBuf| {
        let (flat, elf) = (flat.clone(), elf.clone());
        move || {
            let mut command = Command::new(&cvmm);
            command.stdin(Stdio::null());
            // The guest takes the shim's place; something must be named as the kernel.
            command.args(["--plain", "--memory", MEMORY]).args(softkvm.then_some("--emulate"));
            command.arg("--shim").arg(&flat).arg("--kernel").arg(&elf);
            command
        }
    };
    let mut peers = vec![
        Peer { name: BARE, command: Box::new(bare("flat")) },
        Peer { name: "bare loop, from the reset vector", command: Box::new(bare("reset")) },
        Peer { name: CVMM, command: Box::new(with_cvmm(release.join("cvmm"))) },
    ];
    match static_cvmm(&release, softkvm) {
        Ok(program) => peers.push(Peer { name: STATIC, command: Box::new(with_cvmm(program)) }),
        Err(reason) => println!("{STATIC} is not run: {reason}"),
    }
    match qemu(softkvm) {
        Ok(version) => {
            println!("{version}");
            let rom = rom.clone();
            peers.push(Peer { name: MICROVM, command: Box::new(move || microvm(&rom)) });
        }
        Err(reason) => println!("{MICROVM} is not run: {reason}"),
    }
    match alioth(softkvm) {
        Ok((program, version)) => {
            println!("{version}");
            let with_alioth = move || aliothvm(&program, &rom);
            peers.push(Peer { name: ALIOTH, command: Box::new(with_alioth) });
        }
        Err(reason) => println!("{ALIOTH} is not run: {reason}"),
    }
    peers
}

/// cvmm as whoever starts many would build it.
fn static_cvmm(release: &Path, softkvm: bool) -> Result<PathBuf, String> {
    const TARGET: &str = "x86_64-unknown-linux-musl";
    if softkvm {
        return Err("softkvm is loaded by the C library's loader, which it has not".into());
    }
    let program = release.join("..").join(TARGET).join("dist/cvmm");
    program.exists().then_some(program).ok_or_else(|| {
        format!("to have it: rustup target add {TARGET}; cargo build --profile dist -p cvmm --target {TARGET}")
    })
}

/// The other Rust monitor that the registry has as a program: where it is, and its version.
fn alioth(softkvm: bool) -> Result<(PathBuf, String), String> {
    const INSTALL: &str = "cargo install alioth-cli --version 0.12.0 --root target/tools";
    if softkvm {
        return Err("only cvmm and the bare loop are run on softkvm here".into());
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/alioth");
    let program = if installed.exists() { installed } else { PathBuf::from("alioth") };
    let output = Command::new(&program)
        .arg("--version")
        .output()
        .map_err(|error| format!("{error}; to have it: {INSTALL}"))?;
    Ok((program, String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

/// A machine without anything that can be left out.
fn aliothvm(program: &Path, rom: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["-l", "off", "boot", "--cpu", "count=1", "--firmware"]).arg(rom);
    command.args(["--memory", &format!("size={MEMORY}")]);
    // It insists on a terminal to read from.
    command.stdin(terminal::open().expect("a terminal"));
    command
}

/// The least that QEMU can be asked for: no firmware, no device but COM1.
fn microvm(rom: &Path) -> Command {
    let mut command = Command::new(QEMU);
    command.stdin(Stdio::null());
    command.args(["-M", "microvm,accel=kvm,rtc=off,pit=off,pic=off,auto-kernel-cmdline=off"]);
    command.args(["-cpu", "host", "-m", MEMORY, "-nodefaults", "-no-user-config", "-no-reboot"]);
    command.args(["-display", "none", "-serial", "stdio", "-bios"]).arg(rom);
    command
}

/// QEMU's version, after an attempt to install it where it is missing.
fn qemu(softkvm: bool) -> Result<String, String> {
    if softkvm {
        return Err("only cvmm and the bare loop are run on softkvm here".into());
    }
    let version = || Command::new(QEMU).arg("--version").output();
    if version().is_err() {
        println!("installing qemu-system-x86");
        let _ = Command::new("apt-get")
            .args(["install", "-y", "--no-install-recommends", "qemu-system-x86"])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status();
    }
    let output = version()
        .map_err(|error| format!("{QEMU}: {error}; as root: apt-get install qemu-system-x86"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// What one run shows.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// From the start of the process to the guest's first port write, in microseconds.
    start: f64,
    /// One round trip of a port write, in microseconds.
    port: f64,
    /// One round trip of a read of memory that is not there, in microseconds.
    mmio: f64,
    /// The process's peak memory without the guest's, in KiB.
    own: f64,
}

impl Sample {
    fn json(&self, name: &str) -> serde_json::Value {
        json!({
            "name": name,
            "first_port_write_us": self.start,
            "port_write_us": self.port,
            "mmio_read_us": self.mmio,
            "own_memory_kib": self.own,
        })
    }
}

/// Runs a monitor until the guest halts, and ends it.
fn measure(mut command: Command) -> Result<Sample, String> {
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let id = child.id();
    let (done, watch) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if watch.recv_timeout(LIMIT).is_err() {
            let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
        }
    });
    let sample = observe(&mut child, begin);
    let _ = done.send(());
    let _ = guard.join();
    let _ = child.kill();
    let status = child.wait().map_err(|error| error.to_string())?;
    sample.ok_or_else(|| format!("the guest did not come to its end ({status})"))
}

fn observe(child: &mut Child, begin: Instant) -> Option<Sample> {
    let mut out = child.stdout.take()?;
    let mut ends = Vec::new();
    while ends.len() < 3 {
        let mut bytes = [0; 64];
        let count = out.read(&mut bytes).ok().filter(|count| *count > 0)?;
        let now = begin.elapsed().as_secs_f64() * 1e6;
        ends.extend(bytes[..count].iter().filter(|byte| **byte == b'\n').map(|_| now));
    }
    let [start, ports, mmios] = ends.try_into().ok()?;
    Some(Sample {
        start,
        port: (ports - start) / f64::from(guest::PORT_WRITES),
        mmio: (mmios - ports) / f64::from(guest::MMIO_READS),
        own: own_memory(child.id())?,
    })
}

/// Peak resident memory (VmHWM) less what is resident of the guest's memory, which is the one mapping of about its size.
fn own_memory(id: u32) -> Option<f64> {
    /// Holes below 1 MiB and what an allocator adds.
    const ABOUT_KIB: f64 = 1024.0;
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{id}/{name}")).ok();
    let kib = |line: &str, key: &str| {
        line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
    };
    let peak = read("status")?.lines().find_map(|line| kib(line, "VmHWM:"))?;
    let whole = GUEST_MEMORY as f64 / 1024.0;
    let (mut size, mut guest) = (0.0, None);
    for line in read("smaps")?.lines() {
        size = kib(line, "Size:").unwrap_or(size);
        if let Some(resident) = kib(line, "Rss:")
            && (size - whole).abs() <= ABOUT_KIB
        {
            assert!(guest.replace(resident).is_none(), "two mappings could be the guest's memory");
        }
    }
    Some(peak - guest?)
}

fn median(samples: &[Sample]) -> Option<Sample> {
    let pick = |value: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Sample {
        start: pick(|s| s.start)?,
        port: pick(|s| s.port)?,
        mmio: pick(|s| s.mmio)?,
        own: pick(|s| s.own)?,
    })
}

fn print(rows: &[(&str, Sample)], rounds: usize) {
    println!("\nmedians of {rounds} interleaved runs\n");
    println!(
        "{:34} {:>18} {:>12} {:>12} {:>12}",
        "", "first port write", "port write", "MMIO read", "own memory"
    );
    for (name, sample) in rows {
        println!(
            "{name:34} {:15.2} ms {:9.2} us {:9.2} us {:8.1} MiB",
            sample.start / 1e3,
            sample.port,
            sample.mmio,
            sample.own / 1024.0
        );
    }
    println!(
        "\nown memory: VmHWM less the resident part of the guest's memory, when the guest has halted"
    );
}

/// How cvmm compares, and whether that is what we aim at.
fn judge(rows: &[(&str, Sample)]) {
    let find = |name| rows.iter().find(|row| row.0 == name).map(|row| row.1);
    let Some((cvmm, bare)) = find(CVMM).zip(find(BARE)) else { return };
    let line = |what: &str, value: f64, met: bool, aim: &str| {
        println!("{what:58} {value:6.2}  {} ({aim})", if met { "met" } else { "MISSED" });
    };
    println!();
    if let Some(qemu) = find(MICROVM) {
        let faster = qemu.start / cvmm.start;
        line("first port write, QEMU microvm / cvmm", faster, faster >= 5.0, "at least 5");
    }
    for (what, ratio) in [
        ("port write, cvmm / bare loop", cvmm.port / bare.port),
        ("MMIO read, cvmm / bare loop", cvmm.mmio / bare.mmio),
    ] {
        line(what, ratio, ratio <= 1.15, "at most 1.15");
    }
    let own = cvmm.own / 1024.0;
    line("own memory of cvmm, MiB", own, own <= 10.0, "at most 10");
}
