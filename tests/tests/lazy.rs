//! Kernels that accept memory themselves, without a firmware: unmodified Debian kernels, which find the shim's tables.

use cvmm_tests::{Cvmm, Ended, KERNELS, bzimage, in_parallel};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Bytes for which one bit of the table stands.
const UNIT: u64 = 2 * MIB;

struct Cell {
    kernel: &'static str,
    technology: &'static str,
    memory_mib: u64,
    cpus: u32,
}

fn matrix() -> Vec<(String, Cell)> {
    let mut cells = Vec::new();
    for kernel in KERNELS {
        for technology in ["snp", "tdx"] {
            for memory_mib in [512, 1024, 2048, 4096] {
                for cpus in [1, 4] {
                    let name = format!("{kernel} {technology} {memory_mib}M {cpus} vCPUs lazy");
                    cells.push((name, Cell { kernel, technology, memory_mib, cpus }));
                }
            }
        }
    }
    cells
}

fn run(cell: &Cell, accept: &str, fill: &str) -> Ended {
    let ended = Cvmm::new(["--emulate", "--timeout", "200", "--accept", accept])
        .arg(format!("--{}", cell.technology))
        .args(["--memory", &format!("{}M", cell.memory_mib), "--cpus", &cell.cpus.to_string()])
        .args(["--cmdline", &format!("console=ttyS0 panic=-1 {fill}")])
        .linux(&bzimage(cell.kernel), cell.kernel)
        .reported()
        .run();
    ended.expect_code(0).expect_console("cvmm-init: ready");
    ended
}

/// What `/init` says that the kernel has not accepted, in bytes.
fn unaccepted(ended: &Ended, when: &str) -> u64 {
    let begin = format!("fill: {when}: ");
    let line = ended.console.lines().find_map(|line| line.split_once(&begin));
    let number = line.and_then(|(_, rest)| rest.split_once(" kB of "));
    let kib: u64 = number.and_then(|(kib, _)| kib.parse().ok()).unwrap_or_else(|| {
        ended.fail("the console does not say what is not accepted");
    });
    kib << 10
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// What the ledger says of private pages that the guest has, against what softkvm holds for it: a page more or less on
/// either side is a page that changed its owner unseen.
fn check_ledger(cell: &Cell, ended: &Ended) {
    let report = ended.report();
    let states = &report["ledger"]["states_at_end"];
    let sum = |names: &[&str]| names.iter().map(|name| states[*name].as_u64().unwrap_or(0)).sum();
    let memory = number(&report["ledger"]["memory_bytes"]);
    let owned: u64 = sum(&["measured", "added", "accepted", "converted"]);
    let all: u64 = owned + sum(&["shared", "shared_back", "unaccepted"]);
    assert_eq!(all, memory);
    match cell.technology {
        // Every page that a guest accepts is asked for first, and so it is in the ledger.
        "snp" => assert_eq!(owned, number(&report["ledger"]["memory"]["private"]["end_bytes"])),
        // A TD accepts without a word to anybody but the module.
        _ => assert!(sum(&["unaccepted"]) > 0),
    }
}

#[test]
fn memory_is_accepted_on_demand_and_used_to_the_end() {
    let only = std::env::var("CVMM_MATRIX").unwrap_or_default();
    let cells = matrix().into_iter().filter(|(name, _)| name.contains(&only)).collect();
    in_parallel(cells, |_, cell| {
        let ended = run(&cell, "lazy", "cvmm.fill");
        ended.expect_console("efi: EFI v2.10 by cvmm").expect_console("efi: Unaccepted=0x");
        let before = unaccepted(&ended, "before");
        let memory = cell.memory_mib * MIB;
        // What no kernel does without: its image and its files, a sixteenth for the bounce buffers, a sixty-fourth for page
        // structures; and 4 MiB for every request to the page allocator before the watermarks are set, which are more where
        // there are more processors (Linux mm/page_alloc.c cond_accept_memory).
        let fixed = memory / 16 + memory / 64 + 60 * MIB;
        let early = memory.saturating_sub(fixed + before) / MIB;
        println!("{} MiB are not accepted, {early} MiB went to early requests", before / MIB);
        if cell.memory_mib > 512 {
            let most = 600 + 75 * u64::from(cell.cpus - 1);
            assert!((400..most).contains(&early), "{early} MiB were accepted early");
        } else {
            assert!(before <= 16 * MIB, "{before} bytes of a small guest are not accepted");
        }
        // The guard units of ranges are accepted with them, and are still said to be unaccepted.
        let after = unaccepted(&ended, "after");
        assert!(after <= 8 * UNIT, "{after} bytes are not accepted although memory is full");
        ended.expect_console("signal 9");
        check_ledger(&cell, &ended);
    });
}

#[test]
fn with_a_window_a_small_guest_accepts_little() {
    for technology in ["snp", "tdx"] {
        let cell = Cell { kernel: "7.2", technology, memory_mib: 512, cpus: 1 };
        let without = unaccepted(&run(&cell, "lazy", "cvmm.fill=0"), "before");
        let with = run(&cell, "lazy,window=192M", "cvmm.fill=0");
        check_ledger(&cell, &with);
        let with = unaccepted(&with, "before");
        println!("{technology}: {} MiB without, {} MiB with", without / MIB, with / MIB);
        assert!(with >= 128 * MIB && without <= 16 * MIB, "{technology}: {without}, {with}");
    }
}

#[test]
fn memory_that_is_not_in_whole_units_is_refused() {
    let ended = Cvmm::new(["--emulate", "--timeout", "60", "--snp", "--memory", "511M"])
        .args(["--accept", "lazy"])
        .linux(&bzimage("7.2"), "7.2")
        .run();
    ended.expect_refusal(2).expect_words("multiples of 2M");
}

#[test]
fn where_the_host_has_large_pages_they_are_accepted_whole() {
    for accept in ["eager", "lazy"] {
        let ended = Cvmm::new(["--emulate=epyc-milan:2m", "--timeout", "200", "--snp"])
            .args(["--memory", "512M", "--cpus", "2", "--accept", accept])
            .args(["--cmdline", "console=ttyS0 panic=-1 cvmm.fill"])
            .linux(&bzimage("6.12"), "6.12")
            .reported()
            .run();
        ended.expect_code(0).expect_console("cvmm-init: ready").expect_console("signal 9");
        let accepted = &ended.report()["ledger"]["accepted"];
        let counts = ["pages", "pages_4k", "pages_2m", "mismatches"].map(|n| number(&accepted[n]));
        let [pages, small, large, mismatches] = counts;
        println!("{accept}: the shim accepted {small} pages and {large} of 2 MiB");
        assert_eq!(small + large * (UNIT / 4096), pages, "{accept}");
        assert!(mismatches == 0 && small < 2048 && large > 8, "{accept}: {counts:?}");
        // Linux accepts the rest of it in the same size.
        let whole = number(&ended.report()["kvm_stats"]["vm"]["softkvm_pvalidate_2m"][0]);
        assert!(whole >= 230, "{accept}: {whole} of 256 were validated whole");
    }
}
