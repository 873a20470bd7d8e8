//! The kernel's x86 selftests (Linux tools/testing/selftests/x86) as programs of a guest: what they look at, frame by frame, is
//! how the processor enters and leaves the kernel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Stage;
use super::linux::{self, Linux};
use super::row::{Outcome, Row};
use crate::run::capture;
use crate::{apt, initramfs, kernel};

/// Tests with a 64-bit program.
const WIDE: &[&str] = &[
    "check_initial_reg_state",
    "corrupt_xstate_header",
    "fsgsbase",
    "fsgsbase_restore",
    "ioperm",
    "iopl",
    "ldt_gdt",
    "mov_ss_trap",
    "ptrace_syscall",
    "sigaltstack",
    "sigreturn",
    "sigtrap_loop",
    "single_step_syscall",
    "syscall_arg_fault",
    "syscall_nt",
    "syscall_numbering",
    "sysret_rip",
    "sysret_ss_attrs",
    "test_mremap_vdso",
    "test_vsyscall",
];

/// Tests with a 32-bit program: the same kernel entered from compatibility mode. Those of virtual-8086 mode, which softkvm does
/// not model, are left out.
const NARROW: &[&str] = &[
    "check_initial_reg_state",
    "fsgsbase_restore",
    "ioperm",
    "iopl",
    "ldt_gdt",
    "mov_ss_trap",
    "ptrace_syscall",
    "sigaltstack",
    "sigreturn",
    "sigtrap_loop",
    "single_step_syscall",
    "syscall_arg_fault",
    "syscall_nt",
    "sysret_ss_attrs",
    "test_FCMOV",
    "test_FCOMI",
    "test_FISTTP",
    "test_mremap_vdso",
    "test_syscall_vdso",
    "unwind_vdso",
];

/// A guest that the programs run in.
struct Guest {
    name: &'static str,
    /// How cvmm is called.
    flags: [&'static str; 2],
    /// Linux has no 32-bit system calls in guests of SEV (arch/x86/mm/mem_encrypt_amd.c `sme_early_init`).
    narrow: bool,
}

const GUESTS: [Guest; 3] = [
    Guest { name: "plain-epyc", flags: ["--plain", "--emulate=epyc-milan"], narrow: true },
    Guest { name: "plain-xeon", flags: ["--plain", "--emulate=xeon-spr"], narrow: true },
    Guest { name: "snp", flags: ["--snp", "--emulate=epyc-milan"], narrow: false },
];

/// The kernel of the guests.
const KERNEL: &str = "6.12";

/// Builds the tests and boots every guest with them.
pub fn run(stage: &Stage) -> Result<Vec<Row>> {
    let linux = Linux::fetch()?;
    let dir = linux.tests("x86");
    eprintln!("building x86 selftests of Linux {}", linux.version);
    let programs = build(&dir)?;
    let kernel = kernel::fetch(KERNEL)?;
    let mut rows = Vec::new();
    for guest in GUESTS {
        let start = Instant::now();
        let programs = if guest.narrow { &programs[..] } else { &programs[..WIDE.len()] };
        let initramfs = initramfs::with_programs(&kernel, programs)?;
        let console = boot(stage, &kernel.bzimage, &initramfs, &guest.flags)?;
        let names = programs.iter().filter_map(|path| path.file_name()?.to_str());
        rows.extend(names.map(|program| {
            let (outcome, reason) = verdict(&console, program);
            let name = format!("x86-selftests/{}/{program}", guest.name);
            Row::new(&name, &linux.version, outcome, reason)
        }));
        eprintln!("    {}: {} s", guest.name, start.elapsed().as_secs());
    }
    Ok(rows)
}

/// Builds static programs; 32-bit ones as well, where the machine has (or can get) what that takes.
fn build(dir: &Path) -> Result<Vec<PathBuf>> {
    let narrow = links_narrow(dir) || {
        let installed = apt::install(&["gcc-multilib"]);
        if let Err(error) = &installed {
            eprintln!("no 32-bit programs: {error:#}");
        }
        installed.is_ok() && links_narrow(dir)
    };
    let named = |names: &[&str], bits: u32| -> Vec<PathBuf> {
        names.iter().map(|name| dir.join(format!("{name}_{bits}"))).collect()
    };
    let mut programs = named(WIDE, 64);
    if narrow {
        programs.extend(named(NARROW, 32));
    }
    let names: Vec<String> = programs.iter().map(|path| path.display().to_string()).collect();
    let mut arguments = vec!["CC=gcc -static -s"];
    arguments.extend(names.iter().map(String::as_str));
    linux::make(dir, &arguments)?;
    Ok(programs)
}

/// Whether the compiler makes 32-bit programs.
fn links_narrow(dir: &Path) -> bool {
    let program = dir.join("trivial_32bit_program");
    let source = dir.join("trivial_32bit_program.c");
    capture(Command::new("gcc").args(["-m32", "-static", "-o"]).args([program, source])).is_ok()
}

/// What a guest with the programs writes to its console.
fn boot(stage: &Stage, bzimage: &Path, initramfs: &Path, flags: &[&str]) -> Result<String> {
    let limit = stage.limit(Duration::from_secs(420)).as_secs().max(1);
    let output = Command::new(stage.tools.join("cvmm"))
        .args(flags)
        .arg("--kernel")
        .arg(bzimage)
        .arg("--initrd")
        .arg(initramfs)
        .args(["--memory", "512M", "--cpus", "2", "--timeout", &limit.to_string()])
        .args(["--cmdline", "console=ttyS0 panic=-1 quiet"])
        .stdin(std::process::Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).replace('\r', ""))
}

