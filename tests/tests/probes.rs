//! guest-init's probes, their records, and the marks: what a guest sends arrives, and is what it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use abi::probes::ProbeId;
use cvmm_tests::{Cvmm, Ended, bzimage, in_parallel};
use serde_json::Value;

const KERNEL: &str = "7.2";
/// A small number of samples, for a processor of software.
const SAMPLES: u64 = 50;

fn boot(words: [&str; 3], options: &str) -> Ended {
    let ended = Cvmm::new(["--timeout", "220", "--memory", "512M"])
        .args(words)
        .arg("--cmdline")
        .arg(format!("console=ttyS0 panic=-1 {options}"))
        .linux(&bzimage(KERNEL), KERNEL)
        .reported()
        .run();
    ended.expect_code(0).expect_console("cvmm-init: ready").expect_console("cvmm-init: power off");
    ended
}

/// A probe's row: the only one of its name, or that with this parameter.
fn row<'a>(report: &'a Value, name: &str, parameter: Option<u64>) -> &'a Value {
    let rows = report["probes"].as_array().expect("probes");
    let mut rows = rows.iter().filter(|row| row["name"] == name).filter(|row| {
        parameter.is_none_or(|parameter| row["parameter"].as_u64() == Some(parameter))
    });
    let row = rows.next().unwrap_or_else(|| panic!("no probe {name}"));
    assert!(rows.next().is_none(), "{name} is there twice");
    row
}

fn median(report: &Value, name: &str, parameter: Option<u64>) -> u64 {
    let row = row(report, name, parameter);
    row["p50"].as_u64().unwrap_or_else(|| panic!("{name}: {row}"))
}

fn numbers_of_marks(report: &Value, name: &str) -> Vec<u64> {
    let marks = report["marks"].as_array().expect("marks").iter();
    let marks = marks.filter(|mark| mark["name"] == name);
    marks.map(|mark| mark["number"].as_u64().expect("a number")).collect()
}

fn number_of(report: &Value, name: &str) -> u64 {
    let [number] = numbers_of_marks(report, name)[..] else { panic!("{name} is not there once") };
    number
}

fn phase<'a>(report: &'a Value, id: &str) -> &'a Value {
    let phases = report["phases"].as_array().expect("phases");
    phases.iter().find(|phase| phase["id"] == id).unwrap_or_else(|| panic!("no phase {id}"))
}

/// What each technology cannot have: the beginnings of names.
fn missing(technology: &str) -> &'static [&'static str] {
    match technology {
        "--plain" => &["cpuid-guest", "attest"],
        "--snp" => &["mmio", "attest-tdreport"],
        _ => &["pio", "mmio", "hypercall", "attest-report"],
    }
}

fn judge_rows(report: &Value, technology: &str) {
    let rows = report["probes"].as_array().expect("probes");
    let names: BTreeSet<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    let all: BTreeSet<&str> = ProbeId::NAMES.iter().map(|(_, name, _)| *name).collect();
    assert_eq!(names, all, "every probe reports, or says why not");
    let khz = if technology == "--tdx" { 2_000_000 } else { 2_450_000 };
    for row in rows {
        let name = row["name"].as_str().expect("a name");
        assert_eq!(row["clock"], "modelled", "{row}");
        let absent = missing(technology).iter().any(|begin| name.starts_with(begin));
        assert_eq!(row["unavailable"].is_string(), absent, "{row}");
        if absent {
            assert_eq!((&row["samples"], &row["p50"]), (&Value::from(0), &Value::Null), "{row}");
            continue;
        }
        let numbers = ["min", "p50", "p90", "p99", "max"].map(|key| row[key].as_u64());
        assert!(numbers.is_sorted() && numbers[0] > Some(0), "{row}");
        assert!(row["samples"].as_u64() > Some(0) && row["operations"].as_u64() > Some(0), "{row}");
        let counted = row["tsc_khz"].as_u64().expect("a frequency");
        assert!(counted.abs_diff(khz) <= 100, "{row}");
    }
}

