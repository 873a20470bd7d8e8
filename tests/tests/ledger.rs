//! The page ledger of a run: against the launch pages, against what the shim must accept, against the conversions that the
//! guest asked for, and of guests that flip pages and lie.

use std::path::Path;

use abi::shim::{PAGE, SHIM_CODE_GPA, SHIM_CODE_PAGES_MAX};
use cvmm_tests::elf::Elf;
use cvmm_tests::{Cvmm, Ended, bzimage, in_parallel};
use serde_json::Value;

const MEMORY: u64 = 512 << 20;
/// Between 640 KiB and 768 KiB is no RAM.
const VIDEO: u64 = 0x2_0000;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

fn sum(values: &[Value], of: &str) -> u64 {
    values.iter().map(|value| number(&value[of])).sum()
}

fn bytes_by_state(states: &Value) -> u64 {
    states.as_object().expect("states").values().map(number).sum()
}

/// What is true of every ledger.
fn check_sums(report: &Value) {
    let ledger = &report["ledger"];
    let memory = number(&ledger["memory_bytes"]);
    assert_eq!(bytes_by_state(&ledger["states_at_end"]), memory);
    let series = list(&ledger["series"]);
    assert!((1..=512).contains(&series.len()), "{} points", series.len());
    for point in series {
        assert_eq!(bytes_by_state(&point["bytes"]), memory, "{point}");
    }
    let times: Vec<u64> = series.iter().map(|point| number(&point["wall_ns"])).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(*times.last().expect("a point") <= number(&report["total"]["wall_ns"]));
    let last = series.last().expect("a point")["bytes"].as_object().expect("states");
    for (state, bytes) in ledger["states_at_end"].as_object().expect("states") {
        assert_eq!(last.get(state).map_or(0, number), number(bytes), "{state}");
    }
    let totals = &ledger["totals"];
    for (name, total) in totals.as_object().expect("totals") {
        assert_eq!(sum(list(&ledger["by_phase"]), name), number(total), "{name}");
    }
    let asked = &report["page_state_changes"];
    let [private, shared, touched, unchanged] =
        ["to_private_pages", "to_shared_pages", "touched_pages", "unchanged_pages"]
            .map(|name| number(&totals[name]));
    let asked = number(&asked["to_private_pages"]) + number(&asked["to_shared_pages"]);
    assert_eq!(private + shared + unchanged, asked + touched);
}

/// (address, contents measured) of every launch page.
fn dumped(path: &Path) -> Vec<(u64, bool)> {
    let text = std::fs::read_to_string(path).expect("the page list");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let pages = lines.map(|line| {
        const NORMAL: u64 = 1;
        const VMSA: u64 = 2;
        let measured = match line["type"].as_u64() {
            // No page of memory.
            Some(VMSA) => return None,
            Some(kind) => kind == NORMAL,
            // Of a TD. What the boot page has the hash of is no launch page.
            None => line["measured"].as_bool()?,
        };
        Some((number(&line["gpa"]), measured))
    });
    pages.flatten().collect()
}

/// Pages that went to a state in the launch.
fn launched(ledger: &Value, state: &str) -> Vec<u64> {
    let changes = list(&ledger["changes"]).iter();
    let mut pages: Vec<u64> = changes
        .filter(|change| change["to"] == state && change["by"] == "launch")
        .flat_map(|change| {
            let gpa = number(&change["gpa"]);
            (gpa..gpa + number(&change["bytes"])).step_by(PAGE as usize)
        })
        .collect();
    pages.sort_unstable();
    pages
}

fn linux(technology: &str, load: &str) -> Cvmm {
    Cvmm::new(["--emulate", "--timeout", "200", "--memory", "512M", "--load", load])
        .arg(format!("--{technology}"))
        .linux(&bzimage("6.12"), "6.12")
        .reported()
}

