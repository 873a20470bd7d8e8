//! A host that cheats on a TD below the monitor (softkvm's `SOFTKVM_HOSTILE`), and one that swaps the files above it.
//!
//! TDX has no ID block: nothing on the host refuses a launch page that was changed on its way. The guest then runs with
//! another MRTD, which is for whoever judges its report to refuse. So the test guest prints the MRTD of its TDREPORT
//! before it says that it was reached.

use std::path::PathBuf;

use abi::shim::{self, ParameterPage, Termination as Code, tdx};
use cvmm_tests::elf::Elf;
use cvmm_tests::oracle_tdx::{self, Page};
use cvmm_tests::ways::Way;
use cvmm_tests::{Cvmm, Ended, hex, in_parallel, initramfs, vmlinux};

const HOST: i32 = 3;
const CRASHED: i32 = 6;
const MISMATCH: i32 = 7;

/// No RAM, but memory of the VM.
const HOLE: u64 = 0xa_0000;
/// Where the test guest is.
const KERNEL: u64 = 0x20_0000;

/// TDG.MR.REPORT to 0x300000, MRTD to the serial line as letters from `a`, ReportFatalError with 0x7e57.
const GUEST: [u8; 146] = [
    0xbc, 0x00, 0x00, 0x31, 0x00, // mov esp, 0x310000
    0xb8, 0x04, 0x00, 0x00, 0x00, // mov eax, 4
    0xb9, 0x00, 0x00, 0x30, 0x00, // mov ecx, 0x300000
    0xba, 0x00, 0x10, 0x30, 0x00, // mov edx, 0x301000
    0x45, 0x31, 0xc0, // xor r8d, r8d
    0x66, 0x0f, 0x01, 0xcc, // tdcall
    0xbe, 0x10, 0x02, 0x30, 0x00, // mov esi, 0x300210
    0xbf, 0x30, 0x00, 0x00, 0x00, // mov edi, 48
    // 37: next byte
    0x0f, 0xb6, 0x1e, // movzx ebx, byte [rsi]
    0x89, 0xdd, // mov ebp, ebx
    0xc1, 0xed, 0x04, // shr ebp, 4
    0xe8, 0x33, 0x00, 0x00, 0x00, // call 101
    0x89, 0xdd, // mov ebp, ebx
    0x83, 0xe5, 0x0f, // and ebp, 15
    0xe8, 0x29, 0x00, 0x00, 0x00, // call 101
    0xff, 0xc6, // inc esi
    0xff, 0xcf, // dec edi
    0x75, 0xe3, // jnz 37
    // 66: the end
    0x31, 0xc0, // xor eax, eax
    0xb9, 0x00, 0xfc, 0x00, 0x00, // mov ecx, 0xfc00
    0x45, 0x31, 0xd2, // xor r10d, r10d
    0x41, 0xbb, 0x03, 0x00, 0x01, 0x00, // mov r11d, 0x10003
    0x41, 0xbc, 0x57, 0x7e, 0x00, 0x00, // mov r12d, 0x7e57
    0x45, 0x31, 0xf6, // xor r14d, r14d
    0x45, 0x31, 0xff, // xor r15d, r15d
    0x66, 0x0f, 0x01, 0xcc, // tdcall
    0xeb, 0xfe, // jmp $
    0x90, // nop
    // 101: a byte of 0 to 15 to the serial line, by TDVMCALL
    0x83, 0xc5, 0x61, // add ebp, 'a'
    0x31, 0xc0, // xor eax, eax
    0xb9, 0x00, 0xfc, 0x00, 0x00, // mov ecx, 0xfc00
    0x45, 0x31, 0xd2, // xor r10d, r10d
    0x41, 0xbb, 0x1e, 0x00, 0x00, 0x00, // mov r11d, 30
    0x41, 0xbc, 0x01, 0x00, 0x00, 0x00, // mov r12d, 1
    0x41, 0xbd, 0x01, 0x00, 0x00, 0x00, // mov r13d, 1
    0x41, 0xbe, 0xf8, 0x03, 0x00, 0x00, // mov r14d, 0x3f8
    0x41, 0x89, 0xef, // mov r15d, ebp
    0x66, 0x0f, 0x01, 0xcc, // tdcall
    0xc3, // ret
];
const REACHED: &str = "code 0x7e57";

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

    /// With a guest that first reads 8 bytes at an address.
    fn reading(address: u64) -> Self {
        let bench = Self::new();
        // mov rax, address; mov rax, [rax]
        let read = [&[0x48, 0xb8], &address.to_le_bytes()[..], &[0x48, 0x8b, 0x00]].concat();
        bench.file("kernel", &Elf::of_code(KERNEL, &[&read[..], &GUEST].concat()).bytes());
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("a temporary file");
    }

    /// The guest's flags.
    fn guest(&self, run: Cvmm) -> Cvmm {
        run.args(["--tdx", "--memory", "64M", "--cmdline", "console=ttyS0 test"])
            .args(self.way.words())
            .arg("--kernel")
            .arg(self.path("kernel"))
            .arg("--initrd")
            .arg(self.path("initrd"))
    }

    fn run(&self) -> Cvmm {
        self.guest(Cvmm::new(["--emulate", "--timeout", "60"])).reported()
    }

    /// The run on a host that does this.
    fn on(&self, deeds: &str) -> Ended {
        self.run().env("SOFTKVM_HOSTILE", deeds).run()
    }

    fn honest(&self) -> Ended {
        let ended = self.run().run();
        assert_eq!(reached(&ended), self.mrtd());
        ended
    }

    fn mrtd(&self) -> String {
        let ended = self.guest(Cvmm::new(["measure"])).run();
        ended.expect_code(0);
        first_line(&ended)
    }

    /// The launch pages of a run with these further flags.
    fn pages(&self, words: &[&str]) -> Vec<Page> {
        let dump = self.path("pages");
        let run = self.guest(Cvmm::new(["measure", "--dump-pages"]).arg(&dump));
        words.iter().fold(run, |run, word| run.arg(word)).run().expect_code(0);
        oracle_tdx::pages(&dump)
    }
}

