//! Rows 36, 38, 43 to 46, 49, 63 and 66: entry, and memory under a running guest.

use iced_x86::code_asm::*;
use kvm_bindings as kb;
use libc::{EFAULT, EINTR, EINVAL, EIO, ENOSPC};
use softkvm::kvm::{Errno, number as nr};

use crate::common::Ram;
use crate::harness::*;
use crate::interrupt::interrupting;
use crate::td::{
    self, ALIAS, DATA, FATAL, FRESH, InitVm, Left, PRIVATE, RAM, RESET_PAGE, SHARED, TdGuest, TdVm,
    accept, end, init_vcpu, report, ve_of,
};

const FAILED: fn(i32) -> Left = |errno| Left::Failed(Errno(errno));
/// KVM_MEMORY_EXIT_FLAG_PRIVATE.
const PRIVATE_ACCESS: u64 = 8;

#[test]
fn row_36_nothing_runs_before_finalize() {
    let vm = initialised();
    let (bsp, ap) = (vm.vcpu(0), vm.vcpu(1));
    assert_eq!(bsp.run(), Err(Errno(EINVAL)));
    init_vcpu(&bsp, 0).unwrap();
    assert_eq!(bsp.run(), Err(Errno(EINVAL)));
    vm.finalize().unwrap();
    // kvm_valid_regs, kvm_dirty_regs.
    for at in [288, 296] {
        bsp.put(at, &[1]);
        assert_eq!(bsp.run(), Err(Errno(EINVAL)));
        bsp.put(at, &[0]);
    }
    // A vCPU that the module does not know waits for an INIT that never comes.
    assert_eq!(interrupting(|| ap.run(), || {}), Err(Errno(EINTR)));
}

#[test]
fn row_38_every_vcpu_enters_at_the_reset_vector() {
    let at = |offset: u64| dword_ptr(DATA + offset);
    let guest = TdGuest::entering(
        &InitVm::default(),
        |a| {
            a.mov(at(0x20), ebx).unwrap();
            a.mov(at(0x24), esi).unwrap();
            a.mov(eax, cr0).unwrap();
            a.mov(at(0), eax).unwrap();
            a.mov(eax, cr4).unwrap();
            a.mov(at(8), eax).unwrap();
            a.mov(ecx, 0xc000_0080u32).unwrap();
            a.rdmsr().unwrap();
            a.mov(at(0x10), eax).unwrap();
            a.mov(at(0x14), edx).unwrap();
            a.mov(eax, cs).unwrap();
            a.mov(at(0x18), eax).unwrap();
            a.mov(eax, ss).unwrap();
            a.mov(at(0x1c), eax).unwrap();
        },
        |a| {
            for offset in [0, 8, 0x10, 0x18, 0x20] {
                a.mov(rdx, qword_ptr(DATA + offset)).unwrap();
                report(a, rdx);
            }
            end(a, 0);
        },
    );
    assert_eq!(guest.reports(), (vec![0x21, 0x40, 0x901, 0, 48], FATAL));
}

/// A finalised TD of one vCPU, and what its reset page is.
fn without_reset_page(prepare: impl FnOnce(&TdVm)) -> (TdVm, crate::common::Cpu) {
    let vm = initialised();
    prepare(&vm);
    let cpu = vm.vcpu(0);
    init_vcpu(&cpu, 0).unwrap();
    vm.finalize().unwrap();
    (vm, cpu)
}

#[test]
fn row_38_without_its_page_the_reset_vector_is_a_memory_fault() {
    let ram = Ram::new(0x1000);
    let expected = [PRIVATE_ACCESS, RESET_PAGE, 0x1000];
    // No slot; a slot that is shared.
    let (vm, cpu) = without_reset_page(|_| {});
    for private in [0, PRIVATE] {
        vm.attributes(RESET_PAGE, 0x1000, private).unwrap();
        assert_eq!(cpu.run(), Err(Errno(EFAULT)));
        assert_eq!(memory_fault(&cpu), expected);
    }
    let mut memfd = None;
    let (_vm, cpu) = without_reset_page(|vm| memfd = Some(vm.slot(0, RESET_PAGE, &ram)));
    assert_eq!(cpu.run(), Err(Errno(EFAULT)));
    assert_eq!(memory_fault(&cpu), expected);
}

