//! Instruction-set extensions that the guest's CPUID offers, and which of them an instruction
//! needs.
//!
//! An instruction whose extension is hidden raises #UD, or is an older instruction in disguise
//! (`REP BSF`).

use bitflags::bitflags;
use iced_x86::{CpuidFeature, Instruction};

bitflags! {
    /// Extensions offered to the guest.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// SSE3.
        const SSE3 = 1 << 0;
        /// PCLMULQDQ.
        const PCLMULQDQ = 1 << 1;
        /// MONITOR and MWAIT.
        const MONITOR = 1 << 2;
        /// SSSE3.
        const SSSE3 = 1 << 3;
        /// FMA.
        const FMA = 1 << 4;
        /// CMPXCHG16B.
        const CX16 = 1 << 5;
        /// PCID.
        const PCID = 1 << 6;
        /// SSE4.1.
        const SSE4_1 = 1 << 7;
        /// SSE4.2.
        const SSE4_2 = 1 << 8;
        /// MOVBE.
        const MOVBE = 1 << 9;
        /// POPCNT.
        const POPCNT = 1 << 10;
        /// AES instructions.
        const AES = 1 << 11;
        /// XSAVE, XGETBV and CR4.OSXSAVE.
        const XSAVE = 1 << 12;
        /// AVX.
        const AVX = 1 << 13;
        /// F16C.
        const F16C = 1 << 14;
        /// RDRAND.
        const RDRAND = 1 << 15;
        /// RDFSBASE and friends.
        const FSGSBASE = 1 << 16;
        /// BMI1, and with it TZCNT.
        const BMI1 = 1 << 17;
        /// AVX2.
        const AVX2 = 1 << 18;
        /// SMEP.
        const SMEP = 1 << 19;
        /// BMI2.
        const BMI2 = 1 << 20;
        /// INVPCID.
        const INVPCID = 1 << 21;
        /// RDSEED.
        const RDSEED = 1 << 22;
        /// ADCX and ADOX.
        const ADX = 1 << 23;
        /// SMAP.
        const SMAP = 1 << 24;
        /// CLFLUSHOPT.
        const CLFLUSHOPT = 1 << 25;
        /// CLWB.
        const CLWB = 1 << 26;
        /// SHA instructions.
        const SHA = 1 << 27;
        /// UMIP.
        const UMIP = 1 << 28;
        /// PKU.
        const PKU = 1 << 29;
        /// RDPID.
        const RDPID = 1 << 30;
        /// LA57.
        const LA57 = 1 << 31;
        /// SYSCALL.
        const SYSCALL = 1 << 32;
        /// No-execute pages.
        const NX = 1 << 33;
        /// RDTSCP.
        const RDTSCP = 1 << 34;
        /// LAHF and SAHF in 64-bit mode.
        const LAHF_LM = 1 << 35;
        /// SVM.
        const SVM = 1 << 36;
        /// LZCNT.
        const LZCNT = 1 << 37;
        /// SSE4A.
        const SSE4A = 1 << 38;
        /// Fast FXSAVE.
        const FFXSR = 1 << 39;
        /// CLZERO.
        const CLZERO = 1 << 40;
        /// XSAVEOPT.
        const XSAVEOPT = 1 << 41;
        /// XSAVEC.
        const XSAVEC = 1 << 42;
        /// XSAVES, XRSTORS and IA32_XSS.
        const XSAVES = 1 << 43;
        /// SPEC_CTRL.
        const SPEC_CTRL = 1 << 44;
        /// WBNOINVD.
        const WBNOINVD = 1 << 45;
        /// Long mode.
        const LM = 1 << 46;
        /// The processor is an SEV-ES guest: VMGEXIT.
        const SEV_ES = 1 << 47;
        /// The processor is an SEV-SNP guest: PVALIDATE, RMPADJUST.
        const SEV_SNP = 1 << 48;
        /// SYSENTER works in long mode (vendors other than AMD).
        const SYSENTER_LM = 1 << 49;
        /// Automatic IBRS (EFER bit 21).
        const AUTO_IBRS = 1 << 50;
        /// GFNI.
        const GFNI = 1 << 51;
        /// VAES.
        const VAES = 1 << 52;
        /// VPCLMULQDQ.
        const VPCLMULQDQ = 1 << 53;
        /// RDPRU.
        const RDPRU = 1 << 54;
        /// MONITORX and MWAITX.
        const MONITORX = 1 << 55;
        /// XGETBV with ECX = 1.
        const XGETBV1 = 1 << 56;
        /// The processor is a guest of the TDX module: TDCALL.
        const TDX = 1 << 57;
        /// Never offered: what softkvm does not have at all.
        const ABSENT = 1 << 63;
    }
}