/// What `cvmm measure` says before it explains.
fn first_line(ended: &Ended) -> String {
    ended.console.lines().next().unwrap_or_default().to_owned()
}

/// The guest ran; the MRTD in its report.
#[track_caller]
fn reached(ended: &Ended) -> String {
    ended.expect_code(CRASHED).expect_words(REACHED);
    let nibble = |letter: u8| letter.wrapping_sub(b'a');
    let letters = ended.console.trim().as_bytes();
    assert!(letters.len() == 96 && letters.iter().all(|c| nibble(*c) < 16), "{}", ended.console);
    hex(&letters.chunks(2).map(|two| nibble(two[0]) << 4 | nibble(two[1])).collect::<Vec<u8>>())
}

#[track_caller]
fn not_reached(ended: &Ended) {
    assert!(!ended.words.contains(REACHED) && ended.console.is_empty(), "{}", ended.words);
}

/// MRTD of these pages with one bit changed.
fn mrtd_with(pages: &mut [Page], gpa: u64) -> String {
    let page = pages.iter_mut().find(|page| (page.gpa..page.gpa + 4096).contains(&gpa));
    let page = page.expect("a launch page");
    let at = (gpa - page.gpa) as usize;
    page.contents[at] ^= 1;
    let mrtd = oracle_tdx::mrtd(pages);
    let page = pages.iter_mut().find(|page| (page.gpa..page.gpa + 4096).contains(&gpa));
    page.expect("the same page").contents[at] ^= 1;
    mrtd
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
    ended.expect_complaint(CRASHED);
    ended.expect_words(&format!("({:#x}:{:#x})", shim::TERMINATION_SET, code.0));
    ended.expect_words("cause: the shim says: ").expect_words(words);
    not_reached(ended);
}