#[test]
fn the_launch_is_in_the_ledger_and_the_shim_accepts_the_rest() {
    let mut cells = Vec::new();
    for technology in ["snp", "tdx"] {
        for load in ["hashed", "measured"] {
            cells.push((format!("{technology} {load}"), (technology, load)));
        }
    }
    in_parallel(cells, |_, (technology, load)| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pages = dir.path().join("pages.json");
        let run = linux(technology, load).args(["--until", "kernel-entry", "--dump-pages"]);
        let ended = run.arg(&pages).run();
        ended.expect_code(0);
        let report = ended.report();
        check_sums(report);
        let ledger = &report["ledger"];

        let dumped = dumped(&pages);
        for (state, measured) in [("measured", true), ("added", false)] {
            let pages = dumped.iter().filter(|page| page.1 == measured).map(|page| page.0);
            let mut pages: Vec<u64> = pages.collect();
            pages.sort_unstable();
            assert_eq!(launched(ledger, state), pages, "{state}");
            assert_eq!(number(&ledger["totals"][format!("{state}_pages")]), pages.len() as u64);
        }

        // RAM without the launch pages and without what the shim does not fill of the pages that it may have.
        let in_ram = |gpa: &u64| *gpa < MEMORY;
        let launch = dumped.iter().filter(|(gpa, _)| in_ram(gpa)).count() as u64;
        let code = SHIM_CODE_GPA..SHIM_CODE_GPA + SHIM_CODE_PAGES_MAX * PAGE;
        let code = dumped.iter().filter(|(gpa, _)| code.contains(gpa)).count() as u64;
        // An SNP guest's shim comes in all its pages.
        let spare = if technology == "snp" { 0 } else { SHIM_CODE_PAGES_MAX - code };
        let mut expected = (MEMORY - VIDEO) / PAGE - launch - spare;
        if technology == "snp" {
            // The page through which it speaks with the host is shared until it has said its last word.
            assert_eq!(number(&ledger["states_at_end"]["shared_back"]), PAGE);
            expected -= 1;
        }
        let accepted = &ledger["accepted"];
        assert_eq!(number(&ledger["totals"]["accepted_pages"]), expected);
        assert_eq!(number(&ledger["states_at_end"]["accepted"]), expected * PAGE);
        assert_eq!(number(&accepted["pages"]), expected);
        assert_eq!(number(&ledger["states_at_end"]["unaccepted"]), spare * PAGE);

        // Private memory is all 4 KiB pages, as in Linux 7.2: every large one is a mismatch.
        assert_eq!(number(&accepted["pages_4k"]), expected);
        assert_eq!(number(&accepted["pages_2m"]), 0);
        let mismatches = number(&accepted["mismatches"]);
        assert!(mismatches > 200 && mismatches * 512 < expected, "{accepted}");
        // And so says the machine itself. The page for speaking it has accepted as well, before it shared it.
        let (instruction, before) =
            if technology == "snp" { ("pvalidate", 1) } else { ("accept", 0) };
        let counted = |what| {
            let values = &report["kvm_stats"]["vm"][format!("softkvm_{instruction}_{what}")];
            values.as_array().map_or(0, |values| number(&values[0]))
        };
        assert_eq!(counted("4k"), expected + before);
        assert_eq!(counted("2m"), 0);
        assert_eq!(counted("mismatch"), mismatches);

        let asked = &report["page_state_changes"];
        for way in ["to_private_pages", "to_shared_pages"] {
            assert_eq!(ledger["totals"][way], asked[way], "{way}");
        }
        check_memory(ledger);
    });
}

/// Host memory: there is some, and never more than there is memory.
fn check_memory(ledger: &Value) {
    let used = &ledger["memory"];
    let memory = number(&ledger["memory_bytes"]);
    for half in ["shared", "private"] {
        let [begin, peak, end] =
            ["begin_bytes", "peak_bytes", "end_bytes"].map(|name| number(&used[half][name]));
        assert!(begin <= peak && end <= peak && peak <= memory, "{used}");
        // Where nothing is staged, a shim may share nothing at all.
        assert!(peak > 0 || half == "shared", "{used}");
    }
    assert!(number(&used["samples"]) >= 2);
}

