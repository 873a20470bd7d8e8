//! From reset to 64-bit user code and back: changes of mode and far transfers.

use iced_x86::code_asm::*;

use crate::cpu::state::*;
use crate::cpu::testing::*;
use crate::cpu::{Exit, Features, Mode, Seg};

#[test]
fn from_reset_to_long_mode() {
    let long = Machine::long();
    let mut m = Machine::real();
    // The long machine's tables, in the real machine's memory; the IVT lies below them.
    let bytes = {
        let mut world = long.world;
        world.bytes()[GDT as usize..].to_vec()
    };
    m.world.put(GDT, &bytes);
    // A 32-bit code descriptor for the middle of the way.
    m.world.put64(GDT + u64::from(FREE), descriptor(0, 0xfffff, 0xc9b));
    m.world.put(0x500, &[0xff, 0, 0x00, 0x10, 0, 0]);
    let mut code = assemble(16, CODE, |a| {
        a.cli().unwrap();
        a.lgdt(fword_ptr(0x500)).unwrap();
        a.mov(eax, cr0).unwrap();
        a.or(eax, 1).unwrap();
        a.mov(cr0, eax).unwrap();
    });
    let at = CODE + code.len() as u64 + 8;
    code.extend([0x66, 0xea]);
    code.extend((at as u32).to_le_bytes());
    code.extend(FREE.to_le_bytes());
    code.extend(assemble(32, at, |a| {
        a.mov(eax, i32::from(KERNEL_DATA)).unwrap();
        a.mov(ss, eax).unwrap();
        a.mov(ds, eax).unwrap();
        a.mov(eax, 0x20).unwrap();
        a.mov(cr4, eax).unwrap();
        a.mov(eax, 0x10_0000).unwrap();
        a.mov(cr3, eax).unwrap();
        a.mov(ecx, 0xc000_0080u32 as i32).unwrap();
        a.rdmsr().unwrap();
        a.or(eax, 0x901).unwrap();
        a.wrmsr().unwrap();
        a.mov(eax, cr0).unwrap();
        a.or(eax, 0x8000_0000u32 as i32).unwrap();
        a.mov(cr0, eax).unwrap();
    }));
    let at = CODE + code.len() as u64 + 7;
    code.push(0xea);
    code.extend((at as u32).to_le_bytes());
    code.extend(KERNEL_CODE.to_le_bytes());
    code.extend(assemble(64, at, |a| {
        a.mov(rax, 0x1234_5678_9abc_def0u64).unwrap();
        a.hlt().unwrap();
    }));
    let mut m = m.code(&code);
    for _ in 0..6 {
        m.step().unwrap();
    }
    assert_eq!(m.p.core.mode, Mode::Prot32);
    assert_eq!(m.run(), Exit::Halt);
    assert_eq!(m.p.core.mode, Mode::Long64);
    assert_eq!(m.p.core.gpr[RAX], 0x1234_5678_9abc_def0);
    assert_eq!(m.p.core.efer & (efer::LMA | efer::LME), efer::LMA | efer::LME);
}

#[test]
fn long_mode_cannot_be_entered_or_left_wrongly() {
    // Paging with LME but without PAE.
    let mut m = Machine::protected().asm(|a| a.mov(cr0, eax).unwrap());
    m.p.core.efer = efer::LME;
    m.p.core.gpr[RAX] = 0x8000_0011;
    assert_eq!(m.vector(), 13);
    // Clearing PAE, PG, or changing LME while active.
    let mut m = Machine::long().asm(|a| a.mov(cr4, rax).unwrap());
    m.p.core.gpr[RAX] = 0;
    assert_eq!(m.vector(), 13);
    let mut m = Machine::long().asm(|a| a.mov(cr0, rax).unwrap());
    m.p.core.gpr[RAX] = 0x11;
    assert_eq!(m.vector(), 13);
    let mut m = Machine::long().asm(|a| a.wrmsr().unwrap());
    m.p.core.gpr[RCX] = 0xc000_0080;
    m.p.core.gpr[RAX] = 1;
    assert_eq!(m.vector(), 13);
    // Reserved bits of CR4, CR3, CR0.
    for (register, value) in [(0, 1 << 32), (3, 1 << 60), (4, 1 << 30 | 0x20), (8, 16)] {
        let mut m = Machine::long().code(&[0x44, 0x0f, 0x22, 0xc0]);
        if register != 8 {
            m = m.code(&[0x0f, 0x22, 0xc0 | register << 3]);
        }
        m.p.core.gpr[RAX] = value;
        assert_eq!(m.vector(), 13, "cr{register}");
    }
}

