//! Rows 47, 48, 50 to 54, 56, 57 and 69: TDVMCALL.

use std::time::Duration;

use abi::kvm::{KVM_CAP_EXIT_HYPERCALL, KVM_HC_MAP_GPA_RANGE};
use abi::kvm_tdx::{KVM_EXIT_TDX, TdxExit};
use abi::tdx::vmcall::{self, Status};
use iced_x86::code_asm::*;
use kvm_bindings as kb;
use libc::{EINTR, EINVAL};
use softkvm::kvm::Errno;

use crate::common::Cpu;
use crate::harness::*;
use crate::interrupt::interrupting;
use crate::td::{
    self, FATAL, InitVm, Left, SHARED, TdGuest, TdVm, end, go, init_vcpu, report, set_cpuid,
    tdvmcall,
};

const REFUSED: u64 = Status::INVALID_OPERAND.0;
const UNSUPPORTED: u64 = Status::SUBFUNC_UNSUPPORTED.0;

/// MapGPA; R10 and R11 are reported.
fn map_gpa(a: &mut CodeAssembler, gpa: u64, size: u64) {
    tdvmcall(a, &[vmcall::MAP_GPA, gpa, size]);
    report_two(a, r11);
}

/// Reports R10 and another register.
fn report_two(a: &mut CodeAssembler, other: AsmRegister64) {
    a.mov(rsi, r10).unwrap();
    a.mov(rdi, other).unwrap();
    report(a, rsi);
    report(a, rdi);
}

/// A KVM_EXIT_HYPERCALL: address, pages, attributes.
fn hypercall(guest: &TdGuest) -> [u64; 3] {
    assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_HYPERCALL));
    let cpu = &guest.cpus[0];
    assert_eq!(cpu.u64(32), KVM_HC_MAP_GPA_RANGE);
    // ret is preset, and the guest is in 64-bit mode.
    assert_eq!((cpu.u64(88), cpu.u64(96)), (0, 1));
    [40, 48, 56].map(|at| cpu.u64(at))
}

fn answer(guest: &TdGuest, ret: u64) {
    guest.cpus[0].put(88, &ret.to_le_bytes());
}

#[test]
fn row_47_map_gpa_comes_in_chunks() {
    let (at, size) = (0x20_1000, 5 << 20);
    let guest = TdGuest::new(|a| {
        map_gpa(a, at | SHARED, size);
        map_gpa(a, at, size);
        end(a, 0);
    });
    for attributes in [0, 0x10] {
        let mut start = at;
        for pages in [512, 512, 256] {
            assert_eq!(hypercall(&guest), [start, pages, attributes]);
            start += pages << 12;
        }
        assert_eq!(next_report(&guest), 0);
        next_report(&guest);
    }
    let guest = TdGuest::new(|a| {
        map_gpa(a, at | SHARED, size);
        end(a, 0);
    });
    guest.vm.enable(KVM_CAP_EXIT_HYPERCALL, 0).unwrap();
    assert_eq!(guest.reports(), (vec![UNSUPPORTED, at | SHARED], FATAL));
}

#[test]
fn row_48_user_space_can_stop_map_gpa() {
    let (at, size) = (0x20_0000, 5 << 20);
    let second = at + (2 << 20);
    let start = || {
        let guest = TdGuest::new(|a| {
            map_gpa(a, at | SHARED, size);
            end(a, 0);
        });
        assert_eq!(hypercall(&guest)[0], at);
        guest
    };
    for (ret, status) in [(11, Status::RETRY.0), (22, REFUSED)] {
        let guest = start();
        assert_eq!(hypercall(&guest)[0], second);
        answer(&guest, ret);
        assert_eq!(guest.reports(), (vec![status, second | SHARED], FATAL));
    }
    let guest = start();
    answer(&guest, 5);
    assert_eq!(guest.run(), Left::Failed(Errno(EINVAL)));
}

#[test]
fn row_48_an_interrupt_stops_map_gpa() {
    let (at, size) = (0x20_0000, 5 << 20);
    let guest = TdGuest::new(|a| {
        tdvmcall(a, &[vmcall::WRMSR, 0x80f, 0x1ff]);
        map_gpa(a, at | SHARED, size);
        map_gpa(a, at | SHARED | 0x20_0000, 0x1000);
        end(a, 0);
    });
    assert_eq!(hypercall(&guest)[0], at);
    // The guest's interrupts are blocked, which KVM does not know: it returns between two chunks.
    signal_msi(&guest.vm, 0, 0x40);
    let reports = [next_report(&guest), next_report(&guest)];
    assert_eq!(reports, [Status::RETRY.0, (at + 0x20_0000) | SHARED]);
    // A chunk without successor is not stopped.
    assert_eq!(hypercall(&guest)[1], 1);
    assert_eq!(next_report(&guest), 0);
}

