//! A file of `cvmm bench`, or a spec, that is damaged or was made up.

use std::path::Path;

use cvmm::bench::journal;
use cvmm::bench::result::Results;
use cvmm::bench::spec::{Given, Spec, describe};

use super::Target;

/// Reads the bytes as both.
pub const TARGET: Target = Target { name: "bench", seeds, max_len: 4096, run };

const SPEC: &str = r#"
name = "x"
about = "y"
repetitions = 2
a_a = true
[guest]
emulate = true
kernel = "builtin"
[[matrix]]
label = "l"
technology = ["plain", "snp"]
memory = "64M"
concurrent = [1, 2]
[[line]]
x = "concurrent"
y = "last/modelled_ns"
published = 1.5
source = "z"
"#;

fn seeds() -> Vec<Vec<u8>> {
    let spec = Spec::parse("spec", SPEC, Path::new(""), &Given::default());
    let header = spec.map(|spec| {
        let host = serde_json::json!({
            "processor": "p", "processors": 2, "kernel": "k", "governor": null, "memory_bytes": 1, "cvmm_version": "0",
        });
        // As the file has it: the schema stands first.
        let rest = serde_json::json!({ "fingerprint": "f", "spec": spec, "host": host }).to_string();
        format!("{{\"schema\":\"{}\",{}\n", journal::SCHEMA, &rest[1..])
    });
    let run = |block: u32, cell: u32, ns: u64| {
        let report = serde_json::json!({
            "platform": { "kind": "softkvm", "profile": "epyc-milan", "guest_time": "modelled" },
            "total": { "wall_ns": ns, "modelled_ns": 7 },
            "exits": { "total": 3, "by_reason": [{ "reason": "mmio_read", "count": 3 }] },
        });
        let guests = serde_json::json!([{ "exit_code": 0, "report": report }]);
        let run = serde_json::json!({
            "kind": "run", "block": block, "cell": cell, "warmup": false, "began_unix_ms": 1, "guests": guests,
        });
        format!("{run}\n")
    };
    let runs = [run(0, 0, 5), run(0, 1, 9), run(1, 0, 6), run(1, 1, 5)].concat();
    vec![SPEC.into(), (header.unwrap_or_default() + &runs).into()]
}

fn run(input: &[u8]) {
    if let Ok(contents) = journal::parse(Path::new("file"), input) {
        let results = Results::of(&contents);
        assert!(serde_json::to_string(&results).is_ok());
        assert_eq!(results.cells.len(), contents.header.spec.cells.len());
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = describe(text);
    if let Ok(spec) = Spec::parse("spec", text, Path::new(""), &Given::default()) {
        assert!(!spec.cells.is_empty() && spec.cells.iter().all(|cell| !cell.name.is_empty()));
    }
}
