//! x87 instructions on the host's x87 unit.
//!
//! The guest's registers, control, status and tag words are loaded, one instruction runs, and the
//! state is read back, so stack faults, condition codes and rounding are the hardware's own. An
//! unmasked exception is only recorded by the instruction that raises it; it would be reported by
//! the next waiting one, which never comes: the state leaves by FNSAVE. Transcendental results
//! may differ in the last place between processor vendors.
//!
//! UNSAFETY: inline assembly. Every block keeps the host's control word, loads the guest's
//! environment with FRSTOR from a local, runs one instruction (with at most one 16-byte local as
//! its memory operand), stores the environment to the same local with FNSAVE, which also empties
//! the host's register stack, and restores the host's control word.
#![allow(unsafe_code)]

use std::arch::asm;

use iced_x86::Code;

use crate::cpu::state::Fpu;

/// The 32-bit protected-mode FNSAVE image, which 64-bit code also uses.
#[repr(C, align(16))]
struct Image {
    fcw: u32,
    fsw: u32,
    ftw: u32,
    pointers: [u32; 4],
    st: [u8; 80],
}

impl Image {
    fn load(fpu: &Fpu) -> Self {
        let mut image = Self {
            fcw: u32::from(fpu.fcw),
            fsw: u32::from(fpu.fsw),
            ftw: 0,
            pointers: [0; 4],
            st: [0; 80],
        };
        let top = fpu.top();
        for i in 0..8 {
            // The processor derives the other tag values from the contents.
            if fpu.ftw >> i & 1 == 0 {
                image.ftw |= 3 << (2 * i);
            }
            let bytes = fpu.st[(top + i) & 7].to_le_bytes();
            image.st[10 * i..10 * (i + 1)].copy_from_slice(&bytes[..10]);
        }
        image
    }

    fn store(&self, fpu: &mut Fpu) {
        fpu.fcw = self.fcw as u16;
        fpu.fsw = self.fsw as u16;
        fpu.ftw = 0;
        let top = fpu.top();
        for i in 0..8 {
            if self.ftw >> (2 * i) & 3 != 3 {
                fpu.ftw |= 1 << i;
            }
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&self.st[10 * i..10 * (i + 1)]);
            fpu.st[(top + i) & 7] = u128::from_le_bytes(bytes);
        }
    }
}

/// Runs one instruction without memory operand.
macro_rules! run {
    ($fpu:expr, $op:expr) => {{
        let mut image = Image::load($fpu);
        let host: u16 = 0;
        // SAFETY: see the module's comment; `image` has the 108 bytes of the FNSAVE format.
        unsafe {
            asm!(
                "fnstcw word ptr [{host}]",
                "frstor [{image}]",
                $op,
                "fnsave [{image}]",
                "fldcw word ptr [{host}]",
                host = in(reg) &host,
                image = in(reg) &mut image,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack),
            );
        }
        image.store($fpu);
    }};
}

/// Runs one instruction with `buffer` as memory operand.
macro_rules! run_memory {
    ($fpu:expr, $buffer:expr, $op:literal) => {{
        let mut image = Image::load($fpu);
        let host: u16 = 0;
        // SAFETY: see the module's comment; `image` has the 108 bytes of the FNSAVE format and no
        // operand is longer than the buffer's 16 bytes.
        unsafe {
            asm!(
                "fnstcw word ptr [{host}]",
                "frstor [{image}]",
                concat!($op, " ptr [{memory}]"),
                "fnsave [{image}]",
                "fldcw word ptr [{host}]",
                host = in(reg) &host,
                image = in(reg) &mut image,
                memory = in(reg) &mut *$buffer,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack),
            );
        }
        image.store($fpu);
    }};
}

/// Runs an instruction whose text names ST(i) between two literals.
macro_rules! indexed {
    ($fpu:expr, $i:expr, $before:literal, $after:literal) => {
        match $i & 7 {
            0 => run!($fpu, concat!($before, 0, $after)),
            1 => run!($fpu, concat!($before, 1, $after)),
            2 => run!($fpu, concat!($before, 2, $after)),
            3 => run!($fpu, concat!($before, 3, $after)),
            4 => run!($fpu, concat!($before, 4, $after)),
            5 => run!($fpu, concat!($before, 5, $after)),
            6 => run!($fpu, concat!($before, 6, $after)),
            _ => run!($fpu, concat!($before, 7, $after)),
        }
    };
}

