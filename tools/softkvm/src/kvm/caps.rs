//! KVM_CHECK_EXTENSION (Linux arch/x86/kvm/x86.c `kvm_vm_ioctl_check_extension`,
//! virt/kvm/kvm_main.c `kvm_vm_ioctl_check_extension_generic`).

use abi::kvm as k;
use abi::kvm_snp;
use abi::kvm_tdx::KVM_X86_TDX_VM;
use kvm_bindings as kb;

use super::coalesced;
use super::machine::Machine;
use super::number::{MAX_VCPU_IDS, MAX_VCPUS, MEMORY_SLOTS};
use super::run_page::sync;

/// KVM_X86_SW_PROTECTED_VM.
const SW_PROTECTED_VM: u64 = 1;
/// KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE and KVM_DIRTY_LOG_INITIALLY_SET.
pub const MANUAL_LOG: u64 = 3;

/// Kinds of VM (KVM_X86_*_VM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmKind {
    /// KVM_X86_DEFAULT_VM.
    Plain,
    /// KVM_X86_SW_PROTECTED_VM: private memory without anything that protects it, for tests of private memory.
    SwProtected,
    /// KVM_X86_SNP_VM.
    Snp,
    /// KVM_X86_TDX_VM.
    Tdx,
}

impl VmKind {
    /// From the argument of KVM_CREATE_VM.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Plain),
            SW_PROTECTED_VM => Some(Self::SwProtected),
            kvm_snp::KVM_X86_SNP_VM => Some(Self::Snp),
            KVM_X86_TDX_VM => Some(Self::Tdx),
            _ => None,
        }
    }

    /// Whether a machine with an Intel part, or one with an AMD part, has this kind.
    pub fn offered(self, intel: bool) -> bool {
        match self {
            Self::Plain | Self::SwProtected => true,
            Self::Snp => !intel,
            Self::Tdx => intel,
        }
    }

    /// Whether memory can be private (`has_private_mem`).
    pub fn has_private_memory(self) -> bool {
        match self {
            Self::Plain => false,
            Self::SwProtected | Self::Snp | Self::Tdx => true,
        }
    }

    /// Whether user space can see no registers once it is launched (`has_protected_state`).
    pub fn hides_state(self) -> bool {
        match self {
            Self::Plain | Self::SwProtected => false,
            Self::Snp | Self::Tdx => true,
        }
    }

    /// Its name in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::SwProtected => "sw-protected",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
        }
    }
}

/// Flags of KVM_CAP_X86_USER_SPACE_MSR.
pub const MSR_EXIT_REASONS: u64 = 7;
/// Flags of KVM_CAP_X2APIC_API.
pub const X2APIC_API_FLAGS: u64 = 3;
/// KVM_X86_QUIRK_FIX_HYPERCALL_INSN.
pub const QUIRK_FIX_HYPERCALL: u64 = 1 << 5;
/// KVM_X86_QUIRK_SLOT_ZAP_ALL.
pub const QUIRK_ZAP_ALL: u64 = 1 << 7;
/// KVM_X86_QUIRK_STUFF_FEATURE_MSRS.
pub const QUIRK_STUFF_MSRS: u64 = 1 << 8;
/// Flags of KVM_CAP_DISABLE_QUIRKS2.
pub const QUIRKS: u64 = 0x1ff;
/// KVM_X86_DISABLE_EXITS_HLT.
pub const DISABLE_HLT: u64 = 2;
/// Bits of KVM_CAP_X86_DISABLE_EXITS: HLT and PAUSE.
pub const DISABLE_EXITS: u64 = DISABLE_HLT | 4;

/// Most vCPUs of a VM: of a TD no more than the host has processors (Linux arch/x86/kvm/vmx/tdx.c `tdx_vm_init`).
pub fn max_vcpus(machine: &Machine, vm: Option<VmKind>) -> u32 {
    match (&machine.xeon, vm) {
        (Some(xeon), Some(VmKind::Tdx)) => MAX_VCPUS.min(xeon.cpus.into()),
        _ => MAX_VCPUS,
    }
}