/// The TD is dead, because of this page.
#[track_caller]
fn dead(ended: &Ended, gpa: u64) {
    ended.expect_complaint(CRASHED).expect_words("error: the TD is dead");
    ended.expect_words("touched a page that it had not accepted").expect_words("took away");
    ended.expect_words("do not trust this host");
    // What `dmesg` has on a real host.
    ended.expect_words(&format!("Guest access before accepting {gpa:#x}"));
    assert_eq!(ended.report()["outcome"]["kind"], "td_dead");
}

/// The guest met a page in the other state.
#[track_caller]
fn wrong_kind(ended: &Ended, gpa: u64, words: &str) {
    ended.expect_complaint(CRASHED);
    ended.expect_words(&format!("the guest touched {gpa:#x} as {words}, which it is not"));
    ended.expect_words("something on the host changed").expect_words("do not trust this host");
}

#[test]
fn an_honest_host_reaches_the_guest_and_reports_what_was_measured() {
    for bench in Way::of_td().map(Bench::with) {
        for cpus in ["1", "2", "4"] {
            let with = |run: Cvmm| bench.guest(run).args(["--cpus", cpus]);
            let measured = with(Cvmm::new(["measure"])).run();
            let ended = with(Cvmm::new(["--emulate", "--timeout", "60"])).reported().run();
            assert_eq!(reached(&ended), first_line(&measured));
            assert_eq!(ended.report()["digest"], first_line(&measured));
        }
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
                let ended = bench.on(&format!("flip={at:#x}.{}", at % 8));
                shim_says(&ended, code, words);
                ended.expect_words("do not trust this host");
            }
            // What lies behind the blob is not the guest's.
            if len % 4096 != 0 {
                reached(&bench.on(&format!("flip={:#x}", gpa + len)));
            }
        }
    }
}

#[test]
fn files_changed_while_the_shim_reads_them_are_found_or_do_not_matter() {
    for bench in Way::loading("hashed").map(Bench::with) {
        let honest = bench.honest();
        let staged = honest.report()["launch"]["staged"][0]["gpa"].as_u64().expect("an address");
        // Before the shim looks, and when it has its own copy.
        let before = bench.on(&format!("flip={staged:#x}@{}", after(&honest, "accept-end")));
        shim_says(&before, Code::KERNEL_HASH, "kernel");
        let late = bench.on(&format!("flip={staged:#x}@{}", after(&honest, "verify-end") + 1));
        assert_eq!(reached(&late), bench.mrtd());
    }
}

#[test]
fn changed_inputs_are_refused_by_expect() {
    let bench = Bench::new();
    let digest = bench.mrtd();
    let pages = bench.pages(&[]);
    let code = shim::SHIM_CODE_GPA..shim::PARAMETER_GPA;
    let mut code: Vec<u8> = pages
        .into_iter()
        .filter(|page| code.contains(&page.gpa))
        .flat_map(|page| page.contents)
        .collect();
    bench.file("shim", &code);
    code[100] ^= 1;
    bench.file("other-shim", &code);
    for name in ["kernel", "initrd"] {
        let mut bytes = std::fs::read(bench.path(name)).expect("a file");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bench.file(&format!("other-{name}"), &bytes);
    }
    let with = |kernel: &str, initrd: &str, cmdline: &str, memory: &str, cpus: &str| {
        Cvmm::new(["--emulate", "--timeout", "60", "--tdx", "--expect", &digest])
            .args(["--memory", memory, "--cmdline", cmdline, "--cpus", cpus])
            .arg("--kernel")
            .arg(bench.path(kernel))
            .arg("--initrd")
            .arg(bench.path(initrd))
            .reported()
    };
    let (k, i, c) = ("kernel", "initrd", "console=ttyS0 test");
    let same = || with(k, i, c, "64M", "1");
    reached(&same().run());
    reached(&same().arg("--shim").arg(bench.path("shim")).run());
    // Identifiers are in the report, not in MRTD.
    let id = format!("--tdx=mrconfigid={}", "5c".repeat(48));
    let named = Cvmm::new(["--emulate", "--timeout", "60", "--memory", "64M", "--cmdline", c])
        .args(["--expect", &digest, &id, "--kernel"])
        .arg(bench.path(k))
        .arg("--initrd")
        .arg(bench.path(i));
    assert_eq!(reached(&named.run()), digest);
    for (what, run) in [
        ("kernel", with("other-kernel", i, c, "64M", "1")),
        ("initrd", with(k, "other-initrd", c, "64M", "1")),
        ("command line", with(k, i, "console=ttyS0 tesu", "64M", "1")),
        ("memory", with(k, i, c, "66M", "1")),
        ("vCPU count", with(k, i, c, "64M", "2")),
        ("load mode", same().args(["--load", "measured"])),
        ("shim", same().arg("--shim").arg(bench.path("other-shim"))),
    ] {
        println!("another {what}");
        let ended = run.run();
        ended.expect_refusal(MISMATCH).expect_words(&digest).expect_words("--dump-pages");
        not_reached(&ended);
    }
    let last = if digest.ends_with('0') { '1' } else { '0' };
    let other = format!("{}{last}", &digest[..95]);
    let ended = bench.run().args(["--expect", &other]).run();
    ended.expect_refusal(MISMATCH).expect_words(&other).expect_words(&digest);
    not_reached(&ended);
}

