//! Rows 55, 58, 59 and 70: instructions that the module looks at.

use abi::kvm_tdx::CpuidEntry;
use abi::tdx::{TdxStatus, vmcall};
use iced_x86::code_asm::*;
use kvm_bindings as kb;

use crate::td::{
    DATA, FATAL, InitVm, Left, STACK_TOP, TABLES, TdGuest, catch_ve, end, report, report_ve, stack,
    tdcall, tdvmcall, ve_of,
};

fn cpuid(a: &mut CodeAssembler, leaf: u32) {
    a.mov(eax, leaf).unwrap();
    a.xor(ecx, ecx).unwrap();
    a.cpuid().unwrap();
}

fn rdmsr(a: &mut CodeAssembler, index: u32) {
    a.mov(ecx, index).unwrap();
    a.rdmsr().unwrap();
}

fn wrmsr(a: &mut CodeAssembler, index: u32, value: u64) {
    a.mov(ecx, index).unwrap();
    a.mov(eax, value as u32).unwrap();
    a.mov(edx, (value >> 32) as u32).unwrap();
    a.wrmsr().unwrap();
}

#[test]
fn row_55_cpuid_by_the_module_and_by_kvm() {
    for leaf in [2, 0x4000_0000, 0x8000_0002] {
        assert_eq!(ve_of(|a| cpuid(a, leaf))[0], vmcall::CPUID, "{leaf:#x}");
    }
    let guest = TdGuest::new(|a| {
        // No handler of #VE: it would be a shutdown.
        for leaf in [1, 7, 0xd, 0x15, 0x21] {
            cpuid(a, leaf);
            report(a, rbx);
        }
        tdvmcall(a, &[vmcall::CPUID, 0x4000_0000, 0]);
        a.mov(rbx, r12).unwrap();
        a.mov(rbp, r13).unwrap();
        a.mov(rsi, r14).unwrap();
        a.mov(rdi, r15).unwrap();
        for register in [r10, rbx, rbp, rsi, rdi] {
            report(a, register);
        }
        end(a, 0);
    });
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    // 2 GHz in units of 25 MHz.
    assert_eq!(reports[3], 80);
    assert_eq!(reports[4], u64::from(abi::tdx::CPUID_SIGNATURE[0]));
    let signature = [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(|s| u64::from(u32::from_le_bytes(s)));
    assert_eq!(reports[5..7], [0, 0x4000_0001]);
    assert_eq!(reports[7..], signature);
}

/// TDG.VP.CPUIDVE.SET.
fn cpuid_ve(a: &mut CodeAssembler, levels: u32) {
    a.mov(ecx, levels).unwrap();
    a.mov(eax, 5u32).unwrap();
    tdcall(a);
}

#[test]
fn row_55_cpuid_can_be_made_to_raise_ve() {
    let supervisor = ve_of(|a| {
        cpuid_ve(a, 1);
        cpuid(a, 1);
    });
    assert_eq!(supervisor, [vmcall::CPUID, 0, 0, 0, 2]);
    // With 2 it raises #VE only outside of CPL 0, at which the code below is when the first CPUID comes.
    let user = ve_of(|a| {
        cpuid_ve(a, 2);
        cpuid(a, 1);
        to_user_mode(a);
        cpuid(a, 1);
    });
    assert_eq!(user, [vmcall::CPUID, 0, 0, 0, 2]);
    // With neither, user mode has CPUID, and what ends the code is another instruction.
    let neither = ve_of(|a| {
        cpuid_ve(a, 0);
        to_user_mode(a);
        cpuid(a, 1);
        cpuid(a, 0x4000_0000);
    });
    assert_eq!(neither, [vmcall::CPUID, 0, 0, 0, 2]);
    let before = ve_of(|a| {
        to_user_mode(a);
        cpuid(a, 0x4000_0000);
    });
    assert_eq!(before, neither);
}

/// Goes on at CPL 3, with a task segment so that exceptions find the stack of [`catch_ve`].
fn to_user_mode(a: &mut CodeAssembler) {
    const GDT: u64 = DATA + 0x200;
    const TSS: u64 = DATA + 0x300;
    let descriptors = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x0000_8900_0000_0067 | TSS << 16,
        0,
    ];
    for (at, descriptor) in (GDT..).step_by(8).zip(descriptors) {
        a.mov(rax, descriptor).unwrap();
        a.mov(qword_ptr(at), rax).unwrap();
    }
    a.mov(word_ptr(GDT + 0x80), 0x37).unwrap();
    a.mov(rax, GDT).unwrap();
    a.mov(qword_ptr(GDT + 0x82), rax).unwrap();
    a.lgdt(tbyte_ptr(GDT + 0x80)).unwrap();
    a.mov(rax, STACK_TOP).unwrap();
    a.mov(qword_ptr(TSS + 4), rax).unwrap();
    a.mov(eax, 0x28u32).unwrap();
    a.ltr(ax).unwrap();
    let mut user = a.create_label();
    a.push(0x1b).unwrap();
    a.push((STACK_TOP - 0x800) as i32).unwrap();
    a.push(2).unwrap();
    a.push(0x23).unwrap();
    a.lea(rax, ptr(user)).unwrap();
    a.push(rax).unwrap();
    a.iretq().unwrap();
    a.set_label(&mut user).unwrap();
}

