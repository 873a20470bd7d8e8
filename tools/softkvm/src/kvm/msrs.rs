//! Model-specific registers that KVM keeps for a vCPU: neither the processor's own
//! ([`Core::rdmsr_local`]) nor the chips'. What is not known here is refused.
//!
//! [`Core::rdmsr_local`]: crate::cpu::Core::rdmsr_local

use std::collections::BTreeMap;

/// Time stamp counter.
pub const TSC: u32 = 0x10;
/// TSC_ADJUST.
pub const TSC_ADJUST: u32 = 0x3b;
/// IA32_FEATURE_CONTROL of Intel parts.
pub const FEATURE_CONTROL: u32 = 0x3a;
/// Its value: locked, nothing enabled (Linux 7.2 arch/x86/kvm/vmx/tdx.c `tdx_get_msr`).
pub const FEATURES_LOCKED: u64 = 1;
/// SEV_STATUS.
pub const SEV_STATUS: u32 = 0xc001_0131;
/// GUEST_TSC_FREQ: MHz, of a guest with a secure time stamp counter.
pub const GUEST_TSC_FREQ: u32 = abi::snp::MSR_GUEST_TSC_FREQ;
/// The GHCB's address or a request.
pub const GHCB: u32 = 0xc001_0130;

/// Machine check: 32 banks, CTL and SER present (Linux arch/x86/kvm/x86.c `kvm_caps`).
pub const MCG_CAP: u64 = 0x0100_0100 | 32;

/// KVM_GET_MSR_INDEX_LIST.
pub const INDEX_LIST: &[u32] = &[
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0083,
    0xc000_0102,
    0xc000_0084,
    0xc000_0082,
    TSC,
    0x277,
    0xc000_0103,
    0x4b56_4d00,
    0x4b56_4d01,
    0x11,
    0x12,
    0x4b56_4d02,
    0x4b56_4d06,
    0x4b56_4d03,
    0x4b56_4d04,
    0x4b56_4d05,
    TSC_ADJUST,
    0x6e0,
    0x1a0,
    0x17a,
    0x17b,
    0x9e,
    0x34,
    0xce,
    0x140,
    0x1fc,
    0xc001_0015,
    0xc000_0080,
    0xc000_0100,
    0xc000_0101,
    0x1b,
    0x8b,
    0xfe,
    0x2ff,
    0x1d9,
    0xc001_0010,
    0xc001_1029,
];

/// KVM_GET_MSR_FEATURE_INDEX_LIST.
pub const FEATURE_LIST: &[u32] = &[0x8b, 0xc001_1029, 0x10a, 0xce];

/// The value of a feature MSR on `/dev/kvm`.
pub fn feature(index: u32) -> Option<u64> {
    match index {
        0x8b => Some(0x0a00_11d5),
        // LFENCE serialises.
        0xc001_1029 => Some(2),
        0x10a => Some(0),
        PLATFORM_INFO => Some(CPUID_FAULTING),
        _ => None,
    }
}

/// Microcode revisions that KVM shows a guest, whatever the host's are, on AMD and on Intel parts (Linux arch/x86/kvm/svm/svm.c
/// `svm_vcpu_reset`, arch/x86/kvm/vmx/vmx.c `vmx_vcpu_reset`).
const MICROCODE: [u64; 2] = [0x0100_0065, 1 << 32];
/// IA32_MISC_ENABLE: no branch trace storage, no precise sampling; a guest cannot change them.
const MISC_UNAVAILABLE: u64 = 1 << 11 | 1 << 12;
/// MSR_PLATFORM_INFO.
pub const PLATFORM_INFO: u32 = 0xce;
/// PLATFORM_INFO: CPUID can be made to fault.
const CPUID_FAULTING: u64 = 1 << 31;
/// MISC_FEATURES_ENABLES.
pub const MISC_FEATURES: u32 = 0x140;
/// HWCR: status of machine checks can be written, the TSC counts at P0's frequency.
const HWCR_WRITABLE: u64 = 1 << 18 | 1 << 24;
/// HWCR: what is taken and means nothing.
const HWCR_IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;

