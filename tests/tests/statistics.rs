//! cvmm's statistics against SciPy's: on samples recorded from runs, and on those that break formulas.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use cvmm::stats::{
    Random, Sample, Summary, cliffs_delta, difference_interval, holm, mann_whitney,
    resampled_differences, resampled_medians,
};
use cvmm_tests::input;
use serde_json::{Value, json};

/// `(name, values)`.
type Named = (String, Vec<f64>);

/// Samples of real runs.
fn recorded() -> Vec<Named> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded/boots.json");
    let text = std::fs::read(path).expect("the recorded samples");
    let all: Value = serde_json::from_slice(&text).expect("the recorded samples are JSON");
    let values = |value: &Value| -> Vec<f64> {
        value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
    };
    let samples = all["samples"].as_object().expect("samples by name");
    samples.iter().map(|(name, list)| (name.clone(), values(list))).collect()
}

/// Samples on which formulas divide by zero, or meet their borders.
fn odd() -> Vec<Named> {
    let mut random = Random::seeded(20);
    let mut drawn =
        |n: usize, of: usize| -> Vec<f64> { (0..n).map(|_| random.below(of) as f64).collect() };
    let mut samples = vec![
        ("one", vec![3.25]),
        ("two", vec![7.0, 3.0]),
        ("two equal", vec![4.0, 4.0]),
        ("three", vec![1.0, 2.0, 3.0]),
        ("four above", vec![4.0, 5.0, 6.0, 7.0]),
        ("all equal", vec![5.0; 12]),
        ("equal and zero", vec![0.0; 9]),
        ("zero of both signs", vec![0.0, -0.0, 0.0, -0.0, 1.0]),
        ("one stray", vec![2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 900.0]),
        ("one stray on each side", vec![1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0]),
        ("tiny", vec![1e-300, 2e-300, 4e-300, 9e-300]),
        ("close to each other", (0..10).map(|i| 1e9 + f64::from(i) * 1e-3).collect()),
        ("huge", vec![1e15, 3e15, 2e15, 9e15, 4e15]),
    ];
    samples.push(("ties of three", drawn(40, 3)));
    samples.push(("ties of two", drawn(9, 2)));
    samples.push(("eight", drawn(8, 1_000_000)));
    samples.push(("nine", drawn(9, 1_000_000)));
    samples.push(("ten", drawn(10, 1_000_000)));
    samples.push(("a hundred", drawn(100, 1 << 40)));
    samples.push(("a hundred and more", drawn(250, 1 << 41)));
    samples.into_iter().map(|(name, values)| (name.to_owned(), values)).collect()
}

fn sample(values: &[f64]) -> Sample {
    Sample::new(values.to_vec()).expect("numbers")
}

fn of_sample((name, values): &Named) -> Value {
    let sample = sample(values);
    json!({
        "name": name,
        "values": values,
        "summary": Summary::of(&sample),
        "drawn": resampled_medians(&sample),
    })
}

fn of_pair((name_x, x): &Named, (name_y, y): &Named) -> Value {
    let (sample_x, sample_y) = (sample(x), sample(y));
    let test = mann_whitney(&sample_x, &sample_y);
    json!({
        "name": format!("{name_x} against {name_y}"),
        "x": x,
        "y": y,
        "u": test.u,
        "p": test.p,
        "exact": test.exact,
        "delta": cliffs_delta(&test, x.len(), y.len()),
        "difference": difference_interval(&sample_x, &sample_y),
        "drawn": resampled_differences(&sample_x, &sample_y),
    })
}

/// What differs, a line each.
fn differences(job: &Value) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles/statistics.py");
    let mut child = Command::new(input("CVMM_PYTHON"))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(job.to_string().as_bytes()).expect("python reads");
    drop(pipe);
    let output = child.wait_with_output().expect("python ends");
    assert!(output.status.success(), "the oracle failed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn none_differ(job: &Value) {
    let found = differences(job);
    assert!(found.is_empty(), "{found}");
}

#[test]
fn samples_are_described_as_scipy_describes_them() {
    let samples: Vec<Value> = recorded().iter().chain(&odd()).map(of_sample).collect();
    assert!(samples.len() > 30, "{} samples", samples.len());
    none_differ(&json!({ "samples": samples, "pairs": [], "families": [] }));
}

#[test]
fn odd_samples_are_compared_as_scipy_compares_them() {
    let samples = odd();
    let pairs: Vec<Value> =
        samples.iter().flat_map(|x| samples.iter().map(move |y| of_pair(x, y))).collect();
    none_differ(&json!({ "samples": [], "pairs": pairs, "families": [] }));
}

#[test]
fn recorded_samples_are_compared_as_scipy_compares_them() {
    let samples = recorded();
    let mut pairs = Vec::new();
    for (at, x) in samples.iter().enumerate() {
        // Like with like, and cut short: exact p-values are for small samples.
        let unit = |name: &str| name.split_once(' ').map(|(_, rest)| rest.to_owned());
        for y in samples[at..].iter().filter(|y| unit(&y.0) == unit(&x.0)) {
            pairs.push(of_pair(x, y));
            for n in [1, 2, 5, 8] {
                let cut =
                    |named: &Named| (format!("{} (first {n})", named.0), named.1[..n].to_vec());
                pairs.push(of_pair(&cut(x), &cut(y)));
                pairs.push(of_pair(&cut(x), y));
            }
        }
    }
    assert!(pairs.len() > 100, "{} pairs", pairs.len());
    none_differ(&json!({ "samples": [], "pairs": pairs, "families": [] }));
}

#[test]
fn families_of_tests_are_adjusted_by_the_closure_principle() {
    let mut random = Random::seeded(7);
    let mut families =
        vec![vec![], vec![0.04], vec![0.01, 0.01, 0.01], vec![0.9, 0.8, 0.7], vec![0.0, 1.0]];
    for n in 2..9 {
        // Ties among them.
        families.push((0..n).map(|_| random.below(12) as f64 / 100.0).collect::<Vec<f64>>());
    }
    let families: Vec<Value> =
        families.iter().map(|p| json!({ "p": p, "adjusted": holm(p) })).collect();
    none_differ(&json!({ "samples": [], "pairs": [], "families": families }));
}

#[test]
fn a_wrong_figure_is_named() {
    let named = ("three".to_owned(), vec![1.0, 2.0, 4.0]);
    let mut wrong = of_sample(&named);
    wrong["summary"]["mad"] = json!(1.000_000_01);
    let mut pair = of_pair(&named, &("other".to_owned(), vec![0.5, 3.0]));
    pair["p"] = json!(0.5);
    let family = json!({ "p": [0.01, 0.02], "adjusted": [0.02, 0.021] });
    let found = differences(&json!({ "samples": [wrong], "pairs": [pair], "families": [family] }));
    for words in ["three: mad is", "three against other: p is 0.5", "Holm of [0.01, 0.02]"] {
        assert!(found.contains(words), "{words:?} is not in:\n{found}");
    }
    assert_eq!(found.lines().count(), 3, "{found}");
}
