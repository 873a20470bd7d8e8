//! What the tests of a cheating host share: on softkvm, through the monitor's own library, a guest whose plan is changed
//! after it was made.

use std::process::Command;

use abi::shim::{self, Termination as Code};
use clap::Parser;
use cvmm::cli::Cli;
use cvmm::config::Config;
use cvmm::device::output::Sink;
use cvmm::error::{Error, ExitCode};
use cvmm::launch::{Guest, Planning, launch, probe};
use cvmm::outcome::Outcome;
use cvmm::plan::{Inputs, Plan};
use cvmm::recorder::{Recorder, Started};
use cvmm::run::run;
use cvmm::sys::system::System;
use cvmm::termination::Termination;

use super::Bench;

/// Runs `test` in a process with softkvm loaded: itself, again.
pub fn emulated_on(profile: &str, name: &str, test: impl FnOnce()) {
    if cvmm::emulate::profile_in_use().is_some() {
        return test();
    }
    let Ok(library) = cvmm::emulate::find_library() else {
        eprintln!("skipped: softkvm's library is not built (cargo build -p softkvm-preload)");
        return;
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", library)
        .env(cvmm::emulate::PROFILE_VARIABLE, profile)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Launches and runs the test guest; the host may change the plan before and the guest after the launch.
pub fn boot_as(
    technology: &str,
    args: &[&str],
    change_plan: impl FnOnce(&mut Plan),
    change_guest: impl FnOnce(&mut Guest),
) -> Result<Outcome, Error> {
    let bench = Bench::new();
    let kernel = bench.path("guest.elf");
    let initrd = bench.file("initrd", &[0x5a; 70_000]);
    let flags = [
        &["cvmm", technology, "--memory", "64M", "--timeout", "60", "--console", "none"][..],
        &["--kernel", kernel.to_str().unwrap(), "--initrd", initrd.to_str().unwrap()],
        args,
    ]
    .concat();
    let config = Config::parse(&Cli::try_parse_from(flags).unwrap().flags)?;
    let mut recorder = Recorder::new(Started::now(), false);
    let system = System::open(&mut recorder)?;
    let host = probe(&config, &system, &mut recorder)?;
    let inputs = Inputs::read(&config.guest)?;
    let mut plan = Plan::build(&config.guest, &inputs, config.cpus, &host)?;
    change_plan(&mut plan);
    let (mut guest, _) = launch(&config, Planning::ready(plan), &system, &mut recorder)?;
    change_guest(&mut guest);
    Ok(run(guest, &config, Sink::Nowhere, &mut recorder)?.outcome)
}

/// The shim ended the guest, with this code.
pub fn shim_says(outcome: Outcome, code: Code) {
    let Outcome::Terminated(found) = outcome else { panic!("{outcome:?} instead of {code:?}") };
    assert_eq!(
        found,
        Termination { set: shim::TERMINATION_SET, reason: code.0 },
        "{}",
        found.sentence()
    );
    assert_eq!(outcome.exit_code(), ExitCode::Crash);
    let complaint = outcome.complaint().unwrap();
    assert!(complaint.cause.starts_with("the shim says: "), "{complaint}");
}

/// Flips a bit of what waits in shared memory.
pub fn flip_staged(plan: &mut Plan, tag: &str) {
    let blob = plan.staged.iter().find(|s| s.tag == tag).unwrap();
    let middle = blob.bytes.len() / 2;
    flip_staged_at(plan, tag, middle);
}

/// Flips a bit of a certain byte of what waits in shared memory.
pub fn flip_staged_at(plan: &mut Plan, tag: &str, offset: usize) {
    let blob = plan.staged.iter_mut().find(|s| s.tag == tag).unwrap();
    let mut bytes = blob.bytes.to_vec();
    bytes[offset] ^= 1;
    blob.bytes = bytes.into();
}

/// Flips a bit of a launch page.
pub fn flip_page(plan: &mut Plan, tag: &str, offset: usize) {
    let region = plan.regions.iter_mut().find(|r| r.tag == tag).unwrap();
    region.bytes[offset] ^= 1;
}
