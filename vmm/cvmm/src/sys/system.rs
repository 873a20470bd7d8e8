//! `/dev/kvm` itself: opening it, and what it says it can do.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

use super::SysError;
use super::vm::Vm;
use crate::recorder::{Op, Recorder};

/// A capability that a launch depends on, by its number in include/uapi/linux/kvm.h (Linux 7.2).
///
/// Numbers, because kvm-ioctls' `Cap` lacks some of them.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// The kernel's name.
    pub name: &'static str,
    number: libc::c_ulong,
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
    /// VM types, as a bit mask.
    pub const VM_TYPES: Capability = Capability { name: "KVM_CAP_VM_TYPES", number: 235 };
}

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct System {
    kvm: Kvm,
}

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
        if kvm.get_api_version() != API_VERSION {
            return Err(SysError::Missing {
                what: format!("KVM speaks version {}, not {API_VERSION}", kvm.get_api_version()),
                cure: "use a Linux kernel that is not older than 2.6.22",
            });
        }
        Ok(System { kvm })
    }

    /// What KVM answers for a capability; 0 means absent.
    pub fn check(&self, recorder: &mut Recorder, capability: Capability) -> i32 {
        recorder.record(Op::CheckExtension, capability.name, 0, || {
            self.kvm.check_extension_raw(capability.number)
        })
    }

    /// Insists on a capability.
    ///
    /// # Errors
    /// It is absent.
    pub fn require(&self, recorder: &mut Recorder, capability: Capability) -> Result<(), SysError> {
        if self.check(recorder, capability) > 0 {
            return Ok(());
        }
        Err(SysError::Missing {
            what: format!("its KVM lacks {}", capability.name),
            cure: "use Linux 6.11 or newer with KVM enabled, or add --emulate",
        })
    }

    /// How many vCPUs one VM may have.
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// The CPUID leaves that KVM can give a guest.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn supported_cpuid(&self, recorder: &mut Recorder) -> Result<CpuId, SysError> {
        recorder
            .record(Op::CheckExtension, "KVM_GET_SUPPORTED_CPUID", 0, || {
                self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            })
            .map_err(SysError::ioctl("KVM_GET_SUPPORTED_CPUID"))
    }

    /// Makes a VM of a type.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn create_vm(&self, recorder: &mut Recorder, vm_type: u64) -> Result<Vm, SysError> {
        let vm = recorder
            .record(Op::CreateVm, "KVM_CREATE_VM", 0, || self.kvm.create_vm_with_type(vm_type))
            .map_err(SysError::ioctl_on("KVM_CREATE_VM", format!("of type {vm_type}")))?;
        Ok(Vm::new(vm))
    }
}