#[test]
fn syscall_and_sysret() {
    let mut m = Machine::long().user().asm(|a| a.syscall().unwrap());
    m.p.core.star = u64::from(USER_CODE32) << 48 | u64::from(KERNEL_CODE) << 32;
    m.p.core.lstar = DATA;
    m.p.core.sfmask = 0x4_0700;
    m.p.core.set_rflags(0x4_0246);
    m.world.put(DATA, &assemble(64, DATA, |a| a.sysretq().unwrap()));
    m.step().unwrap();
    let core = &m.p.core;
    assert_eq!((core.cpl, core.rip, core.gpr[RCX], core.gpr[11]), (0, DATA, CODE + 2, 0x4_0246));
    assert_eq!(core.rflags(), 0x46);
    assert_eq!(core.seg[Seg::Cs as usize].selector, KERNEL_CODE);
    assert_eq!(core.seg[Seg::Ss as usize].selector, KERNEL_DATA);
    m.step().unwrap();
    let core = &m.p.core;
    assert_eq!((core.cpl, core.rip, core.rflags()), (3, CODE + 2, 0x4_0246));
    assert_eq!(core.seg[Seg::Cs as usize].selector, USER_CODE64);
    assert_eq!(core.seg[Seg::Ss as usize].selector, USER_DATA);
    assert_eq!(core.mode, Mode::Long64);
    // Without SCE, and SYSRET at CPL 3.
    let mut m = Machine::long().user().asm(|a| a.syscall().unwrap());
    m.p.core.efer &= !efer::SCE;
    assert_eq!(m.vector(), 6);
    let mut m = Machine::long().user().asm(|a| a.sysretq().unwrap());
    assert_eq!(m.vector(), 13);
}

#[test]
fn vendors_differ_in_syscall_outside_64_bit_mode_and_in_bad_targets_of_sysret() {
    let compatible = |features| {
        let mut m = Machine::long().asm(|a| a.sysret().unwrap());
        m.p.core.features = features;
        m.p.core.star = u64::from(USER_CODE32) << 48 | u64::from(KERNEL_CODE) << 32;
        m.p.core.cstar = DATA + 0x100;
        m.p.core.gpr[RCX] = DATA;
        m.p.core.gpr[11] = 0x202;
        // SYSCALL
        m.world.put(DATA, &[0x0f, 0x05]);
        m.step().unwrap();
        assert_eq!(m.p.core.mode, Mode::Prot32);
        m
    };
    let (intel, amd) = (Features::all(), Features::all() - Features::SYSENTER_LM);
    assert_eq!(compatible(intel).vector(), 6);
    let mut m = compatible(amd);
    m.step().unwrap();
    assert_eq!((m.p.core.rip, m.p.core.mode), (DATA + 0x100, Mode::Long64));

    let bad = |features| {
        let mut m = Machine::long().asm(|a| a.sysretq().unwrap());
        m.p.core.features = features;
        m.p.core.star = u64::from(USER_CODE32) << 48;
        m.p.core.gpr[RCX] = 1 << 47;
        m.p.core.gpr[11] = 0x202;
        m
    };
    let mut m = bad(intel);
    assert_eq!((m.vector(), m.stack64(0), m.stack64(1)), (13, 0, CODE), "still in the kernel");
    let mut m = bad(amd);
    m.step().unwrap();
    assert_eq!((m.p.core.cpl, m.p.core.rip), (3, 1 << 47));
}

#[test]
fn sysret_to_compatibility_mode_and_int80_back() {
    let mut m = Machine::long().asm(|a| a.sysret().unwrap());
    m.gate(true, 0x80, 0xe, 3, 0);
    m.p.core.star = u64::from(USER_CODE32) << 48;
    m.p.core.gpr[RCX] = DATA;
    m.p.core.gpr[11] = 0x202;
    m.world.put(DATA, &[0xcd, 0x80]);
    m.step().unwrap();
    assert_eq!((m.p.core.mode, m.p.core.cpl), (Mode::Prot32, 3));
    assert_eq!(m.vector(), 0x80);
    assert_eq!((m.p.core.mode, m.p.core.cpl), (Mode::Long64, 0));
    assert_eq!(m.p.core.gpr[RSP], RSP0 - 40);
    assert_eq!((m.stack64(0), m.stack64(1)), (DATA + 2, u64::from(USER_CODE32)));
}

