//! The same inputs give the same run, to the last virtual nanosecond; and what a launch costs.

use cvmm_tests::{Cvmm, Ended, bzimage};
use serde_json::Value;

fn boot(technology: &str, load: &str, cpus: &str) -> Ended {
    let run = Cvmm::new(["--emulate", "--timeout", "200", technology, "--load", load])
        .args(["--memory", "512M", "--cpus", cpus])
        .linux(&bzimage("6.12"), "6.12")
        .reported();
    let ended = run.run();
    ended.expect_code(0);
    ended
}

/// A report without what follows the host's clock: every field whose name says `wall` or `cpu`, and the host's memory, which
/// is looked at from time to time.
fn timeless(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let host =
                |name: &str| name.contains("wall") || name.starts_with("cpu_") || name == "memory";
            let kept = fields.iter().filter(|(name, _)| !host(name));
            Value::Object(kept.map(|(name, value)| (name.clone(), timeless(value))).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(timeless).collect()),
        other => other.clone(),
    }
}

/// The first difference of two values, by path.
fn difference(path: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => a
            .iter()
            .find_map(|(name, value)| difference(&format!("{path}.{name}"), value, &b[name])),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(n, (a, b))| difference(&format!("{path}[{n}]"), a, b)),
        _ if a == b => None,
        _ => Some(format!("{path}: {a} and {b}")),
    }
}

fn runs_are_equal(technology: &str, cpus: &str) {
    let (first, second) = (boot(technology, "hashed", cpus), boot(technology, "hashed", cpus));
    let (a, b) = (first.report(), second.report());
    assert_eq!(a["exits"]["streams"], b["exits"]["streams"], "exit streams");
    assert_eq!(a["digest"], b["digest"], "digests");
    assert_eq!(difference("report", &timeless(a), &timeless(b)), None);
    assert_eq!(first.console, second.console, "consoles");
    // The times compared above are there, and are the guest's.
    assert_eq!(a["platform"]["guest_time"], "modelled");
    let marks = a["marks"].as_array().expect("marks");
    let times: Vec<u64> =
        marks.iter().map(|mark| mark["modelled_ns"].as_u64().expect("a virtual time")).collect();
    assert!(times.len() > 5 && times.is_sorted() && times[0] > 0, "{times:?}");
    assert_eq!(a["exits"]["streams"].as_array().expect("streams").len().to_string(), cpus);
}

#[test]
fn two_snp_runs_are_the_same_run() {
    runs_are_equal("--snp", "1");
}

#[test]
fn two_snp_runs_with_several_vcpus_are_the_same_run() {
    runs_are_equal("--snp", "2");
}

#[test]
fn two_tdx_runs_are_the_same_run() {
    runs_are_equal("--tdx", "1");
}

#[test]
fn two_tdx_runs_with_several_vcpus_are_the_same_run() {
    runs_are_equal("--tdx", "2");
}

#[test]
fn two_plain_runs_are_the_same_run() {
    runs_are_equal("--plain", "2");
}

#[test]
fn hashed_launches_measure_three_pages_and_say_what_they_cost() {
    for cpus in ["1", "4"] {
        let ended = boot("--snp", "hashed", cpus);
        let launch = &ended.report()["launch"];
        let number = |name: &str| launch[name].as_u64().unwrap_or_else(|| ended.fail(name));
        assert_eq!(number("pages"), 3, "{launch}");
        assert_eq!(number("vmsa_pages").to_string(), cpus);
        assert_eq!(number("ovmf_pages"), 1055);
        let (ours, ovmf) = (number("psp_modelled_ns"), number("psp_ovmf_modelled_ns"));
        assert!(ours > 0 && ours < ovmf, "{ours} ns and {ovmf} ns");
        println!(
            "{} launch pages and {cpus} VMSAs: {:.2} ms in the security processor; 1055 pages of \
             OVMF: {:.2} ms",
            number("pages"),
            ours as f64 / 1e6,
            ovmf as f64 / 1e6
        );
    }
}
