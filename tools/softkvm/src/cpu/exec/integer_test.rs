//! Integer instructions whose meaning 64-bit user code cannot show, and spot checks of the rest.

use iced_x86::code_asm::*;

use crate::cpu::flags::{AF, ARITH_MASK, CF, OF, PF, SF, ZF};
use crate::cpu::state::*;
use crate::cpu::testing::{DATA, Machine, STACK};
use crate::cpu::{Exit, Features};

/// One instruction of 32-bit code: EAX, EDX and flags before and after.
struct Case {
    bytes: &'static [u8],
    before: (u64, u64, u64),
    after: (u64, u64, u64),
    flags: u64,
}

fn check(cases: &[Case]) {
    for case in cases {
        let mut m = Machine::protected().code(case.bytes);
        let (low, high, flags) = case.before;
        m.p.core.gpr[RAX] = low;
        m.p.core.gpr[RDX] = high;
        m.p.core.flags.load(flags);
        m.step().unwrap();
        let seen = (m.p.core.gpr[RAX], m.p.core.gpr[RDX], m.p.core.flags.bits() & case.flags);
        assert_eq!(seen, case.after, "{:x?} of {:x?}", case.bytes, case.before);
    }
}

#[test]
fn decimal_adjustments() {
    let defined = CF | AF;
    let all = CF | AF | ZF | SF | PF;
    check(&[
        // AAA
        Case { bytes: &[0x37], before: (0x0f, 0, 0), after: (0x105, 0, CF | AF), flags: defined },
        Case { bytes: &[0x37], before: (0x12, 0, 0), after: (0x02, 0, 0), flags: defined },
        Case { bytes: &[0x37], before: (0xff, 0, 0), after: (0x205, 0, CF | AF), flags: defined },
        // AAS
        Case { bytes: &[0x3f], before: (0x20f, 0, 0), after: (0x109, 0, CF | AF), flags: defined },
        // DAA
        Case { bytes: &[0x27], before: (0xae, 0, 0), after: (0x14, 0, CF | AF | PF), flags: all },
        Case { bytes: &[0x27], before: (0x2e, 0, 0), after: (0x34, 0, AF), flags: all },
        // DAS
        Case {
            bytes: &[0x2f],
            before: (0xee, 0, 0),
            after: (0x88, 0, CF | AF | SF | PF),
            flags: all,
        },
        Case { bytes: &[0x2f], before: (0x01, 0, AF), after: (0xfb, 0, CF | AF | SF), flags: all },
        // AAM, AAD
        Case {
            bytes: &[0xd4, 10],
            before: (0x4f, 0, 0),
            after: (0x709, 0, PF),
            flags: ZF | SF | PF,
        },
        Case {
            bytes: &[0xd5, 10],
            before: (0x709, 0, 0),
            after: (0x4f, 0, 0),
            flags: ZF | SF | PF,
        },
        // SALC
        Case { bytes: &[0xd6], before: (0x1200, 0, CF), after: (0x12ff, 0, CF), flags: CF },
    ]);
}

#[test]
fn division_faults_and_results() {
    for (low, high, divisor, quotient) in [
        (100, 0, 7, Some((14, 2))),
        (0, 7, 7, None),
        (0, 0, 0, None),
        (0, 1 << 63, u64::MAX, Some((1 << 63, 1 << 63))),
    ] {
        let mut m = Machine::long().asm(|a| {
            a.div(rcx).unwrap();
            a.hlt().unwrap();
        });
        m.p.core.gpr[RAX] = low;
        m.p.core.gpr[RDX] = high;
        m.p.core.gpr[RCX] = divisor;
        match quotient {
            Some(expected) => {
                m.step().unwrap();
                assert_eq!((m.p.core.gpr[RAX], m.p.core.gpr[RDX]), expected);
            }
            None => assert_eq!(m.vector(), 0),
        }
    }
    // The most negative dividend by -1 overflows.
    let mut m = Machine::long().asm(|a| a.idiv(rcx).unwrap());
    m.p.core.gpr[RAX] = 1 << 63;
    m.p.core.gpr[RDX] = u64::MAX;
    m.p.core.gpr[RCX] = u64::MAX;
    assert_eq!(m.vector(), 0);
    let mut m = Machine::long().asm(|a| a.idiv(rcx).unwrap());
    m.p.core.gpr[RAX] = 0;
    m.p.core.gpr[RDX] = 1 << 63;
    m.p.core.gpr[RCX] = u64::MAX;
    assert_eq!(m.vector(), 0);
}

