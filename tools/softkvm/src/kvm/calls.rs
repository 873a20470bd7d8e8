//! What the calls of a monitor are named: in failures that were asked for ([`super::failures`]) and in the statistics.

use abi::kvm_snp::{SEV_ISSUE_CMD, SevCmd, cmd as sev};
use abi::kvm_tdx::{TdxCmd, cmd as tdx};

use super::number as nr;
use super::{Object, user};

/// Opening `/dev/kvm`.
pub const OPEN_KVM: &str = "open(/dev/kvm)";
/// Opening `/dev/sev`.
pub const OPEN_SEV: &str = "open(/dev/sev)";
/// Mapping a vCPU's run page.
pub const MMAP_VCPU: &str = "mmap(vcpu)";
/// Punching a hole into a guest memory descriptor, or filling one.
pub const FALLOCATE: &str = "fallocate(guest_memfd)";
/// What has no name here.
const OTHER: &str = "other";
/// [`nr::MEMORY_ENCRYPT_OP`] with a command that has no name here.
const OTHER_COMMAND: &str = "KVM_MEMORY_ENCRYPT_OP";

const SYSTEM_CALLS: [&str; 4] = [OPEN_KVM, OPEN_SEV, MMAP_VCPU, FALLOCATE];

macro_rules! ioctls {
    ($($name:ident)*) => {
        const IOCTLS: &[(u64, &str)] = &[$((nr::$name, concat!("KVM_", stringify!($name)))),*];
    };
}

ioctls! {
    GET_API_VERSION CREATE_VM GET_MSR_INDEX_LIST CHECK_EXTENSION GET_VCPU_MMAP_SIZE GET_SUPPORTED_CPUID GET_EMULATED_CPUID
    GET_MSR_FEATURE_INDEX_LIST CREATE_VCPU GET_DIRTY_LOG SET_USER_MEMORY_REGION SET_TSS_ADDR SET_IDENTITY_MAP_ADDR
    SET_USER_MEMORY_REGION2 CREATE_IRQCHIP IRQ_LINE GET_IRQCHIP SET_IRQCHIP IRQ_LINE_STATUS REGISTER_COALESCED_MMIO
    UNREGISTER_COALESCED_MMIO SET_GSI_ROUTING REINJECT_CONTROL IRQFD CREATE_PIT2 SET_BOOT_CPU_ID IOEVENTFD SET_CLOCK GET_CLOCK
    RUN GET_REGS SET_REGS GET_SREGS SET_SREGS TRANSLATE INTERRUPT GET_MSRS SET_MSRS SET_SIGNAL_MASK GET_FPU SET_FPU GET_LAPIC
    SET_LAPIC SET_CPUID2 GET_CPUID2 TPR_ACCESS_REPORTING SET_VAPIC_ADDR GET_MP_STATE SET_MP_STATE NMI SET_GUEST_DEBUG
    X86_SETUP_MCE X86_GET_MCE_CAP_SUPPORTED GET_PIT2 SET_PIT2 GET_VCPU_EVENTS SET_VCPU_EVENTS GET_DEBUGREGS SET_DEBUGREGS
    SET_TSC_KHZ GET_TSC_KHZ ENABLE_CAP GET_XSAVE SET_XSAVE SIGNAL_MSI GET_XCRS SET_XCRS KVMCLOCK_CTRL SMI
    MEMORY_ENCRYPT_REG_REGION MEMORY_ENCRYPT_UNREG_REGION X86_SET_MSR_FILTER GET_SREGS2 SET_SREGS2 GET_STATS_FD GET_XSAVE2
    SET_MEMORY_ATTRIBUTES CREATE_GUEST_MEMFD PRE_FAULT_MEMORY CREATE_DEVICE SET_DEVICE_ATTR GET_DEVICE_ATTR HAS_DEVICE_ATTR
}

/// Commands of an AMD part's [`nr::MEMORY_ENCRYPT_OP`].
const SEV_COMMANDS: &[(u32, &str)] = &[
    (sev::SEV_INIT2, "KVM_SEV_INIT2"),
    (sev::SNP_LAUNCH_START, "KVM_SEV_SNP_LAUNCH_START"),
    (sev::SNP_LAUNCH_UPDATE, "KVM_SEV_SNP_LAUNCH_UPDATE"),
    (sev::SNP_LAUNCH_FINISH, "KVM_SEV_SNP_LAUNCH_FINISH"),
    (sev::SNP_ENABLE_REQ_CERTS, "KVM_SEV_SNP_ENABLE_REQ_CERTS"),
];

/// Commands of an Intel part's.
const TDX_COMMANDS: &[(u32, &str)] = &[
    (tdx::CAPABILITIES, "KVM_TDX_CAPABILITIES"),
    (tdx::INIT_VM, "KVM_TDX_INIT_VM"),
    (tdx::INIT_VCPU, "KVM_TDX_INIT_VCPU"),
    (tdx::INIT_MEM_REGION, "KVM_TDX_INIT_MEM_REGION"),
    (tdx::FINALIZE_VM, "KVM_TDX_FINALIZE_VM"),
    (tdx::GET_CPUID, "KVM_TDX_GET_CPUID"),
];

/// The name of an ioctl on `object`; `intel`: on an Intel part.
pub fn name(object: &Object, intel: bool, request: u64, arg: u64) -> &'static str {
    let command = |id, names: &[(u32, &'static str)]| {
        names.iter().find(|(known, _)| *known == id).map_or(OTHER_COMMAND, |(_, name)| *name)
    };
    match (object, request) {
        (Object::Sev { .. }, SEV_ISSUE_CMD) => "SEV_ISSUE_CMD",
        (_, nr::MEMORY_ENCRYPT_OP) if intel => {
            user::get::<TdxCmd>(arg).map_or(OTHER_COMMAND, |c| command(c.id, TDX_COMMANDS))
        }
        (_, nr::MEMORY_ENCRYPT_OP) => {
            user::get::<SevCmd>(arg).map_or(OTHER_COMMAND, |c| command(c.id, SEV_COMMANDS))
        }
        _ => IOCTLS.iter().find(|(number, _)| *number == request).map_or(OTHER, |(_, name)| name),
    }
}

/// The call that `text` names.
pub fn parse(text: &str) -> Option<&'static str> {
    let commands = SEV_COMMANDS.iter().chain(TDX_COMMANDS).map(|(_, name)| *name);
    IOCTLS
        .iter()
        .map(|(_, name)| *name)
        .chain(commands)
        .chain(SYSTEM_CALLS)
        .chain(["SEV_ISSUE_CMD"])
        .find(|name| *name == text)
}
