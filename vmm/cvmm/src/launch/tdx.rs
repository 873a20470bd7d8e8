//! The launch of a TD, in the order that Linux 7.2 arch/x86/kvm/vmx/tdx.c takes: the leaves of a vCPU before INIT_VCPU,
//! which insists on x2APIC (Documentation/virt/kvm/x86/intel-tdx.rst has them the other way round). No thread starts before
//! the guest is sealed: a vCPU inside KVM_RUN makes every one of these calls wait for it.

use abi::tdx::{TdAttributes, Xfam};

use super::{
    Guest, GuestMemory, Planning, Services, TdServices, check_digest, create_vcpus, guarded_memory,
    measure_and_stage, not_offered, serial_interrupt, set_cpuid,
};
use crate::config::tdx::TdxConfig;
use crate::config::{Config, CpuCount};
use crate::device::ioapic;
use crate::digest::tdx::measured;
use crate::error::Error;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::recorder::Recorder;
use crate::sys::SysError;
use crate::sys::memory::AlignedPages;
use crate::sys::system::{Capability, System};
use crate::sys::tdx::{self, Capabilities, InitParams, RegionParams, VM_TYPE_TDX};
use crate::sys::vm::Vm;

/// The local APIC timer's period: CPUID leaf 0x15 tells a TD of a crystal of 25 MHz, and Linux believes it.
const APIC_BUS_CYCLE_NS: u64 = 40;
/// A TD's TSC runs at a multiple of 25 MHz (ABI specification, TD_PARAMS.TSC_FREQUENCY).
const TSC_UNIT_KHZ: u32 = 25_000;

/// What such a guest's launch insists on beside the VM type.
pub const CAPABILITIES: [Capability; 6] = [
    Capability::SPLIT_IRQCHIP,
    Capability::APIC_BUS_CYCLES_NS,
    Capability::GUEST_MEMFD,
    Capability::MEMORY_ATTRIBUTES,
    Capability::USER_MEMORY2,
    Capability::EXIT_HYPERCALL,
];

/// Insists on TDX.
pub(super) fn require(system: &System, recorder: &mut Recorder) -> Result<(), SysError> {
    if system.check(recorder, Capability::VM_TYPES)? & 1 << VM_TYPE_TDX == 0 {
        return Err(not_offered(
            "its KVM does not offer TDX guests",
            "use a Xeon of the 4th generation or newer with TDX enabled in BIOS and Linux 6.16 or newer, booted with \
             kvm_intel.tdx=1 and nohibernate (`dmesg | grep -i tdx` says what is missing), or add --emulate for a guest \
             that is not confidential",
        ));
    }
    for capability in CAPABILITIES {
        system.require(recorder, capability)?;
    }
    Ok(())
}

