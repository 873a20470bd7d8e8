//! The page ledger in a report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::schema::Phase;
use crate::ledger::{Accepting, Change, Counts, Gauge, Ledger, PageState, Point, Usage};
use crate::phase::Phase as Id;
use crate::recorder::{Recorder, WallNs};

/// Whose every page was, and when.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LedgerFacts {
    /// RAM, and what a guest has beside it: every byte is in one state.
    pub memory_bytes: u64,
    /// Bytes by state.
    pub states_at_end: BTreeMap<String, u64>,
    pub totals: LedgerCounts,
    /// Phases in which something changed.
    pub by_phase: Vec<PhaseLedger>,
    /// Pages that changed owner more than once while the guest ran.
    pub flip_flop_pages: u64,
    /// How the shim accepted memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<AcceptedFacts>,
    /// The earliest changes; neighbours that changed together are one.
    pub changes: Vec<ChangeFacts>,
    /// Changes that did not fit there.
    pub changes_dropped: u64,
    pub changes_dropped_bytes: u64,
    /// Bytes by state over time: each point holds until the next.
    pub series: Vec<SeriesPoint>,
    /// Changes that were this close to each other, by the guest's clock where it is read, are one point.
    pub series_grain_ns: u64,
    /// Host memory really used.
    pub memory: MemoryFacts,
}

/// Pages that changed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LedgerCounts {
    pub measured_pages: u64,
    pub added_pages: u64,
    pub accepted_pages: u64,
    pub to_private_pages: u64,
    pub to_shared_pages: u64,
    /// Of these two, by being touched.
    pub touched_pages: u64,
    /// Asked for by who had them.
    pub unchanged_pages: u64,
    /// Time that the monitor spent on the requests.
    pub conversion_wall_ns: u64,
}

/// What changed in a phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PhaseLedger {
    pub phase: String,
    #[serde(flatten)]
    pub counts: LedgerCounts,
    /// Pages that changed owner, by the phase's time on either clock.
    pub owner_changes_per_wall_second: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_changes_per_modelled_second: Option<f64>,
}

/// What the shim accepted, by its own word.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct AcceptedFacts {
    /// Of 4 KiB, in all.
    pub pages: u64,
    /// Of them, accepted as 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages_4k: Option<u64>,
    /// And as 2 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages_2m: Option<u64>,
    /// 2 MiB that the machine held as 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mismatches: Option<u64>,
    /// `marks`.
    pub source: String,
}

/// A range that went from one state to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ChangeFacts {
    pub wall_ns: u64,
    /// The last of `steps`.
    pub last_wall_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled_ns: Option<u64>,
    pub phase: String,
    pub gpa: u64,
    pub bytes: u64,
    /// Changes one after another at neighbouring addresses.
    pub steps: u64,
    pub from: String,
    pub to: String,
    /// `launch`, `shim`, `guest` or `touch`.
    pub by: String,
}

/// Bytes by state at a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SeriesPoint {
    pub wall_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled_ns: Option<u64>,
    /// States of no page are left out.
    pub bytes: BTreeMap<String, u64>,
}

/// Host memory really used.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct MemoryFacts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<HalfFacts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<HalfFacts>,
    pub samples: u64,
    /// The longest time between two samples: a peak that was shorter may have been missed.
    pub interval_wall_ns: u64,
    /// Time spent on taking them.
    pub sampling_wall_ns: u64,
}

/// Host memory of one half.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct HalfFacts {
    /// Who counted it.
    pub source: String,
    /// Just before the guest ran: what the launch had populated.
    pub begin_bytes: u64,
    pub peak_bytes: u64,
    /// After it had stopped.
    pub end_bytes: u64,
}