#[test]
fn scans_take_the_place_of_hidden_counts() {
    let run = |features: Features, bytes: &[u8], value: u64| {
        let mut m = Machine::long().code(bytes);
        m.p.core.features = features;
        m.p.core.gpr[RCX] = value;
        m.p.core.gpr[RAX] = 0x1234;
        m.step().unwrap();
        (m.p.core.gpr[RAX], m.p.core.flags.zf(), m.p.core.flags.cf())
    };
    let tzcnt = &[0xf3, 0x48, 0x0f, 0xbc, 0xc1];
    let lzcnt = &[0xf3, 0x48, 0x0f, 0xbd, 0xc1];
    let all = Features::all();
    assert_eq!(run(all, tzcnt, 0), (64, false, true));
    assert_eq!(run(all, tzcnt, 8).0, 3);
    assert_eq!(run(all, lzcnt, 8).0, 60);
    let none = Features::default();
    let (value, zf, _) = run(none, tzcnt, 0);
    assert_eq!((value, zf), (0x1234, true));
    assert_eq!(run(none, tzcnt, 8).0, 3);
    assert_eq!(run(none, lzcnt, 8).0, 3);
}

#[test]
fn hidden_extensions_are_undefined() {
    for bytes in [
        &[0xf3, 0x48, 0x0f, 0xb8, 0xc1][..], // POPCNT
        &[0x0f, 0xc7, 0xf0],                 // RDRAND
        &[0xc4, 0xe2, 0xf0, 0xf2, 0xc1],     // ANDN
        &[0xc5, 0xf8, 0x77],                 // VZEROUPPER
        &[0x0f, 0x01, 0xca],                 // CLAC
        &[0xf2, 0x0f, 0x01, 0xff],           // PVALIDATE
        &[0x0f, 0x01, 0xd8],                 // VMRUN
        &[0x0f, 0x01, 0xc8],                 // MONITOR
        &[0x0f, 0x0b],                       // UD2
        &[0xf0, 0x89, 0xc8],                 // LOCK MOV
        &[0xf0, 0x48, 0x01, 0xc8],           // LOCK ADD on registers
    ] {
        let mut m = Machine::long().code(bytes);
        m.p.core.features = Features::default();
        assert_eq!(m.vector(), 6, "{bytes:x?}");
    }
}

#[test]
fn bit_strings_reach_both_ways() {
    let mut m = Machine::long().asm(|a| {
        a.bts(qword_ptr(rbx), rcx).unwrap();
        a.bt(dword_ptr(rbx), edx).unwrap();
        a.btr(word_ptr(rbx), ax).unwrap();
    });
    m.p.core.gpr[RBX] = DATA + 0x100;
    m.p.core.gpr[RCX] = (-1i64) as u64;
    m.p.core.gpr[RDX] = 0xffff_ffff;
    m.p.core.gpr[RAX] = 0xffff;
    m.step().unwrap();
    assert!(!m.p.core.flags.cf());
    assert_eq!(m.world.get64(DATA + 0xf8), 1 << 63);
    m.step().unwrap();
    assert!(m.p.core.flags.cf());
    m.step().unwrap();
    assert!(m.p.core.flags.cf());
    assert_eq!(m.world.get64(DATA + 0xf8), 0);
}

#[test]
fn compare_and_exchange() {
    let mut m = Machine::long().asm(|a| {
        a.lock().cmpxchg(qword_ptr(rbx), rcx).unwrap();
        a.lock().cmpxchg(qword_ptr(rbx), rcx).unwrap();
        a.lock().cmpxchg16b(xmmword_ptr(rdi)).unwrap();
        a.lock().cmpxchg16b(xmmword_ptr(rdi)).unwrap();
        a.lock().cmpxchg16b(xmmword_ptr(rdi + 8)).unwrap();
    });
    m.world.put64(DATA, 5);
    m.p.core.gpr[RBX] = DATA;
    m.p.core.gpr[RDI] = DATA + 0x20;
    m.p.core.gpr[RAX] = 4;
    m.p.core.gpr[RCX] = 9;
    m.step().unwrap();
    assert_eq!((m.p.core.gpr[RAX], m.p.core.flags.zf()), (5, false));
    m.step().unwrap();
    assert_eq!((m.world.get64(DATA), m.p.core.flags.zf()), (9, true));
    m.step().unwrap();
    assert_eq!((m.p.core.gpr[RAX], m.p.core.flags.zf()), (0, false));
    m.step().unwrap();
    assert_eq!((m.world.get64(DATA + 0x20), m.world.get64(DATA + 0x28)), (DATA, 9));
    assert_eq!(m.vector(), 13, "misaligned");
}