#[test]
fn launch_pages_changed_on_their_way_are_another_mrtd_for_the_verifier_to_refuse() {
    for bench in Way::of_td().map(Bench::with) {
        let mut pages = bench.pages(&[]);
        let honest = bench.mrtd();
        for (what, gpa) in [
            ("reset page", tdx::RESET_PAGE_GPA),
            ("page table", shim::INITIAL_PAGE_TABLE_GPA + 0x9f * 8 + 5),
            ("shim", shim::PARAMETER_GPA - 1),
            ("ACPI tables", shim::ACPI_GPA + 0xfff),
            ("mailbox", tdx::MAILBOX_GPA + 0xfff),
        ] {
            println!("{what}");
            let found = reached(&bench.on(&format!("flip-launch={gpa:#x}")));
            assert_ne!(found, honest, "{what}");
            assert_eq!(found, mrtd_with(&mut pages, gpa), "{what}");
        }
    }
}

#[test]
fn a_measured_kernel_changed_on_its_way_is_another_mrtd() {
    for bench in Way::loading("measured").map(Bench::with) {
        let mut pages = bench.pages(&[]);
        let honest = bench.run().run();
        assert_eq!(reached(&honest), oracle_tdx::mrtd(&pages));
        let regions = honest.report()["launch"]["regions"].as_array().expect("regions");
        // Not the code itself: the ends of pages.
        for tag in ["kernel", "initrd", "cmdline"] {
            let region = regions.iter().find(|region| region["tag"] == tag).expect(tag);
            let gpa = region["gpa"].as_u64().expect("an address") | 0xfff;
            let ended = bench.on(&format!("flip-launch={gpa:#x}"));
            assert_eq!(reached(&ended), mrtd_with(&mut pages, gpa), "{tag}");
        }
    }
}

#[test]
fn launch_pages_that_the_start_depends_on_crash_it_before_the_guest() {
    for bench in Way::of_td().map(Bench::with) {
        for (what, gpa) in [
            // The jump leads 16 MiB away.
            ("reset vector", tdx::RESET_VECTOR + 4),
            ("page table", shim::INITIAL_PAGE_TABLE_GPA),
            ("shim", shim::SHIM_CODE_GPA + 100),
        ] {
            println!("{what}");
            let ended = bench.on(&format!("flip-launch={gpa:#x}"));
            ended.expect_complaint(CRASHED);
            not_reached(&ended);
        }
    }
}

