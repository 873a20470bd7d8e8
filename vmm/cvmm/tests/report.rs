//! `cvmm report` on recorded reports: what it prints and writes, and what it says of files that are none.
//!
//! `tests/data/reports` holds what `cvmm --emulate --memory 256M --cpus 2 --report` wrote for what is now the micro kernel of
//! `cargo xtask kernel micro`. `UPDATE_SNAPSHOTS=1` rewrites the snapshots.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{Bench, stderr};
use cvmm::report::cells::Cell;
use cvmm::report::html::palette::{DARK, GROUPS, LIGHT, TINTS, Theme};
use cvmm::report::runs::Run;
use cvmm::report::{RunReport, html};
use serde_json::Value;

const TECHNOLOGIES: [&str; 3] = ["snp", "tdx", "plain"];

fn recorded(technology: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/reports/{technology}.json"))
}

fn json(technology: &str) -> Value {
    serde_json::from_slice(&std::fs::read(recorded(technology)).unwrap()).unwrap()
}

/// `cvmm report` in a directory where the recorded reports are.
struct Desk(Bench);

impl Desk {
    fn new() -> Desk {
        let bench = Bench::new();
        for technology in TECHNOLOGIES {
            let report = std::fs::read(recorded(technology)).unwrap();
            bench.file(&format!("{technology}.json"), &report);
        }
        Desk(bench)
    }

