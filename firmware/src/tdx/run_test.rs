//! The whole way in a TD: the mock's module and host may be in two minds, busy, or lie.

use abi::boot::{BootParams, E820Type};
use abi::efi::EfiInfo;
use abi::marks::MarkId;
use abi::shim::{
    BOOT_PARAMS_GPA, CC_BLOB_GPA, E820Entry, KernelKind, LARGE_PAGE, LoadMode, PAGE, Technology,
    Termination,
};
use abi::tdx::vmcall::Status;
use abi::tdx::{TdxStatus, operand};
use zerocopy::FromZeros;

use crate::mock::{Fault, Guest, KERNEL_LOAD, MEMORY, STAGING, bzimage, setup_header};
use crate::platform::{Platform, object};
use crate::range::{Range, staging};
use crate::run_test::{count_everything, expected};
use crate::tdx::map_gpa::Answer;

const ENTRY: u64 = KERNEL_LOAD + 0x200;

fn td() -> Guest {
    Guest::bzimage(Technology::TDX, LoadMode::HASHED)
}

fn accepted(guest: &Guest) -> Vec<u64> {
    guest.mock.validated.iter().copied().collect()
}

#[test]
fn a_td_accepts_its_memory_and_takes_staging_back() {
    let mut guest = td();
    assert_eq!(guest.run(), Ok(ENTRY));
    assert_eq!(accepted(&guest), expected(&guest));
    let file = bzimage(&setup_header());
    assert_eq!(guest.mock.bytes(KERNEL_LOAD - 4096, file.len() as u64), file);
    let staged: Vec<Range> =
        [&guest.params.kernel, &guest.params.initrd, &guest.params.cmdline].map(staging).to_vec();
    assert_eq!(guest.mock.made_private, staged);
    assert!((0..MEMORY).step_by(PAGE as usize).all(|page| !guest.mock.td.is_shared(page)));
    let ids: Vec<MarkId> = guest.mock.marks.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.first(), Some(&MarkId::SHIM_ENTRY));
    assert_eq!(ids.last(), Some(&MarkId::KERNEL_ENTRY));
}

#[test]
fn measured_blobs_are_neither_accepted_nor_asked_for() {
    let file = bzimage(&setup_header());
    let kind = KernelKind::BZIMAGE;
    let mut guest = Guest::new(Technology::TDX, LoadMode::MEASURED, kind, &file);
    assert_eq!(guest.run(), Ok(ENTRY));
    assert_eq!(accepted(&guest), expected(&guest));
    assert_eq!(guest.mock.td.calls, 0);
}

#[test]
fn the_kernel_gets_tables_but_no_cc_blob() {
    let mut guest = td();
    guest.run().unwrap();
    let page: &BootParams = object(&guest.mock, BOOT_PARAMS_GPA).unwrap();
    assert_eq!({ page.acpi_rsdp_addr }, guest.params.acpi_rsdp);
    assert_eq!(({ page.hdr.setup_data }, { page.cc_blob_address }), (0, 0));
    assert_eq!({ page.efi_info }, EfiInfo::new_zeroed());
    assert_eq!(u32::from(page.e820_entries), guest.params.e820_count);
    assert!(guest.mock.bytes(CC_BLOB_GPA, PAGE).iter().all(|byte| *byte == 0));
}

#[test]
fn large_pages_are_tried_first_and_mismatches_counted() {
    for (small_pages, mismatches) in [(true, (MEMORY / LARGE_PAGE - 2) as u32), (false, 0)] {
        let mut guest = td();
        guest.mock.small_pages = small_pages;
        assert_eq!(guest.run(), Ok(ENTRY));
        assert!(guest.mock.marks.contains(&(MarkId::ACCEPT_MISMATCHES, mismatches)));
        count_everything(&guest);
        assert_eq!(accepted(&guest), expected(&guest));
    }
}

