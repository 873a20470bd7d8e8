//! Rows 39 to 42 and 62: TDCALL.

use abi::tdx::leaf::{field, td_ctls};
use abi::tdx::{TdAttributes, TdxStatus};
use iced_x86::code_asm::*;

use crate::harness::*;
use crate::td::{
    self, DATA, FATAL, FRESH, IDT, InitVm, SHARED, STACK_TOP, TdGuest, TdVm, accept, end,
    init_vcpu, report, tdcall,
};

#[test]
fn row_39_tdcall_needs_64_bit_mode() {
    let guest = TdGuest::entering(
        &InitVm::default(),
        |a| {
            let (mut ready, mut on) = (a.create_label(), a.create_label());
            let table = DATA as u32 + 0x100;
            // Descriptors of our own: null, flat 32-bit code.
            for (at, word) in [(8, 0x0000_ffff), (12, 0x00cf_9b00)] {
                a.mov(dword_ptr(table + at), word).unwrap();
            }
            a.mov(word_ptr(table + 0x20), 0xf).unwrap();
            a.mov(dword_ptr(table + 0x22), table as i32).unwrap();
            a.lgdt(fword_ptr(table + 0x20)).unwrap();
            a.mov(esp, STACK_TOP as u32).unwrap();
            // The return address is the handler's.
            a.call(ready).unwrap();
            a.mov(dword_ptr(DATA), 13).unwrap();
            a.pop(eax).unwrap();
            a.mov(dword_ptr(DATA + 4), eax).unwrap();
            a.jmp(on).unwrap();
            a.set_label(&mut ready).unwrap();
            a.pop(eax).unwrap();
            // An interrupt gate for #GP, which pushes an error code.
            let gate = IDT as u32 + 13 * 8;
            a.mov(word_ptr(gate), ax).unwrap();
            a.mov(word_ptr(gate + 2), 8).unwrap();
            a.shr(eax, 16).unwrap();
            a.mov(word_ptr(gate + 4), 0x8e00).unwrap();
            a.mov(word_ptr(gate + 6), ax).unwrap();
            a.mov(word_ptr(table + 0x30), 0xfff).unwrap();
            a.mov(dword_ptr(table + 0x32), IDT as i32).unwrap();
            a.lidt(fword_ptr(table + 0x30)).unwrap();
            a.mov(eax, 1u32).unwrap();
            tdcall(a);
            a.mov(dword_ptr(DATA), 1).unwrap();
            a.set_label(&mut on).unwrap();
            a.nop().unwrap();
        },
        |a| {
            a.mov(rdx, qword_ptr(DATA)).unwrap();
            report(a, rdx);
            end(a, 0);
        },
    );
    assert_eq!(guest.reports(), (vec![13], FATAL));
}

#[test]
fn row_39_operands_of_tdcall() {
    let guest = TdGuest::new(|a| {
        // Reserved bits and an unknown function; functions that are not modelled answer the same.
        for number in [1u64 | 1 << 24, 1 | 1 << 63, 99, 12] {
            a.mov(rax, number).unwrap();
            tdcall(a);
            report(a, rax);
        }
        // Registers that cannot be passed.
        for bits in [1u64 << 0, 1 << 1, 1 << 4, 1 << 5, 1 << 32] {
            a.mov(rcx, 0xfc00 | bits).unwrap();
            a.xor(r10d, r10d).unwrap();
            a.mov(r11d, 12u32).unwrap();
            a.xor(eax, eax).unwrap();
            tdcall(a);
            report(a, rax);
        }
        end(a, 0);
    });
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    assert_eq!(reports[..4], [INVALID; 4]);
    assert_eq!(reports[4..], [INVALID | 1; 5]);
}

#[test]
fn row_40_vp_info_is_stable() {
    let guest = TdGuest::with(&InitVm::default(), 2, |a| {
        for _ in 0..2 {
            for register in [r8, r9, r10, r11] {
                a.mov(register, -1i64 as u64).unwrap();
            }
            a.mov(eax, 1u32).unwrap();
            tdcall(a);
            for (at, register) in (0..).zip([rax, rcx, rdx, r8, r9, r10, r11]) {
                a.mov(qword_ptr(DATA + 8 * at), register).unwrap();
            }
            for at in 0..7 {
                a.mov(rdx, qword_ptr(DATA + 8 * at)).unwrap();
                report(a, rdx);
            }
        }
        end(a, 0);
    });
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    // R10: TDG.SYS.RD is not modelled.
    let info = [0, 48, TdAttributes::SEPT_VE_DISABLE.0, 2 | 224 << 32, 0, 0, 0];
    assert_eq!(reports[..7], info);
    assert_eq!(reports[7..], info);
}

