//! The registers of a vCPU at its first instruction.

use abi::tdx::TdParams;
use softkvm::cpu::{Mode, Seg};
use softkvm::tdx::entry::first_state;

use crate::{params, platform, td};

#[test]
fn a_vcpu_starts_in_flat_32_bit_mode() {
    let mut td = td(&params());
    td.init_vcpu(5, 0).unwrap();
    let vcpu = td.init_vcpu(6, 0xfeed_0000_dead_beef).unwrap();
    let core = first_state(&td, &vcpu, &platform());
    assert_eq!((core.mode, core.cpl, core.rip), (Mode::Prot32, 0, 0xffff_fff0));
    assert_eq!((core.cr0, core.cr3, core.cr4, core.efer), (0x21, 0, 0x40, 0x901));
    assert_eq!((core.xcr0, core.xss, core.rflags()), (1, 0, 2));
    assert_eq!((core.dr[6], core.dr[7]), (0xffff_0ff0, 0x400));
    assert_eq!((core.pat, core.sfmask), (0x0007_0406_0007_0406, 0x2_0200));
    let mut gpr = [0; 16];
    gpr[1] = 0xfeed_0000_dead_beef;
    gpr[8] = gpr[1];
    gpr[2] = 0x806f8;
    gpr[3] = 48;
    gpr[6] = 1;
    assert_eq!(core.gpr[..16], gpr);
    for (index, segment) in core.seg.iter().enumerate() {
        let attrib = if index == Seg::Cs as usize { 0xc9b } else { 0xc93 };
        assert_eq!((segment.selector, segment.base), (0, 0));
        assert_eq!((segment.attrib, segment.limit), (attrib, u32::MAX));
    }
    assert_eq!((core.gdtr.base, core.gdtr.limit), (0, 0xffff));
    assert_eq!((core.idtr.base, core.idtr.limit), (0, 0));
    assert_eq!((core.tr.attrib, core.tr.limit), (0x8b, 0xffff));
    assert!(!core.ldtr.present());
}

#[test]
fn rbx_tells_the_address_width() {
    let mut params = params();
    (params.config_flags, params.eptp_controls) = (TdParams::MAX_GPAW, 0x26);
    let mut td = td(&params);
    let vcpu = td.init_vcpu(0, 0).unwrap();
    assert_eq!(first_state(&td, &vcpu, &platform()).gpr[3], 52);
}
