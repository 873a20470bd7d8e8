//! The launch commands of a TD: KVM_MEMORY_ENCRYPT_OP on the VM and on its vCPUs.
//!
//! Layouts: [`abi::kvm_tdx`]; order of checks and errno values: Linux 7.2 arch/x86/kvm/vmx/tdx.c. kvm-bindings 0.14 has
//! none of it, and kvm-ioctls 0.25 has the request for VMs only.
//!
//! UNSAFETY: commands carry addresses of structures of ours, and of pages that KVM reads.
#![allow(unsafe_code)]

use std::io;

use abi::kvm::KVM_MEMORY_ENCRYPT_OP;
pub use abi::kvm_tdx::KVM_X86_TDX_VM as VM_TYPE_TDX;
use abi::kvm_tdx::{
    CpuidEntry, CpuidHeader, MEASURE_MEMORY_REGION, TdxCapabilities, TdxCmd, TdxInitMemRegion,
    TdxInitVm, cmd,
};
use abi::tdx::{TdAttributes, TdxStatus, Xfam};
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use zerocopy::FromZeros;

use super::SysError;
use super::target::{LaunchPages, Target};
use super::vcpu::Vcpu;
use super::vm::Vm;
use crate::plan::cpuid::CpuidRow;
use crate::recorder::{Op, Recorder};

/// The most entries that KVM takes in one table (KVM_MAX_CPUID_ENTRIES).
const ENTRIES_MAX: usize = 256;
/// Room that the first question brings; KVM does not say how much it needs, so it is doubled until it suffices.
const ENTRIES_FIRST: usize = 8;

/// What the host's TDX module and KVM let a TD have.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Attributes.
    pub attributes: TdAttributes,
    /// Extended features.
    pub xfam: Xfam,
    /// GetTdVmCallInfo, leaf 1, R11: the optional calls that user space may offer.
    pub optional_calls: u64,
    /// The CPUID bits that can be chosen.
    pub configurable: Vec<CpuidRow>,
}

/// What INIT_VM fixes.
#[derive(Clone, Debug)]
pub struct InitParams<'a> {
    /// Attributes.
    pub attributes: TdAttributes,
    /// Extended features.
    pub xfam: Xfam,
    /// Identifiers, as TDREPORT has them.
    pub mrconfigid: [u8; 48],
    /// See above.
    pub mrowner: [u8; 48],
    /// See above.
    pub mrownerconfig: [u8; 48],
    /// Values of configurable CPUID bits.
    pub cpuid: &'a [CpuidRow],
}

/// A structure whose table of leaves follows it, in memory as KVM reads and writes it.
#[repr(C)]
struct WithEntries<H> {
    head: H,
    entries: [CpuidEntry; ENTRIES_MAX],
}

const _: () = assert!(
    size_of::<WithEntries<TdxCapabilities>>()
        == size_of::<TdxCapabilities>() + ENTRIES_MAX * size_of::<CpuidEntry>()
);
const _: () = assert!(
    size_of::<WithEntries<TdxInitVm>>()
        == size_of::<TdxInitVm>() + ENTRIES_MAX * size_of::<CpuidEntry>()
);
const _: () = assert!(size_of::<kvm_cpuid_entry2>() == size_of::<CpuidEntry>());

impl<H: FromZeros> WithEntries<H> {
    fn zeroed() -> Box<WithEntries<H>> {
        Box::new(WithEntries {
            head: H::new_zeroed(),
            entries: [CpuidEntry::default(); ENTRIES_MAX],
        })
    }

    /// The entries that KVM says it has filled.
    fn filled(&self, count: u32) -> &[CpuidEntry] {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        &self.entries[..count.min(ENTRIES_MAX)]
    }
}

fn on_vm(vm: &Vm, id: u32, data: u64) -> (io::Result<()>, TdxStatus) {
    let mut command = TdxCmd { id, data, ..TdxCmd::default() };
    // SAFETY: `command` has the kernel's layout, and `data` is 0 or the address of a structure that `id` calls for, valid
    // for reads and writes for the duration of the call; every caller in this file has just made it.
    let result = unsafe { vm.fd().encrypt_op(&mut command) }.map_err(io::Error::from);
    (result, command.hw_error)
}

