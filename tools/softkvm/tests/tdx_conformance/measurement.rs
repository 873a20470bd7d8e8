//! Rows 34, 35, 60 and 61: what a TD is known by.

use abi::tdx::{ExtendBlock, TdAttributes, TdReport};
use iced_x86::code_asm::*;
use sha2::{Digest, Sha384};
use zerocopy::IntoBytes;

use crate::common::Ram;
use crate::harness::*;
use crate::td::{
    self, ADDED, DATA, FATAL, InitVm, RESET_PAGE, SHARED, STUB, TdGuest, add, end, init_vcpu,
    report, tdcall,
};

/// Measured or unmeasured page of the launch.
#[derive(Clone)]
struct Page {
    gpa: u64,
    bytes: Vec<u8>,
    measured: bool,
}

fn absorb_add(hash: &mut Sha384, page: &Page) {
    hash.update(ExtendBlock::new(ExtendBlock::PAGE_ADD, page.gpa).as_bytes());
}

fn absorb_contents(hash: &mut Sha384, page: &Page) {
    for (chunk, at) in page.bytes.chunks(ExtendBlock::CHUNK).zip((page.gpa..).step_by(256)) {
        hash.update(ExtendBlock::new(ExtendBlock::MR_EXTEND, at).as_bytes());
        hash.update(chunk);
    }
}

/// MRTD of pages in this order, each page added and then measured.
fn mrtd(pages: &[Page]) -> [u8; 48] {
    let mut hash = Sha384::new();
    for page in pages {
        absorb_add(&mut hash, page);
        if page.measured {
            absorb_contents(&mut hash, page);
        }
    }
    hash.finalize().into()
}

/// MRTD as older hosts make it: all pages are added, then measured.
fn two_pass(pages: &[Page]) -> [u8; 48] {
    let mut hash = Sha384::new();
    pages.iter().for_each(|page| absorb_add(&mut hash, page));
    pages.iter().filter(|page| page.measured).for_each(|page| absorb_contents(&mut hash, page));
    hash.finalize().into()
}

/// A guest that reports itself, with these pages besides its own, each by an INIT_MEM_REGION of its own: what TDREPORT says,
/// and all pages in their order.
fn launched(init: &InitVm, extra: &[Page]) -> (TdReport, Vec<Page>) {
    let vm = td::TdVm::prepared(&td::machine());
    vm.init(init).unwrap();
    let cpus = vec![vm.vcpu(0)];
    init_vcpu(&cpus[0], 0).unwrap();
    let guest = TdGuest::unfinished(
        vm,
        cpus,
        |_| {},
        |a| {
            report_to_page(a);
            report(a, rax);
            end(a, 0);
        },
    );
    let own = |gpa: u64, at: u64| {
        let bytes = guest.source.get(at as usize, 4096);
        Page { gpa, bytes, measured: true }
    };
    let mut pages = vec![own(RESET_PAGE, ADDED)];
    pages.extend((STUB..ADDED).step_by(4096).map(|gpa| own(gpa, gpa)));
    for page in extra {
        let source = Ram::new(4096);
        source.put(0, &page.bytes);
        add(&guest.cpus[0], page.gpa, source.base as u64, 1, page.measured).0.unwrap();
        pages.push(page.clone());
    }
    guest.vm.finalize().unwrap();
    let guest = with_shared_page(guest);
    assert_eq!(guest.reports(), (vec![0], FATAL));
    (report_of(&guest), pages)
}

fn page(number: u64, measured: bool) -> Page {
    let bytes = (0..4096u64).map(|i| ((i * number) >> 3) as u8).collect();
    Page { gpa: 0x10_0000 + number * 4096, bytes, measured }
}

#[test]
fn row_34_the_measurement_is_of_pages_in_their_order() {
    let init = InitVm::default();
    let launches = [
        vec![],
        vec![page(1, true)],
        vec![page(1, false)],
        vec![page(1, true), page(2, false), page(3, true)],
        vec![page(3, true), page(2, false), page(1, true)],
    ];
    let mut seen = Vec::new();
    for extra in &launches {
        let (report, pages) = launched(&init, extra);
        let found = report.td_info.mrtd;
        assert_eq!(found, mrtd(&pages));
        assert_ne!(found, two_pass(&pages));
        assert!(!seen.contains(&found), "it depends on everything");
        seen.push(found);
    }
}

#[test]
fn row_34_unmeasured_contents_do_not_count() {
    let one = page(1, false);
    let other = Page { bytes: vec![0xff; 4096], ..one.clone() };
    let init = InitVm::default();
    let (first, second) = (launched(&init, &[one]).0, launched(&init, &[other]).0);
    assert_eq!(first.td_info.mrtd, second.td_info.mrtd);
}

