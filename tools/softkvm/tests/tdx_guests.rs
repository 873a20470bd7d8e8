//! Small TDs and their exits.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/td.rs"]
mod td;

use abi::kvm as k;
use abi::tdx::{TdAttributes, vmcall};
use iced_x86::code_asm::*;
use kvm_bindings as kb;
use softkvm::kvm::{Errno, number as nr};
use td::{
    ALIAS, DATA, FATAL, FRESH, InitVm, Left, PRIVATE, SHARED, TdGuest, TdVm, accept, catch_ve, end,
    go, report, report_ve, stack, tdcall, tdvmcall, ve_of,
};

const ALREADY: u64 = 0x0b0a_0000_0000;

#[test]
fn every_vcpu_starts_as_the_module_says() {
    let guest = TdGuest::new(|a| {
        // Reporting clobbers RCX.
        a.mov(r9, rcx).unwrap();
        for register in [rdi, rbp, rbx, rsi, r8, rdx, r9] {
            report(a, register);
        }
        a.mov(ecx, 0xc000_0080u32).unwrap();
        a.rdmsr().unwrap();
        report(a, rax);
        end(a, 7);
    });
    let (reports, left) = guest.reports();
    let data = 0x1234_5678_9abc_def0;
    assert_eq!(left, FATAL);
    assert_eq!(reports[..5], [0x21, 0x40, 48, 0, data]);
    assert_eq!(reports[5] & 0xfff_0ff0, 0x8_06f0, "family 6, model 0x8f");
    assert_eq!(reports[6..], [data, 0xd01]);
}

#[test]
fn vp_info_tells_what_the_td_is() {
    let guest = TdGuest::with(&InitVm::default(), 2, |a| {
        a.mov(eax, 1u32).unwrap();
        tdcall(a);
        a.mov(rbx, rcx).unwrap();
        a.mov(rbp, rdx).unwrap();
        a.mov(rsi, r8).unwrap();
        a.mov(rdi, r9).unwrap();
        for register in [rax, rbx, rbp, rsi, rdi] {
            report(a, register);
        }
        end(a, 0);
    });
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    assert_eq!(reports, [0, 48, TdAttributes::SEPT_VE_DISABLE.0, 2 | 224 << 32, 0]);
}

#[test]
fn a_page_is_mapped_when_it_is_accepted_and_only_once() {
    let guest = TdGuest::new(|a| {
        accept(a, FRESH, 0);
        report(a, rax);
        accept(a, FRESH, 0);
        report(a, rax);
        a.mov(rax, qword_ptr(FRESH)).unwrap();
        report(a, rax);
        a.mov(qword_ptr(FRESH), rax).unwrap();
        // 2 MiB: KVM maps 4 KiB.
        accept(a, 0x40_0000, 1);
        report(a, rax);
        // 1 GiB, shared.
        accept(a, 0, 2);
        report(a, rax);
        accept(a, FRESH | SHARED, 0);
        report(a, rax);
        end(a, 0);
    });
    let invalid = 0xc000_0100_0000_0001;
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    assert_eq!(reports, [0, ALREADY, 0, 0xc000_0b0b_0000_0001, invalid, invalid]);
}

#[test]
fn access_before_acceptance_ends_the_vm() {
    let guest = TdGuest::new(|a| {
        a.mov(rax, qword_ptr(FRESH)).unwrap();
        report(a, rax);
    });
    assert_eq!(guest.run(), Left::Failed(Errno::EIO));
    assert_eq!(guest.run(), Left::Failed(Errno::EIO));
    assert_eq!(guest.vm.fd.value(nr::CHECK_EXTENSION, 0), Err(Errno::EIO));
}

#[test]
fn without_the_attribute_it_is_an_exception() {
    let mut init = InitVm::default();
    init.head.attributes = TdAttributes(0);
    let guest = TdGuest::with(&init, 1, |a| {
        let mut handler = a.create_label();
        catch_ve(a, handler);
        a.mov(rax, qword_ptr(FRESH + 8)).unwrap();
        a.set_label(&mut handler).unwrap();
        report_ve(a);
    });
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    assert_eq!(reports, [48, 0x181, FRESH + 8, FRESH + 8, 0]);
}