fn judge_numbers(report: &Value, technology: &str) {
    let of = |name| median(report, name, None);
    for (first, second) in [
        ("touch-4k-first-sequential", "touch-4k-second-sequential"),
        ("touch-4k-first-random", "touch-4k-second-random"),
        ("touch-2m-first-sequential", "touch-2m-second-sequential"),
        ("touch-2m-first-random", "touch-2m-second-random"),
    ] {
        assert!(of(first) > 10 * of(second), "{first} and {second}");
    }
    assert!(of("touch-2m-first-random") > 10 * of("touch-4k-first-random"));
    // There are no caches, so distance is nothing.
    let chase = [4 << 10, 16 << 20].map(|bytes| median(report, "chase", Some(bytes)));
    assert!(chase[0].abs_diff(chase[1]) * 100 < chase[0], "{chase:?}");
    let [far, near] = [0x1b, 0xc000_0100].map(|msr| median(report, "rdmsr", Some(msr)));
    assert!(far > near + 1_000_000, "{far} and {near} ps");
    if technology != "--tdx" {
        // The way to the monitor is longer.
        assert!(of("pio-monitor") > of("pio-kernel") + 1_000_000);
        assert!(of("mark") > of("pio-kernel"));
    }
    if technology != "--plain" {
        assert!(of("cpuid-host") > of("cpuid-guest") + 1_000_000);
    }
}

fn judge_run(ended: &Ended, cpus: u64) {
    let report = ended.report();
    let records = &report["records"];
    let rows = report["probes"].as_array().expect("probes").len() as u64;
    assert_eq!(records["announced"], rows, "{records}");
    assert_eq!(records["received"], rows, "{records}");
    for none in ["dropped", "unknown", "damaged"] {
        assert_eq!(records[none], 0, "{records}");
    }
    assert!(!ended.console.contains("cvmr"), "records are no output");
    assert_eq!(number_of(report, "probe-begin"), SAMPLES);
    assert_eq!(number_of(report, "probe-end"), rows);
    assert_eq!(numbers_of_marks(report, "test"), [1, 2, 3]);
    assert_eq!(number_of(report, "init-ready"), cpus);
    // The time of the probes is the probes' phase.
    let spent = phase(report, "P0")["modelled_ns"].as_u64().expect("a time");
    let rows = report["probes"].as_array().expect("probes").iter();
    let least: u64 = rows
        .filter(|row| row["unit"] == "ps")
        .map(|row| {
            let number = |key: &str| row[key].as_u64().unwrap_or(0);
            number("min") * number("operations") / 1000 * number("samples")
        })
        .sum();
    assert!(spent > least, "{spent} ns, but the samples took {least}");
}

#[test]
fn every_probe_reports_or_says_why_not() {
    let jobs = ["--plain", "--snp", "--tdx"].map(|technology| (technology.to_owned(), technology));
    in_parallel(jobs.into(), |_, technology| {
        let options = format!("cvmm.probe=all cvmm.probe.n={SAMPLES} cvmm.marks=3");
        let ended = boot([technology, "--emulate", "--cpus=2"], &options);
        judge_rows(ended.report(), technology);
        judge_numbers(ended.report(), technology);
        judge_run(&ended, 2);
    });
}

#[test]
fn probes_that_need_two_processors_say_so_and_the_others_are_left_out() {
    let ended = boot(["--plain", "--emulate", "--cpus=1"], "cvmm.probe=ipi,cpuid cvmm.probe.n=20");
    let report = ended.report();
    let rows = report["probes"].as_array().expect("probes");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["cpuid-host", "cpuid-guest", "pingpong-line", "pingpong-futex"]);
    for name in ["pingpong-line", "pingpong-futex"] {
        assert_eq!(row(report, name, None)["unavailable"], "there is one processor only");
    }
}

