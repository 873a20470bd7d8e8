//! Writes that user space hears of otherwise: coalesced ones, eventfds.
#![allow(unsafe_code)]

use kvm_bindings as kb;
use softkvm::kvm::{Errno, front, number as nr};

use crate::common::{Cpu, vm};
use crate::{expect, guest};

/// The ring, as a mapping of the vCPU's third page shows it.
fn ring(cpu: &Cpu) -> Vec<u8> {
    let fd = front().coalesced_ring(cpu.fd.0).unwrap();
    let mut page = vec![0; 4096];
    // SAFETY: reads into a buffer of that size.
    let got = unsafe { libc::pread(fd, page.as_mut_ptr().cast(), page.len(), 0) };
    assert_eq!(got, 4096);
    page
}

#[test]
fn coalesced_writes_wait_in_the_ring_until_it_is_full() {
    // mov cx, 200; out 0x80, al; inc al; loop; hlt
    let (vm, _ram, cpu) = guest(&[0xb9, 200, 0, 0xe6, 0x80, 0xfe, 0xc0, 0xe2, 0xfa, 0xf4]);
    let mut zone = [0x80u64, 1 | 1 << 32];
    vm.with(nr::REGISTER_COALESCED_MMIO, &mut zone).unwrap();
    // 170 entries, of which one stays free.
    expect(&cpu, kb::KVM_EXIT_IO);
    assert_eq!(cpu.read::<1>(4096), [169]);
    let page = ring(&cpu);
    assert_eq!(page[..8], [0, 0, 0, 0, 169, 0, 0, 0]);
    let entry = &page[8 + 24 * 7..8 + 24 * 8];
    assert_eq!(entry[..17], [0x80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7]);
    vm.with(nr::UNREGISTER_COALESCED_MMIO, &mut zone).unwrap();
    expect(&cpu, kb::KVM_EXIT_IO);
    assert_eq!(cpu.read::<1>(4096), [170]);
}

#[test]
fn coalesced_zones_are_memory_or_ports() {
    let (vm, ..) = guest(&[]);
    let mut zone = [0x80u64, 1 | 2 << 32];
    assert_eq!(vm.with(nr::REGISTER_COALESCED_MMIO, &mut zone), Err(Errno::EINVAL));
}

#[test]
fn an_eventfd_interrupts_by_one_gsi_of_one_vm() {
    // SAFETY: a plain system call.
    let event = crate::common::Fd(unsafe { libc::eventfd(0, 0) });
    let machine = crate::common::machine();
    let vms = [0, 1].map(|_| crate::common::vm_on(&machine, 0));
    for vm in &vms {
        vm.value(nr::CREATE_IRQCHIP, 0).unwrap();
    }
    let irqfd = |vm: usize, gsi, flags| {
        let mut request = kb::kvm_irqfd { fd: event.0 as u32, gsi, flags, ..Default::default() };
        vms[vm].with(nr::IRQFD, &mut request)
    };
    assert_eq!(irqfd(0, 10, 0), Ok(0));
    assert_eq!((irqfd(0, 11, 0), irqfd(1, 12, 0)), (Err(Errno::EBUSY), Err(Errno::EBUSY)));
    assert_eq!(irqfd(0, 11, 1), Ok(0), "taking away what is not there");
    assert_eq!((irqfd(0, 10, 1), irqfd(1, 12, 0)), (Ok(0), Ok(0)));
    let vm = vm(0);
    vm.value(nr::CREATE_IRQCHIP, 0).unwrap();
    let mut request = kb::kvm_irqfd { fd: 9999, flags: 1, ..Default::default() };
    assert_eq!(vm.with(nr::IRQFD, &mut request), Err(Errno::EBADF));
}
