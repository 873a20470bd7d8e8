//! MRTD by `cvmm measure --tdx` against somebody else's calculator: Microsoft's igvm crate.

use std::path::PathBuf;

use cvmm_tests::elf::Elf;
use cvmm_tests::oracle_tdx::{self, Page, pages};
use cvmm_tests::{Cvmm, bzimage, hex, initramfs, vmlinux};
use serde_json::Value;
use sha2::{Digest, Sha384};

/// Files that the page lists are made of.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        let halt = [0xfa, 0xf4, 0xeb, 0xfd];
        files.write("small.elf", &Elf::of_code(0x20_0000, &halt).bytes());
        let gaps = Elf::of_code(0x40_0000, &halt)
            .segment(0x60_0000, &[0x5a; 9001], 20_000)
            .segment(0x10_0000, &[0xa5; 4097], 4097);
        files.write("gaps.elf", &gaps.bytes());
        for (name, len) in [("tiny.cpio", 1), ("page.cpio", 4096), ("odd.cpio", 70_001)] {
            let bytes: Vec<u8> = (0..len).map(|i: u32| ((i * 31) >> 3) as u8).collect();
            files.write(name, &bytes);
        }
        files
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("a temporary file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// One page list.
struct List {
    tdx: String,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    cpus: u16,
    memory: &'static str,
    load: &'static str,
    cmdline: String,
}

impl List {
    fn measure(&self) -> Cvmm {
        let run = Cvmm::new(["measure", "--json", "--load", self.load, "--memory", self.memory])
            .arg(&self.tdx)
            .args(["--cpus", &self.cpus.to_string(), "--cmdline", &self.cmdline])
            .arg("--kernel")
            .arg(&self.kernel);
        match &self.initrd {
            Some(initrd) => run.arg("--initrd").arg(initrd),
            None => run,
        }
    }
}

/// Twenty lists; every value of every dimension is in some of them.
fn lists(files: &Files) -> Vec<List> {
    const MEMORY: [&str; 7] = ["256M", "512M", "1G", "2G", "4G", "6G", "64G"];
    const CPUS: [u16; 9] = [1, 2, 3, 4, 8, 16, 31, 63, 64];
    let kernels = [
        files.path("small.elf"),
        files.path("gaps.elf"),
        bzimage("6.12"),
        bzimage("7.2"),
        vmlinux("6.12"),
    ];
    let initrds = [
        None,
        Some(files.path("tiny.cpio")),
        Some(files.path("page.cpio")),
        Some(files.path("odd.cpio")),
        Some(initramfs("7.2")),
        None,
    ];
    (0..20)
        .map(|n| {
            // A whole vmlinux page by page says nothing that a bzImage does not, for 100 MB of text.
            let measured = n % 2 == 0 && n % kernels.len() < 3;
            List {
                tdx: match n % 4 {
                    3 => format!("--tdx=mrconfigid={}", "5c".repeat(48)),
                    _ => "--tdx".to_owned(),
                },
                kernel: kernels[n % kernels.len()].clone(),
                initrd: initrds[n % initrds.len()].clone(),
                cpus: CPUS[n % CPUS.len()],
                memory: MEMORY[n % MEMORY.len()],
                load: if measured { "measured" } else { "hashed" },
                cmdline: match n % 3 {
                    0 => "console=ttyS0".to_owned(),
                    1 => String::new(),
                    _ => format!("console=ttyS0 {}", "x".repeat(n * 60)),
                },
            }
        })
        .collect()
}

/// MRTD of a host that adds every page before it extends the first, as kernels before the one in mainline did.
fn two_pass(pages: &[Page]) -> String {
    let block = |name: &[u8], gpa: u64| {
        let mut block = [0; 128];
        block[..name.len()].copy_from_slice(name);
        block[16..24].copy_from_slice(&gpa.to_le_bytes());
        block
    };
    let mut hash = Sha384::new();
    for page in pages {
        hash.update(block(b"MEM.PAGE.ADD", page.gpa));
    }
    for page in pages.iter().filter(|page| page.measured) {
        for (n, chunk) in (0..).zip(page.contents.chunks_exact(256)) {
            hash.update(block(b"MR.EXTEND", page.gpa + n * 256));
            hash.update(chunk);
        }
    }
    hex(&hash.finalize())
}

fn mrtd(run: &Cvmm) -> String {
    let ended = run.run();
    ended.expect_code(0);
    let value: Value = serde_json::from_str(&ended.console).expect("valid JSON");
    assert_eq!(value["technology"], "tdx");
    value["digests"][0]["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn twenty_page_lists_measure_as_the_igvm_crate_says() {
    let files = Files::new();
    let mut distinct = Vec::new();
    for (n, list) in lists(&files).iter().enumerate() {
        let dump = files.path("pages");
        let ours = mrtd(&list.measure().arg("--dump-pages").arg(&dump));
        let pages = pages(&dump);
        let what = format!("list {n}: {} {}", list.kernel.display(), list.load);
        assert_eq!(ours, oracle_tdx::mrtd(&pages), "{what}");
        assert_ne!(ours, two_pass(&pages), "{what}");
        distinct.push(ours);
        if list.load == "hashed" {
            assert!(pages.len() <= 9, "{what}: {} launch pages", pages.len());
        }
        // The reset vector is there: a vCPU of a TD starts nowhere else.
        assert!(pages.iter().any(|page| page.gpa == 0xffff_f000), "{what}");
    }
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 20, "no two lists are the same guest");
}

fn small(files: &Files) -> Cvmm {
    Cvmm::new(["measure", "--tdx", "--memory", "256M"]).arg("--kernel").arg(files.path("small.elf"))
}

#[test]
fn a_single_page_list_is_the_same_in_one_pass_and_in_two() {
    // One page: the orders do not differ, so that the difference above is the order's alone.
    let page = Page { gpa: 0xffff_f000, measured: true, contents: vec![0; 4096] };
    let expected = "07f08f558c5e2593b33452cf00c12a165c07b027a36424ecfa15ebf39b5415e0ed62418458e4bfd77f16fec0f1568dc9";
    assert_eq!(oracle_tdx::mrtd(std::slice::from_ref(&page)), expected);
    assert_eq!(two_pass(std::slice::from_ref(&page)), expected);
}

#[test]
fn a_table_over_vcpu_counts_equals_the_single_runs() {
    let files = Files::new();
    let table = small(&files).args(["--cpus", "1..5", "--json"]).run();
    table.expect_code(0);
    let value: Value = serde_json::from_str(&table.console).expect("valid JSON");
    let rows = value["digests"].as_array().expect("rows");
    assert_eq!(rows.len(), 5);
    for (row, count) in rows.iter().zip(1..) {
        assert_eq!(row["vcpus"], count);
        let alone = mrtd(&small(&files).args(["--json", "--cpus", &count.to_string()]));
        assert_eq!(row["digest"], alone.as_str());
    }
}

#[test]
fn every_input_of_the_guest_changes_mrtd_and_nothing_else_does() {
    let files = Files::new();
    files.write("other.elf", &Elf::of_code(0x20_0000, &[0xfa, 0xf4, 0xeb, 0xfc]).bytes());
    let with = |kernel: &str, initrd: &str, words: &[&str]| {
        let run = Cvmm::new(["measure", "--json"])
            .arg("--kernel")
            .arg(files.path(kernel))
            .arg("--initrd")
            .arg(files.path(initrd));
        mrtd(&words.iter().fold(run, |run, word| run.arg(word)))
    };
    let rest = ["--memory=256M", "--cmdline=a"];
    let base = ["--tdx", rest[0], rest[1]];
    let first = with("small.elf", "page.cpio", &base);
    let ids = format!("--tdx=mrowner={},mrownerconfig={}", "17".repeat(48), "18".repeat(48));
    assert_eq!(first, with("small.elf", "page.cpio", &base), "a second time");
    assert_eq!(first, with("small.elf", "page.cpio", &[&ids, rest[0], rest[1]]), "identifiers");
    let changed = |words: &[&str]| with("small.elf", "page.cpio", words);
    let others = [
        ("another kernel", with("other.elf", "page.cpio", &base)),
        ("another initrd", with("small.elf", "odd.cpio", &base)),
        ("another command line", changed(&["--tdx", "--memory=256M", "--cmdline=b"])),
        ("more memory", changed(&["--tdx", "--memory=512M", "--cmdline=a"])),
        ("more vCPUs", changed(&["--tdx", "--memory=256M", "--cmdline=a", "--cpus=2"])),
        ("measured", changed(&["--tdx", "--memory=256M", "--cmdline=a", "--load=measured"])),
    ];
    for (n, (why, other)) in others.iter().enumerate() {
        assert_ne!(&first, other, "{why}");
        assert!(others[..n].iter().all(|(_, before)| before != other), "{why}");
    }
}
