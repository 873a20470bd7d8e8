//! `cvmm report --perfetto`: runs as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.
//!
//! The format is Chrome's Trace Event Format, JSON object form. A process is one run by one clock: wall and modelled times
//! never share an axis. Times in it are microseconds.

use serde_json::{Value, json};

use super::clock::Clock;
use super::runs::Run;
use super::schema::RunReport;

/// Track of the phases.
const PHASES: u64 = 1;
/// Track of the first work beside the timeline; such works overlap, so that each has its own.
const BESIDE: u64 = 8;
/// Track of vCPU 0; the others follow.
const VCPUS: u64 = 16;

/// The trace.
pub fn render(runs: &[Run]) -> String {
    let mut events = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        for (which, clock) in Clock::ALL.into_iter().enumerate() {
            if clock.known(&run.report) {
                // Process 0 is the idle one to some tools.
                let process = Process { pid: 1 + (at * Clock::ALL.len() + which) as u64, clock };
                process.events(run, &mut events);
            }
        }
    }
    let runs: Vec<Value> = runs
        .iter()
        .map(|run| json!({ "run": run.name, "platform": run.report.platform, "warning": run.warning() }))
        .collect();
    let trace = json!({
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": { "made_by": format!("cvmm {}", env!("CARGO_PKG_VERSION")), "runs": runs },
    });
    format!("{trace}\n")
}

#[derive(Clone, Copy)]
struct Process {
    pid: u64,
    clock: Clock,
}

impl Process {
    fn events(self, run: &Run, events: &mut Vec<Value>) {
        let report = &run.report;
        let clock = match (self.clock, &report.platform.profile) {
            (Clock::Modelled, Some(profile)) => format!("modelled time of profile {profile}"),
            (clock, _) => format!("{} time", clock.name()),
        };
        events.push(self.name("process_name", 0, &format!("{}: {clock}", run.describe())));
        events.push(json!({
            "ph": "M", "pid": self.pid, "name": "process_sort_index", "args": { "sort_index": self.pid },
        }));
        events.push(self.name("thread_name", PHASES, "phases"));
        for vcpu in &report.vcpus {
            events.push(self.name(
                "thread_name",
                VCPUS + u64::from(vcpu.id),
                &format!("vCPU {}", vcpu.id),
            ));
        }
        self.phases(report, events);
        self.beside(report, events);
        self.exits(report, events);
        self.marks(report, events);
        self.landmarks(report, events);
        self.ownership(report, events);
    }

    fn name(self, what: &str, tid: u64, name: &str) -> Value {
        json!({ "ph": "M", "pid": self.pid, "tid": tid, "name": what, "args": { "name": name } })
    }

    fn phases(self, report: &RunReport, events: &mut Vec<Value>) {
        for segment in &report.timeline {
            let Some((begin, end)) = self.clock.segment(segment) else { continue };
            let phase = report.phases.iter().find(|phase| phase.id == segment.phase);
            events.push(json!({
                "ph": "X", "pid": self.pid, "tid": PHASES, "cat": "phase",
                "name": format!("{} {}", segment.phase, phase.map_or("", |phase| &phase.name)),
                "ts": micros(begin), "dur": micros(end - begin),
                "args": { "clock": self.clock.name(), "of_the_whole_phase": phase },
            }));
        }
    }

    /// Work of other threads, measured; modelled time does not see it.
    fn beside(self, report: &RunReport, events: &mut Vec<Value>) {
        if self.clock != Clock::Wall {
            return;
        }
        for (tid, work) in (BESIDE..VCPUS).zip(&report.beside) {
            events.push(self.name("thread_name", tid, "beside the launch"));
            let dur = work.end_wall_ns.saturating_sub(work.begin_wall_ns);
            events.push(json!({
                "ph": "X", "pid": self.pid, "tid": tid, "cat": "beside",
                "name": format!("{} {}", work.phase, work.name),
                "ts": micros(work.begin_wall_ns), "dur": micros(dur),
                "args": { "bytes": work.bytes },
            }));
        }
    }

    /// A phase's exits, on the track of the vCPU that they are of, in the phase's longest piece.
    fn exits(self, report: &RunReport, events: &mut Vec<Value>) {
        for phase in &report.phases {
            let pieces = report.timeline.iter().filter(|segment| segment.phase == phase.id);
            let pieces = pieces.filter_map(|segment| self.clock.segment(segment));
            let Some((begin, end)) = pieces.max_by_key(|(begin, end)| end - begin) else {
                continue;
            };
            for vcpu in &report.vcpus {
                let all = report.exits.by_phase.iter();
                let here = all.filter(|exits| exits.phase == phase.id && exits.vcpu == vcpu.id);
                let by_reason: Vec<_> = here.collect();
                let count = by_reason.iter().map(|e| e.count).fold(0, u64::saturating_add);
                if count == 0 {
                    continue;
                }
                events.push(json!({
                    "ph": "X", "pid": self.pid, "tid": VCPUS + u64::from(vcpu.id), "cat": "exits",
                    "name": format!("{count} exits in {}", phase.id),
                    "ts": micros(begin), "dur": micros(end - begin),
                    "args": { "by_reason": by_reason },
                }));
            }
        }
    }

    fn marks(self, report: &RunReport, events: &mut Vec<Value>) {
        for mark in &report.marks {
            let Some(at) = self.clock.mark(mark) else { continue };
            events.push(json!({
                "ph": "i", "s": "t", "pid": self.pid, "tid": VCPUS + u64::from(mark.vcpu), "cat": "mark",
                "name": mark.name, "ts": micros(at),
                "args": { "number": mark.number, "exits_before": mark.exits_before },
            }));
        }
    }

    fn landmarks(self, report: &RunReport, events: &mut Vec<Value>) {
        for landmark in &report.landmarks {
            let Some((at, uncertainty)) = self.clock.landmark(landmark) else { continue };
            events.push(json!({
                "ph": "i", "s": "t", "pid": self.pid, "tid": PHASES, "cat": "landmark",
                "name": landmark.name, "ts": micros(at),
                "args": { "source": landmark.source, "at_most_earlier_ns": uncertainty },
            }));
        }
    }
}

impl Process {
    /// Memory by state, as a counter.
    fn ownership(self, report: &RunReport, events: &mut Vec<Value>) {
        let series = &report.ledger.series;
        let mut states: Vec<&String> = series.iter().flat_map(|point| point.bytes.keys()).collect();
        states.sort_unstable();
        states.dedup();
        for point in series {
            let at = match self.clock {
                Clock::Wall => Some(point.wall_ns),
                Clock::Modelled => point.modelled_ns,
            };
            let Some(at) = at else { continue };
            let bytes = |state: &String| point.bytes.get(state).copied().unwrap_or(0);
            let args: serde_json::Map<String, Value> =
                states.iter().map(|state| ((*state).clone(), bytes(state).into())).collect();
            events.push(json!({
                "ph": "C", "pid": self.pid, "name": "guest memory, bytes", "ts": micros(at), "args": args,
            }));
        }
    }
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}
