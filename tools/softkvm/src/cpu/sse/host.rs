//! Floating-point arithmetic on the host's SSE unit.
//!
//! Results and exception flags are those of the host processor, which IEEE 754 and the
//! architecture define exactly; only the approximations (RCPPS, RSQRTPS and their scalar forms)
//! differ between vendors.
//!
//! UNSAFETY: inline assembly. Every block loads the guest's rounding, DAZ and FTZ modes into MXCSR
//! with all exceptions masked, runs one instruction on register operands, reads the flags back and
//! restores the host's MXCSR before it ends. Memory is touched only through references to two
//! locals that hold the MXCSR values. Blocks with SSE3 and SSE4.1 instructions run only after
//! the host has been asked for them.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::__m128i;

use iced_x86::Mnemonic;

/// MXCSR: all exceptions masked.
const MASKED: u32 = 0x1f80;
/// MXCSR: rounding, FTZ and DAZ.
const MODES: u32 = 0xe040;
/// MXCSR: the six exception flags.
const FLAGS: u32 = 0x3f;

fn vector(v: u128) -> __m128i {
    // SAFETY: both are 16 bytes of plain data.
    unsafe { std::mem::transmute::<u128, __m128i>(v) }
}

fn bits(v: __m128i) -> u128 {
    // SAFETY: both are 16 bytes of plain data.
    unsafe { std::mem::transmute::<__m128i, u128>(v) }
}

/// `op xmm, xmm`: evaluates to result and flags.
macro_rules! xmm {
    ($op:expr, $a:expr, $b:expr, $csr:expr) => {{
        let mut a = vector($a);
        let mut guest: u32 = $csr & MODES | MASKED;
        let host: u32 = 0;
        // SAFETY: see the module's comment; only `guest` and `host` are addressed.
        unsafe {
            asm!(
                "stmxcsr dword ptr [{host}]",
                "ldmxcsr dword ptr [{guest}]",
                $op,
                "stmxcsr dword ptr [{guest}]",
                "ldmxcsr dword ptr [{host}]",
                host = in(reg) &host,
                guest = in(reg) &mut guest,
                a = inout(xmm_reg) a,
                b = in(xmm_reg) vector($b),
                options(nostack),
            );
        }
        (bits(a), guest & FLAGS)
    }};
}

/// `op` with the predicate or rounding mode `imm` as a literal.
macro_rules! by_immediate {
    ($op:literal, $imm:expr, $a:expr, $b:expr, $csr:expr, $($n:literal)*) => {
        match $imm {
            $($n => xmm!(concat!($op, " {a}, {b}, ", $n), $a, $b, $csr),)*
            _ => ($a, 0),
        }
    };
}

/// An arithmetic or conversion instruction between XMM registers.
pub fn binary(mnemonic: Mnemonic, a: u128, b: u128, csr: u32) -> Option<(u128, u32)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Addps => xmm!("addps {a}, {b}", a, b, csr),
        M::Addpd => xmm!("addpd {a}, {b}", a, b, csr),
        M::Addss => xmm!("addss {a}, {b}", a, b, csr),
        M::Addsd => xmm!("addsd {a}, {b}", a, b, csr),
        M::Subps => xmm!("subps {a}, {b}", a, b, csr),
        M::Subpd => xmm!("subpd {a}, {b}", a, b, csr),
        M::Subss => xmm!("subss {a}, {b}", a, b, csr),
        M::Subsd => xmm!("subsd {a}, {b}", a, b, csr),
        M::Mulps => xmm!("mulps {a}, {b}", a, b, csr),
        M::Mulpd => xmm!("mulpd {a}, {b}", a, b, csr),
        M::Mulss => xmm!("mulss {a}, {b}", a, b, csr),
        M::Mulsd => xmm!("mulsd {a}, {b}", a, b, csr),
        M::Divps => xmm!("divps {a}, {b}", a, b, csr),
        M::Divpd => xmm!("divpd {a}, {b}", a, b, csr),
        M::Divss => xmm!("divss {a}, {b}", a, b, csr),
        M::Divsd => xmm!("divsd {a}, {b}", a, b, csr),
        M::Minps => xmm!("minps {a}, {b}", a, b, csr),
        M::Minpd => xmm!("minpd {a}, {b}", a, b, csr),
        M::Minss => xmm!("minss {a}, {b}", a, b, csr),
        M::Minsd => xmm!("minsd {a}, {b}", a, b, csr),
        M::Maxps => xmm!("maxps {a}, {b}", a, b, csr),
        M::Maxpd => xmm!("maxpd {a}, {b}", a, b, csr),
        M::Maxss => xmm!("maxss {a}, {b}", a, b, csr),
        M::Maxsd => xmm!("maxsd {a}, {b}", a, b, csr),
        M::Sqrtps => xmm!("sqrtps {a}, {b}", a, b, csr),
        M::Sqrtpd => xmm!("sqrtpd {a}, {b}", a, b, csr),
        M::Sqrtss => xmm!("sqrtss {a}, {b}", a, b, csr),
        M::Sqrtsd => xmm!("sqrtsd {a}, {b}", a, b, csr),
        M::Rcpps => xmm!("rcpps {a}, {b}", a, b, csr),
        M::Rcpss => xmm!("rcpss {a}, {b}", a, b, csr),
        M::Rsqrtps => xmm!("rsqrtps {a}, {b}", a, b, csr),
        M::Rsqrtss => xmm!("rsqrtss {a}, {b}", a, b, csr),
        _ => return convert(mnemonic, a, b, csr).or_else(|| horizontal(mnemonic, a, b, csr)),
    })
}

