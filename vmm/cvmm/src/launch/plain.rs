//! The launch of an unprotected guest: the same plan, written to memory.

use super::{
    Guest, GuestMemory, Planning, Services, create_vcpus, ranges, serial_interrupt, set_cpuid,
    write_staged,
};
use crate::config::Config;
use crate::device::acpi_pm;
use crate::error::Error;
use crate::ledger::Ledger;
use crate::plan::layout::Range;
use crate::plan::{Plan, Technology};
use crate::recorder::{Op, Recorder};
use crate::sys::memory::GuestRam;
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

/// What is written beside the plan's pages: without a firmware, what answers a reset.
pub(super) fn written(plan: &Plan) -> Option<Range> {
    let len = RESET_CODE.len() as u64;
    let ours = plan.firmware.is_none() && plan.technology == Technology::Plain;
    ours.then_some(Range { gpa: RESET_VECTOR, len })
}

pub(super) fn launch(
    config: &Config,
    planning: Planning,
    system: &System,
    recorder: &mut Recorder,
) -> Result<(Guest, Plan), Error> {
    let vm = system.create_vm(recorder, VM_TYPE_DEFAULT)?;
    let (slots, planning) = planning.plain_slots(system, recorder)?;
    // Memory first: a slot waits for the readers of the table it replaces, and while those of the interrupt controllers are
    // waited for as well, that takes a tick of the kernel's clock (Linux 7.2 virt/kvm/kvm_main.c kvm_swap_active_memslots).
    let ram = GuestRam::map(recorder, &ranges(&slots))?;
    for (slot, region) in ram.regions().iter().enumerate() {
        vm.set_plain_region(recorder, slot as u32, region)?;
    }
    // Which processors need it, the plan would know; for the others KVM does nothing.
    vm.set_tss_address(recorder)?;
    vm.create_irqchip(recorder)?;
    let serial_interrupt = serial_interrupt(&vm, recorder)?;
    let (vcpus, stats) = create_vcpus(config.cpus, &vm, recorder)?;

    let staged = planning.staged(recorder);
    if let Some(staged) = &staged {
        write_staged(staged, &ram, recorder)?;
    }
    let plan = planning.finish(system, recorder)?;
    for region in &plan.regions {
        recorder.record(Op::CopyIn, region.tag, region.bytes.len() as u64, || {
            ram.write(region.gpa, &region.bytes)
        })?;
    }
    if staged.is_none() {
        write_staged(&plan.staged, &ram, recorder)?;
    }
    if written(&plan).is_some() {
        ram.write(RESET_VECTOR, &RESET_CODE)?;
    }
    for vcpu in &vcpus {
        set_cpuid(vcpu, &plan.cpuid, recorder)?;
        vcpu.enable_mtrrs(recorder)?;
        // The others wait for INIT and SIPI, as on a real machine.
        if vcpu.id() == 0 {
            vcpu.set_sregs(recorder, &plan.boot.sregs)?;
            vcpu.set_regs(recorder, &plan.boot.regs)?;
        }
    }
    let guest = Guest {
        vcpus,
        vm,
        serial_interrupt,
        memory: GuestMemory { ram, private: Vec::new(), written: Vec::new(), _sev: None },
        ledger: Ledger::of_launch(&plan, recorder.events()),
        services: Services::default(),
        stats,
        prefaulted: None,
    };
    Ok((guest, plan))
}
