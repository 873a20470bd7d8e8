//! The digest against a computation that uses nothing of this crate but bytes.

use super::*;
use abi::shim;

#[test]
fn the_chain_is_the_specifications() {
    // PAGE_INFO by hand: digest so far, contents, length 0x70, type, four zero bytes of permissions, GPA.
    let page = [0x5a; PAGE];
    let by_hand = |digest: [u8; 48], gpa: u64, page_type: u8, measured: bool| -> [u8; 48] {
        let mut info = digest.to_vec();
        info.extend(if measured { Sha384::digest(page).to_vec() } else { vec![0; 48] });
        info.extend([0x70, 0, page_type, 0, 0, 0, 0, 0]);
        info.extend(gpa.to_le_bytes());
        Sha384::digest(&info).into()
    };
    let steps = [(0x1000u64, PageType::NORMAL, 1u8, true), (0x2000, PageType::CPUID, 6, false)];
    let last = [(0x3000, PageType::SECRETS, 5, false), (KVM_VMSA_GPA, PageType::VMSA, 2, true)];
    let (mut ours, mut theirs) = ([0; 48], [0; 48]);
    for (gpa, page_type, number, measured) in steps.into_iter().chain(last) {
        ours = extend(ours, gpa, page_type, &page);
        theirs = by_hand(theirs, gpa, number, measured);
        assert_eq!(ours, theirs, "{page_type:?}");
    }
    assert_eq!(KVM_VMSA_GPA, 0xffff_ffff_f000);
}

#[test]
fn the_vmsa_is_what_kvm_builds() {
    let page = vmsa_page(&VcpuRegisters::boot(Some(51)));
    assert_eq!(page.len(), PAGE);
    let u64_at = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
    let u16_at = |at: usize| u16::from_le_bytes(page[at..at + 2].try_into().unwrap());
    // (offset, value) from APM vol. 2, table B-4, and Linux 7.2 arch/x86/include/asm/svm.h.
    let expected = [
        (0xd0, 0x1d00),                 // EFER with SVME
        (0x148, 0x660),                 // CR4 with MCE
        (0x150, 1 << 51 | 0x1_0000),    // CR3 with the C-bit
        (0x158, 0x8000_0033),           // CR0
        (0x160, 0x400),                 // DR7
        (0x168, 0xffff_0ff0),           // DR6
        (0x170, 2),                     // RFLAGS
        (0x178, shim::snp::ENTRY_GPA),  // RIP
        (0x268, 0x0007_0406_0007_0406), // PAT
        (0x3b0, 1),                     // SEV_FEATURES: SNP active
        (0x3e8, 1),                     // XCR0
        (0x408, 0x1f80),                // MXCSR, then the abridged tag word 0
        (0x410, 0x37f),                 // FCW
    ];
    for (at, value) in expected {
        assert_eq!(u64_at(at), value, "at {at:#x}");
    }
    let selectors = [
        (0x00, 0x18, 0xc93),
        (0x10, 0x10, 0xa9b),
        (0x20, 0x18, 0xc93),
        (0x70, 0, 0x82),
        (0x90, 0, 0x8b),
    ];
    for (at, selector, attributes) in selectors {
        assert_eq!((u16_at(at), u16_at(at + 2)), (selector, attributes), "segment at {at:#x}");
    }
    // Nothing else is set.
    let known: Vec<usize> = expected.iter().map(|(at, _)| *at).collect();
    for at in (0xa0..PAGE).step_by(8).filter(|at| !known.contains(at)) {
        assert_eq!(u64_at(at), 0, "at {at:#x}");
    }
    let parked = vmsa_page(&VcpuRegisters::parked(Some(51)));
    let differing: Vec<usize> =
        (0..PAGE).step_by(8).filter(|at| page[*at..at + 8] != parked[*at..at + 8]).collect();
    assert_eq!(differing, [0x178]);
}
