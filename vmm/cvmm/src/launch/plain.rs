//! The launch of an unprotected guest: the same plan, written to memory.

use super::{Guest, GuestMemory, Services, create_vcpu, ranges, serial_interrupt, write_staged};
use crate::device::acpi_pm;
use crate::error::Error;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::recorder::{Op, Recorder};
use crate::sys::memory::GuestRam;
use crate::sys::stats::AllStats;
use crate::sys::system::System;

/// Where a PC's processor starts after a reset. Linux without EFI on hardware-reduced ACPI restarts by jumping there
/// (arch/x86/kernel/reboot.c: BOOT_EFI, then BOOT_BIOS), unless `reboot=a` is on its command line.
const RESET_VECTOR: u64 = 0xf_fff0;

/// Real-mode code for it: `mov dx, RESET_PORT; mov al, RESET_VALUE; out dx, al; hlt`.
const RESET_CODE: [u8; 7] = {
    let [low, high] = acpi_pm::RESET_PORT.to_le_bytes();
    [0xba, low, high, 0xb0, acpi_pm::RESET_VALUE, 0xee, 0xf4]
};

/// KVM_X86_DEFAULT_VM.
const VM_TYPE_DEFAULT: u64 = 0;

pub(super) fn launch(
    plan: &Plan,
    system: &System,
    recorder: &mut Recorder,
) -> Result<Guest, Error> {
    let vm = system.create_vm(recorder, VM_TYPE_DEFAULT)?;
    // Memory first: a slot waits for the readers of the table it replaces, and while those of the interrupt controllers are
    // waited for as well, that takes a tick of the kernel's clock (Linux 7.2 virt/kvm/kvm_main.c kvm_swap_active_memslots).
    let ram = GuestRam::map(recorder, &ranges(plan))?;
    for (slot, region) in ram.regions().iter().enumerate() {
        vm.set_plain_region(recorder, slot as u32, region)?;
    }
    if plan.cpuid.is_intel() {
        vm.set_tss_address(recorder)?;
    }
    vm.create_irqchip(recorder)?;
    let serial_interrupt = serial_interrupt(&vm, recorder)?;

    for region in &plan.regions {
        recorder.record(Op::CopyIn, region.tag, region.bytes.len() as u64, || {
            ram.write(region.gpa, &region.bytes)
        })?;
    }
    write_staged(plan, &ram, recorder)?;
    if plan.firmware.is_none() {
        ram.write(RESET_VECTOR, &RESET_CODE)?;
    }

    let mut vcpus = Vec::new();
    for id in 0..plan.cpus.get() {
        let vcpu = create_vcpu(plan, &vm, id, recorder)?;
        vcpu.enable_mtrrs(recorder)?;
        // The others wait for INIT and SIPI, as on a real machine.
        if id == 0 {
            vcpu.set_sregs(recorder, &plan.boot.sregs)?;
            vcpu.set_regs(recorder, &plan.boot.regs)?;
        }
        vcpus.push(vcpu);
    }
    Ok(Guest {
        vcpus,
        vm,
        serial_interrupt,
        memory: GuestMemory { ram, private: Vec::new(), _sev: None },
        ledger: Ledger::of_launch(plan, recorder.events()),
        services: Services::default(),
        stats: AllStats::default(),
    })
}