/// The answer on `/dev/kvm` (`None`) or on a VM.
pub fn check(machine: &Machine, vm: Option<VmKind>, cap: u32) -> i32 {
    let private = vm.is_some_and(VmKind::has_private_memory);
    match cap {
        kb::KVM_CAP_IRQCHIP
        | kb::KVM_CAP_HLT
        | kb::KVM_CAP_USER_MEMORY
        | kb::KVM_CAP_SET_TSS_ADDR
        | kb::KVM_CAP_EXT_CPUID
        | kb::KVM_CAP_CLOCKSOURCE
        | kb::KVM_CAP_PIT
        | kb::KVM_CAP_NOP_IO_DELAY
        | kb::KVM_CAP_MP_STATE
        | kb::KVM_CAP_SYNC_MMU
        | kb::KVM_CAP_DESTROY_MEMORY_REGION_WORKS
        | kb::KVM_CAP_USER_NMI
        | kb::KVM_CAP_X86_ROBUST_SINGLESTEP
        | kb::KVM_CAP_REINJECT_CONTROL
        | kb::KVM_CAP_IRQ_INJECT_STATUS
        | kb::KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
        | kb::KVM_CAP_IRQFD
        | kb::KVM_CAP_IRQFD_RESAMPLE
        | kb::KVM_CAP_PIT2
        | kb::KVM_CAP_PIT_STATE2
        | kb::KVM_CAP_SET_BOOT_CPU_ID
        | kb::KVM_CAP_IOEVENTFD
        | kb::KVM_CAP_IOEVENTFD_NO_LENGTH
        | kb::KVM_CAP_IOEVENTFD_ANY_LENGTH
        | kb::KVM_CAP_SET_IDENTITY_MAP_ADDR
        | kb::KVM_CAP_INTERNAL_ERROR_DATA
        | kb::KVM_CAP_VCPU_EVENTS
        | kb::KVM_CAP_DEBUGREGS
        | kb::KVM_CAP_ENABLE_CAP
        | kb::KVM_CAP_ENABLE_CAP_VM
        | kb::KVM_CAP_XSAVE
        | kb::KVM_CAP_XCRS
        | kb::KVM_CAP_GET_TSC_KHZ
        | kb::KVM_CAP_TSC_CONTROL
        | kb::KVM_CAP_VM_TSC_CONTROL
        | kb::KVM_CAP_TSC_DEADLINE_TIMER
        | kb::KVM_CAP_KVMCLOCK_CTRL
        | kb::KVM_CAP_SIGNAL_MSI
        | kb::KVM_CAP_DEVICE_CTRL
        | kb::KVM_CAP_CHECK_EXTENSION_VM
        | kb::KVM_CAP_SPLIT_IRQCHIP
        | kb::KVM_CAP_IMMEDIATE_EXIT
        | kb::KVM_CAP_GET_MSR_FEATURES
        | kb::KVM_CAP_X86_MSR_FILTER
        | kb::KVM_CAP_MSR_PLATFORM_INFO
        | kb::KVM_CAP_MMU_SHADOW_CACHE_CONTROL
        | kb::KVM_CAP_SREGS2
        | kb::KVM_CAP_BINARY_STATS_FD
        | kb::KVM_CAP_USER_MEMORY2
        | kb::KVM_CAP_SYSTEM_EVENT_DATA
        | kb::KVM_CAP_ENFORCE_PV_FEATURE_CPUID
        | kb::KVM_CAP_PRE_FAULT_MEMORY
        | kb::KVM_CAP_HALT_POLL
        | kb::KVM_CAP_SYS_ATTRIBUTES
        | k::KVM_CAP_MEMORY_FAULT_INFO
        | k::KVM_CAP_GUEST_MEMFD
        | kb::KVM_CAP_X86_APIC_BUS_CYCLES_NS => 1,
        kb::KVM_CAP_READONLY_MEM => i32::from(!vm.is_some_and(VmKind::hides_state)),
        // No SMM, so one address space.
        kb::KVM_CAP_MULTI_ADDRESS_SPACE => 1,
        // Interrupt shadow: KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI.
        kb::KVM_CAP_INTR_SHADOW => 3,
        kb::KVM_CAP_COALESCED_MMIO => coalesced::RING_PAGE as i32,
        kb::KVM_CAP_COALESCED_PIO => 1,
        kb::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => MANUAL_LOG as i32,
        kb::KVM_CAP_NR_VCPUS => 64,
        kb::KVM_CAP_MAX_VCPUS => max_vcpus(machine, vm) as i32,
        kb::KVM_CAP_MAX_VCPU_ID => MAX_VCPU_IDS as i32,
        kb::KVM_CAP_NR_MEMSLOTS => MEMORY_SLOTS as i32,
        kb::KVM_CAP_IRQ_ROUTING => crate::chipset::MAX_ROUTES as i32,
        kb::KVM_CAP_MCE => 32,
        // KVM_CLOCK_TSC_STABLE, REALTIME, HOST_TSC.
        kb::KVM_CAP_ADJUST_CLOCK => 2 | 4 | 8,
        kb::KVM_CAP_XSAVE2 => 4096,
        kb::KVM_CAP_SYNC_REGS if vm.is_some_and(VmKind::hides_state) => 0,
        kb::KVM_CAP_SYNC_REGS => sync::ALL as i32,
        kb::KVM_CAP_X2APIC_API => X2APIC_API_FLAGS as i32,
        kb::KVM_CAP_X86_USER_SPACE_MSR => MSR_EXIT_REASONS as i32,
        kb::KVM_CAP_DISABLE_QUIRKS2 => QUIRKS as i32,
        kb::KVM_CAP_DISABLE_QUIRKS => 1,
        kb::KVM_CAP_X86_DISABLE_EXITS => DISABLE_EXITS as i32,
        k::KVM_CAP_EXIT_HYPERCALL => k::KVM_EXIT_HYPERCALL_MAP_GPA as i32,
        k::KVM_CAP_VM_TYPES => {
            let kinds = [
                (VmKind::Plain, 0),
                (VmKind::SwProtected, SW_PROTECTED_VM),
                (VmKind::Snp, kvm_snp::KVM_X86_SNP_VM),
                (VmKind::Tdx, KVM_X86_TDX_VM),
            ];
            let offered = kinds.into_iter().filter(|(kind, _)| machine.offers(*kind));
            offered.fold(0, |bits, (_, number)| bits | 1 << number)
        }
        k::KVM_CAP_MEMORY_ATTRIBUTES if vm.is_some() && !private => 0,
        k::KVM_CAP_MEMORY_ATTRIBUTES => k::KVM_MEMORY_ATTRIBUTE_PRIVATE as i32,
        k::KVM_CAP_GUEST_MEMFD_FLAGS => {
            let shared = if private { 0 } else { k::GUEST_MEMFD_FLAG_INIT_SHARED };
            (k::GUEST_MEMFD_FLAG_MMAP | shared) as i32
        }
        _ => 0,
    }
}
