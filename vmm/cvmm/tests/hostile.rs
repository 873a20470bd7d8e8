//! A host that cheats: what it changes in memory, in launch pages and in page states is refused, at the right place and
//! with the right words. On softkvm, through the monitor's own library: the plan is changed after it was made.

#![allow(clippy::unwrap_used)]

mod common;

use abi::shim::{self, Termination as Code};
use common::Bench;
use common::hostile::{boot_as, emulated_on, flip_page, flip_staged, flip_staged_at, shim_says};
use cvmm::digest::snp::launch_digest;
use cvmm::error::{Error, ExitCode};
use cvmm::launch::Guest;
use cvmm::outcome::Outcome;
use cvmm::plan::{LaunchRegion, PageKind, Plan};
use cvmm::sys::vm::{Visibility, punch_private};

/// On the platform that such guests run on.
fn emulated(name: &str, test: impl FnOnce()) {
    emulated_on("epyc-milan", name, test);
}

fn boot(
    args: &[&str],
    change_plan: impl FnOnce(&mut Plan),
    change_guest: impl FnOnce(&mut Guest),
) -> Result<Outcome, Error> {
    boot_as("--snp", args, change_plan, change_guest)
}

/// The honest digest of the same guest.
fn honest_digest() -> String {
    let mut digest = String::new();
    let _ = boot(&["--until", "G0"], |plan| digest = launch_digest(plan).to_string(), |_| {});
    digest
}

#[test]
fn an_honest_host_gets_to_the_kernel() {
    emulated("an_honest_host_gets_to_the_kernel", || {
        let outcome = boot(&["--until", "kernel-entry"], |_| {}, |_| {}).unwrap();
        assert!(matches!(outcome, Outcome::MarkReached { .. }), "{outcome:?}");
    });
}

#[test]
fn a_flipped_bit_in_kernel_initrd_or_command_line_is_found_by_the_shim() {
    emulated("a_flipped_bit_in_kernel_initrd_or_command_line_is_found_by_the_shim", || {
        let cases = [
            ("kernel", Code::KERNEL_HASH),
            ("initrd", Code::INITRD_HASH),
            ("cmdline", Code::CMDLINE_HASH),
        ];
        for (tag, code) in cases {
            shim_says(boot(&[], |plan| flip_staged(plan, tag), |_| {}).unwrap(), code);
        }
    });
}

#[test]
fn a_flipped_bit_in_a_launch_page_is_another_digest() {
    emulated("a_flipped_bit_in_a_launch_page_is_another_digest", || {
        let expected = honest_digest();
        // Two entries of the page table, code in place, the second stage's hash.
        for (tag, offset) in [("boot", 0), ("boot", 0x80), ("boot", 0x210), ("boot", 0x341)] {
            let error = boot(&["--expect", &expected], |plan| flip_page(plan, tag, offset), |_| {})
                .unwrap_err();
            assert!(matches!(error, Error::Expect { .. }), "{tag}: {error}");
            assert_eq!(error.exit_code(), ExitCode::Measurement);
        }
        // The honest one is not refused.
        boot(&["--expect", &expected, "--until", "G0"], |_| {}, |_| {}).unwrap();
    });
}

#[test]
fn a_flipped_bit_in_the_second_stage_is_found_by_the_first() {
    emulated("a_flipped_bit_in_the_second_stage_is_found_by_the_first", || {
        let at = |gpa: u64| usize::try_from(gpa - shim::SHIM_CODE_GPA).unwrap();
        for offset in [
            0,
            at(shim::PARAMETER_GPA) - 1,
            at(shim::PARAMETER_GPA),
            at(shim::ACPI_GPA) + 9,
            at(shim::ACPI_GPA) + 0xfff,
        ] {
            let flip = |plan: &mut Plan| flip_staged_at(plan, "second-stage", offset);
            shim_says(boot(&[], flip, |_| {}).unwrap(), Code::SHIM_HASH);
        }
    });
}

