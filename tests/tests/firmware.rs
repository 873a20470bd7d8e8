//! OVMF in place of the shim: digests as other people's calculators tell them, Debian's images and kernel up to user space,
//! and files that are no such image.

use std::path::{Path, PathBuf};

use abi::snp::AttestationReport;
use abi::tdx::TdReport;
use cvmm_tests::{
    Cvmm, Ended, bzimage, hex, in_parallel, initramfs, input, oracle, oracle_tdx, vmlinux,
};
use zerocopy::FromBytes;

const USAGE: i32 = 2;

fn amdsev() -> PathBuf {
    input("CVMM_OVMF_AMDSEV")
}

fn inteltdx() -> PathBuf {
    input("CVMM_OVMF_INTELTDX")
}

/// For any technology, and without secure boot.
fn generic() -> PathBuf {
    input("CVMM_OVMF_GENERIC")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// 64 distinct bytes.
fn report_data() -> [u8; 64] {
    std::array::from_fn(|i| 0x80 ^ (i as u8 * 3 + 1))
}

fn cmdline() -> String {
    format!("console=ttyS0 panic=-1 cvmm.report={}", hex(&report_data()))
}

/// What `cvmm measure` prints, without the remarks.
fn measured(run: &Cvmm) -> String {
    let ended = run.run();
    ended.expect_code(0);
    let digest = ended.console.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
    if digest.len() != 96 {
        ended.fail("that is no digest");
    }
    digest.to_owned()
}

#[test]
fn digests_are_those_of_sev_snp_measure_in_its_normal_mode() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dump = dir.path().join("pages");
    let kernel = text(&bzimage("6.12"));
    let initrd = text(&initramfs("6.12"));
    const MILAN: &str = "0xa00f11";
    for (n, (image, cpus, signature, files)) in [
        (amdsev(), 1, None, 3),
        (amdsev(), 2, None, 3),
        (amdsev(), 4, Some(MILAN), 2),
        (amdsev(), 64, None, 0),
        (generic(), 3, Some(MILAN), 3),
        (inteltdx(), 2, None, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let cpus = cpus.to_string();
        let (image, line) = (text(&image), cmdline());
        let snp = signature.map_or("--snp".to_owned(), |s| format!("--snp=vcpu-sig={s}"));
        let mut ours = Cvmm::new(["measure", "--firmware", &image, "--cpus", &cpus]).arg(snp);
        let mut theirs = vec!["--ovmf", &image, "--vcpus", &cpus];
        theirs.extend(match signature {
            Some(signature) => ["--vcpu-sig", signature],
            None => ["--vcpu-type", "EPYC-v4"],
        });
        let given = [
            ("--kernel", "--kernel", kernel.as_str()),
            ("--cmdline", "--append", line.as_str()),
            ("--initrd", "--initrd", initrd.as_str()),
        ];
        for (our, their, value) in &given[..files] {
            ours = ours.args([our, value]);
            theirs.extend([their, value]);
        }
        let digest = measured(&ours.arg("--dump-pages").arg(&dump));
        assert_eq!(digest, oracle::ovmf_launch_digest(&theirs), "{n}: {theirs:?}");
        assert_eq!(digest, oracle::launch_digest(&dump), "{n}: the list of pages");
    }
}

#[test]
fn mrtd_is_what_the_image_says() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dump = dir.path().join("pages");
    let mut all = Vec::new();
    for (image, kernel) in
        [(inteltdx(), false), (amdsev(), false), (generic(), false), (generic(), true)]
    {
        let mut run = Cvmm::new(["measure", "--tdx", "--cpus", "3"]).arg("--firmware").arg(&image);
        if kernel {
            run = run.linux(&bzimage("6.12"), "6.12");
        }
        let digest = measured(&run.arg("--dump-pages").arg(&dump));
        assert_eq!(digest, oracle::tdvf_mrtd(&image), "{}", image.display());
        assert_eq!(digest, oracle_tdx::mrtd(&oracle_tdx::pages(&dump)), "{}", image.display());
        all.push(digest);
    }
    // A TD's kernel is not in MRTD: the firmware measures it when it has fetched it.
    assert_eq!(all[2], all[3]);
    assert_ne!(all[0], all[2]);
}

/// A guest that starts in `image`, fetches a report of itself and powers off.
fn guest(run: Cvmm, technology: &str, image: &Path, cpus: &str) -> Cvmm {
    run.arg(technology)
        .arg("--firmware")
        .arg(image)
        .args(["--memory", "512M", "--cpus", cpus, "--cmdline", &cmdline()])
        .linux(&bzimage("6.12"), "6.12")
}

fn booted(technology: &str, image: &Path, cpus: &str) -> Ended {
    let run = guest(Cvmm::new(["--emulate", "--timeout", "220"]), technology, image, cpus);
    let ended = run.reported().run();
    ended
        .expect_code(0)
        .expect_console("cvmm-init: ready")
        .expect_console(&format!("{cpus} cpus online"));
    ended
}