/// When the marks of a name were written, on the modelled clock.
fn times_of_marks(report: &Value, name: &str) -> Vec<u64> {
    let marks = report["marks"].as_array().expect("marks").iter();
    let marks = marks.filter(|mark| mark["name"] == name);
    marks.map(|mark| mark["modelled_ns"].as_u64().expect("a time")).collect()
}

/// Nothing, 5 and 50 marks: each costs one exit, and as much time by the guest's clock as by the monitor's.
#[test]
fn a_mark_costs_what_the_guest_says() {
    let ended = Mutex::new(BTreeMap::new());
    let jobs = [0, 5, 50].map(|count| (format!("{count} marks"), count));
    in_parallel(jobs.into(), |_, count: u64| {
        let options = format!("cvmm.marks={count} cvmm.probe=int cvmm.probe.n=10");
        let run = boot(["--snp", "--emulate", "--cpus=1"], &options);
        ended.lock().expect("no panic").insert(count, run);
    });
    let ended = ended.into_inner().expect("no panic");
    let exits = |count| phase(ended[&count].report(), "P0")["exits"].as_u64().expect("exits");
    assert_eq!(exits(50) - exits(5), 45);
    assert!(exits(5) > exits(0) + 5, "the marks and their record");
    for (count, run) in &ended {
        let times = times_of_marks(run.report(), "test");
        assert_eq!(times.len() as u64, *count);
        let mut between: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        between.sort_unstable();
        let Some(seen) = between.get(between.len() / 2) else { continue };
        let said = median(run.report(), "mark", None) / 1000;
        println!("of {count} marks one takes {said} ns by the guest, {seen} ns by the monitor");
        assert!(seen.abs_diff(said) * 10 < *seen, "{seen} and {said} ns");
    }
}

#[test]
fn marks_can_be_left_out() {
    let all = boot(["--snp", "--emulate", "--cpus=1"], "");
    let ended = boot(["--snp", "--emulate", "--marks=none"], "cvmm.marks=none");
    let report = ended.report();
    let marks: Vec<&str> = report["marks"]
        .as_array()
        .expect("marks")
        .iter()
        .filter_map(|mark| mark["name"].as_str())
        .collect();
    assert_eq!(marks, ["init-entry"]);
    assert_ne!(report["digest"], all.report()["digest"]);
    let total = |ended: &Ended| ended.report()["total"]["modelled_ns"].as_u64().expect("a time");
    println!("with marks {} ns, without {} ns", total(&all), total(&ended));
}

/// What the shim says it has accepted is the guest's memory without its launch pages, its work area and the hole.
#[test]
fn the_shim_counts_every_page() {
    let jobs = [("--snp".to_owned(), "--snp"), ("--tdx".to_owned(), "--tdx")];
    in_parallel(jobs.into(), |_, technology| {
        let ended = boot([technology, "--emulate", "--cpus=1"], "");
        let report = ended.report();
        let [small, large] = ["accept-small", "accept-large"].map(|name| number_of(report, name));
        let staging = ["staging-reclaimed", "staging-large"].map(|name| number_of(report, name));
        let page = abi::shim::PAGE;
        let hole = abi::shim::HIGH_RAM_START - abi::shim::LOW_RAM_END;
        let own = abi::shim::WORK_END - abi::shim::SHIM_BASE;
        let pages = ((512 << 20) - hole - own) / page;
        assert_eq!(small + staging[0] + 512 * (large + staging[1]), pages);
        assert_eq!(number_of(report, "accept-end"), small.div_ceil(512));
        let mismatches = number_of(report, "accept-mismatches");
        assert!(mismatches * 512 <= small, "{mismatches} mismatches of {small} pages");
        let staged = report["launch"]["staged"].as_array().expect("staged files").iter();
        let staged = staged.map(|file| file["bytes"].as_u64().expect("bytes").div_ceil(page));
        assert_eq!(staging[0] + 512 * staging[1], staged.sum::<u64>());
        assert!(number_of(report, "staging-mismatches") * 512 <= staging[0]);
    });
}
