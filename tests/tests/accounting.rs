//! The sums of a report: every nanosecond is in one phase, every exit in one row, whatever the guest.

use cvmm::report::RunReport;
use cvmm_tests::{Cvmm, bzimage, in_parallel};

fn boot(technology: &str, cmdline: &str) -> RunReport {
    let run = Cvmm::new(["--emulate", "--timeout", "200", technology, "--memory", "512M"])
        .args(["--cpus", "2", "--cmdline", cmdline])
        .linux(&bzimage("7.2"), "7.2")
        .reported();
    let ended = run.run();
    ended.expect_code(0);
    RunReport::parse(ended.report().to_string().as_bytes()).expect("a report that can be read")
}

/// Panics unless everything in the report adds up.
fn adds_up(report: &RunReport) {
    let line = &report.timeline;
    assert_eq!(line[0].begin_wall_ns, 0);
    for (a, b) in line.iter().zip(&line[1..]) {
        assert_eq!(a.end_wall_ns, b.begin_wall_ns, "{a:?} {b:?}");
        assert!(a.begin_wall_ns <= a.end_wall_ns, "{a:?}");
        if let Some(end) = a.end_modelled_ns {
            assert_eq!(Some(end), b.begin_modelled_ns, "{a:?} {b:?}");
        }
    }
    assert_eq!(line.last().map(|s| s.end_wall_ns), Some(report.total.wall_ns));
    let phases = &report.phases;
    assert_eq!(phases.iter().map(|p| p.wall_ns).sum::<u64>(), report.total.wall_ns);
    let modelled: u64 = phases.iter().filter_map(|p| p.modelled_ns).sum();
    assert_eq!(Some(modelled), report.total.modelled_ns);

    let exits = &report.exits;
    assert_eq!(phases.iter().map(|p| p.exits).sum::<u64>(), exits.total);
    assert_eq!(exits.by_phase.iter().map(|e| e.count).sum::<u64>(), exits.total);
    for phase in phases {
        let rows = exits.by_phase.iter().filter(|e| e.phase == phase.id);
        assert_eq!(rows.map(|e| e.count).sum::<u64>(), phase.exits, "{}", phase.id);
    }
    for row in &exits.by_reason {
        let histograms =
            |of| exits.histograms.iter().filter(move |h| h.reason == row.reason && h.of == of);
        for of in ["guest", "monitor"] {
            assert_eq!(
                histograms(of).map(|h| h.count).sum::<u64>(),
                row.count,
                "{} {of}",
                row.reason
            );
        }
        for histogram in histograms("guest") {
            let buckets = histogram.wall_ns_buckets.iter();
            assert_eq!(buckets.map(|b| b[2]).sum::<u64>(), histogram.count);
            assert!(histogram.min_wall_ns <= histogram.p50_wall_ns, "{histogram:?}");
            assert!(histogram.p50_wall_ns <= histogram.p99_wall_ns, "{histogram:?}");
        }
    }
    // KVM counts every exit; those that reach the monitor are among them.
    let counted: u64 = phases.iter().filter_map(|p| p.kvm_exits).sum();
    let own: u64 = report.kvm_stats.vcpus.iter().filter_map(|v| v.get("exits")?.first()).sum();
    assert_eq!(counted, own);
    assert!(own >= exits.total, "{own} {}", exits.total);
    let changes = &report.page_state_changes;
    assert_eq!(phases.iter().map(|p| p.to_private_pages).sum::<u64>(), changes.to_private_pages);
    assert_eq!(phases.iter().map(|p| p.to_shared_pages).sum::<u64>(), changes.to_shared_pages);
}

fn ids(report: &RunReport) -> Vec<&str> {
    report.phases.iter().map(|p| p.id.as_str()).collect()
}

#[test]
fn everything_is_accounted_for_once() {
    let jobs = ["--plain", "--snp", "--tdx"].map(|t| (t.to_owned(), t)).into();
    in_parallel(jobs, |_, technology| {
        let report = boot(technology, "console=ttyS0 panic=-1");
        adds_up(&report);
        let expected = [
            "H0", "H1", "H2", "H3", "H4", "S0", "S1", "S2", "G0", "G1", "G2", "G4", "K0", "K2",
            "K3", "K4", "K5", "U0", "R1", "T0",
        ];
        let launch = |id: &&str| technology != "--plain" || !id.starts_with('S');
        assert_eq!(ids(&report), expected.into_iter().filter(launch).collect::<Vec<_>>());
        // The stages of the kernel are told by what it prints; a text is noticed after what it tells of.
        for landmark in &report.landmarks {
            let source = match landmark.phase.as_str() {
                "K2" => "exit",
                "K3" | "K4" | "K5" => "console",
                "U0" if landmark.name != "init-entry" => "console",
                _ => "mark",
            };
            assert_eq!(landmark.source, source, "{landmark:?}");
            let uncertain = landmark.uncertainty_modelled_ns.expect("a modelled clock");
            assert_eq!(uncertain == 0, source == "mark", "{landmark:?}");
        }
        // Recording costs next to nothing.
        assert!(report.exits.recorder.wall_share_of_run < 0.01, "{:?}", report.exits.recorder);
    });
}

#[test]
fn a_silent_kernel_is_told_by_its_exits() {
    let report = boot("--snp", "console=ttyS0 panic=-1 quiet");
    adds_up(&report);
    let kernel: Vec<&str> = ids(&report).into_iter().filter(|id| id.starts_with('K')).collect();
    assert_eq!(kernel, ["K0", "K2", "K5"]);
    assert!(
        report
            .landmarks
            .iter()
            .filter(|l| l.phase.starts_with('K'))
            .skip(1)
            .all(|l| l.source == "exit")
    );
}
