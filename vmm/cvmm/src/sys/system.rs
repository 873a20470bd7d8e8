//! `/dev/kvm` itself: opening it, and what it says it can do.
//!
//! UNSAFETY: KVM_CREATE_VM by hand, to tell its failure from that of the ioctl that kvm-ioctls adds to it.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;
use vmm_sys_util::ioctl::ioctl_with_val;

use super::SysError;
use super::target::Target;
use super::vm::Vm;
use crate::recorder::{Op, Recorder};

/// A capability that a launch depends on, by its number in include/uapi/linux/kvm.h (Linux 7.2).
///
/// Numbers, because kvm-ioctls' `Cap` lacks some of them.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// The kernel's name.
    pub name: &'static str,
    pub(super) number: libc::c_ulong,
}

impl Capability {
    /// In-kernel interrupt controllers.
    pub const IRQCHIP: Capability = Capability { name: "KVM_CAP_IRQCHIP", number: 0 };
    /// Eventfds that raise interrupts.
    pub const IRQFD: Capability = Capability { name: "KVM_CAP_IRQFD", number: 32 };
    /// Local interrupt controllers in the kernel, the others in user space.
    pub const SPLIT_IRQCHIP: Capability = Capability { name: "KVM_CAP_SPLIT_IRQCHIP", number: 121 };
    /// Page conversions asked for by the guest reach user space.
    pub const EXIT_HYPERCALL: Capability =
        Capability { name: "KVM_CAP_EXIT_HYPERCALL", number: 201 };
    /// Memory regions with a private half.
    pub const USER_MEMORY2: Capability = Capability { name: "KVM_CAP_USER_MEMORY2", number: 231 };
    /// Pages that are private or shared.
    pub const MEMORY_ATTRIBUTES: Capability =
        Capability { name: "KVM_CAP_MEMORY_ATTRIBUTES", number: 233 };
    /// The frequency of the local interrupt controllers' timer.
    pub const APIC_BUS_CYCLES_NS: Capability =
        Capability { name: "KVM_CAP_X86_APIC_BUS_CYCLES_NS", number: 237 };
    /// Private memory.
    pub const GUEST_MEMFD: Capability = Capability { name: "KVM_CAP_GUEST_MEMFD", number: 234 };
    /// Memory mapped before the guest touches it.
    pub const PRE_FAULT_MEMORY: Capability =
        Capability { name: "KVM_CAP_PRE_FAULT_MEMORY", number: 236 };
    /// VM types, as a bit mask.
    pub const VM_TYPES: Capability = Capability { name: "KVM_CAP_VM_TYPES", number: 235 };
    /// How many vCPUs a VM should have at most.
    const NR_VCPUS: Capability = Capability { name: "KVM_CAP_NR_VCPUS", number: 9 };
    /// How many it can have.
    pub(super) const MAX_VCPUS: Capability = Capability { name: "KVM_CAP_MAX_VCPUS", number: 66 };
}

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct System {
    kvm: Kvm,
}

/// _IO(KVMIO, 0x01).
const KVM_CREATE_VM: libc::c_ulong = 0xae01;
/// The only version of the interface that was ever released.
const API_VERSION: i32 = 12;

impl System {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// It is missing, not accessible, or speaks another version.
    pub fn open(recorder: &mut Recorder) -> Result<System, SysError> {
        let kvm = recorder
            .record(Op::OpenKvm, "/dev/kvm", 0, Kvm::new)
            .map_err(|e| match crate::emulate::profile_in_use() {
                // softkvm has said why on stderr.
                Some(profile) if e.errno() == libc::ENODEV => SysError::Missing {
                    what: format!("softkvm does not start with the platform profile {profile:?}"),
                    cure: "`softkvm info` lists the profiles for --emulate=PROFILE; a file with one of your own will do as well",
                },
                _ => SysError::Open { device: "/dev/kvm", source: e.into() },
            })?;
        match kvm.get_api_version() {
            API_VERSION => Ok(System { kvm }),
            version if version < 0 => {
                Err(SysError::ioctl("KVM_GET_API_VERSION")(kvm_ioctls::Error::last()))
            }
            version => Err(SysError::Missing {
                what: format!("KVM speaks version {version}, not {API_VERSION}"),
                cure: "use a Linux kernel that is not older than 2.6.22",
            }),
        }
    }

    /// What KVM answers for a capability; 0 means absent.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn check(
        &self,
        recorder: &mut Recorder,
        Capability { name, number }: Capability,
    ) -> Result<i32, SysError> {
        recorder.record(Op::CheckExtension, name, 0, || {
            match self.kvm.check_extension_raw(number) {
                answer if answer >= 0 => Ok(answer),
                _ => {
                    let target = Target::Words(format!("for {name}"));
                    Err(SysError::on("KVM_CHECK_EXTENSION", target)(kvm_ioctls::Error::last()))
                }
            }
        })
    }

    /// Insists on a capability.
    ///
    /// # Errors
    /// It is absent.
    pub fn require(&self, recorder: &mut Recorder, capability: Capability) -> Result<(), SysError> {
        if self.check(recorder, capability)? > 0 {
            return Ok(());
        }
        Err(SysError::Missing {
            what: format!("its KVM lacks {}", capability.name),
            cure: "use Linux 6.11 or newer with KVM enabled, or add --emulate",
        })
    }

    /// How many vCPUs one VM may have.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn max_vcpus(&self, recorder: &mut Recorder) -> Result<usize, SysError> {
        let mut max = self.check(recorder, Capability::MAX_VCPUS)?;
        // Before Linux 3.2 there was only the other number (Documentation/virt/kvm/api.rst, KVM_CREATE_VCPU).
        if max == 0 {
            max = self.check(recorder, Capability::NR_VCPUS)?;
        }
        Ok(usize::try_from(max).unwrap_or(0))
    }

    /// The CPUID leaves that KVM can give a guest. Who calls it times it: it may go on beside a launch.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn supported_cpuid(&self) -> Result<CpuId, SysError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(SysError::ioctl("KVM_GET_SUPPORTED_CPUID"))
    }

    /// Makes a VM of a type.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn create_vm(&self, recorder: &mut Recorder, vm_type: u64) -> Result<Vm, SysError> {
        recorder.record(Op::CreateVm, "KVM_CREATE_VM", 0, || {
            // SAFETY: the argument is a number; no memory is touched.
            let fd = unsafe { ioctl_with_val(&self.kvm, KVM_CREATE_VM, vm_type) };
            if fd < 0 {
                let target = Target::Words(format!("for type {vm_type}"));
                return Err(SysError::on("KVM_CREATE_VM", target)(kvm_ioctls::Error::last()));
            }
            // SAFETY: the kernel has just returned this descriptor to us; nobody else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: it is a VM's. kvm-ioctls takes it over, but not if it fails.
            let vm = unsafe { self.kvm.create_vmfd_from_rawfd(fd.as_raw_fd()) }
                .map_err(SysError::ioctl("KVM_GET_VCPU_MMAP_SIZE"))?;
            let _ = fd.into_raw_fd();
            Ok(Vm::new(vm))
        })
    }
}
