//! Intercepted instructions, control registers, #VE.

use abi::tdx::vmcall::reason;
use abi::tdx::{TdAttributes, Xfam};
use softkvm::cpu::{Core, Exception};
use softkvm::tdx::cr::{MovToCr, lmsw, write_cr0, write_cr4, xsetbv};
use softkvm::tdx::instr::{Intercepted, IoAccess, Verdict, intercept};
use softkvm::tdx::{TdxModule, TdxPlatform, VeInfo};

use crate::{params, platform, running, td};

const GP: Verdict = Verdict::Fault(Exception::gp(0));

#[test]
fn instructions_have_their_verdicts() {
    let td = td(&params());
    for (instruction, expected) in [
        (Intercepted::Hlt, Verdict::Ve(VeInfo::of(12, 2))),
        (Intercepted::Invd, Verdict::Ve(VeInfo::of(13, 2))),
        (Intercepted::Vmcall, Verdict::Ve(VeInfo::of(18, 2))),
        (Intercepted::Wbinvd, Verdict::Ve(VeInfo::of(54, 2))),
        (Intercepted::Pconfig, Verdict::Ve(VeInfo::of(65, 2))),
        (Intercepted::Monitor, Verdict::Fault(Exception::UD)),
        (Intercepted::Mwait, Verdict::Fault(Exception::UD)),
        (Intercepted::Forbidden, Verdict::Fault(Exception::UD)),
        (Intercepted::Rdpmc, GP),
        (Intercepted::Enqcmd, GP),
    ] {
        assert_eq!(intercept(&td, instruction, 2), expected, "{instruction:?}");
    }
}

#[test]
fn monitor_follows_cpuid_and_the_module() {
    let mut with = params();
    with.cpuid_values[0][2] = 1 << 3;
    assert_eq!(intercept(&td(&with), Intercepted::Mwait, 3), Verdict::Native);
    let old = TdxPlatform { module: &TdxModule::V1_5_01, ..platform() };
    let mut plain = params();
    plain.config_flags = 0;
    let mut td = softkvm::tdx::Td::new();
    td.init(&old, &plain).unwrap();
    let ve = |reason| Verdict::Ve(VeInfo::of(reason, 3));
    assert_eq!(intercept(&td, Intercepted::Mwait, 3), ve(reason::MWAIT));
    assert_eq!(intercept(&td, Intercepted::Monitor, 3), ve(reason::MONITOR));
}

#[test]
fn a_port_access_has_the_qualification_of_vmx() {
    let td = td(&params());
    let out = IoAccess { port: 0x3f8, size: 1, ..Default::default() };
    let ins = IoAccess {
        port: 0x1234,
        size: 4,
        input: true,
        string: true,
        rep: true,
        immediate: false,
        gla: 0x5000,
        instruction_info: 0x80,
    };
    assert_eq!(out.qualification(), 0x03f8_0000);
    assert_eq!(ins.qualification(), 0x1234_003b);
    assert_eq!(IoAccess { immediate: true, ..out }.qualification(), 0x03f8_0040);
    let Verdict::Ve(info) = intercept(&td, Intercepted::Io(ins), 2) else { panic!() };
    assert_eq!((info.reason, info.gla, info.instruction_info), (30, 0x5000, 0x80));
    assert_eq!((info.qualification, info.instruction_length), (0x1234_003b, 2));
}

fn mov(value: u64) -> MovToCr {
    MovToCr { value, gpr: 9, length: 3 }
}

fn ve(register: u64) -> Verdict {
    Verdict::Ve(VeInfo { qualification: register | 9 << 8, ..VeInfo::of(28, 3) })
}

#[test]
fn cr0_keeps_what_the_module_owns() {
    for (value, expected) in [
        (0x8005_0033, Verdict::Native),
        (0x21, Verdict::Native),
        (0x20, ve(0)),
        (0x4000_0021, ve(0)),
        (0x6000_0021, ve(0)),
        (0x2000_0021, GP),
        (0x8000_0020, GP),
        (0x1, GP),
        (1 << 32 | 0x21, GP),
    ] {
        assert_eq!(write_cr0(mov(value)), expected, "{value:#x}");
    }
    let mut core = Core::at_reset();
    core.cr0 = 0x8005_0033;
    assert_eq!(lmsw(&core, 0xfffe), 0x8005_003f);
    assert_eq!(lmsw(&core, 0), 0x8005_0031, "PE stays");
}

#[test]
fn cr4_keeps_what_the_module_owns() {
    let td = td(&params());
    for (value, expected) in [
        (0x40, Verdict::Native),
        (0x0037_06f0, Verdict::Native),
        (0x0, ve(4)),
        (0x2040, ve(4)),
        (0x4040, ve(4)),
        (1 << 12 | 0x40, GP),
        (1 << 19 | 0x40, GP),
        (1 << 22 | 0x40, GP),
        (1 << 23 | 0x40, GP),
        (1 << 24 | 0x40, GP),
        (1 << 25 | 0x40, GP),
        (1 << 27 | 0x40, GP),
        (1 << 32 | 0x40, GP),
    ] {
        assert_eq!(write_cr4(&td, mov(value)), expected, "{value:#x}");
    }
    let mut rich = params();
    rich.attributes = TdAttributes(rich.attributes.0 | TdAttributes::PKS.0);
    rich.xfam = Xfam(0x3 | Xfam::PKRU.0);
    rich.cpuid_values[5][2] = 1 << 16;
    let td = crate::td(&rich);
    for bit in [12, 22, 24] {
        assert_eq!(write_cr4(&td, mov(1 << bit | 0x40)), Verdict::Native, "{bit}");
    }
}

#[test]
fn xcr0_is_limited_by_xfam() {
    let mut params = params();
    params.xfam = Xfam(0x3 | Xfam::AVX.0 | Xfam::AVX512.0 | Xfam::AMX.0);
    let td = td(&params);
    for (register, value, expected) in [
        (0, 0x1, Verdict::Native),
        (0, 0x3, Verdict::Native),
        (0, 0x7, Verdict::Native),
        (0, 0xe7, Verdict::Native),
        (0, 0x6_0003, Verdict::Native),
        (0, 0x2, GP),
        (0, 0x5, GP),
        (0, 0xe3, GP),
        (0, 0x27, GP),
        (0, 0x2_0003, GP),
        (0, 0x203, GP),
        (0, 1 << 63 | 3, GP),
        (1, 0x3, GP),
    ] {
        assert_eq!(xsetbv(&td, register, value), expected, "{value:#x}");
    }
}

#[test]
fn a_second_ve_is_a_double_fault() {
    let (_, mut vcpu) = running(&params());
    let mut core = Core::at_reset();
    assert!(!vcpu.holds_nmi());
    assert_eq!(vcpu.raise_ve(&mut core, VeInfo::of(12, 1)), Exception::plain(20));
    assert_eq!(core.rflags() >> 16 & 1, 1, "RF");
    assert!(vcpu.holds_nmi());
    assert_eq!(vcpu.raise_ve(&mut core, VeInfo::of(30, 2)), Exception::with(8, 0));
    assert_eq!(vcpu.ve_info(), Some(VeInfo::of(12, 1)), "the first stays");
}