#[test]
fn row_58_ve_information_is_read_once() {
    let guest = TdGuest::new(|a| {
        let mut handler = a.create_label();
        // Nothing to read: zeros.
        for register in [rcx, rdx, r8, r9, r10] {
            a.mov(register, -1i64 as u64).unwrap();
        }
        a.mov(eax, 3u32).unwrap();
        tdcall(a);
        a.or(rcx, rdx).unwrap();
        a.or(rcx, r8).unwrap();
        a.or(rcx, r9).unwrap();
        a.or(rcx, r10).unwrap();
        a.mov(rdi, rcx).unwrap();
        report(a, rax);
        report(a, rdi);
        catch_ve(a, handler);
        a.hlt().unwrap();
        a.set_label(&mut handler).unwrap();
        report_ve(a);
    });
    let none = TdxStatus::NO_VALID_VE_INFO.0;
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    assert_eq!(reports[..2], [none, 0]);
    assert_eq!(reports[2..], [vmcall::HLT, 0, 0, 0, 1]);
}

#[test]
fn row_58_after_it_is_read_the_next_ve_may_come() {
    let guest = TdGuest::new(|a| {
        let (mut handler, mut last) = (a.create_label(), a.create_label());
        catch_ve(a, handler);
        a.xor(ebp, ebp).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut handler).unwrap();
        a.inc(ebp).unwrap();
        for _ in 0..2 {
            a.mov(eax, 3u32).unwrap();
            tdcall(a);
            report(a, rax);
        }
        a.cmp(ebp, 2).unwrap();
        a.je(last).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut last).unwrap();
        end(a, 0);
    });
    let none = TdxStatus::NO_VALID_VE_INFO.0;
    assert_eq!(guest.reports(), (vec![0, none, 0, none], FATAL));
}

#[test]
fn row_58_a_second_ve_is_a_double_fault() {
    // #DF has a gate: it tells itself from the shutdown.
    let guest = TdGuest::new(|a| {
        let (mut handler, mut double) = (a.create_label(), a.create_label());
        catch_ve(a, handler);
        crate::td::gate(a, 8, double);
        a.hlt().unwrap();
        a.set_label(&mut handler).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut double).unwrap();
        a.mov(ebx, 8u32).unwrap();
        report(a, rbx);
        end(a, 0);
    });
    assert_eq!(guest.reports(), (vec![8], FATAL));
    let guest = TdGuest::new(|a| {
        let mut handler = a.create_label();
        catch_ve(a, handler);
        a.hlt().unwrap();
        a.set_label(&mut handler).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_SHUTDOWN));
}

#[test]
fn row_59_efer_keeps_its_value() {
    const EFER: u32 = 0xc000_0080;
    let guest = TdGuest::new(|a| {
        rdmsr(a, EFER);
        a.wrmsr().unwrap();
        // SCE is the guest's.
        a.and(eax, !1).unwrap();
        a.wrmsr().unwrap();
        rdmsr(a, EFER);
        report(a, rax);
        end(a, 0);
    });
    assert_eq!(guest.reports(), (vec![0xd00], FATAL));
    for bit in [1 << 11, 1 << 8] {
        let ve = ve_of(|a| {
            rdmsr(a, EFER);
            a.xor(eax, bit).unwrap();
            a.wrmsr().unwrap();
        });
        assert_eq!(ve, [vmcall::WRMSR, 0, 0, 0, 2], "{bit:#x}");
    }
}