/// What the console says of one program.
fn verdict(console: &str, name: &str) -> (Outcome, String) {
    let begin = format!("cvmm-init: $ /run/{name}\n");
    let parts = console.split_once(begin.as_str());
    let Some((said, end)) = parts.and_then(|(_, rest)| rest.split_once("cvmm-init: $ ended, "))
    else {
        return (Outcome::Failed, "the guest did not get to its end".to_owned());
    };
    match end.lines().next().unwrap_or_default() {
        "exit code 0" if said.contains("[SKIP]") && !said.contains("[OK]") => {
            (Outcome::Skipped, line(said, "[SKIP]"))
        }
        "exit code 0" => (Outcome::Passed, String::new()),
        "exit code 4" => (Outcome::Skipped, line(said, "SKIP")),
        status => (Outcome::Failed, format!("{status}: {}\n{said}", line(said, "[FAIL]"))),
    }
}

/// The first line with a word, without it.
fn line(text: &str, word: &str) -> String {
    let line = text.lines().find_map(|line| line.split_once(word));
    line.map_or_else(String::new, |(_, rest)| {
        rest.trim_matches(|c: char| c.is_whitespace() || matches!(c, ']' | ':' | '-')).to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "cvmm-init: $ /run/a_64\n[RUN]\tx\n[OK]\ty\ncvmm-init: $ ended, exit code 0\n\
                           cvmm-init: $ /run/b_64\n[FAIL]\tno good\ncvmm-init: $ ended, exit code 1\n\
                           cvmm-init: $ /run/c_64\n[SKIP]\tno LDT\ncvmm-init: $ ended, exit code 0\n\
                           cvmm-init: $ /run/d_64\n";

    #[test]
    fn the_console_tells_how_each_program_ended() {
        assert_eq!(verdict(CONSOLE, "a_64").0, Outcome::Passed);
        assert_eq!(verdict(CONSOLE, "c_64"), (Outcome::Skipped, "no LDT".to_owned()));
        let (outcome, reason) = verdict(CONSOLE, "b_64");
        assert_eq!(outcome, Outcome::Failed);
        assert!(reason.starts_with("exit code 1: no good\n"), "{reason}");
        assert_eq!(verdict(CONSOLE, "d_64").0, Outcome::Failed);
    }
}
