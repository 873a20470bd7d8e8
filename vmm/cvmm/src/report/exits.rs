//! Exits of a run, as reports tell them.

use hdrhistogram::Histogram;
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::phase::Phase;
use crate::recorder::{FastClock, Started};
use crate::run::{ExitCount, ExitLog, RunRecord};
use crate::sys::vcpu::EXIT_KINDS;

use super::schema::{ExitFacts, HistogramFacts, PhaseExits, ReasonFacts, RecorderFacts};

pub(super) fn exits(run: &RunRecord, started: Started) -> ExitFacts {
    let by_phase: Vec<PhaseExits> =
        run.vcpus.iter().flat_map(|v| by_phase(v.id, &v.exits)).collect();
    let by_reason: Vec<ReasonFacts> = EXIT_KINDS
        .iter()
        .map(|reason| {
            let sum = |pick: fn(&PhaseExits) -> u64| {
                by_phase.iter().filter(|e| e.reason == *reason).map(pick).sum()
            };
            ReasonFacts {
                reason: (*reason).into(),
                count: sum(|e| e.count),
                guest_wall_ns: sum(|e| e.guest_wall_ns),
                monitor_wall_ns: sum(|e| e.monitor_wall_ns),
            }
        })
        .filter(|r| r.count > 0)
        .collect();
    let total = by_reason.iter().map(|r| r.count).sum();
    let guest_wall_ns = by_reason.iter().map(|r| r.guest_wall_ns).sum();
    let monitor_wall_ns = by_reason.iter().map(|r| r.monitor_wall_ns).sum();
    let wall_ns_per_exit = cost_of_recording(started);
    let spent = wall_ns_per_exit * total as f64;
    let whole = (guest_wall_ns + monitor_wall_ns) as f64;
    ExitFacts {
        total,
        guest_wall_ns,
        monitor_wall_ns,
        by_reason,
        by_phase,
        histograms: run.vcpus.iter().flat_map(|v| histograms(v.id, &v.exits)).collect(),
        streams: run.vcpus.iter().map(|v| hex(&v.stream)).collect(),
        recorder: RecorderFacts {
            wall_ns_per_exit,
            wall_share_of_run: if whole > 0.0 { spent / whole } else { 0.0 },
        },
    }
}

fn by_phase(vcpu: u16, log: &ExitLog) -> Vec<PhaseExits> {
    let facts = |(phase, kind, exit): (Phase, usize, ExitCount)| PhaseExits {
        phase: phase.id().into(),
        vcpu,
        reason: EXIT_KINDS[kind].into(),
        count: exit.count,
        guest_wall_ns: exit.guest_ns,
        monitor_wall_ns: exit.monitor_ns,
    };
    log.counts().map(facts).collect()
}

fn histograms(vcpu: u16, log: &ExitLog) -> Vec<HistogramFacts> {
    let both = log.times().flat_map(|(kind, times)| {
        [(kind, "guest", &times.guest), (kind, "monitor", &times.monitor)]
    });
    let facts = |(kind, of, histogram): (usize, &str, &Histogram<u32>)| HistogramFacts {
        vcpu,
        reason: EXIT_KINDS[kind].into(),
        of: of.into(),
        count: histogram.len(),
        min_wall_ns: histogram.min(),
        mean_wall_ns: histogram.mean().round() as u64,
        p50_wall_ns: histogram.value_at_quantile(0.5),
        p90_wall_ns: histogram.value_at_quantile(0.9),
        p99_wall_ns: histogram.value_at_quantile(0.99),
        max_wall_ns: histogram.max(),
        wall_ns_buckets: histogram
            .iter_recorded()
            .map(|at| {
                let value = at.value_iterated_to();
                let (low, high) =
                    (histogram.lowest_equivalent(value), histogram.highest_equivalent(value));
                [low, high, at.count_since_last_iteration()]
            })
            .collect(),
    };
    both.filter(|(_, _, histogram)| !histogram.is_empty()).map(facts).collect()
}

/// What recording one exit costs on this host, nanoseconds: the same work for exits that were none.
fn cost_of_recording(started: Started) -> f64 {
    const ROUNDS: u32 = 20_000;
    let mut log = ExitLog::default();
    let mut stream = Sha256::new();
    let mut clock = FastClock::new(started);
    let mut once = || {
        let entered = clock.now();
        let left = clock.now();
        log.left(Phase::R1, 0, left.0 - entered.0);
        stream.update([0; 17]);
        log.handled(Phase::R1, 0, entered.0 & 0xfff);
    };
    // The first one makes the histograms.
    once();
    let begin = started.elapsed();
    for _ in 0..ROUNDS {
        once();
    }
    let spent = started.elapsed().0 - begin.0;
    std::hint::black_box(stream.finalize());
    spent as f64 / f64::from(ROUNDS)
}
