//! What the host's processor lacks.

use std::arch::x86_64::{__cpuid, __cpuid_count};

use iced_x86::{Code, CpuidFeature};

/// The first extension a form needs that the host lacks or hides.
///
/// What every processor of 64 bits has is not asked for, nor are forms that do nothing where they
/// mean nothing: prefetches, PAUSE, NOP and ENDBR64. ENCLU has a rule of its own.
pub fn lacking(code: Code) -> Option<CpuidFeature> {
    code.cpuid_features().iter().copied().find(|&feature| !present(feature))
}

fn present(feature: CpuidFeature) -> bool {
    use CpuidFeature as C;
    let basic = || __cpuid(1).ecx;
    let structured = || if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
    let extended = || __cpuid(0x8000_0001).ecx;
    let (register, bit) = match feature {
        C::SSE3 => (basic(), 0),
        C::PCLMULQDQ => (basic(), 1),
        C::SSSE3 => (basic(), 9),
        C::CMPXCHG16B => (basic(), 13),
        C::SSE4_1 => (basic(), 19),
        C::SSE4_2 => (basic(), 20),
        C::MOVBE => (basic(), 22),
        C::POPCNT => (basic(), 23),
        C::AES => (basic(), 25),
        C::BMI1 => (structured(), 3),
        C::BMI2 => (structured(), 8),
        C::ADX => (structured(), 19),
        C::CLFLUSHOPT => (structured(), 23),
        C::CLWB => (structured(), 24),
        C::SHA => (structured(), 29),
        C::LZCNT => (extended(), 5),
        _ => return true,
    };
    register >> bit & 1 != 0
}
