//! The kernels of `guest-kernel-config/`: they boot as every kind of guest, and as fast as their configuration promises.

use cvmm_tests::{Cvmm, bzimage, in_parallel, vmlinux};
use serde_json::Value;

/// The command line that guest-kernel-config/README.md recommends.
const CMDLINE: &str = "console=ttyS0 quiet loglevel=1 pci=off swiotlb=noforce";

/// Those that have been built.
fn built() -> impl Iterator<Item = &'static str> {
    let names = ["tiny", "micro"].into_iter();
    names.filter(|name| {
        let there = std::env::var_os(format!("CVMM_KERNEL_{name}")).is_some();
        if !there {
            println!("skipped: {name} has not been built (cargo xtask kernel {name})");
        }
        there
    })
}

fn mark<'a>(report: &'a Value, name: &str) -> &'a Value {
    let marks = report["marks"].as_array().expect("marks");
    marks.iter().find(|mark| mark["name"] == name).expect("that mark")
}

/// From the kernel's entry to `/init`.
fn kernel_us(report: &Value) -> u64 {
    let time = |name| mark(report, name)["modelled_ns"].as_u64().expect("modelled time") / 1000;
    time("init-entry") - time("kernel-entry")
}

fn guest(technology: &str, cpus: u32) -> Cvmm {
    Cvmm::new(["--emulate", "--timeout", "120", "--memory", "256M", "--cmdline", CMDLINE])
        .arg(format!("--{technology}"))
        .args(["--cpus", &cpus.to_string()])
        .reported()
}

#[test]
fn they_boot_as_every_kind_of_guest_packed_or_not() {
    let mut cells = Vec::new();
    for kernel in built() {
        for technology in ["plain", "snp", "tdx"] {
            for cpus in [1, 2] {
                let name = format!("{kernel} {technology} {cpus}");
                cells.push((name.clone(), (kernel, bzimage(kernel), technology, cpus)));
                cells.push((name + " ELF", (kernel, vmlinux(kernel), technology, cpus)));
            }
        }
    }
    in_parallel(cells, |_, (kernel, image, technology, cpus)| {
        let ended = guest(technology, cpus).linux(&image, kernel).run();
        ended.expect_code(0).expect_console("cvmm-init: ready");
        let online = if cpus == 1 { "0" } else { "0-1" };
        ended.expect_console(&format!("cpus online: {online}"));
        assert_eq!(mark(ended.report(), "init-ready")["number"], cpus);
    });
}

#[test]
fn tiny_is_at_init_within_its_bounds() {
    for kernel in built().filter(|kernel| *kernel == "tiny") {
        let run = |technology| {
            let ended = guest(technology, 1).linux(&bzimage(kernel), kernel).run();
            ended.expect_code(0);
            (kernel_us(ended.report()), mark(ended.report(), "init-entry")["exits_before"].clone())
        };
        let (plain, exits) = run("plain");
        assert!(plain <= 25_000, "plain: {plain} µs");
        assert!(exits.as_u64().is_some_and(|exits| exits <= 150), "plain: {exits} exits");
        let (_, exits) = run("snp");
        // A page of decrypted .bss after the other: 512 of them (Linux 7.2 arch/x86/boot/startup/map_kernel.c).
        assert!(exits.as_u64().is_some_and(|exits| exits <= 700), "SNP: {exits} exits");
    }
}
