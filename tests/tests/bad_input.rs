//! Whatever is wrong with the input: one error with cause and cure, the documented exit code, no
//! panic, and no half of a file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cvmm_tests::elf::Elf;
use cvmm_tests::{Cvmm, Ended, bzimage, initramfs, input, vmlinux};

const USAGE: i32 = 2;
const HOST: i32 = 3;
const IO: i32 = 5;
const PANIC: i32 = 8;
const TIMEOUT: i32 = 124;

/// Offsets of the Linux setup header (Linux Documentation/arch/x86/boot.rst).
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const ALIGNMENT: usize = 0x230;
const XLOADFLAGS: usize = 0x236;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        bench.file("good.elf", &good_elf());
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).expect("a temporary file");
        self.path(name)
    }

    /// A file of zeros that takes no room on disk.
    fn sparse(&self, name: &str, len: u64) -> PathBuf {
        let file = std::fs::File::create(self.path(name)).expect("a temporary file");
        file.set_len(len).expect("a sparse file");
        self.path(name)
    }

    fn good(&self) -> PathBuf {
        self.path("good.elf")
    }
}

fn good_elf() -> Vec<u8> {
    Elf::of_code(0x20_0000, &[0xfa, 0xf4, 0xeb, 0xfd]).bytes()
}

fn patched(bytes: &[u8], at: usize, patch: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

/// Both verbs refuse a kernel file, and say which one.
#[track_caller]
fn refuses_kernel(file: &Path, code: i32, says: &str) {
    for verb in [&["measure", "--snp"][..], &["--plain"][..]] {
        let mut run = Cvmm::new([]);
        for word in verb {
            run = run.arg(word);
        }
        run = run.arg("--kernel").arg(file);
        if verb == ["--plain"] {
            run = run.reported();
        }
        let ended = run.run();
        ended.expect_refusal(code).expect_words(&file.display().to_string()).expect_words(says);
        assert_eq!(ended.console, "", "nothing on standard output");
    }
}

#[test]
fn truncated_bzimages() {
    let bench = Bench::new();
    let image = std::fs::read(bzimage("6.12")).expect("the kernel");
    for (len, says) in [
        (0, "the file is empty"),
        (1, "neither a bzImage"),
        (0x205, "neither a bzImage"),
        (0x210, "truncated"),
        (0x26b, "truncated"),
        (0x1000, "truncated"),
        (1 << 20, "truncated"),
        (image.len() / 2, "truncated"),
    ] {
        refuses_kernel(&bench.file("bzImage", &image[..len]), USAGE, says);
    }
}

#[test]
fn corrupted_bzimages() {
    let bench = Bench::new();
    let image = std::fs::read(bzimage("6.12")).expect("the kernel");
    let cases: [(usize, &[u8], &str); 12] = [
        (MAGIC, b"Hdrs", "neither a bzImage"),
        (BOOT_FLAG, &[0], "boot flag"),
        (VERSION, &[0, 2], "older than 2.12"),
        (XLOADFLAGS, &[0, 0], "no 64-bit entry"),
        (ALIGNMENT, &[3, 0, 0, 0], "alignment"),
        (ALIGNMENT, &[0, 0, 0, 0], "alignment"),
        (ALIGNMENT, &[0, 0, 0, 0x80], "alignment"),
        (INIT_SIZE, &[0, 0, 0, 0], "init_size"),
        (INIT_SIZE, &[0xff; 4], "init_size"),
        (PREF_ADDRESS, &[0; 8], "preferred address"),
        (PREF_ADDRESS, &[0xff; 8], "preferred address"),
        // syssize: more than the file has.
        (0x1f4, &[0xff; 4], "truncated"),
    ];
    for (at, patch, says) in cases {
        refuses_kernel(&bench.file("bzImage", &patched(&image, at, patch)), USAGE, says);
    }
}

#[test]
fn truncated_elf_files() {
    let bench = Bench::new();
    let image = std::fs::read(vmlinux("6.12")).expect("the kernel");
    for len in [4, 63, 64, 100, 4096, image.len() / 2] {
        refuses_kernel(&bench.file("vmlinux", &image[..len]), USAGE, "truncated");
    }
}

#[test]
fn corrupted_elf_files() {
    let bench = Bench::new();
    let image = good_elf();
    let long = |value: u64| value.to_le_bytes();
    let cases: [(usize, &[u8], &str); 18] = [
        (4, &[1], "32-bit"),
        (5, &[2], "little-endian"),
        (18, &[183, 0], "another machine"),
        (16, &[1, 0], "object file"),
        (54, &[1, 0], "program headers"),
        (56, &[0, 0], "program headers"),
        (56, &[0xff, 0xff], "program headers"),
        (32, &long(u64::MAX), "truncated"),
        (32, &long(u64::MAX - 55), "truncated"),
        (24, &long(0), "entry point"),
        (64, &[2], "nothing in it is loadable"),
        // The segment: offset, physical address, sizes.
        (64 + 8, &long(u64::MAX), "truncated"),
        (64 + 24, &long(0x1000), "below 1 MiB"),
        (64 + 24, &long(u64::MAX - 4), "4 GiB"),
        (64 + 24, &long(1 << 40), "4 GiB"),
        (64 + 32, &long(1 << 40), "truncated"),
        (64 + 40, &long(u64::MAX), "larger than its memory"),
        (64 + 40, &long(1), "larger than its memory"),
    ];
    for (at, patch, says) in cases {
        refuses_kernel(&bench.file("vmlinux", &patched(&image, at, patch)), USAGE, says);
    }
    refuses_kernel(&bench.file("text", b"#!/bin/sh\necho no kernel\n"), USAGE, "neither a bzImage");
}

#[test]
fn random_damage_never_panics() {
    let bench = Bench::new();
    let image = std::fs::read(bzimage("6.12")).expect("the kernel");
    let elf = good_elf();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..200 {
        // Headers only: what lies behind them is for the guest to judge.
        let mut bytes = if round % 2 == 0 { image[..64 << 10].to_vec() } else { elf.clone() };
        let (from, to) = if round % 2 == 0 { (0x1f1, 0x270) } else { (0, 120) };
        for _ in 0..=random() % 4 {
            let at = from + random() as usize % (to - from);
            bytes[at] = random() as u8;
        }
        let file = bench.file("damaged", &bytes);
        let ended = Cvmm::new(["measure", "--snp", "--kernel"]).arg(&file).run();
        if ended.code != Some(0) {
            ended.expect_refusal(USAGE);
        }
    }
}

#[test]
fn files_that_cannot_be_read() {
    let bench = Bench::new();
    refuses_kernel(&bench.path("missing"), IO, "No such file");
    refuses_kernel(bench.dir.path(), IO, "directory");
    refuses_kernel(&bench.sparse("huge", 5 << 30), IO, "larger than 2048 MiB");
    // Not even root may read the first page of itself.
    refuses_kernel(Path::new("/proc/self/mem"), IO, "");

    let huge = bench.sparse("huge", 5 << 30);
    let cases = [(bench.path("missing"), "No such file"), (huge, "larger than 2048 MiB")];
    for (initrd, says) in cases.iter().chain(&[(bench.dir.path().into(), "directory")]) {
        let run = Cvmm::new(["--plain", "--kernel"]).arg(bench.good());
        let ended = run.arg("--initrd").arg(initrd).reported().run();
        ended.expect_refusal(IO).expect_words("cannot read the initrd").expect_words(says);
    }
    let named = format!("@{}", bench.path("missing").display());
    let run = Cvmm::new(["measure", "--snp", "--kernel"]).arg(bench.good());
    run.args(["--cmdline", &named]).run().expect_refusal(IO).expect_words("command line");

    // Permissions bind everybody but root: become somebody else where we may.
    let private = bench.file("private", &good_elf());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    std::fs::set_permissions(&private, mode).expect("its owner may");
    let run = Cvmm::new(["measure", "--snp", "--kernel"]).arg(&private);
    let as_nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all"];
    let reachable = setpriv_reaches(&as_nobody, &input("CVMM_BIN"), bench.dir.path());
    let run = if std::fs::File::open(&private).is_err() {
        run
    } else if reachable {
        run.under(as_nobody)
    } else {
        println!("skipped: as root, and nobody else can reach the binary: no file is unreadable");
        return;
    };
    run.run().expect_refusal(IO).expect_words("Permission denied").expect_words("readable");
}

/// Whether another user gets as far as both files.
fn setpriv_reaches(command: &[&str], program: &Path, dir: &Path) -> bool {
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    let _ = std::fs::set_permissions(dir, open);
    let status = Command::new(command[0])
        .args(&command[1..])
        .args(["test", "-x"])
        .arg(program)
        .args(["-a", "-x"])
        .arg(dir)
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn measure(bench: &Bench, words: &[&str]) -> Ended {
    let mut run = Cvmm::new(["measure", "--snp", "--kernel"]).arg(bench.good());
    for word in words {
        run = run.arg(word);
    }
    run.run()
}

#[test]
fn sizes_and_counts_that_make_no_guest() {
    let bench = Bench::new();
    for (words, says) in [
        (["--memory", "0"], "whole number of MiB"),
        (["--memory", "1"], "whole number of MiB"),
        (["--memory", "1M"], "too little"),
        (["--memory", "-5"], "is not a size"),
        (["--memory", "lots"], "is not a size"),
        (["--memory", ""], "is not a size"),
        (["--memory", "99999999999999999999G"], "is not a size"),
        (["--memory", "18446744073709551615G"], "largest guest"),
        (["--memory", "1025G"], "largest guest"),
        (["--cpus", "0"], "a guest has 1 to"),
        (["--cpus", "256"], "a guest has 1 to"),
        (["--cpus", "-1"], "a guest has 1 to"),
        (["--cpus", "4..2"], "empty range"),
        (["--cpus", "1..256"], "a guest has 1 to"),
        (["--cpus", "two"], "a guest has 1 to"),
    ] {
        measure(&bench, &words).expect_refusal(USAGE).expect_words(says);
    }
    let long = "x".repeat(4096);
    measure(&bench, &["--cmdline", &long]).expect_refusal(USAGE).expect_words("4096 bytes");
    let text = bench.file("binary", b"console=\0ttyS0");
    let named = format!("@{}", text.display());
    measure(&bench, &["--cmdline", &named]).expect_refusal(USAGE).expect_words("NUL");
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    for image in [bzimage("6.12"), bzimage("7.2"), vmlinux("6.12")] {
        let with = |memory: &str| {
            Cvmm::new(["measure", "--snp", "--memory", memory]).linux(&image, "6.12").run()
        };
        let ended = with("16M");
        ended.expect_refusal(USAGE).expect_words("too little");
        let cure = ended.words.lines().find_map(|line| line.strip_prefix("try:   give --memory "));
        let needed = cure.and_then(|rest| rest.split(' ').next()).expect("the size needed");
        with(needed).expect_code(0);
    }
    let bench = Bench::new();
    let initrd = bench.sparse("initrd", 200 << 20);
    let ended = measure(&bench, &["--memory", "256M", "--initrd", &initrd.display().to_string()]);
    ended.expect_refusal(USAGE).expect_words("too little");
}

#[test]
fn contradictory_command_lines() {
    let bench = Bench::new();
    let kernel = bench.good();
    let kernel = kernel.to_str().expect("a path in UTF-8");
    let cases: [(&[&str], &str); 17] = [
        (&["--kernel", kernel], "exactly one"),
        (&["--snp", "--plain", "--kernel", kernel], "exactly one"),
        (&["--snp", "--tdx", "--kernel", kernel], "exactly one"),
        (&["--tdx=attributes=1", "--kernel", kernel], "bit 28"),
        (&["--snp"], "--kernel"),
        (&["--plain", "--kernel", kernel, "--cpus", "1..2"], "range"),
        (&["--plain", "--kernel", kernel, "--expect", "00"], "96 hexadecimal digits"),
        (&["--plain", "--kernel", kernel, "--console", "nowhere"], "is not a console"),
        (&["--plain", "--kernel", kernel, "--timeout", "-1"], "number of seconds"),
        (&["--plain", "--kernel", kernel, "--load", "lazily"], "hashed, measured"),
        (&["--plain", "--kernel", kernel, "--kernel", kernel], "multiple times"),
        (&["--plian", "--kernel", kernel], "--plain"),
        (&["--snp=colour=blue", "--kernel", kernel], "no such option"),
        (&["--snp=policy=0", "--kernel", kernel], "bit 17"),
        (&["--snp=host-data=00", "--kernel", kernel], "32 bytes"),
        (&["--snp=id-block=/dev/null", "--kernel", kernel], "id-auth"),
        (&["explain", "nonsense"], "nonsense"),
    ];
    for (words, says) in cases {
        let run = words.iter().fold(Cvmm::new([]), |run, word| run.arg(word));
        run.run().expect_refusal(USAGE).expect_words(says);
    }
    let digest = "ab".repeat(48);
    let run = Cvmm::new(["--plain", "--expect", &digest, "--kernel", kernel]);
    run.run().expect_refusal(USAGE).expect_words("not measured");
}

#[test]
fn id_blocks_of_the_wrong_size() {
    let bench = Bench::new();
    let (block, auth) = (bench.file("block", &[0; 96]), bench.file("auth", &[0; 4096]));
    let short = bench.file("short", &[0; 95]);
    for (block, auth, says) in [(&short, &auth, "95 bytes"), (&block, &short, "95 bytes")] {
        let flag = format!("--snp=id-block={},id-auth={}", block.display(), auth.display());
        let ended = Cvmm::new(["measure", &flag, "--kernel"]).arg(bench.good()).run();
        ended.expect_refusal(USAGE).expect_words(says);
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let bench = Bench::new();
    let nowhere = bench.path("missing/file");
    let dir = bench.dir.path();
    for (flag, what) in [("--report", "report"), ("--dump-pages", "page list"), ("--log", "log")] {
        for path in [nowhere.as_path(), dir, Path::new("/proc/cvmm")] {
            let run = Cvmm::new(["--plain", "--kernel"]).arg(bench.good());
            let ended = run.arg(flag).arg(path).run();
            ended.expect_refusal(IO).expect_words(&format!("cannot write the {what}"));
        }
    }
    let console = format!("file={}", nowhere.display());
    let run = Cvmm::new(["--plain", "--console", &console, "--kernel"]).arg(bench.good());
    run.run().expect_refusal(IO).expect_words("console");
    let left = std::fs::read_dir(dir).expect("the directory").count();
    assert_eq!(left, 1, "only the kernel is in {}", dir.display());
}

#[test]
fn full_disks() {
    let bench = Bench::new();
    let ended = measure(&bench, &["--dump-pages", "/dev/full"]);
    ended.expect_refusal(IO).expect_words("No space left");

    let run = Cvmm::new(["measure", "--snp", "--kernel"]).arg(bench.good());
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = run.command().stdout(full()).output().expect("cvmm starts");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(IO), "{words}");
    assert!(words.contains("error: cannot write") && !words.contains("panicked"), "{words}");

    // Nobody can be told, but the exit code is right.
    let run = Cvmm::new(["measure", "--snp", "--kernel", "/nonexistent"]);
    let output = run.command().stderr(full()).output().expect("cvmm starts");
    assert_eq!(output.status.code(), Some(IO));
}

#[test]
fn a_file_that_was_there_survives_a_failure() {
    let bench = Bench::new();
    let report = bench.file("report.json", b"of yesterday");
    let run = Cvmm::new(["--plain", "--kernel", "/nonexistent", "--report"]).arg(&report);
    run.run().expect_refusal(IO);
    assert_eq!(std::fs::read(&report).expect("the file"), b"of yesterday");
}

#[test]
fn hosts_without_dev_kvm() {
    let bench = Bench::new();
    let hide = "mount -t tmpfs none /dev && exec \"$0\" \"$@\"";
    let namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", hide];
    let possible = Command::new(namespace[0]).args(&namespace[1..]).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: this system gives us no mount namespace to hide /dev/kvm in");
        return;
    }
    for technology in ["--plain", "--snp"] {
        let run = Cvmm::new([technology, "--kernel"]).arg(bench.good()).reported();
        let ended = run.under(namespace).run();
        ended.expect_refusal(HOST).expect_words("cannot open /dev/kvm").expect_words("--emulate");
    }
}

#[test]
fn hosts_without_snp() {
    let bench = Bench::new();
    if std::path::Path::new("/dev/sev").exists() {
        println!("skipped: this host has a /dev/sev and may well have SEV-SNP");
        return;
    }
    let run = Cvmm::new(["--snp", "--kernel"]).arg(bench.good()).reported();
    let ended = run.run();
    ended.expect_refusal(HOST).expect_words("--emulate");
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() {
        ended.expect_words("does not offer SEV-SNP guests");
    } else {
        println!("this host has no usable /dev/kvm either");
    }
}

#[test]
fn an_emulator_that_is_not_there() {
    let bench = Bench::new();
    let run = Cvmm::new(["--plain", "--emulate", "--kernel"]).arg(bench.good()).reported();
    let ended = run.clone().env("CVMM_SOFTKVM", "/nonexistent/libsoftkvm.so").run();
    ended.expect_refusal(HOST).expect_words("/nonexistent/libsoftkvm.so");
}

#[test]
fn good_files_are_not_refused() {
    for kernel in ["6.12", "7.2"] {
        assert!(initramfs(kernel).exists());
        for image in [bzimage(kernel), vmlinux(kernel)] {
            Cvmm::new(["measure", "--snp"]).linux(&image, kernel).run().expect_code(0);
        }
    }
}

/// A guest that powers an unprotected machine off at once.
fn power_off() -> Vec<u8> {
    // mov edx, 0x600; mov al, 0x34; out dx, al
    Elf::of_code(0x20_0000, &[0xba, 0, 6, 0, 0, 0xb0, 0x34, 0xee, 0xf4]).bytes()
}

#[test]
fn emulated_runs_refuse_as_real_ones_do() {
    let bench = Bench::new();
    let emulated = |words: &[&str]| {
        let run = Cvmm::new(["--emulate", "--snp", "--kernel"]).arg(bench.good());
        words.iter().fold(run, |run, word| run.arg(word)).reported().run()
    };
    let linux =
        Cvmm::new(["--emulate", "--snp", "--memory", "16M"]).linux(&bzimage("6.12"), "6.12");
    linux.reported().run().expect_refusal(USAGE).expect_words("too little");
    emulated(&["--cpus", "256"]).expect_refusal(USAGE).expect_words("a guest has 1 to");
    emulated(&["--initrd", "/nonexistent"]).expect_refusal(IO);
    let run = Cvmm::new(["--emulate=pentium", "--plain", "--kernel"]).arg(bench.good()).reported();
    run.run().expect_refusal(HOST).expect_words("pentium").expect_words("softkvm info");
    for (policy, words) in [("0x20000", "POLICY_FAILURE"), ("0x30000000030000", "LAUNCH_START")] {
        let flag = format!("--snp=policy={policy}");
        let run = Cvmm::new(["--emulate", &flag, "--kernel"]).arg(bench.good()).reported();
        run.run().expect_refusal(4).expect_words(words);
    }
}

#[test]
fn reports_do_not_fit_on_a_full_disk() {
    let bench = Bench::new();
    let kernel = bench.file("off.elf", &power_off());
    let run = || {
        Cvmm::new(["--emulate", "--plain", "--memory", "64M", "--timeout", "60", "--kernel"])
            .arg(&kernel)
    };
    run().run().expect_code(0);
    let full = run().args(["--report", "/dev/full"]).run();
    full.expect_complaint(IO).expect_words("cannot write the report").expect_words("No space left");

    let script = "mount -t tmpfs -o size=4k none /mnt && \"$0\" \"$@\"; code=$?; \
                  echo \"left: $(ls -A /mnt)\" >&2; exit $code";
    let namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script];
    let possible = Command::new(namespace[0]).args(&namespace[1..]).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: this system gives us no mount namespace for a small disk");
        return;
    }
    let full = run().args(["--report", "/mnt/report.json"]).under(namespace).run();
    full.expect_complaint(IO).expect_words("No space left");
    assert!(full.words.lines().any(|line| line == "left: "), "{}", full.words);
}

