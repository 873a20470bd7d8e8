//! MSR accesses of a TD, by class.

use abi::tdx::leaf::td_ctls;
use abi::tdx::{TdAttributes, Xfam};
use softkvm::cpu::Core;
use softkvm::tdx::entry::first_state;
use softkvm::tdx::msr::{MsrRead, MsrWrite, read, write};
use softkvm::tdx::{TdxModule, TdxPlatform};

use crate::tdcall::write_field;
use crate::{params, platform, running};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Native,
    Ve,
    Gp,
    Value(u64),
    NotModelled,
}

fn classes(index: u32) -> (Class, Class) {
    let (td, vcpu) = running(&params());
    let platform = platform();
    let core = first_state(&td, &vcpu, &platform);
    let r = match read(&td, &vcpu, &platform, index) {
        MsrRead::Native => Class::Native,
        MsrRead::Value(value) => Class::Value(value),
        MsrRead::Ve => Class::Ve,
        MsrRead::Gp => Class::Gp,
        MsrRead::NotModelled => Class::NotModelled,
    };
    (r, write_class(&td, &core, index, 0))
}

fn write_class(td: &softkvm::tdx::Td, core: &Core, index: u32, value: u64) -> Class {
    match write(td, core, index, value) {
        MsrWrite::Native(stored) => {
            assert_eq!(stored, value, "{index:#x}");
            Class::Native
        }
        MsrWrite::Ve => Class::Ve,
        MsrWrite::Gp => Class::Gp,
    }
}

#[test]
fn registers_fall_into_classes() {
    use Class::{Gp, Native, NotModelled, Value, Ve};
    for (indices, expected) in [
        (&[0x48, 0x49, 0x10b, 0x174, 0x175, 0x176, 0x277, 0x600, 0x1b01][..], (Native, Native)),
        (&[0xc000_0081, 0xc000_0082, 0xc000_0084], (Native, Native)),
        (&[0xc000_0100, 0xc000_0101, 0xc000_0102, 0xc000_0103], (Native, Native)),
        (&[0x808, 0x80a, 0x80b, 0x80e, 0x810, 0x827, 0x83f], (Native, Native)),
        (&[0x10, 0xbc, 0xc80], (Native, Ve)),
        (&[0x8c, 0x8f, 0x98, 0x9b, 0x9e, 0x195, 0x276, 0x500, 0xd90, 0xd93], (Gp, Gp)),
        (&[0x800, 0x801, 0x804, 0x807, 0x829, 0x82e, 0x831, 0x840, 0x8ff], (Gp, Gp)),
        // Performance monitoring, WAITPKG, TSX, PT, LBR, CET, user interrupts, XFD, PKS: not in this TD.
        (&[0xc1, 0x186, 0x309, 0x38f, 0x4c1, 0xe1, 0x122, 0x560, 0x587], (Gp, Gp)),
        (&[0x1200, 0x14cf, 0x1600, 0x6a0, 0x6a8, 0x985, 0x98a, 0x1c4, 0x6e1], (Gp, Gp)),
        // TSC deadline, DCA, TME, MKTME: likewise.
        (&[0x6e0, 0x1f8, 0x1fa, 0x981, 0x984, 0x87], (Gp, Gp)),
        (&[0x1b, 0x3a, 0x3b, 0x8b, 0xfe, 0x200, 0x2ff, 0x179, 0x400, 0x40000000], (Ve, Ve)),
        (&[0x803, 0x80d, 0x80f, 0x828, 0x82f, 0x830, 0x832, 0x839, 0x83e], (Ve, Ve)),
        (&[0x4b56_4d00, 0x4b56_4d05, 0xc000_0083, 0xc001_0015, u32::MAX], (Ve, Ve)),
        (&[0xbd], (Value(1), Gp)),
        (&[0x10a], (Value(0), Gp)),
        (&[0x1a0], (Value(0x1001), Ve)),
        (&[0x345], (Value(0), Gp)),
        (&[0x802], (Ve, Gp)),
        (&[0x481, 0x484, 0x48a], (Ve, Gp)),
        (&[0x480, 0x485, 0x48b, 0x492], (NotModelled, Gp)),
        (&[0xda0, 0x1d9], (Native, Native)),
    ] {
        for &index in indices {
            assert_eq!(classes(index), expected, "{index:#x}");
        }
    }
    assert_eq!(classes(0xc000_0080).0, Native);
}