#[test]
fn row_48_ranges_are_checked() {
    let at = 0x20_0000;
    let ranges = [
        (at | 8, 0x1000, Status::ALIGN_ERROR),
        (at, 0x1008, Status::ALIGN_ERROR),
        (SHARED - 0x1000, 0x2000, Status::INVALID_OPERAND),
        (at, 0, Status::INVALID_OPERAND),
        (!0xfff, 0x2000, Status::INVALID_OPERAND),
        (1 << 52, 0x1000, Status::INVALID_OPERAND),
    ];
    let guest = TdGuest::new(|a| {
        for (gpa, size, _) in ranges {
            map_gpa(a, gpa, size);
        }
        end(a, 0);
    });
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    let expected: Vec<u64> = ranges.iter().flat_map(|(gpa, _, status)| [status.0, *gpa]).collect();
    assert_eq!(reports, expected);
}

fn tdx(guest: &TdGuest) -> TdxExit {
    assert_eq!(guest.run(), Left::Exit(KVM_EXIT_TDX));
    tdx_exit(&guest.cpus[0])
}

fn set_ret(cpu: &Cpu, ret: u64) {
    cpu.put(48, &ret.to_le_bytes());
}

#[test]
fn row_50_quotes_are_user_spaces() {
    let guest = TdGuest::new(|a| {
        for gpa in [PAGE, PAGE | SHARED, PAGE | SHARED] {
            tdvmcall(a, &[vmcall::GET_QUOTE, gpa, 0x4001]);
            report(a, r10);
        }
        end(a, 0);
    });
    assert_eq!(guest.run(), Left::Report(REFUSED));
    let data = [PAGE, 0x4001, 0, 0, 0];
    let expected = TdxExit { flags: 0, nr: vmcall::GET_QUOTE, ret: UNSUPPORTED, data };
    assert_eq!(tdx(&guest), expected);
    assert_eq!(guest.run(), Left::Report(UNSUPPORTED), "nobody has answered");
    assert_eq!(tdx(&guest), expected);
    set_ret(&guest.cpus[0], 0);
    assert_eq!(guest.reports(), (vec![0], FATAL));
}

#[test]
fn row_51_what_the_host_offers() {
    let guest = TdGuest::new(|a| {
        for leaf in [0, 1, 2] {
            a.xor(r10d, r10d).unwrap();
            a.mov(r11, vmcall::GET_TD_VMCALL_INFO).unwrap();
            a.mov(r12, leaf as u64).unwrap();
            a.mov(r13, -1i64 as u64).unwrap();
            a.mov(r14, -1i64 as u64).unwrap();
            go(a);
            a.mov(rbx, r10).unwrap();
            a.mov(rdx, r11).unwrap();
            a.mov(rsi, r12).unwrap();
            a.mov(rdi, r13).unwrap();
            a.mov(r9, r14).unwrap();
            for register in [rbx, rdx, rsi, rdi, r9] {
                report(a, register);
            }
        }
        end(a, 0);
    });
    let five = || -> [u64; 5] { std::array::from_fn(|_| next_report(&guest)) };
    assert_eq!(five(), [0; 5]);
    let exit = tdx(&guest);
    let data = [1, 0, 0, 0, 0];
    assert_eq!(exit, TdxExit { flags: 0, nr: vmcall::GET_TD_VMCALL_INFO, ret: 0, data });
    // R11 to R14 are behind the leaf.
    for (at, value) in (64..).step_by(8).zip([2u64, 3, 4, 5]) {
        guest.cpus[0].put(at, &value.to_le_bytes());
    }
    assert_eq!(five(), [0, 2, 3, 4, 5]);
    assert_eq!(five()[0], REFUSED);
    assert_eq!(guest.run(), FATAL);
}

#[test]
fn row_52_the_vector_of_notifications() {
    let guest = TdGuest::new(|a| {
        for vector in [31, 256, 0x50] {
            tdvmcall(a, &[vmcall::SETUP_EVENT_NOTIFY_INTERRUPT, vector]);
            report(a, r10);
        }
        end(a, 0);
    });
    assert_eq!([next_report(&guest), next_report(&guest)], [REFUSED; 2]);
    let nr = vmcall::SETUP_EVENT_NOTIFY_INTERRUPT;
    let expected = TdxExit { flags: 0, nr, ret: UNSUPPORTED, data: [0x50, 0, 0, 0, 0] };
    assert_eq!(tdx(&guest), expected);
    set_ret(&guest.cpus[0], 0);
    assert_eq!(guest.reports(), (vec![0], FATAL));
}