#[test]
fn iret_to_user_and_its_checks() {
    let frame = |m: &mut Machine, code: u16, flags: u64, stack: u16| {
        for (i, value) in
            [DATA, u64::from(code), flags, STACK + 0x800, u64::from(stack)].into_iter().enumerate()
        {
            m.world.put64(STACK + i as u64 * 8, value);
        }
    };
    let mut m = Machine::long().asm(|a| a.iretq().unwrap());
    frame(&mut m, USER_CODE64, 0x1_3246, USER_DATA);
    m.p.core.nmi_blocked = true;
    m.p.core.seg[Seg::Ds as usize].selector = KERNEL_DATA;
    m.step().unwrap();
    let core = &m.p.core;
    assert_eq!((core.cpl, core.rip, core.gpr[RSP]), (3, DATA, STACK + 0x800));
    assert_eq!(core.rflags(), 0x3246);
    assert!(!core.nmi_blocked);
    assert_eq!(core.seg[Seg::Ds as usize].selector, 0, "kernel data is dropped");
    for (code, stack, vector, error) in [
        (0, USER_DATA, 13, 0),
        (USER_CODE64, 0, 13, 0),
        (USER_CODE64, KERNEL_DATA, 13, KERNEL_DATA),
        (USER_DATA, USER_DATA, 13, USER_DATA & !3),
        (0x1f8, USER_DATA, 13, 0x1f8),
    ] {
        let mut m = Machine::long().asm(|a| a.iretq().unwrap());
        frame(&mut m, code, 2, stack);
        assert_eq!(m.vector(), vector, "{code:x} {stack:x}");
        assert_eq!(m.stack64(0), u64::from(error), "{code:x} {stack:x}");
        assert_eq!(m.stack64(1), CODE);
    }
    // To itself, with a null SS, as kernels do to serialise.
    let mut m = Machine::long().asm(|a| a.iretq().unwrap());
    frame(&mut m, KERNEL_CODE, 0x202, 0);
    m.step().unwrap();
    assert_eq!((m.p.core.cpl, m.p.core.rip, m.p.core.gpr[RSP]), (0, DATA, STACK + 0x800));
    assert!(m.p.core.attention, "interrupts became possible");
    // A nested task flag is an error in long mode.
    let mut m = Machine::long().asm(|a| a.iretq().unwrap());
    frame(&mut m, KERNEL_CODE, 2, 0);
    m.p.core.rflags |= 0x4000;
    assert_eq!(m.vector(), 13);
    // A return address outside the canonical range.
    let mut m = Machine::long().asm(|a| a.iretq().unwrap());
    frame(&mut m, KERNEL_CODE, 2, 0);
    m.world.put64(STACK, 1 << 47);
    assert_eq!(m.vector(), 13);
}

#[test]
fn far_transfers_between_widths() {
    // 64-bit code calls a 32-bit compatibility segment and comes back by a far return.
    let mut m = Machine::long().asm(|a| {
        a.call(fword_ptr(rbx)).unwrap();
        a.hlt().unwrap();
    });
    m.world.put64(GDT + u64::from(FREE), descriptor(0, 0xfffff, 0xc9a));
    m.world.put(DATA, &(DATA as u32 + 0x100).to_le_bytes());
    m.world.put(DATA + 4, &FREE.to_le_bytes());
    m.p.core.gpr[RBX] = DATA;
    m.world.put(DATA + 0x100, &[0xcb]);
    m.step().unwrap();
    assert_eq!(m.p.core.mode, Mode::Prot32);
    assert_eq!(m.world.get64(GDT + u64::from(FREE)) >> 40 & 1, 1, "accessed");
    assert_eq!(m.p.core.gpr[RSP], STACK - 8);
    m.step().unwrap();
    assert_eq!(m.p.core.mode, Mode::Long64);
    assert_eq!(m.run(), Exit::Halt);
    assert_eq!(m.p.core.gpr[RSP], STACK);
}

#[test]
fn call_gate_to_an_inner_level_and_back() {
    let mut m = Machine::protected().user();
    let gate = 0xabcdu64 & 0xffff | u64::from(KERNEL_CODE) << 16 | 2 << 32 | 0xec << 40;
    m.world.put64(GDT + u64::from(FREE), gate);
    let mut code = vec![0x9a, 0, 0, 0, 0];
    code.extend((FREE | 3).to_le_bytes());
    m = m.code(&code);
    m.world.put(STACK, &[1, 0, 0, 0, 2, 0, 0, 0]);
    // retf 8
    m.world.put(0xabcd, &[0xca, 8, 0]);
    m.step().unwrap();
    assert_eq!((m.p.core.cpl, m.p.core.rip), (0, 0xabcd));
    assert_eq!(m.p.core.gpr[RSP], RSP0 - 24);
    let frame: Vec<u32> = (0..6).map(|i| m.stack32(i)).collect();
    assert_eq!(
        frame,
        [CODE as u32 + 7, u32::from(USER_CODE32), 1, 2, STACK as u32, u32::from(USER_DATA)]
    );
    m.step().unwrap();
    assert_eq!((m.p.core.cpl, m.p.core.rip, m.p.core.gpr[RSP]), (3, CODE + 7, STACK + 8));
    // The gate's DPL forbids it.
    m.world.put64(GDT + u64::from(FREE), gate & !(0x60 << 40));
    m.p.core.rip = CODE;
    assert_eq!(m.vector(), 13);
    assert_eq!(m.stack32(0), u32::from(FREE));
}