#[test]
fn row_59_control_registers() {
    let cr4_mce = ve_of(|a| {
        a.mov(rdx, cr4).unwrap();
        a.and(edx, !0x40).unwrap();
        a.mov(cr4, rdx).unwrap();
    });
    assert_eq!(cr4_mce[0], u64::from(vmcall::reason::CR_ACCESS));
    // Setting CD is #VE as well; clearing NE is #GP, which the module does not turn into one.
    let cr0_cd = ve_of(|a| {
        a.mov(rdx, cr0).unwrap();
        a.or(edx, 1 << 30).unwrap();
        a.mov(cr0, rdx).unwrap();
    });
    assert_eq!(cr0_cd[0], u64::from(vmcall::reason::CR_ACCESS));
    let guest = TdGuest::new(|a| {
        let mut fault = a.create_label();
        stack(a);
        crate::td::load_idt(a);
        crate::td::gate(a, 13, fault);
        a.mov(rdx, cr0).unwrap();
        a.and(edx, !0x20).unwrap();
        a.mov(cr0, rdx).unwrap();
        end(a, 1);
        a.set_label(&mut fault).unwrap();
        a.pop(rbx).unwrap();
        report(a, rbx);
        end(a, 0);
    });
    assert_eq!(guest.reports(), (vec![0], FATAL));
}

#[test]
fn row_59_paging_and_its_levels_are_the_guests() {
    const LA57: i32 = 1 << 12;
    let mut init = InitVm::default();
    init.entries.push(CpuidEntry { function: 7, flags: 1, ecx: 1 << 16, ..Default::default() });
    let root = STACK_TOP as u32 - 0x1000;
    let guest = TdGuest::entering(
        &init,
        |a| {
            // A fifth level over the tables.
            a.mov(dword_ptr(root), TABLES as i32 | 7).unwrap();
            a.mov(ebp, cr4).unwrap();
            a.or(ebp, 0x20).unwrap();
            a.mov(cr4, ebp).unwrap();
            for (top, levels) in [(TABLES as u32, 0), (root, LA57), (TABLES as u32, 0)] {
                a.mov(eax, ebp).unwrap();
                a.or(eax, levels).unwrap();
                a.mov(cr4, eax).unwrap();
                a.mov(eax, top).unwrap();
                a.mov(cr3, eax).unwrap();
                a.mov(eax, cr0).unwrap();
                a.or(eax, 1 << 31).unwrap();
                a.mov(cr0, eax).unwrap();
                a.inc(dword_ptr(DATA)).unwrap();
                a.and(eax, i32::MAX).unwrap();
                a.mov(cr0, eax).unwrap();
            }
        },
        |a| {
            a.mov(rdx, qword_ptr(DATA)).unwrap();
            report(a, rdx);
            end(a, 0);
        },
    );
    assert_eq!(guest.reports(), (vec![3], FATAL));
    // Without the feature, the bit is reserved.
    let guest = TdGuest::entering(
        &InitVm::default(),
        |a| {
            a.mov(eax, cr4).unwrap();
            a.or(eax, LA57).unwrap();
            a.mov(cr4, eax).unwrap();
        },
        |a| end(a, 0),
    );
    assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_SHUTDOWN));
}

#[test]
fn row_70_registers_that_early_code_reads() {
    // No handler of #VE: it would be a shutdown.
    let guest = TdGuest::new(|a| {
        for index in [0x1a0, 0x10a] {
            rdmsr(a, index);
            a.shl(rdx, 32).unwrap();
            a.or(rdx, rax).unwrap();
            report(a, rdx);
        }
        end(a, 0);
    });
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    assert_eq!(reports[0] >> 34 & 1, 0, "execute-disable is there");
    assert_eq!(ve_of(|a| wrmsr(a, 0x1a0, 1)), [vmcall::WRMSR, 0, 0, 0, 2]);
    assert_eq!(ve_of(|a| rdmsr(a, 0xfe)), [vmcall::RDMSR, 0, 0, 0, 2]);
}