#[test]
fn row_53_a_fatal_error_carries_the_registers() {
    let guest = TdGuest::new(|a| {
        let registers = [rdx, rbx, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        for (register, value) in registers.into_iter().zip(0x100u64..) {
            a.mov(register, value).unwrap();
        }
        a.xor(r10d, r10d).unwrap();
        a.mov(r11, vmcall::REPORT_FATAL_ERROR).unwrap();
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.mov(ecx, 0xffccu32).unwrap();
        a.xor(eax, eax).unwrap();
        td::tdcall(a);
        a.jmp(again).unwrap();
    });
    let cpu = &guest.cpus[0];
    for _ in 0..2 {
        assert_eq!(guest.run(), FATAL);
        assert_eq!((cpu.u32(32), cpu.u32(36)), (7, 16));
        let data: [u64; 16] = std::array::from_fn(|i| cpu.u64(40 + i * 8));
        assert_eq!(data[..8], [77, 0xffcc, 0x100, 0x101, 0, 0, 0x102, 0x103]);
        assert_eq!(data[8..10], [0x104, 0x105]);
        assert_eq!(data[10..12], [0, vmcall::REPORT_FATAL_ERROR]);
        assert_eq!(data[12..], [0x108, 0x109, 0x10a, 0x10b]);
    }
}

/// The description of KVM_EXIT_IO: direction, size, port, count.
fn io_exit(cpu: &Cpu) -> (u8, u8, u16, u32) {
    let [direction, size] = cpu.read(32);
    (direction, size, u16::from_le_bytes(cpu.read(34)), cpu.u32(36))
}

#[test]
fn row_54_ports() {
    let sizes = [1u64, 2, 4];
    let data = 0x1122_3344_5566_7788u64;
    let guest = TdGuest::new(|a| {
        for size in sizes {
            tdvmcall(a, &[vmcall::IO, size, 1, 0x510, data]);
            tdvmcall(a, &[vmcall::IO, size, 0, 0x511]);
            report_two(a, r11);
        }
        for (size, direction) in [(8, 0), (3, 0), (0, 0), (4, 2)] {
            tdvmcall(a, &[vmcall::IO, size, direction, 0x511]);
            report(a, r10);
        }
        end(a, 0);
    });
    let cpu = &guest.cpus[0];
    for size in [1, 2, 4] {
        assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_IO));
        assert_eq!(io_exit(cpu), (1, size, 0x510, 1));
        let at = cpu.u64(40) as usize;
        assert_eq!(cpu.read::<4>(at)[..size.into()], data.to_le_bytes()[..size.into()]);
        assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_IO));
        assert_eq!(io_exit(cpu), (0, size, 0x511, 1));
        cpu.put(cpu.u64(40) as usize, &[0xff; 8]);
        // Zero-extended: nothing of R11's old value.
        let ones = u64::MAX >> (64 - 8 * size);
        assert_eq!([next_report(&guest), next_report(&guest)], [0, ones]);
    }
    assert_eq!(guest.reports(), (vec![REFUSED; 4], FATAL));
}

#[test]
fn row_54_device_memory() {
    let device = 0xd000_1000;
    let guest = TdGuest::new(|a| {
        for size in [1, 8] {
            tdvmcall(a, &[vmcall::MMIO, size, 1, device | SHARED, 0x1122_3344_5566_7788]);
            tdvmcall(a, &[vmcall::MMIO, size, 0, device | SHARED]);
            report_two(a, r11);
        }
        for (size, direction, gpa) in [
            (8, 0, device),
            (8, 0, SHARED - 4),
            (8, 1, (SHARED << 1) - 4),
            (3, 0, device | SHARED),
            (4, 2, device | SHARED),
        ] {
            tdvmcall(a, &[vmcall::MMIO, size, direction, gpa]);
            report(a, r10);
        }
        end(a, 0);
    });
    let cpu = &guest.cpus[0];
    let exit = || (cpu.u64(32), cpu.u32(48), cpu.read::<1>(52)[0]);
    for size in [1, 8] {
        assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_MMIO));
        assert_eq!(exit(), (device, size, 1));
        assert_eq!(cpu.u64(40), 0x1122_3344_5566_7788 & u64::MAX >> (64 - 8 * size));
        assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_MMIO));
        assert_eq!(exit(), (device, size, 0));
        cpu.put(40, &[0xff; 8]);
        let ones = u64::MAX >> (64 - 8 * size);
        assert_eq!([next_report(&guest), next_report(&guest)], [0, ones]);
    }
    assert_eq!(guest.reports(), (vec![REFUSED; 5], FATAL));
}

