//! How an SEV-SNP guest's kernel comes to know its clocks.

#![allow(clippy::unwrap_used)]

use cvmm_tests::{Cvmm, bzimage, hex};

/// An SEV-SNP guest's kernel is told by the firmware that there is no deadline timer, and takes 100 ms to measure the other.
#[test]
fn a_deadline_timer_by_command_line_saves_an_snp_kernel_its_calibration() {
    let [without, with] = ["", " setcpuid=tsc_deadline_timer"].map(|word| {
        let run = Cvmm::new(["--snp", "--emulate", "--until", "init-ready"]).reported();
        let ended = run
            .linux(&bzimage("7.2"), "7.2")
            .arg("--cmdline")
            .arg(format!("console=ttyS0 panic=-1 quiet{word}"))
            .run();
        ended.expect_code(0);
        ended.report()["total"]["modelled_ns"].as_u64().unwrap()
    });
    println!("without {without} ns, with {with} ns");
    assert!(with + 90_000_000 < without, "{with} ns is not 90 ms less than {without}");
}

#[test]
fn a_secure_time_stamp_counter_is_the_processors_word() {
    let data = hex(&[0xa5; 64]);
    let boot = |options: &str| {
        let run = Cvmm::new([options, "--emulate=epyc-genoa", "--cpus", "2"]).reported();
        let run = run.linux(&bzimage("7.2"), "7.2").arg("--cmdline");
        run.arg(format!("console=ttyS0 panic=-1 cvmm.report={data}")).run()
    };
    let with = boot("--snp=secure-tsc");
    with.expect_code(0).expect_console("SecureTSC").expect_console("2 cpus online");
    // MEASUREMENT (SEV-SNP firmware ABI specification, table "ATTESTATION_REPORT Structure"): the feature is part of it.
    let measured = |ended: &cvmm_tests::Ended| hex(&ended.printed("report")[0x90..0xc0]);
    assert_eq!(with.report()["digest"], measured(&with));
    let without = boot("--snp");
    without.expect_code(0);
    assert!(!without.console.contains("SecureTSC"));
    assert_eq!(without.report()["digest"], measured(&without));
    assert_ne!(measured(&with), measured(&without));
    let time = |ended: &cvmm_tests::Ended| ended.report()["total"]["modelled_ns"].as_u64().unwrap();
    println!("with {} ns, without {} ns", time(&with), time(&without));
}

#[test]
fn a_processor_without_a_secure_counter_refuses_it() {
    let run = Cvmm::new(["--snp=secure-tsc", "--emulate=epyc-milan"]);
    let ended = run.linux(&bzimage("7.2"), "7.2").run();
    ended.expect_complaint(3).expect_words("Secure TSC").expect_words("epyc-genoa");
}