#[test]
fn launch_pages_changed_on_their_way_are_found_by_the_shim_where_it_can() {
    let bench = Bench::new();
    let page = |offset: u64| format!("flip-launch={:#x}", shim::PARAMETER_GPA + offset);
    let e820 = |entry: u64, offset: u64| page(0x180 + entry * 24 + offset);
    for (what, deeds, code, words) in [
        ("magic", page(0), Code::BAD_MAGIC, "parameter page"),
        ("version", page(8), Code::BAD_VERSION, "parameter page"),
        ("technology: SNP", page(0xc), Code::BAD_TECHNOLOGY, "another technology"),
        ("unknown flag", format!("{}.7", page(0x10)), Code::BAD_PARAMETER, "parameter page"),
        ("CPUID digest", format!("{}.1", page(0x10)), Code::BAD_PARAMETER, "parameter page"),
        ("C-bit", page(0x14), Code::BAD_PARAMETER, "parameter page"),
        ("no vCPU", page(0x18), Code::BAD_PARAMETER, "parameter page"),
        ("more vCPUs", format!("{}.1", page(0x18)), Code::TD_INFO, "another TD"),
        ("load mode", page(0x1c), Code::BAD_PARAMETER, "parameter page"),
        ("kernel kind", format!("{}.4", page(0x20)), Code::BAD_PARAMETER, "parameter page"),
        ("reserved", page(0x30), Code::BAD_PARAMETER, "parameter page"),
        ("reserved, last", page(0xfff), Code::BAD_PARAMETER, "parameter page"),
        // RESERVED (2) becomes RAM (1): the pages of the shim and of the parameters.
        (
            "launch pages as RAM",
            format!("{};{}.1", e820(1, 16), e820(1, 16)),
            Code::BAD_E820,
            "RAM of launch pages",
        ),
        ("overlapping RAM", format!("{}.4", e820(0, 9)), Code::BAD_E820, "memory map"),
        ("map of no entry", format!("{}.7", page(0x24)), Code::BAD_E820, "memory map"),
        // The kernel's: from 60 to 124 MiB, and to the initrd's.
        ("staging outside RAM", format!("{}.2", page(0x43)), Code::BAD_RANGE, "not in RAM"),
        ("staging twice", format!("{}.4", page(0x41)), Code::BAD_RANGE, "overlaps"),
        ("another digest", page(0x60), Code::KERNEL_HASH, "kernel"),
        ("ACPI", format!("flip-launch={:#x}", shim::ACPI_GPA + 9), Code::BAD_ACPI, "ACPI"),
    ] {
        println!("{what}");
        let ended = bench.on(&deeds);
        shim_says(&ended, code, words);
        ended.expect_words("do not trust this host");
    }
    // The layout that the offsets are of.
    assert_eq!(ParameterPage::TECHNOLOGY_OFFSET, 0xc);
}

#[test]
fn a_page_added_to_the_launch_is_accepted_twice_and_found_by_the_shim() {
    for bench in Way::of_td().map(Bench::with) {
        let free = bench.way.free();
        // With several processors, whichever takes the unit finds it.
        for cpus in ["1", "4"] {
            let run = bench.run().args(["--cpus", cpus]);
            let ended = run.env("SOFTKVM_HOSTILE", &format!("add-launch={free:#x}")).run();
            shim_says(&ended, Code::DOUBLE_VALIDATION, "accepted twice");
            ended.expect_words("do not trust this host");
        }
    }
}

#[test]
fn pages_taken_or_replaced_behind_the_tds_back_are_its_end() {
    for bench in Way::all().map(Bench::with) {
        let free = bench.way.free();
        let honest = bench.honest();
        for (page, mark) in [
            (shim::PARAMETER_GPA, "shim-entry"),
            (shim::PARAMETER_GPA, "accept-end"),
            (shim::SHIM_CODE_GPA, "accept-end"),
            (shim::STACK_TOP - 4096, "accept-end"),
            (KERNEL, "load-end"),
        ] {
            let run = after(&honest, mark) - 1;
            for deed in ["remove", "replace"] {
                println!("{deed} {page:#x} after {mark}");
                let ended = bench.on(&format!("{deed}={page:#x}@{run}"));
                dead(&ended, page);
                not_reached(&ended);
            }
        }
        // A page that nobody needs any more is not missed.
        let run = after(&honest, "accept-end");
        assert_eq!(reached(&bench.on(&format!("remove={free:#x}@{run}"))), bench.mrtd());
    }
}