#[test]
fn row_38_a_reset_page_that_was_never_added_ends_the_vm() {
    let ram = Ram::new(0x1000);
    let mut memfd = None;
    let (vm, cpu) = without_reset_page(|vm| {
        memfd = Some(vm.slot(0, RESET_PAGE, &ram));
        vm.attributes(RESET_PAGE, 0x1000, PRIVATE).unwrap();
    });
    assert_eq!(cpu.run(), Err(Errno(EIO)));
    assert_eq!(vm.fd.value(nr::CHECK_EXTENSION, 0), Err(Errno(EIO)));
}

fn touch(guest: &TdGuest) {
    assert_eq!(guest.run(), FAILED(EIO));
    assert_eq!(guest.run(), FAILED(EIO));
    assert_eq!(guest.vm.fd.value(nr::CHECK_EXTENSION, 0), Err(Errno(EIO)));
    assert_eq!(guest.cpus[0].fd.value(nr::NMI, 0), Err(Errno(EIO)));
}

#[test]
fn row_43_a_pending_page_must_not_be_touched() {
    let guest = TdGuest::new(|a| a.mov(rax, qword_ptr(FRESH)).unwrap());
    let mut range =
        abi::kvm::PreFaultMemory { gpa: FRESH, size: 0x1000, flags: 0, padding: [0; 5] };
    guest.cpus[0].fd.with(abi::kvm::KVM_PRE_FAULT_MEMORY, &mut range).unwrap();
    touch(&guest);
}

#[test]
fn row_44_nor_a_page_that_nobody_has_asked_for() {
    touch(&TdGuest::new(|a| a.mov(qword_ptr(FRESH), rax).unwrap()));
    touch(&TdGuest::new(|a| {
        a.mov(rax, FRESH).unwrap();
        a.jmp(rax).unwrap();
    }));
}

#[test]
fn row_45_acceptance_of_a_shared_page_is_a_memory_fault() {
    let guest = TdGuest::new(|a| {
        accept(a, FRESH, 0);
        report(a, rax);
        end(a, 0);
    });
    guest.vm.attributes(FRESH, 0x1000, 0).unwrap();
    for _ in 0..2 {
        assert_eq!(guest.run(), FAILED(EFAULT));
        assert_eq!(memory_fault(&guest.cpus[0]), [PRIVATE_ACCESS, FRESH, 0x1000]);
    }
    guest.vm.attributes(FRESH, 0x1000, PRIVATE).unwrap();
    assert_eq!(guest.reports(), (vec![0], FATAL));
}

#[test]
fn row_46_shared_accesses() {
    // To a private page.
    let guest = TdGuest::new(|a| {
        a.mov(rax, qword_ptr(ALIAS + PAGE)).unwrap();
        report(a, rax);
        end(a, 0);
    });
    guest.ram.put(PAGE as usize, &[7]);
    assert_eq!(guest.run(), FAILED(EFAULT));
    assert_eq!(memory_fault(&guest.cpus[0]), [0, PAGE, 0x1000]);
    guest.vm.attributes(PAGE, 0x1000, 0).unwrap();
    assert_eq!(guest.reports(), (vec![7], FATAL));
    // To a private page without slot: the attribute is what counts.
    let hole = 0x2000_0000;
    let guest = TdGuest::new(|a| a.mov(rax, qword_ptr(ALIAS + hole)).unwrap());
    guest.vm.attributes(hole, 0x1000, PRIVATE).unwrap();
    assert_eq!(guest.run(), FAILED(EFAULT));
    assert_eq!(memory_fault(&guest.cpus[0]), [0, hole, 0x1000]);
    // To nothing: the guest is told, not user space.
    let ve = ve_of(|a| a.mov(rax, qword_ptr(ALIAS + hole + 8)).unwrap());
    assert_eq!([ve[0], ve[3]], [48, (hole + 8) | SHARED]);
}