#[test]
fn strings_with_repeat() {
    let mut m = Machine::long().asm(|a| {
        a.rep().movsb().unwrap();
        a.repe().cmpsb().unwrap();
        a.std().unwrap();
        a.repne().scasw().unwrap();
        a.hlt().unwrap();
    });
    for i in 0..16 {
        m.world.put(DATA + i, &[i as u8]);
    }
    m.p.core.gpr[RSI] = DATA;
    m.p.core.gpr[RDI] = DATA + 0x100;
    m.p.core.gpr[RCX] = 16;
    m.step().unwrap();
    assert_eq!(m.p.core.instructions, 15);
    assert_eq!(m.world.get64(DATA + 0x108), 0x0f0e_0d0c_0b0a_0908);
    assert_eq!(
        (m.p.core.gpr[RSI], m.p.core.gpr[RDI], m.p.core.gpr[RCX]),
        (DATA + 16, DATA + 0x110, 0)
    );
    m.world.put(DATA + 0x104, &[0x77]);
    m.p.core.gpr[RSI] = DATA;
    m.p.core.gpr[RDI] = DATA + 0x100;
    m.p.core.gpr[RCX] = 16;
    m.step().unwrap();
    assert_eq!(m.p.core.gpr[RCX], 11);
    assert!(!m.p.core.flags.zf());
    m.step().unwrap();
    m.p.core.gpr[RAX] = 0x0302;
    m.p.core.gpr[RDI] = DATA + 8;
    m.p.core.gpr[RCX] = 100;
    m.step().unwrap();
    assert_eq!((m.p.core.gpr[RDI], m.p.core.gpr[RCX]), (DATA, 96));
}

#[test]
fn a_faulting_repeat_keeps_its_progress() {
    let mut m = Machine::protected().code(&[0xf3, 0xaa]);
    m.p.core.seg[crate::cpu::Seg::Es as usize].limit = DATA as u32 + 3;
    m.p.core.gpr[RDI] = DATA;
    m.p.core.gpr[RCX] = 10;
    m.p.core.gpr[RAX] = 0x55;
    assert_eq!(m.vector(), 13);
    assert_eq!((m.p.core.gpr[RCX], m.p.core.gpr[RDI]), (6, DATA + 4));
    assert_eq!(m.world.get64(DATA), 0x5555_5555);
    // The frame points at the instruction: error code, then EIP.
    assert_eq!(m.stack32(1), crate::cpu::testing::CODE as u32);
}

#[test]
fn long_repeats_can_be_interrupted() {
    let mut m = Machine::long().asm(|a| a.rep().stosb().unwrap());
    m.p.core.gpr[RDI] = DATA;
    m.p.core.gpr[RCX] = 10_000;
    assert_eq!(m.step(), Err(Exit::Turn));
    assert_eq!(m.p.core.gpr[RCX], 10_000 - 4096);
    m.step().unwrap_err();
    m.step().unwrap();
    assert_eq!(m.p.core.gpr[RCX], 0);
    m.p.core.attention = true;
    m.p.core.rip = crate::cpu::testing::CODE;
    m.p.core.gpr[RCX] = 10;
    assert_eq!(m.step(), Err(Exit::Turn));
    assert_eq!(m.p.core.gpr[RCX], 9);
}

