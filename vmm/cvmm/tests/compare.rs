//! `cvmm compare` and `cvmm model`, on runs of softkvm.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, stderr};
use serde_json::Value;

fn no_softkvm() -> bool {
    let missing = cvmm::emulate::find_library().is_err();
    if missing {
        eprintln!("skipped: softkvm's library is not built (cargo build -p softkvm-preload)");
    }
    missing
}

/// A run of the test guest; its report goes into a file.
fn boot(
    bench: &Bench,
    environment: &[(&str, &str)],
    technology: &str,
    more: &[&str],
    report: &str,
) {
    let words =
        [technology, "--emulate", "--kernel", "guest.elf", "--memory", "64M", "--report", report];
    let output = bench.cvmm_with(environment, &[&words, more].concat());
    assert!(bench.path(report).exists(), "{}", stderr(&output));
}

fn json(bench: &Bench, args: &[&str]) -> Value {
    let output = bench.cvmm(args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn words(bench: &Bench, args: &[&str]) -> String {
    let output = bench.cvmm(args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(bench: &Bench, args: &[&str], words: &[&str]) {
    let output = bench.cvmm(args);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is not in:\n{told}");
    }
}

/// A figure of the only pair.
fn figure<'a>(result: &'a Value, id: &str) -> &'a Value {
    let all = result["pairs"][0]["comparisons"].as_array().unwrap();
    all.iter().find(|c| c["figure"] == id).unwrap_or_else(|| panic!("no {id}"))
}

#[test]
fn two_reports_show_what_is_exact_and_claim_nothing_else() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    boot(&bench, &[], "--snp", &[], "one.json");
    boot(&bench, &[], "--snp", &[], "same.json");
    boot(&bench, &[], "--snp", &["--cpus", "2"], "two.json");
    boot(&bench, &[], "--tdx", &[], "td.json");

    let same = json(&bench, &["compare", "one.json", "same.json", "--json"]);
    assert_eq!(same["pairs"][0]["changed"], Value::Array(Vec::new()));
    for comparison in same["pairs"][0]["comparisons"].as_array().unwrap() {
        let expected = match comparison["clock"].as_str() {
            Some("measured") => "too_few",
            _ => "equal",
        };
        assert_eq!(comparison["verdict"], expected, "{comparison:#}");
    }

    let two = json(&bench, &["compare", "one.json", "two.json", "--json"]);
    assert!(
        two["pairs"][0]["changed"]
            .as_array()
            .unwrap()
            .contains(&serde_json::json!(["vcpus", "1", "2"]))
    );
    // One more VMSA for the security processor.
    let launch = figure(&two, "launch/modelled_ns");
    assert_eq!(
        (launch["difference"].as_f64(), &launch["verdict"]),
        (Some(1_003_000.0), &"differs_exactly".into())
    );
    assert_eq!(figure(&two, "pages/launched")["difference"].as_f64(), Some(1.0));
    assert_eq!(figure(&two, "total/wall_ns")["verdict"], "too_few");
    let text = words(&bench, &["compare", "one.json", "two.json"]);
    for said in ["vcpus: 1 -> 2", "ms longer", "S2 ", "one run cannot tell", "rmpupdate"] {
        assert!(text.contains(said), "{said:?} is not in:\n{text}");
    }

    let parts = words(&bench, &["compare", "one.json", "td.json"]);
    for said in [
        "technology: snp -> tdx",
        "profile: epyc-milan -> xeon-spr",
        "what differs may be the part",
    ] {
        assert!(parts.contains(said), "{said:?} is not in:\n{parts}");
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    boot(&bench, &[], "--plain", &[], "modelled.json");
    boot(&bench, &[("SOFTKVM_REALTIME", "1")], "--plain", &[], "measured.json");
    let pair = ["compare", "modelled.json", "measured.json"];
    refused(
        &bench,
        &pair,
        &["modelled in 'modelled.json'", "measured in 'measured.json'", "--counts"],
    );
    let counts = json(&bench, &[&pair[..], &["--counts", "--json"]].concat());
    assert_eq!(counts["counts_only"], true);
    let all = counts["pairs"][0]["comparisons"].as_array().unwrap();
    assert!(!all.is_empty() && all.iter().all(|c| c["clock"] == "counted"));

    let text = std::fs::read_to_string(bench.path("modelled.json")).unwrap();
    bench.file("later.json", text.replace("cvmm-report/2", "cvmm-report/9").as_bytes());
    refused(&bench, &["compare", "modelled.json", "later.json"], &["later.json", "cvmm-report/9"]);
    bench.file("cut.json", &text.as_bytes()[..text.len() / 2]);
    refused(&bench, &["compare", "cut.json", "modelled.json"], &["cut.json"]);
    let missing = bench.cvmm(&["compare", "missing.json", "modelled.json"]);
    assert_eq!(missing.status.code(), Some(5), "{}", stderr(&missing));
}

#[test]
fn two_files_of_runs_are_compared_cell_by_cell() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    bench.file(
        "spec.toml",
        b"name = \"x\"\nabout = \"y\"\nrepetitions = 8\n[[matrix]]\ntechnology = [\"plain\", \"snp\"]\nemulate = true\nkernel = \"builtin\"\nmemory = \"64M\"\n",
    );
    words(&bench, &["bench", "spec.toml", "--out", "a.jsonl"]);
    // The same runs, but that SEV-SNP's took ten seconds more.
    let text = std::fs::read_to_string(bench.path("a.jsonl")).unwrap();
    let later: Vec<String> = text
        .lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            if line["cell"] == 1 {
                let wall = &mut line["guests"][0]["report"]["total"]["wall_ns"];
                *wall = (wall.as_u64().unwrap() + 10_000_000_000).into();
            }
            // The first line has to begin as it did.
            match line["schema"].as_str() {
                Some(_) => text.lines().next().unwrap().to_owned() + "\n",
                None => line.to_string() + "\n",
            }
        })
        .collect();
    bench.file("b.jsonl", later.concat().as_bytes());
    let result = json(&bench, &["compare", "a.jsonl", "b.jsonl", "--json"]);
    assert_eq!(result["pairs"].as_array().unwrap().len(), 2);
    let verdicts = |pair: usize| {
        let all = result["pairs"][pair]["comparisons"].as_array().unwrap().iter();
        let unequal = all.filter(|c| c["verdict"] != "equal" && c["difference"] != 0.0);
        unequal
            .map(|c| (c["figure"].as_str().unwrap(), c["verdict"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(verdicts(0), []);
    assert_eq!(verdicts(1), [("total/wall_ns", "differs")]);
    let text = words(&bench, &["compare", "a.jsonl", "b.jsonl"]);
    assert!(text.contains("total: 10000.000 ms longer"), "{text}");

    boot(&bench, &[], "--plain", &[], "report.json");
    refused(&bench, &["compare", "a.jsonl", "report.json"], &["one is a report", "two of a kind"]);
    let empty: String = text.lines().take(1).collect();
    bench.file("none.jsonl", empty.as_bytes());
    let header = std::fs::read_to_string(bench.path("a.jsonl")).unwrap();
    bench.file("none.jsonl", format!("{}\n", header.lines().next().unwrap()).as_bytes());
    refused(
        &bench,
        &["compare", "a.jsonl", "none.jsonl"],
        &["none.jsonl", "no run in it ended well"],
    );
}

/// A term of a model.
fn term<'a>(model: &'a Value, name: &str) -> &'a Value {
    let all = model["terms"].as_array().unwrap();
    all.iter().find(|term| term["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn an_estimate_is_counts_times_the_profile() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    let flags = [
        "model",
        "--technology",
        "snp",
        "--profile",
        "epyc-milan",
        "--pages",
        "256",
        "--cpus",
        "2",
    ];
    let more = ["--memory", "256M", "--exits", "1000", "--kernel-ms", "20", "--json"];
    let model = json(&bench, &[&flags[..], &more].concat());
    let ns = |name: &str| term(&model, name)["estimate_modelled_ns"].as_f64().unwrap();
    assert_eq!(ns("pages measured"), 256.0 * 1_003_000.0);
    assert_eq!(ns("launch sealed"), 5_000_000.0 + 2.0 * 1_003_000.0);
    let accepted = 65_536.0 - 256.0;
    assert_eq!(ns("memory accepted"), accepted * (1_250.0 + 500.0 + 300.0));
    assert_eq!(term(&model, "memory accepted")["placeholder_ns"], accepted * 800.0);
    assert_eq!(ns("kernel"), 20e6 + 1_000.0 * (640.0 + 2_930.0 + 3_000.0));
    let terms = model["terms"].as_array().unwrap().iter();
    let sum: f64 = terms.map(|term| term["estimate_modelled_ns"].as_f64().unwrap()).sum();
    assert_eq!(model["estimate_modelled_ns"].as_f64(), Some(sum));
    let costs: Vec<&str> = model["costs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cost| cost["name"].as_str().unwrap())
        .collect();
    assert!(costs.contains(&"rmpupdate") && !costs.contains(&"guest_request"), "{costs:?}");

    // A profile of one's own needs no softkvm.
    bench.file(
        "mine.toml",
        b"name = \"mine\"\n[costs.launch_update]\nns = 7\nsource = \"a guess\"\nconfidence = \"none\"\n",
    );
    let mine = json(
        &bench,
        &["model", "--technology", "snp", "--profile", "mine.toml", "--pages", "3", "--json"],
    );
    let measured = term(&mine, "pages measured");
    assert_eq!(
        (&measured["estimate_modelled_ns"], &measured["placeholder_ns"]),
        (&21.0.into(), &21.0.into())
    );
    bench.file("broken.toml", b"name = 7\n");
    refused(
        &bench,
        &["model", "--technology", "snp", "--profile", "broken.toml"],
        &["broken.toml"],
    );
    refused(
        &bench,
        &["model", "--technology", "tdx", "--profile", "epyc-milan"],
        &["epyc-milan", "without tdx"],
    );
    refused(&bench, &["model"], &["--technology"]);
}

#[test]
fn an_estimate_stands_beside_the_run_it_is_of() {
    if no_softkvm() {
        return;
    }
    let bench = Bench::new();
    for (technology, exact) in [
        ("--snp", &["launch begun", "pages measured", "launch sealed"][..]),
        ("--tdx", &["TD made", "TD sealed"]),
    ] {
        boot(&bench, &[], technology, &["--cpus", "2"], "run.json");
        let model = json(&bench, &["model", "--report", "run.json", "--json"]);
        for name in exact {
            let term = term(&model, name);
            assert_eq!(
                term["run_modelled_ns"], term["estimate_modelled_ns"],
                "{technology} {term:#}"
            );
        }
        let accepted = term(&model, "memory accepted");
        let ratio = accepted["run_modelled_ns"].as_f64().unwrap()
            / accepted["estimate_modelled_ns"].as_f64().unwrap();
        assert!((0.8..1.2).contains(&ratio), "{technology}: {accepted:#}");
        let text = words(&bench, &["model", "--report", "run.json"]);
        for said in [
            "all times are modelled",
            "placeholder",
            "run - est. ms",
            "costs:",
            "how it was computed",
        ] {
            assert!(text.contains(said), "{said:?} is not in:\n{text}");
        }
    }
    boot(&bench, &[("SOFTKVM_REALTIME", "1")], "--plain", &[], "measured.json");
    refused(
        &bench,
        &["model", "--report", "measured.json"],
        &["--report", "measured", "--emulate"],
    );
    refused(&bench, &["model", "--report", "run.json", "--technology", "snp"], &["of a tdx guest"]);
    refused(
        &bench,
        &["model", "--report", "run.json", "--profile", "xeon-emr"],
        &["ran on xeon-spr"],
    );
}