#[test]
fn pages_taken_before_they_were_accepted_are_given_anew() {
    for bench in Way::of_td().map(Bench::with) {
        let free = bench.way.free();
        // KVM finds the page missing when the guest accepts it, and adds another: nothing was lost.
        for deed in ["remove", "replace"] {
            reached(&bench.on(&format!("{deed}={free:#x}")));
        }
    }
}

#[test]
fn memory_that_was_never_accepted_is_the_end_of_a_td() {
    // Memory of the VM that no memory map names: private by the host's word, and nobody's by the module's.
    let bench = Bench::reading(HOLE);
    let ended = bench.on(&format!("unshare={HOLE:#x}"));
    dead(&ended, HOLE);
    not_reached(&ended);
    // Without the host's help it is not even private.
    for address in [HOLE, 64 << 20] {
        let ended = Bench::reading(address).run().run();
        wrong_kind(&ended, address, "private");
        not_reached(&ended);
    }
}

#[test]
fn pages_whose_owner_changes_behind_the_guests_back_end_the_run() {
    for bench in Way::loading("hashed").map(Bench::with) {
        let free = bench.way.free();
        let honest = bench.honest();
        let run = after(&honest, "accept-end");
        let staged = honest.report()["launch"]["staged"][1]["gpa"].as_u64().expect("an address");
        for (deed, gpa, words) in [
            (format!("share={:#x}@{run}", shim::PARAMETER_GPA), shim::PARAMETER_GPA, "private"),
            (format!("share={free:#x}"), free, "private"),
            (format!("unshare={staged:#x}@{run}"), staged, "shared"),
            (format!("unshare={staged:#x}"), staged, "shared"),
        ] {
            println!("{deed}");
            let ended = bench.on(&deed);
            wrong_kind(&ended, gpa, words);
            not_reached(&ended);
        }
    }
}

/// The MapGPA requests of a guest whose initrd takes three chunks of them: address of the initrd's first.
fn with_large_initrd(bench: &Bench) -> u64 {
    bench.file("initrd", &vec![0x5a; 5 << 20]);
    let honest = bench.honest();
    let requests = &honest.report()["page_state_changes"]["to_private_requests"];
    assert_eq!(requests, 5, "the kernel, three chunks, the command line");
    honest.report()["launch"]["staged"][1]["gpa"].as_u64().expect("an address")
}

#[test]
fn conversions_refused_wholly_or_half_done_end_the_td() {
    for bench in Way::loading("hashed").map(Bench::with) {
        with_large_initrd(&bench);
        for deeds in
            ["psc-refuse=1", "psc-refuse=2", "psc-refuse=3", "psc-refuse=4", "psc-refuse=5"]
        {
            println!("{deeds}");
            let ended = bench.on(deeds);
            shim_says(&ended, Code::MAP_GPA, "refused to convert pages");
            ended.expect_words("`dmesg`");
        }
    }
}

#[test]
fn a_host_that_says_try_again_is_asked_again_but_not_for_ever() {
    let bench = Bench::new();
    let staged = with_large_initrd(&bench);
    let chunk = |n: u64| staged + (n << 21);
    for deeds in ["psc-retry=1", "psc-retry=3", "psc-retry=5"] {
        println!("{deeds}");
        shim_says(&bench.on(deeds), Code::MAP_GPA, "made no progress");
    }
    // Half is done, go on there; or back to the start, once.
    for next in [chunk(1), chunk(1) - 4096, chunk(0)] {
        let ended = bench.on(&format!("psc-go-on=3,{next:#x}"));
        assert_eq!(reached(&ended), bench.mrtd(), "{next:#x}");
    }
}

