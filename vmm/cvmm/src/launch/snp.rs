//! The launch of an SEV-SNP guest, in the order of the kernel's documentation
//! (Linux 7.2 Documentation/virt/kvm/x86/amd-memory-encryption.rst). No thread starts before the guest is sealed.

use super::{
    Guest, GuestMemory, Planning, Services, check_digest, create_vcpus, guarded_memory,
    measure_and_stage, not_offered, serial_interrupt, set_cpuid,
};
use crate::config::Config;
use crate::config::snp::SnpConfig;
use crate::digest::snp::{launch_digest, page_type};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::plan::{LaunchRegion, PageKind, Plan, cpuid};
use crate::recorder::Recorder;
use crate::sys::SysError;
use crate::sys::memory::AlignedPages;
use crate::sys::sev_status::FirmwareStatus;
use crate::sys::snp::{self, FinishParams, SevDevice, UpdateParams, VM_TYPE_SNP};
use crate::sys::system::{Capability, System};
use crate::sys::vm::Vm;

/// What such a guest's launch insists on beside the VM type.
pub const CAPABILITIES: [Capability; 3] =
    [Capability::GUEST_MEMFD, Capability::USER_MEMORY2, Capability::EXIT_HYPERCALL];

/// Insists on SEV-SNP.
pub(super) fn require(system: &System, recorder: &mut Recorder) -> Result<(), SysError> {
    if system.check(recorder, Capability::VM_TYPES)? & 1 << VM_TYPE_SNP == 0 {
        return Err(not_offered(
            "its KVM does not offer SEV-SNP guests",
            "use an EPYC 7003 or newer with SEV-SNP enabled in BIOS and Linux 6.11 or newer (`dmesg | grep -i sev` says \
             what is missing), or add --emulate for a guest that is not confidential",
        ));
    }
    for capability in CAPABILITIES {
        system.require(recorder, capability)?;
    }
    Ok(())
}

pub(super) fn launch(
    run: &Config,
    config: &SnpConfig,
    planning: Planning,
    system: &System,
    recorder: &mut Recorder,
) -> Result<(Guest, Plan), Error> {
    let sev = SevDevice::open(recorder)?;
    let vm = system.create_vm(recorder, VM_TYPE_SNP)?;
    vm.enable_exit_hypercall(recorder)?;
    vm.create_irqchip(recorder)?;
    snp::init2(recorder, &vm, &sev, config.vmsa_features())?;
    if config.certs.is_some() {
        snp::enable_certificate_exit(recorder, &vm, &sev)?;
    }
    let serial_interrupt = serial_interrupt(&vm, recorder)?;

    let plan = planning.finish(system, recorder)?;
    let (ram, private) = guarded_memory(&plan, &vm, recorder)?;

    let (vcpus, stats) = create_vcpus(plan.cpus, &vm, recorder)?;
    for vcpu in &vcpus {
        let id = vcpu.id();
        set_cpuid(vcpu, &plan.cpuid, recorder)?;
        vcpu.enable_mtrrs(recorder)?;
        vcpu.set_sregs(recorder, &plan.registers(id).sregs)?;
        vcpu.set_regs(recorder, &plan.registers(id).regs)?;
        if id != 0 && plan.firmware.is_none() {
            // Waiting for AP_CREATION. An AP that waits for SIPI instead never sees the request, and its KVM_RUN
            // returns EAGAIN for ever (Linux 7.2 arch/x86/kvm/x86.c kvm_arch_vcpu_ioctl_run).
            vcpu.set_halted(recorder)?;
        }
    }

    snp::launch_start(recorder, &vm, &sev, config.policy.0)?;
    let prefaulted = measure_and_stage(run, &plan, (&ram, &private), recorder, |recorder| {
        Ok(plan.regions.iter().try_for_each(|region| add_region(recorder, &vm, &sev, region))?)
    })?;
    check_digest(run.expect.as_ref(), &plan)?;
    let finish = FinishParams {
        host_data: config.host_data,
        id_block: config.id_block.as_ref().map(|id| (&*id.block, &*id.auth)),
        author_key: config.id_block.as_ref().is_some_and(|id| id.has_author_key()),
    };
    snp::launch_finish(recorder, &vm, &sev, &finish)
        .map_err(|error| blame(error, config, &plan))?;
    let guest = Guest {
        vcpus,
        vm,
        serial_interrupt,
        memory: GuestMemory { ram, private, written: Vec::new(), _sev: Some(sev) },
        ledger: Ledger::of_launch(&plan, recorder.events()),
        services: Services { certs: config.certs.clone(), ..Services::default() },
        stats,
        prefaulted,
    };
    Ok((guest, plan))
}

/// An ID block for our own digest that the firmware finds wrong means that it has measured other pages.
fn blame(error: SysError, config: &SnpConfig, plan: &Plan) -> SysError {
    match (&error, &config.id_block) {
        (SysError::Launch { status: FirmwareStatus::BAD_MEASUREMENT, .. }, Some(id))
            if id.block[..48] == launch_digest(plan).0 =>
        {
            SysError::PagesChanged { status: FirmwareStatus::BAD_MEASUREMENT }
        }
        _ => error,
    }
}

/// Adds a region from a page-aligned copy. A CPUID page that the firmware would change is a failure, never accepted in
/// silence: it is not measured, so nobody would notice.
fn add_region(
    recorder: &mut Recorder,
    vm: &Vm,
    sev: &SevDevice,
    region: &LaunchRegion,
) -> Result<(), SysError> {
    let LaunchRegion { gpa, kind, bytes, tag } = region;
    let mut source = AlignedPages::copy_of(bytes);
    let params = UpdateParams { gpa: *gpa, page_type: page_type(*kind).0, tag };
    match snp::launch_update(recorder, vm, sev, params, source.bytes_mut()) {
        Err(SysError::Launch { status: FirmwareStatus::INVALID_PARAM, .. })
            if *kind == PageKind::Cpuid =>
        {
            Err(SysError::CpuidRefused {
                gpa: *gpa,
                differences: cpuid::differences(bytes, source.bytes_mut()),
            })
        }
        result => result,
    }
}
