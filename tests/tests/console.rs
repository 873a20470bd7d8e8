//! The console's devices: the same guest says the same by each, at another price.

#![allow(clippy::unwrap_used)]

use cvmm_tests::{Cvmm, Ended, KERNELS, bzimage, hex, in_parallel};

/// Exits for reading and writing ports and memory of devices, before `/init`.
fn device_exits(ended: &Ended) -> u64 {
    let rows = ended.report()["exits"]["by_phase"].as_array().unwrap();
    let counted = |row: &&serde_json::Value| {
        let device = ["port_in", "port_out", "mmio_read", "mmio_write"];
        let kernel = row["phase"].as_str().unwrap().starts_with('K');
        kernel && device.contains(&row["reason"].as_str().unwrap())
    };
    rows.iter().filter(counted).map(|row| row["count"].as_u64().unwrap()).sum()
}

fn boot(technology: &str, kernel: &str, device: &str) -> Cvmm {
    let run = Cvmm::new([technology, "--emulate", "--console-device", device, "--cpus", "2"]);
    run.linux(&bzimage(kernel), kernel).reported()
}

/// What `/init` says, in order.
fn said(ended: &Ended) -> Vec<String> {
    let lines = ended.console.lines().map(str::trim);
    lines.filter(|line| line.starts_with("cvmm-init: ")).map(str::to_owned).collect()
}

fn marks(ended: &Ended) -> Vec<String> {
    let marks = ended.report()["marks"].as_array().unwrap();
    marks.iter().map(|mark| mark["name"].as_str().unwrap().to_owned()).collect()
}

/// The kernels: Debian's have the device's driver as a module, which `/init` inserts; the minimal one, where there is one, has
/// it from the start.
fn kernels() -> Vec<&'static str> {
    let minimal = std::env::var_os("CVMM_KERNEL_minimal").map(|_| "minimal");
    KERNELS.into_iter().chain(minimal).collect()
}

#[test]
fn virtio_says_what_serial_says_at_a_fraction_of_the_exits() {
    let mut jobs = Vec::new();
    for kernel in kernels() {
        for technology in ["--plain", "--snp", "--tdx"] {
            jobs.push((format!("{kernel} {technology}"), (kernel, technology)));
        }
    }
    in_parallel(jobs, |name, (kernel, technology)| {
        let [serial, virtio, none] = ["serial", "virtio", "none"].map(|device| {
            let ended = boot(technology, kernel, device).run();
            ended.expect_code(0);
            ended
        });
        let text = said(&serial);
        assert!(text.len() >= 3, "{text:?}");
        assert_eq!(said(&virtio), text);
        assert_eq!((none.console.as_str(), &none.report()["console_bytes"]), ("", &0.into()));
        // In a TD they come by the console.
        assert_eq!(marks(&virtio), marks(&serial));
        let [serial, virtio, none] = [serial, virtio, none].map(|ended| device_exits(&ended));
        println!("{name}: exits of the kernel: serial {serial}, virtio {virtio}, none {none}");
        assert!(virtio * 4 < serial, "{virtio} exits are no fraction of {serial}");
        if kernel == "minimal" {
            assert!(virtio * 10 < serial, "{virtio} exits are no fraction of {serial}");
        }
    });
}

#[test]
fn attestation_and_measurement_know_the_device() {
    let data = hex(&[0x5a; 64]);
    let ended = boot("--snp", "7.2", "virtio")
        .arg("--cmdline")
        .arg(format!("console=hvc0 panic=-1 cvmm.report={data}"))
        .run();
    let report = ended.expect_code(0).printed("report");
    let digest = ended.report()["digest"].as_str().unwrap().to_owned();
    // MEASUREMENT (SEV-SNP firmware ABI specification, table "ATTESTATION_REPORT Structure").
    assert_eq!(hex(&report[0x90..0xc0]), digest);
    assert_eq!(ended.report()["guest"]["console_device"], "virtio");
    let other = boot("--snp", "7.2", "serial").args(["--until", "G0"]).run();
    assert_ne!(other.report()["digest"].as_str(), Some(&*digest));
}