/// Arithmetic between ST(0) and ST(`i`); false if the instruction is not one.
pub fn arithmetic(code: Code, i: usize, fpu: &mut Fpu) -> bool {
    match code {
        Code::Fadd_st0_sti => indexed!(fpu, i, "fadd st(0), st(", ")"),
        Code::Fmul_st0_sti => indexed!(fpu, i, "fmul st(0), st(", ")"),
        Code::Fsub_st0_sti => indexed!(fpu, i, "fsub st(0), st(", ")"),
        Code::Fsubr_st0_sti => indexed!(fpu, i, "fsubr st(0), st(", ")"),
        Code::Fdiv_st0_sti => indexed!(fpu, i, "fdiv st(0), st(", ")"),
        Code::Fdivr_st0_sti => indexed!(fpu, i, "fdivr st(0), st(", ")"),
        Code::Fadd_sti_st0 => indexed!(fpu, i, "fadd st(", "), st(0)"),
        Code::Fmul_sti_st0 => indexed!(fpu, i, "fmul st(", "), st(0)"),
        // With ST(0) as both operands the assembler may choose either encoding; bytes decide.
        Code::Fsub_sti_st0 => indexed!(fpu, i, ".byte 0xdc, 0xe8 + ", ""),
        Code::Fsubr_sti_st0 => indexed!(fpu, i, ".byte 0xdc, 0xe0 + ", ""),
        Code::Fdiv_sti_st0 => indexed!(fpu, i, ".byte 0xdc, 0xf8 + ", ""),
        Code::Fdivr_sti_st0 => indexed!(fpu, i, ".byte 0xdc, 0xf0 + ", ""),
        Code::Faddp_sti_st0 => indexed!(fpu, i, ".byte 0xde, 0xc0 + ", ""),
        Code::Fmulp_sti_st0 => indexed!(fpu, i, ".byte 0xde, 0xc8 + ", ""),
        Code::Fsubrp_sti_st0 => indexed!(fpu, i, ".byte 0xde, 0xe0 + ", ""),
        Code::Fsubp_sti_st0 => indexed!(fpu, i, ".byte 0xde, 0xe8 + ", ""),
        Code::Fdivrp_sti_st0 => indexed!(fpu, i, ".byte 0xde, 0xf0 + ", ""),
        Code::Fdivp_sti_st0 => indexed!(fpu, i, ".byte 0xde, 0xf8 + ", ""),
        _ => return false,
    }
    true
}

/// Stack moves and comparisons into the status word with ST(`i`).
pub fn stack(code: Code, i: usize, fpu: &mut Fpu) -> bool {
    match code {
        Code::Fcom_st0_sti | Code::Fcom_st0_sti_DCD0 => indexed!(fpu, i, "fcom st(", ")"),
        Code::Fcomp_st0_sti | Code::Fcomp_st0_sti_DCD8 | Code::Fcomp_st0_sti_DED0 => {
            indexed!(fpu, i, "fcomp st(", ")")
        }
        Code::Fucom_st0_sti => indexed!(fpu, i, "fucom st(", ")"),
        Code::Fucomp_st0_sti => indexed!(fpu, i, "fucomp st(", ")"),
        Code::Fld_sti => indexed!(fpu, i, "fld st(", ")"),
        Code::Fst_sti => indexed!(fpu, i, "fst st(", ")"),
        Code::Fstp_sti | Code::Fstp_sti_DFD0 | Code::Fstp_sti_DFD8 => {
            indexed!(fpu, i, "fstp st(", ")")
        }
        Code::Fstpnce_sti => indexed!(fpu, i, ".byte 0xd9, 0xd8 + ", ""),
        Code::Fxch_st0_sti | Code::Fxch_st0_sti_DDC8 | Code::Fxch_st0_sti_DFC8 => {
            indexed!(fpu, i, "fxch st(", ")")
        }
        Code::Ffree_sti => indexed!(fpu, i, "ffree st(", ")"),
        Code::Ffreep_sti => indexed!(fpu, i, ".byte 0xdf, 0xc0 + ", ""),
        _ => return false,
    }
    true
}

/// Instructions without operands.
pub fn plain(code: Code, fpu: &mut Fpu) -> bool {
    match code {
        Code::Fchs => run!(fpu, "fchs"),
        Code::Fabs => run!(fpu, "fabs"),
        Code::Ftst => run!(fpu, "ftst"),
        Code::Fxam => run!(fpu, "fxam"),
        Code::Fld1 => run!(fpu, "fld1"),
        Code::Fldl2t => run!(fpu, "fldl2t"),
        Code::Fldl2e => run!(fpu, "fldl2e"),
        Code::Fldpi => run!(fpu, "fldpi"),
        Code::Fldlg2 => run!(fpu, "fldlg2"),
        Code::Fldln2 => run!(fpu, "fldln2"),
        Code::Fldz => run!(fpu, "fldz"),
        Code::F2xm1 => run!(fpu, "f2xm1"),
        Code::Fyl2x => run!(fpu, "fyl2x"),
        Code::Fptan => run!(fpu, "fptan"),
        Code::Fpatan => run!(fpu, "fpatan"),
        Code::Fxtract => run!(fpu, "fxtract"),
        Code::Fprem1 => run!(fpu, "fprem1"),
        Code::Fdecstp => run!(fpu, "fdecstp"),
        Code::Fincstp => run!(fpu, "fincstp"),
        Code::Fprem => run!(fpu, "fprem"),
        Code::Fyl2xp1 => run!(fpu, "fyl2xp1"),
        Code::Fsqrt => run!(fpu, "fsqrt"),
        Code::Fsincos => run!(fpu, "fsincos"),
        Code::Frndint => run!(fpu, "frndint"),
        Code::Fscale => run!(fpu, "fscale"),
        Code::Fsin => run!(fpu, "fsin"),
        Code::Fcos => run!(fpu, "fcos"),
        Code::Fcompp => run!(fpu, "fcompp"),
        Code::Fucompp => run!(fpu, "fucompp"),
        Code::Fnop => run!(fpu, "fnop"),
        _ => return false,
    }
    true
}