#[test]
fn segment_loads_are_checked() {
    for (selector, vector, error) in [
        (USER_DATA, None, 0),
        (0, None, 0),
        (ABSENT, Some(11), ABSENT),
        (0x208, Some(13), 0x208),
        (TSS_SELECTOR, Some(13), TSS_SELECTOR),
        (0x14, Some(13), 0x14),
    ] {
        let mut m = Machine::long().asm(|a| {
            a.mov(ds, eax).unwrap();
            a.hlt().unwrap();
        });
        m.p.core.gpr[RAX] = u64::from(selector);
        match vector {
            None => {
                m.step().unwrap();
                assert_eq!(m.p.core.seg[Seg::Ds as usize].selector, selector);
            }
            Some(vector) => {
                assert_eq!(m.vector(), vector, "{selector:x}");
                assert_eq!(m.stack64(0), u64::from(error));
            }
        }
    }
    // SS wants writable data of exactly this level; null only in 64-bit mode below CPL 3.
    for (selector, vector) in [
        (KERNEL_DATA, None),
        (0, None),
        (USER_DATA, Some(13)),
        (KERNEL_CODE, Some(13)),
        (ABSENT, Some(12)),
    ] {
        let mut m = Machine::long().asm(|a| a.mov(ss, eax).unwrap());
        m.p.core.gpr[RAX] = u64::from(selector);
        match vector {
            None => {
                m.step().unwrap();
                assert!(m.p.core.shadow);
            }
            Some(vector) => assert_eq!(m.vector(), vector, "{selector:x}"),
        }
    }
    let mut m = Machine::protected().asm(|a| a.mov(ss, eax).unwrap());
    assert_eq!(m.vector(), 13);
}

#[test]
fn system_segments() {
    let mut m = Machine::long().asm(|a| {
        a.ltr(ax).unwrap();
        a.lldt(cx).unwrap();
        a.str(edx).unwrap();
        a.lsl(ebx, eax).unwrap();
        a.lar(esi, eax).unwrap();
        a.verw(di).unwrap();
        a.verr(di).unwrap();
    });
    m.p.core.gpr[RAX] = u64::from(TSS_SELECTOR);
    m.p.core.gpr[RDX] = u64::MAX;
    m.p.core.gpr[RDI] = u64::from(KERNEL_CODE);
    m.step().unwrap();
    assert_eq!(m.world.get64(GDT + u64::from(TSS_SELECTOR)) >> 40 & 0xf, 0xb, "busy");
    assert_eq!(m.p.core.tr.base, TSS);
    m.step().unwrap();
    assert!(!m.p.core.ldtr.present());
    m.step().unwrap();
    assert_eq!(m.p.core.gpr[RDX], u64::from(TSS_SELECTOR));
    m.step().unwrap();
    assert_eq!((m.p.core.gpr[RBX], m.p.core.flags.zf()), (0x1ff, true));
    m.step().unwrap();
    assert_eq!(m.p.core.gpr[RSI], 0x8b00);
    m.step().unwrap();
    assert!(!m.p.core.flags.zf());
    m.step().unwrap();
    assert!(m.p.core.flags.zf());
    // A busy TSS cannot be loaded again.
    m.p.core.rip = CODE;
    assert_eq!(m.vector(), 13);
}

#[test]
fn instructions_may_cross_pages_in_real_mode() {
    use crate::cpu::engine::{CodeCache, Kind, run};
    for kind in [Kind::Reference, Kind::Fast] {
        let mut m = Machine::real();
        m.world.put(0x8fff, &[0x0f, 0x94, 0xc1, 0xf4]);
        m.p.core.rip = 0x8fff;
        let mut code = CodeCache::new(kind);
        let exit = m.p.with_world(&mut m.world, |p| run(p, &mut code, 100));
        assert_eq!((exit, m.p.core.rip), (Exit::Halt, 0x9003), "{kind:?}");
    }
}