#[test]
fn instructions_of_the_host_raise_ve() {
    let out = ve_of(|a| {
        a.mov(edx, 0x3f8u32).unwrap();
        a.out(dx, al).unwrap();
    });
    assert_eq!(out, [30, 0x3f8_0000, 0, 0, 1]);
    let input = ve_of(|a| a.in_(eax, 0x71u32).unwrap());
    assert_eq!(input, [30, 0x71_004b, 0, 0, 2]);
    assert_eq!(ve_of(|a| a.hlt().unwrap()), [12, 0, 0, 0, 1]);
    assert_eq!(ve_of(|a| a.wbinvd().unwrap()), [54, 0, 0, 0, 2]);
    let kvm = ve_of(|a| {
        a.mov(eax, 0x4000_0000u32).unwrap();
        a.cpuid().unwrap();
    });
    assert_eq!(kvm, [10, 0, 0, 0, 2]);
    let apic_base = ve_of(|a| {
        a.mov(ecx, 0x1bu32).unwrap();
        a.rdmsr().unwrap();
    });
    assert_eq!(apic_base, [31, 0, 0, 0, 2]);
    let mce = ve_of(|a| {
        a.mov(rdx, cr4).unwrap();
        a.and(edx, !0x40).unwrap();
        a.mov(cr4, rdx).unwrap();
    });
    assert_eq!(mce, [28, 4 | 2 << 8, 0, 0, 3]);
}

#[test]
fn device_memory_raises_ve_with_the_shared_bit() {
    let hole = 0x2000_0010;
    let ve = ve_of(|a| a.mov(dword_ptr(ALIAS + hole), eax).unwrap());
    assert_eq!(ve, [48, 0x182, ALIAS + hole, hole | SHARED, 0]);
}

#[test]
fn a_second_ve_before_the_first_is_read_is_a_double_fault() {
    let guest = TdGuest::new(|a| {
        let mut handler = a.create_label();
        catch_ve(a, handler);
        a.hlt().unwrap();
        a.set_label(&mut handler).unwrap();
        // No gate for #DF: the vCPU shuts down.
        a.hlt().unwrap();
    });
    assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_SHUTDOWN));
    assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_INTERNAL_ERROR));
}

#[test]
fn ports_are_reached_by_tdvmcall() {
    let guest = TdGuest::new(|a| {
        tdvmcall(a, &[vmcall::IO, 2, 1, 0x510, 0xabcd]);
        tdvmcall(a, &[vmcall::IO, 2, 0, 0x511]);
        report(a, r11);
        tdvmcall(a, &[vmcall::IO, 8, 0, 0x511]);
        report(a, r10);
        end(a, 0);
    });
    let cpu = &guest.cpus[0];
    assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_IO));
    assert_eq!((cpu.read::<4>(32), cpu.u32(36)), ([1, 2, 0x10, 5], 1));
    assert_eq!(cpu.read::<2>(cpu.u64(40) as usize), [0xcd, 0xab]);
    assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_IO));
    assert_eq!(cpu.read::<4>(32), [0, 2, 0x11, 5]);
    cpu.put(cpu.u64(40) as usize, &[0x34, 0x12]);
    assert_eq!(guest.reports(), (vec![0x1234, 1 << 63], FATAL));
}

