//! Stages of a kernel's boot by its symbols, between the marks of the same run.

use cvmm_tests::{Cvmm, bzimage, initramfs, input};
use serde_json::Value;

/// Stages that the micro kernel has, in the order in which Linux comes to them (init/main.c).
const ORDER: [&str; 12] = [
    "start_kernel",
    "setup_arch",
    "mm_core_init",
    "sched_init",
    "time_init",
    "rest_init",
    "kernel_init",
    "smp_init",
    "driver_init",
    "pci_subsys_init",
    "free_initmem",
    "run_init_process",
];

fn mark(report: &Value, name: &str) -> u64 {
    let marks = report["marks"].as_array().expect("marks");
    let mark = marks.iter().find(|mark| mark["name"] == name).expect("that mark");
    mark["modelled_ns"].as_u64().expect("modelled time")
}

#[test]
fn stages_lie_in_order_between_the_marks() {
    if std::env::var_os("CVMM_SYMBOLS_micro").is_none() {
        println!("skipped: no micro kernel has been built (cargo xtask kernel micro)");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let stats = dir.path().join("stats.json");
    for kind in ["--plain", "--snp", "--tdx"] {
        let run = Cvmm::new([kind, "--emulate", "--memory", "256M", "--cpus", "2", "--kernel"]);
        let ended = run
            .arg(bzimage("micro"))
            .arg("--initrd")
            .arg(initramfs("micro"))
            .env("SOFTKVM_SYMBOLS", &input("CVMM_SYMBOLS_micro").to_string_lossy())
            .env("SOFTKVM_STATS", &stats.to_string_lossy())
            .reported()
            .run();
        ended.expect_code(0);
        let text = std::fs::read_to_string(&stats).expect("statistics");
        let stats: Value = serde_json::from_str(&text).expect("JSON");
        let symbols = &stats["vms"][0]["symbols_ns"];
        let stage = |name: &&str| symbols[*name].as_u64().unwrap_or_else(|| panic!("no {name}"));
        let mut times = vec![mark(ended.report(), "kernel-entry")];
        times.extend(ORDER.iter().map(stage));
        times.push(mark(ended.report(), "init-entry"));
        assert!(times.is_sorted_by(|a, b| a < b), "{kind}: {times:?}");
        // The report cuts its timeline there.
        let landmarks = ended.report()["landmarks"].as_array().expect("landmarks");
        let cuts = landmarks.iter().filter(|landmark| landmark["source"] == "symbol");
        let cuts: Vec<_> =
            cuts.map(|cut| (cut["phase"].as_str(), cut["modelled_ns"].as_u64())).collect();
        let time = |name| symbols[name].as_u64();
        let expected = [
            (Some("K1"), time("start_kernel")),
            (Some("K2"), time("time_init")),
            (Some("K3"), time("smp_init")),
            (Some("K4"), time("driver_init")),
            (Some("K5"), time("populate_rootfs")),
        ];
        assert_eq!(cuts[..5], expected, "{kind}");
    }
}