/// Which CPUID bit (leaf, subleaf, register, bit) offers which extension.
const CPUID_BITS: &[(u32, u32, usize, u32, Features)] = &[
    (1, 0, 2, 0, Features::SSE3),
    (1, 0, 2, 1, Features::PCLMULQDQ),
    (1, 0, 2, 3, Features::MONITOR),
    (1, 0, 2, 9, Features::SSSE3),
    (1, 0, 2, 12, Features::FMA),
    (1, 0, 2, 13, Features::CX16),
    (1, 0, 2, 17, Features::PCID),
    (1, 0, 2, 19, Features::SSE4_1),
    (1, 0, 2, 20, Features::SSE4_2),
    (1, 0, 2, 22, Features::MOVBE),
    (1, 0, 2, 23, Features::POPCNT),
    (1, 0, 2, 25, Features::AES),
    (1, 0, 2, 26, Features::XSAVE),
    (1, 0, 2, 28, Features::AVX),
    (1, 0, 2, 29, Features::F16C),
    (1, 0, 2, 30, Features::RDRAND),
    (7, 0, 1, 0, Features::FSGSBASE),
    (7, 0, 1, 3, Features::BMI1),
    (7, 0, 1, 5, Features::AVX2),
    (7, 0, 1, 7, Features::SMEP),
    (7, 0, 1, 8, Features::BMI2),
    (7, 0, 1, 10, Features::INVPCID),
    (7, 0, 1, 18, Features::RDSEED),
    (7, 0, 1, 19, Features::ADX),
    (7, 0, 1, 20, Features::SMAP),
    (7, 0, 1, 23, Features::CLFLUSHOPT),
    (7, 0, 1, 24, Features::CLWB),
    (7, 0, 1, 29, Features::SHA),
    (7, 0, 2, 2, Features::UMIP),
    (7, 0, 2, 3, Features::PKU),
    (7, 0, 2, 8, Features::GFNI),
    (7, 0, 2, 9, Features::VAES),
    (7, 0, 2, 10, Features::VPCLMULQDQ),
    (7, 0, 2, 16, Features::LA57),
    (7, 0, 2, 22, Features::RDPID),
    (7, 0, 3, 26, Features::SPEC_CTRL),
    (0xd, 1, 0, 0, Features::XSAVEOPT),
    (0xd, 1, 0, 1, Features::XSAVEC),
    (0xd, 1, 0, 2, Features::XGETBV1),
    (0xd, 1, 0, 3, Features::XSAVES),
    (0x8000_0001, 0, 2, 0, Features::LAHF_LM),
    (0x8000_0001, 0, 2, 2, Features::SVM),
    (0x8000_0001, 0, 2, 5, Features::LZCNT),
    (0x8000_0001, 0, 2, 6, Features::SSE4A),
    (0x8000_0001, 0, 2, 29, Features::MONITORX),
    (0x8000_0001, 0, 3, 11, Features::SYSCALL),
    (0x8000_0001, 0, 3, 20, Features::NX),
    (0x8000_0001, 0, 3, 25, Features::FFXSR),
    (0x8000_0001, 0, 3, 27, Features::RDTSCP),
    (0x8000_0001, 0, 3, 29, Features::LM),
    (0x8000_0008, 0, 1, 0, Features::CLZERO),
    (0x8000_0008, 0, 1, 4, Features::RDPRU),
    (0x8000_0008, 0, 1, 9, Features::WBNOINVD),
    (0x8000_0008, 0, 1, 14, Features::SPEC_CTRL),
    (0x8000_0021, 0, 0, 8, Features::AUTO_IBRS),
];

/// "AMD" as it ends the vendor string in ECX of leaf 0 ("cAMD").
const VENDOR_AMD_ECX: u32 = 0x444d_4163;

impl Default for Features {
    /// What every x86-64 processor of the first generation had.
    fn default() -> Self {
        Self::SYSCALL | Self::NX | Self::LM
    }
}