#[test]
fn map_gpa_goes_to_user_space_in_chunks_and_memory_changes_hands() {
    let at = 0x20_0000;
    let guest = TdGuest::new(|a| {
        accept(a, at, 0);
        a.mov(dword_ptr(at), 0x5ec2e7).unwrap();
        tdvmcall(a, &[vmcall::MAP_GPA, at | SHARED, 0x30_0000]);
        report(a, r10);
        a.mov(eax, dword_ptr(ALIAS + at)).unwrap();
        report(a, rax);
        a.mov(dword_ptr(ALIAS + at), 0x600d).unwrap();
        tdvmcall(a, &[vmcall::MAP_GPA, at, 0x1000]);
        report(a, r10);
        accept(a, at, 0);
        report(a, rax);
        a.mov(eax, dword_ptr(at)).unwrap();
        report(a, rax);
        tdvmcall(a, &[vmcall::MAP_GPA, at | 1, 0x1000]);
        report(a, r10);
        end(a, 0);
    });
    let cpu = &guest.cpus[0];
    let convert = |address: u64, pages: u64, private: u64| {
        assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_HYPERCALL));
        let args: Vec<u64> = (0..3).map(|i| cpu.u64(40 + i * 8)).collect();
        assert_eq!(cpu.u64(32), k::KVM_HC_MAP_GPA_RANGE);
        assert_eq!(args, [address, pages, private << 4]);
        let attribute = if private != 0 { PRIVATE } else { 0 };
        guest.vm.attributes(address, pages << 12, attribute).unwrap();
        cpu.put(88, &0u64.to_le_bytes());
    };
    convert(at, 512, 0);
    convert(at + 0x20_0000, 256, 0);
    assert_eq!(guest.run(), Left::Report(0));
    assert_eq!(guest.run(), Left::Report(0), "the shared half was never written");
    convert(at, 1, 1);
    assert_eq!(guest.ram.get(at as usize, 4), [0x0d, 0x60, 0, 0]);
    assert_eq!(guest.reports(), (vec![0, 0, 0, 1 << 63 | 2], FATAL));
}

#[test]
fn what_map_gpa_was_not_told_of_is_a_memory_fault() {
    let guest = TdGuest::new(|a| {
        a.mov(eax, dword_ptr(ALIAS + DATA)).unwrap();
        end(a, 0);
    });
    let cpu = &guest.cpus[0];
    assert_eq!(guest.run(), Left::Failed(Errno::EFAULT));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_MEMORY_FAULT);
    assert_eq!((cpu.u64(32), cpu.u64(40), cpu.u64(48)), (0, DATA, 0x1000));
    let guest = TdGuest::new(|a| {
        accept(a, FRESH, 0);
        report(a, rax);
        end(a, 0);
    });
    let cpu = &guest.cpus[0];
    guest.vm.attributes(FRESH, 0x1000, 0).unwrap();
    assert_eq!(guest.run(), Left::Failed(Errno::EFAULT));
    assert_eq!((cpu.u64(32), cpu.u64(40), cpu.u64(48)), (8, FRESH, 0x1000));
    guest.vm.attributes(FRESH, 0x1000, PRIVATE).unwrap();
    assert_eq!(guest.reports(), (vec![0], FATAL));
}

#[test]
fn a_fatal_error_carries_the_registers() {
    let guest = TdGuest::new(|a| {
        for (register, value) in [(r12, 0x12u64), (r13, 0x13), (r14, 0x14), (r15, 0x15)] {
            a.mov(register, value).unwrap();
        }
        a.xor(r10d, r10d).unwrap();
        a.mov(r11, vmcall::REPORT_FATAL_ERROR).unwrap();
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        go(a);
        a.jmp(again).unwrap();
    });
    let cpu = &guest.cpus[0];
    for _ in 0..2 {
        assert_eq!(guest.run(), FATAL);
        assert_eq!((cpu.u32(32), cpu.u32(36), cpu.u64(40)), (7, 16, 77));
        let registers: Vec<u64> = (12..16).map(|i| cpu.u64(40 + i * 8)).collect();
        assert_eq!(registers, [0x12, 0x13, 0x14, 0x15]);
    }
}

#[test]
fn code_in_shared_memory_ends_the_vm() {
    let guest = TdGuest::new(|a| {
        a.mov(rax, ALIAS + DATA).unwrap();
        a.jmp(rax).unwrap();
    });
    guest.vm.attributes(DATA, 0x1000, 0).unwrap();
    assert_eq!(guest.run(), Left::Failed(Errno::EIO));
}