#[test]
fn row_41_acceptance_maps_and_clears() {
    let guest = TdGuest::new(|a| {
        for _ in 0..2 {
            accept(a, FRESH, 0);
            report(a, rax);
        }
        // Every byte is zero.
        a.mov(edi, FRESH as u32).unwrap();
        a.mov(ecx, 512u32).unwrap();
        a.xor(eax, eax).unwrap();
        a.repe().scasq().unwrap();
        a.setne(al).unwrap();
        a.or(rcx, rax).unwrap();
        a.mov(rdx, rcx).unwrap();
        report(a, rdx);
        end(a, 0);
    });
    // No exit but the reports.
    let already = TdxStatus::PAGE_ALREADY_ACCEPTED.0;
    assert_eq!(already, 0x0000_0b0a_0000_0000);
    assert_eq!(guest.reports(), (vec![0, already, 0], FATAL));
}

#[test]
fn row_42_acceptance_of_other_sizes() {
    let block = 0x40_0000;
    let guest = TdGuest::new(|a| {
        for (gpa, level) in [
            (block, 1),
            (block, 0),
            (block, 0),
            (block + 0x1000, 1),
            (0, 2),
            (FRESH | SHARED, 0),
            (FRESH | 8, 0),
            (1 << 48, 0),
        ] {
            accept(a, gpa, level);
            report(a, rax);
        }
        end(a, 0);
    });
    let invalid = INVALID | 1;
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    // KVM maps 4 KiB of the 2 MiB, which are pending.
    let mismatch = TdxStatus::PAGE_SIZE_MISMATCH.with(1).0;
    assert_eq!(reports[..3], [mismatch, 0, TdxStatus::PAGE_ALREADY_ACCEPTED.0]);
    assert_eq!(reports[3..], [invalid; 5]);
}

/// TDG.VM.RD; status and value are reported.
fn vm_rd(a: &mut CodeAssembler, id: u64) {
    a.xor(ecx, ecx).unwrap();
    a.mov(rdx, id).unwrap();
    a.mov(eax, 7u32).unwrap();
    tdcall(a);
    a.mov(rdx, rax).unwrap();
    report(a, rdx);
    report(a, r8);
}

/// TDG.VM.WR of bits of TD_CTLS; the status is reported.
fn set_td_ctls(a: &mut CodeAssembler, bits: u64) {
    a.xor(ecx, ecx).unwrap();
    a.mov(rdx, field::TD_CTLS).unwrap();
    a.mov(r8, bits).unwrap();
    a.mov(r9, bits).unwrap();
    a.mov(eax, 8u32).unwrap();
    tdcall(a);
    report(a, rax);
}

#[test]
fn row_62_metadata_and_topology() {
    let vm = TdVm::prepared(&td::machine());
    vm.init(&InitVm::default()).unwrap();
    // One vCPU, whose number differs from its index.
    let cpus = vec![vm.vcpu(5)];
    init_vcpu(&cpus[0], 0).unwrap();
    let guest = TdGuest::unfinished(
        vm,
        cpus,
        |_| {},
        |a| {
            vm_rd(a, 0x1110_0003_0000_0fff);
            vm_rd(a, field::TOPOLOGY_ENUM_CONFIGURED);
            vm_rd(a, field::TD_CTLS);
            set_td_ctls(a, td_ctls::REDUCE_VE);
            set_td_ctls(a, td_ctls::ENUM_TOPOLOGY);
            vm_rd(a, field::TD_CTLS);
            // No handler of #VE: it would be a shutdown.
            a.mov(eax, 0xbu32).unwrap();
            a.xor(ecx, ecx).unwrap();
            a.cpuid().unwrap();
            report(a, rdx);
            a.mov(ecx, 0x802u32).unwrap();
            a.rdmsr().unwrap();
            report(a, rax);
            a.mov(eax, 1u32).unwrap();
            a.cpuid().unwrap();
            a.shr(ebx, 24).unwrap();
            report(a, rbx);
            end(a, 0);
        },
    );
    guest.vm.finalize().unwrap();
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    assert_eq!(reports[..2], [TdxStatus::METADATA_FIELD_ID_INCORRECT.0, 0]);
    assert_eq!(reports[2..4], [0, 1]);
    assert_eq!(reports[4..6], [0, td_ctls::PENDING_VE_DISABLE]);
    assert!(TdxStatus(reports[6]).is_error(), "{reports:x?}");
    let enumerates = td_ctls::PENDING_VE_DISABLE | td_ctls::ENUM_TOPOLOGY;
    assert_eq!(reports[7..10], [0, 0, enumerates]);
    assert_eq!(reports[10..], [5, 5, 5]);
}
