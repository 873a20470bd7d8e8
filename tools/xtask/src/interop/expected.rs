//! What is known to fail on softkvm, and why. Everything else must pass.

use super::row::{Outcome, Row};

/// Row, what its reason must say, and the reason that is ours.
const EXPECTED: [(&str, &str, &str); 5] = [
    (
        "x86-selftests/plain-epyc/test_FISTTP_32",
        "Got signal 4",
        "the EPYC profiles hide SSE3, and FISTTP belongs to it",
    ),
    (
        "x86-selftests/snp/iopl_64",
        "outb to 0x80 failed",
        "Linux's #VC handler knows I/O bitmaps, but not an IOPL (vc_ioio_check)",
    ),
    ("x86-selftests/snp/ldt_gdt_64", "signal 11", NO_INT80),
    ("x86-selftests/snp/ptrace_syscall_64", "signal 11", NO_INT80),
    ("x86-selftests/snp/single_step_syscall_64", "signal 11", NO_INT80),
];

const NO_INT80: &str = "uses INT 80h: Linux has no 32-bit system calls in guests of SEV";

/// Turns a failure that is listed into an expected one, and a listed one that did not fail into a failure.
pub fn judge(row: &mut Row) {
    let Some((_, says, why)) = EXPECTED.iter().find(|(name, ..)| *name == row.name) else {
        return;
    };
    match row.outcome {
        Outcome::Failed if row.reason.contains(says) => {
            row.outcome = Outcome::Expected;
            row.reason = (*why).to_owned();
        }
        Outcome::Passed => {
            row.outcome = Outcome::Failed;
            row.reason =
                "passes, but is listed as expected to fail: take it off the list".to_owned();
        }
        _ => {}
    }
}