#[test]
fn tdcall_exists_only_in_64_bit_mode_of_a_td() {
    // A plain VM on the same part: TDCALL is undefined, and ends in a shutdown without IDT.
    let machine = td::machine();
    let vm = common::vm_on(&machine, 0);
    let ram = common::Ram::new(0x10000);
    ram.put(0x1000, &[0x0f, 0x01, 0x1e, 0x00, 0x20, 0x66, 0x0f, 0x01, 0xcc]);
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut common::region(0, 0, &ram)).unwrap();
    let cpu = common::Cpu::new(&vm, 0);
    cpu.real_mode(0x1000);
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_SHUTDOWN);
}

#[test]
fn a_sleeping_vcpu_wakes_by_an_interrupt() {
    let guest = TdGuest::new(|a| {
        // Enable the APIC, and its timer as one-shot with vector 0x40: 25000 cycles of 40 ns are 1 ms.
        for (index, value) in [(0x80fu64, 0x1ffu64), (0x83e, 0xb), (0x832, 0x40), (0x838, 25_000)] {
            tdvmcall(a, &[vmcall::WRMSR, index, value]);
            report(a, r10);
        }
        a.rdtsc().unwrap();
        a.mov(ebx, eax).unwrap();
        tdvmcall(a, &[vmcall::HLT, 0]);
        report(a, r10);
        a.rdtsc().unwrap();
        a.sub(eax, ebx).unwrap();
        report(a, rax);
        end(a, 0);
    });
    let since = std::time::Instant::now();
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    assert_eq!(reports[..5], [0; 5]);
    // The timer's milliseconds at 2 GHz.
    assert!((1_900_000..2_200_000).contains(&reports[5]), "{reports:?}");
    assert!(since.elapsed().as_millis() < 500);
}

#[test]
fn the_launch_refuses_what_is_out_of_order() {
    let machine = td::machine();
    let vm = TdVm::bare(&machine);
    assert_eq!(vm.fd.value(nr::CREATE_VCPU, 0), Err(Errno::EIO));
    assert_eq!(vm.fd.value(nr::CREATE_IRQCHIP, 0), Err(Errno::ENOTTY));
    assert_eq!(vm.finalize().unwrap_err().0, Errno::EINVAL);
    assert_eq!(vm.enable(kb::KVM_CAP_X86_APIC_BUS_CYCLES_NS, 40), Err(Errno::ENXIO));
    vm.init(&InitVm::default()).unwrap();
    assert_eq!(vm.fd.value(nr::CREATE_VCPU, 0), Err(Errno::EINVAL));
    vm.enable(kb::KVM_CAP_SPLIT_IRQCHIP, 24).unwrap();
    assert_eq!(vm.enable(kb::KVM_CAP_SPLIT_IRQCHIP, 24), Err(Errno::EEXIST));
    let cpu = common::Cpu::new(&vm.fd, 0);
    assert_eq!(td::init_vcpu(&cpu, 0).unwrap_err().0, Errno::EINVAL, "no x2APIC in CPUID");
    td::set_cpuid(&cpu, &td::td_cpuid(&cpu));
    assert_eq!(cpu.run(), Err(Errno::EINVAL));
    td::init_vcpu(&cpu, 0).unwrap();
    assert_eq!(td::init_vcpu(&cpu, 0).unwrap_err().0, Errno::EINVAL);
    assert_eq!(cpu.run(), Err(Errno::EINVAL));
    assert_eq!(cpu.fd.value(nr::GET_REGS, 0), Err(Errno::EINVAL));
    assert_eq!(cpu.fd.value(nr::SMI, 0), Err(Errno::ENOTTY));
    vm.finalize().unwrap();
    assert_eq!(vm.finalize().unwrap_err().0, Errno::EINVAL);
    assert_eq!(vm.fd.value(nr::CREATE_VCPU, 1), Err(Errno::EIO));
}

