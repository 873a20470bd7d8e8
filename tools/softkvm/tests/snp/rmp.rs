//! The reverse map table: transitions, and the verdict on every kind of access.

use softkvm::cpu::world::Access;
use softkvm::snp::RmpEntry;
use softkvm::snp::rmp::{Gate, Request, Slot, Verdict, check, code, gate};

const GPA: u64 = 0x5000;
const ASID: u16 = 3;

fn guest_invalid() -> RmpEntry {
    let mut entry = RmpEntry::default();
    entry.make_private(GPA, ASID, false).unwrap();
    entry
}

fn guest_valid() -> RmpEntry {
    let mut entry = guest_invalid();
    assert_eq!(entry.pvalidate(true), (0, false));
    entry
}

fn request(slot: Slot) -> Request {
    Request { gpa: GPA + 8, access: Access::Read, c_bit: true, asid: ASID, attribute: true, slot }
}

#[test]
fn a_page_goes_from_hypervisor_to_guest_and_back() {
    let mut entry = guest_valid();
    assert!(entry.assigned() && entry.validated() && !entry.immutable());
    entry.make_shared().unwrap();
    assert_eq!(entry, RmpEntry::default());
}

#[test]
fn pvalidate_reports_a_bit_that_already_had_the_value() {
    let mut entry = guest_valid();
    assert_eq!(entry.pvalidate(true), (code::SUCCESS, true));
    assert_eq!(entry.pvalidate(false), (code::SUCCESS, false));
    assert_eq!(entry.pvalidate(false), (code::SUCCESS, true));
    assert!(!entry.validated());
}

#[test]
fn assigning_again_clears_validation() {
    let mut entry = guest_valid();
    entry.make_private(GPA, ASID, false).unwrap();
    assert!(!entry.validated());
}

#[test]
fn firmware_takes_only_pre_guest_pages() {
    let mut entry = guest_invalid();
    assert!(!entry.firmware_accept(false));
    let mut entry = RmpEntry::default();
    entry.make_private(GPA, ASID, true).unwrap();
    assert!(entry.make_shared().is_err(), "immutable");
    assert!(matches!(check(&entry, ASID, GPA, Access::Read), Verdict::Denied(_)));
    assert!(entry.firmware_accept(true));
    assert!(entry.validated() && entry.vmsa() && !entry.immutable());
}

#[test]
fn rmpadjust_follows_the_privilege_levels() {
    let mut entry = guest_valid();
    assert_eq!(entry.rmpadjust(true, 1 | 0xf << 8), code::SUCCESS);
    assert_eq!(entry.perms, [0xf, 0xf, 0, 0]);
    assert_eq!(entry.rmpadjust(true, 0xf << 8), code::FAIL_PERMISSION);
    assert_eq!(entry.rmpadjust(true, 4), code::FAIL_INPUT);
    assert_eq!(entry.rmpadjust(true, 1 | 1 << 17), code::FAIL_INPUT);
    assert_eq!(entry.rmpadjust(false, 1), code::FAIL_SIZEMISMATCH);
    assert_eq!(entry.rmpadjust(true, 1 | 1 << 16), code::SUCCESS);
    assert!(entry.vmsa());
    assert!(matches!(check(&entry, ASID, GPA, Access::Write), Verdict::Denied(_)));
    assert_eq!(check(&entry, ASID, GPA, Access::Read), Verdict::Allowed);
    assert_eq!(entry.rmpadjust(true, 1), code::SUCCESS);
    assert_eq!(check(&entry, ASID, GPA, Access::Write), Verdict::Allowed);
}

#[test]
fn the_owner_and_the_address_must_match() {
    let entry = guest_valid();
    assert!(matches!(check(&entry, ASID + 1, GPA, Access::Read), Verdict::Denied(_)));
    assert!(matches!(check(&entry, ASID, GPA + 0x1000, Access::Read), Verdict::Denied(_)));
}

#[test]
fn every_combination_of_attribute_and_c_bit() {
    let guarded = |entry| Slot::Guarded(entry);
    let with = |c_bit, attribute, slot| gate(&Request { c_bit, attribute, ..request(slot) });
    for slot in [Slot::None, Slot::SharedOnly, guarded(guest_valid()), guarded(guest_invalid())] {
        assert_eq!(with(false, true, slot), Gate::MemoryFault { private: false });
        assert_eq!(with(true, false, slot), Gate::MemoryFault { private: true });
    }
    assert_eq!(with(false, false, Slot::None), Gate::Vc(0x400));
    assert_eq!(with(false, false, Slot::SharedOnly), Gate::Shared);
    assert_eq!(with(false, false, guarded(guest_valid())), Gate::Shared);
    assert_eq!(with(true, true, Slot::None), Gate::MemoryFault { private: true });
    assert_eq!(with(true, true, Slot::SharedOnly), Gate::MemoryFault { private: true });
    assert_eq!(with(true, true, guarded(RmpEntry::default())), Gate::Fill);
    assert_eq!(with(true, true, guarded(guest_invalid())), Gate::Vc(0x404));
    assert_eq!(with(true, true, guarded(guest_valid())), Gate::Private);
}
