//! Save areas: what KVM measures, and that a processor survives the trip through a page.

use abi::snp::SevFeatures;
use softkvm::cpu::Core;
use softkvm::cpu::state::{RAX, Seg, Segment, efer};
use softkvm::snp::vmsa::{kvm_reset, load, read, save, synthesise};

const SNP: SevFeatures = SevFeatures::SNP_ACTIVE;

fn long_mode() -> Core {
    let mut core = Core::at_reset();
    core.cr0 = 0x8000_0011;
    core.cr4 = 0x20;
    core.cr3 = 0x1000 | 1 << 51;
    core.efer = efer::LME | efer::LMA | efer::NXE;
    core.seg[Seg::Cs as usize] = Segment { selector: 0x10, attrib: 0xa9b, limit: !0, base: 0 };
    core.rip = 0x1234_5678;
    core.update_mode();
    core
}

#[test]
fn kvm_sets_svme_and_the_hosts_mce() {
    for cr4 in [0x20, 0x60] {
        let mut core = long_mode();
        core.cr4 = cr4;
        core.tsc_aux = 7;
        let with = read(&synthesise(&core, SevFeatures(0), true));
        let without = read(&synthesise(&core, SevFeatures(0), false));
        assert_eq!((with.cr4, without.cr4), (0x60, 0x20));
        assert_eq!(with.efer, 0x1d00);
        assert_eq!(with.sev_features, SNP);
        assert_eq!(with.tsc_aux, 0, "TSC_AUX is never synchronised");
        assert_eq!((with.mxcsr, with.x87_fcw, with.x87_ftw), (0x1f80, 0x37f, 0));
    }
}

#[test]
fn the_reset_state_of_kvm_is_not_the_processors() {
    let area = read(&synthesise(&kvm_reset(), SevFeatures(0), true));
    assert_eq!((area.cs.attrib, area.ss.attrib, area.tr.attrib), (0x9a, 0x92, 0x83));
    assert_eq!((area.rip, area.rdx, area.cr0), (0xfff0, 0x600, 0x10));
    assert_eq!(area.cs.base, 0xffff_0000);
}

#[test]
fn registers_survive_a_page() {
    let mut core = long_mode();
    for (index, gpr) in core.gpr[..16].iter_mut().enumerate() {
        *gpr = 0x1111_1111_1111_1111u64.wrapping_mul(index as u64 + 1);
    }
    core.set_rflags(0x246);
    core.fpu.fsw = 5 << 11;
    for (index, st) in core.fpu.st.iter_mut().enumerate() {
        *st = (0x4000 + index as u128) << 64 | 0x8000_0000_0000_0000 | index as u128;
    }
    for (index, xmm) in core.fpu.xmm.iter_mut().enumerate() {
        *xmm = u128::MAX / (index as u128 + 1);
    }
    let mut page = synthesise(&core, SevFeatures(0), true);
    core.gpr[RAX] = 42;
    core.efer |= efer::SVME;
    core.cr4 |= 0x40;
    save(&core, &mut page);
    let mut other = Core::at_reset();
    load(&mut other, &page, SNP).unwrap();
    assert_eq!(other.gpr[..16], core.gpr[..16]);
    assert_eq!((other.rip, other.rflags()), (core.rip, core.rflags()));
    assert_eq!(
        (other.cr0, other.cr3, other.cr4, other.efer),
        (core.cr0, core.cr3, core.cr4, core.efer)
    );
    assert_eq!(other.seg, core.seg);
    assert_eq!(other.mode, core.mode);
    assert_eq!(other.fpu.st, core.fpu.st);
    assert_eq!(other.fpu.xmm, core.fpu.xmm);
    let mut again = [0; 4096];
    again.copy_from_slice(&page[..]);
    save(&other, &mut again);
    assert_eq!(again[..], page[..]);
}

#[test]
fn a_save_area_that_hardware_refuses_is_refused() {
    let good = synthesise(&long_mode(), SevFeatures(0), true);
    let mut core = Core::at_reset();
    assert!(load(&mut core, &good, SNP | SevFeatures::DEBUG_SWAP).is_err(), "other features");
    let spoil = |offset: usize, value: u8| {
        let mut page = good.clone();
        page[offset] = value;
        load(&mut Core::at_reset(), &page, SNP)
    };
    assert!(spoil(0xd1, 0x0d).is_err(), "SVME clear");
    assert!(spoil(0x148, 0x40).is_err(), "long mode without PAE");
    assert!(spoil(0xca, 1).is_err(), "VMPL");
    assert!(spoil(0x13, 0x0e).is_err(), "CS.L and CS.D");
    assert!(load(&mut core, &[0; 4096], SNP).is_err());
    assert!(load(&mut core, &[0xff; 4096], SNP).is_err());
}