#[test]
fn an_unbuilt_td_cannot_be_finalised() {
    let vm = TdVm::prepared(&td::machine());
    vm.init(&InitVm::default()).unwrap();
    let (errno, status) = vm.finalize().unwrap_err();
    assert_eq!((errno, status.code()), (Errno::EIO, abi::tdx::TdxStatus::NO_VCPUS));
    assert_eq!(vm.fd.value(nr::CHECK_EXTENSION, 0), Err(Errno::EIO));
}

#[test]
fn stack_helper_is_sound() {
    let guest = TdGuest::new(|a| {
        stack(a);
        a.mov(eax, 5u32).unwrap();
        a.push(rax).unwrap();
        a.pop(rbx).unwrap();
        report(a, rbx);
        end(a, 0);
    });
    assert_eq!(guest.reports(), (vec![5], FATAL));
}

/// A guest whose first vCPU works for a while, reports how long that took by its time stamp counter, and then
/// releases the others, which wait with PAUSE; each of those reports and ends.
fn working_while_others_wait(vcpus: u64) -> (u64, Vec<u64>) {
    const WORK: u32 = 20_000_000;
    let guest = TdGuest::with(&InitVm::default(), vcpus, |a| {
        let mut wait = a.create_label();
        let mut work = a.create_label();
        a.test(esi, esi).unwrap();
        a.jne(wait).unwrap();
        a.rdtsc().unwrap();
        a.mov(ebx, eax).unwrap();
        a.mov(edi, WORK).unwrap();
        a.set_label(&mut work).unwrap();
        a.dec(edi).unwrap();
        a.jne(work).unwrap();
        a.rdtsc().unwrap();
        a.sub(eax, ebx).unwrap();
        a.mov(dword_ptr(DATA), 1).unwrap();
        report(a, rax);
        end(a, 0);
        a.set_label(&mut wait).unwrap();
        a.pause().unwrap();
        a.cmp(dword_ptr(DATA), 1).unwrap();
        a.jne(wait).unwrap();
        report(a, rsi);
        end(a, 0);
    });
    let guest = &guest;
    let run = |cpu: usize| match guest.run_cpu(cpu) {
        Left::Report(value) => {
            assert_eq!(guest.run_cpu(cpu), FATAL);
            value
        }
        other => panic!("{other:?}"),
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..vcpus as usize).map(|cpu| scope.spawn(move || run(cpu))).collect();
        let took = run(0);
        (took, others.into_iter().map(|thread| thread.join().unwrap()).collect())
    })
}

#[test]
fn waiting_with_pause_costs_the_working_vcpu_nothing() {
    let (alone, _) = working_while_others_wait(1);
    let since = std::time::Instant::now();
    let (among, others) = working_while_others_wait(4);
    let (again, _) = working_while_others_wait(4);
    assert_eq!(others, [1, 2, 3]);
    assert!(among < alone + alone / 100, "{alone} cycles alone, {among} among others");
    assert_eq!(among, again, "the same run, the same times");
    assert!(since.elapsed().as_secs() < 10, "{:?}", since.elapsed());
}

#[test]
fn time_goes_on_while_everybody_waits() {
    for vcpus in [1, 3] {
        let guest = TdGuest::with(&InitVm::default(), vcpus, |a| {
            // All wait until a millisecond has passed.
            let mut wait = a.create_label();
            a.rdtsc().unwrap();
            a.mov(ebx, eax).unwrap();
            a.set_label(&mut wait).unwrap();
            a.pause().unwrap();
            a.rdtsc().unwrap();
            a.sub(eax, ebx).unwrap();
            a.cmp(eax, 2_000_000).unwrap();
            a.jb(wait).unwrap();
            report(a, rax);
            end(a, 0);
        });
        let guest = &guest;
        std::thread::scope(|scope| {
            for cpu in 0..vcpus as usize {
                scope.spawn(move || {
                    match guest.run_cpu(cpu) {
                        Left::Report(took) => {
                            assert!((2_000_000..3_000_000).contains(&took), "{took}");
                        }
                        other => panic!("{other:?}"),
                    }
                    assert_eq!(guest.run_cpu(cpu), FATAL);
                });
            }
        });
    }
}

