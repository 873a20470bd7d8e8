//! `cvmm measure` against somebody else's calculator, and against itself.

use std::path::{Path, PathBuf};

use cvmm_tests::elf::Elf;
use cvmm_tests::{Cvmm, bzimage, initramfs, oracle, vmlinux};

/// Files that the page lists are made of.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        // Two small guests: one page, and several segments with gaps and zeroed memory.
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
        files.write("id-block", &[7; 96]);
        let mut auth = vec![0; 4096];
        files.write("id-auth", &auth);
        auth[4] = 1;
        files.write("id-auth-author", &auth);
        files
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("a temporary file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A `--snp` flag whose values name files of ours.
    fn snp(&self, options: &str) -> String {
        let at = format!("{}/", self.dir.path().display());
        format!("--snp{}", options.replace('@', &at))
    }
}

/// One page list.
struct List {
    snp: &'static str,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    cpus: u16,
    memory: &'static str,
    load: &'static str,
    cmdline: String,
}

impl List {
    fn measure(&self, files: &Files) -> Cvmm {
        let run = Cvmm::new(["measure", "--load", self.load, "--memory", self.memory])
            .arg(files.snp(self.snp))
            .args(["--cpus", &self.cpus.to_string(), "--cmdline", &self.cmdline])
            .arg("--kernel")
            .arg(&self.kernel);
        match &self.initrd {
            Some(initrd) => run.arg("--initrd").arg(initrd),
            None => run,
        }
    }
}

/// Thirty lists; every value of every dimension is in some of them.
fn lists(files: &Files) -> Vec<List> {
    const ID: &str = "=id-block=@id-block,id-auth=@id-auth";
    const AUTHOR: &str = "=id-block=@id-block,id-auth=@id-auth-author";
    const SNP: [&str; 4] = ["", "=policy=0x30000", ID, AUTHOR];
    const MEMORY: [&str; 7] = ["256M", "512M", "1G", "2G", "4G", "6G", "64G"];
    const CPUS: [u16; 15] = [1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 31, 32, 48, 63, 64];
    let kernels = [
        files.path("small.elf"),
        files.path("gaps.elf"),
        bzimage("6.12"),
        bzimage("7.2"),
        vmlinux("6.12"),
        vmlinux("7.2"),
    ];
    let initrds = [
        None,
        Some(files.path("tiny.cpio")),
        Some(files.path("page.cpio")),
        Some(files.path("odd.cpio")),
        Some(initramfs("6.12")),
    ];
    (0..30)
        .map(|n| {
            let kernel = kernels[n % kernels.len()].clone();
            // A whole vmlinux page by page says nothing that a bzImage does not, for 100 MB of text.
            let measured = n / 6 % 2 == 0 && n % kernels.len() < 3;
            List {
                snp: SNP[n % SNP.len()],
                kernel,
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

fn digest(run: &Cvmm) -> String {
    let ended = run.run();
    ended.expect_code(0);
    let text = ended.console.trim().to_owned();
    if text.len() != 96 || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        ended.fail("that is no digest");
    }
    text
}

#[test]
fn thirty_page_lists_measure_as_sev_snp_measure_says() {
    let files = Files::new();
    let lists = lists(&files);
    let dumps: Vec<PathBuf> = (0..lists.len()).map(|n| files.path(&format!("{n}.pages"))).collect();
    let ours: Vec<String> = lists
        .iter()
        .zip(&dumps)
        .map(|(list, dump)| digest(&list.measure(&files).arg("--dump-pages").arg(dump)))
        .collect();
    let theirs: Vec<String> = dumps.iter().map(|dump| oracle::launch_digest(dump)).collect();
    for (n, ((list, ours), theirs)) in lists.iter().zip(&ours).zip(&theirs).enumerate() {
        assert_eq!(
            ours,
            theirs,
            "list {n}: {} {} vCPUs {}",
            list.kernel.display(),
            list.cpus,
            list.load
        );
    }
    let mut distinct = ours.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), lists.len(), "no two lists are the same guest");
}

#[test]
fn dumps_hold_one_vmsa_for_each_vcpu_and_three_other_pages_when_hashed() {
    let files = Files::new();
    for list in lists(&files).iter().filter(|list| list.load == "hashed") {
        let dump = files.path("pages");
        digest(&list.measure(&files).arg("--dump-pages").arg(&dump));
        let text = std::fs::read_to_string(&dump).expect("a dump");
        let kinds: Vec<u64> = text
            .lines()
            .filter_map(|line| {
                let page: serde_json::Value = serde_json::from_str(line).expect("JSON");
                // What the boot page has the hash of has no type.
                page["type"].as_u64()
            })
            .collect();
        let vmsas = kinds.iter().filter(|kind| **kind == 2).count();
        assert_eq!(vmsas, usize::from(list.cpus));
        assert_eq!(kinds.len() - vmsas, 3);
    }
}

fn small(files: &Files) -> Cvmm {
    Cvmm::new(["measure", "--snp", "--memory", "256M"]).arg("--kernel").arg(files.path("small.elf"))
}

#[test]
fn a_table_over_vcpu_counts_equals_the_single_runs() {
    let files = Files::new();
    let table = small(&files).args(["--cpus", "1..64"]).run();
    table.expect_code(0);
    let rows: Vec<(u16, &str)> = table
        .console
        .lines()
        .map(|line| {
            let (count, digest) = line.trim().split_once("  ").expect("count and digest");
            (count.parse().expect("a count"), digest)
        })
        .collect();
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), (1..=64).collect::<Vec<_>>());
    for (count, expected) in rows {
        assert_eq!(digest(&small(&files).args(["--cpus", &count.to_string()])), expected);
    }
}

