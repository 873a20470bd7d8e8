//! A host that cheats below the monitor (softkvm's `SOFTKVM_HOSTILE`), and one that swaps the files
//! above it: each deed is refused at the right place, with the right code, in words that name it.

use std::path::PathBuf;

use abi::shim::{self, Termination as Code};
use cvmm_tests::elf::Elf;
use cvmm_tests::identity::{Owner, POLICY, id_block};
use cvmm_tests::ways::Way;
use cvmm_tests::{Cvmm, Ended, from_hex, initramfs, vmlinux};
use serde_json::Value;
use zerocopy::IntoBytes;

const REFUSED: i32 = 4;
const CRASHED: i32 = 6;
const MISMATCH: i32 = 7;

/// Where the test guest is.
const KERNEL: u64 = 0x20_0000;

/// A guest that says, by the GHCB MSR, that it has been reached: set 5, reason 7.
const GUEST: [u8; 21] = [
    0xb9, 0x30, 0x01, 0x01, 0xc0, // mov ecx, 0xc0010130
    0xb8, 0x00, 0x51, 0x07, 0x00, // mov eax, 0x75100
    0x31, 0xd2, // xor edx, edx
    0x0f, 0x30, // wrmsr
    0xf3, 0x0f, 0x01, 0xd9, // vmgexit
    0xeb, 0xf8, // jmp
    0x90,
];
const REACHED: &str = "(0x5:0x7)";

struct Bench {
    dir: tempfile::TempDir,
    way: Way,
}

impl Bench {
    fn new() -> Self {
        Self::with(Way::USUAL)
    }

    fn with(way: Way) -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("a temporary directory"), way };
        bench.file("kernel", &way.kernel(&Elf::of_code(KERNEL, &GUEST)));
        bench.file("initrd", &[0x5a; 70_000]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("a temporary file");
    }

    /// The guest's flags.
    fn guest(&self, run: Cvmm, snp: &str) -> Cvmm {
        let flag = if snp.is_empty() { "--snp".to_owned() } else { format!("--snp={snp}") };
        run.arg(flag)
            .args(["--memory", "64M", "--cmdline", "console=ttyS0 test"])
            .args(self.way.words())
            .arg("--kernel")
            .arg(self.path("kernel"))
            .arg("--initrd")
            .arg(self.path("initrd"))
    }

    fn run(&self, snp: &str) -> Cvmm {
        self.guest(Cvmm::new(["--emulate", "--timeout", "60"]), snp).reported()
    }

    /// The run on a host that does this.
    fn on(&self, deeds: &str) -> Ended {
        self.run("").env("SOFTKVM_HOSTILE", deeds).run()
    }

    fn honest(&self) -> Ended {
        let ended = self.run("").run();
        ended.expect_code(CRASHED).expect_words(REACHED);
        ended
    }

    fn digest(&self) -> String {
        let ended = self.guest(Cvmm::new(["measure"]), "").run();
        ended.expect_code(0);
        ended.console.trim().to_owned()
    }

    /// Options with an ID block for the honest digest.
    fn id(&self) -> String {
        let block = id_block(&from_hex(&self.digest()), POLICY);
        self.file("id-block", block.as_bytes());
        self.file("id-auth", Owner::default().sign(&block, false).as_bytes());
        let (block, auth) = (self.path("id-block"), self.path("id-auth"));
        format!("id-block={},id-auth={}", block.display(), auth.display())
    }
}

/// The KVM_RUN that follows a mark of the honest run.
fn after(honest: &Ended, mark: &str) -> u64 {
    let marks = honest.report()["marks"].as_array().expect("marks");
    let found = marks.iter().find(|found| found["name"] == mark);
    let found = found.unwrap_or_else(|| honest.fail(mark));
    found["exits_before"].as_u64().expect("a count") + 2
}

#[track_caller]
fn shim_says(ended: &Ended, code: Code, words: &str) {
    ended.expect_code(CRASHED);
    ended.expect_words(&format!("({:#x}:{:#x})", shim::TERMINATION_SET, code.0));
    ended.expect_words("cause: the shim says: ").expect_words(words);
}