/// How a known register behaves.
enum Kind {
    /// Keeps what is written, within these bits.
    Store { reset: u64, writable: u64 },
    /// The same, and user space is held to it as well; `ignored` bits are taken and forgotten.
    Checked { writable: u64, ignored: u64 },
    /// User space sets it; a guest's write is ignored.
    Host { reset: u64 },
    /// Keeps what is written, but a guest may not change these bits.
    Partly { reset: u64, fixed: u64 },
    /// Reads this; a guest's write is ignored.
    Ignore(u64),
    /// Reads this; a guest's write is refused.
    Fixed(u64),
    /// Writes are taken and mean nothing; reading is refused.
    Command,
}

fn kind(index: u32) -> Option<Kind> {
    const ALL: u64 = u64::MAX;
    Some(match index {
        // MTRRs: 8 variable ranges, fixed ranges, write-combining.
        0xfe => Kind::Fixed(0x508),
        0x200..=0x20f => Kind::Store { reset: 0, writable: ALL },
        0x250 | 0x258 | 0x259 | 0x268..=0x26f => Kind::Store { reset: 0, writable: ALL },
        0x2ff => Kind::Store { reset: 0, writable: 0xcff },
        // Machine check.
        0x179 => Kind::Fixed(MCG_CAP),
        0x17a => Kind::Store { reset: 0, writable: 7 },
        0x17b => Kind::Store { reset: 0, writable: ALL },
        0x400..=0x47f => {
            let reset = if index & 3 == 0 { ALL } else { 0 };
            Kind::Store { reset, writable: ALL }
        }
        // Microcode.
        0x79 | 0xc001_0020 => Kind::Command,
        0x8b => Kind::Host { reset: 0 },
        // IBPB and FLUSH_CMD.
        0x49 | 0x10b => Kind::Command,
        0x17 | 0x2a | 0xcd | 0x34 => Kind::Ignore(0),
        0x9e => Kind::Ignore(0x30000),
        PLATFORM_INFO => Kind::Host { reset: 0 },
        MISC_FEATURES => Kind::Checked { writable: 1, ignored: 0 },
        0x10a => Kind::Fixed(0),
        0x1a0 => Kind::Partly { reset: MISC_UNAVAILABLE, fixed: MISC_UNAVAILABLE },
        TSC_ADJUST => Kind::Store { reset: 0, writable: ALL },
        // IA32_POWER_CTL.
        0x1fc => Kind::Store { reset: 0, writable: ALL },
        // Last branch records, debug extensions.
        0x1db..=0x1de => Kind::Ignore(0),
        // SYSCFG, HWCR, IORR, TOM, MMCONF.
        0xc001_0010 => Kind::Store { reset: 0, writable: ALL },
        0xc001_0015 => Kind::Checked { writable: HWCR_WRITABLE, ignored: HWCR_IGNORED },
        0xc001_0016..=0xc001_001a | 0xc001_001d => Kind::Ignore(0),
        0xc001_001f | 0xc001_0022 | 0xc001_0055 | 0xc001_0058 => Kind::Ignore(0),
        0xc001_0112 | 0xc001_0113 | 0xc001_0114 | 0xc001_0117 => Kind::Ignore(0),
        0xc001_0061..=0xc001_0064 => Kind::Ignore(0),
        // Performance counters of the K7 and of family 15h: not offered, but probed.
        0xc001_0000..=0xc001_0007 | 0xc001_0200..=0xc001_020b => Kind::Ignore(0),
        0xc000_0104 => Kind::Store { reset: 0, writable: ALL },
        // OS-visible workarounds.
        0xc001_0140 | 0xc001_0141 => Kind::Store { reset: 0, writable: ALL },
        0xc001_1020..=0xc001_1023 | 0xc001_102a | 0xc001_102c => Kind::Ignore(0),
        0xc001_1029 => Kind::Checked { writable: 2, ignored: 0 },
        // RAPL.
        0x606 | 0x611 | 0x619 | 0x639 | 0xc001_0299 | 0xc001_029b => Kind::Ignore(0),
        _ => return None,
    })
}

