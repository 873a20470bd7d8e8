//! The machine with SVM: QEMU's interpreter running a Debian kernel with kvm_amd, and cvmm in its initramfs.
//!
//! The guests' consoles come out of the first serial port and the reports out of the second.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Seen;
use super::guests::{Guest, Guests};
use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::run::{capture, target};
use crate::{images, initramfs};

/// The program, and Debian's package of it.
pub const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// A processor with SVM and nested paging. XSAVE and what needs it are hidden: QEMU does not intercept XSETBV for a
/// hypervisor, so KVM's CPUID leaf 0xD would not follow its guest's XCR0, and Linux takes the leaf for broken.
pub const CPU: &str = "EPYC,+svm,+npt,-xsave,-avx,-avx2,-fma,-f16c,-pku";

/// With `lpj` the kernel calibrates no delay loop against a timer tick, which a busy host may keep from it for ever.
const CMDLINE: &str = "console=ttyS0 panic=-1 quiet loglevel=0 lpj=10000000";

/// What the guests need of the machine's kernel.
const MODULES: [&str; 2] = ["kvm", "kvm_amd"];

/// The second serial port, as cvmm finds it there.
const REPORTS: &str = "/dev/ttyS1";

/// The words in front of those of a guest.
pub fn cvmm_words() -> Vec<String> {
    ["--plain", "--timeout", "900", "--report", REPORTS].map(str::to_owned).to_vec()
}

/// Boots the machine, runs every guest on its KVM and returns what came out, in order.
pub fn run(kernel: &Kernel, guests: &Guests, cvmm: &Path, end: Instant) -> Result<Vec<Seen>> {
    let dir = target().join("nested");
    let initrd = dir.join("machine.cpio");
    fs::write(&initrd, archive(kernel, guests, cvmm)?)?;
    let (console, reports) = (dir.join("console"), dir.join("reports"));
    let mut qemu = Command::new(QEMU.0);
    qemu.args(["-machine", "q35", "-accel", "tcg", "-cpu", CPU, "-m", "2G", "-smp", "1"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&kernel.bzimage)
        .arg("-initrd")
        .arg(&initrd)
        .args(["-append", CMDLINE]);
    for file in [&console, &reports] {
        let _ = fs::remove_file(file);
        qemu.arg("-serial").arg(format!("file:{}", file.display()));
    }
    let log = fs::File::create(dir.join("qemu.log"))?;
    qemu.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    wait(&mut qemu, end).with_context(|| format!("see the files in {}", dir.display()))?;
    let text = |file: &PathBuf| -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(file)?).replace('\r', ""))
    };
    collect(&text(&console)?, &text(&reports)?, &guests.list)
        .with_context(|| format!("see the files in {}", dir.display()))
}

/// Runs to the end; kills it at the time limit.
fn wait(command: &mut Command, end: Instant) -> Result<()> {
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("{command:?} failed: {status}"),
            None if Instant::now() >= end => {
                child.kill()?;
                child.wait()?;
                bail!("the time limit is over");
            }
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// The machine's initramfs: guest-init, the modules of KVM, cvmm with its libraries, and the guests' files.
fn archive(kernel: &Kernel, guests: &Guests, cvmm: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let modules = kernel.modules.as_ref().context("the kernel came without modules")?;
    let modules = initramfs::load_order(modules, &MODULES)?;
    let mut files = vec![
        ("init".to_owned(), fs::read(images::guest_init()?)?),
        ("bin/cvmm".to_owned(), fs::read(cvmm)?),
        ("modules/order".to_owned(), lines(modules.iter().map(|(name, _)| format!("{name}.ko")))),
        ("commands".to_owned(), lines(guests.list.iter().map(command))),
    ];
    for (name, bytes) in modules {
        files.push((format!("modules/{name}.ko"), bytes));
    }
    for library in libraries(cvmm)? {
        files.push((library.trim_start_matches('/').to_owned(), fs::read(&library)?));
    }
    for (name, path) in guests.files()? {
        files.push((name, fs::read(path)?));
    }
    let mut directories: BTreeSet<&Path> = ["dev", "proc", "sys"].map(Path::new).into();
    let parents = files.iter().flat_map(|(name, _)| Path::new(name).ancestors().skip(1));
    directories.extend(parents.filter(|parent| !parent.as_os_str().is_empty()));
    // In this order parents come before what is in them.
    for directory in directories {
        archive.directory(&directory.to_string_lossy());
    }
    archive.device("dev/console", 5, 1);
    for (name, bytes) in &files {
        archive.file(name, 0o755, bytes);
    }
    Ok(archive.finish())
}

fn command(guest: &Guest) -> String {
    [&["/bin/cvmm".to_owned()][..], &cvmm_words(), &guest.words].concat().join(" ")
}

fn lines(lines: impl Iterator<Item = String>) -> Vec<u8> {
    lines.flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

/// The shared libraries of a program and its loader, as `ldd` finds them.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let text = capture(Command::new("ldd").arg(program))?;
    // "NAME => PATH (ADDRESS)", or "PATH (ADDRESS)" of the loader.
    let path =
        |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    Ok(String::from_utf8_lossy(&text).lines().filter_map(path).collect())
}

/// Takes consoles and reports apart; guest-init says where a command begins and how it ended.
fn collect(console: &str, reports: &str, guests: &[Guest]) -> Result<Vec<Seen>> {
    let reports: Vec<Value> = serde_json::Deserializer::from_str(reports)
        .into_iter()
        .collect::<Result<_, _>>()
        .context("a report did not come out intact")?;
    let mut consoles = console.split("cvmm-init: $ /bin/cvmm ").skip(1);
    let mut all = Vec::new();
    for guest in guests {
        let part = consoles.next().with_context(|| format!("{}: it was not run", guest.name))?;
        let (_, part) = part.split_once('\n').context("half a console")?;
        let (console, status) = part
            .rsplit_once("cvmm-init: $ ")
            .with_context(|| format!("{}: it did not end", guest.name))?;
        if !status.starts_with("ended, exit code 0\n") {
            bail!("{}: {status}\n{console}", guest.name);
        }
        all.push(console.to_owned());
    }
    if reports.len() != all.len() {
        bail!("{} guests ran and {} reports came out", all.len(), reports.len());
    }
    Ok(all.into_iter().zip(reports).map(|(console, report)| Seen { console, report }).collect())
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