/// Instructions that read `buffer`: arithmetic, comparisons and loads.
pub fn load(code: Code, buffer: &mut [u8; 16], fpu: &mut Fpu) -> bool {
    match code {
        Code::Fadd_m32fp => run_memory!(fpu, buffer, "fadd dword"),
        Code::Fmul_m32fp => run_memory!(fpu, buffer, "fmul dword"),
        Code::Fcom_m32fp => run_memory!(fpu, buffer, "fcom dword"),
        Code::Fcomp_m32fp => run_memory!(fpu, buffer, "fcomp dword"),
        Code::Fsub_m32fp => run_memory!(fpu, buffer, "fsub dword"),
        Code::Fsubr_m32fp => run_memory!(fpu, buffer, "fsubr dword"),
        Code::Fdiv_m32fp => run_memory!(fpu, buffer, "fdiv dword"),
        Code::Fdivr_m32fp => run_memory!(fpu, buffer, "fdivr dword"),
        Code::Fadd_m64fp => run_memory!(fpu, buffer, "fadd qword"),
        Code::Fmul_m64fp => run_memory!(fpu, buffer, "fmul qword"),
        Code::Fcom_m64fp => run_memory!(fpu, buffer, "fcom qword"),
        Code::Fcomp_m64fp => run_memory!(fpu, buffer, "fcomp qword"),
        Code::Fsub_m64fp => run_memory!(fpu, buffer, "fsub qword"),
        Code::Fsubr_m64fp => run_memory!(fpu, buffer, "fsubr qword"),
        Code::Fdiv_m64fp => run_memory!(fpu, buffer, "fdiv qword"),
        Code::Fdivr_m64fp => run_memory!(fpu, buffer, "fdivr qword"),
        Code::Fld_m32fp => run_memory!(fpu, buffer, "fld dword"),
        Code::Fld_m64fp => run_memory!(fpu, buffer, "fld qword"),
        Code::Fld_m80fp => run_memory!(fpu, buffer, "fld tbyte"),
        _ => return load_integer(code, buffer, fpu),
    }
    true
}

fn load_integer(code: Code, buffer: &mut [u8; 16], fpu: &mut Fpu) -> bool {
    match code {
        Code::Fiadd_m32int => run_memory!(fpu, buffer, "fiadd dword"),
        Code::Fimul_m32int => run_memory!(fpu, buffer, "fimul dword"),
        Code::Ficom_m32int => run_memory!(fpu, buffer, "ficom dword"),
        Code::Ficomp_m32int => run_memory!(fpu, buffer, "ficomp dword"),
        Code::Fisub_m32int => run_memory!(fpu, buffer, "fisub dword"),
        Code::Fisubr_m32int => run_memory!(fpu, buffer, "fisubr dword"),
        Code::Fidiv_m32int => run_memory!(fpu, buffer, "fidiv dword"),
        Code::Fidivr_m32int => run_memory!(fpu, buffer, "fidivr dword"),
        Code::Fiadd_m16int => run_memory!(fpu, buffer, "fiadd word"),
        Code::Fimul_m16int => run_memory!(fpu, buffer, "fimul word"),
        Code::Ficom_m16int => run_memory!(fpu, buffer, "ficom word"),
        Code::Ficomp_m16int => run_memory!(fpu, buffer, "ficomp word"),
        Code::Fisub_m16int => run_memory!(fpu, buffer, "fisub word"),
        Code::Fisubr_m16int => run_memory!(fpu, buffer, "fisubr word"),
        Code::Fidiv_m16int => run_memory!(fpu, buffer, "fidiv word"),
        Code::Fidivr_m16int => run_memory!(fpu, buffer, "fidivr word"),
        Code::Fild_m16int => run_memory!(fpu, buffer, "fild word"),
        Code::Fild_m32int => run_memory!(fpu, buffer, "fild dword"),
        Code::Fild_m64int => run_memory!(fpu, buffer, "fild qword"),
        Code::Fbld_m80bcd => run_memory!(fpu, buffer, "fbld tbyte"),
        _ => return false,
    }
    true
}

