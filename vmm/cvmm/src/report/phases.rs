//! Phases of a boot, derived from events and marks; nothing declares them.

use abi::marks::{Mark, MarkId};
use serde::Serialize;

use crate::recorder::{Op, Recorder};
use crate::run::RunRecord;

/// A phase.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Phase {
    pub id: &'static str,
    pub name: &'static str,
    /// Time on the host's clock. For H1 to S2, time inside the calls that belong to the phase.
    pub wall_ns: u64,
    /// Time on the modelled platform's clock, under softkvm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modelled_ns: Option<u64>,
    /// How many operations, or exits of the vCPU that set the marks.
    pub count: u64,
    pub bytes: u64,
}

const HOST_PHASES: [(&str, &str); 7] = [
    ("H1", "configuration and files"),
    ("H2", "VM creation"),
    ("H3", "memory"),
    ("H4", "vCPU creation"),
    ("S0", "protection set up"),
    ("S1", "launch pages measured"),
    ("S2", "launch sealed"),
];

/// Phases between two marks. G3 (copy) and G4 (verify) are one pass of the shim, hence one row. Where a firmware hands over
/// to the kernel shows nowhere, hence its last row.
const GUEST_PHASES: [(&str, &str, MarkId, MarkId); 8] = [
    ("G1", "shim set-up", MarkId::SHIM_ENTRY, MarkId::ACCEPT_BEGIN),
    ("G2", "memory accepted", MarkId::ACCEPT_BEGIN, MarkId::ACCEPT_END),
    ("G4", "files copied and verified", MarkId::ACCEPT_END, MarkId::KERNEL_ENTRY),
    ("K0", "kernel, decompression included", MarkId::KERNEL_ENTRY, MarkId::INIT_ENTRY),
    ("G5", "kernel fetched by firmware", MarkId::KERNEL_FETCH_BEGIN, MarkId::KERNEL_FETCH_END),
    ("K0", "rest of firmware, and kernel", MarkId::KERNEL_FETCH_END, MarkId::INIT_ENTRY),
    ("U0", "user space to ready", MarkId::INIT_ENTRY, MarkId::INIT_READY),
    ("A0", "attestation", MarkId::ATTEST_BEGIN, MarkId::ATTEST_END),
];

/// Slots and attributes name bytes that another operation has counted.
fn moves_bytes(op: Op) -> bool {
    matches!(op, Op::MapMemory | Op::CopyIn | Op::LaunchUpdate)
}

pub(super) fn derive(recorder: &Recorder, run: &RunRecord) -> Vec<Phase> {
    let before_main = recorder.started().before_main;
    let mut phases = vec![Phase {
        id: "H0",
        name: "process start",
        wall_ns: u64::try_from(before_main.as_nanos()).unwrap_or(u64::MAX),
        modelled_ns: None,
        count: 1,
        bytes: 0,
    }];
    for (id, name) in HOST_PHASES {
        let mut phase = Phase { id, name, wall_ns: 0, modelled_ns: None, count: 0, bytes: 0 };
        for event in recorder.events().iter().filter(|e| e.op.phase() == id) {
            phase.wall_ns += event.end.0 - event.begin.0;
            phase.bytes += if moves_bytes(event.op) { event.bytes } else { 0 };
            phase.count += 1;
            if let Some((begin, end)) = event.guest {
                *phase.modelled_ns.get_or_insert(0) += end.0 - begin.0;
            }
        }
        if phase.count > 0 {
            phases.push(phase);
        }
    }
    let find = |id| run.marks.iter().find(|m| Mark(m.value).id() == id);
    if let Some(first) = run.marks.first() {
        phases.push(Phase {
            id: "G0",
            name: "first entry to first mark",
            wall_ns: first.wall.0 - run.begin.0,
            modelled_ns: run.guest_begin.zip(first.guest).map(|(a, b)| b.0.saturating_sub(a.0)),
            count: first.exits,
            bytes: 0,
        });
    }
    for (id, name, from, to) in GUEST_PHASES {
        let (Some(from), Some(to)) = (find(from), find(to)) else { continue };
        phases.push(Phase {
            id,
            name,
            wall_ns: to.wall.0.saturating_sub(from.wall.0),
            modelled_ns: from.guest.zip(to.guest).map(|(a, b)| b.0.saturating_sub(a.0)),
            count: to.exits.saturating_sub(from.exits),
            bytes: 0,
        });
    }
    phases.push(Phase {
        id: "R",
        name: "the whole run",
        wall_ns: run.end.0 - run.begin.0,
        modelled_ns: run.guest_end.map(|end| end.0),
        count: run.vcpus.iter().flat_map(|v| &v.exits).map(|e| e.count).sum(),
        bytes: 0,
    });
    phases
}
