//! A host that cheats on a TD: what it changes in memory, in launch pages and in page states is refused, at the right place
//! and with the right words. On softkvm, through the monitor's own library: the plan is changed after it was made.

#![allow(clippy::unwrap_used)]

mod common;

use abi::shim::tdx::RESET_PAGE_GPA;
use abi::shim::{self, Termination as Code};
use common::hostile::{boot_as, emulated_on, flip_page, flip_staged, shim_says};
use cvmm::digest::tdx::mrtd;
use cvmm::error::{Error, ExitCode};
use cvmm::launch::Guest;
use cvmm::outcome::Outcome;
use cvmm::plan::{LaunchRegion, PageKind, Plan};
use cvmm::sys::vm::{Visibility, punch_private};

/// On the platform that such guests run on.
fn emulated(name: &str, test: impl FnOnce()) {
    emulated_on("xeon-spr", name, test);
}

fn boot(
    args: &[&str],
    change_plan: impl FnOnce(&mut Plan),
    change_guest: impl FnOnce(&mut Guest),
) -> Result<Outcome, Error> {
    boot_as("--tdx", args, change_plan, change_guest)
}

#[test]
fn an_honest_host_gets_a_td_to_the_kernel() {
    emulated("an_honest_host_gets_a_td_to_the_kernel", || {
        for cpus in ["1", "2"] {
            let args = ["--until", "kernel-entry", "--cpus", cpus];
            let outcome = boot(&args, |_| {}, |_| {}).unwrap();
            assert!(matches!(outcome, Outcome::MarkReached { .. }), "{cpus}: {outcome:?}");
        }
        let args = ["--until", "kernel-entry", "--load", "measured"];
        let outcome = boot(&args, |_| {}, |_| {}).unwrap();
        assert!(matches!(outcome, Outcome::MarkReached { .. }), "{outcome:?}");
    });
}

#[test]
fn a_flipped_bit_of_a_file_is_found_by_the_shim_of_a_td() {
    emulated("a_flipped_bit_of_a_file_is_found_by_the_shim_of_a_td", || {
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
fn a_flipped_bit_in_a_launch_page_is_another_mrtd() {
    emulated("a_flipped_bit_in_a_launch_page_is_another_mrtd", || {
        let mut expected = String::new();
        let note = |plan: &mut Plan| expected = mrtd(plan).to_string();
        boot(&["--until", "G0"], note, |_| {}).unwrap();
        let cases =
            [("reset", 0), ("page-table", 8), ("shim", 100), ("parameters", 0x18), ("acpi", 40)];
        for (tag, offset) in cases {
            let error = boot(&["--expect", &expected], |plan| flip_page(plan, tag, offset), |_| {})
                .unwrap_err();
            assert!(matches!(error, Error::Expect { .. }), "{tag}: {error}");
        }
        // The honest one is not refused.
        boot(&["--expect", &expected, "--until", "G0"], |_| {}, |_| {}).unwrap();
    });
}

#[test]
fn a_page_that_a_td_would_accept_twice_is_noticed() {
    emulated("a_page_that_a_td_would_accept_twice_is_noticed", || {
        // The host slips a launch page into RAM: it is there before the shim accepts it.
        let slip = |plan: &mut Plan| {
            plan.regions.push(LaunchRegion {
                gpa: 0x120_0000,
                kind: PageKind::Measured,
                bytes: vec![0; 4096],
                tag: "slipped",
            });
        };
        shim_says(boot(&[], slip, |_| {}).unwrap(), Code::DOUBLE_VALIDATION);
    });
}

#[test]
fn a_page_taken_from_a_td_is_its_end() {
    emulated("a_page_taken_from_a_td_is_its_end", || {
        let swap = |guest: &mut Guest| {
            punch_private(&guest.memory.private[0], shim::PARAMETER_GPA, 4096).unwrap()
        };
        let outcome = boot(&[], |_| {}, swap).unwrap();
        assert!(matches!(outcome, Outcome::TdDead { vcpu: 0 }), "{outcome:?}");
        assert_eq!(outcome.exit_code(), ExitCode::Crash);
        assert!(outcome.complaint().unwrap().cause.contains("not accepted"));
    });
}

#[test]
fn a_page_made_shared_behind_a_tds_back_is_not_repaired() {
    emulated("a_page_made_shared_behind_a_tds_back_is_not_repaired", || {
        for page in [0x120_0000, RESET_PAGE_GPA] {
            let unshare = |guest: &mut Guest| {
                guest.vm.set_visibility(page, 4096, Visibility::Shared).unwrap();
            };
            let outcome = boot(&[], |_| {}, unshare).unwrap();
            let Outcome::WrongKindOfAccess { gpa, private, .. } = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!((gpa, private), (page, true));
        }
    });
}

#[test]
fn a_refused_conversion_ends_a_td() {
    emulated("a_refused_conversion_ends_a_td", || {
        let mut kept = Vec::new();
        // Without the private halves the monitor refuses every conversion; the files stay open.
        let outcome =
            boot(&[], |_| {}, |guest| kept = std::mem::take(&mut guest.memory.private)).unwrap();
        shim_says(outcome, Code::MAP_GPA);
    });
}

#[test]
fn attributes_that_kvm_gives_nobody_are_refused_before_the_launch() {
    emulated("attributes_that_kvm_gives_nobody_are_refused_before_the_launch", || {
        let error = boot_as("--tdx=attributes=0x10000001", &[], |_| {}, |_| {}).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Host, "{error}");
        assert!(error.to_string().contains("DEBUG"), "{error}");
    });
}