/// Instructions that write `buffer`.
pub fn store(code: Code, buffer: &mut [u8; 16], fpu: &mut Fpu) -> bool {
    match code {
        Code::Fst_m32fp => run_memory!(fpu, buffer, "fst dword"),
        Code::Fst_m64fp => run_memory!(fpu, buffer, "fst qword"),
        Code::Fstp_m32fp => run_memory!(fpu, buffer, "fstp dword"),
        Code::Fstp_m64fp => run_memory!(fpu, buffer, "fstp qword"),
        Code::Fstp_m80fp => run_memory!(fpu, buffer, "fstp tbyte"),
        Code::Fist_m16int => run_memory!(fpu, buffer, "fist word"),
        Code::Fist_m32int => run_memory!(fpu, buffer, "fist dword"),
        Code::Fistp_m16int => run_memory!(fpu, buffer, "fistp word"),
        Code::Fistp_m32int => run_memory!(fpu, buffer, "fistp dword"),
        Code::Fistp_m64int => run_memory!(fpu, buffer, "fistp qword"),
        // FISTTP came with SSE3, which every processor that runs SEV-SNP guests or this program
        // at all (x86-64 with CMPXCHG16B) has.
        Code::Fisttp_m16int => run_memory!(fpu, buffer, "fisttp word"),
        Code::Fisttp_m32int => run_memory!(fpu, buffer, "fisttp dword"),
        Code::Fisttp_m64int => run_memory!(fpu, buffer, "fisttp qword"),
        Code::Fbstp_m80bcd => run_memory!(fpu, buffer, "fbstp tbyte"),
        _ => return false,
    }
    true
}

/// FCOMI and its like: ZF, PF and CF as in RFLAGS.
pub fn compare_flags(code: Code, i: usize, fpu: &mut Fpu) -> Option<u64> {
    macro_rules! flags {
        ($op:expr) => {{
            let mut image = Image::load(fpu);
            let host: u16 = 0;
            let (mut z, mut p, mut c) = (0u8, 0u8, 0u8);
            // SAFETY: see the module's comment; `image` has the 108 bytes of the FNSAVE format.
            unsafe {
                asm!(
                    "fnstcw word ptr [{host}]",
                    "frstor [{image}]",
                    $op,
                    "setz {z}",
                    "setp {p}",
                    "setc {c}",
                    "fnsave [{image}]",
                    "fldcw word ptr [{host}]",
                    host = in(reg) &host,
                    image = in(reg) &mut image,
                    z = inout(reg_byte) z,
                    p = inout(reg_byte) p,
                    c = inout(reg_byte) c,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                    options(nostack),
                );
            }
            image.store(fpu);
            Some(u64::from(z) << 6 | u64::from(p) << 2 | u64::from(c))
        }};
    }
    macro_rules! by_index {
        ($op:literal) => {
            match i & 7 {
                0 => flags!(concat!($op, " st(0), st(0)")),
                1 => flags!(concat!($op, " st(0), st(1)")),
                2 => flags!(concat!($op, " st(0), st(2)")),
                3 => flags!(concat!($op, " st(0), st(3)")),
                4 => flags!(concat!($op, " st(0), st(4)")),
                5 => flags!(concat!($op, " st(0), st(5)")),
                6 => flags!(concat!($op, " st(0), st(6)")),
                _ => flags!(concat!($op, " st(0), st(7)")),
            }
        };
    }
    match code {
        Code::Fcomi_st0_sti => by_index!("fcomi"),
        Code::Fcomip_st0_sti => by_index!("fcompi"),
        Code::Fucomi_st0_sti => by_index!("fucomi"),
        Code::Fucomip_st0_sti => by_index!("fucompi"),
        _ => None,
    }
}

/// FCMOVcc with its condition evaluated.
pub fn conditional_move(condition: bool, i: usize, fpu: &mut Fpu) {
    // The comparison of a register with itself sets ZF: FCMOVE then moves, FCMOVNE does not.
    macro_rules! moved {
        ($n:literal) => {
            if condition {
                run!(fpu, concat!("cmp esp, esp\nfcmove st(0), st(", $n, ")"))
            } else {
                run!(fpu, concat!("cmp esp, esp\nfcmovne st(0), st(", $n, ")"))
            }
        };
    }
    match i & 7 {
        0 => moved!(0),
        1 => moved!(1),
        2 => moved!(2),
        3 => moved!(3),
        4 => moved!(4),
        5 => moved!(5),
        6 => moved!(6),
        _ => moved!(7),
    }
}
