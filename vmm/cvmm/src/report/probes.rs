//! What a test guest's probes have measured, from the records that it sent.

use abi::marks::{Mark, MarkId};
use abi::probes::{Measured, ProbeUnit, Unavailable};
use abi::records::RecordKind;
use serde::{Deserialize, Serialize};

use crate::run::RunRecord;

/// A probe, or why it has measured nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ProbeFacts {
    pub name: String,
    /// What it was measured with, and what that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter_is: Option<String>,
    /// Of the numbers below: `ps` for one operation, or `bytes/s`.
    pub unit: String,
    /// `modelled` where the guest's clock is the profile's, else `measured`.
    pub clock: String,
    /// 0 where it is unavailable.
    pub samples: u64,
    /// Operations in a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p90: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// The guest's time stamp counter, as the guest finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tsc_khz: Option<u64>,
    /// What reading it costs, which was taken off each sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overhead_ps: Option<u64>,
    /// Why it has measured nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// The guest kernel's error for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<u32>,
}

/// How the records arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RecordFacts {
    pub received: u64,
    /// Of those, how many there was no room for.
    pub dropped: u64,
    /// Of those, how many this cvmm cannot read.
    pub unknown: u64,
    /// Pieces that made no record.
    pub damaged: u64,
    /// How many the guest says that it has sent, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<u64>,
}

/// Reads the records of a run.
pub(super) fn probes(run: &RunRecord) -> (Vec<ProbeFacts>, RecordFacts) {
    let clock = if crate::emulate::time_is_modelled() { "modelled" } else { "measured" };
    let records = run.records.iter();
    let read = records.map(|record| read(record.kind, &record.bytes, clock));
    let (known, unknown): (Vec<_>, Vec<_>) = read.partition(Option::is_some);
    let end = run.marks.iter().rfind(|mark| Mark(mark.value).id() == MarkId::PROBE_END);
    let facts = RecordFacts {
        received: run.record_counts.received,
        dropped: run.record_counts.dropped,
        unknown: unknown.len() as u64,
        damaged: run.record_counts.damaged,
        announced: end.map(|mark| u64::from(Mark(mark.value).number())),
    };
    (known.into_iter().flatten().collect(), facts)
}

/// Reads one record. A guest may send anything.
pub fn read(kind: RecordKind, bytes: &[u8], clock: &str) -> Option<ProbeFacts> {
    match kind {
        RecordKind::PROBE_MEASURED => measured(Measured::from_bytes(bytes)?, clock),
        RecordKind::PROBE_UNAVAILABLE => unavailable(&Unavailable::from_bytes(bytes)?, clock),
        _ => None,
    }
}

fn measured(record: Measured, clock: &str) -> Option<ProbeFacts> {
    let (khz, operations) = (u64::from(record.tsc_khz), u64::from(record.operations));
    if khz == 0 || operations == 0 || record.samples == 0 {
        return None;
    }
    let of_cycles = |cycles: u64, operations: u64| {
        let per = u128::from(khz) * u128::from(operations);
        let ps = (u128::from(cycles) * 1_000_000_000 + per / 2) / per;
        u64::try_from(ps).unwrap_or(u64::MAX)
    };
    let (unit, number): (_, &dyn Fn(u64) -> u64) = match record.unit {
        ProbeUnit::CYCLES => ("ps", &|cycles| of_cycles(cycles, operations)),
        ProbeUnit::BYTES_PER_SECOND => ("bytes/s", &|rate| rate),
        _ => return None,
    };
    let parameter_is = record.probe.parameter();
    Some(ProbeFacts {
        name: record.probe.name()?.into(),
        parameter: parameter_is.map(|_| record.parameter),
        parameter_is: parameter_is.map(Into::into),
        unit: unit.into(),
        clock: clock.into(),
        samples: u64::from(record.samples),
        operations: Some(operations),
        min: Some(number(record.min)),
        p50: Some(number(record.p50)),
        p90: Some(number(record.p90)),
        p99: Some(number(record.p99)),
        max: Some(number(record.max)),
        tsc_khz: Some(khz),
        overhead_ps: Some(of_cycles(u64::from(record.overhead), 1)),
        unavailable: None,
        errno: None,
    })
}

fn unavailable(record: &Unavailable, clock: &str) -> Option<ProbeFacts> {
    let text = String::from_utf8_lossy(&record.reason);
    // It ends up on people's terminals.
    let reason: String = text.trim_end_matches('\0').chars().filter(|c| !c.is_control()).collect();
    let name = record.probe.name()?;
    Some(ProbeFacts {
        name: name.into(),
        parameter: None,
        parameter_is: None,
        unit: if name.starts_with("stream") { "bytes/s" } else { "ps" }.into(),
        clock: clock.into(),
        samples: 0,
        operations: None,
        min: None,
        p50: None,
        p90: None,
        p99: None,
        max: None,
        tsc_khz: None,
        overhead_ps: None,
        unavailable: Some(reason),
        errno: Some(record.errno).filter(|errno| *errno != 0),
    })
}

/// Lines of the summary; none for a guest that has measured nothing.
pub(super) fn write_table(out: &mut String, probes: &[ProbeFacts]) -> std::fmt::Result {
    use std::fmt::Write;

    let Some(first) = probes.first() else { return Ok(()) };
    writeln!(out)?;
    writeln!(
        out,
        "    {:<34}{:>14}{:>14}{:>10}",
        format!("probes, by the guest ({})", first.clock),
        "median",
        "99 %",
        "samples"
    )?;
    for probe in probes {
        let name = match (&probe.parameter, probe.parameter_is.as_deref()) {
            (Some(bytes), Some("bytes")) => format!("{}, {} KiB", probe.name, bytes >> 10),
            (Some(number), Some(_)) => format!("{}, {number:#x}", probe.name),
            _ => probe.name.clone(),
        };
        match (&probe.unavailable, probe.p50, probe.p99) {
            (None, Some(p50), Some(p99)) => {
                let [p50, p99] = [p50, p99].map(|number| readable(number, &probe.unit));
                writeln!(out, "    {name:<34}{p50:>14}{p99:>14}{:>10}", probe.samples)?;
            }
            (reason, ..) => {
                let errno = probe.errno.map(|errno| format!(" (errno {errno})"));
                let reason = reason.as_deref().unwrap_or_default();
                writeln!(out, "    {name:<34}{reason}{}", errno.unwrap_or_default())?;
            }
        }
    }
    Ok(())
}

fn readable(number: u64, unit: &str) -> String {
    match unit {
        "ps" => format!("{:.1} ns", number as f64 / 1e3),
        _ => format!("{:.1} MB/s", number as f64 / 1e6),
    }
}

#[cfg(test)]
#[path = "probes_test.rs"]
mod tests;