/// Registers that keep what is written.
#[derive(Clone, Debug, Default)]
pub struct Msrs(BTreeMap<u32, u64>);

impl Msrs {
    /// The registers of a new vCPU on an Intel or an AMD part. Unless user space has disabled that quirk, feature registers
    /// that KVM controls start with all that it supports (KVM_X86_QUIRK_STUFF_FEATURE_MSRS).
    pub fn new(intel: bool, stuffed: bool) -> Self {
        let mut msrs = Self::default();
        if stuffed {
            msrs.0.insert(0x8b, MICROCODE[usize::from(intel)]);
            msrs.0.insert(PLATFORM_INFO, CPUID_FAULTING);
        }
        msrs
    }

    /// Whether CPUID outside CPL 0 raises #GP.
    pub fn cpuid_faults(&self) -> bool {
        self.read(MISC_FEATURES).unwrap_or(0) & 1 != 0
    }

    /// Reads a register; `None` if there is none to be read.
    pub fn read(&self, index: u32) -> Option<u64> {
        match kind(index)? {
            Kind::Store { reset, .. } | Kind::Host { reset } | Kind::Partly { reset, .. } => {
                Some(self.0.get(&index).copied().unwrap_or(reset))
            }
            Kind::Checked { .. } => Some(self.0.get(&index).copied().unwrap_or(0)),
            Kind::Ignore(value) | Kind::Fixed(value) => Some(value),
            Kind::Command => None,
        }
    }

    /// Writes a register, for the guest or for user space; `false` if that is refused.
    pub fn write(&mut self, index: u32, value: u64, host: bool) -> bool {
        match kind(index) {
            Some(Kind::Store { writable, .. }) => {
                if value & !writable != 0 && !host {
                    return false;
                }
                self.0.insert(index, value);
                true
            }
            Some(Kind::Checked { writable, ignored }) => {
                let value = value & !ignored;
                if value & !writable != 0 || !self.allows(index, value) {
                    return false;
                }
                self.0.insert(index, value);
                true
            }
            Some(Kind::Host { .. }) => {
                if host {
                    self.0.insert(index, value);
                }
                true
            }
            Some(Kind::Partly { reset, fixed }) => {
                let old = self.0.get(&index).copied().unwrap_or(reset);
                if !host && (old ^ value) & fixed != 0 {
                    return false;
                }
                self.0.insert(index, value);
                true
            }
            Some(Kind::Ignore(_) | Kind::Command) => true,
            Some(Kind::Fixed(now)) => host && value == now,
            None => false,
        }
    }

    /// CPUID can only be made to fault where PLATFORM_INFO says so.
    fn allows(&self, index: u32, value: u64) -> bool {
        let faulting = self.read(PLATFORM_INFO).unwrap_or(0) & CPUID_FAULTING != 0;
        index != MISC_FEATURES || value & 1 == 0 || faulting
    }
}

/// KVM_X86_SET_MSR_FILTER.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Deny what no range names.
    pub default_deny: bool,
    /// Ranges.
    pub ranges: Vec<FilterRange>,
}

/// One range of a filter.
#[derive(Clone, Debug)]
pub struct FilterRange {
    /// First register.
    pub base: u32,
    /// How many.
    pub count: u32,
    /// Applies to reads.
    pub read: bool,
    /// Applies to writes.
    pub write: bool,
    /// A bit per register: set allows.
    pub bitmap: Vec<u8>,
}

impl Filter {
    /// Whether a guest's access goes on to the register (`kvm_msr_allowed`).
    pub fn allows(&self, index: u32, write: bool) -> bool {
        // x2APIC registers cannot be filtered.
        if (0x800..=0x8ff).contains(&index) {
            return true;
        }
        let range = self.ranges.iter().find(|range| {
            index.wrapping_sub(range.base) < range.count
                && if write { range.write } else { range.read }
        });
        match range {
            Some(range) => {
                let bit = index - range.base;
                range.bitmap.get((bit / 8) as usize).is_some_and(|b| b >> (bit % 8) & 1 != 0)
            }
            None => !self.default_deny,
        }
    }
}