#[test]
fn an_honest_host_reaches_the_guest() {
    for bench in Way::all().map(Bench::with) {
        bench.honest();
        let ended = bench.run(&bench.id()).run();
        ended.expect_code(CRASHED).expect_words(REACHED);
    }
}

#[test]
fn deeds_that_do_not_exist_are_refused() {
    let ended = Bench::new().on("read=0x1000");
    assert!(!ended.words.contains(REACHED) && ended.code != Some(0), "{}", ended.words);
}

#[test]
fn flipped_bits_in_what_is_hashed_are_found_by_the_shim() {
    for bench in Way::loading("hashed").map(Bench::with) {
        let honest = bench.honest();
        let staged = honest.report()["launch"]["staged"].as_array().expect("what is staged");
        for (tag, code, words) in [
            ("kernel", Code::KERNEL_HASH, "kernel"),
            ("initrd", Code::INITRD_HASH, "initrd"),
            ("cmdline", Code::CMDLINE_HASH, "command line"),
        ] {
            let blob = staged.iter().find(|blob| blob["tag"] == tag).expect(tag);
            let (gpa, len) = (blob["gpa"].as_u64(), blob["bytes"].as_u64());
            let (gpa, len) = (gpa.expect("an address"), len.expect("a length"));
            for at in [gpa, gpa + len / 2, gpa + len - 1] {
                let ended = bench.on(&format!("flip={at:#x}"));
                shim_says(&ended, code, words);
                ended.expect_words("do not trust this host");
            }
            // What lies behind the blob is not the guest's.
            if len % 4096 != 0 {
                bench.on(&format!("flip={:#x}", gpa + len)).expect_words(REACHED);
            }
        }
    }
}

#[test]
fn changed_inputs_are_refused_by_expect() {
    let bench = Bench::new();
    let digest = bench.digest();
    let dump = bench.path("pages");
    bench.guest(Cvmm::new(["measure"]), "").arg("--dump-pages").arg(&dump).run().expect_code(0);
    let text = std::fs::read_to_string(&dump).expect("the pages");
    let pages = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let mut code: Vec<u8> = pages
        .filter(|page| page["tag"] == "shim")
        .flat_map(|page| from_hex(page["contents"].as_str().expect("contents")))
        .collect();
    bench.file("shim", &code);
    code[100] ^= 1;
    bench.file("other-shim", &code);
    let flipped = |name: &str| {
        let mut bytes = std::fs::read(bench.path(name)).expect("a file");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bench.file(&format!("other-{name}"), &bytes);
        bench.path(&format!("other-{name}"))
    };
    let (kernel, initrd) = (flipped("kernel"), flipped("initrd"));
    let base = || bench.run("").args(["--expect", &digest]);
    base().run().expect_code(CRASHED).expect_words(REACHED);
    base().arg("--shim").arg(bench.path("shim")).run().expect_words(REACHED);

    let plain = |kernel: PathBuf, initrd: PathBuf, cmdline: &str, memory: &str, cpus: &str| {
        Cvmm::new(["--emulate", "--timeout", "60", "--snp", "--expect", &digest])
            .args(["--memory", memory, "--cmdline", cmdline, "--cpus", cpus])
            .arg("--kernel")
            .arg(kernel)
            .arg("--initrd")
            .arg(initrd)
            .reported()
    };
    let (k, i) = (|| bench.path("kernel"), || bench.path("initrd"));
    let cmdline = "console=ttyS0 test";
    for (what, run) in [
        ("kernel", plain(kernel, i(), cmdline, "64M", "1")),
        ("initrd", plain(k(), initrd, cmdline, "64M", "1")),
        ("command line", plain(k(), i(), "console=ttyS0 tesu", "64M", "1")),
        ("parameters", plain(k(), i(), cmdline, "66M", "1")),
        ("ACPI tables", plain(k(), i(), cmdline, "64M", "2")),
        ("shim", base().arg("--shim").arg(bench.path("other-shim"))),
    ] {
        println!("another {what}");
        run.run().expect_refusal(MISMATCH).expect_words(&digest).expect_words("--dump-pages");
    }
}