#[test]
fn a_kernels_conversions_are_in_the_ledger() {
    let cells = ["snp", "tdx", "plain"].map(|technology| (technology.to_owned(), technology));
    in_parallel(cells.into(), |_, technology| {
        let ended = linux(technology, "hashed").run();
        ended.expect_code(0);
        let report = ended.report();
        check_sums(report);
        let ledger = &report["ledger"];
        if technology == "plain" {
            assert_eq!(number(&ledger["states_at_end"]["shared"]), MEMORY);
            assert_eq!(list(&ledger["changes"]).len(), 0);
            assert!(ledger.get("accepted").is_none());
            assert!(ledger["memory"].get("private").is_none());
            assert!(number(&ledger["memory"]["shared"]["peak_bytes"]) > 64 << 20);
            return;
        }
        check_memory(ledger);
        let asked = &report["page_state_changes"];
        for way in ["to_private_pages", "to_shared_pages"] {
            assert_eq!(ledger["totals"][way], asked[way], "{way}");
        }
        // Linux shares its bounce buffers (64 MiB) and keeps them.
        assert!(number(&ledger["states_at_end"]["shared_back"]) >= 64 << 20, "{ledger}");
        assert!(number(&ledger["totals"]["to_shared_pages"]) >= (64 << 20) / PAGE);
        assert_eq!(number(&ledger["changes_dropped"]), 0, "a boot fits");
        let by = |who| list(&ledger["changes"]).iter().any(|change| change["by"] == who);
        assert!(by("launch") && by("shim") && by("guest") && !by("touch"));
    });
}

/// Flips every other page of a MiB, one at a time.
const FLIPS: u32 = 20_000;
const FLIPPED: u32 = 24 << 20;

/// Of an SEV-SNP guest: page state changes by the GHCB MSR (56421 rev 2.03, section 2.3.1).
fn snp_flipper() -> Vec<u8> {
    let mut code = vec![0xb9, 0x30, 0x01, 0x01, 0xc0]; // mov ecx, GHCB MSR
    code.extend([0xbe]); // mov esi, FLIPS
    code.extend(FLIPS.to_le_bytes());
    code.extend([0x31, 0xff]); // xor edi, edi
    let again = code.len();
    code.extend(page(0x14)); // eax = page | page state change
    code.extend([0x89, 0xfa, 0xc1, 0xea, 0x07, 0x83, 0xe2, 0x01]); // edx = edi / 128 & 1
    code.extend([0xf7, 0xda, 0x83, 0xc2, 0x02]); // neg edx; add edx, 2: shared, or private
    code.extend([0xc1, 0xe2, 0x14]); // shl edx, 20
    code.extend([0x0f, 0x30, 0xf3, 0x0f, 0x01, 0xd9]); // wrmsr; vmgexit
    repeat(&mut code, again);
    // It terminates itself.
    code.extend([0xb8, 0x00, 0x01, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0xf3, 0x0f, 0x01, 0xd9, 0xf4]);
    code
}

/// Of a TD: MapGPA (GHCI 1.5, section 3.2), then marks of the shim, then power-off.
fn td_flipper() -> Vec<u8> {
    const TDCALL: [u8; 4] = [0x66, 0x0f, 0x01, 0xcc];
    let mut code = vec![0xb8, 1, 0, 0, 0]; // TDG.VP.INFO
    code.extend(TDCALL);
    code.extend([0x83, 0xe1, 0x3f, 0xff, 0xc9]); // ecx = address width - 1
    code.extend([0xb8, 1, 0, 0, 0, 0x48, 0xd3, 0xe0, 0x48, 0x89, 0xc3]); // rbx = shared bit
    code.extend([0xbe]); // mov esi, FLIPS
    code.extend(FLIPS.to_le_bytes());
    code.extend([0x31, 0xff]); // xor edi, edi
    let again = code.len();
    code.extend(page(0));
    code.extend([0x89, 0xfa, 0xc1, 0xea, 0x07, 0x83, 0xe2, 0x01]); // edx = edi / 128 & 1
    code.extend([0x48, 0xff, 0xca, 0x48, 0x21, 0xda, 0x48, 0x09, 0xd0]); // rax |= rbx & rdx - 1
    code.extend([0x49, 0x89, 0xc4, 0x41, 0xbd, 0x00, 0x10, 0, 0]); // r12 = rax, r13 = 4096
    code.extend([0x45, 0x31, 0xd2, 0x41, 0xbb, 0x01, 0x00, 0x01, 0x00]); // r10 = 0, r11 = MapGPA
    code.extend([0xb9, 0x00, 0x3c, 0, 0, 0x31, 0xc0]); // r10 to r13; TDG.VP.VMCALL
    code.extend(TDCALL);
    repeat(&mut code, again);
    let mut out = |port: u32, size: u32, value: u32| {
        code.extend([0x45, 0x31, 0xd2, 0x41, 0xbb, 30, 0, 0, 0]); // r10 = 0, r11 = I/O
        code.extend([0x41, 0xbc]); // r12 = size
        code.extend(size.to_le_bytes());
        code.extend([0x41, 0xbd, 1, 0, 0, 0]); // r13 = write
        code.extend([0x41, 0xbe]); // r14 = port
        code.extend(port.to_le_bytes());
        code.extend([0x41, 0xbf]); // r15 = value
        code.extend(value.to_le_bytes());
        code.extend([0xb9, 0x00, 0xfc, 0, 0, 0x31, 0xc0]); // r10 to r15; TDG.VP.VMCALL
        code.extend(TDCALL);
    };
    for id in 1..0x10 {
        out(u32::from(abi::marks::MARK_PORT), 4, id << 24 | 7);
    }
    // Power off, as the ACPI tables say.
    out(0x600, 1, 0x34);
    code
}