#[test]
fn features_open_their_registers() {
    let mut params = params();
    params.attributes.0 |= TdAttributes::PKS.0;
    params.xfam = Xfam(0x3 | Xfam::AMX.0);
    params.cpuid_values[0][2] = 1 << 24 | 1 << 18;
    params.cpuid_values[5] = [0, 1 << 4 | 1 << 11, 1 << 5 | 1 << 13, 1 << 18];
    let (td, vcpu) = running(&params);
    for (index, expected) in [
        (0x6e0, MsrRead::Ve),
        (0x1f8, MsrRead::Ve),
        (0x981, MsrRead::Ve),
        (0x87, MsrRead::Ve),
        (0x122, MsrRead::Native),
        (0xe1, MsrRead::Native),
        (0x1c4, MsrRead::Native),
        (0x6e1, MsrRead::Native),
    ] {
        assert_eq!(read(&td, &vcpu, &platform(), index), expected, "{index:#x}");
    }
}

#[test]
fn only_sce_changes_in_efer() {
    let (td, vcpu) = running(&params());
    let core = first_state(&td, &vcpu, &platform());
    assert_eq!(core.efer, 0x901);
    for (value, expected) in [
        (0x901, MsrWrite::Native(0x901)),
        (0x900, MsrWrite::Native(0x900)),
        // LMA is not looked at.
        (0xd01, MsrWrite::Native(0x901)),
        (0x101, MsrWrite::Ve),
        (0x801, MsrWrite::Ve),
        (0x1901, MsrWrite::Ve),
        (0, MsrWrite::Ve),
    ] {
        assert_eq!(write(&td, &core, 0xc000_0080, value), expected, "{value:#x}");
    }
}

#[test]
fn xss_and_debugctl_are_checked() {
    let (td, vcpu) = running(&params());
    let core = first_state(&td, &vcpu, &platform());
    for bit in [0, 1, 8, 11, 15, 63] {
        assert_eq!(write(&td, &core, 0xda0, 1 << bit), MsrWrite::Gp, "{bit}");
    }
    assert_eq!(write(&td, &core, 0x1d9, 1), MsrWrite::Native(1));
    assert_eq!(write(&td, &core, 0x1d9, 1 << 6), MsrWrite::Ve);
    assert_eq!(write(&td, &core, 0x1d9, 3 << 6), MsrWrite::Native(3 << 6));
    assert_eq!(write(&td, &core, 0x1d9, 1 << 13), MsrWrite::Native(0));
    for bit in [2, 5, 16, 63] {
        assert_eq!(write(&td, &core, 0x1d9, 1 << bit), MsrWrite::Gp, "{bit}");
    }
}

#[test]
fn the_apic_id_is_there_once_the_guest_asks_for_topology() {
    let (mut td, mut vcpu) = running(&params());
    assert_eq!(read(&td, &vcpu, &platform(), 0x802), MsrRead::Ve);
    write_field(&mut td, &mut vcpu, td_ctls::ENUM_TOPOLOGY).unwrap();
    assert_eq!(read(&td, &vcpu, &platform(), 0x802), MsrRead::Value(0x123));

    let old = TdxPlatform { module: &TdxModule::V1_5_01, ..platform() };
    let mut td = softkvm::tdx::Td::new();
    let mut params = params();
    params.config_flags = 0;
    td.init(&old, &params).unwrap();
    assert_eq!(write(&td, &Core::at_reset(), 0x802, 0), MsrWrite::Ve, "1.5.01 has no rule for it");
}
