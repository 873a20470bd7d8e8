//! ioctl request numbers and constants of Linux's include/uapi/linux/kvm.h that kvm-bindings does
//! not carry.
#![expect(missing_docs, reason = "the names are those of the kernel's header")]

const fn io(nr: u64) -> u64 {
    0xae00 | nr
}
const fn ior(nr: u64, size: usize) -> u64 {
    2 << 30 | (size as u64) << 16 | io(nr)
}
const fn iow(nr: u64, size: usize) -> u64 {
    1 << 30 | (size as u64) << 16 | io(nr)
}
const fn iowr(nr: u64, size: usize) -> u64 {
    3 << 30 | (size as u64) << 16 | io(nr)
}

pub const GET_API_VERSION: u64 = io(0x00);
pub const CREATE_VM: u64 = io(0x01);
pub const GET_MSR_INDEX_LIST: u64 = iowr(0x02, 4);
pub const CHECK_EXTENSION: u64 = io(0x03);
pub const GET_VCPU_MMAP_SIZE: u64 = io(0x04);
pub const GET_SUPPORTED_CPUID: u64 = iowr(0x05, 8);
pub const GET_EMULATED_CPUID: u64 = iowr(0x09, 8);
pub const GET_MSR_FEATURE_INDEX_LIST: u64 = iowr(0x0a, 4);
pub const CREATE_VCPU: u64 = io(0x41);
pub const GET_DIRTY_LOG: u64 = iow(0x42, 16);
pub const SET_NR_MMU_PAGES: u64 = io(0x44);
pub const SET_USER_MEMORY_REGION: u64 = iow(0x46, 32);
pub const SET_TSS_ADDR: u64 = io(0x47);
pub const SET_IDENTITY_MAP_ADDR: u64 = iow(0x48, 8);
pub const SET_USER_MEMORY_REGION2: u64 = iow(0x49, 160);
pub const CREATE_IRQCHIP: u64 = io(0x60);
pub const IRQ_LINE: u64 = iow(0x61, 8);
pub const GET_IRQCHIP: u64 = iowr(0x62, 520);
pub const SET_IRQCHIP: u64 = ior(0x63, 520);
pub const IRQ_LINE_STATUS: u64 = iowr(0x67, 8);
pub const REGISTER_COALESCED_MMIO: u64 = iow(0x67, 16);
pub const UNREGISTER_COALESCED_MMIO: u64 = iow(0x68, 16);
pub const SET_GSI_ROUTING: u64 = iow(0x6a, 8);
pub const REINJECT_CONTROL: u64 = io(0x71);
pub const IRQFD: u64 = iow(0x76, 32);
pub const CREATE_PIT2: u64 = iow(0x77, 64);
pub const SET_BOOT_CPU_ID: u64 = io(0x78);
pub const IOEVENTFD: u64 = iow(0x79, 64);
pub const SET_CLOCK: u64 = iow(0x7b, 48);
pub const GET_CLOCK: u64 = ior(0x7c, 48);
pub const RUN: u64 = io(0x80);
pub const GET_REGS: u64 = ior(0x81, 144);
pub const SET_REGS: u64 = iow(0x82, 144);
pub const GET_SREGS: u64 = ior(0x83, 312);
pub const SET_SREGS: u64 = iow(0x84, 312);
pub const TRANSLATE: u64 = iowr(0x85, 24);
pub const INTERRUPT: u64 = iow(0x86, 4);
pub const GET_MSRS: u64 = iowr(0x88, 8);
pub const SET_MSRS: u64 = iow(0x89, 8);
pub const SET_SIGNAL_MASK: u64 = iow(0x8b, 4);
pub const GET_FPU: u64 = ior(0x8c, 416);
pub const SET_FPU: u64 = iow(0x8d, 416);
pub const GET_LAPIC: u64 = ior(0x8e, 1024);
pub const SET_LAPIC: u64 = iow(0x8f, 1024);
pub const SET_CPUID2: u64 = iow(0x90, 8);
pub const GET_CPUID2: u64 = iowr(0x91, 8);
pub const TPR_ACCESS_REPORTING: u64 = iowr(0x92, 40);
pub const SET_VAPIC_ADDR: u64 = iow(0x93, 8);
pub const GET_MP_STATE: u64 = ior(0x98, 4);
pub const SET_MP_STATE: u64 = iow(0x99, 4);
pub const NMI: u64 = io(0x9a);
pub const SET_GUEST_DEBUG: u64 = iow(0x9b, 72);
pub const X86_SETUP_MCE: u64 = iow(0x9c, 8);
pub const X86_GET_MCE_CAP_SUPPORTED: u64 = ior(0x9d, 8);
pub const GET_PIT2: u64 = ior(0x9f, 112);
pub const SET_PIT2: u64 = iow(0xa0, 112);
pub const GET_VCPU_EVENTS: u64 = ior(0x9f, 64);
pub const SET_VCPU_EVENTS: u64 = iow(0xa0, 64);
pub const GET_DEBUGREGS: u64 = ior(0xa1, 128);
pub const SET_DEBUGREGS: u64 = iow(0xa2, 128);
pub const SET_TSC_KHZ: u64 = io(0xa2);
pub const GET_TSC_KHZ: u64 = io(0xa3);
pub const ENABLE_CAP: u64 = iow(0xa3, 104);
pub const GET_XSAVE: u64 = ior(0xa4, 4096);
pub const SET_XSAVE: u64 = iow(0xa5, 4096);
pub const SIGNAL_MSI: u64 = iow(0xa5, 32);
pub const GET_XCRS: u64 = ior(0xa6, 392);
pub const SET_XCRS: u64 = iow(0xa7, 392);
pub const KVMCLOCK_CTRL: u64 = io(0xad);
pub const SMI: u64 = io(0xb7);
pub const MEMORY_ENCRYPT_OP: u64 = iowr(0xba, 8);
pub const MEMORY_ENCRYPT_REG_REGION: u64 = ior(0xbb, 16);
pub const MEMORY_ENCRYPT_UNREG_REGION: u64 = ior(0xbc, 16);
pub const CLEAR_DIRTY_LOG: u64 = iowr(0xc0, 24);
pub const X86_SET_MSR_FILTER: u64 = iow(0xc6, 392);
pub const GET_SREGS2: u64 = ior(0xcc, 320);
pub const SET_SREGS2: u64 = iow(0xcd, 320);
pub const GET_STATS_FD: u64 = io(0xce);
pub const GET_XSAVE2: u64 = ior(0xcf, 4096);
pub const SET_MEMORY_ATTRIBUTES: u64 = iow(0xd2, 32);
pub const CREATE_GUEST_MEMFD: u64 = iowr(0xd4, 64);
pub const PRE_FAULT_MEMORY: u64 = iowr(0xd5, 64);
pub const CREATE_DEVICE: u64 = iowr(0xe0, 12);
pub const SET_DEVICE_ATTR: u64 = iow(0xe1, 24);
pub const GET_DEVICE_ATTR: u64 = iow(0xe2, 24);
pub const HAS_DEVICE_ATTR: u64 = iow(0xe3, 24);