#[test]
fn launch_pages_changed_on_their_way_are_refused_by_the_firmware() {
    for bench in Way::all().map(Bench::with) {
        let free = bench.way.free();
        let id = bench.id();
        let boot = |offset| shim::snp::BOOT_PAGE_GPA + offset;
        for (what, gpa) in [
            ("page table's own entry", boot(0)),
            ("another entry", boot(0x11 * 8)),
            ("an entry that is none", boot(8)),
            ("parking loop", boot(shim::snp::CODE_OFFSET)),
            ("code", boot(shim::snp::CODE_OFFSET + 0x12)),
            ("hash of the second stage", boot(shim::snp::PACKED_OFFSET + 1)),
            ("program", boot(shim::snp::PACKED_OFFSET + 0x40)),
            ("last byte", boot(0xfff)),
        ] {
            println!("{what}");
            let run = bench.run(&id).env("SOFTKVM_HOSTILE", &format!("flip-launch={gpa:#x}"));
            let ended = run.run();
            ended.expect_refusal(REFUSED).expect_words("BAD_MEASUREMENT");
            ended.expect_words("something on the host changed");
        }
        let run = bench.run(&id).env("SOFTKVM_HOSTILE", &format!("add-launch={free:#x}"));
        run.run().expect_refusal(REFUSED).expect_words("BAD_MEASUREMENT");
    }
}

#[test]
fn a_second_stage_that_was_changed_is_not_entered() {
    for bench in Way::all().map(Bench::with) {
        let honest = bench.run("").run();
        honest.expect_code(CRASHED).expect_words(REACHED);
        let staged = honest.report()["launch"]["staged"].as_array().expect("what is staged");
        let stage = staged.iter().find(|blob| blob["tag"] == "second-stage").expect("a stage");
        let waits = stage["gpa"].as_u64().expect("an address");
        for (what, gpa) in [
            ("first byte", shim::SHIM_CODE_GPA),
            ("shim", shim::SHIM_CODE_GPA + 100),
            ("space behind it", shim::PARAMETER_GPA - 1),
            ("parameters", shim::PARAMETER_GPA + 0x18),
            ("space in them", shim::PARAMETER_GPA + 0xfff),
            ("ACPI tables", shim::ACPI_GPA + 40),
            ("last byte", shim::ACPI_GPA + 0xfff),
        ] {
            println!("{what}");
            let deed = format!("flip={:#x}", waits + gpa - shim::SHIM_CODE_GPA);
            let run = bench.run("").env("SOFTKVM_HOSTILE", &deed);
            let ended = run.run();
            shim_says(&ended, Code::SHIM_HASH, "second stage");
            ended.expect_words("do not trust this host");
        }
        let len = stage["bytes"].as_u64().expect("a length");
        let behind = format!("flip={:#x}", waits + len);
        let run = bench.run("").env("SOFTKVM_HOSTILE", &behind);
        run.run().expect_words(REACHED);
    }
}

#[test]
fn pages_that_are_there_before_the_first_stage_accepts_them_are_found() {
    for bench in Way::all().map(Bench::with) {
        for gpa in [shim::SHIM_CODE_GPA, shim::ACPI_GPA, shim::WORK_BASE, shim::WORK_END - 0x1000] {
            let ended = bench.on(&format!("add-launch={gpa:#x}"));
            shim_says(&ended, Code::DOUBLE_VALIDATION, "");
        }
    }
}

#[test]
fn the_boot_page_alone_is_entered_without_being_checked_by_the_guest() {
    // So nothing but the digest can find it out: what another first stage does is its own affair.
    let bench = Bench::new();
    // Another register for the address of what is to be validated.
    let ended = bench.on(&format!("flip-launch={:#x}", shim::snp::ENTRY_GPA + 2));
    assert!(!ended.words.contains(REACHED), "{}", ended.words);
    // Another hash, and the second stage is not the one.
    let at = shim::snp::BOOT_PAGE_GPA + shim::snp::PACKED_OFFSET + 1;
    shim_says(&bench.on(&format!("flip-launch={at:#x}")), Code::SHIM_HASH, "second stage");
}

