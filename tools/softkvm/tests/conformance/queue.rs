//! Launches at a security processor that several hosts' VMs share (`SOFTKVM_PSP`).

use std::path::Path;
use std::thread;
use std::time::Duration;

use abi::kvm_snp::SnpLaunchFinish;
use abi::snp::PageType;
use kvm_bindings::kvm_clock_data;
use libc::EBUSY;
use softkvm::kvm::Options;
use zerocopy::FromZeros;

use crate::harness::*;
use crate::stats::{GET_STATS_FD, Stats};

const GET_CLOCK: u64 = 0x8030_ae7c;
const SNP_VM: u64 = 4;

/// Costs of the profile in nanoseconds: LAUNCH_START, a page, LAUNCH_FINISH.
const START: u64 = 10_000_000;
const PAGE: u64 = 1_003_000;
const FINISH: u64 = 5_000_000;

fn options(file: &Path, words: &str) -> Options {
    Options { psp: format!("{};{words}", file.display()), ..Default::default() }
}

/// Launches a VM of two pages and a vCPU: when that was over, and how long its commands have waited.
fn launch(options: Options) -> (u64, u64) {
    let host = Host::on(options);
    let mut launch = host.started();
    for frame in [16, 17] {
        launch.add(PageType::NORMAL, frame, &pattern(1)).unwrap();
    }
    launch.cpuid(0);
    launch.vm.finish(&SnpLaunchFinish::new_zeroed()).unwrap();
    let mut clock = kvm_clock_data::default();
    launch.vm.with(GET_CLOCK, &mut clock).unwrap();
    let stats = Stats::new(launch.vm.call(GET_STATS_FD, 0).unwrap());
    assert_eq!(stats.get("softkvm_psp_busy_ns"), START + 3 * PAGE + FINISH);
    (clock.clock, stats.get("softkvm_psp_wait_ns"))
}

#[test]
fn launches_share_a_security_processor() {
    let dir = tempfile::tempdir().unwrap();
    let alone = launch(Options::default());
    assert_eq!(alone, (START + 3 * PAGE + FINISH, 0));
    for (round, late) in [[0, 20, 40], [40, 0, 20], [0, 0, 0]].iter().enumerate() {
        let file = dir.path().join(round.to_string());
        let mut ends: Vec<_> = thread::scope(|scope| {
            let start = |late: &u64| {
                let (late, options) = (*late, options(&file, "of=3"));
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(late));
                    launch(options)
                })
            };
            let running: Vec<_> = late.iter().map(start).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        ends.sort_unstable();
        // All begin, then take turns page by page; the vCPU's page and FINISH come without a pause between them.
        let before = 3 * START + 6 * PAGE;
        let last = 3 * (PAGE + FINISH) + before;
        let expected = [last - 2 * FINISH, last - FINISH, last];
        assert_eq!(ends.iter().map(|(end, _)| *end).collect::<Vec<_>>(), expected, "{late:?}");
        assert!(ends.iter().all(|(end, wait)| end - wait == alone.0));
    }
}

#[test]
fn a_vm_that_is_given_up_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("psp");
    let gone = Host::on(options(&file, "of=2"));
    let vm = gone.ready();
    // SAFETY: a descriptor that nobody uses any more.
    unsafe { libc::close(vm.fd) };
    let full = Host::on(options(&file, "of=2;index=0"));
    assert_eq!(full.vm(SNP_VM).err(), Some(EBUSY), "that place was taken");
    // A plain VM takes no place; and that the other is gone is noticed when the next is made.
    full.vm(0).unwrap();
    let (end, wait) = launch(options(&file, "of=2"));
    assert_eq!((end, wait), (START + 3 * PAGE + FINISH, 0));
}