#[test]
fn a_page_accepted_twice_is_noticed() {
    emulated("a_page_accepted_twice_is_noticed", || {
        // The host slips a launch page into RAM: it is validated before the shim accepts it.
        let slip = |plan: &mut Plan| {
            let gpa = 0x120_0000;
            plan.regions.push(LaunchRegion {
                gpa,
                kind: PageKind::Measured,
                bytes: vec![0; 4096],
                tag: "slipped",
            });
        };
        shim_says(boot(&[], slip, |_| {}).unwrap(), Code::DOUBLE_VALIDATION);
    });
}

#[test]
fn a_swapped_page_never_runs() {
    emulated("a_swapped_page_never_runs", || {
        // The host takes the parameter page away; the next access finds an unaccepted page.
        let swap = |guest: &mut Guest| {
            punch_private(&guest.memory.private[0], shim::PARAMETER_GPA, 4096).unwrap()
        };
        let outcome = boot(&[], |_| {}, swap).unwrap();
        assert_eq!(outcome.exit_code(), ExitCode::Crash, "{outcome:?}");
    });
}

#[test]
fn a_page_made_shared_behind_the_guests_back_is_not_repaired() {
    emulated("a_page_made_shared_behind_the_guests_back_is_not_repaired", || {
        let unshare = |guest: &mut Guest| {
            guest.vm.set_visibility(0x120_0000, 4096, Visibility::Shared).unwrap();
        };
        let outcome = boot(&[], |_| {}, unshare).unwrap();
        let Outcome::WrongKindOfAccess { gpa, private, .. } = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!((gpa, private), (0x120_0000, true));
    });
}

#[test]
fn a_refused_conversion_ends_the_guest() {
    emulated("a_refused_conversion_ends_the_guest", || {
        let mut kept = Vec::new();
        // Without the private halves the monitor refuses every conversion; the files stay open.
        let outcome =
            boot(&[], |_| {}, |guest| kept = std::mem::take(&mut guest.memory.private)).unwrap();
        shim_says(outcome, Code::PAGE_STATE_CHANGE);
    });
}

#[test]
fn a_cpuid_page_that_the_firmware_would_change_is_refused_row_by_row() {
    emulated("a_cpuid_page_that_the_firmware_would_change_is_refused_row_by_row", || {
        // TSC deadline mode, which belongs to the hypervisor: leaf 1, ECX bit 24.
        let change = |plan: &mut Plan| {
            let page = &mut plan.regions.iter_mut().find(|r| r.tag == "cpuid").unwrap().bytes;
            let row = page[16..].chunks_exact_mut(48).find(|row| row[..4] == [1, 0, 0, 0]).unwrap();
            row[32 + 3] |= 1;
        };
        let error = boot(&[], change, |_| {}).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Launch, "{error}");
        let complaint = error.complaint().to_string();
        assert!(
            complaint.contains("CPUID page") && complaint.contains("leaf 0x1.0x0 ecx"),
            "{complaint}"
        );
    });
}

#[test]
fn an_id_block_that_nobody_signed_is_refused_by_the_firmware() {
    emulated("an_id_block_that_nobody_signed_is_refused_by_the_firmware", || {
        let bench = Bench::new();
        let mut block = [0; 96];
        // Version 1, policy 0x30000.
        block[0x50] = 1;
        block[0x5a] = 3;
        let mut auth = [0; 4096];
        // ECDSA P-384 with SHA-384.
        auth[0] = 1;
        let (block, auth) = (bench.file("id", &block), bench.file("auth", &auth));
        let snp = format!("--snp=id-block={},id-auth={}", block.display(), auth.display());
        let error = boot_as(&snp, &[], |_| {}, |_| {}).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Launch, "{error}");
        let complaint = error.complaint().to_string();
        assert!(complaint.contains("LAUNCH_FINISH") && complaint.contains("BAD_"), "{complaint}");
    });
}

#[test]
fn a_policy_that_the_platform_does_not_allow_is_refused_at_the_start() {
    emulated("a_policy_that_the_platform_does_not_allow_is_refused_at_the_start", || {
        // Firmware ABI 1.255 at least.
        let error = boot_as("--snp=policy=0x301ff", &[], |_| {}, |_| {}).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Launch, "{error}");
        let complaint = error.complaint().to_string();
        assert!(
            complaint.contains("LAUNCH_START") && complaint.contains("POLICY_FAILURE"),
            "{complaint}"
        );
    });
}