#[test]
fn measured_kernels_are_as_safe_as_hashed_ones() {
    for bench in Way::loading("measured").map(Bench::with) {
        let ended = bench.guest(Cvmm::new(["measure"]), "").run();
        let block = id_block(&from_hex(ended.console.trim()), POLICY);
        bench.id();
        bench.file("id-block", block.as_bytes());
        bench.file("id-auth", Owner::default().sign(&block, true).as_bytes());
        let id = |name: &str| bench.path(name).display().to_string();
        let id = format!("id-block={},id-auth={}", id("id-block"), id("id-auth"));
        let honest = bench.run(&id).run();
        honest.expect_code(CRASHED).expect_words(REACHED);
        let regions = honest.report()["launch"]["regions"].as_array().expect("regions");
        for tag in ["kernel", "initrd", "cmdline"] {
            let region = regions.iter().find(|region| region["tag"] == tag).expect(tag);
            let deed = format!("flip-launch={:#x}", region["gpa"].as_u64().expect("an address"));
            let ended = bench.run(&id).env("SOFTKVM_HOSTILE", &deed).run();
            ended.expect_refusal(REFUSED).expect_words("BAD_MEASUREMENT");
        }
    }
}

#[test]
fn a_cpuid_page_that_differs_is_refused_by_the_firmware() {
    const ENTRIES: usize = 0x10;
    const ENTRY: usize = 48;
    const ECX: usize = 0x20;
    let bench = Bench::new();
    let dump = bench.path("pages");
    bench.run("").arg("--dump-pages").arg(&dump).run().expect_words(REACHED);
    let text = std::fs::read_to_string(&dump).expect("the pages");
    let page: Value = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .find(|page: &Value| page["tag"] == "cpuid")
        .expect("a CPUID page");
    let page = from_hex(page["contents"].as_str().expect("contents"));
    let row = (0..64).map(|row| ENTRIES + row * ENTRY).find(|at| page[*at..at + 4] == [1, 0, 0, 0]);
    let ecx = row.expect("leaf 1") + ECX;
    // PCLMULQDQ: the modelled part lacks it, and a guest that believed it had it would crash.
    assert_eq!(page[ecx] & 1 << 1, 0, "the profile has PCLMULQDQ now: take another bit");
    let ended = bench.on(&format!("flip-launch={:#x}.1", shim::CPUID_GPA + ecx as u64));
    ended.expect_refusal(REFUSED).expect_words("CPUID page");
    ended.expect_words("something on the host changed the page");
}

#[test]
fn a_page_accepted_twice_is_found_by_the_shim() {
    for bench in Way::all().map(Bench::with) {
        let free = bench.way.free();
        let ended = bench.on(&format!("add-launch={free:#x}"));
        shim_says(&ended, Code::DOUBLE_VALIDATION, "");
        ended.expect_words("do not trust this host");
    }
}

#[test]
fn swapped_pages_are_no_longer_accepted() {
    for bench in Way::all().map(Bench::with) {
        let free = bench.way.free();
        let honest = bench.honest();
        let run = after(&honest, "accept-end");
        let ended = bench.on(&format!("swap={:#x},{free:#x}@{run}", shim::PARAMETER_GPA));
        shim_says(&ended, Code::exception(29), "");
        ended.expect_words("do not trust this host");

        // The same under the kernel, which has no handler: it never runs.
        let run = after(&honest, "load-end");
        let ended = bench.on(&format!("swap={KERNEL:#x},{free:#x}@{run}"));
        ended.expect_code(CRASHED).expect_words("triple fault");
    }
}

#[test]
fn remapped_pages_cannot_be_reached() {
    for bench in Way::all().map(Bench::with) {
        let free = bench.way.free();
        let run = after(&bench.honest(), "accept-end");
        let ended = bench.on(&format!("remap={:#x},{free:#x}@{run}", shim::PARAMETER_GPA));
        ended.expect_code(CRASHED).expect_words("another guest physical address");
    }
}