impl Features {
    /// Reads the extensions from CPUID. `cpuid` answers (leaf, subleaf) with EAX..EDX, zeros where
    /// there is no such leaf. The SEV bits are not part of CPUID's answer to a guest that runs
    /// without SEV on a machine that has it, so the caller adds them.
    pub fn from_cpuid(mut cpuid: impl FnMut(u32, u32) -> [u32; 4]) -> Self {
        let mut features = Self::empty();
        for &(leaf, subleaf, register, bit, feature) in CPUID_BITS {
            if cpuid(leaf, subleaf)[register] >> bit & 1 != 0 {
                features |= feature;
            }
        }
        if cpuid(0, 0)[2] != VENDOR_AMD_ECX {
            features |= Self::SYSENTER_LM;
        }
        features
    }

    /// Whether every extension that `insn` needs is offered. Extensions that all x86-64
    /// processors have are not looked at.
    pub fn offer(self, insn: &Instruction) -> bool {
        insn.cpuid_features().iter().all(|&feature| match required(feature) {
            Some(needed) => self.contains(needed),
            None => true,
        })
    }
}

/// The extension behind the decoder's name; `None` for what is always there.
fn required(feature: CpuidFeature) -> Option<Features> {
    use CpuidFeature as C;
    Some(match feature {
        C::INTEL8086
        | C::INTEL8086_ONLY
        | C::INTEL186
        | C::INTEL286
        | C::INTEL386
        | C::INTEL486
        | C::X64
        | C::CET_IBT
        | C::CLFSH
        | C::CMOV
        | C::CPUID
        | C::CX8
        | C::FPU
        | C::FPU287
        | C::FPU387
        | C::FXSR
        | C::MMX
        | C::MSR
        | C::MULTIBYTENOP
        | C::PAUSE
        | C::PREFETCHW
        | C::PREFETCHWT1
        | C::RDPMC
        | C::SEP
        | C::SSE
        | C::SSE2
        | C::TSC
        | C::CLDEMOTE
        | C::PREFETCHITI => return None,
        C::SSE3 => Features::SSE3,
        C::PCLMULQDQ => Features::PCLMULQDQ,
        C::MONITOR => Features::MONITOR,
        C::SSSE3 => Features::SSSE3,
        C::FMA => Features::FMA,
        C::CMPXCHG16B => Features::CX16,
        C::SSE4_1 => Features::SSE4_1,
        C::SSE4_2 => Features::SSE4_2,
        C::MOVBE => Features::MOVBE,
        C::POPCNT => Features::POPCNT,
        C::AES => Features::AES,
        C::XSAVE => Features::XSAVE,
        C::AVX => Features::AVX,
        C::F16C => Features::F16C,
        C::RDRAND => Features::RDRAND,
        C::FSGSBASE => Features::FSGSBASE,
        C::BMI1 => Features::BMI1,
        C::AVX2 => Features::AVX2,
        C::BMI2 => Features::BMI2,
        C::INVPCID => Features::INVPCID,
        C::RDSEED => Features::RDSEED,
        C::ADX => Features::ADX,
        C::SMAP => Features::SMAP,
        C::CLFLUSHOPT => Features::CLFLUSHOPT,
        C::CLWB => Features::CLWB,
        C::SHA => Features::SHA,
        C::PKU => Features::PKU,
        C::RDPID => Features::RDPID,
        C::SYSCALL => Features::SYSCALL,
        C::RDTSCP => Features::RDTSCP,
        C::SVM | C::SKINIT | C::SKINIT_or_SVM => Features::SVM,
        C::LZCNT => Features::LZCNT,
        C::SSE4A => Features::SSE4A,
        C::CLZERO => Features::CLZERO,
        C::XSAVEOPT => Features::XSAVEOPT,
        C::XSAVEC => Features::XSAVEC,
        C::XSAVES => Features::XSAVES,
        C::WBNOINVD => Features::WBNOINVD,
        C::SEV_SNP => Features::SEV_SNP,
        C::GFNI => Features::GFNI,
        C::VAES => Features::VAES,
        C::VPCLMULQDQ => Features::VPCLMULQDQ,
        C::RDPRU => Features::RDPRU,
        C::MONITORX => Features::MONITORX,
        C::TDX => Features::TDX,
        // VMGEXIT is VMMCALL outside SEV-ES guests; shadow-stack reads are NOPs when hidden.
        C::SEV_ES | C::CET_SS => return None,
        _ => Features::ABSENT,
    })
}