impl LedgerFacts {
    pub(super) fn of(
        ledger: &Ledger,
        usage: &Usage,
        recorder: &Recorder,
        phases: &[Phase],
    ) -> LedgerFacts {
        let wall = |then| recorder.since_exec(then);
        let states = PageState::ALL.iter().zip(ledger.bytes());
        let log = ledger.log();
        LedgerFacts {
            memory_bytes: ledger.memory_bytes(),
            states_at_end: states.map(|(state, bytes)| (state.name().into(), *bytes)).collect(),
            totals: ledger.totals().into(),
            by_phase: Id::ALL.iter().filter_map(|id| by_phase(ledger, *id, phases)).collect(),
            flip_flop_pages: ledger.flip_flop_bytes() / abi::shim::PAGE,
            accepted: ledger.accepting().map(accepted),
            changes: log.entries().iter().map(|entry| change(entry, wall)).collect(),
            changes_dropped: log.dropped(),
            changes_dropped_bytes: log.dropped_bytes(),
            series: ledger.series().points().iter().map(|p| point(p, wall)).collect(),
            series_grain_ns: ledger.series().grain().0,
            memory: MemoryFacts {
                shared: usage.shared.map(half),
                private: usage.private.map(half),
                samples: usage.samples,
                interval_wall_ns: usage.interval.0,
                sampling_wall_ns: usage.spent.0,
            },
        }
    }
}

impl From<Counts> for LedgerCounts {
    fn from(counts: Counts) -> LedgerCounts {
        LedgerCounts {
            measured_pages: counts.measured,
            added_pages: counts.added,
            accepted_pages: counts.accepted,
            to_private_pages: counts.to_private,
            to_shared_pages: counts.to_shared,
            touched_pages: counts.touched,
            unchanged_pages: counts.unchanged,
            conversion_wall_ns: counts.wall_ns,
        }
    }
}

fn by_phase(ledger: &Ledger, id: Id, phases: &[Phase]) -> Option<PhaseLedger> {
    let counts = ledger.counts(id);
    if counts == Counts::default() {
        return None;
    }
    let phase = phases.iter().find(|phase| phase.id == id.id());
    let moved = (counts.to_private + counts.to_shared) as f64;
    let rate = |ns: u64| if ns == 0 { 0.0 } else { moved * 1e9 / ns as f64 };
    Some(PhaseLedger {
        phase: id.id().into(),
        counts: counts.into(),
        owner_changes_per_wall_second: rate(phase.map_or(0, |phase| phase.wall_ns)),
        owner_changes_per_modelled_second: phase.and_then(|phase| phase.modelled_ns).map(rate),
    })
}

fn accepted(accepting: Accepting) -> AcceptedFacts {
    AcceptedFacts {
        pages: accepting.pages,
        pages_4k: accepting.sizes.map(|sizes| sizes.small),
        pages_2m: accepting.sizes.map(|sizes| sizes.large),
        mismatches: accepting.sizes.map(|sizes| sizes.mismatches),
        source: "marks".into(),
    }
}

fn change(change: &Change, wall: impl Fn(WallNs) -> u64) -> ChangeFacts {
    ChangeFacts {
        wall_ns: wall(change.first.wall),
        last_wall_ns: wall(change.last),
        modelled_ns: change.first.guest.map(|guest| guest.0),
        phase: change.first.phase.id().into(),
        gpa: change.range.gpa,
        bytes: change.range.len,
        steps: change.steps,
        from: change.from.name().into(),
        to: change.to.name().into(),
        by: change.by.name().into(),
    }
}

fn point(point: &Point, wall: impl Fn(WallNs) -> u64) -> SeriesPoint {
    let states = PageState::ALL.iter().zip(point.bytes).filter(|(_, bytes)| *bytes > 0);
    SeriesPoint {
        wall_ns: wall(point.wall),
        modelled_ns: point.guest.map(|guest| guest.0),
        bytes: states.map(|(state, bytes)| (state.name().into(), bytes)).collect(),
    }
}

fn half(gauge: Gauge) -> HalfFacts {
    HalfFacts {
        source: gauge.source.name().into(),
        begin_bytes: gauge.begin,
        peak_bytes: gauge.peak,
        end_bytes: gauge.end,
    }
}