#[test]
fn pages_whose_owner_changes_behind_the_guests_back_end_the_run() {
    for bench in Way::all().map(Bench::with) {
        let run = after(&bench.honest(), "accept-end");
        for (deed, gpa, words) in [
            ("share", shim::PARAMETER_GPA, "as private, which it is not"),
            ("unshare", shim::GHCB_GPA, "as shared, which it is not"),
        ] {
            let ended = bench.on(&format!("{deed}={gpa:#x}@{run}"));
            ended.expect_code(CRASHED).expect_words(words);
            ended.expect_words(&format!("{gpa:#x}")).expect_words("something on the host changed");
        }
    }
}

#[test]
fn refused_conversions_end_the_guest() {
    for bench in Way::all().map(Bench::with) {
        // The first shares the GHCB page, the second takes the staging area back.
        for number in 1..=2 {
            let ended = bench.on(&format!("psc-refuse={number}"));
            shim_says(&ended, Code::PAGE_STATE_CHANGE, "page state change");
        }
    }
}

#[test]
fn conversions_that_only_seem_to_happen_end_the_run() {
    for bench in Way::all().map(Bench::with) {
        for (number, words) in
            [(1, "as shared, which it is not"), (2, "as private, which it is not")]
        {
            let ended = bench.on(&format!("psc-ignore={number}"));
            // A kernel that accepts memory itself asks for staging once more, before it touches it.
            let words = if number == 2 && bench.way.is_lazy() { REACHED } else { words };
            ended.expect_code(CRASHED).expect_words(words);
        }
    }
}

#[test]
fn pages_taken_from_a_running_kernel_end_the_run() {
    let with = || {
        Cvmm::new(["--emulate", "--timeout", "200", "--snp", "--memory", "512M"])
            .args(["--cmdline", "console=ttyS0 panic=-1 nokaslr"])
            .arg("--kernel")
            .arg(vmlinux("6.12"))
            .arg("--initrd")
            .arg(initramfs("6.12"))
            .reported()
    };
    let honest = with().run();
    honest.expect_code(0);
    let run = after(&honest, "init-entry");
    // The kernel's text begins at 16 MiB; some of these pages are needed for every system call.
    let pages = (0..1024).map(|n| format!("share={:#x}@{run}", 0x140_0000 + n * 0x1000));
    let deeds: Vec<String> = pages.collect();
    let ended = with().env("SOFTKVM_HOSTILE", &deeds.join(";")).run();
    ended.expect_code(CRASHED).expect_words("as private, which it is not");
    ended.expect_words("something on the host changed");
}

#[test]
fn a_guest_that_faults_for_ever_can_be_stopped() {
    const TIMEOUT: i32 = 124;
    // An interrupt table whose page-fault handler is not there either, so to say: #UD for ever.
    let code = [
        0x0f, 0x01, 0x1d, 0x02, 0x00, 0x00, 0x00, // lidt [rip + 2]
        0x0f, 0x0b, // ud2
        0xff, 0x0f, 0, 0, 0, 0, 0, 0, 0, 0, // limit and base, filled in below
    ];
    let (at, idt) = (KERNEL + 0x10_0000, KERNEL + 0x10_1000);
    let mut code = code.to_vec();
    code[11..19].copy_from_slice(&idt.to_le_bytes());
    // Every gate leads to the UD2 itself, with the shim's code segment.
    let target = at + 7;
    let mut gate = vec![target as u8, (target >> 8) as u8, 0x10, 0, 0, 0x8e];
    gate.extend([(target >> 16) as u8, (target >> 24) as u8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let bench = Bench::new();
    let elf = Elf::of_code(at, &code).segment(idt, &gate.repeat(32), 4096);
    bench.file("kernel", &elf.bytes());
    let run = Cvmm::new(["--emulate", "--plain", "--memory", "64M", "--timeout", "3", "--kernel"]);
    let ended = run.arg(bench.path("kernel")).run();
    // The stack runs down through all memory before it faults itself.
    assert!(matches!(ended.code, Some(CRASHED | TIMEOUT)), "{:?}: {}", ended.code, ended.words);
    assert!(ended.took.as_secs() < 60, "it took {} s to stop", ended.took.as_secs());
}
