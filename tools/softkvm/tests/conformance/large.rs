//! A host whose guest memory descriptors have large folios (profile `epyc-milan:2m`): what Linux 7.2's
//! arch/x86/kvm/svm/sev.c does with them.

use iced_x86::code_asm::*;
use softkvm::kvm::machine::Options;

use crate::guest::*;
use crate::harness::*;
use crate::stats::{GET_STATS_FD, Stats};

/// 2 MiB that the guest maps as one page.
const LARGE: u64 = 0x20_0000;
/// A page within.
const PAGE: u64 = LARGE + 0x3000;
/// EAX of PVALIDATE and RMPADJUST, with CF 0.
const SIZE_MISMATCH: u64 = 6;
const ALREADY: u64 = 1 << 32;

fn host() -> Host {
    Host::on(Options { profile: Some("epyc-milan:2m".to_owned()), ..Default::default() })
}

/// Runs `code` with a slot of `pages` pages at [`LARGE`]; then `then` with the guest and its statistics.
fn with_slot(
    pages: usize,
    code: impl FnOnce(&mut CodeAssembler),
    then: impl FnOnce(&mut Guest<'_>, &Stats),
) {
    let host = host();
    let guest = Guest::new(&host, |a| {
        code(a);
        terminate(a);
    });
    let len = (pages as u64) << 12;
    let (shared, memfd) = (Pages::new(pages), guest.launch.vm.memfd(len, 0).unwrap());
    guest.launch.vm.region(1, 4, 512, pages as u64, shared.address(), memfd, 0).unwrap();
    guest.launch.vm.attributes(LARGE, len, PRIVATE).unwrap();
    let stats = Stats::new(guest.launch.vm.call(GET_STATS_FD, 0).unwrap());
    let mut guest = guest.seal();
    guest.finish();
    then(&mut guest, &stats);
}

const COUNTS: [&str; 4] =
    ["softkvm_pvalidate_2m", "softkvm_pvalidate_4k", "softkvm_pvalidate_mismatch", "pages_2m"];

#[test]
fn a_large_folio_is_one_entry_until_the_guest_names_a_page_of_it() {
    let code = |a: &mut CodeAssembler| {
        pvalidate(a, LARGE, true, true, 0);
        pvalidate(a, LARGE, true, true, 1);
        // All of it is the guest's.
        a.mov(qword_ptr(LARGE + 0x1f_f000), rax).unwrap();
        a.mov(qword_ptr(PAGE), rax).unwrap();
        // KVM splits the entry.
        pvalidate(a, PAGE, false, false, 2);
        pvalidate(a, LARGE, true, false, 3);
        a.mov(qword_ptr(LARGE + 0x1f_f000), rax).unwrap();
        pvalidate(a, PAGE, false, true, 4);
        rmpadjust(a, PAGE, 1, 5);
        a.mov(qword_ptr(PAGE), rax).unwrap();
    };
    with_slot(512, code, |guest, stats| {
        let results: Vec<u64> = (0..6).map(|slot| guest.result(slot)).collect();
        assert_eq!(results, [0, ALREADY, 0, SIZE_MISMATCH, 0, 0]);
        assert_eq!(stats.values(&COUNTS), [2, 1, 1, 0]);
    });
}

#[test]
fn rmpadjust_of_a_page_splits_as_well() {
    let code = |a: &mut CodeAssembler| {
        pvalidate(a, LARGE, true, true, 0);
        rmpadjust(a, PAGE, 1, 1);
        pvalidate(a, LARGE, true, false, 2);
    };
    with_slot(512, code, |guest, _| {
        assert_eq!([0, 1, 2].map(|slot| guest.result(slot)), [0, 0, SIZE_MISMATCH]);
    });
}

#[test]
fn what_goes_to_the_host_in_part_is_split() {
    let code = |a: &mut CodeAssembler| pvalidate(a, LARGE, true, true, 0);
    with_slot(512, code, |guest, stats| {
        assert_eq!(stats.get("pages_2m"), 1);
        let small = stats.get("pages_4k");
        guest.launch.vm.attributes(PAGE, 0x1000, 0).unwrap();
        assert_eq!([stats.get("pages_2m"), stats.get("pages_4k")], [0, small]);
    });
    with_slot(512, code, |guest, stats| {
        guest.launch.vm.attributes(LARGE, 0x20_0000, 0).unwrap();
        assert_eq!(stats.get("pages_2m"), 0, "not mapped, but whole");
    });
}

#[test]
fn less_than_2_mib_of_a_slot_is_no_large_folio() {
    let code = |a: &mut CodeAssembler| {
        pvalidate(a, LARGE, true, true, 0);
        pvalidate(a, PAGE, false, true, 1);
    };
    with_slot(511, code, |guest, stats| {
        assert_eq!([0, 1].map(|slot| guest.result(slot)), [SIZE_MISMATCH, 0]);
        assert_eq!(stats.values(&COUNTS), [0, 1, 1, 0]);
    });
}