#[test]
fn row_56_registers_of_the_host_and_of_the_processor() {
    let pat = 0x0007_0406_0007_0401u64;
    let guest = TdGuest::new(|a| {
        tdvmcall(a, &[vmcall::RDMSR, 0x1b]);
        report_two(a, r11);
        for call in [
            [vmcall::RDMSR, 0x4b56_4d00, 0],
            [vmcall::RDMSR, 0x3b, 0],
            [vmcall::WRMSR, 0xc000_0080, 0xd01],
            [vmcall::WRMSR, 0x1b, 0xfee0_0d00],
        ] {
            tdvmcall(a, &call);
            report(a, r10);
        }
        // No handler of #VE: it would be a shutdown.
        a.mov(ecx, 0x277u32).unwrap();
        a.mov(eax, pat as u32).unwrap();
        a.mov(edx, (pat >> 32) as u32).unwrap();
        a.wrmsr().unwrap();
        a.xor(eax, eax).unwrap();
        a.rdmsr().unwrap();
        report(a, rax);
        end(a, 0);
    });
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    // Enabled, x2APIC, boot processor.
    assert_eq!(reports[..2], [0, 0xfee0_0d00]);
    assert_eq!(reports[2..6], [REFUSED; 4]);
    assert_eq!(reports[6], pat & 0xffff_ffff);
}

#[test]
fn row_57_a_sleeping_vcpu_stays_in_kvm_run() {
    let guest = TdGuest::new(|a| {
        tdvmcall(a, &[vmcall::WRMSR, 0x80f, 0x1ff]);
        report(a, r10);
        tdvmcall(a, &[vmcall::HLT, 0]);
        report(a, r10);
        end(a, 0);
    });
    assert_eq!(guest.run(), Left::Report(0));
    let cpu = &guest.cpus[0];
    cpu.put(1, &[1]);
    assert_eq!(guest.run(), Left::Failed(Errno(EINTR)));
    cpu.put(1, &[0]);
    let guest = &guest;
    assert_eq!(interrupting(|| guest.run(), || {}), Left::Failed(Errno(EINTR)));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| guest.run());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!thread.is_finished());
        signal_msi(&guest.vm, 0, 0x40);
        assert_eq!(thread.join().unwrap(), Left::Report(0));
    });
    assert_eq!(guest.run(), FATAL);
}

#[test]
fn row_57_with_blocked_interrupts_only_an_nmi_wakes() {
    let guest = TdGuest::new(|a| {
        let mut nmi = a.create_label();
        td::stack(a);
        td::load_idt(a);
        td::gate(a, 2, nmi);
        tdvmcall(a, &[vmcall::WRMSR, 0x80f, 0x1ff]);
        tdvmcall(a, &[vmcall::HLT, 1]);
        end(a, 1);
        a.set_label(&mut nmi).unwrap();
        a.mov(ebx, 2u32).unwrap();
        report(a, rbx);
        end(a, 0);
    });
    let guest = &guest;
    let sleeping = || {
        // The signal comes while it sleeps in spite of the interrupt.
        interrupting(|| guest.run(), || signal_msi(&guest.vm, 0, 0x40))
    };
    assert_eq!(interrupting(|| guest.run(), || {}), Left::Failed(Errno(EINTR)));
    assert_eq!(sleeping(), Left::Failed(Errno(EINTR)));
    guest.cpus[0].fd.value(softkvm::kvm::number::NMI, 0).unwrap();
    assert_eq!(guest.reports(), (vec![2], FATAL));
}

#[test]
fn row_69_the_shared_bit_is_within_the_address_width() {
    let guest_with = |widths: Option<u32>, last: u32| {
        let vm = TdVm::prepared(&td::machine());
        vm.init(&InitVm::default()).unwrap();
        let cpus = vec![Cpu::new(&vm.fd, 0)];
        let mut table = td::td_cpuid(&cpus[0]);
        match widths {
            None => table.retain(|e| e.function != 0x8000_0008),
            Some(bits) => table
                .iter_mut()
                .filter(|e| e.function == 0x8000_0008)
                .for_each(|e| e.eax = e.eax & !0xff | bits),
        }
        table.iter_mut().filter(|e| e.function == 0x8000_0000).for_each(|e| e.eax = last);
        set_cpuid(&cpus[0], &table);
        init_vcpu(&cpus[0], 0).unwrap();
        let guest = TdGuest::unfinished(
            vm,
            cpus,
            |_| {},
            |a| {
                map_gpa(a, PAGE | SHARED, 0x1000);
                end(a, 0);
            },
        );
        guest.vm.finalize().unwrap();
        guest
    };
    let last = 0x8000_0008;
    for (narrow, last) in [(None, last), (Some(47), last), (Some(52), last - 1)] {
        let guest = guest_with(narrow, last);
        assert_eq!(guest.reports(), (vec![REFUSED, PAGE | SHARED], FATAL));
    }
    for wide in [48, 52] {
        assert_eq!(hypercall(&guest_with(Some(wide), last)), [PAGE, 1, 0]);
    }
}