#[test]
fn pusha_popa_enter_leave() {
    let mut m = Machine::protected().asm(|a| {
        a.pushad().unwrap();
        a.xor(eax, eax).unwrap();
        a.xor(edi, edi).unwrap();
        a.popad().unwrap();
        a.enter(0x20, 2).unwrap();
        a.leave().unwrap();
    });
    for i in 0..8 {
        if i != RSP {
            m.p.core.gpr[i] = 0x100 + i as u64;
        }
    }
    m.p.core.gpr[RBP] = STACK - 0x100;
    m.step().unwrap();
    assert_eq!(m.p.core.gpr[RSP], STACK - 32);
    assert_eq!((m.stack32(7), m.stack32(3), m.stack32(0)), (0x100, STACK as u32, 0x107));
    m.step().unwrap();
    m.step().unwrap();
    m.step().unwrap();
    assert_eq!((m.p.core.gpr[RAX], m.p.core.gpr[RDI], m.p.core.gpr[RSP]), (0x100, 0x107, STACK));
    m.world.put64(STACK - 0x104, 0xabcd);
    m.step().unwrap();
    assert_eq!(m.p.core.gpr[RBP], STACK - 4);
    assert_eq!(m.p.core.gpr[RSP], STACK - 12 - 0x20);
    assert_eq!(m.world.get64(STACK - 12) as u32, STACK as u32 - 4);
    assert_eq!((m.world.get64(STACK - 8)) as u32, 0xabcd);
    m.step().unwrap();
    assert_eq!((m.p.core.gpr[RSP], m.p.core.gpr[RBP]), (STACK, STACK - 0x100));
}

#[test]
fn pop_to_memory_addresses_with_the_new_stack_pointer() {
    let mut m = Machine::long().asm(|a| {
        a.push(0x1234).unwrap();
        a.pop(qword_ptr(rsp)).unwrap();
    });
    m.step().unwrap();
    m.step().unwrap();
    assert_eq!(m.p.core.gpr[RSP], STACK);
    assert_eq!(m.world.get64(STACK), 0x1234);
}

#[test]
fn sixteen_bit_addresses_wrap() {
    // mov al, [bx+si+2]; mov ax, [0xffff] faults; xlat
    let mut m = Machine::real().code(&[0x8a, 0x40, 0x02, 0xd7, 0xa1, 0xff, 0xff]);
    m.p.core.gpr[RBX] = 0xffff;
    m.p.core.gpr[RSI] = DATA + 0xff;
    m.world.put(DATA + 0x100, &[0x42]);
    m.step().unwrap();
    assert_eq!(m.p.core.gpr[RAX] & 0xff, 0x42);
    m.p.core.gpr[RBX] = DATA;
    m.world.put(DATA + 0x42, &[0x99]);
    m.step().unwrap();
    assert_eq!(m.p.core.gpr[RAX] & 0xff, 0x99);
    assert_eq!(m.vector(), 13);
}

#[test]
fn high_byte_registers() {
    let mut m = Machine::long().asm(|a| {
        a.mov(ah, 0x12).unwrap();
        a.add(bh, ah).unwrap();
        a.movzx(ecx, bh).unwrap();
        a.mov(sil, 0x77).unwrap();
    });
    m.p.core.gpr[RBX] = 0xaaaa_aaaa_aaaa_f0aa;
    m.p.core.gpr[RSI] = 0x1100;
    for _ in 0..4 {
        m.step().unwrap();
    }
    assert_eq!(m.p.core.gpr[RBX], 0xaaaa_aaaa_aaaa_02aa);
    assert_eq!(m.p.core.gpr[RCX], 2);
    assert_eq!(m.p.core.gpr[RSI], 0x1177);
    assert_eq!(m.p.core.flags.bits() & ARITH_MASK, CF);
}

#[test]
fn rotates_through_carry() {
    for (bytes, value, carry, expected, cf, of) in [
        (&[0xd0, 0xd0][..], 0x80u64, false, 0x00u64, true, true),
        (&[0xd0, 0xd0], 0x40, true, 0x81, false, true),
        (&[0xc0, 0xd0, 9], 0x40, true, 0x40, true, true),
        (&[0xd0, 0xd8], 0x01, true, 0x80, true, true),
        (&[0x66, 0xd1, 0xd8], 0x0003, false, 0x0001, true, false),
    ] {
        let mut m = Machine::long().code(bytes);
        m.p.core.gpr[RAX] = value;
        m.p.core.flags.load(if carry { CF } else { 0 } | SF | ZF);
        m.step().unwrap();
        assert_eq!(m.p.core.gpr[RAX], expected, "{bytes:x?}");
        let flags = m.p.core.flags.bits();
        assert_eq!((flags & CF != 0, flags & OF != 0), (cf, of), "{bytes:x?}");
        assert_eq!(flags & (SF | ZF), SF | ZF);
    }
}
