//! TDCALL: leaf numbers (RAX 15:0) of what a guest asks the module for (ABI specification, "Guest-Side (TDCALL) Interface
//! Functions"), and the metadata fields that it reads and writes.

/// TDG.VP.VMCALL: to the host.
pub const VP_VMCALL: u16 = 0;
/// TDG.VP.INFO: about the TD and this vCPU.
pub const VP_INFO: u16 = 1;
/// TDG.MR.RTMR.EXTEND.
pub const MR_RTMR_EXTEND: u16 = 2;
/// TDG.VP.VEINFO.GET: what the last #VE was about.
pub const VP_VEINFO_GET: u16 = 3;
/// TDG.MR.REPORT.
pub const MR_REPORT: u16 = 4;
/// TDG.VP.CPUIDVE.SET.
pub const VP_CPUIDVE_SET: u16 = 5;
/// TDG.MEM.PAGE.ACCEPT.
pub const MEM_PAGE_ACCEPT: u16 = 6;
/// TDG.VM.RD.
pub const VM_RD: u16 = 7;
/// TDG.VM.WR.
pub const VM_WR: u16 = 8;
/// TDG.VP.RD.
pub const VP_RD: u16 = 9;
/// TDG.VP.WR.
pub const VP_WR: u16 = 10;
/// TDG.SYS.RD.
pub const SYS_RD: u16 = 11;
/// TDG.SYS.RDALL.
pub const SYS_RDALL: u16 = 12;
/// TDG.MEM.PAGE.ATTR.RD.
pub const MEM_PAGE_ATTR_RD: u16 = 23;
/// TDG.MEM.PAGE.ATTR.WR.
pub const MEM_PAGE_ATTR_WR: u16 = 24;

/// Page size of MEM.PAGE.ACCEPT, in RCX 2:0.
pub mod level {
    /// 4 KiB.
    pub const SMALL: u64 = 0;
    /// 2 MiB.
    pub const LARGE: u64 = 1;
    /// 1 GiB, which ACCEPT refuses.
    pub const HUGE: u64 = 2;
}

/// Identifiers of TD-scope metadata fields (Linux arch/x86/include/asm/shared/tdx.h).
pub mod field {
    /// CONFIG_FLAGS.
    pub const CONFIG_FLAGS: u64 = 0x1110_0003_0000_0016;
    /// TD_CTLS.
    pub const TD_CTLS: u64 = 0x1110_0003_0000_0017;
    /// NOTIFY_ENABLES.
    pub const NOTIFY_ENABLES: u64 = 0x9100_0000_0000_0010;
    /// TOPOLOGY_ENUM_CONFIGURED.
    pub const TOPOLOGY_ENUM_CONFIGURED: u64 = 0x9100_0000_0000_0019;
}

/// Bits of TD_CTLS.
pub mod td_ctls {
    /// An access to a pending page exits instead of raising #VE.
    pub const PENDING_VE_DISABLE: u64 = 1 << 0;
    /// CPUID topology leaves and the x2APIC ID are answered by the module.
    pub const ENUM_TOPOLOGY: u64 = 1 << 1;
    /// CPUID leaf 2 is answered by the module (younger modules).
    pub const VIRT_CPUID2: u64 = 1 << 2;
    /// Fewer #VEs (younger modules).
    pub const REDUCE_VE: u64 = 1 << 3;
    /// The field cannot change any more (younger modules).
    pub const LOCK: u64 = 1 << 63;
}
