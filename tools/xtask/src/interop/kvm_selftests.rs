//! The kernel's KVM selftests (Linux tools/testing/selftests/kvm): programs that call `/dev/kvm` directly, and their guests.

use std::arch::x86_64::__cpuid;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Stage;
use super::linux::{self, Linux};
use super::row::{Outcome, Row};

/// The part that a test runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// That of this machine's vendor: the tests ask the processor itself which one it is.
    Host,
    /// An AMD part.
    Amd,
    /// An Intel part: those with XSAVE.
    Intel,
}

/// Program, the part it runs on, and arguments.
type Test = (&'static str, On, &'static [&'static str]);

/// What is run. Tests of nested virtualisation, Hyper-V, Xen, performance counters, SMM, AMX and of the kernel's insides are left
/// out: docs/interop.md names them.
const TESTS: &[Test] = &[
    ("guest_memfd_test", On::Host, &[]),
    ("set_memory_region_test", On::Host, &["2"]),
    ("pre_fault_memory_test", On::Host, &[]),
    ("x86/private_mem_conversions_test", On::Host, &[]),
    ("x86/private_mem_kvm_exits_test", On::Host, &[]),
    ("x86/sev_init2_tests", On::Amd, &[]),
    ("x86/sev_smoke_test", On::Amd, &[]),
    ("x86/sev_dbg_test", On::Amd, &[]),
    ("x86/userspace_io_test", On::Host, &[]),
    ("x86/userspace_msr_exit_test", On::Host, &[]),
    ("x86/sync_regs_test", On::Host, &[]),
    ("x86/set_sregs_test", On::Host, &[]),
    ("x86/xapic_state_test", On::Host, &[]),
    ("x86/xapic_tpr_test", On::Host, &[]),
    ("x86/xapic_ipi_test", On::Host, &[]),
    ("x86/recalc_apic_map_test", On::Host, &[]),
    ("x86/apic_bus_clock_test", On::Host, &[]),
    ("x86/triple_fault_event_test", On::Host, &[]),
    ("kvm_binary_stats_test", On::Host, &[]),
    ("irqfd_test", On::Host, &[]),
    ("dirty_log_test", On::Host, &[]),
    ("dirty_log_perf_test", On::Host, &["-b", "64M"]),
    ("coalesced_io_test", On::Host, &[]),
    ("x86/fix_hypercall_test", On::Host, &[]),
    ("x86/cpuid_test", On::Host, &[]),
    ("x86/cr4_cpuid_sync_test", On::Intel, &[]),
    ("x86/xcr0_cpuid_test", On::Intel, &[]),
    ("x86/xss_msr_test", On::Intel, &[]),
    ("x86/state_test", On::Amd, &[]),
    ("x86/debug_regs", On::Host, &[]),
    ("x86/exit_on_emulation_failure_test", On::Host, &[]),
    ("x86/feature_msrs_test", On::Host, &[]),
    ("x86/hwcr_msr_test", On::Host, &[]),
    ("x86/msrs_test", On::Host, &[]),
    ("x86/platform_info_test", On::Host, &[]),
    ("x86/kvm_clock_test", On::Host, &[]),
    ("x86/kvm_pv_test", On::Host, &[]),
    ("x86/max_vcpuid_cap_test", On::Host, &[]),
    ("x86/monitor_mwait_test", On::Host, &[]),
    ("x86/set_boot_cpu_id", On::Host, &[]),
    ("x86/tsc_msrs_test", On::Host, &[]),
    ("x86/tsc_scaling_sync", On::Host, &[]),
    ("guest_print_test", On::Host, &[]),
    ("kvm_create_max_vcpus", On::Host, &[]),
    ("kvm_page_table_test", On::Host, &[]),
    ("demand_paging_test", On::Host, &[]),
    ("memslot_modification_stress_test", On::Host, &[]),
    ("memslot_perf_test", On::Host, &["-l", "1"]),
    ("steal_time", On::Host, &[]),
    ("system_counter_offset_test", On::Host, &[]),
];

/// The longest that one test may take.
const LIMIT: Duration = Duration::from_secs(180);

/// Exit status of a test that does not apply (tools/testing/selftests/kselftest.h).
const SKIP: i32 = 4;

/// Builds the tests and runs them one after the other.
pub fn run(stage: &Stage) -> Result<Vec<Row>> {
    let linux = Linux::fetch()?;
    let dir = linux.tests("kvm");
    eprintln!("building KVM selftests of Linux {}", linux.version);
    let programs: Vec<String> =
        TESTS.iter().map(|(name, ..)| dir.join(name).display().to_string()).collect();
    // Their guests are compiled for more than the EPYC profiles offer, if they are not told otherwise.
    let mut arguments = vec!["TARGET_ARCH=-march=x86-64"];
    arguments.extend(programs.iter().map(String::as_str));
    linux::make(&dir, &arguments)?;
    TESTS.iter().map(|test| run_one(stage, &linux, &dir, test)).collect()
}

fn run_one(stage: &Stage, linux: &Linux, dir: &Path, test: &Test) -> Result<Row> {
    let &(path, on, arguments) = test;
    let name = path.rsplit('/').next().unwrap_or(path);
    if let Some(why) = asks_the_host(name) {
        let name = format!("kvm-selftests/{name}");
        return Ok(Row::new(&name, &linux.version, Outcome::Skipped, why));
    }
    let start = Instant::now();
    let mut child = Command::new(stage.tools.join("softkvm"))
        .args(["run", "--profile", profile(on)?, "--"])
        .arg(dir.join(path))
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start softkvm")?;
    let readers = [
        child.stdout.take().map(|pipe| collect(Box::new(pipe))),
        child.stderr.take().map(|pipe| collect(Box::new(pipe))),
    ];
    let limit = stage.limit(LIMIT);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status.code();
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text: Vec<String> =
        readers.into_iter().flatten().filter_map(|reader| reader.join().ok()).collect();
    let late = start.elapsed() > limit;
    let (outcome, reason) = verdict(status, late, &text.join("\n"));
    eprintln!("    {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(Row::new(&format!("kvm-selftests/{name}"), &linux.version, outcome, reason))
}

/// Why a test cannot run here: it learns from the host itself, not by `/dev/kvm`, what the modelled part has otherwise.
fn asks_the_host(name: &str) -> Option<String> {
    /// Position of the C-bit of the EPYC profiles; their SMT is on.
    const C_BIT: u32 = 51;
    const SEV: u32 = 0x8000_001f;
    const SMT: &str = "/sys/devices/system/cpu/smt/control";
    if name != "sev_smoke_test" {
        return None;
    }
    let shown = __cpuid(0x8000_0000).eax >= SEV;
    let c_bit = if shown { __cpuid(SEV).ebx & 0x3f } else { 0 };
    if c_bit != C_BIT {
        return Some(format!("takes the C-bit from this processor's CPUID: {c_bit}"));
    }
    let smt = fs::read_to_string(SMT).unwrap_or_default();
    (smt.trim() != "on").then(|| "takes its policy from this host's SMT, which is off".to_owned())
}

fn collect(mut pipe: Box<dyn Read + Send>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The profile's name.
fn profile(on: On) -> Result<&'static str> {
    const NAMES: [&str; 2] = ["epyc-milan", "xeon-spr"];
    let intel = match on {
        On::Amd => false,
        On::Intel => true,
        On::Host => fs::read_to_string("/proc/cpuinfo")?.contains("GenuineIntel"),
    };
    Ok(NAMES[usize::from(intel)])
}

/// What a test's end means, and why.
fn verdict(status: Option<i32>, late: bool, text: &str) -> (Outcome, String) {
    match status {
        Some(0) => (Outcome::Passed, String::new()),
        Some(SKIP) => {
            const MARK: &str = "# SKIP - ";
            let why = text.lines().find_map(|line| line.split_once(MARK));
            let why = why.map_or("it does not apply", |(_, why)| why.trim());
            (Outcome::Skipped, why.trim_start_matches("Requirement not met: ").to_owned())
        }
        None if late => (Outcome::Failed, "takes too long".to_owned()),
        None => (Outcome::Failed, format!("killed\n{text}")),
        Some(code) => (Outcome::Failed, format!("{}\n{text}", complaint(text, code))),
    }
}

/// The assertion that failed, in one line, and what the test says about it.
fn complaint(text: &str, code: i32) -> String {
    const HEAD: &str = "==== Test Assertion Failure ====";
    let mut lines = text.lines().skip_while(|line| !line.starts_with(HEAD)).skip(1);
    let Some(assertion) = lines.next() else { return format!("exit status {code}") };
    // The call trace begins with numbers.
    let words = lines.find(|line| {
        let line = line.trim_start();
        !line.starts_with("pid=") && !line.starts_with(|c: char| c.is_ascii_digit() || c == '(')
    });
    format!("{}: {}", assertion.trim(), words.unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_does_not_apply_says_why() {
        let text = "TAP version 13\n1..0 # SKIP - Requirement not met: have_sev\n";
        assert_eq!(verdict(Some(4), false, text), (Outcome::Skipped, "have_sev".to_owned()));
    }

    #[test]
    fn a_failed_assertion_is_found_before_its_trace() {
        let text = "Random seed: 1\n==== Test Assertion Failure ====\n  irqfd_test.c:115: r\n  \
                    pid=1 tid=1 errno=16 - busy\n     1\t0x40: main at irqfd_test.c:115\n     2\t \
                    (inlined by) x\n  Wanted EBUSY, r = 0\n";
        let (outcome, reason) = verdict(Some(254), false, text);
        assert_eq!(outcome, Outcome::Failed);
        assert!(reason.starts_with("irqfd_test.c:115: r: Wanted EBUSY, r = 0\n"), "{reason}");
    }

    #[test]
    fn whoever_takes_too_long_has_failed() {
        assert_eq!(verdict(None, true, "").0, Outcome::Failed);
    }
}