/// eax = the page of this turn, and `low`.
fn page(low: u32) -> Vec<u8> {
    let mut code = vec![0x89, 0xf8, 0x01, 0xc0, 0x25, 0xfe, 0, 0, 0, 0xc1, 0xe0, 0x0c, 0x05];
    code.extend((FLIPPED | low).to_le_bytes());
    code
}

/// inc edi; cmp edi, esi; jb `again`.
fn repeat(code: &mut Vec<u8>, again: usize) {
    code.extend([0xff, 0xc7, 0x39, 0xf7, 0x72]);
    code.push(again.wrapping_sub(code.len() + 1) as u8);
}

fn flip(technology: &str, code: &[u8]) -> Ended {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, Elf::of_code(0x20_0000, code).bytes()).expect("a temporary file");
    let run = Cvmm::new(["--emulate", "--memory", "64M", "--timeout", "100", "--kernel"]);
    run.arg(&kernel).arg(technology).reported().run()
}

#[test]
fn a_guest_that_flips_pages_without_end_and_lies_gets_a_ledger_that_is_right_and_small() {
    for (technology, code, exit) in [("--snp", snp_flipper(), 6), ("--tdx", td_flipper(), 0)] {
        let ended = flip(technology, &code);
        ended.expect_code(exit);
        let report = ended.report();
        check_sums(report);
        let ledger = &report["ledger"];
        let asked = &report["page_state_changes"];
        for way in ["to_private_pages", "to_shared_pages"] {
            assert_eq!(ledger["totals"][way], asked[way], "{way}");
        }
        let moved = ["to_private_pages", "to_shared_pages"].map(|way| number(&asked[way]));
        assert!(moved.iter().sum::<u64>() >= u64::from(FLIPS), "{asked}");
        let phase = list(&ledger["by_phase"]).iter().find(|phase| phase["phase"] == "K0");
        let phase = phase.unwrap_or_else(|| ended.fail("nothing happened in the kernel"));
        let in_kernel = ["to_private_pages", "to_shared_pages"].map(|way| number(&phase[way]));
        // Of the flips, 128 one way and 128 back; and the page that the shim of an SNP guest shares to the last.
        let last = u64::from(technology == "--snp");
        assert_eq!(in_kernel, [9_984 + last, 10_016], "{technology}");
        assert!(number(&ledger["flip_flop_pages"]) >= 128);
        let changes = list(&ledger["changes"]);
        assert!(changes.len() <= 1024, "{}", changes.len());
        let dropped = number(&ledger["changes_dropped"]);
        let steps = sum(changes, "steps");
        assert!(steps + dropped >= u64::from(FLIPS) && dropped > 0);
        // What it says of accepting comes after the shim has said it.
        assert_eq!(phase["accepted_pages"], 0);
    }
}