/// Bytes of a vCPU's mapping: run page, port data page, coalesced ring.
pub const VCPU_MMAP_SIZE: usize = 3 * 4096;
/// Offset of port data in it.
pub const PIO_DATA_OFFSET: usize = 4096;
/// KVM_MEM_SLOTS_NUM.
pub const MEMORY_SLOTS: u32 = 32764;
/// KVM_MAX_VCPUS: CONFIG_KVM_MAX_NR_VCPUS as it is by default.
pub const MAX_VCPUS: u32 = 1024;
/// KVM_MAX_VCPU_IDS.
pub const MAX_VCPU_IDS: u32 = 4 * MAX_VCPUS;
/// KVM_MIN_ALLOC_MMU_PAGES.
pub const MIN_MMU_PAGES: u64 = 64;
/// KVM_SYSTEM_EVENT_SEV_TERM.
pub const SYSTEM_EVENT_SEV_TERM: u32 = 6;
/// KVM_EXIT_SNP_REQ_CERTS.
pub const EXIT_SNP_REQ_CERTS: u32 = 43;

pub const MEM_LOG_DIRTY: u32 = 1;
pub const MEM_READONLY: u32 = 2;
pub const MEM_GUEST_MEMFD: u32 = 4;

pub mod mp_state {
    pub const RUNNABLE: u32 = 0;
    pub const UNINITIALIZED: u32 = 1;
    pub const INIT_RECEIVED: u32 = 2;
    pub const HALTED: u32 = 3;
    pub const SIPI_RECEIVED: u32 = 4;
    pub const AP_RESET_HOLD: u32 = 9;
}