#[test]
fn a_guest_that_starts_in_ovmf_proves_what_was_measured() {
    let jobs = [
        ("--snp", amdsev(), "1"),
        ("--snp", amdsev(), "2"),
        ("--tdx", generic(), "1"),
        ("--tdx", generic(), "2"),
    ];
    let jobs = jobs.map(|job| (format!("{} {} vCPUs", job.0, job.2), job));
    in_parallel(jobs.into(), |_, (technology, image, cpus)| {
        let digest = measured(&guest(Cvmm::new(["measure"]), technology, &image, cpus));
        let ended = booted(technology, &image, cpus);
        let report = ended.report();
        assert_eq!(report["digest"], digest.as_str());
        assert_eq!(report["guest"]["load"], "firmware");
        let proven = if technology == "--snp" {
            let bytes = ended.printed("report");
            let (report, _) = AttestationReport::read_from_prefix(&bytes).expect("a whole report");
            assert_eq!(report.report_data, report_data());
            hex(&report.measurement)
        } else {
            let bytes = ended.printed("tdreport");
            let report = TdReport::read_from_bytes(&bytes).expect("a whole TDREPORT");
            assert_eq!(report.mac.report_data, report_data());
            hex(&report.td_info.mrtd)
        };
        assert_eq!(proven, digest);
        // What can be told of its phases: up to the fetch of the kernel, the fetch, and the rest.
        let phases = report["phases"].as_array().expect("phases");
        let count = |id| phases.iter().filter(|phase| phase["id"] == id).count();
        assert_eq!(["G0", "G5", "K0", "U0"].map(count), [1; 4]);
    });
}

#[test]
fn an_efi_shim_starts_the_kernel_for_the_firmware() {
    let image = amdsev();
    let run = guest(Cvmm::new(["--emulate", "--timeout", "220"]), "--snp", &image, "1")
        .arg("--shim")
        .arg(input("CVMM_EFI_SHIM"));
    run.run().expect_code(0).expect_console("cvmm-init: ready");
}

/// Both verbs refuse an image for this reason, and leave nothing behind.
fn refused(technology: &str, image: &Path, says: &str) {
    for verb in [&["measure"][..], &["--emulate"]] {
        let run = verb.iter().fold(Cvmm::new([]), |run, word| run.arg(word)).arg(technology);
        let ended = run.arg("--firmware").arg(image).run();
        ended.expect_refusal(USAGE).expect_words(says).expect_words(&text(image));
    }
}

#[test]
fn what_is_no_such_image_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = std::fs::read(amdsev()).expect("the image");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        path
    };
    let table = good.len() - 32;
    let patched = |name: &str, from_table: usize, byte: u8| {
        let mut image = good.clone();
        image[table - from_table] = byte;
        file(name, &image)
    };
    for technology in ["--snp", "--tdx"] {
        refused(technology, &file("empty", b""), "0 bytes");
        refused(technology, &file("odd", &good[1..]), "whole pages");
        refused(technology, &file("large", &vec![0; (16 << 20) + 4096]), "16 MiB");
        refused(technology, &file("truncated", &good[..good.len() - 4096]), "no OVMF image");
        refused(technology, &file("zeros", &vec![0; 1 << 20]), "no OVMF image");
        refused(technology, &bzimage("6.12"), "");
        // The length in the footer of the table, and that of its first entry.
        refused(technology, &patched("table", 17, 0xff), "damaged");
        refused(technology, &patched("entry", 17 + 18, 0xff), "damaged");
    }
    // Only the end is left: what the metadata points to is gone.
    refused("--tdx", &file("stump", &good[good.len() - 4096..]), "does not lie in the file");
    let at = good.windows(4).position(|bytes| bytes == b"ASEV").expect("metadata");
    let section = |name: &str, field: usize, value: u32| {
        let mut image = good.clone();
        let at = at + 16 + 4 * field;
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
        file(name, &image)
    };
    refused("--snp", &section("address", 0, 0x80_0010), "not made of whole pages");
    refused("--snp", &section("length", 1, 0xffff_f000), "absurd amount");
    refused("--snp", &section("overlap", 1, 0xb000), "overlaps");
    refused("--snp", &section("kind", 2, 99), "nobody has defined");
    let mut image = good.clone();
    image[at] ^= 1;
    refused("--snp", &file("signature", &image), "signature");
}

#[test]
fn what_the_firmware_cannot_start_is_refused() {
    let run = |image: &Path| Cvmm::new(["measure", "--snp"]).arg("--firmware").arg(image);
    let ended = run(&amdsev()).arg("--kernel").arg(vmlinux("6.12")).run();
    ended.expect_refusal(USAGE).expect_words("no EFI application");
    let ended = run(&inteltdx()).arg("--kernel").arg(bzimage("6.12")).run();
    ended.expect_refusal(USAGE).expect_words("nothing would bind them");
    let ended = run(&amdsev()).args(["--memory", "32M"]).run();
    ended.expect_refusal(USAGE).expect_words("too little");
}