fn on_vcpu(vcpu: &Vcpu, id: u32, flags: u32, data: u64) -> io::Result<()> {
    let mut command = TdxCmd { id, flags, data, ..TdxCmd::default() };
    // SAFETY: as in `on_vm`. KVM reads the pages that INIT_MEM_REGION names, and does not keep them.
    match unsafe { ioctl_with_mut_ref(vcpu.fd(), KVM_MEMORY_ENCRYPT_OP, &mut command) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn check(
    (result, status): (io::Result<()>, TdxStatus),
    command: &'static str,
    target: impl FnOnce() -> Target,
) -> Result<(), SysError> {
    result.map_err(|source| SysError::TdLaunch { command, target: target(), source, status })
}

fn too_small(result: &io::Result<()>) -> bool {
    matches!(result, Err(e) if e.raw_os_error() == Some(libc::E2BIG))
}

/// KVM_TDX_CAPABILITIES.
///
/// # Errors
/// The ioctl's.
pub fn capabilities(recorder: &mut Recorder, vm: &Vm) -> Result<Capabilities, SysError> {
    let mut request = WithEntries::<TdxCapabilities>::zeroed();
    let answer = recorder.record(Op::SecurityInit, "KVM_TDX_CAPABILITIES", 0, || {
        let mut room = ENTRIES_FIRST;
        loop {
            request.head.cpuid = CpuidHeader { nent: room as u32, padding: 0 };
            let answer = on_vm(vm, cmd::CAPABILITIES, std::ptr::from_mut(&mut *request) as u64);
            if !too_small(&answer.0) || room >= ENTRIES_MAX {
                return answer;
            }
            room *= 2;
        }
    });
    check(answer, "KVM_TDX_CAPABILITIES", || Target::Whole)?;
    let configurable = request.filled(request.head.cpuid.nent).iter().map(|entry| CpuidRow {
        function: entry.function,
        index: Some(entry.index),
        out: [entry.eax, entry.ebx, entry.ecx, entry.edx],
    });
    Ok(Capabilities {
        attributes: request.head.supported_attrs,
        xfam: request.head.supported_xfam,
        optional_calls: request.head.user_tdvmcallinfo_1_r11,
        configurable: configurable.collect(),
    })
}

/// How often INIT_VM is repeated where the processor has run out of entropy.
const ENTROPY_TRIES: u32 = 16;

/// KVM_TDX_INIT_VM: gives the TD its key and fixes what it is.
///
/// # Errors
/// No key is left, the module refuses a parameter, or the host the call.
pub fn init_vm(recorder: &mut Recorder, vm: &Vm, params: &InitParams) -> Result<(), SysError> {
    let mut request = WithEntries::<TdxInitVm>::zeroed();
    request.head.attributes = params.attributes;
    request.head.xfam = params.xfam;
    request.head.mrconfigid = params.mrconfigid;
    request.head.mrowner = params.mrowner;
    request.head.mrownerconfig = params.mrownerconfig;
    let count = params.cpuid.len();
    if count > ENTRIES_MAX {
        // KVM's own check, before our buffer's end.
        let source = io::Error::from_raw_os_error(libc::E2BIG);
        return check((Err(source), TdxStatus::SUCCESS), "KVM_TDX_INIT_VM", || Target::Whole);
    }
    request.head.cpuid.nent = count as u32;
    for (entry, row) in request.entries.iter_mut().zip(params.cpuid) {
        let [eax, ebx, ecx, edx] = row.out;
        *entry = CpuidEntry {
            function: row.function,
            index: row.index.unwrap_or(0),
            // Always: without it KVM takes the first row of a leaf for each of its subleaves (Linux 7.2
            // arch/x86/kvm/cpuid.c kvm_find_cpuid_entry2).
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx,
            edx,
            padding: [0; 3],
        };
    }
    let answer = recorder.record_both(
        Op::SecurityInit,
        "KVM_TDX_INIT_VM",
        0,
        || vm.clock(),
        || {
            let mut tries = ENTROPY_TRIES;
            loop {
                let answer = on_vm(vm, cmd::INIT_VM, std::ptr::from_mut(&mut *request) as u64);
                let again = matches!(&answer.0, Err(e) if e.raw_os_error() == Some(libc::EAGAIN));
                tries -= 1;
                if !again || tries == 0 {
                    return answer;
                }
            }
        },
    );
    match (answer, "KVM_TDX_INIT_VM") {
        ((Err(source), _), command) if source.raw_os_error() == Some(libc::ENOSPC) => {
            Err(SysError::NoneLeft {
                what: "private KeyID for a TDX guest",
                command,
                source,
                cure: "stop another TDX guest, or give TDX more KeyIDs in the BIOS (the misc cgroup's misc.capacity tells how \
                   many there are)",
            })
        }
        ((Err(source), _), command) if source.raw_os_error() == Some(libc::EBUSY) => {
            Err(SysError::NoneLeft {
                what: "place for a TDX guest in the misc cgroup",
                command,
                source,
                cure: "stop another TDX guest, or give the misc cgroup a higher tdx limit",
            })
        }
        (answer, command) => check(answer, command, || {
            let (attributes, xfam) = (params.attributes.0, params.xfam.0);
            Target::Words(format!("for attributes {attributes:#x} and XFAM {xfam:#x}"))
        }),
    }
}

/// KVM_TDX_GET_CPUID: the leaves as the module shows them to the guest.
///
/// # Errors
/// The ioctl's.
pub fn get_cpuid(recorder: &mut Recorder, vcpu: &Vcpu) -> Result<Vec<kvm_cpuid_entry2>, SysError> {
    let mut request = WithEntries::<CpuidHeader>::zeroed();
    request.head.nent = ENTRIES_MAX as u32;
    let result = recorder.record(Op::SecurityInit, "KVM_TDX_GET_CPUID", 0, || {
        on_vcpu(vcpu, cmd::GET_CPUID, 0, std::ptr::from_mut(&mut *request) as u64)
    });
    check((result, TdxStatus::SUCCESS), "KVM_TDX_GET_CPUID", || Target::vcpu(vcpu.id()))?;
    let entries = request.filled(request.head.nent).iter().map(|entry| kvm_cpuid_entry2 {
        function: entry.function,
        index: entry.index,
        flags: entry.flags,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
        padding: [0; 3],
    });
    Ok(entries.collect())
}

/// KVM_TDX_INIT_VCPU; `rcx` is what the vCPU finds in RCX and R8. The order of these calls numbers the vCPUs.
///
/// # Errors
/// The ioctl's.
pub fn init_vcpu(recorder: &mut Recorder, vm: &Vm, vcpu: &Vcpu, rcx: u64) -> Result<(), SysError> {
    let result = recorder.record_both(
        Op::SecurityInit,
        "KVM_TDX_INIT_VCPU",
        0,
        || vm.clock(),
        || on_vcpu(vcpu, cmd::INIT_VCPU, 0, rcx),
    );
    check((result, TdxStatus::SUCCESS), "KVM_TDX_INIT_VCPU", || Target::vcpu(vcpu.id()))
}

/// Interruptions without any progress that are taken for an endless loop.
const IDLE_TRIES: u32 = 1000;

/// A region to add to the launch.
#[derive(Clone, Copy, Debug)]
pub struct RegionParams {
    /// Where it goes.
    pub gpa: u64,
    /// Are its contents measured, beside its address?
    pub measured: bool,
    /// Its name in reports.
    pub tag: &'static str,
}

/// KVM_TDX_INIT_MEM_REGION for whole pages. A signal may stop the kernel part of the way, with the request
/// rewritten to what is left; this goes on until nothing is left.
///
/// `source` must be page aligned.
///
/// # Errors
/// The first page that is refused.
pub fn init_mem_region(
    recorder: &mut Recorder,
    vm: &Vm,
    vcpu: &Vcpu,
    RegionParams { gpa, measured, tag }: RegionParams,
    source: &[u8],
) -> Result<(), SysError> {
    let flags = if measured { MEASURE_MEMORY_REGION } else { 0 };
    let len = source.len() as u64;
    let mut request =
        TdxInitMemRegion { source_addr: source.as_ptr() as u64, gpa, nr_pages: len / PAGE };
    recorder.record_both(
        Op::LaunchUpdate,
        tag,
        len,
        || vm.clock(),
        || {
            let mut idle = 0;
            while request.nr_pages != 0 {
                let left = request.nr_pages;
                let result = on_vcpu(
                    vcpu,
                    cmd::INIT_MEM_REGION,
                    flags,
                    std::ptr::from_mut(&mut request) as u64,
                );
                idle = if request.nr_pages < left { 0 } else { idle + 1 };
                // Older kernels answer EAGAIN as well.
                let again = matches!(&result, Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)));
                if result.is_ok() && request.nr_pages == 0 || again && idle < IDLE_TRIES {
                    continue;
                }
                let result = result.and(Err(io::Error::other("success without an end")));
                return check((result, TdxStatus::SUCCESS), "KVM_TDX_INIT_MEM_REGION", || {
                    Target::Pages(LaunchPages {
                        gpa: request.gpa,
                        kind: "measured",
                        tag,
                        done: request.gpa.saturating_sub(gpa) / PAGE,
                        count: len / PAGE,
                    })
                });
            }
            Ok(())
        },
    )
}

const PAGE: u64 = 4096;

/// KVM_TDX_FINALIZE_VM: seals the TD's measurement. Not repeatable.
///
/// # Errors
/// The module or the host refuses.
pub fn finalize_vm(recorder: &mut Recorder, vm: &Vm) -> Result<(), SysError> {
    let answer = recorder.record_both(
        Op::LaunchFinish,
        "KVM_TDX_FINALIZE_VM",
        0,
        || vm.clock(),
        || on_vm(vm, cmd::FINALIZE_VM, 0),
    );
    check(answer, "KVM_TDX_FINALIZE_VM", || Target::Whole)
}