#[test]
fn memory_above_4_gib_needs_no_window() {
    let mut guest = td();
    let (start, size) = (4 << 30, (2 << 30) + PAGE);
    let count = guest.params.e820_count as usize;
    guest.params.e820[count] = E820Entry { addr: start, size, kind: E820Type::RAM, reserved: 0 };
    guest.params.e820_count += 1;
    guest.mock.small_pages = false;
    assert_eq!(guest.run(), Ok(ENTRY));
    assert_eq!(guest.mock.validated.range(start..).count() as u64, size / PAGE);
    // Staging lies in one GiB; then the windows close.
    assert_eq!(guest.mock.flushes, 2);
}

#[test]
fn a_host_may_take_its_time() {
    for (chunk, calls) in [(u64::MAX, 3), (LARGE_PAGE, 3), (PAGE, 5 + 3 + 1)] {
        let mut guest = td();
        guest.mock.td.chunk = chunk;
        assert_eq!(guest.run(), Ok(ENTRY));
        assert_eq!(guest.mock.td.calls, calls);
    }
}

#[test]
fn a_host_that_lies_about_conversion_ends_the_guest() {
    let hosts: [fn(Range) -> Answer; 3] = [
        |asked| Answer { status: Status::RETRY, next: asked.start },
        |asked| Answer { status: Status::RETRY, next: asked.end },
        |asked| Answer { status: Status::INVALID_OPERAND, next: asked.start },
    ];
    for (index, host) in hosts.into_iter().enumerate() {
        let mut guest = td();
        guest.mock.td.host = Some(host);
        assert_eq!(guest.run(), Err(Termination::MAP_GPA), "host {index}");
    }
}

#[test]
fn what_the_module_says_of_a_page_decides() {
    let already = TdxStatus::PAGE_ALREADY_ACCEPTED;
    let cases = [
        // A page that was accepted before, large, small, in staging.
        (0x60_0000, already.with(1), Err(Termination::DOUBLE_VALIDATION)),
        (0x60_1000, already, Err(Termination::DOUBLE_VALIDATION)),
        (STAGING, already, Err(Termination::DOUBLE_VALIDATION)),
        // A mismatch of a small page, and anything else.
        (0x10_0000, TdxStatus::PAGE_SIZE_MISMATCH, Err(Termination::PAGE_ACCEPT)),
        (0x10_0000, TdxStatus::OPERAND_INVALID.with(operand::RCX), Err(Termination::PAGE_ACCEPT)),
        (0x60_0000, TdxStatus::EPT_WALK_FAILED, Err(Termination::PAGE_ACCEPT)),
        (0x10_0000, TdxStatus(1 << 32), Err(Termination::PAGE_ACCEPT)),
        // Busy for a while.
        (0x10_0000, TdxStatus::OPERAND_BUSY.with(operand::RCX), Ok(ENTRY)),
    ];
    for (gpa, status, outcome) in cases {
        let mut guest = td();
        guest.mock.td.fault = Some(Fault { gpa, status, times: 5 });
        assert_eq!(guest.run(), outcome, "{gpa:#x}, {status:?}");
    }
    let mut guest = td();
    let status = TdxStatus::OPERAND_BUSY;
    guest.mock.td.fault = Some(Fault { gpa: 0x10_0000, status, times: u32::MAX });
    assert_eq!(guest.run(), Err(Termination::PAGE_ACCEPT));
}

#[test]
fn a_page_that_was_there_all_along_ends_the_guest() {
    // The host added a page before the launch was final: its contents were not measured.
    let mut guest = td();
    guest.mock.validated.insert(0x40_0000);
    assert_eq!(guest.run(), Err(Termination::DOUBLE_VALIDATION));
}

#[test]
fn a_flipped_bit_in_a_blob_names_the_blob() {
    type Pick = fn(&Guest) -> u64;
    let cases: [(Pick, Termination); 3] = [
        (|g| g.params.kernel.staging + 19_999, Termination::KERNEL_HASH),
        (|g| g.params.initrd.staging, Termination::INITRD_HASH),
        (|g| g.params.cmdline.staging + 3, Termination::CMDLINE_HASH),
    ];
    for (pick, code) in cases {
        let mut guest = td();
        let at = pick(&guest);
        guest.mock.bytes_mut(at, 1)[0] ^= 1;
        assert_eq!(guest.run(), Err(code));
        assert_eq!(guest.mock.td.calls, 0, "staging stays the host's");
    }
}