fn convert(mnemonic: Mnemonic, a: u128, b: u128, csr: u32) -> Option<(u128, u32)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Cvtdq2ps => xmm!("cvtdq2ps {a}, {b}", a, b, csr),
        M::Cvtdq2pd => xmm!("cvtdq2pd {a}, {b}", a, b, csr),
        M::Cvtps2dq => xmm!("cvtps2dq {a}, {b}", a, b, csr),
        M::Cvttps2dq => xmm!("cvttps2dq {a}, {b}", a, b, csr),
        M::Cvtpd2dq => xmm!("cvtpd2dq {a}, {b}", a, b, csr),
        M::Cvttpd2dq => xmm!("cvttpd2dq {a}, {b}", a, b, csr),
        M::Cvtps2pd => xmm!("cvtps2pd {a}, {b}", a, b, csr),
        M::Cvtpd2ps => xmm!("cvtpd2ps {a}, {b}", a, b, csr),
        M::Cvtss2sd => xmm!("cvtss2sd {a}, {b}", a, b, csr),
        M::Cvtsd2ss => xmm!("cvtsd2ss {a}, {b}", a, b, csr),
        _ => return None,
    })
}

fn horizontal(mnemonic: Mnemonic, a: u128, b: u128, csr: u32) -> Option<(u128, u32)> {
    use Mnemonic as M;
    if !std::is_x86_feature_detected!("sse3") {
        return None;
    }
    Some(match mnemonic {
        M::Addsubps => xmm!("addsubps {a}, {b}", a, b, csr),
        M::Addsubpd => xmm!("addsubpd {a}, {b}", a, b, csr),
        M::Haddps => xmm!("haddps {a}, {b}", a, b, csr),
        M::Haddpd => xmm!("haddpd {a}, {b}", a, b, csr),
        M::Hsubps => xmm!("hsubps {a}, {b}", a, b, csr),
        M::Hsubpd => xmm!("hsubpd {a}, {b}", a, b, csr),
        _ => return None,
    })
}

/// A comparison with a predicate (bits 2:0 of `imm`).
pub fn compare(mnemonic: Mnemonic, a: u128, b: u128, imm: u8, csr: u32) -> Option<(u128, u32)> {
    use Mnemonic as M;
    let imm = imm & 7;
    Some(match mnemonic {
        M::Cmpps => by_immediate!("cmpps", imm, a, b, csr, 0 1 2 3 4 5 6 7),
        M::Cmppd => by_immediate!("cmppd", imm, a, b, csr, 0 1 2 3 4 5 6 7),
        M::Cmpss => by_immediate!("cmpss", imm, a, b, csr, 0 1 2 3 4 5 6 7),
        M::Cmpsd => by_immediate!("cmpsd", imm, a, b, csr, 0 1 2 3 4 5 6 7),
        _ => return None,
    })
}

