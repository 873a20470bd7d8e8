//! All processors of a TD accept its memory: each page once, whoever takes it, and Linux gets the same guest.

use cvmm_tests::{Cvmm, Ended, bzimage, in_parallel};
use serde_json::Value;

fn run(accept: &str, cpus: u32, memory: &str) -> Ended {
    let ended = Cvmm::new(["--emulate", "--timeout", "200", "--tdx", "--accept", accept])
        .args(["--memory", memory, "--cpus", &cpus.to_string()])
        .linux(&bzimage("6.12"), "6.12")
        .reported()
        .run();
    ended.expect_code(0).expect_console("cvmm-init: ready");
    ended
}

/// The number of the only mark of a name.
fn mark(report: &Value, name: &str) -> Option<u64> {
    let marks = report["marks"].as_array().into_iter().flatten();
    let mut numbers = marks.filter(|mark| mark["name"] == name).map(|mark| &mark["number"]);
    let number = numbers.next()?.as_u64();
    assert!(numbers.next().is_none(), "{name} came twice");
    number
}

/// The same memory is accepted as by one processor, but others do most of it.
fn check(accept: &str, parallel: &str, cpus: u32, memory: &str) {
    let (alone, together) = (run(accept, cpus, memory), run(parallel, cpus, memory));
    let online = format!("{cpus} cpus online: 0-{}", cpus - 1);
    together.expect_console(&online);
    let (alone, together) = (alone.report(), together.report());
    for marked in ["accept-small", "accept-large", "accept-mismatches"] {
        assert_eq!(mark(together, marked), mark(alone, marked), "{marked}");
    }
    assert_eq!(together["ledger"]["accepted"], alone["ledger"]["accepted"]);
    assert_eq!(together["ledger"]["states_at_end"], alone["ledger"]["states_at_end"]);
    assert_ne!(together["digest"], alone["digest"], "who accepts is measured");

    assert_eq!(mark(alone, "accept-helped"), None);
    let units = mark(together, "accept-mismatches").unwrap_or_default();
    let helped = mark(together, "accept-helped").unwrap_or_default();
    println!("{parallel}, {cpus} vCPUs, {memory}: {helped} of {units} units by others");
    // softkvm's processors take turns, so each gets its share.
    let share = units * u64::from(cpus - 1) / u64::from(cpus);
    assert!((share * 9 / 10..=share * 11 / 10).contains(&helped), "{helped} of {units} units");
}

#[test]
fn every_processor_accepts_its_share_and_no_page_is_accepted_twice() {
    let mut cells = Vec::new();
    for (accept, parallel) in
        [("eager", "parallel"), ("lazy,window=128M", "lazy,window=128M,parallel")]
    {
        for (cpus, memory) in [(2, "512M"), (4, "512M"), (4, "2G")] {
            let name = format!("tdx {cpus} vCPUs {memory} {parallel}");
            cells.push((name, (accept, parallel, cpus, memory)));
        }
    }
    in_parallel(cells, |_, (accept, parallel, cpus, memory)| check(accept, parallel, cpus, memory));
}

#[test]
fn one_processor_does_it_all() {
    let ended = run("parallel", 1, "512M");
    assert_eq!(mark(ended.report(), "accept-helped"), Some(0));
}

#[test]
fn more_processors_than_there_are_stacks_boot() {
    let ended = run("lazy,window=64M,parallel", 24, "512M");
    ended.expect_console("24 cpus online: 0-23");
}