#[test]
fn row_35_identifiers_come_through() {
    let mut init = InitVm::default();
    init.head.mrconfigid = std::array::from_fn(|i| i as u8);
    init.head.mrowner = std::array::from_fn(|i| 0x40 + i as u8);
    init.head.mrownerconfig = std::array::from_fn(|i| 0x80 + i as u8);
    let (report, _) = launched(&init, &[]);
    let bytes = report.as_bytes();
    assert_eq!(bytes[576..624], init.head.mrconfigid);
    assert_eq!(bytes[624..672], init.head.mrowner);
    assert_eq!(bytes[672..720], init.head.mrownerconfig);
    assert_eq!(bytes[512..520], TdAttributes::SEPT_VE_DISABLE.0.to_le_bytes());
    assert_eq!(bytes[520..528], 3u64.to_le_bytes());
}

/// TDG.MR.RTMR.EXTEND of the register by 48 bytes at an address; the status is reported.
fn extend(a: &mut CodeAssembler, gpa: u64, index: u64) {
    a.mov(rcx, gpa).unwrap();
    a.mov(rdx, index).unwrap();
    a.mov(eax, 2u32).unwrap();
    tdcall(a);
    report(a, rax);
}

#[test]
fn row_60_run_time_measurements_are_chains() {
    let guest = with_shared_page(TdGuest::new(|a| {
        a.mov(rax, 0x1122_3344_5566_7788u64).unwrap();
        a.mov(qword_ptr(DATA + 64), rax).unwrap();
        extend(a, DATA, 4);
        extend(a, DATA + 32, 0);
        extend(a, DATA | SHARED, 0);
        extend(a, DATA + 32, 4);
        extend(a, DATA, 0);
        extend(a, DATA + 64, 2);
        extend(a, DATA, 2);
        report_to_page(a);
        report(a, rax);
        end(a, 0);
    }));
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    // The address is looked at before the register.
    assert_eq!(reports, [INVALID | 2, INVALID | 1, INVALID | 1, INVALID | 1, 0, 0, 0, 0]);
    let next = |old: [u8; 48], data: [u8; 48]| -> [u8; 48] {
        Sha384::new().chain_update(old).chain_update(data).finalize().into()
    };
    let zero = [0; 48];
    let mut data = zero;
    data[..8].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
    let expected = [next(zero, zero), zero, next(next(zero, data), zero), zero];
    let report = report_of(&guest);
    assert_eq!(report.td_info.rtmr, expected);
    assert_eq!(report.as_bytes()[720..768], expected[0]);
}

/// TDG.MR.REPORT; the status is reported.
fn mr_report(a: &mut CodeAssembler, to: u64, from: u64, subtype: u64) {
    a.mov(rcx, to).unwrap();
    a.mov(rdx, from).unwrap();
    a.mov(r8, subtype).unwrap();
    a.mov(eax, 4u32).unwrap();
    tdcall(a);
    report(a, rax);
}

#[test]
fn row_61_reports_are_made_for_the_guest() {
    let guest = with_shared_page(TdGuest::new(|a| {
        a.mov(dword_ptr(DATA + 4), 0x600d).unwrap();
        mr_report(a, PAGE | SHARED | 512, DATA, 0);
        mr_report(a, PAGE | SHARED, DATA + 32, 0);
        mr_report(a, PAGE | SHARED, DATA, 1);
        mr_report(a, PAGE | SHARED, DATA, 0);
        // Private memory will do as well.
        mr_report(a, DATA + 0x400, DATA, 0);
        a.mov(rax, qword_ptr(DATA + 0x400)).unwrap();
        report(a, rax);
        end(a, 0);
    }));
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    assert_eq!(reports[..5], [INVALID | 1, INVALID | 2, INVALID | 8, 0, 0]);
    assert_eq!(reports[5], 0x81, "a report of a TD");
    let report = report_of(&guest);
    let mut data = [0; 64];
    data[4..8].copy_from_slice(&0x600du32.to_le_bytes());
    assert_eq!(report.as_bytes()[128..192], data);
    let info: [u8; 48] = Sha384::digest(&report.as_bytes()[512..]).into();
    assert_eq!(report.mac.tee_info_hash, info);
    let tcb: [u8; 48] = Sha384::digest(&report.as_bytes()[256..495]).into();
    assert_eq!(report.mac.tee_tcb_info_hash, tcb);
}
