//! `cvmm report --csv`: one value a row, so that any tool can pick, group and compare.

use std::fmt::Write;

use super::clock::Clock;
use super::runs::Run;
use super::schema::{Phase, RunReport};

const HEADER: &str =
    "run,technology,platform,profile,about,phase,vcpu,reason,measure,clock,unit,value\n";

/// The runs as comma-separated values (RFC 4180, with line feeds alone).
pub fn render(runs: &[Run]) -> String {
    let mut out = HEADER.to_owned();
    for run in runs {
        let mut rows = Rows { out: &mut out, run };
        rows.run();
    }
    out
}

struct Rows<'a> {
    out: &'a mut String,
    run: &'a Run,
}

/// What a row is about.
#[derive(Clone, Copy, Default)]
struct About<'a> {
    kind: &'a str,
    phase: &'a str,
    vcpu: Option<u16>,
    reason: &'a str,
}

impl Rows<'_> {
    fn run(&mut self) {
        let report = &self.run.report;
        let about = About { kind: "run", ..About::default() };
        self.times(about, "duration", |clock| clock.total(report));
        self.time(about, "user", Clock::Wall, report.total.cpu_user_ns);
        self.time(about, "system", Clock::Wall, report.total.cpu_system_ns);
        self.count(about, "exit_code", "", u64::from(report.outcome.exit_code));
        self.count(about, "launch_pages", "pages", report.launch.pages);
        self.count(about, "vmsa_pages", "pages", report.launch.vmsa_pages);
        report.phases.iter().for_each(|phase| self.phase(phase));
        self.marks(report);
        self.exits(report);
        self.ledger(report);
        self.probes(report);
    }

    fn phase(&mut self, phase: &Phase) {
        let about = About { kind: "phase", phase: &phase.id, ..About::default() };
        self.times(about, "duration", |clock| clock.phase(phase));
        self.count(about, "operations", "", phase.operations);
        self.count(about, "size", "bytes", phase.bytes);
        self.count(about, "exits", "", phase.exits);
        if let Some(exits) = phase.kvm_exits {
            self.count(about, "kvm_exits", "", exits);
        }
        self.count(about, "to_private", "pages", phase.to_private_pages);
        self.count(about, "to_shared", "pages", phase.to_shared_pages);
    }

    fn marks(&mut self, report: &RunReport) {
        for mark in &report.marks {
            let about = About {
                kind: "mark",
                vcpu: Some(mark.vcpu),
                reason: &mark.name,
                ..About::default()
            };
            self.times(about, "at", |clock| clock.mark(mark));
        }
    }

    fn exits(&mut self, report: &RunReport) {
        for exits in &report.exits.by_phase {
            let about = About {
                kind: "exits",
                phase: &exits.phase,
                vcpu: Some(exits.vcpu),
                reason: &exits.reason,
            };
            self.count(about, "count", "", exits.count);
            self.time(about, "in_guest_before", Clock::Wall, exits.guest_wall_ns);
            self.time(about, "in_monitor_after", Clock::Wall, exits.monitor_wall_ns);
        }
    }

    fn ledger(&mut self, report: &RunReport) {
        let ledger = &report.ledger;
        let about = About { kind: "ledger", ..About::default() };
        for (state, bytes) in &ledger.states_at_end {
            self.count(About { reason: state, ..about }, "at_end", "bytes", *bytes);
        }
        for phase in &ledger.by_phase {
            let about = About { phase: &phase.phase, ..about };
            let counts = &phase.counts;
            for (measure, pages) in [
                ("measured", counts.measured_pages),
                ("added", counts.added_pages),
                ("accepted", counts.accepted_pages),
                ("to_private", counts.to_private_pages),
                ("to_shared", counts.to_shared_pages),
            ] {
                self.count(about, measure, "pages", pages);
            }
            self.time(about, "conversions", Clock::Wall, counts.conversion_wall_ns);
        }
        let memory = &ledger.memory;
        for (half, facts) in [("shared", &memory.shared), ("private", &memory.private)] {
            let Some(facts) = facts else { continue };
            let about = About { kind: "host_memory", reason: half, ..About::default() };
            self.count(about, "peak", "bytes", facts.peak_bytes);
            self.count(about, "at_end", "bytes", facts.end_bytes);
        }
    }

    /// The clock of a probe is the guest's: `measured` is another word for wall time, inside the guest.
    fn probes(&mut self, report: &RunReport) {
        for probe in &report.probes {
            let name = match probe.parameter {
                Some(parameter) => format!("{} {parameter}", probe.name),
                None => probe.name.clone(),
            };
            let about = About { kind: "probe", reason: &name, ..About::default() };
            let clock = if probe.clock == "modelled" { Clock::Modelled } else { Clock::Wall };
            for (measure, value) in [
                ("min", probe.min),
                ("p50", probe.p50),
                ("p90", probe.p90),
                ("p99", probe.p99),
                ("max", probe.max),
            ] {
                if let Some(value) = value {
                    self.row(about, measure, clock.name(), &probe.unit, value);
                }
            }
        }
    }

    fn times(&mut self, about: About, measure: &str, of: impl Fn(Clock) -> Option<u64>) {
        for clock in Clock::ALL {
            if let Some(ns) = of(clock) {
                self.time(about, measure, clock, ns);
            }
        }
    }

    fn time(&mut self, about: About, measure: &str, clock: Clock, ns: u64) {
        self.row(about, measure, clock.name(), "ns", ns);
    }

    fn count(&mut self, about: About, measure: &str, unit: &str, value: u64) {
        self.row(about, measure, "", unit, value);
    }

    fn row(&mut self, about: About, measure: &str, clock: &str, unit: &str, value: u64) {
        let report = &self.run.report;
        let vcpu = about.vcpu.map(|vcpu| vcpu.to_string()).unwrap_or_default();
        let cells = [
            &self.run.name,
            &report.technology,
            &report.platform.kind,
            report.platform.profile.as_deref().unwrap_or_default(),
            about.kind,
            about.phase,
            &vcpu,
            about.reason,
            measure,
            clock,
            unit,
        ];
        for cell in cells {
            let _ = write!(self.out, "{},", quoted(cell));
        }
        let _ = writeln!(self.out, "{value}");
    }
}

/// A cell, in quotes where it has to be.
fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}