#[test]
fn a_host_that_lies_about_how_far_it_got_ends_the_td() {
    let bench = Bench::new();
    let staged = with_large_initrd(&bench);
    let end = staged + (5 << 20);
    for next in [staged - 4096, staged + 0x800, end, end + 4096, 1 << 47 | staged, 0, u64::MAX] {
        println!("{next:#x}");
        let ended = bench.on(&format!("psc-go-on=3,{next:#x}"));
        shim_says(&ended, Code::MAP_GPA, "refused to convert pages");
    }
    // A chunk that was left out is found when it is accepted.
    let ended = bench.on(&format!("psc-go-on=3,{:#x}", staged + (4 << 20)));
    wrong_kind(&ended, staged + (2 << 20), "private");
    not_reached(&ended);
}

#[test]
fn conversions_that_only_seem_to_happen_end_the_run() {
    let bench = Bench::new();
    let honest = bench.honest();
    for (number, blob) in [(1, 0), (2, 1), (3, 2)] {
        let staged = honest.report()["launch"]["staged"][blob]["gpa"].as_u64();
        let ended = bench.on(&format!("psc-ignore={number}"));
        wrong_kind(&ended, staged.expect("an address"), "private");
        not_reached(&ended);
    }
}

#[test]
fn processors_started_before_there_is_memory_wait() {
    let bench = Bench::new();
    for (first, cpus) in [("1", "2"), ("3", "4")] {
        let run = bench.run().args(["--cpus", cpus]);
        reached(&run.env("SOFTKVM_HOSTILE", &format!("first={first}")).run());
    }
}

/// A kernel that Debian ships, on a host that does this.
fn linux(cpus: &str, deeds: &str) -> Ended {
    Cvmm::new(["--emulate", "--timeout", "200", "--tdx", "--memory", "512M", "--cpus", cpus])
        .args(["--cmdline", "console=ttyS0 panic=-1 nokaslr"])
        .arg("--kernel")
        .arg(vmlinux("6.12"))
        .arg("--initrd")
        .arg(initramfs("6.12"))
        .reported()
        .env("SOFTKVM_HOSTILE", deeds)
        .run()
}

#[test]
fn processors_started_before_there_is_memory_still_reach_user_space() {
    let ended = linux("4", "first=2");
    ended.expect_code(0).expect_console("cpus online: 0-3").expect_console("cvmm-init: ready");
}

#[test]
fn pages_taken_from_a_running_kernel_end_the_run() {
    let honest = linux("1", "");
    honest.expect_code(0);
    let run = after(&honest, "init-entry");
    // The kernel's text begins at 16 MiB; some of these pages are needed for every system call.
    let deeds = |deed: &str| {
        let pages = (0..1024).map(|n| format!("{deed}={:#x}@{run}", 0x140_0000 + n * 0x1000));
        pages.collect::<Vec<_>>().join(";")
    };
    let cases = ["remove", "share"].map(|deed| (deed.to_owned(), deed));
    in_parallel(cases.to_vec(), |_, deed| {
        let ended = linux("1", &deeds(deed));
        ended.expect_complaint(CRASHED).expect_words("do not trust this host");
        assert!(!ended.console.contains("cvmm-init: ready"), "the guest ran on");
        match deed {
            "remove" => ended.expect_words("error: the TD is dead"),
            _ => ended.expect_words("as private, which it is not"),
        };
    });
}

#[test]
fn a_td_that_the_host_could_read_is_shouted_about_and_refused_by_kvm() {
    let bench = Bench::new();
    let run = Cvmm::new(["--emulate", "--tdx=attributes=0x10000001", "--memory", "64M"]);
    let ended = run.arg("--kernel").arg(bench.path("kernel")).reported().run();
    ended.expect_refusal(HOST).expect_words("DEBUG");
    not_reached(&ended);
}