#[test]
fn row_49_conversion_loses_contents() {
    let guest = TdGuest::new(|a| {
        accept(a, FRESH, 0);
        a.mov(dword_ptr(FRESH), 0x5ec2e7).unwrap();
        report(a, rax);
        a.mov(eax, dword_ptr(ALIAS + FRESH)).unwrap();
        report(a, rax);
        accept(a, FRESH, 0);
        report(a, rax);
        a.mov(eax, dword_ptr(FRESH)).unwrap();
        report(a, rax);
        a.mov(dword_ptr(FRESH), 1).unwrap();
        report(a, rax);
        a.mov(eax, dword_ptr(FRESH)).unwrap();
        report(a, rax);
        end(a, 0);
    });
    assert_eq!(guest.run(), Left::Report(0));
    guest.vm.attributes(FRESH, 0x1000, 0).unwrap();
    assert_eq!(guest.run(), Left::Report(0), "the shared half is other memory");
    guest.vm.attributes(FRESH, 0x1000, PRIVATE).unwrap();
    assert_eq!([next_report(&guest), next_report(&guest)], [0, 0]);
    assert_eq!(guest.run(), Left::Report(0));
    // What is private stays as it is when it is set to private again, even together with what was not.
    guest.vm.attributes(FRESH - 0x1000, 0x1000, 0).unwrap();
    guest.vm.attributes(FRESH - 0x1000, 0x2000, PRIVATE).unwrap();
    assert_eq!(guest.reports(), (vec![1], FATAL));
}

#[test]
fn row_63_a_triple_fault_is_final_for_the_vcpu() {
    let guest = TdGuest::new(|a| a.ud2().unwrap());
    assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_SHUTDOWN));
    assert_eq!(guest.run(), Left::Exit(kb::KVM_EXIT_INTERNAL_ERROR));
    assert_eq!(guest.vm.fd.value(nr::CHECK_EXTENSION, 0), Ok(1), "the VM lives");
}

#[test]
fn row_63_code_in_shared_memory_ends_the_vm() {
    let guest = TdGuest::new(|a| {
        a.mov(rax, ALIAS + PAGE).unwrap();
        a.jmp(rax).unwrap();
    });
    guest.vm.attributes(PAGE, 0x1000, 0).unwrap();
    guest.ram.put(PAGE as usize, &[0xeb, 0xfe]);
    assert_eq!(guest.run(), FAILED(EIO));
    assert_eq!(guest.vm.fd.value(nr::CHECK_EXTENSION, 0), Err(Errno(EIO)));
}

#[test]
fn row_66_the_end_of_a_vm_gives_back_its_key() {
    let machine = machine_with("hkids = 63", "hkids = 1");
    let secret = 0x5ec2_e75e_c2e7_5ec2u64;
    for _ in 0..2 {
        let guest = TdGuest::on(&machine, &InitVm::default(), 1, |a| {
            a.mov(rax, secret).unwrap();
            a.mov(qword_ptr(DATA), rax).unwrap();
            end(a, 0);
        });
        assert_eq!(guest.run(), FATAL);
        // The memory at the slot's user address is other memory.
        assert!(guest.ram.get(0, RAM).iter().all(|byte| *byte == 0));
        let another = || TdVm::prepared(&machine).init(&InitVm::default());
        assert_eq!(errno(another()), ENOSPC);
        let td::TdGuest { vm, cpus, .. } = guest;
        // A vCPU's descriptor keeps its VM.
        drop(vm);
        assert_eq!(errno(another()), ENOSPC);
        drop(cpus);
        assert_eq!(another(), Ok(()));
    }
}