#[test]
fn damage_that_only_the_guest_can_see_ends_the_guest() {
    let bench = Bench::new();
    let good = std::fs::read(initramfs("6.12")).expect("the initramfs");
    let run = |kernel: &Path, initrd: &Path, timeout: &str| {
        Cvmm::new(["--emulate", "--plain", "--memory", "512M", "--timeout", timeout, "--kernel"])
            .arg(kernel)
            .arg("--initrd")
            .arg(initrd)
            .run()
    };
    let kernel = bzimage("6.12");
    // The header of the archive's first member, and the end of /init.
    let corrupted = bench.file("corrupted", &patched(&good, 0, b"999999"));
    let truncated = bench.file("truncated", &good[..good.len().min(2000)]);
    for initrd in [corrupted, truncated] {
        let ended = run(&kernel, &initrd, "120");
        ended.expect_complaint(PANIC).expect_words("panicked").expect_console("Kernel panic");
    }
    // The kernel's decompressor finds the damage, says so where only it can, and halts.
    let mut image = std::fs::read(&kernel).expect("the kernel");
    let middle = image.len() / 2;
    image[middle] ^= 0x10;
    let ended = run(&bench.file("bzImage", &image), &initramfs("6.12"), "15");
    ended.expect_complaint(TIMEOUT).expect_words("--timeout");
}