pub(super) fn launch(
    run: &Config,
    config: &TdxConfig,
    planning: Planning,
    system: &System,
    recorder: &mut Recorder,
) -> Result<(Guest, Plan), Error> {
    let vm = system.create_vm(recorder, VM_TYPE_TDX)?;
    check_vcpus(&vm, run.cpus)?;
    vm.enable_exit_hypercall(recorder)?;
    vm.split_irqchip(recorder, u64::from(ioapic::PINS))?;
    vm.set_apic_bus_cycle(recorder, APIC_BUS_CYCLE_NS)?;
    let khz = vm.tsc_khz(recorder)?;
    if khz % TSC_UNIT_KHZ != 0 {
        // KVM would round for the module and go on with the odd value itself.
        vm.set_tsc_khz(recorder, khz - khz % TSC_UNIT_KHZ)?;
    }
    let serial_interrupt = serial_interrupt(&vm, recorder)?;

    let offered = tdx::capabilities(recorder, &vm)?;
    check_attributes(config.attributes, &offered)?;
    let xfam = choose_xfam(offered.xfam);
    let plan = planning.finish(system, recorder)?;
    let init = InitParams {
        attributes: config.attributes,
        xfam,
        mrconfigid: config.mrconfigid,
        mrowner: config.mrowner,
        mrownerconfig: config.mrownerconfig,
        cpuid: &plan.cpuid.configure(&offered.configurable),
    };
    tdx::init_vm(recorder, &vm, &init)?;

    let (vcpus, stats) = create_vcpus(plan.cpus, &vm, recorder)?;
    let Some(first) = vcpus.first() else { return Err(no_vcpu().into()) };
    let cpuid = plan.cpuid.for_td_vcpus(&tdx::get_cpuid(recorder, first)?);
    for vcpu in &vcpus {
        set_cpuid(vcpu, &cpuid, recorder)?;
    }
    let memory_list = plan.firmware.as_ref().map_or(0, |firmware| firmware.memory_list);
    // In this order the module's index of a vCPU, which the shim sees in ESI, is its APIC id.
    for vcpu in &vcpus {
        tdx::init_vcpu(recorder, &vm, vcpu, memory_list)?;
    }

    let (ram, private) = guarded_memory(&plan, &vm, recorder)?;

    let prefaulted = measure_and_stage(run, &plan, (&ram, &private), recorder, |recorder| {
        for region in &plan.regions {
            let mut source = AlignedPages::copy_of(&region.bytes);
            let params =
                RegionParams { gpa: region.gpa, measured: measured(region.kind), tag: region.tag };
            tdx::init_mem_region(recorder, &vm, first, params, source.bytes_mut())?;
        }
        Ok(())
    })?;
    check_digest(run.expect.as_ref(), &plan)?;
    tdx::finalize_vm(recorder, &vm)?;
    let guest = Guest {
        vcpus,
        vm,
        serial_interrupt,
        memory: GuestMemory { ram, private, written: Vec::new(), _sev: None },
        ledger: Ledger::of_launch(&plan, recorder.events()),
        services: Services {
            td: Some(TdServices {
                xfam,
                optional_calls: offered.optional_calls,
                quote: config.quote.clone(),
            }),
            ..Services::default()
        },
        stats,
        prefaulted,
    };
    Ok((guest, plan))
}

fn no_vcpu() -> SysError {
    SysError::Missing { what: "a TD needs a vCPU".into(), cure: "give --cpus 1 or more" }
}

/// A TD may have as many vCPUs as the host has processors.
fn check_vcpus(vm: &Vm, cpus: CpuCount) -> Result<(), SysError> {
    let (wanted, max) = (usize::from(cpus.get()), vm.max_vcpus()?);
    if wanted <= max {
        return Ok(());
    }
    Err(SysError::Missing {
        what: format!("its KVM gives a TD at most {max} vCPUs, not {wanted}"),
        cure: "give fewer --cpus",
    })
}

fn check_attributes(wanted: TdAttributes, offered: &Capabilities) -> Result<(), SysError> {
    let missing = TdAttributes(wanted.0 & !offered.attributes.0);
    if missing.0 == 0 {
        return Ok(());
    }
    let names: Vec<&str> = TdAttributes::NAMES
        .iter()
        .filter(|(bit, _)| missing.contains(*bit))
        .map(|(_, name)| *name)
        .collect();
    Err(SysError::Missing {
        what: format!("its KVM gives no TD the attributes {}", names.join(", ")),
        cure: "leave them out of --tdx=attributes=…",
    })
}

/// What a guest is given of what it could have: the vector states and protection keys. A TD's XFAM is attested, so that it
/// is the same on hosts that differ in the rest is worth more than the rest.
fn choose_xfam(offered: Xfam) -> Xfam {
    let mut chosen = Xfam::FIXED1.0;
    for group in [Xfam::AVX, Xfam::PKRU] {
        chosen |= offered.0 & group.0;
    }
    // All or none, and only with AVX (Base Architecture specification, "XFAM").
    if offered.0 & Xfam::AVX512.0 == Xfam::AVX512.0 && chosen & Xfam::AVX.0 != 0 {
        chosen |= Xfam::AVX512.0;
    }
    Xfam(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_features_are_taken_whole_or_not_at_all() {
        let choose = |bits| choose_xfam(Xfam(bits)).0;
        assert_eq!(choose(3), 3);
        assert_eq!(choose(0x602e7), 0x2e7, "neither AMX nor what is not offered");
        assert_eq!(choose(0x0e3), 3, "AVX-512 without AVX");
        assert_eq!(choose(0x067), 7, "half of AVX-512");
        assert_eq!(choose(0x1907), 7, "neither processor trace nor CET");
    }
}
