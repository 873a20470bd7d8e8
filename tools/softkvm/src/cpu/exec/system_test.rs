//! System instructions: privilege, MSRs, ports, tables, flags.

use iced_x86::code_asm::*;

use crate::cpu::bare::Touch;
use crate::cpu::state::*;
use crate::cpu::testing::*;
use crate::cpu::{Core, Exit, Features, Seg};

#[test]
fn privileged_instructions_fault_in_user_mode() {
    for bytes in [
        &[0xf4][..],               // HLT
        &[0xfa],                   // CLI
        &[0xfb],                   // STI
        &[0x0f, 0x22, 0xd8],       // MOV CR3
        &[0x0f, 0x20, 0xc0],       // MOV from CR0
        &[0x0f, 0x21, 0xc0],       // MOV from DR0
        &[0x0f, 0x30],             // WRMSR
        &[0x0f, 0x32],             // RDMSR
        &[0x0f, 0x06],             // CLTS
        &[0x0f, 0x09],             // WBINVD
        &[0x0f, 0x01, 0x10],       // LGDT
        &[0x0f, 0x01, 0x38],       // INVLPG
        &[0x0f, 0x00, 0xd8],       // LTR
        &[0x0f, 0x01, 0xf8],       // SWAPGS
        &[0xe4, 0x80],             // IN
        &[0x6e],                   // OUTSB
        &[0x0f, 0x01, 0xf0],       // LMSW
        &[0xf2, 0x0f, 0x01, 0xff], // PVALIDATE
    ] {
        let mut m = Machine::long().user().code(bytes);
        m.p.core.gpr[RAX] = DATA;
        assert_eq!(m.vector(), 13, "{bytes:x?}");
        assert_eq!((m.stack64(0), m.stack64(1)), (0, CODE), "{bytes:x?}");
    }
}

#[test]
fn local_registers_check_what_is_written() {
    let mut core = Core::at_reset();
    core.features = Features::all() - Features::SVM;
    for (index, value, good) in [
        (0xc000_0082, 0xffff_8000_0000_0000, true),
        (0xc000_0082, 0x0000_8000_0000_0000, false),
        (0xc000_0100, 1 << 63, false),
        (0xc000_0102, 0x1000, true),
        (0x277, 0x0007_0406_0007_0406, true),
        (0x277, 0x0007_0406_0007_0402, false),
        (0xc000_0080, 0x901, true),
        (0xc000_0080, 0x1d01, false),
        (0xc000_0080, 1 << 1, false),
        (0x1d9, 1 << 14, false),
    ] {
        let answer = core.wrmsr_local(index, value).unwrap();
        assert_eq!(answer.is_ok(), good, "{index:x} {value:x}");
        if good {
            assert_eq!(core.rdmsr_local(index), Some(value), "{index:x}");
        }
    }
    assert_eq!(core.rdmsr_local(0x10), None);
    // LMA is the processor's own; an SEV-ES guest keeps SVME.
    core.efer = efer::SVME;
    core.wrmsr_local(0xc000_0080, 0x501).unwrap().unwrap();
    assert_eq!(core.efer, efer::SVME | 0x101);
}

#[test]
fn ports_and_the_permission_map() {
    let mut m = Machine::long().user().asm(|a| {
        a.out(0x80, al).unwrap();
        a.out(0x81, eax).unwrap();
    });
    m.p.core.gpr[RAX] = 0x1234;
    m.world.put(TSS + 0x68 + 0x10, &[0x10]);
    m.step().unwrap();
    assert_eq!(m.world.touches, [Touch::Out { port: 0x80, len: 1, value: 0x34 }]);
    m.step().unwrap();
    assert_eq!(m.world.touches.len(), 1, "port 0x84 is denied");
    assert_eq!(m.p.core.rip, HANDLERS + 13 * 16);
    let mut m = Machine::long().user().asm(|a| a.in_(ax, dx).unwrap());
    m.p.core.rflags |= 3 << 12;
    m.p.core.gpr[RAX] = 0xabcd_0000;
    m.step().unwrap();
    assert_eq!(m.p.core.gpr[RAX], 0xabcd_ffff);
}