/// SSE4.1 rounding (bits 3:0 of `imm`).
pub fn round(mnemonic: Mnemonic, a: u128, b: u128, imm: u8, csr: u32) -> Option<(u128, u32)> {
    use Mnemonic as M;
    if !std::is_x86_feature_detected!("sse4.1") {
        return None;
    }
    let imm = imm & 15;
    Some(match mnemonic {
        M::Roundps => {
            by_immediate!("roundps", imm, a, b, csr, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
        }
        M::Roundpd => {
            by_immediate!("roundpd", imm, a, b, csr, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
        }
        M::Roundss => {
            by_immediate!("roundss", imm, a, b, csr, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
        }
        M::Roundsd => {
            by_immediate!("roundsd", imm, a, b, csr, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
        }
        _ => return None,
    })
}

/// COMISS and its like: ZF, PF and CF as in RFLAGS, and exception flags.
pub fn ordered(mnemonic: Mnemonic, a: u128, b: u128, csr: u32) -> Option<(u64, u32)> {
    use Mnemonic as M;
    macro_rules! flags {
        ($op:literal) => {{
            let mut guest: u32 = csr & MODES | MASKED;
            let host: u32 = 0;
            let (mut z, mut p, mut c) = (0u8, 0u8, 0u8);
            // SAFETY: see the module's comment; only `guest` and `host` are addressed.
            unsafe {
                asm!(
                    "stmxcsr dword ptr [{host}]",
                    "ldmxcsr dword ptr [{guest}]",
                    concat!($op, " {a}, {b}"),
                    "setz {z}",
                    "setp {p}",
                    "setc {c}",
                    "stmxcsr dword ptr [{guest}]",
                    "ldmxcsr dword ptr [{host}]",
                    host = in(reg) &host,
                    guest = in(reg) &mut guest,
                    a = in(xmm_reg) vector(a),
                    b = in(xmm_reg) vector(b),
                    z = inout(reg_byte) z,
                    p = inout(reg_byte) p,
                    c = inout(reg_byte) c,
                    options(nostack),
                );
            }
            (u64::from(z) << 6 | u64::from(p) << 2 | u64::from(c), guest & FLAGS)
        }};
    }
    Some(match mnemonic {
        M::Comiss => flags!("comiss"),
        M::Comisd => flags!("comisd"),
        M::Ucomiss => flags!("ucomiss"),
        M::Ucomisd => flags!("ucomisd"),
        _ => return None,
    })
}

/// Conversion of a 32- or 64-bit integer (sign-extended in `b`) to the low lane of `a`.
pub fn from_integer(
    mnemonic: Mnemonic,
    a: u128,
    b: u64,
    wide: bool,
    csr: u32,
) -> Option<(u128, u32)> {
    macro_rules! from {
        ($op:literal) => {{
            let mut a = vector(a);
            let mut guest: u32 = csr & MODES | MASKED;
            let host: u32 = 0;
            // SAFETY: see the module's comment; only `guest` and `host` are addressed.
            unsafe {
                asm!(
                    "stmxcsr dword ptr [{host}]",
                    "ldmxcsr dword ptr [{guest}]",
                    $op,
                    "stmxcsr dword ptr [{guest}]",
                    "ldmxcsr dword ptr [{host}]",
                    host = in(reg) &host,
                    guest = in(reg) &mut guest,
                    a = inout(xmm_reg) a,
                    b = in(reg) b,
                    options(nostack),
                );
            }
            (bits(a), guest & FLAGS)
        }};
    }
    Some(match (mnemonic, wide) {
        (Mnemonic::Cvtsi2ss, false) => from!("cvtsi2ss {a}, {b:e}"),
        (Mnemonic::Cvtsi2ss, true) => from!("cvtsi2ss {a}, {b}"),
        (Mnemonic::Cvtsi2sd, false) => from!("cvtsi2sd {a}, {b:e}"),
        (Mnemonic::Cvtsi2sd, true) => from!("cvtsi2sd {a}, {b}"),
        _ => return None,
    })
}

/// Conversion of the low lane of `b` to a 32- or 64-bit integer.
pub fn to_integer(mnemonic: Mnemonic, b: u128, wide: bool, csr: u32) -> Option<(u64, u32)> {
    macro_rules! to {
        ($op:literal) => {{
            let mut guest: u32 = csr & MODES | MASKED;
            let host: u32 = 0;
            let result: u64;
            // SAFETY: see the module's comment; only `guest` and `host` are addressed.
            unsafe {
                asm!(
                    "stmxcsr dword ptr [{host}]",
                    "ldmxcsr dword ptr [{guest}]",
                    $op,
                    "stmxcsr dword ptr [{guest}]",
                    "ldmxcsr dword ptr [{host}]",
                    host = in(reg) &host,
                    guest = in(reg) &mut guest,
                    b = in(xmm_reg) vector(b),
                    r = out(reg) result,
                    options(nostack),
                );
            }
            (result, guest & FLAGS)
        }};
    }
    Some(match (mnemonic, wide) {
        (Mnemonic::Cvtss2si, false) => to!("cvtss2si {r:e}, {b}"),
        (Mnemonic::Cvtss2si, true) => to!("cvtss2si {r}, {b}"),
        (Mnemonic::Cvttss2si, false) => to!("cvttss2si {r:e}, {b}"),
        (Mnemonic::Cvttss2si, true) => to!("cvttss2si {r}, {b}"),
        (Mnemonic::Cvtsd2si, false) => to!("cvtsd2si {r:e}, {b}"),
        (Mnemonic::Cvtsd2si, true) => to!("cvtsd2si {r}, {b}"),
        (Mnemonic::Cvttsd2si, false) => to!("cvttsd2si {r:e}, {b}"),
        (Mnemonic::Cvttsd2si, true) => to!("cvttsd2si {r}, {b}"),
        _ => return None,
    })
}
