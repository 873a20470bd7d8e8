//! `cvmm bench` with its built-in guest on softkvm: that nothing is lost by a kill, a full disk or a torn line, and that what
//! cannot be run is refused before anything runs.
//!
//! UNSAFETY: kill on a process of this test; a resource limit.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, stderr};
use serde_json::Value;

const SPEC: &str = r#"
name = "tiny"
about = "A guest that says a line."
repetitions = 3
warmup = 1
timeout = 60
a_a = true

[guest]
emulate = true
kernel = "builtin"
memory = "64M"

[[matrix]]
technology = ["plain", "snp", "tdx"]
"#;
/// Cells, their twins, repetitions and a warm-up.
const RUNS: usize = 3 * 2 * 4;

fn no_softkvm() -> bool {
    let missing = cvmm::emulate::find_library().is_err();
    if missing {
        eprintln!("skipped: softkvm's library is not built (cargo build -p softkvm-preload)");
    }
    missing
}

fn with_spec(text: &str) -> Bench {
    let bench = Bench::new();
    bench.file("spec.toml", text.as_bytes());
    bench
}

/// Standard output as JSON, of a run that ended well.
fn results(bench: &Bench, args: &[&str]) -> Value {
    let output = bench.cvmm(args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn runs(path: &Path) -> Vec<Value> {
    lines(path).into_iter().filter(|line| line["kind"] == "run").collect()
}

/// Which run is which.
fn slots(runs: &[Value]) -> Vec<(u64, u64)> {
    let number = |run: &Value, field: &str| run[field].as_u64().unwrap();
    runs.iter().map(|run| (number(run, "block"), number(run, "cell"))).collect()
}

/// A result without what no two runs of a host have in common.
fn lasting(mut results: Value) -> Value {
    let measured = |value: &Value| value["clock"] == "measured";
    for cell in results["cells"].as_array_mut().unwrap() {
        cell["figures"].as_array_mut().unwrap().retain(|figure| !measured(figure));
    }
    results["comparisons"].as_array_mut().unwrap().retain(|comparison| !measured(comparison));
    results
}

fn start(bench: &Bench, args: &[&str]) -> Child {
    // Whoever runs the tests in the background has Ctrl-C ignored, and cvmm respects that.
    Command::new("env")
        .args(["--default-signal", env!("CARGO_BIN_EXE_cvmm")])
        .args(args)
        .current_dir(bench.path(""))
        // What is killed leaves its scratch directory.
        .env("TMPDIR", bench.path(""))
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until a file has so many lines.
fn wait_for_lines(path: &Path, count: usize) {
    let began = Instant::now();
    loop {
        let text = std::fs::read(path).unwrap_or_default();
        if text.iter().filter(|byte| **byte == b'\n').count() >= count {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "no {count} lines in {}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, number: i32) {
    // SAFETY: a signal to a child of ours that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, number) }, 0);
}

fn refused(bench: &Bench, args: &[&str], words: &[&str]) {
    let output = bench.cvmm(args);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is not in:\n{told}");
    }
}

#[test]
fn killed_runs_go_on_to_the_table_of_an_uninterrupted_one() {
    if no_softkvm() {
        return;
    }
    let bench = with_spec(SPEC);
    let whole = results(&bench, &["bench", "spec.toml", "--out", "whole.jsonl", "--json"]);
    let expected = runs(&bench.path("whole.jsonl"));
    assert_eq!(expected.len(), RUNS);

    // Killed at three moments, then let to its end.
    let file = bench.path("killed.jsonl");
    let command = ["bench", "spec.toml", "--out", "killed.jsonl", "--json"];
    for count in [2, 9, 17] {
        let mut child = start(&bench, &command);
        wait_for_lines(&file, count);
        signal(&child, libc::SIGKILL);
        child.wait().unwrap();
    }
    let before = std::fs::read(&file).unwrap();
    let resumed = results(&bench, &command);
    let after = std::fs::read(&file).unwrap();
    assert!(after.len() > before.len());
    let kept = before.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    assert_eq!(after[..kept], before[..kept], "what was there stays");

    let got = runs(&file);
    assert_eq!(slots(&got), slots(&expected), "the same runs in the same order, none twice");
    // The hosts' list has no run in it.
    assert_eq!(lasting(resumed.clone()), lasting(whole.clone()));
    let figures = |results: &Value| results["cells"][1]["figures"].as_array().unwrap().len();
    assert!(figures(&lasting(whole)) > 10);

    // The tables depend on the file alone.
    assert_eq!(results(&bench, &["bench", "--show", "killed.jsonl", "--json"]), resumed);
    assert_eq!(results(&bench, &command), resumed, "all runs are there: none is done again");
    assert_eq!(runs(&file).len(), RUNS);
}

#[test]
fn runs_are_interleaved_and_summarised() {
    if no_softkvm() {
        return;
    }
    let bench = with_spec(SPEC);
    let results = results(&bench, &["bench", "spec.toml", "--out", "r.jsonl", "--json"]);
    let runs = runs(&bench.path("r.jsonl"));
    let mut orders = BTreeSet::new();
    for block in slots(&runs).chunks(6) {
        assert!(block.iter().all(|(number, _)| *number == block[0].0), "{block:?}");
        orders.insert(block.iter().map(|(_, cell)| *cell).collect::<Vec<_>>());
        assert_eq!(block.iter().map(|(_, cell)| cell).collect::<BTreeSet<_>>().len(), 6);
    }
    assert!(orders.len() > 1, "blocks have orders of their own");
    assert_eq!(runs.iter().filter(|run| run["warmup"] == true).count(), 6);

    let snp = &results["cells"][2];
    assert_eq!(
        (&snp["name"], &snp["runs"], &snp["warmups"]),
        (&"snp".into(), &3.into(), &1.into())
    );
    assert_eq!(snp["profile"], "epyc-milan");
    assert!(snp["placeholder_costs"].as_array().unwrap().contains(&"rmpupdate".into()));
    // The figures are those of the reports.
    let figure = |id: &str| {
        let all = snp["figures"].as_array().unwrap();
        all.iter().find(|figure| figure["id"] == id).unwrap_or_else(|| panic!("no {id}")).clone()
    };
    let counted = runs.iter().filter(|run| run["cell"] == 2 && run["warmup"] == false);
    let reports: Vec<&Value> = counted.map(|run| &run["guests"][0]["report"]).collect();
    let mut walls: Vec<u64> =
        reports.iter().map(|r| r["total"]["wall_ns"].as_u64().unwrap()).collect();
    walls.sort_unstable();
    assert_eq!(figure("total/wall_ns")["median"].as_f64(), Some(walls[1] as f64));
    assert_eq!(figure("total/wall_ns")["clock"], "measured");
    let modelled = &reports[0]["total"]["modelled_ns"];
    assert_eq!(figure("total/modelled_ns")["median"].as_f64(), modelled.as_f64());
    assert_eq!(figure("total/modelled_ns")["mad"].as_f64(), Some(0.0));
    assert_eq!(figure("exits/total")["median"].as_f64(), reports[0]["exits"]["total"].as_f64());

    let comparison = |a: &str, b: &str, figure: &str| {
        let all = results["comparisons"].as_array().unwrap().iter();
        let mut found = all.filter(|c| c["a"] == a && c["b"] == b && c["figure"] == figure);
        found.next().unwrap_or_else(|| panic!("no {figure} of {a} and {b}")).clone()
    };
    let exact = comparison("plain", "snp", "total/modelled_ns");
    assert_eq!((&exact["verdict"], &exact["delta"]), (&"differs_exactly".into(), &1.0.into()));
    let again = comparison("snp", "snp (again)", "total/modelled_ns");
    assert_eq!((&again["verdict"], &again["a_a"]), (&"equal".into(), &true.into()));
    // Three runs against three cannot show anything, and here it is one claim of three.
    assert_eq!(comparison("plain", "snp", "total/wall_ns")["verdict"], "too_few");
    assert!(comparison("plain", "snp", "total/wall_ns")["noise_floor"].is_number());
    assert_eq!(comparison("snp", "tdx", "total/modelled_ns")["profiles"][1], "xeon-spr");
}

#[test]
fn ctrl_c_ends_the_run_that_is_going_on_and_says_how_to_go_on() {
    if no_softkvm() {
        return;
    }
    let bench = with_spec(SPEC);
    let child = start(&bench, &["bench", "spec.toml", "--out", "c.jsonl"]);
    wait_for_lines(&bench.path("c.jsonl"), 3);
    signal(&child, libc::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the same command goes on with c.jsonl"),
        "{}",
        stderr(&output)
    );
    let there = runs(&bench.path("c.jsonl")).len();
    assert!((2..RUNS).contains(&there), "{there} runs");
    let shown = results(&bench, &["bench", "--show", "c.jsonl", "--json"]);
    assert_eq!(shown["missing"], RUNS - there);
}

#[test]
fn failed_runs_are_kept_and_told() {
    if no_softkvm() {
        return;
    }
    // The kernel's test guest takes a while that the second cell has not got.
    let spec = SPEC.replace("a_a = true", "").replace("timeout = 60", "timeout = 2").replace(
        "technology = [\"plain\", \"snp\", \"tdx\"]",
        "technology = [\"plain\"]\nflags = [\"\", \"--expect 00\"]",
    );
    let bench = with_spec(&spec);
    refused(&bench, &["bench", "spec.toml"], &["--expect", "cell 'plain --expect 00'"]);
    let digest = "0".repeat(96);
    let bench = with_spec(
        &spec
            .replace("\"plain\"]", "\"snp\"]")
            .replace("--expect 00", &format!("--expect {digest}")),
    );
    let output = bench.cvmm(&["bench", "spec.toml", "--out", "f.jsonl", "--json"]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert!(stderr(&output).contains("FAILED, code 7: the launch digest"), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failures = |cell: usize| results["cells"][cell]["failures"].as_array().unwrap().len();
    assert_eq!((failures(0), failures(1)), (0, 3));
    let failed: Vec<Value> = runs(&bench.path("f.jsonl"))
        .into_iter()
        .filter(|run| run["guests"][0]["exit_code"] == 7)
        .collect();
    assert_eq!(failed.len(), 4, "all of them are records");
    let text = stderr(&bench.cvmm(&["bench", "--show", "f.jsonl"]));
    assert!(text.is_empty(), "{text}");
}

/// Two cells, and a goal of each standing.
const GOALS: &str = r#"
name = "goals"
about = "Whether a guest that says a line is small enough."
repetitions = 1
timeout = 60

[guest]
emulate = true
kernel = "builtin"
memory = "64M"

[[matrix]]
label = "base"
technology = "plain"

[[matrix]]
label = "snp"
technology = "snp"

[[goal]]
what = "pages"
anchor = "1055 pages"
goal = 8
figure = "pages/launched"
cell = "snp"

[[goal]]
what = "launch"
anchor = "33.7 ms"
goal = 1_000_000_000
aim = 1
figure = "entry/modelled_ns"
cell = "snp"

[[goal]]
what = "more than base"
anchor = "143 ms"
goal = 1
figure = "total/modelled_ns"
cell = "snp"
minus = "base"

[[goal]]
what = "on a machine"
anchor = "27 ms"
open = "there is none"
"#;

#[test]
fn goals_are_judged_by_the_figures_of_their_cells() {
    if no_softkvm() {
        return;
    }
    let bench = with_spec(GOALS);
    let results = results(&bench, &["bench", "spec.toml", "--out", "g.jsonl", "--json"]);
    let cells = results["cells"].as_array().unwrap();
    let median = |label: &str, id: &str| {
        let cell = cells.iter().find(|cell| cell["settings"]["label"] == label).unwrap();
        let figures = cell["figures"].as_array().unwrap();
        figures.iter().find(|figure| figure["id"] == id).unwrap()["median"].as_f64().unwrap()
    };
    let goals = results["goals"].as_array().unwrap();
    let standing: Vec<&str> = goals.iter().map(|goal| goal["standing"].as_str().unwrap()).collect();
    assert_eq!(standing, ["reached", "goal_reached", "missed", "open"]);
    let today: Vec<Option<f64>> = goals.iter().map(|goal| goal["today"].as_f64()).collect();
    let total = |label| median(label, "total/modelled_ns");
    let expected = [
        Some(median("snp", "pages/launched")),
        Some(median("snp", "entry/modelled_ns")),
        Some(total("snp") - total("base")),
        None,
    ];
    assert_eq!(today, expected);
    assert_eq!(
        (&goals[1]["clock"], &goals[1]["profile"]),
        (&"modelled".into(), &"epyc-milan".into())
    );
    assert_eq!(goals[0]["profile"], Value::Null);
    let table = bench.cvmm(&["bench", "--show", "g.jsonl"]);
    let table = String::from_utf8(table.stdout).unwrap();
    for words in ["reached, not the aim", "anchor: 1055 pages", "open: there is none"] {
        assert!(table.contains(words), "{table}");
    }
    assert_eq!(goals[1]["range"], Value::Null);
    for (from, to, words) in [
        ("cell = \"snp\"\n\n", "cell = \"sev\"\n\n", "goal 1: no cell has the label 'sev'"),
        ("minus = \"base\"", "minus = \"bass\"", "goal 3: no cell has the label 'bass'"),
        ("open = \"there is none\"", "", "goal 4: give figure, cell and goal"),
        ("goal = 8\n", "", "goal 1: give figure, cell and goal"),
        ("goal = 8\n", "limit = 8\n", "unknown field `limit`"),
    ] {
        let bench = with_spec(&GOALS.replacen(from, to, 1));
        refused(&bench, &["bench", "spec.toml", "--out", "no.jsonl"], &[words]);
    }
}

#[test]
fn goals_tell_what_other_costs_would_make_of_them() {
    if no_softkvm() {
        return;
    }
    let bench = with_spec(&GOALS.replace("repetitions = 1", "repetitions = 1\nsensitivity = true"));
    let results = results(&bench, &["bench", "spec.toml", "--out", "s.jsonl", "--json"]);
    let profiles = |label: &str| -> Vec<String> {
        let cells = results["cells"].as_array().unwrap().iter();
        let cells = cells.filter(|cell| cell["settings"]["label"] == label);
        cells.map(|cell| cell["profile"].as_str().unwrap().to_owned()).collect()
    };
    for label in ["base", "snp"] {
        assert_eq!(profiles(label), ["epyc-milan", "epyc-milan:low", "epyc-milan:high"]);
    }
    let goal = |at: usize| {
        let range = results["goals"][at]["range"].as_array().unwrap();
        let today = results["goals"][at]["today"].as_f64().unwrap();
        [range[0].as_f64().unwrap(), today, range[1].as_f64().unwrap()]
    };
    let [low, today, high] = goal(0);
    assert!(low == today && today == high, "pages do not depend on costs");
    for at in [1, 2] {
        let [low, today, high] = goal(at);
        assert!(low < today && today < high, "goal {at}: {low} {today} {high}");
    }
    let table = String::from_utf8(bench.cvmm(&["bench", "--show", "s.jsonl"]).stdout).unwrap();
    assert!(table.contains("with other costs"), "{table}");
}

#[test]
fn contradictions_are_refused_before_the_first_run() {
    let change = |from: &str, to: &str| {
        assert!(SPEC.contains(from), "{from}");
        with_spec(&SPEC.replace(from, to))
    };
    let technology = "technology = [\"plain\", \"snp\", \"tdx\"]";
    for (from, to, words) in [
        ("repetitions = 3", "repetitions = 0", vec!["repetitions", "0 is not"]),
        ("repetitions = 3", "repetitions = -1", vec!["line 4", "u32"]),
        ("repetitions = 3", "repetition = 3", vec!["unknown field `repetition`", "line 4"]),
        ("memory = \"64M\"", "memroy = \"64M\"", vec!["unknown variant `memroy`", "line 12"]),
        ("memory = \"64M\"", "memory = \"1K\"", vec!["memory of cell 'plain'", "1K"]),
        (
            "memory = \"64M\"",
            "memory = \"64M\"\naccept = \"never\"",
            vec!["accept of cell", "never"],
        ),
        ("memory = \"64M\"", "memory = \"64M\"\nload = \"all\"", vec!["load of cell", "all"]),
        ("memory = \"64M\"", "memory = []", vec!["matrix 1, key memory", "empty"]),
        ("memory = \"64M\"", "polling = \"often\"", vec!["polling of cell", "often"]),
        ("memory = \"64M\"", "concurrent = 0", vec!["concurrent of cell", "'0'"]),
        ("memory = \"64M\"", "flags = \"--what\"", vec!["--what"]),
        ("kernel = \"builtin\"", "kernel = \"missing\"", vec!["kernel of cell 'plain'", "missing"]),
        (
            "kernel = \"builtin\"",
            "kernel = \"spec.toml\"",
            vec!["kernel of cell 'plain'", "spec.toml"],
        ),
        ("kernel = \"builtin\"", "kernel = \"$kernel\"", vec!["key kernel", "nothing was given"]),
        (
            "emulate = true",
            "emulate = \"epyc-genoa\"",
            vec!["emulate of cell 'tdx'", "epyc-genoa", "without tdx"],
        ),
        ("timeout = 60", "pin = [99999]", vec!["pin", "99999"]),
        (technology, "cpus = 1", vec!["key technology", "missing"]),
        (technology, "technology = \"sev\"", vec!["technology: there is no 'sev'", "plain"]),
        (technology, "technology = [\"snp\", \"snp\"]", vec!["cell 'snp'", "twice"]),
        (technology, "technology = { a = 1 }", vec!["line 15"]),
        ("[[matrix]]", "[[matrices]]", vec!["unknown field `matrices`"]),
        ("name = \"tiny\"", "name = ", vec!["line 2"]),
    ] {
        let bench = change(from, to);
        let mut all = vec!["cannot use the spec spec.toml"];
        all.extend(words);
        refused(&bench, &["bench", "spec.toml", "--out", "no.jsonl"], &all);
        assert!(!bench.path("no.jsonl").exists(), "{to}");
    }
    let bench = with_spec(SPEC);
    refused(&bench, &["bench", "nonsense"], &["bench nonsense", "--list"]);
    refused(&bench, &["bench"], &["SPEC"]);
}

#[test]
fn files_that_are_none_are_refused_and_left_alone() {
    if no_softkvm() {
        return;
    }
    let one = SPEC
        .replace("a_a = true", "")
        .replace("[\"plain\", \"snp\", \"tdx\"]", "[\"plain\"]")
        .replace("repetitions = 3", "repetitions = 2");
    let bench = with_spec(&one);
    let whole = ["bench", "spec.toml", "--out", "one.jsonl", "--json"];
    let first = results(&bench, &whole);
    let text = std::fs::read_to_string(bench.path("one.jsonl")).unwrap();
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();

    // Another spec, another version, another file.
    bench.file("other.toml", one.replace("\"tiny\"", "\"small\"").as_bytes());
    refused(
        &bench,
        &["bench", "other.toml", "--out", "one.jsonl"],
        &["runs of 'tiny'", "'small'", "was asked for"],
    );
    bench.file("other.toml", one.replace("repetitions = 2", "repetitions = 4").as_bytes());
    refused(&bench, &["bench", "other.toml", "--out", "one.jsonl"], &["differ in repetitions"]);
    bench.file("later.jsonl", text.replace("cvmm-bench/1", "cvmm-bench/2").as_bytes());
    for verb in
        [&["bench", "spec.toml", "--out", "later.jsonl"][..], &["bench", "--show", "later.jsonl"]]
    {
        refused(&bench, verb, &["layout cvmm-bench/2", "reads cvmm-bench/1"]);
    }
    bench.file("letter.txt", b"Dear reader");
    refused(
        &bench,
        &["bench", "spec.toml", "--out", "letter.txt"],
        &["letter.txt", "not written by"],
    );
    assert_eq!(std::fs::read(bench.path("letter.txt")).unwrap(), b"Dear reader");
    bench.file("empty.jsonl", b"");
    refused(&bench, &["bench", "--show", "empty.jsonl"], &["empty.jsonl", "no run"]);
    assert_eq!(std::fs::read_to_string(bench.path("one.jsonl")).unwrap(), text);

    // A line that is damaged in the middle, one that is cut off at the end.
    let damaged = lines[2].replace('{', "");
    bench.file(
        "damaged.jsonl",
        [&lines[..2], &[&damaged], &lines[3..]].concat().concat().as_bytes(),
    );
    refused(&bench, &["bench", "spec.toml", "--out", "damaged.jsonl"], &["line 3 is damaged"]);
    let last = lines.pop().unwrap();
    for cut in [1, last.len() / 2, last.len() - 1] {
        bench.file("one.jsonl", [&lines.concat(), &last[..cut]].concat().as_bytes());
        let output = bench.cvmm(&whole);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stderr(&output).contains("line 4 of one.jsonl was cut off"), "{}", stderr(&output));
        let again: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(lasting(again), lasting(first.clone()));
    }
    // Even the first line may be.
    bench.file("one.jsonl", &text.as_bytes()[..300]);
    assert_eq!(lasting(results(&bench, &whole)), lasting(first));
}

#[test]
fn two_at_the_same_file_are_one_too_many() {
    if no_softkvm() {
        return;
    }
    let bench = with_spec(SPEC);
    let mut child = start(&bench, &["bench", "spec.toml", "--out", "l.jsonl"]);
    wait_for_lines(&bench.path("l.jsonl"), 2);
    refused(
        &bench,
        &["bench", "spec.toml", "--out", "l.jsonl"],
        &["l.jsonl", "another cvmm is writing"],
    );
    signal(&child, libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn every_spec_that_comes_with_cvmm_can_be_read() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    bench.file("initrd", &[1; 5000]);
    let output = bench.cvmm(&["bench", "--list"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for (name, _) in cvmm::bench::builtin::SPECS {
        assert!(text.contains(&format!("\n{name}\n    needs ")), "{name}:\n{text}");
        // The file is opened last, so that everything before it has been checked.
        let files = ["--kernel", "builtin", "--initrd", "initrd", "--out", "/nowhere/x"];
        let output = bench.cvmm(&[&["bench", name, "--emulate"], &files[..]].concat());
        let told = stderr(&output);
        assert!(told.contains("cannot write the bench file /nowhere/x"), "{name}: {told}");
    }
}