#[test]
fn string_output_is_one_access_per_turn() {
    let mut m = Machine::long().asm(|a| {
        a.rep().outsb().unwrap();
        a.hlt().unwrap();
    });
    m.world.put(DATA, b"abc");
    m.p.core.gpr[RSI] = DATA;
    m.p.core.gpr[RCX] = 3;
    m.p.core.gpr[RDX] = 0x3f8;
    assert_eq!(m.run(), Exit::Halt);
    let values: Vec<u32> = m
        .world
        .touches
        .iter()
        .map(|touch| match touch {
            Touch::Out { port: 0x3f8, len: 1, value } => *value,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, [0x61, 0x62, 0x63]);
}

#[test]
fn descriptor_tables() {
    let mut m = Machine::long().asm(|a| {
        a.lidt(ptr(rbx)).unwrap();
        a.sidt(ptr(rbx + 16)).unwrap();
        a.lgdt(ptr(rcx)).unwrap();
    });
    m.p.core.gpr[RBX] = DATA;
    m.p.core.gpr[RCX] = DATA + 0x20;
    m.world.put(DATA, &[0xff, 0x0f]);
    m.world.put64(DATA + 2, IDT);
    m.world.put64(DATA + 0x22, 1 << 47);
    m.step().unwrap();
    assert_eq!((m.p.core.idtr.base, m.p.core.idtr.limit), (IDT, 0xfff));
    m.step().unwrap();
    assert_eq!(m.world.get64(DATA + 18), IDT);
    assert_eq!(m.vector(), 13, "not canonical");
    let mut m = Machine::long().user().asm(|a| a.sgdt(ptr(rbx)).unwrap());
    m.p.core.cr4 |= cr4::UMIP;
    m.p.core.gpr[RBX] = DATA;
    assert_eq!(m.vector(), 13);
}

#[test]
fn interrupt_flag_and_shadow() {
    let mut m = Machine::long().asm(|a| {
        a.sti().unwrap();
        a.nop().unwrap();
        a.sti().unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    m.step().unwrap();
    assert!(m.p.core.shadow && m.p.core.attention);
    m.step().unwrap();
    assert!(!m.p.core.shadow);
    m.step().unwrap();
    assert!(!m.p.core.shadow, "interrupts were on already");
    m.step().unwrap();
    assert_eq!(m.p.core.rflags() & 0x200, 0);
    let rip = m.p.core.rip;
    assert_eq!(m.step(), Err(Exit::Halt));
    assert_eq!(m.p.core.rip, rip + 1);
}

#[test]
fn popf_keeps_what_the_level_may_not_change() {
    let mut m = Machine::long().user().asm(|a| a.popfq().unwrap());
    m.p.core.set_rflags(0x202);
    m.world.put64(STACK, 0x25_7fd7);
    m.step().unwrap();
    assert_eq!(m.p.core.rflags(), 0x24_4fd7 & !0x100 | 0x200 | 0x100);
    let mut m = Machine::long().asm(|a| a.popfq().unwrap());
    m.world.put64(STACK, 0x3202);
    m.step().unwrap();
    assert_eq!(m.p.core.rflags(), 0x3202);
}

#[test]
fn segment_bases() {
    let mut m = Machine::long().asm(|a| {
        a.swapgs().unwrap();
        a.wrfsbase(rax).unwrap();
        a.mov(rcx, qword_ptr(0x10).fs()).unwrap();
        a.rdgsbase(rdx).unwrap();
        a.wrgsbase(rbx).unwrap();
    });
    m.p.core.cr4 |= cr4::FSGSBASE;
    m.p.core.kernel_gs_base = 0x1234;
    m.p.core.gpr[RAX] = DATA;
    m.p.core.gpr[RBX] = 1 << 47;
    m.world.put64(DATA + 0x10, 77);
    for _ in 0..4 {
        m.step().unwrap();
    }
    assert_eq!((m.p.core.gpr[RCX], m.p.core.gpr[RDX]), (77, 0x1234));
    assert_eq!(m.p.core.kernel_gs_base, m.p.core.seg[Seg::Ds as usize].base);
    assert_eq!(m.vector(), 13);
    let mut m = Machine::long().asm(|a| a.wrfsbase(rax).unwrap());
    assert_eq!(m.vector(), 6, "CR4.FSGSBASE is clear");
}

#[test]
fn time_stamps_and_random_numbers() {
    let mut m = Machine::long().asm(|a| {
        a.rdtscp().unwrap();
        a.rdrand(rax).unwrap();
        a.pause().unwrap();
    });
    m.p.core.tsc_aux = 7;
    m.p.core.gpr[RAX] = u64::MAX;
    m.step().unwrap();
    assert_eq!((m.p.core.gpr[RAX], m.p.core.gpr[RCX]), (0, 7));
    m.step().unwrap();
    assert!(m.p.core.flags.cf());
    let before = m.world.charged;
    m.step().unwrap();
    assert_eq!(m.world.charged - before, 64);
    let mut m = Machine::long().user().asm(|a| a.rdtsc().unwrap());
    m.p.core.cr4 |= cr4::TSD;
    assert_eq!(m.vector(), 13);
}

#[test]
fn large_pages_named_for_the_rmp_must_be_aligned() {
    for (page, huge, vector) in [(DATA, 0, 6), (DATA + 8, 0, 6), (DATA, 1, 13), (8, 1, 6)] {
        // The bare world has no RMP: it answers #UD once the operands have been accepted.
        let mut m = Machine::long().code(&[0xf2, 0x0f, 0x01, 0xff]);
        m.p.core.gpr[RAX] = page;
        m.p.core.gpr[RCX] = huge;
        assert_eq!(m.vector(), vector, "{page:x} {huge}");
    }
}

#[test]
fn debug_registers() {
    let mut m = Machine::long().asm(|a| {
        a.mov(dr7, rax).unwrap();
        a.mov(rcx, dr7).unwrap();
        a.mov(dr0, rbx).unwrap();
        a.mov(dr7, rbx).unwrap();
    });
    m.p.core.gpr[RBX] = 0x1_0000_0000;
    for _ in 0..3 {
        m.step().unwrap();
    }
    assert_eq!(m.p.core.gpr[RCX], 0x400);
    assert_eq!(m.p.core.dr[0], 0x1_0000_0000);
    assert_eq!(m.vector(), 13);
    let mut m = Machine::long().asm(|a| a.mov(rax, dr4).unwrap());
    m.p.core.cr4 |= cr4::DE;
    assert_eq!(m.vector(), 6);
}

#[test]
fn page_flags_of_supervisor_access() {
    let mut m = Machine::long().asm(|a| {
        a.stac().unwrap();
        a.clac().unwrap();
    });
    m.step().unwrap();
    assert_ne!(m.p.core.rflags() & 1 << 18, 0);
    m.step().unwrap();
    assert_eq!(m.p.core.rflags() & 1 << 18, 0);
}

#[test]
fn system_calls_trap_by_the_flag_behind_them() {
    // SYSCALL that masks TF does not trap; SYSRET that sets it does.
    let mut m = Machine::long().user().asm(|a| a.syscall().unwrap());
    m.p.core.star = u64::from(USER_CODE32) << 48 | u64::from(KERNEL_CODE) << 32;
    m.p.core.lstar = DATA;
    m.p.core.sfmask = 0x100;
    m.p.core.rflags |= 0x100;
    m.world.put(DATA, &[0x48, 0x0f, 0x07]);
    m.step().unwrap();
    assert_eq!(m.p.core.pending, None);
    assert_eq!(m.p.core.gpr[11] & 0x100, 0x100);
    m.step().unwrap();
    assert_eq!(m.p.core.cpl, 3);
    assert_eq!(m.vector(), 1);
    assert_eq!(m.stack64(0), CODE + 2);
}

#[test]
fn invpcid_checks_its_descriptor() {
    for (kind, number, address, pcide, good) in [
        (0, 0, 0, false, true),
        (0, 1, 0, false, false),
        (1, 1, 0, false, false),
        (2, 1, 0, false, true),
        (1, 10, 0, true, true),
        (0, 10, 1 << 47, true, false),
        (1, 1 << 12, 0, true, false),
        (4, 0, 0, true, false),
    ] {
        let mut m = Machine::long().asm(|a| a.invpcid(rax, xmmword_ptr(rbx)).unwrap());
        m.p.core.cr4 |= if pcide { cr4::PCIDE } else { 0 };
        m.p.core.gpr[RAX] = kind;
        m.p.core.gpr[RBX] = DATA;
        m.world.put64(DATA, number);
        m.world.put64(DATA + 8, address);
        if good {
            m.step().unwrap();
            assert_ne!(m.p.core.rip, CODE);
        } else {
            assert_eq!(m.vector(), 13, "{kind} {number:x}");
        }
    }
}

/// A machine with one enabled breakpoint in DR0.
fn watched(conditions: u64, address: u64) -> Machine {
    let mut m = Machine::long();
    m.p.core.dr[0] = address;
    m.p.core.dr[7] = 0x401 | conditions;
    m
}

#[test]
fn breakpoints_on_instructions_fault_once() {
    let mut m = watched(0, CODE + 1).code(&[0x90, 0x40, 0x88, 0xc1, 0xf4]);
    // The handler sets RF in its frame and returns.
    m.world.put(
        HANDLERS + 16,
        &assemble(64, HANDLERS + 16, |a| {
            a.or(dword_ptr(rsp + 16), 0x1_0000).unwrap();
            a.iretq().unwrap();
        }),
    );
    m.step().unwrap();
    m.step().unwrap();
    assert_eq!((m.p.core.rip, m.p.core.dr[6] & 15), (HANDLERS + 16, 1));
    assert_eq!((m.stack64(0), m.stack64(2) & 0x1_0000), (CODE + 1, 0));
    assert_eq!(m.run(), Exit::Halt);
    assert_eq!(m.p.core.rip, CODE + 5);
}

#[test]
fn breakpoints_on_data_trap_behind_the_access() {
    // Writes of four bytes; a read does not trap, and neither does a neighbour.
    let mut m = watched(0xd_0000, DATA).asm(|a| {
        a.mov(eax, dword_ptr(DATA)).unwrap();
        a.mov(byte_ptr(DATA + 4), al).unwrap();
        a.mov(byte_ptr(DATA + 3), al).unwrap();
        a.nop().unwrap();
    });
    assert_eq!(m.vector(), 1);
    assert_eq!(m.stack64(0), CODE + 27, "three absolute addresses of eight bytes");
    assert_eq!(m.p.core.dr[6] & 0x400f, 1);
    // Reads and writes, in the middle of a repeated instruction.
    let mut m = watched(0x3_0000, DATA + 2).asm(|a| a.rep().lodsb().unwrap());
    m.p.core.gpr[RSI] = DATA;
    m.p.core.gpr[RCX] = 5;
    assert_eq!(m.vector(), 1);
    assert_eq!((m.p.core.gpr[RCX], m.stack64(0)), (2, CODE));
    // Ports, with CR4.DE.
    let mut m = watched(0x2_0000, 0x80).code(&[0xe6, 0x80, 0x90]);
    m.p.core.cr4 |= cr4::DE;
    assert_eq!(m.vector(), 1);
    assert_eq!(m.stack64(0), CODE + 2);
}

#[test]
fn mov_ss_holds_breakpoints_off_for_one_instruction() {
    // DR0: the memory that SS is loaded from. DR1: the instruction behind. Only the first is met, after that instruction.
    let mut m = watched(0xf_0000, DATA).code(&[0x8e, 0x10, 0x90, 0xf4]);
    m.p.core.gpr[RAX] = DATA;
    m.p.core.dr[1] = CODE + 2;
    m.p.core.dr[7] |= 4;
    assert_eq!(m.vector(), 1);
    assert_eq!((m.stack64(0), m.p.core.dr[6] & 15), (CODE + 3, 1));
}

#[test]
fn tdcall_is_for_the_kernel_of_a_td_in_64_bit_mode() {
    const TDCALL: &[u8] = &[0x66, 0x0f, 0x01, 0xcc];
    const SEAMCALL: &[u8] = &[0x66, 0x0f, 0x01, 0xcf];
    let with = |mut m: Machine, features: Features| {
        m.p.core.features = features;
        m.vector()
    };
    let all = Features::all() - Features::ABSENT;
    assert_eq!(with(Machine::long().code(TDCALL), all - Features::TDX), 6);
    assert_eq!(with(Machine::protected().code(TDCALL), all), 13);
    assert_eq!(with(Machine::long().user().code(TDCALL), all), 13);
    // The bare world answers as a processor without module.
    assert_eq!(with(Machine::long().code(TDCALL), all), 6);
    assert_eq!(with(Machine::long().code(SEAMCALL), all), 6);
}
