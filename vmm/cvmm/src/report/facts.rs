//! What `cvmm report --json` prints: the facts of each run under the same names, whatever kind of run it was.

use serde_json::{Value, json};

use super::clock::Clock;
use super::runs::Run;
use super::schema::{Phase, RunReport};

/// The version of the layout.
pub const SCHEMA: &str = "cvmm-runs/1";

/// The runs as JSON.
pub fn json(runs: &[Run]) -> String {
    let runs: Vec<Value> = runs.iter().map(run).collect();
    format!("{:#}\n", json!({ "schema": SCHEMA, "runs": runs }))
}

fn run(run: &Run) -> Value {
    let report = &run.report;
    json!({
        "run": run.name,
        "technology": report.technology,
        "platform": report.platform,
        "confidential": report.confidential,
        "digest": report.digest,
        "guest": report.guest,
        "outcome": report.outcome,
        "warning": run.warning(),
        "total": times(|clock| clock.total(report)),
        "placeholder_modelled_ns": report.total.placeholder_modelled_ns,
        "phases": report.phases.iter().map(|p| phase(report, p)).collect::<Vec<_>>(),
        "marks": report.marks,
        "exits": {
            "total": report.exits.total,
            "by_reason": report.exits.by_reason,
            "by_phase": report.exits.by_phase,
        },
        "launch": {
            "pages": report.launch.pages,
            "vmsa_pages": report.launch.vmsa_pages,
            "measuring_modelled_ns": report.launch.measuring_modelled_ns,
        },
        "page_state_changes": report.page_state_changes,
        "ledger": {
            "memory_bytes": report.ledger.memory_bytes,
            "states_at_end": report.ledger.states_at_end,
            "by_phase": report.ledger.by_phase,
            "accepted": report.ledger.accepted,
            "memory": report.ledger.memory,
        },
        "probes": report.probes,
    })
}

fn phase(report: &RunReport, phase: &Phase) -> Value {
    let segments = report.timeline.iter().filter(|segment| segment.phase == phase.id);
    json!({
        "phase": phase.id,
        "name": phase.name,
        "time": times(|clock| clock.phase(phase)),
        "segments": segments.map(|segment| json!({
            "wall_ns": Clock::Wall.segment(segment),
            "modelled_ns": Clock::Modelled.segment(segment),
        })).collect::<Vec<_>>(),
        "exits": phase.exits,
        "kvm_exits": phase.kvm_exits,
        "to_private_pages": phase.to_private_pages,
        "to_shared_pages": phase.to_shared_pages,
    })
}

/// The same by each clock.
fn times(of: impl Fn(Clock) -> Option<u64>) -> Value {
    json!({ "wall_ns": of(Clock::Wall), "modelled_ns": of(Clock::Modelled) })
}