fn hostile(deeds: &str, code: impl FnOnce(&mut CodeAssembler)) -> TdGuest {
    let options = softkvm::kvm::Options {
        profile: Some("xeon-spr".to_owned()),
        hostile: deeds.to_owned(),
        ..Default::default()
    };
    let machine = softkvm::kvm::Machine::new(options).unwrap();
    TdGuest::on(&machine, &InitVm::default(), 1, code)
}

#[test]
fn a_page_that_the_host_has_replaced_can_be_accepted_again_and_is_empty() {
    let guest = hostile("replace=0x100000@2", |a| {
        accept(a, FRESH, 0);
        a.mov(dword_ptr(FRESH), 0x600d).unwrap();
        report(a, rax);
        accept(a, FRESH, 0);
        report(a, rax);
        a.mov(eax, dword_ptr(FRESH)).unwrap();
        report(a, rax);
        end(a, 0);
    });
    assert_eq!(guest.reports(), (vec![0, 0, 0], FATAL));
}

#[test]
fn a_page_that_the_host_has_taken_ends_the_vm() {
    for deed in ["remove=0x100000@2", "replace=0x100000@2", "share=0x100000@2;unshare=0x100000@2"] {
        let guest = hostile(deed, |a| {
            accept(a, FRESH, 0);
            a.mov(dword_ptr(FRESH), 0x600d).unwrap();
            report(a, rax);
            a.mov(eax, dword_ptr(FRESH)).unwrap();
            end(a, 0);
        });
        assert_eq!(guest.run(), Left::Report(0));
        assert_eq!(guest.run(), Left::Failed(Errno::EIO), "{deed}");
    }
}

#[test]
fn lies_about_map_gpa_do_not_reach_user_space() {
    let guest = hostile("psc-ignore=1;psc-refuse=2;psc-retry=3", |a| {
        for _ in 0..4 {
            tdvmcall(a, &[vmcall::MAP_GPA, FRESH | SHARED, 0x1000]);
            report(a, r10);
        }
        end(a, 0);
    });
    assert_eq!(guest.reports(), (vec![0, 1 << 63, 1, 1], FATAL));
}

#[test]
fn user_space_reaches_only_what_kvm_emulates() {
    const EFER: u32 = 0xc000_0080;
    const POLL_CONTROL: u32 = 0x4b56_4d05;
    const KERNEL_GS_BASE: u32 = 0xc000_0102;
    let guest = TdGuest::new(|a| end(a, 0));
    let access = |request: u64, index: u32| {
        let mut msrs = [1u64, u64::from(index), 1];
        guest.cpus[0].fd.with(request, &mut msrs).unwrap()
    };
    for index in [EFER, POLL_CONTROL, 0x1b, 0x3a, 0x277] {
        assert_eq!(access(nr::GET_MSRS, index), 1, "{index:#x}");
    }
    assert_eq!(access(nr::GET_MSRS, KERNEL_GS_BASE), 0);
    assert_eq!(access(nr::SET_MSRS, POLL_CONTROL), 1);
    for index in [EFER, 0x1b, 0x3a, KERNEL_GS_BASE] {
        assert_eq!(access(nr::SET_MSRS, index), 0, "{index:#x}");
    }
    for request in [nr::GET_REGS, nr::GET_SREGS, nr::GET_FPU, nr::GET_LAPIC, nr::GET_XSAVE] {
        let mut buffer = [0u8; 4096];
        assert_eq!(guest.cpus[0].fd.with(request, &mut buffer), Err(Errno::EINVAL));
    }
}

#[test]
fn keys_run_out_and_come_back() {
    let machine = td::machine();
    let mut vms: Vec<TdVm> = Vec::new();
    let refused = loop {
        let vm = TdVm::bare(&machine);
        match vm.init(&InitVm::default()) {
            Ok(()) => vms.push(vm),
            Err((errno, _)) => break errno,
        }
    };
    assert_eq!((refused, vms.len()), (Errno::ENOSPC, 63));
    vms.pop();
    TdVm::bare(&machine).init(&InitVm::default()).unwrap();
}