#[test]
fn json_has_the_same_digests() {
    let files = Files::new();
    let run = small(&files).args(["--cpus", "1..3", "--json"]).run();
    run.expect_code(0);
    let value: serde_json::Value = serde_json::from_str(&run.console).expect("valid JSON");
    assert_eq!(value["schema"], "cvmm-measure/1");
    assert_eq!(value["technology"], "snp");
    let rows = value["digests"].as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    for (row, count) in rows.iter().zip(1..) {
        assert_eq!(row["vcpus"], count);
        let alone = digest(&small(&files).args(["--cpus", &count.to_string()]));
        assert_eq!(row["digest"], alone.as_str());
    }
}

#[test]
fn every_input_of_the_guest_changes_the_digest_and_nothing_else_does() {
    let files = Files::new();
    files.write("other.elf", &Elf::of_code(0x20_0000, &[0xfa, 0xf4, 0xeb, 0xfc]).bytes());
    std::fs::copy(files.path("small.elf"), files.path("copy.elf")).expect("a copy");
    let with = |kernel: &str, initrd: Option<&str>, words: &[&str]| {
        let mut run = Cvmm::new(["measure"]).arg("--kernel").arg(files.path(kernel));
        if let Some(initrd) = initrd {
            run = run.arg("--initrd").arg(files.path(initrd));
        }
        for word in words {
            run = run.arg(word);
        }
        digest(&run)
    };
    let base = ["--snp", "--memory", "256M", "--cmdline", "a"];
    let first = with("small.elf", Some("page.cpio"), &base);

    for (why, again) in [
        ("a second time", with("small.elf", Some("page.cpio"), &base)),
        ("the kernel under another name", with("copy.elf", Some("page.cpio"), &base)),
        ("another policy", {
            let words = ["--snp=policy=0xb0000", "--memory", "256M", "--cmdline", "a"];
            with("small.elf", Some("page.cpio"), &words)
        }),
        ("host data", {
            let data = format!("--snp=host-data={}", "17".repeat(32));
            with("small.elf", Some("page.cpio"), &[&data, "--memory", "256M", "--cmdline", "a"])
        }),
    ] {
        assert_eq!(first, again, "{why}");
    }

    let changed = |words: &[&str]| with("small.elf", Some("page.cpio"), words);
    let others = [
        ("another kernel", with("other.elf", Some("page.cpio"), &base)),
        ("another initrd", with("small.elf", Some("odd.cpio"), &base)),
        ("no initrd", with("small.elf", None, &base)),
        ("another command line", changed(&["--snp", "--memory", "256M", "--cmdline", "b"])),
        ("more memory", changed(&["--snp", "--memory", "512M", "--cmdline", "a"])),
        ("more vCPUs", changed(&["--snp", "--memory=256M", "--cmdline=a", "--cpus=2"])),
        ("measured", changed(&["--snp", "--memory=256M", "--cmdline=a", "--load=measured"])),
    ];
    for (n, (why, other)) in others.iter().enumerate() {
        assert_ne!(&first, other, "{why}");
        assert!(others[..n].iter().all(|(_, before)| before != other), "{why}");
    }
}

#[test]
fn the_command_line_may_come_from_a_file() {
    let files = Files::new();
    files.write("cmdline", b"console=ttyS0 quiet\n");
    let named = format!("@{}", files.path("cmdline").display());
    let direct = small(&files).args(["--cmdline", "console=ttyS0 quiet"]);
    assert_eq!(digest(&small(&files).args(["--cmdline", &named])), digest(&direct));
}

#[test]
fn plain_guests_are_not_measured() {
    let files = Files::new();
    let kernel = files.path("small.elf");
    assert!(Path::new(&kernel).exists());
    let run = Cvmm::new(["measure", "--plain"]).arg("--kernel").arg(&kernel).run();
    run.expect_code(2).expect_words("error: ").expect_words("try:   use --snp");
    assert_eq!(run.console, "");
}