    fn report(&self, args: &[&str]) -> String {
        let output = self.0.cvmm(&[&["report"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn complains(&self, args: &[&str], code: i32, words: &str) {
        let before = self.files();
        let output = self.0.cvmm(&[&["report"], args].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        for line in ["error: ", "cause: ", "try:   "] {
            let lines = said.lines().filter(|l| l.starts_with(line)).count();
            assert_eq!(lines, 1, "{args:?}: no single {line:?} in\n{said}");
        }
        assert!(said.contains(words), "{args:?}: {words:?} is not in\n{said}");
        assert_eq!(self.files(), before, "{args:?} left something behind");
    }

    fn files(&self) -> Vec<std::ffi::OsString> {
        let entries = std::fs::read_dir(self.0.path(".")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }
}

fn check_snapshot(name: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/snapshots/{name}"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, now).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(now == kept, "{} differs; UPDATE_SNAPSHOTS=1 rewrites it\n{now}", path.display());
}

#[test]
fn tables_and_values_are_as_they_were() {
    let desk = Desk::new();
    check_snapshot("report-one.txt", &desk.report(&["snp.json"]));
    check_snapshot("report-three.txt", &desk.report(&["snp.json", "tdx.json", "plain.json"]));
    check_snapshot("report.csv", &desk.report(&["snp.json", "--csv", "-"]));
}

#[test]
fn values_add_up_to_what_the_reports_say() {
    let desk = Desk::new();
    let csv = desk.report(&["snp.json", "plain.json", "--csv", "-"]);
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == header.len()));
    let column = |name: &str| header.iter().position(|column| *column == name).unwrap();
    let sum = |run: &str, about: &str, measure: &str, clock: &str| -> u64 {
        let cell = |row: &Vec<&str>, name: &str| row[column(name)].to_owned();
        let rows = rows.iter().filter(|row| {
            cell(row, "run") == run
                && cell(row, "about") == about
                && cell(row, "measure") == measure
                && cell(row, "clock") == clock
        });
        rows.map(|row| row[column("value")].parse::<u64>().unwrap()).sum()
    };
    for technology in ["snp", "plain"] {
        let report = json(technology);
        for clock in ["wall", "modelled"] {
            let total = report["total"][format!("{clock}_ns")].as_u64().unwrap();
            assert_eq!(sum(technology, "run", "duration", clock), total);
            assert_eq!(sum(technology, "phase", "duration", clock), total, "{technology} {clock}");
        }
        let exits = report["exits"]["total"].as_u64().unwrap();
        assert_eq!(sum(technology, "exits", "count", ""), exits);
        assert_eq!(sum(technology, "phase", "exits", ""), exits);
    }
}

#[test]
fn facts_have_one_layout_for_every_kind_of_run() {
    let desk = Desk::new();
    let facts: Value =
        serde_json::from_str(&desk.report(&["snp.json", "plain.json", "--json"])).unwrap();
    assert_eq!(facts["schema"], "cvmm-runs/1");
    let runs = facts["runs"].as_array().unwrap();
    let fields = |run: &Value| run.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&runs[0]), fields(&runs[1]));
    assert_eq!(runs[0]["total"]["wall_ns"], json("snp")["total"]["wall_ns"]);
    assert_eq!(runs[1]["warning"], "emulated, NOT confidential");
}

#[test]
fn a_trace_keeps_clocks_and_runs_apart() {
    let desk = Desk::new();
    desk.report(&["snp.json", "plain.json", "--perfetto", "trace"]);
    let trace = desk.0.report("trace");
    let events = trace["traceEvents"].as_array().unwrap();
    let names: Vec<(u64, &str)> = events
        .iter()
        .filter(|event| event["name"] == "process_name")
        .map(|event| (event["pid"].as_u64().unwrap(), event["args"]["name"].as_str().unwrap()))
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    for (pid, name) in names {
        let technology = if name.starts_with("snp") { "snp" } else { "plain" };
        let clock = if name.contains("modelled") { "modelled" } else { "wall" };
        let total = json(technology)["total"][format!("{clock}_ns")].as_u64().unwrap();
        let own = events.iter().filter(|event| event["pid"] == pid);
        let phases: Vec<(f64, f64)> = own
            .filter(|event| event["cat"] == "phase")
            .map(|event| (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap()))
            .collect();
        let sum: f64 = phases.iter().map(|(_, duration)| duration).sum();
        assert!((sum * 1e3 - total as f64).abs() < 1.0, "{name}: {sum} µs of {total} ns");
        // One after another on their track: what a viewer needs to nest them.
        assert!(phases.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0 + 1e-6), "{name}");
    }
    for event in events {
        let phase = event["ph"].as_str().unwrap();
        assert!(["M", "X", "i", "C"].contains(&phase), "{event}");
        assert!(event["pid"].is_u64() && event["name"].is_string(), "{event}");
        assert!(phase == "M" || event["ts"].is_f64(), "{event}");
    }
}

#[test]
fn a_file_that_is_no_report_is_refused_by_what_is_wrong_with_it() {
    let desk = Desk::new();
    let whole = std::fs::read(recorded("snp")).unwrap();
    desk.0.file("half.json", &whole[..whole.len() / 2]);
    desk.0.file("old.json", br#"{"schema":"cvmm-report/1","phases":[]}"#);
    desk.0.file("new.json", br#"{"schema":"cvmm-report/99"}"#);
    desk.0.file("other.json", br#"{"name":"something else"}"#);
    desk.0.file("empty.json", b"");
    desk.0.file("text", b"\x7fELF\0\0");
    desk.complains(&["half.json"], 2, "not whole");
    desk.complains(&["old.json"], 2, "cvmm-report/1");
    desk.complains(&["new.json"], 2, "cvmm-report/99");
    desk.complains(&["other.json"], 2, "no report");
    desk.complains(&["empty.json"], 2, "not whole");
    desk.complains(&["text"], 2, "no JSON");
    desk.complains(&["missing.json"], 5, "No such file");
    desk.complains(&["."], 5, "directory");
    // One that is wrong spoils the rest, before anything is written.
    desk.complains(&["snp.json", "half.json", "--html", "page.html"], 2, "half.json");
    assert_eq!(desk.0.cvmm(&["report"]).status.code(), Some(2));
}

/// A file as `cvmm bench` writes it, of recorded runs: two cells, a warm-up of the first, and a run of the second that failed.
fn experiment() -> String {
    let header = serde_json::json!({
        "schema": "cvmm-bench/1", "spec": { "cells": [{ "name": "plain" }, { "name": "snp" }] },
    });
    let mut lines = vec![header.to_string()];
    let mut add = |cell: usize, technology: &str, warmup: bool, code: i32, longer: u64| {
        let mut report = json(technology);
        report["total"]["wall_ns"] = (report["total"]["wall_ns"].as_u64().unwrap() + longer).into();
        let guests = serde_json::json!([{ "exit_code": code, "report": report }]);
        let run = serde_json::json!({
            "kind": "run", "cell": cell, "block": 0, "warmup": warmup, "guests": guests,
        });
        lines.push(run.to_string());
    };
    add(0, "plain", true, 0, 0);
    for longer in [0, 7_000_000, 9_000_000] {
        add(0, "plain", false, 0, longer);
        add(1, "snp", false, 0, longer);
    }
    add(1, "snp", false, 6, 0);
    lines.join("\n") + "\n"
}

#[test]
fn an_experiment_is_shown_run_by_run_and_cell_by_cell() {
    let desk = Desk::new();
    desk.0.file("bench.jsonl", experiment().as_bytes());
    let facts: Value = serde_json::from_str(&desk.report(&["bench.jsonl", "--json"])).unwrap();
    let names: Vec<&str> =
        facts["runs"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect();
    assert_eq!(names, ["plain #1", "plain #2", "plain #3", "snp #1", "snp #2", "snp #3"]);
    let page = desk.report(&["bench.jsonl", "--html", "-"]);
    let median = json("plain")["total"]["wall_ns"].as_u64().unwrap() + 7_000_000;
    assert!(page.contains(&format!("data-median={median}")), "the middle of three");
    assert_eq!(page.matches("<circle class=dot").count(), 12, "six runs by two clocks");
    assert!(page.contains("Cliff") && page.contains("took the same modelled time"));
}

#[test]
fn an_experiment_that_was_cut_off_or_damaged_says_where() {
    let desk = Desk::new();
    let whole = experiment();
    desk.0.file("torn.jsonl", &whole.as_bytes()[..whole.len() - 100]);
    let output = desk.0.cvmm(&["report", "torn.jsonl"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("cut off"), "{}", stderr(&output));
    let lines: Vec<&str> = whole.lines().collect();
    let damaged = [lines[0], &lines[1][..50], lines[2]].join("\n") + "\n";
    desk.0.file("damaged.jsonl", damaged.as_bytes());
    desk.complains(&["damaged.jsonl"], 2, "line 2");
    desk.0.file("begun.jsonl", format!("{}\n", lines[0]).as_bytes());
    desk.complains(&["begun.jsonl"], 2, "no run");
    let other = whole.replacen("cvmm-bench/1", "cvmm-bench/9", 1);
    desk.0.file("other.jsonl", other.as_bytes());
    desk.complains(&["other.jsonl"], 2, "cvmm-bench/9");
}

#[test]
fn what_cannot_be_written_is_written_nowhere() {
    let desk = Desk::new();
    desk.complains(&["snp.json", "--html", "no/such/page.html"], 5, "page");
    desk.complains(&["snp.json", "--html", "page.html", "--perfetto", "no/such/trace"], 5, "trace");
    desk.complains(&["snp.json", "--csv", "."], 5, "table");
    for flag in ["--html", "--csv", "--perfetto"] {
        desk.complains(&["snp.json", flag, "/dev/full"], 5, "space");
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cvmm"))
        .args(["report", "--json"])
        .arg(recorded("snp"))
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
}

#[test]
fn a_run_of_nothing_is_shown_as_nothing() {
    let desk = Desk::new();
    let mut report = json("snp");
    for list in ["timeline", "phases", "landmarks", "marks", "vcpus", "stray_ports"] {
        report[list] = Value::Array(Vec::new());
    }
    for list in ["by_reason", "by_phase", "histograms", "streams"] {
        report["exits"][list] = Value::Array(Vec::new());
    }
    for list in ["regions", "staged"] {
        report["launch"][list] = Value::Array(Vec::new());
    }
    report["exits"]["total"] = 0.into();
    report["total"]["wall_ns"] = 0.into();
    report["total"].as_object_mut().unwrap().remove("modelled_ns");
    desk.0.file("none.json", report.to_string().as_bytes());
    desk.report(&["none.json"]);
    desk.report(&["none.json", "snp.json", "--html", "a", "--csv", "b", "--perfetto", "c"]);
    let page = desk.report(&["none.json", "--html", "-"]);
    assert!(
        page.contains("nothing of the run was recorded") && page.contains("no exits"),
        "{page}"
    );
    assert!(page.contains("data-clock=wall"), "no modelled clock, none shown");
    assert!(!page.contains("NaN") && !page.contains("inf"), "numbers");
}

#[test]
fn runs_are_told_apart_by_as_much_of_their_paths_as_it_takes() {
    let desk = Desk::new();
    std::fs::create_dir(desk.0.path("other")).unwrap();
    std::fs::copy(recorded("tdx"), desk.0.path("other/snp.json")).unwrap();
    let facts = desk.report(&["snp.json", "other/snp.json", "plain.json", "plain.json", "--json"]);
    let facts: Value = serde_json::from_str(&facts).unwrap();
    let names: Vec<&str> =
        facts["runs"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect();
    assert_eq!(names, ["snp.json", "other/snp.json", "plain.json #3", "plain.json #4"]);
}

#[test]
fn whatever_a_report_says_stays_text() {
    const EVIL: &str = "</script><script>alert(1)</script><!--\" onload='alert(2)' & \u{202e}\u{0}";
    fn taint(value: &mut Value, name: &str) {
        match value {
            Value::String(text) if name != "schema" => text.push_str(EVIL),
            Value::Array(items) => items.iter_mut().for_each(|item| taint(item, name)),
            Value::Object(fields) => fields.iter_mut().for_each(|(name, item)| taint(item, name)),
            _ => {}
        }
    }
    let cells: Vec<Cell> = TECHNOLOGIES
        .iter()
        .map(|technology| {
            let mut report = json(technology);
            taint(&mut report, "");
            let report = RunReport::parse(report.to_string().as_bytes()).unwrap();
            Cell::of(Run { name: format!("{technology}{EVIL}"), report })
        })
        .collect();
    let page = html::page(&cells);
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("<!--"), "a comment of the guest's");
    let (shown, block) = page.split_once("<script type=application/json").unwrap();
    assert!(!shown.contains("onload='") && !block.contains("<!"), "markup of the guest's");
    assert!(
        !page.contains('\u{202e}') && !page.contains('\0'),
        "characters that belong into no page"
    );
    // Nothing leads out of the page.
    for word in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn texts_have_enough_contrast_in_both_themes() {
    for theme in [LIGHT, DARK] {
        let at_least = |text: cvmm::report::html::palette::Colour, behind| {
            assert!(
                text.contrast(behind) >= 4.5,
                "{text:x?} on {behind:x?}: {:.2}",
                text.contrast(behind)
            );
        };
        for behind in [theme.page, theme.card] {
            [theme.text, theme.quiet, theme.link].iter().for_each(|text| at_least(*text, behind));
        }
        at_least(theme.warning[1], theme.warning[0]);
        // Labels on bars have the colour of the page; so is the contrast of the bars to the page enough (3, WCAG 1.4.11).
        theme.groups.iter().for_each(|group| at_least(theme.page, *group));
        (0..TINTS.len()).for_each(|at| at_least(theme.text, theme.tint(at)));
    }
}

/// How far apart two colours are to somebody (CIE 1976 colour difference), where `eyes` makes of linear light what they see.
fn difference(a: [f64; 3], b: [f64; 3], eyes: [[f64; 3]; 3]) -> f64 {
    let lab = |linear: [f64; 3]| {
        let seen = eyes.map(|row| {
            (row[0] * linear[0] + row[1] * linear[1] + row[2] * linear[2]).clamp(0.0, 1.0)
        });
        let [r, g, b] = seen;
        let xyz = [
            (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
            0.2126 * r + 0.7152 * g + 0.0722 * b,
            (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.0888,
        ];
        let [x, y, z] = xyz.map(|t| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 });
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    };
    let (a, b) = (lab(a), lab(b));
    (0..3).map(|at| (a[at] - b[at]).powi(2)).sum::<f64>().sqrt()
}

/// Simulations of colour blindness at full severity (Machado, Oliveira and Fernandes 2009, table 1).
const EYES: [(&str, [[f64; 3]; 3]); 4] = [
    ("all cones", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    (
        "no long-wave cones",
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    ),
    (
        "no middle-wave cones",
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ],
    ),
    (
        "no short-wave cones",
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.3039],
        ],
    ),
];

#[test]
fn groups_that_meet_in_a_timeline_differ_for_everybody() {
    const MEET: [&str; 11] = ["HS", "HG", "SG", "GK", "KU", "UA", "UP", "UR", "PR", "KR", "RT"];
    let colour = |theme: &Theme, group: char| {
        let at = GROUPS.iter().position(|(id, _)| id.starts_with(group)).unwrap();
        theme.groups[at].linear()
    };
    for (name, theme) in [("light", LIGHT), ("dark", DARK)] {
        for (who, eyes) in EYES {
            for pair in MEET {
                let mut groups = pair.chars().map(|group| colour(&theme, group));
                let apart = difference(groups.next().unwrap(), groups.next().unwrap(), eyes);
                // 2.3 is a just noticeable difference.
                assert!(apart > 11.0, "{pair}, {name} theme, {who}: {apart:.1}");
            }
        }
    }
}
